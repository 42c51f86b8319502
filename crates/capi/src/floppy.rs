//! Floppy disk images: as many bytes as the medium has, and nothing else.
//!
//! Source: the Virtual Server 2005 reference, `VMFloppyDiskImageType` and
//! `IVMVirtualServer::CreateFloppyDiskImage`. Whether its images were formatted is not
//! documented; these are not: all zeros, for the guest to format.

#![forbid(unsafe_code)]

use std::io::ErrorKind;
use std::path::Path;

use slimdisk::host::Host;
use slimdisk::storage::NewFile;
use slimdisk::{Error, Kind};

use crate::abi::{Answer, Failure};
use crate::hresult::{E_INVALIDARG, S_OK};
use crate::virtual_server::check_new_file;

/// The length of an image by its `VMFloppyDiskImageType`; the other types exist for what
/// is attached, and were never made.
fn length(image_type: i32) -> Option<u64> {
    match image_type {
        // vmFloppyDiskImage_LowDensity: 80 cylinders, 2 heads, 9 sectors.
        1 => Some(80 * 2 * 9 * 512),
        // vmFloppyDiskImage_HighDensity: 18 sectors.
        2 => Some(80 * 2 * 18 * 512),
        _ => None,
    }
}

/// Makes the image, and the folder it is to lie in.
pub fn create(host: &Host, path: &Path, image_type: i32) -> Answer {
    let Some(length) = length(image_type) else {
        let what = format!(
            "floppy disk images of type {image_type} cannot be made, only low density (1) \
             and high density (2)"
        );
        return Err(Failure::new(E_INVALIDARG, what));
    };
    check_new_file(host, path)?;
    make(path, length).map_err(Failure::from)?;
    Ok(S_OK)
}

fn make(path: &Path, length: u64) -> slimdisk::Result<()> {
    let folder = path.parent().unwrap_or(path);
    let missing: Vec<_> =
        folder.ancestors().take_while(|folder| !folder.is_dir()).collect();
    let made = make_folder(folder).and_then(|()| {
        let file = NewFile::create(path)?;
        file.reserve(length)?;
        file.keep()
    });
    if made.is_err() {
        for folder in missing {
            // One that somebody uses by now stays.
            let _ = std::fs::remove_dir(folder);
        }
    }
    made
}

fn make_folder(folder: &Path) -> slimdisk::Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| {
        let what = "cannot make the folder of the new file";
        match e.kind() {
            ErrorKind::AlreadyExists | ErrorKind::NotADirectory | ErrorKind::NotFound => {
                Error::new(Kind::PathNotFound, what).with_source(e).in_file(folder)
            }
            _ => Error::io(what, e).in_file(folder),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_types_are_made() {
        assert_eq!(length(1), Some(720 << 10));
        assert_eq!(length(2), Some(1440 << 10));
        for other in [-1, 0, 3, 4, 5, 6, 7, i32::MIN, i32::MAX] {
            assert_eq!(length(other), None, "{other}");
        }
    }
}
