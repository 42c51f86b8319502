//! The batmap of tapdisk images: one bit a block, set when all of the block's
//! sectors have been written.
//!
//! It only saves tapdisk from reading sector bitmaps, but its tools call an image
//! broken when it claims a block that has no place. Source: xen blktap,
//! `libvhd.c` (`vhd_checksum_batmap`, `vhd_has_batmap`).

use zerocopy::IntoBytes;

use super::raw::{
    BATMAP_COOKIE, BATMAP_VERSION_CURRENT, BATMAP_VERSION_SIGNED, BatmapHeader, Footer,
    SECTOR,
};
use crate::error::Result;
use crate::storage::{ReadAt, Storage, read_struct};

pub struct Batmap {
    /// Where the header lies in the file, in bytes.
    pub offset: u64,
    pub header: BatmapHeader,
    map: Vec<u8>,
}

impl Batmap {
    /// Reads the batmap behind a table that ends at `offset`, if the image has one.
    /// The inner error says why there is one that cannot be made sense of.
    pub fn read(
        file: &dyn ReadAt,
        footer: &Footer,
        offset: u64,
        blocks: u32,
    ) -> Result<Result<Option<Self>, String>> {
        // Version 0.1 had none.
        if !footer.is_tapdisk() || footer.creator_version.get() <= 1 {
            return Ok(Ok(None));
        }
        if offset + SECTOR > file.len() {
            return Ok(Ok(None));
        }
        let header: BatmapHeader = read_struct(file, offset)?;
        if header.cookie != BATMAP_COOKIE {
            return Ok(Ok(None));
        }
        if header.version.get() > BATMAP_VERSION_CURRENT {
            return Ok(Err(format!("version {:#x}", header.version.get())));
        }
        // A map larger than the table needs is padding nobody reads.
        let needed = u64::from(blocks).div_ceil(8).next_multiple_of(SECTOR);
        let size = u64::from(header.map_size.get()) * SECTOR;
        let end = header.map_offset.get().checked_add(size);
        if size < needed
            || size > needed + (1 << 20)
            || end.is_none_or(|end| end > file.len())
        {
            return Ok(Err(format!(
                "a map of {size} bytes at {:#x} for {blocks} blocks",
                header.map_offset.get()
            )));
        }
        let mut map = vec![0; usize::try_from(size).unwrap_or(0)];
        file.read_at(header.map_offset.get(), &mut map)?;
        Ok(Ok(Some(Batmap { offset, header, map })))
    }

    pub fn computed_checksum(&self) -> u32 {
        let signed = self.header.version.get() == BATMAP_VERSION_SIGNED;
        !self.map.iter().fold(0u32, |sum, byte| {
            // A signed char widened to 32 bits: its upper bits are its sign.
            let sign = if signed && byte & 0x80 != 0 { 0xFFFF_FF00 } else { 0 };
            sum.wrapping_add(u32::from(*byte) | sign)
        })
    }

    /// Whether its checksum holds; nobody believes it otherwise.
    pub fn is_sound(&self) -> bool {
        self.header.checksum.get() == self.computed_checksum()
    }

    pub fn claims(&self, block: u32) -> bool {
        self.map
            .get((block / 8) as usize)
            .is_some_and(|byte| byte & (0x80 >> (block % 8)) != 0)
    }

    /// Clears the bits of `blocks`, or all if the checksum does not hold, and writes
    /// map and checksum.
    ///
    /// The map goes first, without a flush between: it must be right before the
    /// table loses a block, and a map that claims too little is always right. So a
    /// map whose checksum does not hold, which nobody believes, claims nothing from
    /// now on: with a new checksum it would be believed.
    pub fn clear(&mut self, file: &dyn Storage, blocks: &[u32]) -> Result<()> {
        if !self.is_sound() {
            self.map.fill(0);
        }
        for block in blocks {
            if let Some(byte) = self.map.get_mut((block / 8) as usize) {
                *byte &= !(0x80 >> (block % 8));
            }
        }
        self.header.checksum.set(self.computed_checksum());
        file.write_at(self.header.map_offset.get(), &self.map)?;
        file.write_at(self.offset, self.header.as_bytes())
    }
}
