//! The reference's own sample, in C.

use std::fs;

use crate::images::{kept, with_something_to_win};
use crate::installed::{Link, program, run, run_in_valgrind};
use crate::situation::text;
use crate::support::{Scratch, have};

#[test]
fn compact_with_timeout_wins_what_is_free_and_leaves_no_leak() {
    let test = "compact_with_timeout_wins_what_is_free_and_leaves_no_leak";
    let scratch = Scratch::new("capi-sample");
    let Some(original) = with_something_to_win(test, &scratch) else { return };
    if !have(test, &["valgrind"]) {
        return;
    }
    for compiler in ["gcc", "clang"] {
        for valgrind in [false, true] {
            let Some(sample) =
                program(test, "compact_with_timeout", compiler, Link::Shared)
            else {
                return;
            };
            let what = format!("{compiler}, valgrind {valgrind}");
            let disk = scratch.path("copy.vhd");
            fs::copy(&original, &disk).unwrap();
            let before = fs::metadata(&disk).unwrap().len();
            let run = if valgrind { run_in_valgrind } else { run };
            let said = run(&sample, &[text(&disk), "600"]);
            let after = fs::metadata(&disk).unwrap().len();
            assert_eq!(said, format!("{before} bytes before, {after} after\n"), "{what}");
            assert!(before - after > 18 << 20, "{what}: {said}");
            assert!(kept(&disk), "{what}");
        }
    }
}

#[test]
fn compact_with_timeout_tells_what_is_wrong() {
    let test = "compact_with_timeout_tells_what_is_wrong";
    let scratch = Scratch::new("capi-sample-wrong");
    let Some(sample) = program(test, "compact_with_timeout", "gcc", Link::Static) else {
        return;
    };
    let disk = scratch.path("text.vhd");
    crate::images::text_file(&disk);
    let missing = scratch.path("missing.vhd");
    for (path, seconds, says) in [
        (&disk, "9", "not compacted: 0xA0040682: "),
        (&missing, "9", "no disk: 0x80070002: "),
        (&disk, "0", "not compacted: 0x80070057"),
        (&disk, "-1", "not compacted: 0x80070057"),
    ] {
        let output = std::process::Command::new(&sample)
            .args([text(path), seconds])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(err.starts_with(says), "{err}");
    }
}
