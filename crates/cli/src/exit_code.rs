//! The exit codes: one of the three borders that translate a [`Kind`].

use slimdisk::Kind;

/// How the process ends. The table for users is
/// [`EXIT_STATUS`](crate::cli::EXIT_STATUS).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done, or nothing to do.
    Done = 0,
    /// The system failed, or something unforeseen happened.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// Not a sound image.
    InvalidImage = 3,
    /// An image of a type the operation does not apply to.
    WrongImageType = 4,
    /// No such file or folder.
    NotFound = 5,
    /// Not permitted, or read-only.
    AccessDenied = 6,
    /// The host's disk is full.
    DiskFull = 7,
    /// The parent image is missing or another one.
    Parent = 8,
    /// The host is shutting down.
    ShuttingDown = 9,
    /// In use; try again later (`EX_TEMPFAIL`).
    InUse = 75,
    /// Stopped by SIGINT at a sound point.
    Interrupted = 130,
    /// Stopped by SIGTERM at a sound point.
    Terminated = 143,
}

impl ExitCode {
    /// This code if it tells of a failure, else `other`: of several disks, the
    /// first failure counts.
    #[must_use]
    pub fn or(self, other: ExitCode) -> ExitCode {
        if self == ExitCode::Done { other } else { self }
    }
}

impl From<Kind> for ExitCode {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::InvalidArgument
            | Kind::AlreadyExists
            | Kind::InvalidName
            | Kind::BadPath
            | Kind::PathTooLong
            | Kind::DiskTooLarge
            | Kind::DiskTooSmall => ExitCode::Usage,
            Kind::InvalidImage => ExitCode::InvalidImage,
            Kind::WrongImageType => ExitCode::WrongImageType,
            Kind::NotFound | Kind::PathNotFound => ExitCode::NotFound,
            Kind::AccessDenied | Kind::ReadOnly => ExitCode::AccessDenied,
            Kind::DiskFull | Kind::FileTooLarge => ExitCode::DiskFull,
            Kind::ParentNotFound | Kind::ParentMismatch => ExitCode::Parent,
            Kind::ShuttingDown => ExitCode::ShuttingDown,
            Kind::InUse => ExitCode::InUse,
            _ => ExitCode::Failed,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        std::process::ExitCode::from(code as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::EXIT_STATUS;

    /// Every code, in the order of the documented table. The match makes a new
    /// variant fail to compile until it is listed.
    fn all() -> Vec<ExitCode> {
        use ExitCode::*;
        let all = [
            Done,
            Failed,
            Usage,
            InvalidImage,
            WrongImageType,
            NotFound,
            AccessDenied,
            DiskFull,
            Parent,
            ShuttingDown,
            InUse,
            Interrupted,
            Terminated,
        ];
        for code in all {
            match code {
                Done | Failed | Usage | InvalidImage | WrongImageType | NotFound
                | AccessDenied | DiskFull | Parent | ShuttingDown | InUse
                | Interrupted | Terminated => {}
            }
        }
        all.to_vec()
    }

    #[test]
    fn documented_table_lists_every_code_and_no_other() {
        let documented: Vec<u8> = EXIT_STATUS
            .lines()
            .filter_map(|line| line.split_whitespace().next()?.parse::<u8>().ok())
            .collect();
        let here: Vec<u8> = all().into_iter().map(|code| code as u8).collect();
        assert_eq!(documented, here);
    }

    #[test]
    fn each_kind_has_the_code_of_the_design() {
        let table: &[(Kind, u8)] = &[
            (Kind::Unexpected, 1),
            (Kind::Io, 1),
            (Kind::InvalidArgument, 2),
            (Kind::AlreadyExists, 2),
            (Kind::InvalidName, 2),
            (Kind::BadPath, 2),
            (Kind::PathTooLong, 2),
            (Kind::DiskTooLarge, 2),
            (Kind::DiskTooSmall, 2),
            (Kind::InvalidImage, 3),
            (Kind::WrongImageType, 4),
            (Kind::NotFound, 5),
            (Kind::PathNotFound, 5),
            (Kind::AccessDenied, 6),
            (Kind::ReadOnly, 6),
            (Kind::DiskFull, 7),
            (Kind::FileTooLarge, 7),
            (Kind::ParentNotFound, 8),
            (Kind::ParentMismatch, 8),
            (Kind::ShuttingDown, 9),
            (Kind::InUse, 75),
        ];
        for (kind, code) in table {
            assert_eq!(ExitCode::from(*kind) as u8, *code, "{kind:?}");
        }
    }

    #[test]
    fn first_failure_counts() {
        let codes = [ExitCode::Done, ExitCode::InUse, ExitCode::NotFound, ExitCode::Done];
        let end = codes.into_iter().fold(ExitCode::Done, ExitCode::or);
        assert_eq!(end, ExitCode::InUse);
    }
}
