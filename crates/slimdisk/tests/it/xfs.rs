//! XFS against xfsprogs, partclone and the kernel.
//!
//! `xfs_db`, partclone and the kernel count the blocks of the AGFL (set aside for
//! B+trees) as free; here they are in use, so they are taken off.

mod damage;
mod dirty;
mod distrust;
mod log;
mod options;
mod trees;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use slimdisk::storage::{HostFile, ReadAt};
use slimdisk::volume::Findings;

use crate::free_map::{make_tree, push, scribble_file, survey_as};
use crate::support::{Scratch, sh};

const TOOLS: &[&str] = &["mkfs.xfs", "xfs_db", "xfs_repair", "xfs_io", "xfs_logprint"];

/// Lets mkfs.xfs make what is smaller than 300 MiB.
const SMALL: &str = "export TEST_DIR=/ TEST_DEV=/ QA_CHECK_FS=/";

fn survey(volume: &dyn ReadAt) -> (Findings, Vec<Range<u64>>) {
    survey_as("xfs", volume)
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

fn mkfs(image: &Path, size: &str, options: &str) {
    sh(&format!(
        "{SMALL}; rm -f {0}; truncate -s {size} {0}
         mkfs.xfs -q {options} {0} >/dev/null 2>{0}.log || {{ cat {0}.log >&2; exit 1; }}
         rm {0}.log",
        image.display()
    ));
}

/// Runs `script` with the volume mounted at `$m` from the loop device `$loop`.
fn mounted(image: &Path, options: &str, script: &str) -> String {
    sh(&format!(
        "v={v}; m=$v.mnt; mkdir -p $m
         loop=$(again losetup -f --show $v)
         trap 'cd /; again umount $m || true; losetup -d $loop' EXIT
         mount -t xfs -o nouuid{options} $loop $m
         {script}",
        v = image.display()
    ))
}

/// The tree of [`make_tree`], once for a scratch folder.
fn tree(scratch: &Scratch) -> PathBuf {
    let tree = scratch.path("tree");
    if !tree.exists() {
        make_tree(&tree);
    }
    tree
}

/// Makes a volume with the tree in it, half of it deleted and something added.
fn make(scratch: &Scratch, name: &str, size: &str, options: &str) -> PathBuf {
    let image = scratch.path(name);
    mkfs(&image, size, options);
    let script = format!(
        "cp -r {t}/first/* $m/; sync -f $m; find $m -name 'old*' -delete
         cp -r {t}/late $m/",
        t = tree(scratch).display()
    );
    mounted(&image, "", &script);
    image
}

/// Compares the files of a volume mounted at `$m` with those that [`make`] left.
fn compare_script(scratch: &Scratch) -> String {
    format!(
        "t={}; rm -rf $t.expected; cp -r $t/first $t.expected
         cp -r $t/late $t.expected/; find $t.expected -name 'old*' -delete
         diff -r $t.expected $m",
        tree(scratch).display()
    )
}

/// The numbers after the first `=` of `xfs_db` output, one a line.
fn xfs_db(image: &Path, commands: &[&str]) -> Vec<u64> {
    let commands: String = commands.iter().map(|c| format!(" -c '{c}'")).collect();
    sh(&format!("xfs_db -r {commands} {}", image.display()))
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .map(|(_, value)| match value.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).unwrap(),
            None => value.trim().parse().unwrap_or(u64::MAX),
        })
        .collect()
}

struct Geometry {
    block: u64,
    ag_blocks: u64,
    ag_count: u64,
    blocks: u64,
}

fn geometry(image: &Path) -> Geometry {
    let fields = ["sb 0", "p blocksize", "p agblocks", "p agcount", "p dblocks"];
    let [block, ag_blocks, ag_count, blocks] = xfs_db(image, &fields)[..] else {
        panic!("no superblock")
    };
    Geometry { block, ag_blocks, ag_count, blocks }
}

/// The blocks that the AGFLs set aside, by `xfs_db`.
fn set_aside(image: &Path, geometry: &Geometry) -> Vec<u64> {
    let commands: String = (0..geometry.ag_count)
        .map(|n| {
            format!(
                " -c 'agf {n}' -c 'p flfirst' -c 'p flcount' -c 'agfl {n}' -c 'p bno'"
            )
        })
        .collect();
    let text = sh(&format!("xfs_db -r {commands} {}", image.display()));
    let values: Vec<&str> =
        text.lines().filter_map(|line| line.split_once(" = ")).map(|(_, v)| v).collect();
    let mut blocks = Vec::new();
    for (group, fields) in (0..).zip(values.chunks(3)) {
        let [first, count] = [0, 1].map(|field| fields[field].parse::<usize>().unwrap());
        let list: Vec<&str> = fields[2]
            .split_whitespace()
            .filter_map(|item| item.split_once(':'))
            .map(|(_, block)| block)
            .collect();
        let used = list.iter().cycle().skip(first).take(count);
        blocks
            .extend(used.map(|b| group * geometry.ag_blocks + b.parse::<u64>().unwrap()));
    }
    assert!(!blocks.is_empty(), "no blocks set aside, which should be taken off");
    blocks.sort_unstable();
    blocks
}

/// Takes blocks, in ascending order, off free ranges.
fn without(free: Vec<Range<u64>>, blocks: &[u64], size: u64) -> Vec<Range<u64>> {
    let mut rest = Vec::new();
    for mut range in free {
        let first = blocks.partition_point(|block| (block + 1) * size <= range.start);
        for block in blocks.iter().skip(first).take_while(|b| *b * size < range.end) {
            if range.start < block * size {
                push(&mut rest, range.start..block * size);
            }
            range.start = (block + 1) * size;
        }
        if range.start < range.end {
            push(&mut rest, range);
        }
    }
    rest
}

/// The free ranges by `xfs_db`, without the blocks set aside.
fn xfs_db_free(image: &Path) -> Vec<Range<u64>> {
    let geometry = geometry(image);
    let dump = sh(&format!("xfs_db -r -c 'freesp -d' {}", image.display()));
    let mut ranges = Vec::new();
    for line in dump.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [group, block, length] = fields[..] else { continue };
        let Ok(group) = group.parse::<u64>() else { continue };
        let first = group * geometry.ag_blocks + block.parse::<u64>().unwrap();
        let end = first + length.parse::<u64>().unwrap();
        ranges.push(first * geometry.block..end * geometry.block);
    }
    ranges.sort_unstable_by_key(|range| range.start);
    let mut free = Vec::new();
    for range in ranges {
        push(&mut free, range);
    }
    without(free, &set_aside(image, &geometry), geometry.block)
}

fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// A copy with noise in `free`, which `xfs_repair` finds nothing wrong with.
fn noisy_copy(image: &Path, free: &[Range<u64>]) -> PathBuf {
    let copy = image.with_extension("noisy");
    fs::copy(image, &copy).unwrap();
    scribble_file(&copy, free);
    repair_finds_nothing(&copy);
    copy
}

fn repair_finds_nothing(image: &Path) {
    sh(&format!(
        "xfs_repair -n -f {0} >{0}.log 2>&1 || {{ cat {0}.log >&2; exit 1; }}; rm {0}.log",
        image.display()
    ));
}

/// What `xfs_logprint` says of the log.
fn log_state(image: &Path) -> String {
    let print = sh(&format!("xfs_logprint -t {} 2>&1 || true", image.display()));
    let state = print.split_once("state: <").map_or(&*print, |(_, state)| state);
    state.split('>').next().unwrap().to_owned()
}

fn be(bytes: &[u8], at: usize, n: usize) -> u64 {
    bytes[at..at + n].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}
