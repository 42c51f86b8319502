//! Whole runs on dynamic disks of qemu.

use std::fs;

use slimdisk::compact::{Mode, Outcome};

use super::image::{Disk, TOOLS};
use super::{RECIPES, expected, options};
use crate::end_to_end::{compact, plan};
use crate::support::{Scratch, have, sh};
use crate::vhd_model::read_strictly;

const BLOCK: usize = 2 << 20;

#[test]
fn logical_volumes_are_sound_after_compacting() {
    let test = "logical_volumes_are_sound_after_compacting";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let mut saved = 0;
    for recipe in RECIPES {
        let disk = Disk::make(&scratch, recipe);
        let (raw, vhd) = (scratch.path("disk.raw"), scratch.path("disk.vhd"));
        fs::write(&raw, &disk.bytes).unwrap();
        for dropping in [false, true] {
            let cell = format!("{}, dropping {dropping}", recipe.name);
            let (from, to) = (raw.display(), vhd.display());
            sh(&format!(
                "rm -f {to}; qemu-img convert -f raw -O vpc -o force_size=on {from} {to}"
            ));
            let mut options = options(Mode::Quick, dropping);
            options.verify = true;
            let planned = plan(&vhd, &options);
            let report = compact(&vhd, &options);
            assert_eq!(report.error, None, "{cell}");
            assert_eq!(report.outcome, Outcome::Compacted, "{cell}");
            assert_eq!(planned.blocks, report.blocks, "{cell}");
            assert!(report.verified.is_some(), "{cell}");
            let (verdicts, kept) = expected(&disk, &options, BLOCK);
            let stay = verdicts
                .iter()
                .filter(|v| **v == slimdisk::compact::Verdict::Live)
                .count();
            assert_eq!(report.blocks.allocated_after, stay as u64, "{cell}");
            assert_eq!(report.kept, kept, "{cell}");
            let blocks = fs::read(&vhd).unwrap();
            let blocks = read_strictly(&blocks).unwrap();
            assert_eq!(blocks.iter().flatten().count(), stay, "{cell}");
            saved += report.blocks.allocated_before - report.blocks.allocated_after;

            let back = scratch.path("back.raw");
            sh(&format!("qemu-img convert -f vpc -O raw {to} {}", back.display()));
            let bytes = fs::read(&back).unwrap();
            disk.judge_contents(&scratch, &bytes);
            // lvm2 finds what it found before.
            let mut again = Disk {
                bytes,
                volumes: Default::default(),
                unallocated: Default::default(),
                partitions: disk.partitions.clone(),
                bare: disk.bare,
                segments: String::new(),
            };
            let said = super::image::with_lvm(&back, &again.partitions, "l vgck");
            again.judge(&said);
            assert_eq!(again.unallocated, disk.unallocated, "{cell}");
            for (name, volume) in &disk.volumes {
                assert_eq!(volume.pieces, again.volumes[name].pieces, "{cell}: {name}");
            }
            let again = compact(&vhd, &options);
            assert_eq!(again.outcome, Outcome::NothingToDo, "{cell}");
        }
    }
    assert!(saved > 50, "{saved}");
}
