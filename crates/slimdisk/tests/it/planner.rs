//! Properties of the planner, over layouts with odd gaps and tables in odd places.

mod properties;

use proptest::prelude::*;
use slimdisk::compact::Verdict;
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plans_are_sound_smallest_and_final((layout, verdicts) in cases()) {
        properties::check(&layout, &verdicts);
    }
}
