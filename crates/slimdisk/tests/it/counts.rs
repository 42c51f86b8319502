//! What a run reads and writes, in bytes: the free maps, the tables and what must
//! move, and next to nothing else.

use std::fs;
use std::path::Path;

use slimdisk::compact::{Options, Outcome, Report};

use crate::end_to_end::compact;
use crate::ntfs::image::{mkntfs, mount};
use crate::support::{Noise, Scratch, have, sh};
use crate::vhd_model::Shape;

const BLOCK: u64 = 2 << 20;

/// An ext4 volume of 4 GiB, filled with 110 files of 30 MiB that are allocated but
/// never written, half of them deleted again.
fn ext4_half_deleted(scratch: &Scratch) -> std::path::PathBuf {
    let raw = scratch.path("disk.raw");
    let pool = scratch.path("pool");
    fs::create_dir_all(&pool).unwrap();
    let mut commands = String::new();
    let mut noise = Noise::new(12);
    let mut deleted = String::new();
    for number in 0..110 {
        fs::write(pool.join(format!("file{number}")), "").unwrap();
        commands += &format!("fallocate file{number} 0 7679\n");
        if noise.below(2) == 0 {
            deleted += &format!("rm file{number}\n");
        }
    }
    sh(&format!("mke2fs -q -F -t ext4 -d {} {} 4g", pool.display(), raw.display()));
    sh(&format!(
        "debugfs -w -f - {} >/dev/null 2>&1 <<'END'\n{commands}{deleted}END",
        raw.display()
    ));
    raw
}

/// The same with NTFS.
fn ntfs_half_deleted(scratch: &Scratch) -> std::path::PathBuf {
    let raw = mkntfs(scratch, "disk.raw", 4 << 30, "-c 4096");
    let mut noise = Noise::new(12);
    {
        let mounted = mount(&raw, "");
        for number in 0..110 {
            fs::write(mounted.dir.join(format!("file{number}")), "").unwrap();
        }
    }
    for number in 0..110 {
        sh(&format!("ntfsfallocate -l 31457280 {} file{number}", raw.display()));
    }
    let mounted = mount(&raw, "");
    for number in 0..110 {
        if noise.below(2) == 0 {
            fs::remove_file(mounted.dir.join(format!("file{number}"))).unwrap();
        }
    }
    drop(mounted);
    raw
}

fn run(path: &Path) -> Report {
    let report = compact(path, &Options::default());
    assert_eq!(report.outcome, Outcome::Compacted, "{report:?}");
    report
}

/// Holds a run to the bound: `map` is the size of the volume's free map in bytes.
fn hold_to_the_bound(report: &Report, map: u64) {
    let blocks = report.blocks;
    let table = 0x600 + blocks.total * 4 + 512;
    let moved = blocks.moved * (BLOCK + 512);
    assert!(blocks.allocated_before > 1500, "{blocks:?}");
    assert!(blocks.released_free * 3 > blocks.allocated_before, "{blocks:?}");
    assert!(blocks.moved > 100, "{blocks:?}");
    let read = report.io.bytes_read;
    let bound = map + table + moved;
    assert!(read * 100 <= bound * 105, "read {read}, the bound is {bound}");
    let written = report.io.bytes_written.unwrap() + report.io.bytes_cloned.unwrap();
    let bound = moved + table;
    assert!(written * 100 <= bound * 101, "wrote {written}, the bound is {bound}");
    println!(
        "moved {moved}, read {read}, written {written}, flushes {:?}, table {table}",
        report.io.flushes
    );
}

#[test]
fn half_deleted_ext4_of_4_gib() {
    let test = "half_deleted_ext4_of_4_gib";
    if !have(test, &["mke2fs", "debugfs", "e2fsck"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let raw = ext4_half_deleted(&scratch);
    sh(&format!("e2fsck -fn {} 2>&1", raw.display()));
    let vhd = scratch.path("disk.vhd");
    Shape::write_full(&vhd, &raw, BLOCK as usize);
    // 32 groups, a block of bitmap and a descriptor each.
    hold_to_the_bound(&run(&vhd), 32 * (4096 + 64));
}

#[test]
fn half_deleted_ntfs_of_4_gib() {
    let test = "half_deleted_ntfs_of_4_gib";
    if !have(test, &["mkntfs", "ntfs-3g", "ntfsfix", "ntfsfallocate"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let raw = ntfs_half_deleted(&scratch);
    sh(&format!("ntfsfix -n {}", raw.display()));
    let vhd = scratch.path("disk.vhd");
    Shape::write_full(&vhd, &raw, BLOCK as usize);
    // A bit a cluster.
    hold_to_the_bound(&run(&vhd), (4 << 30) / 4096 / 8);
}
