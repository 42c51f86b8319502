//! Every call that compacting a child makes, of its own file and of its parent's, fails
//! once: the chain reads the same, the error says what happened, and a second run
//! finishes the job.

use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::sync::Arc;

use slimdisk::compact::plan::plan;
use slimdisk::compact::survey::survey;
use slimdisk::compact::{Mode, Options, Verdict, run::run};
use slimdisk::image::{self, Image};
use slimdisk::{Kind, Result};

use super::compacted::child_of_kinds;
use super::content;
use crate::chain_model::read_chain;
use crate::faults::{Call, Fault, Faulty, MemFile};
use crate::support::Noise;
use crate::vhd_model::{Shape, read_strictly};

type File = Arc<Faulty<MemFile>>;

fn file(bytes: &[u8], fault: Option<Fault>) -> File {
    Arc::new(Faulty::new(MemFile::new(bytes.to_vec()), fault))
}

fn attach(child: &File, parent: &File) -> Result<Box<dyn Image>> {
    let mut image = image::open(child.clone())?;
    image.set_parent(Arc::from(image::open(parent.clone())?))?;
    Ok(image)
}

/// Compacts the child; how many blocks went and moved.
fn compact(child: &File, parent: &File) -> Result<(usize, usize)> {
    let mut image = attach(child, parent)?;
    image.compactable()?;
    let mut options = Options::default();
    options.mode = Mode::Full;
    let go_on = &mut |_| ControlFlow::Continue(());
    let found = survey(&*image, &options, true, go_on)?.unwrap();
    assert!(found.verdicts.iter().all(|v| *v != Verdict::Free && *v != Verdict::Zero));
    let plan = plan(&image.layout().unwrap(), &found.verdicts);
    let done = run(&mut *image, &plan, 2 * plan.extent_len, go_on)?;
    Ok((done.released, done.moved))
}

#[test]
fn every_call_may_fail() {
    let mut noise = Noise::new(31);
    let (mut tried, mut cases) = (0, 0);
    while cases < 3 {
        let mut shape = Shape::random(&mut noise);
        (shape.batmap, shape.spare_entries, shape.creator) = (false, 0, *b"win ");
        let parent_bytes = shape.build(&[]);
        let (child_bytes, _) = child_of_kinds(&mut noise, &parent_bytes);
        let before = read_chain(&[&child_bytes, &parent_bytes]);
        let (child, parent) = (file(&child_bytes, None), file(&parent_bytes, None));
        let (released, moved) = compact(&child, &parent).unwrap();
        if child_bytes.len() > 300_000 || released < 3 || moved < 3 {
            continue;
        }
        cases += 1;
        let goal = child.inner().bytes();
        assert!(read_chain(&[&goal, &parent_bytes]) == before);
        for changes in [Call::Write, Call::Flush, Call::SetLen, Call::Copy] {
            assert_eq!(parent.calls(changes), 0, "{changes:?} of the parent");
        }
        for of_parent in [false, true] {
            for call in Call::ALL {
                let calls =
                    if of_parent { parent.calls(call) } else { child.calls(call) };
                let changes = !matches!(call, Call::Read | Call::StillExclusive);
                assert!(calls > 0 || of_parent && changes, "{call:?} {of_parent}");
                // The first ones and the last ones, and some of many reads.
                let step = if calls > 60 { 7 } else { 1 };
                for nth in (0..calls).step_by(step) {
                    for (error, lasting, partial) in [
                        (ErrorKind::Other, false, 0),
                        (ErrorKind::StorageFull, true, 700),
                        (ErrorKind::StorageFull, false, 4),
                    ] {
                        let fault =
                            Fault { lasting, partial, ..Fault::once(call, nth, error) };
                        let (own, above) = match of_parent {
                            false => (Some(fault), None),
                            true => (None, Some(fault)),
                        };
                        let (child, parent) =
                            (file(&child_bytes, own), file(&parent_bytes, above));
                        let failed = compact(&child, &parent);
                        let what = format!("{fault:?}, of the parent: {of_parent}");
                        assert!(child.struck() || parent.struck(), "{what}");
                        let failed = failed.expect_err("a fault was swallowed");
                        let expected = match (call, error) {
                            (Call::StillExclusive, _) => Kind::InUse,
                            (_, ErrorKind::Other) => Kind::Io,
                            _ => Kind::DiskFull,
                        };
                        assert_eq!(failed.kind(), expected, "{what}");
                        let words = match call {
                            Call::StillExclusive => "a writer came".to_owned(),
                            _ => format!("{call:?} "),
                        };
                        assert!(failed.to_string().contains(&words), "{failed}");

                        assert!(parent.inner().bytes() == parent_bytes, "{what}");
                        let bytes = child.inner().bytes();
                        read_strictly(&bytes).unwrap_or_else(|e| panic!("{what}: {e}"));
                        assert!(read_chain(&[&bytes, &parent_bytes]) == before, "{what}");
                        let (child, parent) =
                            (file(&bytes, None), file(&parent_bytes, None));
                        compact(&child, &parent).unwrap();
                        let done = child.inner().bytes();
                        assert_eq!(done.len(), goal.len(), "{what}");
                        let image = attach(&child, &parent).unwrap();
                        assert!(content(&*image) == before, "{what}");
                        tried += 1;
                    }
                }
            }
        }
    }
    assert!(tried > 600, "only {tried} faults");
    println!("{tried} faults");
}

/// A read that fails is an error each time and in each part of a chain, and what is told
/// to be read was read.
#[test]
fn no_failing_read_is_taken_for_data() {
    let mut noise = Noise::new(32);
    let mut tried = 0;
    for _ in 0..6 {
        let mut shape = Shape::random(&mut noise);
        (shape.batmap, shape.spare_entries, shape.creator) = (false, 0, *b"win ");
        let parent_bytes = shape.build(&[]);
        let (child_bytes, _) = child_of_kinds(&mut noise, &parent_bytes);
        let expected = read_chain(&[&child_bytes, &parent_bytes]);
        let whole = [file(&child_bytes, None), file(&parent_bytes, None)];
        content(&*attach(&whole[0], &whole[1]).unwrap());
        for of_parent in [false, true] {
            for nth in 0..whole[usize::from(of_parent)].calls(Call::Read) {
                let fault = Fault::once(Call::Read, nth, ErrorKind::Other);
                let [own, above] = match of_parent {
                    false => [Some(fault), None],
                    true => [None, Some(fault)],
                };
                let (child, parent) =
                    (file(&child_bytes, own), file(&parent_bytes, above));
                tried += 1;
                let Ok(image) = attach(&child, &parent) else { continue };
                let mut disk = vec![0; image.len() as usize];
                let error = image.read_at(0, &mut disk).unwrap_err();
                assert_eq!(error.kind(), Kind::Io);
                // It passes, and nothing wrong was kept.
                image.read_at(0, &mut disk).unwrap();
                assert!(disk == expected);
            }
        }
    }
    assert!(tried > 100, "{tried}");
}
