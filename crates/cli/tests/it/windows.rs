//! The Windows command under Wine, on images made here, and judged here.

mod console;
mod refused;
mod reports;
mod stopped;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{Ran, clean};
use crate::wine::{built, wine};

/// The Windows command.
pub struct Windows(PathBuf);

impl Windows {
    /// `None`, said under the name `test`, if it cannot be run here.
    pub fn command(test: &str) -> Option<Self> {
        built(test, "slimdisk.exe").map(Windows)
    }

    /// As on Linux, but for the names of files, which Wine reads by the locale.
    pub fn start(&self) -> Command {
        let mut command = clean(wine(&self.0));
        command.env("LC_ALL", "C.UTF-8");
        command
    }

    pub fn run(&self, args: &[&str], paths: &[&Path]) -> Ran {
        self.start().args(args).args(paths).output().unwrap().into()
    }
}
