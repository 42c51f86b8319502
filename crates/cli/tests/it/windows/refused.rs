//! What Windows refuses, in the words and codes of the command.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use super::Windows;
use crate::command::{Ran, copy, image, kept_file};
use crate::interrupt::large;
use crate::support::{Scratch, sh, sh_output, skip};
use crate::wine::{program_of_c, wine};

/// Another program that has the file.
struct Holder(Child);

impl Holder {
    fn of(path: &Path, access: &str, share: &str) -> Self {
        let mut child = wine(&program_of_c("hold.c"))
            .args([share, access])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), "held", "{access} {share}");
        Holder(child)
    }

    fn let_go(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

fn in_use(ran: &Ran, what: &str) {
    assert_eq!(ran.code, 75, "{what}: {}{}", ran.out, ran.err);
    assert!(ran.err.contains("hint: shut the virtual machine down"), "{}", ran.err);
}

#[test]
fn an_image_that_another_program_has_is_in_use() {
    let test = "an_image_that_another_program_has_is_in_use";
    let Some(windows) = Windows::command(test) else { return };
    let scratch = Scratch::new("windows-in-use");
    let Some(disk) = image(test, &scratch) else { return };
    let before = fs::read(&disk).unwrap();
    // Its access, what it lets others do, and whether the image can be read meanwhile.
    for (access, share, reads) in [
        ("rw", "-", false),
        ("rw", "r", false),
        ("rw", "rwd", false),
        ("w", "rw", false),
        ("r", "-", false),
        ("r", "r", true),
        ("r", "rwd", true),
    ] {
        let holder = Holder::of(&disk, access, share);
        let what = format!("{access}, shared {share}");
        in_use(&windows.run(&["compact"], &[&disk]), &what);
        let json = windows.run(&["compact", "--json"], &[&disk]);
        assert_eq!(json.object()["error"]["kind"], "InUse", "{what}");
        assert_eq!(json.object()["error"]["hresult"], "0x80070020", "{what}");
        let plan = windows.run(&["plan"], &[&disk]);
        match reads {
            true => assert_eq!(plan.code, 0, "{what}: {}", plan.err),
            false => in_use(&plan, &what),
        }
        holder.let_go();
        assert!(fs::read(&disk).unwrap() == before, "{what}");
    }
    windows.run(&["compact"], &[&disk]).ok();
    kept_file(&disk);
}

#[test]
fn the_second_of_two_commands_finds_it_in_use() {
    let test = "the_second_of_two_commands_finds_it_in_use";
    let Some(windows) = Windows::command(test) else { return };
    let scratch = Scratch::new("windows-two");
    let Some(disk) = large(test, &scratch) else { return };
    for _ in 0..5 {
        let disk = copy(&disk, "both.vhd");
        let mut first = windows
            .start()
            .args(["compact", "--mode", "full", "--verify", "--progress", "json"])
            .arg(&disk)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut err = BufReader::new(first.stderr.take().unwrap());
        err.read_line(&mut String::new()).unwrap();
        let second = windows.run(&["compact"], &[&disk]);
        std::io::copy(&mut err, &mut std::io::sink()).unwrap();
        assert_eq!(first.wait().unwrap().code(), Some(0));
        if second.code != 0 {
            return in_use(&second, "two of them");
        }
    }
    skip(test, "a host slow enough for two at once");
}

#[test]
fn a_full_disk_is_7_and_leaves_nothing() {
    let test = "a_full_disk_is_7_and_leaves_nothing";
    let Some(windows) = Windows::command(test) else { return };
    let scratch = Scratch::new("windows-full");
    let Some(disk) = image(test, &scratch) else { return };
    let small = scratch.path("small");
    fs::create_dir(&small).unwrap();
    let mount = format!("again mount -t tmpfs -o size=6m none {}", small.display());
    if !sh_output(&mount).status.success() {
        return skip(test, "the right to mount (root)");
    }
    let new = small.join("new.vhd");
    let fixed = ["create", "--json", "--fixed", "--size", "32M"];
    let runs = [
        windows.run(&["convert", "--json"], &[&disk, &new]),
        windows.run(&fixed, &[&new]),
    ];
    let left = fs::read_dir(&small).unwrap().count();
    sh(&format!("again umount {}", small.display()));
    for ran in runs {
        assert_eq!(ran.code, 7, "{}{}", ran.out, ran.err);
        assert_eq!(ran.object()["error"]["kind"], "DiskFull", "{}", ran.out);
    }
    assert_eq!(left, 0);
}
