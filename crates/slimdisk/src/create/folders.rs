//! The folders that a new file needs and that may be missing.

use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::storage;

/// A folder with links followed, as far as it is there.
pub fn resolve(folder: &Path) -> Result<PathBuf> {
    let mut missing = Vec::new();
    let mut there = folder;
    loop {
        let asked = if there.as_os_str().is_empty() { Path::new(".") } else { there };
        match storage::real_path(asked) {
            Ok(mut real) => {
                if !real.is_dir() {
                    let what = "what should be a folder of the path is a file";
                    return Err(Error::new(Kind::PathNotFound, what));
                }
                real.extend(missing.iter().rev());
                return Ok(real);
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("cannot find the file's folder", e)),
        }
        // A link that leads nowhere is no missing folder.
        let dangling = there.symlink_metadata().is_ok();
        match (there.components().next_back(), there.parent()) {
            (Some(Component::Normal(name)), Some(parent)) if !dangling => {
                missing.push(name.to_owned());
                there = parent;
            }
            _ => {
                let what = "the file's folder does not exist and cannot be made";
                return Err(Error::new(Kind::PathNotFound, what));
            }
        }
    }
}

/// The folders that were made, the outermost first.
#[derive(Default)]
pub struct Folders(Vec<PathBuf>);

impl Folders {
    /// Makes a folder and those it lies in, and makes that durable.
    pub fn make(&mut self, folder: &Path) -> Result<()> {
        let mut missing: Vec<&Path> =
            folder.ancestors().take_while(|folder| !folder.is_dir()).collect();
        while let Some(next) = missing.pop() {
            match fs::create_dir(next) {
                Ok(()) => self.0.push(next.to_owned()),
                // Somebody was quicker.
                Err(e) if e.kind() == ErrorKind::AlreadyExists && next.is_dir() => {}
                Err(e) => {
                    return Err(Error::io("cannot make the folder", e).in_file(next));
                }
            }
            if let Some(parent) = next.parent() {
                storage::sync_folder(parent)?;
            }
        }
        Ok(())
    }

    /// Removes them, as far as nobody has put anything in.
    pub fn remove(self) {
        for folder in self.0.iter().rev() {
            // What is in use stays, and what went wrong before says more.
            let _ = fs::remove_dir(folder);
        }
    }
}
