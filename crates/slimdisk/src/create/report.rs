//! What the making of a disk has to tell: the object that `--json` prints.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::image::ImageType;
use crate::report::{ErrorReport, IoReport, ended};

/// How the making of a disk, or the planning of it, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is there.
    Created,
    /// Nothing was written: this is what a run would make.
    Planned,
    /// Stopped on request; there is nothing of it.
    Cancelled,
    /// It failed; there is nothing of it.
    Failed,
}

/// What was made. Sizes in bytes.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The new image's path as it was given.
    pub image: String,
    /// The format's name.
    pub format: Option<&'static str>,
    /// How it stores the disk.
    #[serde(rename = "type")]
    pub image_type: Option<ImageType>,
    /// How it ended.
    pub outcome: Outcome,
    /// The size of the guest's disk.
    pub virtual_size: u64,
    /// The size of a block's data; 0 if the image has no blocks.
    pub block_size: u64,
    /// The file's length; of a plan, exactly what a run would reach.
    pub file_size: u64,
    /// The parent of a differencing image, links followed.
    pub parent: Option<String>,
    /// The disk's identity, once it is there.
    pub unique_id: Option<String>,
    /// What is odd about the parent, in sentences.
    pub notes: Vec<String>,
    /// What was written.
    pub io: IoReport,
    /// How long it took.
    pub elapsed_seconds: f64,
    /// What went wrong.
    pub error: Option<ErrorReport>,
    /// The error itself, for a caller in this process.
    #[serde(skip)]
    pub cause: Option<Arc<Error>>,
}

impl Report {
    /// A report of a disk of which nothing is known yet.
    pub(super) fn new(path: &Path) -> Self {
        Report {
            image: path.to_string_lossy().into_owned(),
            format: None,
            image_type: None,
            outcome: Outcome::Failed,
            virtual_size: 0,
            block_size: 0,
            file_size: 0,
            parent: None,
            unique_id: None,
            notes: Vec::new(),
            io: IoReport::default(),
            elapsed_seconds: 0.0,
            error: None,
            cause: None,
        }
    }

    /// The report of a disk whose making was refused before it began.
    #[must_use]
    pub fn failed(path: &Path, error: Error) -> Self {
        let mut report = Report::new(path);
        report.finish(Err(error), Instant::now());
        report
    }

    /// Enters how it ended and how long it took.
    pub(super) fn finish(&mut self, result: Result<Outcome>, started: Instant) {
        self.elapsed_seconds = started.elapsed().as_secs_f64();
        (self.outcome, self.error, self.cause) = ended(result, Outcome::Failed);
    }
}
