//! Chains: a child and its parent, both small sound VHDs changed in places the input
//! chooses, their checksums mended if it says so. The parent is fixed, dynamic or, over a
//! disk of zeros, a child itself.
//!
//! What must hold, whatever the bytes:
//!
//! - no panic, and no error but that an image is unsound, of the wrong type or not the
//!   parent; the names that a child gives its parent are bounded, whatever it claims;
//! - reading all of a disk takes at most four times the length of the files, and what a
//!   child shows is what a reader that shares no code with the library shows, if that
//!   takes the files;
//! - a child that can be compacted shows afterwards what it showed, but for blocks that
//!   were called free and are gone: these show the parent's; whatever the mode, the size
//!   of a round, and the moment it is stopped or struck by a failing write; the parent
//!   is not even asked to change;
//! - only free blocks and blocks that show the same as the parent go;
//! - a child whose parent gets another name, struck or not, shows what it showed, lists
//!   no error, and names the parent by the old names or the new ones; where that is
//!   refused, nothing is written.
//!
//! The input: seeds for the shapes, edits, what to mend, verdicts, faults.
#![no_main]

use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use slimdisk::Kind;
use slimdisk::compact::survey::survey;
use slimdisk::compact::{Mode, Options, Verdict, plan, run};
use slimdisk::image::parent::ParentNames;
use slimdisk::image::{self, Image, ImageType, Severity};
use slimdisk::storage::{Meter, ReadAt, Storage};
use slimdisk_fuzz::chain_model::{Child, Locator, fixed, id_in, random_bits, read_chain};
use slimdisk_fuzz::edits::{Choices, HEADER_AT, TABLE_AT, edit, mend, put};
use slimdisk_fuzz::faults::{Call, Fault, Faulty, MemFile};
use slimdisk_fuzz::support::Noise;
use slimdisk_fuzz::vhd_model::{Shape, read_strictly, set_checksum};

/// Disks beyond this are opened, and no more: reading them shows nothing new.
const LONGEST_DISK: u64 = 4 << 20;

fn shape(input: &mut Choices<'_>) -> (Shape, Noise) {
    let seed = u64::from(input.byte()) << 8 | u64::from(input.byte());
    let mut noise = Noise::new(seed);
    let mut shape = Shape::random(&mut noise);
    if shape.block_size > 8192 {
        shape.block_size = 4096;
    }
    if input.byte() % 4 > 0 {
        (shape.batmap, shape.creator) = (false, *b"win ");
    }
    (shape, noise)
}

fn locators(input: &mut Choices<'_>) -> Vec<Locator> {
    (0..input.below(5))
        .map(|_| match input.byte() % 8 {
            0 => Locator::utf16(b"W2ru", r".\old.vhd"),
            1 => Locator::utf16(b"W2ku", r"C:\old\old.vhd"),
            2 => Locator::bytes(b"MacX", b"file:///old/old.vhd"),
            3 => Locator::bytes(b"MacX", b"file://./old.vhd"),
            4 => Locator::bytes(b"Wi2k", b"C:\\old.vhd"),
            5 => Locator::utf16(b"W2ru", &"x".repeat(1 + input.below(700))),
            6 => Locator::bytes(b"MacX", &[b'%'; 9]),
            _ => Locator::bytes(b"Mac ", &[input.byte(); 40]),
        })
        .collect()
}

/// A child of `parent`, or a dynamic image of the same shape.
fn child(input: &mut Choices<'_>, parent: &[u8]) -> Vec<u8> {
    let (mut shape, mut noise) = shape(input);
    shape.seed ^= 1;
    let mut child = Child::new(shape.clone(), id_in(parent), "old.vhd");
    child.locators = locators(input);
    child.parent_time = u32::from(input.byte()) << 23;
    let batmap = shape.batmap;
    let bits: Vec<_> = (0..shape.blocks)
        .map(|_| match batmap {
            true => vec![0xFF; shape.block_size / 512 / 8],
            false => random_bits(&mut noise, shape.block_size / 512),
        })
        .collect();
    // Blocks that are the parent's, or nearly.
    let below = if input.byte() % 2 == 0 { guest(parent) } else { None };
    let alike = noise.below(9);
    let data = |block: u32| {
        let at = block as usize * shape.block_size;
        let kind = Noise::new(shape.seed ^ u64::from(block)).below(8);
        match below.as_ref().and_then(|disk| disk.get(at..at + shape.block_size)) {
            Some(same) if kind < alike => same.to_vec(),
            _ if kind == 7 => vec![0; shape.block_size],
            _ => shape.data(block),
        }
    };
    let mut file = child.build(|block| bits[block as usize].clone(), data);
    for _ in 0..input.below(8) {
        edit(&mut file, &shape, input);
    }
    for _ in 0..input.below(4) {
        match input.byte() % 4 {
            // The entry of a locator, or its data.
            0 => {
                let entry = HEADER_AT + 576 + 24 * input.below(8);
                let at = entry + [0, 4, 8, 12, 16, 20][input.below(6)];
                let number = input.number(file.len() as u64).to_be_bytes();
                put(&mut file, at, &number[4..]);
            }
            1 => {
                let at = TABLE_AT + 512 + input.below(4096);
                put(&mut file, at, &[input.byte(), input.byte()]);
            }
            // The parent's identity.
            2 => put(&mut file, HEADER_AT + 40 + input.below(16), &[input.byte()]),
            // A second header that one of the footers names.
            _ => second_header(&mut file, input),
        }
    }
    mend(&mut file, input.byte());
    file
}

fn second_header(file: &mut Vec<u8>, input: &mut Choices<'_>) {
    let Some(end) = file.len().checked_sub(512).filter(|end| end % 512 == 0) else {
        return;
    };
    let Some(mut header) = file.get(HEADER_AT..HEADER_AT + 1024).map(<[u8]>::to_vec)
    else {
        return;
    };
    let at = [56, 64, 576, 600, 576 + 16, 768, 16, 28][input.below(8)] + input.below(8);
    header[at] ^= input.byte();
    if input.byte() % 2 == 0 {
        header[576..768].fill(0);
    }
    set_checksum(&mut header, 36);
    file.splice(end..end, header);
    let which = input.byte();
    let last = file.len() - 512;
    for (at, _) in [0, last].into_iter().zip(0..).filter(|(_, bit)| which >> bit & 1 == 1)
    {
        put(file, at + 16, &(end as u64).to_be_bytes());
    }
}

/// The guest's disk as the model reads it, if it takes the file, which must be sound to
/// the library: the model goes by the last footer, whatever that says.
fn guest(file: &[u8]) -> Option<Vec<u8>> {
    let facts = open(file)?.facts();
    let taken = match facts.image_type {
        ImageType::Differencing => false,
        ImageType::Fixed => facts.notes.is_empty(),
        ImageType::Dynamic => read_strictly(file).is_ok(),
    };
    (taken && facts.virtual_size <= LONGEST_DISK).then(|| read_chain(&[file]))
}

fn open(file: &[u8]) -> Option<Box<dyn Image>> {
    match image::open(Arc::new(MemFile::new(file.to_vec()))) {
        Ok(image) => Some(image),
        Err(error) => {
            assert_eq!(error.kind(), Kind::InvalidImage, "{error:?}");
            None
        }
    }
}

/// Every block of a disk to its end; `None` if the batmap contradicts the bitmap of one
/// behind the disk's end.
fn blocks(image: &dyn Image) -> Option<Vec<Vec<u8>>> {
    let facts = image.facts();
    let read = |block| {
        let mut data = vec![0; facts.block_size as usize];
        match image.read_block(block, 0, &mut data) {
            Ok(()) => Some(data),
            Err(error) => {
                assert_eq!(error.kind(), Kind::InvalidImage, "{error:?}");
                None
            }
        }
    };
    (0..facts.blocks_total).map(read).collect()
}

/// What the parent shows where the child has a block.
fn shown(parent: &dyn Image, block: usize, size: usize) -> Vec<u8> {
    let mut data = vec![0; size];
    let at = (block * size) as u64;
    let there = parent.len().saturating_sub(at).min(size as u64) as usize;
    if there > 0 {
        parent.read_at(at, &mut data[..there]).expect("a disk that was read before");
    }
    data
}

fn attach(file: Arc<dyn Storage>, parent: &Arc<dyn Image>) -> Option<Box<dyn Image>> {
    let mut image = image::open(file).ok()?;
    match image.set_parent(parent.clone()) {
        Ok(()) => Some(image),
        Err(error) => {
            let kinds = [Kind::ParentMismatch, Kind::WrongImageType];
            assert!(kinds.contains(&error.kind()), "{error:?}");
            None
        }
    }
}

fn fault(input: &mut Choices<'_>) -> Option<Fault> {
    (input.byte() % 2 == 0).then(|| Fault {
        call: [Call::Write, Call::Flush, Call::SetLen, Call::Copy][input.below(4)],
        nth: u64::from(input.byte() % 16),
        error: ErrorKind::StorageFull,
        lasting: input.byte() % 2 == 0,
        partial: 4 * u64::from(input.byte()),
    })
}

fn compact(
    file: &[u8],
    parent: &Arc<dyn Image>,
    before: &[Vec<u8>],
    input: &mut Choices<'_>,
) {
    let fault = fault(input);
    let storage = Arc::new(Faulty::new(MemFile::new(file.to_vec()), fault));
    let mut image = attach(storage.clone(), parent).expect("attached before");
    if image.compactable().is_err() {
        return;
    }
    let size = image.facts().block_size as usize;
    let mut options = Options::default();
    options.mode = [Mode::Quick, Mode::Full, Mode::Prezeroed][input.below(3)];
    let search = input.byte() % 4 > 0;
    let go_on = &mut |_| ControlFlow::Continue(());
    let mut verdicts = match survey(&*image, &options, search, go_on) {
        Ok(found) => found.expect("nobody stopped it").verdicts,
        Err(error) => panic!("a disk that was read before: {error:?}"),
    };
    for (block, verdict) in verdicts.iter_mut().enumerate() {
        match verdict {
            Verdict::Parent => {
                let own = image.own_bytes(block as u32).expect("a bitmap that was read");
                let seen = own.is_none_or(|own| !own.is_empty());
                let same = before[block] == shown(&**parent, block, size);
                assert!(!seen || same, "block {block} does not show the parent's");
            }
            Verdict::Zero => panic!("zeros count for nothing in a child"),
            Verdict::Live if input.byte() % 8 == 0 => *verdict = Verdict::Free,
            _ => {}
        }
    }
    let layout = image.layout().expect("an expanding image");
    let plan = plan::plan(&layout, &verdicts);
    plan.verify(&layout).expect("a sound plan");
    let round = layout.extent_len * (1 + u64::from(input.byte() % 8));
    let stop_at = if input.byte() % 4 == 0 { input.byte() % 8 } else { 255 };
    let mut steps = 0;
    let done = run::run(&mut *image, &plan, round, &mut |_| {
        steps += 1;
        if steps > stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if let Err(error) = done {
        assert!(storage.struck() && error.kind() == Kind::DiskFull, "{error:?}");
    }
    drop(image);

    let after = storage.inner().bytes();
    let fresh = Arc::new(MemFile::new(after));
    let image = attach(fresh, parent).expect("a sound child");
    for (block, (now, was)) in
        blocks(&*image).expect("read before").iter().zip(before).enumerate()
    {
        if now != was {
            let gone = !image.is_allocated(block as u32);
            let free = verdicts.get(block) == Some(&Verdict::Free);
            assert!(gone && free, "block {block} has changed");
            assert!(*now == shown(&**parent, block, size), "block {block}");
        }
    }
}

fn texts(image: &dyn Image) -> Vec<String> {
    let link = image.parent_link().expect("bounded reads").expect("a child");
    assert!(link.names.len() <= 9 && link.notes.len() <= 8);
    assert!(link.names.iter().all(|name| name.text.len() <= 3 << 16));
    link.names.into_iter().map(|name| name.text).collect()
}

fn relink(
    file: &[u8],
    parent: &Arc<dyn Image>,
    before: &[Vec<u8>],
    input: &mut Choices<'_>,
) {
    let storage = Arc::new(Faulty::new(MemFile::new(file.to_vec()), fault(input)));
    let mut image = attach(storage.clone(), parent).expect("attached before");
    let old = texts(&*image);
    let name = "n".repeat(1 + input.below(700));
    let path = match input.byte() % 4 {
        0 => format!("/disks/vm/{name}"),
        1 => format!("/disks/other/{name}"),
        2 => format!("/{name}/{name}"),
        _ => format!("/disks/vm/a\\{name}"),
    };
    let names =
        ParentNames::new(Path::new("/disks/vm/child.vhd"), Path::new(&path), None);
    let done = image.name_parent(&names);
    drop(image);
    let after = storage.inner().bytes();
    if let Err(error) = &done {
        let refused = [Kind::PathTooLong, Kind::InvalidName].contains(&error.kind());
        assert!(
            refused || storage.struck() && error.kind() == Kind::DiskFull,
            "{error:?}"
        );
        assert!(!refused || after == file, "a refusal has written");
    }
    let fresh = Arc::new(MemFile::new(after));
    let findings = slimdisk::image::FORMATS[0].check(&fresh).expect("bounded reads");
    assert!(findings.iter().all(|f| f.severity < Severity::Error), "{findings:?}");
    let image = attach(fresh, parent).expect("a sound child");
    assert!(blocks(&*image).as_deref() == Some(before), "a block has changed");
    let new = texts(&*image);
    let is_new = !new.is_empty() && new.iter().all(|text| text.ends_with(&name));
    assert!(is_new || done.is_err() && new == old, "{old:?} {new:?} {done:?}");
    if done.is_ok() {
        assert!(findings.iter().all(|f| f.severity < Severity::Damaged), "{findings:?}");
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Choices(Unstructured::new(data));
    let parent_file = match input.byte() % 4 {
        0 => {
            let seed = u64::from(input.byte());
            fixed(&Noise::new(seed).bytes(512 * (1 + input.below(400))), seed)
        }
        1 => {
            let zeros = fixed(&vec![0; 512 * (1 + input.below(200))], 9);
            child(&mut input, &zeros)
        }
        _ => {
            let (shape, _) = shape(&mut input);
            let mut file = shape.build(&[]);
            for _ in 0..input.below(3) {
                edit(&mut file, &shape, &mut input);
            }
            mend(&mut file, input.byte() | 0xF8);
            file
        }
    };
    let child_file = child(&mut input, &parent_file);

    let Some(mut parent) = open(&parent_file) else { return };
    if parent.parent_link().expect("bounded reads").is_some() {
        let zeros: Arc<dyn Image> =
            Arc::from(open(&fixed(&[0; 512], 9)).expect("a sound image"));
        if parent.set_parent(zeros).is_err() {
            return;
        }
    }
    let parent: Arc<dyn Image> = Arc::from(parent);
    let storage = Arc::new(Meter::new(MemFile::new(child_file.clone())));
    let Some(image) = attach(storage.clone(), &parent) else { return };
    texts(&*image);
    let facts = image.facts();
    let reach = u64::from(facts.blocks_total) * facts.block_size;
    if reach.max(parent.len()) > LONGEST_DISK {
        return;
    }
    let opened = storage.counts().bytes_read;
    let mut disk = vec![0; image.len() as usize];
    if let Err(error) = image.read_at(0, &mut disk) {
        // A batmap that contradicts a bitmap, here or above.
        assert_eq!(error.kind(), Kind::InvalidImage, "{error:?}");
        return;
    }
    let read = storage.counts().bytes_read - opened;
    assert!(read <= 4 * child_file.len() as u64, "{read} bytes read");
    let above = guest(&parent_file);
    if above.is_some() && read_strictly(&child_file).is_ok() {
        let mut expected = read_chain(&[&child_file, &parent_file]);
        let same = expected.len().min(disk.len());
        expected.truncate(same);
        assert!(disk[..same] == expected, "another disk than the model's");
    }
    let mut at = 0;
    while let Ok(Some(data)) = image.next_data(at) {
        assert!(at <= data.start && data.start < data.end && data.end <= image.len());
        assert!(disk[at as usize..data.start as usize].iter().all(|byte| *byte == 0));
        at = data.end;
    }
    let Some(before) = blocks(&*image) else { return };
    drop(image);
    match input.byte() % 3 {
        0 => relink(&child_file, &parent, &before, &mut input),
        _ => compact(&child_file, &parent, &before, &mut input),
    }
});
