//! Bytes from strangers: no panic, no endless work, and nothing free that was not
//! free before.

use std::fs;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use slimdisk::Kind;
use slimdisk::storage::ReadAt;
use slimdisk::volume::Allowances;

use super::image::*;
use crate::free_map::reader;
use crate::support::{Noise, Scratch, have};

#[test]
fn damaged_metadata_frees_nothing() {
    if !have("ntfs damaged_metadata_frees_nothing", &["mkntfs", "ntfs-3g"]) {
        return;
    }
    let scratch = Scratch::new("ntfs-hostile");
    let image = mkntfs(&scratch, "volume.img", 4 << 20, "-c 1024");
    {
        let mounted = mount(&image, "");
        for number in 0..60 {
            let path = mounted.dir.join(format!("a file of some name {number}"));
            fs::write(path, vec![number; 300 * usize::from(number)]).unwrap();
        }
        fs::create_dir(mounted.dir.join("System Volume Information")).unwrap();
        fs::write(mounted.dir.join("hiberfil.sys"), [0; 8192]).unwrap();
    }
    let mut bytes = fs::read(&image).unwrap();
    let layout = Layout::of(&bytes);
    let before = trusted(&bytes);
    let root = layout.data(&bytes, 5, 0xA0);
    let areas: [Range<usize>; 5] = [
        0..84,
        layout.mft..layout.record(12),
        layout.record(24)..layout.record(64),
        layout.mirror..layout.mirror + 4 * layout.record,
        root..root + 4096,
    ];
    let inside = |range: &Range<u64>| {
        before.iter().any(|old| old.start <= range.start && range.end <= old.end)
    };
    let mut noise = Noise::new(3);
    let (mut refused, mut slowest) = (0, Duration::ZERO);
    for round in 0..4000 {
        let mut undo = Vec::new();
        for _ in 0..=noise.below(3) {
            let area = areas[noise.below(areas.len() as u64) as usize].clone();
            let at = area.start + noise.below(area.len() as u64) as usize;
            undo.push((at, bytes[at]));
            bytes[at] = match noise.below(4) {
                0 => 0,
                1 => 0xFF,
                2 => bytes[at] ^ 1 << noise.below(8),
                _ => noise.next() as u8,
            };
        }
        let start = Instant::now();
        let (findings, free) = survey(&bytes);
        slowest = slowest.max(start.elapsed());
        match findings.untrusted {
            Some(_) => refused += 1,
            None => assert!(free.iter().all(inside), "round {round}: {undo:?}"),
        }
        for (at, byte) in undo.into_iter().rev() {
            bytes[at] = byte;
        }
    }
    assert!(refused > 1000, "only {refused} were refused");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert_eq!(trusted(&bytes), before);
}

#[test]
fn any_bytes_at_all() {
    let mut noise = Noise::new(5);
    for length in [0usize, 1, 510, 511, 512, 4096, 100_000] {
        let mut bytes = noise.bytes(length);
        let _ = reader("ntfs").probe(&bytes).unwrap();
        assert!(survey(&bytes).0.untrusted.is_some());
        if length >= 512 {
            bytes[3..11].copy_from_slice(b"NTFS    ");
            bytes[510..512].copy_from_slice(&[0x55, 0xAA]);
            assert!(reader("ntfs").probe(&bytes).unwrap());
            assert!(survey(&bytes).0.untrusted.is_some());
        }
    }
}

/// Bytes of which one read fails.
struct Failing<'a> {
    bytes: &'a Vec<u8>,
    reads_left: AtomicU64,
}

impl ReadAt for Failing<'_> {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> slimdisk::Result<()> {
        if self.reads_left.fetch_sub(1, Relaxed) == 0 {
            return Err(slimdisk::Error::new(Kind::Io, "the disk went away"));
        }
        self.bytes.read_at(offset, buf)
    }
}

#[test]
fn a_failing_disk_is_not_a_damaged_volume() {
    if !have("ntfs a_failing_disk", &["mkntfs"]) {
        return;
    }
    let scratch = Scratch::new("ntfs-failing");
    let image = mkntfs(&scratch, "volume.img", 8 << 20, "");
    let bytes = fs::read(&image).unwrap();
    for reads in 0.. {
        let volume = Failing { bytes: &bytes, reads_left: AtomicU64::new(reads) };
        match reader("ntfs").survey(&volume, &Allowances::default(), &mut |_| ()) {
            Err(error) => assert_eq!(error.kind(), Kind::Io),
            Ok(findings) => {
                assert_eq!(findings.untrusted, None);
                assert!(reads > 10 && volume.reads_left.into_inner() < u64::MAX / 2);
                break;
            }
        }
    }
}
