//! What a survey found to be free, range by range: the maps are asked once more.

use std::fmt;
use std::ops::Range;

use super::order::Order;
use crate::error::{Error, Kind, Result};
use crate::image::Image;
use crate::ranges::Ranges;
use crate::storage::{Mapped, Mapping, ReadAt};
use crate::volume::{Allowances, FileSystem};

/// The volumes whose maps were counted, and what else counts as free.
#[derive(Clone, Default)]
pub struct FreeSpace {
    /// Whose maps were counted, and where their bytes lie.
    pub trusted: Vec<(&'static dyn FileSystem, Mapping)>,
    /// What was allowed when they were.
    pub allow: Allowances,
    /// Ranges of the disk in no volume that are to be given up.
    pub dropped: Ranges,
}

impl fmt::Debug for FreeSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.trusted.iter().map(|(system, _)| system.name());
        f.debug_list().entries(names).finish()
    }
}

impl FreeSpace {
    /// Sends to `sink` what the trusted volumes call free, as ranges of the disk: those of
    /// one volume after those of another, and of a logical volume in any order.
    ///
    /// # Errors
    ///
    /// [`Kind::Unexpected`] if a volume is not any more what it was when it was counted:
    /// nothing that was sent may be believed then.
    pub fn each(
        &self,
        disk: &dyn Image,
        sink: &mut dyn FnMut(Range<u64>) -> Result<()>,
    ) -> Result<()> {
        for (file_system, mapping) in &self.trusted {
            let volume = Mapped::new(disk, mapping);
            let mut failed = None;
            let mut order = Order::default();
            let findings = file_system.survey(&volume, &self.allow, &mut |found| {
                if !order.accepts(&found, volume.len()) {
                    return;
                }
                mapping.pieces(found, &mut |piece| {
                    if failed.is_none() {
                        failed = sink(piece).err();
                    }
                });
            })?;
            if let Some(error) = failed {
                return Err(error);
            }
            if findings.untrusted.is_some()
                || order.broken(&findings, volume.len()).is_some()
            {
                return Err(changed());
            }
        }
        Ok(())
    }
}

/// The error of a volume that is not what it was.
pub fn changed() -> Error {
    Error::new(Kind::Unexpected, "a volume changed its state while it was read")
}
