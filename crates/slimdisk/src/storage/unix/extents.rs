//! Linux: bytes that places share, the kernel's cache, holes it knows of and punches, and
//! room it sets aside.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::ops::Range;
use std::os::fd::AsRawFd;

use super::Result;

/// Shares `len` bytes at `from` with `to`; all three in file system blocks.
pub fn clone_range(file: &File, from: u64, to: u64, len: u64) -> Result<()> {
    clone_between(file, from, file, to, len)
}

/// Shares `len` bytes at `from` of one file with `to` of another; all three in file
/// system blocks.
pub fn clone_between(
    source: &File,
    from: u64,
    file: &File,
    to: u64,
    len: u64,
) -> Result<()> {
    let range = libc::file_clone_range {
        src_fd: source.as_raw_fd().into(),
        src_offset: from,
        src_length: len,
        dest_offset: to,
    };
    loop {
        // SAFETY: the request reads a `file_clone_range`, which lives for the call,
        // and both descriptors are open.
        match unsafe {
            libc::ioctl(file.as_raw_fd(), libc::FICLONERANGE, &raw const range)
        } {
            -1 => match Error::last_os_error() {
                e if e.kind() == ErrorKind::Interrupted => {}
                // A file system that has never heard of it.
                e if e.raw_os_error() == Some(libc::ENOTTY) => {
                    return Err(Error::from(ErrorKind::Unsupported));
                }
                e => return Err(e),
            },
            _ => return Ok(()),
        }
    }
}

/// Begins to write `len` bytes at `from` to the medium, without waiting for it; no
/// substitute for a flush, which alone tells what became of them.
pub fn write_out(file: &File, from: u64, len: u64) -> Result<()> {
    let (from, len) = (offset(from)?, offset(len)?);
    loop {
        // SAFETY: the descriptor is open; no memory is touched.
        match unsafe {
            libc::sync_file_range(
                file.as_raw_fd(),
                from,
                len,
                libc::SYNC_FILE_RANGE_WRITE,
            )
        } {
            -1 => match Error::last_os_error() {
                e if e.kind() == ErrorKind::Interrupted => {}
                // Not a file of which the system keeps pages.
                e if e.raw_os_error() == Some(libc::ESPIPE) => {
                    return Err(Error::from(ErrorKind::Unsupported));
                }
                e => return Err(e),
            },
            _ => return Ok(()),
        }
    }
}

/// Has `len` bytes at `from` read in the background.
pub fn will_read(file: &File, from: u64, len: u64) {
    let (Ok(from), Ok(len)) = (offset(from), offset(len)) else { return };
    // SAFETY: the descriptor is open; no memory is touched.
    let _ = unsafe {
        libc::posix_fadvise(file.as_raw_fd(), from, len, libc::POSIX_FADV_WILLNEED)
    };
}

/// Sets room aside for the `len` bytes at `from`; the file stays as long as it is.
pub fn reserve(file: &File, from: u64, len: u64) -> Result<()> {
    allocate(file, libc::FALLOC_FL_KEEP_SIZE, from, len)
}

/// Makes a hole of the `len` bytes at `from`; the file stays as long as it is.
pub fn punch(file: &File, from: u64, len: u64) -> Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    allocate(file, mode, from, len)
}

/// Fails if no holes can be punched in the file. Of one that was opened for reading alone
/// nobody tells.
pub fn may_punch(file: &File, behind_end: u64, len: u64) -> Result<()> {
    match punch(file, behind_end, len) {
        Err(e) if e.raw_os_error() == Some(libc::EBADF) => Ok(()),
        asked => asked,
    }
}

fn allocate(file: &File, mode: libc::c_int, from: u64, len: u64) -> Result<()> {
    let (from, len) = (offset(from)?, offset(len)?);
    loop {
        // SAFETY: the descriptor is open; no memory is touched.
        match unsafe { libc::fallocate(file.as_raw_fd(), mode, from, len) } {
            -1 => match Error::last_os_error() {
                e if e.kind() == ErrorKind::Interrupted => {}
                // What glibc does instead, writing zeros, is not what is wanted.
                e if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    return Err(Error::from(ErrorKind::Unsupported));
                }
                e => return Err(e),
            },
            _ => return Ok(()),
        }
    }
}

/// The first range at or after `from` that is not a hole; it may end too early,
/// at a place from which to ask again.
pub fn next_data(file: &File, from: u64, len: u64) -> Result<Option<Range<u64>>> {
    // The cursor this moves is used by nothing else.
    let seek = |from: u64, whence| {
        let from = offset(from)?;
        // SAFETY: the descriptor is open; no memory is touched.
        let found = unsafe { libc::lseek(file.as_raw_fd(), from, whence) };
        u64::try_from(found).map_err(|_| Error::last_os_error())
    };
    match seek(from, libc::SEEK_DATA) {
        Ok(start) => {
            let end = seek(start, libc::SEEK_HOLE).unwrap_or(len);
            Ok(Some(start..end))
        }
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(e) => Err(e),
    }
}

fn offset(offset: u64) -> Result<i64> {
    i64::try_from(offset).map_err(|_| Error::from(ErrorKind::FileTooLarge))
}
