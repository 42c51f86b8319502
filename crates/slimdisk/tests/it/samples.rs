//! Images made by other programs: the right verdict for each.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use slimdisk::Kind;
use slimdisk::compact::{Options, Outcome, examine};
use slimdisk::image::{self, ImageType, Severity};
use slimdisk::storage::HostFile;

use crate::end_to_end::{compact, quick};
use crate::ntfs::image::{digests, mount};
use crate::support::{Noise, Scratch, have, samples, sh, skip};
use crate::vhd_model::{Shape, read_strictly};

const MIB: u64 = 1 << 20;

/// Unpacks a sample.
fn unpack(scratch: &Scratch, dir: &Path, name: &str) -> PathBuf {
    let path = scratch.path(name);
    sh(&format!(
        "zstd -q -d {0}/{name}.zst -o {1} && chmod 644 {1}",
        dir.display(),
        path.display()
    ));
    path
}

fn ready(test: &str, tools: &[&str]) -> Option<PathBuf> {
    let Some(dir) = samples() else {
        skip(test, "the folder of sample images");
        return None;
    };
    have(test, tools).then_some(dir)
}

#[test]
fn each_sample_gets_the_right_verdict() {
    let test = "each_sample_gets_the_right_verdict";
    let Some(dir) = ready(test, &["zstd"]) else { return };
    let scratch = Scratch::new(test);
    let nothing = Ok(Outcome::NothingToDo);
    let wrong = Err(Kind::WrongImageType);
    let invalid = Err(Kind::InvalidImage);
    for (name, expected) in [
        ("virtualpc-dynamic.vhd", nothing),
        ("hyperv2012r2-dynamic.vhd", nothing),
        ("ntfs-dynamic.vhd", nothing),
        ("ext2.vhd", nothing),
        ("ntfs-fixed.vhd", wrong),
        ("ntfs-parent.vhd", wrong),
        ("fat-parent.vhd", wrong),
        ("ntfs-differential.vhd", nothing),
        ("fat-differential.vhd", nothing),
        ("image.vhd", invalid),
        ("image-differential.vhd", invalid),
        ("ntfs-dynamic.vhdx", nothing),
        ("ext2.vhdx", nothing),
        ("ntfs-fixed.vhdx", wrong),
        ("ntfs-parent.vhdx", wrong),
        ("fat-parent.vhdx", wrong),
        ("ntfs-differential.vhdx", nothing),
        ("fat-differential.vhdx", nothing),
        ("iotest-dynamic-1G.vhdx", nothing),
    ] {
        let path = unpack(&scratch, &dir, name);
        let before = fs::read(&path).unwrap();
        let report = compact(&path, &quick());
        let found = report.cause.as_ref().map_or(Ok(report.outcome), |e| Err(e.kind()));
        assert_eq!(found, expected, "{name}: {report:?}");
        assert!(fs::read(&path).unwrap() == before, "{name} was changed");

        let (format, findings) = image::check_file(&path).unwrap();
        assert!(name.ends_with(&format!(".{format}")), "{name}: {format}");
        let worst = findings.iter().map(|f| f.severity).max().unwrap_or(Severity::Note);
        let sound = worst == Severity::Note;
        assert_eq!(sound, expected != invalid, "{name}: {findings:?}");
    }
}

/// What the guest reads, holes left out.
fn digest(path: &Path) -> blake3::Hash {
    let image = image::open(Arc::new(HostFile::open_read(path).unwrap())).unwrap();
    let mut hasher = blake3::Hasher::new();
    let mut buf = vec![0; 1 << 20];
    let mut at = 0;
    while let Some(found) = image.next_data(at).unwrap() {
        let end = found.end.min((found.start / MIB + 1) * MIB);
        let read = &mut buf[..(end - found.start) as usize];
        image.read_at(found.start, read).unwrap();
        if read.iter().any(|byte| *byte != 0) {
            hasher.update(&found.start.to_le_bytes()).update(read);
        }
        at = end;
    }
    hasher.finalize()
}

/// A sample that cannot stay as it is: its log is replayed for good, and room between its
/// blocks is won.
#[test]
fn the_sample_with_a_log_reads_the_same() {
    let test = "the_sample_with_a_log_reads_the_same";
    let Some(dir) = ready(test, &["zstd", "qemu-img"]) else { return };
    let scratch = Scratch::new(test);
    let path = unpack(&scratch, &dir, "iotest-dirtylog-10G-4M.vhdx");
    let (_, findings) = image::check_file(&path).unwrap();
    assert!(findings.iter().all(|f| f.severity == Severity::Note), "{findings:?}");
    assert!(findings.iter().any(|f| f.to_string().contains("has not been replayed")));
    let (before, theirs) = (digest(&path), scratch.path("theirs.vhdx"));
    fs::copy(&path, &theirs).unwrap();
    let report = compact(&path, &quick());
    assert_eq!((report.error, report.outcome), (None, Outcome::Compacted));
    assert_eq!((report.blocks.released_free, report.blocks.released_zero), (0, 0));
    assert!(report.blocks.moved > 0 && report.file_size_after < report.file_size_before);
    assert!(digest(&path) == before);
    let (ours, theirs) = (path.display(), theirs.display());
    sh(&format!(
        "qemu-img check -q -f vhdx -r all {theirs}
         qemu-img check -q -f vhdx {ours}
         qemu-img compare -q -f vhdx -F vhdx {ours} {theirs}"
    ));
}

#[test]
fn children_name_their_parents() {
    let test = "children_name_their_parents";
    let Some(dir) = ready(test, &["zstd"]) else { return };
    let scratch = Scratch::new(test);
    for kind in ["ntfs", "fat"] {
        let path = unpack(&scratch, &dir, &format!("{kind}-differential.vhd"));
        let hook = &mut |_| ControlFlow::Continue(());
        let found = examine(&path, &Options::default(), false, hook).unwrap().unwrap();
        assert_eq!(found.facts.image_type, ImageType::Differencing);
        let parent = found.facts.parent.unwrap();
        assert!(parent.ends_with(&format!("\\{kind}-parent.vhd")), "{parent}");
        assert!(found.survey.is_none());
        assert_eq!(found.parents_error.unwrap().kind(), Kind::ParentNotFound);
    }
}

/// A volume that Windows formatted and wrote, as it is and with old data in its
/// free space, in blocks small enough to lose some.
#[test]
fn a_volume_made_by_windows_keeps_every_file() {
    let test = "a_volume_made_by_windows_keeps_every_file";
    let tools = ["zstd", "qemu-img", "ntfs-3g", "ntfsfix"];
    let Some(dir) = ready(test, &tools) else { return };
    let scratch = Scratch::new(test);
    let sample = unpack(&scratch, &dir, "ntfs-dynamic.vhd");
    let raw = scratch.path("disk.raw");
    let to_raw = |from: &Path| {
        sh(&format!(
            "qemu-img convert -f vpc -O raw {} {}",
            from.display(),
            raw.display()
        ));
        fs::read(&raw).unwrap()
    };
    // The partition begins at 64 KiB and ends before the disk does.
    let at = 65_536..65_536 + 3_080_192;
    let volume = scratch.path("volume");
    let files = |disk: &[u8]| {
        fs::write(&volume, &disk[at.clone()]).unwrap();
        sh(&format!("ntfsfix -n {}", volume.display()));
        digests(&mount(&volume, ",ro").dir)
    };

    // As it is: nothing to win, and nothing changes.
    let disk = to_raw(&sample);
    assert_eq!(disk[at.start + 3..at.start + 7], *b"NTFS");
    let all = files(&disk);
    assert!(!all.is_empty());
    compact(&sample, &quick());
    assert!(files(&to_raw(&sample)) == all);

    // With old data in its free space.
    {
        let mounted = mount(&volume, "");
        fs::write(mounted.dir.join("stale"), Noise::new(8).bytes(180_000)).unwrap();
    }
    fs::remove_file(mount(&volume, "").dir.join("stale")).unwrap();
    let mut disk = disk;
    disk[at.clone()].copy_from_slice(&fs::read(&volume).unwrap());
    let small = scratch.path("small.vhd");
    fs::write(&small, Shape::of_disk(&disk, 16 << 10, true, *b"win ")).unwrap();
    let report = compact(&small, &quick());
    assert_eq!(report.outcome, Outcome::Compacted, "{report:?}");
    assert!(report.blocks.released_free > 0);
    read_strictly(&fs::read(&small).unwrap()).unwrap();
    assert!(files(&to_raw(&small)) == all);
}

#[test]
fn other_formats_are_not_taken_for_one_that_is_known() {
    let test = "other_formats_are_not_taken_for_one_that_is_known";
    let Some(dir) = ready(test, &["zstd"]) else { return };
    let scratch = Scratch::new(test);
    for name in ["ext2.vmdk", "ext2.qcow2"] {
        let path = unpack(&scratch, &dir, name);
        let error = image::check_file(&path).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidImage, "{name}: {error}");
    }
}
