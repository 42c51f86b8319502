//! The rules that paths and sizes must keep.
//!
//! Source: the Virtual Server 2005 reference, return values of
//! `IVMVirtualServer::GetHardDisk` and of its `Create...VirtualHardDisk`.

use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// What no name may have in it. The separators of paths are among them: where a
/// backslash is none, it would be one for whoever reads the image elsewhere.
const FORBIDDEN: [char; 9] = ['*', '?', '<', '>', '/', '|', '"', ':', '\\'];

/// A path is shorter than this, in UTF-16 units.
const PATH_LIMIT: usize = 260;

/// The smallest disk, in MiB.
const SMALLEST_MB: i64 = 3;

/// The largest, in MiB: 2040 GiB.
const LARGEST_MB: i64 = 2_088_960;

/// Fails unless `path` is an absolute one that is allowed everywhere.
pub fn check(path: &Path) -> Result<()> {
    let fail = |kind, what: String| Err(Error::new(kind, what).in_file(path));
    if path.as_os_str().is_empty() {
        return fail(Kind::BadPath, "an empty path; name a file".into());
    }
    if !path.is_absolute() {
        let what = "a relative path; give the file's full path";
        return fail(Kind::BadPath, what.into());
    }
    let text = path.to_string_lossy();
    let length = text.encode_utf16().count();
    if length >= PATH_LIMIT {
        let what = format!(
            "a path of {length} characters; one of fewer than {PATH_LIMIT} is needed"
        );
        return fail(Kind::PathTooLong, what);
    }
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        let name = name.to_string_lossy();
        if let Some(character) =
            name.chars().find(|c| FORBIDDEN.contains(c) || c.is_control())
        {
            let what = format!(
                "the name \"{}\" has the character {character:?}, which no name may have",
                name.escape_debug()
            );
            return fail(Kind::InvalidName, what);
        }
    }
    if path.file_name().is_none() {
        return fail(Kind::BadPath, "a path of a folder; name a file".into());
    }
    Ok(())
}

/// The two paths of a child and its parent, one of which may be relative to the
/// other's folder.
pub fn join(child: &Path, parent: &Path) -> Result<(PathBuf, PathBuf)> {
    let beside = |known: &Path, relative: &Path| {
        known.parent().unwrap_or(Path::new("")).join(relative)
    };
    for path in [child, parent] {
        if path.as_os_str().is_empty() {
            return Err(Error::new(Kind::BadPath, "an empty path; name a file"));
        }
    }
    let pair = match (child.is_absolute(), parent.is_absolute()) {
        (true, true) => (child.to_owned(), parent.to_owned()),
        (true, false) => (child.to_owned(), beside(child, parent)),
        (false, true) => (beside(parent, child), parent.to_owned()),
        (false, false) => {
            let what = "both paths are relative; give the full path of one of them";
            return Err(Error::new(Kind::BadPath, what).in_file(child));
        }
    };
    check(&pair.0)?;
    check(&pair.1)?;
    Ok(pair)
}

/// The bytes of a new disk of `size` MiB.
pub fn disk_size(size: i64) -> Result<u64> {
    if size <= 0 {
        let what = format!("a disk of {size} MB; the size must be more than 0");
        return Err(Error::new(Kind::InvalidArgument, what));
    }
    if size < SMALLEST_MB {
        let what = format!("a disk of {size} MB; the smallest is {SMALLEST_MB} MB");
        return Err(Error::new(Kind::DiskTooSmall, what));
    }
    if size > LARGEST_MB {
        let what = format!("a disk of {size} MB; the largest is {LARGEST_MB} MB");
        return Err(Error::new(Kind::DiskTooLarge, what));
    }
    Ok(size.unsigned_abs() << 20)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn kind(path: &str) -> Option<Kind> {
        check(Path::new(path)).err().map(|error| error.kind())
    }

    #[test]
    fn paths_are_absolute_and_plain() {
        assert_eq!(kind("/disks/my disk.vhd"), None);
        assert_eq!(kind("/disks/Ünïcode.vhd"), None);
        assert_eq!(kind(""), Some(Kind::BadPath));
        assert_eq!(kind("disk.vhd"), Some(Kind::BadPath));
        assert_eq!(kind("/"), Some(Kind::BadPath));
        for forbidden in ["*", "?", "<", ">", "|", "\"", ":", "\\", "\u{7}"] {
            let path = format!("/disks/a{forbidden}b.vhd");
            assert_eq!(kind(&path), Some(Kind::InvalidName), "{path}");
            let path = format!("/a{forbidden}b/disk.vhd");
            assert_eq!(kind(&path), Some(Kind::InvalidName), "{path}");
        }
        assert_eq!(kind(&format!("/{}", "a".repeat(258))), None);
        assert_eq!(kind(&format!("/{}", "a".repeat(259))), Some(Kind::PathTooLong));
        // Counted as Windows counts: this one takes two.
        assert_eq!(kind(&format!("/{}", "\u{1F4BE}".repeat(129))), None);
        let long = format!("/a{}", "\u{1F4BE}".repeat(129));
        assert_eq!(kind(&long), Some(Kind::PathTooLong));
    }

    #[test]
    fn one_of_two_paths_may_be_relative() {
        let joined = |child: &str, parent: &str| {
            join(Path::new(child), Path::new(parent)).map_err(|error| error.kind())
        };
        let pair = |a: &str, b: &str| Ok((PathBuf::from(a), PathBuf::from(b)));
        assert_eq!(joined("/a/c.vhd", "/b/p.vhd"), pair("/a/c.vhd", "/b/p.vhd"));
        assert_eq!(joined("/a/c.vhd", "p.vhd"), pair("/a/c.vhd", "/a/p.vhd"));
        assert_eq!(joined("x/c.vhd", "/b/p.vhd"), pair("/b/x/c.vhd", "/b/p.vhd"));
        assert_eq!(joined("c.vhd", "p.vhd"), Err(Kind::BadPath));
        assert_eq!(joined("/a/c.vhd", ""), Err(Kind::BadPath));
        assert_eq!(joined("", "/a/p.vhd"), Err(Kind::BadPath));
        assert_eq!(joined("/a/c:.vhd", "p.vhd"), Err(Kind::InvalidName));
    }

    #[test]
    fn sizes_have_the_documented_limits() {
        let size = |mb| disk_size(mb).map_err(|error| error.kind());
        assert_eq!(size(i64::MIN), Err(Kind::InvalidArgument));
        assert_eq!(size(0), Err(Kind::InvalidArgument));
        assert_eq!(size(2), Err(Kind::DiskTooSmall));
        assert_eq!(size(3), Ok(3 << 20));
        assert_eq!(size(2_088_960), Ok(2040 << 30));
        assert_eq!(size(2_088_961), Err(Kind::DiskTooLarge));
        assert_eq!(size(i64::MAX), Err(Kind::DiskTooLarge));
    }
}
