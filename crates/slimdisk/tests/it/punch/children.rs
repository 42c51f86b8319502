//! Differencing images, and images that others depend on.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use slimdisk::Kind;
use slimdisk::compact::{Mode, Outcome, Punch};
use slimdisk::create::{self, Content};
use slimdisk::image::parent::{ParentLookup, open_parents};
use slimdisk::image::{self, GuestWrite};
use slimdisk::storage::HostFile;

use super::{identity, make, punching};
use crate::end_to_end::{self, Volume, compact, make_disk};
use crate::support::{Noise, Scratch, have};

const TOOLS: [&str; 6] =
    ["mke2fs", "debugfs", "e2fsck", "dumpe2fs", "qemu-img", "sfdisk"];

fn volume(scratch: &Scratch) -> Volume {
    Volume::make(scratch, end_to_end::Kind::Ext("-t ext4 -b 4096 -J size=4"))
}

fn child_of(parent: &Path) -> PathBuf {
    let mut child = parent.with_file_name("child");
    child.set_extension(parent.extension().unwrap());
    let options = create::Options::new(Content::Differencing { parent: parent.into() });
    let made = create::create(&child, &options, &mut |_| ControlFlow::Continue(()));
    assert_eq!(made.error, None);
    child
}

/// What the guest reads through all parents.
fn shown(path: &Path) -> Vec<u8> {
    let mut image = image::open(Arc::new(HostFile::open_read(path).unwrap())).unwrap();
    open_parents(&mut *image, path, &ParentLookup::default()).unwrap();
    let mut disk = vec![0; image.len() as usize];
    image.read_at(0, &mut disk).unwrap();
    disk
}

fn write(path: &Path, writes: &[GuestWrite]) {
    let file = Arc::new(HostFile::open_exclusive(path).unwrap());
    let mut image = image::open(file).unwrap();
    open_parents(&mut *image, path, &ParentLookup::default()).unwrap();
    image.write(writes).unwrap();
    image.truncate().unwrap();
}

#[test]
fn a_child_gives_back_what_it_holds_itself_and_nothing_shows_through() {
    if !have("punch-child", &TOOLS) {
        return;
    }
    let scratch = Scratch::new("punch-child");
    let volume = volume(&scratch);
    for container in ["windows", "vhdx"] {
        let parent = make(&scratch, &volume.bytes, container);
        let child = child_of(&parent);
        // Free space gets noise, or zeros over what the parent has; and half of all pages
        // that are in use are written as they are.
        let mut noise = Noise::new(8);
        let mut writes = Vec::new();
        for at in (0..volume.bytes.len()).step_by(4096) {
            let page = at as u64..at as u64 + 4096;
            let data = match (volume.free.covers(&page), noise.below(4)) {
                (true, 0 | 1) => noise.bytes(4096),
                (true, 2) => vec![0; 4096],
                (false, 0 | 1) => volume.bytes[at..at + 4096].to_vec(),
                _ => continue,
            };
            writes.push(GuestWrite { offset: page.start, data });
        }
        write(&child, &writes);
        let of_parent = fs::read(&parent).unwrap();
        let before = shown(&child);
        let id = identity(&child);
        let len = fs::metadata(&child).unwrap().len();

        let report = compact(&child, &punching(Mode::Quick, Punch::Only));
        assert_eq!(report.error, None, "{container}");
        assert_eq!(report.outcome, Outcome::Punched, "{container}");
        assert_eq!(fs::metadata(&child).unwrap().len(), len);
        assert!(fs::read(&parent).unwrap() == of_parent, "the parent changed");
        assert_eq!(identity(&child) != id, container == "vhdx");
        let after = shown(&child);
        let (mut gone, mut own) = (0, writes.iter().peekable());
        for at in (0..before.len()).step_by(4096) {
            let (was, is) = (&before[at..at + 4096], &after[at..at + 4096]);
            let written = own.next_if(|write| write.offset == at as u64);
            let free = volume.free.covers(&(at as u64..at as u64 + 4096));
            match written {
                Some(_) if free && was != is => {
                    assert!(is.iter().all(|byte| *byte == 0), "{container}: {at:#x}");
                    gone += 1;
                }
                _ => assert!(was == is, "{container}: the page at {at:#x}"),
            }
        }
        // A Windows VHD and a VHDX have pages where the host has.
        let noisy = writes.iter().filter(|w| {
            volume.free.covers(&(w.offset..w.end())) && w.data.iter().any(|b| *b != 0)
        });
        assert_eq!(gone, noisy.count(), "{container}");
        volume.judge(&scratch, &after[..volume.bytes.len()]);

        // What is the parent's cannot be punched.
        let file = Arc::new(HostFile::open_exclusive(&child).unwrap());
        let mut image = image::open(file).unwrap();
        open_parents(&mut *image, &child, &ParentLookup::default()).unwrap();
        let foreign = (0..after.len() as u64)
            .step_by(4096)
            .find(|at| writes.iter().all(|write| write.offset != *at))
            .unwrap();
        let refused = image.punch(&[foreign..foreign + 4096]).unwrap_err();
        assert_eq!(refused.kind(), Kind::Unexpected);
        drop(image);
        assert!(shown(&child) == after);
        fs::remove_file(&child).unwrap();
    }
}

/// Of a block that could be given up whole, for it is free in one part and the same as the
/// parent's in the other, only the free part is punched.
#[test]
fn what_the_parent_shows_the_same_is_not_zeros() {
    if !have("punch-same", &TOOLS) {
        return;
    }
    let scratch = Scratch::new("punch-same");
    let volume = volume(&scratch);
    let (mut disk, at) = make_disk(&scratch, &volume, "gpt");
    let mut noise = Noise::new(9);
    // Behind the volume, in the block that its end is in.
    let outside = at.end + 100_000 / 4096 * 4096..at.end + 200_000 / 4096 * 4096;
    disk[outside.clone()].copy_from_slice(&noise.bytes(outside.len()));
    let inside = at.end - (256 << 10)..at.end - (128 << 10);
    let in_volume = (inside.start - at.start) as u64..(inside.end - at.start) as u64;
    assert!(volume.free.covers(&in_volume));
    for container in ["windows", "vhdx"] {
        let parent = make(&scratch, &disk, container);
        let child = child_of(&parent);
        let same = GuestWrite {
            offset: outside.start as u64,
            data: disk[outside.clone()].to_vec(),
        };
        let free =
            GuestWrite { offset: inside.start as u64, data: noise.bytes(inside.len()) };
        write(&child, &[free, same]);
        let verdict = |mode| {
            let mut options = punching(mode, Punch::Only);
            options.punch = None;
            end_to_end::plan(&child, &options).blocks.released_free
        };
        assert_eq!(verdict(Mode::Quick), 1, "{container}");
        let before = shown(&child);
        let report = compact(&child, &punching(Mode::Quick, Punch::Only));
        assert_eq!(report.outcome, Outcome::Punched, "{container}: {report:?}");
        assert_eq!(report.punched_bytes, Some(inside.len() as u64), "{container}");
        let after = shown(&child);
        assert!(after[outside.clone()] == before[outside.clone()], "{container}");
        assert!(after[inside.clone()].iter().all(|byte| *byte == 0), "{container}");
        fs::remove_file(&child).unwrap();
    }
}

#[test]
fn a_parent_gives_back_only_zeros() {
    if !have("punch-parent", &TOOLS) {
        return;
    }
    let scratch = Scratch::new("punch-parent");
    let volume = volume(&scratch);
    for container in ["qemu", "vhdx-32M"] {
        let parent = make(&scratch, &volume.bytes, container);
        let child = child_of(&parent);
        let (before, id) = (shown(&child), identity(&parent));
        let report = compact(&parent, &punching(Mode::Full, Punch::Only));
        assert_eq!(report.error, None, "{container}");
        assert_eq!(report.outcome, Outcome::Punched, "{container}");
        assert!(report.punched_bytes.unwrap() > 1 << 20, "{container}");
        assert_eq!((report.children.len(), report.orphaned.len()), (1, 0));
        assert_eq!(identity(&parent), id, "{container}");
        assert!(shown(&child) == before, "{container}: the child reads other bytes");
        let quick = compact(&parent, &punching(Mode::Quick, Punch::Only));
        assert_eq!(quick.outcome, Outcome::NothingToDo, "{container}");

        let mut options = punching(Mode::Quick, Punch::Only);
        options.orphan_children = true;
        let report = compact(&parent, &options);
        if container == "qemu" {
            assert_eq!(report.cause.unwrap().kind(), Kind::WrongImageType);
            assert!(shown(&child) == before, "{container}");
        } else {
            assert_eq!(report.outcome, Outcome::Punched);
            assert_eq!(report.orphaned.len(), 1, "{:?}", report.notes);
            assert_ne!(identity(&parent), id);
            let back = shown(&parent);
            volume.judge(&scratch, &back[..volume.bytes.len()]);
        }
        fs::remove_file(&child).unwrap();
    }
}
