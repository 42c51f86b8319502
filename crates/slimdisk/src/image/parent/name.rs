//! The names that a differencing image gives to its parent.

use std::path::{Component, Path, PathBuf};

use crate::storage::{is_file_name, is_no_disk, real_path, volume};

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

/// Where an absolute path begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// `/`, and `\` without a drive: how a path of Unix is noted where Windows keeps its
    /// own.
    Top,
    /// `C:\`, `\\?\C:\`; in upper case.
    Drive(char),
    /// `\\server\share\`, `\\?\UNC\server\share\`
    Share(String, String),
    /// `\\?\Volume{...}\`
    Volume(String),
    /// A device, a pipe, or nothing that is known: no place for an image.
    Other,
}

impl Root {
    /// The folder that it is on this system; `own` is one that is known, with links
    /// followed.
    pub fn folder(&self, own: &Path) -> Option<PathBuf> {
        match self {
            Root::Top => own.ancestors().last().map(Path::to_owned),
            Root::Drive(letter) if cfg!(windows) => {
                Some(PathBuf::from(format!("{letter}:\\")))
            }
            Root::Share(server, share) if cfg!(windows) => {
                Some(PathBuf::from(format!(r"\\{server}\{share}\")))
            }
            // A disk of this computer, which has a letter as a rule.
            Root::Volume(name) if cfg!(windows) => {
                real_path(Path::new(&format!(r"\\?\{name}\"))).ok()
            }
            _ => None,
        }
    }
}

/// A path in parts that mean the same on every system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// Where it begins, if that is not the folder of the child.
    pub root: Option<Root>,
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
        let (root, rest) = match self.style {
            Style::Windows => windows(&self.text),
            Style::Unix => {
                let root = self.text.starts_with('/').then_some(Root::Top);
                (root, self.text.split('/').collect::<Vec<_>>())
            }
        };
        let absolute = root.is_some();
        let mut parts = Parts { root, up: 0, down: Vec::new() };
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
        && is_file_name(part)
}

/// Splits a Windows path at its root and into parts.
fn windows(text: &str) -> (Option<Root>, Vec<&str>) {
    let split = |text| -> Vec<&str> { str::split(text, ['\\', '/']).collect() };
    let is_separator = |at: usize| matches!(text.as_bytes().get(at), Some(b'\\' | b'/'));
    if !(is_separator(0) && is_separator(1)) {
        return match drive(text) {
            Some((letter, rest)) => {
                // `C:name` is relative, to a folder that nobody knows here.
                let root = rest.starts_with(['\\', '/']).then_some(Root::Drive(letter));
                (root, split(rest))
            }
            None => (is_separator(0).then_some(Root::Top), split(text)),
        };
    }
    // \\server\share\..., \\?\C:\..., \\?\UNC\server\share\..., \\?\Volume{...}\...
    let mut parts = split(text);
    let mut take =
        |n: usize| -> Vec<&str> { parts.drain(..n.min(parts.len())).collect() };
    let share = |names: &[&str]| match names {
        [server, share]
            if is_file_name(server) && is_file_name(share) && !is_no_disk(share) =>
        {
            Root::Share((*server).to_owned(), (*share).to_owned())
        }
        _ => Root::Other,
    };
    let root = match take(4).as_slice() {
        [_, _, "?", name] if name.eq_ignore_ascii_case("unc") => share(&take(2)),
        [_, _, "?", name] => match (drive(name), volume(name)) {
            (Some((letter, "")), _) => Root::Drive(letter),
            (_, Some(name)) => Root::Volume(name.to_owned()),
            _ => Root::Other,
        },
        [_, _, ".", name] if name.eq_ignore_ascii_case("unc") => {
            take(2);
            Root::Other
        }
        [_, _, "." | "?", ..] => Root::Other,
        [_, _, names @ ..] => share(names),
        _ => Root::Other,
    };
    (Some(root), parts)
}

/// Splits off a drive: `C:`.
fn drive(text: &str) -> Option<(char, &str)> {
    let (drive, rest) = text.split_once(':')?;
    let letter = is_drive(drive).then(|| drive.chars().next())??;
    Some((letter.to_ascii_uppercase(), rest))
}

fn is_drive(text: &str) -> bool {
    text.len() == 1 && text.bytes().all(|byte| byte.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str, style: Style) -> Option<(bool, usize, String)> {
        let parts = ParentName::new("", text, style).parts()?;
        Some((parts.root.is_some(), parts.up, parts.down.join("/")))
    }

    #[test]
    fn windows_paths_of_all_kinds() {
        for (text, absolute, up, down) in [
            (r"C:\Disks\base.vhd", true, 0, "Disks/base.vhd"),
            (r"c:/Disks\base.vhd", true, 0, "Disks/base.vhd"),
            (r".\base.vhd", false, 0, "base.vhd"),
            (r"base.vhd", false, 0, "base.vhd"),
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
    fn roots_of_all_kinds() {
        let share = |server: &str| Root::Share(server.to_owned(), "d".to_owned());
        let id = "Volume{1b3b1146-4076-11e1-84aa-806e6f6e6963}";
        for (text, root) in [
            (r"a\b", None),
            ("C:b", None),
            (r"\a\b", Some(Root::Top)),
            (r"c:\b", Some(Root::Drive('C'))),
            ("d:/b", Some(Root::Drive('D'))),
            (r"\\?\c:\b", Some(Root::Drive('C'))),
            (r"\\s\d\b", Some(share("s"))),
            ("//s/d/b", Some(share("s"))),
            (r"\\?\unc\s\d\b", Some(share("s"))),
            (&format!(r"\\?\{id}\b"), Some(Root::Volume(id.to_owned()))),
            (r"\\?\GLOBALROOT\b", Some(Root::Other)),
            (r"\\.\C:\b", Some(Root::Other)),
            (r"\\.\UNC\s\d\b", Some(Root::Other)),
            (r"\\s\pipe\b", Some(Root::Other)),
            (r"\\?\UNC\s\MailSlot\b", Some(Root::Other)),
            (r"\\?\Volume{1}\b", Some(Root::Other)),
            (r"\\?\cc:\b", Some(Root::Other)),
        ] {
            let parts = ParentName::new("", text, Style::Windows).parts().unwrap();
            assert_eq!((parts.root, parts.down.last()), (root, Some(&"b".to_owned())));
        }
        let unix = ParentName::new("", "/a/b", Style::Unix).parts().unwrap();
        assert_eq!(unix.root, Some(Root::Top));
    }

    /// What would be a device, a stream or another file there is not even looked for.
    #[cfg(windows)]
    #[test]
    fn names_that_windows_takes_otherwise_are_refused() {
        for text in [r"a\NUL", r"com1\b.vhd", r"b.vhd:s", r"b.vhd.", r".. \b.vhd", "b?"] {
            assert_eq!(parts(text, Style::Windows), None, "{text}");
            assert_eq!(parts(&text.replace('\\', "/"), Style::Unix), None, "{text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_dot_may_end_a_name() {
        let found = parts(r"a\base..", Style::Windows);
        assert_eq!(found, Some((false, 0, "a/base..".to_owned())));
    }

    #[test]
    fn unix_paths() {
        for (text, absolute, up, down) in [
            ("/disks/base.vhd", true, 0, "disks/base.vhd"),
            ("./base.vhd", false, 0, "base.vhd"),
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
