//! The log: a ring of entries, each a set of pages that belong elsewhere in the file.
//!
//! ```text
//! | ... older | tail entry | entry | head entry | older ... |
//!               ^----------- names its tail -'
//! ```
//!
//! After a crash the newest sequence of entries that is whole is written to where it
//! belongs. Source: [MS-VHDX] 2.3.

pub mod overlay;
pub mod writer;

use std::collections::BTreeMap;

use zerocopy::{FromBytes, IntoBytes};

use self::overlay::{Overlay, Piece};
use super::raw::{
    DATA_DESCRIPTOR_SIGNATURE, DATA_SECTOR_SIGNATURE, Guid, HEADERS_AT,
    LOG_ENTRY_SIGNATURE, LogDataSector, LogDescriptor, LogEntryHeader, MIB, PAGE,
    REGION_TABLES_AT, ZERO_SIGNATURE,
};
use super::rules::{Findings, error, note};
use crate::error::Result;
use crate::storage::{ReadAt, read_struct};

/// A larger log than anybody makes (Windows and qemu: 1 MiB) would take too much memory
/// to replay.
pub const LARGEST: u64 = 256 << 20;

/// The same for what one sequence may change.
const MOST_DESCRIPTORS: u64 = 1 << 18;

/// No structure of a file lies beyond this: twice the largest disk.
pub const LAST_OFFSET: u64 = 128 << 40;

/// Where the log lies in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    pub offset: u64,
    pub len: u64,
}

impl Ring {
    /// Where the byte `at` of the ring lies in the file; the ring goes round.
    fn place(self, at: u64) -> u64 {
        self.offset + at % self.len
    }

    fn end(self) -> u64 {
        self.offset + self.len
    }
}

/// An entry that is whole in itself.
#[derive(Debug, Clone, Copy)]
struct Entry {
    len: u64,
    tail: u64,
    number: u64,
    descriptors: u64,
    flushed_file_offset: u64,
    last_file_offset: u64,
    reserved: u32,
}

/// What a page of the log holds, where an entry may begin.
enum Found {
    Entry(Entry),
    /// An entry of this session that is not whole.
    Broken,
    /// An entry of an earlier session.
    Stale,
    Nothing,
}

/// A log that was replayed in memory.
pub struct Replay {
    pub overlay: Overlay,
    /// What was found, in a sentence.
    pub note: String,
}

/// Finds the active sequence and what it changes; `None`, with a finding, if there is
/// none or it cannot be replayed.
pub fn replay(
    file: &dyn ReadAt,
    ring: Ring,
    guid: &Guid,
    findings: &mut Findings,
) -> Result<Option<Replay>> {
    if ring.len > LARGEST {
        error(
            findings,
            "log length",
            ring.offset,
            format!("at most {LARGEST} bytes in a log that must be replayed"),
            format!("{} (open it once in Windows, which replays it)", ring.len),
        );
        return Ok(None);
    }
    let mut entries = BTreeMap::new();
    let (mut broken, mut stale) = (0, 0);
    for at in (0..ring.len).step_by(4096) {
        match find(file, ring, guid, at)? {
            Found::Entry(entry) => {
                entries.insert(at, entry);
            }
            Found::Broken => broken += 1,
            Found::Stale => stale += 1,
            Found::Nothing => {}
        }
    }
    let Some(sequence) = active_sequence(ring, &entries) else {
        let actual = match (entries.len(), broken, stale) {
            (0, 0, 0) => {
                "no entry at all: the log was overwritten or never written".into()
            }
            (0, 0, stale) => format!(
                "{stale} entries of earlier sessions alone (a stale log GUID): what was \
                 being changed is lost"
            ),
            (0, broken, _) => {
                format!("{broken} entries that are half-written or damaged, and no other")
            }
            (sound, broken, _) => format!(
                "{sound} sound entries without the ones that belong before them \
                 ({broken} are damaged)"
            ),
        };
        let expected =
            "a whole sequence of entries, for the header says that it is in use";
        error(findings, "log", ring.offset, expected, actual);
        return Ok(None);
    };
    let head = sequence.last().and_then(|at| entries.get(at));
    let Some(head) = head else { return Ok(None) };
    if file.len() < head.flushed_file_offset {
        error(
            findings,
            "file",
            file.len(),
            format!(
                "at least the {} bytes that the log knows of",
                head.flushed_file_offset
            ),
            format!("{} bytes: the file has been cut short", file.len()),
        );
        return Ok(None);
    }
    for (value, name) in [
        (head.flushed_file_offset, "log entry flushed file offset"),
        (head.last_file_offset, "log entry last file offset"),
    ] {
        if !value.is_multiple_of(MIB) {
            note(findings, name, ring.offset, "whole MiB", format!("{value} bytes"));
        }
    }
    let count: u64 = sequence
        .iter()
        .filter_map(|at| entries.get(at))
        .map(|entry| entry.descriptors)
        .sum();
    if count > MOST_DESCRIPTORS || head.last_file_offset > LAST_OFFSET {
        error(
            findings,
            "log",
            ring.offset,
            format!("at most {MOST_DESCRIPTORS} changes in a file of at most 128 TiB"),
            format!("{count} in one of {} bytes", head.last_file_offset),
        );
        return Ok(None);
    }
    let mut overlay = Overlay::new(head.last_file_offset);
    for at in &sequence {
        if let Some(entry) = entries.get(at)
            && !apply(file, ring, *at, entry, &mut overlay, findings)?
        {
            return Ok(None);
        }
    }
    let wrapped = match (sequence.first(), sequence.last()) {
        (Some(first), Some(last)) if last + head.len > ring.len || last < first => {
            ", around the end of the log"
        }
        _ => "",
    };
    let torn = match broken {
        0 => String::new(),
        _ => format!("; {broken} that are half-written or damaged do not count"),
    };
    let told = format!(
        "the log has not been replayed since the file was last written to: {} entries \
         with {count} changes{wrapped}{torn}; it was replayed in memory alone, and will \
         be for good by whatever changes the image",
        sequence.len()
    );
    Ok(Some(Replay { overlay, note: told }))
}

/// The places in the ring of the entries to replay, in their order.
fn active_sequence(ring: Ring, entries: &BTreeMap<u64, Entry>) -> Option<Vec<u64>> {
    let next = |at: u64, entry: &Entry| {
        let place = (at + entry.len) % ring.len;
        entries
            .get(&place)
            .filter(|next| entry.number.checked_add(1) == Some(next.number))
            .map(|next| (place, next))
    };
    // The last entry that can be reached from each. Numbers rise by one from entry to
    // entry, so the later ones are known when they are needed.
    let mut by_number: Vec<(u64, &Entry)> =
        entries.iter().map(|(a, e)| (*a, e)).collect();
    by_number.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.number));
    let mut heads: BTreeMap<u64, u64> = BTreeMap::new();
    for (at, entry) in &by_number {
        let head = next(*at, entry).and_then(|(place, _)| heads.get(&place).copied());
        heads.insert(*at, head.unwrap_or(*at));
    }
    // The newest; of several, the one that whoever looks from the ring's start on finds
    // first.
    let found_at = |head: u64, tail: &Entry| {
        let of_it = |(at, entry): &(&u64, &Entry)| {
            heads.get(at) == Some(&head) && entry.number <= tail.number
        };
        entries.iter().find(of_it).map(|(at, _)| *at)
    };
    let mut newest: Option<(u64, u64, u64, u64)> = None;
    for (at, entry) in &by_number {
        if newest.is_some_and(|(number, ..)| number > entry.number) {
            break;
        }
        if heads.get(at) == Some(at)
            && heads.get(&entry.tail) == Some(at)
            && let Some(tail) = entries.get(&entry.tail)
            && let Some(first) = found_at(*at, tail)
            && newest.is_none_or(|(_, other, ..)| first < other)
        {
            newest = Some((entry.number, first, *at, entry.tail));
        }
    }
    let (_, _, head, tail) = newest?;
    let mut sequence = vec![tail];
    let mut at = tail;
    while at != head {
        at = next(at, entries.get(&at)?)?.0;
        sequence.push(at);
    }
    Some(sequence)
}

/// Looks whether an entry begins at `at` of the ring, and reads all of it if so.
///
/// Every page of an entry bears a signature that no entry begins with, so what is read
/// in vain is read once.
fn find(file: &dyn ReadAt, ring: Ring, guid: &Guid, at: u64) -> Result<Found> {
    let header: LogEntryHeader = read_struct(file, ring.place(at))?;
    if header.signature != LOG_ENTRY_SIGNATURE {
        return Ok(Found::Nothing);
    }
    if header.log_guid != *guid {
        return Ok(Found::Stale);
    }
    let entry = Entry {
        len: u64::from(header.entry_length.get()),
        tail: u64::from(header.tail.get()),
        number: header.sequence_number.get(),
        descriptors: u64::from(header.descriptor_count.get()),
        flushed_file_offset: header.flushed_file_offset.get(),
        last_file_offset: header.last_file_offset.get(),
        reserved: header.reserved.get(),
    };
    let descriptor_pages = (entry.descriptors + 2).div_ceil(128);
    let sound = entry.len.is_multiple_of(PAGE)
        && entry.len >= descriptor_pages * PAGE
        && entry.len <= ring.len
        && entry.tail.is_multiple_of(PAGE)
        && entry.tail < ring.len
        && entry.number > 0;
    if !sound {
        return Ok(Found::Broken);
    }
    let mut crc = 0;
    let mut data_pages = 0;
    let mut left = entry.descriptors;
    let mut page = [0; 4096];
    for number in 0..entry.len / PAGE {
        file.read_at(ring.place(at + number * PAGE), &mut page)?;
        if number < descriptor_pages {
            let skipped = if number == 0 { 2 } else { 0 };
            let (slots, _) = page.as_chunks::<32>();
            for slot in slots.iter().skip(skipped) {
                let Some(rest) = left.checked_sub(1) else { break };
                left = rest;
                match descriptor_is_sound(slot, entry.number) {
                    Some(is_data) => data_pages += u64::from(is_data),
                    None => return Ok(Found::Broken),
                }
            }
        } else {
            let sector = LogDataSector::ref_from_bytes(&page);
            let sound = sector.is_ok_and(|sector| {
                let (high, low) = (sector.sequence_high.get(), sector.sequence_low.get());
                sector.signature == DATA_SECTOR_SIGNATURE
                    && u64::from(high) << 32 | u64::from(low) == entry.number
            });
            if !sound {
                return Ok(Found::Broken);
            }
        }
        if number == 0
            && let Some(field) = page.get_mut(4..8)
        {
            field.fill(0);
        }
        crc = crc32c::crc32c_append(crc, &page);
    }
    let whole = entry.len == (descriptor_pages + data_pages) * PAGE;
    if !whole || crc != header.checksum.get() {
        return Ok(Found::Broken);
    }
    Ok(Found::Entry(entry))
}

/// Whether a sound descriptor is one of data; `None` if it is not sound.
fn descriptor_is_sound(bytes: &[u8; 32], number: u64) -> Option<bool> {
    let descriptor = LogDescriptor::ref_from_bytes(bytes).ok()?;
    let aligned = descriptor.file_offset.get().is_multiple_of(PAGE)
        && descriptor.sequence_number.get() == number;
    match descriptor.signature {
        DATA_DESCRIPTOR_SIGNATURE => Some(true),
        ZERO_SIGNATURE => {
            let len = u64::from_le_bytes(descriptor.leading_bytes);
            len.is_multiple_of(PAGE).then_some(false)
        }
        _ => None,
    }
    .filter(|_| aligned)
}

/// Lays what an entry changes over what is there. False, with a finding, if it would
/// change what no log may.
fn apply(
    file: &dyn ReadAt,
    ring: Ring,
    at: u64,
    entry: &Entry,
    overlay: &mut Overlay,
    findings: &mut Findings,
) -> Result<bool> {
    let pages = (entry.descriptors + 2).div_ceil(128);
    let mut data = pages;
    let mut reserved = entry.reserved != 0;
    for index in 0..entry.descriptors {
        // The header takes the room of two.
        let place = ring.place(at + (index + 2) * 32);
        let mut bytes = [0; 32];
        file.read_at(place, &mut bytes)?;
        let Ok(descriptor) = LogDescriptor::read_from_bytes(&bytes) else { continue };
        let from = descriptor.file_offset.get();
        let is_data = descriptor.signature == DATA_DESCRIPTOR_SIGNATURE;
        let len =
            if is_data { PAGE } else { u64::from_le_bytes(descriptor.leading_bytes) };
        let Some(end) = from.checked_add(len).filter(|end| *end <= LAST_OFFSET) else {
            let (name, expected) = ("log descriptor file offset", "at most 128 TiB");
            error(findings, name, place + 16, expected, format!("{len} at {from:#x}"));
            return Ok(false);
        };
        if !may_be_logged(from, end) || from < ring.end() && ring.offset < end {
            error(
                findings,
                "log descriptor",
                place,
                "a change that touches neither the headers nor the log",
                format!("one from {from:#x} to {end:#x}"),
            );
            return Ok(false);
        }
        let piece = if is_data {
            let piece = Piece::Data {
                at: ring.place(at + data * PAGE),
                leading: descriptor.leading_bytes,
                trailing: descriptor.trailing_bytes,
            };
            data += 1;
            piece
        } else {
            reserved |= descriptor.trailing_bytes != [0; 4];
            Piece::Zeros
        };
        overlay.lay(from..end, piece);
    }
    if reserved {
        let place = ring.place(at);
        note(findings, "log entry reserved bytes", place, "zeros", "other bytes");
    }
    Ok(true)
}

/// Whether a range holds nothing of the file identifier and the headers, and of the
/// header section beside them no more than the region tables.
fn may_be_logged(from: u64, end: u64) -> bool {
    let [first_table, second_table] = REGION_TABLES_AT;
    let tables = first_table..second_table + (64 << 10);
    let [_, second_header] = HEADERS_AT;
    debug_assert!(second_header < first_table);
    from >= MIB || from >= end || (tables.start <= from && end <= tables.end)
}

/// The checksum of an entry that was put together in memory, its own field as zeros.
fn seal(entry: &mut [u8]) {
    let sum = super::raw::checksum(entry);
    if let Some(field) = entry.get_mut(4..8) {
        field.copy_from_slice(sum.as_bytes());
    }
}
