//! `hiberfil.sys`: whether a sleeping Windows holds a newer state of the volume.
//!
//! Source: ntfs-3g `volume.c`, `ntfs_volume_check_hiberfile`.

use super::file::{Content, File};
use super::index;
use super::layout::{ATTRIBUTE_COMPRESSED, ATTRIBUTE_ENCRYPTED, DATA};
use super::mft::Mft;
use crate::error::{Error, Result};

/// The part of the file that Windows itself needs; less means that it belongs to
/// a system on another volume.
const HEADER: u64 = 4096;

/// Why the volume cannot be trusted because of `hiberfil.sys` in its root
/// directory; `None` if there is none, or Windows has resumed from it.
pub(super) fn sleeping(mft: &Mft<'_>, root: &File) -> Result<Option<String>> {
    let entries =
        index::search(mft.disk, root, &|name| index::compare(name, "HIBERFIL.SYS"))?;
    // Two of them differ in case; more than that is damage, and costs time.
    if entries.len() > 2 {
        return Err(Error::invalid("the root directory has hiberfil.sys several times"));
    }
    for entry in entries {
        let file = mft.file(entry.file)?;
        let mut head = [0; 4];
        let data = file.stream(DATA, b"");
        if data.is_some_and(|data| {
            data.flags & (ATTRIBUTE_COMPRESSED | ATTRIBUTE_ENCRYPTED) != 0
        }) {
            return Ok(Some(
                "NTFS volume has a compressed or encrypted hiberfil.sys, which cannot be \
                 judged: delete it in Windows (powercfg /h off)"
                    .into(),
            ));
        }
        let size = match data.map(|data| &data.content) {
            Some(Content::NonResident(clusters)) => {
                if clusters.size >= HEADER {
                    mft.disk.read_value(clusters, 0, &mut head)?;
                }
                clusters.size
            }
            Some(Content::Resident(value)) => value.len() as u64,
            None => 0,
        };
        if size < HEADER {
            return Ok(Some(format!(
                "NTFS volume belongs to a hibernated Windows (hiberfil.sys of {size} \
                 bytes): start Windows and shut it down fully"
            )));
        }
        // "rstr" is a resume that did not finish, "link" a state kept elsewhere.
        if matches!(
            &head.map(|byte| byte.to_ascii_lowercase()),
            b"hibr" | b"rstr" | b"link"
        ) {
            return Ok(Some(
                "NTFS volume is hibernated: start Windows and shut it down fully \
                 (shutdown /s /t 0; fast startup hibernates too)"
                    .into(),
            ));
        }
    }
    Ok(None)
}
