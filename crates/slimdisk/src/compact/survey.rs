//! Judging every block of a disk: free, zero, or live.
//!
//! Free maps are streamed once into one counter a block; a block whose every byte
//! is free goes. Where no trusted map speaks (outside partitions, behind the end
//! of a file system, in volumes that are not trusted) only zeros count, and they
//! are looked for in just those bytes.
//!
//! A block of a differencing image goes when all that the image itself holds of it is
//! free; and where no map speaks, not zeros count but being what the parent shows.

mod counters;
mod judge;
mod order;
mod own;
mod places;
mod search;

use self::judge::Judge;
use self::own::Own;
use self::places::{Content, Place};
use super::report::{KeptBytes, Mode, VolumeReport, VolumeState};
use super::{Hook, Options, Phase, Progress};
use crate::error::Result;
use crate::image::Image;
use crate::partition::{self, PartitionTable, Scheme, lvm};
use crate::ranges::Ranges;
use crate::storage::{Mapped, ReadAt};
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
}

/// What an image without blocks is counted in; nothing of it is ever given up.
const NO_BLOCKS: u64 = 2 << 20;

/// Judges the blocks of `image`. `search` also looks for zeros, in a differencing
/// image for what its parent shows too; without it, blocks that only this could free
/// stay live. `None` if the hook asked to stop.
///
/// A differencing image must have been given its parent. Zeros prove nothing there,
/// for they may hide the parent's data.
pub fn survey(
    image: &dyn Image,
    options: &Options,
    search: bool,
    hook: &mut Hook<'_>,
) -> Result<Option<Survey>> {
    let facts = image.facts();
    let block_size = match facts.block_size {
        0 => NO_BLOCKS,
        size => size,
    };
    let mut judge = Judge {
        image,
        block_size,
        own: Own::read(image, block_size, facts.blocks_total)?,
        free: vec![0; facts.blocks_total as usize],
        judged: Ranges::new(),
        volume_space: Ranges::new(),
        reached: 0,
        stopped: false,
    };
    let mut table = None;
    let mut volumes = Vec::new();
    let mut trusted = Vec::new();
    if options.mode != Mode::Prezeroed {
        let mut found = partition::read_table(image)?;
        if found.scheme != Scheme::Bare && found.untrusted.is_none() {
            found.untrusted = other_use(image)?;
        }
        for Place { mut report, mapping, space, content } in
            places::places(image, &found)?
        {
            judge.reached = judge.reached.max(report.offset.min(image.len()));
            let at =
                Progress { phase: Phase::Map, done: judge.reached, total: image.len() };
            if hook(at).is_break() {
                return Ok(None);
            }
            for range in space.iter() {
                judge.volume_space.insert(range);
            }
            let volume = Mapped::new(image, &mapping);
            let identity = match content {
                Content::Opaque => Err(None),
                Content::Volume(identity) => Ok(identity),
                Content::LogicalVolume => {
                    places::identify_logical(&volume)?.map_err(Some)
                }
            };
            match identity {
                Err(reason) => report.reason = report.reason.or(reason),
                Ok(identity) => {
                    let allow = &options.allow;
                    let (surveyed, file_system) =
                        judge.survey_volume(&volume, identity, allow, hook)?;
                    if judge.stopped {
                        return Ok(None);
                    }
                    if let (VolumeState::Trusted, Some(file_system)) =
                        (surveyed.state, file_system)
                    {
                        trusted.push((file_system, mapping));
                    }
                    report = VolumeReport {
                        partition: report.partition,
                        logical_volume: report.logical_volume,
                        offset: report.offset,
                        length: report.length,
                        ..surveyed
                    };
                }
            }
            volumes.push(report);
        }
        if options.drop_unpartitioned {
            judge.drop_unpartitioned(&found)?;
        }
        let end = Progress { phase: Phase::Map, done: image.len(), total: image.len() };
        if hook(end).is_break() {
            return Ok(None);
        }
        table = Some(found);
    }
    if options.preserve {
        judge.forget_free();
        trusted.clear();
    }
    let mut verdicts = vec![Verdict::Absent; facts.blocks_total as usize];
    let mut candidates = Vec::new();
    for (block, verdict) in (0u32..).zip(&mut verdicts) {
        if image.is_allocated(block) {
            let free = judge.held_free_bytes(block);
            let held = judge.held_bytes(block);
            *verdict = Verdict::Live;
            if held == 0 {
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
            Mode::Full => judge.search_all(&trusted, options, &verdicts, hook)?,
            Mode::Quick | Mode::Prezeroed => judge.search_unknown(&candidates, hook)?,
        };
        let Some(nothing) = found else { return Ok(None) };
        for block in nothing {
            if let Some(verdict) = verdicts.get_mut(block as usize) {
                *verdict = match (judge.held_free_bytes(block), &judge.own) {
                    (0, None) => Verdict::Zero,
                    (0, Some(_)) => Verdict::Parent,
                    _ => Verdict::Free,
                };
            }
        }
    }
    let kept = judge.kept(&verdicts)?;
    Ok(Some(Survey { table, volumes, verdicts, kept }))
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
