//! Files made to take up memory, time or room.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use slimdisk::Kind;
use slimdisk::compact::{Verdict, plan::plan, run::run};
use slimdisk::image::{self, Severity};

use super::{PageFile, findings, guest, has, open, open_error, repair, shape};
use crate::vhdx_model::{FULL, LogEntry, MIB, PAGE, Shape, read_strictly};

/// Hundreds of thousands of zero descriptors, none beside another, over a disk of many
/// blocks: what comes next is found without going through all of them.
#[test]
fn a_log_of_many_zero_descriptors_takes_no_time() {
    let order: Vec<(u32, u64, u64)> = (0..20_000).map(|block| (block, FULL, 0)).collect();
    let all: Vec<u32> = order.iter().map(|(block, ..)| *block).collect();
    let shape = Shape { blocks: 20_000, log_mib: 16, order, ..shape() };
    let (mut file, places) = shape.build(&all);
    let zeros = (0..250_000).map(|n| (file.len + n * 2 * PAGE, PAGE)).collect();
    let entry = LogEntry { zeros, ..LogEntry::default() };
    shape.with_log(&mut file, &places, 0, &[entry]);
    let begun = Instant::now();
    let image = open(&file).unwrap();
    assert_eq!(image.next_data(0).unwrap(), None);
    for block in 0..20_000 {
        assert_eq!(image.next_data_in_block(block, 0).unwrap(), None);
    }
    assert!(image.facts().notes[0].contains("250000 changes"));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // One more than is taken.
    let zeros = (0..262_145).map(|n| (file.len + n * 2 * PAGE, PAGE)).collect();
    shape.with_log(&mut file, &places, 0, &[LogEntry { zeros, ..LogEntry::default() }]);
    assert!(open_error(&file).to_string().contains("at most 262144 changes"));
}

#[test]
fn zeros_without_end_take_no_memory() {
    let shape = shape();
    let (whole, places) = shape.build(&[]);
    let of = |at: u64, len: u64| {
        let mut file = whole.clone();
        let entry = LogEntry { zeros: vec![(at, len)], ..LogEntry::default() };
        shape.with_log(&mut file, &places, 0, &[entry]);
        file
    };
    // Behind all blocks: the file becomes longer, as the specification has it.
    let far = of(whole.len, 100 << 40);
    let image = open(&far).unwrap();
    assert_eq!(image.layout().unwrap().file_len, whole.len + (100 << 40));
    assert_eq!(guest(&*image, 7 * MIB, 4096), shape.data(7)[0].1);
    let (_, after) = repair(&far).unwrap();
    assert_eq!(after.len, whole.len + (100 << 40));
    assert_eq!(
        read_strictly(&after).unwrap().blocks,
        read_strictly(&whole).unwrap().blocks
    );
    // Over a block: it is zeros then, in memory as in the file.
    let place = read_strictly(&whole).unwrap().blocks[7].1;
    let over = of(place, 64 << 40);
    let image = open(&over).unwrap();
    for at in [0, MIB / 2, MIB - 4096] {
        assert_eq!(guest(&*image, 7 * MIB + at, 4096), [0; 4096]);
    }
    let (_, after) = repair(&over).unwrap();
    assert!(after.is_zero(place, after.len - place));
    // Beyond what any file has.
    for (at, len) in [(whole.len, 129 << 40), (u64::MAX - PAGE + 1, PAGE)] {
        assert!(open_error(&of(at, len)).to_string().contains("at most 128 TiB"));
    }
}

/// A log that could not be replayed after a power cut is never begun.
#[test]
fn a_log_too_large_to_replay_is_not_written_to() {
    let shape = Shape { log_mib: 257, ..shape() };
    let (mut file, places) = shape.build(&[]);
    assert_eq!(findings(&file), []);
    let mut image = open(&file).unwrap();
    assert_eq!(guest(&*image, 7 * MIB, 4096), shape.data(7)[0].1);
    let error = image.compactable().unwrap_err();
    assert_eq!(error.kind(), Kind::WrongImageType);
    assert!(error.to_string().contains("more than 256 MiB"), "{error}");
    assert!(image.release(&[image::Release::Block(7)]).is_err());
    shape.with_log(&mut file, &places, 0, &[LogEntry::default()]);
    assert!(open_error(&file).to_string().contains("log that must be replayed"));
    let largest = Shape { log_mib: 256, ..shape };
    let (mut file, places) = largest.build(&[]);
    largest.with_log(&mut file, &places, 200 * MIB, &[LogEntry::default()]);
    open(&file).unwrap().compactable().unwrap();
}

/// A header whose number cannot be raised could never be changed.
#[test]
fn a_number_at_its_end_is_refused_before_anything_is_written() {
    let (file, _) = shape().build(&[]);
    for number in [u64::MAX, u64::MAX - 1, u64::MAX - (1 << 32) + 1] {
        let file = super::with_headers(&file, 8, &number.to_le_bytes());
        let mut later = file.get(128 << 10, 4096);
        later[8..16].copy_from_slice(&(number - 1).to_le_bytes());
        crate::vhdx_model::seal(&mut later);
        let file = super::with(&file, 128 << 10, &later);
        let found = findings(&file);
        assert!(has(&found, Severity::Error, "header sequence number"), "{found:?}");
        assert!(open(&file).is_err() && repair(&file).is_err());
    }
}

/// The place of an entry that means nothing is no place for anybody else before it is
/// gone: of blocks and of sector bitmaps.
#[test]
fn idle_places_go_before_anything_moves() {
    let order = vec![(16, FULL, 0), (3, FULL, 0)];
    let shape = Shape { block_mib: 256, blocks: 17, order, ..shape() };
    let (mut file, places) = shape.build(&[16]);
    let goal = read_strictly(&file).unwrap().blocks[16].1;
    // Where block 3 is going to move.
    for entry in [5u64, 16] {
        file.write(places.bat + entry * 8, &goal.to_le_bytes());
    }
    let storage = PageFile::new(file.clone());
    let mut image = image::open(storage.clone()).unwrap();
    let mut verdicts = vec![Verdict::Absent; 17];
    (verdicts[16], verdicts[3]) = (Verdict::Zero, Verdict::Live);
    let plan = plan(&image.layout().unwrap(), &verdicts);
    assert_eq!(plan.moves[0].to, goal);
    run(&mut *image, &plan, 1, &mut |_| ControlFlow::Continue(())).unwrap();
    let after = storage.pages();
    for entry in [5u64, 16] {
        assert_eq!(after.get(places.bat + entry * 8, 8), [0; 8], "entry {entry}");
    }
    assert_eq!(read_strictly(&after).unwrap().blocks[3], (FULL, goal));
    assert_eq!(findings(&after), []);
}
