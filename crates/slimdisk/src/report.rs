//! What the reports of all operations have in common.

#![forbid(unsafe_code)]

use std::sync::Arc;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::storage::IoCounts;

/// The error of an operation that failed, as it is printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorReport {
    /// The name of its [`Kind`](crate::Kind).
    pub kind: String,
    /// The Virtual Server API's code for it, in hexadecimal.
    pub hresult: String,
    /// The sentence with all its causes.
    pub message: String,
}

impl From<&Error> for ErrorReport {
    fn from(error: &Error) -> Self {
        ErrorReport {
            kind: format!("{:?}", error.kind()),
            hresult: format!("0x{:08X}", error.kind().hresult()),
            message: error.chain(),
        }
    }
}

/// How an operation ended, and the two forms in which a report has its error.
pub(crate) fn ended<O>(
    result: Result<O>,
    failed: O,
) -> (O, Option<ErrorReport>, Option<Arc<Error>>) {
    match result {
        Ok(outcome) => (outcome, None, None),
        Err(error) => (failed, Some(ErrorReport::from(&error)), Some(Arc::new(error))),
    }
}

/// What was read and written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct IoReport {
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written; only a run knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_written: Option<u64>,
    /// Bytes that the host shares between two places instead of writing them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_cloned: Option<u64>,
    /// Flushes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flushes: Option<u64>,
}

impl IoReport {
    /// All the counts of a run.
    #[must_use]
    pub fn of_run(counts: IoCounts) -> Self {
        IoReport {
            bytes_read: counts.bytes_read,
            bytes_written: Some(counts.bytes_written),
            bytes_cloned: Some(counts.bytes_cloned),
            flushes: Some(counts.flushes),
        }
    }

    /// What a plan knows.
    #[must_use]
    pub fn of_plan(counts: IoCounts) -> Self {
        IoReport { bytes_read: counts.bytes_read, ..IoReport::default() }
    }
}
