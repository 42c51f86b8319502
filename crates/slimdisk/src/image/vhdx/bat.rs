//! The block allocation table: for each block of the disk its state and place, and in
//! between, behind the blocks of each chunk, the place of the chunk's sector bitmap.
//!
//! ```text
//! block 0 | block 1 | ... | bitmap 0 | block R | block R+1 | ... | bitmap 1 | ...
//! ```
//!
//! A page of the table that is all zeros takes up no memory: a disk of 64 TiB in blocks
//! of 1 MiB has 64 million entries, most of them nothing. Source: [MS-VHDX] 2.5.

use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use super::raw::{MIB, PAGE};
use crate::error::Result;
use crate::image::sector_bitmap::BitOrder;
use crate::image::{Extent, Piece};
use crate::storage::ReadAt;

/// Entries in a page, the unit in which the table is logged and written.
pub const PER_PAGE: usize = 512;

/// Which bit of a byte of a sector bitmap is the first of its eight sectors. Source:
/// [MS-VHDX] 2.4.
pub const BIT_ORDER: BitOrder = BitOrder::LeastFirst;

/// How much of the table is read at once, in bytes.
const PIECE: u64 = 1 << 20;

pub type Page = [U64; PER_PAGE];

/// What a payload entry says of its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing; in a differencing image the parent has it.
    NotPresent,
    /// Anything.
    Undefined,
    /// Zeros.
    Zero,
    /// The guest gave it up: zeros, or what was there.
    Unmapped,
    /// All of it is here.
    Fully,
    /// Some of it is here, as the sector bitmap says.
    Partially,
}

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry(pub u64);

/// The bits of an entry that must be zeros.
const RESERVED: u64 = 0xF_FFF8;

/// The states of an entry for a sector bitmap.
pub const BITMAP_NOT_PRESENT: u64 = 0;
pub const BITMAP_PRESENT: u64 = 6;

impl Entry {
    pub const NOT_PRESENT: Entry = Entry(0);
    pub const ZERO: Entry = Entry(2);
    pub const UNMAPPED: Entry = Entry(3);
    /// Once it has been given a [place](Entry::at), as the next ones.
    pub const FULLY: Entry = Entry(6);
    pub const PARTIALLY: Entry = Entry(7);
    /// Of a sector bitmap.
    pub const BITMAP: Entry = Entry(BITMAP_PRESENT);

    /// The state's number.
    pub fn raw_state(self) -> u64 {
        self.0 & 7
    }

    /// The state of a block; `None` if no block may have it.
    pub fn state(self) -> Option<State> {
        Some(match self.raw_state() {
            0 => State::NotPresent,
            1 => State::Undefined,
            2 => State::Zero,
            3 => State::Unmapped,
            6 => State::Fully,
            7 => State::Partially,
            _ => return None,
        })
    }

    /// The place it names in MiB, whether that means anything or not.
    pub fn offset_mib(self) -> u64 {
        self.0 >> 20
    }

    pub fn has_reserved_bits(self) -> bool {
        self.0 & RESERVED != 0
    }

    /// Whether the block's data is at the place.
    pub fn has_data(self) -> bool {
        matches!(self.state(), Some(State::Fully | State::Partially))
    }

    /// Whether the place counts: there is data, or the guest gave the block up and
    /// nobody has given up its place yet.
    pub fn has_place(self) -> bool {
        match self.state() {
            Some(State::Fully | State::Partially) => true,
            Some(State::Undefined | State::Unmapped) => self.offset_mib() != 0,
            _ => false,
        }
    }

    /// The place in bytes.
    pub fn place(self) -> u64 {
        // 44 bits of MiB are 64 bits of bytes.
        self.offset_mib() << 20
    }

    /// The same state at another place.
    pub fn at(self, place: u64) -> Entry {
        Entry(self.raw_state() | (place / MIB) << 20)
    }
}

pub struct Bat {
    /// Where the table lies in the file.
    pub offset: u64,
    pages: Vec<Option<Box<Page>>>,
    /// Blocks of the disk.
    pub blocks: u32,
    /// Blocks to a sector bitmap.
    chunk_ratio: u32,
}

/// How many entries a table needs; that of a differencing image reaches to the bitmap
/// of the last chunk, which lies behind a whole chunk's blocks even if the disk has
/// fewer. (Section 2.5 has a formula that counts fewer; Windows writes it as here.)
pub fn entries_needed(blocks: u64, chunk_ratio: u64, differencing: bool) -> u64 {
    if differencing {
        blocks.div_ceil(chunk_ratio) * (chunk_ratio + 1)
    } else {
        blocks + blocks.saturating_sub(1) / chunk_ratio
    }
}

impl Bat {
    /// Reads a table that has been checked to lie inside the file, in whole pages.
    pub fn read(
        file: &dyn ReadAt,
        offset: u64,
        entries: u64,
        blocks: u32,
        chunk_ratio: u32,
    ) -> Result<Self> {
        let count = usize::try_from(entries.div_ceil(PER_PAGE as u64)).unwrap_or(0);
        let mut pages: Vec<Option<Box<Page>>> = vec![None; count];
        let end = offset + count as u64 * PAGE;
        let mut buf = vec![0; usize::try_from(PIECE).unwrap_or(0)];
        let mut at = offset;
        while at < end
            && let Some(data) = file.next_data(at)?
            && data.start < end
        {
            at = data.start.max(at) / PAGE * PAGE;
            let len = (end - at).min(PIECE);
            let Some(piece) = buf.get_mut(..usize::try_from(len).unwrap_or(0)) else {
                break;
            };
            file.read_at(at, piece)?;
            let first = usize::try_from((at - offset) / PAGE).unwrap_or(usize::MAX);
            let (read, _) = piece.as_chunks::<4096>();
            for (page, bytes) in pages.iter_mut().skip(first).zip(read) {
                if bytes.iter().any(|byte| *byte != 0) {
                    let mut entries = Box::new([U64::ZERO; PER_PAGE]);
                    entries.as_mut_bytes().copy_from_slice(bytes);
                    *page = Some(entries);
                }
            }
            at += len;
        }
        Ok(Bat { offset, pages, blocks, chunk_ratio })
    }

    /// The number of a block's entry.
    pub fn index(&self, block: u32) -> u64 {
        u64::from(block) + u64::from(block / self.chunk_ratio)
    }

    /// The number of the entry of a chunk's sector bitmap.
    pub fn bitmap_index(&self, chunk: u32) -> u64 {
        let ratio = u64::from(self.chunk_ratio);
        u64::from(chunk) * (ratio + 1) + ratio
    }

    /// The chunk that a block is in.
    pub fn chunk(&self, block: u32) -> u32 {
        block / self.chunk_ratio
    }

    /// The number of a block in its chunk.
    pub fn within_chunk(&self, block: u32) -> u32 {
        block % self.chunk_ratio
    }

    fn at(&self, index: u64) -> Entry {
        let (page, slot) = split(index);
        let page = self.pages.get(page).and_then(Option::as_ref);
        Entry(page.and_then(|page| page.get(slot)).map_or(0, |entry| entry.get()))
    }

    /// A block's entry.
    pub fn entry(&self, block: u32) -> Entry {
        if block < self.blocks { self.at(self.index(block)) } else { Entry::NOT_PRESENT }
    }

    /// The entry of a chunk's sector bitmap.
    pub fn bitmap(&self, chunk: u32) -> Entry {
        self.at(self.bitmap_index(chunk))
    }

    /// Where an entry lies in the file.
    pub fn entry_at(&self, index: u64) -> u64 {
        self.offset + index * 8
    }

    /// All entries that are not zeros: their numbers and what they are of.
    pub fn entries(&self) -> impl Iterator<Item = (u64, Owner, Entry)> + '_ {
        let ratio = u64::from(self.chunk_ratio);
        (0u64..)
            .zip(&self.pages)
            .filter_map(|(number, page)| Some((number, page.as_ref()?)))
            .flat_map(|(number, page)| (number * PER_PAGE as u64..).zip(page.iter()))
            .filter(|(_, entry)| entry.get() != 0)
            .filter_map(move |(index, entry)| {
                let (chunk, within) = (index / (ratio + 1), index % (ratio + 1));
                let owner = if within == ratio {
                    let chunk = u32::try_from(chunk).ok()?;
                    // Behind the last block's chunk there is only padding.
                    (u64::from(chunk) * ratio < u64::from(self.blocks))
                        .then_some(Owner::Bitmap(chunk))?
                } else {
                    let block = u32::try_from(chunk * ratio + within).ok()?;
                    (block < self.blocks).then_some(Owner::Block(block))?
                };
                Some((index, owner, Entry(entry.get())))
            })
    }

    /// The blocks that have a place.
    pub fn placed(&self) -> impl Iterator<Item = (u32, Entry)> + '_ {
        self.entries().filter_map(|(_, owner, entry)| match owner {
            Owner::Block(block) if entry.has_place() => Some((block, entry)),
            _ => None,
        })
    }

    /// The blocks and the sector bitmaps that have a place.
    pub fn pieces(&self) -> impl Iterator<Item = Extent> + '_ {
        self.entries().filter_map(|(_, owner, entry)| {
            let piece = match owner {
                Owner::Block(block) if entry.has_place() => Piece::Block(block),
                Owner::Bitmap(chunk) if entry.raw_state() == BITMAP_PRESENT => {
                    Piece::Bitmap(chunk)
                }
                _ => return None,
            };
            Some(Extent { place: entry.place(), piece })
        })
    }

    /// The same, by place.
    pub fn extents(&self) -> Vec<Extent> {
        let mut extents = Vec::with_capacity(self.pieces().count());
        extents.extend(self.pieces());
        extents.sort_unstable_by_key(|extent| extent.place);
        extents
    }

    /// The blocks that are partially present, in ascending order.
    pub fn partial(&self) -> Vec<u32> {
        let partial = |(block, entry): (u32, Entry)| {
            (entry.state() == Some(State::Partially)).then_some(block)
        };
        self.placed().filter_map(partial).collect()
    }

    /// How many blocks there are to a sector bitmap.
    pub fn chunk_ratio(&self) -> u32 {
        self.chunk_ratio
    }

    /// Sets an entry in memory; which page has to be written.
    pub fn set(&mut self, owner: Owner, entry: Entry) -> usize {
        let (number, slot) = split(match owner {
            Owner::Block(block) => self.index(block),
            Owner::Bitmap(chunk) => self.bitmap_index(chunk),
        });
        if let Some(page) = self.pages.get_mut(number) {
            let page = page.get_or_insert_with(|| Box::new([U64::ZERO; PER_PAGE]));
            if let Some(to) = page.get_mut(slot) {
                to.set(entry.0);
            }
        }
        number
    }

    /// The bytes of a page and where it lies in the file.
    pub fn page(&self, number: usize) -> (u64, &[u8]) {
        const NOTHING: &Page = &[U64::ZERO; PER_PAGE];
        let page = self.pages.get(number).and_then(Option::as_deref).unwrap_or(NOTHING);
        (self.offset + number as u64 * PAGE, page.as_bytes())
    }
}

/// What an entry is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Block(u32),
    /// The sector bitmap of a chunk.
    Bitmap(u32),
}

fn split(index: u64) -> (usize, usize) {
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    (index / PER_PAGE, index % PER_PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_a_state_and_a_place() {
        let entry = Entry(7 << 20 | 6);
        assert_eq!((entry.state(), entry.place()), (Some(State::Fully), 7 << 20));
        assert_eq!(entry.at(9 << 20), Entry(9 << 20 | 6));
        assert!(entry.has_data() && entry.has_place() && !entry.has_reserved_bits());
        assert!(Entry(1 << 20 | 3).has_place() && !Entry(3).has_place());
        assert!(!Entry(1 << 20 | 2).has_place() && !Entry(1 << 20).has_place());
        assert!(Entry(8).has_reserved_bits() && Entry(1 << 19).has_reserved_bits());
        assert_eq!((Entry(4).state(), Entry(5).state()), (None, None));
        assert_eq!(Entry(u64::MAX).place(), 0xFFF_FFFF_FFFF << 20);
    }

    #[test]
    fn bitmaps_lie_between_the_blocks_of_two_chunks() {
        let mut table = vec![0u8; 4096 * 2];
        let mut put = |index: usize, value: u64| {
            table[index * 8..][..8].copy_from_slice(&value.to_le_bytes());
        };
        for index in 0..620 {
            put(index, index as u64 + 1);
        }
        let bat = Bat::read(&table, 0, 616, 580, 16).unwrap();
        assert_eq!(bat.entry(0), Entry(1));
        assert_eq!(bat.entry(15), Entry(16));
        assert_eq!(bat.bitmap(0), Entry(17));
        assert_eq!(bat.entry(16), Entry(18));
        assert_eq!(bat.entry(579), Entry(579 + 579 / 16 + 1));
        assert_eq!(bat.entry(580), Entry::NOT_PRESENT);
        let owners: Vec<_> =
            bat.entries().map(|(index, owner, _)| (index, owner)).collect();
        assert_eq!(owners[16], (16, Owner::Bitmap(0)));
        assert_eq!(owners[17], (17, Owner::Block(16)));
        let blocks = owners.iter().filter(|(_, o)| matches!(o, Owner::Block(_)));
        assert_eq!(blocks.count(), 580);
        for (index, owner) in &owners {
            match owner {
                Owner::Block(block) => assert_eq!(bat.index(*block), *index),
                Owner::Bitmap(chunk) => assert_eq!(bat.bitmap_index(*chunk), *index),
            }
        }
    }

    #[test]
    fn a_table_is_as_long_as_the_specification_says() {
        // Blocks, chunk ratio, then both lengths.
        for (blocks, ratio, plain, differencing) in [
            (1, 16, 1, 17),
            (16, 16, 16, 17),
            (17, 16, 18, 34),
            (64 << 20, 4096, 67_125_247, 67_125_248),
        ] {
            assert_eq!(entries_needed(blocks, ratio, false), plain);
            assert_eq!(entries_needed(blocks, ratio, true), differencing);
        }
    }

    #[test]
    fn pages_of_zeros_are_not_held() {
        let mut table = vec![0u8; 4096 * 3];
        table[4096 + 8] = 6;
        let mut bat = Bat::read(&table, 0, 3 * 512, 1500, 4096).unwrap();
        assert_eq!(bat.pages.iter().flatten().count(), 1);
        assert_eq!(bat.entry(513).state(), Some(State::Fully));
        assert_eq!(bat.set(Owner::Block(1030), Entry(3 << 20 | 6)), 2);
        assert_eq!(bat.page(2).0, 8192);
        assert_eq!(bat.page(2).1[6 * 8], 6);
        assert!(bat.page(0).1.iter().all(|byte| *byte == 0));
    }
}
