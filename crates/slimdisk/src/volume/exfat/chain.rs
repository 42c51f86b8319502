//! Chains of clusters in the FAT, which in exFAT says nothing of what is free.

use std::ops::Range;

use zerocopy::little_endian::U32;

use super::RUN_CHKDSK;
use super::boot::Volume;
use crate::error::{Error, Result};
use crate::ranges::Ranges;
use crate::storage::{ReadAt, read_struct};

/// More pieces than this a system structure does not have.
const MAX_PIECES: usize = 4096;

const LAST: u32 = 0xFFFF_FFFF;

/// The bytes of a chain, in its order.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) pieces: Vec<Range<u64>>,
    pub(super) bytes: Ranges,
}

impl Chain {
    /// Follows the chain of `what` from `first` on to its end, which must come
    /// after no more than `most` clusters.
    pub(super) fn follow(
        volume: &dyn ReadAt,
        exfat: &Volume,
        what: &str,
        first: u32,
        most: u64,
    ) -> Result<Self> {
        let damaged = |how: &str, cluster: u32| {
            Err(Error::invalid(format!("{what} {how} (cluster {cluster}): {RUN_CHKDSK}")))
        };
        let heap = &exfat.heap;
        let mut pieces: Vec<Range<u64>> = Vec::new();
        let mut cluster = first;
        for _ in 0..most.min(heap.clusters.into()) {
            if !heap.contains(cluster) {
                return damaged("leaves the volume", cluster);
            }
            let bytes = heap.bytes(cluster, 1);
            match pieces.last_mut() {
                Some(last) if last.end == bytes.start => last.end = bytes.end,
                _ => pieces.push(bytes),
            }
            if pieces.len() > MAX_PIECES {
                return damaged("lies in too many pieces", first);
            }
            let at = exfat.fat + u64::from(cluster) * 4;
            cluster = read_struct::<U32>(volume, at)?.get();
            // What ends has not come by any cluster twice.
            if cluster == LAST {
                return Ok(Chain { bytes: pieces.iter().cloned().collect(), pieces });
            }
        }
        damaged("has no end where it should", first)
    }

    /// Follows a chain that holds `length` bytes and no cluster more.
    pub(super) fn of_length(
        volume: &dyn ReadAt,
        exfat: &Volume,
        what: &str,
        first: u32,
        length: u64,
    ) -> Result<Self> {
        let clusters = exfat.heap.needed(length);
        let chain = Self::follow(volume, exfat, what, first, clusters)?;
        if chain.bytes.total() != clusters * exfat.heap.cluster_size {
            return Err(Error::invalid(format!(
                "{what} has fewer clusters than its {length} bytes need: {RUN_CHKDSK}"
            )));
        }
        Ok(chain)
    }

    /// Hands the first `length` bytes to `take`, a piece at a time.
    pub(super) fn stream(
        &self,
        volume: &dyn ReadAt,
        length: u64,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        const CHUNK: u64 = 1 << 20;
        let mut left = length;
        let mut buf = vec![0; usize::try_from(CHUNK.min(length)).unwrap_or(0)];
        for piece in &self.pieces {
            let end = piece.end.min(piece.start.saturating_add(left));
            left -= end - piece.start;
            let mut at = piece.start;
            while at < end {
                let size = usize::try_from(end - at).unwrap_or(usize::MAX).min(buf.len());
                let Some(chunk) = buf.get_mut(..size).filter(|chunk| !chunk.is_empty())
                else {
                    return Ok(());
                };
                volume.read_at(at, chunk)?;
                take(chunk)?;
                at += size as u64;
            }
        }
        Ok(())
    }
}
