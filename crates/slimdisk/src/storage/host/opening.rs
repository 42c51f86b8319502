//! Opening the host file, and seeing that nobody else has it.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use super::{HostFile, platform};
use crate::error::{Error, Kind, Result};
use crate::storage::exclusion::{Exclusion, Guard, Held};

/// How long somebody who has the file open is given to close it: long enough for
/// an indexer's glance, too short to be noticed.
const PATIENCE: Duration = Duration::from_millis(300);

/// By what a change of a file shows: its length and when it was last changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    len: u64,
    modified: Option<SystemTime>,
    /// Of the file's own record, which nobody can set back.
    changed: Option<(i64, i64)>,
}

impl HostFile {
    /// Opens `path` for reading only; leaves no trace where that is allowed.
    ///
    /// # Errors
    ///
    /// [`Kind::InUse`] if somebody can be seen to write to it,
    /// [`Kind::NotFound`], [`Kind::PathNotFound`], [`Kind::AccessDenied`], and
    /// [`Kind::InvalidArgument`] for what is not a regular file.
    pub fn open_read(path: &Path) -> Result<Self> {
        open_patiently(path, |path| {
            let (file, _) = open_to_look(path)?;
            Self::new(file, path, Exclusion::default())
        })
    }

    /// Opens `path` for reading while, as far as that can be had, nobody writes to it;
    /// [`still_exclusive`](crate::storage::Storage::still_exclusive) tells if somebody comes to.
    ///
    /// # Errors
    ///
    /// Those of [`HostFile::open_read`].
    pub fn open_steady(path: &Path) -> Result<Self> {
        open_patiently(path, |path| {
            let (file, _) = open_to_look(path)?;
            let exclusion = platform::hold_off_writers(&file).map_err(Trouble::Held)?;
            // There have been file systems that told of holes where data had not been
            // written out yet, and a hole counts as zeros. Not every system lets a
            // reader ask for it.
            let _ = file.sync_data();
            let mut host = Self::new(file, path, exclusion)?;
            if !host.exclusion.holds(Guard::ReadLease) {
                host.steady = Some(host.state()?);
            }
            Ok(host)
        })
    }

    /// Opens `path` for a look that nobody notices who has it: for reading, without
    /// waiting and without a lock, so what is read may be about to change.
    ///
    /// # Errors
    ///
    /// Those of [`HostFile::open_read`].
    pub fn glance(path: &Path) -> Result<Self> {
        let looked = path.symlink_metadata().map_err(trouble).and_then(|metadata| {
            must_be_regular(&metadata)?;
            let file = platform::glance(path).map_err(trouble)?;
            Self::new(file, path, Exclusion::default())
        });
        looked.map_err(|trouble| match trouble {
            Trouble::Other(error) => error.in_file(path),
            Trouble::Held(_) => {
                Error::new(Kind::InUse, "the file is in use by another program")
                    .in_file(path)
            }
        })
    }

    /// Opens `path` for writing, to the exclusion of everybody else.
    ///
    /// # Errors
    ///
    /// [`Kind::InUse`] if anybody else has it, [`Kind::ReadOnly`] if it may be
    /// read only or is marked so, and those of [`HostFile::open_read`].
    pub fn open_exclusive(path: &Path) -> Result<Self> {
        open_patiently(path, |path| {
            // Looking first matters: to open it for writing would make another
            // run of this program stop and step aside.
            let (file, metadata) = open_to_look(path)?;
            drop(file);
            if metadata.permissions().readonly() {
                // Even for root, whom the mark would not stop.
                return Err(Trouble::Other(Error::new(
                    Kind::ReadOnly,
                    "the file is marked read-only: nobody has permission to write",
                )));
            }
            let file = platform::open_write(path).map_err(|e| match e.kind() {
                // Windows has another code for what is protected against writing.
                ErrorKind::PermissionDenied if !cfg!(windows) => Trouble::Other(
                    Error::new(Kind::ReadOnly, "the file may be read, but not written")
                        .with_source(e),
                ),
                _ => trouble(e),
            })?;
            let exclusion = platform::exclude(&file).map_err(Trouble::Held)?;
            Self::new(file, path, exclusion)
        })
    }

    fn new(file: File, path: &Path, exclusion: Exclusion) -> Result<Self, Trouble> {
        let metadata = file.metadata().map_err(trouble)?;
        must_be_regular(&metadata)?;
        Ok(HostFile {
            path: path.to_owned(),
            exclusion,
            len: AtomicU64::new(metadata.len()),
            size_limit: platform::size_limit(),
            block_size: platform::block_size(&file, &metadata),
            cloning_refused: AtomicBool::new(false),
            may_mark: AtomicBool::new(false),
            end: RwLock::new(()),
            notes: platform::notes(&metadata),
            metadata_changed: AtomicBool::new(false),
            flush_failed: AtomicBool::new(false),
            steady: None,
            file,
        })
    }

    /// A file that was just made and will be named `path`.
    pub(in crate::storage) fn of_new(file: File, path: &Path) -> Result<Self> {
        Self::new(file, path, Exclusion::default()).map_err(|trouble| match trouble {
            Trouble::Other(error) => error.in_file(path),
            Trouble::Held(_) => {
                Error::new(Kind::InUse, "the file is in use").in_file(path)
            }
        })
    }

    pub(super) fn state(&self) -> Result<State, Trouble> {
        self.file.metadata().map(|metadata| State::of(&metadata)).map_err(trouble)
    }

    /// Fails if somebody came to write to the file since it was opened.
    pub(super) fn must_still_be_alone(&self) -> Result<()> {
        if let Some(before) = &self.steady {
            let now = self.file.metadata().map(|metadata| State::of(&metadata));
            let now =
                now.map_err(|e| self.error("cannot ask for the file's state", e))?;
            if now != *before {
                return Err(Error::new(
                    Kind::InUse,
                    "another program has changed the file while it was being read: stopped \
                     at a sound point; run again when nobody writes to it",
                )
                .in_file(&self.path));
            }
        }
        if !self.exclusion.holds(Guard::Lease) && !self.exclusion.holds(Guard::ReadLease)
        {
            return Ok(());
        }
        match platform::still_exclusive(&self.file) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::new(
                Kind::InUse,
                "another program opened the image for writing while it was being \
                 worked on; stopped at a sound point",
            )
            .in_file(&self.path)),
            Err(e) => Err(self.error("cannot ask for the state of the lease", e)),
        }
    }
}

impl State {
    fn of(metadata: &Metadata) -> Self {
        let modified = metadata.modified().ok();
        State { len: metadata.len(), modified, changed: platform::changed(metadata) }
    }
}

/// Why a file could not be opened.
pub(super) enum Trouble {
    Held(Held),
    Other(Error),
}

fn trouble(error: io::Error) -> Trouble {
    match Error::io("cannot open the file", error) {
        error if error.kind() == Kind::InUse => Trouble::Held(Held::default()),
        error => Trouble::Other(error),
    }
}

/// Follows links and opens what they lead to; waits a moment for whoever has it,
/// and says who that is.
fn open_patiently(
    path: &Path,
    open: impl Fn(&Path) -> Result<HostFile, Trouble>,
) -> Result<HostFile> {
    if let Some(name) = platform::device(path) {
        return Err(not_regular(name).in_file(path));
    }
    let real = platform::real_path(path).map_err(|e| {
        let error = match folder_of(path) {
            Some(folder) if e.kind() == ErrorKind::NotFound && !folder.exists() => {
                Error::new(Kind::PathNotFound, "the file's folder does not exist")
                    .with_source(e)
            }
            _ => Error::io("cannot find the file", e),
        };
        error.in_file(path)
    })?;
    let start = Instant::now();
    loop {
        match open(&real) {
            Ok(file) => return Ok(file),
            Err(Trouble::Other(error)) => return Err(error.in_file(real)),
            Err(Trouble::Held(_)) if start.elapsed() < PATIENCE => {
                sleep(PATIENCE / 15);
            }
            Err(Trouble::Held(held)) => {
                let what = match platform::holder(&real, held) {
                    Some(name) => format!("the file is in use by {name}"),
                    None => "the file is in use by another program".to_owned(),
                };
                return Err(Error::new(Kind::InUse, what).in_file(real));
            }
        }
    }
}

/// Opens a regular file for reading, if nobody writes to it.
fn open_to_look(path: &Path) -> Result<(File, Metadata), Trouble> {
    // To open a device can have effects, so ask first.
    must_be_regular(&path.metadata().map_err(trouble)?)?;
    let file = platform::open_read(path).map_err(trouble)?;
    platform::share(&file).map_err(Trouble::Held)?;
    let metadata = file.metadata().map_err(trouble)?;
    Ok((file, metadata))
}

fn must_be_regular(metadata: &Metadata) -> Result<(), Trouble> {
    if metadata.is_file() {
        return Ok(());
    }
    Err(Trouble::Other(not_regular(platform::type_name(metadata.file_type()))))
}

fn not_regular(name: &str) -> Error {
    Error::new(
        Kind::InvalidArgument,
        format!("this is {name}; only image files can be opened"),
    )
}

pub fn folder_of(path: &Path) -> Option<&Path> {
    path.parent().filter(|folder| !folder.as_os_str().is_empty())
}
