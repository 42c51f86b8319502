//! exFAT against a plain reader of the bitmap, partclone, exfatprogs and exfat-fuse.

mod distrust;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use slimdisk::storage::{HostFile, Meter, ReadAt};
use slimdisk::volume::Findings;

use crate::free_map::{ddrescue_free, make_tree, push, scribble, survey_as};
use crate::support::{Scratch, have, sh};

const TOOLS: &[&str] = &["mkfs.exfat", "fsck.exfat", "mount.exfat-fuse", "losetup"];

fn survey(volume: &dyn ReadAt) -> (Findings, Vec<Range<u64>>) {
    survey_as("exfat", volume)
}

fn le(bytes: &[u8], at: usize, n: usize) -> usize {
    bytes[at..at + n].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

/// Where things lie, as mkfs.exfat lays them out.
struct Layout {
    sector: usize,
    fat: usize,
    heap: usize,
    cluster: usize,
    clusters: usize,
    root: usize,
}

impl Layout {
    fn of(bytes: &[u8]) -> Self {
        let sector = 1 << bytes[108];
        let (heap, cluster) = (le(bytes, 88, 4) * sector, sector << bytes[109]);
        let root = heap + (le(bytes, 96, 4) - 2) * cluster;
        let clusters = le(bytes, 92, 4);
        Layout { sector, fat: le(bytes, 80, 4) * sector, heap, cluster, clusters, root }
    }

    fn at(&self, cluster: usize) -> usize {
        self.heap + (cluster - 2) * self.cluster
    }

    /// An entry in the root directory's first cluster.
    fn entry(&self, bytes: &[u8], kind: u8) -> usize {
        let found = bytes[self.root..].chunks_exact(32).position(|e| e[0] == kind);
        self.root + 32 * found.unwrap()
    }

    /// The bitmap, which mkfs.exfat lays out in one piece.
    fn bitmap(&self, bytes: &[u8]) -> usize {
        self.at(le(bytes, self.entry(bytes, 0x81) + 20, 4))
    }
}

/// The free ranges, cluster by cluster.
fn plain_free(bytes: &[u8]) -> Vec<Range<u64>> {
    let layout = Layout::of(bytes);
    let bitmap = layout.bitmap(bytes);
    let mut free: Vec<Range<u64>> = Vec::new();
    for index in 0..layout.clusters {
        if bytes[bitmap + index / 8] >> (index % 8) & 1 == 1 {
            continue;
        }
        let start = layout.at(index + 2) as u64;
        let range = start..start + layout.cluster as u64;
        push(&mut free, range);
    }
    free
}

/// Runs `script` with the volume mounted at `$m`.
fn mounted(image: &Path, options: &str, script: &str) {
    sh(&format!(
        "v={v}; m=$v.mnt; mkdir -p $m
         loop=$(losetup -f --show $v)
         trap 'umount $m || true; losetup -d $loop' EXIT
         mount.exfat-fuse {options} $loop $m >/dev/null 2>&1
         {script}
         sync -f $m",
        v = image.display()
    ));
}

/// Makes a volume with the tree in it, half of it deleted and something added.
fn make(scratch: &Scratch, name: &str, size: &str, options: &str) -> PathBuf {
    let image = scratch.path(name);
    let tree = scratch.path("tree");
    if !tree.exists() {
        make_tree(&tree);
    }
    sh(&format!(
        "rm -f {0}; truncate -s {size} {0}; LC_ALL=C.UTF-8 mkfs.exfat {options} {0} >/dev/null",
        image.display()
    ));
    let script = format!(
        "cp -r {t}/first/* $m/; find $m -name 'old*' -delete; cp -r {t}/late $m/",
        t = tree.display()
    );
    mounted(&image, "", &script);
    image
}

/// A name, the size and options for `mkfs.exfat`.
const OPTIONS: &[(&str, &str, &str)] = &[
    ("default", "64M", ""),
    ("512", "40M", "-c 512 -L Straße"),
    ("128k", "64M", "-c 128K -b 1M"),
    ("packed", "50003K", "-c 4K --pack-bitmap -L packed"),
];

#[test]
fn every_layout_has_the_free_map_of_its_bitmap_and_survives_noise() {
    let test = "every_exfat_has_the_free_map_of_its_bitmap_and_survives_noise";
    if !have(test, TOOLS) || !have(test, &["partclone.exfat", "dump.exfat"]) {
        return;
    }
    let scratch = Scratch::new("exfat-maps");
    for (name, size, options) in OPTIONS {
        let image = make(&scratch, name, size, options);
        let mut bytes = fs::read(&image).unwrap();
        let volume = Meter::new(HostFile::open_read(&image).unwrap());
        let (found, free) = survey(&volume);
        assert_eq!(found.untrusted, None, "{name}");
        let label = options.split_once("-L ").map(|(_, label)| label);
        assert_eq!(found.label.as_deref(), label, "{name}");
        assert_eq!(free, plain_free(&bytes), "{name}");
        assert!(free.len() > 3, "{name}: nothing was deleted: {free:?}");
        let read = volume.counts().bytes_read;
        assert!(read < 64 << 10, "{name}: {read} bytes read");

        sh(&format!(
            "partclone.exfat -D -q -s {0} -o {0}.map -L {0}.log 2>/dev/null",
            image.display()
        ));
        let map = fs::read_to_string(format!("{}.map", image.display())).unwrap();
        // Of the sectors after the last cluster partclone says that they are free.
        let layout = Layout::of(&bytes);
        let end = layout.at(layout.clusters + 2) as u64;
        let clipped = |range: &Range<u64>| range.start..range.end.min(end);
        let expected: Vec<_> = ddrescue_free(&map).iter().map(clipped).collect();
        assert_eq!(free, expected, "{name}");
        let dump = sh(&format!("dump.exfat {}", image.display()));
        let count = dump.lines().find_map(|l| l.strip_prefix("Free Clusters:")).unwrap();
        let count: u64 = count.trim().parse().unwrap();
        assert_eq!(count * found.unit, found.free_bytes, "{name}");

        scribble(&mut bytes, &free);
        fs::write(&image, &bytes).unwrap();
        sh(&format!("fsck.exfat -n {}", image.display()));
        let script = format!(
            "t={}; rm -rf $t.expected; cp -r $t/first $t.expected
             cp -r $t/late $t.expected/; find $t.expected -name 'old*' -delete
             diff -r $t.expected $m",
            scratch.path("tree").display()
        );
        mounted(&image, "-o ro", &script);
        fs::remove_file(image).unwrap();
    }
}

#[test]
fn large_volume_is_streamed() {
    let test = "large_exfat_volume_is_streamed";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let image = scratch.path("v");
    sh(&format!(
        "truncate -s 100G {0}; mkfs.exfat -c 4K {0} >/dev/null",
        image.display()
    ));
    let volume = Meter::new(HostFile::open_read(&image).unwrap());
    let (found, free) = survey(&volume);
    assert_eq!(found.untrusted, None);
    assert_eq!(free.len(), 1);
    let bitmap = found.free_bytes / 4096 / 8;
    assert!(volume.counts().bytes_read < bitmap + (64 << 10), "{:?}", volume.counts());
}
