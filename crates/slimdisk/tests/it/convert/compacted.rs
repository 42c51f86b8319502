//! Compacted copies: the same disk in a new file, the source as it was.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use slimdisk::compact::{self, Mode, Outcome as Compacted};
use slimdisk::convert::{Options, Outcome};
use slimdisk::create::{self, Content};
use slimdisk::image::{self, Image, Piece};
use slimdisk::storage::HostFile;
use slimdisk::{Kind, convert};

use super::{MIB, attempt, converted, disk};
use crate::end_to_end::{
    self, Kind as Guest, Volume, blocks_to_stay, make_disk, make_vhd, quick,
};
use crate::new_file::names;
use crate::storage::opening::Mount;
use crate::support::{Noise, Scratch, have, sh};
use crate::vhd_model::Shape;
use crate::vhdx_model::{self, FULL, LogEntry, PAGE, UNMAPPED};

fn copying(mode: Mode) -> Options {
    let mut options = quick();
    options.mode = mode;
    Options::compacted(&options)
}

fn open(path: &Path) -> Box<dyn Image> {
    image::open(Arc::new(HostFile::open_read(path).unwrap())).unwrap()
}

fn every_container(test: &str, kind: Guest) {
    let tools = ["mke2fs", "debugfs", "e2fsck", "dumpe2fs", "qemu-img", "sfdisk"];
    let ntfs_tools = ["mkntfs", "ntfs-3g", "ntfsfix", "ntfscat"];
    let ntfs = matches!(kind, Guest::Ntfs(_));
    if !have(test, &tools) || ntfs && !have(test, &ntfs_tools) {
        return;
    }
    let scratch = Scratch::new(test);
    let volume = Volume::make(&scratch, kind);
    for (scheme, container) in [("bare", "qemu"), ("gpt", "windows"), ("gpt", "vhdx")] {
        let cell = format!("{test}, {scheme}, {container}");
        let (disk, at) = make_disk(&scratch, &volume, scheme);
        let (path, new) = if container == "vhdx" {
            let path = scratch.path("disk.vhdx");
            let (_, file) = vhdx_model::Shape::of_disk(&disk, 2);
            fs::write(&path, file.bytes()).unwrap();
            (path, scratch.path("small.vhdx"))
        } else {
            let (path, _) = make_vhd(&scratch, &disk, container);
            (path, scratch.path("small.vhd"))
        };
        let report = converted(&path, &new, &copying(Mode::Quick));
        let stay = blocks_to_stay(&disk, &volume, &at, 2 * MIB) as u64;
        // Blocks of zeros that the volume uses are left out, too.
        assert!(report.blocks.written <= stay, "{cell}: {:?}", report.blocks);
        assert!(report.blocks.left_out_free > 3, "{cell}");

        let (was, is) = (open(&path), open(&new));
        assert_eq!(was.facts().virtual_size, is.facts().virtual_size, "{cell}");
        assert_eq!(was.facts().block_size, is.facts().block_size, "{cell}");
        assert_eq!(was.facts().geometry, is.facts().geometry, "{cell}");
        assert_eq!(was.disk_id(), is.disk_id(), "{cell}");
        let same = was.facts().unique_id == is.facts().unique_id;
        assert_eq!(same, container != "vhdx", "{cell}");
        // In the guest's order.
        let extents = is.layout().unwrap().extents;
        let blocks: Vec<Piece> = extents.iter().map(|extent| extent.piece).collect();
        let mut sorted = blocks.clone();
        sorted.sort_by_key(|piece| piece.block());
        assert_eq!(blocks, sorted, "{cell}");
        drop((was, is));

        let raw = scratch.path("qemu.raw");
        let driver = if container == "vhdx" { "vhdx" } else { "vpc" };
        let (from, to) = (new.display(), raw.display());
        sh(&format!("qemu-img convert -f {driver} -O raw {from} {to}"));
        let back = fs::read(&raw).unwrap();
        for (number, (was, is)) in (0..).zip(disk.chunks(512).zip(back.chunks(512))) {
            let start = number * 512;
            let free = at.contains(&start) && {
                let sector = (start - at.start) as u64;
                volume.free.covers(&(sector..sector + 512))
            };
            assert!(was == is || free, "{cell}: the sector at {start:#x}");
        }
        volume.judge(&scratch, &back[at.clone()]);
        assert_eq!(image::check_file(&new).unwrap().1, [], "{cell}");
        let again = end_to_end::compact(&new, &quick());
        assert_eq!(again.outcome, Compacted::NothingToDo, "{cell}");
        fs::remove_file(&new).unwrap();
    }
}

#[test]
fn copies_of_ext4_are_compacted() {
    every_container("copy-ext4", Guest::Ext("-t ext4 -b 4096 -J size=4"));
}

#[test]
fn copies_of_ntfs_are_compacted() {
    every_container("copy-ntfs", Guest::Ntfs("-c 4096"));
}

#[test]
fn what_cannot_be_copied_so_is_refused_and_nothing_is_left() {
    let scratch = Scratch::new("copy-refused");
    let dynamic = scratch.path("dynamic.vhd");
    let bytes = disk(&mut Noise::new(3), 8 * MIB);
    fs::write(&dynamic, Shape::of_disk(&bytes, 2 * MIB, true, *b"win ")).unwrap();
    let make = |name: &str, content| {
        let path = scratch.path(name);
        let options = create::Options::new(content);
        let made =
            create::create(&path, &options, &mut |_| std::ops::ControlFlow::Continue(()));
        assert_eq!(made.error, None);
        path
    };
    let fixed = make("fixed.vhd", Content::Fixed { size: 4 << 20 });
    let child = make("child.vhd", Content::Differencing { parent: dynamic.clone() });
    let before = names(scratch.dir());
    for (source, target, kind) in [
        (&fixed, "new.vhd", Kind::WrongImageType),
        (&child, "new.vhd", Kind::WrongImageType),
        (&dynamic, "new.vhdx", Kind::InvalidArgument),
        (&dynamic, "child.vhd", Kind::AlreadyExists),
        (&dynamic, "dynamic.vhd", Kind::AlreadyExists),
    ] {
        let report = attempt(source, &scratch.path(target), &copying(Mode::Quick));
        assert_eq!(report.outcome, Outcome::Failed);
        assert_eq!(report.cause.unwrap().kind(), kind, "{target}");
        assert_eq!(names(scratch.dir()), before, "{target}");
    }
    // A parent keeps what its children may read: all but zeros.
    let new = scratch.path("new.vhd");
    let report = converted(&dynamic, &new, &copying(Mode::Quick));
    assert!(report.notes.iter().any(|note| note.contains("child.vhd")));
    assert_eq!(report.blocks.left_out_free, 0);
    let mut orphans = compact::Options::default();
    orphans.orphan_children = true;
    let other = scratch.path("other.vhd");
    let report = attempt(&dynamic, &other, &Options::compacted(&orphans));
    assert_eq!(report.cause.unwrap().kind(), Kind::WrongImageType);
}

/// Free space that is not zeros stays in the copy of a parent: its children may read it.
#[test]
fn a_copy_of_a_parent_reads_the_same() {
    let test = "a_copy_of_a_parent_reads_the_same";
    if !have(test, &["mke2fs", "debugfs", "e2fsck", "dumpe2fs", "qemu-img", "sfdisk"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let volume = Volume::make(&scratch, Guest::Ext("-t ext4 -b 4096 -J size=4"));
    let (disk, _) = make_disk(&scratch, &volume, "gpt");
    let (path, _) = make_vhd(&scratch, &disk, "windows");
    let [alone, beside] = ["alone.vhd", "beside.vhd"].map(|name| scratch.path(name));
    let report = converted(&path, &alone, &copying(Mode::Quick));
    assert!(report.blocks.left_out_free > 3, "{:?}", report.blocks);
    fs::remove_file(&alone).unwrap();

    let child = scratch.path("child.vhd");
    let options = create::Options::new(Content::Differencing { parent: path.clone() });
    let made =
        create::create(&child, &options, &mut |_| std::ops::ControlFlow::Continue(()));
    assert_eq!(made.error, None);
    let report = converted(&path, &beside, &copying(Mode::Quick));
    assert_eq!(report.blocks.left_out_free, 0, "{:?}", report.blocks);
    let (was, is) = (open(&path), open(&beside));
    assert_eq!(was.facts().unique_id, is.facts().unique_id);
    let mut bytes = [vec![0; MIB], vec![0; MIB]];
    for at in (0..was.len()).step_by(MIB) {
        let len = (was.len() - at).min(MIB as u64) as usize;
        for (image, bytes) in [&was, &is].into_iter().zip(&mut bytes) {
            image.read_at(at, &mut bytes[..len]).unwrap();
        }
        assert!(bytes[0] == bytes[1], "{at:#x}");
    }
}

#[test]
fn a_host_without_room_is_found_full_at_once() {
    let test = "copy-full";
    if !have(test, &["mount", "umount"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let path = scratch.path("disk.vhd");
    let bytes = Noise::new(4).bytes(24 * MIB);
    fs::write(&path, Shape::of_disk(&bytes, 2 * MIB, true, *b"win ")).unwrap();
    let mount = "mount -t tmpfs -o size=8m none";
    let Some(mount) = Mount::new(test, &scratch, mount) else { return };
    let new = mount.0.join("new.vhd");
    let mut copied = 0;
    let report = convert::convert(&path, &new, &copying(Mode::Quick), &mut |progress| {
        copied += u64::from(progress.phase == compact::Phase::Copy);
        std::ops::ControlFlow::Continue(())
    });
    assert_eq!(report.cause.unwrap().kind(), Kind::DiskFull);
    assert_eq!((copied, names(&mount.0).len()), (0, 0));
}

#[test]
fn blocks_are_shared_where_the_host_can() {
    let test = "copy-shared";
    if !have(test, &["mkfs.xfs", "mount", "umount"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let Some(mount) = Mount::made_by("mkfs.xfs -q -m reflink=1", "600M", test, &scratch)
    else {
        return;
    };
    for format in ["vhd", "vhdx", "vhdx with a log"] {
        let path = mount.0.join("disk").with_extension(&format[..format.len().min(4)]);
        let path = if format == "vhd" { path.with_extension("vhd") } else { path };
        let new = path.with_file_name("small").with_extension(path.extension().unwrap());
        let bytes = Noise::new(6).bytes(40 * MIB);
        if format == "vhd" {
            let file = Shape::of_disk(&bytes, 2 * MIB, true, *b"win ");
            fs::write(&path, file).unwrap();
        } else {
            // A block that the guest gave up still has what was there.
            let order: Vec<(u32, u64, u64)> = [4, 2, 0, 3, 1]
                .map(|block| (block, if block == 3 { UNMAPPED } else { FULL }, 0))
                .to_vec();
            let shape = vhdx_model::Shape {
                block_mib: 8,
                blocks: 5,
                order,
                ..vhdx_model::Shape::default()
            };
            let (mut file, places) = shape.build_with(|block| {
                let at = block as usize * 8 * MIB;
                vec![(0, bytes[at..at + 8 * MIB].to_vec())]
            });
            if format != "vhdx" {
                let table = file.get(places.bat, 4096);
                let entry =
                    LogEntry { pages: vec![(places.bat, table)], ..LogEntry::default() };
                shape.with_log(&mut file, &places, 3 * PAGE, &[entry]);
                file.write(places.bat, &[0xEE; 600]);
            }
            fs::write(&path, file.bytes()).unwrap();
        }
        sh(&format!("sync -f {}", path.display()));
        let report = attempt(&path, &new, &copying(Mode::Quick));
        assert_eq!(report.error, None, "{format}");
        assert!(report.verified.is_some(), "{format}");
        let written = report.io.bytes_written.unwrap();
        let cloned = report.io.bytes_cloned.unwrap();
        println!("{format}: {written} written, {cloned} shared");
        match format {
            "vhd" => assert!(cloned == 40 << 20 && written < 64 << 10, "{written}"),
            "vhdx" => assert!(cloned == 32 << 20 && written < 256 << 10, "{written}"),
            // What the log has is not in the file yet.
            _ => assert!(cloned == 0 && written > 32 << 20, "{written}"),
        }
        let (was, is) = (open(&path), open(&new));
        let (mut a, mut b) = (vec![0; 40 * MIB], vec![1; 40 * MIB]);
        was.read_at(0, &mut a).unwrap();
        is.read_at(0, &mut b).unwrap();
        assert!(a == b, "{format}: the copy reads other bytes");
        assert_eq!(was.facts().unique_id, is.facts().unique_id, "{format}");
        assert_eq!(image::check_file(&new).unwrap().1, [], "{format}");
        fs::remove_file(&new).unwrap();
    }
}
