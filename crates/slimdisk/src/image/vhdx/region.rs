//! The region table, twice: which parts of the file are the block allocation table, the
//! metadata, and others that a later version may have added.
//!
//! Source: [MS-VHDX] 2.2.3.

use std::ops::Range;

use zerocopy::FromBytes;

use super::raw::{
    BAT_REGION, Guid, METADATA_REGION, MIB, MOST_ENTRIES, REGION_SIGNATURE,
    REGION_TABLE_LEN, REGION_TABLES_AT, RegionEntry, RegionTableHeader, checksum,
    in_text_order,
};
use super::rules::{Findings, damaged, error, note};
use crate::error::Result;
use crate::image::parent::id_text;
use crate::storage::{ReadAt, Storage};

pub struct Regions {
    pub bat: Range<u64>,
    pub metadata: Range<u64>,
    /// What this program does not know and the table does not require it to.
    pub unknown: Vec<(Guid, Range<u64>)>,
    /// The copy that is damaged, and the bytes that it should have.
    pub to_mend: Option<(u64, Vec<u8>)>,
}

impl Regions {
    /// Reads both copies; `None` if none can be used.
    pub fn read(file: &dyn ReadAt, findings: &mut Findings) -> Result<Option<Self>> {
        let mut copies = Vec::new();
        for at in REGION_TABLES_AT {
            let mut bytes = vec![0; REGION_TABLE_LEN];
            file.read_at(at, &mut bytes)?;
            let damage = damage(&bytes);
            copies.push((at, bytes, damage));
        }
        let mut to_mend = None;
        let (at, table) = match (copies.pop(), copies.pop()) {
            (Some((_, second, None)), Some((at, first, None))) => {
                if used(&first) != used(&second) {
                    error(
                        findings,
                        "region tables",
                        at,
                        "two copies of the same table",
                        "two sound tables that differ",
                    );
                    return Ok(None);
                }
                (at, first)
            }
            (Some((second_at, second, None)), Some((at, _, Some(damage)))) => {
                let expected = "a sound table, as the second one is";
                damaged(findings, "first region table", at, expected, damage);
                to_mend = Some((at, second.clone()));
                (second_at, second)
            }
            (Some((second_at, _, Some(damage))), Some((at, first, None))) => {
                let expected = "a sound table, as the first one is";
                damaged(findings, "second region table", second_at, expected, damage);
                to_mend = Some((second_at, first.clone()));
                (at, first)
            }
            (second, first) => {
                for (at, _, damage) in [first, second].into_iter().flatten() {
                    let damage = damage.unwrap_or_default();
                    error(findings, "region table", at, "a sound table", damage);
                }
                return Ok(None);
            }
        };
        Ok(parse(file, at, &table, findings).map(|(bat, metadata, unknown)| Regions {
            bat,
            metadata,
            unknown,
            to_mend,
        }))
    }

    /// Writes a damaged copy anew.
    pub fn mend(&mut self, file: &dyn Storage) -> Result<bool> {
        let Some((at, bytes)) = &self.to_mend else { return Ok(false) };
        file.write_at(*at, bytes)?;
        file.flush()?;
        self.to_mend = None;
        Ok(true)
    }
}

fn header_of(bytes: &[u8]) -> Option<RegionTableHeader> {
    RegionTableHeader::read_from_prefix(bytes).ok().map(|(header, _)| header)
}

/// What counts of a table's bytes; behind its entries there may be anything.
fn used(bytes: &[u8]) -> Option<&[u8]> {
    let count = header_of(bytes)?.entry_count.get();
    let len = size_of::<RegionTableHeader>() + 32 * count.min(MOST_ENTRIES) as usize;
    // But for the checksum, which is of all bytes.
    bytes.get(8..len)
}

/// What is wrong with a copy as such.
fn damage(bytes: &[u8]) -> Option<String> {
    let header = header_of(bytes)?;
    if header.signature != REGION_SIGNATURE {
        return Some(format!("signature \"{}\"", header.signature.escape_ascii()));
    }
    let computed = checksum(bytes);
    (header.checksum.get() != computed).then(|| {
        format!("checksum {:#010x} where {computed:#010x} belongs", header.checksum.get())
    })
}

type Parsed = (Range<u64>, Range<u64>, Vec<(Guid, Range<u64>)>);

fn parse(
    file: &dyn ReadAt,
    at: u64,
    table: &[u8],
    findings: &mut Findings,
) -> Option<Parsed> {
    let header = header_of(table)?;
    let count = header.entry_count.get();
    if count > MOST_ENTRIES {
        let expected = format!("at most {MOST_ENTRIES}");
        error(findings, "region table entry count", at + 8, expected, count.to_string());
        return None;
    }
    if header.reserved.get() != 0 {
        note(findings, "region table reserved bytes", at + 12, "zeros", "other bytes");
    }
    let (mut bat, mut metadata, mut unknown) = (None, None, Vec::new());
    let mut seen: Vec<Guid> = Vec::new();
    let mut usable = true;
    let (entries, _) = table.get(16..)?.as_chunks::<32>();
    for (index, bytes) in (0u64..).zip(entries.iter().take(count as usize)) {
        let entry = RegionEntry::read_from_bytes(bytes).ok()?;
        let entry_at = at + 16 + 32 * index;
        let name = id_text(&in_text_order(&entry.guid));
        if seen.contains(&entry.guid) {
            error(
                findings,
                "region table entry",
                entry_at,
                "an identifier of its own",
                format!("{name} a second time"),
            );
            usable = false;
            continue;
        }
        seen.push(entry.guid);
        let (offset, len) = (entry.file_offset.get(), u64::from(entry.length.get()));
        let end = offset.checked_add(len);
        let placed = offset >= MIB
            && offset.is_multiple_of(MIB)
            && len.is_multiple_of(MIB)
            && end.is_some_and(|end| end <= file.len());
        if !placed {
            error(
                findings,
                format!("region {name}"),
                entry_at + 16,
                format!(
                    "whole MiB behind the first and inside the file ({} bytes)",
                    file.len()
                ),
                format!("{len} bytes at {offset:#x}"),
            );
            usable = false;
            continue;
        }
        let range = offset..offset + len;
        match entry.guid {
            BAT_REGION => bat = Some(range),
            METADATA_REGION => metadata = Some(range),
            other => {
                if entry.required.get() & 1 != 0 {
                    error(
                        findings,
                        "region table entry",
                        entry_at,
                        "no required region but the block allocation table and the metadata",
                        format!(
                            "the required region {name}, which this program does not know"
                        ),
                    );
                    usable = false;
                }
                unknown.push((other, range));
            }
        }
        if entry.required.get() > 1 {
            note(
                findings,
                "region table entry required field",
                entry_at + 28,
                "0 or 1",
                entry.required.get().to_string(),
            );
        }
    }
    for (region, name) in
        [(&bat, "the block allocation table"), (&metadata, "the metadata")]
    {
        if region.is_none() && usable {
            let expected = format!("a region for {name}");
            error(findings, "region table", at, expected, "none");
        }
    }
    Some((bat?, metadata?, unknown)).filter(|_| usable)
}
