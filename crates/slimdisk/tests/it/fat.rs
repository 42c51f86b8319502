//! FAT12, FAT16 and FAT32 against a reader of the table, partclone, fsck.fat and
//! mtools.

mod distrust;
mod maps;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use slimdisk::storage::ReadAt;
use slimdisk::volume::{Allowances, FILE_SYSTEMS, FileSystem, Findings};

use crate::support::{Noise, Scratch, sh};

const TOOLS: &[&str] = &["mkfs.fat", "fsck.fat", "mcopy", "mdel", "mmd"];

fn fat() -> &'static dyn FileSystem {
    *FILE_SYSTEMS.iter().find(|fs| fs.name() == "fat").unwrap()
}

/// What `reader` says of `volume`, with the contract of the sink checked.
pub fn survey_as(
    reader: &dyn FileSystem,
    volume: &dyn ReadAt,
) -> (Findings, Vec<Range<u64>>) {
    let mut free: Vec<Range<u64>> = Vec::new();
    let found = reader
        .survey(volume, &Allowances::default(), &mut |range| {
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

fn survey(volume: &dyn ReadAt) -> (Findings, Vec<Range<u64>>) {
    survey_as(fat(), volume)
}

/// Where things lie, read once more in the plainest way.
struct Layout {
    bits: usize,
    fat: usize,
    fat_size: usize,
    data: usize,
    cluster: usize,
    clusters: usize,
}

impl Layout {
    fn of(bytes: &[u8]) -> Self {
        let le = |at: usize, n: usize| {
            bytes[at..at + n].iter().rev().fold(0, |sum, b| sum << 8 | usize::from(*b))
        };
        let (sector, cluster, fat) = (le(11, 2), le(13, 1), le(14, 2));
        let fat_size = if le(22, 2) > 0 { le(22, 2) } else { le(36, 4) };
        let sectors = if le(19, 2) > 0 { le(19, 2) } else { le(32, 4) };
        let data = fat + le(16, 1) * fat_size + le(17, 2) * 32 / sector;
        let clusters = (sectors - data) / cluster;
        let bits = match clusters {
            0..4085 => 12,
            4085..65525 => 16,
            _ => 32,
        };
        Layout {
            bits,
            fat: fat * sector,
            fat_size: fat_size * sector,
            data: data * sector,
            cluster: cluster * sector,
            clusters,
        }
    }

    /// The first bit of an entry.
    fn bit(&self, copy: usize, cluster: usize) -> usize {
        (self.fat + copy * self.fat_size) * 8 + cluster * self.bits
    }

    fn entry(&self, bytes: &[u8], copy: usize, cluster: usize) -> u32 {
        let bits = if self.bits == 32 { 28 } else { self.bits };
        let first = self.bit(copy, cluster);
        (first..first + bits)
            .rev()
            .fold(0, |sum, bit| sum << 1 | u32::from(bytes[bit / 8] >> (bit % 8) & 1))
    }

    fn set(&self, bytes: &mut [u8], copy: usize, cluster: usize, value: u32) {
        let bits = if self.bits == 32 { 28 } else { self.bits };
        let first = self.bit(copy, cluster);
        for (n, bit) in (first..first + bits).enumerate() {
            bytes[bit / 8] &= !(1 << (bit % 8));
            bytes[bit / 8] |= u8::from(value >> n & 1 == 1) << (bit % 8);
        }
    }

    /// Sets the entry in every copy there may be (the two that are usual).
    fn set_all(&self, bytes: &mut [u8], cluster: usize, value: u32) {
        for copy in 0..usize::from(bytes[16]) {
            self.set(bytes, copy, cluster, value);
        }
    }

    fn range(&self, cluster: usize) -> Range<u64> {
        let start = (self.data + (cluster - 2) * self.cluster) as u64;
        start..start + self.cluster as u64
    }

    fn find_free(&self, bytes: &[u8]) -> usize {
        (2..self.clusters + 2).rev().find(|c| self.entry(bytes, 0, *c) == 0).unwrap()
    }
}

/// The free ranges, cluster by cluster.
fn plain_free(bytes: &[u8]) -> Vec<Range<u64>> {
    let layout = Layout::of(bytes);
    let mut free: Vec<Range<u64>> = Vec::new();
    for cluster in 2..layout.clusters + 2 {
        if layout.entry(bytes, 0, cluster) != 0 {
            continue;
        }
        let range = layout.range(cluster);
        match free.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => free.push(range),
        }
    }
    free
}

/// A tree of files, some of them in folders, of which `old*` is to be deleted and
/// `late*` to be added after that; less than 1 MiB.
pub fn make_tree(dir: &Path) {
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

/// Makes a volume with the tree in it, half of it deleted and something added.
fn make(scratch: &Scratch, name: &str, size: &str, options: &str) -> PathBuf {
    let image = scratch.path(name);
    if !scratch.path("tree").exists() {
        make_tree(&scratch.path("tree"));
    }
    sh(&format!(
        "export MTOOLS_SKIP_CHECK=1
         v={} t={}
         rm -f $v; truncate -s {size} $v; mkfs.fat {options} $v >/dev/null 2>&1
         mcopy -i $v -s $t/first/* ::
         mdel -i $v '::old*' '::d/old*' '::d/e/old*'
         mcopy -i $v -s $t/late ::",
        image.display(),
        scratch.path("tree").display()
    ));
    image
}

/// Overwrites `ranges` with noise.
pub fn scribble(bytes: &mut [u8], ranges: &[Range<u64>]) {
    let noise = Noise::new(7).bytes(1 << 20);
    for range in ranges {
        let (mut at, end) = (range.start as usize, range.end as usize);
        while at < end {
            let len = (end - at).min(noise.len());
            bytes[at..at + len].copy_from_slice(&noise[..len]);
            at += len;
        }
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
