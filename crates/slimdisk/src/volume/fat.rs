//! FAT12, FAT16 and FAT32: free clusters are those whose entry in the file
//! allocation table is 0.
//!
//! ```text
//! boot sector | reserved | FAT | FAT (copy) | root directory (FAT12/16) | clusters
//! ```
//!
//! FAT has no checksums. What speaks for a table is that the volume was closed
//! (state byte, flags in the table's second entry), that the copies are alike, that
//! no entry leads out of the volume, and that the root directory fits what the table
//! and the boot sector say ([`root_directory`]). FAT12 has the state byte alone.
//!
//! FAT32's count of free clusters (`FSInfo`) is a hint that may be wrong on a sound
//! volume (FAT specification, "FAT32 `FSInfo` Sector Structure"): nothing follows
//! from it, so it is not read.
//!
//! Sources: Microsoft, FAT specification 1.03; Linux and Windows NT where they do
//! otherwise.

#![forbid(unsafe_code)]

mod allocation_table;
mod boot;
mod on_disk;
mod root_directory;

use self::boot::Volume;
use self::root_directory::RootDirectory;
use super::{Allowances, FileSystem, Findings, FreeSink, check_length};
use crate::error::{Error, Result};
use crate::storage::ReadAt;

/// What to do about damage and about volumes that were not closed; Linux does not
/// clear the mark of the latter by mounting it.
const RUN_CHKDSK: &str = "run chkdsk /f on the volume in Windows or fsck.fat -a in Linux";

/// The reader of FAT12, FAT16 and FAT32.
pub(super) struct Fat;

impl FileSystem for Fat {
    fn name(&self) -> &'static str {
        "fat"
    }

    fn probe(&self, volume: &dyn ReadAt) -> Result<bool> {
        boot::looks_like_fat(volume)
    }

    fn read_free_map(
        &self,
        volume: &dyn ReadAt,
        _: &Allowances,
        findings: &mut Findings,
        free: &mut FreeSink<'_>,
    ) -> Result<()> {
        let fat = Volume::read(volume)?;
        findings.filesystem = fat.width.name().into();
        findings.label.clone_from(&fat.label);
        findings.unit = fat.heap.cluster_size;
        findings.length = fat.length.min(volume.len());
        check_length(fat.length, volume)?;
        fat.check_state().inspect_err(|_| {
            // A sleeping Windows counts for other volumes, too.
            findings.hibernated =
                RootDirectory::read(volume, &fat).is_ok_and(|root| root.hibernated);
        })?;
        fat.compare_backup(volume)?;
        fat.check_head(volume)?;
        let root = RootDirectory::read(volume, &fat)?;
        if root.label.is_some() {
            findings.label = root.label;
        }
        if root.hibernated {
            findings.hibernated = true;
            return Err(Error::invalid(
                "the volume belongs to a hibernated Windows (hiberfil.sys): start Windows and \
                 shut it down fully",
            ));
        }
        let occupied = [
            ("the root directory", root.own),
            ("a file of the root directory", root.first_clusters),
        ];
        findings.free_bytes = fat.free_clusters(volume, &occupied, free)?;
        Ok(())
    }
}
