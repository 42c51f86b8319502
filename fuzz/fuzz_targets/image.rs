//! Images: small sound VHDs, changed in places the input chooses, their checksums
//! mended if it says so, or the fuzzer would never get past them.
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
use slimdisk::image::{FORMATS, Finding, Format, Image, Layout, Severity};
use slimdisk::storage::Meter;
use slimdisk_fuzz::faults::{Call, Fault, Faulty, MemFile};
use slimdisk_fuzz::support::Noise;
use slimdisk_fuzz::vhd_model::{Shape, read_strictly, set_checksum};

const HEADER_AT: usize = 512;
const TABLE_AT: usize = 1536;

/// The input as an endless row of numbers, zeros behind its end.
struct Choices<'a>(Unstructured<'a>);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or(0)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::from(self.0.arbitrary::<u16>().unwrap_or(0)) % n.max(1)
    }

    /// A number near something that matters in a file of `len` bytes.
    fn number(&mut self, len: u64) -> u64 {
        let base = match self.byte() % 12 {
            0 => 0,
            1 => u64::MAX,
            2 => len,
            3 => len - len % 512,
            4 => 1 << 31,
            5 => 1 << 32,
            6 => i64::MAX as u64,
            7 => 512 * u64::from(self.byte()),
            8 => len / 512,
            9 => 1 << (self.byte() % 64),
            10 => self.0.arbitrary().unwrap_or(0),
            _ => u64::from(self.byte()),
        };
        match self.byte() {
            delta @ 0..16 => base.wrapping_add(u64::from(delta)).wrapping_sub(8),
            delta @ 16..32 => base.wrapping_sub(512 * u64::from(delta - 16)),
            _ => base,
        }
    }
}

/// Overwrites what of `bytes` falls into the file.
fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in file.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

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

fn edit(file: &mut Vec<u8>, shape: &Shape, input: &mut Choices<'_>) {
    let len = file.len() as u64;
    let last = file.len().saturating_sub(512);
    let table_end = TABLE_AT
        + ((shape.blocks + shape.spare_entries) as usize).next_multiple_of(128) * 4;
    let kind = input.byte();
    match kind % 16 {
        // A field of the footer: in both copies, in the first, in the last.
        field @ 0..4 => {
            let (at, size) = [
                (8, 4),
                (12, 4),
                (16, 8),
                (28, 4),
                (32, 4),
                (40, 8),
                (48, 8),
                (56, 4),
                (60, 4),
                (64, 4),
                (68, 8),
                (84, 1),
                (85, 1),
                (86, 1),
                (0, 8),
                (200, 8),
            ][input.below(16)];
            let value = match (at, input.byte() % 4) {
                (28, 0) => u64::from_be_bytes(*b"\0\0\0\0tap\0"),
                (60, 0) => 4,
                (60, 1) => 2,
                (0, 0) => u64::from_be_bytes(*b"v_poison"),
                _ => input.number(len),
            };
            let bytes = value.to_be_bytes();
            if field != 1 {
                put(file, at, &bytes[8 - size..]);
            }
            if field != 2 {
                put(file, last + at, &bytes[8 - size..]);
            }
        }
        4 => {
            let (at, size) =
                [(0, 8), (8, 8), (16, 8), (24, 4), (28, 4), (32, 4), (36, 4), (40, 8)]
                    [input.below(8)];
            let bytes = input.number(len).to_be_bytes();
            put(file, HEADER_AT + at, &bytes[8 - size..]);
        }
        5 => {
            let locator = HEADER_AT + 576 + 24 * input.below(8);
            put(file, locator, b"W2ku");
            put(file, locator + 4, &(input.number(len) as u32).to_be_bytes());
            put(file, locator + 8, &(input.number(len) as u32).to_be_bytes());
            put(file, locator + 16, &input.number(len).to_be_bytes());
        }
        6..9 => {
            let entry = TABLE_AT + 4 * input.below(shape.blocks as usize);
            let sector = match kind / 16 % 4 {
                0 => u32::MAX,
                1 => (input.number(len) / 512) as u32,
                2 => input.below(file.len() / 512 + 2) as u32,
                _ => input.number(len) as u32,
            };
            put(file, entry, &sector.to_be_bytes());
        }
        9 => {
            let (at, size) =
                [(0, 8), (8, 8), (16, 4), (20, 4), (24, 4), (28, 2), (512, 8)]
                    [input.below(7)];
            let bytes = match (at, input.byte() % 2) {
                (0, 0) => *b"tdbatmap",
                (20, 0) => 0x0001_0001u64.to_be_bytes(),
                _ => input.number(len).to_be_bytes(),
            };
            put(file, table_end + at, &bytes[8 - size..]);
        }
        10 => {
            // A sector bitmap.
            let (_, gap) = shape
                .order
                .get(input.below(shape.order.len()))
                .copied()
                .unwrap_or_default();
            let entry = TABLE_AT + 4 * input.below(shape.blocks as usize);
            let sector = u32::from_be_bytes(file[entry..entry + 4].try_into().unwrap());
            let bytes = [input.byte(), input.byte()];
            put(
                file,
                (sector as usize).saturating_mul(512).saturating_add(gap % 4),
                &bytes,
            );
        }
        11 => {
            let cut = 1 + input.below(if kind & 16 == 0 { 8 } else { 4096 });
            file.truncate(file.len().saturating_sub(cut).max(TABLE_AT + 512));
        }
        12 => {
            // Room before the footer at the end.
            let more =
                input.below(8) * 512 + usize::from(kind & 16 != 0) * input.below(512);
            let at = file.len().saturating_sub(512);
            file.splice(at..at, std::iter::repeat_n(input.byte(), more));
        }
        13 => {
            let more = input.below(1024);
            file.resize(file.len() + more, input.byte());
        }
        _ => {
            let at = (input.below(1 << 16) << 8 | usize::from(input.byte())) % file.len();
            let bytes = [input.byte(), input.byte(), input.byte(), input.byte()];
            put(file, at, &bytes[..1 + usize::from(kind >> 4) % 4]);
        }
    }
}

/// Makes right those checksums that `choice` names, cuts the footer by a byte,
/// damages a copy.
fn mend(file: &mut Vec<u8>, choice: u8) {
    let last = file.len().saturating_sub(512);
    let number = |file: &[u8], at: usize, len: usize| {
        let bytes = file.get(at..at.checked_add(len)?)?;
        let number = bytes.iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        usize::try_from(number).ok()
    };
    if choice & 3 != 3 {
        for at in [0, last] {
            let Some(header) = number(file, at + 16, 8) else { continue };
            if let Some(entries) = number(file, header.saturating_add(28), 4)
                && let Some(table) = number(file, header.saturating_add(16), 8)
                && let Some(batmap) = table.checked_add(entries.next_multiple_of(128) * 4)
                && let Some(map) = number(file, batmap.saturating_add(8), 8)
                && let Some(sectors) = number(file, batmap.saturating_add(16), 4)
                && let Some(map) = file.get(map..map.saturating_add(sectors * 512))
                && choice & 4 != 0
            {
                let sum = map.iter().fold(0u32, |sum, b| sum.wrapping_add(u32::from(*b)));
                put(file, batmap + 24, &(!sum).to_be_bytes());
            }
            if let Some(header) =
                header.checked_add(1024).and_then(|end| file.get_mut(header..end))
            {
                set_checksum(header, 36);
            }
        }
        for at in [0, last] {
            if let Some(footer) = file.get_mut(at..at + 512) {
                set_checksum(footer, 64);
            }
        }
    }
    match choice >> 3 {
        0..3 => put(file, 70, &[0xAA]),
        3..6 => put(file, last + 70, &[0xAA]),
        6..9 => drop(file.pop()),
        9 => {
            put(file, 70, &[0xAA]);
            file.pop();
        }
        _ => {}
    }
}

fn worst(findings: &[Finding]) -> Option<Severity> {
    findings.iter().map(|finding| finding.severity).max()
}

fn check_layout(layout: &Layout, findings: &[Finding]) {
    let trailer = if worst(findings) == Some(Severity::Damaged) { 0 } else { 511 };
    let mut reached = 0;
    for extent in &layout.extents {
        let end = extent.place + layout.extent_len;
        assert!(reached <= extent.place, "blocks on each other: {layout:?}");
        assert!(!layout.reserved.intersects(&(extent.place..end)), "{layout:?}");
        assert!(end + trailer <= layout.file_len, "{layout:?}");
        reached = end;
    }
    assert!(
        layout.end_of_data() <= layout.file_len,
        "a table beyond the end: {layout:?}"
    );
}

/// The blocks with what lies in their places.
fn places<'a>(file: &'a [u8], layout: &Layout) -> HashMap<u32, &'a [u8]> {
    let part = |at: u64| &file[at as usize..(at + layout.extent_len) as usize];
    layout.extents.iter().map(|extent| (extent.block, part(extent.place))).collect()
}

/// The guest's view and the blocks are the same bytes.
fn check_guest(image: &dyn Image, layout: &Layout, block_size: u64) {
    for extent in layout.extents.iter().take(8) {
        let at = u64::from(extent.block) * block_size;
        let Some(len) = image.len().checked_sub(at) else { continue };
        let mut guest = vec![0; len.min(block_size) as usize];
        let mut block = guest.clone();
        image.read_at(at, &mut guest).expect("inside the disk");
        image.read_block(extent.block, 0, &mut block).expect("inside the block");
        assert!(guest == block, "block {} reads differently", extent.block);
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
        if let Some(verdict) = verdicts.get_mut(extent.block as usize) {
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
            Some(found) => assert!(found == bytes, "block {block} has changed"),
            None => assert!(
                plan.release.binary_search(block).is_ok(),
                "block {block} is lost"
            ),
        }
    }
    assert!(new.keys().all(|block| old.contains_key(block)));
    if !done.is_ok_and(|done| !done.stopped) {
        return;
    }
    assert_eq!(new.len(), old.len() - plan.release.len());
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
    assert!(places(file, layout) == places(&after, &new_layout), "a block has changed");
}

fuzz_target!(|data: &[u8]| {
    let mut input = Choices(Unstructured::new(data));
    // A few inputs are the file itself.
    let file = match input.byte() {
        0xFF => data[1..].to_vec(),
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
