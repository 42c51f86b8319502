//! Making, filling, reading and patching NTFS volumes.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use slimdisk::storage::ReadAt;
use slimdisk::volume::{Allowances, Findings};

use crate::free_map::survey_allowing;
use crate::support::{Noise, Scratch, sh, sh_output};

/// Formats `name` in `scratch`.
pub fn mkntfs(scratch: &Scratch, name: &str, size: u64, options: &str) -> PathBuf {
    let path = scratch.path(name);
    fs::File::create(&path).unwrap().set_len(size).unwrap();
    sh(&format!("mkntfs -q -F -Q {options} {} 2>/dev/null", path.display()));
    path
}

/// A volume mounted by ntfs-3g; unmounted, and written out, when dropped.
pub struct Mounted {
    pub dir: PathBuf,
    child: Child,
}

pub fn mount(image: &Path, options: &str) -> Mounted {
    let dir = image.with_extension("mnt");
    fs::create_dir_all(&dir).unwrap();
    let child = Command::new("ntfs-3g")
        .args(["-o", &format!("no_detach,big_writes{options}")])
        .args([image, &dir])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut mounted = Mounted { dir, child };
    while !sh_output(&format!("mountpoint -q {}", mounted.dir.display())).status.success()
    {
        assert!(mounted.child.try_wait().unwrap().is_none(), "ntfs-3g would not mount");
        sleep(Duration::from_millis(20));
    }
    mounted
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = sh_output(&format!("again umount {}", self.dir.display()));
        if !unmounted.status.success() {
            // Waiting for a mount that stays would be waiting for ever.
            sh_output(&format!("umount -l {}", self.dir.display()));
            let _ = self.child.kill();
        }
        let ended = self.child.wait();
        if !std::thread::panicking() {
            assert!(unmounted.status.success(), "cannot unmount");
            assert!(ended.unwrap().success(), "ntfs-3g failed");
        }
    }
}

/// Fills a mounted volume to `bytes` with files of all sizes and deletes about
/// half of them again, so that free space is scattered and full of old data.
pub fn churn(dir: &Path, bytes: u64, cluster: u64) {
    let mut noise = Noise::new(cluster);
    let mut written = 0;
    let mut number = 0;
    while written < bytes {
        let folder = dir.join(format!("folder {}", number % 7));
        fs::create_dir_all(&folder).unwrap();
        let length = match number % 5 {
            0 => noise.below(600),
            1 | 2 => noise.below(20_000),
            3 => noise.below(200_000),
            _ => noise.below(bytes / 10),
        };
        fs::write(folder.join(format!("file {number}")), noise.bytes(length as usize))
            .unwrap();
        written += length.next_multiple_of(cluster);
        number += 1;
    }
    for number in (0..number).filter(|n| n % 2 == 1 || n % 6 == 0) {
        fs::remove_file(dir.join(format!("folder {}/file {number}", number % 7)))
            .unwrap();
    }
    for number in 0..20 {
        fs::write(dir.join(format!("late {number}")), noise.bytes(30_000)).unwrap();
    }
}

/// A digest of every file below `dir`.
pub fn digests(dir: &Path) -> BTreeMap<PathBuf, String> {
    let sums = sh(&format!(
        "cd {} && find . -type f -print0 | xargs -0 sha256sum",
        dir.display()
    ));
    sums.lines().map(|line| (PathBuf::from(&line[66..]), line[..64].to_owned())).collect()
}

/// What the reader says of a volume, and the free ranges it sent.
pub fn survey_with(
    volume: &dyn ReadAt,
    allow: Allowances,
) -> (Findings, Vec<Range<u64>>) {
    survey_allowing("ntfs", volume, &allow)
}

pub fn survey(volume: &dyn ReadAt) -> (Findings, Vec<Range<u64>>) {
    survey_with(volume, Allowances::default())
}

/// The free ranges of a volume that must be trusted.
pub fn trusted(volume: &dyn ReadAt) -> Vec<Range<u64>> {
    let (findings, free) = survey(volume);
    assert_eq!(findings.untrusted, None);
    free
}

/// Why a volume is not trusted.
pub fn reason(volume: &dyn ReadAt) -> String {
    let (findings, _) = survey(volume);
    assert_eq!(findings.free_bytes, 0);
    findings.untrusted.expect("the volume is trusted")
}

/// A second, simple-minded reader: just enough to find what to patch.
pub struct Layout {
    pub cluster: usize,
    pub clusters: usize,
    pub mft: usize,
    pub mirror: usize,
    pub record: usize,
}

impl Layout {
    pub fn of(bytes: &[u8]) -> Self {
        let sector = usize::from(u16(bytes, 11));
        let cluster = match bytes[13] {
            field @ ..=0x80 => usize::from(field) * sector,
            field => sector << (256 - u32::from(field)),
        };
        Layout {
            cluster,
            clusters: u64(bytes, 40) as usize * sector / cluster,
            mft: u64(bytes, 48) as usize * cluster,
            mirror: u64(bytes, 56) as usize * cluster,
            record: match bytes[64] {
                count @ ..0x80 => usize::from(count) * cluster,
                exponent => 1 << (256 - u32::from(exponent)),
            },
        }
    }

    /// Where a record lies, as long as `$MFT` is in one piece.
    pub fn record(&self, number: usize) -> usize {
        self.mft + number * self.record
    }

    /// The number of the first record that has the name of a file in it.
    pub fn number(&self, bytes: &[u8], name: &str) -> usize {
        let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut records = bytes[self.mft..].chunks(self.record);
        records
            .position(|record| record.windows(name.len()).any(|window| window == name))
            .unwrap()
    }

    /// Where the first attribute of a type lies in a record.
    pub fn attribute(&self, bytes: &[u8], number: usize, kind: u32) -> usize {
        let record = self.record(number);
        let mut at = record + usize::from(u16(bytes, record + 20));
        while u32(bytes, at) != kind {
            assert_ne!(u32(bytes, at), u32::MAX, "record {number} has no {kind:#x}");
            at += u32(bytes, at + 4) as usize;
        }
        at
    }

    /// Where the value of a resident attribute lies.
    pub fn value(&self, bytes: &[u8], number: usize, kind: u32) -> usize {
        let at = self.attribute(bytes, number, kind);
        assert_eq!(bytes[at + 8], 0, "not resident");
        at + usize::from(u16(bytes, at + 20))
    }

    /// Where the first run of a non-resident attribute lies.
    pub fn data(&self, bytes: &[u8], number: usize, kind: u32) -> usize {
        let at = self.attribute(bytes, number, kind);
        assert_eq!(bytes[at + 8], 1, "resident");
        let runs = at + usize::from(u16(bytes, at + 32));
        let (length, offset) =
            (usize::from(bytes[runs] & 15), usize::from(bytes[runs] >> 4));
        let mut lcn = [0; 8];
        lcn[..offset].copy_from_slice(&bytes[runs + 1 + length..][..offset]);
        u64::from_le_bytes(lcn) as usize * self.cluster
    }
}

pub fn u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

pub fn u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
