//! The signature of a file system that was there before: told from a living one only
//! where that can be proven.

use std::fs;
use std::ops::Range;

use slimdisk::compact::report::VolumeState::{Trusted, Untrusted};
use slimdisk::compact::{Outcome, Report};
use slimdisk::ranges::Ranges;
use slimdisk::volume::identify;

use crate::end_to_end::{compact, quick};
use crate::ext::dumpe2fs_free;
use crate::ntfs::image::mkntfs;
use crate::support::{Noise, Scratch, have, sh};
use crate::vhd_model::Shape;

const MIB: usize = 1 << 20;

/// Compacts a bare disk; gives the report and the disk after it.
fn compacted(scratch: &Scratch, disk: &[u8]) -> (Report, Vec<u8>) {
    let (path, raw) = (scratch.path("disk.vhd"), scratch.path("raw"));
    fs::write(&path, Shape::of_disk(disk, 2 * MIB, true, *b"win ")).unwrap();
    let report = compact(&path, &quick());
    assert_eq!(report.error, None);
    sh(&format!("qemu-img convert -f vpc -O raw {} {}", path.display(), raw.display()));
    (report, fs::read(raw).unwrap())
}

/// Where the superblock of a Btrfs lies.
const SUPERBLOCK: Range<usize> = 65536..69632;

/// An ext2 in which the block at 64 KiB is the first file's. `first` stays, or goes.
fn ext2(scratch: &Scratch, keep: bool) -> Vec<u8> {
    let image = scratch.path("volume");
    sh(&format!(
        "cd {}; rm -f volume; truncate -s 128M volume
         mke2fs -q -F -t ext2 -b 4096 -N 16 -O ^resize_inode,^flex_bg volume
         head -c 9000000 /dev/urandom >first; head -c 3000000 /dev/urandom >file
         debugfs -w -f - volume >/dev/null 2>&1 <<'END'\nwrite first first\nwrite file file\n{}\nEND",
        scratch.dir().display(),
        if keep { "" } else { "rm first" }
    ));
    let free: Ranges = dumpe2fs_free(&image).into_iter().collect();
    let place = SUPERBLOCK.start as u64..SUPERBLOCK.end as u64;
    assert_eq!(free.covers(&place), !keep);
    fs::read(image).unwrap()
}

#[test]
fn btrfs_below_ext2() {
    let test = "leftover_btrfs";
    if !have(test, &["mkfs.btrfs", "mke2fs", "debugfs", "e2fsck", "dumpe2fs", "qemu-img"])
    {
        return;
    }
    let scratch = Scratch::new(test);
    sh(&format!(
        "cd {}; mkdir d; head -c 3000000 /dev/urandom >d/file
         truncate -s 128M btrfs; mkfs.btrfs -q --rootdir d btrfs 2>/dev/null",
        scratch.dir().display()
    ));
    let btrfs = fs::read(scratch.path("btrfs")).unwrap();
    assert_eq!(identify(&btrfs).unwrap().names(), ["btrfs"]);
    let over_btrfs = |mut ext2: Vec<u8>| {
        ext2[SUPERBLOCK].copy_from_slice(&btrfs[SUPERBLOCK]);
        assert_eq!(identify(&ext2).unwrap().names(), ["ext", "btrfs"]);
        ext2
    };

    let disk = over_btrfs(ext2(&scratch, false));
    let (report, after) = compacted(&scratch, &disk);
    assert_eq!(report.outcome, Outcome::Compacted);
    assert_eq!(report.volumes[0].filesystem.as_deref(), Some("ext2"));
    assert_eq!(report.volumes[0].state, Trusted);
    fs::write(scratch.path("after"), &after[..disk.len()]).unwrap();
    sh(&format!(
        "cd {}; e2fsck -fn after 2>&1; debugfs -R 'dump file back' after 2>/dev/null
         cmp file back",
        scratch.dir().display()
    ));

    let kept = |disk: &[u8], what: &str| {
        let (report, after) = compacted(&scratch, disk);
        assert_eq!(report.volumes[0].state, Untrusted, "{what}");
        let reason = report.volumes[0].reason.as_deref().unwrap();
        assert!(reason.contains("signatures of ext and btrfs"), "{what}: {reason}");
        assert!(after[..disk.len()] == *disk, "{what}");
    };
    // What lies there may be a file's content, or a living file system.
    kept(&over_btrfs(ext2(&scratch, true)), "in use");
    let mut dirty = disk;
    dirty[1024 + 0x3A] = 0;
    kept(&dirty, "dirty");
    // The other way round: a living Btrfs, with what is left of an ext2 before it.
    let mut living = btrfs.clone();
    living[1024..2048].copy_from_slice(&ext2(&scratch, false)[1024..2048]);
    kept(&living, "living");
}

#[test]
fn two_that_erase_nothing() {
    let test = "leftover_ext";
    if !have(test, &["mke2fs", "mkntfs", "qemu-img"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let image = scratch.path("volume");
    sh(&format!("truncate -s 16M {0}; mke2fs -q -F {0}", image.display()));
    let mut disk = fs::read(&image).unwrap();
    let boot = fs::read(mkntfs(&scratch, "ntfs", 16 << 20, "")).unwrap();
    disk[..512].copy_from_slice(&boot[..512]);
    disk[8 * MIB..12 * MIB].copy_from_slice(&Noise::new(4).bytes(4 * MIB));
    let (report, after) = compacted(&scratch, &disk);
    assert_eq!(report.volumes[0].state, Untrusted);
    let reason = report.volumes[0].reason.as_deref().unwrap();
    assert!(reason.contains("signatures of ntfs and ext"), "{reason}");
    assert!(after[..disk.len()] == disk);
}
