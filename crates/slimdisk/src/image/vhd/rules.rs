//! The rules that a VHD's structures must keep, each breach a finding.

use std::ops::Range;

use zerocopy::IntoBytes;

use super::inspect::{Sparse, Structures};
use super::raw::{
    DISK_TYPE_DYNAMIC, DynamicHeader, FEATURE_RESERVED, FOOTER_COOKIE, FOOTER_LEN,
    FORMAT_VERSION, Footer, HEADER_LEN, SECTOR,
};
use crate::image::Extent;
use crate::image::check::{Finding, Severity};
use crate::storage::ReadAt;

/// Room behind the tables that is less than this is their writer's own.
const PADDING: u64 = 8192;

pub fn check_footer(footer: &Footer, at: u64, findings: &mut Vec<Finding>) {
    let mut note = |name: &str, offset, expected: &str, actual: String| {
        findings.push(Finding::new(Severity::Note, name, at + offset, expected, actual));
    };
    if footer.features.get() & FEATURE_RESERVED == 0 {
        note("footer features", 8, "bit 1 set", format!("{:#x}", footer.features.get()));
    }
    if footer.file_format_version.get() != FORMAT_VERSION {
        note(
            "footer file format version",
            12,
            "0x10000",
            format!("{:#x}", footer.file_format_version.get()),
        );
    }
    if !footer.current_size.get().is_multiple_of(SECTOR) {
        note(
            "footer current size",
            48,
            "whole sectors",
            footer.current_size.get().to_string(),
        );
    }
    if footer.saved_state > 1 {
        note("footer saved state", 84, "0 or 1", footer.saved_state.to_string());
    }
    if footer.reserved.iter().any(|byte| *byte != 0) {
        note("footer reserved bytes", 86, "zeros", "other bytes".into());
    }
}

pub fn check_fixed(
    file: &dyn ReadAt,
    structures: &Structures,
    findings: &mut Vec<Finding>,
) {
    let footer = &structures.footer;
    let Some(at) = structures.trailing else {
        // The copy at the start of a fixed disk would be guest data.
        findings.push(Finding::new(
            Severity::Error,
            "footer",
            file.len().saturating_sub(FOOTER_LEN),
            "a footer behind the data of a fixed disk",
            "none",
        ));
        return;
    };
    if footer.data_offset.get() != u64::MAX {
        findings.push(Finding::new(
            Severity::Note,
            "footer data offset",
            at + 16,
            "0xffffffffffffffff in a fixed disk",
            format!("{:#x}", footer.data_offset.get()),
        ));
    }
    if footer.current_size.get() > at {
        findings.push(Finding::new(
            Severity::Error,
            "footer current size",
            at + 48,
            format!("at most the {at} bytes before the footer"),
            footer.current_size.get().to_string(),
        ));
    }
}

/// Both footers of an expanding image must be there and be the same. `two_headers`: they
/// name two headers that differ in what the parent is called alone.
pub fn check_copies(
    (leading, trailing): (Option<&Footer>, Option<&(Footer, u64)>),
    two_headers: bool,
    len: u64,
    findings: &mut Vec<Finding>,
) {
    let state = |footer: Option<&Footer>| match footer {
        Some(f) if f.is_sound() => None,
        Some(f) if f.cookie == FOOTER_COOKIE => Some(format!(
            "checksum {:#010x} where {:#010x} belongs",
            f.checksum.get(),
            f.computed_checksum()
        )),
        Some(f) => Some(format!("cookie {}", printable(&f.cookie))),
        None => Some("nothing".into()),
    };
    let at = trailing.map_or(len.saturating_sub(FOOTER_LEN), |(_, offset)| *offset);
    if let Some(damage) = state(trailing.map(|(f, _)| f)) {
        findings.push(Finding::new(
            Severity::Damaged,
            "footer at the end of the file",
            at,
            "a sound footer, as its copy at the start is",
            damage,
        ));
    } else if let Some(damage) = state(leading) {
        findings.push(Finding::new(
            Severity::Damaged,
            "copy of the footer at the start of the file",
            0,
            "a sound footer, as the one at the end is",
            damage,
        ));
    } else if two_headers {
        findings.push(Finding::new(
            Severity::Damaged,
            "copy of the footer at the start of the file",
            0,
            "the same bytes as the footer at the end",
            "two footers that name two headers, both sound (a change of the parent's names \
             was interrupted)",
        ));
    } else if let (Some(a), Some((b, _))) = (leading, trailing)
        && a != b
    {
        let same_disk = a.disk_type == b.disk_type
            && a.data_offset == b.data_offset
            && a.current_size == b.current_size
            && a.unique_id == b.unique_id
            && a.saved_state == b.saved_state;
        let severity = if same_disk { Severity::Note } else { Severity::Error };
        findings.push(Finding::new(
            severity,
            "copy of the footer at the start of the file",
            0,
            "the same bytes as the footer at the end",
            "two sound footers that differ",
        ));
    }
    if len % SECTOR == 511 {
        findings.push(Finding::new(
            Severity::Note,
            "footer at the end of the file",
            at,
            "512 bytes",
            "511 bytes, as made before Virtual PC 2004",
        ));
    }
}

pub fn check_header(
    header: &DynamicHeader,
    at: u64,
    structures: &Structures,
    findings: &mut Vec<Finding>,
) {
    let mut note = |name: &str, offset, expected: &str, actual: String| {
        findings.push(Finding::new(Severity::Note, name, at + offset, expected, actual));
    };
    if header.data_offset.get() != u64::MAX {
        note(
            "dynamic header data offset",
            8,
            "0xffffffffffffffff",
            format!("{:#x}", header.data_offset.get()),
        );
    }
    let block_size = u64::from(header.block_size.get());
    let blocks = structures.footer.current_size.get().div_ceil(block_size);
    if u64::from(header.max_table_entries.get()) > blocks {
        note(
            "dynamic header max table entries",
            28,
            "the number of blocks of the disk",
            format!("{} for {blocks} blocks", header.max_table_entries.get()),
        );
    }
    if structures.footer.disk_type.get() == DISK_TYPE_DYNAMIC
        && header.parent_unique_id != [0; 16]
    {
        note(
            "dynamic header parent unique id",
            40,
            "zeros in a dynamic disk",
            "an identifier".into(),
        );
    }
}

/// Collects the structures' own bytes; they must lie inside the file, before the
/// footer that ends it, and not on each other.
pub fn check_reserved(
    sparse: &mut Sparse,
    header_at: u64,
    other: Option<&(u64, DynamicHeader)>,
    extents: &[Extent],
    data_end: u64,
    findings: &mut Vec<Finding>,
) {
    let header = &sparse.header;
    let mut parts = vec![
        ("copy of the footer", 0..FOOTER_LEN),
        ("dynamic header", header_at..header_at + HEADER_LEN),
        ("block allocation table", header.table_offset.get()..sparse.table.end()),
    ];
    if let Some(batmap) = &sparse.batmap {
        parts.push(("batmap header", batmap.offset..batmap.offset + SECTOR));
        let map = batmap.header.map_offset.get();
        parts.push((
            "batmap",
            map..map + u64::from(batmap.header.map_size.get()) * SECTOR,
        ));
    }
    parts.extend(locator_data(header));
    if let Some((at, header)) = other {
        // A footer still names it: until it does not, nothing may be put there.
        parts.push(("dynamic header", *at..*at + HEADER_LEN));
        parts.extend(locator_data(header));
    }
    parts.sort_by_key(|(_, range)| range.start);
    for ((name, range), (next_name, next)) in parts.iter().zip(parts.iter().skip(1)) {
        if next.start < range.end {
            findings.push(Finding::new(
                Severity::Error,
                format!("{next_name} and {name}"),
                next.start,
                "structures that do not overlap",
                format!("{name} from {:#x} to {:#x}", range.start, range.end),
            ));
        }
    }
    for (name, range) in parts.iter().filter(|(_, range)| range.end > data_end) {
        findings.push(Finding::new(
            Severity::Error,
            *name,
            range.start,
            format!("a structure that ends before byte {data_end:#x}, the end of the file's data"),
            format!("one from {:#x} to {:#x}", range.start, range.end),
        ));
    }
    sparse.named = parts.into_iter().map(|(_, range)| range).collect();
    sparse.reserved = sparse.named.clone();
    // Nothing is put into gaps between the headers either, nor into what writers
    // leave behind them as a matter of habit, as long as no block lies there
    // already: up to two pages in Windows' files, a sector in Virtual PC's.
    let end = sparse.reserved.iter().next_back().map_or(0, |range| range.end);
    let first = extents.first().map_or(data_end, |first| first.place);
    if first >= end {
        let padded = if first - end < PADDING { first } else { end };
        sparse.reserved.insert(0..padded);
    }
}

/// Where the names of the parent lie, with their room.
fn locator_data(
    header: &DynamicHeader,
) -> impl Iterator<Item = (&'static str, Range<u64>)> + '_ {
    let used = header.parent_locators.iter().filter(|l| l.platform_code != [0; 4]);
    used.filter(|locator| locator.room() > 0).map(|locator| {
        let offset = locator.platform_data_offset.get();
        let room = locator.room().next_multiple_of(SECTOR);
        ("parent locator data", offset..offset.saturating_add(room))
    })
}

pub fn check_batmap(sparse: &Sparse, findings: &mut Vec<Finding>) {
    let Some(batmap) = &sparse.batmap else { return };
    let computed = batmap.computed_checksum();
    if batmap.header.checksum.get() != computed {
        // The next compaction writes it anew, and tapdisk's own tools can.
        findings.push(Finding::new(
            Severity::Note,
            "batmap checksum",
            batmap.offset + 24,
            format!("{computed:#010x}"),
            format!("{:#010x}", batmap.header.checksum.get()),
        ));
    }
    let wrong = (0..sparse.table.len())
        .find(|block| batmap.claims(*block) && sparse.table.place(*block).is_none());
    if let Some(block) = wrong {
        findings.push(Finding::new(
            Severity::Note,
            "batmap",
            batmap.header.map_offset.get() + u64::from(block / 8),
            format!("a clear bit for block {block}, which has no place"),
            "a set one",
        ));
    }
}

pub fn check_extents(
    sparse: &Sparse,
    extents: &[Extent],
    data_end: u64,
    findings: &mut Vec<Finding>,
) {
    /// A broken table breaks everywhere; the first few say enough.
    const ENOUGH: usize = 16;
    let extent_len = sparse.bitmap_len + sparse.block_size;
    let entry_at = |block: u32| sparse.header.table_offset.get() + u64::from(block) * 4;
    let before = findings.len();
    let mut previous: Option<(u32, u64)> = None;
    for extent in extents {
        let Some(block) = extent.piece.block() else { continue };
        let end = extent.place + extent_len;
        let name = || format!("block allocation table entry of block {block}");
        if end > data_end {
            findings.push(Finding::new(
                Severity::Error,
                name(),
                entry_at(block),
                format!("a block that ends before byte {data_end:#x}, the end of the file's data (is the file cut short, or the first part of a split image?)"),
                format!("one from {:#x} to {end:#x}", extent.place),
            ));
        } else if sparse.reserved.intersects(&(extent.place..end)) {
            findings.push(Finding::new(
                Severity::Error,
                name(),
                entry_at(block),
                "a block that lies on no header or table",
                format!("one from {:#x} to {end:#x}", extent.place),
            ));
        }
        if let Some((other, other_place)) = previous
            && extent.place < other_place + extent_len
        {
            findings.push(Finding::new(
                Severity::Error,
                name(),
                entry_at(block),
                format!("a block that does not overlap block {other}"),
                format!("one at {:#x}, the other at {other_place:#x}", extent.place),
            ));
        }
        if findings.len() - before >= ENOUGH {
            return;
        }
        previous = Some((block, extent.place));
    }
}

/// Eight bytes for a human reader.
pub fn printable(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.as_bytes().escape_ascii())
}
