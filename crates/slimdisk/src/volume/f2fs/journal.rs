//! Journals: the latest entries of both tables, kept in the checkpoint's summaries.
//!
//! Source: `struct f2fs_journal` and `read_compacted_summaries` in the kernel's
//! `fs/f2fs/segment.c`.

use zerocopy::FromBytes;

use super::RUN_FSCK;
use super::checkpoint::Checkpoint;
use super::on_disk::{RawNatEntry, RawNatJournalEntry, RawSitEntry, RawSitJournalEntry};
use super::superblock::Superblock;
use crate::error::{Error, Result};
use crate::storage::ReadAt;

/// What 512 entries of 7 bytes and a footer of 5 leave of a block.
pub(super) const SIZE: usize = 507;
/// Where that room begins.
pub(super) const AT: u64 = 512 * 7;

/// Entries that count instead of those in the tables; at most 38 and 6.
#[derive(Debug)]
pub(super) struct Journals {
    nat: Vec<RawNatJournalEntry>,
    sit: Vec<RawSitJournalEntry>,
}

impl std::fmt::Debug for RawNatJournalEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "node {}", self.node)
    }
}

impl std::fmt::Debug for RawSitJournalEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "segment {}", self.segment)
    }
}

impl Journals {
    pub(super) fn read(
        volume: &dyn ReadAt,
        fs: &Superblock,
        checkpoint: &Checkpoint,
    ) -> Result<Self> {
        let [nat, sit] = checkpoint.journals();
        let nat = read(volume, nat)?;
        let at = sit;
        let sit: Vec<RawSitJournalEntry> = read(volume, sit)?;
        for (number, entry) in sit.iter().enumerate() {
            let segment = entry.segment.get();
            let twice = sit.iter().take(number).any(|e| e.segment.get() == segment);
            if segment >= fs.main_segments || twice {
                return Err(damaged(at));
            }
        }
        Ok(Journals { nat, sit })
    }

    pub(super) fn nat(&self, node: u32) -> Option<RawNatEntry> {
        self.nat.iter().find(|entry| entry.node.get() == node).map(|entry| entry.entry)
    }

    pub(super) fn sit(&self, segment: u32) -> Option<&RawSitEntry> {
        let found = self.sit.iter().find(|entry| entry.segment.get() == segment);
        found.map(|entry| &entry.entry)
    }
}

/// A number of two bytes, then as many entries.
fn read<E: FromBytes>(volume: &dyn ReadAt, at: u64) -> Result<Vec<E>> {
    let mut bytes = [0; SIZE];
    volume.read_at(at, &mut bytes)?;
    let ([low, high, entries @ ..], size) = (&bytes, size_of::<E>());
    let count = usize::from(u16::from_le_bytes([*low, *high]));
    if count > entries.len() / size {
        return Err(damaged(at));
    }
    entries
        .chunks_exact(size)
        .take(count)
        .map(|bytes| E::read_from_bytes(bytes).map_err(|_| damaged(at)))
        .collect()
}

fn damaged(at: u64) -> Error {
    Error::invalid(format!("a journal of the checkpoint is damaged: {RUN_FSCK}")).at(at)
}
