//! Reading: each sector from its block's place, as zeros, or from the parent behind.

use std::ops::Range;

use super::VhdxDisk;
use crate::error::{Error, Kind, Result};
use crate::image::parent::without_parent;
use crate::image::read_padded;
use crate::image::sector_bitmap::SectorBitmap;
use crate::image::vhdx::bat::{BIT_ORDER, State};
use crate::storage::ReadAt;

/// Where bytes of the disk come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// This file, from this offset on.
    Here(u64),
    Zeros,
    Parent,
}

impl VhdxDisk {
    /// The bits of a block that is partially present.
    pub(super) fn bitmap(&self, block: u32) -> Result<SectorBitmap> {
        let bat = &self.structures.bat;
        let at = bat.bitmap(bat.chunk(block)).place() + self.bits_at(block);
        self.bitmaps.get(block, || {
            let mut bits = vec![0; usize::try_from(self.bits_len()).unwrap_or(0)];
            self.seen().read_at(at, &mut bits)?;
            let sector = u64::from(self.structures.metadata.logical_sector);
            Ok(SectorBitmap::new(bits, BIT_ORDER, sector))
        })
    }

    /// Where the byte `at` of the disk comes from, and how far up to `end` all that
    /// follows in its block does.
    fn run_at(&self, at: u64, end: u64) -> Result<(Source, u64)> {
        let size = self.block_size();
        let block = u32::try_from(at / size).unwrap_or(u32::MAX);
        let start = at / size * size;
        let stop = end.min(start + size);
        let entry = self.structures.bat.entry(block);
        let here = Source::Here(entry.place().saturating_add(at - start));
        // A fixed or dynamic image promises nothing of a block that is not present;
        // everybody reads zeros.
        let absent = if self.is_differencing() { Source::Parent } else { Source::Zeros };
        Ok(match entry.state() {
            Some(State::Fully) => (here, stop),
            Some(State::Partially) => {
                let (is_here, upto) = self.bitmap(block)?.run(at - start);
                let upto = stop.min(start + upto);
                (if is_here { here } else { Source::Parent }, upto)
            }
            Some(State::NotPresent) => (absent, stop),
            Some(State::Zero | State::Unmapped | State::Undefined) => {
                (Source::Zeros, stop)
            }
            None => {
                let what = format!("block {block} is in a state that was refused before");
                return Err(Error::new(Kind::Unexpected, what));
            }
        })
    }

    /// Reads up to the end of the last block. Behind the parent's end there is nothing
    /// but zeros.
    pub(super) fn read_through(&self, mut at: u64, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            let stop = at + buf.len() as u64;
            let (source, mut end) = self.run_at(at, stop)?;
            while source == Source::Parent && end < stop {
                // One read for all that follows: chains are deep.
                match self.run_at(end, stop)? {
                    (Source::Parent, further) => end = further,
                    _ => break,
                }
            }
            let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(buf.len());
            let (part, rest) = buf.split_at_mut(len);
            match source {
                // The file may end in the middle of its last block.
                Source::Here(place) => read_padded(&self.seen(), place, part)?,
                Source::Zeros => part.fill(0),
                Source::Parent => {
                    let parent = self.parent.as_ref().ok_or_else(without_parent)?;
                    read_padded(parent, at, part)?;
                }
            }
            buf = rest;
            at = end;
        }
        Ok(())
    }

    /// Passes on which of these bytes of the disk will be read from this file; what a
    /// parent shows is left out.
    pub(super) fn will_read_here(&self, ranges: &[Range<u64>]) {
        let size = self.block_size();
        let mut places = Vec::with_capacity(ranges.len());
        for range in ranges {
            let end = range.end.min(self.len());
            let mut at = range.start;
            while at < end {
                let upto = (at / size * size).saturating_add(size).min(end);
                let block = u32::try_from(at / size).unwrap_or(u32::MAX);
                let entry = self.structures.bat.entry(block);
                if matches!(entry.state(), Some(State::Fully | State::Partially)) {
                    let start = entry.place().saturating_add(at % size);
                    places.push(start..start.saturating_add(upto - at));
                }
                at = upto;
            }
        }
        self.file.will_read(&places);
    }

    pub(super) fn next_data_through(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let size = self.block_size();
        let mut at = offset;
        while at < self.len() {
            let end = (at / size * size).saturating_add(size).min(self.len());
            let block = u32::try_from(at / size).unwrap_or(u32::MAX);
            if self.structures.bat.entry(block).state() == Some(State::Partially)
                && self.bitmap(block)?.uniform().is_none()
            {
                // Some of each: not worth asking for each of its parts.
                return Ok(Some(at..end));
            }
            let found = match self.run_at(at, end)?.0 {
                Source::Zeros => None,
                Source::Here(place) => self
                    .next_data_in_file(place, place + (end - at))?
                    .map(|found| at + found.start..at + found.end),
                Source::Parent => {
                    let parent = self.parent.as_ref().ok_or_else(without_parent)?;
                    if at < parent.len() { parent.next_data(at)? } else { None }
                }
            };
            if let Some(found) = found
                && found.start < end
            {
                return Ok(Some(found.start.max(at)..found.end.min(end)));
            }
            at = end;
        }
        Ok(None)
    }
}
