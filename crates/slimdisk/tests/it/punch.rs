//! Holes punched in images: what the host gets back, and that nothing but free space and
//! zeros reads otherwise. Made and judged by other people's tools.

mod children;
mod crash;
#[cfg(target_os = "linux")]
mod mounted;
mod refused;

use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use slimdisk::compact::{Mode, Options, Outcome, Punch};
use slimdisk::image;
use slimdisk::storage::HostFile;

use crate::end_to_end::{Kind, Volume, compact, make_disk, make_vhd, plan};
use crate::support::{Noise, Scratch, have, sh};
use crate::vhd_model::read_strictly;

pub fn punching(mode: Mode, punch: Punch) -> Options {
    let mut options = Options::default();
    (options.mode, options.verify, options.punch) = (mode, true, Some(punch));
    options
}

pub fn on_the_host(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

pub fn identity(path: &Path) -> Option<[u8; 16]> {
    image::open(Arc::new(HostFile::open_read(path).unwrap())).unwrap().facts().unique_id
}

/// One layout of one disk, without a hole in it.
fn make(scratch: &Scratch, disk: &[u8], container: &str) -> PathBuf {
    let (made, driver) = match container {
        "vhdx" | "vhdx-32M" | "fixed" => {
            let raw = scratch.path("disk.raw");
            fs::write(&raw, disk).unwrap();
            let (name, format, options) = match container {
                "vhdx" => ("disk.vhdx", "vhdx", "block_size=2M"),
                "vhdx-32M" => ("disk.vhdx", "vhdx", "block_size=32M"),
                _ => ("disk.vhd", "vpc", "subformat=fixed,force_size=on"),
            };
            let made = scratch.path(name);
            let _ = fs::remove_file(&made);
            sh(&format!(
                "qemu-img convert -f raw -O {format} -o {options} {} {}",
                raw.display(),
                made.display()
            ));
            (made, format)
        }
        _ => (make_vhd(scratch, disk, container).0, "vpc"),
    };
    let full = scratch.path(if driver == "vpc" { "full.vhd" } else { "full.vhdx" });
    sh(&format!("cp --sparse=never {} {}; sync {1}", made.display(), full.display()));
    assert!(on_the_host(&full) >= fs::metadata(&full).unwrap().len());
    full
}

fn driver(path: &Path) -> &'static str {
    if path.extension().is_some_and(|e| e == "vhd") { "vpc" } else { "vhdx" }
}

fn raw_of(scratch: &Scratch, path: &Path) -> Vec<u8> {
    let raw = scratch.path("after.raw");
    let (from, to) = (path.display(), raw.display());
    sh(&format!("qemu-img convert -f {} -O raw {from} {to}", driver(path)));
    fs::read(raw).unwrap()
}

/// Only in free sectors does a byte differ, and there it is zero.
fn only_free_differs(
    disk: &[u8],
    back: &[u8],
    volume: &Volume,
    at: &Range<usize>,
    cell: &str,
) {
    assert!(back[disk.len()..].iter().all(|byte| *byte == 0), "{cell}");
    for (number, (was, is)) in (0..).zip(disk.chunks(512).zip(back.chunks(512))) {
        let start = number * 512;
        let free = at.contains(&start) && {
            let sector = (start - at.start) as u64;
            volume.free.covers(&(sector..sector + 512))
        };
        let zero = is.iter().all(|byte| *byte == 0);
        assert!(was == is || free && zero, "{cell}: the sector at {start:#x}");
    }
}

fn every_container(test: &str, kind: Kind) {
    let tools = ["mke2fs", "debugfs", "e2fsck", "dumpe2fs", "qemu-img", "sfdisk"];
    let ntfs_tools = ["mkntfs", "ntfs-3g", "ntfsfix", "ntfscat"];
    let ntfs = matches!(kind, Kind::Ntfs(_));
    if !have(test, &tools) || ntfs && !have(test, &ntfs_tools) {
        return;
    }
    let scratch = Scratch::new(test);
    let volume = Volume::make(&scratch, kind);
    for (scheme, mode, container) in [
        ("bare", Mode::Quick, "qemu"),
        ("bare", Mode::Quick, "windows"),
        ("bare", Mode::Quick, "vhdx"),
        ("bare", Mode::Quick, "fixed"),
        ("gpt", Mode::Full, "qemu"),
        ("gpt", Mode::Full, "old"),
        ("gpt", Mode::Full, "windows"),
        ("gpt", Mode::Full, "vhdx-32M"),
        ("gpt", Mode::Full, "fixed"),
    ] {
        let cell = format!("{test}, {scheme}, {container}");
        let (disk, at) = make_disk(&scratch, &volume, scheme);
        let path = make(&scratch, &disk, container);
        let before = fs::metadata(&path).unwrap();
        let id = identity(&path);
        let only = punching(mode, Punch::Only);

        let planned = plan(&path, &only);
        assert_eq!(planned.error, None, "{cell}");
        assert_eq!(planned.outcome, Outcome::Planned, "{cell}");
        assert_eq!(fs::metadata(&path).unwrap().ctime_nsec(), before.ctime_nsec());
        let report = compact(&path, &only);
        assert_eq!(report.error, None, "{cell}");
        assert_eq!(report.outcome, Outcome::Punched, "{cell}");
        assert_eq!(report.punched_bytes, planned.punched_bytes, "{cell}");
        assert!(report.verified.is_some(), "{cell}");
        assert!(report.notes.iter().any(|note| note.contains("Hyper-V")), "{cell}");
        let after = fs::metadata(&path).unwrap();
        assert_eq!(after.len(), before.len(), "{cell}");
        assert_eq!(after.modified().unwrap(), before.modified().unwrap(), "{cell}");
        assert_eq!(report.host_bytes_after, Some(on_the_host(&path)), "{cell}");
        let won = before.blocks() * 512 - on_the_host(&path);
        // The host may need a little more to note where the holes are.
        let punched = report.punched_bytes.unwrap();
        assert!(punched >= won && punched < won + (1 << 20), "{cell}: {punched} {won}");

        // What the guest uses, and the image's own structures.
        let outside = (disk.len() - at.len()) as u64;
        let used = at.len() as u64 - volume.free.total() + outside;
        let of_blocks = report.blocks.allocated_before * report.block_size;
        let tables = match container {
            "fixed" => 4096,
            // The last block reaches behind the end of the disk.
            _ => {
                after.len() - of_blocks + report.blocks.total * report.block_size
                    - report.virtual_size
            }
        };
        let host = on_the_host(&path);
        println!("{cell}: {host} on the host, {used} used, {tables} of tables");
        assert!(host <= used + used / 50 + tables, "{cell}: {host} of {used}");

        let (_, found) = image::check_file(&path).unwrap();
        assert_eq!(found, [], "{cell}");
        if driver(&path) == "vpc" && container != "fixed" {
            read_strictly(&fs::read(&path).unwrap()).unwrap();
        }
        assert_eq!(identity(&path) != id, driver(&path) == "vhdx", "{cell}");
        let back = raw_of(&scratch, &path);
        only_free_differs(&disk, &back, &volume, &at, &cell);
        volume.judge(&scratch, &back[at.clone()]);

        let again = compact(&path, &only);
        assert_eq!(again.outcome, Outcome::NothingToDo, "{cell}");
        assert_eq!(again.io.bytes_written, Some(0), "{cell}");
        if container == "fixed" {
            continue;
        }

        // After that it is compacted as before; and both in one go. Of two large blocks
        // none can go.
        let large = container == "vhdx-32M";
        let then = compact(&path, &punching(mode, Punch::Also));
        assert_eq!(then.error, None, "{cell}");
        assert_eq!(then.outcome == Outcome::Compacted, !large, "{cell}");
        let both = make(&scratch, &disk, container);
        let report = compact(&both, &punching(mode, Punch::Also));
        assert_eq!(report.error, None, "{cell}");
        let expected = if large { Outcome::Punched } else { Outcome::Compacted };
        assert_eq!(report.outcome, expected, "{cell}");
        assert_eq!(report.file_size_after, then.file_size_after, "{cell}");
        assert!(report.punched_bytes.unwrap() > 0, "{cell}");
        let host = on_the_host(&both);
        assert!(host <= used + used / 50 + tables, "{cell}: {host} of {used}");
        let back = raw_of(&scratch, &both);
        only_free_differs(&disk, &back, &volume, &at, &cell);
        volume.judge(&scratch, &back[at.clone()]);
    }
}

#[test]
fn ext4() {
    every_container("punch-ext4", Kind::Ext("-t ext4 -b 4096 -J size=4"));
}

#[test]
fn ext4_1k() {
    every_container("punch-ext4-1k", Kind::Ext("-t ext4 -b 1024 -J size=4"));
}

#[test]
fn ntfs() {
    every_container("punch-ntfs", Kind::Ntfs("-c 4096"));
}

/// Room that a fixed image got when it was made, and that nobody has written to.
#[test]
fn room_that_was_set_aside_goes_back() {
    let scratch = Scratch::new("punch-reserved");
    let path = scratch.path("fixed.vhd");
    let mut options = slimdisk::create::Options::new(slimdisk::create::Content::Fixed {
        size: 40 << 20,
    });
    options.block_size = None;
    let made = slimdisk::create::create(&path, &options, &mut |_| {
        std::ops::ControlFlow::Continue(())
    });
    assert_eq!(made.error, None);
    if on_the_host(&path) < 40 << 20 {
        crate::support::skip("punch-reserved", "a file system that sets room aside");
        return;
    }
    // Nothing in it: no volume, so by zeros alone.
    let report = compact(&path, &punching(Mode::Full, Punch::Only));
    assert_eq!(report.error, None);
    assert_eq!(report.outcome, Outcome::Punched);
    assert!(on_the_host(&path) < 1 << 20, "{}", on_the_host(&path));
    assert_eq!(fs::metadata(&path).unwrap().len(), (40 << 20) + 512);
}

/// What is neither free nor zero stays, whatever is around it.
#[test]
fn noise_keeps_its_place() {
    let scratch = Scratch::new("punch-noise");
    let mut disk = vec![0; 8 << 20];
    let mut noise = Noise::new(5);
    for at in (0..disk.len()).step_by(64 << 10) {
        // Odd lengths at odd places.
        let (start, len) = (at + noise.below(9000) as usize, noise.below(9000) as usize);
        disk[start..start + len].copy_from_slice(&noise.bytes(len));
    }
    for aligned in [false, true] {
        let path = scratch.path("noise.vhd");
        let file = crate::vhd_model::Shape::of_disk(&disk, 2 << 20, aligned, *b"win ");
        fs::write(&path, &file).unwrap();
        let quick = compact(&path, &punching(Mode::Quick, Punch::Only));
        assert_eq!(quick.outcome, Outcome::NothingToDo, "{quick:?}");
        let report = compact(&path, &punching(Mode::Prezeroed, Punch::Only));
        assert_eq!(report.outcome, Outcome::Punched, "{report:?}");
        assert!(fs::read(&path).unwrap() == file, "a byte differs");
        // Each stretch of noise may need two pieces more than it has bytes.
        let pieces = disk.chunks(4096).filter(|p| p.iter().any(|b| *b != 0)).count();
        let most = (pieces + 2 * 128 + 16) * 4096;
        assert!(on_the_host(&path) <= most as u64, "{}", on_the_host(&path));
    }
}
