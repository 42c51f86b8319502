//! Changing a dynamic or differencing image: the three durable verbs.
//!
//! Before the first change the headers get a new file write GUID, and the log is
//! replayed if it has to be. Entries of the block allocation table change through the
//! log alone, data by copying to where no entry points. Before the file is cut the log
//! is called empty.

use super::VhdxDisk;
use crate::error::{Error, Kind, Result};
use crate::image::vhdx::bat::{BITMAP_NOT_PRESENT, BITMAP_PRESENT, Entry, Owner, State};
use crate::image::vhdx::log::LARGEST;
use crate::image::vhdx::new_guid;
use crate::image::vhdx::raw::{MIB, NO_GUID};
use crate::image::{Image, Move, Piece, Release, wrong_type};
use crate::storage::{ReadAt, Storage, Transfer};

impl VhdxDisk {
    /// Fails unless a run can change the file.
    pub(super) fn changeable(&self) -> Result<()> {
        self.loggable()
    }

    /// Fails if the file has no log to change it by.
    pub(super) fn loggable(&self) -> Result<()> {
        if self.structures.ring.len == 0 {
            return Err(wrong_type(
                "the VHDX has no room for a log, without which it cannot be changed safely",
            ));
        }
        // After a power cut it could not be replayed.
        if self.structures.ring.len > LARGEST {
            return Err(wrong_type(
                "the VHDX has a log of more than 256 MiB, too large to be used safely",
            ));
        }
        Ok(())
    }

    /// Runs one of the verbs of compaction.
    pub(super) fn act(
        &mut self,
        verb: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        self.compactable()?;
        self.attempt(verb)
    }

    /// Changes the file. Once that has failed, what is known here and what is in the file
    /// may differ, and acting on it could cut a block off: only opening the file anew
    /// helps then.
    pub(super) fn attempt<T>(
        &mut self,
        verb: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        if self.failed {
            return Err(Error::new(
                Kind::Unexpected,
                "an earlier write failed: open the image anew before changing it again",
            ));
        }
        self.failed = true;
        let done = verb(self)?;
        self.failed = false;
        Ok(done)
    }

    /// Has the headers tell, before the next change, that the guest's bytes are others.
    pub(super) fn tell_of_new_content(&mut self) -> Result<()> {
        if self.content_changes {
            return Ok(());
        }
        self.content_changes = true;
        if self.begun {
            return self.attempt(|image| {
                let id = new_guid();
                let headers = &mut image.structures.headers;
                headers.update(&*image.file, |header| header.data_write_guid = id)
            });
        }
        Ok(())
    }

    /// What comes before the first change.
    pub(super) fn begin(&mut self) -> Result<()> {
        if self.begun {
            return Ok(());
        }
        self.structures.put_in_order(&*self.file, self.content_changes)?;
        self.begun = true;
        // The last block of the file may have been cut short; from now on blocks are
        // copied as a whole. And a file of whole MiB is the only one of which the log can
        // tell the length.
        let end = self.end_of_data();
        let len = end.max(self.file.len()).next_multiple_of(MIB);
        if len > self.file.len() {
            self.file.set_len(len)?;
            self.file.flush()?;
        }
        self.reached = end;
        // A place must be in the table but once, even where it means nothing.
        let idle: Vec<(Owner, Entry)> = self
            .structures
            .bat
            .entries()
            .filter(|(_, owner, entry)| match owner {
                Owner::Block(_) => {
                    matches!(entry.state(), Some(State::NotPresent | State::Zero))
                }
                Owner::Bitmap(_) => entry.raw_state() == BITMAP_NOT_PRESENT,
            })
            .filter(|(.., entry)| entry.offset_mib() != 0)
            .map(|(_, owner, entry)| (owner, entry.at(0)))
            .collect();
        self.set_entries(&idle)?;
        // Nothing else may come that needs it: of a fixed image no table changes.
        self.close_log()
    }

    /// Fails if a bitmap is to go that a block needs which stays.
    pub(super) fn check_bitmaps_idle(&self, pieces: &[Release]) -> Result<()> {
        let mut gone: Vec<u32> =
            pieces.iter().filter_map(|piece| piece.block()).collect();
        gone.sort_unstable();
        let mut needed: Vec<u32> = self
            .structures
            .bat
            .partial()
            .into_iter()
            .filter(|block| gone.binary_search(block).is_err())
            .map(|block| self.structures.bat.chunk(block))
            .collect();
        needed.dedup();
        for piece in pieces {
            if let Release::Bitmap(chunk) = piece
                && needed.binary_search(chunk).is_ok()
            {
                let what =
                    format!("a block needs the sector bitmap {chunk}, which is to go");
                return Err(Error::new(Kind::Unexpected, what));
            }
        }
        Ok(())
    }

    pub(super) fn release_pieces(&mut self, pieces: &[Release]) -> Result<()> {
        self.begin()?;
        let (mut blocks, mut bitmaps) = (Vec::new(), Vec::new());
        for piece in pieces {
            match *piece {
                Release::Block(block) => {
                    let entry = self.without_place(block, self.is_differencing());
                    blocks.push((Owner::Block(block), entry));
                }
                Release::ToZeros(block) => {
                    let entry = self.without_place(block, false);
                    blocks.push((Owner::Block(block), entry));
                }
                Release::Bitmap(chunk) => {
                    bitmaps.push((Owner::Bitmap(chunk), Entry::NOT_PRESENT));
                }
            }
        }
        self.set_entries(&blocks)?;
        // Only now, for a partially present block without its bitmap is damage.
        self.set_entries(&bitmaps)
    }

    /// What the entry of a block becomes that loses its place, and shows its parent's
    /// data if `to_parent`.
    fn without_place(&self, block: u32, to_parent: bool) -> Entry {
        match self.structures.bat.entry(block).state() {
            // What the guest gave up stays so, for backup software asks. It hides the
            // parent, too.
            Some(State::Unmapped) => Entry::UNMAPPED,
            Some(State::Fully | State::Partially) if to_parent => Entry::NOT_PRESENT,
            // Never "not present" without a parent, which promises nothing.
            _ => Entry::ZERO,
        }
    }

    pub(super) fn relocate_pieces(&mut self, moves: &[Move]) -> Result<()> {
        self.begin()?;
        let changes = self.changes_of(moves)?;
        let (_, transfers): (Vec<_>, Vec<_>) = changes.iter().copied().unzip();
        self.file.copy_all(&transfers)?;
        self.file.flush()?;
        let entries: Vec<_> = changes.into_iter().map(|(entry, _)| entry).collect();
        self.set_entries(&entries)
    }

    /// For each move the entry that it leads to, and what is copied.
    pub(super) fn changes_of(
        &self,
        moves: &[Move],
    ) -> Result<Vec<((Owner, Entry), Transfer)>> {
        let mut changes = Vec::with_capacity(moves.len());
        for Move { piece, to } in moves {
            let bat = &self.structures.bat;
            let (owner, entry, has_place, len) = match *piece {
                Piece::Block(block) => {
                    let entry = bat.entry(block);
                    (Owner::Block(block), entry, entry.has_place(), self.block_size())
                }
                Piece::Bitmap(chunk) => {
                    let entry = bat.bitmap(chunk);
                    let is_there = entry.raw_state() == BITMAP_PRESENT;
                    (Owner::Bitmap(chunk), entry, is_there, MIB)
                }
            };
            if !has_place {
                let what = format!("{piece:?} has no place in the file");
                return Err(Error::new(Kind::Unexpected, what));
            }
            let transfer = Transfer { from: entry.place(), to: *to, len };
            changes.push(((owner, entry.at(*to)), transfer));
        }
        Ok(changes)
    }

    /// Calls the log empty, for all that was logged has reached its place.
    pub(super) fn close_log(&mut self) -> Result<()> {
        if self.log.take().is_some() {
            self.structures
                .headers
                .update(&*self.file, |header| header.log_guid = NO_GUID)?;
        }
        Ok(())
    }

    pub(super) fn cut(&mut self) -> Result<()> {
        let Some(layout) = self.layout() else { return Ok(()) };
        let len = layout.file_len_after(layout.end_of_data());
        let shorter = len < self.seen().len();
        if shorter {
            self.begin()?;
        }
        self.close_log()?;
        if shorter && len < self.file.len() {
            self.file.set_len(len)?;
            self.file.flush()?;
        }
        Ok(())
    }
}
