//! The allocation file: a bit for each block, the highest of a byte first; 1 is in use.

use std::ops::Range;

use super::REPAIR;
use super::fork::Fork;
use super::volume_header::VolumeHeader;
use crate::error::{Error, Result};
use crate::ranges::Ranges;
use crate::storage::ReadAt;
use crate::volume::FreeSink;

/// Blocks that are known to be in use, whatever the map says, and by what.
#[derive(Default)]
pub(super) struct Occupied {
    all: Ranges,
    owners: Vec<(&'static str, Ranges)>,
}

impl Occupied {
    /// Adds blocks that nothing else may use.
    pub(super) fn add(
        &mut self,
        owner: &'static str,
        blocks: impl IntoIterator<Item = Range<u64>>,
    ) -> Result<()> {
        let mut own = Ranges::new();
        for range in blocks.into_iter().filter(|range| !range.is_empty()) {
            if self.all.intersects(&range) || own.intersects(&range) {
                let others = self.owners.iter().find(|(_, used)| used.intersects(&range));
                let other = others.map_or(owner, |(other, _)| *other);
                return Err(Error::invalid(format!(
                    "{owner} and {other} use the same block: {REPAIR}"
                )));
            }
            own.insert(range);
        }
        for range in own.iter() {
            self.all.insert(range);
        }
        self.owners.push((owner, own));
        Ok(())
    }

    fn check(&self, free: &Range<u64>, header: &VolumeHeader) -> Result<()> {
        let Some(found) = self.all.within(free.clone()).next() else { return Ok(()) };
        let owner = self.owners.iter().find(|(_, used)| used.intersects(&found));
        let owner = owner.map_or("the volume", |(owner, _)| *owner);
        Err(Error::invalid(format!(
            "the allocation file calls a block of {owner} free: {REPAIR}"
        ))
        .at(header.byte(found.start)))
    }
}

/// Sends all free blocks to the sink, as bytes, and gives their number.
pub(super) fn free_blocks(
    volume: &dyn ReadAt,
    header: &VolumeHeader,
    allocation: &Fork,
    occupied: &Occupied,
    free: &mut FreeSink<'_>,
) -> Result<u64> {
    let blocks = u64::from(header.blocks);
    let (mut next, mut start, mut sum) = (0u64, None, 0u64);
    let mut used = |block: u64, start: &mut Option<u64>| -> Result<()> {
        let Some(first) = start.take() else { return Ok(()) };
        let range = first..block;
        occupied.check(&range, header)?;
        sum += block - first;
        free(header.byte(range.start)..header.byte(range.end));
        Ok(())
    };
    allocation.stream(volume, blocks.div_ceil(8), &mut |bytes| {
        for &byte in bytes {
            let count = (blocks - next).min(8);
            match byte {
                0x00 => {
                    start.get_or_insert(next);
                }
                0xFF => used(next, &mut start)?,
                _ => {
                    for bit in 0..count {
                        if byte >> (7 - bit) & 1 == 0 {
                            start.get_or_insert(next + bit);
                        } else {
                            used(next + bit, &mut start)?;
                        }
                    }
                }
            }
            next += count;
        }
        Ok(())
    })?;
    used(blocks, &mut start)?;
    Ok(sum)
}
