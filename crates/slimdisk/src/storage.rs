//! Where bytes lie: positional reads and writes, flushes, and the host file.
//!
//! Everything above reads through [`ReadAt`] and changes a file through
//! [`Storage`]; there is no file cursor anywhere. [`HostFile`] is the real
//! thing, [`Meter`] counts what passes through, and tests bring their own
//! storages that lose power or fail on request.

// What Windows has rules for is plain logic, and tested everywhere.
#[cfg(any(windows, test))]
mod control;
#[cfg_attr(
    not(any(windows, test)),
    expect(dead_code, reason = "of paths, other systems meet those that children note")
)]
mod dos_path;
mod exclusion;
mod host;
mod mapping;
mod meter;
mod new_file;
// The platform layer: the only code of the library that talks to the operating
// system directly, and so the only place where `unsafe` is allowed.
#[cfg(unix)]
#[expect(unsafe_code, reason = "system calls that std does not wrap")]
#[path = "storage/unix.rs"]
mod platform;
#[cfg(windows)]
#[expect(unsafe_code, reason = "system calls that std does not wrap")]
#[path = "storage/windows.rs"]
mod platform;

use std::ops::{AddAssign, Range};
use std::sync::Arc;

use zerocopy::{FromBytes, IntoBytes};

pub(crate) use self::dos_path::{is_no_disk, volume};
pub use self::exclusion::{Exclusion, Guard};
pub use self::host::{HostFile, Times};
pub use self::mapping::{Mapped, Mapping};
pub use self::meter::{IoCounts, Meter};
pub use self::new_file::{NewFile, free_space};
pub(crate) use self::new_file::{
    must_not_exist, nearest_folder, require, split, sync_folder,
};
pub(crate) use self::platform::{is_file_name, real_path};
use crate::error::{Error, Kind, Result};

/// Bytes that can be read by offset: a file, a guest's disk, a volume in it.
#[expect(clippy::len_without_is_empty, reason = "a disk is never asked if it is empty")]
pub trait ReadAt: Send + Sync {
    /// How many bytes there are.
    fn len(&self) -> u64;

    /// Fills `buf` with the bytes from `offset` on, or fails; a read that passes
    /// the end is [`Kind::InvalidImage`], for only a wrong offset in an image
    /// leads there.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// The first range at or after `offset` that may hold anything but zeros, or
    /// `None` if all the rest is known to be zeros.
    ///
    /// What lies before the range reads as zeros and need not be read. Where
    /// nothing is known, this is everything from `offset` to the end.
    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        Ok(Some(offset..self.len()).filter(|range| range.start < range.end))
    }

    /// Is told what will be read soon, in this order, so that a device has more than one
    /// request under way. A hint: nothing depends on it, and what it names need not even
    /// be there.
    fn will_read(&self, _ranges: &[Range<u64>]) {}
}

/// A file that can be changed in place.
///
/// Writes may reach the medium in any order, torn and in part, until
/// [`flush`](Storage::flush) returns; that is all a caller may assume.
pub trait Storage: ReadAt {
    /// Writes all of `data` at `offset`; the file grows when that passes its end.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// Returns once everything written, and the file's length, is durable.
    fn flush(&self) -> Result<()>;

    /// Cuts the file, or extends it with zeros, to `len` bytes.
    fn set_len(&self, len: u64) -> Result<()>;

    /// Sees to it that the host has room for the file's bytes in `range`, which may lie
    /// behind its end; the file reads the same and is as long as before. Where nothing
    /// can be known beforehand it succeeds.
    ///
    /// # Errors
    ///
    /// [`Kind::DiskFull`], at once.
    fn reserve(&self, _range: Range<u64>) -> Result<()> {
        Ok(())
    }

    /// Gives back what was reserved behind the file's end.
    fn give_back(&self) -> Result<()> {
        Ok(())
    }

    /// Copies `len` bytes from `from` to `to`; the two do not overlap. As with
    /// a write, the copy is durable after the next flush only.
    fn copy_within(&self, from: u64, to: u64, len: u64) -> Result<Copied>;

    /// Makes all these copies as [`copy_within`](Storage::copy_within) does, in any order
    /// and several at once: no place that is written to is another one's source or
    /// target. After a failure any of them may have been made in part.
    fn copy_all(&self, transfers: &[Transfer]) -> Result<Copied> {
        let mut all = Copied::default();
        for Transfer { from, to, len } in transfers {
            all += self.copy_within(*from, *to, *len)?;
        }
        Ok(all)
    }

    /// Is told which copies come next. A hint, as [`will_read`](ReadAt::will_read).
    fn will_copy(&self, _transfers: &[Transfer]) {}

    /// The unit in bytes in which the file system can share bytes between two places of
    /// the file instead of copying them: both places and the length are multiples of it.
    /// `None` if it cannot, or if that is not known.
    fn clone_unit(&self) -> Option<u64> {
        None
    }

    /// The size in bytes of the pieces in which [`punch`](Storage::punch) gives room back:
    /// whole ones, which begin at multiples of it. Changes nothing. Of a file that
    /// was opened for reading alone it is what it would be if there can be any.
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidArgument`] where the file can have no holes.
    fn hole_size(&self) -> Result<u64> {
        Err(no_holes())
    }

    /// Makes the file one that can have holes, where that takes something beforehand.
    fn begin_punching(&self) -> Result<()> {
        Ok(())
    }

    /// Makes a hole of the file's bytes in `range`: they read as zeros and take up no
    /// room, and the file is as long as before. Durable after the next flush; until then
    /// any part of it may have been done.
    ///
    /// # Errors
    ///
    /// Those of [`hole_size`](Storage::hole_size), [`Kind::InvalidImage`] for a range
    /// beyond the end, [`Kind::Io`].
    fn punch(&self, _range: Range<u64>) -> Result<()> {
        Err(no_holes())
    }

    /// Fails with [`Kind::InUse`] if somebody has opened the file for writing
    /// since it was opened here and is waiting for it.
    fn still_exclusive(&self) -> Result<()> {
        Ok(())
    }
}

/// One copy inside a file: `len` bytes at `from`, to `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Where the bytes lie, in bytes from the file's start.
    pub from: u64,
    /// Where they go, in bytes from the file's start.
    pub to: u64,
    /// How many bytes there are.
    pub len: u64,
}

/// The error of a file that must be marked before there can be holes in it.
fn not_sparse() -> Error {
    Error::new(
        Kind::InvalidArgument,
        "this file is not marked sparse, and on Windows no other can have holes: with \
         --make-sparse it is marked, which Hyper-V and WSL refuse in an image; compact it \
         without --punch",
    )
}

/// The error of a file in which there can be no holes.
pub(crate) fn no_holes() -> Error {
    Error::new(
        Kind::InvalidArgument,
        "no holes can be punched in this file: its file system or this system has no way \
         to; compact it without --punch",
    )
}

/// How a [`Storage::copy_within`] was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Bytes that the host's file system now shares between both places; the
    /// rest was written.
    pub cloned: u64,
    /// Bytes of holes that stayed holes: neither shared nor written.
    pub holes: u64,
}

impl AddAssign for Copied {
    fn add_assign(&mut self, other: Self) {
        self.cloned += other.cloned;
        self.holes += other.holes;
    }
}

/// Reads one on-disk structure.
pub fn read_struct<T: FromBytes + IntoBytes>(
    from: &dyn ReadAt,
    offset: u64,
) -> Result<T> {
    let mut value = T::new_zeroed();
    from.read_at(offset, value.as_mut_bytes())?;
    Ok(value)
}

/// The error of a read past the end of what is there.
pub(crate) fn past_the_end(offset: u64, len: u64, end: u64) -> Error {
    Error::new(
        Kind::InvalidImage,
        format!("{len} bytes to be read here lie beyond the end ({end} bytes)"),
    )
    .at(offset)
}

/// A window on other bytes: a volume in a disk, say.
pub struct Section<'a> {
    whole: &'a dyn ReadAt,
    start: u64,
    len: u64,
}

impl<'a> Section<'a> {
    /// The bytes `range` of `whole`, clipped to what `whole` has.
    #[must_use]
    pub fn new(whole: &'a dyn ReadAt, range: Range<u64>) -> Self {
        let end = range.end.min(whole.len());
        Section { whole, start: range.start, len: end.saturating_sub(range.start) }
    }
}

impl ReadAt for Section<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match offset.checked_add(buf.len() as u64) {
            Some(end) if end <= self.len => self.whole.read_at(self.start + offset, buf),
            _ => Err(past_the_end(offset, buf.len() as u64, self.len)),
        }
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        if offset >= self.len {
            return Ok(None);
        }
        let found = self.whole.next_data(self.start + offset)?;
        Ok(found
            .map(|r| {
                r.start.max(self.start) - self.start..(r.end - self.start).min(self.len)
            })
            .filter(|r| r.start < r.end))
    }

    fn will_read(&self, ranges: &[Range<u64>]) {
        let end = self.start.saturating_add(self.len);
        let shift = |at: u64| self.start.saturating_add(at).min(end);
        let ranges: Vec<_> =
            ranges.iter().map(|r| shift(r.start)..shift(r.end)).collect();
        self.whole.will_read(&ranges);
    }
}

impl ReadAt for Vec<u8> {
    fn len(&self) -> u64 {
        Vec::len(self) as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let found = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(buf.len())?))
            .ok_or_else(|| past_the_end(offset, buf.len() as u64, ReadAt::len(self)))?;
        buf.copy_from_slice(found);
        Ok(())
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        (**self).read_at(offset, buf)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        (**self).next_data(offset)
    }

    fn will_read(&self, ranges: &[Range<u64>]) {
        (**self).will_read(ranges);
    }
}

impl<T: Storage + ?Sized> Storage for Arc<T> {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        (**self).write_at(offset, data)
    }

    fn flush(&self) -> Result<()> {
        (**self).flush()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        (**self).set_len(len)
    }

    fn reserve(&self, range: Range<u64>) -> Result<()> {
        (**self).reserve(range)
    }

    fn give_back(&self) -> Result<()> {
        (**self).give_back()
    }

    fn copy_within(&self, from: u64, to: u64, len: u64) -> Result<Copied> {
        (**self).copy_within(from, to, len)
    }

    fn copy_all(&self, transfers: &[Transfer]) -> Result<Copied> {
        (**self).copy_all(transfers)
    }

    fn will_copy(&self, transfers: &[Transfer]) {
        (**self).will_copy(transfers);
    }

    fn clone_unit(&self) -> Option<u64> {
        (**self).clone_unit()
    }

    fn hole_size(&self) -> Result<u64> {
        (**self).hole_size()
    }

    fn begin_punching(&self) -> Result<()> {
        (**self).begin_punching()
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        (**self).punch(range)
    }

    fn still_exclusive(&self) -> Result<()> {
        (**self).still_exclusive()
    }
}
