//! Power cuts while holes are punched: any of the pieces may be there, and nothing else
//! may have changed.

use std::ops::ControlFlow;

use slimdisk::compact::punch::{Holes, run};
use slimdisk::image;
use slimdisk::ranges::Ranges;

use crate::crash::state_after;
use crate::power_cut::{Recorder, power_cut};
use crate::support::Noise;
use crate::vhd_model::{SECTOR, Shape, read_strictly};
use crate::vhdx::crash::DISK;
use crate::vhdx_model::{FULL, LogEntry, MIB, PAGE};

/// Random ranges of what an image holds of its disk.
fn random_ranges(image: &dyn image::Image, unit: u64, noise: &mut Noise) -> Ranges {
    let size = image.facts().block_size;
    let mut ranges = Ranges::new();
    for block in 0..image.facts().blocks_total {
        let start = u64::from(block) * size;
        let end = (start + size).min(image.len());
        let Some(place) = image.place(start) else { continue };
        let here = (end.saturating_sub(start)).min(place.end - place.start);
        // Where there is something, too.
        if noise.below(2) == 0 {
            ranges.insert(start..start + here.min(unit) / unit * unit);
            let last = here / unit * unit;
            ranges.insert(start + last.saturating_sub(unit)..start + last);
        }
        for _ in 0..noise.below(4) {
            let at = noise.below(here / unit + 1) * unit;
            let upto = (at + noise.below(6) * unit).min(here);
            ranges.insert(start + at..start + upto.max(at));
        }
    }
    ranges
}

fn punch(image: &mut dyn image::Image, ranges: &Ranges, changes: bool) {
    let mut holes = Holes::default();
    holes.ranges.clone_from(ranges);
    holes.changes_content = changes;
    let done = run(image, &holes, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(done.is_continue());
}

#[test]
fn no_power_cut_changes_more_of_a_vhd_than_was_punched() {
    let mut noise = Noise::new(1971);
    let (mut states, mut partly) = (0, 0);
    while states < 3000 {
        let shape = Shape::random(&mut noise);
        let before = shape.build(&[]);
        let recorder = Recorder::new(before.clone());
        let mut image = image::open(recorder.clone()).unwrap();
        let ranges = random_ranges(&*image, SECTOR as u64, &mut noise);
        if ranges.is_empty() {
            continue;
        }
        punch(&mut *image, &ranges, true);
        let ops = recorder.ops();
        for at in 0..=ops.len() {
            for _ in 0..3 {
                let file = state_after(&before, &ops, at, &mut noise);
                states += 1;
                let zeros = judge(&shape, &before, &file, &ranges)
                    .unwrap_or_else(|what| panic!("after {at} on {shape:?}: {what}"));
                partly += u32::from(zeros > 0 && zeros < ranges.total());
                if at == ops.len() {
                    assert_eq!(zeros, ranges.total(), "not all was punched");
                }
            }
        }
    }
    assert!(partly > 300, "only {partly} states in which some were there");
}

/// Every byte of the file is as it was, but for zeros where holes were to be; how many
/// bytes of those there are.
fn judge(
    shape: &Shape,
    before: &[u8],
    file: &[u8],
    ranges: &Ranges,
) -> Result<u64, String> {
    if file.len() != before.len() {
        return Err("the length changed".to_owned());
    }
    read_strictly(file)?;
    // By the model's own table: where the data of each block lies.
    let mut allowed = vec![false; file.len()];
    let blocks = read_strictly(before)?;
    for (number, block) in blocks.iter().enumerate() {
        let Some(block) = block else { continue };
        let data = block.data.as_ptr() as usize - before.as_ptr() as usize;
        let start = (number * shape.block_size) as u64;
        for range in ranges.within(start..start + shape.block_size as u64) {
            let (from, to) = (range.start - start, range.end - start);
            allowed[data + from as usize..data + to as usize].fill(true);
        }
    }
    let mut zeros = 0;
    for (at, (was, is)) in before.iter().zip(file).enumerate() {
        if was != is && !(allowed[at] && *is == 0) {
            return Err(format!("the byte at {at:#x} of the file changed"));
        }
        zeros += u64::from(allowed[at] && *is == 0);
    }
    // Noise has zeros of its own.
    let expected = ranges.total();
    let own = (0..before.len()).filter(|at| allowed[*at] && before[*at] == 0).count();
    Ok(if zeros == own as u64 && expected > own as u64 { 0 } else { zeros })
}

#[test]
fn no_power_cut_changes_more_of_a_vhdx_than_was_punched() {
    let mut noise = Noise::new(1982);
    let (mut states, mut replayed, mut partly) = (0, 0, 0);
    while states < 500 {
        let shape = crate::vhdx_model::Shape::random(&mut noise);
        let (mut before, places) = shape.build(&[]);
        let in_use = noise.below(2) == 0;
        if in_use {
            // What the log changes is the data of a block as well as the table.
            let table = before.get(places.bat, 4096);
            let entries = [
                LogEntry { zeros: vec![(places.bat, PAGE)], ..LogEntry::default() },
                LogEntry { pages: vec![(places.bat, table)], ..LogEntry::default() },
            ];
            let at = noise.below(256) * PAGE;
            shape.with_log(&mut before, &places, at, &entries);
            if noise.below(2) == 0 {
                before.write(places.bat, &noise.bytes(600));
            }
        }
        let changes = noise.below(3) > 0;
        let original = crate::vhdx_model::read_strictly(&before).unwrap();
        let recorder = Recorder::new(before.clone());
        let mut image = image::open(recorder.clone()).unwrap();
        let ranges = random_ranges(&*image, PAGE, &mut noise);
        if ranges.is_empty() {
            continue;
        }
        punch(&mut *image, &ranges, changes);
        let ops = recorder.ops();
        for at in 0..=ops.len() {
            for _ in 0..3 {
                let file = power_cut(&before, &ops[..at], DISK, &mut noise);
                states += 1;
                let now = read_one_copy(&file);
                replayed += u32::from(in_use && !now.replayed);
                assert_eq!(file.len, before.len);
                assert_eq!(now.blocks, original.blocks);
                for at in [places.bat, places.metadata] {
                    let same = now.file.same(at, &original.file, at, MIB);
                    assert!(same, "the structure at {at:#x} changed");
                }
                let (mut punched, mut left) = (false, false);
                for (block, (state, place)) in now.blocks.iter().enumerate() {
                    if *place == 0 {
                        continue;
                    }
                    let start = block as u64 * shape.block_len();
                    for page in (0..shape.block_len()).step_by(4096) {
                        let was = original.file.get(place + page, 4096);
                        let is = now.file.get(place + page, 4096);
                        let hole = ranges.covers(&(start + page..start + page + PAGE));
                        let zero = is.iter().all(|byte| *byte == 0);
                        assert!(was == is || hole && zero, "block {block}, {page:#x}");
                        if hole && *state == FULL {
                            punched |= was != is;
                            left |= was == is && !zero;
                        }
                    }
                }
                partly += u32::from(punched && left);
                if punched && changes {
                    assert_ne!(now.data_write, original.data_write);
                }
                if !changes {
                    assert_eq!(now.data_write, original.data_write);
                }
                if punched {
                    assert_ne!(now.file_write, original.file_write);
                    assert!(!now.replayed, "holes under a log in use");
                }
                if at == ops.len() {
                    assert!(!left, "not all was punched");
                }
            }
        }
    }
    assert!(replayed > 20 && partly > 3, "{replayed} replayed, {partly} partly");
}

/// The strict reader wants both headers; one of them may just be being written.
fn read_one_copy(file: &crate::vhdx_model::Pages) -> crate::vhdx_model::Model {
    crate::vhdx_model::read_strictly(file).unwrap_or_else(|what| panic!("{what}"))
}
