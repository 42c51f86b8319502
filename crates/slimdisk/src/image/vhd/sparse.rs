//! Expanding images: a table of blocks, each with its sector bitmap.

mod relink;
mod through;
mod write;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use zerocopy::IntoBytes;

use super::inspect::{Sparse, Structures};
use super::raw::{DISK_TYPE_DIFFERENCING, FOOTER_LEN, Footer, SECTOR};
use super::{ALIGNMENT, EPOCH, facts, not_saved, parent_locator};
use crate::error::{Error, Kind, Result};
use crate::image::holes;
use crate::image::parent::{ParentLink, ParentNames, id_text, without_parent};
use crate::image::sector_bitmap::SectorBitmaps;
use crate::image::{
    Extent, Facts, GuestWrite, Image, ImageType, Layout, Move, Release, check_writes,
    wrong_type,
};
use crate::ranges::Ranges;
use crate::storage::{ReadAt, Section, Storage, Transfer, past_the_end};

/// A dynamic or differencing image.
pub struct SparseVhd {
    file: Arc<dyn Storage>,
    footer: Footer,
    sparse: Sparse,
    virtual_size: u64,
    aligned: bool,
    leading_sound: bool,
    /// Where the trailing footer lies, if it is sound.
    trailing: Option<u64>,
    /// The footer that is not sound names a header all the same: a change of the parent's
    /// names was interrupted.
    two_headers: bool,
    notes: Vec<String>,
    /// Of a differencing image, once it was found.
    parent: Option<Arc<dyn Image>>,
    bitmaps: SectorBitmaps,
    /// A write failed: what is known here of the file may no longer be true.
    failed: bool,
}

impl SparseVhd {
    /// An image of which everything has been checked.
    pub fn new(
        file: Arc<dyn Storage>,
        structures: &Structures,
        sparse: Sparse,
        notes: Vec<String>,
    ) -> Self {
        let end = sparse.block_size * u64::from(sparse.table.len());
        SparseVhd {
            aligned: file.len().is_multiple_of(ALIGNMENT) && is_aligned(&sparse),
            virtual_size: structures.virtual_size().min(end),
            leading_sound: structures.leading,
            trailing: structures.trailing,
            two_headers: structures.other.is_some(),
            footer: structures.footer,
            file,
            sparse,
            notes,
            parent: None,
            bitmaps: SectorBitmaps::default(),
            failed: false,
        }
    }

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

    /// How `extents` lie in the file.
    fn layout_of(&self, extents: Vec<Extent>) -> Layout {
        let modulus = if self.aligned { ALIGNMENT } else { SECTOR };
        let over = self.sparse.bitmap_len % modulus;
        Layout {
            extents,
            extent_len: self.extent_len(),
            bitmap_len: 0,
            chunk_blocks: 0,
            partial: Vec::new(),
            modulus,
            remainder: (modulus - over) % modulus,
            reserved: self.sparse.reserved.clone(),
            trailer_len: FOOTER_LEN,
            end_modulus: modulus,
            file_len: self.file.len(),
        }
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

    fn transfers(&self, moves: &[Move]) -> Result<Vec<Transfer>> {
        let transfer = |Move { piece, to }: &Move| {
            let from = self.place_of(piece.block().ok_or_else(no_bitmap)?)?;
            Ok(Transfer { from, to: *to, len: self.extent_len() })
        };
        moves.iter().map(transfer).collect()
    }

    fn relocate_blocks(&mut self, moves: &[Move]) -> Result<()> {
        self.restore_leading()?;
        let mut changes = Vec::with_capacity(moves.len());
        for Move { piece, to } in moves {
            let block = piece.block().ok_or_else(no_bitmap)?;
            let sector = u32::try_from(to / SECTOR).map_err(|_| {
                Error::new(
                    Kind::Unexpected,
                    "a block would lie beyond what a VHD can name",
                )
            })?;
            changes.push((block, Some(sector)));
        }
        self.file.copy_all(&self.transfers(moves)?)?;
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
        self.trailing = Some(len - FOOTER_LEN);
        self.file.flush()
    }
}

impl ReadAt for SparseVhd {
    fn len(&self) -> u64 {
        self.virtual_size
    }

    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.virtual_size)
        {
            return Err(past_the_end(offset, buf.len() as u64, self.virtual_size));
        }
        if self.is_differencing() {
            return self.read_through(offset, buf);
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
        if self.is_differencing() {
            return self.next_data_through(offset);
        }
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

    fn will_read(&self, ranges: &[Range<u64>]) {
        // What a parent shows is left out.
        let size = self.sparse.block_size;
        let mut places = Vec::with_capacity(ranges.len());
        for range in ranges {
            let end = range.end.min(self.virtual_size);
            let mut at = range.start;
            while at < end {
                let upto = ((at / size + 1) * size).min(end);
                let place = u32::try_from(at / size)
                    .ok()
                    .and_then(|block| self.sparse.table.place(block));
                if let Some(place) = place {
                    let start = place + self.sparse.bitmap_len + at % size;
                    places.push(start..start + (upto - at));
                }
                at = upto;
            }
        }
        self.file.will_read(&places);
    }
}

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
        if self.is_differencing() {
            let id = id_text(&self.sparse.header.parent_unique_id);
            facts.details.push(("parent unique id", id));
        }
        if self.aligned {
            facts.details.push(("alignment", "data on multiples of 4096 bytes".into()));
        }
        if self.sparse.batmap.is_some() {
            facts.details.push(("batmap", "yes (tapdisk)".into()));
        }
        facts
    }

    fn settled(&self) -> Result<()> {
        not_saved(&self.footer)?;
        if self.sparse.batmap.as_ref().is_some_and(|b| b.header.key_hash_present != 0) {
            return Err(wrong_type(
                "an encrypted VHD: nothing in it can be told to be free",
            ));
        }
        Ok(())
    }

    fn compactable(&self) -> Result<()> {
        if self.is_differencing() && self.parent.is_none() {
            return Err(without_parent());
        }
        self.settled()
    }

    fn parent_link(&self) -> Result<Option<ParentLink>> {
        if !self.is_differencing() {
            return Ok(None);
        }
        let header = &self.sparse.header;
        let (names, notes) = parent_locator::names(&self.file, header)?;
        let mut link = ParentLink::new(header.parent_unique_id, names);
        link.notes = notes;
        let seconds = u64::from(header.parent_time_stamp.get());
        link.modified = Some(SystemTime::UNIX_EPOCH + EPOCH)
            .filter(|_| seconds != 0)
            .and_then(|epoch| epoch.checked_add(Duration::from_secs(seconds)));
        Ok(Some(link))
    }

    fn set_parent(&mut self, parent: Arc<dyn Image>) -> Result<()> {
        if !self.is_differencing() {
            return Err(wrong_type("only a differencing image has a parent"));
        }
        if self.footer.is_tapdisk() && self.footer.creator_version.get() <= 1 {
            return Err(wrong_type(
                "a differencing image of tapdisk 0.1, whose sector bitmaps have their bits \
                 in another order: have its own tools convert it",
            ));
        }
        let id = &self.sparse.header.parent_unique_id;
        if parent.facts().unique_id.as_ref() != Some(id) {
            return Err(Error::new(
                Kind::ParentMismatch,
                format!(
                    "the parent is not the disk {} that the image was made from",
                    id_text(id)
                ),
            ));
        }
        self.parent = Some(parent);
        Ok(())
    }

    fn parent(&self) -> Option<&Arc<dyn Image>> {
        self.parent.as_ref()
    }

    fn name_parent(&mut self, names: &ParentNames) -> Result<()> {
        if !self.is_differencing() {
            return Err(wrong_type("only a differencing image has a parent to be named"));
        }
        // What cannot be done is said before anything is written.
        self.planned_names(names)?;
        self.file.still_exclusive()?;
        self.act(|image| image.change_names(names))
    }

    fn own_bytes(&self, block: u32) -> Result<Option<Ranges>> {
        match self.sparse.table.place(block) {
            Some(place) if self.is_differencing() => {
                Ok(Some(self.bitmap(block, place)?.own_bytes()))
            }
            _ => Ok(None),
        }
    }

    fn layout(&self) -> Option<Layout> {
        Some(self.layout_of(self.sparse.table.extents()))
    }

    fn is_allocated(&self, block: u32) -> bool {
        self.sparse.table.place(block).is_some()
    }

    fn read_block(&self, block: u32, offset: u64, buf: &mut [u8]) -> Result<()> {
        if self.is_differencing() {
            let size = self.sparse.block_size;
            let end = offset.checked_add(buf.len() as u64);
            if block >= self.sparse.table.len() || end.is_none_or(|end| end > size) {
                return Err(past_the_end(offset, buf.len() as u64, size));
            }
            return self.read_through(u64::from(block) * size + offset, buf);
        }
        let data = self.place_of(block)? + self.sparse.bitmap_len;
        Section::new(&self.file, data..data + self.sparse.block_size).read_at(offset, buf)
    }

    fn next_data_in_block(&self, block: u32, offset: u64) -> Result<Option<Range<u64>>> {
        if self.is_differencing() {
            // What is a hole here may be the parent's data.
            let size = self.sparse.block_size;
            return Ok(Some(offset..size).filter(|range| range.start < range.end));
        }
        let data = self.place_of(block)? + self.sparse.bitmap_len;
        Section::new(&self.file, data..data + self.sparse.block_size).next_data(offset)
    }

    fn release(&mut self, pieces: &[Release]) -> Result<()> {
        let mut blocks = Vec::with_capacity(pieces.len());
        for piece in pieces {
            if self.is_differencing() && matches!(piece, Release::ToZeros(_)) {
                return Err(Error::new(
                    Kind::Unexpected,
                    "a block of a differencing VHD cannot be given up and hide its parent",
                ));
            }
            blocks.push(piece.block().ok_or_else(no_bitmap)?);
        }
        if blocks.is_empty() {
            return Ok(());
        }
        self.bitmaps.forget();
        self.act(|image| image.release_blocks(&blocks))
    }

    fn will_relocate(&self, moves: &[Move]) {
        if let Ok(transfers) = self.transfers(moves) {
            self.file.will_copy(&transfers);
        }
    }

    fn relocate(&mut self, moves: &[Move]) -> Result<()> {
        self.act(|image| image.relocate_blocks(moves))
    }

    fn truncate(&mut self) -> Result<()> {
        self.act(Self::cut)
    }

    fn disputed_bytes(&self, block: u32) -> Result<Ranges> {
        match self.sparse.table.place(block) {
            Some(place) if !self.is_differencing() => {
                let size = self.sparse.block_size;
                let bits = self.bitmaps.get(block, || self.bitmap_at(place))?;
                Ok(bits.own_bytes().gaps(0..size))
            }
            _ => Ok(Ranges::new()),
        }
    }

    fn punchable(&self) -> Result<()> {
        self.compactable()
    }

    fn place(&self, at: u64) -> Option<Range<u64>> {
        let size = self.sparse.block_size;
        let place = self.sparse.table.place(u32::try_from(at / size).ok()?)?;
        let data = place + self.sparse.bitmap_len;
        Some(data + at % size..data + size)
    }

    fn punch(&mut self, ranges: &[Range<u64>]) -> Result<()> {
        self.punchable()?;
        let places = holes::places(self, ranges)?;
        self.act(|image| holes::punch(&*image.file, places))
    }

    fn writable(&self) -> Result<()> {
        if self.is_differencing() && self.parent.is_none() {
            return Err(without_parent());
        }
        if self.footer.is_tapdisk() && self.footer.creator_version.get() <= 1 {
            return Err(wrong_type(
                "an image of tapdisk 0.1, whose sector bitmaps have their bits in another \
                 order: have its own tools convert it",
            ));
        }
        self.settled()
    }

    fn file_len_with(&self, blocks: u64, _: u64) -> Result<u64> {
        self.len_with(blocks)
    }

    fn write(&mut self, writes: &[GuestWrite]) -> Result<()> {
        self.writable()?;
        check_writes(writes, self.virtual_size)?;
        self.bitmaps.forget();
        self.act(|image| image.write_sectors(writes))
    }

    fn still_exclusive(&self) -> Result<()> {
        self.file.still_exclusive()?;
        self.parent.as_ref().map_or(Ok(()), |parent| parent.still_exclusive())
    }
}

fn no_bitmap() -> Error {
    Error::new(Kind::Unexpected, "the sector bitmaps of a VHD move with their blocks")
}

/// Whether the image keeps its blocks' data on multiples of 4 KiB.
fn is_aligned(sparse: &Sparse) -> bool {
    sparse
        .table
        .allocated()
        .all(|(_, place)| (place + sparse.bitmap_len).is_multiple_of(ALIGNMENT))
}
