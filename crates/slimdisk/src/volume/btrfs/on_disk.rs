//! The structures of Btrfs as they lie on disk; all numbers little-endian.
//!
//! Source: the kernel's `include/uapi/linux/btrfs_tree.h` and the on-disk format
//! page of the Btrfs documentation.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// One copy of the superblock.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone)]
#[repr(C)]
pub(super) struct RawSuperblock {
    pub checksum: [u8; 32],
    pub fsid: [u8; 16],
    /// The byte of the device where this copy lies.
    pub bytenr: U64,
    pub flags: U64,
    pub magic: [u8; 8],
    pub generation: U64,
    /// Logical addresses of the roots.
    pub root: U64,
    pub chunk_root: U64,
    pub log_root: U64,
    pub log_root_transid: U64,
    pub total_bytes: U64,
    pub bytes_used: U64,
    pub root_dir_objectid: U64,
    pub num_devices: U64,
    pub sector_size: U32,
    pub node_size: U32,
    pub leaf_size: U32,
    pub stripe_size: U32,
    pub sys_chunk_array_size: U32,
    pub chunk_root_generation: U64,
    pub compat: U64,
    pub compat_ro: U64,
    pub incompat: U64,
    pub checksum_type: U16,
    pub root_level: u8,
    pub chunk_root_level: u8,
    pub log_root_level: u8,
    pub device: RawDevItem,
    pub label: [u8; 256],
    pub cache_generation: U64,
    pub uuid_tree_generation: U64,
    pub metadata_uuid: [u8; 16],
    pub reserved: [U64; 28],
    pub sys_chunk_array: [u8; 2048],
    pub backup_roots: [u8; 4 * 168],
    pub padding: [u8; 565],
}

const _: () = assert!(size_of::<RawSuperblock>() == 4096);

/// A device, in the superblock and in the chunk tree.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone)]
#[repr(C)]
pub(super) struct RawDevItem {
    pub id: U64,
    pub total_bytes: U64,
    /// Bytes of the device that chunks lie on.
    pub bytes_used: U64,
    pub io_align: U32,
    pub io_width: U32,
    pub sector_size: U32,
    pub kind: U64,
    pub generation: U64,
    pub start_offset: U64,
    pub group: U32,
    pub seek_speed: u8,
    pub bandwidth: u8,
    pub uuid: [u8; 16],
    pub fsid: [u8; 16],
}

const _: () = assert!(size_of::<RawDevItem>() == 98);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct RawKey {
    pub objectid: U64,
    pub kind: u8,
    pub offset: U64,
}

const _: () = assert!(size_of::<RawKey>() == 17);

/// The head of every node.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    pub checksum: [u8; 32],
    pub fsid: [u8; 16],
    /// The logical address of this node.
    pub bytenr: U64,
    pub flags: U64,
    pub chunk_tree_uuid: [u8; 16],
    pub generation: U64,
    pub owner: U64,
    pub items: U32,
    pub level: u8,
}

const _: () = assert!(size_of::<RawHeader>() == 101);

/// What a node above the leaves holds of each child.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawPointer {
    pub key: RawKey,
    pub address: U64,
    pub generation: U64,
}

const _: () = assert!(size_of::<RawPointer>() == 33);

/// What a leaf holds of each item; `offset` counts from the end of the header.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawItem {
    pub key: RawKey,
    pub offset: U32,
    pub size: U32,
}

const _: () = assert!(size_of::<RawItem>() == 25);

/// `CHUNK_ITEM` without its stripes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawChunk {
    pub length: U64,
    pub owner: U64,
    pub stripe_length: U64,
    pub kind: U64,
    pub io_align: U32,
    pub io_width: U32,
    pub sector_size: U32,
    pub stripes: U16,
    pub sub_stripes: U16,
}

const _: () = assert!(size_of::<RawChunk>() == 48);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawStripe {
    pub device: U64,
    pub offset: U64,
    pub device_uuid: [u8; 16],
}

const _: () = assert!(size_of::<RawStripe>() == 32);

/// `DEV_EXTENT`: one stripe, as the device tree has it.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawDevExtent {
    pub chunk_tree: U64,
    pub chunk_objectid: U64,
    pub chunk_offset: U64,
    pub length: U64,
    pub chunk_tree_uuid: [u8; 16],
}

const _: () = assert!(size_of::<RawDevExtent>() == 48);

/// `DEV_REPLACE`: the one item that tells of a device being replaced.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawDevReplace {
    pub source: U64,
    pub cursor_left: U64,
    pub cursor_right: U64,
    pub mode: U64,
    pub state: U64,
}

const _: () = assert!(size_of::<RawDevReplace>() == 40);

/// `ROOT_ITEM`, to the end of what all versions have.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawRootItem {
    pub inode: [u8; 160],
    pub generation: U64,
    pub root_dirid: U64,
    pub address: U64,
    pub byte_limit: U64,
    pub bytes_used: U64,
    pub last_snapshot: U64,
    pub flags: U64,
    pub refs: U32,
    pub drop_progress: RawKey,
    pub drop_level: u8,
    pub level: u8,
}

const _: () = assert!(size_of::<RawRootItem>() == 239);

/// The head of `EXTENT_ITEM` and `METADATA_ITEM`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawExtentItem {
    pub refs: U64,
    pub generation: U64,
    pub flags: U64,
}

const _: () = assert!(size_of::<RawExtentItem>() == 24);

/// `BLOCK_GROUP_ITEM`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawBlockGroup {
    pub used: U64,
    pub chunk_objectid: U64,
    pub flags: U64,
}

const _: () = assert!(size_of::<RawBlockGroup>() == 24);

/// `FREE_SPACE_INFO`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawFreeSpaceInfo {
    pub extents: U32,
    pub flags: U32,
}

const _: () = assert!(size_of::<RawFreeSpaceInfo>() == 8);
