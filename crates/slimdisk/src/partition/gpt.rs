//! The GUID partition table.
//!
//! ```text
//! LBA 0      protective MBR
//! LBA 1      primary header ---> entries, from LBA 2 on
//! ...        partitions, first usable to last usable LBA
//! last - n   entries <---+
//! last       backup header
//! ```
//!
//! Source: UEFI specification 2.10, section 5.3.

use std::ops::Range;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Partition, PartitionTable, Scheme, kind};
use crate::error::Result;
use crate::storage::ReadAt;

/// UEFI 2.10, table 5.5.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    signature: [u8; 8],
    revision: U32,
    header_size: U32,
    header_crc32: U32,
    reserved: U32,
    my_lba: U64,
    alternate_lba: U64,
    first_usable_lba: U64,
    last_usable_lba: U64,
    disk_guid: [u8; 16],
    entries_lba: U64,
    entry_count: U32,
    entry_size: U32,
    entries_crc32: U32,
}

/// UEFI 2.10, table 5.6.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    type_guid: [u8; 16],
    unique_guid: [u8; 16],
    starting_lba: U64,
    ending_lba: U64,
    attributes: U64,
    name: [U16; 36],
}

const _: () = assert!(size_of::<RawHeader>() == 92);
const _: () = assert!(size_of::<RawEntry>() == 128);

const SIGNATURE: &[u8; 8] = b"EFI PART";
const REVISION: u32 = 0x0001_0000;

/// The longest array of entries that is read: 8192 entries of the usual size,
/// where 128 are the rule.
const ENTRIES_LIMIT: u64 = 1 << 20;

/// A header whose checksums and numbers hold, with its entries.
#[derive(Debug)]
pub(super) struct Header {
    /// What must be equal in primary and backup.
    identity: Identity,
    my_lba: u64,
    alternate_lba: u64,
    /// The place of the entries, in bytes.
    entries_at: u64,
    entries: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
struct Identity {
    disk_guid: [u8; 16],
    first_usable: u64,
    last_usable: u64,
    entry_count: u32,
    entry_size: u32,
    entries_crc32: u32,
}

/// What was found where a header belongs.
#[derive(Debug)]
pub(super) enum Place {
    /// No signature.
    Absent,
    /// A signature, and what is wrong.
    Damaged(&'static str),
    Valid(Header),
}

impl Place {
    /// Whether there is at least a signature.
    pub(super) fn is_present(&self) -> bool {
        !matches!(self, Place::Absent)
    }

    fn valid(&self) -> Option<&Header> {
        match self {
            Place::Valid(header) => Some(header),
            _ => None,
        }
    }

    fn fault(&self) -> &'static str {
        match self {
            Place::Absent => "is missing",
            Place::Damaged(fault) => fault,
            Place::Valid(_) => "is valid",
        }
    }
}

/// The GPT found when the disk is read in sectors of one size.
#[derive(Debug)]
pub(super) struct Gpt {
    pub(super) sector_size: u32,
    pub(super) primary: Place,
    /// The header in the disk's last sector.
    pub(super) backup: Place,
    /// The header where the primary says that its backup is, if that is not the
    /// last sector: the disk has been extended since.
    elsewhere: Option<Place>,
}

/// Looks for the headers of a GPT with sectors of `sector_size` bytes.
pub(super) fn read(disk: &dyn ReadAt, sector_size: u32) -> Result<Gpt> {
    let sectors = disk.len() / u64::from(sector_size);
    let mut gpt = Gpt {
        sector_size,
        primary: Place::Absent,
        backup: Place::Absent,
        elsewhere: None,
    };
    let Some(last) = sectors.checked_sub(1).filter(|last| *last >= 2) else {
        return Ok(gpt);
    };
    gpt.primary = read_header(disk, sector_size, 1)?;
    gpt.backup = read_header(disk, sector_size, last)?;
    if let Some(primary) = gpt.primary.valid()
        && primary.alternate_lba != last
    {
        gpt.elsewhere = Some(if (2..last).contains(&primary.alternate_lba) {
            read_header(disk, sector_size, primary.alternate_lba)?
        } else {
            Place::Absent
        });
    }
    Ok(gpt)
}

fn read_header(disk: &dyn ReadAt, sector_size: u32, lba: u64) -> Result<Place> {
    let size = u64::from(sector_size);
    let mut sector = vec![0; sector_size as usize];
    disk.read_at(lba * size, &mut sector)?;
    let Ok((raw, _)) = RawHeader::read_from_prefix(&sector) else {
        return Ok(Place::Absent);
    };
    if raw.signature != *SIGNATURE {
        return Ok(Place::Absent);
    }
    if raw.revision.get() != REVISION {
        return Ok(Place::Damaged("has an unknown revision"));
    }
    let Some(counted) =
        sector.get_mut(..raw.header_size.get() as usize).filter(|h| h.len() >= 92)
    else {
        return Ok(Place::Damaged("has an impossible size"));
    };
    if let Some(crc) = counted.get_mut(16..20) {
        crc.fill(0);
    }
    if crc32fast::hash(counted) != raw.header_crc32.get() {
        return Ok(Place::Damaged("has a wrong checksum"));
    }
    if raw.my_lba.get() != lba {
        return Ok(Place::Damaged("says that it lies elsewhere"));
    }
    let sectors = disk.len() / size;
    let (count, entry_size) = (raw.entry_count.get(), raw.entry_size.get());
    let bytes = u64::from(count) * u64::from(entry_size);
    if entry_size < 128 || !entry_size.is_power_of_two() || bytes > ENTRIES_LIMIT {
        return Ok(Place::Damaged("has an impossible number or size of entries"));
    }
    let (first, last) = (raw.first_usable_lba.get(), raw.last_usable_lba.get());
    // An empty range (last = first - 1) is a table without room.
    if first < 2 || last >= sectors || first.saturating_sub(1) > last {
        return Ok(Place::Damaged("has usable sectors that pass the end of the disk"));
    }
    let entries_lba = raw.entries_lba.get();
    let after = entries_lba.checked_add(bytes.div_ceil(size));
    let usable = first..last + 1;
    if entries_lba < 2
        || after.is_none_or(|after| after > sectors)
        || after.is_some_and(|after| entries_lba < usable.end && usable.start < after)
        || usable.contains(&lba)
    {
        return Ok(Place::Damaged("has entries in an impossible place"));
    }
    let entries_at = entries_lba * size;
    let mut entries = vec![0; usize::try_from(bytes).unwrap_or(0)];
    disk.read_at(entries_at, &mut entries)?;
    if crc32fast::hash(&entries) != raw.entries_crc32.get() {
        return Ok(Place::Damaged("has entries with a wrong checksum"));
    }
    Ok(Place::Valid(Header {
        identity: Identity {
            disk_guid: raw.disk_guid,
            first_usable: first,
            last_usable: last,
            entry_count: count,
            entry_size,
            entries_crc32: raw.entries_crc32.get(),
        },
        my_lba: lba,
        alternate_lba: raw.alternate_lba.get(),
        entries_at,
        entries,
    }))
}

impl Gpt {
    /// The header that governs: the primary, or the backup if that is damaged.
    pub(super) fn header(&self) -> Option<&Header> {
        self.primary.valid().or_else(|| self.backup.valid())
    }

    /// Whether any header, valid or not, is there.
    pub(super) fn any_trace(&self) -> bool {
        self.primary.is_present() || self.backup.is_present()
    }

    /// The table, with the reason if the headers cannot be trusted.
    pub(super) fn partitions(&self, disk: &dyn ReadAt) -> Result<PartitionTable> {
        let mut table = PartitionTable::new(Scheme::Gpt, self.sector_size);
        let Some(header) = self.header() else {
            table.distrust(format!(
                "The MBR says that there is a GPT, but the GPT's primary header {} and its \
                 backup {}; repair it with gdisk.",
                self.primary.fault(),
                self.backup.fault()
            ));
            return Ok(table);
        };
        self.compare(header, &mut table);
        let size = u64::from(self.sector_size);
        let front = 0..2 * size;
        let mut own = vec![front];
        for header in self.valid_headers() {
            let end = header.entries_at + header.entries.len() as u64;
            own.push(header.entries_at..end);
            own.push(header.my_lba * size..(header.my_lba + 1) * size);
        }
        let identity = &header.identity;
        let stride = identity.entry_size as usize;
        for (number, raw) in (1..).zip(header.entries.chunks_exact(stride)) {
            let Ok((entry, _)) = RawEntry::read_from_prefix(raw) else { continue };
            if entry.type_guid == [0; 16] {
                continue;
            }
            let (first, last) = (entry.starting_lba.get(), entry.ending_lba.get());
            if first < identity.first_usable
                || last > identity.last_usable
                || first > last
            {
                table.distrust(format!(
                    "GPT partition {number} (sectors {first} to {last}) does not lie within \
                     the usable sectors ({} to {}); repair the table in the guest.",
                    identity.first_usable, identity.last_usable
                ));
                continue;
            }
            table
                .partitions
                .push(entry.partition(number, first * size..(last + 1) * size));
        }
        table.settle(&own, disk.len());
        Ok(table)
    }

    fn valid_headers(&self) -> impl Iterator<Item = &Header> {
        [Some(&self.primary), self.elsewhere.as_ref(), Some(&self.backup)]
            .into_iter()
            .flatten()
            .filter_map(Place::valid)
    }

    /// Notes what is amiss with one header; distrusts two that differ.
    fn compare(&self, header: &Header, table: &mut PartitionTable) {
        if self.valid_headers().any(|other| other.identity != header.identity) {
            table.distrust(
                "The GPT and its backup are both valid but differ; nobody can tell which is \
                 current. Rewrite one from the other with gdisk.",
            );
        }
        if self.primary.valid().is_none() {
            table.notes.push(format!(
                "the GPT's primary header {}; its backup is used",
                self.primary.fault()
            ));
        }
        match &self.elsewhere {
            None if self.backup.valid().is_none() => table.notes.push(format!(
                "the GPT's backup header {} (repair it with gdisk)",
                self.backup.fault()
            )),
            Some(place) if place.valid().is_some() => table.notes.push(
                "the GPT's backup header is not in the last sector: the disk has been \
                 extended"
                    .into(),
            ),
            Some(place) => {
                table.notes.push(format!("the GPT's backup header {}", place.fault()));
            }
            None => {}
        }
    }
}

impl RawEntry {
    fn partition(&self, number: u32, range: Range<u64>) -> Partition {
        let (kind, opaque) = kind::of_gpt(&guid_text(&self.type_guid));
        let units = self.name.iter().map(|unit| unit.get()).take_while(|unit| *unit != 0);
        // Names come from strangers and go to terminals.
        let name: String = char::decode_utf16(units)
            .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
            .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
            .collect();
        let name = Some(name).filter(|name| !name.is_empty());
        Partition { number, range, kind, name, opaque }
    }
}

/// A GUID as text: the first three fields are little-endian on disk.
fn guid_text(bytes: &[u8; 16]) -> String {
    let [a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, e @ ..] = *bytes;
    let e = e.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    format!(
        "{:08X}-{:04X}-{:04X}-{d0:02X}{d1:02X}-{e:012X}",
        u32::from_le_bytes([a0, a1, a2, a3]),
        u16::from_le_bytes([b0, b1]),
        u16::from_le_bytes([c0, c1]),
    )
}
