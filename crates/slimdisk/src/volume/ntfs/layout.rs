//! The on-disk structures of NTFS, in the order of their bytes.
//!
//! Source: the Linux-NTFS project's documentation (concepts and attributes) and
//! the structure definitions of ntfs-3g (`layout.h`, `logfile.h`); for the
//! shadow copy header the libvshadow format documentation, "Volume header".

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `$STANDARD_INFORMATION` and its siblings: the attribute types used here.
pub(super) const ATTRIBUTE_LIST: u32 = 0x20;
pub(super) const FILE_NAME: u32 = 0x30;
pub(super) const VOLUME_NAME: u32 = 0x60;
pub(super) const VOLUME_INFORMATION: u32 = 0x70;
pub(super) const DATA: u32 = 0x80;
pub(super) const INDEX_ROOT: u32 = 0x90;
pub(super) const INDEX_ALLOCATION: u32 = 0xA0;
pub(super) const END_OF_ATTRIBUTES: u32 = 0xFFFF_FFFF;

/// The name of the attributes of a directory index, `$I30` in UTF-16LE.
pub(super) const I30: &[u8] = b"$\0I\x003\x000\0";

/// Attribute flags.
pub(super) const ATTRIBUTE_COMPRESSED: u16 = 0x00FF;
pub(super) const ATTRIBUTE_ENCRYPTED: u16 = 0x4000;
pub(super) const ATTRIBUTE_SPARSE: u16 = 0x8000;

/// File record flags.
pub(super) const RECORD_IN_USE: u16 = 0x0001;

/// Flags of an index header and of an index entry.
pub(super) const INDEX_HAS_CHILDREN: u8 = 0x01;
pub(super) const ENTRY_HAS_CHILD: u16 = 0x0001;
pub(super) const ENTRY_IS_LAST: u16 = 0x0002;

/// The low 48 bits of a file reference are the record's number.
pub(super) const REFERENCE_NUMBER: u64 = 0x0000_FFFF_FFFF_FFFF;

/// The first sector of the volume.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct BootSector {
    pub(super) jump: [u8; 3],
    pub(super) oem_id: [u8; 8],
    pub(super) bytes_per_sector: U16,
    pub(super) sectors_per_cluster: u8,
    /// Fields of FAT's parameter block; zero in NTFS.
    pub(super) reserved_sectors: U16,
    pub(super) fats: u8,
    pub(super) root_entries: U16,
    pub(super) sectors_16: U16,
    pub(super) media: u8,
    pub(super) sectors_per_fat: U16,
    pub(super) sectors_per_track: U16,
    pub(super) heads: U16,
    pub(super) hidden_sectors: U32,
    /// Zero in NTFS.
    pub(super) sectors_32: U32,
    pub(super) drive: [u8; 4],
    /// Without the sector of the backup boot sector.
    pub(super) sectors: U64,
    pub(super) mft_cluster: U64,
    pub(super) mft_mirror_cluster: U64,
    /// Clusters, or if negative the exponent of a power of two in bytes.
    pub(super) clusters_per_record: i8,
    pub(super) reserved_1: [u8; 3],
    pub(super) clusters_per_index: i8,
    pub(super) reserved_2: [u8; 3],
    pub(super) serial: U64,
    pub(super) checksum: U32,
    pub(super) code: [u8; 426],
    pub(super) signature: [u8; 2],
}
const _: () = assert!(size_of::<BootSector>() == 512);

/// What every structure with update sequence fixups begins with.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct MultiSectorHeader {
    pub(super) magic: [u8; 4],
    pub(super) sequence_offset: U16,
    /// In 16-bit words: the number itself and one word for each 512 bytes.
    pub(super) sequence_count: U16,
}
const _: () = assert!(size_of::<MultiSectorHeader>() == 8);

/// A file record segment of `$MFT`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RecordHeader {
    pub(super) header: MultiSectorHeader,
    pub(super) log_sequence_number: U64,
    pub(super) sequence_number: U16,
    pub(super) link_count: U16,
    pub(super) attributes_offset: U16,
    pub(super) flags: U16,
    pub(super) bytes_in_use: U32,
    pub(super) bytes_allocated: U32,
    /// The base record of an extension record; zero in a base record.
    pub(super) base_record: U64,
    pub(super) next_instance: U16,
    /// From NTFS 3.1 on; before it the update sequence begins here.
    pub(super) reserved: U16,
    pub(super) record_number: U32,
}
const _: () = assert!(size_of::<RecordHeader>() == 48);

/// The part that resident and non-resident attributes share.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct AttributeHeader {
    pub(super) kind: U32,
    pub(super) length: U32,
    pub(super) non_resident: u8,
    /// In characters.
    pub(super) name_length: u8,
    pub(super) name_offset: U16,
    pub(super) flags: U16,
    pub(super) instance: U16,
}
const _: () = assert!(size_of::<AttributeHeader>() == 16);

/// Follows [`AttributeHeader`] when the value lies in the record.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ResidentHeader {
    pub(super) value_length: U32,
    pub(super) value_offset: U16,
    pub(super) flags: u8,
    pub(super) reserved: u8,
}
const _: () = assert!(size_of::<ResidentHeader>() == 8);

/// Follows [`AttributeHeader`] when the value lies in clusters of its own.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct NonResidentHeader {
    pub(super) lowest_vcn: I64,
    pub(super) highest_vcn: I64,
    pub(super) runs_offset: U16,
    pub(super) compression_unit: u8,
    pub(super) reserved: [u8; 5],
    /// The sizes are valid where `lowest_vcn` is zero.
    pub(super) allocated_size: I64,
    pub(super) data_size: I64,
    pub(super) initialized_size: I64,
}
const _: () = assert!(size_of::<NonResidentHeader>() == 48);

/// An entry of `$ATTRIBUTE_LIST`; the name follows.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct AttributeListEntry {
    pub(super) kind: U32,
    pub(super) length: U16,
    pub(super) name_length: u8,
    pub(super) name_offset: u8,
    pub(super) lowest_vcn: U64,
    pub(super) record: U64,
    pub(super) instance: U16,
}
const _: () = assert!(size_of::<AttributeListEntry>() == 26);

/// `$VOLUME_INFORMATION`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct VolumeInformation {
    pub(super) reserved: U64,
    pub(super) major_version: u8,
    pub(super) minor_version: u8,
    pub(super) flags: U16,
}
const _: () = assert!(size_of::<VolumeInformation>() == 12);

/// The value of `$INDEX_ROOT` up to its [`IndexHeader`].
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct IndexRoot {
    pub(super) kind: U32,
    pub(super) collation: U32,
    pub(super) block_size: U32,
    pub(super) clusters_per_block: i8,
    pub(super) reserved: [u8; 3],
    pub(super) header: IndexHeader,
}
const _: () = assert!(size_of::<IndexRoot>() == 32);

/// Where the entries of an index node lie, counted from this header.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct IndexHeader {
    pub(super) entries_offset: U32,
    pub(super) entries_end: U32,
    pub(super) allocated: U32,
    pub(super) flags: u8,
    pub(super) reserved: [u8; 3],
}
const _: () = assert!(size_of::<IndexHeader>() == 16);

/// A block of `$INDEX_ALLOCATION` up to its entries.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct IndexBlock {
    pub(super) header: MultiSectorHeader,
    pub(super) log_sequence_number: U64,
    pub(super) vcn: U64,
    pub(super) index: IndexHeader,
}
const _: () = assert!(size_of::<IndexBlock>() == 40);

/// An index entry; its key follows, and in its last 8 bytes the child's VCN.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct IndexEntry {
    pub(super) file: U64,
    pub(super) length: U16,
    pub(super) key_length: U16,
    pub(super) flags: U16,
    pub(super) reserved: U16,
}
const _: () = assert!(size_of::<IndexEntry>() == 16);

/// `$FILE_NAME`, the key of a directory's index; the name follows.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct FileName {
    pub(super) parent: U64,
    pub(super) times: [U64; 4],
    pub(super) allocated_size: U64,
    pub(super) data_size: U64,
    pub(super) attributes: U32,
    pub(super) reparse: U32,
    /// In characters.
    pub(super) name_length: u8,
    pub(super) namespace: u8,
}
const _: () = assert!(size_of::<FileName>() == 66);

/// A restart page of `$LogFile`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RestartPage {
    pub(super) header: MultiSectorHeader,
    pub(super) chkdsk_lsn: U64,
    pub(super) system_page_size: U32,
    pub(super) log_page_size: U32,
    pub(super) restart_area_offset: U16,
    pub(super) minor_version: U16,
    pub(super) major_version: U16,
}
const _: () = assert!(size_of::<RestartPage>() == 30);

/// The restart area in a [`RestartPage`], up to what is read here.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RestartArea {
    pub(super) current_lsn: U64,
    pub(super) log_clients: U16,
    pub(super) free_clients: U16,
    pub(super) clients_in_use: U16,
    pub(super) flags: U16,
    pub(super) sequence_number_bits: U32,
    pub(super) length: U16,
    pub(super) client_array_offset: U16,
    pub(super) file_size: U64,
}
const _: () = assert!(size_of::<RestartArea>() == 32);

/// The Volume Shadow Copy header at byte 0x1E00 of the volume.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct ShadowHeader {
    pub(super) identifier: [u8; 16],
    pub(super) version: U32,
    pub(super) record_type: U32,
    pub(super) current_offset: U64,
    pub(super) reserved: [U64; 2],
    /// From the start of the volume; zero while there are no shadow copies.
    pub(super) catalog_offset: U64,
}
const _: () = assert!(size_of::<ShadowHeader>() == 56);

/// A structure at `offset` of `bytes`, if it lies wholly in them.
pub(super) fn parse<T: FromBytes>(bytes: &[u8], offset: usize) -> Option<T> {
    T::read_from_prefix(bytes.get(offset..)?).ok().map(|(value, _)| value)
}
