//! Writing to the log.
//!
//! Each entry is a sequence of its own: the one before it has reached its place, and has
//! been flushed, when it is written. It never overwrites the one before it, so that at
//! each moment one of the two is whole. Replaying an entry that has reached its place
//! already changes nothing, for what it holds is changed by the next one alone.

use std::borrow::Cow;

use zerocopy::{FromZeros, IntoBytes};

use super::{Ring, seal};
use crate::error::Result;
use crate::image::vhdx::raw::{
    DATA_DESCRIPTOR_SIGNATURE, DATA_SECTOR_SIGNATURE, Guid, LOG_ENTRY_SIGNATURE,
    LogDataSector, LogDescriptor, LogEntryHeader, MIB, PAGE,
};
use crate::storage::Storage;

/// Pages to an entry: with its descriptors it takes up less than a third of the smallest
/// log, so that neither of two entries in a row needs the room of the other.
pub const MOST_PAGES: usize = 64;

/// The log of one session.
pub struct LogWriter {
    pub guid: Guid,
    ring: Ring,
    /// Where in the ring the next entry begins.
    next: u64,
    number: u64,
}

impl LogWriter {
    pub fn new(ring: Ring, guid: Guid) -> Self {
        LogWriter { guid, ring, next: 0, number: 0 }
    }

    /// Writes an entry with these pages, each with its place in the file, whose
    /// structures end at `last` or before; its length must be whole MiB and durable.
    /// Durable when it returns.
    pub fn write(
        &mut self,
        file: &dyn Storage,
        pages: &[(u64, Cow<'_, [u8]>)],
        last: u64,
    ) -> Result<()> {
        self.number += 1;
        let len = (1 + pages.len() as u64) * PAGE;
        if self.next + len > self.ring.len {
            self.next = 0;
        }
        let entry = self.entry(pages, len, file.len(), last);
        file.write_at(self.ring.offset + self.next, &entry)?;
        file.flush()?;
        self.next += len;
        Ok(())
    }

    fn entry(
        &self,
        pages: &[(u64, Cow<'_, [u8]>)],
        len: u64,
        file_len: u64,
        last: u64,
    ) -> Vec<u8> {
        let number = self.number;
        let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let mut entry = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
        let header = LogEntryHeader {
            signature: LOG_ENTRY_SIGNATURE,
            checksum: 0.into(),
            entry_length: small(len).into(),
            tail: small(self.next).into(),
            sequence_number: number.into(),
            descriptor_count: small(pages.len() as u64).into(),
            reserved: 0.into(),
            log_guid: self.guid,
            // What the file has, no less; and no more, for a shorter one is refused by
            // whoever replays the log.
            flushed_file_offset: (file_len / MIB * MIB).into(),
            last_file_offset: last.next_multiple_of(MIB).into(),
        };
        entry.extend_from_slice(header.as_bytes());
        for (at, page) in pages {
            let leading = page.first_chunk::<8>().copied().unwrap_or_default();
            let trailing = page.last_chunk::<4>().copied().unwrap_or_default();
            let descriptor = LogDescriptor {
                signature: DATA_DESCRIPTOR_SIGNATURE,
                trailing_bytes: trailing,
                leading_bytes: leading,
                file_offset: (*at).into(),
                sequence_number: number.into(),
            };
            entry.extend_from_slice(descriptor.as_bytes());
        }
        entry.resize(4096, 0);
        for (_, page) in pages {
            let mut sector = LogDataSector::new_zeroed();
            sector.signature = DATA_SECTOR_SIGNATURE;
            sector.sequence_high.set(small(number >> 32));
            sector.sequence_low.set(small(number & u64::from(u32::MAX)));
            for (to, from) in sector.data.iter_mut().zip(page.iter().skip(8)) {
                *to = *from;
            }
            entry.extend_from_slice(sector.as_bytes());
        }
        seal(&mut entry);
        entry
    }
}
