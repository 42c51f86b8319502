//! The structures of FAT12, FAT16 and FAT32 as they lie on disk.
//!
//! Source: Microsoft, FAT specification 1.03, sections "Boot Sector and BPB" and
//! "FAT Directory Structure"; the state byte (`BS_Reserved1`) as Windows NT and
//! Linux use it (the kernel's `include/uapi/linux/msdos_fs.h`).

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first 512 bytes of the volume, whatever the size of a sector.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct BootSector {
    pub jump: [u8; 3],
    pub oem_name: [u8; 8],
    pub bytes_per_sector: U16,
    pub sectors_per_cluster: u8,
    pub reserved_sectors: U16,
    pub fats: u8,
    pub root_entries: U16,
    pub sectors_16: U16,
    pub media: u8,
    pub sectors_per_fat_16: U16,
    pub sectors_per_track: U16,
    pub heads: U16,
    pub hidden_sectors: U32,
    pub sectors_32: U32,
    /// [`Extended16`] or [`Extended32`], then boot code.
    pub extended: [u8; 474],
    pub signature: [u8; 2],
}

const _: () = assert!(size_of::<BootSector>() == 512);

/// What follows in FAT12 and FAT16.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Extended16 {
    pub drive: u8,
    pub state: u8,
    pub extended_signature: u8,
    pub serial: U32,
    pub label: [u8; 11],
    pub kind: [u8; 8],
}

const _: () = assert!(size_of::<Extended16>() == 26);

/// What follows in FAT32.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Extended32 {
    pub sectors_per_fat: U32,
    pub flags: U16,
    pub version: U16,
    pub root_cluster: U32,
    pub fsinfo_sector: U16,
    pub backup_sector: U16,
    pub reserved: [u8; 12],
    pub drive: u8,
    pub state: u8,
    pub extended_signature: u8,
    pub serial: U32,
    pub label: [u8; 11],
    pub kind: [u8; 8],
}

const _: () = assert!(size_of::<Extended32>() == 54);

/// One entry of a directory.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct DirectoryEntry {
    pub name: [u8; 11],
    pub attributes: u8,
    pub reserved: u8,
    pub created: [u8; 5],
    pub accessed: U16,
    pub cluster_high: U16,
    pub written: [u8; 4],
    pub cluster_low: U16,
    pub size: U32,
}

const _: () = assert!(size_of::<DirectoryEntry>() == 32);
