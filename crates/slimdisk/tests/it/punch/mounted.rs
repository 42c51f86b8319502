//! Punching on a real file system that knows no holes.

use std::fs;

use slimdisk::compact::{Mode, Punch};

use super::{make, punching};
use crate::end_to_end::{Kind, Volume, compact};
use crate::new_file::EXFAT;
use crate::storage::opening::Mount;
use crate::support::{Scratch, have, sh};

#[test]
fn on_exfat_it_is_refused_and_nothing_is_written() {
    let test = "on_exfat_it_is_refused_and_nothing_is_written";
    let tools = [
        "mke2fs",
        "debugfs",
        "dumpe2fs",
        "qemu-img",
        "mkfs.exfat",
        "mount.exfat-fuse",
        "losetup",
    ];
    if !have(test, &tools) {
        return;
    }
    let scratch = Scratch::new(test);
    let image = scratch.path("fs");
    let image = image.display();
    sh(&format!("truncate -s 400M {image}; mkfs.exfat {image} >/dev/null"));
    let mount = Mount::new(test, &scratch, &format!("I={image}; {EXFAT}"));
    let Some(mount) = mount else { return };
    let volume = Volume::make(&scratch, Kind::Ext("-t ext4 -b 4096"));
    let made = make(&scratch, &volume.bytes, "vhdx");
    let path = mount.0.join("disk.vhdx");
    fs::copy(&made, &path).unwrap();
    let before = fs::read(&path).unwrap();
    for punch in [Punch::Only, Punch::Also] {
        let error = compact(&path, &punching(Mode::Quick, punch)).error.unwrap();
        assert_eq!(error.kind, "InvalidArgument", "{error:?}");
        assert!(error.message.contains("holes"), "{error:?}");
        assert!(fs::read(&path).unwrap() == before, "{punch:?} has written");
    }
}
