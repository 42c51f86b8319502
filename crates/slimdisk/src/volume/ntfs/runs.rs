//! Run lists: which clusters of the volume hold an attribute's value.
//!
//! A run is a header byte (how many bytes the length and the offset take), the
//! length in clusters, and the signed distance from the previous run's cluster;
//! no offset at all makes it a hole. Source: ntfs-3g `runlist.c`, "mapping pairs".

use super::boot::Geometry;
use crate::error::{Error, Result};

/// A stretch of an attribute's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The first cluster of the value.
    pub(super) vcn: u64,
    /// The first cluster of the volume; `None` in a hole.
    pub(super) lcn: Option<u64>,
    /// In clusters, never 0.
    pub(super) length: u64,
}

/// An attribute's runs, without gaps from VCN 0 on and inside the volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RunList(Vec<Run>);

impl RunList {
    /// Appends the runs that `bytes` encode; they must go on where the list ends
    /// and end just before VCN `end`.
    pub(super) fn append(
        &mut self,
        bytes: &[u8],
        end: u64,
        geometry: &Geometry,
    ) -> Result<()> {
        let max_vcn = i64::MAX.unsigned_abs() / geometry.cluster_size;
        let mut rest = bytes;
        let mut last = 0i64;
        loop {
            let (&header, tail) = rest.split_first().ok_or_else(damaged)?;
            if header == 0 {
                break;
            }
            let (length, tail) = signed(tail, header & 0x0F).ok_or_else(damaged)?;
            let (delta, tail) = signed(tail, header >> 4).ok_or_else(damaged)?;
            rest = tail;
            let length =
                u64::try_from(length).ok().filter(|n| *n > 0).ok_or_else(damaged)?;
            let vcn = self.end();
            if length > max_vcn || vcn + length > max_vcn {
                return Err(damaged());
            }
            last = last.checked_add(delta).ok_or_else(damaged)?;
            // Before NTFS 3.0 a hole was also written as cluster -1.
            let lcn = if header >> 4 == 0 || last == -1 {
                None
            } else {
                let lcn = u64::try_from(last).map_err(|_| damaged())?;
                if lcn >= geometry.clusters || length > geometry.clusters - lcn {
                    return Err(Error::invalid(format!(
                        "a run list names clusters {lcn} to {lcn}+{length}, but the \
                         volume has {}",
                        geometry.clusters
                    )));
                }
                Some(lcn)
            };
            self.0.push(Run { vcn, lcn, length });
        }
        if self.end() != end {
            return Err(damaged());
        }
        Ok(())
    }

    /// The clusters that the list speaks of.
    pub(super) fn end(&self) -> u64 {
        self.0.last().map_or(0, |run| run.vcn + run.length)
    }

    /// How many runs there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The runs in ascending order of their VCN.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Run> {
        self.0.iter()
    }

    /// Whether a part of the value has no clusters.
    pub(super) fn has_holes(&self) -> bool {
        self.0.iter().any(|run| run.lcn.is_none())
    }

    /// The run that holds cluster `vcn` of the value.
    pub(super) fn find(&self, vcn: u64) -> Option<&Run> {
        self.from(vcn).first().filter(|run| run.vcn <= vcn)
    }

    /// The runs from cluster `vcn` of the value on.
    pub(super) fn from(&self, vcn: u64) -> &[Run] {
        let first = self.0.partition_point(|run| run.vcn + run.length <= vcn);
        self.0.get(first..).unwrap_or_default()
    }
}

/// A little-endian signed number of `size` bytes, 0 to 8, and what follows it.
fn signed(bytes: &[u8], size: u8) -> Option<(i64, &[u8])> {
    let (number, rest) = bytes.split_at_checked(usize::from(size))?;
    let fill = if number.last().is_some_and(|top| top & 0x80 != 0) { 0xFF } else { 0 };
    let mut padded = [fill; 8];
    padded.get_mut(..number.len())?.copy_from_slice(number);
    Some((i64::from_le_bytes(padded), rest))
}

fn damaged() -> Error {
    Error::invalid("a run list is damaged")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(clusters: u64) -> Geometry {
        Geometry {
            cluster_size: 4096,
            clusters,
            sectors_end: clusters * 4096,
            mft_cluster: 4,
            mirror_cluster: 2,
            record_size: 1024,
        }
    }

    fn decode(bytes: &[u8], end: u64) -> Option<Vec<(u64, Option<u64>, u64)>> {
        let mut list = RunList::default();
        list.append(bytes, end, &geometry(0x10000)).ok()?;
        Some(list.iter().map(|run| (run.vcn, run.lcn, run.length)).collect())
    }

    #[test]
    fn deltas_go_both_ways_and_holes_keep_the_place() {
        let bytes = [
            0x21, 0x18, 0x34, 0x56, // 24 clusters at 0x5634
            0x11, 0x08, 0xF0, // 8 clusters at 0x5624
            0x01, 0x20, // a hole of 32
            0x22, 0x00, 0x01, 0x00, 0xC0, // 256 clusters at 0x1624
            0x00,
        ];
        assert_eq!(
            decode(&bytes, 320).unwrap(),
            [
                (0, Some(0x5634), 24),
                (24, Some(0x5624), 8),
                (32, None, 32),
                (64, Some(0x1624), 256),
            ]
        );
    }

    #[test]
    fn find_gives_the_run_of_a_cluster() {
        let mut list = RunList::default();
        list.append(&[0x11, 4, 100, 0x01, 2, 0x11, 1, 50, 0], 7, &geometry(1000))
            .unwrap();
        let lcns = |vcn| list.find(vcn).map(|run| run.lcn);
        assert_eq!(lcns(0), Some(Some(100)));
        assert_eq!(lcns(3), Some(Some(100)));
        assert_eq!(lcns(4), Some(None));
        assert_eq!(lcns(6), Some(Some(150)));
        assert_eq!(lcns(7), None);
    }

    #[test]
    fn hostile_lists_are_refused() {
        let refused: &[(&[u8], u64)] = &[
            (&[], 0),                                                            // no end mark
            (&[0x21, 0x18], 24),         // cut off
            (&[0x11, 0, 5, 0], 0),       // nothing in it
            (&[0x11, 0x80, 5, 0], 0x80), // a negative length
            (&[0x10, 5, 0], 0),          // no length at all
            (&[0x11, 4, 0xF0, 0], 4),    // before the volume
            (&[0x21, 4, 0xFF, 0x7F, 0x21, 4, 0xFF, 0x7F, 0x21, 4, 2, 0, 0], 12), // past its end
            (&[0x31, 2, 0xFF, 0xFF, 0, 0], 2), // across its end
            (&[0x11, 4, 5, 0], 5),             // shorter than said
            (&[0x11, 4, 5, 0], 3),             // longer than said
            (&[0x91, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0], 4), // nine bytes of offset
            (&[0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 0], u64::MAX),
            (
                &[
                    0x81, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F, //
                    0x81, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 0,
                ],
                2,
            ),
        ];
        for (bytes, end) in refused {
            assert_eq!(decode(bytes, *end), None, "{bytes:02x?}");
        }
        // The last cluster itself is fine.
        assert!(decode(&[0x31, 1, 0xFF, 0xFF, 0, 0], 1).is_some());
    }
}
