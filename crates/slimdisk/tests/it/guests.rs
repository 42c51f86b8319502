//! Guests that live on: a disk is compacted, then a driver of the guest's own kind
//! mounts it for writing, finds every file, writes more and deletes some; and the file
//! system's checker finds nothing wrong.

use std::fs;
use std::path::Path;

use slimdisk::compact::Outcome;

use crate::end_to_end::{compact, quick};
use crate::support::{Noise, Scratch, have, sh};

/// How a kind of guest is made, mounted and checked.
struct Guest {
    name: &'static str,
    size: &'static str,
    tools: &'static [&'static str],
    /// Makes the file system in `$v`.
    mkfs: &'static str,
    /// Mounts `$v` at `$m`; `done_with` unmounts it.
    mount: &'static str,
    /// Checks `$v` without a change to it.
    check: &'static str,
}

const LOOP: &str = "loop=$(losetup -f --show $v); again mount $loop $m; \
    done_with() { again umount $m; losetup -d $loop; }";

/// A driver in a process of its own, which may outlive its mount by a moment.
const NTFS: &str = "ntfs-3g $v $m; \
    done_with() { again umount $m; while pgrep -f \"ntfs-3g $v \" >/dev/null; do sleep 0.1; done; }";
const FAT: &str = "fusefat -o rw+ $v $m >/dev/null 2>&1; again mountpoint -q $m; \
    done_with() { again umount $m; while pgrep -f \"fusefat .* $v \" >/dev/null; do sleep 0.1; done; }";
const EXFAT: &str = "loop=$(losetup -f --show $v); mount.exfat-fuse $loop $m >/dev/null 2>&1; \
    done_with() { again umount $m; \
    while pgrep -f \"mount.exfat-fuse $loop \" >/dev/null; do sleep 0.1; done; losetup -d $loop; }";

const GUESTS: &[Guest] = &[
    Guest {
        name: "ext4",
        size: "96M",
        tools: &["mke2fs", "e2fsck", "losetup"],
        mkfs: "mke2fs -q -F -t ext4 -J size=4 $v",
        mount: LOOP,
        check: "e2fsck -fn $v",
    },
    Guest {
        name: "ext3",
        size: "96M",
        tools: &["mke2fs", "e2fsck", "losetup"],
        mkfs: "mke2fs -q -F -t ext3 -b 1024 -J size=4 $v",
        mount: LOOP,
        check: "e2fsck -fn $v",
    },
    Guest {
        name: "xfs",
        size: "320M",
        tools: &["mkfs.xfs", "xfs_repair", "losetup"],
        mkfs: "mkfs.xfs -q $v",
        mount: LOOP,
        check: "xfs_repair -n $v 2>&1",
    },
    Guest {
        name: "btrfs",
        size: "160M",
        tools: &["mkfs.btrfs", "btrfs", "losetup"],
        mkfs: "mkfs.btrfs -q $v >/dev/null 2>&1",
        mount: LOOP,
        check: "btrfs check --readonly --check-data-csum $v 2>&1",
    },
    Guest {
        name: "ntfs",
        size: "96M",
        tools: &["mkntfs", "ntfs-3g", "ntfsfix", "pgrep"],
        mkfs: "mkntfs -q -F -Q $v 2>/dev/null",
        mount: NTFS,
        check: "ntfsfix -n $v",
    },
    Guest {
        name: "fat32",
        size: "96M",
        tools: &["mkfs.fat", "fusefat", "fsck.fat", "pgrep", "mountpoint"],
        mkfs: "mkfs.fat -F 32 -s 1 $v >/dev/null",
        mount: FAT,
        check: "fsck.fat -n $v",
    },
    Guest {
        name: "exfat",
        size: "96M",
        tools: &["mkfs.exfat", "mount.exfat-fuse", "fsck.exfat", "losetup", "pgrep"],
        mkfs: "mkfs.exfat -c 4K $v >/dev/null",
        mount: EXFAT,
        check: "fsck.exfat -n $v",
    },
];

/// Files of all sizes, those that are deleted in folders of their own and among the
/// others.
fn make_pool(dir: &Path) {
    let mut noise = Noise::new(23);
    for number in 0..60 {
        let folder = dir.join(["kept", "gone", "mixed"][number % 3]);
        fs::create_dir_all(&folder).unwrap();
        let len = [900, 70_000, 1_300_000, 400_000][number % 4];
        let name = if number % 2 == 0 { "old" } else { "new" };
        fs::write(folder.join(format!("{name} {number}")), noise.bytes(len)).unwrap();
    }
}

fn lives_on(guest: &Guest) {
    let test = format!("guests::{}", guest.name);
    if !have(&test, guest.tools) || !have(&test, &["qemu-img", "sfdisk"]) {
        return;
    }
    let scratch = Scratch::new(&format!("guest-{}", guest.name));
    make_pool(&scratch.path("pool"));
    // The volume begins at 1 MiB of the disk.
    let prelude = format!(
        "cd {}; v=$PWD/volume; m=$PWD/mnt; mkdir -p $m
         mount_it() {{ {}; }}
         trap '! mountpoint -q $m || done_with' EXIT",
        scratch.dir().display(),
        guest.mount
    );
    sh(&format!(
        "{prelude}
         truncate -s {size} $v; {mkfs}
         mount_it; cp -r pool/. $m/; sync; done_with
         mount_it
         rm -r $m/gone; rm $m/mixed/old*; mkdir $m/late; cp pool/kept/old\\ ? $m/late/
         (cd $m; find . -type f -exec sha256sum {{}} + | sort) > sums
         done_with
         {check} >/dev/null
         truncate -s {size} disk; truncate -s +3M disk
         echo '2048,{size},83' | sfdisk -q disk
         dd if=$v of=disk bs=1M seek=1 conv=notrunc,sparse status=none
         qemu-img convert -O vpc -o force_size=on disk disk.vhd; rm disk $v",
        size = guest.size,
        mkfs = guest.mkfs,
        check = guest.check,
    ));
    let path = scratch.path("disk.vhd");
    let report = compact(&path, &quick());
    assert_eq!(report.error, None);
    assert_eq!(report.outcome, Outcome::Compacted, "{report:?}");
    // Half of 27 MB was deleted, but in how many pieces is up to the driver.
    let won = report.file_size_before - report.file_size_after;
    assert!(won >= 2 << 20, "only {won} bytes were won");

    sh(&format!(
        "{prelude}
         qemu-img convert -f vpc -O raw disk.vhd raw
         dd if=raw of=$v bs=1M skip=1 conv=sparse status=none
         truncate -s {size} $v; rm raw
         mount_it
         (cd $m; find . -type f -exec sha256sum {{}} + | sort) > after
         cmp sums after
         mkdir $m/more; cp pool/gone/* pool/mixed/* $m/more/; rm $m/late/old*; sync
         done_with
         {check} >/dev/null
         mount_it
         for folder in gone mixed; do
             (cd pool/$folder; for file in *; do cmp \"$file\" \"$m/more/$file\"; done)
         done
         (cd $m; find kept mixed -type f -exec sha256sum {{}} + | sort -k2) > after
         (cd pool; find kept mixed -type f ! -path 'mixed/old*' -exec sha256sum {{}} + | sort -k2) > sums
         cmp sums after
         done_with",
        size = guest.size,
        check = guest.check,
    ));
}

fn guest(name: &str) {
    lives_on(GUESTS.iter().find(|guest| guest.name == name).unwrap());
}

#[test]
fn ext4() {
    guest("ext4");
}

#[test]
fn ext3() {
    guest("ext3");
}

#[test]
fn xfs() {
    guest("xfs");
}

#[test]
fn btrfs() {
    guest("btrfs");
}

#[test]
fn ntfs() {
    guest("ntfs");
}

#[test]
fn fat32() {
    guest("fat32");
}

#[test]
fn exfat() {
    guest("exfat");
}
