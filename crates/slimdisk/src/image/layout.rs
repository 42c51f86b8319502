//! How an image lies in its file: what has a place there, what can move, what can go.

use std::ops::Range;

use crate::ranges::Ranges;

/// What has a place in the file and can get another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// A block, by its number on the guest's disk.
    Block(u32),
    /// A sector bitmap that lies apart from its blocks, by the number of the chunk of
    /// blocks that it serves.
    Bitmap(u32),
}

impl Piece {
    /// The block's number; `None` for a bitmap.
    #[must_use]
    pub fn block(self) -> Option<u32> {
        match self {
            Piece::Block(block) => Some(block),
            Piece::Bitmap(_) => None,
        }
    }
}

/// Where one piece lies: `place` is the first byte of what moves with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the file in bytes.
    pub place: u64,
    /// What lies there.
    pub piece: Piece,
}

/// All that a plan needs to know of how an image lies in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The blocks and bitmaps that have a place, in ascending order of it.
    pub extents: Vec<Extent>,
    /// Bytes that a block takes up in the file, its own bookkeeping included.
    pub extent_len: u64,
    /// Bytes that a sector bitmap takes up; 0 where each lies with its block. If not,
    /// it is the [`modulus`](Layout::modulus), and a block takes up a multiple of it, so
    /// that what is left of a gap behind blocks is room for bitmaps.
    pub bitmap_len: u64,
    /// To how many blocks in a row there is a bitmap: those of one chunk. 0 where each
    /// lies with its block.
    pub chunk_blocks: u32,
    /// The blocks that need the bitmap of their chunk, in ascending order: those which
    /// are partly the parent's.
    pub partial: Vec<u32>,
    /// A place is allowed if `place % modulus == remainder`.
    pub modulus: u64,
    /// See [`modulus`](Layout::modulus).
    pub remainder: u64,
    /// Bytes of the file where no block may lie: headers and tables.
    pub reserved: Ranges,
    /// Bytes of the structure that ends the file, behind the last block.
    pub trailer_len: u64,
    /// The file's length is a multiple of this.
    pub end_modulus: u64,
    /// The file's length now.
    pub file_len: u64,
}

impl Layout {
    /// The file's length when its last block or table ends at `end`.
    #[must_use]
    pub fn file_len_after(&self, end: u64) -> u64 {
        (end + self.trailer_len).next_multiple_of(self.end_modulus)
    }

    /// The first allowed place at or after `at`.
    #[must_use]
    pub fn place_from(&self, at: u64) -> u64 {
        let over = (at % self.modulus + self.modulus - self.remainder) % self.modulus;
        if over == 0 { at } else { at + self.modulus - over }
    }

    /// Where the last block or table ends now.
    #[must_use]
    pub fn end_of_data(&self) -> u64 {
        let tables = self.reserved.iter().next_back().map_or(0, |r| r.end);
        self.extents
            .last()
            .map_or(tables, |last| tables.max(last.place + self.len_of(last.piece)))
    }

    /// Bytes that a piece takes up.
    #[must_use]
    pub fn len_of(&self, piece: Piece) -> u64 {
        match piece {
            Piece::Block(_) => self.extent_len,
            Piece::Bitmap(_) => self.bitmap_len,
        }
    }

    /// Where an extent lies.
    #[must_use]
    pub fn range_of(&self, extent: &Extent) -> Range<u64> {
        extent.place..extent.place + self.len_of(extent.piece)
    }

    /// The blocks of a chunk that need its bitmap.
    #[must_use]
    pub fn partial_in(&self, chunk: u32) -> &[u32] {
        let (chunk, blocks) = (u64::from(chunk), u64::from(self.chunk_blocks));
        let from = |chunk: u64| {
            self.partial.partition_point(|block| u64::from(*block) < chunk * blocks)
        };
        self.partial.get(from(chunk)..from(chunk + 1)).unwrap_or_default()
    }
}

/// One piece's change of place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Which.
    pub piece: Piece,
    /// Its new place, an offset in the file in bytes.
    pub to: u64,
}

/// What is given up: the place of a block, which shows something else instead from then
/// on, or that of a bitmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// A block that shows what the parent has; zeros if there is no parent.
    Block(u32),
    /// A block that shows zeros, whatever a parent has.
    ToZeros(u32),
    /// A bitmap that no block needs once the others are gone.
    Bitmap(u32),
}

impl Release {
    /// The block's number; `None` for a bitmap.
    #[must_use]
    pub fn block(self) -> Option<u32> {
        match self {
            Release::Block(block) | Release::ToZeros(block) => Some(block),
            Release::Bitmap(_) => None,
        }
    }
}
