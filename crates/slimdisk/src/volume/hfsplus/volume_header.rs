//! The volume header: where the special files begin, and whether the volume was left
//! in order.

use std::ops::Range;

use super::on_disk::{RawFork, RawVolumeHeader};
use super::{REPAIR, UNMOUNT};
use crate::error::{Error, Result};
use crate::storage::{ReadAt, read_struct};

/// Where the volume header lies, and how far before the end its copy does.
pub(super) const OFFSET: u64 = 1024;
const SIZE: u64 = size_of::<RawVolumeHeader>() as u64;

/// The largest allocation block taken for possible; macOS makes none of more than 64 KiB
/// unless it is told to.
const MAX_BLOCK_SIZE: u32 = 1 << 20;

/// The mark of a volume whose journal could not be replayed.
const REPLAY_FAILED: &[u8; 4] = b"FSK!";

/// Bits of the attributes: TN1150, and Apple's `hfs_format.h` for 14 and from 29 on.
mod attribute {
    pub const HARDWARE_LOCK: u32 = 1 << 7;
    pub const UNMOUNTED: u32 = 1 << 8;
    pub const SPARED_BLOCKS: u32 = 1 << 9;
    pub const NO_CACHE: u32 = 1 << 10;
    pub const BOOT_INCONSISTENT: u32 = 1 << 11;
    pub const IDS_REUSED: u32 = 1 << 12;
    pub const JOURNALED: u32 = 1 << 13;
    pub const INCONSISTENT: u32 = 1 << 14;
    pub const SOFTWARE_LOCK: u32 = 1 << 15;
    pub const EXPANDED_TIMES: u32 = 1 << 29;
    pub const CONTENT_PROTECTION: u32 = 1 << 30;
    pub const UNUSED_NODE_FIX: u32 = 1 << 31;

    /// What says nothing of the map. Bad blocks (spared ones) are a file's.
    pub const HARMLESS: u32 = HARDWARE_LOCK
        | UNMOUNTED
        | SPARED_BLOCKS
        | NO_CACHE
        | IDS_REUSED
        | JOURNALED
        | SOFTWARE_LOCK
        | EXPANDED_TIMES
        | CONTENT_PROTECTION
        | UNUSED_NODE_FIX;
}

/// The checked volume header.
pub(super) struct VolumeHeader {
    pub(super) block_size: u64,
    pub(super) blocks: u32,
    pub(super) free_blocks: u64,
    pub(super) journal_info_block: Option<u32>,
    pub(super) allocation: RawFork,
    pub(super) extents: RawFork,
    pub(super) catalog: RawFork,
    pub(super) attributes_file: RawFork,
    pub(super) startup: RawFork,
    attributes: u32,
    last_mounted_version: [u8; 4],
    created: u32,
}

/// Whether a header bears the signature of HFS Plus or of HFSX.
pub(super) fn signed(raw: &RawVolumeHeader) -> bool {
    matches!((&raw.signature, raw.version.get()), (b"H+", 4) | (b"HX", 5))
}

impl VolumeHeader {
    pub(super) fn read(volume: &dyn ReadAt, offset: u64) -> Result<Self> {
        let raw: RawVolumeHeader = read_struct(volume, offset)?;
        Self::check(&raw).map_err(|what| {
            Error::invalid(format!("the volume header {what}: {REPAIR}")).at(offset)
        })
    }

    fn check(raw: &RawVolumeHeader) -> Result<Self, &'static str> {
        if !signed(raw) {
            return Err("has a signature and a version that do not belong together");
        }
        let block_size = raw.block_size.get();
        if !block_size.is_power_of_two() || !(512..=MAX_BLOCK_SIZE).contains(&block_size)
        {
            return Err("gives an impossible block size");
        }
        let (block_size, blocks) = (u64::from(block_size), raw.total_blocks.get());
        // Room for both headers.
        if u64::from(blocks) * block_size < 2 * (OFFSET + SIZE) {
            return Err("gives an impossible number of blocks");
        }
        let attributes = raw.attributes.get();
        Ok(VolumeHeader {
            block_size,
            blocks,
            free_blocks: raw.free_blocks.get().into(),
            journal_info_block: (attributes & attribute::JOURNALED != 0)
                .then(|| raw.journal_info_block.get()),
            allocation: raw.allocation,
            extents: raw.extents,
            catalog: raw.catalog,
            attributes_file: raw.attributes_file,
            startup: raw.startup,
            attributes,
            last_mounted_version: raw.last_mounted_version,
            created: raw.created.get(),
        })
    }

    /// Fails if the attributes forbid to trust the volume.
    pub(super) fn check_state(&self) -> Result<()> {
        use self::attribute::{BOOT_INCONSISTENT, HARMLESS, INCONSISTENT, UNMOUNTED};
        let attributes = self.attributes;
        let reason = if self.last_mounted_version == *REPLAY_FAILED {
            format!("its journal could not be replayed: {REPAIR}")
        } else if attributes & INCONSISTENT != 0 {
            format!("the volume is marked as damaged: {REPAIR}")
        } else if attributes & UNMOUNTED == 0 || attributes & BOOT_INCONSISTENT != 0 {
            format!("the volume was not unmounted: {UNMOUNT}")
        } else if attributes & !HARMLESS != 0 {
            format!(
                "the volume has unknown attributes ({:#x}): a newer version of this \
                 program may know them",
                attributes & !HARMLESS
            )
        } else {
            return Ok(());
        };
        Err(Error::invalid(reason))
    }

    /// Finds the copy of the header, which must speak of the same volume, and gives
    /// the bytes that it and what lies behind it take.
    ///
    /// It lies before the end of the volume, which need not be that of the last block;
    /// a volume in a partition that grew has it before its own end. It is kept up to
    /// date only where special files grow, so only what does not change otherwise is
    /// compared: the volume's size and the place of the allocation file.
    pub(super) fn check_copy(&self, volume: &dyn ReadAt) -> Result<Range<u64>> {
        let ends = [volume.len() / 512 * 512, self.length()];
        for end in ends {
            let at = end.saturating_sub(OFFSET);
            let raw: RawVolumeHeader = read_struct(volume, at)?;
            let Ok(copy) = Self::check(&raw) else { continue };
            if (copy.block_size, copy.blocks, copy.created)
                == (self.block_size, self.blocks, self.created)
                && copy.allocation.extents == self.allocation.extents
                && copy.allocation.total_blocks == self.allocation.total_blocks
            {
                return Ok(at..end);
            }
        }
        Err(Error::invalid(format!(
            "the copy of the volume header near the end does not agree with it: {REPAIR}"
        )))
    }

    /// What all blocks cover, in bytes.
    pub(super) fn length(&self) -> u64 {
        self.byte(self.blocks.into())
    }

    /// The byte at which a block of the volume begins.
    pub(super) fn byte(&self, block: u64) -> u64 {
        block * self.block_size
    }

    /// The blocks of the volume that hold any of these bytes.
    pub(super) fn blocks_of(&self, bytes: &Range<u64>) -> Range<u64> {
        let end = bytes.end.div_ceil(self.block_size).min(self.blocks.into());
        (bytes.start / self.block_size).min(end)..end
    }

    /// The blocks before and of the header.
    pub(super) fn head(&self) -> Range<u64> {
        self.blocks_of(&(0..OFFSET + SIZE))
    }
}
