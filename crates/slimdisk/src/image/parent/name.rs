//! The names that a differencing image gives to its parent.

use std::path::{Component, Path};

/// In which manner a path is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `C:\disks\base.vhd`, `\\server\share\base.vhd`, `..\base.vhd`
    Windows,
    /// `/disks/base.vhd`, `../base.vhd`
    Unix,
}

/// One name of a parent, as the child has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParentName {
    /// Where in the child it stands: "relative path (locator W2ru)".
    pub origin: String,
    /// The path as it is written there.
    pub text: String,
    /// Its manner.
    pub style: Style,
}

/// A path in parts that mean the same on every system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// Whether it begins at a root: a drive, a share, `/`.
    pub absolute: bool,
    /// How many folders up it goes first.
    pub up: usize,
    /// Then down: folders, and the file at the end.
    pub down: Vec<String>,
}

/// More parts than any real path has.
const MOST_PARTS: usize = 256;

impl ParentName {
    /// A name.
    pub fn new(origin: impl Into<String>, text: impl Into<String>, style: Style) -> Self {
        ParentName { origin: origin.into(), text: text.into(), style }
    }

    /// Its parts; `None` if it names no file, or with a part that is no plain name on
    /// this system.
    pub(super) fn parts(&self) -> Option<Parts> {
        let (absolute, rest) = match self.style {
            Style::Windows => windows(&self.text),
            Style::Unix => {
                (self.text.starts_with('/'), self.text.split('/').collect::<Vec<_>>())
            }
        };
        let mut parts = Parts { absolute, up: 0, down: Vec::new() };
        let ends_in_name =
            rest.last().is_some_and(|last| !["", ".", ".."].contains(last))
                && !self.text.ends_with('\\');
        for part in rest {
            match part {
                "" | "." => {}
                // Above a root there is nothing.
                ".." => {
                    if parts.down.pop().is_none() && !absolute {
                        parts.up += 1;
                    }
                }
                part if is_plain(part) => parts.down.push(part.to_owned()),
                _ => return None,
            }
            if parts.up + parts.down.len() > MOST_PARTS {
                return None;
            }
        }
        (ends_in_name && !parts.down.is_empty()).then_some(parts)
    }
}

/// Whether this system takes it for one name and nothing else: on Windows `C:` is not.
fn is_plain(part: &str) -> bool {
    let mut components = Path::new(part).components();
    matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(name)), None) if name == part
    ) && !part.contains('\0')
}

/// Splits a Windows path; the root, whatever it is, is left out.
fn windows(text: &str) -> (bool, Vec<&str>) {
    let split = |text| -> Vec<&str> { str::split(text, ['\\', '/']).collect() };
    let is_separator = |at: usize| matches!(text.as_bytes().get(at), Some(b'\\' | b'/'));
    if !(is_separator(0) && is_separator(1)) {
        return match text.split_once(':') {
            // `C:name` is relative, to a folder that nobody knows here.
            Some((drive, rest)) if is_drive(drive) => {
                (rest.starts_with(['\\', '/']), split(rest))
            }
            _ => (is_separator(0), split(text)),
        };
    }
    // \\server\share\..., \\?\C:\..., \\?\UNC\server\share\..., \\?\Volume{...}\...
    let mut parts = split(text);
    let root = match (parts.get(2).copied(), parts.get(3).copied()) {
        (Some("?" | "."), Some(unc)) if unc.eq_ignore_ascii_case("unc") => 6,
        _ => 4,
    };
    parts.drain(..root.min(parts.len()));
    (true, parts)
}

fn is_drive(text: &str) -> bool {
    text.len() == 1 && text.bytes().all(|byte| byte.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str, style: Style) -> Option<(bool, usize, String)> {
        let parts = ParentName::new("", text, style).parts()?;
        Some((parts.absolute, parts.up, parts.down.join("/")))
    }

    #[test]
    fn windows_paths_of_all_kinds() {
        for (text, absolute, up, down) in [
            (r"C:\Disks\base.vhd", true, 0, "Disks/base.vhd"),
            (r"c:/Disks\base.vhd", true, 0, "Disks/base.vhd"),
            (r".\base.vhd", false, 0, "base.vhd"),
            (r"base.vhd", false, 0, "base.vhd"),
            (r"a\base..", false, 0, "a/base.."),
            (r"..\..\a\base.vhd", false, 2, "a/base.vhd"),
            (r"a\..\..\b\.\base.vhd", false, 1, "b/base.vhd"),
            (r"C:base.vhd", false, 0, "base.vhd"),
            (r"\Disks\base.vhd", true, 0, "Disks/base.vhd"),
            (r"C:\..\..\base.vhd", true, 0, "base.vhd"),
            (r"\\server\share\a\base.vhd", true, 0, "a/base.vhd"),
            (r"\\?\C:\a\base.vhd", true, 0, "a/base.vhd"),
            (r"\\?\UNC\server\share\base.vhd", true, 0, "base.vhd"),
            (r"\\?\Volume{1b3b1146-4076-11e1-84aa-806e6f6e6963}\b.vhd", true, 0, "b.vhd"),
        ] {
            let found = parts(text, Style::Windows);
            assert_eq!(found, Some((absolute, up, down.to_owned())), "{text}");
        }
        for text in
            ["", ".", r"..\..", r"C:\", r"\\server\share", r"a\b\", r"a\..", r"a\."]
        {
            assert_eq!(parts(text, Style::Windows), None, "{text}");
        }
        assert_eq!(parts(&r"..\".repeat(300), Style::Windows), None);
        assert_eq!(parts(&(r"..\".repeat(300) + "x"), Style::Windows), None);
    }

    #[test]
    fn unix_paths() {
        for (text, absolute, up, down) in [
            ("/disks/base.vhd", true, 0, "disks/base.vhd"),
            ("./base.vhd", false, 0, "base.vhd"),
            ("base..", false, 0, "base.."),
            ("../a/base.vhd", false, 1, "a/base.vhd"),
            ("/../base.vhd", true, 0, "base.vhd"),
        ] {
            let found = parts(text, Style::Unix);
            assert_eq!(found, Some((absolute, up, down.to_owned())), "{text}");
        }
        for text in ["/", "..", "a/", "a\0b"] {
            assert_eq!(parts(text, Style::Unix), None, "{text}");
        }
    }
}
