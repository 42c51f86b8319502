//! The host file.

#![forbid(unsafe_code)]

mod copying;

use std::fs::{File, FileTimes, Metadata};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use super::exclusion::{Exclusion, Guard, Held};
use super::new_file::no_room;
use super::{
    Copied, ReadAt, Storage, Transfer, no_holes, not_sparse, past_the_end, platform,
};
use crate::error::{Error, Kind, Result};

/// How long somebody who has the file open is given to close it: long enough for
/// an indexer's glance, too short to be noticed.
const PATIENCE: Duration = Duration::from_millis(300);

/// How much the system is told at once will be read: of more it may forget the rest.
const HINT_PIECE: u64 = 512 << 10;

/// A file of the host, opened by name.
///
/// Links are followed; what is opened, locked and named in errors is the file
/// they lead to.
pub struct HostFile {
    file: File,
    path: PathBuf,
    exclusion: Exclusion,
    len: AtomicU64,
    /// What this process may write up to, in bytes.
    size_limit: u64,
    /// The unit of cloning, in bytes.
    block_size: u64,
    cloning_refused: AtomicBool,
    /// Whether the file may be marked sparse, where only such files can have holes.
    may_mark: AtomicBool,
    /// Taken to write where the file becomes longer by it, and alone by who must know
    /// where it ends.
    end: RwLock<()>,
    /// What the file's attributes mean for whoever uses it.
    notes: Vec<String>,
    /// The length or the times have changed since the last flush.
    metadata_changed: AtomicBool,
    flush_failed: AtomicBool,
    /// How it was when it was opened, where it is to stay so and nothing keeps writers
    /// away.
    steady: Option<State>,
}

/// By what a change of a file shows: its length and when it was last changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    len: u64,
    modified: Option<SystemTime>,
    /// Of the file's own record, which nobody can set back.
    changed: Option<(i64, i64)>,
}

/// The times of a file, to be given back to it.
#[derive(Debug, Clone, Copy)]
pub struct Times(FileTimes);

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
    /// [`still_exclusive`](Storage::still_exclusive) tells if somebody comes to.
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
                ErrorKind::PermissionDenied => Trouble::Other(
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
    pub(super) fn of_new(file: File, path: &Path) -> Result<Self> {
        Self::new(file, path, Exclusion::default()).map_err(|trouble| match trouble {
            Trouble::Other(error) => error.in_file(path),
            Trouble::Held(_) => {
                Error::new(Kind::InUse, "the file is in use").in_file(path)
            }
        })
    }

    fn state(&self) -> Result<State, Trouble> {
        self.file.metadata().map(|metadata| State::of(&metadata)).map_err(trouble)
    }

    /// The system's handle.
    pub(super) fn os(&self) -> &File {
        &self.file
    }

    /// Fails if the file system has no files of `len` bytes, whatever room it has.
    pub(super) fn allow(&self, len: u64) -> Result<()> {
        let before = self.len();
        // To ask costs nothing but on FAT, where small files can be told without asking.
        if len > before && len > u64::from(u32::MAX) {
            self.file.set_len(len).map_err(|e| self.cannot_reserve(e))?;
            self.file.set_len(before).map_err(|e| self.cannot_reserve(e))?;
        }
        Ok(())
    }

    fn cannot_reserve(&self, e: io::Error) -> Error {
        match e.kind() {
            ErrorKind::FileTooLarge => {
                let what = "the file would be larger than its file system allows";
                Error::new(Kind::FileTooLarge, what).with_source(e).in_file(&self.path)
            }
            _ => self.error("cannot set room aside for the file", e),
        }
    }

    /// Sets room aside up to `len`, the file's length from then on. `room` is what the
    /// file system has free, if it tells.
    pub(super) fn reserve_up_to(&self, len: u64, room: Option<u64>) -> Result<()> {
        let before = self.len();
        if len <= before {
            return Ok(());
        }
        if i64::try_from(len).is_err() {
            return Err(self.cannot_reserve(ErrorKind::FileTooLarge.into()));
        }
        if len > self.size_limit {
            let what = "the file would pass the size that this process may write \
                        (ulimit -f)";
            return Err(Error::new(Kind::FileTooLarge, what).in_file(&self.path));
        }
        let needed = len.saturating_sub(self.host_bytes()?);
        if let Some(room) = room
            && room < needed
        {
            // No room that is made helps a file that is too large.
            self.allow(len)?;
            return Err(no_room(needed, room).in_file(&self.path));
        }
        let _alone = self.end.write();
        match platform::reserve(&self.file, 0, len) {
            Err(e) if e.kind() != ErrorKind::Unsupported => {
                return Err(self.cannot_reserve(e));
            }
            _ => self.file.set_len(len).map_err(|e| self.cannot_reserve(e))?,
        }
        self.written_up_to(len);
        Ok(())
    }

    /// The path of the file itself, after following links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What keeps others out, and what does not.
    #[must_use]
    pub fn exclusion(&self) -> &Exclusion {
        &self.exclusion
    }

    /// What is odd about how the host stores the file, and matters to whoever uses it, in
    /// sentences: that it is compressed, say.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Lets the first hole mark the file sparse, where only such files can have holes
    /// (Windows). Elsewhere it changes nothing.
    pub fn allow_mark(&self) {
        self.may_mark.store(true, Relaxed);
    }

    /// Bytes the file takes on the host's medium, holes left out.
    pub fn host_bytes(&self) -> Result<u64> {
        self.file
            .metadata()
            .and_then(|metadata| platform::host_bytes(&self.file, &metadata))
            .map_err(|e| self.error("cannot ask for the file's size on the host", e))
    }

    /// When the file was last changed, where the system tells.
    #[must_use]
    pub fn modified(&self) -> Option<SystemTime> {
        self.file.metadata().and_then(|metadata| metadata.modified()).ok()
    }

    /// When the file was last changed and read.
    ///
    /// Differencing images and backup catalogues refer to the time of the last
    /// change; compacting changes nothing they mean.
    pub fn times(&self) -> Result<Times> {
        let times = self.file.metadata().and_then(|metadata| {
            let times = FileTimes::new().set_modified(metadata.modified()?);
            Ok(match metadata.accessed() {
                Ok(accessed) => times.set_accessed(accessed),
                Err(_) => times,
            })
        });
        times.map(Times).map_err(|e| self.error("cannot ask for the file's times", e))
    }

    /// Gives the file back the times it had; durable after the next flush.
    ///
    /// # Errors
    ///
    /// [`Kind::AccessDenied`] if the file is somebody else's: writing to a file
    /// does not include a say in its times.
    pub fn restore_times(&self, times: Times) -> Result<()> {
        self.metadata_changed.store(true, Relaxed);
        self.file
            .set_times(times.0)
            .map_err(|e| self.error("cannot restore the file's times", e))
    }

    /// Makes now the time of the last change.
    pub fn touch(&self) -> Result<()> {
        self.metadata_changed.store(true, Relaxed);
        self.file
            .set_modified(SystemTime::now())
            .map_err(|e| self.error("cannot set the file's time", e))
    }

    fn error(&self, what: &'static str, source: io::Error) -> Error {
        Error::io(what, source).in_file(&self.path)
    }

    /// The end of `len` bytes at `offset`, if this process may write there.
    fn end_of_write(&self, offset: u64, len: u64) -> Result<u64> {
        offset.checked_add(len).filter(|end| *end <= self.size_limit).ok_or_else(|| {
            let why = "the file would pass the size that this process may write \
                       (ulimit -f)";
            self.error(why, ErrorKind::FileTooLarge.into()).at(offset)
        })
    }

    /// Notes that the file reaches up to `end` now.
    fn written_up_to(&self, end: u64) {
        if self.len.fetch_max(end, Relaxed) < end {
            self.metadata_changed.store(true, Relaxed);
        }
    }
}

impl ReadAt for HostFile {
    fn len(&self) -> u64 {
        self.len.load(Relaxed)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match offset.checked_add(buf.len() as u64) {
            Some(end) if end <= self.len() => platform::read_at(&self.file, offset, buf)
                .map_err(|e| self.error("cannot read", e).at(offset)),
            _ => {
                Err(past_the_end(offset, buf.len() as u64, self.len())
                    .in_file(&self.path))
            }
        }
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let len = self.len();
        if offset >= len {
            return Ok(None);
        }
        // A file system that does not know its holes has none.
        let found =
            platform::next_data(&self.file, offset, len).unwrap_or(Some(offset..len));
        Ok(found.map(|range| data_of(range, offset, len)).filter(|r| r.start < r.end))
    }

    fn will_read(&self, ranges: &[Range<u64>]) {
        let len = self.len();
        for range in ranges {
            let (mut at, end) = (range.start, range.end.min(len));
            while at < end {
                let piece = (end - at).min(HINT_PIECE);
                platform::will_read(&self.file, at, piece);
                at += piece;
            }
        }
    }
}

impl Storage for HostFile {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let end = self.end_of_write(offset, data.len() as u64)?;
        let growing = (end > self.len()).then(|| self.end.read());
        platform::write_at(&self.file, offset, data)
            .map_err(|e| self.error("cannot write", e).at(offset))?;
        self.written_up_to(end);
        drop(growing);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        // The system reports a lost write once and then calls the medium clean;
        // it is not.
        if self.flush_failed.load(Relaxed) {
            return Err(Error::new(
                Kind::Io,
                "an earlier flush failed, and what was lost then is unknown",
            )
            .in_file(&self.path));
        }
        let done = if self.metadata_changed.swap(false, Relaxed) {
            self.file.sync_all()
        } else {
            self.file.sync_data()
        };
        done.map_err(|e| {
            self.flush_failed.store(true, Relaxed);
            self.error("cannot flush", e)
        })
    }

    fn set_len(&self, len: u64) -> Result<()> {
        if len > self.len() {
            self.end_of_write(len, 0)?;
        }
        let _alone = self.end.write();
        self.file
            .set_len(len)
            .map_err(|e| self.error("cannot change the length", e).at(len))?;
        self.metadata_changed.store(true, Relaxed);
        self.len.store(len, Relaxed);
        Ok(())
    }

    fn reserve(&self, range: Range<u64>) -> Result<()> {
        let len = range.end.saturating_sub(range.start);
        if len == 0 {
            return Ok(());
        }
        self.end_of_write(range.start, len)?;
        let _alone = self.end.write();
        match platform::reserve(&self.file, range.start, len) {
            Err(e) if !is_refusal(&e) => Err(self
                .error("the host has no room for what is to be written", e)
                .at(range.start)),
            _ => Ok(()),
        }
    }

    fn give_back(&self) -> Result<()> {
        // To "cut" a file where it ends frees what lies behind.
        self.set_len(self.len())
    }

    fn copy_within(&self, from: u64, to: u64, len: u64) -> Result<Copied> {
        self.copy(Transfer { from, to, len }, &mut Vec::new())
    }

    fn copy_all(&self, transfers: &[Transfer]) -> Result<Copied> {
        self.copy_together(transfers)
    }

    fn will_copy(&self, transfers: &[Transfer]) {
        self.ask_for(transfers);
    }

    fn clone_unit(&self) -> Option<u64> {
        self.unit_of_clones()
    }

    fn hole_size(&self) -> Result<u64> {
        let unit = platform::hole_unit(&self.file, self.block_size);
        if !self.may_mark.load(Relaxed)
            && platform::needs_mark(&self.file).is_ok_and(|needed| needed)
        {
            return Err(not_sparse().in_file(&self.path));
        }
        // Behind the end there is nothing to be lost.
        match platform::may_punch(&self.file, self.len().next_multiple_of(unit), unit) {
            Ok(()) => Ok(unit),
            Err(e) if is_refusal(&e) => {
                Err(no_holes().with_source(e).in_file(&self.path))
            }
            Err(e) => Err(self.error("cannot punch holes in the file", e)),
        }
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        if range.end > self.len() {
            let len = range.end.saturating_sub(range.start);
            return Err(past_the_end(range.start, len, self.len()).in_file(&self.path));
        }
        if range.start >= range.end {
            return Ok(());
        }
        self.metadata_changed.store(true, Relaxed);
        if self.may_mark.load(Relaxed) {
            platform::mark_sparse(&self.file)
                .map_err(|e| self.error("cannot mark the file sparse", e))?;
        }
        platform::punch(&self.file, range.start, range.end - range.start)
            .map_err(|e| self.error("cannot punch a hole", e).at(range.start))
    }

    fn still_exclusive(&self) -> Result<()> {
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
enum Trouble {
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

/// What a file system's answer says of the bytes from `offset` to `len`.
fn data_of(found: Range<u64>, offset: u64, len: u64) -> Range<u64> {
    let start = found.start.max(offset);
    // Data that ends before it begins (it was given up between two questions) says
    // nothing of what follows.
    let end = if found.end > start { found.end.min(len) } else { len };
    start..end
}

pub(super) fn folder_of(path: &Path) -> Option<&Path> {
    path.parent().filter(|folder| !folder.as_os_str().is_empty())
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

/// Whether the system does not offer an operation here, as opposed to failing it.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Unsupported
            | ErrorKind::InvalidInput
            | ErrorKind::CrossesDevices
            | ErrorKind::PermissionDenied
            | ErrorKind::ExecutableFileBusy
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_arrive_where_nothing_can_be_shared() {
        let path = std::env::temp_dir()
            .join(format!("slimdisk-plain-copy-{}.img", std::process::id()));
        let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &data).unwrap();
        let host = HostFile::open_exclusive(&path).unwrap();
        host.cloning_refused.store(true, Relaxed);
        let copied = host.copy_within(1, 3_000_000, 2_500_000).unwrap();
        assert_eq!(copied, Copied::default());
        drop(host);
        let found = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(found == [&data, &data[1..2_500_001]].concat());
    }

    #[test]
    fn only_a_hole_up_to_the_end_ends_the_data() {
        assert_eq!(data_of(5..9, 3, 20), 5..9);
        assert_eq!(data_of(2..90, 3, 20), 3..20);
        assert_eq!(data_of(5..5, 3, 20), 5..20);
        assert_eq!(data_of(1..2, 3, 20), 3..20);
        assert!(data_of(30..40, 3, 20).is_empty());
    }

    #[test]
    fn times_are_given_back_whatever_was_written() {
        let path = std::env::temp_dir()
            .join(format!("slimdisk-times-{}.img", std::process::id()));
        std::fs::write(&path, [0; 10]).unwrap();
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(long_ago).unwrap();
        drop(file);
        let host = HostFile::open_exclusive(&path).unwrap();
        let times = host.times().unwrap();
        host.write_at(0, &[1; 20]).unwrap();
        host.flush().unwrap();
        host.set_len(15).unwrap();
        host.restore_times(times).unwrap();
        host.flush().unwrap();
        drop(host);
        let metadata = path.metadata().unwrap();
        assert_eq!((metadata.modified().unwrap(), metadata.len()), (long_ago, 15));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn room_set_aside_leaves_the_file_as_it_is() {
        let path = std::env::temp_dir()
            .join(format!("slimdisk-aside-{}.img", std::process::id()));
        std::fs::write(&path, [7; 5000]).unwrap();
        let host = HostFile::open_exclusive(&path).unwrap();
        for range in [0..10, 4000..5000, 0..1 << 20, 5000..1 << 21] {
            host.reserve(range).unwrap();
            assert_eq!(host.os().metadata().unwrap().len(), 5000);
        }
        host.write_at(5000, &[8; 10]).unwrap();
        host.give_back().unwrap();
        drop(host);
        let found = std::fs::read(&path).unwrap();
        assert!(found == [vec![7; 5000], vec![8; 10]].concat());
        std::fs::remove_file(&path).unwrap();
    }

    #[cfg(windows)]
    #[test]
    fn holes_are_refused_in_a_file_that_is_not_marked() {
        let path = std::env::temp_dir()
            .join(format!("slimdisk-unmarked-{}.img", std::process::id()));
        std::fs::write(&path, [7; 100_000]).unwrap();
        let host = HostFile::open_exclusive(&path).unwrap();
        let error = host.hole_size().unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.what().contains("--punch"), "{error}");
        assert!(host.punch(0..1 << 16).is_err());
        drop(host);
        assert_eq!(std::fs::read(&path).unwrap(), [7; 100_000]);
        for device in ["NUL", r"\\.\PhysicalDrive0", "con.vhd"] {
            let error = HostFile::open_read(device.as_ref()).err().unwrap();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
        }
        std::fs::remove_file(&path).unwrap();
    }

    /// On Windows nobody could make one.
    #[cfg(unix)]
    #[test]
    fn a_change_is_noticed_without_a_lease() {
        use std::io::Write;
        let path = std::env::temp_dir()
            .join(format!("slimdisk-steady-{}.img", std::process::id()));
        std::fs::write(&path, [0; 10]).unwrap();
        let mut host = HostFile::open_read(&path).unwrap();
        host.steady = host.state().ok();
        host.still_exclusive().unwrap();
        // Long enough for the coarsest clock that dates are taken from.
        sleep(Duration::from_millis(50));
        let mut other = File::options().write(true).open(&path).unwrap();
        other.write_all(&[1; 10]).unwrap();
        drop(other);
        assert_eq!(host.still_exclusive().unwrap_err().kind(), Kind::InUse);
        drop(host);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_flush_that_failed_is_not_forgotten() {
        let path = std::env::temp_dir()
            .join(format!("slimdisk-flush-{}.img", std::process::id()));
        std::fs::write(&path, [0; 10]).unwrap();
        let host = HostFile::open_exclusive(&path).unwrap();
        host.flush().unwrap();
        host.flush_failed.store(true, Relaxed);
        assert_eq!(host.flush().unwrap_err().kind(), Kind::Io);
        drop(host);
        std::fs::remove_file(&path).unwrap();
    }
}
