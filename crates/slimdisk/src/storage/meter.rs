//! Counting what a storage is asked to do.

#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Copied, ReadAt, Storage, Transfer};
use crate::error::Result;

/// What was read, written and flushed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct IoCounts {
    /// Bytes read, those read to be copied included.
    pub bytes_read: u64,
    /// Bytes written, those of copies included.
    pub bytes_written: u64,
    /// Bytes that the host's file system shared instead of copying.
    pub bytes_cloned: u64,
    /// Flushes to the medium.
    pub flushes: u64,
}

/// A storage that counts what passes through it.
pub struct Meter<S> {
    inner: S,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    bytes_cloned: AtomicU64,
    flushes: AtomicU64,
}

impl<S> Meter<S> {
    /// Counts from zero on.
    pub fn new(inner: S) -> Self {
        Meter {
            inner,
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            bytes_cloned: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
        }
    }

    /// The storage beneath.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// The counts up to now.
    pub fn counts(&self) -> IoCounts {
        IoCounts {
            bytes_read: self.bytes_read.load(Relaxed),
            bytes_written: self.bytes_written.load(Relaxed),
            bytes_cloned: self.bytes_cloned.load(Relaxed),
            flushes: self.flushes.load(Relaxed),
        }
    }

    fn count_copies(&self, len: u64, copied: Copied) {
        self.bytes_cloned.fetch_add(copied.cloned, Relaxed);
        self.bytes_read.fetch_add(len - copied.cloned, Relaxed);
        self.bytes_written.fetch_add(len - copied.cloned - copied.holes, Relaxed);
    }
}

impl<S: ReadAt> ReadAt for Meter<S> {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.bytes_read.fetch_add(buf.len() as u64, Relaxed);
        self.inner.read_at(offset, buf)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        self.inner.next_data(offset)
    }

    fn will_read(&self, ranges: &[Range<u64>]) {
        self.inner.will_read(ranges);
    }
}

impl<S: Storage> Storage for Meter<S> {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.bytes_written.fetch_add(data.len() as u64, Relaxed);
        self.inner.write_at(offset, data)
    }

    fn flush(&self) -> Result<()> {
        self.flushes.fetch_add(1, Relaxed);
        self.inner.flush()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.inner.set_len(len)
    }

    fn reserve(&self, range: Range<u64>) -> Result<()> {
        self.inner.reserve(range)
    }

    fn give_back(&self) -> Result<()> {
        self.inner.give_back()
    }

    fn copy_within(&self, from: u64, to: u64, len: u64) -> Result<Copied> {
        let copied = self.inner.copy_within(from, to, len)?;
        self.count_copies(len, copied);
        Ok(copied)
    }

    fn copy_all(&self, transfers: &[Transfer]) -> Result<Copied> {
        let copied = self.inner.copy_all(transfers)?;
        self.count_copies(transfers.iter().map(|transfer| transfer.len).sum(), copied);
        Ok(copied)
    }

    fn will_copy(&self, transfers: &[Transfer]) {
        self.inner.will_copy(transfers);
    }

    fn clone_unit(&self) -> Option<u64> {
        self.inner.clone_unit()
    }

    fn hole_size(&self) -> Result<u64> {
        self.inner.hole_size()
    }

    fn begin_punching(&self) -> Result<()> {
        self.inner.begin_punching()
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.inner.punch(range)
    }

    fn still_exclusive(&self) -> Result<()> {
        self.inner.still_exclusive()
    }
}
