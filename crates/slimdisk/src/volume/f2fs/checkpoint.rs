//! Checkpoints: the state that a mount begins with.
//!
//! ```text
//! pack: checkpoint | payload | orphans | summaries | checkpoint
//! ```
//!
//! Two packs take turns. A pack counts if both its checkpoint blocks match their
//! checksums and have the same version; of two, the newer one is mounted. Here both
//! must count: a damaged one may have been the newer. (`resize.f2fs` leaves one that
//! does not, until the kernel writes the next.)
//!
//! Source: `f2fs_get_valid_checkpoint`, `validate_checkpoint` and
//! `f2fs_sanity_check_ckpt` in the kernel's `fs/f2fs`.

use zerocopy::FromBytes;

use super::on_disk::RawCheckpoint;
use super::superblock::{MAGIC, Superblock};
use super::{BLOCK, RUN_FSCK, SEGMENT, UNMOUNT, crc32};
use crate::error::{Error, Result};
use crate::storage::ReadAt;

mod flag {
    pub const UNMOUNT: u32 = 0x1;
    pub const ORPHANS: u32 = 0x2;
    pub const COMPACT_SUMMARY: u32 = 0x4;
    pub const ERROR: u32 = 0x8;
    pub const FSCK: u32 = 0x10;
    pub const FASTBOOT: u32 = 0x20;
    pub const CRC_RECOVERY: u32 = 0x40;
    pub const NAT_BITS: u32 = 0x80;
    pub const TRIMMED: u32 = 0x100;
    pub const NOCRC_RECOVERY: u32 = 0x200;
    pub const LARGE_NAT_BITMAP: u32 = 0x400;
    pub const QUOTA_NEEDS_FSCK: u32 = 0x800;
    pub const DISABLED: u32 = 0x1000;
    pub const DISABLED_QUICK: u32 = 0x2000;
    pub const RESIZE: u32 = 0x4000;

    /// What says nothing of the map. Blocks of orphans, which the next mount deletes,
    /// are still in use.
    pub const HARMLESS: u32 = UNMOUNT
        | ORPHANS
        | COMPACT_SUMMARY
        | CRC_RECOVERY
        | NAT_BITS
        | TRIMMED
        | NOCRC_RECOVERY
        | LARGE_NAT_BITMAP
        | FASTBOOT;
}

/// What to do about one checkpoint of the two: fsck.f2fs does not write it anew.
const WRITE_ANEW: &str = "mount it in Linux, change a file and unmount it";

/// Where the last checksum can lie, and where the version bitmaps begin.
const LAST_CHECKSUM: usize = 4092;
const BITMAPS: usize = size_of::<RawCheckpoint>();

/// Three logs of data and three of nodes: hot, warm and cold.
pub(super) const LOGS: usize = 6;
pub(super) const FIRST_NODE_LOG: usize = 3;

/// Where a log goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Log {
    pub(super) segment: u32,
    /// The next block in it, less than 512.
    pub(super) offset: u16,
    /// Whether the log only appends: then nothing lies behind `offset`.
    pub(super) appends: bool,
}

/// The checkpoint to be mounted.
#[derive(Debug)]
pub(super) struct Checkpoint {
    /// The first block of its pack.
    start: u64,
    pub(super) version: u64,
    flags: u32,
    pub(super) logs: [Log; LOGS],
    pub(super) valid_blocks: u64,
    pub(super) valid_nodes: u64,
    pub(super) free_segments: u64,
    pack_blocks: u64,
    summary_start: u64,
    sit_bitmap: Vec<u8>,
    nat_bitmap: Vec<u8>,
}

/// One pack that counts.
struct Pack {
    start: u64,
    raw: RawCheckpoint,
}

impl Checkpoint {
    pub(super) fn read(volume: &dyn ReadAt, fs: &Superblock) -> Result<Self> {
        let first = Pack::read(volume, fs.checkpoint)?;
        let second = Pack::read(volume, fs.checkpoint + SEGMENT)?;
        // Versions may wrap around.
        let ahead = second.raw.version.get().wrapping_sub(first.raw.version.get());
        let newest = if ahead.cast_signed() > 0 { second } else { first };
        Self::check_state(newest.raw.flags.get())?;
        Self::new(volume, fs, &newest)
    }

    /// Fails if the flags forbid to trust the checkpoint.
    fn check_state(flags: u32) -> Result<()> {
        let reason = if flags & flag::UNMOUNT == 0 {
            format!("the file system was not unmounted: {UNMOUNT}")
        } else if flags & (flag::ERROR | flag::FSCK | flag::QUOTA_NEEDS_FSCK) != 0 {
            format!("the checkpoint asks for a check of the file system: {RUN_FSCK}")
        } else if flags & (flag::DISABLED | flag::DISABLED_QUICK) != 0 {
            "checkpoints were disabled (checkpoint=disable): mount it once in Linux with \
             checkpoint=enable and unmount it"
                .into()
        } else if flags & flag::RESIZE != 0 {
            format!("a change of the file system's size was interrupted: {RUN_FSCK}")
        } else if flags & !flag::HARMLESS != 0 {
            let unknown = flags & !flag::HARMLESS;
            format!(
                "the checkpoint has unknown flags ({unknown:#x}): a newer version of this \
                 program may know them"
            )
        } else {
            return Ok(());
        };
        Err(Error::invalid(reason))
    }

    fn new(volume: &dyn ReadAt, fs: &Superblock, pack: &Pack) -> Result<Self> {
        let raw = &pack.raw;
        let damaged = |what: &str| {
            Error::invalid(format!("the checkpoint {what}: {RUN_FSCK}"))
                .at(Superblock::byte(pack.start))
        };
        let flags = raw.flags.get();
        let mut logs = [Log::default(); LOGS];
        let places = raw.data_segments.iter().zip(&raw.data_offsets).take(3);
        let places =
            places.chain(raw.node_segments.iter().zip(&raw.node_offsets).take(3));
        for (log, ((segment, offset), kind)) in
            logs.iter_mut().zip(places.zip(&raw.allocation_types))
        {
            *log =
                Log { segment: segment.get(), offset: offset.get(), appends: *kind == 0 };
            if log.segment >= fs.main_segments || u64::from(log.offset) >= SEGMENT {
                return Err(damaged("lets a log leave the main area"));
            }
        }
        let distinct = (0..LOGS).all(|at| {
            let (before, rest) = logs.split_at(at);
            rest.first().is_none_or(|log| before.iter().all(|b| b.segment != log.segment))
        });
        if !distinct {
            return Err(damaged("lets two logs use one segment"));
        }
        let (pack_blocks, summary_start) =
            (u64::from(raw.pack_blocks), u64::from(raw.summary_start));
        // After the start of the summaries come those of the data logs, in their own
        // blocks or compacted to one or two, three of node logs and the last block.
        let rest = pack_blocks.checked_sub(summary_start);
        let fits = if flags & flag::COMPACT_SUMMARY != 0 {
            matches!(rest, Some(5 | 6))
        } else {
            rest == Some(7)
        };
        if !fits || summary_start <= fs.checkpoint_payload {
            return Err(damaged("gives its summaries an impossible place"));
        }
        let (sit_size, nat_size) =
            (u64::from(raw.sit_bitmap_bytes), u64::from(raw.nat_bitmap_bytes));
        if sit_size * 8 != fs.sit_blocks || nat_size * 8 != fs.nat_blocks {
            return Err(damaged("has version bitmaps of an impossible size"));
        }
        // At most 2 MiB: one segment.
        let length = usize::try_from((fs.checkpoint_payload + 1) * BLOCK).unwrap_or(0);
        let mut bytes = vec![0; length];
        volume.read_at(Superblock::byte(pack.start), &mut bytes)?;
        let (sit_size, nat_size) = (
            usize::try_from(sit_size).unwrap_or(usize::MAX / 4),
            usize::try_from(nat_size).unwrap_or(usize::MAX / 4),
        );
        let (sit_at, nat_at) = if flags & flag::LARGE_NAT_BITMAP != 0 {
            (BITMAPS + 4 + nat_size, BITMAPS + 4)
        } else if fs.checkpoint_payload > 0 {
            (usize::try_from(BLOCK).unwrap_or(0), BITMAPS)
        } else {
            (BITMAPS, BITMAPS + sit_size)
        };
        let checksum = raw.checksum_offset.get() as usize;
        // Before Linux 5.2 the two features had no room for each other's place.
        let expected =
            if flags & flag::LARGE_NAT_BITMAP != 0 { BITMAPS } else { LAST_CHECKSUM };
        if checksum != expected {
            return Err(damaged(
                "has its checksum in another place than the layout of its version bitmaps \
                 asks for",
            ));
        }
        let bitmap = |at: usize, size: usize| {
            // The checksum lies before the bitmaps, or at the end of its block.
            let free = at + size <= checksum || at >= checksum + 4;
            bytes.get(at..at + size).filter(|_| free).map(<[u8]>::to_vec)
        };
        let (Some(sit_bitmap), Some(nat_bitmap)) =
            (bitmap(sit_at, sit_size), bitmap(nat_at, nat_size))
        else {
            return Err(damaged("has no room for its version bitmaps"));
        };
        Ok(Checkpoint {
            start: pack.start,
            version: raw.version.get(),
            flags,
            logs,
            valid_blocks: raw.valid_block_count.get(),
            valid_nodes: raw.valid_node_count.get().into(),
            free_segments: raw.free_segment_count.get().into(),
            pack_blocks,
            summary_start,
            sit_bitmap,
            nat_bitmap,
        })
    }

    /// The byte at which the journal of NAT entries lies, then that of SIT entries.
    ///
    /// They lie in the room that the summary of the hot and of the cold data log leave
    /// (`read_normal_summaries`), or at the start of the compacted summaries.
    pub(super) fn journals(&self) -> [u64; 2] {
        if self.flags & flag::COMPACT_SUMMARY != 0 {
            let block = Superblock::byte(self.start + self.summary_start);
            [block, block + super::journal::SIZE as u64]
        } else {
            // As the kernel counts: from the end of the pack.
            let hot = self.start + self.pack_blocks - 7;
            [hot, hot + 2].map(|block| Superblock::byte(block) + super::journal::AT)
        }
    }

    /// Whether block `number` of the segment information table lies in its second copy.
    pub(super) fn second_sit(&self, number: u64) -> bool {
        bit(&self.sit_bitmap, number)
    }

    /// Whether block `number` of the node address table lies in its second copy.
    pub(super) fn second_nat(&self, number: u64) -> bool {
        bit(&self.nat_bitmap, number)
    }
}

/// The highest bit of a byte comes first.
fn bit(bitmap: &[u8], number: u64) -> bool {
    let byte = usize::try_from(number / 8).ok().and_then(|at| bitmap.get(at));
    byte.is_some_and(|byte| byte >> (7 - number % 8) & 1 == 1)
}

impl Pack {
    fn read(volume: &dyn ReadAt, start: u64) -> Result<Self> {
        let damaged = |what: &str| {
            Error::invalid(format!("a checkpoint {what}: {WRITE_ANEW}"))
                .at(Superblock::byte(start))
        };
        let first = read_block(volume, start)?;
        let blocks = u64::from(first.pack_blocks);
        // More than the two checkpoint blocks, and within a segment.
        if !(3..=SEGMENT).contains(&blocks) {
            return Err(damaged("gives itself an impossible size"));
        }
        let last = read_block(volume, start + blocks - 1)?;
        if first.version != last.version {
            return Err(damaged("was not completely written"));
        }
        Ok(Pack { start, raw: first })
    }
}

/// Reads a checkpoint block and checks its sum.
fn read_block(volume: &dyn ReadAt, block: u64) -> Result<RawCheckpoint> {
    let offset = Superblock::byte(block);
    let mut bytes = vec![0; usize::try_from(BLOCK).unwrap_or(0)];
    volume.read_at(offset, &mut bytes)?;
    checked(&bytes).ok_or_else(|| {
        Error::invalid(format!("a checkpoint does not match its checksum: {WRITE_ANEW}"))
            .at(offset)
    })
}

/// The checkpoint in a block whose sum holds: of all but the sum's own four bytes.
fn checked(block: &[u8]) -> Option<RawCheckpoint> {
    let (raw, _) = RawCheckpoint::read_from_prefix(block).ok()?;
    let at = raw.checksum_offset.get() as usize;
    if !(BITMAPS..=LAST_CHECKSUM).contains(&at) {
        return None;
    }
    let (before, rest) = block.split_at_checked(at)?;
    let (sum, after) = rest.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*sum) == crc32(crc32(MAGIC, before), after)).then_some(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_bit_comes_first() {
        let set: Vec<u64> = (0..30).filter(|n| bit(&[0x80, 0x01, 0x40], *n)).collect();
        assert_eq!(set, [0, 15, 17]);
    }

    #[test]
    fn the_sum_leaves_itself_out_wherever_it_lies() {
        for at in [192u16, 1000, 4092] {
            let mut block: Vec<u8> = (0..4096u32).map(|n| (n % 251) as u8).collect();
            block[164..168].copy_from_slice(&u32::from(at).to_le_bytes());
            let at = usize::from(at);
            let rest: Vec<u8> = [&block[..at], &block[at + 4..]].concat();
            block[at..at + 4].copy_from_slice(&crc32(MAGIC, &rest).to_le_bytes());
            assert!(checked(&block).is_some(), "{at}");
            for flip in [0, at - 1, at, at + 3, (at + 4) % 4096, 4095] {
                let mut bad = block.clone();
                bad[flip] ^= 0x10;
                assert!(checked(&bad).is_none(), "{at} {flip}");
            }
        }
        assert!(checked(&[0; 4096]).is_none());
    }
}
