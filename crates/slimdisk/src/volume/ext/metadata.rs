//! The blocks every ext file system uses for itself.
//!
//! They serve twice: a group whose bitmap was never written is free but for
//! them, and a bitmap that calls one of them free is not to be believed.

use std::ops::Range;

use super::RUN_FSCK;
use super::group_descriptor::GroupDescriptor;
use super::superblock::Superblock;
use crate::error::{Error, Result};
use crate::ranges::Ranges;

/// Ranges kept before they are sorted and merged for the first time.
const BATCH: usize = 1 << 16;

/// Collects the metadata of all groups, in any order, in memory that grows with
/// the number of separate places they lie in.
pub(super) struct Collector {
    ranges: Vec<Range<u64>>,
    merge_at: usize,
    /// Blocks added, to tell whether any was added twice.
    added: u64,
}

impl Collector {
    pub(super) fn new() -> Self {
        Collector { ranges: Vec::new(), merge_at: BATCH, added: 0 }
    }

    /// Adds the metadata of one group.
    pub(super) fn add(
        &mut self,
        fs: &Superblock,
        group: u64,
        descriptor: &GroupDescriptor,
    ) -> Result<()> {
        let copies = fs.superblock_and_descriptors(group);
        if copies.end > fs.group(group).end {
            return Err(Error::invalid(format!(
                "group {group} is too small for its group descriptors: {RUN_FSCK}"
            )));
        }
        self.push(copies);
        for range in descriptor.metadata(fs) {
            self.push(range);
        }
        Ok(())
    }

    fn push(&mut self, range: Range<u64>) {
        self.added += range.end - range.start;
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.ranges.push(range),
        }
        if self.ranges.len() >= self.merge_at {
            self.merge();
            self.merge_at = BATCH.max(self.ranges.len() * 2);
        }
    }

    fn merge(&mut self) {
        self.ranges.sort_unstable_by_key(|range| range.start);
        self.ranges.dedup_by(|next, last| {
            let touch = next.start <= last.end;
            if touch {
                last.end = last.end.max(next.end);
            }
            touch
        });
    }

    /// The set of all blocks added; no block may have been added twice.
    pub(super) fn finish(mut self) -> Result<Ranges> {
        self.merge();
        let ranges: Ranges = self.ranges.into_iter().collect();
        if ranges.total() != self.added {
            return Err(Error::invalid(format!(
                "bitmaps, inode tables or group descriptors overlap: {RUN_FSCK}"
            )));
        }
        Ok(ranges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_in_any_order_and_finds_overlaps() {
        let collect = |starts: &[u64]| {
            let mut collector = Collector { merge_at: 3, ..Collector::new() };
            for start in starts {
                collector.push(*start..start + 2);
            }
            collector.finish()
        };
        let set = collect(&[8, 0, 20, 2, 6, 4, 30]).unwrap();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0..10, 20..22, 30..32]);
        assert!(collect(&[8, 0, 20, 2, 6, 1, 30]).is_err());
        assert!(collect(&[8, 8]).is_err());
    }
}
