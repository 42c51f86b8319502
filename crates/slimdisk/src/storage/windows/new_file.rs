//! Windows: files that have no name yet, and room for them.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind};
use std::os::windows::ffi::OsStrExt;
use std::os::windows::fs::OpenOptionsExt;
use std::path::Path;

use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_BACKUP_SEMANTICS, FILE_READ_ATTRIBUTES, FILE_SHARE_DELETE,
    MOVEFILE_WRITE_THROUGH, MoveFileExW,
};

use super::calls::free_space;
use super::{Result, dos_path};

/// A file without a name is not to be had here.
pub fn create_unnamed(_: &Path) -> Result<File> {
    Err(Error::from(ErrorKind::Unsupported))
}

pub fn name_unnamed(_: &File, _: &Path) -> Result<()> {
    Err(Error::from(ErrorKind::Unsupported))
}

/// Makes a file under a name that nothing has; while it is open, it can be renamed and
/// nothing else.
pub fn create_named(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .share_mode(FILE_SHARE_DELETE)
        .open(path)
}

/// Moves a file to a name that nothing has, or fails.
pub fn rename_new(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (wide(from)?, wide(to)?);
    // SAFETY: both paths end in a zero and live for the call.
    match unsafe { MoveFileExW(from.as_ptr(), to.as_ptr(), MOVEFILE_WRITE_THROUGH) } {
        0 => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Makes the name durable that a file got in a folder.
pub fn sync_name(file: &File, _: &Path) -> Result<()> {
    // What NTFS has noted of the file goes with what it holds.
    file.sync_all()
}

/// Folders cannot be flushed by who may not write to the whole volume.
pub fn sync_folder(_: &Path) -> Result<()> {
    Ok(())
}

/// How many bytes this user may still write to a folder.
pub fn room(folder: &Path) -> Result<Option<u64>> {
    // The folder itself is asked, not its path, which may be longer than that question
    // takes.
    let folder = OpenOptions::new()
        .access_mode(FILE_READ_ATTRIBUTES)
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS)
        .open(folder)?;
    free_space(&folder).map(Some).map_err(super::control::Code::to_io)
}

/// A path as the system's calls take it, ending in a zero; std does the same for its own.
pub(super) fn wide(path: &Path) -> Result<Vec<u16>> {
    let mut units: Vec<u16> = path.as_os_str().encode_wide().collect();
    if units.contains(&0) {
        return Err(Error::from(ErrorKind::InvalidInput));
    }
    if units.len() > dos_path::SHORT {
        let whole = std::path::absolute(path)?;
        units = whole.as_os_str().encode_wide().collect();
        units = dos_path::any_length(&units);
    }
    units.push(0);
    Ok(units)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_are_renamed_below_long_paths() {
        let top =
            std::env::temp_dir().join(format!("slimdisk-long-{}", std::process::id()));
        // What an earlier process of this number left.
        let _ = fs::remove_dir_all(&top);
        let mut folder = top.clone();
        while folder.as_os_str().len() < 400 {
            folder.push("a folder with a name of some length");
        }
        fs::create_dir_all(&folder).unwrap();
        let (first, second) = (folder.join("first"), folder.join("second"));
        drop(create_named(&first).unwrap());
        rename_new(&first, &second).unwrap();
        assert!(!first.exists() && second.exists());
        drop(create_named(&first).unwrap());
        let kind = rename_new(&first, &second).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::AlreadyExists);
        assert!(room(&folder).unwrap().is_some_and(|room| room > 0));
        match super::super::real_path(&second) {
            Ok(real) => assert_eq!(
                real,
                super::super::real_path(&top)
                    .unwrap()
                    .join(second.strip_prefix(&top).unwrap())
            ),
            // Wine 8 tells no path of more than 260 characters (ERROR_MORE_DATA).
            Err(e) => assert_eq!(e.raw_os_error(), Some(234)),
        }
        fs::remove_dir_all(&top).unwrap();
    }
}
