//! ext2, ext3 and ext4 against e2fsprogs, partclone and the kernel.
//!
//! The proof that matters is the noise test: whatever we call free is
//! overwritten, and the file system must not notice.

mod distrust;
mod journal;
mod options;

use crate::vhd_model::FileAt as _;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};

use slimdisk::storage::{HostFile, ReadAt};
use slimdisk::volume::Findings;

use crate::free_map::{push, scribble_file, survey_as};
use crate::support::{Noise, sh};

const TOOLS: &[&str] = &["mke2fs", "dumpe2fs", "debugfs", "e2fsck"];

fn survey(volume: &dyn ReadAt) -> (Findings, Vec<Range<u64>>) {
    survey_as("ext", volume)
}

fn survey_file(image: &Path) -> (Findings, Vec<Range<u64>>) {
    survey(&HostFile::open_read(image).unwrap())
}

fn trusted(image: &Path) -> Vec<Range<u64>> {
    let (found, free) = survey_file(image);
    assert_eq!(found.untrusted, None, "{}", image.display());
    free
}

fn distrusted(image: &Path) -> String {
    let (found, _) = survey_file(image);
    found.untrusted.unwrap_or_else(|| panic!("{} is trusted", image.display()))
}

/// The free ranges of the bitmaps on disk as `dumpe2fs` sees them, in bytes. It
/// does not look at the journal.
pub fn dumpe2fs_free(image: &Path) -> Vec<Range<u64>> {
    let dump = sh(&format!("dumpe2fs {} 2>/dev/null", image.display()));
    let header = |name: &str| -> Option<u64> {
        dump.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim().parse().unwrap())
    };
    let block = header("Block size:").unwrap();
    let blocks = header("Block count:").unwrap();
    // With bigalloc the numbers are those of each cluster's first block.
    let ratio = header("Cluster size:").map_or(1, |cluster| cluster / block);
    let mut free: Vec<Range<u64>> = Vec::new();
    for list in dump.lines().filter_map(|line| line.strip_prefix("  Free blocks: ")) {
        for item in list.split(", ").filter(|item| !item.is_empty()) {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let (first, last): (u64, u64) =
                (first.parse().unwrap(), last.parse().unwrap());
            let range = first * block..(last + ratio).min(blocks) * block;
            push(&mut free, range);
        }
    }
    free
}

/// The free ranges after a real replay of a copy's journal.
fn replayed_free(image: &Path) -> Vec<Range<u64>> {
    let copy = image.with_extension("replayed");
    fs::copy(image, &copy).unwrap();
    sh(&format!("e2fsck -y -E journal_only {} >/dev/null || [ $? = 1 ]", copy.display()));
    let free = dumpe2fs_free(&copy);
    fs::remove_file(&copy).unwrap();
    free
}

fn scribbled_copy(image: &Path, ranges: &[Range<u64>]) -> PathBuf {
    let copy = image.with_extension("scribbled");
    fs::copy(image, &copy).unwrap();
    scribble_file(&copy, ranges);
    copy
}

fn read_bytes(image: &Path, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    File::open(image).unwrap().read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

fn write_bytes(image: &Path, offset: u64, bytes: &[u8]) {
    File::options().write(true).open(image).unwrap().write_all_at(bytes, offset).unwrap();
}

fn flip(image: &Path, offset: u64) {
    let byte = read_bytes(image, offset, 1)[0];
    write_bytes(image, offset, &[byte ^ 0x10]);
}

/// Runs `debugfs` commands that change the image.
fn debugfs(image: &Path, commands: &str) {
    sh(&format!(
        "debugfs -w -f - {} >/dev/null 2>&1 <<'END'\n{commands}\nEND",
        image.display()
    ));
}

/// A tree of files of all sizes, some of them in folders; the names of those
/// that a test deletes start with `old`.
fn make_tree(dir: &Path) {
    let mut noise = Noise::new(3);
    fs::create_dir_all(dir.join("d/e")).unwrap();
    for number in 0..60 {
        let len = match number % 6 {
            0 => 700_000,
            1 => 37,
            2 => 4096,
            3 => 60_000,
            4 => 130_000,
            _ => noise.below(200_000) as usize,
        };
        let folder = ["", "d/", "d/e/"][number % 3];
        let name = if number % 2 == 0 { "old" } else { "new" };
        fs::write(dir.join(format!("{folder}{name}{number}")), noise.bytes(len)).unwrap();
    }
}

/// Deletes every `old` file of [`make_tree`].
fn delete_old(image: &Path) {
    let commands = (0..60).step_by(2).fold(String::new(), |mut commands, number| {
        let folder = ["", "d/", "d/e/"][number % 3];
        writeln!(commands, "rm {folder}old{number}").unwrap();
        commands
    });
    debugfs(image, &commands);
}
