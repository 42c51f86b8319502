//! What a log changes, laid over the file that it has not been written to yet.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::error::Result;
use crate::image::vhdx::raw::PAGE;
use crate::storage::{ReadAt, Storage, past_the_end};

/// How many zeros are written at once.
const ZEROS: usize = 1 << 20;

/// What is to lie in a range of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    Zeros,
    /// One page.
    Data {
        /// Where in the file the log has it.
        at: u64,
        /// Its first bytes, in the place of which the log has others.
        leading: [u8; 8],
        /// Its last bytes.
        trailing: [u8; 4],
    },
}

/// The pieces, none on another; data stays in the log until it is read.
#[derive(Debug, Default)]
pub struct Overlay {
    pieces: BTreeMap<u64, (u64, Piece)>,
    /// Where those of data begin, for there may be very many of zeros.
    data: BTreeSet<u64>,
    /// How long the file must be at least.
    least_len: u64,
}

impl Overlay {
    pub fn new(least_len: u64) -> Self {
        Overlay { least_len, ..Overlay::default() }
    }

    /// Puts a piece over all that lies in its range; both ends of which are multiples
    /// of a page.
    pub fn lay(&mut self, range: Range<u64>, piece: Piece) {
        if range.start >= range.end {
            return;
        }
        self.least_len = self.least_len.max(range.end);
        // A piece that begins before it may reach into it or beyond: only zeros can, for
        // data has a single page.
        if let Some((start, (end, before))) =
            self.pieces.range(..range.start).next_back().map(|(s, p)| (*s, *p))
            && end > range.start
        {
            self.pieces.insert(start, (range.start, before));
            if end > range.end {
                self.pieces.insert(range.end, (end, before));
            }
        }
        while let Some((start, (end, covered))) =
            self.pieces.range(range.clone()).next().map(|(s, p)| (*s, *p))
        {
            self.pieces.remove(&start);
            self.data.remove(&start);
            if end > range.end {
                self.pieces.insert(range.end, (end, covered));
            }
        }
        self.pieces.insert(range.start, (range.end, piece));
        if piece != Piece::Zeros {
            self.data.insert(range.start);
        }
    }

    /// The first page of data from `offset` on; not the whole of what a piece covers.
    fn next_data(&self, offset: u64) -> Option<Range<u64>> {
        let first = self.data.range(offset / PAGE * PAGE..).next()?;
        Some((*first).max(offset)..first.saturating_add(PAGE))
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.least_len == 0
    }

    /// The pieces that have a part in `range`.
    fn within(
        &self,
        range: Range<u64>,
    ) -> impl Iterator<Item = (Range<u64>, Piece)> + '_ {
        let before = self.pieces.range(..range.start).next_back();
        let inside = self.pieces.range(range.start..range.end.max(range.start));
        before
            .into_iter()
            .chain(inside)
            .filter(move |(_, (end, _))| *end > range.start)
            .map(|(start, (end, piece))| (*start..*end, *piece))
    }

    /// Writes it to where it belongs. Durable when it returns.
    pub fn write(&self, file: &dyn Storage) -> Result<()> {
        let old_len = file.len();
        if self.least_len > old_len {
            file.set_len(self.least_len)?;
        }
        for (start, (end, piece)) in &self.pieces {
            match piece {
                // What the file grew by is zeros.
                Piece::Zeros => write_zeros(file, *start..(*end).min(old_len))?,
                Piece::Data { .. } => {
                    let mut page = [0; 4096];
                    read_page(file, piece, &mut page)?;
                    file.write_at(*start, &page)?;
                }
            }
        }
        file.flush()
    }
}

/// Overwrites what in a range is no hole.
pub fn write_zeros(file: &dyn Storage, range: Range<u64>) -> Result<()> {
    let zeros = vec![0; ZEROS];
    let mut at = range.start;
    while at < range.end
        && let Some(data) = file.next_data(at)?
        && data.start < range.end
    {
        at = data.start;
        let end = data.end.min(range.end);
        while at < end {
            let len = usize::try_from(end - at).unwrap_or(ZEROS).min(ZEROS);
            file.write_at(at, zeros.get(..len).unwrap_or_default())?;
            at += len as u64;
        }
    }
    Ok(())
}

/// The page as it was before it was put into the log.
fn read_page(file: &dyn ReadAt, piece: &Piece, page: &mut [u8; 4096]) -> Result<()> {
    if let Piece::Data { at, leading, trailing } = piece {
        file.read_at(*at, page)?;
        if let Some(front) = page.first_chunk_mut::<8>() {
            *front = *leading;
        }
        if let Some(back) = page.last_chunk_mut::<4>() {
            *back = *trailing;
        }
    }
    Ok(())
}

/// The file as it is once the log has been replayed.
pub struct Replayed<'a> {
    pub file: &'a dyn ReadAt,
    pub overlay: &'a Overlay,
}

impl ReadAt for Replayed<'_> {
    fn len(&self) -> u64 {
        self.file.len().max(self.overlay.least_len)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if self.overlay.is_empty() {
            return self.file.read_at(offset, buf);
        }
        let len = buf.len() as u64;
        let Some(end) = offset.checked_add(len).filter(|end| *end <= self.len()) else {
            return Err(past_the_end(offset, len, self.len()));
        };
        let there = self.file.len().saturating_sub(offset).min(len);
        let (front, beyond) = buf.split_at_mut(usize::try_from(there).unwrap_or(0));
        self.file.read_at(offset.min(self.file.len()), front)?;
        beyond.fill(0);
        let mut page = [0; 4096];
        for (range, piece) in self.overlay.within(offset..end) {
            let from = range.start.max(offset);
            let to = range.end.min(end);
            let into = usize::try_from(from - offset).unwrap_or(usize::MAX);
            let count = usize::try_from(to - from).unwrap_or(0);
            let Some(part) = buf.get_mut(into..into.saturating_add(count)) else {
                continue;
            };
            match piece {
                Piece::Zeros => part.fill(0),
                Piece::Data { .. } => {
                    read_page(self.file, &piece, &mut page)?;
                    let skip = usize::try_from(from - range.start).unwrap_or(0);
                    for (to, from) in part.iter_mut().zip(page.iter().skip(skip)) {
                        *to = *from;
                    }
                }
            }
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let in_file =
            if offset < self.file.len() { self.file.next_data(offset)? } else { None };
        let laid = self.overlay.next_data(offset);
        Ok(match (in_file, laid) {
            (Some(a), Some(b)) if b.start < a.start => Some(b),
            (Some(a), _) => Some(a),
            (None, b) => b,
        })
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use super::*;

    const K: u64 = 4096;

    fn data(at: u64) -> Piece {
        Piece::Data { at, leading: [1; 8], trailing: [2; 4] }
    }

    #[test]
    fn later_pieces_lie_over_earlier_ones() {
        let mut overlay = Overlay::new(0);
        overlay.lay(0..10 * K, Piece::Zeros);
        overlay.lay(3 * K..4 * K, data(0));
        overlay.lay(3 * K..4 * K, data(K));
        overlay.lay(9 * K..11 * K, Piece::Zeros);
        let pieces: Vec<_> =
            overlay.pieces.iter().map(|(s, (e, p))| (*s, *e, *p)).collect();
        assert_eq!(
            pieces,
            [
                (0, 3 * K, Piece::Zeros),
                (3 * K, 4 * K, data(K)),
                (4 * K, 9 * K, Piece::Zeros),
                (9 * K, 11 * K, Piece::Zeros)
            ]
        );
        overlay.lay(2 * K..10 * K, Piece::Zeros);
        let pieces: Vec<_> = overlay.pieces.iter().map(|(s, (e, _))| (*s, *e)).collect();
        assert_eq!(pieces, [(0, 2 * K), (2 * K, 10 * K), (10 * K, 11 * K)]);
    }

    #[test]
    fn reading_sees_what_writing_will_make() {
        let file: Vec<u8> = (0..4 * K).map(|at| (at % 251) as u8).collect();
        let mut overlay = Overlay::new(7 * K);
        overlay.lay(K..2 * K, data(3 * K));
        overlay.lay(2 * K..3 * K, Piece::Zeros);
        overlay.lay(5 * K..6 * K, data(0));
        let seen = Replayed { file: &file, overlay: &overlay };
        assert_eq!(seen.len(), 7 * K);
        let mut whole = vec![9; 7 * K as usize];
        seen.read_at(0, &mut whole).unwrap();
        let k = K as usize;
        assert_eq!(whole[..k], file[..k]);
        assert_eq!(whole[k..k + 8], [1; 8]);
        assert_eq!(whole[k + 8..2 * k - 4], file[3 * k + 8..4 * k - 4]);
        assert_eq!(whole[2 * k - 4..2 * k], [2; 4]);
        assert!(whole[2 * k..3 * k].iter().all(|byte| *byte == 0));
        assert_eq!(whole[3 * k..4 * k], file[3 * k..]);
        assert!(whole[4 * k..5 * k].iter().all(|byte| *byte == 0));
        assert_eq!(whole[5 * k + 8], file[8]);
        for at in [0, 1, K - 1, K + 3, 2 * K - 2, 5 * K - 1, 6 * K, 7 * K - 1] {
            for len in [1usize, 5, 4096, 9000] {
                let len = len.min((7 * K - at) as usize);
                let mut part = vec![9; len];
                seen.read_at(at, &mut part).unwrap();
                assert_eq!(part, whole[at as usize..][..len], "{len} at {at}");
            }
        }
        assert!(seen.read_at(7 * K, &mut [0]).is_err());
        assert_eq!(seen.next_data(4 * K).unwrap(), Some(5 * K..6 * K));
        assert_eq!(seen.next_data(6 * K).unwrap(), None);
    }
}
