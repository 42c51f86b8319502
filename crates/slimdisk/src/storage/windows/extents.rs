//! Windows: bytes that places share, holes, and room set aside, by the rules of
//! [`control`].

use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::ops::Range;

use super::Result;
use super::calls::compressed_size;
use super::control::{self, Calls, Code, attribute};

/// Bytes can be shared only with places before the end of the file.
pub const CLONES_EXTEND: bool = false;

/// The unit in which the file system can share bytes: its clusters.
pub fn block_size(file: &File, _: &Metadata) -> u64 {
    file.volume().map_or(4096, |volume| volume.cluster.max(512))
}

/// The size of the pieces in which holes give room back.
pub fn hole_unit(file: &File, block_size: u64) -> u64 {
    file.volume().map_or(block_size, |volume| volume.hole_unit())
}

/// Whether the file system can share bytes; the file is not changed.
pub fn may_clone(file: &File, _: u64) -> Result<bool> {
    file.volume().map(|volume| volume.shares()).map_err(Code::to_io)
}

/// Shares `len` bytes at `from` with `to`; all three in clusters, and before the end.
pub fn clone_range(file: &File, from: u64, to: u64, len: u64) -> Result<()> {
    control::share(file, file, from, to, len).map_err(Code::to_io)
}

/// Shares `len` bytes at `from` of one file with `to` of another; all three in clusters,
/// and before the ends.
pub fn clone_between(
    source: &File,
    from: u64,
    file: &File,
    to: u64,
    len: u64,
) -> Result<()> {
    control::share(file, source, from, to, len).map_err(Code::to_io)
}

/// Sets room aside for the `len` bytes at `from`; the file stays as long as it is. The
/// caller sees to it that nobody makes it longer meanwhile.
pub fn reserve(file: &File, from: u64, len: u64) -> Result<()> {
    control::reserve(file, from, len).map_err(Code::to_io)
}

/// Gives back what was set aside behind the file's end, which is at `len`; the caller sees
/// to it that nobody makes it longer meanwhile.
pub fn give_back(file: &File, len: u64) -> Result<()> {
    match control::give_back(file).map_err(Code::to_io) {
        // Where nothing could be set aside either.
        Err(e) if e.kind() == ErrorKind::Unsupported => file.set_len(len),
        done => done,
    }
}

/// Fails if the file system has no files of `len` bytes. To try it would take the room.
pub fn try_len(file: &File, _: u64, len: u64) -> Result<()> {
    match file.volume() {
        Ok(volume) if len > volume.longest => Err(ErrorKind::FileTooLarge.into()),
        _ => Ok(()),
    }
}

/// Whether the file must be marked sparse before it can have holes.
pub fn needs_mark(file: &File) -> Result<bool> {
    control::needs_mark(file).map_err(Code::to_io)
}

/// Marks the file sparse, if it is not.
pub fn mark_sparse(file: &File) -> Result<()> {
    control::mark(file).map_err(Code::to_io)
}

/// Makes a hole of the `len` bytes at `from`, in a file that is marked sparse.
pub fn punch(file: &File, from: u64, len: u64) -> Result<()> {
    control::punch(file, from, len).map_err(Code::to_io)
}

/// Fails if no holes can be punched in the file, marked or not.
pub fn may_punch(file: &File, _: u64, _: u64) -> Result<()> {
    needs_mark(file).map(|_| ())
}

/// The first range at or after `from` that a sparse file has stored.
pub fn next_data(file: &File, from: u64, len: u64) -> Result<Option<Range<u64>>> {
    control::next_data(file, from, len).map_err(Code::to_io)
}

/// Bytes the file takes on the host.
pub fn host_bytes(file: &File, _: &Metadata) -> Result<u64> {
    let standing = file.standing().map_err(Code::to_io)?;
    let packed = attribute::COMPRESSED | attribute::SPARSE;
    if standing.attributes & packed == 0 {
        return Ok(standing.allocated);
    }
    // Not every file system counts the holes out of the allocated size.
    let stored = compressed_size(file).unwrap_or(standing.allocated);
    Ok(stored.min(standing.allocated))
}
