//! Changing by which names a differencing image knows its parent: it has moved, say, or
//! has another name. Its identity stays, for without it the child would be another disk.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::name::{ParentName, Parts, Style};
use super::written::{file_url, relative_text, way};
use super::{ParentLink, id_text};
use crate::error::{Error, Kind, Result};
use crate::image::{open, wrong_type};
use crate::storage::HostFile;

/// Where a parent lies, as its child is to name it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParentNames {
    /// The way there from the child's folder, with `/` between its parts, and with `./`
    /// or `../` at the start; `None` where there is none that can be written.
    pub relative: Option<String>,
    /// Its path on this system, if it can be written.
    pub absolute: Option<String>,
    /// When it was last changed.
    pub modified: Option<SystemTime>,
}

impl ParentNames {
    /// The names of the file `parent` for the child in the file `child`; both absolute,
    /// with links followed.
    #[must_use]
    pub fn new(child: &Path, parent: &Path, modified: Option<SystemTime>) -> Self {
        let relative = child.parent().and_then(|folder| way(folder, parent));
        let absolute = parent.to_str().filter(|_| parent.is_absolute());
        ParentNames { relative, absolute: absolute.map(str::to_owned), modified }
    }

    /// The relative path in the manner of Windows, if it means the same file there as
    /// here when it is read back.
    #[must_use]
    pub fn windows_relative(&self) -> Option<String> {
        let unix = self.relative.as_ref()?;
        let text = relative_text(unix).ok()?;
        let same = parts(&text, Style::Windows)? == parts(unix, Style::Unix)?;
        same.then_some(text)
    }

    /// The absolute path in the manner of Windows, as a new child has it: one of Unix
    /// becomes one from a root without a drive, if it means the same file when it is read
    /// back.
    #[must_use]
    pub fn windows_absolute(&self) -> Option<String> {
        let text = self.absolute.as_ref()?;
        if !text.starts_with('/') {
            return parts(text, Style::Windows)?.root.map(|_| text.clone());
        }
        let written = text.replace('/', "\\");
        let same = parts(&written, Style::Windows)? == parts(text, Style::Unix)?;
        same.then_some(written)
    }

    /// The path as a URL.
    #[must_use]
    pub fn url(&self, relative: bool) -> Option<String> {
        let path = match relative {
            true => self.relative.as_ref(),
            false => self.absolute.as_ref().filter(|path| path.starts_with('/')),
        }?;
        Some(file_url(path))
    }
}

fn parts(text: &str, style: Style) -> Option<Parts> {
    ParentName::new("", text, style).parts()
}

/// Makes the differencing image at `child` name the image at `parent` as its parent, by
/// all the names that it has room for, and no other names any more. The file keeps the
/// time of its last change.
///
/// At every instant the child is a sound image that names its parent by the old names or
/// by the new ones.
///
/// # Errors
///
/// [`Kind::ParentMismatch`] if the parent is not the disk that the child was made from,
/// [`Kind::WrongImageType`] for a child that is no differencing image or belongs to a
/// machine in a saved state, [`Kind::PathTooLong`] and [`Kind::InvalidName`] if no name
/// can be written by which the parent would be found; nothing is written then.
pub fn relink(child: &Path, parent: &Path) -> Result<()> {
    let in_child = |error: Error| match error.path() {
        Some(_) => error,
        None => error.in_file(child),
    };
    let file = Arc::new(HostFile::open_exclusive(child)?);
    let mut image = open(file.clone()).map_err(in_child)?;
    let Some(link) = image.parent_link().map_err(in_child)? else {
        return Err(in_child(wrong_type(
            "only a differencing image has a parent to be named",
        )));
    };
    image.settled().map_err(in_child)?;
    // Asked for by name: to open it here twice would find it in use, by ourselves.
    if crate::storage::real_path(parent).is_ok_and(|real| real == file.path()) {
        let what = "an image cannot be its own parent";
        return Err(in_child(Error::new(Kind::ParentMismatch, what)));
    }
    let above = Arc::new(HostFile::open_read(parent)?);
    prove(&above, &link).map_err(|error| match error.path() {
        Some(_) => error,
        None => error.in_file(parent),
    })?;
    let names = ParentNames::new(file.path(), above.path(), above.modified());
    let (times, modified) = (file.times()?, file.modified());
    let done = image.name_parent(&names).map_err(in_child);
    if file.modified() != modified {
        // Whose file it is not may write to it and yet have no say in its times; the
        // names are what counts.
        let _ = file.restore_times(times);
    }
    done
}

/// Fails unless the file holds the disk that the link means.
fn prove(file: &Arc<HostFile>, link: &ParentLink) -> Result<()> {
    if link.id == [0; 16] {
        return Err(Error::invalid(
            "the child does not say which disk its parent is (its parent unique id is \
             zeros), so no image can be proven to be the right one",
        ));
    }
    let found = open(file.clone())?.facts().unique_id;
    if link.leads_to(found) {
        return Ok(());
    }
    Err(Error::new(
        Kind::ParentMismatch,
        format!(
            "this is not the parent that the image was made from: its unique id is {}, the \
             image names {}",
            found.map_or_else(|| "none".to_owned(), |id| id_text(&id)),
            id_text(&link.id)
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(child: &str, parent: &str) -> ParentNames {
        ParentNames::new(Path::new(child), Path::new(parent), None)
    }

    #[cfg(unix)]
    #[test]
    fn the_way_from_folder_to_file() {
        for (child, parent, unix, windows) in [
            ("/vm/c.vhd", "/vm/b.vhd", "./b.vhd", r".\b.vhd"),
            ("/vm/c.vhd", "/vm/a/b.vhd", "./a/b.vhd", r".\a\b.vhd"),
            ("/vm/c.vhd", "/b.vhd", "../b.vhd", r"..\b.vhd"),
            (
                "/vm/x/c.vhd",
                "/vm/y/B \u{e4}.vhd",
                "../y/B \u{e4}.vhd",
                "..\\y\\B \u{e4}.vhd",
            ),
            ("/c.vhd", "/b.vhd", "./b.vhd", r".\b.vhd"),
            ("/a/b/c.vhd", "/d/e.vhd", "../../d/e.vhd", r"..\..\d\e.vhd"),
        ] {
            let names = names(child, parent);
            assert_eq!(names.relative.as_deref(), Some(unix));
            assert_eq!(names.windows_relative().as_deref(), Some(windows));
            let noted = parent.replace('/', "\\");
            assert_eq!(names.windows_absolute(), Some(noted.clone()));
            // As a child notes it that is made anew.
            let new = super::super::written::absolute_text(parent.as_ref()).unwrap();
            assert_eq!(new, noted);
        }
        assert_eq!(names("/a/c.vhd", "b.vhd").relative, None);
        assert_eq!(names("c.vhd", "b.vhd").relative, None);
    }

    #[cfg(windows)]
    #[test]
    fn the_way_from_folder_to_file_on_windows() {
        for (child, parent, relative) in [
            (r"C:\vm\c.vhd", r"C:\vm\b.vhd", Some(r".\b.vhd")),
            (r"C:\vm\c.vhd", r"C:\b.vhd", Some(r"..\b.vhd")),
            (r"C:\c.vhd", r"C:\a\b.vhd", Some(r".\a\b.vhd")),
            (r"\\s\d\vm\c.vhd", r"\\s\d\b.vhd", Some(r"..\b.vhd")),
            // Drives and shares have no way to each other.
            (r"C:\vm\c.vhd", r"D:\vm\b.vhd", None),
            (r"\\s\d\c.vhd", r"\\s\e\b.vhd", None),
        ] {
            let names = names(child, parent);
            assert_eq!(names.windows_relative().as_deref(), relative);
            assert_eq!(names.windows_absolute().as_deref(), Some(parent));
            assert_eq!(names.url(false), None);
        }
    }

    /// What would be read back as another path is not written.
    #[cfg(unix)]
    #[test]
    fn names_that_windows_reads_otherwise_are_left_out() {
        let odd = names("/vm/c.vhd", r"/vm/a\b.vhd");
        assert_eq!(odd.windows_relative(), None);
        assert_eq!(odd.windows_absolute(), None);
        assert_eq!(odd.url(true).as_deref(), Some("file://./a%5Cb.vhd"));
        assert_eq!(odd.url(false).as_deref(), Some("file:///vm/a%5Cb.vhd"));
        let spaced = names("/vm/c.vhd", "/B \u{e4}%.vhd");
        assert_eq!(spaced.url(true).as_deref(), Some("file://../B%20%C3%A4%25.vhd"));
        let drive = names("/vm/c.vhd", "/vm/C:b.vhd");
        assert_eq!(drive.windows_relative().as_deref(), Some(r".\C:b.vhd"));
    }
}
