//! What holds for every plan; shared with the fuzz target `plan`.

use slimdisk::compact::Verdict;
use slimdisk::compact::plan::{self, Plan};
use slimdisk::image::{Extent, Layout};

/// Plans, and panics unless the plan is
///
/// - sound: [`Plan::verify`] holds, and every block is either released or kept;
/// - exact: the length is what the blocks, carried out, ask for;
/// - frugal: exactly the live blocks beyond the new end move;
/// - smallest: no nearer end behind the tables has room for all live blocks;
/// - final: with all that is left live, a second plan is empty.
pub fn check(layout: &Layout, verdicts: &[Verdict]) {
    let plan = plan::plan(layout, verdicts);
    plan.verify(layout).unwrap();
    assert!(plan.file_len_after <= layout.file_len);
    let live = live(layout, verdicts);
    let mut kept: Vec<u32> = live.iter().map(|e| e.block).collect();
    kept.extend(&plan.release);
    kept.sort_unstable();
    let mut all: Vec<u32> = layout.extents.iter().map(|e| e.block).collect();
    all.sort_unstable();
    assert_eq!(kept, all, "each block is either released or kept");

    let after = carried_out(layout, verdicts, &plan);
    let end = after.end_of_data();
    assert_eq!(plan.file_len_after, after.file_len_after(end).min(layout.file_len));

    let mut beyond: Vec<u32> = live
        .iter()
        .filter(|e| e.place + layout.extent_len > end)
        .map(|e| e.block)
        .collect();
    let mut moved: Vec<u32> = plan.moves.iter().map(|m| m.block).collect();
    beyond.sort_unstable();
    moved.sort_unstable();
    assert_eq!(moved, beyond, "exactly the live blocks beyond the new end move");

    let tables = layout.reserved.iter().next_back().map_or(0, |range| range.end);
    if end > tables && plan.file_len_after < layout.file_len {
        assert!(capacity(layout, &live, end) >= live.len());
        assert!(capacity(layout, &live, end - 1) < live.len(), "a nearer end will do");
    }

    let all_live = vec![Verdict::Live; verdicts.len()];
    assert!(plan::plan(&after, &all_live).is_empty(), "something is left to do");
}

fn live(layout: &Layout, verdicts: &[Verdict]) -> Vec<Extent> {
    let is_live = |e: &&Extent| {
        !matches!(verdicts.get(e.block as usize), Some(Verdict::Free | Verdict::Zero))
    };
    layout.extents.iter().filter(is_live).copied().collect()
}

/// How many blocks can lie before `end` without overlapping a live block or a
/// table: the live ones that do, and what fits between them, counted place by
/// place.
fn capacity(layout: &Layout, live: &[Extent], end: u64) -> usize {
    let mut taken: Vec<_> =
        live.iter().map(|e| e.place..e.place + layout.extent_len).collect();
    let mut count = taken.iter().filter(|range| range.end <= end).count();
    taken.extend(layout.reserved.iter());
    let mut at = layout.remainder;
    while at + layout.extent_len <= end {
        let range = at..at + layout.extent_len;
        if taken.iter().all(|t| t.end <= range.start || range.end <= t.start) {
            count += 1;
            at += layout.extent_len.next_multiple_of(layout.modulus);
        } else {
            at += layout.modulus;
        }
    }
    count
}

/// What the layout is once the plan has been run.
fn carried_out(layout: &Layout, verdicts: &[Verdict], plan: &Plan) -> Layout {
    let mut extents = live(layout, verdicts);
    for extent in &mut extents {
        if let Some(m) = plan.moves.iter().find(|m| m.block == extent.block) {
            extent.place = m.to;
        }
    }
    extents.sort_by_key(|e| e.place);
    Layout { extents, file_len: plan.file_len_after, ..layout.clone() }
}
