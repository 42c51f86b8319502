//! Looking for files.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::image::is_image_name;

/// How deep below a search path folders are looked into.
const DEEPEST: usize = 16;

/// How many entries of folders are looked at in all.
const MOST_ENTRIES: usize = 1 << 20;

/// Fails unless `path` leads to a file.
pub fn must_exist(path: &Path) -> Result<()> {
    let not_found = |kind, what: &'static str| Err(Error::new(kind, what).in_file(path));
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            not_found(Kind::NotFound, "there is a folder of this name, not a file")
        }
        Ok(_) => Ok(()),
        Err(error) => match error.kind() {
            ErrorKind::NotFound if path.parent().is_some_and(Path::is_dir) => {
                not_found(Kind::NotFound, "there is no such file")
            }
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                not_found(Kind::PathNotFound, "the file's folder does not exist")
            }
            _ => Err(Error::io("cannot find the file", error).in_file(path)),
        },
    }
}

/// Fails unless all paths are absolute.
pub fn must_be_absolute(paths: &[PathBuf]) -> Result<()> {
    match paths.iter().find(|path| !path.is_absolute()) {
        Some(path) => {
            let what = "a relative path of a folder to search; give its full path";
            Err(Error::new(Kind::InvalidArgument, what).in_file(path))
        }
        None => Ok(()),
    }
}

/// The files under `folders` that have the name of a disk image.
pub fn under<'a>(folders: impl Iterator<Item = &'a PathBuf>) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    let mut left = MOST_ENTRIES;
    let mut to_do: Vec<(PathBuf, usize)> =
        folders.map(|folder| (folder.clone(), 0)).collect();
    while let Some((folder, depth)) = to_do.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            left = left.saturating_sub(1);
            if left == 0 {
                return found.into_iter().collect();
            }
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && depth < DEEPEST {
                to_do.push((entry.path(), depth + 1));
            } else if kind.is_file() && is_image_name(&entry.path()) {
                found.insert(entry.path());
            }
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_by_name_below_folders() {
        let dir =
            std::env::temp_dir().join(format!("slimdisk-files-{}", std::process::id()));
        fs::create_dir_all(dir.join("sub/deeper")).unwrap();
        fs::create_dir_all(dir.join("folder.vhd")).unwrap();
        for name in ["b.VHD", "a.vhd", "a.txt", "vhd", "sub/c.vhd", "sub/deeper/d.avhd"] {
            fs::write(dir.join(name), b"").unwrap();
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink(&dir, dir.join("sub/loop")).unwrap();
        let folders = [dir.clone(), dir.join("sub"), dir.join("none")];
        let found = under(folders.iter());
        let names = ["a.vhd", "b.VHD", "sub/c.vhd", "sub/deeper/d.avhd"];
        assert_eq!(found, names.map(|name| dir.join(name)));

        let kind = |name: &str| must_exist(&dir.join(name)).err().map(|e| e.kind());
        assert_eq!(kind("a.vhd"), None);
        assert_eq!(kind("no.vhd"), Some(Kind::NotFound));
        assert_eq!(kind("folder.vhd"), Some(Kind::NotFound));
        assert_eq!(kind("no/a.vhd"), Some(Kind::PathNotFound));
        assert_eq!(kind("a.vhd/a.vhd"), Some(Kind::PathNotFound));
        fs::remove_dir_all(&dir).unwrap();
    }
}
