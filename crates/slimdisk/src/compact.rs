//! Compaction: what can be given up, where the rest goes, and doing it.
//!
//! [`survey`] judges every block (free maps, zeros), [`plan`](plan::plan) turns
//! that into releases and moves without any I/O, [`run`] carries a plan out and
//! decides nothing. [`compact`] and [`plan_disk`] do all of it for a file and
//! report.

#![forbid(unsafe_code)]

pub mod plan;
pub mod report;
pub mod run;
pub mod survey;
mod verify;

use std::ops::ControlFlow;
use std::path::Path;

pub use self::report::{Mode, Outcome, Report};
pub use self::survey::{Survey, Verdict};
use crate::error::Result;
use crate::image::{Facts, Layout};
use crate::volume::Allowances;

/// What the user wants of a compaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// How far to look for blocks to give up.
    pub mode: Mode,
    /// Read the live guest bytes before and after, and compare.
    pub verify: bool,
    /// Leave the file's modification time at the end of the run, instead of
    /// setting it back to what it was.
    pub touch: bool,
    /// Give up what lies outside every partition, but for the partition tables
    /// and the first and the last MiB of the disk.
    pub drop_unpartitioned: bool,
    /// What is allowed beyond the safe default when volumes are judged.
    pub allow: Allowances,
}

/// The steps of a compaction, in the order they come.
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
    /// Hashing the live guest bytes after the run.
    VerifyAfter,
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

/// What [`examine`] found: all that `info` and `map` show.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Examination {
    /// What the image says of itself.
    pub facts: Facts,
    /// How it lies in its file; `None` for an image that is not dynamic.
    pub layout: Option<Layout>,
    /// The guest's partitions and volumes and the verdict on each block; `None`
    /// for a differencing image, whose disk cannot be read without its parents.
    pub survey: Option<Survey>,
    /// The file's length in bytes.
    pub file_size: u64,
    /// Bytes the host has allocated to it.
    pub host_bytes: u64,
}
