//! Every call to either file of a merge fails once, and the hook asks to stop whenever it
//! can: the child shows the same, and a second run finishes the job.

use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::sync::Arc;

use slimdisk::image::GuestWrite;
use slimdisk::merge::run::{Done, run};
use slimdisk::storage::Storage;

use super::super::PageFile;
use super::crash::{CHILD, Case, PARENT};
use super::judge::read;
use super::{Files, Kind, merge, open_chain, random_chain};
use crate::faults::{Call, Fault, Faulty};
use crate::support::Noise;
use crate::vhdx_model::{MIB, Pages};

const ROUND: u64 = 3 * MIB;

type Broken = Faulty<Arc<PageFile>>;

/// One case of each kind of parent in which much is done.
fn cases() -> Vec<Case> {
    let mut noise = Noise::new(17);
    let mut cases = Vec::new();
    for kind in [Kind::Fixed, Kind::Dynamic, Kind::Differencing, Kind::Differencing] {
        let least = if kind == Kind::Fixed { 10 } else { 30 };
        let case = (0..200)
            .map(|_| Case::of(random_chain(&mut noise, kind), ROUND))
            .find(|case| case.ops.len() > least)
            .unwrap();
        cases.push(case);
    }
    cases
}

fn broken(file: &Pages, fault: Option<Fault>) -> Arc<Broken> {
    Arc::new(Faulty::new(PageFile::new(file.clone()), fault))
}

fn attempt(files: &Files, now: &[Arc<Broken>; 2]) -> (slimdisk::Result<()>, Done) {
    let mut done = Done::default();
    let [child, parent] = now.clone();
    let storage: Arc<dyn Storage> = parent;
    let result =
        open_chain(files, child, &storage).and_then(|(mut child, mut parent)| {
            let go_on = &mut |_| ControlFlow::Continue(());
            run(&mut *child, &mut *parent, ROUND, &mut done, go_on)
        });
    (result, done)
}

#[test]
fn every_call_of_a_vhdx_merge_may_fail() {
    let mut tried = 0;
    for case in cases() {
        let before = [&case.files.0[CHILD], &case.files.0[PARENT]];
        let whole = before.map(|file| broken(file, None));
        let (result, goal) = attempt(&case.files, &whole);
        result.unwrap();
        for which in [CHILD, PARENT] {
            for call in Call::ALL {
                for nth in 0..whole[which].calls(call) {
                    // Reading is most of it, and all alike.
                    if call == Call::Read && nth % 23 > 0 {
                        continue;
                    }
                    for (error, lasting, partial) in [
                        (ErrorKind::Other, false, 0),
                        (ErrorKind::StorageFull, true, 700),
                        (ErrorKind::StorageFull, false, 4),
                    ] {
                        let fault =
                            Fault { lasting, partial, ..Fault::once(call, nth, error) };
                        let now = [CHILD, PARENT].map(|file| {
                            broken(before[file], (file == which).then_some(fault))
                        });
                        let (result, done) = attempt(&case.files, &now);
                        assert!(now[which].struck(), "{fault:?} did not happen");
                        let error = result.expect_err("a fault was swallowed").kind();
                        assert!(
                            matches!(
                                error,
                                slimdisk::Kind::Io
                                    | slimdisk::Kind::DiskFull
                                    | slimdisk::Kind::InUse
                            ),
                            "{error:?}"
                        );
                        let files = now.map(|file| file.inner().pages());
                        case.judge(&files)
                            .unwrap_or_else(|what| panic!("{which} {fault:?}: {what}"));
                        assert!(done.bytes_merged <= goal.bytes_merged, "{done:?}");

                        let again = files.map(PageFile::new);
                        let [child, parent] = again.clone();
                        let storage: Arc<dyn Storage> = parent;
                        let second = merge(&case.files, child, &storage, ROUND).unwrap();
                        let files = again.map(|file| file.pages());
                        case.judge_whole(&files)
                            .unwrap_or_else(|what| panic!("{which} {fault:?}: {what}"));
                        assert!(
                            second.bytes_merged <= goal.bytes_merged,
                            "{fault:?}: {second:?} {done:?}"
                        );
                        tried += 1;
                    }
                }
            }
        }
    }
    assert!(tried > 300, "only {tried} faults");
    println!("{tried} faults");
}

#[test]
fn a_vhdx_merge_stops_whenever_it_is_asked_to() {
    let mut stopped = 0;
    for case in cases() {
        let mut calls = 0;
        loop {
            let now = [CHILD, PARENT].map(|file| broken(&case.files.0[file], None));
            let [child, parent] = now.clone();
            let storage: Arc<dyn Storage> = parent;
            let (mut child, mut parent) =
                open_chain(&case.files, child, &storage).unwrap();
            let mut left = calls;
            let mut done = Done::default();
            run(&mut *child, &mut *parent, ROUND, &mut done, &mut |_| {
                left -= 1;
                if left < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
            let files = now.map(|file| file.inner().pages());
            let seen = case.judge(&files).unwrap();
            assert!(
                done.bytes_merged == 0 || !seen[PARENT].replayed,
                "its log is in use"
            );
            if !done.stopped {
                case.judge_whole(&files).unwrap();
                break;
            }
            stopped += 1;
            calls += 1 + calls / 3;
        }
    }
    assert!(stopped > 20, "{stopped}");
}

/// After a failed write nothing more is written, for what is known of the file may be
/// wrong.
#[test]
fn a_vhdx_that_failed_is_not_written_to_again() {
    let case = &cases()[1];
    let fault = Fault::once(Call::Flush, 2, ErrorKind::Other);
    let parent = broken(&case.files.0[PARENT], Some(fault));
    let storage: Arc<dyn Storage> = parent.clone();
    let child = broken(&case.files.0[CHILD], None);
    let (_, mut image) = open_chain(&case.files, child, &storage).unwrap();
    let write = [GuestWrite { offset: 0, data: vec![1; 4096] }];
    assert!(image.write(&write).is_err() && parent.struck());
    let file = parent.inner().pages();
    for _ in 0..2 {
        let error = image.write(&write).unwrap_err();
        assert!(error.to_string().contains("open the image anew"), "{error}");
        assert!(image.become_disk(&[1; 16]).is_err() && image.truncate().is_err());
    }
    assert!(parent.inner().pages() == file);
}

/// A write that nobody announced gives the disk another identity by itself.
#[test]
fn what_is_written_changes_the_identity_once() {
    let case = &cases()[1];
    let parent = PageFile::new(case.files.0[PARENT].clone());
    let storage: Arc<dyn Storage> = parent.clone();
    let child = PageFile::new(case.files.0[CHILD].clone());
    let (_, mut image) = open_chain(&case.files, child, &storage).unwrap();
    let id = || read(&parent.pages()).unwrap().id;
    let mut ids = vec![id()];
    for at in 0..3 {
        image.write(&[GuestWrite { offset: at * MIB, data: vec![7; 4096] }]).unwrap();
        ids.push(id());
    }
    assert!(ids[0] != ids[1] && ids[1] == ids[2] && ids[2] == ids[3], "{ids:?}");
    image.become_disk(&[9; 16]).unwrap();
    assert_eq!(id(), "09090909-0909-0909-0909-090909090909");
}

/// Writes of half a sector of the guest's, and of parts of neighbours.
#[test]
fn sectors_of_4096_bytes_are_written_whole() {
    let mut noise = Noise::new(3);
    let (mut tried, mut odd) = (0, 0);
    while tried < 30 {
        let kind = [Kind::Dynamic, Kind::Differencing][noise.below(2) as usize];
        let files = random_chain(&mut noise, kind);
        let seen = files.seen();
        if seen[PARENT].sector != 4096 {
            continue;
        }
        tried += 1;
        let parent = PageFile::new(files.0[PARENT].clone());
        let storage: Arc<dyn Storage> = parent.clone();
        let child = PageFile::new(files.0[CHILD].clone());
        let (_, mut image) = open_chain(&files, child, &storage).unwrap();
        let mut goal = files.shown(1);
        for _ in 0..4 {
            let (mut at, mut writes) = (noise.below(40) * 512, Vec::new());
            for _ in 0..6 {
                let len = (1 + noise.below(20)) * 512;
                if at + len > goal.len {
                    break;
                }
                let data = noise.bytes(len as usize);
                goal.write(at, &data);
                odd += u64::from(at % 4096 > 0);
                writes.push(GuestWrite { offset: at, data });
                at += len + noise.below(3) * 512 + noise.below(2) * (MIB - 512);
            }
            image.write(&writes).unwrap();
            let mut now = files.clone();
            now.0[PARENT] = parent.pages();
            assert!(now.shown(1) == goal);
            // Nothing stale is shown by the image itself.
            let mut read = vec![0; 4 << 20];
            image.read_at(0, &mut read).unwrap();
            assert!(read == goal.get(0, 4 << 20));
        }
    }
    assert!(odd > 50);
}

#[test]
fn writes_that_make_no_sense_are_refused() {
    let files = random_chain(&mut Noise::new(1), Kind::Dynamic);
    let parent = PageFile::new(files.0[PARENT].clone());
    let storage: Arc<dyn Storage> = parent.clone();
    let child = PageFile::new(files.0[CHILD].clone());
    let (_, mut image) = open_chain(&files, child, &storage).unwrap();
    let write = |offset, len: usize| GuestWrite { offset, data: vec![1; len] };
    let end = image.len();
    for writes in [
        vec![write(end, 512)],
        vec![write(100, 512)],
        vec![write(512, 100)],
        vec![write(1024, 1024), write(512, 512)],
        vec![write(0, 1024), write(512, 512)],
    ] {
        assert!(image.write(&writes).is_err());
    }
    image.write(&[]).unwrap();
    assert!(parent.pages() == files.0[PARENT]);
}
