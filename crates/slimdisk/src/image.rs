//! Images: files that hold a guest's disk in blocks.
//!
//! An [`Image`] reads as the guest's disk and changes by four durable verbs:
//! *release* (a block's bytes are given up), *relocate* (a block moves to
//! another place in the file), *truncate* (the file is cut behind its last
//! block) and *write* (sectors get other bytes, blocks get places). Between any
//! two writes of the first three the file is a sound image with the same live
//! content; of the last, with the same content but for what is being written.
//!
//! Adding a format is one file beside the others and a row in [`FORMATS`].

#![forbid(unsafe_code)]

pub mod check;
mod holes;
mod layout;
pub mod new;
pub mod parent;
mod sector_bitmap;
pub mod vhd;
pub mod vhdx;

use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::ranges::Ranges;
use crate::storage::{HostFile, ReadAt, Storage, past_the_end};

use self::parent::{ParentLink, ParentNames};

pub use self::check::{Finding, Severity};
pub use self::layout::{Extent, Layout, Move, Piece, Release};
pub use self::new::{NewImage, NewParent, Writer};

/// The formats that are read and compacted.
pub static FORMATS: &[&dyn Format] = &[&vhd::Vhd, &vhdx::Vhdx];

/// One image format.
pub trait Format: Sync {
    /// Its short name: "vhd".
    fn name(&self) -> &'static str;

    /// Whether the file bears this format's signature. Cheap; says nothing of
    /// soundness.
    fn detect(&self, file: &dyn ReadAt) -> Result<bool>;

    /// Opens an image, refusing every unsound one by name.
    fn open(&self, file: Arc<dyn Storage>) -> Result<Box<dyn Image>>;

    /// Holds the file against every rule of the format's specification; opens
    /// what [`open`](Format::open) refuses.
    fn check(&self, file: &dyn ReadAt) -> Result<Vec<Finding>>;

    /// Mends what has a sound twin elsewhere in the file, durably; returns a
    /// sentence for each thing mended.
    fn repair(&self, file: &dyn Storage) -> Result<Vec<String>>;

    /// The extensions that its files usually have, without the dot.
    fn extensions(&self) -> &'static [&'static str];

    /// The identities that the disk may have which the file names as its parent; none
    /// unless it is a sound differencing image as far as its headers tell. Reads nothing
    /// else.
    fn parent_ids(&self, file: &dyn ReadAt) -> Vec<[u8; 16]>;

    /// Whether a disk gets another identity when its guest reads other bytes, so that
    /// children of what it was before do not take it for that. Then who writes to a
    /// parent must tell the child, and so needs it for writing, too.
    fn identity_follows_content(&self) -> bool {
        false
    }

    /// The sizes that a new disk may have, in bytes.
    fn limits(&self) -> RangeInclusive<u64>;

    /// Fails unless such an image can be made, with the reason. A disk smaller than the
    /// [`limits`](Format::limits) is let pass, for it may have come from elsewhere.
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidArgument`], [`Kind::DiskTooLarge`], and [`Kind::InvalidName`] for
    /// a parent whose name cannot be written down.
    fn check_new(&self, new: &NewImage) -> Result<()>;

    /// The size of a block's data in such an image; 0 if it has no blocks.
    fn block_size(&self, new: &NewImage) -> u64;

    /// Sizes of blocks in bytes, ascending, that are smaller than usual and still well
    /// read by other programs: with them less free space is pinned.
    fn smaller_blocks(&self) -> &'static [u64];

    /// The length of the file when `blocks` blocks have a place; of a fixed image always
    /// the same.
    fn file_len(&self, new: &NewImage, blocks: u64) -> u64;

    /// The length of the file when all blocks have a place.
    fn max_len(&self, new: &NewImage) -> u64;

    /// Begins a new image in `file`, which is empty or as long as a fixed image will be
    /// and reads as zeros.
    ///
    /// # Errors
    ///
    /// Those of [`Format::check_new`].
    fn create(&self, file: Arc<dyn Storage>, new: &NewImage) -> Result<Box<dyn Writer>>;
}

impl std::fmt::Debug for dyn Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl PartialEq for dyn Format {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for dyn Format {}

/// The format of this name: "vhd".
#[must_use]
pub fn format_named(name: &str) -> Option<&'static dyn Format> {
    FORMATS.iter().find(|format| format.name() == name).copied()
}

/// The format that a file of this name usually has.
#[must_use]
pub fn format_of_name(file: &Path) -> Option<&'static dyn Format> {
    let extension = file.extension()?;
    let has = |format: &&&dyn Format| {
        format.extensions().iter().any(|known| extension.eq_ignore_ascii_case(known))
    };
    FORMATS.iter().find(has).copied()
}

/// Finds out the format of `file`.
pub fn detect(file: &dyn ReadAt) -> Result<&'static dyn Format> {
    let mut found: Vec<&'static dyn Format> = Vec::new();
    for format in FORMATS {
        if format.detect(file)? {
            found.push(*format);
        }
    }
    match found.as_slice() {
        [] => {}
        [format] => return Ok(*format),
        several => return tell_apart(file, several),
    }
    let known: Vec<_> = FORMATS.iter().map(|f| f.name()).collect();
    Err(Error::invalid(format!(
        "not a disk image of a known format ({}): no signature at either end",
        known.join(", ")
    )))
}

/// Which of `several` formats a file has that bears the signature of each: what lies at
/// either end may be the guest's own bytes, an image in the image say.
fn tell_apart(
    file: &dyn ReadAt,
    several: &[&'static dyn Format],
) -> Result<&'static dyn Format> {
    let mut sound = Vec::new();
    for format in several {
        let findings = format.check(file)?;
        if findings.iter().all(|finding| finding.severity != Severity::Error) {
            sound.push(*format);
        }
    }
    if let [format] = sound.as_slice() {
        return Ok(*format);
    }
    let names: Vec<_> = several.iter().map(|format| format.name()).collect();
    Err(Error::invalid(format!(
        "signatures of several formats ({}): no telling which one is the image's own and \
         which lies on the guest's disk",
        names.join(", ")
    )))
}

/// Opens an image of any known format.
pub fn open(file: Arc<dyn Storage>) -> Result<Box<dyn Image>> {
    detect(&file)?.open(file)
}

/// Whether a file has the extension of an image.
pub(crate) fn is_image_name(file: &Path) -> bool {
    format_of_name(file).is_some()
}

/// Checks the structure of the image at `path`; gives the format's name and every
/// broken rule.
pub fn check_file(path: &Path) -> Result<(&'static str, Vec<Finding>)> {
    let file = HostFile::open_read(path)?;
    let found =
        detect(&file).and_then(|format| Ok((format.name(), format.check(&file)?)));
    found.map_err(|error| error.in_file(path))
}

/// Mends in the image at `path` what has a sound twin elsewhere in the file;
/// returns a sentence for each thing mended.
pub fn repair_file(path: &Path) -> Result<Vec<String>> {
    let file = HostFile::open_exclusive(path)?;
    let mended = detect(&file).and_then(|format| format.repair(&file));
    mended.map_err(|error| error.in_file(path))
}

/// How an image stores the guest's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageType {
    /// All of the disk, whether used or not.
    Fixed,
    /// Blocks are added when the guest writes to them.
    Dynamic,
    /// Only what differs from a parent image.
    Differencing,
}

/// What an image says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Facts {
    /// The format's name.
    pub format: &'static str,
    /// How it stores the disk.
    pub image_type: ImageType,
    /// The size of the guest's disk in bytes.
    pub virtual_size: u64,
    /// The disk's identity, by which children know it.
    pub unique_id: Option<[u8; 16]>,
    /// The size of a block's data in bytes; 0 if the image has no blocks.
    pub block_size: u64,
    /// Blocks the disk is divided into.
    pub blocks_total: u32,
    /// Blocks that have a place in the file.
    pub blocks_allocated: u32,
    /// Further facts for a human reader: name and value.
    pub details: Vec<(&'static str, String)>,
    /// What is odd, in sentences (one of two copies damaged, say).
    pub notes: Vec<String>,
    /// The parent as the image names it, for a differencing image.
    pub parent: Option<String>,
    /// Whether the disk belongs to a virtual machine in a saved state.
    pub saved_state: bool,
    /// The geometry that the image gives its disk, where it gives one.
    pub geometry: Option<Geometry>,
}

/// The shape of a disk as old systems address it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Cylinders.
    pub cylinders: u16,
    /// Heads: tracks in a cylinder.
    pub heads: u8,
    /// Sectors of 512 bytes in a track.
    pub sectors_per_track: u8,
}

/// What a guest might write: bytes from an offset of its disk on, in whole sectors of
/// 512 bytes but for what ends where the disk does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestWrite {
    /// Offset on the guest's disk in bytes.
    pub offset: u64,
    /// The bytes.
    pub data: Vec<u8>,
}

impl GuestWrite {
    /// Where it ends on the guest's disk.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

/// An open image. Reads as the guest's disk, a differencing one once it has its
/// parent.
pub trait Image: ReadAt {
    /// What the image says of itself.
    fn facts(&self) -> Facts;

    /// Fails if its disk is not what the guest will find, with the reason: a saved
    /// state, encryption.
    fn settled(&self) -> Result<()>;

    /// Fails unless the image can be compacted, with the reason: a fixed image, a
    /// differencing one without its parent, one that is not settled.
    fn compactable(&self) -> Result<()>;

    /// How the image names its parent; `None` unless it is a differencing one.
    fn parent_link(&self) -> Result<Option<ParentLink>> {
        Ok(None)
    }

    /// Gives a differencing image its parent, which is only ever read.
    ///
    /// # Errors
    ///
    /// [`Kind::ParentMismatch`] if it is not the one that the image names.
    fn set_parent(&mut self, _parent: Arc<dyn Image>) -> Result<()> {
        Err(wrong_type("only a differencing image has a parent"))
    }

    /// The parent it was given.
    fn parent(&self) -> Option<&Arc<dyn Image>> {
        None
    }

    /// Names its parent by these names from now on, and by no others.
    ///
    /// Durable when it returns; at any earlier moment the file is a sound image that
    /// names the same disk by its old names or by the new ones.
    fn name_parent(&mut self, _names: &ParentNames) -> Result<()> {
        Err(wrong_type("only a differencing image has a parent to be named"))
    }

    /// Enters another identity that its parent may have from now on, beside the one that
    /// it has, and hands it out; `None` if parents of the format keep theirs.
    ///
    /// To be called before the parent's content changes, which then
    /// [becomes](Image::become_disk) that disk. Durable when it returns; at any earlier
    /// moment the file is a sound image that knows its parent as it is.
    fn expect_parent(&mut self) -> Result<Option<[u8; 16]>> {
        Ok(None)
    }

    /// Gives the disk another identity, for the guest's bytes are about to change.
    /// Durable when it returns.
    fn become_disk(&mut self, _id: &[u8; 16]) -> Result<()> {
        Err(wrong_type("an image whose disk keeps its identity"))
    }

    /// Which bytes of an allocated block, counted from its start, the image itself
    /// holds; `None` if all. The others are its parent's.
    fn own_bytes(&self, _block: u32) -> Result<Option<Ranges>> {
        Ok(None)
    }

    /// The size of the guest's sectors in bytes, where the image says it; in others it
    /// is 512.
    fn sector_size(&self) -> Option<u32> {
        None
    }

    /// The size of the sectors in bytes that the guest is told lie beneath, where the
    /// image says it; in others it is 512.
    fn physical_sector_size(&self) -> Option<u32> {
        None
    }

    /// The identity that the disk shows to its guest, in formats that tell it from the
    /// identity by which children know it.
    fn disk_id(&self) -> Option<[u8; 16]> {
        None
    }

    /// Whether the image says of a block, with a place or without one, that it reads as
    /// zeros, whatever lies at its place.
    fn reads_as_zeros(&self, _block: u32) -> bool {
        false
    }

    /// How the image lies in its file now; `None` for a fixed image.
    fn layout(&self) -> Option<Layout>;

    /// Whether a block has a place in the file.
    fn is_allocated(&self, block: u32) -> bool;

    /// Reads an allocated block's data from `offset` (in bytes from its start), in a
    /// differencing image any block's, as it shows with its parent behind it. Unlike the guest's view this reaches to the end of the last block, past
    /// the end of the disk.
    fn read_block(&self, block: u32, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// The first range of an allocated block's data, from `offset` on, that may
    /// hold anything but zeros; what lies before it is a hole in the host file.
    fn next_data_in_block(&self, block: u32, offset: u64) -> Result<Option<Range<u64>>>;

    /// Whether a block of a differencing image can lose its place and read as zeros
    /// whatever the parent has.
    fn zeros_hide_parent(&self) -> bool {
        false
    }

    /// Whether the disk gets another identity with its content, as all of its
    /// [format](Format::identity_follows_content) do.
    fn identity_follows_content(&self) -> bool {
        format_named(self.facts().format).is_some_and(Format::identity_follows_content)
    }

    /// Carries out for good what a log in the file still asks for; whether one did.
    /// Durable when it returns.
    fn replay(&mut self) -> Result<bool> {
        Ok(false)
    }

    /// Is told before the first verb after which the guest reads other bytes than
    /// before, in free space say, so that the disk gets another identity where the
    /// format asks for that.
    fn content_will_change(&mut self) -> Result<()> {
        Ok(())
    }

    /// Gives up places. A block that the guest gave up goes on reading as zeros.
    ///
    /// Durable when it returns: only then may the places be used again. At any
    /// earlier moment each block either still has its place or has lost it, and no
    /// bitmap is lost that a block with a place needs.
    ///
    /// # Errors
    ///
    /// [`Kind::Unexpected`], and nothing is written, for a bitmap that would still be
    /// needed, and for a block that is to show zeros in a format that cannot
    /// [say so](Image::zeros_hide_parent).
    fn release(&mut self, pieces: &[Release]) -> Result<()>;

    /// Is told what will be [relocated](Image::relocate) next. A hint: nothing depends on
    /// it.
    fn will_relocate(&self, _moves: &[Move]) {}

    /// Copies blocks and bitmaps to new places and names these in the table.
    ///
    /// The new places must be free: no table names them, none overlaps another
    /// or any block. Durable when it returns; at any earlier moment each block
    /// reads the same through its old or its new place.
    fn relocate(&mut self, moves: &[Move]) -> Result<()>;

    /// Cuts the file behind its last block, writing what ends the file at its
    /// new place first. Never cuts a block that has a place. Durable when it
    /// returns.
    fn truncate(&mut self) -> Result<()>;

    /// Bytes of an allocated block on which programs disagree, because the image says
    /// that they were never written, or were given up: some show what lies there, others
    /// zeros.
    fn disputed_bytes(&self, _block: u32) -> Result<Ranges> {
        Ok(Ranges::new())
    }

    /// Fails unless [holes](Image::punch) can be punched in it, with the reason: one that
    /// is not settled, a differencing one without its parent.
    fn punchable(&self) -> Result<()> {
        Err(wrong_type("an image of a format in which no holes are punched"))
    }

    /// Where in the file the byte `at` of the disk lies, with those that follow it in both
    /// up to the end of its block, of a fixed image up to the end of the disk; `None` if
    /// the block has no place. In a differencing image those that are not its
    /// [own](Image::own_bytes) mean nothing.
    fn place(&self, _at: u64) -> Option<Range<u64>> {
        None
    }

    /// Whether the file itself holds what the image shows of it; not while a log has
    /// changes that have not reached their places.
    fn is_settled_in_file(&self) -> bool {
        true
    }

    /// Makes holes in the file where these bytes of the disk lie, which read as zeros from
    /// then on; `ranges` ascend. The file is as long as before.
    ///
    /// Durable when it returns; at any earlier moment each of these bytes reads as before
    /// or as zero, and all others as before.
    ///
    /// # Errors
    ///
    /// Those of [`Image::punchable`] and [`Storage::punch`]; [`Kind::Unexpected`], and
    /// nothing is changed, for bytes that have no place in the file or are the parent's.
    fn punch(&mut self, _ranges: &[Range<u64>]) -> Result<()> {
        self.punchable()
    }

    /// Fails unless the guest's bytes can be [written](Image::write), with the reason.
    fn writable(&self) -> Result<()> {
        Err(wrong_type("an image of a format that is not written to"))
    }

    /// The number of the sector bitmap of this block and others around it, if it must be
    /// added to the file with the first of them that is written to; it rises with the
    /// blocks.
    fn missing_bitmap(&self, _block: u32) -> Option<u32> {
        None
    }

    /// How long the file is once something was written, `blocks` more have a place,
    /// `bitmaps` more [bitmaps](Image::missing_bitmap) are there, and it has been
    /// [cut](Image::truncate) behind the last.
    ///
    /// # Errors
    ///
    /// [`Kind::DiskTooLarge`] if the format cannot name so distant a place.
    fn file_len_with(&self, _blocks: u64, _bitmaps: u64) -> Result<u64> {
        self.writable().and(Err(wrong_type("an image of a fixed layout")))
    }

    /// Writes what the guest might have written, giving a place to blocks that have
    /// none; `writes` ascend and do not overlap. Each sector is one that all programs
    /// take from the image from then on. Where the format asks for that the disk has
    /// another identity then, if it was not [given](Image::become_disk) one before.
    ///
    /// Durable when it returns. At any earlier moment each sector that is written to
    /// reads as before or as it will, or, where power was cut in the middle of it, as
    /// some of both; all others read as before.
    fn write(&mut self, _writes: &[GuestWrite]) -> Result<()> {
        self.writable()
    }

    /// Checks, as [`Storage::still_exclusive`], that the file is still ours.
    fn still_exclusive(&self) -> Result<()>;
}

/// Reads from `at` on; what lies behind the end is zeros: that of a parent which is
/// smaller than its child, or of a disk that ends in the middle of a block.
pub(crate) fn read_padded(from: &dyn ReadAt, at: u64, buf: &mut [u8]) -> Result<()> {
    let there = from.len().saturating_sub(at).min(buf.len() as u64);
    let (inside, beyond) = buf.split_at_mut(usize::try_from(there).unwrap_or(0));
    if !inside.is_empty() {
        from.read_at(at, inside)?;
    }
    beyond.fill(0);
    Ok(())
}

/// Fails unless `writes` ascend, do not overlap, and are whole sectors of a disk of
/// `size` bytes, but for the last if the disk ends in the middle of it.
pub(crate) fn check_writes(writes: &[GuestWrite], size: u64) -> Result<()> {
    let mut least = 0;
    for write in writes {
        let end = write.offset.checked_add(write.data.len() as u64);
        let end = end
            .filter(|end| *end <= size)
            .ok_or_else(|| past_the_end(write.offset, write.data.len() as u64, size))?;
        if write.offset < least
            || !write.offset.is_multiple_of(512)
            || !(end.is_multiple_of(512) || end == size)
        {
            return Err(Error::new(
                Kind::Unexpected,
                "writes that overlap, descend, or are not whole sectors",
            )
            .at(write.offset));
        }
        least = end;
    }
    Ok(())
}

/// What of `writes` goes to which block of `size` bytes: the block's number, the offset in
/// it, and the bytes; in ascending order.
pub(crate) fn parts_in_blocks(
    writes: &[GuestWrite],
    size: u64,
) -> impl Iterator<Item = (u32, u64, &[u8])> {
    writes.iter().flat_map(move |write| {
        let (mut at, mut rest) = (write.offset, write.data.as_slice());
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (block, within) =
                (u32::try_from(at / size).unwrap_or(u32::MAX), at % size);
            let left = usize::try_from(size - within).unwrap_or(usize::MAX);
            let (part, behind) = rest.split_at(left.min(rest.len()));
            at += part.len() as u64;
            rest = behind;
            Some((block, within, part))
        })
    })
}

/// The error of an image that belongs to a saved state, for operations that must not
/// touch any part of one.
pub(crate) fn part_of_saved_state() -> Error {
    Error::new(
        Kind::InUse,
        "the disk is part of a virtual machine's saved state: restore the machine and shut \
         it down, or discard the saved state",
    )
}

/// The error of an operation that needs an expanding image.
pub(crate) fn wrong_type(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Kind::WrongImageType, what)
}
