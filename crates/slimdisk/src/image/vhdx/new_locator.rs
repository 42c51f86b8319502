//! The parent locator of a new differencing image, the way
//! [`parent_locator`](super::parent_locator) reads it.
//!
//! Source: [MS-VHDX] 2.6.2.6; the keys and their order as Windows writes them. It notes
//! a path through the volume's identifier, too, which is known to Windows alone: who
//! has no such path goes by the others.

use super::parent_locator::{Pair, encode, guid_text};
use crate::error::{Error, Kind, Result};
use crate::image::NewParent;
use crate::image::parent::written::{absolute_text, relative_text};

/// The item.
pub fn locator(parent: &NewParent) -> Result<Vec<u8>> {
    let mut pairs = vec![
        ("parent_linkage", guid_text(&parent.id)),
        ("absolute_win32_path", absolute_text(&parent.absolute)?),
    ];
    if let Some(relative) = &parent.relative {
        pairs.push(("relative_path", relative_text(relative)?));
    }
    // Room for the one that is noted while the child is merged into its parent.
    pairs.push(("parent_linkage2", guid_text(&[0; 16])));
    let utf16 = |text: &str| text.encode_utf16().collect();
    let pairs: Vec<Pair> =
        pairs.iter().map(|(key, value)| (utf16(key), utf16(value))).collect();
    encode(&pairs).ok_or_else(|| {
        let what = "the parent's path is longer than a child can note: move it";
        Error::new(Kind::InvalidName, what).in_file(&parent.absolute)
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::super::parent_locator::Locator;
    use super::super::rules::Findings;
    use super::*;

    fn parent(absolute: &str) -> NewParent {
        NewParent {
            id: *b"0123456789abcdef",
            disk_id: None,
            modified: None,
            absolute: absolute.into(),
            relative: Some("../b\u{e4}se.vhdx".into()),
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let item = locator(&parent("/d/b\u{e4}se.vhdx")).unwrap();
        let mut findings = Findings::new();
        let found = Locator::read(&item, &(0..item.len() as u64), &mut findings);
        let found = found.unwrap().unwrap();
        assert_eq!(findings, []);
        assert_eq!((found.linkage, found.linkage_2), (*b"0123456789abcdef", None));
        let names: Vec<_> = found.names.iter().map(|name| name.text.as_str()).collect();
        assert_eq!(names, ["..\\b\u{e4}se.vhdx", "\\d\\b\u{e4}se.vhdx"]);
        assert!(found.notes.is_empty());
    }

    #[test]
    fn paths_that_cannot_be_noted_are_refused() {
        let kind = |absolute: &str| locator(&parent(absolute)).err().map(|e| e.kind());
        assert_eq!(kind("/a\\b"), Some(Kind::InvalidName));
        assert_eq!(kind(&format!("/{}", "x".repeat(40_000))), Some(Kind::InvalidName));
        assert_eq!(kind(&format!("/{}", "x".repeat(30_000))), None);
    }
}
