//! Making a VHD, as Windows 8 and later lay it out.
//!
//! ```text
//! dynamic:       footer | header | table       | pad | bitmap+block ... | pad | footer
//! differencing:  footer | header | names | table | pad |                  pad | footer
//! fixed:         all of the disk | footer
//! ```
//!
//! A block's data begins on a multiple of 4 KiB, its bitmap directly before it, and the
//! file ends on one, the footer in its last sector.
//!
//! **The creator is `win ` 10.0.** It is no vanity: readers decide by the creator which
//! size a disk has. For `vpc ` and `qemu` it is what the geometry says, for everybody
//! else the current size (qemu `block/vpc.c`), and only with the latter does every
//! reader see the same disk, to the last sector.
//!
//! Source: Virtual Hard Disk Image Format Specification 1.0 (Microsoft, October 2006),
//! the geometry its appendix "CHS Calculation"; the places as seen in files of Windows.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::SystemTime;

use zerocopy::{FromZeros, IntoBytes};

use super::inspect::BLOCK_SIZES;
use super::new_locators::{NewLocator, header_name, locators};
use super::raw::{
    DISK_TYPE_DIFFERENCING, DISK_TYPE_DYNAMIC, DISK_TYPE_FIXED, DynamicHeader,
    FEATURE_RESERVED, FOOTER_COOKIE, FOOTER_LEN, FORMAT_VERSION, Footer, HEADER_COOKIE,
    HEADER_LEN, SECTOR, UNUSED,
};
use super::table::BlockTable;
use super::{ALIGNMENT, EPOCH};
use crate::error::{Error, Kind, Result};
use crate::image::new::Order;
use crate::image::{Geometry, ImageType, NewImage, Writer, wrong_type};
use crate::storage::Storage;

/// What a new disk may measure, in bytes: the least that Virtual Server makes, and what
/// the specification allows.
pub const SIZES: RangeInclusive<u64> = 3 << 20..=2040 << 30;

/// A block's data, unless another size is wished for.
const BLOCK_SIZE: u64 = 2 << 20;

/// The smallest that Virtual PC and Virtual Server were tested with.
const SMALLEST_BLOCK: u64 = 512 << 10;

const HEADER_AT: u64 = FOOTER_LEN;
const TABLE_AT: u64 = HEADER_AT + HEADER_LEN;

/// Fails unless such an image can be made.
pub fn check(new: &NewImage) -> Result<()> {
    check_size(new)?;
    check_sectors(new)?;
    if new.image_type != ImageType::Fixed {
        Places::new(new)?;
    }
    Ok(())
}

/// The size of a block's data.
pub fn block_size(new: &NewImage) -> u64 {
    match new.image_type {
        ImageType::Fixed => 0,
        _ => new.block_size.unwrap_or(BLOCK_SIZE),
    }
}

/// The length of the file with `blocks` blocks in it.
pub fn file_len(new: &NewImage, blocks: u64) -> u64 {
    match Places::new(new) {
        _ if new.image_type == ImageType::Fixed => new.size.saturating_add(FOOTER_LEN),
        Ok(places) => places.file_len(blocks),
        // What cannot be made fits nowhere.
        Err(_) => u64::MAX,
    }
}

/// The length of the file with every block in it.
pub fn max_len(new: &NewImage) -> u64 {
    let blocks = Places::new(new).map_or(0, |places| u64::from(places.entries));
    file_len(new, blocks)
}

/// Begins an image.
pub fn create(file: Arc<dyn Storage>, new: &NewImage) -> Result<Box<dyn Writer>> {
    check(new)?;
    if new.image_type == ImageType::Fixed {
        let footer = footer(new);
        return Ok(Box::new(NewFixed { file, footer, order: Order::new(new.size) }));
    }
    let places = Places::new(new)?;
    Ok(Box::new(NewSparse {
        header: header(new, &places)?,
        footer: footer(new),
        table: BlockTable::empty(places.table_at, places.entries),
        order: Order::new(new.size),
        differencing: new.image_type == ImageType::Differencing,
        written: 0,
        last: None,
        places,
        file,
    }))
}

fn check_size(new: &NewImage) -> Result<()> {
    let refuse = |kind, what: String| Err(Error::new(kind, what));
    if new.size == 0 || !new.size.is_multiple_of(SECTOR) {
        let what = format!(
            "a disk is made of whole sectors of {SECTOR} bytes, not of {} bytes",
            new.size
        );
        return refuse(Kind::InvalidArgument, what);
    }
    if new.size > *SIZES.end() {
        let what = format!(
            "a VHD holds at most 2040 GiB ({} bytes), not {} bytes",
            SIZES.end(),
            new.size
        );
        return refuse(Kind::DiskTooLarge, what);
    }
    Ok(())
}

/// Everything in a VHD is counted in sectors of 512 bytes, and no field says otherwise.
fn check_sectors(new: &NewImage) -> Result<()> {
    if u64::from(new.sector_size) == SECTOR {
        return Ok(());
    }
    let what = format!(
        "the disk has sectors of {} bytes, and those of a VHD have {SECTOR}: its guest would \
         find neither partitions nor volumes in one; choose a VHDX (a name that ends in \
         .vhdx)",
        new.sector_size
    );
    Err(Error::new(Kind::InvalidArgument, what))
}

/// Where the parts of an expanding image lie, in bytes.
struct Places {
    block_size: u64,
    bitmap_len: u64,
    /// Blocks the disk is divided into.
    entries: u32,
    locators: Vec<NewLocator>,
    table_at: u64,
    /// Where the headers and tables end, padded.
    tables_end: u64,
}

impl Places {
    fn new(new: &NewImage) -> Result<Self> {
        let block_size = new.block_size.unwrap_or(BLOCK_SIZE);
        if !block_size.is_power_of_two()
            || block_size < SMALLEST_BLOCK
            || !BLOCK_SIZES.contains(&block_size)
        {
            return Err(Error::new(
                Kind::InvalidArgument,
                format!(
                    "blocks of {block_size} bytes cannot be had: a power of two from \
                     512 KiB to {} MiB",
                    BLOCK_SIZES.end() >> 20
                ),
            ));
        }
        check_size(new)?;
        let entries = new.size.div_ceil(block_size);
        let parent = new.its_parent()?;
        let locators = match parent {
            Some(parent) => locators(parent, ALIGNMENT)?,
            None => Vec::new(),
        };
        let table_at = locators.last().map_or(TABLE_AT, |last| last.offset + last.room);
        let places = Places {
            block_size,
            bitmap_len: (block_size / SECTOR / 8).next_multiple_of(SECTOR),
            entries: u32::try_from(entries).unwrap_or(u32::MAX),
            locators,
            table_at,
            tables_end: (table_at + entries * 4).next_multiple_of(ALIGNMENT),
        };
        // The table counts sectors in 32 bits. Blocks of 512 KiB, each with its page for
        // the bitmap, reach them a little before 2040 GiB.
        if places.place(entries - 1) / SECTOR >= u64::from(UNUSED) {
            return Err(Error::new(
                Kind::InvalidArgument,
                format!(
                    "a disk of {} bytes in blocks of {block_size} bytes would outgrow what \
                     a VHD's table can name: choose larger blocks",
                    new.size
                ),
            ));
        }
        Ok(places)
    }

    /// Where the `nth` block that is written lies: its bitmap, its data behind it.
    fn place(&self, nth: u64) -> u64 {
        let first = (self.tables_end + self.bitmap_len).next_multiple_of(ALIGNMENT);
        let stride = (self.bitmap_len + self.block_size).next_multiple_of(ALIGNMENT);
        first - self.bitmap_len + nth * stride
    }

    fn file_len(&self, blocks: u64) -> u64 {
        let end = match blocks.checked_sub(1) {
            None => self.tables_end,
            Some(last) => self.place(last) + self.bitmap_len + self.block_size,
        };
        (end + FOOTER_LEN).next_multiple_of(ALIGNMENT)
    }
}

fn footer(new: &NewImage) -> Footer {
    let mut footer = Footer::new_zeroed();
    let geometry = new.geometry.unwrap_or_else(|| geometry(new.size));
    footer.cookie = FOOTER_COOKIE;
    footer.features.set(FEATURE_RESERVED);
    footer.file_format_version.set(FORMAT_VERSION);
    footer.time_stamp.set(time_stamp(new.time));
    footer.creator_application = *b"win ";
    footer.creator_version.set(0x000A_0000);
    footer.creator_host_os = *b"Wi2k";
    footer.original_size.set(new.size);
    footer.current_size.set(new.size);
    footer.cylinders.set(geometry.cylinders);
    footer.heads = geometry.heads;
    footer.sectors_per_track = geometry.sectors_per_track;
    let (disk_type, data_offset) = match new.image_type {
        ImageType::Fixed => (DISK_TYPE_FIXED, u64::MAX),
        ImageType::Dynamic => (DISK_TYPE_DYNAMIC, HEADER_AT),
        ImageType::Differencing => (DISK_TYPE_DIFFERENCING, HEADER_AT),
    };
    footer.disk_type.set(disk_type);
    footer.data_offset.set(data_offset);
    footer.unique_id = new.unique_id;
    footer.checksum.set(footer.computed_checksum());
    footer
}

fn header(new: &NewImage, places: &Places) -> Result<DynamicHeader> {
    let mut header = DynamicHeader::new_zeroed();
    header.cookie = HEADER_COOKIE;
    header.data_offset.set(u64::MAX);
    header.table_offset.set(places.table_at);
    header.header_version.set(FORMAT_VERSION);
    header.max_table_entries.set(places.entries);
    header.block_size.set(u32::try_from(places.block_size).unwrap_or(u32::MAX));
    if let Some(parent) = new.its_parent()? {
        header.parent_unique_id = parent.id;
        header.parent_time_stamp.set(parent.modified.map_or(0, time_stamp));
        let name = header_name(parent)?;
        for (slot, unit) in header.parent_unicode_name.iter_mut().zip(name) {
            slot.set(unit);
        }
    }
    for (slot, locator) in header.parent_locators.iter_mut().zip(&places.locators) {
        slot.platform_code = locator.code;
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        slot.platform_data_space.set(narrow(locator.room));
        slot.platform_data_length.set(narrow(locator.data.len() as u64));
        slot.platform_data_offset.set(locator.offset);
    }
    header.checksum.set(header.computed_checksum());
    Ok(header)
}

/// Seconds since 2000; 0 before that.
fn time_stamp(time: SystemTime) -> u32 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH + EPOCH);
    since.map_or(0, |since| u32::try_from(since.as_secs()).unwrap_or(u32::MAX))
}

/// The geometry that the specification gives a disk of `size` bytes.
fn geometry(size: u64) -> Geometry {
    let sectors = (size / SECTOR).min(65535 * 16 * 255);
    let (mut per_track, mut heads);
    if sectors >= 65535 * 16 * 63 {
        (per_track, heads) = (255, 16);
    } else {
        per_track = 17;
        heads = (sectors / per_track).div_ceil(1024).max(4);
        if sectors / per_track >= heads * 1024 || heads > 16 {
            (per_track, heads) = (31, 16);
        }
        if sectors / per_track >= heads * 1024 {
            (per_track, heads) = (63, 16);
        }
    }
    let byte = |n: u64| u8::try_from(n).unwrap_or(u8::MAX);
    Geometry {
        cylinders: u16::try_from(sectors / per_track / heads).unwrap_or(u16::MAX),
        heads: byte(heads),
        sectors_per_track: byte(per_track),
    }
}

/// A fixed image that is being written.
struct NewFixed {
    file: Arc<dyn Storage>,
    footer: Footer,
    order: Order,
}

impl Writer for NewFixed {
    fn block_size(&self) -> u64 {
        0
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let at = self.place(offset, data.len() as u64)?;
        self.order.write(&*self.file, at, data)
    }

    fn place(&mut self, offset: u64, len: u64) -> Result<u64> {
        self.order.next(offset, len, 0)?;
        self.order.broken = false;
        Ok(offset)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.order.may_finish()?;
        self.file.flush()?;
        self.file.write_at(self.order.size, self.footer.as_bytes())?;
        self.file.flush()
    }
}

/// A dynamic image that is being written, or a differencing one that is to be empty.
struct NewSparse {
    file: Arc<dyn Storage>,
    header: DynamicHeader,
    footer: Footer,
    places: Places,
    table: BlockTable,
    order: Order,
    differencing: bool,
    /// Blocks that have a place.
    written: u64,
    /// The last of them and where its data is.
    last: Option<(u64, u64)>,
}

impl NewSparse {
    /// Where the data of a block lies; the next place, if it has none yet.
    fn data_of(&mut self, block: u64) -> Result<u64> {
        if let Some((last, data)) = self.last
            && last == block
        {
            return Ok(data);
        }
        let place = self.places.place(self.written);
        let bitmap = vec![0xFF; usize::try_from(self.places.bitmap_len).unwrap_or(0)];
        self.file.write_at(place, &bitmap)?;
        let too_far = |_| Error::new(Kind::Unexpected, "a block beyond the table");
        self.table.enter(
            u32::try_from(block).map_err(too_far)?,
            u32::try_from(place / SECTOR).map_err(too_far)?,
        );
        self.written += 1;
        let data = place + self.places.bitmap_len;
        self.last = Some((block, data));
        Ok(data)
    }
}

impl Writer for NewSparse {
    fn block_size(&self) -> u64 {
        self.places.block_size
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let at = self.place(offset, data.len() as u64)?;
        self.order.write(&*self.file, at, data)
    }

    fn place(&mut self, offset: u64, len: u64) -> Result<u64> {
        if self.differencing {
            return Err(wrong_type("a new differencing image begins empty"));
        }
        let size = self.places.block_size;
        self.order.next(offset, len, size)?;
        let start = if len > 0 { self.data_of(offset / size)? } else { 0 };
        self.order.broken = false;
        Ok(start + offset % size)
    }

    /// The footers come last, and both in one go: whoever finds one finds all.
    fn finish(self: Box<Self>) -> Result<()> {
        self.order.may_finish()?;
        let file = &*self.file;
        file.write_at(HEADER_AT, self.header.as_bytes())?;
        for locator in &self.places.locators {
            file.write_at(locator.offset, &locator.data)?;
        }
        self.table.write(file)?;
        // What the blocks' last bytes do not reach reads as zeros.
        let len = self.places.file_len(self.written);
        file.set_len(len)?;
        file.flush()?;
        file.write_at(len - FOOTER_LEN, self.footer.as_bytes())?;
        file.write_at(0, self.footer.as_bytes())?;
        file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dynamic(size: u64, block_size: Option<u64>) -> NewImage {
        NewImage {
            image_type: ImageType::Dynamic,
            size,
            block_size,
            sector_size: 512,
            physical_sector_size: None,
            geometry: None,
            parent: None,
            blank: true,
            unique_id: [7; 16],
            disk_id: None,
            time: SystemTime::UNIX_EPOCH + EPOCH,
        }
    }

    #[test]
    fn places_are_those_of_windows() {
        // What Hyper-V of Windows Server 2012 R2 made of 127 GiB: the footer of the empty
        // image, and then the first bitmap, at 0x40E00.
        let places = Places::new(&dynamic(136_365_211_648, None)).unwrap();
        assert_eq!(places.file_len(0), 0x41000);
        assert_eq!(places.place(0), 0x40E00);
        assert_eq!(places.place(1), 0x40E00 + 4104 * 512);
        assert_eq!(places.file_len(1), 0x41000 + (2 << 20) + 4096);
        // A small one: the first bitmap at 0x1E00, the footer of one block at 0x201E00.
        let places = Places::new(&dynamic(4 << 20, None)).unwrap();
        assert_eq!((places.place(0), places.file_len(1)), (0x1E00, 0x20_3000));
    }

    #[test]
    fn geometries_are_those_of_the_specification() {
        for (size, expected) in [
            (3 << 20, (90, 4, 17)),
            (127 << 30, (65278, 16, 255)),
            (136_365_211_648, (65278, 16, 255)),
            (1 << 30, (2080, 16, 63)),
            (2040 << 30, (65535, 16, 255)),
            (512 << 20, (1040, 16, 63)),
        ] {
            let found = geometry(size);
            let found = (found.cylinders, found.heads, found.sectors_per_track);
            assert_eq!(found, expected, "{size}");
            let sectors = u64::from(found.0) * u64::from(found.1) * u64::from(found.2);
            assert!(sectors * 512 <= size);
        }
    }

    #[test]
    fn what_cannot_be_made_is_refused_by_its_kind() {
        let kind =
            |size, block_size| check(&dynamic(size, block_size)).err().map(|e| e.kind());
        assert_eq!(kind(3 << 20, None), None);
        assert_eq!(kind(512, Some(256 << 20)), None);
        assert_eq!(kind(2040 << 30, None), None);
        assert_eq!(kind((2040 << 30) + 512, None), Some(Kind::DiskTooLarge));
        assert_eq!(kind(0, None), Some(Kind::InvalidArgument));
        assert_eq!(kind(1000, None), Some(Kind::InvalidArgument));
        let large = NewImage { sector_size: 4096, ..dynamic(4 << 20, None) };
        let refused = check(&large).unwrap_err();
        assert_eq!(refused.kind(), Kind::InvalidArgument);
        assert!(refused.what().contains(".vhdx"), "{refused}");
        for block_size in [0, 4096, 256 << 10, 3 << 20, 512 << 20, u64::MAX, 1 << 63] {
            assert_eq!(kind(3 << 20, Some(block_size)), Some(Kind::InvalidArgument));
        }
        // 2^32 sectors are not enough for this many pages of bitmaps.
        assert_eq!(kind(2040 << 30, Some(512 << 10)), Some(Kind::InvalidArgument));
        assert_eq!(kind(2000 << 30, Some(512 << 10)), None);
        assert_eq!(max_len(&dynamic(1000, None)), u64::MAX);
    }

    #[test]
    fn times_before_2000_are_none() {
        assert_eq!(time_stamp(SystemTime::UNIX_EPOCH), 0);
        let later = SystemTime::UNIX_EPOCH + EPOCH + std::time::Duration::from_secs(5);
        assert_eq!(time_stamp(later), 5);
    }
}
