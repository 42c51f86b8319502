//! Judging every block of a disk: free, zero, or live.
//!
//! Free maps are streamed once into one counter a block; a block whose every byte
//! is free goes. Where no trusted map speaks (outside partitions, behind the end
//! of a file system, in volumes that are not trusted) only zeros count, and they
//! are looked for in just those bytes.
//!
//! A block of a differencing image goes when all that the image itself holds of it is
//! free; and where no map speaks, being what the parent shows counts. Zeros count there
//! only in a format that can say of a block without a place that it hides the parent.

mod counters;
mod free_space;
mod judge;
mod order;
mod own;
mod places;
mod search;
mod volumes;

pub(super) use self::free_space::FreeSpace;
use self::judge::Judge;
use self::volumes::Volumes;
use super::report::{KeptBytes, Mode, SmallerBlocks, VolumeReport};
use super::zeros::Shown;
use super::{Hook, Options, Phase, Progress};
use crate::error::Result;
use crate::image::Image;
use crate::partition::{self, PartitionTable, Scheme, lvm};
use crate::storage::ReadAt;
use crate::volume::signature;

/// What becomes of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Verdict {
    /// It has no place in the file.
    Absent,
    /// It holds a byte that must be kept, or that nobody can judge.
    Live,
    /// Trusted volumes call all of it free, or all of it that is not zero.
    Free,
    /// All of it is zero.
    Zero,
    /// In a differencing image: its parent shows the same.
    Parent,
    /// In a differencing image: what of it is not free is zero, and its parent shows
    /// something else there.
    #[serde(rename = "free")]
    Blank,
}

/// What was learnt of a disk.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Survey {
    /// The partition table; `None` if none was read ([`Mode::Prezeroed`]).
    pub table: Option<PartitionTable>,
    /// The volumes, in the order of where they begin on the disk.
    pub volumes: Vec<VolumeReport>,
    /// One verdict a block of the disk.
    pub verdicts: Vec<Verdict>,
    /// Where the bytes of the live blocks belong to.
    pub kept: KeptBytes,
    /// What smaller blocks would hold of the live ones, if that was asked for and bytes
    /// are pinned.
    pub smaller_blocks: Vec<SmallerBlocks>,
    /// What the user should know of how the volumes were judged.
    pub notes: Vec<String>,
    /// What is free, to be asked for range by range.
    pub(super) free_space: FreeSpace,
}

/// Judges the blocks of `image`. `search` also looks for zeros, in a differencing
/// image for what its parent shows too; without it, blocks that only this could free
/// stay live. `None` if the hook asked to stop.
///
/// A differencing image must have been given its parent, whose data zeros may hide.
pub fn survey(
    image: &dyn Image,
    options: &Options,
    search: bool,
    hook: &mut Hook<'_>,
) -> Result<Option<Survey>> {
    let mut judge = Judge::new(image, options)?;
    let mut table = None;
    let mut volumes = Volumes::default();
    if options.mode != Mode::Prezeroed {
        let mut found = partition::read_table_with_sectors(image, image.sector_size())?;
        if found.scheme != Scheme::Bare && found.untrusted.is_none() {
            found.untrusted = other_use(image)?;
        }
        let places = places::places(image, &found)?;
        match volumes::judge(&mut judge, &places, &options.allow, hook)? {
            Some(judged) => volumes = judged,
            None => return Ok(None),
        }
        if options.drop_unpartitioned && !volumes.hibernated {
            judge.drop_unpartitioned(&found)?;
        }
        let end = Progress { phase: Phase::Map, done: image.len(), total: image.len() };
        if hook(end).is_break() {
            return Ok(None);
        }
        table = Some(found);
    }
    if options.preserve {
        judge.begin_again();
        volumes.free_space.trusted.clear();
    }
    if options.drop_unpartitioned {
        // What is judged outside the volumes was dropped.
        volumes.free_space.dropped = judge.judged_outside(0..image.len());
    }
    let mut verdicts = vec![Verdict::Absent; judge.free.len()];
    let mut candidates = Vec::new();
    for (block, verdict) in (0u32..).zip(&mut verdicts) {
        if image.is_allocated(block) {
            let free = judge.held_free_bytes(block);
            let held = judge.held_bytes(block);
            *verdict = Verdict::Live;
            if image.reads_as_zeros(block) {
                // Its place is all there is to give up.
                *verdict = Verdict::Zero;
            } else if held == 0 {
                *verdict = Verdict::Parent;
            } else if free == held {
                *verdict = Verdict::Free;
            } else if free + judge.unknown(block)?.total() == held {
                candidates.push(block);
            }
        }
    }
    if search {
        let found = match options.mode {
            Mode::Full => judge.search_all(&volumes, options, &verdicts, hook)?,
            Mode::Quick | Mode::Prezeroed => judge.search_unknown(&candidates, hook)?,
        };
        let Some(nothing) = found else { return Ok(None) };
        for (block, shown) in nothing {
            if let Some(verdict) = verdicts.get_mut(block as usize) {
                let is_child = judge.own.is_some();
                *verdict = match (judge.held_free_bytes(block), shown) {
                    (0, Shown::Zeros) => Verdict::Zero,
                    (0, Shown::Parents) => Verdict::Parent,
                    (_, Shown::Zeros) if is_child => Verdict::Blank,
                    (_, Shown::Zeros | Shown::Parents) => Verdict::Free,
                };
            }
        }
    }
    let kept = judge.kept(&verdicts)?;
    let Volumes { reports, notes, free_space, .. } = volumes;
    let smaller_blocks = match kept.pinned {
        0 => Vec::new(),
        _ => judge.finer.result(&verdicts, &judge.whole),
    };
    let volumes = reports;
    Ok(Some(Survey { table, volumes, verdicts, kept, smaller_blocks, notes, free_space }))
}

/// What a disk with a partition table is used for beside its partitions, as far as it
/// shows: reason enough not to believe the table.
fn other_use(disk: &dyn ReadAt) -> Result<Option<String>> {
    if let Some(name) = signature::disk_membership(disk)? {
        return Ok(Some(format!(
            "the whole disk is a member of {name}: what its partitions show holds for the \
             array alone; compact the disks of an array by zeros alone"
        )));
    }
    Ok(lvm::has_label(disk)?.then(|| {
        "the whole disk bears the label of an LVM2 physical volume beside its partition \
         table: no telling which one is live; if the label is a leftover, remove it (wipefs \
         in Linux)"
            .to_owned()
    }))
}
