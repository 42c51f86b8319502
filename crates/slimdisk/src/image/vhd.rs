//! VHD: the format of Virtual PC, Virtual Server and early Hyper-V.
//!
//! ```text
//! copy of the footer | dynamic header | block allocation table | (batmap)
//! bitmap + block | bitmap + block | ... | footer
//! ```
//!
//! Source: Virtual Hard Disk Image Format Specification 1.0 (Microsoft, October
//! 2006), and what real writers do differently: places are taken from the table
//! alone, for Windows lays blocks 4104 sectors apart, qemu 4097, and old files
//! have gaps.

mod batmap;
mod inspect;
mod raw;
mod sector_bitmap;
mod table;

use std::ops::Range;
use std::sync::Arc;

use zerocopy::IntoBytes;

use self::inspect::{Sparse, Structures, inspect};
use self::raw::{
    DISK_TYPE_DIFFERENCING, FOOTER_COOKIE, FOOTER_LEN, Footer, POISON_COOKIE, SECTOR,
};
use super::{
    Facts, Finding, Format, Image, ImageType, Layout, Move, Severity, wrong_type,
};
use crate::error::{Error, Kind, Result};
use crate::storage::{ReadAt, Section, Storage, past_the_end};

/// Windows 8 and later, and xen, keep data and the end of the file on multiples
/// of this.
const ALIGNMENT: u64 = 4096;

/// The VHD format.
pub struct Vhd;

impl Format for Vhd {
    fn name(&self) -> &'static str {
        "vhd"
    }

    fn detect(&self, file: &dyn ReadAt) -> Result<bool> {
        let len = file.len();
        for offset in [Some(0), len.checked_sub(512), len.checked_sub(511)] {
            let mut cookie = [0; 8];
            if let Some(offset) = offset
                && len >= 512
            {
                file.read_at(offset, &mut cookie)?;
                if cookie == FOOTER_COOKIE || cookie == POISON_COOKIE {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn open(&self, file: Arc<dyn Storage>) -> Result<Box<dyn Image>> {
        let mut findings = Vec::new();
        let found = inspect(&file, &mut findings)?;
        if let Some(finding) = findings.iter().find(|f| f.severity == Severity::Error) {
            let Finding { structure, expected, actual, offset, .. } = finding;
            return Err(Error::invalid(format!(
                "not a sound VHD: {structure}: expected {expected}, found {actual}"
            ))
            .at(*offset));
        }
        let structures = found.ok_or_else(|| Error::invalid("not a sound VHD"))?;
        let notes = findings.iter().map(ToString::to_string).collect();
        let footer = structures.footer;
        let virtual_size = structures.virtual_size();
        let Structures { leading, sparse, .. } = structures;
        Ok(match sparse {
            None => {
                let size = footer.current_size.get();
                Box::new(FixedVhd { file, footer, size, notes })
            }
            Some(sparse) => {
                let end = sparse.block_size * u64::from(sparse.table.len());
                Box::new(SparseVhd {
                    aligned: is_aligned(&sparse, file.len()),
                    virtual_size: virtual_size.min(end),
                    leading_sound: leading,
                    failed: false,
                    file,
                    footer,
                    sparse,
                    notes,
                })
            }
        })
    }

    fn check(&self, file: &dyn ReadAt) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        let found = inspect(file, &mut findings)?;
        if findings.iter().all(|f| f.severity != Severity::Error)
            && let Some(Structures { sparse: Some(sparse), footer, .. }) = found
            && footer.disk_type.get() != DISK_TYPE_DIFFERENCING
        {
            sector_bitmap::check(file, &sparse, &mut findings)?;
        }
        Ok(findings)
    }

    fn repair(&self, file: &dyn Storage) -> Result<Vec<String>> {
        let mut findings = Vec::new();
        let found = inspect(file, &mut findings)?;
        if findings.iter().any(|f| f.severity == Severity::Error) {
            return Err(Error::invalid(
                "the image has damage that no copy can mend; nothing was repaired \
                 (a damaged footer or its damaged copy is all that can be)",
            ));
        }
        let Some(Structures { footer, trailing, leading, sparse: Some(sparse) }) = found
        else {
            return Ok(Vec::new());
        };
        let mut mended = Vec::new();
        if !leading {
            file.write_at(0, footer.as_bytes())?;
            file.flush()?;
            mended.push("the copy of the footer at the start was written anew from the one at the end".into());
        }
        if trailing.is_none() {
            let at = place_for_footer(&sparse, file.len());
            file.write_at(at, footer.as_bytes())?;
            file.flush()?;
            file.set_len(at + FOOTER_LEN)?;
            file.flush()?;
            mended.push(
                "the footer at the end was written anew from its copy at the start"
                    .into(),
            );
        }
        Ok(mended)
    }
}

/// Where a lost trailing footer belongs: in the last whole sector if that is
/// behind all blocks, else behind it.
fn place_for_footer(sparse: &Sparse, len: u64) -> u64 {
    let last = sparse.table.allocated().map(|(_, place)| place).max();
    let data_end = last.map_or(0, |place| place + sparse.bitmap_len + sparse.block_size);
    let tables_end = sparse.reserved.iter().next_back().map_or(0, |range| range.end);
    let last_sector = len.next_multiple_of(SECTOR).saturating_sub(SECTOR);
    last_sector.max(data_end).max(tables_end)
}

/// Whether the image keeps its blocks' data, and the end of the file, on
/// multiples of 4 KiB.
fn is_aligned(sparse: &Sparse, len: u64) -> bool {
    len.is_multiple_of(ALIGNMENT)
        && sparse
            .table
            .allocated()
            .all(|(_, place)| (place + sparse.bitmap_len).is_multiple_of(ALIGNMENT))
}

/// The facts that both kinds share.
fn facts(
    footer: &Footer,
    image_type: ImageType,
    virtual_size: u64,
    notes: &[String],
) -> Facts {
    let version = footer.creator_version.get();
    let mut details = vec![
        (
            "creator",
            format!(
                "{} {}.{} on {}",
                footer.creator_application.escape_ascii(),
                version >> 16,
                version & 0xFFFF,
                footer.creator_host_os.escape_ascii()
            ),
        ),
        ("unique id", guid(&footer.unique_id)),
        ("current size", format!("{} bytes", footer.current_size.get())),
        (
            "geometry",
            format!(
                "{} cylinders, {} heads, {} sectors per track",
                footer.cylinders.get(),
                footer.heads,
                footer.sectors_per_track
            ),
        ),
    ];
    if footer.saved_state != 0 {
        details.push(("saved state", "yes".into()));
    }
    Facts {
        format: "vhd",
        image_type,
        virtual_size,
        block_size: 0,
        blocks_total: 0,
        blocks_allocated: 0,
        details,
        notes: notes.to_vec(),
        parent: None,
    }
}

/// The usual form of an identifier whose bytes are in big-endian order.
fn guid(id: &[u8; 16]) -> String {
    let digits: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut text = String::with_capacity(36);
    for (index, digit) in digits.chars().enumerate() {
        if matches!(index, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(digit);
    }
    text
}

/// A fixed image: the disk and a footer.
struct FixedVhd {
    file: Arc<dyn Storage>,
    footer: Footer,
    size: u64,
    notes: Vec<String>,
}

const FIXED: &str = "a fixed VHD: only an expanding image can be compacted";

impl ReadAt for FixedVhd {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        Section::new(&self.file, 0..self.size).read_at(offset, buf)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        Section::new(&self.file, 0..self.size).next_data(offset)
    }
}

impl Image for FixedVhd {
    fn facts(&self) -> Facts {
        facts(&self.footer, ImageType::Fixed, self.size, &self.notes)
    }

    fn compactable(&self) -> Result<()> {
        Err(wrong_type(FIXED))
    }

    fn layout(&self) -> Option<Layout> {
        None
    }

    fn is_allocated(&self, _: u32) -> bool {
        false
    }

    fn read_block(&self, _: u32, _: u64, _: &mut [u8]) -> Result<()> {
        Err(wrong_type(FIXED))
    }

    fn next_data_in_block(&self, _: u32, _: u64) -> Result<Option<Range<u64>>> {
        Err(wrong_type(FIXED))
    }

    fn release(&mut self, _: &[u32]) -> Result<()> {
        Err(wrong_type(FIXED))
    }

    fn relocate(&mut self, _: &[Move]) -> Result<()> {
        Err(wrong_type(FIXED))
    }

    fn truncate(&mut self) -> Result<()> {
        Err(wrong_type(FIXED))
    }

    fn still_exclusive(&self) -> Result<()> {
        self.file.still_exclusive()
    }
}

/// A dynamic or differencing image.
struct SparseVhd {
    file: Arc<dyn Storage>,
    footer: Footer,
    sparse: Sparse,
    virtual_size: u64,
    aligned: bool,
    leading_sound: bool,
    notes: Vec<String>,
    /// A write failed: what is known here of the file may no longer be true.
    failed: bool,
}

impl SparseVhd {
    fn extent_len(&self) -> u64 {
        self.sparse.bitmap_len + self.sparse.block_size
    }

    fn place_of(&self, block: u32) -> Result<u64> {
        self.sparse.table.place(block).ok_or_else(|| {
            Error::new(
                Kind::Unexpected,
                format!("block {block} has no place in the file"),
            )
        })
    }

    fn is_differencing(&self) -> bool {
        self.footer.disk_type.get() == DISK_TYPE_DIFFERENCING
    }

    fn parent_name(&self) -> Option<String> {
        let name: Vec<u16> =
            self.sparse.header.parent_unicode_name.iter().map(|c| c.get()).collect();
        let name = name.split(|c| *c == 0).next()?;
        self.is_differencing().then(|| String::from_utf16_lossy(name))
    }

    /// Before the first write: an image whose leading footer is damaged gets it
    /// back, so that it has a sound one while its trailing footer moves.
    fn restore_leading(&mut self) -> Result<()> {
        if !self.leading_sound {
            self.file.write_at(0, self.footer.as_bytes())?;
            self.file.flush()?;
            self.leading_sound = true;
        }
        Ok(())
    }

    /// Runs one verb. Once one has failed, the table here and the table in the
    /// file may differ, and acting on it could cut a block that still has a
    /// place: only opening the file anew helps then.
    fn act(&mut self, verb: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if self.failed {
            return Err(Error::new(
                Kind::Unexpected,
                "an earlier write failed: open the image anew before changing it again",
            ));
        }
        self.failed = true;
        verb(self)?;
        self.failed = false;
        Ok(())
    }

    fn release_blocks(&mut self, blocks: &[u32]) -> Result<()> {
        self.restore_leading()?;
        if let Some(batmap) = &mut self.sparse.batmap {
            batmap.clear(&*self.file, blocks)?;
            self.file.flush()?;
        }
        let changes: Vec<_> = blocks.iter().map(|block| (*block, None)).collect();
        self.sparse.table.set(&*self.file, &changes)?;
        self.file.flush()
    }

    fn relocate_blocks(&mut self, moves: &[Move]) -> Result<()> {
        self.restore_leading()?;
        let mut changes = Vec::with_capacity(moves.len());
        for Move { block, to } in moves {
            let from = self.place_of(*block)?;
            let sector = u32::try_from(to / SECTOR).map_err(|_| {
                Error::new(
                    Kind::Unexpected,
                    "a block would lie beyond what a VHD can name",
                )
            })?;
            self.file.copy_within(from, *to, self.extent_len())?;
            changes.push((*block, Some(sector)));
        }
        self.file.flush()?;
        self.sparse.table.set(&*self.file, &changes)?;
        self.file.flush()
    }

    fn cut(&mut self) -> Result<()> {
        let Some(layout) = self.layout() else { return Ok(()) };
        let end = layout.end_of_data();
        let len = layout.file_len_after(end);
        if len >= self.file.len() {
            return Ok(());
        }
        self.restore_leading()?;
        // Zeros between the last block and the footer, then the footer itself:
        // nothing names these bytes any more.
        let mut trailer = vec![0; usize::try_from(len - FOOTER_LEN - end).unwrap_or(0)];
        trailer.extend_from_slice(self.footer.as_bytes());
        self.file.write_at(end, &trailer)?;
        self.file.flush()?;
        self.file.set_len(len)?;
        self.file.flush()
    }
}

impl ReadAt for SparseVhd {
    fn len(&self) -> u64 {
        self.virtual_size
    }

    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> Result<()> {
        if self.is_differencing() {
            return Err(wrong_type(DIFFERENCING));
        }
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.virtual_size)
        {
            return Err(past_the_end(offset, buf.len() as u64, self.virtual_size));
        }
        while !buf.is_empty() {
            let block =
                u32::try_from(offset / self.sparse.block_size).unwrap_or(u32::MAX);
            let within = offset % self.sparse.block_size;
            let left =
                usize::try_from(self.sparse.block_size - within).unwrap_or(usize::MAX);
            let (part, rest) = buf.split_at_mut(left.min(buf.len()));
            match self.sparse.table.place(block) {
                Some(place) => {
                    self.file.read_at(place + self.sparse.bitmap_len + within, part)?;
                }
                None => part.fill(0),
            }
            offset += part.len() as u64;
            buf = rest;
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let size = self.sparse.block_size;
        let first = u32::try_from(offset / size).unwrap_or(u32::MAX);
        for block in first..self.sparse.table.len() {
            if !self.is_allocated(block) {
                continue;
            }
            let start = u64::from(block) * size;
            let from = offset.saturating_sub(start);
            if let Some(found) = self.next_data_in_block(block, from)? {
                let range =
                    start + found.start..(start + found.end).min(self.virtual_size);
                return Ok(Some(range).filter(|range| range.start < range.end));
            }
        }
        Ok(None)
    }
}

const DIFFERENCING: &str = "a differencing VHD: its disk cannot be read or compacted without its \
                            parents, which is not possible yet";

impl Image for SparseVhd {
    fn facts(&self) -> Facts {
        let image_type = if self.is_differencing() {
            ImageType::Differencing
        } else {
            ImageType::Dynamic
        };
        let mut facts = facts(&self.footer, image_type, self.virtual_size, &self.notes);
        facts.block_size = self.sparse.block_size;
        facts.blocks_total = self.sparse.table.len();
        facts.blocks_allocated =
            self.sparse.table.allocated().count().try_into().unwrap_or(u32::MAX);
        facts.parent = self.parent_name();
        if self.aligned {
            facts.details.push(("alignment", "data on multiples of 4096 bytes".into()));
        }
        if self.sparse.batmap.is_some() {
            facts.details.push(("batmap", "yes (tapdisk)".into()));
        }
        facts
    }

    fn compactable(&self) -> Result<()> {
        if self.is_differencing() {
            return Err(wrong_type(DIFFERENCING));
        }
        if self.footer.saved_state != 0 {
            return Err(wrong_type(
                "the disk belongs to a virtual machine in a saved state: \
                 restore the machine and shut it down, or discard the saved state",
            ));
        }
        if self.sparse.batmap.as_ref().is_some_and(|b| b.header.key_hash_present != 0) {
            return Err(wrong_type(
                "an encrypted VHD: nothing in it can be told to be free",
            ));
        }
        Ok(())
    }

    fn layout(&self) -> Option<Layout> {
        let modulus = if self.aligned { ALIGNMENT } else { SECTOR };
        let over = self.sparse.bitmap_len % modulus;
        Some(Layout {
            extents: self.sparse.table.extents(),
            extent_len: self.extent_len(),
            modulus,
            remainder: (modulus - over) % modulus,
            reserved: self.sparse.reserved.clone(),
            trailer_len: FOOTER_LEN,
            end_modulus: modulus,
            file_len: self.file.len(),
        })
    }

    fn is_allocated(&self, block: u32) -> bool {
        self.sparse.table.place(block).is_some()
    }

    fn read_block(&self, block: u32, offset: u64, buf: &mut [u8]) -> Result<()> {
        let data = self.place_of(block)? + self.sparse.bitmap_len;
        Section::new(&self.file, data..data + self.sparse.block_size).read_at(offset, buf)
    }

    fn next_data_in_block(&self, block: u32, offset: u64) -> Result<Option<Range<u64>>> {
        let data = self.place_of(block)? + self.sparse.bitmap_len;
        Section::new(&self.file, data..data + self.sparse.block_size).next_data(offset)
    }

    fn release(&mut self, blocks: &[u32]) -> Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        self.act(|image| image.release_blocks(blocks))
    }

    fn relocate(&mut self, moves: &[Move]) -> Result<()> {
        self.act(|image| image.relocate_blocks(moves))
    }

    fn truncate(&mut self) -> Result<()> {
        self.act(Self::cut)
    }

    fn still_exclusive(&self) -> Result<()> {
        self.file.still_exclusive()
    }
}
