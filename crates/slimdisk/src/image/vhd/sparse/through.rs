//! Reading a differencing image: each sector from here or, where its bit is clear, from
//! the parent behind it.

use std::ops::Range;

use super::SparseVhd;
use crate::error::{Error, Result};
use crate::image::parent::without_parent;
use crate::image::read_padded;
use crate::image::sector_bitmap::SectorBitmap;
use crate::image::vhd::raw::SECTOR;
use crate::image::vhd::sector_bitmap::BIT_ORDER;
use crate::storage::{ReadAt, Section};

impl SparseVhd {
    /// The bitmap of a block that lies at `place`.
    pub(super) fn bitmap(&self, block: u32, place: u64) -> Result<SectorBitmap> {
        self.bitmaps.get(block, || {
            let bitmap = self.bitmap_at(place)?;
            // Tapdisk reads no bitmap of a block that the batmap calls full.
            if let Some(batmap) = &self.sparse.batmap
                && batmap.claims(block)
                && batmap.is_sound()
                && bitmap.uniform() != Some(true)
            {
                return Err(Error::invalid(format!(
                    "the batmap says that all sectors of block {block} are here, its \
                     sector bitmap says that some are the parent's"
                ))
                .at(place));
            }
            Ok(bitmap)
        })
    }

    /// What the bitmap at `place` says, whatever else is said of its block.
    pub(super) fn bitmap_at(&self, place: u64) -> Result<SectorBitmap> {
        let len = self.sparse.block_size / SECTOR / 8;
        let mut bits = vec![0; usize::try_from(len).unwrap_or(0)];
        self.file.read_at(place, &mut bits)?;
        Ok(SectorBitmap::new(bits, BIT_ORDER, SECTOR))
    }

    /// Where the byte `at` of the disk comes from (its place in this file, or `None`
    /// for the parent), and how far up to `end` all that follows comes from there.
    fn run_at(&self, at: u64, end: u64) -> Result<(Option<u64>, u64)> {
        let size = self.sparse.block_size;
        let mut pos = at;
        while pos < end {
            let start = pos / size * size;
            let stop = (start + size).min(end);
            let block = u32::try_from(pos / size).unwrap_or(u32::MAX);
            if let Some(place) = self.sparse.table.place(block) {
                let (here, upto) = self.bitmap(block, place)?.run(pos - start);
                let upto = (start + upto).min(stop);
                match (here, pos == at) {
                    (true, true) => {
                        let data = place + self.sparse.bitmap_len + (pos - start);
                        return Ok((Some(data), upto));
                    }
                    (true, false) => return Ok((None, pos)),
                    (false, _) if upto < stop => return Ok((None, upto)),
                    (false, _) => {}
                }
            }
            pos = stop;
        }
        Ok((None, pos))
    }

    /// Reads up to the end of the last block. Behind the parent's end there is nothing
    /// but zeros.
    pub(super) fn read_through(&self, mut at: u64, mut buf: &mut [u8]) -> Result<()> {
        let parent = self.parent.as_ref().ok_or_else(without_parent)?;
        while !buf.is_empty() {
            let (own, end) = self.run_at(at, at + buf.len() as u64)?;
            let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(buf.len());
            let (part, rest) = buf.split_at_mut(len);
            match own {
                Some(place) => self.file.read_at(place, part)?,
                None => read_padded(parent, at, part)?,
            }
            buf = rest;
            at = end;
        }
        Ok(())
    }

    pub(super) fn next_data_through(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let parent = self.parent.as_ref().ok_or_else(without_parent)?;
        let size = self.sparse.block_size;
        let mut at = offset;
        while at < self.virtual_size {
            let start = at / size * size;
            let mut end = (start + size).min(self.virtual_size);
            let block = u32::try_from(at / size).unwrap_or(u32::MAX);
            let here = match self.sparse.table.place(block) {
                None => {
                    end = self.run_at(at, self.virtual_size)?.1;
                    None
                }
                Some(place) => match self.bitmap(block, place)?.uniform() {
                    // Some of each: not worth asking twice for each of its parts.
                    None => return Ok(Some(at..end)),
                    Some(true) => Some(place + self.sparse.bitmap_len + (at - start)),
                    Some(false) => None,
                },
            };
            let found = match here {
                Some(data) => Section::new(&self.file, data..data + (end - at))
                    .next_data(0)?
                    .map(|found| at + found.start..at + found.end),
                None if at < parent.len() => parent.next_data(at)?,
                None => None,
            };
            if let Some(found) = found
                && found.start < end
            {
                return Ok(Some(found.start.max(at)..found.end.min(end)));
            }
            at = end;
        }
        Ok(None)
    }
}
