//! When the host file was changed and read.

use std::fs::FileTimes;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use super::HostFile;
use crate::error::Result;

/// The times of a file, to be given back to it.
#[derive(Debug, Clone, Copy)]
pub struct Times(FileTimes);

impl HostFile {
    /// When the file was last changed, where the system tells.
    #[must_use]
    pub fn modified(&self) -> Option<SystemTime> {
        self.file.metadata().and_then(|metadata| metadata.modified()).ok()
    }

    /// When the file was last changed and read.
    ///
    /// Differencing images and backup catalogues refer to the time of the last
    /// change; compacting changes nothing they mean.
    pub fn times(&self) -> Result<Times> {
        let times = self.file.metadata().and_then(|metadata| {
            let times = FileTimes::new().set_modified(metadata.modified()?);
            Ok(match metadata.accessed() {
                Ok(accessed) => times.set_accessed(accessed),
                Err(_) => times,
            })
        });
        times.map(Times).map_err(|e| self.error("cannot ask for the file's times", e))
    }

    /// Gives the file back the times it had; durable after the next flush.
    ///
    /// # Errors
    ///
    /// [`AccessDenied`](crate::Kind::AccessDenied) if the file is somebody else's: writing to a file
    /// does not include a say in its times.
    pub fn restore_times(&self, times: Times) -> Result<()> {
        self.metadata_changed.store(true, Relaxed);
        self.file
            .set_times(times.0)
            .map_err(|e| self.error("cannot restore the file's times", e))
    }

    /// Makes now the time of the last change.
    pub fn touch(&self) -> Result<()> {
        self.metadata_changed.store(true, Relaxed);
        self.file
            .set_modified(SystemTime::now())
            .map_err(|e| self.error("cannot set the file's time", e))
    }
}
