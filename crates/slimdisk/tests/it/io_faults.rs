//! Every read, write, flush, copy and cut of a run fails once: the image stays
//! sound, the error says what happened, and a second run finishes the job.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use slimdisk::Kind;
use slimdisk::compact::plan::plan;
use slimdisk::compact::run::run as run_plan;
use slimdisk::compact::{
    Hook, Mode, Options, Outcome, Phase, Progress, Report, Verdict, compact_storage,
};
use slimdisk::image::{self, Release};
use slimdisk::storage::Storage;

use crate::crash::judge;
use crate::faults::{Call, Fault, Faulty, MemFile};
use crate::vhd_model::{Shape, read_strictly};

/// Twelve blocks, five of them zeros, scattered.
pub fn shape() -> (Shape, Vec<u32>, Vec<Verdict>) {
    let order: Vec<_> = [5, 2, 9, 0, 11, 3, 7, 1, 10].map(|block| (block, 0)).to_vec();
    let zero = vec![5, 9, 3, 0, 10];
    let verdicts = (0..12)
        .map(|block| match order.iter().any(|(b, _)| *b == block) {
            false => Verdict::Absent,
            true if zero.contains(&block) => Verdict::Zero,
            true => Verdict::Live,
        })
        .collect();
    let shape = Shape {
        block_size: 8192,
        blocks: 12,
        order,
        aligned: false,
        spare_entries: 0,
        batmap: true,
        creator: *b"tap\0",
        seed: 4,
    };
    (shape, zero, verdicts)
}

fn compact(storage: Arc<dyn Storage>) -> slimdisk::Result<Outcome> {
    run(storage, &mut |_| ControlFlow::Continue(())).0
}

fn run(
    storage: Arc<dyn Storage>,
    hook: &mut Hook<'_>,
) -> (slimdisk::Result<Outcome>, Report) {
    let mut options = Options::default();
    options.mode = Mode::Prezeroed;
    options.verify = true;
    let mut report = Report::new(Path::new("memory"), options.mode);
    let outcome = compact_storage(storage, &options, &mut report, hook);
    (outcome, report)
}

/// What a report says of the file is what is in the file.
fn hold_to_the_truth(report: &Report, file: &[u8], what: &str) {
    let there = read_strictly(file).unwrap().iter().flatten().count() as u64;
    let blocks = report.blocks;
    assert_eq!(blocks.allocated_after, there, "{what}");
    assert_eq!(report.file_size_after, file.len() as u64, "{what}");
    let released = blocks.released_free + blocks.released_zero;
    assert!(released <= blocks.allocated_before - there, "{what}");
}

#[test]
fn a_request_to_stop_is_heeded_whenever_it_comes_and_told_truly() {
    let (shape, zero, verdicts) = shape();
    let before = shape.build(&zero);
    let mut phases = BTreeSet::new();
    for nth in 0.. {
        let storage = Arc::new(MemFile::new(before.clone()));
        let mut calls = 0;
        let mut asked = None;
        let (outcome, report) = run(storage.clone(), &mut |progress| {
            calls += 1;
            if calls - 1 != nth {
                return ControlFlow::Continue(());
            }
            // Asked but once.
            asked = Some(progress.phase);
            ControlFlow::Break(())
        });
        let what = format!("call {nth}, {asked:?}: {report:?}");
        let file = storage.bytes();
        judge(&shape, &verdicts, &file).unwrap();
        hold_to_the_truth(&report, &file, &what);
        let Some(phase) = asked else { break };
        let late = phase == Phase::Truncate;
        let expected = if late { Outcome::Compacted } else { Outcome::Cancelled };
        assert_eq!(outcome.unwrap(), expected, "{what}");
        if phase < Phase::Release {
            assert!(file == before, "{what}");
        }
        phases.insert(phase);
    }
    assert_eq!(phases.len(), 6, "{phases:?}");
}

#[test]
fn every_call_may_fail() {
    let (shape, zero, verdicts) = shape();
    let before = shape.build(&zero);
    let whole = Arc::new(Faulty::new(MemFile::new(before.clone()), None));
    assert_eq!(compact(whole.clone()).unwrap(), Outcome::Compacted);
    let goal = whole.inner().bytes();
    judge(&shape, &verdicts, &goal).unwrap();
    assert_eq!(goal.len(), before.len() - 5 * (8192 + 512));

    let mut tried = 0;
    for call in Call::ALL {
        let calls = whole.calls(call);
        assert!(calls > 0, "{call:?} does not occur in this run");
        for nth in 0..calls {
            for (error, lasting, partial) in [
                (ErrorKind::Other, false, 0),
                (ErrorKind::StorageFull, true, 700),
                (ErrorKind::StorageFull, false, 4),
                (ErrorKind::QuotaExceeded, true, 0),
                (ErrorKind::FileTooLarge, true, 0),
            ] {
                let fault = Fault { lasting, partial, ..Fault::once(call, nth, error) };
                let storage =
                    Arc::new(Faulty::new(MemFile::new(before.clone()), Some(fault)));
                let (failed, report) =
                    run(storage.clone(), &mut |_| ControlFlow::Continue(()));
                assert!(storage.struck(), "{fault:?} did not happen");
                let kind = failed.expect_err("a fault was swallowed").kind();
                let expected = match (call, error) {
                    (Call::StillExclusive, _) => Kind::InUse,
                    (_, ErrorKind::Other) => Kind::Io,
                    _ => Kind::DiskFull,
                };
                assert_eq!(kind, expected, "{fault:?}");
                let file = storage.inner().bytes();
                judge(&shape, &verdicts, &file)
                    .unwrap_or_else(|what| panic!("{fault:?}: {what}"));
                // Once it has been reopened, that is: where reading fails for good,
                // the file cannot be asked how far it came.
                if report.blocks.total > 0 && !(call == Call::Read && lasting) {
                    hold_to_the_truth(&report, &file, &format!("{fault:?}"));
                }

                // With the disk in order again the job is finished.
                let again = Arc::new(MemFile::new(file));
                compact(again.clone()).unwrap();
                judge(&shape, &verdicts, &again.bytes()).unwrap();
                assert_eq!(again.bytes().len(), goal.len(), "{fault:?}");
                tried += 1;
            }
        }
    }
    assert!(tried > 100, "only {tried} faults");
}

/// After a failed write the table in memory may not be the one in the file: no verb
/// acts on it any more.
#[test]
fn an_image_whose_write_failed_does_nothing_more() {
    let (shape, zero, verdicts) = shape();
    let before = shape.build(&zero);
    for call in [Call::Write, Call::Flush, Call::Copy] {
        let mut failures = 0;
        for nth in 0.. {
            let fault = Fault::once(call, nth, ErrorKind::Other);
            let storage =
                Arc::new(Faulty::new(MemFile::new(before.clone()), Some(fault)));
            let mut image = image::open(storage.clone()).unwrap();
            let plan = plan(&image.layout().unwrap(), &verdicts);
            let mut go_on = |_: Progress| ControlFlow::Continue(());
            if run_plan(&mut *image, &plan, 1, &mut go_on).is_ok() {
                break;
            }
            failures += 1;
            let file = storage.inner().bytes();
            assert!(image.truncate().is_err(), "{fault:?}");
            assert!(image.release(&[Release::Block(2)]).is_err(), "{fault:?}");
            assert!(image.relocate(&plan.moves).is_err(), "{fault:?}");
            assert!(storage.inner().bytes() == file, "{fault:?}");
        }
        assert!(failures > 1, "{call:?}: {failures}");
    }
}

/// The last block moves first: each round that was done makes the file shorter.
#[test]
fn a_run_that_is_stopped_has_won_what_it_moved() {
    let (shape, zero, verdicts) = shape();
    let mut lengths = Vec::new();
    for rounds in 0.. {
        let storage = Arc::new(MemFile::new(shape.build(&zero)));
        let mut image = image::open(storage.clone()).unwrap();
        let plan = plan(&image.layout().unwrap(), &verdicts);
        let mut left = rounds;
        let done = run_plan(&mut *image, &plan, 1, &mut |progress| {
            let stops = progress.phase == Phase::Relocate && left == 0;
            left -= u64::from(progress.phase == Phase::Relocate && left > 0);
            if stops { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        judge(&shape, &verdicts, &storage.bytes()).unwrap();
        lengths.push(storage.bytes().len());
        if !done.unwrap().stopped {
            break;
        }
    }
    assert!(lengths.len() > 2, "{lengths:?}");
    let shrinks = |pair: &[usize]| pair[1] < pair[0];
    assert!(lengths.windows(2).all(shrinks), "{lengths:?}");
}

#[test]
fn verifying_finds_a_changed_byte_and_a_lost_block() {
    let (shape, zero, _) = shape();
    for lose in [false, true] {
        let storage = Arc::new(MemFile::new(shape.build(&zero)));
        let damaged = storage.clone();
        let (outcome, report) = run(storage, &mut |progress| {
            if progress.phase == Phase::Truncate {
                let file = damaged.bytes();
                let place = read_strictly(&file).unwrap()[7].as_ref().unwrap().place;
                let (at, bytes) = match lose {
                    true => (0x600 + 7 * 4, vec![0xFF; 4]),
                    false => (place + 512 + 8191, vec![!file[place + 512 + 8191]]),
                };
                damaged.write_at(at as u64, &bytes).unwrap();
            }
            ControlFlow::Continue(())
        });
        let error = outcome.unwrap_err();
        assert!(error.what().contains("not the same"), "{error}");
        assert_eq!(report.verified, None);
    }
}
