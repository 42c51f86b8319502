//! Windows programs under Wine, run from Linux: what they did is judged by Linux' tools.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::support::{have, sh};

fn targets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../targets")
}

/// Where cargo puts what it builds.
fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_owned()
}

/// What was built for Windows, by name; `None`, said under the name `test`, if nothing was
/// or there is no Wine.
pub fn built(test: &str, name: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("SLIMDISK_WINDOWS") else {
        // Not among what nothing may be missing of: another run does it.
        eprintln!("SKIPPED {test}: targets/test runs it");
        return None;
    };
    if !have(test, &["wine", "x86_64-w64-mingw32-gcc"]) {
        return None;
    }
    let file = Path::new(&folder).join(name);
    assert!(file.is_file(), "SLIMDISK_WINDOWS has no {name}");
    Some(file)
}

/// A Windows program to be run.
pub fn wine(program: &Path) -> Command {
    let mut command = Command::new(targets().join("wine"));
    command.env("CARGO_TARGET_DIR", target()).arg(program).stdin(Stdio::null());
    command
}

/// Builds a program for Windows from C, once.
pub fn compiled(source: &Path, flags: &str) -> PathBuf {
    // One at a time: several tests want the same.
    static BUILDING: Mutex<()> = Mutex::new(());
    let _one = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("windows");
    std::fs::create_dir_all(&folder).unwrap();
    let name = source.file_stem().unwrap().to_str().unwrap();
    let program = folder.join(format!("{name}-{}.exe", std::process::id()));
    if !program.exists() {
        sh(&format!(
            "x86_64-w64-mingw32-gcc -Wall -Wextra -Werror -g0 -O1 '{0}' -o '{1}.new' {flags}
             mv '{1}.new' '{1}'",
            source.display(),
            program.display()
        ));
    }
    program
}

/// One of the programs in `targets/windows`.
pub fn program_of_c(name: &str) -> PathBuf {
    compiled(&targets().join("windows").join(name), "-municode -static")
}
