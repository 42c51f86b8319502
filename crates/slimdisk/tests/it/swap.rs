//! Swap, and the sleeping systems that may need it: what one volume of a disk says
//! counts for the others.

use std::fs;
use std::path::PathBuf;

use slimdisk::compact::report::VolumeState::{Trusted, Unknown, Untrusted};
use slimdisk::compact::{Mode, Options, Outcome, Report};

use crate::end_to_end::{compact, quick};
use crate::ntfs::image::{mkntfs, mount};
use crate::support::{Noise, Scratch, have, sh};
use crate::vhd_model::{Shape, read_strictly};

const MIB: usize = 1 << 20;
const TOOLS: &[&str] =
    &["mke2fs", "debugfs", "e2fsck", "mkswap", "swaplabel", "sfdisk", "qemu-img"];

fn dropping() -> Options {
    let mut options = quick();
    options.allow.drop_swap = true;
    options
}

/// A disk with these volumes, one partition each, beginning at 1 MiB.
struct Disk {
    scratch: Scratch,
    volumes: Vec<Vec<u8>>,
    /// The number of a volume that is a part of a dynamic disk, by the table.
    dynamic: Option<usize>,
}

impl Disk {
    fn new(test: &str) -> Option<Disk> {
        have(test, TOOLS).then(|| Disk {
            scratch: Scratch::new(test),
            volumes: vec![],
            dynamic: None,
        })
    }

    /// Makes a volume in `$v` and adds it.
    fn add(&mut self, mib: usize, script: &str) {
        let path = self.scratch.path("volume");
        sh(&format!(
            "cd {}; v={}; rm -f $v; truncate -s {mib}M $v; {script}",
            self.scratch.dir().display(),
            path.display()
        ));
        self.push(fs::read(path).unwrap());
    }

    fn push(&mut self, mut volume: Vec<u8>) {
        volume.resize(volume.len().next_multiple_of(MIB), 0);
        self.volumes.push(volume);
    }

    /// An ext4 with a file in it, some space that was used once, and, if it was left
    /// in use, the marks of that.
    fn add_ext4(&mut self, in_use: bool) {
        fs::write(self.scratch.path("file"), Noise::new(1).bytes(5 * MIB)).unwrap();
        fs::write(self.scratch.path("old"), Noise::new(2).bytes(9 * MIB)).unwrap();
        self.add(
            24,
            "mke2fs -q -F -t ext4 -O ^has_journal $v
             debugfs -w -f - $v >/dev/null 2>&1 <<'END'\nwrite file file\nwrite old old\nrm old\nEND",
        );
        if in_use {
            self.volumes.last_mut().unwrap()[1024 + 0x3A] = 0;
            // The superblock's checksum.
            let superblock = &mut self.volumes.last_mut().unwrap()[1024..2048];
            let sum = !crc32c::crc32c(&superblock[..1020]);
            superblock[1020..].copy_from_slice(&sum.to_le_bytes());
        }
    }

    /// An ext4 whose journal is to be replayed, as that of a running system.
    fn add_running_ext4(&mut self) {
        self.add(
            24,
            "mke2fs -q -F -t ext4 -J size=4 $v
             debugfs -w -f - $v >/dev/null 2>&1 <<'END'
write file file\nwrite old old\nrm old\nfeature needs_recovery\nEND",
        );
    }

    /// Swap whose pages were written to.
    fn add_swap(&mut self) {
        self.add(16, "mkswap -q -L pages $v");
        let pages = &mut self.volumes.last_mut().unwrap()[4096..];
        let noise = Noise::new(3).bytes(pages.len());
        pages.copy_from_slice(&noise);
    }

    fn bytes(&self) -> Vec<u8> {
        let path = self.scratch.path("disk");
        let mut disk = vec![0; MIB];
        let mut table = String::new();
        for (number, volume) in self.volumes.iter().enumerate() {
            let kind = if self.dynamic == Some(number) { "42" } else { "83" };
            table += &format!("{},{},{kind}\n", disk.len() / 512, volume.len() / 512);
            disk.extend_from_slice(volume);
        }
        disk.extend_from_slice(&Noise::new(6).bytes(5 * MIB));
        disk.resize(disk.len() + 4 * MIB, 0);
        fs::write(&path, &disk).unwrap();
        sh(&format!("printf '{table}' | sfdisk -q {}", path.display()));
        fs::read(&path).unwrap()
    }

    /// Compacts the disk as a VHD; gives the report and the volumes after it.
    fn compacted(&self, options: &Options) -> (Report, Vec<Vec<u8>>) {
        let path = self.vhd();
        let report = compact(&path, options);
        assert_eq!(report.error, None);
        read_strictly(&fs::read(&path).unwrap()).unwrap();
        let raw = self.scratch.path("raw");
        sh(&format!(
            "qemu-img convert -f vpc -O raw {} {}",
            path.display(),
            raw.display()
        ));
        let bytes = fs::read(raw).unwrap();
        let mut at = MIB;
        let mut volumes = Vec::new();
        for volume in &self.volumes {
            volumes.push(bytes[at..at + volume.len()].to_vec());
            at += volume.len();
        }
        (report, volumes)
    }

    fn vhd(&self) -> PathBuf {
        let path = self.scratch.path("disk.vhd");
        fs::write(&path, Shape::of_disk(&self.bytes(), 2 * MIB, true, *b"win ")).unwrap();
        path
    }

    /// Has `check` look at a volume in `$v`.
    fn judge(&self, volume: &[u8], check: &str) -> String {
        let path = self.scratch.path("judged");
        fs::write(&path, volume).unwrap();
        sh(&format!("cd {}; v={}; {check}", self.scratch.dir().display(), path.display()))
    }
}

#[test]
fn goes_when_every_volume_is_at_rest() {
    let Some(mut disk) = Disk::new("swap_goes") else { return };
    disk.add_ext4(false);
    disk.add_swap();
    // A partition without anything in it is no volume.
    disk.push(vec![0; MIB]);
    let (kept, volumes) = disk.compacted(&quick());
    assert_eq!(kept.volumes[1].filesystem.as_deref(), Some("swap"));
    assert_eq!(kept.volumes[1].label.as_deref(), Some("pages"));
    assert_eq!(kept.volumes[1].swap_bytes, Some(16 * MIB as u64 - 4096));
    assert_eq!(kept.volumes[1].free_bytes, Some(0));
    assert!(volumes[1] == disk.volumes[1]);

    for mode in [Mode::Quick, Mode::Full] {
        let mut options = dropping();
        options.mode = mode;
        let (gone, volumes) = disk.compacted(&options);
        assert_eq!(gone.outcome, Outcome::Compacted);
        assert_eq!(gone.notes, [""; 0]);
        assert_eq!(gone.volumes[1].state, Trusted);
        assert_eq!(gone.volumes[1].free_bytes, Some(16 * MIB as u64 - 4096));
        // It begins in the middle of a block, and shares its last with zeros.
        assert_eq!(kept.blocks.allocated_after - gone.blocks.allocated_after, 8);
        assert!(volumes[1][..4096] == disk.volumes[1][..4096]);
        assert!(volumes[1][MIB..15 * MIB].iter().all(|b| *b == 0));
        assert_eq!(disk.judge(&volumes[1], "swaplabel $v | head -1"), "LABEL: pages\n");
        disk.judge(
            &volumes[0],
            "e2fsck -fn $v 2>&1; debugfs -R 'dump file back' $v 2>/dev/null; cmp file back",
        );
    }
}

#[test]
fn stays_while_any_volume_may_be_in_use() {
    let Some(mut disk) = Disk::new("swap_stays") else { return };
    disk.add_ext4(false);
    disk.add_swap();
    disk.add_ext4(true);
    let (report, volumes) = disk.compacted(&dropping());
    assert_eq!(report.volumes[2].state, Untrusted, "{report:?}");
    assert_eq!(report.volumes[1].free_bytes, Some(0));
    assert!(report.notes[0].starts_with("swap was kept: partition 3 is not in a state"));
    assert!(volumes[1] == disk.volumes[1]);
    // The sound one was compacted all the same.
    assert_eq!(report.outcome, Outcome::Compacted);

    // Who knows what is mounted from there?
    let mut luks = vec![0; MIB];
    luks[..6].copy_from_slice(b"LUKS\xBA\xBE");
    disk.volumes[2] = luks;
    let (report, volumes) = disk.compacted(&dropping());
    assert_eq!(report.volumes[2].state, Unknown);
    assert!(report.notes[0].starts_with("swap was kept: partition 3"));
    assert!(volumes[1] == disk.volumes[1]);
}

#[test]
fn stays_unless_a_volume_tells_of_a_shutdown() {
    let Some(mut disk) = Disk::new("swap_untold") else { return };
    disk.add_swap();
    let kept = |disk: &Disk, expected: &str| {
        let (report, volumes) = disk.compacted(&dropping());
        assert!(report.notes[0].contains(expected), "{:?}", report.notes);
        assert!(volumes[0] == disk.volumes[0]);
        report
    };
    kept(&disk, "no volume of the disk tells");
    disk.add_ext4(false);
    assert_eq!(disk.compacted(&dropping()).0.notes, [""; 0]);
    disk.add_running_ext4();
    let report = kept(&disk, "partition 3 is not in a state");
    // The replay of its journal is believed all the same.
    assert_eq!(report.volumes[2].state, Trusted);
    assert!(report.volumes[2].free_bytes.unwrap() > 0);
}

/// Where a hibernation image can hide, only what was unmounted is believed.
#[test]
fn who_may_be_asleep_is_not_believed() {
    let test = "may_be_asleep";
    if !have(test, &["mkfs.btrfs"]) {
        return;
    }
    let Some(mut disk) = Disk::new(test) else { return };
    disk.add_ext4(false);
    disk.add_running_ext4();
    disk.add(24, "mkfs.btrfs -q --mixed $v >/dev/null 2>&1");
    let states = |disk: &Disk| {
        let (report, _) = disk.compacted(&quick());
        report.volumes.iter().map(|volume| volume.state).collect::<Vec<_>>()
    };
    assert_eq!(states(&disk), [Trusted; 3]);
    let mut luks = vec![0; MIB];
    luks[..6].copy_from_slice(b"LUKS\xBA\xBE");
    disk.push(luks);
    assert_eq!(states(&disk), [Trusted, Untrusted, Untrusted, Unknown]);
    // What is not even looked at.
    let luks = std::mem::replace(&mut disk.volumes[3], vec![0; MIB]);
    assert_eq!(states(&disk), [Trusted, Trusted, Trusted, Unknown]);
    disk.dynamic = Some(3);
    assert_eq!(states(&disk), [Trusted, Untrusted, Untrusted, Unknown]);
    (disk.dynamic, disk.volumes[3]) = (None, luks);
    let mut options = quick();
    options.mode = Mode::Full;
    let (report, volumes) = disk.compacted(&options);
    let reason = report.volumes[2].reason.as_deref().unwrap();
    assert!(reason.contains("partition 4, which cannot be looked into"), "{reason}");
    assert!(volumes[1..] == disk.volumes[1..]);
}

/// A living file system in what an older one calls free: written there by what skips
/// zeros, it left the older one's start as it was.
#[test]
fn a_signature_in_free_space_is_one_all_the_same() {
    let test = "living_below";
    if !have(test, &["mkfs.btrfs", "btrfs", "mkntfs"]) {
        return;
    }
    let Some(mut disk) = Disk::new(test) else { return };
    disk.add(
        128,
        "mkdir d; cp file d/ 2>/dev/null || head -c 3000000 /dev/urandom >d/file
         truncate -s 128M b; mkfs.btrfs -q --rootdir d b 2>/dev/null
         mkntfs -q -F -Q $v 2>/dev/null
         dd if=b of=$v bs=4K conv=sparse,notrunc status=none
         btrfs check --readonly $v >/dev/null 2>&1",
    );
    let (report, volumes) = disk.compacted(&quick());
    let reason = report.volumes[0].reason.as_deref().unwrap();
    assert!(reason.contains("signatures of ntfs and btrfs"), "{reason}");
    assert!(volumes == disk.volumes);
}

#[test]
fn a_sleeping_linux_keeps_everything() {
    let Some(mut disk) = Disk::new("swap_asleep") else { return };
    disk.add_ext4(false);
    disk.add_swap();
    let (awake, _) = disk.compacted(&quick());
    assert_eq!(awake.volumes[0].state, Trusted);
    for mark in [&b"S1SUSPEND\0"[..], b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001"] {
        disk.volumes[1][4096 - 10..][..mark.len()].copy_from_slice(mark);
        let mut full = dropping();
        full.mode = Mode::Full;
        let mut outside = quick();
        outside.drop_unpartitioned = true;
        for options in [quick(), dropping(), outside, full] {
            let (report, volumes) = disk.compacted(&options);
            if options.mode == Mode::Quick {
                assert_eq!(report.outcome, Outcome::NothingToDo, "{report:?}");
            }
            let [ext4, swap] = &report.volumes[..] else { panic!("{report:?}") };
            assert_eq!(swap.filesystem.as_deref(), Some("Linux hibernation image"));
            assert_eq!(ext4.state, Untrusted);
            let reason = ext4.reason.as_deref().unwrap();
            assert!(
                reason.starts_with("partition 2 holds a hibernated system"),
                "{reason}"
            );
            assert_eq!((ext4.free_bytes, ext4.used_bytes), (None, None));
            assert!(volumes == disk.volumes);
        }
    }
}

#[test]
fn a_sleeping_windows_keeps_everything() {
    let test = "windows_asleep";
    if !have(test, &["mkntfs", "ntfs-3g", "mkfs.fat"]) {
        return;
    }
    let Some(mut disk) = Disk::new(test) else { return };
    let image = mkntfs(&disk.scratch, "windows", 24 << 20, "");
    {
        let mounted = mount(&image, "");
        fs::write(mounted.dir.join("pagefile.sys"), Noise::new(8).bytes(9 * MIB))
            .unwrap();
    }
    disk.push(fs::read(&image).unwrap());
    disk.add(8, "mkfs.fat $v >/dev/null");
    // Old data in free space.
    let noise = Noise::new(9).bytes(4 * MIB);
    disk.volumes[1][3 * MIB..7 * MIB].copy_from_slice(&noise);
    let (awake, volumes) = disk.compacted(&dropping());
    assert_eq!((awake.volumes[0].state, awake.volumes[1].state), (Trusted, Trusted));
    assert!(awake.volumes[0].swap_bytes.unwrap() >= 9 << 20);
    assert_ne!(volumes[1], disk.volumes[1]);
    let (kept, _) = disk.compacted(&quick());
    assert!(kept.blocks.allocated_after > awake.blocks.allocated_after);

    {
        let mounted = mount(&image, "");
        let mut file = b"hibr".to_vec();
        file.resize(100_000, 1);
        fs::write(mounted.dir.join("hiberfil.sys"), file).unwrap();
    }
    disk.volumes[0] = fs::read(&image).unwrap();
    for options in [quick(), dropping()] {
        let (report, volumes) = disk.compacted(&options);
        assert!(volumes == disk.volumes);
        let [windows, data] = &report.volumes[..] else { panic!("{report:?}") };
        assert!(windows.reason.as_deref().unwrap().contains("hibernated"));
        assert_eq!(data.state, Untrusted);
        assert!(data.reason.as_deref().unwrap().starts_with("partition 1 holds"));
    }
    // Also while it is not clear what the volume is, or where it ends.
    let asleep = disk.volumes[0].clone();
    let len = asleep.len();
    disk.volumes[0][len - 8192..][..4].copy_from_slice(b"\xFC\x4E\x2B\xA9");
    let (report, _) = disk.compacted(&quick());
    assert!(report.volumes[0].reason.as_deref().unwrap().starts_with("signatures of"));
    assert_eq!(report.volumes[1].state, Untrusted);
    disk.volumes[0] = asleep;
    disk.volumes[0].truncate(len - MIB);
    let (report, _) = disk.compacted(&quick());
    assert!(report.volumes[0].reason.as_deref().unwrap().contains("truncated"));
    assert_eq!(report.volumes[1].state, Untrusted);
}
