//! Judging every block of a disk: free, zero, or live.
//!
//! Free maps are streamed once into one counter a block; a block whose every byte
//! is free goes. Where no trusted map speaks (outside partitions, behind the end
//! of a file system, in volumes that are not trusted) only zeros count, and they
//! are looked for in just those bytes.

use std::ops::Range;

use super::report::{KeptBytes, Mode, VolumeReport, VolumeState};
use super::zeros::{self, Job};
use super::{Hook, Options, Phase, Progress};
use crate::error::{Kind, Result};
use crate::image::Image;
use crate::partition::{self, PartitionTable, Scheme};
use crate::ranges::Ranges;
use crate::storage::{ReadAt, Section};
use crate::volume::{self, Allowances, FileSystem, Findings, Identity, signature};

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
}

/// What was learnt of a disk.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Survey {
    /// The partition table; `None` if none was read ([`Mode::Prezeroed`]).
    pub table: Option<PartitionTable>,
    /// The volumes, in the order of the disk.
    pub volumes: Vec<VolumeReport>,
    /// One verdict a block of the disk.
    pub verdicts: Vec<Verdict>,
    /// Where the bytes of the live blocks belong to.
    pub kept: KeptBytes,
}

/// The first and the last bytes of a disk that are never given up unread: boot
/// loaders, backup partition tables, dynamic-disk databases.
const DISK_EDGE: u64 = 1 << 20;

/// The same at the end, where a guest that goes by the geometry sees the disk end
/// up to a cylinder (255 heads of 16 sectors) earlier.
const DISK_END: u64 = DISK_EDGE + (2 << 20);

/// How many bytes of the guest's disk pass between two calls of the hook.
const STEP: u64 = 1 << 30;

/// Judges the blocks of `image`. `search` also looks for zeros; without it, blocks
/// that only zeros could free stay live. `None` if the hook asked to stop.
pub fn survey(
    image: &dyn Image,
    options: &Options,
    search: bool,
    hook: &mut Hook<'_>,
) -> Result<Option<Survey>> {
    let facts = image.facts();
    let mut judge = Judge {
        image,
        block_size: facts.block_size,
        free: vec![0; facts.blocks_total as usize],
        judged: Ranges::new(),
        volume_space: Ranges::new(),
        stopped: false,
    };
    let mut table = None;
    let mut volumes = Vec::new();
    let mut trusted = Vec::new();
    if options.mode != Mode::Prezeroed {
        let mut found = partition::read_table(image)?;
        if found.scheme != Scheme::Bare
            && found.untrusted.is_none()
            && let Some(name) = signature::disk_membership(image)?
        {
            found.untrusted = Some(format!(
                "the whole disk is a member of {name}: what its partitions show holds for the \
                 array alone; compact the disks of an array by zeros alone"
            ));
        }
        for Place { partition, range, opaque } in places(image, &found) {
            let at =
                Progress { phase: Phase::Map, done: range.start, total: image.len() };
            if hook(at).is_break() {
                return Ok(None);
            }
            let volume = Section::new(image, range.clone());
            let (report, file_system) = match opaque {
                Some(reason) => (unknown(Some(reason)), None),
                None => {
                    judge.survey_volume(&volume, range.start, &options.allow, hook)?
                }
            };
            if judge.stopped {
                return Ok(None);
            }
            judge.volume_space.insert(range.clone());
            if let (VolumeState::Trusted, Some(file_system)) = (report.state, file_system)
            {
                trusted.push((file_system, range.clone()));
            }
            volumes.push(VolumeReport {
                partition,
                offset: range.start,
                length: range.end - range.start,
                ..report
            });
        }
        if options.drop_unpartitioned {
            judge.drop_unpartitioned(&found);
        }
        let end = Progress { phase: Phase::Map, done: image.len(), total: image.len() };
        if hook(end).is_break() {
            return Ok(None);
        }
        table = Some(found);
    }
    let mut verdicts = vec![Verdict::Absent; facts.blocks_total as usize];
    let mut candidates = Vec::new();
    for (block, verdict) in (0u32..).zip(&mut verdicts) {
        if image.is_allocated(block) {
            let unknown = judge.unknown_bytes(block);
            let free = judge.free_bytes(block);
            *verdict = Verdict::Live;
            if free == judge.block_size {
                *verdict = Verdict::Free;
            } else if free + unknown == judge.block_size {
                candidates.push(block);
            }
        }
    }
    if search {
        let found = match options.mode {
            Mode::Full => judge.search_all(&trusted, options, &verdicts, hook)?,
            Mode::Quick | Mode::Prezeroed => judge.search_unknown(&candidates, hook)?,
        };
        let Some(zero) = found else { return Ok(None) };
        for block in zero {
            if let Some(verdict) = verdicts.get_mut(block as usize) {
                *verdict = if judge.free_bytes(block) > 0 {
                    Verdict::Free
                } else {
                    Verdict::Zero
                };
            }
        }
    }
    let kept = judge.kept(&verdicts);
    Ok(Some(Survey { table, volumes, verdicts, kept }))
}

/// Where a volume may lie.
struct Place {
    partition: Option<u32>,
    range: Range<u64>,
    /// Why it is not read, if it is not.
    opaque: Option<String>,
}

/// The partitions, or all of a disk without a partition table.
fn places(disk: &dyn ReadAt, table: &PartitionTable) -> Vec<Place> {
    let distrust = &table.untrusted;
    match table.scheme {
        Scheme::Bare => {
            vec![Place {
                partition: None,
                range: 0..disk.len(),
                opaque: distrust.clone(),
            }]
        }
        _ => table
            .partitions
            .iter()
            .map(|partition| Place {
                partition: Some(partition.number),
                range: partition.range.clone(),
                opaque: distrust.clone().or(partition.opaque.map(str::to_owned)),
            })
            .collect(),
    }
}

/// The report of a volume of which nothing is known yet.
fn unknown(reason: Option<String>) -> VolumeReport {
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

type Surveyed = (VolumeReport, Option<&'static dyn FileSystem>);

/// The running totals of a survey.
struct Judge<'a> {
    image: &'a dyn Image,
    block_size: u64,
    /// For each block, how many of its bytes are proven free.
    free: Vec<u32>,
    /// Bytes of the disk for which a trusted map speaks.
    judged: Ranges,
    /// Bytes of the disk inside any volume.
    volume_space: Ranges,
    /// Whether the hook asked to stop while a volume was read.
    stopped: bool,
}

impl Judge<'_> {
    fn block_range(&self, block: u32) -> Range<u64> {
        let start = u64::from(block) * self.block_size;
        start..start + self.block_size
    }

    fn free_bytes(&self, block: u32) -> u64 {
        self.free.get(block as usize).copied().map_or(0, u64::from)
    }

    /// How many bytes of a block no trusted map speaks for.
    fn unknown_bytes(&self, block: u32) -> u64 {
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
    fn survey_volume(
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
        let block_size = self.block_size.max(1);
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
    fn drop_unpartitioned(&mut self, table: &PartitionTable) {
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

    /// Reads, of blocks that are free as far as any map speaks, the bytes that no
    /// map speaks for.
    fn search_unknown(
        &self,
        candidates: &[u32],
        hook: &mut Hook<'_>,
    ) -> Result<Option<Vec<u32>>> {
        let total = candidates.iter().map(|block| self.unknown_bytes(*block)).sum();
        zeros::search(self.image, total, hook, |submit| {
            for block in candidates {
                let range = self.block_range(*block);
                let job = Job::new(*block, range.start, &self.judged.gaps(range));
                if submit(job)?.is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Reads every block that is not free already, all of it but its free bytes,
    /// whose ranges the maps are asked for once more.
    fn search_all(
        &self,
        trusted: &[(&'static dyn FileSystem, Range<u64>)],
        options: &Options,
        verdicts: &[Verdict],
        hook: &mut Hook<'_>,
    ) -> Result<Option<Vec<u32>>> {
        let wanted = |block: u32| verdicts.get(block as usize) == Some(&Verdict::Live);
        let blocks = u32::try_from(verdicts.len()).unwrap_or(u32::MAX);
        let total = (0..blocks)
            .filter(|block| wanted(*block))
            .map(|block| self.block_size - self.free_bytes(block))
            .sum();
        zeros::search(self.image, total, hook, |submit| {
            let mut next = 0;
            let mut free = Ranges::new();
            let mut stopped = false;
            // Submits all blocks that end before `upto`: their free ranges are
            // complete. Keeps of `free` only what later blocks need.
            let mut advance = |upto: u64, free: &mut Ranges| -> Result<()> {
                while !stopped && next < blocks && self.block_range(next).end <= upto {
                    let range = self.block_range(next);
                    if wanted(next) {
                        let mut gone = free.clone();
                        if options.drop_unpartitioned && self.free_bytes(next) > 0 {
                            // What is judged outside the volumes was dropped.
                            for gap in self.volume_space.gaps(range.clone()).iter() {
                                for dropped in self.judged.within(gap) {
                                    gone.insert(dropped);
                                }
                            }
                        }
                        let job = Job::new(next, range.start, &gone.gaps(range.clone()));
                        stopped = submit(job)?.is_break();
                    }
                    next += 1;
                    let rest = free.within(range.end..u64::MAX).collect();
                    *free = rest;
                }
                Ok(())
            };
            for (file_system, range) in trusted {
                let volume = Section::new(self.image, range.clone());
                let mut failed = None;
                let mut order = Order::default();
                let findings =
                    file_system.survey(&volume, &options.allow, &mut |found| {
                        if !order.accepts(&found, volume.len()) {
                            return;
                        }
                        let found = range.start + found.start..range.start + found.end;
                        if failed.is_none() {
                            failed = advance(found.start, &mut free).err();
                            self.insert_pieces(
                                found,
                                &mut free,
                                &mut advance,
                                &mut failed,
                            );
                        }
                    })?;
                if let Some(error) = failed {
                    return Err(error);
                }
                if findings.untrusted.is_some()
                    || order.broken(&findings, volume.len()).is_some()
                {
                    return Err(crate::error::Error::new(
                        Kind::Unexpected,
                        "a volume changed its state while it was read",
                    ));
                }
            }
            advance(u64::MAX, &mut free)
        })
    }

    /// Adds a free range block by block, so that what is held never exceeds what
    /// one block needs.
    fn insert_pieces(
        &self,
        mut range: Range<u64>,
        free: &mut Ranges,
        advance: &mut impl FnMut(u64, &mut Ranges) -> Result<()>,
        failed: &mut Option<crate::error::Error>,
    ) {
        while range.start < range.end && failed.is_none() {
            let end =
                range.end.min((range.start / self.block_size + 1) * self.block_size);
            free.insert(range.start..end);
            range.start = end;
            *failed = advance(end, free).err();
        }
    }

    /// Where the bytes of live blocks belong to.
    fn kept(&self, verdicts: &[Verdict]) -> KeptBytes {
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

/// Watches that a map's ranges ascend, do not overlap and stay in the volume.
#[derive(Default)]
struct Order {
    end: u64,
    total: u64,
    breach: Option<u64>,
}

impl Order {
    fn accepts(&mut self, range: &Range<u64>, len: u64) -> bool {
        if range.start < self.end || range.end < range.start || range.end > len {
            self.breach.get_or_insert(range.start);
        }
        self.end = self.end.max(range.end);
        self.total += range.end.saturating_sub(range.start);
        self.breach.is_none()
    }

    /// Why the ranges cannot be believed, if so.
    fn broken(&self, findings: &Findings, len: u64) -> Option<String> {
        let Findings { filesystem, length, free_bytes, .. } = findings;
        if let Some(at) = self.breach {
            return Some(format!(
                "{filesystem}: its free ranges are out of order at byte {at:#x}"
            ));
        }
        if *length > len || self.end > *length || self.total != *free_bytes {
            return Some(format!(
                "{filesystem}: its free ranges ({} bytes up to {:#x}) do not fit its size \
                 ({length} bytes, {free_bytes} free)",
                self.total, self.end
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said against `ranges` of a file system that has `length` bytes in a
    /// volume of 100.
    fn fault(ranges: &[Range<u64>], length: u64, free_bytes: u64) -> Option<String> {
        let mut order = Order::default();
        for range in ranges {
            order.accepts(range, 100);
        }
        let findings = Findings { length, free_bytes, ..Findings::default() };
        order.broken(&findings, 100)
    }

    #[test]
    fn ranges_that_do_not_ascend_within_the_volume_are_not_believed() {
        assert_eq!(fault(&[0..10, 10..20, 90..95], 95, 25), None);
        let backwards = Range { start: 40, end: 30 };
        for ranges in [
            vec![10..20, 0..10],
            vec![0..10, 9..19],
            vec![5..10, 5..10],
            vec![90..101],
            vec![backwards],
        ] {
            let total =
                ranges.iter().map(|r: &Range<u64>| r.end.saturating_sub(r.start)).sum();
            let fault = fault(&ranges, 100, total).unwrap();
            assert!(fault.contains("out of order"), "{ranges:?}: {fault}");
        }
        for (length, free) in [(94, 25), (101, 25), (95, 24), (95, 26)] {
            let fault = fault(&[0..10, 10..20, 90..95], length, free).unwrap();
            assert!(fault.contains("do not fit its size"), "{length} {free}: {fault}");
        }
    }
}
