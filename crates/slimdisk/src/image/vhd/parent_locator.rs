//! Parent locators: up to eight names of a differencing disk's parent, each in the
//! manner of one platform.
//!
//! Source: Virtual Hard Disk Image Format Specification 1.0, "Dynamic Disk Header
//! Format", parent locator entries and the table of platform codes.

use super::raw::{DynamicHeader, ParentLocator};
use crate::error::Result;
use crate::image::parent::{ParentName, ParentNames, Style};
use crate::storage::ReadAt;

/// The longest name that is read; a path of Windows has at most 32767 characters.
const LONGEST: u32 = 64 << 10;

/// What the locators and the header name, the relative paths first, then the absolute
/// ones, then the header's name; and what could not be made sense of.
pub fn names(
    file: &dyn ReadAt,
    header: &DynamicHeader,
) -> Result<(Vec<ParentName>, Vec<String>)> {
    let (mut relative, mut absolute, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for locator in &header.parent_locators {
        match name(file, locator)? {
            Ok(None) => {}
            Ok(Some((is_relative, name))) if is_relative => relative.push(name),
            Ok(Some((_, name))) => absolute.push(name),
            Err(note) => notes.push(note),
        }
    }
    relative.append(&mut absolute);
    let unicode: Vec<u16> = header.parent_unicode_name.iter().map(|c| c.get()).collect();
    let text = utf16(&unicode);
    if !text.is_empty() {
        relative.push(ParentName::new("parent name in the header", text, Style::Windows));
    }
    Ok((relative, notes))
}

type Named = Result<Option<(bool, ParentName)>, String>;

/// The name in one locator and whether it is a relative path; the inner error says why
/// it is of no use.
fn name(file: &dyn ReadAt, locator: &ParentLocator) -> Result<Named> {
    let code = locator.platform_code;
    let printable = code.escape_ascii().to_string();
    match &code {
        [0, 0, 0, 0] => return Ok(Ok(None)),
        b"Mac " => {
            return Ok(Err(
                "a parent locator holds a Mac OS alias (platform code \"Mac \"), \
                           which is not read"
                    .to_owned(),
            ));
        }
        b"W2ru" | b"W2ku" | b"Wi2r" | b"Wi2k" | b"MacX" => {}
        _ => {
            return Ok(Err(format!(
                "a parent locator of an unknown platform code (\"{printable}\") is not read"
            )));
        }
    }
    let len = locator.platform_data_length.get();
    let offset = locator.platform_data_offset.get();
    let inside = offset.checked_add(u64::from(len)).is_some_and(|end| end <= file.len());
    if len == 0 || len > LONGEST || !inside {
        return Ok(Err(format!(
            "the parent locator \"{printable}\" is not read: {len} bytes at {offset:#x}"
        )));
    }
    let mut bytes = vec![0; len as usize];
    file.read_at(offset, &mut bytes)?;
    let (kind, text, style) = match &code {
        b"MacX" => match file_url(&bytes) {
            Some(path) => {
                let kind = if path.starts_with('/') { "absolute" } else { "relative" };
                (kind, path, Style::Unix)
            }
            None => {
                return Ok(Err(
                    "the parent locator \"MacX\" holds no URL of a file on this \
                               machine"
                        .to_owned(),
                ));
            }
        },
        b"W2ru" => ("relative", utf16_le(&bytes), Style::Windows),
        b"W2ku" => ("absolute", utf16_le(&bytes), Style::Windows),
        b"Wi2r" => ("relative", ansi(&bytes), Style::Windows),
        _ => ("absolute", ansi(&bytes), Style::Windows),
    };
    let origin = format!("{kind} path (locator {printable})");
    Ok(Ok(Some((kind == "relative", ParentName::new(origin, text, style)))))
}

/// A name as it lies in the data of a locator.
#[derive(Clone)]
pub struct Locatable {
    pub code: [u8; 4],
    pub data: Vec<u8>,
}

impl Locatable {
    /// In bytes.
    pub fn len(&self) -> u32 {
        u32::try_from(self.data.len()).unwrap_or(u32::MAX)
    }
}

/// The names that locators can hold, the ones that matter most first. A URL is written
/// only where there is one, and of its manner.
pub fn encode(
    file: &dyn ReadAt,
    header: &DynamicHeader,
    names: &ParentNames,
) -> Result<Vec<Locatable>> {
    let utf16 = |code, text: String| Locatable {
        code,
        data: text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
    };
    let mut encoded = Vec::new();
    encoded.extend(names.windows_relative().map(|text| utf16(*b"W2ru", text)));
    encoded.extend(names.windows_absolute().map(|text| utf16(*b"W2ku", text)));
    let mut locators = header.parent_locators.iter();
    if let Some(locator) = locators.find(|locator| locator.platform_code == *b"MacX") {
        let was_relative = matches!(name(file, locator)?, Ok(Some((true, _))));
        let url = names.url(was_relative).or_else(|| names.url(!was_relative));
        encoded.extend(url.map(|url| Locatable { code: *b"MacX", data: url.into() }));
    }
    encoded.retain(|name| name.len() <= LONGEST);
    Ok(encoded)
}

fn utf16_le(bytes: &[u8]) -> String {
    let (pairs, _) = bytes.as_chunks::<2>();
    let units: Vec<u16> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
    utf16(&units)
}

/// Up to the first zero.
fn utf16(units: &[u16]) -> String {
    String::from_utf16_lossy(units.split(|unit| *unit == 0).next().unwrap_or_default())
}

/// Text in a code page that nobody noted: in most of them ASCII is itself, and more
/// than a guess is not needed for a name that must prove itself anyway.
fn ansi(bytes: &[u8]) -> String {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect(),
    }
}

/// The path of a `file:` URL; xen's tools write relative ones, `file://./base.vhd`.
fn file_url(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let url = std::str::from_utf8(bytes).ok()?;
    let rest = url.strip_prefix("file:")?;
    let path = match rest.strip_prefix("//") {
        Some(rest) => rest.strip_prefix("localhost").unwrap_or(rest),
        None => rest,
    };
    if !(path.starts_with('/') || path.starts_with("./") || path.starts_with("../")) {
        return None;
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        decoded.push(if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            u8::try_from(digit()? * 16 + digit()?).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_files_become_paths() {
        for (url, path) in [
            ("file:///disks/my%20base.vhd", Some("/disks/my base.vhd")),
            ("file://localhost/disks/base.vhd", Some("/disks/base.vhd")),
            ("file:/disks/base.vhd\0\0", Some("/disks/base.vhd")),
            ("file://./base.vhd", Some("./base.vhd")),
            ("file://../a/b%C3%A4se.vhd", Some("../a/b\u{e4}se.vhd")),
            ("file://server/disks/base.vhd", None),
            ("http:///disks/base.vhd", None),
            ("file:///a%2", None),
            ("file:///a%zz", None),
            ("file:///a%FF", None),
            ("", None),
        ] {
            assert_eq!(file_url(url.as_bytes()).as_deref(), path, "{url}");
        }
    }

    #[test]
    fn texts_end_at_the_first_zero() {
        assert_eq!(utf16_le(b"a\0b\0\0\0c\0"), "ab");
        assert_eq!(utf16_le(b"a\0b"), "a");
        assert_eq!(ansi(b"base.vhd\0junk"), "base.vhd");
        assert_eq!(ansi(b"b\xE4se.vhd"), "b\u{e4}se.vhd");
    }
}
