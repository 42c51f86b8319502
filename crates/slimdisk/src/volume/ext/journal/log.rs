//! The walk along the log, transaction by transaction.

use zerocopy::FromBytes;

use super::super::checksum::{crc32_be, crc32c};
use super::super::on_disk::RawJournalHeader;
use super::super::overlay::Entry;
use super::descriptor::{self, Tag};
use super::records::{Records, Write, later};
use super::{Checksums, Journal, MAGIC, broken, damaged};
use crate::error::Result;
use crate::storage::ReadAt;

/// `h_blocktype`.
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;

/// Bytes of the log read at once.
const WINDOW: u32 = 256 << 10;
/// Bytes after the end of the log in which it must not go on.
const BEYOND: u32 = 4 << 20;

/// Adjacent blocks of the log, read at once.
#[derive(Default)]
struct Window {
    /// The first of them, by its place in the journal.
    logical: u32,
    bytes: Vec<u8>,
}

/// A walk along the log.
pub(super) struct Log<'a> {
    journal: &'a Journal,
    volume: &'a dyn ReadAt,
    /// The next block.
    at: u32,
    /// Blocks left before the walk has gone full circle.
    left: usize,
    window: Window,
}

impl<'a> Log<'a> {
    pub(super) fn new(journal: &'a Journal, volume: &'a dyn ReadAt, start: u32) -> Self {
        let left = journal.log.len();
        Log { journal, volume, at: start, left, window: Window::default() }
    }

    /// Reads one whole transaction; `None` where the log ends before its commit.
    pub(super) fn transaction(&mut self, sequence: u32) -> Result<Option<Records>> {
        let mut records = Records::default();
        let mut data_sum = !0;
        // A stale block may look like part of the transaction that was being
        // written when the machine stopped; only a commit would make it matter.
        let mut doubtful = false;
        loop {
            let Some(block) = self.peek()? else { return Ok(None) };
            let block = block.to_vec();
            let Ok((header, _)) = RawJournalHeader::ref_from_prefix(&block) else {
                return Ok(None);
            };
            if header.magic.get() != MAGIC || header.sequence.get() != sequence {
                return Ok(None);
            }
            self.advance();
            match header.blocktype.get() {
                DESCRIPTOR => {
                    doubtful |= !self.journal.tail_fits(&block);
                    if self.journal.checksums == Checksums::V1 {
                        data_sum = crc32_be(data_sum, &block);
                    }
                    for tag in self.journal.tag_format().tags(&block) {
                        let write = self.data_block(&tag, sequence, &mut data_sum)?;
                        records.writes.push(write);
                    }
                }
                REVOKE => {
                    doubtful |= !self.journal.tail_fits(&block);
                    let revoked = descriptor::revoked(
                        &block,
                        self.journal.is_64bit,
                        self.journal.has_block_checksums(),
                    );
                    match revoked {
                        Some(blocks) => {
                            blocks.for_each(|block| records.revoke(block, sequence));
                        }
                        None => doubtful = true,
                    }
                }
                COMMIT => {
                    if doubtful {
                        return Err(damaged("a descriptor or revoke block", sequence));
                    }
                    if !self.journal.commit_fits(&block, data_sum) {
                        return Err(damaged("the commit block", sequence));
                    }
                    return Ok(Some(records));
                }
                _ => return Ok(None),
            }
            records.check_size()?;
        }
    }

    /// Fails if the log goes on after it seemed to end within transaction
    /// `sequence`.
    ///
    /// Transactions are written one after the other, so what follows the last
    /// one is older, or another part of one that was never committed. A commit
    /// there means that a block before it is lost. A mount would replay the log
    /// up to the loss; but what came after may be in place already, in part, and
    /// then the bitmaps and the files need not agree.
    pub(super) fn check_end(&mut self, sequence: u32) -> Result<()> {
        for _ in 0..BEYOND / self.journal.block_size {
            let journal = self.journal;
            let Some(block) = self.peek()? else { break };
            if let Ok((header, _)) = RawJournalHeader::ref_from_prefix(block)
                && header.magic.get() == MAGIC
            {
                let (found, kind) = (header.sequence.get(), header.blocktype.get());
                // A foreign journal's remains fail the checksum. That of v1 needs
                // the transaction's other blocks; a commit is then enough.
                let sound = match kind {
                    COMMIT => {
                        journal.checksums == Checksums::V1
                            || journal.commit_fits(block, 0)
                    }
                    DESCRIPTOR | REVOKE => journal.tail_fits(block),
                    _ => false,
                };
                let goes_on =
                    later(found, sequence) || (found == sequence && kind == COMMIT);
                if sound && goes_on {
                    return Err(damaged("a block", sequence));
                }
            }
            self.advance();
        }
        Ok(())
    }

    /// Takes the data block of `tag` from the log.
    fn data_block(
        &mut self,
        tag: &Tag,
        sequence: u32,
        data_sum: &mut u32,
    ) -> Result<Write> {
        let journal = self.journal;
        let mut sound = true;
        match journal.checksums {
            Checksums::None => {}
            Checksums::V1 => {
                if let Some(block) = self.peek()? {
                    *data_sum = crc32_be(*data_sum, block);
                }
            }
            Checksums::V2 | Checksums::V3 => {
                if let Some(block) = self.peek()? {
                    let sum = crc32c(journal.seed, &sequence.to_be_bytes());
                    sound = tag.fits(crc32c(sum, block));
                }
            }
        }
        let place = journal.map.find(u64::from(self.at));
        let (Some(place), true) = (place, self.left > 0) else {
            return Err(damaged("the data blocks", sequence));
        };
        self.advance();
        let entry = Entry { block: tag.block, source: place.start, escaped: tag.escaped };
        Ok(Write { entry, sequence, sound })
    }

    /// The next block, unless the walk has gone full circle.
    fn peek(&mut self) -> Result<Option<&[u8]>> {
        if self.left == 0 {
            return Ok(None);
        }
        let size = self.journal.block_size;
        let held = |window: &Window, at: u32| {
            let skip = at.checked_sub(window.logical)?;
            let from = (skip as usize).checked_mul(size as usize)?;
            Some(from..from + size as usize).filter(|part| part.end <= window.bytes.len())
        };
        if held(&self.window, self.at).is_none() {
            self.fill()?;
        }
        let part = held(&self.window, self.at);
        Ok(part.and_then(|part| self.window.bytes.get(part)))
    }

    /// Reads ahead from the next block.
    fn fill(&mut self) -> Result<()> {
        let journal = self.journal;
        let place = journal
            .map
            .find(u64::from(self.at))
            .ok_or_else(|| broken("has bounds beyond the journal"))?;
        let most = (WINDOW / journal.block_size).min(journal.log.end - self.at).max(1);
        let blocks = (place.end - place.start).min(u64::from(most));
        let len = blocks * u64::from(journal.block_size);
        self.window.logical = self.at;
        // At most WINDOW bytes.
        self.window.bytes.resize(usize::try_from(len).unwrap_or_default(), 0);
        let offset = place.start * u64::from(journal.block_size);
        self.volume.read_at(offset, &mut self.window.bytes)
    }

    fn advance(&mut self) {
        self.at += 1;
        if self.at >= self.journal.log.end {
            self.at = self.journal.log.start;
        }
        self.left = self.left.saturating_sub(1);
    }
}
