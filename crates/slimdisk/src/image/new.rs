//! Images that are to be made.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::SystemTime;

use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::storage::Storage;

use super::{Geometry, ImageType, wrong_type};

/// The size of a sector in bytes, where nobody says anything else.
pub const SECTOR: u32 = 512;

/// An image that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewImage {
    /// How it is to store the disk.
    pub image_type: ImageType,
    /// The size of the guest's disk in bytes.
    pub size: u64,
    /// The size of a block's data in bytes; the format's usual one if `None`.
    pub block_size: Option<u64>,
    /// The size of the sectors that the guest addresses, in bytes.
    pub sector_size: u32,
    /// The size of those that the guest is told lie beneath; what the format usually says
    /// if `None`.
    pub physical_sector_size: Option<u32>,
    /// The geometry that the guest is to see; what the format's rules give if `None`.
    pub geometry: Option<Geometry>,
    /// The parent of a differencing image.
    pub parent: Option<NewParent>,
    /// Whether nobody has written to the disk yet, so that nobody relies on what it
    /// shows. What others left zero must be zero for every reader.
    pub blank: bool,
    /// The disk's identity, which no other disk has.
    pub unique_id: [u8; 16],
    /// The identity that it shows to the guest, in formats that tell the two apart; one
    /// that no other has if `None`, a child's that of its parent.
    pub disk_id: Option<[u8; 16]>,
    /// When it was made.
    pub time: SystemTime,
}

impl NewImage {
    /// The parent, which a differencing image has and no other.
    pub(super) fn its_parent(&self) -> Result<Option<&NewParent>> {
        match (self.image_type, &self.parent) {
            (ImageType::Differencing, None) => {
                let what = "a differencing image needs a parent";
                Err(Error::new(Kind::InvalidArgument, what))
            }
            (ImageType::Differencing, parent) => Ok(parent.as_ref()),
            (_, Some(_)) => Err(wrong_type("only a differencing image has a parent")),
            (_, None) => Ok(None),
        }
    }
}

/// The parent of an image that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewParent {
    /// Its identity.
    pub id: [u8; 16],
    /// The identity that it shows to the guest, which its children keep, in formats that
    /// tell the two apart.
    pub disk_id: Option<[u8; 16]>,
    /// When its file was last changed.
    pub modified: Option<SystemTime>,
    /// Its path from the root on, links followed.
    pub absolute: PathBuf,
    /// Its path from the new image's folder on, with `/` between its parts, if there is
    /// one that is text.
    pub relative: Option<String>,
}

/// A new image that is being written. What is not written reads as zeros, or as the
/// parent.
///
/// Until [`finish`](Writer::finish) the file is no image of any format.
pub trait Writer: Send {
    /// The size of a block's data in bytes; 0 if the image has no blocks.
    fn block_size(&self) -> u64;

    /// Writes guest bytes. Offsets ascend, and no call passes the end of a block.
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()>;

    /// Gives guest bytes a place in the file, as [`write`](Writer::write) would, and says
    /// where; no bytes get none. Whoever calls it puts them there.
    fn place(&mut self, offset: u64, len: u64) -> Result<u64>;

    /// Writes what makes an image of it; durable when it returns.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Holds whoever writes to the order that was agreed on.
pub(super) struct Order {
    /// The size of the disk in bytes.
    pub size: u64,
    reached: u64,
    /// A write failed, or would have: what is in the file is not what was meant.
    pub broken: bool,
}

impl Order {
    pub fn new(size: u64) -> Self {
        Order { size, reached: 0, broken: false }
    }

    /// Whether `len` bytes at `offset` are what may come next; `block_size` is 0 where
    /// there are no blocks.
    pub fn next(&mut self, offset: u64, len: u64, block_size: u64) -> Result<()> {
        let end = offset.checked_add(len).filter(|end| *end <= self.size);
        let one_block = block_size == 0
            || len == 0
            || end.is_some_and(|end| offset / block_size == (end - 1) / block_size);
        let sound = !self.broken && offset >= self.reached && one_block;
        // Until the write is done.
        self.broken = true;
        match end {
            Some(end) if sound => {
                self.reached = end;
                Ok(())
            }
            _ => Err(Error::new(
                Kind::Unexpected,
                format!("a new image cannot be given {len} bytes at {offset} now"),
            )),
        }
    }

    /// Writes bytes that may come next to their place in the file.
    pub fn write(&mut self, file: &dyn Storage, at: u64, data: &[u8]) -> Result<()> {
        if !data.is_empty() {
            self.broken = true;
            file.write_at(at, data)?;
            self.broken = false;
        }
        Ok(())
    }

    pub fn may_finish(&self) -> Result<()> {
        if self.broken {
            let what = "an image that could not be written in full cannot be finished";
            return Err(Error::new(Kind::Unexpected, what));
        }
        Ok(())
    }
}

/// An identity that no other disk has.
pub(crate) fn unique_id() -> [u8; 16] {
    Uuid::new_v4().into_bytes()
}
