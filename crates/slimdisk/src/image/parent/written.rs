//! How the path of a parent is written down in a child: in Windows' manner, whatever
//! this system's is.

use std::path::{Component, Path};

use crate::error::{Error, Kind, Result};

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
