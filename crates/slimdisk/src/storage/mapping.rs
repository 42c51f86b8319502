//! Volumes whose bytes do not lie in one piece.
//!
//! ```text
//! volume:  |--- segment 0 ---|-- segment 1 --|
//!            one piece          two stripes: a0 b0 a1 b1 ...
//! disk:    ...| b0 b1 ... |...|--- segment 0 ---|...| a0 a1 ... |...
//! ```

use std::ops::Range;

use super::{ReadAt, past_the_end};
use crate::error::Result;

/// Where the bytes of a volume lie on a disk: segment after segment, each of them
/// dealt out over one or more stripes.
///
/// Whoever makes one sees to it that no byte of the disk is named twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping {
    segments: Vec<Segment>,
    len: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    /// Its place in the volume.
    range: Range<u64>,
    /// Where on the disk each stripe begins.
    stripes: Vec<u64>,
    /// How many bytes a stripe gets before it is the next one's turn.
    chunk: u64,
}

impl Segment {
    fn stripe(&self, index: u64) -> u64 {
        let start = usize::try_from(index).ok().and_then(|i| self.stripes.get(i));
        // Not reached: an index is a remainder of their number.
        start.copied().unwrap_or(u64::MAX)
    }

    /// Where the byte at `at` of the segment lies, and how many bytes follow it in
    /// the same chunk.
    fn locate(&self, at: u64) -> (u64, u64) {
        let count = self.stripes.len() as u64;
        let (chunk, within) = (at / self.chunk, at % self.chunk);
        let start = self.stripe(chunk % count) + chunk / count * self.chunk + within;
        (start, self.chunk - within)
    }

    /// Sends the places of `range` of the segment to `sink`: what fills whole rows
    /// of chunks is one piece a stripe.
    fn pieces(&self, range: Range<u64>, sink: &mut dyn FnMut(Range<u64>)) {
        let row = self.chunk * self.stripes.len() as u64;
        let rows = range.start.div_ceil(row)..range.end / row;
        let by_chunk = |mut at: u64, end: u64, sink: &mut dyn FnMut(Range<u64>)| {
            while at < end {
                let (start, left) = self.locate(at);
                let len = left.min(end - at);
                sink(start..start + len);
                at += len;
            }
        };
        if rows.start >= rows.end {
            return by_chunk(range.start, range.end, sink);
        }
        by_chunk(range.start, rows.start * row, sink);
        for start in &self.stripes {
            sink(start + rows.start * self.chunk..start + rows.end * self.chunk);
        }
        by_chunk(rows.end * row, range.end, sink);
    }
}

impl Mapping {
    /// A volume in one piece.
    #[must_use]
    pub fn contiguous(range: Range<u64>) -> Self {
        let mut mapping = Mapping::default();
        mapping.push(vec![range.start], 1, range.end.saturating_sub(range.start));
        mapping
    }

    /// Adds a segment of `len` bytes. Its bytes are dealt out in chunks of `chunk`
    /// bytes to `stripes`, the places on the disk where each of them begins; `len`
    /// is a multiple of all that one round takes.
    ///
    /// A segment of no bytes, stripes or chunk adds nothing.
    pub fn push(&mut self, stripes: Vec<u64>, chunk: u64, len: u64) {
        if stripes.is_empty() || chunk == 0 || len == 0 {
            return;
        }
        // One stripe takes everything at once.
        let chunk = if stripes.len() == 1 { len } else { chunk };
        let range = self.len..self.len + len;
        self.len = range.end;
        self.segments.push(Segment { range, stripes, chunk });
    }

    /// How many bytes the volume has.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks whether it is empty")]
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The place of the first byte.
    #[must_use]
    pub fn start(&self) -> Option<u64> {
        self.segments.first().map(|segment| segment.locate(0).0)
    }

    /// Sends the places on the disk of `range` of the volume to `sink`, in any
    /// order; together they have as many bytes. There are at most a few for each
    /// stripe of each segment, however long the range is.
    pub fn pieces(&self, range: Range<u64>, sink: &mut dyn FnMut(Range<u64>)) {
        let first = self.segments.partition_point(|s| s.range.end <= range.start);
        for segment in self.segments.iter().skip(first) {
            let own = &segment.range;
            if own.start >= range.end {
                break;
            }
            let (start, end) = (range.start.max(own.start), range.end.min(own.end));
            if start < end {
                segment.pieces(start - own.start..end - own.start, sink);
            }
        }
    }

    /// The place of the byte at `offset`, and how many bytes lie there in one piece.
    fn run(&self, offset: u64) -> Option<(u64, u64)> {
        let index = self.segments.partition_point(|s| s.range.end <= offset);
        let segment = self.segments.get(index)?;
        let (start, chunk) = segment.locate(offset - segment.range.start);
        Some((start, chunk.min(segment.range.end - offset)))
    }
}

/// A volume as bytes of its own, read through its [`Mapping`].
pub struct Mapped<'a> {
    whole: &'a dyn ReadAt,
    mapping: &'a Mapping,
}

impl<'a> Mapped<'a> {
    /// The bytes of `whole` that `mapping` names.
    #[must_use]
    pub fn new(whole: &'a dyn ReadAt, mapping: &'a Mapping) -> Self {
        Mapped { whole, mapping }
    }

    /// Where its bytes lie.
    #[must_use]
    pub fn mapping(&self) -> &'a Mapping {
        self.mapping
    }
}

impl ReadAt for Mapped<'_> {
    fn len(&self) -> u64 {
        self.mapping.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let past = || past_the_end(offset, buf.len() as u64, self.len());
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len()) {
            return Err(past());
        }
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let Some((start, len)) = self.mapping.run(at) else {
                return Err(past_the_end(at, rest.len() as u64, self.len()));
            };
            let len = usize::try_from(len).unwrap_or(rest.len()).min(rest.len());
            let (piece, after) = rest.split_at_mut(len);
            self.whole.read_at(start, piece)?;
            at += len as u64;
            rest = after;
        }
        Ok(())
    }

    fn will_read(&self, ranges: &[Range<u64>]) {
        let mut pieces = Vec::with_capacity(ranges.len());
        for range in ranges {
            self.mapping.pieces(range.clone(), &mut |piece| pieces.push(piece));
        }
        self.whole.will_read(&pieces);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn index(at: u64) -> usize {
        usize::try_from(at).unwrap()
    }

    /// The place of every byte, one by one.
    fn places(segments: &[(&[u64], u64, u64)]) -> Vec<u64> {
        let mut places = Vec::new();
        for (stripes, chunk, len) in segments {
            for at in 0..*len {
                let (number, within) = (at / chunk, at % chunk);
                let stripe = stripes[index(number % stripes.len() as u64)];
                places.push(stripe + number / stripes.len() as u64 * chunk + within);
            }
        }
        places
    }

    #[test]
    fn every_range_has_the_places_of_its_bytes() {
        let segments: &[(&[u64], u64, u64)] = &[
            (&[100], 7, 13),
            (&[200, 40, 300], 4, 36),
            (&[0], 1, 1),
            (&[60, 70], 2, 20),
        ];
        let mut mapping = Mapping::default();
        for (stripes, chunk, len) in segments {
            mapping.push(stripes.to_vec(), *chunk, *len);
        }
        mapping.push(vec![9], 9, 0);
        mapping.push(vec![], 9, 9);
        let places = places(segments);
        assert_eq!(mapping.len(), places.len() as u64);
        assert_eq!(mapping.start(), Some(100));
        let disk: Vec<u8> = (0..=255).chain(0..=255).map(|b: u8| b ^ 0x5A).collect();
        let volume = Mapped::new(&disk, &mapping);
        for start in 0..=places.len() {
            for end in start..=places.len() {
                let mut found = Vec::new();
                let mut pieces = 0;
                mapping.pieces(start as u64..end as u64, &mut |piece| {
                    assert!(piece.start < piece.end);
                    pieces += 1;
                    found.extend(piece);
                });
                found.sort_unstable();
                let mut expected = places[start..end].to_vec();
                expected.sort_unstable();
                assert_eq!(found, expected, "{start}..{end}");
                let mut bytes = vec![0; end - start];
                volume.read_at(start as u64, &mut bytes).unwrap();
                let expected: Vec<u8> =
                    places[start..end].iter().map(|at| disk[index(*at)]).collect();
                assert_eq!(bytes, expected, "{start}..{end}");
            }
        }
        for (offset, len) in [(0, 71), (70, 1), (71, 1), (u64::MAX, 1), (1, 70)] {
            let error = volume.read_at(offset, &mut vec![0; len]).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidImage);
        }
    }

    #[test]
    fn a_long_range_of_small_chunks_is_few_pieces() {
        let mut mapping = Mapping::default();
        mapping.push(vec![0, 1 << 50], 4096, 1 << 46);
        let mut pieces = 0;
        mapping.pieces(1..(1 << 46) - 1, &mut |_| pieces += 1);
        assert!(pieces <= 6, "{pieces}");
        mapping = Mapping::contiguous(5..1 << 60);
        pieces = 0;
        mapping.pieces(0..mapping.len(), &mut |piece| {
            assert_eq!(piece, 5..1 << 60);
            pieces += 1;
        });
        assert_eq!(pieces, 1);
    }
}
