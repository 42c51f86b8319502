//! The block allocation table: for each block of the disk the sector where its
//! bitmap and data begin, or nothing.

use zerocopy::IntoBytes;
use zerocopy::big_endian::U32;

use super::raw::{SECTOR, UNUSED};
use crate::error::Result;
use crate::image::{Extent, Piece};
use crate::storage::{ReadAt, Storage};

/// Table entries in one sector, the unit in which the table is written.
const PER_SECTOR: usize = 128;

pub struct BlockTable {
    /// Where the table lies in the file, in bytes.
    offset: u64,
    /// The entries and, up to the end of their last sector, what follows them.
    sectors: Vec<[U32; PER_SECTOR]>,
    /// How many entries count.
    len: u32,
}

impl BlockTable {
    pub fn read(file: &dyn ReadAt, offset: u64, len: u32) -> Result<Self> {
        let count = (len as usize).div_ceil(PER_SECTOR);
        let mut sectors = vec![[U32::new(UNUSED); PER_SECTOR]; count];
        file.read_at(offset, sectors.as_mut_bytes())?;
        Ok(BlockTable { offset, sectors, len })
    }

    /// A table in which no block has a place.
    pub fn empty(offset: u64, len: u32) -> Self {
        let count = (len as usize).div_ceil(PER_SECTOR);
        BlockTable { offset, sectors: vec![[U32::new(UNUSED); PER_SECTOR]; count], len }
    }

    /// Enters the place of a block, in sectors; nothing is written yet.
    pub fn enter(&mut self, block: u32, place: u32) {
        let (sector, entry) = split(block);
        if let Some(slot) = self.sectors.get_mut(sector).and_then(|s| s.get_mut(entry)) {
            slot.set(place);
        }
    }

    /// Writes all of it.
    pub fn write(&self, file: &dyn Storage) -> Result<()> {
        file.write_at(self.offset, self.sectors.as_bytes())
    }

    pub fn len(&self) -> u32 {
        self.len
    }

    /// Where the table's padded bytes end in the file.
    pub fn end(&self) -> u64 {
        self.offset + self.sectors.len() as u64 * SECTOR
    }

    /// The place of a block, in bytes.
    pub fn place(&self, block: u32) -> Option<u64> {
        let (sector, entry) = split(block);
        let found = self.sectors.get(sector)?.get(entry)?.get();
        (block < self.len && found != UNUSED).then_some(u64::from(found) * SECTOR)
    }

    /// All blocks that have a place.
    pub fn allocated(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        (0..self.len).filter_map(|block| Some((block, self.place(block)?)))
    }

    /// The blocks that have a place, by place.
    pub fn extents(&self) -> Vec<Extent> {
        let mut extents = Vec::with_capacity(self.allocated().count());
        let extent = |(block, place)| Extent { place, piece: Piece::Block(block) };
        extents.extend(self.allocated().map(extent));
        extents.sort_unstable_by_key(|extent| extent.place);
        extents
    }

    /// Sets entries (`None` takes the place away) and writes the sectors they are
    /// in, neighbours in one go. The rest of such a sector is written as it was,
    /// so a torn write leaves every entry either old or new.
    pub fn set(
        &mut self,
        file: &dyn Storage,
        changes: &[(u32, Option<u32>)],
    ) -> Result<()> {
        let mut dirty: Vec<usize> = Vec::new();
        for (block, sector) in changes {
            let (index, entry) = split(*block);
            if let Some(slot) = self.sectors.get_mut(index).and_then(|s| s.get_mut(entry))
            {
                slot.set(sector.unwrap_or(UNUSED));
                dirty.push(index);
            }
        }
        dirty.sort_unstable();
        dirty.dedup();
        for run in dirty.chunk_by(|a, b| a + 1 == *b) {
            if let (Some(first), Some(last)) = (run.first(), run.last())
                && let Some(sectors) = self.sectors.get(*first..=*last)
            {
                file.write_at(self.offset + *first as u64 * SECTOR, sectors.as_bytes())?;
            }
        }
        Ok(())
    }
}

fn split(block: u32) -> (usize, usize) {
    (block as usize / PER_SECTOR, block as usize % PER_SECTOR)
}
