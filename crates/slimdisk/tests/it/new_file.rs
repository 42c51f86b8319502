//! Files that are there whole or not at all: on file systems of all kinds, on full ones,
//! beside others who want the same name.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use slimdisk::Kind;
use slimdisk::storage::{HostFile, NewFile, Storage, free_space};

use crate::storage::opening::Mount;
use crate::support::{Scratch, have, sh, sh_output};

const MIB: u64 = 1 << 20;

/// The names in a folder.
pub fn names(dir: &Path) -> Vec<OsString> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// Waits until a file that was dropped is gone: a process that another test starts has it
/// for a moment, too.
#[track_caller]
pub fn wait_for_room(path: &Path, room: u64) {
    for _ in 0..500 {
        if free_space(path).unwrap() == room {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{} bytes free, not {room}", free_space(path).unwrap());
}

fn kind_of(path: &Path) -> Option<Kind> {
    NewFile::create(path).err().map(|e| e.kind())
}

/// A file of 3 bytes and then 1 MiB of room, in the folder `dir`.
fn comes_whole_in(dir: &Path, unnamed: bool) {
    let before = names(dir);
    let path = dir.join("new.img");
    for keep in [false, true] {
        let new = NewFile::create(&path).unwrap();
        new.file().write_at(0, b"abc").unwrap();
        new.reserve(MIB).unwrap();
        assert_eq!(slimdisk::storage::ReadAt::len(&**new.file()), MIB);
        // Nothing is to be seen of it where that can be had.
        let meanwhile = names(dir);
        assert!(!meanwhile.contains(&"new.img".into()));
        assert_eq!(meanwhile == before, unnamed, "{meanwhile:?}");
        assert_eq!(new.path(), path);
        if !keep {
            drop(new);
            assert_eq!(names(dir), before);
            continue;
        }
        new.keep().unwrap();
        let content = fs::read(&path).unwrap();
        assert_eq!(content.len() as u64, MIB);
        assert_eq!(content[..4], *b"abc\0");
        assert!(content[3..].iter().all(|byte| *byte == 0));
        assert_eq!(names(dir).len(), before.len() + 1);
        // Nobody has it any more.
        HostFile::open_exclusive(&path).unwrap();
    }
    // What is there stays.
    assert_eq!(kind_of(&path), Some(Kind::AlreadyExists));
    assert_eq!(fs::metadata(&path).unwrap().len(), MIB);
    // And what comes meanwhile.
    let (a, b) = (dir.join("a"), dir.join("b"));
    let new = NewFile::create(&a).unwrap();
    fs::write(&a, "first").unwrap();
    assert_eq!(new.keep().unwrap_err().kind(), Kind::AlreadyExists);
    assert_eq!(fs::read(&a).unwrap(), b"first");
    // Unless it is to be replaced.
    for target in [&a, &b] {
        let new = NewFile::create_replacing(target).unwrap();
        new.file().write_at(0, b"second").unwrap();
        new.keep().unwrap();
        assert_eq!(fs::read(target).unwrap(), b"second");
    }
    drop(NewFile::create_replacing(&b).unwrap());
    for path in [&path, &a, &b] {
        fs::remove_file(path).unwrap();
    }
    // FUSE keeps a removed file under a name of its own until it hears, a little later,
    // that nobody has it open.
    for _ in 0..500 {
        if names(dir) == before {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(names(dir), before);
}

#[test]
fn files_come_whole() {
    let scratch = Scratch::new("files_come_whole");
    comes_whole_in(scratch.dir(), true);
}

/// Mounts the file `$I` as exFAT; the loop device goes with the mount.
pub const EXFAT: &str = "go() { l=$(losetup -f --show $I); \
     mount.exfat-fuse $l $1 >/dev/null 2>&1; losetup -d $l; mountpoint -q $1; }; go";

#[test]
fn files_come_whole_on_other_file_systems() {
    let test = "files_come_whole_on_other_file_systems";
    let tools = [
        "mke2fs",
        "mkfs.xfs",
        "mkfs.exfat",
        "mount.exfat-fuse",
        "losetup",
        "mkntfs",
        "ntfs-3g",
    ];
    if !have(test, &tools) {
        return;
    }
    let scratch = Scratch::new(test);
    let image = scratch.path("fs");
    // ext2 sets no room aside; exFAT has neither files without names nor second names.
    for (make, mount, unnamed) in [
        (
            "truncate -s 40M $I; mke2fs -q -F -t ext2 -b 1024",
            "again mount -o loop $I",
            true,
        ),
        ("truncate -s 40M $I; mke2fs -q -F -t ext4", "again mount -o loop $I", true),
        ("truncate -s 400M $I; mkfs.xfs -q -f", "again mount -o loop $I", true),
        ("truncate -s 40M $I; mkfs.exfat", EXFAT, false),
    ] {
        sh(&format!("I={0}; rm -f $I; {make} $I >/dev/null", image.display()));
        let mount = format!("I={0}; {mount}", image.display());
        let Some(mount) = Mount::new(test, &scratch, &mount) else { return };
        comes_whole_in(&mount.0, unnamed);
    }
    let tmpfs = "mount -t tmpfs -o size=8m none";
    let Some(mount) = Mount::new(test, &scratch, tmpfs) else { return };
    comes_whole_in(&mount.0, true);
    drop(mount);
    // Second names, but none without any: a file system in user space.
    let image = crate::ntfs::image::mkntfs(&scratch, "ntfs", 40 * MIB, "");
    let mounted = crate::ntfs::image::mount(&image, "");
    comes_whole_in(&mounted.dir, false);
}

#[test]
fn what_is_there_is_never_replaced() {
    let scratch = Scratch::new("what_is_there_is_never_replaced");
    let at = |name: &str| scratch.path(name);
    fs::write(at("file"), "").unwrap();
    fs::create_dir(at("folder")).unwrap();
    symlink("file", at("link")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    for name in ["file", "folder", "link", "dangling"] {
        assert_eq!(kind_of(&at(name)), Some(Kind::AlreadyExists), "{name}");
    }
    assert_eq!(kind_of(&at("no/file")), Some(Kind::PathNotFound));
    assert_eq!(kind_of(&at("file/file")), Some(Kind::PathNotFound));
    assert_eq!(kind_of(&at("dangling/file")), Some(Kind::PathNotFound));
    assert_eq!(kind_of(&at("folder/x/..")), Some(Kind::BadPath));
    assert_eq!(kind_of(Path::new("")), Some(Kind::BadPath));
    assert_eq!(kind_of(Path::new("/")), Some(Kind::BadPath));
    let mut slash = at("new").into_os_string();
    slash.push("/");
    assert_eq!(kind_of(Path::new(&slash)), Some(Kind::BadPath));
    assert_eq!(kind_of(&at(&"n".repeat(256))), Some(Kind::PathTooLong));
    // As long as a name may be, with a temporary one beside it.
    symlink(scratch.dir(), at("way")).unwrap();
    let long = "n".repeat(255);
    NewFile::create_replacing(&at("way").join(&long)).unwrap().keep().unwrap();
    assert!(at(&long).is_file());
    assert_eq!(names(scratch.dir()).len(), 6);
}

#[test]
fn new_files_are_as_others_of_this_user() {
    let scratch = Scratch::new("new_files_are_as_others_of_this_user");
    let (ours, theirs) = (scratch.path("ours"), scratch.path("theirs"));
    NewFile::create(&ours).unwrap().keep().unwrap();
    fs::write(&theirs, "").unwrap();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&ours), mode(&theirs));
}

#[test]
fn room_is_set_aside_or_found_missing_at_once() {
    let test = "room_is_set_aside_or_found_missing_at_once";
    let scratch = Scratch::new(test);
    // Really set aside.
    let path = scratch.path("reserved");
    let new = NewFile::create(&path).unwrap();
    new.reserve(5 * MIB + 512).unwrap();
    new.keep().unwrap();
    let found = fs::metadata(&path).unwrap();
    assert_eq!(found.len(), 5 * MIB + 512);
    assert!(found.blocks() * 512 >= found.len());
    // More than there is, and more than there can be.
    let kind = |dir: &Path, len| {
        let new = NewFile::create(&dir.join("x")).unwrap();
        let kind = new.reserve(len).err().map(|e| e.kind());
        drop(new);
        assert_eq!(dir.join("x").symlink_metadata().ok().map(|m| m.len()), None);
        kind
    };
    assert_eq!(kind(scratch.dir(), u64::MAX), Some(Kind::FileTooLarge));
    if !have(test, &["mke2fs"]) {
        return;
    }
    let image = scratch.path("fs");
    let file_systems = [
        ("mke2fs -q -F -t ext2 -b 1024", 17 << 30),
        ("mke2fs -q -F -t ext4 -b 1024", 1 << 45),
    ];
    for (mkfs, too_large) in file_systems {
        let make = format!("rm -f {0}; truncate -s 8M {0}; {mkfs} {0}", image.display());
        sh(&make);
        let mount = format!("again mount -o loop {}", image.display());
        let Some(mount) = Mount::new(test, &scratch, &mount) else { return };
        let room = free_space(&mount.0.join("x")).unwrap();
        assert!((4 * MIB..8 * MIB).contains(&room), "{room}");
        assert_eq!(kind(&mount.0, room + 1), Some(Kind::DiskFull), "{mkfs}");
        assert_eq!(kind(&mount.0, too_large), Some(Kind::FileTooLarge), "{mkfs}");
        assert_eq!(kind(&mount.0, room / 2), None, "{mkfs}");
        let new = NewFile::create(&mount.0.join("x")).unwrap();
        assert_eq!(new.require(room + 1).unwrap_err().kind(), Kind::DiskFull);
        new.require(room / 2).unwrap();
        drop(new);
        wait_for_room(&mount.0.join("x"), room);
    }
}

#[test]
fn free_space_is_what_df_says() {
    let test = "free_space_is_what_df_says";
    let scratch = Scratch::new(test);
    // Others write meanwhile.
    let near = |path: &Path| {
        let df = format!("df -B1 --output=avail {} | tail -n1", scratch.dir().display());
        let df: u64 = sh(&df).trim().parse().unwrap();
        free_space(path).unwrap().abs_diff(df) < 2 << 30
    };
    fs::write(scratch.path("file"), "").unwrap();
    for name in ["file", "missing", "missing/folder/file"] {
        assert!(near(&scratch.path(name)), "{name}");
    }
    let tmpfs = "mount -t tmpfs -o size=1m none";
    let Some(mount) = Mount::new(test, &scratch, tmpfs) else { return };
    assert_eq!(free_space(&mount.0.join("x")).unwrap(), MIB);
    // A link to a file counts where the file is.
    fs::write(mount.0.join("real"), "").unwrap();
    symlink(mount.0.join("real"), scratch.path("link")).unwrap();
    assert!(free_space(&scratch.path("link")).unwrap() <= MIB);
}

/// Whoever gives the name does it when all that was written is on the medium.
#[test]
fn the_name_comes_after_the_flush() {
    let test = "the_name_comes_after_the_flush";
    if !have(test, &["strace"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let path = scratch.path("traced");
    let trace = scratch.path("trace");
    let exe = std::env::current_exe().unwrap();
    let output = sh_output(&format!(
        "SLIMDISK_NEW_FILE={} strace -f -o {} -e trace=pwrite64,fsync,fdatasync,linkat,\
         ftruncate,fallocate {} --exact new_file::child_that_makes_a_file --ignored",
        path.display(),
        trace.display(),
        exe.display()
    ));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let trace = fs::read_to_string(trace).unwrap();
    let calls: Vec<&str> = trace
        .lines()
        .filter_map(|line| line.split_once(' ')?.1.trim().split_once('(').map(|c| c.0))
        .collect();
    let tail = calls.len() - 4;
    assert_eq!(calls[tail..], ["pwrite64", "fsync", "linkat", "fsync"], "{trace}");
}

/// Run in a process of its own.
#[test]
#[ignore = "a process that other tests start"]
fn child_that_makes_a_file() {
    let Some(path) = std::env::var_os("SLIMDISK_NEW_FILE") else { return };
    let new = NewFile::create(path.as_ref()).unwrap();
    let file = Arc::clone(new.file());
    file.write_at(0, b"all of it").unwrap();
    drop(file);
    new.keep().unwrap();
}
