//! What a differencing image itself holds: only of that can it give up anything.

use std::ops::Range;

use crate::error::Result;
use crate::image::Image;
use crate::ranges::Ranges;

/// The bytes of each block that a differencing image holds itself, and how many of
/// them are free.
pub struct Own<'a> {
    image: &'a dyn Image,
    block_size: u64,
    /// For each block, how many bytes are here.
    bytes: Vec<u32>,
    /// For each block, how many of them are proven free.
    pub free: Vec<u32>,
    /// The block that was asked for last.
    last: (Option<u32>, Ranges),
}

impl<'a> Own<'a> {
    /// Reads it; `None` for an image without a parent, to which all its blocks belong.
    pub fn read(
        image: &'a dyn Image,
        block_size: u64,
        blocks: u32,
    ) -> Result<Option<Self>> {
        if image.parent().is_none() {
            return Ok(None);
        }
        let mut own = Own {
            image,
            block_size,
            bytes: vec![0; blocks as usize],
            free: vec![0; blocks as usize],
            last: (None, Ranges::new()),
        };
        for block in 0..blocks {
            let bytes = own.of_block(block)?.total();
            if let Some(counter) = own.bytes.get_mut(block as usize) {
                // At most a block's size, which fits.
                *counter = u32::try_from(bytes).unwrap_or(u32::MAX);
            }
        }
        Ok(Some(own))
    }

    /// How many bytes of a block are here.
    pub fn bytes(&self, block: u32) -> u64 {
        self.bytes.get(block as usize).copied().map_or(0, u64::from)
    }

    /// How many of them are proven free.
    pub fn free(&self, block: u32) -> u64 {
        self.free.get(block as usize).copied().map_or(0, u64::from)
    }

    /// The bytes of a block that are here, counted from its start.
    fn of_block(&mut self, block: u32) -> Result<&Ranges> {
        if self.last.0 != Some(block) {
            self.last = (Some(block), of_block(self.image, block, self.block_size)?);
        }
        Ok(&self.last.1)
    }

    /// Sends the parts of a range of the disk that are here to `sink`.
    pub fn pieces(
        &mut self,
        mut range: Range<u64>,
        sink: &mut dyn FnMut(Range<u64>),
    ) -> Result<()> {
        while range.start < range.end {
            let number = range.start / self.block_size;
            let start = number * self.block_size;
            let end = range.end.min(start + self.block_size);
            if let Ok(block) = u32::try_from(number)
                && self.bytes(block) > 0
            {
                for piece in
                    self.of_block(block)?.within(range.start - start..end - start)
                {
                    sink(start + piece.start..start + piece.end);
                }
            }
            range.start = end;
        }
        Ok(())
    }
}

/// The bytes of a block that `image` itself holds, counted from its start.
pub fn of_block(image: &dyn Image, block: u32, block_size: u64) -> Result<Ranges> {
    if !image.is_allocated(block) {
        return Ok(Ranges::new());
    }
    let own = image.own_bytes(block)?;
    Ok(own.unwrap_or_else(|| std::iter::once(0..block_size).collect()))
}
