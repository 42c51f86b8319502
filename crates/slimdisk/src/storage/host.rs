//! The host file.

#![forbid(unsafe_code)]

mod copying;
mod opening;
mod room;
#[cfg(test)]
mod tests;
mod times;

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use self::opening::State;
pub(super) use self::opening::folder_of;
pub use self::times::Times;
use super::exclusion::Exclusion;
use super::{
    Copied, ReadAt, Storage, Transfer, no_holes, not_sparse, past_the_end, platform,
};
use crate::error::{Error, Kind, Result};

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

impl HostFile {
    /// The system's handle.
    pub(super) fn os(&self) -> &File {
        &self.file
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

    /// Lets punching mark the file sparse, where only such files can have holes
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
        let _alone = self.end.write();
        self.metadata_changed.store(true, Relaxed);
        platform::give_back(&self.file, self.len())
            .map_err(|e| self.error("cannot give back the room set aside", e))
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

    fn begin_punching(&self) -> Result<()> {
        if !self.may_mark.load(Relaxed) {
            return Ok(());
        }
        self.metadata_changed.store(true, Relaxed);
        platform::mark_sparse(&self.file)
            .map_err(|e| self.error("cannot mark the file sparse", e))
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
        platform::punch(&self.file, range.start, range.end - range.start)
            .map_err(|e| self.error("cannot punch a hole", e).at(range.start))
    }

    fn still_exclusive(&self) -> Result<()> {
        self.must_still_be_alone()
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
