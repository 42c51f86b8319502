//! The journal: whether it holds transactions that the volume lacks.
//!
//! ```text
//! volume header -> journal info block -> journal header, then a ring of transactions
//! ```
//!
//! An empty journal begins where it ends. It is not replayed here: a volume whose
//! journal holds anything was in use. Who mounted the volume last does not matter:
//! macOS leaves the journal of a volume alone that somebody mounted without it, but
//! where there is nothing in it, nothing can be left alone.
//!
//! Source: TN1150, Journal.

use std::ops::Range;

use super::on_disk::{RawJournalHeader, RawJournalInfo};
use super::volume_header::VolumeHeader;
use super::{REPAIR, UNMOUNT};
use crate::error::{Error, Result};
use crate::storage::{ReadAt, read_struct};

mod flag {
    pub const IN_VOLUME: u32 = 1;
    pub const ON_OTHER_DEVICE: u32 = 2;
    pub const NEEDS_INIT: u32 = 4;
}

const MAGIC: u32 = 0x4A4E_4C78;
const ENDIAN: u32 = 0x1234_5678;

/// Fails unless the journal is empty; gives the bytes of its info block and its own.
pub(super) fn check_empty(
    volume: &dyn ReadAt,
    header: &VolumeHeader,
    info_block: u32,
) -> Result<[Range<u64>; 2]> {
    let at = header.byte(info_block.into());
    let damaged = |what: &str, at: u64| {
        Error::invalid(format!("the journal {what}: {REPAIR}")).at(at)
    };
    if info_block == 0 || info_block >= header.blocks {
        return Err(damaged("info block lies outside the volume", at));
    }
    let info: RawJournalInfo = read_struct(volume, at)?;
    let flags = info.flags.get();
    if flags & flag::ON_OTHER_DEVICE != 0 {
        return Err(Error::invalid(
            "the journal lies on another device: only the zeros of the volume can be \
             given up",
        ));
    }
    if flags & !flag::NEEDS_INIT != flag::IN_VOLUME {
        return Err(Error::invalid(format!(
            "the journal has unknown flags ({flags:#x}): a newer version of this program \
             may know them"
        ))
        .at(at));
    }
    let (start, size) = (info.offset.get(), info.size.get());
    let end = start.checked_add(size).filter(|end| *end <= header.length());
    let Some(end) = end.filter(|_| size >= size_of::<RawJournalHeader>() as u64) else {
        return Err(damaged("lies outside the volume", at));
    };
    let places = [at..at + size_of::<RawJournalInfo>() as u64, start..end];
    // A new journal that nobody has used yet.
    if flags & flag::NEEDS_INIT != 0 {
        return Ok(places);
    }
    let raw: RawJournalHeader = read_struct(volume, start)?;
    let [swapped, straight] =
        [u32::from_le_bytes, u32::from_be_bytes].map(|order| order(raw.endian) == ENDIAN);
    let number = |bytes: [u8; 4]| {
        if swapped { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }
    };
    let long = |bytes: [u8; 8]| {
        if swapped { u64::from_le_bytes(bytes) } else { u64::from_be_bytes(bytes) }
    };
    if !(swapped || straight) || number(raw.magic) != MAGIC {
        return Err(damaged("lacks its signature", start));
    }
    if number(raw.checksum) != checksum(&raw) {
        return Err(damaged("does not match its checksum", start));
    }
    let (first, next) = (long(raw.start), long(raw.end));
    let ring = u64::from(number(raw.header_size))..=size;
    if long(raw.size) != size || !ring.contains(&first) || !ring.contains(&next) {
        return Err(damaged("has an impossible size", start));
    }
    if first != next {
        return Err(Error::invalid(format!(
            "the journal holds changes that are not in the volume yet: {UNMOUNT}"
        ))
        .at(start));
    }
    Ok(places)
}

/// The sum of the header, taken with zeros in the sum's own place.
fn checksum(raw: &RawJournalHeader) -> u32 {
    use zerocopy::IntoBytes;
    let zeroed = RawJournalHeader { checksum: [0; 4], ..*raw };
    !zeroed
        .as_bytes()
        .iter()
        .fold(0u32, |sum, byte| (sum << 8) ^ sum.wrapping_add(u32::from(*byte)))
}
