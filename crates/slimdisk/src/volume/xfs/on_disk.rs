//! The structures of XFS as they lie on disk, all of them big-endian but for the
//! checksums.
//!
//! Source: XFS Algorithms & Data Structures, 3rd edition (Superblocks, AG Free Space
//! Management, AG Inode Management, Short Format B+trees, Journaling Log); the names
//! are those of the kernel without their prefixes.

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian as le,
};

/// `xfs_dsb`, at the start of each allocation group.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawSuperblock {
    pub magic: [u8; 4],
    pub block_size: U32,
    pub data_blocks: U64,
    pub realtime_blocks: U64,
    pub realtime_extents: U64,
    pub uuid: [u8; 16],
    pub log_start: U64,
    pub root_inode: U64,
    pub realtime_bitmap_inode: U64,
    pub realtime_summary_inode: U64,
    pub realtime_extent_size: U32,
    pub ag_blocks: U32,
    pub ag_count: U32,
    pub realtime_bitmap_blocks: U32,
    pub log_blocks: U32,
    pub version: U16,
    pub sector_size: U16,
    pub inode_size: U16,
    pub inodes_per_block: U16,
    pub label: [u8; 12],
    pub block_log: u8,
    pub sector_log: u8,
    pub inode_log: u8,
    pub inodes_per_block_log: u8,
    pub ag_block_log: u8,
    pub realtime_extent_log: u8,
    pub in_progress: u8,
    pub max_inode_percent: u8,
    pub inodes: U64,
    pub free_inodes: U64,
    pub free_blocks: U64,
    pub free_realtime_extents: U64,
    pub user_quota_inode: U64,
    pub group_quota_inode: U64,
    pub quota_flags: U16,
    pub flags: u8,
    pub shared_version: u8,
    pub inode_alignment: U32,
    pub stripe_unit: U32,
    pub stripe_width: U32,
    pub directory_block_log: u8,
    pub log_sector_log: u8,
    pub log_sector_size: U16,
    pub log_stripe_unit: U32,
    pub features2: U32,
    pub bad_features2: U32,
    // From here on version 5 alone.
    pub compat: U32,
    pub ro_compat: U32,
    pub incompat: U32,
    pub log_incompat: U32,
    pub checksum: le::U32,
    pub sparse_alignment: U32,
    pub project_quota_inode: U64,
    pub lsn: U64,
    pub meta_uuid: [u8; 16],
}
const _: () = assert!(size_of::<RawSuperblock>() == 264);

/// `xfs_agf`, in the second sector of a group: its free space.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawAgf {
    pub magic: [u8; 4],
    pub version: U32,
    pub group: U32,
    pub length: U32,
    pub by_block_root: U32,
    pub by_size_root: U32,
    pub rmap_root: U32,
    pub by_block_levels: U32,
    pub by_size_levels: U32,
    pub rmap_levels: U32,
    pub list_first: U32,
    pub list_last: U32,
    pub list_count: U32,
    pub free_blocks: U32,
    pub longest: U32,
    pub btree_blocks: U32,
    pub uuid: [u8; 16],
    pub rmap_blocks: U32,
    pub refcount_blocks: U32,
    pub refcount_root: U32,
    pub refcount_levels: U32,
    pub spare: [u8; 112],
    pub lsn: U64,
    pub checksum: le::U32,
    pub spare2: U32,
}
const _: () = assert!(size_of::<RawAgf>() == 224);

/// `xfs_agi`, in the third sector of a group: its inodes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawAgi {
    pub magic: [u8; 4],
    pub version: U32,
    pub group: U32,
    pub length: U32,
    pub inodes: U32,
    pub root: U32,
    pub levels: U32,
    pub free_inodes: U32,
    pub newest: U32,
    pub directory: U32,
    pub unlinked: [U32; 64],
    pub uuid: [u8; 16],
    pub checksum: le::U32,
    pub pad: U32,
    pub lsn: U64,
    pub free_root: U32,
    pub free_levels: U32,
    pub inode_btree_blocks: U32,
    pub free_inode_btree_blocks: U32,
}
const _: () = assert!(size_of::<RawAgi>() == 344);

/// `xfs_agfl`, in the fourth sector of a group: blocks set aside for the B+trees.
/// The list follows; before version 5 it is all there is.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawAgfl {
    pub magic: [u8; 4],
    pub group: U32,
    pub uuid: [u8; 16],
    pub lsn: U64,
    pub checksum: le::U32,
}
const _: () = assert!(size_of::<RawAgfl>() == 36);

/// `xfs_btree_block`, short form: what every B+tree block begins with.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawBtreeBlock {
    pub magic: [u8; 4],
    pub level: U16,
    pub records: U16,
    pub left: U32,
    pub right: U32,
}
const _: () = assert!(size_of::<RawBtreeBlock>() == 16);

/// What follows in version 5.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawBtreeBlockV5 {
    pub basic_block: U64,
    pub lsn: U64,
    pub uuid: [u8; 16],
    pub owner: U32,
    pub checksum: le::U32,
}
const _: () = assert!(size_of::<RawBtreeBlockV5>() == 40);

/// `xfs_alloc_rec`: a record of both free space B+trees, and a key of both.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawFreeExtent {
    pub start: U32,
    pub length: U32,
}
const _: () = assert!(size_of::<RawFreeExtent>() == 8);

/// `xlog_rec_header`, the first basic block (512 bytes) of a record of the log.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawLogRecord {
    pub magic: U32,
    pub cycle: U32,
    pub version: U32,
    pub length: U32,
    pub lsn: U64,
    pub tail_lsn: U64,
    pub checksum: le::U32,
    pub previous: U32,
    pub operations: U32,
    /// The first words of the record's basic blocks, which hold the cycle instead.
    pub cycle_data: [U32; 64],
    pub format: U32,
    pub uuid: [u8; 16],
    /// Of version 2: the size of the buffer it was written from.
    pub buffer_size: U32,
    pub pad: U32,
    pub reserved: [u8; 184],
}
const _: () = assert!(size_of::<RawLogRecord>() == 512);

/// `xlog_op_header`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawLogOperation {
    pub transaction: U32,
    pub length: U32,
    pub client: u8,
    pub flags: u8,
    pub reserved: U16,
}
const _: () = assert!(size_of::<RawLogOperation>() == 12);
