//! Properties of the planner, over layouts with odd gaps and tables in odd places.

mod properties;

use std::collections::BTreeSet;

use proptest::prelude::*;
use slimdisk::compact::Verdict;
use slimdisk::compact::plan::plan;
use slimdisk::image::{Extent, Layout, Move, Piece, Release};
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
                extents.push(Extent { place: at, piece: Piece::Block(number) });
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
                bitmap_len: 0,
                chunk_blocks: 0,
                partial: Vec::new(),
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

/// A layout with bitmaps between the blocks, and the verdicts on these.
fn cases_with_bitmaps() -> impl Strategy<Value = (Layout, Vec<Verdict>)> {
    let piece = (0u64..6, 0u8..8, 0u8..8, any::<bool>(), 0u8..5);
    (
        prop::collection::vec(piece, 0..40),
        1u64..6,
        prop::sample::select(vec![1u32, 2, 3, 8]),
        0u64..9,
    )
        .prop_map(|(pieces, units, chunk_blocks, tail)| {
            const UNIT: u64 = 4096;
            let mut reserved: Ranges = std::iter::once(0..2 * UNIT).collect();
            let mut extents = Vec::new();
            let mut verdicts = Vec::new();
            let mut partial = BTreeSet::new();
            let (mut at, mut chunks) = (2 * UNIT, BTreeSet::new());
            for (number, (gap, verdict, table, is_partial, bitmap)) in
                (0u32..).zip(pieces)
            {
                if table == 0 {
                    reserved.insert(at..at + UNIT);
                    at += UNIT;
                }
                at += [0, 0, 0, 1, 2, 5][gap as usize] * UNIT;
                // That of the block, or one that nobody needs yet.
                let chunk = number / chunk_blocks + u32::from(bitmap == 0);
                let mut place_bitmap = |at: &mut u64, chunk| {
                    if chunks.insert(chunk) {
                        extents.push(Extent { place: *at, piece: Piece::Bitmap(chunk) });
                        *at += UNIT;
                    }
                };
                if bitmap < 2 {
                    place_bitmap(&mut at, chunk);
                }
                if is_partial {
                    place_bitmap(&mut at, number / chunk_blocks);
                    partial.insert(number);
                }
                extents.push(Extent { place: at, piece: Piece::Block(number) });
                at += units * UNIT;
                verdicts.push(match verdict {
                    0 => Verdict::Free,
                    1 => Verdict::Zero,
                    2 => Verdict::Parent,
                    3 => Verdict::Blank,
                    _ => Verdict::Live,
                });
            }
            let mut layout = Layout {
                extents,
                extent_len: units * UNIT,
                bitmap_len: UNIT,
                chunk_blocks,
                partial: partial.into_iter().collect(),
                modulus: UNIT,
                remainder: 0,
                reserved,
                trailer_len: 0,
                end_modulus: UNIT,
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

    #[test]
    fn plans_with_bitmaps_are_sound_smallest_and_final(
        (layout, verdicts) in cases_with_bitmaps()
    ) {
        properties::check(&layout, &verdicts);
    }
}

/// Two chunks of two blocks; the first bitmap lies in front, the second behind.
fn two_chunks() -> Layout {
    let extent = |mib: u64, piece| Extent { place: mib << 20, piece };
    Layout {
        extents: vec![
            extent(2, Piece::Bitmap(0)),
            extent(3, Piece::Block(0)),
            extent(5, Piece::Block(1)),
            extent(7, Piece::Bitmap(1)),
            extent(8, Piece::Block(2)),
            extent(10, Piece::Block(3)),
        ],
        extent_len: 2 << 20,
        bitmap_len: 1 << 20,
        chunk_blocks: 2,
        partial: vec![0, 1, 2],
        modulus: 1 << 20,
        remainder: 0,
        reserved: std::iter::once(0..2 << 20).collect(),
        trailer_len: 0,
        end_modulus: 1 << 20,
        file_len: 12 << 20,
    }
}

#[test]
fn a_bitmap_goes_with_the_last_block_that_needs_it() {
    use Verdict::{Live, Parent, Zero};
    let layout = two_chunks();
    let gone = |verdicts: [Verdict; 4]| plan(&layout, &verdicts).release;
    assert_eq!(gone([Parent, Live, Live, Live]), [Release::Block(0)]);
    assert_eq!(
        gone([Parent, Zero, Live, Live]),
        [Release::Block(0), Release::ToZeros(1), Release::Bitmap(0)]
    );
    // The other block of the chunk is here as a whole.
    let plan = plan(&layout, &[Live, Live, Zero, Live]);
    assert_eq!(plan.release, [Release::ToZeros(2), Release::Bitmap(1)]);
    let to = 7 << 20;
    assert_eq!(plan.moves, [Move { piece: Piece::Block(3), to }]);
    assert_eq!((plan.file_len_after, plan.bytes_to_move()), (9 << 20, 2 << 20));
}

#[test]
fn a_plan_that_is_unsound_is_found_out() {
    use Verdict::{Live, Zero};
    let layout = two_chunks();
    let sound = plan(&layout, &[Zero, Live, Live, Live]);
    let block_3 = Move { piece: Piece::Block(3), to: 3 << 20 };
    assert_eq!(
        (sound.moves.as_slice(), sound.file_len_after),
        (&[block_3][..], 10 << 20)
    );
    sound.verify(&layout).unwrap();
    let moved = |moves: &[(Piece, u64)]| {
        let mut plan = sound.clone();
        plan.moves =
            moves.iter().map(|(piece, to)| Move { piece: *piece, to: *to }).collect();
        plan.verify(&layout).map_err(|error| error.to_string()).unwrap_err()
    };
    let words = moved(&[(Piece::Block(3), (3 << 20) + 512)]);
    assert!(words.contains("not aligned"), "{words}");
    let words = moved(&[(Piece::Bitmap(1), 1 << 20)]);
    assert!(words.contains("onto a header or table"), "{words}");
    let words = moved(&[(Piece::Block(3), 9 << 20)]);
    assert!(words.contains("beyond the new end"), "{words}");
    for moves in [
        // The last MiB of block 3 on block 1; a bitmap on the same; two in one place.
        &[(Piece::Block(3), 4 << 20)][..],
        &[(Piece::Bitmap(1), 6 << 20)],
        &[(Piece::Block(3), 3 << 20), (Piece::Bitmap(1), 4 << 20)],
        // What is only about to move is still there.
        &[(Piece::Bitmap(1), 8 << 20)],
    ] {
        let words = moved(moves);
        assert!(words.contains("two blocks in one place"), "{words}");
    }
    let mut plan = sound.clone();
    plan.release.push(Release::Bitmap(0));
    let words = plan.verify(&layout).unwrap_err().to_string();
    assert!(words.contains("block 1 loses the bitmap"), "{words}");
}
