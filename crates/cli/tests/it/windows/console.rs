//! The bar and the colours, in a console that Wine shows on a terminal. (Whether a real
//! console is told to heed escape sequences is not seen by this: Wine 8 passes them on.)

use super::Windows;
use crate::command::{image, run};
use crate::interrupt::large;
use crate::support::{Scratch, have, sh};
use crate::wine::built;

/// What a terminal is sent while the command runs in a console on it.
fn shown(scratch: &Scratch, exe: &std::path::Path, rest: &str) -> String {
    let runner =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../targets/wine");
    let target = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    sh(&format!(
        "cd {}; export CARGO_TARGET_DIR={} TERM=xterm-256color LC_ALL=C.UTF-8; unset NO_COLOR
         script -qec 'stty cols 100 rows 40; {} {} {rest}' shown </dev/null >/dev/null
         cat shown",
        scratch.dir().display(),
        target.display(),
        runner.display(),
        exe.display()
    ))
}

#[test]
fn a_console_shows_the_bar_and_colours() {
    let test = "a_console_shows_the_bar_and_colours";
    if Windows::command(test).is_none() || !have(test, &["script"]) {
        return;
    }
    let Some(exe) = built(test, "slimdisk.exe") else { return };
    let scratch = Scratch::new("windows-console");
    let Some(disk) = image(test, &scratch) else { return };
    let seen = shown(&scratch, &exe, "plan disk.vhd");
    assert!(seen.contains("would win"), "{seen:?}");
    let green = "\x1b[32m22.0 MiB";
    assert!(seen.contains(green), "{seen:?}");
    let plain = shown(&scratch, &exe, "plan --color never disk.vhd");
    assert!(plain.contains("would win 22.0 MiB") && !plain.contains(green), "{plain:?}");
    drop(disk);
    let Some(disk) = large(test, &scratch) else { return };
    let seen = shown(&scratch, &exe, "compact --mode full --verify big.vhd");
    assert!(seen.contains("[==") && seen.contains("MiB/s"), "{seen:?}");
    run(&["check", "-q"], &[&disk]).ok();
}
