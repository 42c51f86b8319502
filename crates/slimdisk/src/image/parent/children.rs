//! The images beside an image that name it as their parent.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Kind;
use crate::image::{FORMATS, Format, is_image_name};
use crate::storage::{HostFile, real_path};

/// How many entries of a folder are looked at.
const MOST_FILES: usize = 4096;

/// The children of an image that lie in its folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Children {
    /// Their files, links followed, by name.
    pub paths: Vec<PathBuf>,
    /// Whether not all files could be looked at: there may be more.
    pub incomplete: bool,
    /// Whether one of those has the name of an image and may not be read; one that is
    /// merely in use is not counted.
    pub unreadable: bool,
}

/// Looks for images that name the disk `id`, the image at `path`, as their parent: in
/// its own folder, whatever their names, at their headers alone, and so that nobody who
/// has them notices.
#[must_use]
pub fn children_of(path: &Path, id: &[u8; 16]) -> Children {
    children_but(path, path, id)
}

/// The same, but for the image at `but`: a child that is known, and may be in use here.
pub(crate) fn children_but(but: &Path, path: &Path, id: &[u8; 16]) -> Children {
    let mut children = Children::default();
    let Some(folder) = path.parent() else { return children };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let Ok(entries) = fs::read_dir(folder) else {
        children.incomplete = true;
        return children;
    };
    for (number, entry) in entries.enumerate() {
        let Ok(entry) = entry else {
            children.incomplete = true;
            continue;
        };
        if number >= MOST_FILES {
            children.incomplete = true;
            break;
        }
        // A link may lead to a child, too.
        let file = entry.path();
        if cfg!(windows) && file.is_symlink() {
            // But there also to another computer, which would learn of who looks.
            children.incomplete |= is_image_name(&file);
            continue;
        }
        let Ok(real) = real_path(&file) else { continue };
        if real == path || real == but || !real.is_file() {
            continue;
        }
        match HostFile::glance(&real) {
            Ok(glance) => {
                let names =
                    |format: &&dyn Format| format.parent_ids(&glance).contains(id);
                if FORMATS.iter().any(names) {
                    children.paths.push(real);
                }
            }
            // Somebody has it to himself, or it is not ours to read.
            Err(error) if is_image_name(&file) || is_image_name(&real) => {
                children.incomplete = true;
                children.unreadable |= error.kind() != Kind::InUse;
            }
            Err(_) => {}
        }
    }
    children.paths.sort();
    children.paths.dedup();
    children
}
