//! Disks converted and chains flattened: judged by qemu, libvhdi, 7-Zip, a strict reader
//! of the tests' own and the guests' file systems.

mod compacted;
pub mod faults;
mod guests;
mod killed;

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use slimdisk::Kind;
use slimdisk::convert::{self, Conversion, Options, Outcome, Report};
use slimdisk::image::ImageType;
use slimdisk::storage::HostFile;

use crate::chain::{random_chain, slices, windows_chains};
use crate::chain_model::{fixed, read_chain};
use crate::new_file::names;
use crate::support::{Noise, Scratch, have, samples, sh, skip};
use crate::vhd_model::{Shape, read_strictly, set_checksum};

const MIB: usize = 1 << 20;

pub fn dynamic() -> Options {
    let mut options = Options::new(ImageType::Dynamic);
    options.verify = true;
    options
}

/// To a dynamic image, but for a change.
pub fn with(change: impl Fn(&mut Options)) -> Options {
    let mut options = dynamic();
    change(&mut options);
    options
}

pub fn to_fixed() -> Options {
    with(|options| options.image_type = ImageType::Fixed)
}

pub fn attempt(source: &Path, target: &Path, options: &Options) -> Report {
    convert::convert(source, target, options, &mut |_| ControlFlow::Continue(()))
}

/// Converts a disk, which comes out as it was planned and leaves the source alone.
pub fn converted(source: &Path, target: &Path, options: &Options) -> Report {
    let before = (fs::read(source).unwrap(), fs::metadata(source).unwrap());
    let go_on = &mut |_| ControlFlow::Continue(());
    let planned = convert::plan(source, target, options, go_on);
    assert_eq!(planned.error, None);
    assert_eq!(planned.outcome, Outcome::Planned);
    assert!(target.symlink_metadata().is_err(), "a plan made {}", target.display());
    let report = attempt(source, target, options);
    assert_eq!(report.error, None);
    assert_eq!(report.outcome, Outcome::Converted);
    assert_eq!(report.verified.is_some(), options.verify);
    assert_eq!(planned.blocks, report.blocks);
    assert_eq!(planned.file_size, report.file_size);
    assert_eq!(fs::metadata(target).unwrap().len(), report.file_size);
    let blocks = report.blocks;
    assert_eq!(
        blocks.total,
        blocks.written + blocks.left_out_free + blocks.left_out_zero
    );
    assert!(fs::read(source).unwrap() == before.0, "the source was changed");
    let modified = fs::metadata(source).unwrap().modified().unwrap();
    assert_eq!(modified, before.1.modified().unwrap());
    HostFile::open_exclusive(source).unwrap();
    HostFile::open_exclusive(target).unwrap();
    report
}

/// What qemu reads in an image.
pub fn qemu_reads(scratch: &Scratch, path: &Path) -> Vec<u8> {
    let raw = scratch.path("qemu.raw");
    let paths = format!("{} {}", path.display(), raw.display());
    sh(&format!("qemu-img convert -f vpc -O raw {paths}"));
    fs::read(raw).unwrap()
}

/// A disk of zeros, data and data among zeros.
pub fn disk(noise: &mut Noise, len: usize) -> Vec<u8> {
    let mut disk = vec![0; len];
    for start in (0..len).step_by(512 << 10) {
        let end = (start + (512 << 10)).min(len);
        match noise.below(4) {
            0 => disk[start..end].copy_from_slice(&noise.bytes(end - start)),
            1 => disk[start + noise.below((end - start) as u64) as usize] = 7,
            _ => {}
        }
    }
    disk
}

#[test]
fn disks_read_the_same_in_every_form() {
    let test = "disks_read_the_same_in_every_form";
    if !have(test, &["qemu-img"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let mut noise = Noise::new(71);
    let (source, target) = (scratch.path("source.vhd"), scratch.path("target.vhd"));
    let back = scratch.path("back.vhd");
    for (round, len) in
        [3 * MIB, 4 * MIB + 512, 16 * MIB, 9 * MIB + 1536].into_iter().enumerate()
    {
        let disk = disk(&mut noise, len);
        let forms = [
            fixed(&disk, 5),
            Shape::of_disk(&disk, 4096 << round, false, *b"win "),
            Shape::of_disk(&disk, 2 * MIB, true, *b"win "),
        ];
        for form in forms {
            // The model's disks are made of whole blocks.
            let mut disk = disk.clone();
            let size =
                u64::from_be_bytes(form[form.len() - 464..][..8].try_into().unwrap());
            disk.resize(size as usize, 0);
            fs::write(&source, &form).unwrap();
            for block_size in [512 << 10, 2 * MIB] {
                let options = with(|o| o.block_size = Some(block_size as u64));
                let report = converted(&source, &target, &options);
                let file = fs::read(&target).unwrap();
                let blocks = read_strictly(&file).unwrap();
                for (block, data) in blocks.iter().zip(disk.chunks(block_size)) {
                    // Zeros are never written, and bitmaps say that all is.
                    let zero = data.iter().all(|byte| *byte == 0);
                    assert_eq!(block.is_none(), zero);
                    if let Some(block) = block {
                        let bits = &block.bitmap[..block_size / 4096];
                        assert!(bits.iter().all(|byte| *byte == 0xFF));
                        assert!((block.place + 512) % 4096 == 0);
                    }
                }
                assert_eq!(blocks.len() as u64, report.blocks.total);
                assert!(qemu_reads(&scratch, &target) == disk);
                let options = to_fixed();
                let report = converted(&target, &back, &options);
                assert_eq!(report.file_size, disk.len() as u64 + 512);
                assert!(fs::read(&back).unwrap()[..disk.len()] == disk);
                assert!(qemu_reads(&scratch, &back) == disk);
                for path in [&target, &back] {
                    fs::remove_file(path).unwrap();
                }
            }
        }
    }
}

/// The geometry and the identity in a file.
fn geometry_and_id(path: &Path) -> ([u8; 4], [u8; 16]) {
    let file = fs::read(path).unwrap();
    let footer = &file[file.len() - 512..];
    (footer[56..60].try_into().unwrap(), footer[68..84].try_into().unwrap())
}

#[test]
fn samples_of_other_programs_convert_and_back() {
    let test = "samples_of_other_programs_convert_and_back";
    let Some(dir) = samples() else { return skip(test, "the folder of sample images") };
    if !have(test, &["zstd", "qemu-img"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let at = |name: &str| scratch.path(name);
    let mut seen = 0;
    for name in [
        "virtualpc-dynamic",
        "hyperv2012r2-dynamic",
        "ntfs-dynamic",
        "ext2",
        "ntfs-fixed",
    ] {
        let (from, source) = (dir.join(format!("{name}.vhd.zst")), at("sample.vhd"));
        sh(&format!(
            "zstd -dqf {} -o {1}; chmod 644 {1}",
            from.display(),
            source.display()
        ));
        let (there, back) = (at("there.vhd"), at("back.vhd"));
        let small = fs::metadata(&source).unwrap().len() < 64 << 20;
        // To fixed only where the disk is small.
        let virtual_size = converted(&source, &there, &dynamic()).virtual_size;
        let mut forms = vec![there.clone()];
        if small && virtual_size < 64 << 20 {
            converted(&source, &at("fixed.vhd"), &to_fixed());
            converted(&at("fixed.vhd"), &back, &dynamic());
            forms.extend([at("fixed.vhd"), back]);
            seen += 1;
        }
        for form in &forms {
            let (a, b) = (source.display(), form.display());
            let said = sh(&format!("qemu-img compare -f vpc -F vpc {a} {b}"));
            assert!(said.contains("Images are identical"), "{name}: {said}");
            let (new, old) = (geometry_and_id(form), geometry_and_id(&source));
            assert_eq!(new.0, old.0, "{name}: another geometry");
            assert!(new.1 != old.1, "{name}: the same identity");
            fs::remove_file(form).unwrap();
        }
    }
    assert!(seen >= 2, "only {seen} small samples");
}

#[test]
fn chains_made_by_windows_are_flattened() {
    let test = "chains_made_by_windows_are_flattened";
    let scratch = Scratch::new(test);
    let Some(chains) = windows_chains(test, &scratch) else { return };
    let Some(python) = crate::chain::judge::python(test) else { return };
    if !have(test, &["7zz", "qemu-img"]) {
        return;
    }
    use crate::chain::judge::{digest_of, seven_zip_digest, vhdi_digest};
    for paths in &chains {
        let expected = seven_zip_digest(&paths[0]);
        if paths[0].ends_with("ntfs-differential.vhd") {
            assert_eq!(expected, vhdi_digest(&python, paths));
        }
        let parent = fs::read(&paths[1]).unwrap();
        for mut options in [dynamic(), to_fixed()] {
            let target = scratch.path("flat.vhd");
            options.whole_chain = true;
            let report = converted(&paths[0], &target, &options);
            assert_eq!(report.parents.len(), 1);
            assert_eq!(digest_of(&qemu_reads(&scratch, &target)), expected);
            assert_eq!(vhdi_digest(&python, std::slice::from_ref(&target)), expected);
            fs::remove_file(&target).unwrap();
        }
        assert!(fs::read(&paths[1]).unwrap() == parent, "the parent was changed");
    }
}

#[test]
fn random_chains_are_flattened() {
    let scratch = Scratch::new("random_chains_are_flattened");
    let mut noise = Noise::new(73);
    for round in 0..40 {
        let depth = 2 + noise.below(4) as usize;
        let chain = random_chain(&mut noise, depth, round % 2 == 0, false);
        let mut paths: Vec<PathBuf> = Vec::new();
        for (level, file) in chain.iter().enumerate() {
            let path = scratch.path(&format!("{level}.vhd"));
            fs::write(&path, file).unwrap();
            paths.push(path);
        }
        let expected = read_chain(&slices(&chain));
        let target = scratch.path("flat.vhd");
        let mut options = if round % 3 == 0 { to_fixed() } else { dynamic() };
        options.whole_chain = true;
        let report = converted(&paths[0], &target, &options);
        assert_eq!(report.parents.len(), depth - 1);
        let file = fs::read(&target).unwrap();
        assert!(read_chain(&[&file]) == expected, "round {round}");
        fs::remove_file(&target).unwrap();
    }
}

/// A child of a fixed disk, and that disk.
fn child(scratch: &Scratch) -> (PathBuf, PathBuf) {
    let mut noise = Noise::new(3);
    let chain = loop {
        let chain = random_chain(&mut noise, 2, false, false);
        if read_strictly(&chain[0]).unwrap().iter().flatten().count() > 0 {
            break chain;
        }
    };
    let paths = (scratch.path("0.vhd"), scratch.path("1.vhd"));
    fs::write(&paths.0, &chain[0]).unwrap();
    fs::write(&paths.1, &chain[1]).unwrap();
    paths
}

#[test]
fn what_cannot_be_converted_is_refused_and_nothing_is_left() {
    let scratch = Scratch::new("what_cannot_be_converted_is_refused");
    let at = |name: &str| scratch.path(name);
    let disk = disk(&mut Noise::new(1), 4 * MIB);
    let sound = Shape::of_disk(&disk, 2 * MIB, true, *b"win ");
    let (source, target) = (at("source.vhd"), at("target.vhd"));
    fs::write(&source, &sound).unwrap();
    let mut saved = sound.clone();
    let footer_at = saved.len() - 512;
    for at in [0, footer_at] {
        saved[at + 84] = 1;
        set_checksum(&mut saved[at..at + 512], 64);
    }
    fs::write(at("saved.vhd"), &saved).unwrap();
    fs::write(at("junk.vhd"), vec![1; MIB]).unwrap();
    symlink("nowhere", at("dangling.vhd")).unwrap();
    let (child, _) = child(&scratch);
    fs::rename(at("1.vhd"), at("elsewhere.vhd")).unwrap();
    let before = names(scratch.dir());
    let refused = |source: &Path, target: &Path, options: &Options, kind: Kind| {
        let found = Conversion::prepare(source, target, options).err();
        let error = found.unwrap_or_else(|| panic!("{} was taken", source.display()));
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.path().is_some(), "{error:?}");
        let report = attempt(source, target, options);
        assert_eq!(report.outcome, Outcome::Failed);
        assert_eq!(report.cause.unwrap().kind(), kind);
        assert_eq!(names(scratch.dir()), before);
    };
    let whole = with(|o| o.whole_chain = true);
    let child_type = with(|o| o.image_type = ImageType::Differencing);
    let odd = with(|o| o.block_size = Some(1_000_000));
    for (source, target, options, kind) in [
        (&source, &target, &child_type, Kind::WrongImageType),
        (&source, &target, &whole, Kind::WrongImageType),
        (&source, &target, &odd, Kind::InvalidArgument),
        (&at("saved.vhd"), &target, &dynamic(), Kind::WrongImageType),
        (&at("junk.vhd"), &target, &dynamic(), Kind::InvalidImage),
        (&at("none.vhd"), &target, &dynamic(), Kind::NotFound),
        (&at("no/none.vhd"), &target, &dynamic(), Kind::PathNotFound),
        (&child, &target, &whole, Kind::ParentNotFound),
        (&source, &source, &dynamic(), Kind::AlreadyExists),
        (&source, &at("junk.vhd"), &to_fixed(), Kind::AlreadyExists),
        (&source, &at("dangling.vhd"), &dynamic(), Kind::AlreadyExists),
        (&source, &at("no/target.vhd"), &dynamic(), Kind::PathNotFound),
    ] {
        refused(source, target, options, kind);
    }
    let held = HostFile::open_exclusive(&source).unwrap();
    refused(&source, &target, &dynamic(), Kind::InUse);
    drop(held);
    // A parent in use, and one that is the target.
    fs::rename(at("elsewhere.vhd"), at("1.vhd")).unwrap();
    let before = names(scratch.dir());
    let parent = at("1.vhd");
    let found = Conversion::prepare(&child, &parent, &whole).err().unwrap();
    assert_eq!(found.kind(), Kind::AlreadyExists);
    let held = HostFile::open_exclusive(&parent).unwrap();
    let found = Conversion::prepare(&child, &target, &whole).err().unwrap();
    assert_eq!(found.kind(), Kind::InUse);
    assert_eq!(found.path(), Some(&*fs::canonicalize(&parent).unwrap()));
    drop(held);
    assert_eq!(names(scratch.dir()), before);
}

#[test]
fn a_request_to_stop_is_heeded_whenever_it_comes() {
    let test = "a_request_to_stop_is_heeded_whenever_it_comes";
    let scratch = Scratch::new(test);
    let disk = disk(&mut Noise::new(9), 12 * MIB);
    let (source, target) = (scratch.path("source.vhd"), scratch.path("target.vhd"));
    fs::write(&source, Shape::of_disk(&disk, 2 * MIB, true, *b"win ")).unwrap();
    let free = with(|o| (o.leave_out_free, o.image_type) = (true, ImageType::Fixed));
    for options in [dynamic(), free] {
        let mut calls = 0;
        loop {
            let mut left = calls;
            let mut reached = std::collections::BTreeMap::new();
            let report = convert::convert(&source, &target, &options, &mut |at| {
                assert!(at.done <= at.total, "{at:?}");
                let before = reached.insert(at.phase, at.done);
                assert!(before.is_none_or(|before| before <= at.done), "{at:?}");
                left -= 1;
                if left < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            if report.outcome == Outcome::Converted {
                break;
            }
            assert_eq!(report.outcome, Outcome::Cancelled, "{report:?}");
            assert_eq!(names(scratch.dir()), ["source.vhd"]);
            calls += 1;
        }
        assert!(calls > 6, "{calls}");
        fs::remove_file(&target).unwrap();
    }
}
