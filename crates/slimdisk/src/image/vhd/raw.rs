//! VHD structures as they lie in the file.
//!
//! Source: Virtual Hard Disk Image Format Specification 1.0 (Microsoft, October
//! 2006), sections "Hard Disk Footer Format" and "Dynamic Disk Header Format";
//! the batmap is an addition of Xen's tapdisk. All numbers are big-endian.

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The unit of every offset in a VHD, whatever the guest's sectors are.
pub const SECTOR: u64 = 512;

pub const FOOTER_LEN: u64 = 512;
pub const FOOTER_COOKIE: [u8; 8] = *b"conectix";
/// What xen's tools put in place of the cookie of an image nobody may use.
pub const POISON_COOKIE: [u8; 8] = *b"v_poison";
pub const FORMAT_VERSION: u32 = 0x0001_0000;
/// Reserved in `features`, "must always be set to 1".
pub const FEATURE_RESERVED: u32 = 2;

pub const DISK_TYPE_FIXED: u32 = 2;
pub const DISK_TYPE_DYNAMIC: u32 = 3;
pub const DISK_TYPE_DIFFERENCING: u32 = 4;

/// At the end of every image, and at its start too unless it is fixed.
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
pub struct Footer {
    pub cookie: [u8; 8],
    pub features: U32,
    pub file_format_version: U32,
    pub data_offset: U64,
    pub time_stamp: U32,
    pub creator_application: [u8; 4],
    pub creator_version: U32,
    pub creator_host_os: [u8; 4],
    pub original_size: U64,
    pub current_size: U64,
    pub cylinders: U16,
    pub heads: u8,
    pub sectors_per_track: u8,
    pub disk_type: U32,
    pub checksum: U32,
    pub unique_id: [u8; 16],
    pub saved_state: u8,
    /// Reserved by the specification; tapdisk hides a disk with it.
    pub hidden: u8,
    pub reserved: [u8; 426],
}
const _: () = assert!(size_of::<Footer>() == 512);

pub const HEADER_LEN: u64 = 1024;
pub const HEADER_COOKIE: [u8; 8] = *b"cxsparse";

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
pub struct DynamicHeader {
    pub cookie: [u8; 8],
    pub data_offset: U64,
    pub table_offset: U64,
    pub header_version: U32,
    pub max_table_entries: U32,
    pub block_size: U32,
    pub checksum: U32,
    pub parent_unique_id: [u8; 16],
    pub parent_time_stamp: U32,
    pub reserved: U32,
    /// UTF-16, big-endian.
    pub parent_unicode_name: [U16; 256],
    pub parent_locators: [ParentLocator; 8],
    pub reserved_2: [u8; 256],
}
const _: () = assert!(size_of::<DynamicHeader>() == 1024);

#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub struct ParentLocator {
    pub platform_code: [u8; 4],
    /// Sectors by the specification; bytes in the files that Windows makes.
    pub platform_data_space: U32,
    pub platform_data_length: U32,
    pub reserved: U32,
    pub platform_data_offset: U64,
}
const _: () = assert!(size_of::<ParentLocator>() == 24);

/// A table entry of a block that has no place.
pub const UNUSED: u32 = 0xFFFF_FFFF;

pub const BATMAP_COOKIE: [u8; 8] = *b"tdbatmap";
/// The version whose checksum adds the bytes as signed numbers.
pub const BATMAP_VERSION_SIGNED: u32 = 0x0001_0001;
pub const BATMAP_VERSION_CURRENT: u32 = 0x0001_0002;

/// Directly after the padded block allocation table of a tapdisk image.
///
/// Source: xen blktap, `vhd.h`, `dd_batmap_hdr`.
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
pub struct BatmapHeader {
    pub cookie: [u8; 8],
    pub map_offset: U64,
    /// In sectors.
    pub map_size: U32,
    pub version: U32,
    /// Of the map, not of this header.
    pub checksum: U32,
    pub marker: u8,
    /// 1 when a key hash follows: the blocks are encrypted.
    pub key_hash_present: u8,
    pub reserved: [u8; 482],
}
const _: () = assert!(size_of::<BatmapHeader>() == 512);

/// One's complement of the sum of all bytes, the checksum field taken as zero.
fn checksum(bytes: &[u8], field: u32) -> u32 {
    let sum = bytes.iter().fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    let own = field.to_be_bytes().iter().fold(0u32, |sum, byte| sum + u32::from(*byte));
    !sum.wrapping_sub(own)
}

impl Footer {
    /// The checksum this footer should bear.
    pub fn computed_checksum(&self) -> u32 {
        checksum(self.as_bytes(), self.checksum.get())
    }

    /// Cookie and checksum hold.
    pub fn is_sound(&self) -> bool {
        self.cookie == FOOTER_COOKIE
            && (self.checksum.get() == self.computed_checksum()
                || self.checksum.get() == self.checksum_before_hiding())
    }

    /// Early tapdisk tools hid a disk without a new checksum; its versions 0.1
    /// and 1.1 are still read with the byte taken as zero (xen `libvhd.c`,
    /// `vhd_validate_footer`).
    fn checksum_before_hiding(&self) -> u32 {
        let early =
            self.is_tapdisk() && matches!(self.creator_version.get(), 1 | 0x1_0001);
        let unhidden = Footer { hidden: if early { 0 } else { self.hidden }, ..*self };
        unhidden.computed_checksum()
    }

    pub fn is_tapdisk(&self) -> bool {
        self.creator_application == *b"tap\0"
    }
}

impl DynamicHeader {
    pub fn computed_checksum(&self) -> u32 {
        checksum(self.as_bytes(), self.checksum.get())
    }

    /// The same header without what it says of the parent but for its identity.
    pub fn without_names(&self) -> Self {
        let mut header = *self;
        header.checksum.set(0);
        header.parent_time_stamp.set(0);
        header.parent_unicode_name = [U16::ZERO; 256];
        header.parent_locators = [ParentLocator::default(); 8];
        header
    }
}

impl ParentLocator {
    /// How many bytes its data may have.
    pub fn room(&self) -> u64 {
        // "Sectors" by the specification, bytes in nearly every file: below one
        // sector it can only be a count of sectors.
        let space = match u64::from(self.platform_data_space.get()) {
            sectors if sectors < SECTOR => sectors * SECTOR,
            bytes => bytes,
        };
        space.max(u64::from(self.platform_data_length.get()))
    }
}
