//! Volumes: small file systems made by `fuzz/seeds`, changed in places the input
//! chooses. Where there are none (`fuzz/bases` is empty) the input is the volume.
//!
//! What must hold for every row of `FILE_SYSTEMS`, whatever the bytes:
//!
//! - no panic, and no error but `InvalidImage`;
//! - a survey reads at most twice the volume and 1 MiB, in at most as many reads as
//!   the volume has kilobytes and 4096 more; naming a volume takes at most 256 KiB;
//! - the free ranges of a *trusted* volume ascend, do not touch, lie within the length
//!   of the file system, which lies within the volume, and add up to `free_bytes`;
//! - surveying twice gives the same answer;
//! - a trusted volume never calls free what this file knows to be in use by a few
//!   lines of its own: the superblocks, the bitmaps and inode tables that the group
//!   descriptors name; the boot sector, the first record of the MFT and of its mirror;
//! - what lies in free space, and zeros behind the volume, never matter: edits there
//!   alone leave the verdict as it was;
//! - where checksums guard the map (`metadata_csum`), a single edit of up to four
//!   bytes never makes a used byte free. (NTFS has none, and ext2 but counts: two
//!   bits of a bitmap that change places are for nobody to see.)
//!
//! The input: the number of the base, what to mend, edits.
#![no_main]

use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use slimdisk::Kind;
use slimdisk::ranges::Ranges;
use slimdisk::storage::ReadAt;
use slimdisk::volume::{Allowances, FILE_SYSTEMS, FileSystem, Findings, identify};
use slimdisk_fuzz::lay;

/// Bytes with edits on top and zeros behind them, which count and note what is read.
struct Volume<'a> {
    base: &'a [u8],
    zeros: u64,
    edits: Vec<(u64, Vec<u8>)>,
    reads: AtomicU64,
    bytes_read: AtomicU64,
    /// Where it was read, if somebody wants to know.
    noted: Option<Mutex<Ranges>>,
}

impl<'a> Volume<'a> {
    fn new(base: &'a [u8]) -> Self {
        Volume {
            base,
            zeros: 0,
            edits: Vec::new(),
            reads: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            noted: None,
        }
    }

    /// A little-endian number, 0 beyond the end.
    fn number(&self, at: u64, len: usize) -> u64 {
        let mut bytes = [0; 8];
        match self.get(at, &mut bytes[..len]) {
            Ok(()) => u64::from_le_bytes(bytes),
            Err(_) => 0,
        }
    }

    fn get(&self, offset: u64, buf: &mut [u8]) -> slimdisk::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len()) {
            return Err(slimdisk::Error::invalid("beyond the end").at(offset));
        }
        buf.fill(0);
        lay(buf, offset, self.base, 0);
        for (at, bytes) in &self.edits {
            lay(buf, offset, bytes, *at);
        }
        Ok(())
    }
}

impl ReadAt for Volume<'_> {
    fn len(&self) -> u64 {
        self.base.len() as u64 + self.zeros
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> slimdisk::Result<()> {
        self.reads.fetch_add(1, Relaxed);
        self.bytes_read.fetch_add(buf.len() as u64, Relaxed);
        if let Some(noted) = &self.noted {
            noted.lock().unwrap().insert(offset..offset + buf.len() as u64);
        }
        self.get(offset, buf)
    }
}

/// What a file system says of a volume.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    findings: Findings,
    free: Ranges,
}

/// A sound volume to start from.
struct Base {
    name: String,
    bytes: Vec<u8>,
    system: &'static dyn FileSystem,
    verdict: Verdict,
    /// Where the survey reads it.
    read: Vec<Range<u64>>,
}

fn bases() -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("bases");
        let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| base(path)).collect()
    })
}

fn base(path: &Path) -> Base {
    let bytes = std::fs::read(path).unwrap();
    let mut volume = Volume::new(&bytes);
    volume.noted = Some(Mutex::default());
    let system = *FILE_SYSTEMS
        .iter()
        .find(|system| system.probe(&volume).unwrap())
        .expect("a base of a known file system");
    let verdict = survey(system, &volume);
    assert_eq!(verdict.findings.untrusted, None, "{}", path.display());
    let read = volume.noted.take().unwrap().into_inner().unwrap().iter().collect();
    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
    Base { name, bytes, system, verdict, read }
}

/// Surveys a volume and holds the answer against everything that needs no base.
fn survey(system: &dyn FileSystem, volume: &Volume<'_>) -> Verdict {
    let len = volume.len();
    let reads = volume.reads.swap(0, Relaxed);
    let bytes_read = volume.bytes_read.swap(0, Relaxed);
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut findings = system
        .survey(volume, &Allowances::default(), &mut |range| ranges.push(range))
        .unwrap_or_else(|error| {
            assert_eq!(error.kind(), Kind::InvalidImage, "{error:?}");
            Findings { untrusted: Some(error.to_string()), ..Findings::default() }
        });
    let (reads, bytes_read) =
        (volume.reads.swap(reads, Relaxed), volume.bytes_read.swap(bytes_read, Relaxed));
    assert!(bytes_read <= 2 * len + (1 << 20), "{bytes_read} of {len} bytes read");
    assert!(reads <= len / 1024 + 4096, "{reads} reads of {len} bytes");
    if findings.untrusted.is_some() {
        // Whatever came before counts for nothing.
        findings.free_bytes = 0;
        return Verdict { findings, free: Ranges::new() };
    }
    assert!(findings.length <= len, "{findings:?}");
    let mut total = 0;
    for (index, range) in ranges.iter().enumerate() {
        assert!(index == 0 || ranges[index - 1].end < range.start, "{range:?}");
        assert!(range.start < range.end && range.end <= findings.length, "{range:?}");
        total += range.end - range.start;
    }
    assert_eq!(total, findings.free_bytes);
    let free: Ranges = ranges.into_iter().collect();
    for used in known_used(system.name(), volume) {
        assert!(!free.intersects(&used), "{used:?} of {} is free", findings.filesystem);
    }
    Verdict { findings, free }
}

/// Bytes that are in use in any volume of the family.
fn known_used(family: &str, volume: &Volume<'_>) -> Vec<Range<u64>> {
    let number = |at, len| volume.number(at, len);
    let mut used = Vec::new();
    match family {
        "ext" => {
            used.push(1024..2048);
            let at = |field: u64| 1024 + field;
            let incompat = number(at(0x60), 4);
            // A replay may move the descriptors' content, and meta groups lie elsewhere.
            if incompat & (0x4 | 0x10) != 0 {
                return used;
            }
            let block_size = 1024 << number(at(0x18), 4).min(6);
            let first = number(at(0x14), 4);
            let wide = incompat & 0x80 != 0;
            let high =
                |at, width| if wide { number(at, width) << (8 * width) } else { 0 };
            let blocks = number(at(0x04), 4) | high(at(0x150), 4);
            let group_len = number(at(0x20), 4).max(1);
            let size = if wide { number(at(0xFE), 2).max(32) } else { 32 };
            let inodes = number(at(0x28), 4) * number(at(0x58), 2).max(128);
            let table = (first + 1) * block_size;
            for group in 0..blocks.saturating_sub(first).div_ceil(group_len).min(1 << 10)
            {
                // Flag sparse_super: few groups have a copy of the superblock.
                let power_of = |n: u64| (0..8).any(|exponent| n.pow(exponent) == group);
                let sparse = number(at(0x64), 4) & 1 != 0;
                if group == 0 || !sparse || [3, 5, 7].into_iter().any(power_of) {
                    let copy = (first + group * group_len) * block_size;
                    used.push(copy..copy + block_size);
                }
                let descriptor = table + group * size;
                used.push(descriptor..descriptor + size);
                for (field, len) in [(0, block_size), (4, block_size), (8, inodes)] {
                    let high =
                        if size >= 64 { number(descriptor + 0x20 + field, 4) } else { 0 };
                    let block = number(descriptor + field, 4) | high << 32;
                    let start = block.saturating_mul(block_size);
                    used.push(start..start.saturating_add(len));
                }
            }
        }
        "ntfs" => {
            used.push(0..512);
            let sector = number(11, 2);
            // Above 0x80 it is the negated power of two.
            let cluster = match number(13, 1) {
                sectors @ ..=0x80 => sectors * sector,
                power => sector << (256 - power).min(20),
            };
            for field in [0x30, 0x38] {
                let start = number(field, 8).saturating_mul(cluster);
                used.push(start..start.saturating_add(1024));
            }
        }
        other => panic!("nothing is known of {other}"),
    }
    used
}

/// One edit, somewhere in `base`.
fn edit(base: &Base, input: &mut Unstructured<'_>) -> arbitrary::Result<(u64, Vec<u8>)> {
    let len = base.bytes.len() as u64;
    let [kind, size]: [u8; 2] = input.arbitrary()?;
    let place = u64::from(input.arbitrary::<u32>()?);
    let within = |ranges: &mut dyn Iterator<Item = Range<u64>>, count: usize| {
        let range = ranges.nth(place as usize % 256 % count.max(1));
        range.map_or(0, |range| range.start + (place >> 8) % (range.end - range.start))
    };
    let mut read = base.read.iter().cloned();
    let at = match kind % 4 {
        0 => place % len,
        1 => within(&mut base.verdict.free.iter(), base.verdict.free.count()),
        2 => within(&mut read, base.read.len()),
        // Where structures tend to begin.
        _ => within(&mut read, base.read.len()) / 256 * 256 + (place >> 28),
    };
    let size = usize::from(1 + size % 8);
    let mut bytes: Vec<u8> =
        base.bytes.iter().skip(at as usize).take(size).copied().collect();
    let operand = input.arbitrary::<u64>()?;
    if kind >> 6 == 3 {
        // As many ones as before: what a count cannot tell.
        let bits = operand as usize % (8 * bytes.len()).max(1);
        let number = |from: usize| bytes.get(from % bytes.len()).copied().unwrap_or(0);
        bytes = (0..bytes.len())
            .map(|index| {
                let from = index + bits / 8;
                let (low, high) = (u16::from(number(from)), u16::from(number(from + 1)));
                ((low | high << 8) >> (bits % 8)) as u8
            })
            .collect();
    } else {
        for (byte, operand) in bytes.iter_mut().zip(operand.to_le_bytes()) {
            match kind >> 6 {
                0 => *byte ^= operand,
                1 => *byte = byte.wrapping_add(operand),
                _ => *byte = operand,
            }
        }
    }
    Ok((at, bytes))
}

/// Enters the checksum of an ext superblock.
fn mend(volume: &mut Volume<'_>) {
    let mut superblock = [0; 1020];
    if volume.get(1024, &mut superblock).is_ok() {
        // The field holds the remainder itself, not its complement.
        let sum = !crc32c::crc32c(&superblock);
        volume.edits.push((1024 + 1020, sum.to_le_bytes().to_vec()));
    }
}

fn fuzz_base(base: &Base, input: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let choice: u8 = input.arbitrary()?;
    let mut volume = Volume::new(&base.bytes);
    while input.len() >= 14 && volume.edits.len() < 64 {
        volume.edits.push(edit(base, input)?);
    }
    let mended = choice & 1 != 0 && base.system.name() == "ext";
    if mended {
        mend(&mut volume);
    }
    if choice & 6 == 6 {
        volume.zeros = u64::from(choice) << 14;
    }
    check(&volume);

    let verdict = survey(base.system, &volume);
    let trusted = verdict.findings.untrusted.is_none();
    let changed = |(at, bytes): &(u64, Vec<u8>)| *at..at + bytes.len() as u64;
    if volume.edits.iter().all(|edit| base.verdict.free.covers(&changed(edit))) {
        assert_eq!(verdict, base.verdict, "{}: free bytes matter", base.name);
    }
    let single = matches!(&*volume.edits, [(_, bytes)] if bytes.len() <= 4);
    if single && trusted && checksummed(base) {
        let gained: Vec<_> = verdict
            .free
            .iter()
            .filter(|range| !base.verdict.free.covers(range))
            .collect();
        assert!(gained.is_empty(), "{}: one edit frees {gained:?}", base.name);
    }
    Ok(())
}

/// Whether the base is an ext4 with `metadata_csum`.
fn checksummed(base: &Base) -> bool {
    base.system.name() == "ext" && base.bytes[1024 + 0x65] & 0x04 != 0
}

/// What holds for every volume and every row.
fn check(volume: &Volume<'_>) {
    volume.bytes_read.store(0, Relaxed);
    identify(volume).expect("reads inside the volume");
    assert!(volume.bytes_read.load(Relaxed) <= 256 << 10);
    for system in FILE_SYSTEMS {
        if system.probe(volume).expect("reads inside the volume") {
            let first = survey(*system, volume);
            assert_eq!(survey(*system, volume), first);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((number, rest)) = data.split_first() else { return };
    let bases = bases();
    // The number behind the last base is the input itself.
    match bases.get(usize::from(*number) % (bases.len() + 1)) {
        Some(base) => drop(fuzz_base(base, &mut Unstructured::new(rest))),
        None => check(&Volume::new(rest)),
    }
});
