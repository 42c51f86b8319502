//! F2FS against dump.f2fs, partclone and fsck.f2fs. Few kernels of test machines mount
//! it, so nothing here does.

mod distrust;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use slimdisk::storage::{HostFile, Meter, ReadAt};
use slimdisk::volume::Findings;

use crate::end_to_end::compacted_bare;
use crate::free_map::{
    ddrescue_free, make_tree, push, scribble, scribble_file, survey_as,
};
use crate::support::{Scratch, have, sh};

const TOOLS: &[&str] =
    &["mkfs.f2fs", "sload.f2fs", "dump.f2fs", "fsck.f2fs", "partclone.f2fs"];

const BLOCK: usize = 4096;

fn survey(volume: &dyn ReadAt) -> (Findings, Vec<Range<u64>>) {
    survey_as("f2fs", volume)
}

fn le(bytes: &[u8], at: usize, n: usize) -> usize {
    bytes[at..at + n].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

/// The free ranges, from the bitmaps that `dump.f2fs` prints.
fn dumped_free(image: &Path, scratch: &Scratch) -> Vec<Range<u64>> {
    sh(&format!(
        "cd {}; rm -f dump_sit; dump.f2fs -s 0~-1 {} >/dev/null",
        scratch.dir().display(),
        image.display()
    ));
    let mut head = vec![0; 4096];
    HostFile::open_read(image).unwrap().read_at(0, &mut head).unwrap();
    let main = le(&head, 1024 + 92, 4);
    let dump = fs::read_to_string(scratch.path("dump_sit")).unwrap();
    let mut maps: Vec<Vec<u8>> = Vec::new();
    for line in dump.lines() {
        if line.starts_with("segno:") {
            maps.push(Vec::new());
        } else if line.starts_with("  ") {
            let bytes = line.split_whitespace().map(|hex| u8::from_str_radix(hex, 16));
            maps.last_mut().unwrap().extend(bytes.map(Result::unwrap));
        }
    }
    assert_eq!(maps.len(), le(&head, 1024 + 68, 4), "segments");
    let mut free = Vec::new();
    for (segment, map) in maps.iter().enumerate() {
        assert!(map.is_empty() || map.len() == 64);
        for block in 0..512 {
            let used = !map.is_empty() && map[block / 8] >> (7 - block % 8) & 1 == 1;
            if !used {
                let start = ((main + segment * 512 + block) * BLOCK) as u64;
                push(&mut free, start..start + BLOCK as u64);
            }
        }
    }
    free
}

fn partclone_free(image: &Path) -> Vec<Range<u64>> {
    sh(&format!(
        "rm -f {0}.map; partclone.f2fs -D -q -s {0} -o {0}.map -L {0}.log 2>/dev/null",
        image.display()
    ));
    ddrescue_free(&fs::read_to_string(format!("{}.map", image.display())).unwrap())
}

/// All files but empty ones, by name, as `dump.f2fs` reads them.
fn files(image: &Path, scratch: &Scratch) -> BTreeMap<String, Vec<u8>> {
    let out = scratch.path("read");
    let _ = fs::remove_dir_all(&out);
    fs::create_dir_all(&out).unwrap();
    sh(&format!(
        "cd {out}; fsck.f2fs -t {image} | sed -n 's/.*<ino = 0x\\([0-9a-f]*\\)>.*/\\1/p' |
         while read -r ino; do
             printf 'y\\ny\\n' | dump.f2fs -i $((16#$ino)) {image} >/dev/null 2>&1 || true
         done",
        out = out.display(),
        image = image.display(),
    ));
    fs::read_dir(out.join("lost_found"))
        .unwrap()
        .map(|file| file.unwrap())
        .filter(|file| file.file_type().unwrap().is_file())
        .map(|file| {
            let name = file.file_name().into_string().unwrap();
            (name, fs::read(file.path()).unwrap())
        })
        .filter(|(_, content)| !content.is_empty())
        .collect()
}

fn source_files(dir: &Path, into: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
        if entry.file_type().unwrap().is_dir() {
            source_files(&entry.path(), into);
        } else if entry.metadata().unwrap().len() > 0 {
            let name = entry.file_name().into_string().unwrap();
            into.insert(name, fs::read(entry.path()).unwrap());
        }
    }
}

fn check(image: &Path) {
    let found = sh(&format!("fsck.f2fs --dry-run {} 2>&1", image.display()));
    assert!(!found.contains("[Fail]") && !found.contains("[ASSERT]"), "{found}");
    assert!(found.contains("valid_block_count matching with CP"), "{found}");
}

/// Holds the map to the judges', and what is called free to its word.
fn judge(
    name: &str,
    image: &Path,
    scratch: &Scratch,
) -> (Vec<Range<u64>>, BTreeMap<String, Vec<u8>>) {
    let volume = Meter::new(HostFile::open_read(image).unwrap());
    let (found, free) = survey(&volume);
    assert_eq!(found.untrusted, None, "{name}");
    assert_eq!((found.filesystem.as_str(), found.unit), ("f2fs", 4096));
    let read = volume.counts().bytes_read;
    assert!(read < 256 << 10, "{name}: {read} bytes read");
    assert_eq!(free, dumped_free(image, scratch), "{name}");
    // partclone finds no checkpoint where the node address table is large.
    if name != "large-nat" {
        assert_eq!(free, partclone_free(image), "{name}");
    }
    check(image);
    let before = files(image, scratch);
    scribble_file(image, &free);
    check(image);
    let after = files(image, scratch);
    assert!(after == before, "{name}: a file has changed");
    (free, after)
}

/// A name, the options of `mkfs.f2fs`, those of `sload.f2fs` and what comes then.
const OPTIONS: &[(&str, &str, &str, &str)] = &[
    ("default", "", "", ""),
    (
        "features",
        "-l Straße -O encrypt,extra_attr,project_quota,inode_checksum,\
         quota,inode_crtime,lost_found,verity,sb_checksum",
        "",
        "",
    ),
    ("sections", "-s 2 -z 2 -w 4096", "", ""),
    ("large-nat", "-i -O extra_attr,sb_checksum", "", ""),
    ("casefold", "-o 20 -O casefold -C utf8", "", ""),
    ("compressed", "-O extra_attr,compression", "-T 1", ""),
    ("checked", "", "", "cp $v $v.raw; fsck.f2fs -f $v"),
];

/// Makes a volume with the tree in it.
fn make(scratch: &Scratch, name: &str, options: &str, load: &str, then: &str) -> PathBuf {
    let image = scratch.path(name);
    let tree = scratch.path("tree");
    if !tree.exists() {
        make_tree(&tree);
        // Something that compresses, and that needs more than direct nodes.
        let text = "f2fs writes a log \n".repeat(230_000);
        fs::write(tree.join("late/long.txt"), &text).unwrap();
    }
    sh(&format!(
        "v={}; export LC_ALL=C.UTF-8; rm -f $v; truncate -s 112M $v
         {{ mkfs.f2fs -q {options} $v; sload.f2fs {load} -f {} $v; {then}
         }} >$v.log 2>&1 || {{ cat $v.log; exit 1; }}",
        image.display(),
        tree.display(),
    ));
    image
}

#[test]
fn every_layout_has_the_map_of_its_judges_and_survives_noise() {
    let test = "every_f2fs_has_the_map_of_its_judges_and_survives_noise";
    if !have(test, TOOLS) || !have(test, &["resize.f2fs"]) {
        return;
    }
    let scratch = Scratch::new("f2fs-maps");
    let mut source = BTreeMap::new();
    for (name, options, load, then) in OPTIONS {
        let image = make(&scratch, name, options, load, then);
        if source.is_empty() {
            source_files(&scratch.path("tree"), &mut source);
            // What lies in the inode, dump.f2fs cannot read where that has extra
            // attributes.
            source.retain(|_, content| content.len() > 3500);
            assert!(source.len() > 20);
        }
        let (free, mut read) = judge(name, &image, &scratch);
        assert!(free.len() > 3, "{name}: {free:?}");
        read.retain(|name, _| source.contains_key(name));
        assert!(read == source, "{name}");
        let found = survey(&HostFile::open_read(&image).unwrap()).0;
        let label = options.strip_prefix("-l ").map(|_| "Straße");
        assert_eq!(found.label.as_deref(), label, "{name}");
        fs::remove_file(image).unwrap();
    }
    // resize.f2fs leaves one of the two checkpoints behind as it was.
    let image = scratch.path("checked.raw");
    sh(&format!("truncate -s 160M {0}; resize.f2fs {0}", image.display()));
    let reason = survey(&HostFile::open_read(&image).unwrap()).0.untrusted.unwrap();
    assert!(reason.contains("a checkpoint does not match its checksum"), "{reason}");
    // As it comes from mkfs, with compacted summaries; sload cannot fill the second.
    for options in ["", "-O extra_attr,flexible_inline_xattr"] {
        let image = scratch.path("fresh");
        sh(&format!(
            "rm -f {0}; truncate -s 112M {0}; mkfs.f2fs -q {options} {0}",
            image.display()
        ));
        let (found, free) = survey(&HostFile::open_read(&image).unwrap());
        assert_eq!(found.untrusted, None);
        assert_eq!(free, dumped_free(&image, &scratch));
        assert_eq!(free, partclone_free(&image));
    }
}

#[test]
fn files_are_the_same_after_compacting() {
    let test = "files_of_an_f2fs_are_the_same_after_compacting";
    if !have(test, TOOLS) || !have(test, &["qemu-img"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let mut bytes = make_sound(&scratch);
    let (_, free) = survey(&bytes);
    scribble(&mut bytes, &free);
    let image = scratch.path("compacted");
    fs::write(&image, &bytes).unwrap();
    let before = files(&image, &scratch);
    assert!(before.len() > 10, "{}", before.len());
    fs::write(&image, compacted_bare(&scratch, &bytes)).unwrap();
    check(&image);
    assert!(files(&image, &scratch) == before, "a file has changed");
}

/// A volume with files in it.
fn make_sound(scratch: &Scratch) -> Vec<u8> {
    let (image, tree) = (scratch.path("sound"), scratch.path("tree"));
    make_tree(&tree);
    sh(&format!(
        "truncate -s 112M {0}
         mkfs.f2fs -q -l sound -O extra_attr,inode_checksum,sb_checksum,inode_crtime {0}
         sload.f2fs -f {1}/first {0} >/dev/null",
        image.display(),
        tree.display()
    ));
    fs::read(image).unwrap()
}

#[test]
fn large_volume_is_streamed() {
    let test = "large_f2fs_volume_is_streamed";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let image = scratch.path("v");
    sh(&format!("truncate -s 100G {0}; mkfs.f2fs -q -t 0 {0}", image.display()));
    let volume = Meter::new(HostFile::open_read(&image).unwrap());
    let (found, free) = survey(&volume);
    assert_eq!(found.untrusted, None);
    assert_eq!(free, dumped_free(&image, &scratch));
    let table = found.free_bytes / (2 << 20) / 55 * 4096;
    let read = volume.counts().bytes_read;
    assert!(read < table * 5 / 4 + (64 << 10), "{read} for {table}");
}
