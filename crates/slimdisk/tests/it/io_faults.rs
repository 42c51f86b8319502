//! Every read, write, flush, copy and cut of a run fails once: the image stays
//! sound, the error says what happened, and a second run finishes the job.

use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use slimdisk::Kind;
use slimdisk::compact::{Mode, Options, Outcome, Report, Verdict, compact_storage};
use slimdisk::storage::Storage;

use crate::crash::judge;
use crate::faults::{Call, Fault, Faulty, MemFile};
use crate::vhd_model::Shape;

/// Twelve blocks, five of them zeros, scattered.
fn shape() -> (Shape, Vec<u32>, Vec<Verdict>) {
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
    let mut options = Options::default();
    options.mode = Mode::Prezeroed;
    options.verify = true;
    let mut report = Report::new(Path::new("memory"), options.mode);
    compact_storage(storage, &options, &mut report, &mut |_| ControlFlow::Continue(()))
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
                let failed = compact(storage.clone());
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
