//! `$Bitmap`: one bit for each cluster, the lowest bit of a byte first, 0 for a
//! free one.

use std::ops::Range;

use super::file::{Clusters, Stream};
use super::layout::{ATTRIBUTE_COMPRESSED, ATTRIBUTE_ENCRYPTED, ATTRIBUTE_SPARSE};
use super::mft::Disk;
use super::page_file::Merged;
use super::system::Occupied;
use crate::error::{Error, Result};
use crate::volume::FreeSink;

/// How much of the bitmap is in memory at a time.
const CHUNK: u64 = 1 << 20;

/// Sends all free clusters to `free`, as bytes of the volume, and those of
/// `page_files` with them; gives their number of bytes. Fails if the bitmap does not
/// cover the volume, or calls a cluster free that is known to be in use.
pub(super) fn free_ranges(
    disk: &Disk<'_>,
    bitmap: &Stream,
    occupied: &Occupied,
    page_files: &[Range<u64>],
    free: &mut FreeSink<'_>,
) -> Result<u64> {
    let clusters = checked(disk, bitmap)?;
    let unit = disk.geometry.cluster_size;
    let mut total = 0;
    let mut merged = Merged::new(page_files, |range| {
        total += (range.end - range.start) * unit;
        free(range.start * unit..range.end * unit);
    });
    let mut send = |range: Range<u64>| {
        if let Some((cluster, file)) = occupied.conflict(&range) {
            return Err(Error::invalid(format!(
                "$Bitmap calls cluster {cluster} free, which {file} uses"
            )));
        }
        merged.push(range)
    };
    // Only a bit that was written says that a cluster is free.
    let end = clusters.initialized.min(disk.geometry.clusters.div_ceil(8));
    let mut scan = Scan { clusters: disk.geometry.clusters, next: 0, start: None };
    let mut at = 0;
    let mut buf = vec![0; usize::try_from(CHUNK.min(end)).unwrap_or(0)];
    disk.will_read_map(clusters, 0..CHUNK);
    while at < end {
        let next = at + CHUNK;
        disk.will_read_map(clusters, next..next + CHUNK);
        let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(buf.len());
        let Some(chunk) = buf.get_mut(..length) else { break };
        disk.read_map(clusters, at, chunk)?;
        scan.bytes(chunk, &mut send)?;
        at += length as u64;
    }
    scan.finish(&mut send)?;
    merged.finish();
    Ok(total)
}

/// The bitmap's clusters, if it is stored as Windows stores it.
fn checked<'a>(disk: &Disk<'_>, bitmap: &'a Stream) -> Result<&'a Clusters> {
    let odd = |what: &str| Error::invalid(format!("$Bitmap {what}"));
    let clusters = bitmap.clusters().ok_or_else(|| odd("lies in its file record"))?;
    if bitmap.flags & ATTRIBUTE_COMPRESSED != 0 {
        return Err(odd("is compressed"));
    }
    if bitmap.flags & ATTRIBUTE_ENCRYPTED != 0 {
        return Err(odd("is encrypted"));
    }
    // A hole would read as zeros, that is as free, without anybody having said so.
    if bitmap.flags & ATTRIBUTE_SPARSE != 0 || clusters.runs.has_holes() {
        return Err(odd("has holes"));
    }
    if clusters.size < disk.geometry.clusters.div_ceil(8) {
        return Err(odd("is too short for the volume"));
    }
    Ok(clusters)
}

/// Joins free bits to ranges of clusters, across the borders of chunks.
struct Scan {
    clusters: u64,
    next: u64,
    start: Option<u64>,
}

impl Scan {
    fn bytes(
        &mut self,
        bytes: &[u8],
        send: &mut impl FnMut(Range<u64>) -> Result<()>,
    ) -> Result<()> {
        for &byte in bytes {
            match byte {
                0x00 if self.next + 8 <= self.clusters => {
                    self.start.get_or_insert(self.next);
                    self.next += 8;
                }
                0xFF => {
                    self.used(send)?;
                    self.next += 8;
                }
                _ => {
                    for bit in 0..8 {
                        if byte >> bit & 1 == 0 && self.next < self.clusters {
                            self.start.get_or_insert(self.next);
                        } else {
                            self.used(send)?;
                        }
                        self.next += 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// The cluster `next` is in use: ends the range before it.
    fn used(&mut self, send: &mut impl FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        match self.start.take() {
            Some(start) => send(start..self.next),
            None => Ok(()),
        }
    }

    fn finish(mut self, send: &mut impl FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        self.used(send)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(chunks: &[&[u8]], clusters: u64) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        let mut send = |range: Range<u64>| {
            found.push((range.start, range.end));
            Ok(())
        };
        let mut scan = Scan { clusters, next: 0, start: None };
        for chunk in chunks {
            scan.bytes(chunk, &mut send).unwrap();
        }
        scan.finish(&mut send).unwrap();
        found
    }

    #[test]
    fn ranges_join_across_bytes_and_chunks_and_end_with_the_volume() {
        assert_eq!(scan(&[&[0b0000_0111, 0], &[0b1000_0000]], 24), [(3, 23)]);
        assert_eq!(scan(&[&[0xFF, 0x00, 0xFF]], 24), [(8, 16)]);
        assert_eq!(scan(&[&[0b0101_0101]], 8), [(1, 2), (3, 4), (5, 6), (7, 8)]);
        // Bits after the last cluster say nothing.
        assert_eq!(scan(&[&[0xFF, 0x00]], 11), [(8, 11)]);
        assert_eq!(scan(&[&[0xFF, 0b1100_0000]], 13), [(8, 13)]);
        assert_eq!(scan(&[&[0x00]], 8), [(0, 8)]);
        assert!(scan(&[&[0xFF]], 3).is_empty());
    }
}
