//! Plans for layouts of every kind: gaps of odd sizes, tables in odd places, blocks
//! in any order, ends of any length.
//!
//! What must hold, whatever the layout and the verdicts, is written at
//! [`slimdisk_fuzz::planner::check`], which the planner's own tests use, too: the
//! plan is sound, exact, frugal, smallest and final. The layouts here go further
//! than those of the tests: places of any alignment, any order of blocks, fewer
//! verdicts than blocks, a file that ends a byte early.
#![no_main]

use std::collections::BTreeSet;

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use slimdisk::compact::Verdict;
use slimdisk::image::{Extent, Layout, Piece};
use slimdisk::ranges::Ranges;

const SECTOR: u64 = 512;

fn case(input: &mut Unstructured<'_>) -> arbitrary::Result<(Layout, Vec<Verdict>)> {
    let mut below = |n: u8| Ok(u64::from(input.arbitrary::<u8>()? % n));
    let mut extent_len = (1 + below(20)?) * SECTOR;
    let modulus = [1, 1, 2, 3, 8, 16][below(6)? as usize] * SECTOR;
    let mut remainder = below(16)? * SECTOR % modulus;
    // To how many blocks there is a bitmap with a place of its own.
    let chunk_blocks = [0, 0, 1, 2, 3, 16][below(6)? as usize];
    if chunk_blocks > 0 {
        (extent_len, remainder) = (extent_len.next_multiple_of(modulus), 0);
    }
    let bitmap_len = if chunk_blocks > 0 { modulus } else { 0 };
    let end_modulus = [1, modulus, 8 * SECTOR][below(3)? as usize].max(SECTOR);
    let trailer_len = below(3)? * SECTOR;
    let shuffle = below(128)? as u32;
    let unjudged = below(4)? as usize;
    let tail = [0, 0, 1, 8, 100][below(5)? as usize] * SECTOR;
    let early = [0, 0, 1, SECTOR - 1][below(4)? as usize];
    let mut reserved = Ranges::new();
    let mut at = below(5)? * SECTOR;
    reserved.insert(0..at);
    let mut extents = Vec::new();
    // By number, not by place; a block that has no verdict is live.
    let mut verdicts = vec![Verdict::Absent; 128];
    let mut number = 0;
    let (mut bitmaps, mut maybe_partial) = (BTreeSet::new(), BTreeSet::new());
    while !input.is_empty() && number < 96 {
        let [gap, choice]: [u8; 2] = input.arbitrary()?;
        if choice & 0x0C == 0x0C {
            let table = at + u64::from(choice >> 6) * SECTOR;
            reserved.insert(table..table + u64::from(1 + gap % 3) * SECTOR);
            at = table + u64::from(1 + gap % 3) * SECTOR;
        }
        if choice & 0x30 == 0x30 {
            at += u64::from(gap % 48) * SECTOR;
        }
        at += (remainder + modulus - at % modulus) % modulus;
        let block = number ^ shuffle;
        if chunk_blocks > 0 && gap & 3 == 3 {
            // That of the block, or one of others.
            let chunk = (block + u32::from(gap & 4)) / chunk_blocks;
            if bitmaps.insert(chunk) {
                extents.push(Extent { place: at, piece: Piece::Bitmap(chunk) });
                at += bitmap_len;
            }
        }
        extents.push(Extent { place: at, piece: Piece::Block(block) });
        at += extent_len;
        maybe_partial.extend((gap & 8 > 0).then_some(block));
        verdicts[block as usize] = match choice & 3 {
            0 => Verdict::Free,
            1 => Verdict::Zero,
            _ => Verdict::Live,
        };
        number += 1;
    }
    verdicts.truncate(128 - unjudged * 40);
    // A block without the bitmap of its chunk is not one in part.
    let with_bitmap =
        |block: &u32| chunk_blocks > 0 && bitmaps.contains(&(block / chunk_blocks));
    let partial = maybe_partial.into_iter().filter(with_bitmap).collect();
    let mut layout = Layout {
        extents,
        extent_len,
        bitmap_len,
        chunk_blocks,
        partial,
        modulus,
        remainder,
        reserved,
        trailer_len,
        end_modulus,
        file_len: 0,
    };
    let end = layout.end_of_data();
    let len = layout.file_len_after(end) + tail;
    layout.file_len = (len - early.min(len)).max(end);
    Ok((layout, verdicts))
}

fuzz_target!(|data: &[u8]| {
    if let Ok((layout, verdicts)) = case(&mut Unstructured::new(data)) {
        slimdisk_fuzz::planner::check(&layout, &verdicts);
    }
});
