//! Read-only commands write nothing, not even a timestamp.

#![cfg(unix)]

use std::os::unix::fs::MetadataExt;

use crate::command::{image, run};
use crate::support::{Scratch, sh};

#[test]
fn read_only_commands_change_nothing() {
    let test = "read_only_commands_change_nothing";
    let scratch = Scratch::new("read-only");
    let Some(disk) = image(test, &scratch) else { return };
    // Under `relatime` a read updates an access time older than the last change.
    sh(&format!(
        "touch -m -d '2020-02-02' {0}; touch -a -d '2019-01-01' {0}",
        disk.display()
    ));
    let state = || {
        let found = std::fs::metadata(&disk).unwrap();
        let times =
            (found.mtime(), found.mtime_nsec(), found.atime(), found.atime_nsec());
        (times, found.ctime(), found.ctime_nsec(), found.len(), found.mode())
    };
    let before = state();
    for args in [
        &["info"][..],
        &["plan"],
        &["plan", "--mode", "full"],
        &["plan", "--mode", "prezeroed"],
        &["compact", "--dry-run", "--verify"],
        &["map"],
        &["check"],
    ] {
        run(args, &[&disk]).ok();
        assert_eq!(state(), before, "{args:?}");
    }
    let bytes = std::fs::read(&disk).unwrap();
    run(&["plan", "--mode", "full"], &[&disk]).ok();
    run(&["check"], &[&disk]).ok();
    assert!(std::fs::read(&disk).unwrap() == bytes);
    let names = std::fs::read_dir(scratch.dir()).unwrap().count();
    assert_eq!(names, 2, "a file was left beside the image");
}

#[test]
fn compact_sets_the_modification_time_back_unless_asked_not_to() {
    let test = "compact_sets_the_modification_time_back_unless_asked_not_to";
    let scratch = Scratch::new("touch");
    let Some(disk) = image(test, &scratch) else { return };
    let touched = crate::command::copy(&disk, "touched.vhd");
    sh(&format!("touch -d '2020-02-02' {} {}", disk.display(), touched.display()));
    let mtime = |path| std::fs::metadata(path).unwrap().mtime();
    let before = mtime(&disk);
    run(&["compact"], &[&disk]).ok();
    assert_eq!(mtime(&disk), before);
    run(&["compact", "--touch"], &[&touched]).ok();
    assert!(mtime(&touched) > before);
}
