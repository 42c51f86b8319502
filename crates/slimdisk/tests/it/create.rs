//! New disks: judged by qemu, libvhdi, 7-Zip and a strict reader of the tests' own.

mod children;

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use slimdisk::create::{self, Content, Creation, Options, Outcome, Report};
use slimdisk::image;
use slimdisk::storage::{HostFile, free_space};
use slimdisk::{Error, Kind};

use crate::new_file::{names, wait_for_room};
use crate::storage::opening::Mount;
use crate::support::{Scratch, have, sh};
use crate::vhd_model::read_strictly;

const MIB: u64 = 1 << 20;

/// Makes a disk, whatever comes of it.
pub fn create(path: &Path, options: &Options) -> Report {
    create::create(path, options, &mut |_| ControlFlow::Continue(()))
}

/// Makes a disk that comes out as it was planned.
pub fn made(path: &Path, options: &Options) -> Report {
    let planned = create::plan(path, options);
    assert_eq!(planned.error, None);
    assert_eq!(planned.outcome, Outcome::Planned);
    assert!(path.symlink_metadata().is_err(), "a plan made {}", path.display());
    let report = create(path, options);
    assert_eq!(report.error, None);
    assert_eq!(report.outcome, Outcome::Created);
    assert_eq!(fs::metadata(path).unwrap().len(), report.file_size);
    assert_eq!(planned.file_size, report.file_size);
    assert_eq!(planned.unique_id, None);
    assert!(report.unique_id.is_some());
    // Nothing about it is odd, and nobody has it any more.
    let (format, findings) = image::check_file(path).unwrap();
    let named =
        if path.extension().is_some_and(|e| e == "vhdx") { "vhdx" } else { "vhd" };
    assert_eq!((format, findings.len()), (named, 0), "{findings:?}");
    HostFile::open_exclusive(path).unwrap();
    report
}

/// What qemu says of an image.
fn qemu_info(path: &Path) -> String {
    sh(&format!("qemu-img info --output=json -f vpc {}", path.display()))
}

#[test]
fn dynamic_disks_are_what_windows_and_qemu_make() {
    let test = "dynamic_disks_are_what_windows_and_qemu_make";
    if !have(test, &["qemu-img"]) {
        return;
    }
    let scratch = Scratch::new(test);
    for size in [3 * MIB, 3 * MIB + 512, 5 * MIB + 1536, 127 << 30, 2040 << 30] {
        for block_size in [None, Some(512 << 10), Some(64 * MIB)] {
            if size == 2040 << 30 && block_size == Some(512 << 10) {
                continue;
            }
            let path = scratch.path(&format!("{size}.vhd"));
            let mut options = Options::new(Content::Dynamic { size });
            options.block_size = block_size;
            let report = made(&path, &options);
            assert_eq!(report.virtual_size, size);
            assert_eq!(report.file_size % 4096, 0);
            let file = fs::read(&path).unwrap();
            let blocks = read_strictly(&file).unwrap();
            let block_size = block_size.unwrap_or(2 * MIB);
            assert_eq!(blocks.len() as u64, size.div_ceil(block_size));
            assert!(blocks.iter().all(Option::is_none));
            let info =
                sh(&format!("qemu-img info --output=json -f vpc {}", path.display()));
            assert!(info.contains(&format!("\"virtual-size\": {size}")), "{info}");
            fs::remove_file(&path).unwrap();
        }
    }
}

/// What qemu writes into a new disk is found there, and the disk stays sound.
#[test]
fn dynamic_disks_are_written_by_qemu() {
    let test = "dynamic_disks_are_written_by_qemu";
    if !have(test, &["qemu-img", "qemu-io"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let path = scratch.path("disk.vhd");
    for block_size in [512 << 10, 2 * MIB] {
        let mut options = Options::new(Content::Dynamic { size: 9 * MIB + 512 });
        options.block_size = Some(block_size);
        made(&path, &options);
        sh(&format!(
            "qemu-io -f vpc -c 'write -P 7 5M 1000k' -c 'write -P 9 0 512' \
             -c 'write -P 3 9M 512' -c 'read -v -P 7 5M 1000k' {}",
            path.display()
        ));
        let (_, findings) = image::check_file(&path).unwrap();
        assert!(findings.is_empty(), "{findings:?}");
        let disk = crate::convert::qemu_reads(&scratch, &path);
        assert_eq!(disk.len() as u64, 9 * MIB + 512);
        assert_eq!((disk[0], disk[512], disk[5 * MIB as usize]), (9, 0, 7));
        assert_eq!(disk[9 * MIB as usize..], [3; 512]);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn fixed_disks_are_set_aside_and_read_as_zeros() {
    let test = "fixed_disks_are_set_aside_and_read_as_zeros";
    if !have(test, &["qemu-img"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let path = scratch.path("fixed.vhd");
    for size in [3 * MIB, 5 * MIB + 1536, 40 * MIB] {
        let report = made(&path, &Options::new(Content::Fixed { size }));
        assert_eq!((report.file_size, report.block_size), (size + 512, 0));
        assert!(fs::metadata(&path).unwrap().blocks() * 512 >= size, "no room");
        let file = fs::read(&path).unwrap();
        let (disk, footer) = file.split_at(size as usize);
        assert!(disk.iter().all(|byte| *byte == 0));
        assert_eq!(footer[16..24], [0xFF; 8]);
        assert_eq!(footer[60..64], [0, 0, 0, 2]);
        let info = qemu_info(&path);
        assert!(info.contains(&format!("\"virtual-size\": {size}")), "{info}");
        assert!(crate::convert::qemu_reads(&scratch, &path) == disk);
        fs::remove_file(&path).unwrap();
    }
}

pub fn refused(path: &Path, options: &Options) -> Error {
    let report = create(path, options);
    assert_eq!(report.outcome, Outcome::Failed, "{report:?}");
    let error = Creation::prepare(path, options).err().unwrap();
    assert_eq!(report.cause.unwrap().kind(), error.kind());
    assert!(error.path().is_some(), "{error:?}");
    error
}

#[test]
fn what_cannot_be_made_is_refused_and_nothing_is_left() {
    let scratch = Scratch::new("what_cannot_be_made_is_refused");
    let at = |name: &str| scratch.path(name);
    fs::write(at("file"), "mine").unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    let before = names(scratch.dir());
    let dynamic = |size| Options::new(Content::Dynamic { size });
    let fixed = |size| Options::new(Content::Fixed { size });
    let mut odd = dynamic(4 * MIB);
    odd.block_size = Some(3 << 20);
    for (name, options, kind) in [
        ("new", dynamic(0), Kind::DiskTooSmall),
        ("new", dynamic(3 * MIB - 512), Kind::DiskTooSmall),
        ("new", fixed(3 * MIB - 512), Kind::DiskTooSmall),
        ("new", dynamic((2040 << 30) + 512), Kind::DiskTooLarge),
        ("new", fixed(u64::MAX), Kind::InvalidArgument),
        ("new", fixed((u64::MAX >> 9) << 9), Kind::DiskTooLarge),
        ("new", dynamic(3 * MIB + 1), Kind::InvalidArgument),
        ("new", odd, Kind::InvalidArgument),
        ("file", dynamic(4 * MIB), Kind::AlreadyExists),
        ("dangling", dynamic(4 * MIB), Kind::AlreadyExists),
        ("file/new", dynamic(4 * MIB), Kind::PathNotFound),
        ("dangling/new", dynamic(4 * MIB), Kind::PathNotFound),
        ("no/../new", dynamic(4 * MIB), Kind::PathNotFound),
        ("..", dynamic(4 * MIB), Kind::BadPath),
    ] {
        assert_eq!(refused(&at(name), &options).kind(), kind, "{name} {options:?}");
        assert_eq!(names(scratch.dir()), before);
    }
    assert_eq!(fs::read(at("file")).unwrap(), b"mine");
}

#[test]
fn missing_folders_are_made_and_go_if_it_fails() {
    let scratch = Scratch::new("missing_folders_are_made");
    let options = Options::new(Content::Fixed { size: 4 * MIB });
    made(&scratch.path("a/b/disk.vhd"), &options);
    assert_eq!(names(scratch.dir()), ["a"]);
    // Stopped at each call of the hook.
    for stop in 0..2 {
        let mut left = stop;
        let path = scratch.path("a/c/d/disk.vhd");
        let report = create::create(&path, &options, &mut |_| {
            left -= 1;
            if left < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(report.outcome, Outcome::Cancelled);
        assert_eq!(names(&scratch.path("a")), ["b"]);
    }
    // Failed on the way, and what others put there stays.
    for others in [false, true] {
        let path = scratch.path("a/c/d/disk.vhd");
        let report = create::create(&path, &options, &mut |at| {
            if at.done > 0 {
                fs::write(&path, "first").unwrap();
                if !others {
                    // Still no name that is left to take.
                    fs::rename(&path, scratch.path("a/away")).unwrap();
                    fs::remove_dir(scratch.path("a/c/d")).unwrap();
                }
            }
            ControlFlow::Continue(())
        });
        assert_eq!(report.outcome, Outcome::Failed, "{report:?}");
        let kind = report.cause.unwrap().kind();
        assert_eq!(kind == Kind::AlreadyExists, others);
        assert_eq!(scratch.path("a/c").exists(), others);
    }
    assert_eq!(fs::read(scratch.path("a/c/d/disk.vhd")).unwrap(), b"first");
    // Beside what is there, a relative path needs no folder at all.
    let plan = create::plan(Path::new("no-such-disk.vhd"), &options);
    assert_eq!(plan.error, None);
}

#[test]
fn room_that_is_missing_is_known_before() {
    let test = "room_that_is_missing_is_known_before";
    let scratch = Scratch::new(test);
    let mount = "mount -t tmpfs -o size=8m none";
    let Some(mount) = Mount::new(test, &scratch, mount) else { return };
    let fixed = |size| Options::new(Content::Fixed { size });
    for name in ["disk.vhd", "new/disk.vhd"] {
        let path = mount.0.join(name);
        let error = Creation::prepare(&path, &fixed(9 * MIB)).err().unwrap();
        assert_eq!(error.kind(), Kind::DiskFull, "{error:?}");
        let vast = Options::new(Content::Dynamic { size: 2040 << 30 });
        drop(Creation::prepare(&path, &vast).unwrap());
        assert!(names(&mount.0).is_empty());
        let room = free_space(&path).unwrap();
        drop(Creation::prepare(&path, &fixed(6 * MIB)).unwrap());
        wait_for_room(&path, room);
        assert_eq!(create(&path, &fixed(6 * MIB)).outcome, Outcome::Created);
        let error = Creation::prepare(&mount.0.join("second"), &vast).err().unwrap();
        assert_eq!(error.kind(), Kind::DiskFull, "{error:?}");
        fs::remove_file(&path).unwrap();
        wait_for_room(&path, room);
    }
}
