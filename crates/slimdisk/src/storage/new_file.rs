//! Making a file so that it is there whole or not at all.
//!
//! ```text
//! Linux:  open(folder, O_TMPFILE) -> write ... -> flush -> linkat(name) -> flush folder
//! else:   .NAME.PID-N.tmp         -> write ... -> flush -> second name, first one gone
//! ```
//!
//! A process that is killed leaves nothing behind in the first way, and a file that
//! nobody takes for an image in the second.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf, is_separator};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::host::{HostFile, folder_of};
use super::{Storage, platform};
use crate::error::{Error, Kind, Result};

/// The longest part of a name that is repeated in a temporary one: with the rest it
/// stays within the 255 bytes that a name may have.
const LONGEST_STEM: usize = 200;

/// A file that is being made: nobody sees it under its name until it is whole.
///
/// Dropped before [`keep`](NewFile::keep), it is gone.
pub struct NewFile {
    file: Arc<HostFile>,
    /// The folder, links followed.
    folder: PathBuf,
    target: PathBuf,
    /// The name it has meanwhile, where it cannot do without.
    temporary: Option<PathBuf>,
    replaces: bool,
}

impl NewFile {
    /// Begins a file that will be named `path`, where nothing may be yet, not even a
    /// link that leads nowhere.
    ///
    /// # Errors
    ///
    /// [`Kind::AlreadyExists`], [`Kind::PathNotFound`] if its folder does not exist,
    /// [`Kind::BadPath`] for a path without a name, [`Kind::PathTooLong`],
    /// [`Kind::AccessDenied`], [`Kind::ReadOnly`].
    pub fn create(path: &Path) -> Result<Self> {
        Self::begin(path, false)
    }

    /// Begins a file that will take the place of what is named `path` then.
    ///
    /// # Errors
    ///
    /// Those of [`NewFile::create`], but for [`Kind::AlreadyExists`].
    pub fn create_replacing(path: &Path) -> Result<Self> {
        Self::begin(path, true)
    }

    fn begin(path: &Path, replaces: bool) -> Result<Self> {
        let (folder, name) = split(path)?;
        let folder = platform::real_path(&folder).map_err(|e| {
            let error = match e.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => no_folder(),
                _ => return Error::io("cannot find the file's folder", e).in_file(path),
            };
            error.with_source(e).in_file(path)
        })?;
        if !folder.is_dir() {
            return Err(no_folder().in_file(path));
        }
        let target = folder.join(&name);
        if !platform::is_file_name(&name.to_string_lossy()) {
            let what = "this is no name for a file here (a device's, or with a character \
                        that has a meaning): choose another";
            return Err(Error::new(Kind::InvalidName, what).in_file(path));
        }
        if !replaces {
            must_not_exist(&target).map_err(|e| e.in_file(path))?;
        }
        let made = match platform::create_unnamed(&folder) {
            Ok(file) => Ok((file, None)),
            // Whatever is wrong with the folder shows again.
            Err(_) => create_named(&folder, &name).map(|(file, at)| (file, Some(at))),
        };
        let (file, temporary) =
            made.map_err(|e| Error::io("cannot make the file", e).in_file(path))?;
        match HostFile::of_new(file, &target) {
            Ok(file) => {
                Ok(NewFile { file: Arc::new(file), folder, target, temporary, replaces })
            }
            Err(error) => {
                // The first error says more.
                let _ = temporary.map(fs::remove_file);
                Err(error)
            }
        }
    }

    /// The file, to be written. Whoever still has it after [`keep`](NewFile::keep) has
    /// the file open.
    #[must_use]
    pub fn file(&self) -> &Arc<HostFile> {
        &self.file
    }

    /// The path that the file will have, links in its folder followed.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.target
    }

    /// Sets room aside for the file up to `len`, its length from then on; what was not
    /// written reads as zeros.
    ///
    /// Where the file system cannot do that, there is at least as much free space now.
    ///
    /// # Errors
    ///
    /// [`Kind::FileTooLarge`] for the file system or for this process (`ulimit -f`),
    /// and [`Kind::DiskFull`].
    pub fn reserve(&self, len: u64) -> Result<()> {
        self.file.reserve_up_to(len, room(&self.folder))
    }

    /// Fails with [`Kind::DiskFull`] if the file system has less than `len` bytes free,
    /// and sets nothing aside.
    pub fn require(&self, len: u64) -> Result<()> {
        require(&self.folder, len).map_err(|e| e.in_file(&self.target))
    }

    /// Fails with [`Kind::FileTooLarge`] if the file system has no files of `len` bytes,
    /// whatever room it has.
    pub fn allow(&self, len: u64) -> Result<()> {
        self.file.allow(len)
    }

    /// Makes the file durable and then gives it its name. What is there by now stays
    /// there, unless it is to be replaced.
    ///
    /// # Errors
    ///
    /// [`Kind::AlreadyExists`], and those of [`Storage::flush`]. The file is gone then.
    pub fn keep(mut self) -> Result<()> {
        self.file.flush()?;
        self.give_name().map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => already_exists().in_file(&self.target),
            _ => Error::io("cannot give the file its name", e).in_file(&self.target),
        })?;
        self.temporary = None;
        platform::sync_name(self.file.os(), &self.folder).map_err(|e| {
            if !self.replaces {
                // The first error says more.
                let _ = fs::remove_file(&self.target);
            }
            Error::io("cannot make the file's name durable", e).in_file(&self.target)
        })
    }

    fn give_name(&mut self) -> io::Result<()> {
        match &self.temporary {
            None if !self.replaces => {
                platform::name_unnamed(self.file.os(), &self.target)
            }
            None => {
                let name = self.target.file_name().unwrap_or_default();
                let first = unused_name(&self.folder, name, |path| {
                    platform::name_unnamed(self.file.os(), path)
                })?
                .1;
                fs::rename(&first, &self.target)
                    .inspect_err(|_| self.temporary = Some(first))
            }
            Some(first) if !self.replaces => platform::rename_new(first, &self.target),
            Some(first) => fs::rename(first, &self.target),
        }
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary {
            // There is nobody to tell.
            let _ = fs::remove_file(path);
        }
    }
}

/// Bytes that this user may still write beside `path`, or would where its folder is
/// still missing.
pub fn free_space(path: &Path) -> Result<u64> {
    let folder = nearest_folder(path);
    platform::room(&folder)
        .map(Option::unwrap_or_default)
        .map_err(|e| Error::io("cannot ask for the free space", e).in_file(folder))
}

/// Fails with [`Kind::DiskFull`] if fewer than `len` bytes can be written to `folder`.
pub(crate) fn require(folder: &Path, len: u64) -> Result<()> {
    match room(folder) {
        Some(room) if room < len => Err(no_room(len, room)),
        _ => Ok(()),
    }
}

/// What can be written to `folder`, if the file system tells.
fn room(folder: &Path) -> Option<u64> {
    platform::room(folder).ok().flatten()
}

pub(super) fn no_room(needed: u64, room: u64) -> Error {
    Error::new(
        Kind::DiskFull,
        format!(
            "the file needs {needed} bytes, and its file system has {room} free: make room \
             or choose another place"
        ),
    )
}

/// Fails with [`Kind::AlreadyExists`] if `path` is the name of anything.
pub(crate) fn must_not_exist(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(_) => Err(already_exists()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("cannot make the file", e)),
    }
}

/// Makes the names in `folder` durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    platform::sync_folder(folder)
        .map_err(|e| Error::io("cannot flush the folder", e).in_file(folder))
}

/// The folder and the name of a file to be made.
pub(crate) fn split(path: &Path) -> Result<(PathBuf, OsString)> {
    let last = path.to_string_lossy().chars().next_back();
    match path.file_name() {
        Some(name) if !last.is_some_and(is_separator) => {
            let folder = folder_of(path).unwrap_or(Path::new("."));
            Ok((folder.to_owned(), name.to_owned()))
        }
        _ => {
            let what = "this path does not name a file";
            Err(Error::new(Kind::BadPath, what).in_file(path))
        }
    }
}

/// The folder that `path` lies in or, while that is missing, the one that it would be
/// made in.
pub(crate) fn nearest_folder(path: &Path) -> PathBuf {
    let real = platform::real_path(path).unwrap_or_else(|_| path.to_owned());
    let mut folders = real.ancestors().skip(1);
    let found = folders.find(|folder| folder.is_dir());
    found
        .filter(|folder| !folder.as_os_str().is_empty())
        .map_or_else(|| PathBuf::from("."), Path::to_owned)
}

fn no_folder() -> Error {
    Error::new(Kind::PathNotFound, "the file's folder does not exist")
}

fn already_exists() -> Error {
    Error::new(
        Kind::AlreadyExists,
        "there is such a file already, and it is not replaced: choose another name",
    )
}

fn create_named(folder: &Path, name: &OsString) -> io::Result<(File, PathBuf)> {
    unused_name(folder, name, platform::create_named)
}

/// Has `make` make something under a name that nothing has.
fn unused_name<T>(
    folder: &Path,
    name: &std::ffi::OsStr,
    make: impl Fn(&Path) -> io::Result<T>,
) -> io::Result<(T, PathBuf)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let stem = if name.len() > LONGEST_STEM { "slimdisk".as_ref() } else { name };
    loop {
        let mut temporary = OsString::from(".");
        temporary.push(stem);
        let n = NEXT.fetch_add(1, Relaxed);
        temporary.push(format!(".{}-{n}.tmp", std::process::id()));
        let path = folder.join(temporary);
        match make(&path) {
            Ok(made) => return Ok((made, path)),
            // What an earlier process of this number left.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
}
