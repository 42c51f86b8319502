//! Windows.

#[path = "windows/calls.rs"]
mod calls;
#[path = "windows/extents.rs"]
mod extents;
#[path = "windows/holder.rs"]
mod holder;
#[path = "windows/new_file.rs"]
mod new_file;

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{Error, ErrorKind};
use std::os::windows::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use windows_sys::Win32::Storage::FileSystem::{
    FILE_SHARE_DELETE, FILE_SHARE_READ, FILE_SHARE_WRITE,
};

use super::control;
use super::dos_path;
use super::exclusion::{Exclusion, Guard, Held};

type Result<T, E = Error> = std::result::Result<T, E>;

pub use self::extents::*;
pub use self::holder::name as holder;
pub use self::new_file::*;

/// The path without links, in the form people write.
pub fn real_path(path: &Path) -> Result<PathBuf> {
    let real = path.canonicalize()?;
    let written = real.to_str().and_then(dos_path::written).map(PathBuf::from);
    Ok(written.unwrap_or(real))
}

/// Whether a name in a folder means the same however a path is written.
pub fn is_file_name(name: &str) -> bool {
    dos_path::is_plain_name(name)
}

/// What a path names that is no file, and not to be asked: to look at a device can have
/// effects.
pub fn device(path: &Path) -> Option<&'static str> {
    dos_path::is_device(&path.to_string_lossy()).then_some("a device")
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

/// There is no limit but the file system's.
pub fn size_limit() -> u64 {
    u64::MAX
}

/// Nothing that std tells of.
pub fn changed(_: &Metadata) -> Option<(i64, i64)> {
    None
}

/// What the file's attributes mean for whoever uses it.
pub fn notes(metadata: &Metadata) -> Vec<String> {
    control::notes(metadata.file_attributes())
}

/// Nobody writes beside the system's cache here.
pub fn write_out(_: &File, _: u64, _: u64) -> Result<()> {
    Ok(())
}

/// There is no such hint for a handle that waits for its answers: the system reads ahead
/// by itself where it sees reads follow each other. `FILE_FLAG_SEQUENTIAL_SCAN` and
/// `FILE_FLAG_RANDOM_ACCESS` are for a handle as a whole, and an image is read in both
/// ways.
pub fn will_read(_: &File, _: u64, _: u64) {}

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
