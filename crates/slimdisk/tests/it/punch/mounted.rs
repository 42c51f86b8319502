//! Punching on a real file system that knows no holes.

use std::fs;

use slimdisk::compact::{Mode, Punch};

use super::{make, punching};
use crate::end_to_end::{Kind, Volume, compact};
use crate::storage::opening::Mount;
use crate::support::{Scratch, have};

#[test]
fn on_fat_it_is_refused_and_nothing_is_written() {
    let test = "on_fat_it_is_refused_and_nothing_is_written";
    let tools = ["mke2fs", "debugfs", "dumpe2fs", "qemu-img", "mkfs.vfat", "losetup"];
    if !have(test, &tools) {
        return;
    }
    let scratch = Scratch::new(test);
    let Some(mount) = Mount::made_by("mkfs.vfat", "400M", test, &scratch) else { return };
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
