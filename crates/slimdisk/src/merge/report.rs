//! What the planning or the running of a merge has to tell.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::image::ImageType;
use crate::report::{ErrorReport, IoReport, ended};

/// How a merge, or the planning of one, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The parent shows all that the child shows.
    Merged,
    /// Nothing was written: this is what a run would do.
    Planned,
    /// Stopped on request at a sound point; running again continues. The child is
    /// needed as before.
    Cancelled,
    /// It failed; the child reads as before, and is needed.
    Failed,
}

/// What was found and done. Sizes in bytes.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The child's path as it was given.
    pub image: String,
    /// The parent's path, links followed; empty if it was not found.
    pub parent: String,
    /// The name of the parent's format; `None` if it could not be told.
    pub format: Option<&'static str>,
    /// How the parent stores the disk.
    #[serde(rename = "type")]
    pub image_type: Option<ImageType>,
    /// How it ended.
    pub outcome: Outcome,
    /// The size of the guest's disk.
    pub virtual_size: u64,
    /// The size of a block's data in the parent; 0 if it has no blocks.
    pub block_size: u64,
    /// Bytes of the child that were written into the parent.
    pub bytes_merged: u64,
    /// Bytes of the child that its parent showed already.
    pub bytes_same: u64,
    /// Blocks that got a place in the parent.
    pub blocks_added: u64,
    /// The length of the parent's file before.
    pub parent_file_size_before: u64,
    /// Its length after; of a plan, exactly what a run would reach.
    pub parent_file_size_after: u64,
    /// What is odd, and what to do with the child, in sentences.
    pub notes: Vec<String>,
    /// Which of the locks that keep others out of the parent could not be had, and why.
    pub unguarded: Vec<String>,
    /// What was read and written; a plan has only what was read.
    pub io: IoReport,
    /// The digest of the guest's disk, when it was found to be the same in the parent
    /// alone as it was through the child.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<String>,
    /// How long it took.
    pub elapsed_seconds: f64,
    /// What went wrong.
    pub error: Option<ErrorReport>,
    /// The error itself, for a caller in this process.
    #[serde(skip)]
    pub cause: Option<Arc<Error>>,
}

impl Report {
    /// A report of a child of which nothing is known yet.
    #[must_use]
    pub fn new(child: &Path) -> Self {
        Report {
            image: child.to_string_lossy().into_owned(),
            parent: String::new(),
            format: None,
            image_type: None,
            outcome: Outcome::Failed,
            virtual_size: 0,
            block_size: 0,
            bytes_merged: 0,
            bytes_same: 0,
            blocks_added: 0,
            parent_file_size_before: 0,
            parent_file_size_after: 0,
            notes: Vec::new(),
            unguarded: Vec::new(),
            io: IoReport::default(),
            verified: None,
            elapsed_seconds: 0.0,
            error: None,
            cause: None,
        }
    }

    /// The report of a merge that could not even be prepared.
    #[must_use]
    pub fn refused(child: &Path, error: Error) -> Self {
        let mut report = Report::new(child);
        report.finish(Err(error), Instant::now());
        report
    }

    /// Enters how it ended and how long it took.
    pub(super) fn finish(&mut self, result: Result<Outcome>, started: Instant) {
        self.elapsed_seconds = started.elapsed().as_secs_f64();
        (self.outcome, self.error, self.cause) = ended(result, Outcome::Failed);
    }
}
