//! The running totals of a survey: what each volume says, block by block.

use std::ops::Range;

use super::Verdict;
use super::order::Order;
use crate::compact::report::{KeptBytes, VolumeReport, VolumeState};
use crate::compact::{Hook, Phase, Progress};
use crate::error::{Kind, Result};
use crate::image::Image;
use crate::partition::{PartitionTable, Scheme};
use crate::ranges::Ranges;
use crate::storage::ReadAt;
use crate::volume::{self, Allowances, FileSystem, Findings, Identity};

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

    /// Adds free bytes of the disk to the counters from block `first` on.
    fn count(counters: &mut [u32], first: u64, block_size: u64, mut range: Range<u64>) {
        while range.start < range.end {
            let block = range.start / block_size;
            let end = range.end.min((block + 1) * block_size);
            if let Some(counter) =
                usize::try_from(block - first).ok().and_then(|i| counters.get_mut(i))
            {
                // At most a block's size, which fits.
                *counter += u32::try_from(end - range.start).unwrap_or(0);
            }
            range.start = end;
        }
    }

    /// Identifies the volume at `start` and, if its map can be trusted, counts
    /// what it calls free.
    pub fn survey_volume(
        &mut self,
        volume: &dyn ReadAt,
        start: u64,
        allow: &Allowances,
        hook: &mut Hook<'_>,
    ) -> Result<Surveyed> {
        let file_system = match volume::identify(volume)? {
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
        let block_size = self.block_size;
        let first = start / block_size;
        let blocks = (start + volume.len()).div_ceil(block_size) - first;
        let mut counters = vec![0u32; usize::try_from(blocks).unwrap_or(0)];
        let mut order = Order::default();
        let mut next_step = start;
        let total = self.image.len();
        let stopped = &mut self.stopped;
        let found = file_system.survey(volume, allow, &mut |range| {
            if order.accepts(&range, volume.len()) {
                Self::count(
                    &mut counters,
                    first,
                    block_size,
                    start + range.start..start + range.end,
                );
            }
            if start + range.start >= next_step {
                next_step = start + range.start + STEP;
                let done = start + range.start;
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
        self.judged.insert(start..start + findings.length);
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        for (total, own) in self.free.iter_mut().skip(first).zip(&counters) {
            *total += own;
        }
        Ok((report, Some(file_system)))
    }

    /// Counts as free what lies outside all partitions, but for the tables and
    /// the disk's edges.
    pub fn drop_unpartitioned(&mut self, table: &PartitionTable) {
        let len = self.image.len();
        if table.scheme == Scheme::Bare
            || table.untrusted.is_some()
            || len < DISK_EDGE + DISK_END
        {
            return;
        }
        let mut kept = self.volume_space.clone();
        for range in table.reserved.iter() {
            kept.insert(range);
        }
        for range in kept.gaps(DISK_EDGE..len - DISK_END).iter() {
            Self::count(&mut self.free, 0, self.block_size, range.clone());
            self.judged.insert(range);
        }
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
