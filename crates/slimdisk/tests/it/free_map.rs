//! What the tests of every file system do: ask a reader for its map, hold the map to
//! its contract, overwrite what it calls free, and spoil a sound volume.

use crate::vhd_model::FileAt as _;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use slimdisk::storage::{Meter, ReadAt, Section};
use slimdisk::volume::{Allowances, FILE_SYSTEMS, FileSystem, Findings};

use crate::support::Noise;

/// The row of `FILE_SYSTEMS` with this name.
pub fn reader(name: &str) -> &'static dyn FileSystem {
    *FILE_SYSTEMS.iter().find(|reader| reader.name() == name).unwrap()
}

/// What the reader of this name says of `volume`, with the contract of the sink
/// checked.
pub fn survey_as(name: &str, volume: &dyn ReadAt) -> (Findings, Vec<Range<u64>>) {
    survey_allowing(name, volume, &Allowances::default())
}

pub fn survey_allowing(
    name: &str,
    volume: &dyn ReadAt,
    allow: &Allowances,
) -> (Findings, Vec<Range<u64>>) {
    let mut free: Vec<Range<u64>> = Vec::new();
    let found = reader(name)
        .survey(volume, allow, &mut |range| {
            assert!(range.start < range.end, "{range:?}");
            if let Some(last) = free.last() {
                assert!(last.end < range.start, "{last:?} then {range:?}");
            }
            free.push(range);
        })
        .unwrap();
    if found.untrusted.is_none() {
        assert_eq!(found.free_bytes, free.iter().map(|r| r.end - r.start).sum::<u64>());
        assert!(free.last().is_none_or(|r| r.end <= found.length));
        assert!(found.length <= volume.len());
    }
    (found, free)
}

/// Adds a range to a list in ascending order, joining what touches.
pub fn push(list: &mut Vec<Range<u64>>, range: Range<u64>) {
    match list.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => list.push(range),
    }
}

/// The free ranges of a map in the format of ddrescue, as partclone draws it.
pub fn ddrescue_free(map: &str) -> Vec<Range<u64>> {
    let mut free = Vec::new();
    for line in map.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        if let [start, len, "?"] = fields[..] {
            let number = |hex: &str| u64::from_str_radix(&hex[2..], 16).unwrap();
            free.push(number(start)..number(start) + number(len));
        }
    }
    free
}

/// Overwrites `ranges` with noise.
pub fn scribble(bytes: &mut [u8], ranges: &[Range<u64>]) {
    each_piece(ranges, |at, noise| {
        bytes[at as usize..][..noise.len()].copy_from_slice(noise);
    });
}

/// Overwrites `ranges` of the file with noise.
pub fn scribble_file(image: &Path, ranges: &[Range<u64>]) {
    let file = File::options().write(true).open(image).unwrap();
    each_piece(ranges, |at, noise| file.write_all_at(noise, at).unwrap());
}

fn each_piece(ranges: &[Range<u64>], mut write: impl FnMut(u64, &[u8])) {
    let noise = Noise::new(7).bytes(1 << 20);
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(noise.len() as u64);
            write(at, &noise[..len as usize]);
            at += len;
        }
    }
}

/// A tree of files, some of them in folders, of which `old*` is to be deleted and
/// `late*` to be added after that; less than 1 MiB.
pub fn make_tree(dir: &Path) {
    use std::fs;
    let mut noise = Noise::new(3);
    fs::create_dir_all(dir.join("first/d/e")).unwrap();
    fs::create_dir_all(dir.join("late")).unwrap();
    for number in 0..42 {
        let len = [37, 4096, 60_000, 20_000, 0, 512, 30_001][number % 7];
        let folder = ["", "d/", "d/e/"][number % 3];
        let name = if number % 2 == 0 { "old" } else { "new file " };
        let path = dir.join(format!("first/{folder}{name}{number}"));
        fs::write(path, noise.bytes(len)).unwrap();
    }
    for number in 0..3 {
        let path = dir.join(format!("late/late{number}"));
        fs::write(path, noise.bytes(45_000)).unwrap();
    }
}

/// How an image is spoilt.
pub type Spoil = fn(&mut Vec<u8>);

/// Overwrites bytes.
pub fn put(bytes: &mut [u8], at: usize, with: &[u8]) {
    bytes[at..at + with.len()].copy_from_slice(with);
}

/// Checks that each way of spoiling `sound`, which is trusted, gives its reason.
pub fn assert_reasons<'a>(
    name: &str,
    sound: &[u8],
    reasons: impl IntoIterator<Item = (Spoil, &'a str)>,
) {
    assert_eq!(survey_as(name, &sound.to_vec()).0.untrusted, None);
    let mut missed = Vec::new();
    for (number, (spoil, expected)) in reasons.into_iter().enumerate() {
        let mut bytes = sound.to_vec();
        spoil(&mut bytes);
        let reason = survey_as(name, &bytes).0.untrusted;
        if !reason.as_ref().is_some_and(|reason| reason.contains(expected)) {
            missed.push(format!("{number}: {reason:?}, not {expected}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// Spoils a volume at random, again and again, and looks at what is said of it.
pub struct Damage<'a> {
    /// The reader's name.
    pub name: &'a str,
    /// Where the bytes to change lie.
    pub areas: &'a [Range<usize>],
    pub rounds: u64,
    pub seed: u64,
    /// How often over the volume may be read.
    pub readings: u64,
    /// What is put right after a change: checksums, so that the bytes get past them.
    pub mend: &'a dyn Fn(&mut Vec<u8>),
}

impl Damage<'_> {
    /// Calls `trusted` with the area and the free ranges of each volume that is still
    /// trusted, and gives how many were refused. Up to three bytes of one area are
    /// changed at a time.
    pub fn run(
        &self,
        sound: &[u8],
        mut trusted: impl FnMut(usize, Vec<Range<u64>>),
    ) -> u64 {
        let mut noise = Noise::new(self.seed);
        let (mut refused, mut slowest) = (0, Duration::ZERO);
        for round in 0..self.rounds {
            let mut bytes = sound.to_vec();
            let number = noise.below(self.areas.len() as u64) as usize;
            let area = self.areas[number].clone();
            for _ in 0..=noise.below(3) {
                let at = area.start + noise.below(area.len() as u64) as usize;
                bytes[at] = match noise.below(4) {
                    0 => 0,
                    1 => 0xFF,
                    2 => bytes[at] ^ 1 << noise.below(8),
                    _ => noise.next() as u8,
                };
            }
            (self.mend)(&mut bytes);
            let start = Instant::now();
            let volume = Meter::new(Section::new(&bytes, 0..bytes.len() as u64));
            let (found, free) = survey_as(self.name, &volume);
            slowest = slowest.max(start.elapsed());
            let read = volume.counts().bytes_read;
            assert!(
                read <= self.readings * bytes.len() as u64,
                "round {round}: {read} bytes read"
            );
            match found.untrusted {
                Some(_) => refused += 1,
                None => trusted(number, free),
            }
        }
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
        refused
    }
}

/// Bytes without any sense are neither taken for the reader's own nor trusted, not
/// even with its `signature` put on top.
pub fn assert_noise_is_nothing(name: &str, signature: impl Fn(&mut [u8])) {
    let mut noise = Noise::new(5);
    let reader = reader(name);
    for length in [0usize, 1, 511, 512, 4096, 100_000, 2 << 20] {
        let mut bytes = noise.bytes(length);
        assert!(!reader.probe(&bytes).unwrap());
        assert!(survey_as(name, &bytes).0.untrusted.is_some());
        signature(&mut bytes);
        if reader.probe(&bytes).unwrap() {
            assert!(survey_as(name, &bytes).0.untrusted.is_some());
        } else {
            assert!(length < 1 << 20, "the signature is not known");
        }
    }
}
