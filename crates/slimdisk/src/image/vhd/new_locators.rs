//! The names that a new differencing image has for its parent, the way
//! [`parent_locator`](super::parent_locator) reads them.
//!
//! Source: Virtual Hard Disk Image Format Specification 1.0, "Dynamic Disk Header
//! Format". As Windows writes them: little-endian text without a zero at its end, and
//! the room for it counted in bytes.

use super::ALIGNMENT;
use crate::error::Result;
use crate::image::NewParent;
use crate::image::parent::written::{absolute_text, file_url, relative_text, text};

/// One name as it will lie in the file.
pub struct NewLocator {
    pub code: [u8; 4],
    pub data: Vec<u8>,
    /// Where it lies, in bytes.
    pub offset: u64,
    /// The room that is kept for it, in bytes: another name can be put there.
    pub room: u64,
}

/// What the names take, laid out from `start` on.
pub fn locators(parent: &NewParent, start: u64) -> Result<Vec<NewLocator>> {
    let mut names = Vec::new();
    if let Some(relative) = &parent.relative {
        names.push((*b"W2ru", utf16_le(&relative_text(relative)?)));
    }
    names.push((*b"W2ku", utf16_le(&absolute_text(&parent.absolute)?)));
    // A path of this system that is none of Windows'.
    if cfg!(unix) {
        names.push((*b"MacX", file_url(text(&parent.absolute)?).into_bytes()));
    }
    let mut offset = start;
    Ok(names
        .into_iter()
        .map(|(code, data)| {
            let room = (data.len() as u64).next_multiple_of(ALIGNMENT).max(ALIGNMENT);
            let locator = NewLocator { code, data, offset, room };
            offset += room;
            locator
        })
        .collect())
}

/// The parent's bare name, for the header: up to 256 units, zeros behind it.
pub fn header_name(parent: &NewParent) -> Result<Vec<u16>> {
    let name = parent.absolute.file_name().unwrap_or_default();
    // One that is too long is found by the locators.
    Ok(text(name.as_ref())?.encode_utf16().take(255).collect())
}

fn utf16_le(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn parent(absolute: &str, relative: &str) -> NewParent {
        NewParent {
            id: [1; 16],
            disk_id: None,
            modified: None,
            absolute: absolute.into(),
            relative: Some(relative.into()),
        }
    }

    #[test]
    fn each_name_has_a_page_of_room_or_more() {
        let long = format!("/{}/base.vhd", ["abcdefgh"; 300].join("/"));
        let found = locators(&parent(&long, "base.vhd"), 4096).unwrap();
        let places: Vec<_> = found.iter().map(|l| (l.offset, l.room)).collect();
        assert_eq!(places, [(4096, 4096), (8192, 8192), (16384, 4096)]);
        assert_eq!(found[0].data, b".\0\\\0b\0a\0s\0e\0.\0v\0h\0d\0");
    }

    #[test]
    fn names_that_cannot_be_noted_are_refused() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let kind = |parent: &NewParent| locators(parent, 0).err().map(|e| e.kind());
        assert_eq!(kind(&parent("/a", "a\\b")), Some(Kind::InvalidName));
        assert_eq!(kind(&parent("/c\\a", "a")), Some(Kind::InvalidName));
        let odd = OsStr::from_bytes(b"/b\xE4se");
        let odd = NewParent { absolute: odd.into(), ..parent("/", "a") };
        assert_eq!(kind(&odd), Some(Kind::InvalidName));
    }
}
