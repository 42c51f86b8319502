//! From verdicts to a plan: what goes, what moves where, how long the file will be.
//! Pure: no I/O.
//!
//! Besides blocks there may be sector bitmaps with places of their own. One goes when no
//! block that stays needs it; the others move as blocks do.
//!
//! The new end of the data is the nearest one such that what stays before it, and the
//! room before it, are together enough for all that lives, but never before the last
//! table. So exactly the live pieces beyond the new end move, each once, to where no
//! live piece lies: all moves are independent of each other, and no copy ever goes to a
//! place that the table on disk still names. (A block needs a gap that holds all of it;
//! where an old file has gaps of odd sizes, what is left of them stays unused rather
//! than moving more. Bitmaps are as small as places are apart, and fit into all that the
//! blocks leave.)

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::survey::Verdict;
use crate::error::{Error, Kind, Result};
use crate::image::{Extent, Layout, Move, Piece, Release};
use crate::ranges::Ranges;

/// What a run will do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// What to release: blocks in ascending order, then bitmaps in ascending order.
    pub release: Vec<Release>,
    /// Whether the guest will read other bytes of a released block than before: zeros, or
    /// its parent's, where free ones were.
    pub changes_content: bool,
    /// What to relocate, in ascending order of where it lies now.
    pub moves: Vec<Move>,
    /// Bytes of file that a block takes up, its bookkeeping included.
    pub extent_len: u64,
    /// Bytes of file that a sector bitmap takes up; 0 if it lies with its block.
    pub bitmap_len: u64,
    /// The file's length before, in bytes.
    pub file_len_before: u64,
    /// The file's length after, in bytes.
    pub file_len_after: u64,
}

impl Plan {
    /// Leaves a file of this length as it is.
    pub(super) fn of_nothing(file_len: u64) -> Self {
        Plan {
            release: Vec::new(),
            changes_content: false,
            moves: Vec::new(),
            extent_len: 0,
            bitmap_len: 0,
            file_len_before: file_len,
            file_len_after: file_len,
        }
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.release.is_empty()
            && self.moves.is_empty()
            && self.file_len_after == self.file_len_before
    }

    /// How many blocks are released.
    #[must_use]
    pub fn blocks_released(&self) -> usize {
        self.release.partition_point(|release| release.block().is_some())
    }

    /// How many blocks move.
    #[must_use]
    pub fn blocks_moved(&self) -> usize {
        self.moves.iter().filter(|m| m.piece.block().is_some()).count()
    }

    /// Bytes that will be copied for `moves`, some of its own.
    #[must_use]
    pub fn bytes_of(&self, moves: &[Move]) -> u64 {
        moves
            .iter()
            .map(|m| match m.piece {
                Piece::Block(_) => self.extent_len,
                Piece::Bitmap(_) => self.bitmap_len,
            })
            .sum()
    }

    /// Bytes that will be copied.
    #[must_use]
    pub fn bytes_to_move(&self) -> u64 {
        self.bytes_of(&self.moves)
    }

    /// Whether the plan gives up what a piece takes up.
    fn releases(&self, piece: Piece) -> bool {
        let (blocks, bitmaps) = self.release.split_at(self.blocks_released());
        match piece {
            Piece::Block(block) => {
                blocks.binary_search_by_key(&Some(block), |r| r.block()).is_ok()
            }
            Piece::Bitmap(chunk) => {
                let number = |r: &Release| match r {
                    Release::Bitmap(chunk) => *chunk,
                    Release::Block(_) | Release::ToZeros(_) => 0,
                };
                bitmaps.binary_search_by_key(&chunk, number).is_ok()
            }
        }
    }

    /// Holds the plan against the layout it was made for, as a second pair of
    /// eyes before anything is written: every move goes to a place that is
    /// allowed, inside the new length, and that neither a table, a live piece nor
    /// another move occupies; no bitmap goes that a block needs which stays.
    pub fn verify(&self, layout: &Layout) -> Result<()> {
        let broken = |what: &str, at: u64| {
            Err(Error::new(Kind::Unexpected, format!("the plan is unsound: {what}"))
                .at(at))
        };
        let mut taken: Vec<Extent> =
            self.moves.iter().map(|m| Extent { place: m.to, piece: m.piece }).collect();
        taken.sort_unstable_by_key(|extent| extent.place);
        for Extent { place, piece } in &taken {
            let end = place + layout.len_of(*piece);
            if place % layout.modulus != layout.remainder {
                return broken("a move to a place that is not aligned", *place);
            }
            if layout.reserved.intersects(&(*place..end)) {
                return broken("a move onto a header or table", *place);
            }
            if end + layout.trailer_len > self.file_len_after {
                return broken("a move beyond the new end of the file", *place);
            }
        }
        // What stays lies in order, and so do the new places.
        let mut taken = taken.into_iter().peekable();
        let mut end = 0;
        for extent in layout.extents.iter().filter(|e| !self.releases(e.piece)) {
            let before = |new: &Extent| new.place <= extent.place;
            let new = std::iter::from_fn(|| taken.next_if(before));
            for next in new.chain([*extent]) {
                if next.place < end {
                    return broken("two blocks in one place", next.place);
                }
                end = layout.range_of(&next).end;
            }
        }
        for new in taken {
            if new.place < end {
                return broken("two blocks in one place", new.place);
            }
            end = layout.range_of(&new).end;
        }
        for release in &self.release {
            if let Release::Bitmap(chunk) = release
                && let Some(block) = layout
                    .partial_in(*chunk)
                    .iter()
                    .find(|block| !self.releases(Piece::Block(**block)))
            {
                let what = format!("block {block} loses the bitmap of its sectors");
                return Err(Error::new(
                    Kind::Unexpected,
                    format!("the plan is unsound: {what}"),
                ));
            }
        }
        Ok(())
    }
}

/// What becomes of a block that is judged so; `None` if it stays. A block without a
/// verdict (a table entry beyond the disk's end) is live.
fn release_of(block: u32, verdicts: &[Verdict]) -> Option<Release> {
    match verdicts.get(block as usize)? {
        Verdict::Free | Verdict::Parent => Some(Release::Block(block)),
        Verdict::Zero | Verdict::Blank => Some(Release::ToZeros(block)),
        Verdict::Absent | Verdict::Live => None,
    }
}

/// Plans the smallest file that `verdicts` allow, with the fewest moves.
#[must_use]
pub fn plan(layout: &Layout, verdicts: &[Verdict]) -> Plan {
    plan_to_clone(layout, verdicts, None)
}

/// The same for a host that can share bytes between two places of the file which agree
/// modulo `unit` bytes: as many blocks as can be get such a place. What goes, what moves,
/// which places are used and how long the file will be is the same without it.
#[must_use]
pub fn plan_to_clone(layout: &Layout, verdicts: &[Verdict], unit: Option<u64>) -> Plan {
    let goes = |piece: Piece| match piece {
        Piece::Block(block) => release_of(block, verdicts).is_some(),
        Piece::Bitmap(chunk) => {
            let mut needing = layout.partial_in(chunk).iter();
            needing.all(|block| release_of(*block, verdicts).is_some())
        }
    };
    let mut release: Vec<Release> = layout
        .extents
        .iter()
        .filter(|extent| goes(extent.piece))
        .filter_map(|extent| match extent.piece {
            Piece::Block(block) => release_of(block, verdicts),
            Piece::Bitmap(chunk) => Some(Release::Bitmap(chunk)),
        })
        .collect();
    release.sort_unstable_by_key(|release| match release {
        Release::Block(block) | Release::ToZeros(block) => (false, *block),
        Release::Bitmap(chunk) => (true, *chunk),
    });

    let live = || layout.extents.iter().filter(|extent| !goes(extent.piece));
    let Reached { end, staying, beyond } = reach(layout, live());
    let mut blocks = places(layout, live().take(staying), &beyond, false);
    let mut bitmaps = places(layout, live().take(staying), &beyond, true);
    let mut moves: Option<Vec<Move>> = live()
        .skip(staying)
        .map(|extent| {
            let to = match extent.piece {
                Piece::Block(_) => blocks.next()?,
                Piece::Bitmap(_) => bitmaps.next()?,
            };
            Some(Move { piece: extent.piece, to })
        })
        .collect();
    if let (Some(moves), Some(unit)) = (&mut moves, unit) {
        agree(moves, live().skip(staying).map(|extent| extent.place), unit.max(1));
    }
    let changed = |release: &Release| {
        let verdict =
            release.block().and_then(|block| verdicts.get(block as usize).copied());
        matches!(verdict, Some(Verdict::Free | Verdict::Blank))
    };
    let mut plan = Plan {
        changes_content: release.iter().any(changed),
        release,
        moves: Vec::new(),
        extent_len: layout.extent_len,
        bitmap_len: layout.bitmap_len,
        file_len_before: layout.file_len,
        file_len_after: layout.file_len,
    };
    let len = layout.file_len_after(end);
    if let Some(moves) = moves
        && len < layout.file_len
    {
        plan.moves = moves;
        plan.file_len_after = len;
    }
    plan
}

/// Deals the new places of the blocks out anew, so that as many as can be agree with the
/// old ones (`from`, as many as there are moves) modulo `unit`; in ascending order among
/// those that agree, and among the others.
fn agree(moves: &mut [Move], from: impl Iterator<Item = u64>, unit: u64) {
    let mut places: BTreeMap<u64, VecDeque<u64>> = BTreeMap::new();
    let is_block = |m: &Move| m.piece.block().is_some();
    for to in moves.iter().filter(|m| is_block(m)).map(|m| m.to) {
        places.entry(to % unit).or_default().push_back(to);
    }
    let mut others = Vec::new();
    for (m, from) in moves.iter_mut().zip(from).filter(|(m, _)| is_block(m)) {
        match places.get_mut(&(from % unit)).and_then(VecDeque::pop_front) {
            Some(to) => m.to = to,
            None => others.push(m),
        }
    }
    let mut left: Vec<u64> = places.into_values().flatten().collect();
    left.sort_unstable();
    for (m, to) in others.into_iter().zip(left) {
        m.to = to;
    }
}

/// How many there are of each.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    blocks: u64,
    bitmaps: u64,
}

impl Count {
    fn of<'a>(extents: impl Iterator<Item = &'a Extent>) -> Self {
        let mut count = Count::default();
        for extent in extents {
            *count.of_kind(extent.piece) += 1;
        }
        count
    }

    fn of_kind(&mut self, piece: Piece) -> &mut u64 {
        match piece {
            Piece::Block(_) => &mut self.blocks,
            Piece::Bitmap(_) => &mut self.bitmaps,
        }
    }
}

/// The nearest end that can be reached.
struct Reached {
    end: u64,
    /// How many live pieces stay: the first ones.
    staying: usize,
    /// The others.
    beyond: Count,
}

/// How much room there is before an end.
#[derive(Default)]
struct Room {
    /// For how many blocks.
    blocks: u64,
    /// In bytes, of which any rest has room for bitmaps.
    bytes: u64,
}

impl Room {
    fn add(&mut self, layout: &Layout, range: &Range<u64>) {
        let first = layout.place_from(range.start);
        let len = range.end.saturating_sub(first);
        self.blocks += blocks_in(layout, len);
        if let Some(bitmaps) = len.checked_div(layout.bitmap_len) {
            self.bytes += bitmaps * layout.bitmap_len;
        }
    }

    /// How many bytes from the first place of `range` on it takes, besides this, to hold
    /// `wanted`.
    fn lacks(&self, layout: &Layout, wanted: Count) -> u64 {
        let blocks = wanted.blocks.saturating_sub(self.blocks);
        let for_blocks = match blocks.checked_sub(1) {
            None => 0,
            Some(more) => more * stride(layout) + layout.extent_len,
        };
        let bytes =
            wanted.blocks * layout.extent_len + wanted.bitmaps * layout.bitmap_len;
        let for_bitmaps = match wanted.bitmaps {
            0 => 0,
            _ => bytes.saturating_sub(self.bytes),
        };
        for_blocks.max(for_bitmaps)
    }
}

/// How far blocks lie apart in a gap.
fn stride(layout: &Layout) -> u64 {
    layout.extent_len.next_multiple_of(layout.modulus)
}

/// How many blocks lie in `len` bytes from a place on.
fn blocks_in(layout: &Layout, len: u64) -> u64 {
    match len.checked_sub(layout.extent_len) {
        None => 0,
        Some(more) => more / stride(layout) + 1,
    }
}

/// Finds the nearest end before which there is room for all `live` pieces.
fn reach<'a>(layout: &Layout, live: impl Iterator<Item = &'a Extent> + Clone) -> Reached {
    let mut end = layout.reserved.iter().next_back().map_or(0, |range| range.end);
    // What ends before the last table stays: moving it would win nothing.
    let before_table = |extent: &&Extent| layout.range_of(extent).end <= end;
    let mut anyhow = live.clone().take_while(before_table).count();
    let mut beyond = Count::of(live.clone().skip(anyhow));
    let (mut room, mut staying, mut at) = (Room::default(), 0, 0);
    for extent in live {
        if anyhow == 0 && room.lacks(layout, beyond) == 0 {
            return Reached { end, staying, beyond };
        }
        for range in layout.reserved.gaps(at..extent.place).iter() {
            let first = layout.place_from(range.start);
            let needed = first.saturating_add(room.lacks(layout, beyond));
            // What lies between the tables is filled in any case.
            if anyhow == 0 && needed <= range.end {
                return Reached { end: end.max(needed), staying, beyond };
            }
            room.add(layout, &range);
        }
        staying += 1;
        match anyhow.checked_sub(1) {
            Some(left) => anyhow = left,
            None => *beyond.of_kind(extent.piece) -= 1,
        }
        at = layout.range_of(extent).end;
        end = end.max(at);
    }
    Reached { end, staying, beyond }
}

/// The places between the pieces that stay, for as many blocks as are `beyond`, or for
/// bitmaps in what those leave.
fn places<'a>(
    layout: &'a Layout,
    staying: impl Iterator<Item = &'a Extent> + 'a,
    beyond: &Count,
    for_bitmaps: bool,
) -> impl Iterator<Item = u64> + 'a {
    let gaps = staying
        .map(|extent| layout.range_of(extent))
        .chain([u64::MAX..u64::MAX])
        .scan(0, |at, next| {
            let gap = *at..next.start;
            *at = next.end;
            Some(gap)
        });
    let clear = gaps.flat_map(|gap| {
        let clear: Ranges = layout.reserved.gaps(gap);
        clear.iter().collect::<Vec<_>>()
    });
    let mut blocks = beyond.blocks;
    clear.flat_map(move |range| {
        let first = layout.place_from(range.start);
        let len = range.end.saturating_sub(first);
        let here = blocks_in(layout, len).min(blocks);
        blocks -= here;
        let (at, step, count) = if for_bitmaps {
            let at = first + here * stride(layout);
            let count = range.end.saturating_sub(at).checked_div(layout.bitmap_len);
            (at, layout.bitmap_len, count.unwrap_or(0))
        } else {
            (first, stride(layout), here)
        };
        (0..count).map(move |number| at + number * step)
    })
}
