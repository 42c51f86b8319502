//! Volumes: small file systems made by `fuzz/seeds`, changed in places the input
//! chooses. Where there are none (`fuzz/bases` is empty) the input is the volume.
//! One target for each row of `FILE_SYSTEMS`.
//!
//! What must hold, whatever the bytes:
//!
//! - no panic, and no error but `InvalidImage`;
//! - a survey takes less than a second of processor time; it reads at most twice the
//!   volume and 1 MiB, in at most as many reads as the volume has kilobytes and 4096
//!   more; naming a volume takes at most 256 KiB;
//! - the free ranges of a *trusted* volume ascend, do not touch, lie within the length
//!   of the file system, which lies within the volume, and add up to `free_bytes`;
//! - surveying twice gives the same answer;
//! - a trusted volume never calls free what this file knows to be in use by a few
//!   lines of its own (`known_used`);
//! - what lies in free space, and zeros behind the volume, never matter: edits there
//!   alone leave the verdict as it was;
//! - where checksums guard the map, a single edit of up to four bytes that nobody
//!   mended never makes a used byte free. (NTFS and FAT have none, and ext2 but
//!   counts: two bits of a bitmap that change places are for nobody to see.)
//!
//! The input: the number of the base, what to mend, edits.

mod known;
mod mend;

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arbitrary::Unstructured;
use slimdisk::Kind;
use slimdisk::ranges::Ranges;
use slimdisk::storage::ReadAt;
use slimdisk::volume::{Allowances, FILE_SYSTEMS, FileSystem, Findings, identify};

use crate::hfsplus_maker::{PLAIN, Recipe};
use crate::lay;

/// The bytes of a base, without the zeros of which most of a large one consists.
#[derive(Default)]
pub struct Sparse {
    len: u64,
    /// Each with its place, in ascending order.
    pieces: Vec<(u64, Vec<u8>)>,
}

const PIECE: usize = 4096;

impl Sparse {
    fn read(path: &Path) -> Self {
        let mut file = File::open(path).unwrap();
        let mut sparse = Sparse { len: file.metadata().unwrap().len(), pieces: vec![] };
        let mut at = 0;
        while at < sparse.len {
            let mut piece = vec![0; PIECE.min((sparse.len - at) as usize)];
            file.read_exact(&mut piece).unwrap();
            let len = piece.len() as u64;
            if piece.iter().any(|byte| *byte != 0) {
                sparse.pieces.push((at, piece));
            }
            at += len;
        }
        sparse
    }

    fn of(bytes: &[u8]) -> Self {
        Sparse { len: bytes.len() as u64, pieces: vec![(0, bytes.to_vec())] }
    }

    fn lay(&self, buf: &mut [u8], offset: u64) {
        let end = offset + buf.len() as u64;
        let first = self.pieces.partition_point(|(at, piece)| at + piece.len() as u64 <= offset);
        for (at, piece) in self.pieces[first..].iter().take_while(|(at, _)| *at < end) {
            lay(buf, offset, piece, *at);
        }
    }
}

/// Bytes with edits on top and zeros behind them, which count and note what is read.
pub struct Volume<'a> {
    base: &'a Sparse,
    zeros: u64,
    edits: Vec<(u64, Vec<u8>)>,
    reads: AtomicU64,
    bytes_read: AtomicU64,
    /// Where it was read, if somebody wants to know.
    noted: Option<Mutex<Ranges>>,
}

impl<'a> Volume<'a> {
    fn new(base: &'a Sparse) -> Self {
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
        self.base.lay(buf, offset);
        for (at, bytes) in &self.edits {
            lay(buf, offset, bytes, *at);
        }
        Ok(())
    }
}

impl ReadAt for Volume<'_> {
    fn len(&self) -> u64 {
        self.base.len + self.zeros
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
    bytes: Sparse,
    system: &'static dyn FileSystem,
    verdict: Verdict,
    /// Where the survey reads it.
    read: Vec<Range<u64>>,
}

/// The bases of one family, in the order of their names.
fn bases(family: &str) -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| {
        if family == "hfsplus" {
            return made_hfsplus();
        }
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("bases").join(family);
        let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let name = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
        paths.iter().map(|path| base(family, name(path), Sparse::read(path))).collect()
    })
}

/// No tool makes HFS Plus: its bases come from the tests' own maker.
fn made_hfsplus() -> Vec<Base> {
    let small = Recipe { blocks: 700, ..PLAIN };
    let recipes = [
        ("plain", small.clone()),
        ("journal", Recipe { journal: Some('b'), ..small.clone() }),
        ("scattered", Recipe { scattered: true, signature: b"HX", ..small }),
    ];
    recipes
        .into_iter()
        .map(|(name, recipe)| base("hfsplus", name.into(), Sparse::of(&recipe.make().bytes)))
        .collect()
}

fn base(family: &str, name: String, bytes: Sparse) -> Base {
    let mut volume = Volume::new(&bytes);
    volume.noted = Some(Mutex::default());
    let system = row(family);
    assert!(system.probe(&volume).unwrap(), "{name}");
    let verdict = survey(system, &volume);
    assert_eq!(verdict.findings.untrusted, None, "{name}");
    let read = volume.noted.take().unwrap().into_inner().unwrap().iter().collect();
    Base { name, bytes, system, verdict, read }
}

fn row(family: &str) -> &'static dyn FileSystem {
    *FILE_SYSTEMS.iter().find(|row| row.name() == family).expect("a known file system")
}

/// Surveys a volume and holds the answer against everything that needs no base.
fn survey(system: &dyn FileSystem, volume: &Volume<'_>) -> Verdict {
    let len = volume.len();
    let reads = volume.reads.swap(0, Relaxed);
    let bytes_read = volume.bytes_read.swap(0, Relaxed);
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let started = processor_time();
    let mut findings = system
        .survey(volume, &Allowances::default(), &mut |range| ranges.push(range))
        .unwrap_or_else(|error| {
            assert_eq!(error.kind(), Kind::InvalidImage, "{error:?}");
            Findings { untrusted: Some(error.to_string()), ..Findings::default() }
        });
    let took = processor_time() - started;
    assert!(took < Duration::from_secs(1), "a survey took {took:?}");
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
    for used in known::used(system.name(), &findings, volume) {
        assert!(!free.intersects(&used), "{used:?} of {} is free", findings.filesystem);
    }
    Verdict { findings, free }
}

/// One edit, somewhere in `base`.
fn edit(base: &Base, input: &mut Unstructured<'_>) -> arbitrary::Result<(u64, Vec<u8>)> {
    let len = base.bytes.len;
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
    let mut bytes = vec![0; size.min((len - at) as usize)];
    base.bytes.lay(&mut bytes, at);
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

fn fuzz_base(base: &Base, input: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let choice: u8 = input.arbitrary()?;
    let mut volume = Volume::new(&base.bytes);
    while input.len() >= 14 && volume.edits.len() < 64 {
        volume.edits.push(edit(base, input)?);
    }
    let edits = volume.edits.len();
    if choice & 1 != 0 {
        mend::checksums(base.system.name(), &mut volume);
    }
    let mended = volume.edits.len() > edits;
    if choice & 6 == 6 {
        volume.zeros = u64::from(choice) << 14;
    }
    check(&volume);

    let verdict = survey(base.system, &volume);
    let trusted = verdict.findings.untrusted.is_none();
    let changed = |(at, bytes): &(u64, Vec<u8>)| *at..at + bytes.len() as u64;
    if volume.edits.iter().all(|edit| base.verdict.free.covers(&changed(edit))) {
        // What F2FS synced last lies in blocks that its map calls free, and is looked for
        // there: it may take trust away, and do nothing else.
        let distrusted = !trusted && base.system.name() == "f2fs";
        assert!(
            verdict == base.verdict || distrusted,
            "{}: free bytes matter: {:?}",
            base.name,
            verdict.findings
        );
    }
    let single = matches!(&*volume.edits, [(_, bytes)] if bytes.len() <= 4);
    if single && !mended && trusted && known::checksummed(base.system.name(), &volume) {
        let gained: Vec<_> = verdict
            .free
            .iter()
            .filter(|range| !base.verdict.free.covers(range))
            .collect();
        assert!(gained.is_empty(), "{}: one edit frees {gained:?}", base.name);
    }
    Ok(())
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

/// Runs one input against the row of `FILE_SYSTEMS` with this name.
pub fn fuzz(family: &str, data: &[u8]) {
    let Some((number, rest)) = data.split_first() else { return };
    let bases = bases(family);
    // The number behind the last base is the input itself.
    match bases.get(usize::from(*number) % (bases.len() + 1)) {
        Some(base) => drop(fuzz_base(base, &mut Unstructured::new(rest))),
        None => check(&Volume::new(&Sparse::of(rest))),
    }
}

/// What the process has had of the processor: unlike the clock on the wall it does not
/// run on while others are at work.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec`, which outlives the call.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(done, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
