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
//! on after an asynchronous one, the journal is not trusted here; nor where the
//! log goes on after its end.
//!
//! Source: the kernel's `Documentation/filesystems/ext4/journal.rst`.

mod descriptor;
mod log;
mod records;

use std::ops::Range;

use zerocopy::{FromBytes, IntoBytes};

use self::descriptor::TagFormat;
use self::log::Log;
use self::records::Records;
use super::checksum::crc32c;
use super::inode::BlockMap;
use super::on_disk::{RawCommitHeader, RawJournalSuperblock};
use super::overlay::Entry;
use super::superblock::Superblock;
use super::{RUN_FSCK, UNMOUNT};
use crate::error::{Error, Result};
use crate::ranges::Ranges;
use crate::storage::{ReadAt, read_struct};

/// What every block of the journal but the data blocks starts with.
pub(super) const MAGIC: u32 = 0xC03B_3998;

/// `h_blocktype` of the superblock.
const SUPERBLOCK_V1: u32 = 3;
const SUPERBLOCK_V2: u32 = 4;

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
        let mut log = Log::new(self, volume, start);
        let mut sequence = self.sequence;
        while let Some(mut transaction) = log.transaction(sequence)? {
            committed.take(&mut transaction)?;
            sequence = sequence.wrapping_add(1);
        }
        log.check_end(sequence)?;
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
