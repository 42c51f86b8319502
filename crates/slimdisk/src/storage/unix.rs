//! Unix, and what only Linux has of it.

#[cfg(target_os = "linux")]
#[path = "unix/exclusion.rs"]
mod exclusion;
#[cfg(target_os = "linux")]
#[path = "unix/extents.rs"]
mod extents;
#[cfg(target_os = "linux")]
#[path = "unix/holder.rs"]
mod holder;
#[path = "unix/new_file.rs"]
mod new_file;

use std::fs::{File, FileType, Metadata, OpenOptions, TryLockError};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::exclusion::{Exclusion, Guard, Held};

type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(target_os = "linux")]
pub use self::exclusion::{exclude, hold_off_writers, still_exclusive};
#[cfg(target_os = "linux")]
pub use self::extents::{
    clone_between, clone_range, may_punch, next_data, punch, reserve, will_read,
    write_out,
};
#[cfg(target_os = "linux")]
pub use self::holder::name as holder;
pub use self::new_file::*;
#[cfg(not(target_os = "linux"))]
pub use self::plain::*;

/// The path without links.
pub fn real_path(path: &Path) -> Result<PathBuf> {
    path.canonicalize()
}

/// What a file is that is not a regular one.
pub fn type_name(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_block_device() => "a block device",
        kind if kind.is_char_device() => "a character device",
        kind if kind.is_fifo() => "a named pipe",
        kind if kind.is_socket() => "a socket",
        _ => "not a regular file",
    }
}

/// Opens a regular file for reading, without waiting for anybody.
pub fn open_read(path: &Path) -> Result<File> {
    open(path, OpenOptions::new().read(true))
}

/// Opens a regular file for a look; a lease of somebody else fails it, as it would
/// [`open_read`].
pub fn glance(path: &Path) -> Result<File> {
    open_read(path)
}

/// Opens a regular file for reading and writing, without waiting for anybody.
pub fn open_write(path: &Path) -> Result<File> {
    open(path, OpenOptions::new().read(true).write(true))
}

fn open(path: &Path, options: &mut OpenOptions) -> Result<File> {
    // A lease of somebody else makes an open wait; this one fails instead
    // (EWOULDBLOCK). Nor does it wait for a pipe's other end.
    let flags = libc::O_NONBLOCK;
    #[cfg(target_os = "linux")]
    match options.custom_flags(flags | libc::O_NOATIME).open(path) {
        // Only the owner may look without leaving a trace.
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => {}
        done => return done,
    }
    options.custom_flags(flags).open(path)
}

/// Joins those who read the file; fails if somebody writes to it, as far as
/// locks tell.
pub fn share(file: &File) -> Result<(), Held> {
    #[cfg(target_os = "linux")]
    exclusion::writing_qemu(file)?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Err(Held::default()),
        // Where there are no locks, nothing can be told.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

fn flock_exclusive(file: &File, exclusion: &mut Exclusion) -> Result<(), Held> {
    match file.try_lock() {
        Ok(()) => exclusion.add(Guard::Flock),
        Err(TryLockError::WouldBlock) => return Err(Held::default()),
        Err(TryLockError::Error(e)) => exclusion.lack(format!(
            "no lock (flock) could be had ({e}): another run of this program, or one \
             that uses such locks, is not seen"
        )),
    }
    Ok(())
}

/// The largest offset this process may write up to (`RLIMIT_FSIZE`).
///
/// A write past it would not only fail: its signal, SIGXFSZ, ends the process.
pub fn size_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable for the whole call.
    if unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) } != 0
        || limit.rlim_cur == libc::RLIM_INFINITY
    {
        return u64::MAX;
    }
    limit.rlim_cur
}

/// Bytes the file takes on the host.
pub fn host_bytes(_: &File, metadata: &Metadata) -> Result<u64> {
    // `st_blocks` counts units of 512 bytes, whatever the block size.
    Ok(metadata.blocks().saturating_mul(512))
}

/// When the file's record was last changed: seconds and nanoseconds.
#[expect(clippy::unnecessary_wraps, reason = "not every system has it")]
pub fn changed(metadata: &Metadata) -> Option<(i64, i64)> {
    Some((metadata.ctime(), metadata.ctime_nsec()))
}

/// A clone may make a file longer.
pub const CLONES_EXTEND: bool = true;

/// The unit in which the file system can share bytes.
pub fn block_size(_: &File, metadata: &Metadata) -> u64 {
    metadata.blksize()
}

/// The size of the pieces in which holes give room back.
pub fn hole_unit(_: &File, block_size: u64) -> u64 {
    block_size.max(512)
}

/// Whether the file system can share bytes, in such units; the file is not changed.
pub fn may_clone(file: &File, unit: u64) -> Result<bool> {
    // To share bytes with themselves is refused where others could be shared, but for
    // another reason than where none can.
    match clone_range(file, 0, 0, unit) {
        Err(e) if e.kind() == ErrorKind::InvalidInput => Ok(true),
        done => done.map(|()| true),
    }
}

/// Gives back what was set aside behind the file's end, which is at `len`.
pub fn give_back(file: &File, len: u64) -> Result<()> {
    // To "cut" a file where it ends frees what lies behind.
    file.set_len(len)
}

/// Fails if the file system has no files of `len` bytes. It has `before` bytes, and keeps
/// them.
pub fn try_len(file: &File, before: u64, len: u64) -> Result<()> {
    file.set_len(len)?;
    file.set_len(before)
}

/// Any file can have holes here, if its file system knows them.
#[expect(clippy::unnecessary_wraps, reason = "not so on every system")]
pub fn needs_mark(_: &File) -> Result<bool> {
    Ok(false)
}

#[expect(clippy::unnecessary_wraps, reason = "not so on every system")]
pub fn mark_sparse(_: &File) -> Result<()> {
    Ok(())
}

/// Nothing that a user of the image had to know.
pub fn notes(_: &Metadata) -> Vec<String> {
    Vec::new()
}

/// Whether a name in a folder means the same however a path is written; here it does.
pub fn is_file_name(_: &str) -> bool {
    true
}

/// Devices are told by their type.
pub fn device(_: &Path) -> Option<&'static str> {
    None
}

pub fn read_at(file: &File, offset: u64, buf: &mut [u8]) -> Result<()> {
    file.read_exact_at(buf, offset)
}

pub fn write_at(file: &File, offset: u64, data: &[u8]) -> Result<()> {
    file.write_all_at(data, offset)
}

/// What other Unix systems do without.
#[cfg(not(target_os = "linux"))]
mod plain {
    use std::fs::File;
    use std::io::{Error, ErrorKind};
    use std::ops::Range;
    use std::path::Path;

    use super::{Exclusion, Held, Result};

    pub fn exclude(file: &File) -> Result<Exclusion, Held> {
        let mut exclusion = Exclusion::default();
        exclusion.lack(
            "this system grants no leases: programs that have the file open without \
             locking it are not seen"
                .to_owned(),
        );
        super::flock_exclusive(file, &mut exclusion)?;
        exclusion.lack(
            "QEMU's byte-range locks are taken on Linux only: a QEMU program does not \
             see that the file is being changed, nor is it seen"
                .to_owned(),
        );
        Ok(exclusion)
    }

    pub fn hold_off_writers(_: &File) -> Result<Exclusion, Held> {
        Ok(Exclusion::default())
    }

    pub fn still_exclusive(_: &File) -> Result<bool> {
        Ok(true)
    }

    pub fn holder(_: &Path, _: Held) -> Option<String> {
        None
    }

    pub fn create_unnamed(_: &Path) -> Result<File> {
        Err(Error::from(ErrorKind::Unsupported))
    }

    pub fn name_unnamed(_: &File, _: &Path) -> Result<()> {
        Err(Error::from(ErrorKind::Unsupported))
    }

    pub fn clone_range(_: &File, _: u64, _: u64, _: u64) -> Result<()> {
        Err(Error::from(ErrorKind::Unsupported))
    }

    pub fn clone_between(_: &File, _: u64, _: &File, _: u64, _: u64) -> Result<()> {
        Err(Error::from(ErrorKind::Unsupported))
    }

    pub fn write_out(_: &File, _: u64, _: u64) -> Result<()> {
        Ok(())
    }

    pub fn will_read(_: &File, _: u64, _: u64) {}

    pub fn next_data(_: &File, _: u64, _: u64) -> Result<Option<Range<u64>>> {
        Err(Error::from(ErrorKind::Unsupported))
    }

    pub fn reserve(_: &File, _: u64, _: u64) -> Result<()> {
        Err(Error::from(ErrorKind::Unsupported))
    }

    pub fn punch(_: &File, _: u64, _: u64) -> Result<()> {
        Err(Error::from(ErrorKind::Unsupported))
    }

    pub fn may_punch(_: &File, _: u64, _: u64) -> Result<()> {
        Err(Error::from(ErrorKind::Unsupported))
    }
}
