//! HFS Plus against partclone and the Sleuth Kit, on volumes made here
//! (`hfsplus/maker.rs`) and by xorriso.

mod distrust;
mod maker;

use std::fs;
use std::ops::Range;
use std::path::Path;

use slimdisk::storage::{Meter, ReadAt, Section};
use slimdisk::volume::Findings;

use self::maker::{Made, PLAIN, Recipe};
use crate::end_to_end::compacted_bare;
use crate::free_map::{ddrescue_free, push, scribble, survey_as};
use crate::support::{Scratch, have, sh};

const TOOLS: &[&str] = &["partclone.hfsplus", "blkls", "fls", "icat", "fsstat"];

fn survey(volume: &dyn ReadAt) -> (Findings, Vec<Range<u64>>) {
    survey_as("hfsplus", volume)
}

fn partclone_free(image: &Path) -> Vec<Range<u64>> {
    sh(&format!(
        "rm -f {0}.map; partclone.hfsplus -D -q -s {0} -o {0}.map -L {0}.log 2>/dev/null",
        image.display()
    ));
    ddrescue_free(&fs::read_to_string(format!("{}.map", image.display())).unwrap())
}

/// What the Sleuth Kit says of each block.
fn sleuthkit_free(image: &Path, block: u64) -> Vec<Range<u64>> {
    let list = sh(&format!("blkls -f hfs -l {}", image.display()));
    let mut free = Vec::new();
    for line in list.lines() {
        if let Some(number) = line.strip_suffix("|f") {
            let start = number.parse::<u64>().unwrap() * block;
            push(&mut free, start..start + block);
        }
    }
    free
}

fn made_free(made: &Made) -> Vec<Range<u64>> {
    let mut free = Vec::new();
    for (number, _) in made.free.iter().enumerate().filter(|(_, free)| **free) {
        let start = (number * made.block) as u64;
        push(&mut free, start..start + made.block as u64);
    }
    free
}

/// The names and inodes of all files, as the Sleuth Kit lists them.
fn listed(image: &Path) -> Vec<(String, String)> {
    let list = sh(&format!("fls -f hfs -r -F -p {}", image.display()));
    list.lines()
        .filter_map(|line| {
            let (head, path) = line.split_once(":\t")?;
            let inode = head.split_whitespace().last()?;
            let name = path.rsplit('/').next()?;
            Some((name.to_owned(), inode.to_owned()))
        })
        .collect()
}

fn content(image: &Path, inode: &str) -> Vec<u8> {
    let out = format!("{}.out", image.display());
    sh(&format!("icat -f hfs {} {inode} >{out}", image.display()));
    fs::read(out).unwrap()
}

fn recipes() -> Vec<(&'static str, Recipe)> {
    let scattered = Recipe {
        block: 512,
        blocks: 50_001,
        nodes: [512, 4096],
        scattered: true,
        ..PLAIN
    };
    vec![
        ("plain", PLAIN),
        ("hfsx journaled", Recipe { signature: b"HX", journal: Some('l'), ..PLAIN }),
        ("journal of a PowerPC", Recipe { journal: Some('b'), tail: 512, ..PLAIN }),
        ("new journal", Recipe { journal: Some('i'), tail: 3072, block: 8192, ..PLAIN }),
        ("scattered", scattered.clone()),
        (
            "scattered journaled",
            Recipe { journal: Some('l'), signature: b"HX", ..scattered },
        ),
        ("64K", Recipe { block: 65_536, blocks: 1203, nodes: [1024, 8192], ..PLAIN }),
    ]
}

#[test]
fn every_layout_has_the_map_of_its_judges_and_survives_noise() {
    let test = "every_hfsplus_has_the_map_of_its_judges_and_survives_noise";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new("hfsplus-maps");
    let image = scratch.path("v");
    for (name, recipe) in recipes() {
        let mut made = recipe.make();
        let volume = Meter::new(Section::new(&made.bytes, 0..made.bytes.len() as u64));
        let (found, free) = survey(&volume);
        assert_eq!(found.untrusted, None, "{name}");
        assert_eq!(found.label.as_deref(), Some(maker::label()), "{name}");
        let kind = if recipe.signature == b"HX" { "hfsx" } else { "hfsplus" };
        assert_eq!(found.filesystem, kind, "{name}");
        assert_eq!(found.length, (recipe.block * recipe.blocks) as u64, "{name}");
        assert_eq!(free, made_free(&made), "{name}");
        assert!(free.len() > 20, "{name}");
        let read = volume.counts().bytes_read;
        assert!(read < 64 << 10, "{name}: {read} bytes read");

        fs::write(&image, &made.bytes).unwrap();
        // partclone reads no more of the allocation file than its first eight extents.
        if !recipe.scattered {
            assert_eq!(free, partclone_free(&image), "{name}");
        }
        assert_eq!(free, sleuthkit_free(&image, recipe.block as u64), "{name}");
        sh(&format!("fsstat -f hfs {} >/dev/null", image.display()));

        scribble(&mut made.bytes, &free);
        fs::write(&image, &made.bytes).unwrap();
        compare_files(&made, &image);
    }
}

/// Compares every file with what the sleuthkit reads.
fn compare_files(made: &Made, image: &Path) {
    let mut compared = 0;
    for (name, inode) in listed(image) {
        if let Some(expected) = made.files.get(&name) {
            assert!(content(image, &inode) == *expected, "{name}");
            compared += 1;
        }
    }
    assert_eq!(compared, made.files.len());
}

#[test]
fn files_are_the_same_after_compacting() {
    let test = "files_of_an_hfsplus_are_the_same_after_compacting";
    if !have(test, TOOLS) || !have(test, &["qemu-img"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let image = scratch.path("v");
    let mut made = Recipe { blocks: 5000, journal: Some('b'), ..PLAIN }.make();
    let free = made_free(&made);
    scribble(&mut made.bytes, &free);
    fs::write(&image, compacted_bare(&scratch, &made.bytes)).unwrap();
    sh(&format!("fsstat -f hfs {} >/dev/null", image.display()));
    compare_files(&made, &image);
}

/// xorriso makes a full volume, which is never written: there is hardly anything free,
/// but it is somebody else's reading of the format.
#[test]
fn a_volume_of_xorriso_has_the_map_of_its_judges() {
    let test = "an_hfsplus_of_xorriso_has_the_map_of_its_judges";
    if !have(test, TOOLS) || !have(test, &["xorriso"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let tree = scratch.path("tree");
    crate::free_map::make_tree(&tree);
    let iso = scratch.path("iso");
    sh(&format!(
        "xorriso -as mkisofs -quiet -hfsplus -V FOREIGN -o {} {} 2>/dev/null",
        iso.display(),
        tree.display()
    ));
    let disk = fs::read(&iso).unwrap();
    // The Apple partition map: big-endian entries, one a block.
    let be =
        |at: usize| u32::from_be_bytes(disk[at..at + 4].try_into().unwrap()) as usize;
    let unit = usize::from(u16::from_be_bytes([disk[2], disk[3]]));
    let entry =
        (1..8).map(|n| n * unit).find(|at| disk[at + 48..].starts_with(b"Apple_HFS"));
    let entry = entry.unwrap();
    let start = be(entry + 8) * unit;
    let volume = disk[start..start + be(entry + 12) * unit].to_vec();
    let image = scratch.path("v");
    fs::write(&image, &volume).unwrap();
    let (found, free) = survey(&volume);
    assert_eq!(found.untrusted, None);
    assert_eq!(found.label.as_deref(), Some("FOREIGN"));
    assert_eq!(free, partclone_free(&image));
    assert_eq!(free, sleuthkit_free(&image, found.unit));
}
