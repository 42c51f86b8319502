//! What the tests share: tools that may be missing, scratch folders, bytes.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub use crate::noise::Noise;

/// Says by name that a test is skipped; on CI (`SLIMDISK_NO_SKIP=1`) that is a
/// failure instead.
pub fn skip(test: &str, missing: &str) {
    assert!(
        std::env::var_os("SLIMDISK_NO_SKIP").is_none(),
        "{test}: {missing} is missing, and nothing may be missing here"
    );
    eprintln!("SKIPPED {test}: {missing} is missing");
}

/// Whether all of `tools` are installed; says so under the name `test` if not.
///
/// Use as `if !have(test, &["mke2fs"]) { return; }`.
pub fn have(test: &str, tools: &[&str]) -> bool {
    for tool in tools {
        if !on_path(tool) {
            skip(test, tool);
            return false;
        }
    }
    true
}

fn on_path(tool: &str) -> bool {
    // Under Wine there are files of such names, which are no programs of Windows.
    if cfg!(windows) {
        return false;
    }
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .any(|dir| Path::new(dir).join(tool).is_file())
}

/// Runs a shell script with `set -eu`; panics with its output if it fails.
pub fn sh(script: &str) -> String {
    let output = sh_output(script);
    assert!(
        output.status.success(),
        "script failed ({}):\n{script}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// For every script: other tests take loop devices at the same moment, and what was
/// just written may keep a file system busy. Both pass.
const PRELUDE: &str = r#"again() {
    local try
    for try in $(seq 25); do "$@" 2>/dev/null && return 0; sleep 0.2; done
    "$@"
}
"#;

/// Runs a shell script and gives what it did, whatever that was.
pub fn sh_output(script: &str) -> Output {
    let path = std::env::var("PATH").unwrap_or_default();
    Command::new("bash")
        .args(["-euo", "pipefail", "-c", &format!("{PRELUDE}{script}")])
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("LC_ALL", "C")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

/// A folder of its own for one test, removed with it.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(test: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("{test}-{}", std::process::id()));
        // A program that was built elsewhere knows its folder as one of another system.
        let dir = std::path::absolute(dir).unwrap();
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Scratch(dir)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn dir(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// The folder of sample images made by other programs, if it is there.
pub fn samples() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let dir = std::env::var_os("SLIMDISK_SAMPLES")
        .map_or_else(|| root.join("../shared/samples"), PathBuf::from);
    dir.is_dir().then_some(dir)
}

/// The path without links, as it is shown.
pub fn real_path(path: impl AsRef<Path>) -> std::io::Result<PathBuf> {
    let real = path.as_ref().canonicalize()?;
    let text = real.to_str().and_then(|text| text.strip_prefix(r"\\?\"));
    Ok(text.filter(|_| cfg!(windows)).map_or_else(|| real.clone(), PathBuf::from))
}

/// An absolute path of Unix as one of this system.
pub fn on_this_system(path: &str) -> String {
    if cfg!(windows) { format!("C:{path}").replace('/', "\\") } else { path.to_owned() }
}
