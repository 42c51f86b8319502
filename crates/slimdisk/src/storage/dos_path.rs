//! Paths of Windows as text: which of them are devices, and the two forms in which a file
//! can be named.
//!
//! ```text
//! C:\disks\base.vhd              \\?\C:\disks\base.vhd
//! \\server\share\base.vhd        \\?\UNC\server\share\base.vhd
//! ```
//!
//! The second form is taken letter by letter, however long it is; people write the first.

#![forbid(unsafe_code)]

/// What a path begins with that is to be taken letter by letter.
const VERBATIM: &str = r"\\?\";

/// The longest path, in UTF-16 units, that every call of the system takes in its first
/// form: a folder's, which leaves room for a name of the old kind in it.
#[cfg_attr(not(windows), expect(dead_code, reason = "only Windows has such calls"))]
pub const SHORT: usize = 247;

fn is_separator(unit: u16) -> bool {
    unit == u16::from(b'\\') || unit == u16::from(b'/')
}

fn units(text: &str) -> impl Iterator<Item = u16> {
    text.encode_utf16()
}

/// Whether a file of this name would be a device, in whichever folder: `NUL`, `con.vhd`.
///
/// Source: Windows, "Naming files, paths, and namespaces". Newer systems take some of
/// them for files; no image needs such a name.
pub fn is_device_name(name: &str) -> bool {
    let stem = name.split(['.', ':']).next().unwrap_or(name).trim_end_matches(' ');
    let stem = stem.to_uppercase();
    let numbered = |kind: &str| {
        stem.strip_prefix(kind).is_some_and(|number| {
            let mut digits = number.chars();
            matches!(
                (digits.next(), digits.next()),
                (Some('0'..='9' | '\u{b9}' | '\u{b2}' | '\u{b3}'), None)
            )
        })
    };
    matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$")
        || numbered("COM")
        || numbered("LPT")
}

/// Whether a name in a folder is taken letter by letter in every form of a path.
pub fn is_plain_name(name: &str) -> bool {
    let odd = |c: char| {
        c < ' ' || matches!(c, '\\' | '/' | ':' | '*' | '?' | '"' | '<' | '>' | '|')
    };
    !name.is_empty()
        && !name.ends_with(['.', ' '])
        && !name.contains(odd)
        && !is_device_name(name)
}

/// Whether a share of this name is no folder: pipes and their like.
pub fn is_no_disk(share: &str) -> bool {
    ["pipe", "mailslot", "ipc$"].iter().any(|name| name.eq_ignore_ascii_case(share))
}

/// Whether a path names a device instead of a file: `\\.\PhysicalDrive0`, `NUL`.
pub fn is_device(path: &str) -> bool {
    let text = path.replace('/', "\\");
    if let Some(rest) = path.strip_prefix(VERBATIM) {
        let is_disk = matches!(rest.as_bytes(), [drive, b':', b'\\', ..]
            if drive.is_ascii_alphabetic());
        let is_share =
            rest.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(r"UNC\"));
        return !is_disk && !is_share && volume(rest).is_none();
    }
    if text.starts_with(r"\\.\") || text.starts_with(r"\\?\") {
        return true;
    }
    let name = text.rsplit('\\').next().unwrap_or_default();
    let name = match name.as_bytes() {
        [drive, b':', ..] if drive.is_ascii_alphabetic() => name.get(2..).unwrap_or(name),
        _ => name,
    };
    let is_pipe = text
        .strip_prefix(r"\\")
        .is_some_and(|rest| rest.split('\\').nth(1).is_some_and(is_no_disk));
    is_pipe || is_device_name(name)
}

/// The volume that the rest of a path behind `\\?\` begins with: `Volume{...}`.
pub fn volume(rest: &str) -> Option<&str> {
    const LEN: usize = "Volume{12345678-1234-1234-1234-123456789012}".len();
    let name = rest.get(..LEN)?;
    let (kind, id) = name.split_at_checked("Volume".len())?;
    let id = id.strip_prefix('{')?.strip_suffix('}')?;
    let is_id = id.char_indices().all(|(at, c)| match at {
        8 | 13 | 18 | 23 => c == '-',
        _ => c.is_ascii_hexdigit(),
    });
    let ends =
        rest.get(LEN..).is_none_or(|rest| rest.is_empty() || rest.starts_with('\\'));
    (kind.eq_ignore_ascii_case("Volume") && is_id && ends).then_some(name)
}

/// A path in the form that people write; `None` if it has another, or would mean another
/// file in that form.
pub fn written(path: &str) -> Option<String> {
    let rest = path.strip_prefix(VERBATIM)?;
    let (root, rest) = match rest.as_bytes() {
        [drive, b':', b'\\', ..] if drive.is_ascii_alphabetic() => {
            (format!("{}:\\", char::from(*drive).to_ascii_uppercase()), rest.get(3..)?)
        }
        _ => {
            let (unc, rest) = rest.split_at_checked(4)?;
            if !unc.eq_ignore_ascii_case(r"UNC\") {
                return None;
            }
            let mut parts = rest.splitn(3, '\\');
            let (server, share) = (parts.next()?, parts.next()?);
            if server.is_empty() || share.is_empty() {
                return None;
            }
            (format!(r"\\{server}\{share}\"), parts.next().unwrap_or(""))
        }
    };
    let plain = rest.is_empty() || rest.split('\\').all(is_plain_name);
    plain.then(|| root + rest)
}

/// An absolute path, in UTF-16 units, in the form that may be of any length.
pub fn any_length(path: &[u16]) -> Vec<u16> {
    match path {
        [a, b, c, d, ..]
            if is_separator(*a)
                && is_separator(*b)
                && (*c == u16::from(b'?') || *c == u16::from(b'.'))
                && is_separator(*d) =>
        {
            path.to_vec()
        }
        [a, b, rest @ ..] if is_separator(*a) && is_separator(*b) => {
            units(VERBATIM).chain(units(r"UNC\")).chain(rest.iter().copied()).collect()
        }
        _ => units(VERBATIM).chain(path.iter().copied()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_from_files() {
        for path in [
            r"\\.\PhysicalDrive0",
            r"\\?\PhysicalDrive0",
            r"//./PhysicalDrive0",
            r"\\.\pipe\x",
            r"\\?\GLOBALROOT\Device\Harddisk0\Partition1\a.vhd",
            r"\\.\C:",
            "NUL",
            "nul.vhd",
            "con",
            r"C:\disks\AUX",
            "C:/disks/com1.vhd",
            "LPT\u{b2}",
            "prn .vhd",
            "CONIN$",
            "C:NUL",
            r"C:\disks\d:aux.vhd",
            r"\\server\pipe\x",
            "//server/IPC$/x",
        ] {
            assert!(is_device(path), "{path}");
        }
        for path in [
            r"C:\disks\base.vhd",
            "null.vhd",
            "com10.vhd",
            "console.vhd",
            "COM.vhd",
            r"C:\con\base.vhd",
            r"\\server\share\base.vhd",
            r"\\?\C:\disks\NUL",
            r"\\?\UNC\server\share\base.vhd",
            r"\\?\Volume{1b3b1146-4076-11e1-84aa-806e6f6e6963}\b.vhd",
            "C:base.vhd",
            r"\\server\pipes\x",
            "",
        ] {
            assert!(!is_device(path), "{path}");
        }
    }

    #[test]
    fn volumes_are_named_by_an_id() {
        let name = "Volume{1b3b1146-4076-11e1-84aa-806e6f6e6963}";
        assert_eq!(volume(name), Some(name));
        assert_eq!(volume(&format!(r"{name}\a\b.vhd")), Some(name));
        for text in [
            "Volume{1b3b1146-4076-11e1-84aa-806e6f6e696}",
            "Volume{1b3b1146-4076-11e1-84aa-806e6f6e6963}x",
            "Volume{1b3b1146+4076-11e1-84aa-806e6f6e6963}",
            r"Volume{..\..\..\..\..\..\..\..\..\..\..\.. }",
            "GLOBALROOT",
            "\u{e4}\u{e4}\u{e4}",
        ] {
            assert_eq!(volume(text), None, "{text}");
        }
    }

    #[test]
    fn paths_are_shown_as_people_write_them() {
        for (path, text) in [
            (r"\\?\C:\disks\base.vhd", r"C:\disks\base.vhd"),
            (r"\\?\c:\", r"C:\"),
            (r"\\?\UNC\server\share\a\b.vhd", r"\\server\share\a\b.vhd"),
            (r"\\?\UNC\server\share", r"\\server\share\"),
        ] {
            assert_eq!(written(path).as_deref(), Some(text), "{path}");
        }
        for path in [
            // They would be other files.
            r"\\?\C:\disks\NUL",
            r"\\?\C:\disks\base.vhd.",
            r"\\?\C:\disks \base.vhd",
            r"\\?\C:\a/b",
            r"\\?\UNC\server\share\aux.vhd",
            // They have no such form, or have it already.
            r"\\?\Volume{1b3b1146-4076-11e1-84aa-806e6f6e6963}\b.vhd",
            r"\\?\UNC\server",
            r"\\?\UNC\\share\b",
            r"C:\disks\base.vhd",
            r"\\server\share\b.vhd",
            r"\\?\",
        ] {
            assert_eq!(written(path), None, "{path}");
        }
    }

    #[test]
    fn paths_of_any_length() {
        for (path, long) in [
            (r"C:\disks\base.vhd", r"\\?\C:\disks\base.vhd"),
            (r"\\server\share\b.vhd", r"\\?\UNC\server\share\b.vhd"),
            (r"\\?\C:\a", r"\\?\C:\a"),
            (r"\\.\C:\a", r"\\.\C:\a"),
        ] {
            let path: Vec<u16> = units(path).collect();
            assert_eq!(String::from_utf16(&any_length(&path)).unwrap(), long);
        }
    }
}
