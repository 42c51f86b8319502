//! Every layout `mkfs.fat` can make: the free map is that of the table, and what
//! is free may be overwritten.

use std::fs;

use slimdisk::storage::{HostFile, Meter, Section};

use super::{Layout, TOOLS, make, plain_free, survey};
use crate::free_map::{ddrescue_free, scribble};
use crate::support::{Scratch, have, samples, sh, skip};

/// A name, the size, options for `mkfs.fat`, and what the file system is called.
const OPTIONS: &[(&str, &str, &str, &str)] = &[
    ("floppy", "1440K", "-F 12 -n FLOPPY", "fat12"),
    ("odd", "4100K", "-F 12 -s 4 -f 1 -R 5 -r 64", "fat12"),
    ("fat12-1024", "8M", "-F 12 -S 1024 -s 4 -M 0xF0", "fat12"),
    ("fat16", "32M", "-F 16 -n LABEL", "fat16"),
    ("fat16-1", "16M", "-F 16 -s 1 -f 1 -R 33 -a", "fat16"),
    ("fat16-2048", "32M", "-F 16 -S 2048 -s 1 -f 3", "fat16"),
    ("fat32", "40M", "-F 32 -s 1 -n THIRTYTWO", "fat32"),
    ("fat32-1", "40M", "-F 32 -s 1 -f 1 -R 64 -b 3", "fat32"),
    ("fat32-4", "36M", "-F 32 -s 1 -f 4 -a", "fat32"),
    ("fat32-4096", "280M", "-F 32 -S 4096 -s 1", "fat32"),
];

#[test]
fn every_layout_has_the_free_map_of_its_table_and_survives_noise() {
    let test = "every_layout_has_the_free_map_of_its_table_and_survives_noise";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new("fat-maps");
    for (name, size, options, filesystem) in OPTIONS {
        let image = make(&scratch, name, size, options);
        let mut bytes = fs::read(&image).unwrap();
        let volume = Meter::new(HostFile::open_read(&image).unwrap());
        let (found, free) = survey(&volume);
        assert_eq!(found.untrusted, None, "{name}");
        assert_eq!(found.filesystem, *filesystem, "{name}");
        let label = options.split_once("-n ").map(|(_, label)| label);
        assert_eq!(found.label.as_deref(), label, "{name}");
        assert_eq!(free, plain_free(&bytes), "{name}");
        let layout = Layout::of(&bytes);
        assert_eq!(found.unit, layout.cluster as u64);
        assert!(free.len() > 3, "{name}: nothing was deleted: {free:?}");
        let tables = u64::from(bytes[16]) * (layout.clusters * layout.bits / 8) as u64;
        let read = volume.counts().bytes_read;
        assert!(
            read < tables + (32 << 10),
            "{name}: {read} bytes read, {tables} of FATs"
        );

        scribble(&mut bytes, &free);
        let noisy = scratch.path("noisy");
        fs::write(&noisy, &bytes).unwrap();
        sh(&format!(
            "export MTOOLS_SKIP_CHECK=1
             v={} n={} t={}
             # fsck.fat knows no more than two copies.
             [ {} -gt 2 ] || fsck.fat -n $n >$n.log || {{ cat $n.log; exit 1; }}
             rm -rf $t.out $t.expected; mkdir $t.out; cp -r $t/first $t.expected
             cp -r $t/late $t.expected/
             find $t.expected -name 'old*' -delete
             mcopy -i $n -s '::*' $t.out
             diff -r $t.expected $t.out
             rm $v $n",
            image.display(),
            noisy.display(),
            scratch.path("tree").display(),
            bytes[16],
        ));
    }
}

#[test]
fn partclone_agrees() {
    let test = "partclone_agrees_on_fat";
    // Not on FAT12, which partclone 0.3.23 reads wrongly.
    if !have(test, TOOLS) || !have(test, &["partclone.vfat"]) {
        return;
    }
    let scratch = Scratch::new("fat-partclone");
    for (size, options) in [("32M", "-F 16"), ("40M", "-F 32 -s 1")] {
        let image = make(&scratch, "v", size, options);
        sh(&format!(
            "rm -f {0}.map; partclone.vfat -D -q -s {0} -o {0}.map -L {0}.log 2>/dev/null",
            image.display()
        ));
        let map = fs::read_to_string(image.with_extension("map")).unwrap();
        let free = ddrescue_free(&map);
        assert_eq!(survey(&fs::read(&image).unwrap()).1, free, "{options}");
    }
}

#[test]
fn bad_clusters_are_in_use() {
    let test = "bad_clusters_are_in_use";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let (v, list) = (scratch.path("v"), scratch.path("list"));
    for (size, options) in [("4M", "-F 12"), ("32M", "-F 16"), ("40M", "-F 32 -s 1")] {
        let at = 3_000_000u64;
        fs::write(&list, format!("{}\n", at / 1024)).unwrap();
        sh(&format!(
            "rm -f {0}; truncate -s {size} {0}; mkfs.fat {options} -l {1} {0} >/dev/null",
            v.display(),
            list.display()
        ));
        let bytes = fs::read(&v).unwrap();
        let (found, free) = survey(&bytes);
        assert_eq!(found.untrusted, None, "{options}");
        assert_eq!(free.len(), 2, "{options}: {free:?}");
        assert!(free.iter().all(|range| !range.contains(&(at / 1024 * 1024))));
        assert_eq!(free, plain_free(&bytes));
    }
}

#[test]
fn large_volume_is_streamed() {
    let test = "large_fat_volume_is_streamed";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let image = scratch.path("v");
    sh(&format!(
        "truncate -s 20G {0}; mkfs.fat -F 32 -s 8 {0} >/dev/null",
        image.display()
    ));
    let volume = Meter::new(HostFile::open_read(&image).unwrap());
    let (found, free) = survey(&volume);
    assert_eq!(found.untrusted, None);
    assert_eq!(free.len(), 1);
    // Two copies of four bytes for each cluster.
    let fats = found.free_bytes / 4096 * 8;
    assert!(volume.counts().bytes_read < fats + (64 << 10), "{:?}", volume.counts());
}

/// A FAT12 that Windows formatted, in a partition at 64 KiB.
#[test]
fn a_volume_made_by_windows_is_trusted() {
    let test = "a_fat_volume_made_by_windows_is_trusted";
    if !have(test, TOOLS) || !have(test, &["zstd"]) {
        return;
    }
    let Some(dir) = samples() else {
        return skip(test, "the folder of sample images");
    };
    let scratch = Scratch::new(test);
    let image = scratch.path("v");
    let sample = dir.join("fat-parent.vhd.zst");
    sh(&format!("zstd -q -d {} -o {}", sample.display(), image.display()));
    let mut disk = fs::read(&image).unwrap();
    let entry: [u8; 16] = disk[446..462].try_into().unwrap();
    let sector = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
    let (start, len) = (u64::from(sector(8)) * 512, u64::from(sector(12)) * 512);
    assert_eq!(start, 65536);
    let (found, free) = survey(&Section::new(&disk, start..start + len));
    assert_eq!(found.untrusted, None, "{found:?}");
    assert_eq!(found.filesystem, "fat12");
    let bytes = &mut disk[start as usize..(start + len) as usize];
    assert_eq!(free, plain_free(bytes));
    fs::write(&image, &*bytes).unwrap();
    scribble(bytes, &free);
    fs::write(scratch.path("noisy"), &*bytes).unwrap();
    sh(&format!(
        "export MTOOLS_SKIP_CHECK=1; cd {}
         # It misses the label in the boot sector, in the original too.
         mkdir before after
         (fsck.fat -nv v || true) | sed 's/^v: //' >before/log
         (fsck.fat -nv noisy || true) | sed 's/^noisy: //' >after/log
         grep '3 files, 2/2980 clusters' after/log
         mcopy -i v -s '::*' before; mcopy -i noisy -s '::*' after
         test -n \"$(find after -type f ! -name log)\"
         diff -r before after",
        scratch.dir().display()
    ));
}
