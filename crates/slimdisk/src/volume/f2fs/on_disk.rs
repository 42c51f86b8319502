//! The structures of F2FS as they lie on disk, all little-endian.
//!
//! Source: the kernel's `Documentation/filesystems/f2fs.rst` and, for the fields,
//! the structures that `include/linux/f2fs_fs.h` declares.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The superblock, at byte 1024 of each of the first two blocks.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawSuperblock {
    pub magic: U32,
    pub major_version: U16,
    pub minor_version: U16,
    pub log_sector_size: U32,
    pub log_sectors_per_block: U32,
    pub log_block_size: U32,
    pub log_blocks_per_segment: U32,
    pub segments_per_section: U32,
    pub sections_per_zone: U32,
    pub checksum_offset: U32,
    pub block_count: U64,
    pub section_count: U32,
    /// Of all areas together.
    pub segment_count: U32,
    pub segments_checkpoint: U32,
    pub segments_sit: U32,
    pub segments_nat: U32,
    pub segments_ssa: U32,
    pub segments_main: U32,
    pub segment0_block: U32,
    pub checkpoint_block: U32,
    pub sit_block: U32,
    pub nat_block: U32,
    pub ssa_block: U32,
    pub main_block: U32,
    pub root_inode: U32,
    pub node_inode: U32,
    pub meta_inode: U32,
    pub uuid: [u8; 16],
    pub volume_name: [U16; 512],
    pub extension_count: U32,
    pub extensions: [[u8; 8]; 64],
    /// Blocks between a checkpoint's first block and its other blocks.
    pub checkpoint_payload: U32,
    pub version: [u8; 256],
    pub initial_version: [u8; 256],
    pub features: U32,
    pub encryption_level: u8,
    pub encryption_salt: [u8; 16],
    pub devices: [RawDevice; 8],
    pub quota_inodes: [U32; 3],
    pub hot_extension_count: u8,
    pub encoding: U16,
    pub encoding_flags: U16,
    pub stop_reason: [u8; 32],
    pub errors: [u8; 16],
    pub reserved: [u8; 258],
    pub checksum: U32,
}

const _: () = assert!(size_of::<RawSuperblock>() == 3072);

/// One of several devices that hold a file system.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawDevice {
    pub path: [u8; 64],
    pub total_segments: U32,
}

const _: () = assert!(size_of::<RawDevice>() == 68);

/// The start of a checkpoint block; the version bitmaps follow.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawCheckpoint {
    pub version: U64,
    pub user_block_count: U64,
    pub valid_block_count: U64,
    pub reserved_segment_count: U32,
    pub overprovision_segment_count: U32,
    pub free_segment_count: U32,
    pub node_segments: [U32; 8],
    pub node_offsets: [U16; 8],
    pub data_segments: [U32; 8],
    pub data_offsets: [U16; 8],
    pub flags: U32,
    pub pack_blocks: U32,
    pub summary_start: U32,
    pub valid_node_count: U32,
    pub valid_inode_count: U32,
    pub next_free_nid: U32,
    pub sit_bitmap_bytes: U32,
    pub nat_bitmap_bytes: U32,
    pub checksum_offset: U32,
    pub elapsed_time: U64,
    pub allocation_types: [u8; 16],
}

const _: () = assert!(size_of::<RawCheckpoint>() == 192);

/// What the segment information table says of one segment.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawSitEntry {
    /// The number of valid blocks in the low ten bits, above it the log's type.
    pub valid_blocks: U16,
    /// A bit for each block, the highest of a byte first; 1 is in use.
    pub valid_map: [u8; 64],
    pub modified: U64,
}

const _: () = assert!(size_of::<RawSitEntry>() == 74);

/// An entry of the segment information table that lies in a checkpoint.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawSitJournalEntry {
    pub segment: U32,
    pub entry: RawSitEntry,
}

const _: () = assert!(size_of::<RawSitJournalEntry>() == 78);

/// Where a node lies, in the node address table.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawNatEntry {
    pub version: u8,
    pub inode: U32,
    pub block: U32,
}

const _: () = assert!(size_of::<RawNatEntry>() == 9);

/// An entry of the node address table that lies in a checkpoint.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawNatJournalEntry {
    pub node: U32,
    pub entry: RawNatEntry,
}

const _: () = assert!(size_of::<RawNatJournalEntry>() == 13);

/// The end of every node block.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawNodeFooter {
    pub node: U32,
    pub inode: U32,
    pub flags: U32,
    pub checkpoint_version: U64,
    pub next_block: U32,
}

const _: () = assert!(size_of::<RawNodeFooter>() == 24);
