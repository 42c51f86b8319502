//! Room for the host file, set aside before it is written.

use std::io::{self, ErrorKind};

use super::{HostFile, platform};
use crate::error::{Error, Kind, Result};
use crate::storage::ReadAt;
use crate::storage::new_file::no_room;

impl HostFile {
    /// Fails if the file system has no files of `len` bytes, whatever room it has.
    pub(in crate::storage) fn allow(&self, len: u64) -> Result<()> {
        let before = self.len();
        // To ask costs nothing but on FAT, where small files can be told without asking.
        if len > before && len > u64::from(u32::MAX) {
            platform::try_len(&self.file, before, len)
                .map_err(|e| self.cannot_reserve(e))?;
        }
        Ok(())
    }

    fn cannot_reserve(&self, e: io::Error) -> Error {
        match e.kind() {
            ErrorKind::FileTooLarge => {
                let what = "the file would be larger than its file system allows";
                Error::new(Kind::FileTooLarge, what).with_source(e).in_file(&self.path)
            }
            _ => self.error("cannot set room aside for the file", e),
        }
    }

    /// Sets room aside up to `len`, the file's length from then on. `room` is what the
    /// file system has free, if it tells.
    pub(in crate::storage) fn reserve_up_to(
        &self,
        len: u64,
        room: Option<u64>,
    ) -> Result<()> {
        let before = self.len();
        if len <= before {
            return Ok(());
        }
        if i64::try_from(len).is_err() {
            return Err(self.cannot_reserve(ErrorKind::FileTooLarge.into()));
        }
        if len > self.size_limit {
            let what = "the file would pass the size that this process may write \
                        (ulimit -f)";
            return Err(Error::new(Kind::FileTooLarge, what).in_file(&self.path));
        }
        let needed = len.saturating_sub(self.host_bytes()?);
        if let Some(room) = room
            && room < needed
        {
            // No room that is made helps a file that is too large.
            self.allow(len)?;
            return Err(no_room(needed, room).in_file(&self.path));
        }
        let _alone = self.end.write();
        match platform::reserve(&self.file, 0, len) {
            Err(e) if e.kind() != ErrorKind::Unsupported => {
                return Err(self.cannot_reserve(e));
            }
            _ => self.file.set_len(len).map_err(|e| self.cannot_reserve(e))?,
        }
        self.written_up_to(len);
        Ok(())
    }
}
