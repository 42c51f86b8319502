//! Windows.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{Error, ErrorKind};
use std::mem::size_of;
use std::ops::Range;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::fs::{FileExt, OpenOptionsExt};
use std::os::windows::io::AsRawHandle;
use std::path::{Component, Path, PathBuf, Prefix};
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::ERROR_MORE_DATA;
use windows_sys::Win32::Storage::FileSystem::{
    FILE_SHARE_DELETE, FILE_SHARE_READ, FILE_SHARE_WRITE, FILE_STANDARD_INFO,
    FileStandardInfo, GetDiskFreeSpaceExW, GetFileInformationByHandleEx,
    MOVEFILE_WRITE_THROUGH, MoveFileExW,
};
use windows_sys::Win32::System::IO::DeviceIoControl;
use windows_sys::Win32::System::Ioctl::{
    FILE_ALLOCATED_RANGE_BUFFER, FSCTL_QUERY_ALLOCATED_RANGES,
};

use super::exclusion::{Exclusion, Guard, Held};

type Result<T, E = Error> = std::result::Result<T, E>;

/// The path without links, in the form people write.
pub fn real_path(path: &Path) -> Result<PathBuf> {
    let real = path.canonicalize()?;
    // `\\?\C:\disk.vhd`: the prefix lifts limits that std lifts anyway.
    let mut parts = real.components();
    let Some(Component::Prefix(prefix)) = parts.next() else { return Ok(real) };
    match prefix.kind() {
        Prefix::VerbatimDisk(drive) => {
            let mut plain = PathBuf::from(format!("{}:\\", char::from(drive)));
            plain.extend(parts.filter(|part| matches!(part, Component::Normal(_))));
            Ok(plain)
        }
        _ => Ok(real),
    }
}

/// What a file is that is not a regular one.
pub fn type_name(kind: FileType) -> &'static str {
    if kind.is_dir() { "a folder" } else { "not a regular file" }
}

/// Opens a file for reading, if nobody writes to it; nobody may then.
pub fn open_read(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).share_mode(FILE_SHARE_READ).open(path)
}

/// Opens a file for a look, while others may do with it what they like.
pub fn glance(path: &Path) -> Result<File> {
    let share = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
    OpenOptions::new().read(true).share_mode(share).open(path)
}

/// Opens a file for reading and writing, if nobody has it; nobody may then.
pub fn open_write(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).share_mode(0).open(path)
}

/// The share mode has said all.
pub fn share(_: &File) -> Result<(), Held> {
    Ok(())
}

/// The share mode has done all.
pub fn exclude(_: &File) -> Result<Exclusion, Held> {
    let mut exclusion = Exclusion::default();
    exclusion.add(Guard::ShareMode);
    Ok(exclusion)
}

/// The share mode has done all here, too.
pub fn hold_off_writers(_: &File) -> Result<Exclusion, Held> {
    Ok(Exclusion::default())
}

pub fn still_exclusive(_: &File) -> Result<bool> {
    Ok(true)
}

/// Who has the file is not told by the system without more ado.
pub fn holder(_: &Path, _: Held) -> Option<String> {
    None
}

/// There is no limit but the file system's.
pub fn size_limit() -> u64 {
    u64::MAX
}

/// Bytes the file takes on the host.
pub fn host_bytes(file: &File, _: &Metadata) -> Result<u64> {
    let mut info = FILE_STANDARD_INFO::default();
    let size = buffer_size::<FILE_STANDARD_INFO>()?;
    // SAFETY: the handle is open, and `info` is what this class of information
    // fills in, writable for the call and of the size given.
    let done = unsafe {
        GetFileInformationByHandleEx(
            file.as_raw_handle(),
            FileStandardInfo,
            (&raw mut info).cast(),
            size,
        )
    };
    if done == 0 {
        return Err(Error::last_os_error());
    }
    Ok(u64::try_from(info.AllocationSize).unwrap_or(0))
}

/// Nothing that std tells of.
pub fn changed(_: &Metadata) -> Option<(i64, i64)> {
    None
}

/// The unit in which the file system can share bytes; nothing is shared here.
pub fn block_size(_: &Metadata) -> u64 {
    4096
}

/// A file without a name is not to be had here.
pub fn create_unnamed(_: &Path) -> Result<File> {
    Err(Error::from(ErrorKind::Unsupported))
}

pub fn name_unnamed(_: &File, _: &Path) -> Result<()> {
    Err(Error::from(ErrorKind::Unsupported))
}

/// Makes a file under a name that nothing has; while it is open, it can be renamed and
/// nothing else.
pub fn create_named(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .share_mode(FILE_SHARE_DELETE)
        .open(path)
}

/// Moves a file to a name that nothing has, or fails.
pub fn rename_new(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (wide(from), wide(to));
    // SAFETY: both paths end in a zero and live for the call.
    match unsafe { MoveFileExW(from.as_ptr(), to.as_ptr(), MOVEFILE_WRITE_THROUGH) } {
        0 => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The move was written through.
pub fn sync_folder(_: &Path) -> Result<()> {
    Ok(())
}

/// How many bytes this user may still write to a folder.
pub fn room(folder: &Path) -> Result<Option<u64>> {
    let folder = wide(folder);
    let mut room = 0;
    // SAFETY: the path ends in a zero, and `room` is writable for the call; the other
    // two numbers are not asked for.
    let done = unsafe {
        GetDiskFreeSpaceExW(folder.as_ptr(), &raw mut room, null_mut(), null_mut())
    };
    match done {
        0 => Err(Error::last_os_error()),
        _ => Ok(Some(room)),
    }
}

fn wide(path: &Path) -> Vec<u16> {
    path.as_os_str().encode_wide().chain(std::iter::once(0)).collect()
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

/// What lies behind a file's end cannot be had beforehand without more ado; to set the
/// length allocates the file here.
pub fn reserve(_: &File, _: u64, _: u64) -> Result<()> {
    Err(Error::from(ErrorKind::Unsupported))
}

/// Only a file that is marked sparse can have holes here, and the mark is what Hyper-V
/// and WSL refuse.
pub fn punch(_: &File, _: u64, _: u64) -> Result<()> {
    Err(Error::from(ErrorKind::Unsupported))
}

pub fn may_punch(_: &File, _: u64, _: u64) -> Result<()> {
    Err(Error::from(ErrorKind::Unsupported))
}

/// The first range at or after `from` that a sparse file has stored.
pub fn next_data(file: &File, from: u64, len: u64) -> Result<Option<Range<u64>>> {
    let signed = |n: u64| i64::try_from(n).map_err(|_| ErrorKind::InvalidInput);
    let asked = FILE_ALLOCATED_RANGE_BUFFER {
        FileOffset: signed(from)?,
        Length: signed(len.saturating_sub(from))?,
    };
    let mut found = FILE_ALLOCATED_RANGE_BUFFER::default();
    let size = buffer_size::<FILE_ALLOCATED_RANGE_BUFFER>()?;
    let mut returned = 0;
    // SAFETY: the handle is open for synchronous use; the request reads one range
    // and fills in at most one, each of the size given and alive for the call.
    let done = unsafe {
        DeviceIoControl(
            file.as_raw_handle(),
            FSCTL_QUERY_ALLOCATED_RANGES,
            (&raw const asked).cast(),
            size,
            (&raw mut found).cast(),
            size,
            &raw mut returned,
            null_mut(),
        )
    };
    if done == 0 {
        // More ranges than the one asked for are no trouble.
        let error = Error::last_os_error();
        if error.raw_os_error().and_then(|code| u32::try_from(code).ok())
            != Some(ERROR_MORE_DATA)
        {
            return Err(error);
        }
    }
    if returned == 0 {
        return Ok(None);
    }
    if returned != size {
        return Err(Error::from(ErrorKind::InvalidData));
    }
    let unsigned = |n: i64| u64::try_from(n).map_err(|_| ErrorKind::InvalidData);
    let start = unsigned(found.FileOffset)?;
    Ok(Some(start..start.saturating_add(unsigned(found.Length)?)))
}

fn buffer_size<T>() -> Result<u32> {
    u32::try_from(size_of::<T>()).map_err(|_| ErrorKind::InvalidInput.into())
}

pub fn read_at(file: &File, mut offset: u64, mut buf: &mut [u8]) -> Result<()> {
    while !buf.is_empty() {
        match file.seek_read(buf, offset) {
            Ok(0) => return Err(Error::from(ErrorKind::UnexpectedEof)),
            Ok(n) => (buf, offset) = (buf.split_at_mut(n).1, offset + n as u64),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

pub fn write_at(file: &File, mut offset: u64, mut data: &[u8]) -> Result<()> {
    while !data.is_empty() {
        match file.seek_write(data, offset) {
            Ok(0) => return Err(Error::from(ErrorKind::WriteZero)),
            Ok(n) => (data, offset) = (data.split_at(n).1, offset + n as u64),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
