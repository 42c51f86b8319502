//! Changes of what the log must protect: entries of the block allocation table, sector
//! bitmaps, the metadata.

use std::borrow::Cow;

use super::VhdxDisk;
use crate::error::Result;
use crate::image::vhdx::bat::{BITMAP_PRESENT, Entry, Owner};
use crate::image::vhdx::log::writer::{LogWriter, MOST_PAGES};
use crate::image::vhdx::new_guid;
use crate::image::vhdx::raw::{LOG_VERSION, MIB, PAGE};
use crate::storage::Storage;

impl VhdxDisk {
    /// Changes entries of the table. Durable when it returns; those of one page change
    /// in one go, others one after the other.
    pub(super) fn set_entries(&mut self, changes: &[(Owner, Entry)]) -> Result<()> {
        let mut pages: Vec<usize> = Vec::new();
        for (owner, entry) in changes {
            let (len, has_place) = match owner {
                Owner::Block(_) => (self.block_size(), entry.has_place()),
                Owner::Bitmap(_) => (MIB, entry.raw_state() == BITMAP_PRESENT),
            };
            if has_place {
                // What had a place elsewhere has it until this is through.
                self.reached = self.reached.max(entry.place().saturating_add(len));
            }
            pages.push(self.structures.bat.set(*owner, *entry));
        }
        pages.sort_unstable();
        pages.dedup();
        for batch in pages.chunks(MOST_PAGES) {
            let bat = &self.structures.bat;
            let pages: Vec<_> = batch.iter().map(|number| bat.page(*number)).collect();
            let pages: Vec<_> =
                pages.into_iter().map(|(at, page)| (at, page.to_vec().into())).collect();
            self.write_logged(&pages)?;
        }
        Ok(())
    }

    /// Writes pages of 4 KiB to the places in the file that stand before them, in
    /// ascending order and at most [`MOST_PAGES`]: all of them or none. Durable when it
    /// returns.
    pub(super) fn write_logged(&mut self, pages: &[(u64, Cow<'_, [u8]>)]) -> Result<()> {
        let last = self.reached;
        let first = self.log.is_none();
        let ring = self.structures.ring;
        let log = self.log.get_or_insert_with(|| LogWriter::new(ring, new_guid()));
        log.write(&*self.file, pages, last)?;
        if first {
            // Only now: a header that names a log without an entry in it makes the file
            // one that nobody may open. Till now the log was empty for every reader,
            // whatever was in it.
            let guid = log.guid;
            let headers = &mut self.structures.headers;
            headers.update(&*self.file, |header| {
                header.log_guid = guid;
                // The log that was there, empty, may have had another one.
                header.log_version.set(LOG_VERSION);
            })?;
        }
        for run in pages.chunk_by(|(a, _), (b, _)| a + PAGE == *b) {
            let Some((at, _)) = run.first() else { continue };
            let bytes: Vec<u8> =
                run.iter().flat_map(|(_, page)| &**page).copied().collect();
            self.file.write_at(*at, &bytes)?;
        }
        self.file.flush()
    }
}
