//! Punching holes in the data of blocks. Neither the table nor a bitmap changes, so the
//! log is not used; one that is in use is replayed first.

use std::ops::Range;

use super::VhdxDisk;
use crate::error::Result;
use crate::image::holes;
use crate::image::parent::without_parent;
use crate::storage::ReadAt;

impl VhdxDisk {
    pub(super) fn may_be_punched(&self) -> Result<()> {
        if self.is_differencing() && self.parent.is_none() {
            return Err(without_parent());
        }
        self.loggable()
    }

    /// Where a byte of the disk lies, and those behind it in its block. What the last
    /// block of the file lacks has no place.
    pub(super) fn place_of_byte(&self, at: u64) -> Option<Range<u64>> {
        let size = self.block_size();
        let entry = self.structures.bat.entry(u32::try_from(at / size).ok()?);
        if !entry.has_place() {
            return None;
        }
        let place = entry.place();
        let end = place.checked_add(size)?.min(self.file.len());
        Some(place + at % size..end).filter(|place| place.start < place.end)
    }

    /// Punches holes, as [`Image::punch`](crate::image::Image::punch) says.
    pub(super) fn punch_ranges(&mut self, ranges: &[Range<u64>]) -> Result<()> {
        self.may_be_punched()?;
        let places = holes::places(self, ranges)?;
        if places.is_empty() {
            return Ok(());
        }
        self.attempt(|image| {
            let told = Some(image.content_changes);
            if !image.begun && image.holes_told != told {
                let content = image.content_changes;
                image.structures.put_in_order(&*image.file, content)?;
                image.holes_told = told;
            }
            holes::punch(&*image.file, places)
        })
    }
}
