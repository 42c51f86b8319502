//! Every member once in use, and with everything wrong that can be passed.

use std::fs;

use crate::images;
use crate::installed::{Link, program, run, run_in_valgrind, run_in_valgrind_for_memory};
use crate::situation::text;
use crate::support::{Scratch, have, sh};
use crate::vhd_model::read_strictly;

#[test]
fn every_member_does_its_work() {
    let test = "every_member_does_its_work";
    for (compiler, link, valgrind) in
        [("gcc", Link::Shared, true), ("clang", Link::Static, false)]
    {
        let Some(members) = program(test, "members", compiler, link) else { return };
        if valgrind && !have(test, &["valgrind"]) {
            return;
        }
        let scratch = Scratch::new("capi-members");
        let run = if valgrind { run_in_valgrind_for_memory } else { run };
        run(&members, &[text(scratch.dir())]);
        // What it left, judged by others.
        let size = |name: &str| fs::metadata(scratch.path(name)).unwrap().len();
        assert_eq!(size("floppies/low.vfd"), 737_280);
        assert_eq!(size("floppies/high.vfd"), 1_474_560);
        assert_eq!(size("fixed.vhd"), (3 << 20) + 512);
        for name in ["moved.vhd", "converted.vhd", "merged.vhd", "converted small.vhd"] {
            read_strictly(&fs::read(scratch.path(name)).unwrap()).unwrap();
        }
        if have(test, &["qemu-img"]) {
            sh(&format!(
                "cd '{}'
                 for image in fixed.vhd converted.vhd 'converted small.vhd'; do
                     qemu-img compare -f vpc -F vpc fixed.vhd \"$image\" >/dev/null
                 done
                 for image in 'converted fixed.vhd' merged.vhd 'merged fixed.vhd' again.vhd; do
                     qemu-img compare -f vpc -F vpc moved.vhd \"$image\" >/dev/null
                 done",
                scratch.dir().display()
            ));
        }
        for name in ["missing", "no.vhd", "new folder/dynamic.vhd"] {
            assert!(!scratch.path(name).exists(), "{name}");
        }
    }
}

#[test]
fn wrong_pointers_and_handles_are_told() {
    let test = "wrong_pointers_and_handles_are_told";
    let scratch = Scratch::new("capi-pointers");
    let disk = scratch.path("disk.vhd");
    images::dynamic(&disk, 3, &[1]);
    let Some(pointers) = program(test, "pointers", "gcc", Link::Shared) else { return };
    run(&pointers, &[text(&disk)]);
    if have(test, &["valgrind"]) {
        run_in_valgrind(&pointers, &[text(&disk)]);
    }
    assert!(!std::path::Path::new("/no").exists());
}

#[test]
fn a_shutdown_in_progress_refuses_operations_and_stops_tasks() {
    let test = "a_shutdown_in_progress_refuses_operations_and_stops_tasks";
    let scratch = Scratch::new("capi-shutdown");
    let (_, child) = images::chain(&scratch);
    let disk = scratch.path("large.vhd");
    images::dynamic(&disk, 100, &[3, 50]);
    let before = fs::read(&disk).unwrap();
    let Some(shutdown) = program(test, "shutdown", "gcc", Link::Shared) else { return };
    let prefix = scratch.path("new-");
    run(&shutdown, &[text(&disk), text(&child), text(&prefix)]);
    let blocks = |file: &[u8]| {
        let found = read_strictly(file).unwrap();
        found.iter().map(|b| b.as_ref().map(|b| b.data.to_vec())).collect::<Vec<_>>()
    };
    let (before, after) = (blocks(&before), blocks(&fs::read(&disk).unwrap()));
    for (number, (before, after)) in before.iter().zip(&after).enumerate() {
        // A block of zeros may have been given up by then.
        assert!(after == before || [3, 50].contains(&number), "block {number}");
    }
    let names = fs::read_dir(scratch.dir()).unwrap().count();
    assert_eq!(names, 3, "something was made while shutting down");
}
