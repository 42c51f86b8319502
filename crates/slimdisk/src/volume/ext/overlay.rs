//! The volume as it will be once the journal is replayed.

use std::ops::Range;

use super::superblock::Superblock;
use crate::error::Result;
use crate::storage::ReadAt;

/// The first bytes of an escaped block: they were zeroed in the journal, where
/// they would have looked like a block of its own.
const ESCAPED: [u8; 4] = super::journal::MAGIC.to_be_bytes();

/// A block whose newest content lies in the journal.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// The block of the file system.
    pub block: u64,
    /// The block of the volume its content lies in.
    pub source: u64,
    pub escaped: bool,
}

/// Reads a volume through its journal.
pub(super) struct Overlay<'a> {
    volume: &'a dyn ReadAt,
    block_size: u64,
    /// In ascending order of `block`, each once.
    entries: Vec<Entry>,
}

impl<'a> Overlay<'a> {
    pub(super) fn new(
        volume: &'a dyn ReadAt,
        fs: &Superblock,
        entries: Vec<Entry>,
    ) -> Self {
        Overlay { volume, block_size: u64::from(fs.block_size), entries }
    }

    /// Replaces the part of `buf`, read at `offset`, that `entry` supersedes.
    fn patch(&self, entry: &Entry, offset: u64, buf: &mut [u8]) -> Result<()> {
        let block = entry.block * self.block_size;
        let end = offset + buf.len() as u64;
        let (from, to) = (block.max(offset), (block + self.block_size).min(end));
        let part =
            usize::try_from(from - offset).ok().zip(usize::try_from(to - offset).ok());
        let Some(part) = part.and_then(|(from, to)| buf.get_mut(from..to)) else {
            return Ok(());
        };
        let skip = from - block;
        self.volume.read_at(entry.source * self.block_size + skip, part)?;
        if entry.escaped {
            let skip = usize::try_from(skip).unwrap_or(usize::MAX);
            for (byte, magic) in part.iter_mut().zip(ESCAPED.iter().skip(skip)) {
                *byte = *magic;
            }
        }
        Ok(())
    }
}

impl ReadAt for Overlay<'_> {
    fn len(&self) -> u64 {
        self.volume.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.volume.read_at(offset, buf)?;
        let end = offset + buf.len() as u64;
        let first = self
            .entries
            .partition_point(|entry| (entry.block + 1) * self.block_size <= offset);
        for entry in self.entries.iter().skip(first) {
            if entry.block * self.block_size >= end {
                break;
            }
            self.patch(entry, offset, buf)?;
        }
        Ok(())
    }

    fn will_read(&self, ranges: &[Range<u64>]) {
        self.volume.will_read(ranges);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every read of a small volume, against the volume replayed by hand.
    #[test]
    fn reads_are_those_of_the_replayed_volume() {
        let volume: Vec<u8> = (0..96).collect();
        let entry = |block, source, escaped| Entry { block, source, escaped };
        let entries = vec![entry(2, 7, false), entry(3, 8, true), entry(5, 6, true)];
        let mut replayed = volume.clone();
        for (to, from, magic) in [(16, 56, false), (24, 64, true), (40, 48, true)] {
            replayed.copy_within(from..from + 8, to);
            if magic {
                replayed[to..to + 4].copy_from_slice(&[0xC0, 0x3B, 0x39, 0x98]);
            }
        }
        let overlay = Overlay { volume: &volume, block_size: 8, entries };
        for from in 0..96 {
            for to in from..=96 {
                let mut buf = vec![0; to - from];
                overlay.read_at(from as u64, &mut buf).unwrap();
                assert_eq!(buf, replayed[from..to], "{from}..{to}");
            }
        }
    }
}
