//! The parent locator of a differencing image: pairs of keys and values that say which
//! disk its parent is, and where it was.
//!
//! Source: [MS-VHDX] 2.6.2.6.

use std::ops::Range;

use zerocopy::{FromBytes, IntoBytes};

use super::raw::{LocatorEntry, LocatorHeader, VHDX_LOCATOR, in_text_order};
use super::rules::{Findings, error, is_sound, note};
use crate::error::Result;
use crate::image::parent::{ParentLink, ParentName, ParentNames, Style, id_text};
use crate::storage::ReadAt;

pub struct Locator {
    /// The parent's data write GUID, in the order of its text.
    pub linkage: [u8; 16],
    /// Another that will do: there while a child is merged into its parent.
    pub linkage_2: Option<[u8; 16]>,
    /// Where it may be, the first to try at the start.
    pub names: Vec<ParentName>,
    /// Pairs that nobody knows.
    pub notes: Vec<String>,
    /// All keys and values, as they are written.
    pub pairs: Vec<Pair>,
}

/// A key and a value, in UTF-16.
pub type Pair = (Vec<u16>, Vec<u16>);

/// The key of [`Locator::linkage`].
pub const LINKAGE: &str = "parent_linkage";
/// The key of [`Locator::linkage_2`].
pub const LINKAGE_2: &str = "parent_linkage2";

/// The paths in the order in which they are to be tried.
const PATHS: [(&str, &str); 3] = [
    ("relative_path", "relative path"),
    ("volume_path", "volume path"),
    ("absolute_win32_path", "absolute path"),
];

impl Locator {
    pub fn read(
        file: &dyn ReadAt,
        item: &Range<u64>,
        findings: &mut Findings,
    ) -> Result<Option<Self>> {
        // An item has at most 1 MiB, and is inside the file.
        let mut bytes = vec![0; usize::try_from(item.end - item.start).unwrap_or(0)];
        file.read_at(item.start, &mut bytes)?;
        Ok(Self::parse(&bytes, item.start, findings))
    }

    fn parse(bytes: &[u8], at: u64, findings: &mut Findings) -> Option<Self> {
        const NAME: &str = "parent locator";
        let Ok((header, table)) = LocatorHeader::read_from_prefix(bytes) else {
            let actual = format!("{} bytes", bytes.len());
            error(findings, NAME, at, "a header of 20 bytes", actual);
            return None;
        };
        if header.locator_type != VHDX_LOCATOR {
            let id = id_text(&in_text_order(&header.locator_type));
            let expected = "that of a VHDX, for no other kind of parent is known";
            error(findings, "parent locator type", at, expected, id);
            return None;
        }
        if header.reserved.get() != 0 {
            let name = "parent locator reserved bytes";
            note(findings, name, at + 16, "zeros", "other bytes");
        }
        let count = usize::from(header.key_value_count.get());
        let (entries, _) = table.as_chunks::<12>();
        if entries.len() < count {
            let expected = format!("room for {count} pairs");
            error(findings, NAME, at + 18, expected, format!("{} bytes", bytes.len()));
            return None;
        }
        let mut pairs: Vec<(String, String)> = Vec::new();
        let mut raw: Vec<Pair> = Vec::new();
        for (index, entry) in (0u64..).zip(entries.iter().take(count)) {
            let entry_at = at + 20 + 12 * index;
            let Ok(entry) = LocatorEntry::read_from_bytes(entry) else { continue };
            let key = units(bytes, entry.key_offset.get(), entry.key_length.get());
            let value = units(bytes, entry.value_offset.get(), entry.value_length.get());
            let (Some(raw_key), Some(raw_value)) = (key, value) else {
                let expected = "a key and a value inside the item, in whole characters";
                error(findings, NAME, entry_at, expected, "others");
                continue;
            };
            let (key, value) = (
                String::from_utf16_lossy(&raw_key),
                String::from_utf16_lossy(&raw_value),
            );
            raw.push((raw_key, raw_value));
            if key.contains('\0') || value.contains('\0') {
                note(findings, NAME, entry_at, "texts without a NUL in them", "one");
            }
            if pairs.iter().any(|(known, _)| *known == key) {
                error(
                    findings,
                    NAME,
                    entry_at,
                    "each key once",
                    format!("a second {key}"),
                );
            }
            pairs.push((key, value));
        }
        if !is_sound(findings) {
            return None;
        }
        let value = |wanted: &str| {
            pairs.iter().find(|(key, _)| key == wanted).map(|(_, value)| value)
        };
        let Some(linkage) = value(LINKAGE) else {
            error(findings, NAME, at, "a parent_linkage", "none");
            return None;
        };
        let second = value(LINKAGE_2);
        let (id, id_2) = (guid_of(linkage), second.map(|text| guid_of(text)));
        let (Some(id), None | Some(Some(_))) = (id, id_2) else {
            let (expected, actual) = ("identifiers in braces", format!("{linkage:?}"));
            error(findings, "parent locator parent_linkage", at, expected, actual);
            return None;
        };
        let mut names = Vec::new();
        for (key, origin) in PATHS {
            if let Some(path) = value(key) {
                let origin = format!("{origin} ({key})");
                names.push(ParentName::new(origin, path.as_str(), Style::Windows));
            }
        }
        if names.is_empty() {
            note(findings, NAME, at, "a path of the parent", "none");
        }
        let notes = pairs
            .iter()
            .filter(|(key, _)| {
                !key.starts_with("parent_linkage")
                    && PATHS.iter().all(|(known, _)| known != key)
            })
            .map(|(key, _)| format!("the parent locator's \"{key}\" is not read"))
            .collect();
        // Windows keeps room for one.
        let linkage_2 = id_2.flatten().filter(|id| *id != [0; 16]);
        Some(Locator { linkage: id, linkage_2, names, notes, pairs: raw })
    }

    /// What the pairs say of the parent.
    pub fn link(&self) -> ParentLink {
        let mut link = ParentLink::new(self.linkage, self.names.clone());
        link.or_id = self.linkage_2;
        link.notes.clone_from(&self.notes);
        link
    }

    /// The pairs with other values for some keys, or without them; keys that are new come
    /// last.
    pub fn with(&self, changes: &[(&str, Option<String>)]) -> Vec<Pair> {
        let mut pairs = self.pairs.clone();
        for (key, value) in changes {
            let key: Vec<u16> = key.encode_utf16().collect();
            let value: Option<Vec<u16>> =
                value.as_ref().map(|value| value.encode_utf16().collect());
            match (pairs.iter_mut().find(|(known, _)| *known == key), value) {
                (Some((_, old)), Some(value)) => *old = value,
                (None, Some(value)) => pairs.push((key, value)),
                (_, None) => pairs.retain(|(known, _)| *known != key),
            }
        }
        pairs
    }

    /// What a change of the parent's names does to the pairs.
    pub fn renamed(&self, names: &ParentNames) -> Vec<Pair> {
        self.with(&[
            ("relative_path", names.windows_relative()),
            // Of a volume's identifier nothing is known here.
            ("volume_path", None),
            ("absolute_win32_path", names.windows_absolute()),
        ])
    }
}

/// The item with these pairs; `None` if it has no room for so many or so long ones.
pub fn encode(pairs: &[Pair]) -> Option<Vec<u8>> {
    let texts_at = size_of::<LocatorHeader>() + size_of::<LocatorEntry>() * pairs.len();
    let header = LocatorHeader {
        locator_type: VHDX_LOCATOR,
        reserved: 0.into(),
        key_value_count: u16::try_from(pairs.len()).ok()?.into(),
    };
    let mut item = header.as_bytes().to_vec();
    let mut texts: Vec<u8> = Vec::new();
    let mut place = |text: &[u16]| {
        let offset = u32::try_from(texts_at + texts.len()).ok()?;
        texts.extend(text.iter().flat_map(|unit| unit.to_le_bytes()));
        Some((offset, u16::try_from(text.len() * 2).ok()?))
    };
    for (key, value) in pairs {
        let ((key_offset, key_length), (value_offset, value_length)) =
            (place(key)?, place(value)?);
        let entry = LocatorEntry {
            key_offset: key_offset.into(),
            value_offset: value_offset.into(),
            key_length: key_length.into(),
            value_length: value_length.into(),
        };
        item.extend_from_slice(entry.as_bytes());
    }
    item.append(&mut texts);
    Some(item)
}

/// An identifier, its bytes in the order of the text, as it stands in the item.
pub fn guid_text(id: &[u8; 16]) -> String {
    format!("{{{}}}", id_text(id))
}

/// A text in the item; it has a character at least.
fn units(bytes: &[u8], offset: u32, len: u16) -> Option<Vec<u16>> {
    let start = offset as usize;
    let found = bytes.get(start..start.checked_add(usize::from(len))?)?;
    let (pairs, []) = found.as_chunks::<2>() else { return None };
    let units: Vec<u16> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
    (offset > 0 && !units.is_empty()).then_some(units)
}

/// The bytes of an identifier in braces, in the order of the text.
fn guid_of(text: &str) -> Option<[u8; 16]> {
    let text = text.trim_end_matches('\0');
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    let groups: Vec<&str> = inner.split('-').collect();
    if groups.iter().map(|group| group.len()).ne([8, 4, 4, 4, 12]) {
        return None;
    }
    let mut id = [0; 16];
    let mut digits = inner.chars().filter(|c| *c != '-').map(|c| c.to_digit(16));
    for byte in &mut id {
        let (high, low) = (digits.next()??, digits.next()??);
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(id)
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use super::*;

    fn locator(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut item = VHDX_LOCATOR.to_vec();
        item.extend(u16::to_le_bytes(0));
        item.extend((pairs.len() as u16).to_le_bytes());
        let mut texts: Vec<u8> = Vec::new();
        let texts_at = 20 + 12 * pairs.len();
        for (key, value) in pairs {
            let mut place = |text: &str| {
                let bytes: Vec<u8> =
                    text.encode_utf16().flat_map(u16::to_le_bytes).collect();
                let at = (texts_at + texts.len()) as u32;
                texts.extend(&bytes);
                (at, bytes.len() as u16)
            };
            let (key_at, key_len) = place(key);
            let (value_at, value_len) = place(value);
            item.extend(key_at.to_le_bytes());
            item.extend(value_at.to_le_bytes());
            item.extend(key_len.to_le_bytes());
            item.extend(value_len.to_le_bytes());
        }
        item.extend(texts);
        item
    }

    const LINK: (&str, &str) =
        ("parent_linkage", "{83ED0EC3-24C8-49A6-A959-5E4BF1288BFB}");

    #[test]
    fn pairs_are_read_and_paths_have_an_order() {
        let item = locator(&[
            ("absolute_win32_path", r"\\?\d:\a\parent.vhdx"),
            LINK,
            ("colour", "blue"),
            ("relative_path", r"..\parent.vhdx"),
        ]);
        let mut findings = Findings::new();
        let found = Locator::parse(&item, 0, &mut findings).unwrap();
        assert_eq!(findings, []);
        assert_eq!(id_text(&found.linkage), "83ed0ec3-24c8-49a6-a959-5e4bf1288bfb");
        assert_eq!(found.linkage_2, None);
        let names: Vec<_> = found.names.iter().map(|name| name.text.as_str()).collect();
        assert_eq!(names, [r"..\parent.vhdx", r"\\?\d:\a\parent.vhdx"]);
        assert_eq!(found.notes.len(), 1);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let item = locator(&[
            ("absolute_win32_path", r"\\?\d:\a\parent.vhdx"),
            LINK,
            ("colour", "blue"),
            ("volume_path", r"\\?\Volume{1}\parent.vhdx"),
        ]);
        let mut findings = Findings::new();
        let found = Locator::parse(&item, 0, &mut findings).unwrap();
        assert_eq!(encode(&found.pairs).unwrap(), item);
        let id = [7; 16];
        let told = found.with(&[(LINKAGE_2, Some(guid_text(&id))), ("none", None)]);
        let told = encode(&told).unwrap();
        let again = Locator::parse(&told, 0, &mut findings).unwrap();
        assert_eq!((again.linkage, again.linkage_2), (found.linkage, Some(id)));
        assert_eq!(again.names, found.names);
        let path = |text| std::path::Path::new(text);
        let (child, parent, noted) = match cfg!(windows) {
            true => (r"C:\vm\c.vhdx", r"C:\vm\b\p.vhdx", r"C:\vm\b\p.vhdx"),
            false => ("/vm/c.vhdx", "/vm/b/p.vhdx", r"\vm\b\p.vhdx"),
        };
        let names = ParentNames::new(path(child), path(parent), None);
        let item = encode(&again.renamed(&names)).unwrap();
        let again = Locator::parse(&item, 0, &mut findings).unwrap();
        assert_eq!((again.linkage, again.linkage_2), (found.linkage, Some(id)));
        let texts: Vec<_> = again.names.iter().map(|name| name.text.as_str()).collect();
        assert_eq!(texts, [r".\b\p.vhdx", noted]);
        assert_eq!(again.notes.len(), 1, "{:?}", again.notes);
        assert_eq!(findings, []);
        let long = vec![u16::from(b'a'); 0x8000];
        assert!(encode(&[(vec![1], long)]).is_none());
    }

    #[test]
    fn what_is_not_a_locator_is_told() {
        let sound = locator(&[LINK, ("relative_path", "p.vhdx")]);
        let mut other = sound.clone();
        other[0] ^= 1;
        let mut outside = sound.clone();
        outside[24] = 0xFF;
        outside[25] = 0xFF;
        let cases: [(&str, Vec<u8>); 8] = [
            ("header of 20", sound[..10].to_vec()),
            ("locator type", other),
            ("room for 2 pairs", sound[..40].to_vec()),
            ("inside the item", outside),
            ("a parent_linkage, found none", locator(&[("relative_path", "p.vhdx")])),
            ("in braces", locator(&[("parent_linkage", "83ED0EC3")])),
            ("in braces", locator(&[LINK, ("parent_linkage2", "{}")])),
            ("each key once", locator(&[LINK, LINK])),
        ];
        for (words, item) in cases {
            let mut findings = Findings::new();
            assert!(Locator::parse(&item, 0, &mut findings).is_none(), "{words}");
            let told = findings.iter().any(|f| f.to_string().contains(words));
            assert!(told && !is_sound(&findings), "{words}: {findings:?}");
        }
        // One of zeros is only the room for one: else every image without an identity
        // would be taken for the parent.
        let room = ("parent_linkage2", "{00000000-0000-0000-0000-000000000000}");
        let found = Locator::parse(&locator(&[LINK, room]), 0, &mut Findings::new());
        assert_eq!(found.unwrap().linkage_2, None);
        // Without a path it can still be proven.
        let mut findings = Findings::new();
        assert!(Locator::parse(&locator(&[LINK]), 0, &mut findings).is_some());
        assert_eq!(findings.len(), 1);
    }

    #[test]
    fn identifiers_are_what_stands_in_braces() {
        assert!(guid_of("{83ed0ec3-24c8-49a6-a959-5e4bf1288bfb}").is_some());
        for wrong in [
            "83ed0ec3-24c8-49a6-a959-5e4bf1288bfb",
            "{83ed0ec3-24c8-49a6-a9595e4bf1288bfb}",
            "{83ed0ec3-24c8-49a6-a959-5e4bf1288bf}",
            "{83ed0ec3-24c8-49a6-a959-5e4bf1288bfg}",
            "{83ed0ec3-24c8-49a6-a959-5e4bf1288\u{e4}f}",
        ] {
            assert_eq!(guid_of(wrong), None, "{wrong}");
        }
    }
}
