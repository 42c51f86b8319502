//! What a volume's file system says is free, and whether to believe it.
//!
//! A volume starts out all in use; ranges are proven free. A file system is
//! *trusted* only if its own state says that its map on disk is current, every
//! feature flag is known, its checksums hold and the count of free units agrees
//! with the volume's own count. Otherwise nothing in it is free and one sentence
//! says why.
//!
//! Adding a file system is one file beside the others and a row in
//! [`FILE_SYSTEMS`].

#![forbid(unsafe_code)]

mod ext;

use std::ops::Range;

use crate::error::Result;
use crate::storage::ReadAt;

/// The file systems whose free maps are read.
pub static FILE_SYSTEMS: &[&dyn FileSystem] = &[&ext::Ext];

/// What the user allows beyond the safe default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Allowances {
    /// Volume Shadow Copies of an NTFS volume may be damaged: their old data lies
    /// in clusters that the volume calls free.
    pub discard_shadow_copies: bool,
}

/// Receives free ranges, in bytes from the start of the volume.
///
/// The ranges come in ascending order and do not overlap; whoever receives them
/// checks that and takes a breach as a reason not to trust the volume.
pub type FreeSink<'a> = dyn FnMut(Range<u64>) + 'a;

/// A reader of one family of file systems.
pub trait FileSystem: Sync {
    /// The family's name: "ntfs", "ext".
    fn name(&self) -> &'static str;

    /// Whether the volume bears this family's signature. Cheap; says nothing of
    /// soundness.
    fn probe(&self, volume: &dyn ReadAt) -> Result<bool>;

    /// Reads the volume's state and its free map, once, by streaming.
    ///
    /// Free ranges go to `free` as they are found; they count only if the
    /// returned [`Findings`] are trusted. An unsound or unknown structure is a
    /// reason in `Findings::untrusted` or an error of
    /// [`Kind::InvalidImage`](crate::Kind::InvalidImage), which the caller turns
    /// into such a reason; any other error ends the survey of the whole disk.
    fn survey(
        &self,
        volume: &dyn ReadAt,
        allow: &Allowances,
        free: &mut FreeSink<'_>,
    ) -> Result<Findings>;
}

/// What [`FileSystem::survey`] learnt of one volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// The exact name: "ntfs", "ext2", "ext4".
    pub filesystem: String,
    /// The volume label, if it has one.
    pub label: Option<String>,
    /// Bytes from the start of the volume that the file system covers; what
    /// follows is not its own and never free.
    pub length: u64,
    /// The size of one unit of the free map in bytes; 0 if unknown.
    pub unit: u64,
    /// Bytes sent to the sink.
    pub free_bytes: u64,
    /// Why nothing here is free, in one sentence with what to do; `None` when the
    /// volume is trusted.
    pub untrusted: Option<String>,
}
