//! Sector bitmaps: one bit for each sector of a block. In a differencing image 1 says
//! that the sector is here, 0 that it is the parent's.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::ranges::Ranges;

/// Which bit of a byte is the first of its eight sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitOrder {
    /// The most significant one.
    MostFirst,
    /// The least significant one.
    LeastFirst,
}

impl BitOrder {
    /// The bit of a sector in its byte.
    pub fn bit(self, sector: u64) -> u8 {
        match self {
            BitOrder::MostFirst => 0x80 >> (sector % 8),
            BitOrder::LeastFirst => 1 << (sector % 8),
        }
    }

    /// Sets the bits of `sectors` in the bytes of a bitmap.
    pub fn set(self, bits: &mut [u8], sectors: Range<u64>) {
        for sector in sectors {
            let byte = usize::try_from(sector / 8).ok().and_then(|at| bits.get_mut(at));
            if let Some(byte) = byte {
                *byte |= self.bit(sector);
            }
        }
    }
}

/// How many bytes of bitmaps are held in memory for an image: enough for some GiB of
/// disk in blocks of 2 MiB.
const HELD: u64 = 1 << 20;

/// What it takes to hold one, beside its bytes.
const HOLDING: u64 = 128;

/// The bitmaps of an image that were read last, by block.
#[derive(Default)]
pub struct SectorBitmaps(Mutex<HashMap<u32, SectorBitmap>>);

impl SectorBitmaps {
    /// The bitmap of a block, which `read` reads if it is not held. What `read` refuses
    /// is not held either.
    pub fn get(
        &self,
        block: u32,
        read: impl FnOnce() -> Result<SectorBitmap>,
    ) -> Result<SectorBitmap> {
        let held = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bitmap) = held().get(&block) {
            return Ok(bitmap.clone());
        }
        let bitmap = read()?;
        let len = bitmap.bits.len() as u64;
        let mut held = held();
        if held.len() as u64 >= HELD / (len + HOLDING) {
            held.clear();
        }
        held.insert(block, bitmap.clone());
        Ok(bitmap)
    }

    /// Forgets what was read: blocks are about to change.
    pub fn forget(&mut self) {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The bits of one block.
#[derive(Clone)]
pub struct SectorBitmap {
    bits: Arc<[u8]>,
    order: BitOrder,
    /// Bytes in a sector.
    sector: u64,
}

impl SectorBitmap {
    /// The bitmap of a block whose sectors have `sector` bytes each.
    pub fn new(bits: Vec<u8>, order: BitOrder, sector: u64) -> Self {
        SectorBitmap { bits: bits.into(), order, sector }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bits
    }

    fn sectors(&self) -> u64 {
        self.bits.len() as u64 * 8
    }

    fn byte(&self, sector: u64) -> u8 {
        usize::try_from(sector / 8)
            .ok()
            .and_then(|index| self.bits.get(index))
            .copied()
            .unwrap_or_default()
    }

    /// Whether a sector is here.
    fn holds(&self, sector: u64) -> bool {
        self.byte(sector) & self.order.bit(sector) != 0
    }

    /// Whether all sectors are here (`true`), or none is (`false`).
    pub fn uniform(&self) -> Option<bool> {
        match self.bits.first()? {
            first @ (0 | 0xFF) if self.bits.iter().all(|byte| byte == first) => {
                Some(*first != 0)
            }
            _ => None,
        }
    }

    /// Whether the byte `at` of the block is here, and where that ends.
    pub fn run(&self, at: u64) -> (bool, u64) {
        let first = at / self.sector;
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
        (here, sector * self.sector)
    }

    /// The bytes of the block that are here.
    pub fn own_bytes(&self) -> Ranges {
        let mut own = Ranges::new();
        let end = self.sectors() * self.sector;
        let mut at = 0;
        while at < end {
            let (here, upto) = self.run(at);
            if here {
                own.insert(at..upto);
            }
            at = upto;
        }
        own
    }
}

#[cfg(test)]
mod tests {
    use super::BitOrder::{LeastFirst, MostFirst};
    use super::*;

    #[test]
    fn bits_are_sectors_in_the_order_of_the_format() {
        for (order, last, sector) in [
            (MostFirst, 0b0000_0001, 512),
            (LeastFirst, 0b1000_0000, 512),
            (LeastFirst, 0b1000_0000, 4096),
        ] {
            let bits = vec![0b1000_0001, 0xFF, 0, last];
            let bitmap = SectorBitmap::new(bits, order, sector);
            let own: Vec<_> = bitmap.own_bytes().iter().collect();
            let range = |a: u64, b: u64| a * sector..b * sector;
            assert_eq!(own, [range(0, 1), range(7, 16), range(31, 32)]);
            assert_eq!(bitmap.run(0), (true, sector));
            assert_eq!(bitmap.run(sector + 1), (false, 7 * sector));
            assert_eq!(bitmap.run(8 * sector), (true, 16 * sector));
            assert_eq!(bitmap.run(20 * sector), (false, 31 * sector));
            assert_eq!(bitmap.run(32 * sector - 1), (true, 32 * sector));
            assert_eq!(bitmap.uniform(), None);
        }
    }

    #[test]
    fn what_is_all_here_or_all_the_parents_is_known() {
        for order in [MostFirst, LeastFirst] {
            let uniform = |byte| SectorBitmap::new(vec![byte; 4], order, 512).uniform();
            for (byte, expected) in
                [(0xFF, Some(true)), (0, Some(false)), (0x0F, None), (1, None)]
            {
                assert_eq!(uniform(byte), expected, "{byte:#x}");
            }
        }
    }

    #[test]
    fn the_bits_that_are_set_are_those_that_are_read() {
        for (order, first_byte) in [(MostFirst, 0b0001_1111), (LeastFirst, 0b1111_1000)] {
            let mut bits = vec![0; 4];
            order.set(&mut bits, 3..17);
            order.set(&mut bits, 31..31);
            // What lies beyond the block is nobody's.
            order.set(&mut bits, 31..40);
            assert_eq!(bits[..2], [first_byte, 0xFF]);
            let own = SectorBitmap::new(bits, order, 512).own_bytes();
            let own: Vec<_> = own.iter().collect();
            assert_eq!(own, [3 * 512..17 * 512, 31 * 512..32 * 512]);
        }
    }

    #[test]
    fn bitmaps_are_held_up_to_a_limit_and_forgotten_on_request() {
        use crate::error::Error;
        use crate::storage::{Meter, ReadAt as _};
        // Blocks of 2 MiB: 512 bytes each, number n begins with the byte n.
        let mut file = vec![0; 4000 * 512];
        for (block, bitmap) in file.chunks_mut(512).enumerate() {
            bitmap[..2].copy_from_slice(&u16::try_from(block).unwrap().to_be_bytes());
        }
        let file = Meter::new(file);
        let mut bitmaps = SectorBitmaps::default();
        let get = |bitmaps: &SectorBitmaps, block: u32| {
            let read = || {
                let mut bits = vec![0; 512];
                file.read_at(u64::from(block) * 512, &mut bits)?;
                Ok(SectorBitmap::new(bits, MostFirst, 512))
            };
            let found = bitmaps.get(block, read).unwrap();
            assert_eq!(found.bytes().len(), 512);
            u32::from(found.bits[0]) << 8 | u32::from(found.bits[1])
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

        // What is refused is not held either.
        assert!(bitmaps.get(7, || Err(Error::invalid("it does not agree"))).is_err());
        let before = read();
        assert_eq!(get(&bitmaps, 7), 7);
        assert_eq!(read(), before + 512);
    }
}
