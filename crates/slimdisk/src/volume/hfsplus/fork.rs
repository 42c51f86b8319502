//! Forks: which blocks hold a special file.

use zerocopy::IntoBytes;

use super::REPAIR;
use super::btree::ExtentsTree;
use super::on_disk::{RawExtent, RawFork};
use super::volume_header::VolumeHeader;
use crate::error::{Error, Result};
use crate::storage::ReadAt;

/// How many extents of one file are followed, so that memory stays bounded; a special
/// file has a handful of them.
const MAX_EXTENTS: usize = 1 << 12;

/// How much of a file is read at once.
const BATCH: u64 = 1 << 18;

/// A special file with all of its extents.
pub(super) struct Fork {
    pub(super) name: &'static str,
    pub(super) size: u64,
    /// First block and number of blocks, inside the volume.
    pub(super) extents: Vec<(u64, u64)>,
    block_size: u64,
}

impl Fork {
    /// Takes the extents of the volume header, and those in the extents overflow file,
    /// if there is one to ask.
    pub(super) fn open(
        name: &'static str,
        raw: &RawFork,
        header: &VolumeHeader,
        overflow: Option<(&ExtentsTree<'_>, u32)>,
    ) -> Result<Self> {
        let total = raw.total_blocks.get();
        let mut fork = Fork {
            name,
            size: raw.logical_size.get(),
            extents: Vec::new(),
            block_size: header.block_size,
        };
        let mut found = 0;
        fork.extend(&raw.extents, header, &mut found)?;
        if let Some((tree, file)) = overflow
            && found < total
        {
            tree.each(file, &mut |first, extents| {
                if first != found {
                    return Err(fork.damaged());
                }
                fork.extend(extents, header, &mut found)
            })?;
        }
        // An empty file has no blocks at all.
        if found != total || fork.size > u64::from(total) * fork.block_size {
            return Err(fork.damaged());
        }
        Ok(fork)
    }

    fn extend(
        &mut self,
        extents: &[RawExtent; 8],
        header: &VolumeHeader,
        found: &mut u32,
    ) -> Result<()> {
        for extent in extents {
            let (start, count) = (extent.start.get(), extent.count.get());
            if count == 0 {
                break;
            }
            let end = start.checked_add(count).filter(|end| *end <= header.blocks);
            let sum = found.checked_add(count);
            let (Some(_), Some(sum)) = (end, sum) else {
                return Err(self.damaged());
            };
            if self.extents.len() == MAX_EXTENTS {
                return Err(Error::invalid(format!(
                    "{} lies in too many pieces: {REPAIR}",
                    self.name
                )));
            }
            *found = sum;
            self.extents.push((start.into(), count.into()));
        }
        Ok(())
    }

    fn damaged(&self) -> Error {
        Error::invalid(format!("the extents of {} are damaged: {REPAIR}", self.name))
    }

    /// Reads bytes of the file; they must be within its blocks.
    pub(super) fn read(
        &self,
        volume: &dyn ReadAt,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        let (mut skip, mut rest) = (offset, buf);
        for (start, count) in &self.extents {
            let bytes = count * self.block_size;
            if rest.is_empty() {
                break;
            }
            if skip >= bytes {
                skip -= bytes;
                continue;
            }
            let here =
                usize::try_from(bytes - skip).unwrap_or(usize::MAX).min(rest.len());
            let (piece, after) = rest.split_at_mut(here);
            volume.read_at(start * self.block_size + skip, piece)?;
            (skip, rest) = (0, after);
        }
        if rest.is_empty() { Ok(()) } else { Err(self.damaged()) }
    }

    /// Reads one structure of the file.
    pub(super) fn read_struct<T: zerocopy::FromBytes + IntoBytes>(
        &self,
        volume: &dyn ReadAt,
        offset: u64,
    ) -> Result<T> {
        let mut value = T::new_zeroed();
        self.read(volume, offset, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Hands out the first `length` bytes of the file in pieces.
    pub(super) fn stream(
        &self,
        volume: &dyn ReadAt,
        length: u64,
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut rest = length;
        let mut buf = Vec::new();
        for (start, count) in &self.extents {
            let (mut at, end) =
                (start * self.block_size, (start + count) * self.block_size);
            while at < end && rest > 0 {
                let here = (end - at).min(BATCH).min(rest);
                buf.resize(usize::try_from(here).unwrap_or(0), 0);
                volume.read_at(at, &mut buf)?;
                each(&buf)?;
                at += here;
                rest -= here;
            }
        }
        if rest == 0 { Ok(()) } else { Err(self.damaged()) }
    }
}
