//! Asking a disk where its next data is, once a range.

use std::ops::Range;

use crate::error::Result;
use crate::image::Image;

/// Where the next data of a disk lies, asked for once a range.
pub struct DataAhead<'a> {
    disk: &'a dyn Image,
    /// From where on was asked, and what the answer was.
    known: Option<(u64, Option<Range<u64>>)>,
}

impl<'a> DataAhead<'a> {
    pub fn new(disk: &'a dyn Image) -> Self {
        DataAhead { disk, known: None }
    }

    /// The first range at or after `at` that may hold anything but zeros.
    pub fn at(&mut self, at: u64) -> Result<Option<Range<u64>>> {
        if at >= self.disk.len() {
            return Ok(None);
        }
        let found = match &self.known {
            Some((from, found))
                if *from <= at && found.as_ref().is_none_or(|found| at < found.end) =>
            {
                found.clone()
            }
            _ => {
                let found = self.disk.next_data(at)?;
                self.known = Some((at, found.clone()));
                found
            }
        };
        Ok(found.map(|found| found.start.max(at)..found.end))
    }
}
