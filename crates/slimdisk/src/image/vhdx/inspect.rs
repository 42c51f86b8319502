//! Reading the structures of a VHDX and holding each against its rules.
//!
//! Opening and checking are the same reading: what the check lists as an error is what
//! opening refuses.

use super::bat::{BITMAP_NOT_PRESENT, BITMAP_PRESENT};
use super::bat::{Bat, Owner, State, entries_needed};
use super::header::Headers;
use super::log::overlay::{Overlay, Replayed};
use super::log::{Ring, replay};
use super::metadata::Metadata;
use super::parent_locator::Locator;
use super::raw::{FILE_SIGNATURE, FileIdentifier, MIB, in_text_order};
use super::region::Regions;
use super::rules::{Findings, error, is_sound, note};
use crate::error::Result;
use crate::image::parent::id_text;
use crate::image::{Extent, Piece};
use crate::ranges::Ranges;
use crate::storage::{ReadAt, read_struct};

/// Chunks hold this many logical sectors: the bits of a sector bitmap.
pub const CHUNK_SECTORS: u64 = 1 << 23;

/// A broken table breaks everywhere; the first few say enough.
const ENOUGH: usize = 16;

/// The structures of one image.
pub struct Structures {
    pub headers: Headers,
    /// The log's place; of no use if it has no length.
    pub ring: Ring,
    /// What the log changes, until that was done.
    pub overlay: Overlay,
    pub regions: Regions,
    pub metadata: Metadata,
    pub locator: Option<Locator>,
    pub bat: Bat,
    /// All that is no block: the header section, the log, the regions.
    pub reserved: Ranges,
    pub creator: String,
    /// What was found that is no finding.
    pub notes: Vec<String>,
}

/// Reads and checks all structures. What is wrong goes to `findings`; `None` means that
/// too little was left to go on.
pub fn inspect(file: &dyn ReadAt, findings: &mut Findings) -> Result<Option<Structures>> {
    if file.len() < size_of::<FileIdentifier>() as u64 {
        let actual = format!("{} bytes", file.len());
        error(findings, "file", 0, "at least a file identifier", actual);
        return Ok(None);
    }
    let identifier: FileIdentifier = read_struct(file, 0)?;
    if identifier.signature != FILE_SIGNATURE {
        let actual = format!("\"{}\"", identifier.signature.escape_ascii());
        error(findings, "file identifier signature", 0, "vhdxfile", actual);
        return Ok(None);
    }
    let creator: Vec<u16> = identifier.creator.iter().map(|c| c.get()).collect();
    let creator = creator.split(|c| *c == 0).next().unwrap_or_default();
    let creator = String::from_utf16_lossy(creator);
    let Some(headers) = Headers::read(file, findings)? else { return Ok(None) };
    let Some(ring) = ring(file, &headers, findings) else { return Ok(None) };
    let mut notes = Vec::new();
    let mut overlay = Overlay::default();
    if headers.has_log() {
        let guid = &headers.current.log_guid;
        let Some(found) = replay(file, ring, guid, findings)? else { return Ok(None) };
        overlay = found.overlay;
        notes.push(found.note);
    }
    let seen = Replayed { file, overlay: &overlay };
    let Some(regions) = Regions::read(&seen, findings)? else { return Ok(None) };
    let Some(metadata) = Metadata::read(&seen, &regions.metadata, findings)? else {
        return Ok(None);
    };
    let mut locator = None;
    if let Some(item) = &metadata.locator {
        locator = Locator::read(&seen, item, findings)?;
        if locator.is_none() {
            return Ok(None);
        }
    }
    let Some(bat) = read_bat(&seen, &regions, &metadata, findings)? else {
        return Ok(None);
    };
    let reserved = check_reserved(&regions, ring, findings);
    check_entries(&bat, metadata.has_parent, findings);
    if is_sound(findings) {
        check_places(&bat, metadata.block_size, &reserved, seen.len(), findings);
    }
    Ok(Some(Structures {
        headers,
        ring,
        overlay,
        regions,
        metadata,
        locator,
        bat,
        reserved,
        creator,
        notes,
    }))
}

pub fn ring(
    file: &dyn ReadAt,
    headers: &Headers,
    findings: &mut Findings,
) -> Option<Ring> {
    let header = &headers.current;
    let (offset, len) = (header.log_offset.get(), u64::from(header.log_length.get()));
    let placed = offset.is_multiple_of(MIB)
        && len.is_multiple_of(MIB)
        && (offset >= MIB || len == 0)
        && offset.checked_add(len).is_some_and(|end| end <= file.len());
    let needed = !headers.has_log() || len > 0;
    if placed && needed {
        return Some(Ring { offset, len });
    }
    error(
        findings,
        "header log offset and length",
        headers.offset() + 68,
        format!("whole MiB behind the first and inside the file ({} bytes)", file.len()),
        format!("{len} bytes at {offset:#x}"),
    );
    None
}

fn read_bat(
    file: &dyn ReadAt,
    regions: &Regions,
    metadata: &Metadata,
    findings: &mut Findings,
) -> Result<Option<Bat>> {
    let Metadata { block_size, logical_sector, .. } = metadata;
    // From 16 to 32768, whole: all three are powers of two.
    let ratio = CHUNK_SECTORS * u64::from(*logical_sector) / block_size;
    let blocks = metadata.disk_size.div_ceil(*block_size);
    let entries = entries_needed(blocks, ratio, metadata.has_parent);
    let region = &regions.bat;
    if region.end - region.start < entries * 8 {
        error(
            findings,
            "block allocation table region",
            region.start,
            format!("at least {} bytes for {entries} entries", entries * 8),
            format!("{} bytes", region.end - region.start),
        );
        return Ok(None);
    }
    // 64 TiB in blocks of 1 MiB.
    let (Ok(blocks), Ok(ratio)) = (u32::try_from(blocks), u32::try_from(ratio)) else {
        return Ok(None);
    };
    Bat::read(file, region.start, entries, blocks, ratio).map(Some)
}

/// Collects the structures' own bytes, none of which may lie on another's.
fn check_reserved(regions: &Regions, ring: Ring, findings: &mut Findings) -> Ranges {
    let mut parts = vec![
        ("header section".to_owned(), 0..MIB),
        ("log".to_owned(), ring.offset..ring.offset + ring.len),
        ("block allocation table".to_owned(), regions.bat.clone()),
        ("metadata region".to_owned(), regions.metadata.clone()),
    ];
    for (id, range) in &regions.unknown {
        parts.push((format!("region {}", id_text(&in_text_order(id))), range.clone()));
    }
    parts.retain(|(_, range)| range.start < range.end);
    parts.sort_by_key(|(_, range)| range.start);
    for ((name, range), (next_name, next)) in parts.iter().zip(parts.iter().skip(1)) {
        if next.start < range.end {
            error(
                findings,
                format!("{next_name} and {name}"),
                next.start,
                "structures that do not overlap",
                format!("{name} from {:#x} to {:#x}", range.start, range.end),
            );
        }
    }
    parts.into_iter().map(|(_, range)| range).collect()
}

/// Each entry by itself.
fn check_entries(bat: &Bat, differencing: bool, findings: &mut Findings) {
    let (mut notes, mut errors) = (Findings::new(), Findings::new());
    for (index, owner, entry) in bat.entries() {
        let at = bat.entry_at(index);
        // Whatever there is to note, an error behind it must not be missed.
        if errors.len() >= ENOUGH {
            break;
        }
        notes.truncate(ENOUGH);
        let name = match owner {
            Owner::Block(block) => {
                format!("block allocation table entry of block {block}")
            }
            Owner::Bitmap(chunk) => {
                format!("block allocation table entry of sector bitmap {chunk}")
            }
        };
        if entry.has_reserved_bits() {
            note(
                &mut notes,
                name.clone(),
                at,
                "zeros in bits 3 to 19",
                format!("{:#x}", entry.0),
            );
        }
        let state = format!("state {}", entry.raw_state());
        match owner {
            Owner::Block(block) => match entry.state() {
                None => {
                    error(&mut errors, name, at, "a state that is not reserved", state);
                }
                Some(State::Partially) if !differencing => {
                    let expected =
                        "no partially present block in an image without a parent";
                    error(&mut errors, name, at, expected, state);
                }
                Some(State::Partially)
                    if bat.bitmap(bat.chunk(block)).raw_state() != BITMAP_PRESENT =>
                {
                    let expected = "a sector bitmap for a partially present block";
                    error(&mut errors, name, at, expected, "none");
                }
                Some(State::NotPresent | State::Zero) if entry.offset_mib() != 0 => {
                    let expected = "no place for a block that has no data";
                    note(&mut notes, name, at, expected, format!("{:#x}", entry.place()));
                }
                _ => {}
            },
            Owner::Bitmap(_) => match entry.raw_state() {
                BITMAP_PRESENT if differencing => {}
                BITMAP_NOT_PRESENT => {
                    if entry.offset_mib() != 0 {
                        let expected = "no place for a sector bitmap that is not there";
                        let actual = format!("{:#x}", entry.place());
                        note(&mut notes, name, at, expected, actual);
                    }
                }
                BITMAP_PRESENT => {
                    let expected = "no sector bitmap in an image without a parent";
                    error(&mut errors, name, at, expected, state);
                }
                _ => error(&mut errors, name, at, "a state that is not reserved", state),
            },
        }
    }
    notes.truncate(ENOUGH);
    findings.extend(errors);
    findings.extend(notes);
}

/// Each block in a place of its own, inside the file. Only the last one of the file may
/// be cut short: what it lacks reads as zeros.
fn check_places(
    bat: &Bat,
    block_size: u64,
    reserved: &Ranges,
    file_len: u64,
    findings: &mut Findings,
) {
    let before = findings.len();
    let name_of = |extent: &Extent| match extent.piece {
        Piece::Bitmap(chunk) => format!("sector bitmap {chunk}"),
        Piece::Block(block) => format!("block {block}"),
    };
    let at_of = |extent: &Extent| {
        bat.entry_at(match extent.piece {
            Piece::Bitmap(chunk) => bat.bitmap_index(chunk),
            Piece::Block(block) => bat.index(block),
        })
    };
    let mut previous: Option<(Extent, u64)> = None;
    for extent in bat.extents() {
        let is_block = extent.piece.block().is_some();
        let len = if is_block { block_size } else { MIB };
        let name = || format!("block allocation table entry of {}", name_of(&extent));
        let end = extent.place.checked_add(len);
        match end {
            Some(end) if end <= file_len => {}
            Some(end) if is_block && extent.place < file_len => note(
                findings,
                name(),
                at_of(&extent),
                format!("a block that ends before the file does, at {file_len:#x}"),
                format!("one to {end:#x}; what it lacks reads as zeros"),
            ),
            _ => error(
                findings,
                name(),
                at_of(&extent),
                format!(
                    "a place inside the file ({file_len:#x} bytes; is it cut short?)"
                ),
                format!("{:#x}", extent.place),
            ),
        }
        let range = extent.place..end.unwrap_or(u64::MAX);
        if reserved.intersects(&range) {
            error(
                findings,
                name(),
                at_of(&extent),
                "a place that is neither in the header section nor in the log or a region",
                format!("{:#x}", extent.place),
            );
        }
        if let Some((other, other_len)) = previous
            && extent.place < other.place.saturating_add(other_len)
        {
            error(
                findings,
                name(),
                at_of(&extent),
                format!("a place that does not overlap {}", name_of(&other)),
                format!("{:#x}, the other at {:#x}", extent.place, other.place),
            );
        }
        if findings.len() - before >= ENOUGH {
            return;
        }
        previous = Some((extent, len));
    }
}
