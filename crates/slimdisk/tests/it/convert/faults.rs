//! Every read and write fails once, the disk is full, the source is written to: nothing is
//! left of the new image, and the error says what happened.

use std::fs;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use slimdisk::Kind;
use slimdisk::compact::Phase;
use slimdisk::convert::{self, Conversion, Outcome};
use slimdisk::create::{Content, Options};
use slimdisk::image::{self, Format, ImageType, NewImage, Writer};
use slimdisk::storage::{Storage, free_space};

use super::{MIB, attempt, converted, disk, dynamic, to_fixed};
use crate::chain::content;
use crate::create::made;
use crate::faults::{Call, Fault, Faulty, MemFile};
use crate::new_file::{names, wait_for_room};
use crate::power_cut::{Growth, Op, Recorder, Tear, power_cut};
use crate::storage::opening::Mount;
use crate::support::{Noise, Scratch, have, sh};
use crate::vhd_model::Shape;

/// Each format, and the two types that are written.
fn forms() -> impl Iterator<Item = (&'static dyn Format, ImageType)> {
    image::FORMATS.iter().flat_map(|format| {
        [ImageType::Dynamic, ImageType::Fixed].map(|image_type| (*format, image_type))
    })
}

/// The smallest blocks that a format has.
fn block_size(format: &dyn Format) -> u64 {
    *format.smaller_blocks().first().unwrap()
}

fn new_image(format: &dyn Format, image_type: ImageType, size: usize) -> NewImage {
    NewImage {
        image_type,
        size: size as u64,
        block_size: (image_type == ImageType::Dynamic).then_some(block_size(format)),
        sector_size: 512,
        physical_sector_size: None,
        geometry: None,
        parent: None,
        blank: false,
        unique_id: [3; 16],
        disk_id: None,
        time: SystemTime::now(),
    }
}

/// Writes a disk in pieces of 64 KiB, zeros left out.
fn write(
    file: Arc<dyn Storage>,
    (format, image_type): (&dyn Format, ImageType),
    disk: &[u8],
) -> slimdisk::Result<()> {
    let new = new_image(format, image_type, disk.len());
    let mut writer = format.create(file, &new)?;
    for (number, piece) in disk.chunks(64 << 10).enumerate() {
        if piece.iter().any(|byte| *byte != 0) {
            writer.write(number as u64 * (64 << 10), piece)?;
        }
    }
    Writer::finish(writer)
}

#[test]
fn every_call_of_a_writer_may_fail() {
    let disk = disk(&mut Noise::new(21), 3 * MIB);
    let mut tried = 0;
    for form in forms() {
        let whole = Arc::new(Faulty::new(MemFile::new(Vec::new()), None));
        write(whole.clone(), form, &disk).unwrap();
        let image = image::open(whole.clone()).unwrap();
        assert!(content(&*image) == disk);
        assert_eq!(image.facts().format, form.0.name());
        for call in [Call::Write, Call::Flush, Call::SetLen] {
            for nth in 0..whole.calls(call) {
                for partial in [0, 700] {
                    let fault = Fault {
                        partial,
                        ..Fault::once(call, nth, ErrorKind::StorageFull)
                    };
                    let file = Faulty::new(MemFile::new(Vec::new()), Some(fault));
                    let file = Arc::new(file);
                    let error = write(file.clone(), form, &disk).unwrap_err();
                    assert!(file.struck());
                    assert_eq!(error.kind(), Kind::DiskFull);
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 60, "{tried}");
}

#[test]
fn a_writer_that_failed_or_is_misused_finishes_nothing() {
    let fault = Fault::once(Call::Write, 0, ErrorKind::Other);
    for (format, image_type) in forms() {
        let file = Arc::new(Faulty::new(MemFile::new(Vec::new()), Some(fault)));
        let new = new_image(format, image_type, 3 * MIB);
        let end = block_size(format) - 512;
        let mut writer = format.create(file.clone(), &new).unwrap();
        assert!(writer.write(0, &[1; 512]).is_err());
        assert!(writer.write(512, &[1; 512]).is_err());
        assert!(Writer::finish(writer).is_err());
        for (offset, len) in
            [(0, 512), (end, 1024), (3 * MIB as u64 - 512, 1024), (u64::MAX, 512)]
        {
            let file = Arc::new(MemFile::new(Vec::new()));
            let mut writer = format.create(file, &new).unwrap();
            writer.write(1024, &[1; 512]).unwrap();
            let across = image_type == ImageType::Fixed && offset == end;
            assert_eq!(writer.write(offset, &vec![1; len]).is_ok(), across, "{offset}");
            assert_eq!(Writer::finish(writer).is_ok(), across);
        }
    }
}

/// At no instant is there an image that is not the whole one, even under its own name.
#[test]
fn a_power_cut_leaves_no_image_or_the_whole_one() {
    let mut noise = Noise::new(31);
    let disk = disk(&mut noise, 3 * MIB);
    let mut opened = 0;
    for form in forms() {
        let recorder = Recorder::new(Vec::new());
        write(recorder.clone(), form, &disk).unwrap();
        let ops = recorder.ops();
        assert!(matches!(ops.last(), Some(Op::Flush)), "the last thing is a flush");
        for at in 0..=ops.len() {
            // Little happens to the image before its end.
            let rounds = if at + 12 > ops.len() { 60 } else { 1 };
            for _ in 0..rounds {
                let file = state_after(&ops[..at], &mut noise);
                if let Ok(image) = image::open(Arc::new(MemFile::new(file))) {
                    assert!(content(&*image) == disk, "{form:?}, after {at} writes");
                    assert_eq!(image.facts().format, form.0.name());
                    opened += 1;
                }
            }
        }
    }
    assert!(opened > 160, "{opened}");
}

/// A state that a new file may be in: what was flushed is there, of the rest any sectors.
fn state_after(done: &[Op], noise: &mut Noise) -> Vec<u8> {
    power_cut(&Vec::new(), done, (Tear::Nowhere, Growth::Ordered), noise)
}

#[test]
fn a_full_disk_is_known_before_or_leaves_nothing() {
    let test = "a_full_disk_is_known_before_or_leaves_nothing";
    if !have(test, &["mke2fs"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let (source, vast) = (scratch.path("source.vhd"), scratch.path("vast.vhd"));
    let disk = Noise::new(4).bytes(24 * MIB);
    fs::write(&source, Shape::of_disk(&disk, 2 * MIB, true, *b"win ")).unwrap();
    made(&vast, &Options::new(Content::Dynamic { size: 2040 << 30 }));
    let image = scratch.path("fs");
    sh(&format!("truncate -s 16M {0}; mke2fs -q -F -t ext4 {0}", image.display()));
    for mount in [
        format!("again mount -o loop {}", image.display()),
        "mount -t tmpfs -o size=8m none".to_owned(),
    ] {
        let Some(mount) = Mount::new(test, &scratch, &mount) else { return };
        let target = mount.0.join("target.vhd");
        let before = names(&mount.0);
        let free = free_space(&target).unwrap();
        // A fixed image cannot even be begun.
        let error = Conversion::prepare(&source, &target, &to_fixed()).err().unwrap();
        assert_eq!(error.kind(), Kind::DiskFull, "{error:?}");
        // A dynamic one meets the end on its way.
        let report = attempt(&source, &target, &dynamic());
        assert_eq!(report.outcome, Outcome::Failed);
        let error = report.cause.unwrap();
        assert_eq!(error.kind(), Kind::DiskFull, "{error:?}");
        assert_eq!(error.path(), Some(&*target));
        assert_eq!(names(&mount.0), before);
        sh("sync");
        wait_for_room(&target, free);
        // The tables alone do not fit.
        let leave = 64 << 10;
        fs::write(mount.0.join("filler"), vec![1; (free - leave) as usize]).unwrap();
        sh("sync");
        let error = Conversion::prepare(&vast, &target, &dynamic()).err().unwrap();
        assert_eq!(error.kind(), Kind::DiskFull, "{error:?}");
    }
}

/// The largest image that was never written takes no time worth speaking of.
#[test]
fn vast_empty_disks_are_quick() {
    let scratch = Scratch::new("vast_empty_disks_are_quick");
    let (vast, target) = (scratch.path("vast.vhd"), scratch.path("target.vhd"));
    let mut options = Options::new(Content::Dynamic { size: 2040 << 30 });
    options.block_size = Some(1 << 20);
    made(&vast, &options);
    let started = Instant::now();
    let report = converted(&vast, &target, &dynamic());
    assert_eq!(report.blocks.written, 0);
    assert_eq!(report.blocks.total, 1_044_480);
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}

/// Opens a file for writing in a thread of its own, where that waits until our lease is
/// given back.
pub fn writer_comes(path: &Path) -> JoinHandle<fs::File> {
    let path = path.to_owned();
    let writer =
        std::thread::spawn(move || fs::File::options().write(true).open(path).unwrap());
    std::thread::sleep(Duration::from_millis(300));
    writer
}

#[test]
fn a_source_that_is_written_to_ends_the_conversion() {
    let scratch = Scratch::new("a_source_that_is_written_to");
    let disk = disk(&mut Noise::new(9), 12 * MIB);
    let (source, target) = (scratch.path("source.vhd"), scratch.path("target.vhd"));
    fs::write(&source, Shape::of_disk(&disk, 2 * MIB, true, *b"win ")).unwrap();
    // While it is copied, or compared.
    for phase in [Phase::Copy, Phase::VerifyAfter] {
        let mut writer = None;
        let mut last = Phase::Map;
        let report = convert::convert(&source, &target, &dynamic(), &mut |at| {
            last = at.phase;
            if at.phase == phase && at.done > 0 && writer.is_none() {
                writer = Some(writer_comes(&source));
            }
            ControlFlow::Continue(())
        });
        drop(writer.unwrap().join().unwrap());
        assert_eq!(report.outcome, Outcome::Failed);
        assert_eq!(report.cause.unwrap().kind(), Kind::InUse);
        assert_eq!(last, phase, "it went on");
        assert_eq!(names(scratch.dir()), ["source.vhd"]);
    }
}

/// Changes a byte of the file that has no name yet, in the folder of `scratch`.
fn change_unnamed(scratch: &Scratch, at: u64) {
    use std::os::unix::fs::FileExt;
    let dir = fs::canonicalize(scratch.dir()).unwrap();
    let unnamed = fs::read_dir("/proc/self/fd").unwrap().flatten().find(|entry| {
        fs::read_link(entry.path()).is_ok_and(|to| {
            to.starts_with(&dir) && to.to_string_lossy().ends_with("(deleted)")
        })
    });
    let path = unnamed.unwrap().path();
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

#[test]
fn verifying_finds_a_changed_byte_and_one_where_nothing_is() {
    let scratch = Scratch::new("convert_verify");
    let (source, target) = (scratch.path("source.vhd"), scratch.path("target.vhd"));
    let mut disk = Noise::new(9).bytes(12 * MIB);
    disk[4 * MIB..6 * MIB].fill(0);
    fs::write(&source, Shape::of_disk(&disk, 2 * MIB, true, *b"win ")).unwrap();
    // In a block that was written, in one that was left out, and in none.
    for at in [Some(11 * MIB as u64), Some(5 * MIB as u64), None] {
        let mut told = false;
        let report = convert::convert(&source, &target, &to_fixed(), &mut |progress| {
            if progress.phase == Phase::VerifyAfter && !told {
                told = true;
                at.into_iter().for_each(|at| change_unnamed(&scratch, at));
            }
            ControlFlow::Continue(())
        });
        assert!(told);
        let Some(error) = report.cause else {
            assert!(at.is_none() && report.verified.is_some());
            continue;
        };
        assert!(at.is_some(), "{error:?}");
        assert_eq!(error.kind(), Kind::Unexpected);
        assert!(error.what().contains("does not read as its source"), "{error}");
        assert_eq!(report.verified, None);
        assert_eq!(names(scratch.dir()), ["source.vhd"]);
    }
}
