//! What smaller blocks would give: how much of the blocks that stay is free in whole
//! blocks of another size. From the free maps alone, as they are streamed.
//!
//! A smaller block counts as free if one stretch of free bytes covers it. What only
//! several volumes together call free, or is zero without being free, is counted as in
//! use: a new image gets no larger than what is said here.

use std::ops::Range;

use serde::Serialize;

use super::Verdict;
use crate::image::{Image, ImageType, format_named};

/// How many sizes are counted at most.
const MOST: usize = 2;

/// For one block, how many smaller ones of each size are free in it. A live block has
/// fewer than 256 that are: it has at most as many in all, and one of them is not.
pub type Whole = [u8; MOST];

/// What blocks of a smaller size would hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SmallerBlocks {
    /// Their size in bytes.
    pub block_size: u64,
    /// The bytes of those that would have to stay.
    pub bytes: u64,
}

/// Finds the smaller blocks in what is free.
#[derive(Debug, Clone, Default)]
pub struct Finer {
    /// Sizes in bytes, ascending; each divides the block size.
    sizes: Vec<u64>,
    block_size: u64,
    disk_len: u64,
    /// The stretch of free bytes that the next range may continue.
    stretch: Range<u64>,
}

impl Finer {
    /// The sizes that the image's format has and that are smaller than its own.
    pub fn of(image: &dyn Image) -> Self {
        let facts = image.facts();
        let known = format_named(facts.format).map_or(&[][..], |f| f.smaller_blocks());
        let sizes: Vec<u64> = match facts.image_type {
            ImageType::Dynamic => {
                known.iter().copied().filter(|size| *size < facts.block_size).collect()
            }
            // A child's blocks become its parent's in a new image.
            ImageType::Fixed | ImageType::Differencing => Vec::new(),
        };
        Finer::new(&sizes, facts.block_size, image.len())
    }

    fn new(sizes: &[u64], block_size: u64, disk_len: u64) -> Self {
        let sizes = sizes.iter().copied().take(MOST).collect();
        Finer { sizes, block_size, disk_len, stretch: 0..0 }
    }

    /// Whether nothing is counted.
    pub fn is_idle(&self) -> bool {
        self.sizes.is_empty()
    }

    /// Takes the next free range of the disk, and tells `found` of smaller blocks that are
    /// free with it: of which block, and how many of each size.
    pub fn add(&mut self, range: &Range<u64>, found: &mut dyn FnMut(u64, Whole)) {
        if self.is_idle() || range.is_empty() {
            return;
        }
        if range.start != self.stretch.end {
            self.stretch = range.start..range.start;
        }
        let (start, before) = (self.stretch.start, self.stretch.end);
        self.stretch.end = range.end;
        // From the block on in which anything may have become whole: none reaches into two.
        let mut block = before / self.block_size;
        while block * self.block_size < range.end {
            let end = (block + 1) * self.block_size;
            let mut whole = Whole::default();
            for (count, size) in whole.iter_mut().zip(&self.sizes) {
                let upto = |end: u64| {
                    if end < self.disk_len { end / size } else { end.div_ceil(*size) }
                };
                let first = start.div_ceil(*size).max(upto(before));
                let first = first.max(block * self.block_size / size);
                let last = upto(range.end.min(end));
                *count = u8::try_from(last.saturating_sub(first)).unwrap_or(u8::MAX);
            }
            if whole != Whole::default() {
                found(block, whole);
            }
            block += 1;
        }
    }

    /// What blocks of each size would hold of the live ones. `free` has a count a block.
    pub fn result(&self, verdicts: &[Verdict], free: &[Whole]) -> Vec<SmallerBlocks> {
        let mut found: Vec<SmallerBlocks> = self
            .sizes
            .iter()
            .map(|size| SmallerBlocks { block_size: *size, bytes: 0 })
            .collect();
        for ((block, verdict), free) in (0u64..).zip(verdicts).zip(free) {
            if *verdict != Verdict::Live {
                continue;
            }
            let start = block * self.block_size;
            let end = (start + self.block_size).min(self.disk_len);
            for (smaller, free) in found.iter_mut().zip(free) {
                let all = end.saturating_sub(start).div_ceil(smaller.block_size);
                smaller.bytes += all.saturating_sub((*free).into()) * smaller.block_size;
            }
        }
        found
    }
}

/// Adds up two counts.
pub fn add(to: &mut Whole, more: Whole) {
    for (to, more) in to.iter_mut().zip(more) {
        *to = to.saturating_add(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in all, a count a block.
    fn count(finer: &Finer, ranges: &[Range<u64>], blocks: usize) -> Vec<Whole> {
        let mut finer = finer.clone();
        let mut counts = vec![Whole::default(); blocks];
        for range in ranges {
            finer.add(range, &mut |block, whole| {
                add(&mut counts[usize::try_from(block).unwrap()], whole);
            });
        }
        counts
    }

    /// Smaller blocks of `size` in which each byte is free, by looking at each.
    fn by_hand(ranges: &[Range<u64>], size: u64, block: u64, len: u64) -> Vec<u8> {
        let is_free = |at: u64| ranges.iter().any(|range| range.contains(&at));
        let mut counts = vec![0; usize::try_from(len.div_ceil(block)).unwrap()];
        for start in (0..len).step_by(usize::try_from(size).unwrap()) {
            if (start..len.min(start + size)).all(is_free) {
                counts[usize::try_from(start / block).unwrap()] += 1;
            }
        }
        counts
    }

    #[test]
    fn smaller_blocks_are_those_of_which_every_byte_is_free() {
        let len = 137;
        let finer = Finer::new(&[4, 8], 32, len);
        let mut seed = 7_u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..3000 {
            let mut ranges = Vec::new();
            let mut at = next(9);
            while at < len {
                let end = (at + 1 + next(40)).min(len);
                ranges.push(at..end);
                // Some follow each other without a gap.
                at = end + next(3) * next(9);
            }
            let counts = count(&finer, &ranges, 5);
            for (index, size) in [4, 8].into_iter().enumerate() {
                let expected = by_hand(&ranges, size, 32, len);
                let found: Vec<u8> = counts.iter().map(|whole| whole[index]).collect();
                assert_eq!(found, expected, "{size}: {ranges:?}");
            }
        }
    }

    #[test]
    fn what_stays_is_what_is_live_and_not_free() {
        let finer = Finer::new(&[4, 8], 32, 137);
        // Pieces of a volume may come in any order.
        let ranges = [100..137, 0..33, 35..64];
        let free = count(&finer, &ranges, 5);
        assert_eq!(free, [[8, 4], [7, 3], [0, 0], [7, 3], [3, 2]]);
        let verdicts =
            [Verdict::Free, Verdict::Live, Verdict::Absent, Verdict::Live, Verdict::Live];
        let found = finer.result(&verdicts, &free);
        let found: Vec<_> = found.iter().map(|s| (s.block_size, s.bytes)).collect();
        assert_eq!(found, [(4, 4 + 4), (8, 8 + 8)]);
        assert!(Finer::default().result(&verdicts, &free).is_empty());
    }

    #[test]
    fn the_largest_block_does_not_overflow() {
        let block = 256 << 20;
        let finer = Finer::new(&[1 << 20, 2 << 20], block, 4 * block);
        assert_eq!(count(&finer, &[0..2 * block], 2), [[255, 128]; 2]);
    }
}
