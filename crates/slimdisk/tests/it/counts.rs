//! What a run reads and writes, in bytes: the free maps, the tables and what must move,
//! and next to nothing else.
//!
//! The bounds are computed from what the guest's own tools say of its volume and from
//! how the image was made here, not from what the library says of itself.
//!
//! - *Maps*: ext4's block bitmaps and group descriptors, NTFS's `$Bitmap`.
//! - *Tables* of a VHD: both footers, the dynamic header and the block allocation table.
//!   The sector bitmaps are moved with their blocks and count as moved. Of a VHDX: file
//!   identifier, both headers, both region tables, the metadata, the block allocation
//!   table, and an entry of the log for each page of it that changes.

use crate::vhd_model::FileAt as _;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};

use slimdisk::compact::{Options, Outcome};
use slimdisk::storage::{HostFile, ReadAt};

use crate::end_to_end::{compact, plan};
use crate::ext::dumpe2fs_free;
use crate::ntfs::image::{mkntfs, mount};
use crate::support::{Noise, Scratch, have, sh};
use crate::vhd_model;
use crate::vhdx_model::{self, FULL, MIB};

pub const BLOCK: u64 = 2 << 20;

/// How many files of 30 MiB go into a volume of so many GiB.
fn files(gib: u64) -> u64 {
    gib * 55 / 2
}

/// An ext4 volume, filled with files of 30 MiB that are allocated but never written,
/// half of them deleted again.
pub fn ext4_half_deleted(scratch: &Scratch, gib: u64) -> PathBuf {
    let raw = scratch.path("disk.raw");
    let pool = scratch.path("pool");
    fs::create_dir_all(&pool).unwrap();
    let mut commands = String::new();
    let mut noise = Noise::new(12);
    let mut deleted = String::new();
    for number in 0..files(gib) {
        fs::write(pool.join(format!("file{number}")), "").unwrap();
        commands += &format!("fallocate file{number} 0 7679\n");
        if noise.below(2) == 0 {
            deleted += &format!("rm file{number}\n");
        }
    }
    sh(&format!("mke2fs -q -F -t ext4 -d {} {} {gib}g", pool.display(), raw.display()));
    sh(&format!(
        "debugfs -w -f - {} >/dev/null 2>&1 <<'END'\n{commands}{deleted}END",
        raw.display()
    ));
    raw
}

/// The same with NTFS.
fn ntfs_half_deleted(scratch: &Scratch, gib: u64) -> PathBuf {
    let raw = mkntfs(scratch, "disk.raw", gib << 30, "-c 4096");
    let mut noise = Noise::new(12);
    {
        let mounted = mount(&raw, "");
        for number in 0..files(gib) {
            fs::write(mounted.dir.join(format!("file{number}")), "").unwrap();
        }
    }
    for number in 0..files(gib) {
        sh(&format!("ntfsfallocate -l 31457280 {} file{number}", raw.display()));
    }
    let mounted = mount(&raw, "");
    for number in 0..files(gib) {
        if noise.below(2) == 0 {
            fs::remove_file(mounted.dir.join(format!("file{number}"))).unwrap();
        }
    }
    drop(mounted);
    raw
}

/// What NTFS's own tools call free.
fn ntfs_free(raw: &Path) -> Vec<Range<u64>> {
    let text = sh(&format!("ntfscat {} '$Bitmap' | od -An -v -tu1 -w1", raw.display()));
    let clusters = fs::metadata(raw).unwrap().len() / 4096;
    let mut free: Vec<Range<u64>> = Vec::new();
    let bits = text.split_whitespace().flat_map(|byte| {
        let byte: u8 = byte.parse().unwrap();
        (0..8).map(move |bit| byte >> bit & 1)
    });
    for (cluster, _) in (0..clusters).zip(bits).filter(|(_, bit)| *bit == 0) {
        let range = cluster * 4096..(cluster + 1) * 4096;
        match free.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => free.push(range),
        }
    }
    free
}

/// A volume and what its own tools say of it.
struct Volume {
    raw: PathBuf,
    /// Bytes of its free map.
    map: u64,
    free: Vec<Range<u64>>,
}

impl Volume {
    /// The blocks with a byte in use.
    fn live(&self) -> Vec<u64> {
        let mut free = vec![0; (fs::metadata(&self.raw).unwrap().len() / BLOCK) as usize];
        for range in &self.free {
            let mut at = range.start;
            while at < range.end {
                let end = range.end.min((at / BLOCK + 1) * BLOCK);
                free[(at / BLOCK) as usize] += end - at;
                at = end;
            }
        }
        (0..)
            .zip(free)
            .filter(|(_, free)| *free < BLOCK)
            .map(|(block, _)| block)
            .collect()
    }
}

/// An image in which every block has a place, in the order of the disk.
struct Made {
    path: PathBuf,
    /// Where block 0 begins, and how far blocks lie apart.
    first: u64,
    stride: u64,
    /// Bytes of the tables.
    tables: u64,
}

fn vhd(scratch: &Scratch, raw: &Path) -> Made {
    let path = scratch.path("disk.vhd");
    vhd_model::Shape::write_full(&path, raw, BLOCK as usize);
    let blocks = fs::metadata(raw).unwrap().len() / BLOCK;
    let table = (blocks * 4).next_multiple_of(512);
    Made {
        path,
        first: 1536 + table,
        stride: BLOCK + 512,
        tables: 512 + 1024 + table + 512,
    }
}

fn vhdx(scratch: &Scratch, raw: &Path) -> Made {
    let path = scratch.path("disk.vhdx");
    let file = HostFile::open_read(raw).unwrap();
    let blocks = (file.len() / BLOCK) as u32;
    let order = (0..blocks).map(|block| (block, FULL, 0)).collect();
    let shape = vhdx_model::Shape {
        block_mib: BLOCK / MIB,
        blocks,
        order,
        ..crate::vhdx::shape()
    };
    let (pages, _) = shape.build_with(|block| {
        let (start, end) = (u64::from(block) * BLOCK, u64::from(block + 1) * BLOCK);
        let mut parts = Vec::new();
        let mut at = start;
        while let Some(data) = file.next_data(at).unwrap().filter(|d| d.start < end) {
            let mut bytes = vec![0; (data.end.min(end) - data.start) as usize];
            file.read_at(data.start, &mut bytes).unwrap();
            parts.push((data.start - start, bytes));
            at = data.end;
        }
        parts
    });
    let out = File::create(&path).unwrap();
    out.set_len(pages.len).unwrap();
    for at in (0..pages.len).step_by(4096) {
        let page = pages.get(at, 4096);
        if page.iter().any(|byte| *byte != 0) {
            out.write_all_at(&page, at).unwrap();
        }
    }
    let bat = (u64::from(blocks) * 8).next_multiple_of(4096);
    let log = 2 * (bat / 4096 + 1) * 4096 * 8;
    let tables = 4096 + 2 * 4096 + 2 * (64 << 10) + (64 << 10) + (1 << 20) + bat + log;
    let first = pages.len - u64::from(blocks) * BLOCK;
    Made { path, first, stride: BLOCK, tables }
}

/// Compacts an image and holds what it reads and writes to the bound.
fn hold_to_the_bound(volume: &Volume, made: &Made) {
    let blocks = fs::metadata(&volume.raw).unwrap().len() / BLOCK;
    let live = volume.live();
    // The live blocks fill the first places.
    let moving: Vec<u64> =
        live.iter().copied().filter(|block| *block >= live.len() as u64).collect();
    assert!(moving.len() > 40, "{} of {} move", moving.len(), live.len());
    assert!(live.len() as u64 * 3 < blocks * 2, "{} of {blocks} live", live.len());
    // What was a hole is data, or it would be left out.
    let file = File::options().write(true).open(&made.path).unwrap();
    let raw = HostFile::open_read(&volume.raw).unwrap();
    for block in &moving {
        let at = block * BLOCK;
        if raw.next_data(at).unwrap().is_none_or(|data| data.start >= at + BLOCK) {
            let skip = made.stride - BLOCK;
            let place = made.first + block * made.stride + skip;
            file.write_all_at(&vec![0xA5; BLOCK as usize], place).unwrap();
        }
    }
    drop(file);
    let moved = moving.len() as u64 * made.stride;

    let known = volume.map + made.tables;
    let planned = plan(&made.path, &Options::default());
    assert_eq!(planned.outcome, Outcome::Planned, "{planned:?}");
    let read = planned.io.bytes_read;
    println!("to plan: read {read}, maps and tables {known}");
    // Partition tables and signatures, and all that a volume is believed by: its log, its
    // system files, copies of its headers.
    assert!(read <= known + (512 << 10), "read {read} to plan, the bound is {known}");

    let report = compact(&made.path, &Options::default());
    assert_eq!(report.outcome, Outcome::Compacted, "{report:?}");
    assert_eq!(report.blocks.moved, moving.len() as u64);
    assert_eq!(report.blocks.allocated_after, live.len() as u64);
    let read = report.io.bytes_read;
    let written = report.io.bytes_written.unwrap() + report.io.bytes_cloned.unwrap();
    println!(
        "read {read} of {}, written {written} of {}, flushes {:?}",
        known + moved,
        made.tables + moved,
        report.io.flushes
    );
    assert!(read * 100 <= (known + moved) * 102, "read {read}");
    assert!(written * 100 <= (made.tables + moved) * 102, "wrote {written}");
    // It did copy them.
    assert!(written >= moved * 9 / 10, "wrote {written} of {moved}");
}

#[test]
fn half_deleted_ext4() {
    let test = "half_deleted_ext4";
    if !have(test, &["mke2fs", "debugfs", "e2fsck", "dumpe2fs"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let raw = ext4_half_deleted(&scratch, 1);
    sh(&format!("e2fsck -fn {} 2>&1", raw.display()));
    let groups: u64 =
        sh(&format!("dumpe2fs {} 2>/dev/null | grep -c '^Group '", raw.display()))
            .trim()
            .parse()
            .unwrap();
    let free = dumpe2fs_free(&raw);
    let volume = Volume { raw, map: groups * (4096 + 64), free };
    hold_to_the_bound(&volume, &vhd(&scratch, &volume.raw));
    hold_to_the_bound(&volume, &vhdx(&scratch, &volume.raw));
}

#[test]
fn half_deleted_ntfs() {
    let test = "half_deleted_ntfs";
    if !have(test, &["mkntfs", "ntfs-3g", "ntfsfix", "ntfsfallocate", "ntfscat"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let raw = ntfs_half_deleted(&scratch, 1);
    sh(&format!("ntfsfix -n {}", raw.display()));
    let free = ntfs_free(&raw);
    // A bit a cluster.
    let map = fs::metadata(&raw).unwrap().len() / 4096 / 8;
    let volume = Volume { raw, map, free };
    hold_to_the_bound(&volume, &vhd(&scratch, &volume.raw));
    hold_to_the_bound(&volume, &vhdx(&scratch, &volume.raw));
}
