//! What a VHDX with children, or with a parent, gives up and what it says of it.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use slimdisk::Kind;
use slimdisk::compact::survey::survey;
use slimdisk::compact::{Mode, Options, Outcome, Phase, Report, Verdict, examine};
use slimdisk::image::parent::{ParentLookup, open_parents};
use slimdisk::image::{self, Image};
use slimdisk::ranges::Ranges;
use slimdisk::storage::HostFile;

use super::chain::link_to;
use super::guest;
use crate::end_to_end::{compact, plan};
use crate::ext::dumpe2fs_free;
use crate::support::{Noise, Scratch, have, sh};
use crate::vhdx_model::{FULL, MIB, PARTIAL, Pages, Shape, read_strictly, shown};

const DISK: u64 = 24 * MIB;

/// ext4 on the bare disk: half of what is free is noise, and there is a large file of
/// zeros.
struct Guest {
    disk: Vec<u8>,
    free: Ranges,
}

fn make_guest(test: &str, scratch: &Scratch) -> Option<Guest> {
    if !have(test, &["mke2fs", "dumpe2fs"]) {
        return None;
    }
    let pool = scratch.path("pool");
    fs::create_dir_all(&pool).unwrap();
    let mut noise = Noise::new(3);
    fs::write(pool.join("zeros"), vec![0; 3 << 20]).unwrap();
    fs::write(pool.join("noise"), noise.bytes(3 << 20)).unwrap();
    let raw = scratch.path("raw");
    sh(&format!("mke2fs -q -F -t ext4 -d {} {} 24M", pool.display(), raw.display()));
    let mut disk = fs::read(&raw).unwrap();
    let free: Ranges = dumpe2fs_free(&raw).into_iter().collect();
    for range in free.iter() {
        for at in (range.start..range.end).step_by(4096) {
            // Whole MiB of it, so that whole blocks are free and not zero.
            if (at / MIB).is_multiple_of(2) {
                let end = range.end.min(at + 4096);
                disk[at as usize..end as usize]
                    .copy_from_slice(&noise.bytes((end - at) as usize));
            }
        }
    }
    Some(Guest { disk, free })
}

/// Which blocks of a MiB are free, and not all zeros.
fn free_blocks(guest: &Guest) -> Vec<u32> {
    (0..(DISK / MIB) as u32)
        .filter(|block| {
            let range = u64::from(*block) * MIB..(u64::from(*block) + 1) * MIB;
            let data = &guest.disk[range.start as usize..range.end as usize];
            guest.free.covers(&range) && data.iter().any(|byte| *byte != 0)
        })
        .collect()
}

fn options(mode: Mode) -> Options {
    let mut options = Options::default();
    (options.mode, options.verify) = (mode, true);
    options
}

fn write(path: &Path, file: &Pages) {
    fs::write(path, file.bytes()).unwrap();
}

fn identity(path: &Path) -> Option<[u8; 16]> {
    image::open(Arc::new(HostFile::open_read(path).unwrap())).unwrap().facts().unique_id
}

/// The image with its parents.
fn chain(path: &Path) -> slimdisk::Result<Box<dyn Image>> {
    let mut image = image::open(Arc::new(HostFile::open_read(path).unwrap()))?;
    open_parents(&mut *image, path, &ParentLookup::default())?;
    Ok(image)
}

/// Nothing differs but in free ranges; how many bytes do.
fn changed(guest: &Guest, after: &[u8]) -> usize {
    let mut changed = 0;
    for (at, (was, is)) in
        (0u64..).step_by(512).zip(guest.disk.chunks(512).zip(after.chunks(512)))
    {
        if was != is {
            assert!(guest.free.covers(&(at..at + 512)), "the sector at {at:#x} changed");
            changed += 1;
        }
    }
    changed
}

fn content(image: &dyn Image) -> Vec<u8> {
    guest(image, 0, image.len() as usize)
}

fn notes(report: &Report) -> String {
    report.notes.join("\n")
}

/// A parent with ext4 in it, and a child of that.
fn family(guest: &Guest, scratch: &Scratch) -> [PathBuf; 2] {
    let (shape, parent) = Shape::of_disk(&guest.disk, 1);
    let child = Shape {
        blocks: shape.blocks,
        order: vec![(23, PARTIAL, 0)],
        eighths: vec![(23, 0x80)],
        link: Some(link_to(&shape, "parent.vhdx")),
        seed: 99,
        ..Shape::default()
    };
    let paths = [scratch.path("parent.vhdx"), scratch.path("child.avhdx")];
    write(&paths[0], &parent);
    write(&paths[1], &child.build(&[]).0);
    paths
}

#[test]
fn a_parent_orphans_its_children_only_if_it_is_told_to() {
    let test = "a_vhdx_parent_orphans_its_children_only_if_it_is_told_to";
    let scratch = Scratch::new(test);
    let Some(guest) = make_guest(test, &scratch) else { return };
    let free = free_blocks(&guest);
    assert!(free.len() > 4, "{free:?}");
    let [parent, child] = family(&guest, &scratch);
    let id = identity(&parent);
    let before = content(&*chain(&child).unwrap());

    let kept = compact(&parent, &options(Mode::Quick));
    assert_eq!((kept.error.as_ref(), kept.blocks.released_free), (None, 0), "{kept:?}");
    assert_eq!(identity(&parent), id);
    assert!(content(&*chain(&child).unwrap()) == before);
    assert_eq!((kept.children.len(), kept.orphaned.len()), (1, 0));
    let said = notes(&kept);
    assert!(said.contains("the parent of child.avhdx"), "{said}");
    assert!(said.contains("--orphan-children"), "{said}");

    let mut orphan = options(Mode::Quick);
    orphan.orphan_children = true;
    let bytes = fs::read(&parent).unwrap();
    let planned = plan(&parent, &orphan);
    assert_eq!(planned.blocks.released_free, free.len() as u64, "{planned:?}");
    assert_eq!(planned.orphaned, planned.children);
    let said = notes(&planned);
    assert!(said.contains("would no longer find their parent"), "{said}");
    assert!(fs::read(&parent).unwrap() == bytes);
    assert!(content(&*chain(&child).unwrap()) == before);

    // Stopped before anything was written.
    let stopped =
        slimdisk::compact::compact(&parent, &orphan, &mut |at| match at.phase {
            Phase::Release => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
    assert_eq!((stopped.outcome, stopped.orphaned.len()), (Outcome::Cancelled, 0));
    assert_eq!(identity(&parent), id);

    let done = compact(&parent, &orphan);
    assert_eq!(done.outcome, Outcome::Compacted, "{done:?}");
    assert_eq!(
        (done.blocks, done.file_size_after),
        (planned.blocks, planned.file_size_after)
    );
    assert_eq!(done.orphaned, vec![child.to_string_lossy().into_owned()]);
    assert!(notes(&done).contains("no longer find their parent"), "{done:?}");
    assert_ne!(identity(&parent), id);
    let error = chain(&child).err().unwrap();
    assert_eq!(error.kind(), Kind::ParentMismatch, "{error}");
    assert!(changed(&guest, &content(&*chain(&parent).unwrap())) > 1000);
    // It has no children any more.
    let again = compact(&parent, &orphan);
    assert_eq!((again.outcome, again.children.len()), (Outcome::NothingToDo, 0));
}

#[test]
fn nobody_is_orphaned_for_zeros() {
    let test = "nobody_is_orphaned_for_zeros";
    let scratch = Scratch::new(test);
    let (parent_shape, child_shape) = (super::shape(), super::chain::child_shape(512));
    let [parent, child] = [scratch.path("parent.vhdx"), scratch.path("child.vhdx")];
    write(&parent, &parent_shape.build(&[3, 9]).0);
    write(&child, &child_shape.build(&[]).0);
    let id = identity(&parent);
    let before = content(&*chain(&child).unwrap());
    let mut orphan = options(Mode::Full);
    orphan.orphan_children = true;
    let planned = plan(&parent, &orphan);
    assert_eq!((planned.children.len(), planned.orphaned.len()), (1, 0));
    let done = compact(&parent, &orphan);
    assert_eq!(done.outcome, Outcome::Compacted, "{done:?}");
    assert_eq!((done.blocks.released_zero, done.orphaned.len()), (2, 0));
    assert_eq!(identity(&parent), id);
    assert!(content(&*chain(&child).unwrap()) == before);
    // The child itself, and what it says afterwards.
    let report = compact(&child, &options(Mode::Full));
    assert_eq!(report.error, None);
    assert!(report.verified.is_some());
    assert!(content(&*chain(&child).unwrap()) == before);
}

#[test]
fn a_vhd_keeps_its_identity_and_so_its_children() {
    let scratch = Scratch::new("a-vhd-keeps-its-children");
    let path = scratch.path("disk.vhd");
    let shape = crate::vhd_model::Shape::random(&mut Noise::new(4));
    let bytes = shape.build(&[]);
    fs::write(&path, &bytes).unwrap();
    let mut orphan = options(Mode::Full);
    orphan.orphan_children = true;
    for report in [plan(&path, &orphan), compact(&path, &orphan)] {
        let error = report.cause.unwrap();
        assert_eq!(error.kind(), Kind::WrongImageType);
        assert!(error.to_string().contains("keeps its identity"), "{error}");
    }
    assert!(fs::read(&path).unwrap() == bytes);
}

#[test]
fn change_tracking_beside_a_disk_is_told_of() {
    let scratch = Scratch::new("change-tracking");
    let path = scratch.path("disk.vhdx");
    write(&path, &super::shape().build(&[9]).0);
    let go_on = &mut |_| ControlFlow::Continue(());
    let mut told = |with: &[&str]| {
        let examined = examine(&path, &options(Mode::Quick), false, go_on);
        let all = [
            notes(&plan(&path, &options(Mode::Quick))),
            notes(&compact(&path, &options(Mode::Quick))),
            examined.unwrap().unwrap().facts.notes.join("\n"),
        ];
        for text in all {
            let named =
                ["disk.vhdx.rct", "disk.vhdx.mrt"].map(|name| text.contains(name));
            assert_eq!(named, ["rct", "mrt"].map(|end| with.contains(&end)), "{text}");
            assert_eq!(text.contains("a full one"), !with.is_empty(), "{text}");
        }
    };
    told(&[]);
    fs::write(scratch.path("disk.vhdx.mrt"), "").unwrap();
    fs::write(scratch.path("other.vhdx.rct"), "").unwrap();
    told(&["mrt"]);
    fs::write(scratch.path("disk.vhdx.rct"), "").unwrap();
    told(&["rct", "mrt"]);
}

/// A child that holds all of its disk in front of a parent that is noise through and
/// through: whatever shows through is seen.
#[test]
fn free_space_goes_and_zeros_go_on_hiding_the_parent() {
    let test = "free_space_goes_and_zeros_go_on_hiding_the_parent";
    let scratch = Scratch::new(test);
    let Some(guest) = make_guest(test, &scratch) else { return };
    let noise = Noise::new(1).bytes(DISK as usize);
    let (parent_shape, parent) = Shape::of_disk(&noise, 2);
    let (mut shape, _) = Shape::of_disk(&guest.disk, 1);
    (shape.seed, shape.link) = (99, Some(link_to(&parent_shape, "parent.vhdx")));
    shape.order = (0..24).map(|block| (block, FULL, 0)).collect();
    let of_block = |block: u32| {
        let at = (u64::from(block) * MIB) as usize;
        vec![(0, guest.disk[at..at + (1 << 20)].to_vec())]
    };
    let (child, _) = shape.build_with(of_block);
    let paths = [scratch.path("child.vhdx"), scratch.path("parent.vhdx")];
    for (mode, preserve) in [
        (Mode::Quick, false),
        (Mode::Full, false),
        (Mode::Full, true),
        (Mode::Prezeroed, false),
    ] {
        write(&paths[0], &child);
        write(&paths[1], &parent);
        let mut options = options(mode);
        options.preserve = preserve;
        let image = chain(&paths[0]).unwrap();
        let go_on = &mut |_| ControlFlow::Continue(());
        let verdicts = survey(&*image, &options, true, go_on).unwrap().unwrap().verdicts;
        let count = |verdict| verdicts.iter().filter(|v| **v == verdict).count() as u64;
        drop(image);
        let id = identity(&paths[0]);
        let report = compact(&paths[0], &options);
        assert_eq!(report.outcome, Outcome::Compacted, "{report:?}");
        assert!(report.verified.is_some());
        let after = content(&*chain(&paths[0]).unwrap());
        let sectors = changed(&guest, &after);
        let frees = mode != Mode::Prezeroed && !preserve;
        assert_eq!(sectors > 0, frees, "{mode:?}");
        assert_eq!(identity(&paths[0]) != id, frees, "{mode:?}");
        if mode == Mode::Full && frees {
            assert!(count(Verdict::Blank) > 0, "{verdicts:?}");
        }
        let blank = count(Verdict::Free) + count(Verdict::Blank);
        assert_eq!(report.blocks.released_free, blank);
        assert_eq!(frees, blank > 4, "{verdicts:?}");
        assert_eq!(report.blocks.released_zero > 0, !frees, "{report:?}");
        let bytes = fs::read(&paths[0]).unwrap();
        let now = read_strictly(&Pages::from_bytes(&bytes)).unwrap();
        for (verdict, (state, _)) in verdicts.iter().zip(&now.blocks) {
            let expected = match verdict {
                Verdict::Free | Verdict::Parent => 0,
                Verdict::Zero | Verdict::Blank => 2,
                Verdict::Live | Verdict::Absent => FULL,
            };
            assert_eq!(*state, expected, "{verdict:?}");
        }
        // The strict reader sees the same.
        let below =
            read_strictly(&Pages::from_bytes(&fs::read(&paths[1]).unwrap())).unwrap();
        let pages = shown(&[&now, &below], 0..DISK);
        for (at, page) in (0u64..).step_by(4096).zip(after.chunks(4096)) {
            let there = pages.get(&at).cloned().unwrap_or_else(|| vec![0; 4096]);
            assert!(page == there, "the page at {at:#x}");
        }
    }
}

/// What a parent in another folder shows the same stays, but for zeros, which need no
/// parent.
#[test]
fn nothing_relies_on_a_distant_parent() {
    let scratch = Scratch::new("vhdx-distant-parent");
    fs::create_dir_all(scratch.path("far")).unwrap();
    let parent_shape = super::shape();
    let mut shape = super::chain::child_shape(512);
    // The same as in the parent, zeros over data, zeros over zeros.
    shape.order = [3, 7, 5].map(|block| (block, FULL, 0)).to_vec();
    (shape.eighths, shape.entries) = (Vec::new(), Vec::new());
    let (child, _) = shape.build_with(|block| match block {
        3 => parent_shape.data(3),
        _ => Vec::new(),
    });
    let path = scratch.path("child.vhdx");
    for (folder, to_parent) in [("far/parent.vhdx", 0), ("parent.vhdx", 1)] {
        let above = scratch.path(folder);
        write(&above, &parent_shape.build(&[]).0);
        write(&path, &child);
        let mut options = options(Mode::Full);
        options.parents.dirs = vec![scratch.path("far")];
        let report = compact(&path, &options);
        assert_eq!(report.error, None, "{report:?}");
        assert_eq!(report.blocks.released_parent, to_parent, "{report:?}");
        assert_eq!(report.blocks.released_zero, 2, "{report:?}");
        let bytes = fs::read(&path).unwrap();
        let now = read_strictly(&Pages::from_bytes(&bytes)).unwrap();
        let states = [now.blocks[3].0, now.blocks[7].0, now.blocks[5].0];
        assert_eq!(states, [if to_parent == 1 { 0 } else { FULL }, 2, 2]);
    }
}

#[test]
fn a_child_without_its_parent_is_left_alone() {
    let scratch = Scratch::new("vhdx-child-alone");
    let path = scratch.path("child.vhdx");
    let (child, _) = super::chain::child_shape(512).build(&[]);
    write(&path, &child);
    let report = compact(&path, &options(Mode::Full));
    assert_eq!(report.cause.unwrap().kind(), Kind::ParentNotFound);
    assert!(fs::read(&path).unwrap() == child.bytes());
}
