//! The superblock: how the file system is laid out, and how many blocks it says are
//! free.
//!
//! Source: XFS Algorithms & Data Structures, Superblocks; the bounds are those the
//! kernel sets at mount.

use zerocopy::FromBytes;

use super::features::Features;
use super::on_disk::RawSuperblock;
use super::{REPAIR, checksum};
use crate::error::{Error, Result};
use crate::storage::{ReadAt, read_struct};

/// `sb_magicnum`.
pub(super) const MAGIC: &[u8; 4] = b"XFSB";

/// Where `sb_crc` lies.
const CHECKSUM: usize = 224;
/// `sb_flags`: only read-only mounts are allowed.
const READ_ONLY: u8 = 1;
/// `NULLFSINO`: no such inode, as is 0.
const NO_INODE: u64 = u64::MAX;
/// Bounds of an allocation group: blocks and bytes.
const MIN_AG_BLOCKS: u32 = 64;
const MAX_AG_BYTES: u64 = 1 << 40;
/// Bounds of the log in bytes.
const LOG_BYTES: std::ops::RangeInclusive<u64> = 1 << 16..=1 << 31;

/// A block by its group and its number in the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AgBlock {
    pub group: u32,
    pub block: u32,
}

/// A superblock whose numbers have been checked: all later arithmetic on blocks of
/// the file system stays below 2^63 bytes.
#[derive(Debug)]
pub(super) struct Superblock {
    pub features: Features,
    /// What the structures of version 5 bear.
    pub uuid: [u8; 16],
    /// What the records of the log bear.
    pub log_uuid: [u8; 16],
    /// 512 bytes to 64 KiB.
    pub block_size: u32,
    /// 512 bytes to 32 KiB, and not more than a block.
    pub sector_size: u32,
    pub blocks: u64,
    /// Of all groups but the last one, which may be shorter.
    pub ag_blocks: u32,
    pub ag_count: u32,
    pub log_start: AgBlock,
    pub log_blocks: u32,
    /// Blocks that hold an inode which every mount needs.
    pub inode_blocks: Vec<AgBlock>,
    pub free_blocks: u64,
    pub lsn: u64,
    ag_block_log: u8,
}

/// The name of the file system, which is there even in a damaged superblock.
pub(super) fn label(raw: &RawSuperblock) -> Option<String> {
    let name = raw.label.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(name).into_owned()).filter(|name| !name.is_empty())
}

fn broken(what: &str) -> Error {
    Error::invalid(format!("the superblock {what}: {REPAIR}")).at(0)
}

/// Fails with what is wrong with the superblock if `sound` is false.
fn expect(sound: bool, what: &str) -> Result<()> {
    if sound { Ok(()) } else { Err(broken(what)) }
}

/// Reads the superblock at the start of the volume, unchecked.
pub(super) fn read(volume: &dyn ReadAt) -> Result<RawSuperblock> {
    read_struct(volume, 0)
}

impl Superblock {
    /// Checks a superblock, with its checksum, which covers its sector.
    pub(super) fn new(raw: &RawSuperblock, volume: &dyn ReadAt) -> Result<Self> {
        expect(&raw.magic == MAGIC, "has lost its signature")?;
        let sector_size = u32::from(raw.sector_size.get());
        let block_size = raw.block_size.get();
        expect(
            power(sector_size, raw.sector_log) && (9..=15).contains(&raw.sector_log),
            "has an impossible sector size",
        )?;
        expect(
            power(block_size, raw.block_log)
                && (9..=16).contains(&raw.block_log)
                && block_size >= sector_size,
            "has an impossible block size",
        )?;
        let features = Features::of(raw)?;
        if features.v5 {
            let mut sector = vec![0; sector_size as usize];
            volume.read_at(0, &mut sector)?;
            expect(checksum::fits(&sector, CHECKSUM), "does not match its checksum")?;
        }
        check_state(raw)?;

        let (blocks, ag_blocks) = (raw.data_blocks.get(), raw.ag_blocks.get());
        let ag_count = raw.ag_count.get();
        let ag_bytes = u64::from(ag_blocks) * u64::from(block_size);
        expect(
            ag_blocks >= MIN_AG_BLOCKS
                && ag_bytes <= MAX_AG_BYTES
                && u32::from(raw.ag_block_log)
                    == u32::BITS - (ag_blocks - 1).leading_zeros(),
            "has an impossible size of its allocation groups",
        )?;
        let before_last = u64::from(ag_count.saturating_sub(1)) * u64::from(ag_blocks);
        expect(
            ag_count > 0
                && blocks <= i64::MAX.unsigned_abs() / u64::from(block_size)
                && blocks >= before_last + u64::from(MIN_AG_BLOCKS)
                && blocks <= before_last + u64::from(ag_blocks),
            "has a number of allocation groups that does not fit its blocks",
        )?;
        expect(
            (8..=11).contains(&raw.inode_log)
                && power(raw.inode_size.get().into(), raw.inode_log)
                && raw.block_log.checked_sub(raw.inode_log)
                    == Some(raw.inodes_per_block_log),
            "has an impossible inode size",
        )?;

        let mut fs = Superblock {
            features,
            uuid: if features.meta_uuid { raw.meta_uuid } else { raw.uuid },
            log_uuid: raw.uuid,
            block_size,
            sector_size,
            blocks,
            ag_blocks,
            ag_count,
            log_start: AgBlock { group: 0, block: 0 },
            log_blocks: raw.log_blocks.get(),
            inode_blocks: Vec::new(),
            free_blocks: raw.free_blocks.get(),
            lsn: if features.v5 { raw.lsn.get() } else { 0 },
            ag_block_log: raw.ag_block_log,
        };
        fs.log_start = fs.locate_log(raw)?;
        fs.inode_blocks = fs.locate_inodes(raw)?;
        Ok(fs)
    }

    fn locate_log(&self, raw: &RawSuperblock) -> Result<AgBlock> {
        let bytes = u64::from(self.log_blocks) * u64::from(self.block_size);
        self.locate(raw.log_start.get())
            .filter(|start| {
                let room = self.group_length(start.group) - start.block;
                LOG_BYTES.contains(&bytes) && self.log_blocks <= room
            })
            .ok_or_else(|| broken("has an impossible place or size of the log"))
    }

    fn locate_inodes(&self, raw: &RawSuperblock) -> Result<Vec<AgBlock>> {
        let root = raw.root_inode.get();
        expect(root != 0 && root != NO_INODE, "has no root directory")?;
        let project = if self.features.v5 { raw.project_quota_inode.get() } else { 0 };
        [
            root,
            raw.realtime_bitmap_inode.get(),
            raw.realtime_summary_inode.get(),
            raw.user_quota_inode.get(),
            raw.group_quota_inode.get(),
            project,
        ]
        .into_iter()
        .filter(|inode| *inode != 0 && *inode != NO_INODE)
        .map(|inode| {
            self.locate(inode >> raw.inodes_per_block_log)
                .ok_or_else(|| broken("names an inode that lies outside the volume"))
        })
        .collect()
    }

    /// A block number of the file system: the group in its upper bits.
    fn locate(&self, number: u64) -> Option<AgBlock> {
        let group = u32::try_from(number >> self.ag_block_log).ok()?;
        let block = u32::try_from(number & ((1 << self.ag_block_log) - 1)).ok()?;
        let inside = group < self.ag_count && block < self.group_length(group);
        inside.then_some(AgBlock { group, block })
    }

    /// How many blocks a group has.
    pub(super) fn group_length(&self, group: u32) -> u32 {
        let start = u64::from(group) * u64::from(self.ag_blocks);
        u32::try_from(self.blocks.saturating_sub(start))
            .unwrap_or(u32::MAX)
            .min(self.ag_blocks)
    }

    /// Where a block lies in the volume. `block` may be the one after the last.
    pub(super) fn byte(&self, group: u32, block: u32) -> u64 {
        (u64::from(group) * u64::from(self.ag_blocks) + u64::from(block))
            * u64::from(self.block_size)
    }

    /// How many blocks the headers take at the start of each group.
    pub(super) fn header_blocks(&self) -> u32 {
        (self.sector_size * 4).div_ceil(self.block_size)
    }

    /// Checks a later group's copy by what never changes: growing the file system
    /// leaves the rest of it behind the times, and so do other tools.
    pub(super) fn check_copy(&self, sector: &[u8], group: u32) -> Result<()> {
        let sound = RawSuperblock::ref_from_prefix(sector).is_ok_and(|(copy, _)| {
            &copy.magic == MAGIC
                && copy.block_size.get() == self.block_size
                && u32::from(copy.sector_size.get()) == self.sector_size
                && copy.ag_blocks.get() == self.ag_blocks
        });
        if sound {
            return Ok(());
        }
        let what = format!(
            "the superblock's copy in allocation group {group} is damaged: {REPAIR}"
        );
        Err(Error::invalid(what).at(self.byte(group, 0)))
    }
}

fn power(value: u32, log: u8) -> bool {
    1u32.checked_shl(log.into()) == Some(value)
}

/// Fails if the superblock itself says that the volume is not whole.
fn check_state(raw: &RawSuperblock) -> Result<()> {
    if raw.in_progress != 0 {
        return Err(Error::invalid(
            "the file system was not made to the end: run mkfs.xfs or xfs_copy again",
        ));
    }
    expect(raw.flags & !READ_ONLY == 0 && raw.shared_version == 0, "has unknown flags")?;
    if raw.realtime_blocks.get() != 0 || raw.realtime_extents.get() != 0 {
        return Err(Error::invalid(
            "the file system has a realtime section on another device, which is not supported",
        ));
    }
    if raw.log_start.get() == 0 {
        return Err(Error::invalid(
            "the log lies on another device, so whether it is clean is not known",
        ));
    }
    Ok(())
}
