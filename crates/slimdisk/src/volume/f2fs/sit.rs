//! The segment information table: which blocks of the main area are in use.
//!
//! ```text
//! copy 0: | 55 segments | 55 segments | ...      the checkpoint has a bit a block
//! copy 1: | 55 segments | 55 segments | ...      that says which copy counts
//! ```
//!
//! The table has no checksums. What speaks for it are four counts: of each segment's
//! own blocks, of all node blocks, of empty segments, and that no log's next block is
//! in use. All blocks together are at most as many as the checkpoint counts: that one
//! also counts blocks which files reserved without a place for them (`fallocate`).
//!
//! Source: `build_sit_entries`, `check_block_count` and `sanity_check_curseg` in the
//! kernel's `fs/f2fs`.

use std::ops::Range;

use zerocopy::FromBytes;

use super::checkpoint::{Checkpoint, FIRST_NODE_LOG, LOGS};
use super::journal::Journals;
use super::on_disk::RawSitEntry;
use super::superblock::Superblock;
use super::{BLOCK, RUN_FSCK};
use crate::error::{Error, Result};
use crate::storage::ReadAt;
use crate::volume::FreeSink;

/// How many entries a block has.
pub(super) const ENTRIES: u64 = BLOCK / size_of::<RawSitEntry>() as u64;

/// How many blocks of the table are read at once.
const BATCH: u64 = 64;

/// Blocks that are known to be in use, and by what.
pub(super) type Occupied = (&'static str, u64);

/// Reads the whole table.
pub(super) struct Reader<'a, 's> {
    fs: &'a Superblock,
    checkpoint: &'a Checkpoint,
    journals: &'a Journals,
    occupied: &'a [Occupied],
    free: &'a mut FreeSink<'s>,
    pending: Range<u64>,
    free_blocks: u64,
    valid_blocks: u64,
    valid_nodes: u64,
    free_segments: u64,
}

impl<'a, 's> Reader<'a, 's> {
    pub(super) fn new(
        fs: &'a Superblock,
        checkpoint: &'a Checkpoint,
        journals: &'a Journals,
        occupied: &'a [Occupied],
        free: &'a mut FreeSink<'s>,
    ) -> Self {
        Reader {
            fs,
            checkpoint,
            journals,
            occupied,
            free,
            pending: 0..0,
            free_blocks: 0,
            valid_blocks: 0,
            valid_nodes: 0,
            free_segments: 0,
        }
    }

    /// Sends all free blocks to the sink and gives their number.
    pub(super) fn read(mut self, volume: &dyn ReadAt) -> Result<u64> {
        let blocks = u64::from(self.fs.main_segments).div_ceil(ENTRIES);
        let mut copies = [Vec::new(), Vec::new()];
        let mut segment = 0;
        let mut block = 0;
        while block < blocks {
            let batch = (blocks - block).min(BATCH);
            let numbers = block..block + batch;
            for (copy, bytes) in copies.iter_mut().enumerate() {
                let second = copy == 1;
                if numbers.clone().any(|n| self.checkpoint.second_sit(n) == second) {
                    let start =
                        self.fs.sit + block + if second { self.fs.sit_blocks } else { 0 };
                    bytes.resize(usize::try_from(batch * BLOCK).unwrap_or(0), 0);
                    volume.read_at(Superblock::byte(start), bytes)?;
                }
            }
            let [first, second] = &copies;
            for number in numbers {
                let bytes =
                    if self.checkpoint.second_sit(number) { second } else { first };
                let at = usize::try_from((number - block) * BLOCK).unwrap_or(0);
                let entries = bytes.get(at..).unwrap_or_default();
                segment = self.judge_block(segment, entries)?;
            }
            block += batch;
        }
        self.pass_on()?;
        self.check_counts()?;
        Ok(self.free_blocks)
    }

    /// Judges the segments of one block from `first` on and gives the next one.
    fn judge_block(&mut self, first: u32, bytes: &[u8]) -> Result<u32> {
        let mut segment = first;
        let entries = usize::try_from(ENTRIES).unwrap_or(0);
        for bytes in bytes.chunks_exact(size_of::<RawSitEntry>()).take(entries) {
            if segment == self.fs.main_segments {
                break;
            }
            match (self.journals.sit(segment), RawSitEntry::ref_from_bytes(bytes)) {
                (Some(entry), _) | (None, Ok(entry)) => self.judge(segment, entry)?,
                (None, Err(_)) => return Err(self.broken(segment, "cannot be read")),
            }
            segment += 1;
        }
        Ok(segment)
    }

    fn judge(&mut self, segment: u32, entry: &RawSitEntry) -> Result<()> {
        let (kind, count) =
            (entry.valid_blocks.get() >> 10, u64::from(entry.valid_blocks.get() & 0x3FF));
        let (words, _) = entry.valid_map.as_chunks::<8>();
        let words = words.iter().map(|bytes| u64::from_be_bytes(*bytes));
        let set: u64 = words.clone().map(|word| u64::from(word.count_ones())).sum();
        if set != count {
            let what = format!("has {set} blocks in use where its count says {count}");
            return Err(self.broken(segment, &what));
        }
        if usize::from(kind) >= LOGS {
            return Err(self.broken(segment, &format!("is of the unknown type {kind}")));
        }
        self.valid_blocks += count;
        if usize::from(kind) >= FIRST_NODE_LOG {
            self.valid_nodes += count;
        }
        match self.checkpoint.logs.iter().find(|log| log.segment == segment) {
            None => self.free_segments += u64::from(count == 0),
            Some(log) => {
                let end = if log.appends { 512 } else { log.offset.saturating_add(1) };
                if (log.offset..end).any(|block| in_use(&entry.valid_map, block)) {
                    return Err(self.broken(
                        segment,
                        "has blocks in use that are yet to be written",
                    ));
                }
            }
        }
        let start = self.fs.segment(segment);
        for (number, word) in (0..).zip(words) {
            self.word(start + number * 64, word)?;
        }
        Ok(())
    }

    /// Takes 64 blocks from `start` on, the first in the highest bit.
    fn word(&mut self, start: u64, word: u64) -> Result<()> {
        let mut at = 0;
        while at < 64 {
            let rest = word << at;
            // The bits shifted in are no blocks.
            let free = rest.leading_zeros().min(64 - at);
            if free > 0 {
                self.add(start + u64::from(at)..start + u64::from(at + free))?;
            }
            at += free;
            if at < 64 {
                at += (word << at).leading_ones();
            }
        }
        Ok(())
    }

    /// Takes free blocks, in ascending order.
    fn add(&mut self, free: Range<u64>) -> Result<()> {
        if self.pending.end == free.start {
            self.pending.end = free.end;
            return Ok(());
        }
        self.pass_on()?;
        self.pending = free;
        Ok(())
    }

    fn pass_on(&mut self) -> Result<()> {
        let free = std::mem::take(&mut self.pending);
        if free.is_empty() {
            return Ok(());
        }
        if let Some((owner, block)) = self.occupied.iter().find(|(_, b)| free.contains(b))
        {
            return Err(Error::invalid(format!(
                "the segment information table calls the block of {owner} free: {RUN_FSCK}"
            ))
            .at(Superblock::byte(*block)));
        }
        self.free_blocks += free.end - free.start;
        (self.free)(Superblock::byte(free.start)..Superblock::byte(free.end));
        Ok(())
    }

    fn check_counts(&self) -> Result<()> {
        let checkpoint = self.checkpoint;
        for (what, found, said, right) in [
            (
                "node blocks in use",
                self.valid_nodes,
                checkpoint.valid_nodes,
                self.valid_nodes == checkpoint.valid_nodes,
            ),
            (
                "empty segments",
                self.free_segments,
                checkpoint.free_segments,
                self.free_segments == checkpoint.free_segments,
            ),
            (
                "blocks in use",
                self.valid_blocks,
                checkpoint.valid_blocks,
                self.valid_blocks <= checkpoint.valid_blocks,
            ),
        ] {
            if !right {
                return Err(Error::invalid(format!(
                    "the segment information table has {found} {what}, the checkpoint \
                     {said}: {RUN_FSCK}"
                )));
            }
        }
        Ok(())
    }

    fn broken(&self, segment: u32, what: &str) -> Error {
        Error::invalid(format!("segment {segment} {what}: {RUN_FSCK}"))
            .at(Superblock::byte(self.fs.segment(segment)))
    }
}

fn in_use(map: &[u8; 64], block: u16) -> bool {
    map.get(usize::from(block / 8)).is_none_or(|byte| byte >> (7 - block % 8) & 1 == 1)
}
