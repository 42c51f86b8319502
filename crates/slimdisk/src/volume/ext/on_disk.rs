//! The structures of ext2/3/4 and of jbd2 as they lie on disk.
//!
//! The file system's own numbers are little-endian, the journal's big-endian.
//! Source: the Linux kernel's `Documentation/filesystems/ext4` (Super Block,
//! Block Group Descriptors, Index Nodes, Journal).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, big_endian as be,
};

/// `ext4_super_block`, 1024 bytes into the volume.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawSuperblock {
    pub inodes_count: U32,
    pub blocks_count_lo: U32,
    pub reserved_blocks_lo: U32,
    pub free_blocks_lo: U32,
    pub free_inodes: U32,
    pub first_data_block: U32,
    pub log_block_size: U32,
    pub log_cluster_size: U32,
    pub blocks_per_group: U32,
    pub clusters_per_group: U32,
    pub inodes_per_group: U32,
    pub mtime: U32,
    pub wtime: U32,
    pub mnt_count: U16,
    pub max_mnt_count: U16,
    pub magic: U16,
    pub state: U16,
    pub errors: U16,
    pub minor_rev_level: U16,
    pub lastcheck: U32,
    pub checkinterval: U32,
    pub creator_os: U32,
    pub rev_level: U32,
    pub def_resuid: U16,
    pub def_resgid: U16,
    pub first_ino: U32,
    pub inode_size: U16,
    pub block_group_nr: U16,
    pub feature_compat: U32,
    pub feature_incompat: U32,
    pub feature_ro_compat: U32,
    pub uuid: [u8; 16],
    pub volume_name: [u8; 16],
    pub last_mounted: [u8; 64],
    pub algorithm_usage_bitmap: U32,
    pub prealloc_blocks: u8,
    pub prealloc_dir_blocks: u8,
    pub reserved_gdt_blocks: U16,
    pub journal_uuid: [u8; 16],
    pub journal_inum: U32,
    pub journal_dev: U32,
    pub last_orphan: U32,
    pub hash_seed: [u8; 16],
    pub def_hash_version: u8,
    pub jnl_backup_type: u8,
    pub desc_size: U16,
    pub default_mount_opts: U32,
    pub first_meta_bg: U32,
    pub mkfs_time: U32,
    pub jnl_blocks: [u8; 68],
    pub blocks_count_hi: U32,
    pub reserved_blocks_hi: U32,
    pub free_blocks_hi: U32,
    pub min_extra_isize: U16,
    pub want_extra_isize: U16,
    pub flags: U32,
    pub raid_stride: U16,
    pub mmp_interval: U16,
    pub mmp_block: U64,
    pub raid_stripe_width: U32,
    pub log_groups_per_flex: u8,
    pub checksum_type: u8,
    pub reserved_pad: U16,
    pub kbytes_written: U64,
    pub snapshots: [u8; 20],
    pub error_count: U32,
    pub errors_mount_opts_quota: [u8; 180],
    pub backup_bgs: [U32; 2],
    pub encryption: [u8; 28],
    pub checksum_seed: U32,
    pub reserved: [u8; 392],
    pub checksum: U32,
}
const _: () = assert!(size_of::<RawSuperblock>() == 1024);

/// `ext4_group_desc` of 64 bytes; without the 64bit feature the first 32.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawGroupDescriptor {
    pub block_bitmap_lo: U32,
    pub inode_bitmap_lo: U32,
    pub inode_table_lo: U32,
    pub free_blocks_lo: U16,
    pub free_inodes_lo: U16,
    pub used_dirs_lo: U16,
    pub flags: U16,
    pub exclude_bitmap_lo: U32,
    pub block_bitmap_csum_lo: U16,
    pub inode_bitmap_csum_lo: U16,
    pub itable_unused_lo: U16,
    pub checksum: U16,
    pub block_bitmap_hi: U32,
    pub inode_bitmap_hi: U32,
    pub inode_table_hi: U32,
    pub free_blocks_hi: U16,
    pub free_inodes_hi: U16,
    pub used_dirs_hi: U16,
    pub itable_unused_hi: U16,
    pub exclude_bitmap_hi: U32,
    pub block_bitmap_csum_hi: U16,
    pub inode_bitmap_csum_hi: U16,
    pub reserved: U32,
}
const _: () = assert!(size_of::<RawGroupDescriptor>() == 64);

/// The first 128 bytes of `ext4_inode`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawInode {
    pub mode: U16,
    pub uid: U16,
    pub size_lo: U32,
    pub times: [U32; 4],
    pub gid: U16,
    pub links_count: U16,
    pub blocks_lo: U32,
    pub flags: U32,
    pub osd1: U32,
    pub block: [u8; 60],
    pub generation: U32,
    pub file_acl_lo: U32,
    pub size_hi: U32,
    pub obso_faddr: U32,
    pub osd2: [u8; 12],
}
const _: () = assert!(size_of::<RawInode>() == 128);

/// `ext4_extent_header`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawExtentHeader {
    pub magic: U16,
    pub entries: U16,
    pub max: U16,
    pub depth: U16,
    pub generation: U32,
}
const _: () = assert!(size_of::<RawExtentHeader>() == 12);

/// `ext4_extent`: an entry of a leaf.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawExtent {
    pub block: U32,
    pub len: U16,
    pub start_hi: U16,
    pub start_lo: U32,
}
const _: () = assert!(size_of::<RawExtent>() == 12);

/// `ext4_extent_idx`: an entry of an inner node.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawExtentIndex {
    pub block: U32,
    pub leaf_lo: U32,
    pub leaf_hi: U16,
    pub unused: U16,
}
const _: () = assert!(size_of::<RawExtentIndex>() == 12);

/// `mmp_struct`, as far as it says whether somebody has the file system.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawMmp {
    pub magic: U32,
    pub seq: U32,
}
const _: () = assert!(size_of::<RawMmp>() == 8);

/// `journal_header_s`: the first bytes of every jbd2 block but the data blocks.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawJournalHeader {
    pub magic: be::U32,
    pub blocktype: be::U32,
    pub sequence: be::U32,
}
const _: () = assert!(size_of::<RawJournalHeader>() == 12);

/// `journal_superblock_s`.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawJournalSuperblock {
    pub magic: be::U32,
    pub blocktype: be::U32,
    pub header_sequence: be::U32,
    pub blocksize: be::U32,
    pub maxlen: be::U32,
    pub first: be::U32,
    pub sequence: be::U32,
    pub start: be::U32,
    pub errno: be::U32,
    pub feature_compat: be::U32,
    pub feature_incompat: be::U32,
    pub feature_ro_compat: be::U32,
    pub uuid: [u8; 16],
    pub nr_users: be::U32,
    pub dynsuper: be::U32,
    pub max_transaction: be::U32,
    pub max_trans_data: be::U32,
    pub checksum_type: u8,
    pub padding2: [u8; 3],
    pub num_fc_blocks: be::U32,
    pub head: be::U32,
    pub padding: [u8; 160],
    pub checksum: be::U32,
    pub users: [u8; 768],
}
const _: () = assert!(size_of::<RawJournalSuperblock>() == 1024);

/// `commit_header`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawCommitHeader {
    pub header: RawJournalHeader,
    pub checksum_type: u8,
    pub checksum_size: u8,
    pub padding: [u8; 2],
    pub checksum: [be::U32; 8],
    pub commit_sec: be::U64,
    pub commit_nsec: be::U32,
}
const _: () = assert!(size_of::<RawCommitHeader>() == 60);
