//! What a plan or a run has to tell: the object that `--json` prints.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

pub use super::finer::SmallerBlocks;
use crate::error::{Error, Result};
use crate::image::ImageType;
use crate::image::parent::Parent;
use crate::report::ended;
pub use crate::report::{ErrorReport, IoReport};

/// How far a compaction goes to find blocks to give up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Free maps of trusted volumes; zeros are looked for only where no trusted
    /// map speaks.
    #[default]
    Quick,
    /// Also looks for zeros in live blocks, which reads all of them.
    Full,
    /// Zeros alone; no file system is read.
    Prezeroed,
}

/// How a compaction, or the planning of one, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The image is smaller than before.
    Compacted,
    /// Holes were punched in the file, which is as long as before.
    Punched,
    /// There was nothing to win.
    NothingToDo,
    /// Nothing was written: this is what a run would do.
    Planned,
    /// Stopped on request at a sound point; running again continues.
    Cancelled,
    /// It failed; the image is sound.
    Failed,
}

/// Counts of blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BlockCounts {
    /// Blocks the disk is divided into.
    pub total: u64,
    /// Blocks that had a place in the file.
    pub allocated_before: u64,
    /// Blocks that have a place in the file afterwards.
    pub allocated_after: u64,
    /// Given up because trusted volumes call all of it free (or free and zero).
    pub released_free: u64,
    /// Given up because all of it is zero.
    pub released_zero: u64,
    /// Given up because the parent shows the same.
    pub released_parent: u64,
    /// Moved to another place.
    pub moved: u64,
}

/// Whether a volume's free map is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeState {
    /// Its free map is current and proven.
    Trusted,
    /// A known file system whose map is not believed, for a stated reason.
    Untrusted,
    /// No file system whose free map can be read.
    Unknown,
}

/// One volume of the guest's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct VolumeReport {
    /// The number of the partition it is, or for a logical volume begins in; `None`
    /// on the bare disk.
    pub partition: Option<u32>,
    /// The volume group and the name of a logical volume of LVM2: `vg0/root`.
    pub logical_volume: Option<String>,
    /// Where on the guest's disk it begins, in bytes; the pieces of a logical volume may
    /// lie in any order.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// The file system or container in it, if one was recognised.
    pub filesystem: Option<String>,
    /// Its label.
    pub label: Option<String>,
    /// Whether its free map is believed.
    pub state: VolumeState,
    /// Why not, in one sentence.
    pub reason: Option<String>,
    /// Bytes in use; `None` where nobody knows.
    pub used_bytes: Option<u64>,
    /// Bytes proven free; `None` where nobody knows.
    pub free_bytes: Option<u64>,
    /// Bytes of swap areas and page files, which
    /// [`drop_swap`](crate::volume::Allowances::drop_swap) gives up; `None` where nobody
    /// knows.
    pub swap_bytes: Option<u64>,
}

impl VolumeReport {
    /// What to call it in a sentence: "partition 2", "the whole disk", "vg0/root".
    #[must_use]
    pub fn name(&self) -> String {
        match (&self.logical_volume, self.partition) {
            (Some(name), _) => name.clone(),
            (None, Some(number)) => format!("partition {number}"),
            (None, None) => "the whole disk".to_owned(),
        }
    }
}

/// Where the bytes of the blocks that stay belong to. Their sum is
/// `allocated_after` blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct KeptBytes {
    /// In use by a trusted volume.
    pub used: u64,
    /// Free, but in a block that also holds a byte that must be kept.
    pub pinned: u64,
    /// In a volume that is not trusted or not known.
    pub unjudged: u64,
    /// Outside every volume.
    pub outside: u64,
    /// Not held here but in the parent: room in the block for what may be written.
    pub inherited: u64,
}

/// What was found, done and won. Sizes in bytes.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The image's path as it was given.
    pub image: String,
    /// The format's name; `None` if it could not be told.
    pub format: Option<&'static str>,
    /// How the image stores the disk.
    #[serde(rename = "type")]
    pub image_type: Option<ImageType>,
    /// How it ended.
    pub outcome: Outcome,
    /// How far it looked.
    pub mode: Mode,
    /// The size of the guest's disk.
    pub virtual_size: u64,
    /// The size of a block's data.
    pub block_size: u64,
    /// Counts of blocks.
    pub blocks: BlockCounts,
    /// The file's length before.
    pub file_size_before: u64,
    /// The file's length after; of a plan, exactly what a run would reach.
    pub file_size_after: u64,
    /// Bytes the host had allocated to the file before.
    pub host_bytes_before: u64,
    /// Bytes the host has allocated to it now; of a plan, `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_bytes_after: Option<u64>,
    /// Bytes in place of which the file has holes now, where
    /// [`punch`](super::Options::punch) was asked for; of a plan, where there could be
    /// holes as the blocks lie now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub punched_bytes: Option<u64>,
    /// Free bytes that cannot be given up because their block holds a byte that
    /// must be kept.
    pub pinned_bytes: u64,
    /// Where the rest is.
    pub kept: KeptBytes,
    /// Where bytes are pinned: what [converting](crate::convert) the disk to one of
    /// smaller blocks would leave, by the free maps alone.
    pub smaller_blocks: Vec<SmallerBlocks>,
    /// The guest's volumes.
    pub volumes: Vec<VolumeReport>,
    /// The parents of a differencing image, its own first.
    pub parents: Vec<Parent>,
    /// Images in the same folder that name this one as their parent. Then nothing is
    /// given up that they could read.
    pub children: Vec<String>,
    /// Those of them that no longer find their parent, because the disk has another
    /// identity; of a plan, those that will not.
    pub orphaned: Vec<String>,
    /// What is odd, in sentences.
    pub notes: Vec<String>,
    /// Which of the locks that keep others out of the file could not be had, and
    /// why; empty where all hold, and of a plan.
    pub unguarded: Vec<String>,
    /// What was read and written; a plan has only what was read.
    pub io: IoReport,
    /// The digest of the live guest bytes, when `--verify` found it unchanged.
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
    /// A report of an image of which nothing is known yet.
    #[must_use]
    pub fn new(path: &Path, mode: Mode) -> Self {
        Report {
            image: path.to_string_lossy().into_owned(),
            format: None,
            image_type: None,
            outcome: Outcome::Failed,
            mode,
            virtual_size: 0,
            block_size: 0,
            blocks: BlockCounts::default(),
            file_size_before: 0,
            file_size_after: 0,
            host_bytes_before: 0,
            host_bytes_after: None,
            punched_bytes: None,
            pinned_bytes: 0,
            kept: KeptBytes::default(),
            smaller_blocks: Vec::new(),
            volumes: Vec::new(),
            parents: Vec::new(),
            children: Vec::new(),
            orphaned: Vec::new(),
            notes: Vec::new(),
            unguarded: Vec::new(),
            io: IoReport::default(),
            verified: None,
            elapsed_seconds: 0.0,
            error: None,
            cause: None,
        }
    }

    /// Enters how it ended and how long it took.
    pub(super) fn finish(&mut self, result: Result<Outcome>, started: Instant) {
        self.elapsed_seconds = started.elapsed().as_secs_f64();
        (self.outcome, self.error, self.cause) = ended(result, Outcome::Failed);
    }
}
