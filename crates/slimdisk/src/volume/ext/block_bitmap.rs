//! Block bitmaps: a bit for each cluster of a group, 1 where it is in use.
//!
//! Source: the kernel's `Documentation/filesystems/ext4/bitmaps.rst` and
//! `checksums.rst`; `ext4_validate_block_bitmap` in `fs/ext4/balloc.c`.

use std::collections::VecDeque;
use std::ops::Range;

use super::RUN_FSCK;
use super::checksum::crc32c;
use super::features::ro_compat;
use super::group_descriptor::{self, GroupDescriptor};
use super::superblock::Superblock;
use crate::error::{Error, Result};
use crate::ranges::Ranges;
use crate::storage::ReadAt;

/// Bytes of adjacent bitmaps read at once.
const BATCH: u64 = 1 << 20;
/// How many such batches are under way at once.
const AHEAD: usize = 32;
/// Descriptors of this length have the high half of the bitmap's checksum.
const WIDE_CHECKSUM: u32 = 0x3A;

/// Reads every group's bitmap and passes on what is free.
pub(super) struct Bitmaps<'a> {
    fs: &'a Superblock,
    volume: &'a dyn ReadAt,
    /// The metadata of all groups.
    metadata: &'a Ranges,
    /// Further blocks that a sound bitmap cannot call free.
    journal: &'a Ranges,
    /// Takes free ranges in bytes.
    sink: &'a mut dyn FnMut(Range<u64>),
    /// Groups whose bitmaps lie one after the other, not yet asked for.
    batch: Vec<(u64, GroupDescriptor)>,
    /// Batches that have been asked for, in ascending order; a group without a written
    /// bitmap is one of its own.
    ahead: VecDeque<Vec<(u64, GroupDescriptor)>>,
    buf: Vec<u8>,
    /// The free blocks at the end of what has been judged, not yet passed on.
    pending: Range<u64>,
    free_clusters: u64,
    free_blocks: u64,
}

/// What all bitmaps together say.
pub(super) struct Totals {
    pub free_clusters: u64,
    pub free_blocks: u64,
}

impl<'a> Bitmaps<'a> {
    pub(super) fn new(
        fs: &'a Superblock,
        volume: &'a dyn ReadAt,
        metadata: &'a Ranges,
        journal: &'a Ranges,
        sink: &'a mut dyn FnMut(Range<u64>),
    ) -> Self {
        Bitmaps {
            fs,
            volume,
            metadata,
            journal,
            sink,
            batch: Vec::new(),
            ahead: VecDeque::new(),
            buf: Vec::new(),
            pending: 0..0,
            free_clusters: 0,
            free_blocks: 0,
        }
    }

    /// Judges all groups in ascending order.
    pub(super) fn read_all(mut self) -> Result<Totals> {
        let (fs, volume) = (self.fs, self.volume);
        group_descriptor::for_each(fs, volume, &mut |group, descriptor| {
            let follows = self.batch.last().is_none_or(|(_, last)| {
                !descriptor.block_uninit
                    && !last.block_uninit
                    && descriptor.block_bitmap == last.block_bitmap + 1
                    && fs.byte(self.batch.len() as u64 + 1) <= BATCH
            });
            if !follows {
                self.ask_for_batch()?;
            }
            self.batch.push((group, descriptor));
            Ok(())
        })?;
        self.ask_for_batch()?;
        while let Some(batch) = self.ahead.pop_front() {
            self.judge_batch(&batch)?;
        }
        self.pass_on()?;
        Ok(Totals { free_clusters: self.free_clusters, free_blocks: self.free_blocks })
    }

    /// Has the batch read while those before it are judged.
    fn ask_for_batch(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        let Some((_, first)) = batch.first() else { return Ok(()) };
        if !first.block_uninit {
            let start = self.fs.byte(first.block_bitmap);
            self.volume.will_read(&[start..start + self.fs.byte(batch.len() as u64)]);
        }
        self.ahead.push_back(batch);
        if self.ahead.len() > AHEAD
            && let Some(batch) = self.ahead.pop_front()
        {
            self.judge_batch(&batch)?;
        }
        Ok(())
    }

    fn judge_batch(&mut self, batch: &[(u64, GroupDescriptor)]) -> Result<()> {
        let Some((group, first)) = batch.first() else { return Ok(()) };
        if first.block_uninit {
            return self.judge_uninitialised(*group, first);
        }
        let mut buf = std::mem::take(&mut self.buf);
        // At most BATCH bytes.
        buf.resize(
            usize::try_from(self.fs.byte(batch.len() as u64)).unwrap_or_default(),
            0,
        );
        self.volume.read_at(self.fs.byte(first.block_bitmap), &mut buf)?;
        let bitmaps = buf.chunks_exact(self.fs.block_size as usize);
        for ((group, descriptor), bitmap) in batch.iter().zip(bitmaps) {
            self.check_checksum(*group, descriptor, bitmap)?;
            self.judge(*group, descriptor, bitmap)?;
        }
        self.buf = buf;
        Ok(())
    }

    fn check_checksum(
        &self,
        group: u64,
        descriptor: &GroupDescriptor,
        bitmap: &[u8],
    ) -> Result<()> {
        if !self.fs.features.ro_compat(ro_compat::METADATA_CSUM) {
            return Ok(());
        }
        let summed = bitmap.get(..self.fs.clusters_per_group as usize / 8);
        let sum = crc32c(self.fs.checksum_seed, summed.unwrap_or_default());
        let mask = if self.fs.desc_size >= WIDE_CHECKSUM { u32::MAX } else { 0xFFFF };
        if sum & mask == descriptor.bitmap_checksum & mask {
            return Ok(());
        }
        Err(self.broken(group, descriptor, "does not match its checksum"))
    }

    /// A group whose bitmap was never written: all free but for metadata, of
    /// this group or another.
    fn judge_uninitialised(
        &mut self,
        group: u64,
        descriptor: &GroupDescriptor,
    ) -> Result<()> {
        let blocks = self.fs.group(group);
        let ratio = u64::from(self.fs.cluster_ratio);
        let clusters = (blocks.end - blocks.start).div_ceil(ratio);
        let mut bitmap = vec![0; self.fs.block_size as usize];
        for range in self.metadata.within(blocks.clone()) {
            let first = (range.start - blocks.start) / ratio;
            set_bits(&mut bitmap, first..(range.end - blocks.start).div_ceil(ratio));
        }
        set_bits(&mut bitmap, clusters..u64::from(self.fs.block_size) * 8);
        self.judge(group, descriptor, &bitmap)
    }

    fn judge(
        &mut self,
        group: u64,
        descriptor: &GroupDescriptor,
        bitmap: &[u8],
    ) -> Result<()> {
        let blocks = self.fs.group(group);
        let ratio = u64::from(self.fs.cluster_ratio);
        let clusters = (blocks.end - blocks.start).div_ceil(ratio);
        let bits = u64::from(self.fs.block_size) * 8;
        if next(bitmap, clusters..bits, false) != bits {
            return Err(self.broken(group, descriptor, "has clear bits past its end"));
        }
        let mut free_clusters = 0;
        let mut at = 0;
        while at < clusters {
            let start = next(bitmap, at..clusters, false);
            at = next(bitmap, start..clusters, true);
            if start < at {
                free_clusters += at - start;
                let end = (blocks.start + at * ratio).min(blocks.end);
                self.add(blocks.start + start * ratio..end)?;
            }
        }
        if free_clusters != u64::from(descriptor.free_clusters) {
            let count = descriptor.free_clusters;
            return Err(self.broken(
                group,
                descriptor,
                &format!(
                    "has {free_clusters} free clusters, its group descriptor {count}"
                ),
            ));
        }
        self.free_clusters += free_clusters;
        Ok(())
    }

    /// Takes free blocks, in ascending order.
    fn add(&mut self, free: Range<u64>) -> Result<()> {
        if self.pending.end == free.start {
            self.pending.end = free.end;
            return Ok(());
        }
        self.pass_on()?;
        self.pending = free;
        Ok(())
    }

    fn pass_on(&mut self) -> Result<()> {
        let free = std::mem::take(&mut self.pending);
        if free.is_empty() {
            return Ok(());
        }
        for (owner, used) in [("metadata", self.metadata), ("the journal", self.journal)]
        {
            if let Some(found) = used.within(free.clone()).next() {
                return Err(Error::invalid(format!(
                    "a block bitmap calls a block of {owner} free: {RUN_FSCK}"
                ))
                .at(self.fs.byte(found.start)));
            }
        }
        self.free_blocks += free.end - free.start;
        (self.sink)(self.fs.byte(free.start)..self.fs.byte(free.end));
        Ok(())
    }

    fn broken(&self, group: u64, descriptor: &GroupDescriptor, what: &str) -> Error {
        Error::invalid(format!("the block bitmap of group {group} {what}: {RUN_FSCK}"))
            .at(self.fs.byte(descriptor.block_bitmap))
    }
}

/// The first bit of `bits` that is `wanted`, or the end.
fn next(bitmap: &[u8], bits: Range<u64>, wanted: bool) -> u64 {
    let mut at = bits.start;
    while at < bits.end {
        let word = usize::try_from(at / 64).ok().and_then(|word| {
            bitmap.get(word * 8..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
        });
        let Some(word) = word else { break };
        let hits = (if wanted { word } else { !word }) >> (at % 64);
        if hits != 0 {
            return (at + u64::from(hits.trailing_zeros())).min(bits.end);
        }
        at = (at / 64 + 1) * 64;
    }
    bits.end
}

fn set_bits(bitmap: &mut [u8], bits: Range<u64>) {
    for bit in bits {
        let byte = usize::try_from(bit / 8).ok().and_then(|byte| bitmap.get_mut(byte));
        if let Some(byte) = byte {
            *byte |= 1 << (bit % 8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_finds_every_bit_across_words() {
        for bit in 0..192 {
            let mut bitmap = [0u8; 24];
            set_bits(&mut bitmap, bit..bit + 1);
            for from in 0..=bit {
                assert_eq!(next(&bitmap, from..192, true), bit);
            }
            assert_eq!(next(&bitmap, bit + 1..192, true), 192);
            assert_eq!(next(&bitmap, 0..bit, true), bit, "stops at the end");
            let inverse = bitmap.map(|byte| !byte);
            assert_eq!(next(&inverse, 0..192, false), bit);
        }
    }
}
