//! Every layout `mke2fs` can make: the free map is that of `dumpe2fs`, and what
//! is free may be overwritten.

use std::fs;
use std::path::Path;
use std::thread;

use slimdisk::storage::{HostFile, Meter};

use super::{
    TOOLS, delete_old, distrusted, dumpe2fs_free, make_tree, scribbled_copy, survey,
    survey_file, trusted,
};
use crate::support::{Scratch, have, sh};

/// A name, the size, options for `mke2fs`, and what the file system is called.
const OPTIONS: &[(&str, &str, &str, &str)] = &[
    ("default", "48M", "-t ext4 -b 4096", "ext4"),
    ("1k", "40M", "-t ext4 -b 1024", "ext4"),
    ("2k", "40M", "-t ext4 -b 2048", "ext4"),
    ("64k", "300M", "-t ext4 -b 65536 -J size=64", "ext4"),
    ("bigalloc", "64M", "-t ext4 -b 4096 -O bigalloc -C 16384", "ext4"),
    ("bigalloc-1k", "64M", "-t ext4 -b 1024 -O bigalloc -C 8192", "ext4"),
    ("bigalloc-groups", "48M", "-t ext4 -b 1024 -g 8192 -O bigalloc -C 4096", "ext4"),
    ("meta_bg", "48M", "-t ext4 -b 1024 -O meta_bg,^resize_inode,^flex_bg", "ext4"),
    ("meta_bg-flex", "48M", "-t ext4 -b 1024 -g 1024 -O meta_bg,^resize_inode", "ext4"),
    ("no-flex_bg", "48M", "-t ext4 -b 1024 -O ^flex_bg", "ext4"),
    ("sparse_super2", "48M", "-t ext4 -b 1024 -O sparse_super2,^resize_inode", "ext4"),
    ("no-sparse_super", "48M", "-t ext4 -b 1024 -O ^sparse_super,^resize_inode", "ext4"),
    ("orphan_file", "48M", "-t ext4 -b 4096 -O orphan_file", "ext4"),
    ("uninit_bg", "48M", "-t ext4 -b 1024 -O ^64bit,^metadata_csum,uninit_bg", "ext4"),
    ("no-csum", "48M", "-t ext4 -b 1024 -O ^metadata_csum", "ext4"),
    ("no-64bit", "48M", "-t ext4 -b 4096 -O ^64bit", "ext4"),
    ("desc-128", "48M", "-t ext4 -b 1024 -E desc_size=128", "ext4"),
    ("ext3", "48M", "-t ext3 -b 4096", "ext3"),
    ("ext3-1k", "48M", "-t ext3 -b 1024", "ext3"),
    ("ext2", "48M", "-t ext2 -b 4096", "ext2"),
    ("ext2-small-groups", "48M", "-t ext2 -b 1024 -g 4096", "ext2"),
    ("revision-0", "20M", "-t ext2 -r 0 -b 1024", "ext2"),
    ("csum_seed", "48M", "-t ext4 -O metadata_csum_seed -U random", "ext4"),
    ("no-journal", "48M", "-t ext4 -O ^has_journal", "ext4"),
    ("inline_data", "48M", "-t ext4 -O inline_data -I 256", "ext4"),
    ("quota", "48M", "-t ext4 -O quota,project", "ext4"),
    ("fast_commit", "64M", "-t ext4 -O fast_commit -J size=16", "ext4"),
    ("mmp", "48M", "-t ext4 -O mmp", "ext4"),
    ("encrypt", "48M", "-t ext4 -O encrypt,casefold,verity,ea_inode,large_dir", "ext4"),
    ("odd-size", "41003K", "-t ext4 -b 1024 -L odd -O uninit_bg", "ext4"),
    ("packed", "48M", "-t ext4 -b 1024 -E packed_meta_blocks=1", "ext4"),
];

#[test]
fn every_layout_has_the_free_map_of_dumpe2fs_and_survives_noise() {
    if !have("ext options", TOOLS) {
        return;
    }
    let scratch = Scratch::new("ext-options");
    make_tree(&scratch.path("tree"));
    thread::scope(|scope| {
        for part in OPTIONS.chunks(OPTIONS.len().div_ceil(2)) {
            let scratch = &scratch;
            scope.spawn(move || {
                for row in part {
                    check_layout(scratch, row);
                }
            });
        }
    });
}

fn check_layout(scratch: &Scratch, row: &(&str, &str, &str, &str)) {
    let (name, size, options, filesystem) = *row;
    let image = scratch.path(&format!("{name}.img"));
    let (dir, path) = (scratch.dir().display(), image.display());
    sh(&format!(
        "truncate -s {size} {path}
         mke2fs -q -F -d {dir}/tree {options} {path} 2>&1"
    ));
    let full = trusted(&image);
    delete_old(&image);
    if name == "quota" {
        // debugfs leaves the quota files behind the times.
        sh(&format!("e2fsck -fy {path} >/dev/null || [ $? = 1 ]"));
    }
    let (found, free) = survey_file(&image);
    assert_eq!(found.untrusted, None, "{name}");
    assert_eq!(found.filesystem, filesystem, "{name}");
    assert_eq!(found.label.as_deref(), (name == "odd-size").then_some("odd"));
    assert_eq!(free, dumpe2fs_free(&image), "{name}");
    let gained = found.free_bytes - full.iter().map(|r| r.end - r.start).sum::<u64>();
    assert!(gained > 5_000_000, "{name}: deleting files freed only {gained} bytes");

    let noisy = scribbled_copy(&image, &free);
    sh(&format!(
        "e2fsck -fn {noisy} >{noisy}.log 2>&1 || {{ cat {noisy}.log; exit 1; }}
         mkdir {path}.files {path}.before
         debugfs -R 'rdump / {path}.before' {path} >/dev/null 2>&1
         debugfs -R 'rdump / {path}.files' {noisy} >/dev/null 2>&1
         diff -r {path}.before {path}.files
         rm -rf {path}.files/lost+found
         cp -r {dir}/tree {path}.expected
         find {path}.expected -name 'old*' -delete",
        noisy = noisy.display(),
    ));
    // mke2fs 1.47.0 fills small files up to 60 bytes when it puts them inline.
    if name != "inline_data" {
        sh(&format!("diff -r {path}.expected {path}.files"));
    }
    sh(&format!("rm -rf {path}* {}*", noisy.display()));
}

#[test]
fn partclone_agrees() {
    if !have("ext partclone", TOOLS) || !have("ext partclone", &["partclone.ext4"]) {
        return;
    }
    let scratch = Scratch::new("ext-partclone");
    make_tree(&scratch.path("tree"));
    let image = scratch.path("a.img");
    let (dir, path) = (scratch.dir().display(), image.display());
    sh(&format!(
        "truncate -s 48M {path}; mke2fs -q -F -t ext4 -b 4096 -d {dir}/tree {path}"
    ));
    delete_old(&image);
    // Not with blocks of 1 KiB: there partclone 0.3.23 passes the volume's end.
    sh(&format!("partclone.ext4 -D -q -s {path} -o {dir}/map -L {dir}/log 2>/dev/null"));
    let map = fs::read_to_string(scratch.path("map")).unwrap();
    let mut free = Vec::new();
    for line in map.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        if let [start, len, "?"] = fields[..] {
            let number = |hex: &str| u64::from_str_radix(&hex[2..], 16).unwrap();
            free.push(number(start)..number(start) + number(len));
        }
    }
    assert_eq!(trusted(&image), free);
}

#[test]
fn large_volume_is_read_in_few_bytes() {
    if !have("ext large", TOOLS) {
        return;
    }
    let scratch = Scratch::new("ext-large");
    let image = scratch.path("large.img");
    for (size, options) in [
        ("200G", "-t ext4 -E lazy_itable_init=1,lazy_journal_init=1"),
        ("16G", "-t ext4 -O ^flex_bg -E lazy_itable_init=1,lazy_journal_init=1"),
    ] {
        let path = image.display();
        sh(&format!(
            "rm -f {path}; truncate -s {size} {path}; mke2fs -q -F {options} {path} 2>&1"
        ));
        let meter = Meter::new(HostFile::open_read(&image).unwrap());
        let (found, free) = survey(&meter);
        assert_eq!(found.untrusted, None);
        assert_eq!(free, dumpe2fs_free(&image));
        // Descriptors twice, the few bitmaps that were ever written, the superblock
        // and the journal's inode and superblock.
        let groups = found.length.div_ceil(128 << 20);
        let count = format!("dumpe2fs {path} 2>/dev/null | grep -c BLOCK_UNINIT");
        let uninit: u64 = sh(&count).trim().parse().unwrap();
        let bitmaps = groups - uninit;
        let most = 2 * (groups * 64).next_multiple_of(4096) + bitmaps * 4096 + 16384;
        let read = meter.counts().bytes_read;
        assert!(read <= most, "{size}: {read} bytes read, at most {most} expected");
        assert!(uninit > 10, "{size}: no uninitialised groups to speak of");
    }
}

#[test]
fn truncated_volume_is_not_trusted_and_a_longer_one_keeps_its_tail() {
    if !have("ext length", TOOLS) {
        return;
    }
    let scratch = Scratch::new("ext-length");
    let image = scratch.path("a.img");
    let path: &Path = &image;
    sh(&format!("truncate -s 32M {0}; mke2fs -q -F -t ext4 {0}", path.display()));
    let free = trusted(path);
    sh(&format!("truncate -s 40M {}", path.display()));
    let (found, longer) = survey_file(path);
    assert_eq!((found.untrusted, found.length), (None, 32 << 20));
    assert_eq!(longer, free);
    sh(&format!("truncate -s $((32*1048576 - 4096)) {}", path.display()));
    assert!(distrusted(path).contains("the volume was cut off"));
}
