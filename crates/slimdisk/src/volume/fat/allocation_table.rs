//! The file allocation table: one entry for each cluster, 0 for a free one.

use zerocopy::little_endian::{U16, U32};

use super::RUN_CHKDSK;
use super::boot::{Volume, Width};
use crate::error::{Error, Result};
use crate::storage::{ReadAt, read_struct};
use crate::volume::FreeSink;
use crate::volume::cluster_heap::{FIRST, FreeClusters, Occupied};

/// How much of each copy is in memory at a time: whole entries of every width.
const CHUNK: u64 = 3 << 18;

/// What an entry says of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Free,
    /// In use; the file goes on in this cluster.
    Next(u32),
    Last,
    Bad,
    /// No cluster of the volume.
    Impossible(u32),
}

impl Volume {
    fn classify(&self, value: u32) -> Entry {
        let last: u32 = match self.width {
            Width::Fat12 => 0xFFF,
            Width::Fat16 => 0xFFFF,
            Width::Fat32 => 0x0FFF_FFFF,
        };
        if value == 0 {
            Entry::Free
        } else if self.heap.contains(value) {
            Entry::Next(value)
        } else if value >= last - 7 {
            Entry::Last
        } else if value == last - 8 {
            Entry::Bad
        } else {
            Entry::Impossible(value)
        }
    }

    /// Where the copy that is read first begins.
    fn copy(&self, copy: u8) -> u64 {
        self.fat_start + u64::from(copy) * self.fat_size
    }

    /// The entry of one cluster, which exists.
    pub(super) fn entry(&self, volume: &dyn ReadAt, cluster: u32) -> Result<Entry> {
        let bit = u64::from(cluster) * self.width.bits();
        let at = self.copy(self.active.unwrap_or(0)) + bit / 8;
        let value = match self.width {
            Width::Fat32 => read_struct::<U32>(volume, at)?.get(),
            _ => read_struct::<U16>(volume, at)?.get().into(),
        };
        Ok(self.classify(self.of_raw(value, cluster)))
    }

    /// Of the bytes an entry lies in, the entry.
    fn of_raw(&self, raw: u32, cluster: u32) -> u32 {
        match self.width {
            Width::Fat12 if cluster % 2 == 1 => raw >> 4 & 0xFFF,
            Width::Fat12 => raw & 0xFFF,
            Width::Fat16 => raw,
            // The upper four bits are not the entry's.
            Width::Fat32 => raw & 0x0FFF_FFFF,
        }
    }

    /// Entry `index` of a chunk that begins with an even one.
    fn in_chunk(&self, chunk: &[u8], index: usize, cluster: u32) -> Option<u32> {
        let raw = if self.width == Width::Fat32 {
            u32::from_le_bytes(*chunk.get(index * 4..)?.first_chunk()?)
        } else {
            let at = if self.width == Width::Fat16 { index * 2 } else { index * 3 / 2 };
            u16::from_le_bytes(*chunk.get(at..)?.first_chunk()?).into()
        };
        Some(self.of_raw(raw, cluster))
    }

    /// Checks the two entries that belong to no cluster: the media byte, and in
    /// FAT16 and FAT32 the flags of a clean shutdown and of no hard errors.
    pub(super) fn check_head(&self, volume: &dyn ReadAt) -> Result<()> {
        let at = self.copy(self.active.unwrap_or(0));
        let mut head = [0; 8];
        volume.read_at(at, &mut head)?;
        let (Some(first), Some(second)) =
            (self.in_chunk(&head, 0, 0), self.in_chunk(&head, 1, 1))
        else {
            return Ok(());
        };
        let (ones, clean, no_errors) = match self.width {
            Width::Fat12 => (0xFFF, 0, 0),
            Width::Fat16 => (0xFFFF, 0x8000, 0x4000),
            Width::Fat32 => (0x0FFF_FFFF, 0x0800_0000, 0x0400_0000),
        };
        let wrong = |what: &str| Err(Error::invalid(format!("the FAT {what}")).at(at));
        if first != ones & !0xFF | u32::from(self.media) {
            return wrong(&format!("does not begin with the media byte: {RUN_CHKDSK}"));
        }
        if second | clean | no_errors < ones - 7 {
            return wrong(&format!("has an impossible second entry: {RUN_CHKDSK}"));
        }
        if second & clean != clean {
            return wrong(&format!(
                "says that the volume was not unmounted: {RUN_CHKDSK}"
            ));
        }
        if second & no_errors != no_errors {
            return wrong(
                "says that the disk had errors: run chkdsk /r on the volume in Windows",
            );
        }
        Ok(())
    }

    /// Sends all free clusters to `free`, as bytes of the volume, and gives their
    /// number of bytes.
    ///
    /// Copies that are kept alike must be alike. If only one of them is up to date,
    /// a cluster is free if all say so: not every system heeds which one it is.
    pub(super) fn free_clusters(
        &self,
        volume: &dyn ReadAt,
        occupied: &[Occupied<'_>],
        free: &mut FreeSink<'_>,
    ) -> Result<u64> {
        let entries = u64::from(self.heap.clusters) + u64::from(FIRST);
        let end = (entries * self.width.bits()).div_ceil(8);
        let size = usize::try_from(CHUNK.min(end)).unwrap_or(0);
        let leading = self.active.unwrap_or(0);
        let others: Vec<u8> = (0..self.fats).filter(|copy| *copy != leading).collect();
        let mut buf = vec![0; size];
        let mut other_bufs = vec![vec![0; size]; others.len()];
        let mut found = FreeClusters::new(self.heap, occupied, free);
        let (mut at, mut cluster) = (0, 0);
        while at < end {
            let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(size);
            let chunk = buf.get_mut(..length).unwrap_or_default();
            volume.read_at(self.copy(leading) + at, chunk)?;
            for (copy, other) in others.iter().zip(&mut other_bufs) {
                let other = other.get_mut(..length).unwrap_or_default();
                volume.read_at(self.copy(*copy) + at, other)?;
                if self.active.is_none() && chunk != other {
                    return Err(differ(self, at, chunk, other, *copy));
                }
            }
            let bits = length as u64 * 8;
            let count = usize::try_from(bits / self.width.bits()).unwrap_or(0);
            for index in 0..count {
                if u64::from(cluster) >= entries {
                    break;
                }
                let Some(value) = self.in_chunk(chunk, index, cluster) else { break };
                self.tell(&mut found, cluster, value, || {
                    self.active.is_none()
                        || other_bufs
                            .iter()
                            .all(|other| self.in_chunk(other, index, cluster) == Some(0))
                })?;
                cluster += 1;
            }
            at += length as u64;
        }
        if u64::from(cluster) != entries {
            // What was not told must not count as free.
            return Err(Error::invalid(format!(
                "the FAT was read up to cluster {cluster} of {entries}: {RUN_CHKDSK}"
            )));
        }
        found.finish()
    }

    fn tell(
        &self,
        found: &mut FreeClusters<'_, '_>,
        cluster: u32,
        value: u32,
        others_agree: impl Fn() -> bool,
    ) -> Result<()> {
        if cluster < FIRST {
            return Ok(());
        }
        match self.classify(value) {
            Entry::Free if others_agree() => {
                found.free(cluster);
                Ok(())
            }
            Entry::Impossible(next) => Err(Error::invalid(format!(
                "the FAT continues cluster {cluster} in cluster {next}, which does not \
                 exist: {RUN_CHKDSK}"
            ))),
            _ => found.used(cluster),
        }
    }
}

fn differ(fat: &Volume, at: u64, one: &[u8], other: &[u8], copy: u8) -> Error {
    let first = one.iter().zip(other).position(|(a, b)| a != b).unwrap_or(0) as u64;
    Error::invalid(format!("the copies of the FAT are not the same: {RUN_CHKDSK}"))
        .at(fat.copy(copy) + at + first)
}
