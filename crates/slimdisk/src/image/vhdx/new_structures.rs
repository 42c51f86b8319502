//! The structures of a new image but for its block allocation table, as they lie in the
//! file.
//!
//! Source: [MS-VHDX] 2.2 and 2.6; the order of regions and items as Windows writes them.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use super::new::{LOG, METADATA, Places};
use super::new_guid;
use super::new_locator::locator;
use super::raw::{
    BAT_REGION, FILE_PARAMETERS, FILE_SIGNATURE, FileIdentifier, FileParameters, Guid,
    HAS_PARENT, HEADER_SIGNATURE, Header, ITEM_IS_REQUIRED, ITEM_IS_VIRTUAL_DISK,
    LEAVE_BLOCKS_ALLOCATED, LOG_VERSION, LOGICAL_SECTOR_SIZE, METADATA_REGION,
    METADATA_SIGNATURE, METADATA_TABLE_LEN, MetadataEntry, MetadataTableHeader, NO_GUID,
    PARENT_LOCATOR, PHYSICAL_SECTOR_SIZE, REGION_SIGNATURE, REGION_TABLE_LEN,
    RegionEntry, RegionTableHeader, VERSION, VIRTUAL_DISK_ID, VIRTUAL_DISK_SIZE,
    checksum, in_text_order,
};
use crate::error::Result;
use crate::image::{ImageType, NewImage};

/// Who made the file. Nobody goes by it: the size of a disk is written down but once.
const CREATOR: &str = concat!("slimdisk ", env!("CARGO_PKG_VERSION"));

/// What stands at the very start and makes an image of the file.
pub fn identifier() -> FileIdentifier {
    let mut identifier = FileIdentifier::new_zeroed();
    identifier.signature = FILE_SIGNATURE;
    for (slot, unit) in identifier.creator.iter_mut().zip(CREATOR.encode_utf16()) {
        slot.set(unit);
    }
    identifier
}

/// Both headers, which differ in their sequence number alone.
pub fn headers(new: &NewImage) -> [Header; 2] {
    let mut header = Header::new_zeroed();
    header.signature = HEADER_SIGNATURE;
    header.file_write_guid = new_guid();
    header.data_write_guid = in_text_order(&new.unique_id);
    header.log_guid = NO_GUID;
    header.log_version.set(LOG_VERSION);
    header.version.set(VERSION);
    header.log_length.set(narrow(LOG.end - LOG.start));
    header.log_offset.set(LOG.start);
    [1, 2].map(|number| {
        header.sequence_number.set(number);
        header.checksum.set(header.computed_checksum());
        header
    })
}

/// The region table.
pub fn region_table(places: &Places) -> Vec<u8> {
    let entry = |guid: Guid, range: &std::ops::Range<u64>| RegionEntry {
        guid,
        file_offset: U64::new(range.start),
        length: U32::new(narrow(range.end - range.start)),
        required: U32::new(1),
    };
    let entries = [entry(BAT_REGION, &places.bat), entry(METADATA_REGION, &METADATA)];
    let mut header = RegionTableHeader::new_zeroed();
    header.signature = REGION_SIGNATURE;
    header.entry_count.set(narrow(entries.len() as u64));
    let table = |header: &RegionTableHeader| {
        let mut table = [header.as_bytes(), entries.as_bytes()].concat();
        table.resize(REGION_TABLE_LEN, 0);
        table
    };
    header.checksum.set(checksum(&table(&header)));
    table(&header)
}

/// The metadata: their table and the items.
pub fn metadata(new: &NewImage, places: &Places) -> Result<Vec<u8>> {
    let parent = new.its_parent()?;
    let flags = match new.image_type {
        ImageType::Fixed => LEAVE_BLOCKS_ALLOCATED,
        ImageType::Dynamic => 0,
        ImageType::Differencing => HAS_PARENT,
    };
    let parameters = FileParameters {
        block_size: U32::new(narrow(places.block_size)),
        flags: U32::new(flags),
    };
    // A child is the same disk to its guest as its parent.
    let disk_id = parent.and_then(|parent| parent.disk_id).or(new.disk_id);
    let disk_id = disk_id.map_or_else(new_guid, |id| in_text_order(&id));
    let of_disk = ITEM_IS_REQUIRED | ITEM_IS_VIRTUAL_DISK;
    let mut items = vec![
        (FILE_PARAMETERS, ITEM_IS_REQUIRED, parameters.as_bytes().to_vec()),
        (VIRTUAL_DISK_SIZE, of_disk, new.size.to_le_bytes().to_vec()),
        (LOGICAL_SECTOR_SIZE, of_disk, new.sector_size.to_le_bytes().to_vec()),
        (PHYSICAL_SECTOR_SIZE, of_disk, places.physical_sector.to_le_bytes().to_vec()),
        (VIRTUAL_DISK_ID, of_disk, disk_id.to_vec()),
    ];
    if let Some(parent) = parent {
        items.push((PARENT_LOCATOR, ITEM_IS_REQUIRED, locator(parent)?));
    }
    let mut header = MetadataTableHeader::new_zeroed();
    header.signature = METADATA_SIGNATURE;
    header.entry_count = U16::new(u16::try_from(items.len()).unwrap_or(u16::MAX));
    let mut table = header.as_bytes().to_vec();
    let mut data: Vec<u8> = Vec::new();
    for (item_id, flags, item) in items {
        let entry = MetadataEntry {
            item_id,
            offset: U32::new(narrow(METADATA_TABLE_LEN + data.len() as u64)),
            length: U32::new(narrow(item.len() as u64)),
            flags: U32::new(flags),
            reserved_2: U32::ZERO,
        };
        table.extend(entry.as_bytes());
        data.extend(item);
    }
    table.resize(usize::try_from(METADATA_TABLE_LEN).unwrap_or(0), 0);
    table.extend(data);
    Ok(table)
}

/// A number that was held against its limits before.
fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
