//! How the path of a parent is written down in a child: in Windows' manner, whatever
//! this system's is, or as a URL.

use std::path::{Component, Path};

use crate::error::{Error, Kind, Result};

/// The way from a folder to a file, with `/` between its parts, and with `./` or `../` at
/// the start: both absolute, without links in them. `None` if there is none that is text.
pub fn way(folder: &Path, file: &Path) -> Option<String> {
    let (from, to): (Vec<_>, Vec<_>) =
        (folder.components().collect(), file.components().collect());
    let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    // Drives and shares have no way to each other.
    if shared == 0 || !folder.is_absolute() {
        return None;
    }
    let up = from.len() - shared;
    let mut text = if up == 0 { ".".to_owned() } else { vec![".."; up].join("/") };
    for part in to.iter().skip(shared) {
        let Component::Normal(name) = part else { return None };
        let name = name.to_str().filter(|name| !name.contains('/'))?;
        text.push('/');
        text += name;
    }
    Some(text)
}

/// A relative path in Windows' manner: `.\base.vhd`, `..\x\base.vhd`.
pub fn relative_text(path: &str) -> Result<String> {
    let mut parts = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => parts.push(".."),
            Component::Normal(part) => parts.push(plain(part.as_ref())?),
            Component::RootDir | Component::Prefix(_) => {
                let what = "a path to the parent from the child on begins at no root";
                return Err(Error::new(Kind::InvalidArgument, what).in_file(path));
            }
        }
    }
    if parts.first() != Some(&"..") {
        parts.insert(0, ".");
    }
    Ok(parts.join("\\"))
}

/// An absolute path in Windows' manner; of a Unix path, what it is below a root.
pub fn absolute_text(path: &Path) -> Result<String> {
    if cfg!(windows) {
        return text(path).map(str::to_owned);
    }
    let mut written = String::new();
    for part in path.components() {
        if let Component::Normal(part) = part {
            written.push('\\');
            written.push_str(plain(part.as_ref())?);
        }
    }
    Ok(written)
}

/// A path as a URL, all but the plainest characters escaped.
pub fn file_url(path: &str) -> String {
    let mut url = "file://".to_owned();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            url.push(char::from(byte));
        } else {
            url += &format!("%{byte:02X}");
        }
    }
    url
}

/// A path as text.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        let what = "the parent's path is no Unicode text, which is all that a child can \
                    note of it: rename it";
        Error::new(Kind::InvalidName, what).in_file(path)
    })
}

/// One name of a path; Windows would take a backslash for the end of a folder's.
fn plain(name: &Path) -> Result<&str> {
    let text = text(name)?;
    if text.contains('\\') {
        let what = "a backslash in the path of the parent cannot be noted in its child: \
                    rename it";
        return Err(Error::new(Kind::InvalidName, what).in_file(name));
    }
    Ok(text)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn ways_between_folders() {
        for (folder, file, there) in [
            ("/disks", "/disks/base.vhd", "./base.vhd"),
            ("/disks", "/disks/a/base.vhd", "./a/base.vhd"),
            ("/disks/a/b", "/disks/base.vhd", "../../base.vhd"),
            ("/a", "/b/base.vhd", "../b/base.vhd"),
            ("/", "/base.vhd", "./base.vhd"),
            ("/ab", "/a/base.vhd", "../a/base.vhd"),
        ] {
            let found = way(folder.as_ref(), file.as_ref());
            assert_eq!(found.as_deref(), Some(there), "{folder} {file}");
        }
    }

    #[test]
    fn paths_are_written_as_a_url() {
        let url = file_url("/d/my b%\u{e4}se.vhd");
        assert_eq!(url, "file:///d/my%20b%25%C3%A4se.vhd");
    }

    #[test]
    fn paths_are_written_in_windows_manner() {
        for (relative, text) in [
            ("base.vhd", r".\base.vhd"),
            ("./sub/base.vhd", r".\sub\base.vhd"),
            ("../x/base.vhd", r"..\x\base.vhd"),
            ("../../b\u{e4}se.vhd", "..\\..\\b\u{e4}se.vhd"),
        ] {
            assert_eq!(relative_text(relative).unwrap(), text);
        }
        assert!(relative_text("/a").is_err());
        assert_eq!(absolute_text("/d/my base.vhd".as_ref()).unwrap(), r"\d\my base.vhd");
    }
}
