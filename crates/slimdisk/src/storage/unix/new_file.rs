//! Unix: files that have no name yet, and room for them.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{Error, ErrorKind};
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Result;

/// Makes a file under a name that nothing has.
pub fn create_named(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

/// Moves a file to a name that nothing has, or fails.
pub fn rename_new(from: &Path, to: &Path) -> Result<()> {
    // A second name fails if there is anything of it.
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(e),
        // File systems without hard links.
        Err(_) => rename_without_links(from, to),
    }
}

/// As the system cannot do it in one step, there is a moment in which somebody else's
/// file of this name would be replaced.
fn rename_in_two_steps(from: &Path, to: &Path) -> Result<()> {
    match to.symlink_metadata() {
        Ok(_) => Err(ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(from, to),
    }
}

/// Returns once the names in a folder are durable.
pub fn sync_name(_: &File, folder: &Path) -> Result<()> {
    sync_folder(folder)
}

/// Makes the names in a folder durable.
pub fn sync_folder(folder: &Path) -> Result<()> {
    match File::open(folder)?.sync_all() {
        // File systems that have no such thing.
        Err(e)
            if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) =>
        {
            Ok(())
        }
        done => done,
    }
}

/// How many bytes this user may still write to a folder; `None` where the file system
/// does not tell.
pub fn room(folder: &Path) -> Result<Option<u64>> {
    // The numbers' types differ by system.
    fn wide(number: impl Into<u64>) -> u64 {
        number.into()
    }
    let folder = c_path(folder)?;
    // SAFETY: all zeros is a valid value of this plain struct of integers.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in a zero byte, and `found` is writable for the call.
    if unsafe { libc::statvfs(folder.as_ptr(), &raw mut found) } != 0 {
        return Err(Error::last_os_error());
    }
    let unit = wide(found.f_frsize);
    if found.f_blocks == 0 || unit == 0 {
        return Ok(None);
    }
    Ok(Some(wide(found.f_bavail).saturating_mul(unit)))
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::from(ErrorKind::InvalidInput))
}

#[cfg(target_os = "linux")]
use self::linux::rename_without_links;
#[cfg(target_os = "linux")]
pub use self::linux::*;
#[cfg(not(target_os = "linux"))]
use self::rename_in_two_steps as rename_without_links;

#[cfg(target_os = "linux")]
mod linux {
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    /// Makes a file without a name that can be given one.
    pub fn create_unnamed(folder: &Path) -> Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_TMPFILE)
            .open(folder)?;
        // By this path it will get its name.
        fs::symlink_metadata(by_descriptor(&file))?;
        Ok(file)
    }

    fn by_descriptor(file: &File) -> String {
        format!("/proc/self/fd/{}", file.as_raw_fd())
    }

    /// Gives a file its first name, if nothing has it.
    pub fn name_unnamed(file: &File, target: &Path) -> Result<()> {
        let from = c_path(by_descriptor(file).as_ref())?;
        let to = c_path(target)?;
        // SAFETY: both paths end in a zero byte and live for the call.
        let done = unsafe {
            libc::linkat(
                libc::AT_FDCWD,
                from.as_ptr(),
                libc::AT_FDCWD,
                to.as_ptr(),
                libc::AT_SYMLINK_FOLLOW,
            )
        };
        if done == 0 { Ok(()) } else { Err(Error::last_os_error()) }
    }

    pub(super) fn rename_without_links(from: &Path, to: &Path) -> Result<()> {
        let (from_c, to_c) = (c_path(from)?, c_path(to)?);
        // SAFETY: both paths end in a zero byte and live for the call.
        let done = unsafe {
            libc::syscall(
                libc::SYS_renameat2,
                libc::AT_FDCWD,
                from_c.as_ptr(),
                libc::AT_FDCWD,
                to_c.as_ptr(),
                libc::RENAME_NOREPLACE,
            )
        };
        match done {
            0 => Ok(()),
            _ => match Error::last_os_error() {
                e if e.kind() == ErrorKind::AlreadyExists => Err(e),
                _ => rename_in_two_steps(from, to),
            },
        }
    }
}
