//! The log: whether the last thing written to it was that the file system was
//! unmounted.
//!
//! The log is a ring of basic blocks (512 bytes), written in records. The first word
//! of every basic block is the cycle, how often the ring has been begun; only the
//! header of a record has its signature there and the cycle behind it. So the place
//! where the cycle drops by one is the head, where the next record will go:
//!
//! ```text
//! cycle  8   8    8   8  |  7    7   7    7
//!        header data ... |  (older records)
//!                       head
//! ```
//!
//! A clean unmount writes everything to its place and then one record with nothing
//! but the operation "unmount". If that record ends at the head, there is nothing to
//! replay. A record that was begun after it shows in the cycles; where the kernel
//! would ignore one that is not whole, the volume is not trusted here.
//!
//! When `xfs_repair` or `xfs_admin` empty the log, they write such a record at its start,
//! in a new cycle, leave zeros after it, and fill the rest with the cycle before:
//!
//! ```text
//! cycle  8   8  |  0   0   0 ...  |  7 ...
//!        header data              block 512
//! ```
//!
//! Source: XFS Algorithms & Data Structures, Journaling Log; how far from the head
//! records can be missing is what the kernel assumes (`fs/xfs/xfs_log_recover.c`).

use zerocopy::FromBytes;
use zerocopy::big_endian::U32;

use super::on_disk::{RawLogOperation, RawLogRecord};
use super::superblock::Superblock;
use super::{REMOUNT, REPAIR};
use crate::error::{Error, Result};
use crate::storage::{ReadAt, read_struct};

const BASIC_BLOCK: usize = 512;
/// `XLOG_HEADER_MAGIC_NUM`; no cycle has this number.
const MAGIC: u32 = 0xFEED_BABE;
/// A header has room for the cycles of this many bytes; a longer record has further
/// blocks of them.
const HEADER_REACH: u32 = 32 << 10;
/// The longest record: 256 KiB and eight blocks of header.
const MAX_RECORD: usize = (256 << 10) / BASIC_BLOCK + 8;
/// How many basic blocks can be on their way to the disk at once: eight buffers of
/// 256 KiB, or of 32 KiB in version 1 of the log.
const IN_FLIGHT_V2: u64 = (8 << 18) / 512;
const IN_FLIGHT_V1: u64 = (8 << 15) / 512;
/// How many basic blocks at the start of the log are written at once by what empties
/// it.
const EMPTIED: u64 = 512;
/// `XLOG_UNMOUNT_TRANS`, and `XFS_LOG`, the client that writes it.
const UNMOUNT: u8 = 0x20;
const LOG_CLIENT: u8 = 0xAA;
/// Where `h_crc` lies, and how much of a header it covers, which differs by the
/// machine that wrote it.
const CHECKSUM: usize = 32;
const SUMMED: [usize; 2] = [328, 324];
/// How much of a further block of cycles is covered.
const SUMMED_FURTHER: usize = 260;

struct Log<'a> {
    volume: &'a dyn ReadAt,
    fs: &'a Superblock,
    /// Where it begins, in bytes.
    start: u64,
    /// Its length in basic blocks.
    blocks: u64,
}

/// Where the cycle drops: blocks before it bear `cycle`, those from it on the one
/// before. At least 1; the log's length if all blocks bear `cycle`.
#[derive(Clone, Copy)]
struct Head {
    block: u64,
    cycle: u32,
}

impl Head {
    fn cycle_of(self, block: u64) -> u32 {
        if block < self.block { self.cycle } else { self.cycle - 1 }
    }

    fn lsn(self) -> u64 {
        lsn(self.cycle, self.block)
    }
}

/// A place in the log that grows with time.
fn lsn(cycle: u32, block: u64) -> u64 {
    u64::from(cycle) << 32 | block
}

fn damaged(how: &str) -> Error {
    Error::invalid(format!("the log {how}: {REMOUNT}, or {REPAIR}"))
}

fn dirty() -> Error {
    Error::invalid(format!(
        "the file system was not unmounted, its log holds changes: {REMOUNT}"
    ))
}

/// Checks that the file system was unmounted, and gives the place in the log after
/// which nothing has been written.
pub(super) fn check_clean(volume: &dyn ReadAt, fs: &Superblock) -> Result<u64> {
    let start = fs.byte(fs.log_start.group, fs.log_start.block);
    let blocks = u64::from(fs.log_blocks) * u64::from(fs.block_size) / 512;
    let log = Log { volume, fs, start, blocks };
    log.check_clean().map_err(|error| error.at(start))
}

/// The cycle of a basic block.
fn cycle(block: &[u8]) -> u32 {
    match words(block) {
        Some((first, second)) if first == MAGIC => second,
        Some((first, _)) => first,
        None => 0,
    }
}

fn is_header(block: &[u8]) -> bool {
    words(block).is_some_and(|(first, _)| first == MAGIC)
}

fn words(block: &[u8]) -> Option<(u32, u32)> {
    let ([first, second], _) = <[U32; 2]>::ref_from_prefix(block).ok()?;
    Some((first.get(), second.get()))
}

impl Log<'_> {
    fn check_clean(&self) -> Result<u64> {
        let head = self.find_head()?;
        // As far as writes can have been on their way when the machine stopped.
        let in_flight = if self.fs.features.log_v2 { IN_FLIGHT_V2 } else { IN_FLIGHT_V1 };
        let before = in_flight.min(self.blocks);
        let first = (head.block + self.blocks - before) % self.blocks;
        let window = self.read_ring(first, before)?;
        self.check_cycles(head, first, &window, 0)?;
        let emptied = self.check_last_record(head, &window)?;
        let after = in_flight.min(self.blocks - before);
        let first = head.block % self.blocks;
        let window = self.read_ring(first, after)?;
        self.check_cycles(head, first, &window, if emptied { EMPTIED } else { 0 })?;
        Ok(head.lsn())
    }

    fn cycle_at(&self, block: u64) -> Result<u32> {
        let words: [u8; 8] = read_struct(self.volume, self.start + block * 512)?;
        Ok(cycle(&words))
    }

    fn find_head(&self) -> Result<Head> {
        let first = self.cycle_at(0)?;
        let last = self.cycle_at(self.blocks - 1)?;
        if first == 0 {
            return Err(damaged("is empty"));
        }
        if first == last {
            return Ok(Head { block: self.blocks, cycle: first });
        }
        if first - 1 != last {
            return Err(damaged("does not end as it should"));
        }
        let (mut before, mut after) = (0, self.blocks - 1);
        while after - before > 1 {
            let middle = before + (after - before) / 2;
            match self.cycle_at(middle)? {
                cycle if cycle == first => before = middle,
                cycle if cycle == last || cycle == 0 => after = middle,
                _ => return Err(damaged("was not written to the end")),
            }
        }
        Ok(Head { block: after, cycle: first })
    }

    /// Checks the cycles of `blocks`, which begin at block `first`. Those before block
    /// `zeros` may be zeros.
    fn check_cycles(
        &self,
        head: Head,
        first: u64,
        blocks: &[u8],
        zeros: u64,
    ) -> Result<()> {
        for (number, block) in (first..).zip(blocks.chunks_exact(BASIC_BLOCK)) {
            let number = number % self.blocks;
            let sound = cycle(block) == head.cycle_of(number)
                || number < zeros && block.iter().all(|byte| *byte == 0);
            if !sound {
                return Err(damaged("was not written to the end"));
            }
        }
        Ok(())
    }

    /// Reads `count` basic blocks, no more than the log has, from `first` on around
    /// the end.
    fn read_ring(&self, first: u64, count: u64) -> Result<Vec<u8>> {
        // At most a few MiB.
        let size = |blocks: u64| usize::try_from(blocks * 512).unwrap_or(0);
        let to_end = count.min(self.blocks - first);
        let mut bytes = vec![0; size(count)];
        let (behind, around) = bytes.split_at_mut(size(to_end));
        self.volume.read_at(self.start + first * 512, behind)?;
        self.volume.read_at(self.start, around)?;
        Ok(bytes)
    }

    /// Checks that the record that ends at the head says nothing but "unmount", and
    /// tells whether it was written by what emptied the log.
    fn check_last_record(&self, head: Head, window: &[u8]) -> Result<bool> {
        let blocks = window.len() / BASIC_BLOCK;
        let recent = window.chunks_exact(BASIC_BLOCK).rev().take(MAX_RECORD);
        let Some(back) = recent.clone().position(is_header).map(|n| n + 1) else {
            return Err(damaged("has no record at its end"));
        };
        let record = window.get((blocks - back) * BASIC_BLOCK..).unwrap_or_default();
        let Ok((header, _)) = RawLogRecord::ref_from_prefix(record) else {
            return Err(damaged("has no record at its end"));
        };
        let place = (head.block + self.blocks - back as u64) % self.blocks;
        let version = if self.fs.features.log_v2 { 2 } else { 1 };
        if header.cycle.get() != head.cycle_of(place)
            || header.lsn.get() != lsn(head.cycle_of(place), place)
            || header.version.get() != version
        {
            return Err(damaged("has a damaged record at its end"));
        }
        if header.uuid != self.fs.log_uuid {
            return Err(damaged("belongs to another file system"));
        }
        let length = header.length.get();
        let header_blocks = match header.buffer_size.get() {
            size if version == 2 && size > HEADER_REACH => size.div_ceil(HEADER_REACH),
            _ => 1,
        };
        let data = header_blocks as usize * BASIC_BLOCK;
        let ends = header_blocks as usize + length.div_ceil(512) as usize;
        if ends != back || header.operations.get() != 1 {
            return Err(dirty());
        }
        let operation = record.get(data..).map(RawLogOperation::ref_from_prefix);
        let Some(Ok((operation, _))) = operation else { return Err(dirty()) };
        if operation.flags & UNMOUNT == 0 || operation.client != LOG_CLIENT {
            return Err(dirty());
        }
        // Only the kernel writes a checksum.
        let sum = header.checksum.get();
        if sum != 0
            && !SUMMED
                .iter()
                .any(|head| checksum(record, *head, data, length) == Some(sum))
        {
            return Err(damaged("has a damaged record at its end"));
        }
        Ok(sum == 0 && place == 0)
    }
}

/// The checksum of a record: of its header, of further blocks of cycles for as many
/// bytes as there are data, and of the data.
fn checksum(record: &[u8], head: usize, data: usize, length: u32) -> Option<u32> {
    let mut sum = crc32c::crc32c(record.get(..CHECKSUM)?);
    sum = crc32c::crc32c_append(sum, &[0; 4]);
    sum = crc32c::crc32c_append(sum, record.get(CHECKSUM + 4..head)?);
    for further in 1..length.div_ceil(HEADER_REACH) as usize {
        let at = further * BASIC_BLOCK;
        sum = crc32c::crc32c_append(sum, record.get(at..at + SUMMED_FURTHER)?);
    }
    Some(crc32c::crc32c_append(sum, record.get(data..)?.get(..length as usize)?))
}
