//! What a conversion has to tell: the object that `--json` prints.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::compact::report::VolumeReport;
use crate::error::{Error, Result};
use crate::image::ImageType;
use crate::image::parent::Parent;
use crate::report::{ErrorReport, IoReport, ended};

/// How a conversion, or the planning of one, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The new image is there.
    Converted,
    /// Nothing was written: this is what a run would make.
    Planned,
    /// Stopped on request; there is nothing of the new image.
    Cancelled,
    /// It failed; there is nothing of the new image.
    Failed,
}

/// Counts of the new image's blocks; of a fixed one, of pieces of 2 MiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BlockCounts {
    /// Blocks the disk is divided into.
    pub total: u64,
    /// Written, for they hold anything but zeros that is to be kept.
    pub written: u64,
    /// Left out, for trusted volumes call all of it free (or free and zero).
    pub left_out_free: u64,
    /// Left out, for all of it is zero.
    pub left_out_zero: u64,
}

/// What was read and made. Sizes in bytes.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The source's path as it was given.
    pub image: String,
    /// The new image's path as it was given.
    pub target: String,
    /// The new image's format.
    pub format: Option<&'static str>,
    /// How the new image stores the disk.
    #[serde(rename = "type")]
    pub image_type: Option<ImageType>,
    /// How it ended.
    pub outcome: Outcome,
    /// The size of the guest's disk.
    pub virtual_size: u64,
    /// The size of a block's data in the new image; 0 if it has no blocks.
    pub block_size: u64,
    /// Counts of its blocks.
    pub blocks: BlockCounts,
    /// The new file's length; of a plan, exactly what a run would reach.
    pub file_size: u64,
    /// The length of the source's file, without its parents.
    pub source_file_size: u64,
    /// The guest's volumes, if free space was to be left out.
    pub volumes: Vec<VolumeReport>,
    /// The parents of a differencing source, its own first.
    pub parents: Vec<Parent>,
    /// What is odd, in sentences.
    pub notes: Vec<String>,
    /// What was read and written; a plan has only what was read.
    pub io: IoReport,
    /// The digest of what was written, when `--verify` found it the same.
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
    /// A report of a conversion of which nothing is known yet.
    pub(super) fn new(source: &Path, target: &Path) -> Self {
        Report {
            image: source.to_string_lossy().into_owned(),
            target: target.to_string_lossy().into_owned(),
            format: None,
            image_type: None,
            outcome: Outcome::Failed,
            virtual_size: 0,
            block_size: 0,
            blocks: BlockCounts::default(),
            file_size: 0,
            source_file_size: 0,
            volumes: Vec::new(),
            parents: Vec::new(),
            notes: Vec::new(),
            io: IoReport::default(),
            verified: None,
            elapsed_seconds: 0.0,
            error: None,
            cause: None,
        }
    }

    /// The report of a conversion that was refused before it began.
    #[must_use]
    pub fn failed(source: &Path, target: &Path, error: Error) -> Self {
        let mut report = Report::new(source, target);
        report.finish(Err(error), Instant::now());
        report
    }

    /// Enters how it ended and how long it took.
    pub(super) fn finish(&mut self, result: Result<Outcome>, started: Instant) {
        self.elapsed_seconds = started.elapsed().as_secs_f64();
        (self.outcome, self.error, self.cause) = ended(result, Outcome::Failed);
    }
}
