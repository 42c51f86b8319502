//! The one error type, and the short list of kinds a caller acts on.
//!
//! Three borders translate a [`Kind`] once each: the C ABI to an `HRESULT`
//! ([`Kind::hresult`]), the command to an exit code, a service to a status. A
//! new trouble gets a new sentence, not a new kind, unless one of the three
//! borders must tell it apart.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// A result whose error is the library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What class of trouble an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[non_exhaustive]
pub enum Kind {
    /// Something that should not happen: a bug here or a surprise of the system.
    Unexpected,
    /// The device or the operating system failed a read, write or flush.
    Io,
    /// A value the caller passed makes no sense.
    InvalidArgument,
    /// The bytes are not a sound image, or not one at all.
    InvalidImage,
    /// A sound image of a type the operation does not apply to.
    WrongImageType,
    /// There is no such file.
    NotFound,
    /// There is no such folder.
    PathNotFound,
    /// There is such a file already, and it is not to be replaced.
    AlreadyExists,
    /// A name with a character that no file may have everywhere.
    InvalidName,
    /// A path that is empty, or relative where an absolute one is needed.
    BadPath,
    /// A path of more characters than a file may have everywhere.
    PathTooLong,
    /// A disk larger than its format allows.
    DiskTooLarge,
    /// A disk smaller than its format allows.
    DiskTooSmall,
    /// A file larger than the host's file system allows, or in more pieces than it can
    /// note.
    FileTooLarge,
    /// The operating system does not let this user do it.
    AccessDenied,
    /// The file, or the medium it lies on, is read-only.
    ReadOnly,
    /// The host has no room left (`ENOSPC`, `EDQUOT`, `EFBIG`; `ERROR_DISK_FULL` and its
    /// like).
    DiskFull,
    /// A differencing image's parent cannot be found.
    ParentNotFound,
    /// A differencing image's parent is not the one it was made from.
    ParentMismatch,
    /// The host object is shutting down and takes no new operations.
    ShuttingDown,
    /// Another process, a loop device or a virtual machine has the file.
    InUse,
}

impl Kind {
    /// The result code of the Virtual Server API for this kind.
    ///
    /// Source: the Virtual Server 2005 and Windows Virtual PC references,
    /// return values of `IVMHardDisk::Compact` and its neighbours.
    #[must_use]
    pub fn hresult(self) -> u32 {
        match self {
            Kind::Unexpected | Kind::Io => 0x8002_0009, // DISP_E_EXCEPTION
            Kind::InvalidArgument => 0x8007_0057,       // E_INVALIDARG
            Kind::InvalidImage => 0xA004_0682,          // VM_E_INVALID_HD_FILE
            Kind::WrongImageType => 0xA004_067B,        // VM_E_WRONG_HD_IMAGE_TYPE
            Kind::NotFound => 0x8007_0002,              // E_FILE_NOT_FOUND
            Kind::PathNotFound => 0x8007_0003,          // E_PATH_NOT_FOUND
            Kind::AlreadyExists => 0x8007_00B7,         // E_ALREADY_EXISTS
            Kind::InvalidName => 0x8007_007B,           // E_INVALID_NAME
            Kind::BadPath => 0x8007_00A1,               // E_BAD_PATHNAME
            Kind::PathTooLong => 0x8007_006F,           // E_BUFFER_OVERFLOW
            Kind::DiskTooLarge => 0xA004_0683,          // VM_E_IMAGE_SIZE_TOO_LARGE
            Kind::DiskTooSmall => 0xA004_0684,          // VM_E_IMAGE_SIZE_TOO_SMALL
            Kind::FileTooLarge => 0xA004_0679,          // VM_E_FILE_TOO_LARGE_FOR_VOLUME
            Kind::AccessDenied => 0x8007_0005,          // E_ACCESSDENIED
            Kind::ReadOnly => 0xA004_067A,              // VM_E_FILE_READ_ONLY
            Kind::DiskFull => 0x8007_0070,              // E_DISK_FULL
            Kind::ParentNotFound => 0xA004_0677,        // VM_E_PARENT_PATH_NOT_FOUND
            Kind::ParentMismatch => 0xA004_0685,        // VM_E_PARENT_CHILD_ID_MISMATCH
            Kind::ShuttingDown => 0xA004_0209,          // VM_E_APP_SHUTTING_DOWN
            Kind::InUse => 0x8007_0020,                 // E_SHARING_VIOLATION
        }
    }
}

/// What went wrong, where, and in which file.
///
/// `Display` gives one sentence without its source; walk
/// [`source`](StdError::source) for the cause beneath.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    what: Cow<'static, str>,
    offset: Option<u64>,
    path: Option<PathBuf>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `what` says what was found and, where it helps, what
    /// to do.
    pub fn new(kind: Kind, what: impl Into<Cow<'static, str>>) -> Self {
        Error(Box::new(Inner {
            kind,
            what: what.into(),
            offset: None,
            path: None,
            source: None,
        }))
    }

    /// [`Kind::InvalidImage`]: the bytes break a rule of their format.
    pub fn invalid(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::InvalidImage, what)
    }

    /// An operating system error met while doing `what`, with the kind its code
    /// stands for.
    pub fn io(what: impl Into<Cow<'static, str>>, source: io::Error) -> Self {
        Self::new(kind_of(&source), what).with_source(source)
    }

    /// The same error at a byte offset.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.0.offset = Some(offset);
        self
    }

    /// The same error in a named file.
    #[must_use]
    pub fn in_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.0.path = Some(path.into());
        self
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Box::new(source));
        self
    }

    /// The class of trouble.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The sentence without offset, file and cause.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.0.what
    }

    /// The byte offset it was found at, in the file or, for structures of the
    /// guest, in the volume or disk the sentence names.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// The file it was found in.
    #[must_use]
    pub fn path(&self) -> Option<&std::path::Path> {
        self.0.path.as_deref()
    }

    /// The whole chain in one line, causes after colons.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = self.source();
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }
}

/// The kind an operating system error stands for.
fn kind_of(error: &io::Error) -> Kind {
    #[cfg(windows)]
    if let Some(kind) = error
        .raw_os_error()
        .and_then(|code| u32::try_from(code).ok())
        .and_then(kind_of_windows)
    {
        return kind;
    }
    match error.kind() {
        io::ErrorKind::StorageFull
        | io::ErrorKind::QuotaExceeded
        | io::ErrorKind::FileTooLarge => Kind::DiskFull,
        io::ErrorKind::NotFound => Kind::NotFound,
        io::ErrorKind::NotADirectory => Kind::PathNotFound,
        io::ErrorKind::AlreadyExists => Kind::AlreadyExists,
        io::ErrorKind::InvalidFilename => Kind::PathTooLong,
        io::ErrorKind::PermissionDenied => Kind::AccessDenied,
        io::ErrorKind::ReadOnlyFilesystem => Kind::ReadOnly,
        io::ErrorKind::WouldBlock
        | io::ErrorKind::ResourceBusy
        | io::ErrorKind::ExecutableFileBusy => Kind::InUse,
        _ => Kind::Io,
    }
}

/// The kind that an error code of Windows stands for, where std has no kind of its own for
/// it or one that says less.
///
/// Source: `winerror.h`.
#[cfg(any(windows, test))]
fn kind_of_windows(code: u32) -> Option<Kind> {
    Some(match code {
        // FILE_NOT_FOUND
        2 => Kind::NotFound,
        // PATH_NOT_FOUND, INVALID_DRIVE, BAD_NETPATH, BAD_NET_NAME, DIRECTORY
        3 | 15 | 53 | 67 | 267 => Kind::PathNotFound,
        // ACCESS_DENIED, NETWORK_ACCESS_DENIED, VIRUS_INFECTED, PRIVILEGE_NOT_HELD,
        // LOGON_FAILURE
        5 | 65 | 225 | 1314 | 1326 => Kind::AccessDenied,
        // WRITE_PROTECT, FILE_READ_ONLY
        19 | 6009 => Kind::ReadOnly,
        // SHARING_VIOLATION, LOCK_VIOLATION, DRIVE_LOCKED, BUSY, DELETE_PENDING,
        // USER_MAPPED_FILE, OPEN_FILES, DEVICE_IN_USE
        32 | 33 | 108 | 170 | 303 | 1224 | 2401 | 2404 => Kind::InUse,
        // HANDLE_DISK_FULL, DISK_FULL, FILE_TOO_LARGE, DISK_QUOTA_EXCEEDED
        39 | 112 | 223 | 1295 => Kind::DiskFull,
        // FILE_SYSTEM_LIMITATION: a file in so many pieces that NTFS cannot note more
        665 => Kind::FileTooLarge,
        // FILE_EXISTS, ALREADY_EXISTS
        80 | 183 => Kind::AlreadyExists,
        // BUFFER_OVERFLOW, FILENAME_EXCED_RANGE
        111 | 206 => Kind::PathTooLong,
        // INVALID_NAME
        123 => Kind::InvalidName,
        // BAD_PATHNAME
        161 => Kind::BadPath,
        _ => return None,
    })
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.0.path {
            write!(f, "{}: ", path.display())?;
        }
        f.write_str(&self.0.what)?;
        if let Some(offset) = self.0.offset {
            write!(f, " (at byte {offset:#x})")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.chain())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_file_and_offset_and_chain_adds_the_cause() {
        let cause = io::Error::other("the disk went away");
        let error = Error::io("cannot read the footer", cause).at(0x600).in_file("a.vhd");
        assert_eq!(error.to_string(), "a.vhd: cannot read the footer (at byte 0x600)");
        assert!(error.chain().ends_with(": the disk went away"));
    }

    #[test]
    fn codes_of_windows_keep_their_meaning() {
        for (code, kind) in [
            (2, Kind::NotFound),
            (3, Kind::PathNotFound),
            (5, Kind::AccessDenied),
            (19, Kind::ReadOnly),
            (32, Kind::InUse),
            (33, Kind::InUse),
            (39, Kind::DiskFull),
            (53, Kind::PathNotFound),
            (80, Kind::AlreadyExists),
            (112, Kind::DiskFull),
            (123, Kind::InvalidName),
            (161, Kind::BadPath),
            (183, Kind::AlreadyExists),
            (206, Kind::PathTooLong),
            (303, Kind::InUse),
            (665, Kind::FileTooLarge),
            (1224, Kind::InUse),
            (1295, Kind::DiskFull),
        ] {
            assert_eq!(kind_of_windows(code), Some(kind), "{code}");
            #[cfg(windows)]
            {
                let code = i32::try_from(code).unwrap();
                let error = Error::io("x", io::Error::from_raw_os_error(code));
                assert_eq!(error.kind(), kind, "{code}");
            }
        }
        // A failing device (CRC, IO_DEVICE), and what a system does not offer.
        for code in [1, 23, 50, 87, 1117] {
            assert_eq!(kind_of_windows(code), None, "{code}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn full_disks_are_disk_full() {
        // ENOSPC, EFBIG, EDQUOT on Linux.
        for code in [28, 27, 122] {
            let error = Error::io("x", io::Error::from_raw_os_error(code));
            assert_eq!(error.kind(), Kind::DiskFull, "errno {code}");
        }
    }
}
