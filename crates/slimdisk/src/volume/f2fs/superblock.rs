//! The superblock: where the areas lie, and which features there are.
//!
//! Source: `sanity_check_raw_super` and `sanity_check_area_boundary` in the kernel's
//! `fs/f2fs/super.c` for what holds in every sound one.

use zerocopy::IntoBytes;

use super::on_disk::RawSuperblock;
use super::{BLOCK, RUN_FSCK, SEGMENT, crc32};
use crate::error::{Error, Result};
use crate::storage::{ReadAt, read_struct};
use crate::volume::feature::{self, Feature};

pub(super) const MAGIC: u32 = 0xF2F5_2010;
/// The two superblocks.
pub(super) const OFFSETS: [u64; 2] = [1024, BLOCK + 1024];

const SB_CHKSUM: u32 = 0x800;
/// Where the checksum lies in the superblock: at its end.
const CHECKSUM_AT: usize = size_of::<RawSuperblock>() - 4;

const FEATURES: &[Feature<u32>] = &[
    (0x1, "encrypt", true),
    // Blocks of a zone are written in order and its write pointer counts.
    (0x2, "blkzoned", false),
    (0x4, "atomic_write", true),
    (0x8, "extra_attr", true),
    (0x10, "project_quota", true),
    (0x20, "inode_checksum", true),
    (0x40, "flexible_inline_xattr", true),
    (0x80, "quota", true),
    (0x100, "inode_crtime", true),
    (0x200, "lost_found", true),
    (0x400, "verity", true),
    (SB_CHKSUM, "sb_checksum", true),
    (0x1000, "casefold", true),
    (0x2000, "compression", true),
    // Has two logs instead of six; made to fit, so there is nothing to win.
    (0x4000, "ro", false),
    // A file that stands for another device.
    (0x8000, "device_alias", false),
    // Of blocks larger than 4 KiB.
    (0x1_0000, "packed_ssa", false),
];

/// A checked superblock. Areas are given in blocks of 4 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    /// All blocks of the volume.
    pub(super) blocks: u64,
    pub(super) checkpoint: u64,
    /// Blocks that follow a checkpoint's first one, up to 503.
    pub(super) checkpoint_payload: u64,
    /// The segment information table: its first copy, and the length of each.
    pub(super) sit: u64,
    pub(super) sit_blocks: u64,
    /// The node address table, two copies of which alternate by segment.
    pub(super) nat: u64,
    pub(super) nat_blocks: u64,
    pub(super) main: u64,
    pub(super) main_segments: u32,
    pub(super) root_inode: u32,
    pub(super) label: Option<String>,
    features: u32,
    devices: bool,
    errors: bool,
}

impl Superblock {
    /// Reads both superblocks, which must agree.
    pub(super) fn read(volume: &dyn ReadAt) -> Result<Self> {
        let [first, second] = OFFSETS.map(|offset| Self::read_one(volume, offset));
        let (first, second) = (first?, second?);
        if first != second {
            return Err(Error::invalid(format!(
                "the two superblocks do not agree: {RUN_FSCK}"
            ))
            .at(OFFSETS[1]));
        }
        Ok(first)
    }

    fn read_one(volume: &dyn ReadAt, offset: u64) -> Result<Self> {
        let raw: RawSuperblock = read_struct(volume, offset)?;
        Self::check(&raw)
            .map_err(|what| Error::invalid(format!("the superblock {what}")).at(offset))
    }

    fn check(raw: &RawSuperblock) -> Result<Self, String> {
        let damaged = |what: &str| Err(format!("{what}: {RUN_FSCK}"));
        if raw.magic.get() != MAGIC {
            return damaged("lacks its signature");
        }
        let features = raw.features.get();
        if features & SB_CHKSUM != 0 {
            let summed = raw.as_bytes().get(..CHECKSUM_AT).unwrap_or_default();
            if raw.checksum_offset.get() as usize != CHECKSUM_AT
                || raw.checksum.get() != crc32(MAGIC, summed)
            {
                return damaged("does not match its checksum");
            }
        }
        if raw.log_block_size.get() != 12 {
            return Err("gives a block size other than 4 KiB, which is not supported: \
                        only the zeros of the volume can be given up"
                .into());
        }
        let log_sector = raw.log_sector_size.get();
        if raw.log_blocks_per_segment.get() != 9
            || !(9..=12).contains(&log_sector)
            || raw.log_sectors_per_block.get() != 12 - log_sector
        {
            return damaged("gives an impossible size of sectors or segments");
        }
        let blocks = raw.block_count.get();
        if blocks > i64::MAX.unsigned_abs() / BLOCK {
            return damaged("gives an impossible number of blocks");
        }
        // All of them less than 2^32 segments of 2^9 blocks.
        let segments = |count: zerocopy::little_endian::U32| u64::from(count) * SEGMENT;
        let mut end = u64::from(raw.segment0_block);
        for (start, count) in [
            (raw.checkpoint_block, raw.segments_checkpoint),
            (raw.sit_block, raw.segments_sit),
            (raw.nat_block, raw.segments_nat),
            (raw.ssa_block, raw.segments_ssa),
            (raw.main_block, raw.segments_main),
        ] {
            if u64::from(start) != end {
                return damaged("lets its areas overlap, or leaves gaps between them");
            }
            end += segments(count);
        }
        let all = u64::from(raw.segment0_block) + segments(raw.segment_count);
        // The first two blocks are the superblocks'.
        if raw.segment0_block.get() < 2 || end > all || all > blocks {
            return damaged("lets its areas leave the volume");
        }
        let (sit, nat) = (raw.segments_sit.get(), raw.segments_nat.get());
        let main_segments = raw.segments_main.get();
        let sit_blocks = u64::from(sit / 2) * SEGMENT;
        if raw.segments_checkpoint.get() < 2
            || sit % 2 != 0
            || nat % 2 != 0
            || nat == 0
            || main_segments == 0
            || sit_blocks * super::sit::ENTRIES < u64::from(main_segments)
            || segments(raw.segments_ssa) < u64::from(main_segments)
        {
            return damaged("gives an area an impossible size");
        }
        // Both blocks of a checkpoint and six summaries lie in its segment too.
        let payload = u64::from(raw.checkpoint_payload);
        if payload >= SEGMENT - 8 {
            return damaged("gives checkpoints an impossible size");
        }
        Ok(Superblock {
            blocks,
            checkpoint: raw.checkpoint_block.get().into(),
            checkpoint_payload: payload,
            sit: raw.sit_block.get().into(),
            sit_blocks,
            nat: raw.nat_block.get().into(),
            nat_blocks: u64::from(nat / 2) * SEGMENT,
            main: raw.main_block.get().into(),
            main_segments,
            root_inode: raw.root_inode.get(),
            label: label(raw),
            features,
            devices: raw
                .devices
                .iter()
                .any(|device| device.path != [0; 64] || device.total_segments.get() != 0),
            errors: raw.errors != [0; 16],
        })
    }

    /// Fails if a feature forbids to trust the volume, or what the kernel noted in it.
    pub(super) fn check_features(&self) -> Result<()> {
        if self.devices {
            return Err(Error::invalid(
                "the file system lies on several devices, of which this is one: only its \
                 zeros can be given up",
            ));
        }
        feature::check("", self.features, FEATURES)?;
        if self.errors {
            return Err(Error::invalid(format!(
                "the superblock says that the kernel found damage: {RUN_FSCK}"
            )));
        }
        Ok(())
    }

    /// The byte at which a block begins; `block` is one of the volume's.
    pub(super) fn byte(block: u64) -> u64 {
        block * BLOCK
    }

    /// The first block of a segment of the main area.
    pub(super) fn segment(&self, segment: u32) -> u64 {
        self.main + u64::from(segment) * SEGMENT
    }

    /// Whether a block lies in the main area.
    pub(super) fn in_main(&self, block: u64) -> bool {
        (self.main..self.segment(self.main_segments)).contains(&block)
    }
}

fn label(raw: &RawSuperblock) -> Option<String> {
    let units =
        raw.volume_name.iter().map(|unit| unit.get()).take_while(|unit| *unit != 0);
    let label: String = char::decode_utf16(units)
        .map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    Some(label).filter(|label| !label.is_empty())
}
