//! Power cuts at every instant of a run on a VHDX, its log included.
//!
//! As for VHD, but that a sector may be torn at any byte. Each state is judged by a reader
//! that replays the log by itself.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use slimdisk::compact::Verdict;
use slimdisk::compact::plan::{Plan, plan};
use slimdisk::compact::run::run;
use slimdisk::image;

use crate::power_cut::{Growth, Op, Recorder, Tear, power_cut};
use crate::support::Noise;
use crate::vhdx_model::{
    FULL, LogEntry, MIB, Model, PAGE, Pages, Places, Shape, UNMAPPED, read_strictly,
};

/// One image, what is to be done with it, and the record of doing it.
struct Case {
    shape: Shape,
    places: Places,
    verdicts: Vec<Verdict>,
    before: Pages,
    original: Model,
    ops: Vec<Op>,
    after: Pages,
    plan: Plan,
}

fn compact(
    file: &Pages,
    verdicts: &[Verdict],
    blocks_a_round: u64,
) -> (Arc<Recorder<Pages>>, Plan) {
    let recorder = Recorder::new(file.clone());
    let mut image = image::open(recorder.clone()).unwrap();
    let plan = plan(&image.layout().unwrap(), verdicts);
    let round = blocks_a_round * plan.extent_len;
    run(&mut *image, &plan, round, &mut |_| ControlFlow::Continue(())).unwrap();
    (recorder, plan)
}

impl Case {
    fn random(noise: &mut Noise) -> Case {
        let mut shape = Shape::random(noise);
        // Sometimes there is nothing to win.
        let idle = noise.below(8) == 0;
        if idle {
            shape.order.iter_mut().for_each(|(.., unused)| *unused = 0);
        }
        let mut verdicts = vec![Verdict::Absent; shape.blocks as usize];
        let live_of_8 = if idle { 8 } else { noise.below(9) };
        // In half of all cases only zeros go.
        let frees = noise.below(2) == 0;
        for (block, state, _) in &shape.order {
            verdicts[*block as usize] = match noise.below(8) {
                _ if *state == UNMAPPED => Verdict::Zero,
                n if n < live_of_8 => Verdict::Live,
                n if n % 2 == 0 && frees => Verdict::Free,
                _ => Verdict::Zero,
            };
        }
        let zero: Vec<u32> = (0..shape.blocks)
            .filter(|block| verdicts[*block as usize] == Verdict::Zero)
            .collect();
        let (mut before, places) = shape.build(&zero);
        if noise.below(3) == 0 {
            // One of the two headers or tables is damaged.
            let at = [64, 128, 192, 256][noise.below(4) as usize] << 10;
            before.write(at + 20, &[0xEE]);
        }
        if noise.below(3) == 0 {
            // A log to replay, in which a live block loses its place, or one comes to be.
            let page = places.bat;
            let mut changed = before.get(page, 4096);
            let block = noise.below(u64::from(shape.blocks).min(500)) as usize;
            let at = before.len;
            let placed = shape.order.iter().any(|(b, ..)| *b as usize == block);
            let entry = if placed { 2 } else { at | FULL };
            let index = shape.index(block as u32) as usize;
            if index < 512 {
                changed[index * 8..][..8].copy_from_slice(&entry.to_le_bytes());
                verdicts[block] = if placed { Verdict::Absent } else { Verdict::Live };
            }
            let last = if placed { at } else { at + shape.block_len() };
            let entries = [
                LogEntry { zeros: vec![(page, PAGE)], ..LogEntry::default() },
                LogEntry {
                    pages: vec![(page, changed)],
                    last: Some(last),
                    ..LogEntry::default()
                },
            ];
            shape.with_log(&mut before, &places, noise.below(256) * PAGE, &entries);
            if noise.below(2) == 0 {
                // Half of it has reached its place.
                before.write(page, &noise.bytes(600));
            }
        }
        let original = read(&before).unwrap_or_else(|what| panic!("{what}: {shape:?}"));
        let (recorder, plan) = compact(&before, &verdicts, noise.below(3) + 1);
        let (after, ops) = (recorder.content(), recorder.ops());
        Case { shape, places, verdicts, before, original, ops, after, plan }
    }

    /// What must hold of a file at any instant.
    fn judge(&self, file: &Pages) -> Result<Model, String> {
        let now = read(file)?;
        let was = &self.original;
        if now.disk_size != was.disk_size {
            return Err("the disk has another size".to_owned());
        }
        let mut content_changed = false;
        for (number, verdict) in self.verdicts.iter().enumerate() {
            let same = now.same_block(was, number);
            let gone = now.blocks[number].1 == 0 && was.blocks[number].1 != 0;
            content_changed |= !same;
            match verdict {
                Verdict::Free if gone && now.blocks[number].0 == 2 => {}
                Verdict::Live if gone => {
                    return Err(format!("live block {number} is lost"));
                }
                _ if !same => return Err(format!("block {number} changed")),
                Verdict::Zero
                    if gone && !matches!(now.blocks[number].0, 2 | UNMAPPED) =>
                {
                    return Err(format!("block {number} is in no state of zeros"));
                }
                Verdict::Absent if now.blocks[number] != was.blocks[number] => {
                    let odd = was.blocks[number];
                    // Only a place that never meant anything may go.
                    if now.blocks[number] != (odd.0, 0) {
                        return Err(format!("the entry of block {number} changed"));
                    }
                }
                _ => {}
            }
        }
        if content_changed && now.data_write == was.data_write {
            return Err("other content under the same identity".to_owned());
        }
        let frees = self.verdicts.contains(&Verdict::Free);
        if !frees && now.data_write != was.data_write {
            return Err("another identity for the same content".to_owned());
        }
        let other = now.blocks != was.blocks || file.len != self.before.len;
        if other && now.file_write == was.file_write {
            return Err("another file under the same identity".to_owned());
        }
        if let Some(at) = self.places.unknown
            && !now.file.same(at, &self.before, at, MIB)
        {
            return Err("the unknown region changed".to_owned());
        }
        Ok(now)
    }

    fn state_after(&self, ops: &[Op], at: usize, noise: &mut Noise) -> Pages {
        power_cut(&self.before, &ops[..at], DISK, noise)
    }
}

/// What a disk does; a cut that was done already takes writes behind it along.
pub const DISK: (Tear, Growth) = (Tear::Changes, Growth::BySetLen);

/// The strict reader, which wants both copies of everything, but lets pass that one of
/// them was damaged from the start or is just being written.
fn read(file: &Pages) -> Result<Model, String> {
    let mut file = file.clone();
    for (at, other) in [(192 << 10, 256 << 10), (256 << 10, 192 << 10)] {
        let table: Vec<u8> = file.get(at, 64 << 10);
        if !crate::vhdx_model::sealed(&table) {
            let twin = file.get(other, 64 << 10);
            file.write(at, &twin);
            break;
        }
    }
    read_strictly(&file)
}

/// How many states the quick run draws, and how many of them the long one.
pub fn states_wanted() -> usize {
    if std::env::var_os("SLIMDISK_LONG").is_some() { 80_000 } else { 12_000 }
}

#[test]
fn no_power_cut_loses_a_live_byte_of_a_vhdx() {
    let mut noise = Noise::new(2012);
    let (mut states, mut moved, mut replayed, mut resumed) = (0, 0, 0, 0);
    let mut idle = 0;
    while states < states_wanted() {
        let case = Case::random(&mut noise);
        case.judge(&case.before).unwrap();
        let after = case.judge(&case.after).unwrap_or_else(|what| panic!("{what}"));
        // Even if that is all that there was to do.
        assert!(!after.replayed, "the log was left in use");
        idle += usize::from(case.plan.is_empty() && case.original.replayed);
        assert!(case.plan.is_empty() || read_strictly(&case.after).is_ok());
        assert_eq!(case.after.len, case.plan.file_len_after);
        moved += case.plan.moves.len();
        for at in 0..=case.ops.len() {
            for _ in 0..4 {
                let file = case.state_after(&case.ops, at, &mut noise);
                states += 1;
                let now = case.judge(&file).unwrap_or_else(|what| {
                    panic!(
                        "after {at} of {} operations on {:?}: {what}",
                        case.ops.len(),
                        case.shape
                    )
                });
                replayed += usize::from(now.replayed);
                let image = image::open(super::PageFile::new(file.clone())).unwrap();
                assert_eq!(image.layout().unwrap().file_len, now.file.len);
                if noise.below(64) == 0 {
                    let left = case.verdicts.iter().zip(&now.blocks);
                    let verdicts: Vec<Verdict> = left
                        .map(|(verdict, (_, place))| match place {
                            0 => Verdict::Absent,
                            _ => *verdict,
                        })
                        .collect();
                    let (again, plan) = compact(&file, &verdicts, 4);
                    let file = again.content();
                    case.judge(&file).unwrap();
                    assert!(file.len <= case.after.len, "a second run ends longer");
                    assert!(plan.is_empty() || read_strictly(&file).is_ok());
                    resumed += 1;
                }
            }
        }
    }
    assert!(moved > 100 && replayed > 1000 && resumed > 50 && idle > 0);
    println!(
        "{states} crash states, {replayed} replayed, {resumed} resumed, {idle} idle"
    );
}

/// The places where a flush stands between soundness and loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// Between the copies and the entry of the log that names them.
    BeforeLog,
    /// Between that and the table.
    AfterLog,
    /// Between the table and the header that calls the log empty. (The next entry of the
    /// log would flush the table along with itself.)
    AfterTable,
    /// Between one header and the other.
    AfterHeader,
    /// Between what the log had and the header that calls it empty.
    AfterReplay,
}

pub fn without(all: &[Op], shape: &Shape, places: &Places, fault: Fault) -> Vec<Op> {
    let Places { log, bat, .. } = places;
    let (log, bat) = (*log, *bat);
    let in_log = log..log + shape.log_mib * MIB;
    let in_table = bat..bat + MIB;
    let in_headers = 64 << 10..192 << 10;
    let mut kept = Vec::new();
    let mut ours = false;
    for (index, op) in all.iter().enumerate() {
        if matches!(op, Op::Flush) {
            let since: Vec<&Op> = all[..index]
                .iter()
                .rev()
                .take_while(|op| !matches!(op, Op::Flush))
                .collect();
            let wrote = |range: &Range<u64>| {
                since.iter().any(
                    |op| matches!(op, Op::Write { offset, .. } if range.contains(offset)),
                )
            };
            ours |= wrote(&in_log);
            let kind = if wrote(&in_log) {
                Some(Fault::AfterLog)
            } else if wrote(&in_table) {
                Some(if ours { Fault::AfterTable } else { Fault::AfterReplay })
            } else if wrote(&in_headers) {
                Some(Fault::AfterHeader)
            } else if since.iter().any(|op| matches!(op, Op::Write { .. })) {
                Some(Fault::BeforeLog)
            } else {
                None
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
fn a_flush_left_out_of_a_vhdx_run_is_caught() {
    for fault in [
        Fault::BeforeLog,
        Fault::AfterLog,
        Fault::AfterTable,
        Fault::AfterHeader,
        Fault::AfterReplay,
    ] {
        let mut noise = Noise::new(7);
        let mut caught = None;
        let mut states = 0;
        'cases: for _ in 0..300 {
            let case = Case::random(&mut noise);
            let ops = without(&case.ops, &case.shape, &case.places, fault);
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
