//! FAT12, FAT16 and FAT32 against a reader of the table, partclone, fsck.fat and
//! mtools.

mod distrust;
mod maps;

use std::ops::Range;
use std::path::PathBuf;

use slimdisk::storage::ReadAt;
use slimdisk::volume::Findings;

use crate::free_map::{make_tree, push, survey_as};
use crate::support::{Scratch, sh};

const TOOLS: &[&str] = &["mkfs.fat", "fsck.fat", "mcopy", "mdel", "mmd"];

fn survey(volume: &dyn ReadAt) -> (Findings, Vec<Range<u64>>) {
    survey_as("fat", volume)
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
        push(&mut free, layout.range(cluster));
    }
    free
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
