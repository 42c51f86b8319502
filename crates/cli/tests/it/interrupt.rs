//! Ctrl-C: a sound image, and an exit code that tells.

#![cfg(unix)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::command::{Ran, copy, image, kept_file, run, slimdisk};
use crate::support::{Noise, Scratch, sh, skip};

/// The image of all tests with noise enough behind it to keep a run busy: its
/// volume ends where the image of the other tests does, and 400 MiB follow.
pub fn large(test: &str, scratch: &Scratch) -> Option<PathBuf> {
    image(test, scratch)?;
    let raw = scratch.path("raw");
    let noise = Noise::new(3).bytes(64 << 20);
    let mut bytes = std::fs::read(&raw).unwrap();
    for part in 0..5u8 {
        bytes.extend(noise.iter().map(|byte| byte ^ part));
        // A stretch of zeros, allocated by `-S 0`, for blocks to be moved into.
        bytes.extend(std::iter::repeat_n(0, 16 << 20));
    }
    std::fs::write(&raw, bytes).unwrap();
    sh(&format!(
        "cd {}; qemu-img convert -S 0 -O vpc -o subformat=dynamic,force_size=on raw big.vhd
         rm disk.vhd",
        scratch.dir().display()
    ));
    Some(scratch.path("big.vhd"))
}

/// Starts a command and waits until it reports `phase`.
fn start(args: &[&str], disk: &Path, phase: &str) -> (Child, String, impl Read + use<>) {
    let mut child = slimdisk()
        .args(args)
        .args(["--json", "--progress", "json"])
        .arg(disk)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut err = BufReader::new(child.stderr.take().unwrap());
    let mut seen = String::new();
    while !seen.contains(&format!("\"phase\":\"{phase}\"")) {
        if err.read_line(&mut seen).unwrap() == 0 {
            break;
        }
    }
    (child, seen, err)
}

/// A compaction of a copy of `disk` that got `signal` in `phase`; `None` if it
/// was done before the signal came, five times in a row.
fn interrupted(disk: &Path, signal: &str, phase: &str) -> Option<(PathBuf, Ran)> {
    for _ in 0..5 {
        let stopped = copy(disk, "stopped.vhd");
        let args = ["compact", "--mode", "full"];
        let (mut child, mut seen, mut err) = start(&args, &stopped, phase);
        sh(&format!("kill -{signal} {} || true", child.id()));
        err.read_to_string(&mut seen).unwrap();
        let mut out = String::new();
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        let code = child.wait().unwrap().code().unwrap_or(-1);
        if code != 0 {
            return Some((stopped, Ran { code, out, err: seen }));
        }
    }
    None
}

#[test]
fn a_signal_stops_at_a_sound_point_and_running_again_continues() {
    let test = "a_signal_stops_at_a_sound_point_and_running_again_continues";
    let scratch = Scratch::new("interrupt");
    let Some(disk) = large(test, &scratch) else { return };
    let plan = run(&["plan", "--mode", "full", "--json"], &[&disk]).ok().object();
    for (signal, code, phase) in
        [("INT", 130, "search"), ("INT", 130, "relocate"), ("TERM", 143, "relocate")]
    {
        let Some((stopped, ran)) = interrupted(&disk, signal, phase) else {
            skip(test, "a host slow enough to be interrupted");
            continue;
        };
        assert_eq!(ran.code, code, "{}{}", ran.err, ran.out);
        assert!(ran.err.contains("stopping at the next sound point"), "{}", ran.err);
        let report = ran.object();
        assert_eq!(report["outcome"], "cancelled", "{report:#}");
        assert!(report["error"].is_null(), "{report:#}");
        let len = std::fs::metadata(&stopped).unwrap().len();
        assert_eq!(report["file_size_after"], len);
        run(&["check"], &[&stopped]).ok();
        same_guest(&disk, &stopped);

        let again =
            run(&["compact", "--mode", "full", "--json"], &[&stopped]).ok().object();
        assert_eq!(again["outcome"], "compacted");
        assert_eq!(again["file_size_after"], plan["file_size_after"]);
    }
}

#[test]
fn a_second_signal_ends_at_once_and_that_is_safe_too() {
    let test = "a_second_signal_ends_at_once_and_that_is_safe_too";
    let scratch = Scratch::new("interrupt-twice");
    let Some(disk) = large(test, &scratch) else { return };
    let stopped = copy(&disk, "stopped.vhd");
    let (mut child, _, mut err) =
        start(&["compact", "--mode", "full"], &stopped, "release");
    // Both wait for a process that stands still, so both are there before it can
    // reach a sound point.
    sh(&format!(
        "kill -STOP {0}; kill -INT {0}; kill -TERM {0}; kill -CONT {0}",
        child.id()
    ));
    let mut rest = String::new();
    err.read_to_string(&mut rest).unwrap();
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    let code = child.wait().unwrap().code();
    assert!(matches!(code, Some(130 | 143)), "{code:?} {rest}");
    assert_eq!(out, "", "the second signal was not heeded");
    run(&["check"], &[&stopped]).ok();
    same_guest(&disk, &stopped);
}

#[test]
fn disks_after_an_interrupt_are_not_begun() {
    let test = "disks_after_an_interrupt_are_not_begun";
    let scratch = Scratch::new("interrupt-several");
    let Some(disk) = large(test, &scratch) else { return };
    let other = copy(&disk, "other.vhd");
    let before = std::fs::metadata(&other).unwrap().len();
    let mut child = slimdisk()
        .args(["compact", "--progress", "json"])
        .args([&disk, &other])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut err = BufReader::new(child.stderr.take().unwrap());
    let mut seen = String::new();
    err.read_line(&mut seen).unwrap();
    sh(&format!("kill -INT {}", child.id()));
    err.read_to_string(&mut seen).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{seen}");
    assert!(seen.contains("other.vhd: not begun"), "{seen}");
    assert_eq!(std::fs::metadata(&other).unwrap().len(), before);
}

/// Whether two images hold the same volume, by qemu-img and e2fsck.
pub fn same_guest(one: &Path, other: &Path) {
    // The noise behind the volume is not judged by its map: all of it must be
    // there, and so must the zeros.
    let dir = one.parent().unwrap().display();
    sh(&format!(
        "cd {dir}
         qemu-img convert -f vpc -O raw {} one.raw
         qemu-img convert -f vpc -O raw {} two.raw
         cmp -i 67108864 one.raw two.raw
         rm one.raw two.raw",
        one.display(),
        other.display()
    ));
    kept_file(other);
}

#[test]
fn a_conversion_that_is_interrupted_leaves_no_file() {
    let test = "a_conversion_that_is_interrupted_leaves_no_file";
    let scratch = Scratch::new("interrupt-convert");
    let Some(disk) = large(test, &scratch) else { return };
    let new = scratch.path("new.vhd");
    let (child, mut seen, mut err) =
        start(&["convert", "--verify", disk.to_str().unwrap()], &new, "copy");
    sh(&format!("kill -TERM {} || true", child.id()));
    err.read_to_string(&mut seen).unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.code() == Some(0) {
        skip(test, "a host slow enough to be interrupted");
        return;
    }
    assert_eq!(output.status.code(), Some(143), "{seen}");
    let ran =
        Ran { code: 143, out: String::from_utf8(output.stdout).unwrap(), err: seen };
    assert_eq!(ran.object()["outcome"], "cancelled");
    let mut left: Vec<_> = std::fs::read_dir(scratch.dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["big.vhd", "raw"]);
}
