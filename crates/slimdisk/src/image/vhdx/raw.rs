//! VHDX structures as they lie in the file.
//!
//! Source: [MS-VHDX] v20240423, sections 2.2 (header section), 2.3 (log), 2.5 (block
//! allocation table) and 2.6 (metadata region). All numbers are little-endian.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The unit in which everything of a file lies that is no part of its header section.
pub const MIB: u64 = 1 << 20;

/// The unit of the log and of everything that is changed through it.
pub const PAGE: u64 = 4096;

/// An identifier as it lies in the file: three numbers, then eight bytes.
pub type Guid = [u8; 16];

const fn guid(a: u32, b: u16, c: u16, d: [u8; 8]) -> Guid {
    let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
    [
        a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4],
        d[5], d[6], d[7],
    ]
}

/// The same bytes in the order in which they are written as text, and back again.
pub const fn in_text_order(id: &Guid) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *id;
    let [i, j, k, l, m, n, o, p] = rest;
    [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
}

pub const NO_GUID: Guid = [0; 16];

pub const FILE_SIGNATURE: [u8; 8] = *b"vhdxfile";

/// At the very start; never changed once the file has been made.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct FileIdentifier {
    pub signature: [u8; 8],
    /// UTF-16.
    pub creator: [U16; 256],
}
const _: () = assert!(size_of::<FileIdentifier>() == 520);

/// Where the two headers lie.
pub const HEADERS_AT: [u64; 2] = [64 << 10, 128 << 10];
pub const HEADER_SIGNATURE: [u8; 4] = *b"head";
pub const VERSION: u16 = 1;
pub const LOG_VERSION: u16 = 0;

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
pub struct Header {
    pub signature: [u8; 4],
    pub checksum: U32,
    pub sequence_number: U64,
    pub file_write_guid: Guid,
    pub data_write_guid: Guid,
    pub log_guid: Guid,
    pub log_version: U16,
    pub version: U16,
    pub log_length: U32,
    pub log_offset: U64,
    pub reserved: [u8; 4016],
}
const _: () = assert!(size_of::<Header>() == 4096);

impl Header {
    pub fn computed_checksum(&self) -> u32 {
        checksum(self.as_bytes())
    }

    /// Signature and checksum hold.
    pub fn is_sound(&self) -> bool {
        self.signature == HEADER_SIGNATURE
            && self.checksum.get() == self.computed_checksum()
    }
}

/// Where the two region tables lie.
pub const REGION_TABLES_AT: [u64; 2] = [192 << 10, 256 << 10];
pub const REGION_TABLE_LEN: usize = 64 << 10;
pub const REGION_SIGNATURE: [u8; 4] = *b"regi";
/// Entries that fit a region table or a metadata table.
pub const MOST_ENTRIES: u32 = 2047;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RegionTableHeader {
    pub signature: [u8; 4],
    pub checksum: U32,
    pub entry_count: U32,
    pub reserved: U32,
}
const _: () = assert!(size_of::<RegionTableHeader>() == 16);

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RegionEntry {
    pub guid: Guid,
    pub file_offset: U64,
    pub length: U32,
    pub required: U32,
}
const _: () = assert!(size_of::<RegionEntry>() == 32);

pub const BAT_REGION: Guid =
    guid(0x2DC2_7766, 0xF623, 0x4200, [0x9D, 0x64, 0x11, 0x5E, 0x9B, 0xFD, 0x4A, 0x08]);
pub const METADATA_REGION: Guid =
    guid(0x8B7C_A206, 0x4790, 0x4B9A, [0xB8, 0xFE, 0x57, 0x5F, 0x05, 0x0F, 0x88, 0x6E]);

pub const METADATA_SIGNATURE: [u8; 8] = *b"metadata";
pub const METADATA_TABLE_LEN: u64 = 64 << 10;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct MetadataTableHeader {
    pub signature: [u8; 8],
    pub reserved: U16,
    pub entry_count: U16,
    pub reserved_2: [u8; 20],
}
const _: () = assert!(size_of::<MetadataTableHeader>() == 32);

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct MetadataEntry {
    pub item_id: Guid,
    /// From the start of the region.
    pub offset: U32,
    pub length: U32,
    pub flags: U32,
    pub reserved_2: U32,
}
const _: () = assert!(size_of::<MetadataEntry>() == 32);

pub const ITEM_IS_USER: u32 = 1;
pub const ITEM_IS_VIRTUAL_DISK: u32 = 2;
pub const ITEM_IS_REQUIRED: u32 = 4;
pub const ITEM_FLAGS: u32 = 7;

pub const FILE_PARAMETERS: Guid =
    guid(0xCAA1_6737, 0xFA36, 0x4D43, [0xB3, 0xB6, 0x33, 0xF0, 0xAA, 0x44, 0xE7, 0x6B]);
pub const VIRTUAL_DISK_SIZE: Guid =
    guid(0x2FA5_4224, 0xCD1B, 0x4876, [0xB2, 0x11, 0x5D, 0xBE, 0xD8, 0x3B, 0xF4, 0xB8]);
pub const VIRTUAL_DISK_ID: Guid =
    guid(0xBECA_12AB, 0xB2E6, 0x4523, [0x93, 0xEF, 0xC3, 0x09, 0xE0, 0x00, 0xC7, 0x46]);
pub const LOGICAL_SECTOR_SIZE: Guid =
    guid(0x8141_BF1D, 0xA96F, 0x4709, [0xBA, 0x47, 0xF2, 0x33, 0xA8, 0xFA, 0xAB, 0x5F]);
pub const PHYSICAL_SECTOR_SIZE: Guid =
    guid(0xCDA3_48C7, 0x445D, 0x4471, [0x9C, 0xC9, 0xE9, 0x88, 0x52, 0x51, 0xC5, 0x56]);
pub const PARENT_LOCATOR: Guid =
    guid(0xA8D3_5F2D, 0xB30B, 0x454D, [0xAB, 0xF7, 0xD3, 0xD8, 0x48, 0x34, 0xAB, 0x0C]);
/// Not in the specification: Microsoft's own software marks a file with it whose making
/// was not finished (openvmm, `vhdx`).
pub const INCOMPLETE_FILE: Guid =
    guid(0x71CC_85F0, 0x1B69, 0x4E28, [0x95, 0x58, 0xC3, 0xBF, 0x83, 0xAE, 0x75, 0xD3]);

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct FileParameters {
    pub block_size: U32,
    pub flags: U32,
}
const _: () = assert!(size_of::<FileParameters>() == 8);

pub const LEAVE_BLOCKS_ALLOCATED: u32 = 1;
pub const HAS_PARENT: u32 = 2;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct LocatorHeader {
    pub locator_type: Guid,
    pub reserved: U16,
    pub key_value_count: U16,
}
const _: () = assert!(size_of::<LocatorHeader>() == 20);

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct LocatorEntry {
    /// From the start of the item, as the next one.
    pub key_offset: U32,
    pub value_offset: U32,
    pub key_length: U16,
    pub value_length: U16,
}
const _: () = assert!(size_of::<LocatorEntry>() == 12);

pub const VHDX_LOCATOR: Guid =
    guid(0xB04A_EFB7, 0xD19E, 0x4A81, [0xB7, 0x89, 0x25, 0xB8, 0xE9, 0x44, 0x59, 0x13]);

pub const LOG_ENTRY_SIGNATURE: [u8; 4] = *b"loge";

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct LogEntryHeader {
    pub signature: [u8; 4],
    /// Of the whole entry.
    pub checksum: U32,
    pub entry_length: U32,
    /// From the start of the log.
    pub tail: U32,
    pub sequence_number: U64,
    pub descriptor_count: U32,
    pub reserved: U32,
    pub log_guid: Guid,
    pub flushed_file_offset: U64,
    pub last_file_offset: U64,
}
const _: () = assert!(size_of::<LogEntryHeader>() == 64);

pub const ZERO_SIGNATURE: [u8; 4] = *b"zero";
pub const DATA_DESCRIPTOR_SIGNATURE: [u8; 4] = *b"desc";

/// Of data and of zeros: which, says the signature.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct LogDescriptor {
    pub signature: [u8; 4],
    /// The last four bytes of the page; reserved in a descriptor of zeros.
    pub trailing_bytes: [u8; 4],
    /// The first eight bytes of the page; in a descriptor of zeros how many there are.
    pub leading_bytes: [u8; 8],
    pub file_offset: U64,
    pub sequence_number: U64,
}
const _: () = assert!(size_of::<LogDescriptor>() == 32);

pub const DATA_SECTOR_SIGNATURE: [u8; 4] = *b"data";

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct LogDataSector {
    pub signature: [u8; 4],
    pub sequence_high: U32,
    pub data: [u8; 4084],
    pub sequence_low: U32,
}
const _: () = assert!(size_of::<LogDataSector>() == 4096);

/// CRC-32C of a structure whose bytes 4 to 7 are its own checksum, which counts as zero.
pub fn checksum(bytes: &[u8]) -> u32 {
    let (front, rest) = bytes.split_at_checked(4).unwrap_or((bytes, &[]));
    let crc = crc32c::crc32c_append(crc32c::crc32c(front), &[0; 4]);
    crc32c::crc32c_append(crc, rest.get(4..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::parent::id_text;

    #[test]
    fn identifiers_are_written_as_everywhere() {
        let text = id_text(&in_text_order(&BAT_REGION));
        assert_eq!(text, "2dc27766-f623-4200-9d64-115e9bfd4a08");
        assert_eq!(in_text_order(&in_text_order(&BAT_REGION)), BAT_REGION);
    }

    #[test]
    fn the_checksum_takes_itself_as_zero() {
        let bytes = b"headxxxx and so on";
        assert_eq!(checksum(bytes), crc32c::crc32c(b"head\0\0\0\0 and so on"));
    }
}
