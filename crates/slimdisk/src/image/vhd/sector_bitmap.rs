//! The bitmap in front of each block's data: one bit a sector, most significant
//! first. In a dynamic disk 1 says "written", 0 "never written"; in a differencing
//! one 1 says that the sector is here, 0 that it is the parent's.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::inspect::Sparse;
use super::raw::SECTOR;
use crate::error::{Error, Result};
use crate::image::check::{Finding, Severity};
use crate::ranges::Ranges;
use crate::storage::ReadAt;

/// Looks, in a dynamic disk, for sectors that are marked as never written and
/// hold data all the same. Programs disagree on what the guest sees there, which
/// is why such data is never given up; it is told as a note.
pub fn check(
    file: &dyn ReadAt,
    sparse: &Sparse,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    const ENOUGH: usize = 16;
    let before = findings.len();
    let mut bitmap = vec![0; usize::try_from(sparse.bitmap_len).unwrap_or(0)];
    let sectors = sparse.block_size / SECTOR;
    for extent in sparse.table.extents() {
        let Some(block) = extent.piece.block() else { continue };
        file.read_at(extent.place, &mut bitmap)?;
        if bitmap.iter().all(|byte| *byte == 0xFF) {
            continue;
        }
        for sector in 0..sectors {
            let bit = 0x80u8 >> (sector % 8);
            let byte =
                usize::try_from(sector / 8).ok().and_then(|index| bitmap.get(index));
            if byte.is_none_or(|byte| byte & bit != 0) {
                continue;
            }
            let offset = extent.place + sparse.bitmap_len + sector * SECTOR;
            let mut data = [0; 512];
            file.read_at(offset, &mut data)?;
            if data.iter().any(|byte| *byte != 0) {
                findings.push(Finding::new(
                    Severity::Note,
                    format!("sector {sector} of block {block}"),
                    offset,
                    "zeros, for its bit in the sector bitmap is clear",
                    "data",
                ));
                if findings.len() - before >= ENOUGH {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// How many bytes of bitmaps are held in memory for an image: enough for some GiB of
/// disk in blocks of 2 MiB.
const HELD: u64 = 1 << 20;

/// What it takes to hold one, beside its bytes.
const HOLDING: u64 = 128;

/// The bitmaps of a differencing image that were read last.
#[derive(Default)]
pub struct SectorBitmaps(Mutex<HashMap<u32, SectorBitmap>>);

impl SectorBitmaps {
    /// The bitmap of a block that lies at `place`. `agrees` says whether it fits what
    /// else the image says of the block.
    pub fn get(
        &self,
        file: &dyn ReadAt,
        block: u32,
        place: u64,
        block_size: u64,
        agrees: impl FnOnce(&SectorBitmap) -> bool,
    ) -> Result<SectorBitmap> {
        let held = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bitmap) = held().get(&block) {
            return Ok(bitmap.clone());
        }
        let len = block_size / SECTOR / 8;
        let mut bits = vec![0; usize::try_from(len).unwrap_or(0)];
        file.read_at(place, &mut bits)?;
        let bitmap = SectorBitmap(bits.into());
        if !agrees(&bitmap) {
            return Err(Error::invalid(format!(
                "the batmap says that all sectors of block {block} are here, its sector \
                 bitmap says that some are the parent's"
            ))
            .at(place));
        }
        let mut held = held();
        if held.len() as u64 >= HELD / (len + HOLDING) {
            held.clear();
        }
        held.insert(block, bitmap.clone());
        Ok(bitmap)
    }

    /// Forgets what was read of blocks that are no more.
    pub fn forget(&mut self) {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The bitmap of one block of a differencing image.
#[derive(Clone)]
pub struct SectorBitmap(Arc<[u8]>);

impl SectorBitmap {
    fn sectors(&self) -> u64 {
        self.0.len() as u64 * 8
    }

    fn byte(&self, sector: u64) -> u8 {
        usize::try_from(sector / 8)
            .ok()
            .and_then(|index| self.0.get(index))
            .copied()
            .unwrap_or_default()
    }

    /// Whether a sector is here.
    fn holds(&self, sector: u64) -> bool {
        self.byte(sector) & (0x80 >> (sector % 8)) != 0
    }

    /// Whether all sectors are here (`true`), or none is (`false`).
    pub fn uniform(&self) -> Option<bool> {
        match self.0.first()? {
            first @ (0 | 0xFF) if self.0.iter().all(|byte| byte == first) => {
                Some(*first != 0)
            }
            _ => None,
        }
    }

    /// Whether the byte `at` of the block is here, and where that ends.
    pub fn run(&self, at: u64) -> (bool, u64) {
        let first = at / SECTOR;
        let here = self.holds(first);
        let alike = if here { 0xFF } else { 0 };
        let mut sector = first + 1;
        while sector < self.sectors() {
            if sector.is_multiple_of(8) && self.byte(sector) == alike {
                sector += 8;
            } else if self.holds(sector) == here {
                sector += 1;
            } else {
                break;
            }
        }
        (here, sector * SECTOR)
    }

    /// The bytes of the block that are here.
    pub fn own_bytes(&self) -> Ranges {
        let mut own = Ranges::new();
        let end = self.sectors() * SECTOR;
        let mut at = 0;
        while at < end {
            let (here, upto) = self.run(at);
            if here {
                own.insert(Range { start: at, end: upto });
            }
            at = upto;
        }
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_sectors_from_the_most_significant_on() {
        let bitmap = SectorBitmap(vec![0b1000_0001, 0xFF, 0, 0b0000_0001].into());
        let own: Vec<_> = bitmap.own_bytes().iter().collect();
        assert_eq!(own, [0..512, 7 * 512..16 * 512, 31 * 512..32 * 512]);
        assert_eq!(bitmap.run(0), (true, 512));
        assert_eq!(bitmap.run(513), (false, 7 * 512));
        assert_eq!(bitmap.run(8 * 512), (true, 16 * 512));
        assert_eq!(bitmap.run(20 * 512), (false, 31 * 512));
        assert_eq!(bitmap.run(31 * 512 + 511), (true, 32 * 512));
        assert_eq!(bitmap.uniform(), None);
        assert_eq!(SectorBitmap(vec![0xFF; 4].into()).uniform(), Some(true));
        assert_eq!(SectorBitmap(vec![0; 4].into()).uniform(), Some(false));
        assert_eq!(SectorBitmap(vec![0x0F; 4].into()).uniform(), None);
    }

    #[test]
    fn bitmaps_are_held_up_to_a_limit_and_forgotten_on_request() {
        use crate::storage::{Meter, ReadAt as _};
        // Blocks of 2 MiB: 512 bytes each, number n begins with the byte n.
        let mut file = vec![0; 4000 * 512];
        for (block, bitmap) in file.chunks_mut(512).enumerate() {
            bitmap[..2].copy_from_slice(&u16::try_from(block).unwrap().to_be_bytes());
        }
        let file = Meter::new(file);
        let mut bitmaps = SectorBitmaps::default();
        let get = |bitmaps: &SectorBitmaps, block: u32| {
            let place = u64::from(block) * 512;
            let found = bitmaps.get(&file, block, place, 2 << 20, |_| true).unwrap();
            assert_eq!(found.0.len(), 512);
            u32::from(found.0[0]) << 8 | u32::from(found.0[1])
        };
        let most = usize::try_from(HELD / (512 + HOLDING)).unwrap();
        let mut longest = 0;
        for block in 0..4000 {
            assert_eq!(get(&bitmaps, block), block);
            longest = longest.max(bitmaps.0.lock().unwrap().len());
        }
        assert_eq!(longest, most);
        let read = || file.counts().bytes_read;
        let before = read();
        assert_eq!(get(&bitmaps, 3999), 3999);
        assert_eq!(read(), before);
        bitmaps.forget();
        assert_eq!(get(&bitmaps, 3999), 3999);
        assert_eq!(read(), before + 512);
        assert_eq!(file.len(), 4000 * 512);

        // What does not agree is not held either.
        let refuse = bitmaps.get(&file, 7, 7 * 512, 2 << 20, |_| false);
        assert!(refuse.is_err());
        assert_eq!(get(&bitmaps, 7), 7);
    }
}
