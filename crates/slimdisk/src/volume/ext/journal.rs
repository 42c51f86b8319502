//! The journal (jbd2): its superblock, and what its replay would write.
//!
//! The log is a ring of transactions. Each is descriptor blocks with the data
//! blocks they name, and revoke blocks, in any order, closed by a commit block:
//!
//! ```text
//! superblock | descriptor data data ... | revoke | commit | descriptor ...
//! ```
//!
//! The kernel recovers in three passes over the log (`fs/jbd2/recovery.c`): find
//! the last commit, collect the revoke records, write the data blocks. One pass
//! that keeps what it has seen until the commit gives the same result. Where the
//! kernel weighs a checksum that fails against the time of a commit, or carries
//! on after an asynchronous one, the journal is not trusted here.
//!
//! Source: the kernel's `Documentation/filesystems/ext4/journal.rst`.

mod descriptor;

use std::collections::HashMap;
use std::ops::Range;

use zerocopy::{FromBytes, IntoBytes};

use self::descriptor::{Tag, TagFormat};
use super::checksum::{crc32_be, crc32c};
use super::inode::BlockMap;
use super::on_disk::{RawCommitHeader, RawJournalHeader, RawJournalSuperblock};
use super::overlay::Entry;
use super::superblock::Superblock;
use super::{RUN_FSCK, UNMOUNT};
use crate::error::{Error, Result};
use crate::ranges::Ranges;
use crate::storage::{ReadAt, read_struct};

/// What every block of the journal but the data blocks starts with.
pub(super) const MAGIC: u32 = 0xC03B_3998;

/// `h_blocktype`.
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const SUPERBLOCK_V1: u32 = 3;
const SUPERBLOCK_V2: u32 = 4;
const REVOKE: u32 = 5;

/// Feature flags of the journal.
const COMPAT_CHECKSUM: u32 = 1;
const INCOMPAT_REVOKE: u32 = 1;
const INCOMPAT_64BIT: u32 = 2;
const INCOMPAT_ASYNC_COMMIT: u32 = 4;
const INCOMPAT_CSUM_V2: u32 = 8;
const INCOMPAT_CSUM_V3: u32 = 0x10;
const INCOMPAT_FAST_COMMIT: u32 = 0x20;
const KNOWN_INCOMPAT: u32 = INCOMPAT_REVOKE
    | INCOMPAT_64BIT
    | INCOMPAT_ASYNC_COMMIT
    | INCOMPAT_CSUM_V2
    | INCOMPAT_CSUM_V3
    | INCOMPAT_FAST_COMMIT;

/// Checksum types: in commit blocks of v1, and in the superblock of v2 and v3.
const CRC32: u8 = 1;
const CRC32C: u8 = 4;

/// Block tags, and revoke records, that one replay may have: 16 GiB of blocks.
const MAX_RECORDS: usize = 1 << 22;
/// Bytes of the log read at once.
const WINDOW: u32 = 256 << 10;

/// How a journal guards its blocks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Checksums {
    None,
    /// One CRC-32 for all of a transaction, in its commit block.
    V1,
    /// A CRC-32C for each block; v2 and v3 differ in the size of tags.
    V2,
    V3,
}

/// A journal whose superblock and mapping have been checked.
pub(super) struct Journal {
    map: BlockMap,
    block_size: u32,
    checksums: Checksums,
    seed: u32,
    is_64bit: bool,
    fast_commit: bool,
    /// The log's blocks within the journal.
    log: Range<u32>,
    /// Where the log starts; `None` if there is nothing to replay.
    start: Option<u32>,
    /// The first transaction's number.
    sequence: u32,
}

fn broken(what: &str) -> Error {
    Error::invalid(format!("the journal's superblock {what}: {RUN_FSCK}"))
}

fn damaged(what: &str, sequence: u32) -> Error {
    Error::invalid(format!(
        "the journal is damaged ({what} of transaction {sequence}): {RUN_FSCK}"
    ))
}

impl Journal {
    /// Reads the journal's inode and superblock.
    pub(super) fn open(fs: &Superblock, volume: &dyn ReadAt) -> Result<Self> {
        let map = BlockMap::of_journal(fs, volume)?;
        let first = map.find(0).ok_or_else(|| broken("is missing"))?;
        let offset = fs.byte(first.start);
        let raw: RawJournalSuperblock = read_struct(volume, offset)?;
        Self::new(fs, map, &raw).map_err(|error| error.at(offset))
    }

    fn new(fs: &Superblock, map: BlockMap, raw: &RawJournalSuperblock) -> Result<Self> {
        let expect = |sound, what| if sound { Ok(()) } else { Err(broken(what)) };
        expect(raw.magic.get() == MAGIC, "has lost its signature")?;
        expect(raw.blocksize.get() == fs.block_size, "has a wrong block size")?;
        let (compat, incompat) = match raw.blocktype.get() {
            SUPERBLOCK_V1 => (0, 0),
            SUPERBLOCK_V2 => {
                let unknown = (raw.feature_compat.get() & !COMPAT_CHECKSUM)
                    | (raw.feature_incompat.get() & !KNOWN_INCOMPAT)
                    | raw.feature_ro_compat.get();
                if unknown != 0 {
                    return Err(Error::invalid(format!(
                        "the journal has an unknown feature ({unknown:#x}): \
                         a newer version of this program may know it"
                    )));
                }
                expect(raw.nr_users.get() <= 1, "names several users")?;
                (raw.feature_compat.get(), raw.feature_incompat.get())
            }
            _ => return Err(broken("is of an unknown type")),
        };
        let v1 = compat & COMPAT_CHECKSUM != 0;
        let v2 = incompat & INCOMPAT_CSUM_V2 != 0;
        let v3 = incompat & INCOMPAT_CSUM_V3 != 0;
        let checksums = match (v1, v2, v3) {
            (false, false, false) => Checksums::None,
            (true, false, false) => Checksums::V1,
            (false, true, false) => Checksums::V2,
            (false, false, true) => Checksums::V3,
            _ => return Err(broken("has several kinds of checksum at once")),
        };
        if v2 || v3 {
            expect(raw.checksum_type == CRC32C, "names an unknown checksum type")?;
            let mut zeroed = raw.clone();
            zeroed.checksum.set(0);
            expect(
                crc32c(!0, zeroed.as_bytes()) == raw.checksum.get(),
                "does not match its checksum",
            )?;
        }
        if raw.errno.get() != 0 {
            return Err(Error::invalid(format!(
                "the journal was given up after an error: {RUN_FSCK}"
            )));
        }
        let log = raw.first.get()..raw.maxlen.get();
        expect(
            0 < log.start && log.start < log.end && u64::from(log.end) <= map.len(),
            "has impossible bounds",
        )?;
        let start = Some(raw.start.get()).filter(|start| *start != 0);
        expect(
            start.is_none_or(|start| log.contains(&start)),
            "points outside the journal",
        )?;
        Ok(Journal {
            map,
            block_size: fs.block_size,
            checksums,
            seed: crc32c(!0, &raw.uuid),
            is_64bit: incompat & INCOMPAT_64BIT != 0,
            fast_commit: incompat & INCOMPAT_FAST_COMMIT != 0,
            log,
            start,
            sequence: raw.sequence.get(),
        })
    }

    /// Whether the journal holds no transactions to be replayed.
    pub(super) fn is_empty(&self) -> bool {
        self.start.is_none()
    }

    /// Every block of the journal and of its mapping.
    pub(super) fn blocks(&self) -> Ranges {
        let mut blocks: Vec<_> = self.map.blocks().collect();
        blocks.sort_unstable_by_key(|range| range.start);
        blocks.into_iter().collect()
    }

    /// What a mount would write to the volume before anything else.
    pub(super) fn replay(&self, volume: &dyn ReadAt) -> Result<Vec<Entry>> {
        // Fast commits are small changes to be made to inodes and bitmaps, in a
        // part of the log of their own; only the kernel can apply them.
        if self.fast_commit {
            return Err(Error::invalid(format!(
                "the journal may hold fast commits, which are not replayed here: {UNMOUNT}"
            )));
        }
        let Some(start) = self.start else { return Ok(Vec::new()) };
        let mut committed = Records::default();
        let mut log = Log {
            journal: self,
            volume,
            at: start,
            left: self.log.len(),
            window: Window::default(),
        };
        let mut sequence = self.sequence;
        while let Some(mut transaction) = log.transaction(sequence)? {
            committed.take(&mut transaction)?;
            sequence = sequence.wrapping_add(1);
        }
        let entries = committed.into_writes()?;
        let own = self.blocks();
        let end = volume.len() / u64::from(self.block_size);
        if entries
            .iter()
            .any(|e| e.block >= end || own.intersects(&(e.block..e.block + 1)))
        {
            return Err(Error::invalid(format!(
                "the journal would be replayed over itself or past the end of the \
                 volume: {RUN_FSCK}"
            )));
        }
        Ok(entries)
    }

    fn has_block_checksums(&self) -> bool {
        matches!(self.checksums, Checksums::V2 | Checksums::V3)
    }

    fn tag_format(&self) -> TagFormat {
        TagFormat::new(self.checksums, self.is_64bit)
    }

    /// Whether a descriptor or revoke block bears the right checksum.
    fn tail_fits(&self, block: &[u8]) -> bool {
        if !self.has_block_checksums() {
            return true;
        }
        let Some((summed, tail)) = block.split_last_chunk() else { return false };
        crc32c(crc32c(self.seed, summed), &[0; 4]) == u32::from_be_bytes(*tail)
    }

    /// Whether a commit block bears the right checksum; `data_sum` is that of
    /// the transaction's other blocks, for v1.
    fn commit_fits(&self, block: &[u8], data_sum: u32) -> bool {
        let Ok((commit, _)) = RawCommitHeader::ref_from_prefix(block) else {
            return false;
        };
        let [sum, ..] = commit.checksum;
        match self.checksums {
            Checksums::None => true,
            Checksums::V1 => {
                let kind = (commit.checksum_type, commit.checksum_size, sum.get());
                kind == (CRC32, 4, data_sum) || kind == (0, 0, 0)
            }
            Checksums::V2 | Checksums::V3 => {
                let (before, rest) = block.split_at_checked(16).unwrap_or_default();
                let after = rest.get(4..).unwrap_or_default();
                crc32c(crc32c(crc32c(self.seed, before), &[0; 4]), after) == sum.get()
            }
        }
    }
}

/// A data block of the log.
struct Write {
    entry: Entry,
    sequence: u32,
    /// Whether it matches its tag's checksum.
    sound: bool,
}

/// What transactions want written, and what they forbid earlier ones to write.
#[derive(Default)]
struct Records {
    writes: Vec<Write>,
    /// Blocks with the newest transaction that revokes them.
    revoked: HashMap<u64, u32>,
}

/// Whether transaction `a` is later than `b`; the numbers wrap.
fn later(a: u32, b: u32) -> bool {
    let ahead = a.wrapping_sub(b);
    ahead != 0 && ahead < 1 << 31
}

impl Records {
    /// Adds a later transaction's records to these.
    fn take(&mut self, transaction: &mut Records) -> Result<()> {
        self.writes.append(&mut transaction.writes);
        for (block, sequence) in transaction.revoked.drain() {
            self.revoke(block, sequence);
        }
        self.check_size()
    }

    fn revoke(&mut self, block: u64, sequence: u32) {
        let newest = self.revoked.entry(block).or_insert(sequence);
        if later(sequence, *newest) {
            *newest = sequence;
        }
    }

    fn check_size(&self) -> Result<()> {
        if self.writes.len() > MAX_RECORDS || self.revoked.len() > MAX_RECORDS {
            return Err(Error::invalid(format!(
                "the journal holds more than can be replayed here: {UNMOUNT}"
            )));
        }
        Ok(())
    }

    /// The last unrevoked write of each block, in ascending order of blocks.
    fn into_writes(mut self) -> Result<Vec<Entry>> {
        self.writes.retain(|write| {
            let revoked = self.revoked.get(&write.entry.block);
            revoked.is_none_or(|revoked| later(write.sequence, *revoked))
        });
        if let Some(write) = self.writes.iter().find(|write| !write.sound) {
            return Err(damaged("a data block", write.sequence));
        }
        // The sort is stable: the last of equals is the latest.
        self.writes.sort_by_key(|write| write.entry.block);
        let mut entries: Vec<Entry> = Vec::new();
        for Write { entry, .. } in self.writes {
            match entries.last_mut() {
                Some(last) if last.block == entry.block => *last = entry,
                _ => entries.push(entry),
            }
        }
        Ok(entries)
    }
}

/// Adjacent blocks of the log, read at once.
#[derive(Default)]
struct Window {
    /// The first of them, by its place in the journal.
    logical: u32,
    bytes: Vec<u8>,
}

/// A walk along the log.
struct Log<'a> {
    journal: &'a Journal,
    volume: &'a dyn ReadAt,
    /// The next block.
    at: u32,
    /// Blocks left before the walk has gone full circle.
    left: usize,
    window: Window,
}

impl Log<'_> {
    /// Reads one whole transaction; `None` where the log ends before its commit.
    fn transaction(&mut self, sequence: u32) -> Result<Option<Records>> {
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
