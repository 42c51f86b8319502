//! The label and the header of a physical volume: one sector.
//!
//! ```text
//! LABELONE | sector | CRC | 32 | LVM2 001 |
//!   UUID | device size | data areas, 0 | metadata areas, 0 |
//!   extension: version, flags | boot loader areas, 0
//! ```

use std::ops::Range;

use zerocopy::{FromBytes, IntoBytes};

use super::checksum;
use super::on_disk::{Area, Extension, LabelSector};
use crate::error::{Error, Result};
use crate::storage::{ReadAt, read_struct};

const SECTOR: u64 = 512;
const MARK: [u8; 8] = *b"LABELONE";

/// The label is in one of the first four sectors.
pub(super) const LABEL_SECTORS: u64 = 4;

/// lvm2 has room for two.
const METADATA_AREAS: usize = 2;

const IN_USE: u32 = 1;

/// What a physical volume says of itself.
#[derive(Debug)]
pub(super) struct Header {
    pub uuid: String,
    pub device_size: u64,
    /// Where the data begins.
    pub data: u64,
    pub metadata: Vec<Range<u64>>,
    /// Areas for boot loaders.
    pub boot: Vec<Range<u64>>,
    /// Whether it says that it belongs to a volume group; older programs did not
    /// say.
    pub in_use: Option<bool>,
}

/// The sectors that bear the mark of a label.
pub(super) fn marked_sectors(volume: &dyn ReadAt) -> Result<Vec<u64>> {
    let mut marked = Vec::new();
    for sector in 0..LABEL_SECTORS {
        if volume.len() >= (sector + 1) * SECTOR {
            let mark: [u8; 8] = read_struct(volume, sector * SECTOR)?;
            if mark == MARK {
                marked.push(sector);
            }
        }
    }
    Ok(marked)
}

pub(super) fn read(volume: &dyn ReadAt) -> Result<Header> {
    let sector = match *marked_sectors(volume)? {
        [sector] => sector,
        [] => return Err(Error::invalid("it has no label")),
        _ => {
            return Err(Error::invalid(
                "it has several labels; nobody can tell which of them holds",
            ));
        }
    };
    let at = sector * SECTOR;
    let broken = |what: String| Error::invalid(format!("its label {what}")).at(at);
    let label: LabelSector = read_struct(volume, at)?;
    let covered = label.as_bytes().get(20..).unwrap_or_default();
    if checksum::of(covered) != label.checksum.get() {
        return Err(broken("has a checksum that does not hold".into()));
    }
    if label.sector.get() != sector || label.header_at.get() != 32 {
        return Err(broken("is not where it says it is".into()));
    }
    if label.kind != *b"LVM2 001" {
        return Err(broken("is of an unknown kind".into()));
    }
    let uuid = match str::from_utf8(&label.uuid) {
        Ok(uuid) if uuid.bytes().all(|b| b.is_ascii_alphanumeric()) => uuid.to_owned(),
        _ => return Err(broken("has a UUID that is none".into())),
    };
    let device_size = label.device_size.get();
    if device_size > volume.len() {
        return Err(Error::invalid(format!(
            "it has {device_size} bytes but the partition only {}: the disk was cut off, or \
             the partition table is wrong",
            volume.len()
        )));
    }

    let mut rest = label.lists.as_slice();
    let data = areas(&mut rest).ok_or_else(|| broken("is cut off".into()))?;
    let metadata = areas(&mut rest).ok_or_else(|| broken("is cut off".into()))?;
    let extension = Extension::read_from_prefix(rest);
    let Ok((extension, mut rest)) = extension else {
        return Err(broken("is cut off".into()));
    };
    let (version, flags) = (extension.version.get(), extension.flags.get());
    let mut boot = Vec::new();
    match version {
        0 if flags == 0 => {}
        1 | 2 if flags & !IN_USE == 0 => {
            boot = areas(&mut rest).ok_or_else(|| broken("is cut off".into()))?;
        }
        1 | 2 => return Err(broken(format!("has unknown flags ({flags:#x})"))),
        _ => return Err(broken(format!("has an extension of version {version}"))),
    }
    let within = |areas: Vec<Area>| -> Result<Vec<Range<u64>>> {
        areas
            .iter()
            .map(|area| {
                let (start, size) = (area.offset.get(), area.size.get());
                let end = start.checked_add(size).filter(|end| *end <= device_size);
                end.map(|end| start..end)
                    .ok_or_else(|| broken("has an area beyond the end".into()))
            })
            .collect()
    };
    let [ref data] = *within(data)? else {
        return Err(broken("names more or less than one area of data".into()));
    };
    let header = Header {
        uuid,
        device_size,
        data: data.start,
        metadata: within(metadata)?,
        boot: within(boot)?,
        in_use: (version >= 2).then_some(flags & IN_USE != 0),
    };
    if header.metadata.len() > METADATA_AREAS {
        return Err(broken("names more than two areas of metadata".into()));
    }
    header.check_areas().map_err(broken)?;
    Ok(header)
}

impl Header {
    /// Bytes that hold no data: the label's sectors, metadata, boot loaders.
    pub fn reserved(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        std::iter::once(0..LABEL_SECTORS * SECTOR)
            .chain(self.metadata.iter().cloned())
            .chain(self.boot.iter().cloned())
    }

    fn check_areas(&self) -> Result<(), String> {
        let mut areas: Vec<_> = self.reserved().collect();
        areas.sort_by_key(|area| (area.start, area.end));
        let mut reached = 0;
        for area in areas {
            if area.start < reached {
                return Err("names areas that overlap".into());
            }
            reached = area.end;
        }
        Ok(())
    }
}

/// Takes a list of areas with its end from `bytes`.
fn areas(bytes: &mut &[u8]) -> Option<Vec<Area>> {
    let mut areas = Vec::new();
    loop {
        let (area, rest) = Area::read_from_prefix(bytes).ok()?;
        *bytes = rest;
        if area.offset.get() == 0 {
            return Some(areas);
        }
        areas.push(area);
    }
}
