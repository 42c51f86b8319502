//! The images beside an image that name it as their parent.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::image::FORMATS;
use crate::storage::HostFile;

/// How many files of a folder are looked at.
const MOST_FILES: usize = 4096;

/// The children of an image that lie in its folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Children {
    /// Their files, by name.
    pub paths: Vec<PathBuf>,
    /// Whether not all files could be looked at: there may be more.
    pub incomplete: bool,
}

/// Looks for images that name the disk `id`, the image at `path`, as their parent: in
/// its own folder, at their headers alone, and so that nobody who has them notices.
#[must_use]
pub fn children_of(path: &Path, id: &[u8; 16]) -> Children {
    let mut children = Children::default();
    let Some(folder) = path.parent() else { return children };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let Ok(entries) = fs::read_dir(folder) else {
        children.incomplete = true;
        return children;
    };
    let mut looked_at = 0;
    for entry in entries.flatten() {
        let file = entry.path();
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        let known = |extension: &OsStr| {
            FORMATS.iter().any(|format| {
                format
                    .extensions()
                    .iter()
                    .any(|known| extension.eq_ignore_ascii_case(known))
            })
        };
        if !is_file || !file.extension().is_some_and(known) || file == path {
            continue;
        }
        looked_at += 1;
        if looked_at > MOST_FILES {
            children.incomplete = true;
            break;
        }
        match HostFile::glance(&file) {
            Ok(glance) => {
                let named = FORMATS.iter().find_map(|format| format.parent_id(&glance));
                if named.as_ref() == Some(id) {
                    children.paths.push(file);
                }
            }
            // Somebody has it to himself, or it is not ours to read.
            Err(_) => children.incomplete = true,
        }
    }
    children.paths.sort();
    children
}
