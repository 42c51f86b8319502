//! Group descriptors: where each group's bitmaps and inode table lie, and how
//! much of it is free.
//!
//! Source: the kernel's `Documentation/filesystems/ext4/group_descr.rst` and
//! `checksums.rst`.

use std::ops::Range;

use zerocopy::{FromZeros, IntoBytes};

use super::RUN_FSCK;
use super::checksum::{crc16, crc32c};
use super::features::{incompat, ro_compat};
use super::on_disk::RawGroupDescriptor;
use super::superblock::Superblock;
use crate::error::{Error, Result};
use crate::storage::ReadAt;

/// `bg_flags`: the block bitmap on disk was never written.
const BLOCK_UNINIT: u16 = 2;
/// `bg_checksum` within a descriptor.
const CHECKSUM: Range<usize> = 0x1E..0x20;
/// Bytes of descriptors read at once.
const CHUNK: u32 = 256 << 10;

/// A group descriptor whose checksum and pointers have been checked.
pub(super) struct GroupDescriptor {
    pub block_bitmap: u64,
    pub inode_bitmap: u64,
    /// The first block of the inode table.
    pub inode_table: u64,
    pub free_clusters: u32,
    pub block_uninit: bool,
    /// The block bitmap's checksum; its low half alone in short descriptors.
    pub bitmap_checksum: u32,
}

/// Reads all descriptors in the order of their groups.
pub(super) fn for_each(
    fs: &Superblock,
    volume: &dyn ReadAt,
    visit: &mut dyn FnMut(u64, GroupDescriptor) -> Result<()>,
) -> Result<()> {
    let per_block = fs.descriptors_per_block();
    let mut buf = Vec::new();
    let mut index = 0;
    while index < fs.descriptor_blocks() {
        let first = fs.descriptor_block(index);
        let most = u64::from(CHUNK / fs.block_size).min(fs.descriptor_blocks() - index);
        let count = (1..most)
            .find(|n| fs.descriptor_block(index + n) != first + n)
            .unwrap_or(most);
        read_blocks(fs, volume, first, count, &mut buf)?;
        let groups = (index * per_block)..((index + count) * per_block).min(fs.groups);
        for (group, bytes) in groups.zip(buf.chunks_exact(fs.desc_size as usize)) {
            visit(group, GroupDescriptor::new(fs, group, bytes)?)?;
        }
        index += count;
    }
    Ok(())
}

/// Reads one group's descriptor.
pub(super) fn read_one(
    fs: &Superblock,
    volume: &dyn ReadAt,
    group: u64,
) -> Result<GroupDescriptor> {
    let per_block = fs.descriptors_per_block();
    let block = fs.descriptor_block(group / per_block);
    check_in_range(fs, block..block + 1)?;
    let mut bytes = vec![0; fs.desc_size as usize];
    let offset = group % per_block * u64::from(fs.desc_size);
    volume.read_at(fs.byte(block) + offset, &mut bytes)?;
    GroupDescriptor::new(fs, group, &bytes)
}

fn check_in_range(fs: &Superblock, blocks: Range<u64>) -> Result<()> {
    if fs.contains(&blocks) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the group descriptors would lie outside the file system: {RUN_FSCK}"
    ))
    .at(fs.byte(blocks.start)))
}

fn read_blocks(
    fs: &Superblock,
    volume: &dyn ReadAt,
    first: u64,
    count: u64,
    buf: &mut Vec<u8>,
) -> Result<()> {
    check_in_range(fs, first..first + count)?;
    // At most CHUNK bytes, or one block.
    buf.resize(usize::try_from(fs.byte(count)).unwrap_or_default(), 0);
    volume.read_at(fs.byte(first), buf)
}

impl GroupDescriptor {
    fn new(fs: &Superblock, group: u64, bytes: &[u8]) -> Result<Self> {
        let broken = |what: &str| {
            Error::invalid(format!("the descriptor of group {group} {what}: {RUN_FSCK}"))
        };
        let mut raw = RawGroupDescriptor::new_zeroed();
        for (to, from) in raw.as_mut_bytes().iter_mut().zip(bytes) {
            *to = *from;
        }
        if checksum(fs, group, bytes).is_some_and(|sum| sum != raw.checksum.get()) {
            return Err(broken("does not match its checksum"));
        }
        let wide = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let descriptor = GroupDescriptor {
            block_bitmap: wide(raw.block_bitmap_lo.get(), raw.block_bitmap_hi.get()),
            inode_bitmap: wide(raw.inode_bitmap_lo.get(), raw.inode_bitmap_hi.get()),
            inode_table: wide(raw.inode_table_lo.get(), raw.inode_table_hi.get()),
            free_clusters: u32::from(raw.free_blocks_lo.get())
                | u32::from(raw.free_blocks_hi.get()) << 16,
            block_uninit: raw.flags.get() & BLOCK_UNINIT != 0,
            bitmap_checksum: u32::from(raw.block_bitmap_csum_lo.get())
                | u32::from(raw.block_bitmap_csum_hi.get()) << 16,
        };
        if descriptor.block_uninit && (group == 0 || !fs.has_descriptor_checksums()) {
            return Err(broken("calls its block bitmap uninitialised, which cannot be"));
        }
        let bounds = if fs.features.incompat(incompat::FLEX_BG) {
            fs.first_data_block..fs.blocks
        } else {
            fs.group(group)
        };
        for range in descriptor.metadata(fs) {
            if !(bounds.start <= range.start && range.end <= bounds.end) {
                return Err(broken("points outside the file system or its group"));
            }
        }
        Ok(descriptor)
    }

    /// The blocks of the group's two bitmaps and of its inode table.
    pub(super) fn metadata(&self, fs: &Superblock) -> [Range<u64>; 3] {
        [
            (self.block_bitmap, 1),
            (self.inode_bitmap, 1),
            (self.inode_table, fs.inode_table_blocks),
        ]
        .map(|(start, len)| start..start.saturating_add(len))
    }
}

/// The checksum a descriptor should bear, if this file system has any.
fn checksum(fs: &Superblock, group: u64, bytes: &[u8]) -> Option<u16> {
    let group = u32::try_from(group).unwrap_or(u32::MAX).to_le_bytes();
    let before = bytes.get(..CHECKSUM.start).unwrap_or_default();
    let after = bytes.get(CHECKSUM.end..).unwrap_or_default();
    if fs.features.ro_compat(ro_compat::METADATA_CSUM) {
        let sum = crc32c(crc32c(fs.checksum_seed, &group), before);
        let [low, high, ..] = crc32c(crc32c(sum, &[0, 0]), after).to_le_bytes();
        Some(u16::from_le_bytes([low, high]))
    } else if fs.features.ro_compat(ro_compat::GDT_CSUM) {
        Some(crc16(crc16(crc16(crc16(!0, &fs.uuid), &group), before), after))
    } else {
        None
    }
}
