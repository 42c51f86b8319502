//! The new file while it is written: bytes that are copied, and blocks that are shared with
//! the source's file.

use std::ops::Range;
use std::sync::Arc;

use super::copy::{Sharing, Sink};
use crate::error::Result;
use crate::image::{Image, Writer};
use crate::storage::{HostFile, Meter, Storage};

/// How much of a block is read at once that could not be shared after all.
const PIECE: u64 = 1 << 20;

/// Where the disk goes.
pub struct Target<'a> {
    pub writer: Box<dyn Writer>,
    pub storage: Arc<Meter<Arc<HostFile>>>,
    /// The source's file, and its disk.
    pub source: &'a HostFile,
    pub disk: &'a dyn Image,
    pub sharing: Option<Sharing>,
    /// How many bytes were shared.
    pub shared: u64,
}

impl Sink for Target<'_> {
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.writer.write(offset, data).map_err(|e| self.named(e))
    }

    fn share(&mut self, block: Range<u64>) -> Result<()> {
        let len = block.end - block.start;
        let placed = self.writer.place(block.start, len);
        let to = placed.map_err(|e| self.named(e))?;
        if let Some(from) = self.sharing.and_then(|s| s.place(self.disk, &block))
            && self.storage.inner().share(self.source, from, to, len)?
        {
            self.shared += len;
            return Ok(());
        }
        let mut buf = vec![0; usize::try_from(len.min(PIECE)).unwrap_or(0)];
        let mut done = 0;
        while done < len {
            let size = usize::try_from((len - done).min(PIECE)).unwrap_or(0);
            let (piece, _) = buf.split_at_mut(size);
            self.disk.read_at(block.start + done, piece)?;
            let written = self.storage.write_at(to + done, piece);
            written.map_err(|e| self.named(e))?;
            done += size as u64;
        }
        Ok(())
    }
}

impl Target<'_> {
    /// The error with the new file's path, unless it has one.
    pub fn named(&self, error: crate::error::Error) -> crate::error::Error {
        match error.path() {
            Some(_) => error,
            None => error.in_file(self.storage.inner().path()),
        }
    }
}
