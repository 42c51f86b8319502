//! The structures of LVM2 as they lie on disk; all numbers are little-endian.
//!
//! Source: the headers of lvm2 2.03 (`lib/label/label.h`, `lib/format_text/layout.h`)
//! and the manual page lvmsystemid(7), learnt from and held against images that
//! lvm2 made.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The sector that makes a physical volume: one of the first four.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct LabelSector {
    pub mark: [u8; 8],
    /// Its own number.
    pub sector: U64,
    /// Of all that follows.
    pub checksum: U32,
    /// Where the header begins: behind the label.
    pub header_at: U32,
    pub kind: [u8; 8],
    pub uuid: [u8; 32],
    pub device_size: U64,
    /// Areas of data, areas of metadata, each list with an empty one at its end,
    /// and the extension.
    pub lists: [u8; 440],
}

const _: () = assert!(size_of::<LabelSector>() == 512);

/// Where an area lies; a list ends with one whose offset is 0.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Area {
    pub offset: U64,
    /// 0: as far as the volume goes.
    pub size: U64,
}

const _: () = assert!(size_of::<Area>() == 16);

/// What newer programs write behind the lists; a list of areas for boot loaders
/// follows.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Extension {
    pub version: U32,
    pub flags: U32,
}

const _: () = assert!(size_of::<Extension>() == 8);

/// The first sector of a metadata area.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct MetadataHeader {
    /// Of all that follows.
    pub checksum: U32,
    pub mark: [u8; 16],
    pub version: U32,
    /// The area's own place.
    pub start: U64,
    pub size: U64,
    /// What holds, and what is about to hold.
    pub texts: [TextPlace; 2],
    pub rest: [u8; 424],
}

const _: () = assert!(size_of::<MetadataHeader>() == 512);

/// Where a text lies in its area.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct TextPlace {
    /// From the start of the area.
    pub offset: U64,
    pub size: U64,
    pub checksum: U32,
    pub flags: U32,
}

const _: () = assert!(size_of::<TextPlace>() == 24);
