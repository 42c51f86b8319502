//! From verdicts to a plan: which blocks go, which move where, how long the file
//! will be. Pure: no I/O.
//!
//! The new end of the data is the nearest one such that the live blocks that end
//! before it, and the free slots before it, are together enough for all live
//! blocks, but never before the last table. So exactly the live blocks beyond the new end move, each once, into a
//! slot that no live block touches: all moves are independent of each other, and
//! no copy ever goes to a place that the table on disk still names. (A slot must
//! hold a whole block; where an old file has gaps of odd sizes, what is left of
//! them stays unused rather than moving more blocks.)

use super::survey::Verdict;
use crate::error::{Error, Kind, Result};
use crate::image::{Layout, Move};
use crate::ranges::Ranges;

/// What a run will do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// Blocks to release, ascending.
    pub release: Vec<u32>,
    /// Blocks to relocate, in ascending order of where they lie now.
    pub moves: Vec<Move>,
    /// Bytes of file that a block takes up, its bookkeeping included.
    pub extent_len: u64,
    /// The file's length before, in bytes.
    pub file_len_before: u64,
    /// The file's length after, in bytes.
    pub file_len_after: u64,
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.release.is_empty()
            && self.moves.is_empty()
            && self.file_len_after == self.file_len_before
    }

    /// Bytes that will be copied.
    #[must_use]
    pub fn bytes_to_move(&self) -> u64 {
        self.moves.len() as u64 * self.extent_len
    }

    /// Holds the plan against the layout it was made for, as a second pair of
    /// eyes before anything is written: every move goes to a place that is
    /// allowed, inside the new length, and that neither a table, a live block nor
    /// another move occupies.
    pub fn verify(&self, layout: &Layout) -> Result<()> {
        let broken = |what: &str, at: u64| {
            Err(Error::new(Kind::Unexpected, format!("the plan is unsound: {what}"))
                .at(at))
        };
        let mut occupied: Vec<u64> = layout
            .extents
            .iter()
            .filter(|extent| self.release.binary_search(&extent.block).is_err())
            .map(|extent| extent.place)
            .collect();
        occupied.extend(self.moves.iter().map(|m| m.to));
        occupied.sort_unstable();
        for pair in occupied.windows(2) {
            if let [a, b] = pair
                && b - a < layout.extent_len
            {
                return broken("two blocks in one place", *b);
            }
        }
        for Move { to, .. } in &self.moves {
            if to % layout.modulus != layout.remainder {
                return broken("a move to a place that is not aligned", *to);
            }
            if layout.reserved.intersects(&(*to..to + layout.extent_len)) {
                return broken("a move onto a header or table", *to);
            }
            if to + layout.extent_len + layout.trailer_len > self.file_len_after {
                return broken("a move beyond the new end of the file", *to);
            }
        }
        Ok(())
    }
}

/// Plans the smallest file that `verdicts` allow, with the fewest moves.
///
/// A block without a verdict (a table entry beyond the disk's end) is live.
#[must_use]
pub fn plan(layout: &Layout, verdicts: &[Verdict]) -> Plan {
    let goes = |block: u32| {
        matches!(
            verdicts.get(block as usize),
            Some(Verdict::Free | Verdict::Zero | Verdict::Parent)
        )
    };
    let mut release: Vec<u32> = layout
        .extents
        .iter()
        .map(|extent| extent.block)
        .filter(|block| goes(*block))
        .collect();
    release.sort_unstable();

    let live = || layout.extents.iter().filter(|extent| !goes(extent.block));
    let live_count = layout.extents.len() - release.len();
    let mut end = layout.reserved.iter().next_back().map_or(0, |range| range.end);
    // What ends before the last table stays: moving it would win nothing.
    let anyhow =
        live().take_while(|extent| extent.place + layout.extent_len <= end).count();
    let mut slots = Vec::new();
    let mut staying = 0;
    let mut at = 0;
    for extent in live() {
        let wanted = live_count - slots.len() - staying.max(anyhow);
        slots_between(layout, at..extent.place, wanted, &mut slots);
        if staying >= anyhow && staying + slots.len() == live_count {
            break;
        }
        staying += 1;
        at = extent.place + layout.extent_len;
        end = end.max(at);
    }
    if let Some(last) = slots.last() {
        end = end.max(last + layout.extent_len);
    }
    let mut plan = Plan {
        release,
        moves: live()
            .skip(staying)
            .zip(slots)
            .map(|(extent, to)| Move { block: extent.block, to })
            .collect(),
        extent_len: layout.extent_len,
        file_len_before: layout.file_len,
        file_len_after: layout.file_len_after(end),
    };
    if plan.file_len_after >= layout.file_len {
        plan.file_len_after = layout.file_len;
        plan.moves = Vec::new();
    }
    plan
}

/// The first `wanted` allowed places in a gap between live blocks.
fn slots_between(
    layout: &Layout,
    gap: std::ops::Range<u64>,
    wanted: usize,
    slots: &mut Vec<u64>,
) {
    let full = slots.len() + wanted;
    let clear: Ranges = layout.reserved.gaps(gap);
    for range in clear.iter() {
        let mut place = layout.place_from(range.start);
        while slots.len() < full && place + layout.extent_len <= range.end {
            slots.push(place);
            place = layout.place_from(place + layout.extent_len);
        }
    }
}
