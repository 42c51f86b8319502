//! Free space of real guests is left out; what their files hold is not.

use std::fs;

use slimdisk::ranges::Ranges;

use super::{attempt, converted, dynamic, qemu_reads, to_fixed};
use crate::chain_model::fixed;
use crate::end_to_end::{Kind, Volume, make_disk, make_vhd};
use crate::ext::dumpe2fs_free;
use crate::support::{Scratch, have, sh};
use crate::vhd_model::read_strictly;

fn free_space_is_left_out(test: &str, kind: Kind) {
    let tools = ["mke2fs", "debugfs", "e2fsck", "dumpe2fs", "qemu-img", "sfdisk"];
    let ntfs_tools = ["mkntfs", "ntfs-3g", "ntfsfix", "ntfscat"];
    if !have(test, &tools) || matches!(kind, Kind::Ntfs(_)) && !have(test, &ntfs_tools) {
        return;
    }
    let scratch = Scratch::new(test);
    let volume = Volume::make(&scratch, kind);
    let target = scratch.path("target.vhd");
    for scheme in ["bare", "gpt"] {
        let (disk, at) = make_disk(&scratch, &volume, scheme);
        let (source, _) = make_vhd(&scratch, &disk, "windows");
        for fixed in [false, true] {
            let base = if fixed { to_fixed() } else { dynamic() };
            let mut options = base.clone();
            options.leave_out_free = true;
            options.block_size = Some(512 << 10);
            let all = attempt(&source, &target, &base);
            fs::remove_file(&target).unwrap();
            let report = converted(&source, &target, &options);
            assert!(report.blocks.left_out_free > 4, "{report:?}");
            assert_eq!(report.volumes.len(), 1);
            assert!(fixed || report.file_size < all.file_size);
            let back = qemu_reads(&scratch, &target);
            assert!(back[..at.start] == disk[..at.start], "bytes before the volume");
            assert!(back[at.end..disk.len()] == disk[at.end..], "bytes behind it");
            let unit = if fixed { 2 << 20 } else { 512 << 10 };
            // In the volume, what differs is free by its own tools, and zero now.
            let mut left_out = 0;
            for (number, old) in disk.chunks(unit).enumerate() {
                let new = &back[number * unit..][..old.len()];
                if new == old {
                    continue;
                }
                left_out += 1;
                assert!(new.iter().all(|byte| *byte == 0));
                for sector in (0..old.len()).step_by(512) {
                    let byte = number * unit + sector;
                    if new[sector..][..512] != old[sector..][..512] {
                        let within = (byte - at.start) as u64;
                        assert!(volume.free.covers(&(within..within + 512)), "{byte}");
                    }
                }
            }
            let some = if fixed { 0 } else { 10 };
            let most = report.blocks.left_out_free;
            assert!(
                some < left_out && left_out <= most,
                "{left_out} of {most} were not zero"
            );
            volume.judge(&scratch, &back[at.clone()]);
            if !fixed {
                let file = fs::read(&target).unwrap();
                let there = read_strictly(&file).unwrap().iter().flatten().count();
                assert_eq!(there as u64, report.blocks.written);
            }
            fs::remove_file(&target).unwrap();
        }
    }
}

#[test]
fn ext4() {
    free_space_is_left_out("convert_ext4", Kind::Ext("-t ext4 -b 4096 -J size=4"));
}

#[test]
fn ntfs() {
    free_space_is_left_out("convert_ntfs", Kind::Ntfs("-c 4096"));
}

/// A volume that is not trusted keeps what its own map calls free.
#[test]
fn free_space_of_a_volume_in_use_is_kept() {
    let test = "free_space_of_a_volume_in_use_is_kept";
    if !have(test, &["mke2fs", "debugfs", "dumpe2fs", "qemu-img"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let mut volume = Volume::make(&scratch, Kind::Ext("-t ext2 -b 4096"));
    // The state "unmounted" is taken from its superblock.
    volume.bytes[1024 + 58] = 0;
    let (source, _) = make_vhd(&scratch, &volume.bytes, "windows");
    let target = scratch.path("target.vhd");
    let mut options = dynamic();
    options.leave_out_free = true;
    let report = converted(&source, &target, &options);
    assert_eq!(report.blocks.left_out_free, 0);
    assert!(report.volumes[0].reason.is_some());
    assert!(qemu_reads(&scratch, &target) == volume.bytes);
}

/// The last block of a disk goes too, though the disk ends within it.
#[test]
fn free_space_in_the_last_block_is_left_out() {
    let test = "free_space_in_the_last_block_is_left_out";
    if !have(test, &["mke2fs", "dumpe2fs"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let raw = scratch.path("raw");
    sh(&format!("truncate -s 9M {0}; mke2fs -q -F -t ext2 -b 4096 {0}", raw.display()));
    let free: Ranges = dumpe2fs_free(&raw).into_iter().collect();
    let mut disk = fs::read(&raw).unwrap();
    let end = disk.len() as u64;
    assert!(free.covers(&(8 << 20..end)));
    disk[8 << 20..].fill(7);
    disk.extend([0; 8192]);
    let (source, target) = (scratch.path("source.vhd"), scratch.path("target.vhd"));
    fs::write(&source, fixed(&disk, 6)).unwrap();
    let mut options = dynamic();
    options.leave_out_free = true;
    let report = converted(&source, &target, &options);
    assert_eq!(report.blocks.total, 5);
    let file = fs::read(&target).unwrap();
    assert!(read_strictly(&file).unwrap()[4].is_none());
    // And not when there is anything in what no map speaks for.
    *disk.last_mut().unwrap() = 1;
    for path in [&source, &target] {
        fs::remove_file(path).unwrap();
    }
    fs::write(&source, fixed(&disk, 6)).unwrap();
    converted(&source, &target, &options);
    let file = fs::read(&target).unwrap();
    let blocks = read_strictly(&file).unwrap();
    assert!(
        blocks[4].as_ref().unwrap().data[..disk.len() - (8 << 20)] == disk[8 << 20..]
    );
}
