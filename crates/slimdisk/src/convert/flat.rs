//! A disk as if it were an image in which every block has a place, so that the survey
//! judges it by the same rules.

use std::ops::Range;

use crate::error::Result;
use crate::image::{
    Facts, Image, ImageType, Layout, Move, Release, read_padded, wrong_type,
};
use crate::storage::ReadAt;

/// The disk of an image, divided into blocks of the new image's size; behind its end
/// there are zeros.
pub struct Flat<'a> {
    disk: &'a dyn Image,
    block_size: u64,
}

const READ_ONLY: &str = "a disk that is converted is only read";

impl<'a> Flat<'a> {
    pub fn new(disk: &'a dyn Image, block_size: u64) -> Self {
        Flat { disk, block_size }
    }

    fn blocks(&self) -> u32 {
        u32::try_from(self.disk.len().div_ceil(self.block_size)).unwrap_or(u32::MAX)
    }
}

impl ReadAt for Flat<'_> {
    fn len(&self) -> u64 {
        self.disk.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.disk.read_at(offset, buf)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        self.disk.next_data(offset)
    }
}

impl Image for Flat<'_> {
    fn facts(&self) -> Facts {
        Facts {
            image_type: ImageType::Dynamic,
            block_size: self.block_size,
            blocks_total: self.blocks(),
            blocks_allocated: self.blocks(),
            parent: None,
            ..self.disk.facts()
        }
    }

    fn settled(&self) -> Result<()> {
        self.disk.settled()
    }

    fn compactable(&self) -> Result<()> {
        Ok(())
    }

    fn sector_size(&self) -> Option<u32> {
        self.disk.sector_size()
    }

    fn layout(&self) -> Option<Layout> {
        None
    }

    fn is_allocated(&self, block: u32) -> bool {
        block < self.blocks()
    }

    fn read_block(&self, block: u32, offset: u64, buf: &mut [u8]) -> Result<()> {
        let at = u64::from(block) * self.block_size + offset;
        read_padded(self.disk, at, buf)
    }

    fn next_data_in_block(&self, block: u32, offset: u64) -> Result<Option<Range<u64>>> {
        let start = u64::from(block) * self.block_size;
        let end = (start + self.block_size).min(self.disk.len());
        if start + offset >= end {
            return Ok(None);
        }
        let found = self.disk.next_data(start + offset)?;
        Ok(found
            .filter(|found| found.start < end)
            .map(|found| found.start - start..found.end.min(end) - start))
    }

    fn release(&mut self, _: &[Release]) -> Result<()> {
        Err(wrong_type(READ_ONLY))
    }

    fn relocate(&mut self, _: &[Move]) -> Result<()> {
        Err(wrong_type(READ_ONLY))
    }

    fn truncate(&mut self) -> Result<()> {
        Err(wrong_type(READ_ONLY))
    }

    fn still_exclusive(&self) -> Result<()> {
        self.disk.still_exclusive()
    }
}
