//! The host file.

#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Copied, ReadAt, Storage, past_the_end, platform};
use crate::error::{Error, Result};

/// A file of the host, opened by name.
pub struct HostFile {
    file: File,
    len: AtomicU64,
}

/// What keeps others out of a file opened for writing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exclusion {}

impl HostFile {
    /// Opens `path` for reading only.
    pub fn open_read(path: &Path) -> Result<Self> {
        Self::from_file(File::open(path), path)
    }

    /// Opens `path` for writing, to the exclusion of everybody else.
    pub fn open_exclusive(path: &Path) -> Result<Self> {
        Self::from_file(OpenOptions::new().read(true).write(true).open(path), path)
    }

    /// temp
    pub fn host_bytes(&self) -> u64 {
        0
    }
    /// temp
    pub fn times(&self) -> Result<()> {
        Ok(())
    }
    /// temp
    pub fn restore_times(&self, _: &()) -> Result<()> {
        Ok(())
    }
    /// temp
    pub fn exclusion(&self) -> Exclusion {
        Exclusion {}
    }
    fn from_file(file: std::io::Result<File>, path: &Path) -> Result<Self> {
        let found = file.and_then(|file| {
            let len = AtomicU64::new(file.metadata()?.len());
            Ok(HostFile { file, len })
        });
        found.map_err(|e| Error::io("cannot open the file", e).in_file(path))
    }
}

impl ReadAt for HostFile {
    fn len(&self) -> u64 {
        self.len.load(Relaxed)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match offset.checked_add(buf.len() as u64) {
            Some(end) if end <= self.len() => platform::read_at(&self.file, offset, buf)
                .map_err(|e| Error::io("cannot read", e).at(offset)),
            _ => Err(past_the_end(offset, buf.len(), self.len())),
        }
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        Ok(Some(offset..self.len()).filter(|range| range.start < range.end))
    }
}

impl Storage for HostFile {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        platform::write_at(&self.file, offset, data)
            .map_err(|e| Error::io("cannot write", e).at(offset))?;
        self.len.fetch_max(offset + data.len() as u64, Relaxed);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io("cannot flush", e))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len).map_err(|e| Error::io("cannot change the length", e))?;
        self.len.store(len, Relaxed);
        Ok(())
    }

    fn copy_within(&self, from: u64, to: u64, len: u64) -> Result<Copied> {
        let mut buf = vec![0; usize::try_from(len).unwrap_or(1 << 20).min(1 << 20)];
        let mut done = 0;
        while done < len {
            let n = usize::try_from(len - done).unwrap_or(buf.len()).min(buf.len());
            let (part, _) = buf.split_at_mut(n);
            self.read_at(from + done, part)?;
            self.write_at(to + done, part)?;
            done += n as u64;
        }
        Ok(Copied { cloned: 0 })
    }
}

impl Exclusion {
    /// temp
    pub fn missing(&self) -> Vec<String> {
        Vec::new()
    }
}
