//! The parent of a disk that is to be made.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::image::parent::written::way;
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
            // What is no text is refused where the whole path is written down.
            relative: way(folder, &self.path),
        }
    }
}
