//! Reading the structures of a VHD and holding each against its rules.
//!
//! Opening and checking are the same reading: what the check lists as an error
//! is what opening refuses.

use zerocopy::FromBytes;

use super::batmap::Batmap;
use super::raw::{
    DISK_TYPE_DIFFERENCING, DISK_TYPE_DYNAMIC, DISK_TYPE_FIXED, DynamicHeader,
    FOOTER_COOKIE, FOOTER_LEN, FORMAT_VERSION, Footer, HEADER_COOKIE, HEADER_LEN,
    POISON_COOKIE, SECTOR,
};
use super::rules::{
    check_batmap, check_copies, check_extents, check_fixed, check_footer, check_header,
    check_reserved, printable,
};
use super::table::BlockTable;
use crate::error::Result;
use crate::image::check::{Finding, Severity};
use crate::ranges::Ranges;
use crate::storage::{ReadAt, read_struct};

/// Tables beyond this would cost more memory than a disk of any size needs:
/// 2040 GiB in blocks of 128 KiB.
const MAX_TABLE_ENTRIES: u32 = 1 << 24;

/// Real images have 512 KiB or 2 MiB. What is free in one block is held in memory,
/// so there must be a largest one.
pub const BLOCK_SIZES: std::ops::RangeInclusive<u64> = 4096..=256 << 20;

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
    /// Where the file's data ends: at the trailing footer, or at the end if there is none.
    pub data_end: u64,
    /// Two sound footers name two headers, as an interrupted change of the parent's names
    /// leaves them: the header that does not count, and where it lies. The footer that
    /// names it is not among the sound ones above.
    pub other: Option<(u64, DynamicHeader)>,
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
    pub named: Ranges,
    /// The same with the room between them, where no block may be put either.
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
    let mut sound_leading = leading.filter(Footer::is_sound);
    let mut sound_trailing = trailing.filter(|(footer, _)| footer.is_sound());
    let data_end = sound_trailing.map_or(file.len(), |(_, offset)| offset);
    let mut other = None;
    if let (Some(first), Some((last, _))) = (&sound_leading, &sound_trailing)
        && let Some([first, last]) = two_headers(file, first, last)?
    {
        // The one in front is where it belongs; the other was made for the change.
        if first.0 < last.0 {
            (sound_trailing, other) = (None, Some(last));
        } else {
            (sound_leading, other) = (None, Some(first));
        }
    }
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
        data_end,
        other,
        sparse: None,
    };
    check_footer(&footer, sound_trailing.map_or(0, |(_, o)| o), findings);
    match footer.disk_type.get() {
        DISK_TYPE_FIXED => check_fixed(file, &structures, findings),
        DISK_TYPE_DYNAMIC | DISK_TYPE_DIFFERENCING => {
            let copies = (leading.as_ref(), trailing.as_ref());
            check_copies(copies, other.is_some(), file.len(), findings);
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

/// The headers that two sound footers name, with where they lie, if they are two and
/// differ in nothing but in what the parent of the same disk is called: as a change of
/// these names leaves them when it is interrupted.
fn two_headers(
    file: &dyn ReadAt,
    first: &Footer,
    last: &Footer,
) -> Result<Option<[(u64, DynamicHeader); 2]>> {
    let ats = [first.data_offset.get(), last.data_offset.get()];
    let alike =
        Footer { data_offset: last.data_offset, checksum: last.checksum, ..*first };
    if ats[0] == ats[1]
        || alike != *last
        || first.disk_type.get() != DISK_TYPE_DIFFERENCING
    {
        return Ok(None);
    }
    let mut found = Vec::with_capacity(2);
    for at in ats {
        if !at.is_multiple_of(SECTOR)
            || at < FOOTER_LEN
            || at > file.len().saturating_sub(HEADER_LEN)
        {
            return Ok(None);
        }
        let header: DynamicHeader = read_struct(file, at)?;
        if header.cookie != HEADER_COOKIE
            || header.checksum.get() != header.computed_checksum()
        {
            return Ok(None);
        }
        found.push((at, header));
    }
    let found: Option<[_; 2]> = found.try_into().ok();
    Ok(found.filter(|[a, b]| a.1.without_names() == b.1.without_names()))
}

/// The footer at the end: 512 bytes, or 511 in images made before Virtual PC
/// 2004.
pub fn read_trailing(file: &dyn ReadAt) -> Result<Option<(Footer, u64)>> {
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
        named: Ranges::new(),
        reserved: Ranges::new(),
        table,
        batmap,
    };
    let extents = sparse.table.extents();
    check_header(&sparse.header, at, structures, findings);
    let data_end = structures.data_end;
    let other = structures.other.as_ref();
    check_reserved(&mut sparse, at, other, &extents, data_end, findings);
    check_batmap(&sparse, findings);
    check_extents(&sparse, &extents, data_end, findings);
    Ok(Some(sparse))
}
