//! Linux: copies the kernel makes, holes it knows of, and room it sets aside.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::ops::Range;
use std::os::fd::AsRawFd;

use super::Result;

/// Shares `len` bytes at `from` with `to`; all three in file system blocks.
pub fn clone_range(file: &File, from: u64, to: u64, len: u64) -> Result<()> {
    let range = libc::file_clone_range {
        src_fd: file.as_raw_fd().into(),
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

/// Copies up to `len` bytes from `from` to `to` and says how many; 0 if the
/// kernel will not.
pub fn copy_range(file: &File, from: u64, to: u64, len: u64) -> Result<u64> {
    // One call is not stopped by a signal; keep it short.
    let len = usize::try_from(len.min(64 << 20)).unwrap_or(1 << 20);
    let (mut from, mut to) = (offset(from)?, offset(to)?);
    let fd = file.as_raw_fd();
    loop {
        // SAFETY: the descriptor is open, and both offsets are writable for the
        // call.
        let done =
            unsafe { libc::copy_file_range(fd, &raw mut from, fd, &raw mut to, len, 0) };
        match u64::try_from(done) {
            Ok(done) => return Ok(done),
            Err(_) => match Error::last_os_error() {
                e if e.kind() == ErrorKind::Interrupted => {}
                e => return Err(e),
            },
        }
    }
}

/// Sets room aside for the `len` bytes at `from`; the file stays as long as it is.
pub fn reserve(file: &File, from: u64, len: u64) -> Result<()> {
    let (from, len) = (offset(from)?, offset(len)?);
    let mode = libc::FALLOC_FL_KEEP_SIZE;
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
