//! Writing to an expanding image: sectors in place, new blocks behind the last one.
//!
//! ```text
//! before   ... | bitmap + block | footer
//! grown    ... | bitmap + block | footer (old) ......................... | footer
//! after    ... | bitmap + block | bitmap + block | bitmap + block | .... | footer
//! ```
//!
//! 1. The file grows: the footer is written at its new end; flush. Where the power goes
//!    before that, the file may be longer already and end in zeros; the copy of the
//!    footer at the start stands, and is mended first if it is damaged.
//! 2. Data of blocks that have a place goes there. New blocks are written whole, bitmap
//!    and data, where nothing but the old footer lies; flush.
//! 3. Sector bits of what was written, and the table with the new places; flush.
//!
//! Bits follow their data so that a reader who goes by them never sees what lay there
//! before: junk, in a differencing image, that nobody was meant to see again.

use super::SparseVhd;
use crate::error::{Error, Kind, Result};
use crate::image::vhd::raw::{FOOTER_LEN, Footer, SECTOR, UNUSED};
use crate::image::vhd::sector_bitmap::BIT_ORDER;
use crate::image::{Extent, GuestWrite, Layout, Piece, parts_in_blocks};
use crate::storage::read_struct;
use zerocopy::IntoBytes;

/// How much of a new block is put together at once.
const PIECE: u64 = 1 << 20;

/// One block that is written to.
struct Touched<'a> {
    block: u32,
    place: u64,
    /// It gets its place only now.
    is_new: bool,
    /// Offsets from the start of the block, and the bytes that go there.
    parts: Vec<(u64, &'a [u8])>,
}

impl SparseVhd {
    /// The layout as far as the last block counts.
    fn layout_of_end(&self) -> Layout {
        let last = self.sparse.table.allocated().max_by_key(|(_, place)| *place);
        let last =
            last.map(|(block, place)| Extent { place, piece: Piece::Block(block) });
        self.layout_of(last.into_iter().collect())
    }

    pub(super) fn len_with(&self, blocks: u64) -> Result<u64> {
        let layout = self.layout_of_end();
        let end = layout.end_of_data();
        let Some(more) = blocks.checked_sub(1) else {
            return Ok(layout.file_len_after(end).min(layout.file_len));
        };
        let first = layout.place_from(end);
        let stride = layout.place_from(first + layout.extent_len) - first;
        let last = more.checked_mul(stride).and_then(|more| more.checked_add(first));
        let last = last.filter(|last| sector_of(*last).is_some()).ok_or_else(too_far)?;
        Ok(layout.file_len_after(last + layout.extent_len))
    }

    /// Writes sectors, as [`Image::write`](crate::image::Image::write) says.
    pub(super) fn write_sectors(&mut self, writes: &[GuestWrite]) -> Result<()> {
        let layout = self.layout_of_end();
        let mut end = layout.end_of_data();
        let mut touched = self.blocks_of(writes);
        let mut named = Vec::new();
        for new in touched.iter_mut().filter(|touched| touched.is_new) {
            new.place = layout.place_from(end);
            end = new.place + layout.extent_len;
            let sector = sector_of(new.place).ok_or_else(too_far)?;
            named.push((new.block, Some(sector)));
        }
        // All bitmaps are read before anything is written.
        let mut bitmaps = Vec::new();
        for old in touched.iter().filter(|touched| !touched.is_new) {
            bitmaps.extend(self.bitmap_with(old)?.map(|bits| (old.place, bits)));
        }
        if !named.is_empty() {
            self.grow(layout.file_len_after(end), layout.end_modulus)?;
            self.disclaim(&named)?;
        }
        for touched in &touched {
            if touched.is_new {
                self.write_new(touched)?;
            } else {
                let data = touched.place + self.sparse.bitmap_len;
                for (within, bytes) in &touched.parts {
                    self.file.write_at(data + within, bytes)?;
                }
            }
        }
        self.file.flush()?;
        if bitmaps.is_empty() && named.is_empty() {
            return Ok(());
        }
        for (place, bits) in &bitmaps {
            self.file.write_at(*place, bits)?;
        }
        self.sparse.table.set(&*self.file, &named)?;
        self.file.flush()
    }

    /// The blocks that `writes` go to, in ascending order; new ones without a place yet.
    fn blocks_of<'a>(&self, writes: &'a [GuestWrite]) -> Vec<Touched<'a>> {
        let mut touched: Vec<Touched<'a>> = Vec::new();
        for (block, within, part) in parts_in_blocks(writes, self.sparse.block_size) {
            match touched.last_mut().filter(|last| last.block == block) {
                Some(last) => last.parts.push((within, part)),
                None => {
                    let place = self.sparse.table.place(block);
                    touched.push(Touched {
                        block,
                        place: place.unwrap_or_default(),
                        is_new: place.is_none(),
                        parts: vec![(within, part)],
                    });
                }
            }
        }
        touched
    }

    /// The sector bitmap of a block that has a place, with the bits of what is written
    /// set; `None` if they are set already.
    fn bitmap_with(&self, touched: &Touched<'_>) -> Result<Option<Vec<u8>>> {
        let mut bits = vec![0; usize::try_from(self.sparse.bitmap_len).unwrap_or(0)];
        self.file.read_at(touched.place, &mut bits)?;
        let before = bits.clone();
        set_bits(&mut bits, &touched.parts);
        Ok((bits != before).then_some(bits))
    }

    /// Makes the file `len` bytes long, with a footer at its end, unless it is that long
    /// already and ends in one.
    fn grow(&mut self, len: u64, modulus: u64) -> Result<()> {
        if len <= self.file.len() && self.trailing.is_some() {
            return Ok(());
        }
        // The copy is all there is for a while, so it must be the same.
        let leading: Footer = read_struct(&self.file, 0)?;
        self.leading_sound &= leading == self.footer;
        self.restore_leading()?;
        let len = len.max(self.file.len().next_multiple_of(modulus));
        self.file.write_at(len - FOOTER_LEN, self.footer.as_bytes())?;
        self.file.flush()?;
        self.trailing = Some(len - FOOTER_LEN);
        Ok(())
    }

    /// Takes back what the batmap says of blocks that are yet to come; durable with the
    /// data. A clear bit is always right.
    fn disclaim(&mut self, named: &[(u32, Option<u32>)]) -> Result<()> {
        let Some(batmap) = &mut self.sparse.batmap else { return Ok(()) };
        let claimed: Vec<u32> =
            named.iter().map(|(block, _)| *block).filter(|b| batmap.claims(*b)).collect();
        if claimed.is_empty() {
            return Ok(());
        }
        batmap.clear(&*self.file, &claimed)
    }

    /// Writes a block that no table names yet, zeros where nothing is written to.
    ///
    /// In a dynamic image all bits are set, as all programs in use set them: what goes
    /// by the bits and what does not then agree on the whole block, also after somebody
    /// has written to it without a look at them. In a differencing one a bit says whose
    /// the sector is.
    fn write_new(&self, new: &Touched<'_>) -> Result<()> {
        let size = self.sparse.block_size;
        let sectors = usize::try_from(size / SECTOR / 8).unwrap_or(0);
        let mut bits = vec![0; usize::try_from(self.sparse.bitmap_len).unwrap_or(0)];
        if self.is_differencing() {
            set_bits(&mut bits, &new.parts);
        } else {
            bits.iter_mut().take(sectors).for_each(|byte| *byte = 0xFF);
        }
        self.file.write_at(new.place, &bits)?;
        let data = new.place + self.sparse.bitmap_len;
        let mut piece = vec![0; usize::try_from(size.min(PIECE)).unwrap_or(0)];
        let mut parts = new.parts.iter().copied().peekable();
        let mut at = 0;
        while at < size {
            let end = at + piece.len() as u64;
            piece.fill(0);
            while let Some((start, bytes)) = parts.peek_mut()
                && *start < end
            {
                let room = usize::try_from(end - *start).unwrap_or(usize::MAX);
                let (now, later) = bytes.split_at(room.min(bytes.len()));
                let within = usize::try_from(*start - at).unwrap_or(usize::MAX);
                if let Some(to) =
                    piece.get_mut(within..).and_then(|rest| rest.get_mut(..now.len()))
                {
                    to.copy_from_slice(now);
                }
                (*start, *bytes) = (*start + now.len() as u64, later);
                if later.is_empty() {
                    parts.next();
                }
            }
            self.file.write_at(data + at, &piece)?;
            at = end;
        }
        Ok(())
    }
}

/// Sets the bits of all sectors that `parts` of a block touch.
fn set_bits(bits: &mut [u8], parts: &[(u64, &[u8])]) {
    for (start, bytes) in parts {
        let end = (start + bytes.len() as u64).div_ceil(SECTOR);
        BIT_ORDER.set(bits, start / SECTOR..end);
    }
}

/// What the table calls a place.
fn sector_of(place: u64) -> Option<u32> {
    u32::try_from(place / SECTOR).ok().filter(|sector| *sector != UNUSED)
}

fn too_far() -> Error {
    Error::new(
        Kind::DiskTooLarge,
        "a block would lie beyond 2 TiB, which is as far as a VHD can name",
    )
}
