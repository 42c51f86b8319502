//! Volume Shadow Copies: old data that lies in clusters `$Bitmap` calls free.
//!
//! The driver copies a cluster away when it is overwritten for the first time
//! after a snapshot. What was freed since and not overwritten yet therefore still
//! belongs to the snapshot. Source: the libvshadow format documentation.

use std::cmp::Ordering;

use super::file::File;
use super::index;
use super::layout::{ShadowHeader, parse};
use super::mft::Mft;
use crate::error::Result;

/// Where the volume header of the shadow copies lies, in `$Boot`.
const HEADER_AT: u64 = 0x1E00;

/// 3808876b-c176-4e48-b7ae-04046e6cc752 as it lies on disk.
const IDENTIFIER: [u8; 16] = [
    0x6B, 0x87, 0x08, 0x38, 0x76, 0xC1, 0x48, 0x4E, //
    0xB7, 0xAE, 0x04, 0x04, 0x6E, 0x6C, 0xC7, 0x52,
];

/// The same in the names of the files that hold the copies.
const IN_FILE_NAMES: &str = "{3808876b-c176-4e48-b7ae-04046e6cc752}";

/// Why the volume cannot be trusted because it has shadow copies; `None` if it
/// has none.
pub(super) fn present(mft: &Mft<'_>, root: &File) -> Result<Option<String>> {
    let mut sector = [0; 512];
    mft.disk.read(HEADER_AT, &mut sector)?;
    let header: Option<ShadowHeader> = parse(&sector, 0);
    let named = header.is_some_and(|header| {
        header.identifier == IDENTIFIER && header.catalog_offset.get() != 0
    });
    if named || has_files(mft, root)? {
        return Ok(Some(
            "NTFS volume has shadow copies, whose data lies in free space: delete them \
             in Windows (vssadmin delete shadows), or give them up with \
             --discard-shadow-copies"
                .into(),
        ));
    }
    Ok(None)
}

/// Whether `System Volume Information` holds the files of shadow copies.
fn has_files(mft: &Mft<'_>, root: &File) -> Result<bool> {
    let folders = index::search(mft.disk, root, &|name| {
        index::compare(name, "SYSTEM VOLUME INFORMATION")
    })?;
    for folder in folders {
        let folder = mft.file(folder.file)?;
        let files = index::search(mft.disk, &folder, &|_| Ordering::Equal)?;
        if files.iter().any(|file| file.name.to_lowercase().contains(IN_FILE_NAMES)) {
            return Ok(true);
        }
    }
    Ok(false)
}
