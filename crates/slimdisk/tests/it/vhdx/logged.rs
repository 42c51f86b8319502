//! What the entries of our own log say, at the moment at which each is written: rules of
//! [MS-VHDX] 2.2.2 and 2.3.1.1 for those who write a log. A reader that follows the
//! specification to the letter must be able to open the file at any instant.

use std::ops::{ControlFlow, Range};
use std::process::Command;
use std::sync::Arc;

use slimdisk::compact::Verdict;
use slimdisk::compact::plan::plan;
use slimdisk::compact::run::run;
use slimdisk::image;
use slimdisk::storage::Storage;

use super::crash::DISK;
use super::merge::crash::{CHILD, Case, PARENT};
use super::merge::judge::{Seen, read};
use super::merge::{Files, merge};
use super::{PageFile, findings, with_headers};
use crate::power_cut::{Op, Recorder, apply, power_cut};
use crate::support::{Noise, Scratch, have, sh};
use crate::vhdx_model::{FULL, MIB, Pages, Places, Shape, UNMAPPED, read_strictly};

/// Where the last structure, block or bitmap of a file ends.
fn end_of(seen: &Seen) -> u64 {
    let blocks = seen.blocks.iter().filter(|(state, place)| *state >= FULL || *place > 0);
    let blocks = blocks.map(|(_, place)| place + seen.block_len);
    let bitmaps = seen.bitmaps.iter().filter(|at| **at > 0).map(|at| at + MIB);
    let regions = [seen.log.0 + seen.log.1, seen.bat + MIB, seen.metadata + MIB];
    blocks.chain(bitmaps).chain(regions).max().unwrap()
}

/// Holds each entry of the log against the file at the time it was written; how many.
fn hold(before: &Pages, log: Range<u64>, ops: &[Op]) -> u32 {
    let mut file = before.clone();
    let (mut flushed_len, mut entries) = (file.len, 0);
    // What the last entry said of where all ends: of all that it changed, too.
    let mut last = None;
    for op in ops {
        if let Op::Write { offset, data } = op
            && log.contains(offset)
        {
            let end = end_of(&read(&file).unwrap());
            let field =
                |at: usize| u64::from_le_bytes(data[at..at + 8].try_into().unwrap());
            let (flushed, now) = (field(48), field(56));
            assert!(flushed % MIB == 0 && now % MIB == 0, "{flushed} {now}");
            assert!(flushed >= file.len, "{flushed} in a file of {} bytes", file.len);
            assert!(flushed <= flushed_len, "{flushed}, of which {flushed_len} are sure");
            assert!(now >= end, "all ends at {end}, not {now}");
            assert!(last.is_none_or(|last| last >= end), "all ended at {end}: {last:?}");
            assert!(now <= flushed, "{now} {flushed}");
            last = Some(now);
            entries += 1;
        }
        apply(&mut file, op);
        if matches!(op, Op::Flush) {
            flushed_len = file.len;
        }
    }
    entries
}

/// A random dynamic image, its verdicts, and the record of compacting it.
fn compacted(noise: &mut Noise) -> (Pages, Places, Vec<Op>) {
    let shape = Shape { unknown: None, ..Shape::random(noise) };
    let mut verdicts = vec![Verdict::Absent; shape.blocks as usize];
    for (block, state, _) in &shape.order {
        verdicts[*block as usize] = match noise.below(2) {
            0 if *state != UNMAPPED => Verdict::Live,
            _ => Verdict::Zero,
        };
    }
    let zero: Vec<u32> = (0..shape.blocks)
        .filter(|block| verdicts[*block as usize] == Verdict::Zero)
        .collect();
    let (mut file, places) = shape.build(&zero);
    match noise.below(4) {
        // As disk2vhd leaves a file.
        0 => file.set_len(file.len + 512),
        1 => file.set_len(file.len + noise.below(3 * MIB)),
        // As an old qemu does.
        2 if end_of(&read(&file).unwrap()) == file.len => file.set_len(file.len - 4096),
        _ => {}
    }
    let recorder = Recorder::new(file.clone());
    let mut image = image::open(recorder.clone()).unwrap();
    let plan = plan(&image.layout().unwrap(), &verdicts);
    let round = (noise.below(3) + 1) * plan.extent_len;
    run(&mut *image, &plan, round, &mut |_| ControlFlow::Continue(())).unwrap();
    let ops = recorder.ops();
    (file, places, ops)
}

#[test]
fn entries_tell_how_long_the_file_is() {
    let mut noise = Noise::new(31);
    let mut entries = 0;
    for _ in 0..60 {
        let (file, places, ops) = compacted(&mut noise);
        entries += hold(&file, places.log..places.log + MIB, &ops);
    }
    assert!(entries > 100, "{entries}");
    let mut merged = 0;
    for _ in 0..30 {
        let case = Case::random(&mut noise);
        for which in [CHILD, PARENT] {
            let file = &case.files.0[which];
            let (at, len) = read(file).unwrap().log;
            let ops: Vec<Op> = case
                .ops
                .iter()
                .filter(|(file, _)| *file == which)
                .map(|(_, op)| op.clone())
                .collect();
            merged += hold(file, at..at + len, &ops);
        }
    }
    assert!(merged > 60, "{merged}");
}

/// A header may name any version of the log as long as there is none in use. Ours is
/// version 0, and a header that names it must say so: else nobody may open the file after
/// a power cut.
#[test]
fn our_log_has_its_own_version() {
    let order = vec![(3, FULL, 0), (0, FULL, 0), (7, FULL, 0)];
    let shape = Shape { order, ..Shape::default() };
    let (file, _) = shape.build(&[3]);
    let file = with_headers(&file, 64, &[1]);
    assert!(findings(&file)[0].to_string().contains("log version"));
    let mut verdicts = vec![Verdict::Absent; 10];
    (verdicts[3], verdicts[0], verdicts[7]) =
        (Verdict::Zero, Verdict::Live, Verdict::Live);
    let recorder = Recorder::new(file.clone());
    let mut image = image::open(recorder.clone()).unwrap();
    let plan = plan(&image.layout().unwrap(), &verdicts);
    run(&mut *image, &plan, MIB, &mut |_| ControlFlow::Continue(())).unwrap();
    let (after, ops) = (recorder.content(), recorder.ops());
    let mut noise = Noise::new(4);
    for at in 0..=ops.len() {
        for _ in 0..4 {
            let now = power_cut(&file, &ops[..at], DISK, &mut noise);
            let open = image::open(PageFile::new(now));
            assert!(open.is_ok(), "after {at} of {}: {:?}", ops.len(), open.err());
        }
    }
    read_strictly(&after).unwrap();
}

/// The entry of a sector bitmap that is not there names a place, which means nothing: it
/// goes, through the log, before anything else. In a fixed image nothing else does, and
/// nothing is cut after a merge; yet its log must not be left in use.
#[test]
fn a_merge_into_a_fixed_disk_leaves_no_log() {
    let order = (0..17).map(|block| (block, FULL, 0)).collect();
    let parent =
        Shape { block_mib: 256, blocks: 17, flags: 1, order, ..Shape::default() };
    let (mut file, places) = parent.build(&[]);
    file.write(places.bat + 16 * 8, &(9 * MIB).to_le_bytes());
    let child = Shape {
        link: Some(super::chain::link_to(&parent, "parent.vhdx")),
        order: vec![(2, FULL, 0)],
        seed: 77,
        ..parent.clone()
    };
    let child = Shape { flags: 0, ..child }.build(&[]).0;
    let storages = [PageFile::new(child.clone()), PageFile::new(file.clone())];
    let storage: Arc<dyn Storage> = storages[1].clone();
    let files = Files(vec![child, file]);
    let done = merge(&files, storages[0].clone(), &storage, 1 << 30).unwrap();
    assert!(done.bytes_merged > 0);
    let after = storages[1].pages();
    assert_eq!(after.get(places.bat + 16 * 8, 8), [0; 8]);
    for at in [64 << 10, 128 << 10] {
        assert_eq!(after.get(at + 48, 16), [0; 16], "a log was left in use");
    }
    assert_eq!(findings(&after), []);
}

/// qemu replays what a power cut has left of our log, and finds the same.
#[test]
fn qemu_replays_our_log() {
    let test = "qemu_replays_our_log";
    if !have(test, &["qemu-img"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let path = scratch.path("disk.vhdx");
    let mut noise = Noise::new(61);
    let mut replayed = 0;
    for _ in 0..40 {
        let (file, _, ops) = compacted(&mut noise);
        let at = noise.below(ops.len() as u64 + 1) as usize;
        let now = power_cut(&file, &ops[..at], DISK, &mut noise);
        // A file that was cut short stays so until the first change.
        let Ok(seen) = read(&now) else { continue };
        // Sectors of 4096 bytes are beyond it, and what is too large takes too long here.
        if !seen.replayed || seen.sector != 512 || now.len > 100 * MIB {
            continue;
        }
        std::fs::write(&path, now.bytes()).unwrap();
        let ran = Command::new("qemu-img")
            .args(["check", "-q", "-f", "vhdx", "-r", "all"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(ran.status.success(), "{ran:?}");
        let after = Pages::from_bytes(&std::fs::read(&path).unwrap());
        let theirs = read(&after).unwrap();
        assert!(!theirs.replayed, "qemu has not replayed it");
        assert_eq!(theirs.blocks, seen.blocks);
        for (state, place) in &seen.blocks {
            if *state == FULL {
                assert!(theirs.file.same(*place, &seen.file, *place, seen.block_len));
            }
        }
        sh(&format!("qemu-img check -q -f vhdx {}", path.display()));
        replayed += 1;
    }
    assert!(replayed >= 5, "{replayed}");
}
