//! Disks converted between VHD and VHDX, and chains of either: judged by qemu, libvhdi,
//! a strict reader of the tests' own and the guests' file systems.

use std::fs;
use std::path::{Path, PathBuf};

use slimdisk::Kind;
use slimdisk::convert::{Conversion, Options};
use slimdisk::image::ImageType;

use super::chain::child_shape;
use super::created::pages_of;
use super::{findings, open, shape};
use crate::chain::judge::{digest_of, python, vhdi_digest};
use crate::chain::{content, open as open_chain};
use crate::convert::{converted, disk, dynamic, to_fixed, with};
use crate::end_to_end::{self, Volume, make_disk, make_vhd, quick};
use crate::new_file::names;
use crate::support::{Noise, Scratch, have, samples, sh, skip};
use crate::vhdx_model::{FULL, MIB, Shape, read_strictly};

/// Nothing about the image is odd, for anybody, and it is stored as it was asked for.
fn judged(path: &Path, block_mib: Option<u64>) {
    let file = pages_of(path);
    assert_eq!(findings(&file), []);
    let model = read_strictly(&file).unwrap();
    let image = open(&file).unwrap();
    let is_fixed = image.facts().image_type == ImageType::Fixed;
    // Blocks that were left out promise zeros.
    for block in &model.blocks {
        assert!(block.0 == FULL || !is_fixed && *block == (2, 0), "{block:?}");
    }
    let (mib, path) = (model.block_len / MIB, path.display());
    assert_eq!(mib, block_mib.unwrap_or(if is_fixed { 2 } else { 32 }));
    sh(&format!("qemu-img check -q -f vhdx {path}"));
    let info = sh(&format!("qemu-img info --output=json -f vhdx {path}"));
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["virtual-size"], model.disk_size);
    assert_eq!(info["cluster-size"], model.block_len);
}

/// The disk as qemu reads it.
fn qemu_reads(scratch: &Scratch, format: &str, path: &Path) -> Vec<u8> {
    let raw = scratch.path("qemu.raw");
    let paths = format!("{} {}", path.display(), raw.display());
    sh(&format!("qemu-img convert -f {format} -O raw {paths}"));
    fs::read(raw).unwrap()
}

fn sized(options: Options, block_mib: Option<u64>) -> Options {
    let mut options = options;
    options.block_size = block_mib.map(|mib| mib * MIB);
    options
}

fn there_and_back(test: &str, kind: end_to_end::Kind) {
    let tools = ["mke2fs", "debugfs", "e2fsck", "dumpe2fs", "qemu-img", "sfdisk"];
    let ntfs_tools = ["mkntfs", "ntfs-3g", "ntfsfix", "ntfscat"];
    let ntfs = matches!(kind, end_to_end::Kind::Ntfs(_));
    if !have(test, &tools) || ntfs && !have(test, &ntfs_tools) {
        return;
    }
    let scratch = Scratch::new(test);
    let volume = Volume::make(&scratch, kind);
    let (there, back) = (scratch.path("there.vhdx"), scratch.path("back.vhd"));
    for scheme in ["bare", "gpt"] {
        let (disk, at) = make_disk(&scratch, &volume, scheme);
        let (source, _) = make_vhd(&scratch, &disk, "windows");
        let mut forms = vec![(dynamic(), None), (to_fixed(), None)];
        if scheme == "bare" {
            forms.extend([1, 2, 8, 256].map(|mib| (dynamic(), Some(mib))));
            forms.push((to_fixed(), Some(8)));
        }
        for (options, block_mib) in forms {
            let options = sized(options, block_mib);
            let report = converted(&source, &there, &options);
            assert_eq!(report.format, Some("vhdx"));
            judged(&there, block_mib);
            sh(&format!(
                "qemu-img compare -q -f vpc -F vhdx {} {}",
                source.display(),
                there.display()
            ));
            let report = converted(&there, &back, &dynamic());
            assert_eq!(report.format, Some("vhd"));
            let read = qemu_reads(&scratch, "vpc", &back);
            assert!(read[..disk.len()] == disk, "{scheme} {block_mib:?}");
            fs::remove_file(&back).unwrap();
            fs::remove_file(&there).unwrap();
        }
        // Without what the guest calls free.
        let mut options = sized(dynamic(), Some(1));
        options.leave_out_free = true;
        let report = converted(&source, &there, &options);
        assert!(report.blocks.left_out_free > 4, "{report:?}");
        judged(&there, Some(1));
        let read = qemu_reads(&scratch, "vhdx", &there);
        assert!(read[..at.start] == disk[..at.start], "bytes before the volume");
        assert!(read[at.end..disk.len()] == disk[at.end..], "bytes behind it");
        for sector in (at.start..at.end).step_by(512) {
            if read[sector..][..512] != disk[sector..][..512] {
                let within = (sector - at.start) as u64;
                assert!(volume.free.covers(&(within..within + 512)), "{sector}");
            }
        }
        volume.judge(&scratch, &read[at.clone()]);
        fs::remove_file(&there).unwrap();
        if scheme == "bare" {
            smaller_blocks_are_foretold(&scratch, &volume, &disk);
        }
    }
}

/// What a plan says of smaller blocks is what the volume's own tools say, and what a
/// conversion makes of it.
fn smaller_blocks_are_foretold(scratch: &Scratch, volume: &Volume, disk: &[u8]) {
    let (source, target) = (scratch.path("coarse.vhdx"), scratch.path("fine.vhdx"));
    let (_, file) = Shape::of_disk(disk, 8);
    fs::write(&source, file.bytes()).unwrap();
    let plan = end_to_end::plan(&source, &quick());
    assert!(plan.pinned_bytes > 0, "{plan:?}");
    let expected = |size: u64| -> u64 {
        let is_free = |start: u64, len: u64| {
            volume.free.covers(&(start..(start + len).min(disk.len() as u64)))
        };
        (0..disk.len() as u64)
            .step_by(8 << 20)
            .filter(|start| {
                let data =
                    &disk[*start as usize..disk.len().min(*start as usize + (8 << 20))];
                !is_free(*start, 8 << 20) && data.iter().any(|byte| *byte != 0)
            })
            .flat_map(|start| (start..start + (8 << 20)).step_by(size as usize))
            .filter(|start| *start < disk.len() as u64 && !is_free(*start, size))
            .count() as u64
            * size
    };
    let found: Vec<_> =
        plan.smaller_blocks.iter().map(|s| (s.block_size, s.bytes)).collect();
    assert_eq!(found, [MIB, 2 * MIB].map(|size| (size, expected(size))));
    let now = plan.blocks.allocated_after * plan.block_size;
    assert!(found[0].1 < found[1].1 && found[1].1 < now, "{found:?} {now}");
    for (size, bytes) in found {
        let mut options = sized(dynamic(), Some(size / MIB));
        options.leave_out_free = true;
        let report = converted(&source, &target, &options);
        assert!(report.blocks.written * size <= bytes, "{report:?}");
        fs::remove_file(&target).unwrap();
    }
    fs::remove_file(&source).unwrap();
}

#[test]
fn ext4() {
    there_and_back(
        "vhdx_convert_ext4",
        end_to_end::Kind::Ext("-t ext4 -b 4096 -J size=4"),
    );
}

#[test]
fn ntfs() {
    there_and_back("vhdx_convert_ntfs", end_to_end::Kind::Ntfs("-c 4096"));
}

/// Sizes that are no whole MiB, and bytes in the last sector.
#[test]
fn odd_sizes_are_kept() {
    let test = "vhdx_odd_sizes_are_kept";
    if !have(test, &["qemu-img"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let mut noise = Noise::new(19);
    let (source, there) = (scratch.path("source.vhd"), scratch.path("there.vhdx"));
    let back = scratch.path("back.vhd");
    for len in [3 << 20, (4 << 20) + 512, (9 << 20) + 1536] {
        let mut disk = disk(&mut noise, len);
        disk[len - 512..].fill(7);
        fs::write(&source, crate::chain_model::fixed(&disk, 5)).unwrap();
        for options in [dynamic(), to_fixed(), sized(dynamic(), Some(1))] {
            let block_mib = options.block_size.map(|size| size / MIB);
            let report = converted(&source, &there, &options);
            assert_eq!(report.virtual_size, len as u64);
            judged(&there, block_mib);
            assert!(content(&*open(&pages_of(&there)).unwrap()) == disk);
            converted(&there, &back, &to_fixed());
            let file = fs::read(&back).unwrap();
            assert!(file[..len] == disk && file.len() == len + 512);
            fs::remove_file(&there).unwrap();
            fs::remove_file(&back).unwrap();
        }
    }
}

#[test]
fn chains_are_flattened_into_either_format() {
    let test = "vhdx_chains_are_flattened";
    if !have(test, &["qemu-img"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let at = |name: &str| scratch.path(name);
    let whole = |options: Options| {
        let mut options = options;
        options.whole_chain = true;
        options
    };
    // Blocks in every state there is.
    let (base, child) = (Shape { logical: 512, ..shape() }, child_shape(512));
    fs::write(at("parent.vhdx"), base.build(&[]).0.bytes()).unwrap();
    fs::write(at("child.vhdx"), child.build(&[]).0.bytes()).unwrap();
    let lookup = slimdisk::image::parent::ParentLookup::default();
    let disk = content(&*open_chain(&at("child.vhdx"), &lookup).unwrap());
    for (name, options) in [
        ("flat.vhd", dynamic()),
        ("flat.vhd", to_fixed()),
        ("flat.vhdx", sized(dynamic(), Some(1))),
        ("flat.vhdx", to_fixed()),
    ] {
        let target = at(name);
        let report = converted(&at("child.vhdx"), &target, &whole(options.clone()));
        assert_eq!(report.parents.len(), 1);
        let read = if name == "flat.vhdx" {
            judged(&target, options.block_size.map(|size| size / MIB));
            qemu_reads(&scratch, "vhdx", &target)
        } else {
            qemu_reads(&scratch, "vpc", &target)
        };
        assert!(read == disk, "{name}");
        fs::remove_file(&target).unwrap();
    }
    // Those that Windows made.
    let Some(dir) = samples() else { return skip(test, "the folder of sample images") };
    let Some(python) = python(test) else { return };
    if !have(test, &["zstd"]) {
        return;
    }
    for kind in ["ntfs", "fat"] {
        for extension in ["vhd", "vhdx"] {
            let paths: Vec<PathBuf> = ["differential", "parent"]
                .into_iter()
                .map(|part| {
                    let name = format!("{kind}-{part}.{extension}");
                    let (from, to) = (dir.join(format!("{name}.zst")), at(&name));
                    sh(&format!(
                        "zstd -dqf {} -o {1}; chmod 644 {1}",
                        from.display(),
                        to.display()
                    ));
                    to
                })
                .collect();
            let expected = digest_of(&content(&*open_chain(&paths[0], &lookup).unwrap()));
            if kind == "ntfs" {
                assert_eq!(vhdi_digest(&python, &paths), expected);
            }
            for name in ["flat.vhd", "flat.vhdx"] {
                let target = at(name);
                converted(&paths[0], &target, &whole(dynamic()));
                let flat = std::slice::from_ref(&target);
                assert_eq!(vhdi_digest(&python, flat), expected, "{kind} {name}");
                fs::remove_file(&target).unwrap();
            }
        }
    }
}

/// A disk of 4096-byte sectors, its partition table in these.
fn disk_of_large_sectors(volume: &[u8]) -> Vec<u8> {
    let mut disk = vec![0; volume.len() + (2 << 20)];
    disk[1 << 20..][..volume.len()].copy_from_slice(volume);
    let sectors = (volume.len() / 4096) as u32;
    disk[446..462].copy_from_slice(
        &[
            &[0, 0, 2, 0, 0x83, 0, 2, 0],
            &256_u32.to_le_bytes()[..],
            &sectors.to_le_bytes(),
        ]
        .concat(),
    );
    disk[510..512].copy_from_slice(&[0x55, 0xAA]);
    disk
}

#[test]
fn sectors_stay_what_they_are() {
    let test = "vhdx_sectors_stay_what_they_are";
    if !have(test, &["mke2fs", "debugfs", "dumpe2fs", "e2fsck"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let at = |name: &str| scratch.path(name);
    let volume = Volume::make(&scratch, end_to_end::Kind::Ext("-t ext4 -b 4096"));
    let disk = disk_of_large_sectors(&volume.bytes);
    let shape_of_disk = Shape { logical: 4096, ..Shape::of_disk(&disk, 1).0 };
    let (file, _) = shape_of_disk.build_with(|block| {
        let start = block as usize * MIB as usize;
        vec![(0, disk[start..disk.len().min(start + MIB as usize)].to_vec())]
    });
    fs::write(at("source.vhdx"), file.bytes()).unwrap();
    // The partition is found where 4096-byte sectors say that it is.
    let mut options = sized(dynamic(), Some(1));
    options.leave_out_free = true;
    let report = converted(&at("source.vhdx"), &at("new.vhdx"), &options);
    assert!(report.blocks.left_out_free > 4, "{report:?}");
    let image = open(&pages_of(&at("new.vhdx"))).unwrap();
    assert_eq!(image.sector_size(), Some(4096));
    assert_eq!(image.physical_sector_size(), Some(4096));
    assert_eq!(findings(&pages_of(&at("new.vhdx"))), []);
    read_strictly(&pages_of(&at("new.vhdx"))).unwrap();
    let read = content(&*image);
    volume.judge(&scratch, &read[1 << 20..][..volume.bytes.len()]);
    // Into a VHD it cannot go.
    let before = names(scratch.dir());
    for options in [dynamic(), to_fixed()] {
        let found = Conversion::prepare(&at("source.vhdx"), &at("new.vhd"), &options);
        let error = found.err().unwrap();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.what().contains("sectors of 4096 bytes"), "{error}");
        assert_eq!(names(scratch.dir()), before);
    }
    // A guest is told of its disk what it was told before.
    let (small, _) = Shape { physical: 4096, ..shape() }.build(&[]);
    fs::write(at("small.vhdx"), small.bytes()).unwrap();
    for (source, target, physical) in [
        ("small.vhdx", "a.vhdx", 4096),
        ("small.vhdx", "b.vhd", 0),
        ("b.vhd", "c.vhdx", 512),
    ] {
        converted(&at(source), &at(target), &dynamic());
        if physical > 0 {
            let image = open(&pages_of(&at(target))).unwrap();
            assert_eq!(image.sector_size(), Some(512));
            assert_eq!(image.physical_sector_size(), Some(physical), "{target}");
        }
    }
}

#[test]
fn what_a_format_cannot_hold_is_refused() {
    let scratch = Scratch::new("vhdx_convert_refused");
    let at = |name: &str| scratch.path(name);
    let large = Shape { block_mib: 32, blocks: 3 << 15, order: Vec::new(), ..shape() };
    let (file, _) = large.build(&[]);
    fs::write(at("large.vhdx"), file.bytes()).unwrap();
    fs::write(at("lost.vhdx"), child_shape(512).build(&[]).0.bytes()).unwrap();
    let before = names(scratch.dir());
    let odd = with(|options| options.block_size = Some(512 << 10));
    let child = with(|options| options.image_type = ImageType::Differencing);
    for (source, target, options, kind) in [
        ("large.vhdx", "new.vhd", dynamic(), Kind::DiskTooLarge),
        ("large.vhdx", "new.vhdx", odd, Kind::InvalidArgument),
        ("large.vhdx", "new.vhdx", child, Kind::WrongImageType),
        ("lost.vhdx", "new.vhdx", dynamic(), Kind::ParentNotFound),
    ] {
        let error =
            Conversion::prepare(&at(source), &at(target), &options).err().unwrap();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(names(scratch.dir()), before);
    }
    let report = converted(&at("large.vhdx"), &at("new.vhdx"), &dynamic());
    assert_eq!(report.virtual_size, 3 << 40);
    assert_eq!(report.blocks.written, 0);
    let model = read_strictly(&pages_of(&at("new.vhdx"))).unwrap();
    assert!(model.blocks.iter().all(|block| *block == (2, 0)));
}
