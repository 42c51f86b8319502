//! Differencing images compacted in place: chains of every block size and of several
//! chunks, judged by the strict reader.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use slimdisk::compact::plan::{Plan, plan};
use slimdisk::compact::survey::survey;
use slimdisk::compact::{Mode, Options, Verdict, run::run};
use slimdisk::image::{self, Image, Piece, Release};
use slimdisk::storage::Storage;
use slimdisk::{Kind, Result};

use super::chain::link_to;
use super::{PageFile, findings, guest};
use crate::faults::{Call, Fault, Faulty};
use crate::support::Noise;
use crate::vhdx_model::{
    FULL, MIB, Model, PARTIAL, Pages, Places, Shape, UNMAPPED, read_strictly, shown,
};

const UNDEFINED: u64 = 1;

/// A child and its parent.
pub struct Pair {
    pub shape: Shape,
    pub places: Places,
    pub child: Pages,
    pub parent: Pages,
}

/// What the child's data in a block is.
#[derive(Clone, Copy, PartialEq)]
enum Own {
    Other,
    Zeros,
    Same,
    /// All but for one byte.
    Nearly,
}

impl Pair {
    /// A child of up to three chunks with blocks of every kind, most of them at the start
    /// of a chunk or at its end.
    pub fn random(noise: &mut Noise, block_mib: u64) -> Pair {
        let logical = [512, 512, 4096][noise.below(3) as usize];
        let mut shape =
            Shape { block_mib, logical, seed: noise.next(), ..Shape::default() };
        let ratio = shape.ratio();
        shape.blocks = (ratio * noise.below(3) + 4 + noise.below(9)) as u32;
        shape.short = noise.below(2) * u64::from(logical) * 3;
        // The parent's blocks are of another size, where its table would not be too large.
        let parent_mib = [1, 2, 32][noise.below(3) as usize].max(block_mib / 2);
        let numbers = numbers(noise, &shape);
        let mut parent_shape = Shape {
            block_mib: parent_mib,
            logical,
            seed: noise.next(),
            blocks: (shape.disk_size() / parent_mib / MIB + 1 + noise.below(2)) as u32,
            ..Shape::default()
        };
        for number in &numbers {
            let block = (u64::from(*number) * block_mib / parent_mib) as u32;
            let known = parent_shape.order.iter().any(|(b, ..)| *b == block);
            if !known && block < parent_shape.blocks && noise.below(3) > 0 {
                parent_shape.order.push((block, FULL, 0));
            }
        }
        let (parent, _) = parent_shape.build(&[]);
        let below = read_strictly(&parent).unwrap();
        shape.link = Some(link_to(&parent_shape, "parent.vhdx"));
        let mut data = BTreeMap::new();
        for number in numbers {
            let gap = if noise.below(5) == 0 { noise.below(3) } else { 0 };
            let state = match noise.below(10) {
                0 => UNMAPPED,
                1 => UNDEFINED,
                2..=5 => FULL,
                _ => PARTIAL,
            };
            let eighths = match noise.below(4) {
                0 => 0,
                1 => 0xFF,
                _ => noise.next() as u8,
            };
            shape.order.push((number, state, gap));
            if state == PARTIAL {
                shape.eighths.push((number, eighths));
            }
            let own =
                [Own::Other, Own::Zeros, Own::Same, Own::Nearly][noise.below(4) as usize];
            let pages = pages_of(noise, &shape, number, &below, own);
            data.insert(number, pages);
        }
        shape.entries = vec![(shape.blocks - 1, noise.below(4))];
        let (child, places) =
            shape.build_with(|block| data[&block].clone().into_iter().collect());
        let pair = Pair { shape, places, child, parent };
        assert_eq!(findings(&pair.child), [], "{:?}", pair.shape);
        pair
    }

    pub fn range(&self, block: u32) -> Range<u64> {
        let start = u64::from(block) * self.shape.block_len();
        start..start + self.shape.block_len()
    }

    /// What a block shows, with the parent behind it.
    pub fn view(&self, child: &Model, parent: &Model, block: u32) -> View {
        shown(&[child, parent], self.range(block))
    }
}

pub type View = BTreeMap<u64, Vec<u8>>;

/// Blocks in random order; never the last.
fn numbers(noise: &mut Noise, shape: &Shape) -> Vec<u32> {
    let ratio = shape.ratio() as u32;
    let mut numbers = Vec::new();
    for _ in 0..5 + noise.below(14) {
        let chunk = noise.below(u64::from(shape.blocks.div_ceil(ratio))) as u32;
        let within = noise.below(7) as u32;
        let number = match noise.below(3) {
            0 => chunk * ratio + ratio - 1 - within.min(ratio - 1),
            _ => chunk * ratio + within,
        };
        if number < shape.blocks - 1 && !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    numbers
}

/// The pages of a block of the child. What its bitmap calls the parent's is junk.
fn pages_of(
    noise: &mut Noise,
    shape: &Shape,
    block: u32,
    below: &Model,
    own: Own,
) -> View {
    let len = shape.block_len();
    let start = u64::from(block) * len;
    let parents = || -> View {
        let shown = shown(&[below], start..start + len);
        shown.into_iter().map(|(at, bytes)| (at - start, bytes)).collect()
    };
    let mut pages = match own {
        Own::Other => shape.data(block).into_iter().collect(),
        Own::Zeros => View::new(),
        Own::Same | Own::Nearly => parents(),
    };
    if own == Own::Nearly {
        let at = noise.below(len);
        let page = pages.entry(at / 4096 * 4096).or_insert_with(|| vec![0; 4096]);
        page[(at % 4096) as usize] ^= 0x10;
    }
    let found = shape.eighths.iter().find(|(b, _)| *b == block);
    for eighth in 0..8 {
        if found.is_some_and(|(_, eighths)| eighths & 1 << eighth == 0) {
            let junk = eighth * len / 8 + noise.below(len / 8 / 4096) * 4096;
            pages.retain(|at, _| at * 8 / len != eighth);
            pages.insert(junk, noise.bytes(4096));
        }
    }
    pages
}

pub fn attach(
    child: Arc<dyn Storage>,
    parent: Arc<dyn Storage>,
) -> Result<Box<dyn Image>> {
    let mut image = image::open(child)?;
    image.set_parent(Arc::from(image::open(parent)?))?;
    Ok(image)
}

/// What the blocks are found to be where no map speaks.
pub fn judged(image: &dyn Image) -> Result<Vec<Verdict>> {
    let mut options = Options::default();
    options.mode = Mode::Prezeroed;
    let go_on = &mut |_| ControlFlow::Continue(());
    Ok(survey(image, &options, true, go_on)?.unwrap().verdicts)
}

fn compact(
    child: Arc<dyn Storage>,
    parent: Arc<dyn Storage>,
) -> Result<(Plan, Box<dyn Image>)> {
    let mut image = attach(child, parent)?;
    image.compactable()?;
    let plan = plan(&image.layout().unwrap(), &judged(&*image)?);
    let round = 2 * plan.extent_len;
    run(&mut *image, &plan, round, &mut |_| ControlFlow::Continue(()))?;
    Ok((plan, image))
}

/// The state that a block has once all has gone that can.
fn expected_state(state: u64, view: &View, below: &View) -> u64 {
    match state {
        UNDEFINED => 2,
        FULL if view.is_empty() => 2,
        FULL | PARTIAL if view == below => 0,
        PARTIAL if view.is_empty() => 2,
        _ => state,
    }
}

#[derive(Default)]
struct Seen {
    to_parent: usize,
    to_zeros: usize,
    hiding: usize,
    bitmaps_gone: usize,
    bitmaps_moved: usize,
}

fn check(pair: &Pair, seen: &mut Seen) {
    let was = read_strictly(&pair.child).unwrap();
    let below = read_strictly(&pair.parent).unwrap();
    let (child, parent) =
        (PageFile::new(pair.child.clone()), PageFile::new(pair.parent.clone()));
    let (plan, image) = compact(child.clone(), parent.clone()).unwrap();
    assert!(parent.pages() == pair.parent, "the parent was written to");
    let after = child.pages();
    let now = read_strictly(&after).unwrap_or_else(|e| panic!("{e}: {:?}", pair.shape));
    assert_eq!(findings(&after), []);
    assert_eq!(after.len, plan.file_len_after);
    assert_eq!(now.data_write, was.data_write, "nothing that is read has changed");

    let mut needed = vec![false; now.bitmaps.len()];
    for (number, (state, place)) in (0u32..).zip(&was.blocks) {
        let gone = now.blocks[number as usize];
        if *place == 0 {
            assert_eq!(gone, (*state, 0), "block {number}");
            continue;
        }
        let view = pair.view(&was, &below, number);
        let under = shown(&[&below], pair.range(number));
        assert!(
            pair.view(&now, &below, number) == view,
            "block {number} reads otherwise"
        );
        let expected = expected_state(*state, &view, &under);
        assert_eq!(gone.0, expected, "block {number}, {state}: {:?}", pair.shape);
        assert_eq!(gone.1 != 0, matches!(expected, FULL | PARTIAL), "block {number}");
        needed[(u64::from(number) / pair.shape.ratio()) as usize] |= expected == PARTIAL;
        seen.to_parent += usize::from(expected == 0);
        seen.to_zeros += usize::from(expected == 2);
        seen.hiding += usize::from(expected == 2 && !under.is_empty());
        // And as the image itself, still open, reads.
        let range = pair.range(number);
        let mut bytes = vec![9; 8192];
        for at in [range.start, range.end - 8192, range.start + MIB / 8 * 3] {
            image.read_at(at, &mut bytes).unwrap();
            for (page, bytes) in (at..).step_by(4096).zip(bytes.chunks(4096)) {
                let there = view.get(&page).cloned().unwrap_or_else(|| vec![0; 4096]);
                assert!(bytes == there, "block {number} at {page:#x}");
            }
        }
    }
    for (chunk, needed) in needed.into_iter().enumerate() {
        let (place, old) = (now.bitmaps[chunk], was.bitmaps[chunk]);
        assert_eq!(place != 0, needed, "bitmap {chunk}");
        seen.bitmaps_gone += usize::from(old != 0 && place == 0);
        seen.bitmaps_moved += usize::from(place != 0 && place != old);
    }
    let again = compact(child.clone(), parent).unwrap();
    assert!(again.0.is_empty() && child.pages() == after);
}

#[test]
fn all_goes_that_can_and_the_rest_reads_the_same() {
    let mut noise = Noise::new(21);
    let mut seen = Seen::default();
    for block_mib in [1, 2, 4, 8, 32] {
        for _ in 0..if block_mib < 8 { 24 } else { 6 } {
            check(&Pair::random(&mut noise, block_mib), &mut seen);
        }
    }
    let Seen { to_parent, to_zeros, hiding, bitmaps_gone, bitmaps_moved } = seen;
    assert!(
        to_parent > 120 && to_zeros > 120 && hiding > 50,
        "{to_parent} {to_zeros} {hiding}"
    );
    assert!(bitmaps_gone > 20 && bitmaps_moved > 10, "{bitmaps_gone} {bitmaps_moved}");
}

/// A chunk of 32 MiB blocks whose bitmap lies at the very end of the file.
#[test]
fn a_bitmap_may_be_all_that_moves() {
    let parent = Shape { logical: 512, ..super::shape() };
    let shape = Shape {
        block_mib: 32,
        blocks: 130,
        order: vec![(1, FULL, 0), (0, FULL, 2), (128, PARTIAL, 0)],
        eighths: vec![(128, 0x01)],
        link: Some(link_to(&parent, "parent.vhdx")),
        ..Shape::default()
    };
    let (mut child, places) = shape.build(&[]);
    // The builder puts a bitmap before its first block: have the two change places.
    let was = read_strictly(&child).unwrap();
    let (bitmap, block) = (was.bitmaps[1], was.blocks[128].1);
    assert_eq!(block, bitmap + MIB);
    let bits = child.get(bitmap, 1 << 20);
    let data = child.get(block, 32 << 20);
    child.write(bitmap, &data);
    child.write(bitmap + 32 * MIB, &bits);
    let table = |index: u64| places.bat + index * 8;
    child.write(table(shape.index(128)), &(bitmap | PARTIAL).to_le_bytes());
    child.write(table(129 + 128), &((bitmap + 32 * MIB) | 6).to_le_bytes());
    let before = read_strictly(&child).unwrap();
    let (parent, _) = parent.build(&[]);
    let below = read_strictly(&parent).unwrap();
    let file = PageFile::new(child.clone());
    let (plan, _) = compact(file.clone(), PageFile::new(parent)).unwrap();
    let pieces: Vec<Piece> = plan.moves.iter().map(|m| m.piece).collect();
    assert_eq!((pieces.as_slice(), plan.release.len()), (&[Piece::Bitmap(1)][..], 0));
    assert_eq!((plan.blocks_moved(), plan.bytes_to_move()), (0, MIB));
    let after = file.pages();
    assert_eq!(after.len, child.len - MIB);
    let now = read_strictly(&after).unwrap();
    let range = 128 * 32 * MIB..129 * 32 * MIB;
    let shows = |model: &Model| shown(&[model, &below], range.clone());
    assert!(shows(&now) == shows(&before) && !shows(&now).is_empty());
}

#[test]
fn what_would_lose_data_is_refused() {
    let mut noise = Noise::new(5);
    let (pair, chunk) = loop {
        let pair = Pair::random(&mut noise, 1);
        let model = read_strictly(&pair.child).unwrap();
        if let Some(block) = model.blocks.iter().position(|(state, _)| *state == PARTIAL)
        {
            let chunk = block as u32 / pair.shape.ratio() as u32;
            break (pair, chunk);
        }
    };
    let file = PageFile::new(pair.child.clone());
    let mut image = attach(file.clone(), PageFile::new(pair.parent.clone())).unwrap();
    let error = image.release(&[Release::Bitmap(chunk)]).unwrap_err();
    assert!(error.to_string().contains("needs the sector bitmap"), "{error}");
    assert!(file.pages() == pair.child, "a refusal has written");
    // With all that needs it, it goes, and the image is not lost after the refusal.
    let mut gone: Vec<Release> =
        image.layout().unwrap().partial.iter().map(|b| Release::Block(*b)).collect();
    gone.push(Release::Bitmap(chunk));
    image.release(&gone).unwrap();
    assert_eq!(read_strictly(&file.pages()).unwrap().bitmaps[chunk as usize], 0);
    // Without its parent nothing is changed.
    let mut alone = image::open(PageFile::new(pair.child.clone())).unwrap();
    assert_eq!(alone.release(&gone).unwrap_err().kind(), Kind::ParentNotFound);
}

#[test]
fn an_entry_that_names_an_idle_place_is_put_in_order() {
    let mut noise = Noise::new(6);
    loop {
        let mut pair = Pair::random(&mut noise, 2);
        let Some(chunk) =
            read_strictly(&pair.child).unwrap().bitmaps.iter().position(|at| *at == 0)
        else {
            continue;
        };
        let ratio = pair.shape.ratio();
        let at = pair.places.bat + (chunk as u64 * (ratio + 1) + ratio) * 8;
        let was = read_strictly(&pair.child).unwrap();
        // Not present, with the place of a block that is there.
        let place = was.blocks.iter().map(|(_, place)| *place).max().unwrap();
        pair.child.write(at, &place.to_le_bytes());
        assert!(read_strictly(&pair.child).is_err());
        let file = PageFile::new(pair.child.clone());
        let done = compact(file.clone(), PageFile::new(pair.parent.clone())).unwrap();
        if !done.0.is_empty() {
            assert_eq!(findings(&file.pages()), []);
            read_strictly(&file.pages()).unwrap();
            return;
        }
    }
}

#[test]
fn every_call_on_a_child_may_fail() {
    let mut noise = Noise::new(77);
    let (mut tried, mut cases) = (0, 0);
    while cases < 2 {
        let mut pair = Pair::random(&mut noise, 1);
        pair.child = with_log(&pair);
        let was = read_strictly(&pair.child).unwrap();
        let below = read_strictly(&pair.parent).unwrap();
        let files = |own, above| {
            let child = Faulty::new(PageFile::new(pair.child.clone()), own);
            let parent = Faulty::new(PageFile::new(pair.parent.clone()), above);
            (Arc::new(child), Arc::new(parent))
        };
        let (child, parent) = files(None, None);
        let (plan, image) = compact(child.clone(), parent.clone()).unwrap();
        drop(image);
        let moves_bitmap = plan.moves.iter().any(|m| m.piece.block().is_none());
        if !moves_bitmap || plan.release.len() == plan.blocks_released() {
            continue;
        }
        cases += 1;
        let views: Vec<View> =
            (0..pair.shape.blocks).map(|b| pair.view(&was, &below, b)).collect();
        let goal = child.inner().pages();
        let judge = |file: &Pages, what: &str| {
            let now = read_strictly(file).unwrap_or_else(|e| panic!("{what}: {e}"));
            for (number, view) in (0..).zip(&views) {
                assert!(pair.view(&now, &below, number) == *view, "{what}: {number}");
            }
            assert_eq!(now.data_write, was.data_write, "{what}");
        };
        judge(&goal, "whole");
        for call in Call::ALL {
            for (calls, of_parent) in
                [(child.calls(call), false), (parent.calls(call), true)]
            {
                let step = if calls > 60 { 11 } else { 1 };
                for nth in (0..calls).step_by(step) {
                    for (error, lasting, partial) in [
                        (ErrorKind::Other, false, 0),
                        (ErrorKind::StorageFull, true, 700),
                    ] {
                        let fault =
                            Fault { lasting, partial, ..Fault::once(call, nth, error) };
                        let (own, above) = match of_parent {
                            false => (Some(fault), None),
                            true => (None, Some(fault)),
                        };
                        let (child, parent) = files(own, above);
                        let what = format!("{fault:?}, of the parent: {of_parent}");
                        let failed = compact(child.clone(), parent.clone());
                        assert!(child.struck() || parent.struck(), "{what}");
                        let kind = failed.err().expect("a fault was swallowed").kind();
                        let expected = match (call, error) {
                            (Call::StillExclusive, _) => Kind::InUse,
                            (_, ErrorKind::Other) => Kind::Io,
                            _ => Kind::DiskFull,
                        };
                        assert_eq!(kind, expected, "{what}");
                        let file = child.inner().pages();
                        judge(&file, &what);
                        assert!(parent.inner().pages() == pair.parent, "{what}");
                        let again = PageFile::new(file);
                        let above = PageFile::new(pair.parent.clone());
                        compact(again.clone(), above).unwrap();
                        judge(&again.pages(), &what);
                        assert_eq!(again.pages().len, goal.len, "{what}");
                        tried += 1;
                    }
                }
            }
        }
    }
    assert!(tried > 100, "only {tried} faults");
}

/// The child with a log to replay: the first page of its table, half of it torn.
pub fn with_log(pair: &Pair) -> Pages {
    let mut file = pair.child.clone();
    let page = file.get(pair.places.bat, 4096);
    let entry = crate::vhdx_model::LogEntry {
        pages: vec![(pair.places.bat, page)],
        ..crate::vhdx_model::LogEntry::default()
    };
    pair.shape.with_log(&mut file, &pair.places, 0, &[entry]);
    file.write(pair.places.bat, &[0xEE; 100]);
    file
}

/// The bits of a bitmap are read where it lies now, not where it lay.
#[test]
fn an_open_image_reads_on_after_its_bitmaps_have_moved() {
    let mut noise = Noise::new(9);
    let mut moved = 0;
    while moved < 10 {
        let pair = Pair::random(&mut noise, 1);
        let file = PageFile::new(pair.child.clone());
        let mut image = attach(file.clone(), PageFile::new(pair.parent.clone())).unwrap();
        let blocks: Vec<u32> =
            pair.shape.order.iter().map(|(block, ..)| *block).collect();
        let read = |image: &dyn Image| -> Vec<Vec<u8>> {
            let at = |block: &u32| u64::from(*block) * MIB;
            blocks.iter().map(|block| guest(image, at(block), 1 << 20)).collect()
        };
        let before = read(&*image);
        let plan = plan(&image.layout().unwrap(), &judged(&*image).unwrap());
        moved += plan.moves.iter().filter(|m| m.piece.block().is_none()).count();
        run(&mut *image, &plan, 1, &mut |_| ControlFlow::Continue(())).unwrap();
        // Where a bitmap lay before there may be anything now.
        let pages = file.pages();
        let old = read_strictly(&pair.child).unwrap().bitmaps;
        let now = read_strictly(&pages).unwrap();
        for place in old.iter().filter(|at| **at != 0 && **at < pages.len) {
            let free = !now.bitmaps.contains(place)
                && now
                    .blocks
                    .iter()
                    .all(|(_, at)| *at + MIB <= *place || place + MIB <= *at);
            if free {
                file.write_at(*place, &[0x55; 4096]).unwrap();
            }
        }
        assert!(read(&*image) == before);
    }
}
