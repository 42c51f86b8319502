//! Second judges: what was compacted is read by two crates and by 7-Zip, none of which
//! shares code with the library or with qemu, as the library read it before.
//! 7-Zip refuses some sound files; what it read before, it must read after.
//!
//! The crate `rust-img-vhdx` replays logs, in the file: it gets copies. `vhdx-core` says
//! that it does and does not (0.4.1), so it sees no file with a log in use.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use slimdisk::compact::{Mode, Outcome};
use slimdisk::image::{self, Severity};
use slimdisk::storage::HostFile;

use super::compacted::pages_of;
use super::read::{content, unpack};
use crate::end_to_end::{compact, plan, quick};
use crate::support::{Noise, Scratch, have, samples, sh, skip};
use crate::vhdx_model::{LogEntry, MIB, Shape, UNMAPPED, read_strictly};

fn by_rust_img(path: &Path) -> Vec<u8> {
    let reader = img_vhdx::VhdxReader::open(path).unwrap();
    let mut bytes = vec![9; reader.virtual_size() as usize];
    reader.read_at(0, &mut bytes).unwrap();
    bytes
}

fn by_vhdx_core(path: &Path) -> Vec<u8> {
    let mut reader = vhdx::VhdxReader::open(path).unwrap();
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    bytes
}

/// `None` if it refuses the file, as it does where a disk is not whole MiB.
fn by_7zip(path: &Path) -> Option<Vec<u8>> {
    let done = Command::new("7zz").args(["e", "-tvhdx", "-so"]).arg(path).output();
    let done = done.unwrap();
    done.status.success().then_some(done.stdout)
}

#[test]
fn what_was_compacted_reads_the_same_everywhere() {
    let test = "vhdx_what_was_compacted_reads_the_same_everywhere";
    if !have(test, &["7zz"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let path = scratch.path("disk.vhdx");
    let copy = scratch.path("copy.vhdx");
    let mut noise = Noise::new(41);
    let (mut won, mut dirty, mut by_three) = (0, 0, 0);
    for round in 0..24 {
        let shape = loop {
            let shape = Shape::random(&mut noise);
            if shape.blocks < 100 {
                break shape;
            }
        };
        let zero: Vec<u32> = shape
            .order
            .iter()
            .filter(|(_, state, _)| *state == UNMAPPED || noise.below(2) == 0)
            .map(|(block, ..)| *block)
            .collect();
        let (mut file, places) = shape.build(&zero);
        let has_log = round % 3 == 0;
        if has_log {
            // The table was about to be written.
            let entry = LogEntry {
                pages: vec![(places.bat, file.get(places.bat, 4096))],
                ..LogEntry::default()
            };
            let at = noise.below(256) * 4096;
            shape.with_log(&mut file, &places, at, &[LogEntry::default(), entry]);
            file.write(places.bat, &noise.bytes(512));
            dirty += 1;
        }
        fs::write(&path, file.bytes()).unwrap();
        let disk = content(&path);
        // Before, too, with the log that it has.
        fs::copy(&path, &copy).unwrap();
        assert!(by_rust_img(&copy) == disk, "{round}, before: {shape:?}");
        // It replays no log.
        let seen_before = if has_log { None } else { by_7zip(&path) };
        let mut options = quick();
        options.mode = Mode::Prezeroed;
        let report = compact(&path, &options);
        assert_eq!(report.error, None, "{shape:?}");
        if report.outcome == Outcome::Compacted {
            won += 1;
        }
        // Even where there was nothing to win.
        assert!(!read_strictly(&pages_of(&path)).unwrap().replayed);
        let told =
            report.notes.iter().any(|note| note == "the log was replayed for good");
        assert_eq!(told, has_log, "{:?}", report.notes);
        let bytes = fs::read(&path).unwrap();
        assert!(content(&path) == disk, "{round}: {shape:?}");
        assert!(by_vhdx_core(&path) == disk, "{round}: {shape:?}");
        if let Some(before) = seen_before {
            assert!(before == disk, "{round}: {shape:?}");
            assert!(by_7zip(&path) == Some(before), "{round}: {shape:?}");
            by_three += 1;
        }
        assert!(fs::read(&path).unwrap() == bytes);
        fs::copy(&path, &copy).unwrap();
        assert!(by_rust_img(&copy) == disk, "{round}: {shape:?}");
    }
    let counts = [won, dirty, by_three];
    assert!(
        won > 12 && dirty > 6 && by_three > 5,
        "{counts:?}: compacted, with a log, read by 7-Zip"
    );
}

/// The log that qemu left behind, replayed by four: the library in memory and in the
/// file, qemu, and `rust-img-vhdx`. Beside the headers and the log the files are the
/// same to the byte. Compacted without anybody having replayed it, the disk is the same.
#[test]
fn the_dirty_sample_is_the_same_after_anybodys_replay() {
    let test = "the_dirty_sample_is_the_same_after_anybodys_replay";
    let Some(dir) = samples() else {
        skip(test, "the folder of sample images");
        return;
    };
    if !have(test, &["zstd", "qemu-img"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let name = "iotest-dirtylog-10G-4M.vhdx";
    let sample = unpack(&scratch, &dir, name);
    let copy = |name: &str| {
        let to = scratch.path(name);
        fs::copy(&sample, &to).unwrap();
        to
    };
    let [ours, qemus, crates, compacted] = ["ours", "qemus", "crates", "compacted"]
        .map(|name| copy(&format!("{name}.vhdx")));
    image::repair_file(&ours).unwrap();
    sh(&format!("qemu-img check -f vhdx -r all {}", qemus.display()));
    drop(img_vhdx::VhdxReader::open(&crates).unwrap());
    let [a, b, c] = [&ours, &qemus, &crates].map(|path| fs::read(path).unwrap());
    assert!(a != fs::read(&sample).unwrap());
    let log = {
        let image = pages_of(&sample);
        let at = u64::from_le_bytes(image.get((64 << 10) + 72, 8).try_into().unwrap());
        assert_eq!(at, MIB);
        (2 * MIB) as usize
    };
    for (number, theirs) in [&b, &c].into_iter().enumerate() {
        assert_eq!(a.len(), theirs.len(), "{number}");
        assert!(a[log..] == theirs[log..], "{number}");
        assert!(a[192 << 10..320 << 10] == theirs[192 << 10..320 << 10], "{number}");
    }

    let before = fs::read(&compacted).unwrap();
    let mut options = quick();
    options.mode = Mode::Full;
    let planned = plan(&compacted, &options);
    assert_eq!(planned.error, None);
    assert!(fs::read(&compacted).unwrap() == before);
    let report = compact(&compacted, &options);
    assert_eq!(report.error, None);
    assert_eq!(report.outcome, Outcome::Compacted, "{:?}", report.blocks);
    assert_eq!(report.file_size_after, planned.file_size_after);
    let (x, y) = (compacted.display(), qemus.display());
    sh(&format!(
        "qemu-img check -f vhdx {x} && qemu-img compare -f vhdx -F vhdx {x} {y}"
    ));
    let (_, found) = image::check_file(&compacted).unwrap();
    assert!(found.iter().all(|f| f.severity == Severity::Note), "{found:?}");
    let image = image::open(Arc::new(HostFile::open_read(&compacted).unwrap())).unwrap();
    assert!(image.facts().notes.is_empty(), "{:?}", image.facts().notes);
}
