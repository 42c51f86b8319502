//! Where the volumes of a disk lie.
//!
//! A partition table says which guest bytes belong to which volume; what lies
//! outside belongs to boot loaders and is never free.
//!
//! # Which table governs
//!
//! A wrong table makes wrong volumes, so a table is *trusted* only if no system
//! could read the disk differently. The rules, in order:
//!
//! 1. **Bare volume.** The first sector lacks the signature 55 AA, or it is a
//!    file system's own boot sector (FAT, exFAT, NTFS and BitLocker end in 55 AA
//!    too) and what lies where the four entries would be is no partition table:
//!    [`Scheme::Bare`]. An entry that starts at sector 0 only says that the whole
//!    disk is the volume (mkfs.fat writes such a one). A boot sector *with* a
//!    plausible table is untrusted: nobody can tell which of the two is meant.
//!    So is a bare disk with a GPT header of any kind left on it, and a first
//!    sector that is neither a boot sector of a known file system nor a table.
//!    A first sector with code and four empty entries is a bare disk too.
//! 2. **GPT** governs if the MBR has a protective entry (type EE) that starts at
//!    sector 1 and one header is valid: signature, revision 1.0, its own place,
//!    CRC32 of header and of entries, numbers within the disk. A damaged or
//!    missing primary or backup beside a valid other one is a note. Two valid
//!    ones that differ, none at all, or headers for 512 *and* 4096 byte sectors
//!    are untrusted. A hybrid MBR (entries beside EE) is trusted only if each of
//!    these coincides with a GPT partition.
//! 3. **MBR** governs if it has no entry of type EE and the sector after it is no
//!    GPT header, valid or not. A GPT backup alone, left at the end of the disk by
//!    an earlier life, is a note: without a type EE entry no system looks for it.
//! 4. A table whose partitions overlap each other or the table's own sectors,
//!    pass the end of the disk, or whose chain of logical partitions loops or
//!    breaks, is untrusted as a whole: one wrong entry says that others may be
//!    wrong too.
//!
//! The partitions of an untrusted table are for display alone.
//!
//! Sources: UEFI specification 2.10, chapter 5 (GPT, protective and hybrid MBR);
//! for the chain of extended partitions, which no standard describes, what Linux
//! and Windows read.

#![forbid(unsafe_code)]

mod gpt;
mod kind;
pub mod lvm;
mod mbr;

use std::ops::Range;

use self::gpt::Gpt;
use self::mbr::FirstSector;
use crate::error::Result;
use crate::ranges::Ranges;
use crate::storage::ReadAt;

/// How a disk is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Scheme {
    /// No partition table: the disk is one volume, or nothing known.
    Bare,
    /// Master boot record, with extended partitions.
    Mbr,
    /// GUID partition table.
    Gpt,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Partition {
    /// The number the guest's tools give it, from 1.
    pub number: u32,
    /// Its bytes on the disk.
    pub range: Range<u64>,
    /// What the table says it is for, in words or as the raw type.
    pub kind: String,
    /// Its name, where the table has names and this one has one.
    pub name: Option<String>,
    /// Why its bytes must not be read as one volume, whatever they look like: it
    /// is a part of something larger (a dynamic disk, a storage pool).
    pub opaque: Option<&'static str>,
}

/// A disk's partition table, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionTable {
    /// Which kind of table.
    pub scheme: Scheme,
    /// The logical sector size its numbers are in, in bytes.
    pub sector_size: u32,
    /// The partitions in ascending order of their place. If the table is trusted
    /// they do not overlap and lie within the disk.
    pub partitions: Vec<Partition>,
    /// Why nothing on the disk is judged by this table (overlaps, loops, damage):
    /// one sentence for the user. The partitions are then for display alone.
    pub untrusted: Option<String>,
    /// Bytes of the disk that the tables themselves take up.
    pub reserved: Ranges,
    /// What is odd but harmless (a damaged primary header, say).
    pub notes: Vec<String>,
}

/// Reads the partition table of `disk`. Damage is told in the table itself; an
/// error means that the disk could not be read.
///
/// The sector size is taken from where the GPT lies; an MBR is read with sectors
/// of 512 bytes.
pub fn read_table(disk: &dyn ReadAt) -> Result<PartitionTable> {
    read_table_with_sectors(disk, None)
}

/// Like [`read_table`], for an image that declares its logical sector size: 512
/// or 4096 bytes. Any other size makes the table untrusted.
pub fn read_table_with_sectors(
    disk: &dyn ReadAt,
    sector_size: Option<u32>,
) -> Result<PartitionTable> {
    if let Some(size) = sector_size
        && !SECTOR_SIZES.contains(&size)
    {
        return Ok(PartitionTable::untrusted_bare(format!(
            "The disk has sectors of {size} bytes; only 512 and 4096 are understood."
        )));
    }
    if disk.len() < u64::from(SECTOR_SIZES[0]) {
        return Ok(PartitionTable::new(Scheme::Bare, SECTOR_SIZES[0]));
    }
    let first = mbr::read_first_sector(disk)?;
    let sizes: Vec<u32> = sector_size.map_or(SECTOR_SIZES.to_vec(), |size| vec![size]);
    let mut tables = Vec::new();
    for &size in &sizes {
        tables.push(gpt::read(disk, size)?);
    }
    match first {
        FirstSector::Bare { note } => {
            let mut table = PartitionTable::bare(sizes.first().copied());
            table.notes.extend(note);
            if tables.iter().any(Gpt::any_trace) {
                table.distrust(
                    "The disk has a GPT but its protective MBR is missing; restore it \
                     (gdisk can) or wipe the GPT, then try again.",
                );
            }
            Ok(table)
        }
        FirstSector::Doubtful(reason) => {
            let mut table = PartitionTable::bare(sizes.first().copied());
            table.distrust(reason);
            Ok(table)
        }
        FirstSector::Table(record) if record.has_protective_entry() => {
            choose_gpt(disk, &record, tables)
        }
        FirstSector::Table(record) => {
            let size = sector_size.unwrap_or(SECTOR_SIZES[0]);
            let mut table = mbr::read_partitions(disk, &record, size)?;
            if tables.iter().any(|gpt| gpt.primary.is_present()) {
                table.distrust(
                    "The disk has both an ordinary MBR and a GPT; wipe the one that is \
                     not in use (gdisk, expert command z, can), then try again.",
                );
            } else if tables.iter().any(|gpt| gpt.backup.is_present()) {
                table
                    .notes
                    .push("the backup of an earlier GPT is left at the end".into());
            }
            Ok(table)
        }
    }
}

/// The logical sector sizes that are understood.
const SECTOR_SIZES: [u32; 2] = [512, 4096];

/// Rule 2: which of the GPTs found, one a sector size, governs.
fn choose_gpt(
    disk: &dyn ReadAt,
    record: &mbr::Record,
    mut found: Vec<Gpt>,
) -> Result<PartitionTable> {
    let traces = found.iter().filter(|gpt| gpt.any_trace()).count();
    found.sort_by_key(|gpt| (gpt.header().is_none(), !gpt.any_trace(), gpt.sector_size));
    let Some(gpt) = found.into_iter().next() else {
        // Not reached: at least one sector size is always tried.
        return Ok(PartitionTable::bare(None));
    };
    let mut table = gpt.partitions(disk)?;
    if traces > 1 {
        table.distrust(
            "The disk has a GPT for 512 byte sectors and another for 4096 byte sectors; \
             wipe the one that is not in use, then try again.",
        );
    }
    if let Some(reason) = record.check_protective(&table) {
        table.distrust(reason);
    }
    Ok(table)
}

impl PartitionTable {
    fn new(scheme: Scheme, sector_size: u32) -> Self {
        PartitionTable {
            scheme,
            sector_size,
            partitions: Vec::new(),
            untrusted: None,
            reserved: Ranges::new(),
            notes: Vec::new(),
        }
    }

    fn bare(sector_size: Option<u32>) -> Self {
        Self::new(Scheme::Bare, sector_size.unwrap_or(SECTOR_SIZES[0]))
    }

    fn untrusted_bare(reason: String) -> Self {
        let mut table = Self::bare(None);
        table.distrust(reason);
        table
    }

    /// Makes the table untrusted; the first reason stays.
    fn distrust(&mut self, reason: impl Into<String>) {
        self.untrusted.get_or_insert_with(|| reason.into());
    }

    /// Rule 4: sorts the partitions and distrusts a table that puts two things in
    /// one place. `own` are the table's own sectors; `end` is the disk's length.
    fn settle(&mut self, own: &[Range<u64>], end: u64) {
        self.reserved = own.iter().cloned().collect();
        self.partitions.sort_by_key(|p| (p.range.start, p.range.end, p.number));
        let mut reason = None;
        let mut reached = 0;
        let mut before = 0;
        for partition in &self.partitions {
            let (number, range) = (partition.number, &partition.range);
            if range.end > end {
                reason.get_or_insert(format!(
                    "Partition {number} passes the end of the disk (byte {} of {end}); \
                     the image may be cut short.",
                    range.end
                ));
            }
            if range.start < reached {
                reason.get_or_insert(format!(
                    "Partitions {before} and {number} overlap; repair the partition table \
                     in the guest."
                ));
            }
            if own.iter().any(|o| o.start < range.end && range.start < o.end) {
                reason.get_or_insert(format!(
                    "Partition {number} covers sectors of the partition table itself; \
                     repair the table in the guest."
                ));
            }
            if range.end > reached {
                (reached, before) = (range.end, number);
            }
        }
        if let Some(reason) = reason {
            self.distrust(reason);
        }
    }
}
