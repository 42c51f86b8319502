//! The superblock: what the file system is, how it is laid out, and whether its
//! own state says that the bitmaps are current.
//!
//! Source: the kernel's `Documentation/filesystems/ext4/super.rst`; the bounds
//! are those the kernel sets at mount (`fs/ext4/super.c`).

use std::ops::Range;

use zerocopy::IntoBytes;

use super::checksum::crc32c;
use super::features::{Features, compat, incompat, ro_compat};
use super::on_disk::RawSuperblock;
use super::{RUN_FSCK, UNMOUNT};
use crate::error::{Error, Result};
use crate::storage::{ReadAt, read_struct};

/// Where the superblock lies, in bytes from the start of the volume.
pub(super) const OFFSET: u64 = 1024;
/// `s_magic` and its place in the volume.
pub(super) const MAGIC: u16 = 0xEF53;
pub(super) const MAGIC_OFFSET: u64 = OFFSET + 0x38;

/// `s_state`: unmounted cleanly, and errors found.
const VALID_FS: u16 = 1;
const ERROR_FS: u16 = 2;
/// `s_checksum_type`.
const CRC32C: u8 = 1;
/// The smallest group `mke2fs` makes; bounds the number of groups.
const MIN_BLOCKS_PER_GROUP: u32 = 256;
/// Groups whose metadata is kept in memory while the bitmaps are read: enough for
/// 256 TiB in groups of 128 MiB.
const MAX_GROUPS: u64 = 1 << 21;

/// A superblock whose numbers have been checked: all later arithmetic on block
/// numbers stays below 2^63 bytes.
pub(super) struct Superblock {
    pub features: Features,
    pub uuid: [u8; 16],
    /// Bytes of a block: 1 KiB to 64 KiB.
    pub block_size: u32,
    pub blocks: u64,
    /// The block that holds bit 0 of the first group: 1 for blocks of 1 KiB
    /// (but 0 with bigalloc), else 0.
    pub first_data_block: u64,
    /// Blocks of a cluster: the unit of the bitmaps.
    pub cluster_ratio: u32,
    pub blocks_per_group: u32,
    pub clusters_per_group: u32,
    pub groups: u64,
    pub inodes: u32,
    pub inodes_per_group: u32,
    /// Bytes of an inode.
    pub inode_size: u16,
    /// Blocks of one group's inode table.
    pub inode_table_blocks: u64,
    /// Bytes of a group descriptor.
    pub desc_size: u32,
    pub journal_inode: u32,
    /// The starting sum of all metadata checksums but the superblock's.
    pub checksum_seed: u32,
    /// Free blocks as counted at the last clean unmount.
    pub free_blocks: u64,
    journal_dev: u32,
    mmp_block: u64,
    first_meta_bg: u64,
    reserved_gdt_blocks: u64,
    backup_groups: [u32; 2],
    state: u16,
    error_count: u32,
}

impl RawSuperblock {
    pub(super) fn read(from: &dyn ReadAt) -> Result<Self> {
        read_struct(from, OFFSET)
    }

    pub(super) fn label(&self) -> Option<String> {
        let name = self.volume_name.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(name).into_owned()).filter(|name| !name.is_empty())
    }
}

fn broken(what: &str) -> Error {
    Error::invalid(format!("the superblock {what}: {RUN_FSCK}")).at(OFFSET)
}

/// Fails with what is wrong with the superblock if `sound` is false.
fn expect(sound: bool, what: &str) -> Result<()> {
    if sound { Ok(()) } else { Err(broken(what)) }
}

impl Superblock {
    /// Checks a superblock's features, checksum and numbers, but not its state.
    pub(super) fn new(raw: &RawSuperblock) -> Result<Self> {
        expect(raw.magic.get() == MAGIC, "has lost its signature")?;
        let features = Features::of(raw);
        let metadata_csum = features.ro_compat(ro_compat::METADATA_CSUM);
        if metadata_csum {
            expect(raw.checksum_type == CRC32C, "names an unknown checksum type")?;
            let (summed, _) = raw.as_bytes().split_at(0x3FC);
            let sum = crc32c(!0, summed);
            expect(sum == raw.checksum.get(), "does not match its checksum")?;
        }
        match raw.rev_level.get() {
            0 => expect(features.none(), "has features that its revision forbids")?,
            1 => features.check()?,
            _ => return Err(broken("is of an unknown revision")),
        }
        expect(
            !(metadata_csum && features.ro_compat(ro_compat::GDT_CSUM)),
            "has both metadata_csum and uninit_bg",
        )?;

        let log_block = raw.log_block_size.get();
        expect(log_block <= 6, "has an impossible block size")?;
        let block_size = 1024u32 << log_block;
        let bits = block_size * 8;
        let log_cluster = raw.log_cluster_size.get();
        let bigalloc = features.ro_compat(ro_compat::BIGALLOC);
        let log_ratio = log_cluster
            .checked_sub(log_block)
            .filter(|log| if bigalloc { log_cluster <= 20 } else { *log == 0 });
        let log_ratio =
            log_ratio.ok_or_else(|| broken("has an impossible cluster size"))?;
        let cluster_ratio = 1u32 << log_ratio;

        let blocks_per_group = raw.blocks_per_group.get();
        let clusters_per_group = raw.clusters_per_group.get();
        expect(
            clusters_per_group <= bits
                && clusters_per_group.is_multiple_of(8)
                && blocks_per_group >= MIN_BLOCKS_PER_GROUP
                && u64::from(clusters_per_group) * u64::from(cluster_ratio)
                    == u64::from(blocks_per_group),
            "has an impossible number of blocks in a group",
        )?;

        let high = |word: u32| u64::from(word) << 32;
        let bit64 = features.incompat(incompat::BIT64);
        let blocks =
            u64::from(raw.blocks_count_lo.get()) | high(raw.blocks_count_hi.get());
        expect(bit64 || blocks >> 32 == 0, "counts more blocks than it can number")?;
        expect(blocks < 1 << 46, "counts more blocks than any disk has")?;
        let first_data_block = u64::from(raw.first_data_block.get());
        expect(
            first_data_block == u64::from(block_size == 1024 && !bigalloc)
                && blocks > first_data_block,
            "has an impossible first block",
        )?;
        let groups = (blocks - first_data_block).div_ceil(u64::from(blocks_per_group));

        let inode_size = match raw.rev_level.get() {
            0 => 128,
            _ => raw.inode_size.get(),
        };
        let inodes_per_group = raw.inodes_per_group.get();
        expect(
            inode_size.is_power_of_two()
                && inode_size >= 128
                && u32::from(inode_size) <= block_size,
            "has an impossible inode size",
        )?;
        expect(
            (1..=bits).contains(&inodes_per_group)
                && groups * u64::from(inodes_per_group)
                    == u64::from(raw.inodes_count.get()),
            "counts inodes that its groups do not have",
        )?;
        if groups > MAX_GROUPS {
            return Err(Error::invalid(format!(
                "the file system has {groups} block groups, more than are supported"
            )));
        }

        let desc_size = if bit64 { u32::from(raw.desc_size.get()) } else { 32 };
        expect(
            !bit64 || (desc_size.is_power_of_two() && (64..=1024).contains(&desc_size)),
            "has an impossible group descriptor size",
        )?;
        let checksum_seed = if features.incompat(incompat::CSUM_SEED) {
            raw.checksum_seed.get()
        } else {
            crc32c(!0, &raw.uuid)
        };
        let inode_bytes = u64::from(inodes_per_group) * u64::from(inode_size);

        let fs = Superblock {
            features,
            uuid: raw.uuid,
            block_size,
            blocks,
            first_data_block,
            cluster_ratio,
            blocks_per_group,
            clusters_per_group,
            groups,
            inodes: raw.inodes_count.get(),
            inodes_per_group,
            inode_size,
            inode_table_blocks: inode_bytes.div_ceil(u64::from(block_size)),
            desc_size,
            journal_inode: raw.journal_inum.get(),
            checksum_seed,
            free_blocks: u64::from(raw.free_blocks_lo.get())
                | if bit64 { high(raw.free_blocks_hi.get()) } else { 0 },
            journal_dev: raw.journal_dev.get(),
            mmp_block: raw.mmp_block.get(),
            first_meta_bg: u64::from(raw.first_meta_bg.get()),
            reserved_gdt_blocks: u64::from(raw.reserved_gdt_blocks.get()),
            backup_groups: raw.backup_bgs.map(zerocopy::little_endian::U32::get),
            state: raw.state.get(),
            error_count: raw.error_count.get(),
        };
        expect(
            !fs.features.incompat(incompat::META_BG)
                || fs.first_meta_bg <= fs.descriptor_blocks(),
            "has an impossible first meta block group",
        )?;
        Ok(fs)
    }

    /// Fails unless the file system says of itself that it is sound, and either
    /// was unmounted cleanly or has a journal to be replayed.
    pub(super) fn check_state(&self) -> Result<()> {
        if self.state & ERROR_FS != 0 || self.error_count != 0 {
            return Err(Error::invalid(format!(
                "the file system has recorded errors: {RUN_FSCK}"
            )));
        }
        // With a journal the flag stays set while mounted; without one it is
        // all that tells. Any further bit is a repair or recovery cut short.
        if self.state != VALID_FS {
            return Err(Error::invalid(format!(
                "the file system was not unmounted cleanly: {RUN_FSCK}"
            )));
        }
        let has_journal = self.features.compat(compat::HAS_JOURNAL);
        if has_journal && self.journal_inode == 0 {
            return Err(Error::invalid(if self.journal_dev == 0 {
                format!("the file system's journal is missing: {RUN_FSCK}")
            } else {
                "the file system's journal is on another device, which is not supported"
                    .to_owned()
            }));
        }
        if self.needs_recovery() && !has_journal {
            return Err(broken("asks for the replay of a journal it does not have"));
        }
        // An orphan's blocks are in use until the orphan is dealt with, and both
        // happen in one transaction; so with the journal replayed the bitmaps
        // are right. Left over without a journal to replay, nothing says so.
        if self.features.ro_compat(ro_compat::ORPHAN_PRESENT) && !self.needs_recovery() {
            return Err(Error::invalid(format!(
                "the file system has orphaned files to clean up: {UNMOUNT}"
            )));
        }
        Ok(())
    }

    /// Whether the journal must be replayed to see the file system as it is.
    pub(super) fn needs_recovery(&self) -> bool {
        self.features.incompat(incompat::RECOVER)
    }

    /// Whether group descriptors bear checksums, and so may be uninitialised.
    pub(super) fn has_descriptor_checksums(&self) -> bool {
        self.features.ro_compat(ro_compat::GDT_CSUM | ro_compat::METADATA_CSUM)
    }

    /// The block of the multi-mount protection, if there is one.
    pub(super) fn mmp_block(&self) -> Option<u64> {
        self.features.incompat(incompat::MMP).then_some(self.mmp_block)
    }

    /// Whether `blocks` lie inside the file system.
    pub(super) fn contains(&self, blocks: &Range<u64>) -> bool {
        self.first_data_block <= blocks.start
            && blocks.start <= blocks.end
            && blocks.end <= self.blocks
    }

    /// The blocks of one group.
    pub(super) fn group(&self, group: u64) -> Range<u64> {
        let size = u64::from(self.blocks_per_group);
        let start = self.first_data_block + group * size;
        start..(start + size).min(self.blocks)
    }

    /// The byte a block starts at.
    pub(super) fn byte(&self, block: u64) -> u64 {
        block * u64::from(self.block_size)
    }

    /// Group descriptors in one block.
    pub(super) fn descriptors_per_block(&self) -> u64 {
        u64::from(self.block_size / self.desc_size)
    }

    /// Blocks that hold all group descriptors once.
    pub(super) fn descriptor_blocks(&self) -> u64 {
        self.groups.div_ceil(self.descriptors_per_block())
    }

    /// Where the primary copy of descriptor block `index` lies.
    ///
    /// Source: `descriptor_loc` in the kernel; `Documentation/filesystems/ext4`,
    /// "Meta Block Groups".
    pub(super) fn descriptor_block(&self, index: u64) -> u64 {
        if !self.features.incompat(incompat::META_BG) || index < self.first_meta_bg {
            return self.superblock_of(0) + 1 + index;
        }
        let group = index * self.descriptors_per_block();
        self.superblock_of(group) + u64::from(self.has_superblock(group))
    }

    /// The block a group's copy of the superblock is in, if it has one.
    fn superblock_of(&self, group: u64) -> u64 {
        // With blocks of 1 KiB the first superblock is in block 1, even where
        // bigalloc lets the first group begin with block 0.
        let late = group == 0 && self.block_size == 1024 && self.first_data_block == 0;
        self.group(group).start + u64::from(late)
    }

    /// Whether a group has a copy of the superblock.
    fn has_superblock(&self, group: u64) -> bool {
        let power_of = |base: u64| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        if group == 0 {
            true
        } else if self.features.compat(compat::SPARSE_SUPER2) {
            self.backup_groups.iter().any(|backup| u64::from(*backup) == group)
        } else if self.features.ro_compat(ro_compat::SPARSE_SUPER) {
            group == 1 || power_of(3) || power_of(5) || power_of(7)
        } else {
            true
        }
    }

    /// The blocks of a group's copies of the superblock and of the descriptors,
    /// with those reserved for more descriptors.
    pub(super) fn superblock_and_descriptors(&self, group: u64) -> Range<u64> {
        let has_superblock = self.has_superblock(group);
        let start = self.superblock_of(group);
        let mut end = start + u64::from(has_superblock);
        let per_block = self.descriptors_per_block();
        let meta_group = group / per_block;
        if !self.features.incompat(incompat::META_BG) {
            if has_superblock {
                end += self.descriptor_blocks() + self.reserved_gdt_blocks;
            }
        } else if meta_group < self.first_meta_bg {
            if has_superblock {
                end += self.first_meta_bg;
            }
        } else if [0, 1, per_block - 1].contains(&(group % per_block)) {
            end += 1;
        }
        start..end
    }
}
