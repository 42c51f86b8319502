//! Sector bitmaps of a differencing image: for each chunk of the disk a block of 1 MiB
//! with one bit a logical sector, least significant first; 1 says that the sector is
//! here, 0 that it is the parent's.
//!
//! Source: [MS-VHDX] 2.4.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::ranges::Ranges;
use crate::storage::ReadAt;

/// How many bytes of bitmaps are held in memory for an image.
const HELD: u64 = 1 << 20;

/// What it takes to hold one, beside its bytes.
const HOLDING: u64 = 128;

/// The parts of bitmaps that were read last, each of one block.
#[derive(Default)]
pub struct SectorBitmaps(Mutex<HashMap<u32, SectorBitmap>>);

impl SectorBitmaps {
    /// Forgets what was read: blocks are about to change.
    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The `len` bytes at `at` of the file, which are the bits of `block`.
    pub fn get(
        &self,
        file: &dyn ReadAt,
        block: u32,
        at: u64,
        len: u64,
        sector: u64,
    ) -> Result<SectorBitmap> {
        let held = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bitmap) = held().get(&block) {
            return Ok(bitmap.clone());
        }
        let mut bits = vec![0; usize::try_from(len).unwrap_or(0)];
        file.read_at(at, &mut bits)?;
        let bitmap = SectorBitmap { bits: bits.into(), sector };
        let mut held = held();
        if held.len() as u64 >= HELD / (len + HOLDING) {
            held.clear();
        }
        held.insert(block, bitmap.clone());
        Ok(bitmap)
    }
}

/// The bits of one block.
#[derive(Clone)]
pub struct SectorBitmap {
    bits: Arc<[u8]>,
    /// Bytes in a logical sector.
    sector: u64,
}

impl SectorBitmap {
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

    fn holds(&self, sector: u64) -> bool {
        self.byte(sector) & (1 << (sector % 8)) != 0
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
    use super::*;

    #[test]
    fn bits_are_sectors_from_the_least_significant_on() {
        for sector in [512, 4096] {
            let bits = vec![0b1000_0001, 0xFF, 0, 0b1000_0000];
            let bitmap = SectorBitmap { bits: bits.into(), sector };
            let own: Vec<_> = bitmap.own_bytes().iter().collect();
            let range = |a: u64, b: u64| a * sector..b * sector;
            assert_eq!(own, [range(0, 1), range(7, 16), range(31, 32)]);
            assert_eq!(bitmap.run(0), (true, sector));
            assert_eq!(bitmap.run(sector + 1), (false, 7 * sector));
            assert_eq!(bitmap.run(20 * sector), (false, 31 * sector));
            assert_eq!(bitmap.uniform(), None);
        }
        let uniform =
            |byte| SectorBitmap { bits: vec![byte; 4].into(), sector: 512 }.uniform();
        assert_eq!(
            (uniform(0xFF), uniform(0), uniform(1)),
            (Some(true), Some(false), None)
        );
    }
}
