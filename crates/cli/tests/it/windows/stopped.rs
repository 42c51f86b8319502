//! Ctrl-C, Ctrl-Break and a closed window.

use std::fs;
use std::path::{Path, PathBuf};

use super::Windows;
use crate::command::{Ran, clean, copy, run};
use crate::interrupt::{large, same_guest};
use crate::support::{Scratch, skip};
use crate::wine::{built, program_of_c, wine};

/// A compaction of a copy of `disk` that was ended in `phase`; `None` if it was done
/// before, five times in a row.
fn ended(disk: &Path, how: &str, phase: &str) -> Option<(PathBuf, Ran)> {
    let exe = built("ended", "slimdisk.exe")?;
    for _ in 0..5 {
        let stopped = copy(disk, "stopped.vhd");
        let mut end = clean(wine(&program_of_c("end.c")));
        end.args([how, &format!("\"phase\":\"{phase}\"")]).arg(&exe);
        end.args(["compact", "--mode", "full", "--json", "--progress", "json"]);
        let ran = Ran::from(end.arg(&stopped).output().unwrap());
        if ran.code != 0 {
            return Some((stopped, ran));
        }
    }
    None
}

#[test]
fn ctrl_c_ctrl_break_and_a_closed_window_stop_at_a_sound_point() {
    let test = "ctrl_c_ctrl_break_and_a_closed_window_stop_at_a_sound_point";
    let Some(windows) = Windows::command(test) else { return };
    let scratch = Scratch::new("windows-stopped");
    let Some(disk) = large(test, &scratch) else { return };
    let plan = run(&["plan", "--mode", "full", "--json"], &[&disk]).ok().object();
    for (how, phase) in [("c", "relocate"), ("break", "search"), ("close", "relocate")] {
        let Some((stopped, ran)) = ended(&disk, how, phase) else {
            skip(test, &format!("a host slow enough for {how} in {phase}"));
            continue;
        };
        // Behind a closed window the system leaves no time to say anything.
        if how != "close" {
            assert_eq!(ran.code, 130, "{how} {phase}: {}{}", ran.err, ran.out);
            assert!(ran.err.contains("stopping at the next sound point"), "{}", ran.err);
            let report = ran.object();
            assert_eq!(report["outcome"], "cancelled", "{report:#}");
            assert!(report["error"].is_null(), "{report:#}");
            assert_eq!(report["file_size_after"], fs::metadata(&stopped).unwrap().len());
        }
        run(&["check", "-q"], &[&stopped]).ok();
        same_guest(&disk, &stopped);
        let again = ["compact", "--mode", "full", "--json"];
        let again = windows.run(&again, &[&stopped]).ok().object();
        assert_eq!(again["outcome"], "compacted");
        assert_eq!(again["file_size_after"], plan["file_size_after"]);
    }
}

#[test]
fn the_second_event_ends_at_once() {
    let test = "the_second_event_ends_at_once";
    if Windows::command(test).is_none() {
        return;
    }
    let scratch = Scratch::new("windows-twice");
    let Some(disk) = large(test, &scratch) else { return };
    let Some((stopped, ran)) = ended(&disk, "twice", "release") else {
        return skip(test, "a host slow enough to be interrupted");
    };
    assert_eq!(ran.code, 130, "{}", ran.err);
    assert_eq!(ran.out, "", "the second event was not heeded");
    run(&["check", "-q"], &[&stopped]).ok();
    same_guest(&disk, &stopped);
}
