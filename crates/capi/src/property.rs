//! The codes that the properties of a disk document for an image that cannot be asked.

#![forbid(unsafe_code)]

use slimdisk::{Error, Kind};

use crate::abi::Failure;
use crate::hresult::{
    DISP_E_EXCEPTION, E_BAD_PATHNAME, E_FILE_NOT_FOUND, VM_E_HD_IMAGE_ACCESS,
    VM_E_HD_IMAGE_OPEN_FAIL, of_kind,
};

/// `SizeInGuest`, `Type`, `HostDriveIdentifier`: what is in the image.
pub fn of_image(error: &Error) -> Failure {
    let code = match error.kind() {
        Kind::NotFound | Kind::PathNotFound => E_FILE_NOT_FOUND,
        Kind::InUse | Kind::InvalidImage | Kind::AccessDenied => VM_E_HD_IMAGE_OPEN_FAIL,
        Kind::Io => VM_E_HD_IMAGE_ACCESS,
        kind => of_kind(kind),
    };
    Failure::with_code(code, error)
}

/// `Parent`: what the image says of its parent, and the parent.
pub fn of_parent(error: &Error) -> Failure {
    match error.kind() {
        Kind::ParentNotFound => Failure::with_code(E_FILE_NOT_FOUND, error),
        // A folder is told from a file where it can be.
        Kind::PathNotFound => Failure::with_code(of_kind(Kind::PathNotFound), error),
        _ => of_image(error),
    }
}

/// `SizeOnHost`: the file.
pub fn of_file(error: &Error) -> Failure {
    let code = match error.kind() {
        Kind::NotFound | Kind::PathNotFound => E_FILE_NOT_FOUND,
        _ => DISP_E_EXCEPTION,
    };
    Failure::with_code(code, error)
}

/// `HostFreeDiskSpace`: the folder.
pub fn of_volume(error: &Error) -> Failure {
    let code = match error.kind() {
        Kind::NotFound | Kind::PathNotFound => E_BAD_PATHNAME,
        _ => DISP_E_EXCEPTION,
    };
    Failure::with_code(code, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_property_has_its_own_codes() {
        let error = |kind| Error::new(kind, "what");
        for (kind, image, parent, file, volume) in [
            (Kind::NotFound, 0x8007_0002, 0x8007_0002, 0x8007_0002, 0x8007_00A1),
            (Kind::PathNotFound, 0x8007_0002, 0x8007_0003, 0x8007_0002, 0x8007_00A1),
            (Kind::ParentNotFound, 0xA004_0677, 0x8007_0002, 0x8002_0009, 0x8002_0009),
            (Kind::ParentMismatch, 0xA004_0685, 0xA004_0685, 0x8002_0009, 0x8002_0009),
            (Kind::InUse, 0xA004_067C, 0xA004_067C, 0x8002_0009, 0x8002_0009),
            (Kind::InvalidImage, 0xA004_067C, 0xA004_067C, 0x8002_0009, 0x8002_0009),
            (Kind::AccessDenied, 0xA004_067C, 0xA004_067C, 0x8002_0009, 0x8002_0009),
            (Kind::Io, 0xA004_0681, 0xA004_0681, 0x8002_0009, 0x8002_0009),
            (Kind::Unexpected, 0x8002_0009, 0x8002_0009, 0x8002_0009, 0x8002_0009_u32),
        ] {
            let codes = [of_image, of_parent, of_file, of_volume]
                .map(|code| code(&error(kind)).code.cast_unsigned());
            assert_eq!(codes, [image, parent, file, volume], "{kind:?}");
        }
    }
}
