//! Fixed images: the whole disk and a footer behind it.

use std::ops::Range;
use std::sync::Arc;

use super::raw::Footer;
use super::{facts, not_saved};
use crate::error::Result;
use crate::image::holes;
use crate::image::{
    Facts, GuestWrite, Image, ImageType, Layout, Move, Release, check_writes, wrong_type,
};
use crate::storage::{ReadAt, Section, Storage};

/// A fixed image: the disk and a footer.
pub struct FixedVhd {
    pub file: Arc<dyn Storage>,
    pub footer: Footer,
    /// The disk's size in bytes.
    pub size: u64,
    pub notes: Vec<String>,
}

const FIXED: &str = "a fixed VHD: only an expanding image can be compacted";

impl ReadAt for FixedVhd {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        Section::new(&self.file, 0..self.size).read_at(offset, buf)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        Section::new(&self.file, 0..self.size).next_data(offset)
    }

    fn will_read(&self, ranges: &[Range<u64>]) {
        Section::new(&self.file, 0..self.size).will_read(ranges);
    }
}

impl Image for FixedVhd {
    fn facts(&self) -> Facts {
        facts(&self.footer, ImageType::Fixed, self.size, &self.notes)
    }

    fn settled(&self) -> Result<()> {
        not_saved(&self.footer)
    }

    fn compactable(&self) -> Result<()> {
        Err(wrong_type(FIXED))
    }

    fn layout(&self) -> Option<Layout> {
        None
    }

    fn is_allocated(&self, _: u32) -> bool {
        false
    }

    fn read_block(&self, _: u32, _: u64, _: &mut [u8]) -> Result<()> {
        Err(wrong_type(FIXED))
    }

    fn next_data_in_block(&self, _: u32, _: u64) -> Result<Option<Range<u64>>> {
        Err(wrong_type(FIXED))
    }

    fn release(&mut self, _: &[Release]) -> Result<()> {
        Err(wrong_type(FIXED))
    }

    fn relocate(&mut self, _: &[Move]) -> Result<()> {
        Err(wrong_type(FIXED))
    }

    fn truncate(&mut self) -> Result<()> {
        Err(wrong_type(FIXED))
    }

    fn punchable(&self) -> Result<()> {
        self.settled()
    }

    fn place(&self, at: u64) -> Option<Range<u64>> {
        Some(at..self.size).filter(|place| place.start < place.end)
    }

    fn punch(&mut self, ranges: &[Range<u64>]) -> Result<()> {
        self.punchable()?;
        let places = holes::places(self, ranges)?;
        holes::punch(&*self.file, places)
    }

    fn writable(&self) -> Result<()> {
        Ok(())
    }

    fn file_len_with(&self, _: u64, _: u64) -> Result<u64> {
        Ok(self.file.len())
    }

    fn write(&mut self, writes: &[GuestWrite]) -> Result<()> {
        check_writes(writes, self.size)?;
        for write in writes {
            self.file.write_at(write.offset, &write.data)?;
        }
        self.file.flush()
    }

    fn still_exclusive(&self) -> Result<()> {
        self.file.still_exclusive()
    }
}
