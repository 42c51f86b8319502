//! The one hook for progress and cancelling.

#![forbid(unsafe_code)]

use std::ops::ControlFlow;

/// The steps of the operations, each operation's in the order they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// Reading the volumes' free maps.
    Map,
    /// Looking for zeros.
    Search,
    /// Hashing the live guest bytes before the run.
    VerifyBefore,
    /// Giving blocks up.
    Release,
    /// Moving blocks.
    Relocate,
    /// Cutting the file.
    Truncate,
    /// Punching holes in the file.
    Punch,
    /// Hashing the live guest bytes after the run.
    VerifyAfter,
    /// Writing a new image.
    Copy,
    /// Writing a differencing image's sectors into its parent.
    Merge,
}

/// How far a phase has come, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The phase.
    pub phase: Phase,
    /// Bytes done; never goes back within a phase.
    pub done: u64,
    /// Bytes to do in this phase.
    pub total: u64,
}

/// Called between steps, on the calling thread; `Break` asks to stop at the next
/// sound point.
pub type Hook<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;
