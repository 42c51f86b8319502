//! The block allocation table of an image that is being made.
//!
//! Blocks are entered in ascending order, so that the table can go to the file piece by
//! piece: that of 64 TiB in blocks of 1 MiB has half a GiB.

use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use super::bat::Entry;
use crate::error::Result;
use crate::storage::Storage;

/// Entries in what is written at once: 1 MiB of them.
const PIECE: u64 = 128 << 10;

pub struct NewBat {
    /// Where the table lies in the file.
    offset: u64,
    /// Its entries, those of sector bitmaps among them.
    entries: u64,
    chunk_ratio: u64,
    /// What stands for blocks that are not entered.
    others: Entry,
    /// The number of the first entry of the piece that is being filled.
    first: u64,
    piece: Vec<U64>,
}

impl NewBat {
    pub fn new(offset: u64, entries: u64, chunk_ratio: u64, others: Entry) -> Self {
        let mut bat =
            NewBat { offset, entries, chunk_ratio, others, first: 0, piece: Vec::new() };
        bat.begin_piece(0);
        bat
    }

    /// Enters a block that comes after all that were entered.
    pub fn enter(&mut self, file: &dyn Storage, block: u64, entry: Entry) -> Result<()> {
        let index = block + block / self.chunk_ratio;
        while index >= self.first + PIECE {
            self.write_piece(file)?;
            // What lies in between is nothing, as it is in the file.
            let next = match self.others {
                Entry::NOT_PRESENT => index / PIECE * PIECE,
                _ => self.first + PIECE,
            };
            self.begin_piece(next);
        }
        let slot = usize::try_from(index - self.first).ok();
        if let Some(slot) = slot.and_then(|slot| self.piece.get_mut(slot)) {
            slot.set(entry.0);
        }
        Ok(())
    }

    /// Writes what was not written yet.
    pub fn finish(mut self, file: &dyn Storage) -> Result<()> {
        self.write_piece(file)?;
        while self.others != Entry::NOT_PRESENT && self.first + PIECE < self.entries {
            self.begin_piece(self.first + PIECE);
            self.write_piece(file)?;
        }
        Ok(())
    }

    fn begin_piece(&mut self, first: u64) {
        self.first = first;
        let end = self.entries.min(first + PIECE);
        self.piece.clear();
        self.piece.extend((first..end).map(|index| {
            // Behind each chunk's blocks stands its sector bitmap, which is not there.
            let is_bitmap = index % (self.chunk_ratio + 1) == self.chunk_ratio;
            U64::new(if is_bitmap { 0 } else { self.others.0 })
        }));
    }

    /// Writes the piece but for the zeros at its ends, which are in the file already.
    fn write_piece(&self, file: &dyn Storage) -> Result<()> {
        let is_set = |entry: &U64| *entry != U64::ZERO;
        let (Some(start), Some(last)) =
            (self.piece.iter().position(is_set), self.piece.iter().rposition(is_set))
        else {
            return Ok(());
        };
        let set = self.piece.get(start..=last).unwrap_or_default();
        file.write_at(self.offset + (self.first + start as u64) * 8, set.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::bat::{Bat, entries_needed};
    use super::*;
    use crate::storage::{Copied, ReadAt};
    use std::ops::Range;
    use std::sync::Mutex;

    /// A file in memory that grows.
    #[derive(Default)]
    struct Memory(Mutex<Vec<u8>>);

    impl ReadAt for Memory {
        fn len(&self) -> u64 {
            self.0.lock().unwrap().len() as u64
        }

        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
            let at = usize::try_from(offset).unwrap();
            buf.copy_from_slice(&self.0.lock().unwrap()[at..at + buf.len()]);
            Ok(())
        }

        fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
            Ok((offset < self.len()).then_some(offset..self.len()))
        }
    }

    impl Storage for Memory {
        fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
            let (at, mut bytes) =
                (usize::try_from(offset).unwrap(), self.0.lock().unwrap());
            let end = bytes.len().max(at + data.len());
            bytes.resize(end, 0);
            bytes[at..at + data.len()].copy_from_slice(data);
            Ok(())
        }

        fn flush(&self) -> Result<()> {
            Ok(())
        }

        fn set_len(&self, len: u64) -> Result<()> {
            self.0.lock().unwrap().resize(usize::try_from(len).unwrap(), 0);
            Ok(())
        }

        fn copy_within(&self, _: u64, _: u64, _: u64) -> Result<Copied> {
            Ok(Copied::default())
        }
    }

    #[test]
    fn what_is_entered_is_read_and_the_others_are_what_they_are_said_to_be() {
        let blocks = 400_000_u32;
        let entered = [0, 15, 16, 131_071, 131_072, 131_073, 300_000, 399_999];
        for others in [Entry::NOT_PRESENT, Entry::ZERO] {
            for some in [&entered[..], &entered[..3], &[]] {
                let ratio = 16;
                let entries = entries_needed(u64::from(blocks), ratio, false);
                let file = Memory::default();
                let mut bat = NewBat::new(4096, entries, ratio, others);
                for block in some {
                    let place = Entry::FULLY.at(u64::from(*block + 1) << 20);
                    bat.enter(&file, u64::from(*block), place).unwrap();
                }
                bat.finish(&file).unwrap();
                file.set_len(4096 + entries.next_multiple_of(512) * 8).unwrap();
                let read = Bat::read(&file, 4096, entries, blocks, 16).unwrap();
                for block in 0..blocks {
                    let expected = if some.contains(&block) {
                        Entry::FULLY.at(u64::from(block + 1) << 20)
                    } else {
                        others
                    };
                    assert_eq!(read.entry(block), expected, "{block}");
                }
                for chunk in 0..blocks / 16 {
                    assert_eq!(read.bitmap(chunk), Entry::NOT_PRESENT);
                }
            }
        }
    }
}
