//! Writing to an image: sectors in place, new blocks behind the last one.
//!
//! 1. Data goes to blocks that have it already, and to sectors that are not shown yet.
//!    Other blocks are written whole, zeros around the data: where no entry points, or to
//!    the place that an entry has kept of a block that was given up. New sector bitmaps are
//!    written whole; flush.
//! 2. The table names the new sector bitmaps, through the log.
//! 3. The bits of what was written, through the log, in bitmaps that were there before.
//! 4. The table shows the blocks, through the log.
//!
//! Each step is durable before the next one. Bits follow their data; the bits of a block
//! that was not present mean nothing until the table says that it is partially present,
//! and may be left from a time when it was, so all of them are written. A kept place may
//! be used again because one entry alone names it, and that one says that the block reads
//! as zeros whatever lies there, until its new state is durable, and the data before it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::VhdxDisk;
use crate::error::{Error, Kind, Result};
use crate::image::parent::without_parent;
use crate::image::vhdx::bat::{BIT_ORDER, BITMAP_PRESENT, Entry, Owner, State};
use crate::image::vhdx::log::LAST_OFFSET;
use crate::image::vhdx::log::overlay::write_zeros;
use crate::image::vhdx::log::writer::MOST_PAGES;
use crate::image::vhdx::raw::{MIB, PAGE};
use crate::image::{GuestWrite, Piece, parts_in_blocks, wrong_type};
use crate::storage::{ReadAt, Storage};

/// One block that is written to.
struct Touched<'a> {
    block: u32,
    /// What the table says of it.
    before: Entry,
    /// What it is going to say.
    after: Entry,
    /// Offsets from the start of the block, and the bytes that go there.
    parts: Vec<(u64, &'a [u8])>,
    /// All its bits in the sector bitmap, where they change.
    bits: Option<Vec<u8>>,
}

impl VhdxDisk {
    /// Fails unless the guest's bytes can be written.
    pub(super) fn may_be_written(&self) -> Result<()> {
        if self.is_differencing() && self.parent.is_none() {
            return Err(without_parent());
        }
        self.loggable()?;
        let data = self.structures.bat.placed().filter(|(_, entry)| entry.has_data());
        if self.is_fixed() && (data.count() as u64) < u64::from(self.blocks()) {
            // Programs disagree on those, and whoever merges would have to ask for each.
            return Err(wrong_type(
                "a fixed VHDX in which some blocks hold no data, for they were given up: \
                 convert it to a dynamic one first, or have `merge --to NEW` make a disk of \
                 its own",
            ));
        }
        Ok(())
    }

    /// Where the last block or structure of the file ends.
    pub(super) fn end_of_data(&self) -> u64 {
        let len_of = |piece| match piece {
            Piece::Block(_) => self.block_size(),
            Piece::Bitmap(_) => MIB,
        };
        let pieces = self.structures.bat.pieces();
        let pieces = pieces.map(|at| at.place.saturating_add(len_of(at.piece)));
        let reserved = self.structures.reserved.iter().map(|range| range.end);
        pieces.chain(reserved).max().unwrap_or(0)
    }

    pub(super) fn len_with(&self, blocks: u64, bitmaps: u64) -> Result<u64> {
        let more = blocks
            .checked_mul(self.block_size())
            .and_then(|more| more.checked_add(bitmaps.checked_mul(MIB)?));
        let end = more
            .and_then(|more| more.checked_add(self.end_of_data().next_multiple_of(MIB)))
            .filter(|end| *end <= LAST_OFFSET)
            .ok_or_else(too_far)?;
        // A fixed image is not cut; where it ends in the middle of a MiB it grows.
        let now = self.seen().len().next_multiple_of(MIB);
        Ok(if self.is_fixed() { end.max(now) } else { end })
    }

    /// The chunk whose sector bitmap must be made when `block` is written to.
    ///
    /// It comes even with a block that is written whole and has no need of it: so what is
    /// added to the file does not depend on how the writes are put together.
    pub(super) fn bitmap_to_add(&self, block: u32) -> Option<u32> {
        let bat = &self.structures.bat;
        let chunk = bat.chunk(block);
        let shows_parent = self.is_differencing()
            && block < self.blocks()
            && bat.entry(block).state() == Some(State::NotPresent);
        (shows_parent && bat.bitmap(chunk).raw_state() != BITMAP_PRESENT).then_some(chunk)
    }

    /// Writes sectors, as [`Image::write`](crate::image::Image::write) says.
    pub(super) fn write_sectors(&mut self, writes: &[GuestWrite]) -> Result<()> {
        self.begin()?;
        let writes = self.in_whole_sectors(writes)?;
        let old_len = self.file.len();
        let mut end = self.end_of_data().next_multiple_of(MIB);
        let mut touched = self.blocks_of(&writes);
        // Bitmaps come first, in the file as in the table: so a run that was cut short
        // between the two leaves no hole.
        let mut bitmaps: BTreeMap<u32, u64> = BTreeMap::new();
        for block in &touched {
            if let Some(chunk) = self.bitmap_to_add(block.block)
                && !bitmaps.contains_key(&chunk)
            {
                bitmaps.insert(chunk, end);
                end += MIB;
            }
        }
        for block in &mut touched {
            if !block.before.has_place() {
                block.after = block.after.at(end);
                end += self.block_size();
            }
        }
        if end > LAST_OFFSET {
            return Err(too_far());
        }
        // Whatever has to be read is read before anything is written.
        self.set_bits(&mut touched)?;
        let pages = self.bitmap_pages(&touched, &bitmaps)?;

        if end > old_len {
            self.file.set_len(end)?;
        }
        for block in &touched {
            self.write_block(block, old_len)?;
        }
        for (chunk, place) in &bitmaps {
            write_zeros(&*self.file, *place..(place + MIB).min(old_len))?;
            for block in &touched {
                if let Some(bits) = &block.bits
                    && self.structures.bat.chunk(block.block) == *chunk
                {
                    self.file.write_at(place + self.bits_at(block.block), bits)?;
                }
            }
        }
        self.file.flush()?;

        let named = bitmaps
            .iter()
            .map(|(chunk, place)| (Owner::Bitmap(*chunk), Entry::BITMAP.at(*place)));
        self.set_entries(&named.collect::<Vec<_>>())?;
        for batch in pages.chunks(MOST_PAGES) {
            let batch: Vec<(u64, Cow<'_, [u8]>)> =
                batch.iter().map(|(at, page)| (*at, page.into())).collect();
            self.write_logged(&batch)?;
        }
        self.bitmaps.forget();
        let shown = touched
            .iter()
            .filter(|block| block.before != block.after)
            .map(|block| (Owner::Block(block.block), block.after));
        self.set_entries(&shown.collect::<Vec<_>>())
    }

    /// The writes in whole logical sectors, what lies around them as it is.
    fn in_whole_sectors<'a>(
        &self,
        writes: &'a [GuestWrite],
    ) -> Result<Cow<'a, [GuestWrite]>> {
        let sector = u64::from(self.structures.metadata.logical_sector);
        let whole = |write: &GuestWrite| {
            write.offset.is_multiple_of(sector) && write.end().is_multiple_of(sector)
        };
        if writes.iter().all(whole) {
            return Ok(Cow::Borrowed(writes));
        }
        let mut wide: Vec<GuestWrite> = Vec::new();
        for write in writes {
            let start = write.offset / sector * sector;
            // The disk has whole sectors.
            let end = write.end().next_multiple_of(sector);
            if wide.last().is_none_or(|last| last.end() <= start) {
                wide.push(GuestWrite { offset: start, data: Vec::new() });
            }
            let Some(last) = wide.last_mut() else { continue };
            let from = last.end();
            let mut around = vec![0; usize::try_from(end - from).unwrap_or(0)];
            self.read_through(from, &mut around)?;
            last.data.append(&mut around);
            let within = usize::try_from(write.offset - last.offset).unwrap_or(0);
            if let Some(to) =
                last.data.get_mut(within..).and_then(|to| to.get_mut(..write.data.len()))
            {
                to.copy_from_slice(&write.data);
            }
        }
        Ok(Cow::Owned(wide))
    }

    /// The blocks that `writes` go to, in ascending order; what becomes of each, new
    /// places left out.
    fn blocks_of<'a>(&self, writes: &'a [GuestWrite]) -> Vec<Touched<'a>> {
        let mut touched: Vec<Touched<'a>> = Vec::new();
        for (block, within, part) in parts_in_blocks(writes, self.block_size()) {
            match touched.last_mut().filter(|last| last.block == block) {
                Some(last) => last.parts.push((within, part)),
                None => {
                    let before = self.structures.bat.entry(block);
                    let after = match before.state() {
                        Some(State::Fully) => before,
                        _ => Entry::FULLY.at(before.place()),
                    };
                    let parts = vec![(within, part)];
                    touched.push(Touched { block, before, after, parts, bits: None });
                }
            }
        }
        touched
    }

    /// Sets the bits of what is written in blocks that the parent has a part in, and
    /// calls those partially present that are not here as a whole.
    fn set_bits(&self, touched: &mut [Touched<'_>]) -> Result<()> {
        let sector = u64::from(self.structures.metadata.logical_sector);
        let len = usize::try_from(self.bits_len()).unwrap_or(0);
        for block in touched {
            let mut bits = match block.before.state() {
                Some(State::Partially) => self.bitmap(block.block)?.bytes().to_vec(),
                Some(State::NotPresent) if self.is_differencing() => vec![0; len],
                _ => continue,
            };
            for (start, bytes) in &block.parts {
                let end = start + bytes.len() as u64;
                BIT_ORDER.set(&mut bits, start / sector..end / sector);
            }
            if bits.iter().any(|byte| *byte != 0xFF) {
                block.after = Entry::PARTIALLY.at(block.after.place());
            }
            block.bits = Some(bits);
        }
        Ok(())
    }

    /// How many bytes of a sector bitmap are of one block: 32 at least, for the smallest
    /// block has 256 of the largest sectors.
    pub(super) fn bits_len(&self) -> u64 {
        self.block_size() / u64::from(self.structures.metadata.logical_sector) / 8
    }

    /// Where in its sector bitmap the bits of a block lie.
    pub(super) fn bits_at(&self, block: u32) -> u64 {
        u64::from(self.structures.bat.within_chunk(block)) * self.bits_len()
    }

    /// The pages of sector bitmaps that are there already and change.
    fn bitmap_pages(
        &self,
        touched: &[Touched<'_>],
        new: &BTreeMap<u32, u64>,
    ) -> Result<Vec<(u64, Vec<u8>)>> {
        let bat = &self.structures.bat;
        let mut pages = BTreeMap::new();
        for block in touched {
            let chunk = bat.chunk(block.block);
            let Some(bits) = &block.bits else { continue };
            if !new.contains_key(&chunk) {
                let at = bat.bitmap(chunk).place() + self.bits_at(block.block);
                self.lay(&mut pages, at, bits)?;
            }
        }
        let mut page = vec![0; usize::try_from(PAGE).unwrap_or(0)];
        let mut changed = Vec::new();
        for (at, new) in pages {
            self.seen().read_at(at, &mut page)?;
            if page != new {
                changed.push((at, new));
            }
        }
        Ok(changed)
    }

    /// Writes the data of a block, and zeros around it where the table does not show it
    /// yet. Behind `old_len` the file has none but zeros.
    fn write_block(&self, block: &Touched<'_>, old_len: u64) -> Result<()> {
        let place = block.after.place();
        if !block.before.has_data() {
            let end = (place + self.block_size()).min(old_len);
            write_zeros(&*self.file, place..end)?;
        }
        for (within, bytes) in &block.parts {
            self.file.write_at(place + within, bytes)?;
        }
        Ok(())
    }
}

fn too_far() -> Error {
    Error::new(
        Kind::DiskTooLarge,
        "a block would lie beyond 128 TiB, farther than any VHDX needs",
    )
}
