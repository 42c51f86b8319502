//! Every call of a merge fails once, and the hook asks to stop whenever it can: the
//! child shows the same, and a second run finishes the job.

use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::sync::Arc;

use slimdisk::Kind;
use slimdisk::image::{self, Image};
use slimdisk::merge::run::{Done, run};
use slimdisk::storage::Storage;

use super::crash::{Case, random_case};
use super::{Opened, merge, open_chain};
use crate::chain::content;
use crate::faults::{Call, Fault, Faulty, MemFile};
use crate::power_cut::Growth;
use crate::support::Noise;

const ROUND: u64 = 20_000;

/// Cases of each kind of parent in which there is something to do.
fn cases() -> Vec<Case> {
    let mut noise = Noise::new(91);
    let mut kinds = [0; 5];
    let mut cases = Vec::new();
    while kinds[2..].iter().any(|found| *found < 2) {
        let chain = random_case(&mut noise);
        let file = &chain[1];
        let kind = file[file.len() - 512 + 63] as usize;
        if kind > 4 || kinds[kind] == 2 {
            continue;
        }
        let case = Case::of(chain, ROUND);
        if case.ops.len() > 8 || kind == 2 {
            kinds[kind] += 1;
            cases.push(case);
        }
    }
    cases
}

fn run_on(case: &Case, storage: &Arc<dyn Storage>) -> (slimdisk::Result<()>, Done) {
    let mut done = Done::default();
    let result = open_chain(&case.chain, storage).and_then(|mut opened| {
        let go_on = &mut |_| ControlFlow::Continue(());
        run(&mut *opened.child, &mut *opened.parent, ROUND, &mut done, go_on)
    });
    (result, done)
}

#[test]
fn every_call_to_the_parent_may_fail() {
    let mut tried = 0;
    for case in cases() {
        let before = case.chain[1].clone();
        let whole = Arc::new(Faulty::new(MemFile::new(before.clone()), None));
        let storage: Arc<dyn Storage> = whole.clone();
        let (result, goal) = run_on(&case, &storage);
        result.unwrap();
        for call in Call::ALL {
            for nth in 0..whole.calls(call) {
                // Reading is most of it, and all alike.
                if call == Call::Read && nth > 12 && nth % 7 > 0 {
                    continue;
                }
                for (error, lasting, partial) in [
                    (ErrorKind::Other, false, 0),
                    (ErrorKind::StorageFull, true, 700),
                    (ErrorKind::StorageFull, false, 4),
                ] {
                    let fault =
                        Fault { lasting, partial, ..Fault::once(call, nth, error) };
                    let faulty =
                        Arc::new(Faulty::new(MemFile::new(before.clone()), Some(fault)));
                    let storage: Arc<dyn Storage> = faulty.clone();
                    let (result, done) = run_on(&case, &storage);
                    assert!(faulty.struck(), "{fault:?} did not happen");
                    let kind = result.expect_err("a fault was swallowed").kind();
                    let expected = match (call, error) {
                        (Call::StillExclusive, _) => Kind::InUse,
                        (_, ErrorKind::Other) => Kind::Io,
                        _ => Kind::DiskFull,
                    };
                    assert_eq!(kind, expected, "{fault:?}");
                    let file = faulty.inner().bytes();
                    case.judge(&file, Growth::LengthFirst)
                        .unwrap_or_else(|what| panic!("{fault:?}: {what}"));
                    assert!(done.bytes_merged <= goal.bytes_merged, "{done:?}");

                    // With the disk in order again the job is finished, and what was
                    // counted the first time need not be written again.
                    let again = Arc::new(MemFile::new(file));
                    let storage: Arc<dyn Storage> = again.clone();
                    let second = merge(&case.chain, &storage, ROUND).unwrap();
                    case.judge_whole(&again.bytes()).unwrap();
                    let left = goal.bytes_merged - done.bytes_merged;
                    assert!(
                        second.bytes_merged <= left,
                        "{fault:?}: {second:?} {done:?}"
                    );
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 300, "only {tried} faults");
    println!("{tried} faults");
}

#[test]
fn every_call_to_the_child_may_fail() {
    let mut tried = 0;
    for case in cases() {
        let file =
            |fault| Arc::new(Faulty::new(MemFile::new(case.chain[0].clone()), fault));
        let attempt = |child: Arc<Faulty<MemFile>>| {
            let parent = Arc::new(MemFile::new(case.chain[1].clone()));
            let storage: Arc<dyn Storage> = parent.clone();
            let mut opened = open_chain(&case.chain, &storage).unwrap();
            let mut image = image::open(child)?;
            let view = opened.child.parent().unwrap().clone();
            image.set_parent(view)?;
            opened.child = image;
            let mut done = Done::default();
            let go_on = &mut |_| ControlFlow::Continue(());
            let result =
                run(&mut *opened.child, &mut *opened.parent, ROUND, &mut done, go_on);
            case.judge(&parent.bytes(), Growth::LengthFirst).unwrap();
            result
        };
        let whole = file(None);
        attempt(whole.clone()).unwrap();
        for call in [Call::Read, Call::StillExclusive] {
            for nth in 0..whole.calls(call) {
                let faulty = file(Some(Fault::once(call, nth, ErrorKind::Other)));
                assert!(attempt(faulty.clone()).is_err() && faulty.struck());
                tried += 1;
            }
        }
        for call in [Call::Write, Call::Flush, Call::SetLen, Call::Copy] {
            assert_eq!(whole.calls(call), 0, "the child is only read");
        }
    }
    assert!(tried > 50, "only {tried} faults");
}

/// After a failed write the table in memory may not be the one in the file: no verb acts
/// on it any more.
#[test]
fn a_parent_whose_write_failed_does_nothing_more() {
    let cases = cases();
    let expanding = cases.iter().filter(|case| case.chain[1][..8] == *b"conectix");
    for case in expanding {
        for call in [Call::Write, Call::Flush] {
            let fault = Fault::once(call, 1, ErrorKind::Other);
            let faulty =
                Arc::new(Faulty::new(MemFile::new(case.chain[1].clone()), Some(fault)));
            let storage: Arc<dyn Storage> = faulty.clone();
            let Opened { mut child, mut parent } =
                open_chain(&case.chain, &storage).unwrap();
            let go_on = &mut |_| ControlFlow::Continue(());
            let mut done = Done::default();
            assert!(run(&mut *child, &mut *parent, 1 << 30, &mut done, go_on).is_err());
            assert_eq!(done.bytes_merged, 0);
            let file = faulty.inner().bytes();
            let write = image::GuestWrite { offset: 0, data: vec![1; 512] };
            assert!(parent.write(&[write]).is_err());
            assert!(parent.truncate().is_err());
            assert!(faulty.inner().bytes() == file);
        }
    }
}

#[test]
fn a_request_to_stop_is_heeded_whenever_it_comes() {
    let mut rounds = 0;
    for case in cases() {
        for nth in 0.. {
            let parent = Arc::new(MemFile::new(case.chain[1].clone()));
            let storage: Arc<dyn Storage> = parent.clone();
            let mut opened = open_chain(&case.chain, &storage).unwrap();
            let (mut calls, mut stopped, mut reached) = (0, false, 0);
            let mut done = Done::default();
            run(&mut *opened.child, &mut *opened.parent, ROUND, &mut done, &mut |at| {
                assert!(at.done >= reached && at.done <= at.total, "{at:?}");
                reached = at.done;
                calls += 1;
                stopped = calls - 1 == nth;
                if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
            let file = parent.bytes();
            case.judge(&file, Growth::Ordered).unwrap();
            assert_eq!(done.stopped, stopped);
            rounds += usize::from(done.bytes_merged > 0);
            if !stopped {
                case.judge_whole(&file).unwrap();
                break;
            }
            let again = Arc::new(MemFile::new(file));
            let storage: Arc<dyn Storage> = again.clone();
            merge(&case.chain, &storage, ROUND).unwrap();
            case.judge_whole(&again.bytes()).unwrap();
            assert_eq!(again.bytes().len(), case.after.len());
        }
    }
    assert!(rounds > 10, "{rounds}");
}

/// A write must be one that the disk has room for, in whole sectors, in order.
#[test]
fn writes_that_make_no_sense_are_refused() {
    for case in cases() {
        let parent = Arc::new(MemFile::new(case.chain[1].clone()));
        let storage: Arc<dyn Storage> = parent.clone();
        let mut image: Box<dyn Image> = open_chain(&case.chain, &storage).unwrap().parent;
        let size = image.len();
        let write = |offset, len| image::GuestWrite { offset, data: vec![7; len] };
        for writes in [
            vec![write(size, 512)],
            vec![write(size - 512, 1024)],
            vec![write(u64::MAX - 511, 512)],
            vec![write(1, 512)],
            vec![write(0, 511)],
            vec![write(512, 512), write(0, 512)],
            vec![write(0, 1024), write(512, 512)],
        ] {
            assert!(image.write(&writes).is_err(), "{:?}", writes[0].offset);
            assert!(parent.bytes() == case.chain[1]);
        }
        // What has been read before is not what is read after.
        let mut disk = content(&*image);
        let writes: Vec<_> =
            (0..size).step_by(9 * 1024).map(|at| write(at, 512)).collect();
        image.write(&writes).unwrap();
        for write in &writes {
            let at = write.offset as usize;
            disk[at..at + 512].fill(7);
        }
        assert!(content(&*image) == disk);
    }
}
