//! What holds for every plan; shared with the fuzz target `plan`.

use std::collections::BTreeMap;

use slimdisk::compact::Verdict;
use slimdisk::compact::plan::{self, Plan};
use slimdisk::image::{Extent, Layout, Move, Piece, Release};

/// Plans, and panics unless the plan is
///
/// - sound: [`Plan::verify`] holds, every piece is either released or kept, and a bitmap
///   is kept exactly if a block that is kept needs it;
/// - exact: the length is what the pieces, carried out, ask for;
/// - frugal: exactly the live pieces beyond the new end move;
/// - smallest: no nearer end behind the tables has room for all live pieces;
/// - final: with all that is left live, a second plan is empty;
/// - the same for a host that can clone, but for which block goes to which place: of
///   those as many as can be agree.
pub fn check(layout: &Layout, verdicts: &[Verdict]) {
    let plan = plan::plan(layout, verdicts);
    plan.verify(layout).unwrap();
    assert!(plan.file_len_after <= layout.file_len);
    let live = live(layout, verdicts);
    let mut kept: Vec<_> = live.iter().map(|e| number(e.piece)).collect();
    let released = plan.release.iter().map(|release| match release {
        Release::Block(block) | Release::ToZeros(block) => Piece::Block(*block),
        Release::Bitmap(chunk) => Piece::Bitmap(*chunk),
    });
    kept.extend(released.map(number));
    kept.sort_unstable();
    let mut all: Vec<_> = layout.extents.iter().map(|e| number(e.piece)).collect();
    all.sort_unstable();
    assert_eq!(kept, all, "each piece is either released or kept");
    for release in &plan.release {
        let right = match release {
            Release::Block(block) => {
                matches!(verdicts[*block as usize], Verdict::Free | Verdict::Parent)
            }
            Release::ToZeros(block) => {
                matches!(verdicts[*block as usize], Verdict::Zero | Verdict::Blank)
            }
            Release::Bitmap(_) => true,
        };
        assert!(right, "{release:?} was judged otherwise");
    }

    for unit in [1, 1024, 4096, 3 * 512, 1 << 20] {
        agrees(layout, verdicts, &plan, unit);
    }

    let after = carried_out(layout, verdicts, &plan);
    let end = after.end_of_data();
    assert_eq!(plan.file_len_after, after.file_len_after(end).min(layout.file_len));

    let mut beyond: Vec<_> = live
        .iter()
        .filter(|e| layout.range_of(e).end > end)
        .map(|e| number(e.piece))
        .collect();
    let mut moved: Vec<_> = plan.moves.iter().map(|m| number(m.piece)).collect();
    beyond.sort_unstable();
    moved.sort_unstable();
    assert_eq!(moved, beyond, "exactly the live pieces beyond the new end move");

    let tables = layout.reserved.iter().next_back().map_or(0, |range| range.end);
    if end > tables && plan.file_len_after < layout.file_len {
        assert!(suffices(layout, &live, end));
        assert!(!suffices(layout, &live, end - 1), "a nearer end will do");
    }

    let all_live = vec![Verdict::Live; verdicts.len()];
    assert!(plan::plan(&after, &all_live).is_empty(), "something is left to do");
}

/// Holds a plan for a host that clones in units of `unit` bytes against the plain one.
fn agrees(layout: &Layout, verdicts: &[Verdict], plain: &Plan, unit: u64) {
    let cloning = plan::plan_to_clone(layout, verdicts, Some(unit));
    cloning.verify(layout).unwrap();
    let without_places = |plan: &Plan| {
        let mut plan = plan.clone();
        plan.moves.iter_mut().for_each(|m| m.to = 0);
        plan
    };
    assert_eq!(without_places(&cloning), without_places(plain));
    let blocks = |plan: &Plan, bitmaps: bool| {
        let is_wanted = |m: &&Move| m.piece.block().is_none() == bitmaps;
        let mut places: Vec<_> =
            plan.moves.iter().filter(is_wanted).map(|m| m.to).collect();
        places.sort_unstable();
        places
    };
    assert_eq!(blocks(&cloning, false), blocks(plain, false), "the same places");
    assert_eq!(blocks(&cloning, true), blocks(plain, true), "the same places");
    let from = |m: &Move| {
        layout.extents.iter().find(|e| e.piece == m.piece).map(|e| e.place).unwrap()
    };
    let moved = || cloning.moves.iter().filter(|m| m.piece.block().is_some());
    let agree = moved().filter(|m| m.to % unit == from(m) % unit).count();
    let mut rests: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
    for m in moved() {
        rests.entry(from(m) % unit).or_default().0 += 1;
        rests.entry(m.to % unit).or_default().1 += 1;
    }
    let most: usize = rests.values().map(|(from, to)| (*from).min(*to)).sum();
    assert_eq!(agree, most, "as many as can be agree modulo {unit}");
}

fn number(piece: Piece) -> (bool, u32) {
    match piece {
        Piece::Block(block) => (false, block),
        Piece::Bitmap(chunk) => (true, chunk),
    }
}

fn stays(block: u32, verdicts: &[Verdict]) -> bool {
    use Verdict::{Blank, Free, Parent, Zero};
    !matches!(verdicts.get(block as usize), Some(Free | Zero | Parent | Blank))
}

fn live(layout: &Layout, verdicts: &[Verdict]) -> Vec<Extent> {
    let is_live = |e: &&Extent| match e.piece {
        Piece::Block(block) => stays(block, verdicts),
        Piece::Bitmap(chunk) => layout
            .partial
            .iter()
            .any(|block| block / layout.chunk_blocks == chunk && stays(*block, verdicts)),
    };
    layout.extents.iter().filter(is_live).copied().collect()
}

/// Whether all live pieces can lie before `end`, those that do where they are, the
/// others without overlapping a live one or a table: counted place by place.
fn suffices(layout: &Layout, live: &[Extent], end: u64) -> bool {
    let mut taken: Vec<_> = live.iter().map(|e| layout.range_of(e)).collect();
    let beyond = |bitmaps: bool| {
        live.iter()
            .filter(|e| layout.range_of(e).end > end)
            .filter(|e| matches!(e.piece, Piece::Bitmap(_)) == bitmaps)
            .count()
    };
    taken.extend(layout.reserved.iter());
    // Blocks first, from the start of each gap on; then bitmaps in what is left.
    for (len, wanted) in
        [(layout.extent_len, beyond(false)), (layout.bitmap_len, beyond(true))]
    {
        let mut at = layout.remainder;
        let mut found = 0;
        while found < wanted && at + len <= end {
            let range = at..at + len;
            if taken.iter().all(|t| t.end <= range.start || range.end <= t.start) {
                found += 1;
                taken.push(range);
                at += len.next_multiple_of(layout.modulus);
            } else {
                at += layout.modulus;
            }
        }
        if found < wanted {
            return false;
        }
    }
    true
}

/// What the layout is once the plan has been run.
fn carried_out(layout: &Layout, verdicts: &[Verdict], plan: &Plan) -> Layout {
    let mut extents = live(layout, verdicts);
    for extent in &mut extents {
        if let Some(m) = plan.moves.iter().find(|m| m.piece == extent.piece) {
            extent.place = m.to;
        }
    }
    extents.sort_by_key(|e| e.place);
    let partial =
        layout.partial.iter().copied().filter(|b| stays(*b, verdicts)).collect();
    Layout { extents, partial, file_len: plan.file_len_after, ..layout.clone() }
}
