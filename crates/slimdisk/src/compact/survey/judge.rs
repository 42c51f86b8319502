//! The running totals of a survey: what each volume says, block by block.

use std::ops::Range;

use super::Verdict;
use super::counters::Counters;
use super::order::Order;
use super::own::{self, Own};
use crate::compact::finer::{self, Finer, Whole};
use crate::compact::report::{KeptBytes, VolumeReport, VolumeState};
use crate::compact::zeros::Alike;
use crate::compact::{Hook, Options, Phase, Progress};
use crate::error::{Kind, Result};
use crate::image::Image;
use crate::partition::PartitionTable;
use crate::ranges::Ranges;
use crate::storage::{Mapped, Mapping, ReadAt};
use crate::volume::{Allowances, FileSystem, Findings, Identity, signature};

/// The first and the last bytes of a disk that are never given up unread: boot
/// loaders, backup partition tables, dynamic-disk databases.
const DISK_EDGE: u64 = 1 << 20;

/// The same at the end, where a guest that goes by the geometry sees the disk end
/// up to a cylinder (255 heads of 16 sectors) earlier.
const DISK_END: u64 = DISK_EDGE + (2 << 20);

/// What an image without blocks is counted in; nothing of it is ever given up.
const NO_BLOCKS: u64 = 2 << 20;

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
        swap_bytes: None,
    }
}

/// What came of judging one volume.
pub struct Surveyed {
    pub report: VolumeReport,
    /// The file system whose map was counted, if it is trusted.
    pub file_system: Option<&'static dyn FileSystem>,
    /// A sleeping system will go on with it, and with others of the disk.
    pub hibernated: bool,
    /// Whether it was unmounted, as far as it tells.
    pub at_rest: Option<bool>,
    /// Whether it might hold anything that was not seen.
    pub unseen: bool,
}

impl Surveyed {
    /// A volume whose map is not counted.
    fn uncounted(report: VolumeReport) -> Self {
        Surveyed {
            report,
            file_system: None,
            hibernated: false,
            at_rest: None,
            unseen: true,
        }
    }
}

/// The report of a volume that bears several signatures.
fn ambiguous(identity: &Identity) -> VolumeReport {
    let reason = format!(
        "signatures of {} in one place: no telling which one is live; if one is a \
         leftover, remove its signature (wipefs in Linux)",
        identity.names().join(" and ")
    );
    VolumeReport { state: VolumeState::Untrusted, ..unknown(Some(reason)) }
}

/// The running totals of a survey.
pub struct Judge<'a> {
    pub image: &'a dyn Image,
    pub block_size: u64,
    /// For each block, how many of its bytes are proven free.
    pub free: Vec<u32>,
    /// For each block, how many smaller ones in it are free, if that is asked for.
    pub whole: Vec<Whole>,
    pub finer: Finer,
    /// Of a differencing image, what it holds itself.
    pub own: Option<Own<'a>>,
    /// What it need not hold because its parent shows the same.
    pub alike: Alike,
    /// Bytes of the disk for which a trusted map speaks.
    pub judged: Ranges,
    /// Bytes of the disk inside any volume.
    pub volume_space: Ranges,
    /// How far on the disk volumes have been read, for the progress.
    pub reached: u64,
    /// Whether the hook asked to stop while a volume was read.
    pub stopped: bool,
}

impl<'a> Judge<'a> {
    pub fn new(image: &'a dyn Image, options: &Options) -> Result<Self> {
        let facts = image.facts();
        let block_size = match facts.block_size {
            0 => NO_BLOCKS,
            size => size,
        };
        let finer =
            if options.smaller_blocks { Finer::of(image) } else { Finer::default() };
        let counted = if finer.is_idle() { 0 } else { facts.blocks_total as usize };
        Ok(Judge {
            whole: vec![Whole::default(); counted],
            finer,
            image,
            block_size,
            own: Own::read(image, block_size, facts.blocks_total)?,
            alike: if options.distant_parent { Alike::Zeros } else { Alike::Any },
            free: vec![0; facts.blocks_total as usize],
            judged: Ranges::new(),
            volume_space: Ranges::new(),
            reached: 0,
            stopped: false,
        })
    }
}

impl Judge<'_> {
    pub fn block_range(&self, block: u32) -> Range<u64> {
        let start = u64::from(block) * self.block_size;
        start..start + self.block_size
    }

    pub fn free_bytes(&self, block: u32) -> u64 {
        self.free.get(block as usize).copied().map_or(0, u64::from)
    }

    /// How many bytes of a block with a place the image itself holds.
    pub fn held_bytes(&self, block: u32) -> u64 {
        self.own.as_ref().map_or(self.block_size, |own| own.bytes(block))
    }

    /// How many of them are proven free.
    pub fn held_free_bytes(&self, block: u32) -> u64 {
        self.own.as_ref().map_or_else(|| self.free_bytes(block), |own| own.free(block))
    }

    /// Which bytes of the disk in a block with a place the image itself holds.
    pub fn held(&self, block: u32) -> Result<Ranges> {
        let start = u64::from(block) * self.block_size;
        let held = own::of_block(self.image, block, self.block_size)?;
        Ok(held.iter().map(|range| start + range.start..start + range.end).collect())
    }

    /// Which of them no trusted map speaks for.
    pub fn unknown(&self, block: u32) -> Result<Ranges> {
        let mut unknown = Ranges::new();
        for range in self.held(block)?.iter() {
            for gap in self.judged.gaps(range).iter() {
                unknown.insert(gap);
            }
        }
        Ok(unknown)
    }

    /// What of a range of the disk is judged though it is in no volume.
    pub fn judged_outside(&self, range: Range<u64>) -> Ranges {
        let mut outside = Ranges::new();
        for gap in self.volume_space.gaps(range).iter() {
            for range in self.judged.within(gap) {
                outside.insert(range);
            }
        }
        outside
    }

    /// Forgets what was counted, as if no volume had been judged.
    pub fn begin_again(&mut self) {
        self.free.fill(0);
        self.whole.fill(Whole::default());
        if let Some(own) = &mut self.own {
            own.free.fill(0);
        }
        self.judged = Ranges::new();
    }

    /// Judges a volume by what it was identified as and, if its map can be trusted,
    /// counts what it calls free. `suspect` is the name of a volume that may hold a
    /// sleeping system: it takes the trust from all that need not have been unmounted.
    pub fn survey_volume(
        &mut self,
        volume: &Mapped<'_>,
        identity: &Identity,
        allow: &Allowances,
        suspect: Option<&str>,
        hook: &mut Hook<'_>,
    ) -> Result<Surveyed> {
        let file_system = match identity {
            Identity::Known(file_system) => *file_system,
            Identity::Foreign(name) => {
                let reason = format!(
                    "the free space of {name} is not read; judged by zeros alone"
                );
                let report = VolumeReport {
                    filesystem: Some((*name).into()),
                    ..unknown(Some(reason))
                };
                let hibernated = *name == signature::HIBERNATION;
                return Ok(Surveyed { hibernated, ..Surveyed::uncounted(report) });
            }
            Identity::Ambiguous { known, foreign } => {
                // Whichever it is, a sleeping system counts for other volumes.
                let mut hibernated = foreign.contains(&signature::HIBERNATION);
                for file_system in known {
                    let asked = file_system.survey(volume, allow, &mut |_| ());
                    hibernated |= asked.is_ok_and(|findings| findings.hibernated);
                }
                let report = ambiguous(identity);
                return Ok(Surveyed { hibernated, ..Surveyed::uncounted(report) });
            }
            Identity::Nothing => {
                let reason =
                    "no file system was recognised; judged by zeros alone".to_owned();
                let report = unknown(Some(reason));
                return Ok(Surveyed { unseen: false, ..Surveyed::uncounted(report) });
            }
        };
        // The volume's own counters: they count for the disk only if it is trusted.
        let mapping = volume.mapping();
        let mut counters = Counters::new(mapping, self.block_size, &self.finer);
        let mut of_own = self.own.as_ref().map(|_| counters.clone());
        let mut unreadable = None;
        let mut order = Order::default();
        let mut next_step = 0;
        let total = self.image.len();
        let (stopped, reached) = (&mut self.stopped, &mut self.reached);
        let own = &mut self.own;
        let found = file_system.survey(volume, allow, &mut |range| {
            let start = range.start;
            if order.accepts(&range, volume.len()) {
                mapping.pieces(range, &mut |piece| {
                    *reached = piece.start.max(*reached);
                    if let (Some(own), Some(of_own)) = (own.as_mut(), &mut of_own) {
                        let added = own.pieces(piece.clone(), &mut |p| of_own.add(p));
                        unreadable = unreadable.take().or(added.err());
                    }
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
        if let Some(error) = unreadable {
            return Err(error);
        }
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
        if findings.untrusted.is_none()
            && findings.at_rest != Some(true)
            && findings.swap_bytes == 0
            && let Some(name) = suspect
        {
            findings.untrusted = Some(format!(
                "nothing on the volume tells that it was unmounted, and {name}, which cannot \
                 be looked into, may hold a hibernated system that goes on with it: shut that \
                 system down fully"
            ));
        }
        let mut report = VolumeReport {
            filesystem: Some(findings.filesystem.clone()),
            label: findings.label.clone(),
            ..unknown(findings.untrusted.clone())
        };
        if findings.untrusted.is_some() {
            report.state = VolumeState::Untrusted;
            return Ok(Surveyed {
                hibernated: findings.hibernated,
                at_rest: Some(false),
                unseen: false,
                ..Surveyed::uncounted(report)
            });
        }
        report.state = VolumeState::Trusted;
        report.free_bytes = Some(findings.free_bytes);
        report.used_bytes = Some(findings.length - findings.free_bytes);
        report.swap_bytes = Some(findings.swap_bytes);
        // Sorted first: adding to the end of a set is quick.
        let mut judged: Vec<_> = self.judged.iter().collect();
        mapping.pieces(0..findings.length, &mut |piece| judged.push(piece));
        judged.sort_unstable_by_key(|range| range.start);
        self.judged = judged.into_iter().collect();
        add(&counters, &mut self.free);
        self.count_smaller(&counters);
        if let (Some(own), Some(of_own)) = (&mut self.own, &of_own) {
            add(of_own, &mut own.free);
        }
        Ok(Surveyed {
            report,
            file_system: Some(file_system),
            hibernated: false,
            at_rest: findings.at_rest,
            unseen: false,
        })
    }

    /// Counts as free what lies in no volume (outside all partitions, or not given to
    /// a logical volume), but for the tables and the disk's edges.
    pub fn drop_unpartitioned(&mut self, table: &PartitionTable) -> Result<()> {
        let len = self.image.len();
        if table.untrusted.is_some() || len < DISK_EDGE + DISK_END {
            return Ok(());
        }
        let mut kept = self.volume_space.clone();
        for range in table.reserved.iter() {
            kept.insert(range);
        }
        let whole = Mapping::contiguous(0..len);
        let mut counters = Counters::new(&whole, self.block_size, &self.finer);
        for range in kept.gaps(DISK_EDGE..len - DISK_END).iter() {
            counters.add(range.clone());
            self.judged.insert(range);
        }
        add(&counters, &mut self.free);
        self.count_smaller(&counters);
        if let Some(own) = &mut self.own {
            let mut counters = Counters::new(&whole, self.block_size, &self.finer);
            for range in kept.gaps(DISK_EDGE..len - DISK_END).iter() {
                own.pieces(range, &mut |piece| counters.add(piece))?;
            }
            add(&counters, &mut own.free);
        }
        Ok(())
    }

    /// Counts the smaller blocks that were found free for the disk.
    fn count_smaller(&mut self, counters: &Counters) {
        for (block, more) in counters.whole() {
            let whole = usize::try_from(block).ok().and_then(|i| self.whole.get_mut(i));
            if let Some(whole) = whole {
                finer::add(whole, more);
            }
        }
    }

    /// Where the bytes of live blocks belong to.
    pub fn kept(&self, verdicts: &[Verdict]) -> Result<KeptBytes> {
        let mut kept = KeptBytes::default();
        for (block, verdict) in (0u32..).zip(verdicts) {
            if *verdict != Verdict::Live {
                continue;
            }
            let free = self.held_free_bytes(block);
            let held = self.held_bytes(block);
            let unknown = self.unknown(block)?;
            let unjudged: u64 = unknown
                .iter()
                .flat_map(|gap| self.volume_space.within(gap))
                .map(|range| range.end - range.start)
                .sum();
            kept.pinned += free;
            kept.used += held - unknown.total() - free;
            kept.unjudged += unjudged;
            kept.outside += unknown.total() - unjudged;
            kept.inherited += self.block_size - held;
        }
        Ok(kept)
    }
}

/// Counts what was found free for the disk.
fn add(counters: &Counters, free: &mut [u32]) {
    for (block, count) in counters.iter() {
        if let Some(total) = usize::try_from(block).ok().and_then(|i| free.get_mut(i)) {
            *total += count;
        }
    }
}
