//! Images: small sound VHDs and VHDXs, changed in places the input chooses, their
//! checksums mended if it says so, or the fuzzer would never get past them.
//!
//! What must hold, whatever the bytes:
//!
//! - no panic; reading and checking takes at most four times the file's length;
//! - `check` lists an error if, and only if, `open` refuses; what is not detected is
//!   not opened;
//! - the blocks of what opens lie inside the file, on no table and not on each other;
//! - what opens without an error can be repaired, and is not damaged then;
//! - what can be compacted survives that with any verdicts, any size of round, and
//!   stopped, or struck by a failing write, at any moment: it opens, lists no error,
//!   and every live block is where the table says with its bitmap and data unchanged.
//!   Done to the end the file is as long as planned and nothing is left to do; and if
//!   a reader that shares no code with the library took the file before, it takes it
//!   after.
//!
//! The input: a seed for the shape, edits, what to mend, verdicts.
#![no_main]

use std::collections::HashMap;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::sync::Arc;

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use slimdisk::Kind;
use slimdisk::compact::{Verdict, plan, run};
use slimdisk::image::{Extent, FORMATS, Finding, Format, Image, Layout, Severity};
use slimdisk::storage::Meter;
use slimdisk_fuzz::edits::{Choices, edit, mend, put};
use slimdisk_fuzz::faults::{Call, Fault, Faulty, MemFile};
use slimdisk_fuzz::support::Noise;
use slimdisk_fuzz::vhd_model::{Shape, read_strictly};
use slimdisk_fuzz::vhdx_model;

fn build(input: &mut Choices<'_>) -> Vec<u8> {
    let seed = u64::from(input.byte()) << 8 | u64::from(input.byte());
    let mut shape = Shape::random(&mut Noise::new(seed));
    if shape.block_size > 8192 {
        shape.block_size = 4096;
    }
    match input.byte() {
        0..16 => {
            shape.batmap = true;
            shape.creator = *b"tap\0";
        }
        16..24 => shape.creator = *b"qemu",
        24..32 => shape.creator = *b"vpc ",
        _ => {}
    }
    let mut file = shape.build(&[]);
    let edits = input.below(12);
    for _ in 0..edits {
        edit(&mut file, &shape, input);
    }
    mend(&mut file, input.byte());
    for _ in 0..input.byte().saturating_sub(250) {
        let at = input.below(file.len());
        put(&mut file, at, &[input.byte()]);
    }
    file
}

/// A VHDX with an empty log (those that are not have a target of their own).
fn build_vhdx(input: &mut Choices<'_>) -> Vec<u8> {
    let seed = u64::from(input.byte()) << 8 | u64::from(input.byte());
    let mut shape = vhdx_model::Shape::random(&mut Noise::new(seed));
    shape.block_mib = 1;
    shape.order.truncate(6);
    let (pages, places) = shape.build(&[]);
    let mut file = pages.bytes();
    let len = file.len() as u64;
    for _ in 0..input.below(10) {
        let value = match input.byte() % 4 {
            0 => 1 << 20 | u64::from(input.byte()),
            1 => u64::from(input.byte()) << 20 | u64::from(input.byte() % 8),
            _ => input.number(len),
        };
        let bytes = &value.to_le_bytes()[..[1, 2, 4, 8][input.below(4)]];
        match input.byte() % 8 {
            0 => put(&mut file, (64 << 10) + input.below(80), bytes),
            1 => put(&mut file, (128 << 10) + input.below(80), bytes),
            2 => {
                let at = input.below(112);
                put(&mut file, (192 << 10) + at, bytes);
                put(&mut file, (256 << 10) + at, bytes);
            }
            3 => put(&mut file, (256 << 10) + input.below(112), bytes),
            4 => put(&mut file, places.metadata as usize + input.below(224), bytes),
            5 => {
                put(&mut file, places.metadata as usize + 65_536 + input.below(48), bytes)
            }
            _ => {
                let block = input.below(shape.blocks as usize) as u32;
                let at = places.bat + shape.index(block) * 8;
                put(&mut file, at as usize, &value.to_le_bytes());
            }
        }
    }
    let mend = input.byte();
    for (index, (at, len)) in
        [(64 << 10, 4096), (128 << 10, 4096), (192 << 10, 65_536), (256 << 10, 65_536)]
            .into_iter()
            .enumerate()
    {
        if mend & 1 << index == 0 {
            vhdx_model::seal(&mut file[at..at + len]);
        }
    }
    file
}

fn worst(findings: &[Finding]) -> Option<Severity> {
    findings.iter().map(|finding| finding.severity).max()
}

fn check_layout(layout: &Layout, findings: &[Finding]) {
    // A VHDX has no footer, and its last block may be cut short.
    let vhdx = layout.trailer_len == 0;
    let trailer =
        if vhdx || worst(findings) == Some(Severity::Damaged) { 0 } else { 511 };
    let mut reached = 0;
    for extent in &layout.extents {
        let end = layout.range_of(extent).end;
        assert!(reached <= extent.place, "blocks on each other: {layout:?}");
        assert!(!layout.reserved.intersects(&(extent.place..end)), "{layout:?}");
        let there = if vhdx { extent.place + 1 } else { end };
        assert!(there + trailer <= layout.file_len, "{layout:?}");
        reached = end;
    }
    let table_end = layout.reserved.iter().map(|range| range.end).max();
    assert!(table_end <= Some(layout.file_len), "a table beyond the end: {layout:?}");
    assert!(vhdx || layout.end_of_data() <= layout.file_len, "{layout:?}");
}

/// The blocks with what lies in their places.
fn places<'a>(file: &'a [u8], layout: &Layout) -> HashMap<u32, &'a [u8]> {
    let part = |at: u64| {
        let end = (at + layout.extent_len) as usize;
        &file[at as usize..end.min(file.len())]
    };
    let placed = |extent: &Extent| Some((extent.piece.block()?, part(extent.place)));
    layout.extents.iter().filter_map(placed).collect()
}

/// Whether two blocks hold the same; what one lacks of its end is zeros.
fn same(a: &[u8], b: &[u8]) -> bool {
    let both = a.len().min(b.len());
    a[..both] == b[..both] && a[both..].iter().chain(&b[both..]).all(|byte| *byte == 0)
}

/// The guest's view and the blocks are the same bytes.
fn check_guest(image: &dyn Image, layout: &Layout, block_size: u64) {
    for extent in layout.extents.iter().take(8) {
        let Some(number) = extent.piece.block() else { continue };
        let at = u64::from(number) * block_size;
        let Some(len) = image.len().checked_sub(at) else { continue };
        let mut guest = vec![0; len.min(block_size) as usize];
        let mut block = guest.clone();
        image.read_at(at, &mut guest).expect("inside the disk");
        image.read_block(number, 0, &mut block).expect("inside the block");
        assert!(guest == block, "block {number} reads differently");
    }
    assert!(image.read_at(image.len(), &mut [0]).is_err());
}

fn check_format(format: &dyn Format, file: &[u8], input: &mut Choices<'_>) {
    let storage = Arc::new(Meter::new(MemFile::new(file.to_vec())));
    let detected = format.detect(&storage).expect("reads inside the file");
    let findings = format.check(&storage).expect("reads inside the file");
    let opened = format.open(storage.clone());
    let read = storage.counts().bytes_read;
    assert!(read <= 4 * file.len() as u64 + 8192, "{read} bytes read");
    let refused = worst(&findings) == Some(Severity::Error);
    let image = match opened {
        Ok(image) => image,
        Err(error) => {
            assert_eq!(error.kind(), Kind::InvalidImage, "{error:?}");
            assert!(refused, "refused without a finding: {error:?}");
            assert!(format.repair(&storage).is_err());
            assert!(storage.inner().bytes() == file, "a refusal has written");
            return;
        }
    };
    assert!(!refused, "opened in spite of {findings:?}");
    assert!(detected);
    let facts = image.facts();
    let Some(layout) = image.layout() else { return };
    check_layout(&layout, &findings);
    if image.compactable().is_err() {
        return;
    }
    check_guest(&*image, &layout, facts.block_size);
    drop(image);
    let judged = facts.virtual_size.div_ceil(facts.block_size).min(1 << 12);
    let [a, b] = [input.byte(), input.byte()].map(u64::from);
    let mut noise = Noise::new(a << 8 | b);
    let mut verdicts = vec![Verdict::Absent; judged as usize];
    for extent in &layout.extents {
        if let Some(block) = extent.piece.block()
            && let Some(verdict) = verdicts.get_mut(block as usize)
        {
            *verdict = match noise.below(2 + u64::from(a % 8)) {
                0 => Verdict::Free,
                1 => Verdict::Zero,
                _ => Verdict::Live,
            };
        }
    }
    compact(format, file, &findings, &layout, &verdicts, input);
    repair(format, file, &layout);
}

fn compact(
    format: &dyn Format,
    file: &[u8],
    findings: &[Finding],
    layout: &Layout,
    verdicts: &[Verdict],
    input: &mut Choices<'_>,
) {
    let fault = (input.byte() % 4 == 0).then(|| Fault {
        call: [Call::Write, Call::Flush, Call::SetLen, Call::Copy][input.below(4)],
        nth: u64::from(input.byte() % 16),
        error: ErrorKind::StorageFull,
        lasting: true,
        partial: 512 * u64::from(input.byte() % 16),
    });
    let round = layout.extent_len * (1 + u64::from(input.byte() % 8));
    let stop_at =
        if fault.is_none() && input.byte() % 4 == 0 { input.byte() % 8 } else { 255 };

    let storage = Arc::new(Faulty::new(MemFile::new(file.to_vec()), fault));
    let mut image = format.open(storage.clone()).expect("opened before");
    let plan = plan::plan(layout, verdicts);
    plan.verify(layout).expect("a sound plan");
    let mut steps = 0;
    let done = run::run(&mut *image, &plan, round, &mut |_| {
        steps += 1;
        if steps > stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if let Err(error) = &done {
        assert!(storage.struck() && error.kind() == Kind::DiskFull, "{error:?}");
    }
    drop(image);

    let after = storage.inner().bytes();
    let fresh = Arc::new(MemFile::new(after.clone()));
    let left = format.check(&fresh).expect("reads inside the file");
    assert!(worst(&left) < Some(Severity::Error), "{left:?}");
    let image = format.open(fresh).expect("a sound image");
    let new_layout = image.layout().expect("still dynamic");
    check_layout(&new_layout, &left);
    let (old, new) = (places(file, layout), places(&after, &new_layout));
    for (block, bytes) in &old {
        match new.get(block) {
            Some(found) => assert!(same(found, bytes), "block {block} has changed"),
            None => assert!(
                plan.release.iter().any(|gone| gone.block() == Some(*block)),
                "block {block} is lost"
            ),
        }
    }
    assert!(new.keys().all(|block| old.contains_key(block)));
    if !done.is_ok_and(|done| !done.stopped) {
        return;
    }
    assert_eq!(new.len(), old.len() - plan.blocks_released());
    assert_eq!(after.len() as u64, plan.file_len_after);
    if worst(findings) != Some(Severity::Damaged) || after.len() < file.len() {
        assert!(worst(&left) < Some(Severity::Damaged), "{left:?}");
    }
    let all_live = vec![Verdict::Live; verdicts.len()];
    let again = plan::plan(&new_layout, &all_live);
    assert!(again.is_empty(), "{again:?} is left of {plan:?}");
    let batmap = image.facts().details.iter().any(|(name, _)| *name == "batmap");
    if (batmap || !file.windows(8).any(|bytes| bytes == b"tdbatmap"))
        && read_strictly(file).is_ok()
    {
        assert_eq!(read_strictly(&after).map(drop), Ok(()));
    }
}

fn repair(format: &dyn Format, file: &[u8], layout: &Layout) {
    let storage = Arc::new(MemFile::new(file.to_vec()));
    format.repair(&storage).expect("an image without errors");
    let left = format.check(&storage).expect("reads inside the file");
    assert!(worst(&left) < Some(Severity::Damaged), "{left:?}");
    let after = storage.bytes();
    let new_layout =
        format.open(storage).expect("a sound image").layout().expect("dynamic");
    let (old, new) = (places(file, layout), places(&after, &new_layout));
    let kept =
        old.iter().all(|(block, was)| new.get(block).is_some_and(|is| same(was, is)));
    assert!(kept && old.len() == new.len(), "a block has changed");
}

fuzz_target!(|data: &[u8]| {
    let mut input = Choices(Unstructured::new(data));
    // A few inputs are the file itself.
    let file = match input.byte() {
        0xFF => data[1..].to_vec(),
        0xC0..0xFF => build_vhdx(&mut input),
        _ => build(&mut input),
    };
    for format in FORMATS {
        check_format(*format, &file, &mut input);
    }
    let storage = Arc::new(MemFile::new(file));
    if let Ok(format) = slimdisk::image::detect(&storage) {
        assert_eq!(
            format.open(storage.clone()).is_ok(),
            slimdisk::image::open(storage).is_ok()
        );
    } else {
        assert!(slimdisk::image::open(storage).is_err());
    }
});
