//! Power cuts at every instant of a run on a differencing VHDX: blocks go to the parent
//! or become zeros, and sector bitmaps move and go.

use std::ops::ControlFlow;
use std::sync::Arc;

use slimdisk::compact::Verdict;
use slimdisk::compact::plan::{Plan, plan};
use slimdisk::compact::run::run;
use slimdisk::image::Image;

use super::PageFile;
use super::child::{Pair, View, attach, judged, with_log};
use super::crash::{DISK, Fault, states_wanted, without};
use crate::power_cut::{Op, Recorder, power_cut};
use crate::support::Noise;
use crate::vhdx_model::{FULL, Model, Pages, read_strictly, shown};

/// One child, what is to be done with it, and the record of doing it.
struct Case {
    pair: Pair,
    verdicts: Vec<Verdict>,
    was: Model,
    below: Model,
    /// What the blocks with a place show, and what the parent shows there.
    views: Vec<(u32, View, View)>,
    ops: Vec<Op>,
    after: Pages,
    plan: Plan,
}

fn open(file: Arc<Recorder<Pages>>, pair: &Pair) -> Box<dyn Image> {
    attach(file, PageFile::new(pair.parent.clone())).unwrap()
}

fn compact(
    file: &Pages,
    pair: &Pair,
    verdicts: &[Verdict],
    blocks_a_round: u64,
) -> (Pages, Vec<Op>, Plan) {
    let recorder = Recorder::new(file.clone());
    let mut image = open(recorder.clone(), pair);
    let plan = plan(&image.layout().unwrap(), verdicts);
    let round = blocks_a_round * plan.extent_len;
    run(&mut *image, &plan, round, &mut |_| ControlFlow::Continue(())).unwrap();
    drop(image);
    (recorder.content(), recorder.ops(), plan)
}

impl Case {
    fn random(noise: &mut Noise) -> Case {
        let block_mib = [1, 1, 2, 4][noise.below(4) as usize];
        let mut pair = Pair::random(noise, block_mib);
        if noise.below(3) == 0 {
            pair.child = with_log(&pair);
        }
        let image = open(Recorder::new(pair.child.clone()), &pair);
        let mut verdicts = judged(&*image).unwrap();
        // In half of all cases only what reads the same goes.
        let frees = noise.below(2) == 0;
        let was = read_strictly(&pair.child).unwrap();
        let below = read_strictly(&pair.parent).unwrap();
        let mut views = Vec::new();
        for (block, verdict) in (0u32..).zip(&mut verdicts) {
            let (state, place) = was.blocks[block as usize];
            if place != 0 {
                let under = shown(&[&below], pair.range(block));
                views.push((block, pair.view(&was, &below, block), under));
            }
            match verdict {
                Verdict::Live if frees && noise.below(4) == 0 => *verdict = Verdict::Free,
                Verdict::Live if frees && state == FULL && noise.below(4) == 0 => {
                    *verdict = Verdict::Blank;
                }
                Verdict::Parent | Verdict::Zero if noise.below(4) == 0 => {
                    *verdict = Verdict::Live;
                }
                _ => {}
            }
        }
        let (after, ops, plan) =
            compact(&pair.child, &pair, &verdicts, noise.below(3) + 1);
        Case { pair, verdicts, was, below, views, ops, after, plan }
    }

    /// What must hold of a file at any instant.
    fn judge(&self, file: &Pages) -> Result<Model, String> {
        let now = read_strictly(file)?;
        if now.disk_size != self.was.disk_size {
            return Err("the disk has another size".to_owned());
        }
        let mut placed = self.was.blocks.clone();
        let mut content_changed = false;
        for (block, view, under) in &self.views {
            let (state, place) = now.blocks[*block as usize];
            placed[*block as usize] = (state, place);
            let verdict = self.verdicts[*block as usize];
            let shows = self.pair.view(&now, &self.below, *block);
            let gone = place == 0;
            content_changed |= shows != *view;
            match verdict {
                Verdict::Live if gone => return Err(format!("block {block} is lost")),
                Verdict::Free if gone && state == 0 && shows == *under => {}
                Verdict::Blank if gone && state == 2 && shows.is_empty() => {}
                _ if shows != *view => return Err(format!("block {block} changed")),
                _ => {}
            }
        }
        if placed != now.blocks {
            return Err("the entry of a block without a place changed".to_owned());
        }
        if content_changed && now.data_write == self.was.data_write {
            return Err("other content under the same identity".to_owned());
        }
        if !self.plan.changes_content && now.data_write != self.was.data_write {
            return Err("another identity for the same content".to_owned());
        }
        let other = now.blocks != self.was.blocks
            || now.bitmaps != self.was.bitmaps
            || file.len != self.pair.child.len;
        if other && now.file_write == self.was.file_write {
            return Err("another file under the same identity".to_owned());
        }
        Ok(now)
    }
}

#[test]
fn no_power_cut_changes_what_a_child_shows() {
    let mut noise = Noise::new(2013);
    let (mut states, mut bitmaps, mut gone, mut resumed) = (0, 0, 0, 0);
    while states < states_wanted() / 2 {
        let case = Case::random(&mut noise);
        // Mostly such in which a bitmap moves.
        if case.plan.moves.len() == case.plan.blocks_moved() && noise.below(8) > 0 {
            continue;
        }
        case.judge(&case.pair.child).unwrap();
        let after = case.judge(&case.after).unwrap_or_else(|what| panic!("{what}"));
        assert!(!after.replayed, "the log was left in use");
        assert_eq!(case.after.len, case.plan.file_len_after);
        bitmaps += case.plan.moves.len() - case.plan.blocks_moved();
        gone += case.plan.release.len() - case.plan.blocks_released();
        for at in 0..=case.ops.len() {
            for _ in 0..3 {
                let file = power_cut(&case.pair.child, &case.ops[..at], DISK, &mut noise);
                states += 1;
                let now = case.judge(&file).unwrap_or_else(|what| {
                    let (all, shape) = (case.ops.len(), &case.pair.shape);
                    panic!("after {at} of {all} operations on {shape:?}: {what}")
                });
                if noise.below(48) == 0 {
                    let left = case.verdicts.iter().zip(&now.blocks);
                    let verdicts: Vec<Verdict> = left
                        .map(|(verdict, (_, place))| match place {
                            0 => Verdict::Absent,
                            _ => *verdict,
                        })
                        .collect();
                    let (file, _, _) = compact(&file, &case.pair, &verdicts, 4);
                    let done = case.judge(&file).unwrap();
                    assert!(file.len <= case.after.len, "a second run ends longer");
                    let there = |model: &Model| {
                        model.bitmaps.iter().map(|at| *at != 0).collect::<Vec<_>>()
                    };
                    assert_eq!(there(&done), there(&after));
                    resumed += 1;
                }
            }
        }
    }
    assert!(bitmaps > 20 && gone > 20 && resumed > 50, "{bitmaps} {gone} {resumed}");
    println!("{states} crash states, {bitmaps} bitmaps moved, {gone} gone");
}

#[test]
fn a_flush_left_out_of_a_run_on_a_child_is_caught() {
    for fault in
        [Fault::BeforeLog, Fault::AfterLog, Fault::AfterTable, Fault::AfterHeader]
    {
        let mut noise = Noise::new(8);
        let mut caught = None;
        'cases: for _ in 0..200 {
            let case = Case::random(&mut noise);
            let ops = without(&case.ops, &case.pair.shape, &case.pair.places, fault);
            for at in 0..=ops.len() {
                for _ in 0..4 {
                    let file = power_cut(&case.pair.child, &ops[..at], DISK, &mut noise);
                    if let Err(what) = case.judge(&file) {
                        caught = Some(what);
                        break 'cases;
                    }
                }
            }
        }
        let what = caught.unwrap_or_else(|| panic!("{fault:?}: not caught"));
        println!("{fault:?}: {what}");
    }
}
