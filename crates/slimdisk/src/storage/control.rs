//! What Windows does to the extents of a file when it is told to, and by which rules it
//! wants to be told: sharing, holes, room behind the end.
//!
//! The rules are held apart from the calls ([`Calls`]), so that they can be tested on
//! every system, against a model that refuses what NTFS and ReFS refuse.
//!
//! Sources: MS-FSCC, sections 2.3.7 to 2.3.10 (duplicate extents), 2.3.55 and 2.3.67
//! (allocated ranges, zero data), 2.6 (attributes); Windows drivers, "Block cloning".

#![forbid(unsafe_code)]

#[cfg(test)]
mod model;

use std::io::{self, ErrorKind};
use std::ops::Range;

/// An error code of Windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub u32);

impl Code {
    /// `ERROR_INVALID_FUNCTION`: the file system knows no such call.
    pub const INVALID_FUNCTION: Code = Code(1);
    /// `ERROR_NOT_SUPPORTED`: the file system knows the call, but not for this file.
    pub const NOT_SUPPORTED: Code = Code(50);
    /// `ERROR_INVALID_PARAMETER`.
    pub const INVALID_PARAMETER: Code = Code(87);
    /// `ERROR_CALL_NOT_IMPLEMENTED`: the system knows no such call.
    pub const NOT_IMPLEMENTED: Code = Code(120);
    /// `ERROR_INVALID_LEVEL`: the system knows no such question.
    pub const INVALID_LEVEL: Code = Code(124);
    /// `ERROR_MORE_DATA`: there was more to tell than room for the answer.
    pub const MORE_DATA: Code = Code(234);
    /// `ERROR_BLOCK_TOO_MANY_REFERENCES`: a cluster is shared as often as it can be.
    pub const TOO_MANY_REFERENCES: Code = Code(347);

    /// The system's error, with refusals called so: std has no kind of its own for most
    /// of their codes.
    pub fn to_io(self) -> io::Error {
        let code = i32::try_from(self.0).unwrap_or(i32::MAX);
        match self {
            Code::INVALID_FUNCTION
            | Code::NOT_SUPPORTED
            | Code::NOT_IMPLEMENTED
            | Code::INVALID_LEVEL => {
                let source = io::Error::from_raw_os_error(code);
                io::Error::new(ErrorKind::Unsupported, source)
            }
            // To write instead is still possible, as where there is no room to note
            // what is shared.
            Code::TOO_MANY_REFERENCES => {
                let source = io::Error::from_raw_os_error(code);
                io::Error::new(ErrorKind::StorageFull, source)
            }
            Code(_) => io::Error::from_raw_os_error(code),
        }
    }
}

type Result<T, E = Code> = std::result::Result<T, E>;

/// What a file's attributes say.
pub mod attribute {
    /// There may be holes in it.
    pub const SPARSE: u32 = 0x200;
    /// What it holds is stored by another's rules: deduplicated, or a placeholder.
    pub const REPARSE_POINT: u32 = 0x400;
    /// NTFS stores it compressed.
    pub const COMPRESSED: u32 = 0x800;
    /// What it holds is not at hand: on tape, say.
    pub const OFFLINE: u32 = 0x1000;
    /// The file system stores it encrypted.
    pub const ENCRYPTED: u32 = 0x4000;
    /// To open it brings what it holds from elsewhere.
    pub const RECALL_ON_OPEN: u32 = 0x4_0000;
    /// To read from it brings what it holds from elsewhere.
    pub const RECALL_ON_DATA_ACCESS: u32 = 0x40_0000;

    /// What it holds lies elsewhere, all of it or in part.
    pub const ELSEWHERE: u32 = OFFLINE | RECALL_ON_OPEN | RECALL_ON_DATA_ACCESS;
}

/// What a volume offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Volume {
    /// Its unit of allocation in bytes.
    pub cluster: u64,
    /// `FILE_SUPPORTS_*`.
    pub flags: u32,
    /// The longest file in bytes.
    pub longest: u64,
}

/// The longest file in bytes that a file system of this name can have. Of NTFS and ReFS no
/// image is too long.
///
/// Source: Microsoft, FAT32 File System Specification, section 6.
pub fn longest_file(file_system: &str) -> u64 {
    let is_fat = ["FAT", "FAT12", "FAT16", "FAT32"]
        .iter()
        .any(|name| name.eq_ignore_ascii_case(file_system));
    if is_fat { u32::MAX.into() } else { u64::MAX }
}

/// `FILE_SUPPORTS_SPARSE_FILES`
pub const SUPPORTS_SPARSE_FILES: u32 = 0x40;
/// `FILE_SUPPORTS_BLOCK_REFCOUNTING`
pub const SUPPORTS_BLOCK_REFCOUNTING: u32 = 0x0800_0000;

impl Volume {
    /// Whether bytes can be shared between places of a file, or between files.
    pub fn shares(&self) -> bool {
        self.flags & SUPPORTS_BLOCK_REFCOUNTING != 0 && self.cluster > 0
    }

    fn knows_holes(&self) -> bool {
        self.flags & SUPPORTS_SPARSE_FILES != 0
    }

    /// The size in bytes of the pieces in which holes give room back: NTFS keeps sparse
    /// files in units of 16 clusters, of 64 KiB at most.
    pub fn hole_unit(&self) -> u64 {
        let most = 64 << 10;
        self.cluster.saturating_mul(16).min(most).max(self.cluster).max(512)
    }
}

/// How a file stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its length in bytes.
    pub end: u64,
    /// Bytes that the volume has allocated to it.
    pub allocated: u64,
    /// What [`attribute`] lists.
    pub attributes: u32,
}

impl Standing {
    fn is_sparse(&self) -> bool {
        self.attributes & attribute::SPARSE != 0
    }

    /// Whether its holes are holes in what it holds: where something else keeps that, the
    /// file system's own part of it can be empty.
    fn shows_holes(&self) -> bool {
        let kept = attribute::REPARSE_POINT | attribute::ELSEWHERE;
        self.is_sparse() && self.attributes & kept == 0
    }
}

/// The calls, on an open file. They are handed on as they are: whoever calls knows the
/// rules.
pub trait Calls {
    /// What the volume that the file lies on offers.
    fn volume(&self) -> Result<Volume>;

    /// How long the file is and what is allocated to it.
    fn standing(&self) -> Result<Standing>;

    /// `FSCTL_DUPLICATE_EXTENTS_TO_FILE`: shares `len` bytes at `from` of `source` with
    /// `to` of this file.
    fn duplicate_extents(
        &self,
        source: &Self,
        from: u64,
        to: u64,
        len: u64,
    ) -> Result<()>;

    /// `FSCTL_QUERY_ALLOCATED_RANGES`: the first range within `asked`, if there is one,
    /// and how the call ended.
    fn allocated_range(&self, asked: Range<u64>) -> (Option<Range<u64>>, Result<()>);

    /// `FSCTL_SET_ZERO_DATA`: makes holes in a sparse file, and *writes* zeros to others.
    fn zero_data(&self, range: Range<u64>) -> Result<()>;

    /// `FSCTL_SET_SPARSE`, to mark the file.
    fn set_sparse(&self) -> Result<()>;

    /// `FileAllocationInfo`: allocates so many bytes, and *cuts* a file that is longer.
    fn set_allocation(&self, bytes: u64) -> Result<()>;
}

/// One call shares less than 4 GiB.
const MOST_SHARED: u64 = 2 << 30;

/// Shares `len` bytes at `from` of `source` with `to` of `target`, which must be that
/// long already; all three in whole clusters.
pub fn share<C: Calls>(
    target: &C,
    source: &C,
    from: u64,
    to: u64,
    len: u64,
) -> Result<()> {
    let volume = target.volume()?;
    if !volume.shares() {
        return Err(Code::NOT_SUPPORTED);
    }
    let piece = MOST_SHARED / volume.cluster * volume.cluster;
    if piece == 0 {
        return Err(Code::NOT_SUPPORTED);
    }
    let mut done = 0;
    while done < len {
        let n = (len - done).min(piece);
        target.duplicate_extents(source, from + done, to + done, n)?;
        done += n;
    }
    Ok(())
}

/// Sets room aside for the `len` bytes at `from`; the file stays as long as it is, if
/// nobody else makes it longer meanwhile.
pub fn reserve<C: Calls>(file: &C, from: u64, len: u64) -> Result<()> {
    let wanted = from.checked_add(len).ok_or(Code::INVALID_PARAMETER)?;
    let now = file.standing()?;
    if now.attributes & (attribute::SPARSE | attribute::COMPRESSED) != 0 {
        // Their bytes get room when they are written, whatever was allocated.
        return Err(Code::NOT_SUPPORTED);
    }
    // Below its end the file has its room, and to allocate less than that cuts it.
    if wanted <= now.end || wanted <= now.allocated {
        return Ok(());
    }
    file.set_allocation(wanted)
}

/// Gives back what was set aside behind the end of the file. The caller sees to it that
/// nobody makes it longer meanwhile.
pub fn give_back<C: Calls>(file: &C) -> Result<()> {
    let now = file.standing()?;
    if now.allocated > now.end { file.set_allocation(now.end) } else { Ok(()) }
}

/// Whether holes can be punched only once the file is marked sparse.
pub fn needs_mark<C: Calls>(file: &C) -> Result<bool> {
    let now = file.standing()?;
    let as_if_marked = Standing { attributes: now.attributes | attribute::SPARSE, ..now };
    if !file.volume()?.knows_holes() || !as_if_marked.shows_holes() {
        return Err(Code::NOT_SUPPORTED);
    }
    Ok(!now.is_sparse())
}

/// Marks the file sparse, if it is not.
pub fn mark<C: Calls>(file: &C) -> Result<()> {
    if !needs_mark(file)? {
        return Ok(());
    }
    file.set_sparse()?;
    // There are systems that say yes and do nothing.
    if needs_mark(file)? { Err(Code::NOT_SUPPORTED) } else { Ok(()) }
}

/// Makes a hole of the `len` bytes at `from`, in a file that is marked sparse.
pub fn punch<C: Calls>(file: &C, from: u64, len: u64) -> Result<()> {
    let end = from.checked_add(len).ok_or(Code::INVALID_PARAMETER)?;
    // Into any other file zeros would be written, and it would grow by them.
    if needs_mark(file)? {
        return Err(Code::NOT_SUPPORTED);
    }
    file.zero_data(from..end)
}

/// The first range at or after `from` that is stored, up to `len`; it may end too early,
/// at a place from which to ask again.
pub fn next_data<C: Calls>(file: &C, from: u64, len: u64) -> Result<Option<Range<u64>>> {
    if from >= len {
        return Ok(None);
    }
    // A hole counts as zeros, so nobody is asked who need not know.
    if !file.standing()?.shows_holes() {
        return Ok(Some(from..len));
    }
    match file.allocated_range(from..len) {
        (Some(range), _) if range.start >= len || range.end <= from => {
            Err(Code::INVALID_PARAMETER)
        }
        // Of more ranges nobody asked.
        (Some(range), Ok(()) | Err(Code::MORE_DATA)) => Ok(Some(range)),
        (None, Ok(())) => Ok(None),
        (_, Err(code)) => Err(code),
    }
}

/// What the attributes of an image's file mean for whoever uses it, in sentences.
pub fn notes(attributes: u32) -> Vec<String> {
    let rows: [(u32, &str); 5] = [
        (
            attribute::COMPRESSED,
            "the file is compressed by NTFS: Hyper-V and WSL refuse it so (compact /u, or \
             its properties, undo it), and what is won on the host may be less than the \
             file gets shorter",
        ),
        (
            attribute::ENCRYPTED,
            "the file is encrypted by the file system (EFS): Hyper-V and WSL refuse it so \
             (cipher /d, or its properties, undo it)",
        ),
        (
            attribute::SPARSE,
            "the file is marked sparse: Hyper-V refuses it so, and WSL takes it only where \
             it was told to make it so (wsl --manage --set-sparse); where it has holes, \
             less is won on the host than the file gets shorter",
        ),
        (
            attribute::REPARSE_POINT,
            "the file system stores the file in a form of its own (deduplicated, say): how \
             much is won on the host is not known until it has tidied up",
        ),
        (
            attribute::ELSEWHERE,
            "the file is not wholly on this computer (OneDrive and its like keep it \
             elsewhere): what is read of it is downloaded, and what is changed uploaded; \
             better pause that and keep the file here first",
        ),
    ];
    let met = rows.iter().filter(|(mask, _)| attributes & mask != 0);
    met.map(|(_, sentence)| (*sentence).to_owned()).collect()
}

#[cfg(test)]
mod tests;
