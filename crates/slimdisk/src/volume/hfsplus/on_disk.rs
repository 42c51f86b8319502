//! The structures of HFS Plus as they lie on disk, all big-endian but the journal's
//! header, which is in the byte order of the machine that wrote it.
//!
//! Source: Apple, Technical Note TN1150: Volume Header, Fork Data Structure, B-Trees,
//! Extents Overflow File, Journal.

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A stretch of allocation blocks.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub(super) struct RawExtent {
    pub start: U32,
    pub count: U32,
}

const _: () = assert!(size_of::<RawExtent>() == 8);

/// Where a special file's only fork lies, as far as eight extents go.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub(super) struct RawFork {
    pub logical_size: U64,
    pub clump_size: U32,
    pub total_blocks: U32,
    pub extents: [RawExtent; 8],
}

const _: () = assert!(size_of::<RawFork>() == 80);

/// The volume header, at byte 1024, and its copy near the end.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawVolumeHeader {
    pub signature: [u8; 2],
    pub version: U16,
    pub attributes: U32,
    pub last_mounted_version: [u8; 4],
    pub journal_info_block: U32,
    pub created: U32,
    pub modified: U32,
    pub backed_up: U32,
    pub checked: U32,
    pub files: U32,
    pub folders: U32,
    pub block_size: U32,
    pub total_blocks: U32,
    pub free_blocks: U32,
    pub next_allocation: U32,
    pub resource_clump_size: U32,
    pub data_clump_size: U32,
    pub next_catalog_id: U32,
    pub write_count: U32,
    pub encodings: U64,
    pub finder_info: [U32; 8],
    pub allocation: RawFork,
    pub extents: RawFork,
    pub catalog: RawFork,
    pub attributes_file: RawFork,
    pub startup: RawFork,
}

const _: () = assert!(size_of::<RawVolumeHeader>() == 512);

/// The start of every node of a B-tree.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawNodeDescriptor {
    pub next: U32,
    pub previous: U32,
    pub kind: i8,
    pub height: u8,
    pub records: U16,
    pub reserved: U16,
}

const _: () = assert!(size_of::<RawNodeDescriptor>() == 14);

/// The first record of a B-tree's first node.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawTreeHeader {
    pub descriptor: RawNodeDescriptor,
    pub depth: U16,
    pub root: U32,
    pub leaf_records: U32,
    pub first_leaf: U32,
    pub last_leaf: U32,
    pub node_size: U16,
    pub max_key_length: U16,
    pub total_nodes: U32,
    pub free_nodes: U32,
    pub reserved_1: U16,
    pub clump_size: U32,
    pub kind: u8,
    pub key_compare: u8,
    pub attributes: U32,
    pub reserved_3: [U32; 16],
}

const _: () = assert!(size_of::<RawTreeHeader>() == 14 + 106);

/// A record's key in the extents overflow file.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawExtentKey {
    /// Of what follows: 10.
    pub length: U16,
    pub fork: u8,
    pub pad: u8,
    pub file: U32,
    /// The first block of the fork that the record's extents speak of.
    pub block: U32,
}

const _: () = assert!(size_of::<RawExtentKey>() == 12);

/// The start of a record's key in the catalog; the name follows.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawCatalogKey {
    pub length: U16,
    pub parent: U32,
    /// In characters of 16 bits.
    pub name_length: U16,
}

const _: () = assert!(size_of::<RawCatalogKey>() == 8);

/// Where the journal lies.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawJournalInfo {
    pub flags: U32,
    pub device: [U32; 8],
    pub offset: U64,
    pub size: U64,
    pub reserved: [U32; 32],
}

const _: () = assert!(size_of::<RawJournalInfo>() == 180);

/// The start of the journal, without the byte order of its numbers.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawJournalHeader {
    pub magic: [u8; 4],
    pub endian: [u8; 4],
    pub start: [u8; 8],
    pub end: [u8; 8],
    pub size: [u8; 8],
    pub block_list_size: [u8; 4],
    pub checksum: [u8; 4],
    pub header_size: [u8; 4],
}

const _: () = assert!(size_of::<RawJournalHeader>() == 44);
