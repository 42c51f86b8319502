//! What one volume calls free, counted block by block.

use std::ops::Range;

use crate::compact::finer::{self, Finer, Whole};
use crate::storage::Mapping;

/// A counter for each block that a volume touches; blocks in between cost nothing.
#[derive(Clone)]
pub struct Counters {
    block_size: u64,
    /// Blocks that follow each other, and where their counters begin; ascending.
    runs: Vec<(Range<u64>, usize)>,
    counts: Vec<u32>,
    /// Which smaller blocks are free as a whole; empty if nobody asks.
    finer: Finer,
    whole: Vec<Whole>,
}

impl Counters {
    pub fn new(mapping: &Mapping, block_size: u64, finer: &Finer) -> Self {
        let mut touched = Vec::new();
        mapping.pieces(0..mapping.len(), &mut |piece| {
            touched.push(piece.start / block_size..piece.end.div_ceil(block_size));
        });
        touched.sort_unstable_by_key(|blocks| blocks.start);
        let mut runs: Vec<(Range<u64>, usize)> = Vec::new();
        let mut size = 0;
        for blocks in touched {
            let blocks = match runs.last() {
                Some((last, _)) => blocks.start.max(last.end)..blocks.end,
                None => blocks,
            };
            let more = blocks.end.saturating_sub(blocks.start);
            let more = usize::try_from(more).unwrap_or(0);
            match runs.last_mut() {
                _ if more == 0 => {}
                Some((last, _)) if last.end == blocks.start => last.end = blocks.end,
                _ => runs.push((blocks, size)),
            }
            size += more;
        }
        let whole = if finer.is_idle() { 0 } else { size };
        Counters {
            block_size,
            runs,
            counts: vec![0; size],
            finer: finer.clone(),
            whole: vec![Whole::default(); whole],
        }
    }

    /// Counts a range of the disk that the volume calls free.
    pub fn add(&mut self, mut range: Range<u64>) {
        let Counters { runs, whole, .. } = self;
        self.finer.add(&range, &mut |block, more| {
            if let Some(whole) = slot(runs, block).and_then(|slot| whole.get_mut(slot)) {
                finer::add(whole, more);
            }
        });
        while range.start < range.end {
            let block = range.start / self.block_size;
            let end = range.end.min((block + 1) * self.block_size);
            let slot = slot(&self.runs, block);
            if let Some(counter) = slot.and_then(|slot| self.counts.get_mut(slot)) {
                // At most a block's size, which fits.
                *counter += u32::try_from(end - range.start).unwrap_or(0);
            }
            range.start = end;
        }
    }

    /// Every block that is touched, with its count.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.runs.iter().flat_map(|(blocks, at)| {
            blocks.clone().zip(self.counts.iter().skip(*at).copied())
        })
    }

    /// The same with the counts of smaller blocks; nothing if nobody asked.
    pub fn whole(&self) -> impl Iterator<Item = (u64, Whole)> + '_ {
        self.runs.iter().flat_map(|(blocks, at)| {
            blocks.clone().zip(self.whole.iter().skip(*at).copied())
        })
    }
}

/// Where a block's counter is.
fn slot(runs: &[(Range<u64>, usize)], block: u64) -> Option<usize> {
    let run = runs.partition_point(|(blocks, _)| blocks.end <= block);
    let (blocks, at) = runs.get(run)?;
    Some(at + usize::try_from(block.checked_sub(blocks.start)?).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_counted_in_its_block() {
        let mut mapping = Mapping::default();
        mapping.push(vec![95], 1, 10); // blocks 9 and 10
        mapping.push(vec![1000, 205], 5, 40); // 100 and 101, 20 to 22
        mapping.push(vec![115], 1, 5); // 11
        let mut counters = Counters::new(&mapping, 10, &Finer::default());
        let blocks: Vec<_> = counters.iter().map(|(block, _)| block).collect();
        assert_eq!(blocks, [9, 10, 11, 20, 21, 22, 100, 101]);
        assert_eq!(counters.counts.len(), 8);
        mapping.pieces(3..50, &mut |piece| counters.add(piece));
        let counts: Vec<_> = counters.iter().map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 5, 0, 5, 10, 5, 10, 10]);
        counters.add(115..120);
        counters.add(0..90);
        counters.add(300..301);
        let counts: Vec<_> = counters.iter().map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 5, 5, 5, 10, 5, 10, 10]);
    }
}
