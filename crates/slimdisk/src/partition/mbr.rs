//! The master boot record and the chain of logical partitions.
//!
//! ```text
//! sector 0:  code (446) | 4 entries of 16 bytes | 55 AA
//! an entry:  status | CHS start | type | CHS end | start sector | sectors
//! ```
//!
//! A primary partition of an extended type holds a chain of records of the same
//! shape: entry 0 is a logical partition, its start counted from this record;
//! entry 1 leads to the next record, its start counted from the first one. Source:
//! UEFI specification 2.10, section 5.2.1, for sector 0; for the chain, Linux
//! (Documentation of `block/partitions/msdos.c`) and Windows agree.

use std::collections::BTreeSet;
use std::ops::Range;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Partition, PartitionTable, Scheme, kind};
use crate::error::Result;
use crate::storage::{ReadAt, read_struct};

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    status: u8,
    chs_start: [u8; 3],
    kind: u8,
    chs_end: [u8; 3],
    start: U32,
    sectors: U32,
}

#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRecord {
    code: [u8; 440],
    disk_signature: U32,
    reserved: U16,
    entries: [RawEntry; 4],
    signature: [u8; 2],
}

const _: () = assert!(size_of::<RawEntry>() == 16);
const _: () = assert!(size_of::<RawRecord>() == 512);

const PROTECTIVE: u8 = 0xEE;

/// How many records a chain may have. Linux gives up after 100, Windows long
/// before for want of letters.
const CHAIN_LIMIT: usize = 256;

/// An entry that names something.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Its slot in the table, from 1.
    slot: u32,
    kind: u8,
    /// In sectors; relative in a chain.
    start: u32,
    sectors: u32,
}

impl Entry {
    fn is_extended(self) -> bool {
        matches!(self.kind, 0x05 | 0x0F | 0x85)
    }

    fn range(self, base: u64, sector_size: u32) -> Range<u64> {
        // Less than 2^64: two 32-bit numbers, a base of 32 bits, times 4096.
        let start = (base + u64::from(self.start)) * u64::from(sector_size);
        start..start + u64::from(self.sectors) * u64::from(sector_size)
    }
}

/// The partition table of sector 0, its entries plausible.
#[derive(Debug)]
pub(super) struct Record {
    entries: Vec<Entry>,
    /// Entries of a type but without a size, by slot.
    hollow: Vec<u32>,
}

/// What the first sector of a disk is.
#[derive(Debug)]
pub(super) enum FirstSector {
    /// A volume's own first sector, or nothing.
    Bare { note: Option<String> },
    /// A partition table with at least one entry.
    Table(Record),
    /// It could be read in two ways, or makes no sense.
    Doubtful(String),
}

pub(super) fn read_first_sector(disk: &dyn ReadAt) -> Result<FirstSector> {
    let raw: RawRecord = read_struct(disk, 0)?;
    if raw.signature != [0x55, 0xAA] {
        return Ok(FirstSector::Bare { note: None });
    }
    let boot_sector = boot_sector_of(raw.as_bytes());
    let sectors = disk.len() / 512;
    match (boot_sector, parse_entries(&raw.entries)) {
        (None, Ok(record)) if record.entries.is_empty() => Ok(FirstSector::Bare {
            note: Some("the partition table in the first sector is empty".into()),
        }),
        (None, Ok(record)) => Ok(FirstSector::Table(record)),
        (None, Err(slot)) => Ok(FirstSector::Doubtful(format!(
            "Entry {slot} of the partition table in the first sector makes no sense; \
             repair the table in the guest."
        ))),
        (Some(name), Ok(record)) => {
            let plausible = record
                .entries
                .iter()
                .any(|e| e.start > 0 && u64::from(e.start) < sectors);
            Ok(if plausible {
                FirstSector::Doubtful(format!(
                    "The first sector is both a {name} boot sector and a partition table; \
                     nobody can tell which of the two is meant."
                ))
            } else {
                FirstSector::Bare { note: None }
            })
        }
        (Some(_), Err(_)) => Ok(FirstSector::Bare { note: None }),
    }
}

/// Which file system's boot sector this is, by its own signature: the name in
/// bytes 3 to 10, or for FAT, where that name is free, a sound parameter block.
///
/// Sources: Microsoft, FAT specification 1.03, section 3; exFAT specification,
/// section 3.1.
fn boot_sector_of(sector: &[u8]) -> Option<&'static str> {
    let byte = |at: usize| sector.get(at).copied().unwrap_or(0);
    let word = |at: usize| u16::from_le_bytes([byte(at), byte(at + 1)]);
    match sector.get(3..11) {
        Some(b"NTFS    ") => return Some("NTFS"),
        Some(b"EXFAT   ") => return Some("exFAT"),
        Some(b"-FVE-FS-") => return Some("BitLocker"),
        Some(b"ReFS\0\0\0\0") => return Some("ReFS"),
        _ => {}
    }
    let jumps = matches!((byte(0), byte(2)), (0xEB, 0x90) | (0xE9, _));
    let sector_size = word(11);
    let fat = jumps
        && (512..=4096).contains(&sector_size)
        && sector_size.is_power_of_two()
        && byte(13).is_power_of_two()
        && word(14) > 0
        && (1..=4).contains(&byte(16))
        && (byte(21) == 0xF0 || byte(21) >= 0xF8);
    fat.then_some("FAT")
}

/// The entries that name something, or the slot of the first one that no tool
/// would write.
fn parse_entries(raw: &[RawEntry; 4]) -> Result<Record, u32> {
    let mut record = Record { entries: Vec::new(), hollow: Vec::new() };
    for (slot, raw) in (1..).zip(raw) {
        if raw.status & 0x7F != 0 {
            return Err(slot);
        }
        match (raw.kind, raw.start.get(), raw.sectors.get()) {
            (0, _, 0) => {}
            // Linux would take it, Windows would not.
            (0, ..) => return Err(slot),
            (_, _, 0) => record.hollow.push(slot),
            (kind, start, sectors) => {
                record.entries.push(Entry { slot, kind, start, sectors });
            }
        }
    }
    Ok(record)
}

impl Record {
    /// Whether an entry says that a GPT governs.
    pub(super) fn has_protective_entry(&self) -> bool {
        self.entries.iter().any(|e| e.kind == PROTECTIVE)
    }

    /// Why this record does not agree with the GPT that it protects, if so.
    pub(super) fn check_protective(&self, gpt: &PartitionTable) -> Option<String> {
        if !self.entries.iter().any(|e| e.kind == PROTECTIVE && e.start == 1) {
            return Some(
                "The MBR's protective entry does not start at sector 1, so systems differ \
                 in whether they see the GPT; repair it with gdisk."
                    .into(),
            );
        }
        self.entries
            .iter()
            .filter(|e| e.kind != PROTECTIVE)
            .find(|e| {
                let range = e.range(0, gpt.sector_size);
                !gpt.partitions.iter().any(|p| p.range == range)
            })
            .map(|e| {
                format!(
                    "Entry {} of the hybrid MBR is no partition of the GPT; make them agree \
                     (gdisk can), then try again.",
                    e.slot
                )
            })
    }
}

/// Reads the primary partitions of `record` and the logical ones of its chain.
pub(super) fn read_partitions(
    disk: &dyn ReadAt,
    record: &Record,
    sector_size: u32,
) -> Result<PartitionTable> {
    let mut table = PartitionTable::new(Scheme::Mbr, sector_size);
    for slot in &record.hollow {
        table.notes.push(format!("entry {slot} of the MBR has a type but no size"));
    }
    let first_sector = 0..u64::from(sector_size);
    let mut own = vec![first_sector];
    let mut containers = Vec::new();
    for entry in &record.entries {
        if entry.is_extended() {
            containers.push(*entry);
        } else {
            let partition =
                partition(entry.slot, entry.kind, entry.range(0, sector_size));
            table.partitions.push(partition);
        }
    }
    if containers.len() > 1 {
        table.distrust(
            "The MBR has more than one extended partition; systems differ in what they \
             make of it.",
        );
    }
    for container in &containers {
        let range = container.range(0, sector_size);
        if range.end > disk.len() {
            table.distrust(
                "The extended partition passes the end of the disk; the image may be cut \
                 short.",
            );
        }
        if table.partitions.iter().any(|p| {
            p.number <= 4 && p.range.start < range.end && range.start < p.range.end
        }) {
            table.distrust(
                "The extended partition overlaps another partition; repair the partition \
                 table in the guest.",
            );
        }
        let broken = read_chain(disk, *container, &mut table, &mut own)?;
        if let Some(reason) = broken {
            table.distrust(reason);
        }
    }
    table.settle(&own, disk.len());
    Ok(table)
}

/// Adds the logical partitions in `container` to `table` and the sectors of their
/// records to `own`; gives the reason if the chain is broken.
fn read_chain(
    disk: &dyn ReadAt,
    container: Entry,
    table: &mut PartitionTable,
    own: &mut Vec<Range<u64>>,
) -> Result<Option<String>> {
    let sector_size = table.sector_size;
    let whole = container.range(0, sector_size);
    let first = u64::from(container.start);
    let mut number = table.partitions.iter().map(|p| p.number).max().unwrap_or(0).max(4);
    let mut seen = BTreeSet::new();
    let mut next = Some(first);
    while let Some(at) = next {
        let offset = at * u64::from(sector_size);
        let damaged = |what: &str| {
            Ok(Some(format!(
                "The extended boot record at sector {at} {what}; repair the partition table \
                 in the guest."
            )))
        };
        if offset < whole.start || offset + u64::from(sector_size) > whole.end {
            return damaged("lies outside the extended partition");
        }
        if offset + u64::from(sector_size) > disk.len() {
            return damaged("lies beyond the end of the disk");
        }
        if !seen.insert(at) {
            return damaged("is reached twice: the chain is a loop");
        }
        if seen.len() > CHAIN_LIMIT {
            return damaged("is the 257th of its chain, more than any system reads");
        }
        own.push(offset..offset + u64::from(sector_size));
        let raw: RawRecord = read_struct(disk, offset)?;
        if raw.signature != [0x55, 0xAA] {
            return damaged("has no signature 55 AA");
        }
        let Ok(record) = parse_entries(&raw.entries) else {
            return damaged("has an entry that makes no sense");
        };
        next = None;
        for entry in &record.entries {
            if entry.slot == 1 && !entry.is_extended() {
                number += 1;
                let range = entry.range(at, sector_size);
                let inside = whole.start <= range.start && range.end <= whole.end;
                table.partitions.push(partition(number, entry.kind, range));
                if !inside {
                    return damaged("has a partition outside the extended partition");
                }
            } else if entry.slot == 2 && entry.is_extended() {
                next = Some(first + u64::from(entry.start));
            } else {
                return damaged("has an entry where none belongs");
            }
        }
    }
    Ok(None)
}

fn partition(number: u32, kind: u8, range: Range<u64>) -> Partition {
    let (kind, opaque) = kind::of_mbr(kind);
    Partition { number, range, kind, name: None, opaque }
}
