//! Where no holes are punched, and stopping in between.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use slimdisk::Kind;
use slimdisk::compact::{self, Mode, Outcome, Phase, Punch, Report};
use slimdisk::image;
use slimdisk::storage::{Copied, ReadAt, Storage};

use super::{on_the_host, punching};
use crate::faults::MemFile;
use crate::support::{Noise, Scratch};
use crate::vhd_model::Shape;
use crate::vhdx::PageFile;

#[test]
fn a_host_without_holes_is_told_before_anything_is_written() {
    // A storage that does not say how it punches has no way to.
    let (_, file) = crate::vhdx_model::Shape::of_disk(&vec![1; 8 << 20], 1);
    let storage = PageFile::new(file.clone());
    for punch in [Punch::Only, Punch::Also] {
        let mut report = Report::new(Path::new("x"), Mode::Full);
        let error = compact::compact_storage(
            storage.clone(),
            &punching(Mode::Full, punch),
            &mut report,
            &mut |_| ControlFlow::Continue(()),
        )
        .unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.what().contains("no holes"), "{error}");
        assert!(storage.pages().same(0, &file, 0, file.len));
    }
}

/// A file that turns out not to become one with holes.
struct Unmarkable(Arc<PageFile>);

impl ReadAt for Unmarkable {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> slimdisk::Result<()> {
        self.0.read_at(offset, buf)
    }
}

impl Storage for Unmarkable {
    fn hole_size(&self) -> slimdisk::Result<u64> {
        Ok(4096)
    }

    fn begin_punching(&self) -> slimdisk::Result<()> {
        Err(slimdisk::Error::new(Kind::AccessDenied, "no mark"))
    }

    fn write_at(&self, offset: u64, _: &[u8]) -> slimdisk::Result<()> {
        panic!("a write at {offset}");
    }

    fn flush(&self) -> slimdisk::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> slimdisk::Result<()> {
        panic!("a length of {len}");
    }

    fn copy_within(&self, from: u64, _: u64, _: u64) -> slimdisk::Result<Copied> {
        panic!("a copy of {from}");
    }
}

/// The first thing that punching a VHDX writes is a header that says so.
#[test]
fn a_file_that_cannot_be_marked_stays_as_it_is() {
    let mut disk = vec![1; 8 << 20];
    disk[1 << 20..3 << 19].fill(0);
    let (_, file) = crate::vhdx_model::Shape::of_disk(&disk, 1);
    let storage = Arc::new(Unmarkable(PageFile::new(file)));
    let mut report = Report::new(Path::new("x"), Mode::Full);
    let error = compact::compact_storage(
        storage,
        &punching(Mode::Full, Punch::Only),
        &mut report,
        &mut |_| ControlFlow::Continue(()),
    )
    .unwrap_err();
    assert_eq!((error.kind(), error.what()), (Kind::AccessDenied, "no mark"));
    assert_eq!(report.punched_bytes, Some(0));
}

#[test]
fn only_what_lies_in_the_file_can_be_punched() {
    let shape = Shape {
        block_size: 4096,
        blocks: 4,
        order: vec![(2, 0), (0, 3)],
        aligned: false,
        spare_entries: 0,
        batmap: false,
        creator: *b"win ",
        seed: 4,
    };
    let before = shape.build(&[]);
    let file = Arc::new(MemFile::new(before.clone()));
    let mut image = image::open(file.clone()).unwrap();
    for range in [4096..4608, 0..4608, 512..1 << 40, 8192..12800] {
        let error = image.punch(&[0..512, range.clone()]).unwrap_err();
        assert_eq!(error.kind(), Kind::Unexpected, "{range:?}");
        assert!(file.bytes() == before, "{range:?}");
    }
    image.punch(&[512..1024, 8192..12288]).unwrap();
    let mut data = [9; 16384];
    image.read_at(0, &mut data).unwrap();
    assert!(data[..512] == shape.data(0)[..512] && data[512..1024] == [0; 512]);
    assert!(data[1024..4096] == shape.data(0)[1024..]);
    assert!(data[8192..12288].iter().all(|byte| *byte == 0));
}

#[test]
fn it_stops_between_ranges_and_goes_on_where_it_was() {
    let scratch = Scratch::new("punch-stopped");
    let path = scratch.path("noise.vhd");
    let mut disk = vec![0; 48 << 20];
    let mut noise = Noise::new(5);
    for at in (0..disk.len()).step_by(32 << 10) {
        disk[at..at + 5000].copy_from_slice(&noise.bytes(5000));
    }
    let file = Shape::of_disk(&disk, 2 << 20, true, *b"win ");
    fs::write(&path, &file).unwrap();
    let options = punching(Mode::Prezeroed, Punch::Only);
    let mut calls = 0;
    let report = compact::compact(&path, &options, &mut |progress| {
        assert!(progress.done <= progress.total);
        calls += u32::from(progress.phase == Phase::Punch);
        if calls == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(report.outcome, Outcome::Cancelled, "{report:?}");
    let first = report.punched_bytes.unwrap();
    assert!(first > 0 && on_the_host(&path) > 20 << 20, "{first}");
    let report = crate::end_to_end::compact(&path, &options);
    assert_eq!(report.outcome, Outcome::Punched, "{report:?}");
    assert!(report.punched_bytes.unwrap() > 0);
    assert!(fs::read(&path).unwrap() == file, "a byte differs");
    assert!(on_the_host(&path) < 14 << 20, "{}", on_the_host(&path));
}
