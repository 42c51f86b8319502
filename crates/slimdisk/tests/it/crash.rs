//! Power cuts at every instant of a run.
//!
//! A run is recorded write by write. For each instant the states that a disk may
//! be in are drawn (`crate::power_cut`): one sector may be torn between two table
//! entries, and a cut may have happened before writes that came earlier. Each state
//! is judged by a reader stricter than the library's own.

use std::ops::ControlFlow;
use std::sync::Arc;

use slimdisk::compact::Verdict;
use slimdisk::compact::plan::plan_to_clone;
use slimdisk::compact::run::run;
use slimdisk::image::{self, Image};
use slimdisk::storage::Storage;

use crate::chain::{content, random_chain, slices};
use crate::chain_model::read_chain;
use crate::faults::MemFile;
use crate::power_cut::{Growth, Op, Recorder, Tear, power_cut};
use crate::support::Noise;
use crate::vhd_model::{Shape, read_strictly};

/// What must hold of a file at any instant: a live block reads the same, one that
/// may go is gone or as it was, and the strictest reader finds nothing wrong.
pub fn judge(shape: &Shape, verdicts: &[Verdict], file: &[u8]) -> Result<(), String> {
    let blocks = read_strictly(file)?;
    for (number, verdict) in (0u32..).zip(verdicts) {
        let block = blocks[number as usize].as_ref();
        match (verdict, block) {
            (Verdict::Absent, None) => {}
            (Verdict::Free | Verdict::Zero | Verdict::Parent | Verdict::Blank, None) => {}
            (Verdict::Absent, Some(_)) => return Err(format!("block {number} appeared")),
            (Verdict::Live, None) => return Err(format!("live block {number} is lost")),
            (_, Some(block)) => {
                if block.bitmap != shape.bitmap(number) {
                    return Err(format!("the sector bitmap of block {number} changed"));
                }
                let same = if *verdict == Verdict::Zero {
                    block.data.iter().all(|byte| *byte == 0)
                } else {
                    block.data == shape.data(number)
                };
                if !same {
                    return Err(format!("the data of block {number} changed"));
                }
            }
        }
    }
    Ok(())
}

/// One image, what is to be done with it, and the record of doing it.
pub struct Case {
    pub shape: Shape,
    pub verdicts: Vec<Verdict>,
    pub before: Vec<u8>,
    pub ops: Vec<Op>,
    pub after: Vec<u8>,
}

impl Case {
    fn random(noise: &mut Noise) -> Case {
        let shape = Shape::random(noise);
        let mut verdicts = vec![Verdict::Absent; shape.blocks as usize];
        let live_of_8 = noise.below(9);
        for (block, _) in &shape.order {
            verdicts[*block as usize] = match noise.below(8) {
                n if n < live_of_8 => Verdict::Live,
                n if n % 2 == 0 => Verdict::Free,
                _ => Verdict::Zero,
            };
        }
        let zero: Vec<u32> = (0..shape.blocks)
            .filter(|block| verdicts[*block as usize] == Verdict::Zero)
            .collect();
        let before = shape.build(&zero);
        let recorder = Recorder::new(before.clone());
        Case::of(shape, verdicts, before, &recorder, noise)
    }

    /// Compacts what `recorder` holds, which is `before`.
    pub fn of(
        shape: Shape,
        verdicts: Vec<Verdict>,
        before: Vec<u8>,
        recorder: &Arc<Recorder<Vec<u8>>>,
        noise: &mut Noise,
    ) -> Case {
        compact(recorder.clone(), &verdicts, noise.below(3) + 1);
        let (ops, after) = (recorder.ops(), recorder.content());
        Case { shape, verdicts, before, ops, after }
    }

    pub fn judge(&self, file: &[u8]) -> Result<(), String> {
        judge(&self.shape, &self.verdicts, file)
    }

    pub fn state_after(&self, ops: &[Op], at: usize, noise: &mut Noise) -> Vec<u8> {
        state_after(&self.before, ops, at, noise)
    }
}

/// A state that the disk may be in if power fails after `ops[..at]`.
pub fn state_after(
    before: &Vec<u8>,
    ops: &[Op],
    at: usize,
    noise: &mut Noise,
) -> Vec<u8> {
    power_cut(before, &ops[..at], (Tear::Words, Growth::BySetLen), noise)
}

/// Compacts by the given verdicts, a few blocks a round.
fn compact(storage: Arc<Recorder<Vec<u8>>>, verdicts: &[Verdict], blocks_a_round: u64) {
    let unit = storage.clone_unit();
    let mut image = image::open(storage).unwrap();
    compact_image(&mut *image, verdicts, unit, blocks_a_round);
}

pub fn compact_image(
    image: &mut dyn Image,
    verdicts: &[Verdict],
    clone_unit: Option<u64>,
    blocks_a_round: u64,
) {
    let plan = plan_to_clone(&image.layout().unwrap(), verdicts, clone_unit);
    let round = blocks_a_round * plan.extent_len;
    run(image, &plan, round, &mut |_| ControlFlow::Continue(())).unwrap();
}

/// How many states the quick run draws, and how many of them the long one.
pub fn states_wanted() -> usize {
    if std::env::var_os("SLIMDISK_LONG").is_some() { 400_000 } else { 24_000 }
}

#[test]
fn no_power_cut_loses_a_live_byte() {
    let mut noise = Noise::new(2005);
    let (mut states, mut moved, mut resumed) = (0, 0, 0);
    while states < states_wanted() {
        let case = Case::random(&mut noise);
        case.judge(&case.before).unwrap();
        case.judge(&case.after).unwrap();
        moved += case.ops.iter().filter(|op| matches!(op, Op::Flush)).count();
        for at in 0..=case.ops.len() {
            for _ in 0..4 {
                let file = case.state_after(&case.ops, at, &mut noise);
                states += 1;
                if let Err(what) = case.judge(&file) {
                    panic!(
                        "after {at} of {} operations on {:?}: {what}",
                        case.ops.len(),
                        case.shape
                    );
                }
                if noise.below(64) == 0 {
                    let verdicts = what_is_left(&case, &file);
                    let again = Recorder::new(file);
                    compact(again.clone(), &verdicts, 4);
                    let file = again.content();
                    case.judge(&file).unwrap();
                    // Blocks that are left may happen to lie aligned, and stay so.
                    let slack =
                        if case.shape.aligned { 0 } else { 4096 * verdicts.len() };
                    assert!(
                        file.len() <= case.after.len() + slack,
                        "a second run ends longer"
                    );
                    resumed += 1;
                }
            }
        }
    }
    assert!(moved > 1000 && resumed > 100, "{moved} flushes, {resumed} resumed");
    println!("{states} crash states, {resumed} resumed");
}

/// The verdicts of a second run: what was released already is absent now.
fn what_is_left(case: &Case, file: &[u8]) -> Vec<Verdict> {
    let blocks = read_strictly(file).unwrap();
    let left = case.verdicts.iter().zip(&blocks);
    left.map(|(verdict, block)| if block.is_some() { *verdict } else { Verdict::Absent })
        .collect()
}

/// The three places where a flush stands between soundness and loss.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// Between the copies and the table that names them.
    BeforeTable,
    /// Between the table that gives places up and the copies that use them.
    AfterTable,
    /// Between the new footer and the cut.
    BeforeCut,
}

/// Leaves out the flushes of one kind.
fn without_flushes(case: &Case, fault: Fault) -> Vec<Op> {
    without(&case.ops, case.verdicts.len() + 200, fault)
}

fn without(ops: &[Op], entries: usize, fault: Fault) -> Vec<Op> {
    let table = 0x600..0x600 + entries as u64 * 4;
    let mut kept = Vec::new();
    for (index, op) in ops.iter().enumerate() {
        if matches!(op, Op::Flush) {
            let since =
                ops[..index].iter().rev().take_while(|op| !matches!(op, Op::Flush));
            let of_table = |op: &Op| matches!(op, Op::Write { offset, .. } if table.contains(offset));
            let wrote_table = since.clone().any(of_table);
            let cuts_next = matches!(ops.get(index + 1), Some(Op::SetLen(_)));
            let cut_before = since.clone().any(|op| matches!(op, Op::SetLen(_)));
            let kind = match (wrote_table, cuts_next) {
                (true, _) => Some(Fault::AfterTable),
                (false, true) => Some(Fault::BeforeCut),
                (false, false) if !cut_before => Some(Fault::BeforeTable),
                _ => None,
            };
            if kind == Some(fault) {
                continue;
            }
        }
        kept.push(op.clone());
    }
    kept
}

#[test]
fn a_flush_left_out_anywhere_is_caught() {
    for fault in [Fault::BeforeTable, Fault::AfterTable, Fault::BeforeCut] {
        let mut noise = Noise::new(7);
        let mut caught = None;
        let mut states = 0;
        'cases: for _ in 0..200 {
            let case = Case::random(&mut noise);
            let ops = without_flushes(&case, fault);
            for at in 0..=ops.len() {
                for _ in 0..4 {
                    states += 1;
                    let file = case.state_after(&ops, at, &mut noise);
                    if let Err(what) = case.judge(&file) {
                        caught = Some(what);
                        break 'cases;
                    }
                }
            }
        }
        let what =
            caught.unwrap_or_else(|| panic!("{fault:?}: not caught in {states} states"));
        println!("{fault:?}: caught after {states} states: {what}");
    }
}

/// A child, what is to be done with it, and the record of doing it.
struct ChildCase {
    /// The child before, then its parents.
    chain: Vec<Vec<u8>>,
    verdicts: Vec<Verdict>,
    block_size: usize,
    /// The guest's disk before.
    disk: Vec<u8>,
    ops: Vec<Op>,
    after: Vec<u8>,
}

impl ChildCase {
    /// What really happens to be the parent's goes, and some blocks as if they were
    /// free.
    fn random(noise: &mut Noise) -> ChildCase {
        let depth = 2 + noise.below(3) as usize;
        let ragged = noise.below(2) == 0;
        let chain = random_chain(noise, depth, ragged, false);
        let mut above: Option<Arc<dyn Image>> = None;
        for file in chain[1..].iter().rev() {
            let mut image = image::open(Arc::new(MemFile::new(file.clone()))).unwrap();
            if let Some(parent) = above.take() {
                image.set_parent(parent).unwrap();
            }
            above = Some(Arc::from(image));
        }
        let parent = above.unwrap();
        let recorder = Recorder::new(chain[0].clone());
        let mut image = image::open(recorder.clone()).unwrap();
        image.set_parent(parent).unwrap();
        let facts = image.facts();
        let free_of_8 = noise.below(9);
        let verdicts: Vec<Verdict> = (0..facts.blocks_total)
            .map(|block| {
                if !image.is_allocated(block) {
                    return Verdict::Absent;
                }
                match image.own_bytes(block).unwrap() {
                    Some(own) if own.is_empty() => Verdict::Parent,
                    _ if noise.below(8) < free_of_8 => Verdict::Free,
                    _ => Verdict::Live,
                }
            })
            .collect();
        compact_image(&mut *image, &verdicts, None, noise.below(3) + 1);
        let disk = read_chain(&slices(&chain));
        let block_size = facts.block_size as usize;
        let (ops, after) = (recorder.ops(), recorder.content());
        ChildCase { chain, verdicts, block_size, disk, ops, after }
    }

    /// The guest reads the same in every block that is not free, and in a free one
    /// what was there or what its parents show.
    fn judge(&self, file: &[u8]) -> Result<(), String> {
        let blocks = read_strictly(file)?;
        let mut chain = slices(&self.chain);
        let mut parents = read_chain(&chain[1..]);
        parents.resize(self.disk.len(), 0);
        chain[0] = file;
        let disk = read_chain(&chain);
        for (number, verdict) in self.verdicts.iter().enumerate() {
            let range = number * self.block_size..(number + 1) * self.block_size;
            // Behind the disk's end lie spare entries and the rest of the last block.
            let len = self.disk.len();
            let range = range.start.min(len)..range.end.min(len);
            let (now, was) = (&disk[range.clone()], &self.disk[range.clone()]);
            let gone = *verdict == Verdict::Free && blocks[number].is_none();
            if gone && now != &parents[range] {
                return Err(format!(
                    "block {number} shows neither itself nor its parent"
                ));
            }
            if !gone && now != was {
                return Err(format!("block {number} ({verdict:?}) changed"));
            }
        }
        Ok(())
    }
}

#[test]
fn no_power_cut_changes_what_a_child_shows() {
    let mut noise = Noise::new(2012);
    let (mut states, mut parents, mut moved) = (0, 0, 0);
    while states < states_wanted() / 3 {
        let case = ChildCase::random(&mut noise);
        case.judge(&case.chain[0]).unwrap();
        case.judge(&case.after).unwrap();
        parents += case.verdicts.iter().filter(|v| **v == Verdict::Parent).count();
        moved += usize::from(case.ops.len() > 8);
        for at in 0..=case.ops.len() {
            for _ in 0..4 {
                let file = state_after(&case.chain[0], &case.ops, at, &mut noise);
                states += 1;
                if let Err(what) = case.judge(&file) {
                    panic!("after {at} of {} operations: {what}", case.ops.len());
                }
            }
        }
        // What the library itself reads afterwards.
        let mut chain = case.chain.clone();
        chain[0] = case.after.clone();
        assert!(content(&*crate::chain::attach(&chain)) == read_chain(&slices(&chain)));
    }
    assert!(parents > 100 && moved > 40, "{parents} the parent's, {moved} moved");
    println!("{states} crash states of children");
}

#[test]
fn a_flush_left_out_of_a_childs_run_is_caught() {
    for fault in [Fault::BeforeTable, Fault::AfterTable, Fault::BeforeCut] {
        let mut noise = Noise::new(70);
        let caught = (0..400).any(|_| {
            let case = ChildCase::random(&mut noise);
            let ops = without(&case.ops, case.verdicts.len(), fault);
            (0..=ops.len()).any(|at| {
                (0..4).any(|_| {
                    let file = state_after(&case.chain[0], &ops, at, &mut noise);
                    case.judge(&file).is_err()
                })
            })
        });
        assert!(caught, "{fault:?}: not caught");
    }
}
