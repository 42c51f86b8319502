//! Merged chains, judged by other people's programs.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use slimdisk::image::ImageType;
use slimdisk::image::parent::ParentLookup;
use slimdisk::merge::{Merging, Options, Outcome};

use super::crash::{is_disputed, random_case, with_either_footer};
use super::{Files, long_ago};
use crate::chain::judge::{digest_of, python, seven_zip_digest, vhdi_digest};
use crate::chain::{content, open, windows_chains};
use crate::chain_model::{Child, id_in};
use crate::support::{Noise, Scratch, have, sh};
use crate::vhd_model::Shape;

/// The SHA-256 of a disk that has no parent, as qemu reads it.
fn qemu_digest(path: &Path) -> String {
    let raw = path.with_extension("qemu");
    sh(&format!("qemu-img convert -f vpc -O raw {} {}", path.display(), raw.display()));
    let digest = digest_of(&fs::read(&raw).unwrap());
    fs::remove_file(raw).unwrap();
    digest
}

#[test]
fn other_programs_read_the_parent_as_they_read_the_child() {
    let test = "other_programs_read_the_parent_as_they_read_the_child";
    if !have(test, &["7zz", "qemu-img"]) {
        return;
    }
    let mut noise = Noise::new(61);
    let (mut judged, mut kinds) = (0, [0; 5]);
    while judged < 24 {
        let chain = random_case(&mut noise);
        let kind = chain[1][chain[1].len() - 512 + 63] as usize;
        // 7-Zip reads no table that is longer than the disk needs.
        let spare = chain[1..].iter().any(|file| {
            let entries = u32::from_be_bytes(file[540..544].try_into().unwrap());
            file[512..520] == *b"cxsparse" && entries >= 200
        });
        let damaged = with_either_footer(&chain[1]).unwrap() != chain[1];
        // And calls data that was never written, by its bit, an error.
        // And refuses disks that end in the middle of a block.
        let footer = &chain[0][chain[0].len() - 512..];
        let size = u64::from_be_bytes(footer[48..56].try_into().unwrap());
        let spare = spare || !size.is_multiple_of(65536);
        if damaged || spare || is_disputed(&chain[1..]) || kinds[kind] > 9 {
            continue;
        }
        let files = Files::new(&format!("judged-{judged}"), &chain);
        let before = digest_of(&files.disk);
        assert_eq!(seven_zip_digest(&files.paths[0]), before, "before");
        files.complete();
        assert_eq!(seven_zip_digest(&files.paths[0]), before, "the child after");
        assert_eq!(seven_zip_digest(&files.paths[1]), before, "the parent after");
        if kind != 4 {
            assert_eq!(qemu_digest(&files.paths[1]), before, "{kind}");
        }
        kinds[kind] += 1;
        judged += 1;
    }
    assert!(kinds[2..].iter().all(|n| *n > 2), "{kinds:?}");
}

#[test]
fn chains_made_by_windows_are_merged() {
    let test = "chains_made_by_windows_are_merged";
    let scratch = Scratch::new(test);
    let Some(chains) = windows_chains(test, &scratch) else { return };
    let Some(python) = python(test) else { return };
    if !have(test, &["7zz", "qemu-img"]) {
        return;
    }
    for paths in &chains {
        let child = fs::read(&paths[0]).unwrap();
        let parent = fs::read(&paths[1]).unwrap();
        let image = open(&paths[0], &ParentLookup::default()).unwrap();
        let before = digest_of(&content(&*image));
        drop(image);
        assert_eq!(seven_zip_digest(&paths[0]), before);
        assert_ne!(seven_zip_digest(&paths[1]), before);
        let mut options = Options::default();
        options.verify = true;
        let go_on = &mut |_| ControlFlow::Continue(());
        let report = Merging::prepare(&paths[0], &options).unwrap().run(go_on);
        assert_eq!(report.outcome, Outcome::Merged, "{report:?}");
        assert!(report.verified.is_some() && report.bytes_merged > 0);
        assert_eq!(report.image_type, Some(ImageType::Fixed));
        assert!(fs::read(&paths[0]).unwrap() == child);
        // The parent alone, to everybody; its footer is as it was.
        let merged = fs::read(&paths[1]).unwrap();
        assert_eq!(merged.len(), parent.len());
        assert!(merged[merged.len() - 512..] == parent[parent.len() - 512..]);
        assert_eq!(seven_zip_digest(&paths[1]), before);
        assert_eq!(seven_zip_digest(&paths[0]), before);
        assert_eq!(vhdi_digest(&python, &paths[1..]), before);
        assert_eq!(qemu_digest(&paths[1]), before);
    }
}

/// A guest with ext4: its files are made in the parent; in the child some go, others
/// come.
struct Guest {
    base: Vec<u8>,
    disk: Vec<u8>,
    names: Vec<(String, PathBuf)>,
}

fn guest(scratch: &Scratch) -> Guest {
    let mut noise = Noise::new(62);
    let pool = scratch.path("pool");
    fs::create_dir_all(&pool).unwrap();
    let mut names = Vec::new();
    for number in 0..16 {
        let path = pool.join(format!("old{number}"));
        fs::write(&path, noise.bytes(200_000 + 10_000 * number)).unwrap();
        if number >= 8 {
            names.push((format!("old{number}"), path));
        }
    }
    let raw = scratch.path("raw");
    sh(&format!("mke2fs -q -F -t ext4 -d {} {} 24M", pool.display(), raw.display()));
    let base = fs::read(&raw).unwrap();
    let mut script: Vec<String> = (0..8).map(|n| format!("rm old{n}")).collect();
    for number in 0..14 {
        let path = scratch.path(&format!("new{number}"));
        fs::write(&path, noise.bytes(300_000 + 7_000 * number)).unwrap();
        script.push(format!("write {} new{number}", path.display()));
        names.push((format!("new{number}"), path));
    }
    let lines = script.join("\n");
    let raw = raw.display();
    sh(&format!("debugfs -w -f - {raw} >/dev/null 2>&1 <<'END'\n{lines}\nEND"));
    sh(&format!("e2fsck -fn {raw} >/dev/null 2>&1"));
    Guest { base, disk: fs::read(scratch.path("raw")).unwrap(), names }
}

#[test]
fn a_guests_files_are_in_the_parent_alone() {
    let test = "a_guests_files_are_in_the_parent_alone";
    if !have(test, &["mke2fs", "debugfs", "e2fsck", "qemu-img", "7zz"]) {
        return;
    }
    let Some(python) = python(test) else { return };
    let scratch = Scratch::new(test);
    let guest = guest(&scratch);
    for (child_block, parent_block) in
        [(512 << 10, 2 << 20), (2 << 20, 512 << 10), (65536, 65536)]
    {
        let parent = Shape::of_disk(&guest.base, parent_block, true, *b"win ");
        let child = child_of(&guest, &parent, child_block);
        let files = Files::new(&format!("guest-{child_block}"), &[child, parent.clone()]);
        assert!(files.disk == guest.disk);
        let before = digest_of(&guest.disk);
        let report = files.complete();
        assert!(report.blocks_added > 0 && report.bytes_merged > 1 << 20, "{report:?}");
        let parent = &files.paths[1];
        assert_eq!(seven_zip_digest(parent), before);
        assert_eq!(vhdi_digest(&python, &files.paths[1..]), before);
        assert_eq!(qemu_digest(parent), before);
        assert!(files.modified() > long_ago());

        let raw = scratch.path("merged.raw");
        sh(&format!(
            "qemu-img convert -f vpc -O raw {} {raw} && e2fsck -fn {raw} 2>&1",
            parent.display(),
            raw = raw.display()
        ));
        for (name, original) in &guest.names {
            let dumped = scratch.path("dumped");
            sh(&format!(
                "debugfs -R 'dump {name} {}' {} 2>/dev/null",
                dumped.display(),
                raw.display()
            ));
            assert!(fs::read(dumped).unwrap() == fs::read(original).unwrap(), "{name}");
        }
    }
}

/// A child that holds each sector in which the two disks differ.
fn child_of(guest: &Guest, parent: &[u8], block_size: usize) -> Vec<u8> {
    let Guest { base, disk, .. } = guest;
    let blocks = disk.len().div_ceil(block_size);
    let mut bits = vec![vec![0u8; block_size / 512 / 8]; blocks];
    for sector in 0..disk.len() / 512 {
        let range = sector * 512..(sector + 1) * 512;
        if base[range.clone()] != disk[range] {
            let within = sector % (block_size / 512);
            bits[sector * 512 / block_size][within / 8] |= 0x80 >> (within % 8);
        }
    }
    let there = |block: &usize| bits[*block].iter().any(|byte| *byte != 0);
    let shape = Shape {
        block_size,
        blocks: blocks as u32,
        order: (0..blocks).filter(there).map(|block| (block as u32, 0)).collect(),
        aligned: true,
        spare_entries: 0,
        batmap: false,
        creator: *b"win ",
        seed: 3,
    };
    let data = |block: u32| {
        let at = block as usize * block_size;
        let mut data = disk[at..disk.len().min(at + block_size)].to_vec();
        data.resize(block_size, 0);
        data
    };
    Child::new(shape, id_in(parent), "parent.vhd")
        .build(|block| bits[block as usize].clone(), data)
}
