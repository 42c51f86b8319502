//! Conformance: images made by other programs, read as qemu reads them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use slimdisk::image::{self, Severity};
use slimdisk::storage::HostFile;

use crate::support::{Noise, Scratch, have, samples, sh, skip};

pub fn content(path: &Path) -> Vec<u8> {
    let image = image::open(Arc::new(HostFile::open_read(path).unwrap())).unwrap();
    let mut bytes = vec![9; image.len() as usize];
    image.read_at(0, &mut bytes).unwrap();
    // Holes are told truly: what next_data skips is zeros.
    let mut at = 0;
    while let Some(data) = image.next_data(at).unwrap() {
        assert!(bytes[at as usize..data.start as usize].iter().all(|b| *b == 0));
        at = data.end;
    }
    assert!(bytes[at as usize..].iter().all(|b| *b == 0));
    bytes
}

fn as_qemu(scratch: &Scratch, path: &Path) -> Vec<u8> {
    let raw = scratch.path("qemu.raw");
    let (from, to) = (path.display(), raw.display());
    sh(&format!("qemu-img convert -f vhdx -O raw {from} {to}"));
    fs::read(&raw).unwrap()
}

#[test]
fn reads_what_qemu_reads() {
    let test = "vhdx_reads_what_qemu_reads";
    if !have(test, &["qemu-img"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let (raw, path) = (scratch.path("disk.raw"), scratch.path("disk.vhdx"));
    let mut noise = Noise::new(5);
    let mut disk = vec![0u8; (40 << 20) + 512 * 7];
    for _ in 0..30 {
        let at = noise.below(39 << 20) as usize;
        let len = 1 + noise.below(100_000) as usize;
        disk[at..at + len].copy_from_slice(&noise.bytes(len));
    }
    fs::write(&raw, &disk).unwrap();
    for block_mib in [1, 2, 8, 32, 256] {
        for more in ["", ",subformat=fixed", ",block_state_zero=off", ",log_size=4194304"]
        {
            let (from, to) = (raw.display(), path.display());
            sh(&format!(
                "qemu-img convert -f raw -O vhdx -o block_size={block_mib}M{more} {from} {to}"
            ));
            let (format, found) = image::check_file(&path).unwrap();
            assert_eq!(format, "vhdx");
            assert!(found.is_empty(), "{block_mib}{more}: {found:?}");
            let ours = content(&path);
            assert!(ours == as_qemu(&scratch, &path), "{block_mib}{more}");
            assert!(ours[..disk.len()] == disk[..], "{block_mib}{more}");
        }
    }
}

pub fn unpack(scratch: &Scratch, dir: &Path, name: &str) -> PathBuf {
    let path = scratch.path(name);
    let to = path.display();
    sh(&format!("zstd -q -d -f {}/{name}.zst -o {to} && chmod 644 {to}", dir.display()));
    path
}

#[test]
fn samples_are_read_as_qemu_reads_them() {
    let test = "vhdx_samples_are_read_as_qemu_reads_them";
    let Some(dir) = samples() else {
        skip(test, "the folder of sample images");
        return;
    };
    if !have(test, &["zstd", "qemu-img"]) {
        return;
    }
    let scratch = Scratch::new(test);
    for name in [
        "ext2.vhdx",
        "fat-parent.vhdx",
        "ntfs-dynamic.vhdx",
        "ntfs-fixed.vhdx",
        "ntfs-parent.vhdx",
        "iotest-dynamic-1G.vhdx",
    ] {
        let path = unpack(&scratch, &dir, name);
        assert!(content(&path) == as_qemu(&scratch, &path), "{name}");
        let (_, found) = image::check_file(&path).unwrap();
        let sound = found.iter().all(|f| f.severity == Severity::Note);
        assert!(sound, "{name}: {found:?}");
        println!("{name}: {found:?}");
    }
}

/// A log that qemu left behind: what is read without replaying it for good is what
/// `qemu-img check -r all` makes of a copy, and so is what repairing leaves.
#[test]
fn the_dirty_sample_is_replayed_as_qemu_replays_it() {
    let test = "the_dirty_sample_is_replayed_as_qemu_replays_it";
    let Some(dir) = samples() else {
        skip(test, "the folder of sample images");
        return;
    };
    if !have(test, &["zstd", "qemu-img", "cmp"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let name = "iotest-dirtylog-10G-4M.vhdx";
    let ours = unpack(&scratch, &dir, name);
    let before = fs::read(&ours).unwrap();
    let theirs = scratch.path("theirs.vhdx");
    fs::write(&theirs, &before).unwrap();
    sh(&format!("qemu-img check -f vhdx -r all {}", theirs.display()));

    let open =
        |path: &Path| image::open(Arc::new(HostFile::open_read(path).unwrap())).unwrap();
    let (image, replayed) = (open(&ours), open(&theirs));
    assert!(image.facts().notes[0].contains("has not been replayed"));
    assert!(replayed.facts().notes.is_empty(), "{:?}", replayed.facts().notes);
    assert_eq!(image.facts().blocks_allocated, replayed.facts().blocks_allocated);
    assert!(image.facts().blocks_allocated > 0);
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for at in (0..image.len()).step_by(1 << 20) {
        let len = (image.len() - at).min(1 << 20) as usize;
        image.read_at(at, &mut a[..len]).unwrap();
        replayed.read_at(at, &mut b[..len]).unwrap();
        assert!(a[..len] == b[..len], "at {at:#x}");
    }
    drop((image, replayed));
    assert!(fs::read(&ours).unwrap() == before, "reading has written");

    let mended = image::repair_file(&ours).unwrap();
    assert_eq!(mended, ["the log was replayed"]);
    let (a, b) = (ours.display(), theirs.display());
    sh(&format!(
        "qemu-img check -f vhdx {a} && qemu-img compare -f vhdx -F vhdx {a} {b}"
    ));
    assert_eq!(fs::metadata(&ours).unwrap().len(), fs::metadata(&theirs).unwrap().len());
    let (_, found) = image::check_file(&ours).unwrap();
    assert!(found.iter().all(|f| f.severity == Severity::Note), "{found:?}");
}
