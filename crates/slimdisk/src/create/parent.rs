//! The parent of a disk that is to be made.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::image::parent::{DEEPEST, ParentLookup, open_parents};
use crate::image::{self, Format, Image, NewParent};
use crate::storage::HostFile;

/// An open parent, with its own parents.
pub struct Above {
    pub image: Arc<dyn Image>,
    pub format: &'static dyn Format,
    /// The file, links followed.
    pub path: PathBuf,
    pub notes: Vec<String>,
    id: [u8; 16],
    modified: Option<std::time::SystemTime>,
}

impl Above {
    /// Opens the image at `path` and keeps writers away from it.
    pub fn open(path: &Path, lookup: &ParentLookup) -> Result<Self> {
        let file = Arc::new(HostFile::open_steady(path)?);
        let real = file.path().to_owned();
        let modified = file.modified();
        let lookup = ParentLookup { steady: true, ..lookup.clone() };
        let in_file = |error: Error| match error.path() {
            Some(other) if other != real => error,
            _ => error.in_file(path),
        };
        let open = || {
            let format = image::detect(&file)?;
            let mut image = format.open(file)?;
            image.settled()?;
            let facts = image.facts();
            let chain = open_parents(&mut *image, &real, &lookup)?;
            // Itself, its parents, and the child that is to be made.
            if chain.parents().len() + 2 > DEEPEST {
                return Err(Error::invalid(format!(
                    "a chain of more than {DEEPEST} images"
                )));
            }
            let id = facts.unique_id.filter(|id| *id != [0; 16]).ok_or_else(|| {
                let what = "the image has no unique id, by which a child would know it";
                Error::new(Kind::InvalidImage, what)
            })?;
            Ok((image, format, id, facts.notes))
        };
        let (image, format, id, notes) = open().map_err(in_file)?;
        Ok(Above { image: Arc::from(image), format, path: real, notes, id, modified })
    }

    /// How a child in `folder` names it.
    pub fn named_from(&self, folder: &Path) -> NewParent {
        NewParent {
            id: self.id,
            disk_id: self.image.disk_id(),
            modified: self.modified,
            absolute: self.path.clone(),
            relative: relative(folder, &self.path),
        }
    }
}

/// The way from a folder to a file, both from the root on and with links followed.
fn relative(folder: &Path, file: &Path) -> Option<String> {
    let (mut from, mut to) = (folder.components(), file.components());
    let mut common = 0;
    loop {
        let (rest_from, rest_to) = (from.clone(), to.clone());
        match (from.next(), to.next()) {
            (Some(a), Some(b)) if a == b => common += 1,
            // On another drive.
            _ if common == 0 => return None,
            _ => {
                (from, to) = (rest_from, rest_to);
                break;
            }
        }
    }
    let mut path: PathBuf = from.map(|_| Component::ParentDir).collect();
    path.extend(to);
    // What is no text is refused where it is written down.
    Some(path.to_string_lossy().into_owned())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn ways_between_folders() {
        for (folder, file, way) in [
            ("/disks", "/disks/base.vhd", "base.vhd"),
            ("/disks", "/disks/a/base.vhd", "a/base.vhd"),
            ("/disks/a/b", "/disks/base.vhd", "../../base.vhd"),
            ("/a", "/b/base.vhd", "../b/base.vhd"),
            ("/", "/base.vhd", "base.vhd"),
            ("/ab", "/a/base.vhd", "../a/base.vhd"),
        ] {
            let found = relative(folder.as_ref(), file.as_ref());
            assert_eq!(found.as_deref(), Some(way), "{folder} {file}");
        }
    }
}
