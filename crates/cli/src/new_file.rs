//! Writing a new file so that it is there whole or not at all.

use std::path::Path;

use slimdisk::storage::{NewFile, Storage};
use slimdisk::{Error, Kind, Result};

/// Fails if `path` may not be written: it is `image` itself, or it is there and
/// not to be replaced.
pub fn refuse(path: &Path, replace: bool, image: &Path) -> Result<()> {
    if same_file(path, image) {
        let what = "this is the disk image itself; name another file to draw into";
        return Err(Error::new(Kind::InvalidArgument, what).in_file(path));
    }
    if !replace && path.symlink_metadata().is_ok() {
        return Err(already_there(path));
    }
    Ok(())
}

fn already_there(path: &Path) -> Error {
    let what = "there is such a file already; --force replaces it";
    Error::new(Kind::InvalidArgument, what).in_file(path)
}

#[cfg(unix)]
fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id =
        |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
    matches!((id(a), id(b)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(not(unix))]
fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Writes `data` to a new file, which gets its name when it is durable.
pub fn write(path: &Path, data: &[u8], replace: bool) -> Result<()> {
    let begin = if replace { NewFile::create_replacing } else { NewFile::create };
    let done = begin(path).and_then(|new| {
        new.file().write_at(0, data)?;
        new.keep()
    });
    done.map_err(|error| match error.kind() {
        Kind::AlreadyExists => already_there(path),
        _ => error.in_file(path),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_appear_whole_and_are_not_replaced_unasked() {
        let dir =
            std::env::temp_dir().join(format!("slimdisk-new-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("a.svg");
        write(&path, b"one", false).unwrap();
        assert_eq!(
            write(&path, b"two", false).unwrap_err().kind(),
            Kind::InvalidArgument
        );
        assert_eq!(fs::read(&path).unwrap(), b"one");
        write(&path, b"three", true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        let other = dir.join("image");
        fs::write(&other, b"").unwrap();
        assert!(refuse(&path, false, &other).is_err());
        assert!(refuse(&path, true, &other).is_ok());
        assert!(refuse(&other, true, &other).is_err());
        assert!(write(&dir.join("no/such"), b"", false).is_err());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2, "nothing is left behind");
        fs::remove_dir_all(&dir).unwrap();
    }
}
