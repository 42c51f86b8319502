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
