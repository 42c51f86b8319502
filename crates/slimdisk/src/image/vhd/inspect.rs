//! Reading the structures of a VHD and holding each against its rules.
//!
//! Opening and checking are the same reading: what the check lists as an error
//! is what opening refuses.

use zerocopy::{FromBytes, IntoBytes};

use super::batmap::Batmap;
use super::raw::{
    DISK_TYPE_DIFFERENCING, DISK_TYPE_DYNAMIC, DISK_TYPE_FIXED, DynamicHeader,
    FEATURE_RESERVED, FOOTER_COOKIE, FOOTER_LEN, FORMAT_VERSION, Footer, HEADER_COOKIE,
    HEADER_LEN, POISON_COOKIE, SECTOR,
};
use super::table::BlockTable;
use crate::error::Result;
use crate::image::Extent;
use crate::image::check::{Finding, Severity};
use crate::ranges::Ranges;
use crate::storage::{ReadAt, read_struct};

/// Tables beyond this would cost more memory than a disk of any size needs:
/// 2040 GiB in blocks of 128 KiB.
const MAX_TABLE_ENTRIES: u32 = 1 << 24;

/// Real images have 512 KiB or 2 MiB. What is free in one block is held in memory,
/// so there must be a largest one.
const BLOCK_SIZES: std::ops::RangeInclusive<u64> = 4096..=256 << 20;

/// Room behind the tables that is less than this is their writer's own.
const PADDING: u64 = 8192;

/// Geometry fields at their largest mean "see the current size".
const MAX_CHS_SECTORS: u64 = 65535 * 16 * 255;

/// The structures of one image, as far as they could be read.
pub struct Structures {
    /// The footer that counts.
    pub footer: Footer,
    /// Where the trailing footer lies, if it is sound.
    pub trailing: Option<u64>,
    /// Whether the copy at the start is sound (a fixed disk has none).
    pub leading: bool,
    /// Of an expanding image.
    pub sparse: Option<Sparse>,
}

/// What only dynamic and differencing images have.
pub struct Sparse {
    pub header: DynamicHeader,
    /// Bytes of a block's data; a power of two.
    pub block_size: u64,
    /// Bytes of a block's sector bitmap, padded to whole sectors.
    pub bitmap_len: u64,
    pub table: BlockTable,
    pub batmap: Option<Batmap>,
    /// Header, table, batmap, locators and the leading footer.
    pub reserved: Ranges,
}

impl Structures {
    /// The size of the guest's disk as the largest of its readers sees it.
    ///
    /// Virtual PC and qemu go by the geometry for images they made themselves,
    /// everybody else by the current size.
    pub fn virtual_size(&self) -> u64 {
        let footer = &self.footer;
        let chs = u64::from(footer.cylinders.get())
            * u64::from(footer.heads)
            * u64::from(footer.sectors_per_track);
        let by_geometry = matches!(&footer.creator_application, b"vpc " | b"qemu");
        let current = footer.current_size.get();
        if by_geometry && chs < MAX_CHS_SECTORS {
            current.max(chs * SECTOR)
        } else {
            current
        }
    }
}

/// Reads and checks all structures. What is wrong goes to `findings`; `None`
/// means that too little was left to go on.
pub fn inspect(
    file: &dyn ReadAt,
    findings: &mut Vec<Finding>,
) -> Result<Option<Structures>> {
    let mut error = |structure: &str, offset: u64, expected: String, actual: String| {
        findings.push(Finding::new(Severity::Error, structure, offset, expected, actual));
    };
    let leading =
        if file.len() >= FOOTER_LEN { Some(read_struct(file, 0)?) } else { None };
    let trailing = read_trailing(file)?;
    for (footer, offset) in
        leading.iter().map(|f| (f, 0)).chain(trailing.iter().map(|(f, o)| (f, *o)))
    {
        let footer: &Footer = footer;
        if footer.cookie == POISON_COOKIE {
            error(
                "footer cookie",
                offset,
                "conectix".into(),
                "v_poison: the image was disabled by its owner's tools".into(),
            );
            return Ok(None);
        }
    }
    let sound_leading = leading.filter(Footer::is_sound);
    let sound_trailing = trailing.filter(|(footer, _)| footer.is_sound());
    let Some(footer) = sound_trailing.map(|(footer, _)| footer).or(sound_leading) else {
        let (footer, offset) = match (trailing, leading) {
            (Some((footer, offset)), _) if footer.cookie == FOOTER_COOKIE => {
                (footer, offset)
            }
            (_, Some(footer)) => (footer, 0),
            _ => {
                error(
                    "file",
                    0,
                    "at least a footer of 512 bytes".into(),
                    format!("{} bytes", file.len()),
                );
                return Ok(None);
            }
        };
        if footer.cookie == FOOTER_COOKIE {
            error(
                "footer checksum (in both copies)",
                offset + 64,
                format!("{:#010x}", footer.computed_checksum()),
                format!("{:#010x}", footer.checksum.get()),
            );
        } else {
            error("footer cookie", offset, "conectix".into(), printable(&footer.cookie));
        }
        return Ok(None);
    };
    let mut structures = Structures {
        footer,
        trailing: sound_trailing.map(|(_, offset)| offset),
        leading: sound_leading.is_some(),
        sparse: None,
    };
    check_footer(&footer, sound_trailing.map_or(0, |(_, o)| o), findings);
    match footer.disk_type.get() {
        DISK_TYPE_FIXED => check_fixed(file, &structures, findings),
        DISK_TYPE_DYNAMIC | DISK_TYPE_DIFFERENCING => {
            check_copies(leading.as_ref(), trailing.as_ref(), file.len(), findings);
            structures.sparse = sparse(file, &structures, findings)?;
        }
        other => findings.push(Finding::new(
            Severity::Error,
            "footer disk type",
            sound_trailing.map_or(0, |(_, o)| o) + 60,
            "2 (fixed), 3 (dynamic) or 4 (differencing)",
            other.to_string(),
        )),
    }
    Ok(Some(structures))
}

/// The footer at the end: 512 bytes, or 511 in images made before Virtual PC
/// 2004.
fn read_trailing(file: &dyn ReadAt) -> Result<Option<(Footer, u64)>> {
    let len = file.len();
    if len < FOOTER_LEN {
        return Ok(None);
    }
    let whole: Footer = read_struct(file, len - FOOTER_LEN)?;
    if whole.cookie == FOOTER_COOKIE || whole.cookie == POISON_COOKIE {
        return Ok(Some((whole, len - FOOTER_LEN)));
    }
    let mut bytes = [0; 512];
    if let Some(short) = bytes.get_mut(..511) {
        file.read_at(len - 511, short)?;
    }
    let short = Footer::read_from_bytes(&bytes).unwrap_or(whole);
    Ok(match short.cookie {
        FOOTER_COOKIE | POISON_COOKIE => Some((short, len - 511)),
        _ => Some((whole, len - FOOTER_LEN)),
    })
}

fn check_footer(footer: &Footer, at: u64, findings: &mut Vec<Finding>) {
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

fn check_fixed(file: &dyn ReadAt, structures: &Structures, findings: &mut Vec<Finding>) {
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

/// Both footers of an expanding image must be there and be the same.
fn check_copies(
    leading: Option<&Footer>,
    trailing: Option<&(Footer, u64)>,
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

fn sparse(
    file: &dyn ReadAt,
    structures: &Structures,
    findings: &mut Vec<Finding>,
) -> Result<Option<Sparse>> {
    let mut error = |structure: &str, offset: u64, expected: String, actual: String| {
        findings.push(Finding::new(Severity::Error, structure, offset, expected, actual));
    };
    let at = structures.footer.data_offset.get();
    let len = file.len();
    if !at.is_multiple_of(SECTOR)
        || at < FOOTER_LEN
        || at > len.saturating_sub(HEADER_LEN)
    {
        error(
            "footer data offset",
            structures.trailing.unwrap_or(0) + 16,
            format!("a sector behind the first and inside the file ({len} bytes)"),
            format!("{at:#x}"),
        );
        return Ok(None);
    }
    let header: DynamicHeader = read_struct(file, at)?;
    if header.cookie != HEADER_COOKIE {
        let split = if structures.leading {
            ""
        } else {
            " (the file may be the last part of a split image)"
        };
        error(
            "dynamic header cookie",
            at,
            "cxsparse".into(),
            printable(&header.cookie) + split,
        );
        return Ok(None);
    }
    if header.checksum.get() != header.computed_checksum() {
        error(
            "dynamic header checksum",
            at + 36,
            format!("{:#010x}", header.computed_checksum()),
            format!("{:#010x}", header.checksum.get()),
        );
        return Ok(None);
    }
    if header.header_version.get() != FORMAT_VERSION {
        error(
            "dynamic header version",
            at + 24,
            "0x10000".into(),
            format!("{:#x}", header.header_version.get()),
        );
        return Ok(None);
    }
    let block_size = u64::from(header.block_size.get());
    if !block_size.is_power_of_two() || !BLOCK_SIZES.contains(&block_size) {
        error(
            "dynamic header block size",
            at + 32,
            "a power of two from 4096 bytes to 256 MiB".into(),
            block_size.to_string(),
        );
        return Ok(None);
    }
    let entries = header.max_table_entries.get();
    let needed = structures.footer.current_size.get().div_ceil(block_size);
    if u64::from(entries) < needed {
        error(
            "dynamic header max table entries (block allocation table too small)",
            at + 28,
            format!("at least {needed}, one for each block of the disk"),
            entries.to_string(),
        );
        return Ok(None);
    }
    if entries > MAX_TABLE_ENTRIES {
        error(
            "dynamic header max table entries",
            at + 28,
            format!("at most {MAX_TABLE_ENTRIES}"),
            entries.to_string(),
        );
        return Ok(None);
    }
    let table_offset = header.table_offset.get();
    let table_len = (u64::from(entries) * 4).next_multiple_of(SECTOR);
    if !table_offset.is_multiple_of(SECTOR)
        || table_offset.checked_add(table_len).is_none_or(|end| end > len)
    {
        error(
            "dynamic header table offset",
            at + 16,
            format!(
                "a sector from which {table_len} bytes lie inside the file ({len} bytes)"
            ),
            format!("{table_offset:#x}"),
        );
        return Ok(None);
    }
    let table = BlockTable::read(file, table_offset, entries)?;
    let batmap = match Batmap::read(file, &structures.footer, table.end(), entries)? {
        Ok(batmap) => batmap,
        Err(actual) => {
            error(
                "batmap header",
                table.end(),
                "a known version and a map inside the file, as large as the table".into(),
                actual,
            );
            return Ok(None);
        }
    };
    let mut sparse = Sparse {
        header,
        block_size,
        bitmap_len: (block_size / SECTOR / 8).next_multiple_of(SECTOR),
        reserved: Ranges::new(),
        table,
        batmap,
    };
    let extents = sparse.table.extents();
    check_header(&sparse.header, at, structures, findings);
    let data_end = structures.trailing.unwrap_or(len);
    check_reserved(&mut sparse, at, &extents, data_end, findings);
    check_batmap(&sparse, findings);
    check_extents(&sparse, &extents, data_end, findings);
    Ok(Some(sparse))
}

fn check_header(
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
fn check_reserved(
    sparse: &mut Sparse,
    header_at: u64,
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
    for locator in &header.parent_locators {
        if locator.platform_code == [0; 4] {
            continue;
        }
        // "Sectors" by the specification, bytes in nearly every file: below one
        // sector it can only be a count of sectors.
        let space = match u64::from(locator.platform_data_space.get()) {
            sectors if sectors < SECTOR => sectors * SECTOR,
            bytes => bytes,
        };
        let space = space
            .max(u64::from(locator.platform_data_length.get()))
            .next_multiple_of(SECTOR);
        let offset = locator.platform_data_offset.get();
        if space == 0 {
            continue;
        }
        let end = offset.checked_add(space).filter(|end| *end <= data_end);
        let Some(end) = end else {
            findings.push(Finding::new(
                Severity::Error,
                "parent locator data",
                offset,
                format!(
                    "data that ends before byte {data_end:#x}, the end of the file's data"
                ),
                format!("{space} bytes"),
            ));
            continue;
        };
        parts.push(("parent locator data", offset..end));
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
    sparse.reserved = parts.into_iter().map(|(_, range)| range).collect();
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

fn check_batmap(sparse: &Sparse, findings: &mut Vec<Finding>) {
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

fn check_extents(
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
    let mut previous: Option<Extent> = None;
    for extent in extents {
        let end = extent.place + extent_len;
        let name = || format!("block allocation table entry of block {}", extent.block);
        if end > data_end {
            findings.push(Finding::new(
                Severity::Error,
                name(),
                entry_at(extent.block),
                format!("a block that ends before byte {data_end:#x}, the end of the file's data (is the file cut short, or the first part of a split image?)"),
                format!("one from {:#x} to {end:#x}", extent.place),
            ));
        } else if sparse.reserved.intersects(&(extent.place..end)) {
            findings.push(Finding::new(
                Severity::Error,
                name(),
                entry_at(extent.block),
                "a block that lies on no header or table",
                format!("one from {:#x} to {end:#x}", extent.place),
            ));
        }
        if let Some(other) = previous
            && extent.place < other.place + extent_len
        {
            findings.push(Finding::new(
                Severity::Error,
                name(),
                entry_at(extent.block),
                format!("a block that does not overlap block {}", other.block),
                format!("one at {:#x}, the other at {:#x}", extent.place, other.place),
            ));
        }
        if findings.len() - before >= ENOUGH {
            return;
        }
        previous = Some(*extent);
    }
}

/// Eight bytes for a human reader.
fn printable(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.as_bytes().escape_ascii())
}
