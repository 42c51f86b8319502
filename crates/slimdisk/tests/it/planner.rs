//! Properties of the planner, over layouts with odd gaps and tables in odd places.

use proptest::prelude::*;
use slimdisk::compact::Verdict;
use slimdisk::compact::plan::{self, Plan};
use slimdisk::image::{Extent, Layout};
use slimdisk::ranges::Ranges;

/// A layout and the verdicts on its blocks.
fn cases() -> impl Strategy<Value = (Layout, Vec<Verdict>)> {
    let block = (0u64..6, 0u8..4, 0u8..8);
    (
        prop::collection::vec(block, 0..40),
        1u64..5,
        prop::sample::select(vec![1u64, 1, 8]),
        0u64..9,
    )
        .prop_map(|(blocks, sectors, modulus, tail)| {
            let (unit, modulus) = (512 * sectors, 512 * modulus);
            let remainder = (modulus - 512) % modulus;
            let mut reserved: Ranges = std::iter::once(0..1536).collect();
            let mut extents = Vec::new();
            let mut verdicts = Vec::new();
            let mut at = 1536u64;
            for (number, (gap, verdict, table)) in (0u32..).zip(blocks) {
                if table == 0 {
                    reserved.insert(at..at + 512);
                    at += 512;
                }
                at += gap * 512;
                at += (remainder + modulus - at % modulus) % modulus;
                extents.push(Extent { place: at, block: number });
                at += unit;
                verdicts.push(match verdict {
                    0 => Verdict::Free,
                    1 => Verdict::Zero,
                    _ => Verdict::Live,
                });
            }
            let mut layout = Layout {
                extents,
                extent_len: unit,
                modulus,
                remainder,
                reserved,
                trailer_len: 512,
                end_modulus: modulus,
                file_len: 0,
            };
            layout.file_len = layout.file_len_after(layout.end_of_data()) + tail * 512;
            (layout, verdicts)
        })
}

fn live(layout: &Layout, verdicts: &[Verdict]) -> Vec<Extent> {
    let is_live = |e: &&Extent| verdicts[e.block as usize] == Verdict::Live;
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plans_are_sound_smallest_and_final((layout, verdicts) in cases()) {
        let plan = plan::plan(&layout, &verdicts);
        prop_assert!(plan.verify(&layout).is_ok(), "{:?}", plan.verify(&layout));
        prop_assert!(plan.file_len_after <= layout.file_len);
        let live = live(&layout, &verdicts);
        prop_assert_eq!(plan.release.len() + live.len(), layout.extents.len());

        // The length is what the blocks, carried out, ask for.
        let after = carried_out(&layout, &verdicts, &plan);
        let end = after.end_of_data();
        prop_assert_eq!(plan.file_len_after, after.file_len_after(end).min(layout.file_len));

        // Exactly the live blocks beyond the new end move.
        let mut beyond: Vec<u32> = live
            .iter()
            .filter(|e| e.place + layout.extent_len > end)
            .map(|e| e.block)
            .collect();
        let mut moved: Vec<u32> = plan.moves.iter().map(|m| m.block).collect();
        beyond.sort_unstable();
        moved.sort_unstable();
        prop_assert_eq!(moved, beyond);

        // No nearer end behind the tables has room for all live blocks.
        let tables = layout.reserved.iter().next_back().unwrap().end;
        if end > tables && plan.file_len_after < layout.file_len {
            prop_assert!(capacity(&layout, &live, end) >= live.len());
            prop_assert!(capacity(&layout, &live, end - 1) < live.len());
        }

        // Nothing is left to do afterwards.
        let all_live = vec![Verdict::Live; verdicts.len()];
        prop_assert!(plan::plan(&after, &all_live).is_empty());
    }
}
