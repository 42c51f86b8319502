//! Holding a free map to its contract.

use std::ops::Range;

use crate::volume::Findings;

/// Watches that a map's ranges ascend, do not overlap and stay in the volume.
#[derive(Default)]
pub struct Order {
    end: u64,
    total: u64,
    breach: Option<u64>,
}

impl Order {
    pub fn accepts(&mut self, range: &Range<u64>, len: u64) -> bool {
        if range.start < self.end || range.end < range.start || range.end > len {
            self.breach.get_or_insert(range.start);
        }
        self.end = self.end.max(range.end);
        self.total += range.end.saturating_sub(range.start);
        self.breach.is_none()
    }

    /// Why the ranges cannot be believed, if so.
    pub fn broken(&self, findings: &Findings, len: u64) -> Option<String> {
        let Findings { filesystem, length, free_bytes, .. } = findings;
        if let Some(at) = self.breach {
            return Some(format!(
                "{filesystem}: its free ranges are out of order at byte {at:#x}"
            ));
        }
        if *length > len || self.end > *length || self.total != *free_bytes {
            return Some(format!(
                "{filesystem}: its free ranges ({} bytes up to {:#x}) do not fit its size \
                 ({length} bytes, {free_bytes} free)",
                self.total, self.end
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said against `ranges` of a file system that has `length` bytes in a
    /// volume of 100.
    fn fault(ranges: &[Range<u64>], length: u64, free_bytes: u64) -> Option<String> {
        let mut order = Order::default();
        for range in ranges {
            order.accepts(range, 100);
        }
        let findings = Findings { length, free_bytes, ..Findings::default() };
        order.broken(&findings, 100)
    }

    #[test]
    fn ranges_that_do_not_ascend_within_the_volume_are_not_believed() {
        assert_eq!(fault(&[0..10, 10..20, 90..95], 95, 25), None);
        let backwards = Range { start: 40, end: 30 };
        for ranges in [
            vec![10..20, 0..10],
            vec![0..10, 9..19],
            vec![5..10, 5..10],
            vec![90..101],
            vec![backwards],
        ] {
            let total =
                ranges.iter().map(|r: &Range<u64>| r.end.saturating_sub(r.start)).sum();
            let fault = fault(&ranges, 100, total).unwrap();
            assert!(fault.contains("out of order"), "{ranges:?}: {fault}");
        }
        for (length, free) in [(94, 25), (101, 25), (95, 24), (95, 26)] {
            let fault = fault(&[0..10, 10..20, 90..95], length, free).unwrap();
            assert!(fault.contains("do not fit its size"), "{length} {free}: {fault}");
        }
    }
}
