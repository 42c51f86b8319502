//! The clusters of FAT and exFAT: numbered from 2 on, one after the other.

use std::ops::Range;

use super::FreeSink;
use crate::error::{Error, Result};
use crate::ranges::Ranges;

/// The number of the first cluster.
pub(super) const FIRST: u32 = 2;

/// Where the clusters lie. Whoever makes one sees to it that the end fits a `u64`.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClusterHeap {
    /// The first cluster's offset in bytes.
    pub(super) start: u64,
    /// In bytes.
    pub(super) cluster_size: u64,
    /// How many there are; at most 2^32 - 11.
    pub(super) clusters: u32,
}

impl ClusterHeap {
    /// Whether a cluster has this number.
    pub(super) fn contains(&self, cluster: u32) -> bool {
        cluster.checked_sub(FIRST).is_some_and(|index| index < self.clusters)
    }

    /// The bytes of `count` clusters from `first` on, all of which exist.
    pub(super) fn bytes(&self, first: u32, count: u64) -> Range<u64> {
        let start =
            self.start + u64::from(first.saturating_sub(FIRST)) * self.cluster_size;
        start..start + count * self.cluster_size
    }

    /// How many clusters hold `bytes`.
    pub(super) fn needed(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster_size)
    }
}

/// Bytes that are known to be in use, whatever the map says, and by what.
pub(super) type Occupied<'a> = (&'a str, Ranges);

/// Joins free clusters, told one by one, to ranges of bytes; fails if one of them
/// is known to be in use.
pub(super) struct FreeClusters<'a, 's> {
    heap: ClusterHeap,
    occupied: &'a [Occupied<'a>],
    free: &'a mut FreeSink<'s>,
    start: Option<u32>,
    sent: u64,
}

impl<'a, 's> FreeClusters<'a, 's> {
    pub(super) fn new(
        heap: ClusterHeap,
        occupied: &'a [Occupied<'a>],
        free: &'a mut FreeSink<'s>,
    ) -> Self {
        FreeClusters { heap, occupied, free, start: None, sent: 0 }
    }

    /// `cluster`, the one after the last that was told, is free.
    pub(super) fn free(&mut self, cluster: u32) {
        self.start.get_or_insert(cluster);
    }

    /// `cluster` is not free, or the one after the last.
    pub(super) fn used(&mut self, cluster: u32) -> Result<()> {
        let Some(start) = self.start.take() else { return Ok(()) };
        let range = self.heap.bytes(start, u64::from(cluster - start));
        for (user, bytes) in self.occupied {
            if let Some(conflict) = bytes.within(range.clone()).next() {
                return Err(Error::invalid(format!(
                    "the map calls {} bytes free that {user} uses: run chkdsk /f on the \
                     volume in Windows",
                    conflict.end - conflict.start
                ))
                .at(conflict.start));
            }
        }
        self.sent += range.end - range.start;
        (self.free)(range);
        Ok(())
    }

    /// All clusters have been told; gives how many bytes were free.
    pub(super) fn finish(mut self) -> Result<u64> {
        self.used(self.heap.clusters.saturating_add(FIRST))?;
        Ok(self.sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_clusters_are_joined_and_held_against_what_is_in_use() {
        let heap = ClusterHeap { start: 1000, cluster_size: 10, clusters: 6 };
        let run = |pattern: &str, occupied: &[Occupied<'_>]| {
            let mut found = Vec::new();
            let mut sink = |range: Range<u64>| found.push((range.start, range.end));
            let mut told = FreeClusters::new(heap, occupied, &mut sink);
            for (cluster, state) in (FIRST..).zip(pattern.bytes()) {
                if state == b'.' {
                    told.free(cluster);
                } else {
                    told.used(cluster)?;
                }
            }
            told.finish().map(|sent| (sent, found))
        };
        assert_eq!(run("......", &[]).unwrap(), (60, vec![(1000, 1060)]));
        assert_eq!(
            run(".x..x.", &[]).unwrap(),
            (40, vec![(1000, 1010), (1020, 1040), (1050, 1060)])
        );
        assert_eq!(run("xxxxxx", &[]).unwrap(), (0, vec![]));
        let cat = [("the cat", Ranges::from_iter([1030..1040]))];
        assert!(run("...x..", &cat).is_ok());
        let error = run("x.....", &cat).unwrap_err().to_string();
        assert!(error.contains("that the cat uses"), "{error}");
    }

    #[test]
    fn clusters_are_counted_from_two() {
        let heap = ClusterHeap { start: 1000, cluster_size: 10, clusters: 6 };
        let exist: Vec<u32> = (0..20).filter(|&cluster| heap.contains(cluster)).collect();
        assert_eq!(exist, [2, 3, 4, 5, 6, 7]);
        assert_eq!(heap.bytes(3, 2), 1010..1030);
    }
}
