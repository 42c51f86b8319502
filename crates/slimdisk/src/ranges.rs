//! Sets of byte ranges: sorted, disjoint, never touching each other.

#![forbid(unsafe_code)]

use std::ops::Range;

/// A set of bytes, kept as sorted ranges with gaps between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Ranges(Vec::new())
    }

    /// Adds the bytes of `range`. Adding in ascending order is the fast case.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        match self.0.last_mut() {
            Some(last) if range.start > last.end => self.0.push(range),
            Some(last) if range.start >= last.start => last.end = last.end.max(range.end),
            Some(_) => self.insert_before_last(range),
            None => self.0.push(range),
        }
    }

    fn insert_before_last(&mut self, mut range: Range<u64>) {
        let first = self.0.partition_point(|r| r.end < range.start);
        let after = self.0.partition_point(|r| r.start <= range.end);
        if let (Some(low), Some(high)) =
            (self.0.get(first), after.checked_sub(1).and_then(|i| self.0.get(i)))
            && first < after
        {
            range = range.start.min(low.start)..range.end.max(high.end);
        }
        self.0.splice(first..after, [range]);
    }

    /// The ranges in ascending order.
    #[must_use]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + '_ {
        self.0.iter().cloned()
    }

    /// How many bytes the set holds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().map(|r| r.end - r.start).sum()
    }

    /// Whether the set holds no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many separate ranges the set has.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether every byte of `range` is in the set.
    #[must_use]
    pub fn covers(&self, range: &Range<u64>) -> bool {
        range.start >= range.end
            || self
                .0
                .get(self.0.partition_point(|r| r.end <= range.start))
                .is_some_and(|r| r.start <= range.start && range.end <= r.end)
    }

    /// Whether any byte of `range` is in the set.
    #[must_use]
    pub fn intersects(&self, range: &Range<u64>) -> bool {
        range.start < range.end
            && self
                .0
                .get(self.0.partition_point(|r| r.end <= range.start))
                .is_some_and(|r| r.start < range.end)
    }

    /// The set's ranges inside `window`, clipped to it.
    pub fn within(&self, window: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.0.partition_point(|r| r.end <= window.start);
        self.0
            .iter()
            .skip(first)
            .take_while(move |r| r.start < window.end)
            .map(move |r| r.start.max(window.start)..r.end.min(window.end))
            .filter(|r| r.start < r.end)
    }

    /// The bytes of `window` that are not in the set.
    #[must_use]
    pub fn gaps(&self, window: Range<u64>) -> Ranges {
        let mut gaps = Ranges::new();
        let mut at = window.start;
        for range in self.within(window.clone()) {
            gaps.insert(at..range.start);
            at = range.end;
        }
        gaps.insert(at..window.end);
        gaps
    }
}

impl FromIterator<Range<u64>> for Ranges {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(iter: I) -> Self {
        let mut set = Ranges::new();
        for range in iter {
            set.insert(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every small sequence of inserts, against a bit set.
    #[test]
    fn agrees_with_a_bit_set() {
        let mut seed = 1u64;
        let mut next = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % n
        };
        for _ in 0..2000 {
            let mut set = Ranges::new();
            let mut bits = 0u64;
            for _ in 0..next(8) {
                let start = next(60);
                let end = start + next(12).min(60 - start);
                set.insert(start..end);
                for bit in start..end {
                    bits |= 1 << bit;
                }
            }
            assert_eq!(set.total(), u64::from(bits.count_ones()));
            assert!(set.0.windows(2).all(|w| w[0].end < w[1].start), "{set:?}");
            let (a, b) = (next(60), next(60));
            let window = a.min(b)..a.max(b);
            let inside =
                (window.clone()).filter(|bit| bits & (1 << bit) != 0).count() as u64;
            let len = window.end - window.start;
            assert_eq!(set.covers(&window), inside == len);
            assert_eq!(set.intersects(&window), inside > 0);
            assert_eq!(
                set.within(window.clone()).map(|r| r.end - r.start).sum::<u64>(),
                inside
            );
            assert_eq!(set.gaps(window).total(), len - inside);
        }
    }
}
