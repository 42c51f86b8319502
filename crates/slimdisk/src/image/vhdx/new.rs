//! Making a VHDX, as Windows lays it out.
//!
//! ```text
//! 0              1 MiB   2 MiB      3 MiB
//! header section | log   | metadata | block allocation table | block | block | ...
//! ```
//!
//! **What a block that was never written is.** Every program reads zeros in the state
//! "not present", and it is what Windows leaves in a new disk; but the specification
//! promises nothing for it. So it stands in disks that nobody has written to, and the
//! state "zero", which promises zeros, for what was zero in a disk that was copied.
//!
//! **Sectors.** 512 bytes, and 4096 beneath them, unless the disk had others.
//!
//! The file identifier comes last, when all else is durable: a file without one is no
//! image.
//!
//! Source: [MS-VHDX] v20240423; the places and sizes as seen in files of Windows 10.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use zerocopy::IntoBytes;

use super::bat::{Entry, entries_needed};
use super::inspect::CHUNK_SECTORS;
use super::metadata::LARGEST_DISK;
use super::new_bat::NewBat;
use super::new_structures::{headers, identifier, metadata, region_table};
use super::raw::{HEADERS_AT, MIB, REGION_TABLES_AT};
use crate::error::{Error, Kind, Result};
use crate::image::new::Order;
use crate::image::{ImageType, NewImage, Writer, wrong_type};
use crate::storage::Storage;

/// What a new disk may measure, in bytes: the least that Windows makes, and what the
/// specification allows.
pub const SIZES: RangeInclusive<u64> = 3 << 20..=LARGEST_DISK;

/// A block's data, unless another size is wished for.
const BLOCK_SIZE: u64 = 32 * MIB;

/// The same in a fixed or a differencing image.
const BLOCK_SIZE_OF_OTHERS: u64 = 2 * MIB;

const BLOCK_SIZES: RangeInclusive<u64> = MIB..=256 * MIB;

/// What lies beneath the sectors that the guest addresses, in bytes.
const PHYSICAL_SECTOR: u32 = 4096;

pub const LOG: Range<u64> = MIB..2 * MIB;
pub const METADATA: Range<u64> = 2 * MIB..3 * MIB;
const BAT_AT: u64 = METADATA.end;

/// Fails unless such an image can be made.
pub fn check(new: &NewImage) -> Result<()> {
    let places = Places::new(new)?;
    metadata(new, &places).map(|_| ())
}

/// The size of a block's data, as far as it can be told apart from another.
pub fn block_size(new: &NewImage) -> u64 {
    match new.image_type {
        ImageType::Fixed => 0,
        _ => real_block_size(new),
    }
}

fn real_block_size(new: &NewImage) -> u64 {
    new.block_size.unwrap_or(match new.image_type {
        ImageType::Dynamic => BLOCK_SIZE,
        ImageType::Fixed | ImageType::Differencing => BLOCK_SIZE_OF_OTHERS,
    })
}

/// The length of the file with `blocks` blocks in it; of a fixed one with all.
pub fn file_len(new: &NewImage, blocks: u64) -> u64 {
    // What cannot be made fits nowhere.
    Places::new(new).map_or(u64::MAX, |places| match new.image_type {
        ImageType::Fixed => places.place(places.blocks),
        _ => places.place(blocks),
    })
}

/// The length of the file with every block in it, and what a differencing image needs
/// for its sector bitmaps.
pub fn max_len(new: &NewImage) -> u64 {
    Places::new(new).map_or(u64::MAX, |places| {
        let bitmaps = match new.image_type {
            ImageType::Differencing => places.blocks.div_ceil(places.chunk_ratio) * MIB,
            _ => 0,
        };
        places.place(places.blocks) + bitmaps
    })
}

/// Begins an image.
pub fn create(file: Arc<dyn Storage>, new: &NewImage) -> Result<Box<dyn Writer>> {
    let places = Places::new(new)?;
    let table = region_table(&places);
    let mut structures = vec![(METADATA.start, metadata(new, &places)?)];
    structures.extend(REGION_TABLES_AT.map(|at| (at, table.clone())));
    let headers = HEADERS_AT.into_iter().zip(headers(new));
    structures.extend(headers.map(|(at, header)| (at, header.as_bytes().to_vec())));
    let others = match new.image_type {
        ImageType::Dynamic if !new.blank => Entry::ZERO,
        _ => Entry::NOT_PRESENT,
    };
    let (at, entries) = (places.bat.start, places.entries);
    Ok(Box::new(NewVhdx {
        file,
        image_type: new.image_type,
        bat: NewBat::new(at, entries, places.chunk_ratio, others),
        order: Order::new(new.size),
        structures,
        places,
        written: 0,
        last: None,
    }))
}

/// Where the parts of an image lie, in bytes.
pub struct Places {
    pub block_size: u64,
    pub physical_sector: u32,
    /// Blocks the disk is divided into.
    blocks: u64,
    chunk_ratio: u64,
    /// Entries of the table.
    entries: u64,
    pub bat: Range<u64>,
}

impl Places {
    fn new(new: &NewImage) -> Result<Self> {
        new.its_parent()?;
        let refuse = |kind, what: String| Err(Error::new(kind, what));
        let physical_sector = new.physical_sector_size.unwrap_or(PHYSICAL_SECTOR);
        for sector in [new.sector_size, physical_sector] {
            if !matches!(sector, 512 | 4096) {
                let what =
                    format!("sectors of {sector} bytes cannot be had: 512 or 4096");
                return refuse(Kind::InvalidArgument, what);
            }
        }
        let sector = u64::from(new.sector_size);
        if new.size == 0 || !new.size.is_multiple_of(sector) {
            let what = format!(
                "a disk is made of whole sectors of {sector} bytes, not of {} bytes",
                new.size
            );
            return refuse(Kind::InvalidArgument, what);
        }
        if new.size > *SIZES.end() {
            let what = format!(
                "a VHDX holds at most 64 TiB ({} bytes), not {} bytes",
                SIZES.end(),
                new.size
            );
            return refuse(Kind::DiskTooLarge, what);
        }
        let block_size = real_block_size(new);
        if !block_size.is_power_of_two() || !BLOCK_SIZES.contains(&block_size) {
            let what = format!(
                "blocks of {block_size} bytes cannot be had: a power of two from 1 to 256 MiB"
            );
            return refuse(Kind::InvalidArgument, what);
        }
        let blocks = new.size.div_ceil(block_size);
        let chunk_ratio = CHUNK_SECTORS * sector / block_size;
        let differencing = new.image_type == ImageType::Differencing;
        let entries = entries_needed(blocks, chunk_ratio, differencing);
        let bat = BAT_AT..BAT_AT + (entries * 8).next_multiple_of(MIB);
        Ok(Places { block_size, physical_sector, blocks, chunk_ratio, entries, bat })
    }

    /// Where the `nth` block that is written lies.
    fn place(&self, nth: u64) -> u64 {
        self.bat.end + nth * self.block_size
    }
}

/// An image that is being written.
struct NewVhdx {
    file: Arc<dyn Storage>,
    image_type: ImageType,
    places: Places,
    /// What lies where, but for the table and the identifier.
    structures: Vec<(u64, Vec<u8>)>,
    bat: NewBat,
    order: Order,
    /// Blocks that have a place. Those of a fixed image get theirs at the end, one behind
    /// the other.
    written: u64,
    /// The last of them and its place.
    last: Option<(u64, u64)>,
}

impl NewVhdx {
    fn is_fixed(&self) -> bool {
        self.image_type == ImageType::Fixed
    }

    /// Where a block lies; the next place, if it has none yet.
    fn place_of(&mut self, block: u64) -> Result<u64> {
        if self.is_fixed() {
            return Ok(self.places.place(block));
        }
        if let Some((last, place)) = self.last
            && last == block
        {
            return Ok(place);
        }
        let place = self.places.place(self.written);
        self.bat.enter(&*self.file, block, Entry::FULLY.at(place))?;
        self.written += 1;
        self.last = Some((block, place));
        Ok(place)
    }
}

impl Writer for NewVhdx {
    fn block_size(&self) -> u64 {
        if self.is_fixed() { 0 } else { self.places.block_size }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let at = self.place(offset, data.len() as u64)?;
        self.order.write(&*self.file, at, data)
    }

    fn place(&mut self, offset: u64, len: u64) -> Result<u64> {
        if self.image_type == ImageType::Differencing {
            return Err(wrong_type("a new differencing image begins empty"));
        }
        self.order.next(offset, len, self.block_size())?;
        // A fixed image's blocks follow each other, as the disk's bytes do.
        let size = self.places.block_size;
        let start = if len > 0 { self.place_of(offset / size)? } else { 0 };
        self.order.broken = false;
        Ok(start + offset % size)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.order.may_finish()?;
        let NewVhdx {
            file, image_type, places, structures, mut bat, mut written, ..
        } = *self;
        let file = &*file;
        if image_type == ImageType::Fixed {
            written = places.blocks;
            for block in 0..places.blocks {
                bat.enter(file, block, Entry::FULLY.at(places.place(block)))?;
            }
        }
        for (at, bytes) in &structures {
            file.write_at(*at, bytes)?;
        }
        bat.finish(file)?;
        // What the blocks' last bytes do not reach reads as zeros.
        let len = places.place(written);
        if file.len() != len {
            file.set_len(len)?;
        }
        file.flush()?;
        file.write_at(0, identifier().as_bytes())?;
        file.flush()
    }
}
