//! The structures of exFAT as they lie on disk.
//!
//! Source: Microsoft, exFAT file system specification 1.00, sections 3.1 (main boot
//! sector), 6.4 (generic secondary entries), 7.1 (allocation bitmap) and 7.2
//! (up-case table).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first 512 bytes of the volume.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct BootSector {
    pub jump: [u8; 3],
    pub name: [u8; 8],
    pub must_be_zero: [u8; 53],
    pub partition_offset: U64,
    pub volume_length: U64,
    pub fat_offset: U32,
    pub fat_length: U32,
    pub cluster_heap_offset: U32,
    pub cluster_count: U32,
    pub root_cluster: U32,
    pub serial: U32,
    pub revision: U16,
    pub flags: U16,
    pub sector_shift: u8,
    pub cluster_shift: u8,
    pub fats: u8,
    pub drive: u8,
    pub percent_in_use: u8,
    pub reserved: [u8; 7],
    pub boot_code: [u8; 390],
    pub signature: [u8; 2],
}

const _: () = assert!(size_of::<BootSector>() == 512);

/// One entry of a directory, by what most kinds have in common: the allocation
/// bitmap and the up-case table, and all secondary entries.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct DirectoryEntry {
    pub kind: u8,
    /// Of the bitmap and of secondary entries; the length of a label.
    pub flags: u8,
    pub custom_1: [u8; 2],
    /// Of the up-case table.
    pub checksum: U32,
    pub custom_2: [u8; 12],
    pub first_cluster: U32,
    pub length: U64,
}

const _: () = assert!(size_of::<DirectoryEntry>() == 32);
