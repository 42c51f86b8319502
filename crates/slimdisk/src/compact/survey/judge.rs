//! The running totals of a survey: what each volume says, block by block.

use std::ops::Range;

use super::Verdict;
use super::counters::Counters;
use super::order::Order;
use crate::compact::report::{KeptBytes, VolumeReport, VolumeState};
use crate::compact::{Hook, Phase, Progress};
use crate::error::{Kind, Result};
use crate::image::Image;
use crate::partition::PartitionTable;
use crate::ranges::Ranges;
use crate::storage::{Mapped, Mapping, ReadAt};
use crate::volume::{Allowances, FileSystem, Findings, Identity};

/// The first and the last bytes of a disk that are never given up unread: boot
/// loaders, backup partition tables, dynamic-disk databases.
const DISK_EDGE: u64 = 1 << 20;

/// The same at the end, where a guest that goes by the geometry sees the disk end
/// up to a cylinder (255 heads of 16 sectors) earlier.
const DISK_END: u64 = DISK_EDGE + (2 << 20);

/// How many bytes of the guest's disk pass between two calls of the hook.
const STEP: u64 = 1 << 30;

/// The report of a volume of which nothing is known yet.
pub fn unknown(reason: Option<String>) -> VolumeReport {
    VolumeReport {
        partition: None,
        logical_volume: None,
        offset: 0,
        length: 0,
        filesystem: None,
        label: None,
        state: VolumeState::Unknown,
        reason,
        used_bytes: None,
        free_bytes: None,
    }
}

pub type Surveyed = (VolumeReport, Option<&'static dyn FileSystem>);

/// The running totals of a survey.
pub struct Judge<'a> {
    pub image: &'a dyn Image,
    pub block_size: u64,
    /// For each block, how many of its bytes are proven free.
    pub free: Vec<u32>,
    /// Bytes of the disk for which a trusted map speaks.
    pub judged: Ranges,
    /// Bytes of the disk inside any volume.
    pub volume_space: Ranges,
    /// How far on the disk volumes have been read, for the progress.
    pub reached: u64,
    /// Whether the hook asked to stop while a volume was read.
    pub stopped: bool,
}

impl Judge<'_> {
    pub fn block_range(&self, block: u32) -> Range<u64> {
        let start = u64::from(block) * self.block_size;
        start..start + self.block_size
    }

    pub fn free_bytes(&self, block: u32) -> u64 {
        self.free.get(block as usize).copied().map_or(0, u64::from)
    }

    /// How many bytes of a block no trusted map speaks for.
    pub fn unknown_bytes(&self, block: u32) -> u64 {
        let range = self.block_range(block);
        self.block_size - self.judged.within(range).map(|r| r.end - r.start).sum::<u64>()
    }

    /// Judges a volume by what it was identified as and, if its map can be trusted,
    /// counts what it calls free.
    pub fn survey_volume(
        &mut self,
        volume: &Mapped<'_>,
        identity: Identity,
        allow: &Allowances,
        hook: &mut Hook<'_>,
    ) -> Result<Surveyed> {
        let file_system = match identity {
            Identity::Known(file_system) => file_system,
            Identity::Foreign(name) => {
                let reason = format!(
                    "the free space of {name} is not read; judged by zeros alone"
                );
                let report = VolumeReport {
                    filesystem: Some(name.into()),
                    ..unknown(Some(reason))
                };
                return Ok((report, None));
            }
            Identity::Ambiguous(names) => {
                let reason = format!(
                    "signatures of {} in one place: no telling which one is live; if one is a \
                     leftover, remove its signature (wipefs in Linux)",
                    names.join(" and ")
                );
                let state = VolumeState::Untrusted;
                return Ok((VolumeReport { state, ..unknown(Some(reason)) }, None));
            }
            Identity::Nothing => {
                let reason =
                    "no file system was recognised; judged by zeros alone".to_owned();
                return Ok((unknown(Some(reason)), None));
            }
        };
        // The volume's own counters: they count for the disk only if it is trusted.
        let mapping = volume.mapping();
        let mut counters = Counters::new(mapping, self.block_size);
        let mut order = Order::default();
        let mut next_step = 0;
        let total = self.image.len();
        let (stopped, reached) = (&mut self.stopped, &mut self.reached);
        let found = file_system.survey(volume, allow, &mut |range| {
            let start = range.start;
            if order.accepts(&range, volume.len()) {
                mapping.pieces(range, &mut |piece| {
                    *reached = piece.start.max(*reached);
                    counters.add(piece);
                });
            }
            if start >= next_step {
                next_step = start.saturating_add(STEP);
                let done = *reached;
                // A request to stop is heeded after this volume.
                *stopped |= hook(Progress { phase: Phase::Map, done, total }).is_break();
            }
        });
        let mut findings = match found {
            Ok(findings) => findings,
            Err(error) if error.kind() == Kind::InvalidImage => Findings {
                filesystem: file_system.name().into(),
                untrusted: Some(format!(
                    "{} volume is damaged: {}",
                    file_system.name(),
                    error.chain()
                )),
                ..Findings::default()
            },
            Err(error) => return Err(error),
        };
        if findings.untrusted.is_none() {
            findings.untrusted = order.broken(&findings, volume.len());
        }
        let mut report = VolumeReport {
            filesystem: Some(findings.filesystem.clone()),
            label: findings.label.clone(),
            ..unknown(findings.untrusted.clone())
        };
        if findings.untrusted.is_some() {
            report.state = VolumeState::Untrusted;
            return Ok((report, None));
        }
        report.state = VolumeState::Trusted;
        report.free_bytes = Some(findings.free_bytes);
        report.used_bytes = Some(findings.length - findings.free_bytes);
        let judged = &mut self.judged;
        mapping.pieces(0..findings.length, &mut |piece| judged.insert(piece));
        self.add(&counters);
        Ok((report, Some(file_system)))
    }

    /// Counts what was found free for the disk.
    fn add(&mut self, counters: &Counters) {
        for (block, count) in counters.iter() {
            let total = usize::try_from(block).ok().and_then(|i| self.free.get_mut(i));
            if let Some(total) = total {
                *total += count;
            }
        }
    }

    /// Counts as free what lies in no volume (outside all partitions, or not given to
    /// a logical volume), but for the tables and the disk's edges.
    pub fn drop_unpartitioned(&mut self, table: &PartitionTable) {
        let len = self.image.len();
        if table.untrusted.is_some() || len < DISK_EDGE + DISK_END {
            return;
        }
        let mut kept = self.volume_space.clone();
        for range in table.reserved.iter() {
            kept.insert(range);
        }
        let whole = Mapping::contiguous(0..len);
        let mut counters = Counters::new(&whole, self.block_size);
        for range in kept.gaps(DISK_EDGE..len - DISK_END).iter() {
            counters.add(range.clone());
            self.judged.insert(range);
        }
        self.add(&counters);
    }

    /// Where the bytes of live blocks belong to.
    pub fn kept(&self, verdicts: &[Verdict]) -> KeptBytes {
        let mut kept = KeptBytes::default();
        for (block, verdict) in (0u32..).zip(verdicts) {
            if *verdict == Verdict::Live {
                let range = self.block_range(block);
                let sum = |set: &Ranges| {
                    set.within(range.clone()).map(|r| r.end - r.start).sum::<u64>()
                };
                let free = self.free_bytes(block);
                let judged = sum(&self.judged);
                let unjudged: u64 = self
                    .judged
                    .gaps(range.clone())
                    .iter()
                    .map(|gap| {
                        self.volume_space
                            .within(gap)
                            .map(|r| r.end - r.start)
                            .sum::<u64>()
                    })
                    .sum();
                kept.pinned += free;
                kept.used += judged - free;
                kept.unjudged += unjudged;
                kept.outside += self.block_size - judged - unjudged;
            }
        }
        kept
    }
}
