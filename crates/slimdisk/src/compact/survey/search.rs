//! Which blocks to read for zeros, and which bytes of them.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

use super::Verdict;
use super::free_space::changed;
use super::judge::Judge;
use super::volumes::Volumes;
use crate::compact::zeros::{self, Job, Shown};
use crate::compact::{Hook, Options};
use crate::error::Result;
use crate::ranges::Ranges;

/// How many free ranges are held of blocks that are not complete: more than one of
/// the largest blocks can have.
const HELD: usize = 1 << 20;

impl Judge<'_> {
    /// Reads, of blocks that are free as far as any map speaks, the bytes that no
    /// map speaks for: they must be zeros or, in a differencing image, what its parent
    /// shows.
    pub fn search_unknown(
        &self,
        candidates: &[u32],
        hook: &mut Hook<'_>,
    ) -> Result<Option<Vec<(u32, Shown)>>> {
        let mut total = 0;
        for block in candidates {
            total += self.unknown(*block)?.total();
        }
        zeros::search(self.image, self.alike, total, hook, |submit| {
            for block in candidates {
                let start = self.block_range(*block).start;
                let job = Job::new(*block, start, &self.unknown(*block)?);
                if submit(job)?.is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Reads every block that is not free already, all of it but its free bytes,
    /// whose ranges the maps are asked for once more.
    pub fn search_all(
        &self,
        volumes: &Volumes,
        options: &Options,
        verdicts: &[Verdict],
        hook: &mut Hook<'_>,
    ) -> Result<Option<Vec<(u32, Shown)>>> {
        let blocks = u32::try_from(verdicts.len()).unwrap_or(u32::MAX);
        let total = (0..blocks)
            .filter(|block| verdicts.get(*block as usize) == Some(&Verdict::Live))
            .map(|block| self.held_bytes(block) - self.held_free_bytes(block))
            .sum();
        zeros::search(self.image, self.alike, total, hook, |submit| {
            let mut gathering = Gathering {
                judge: self,
                dropping: options.drop_unpartitioned,
                due: verdicts.iter().map(|v| *v == Verdict::Live).collect(),
                next: 0,
                pending: BTreeMap::new(),
                held: 0,
                stopped: false,
                submit,
            };
            volumes.free_space.each(self.image, &mut |piece| gathering.add(piece))?;
            if !gathering.pending.is_empty() && !gathering.stopped {
                return Err(changed());
            }
            gathering.submit_below(blocks)
        })
    }
}

type Submit<'a> = dyn FnMut(Job) -> Result<ControlFlow<()>> + 'a;

/// Gathers the free ranges of each block from all volumes that have a part of it,
/// and submits it as soon as they are complete: the maps were counted before.
struct Gathering<'a> {
    judge: &'a Judge<'a>,
    dropping: bool,
    /// For each block, whether it is still to be submitted.
    due: Vec<bool>,
    /// Below it, only blocks that wait for free ranges are due.
    next: u32,
    pending: BTreeMap<u32, Pending>,
    /// How many ranges `pending` holds.
    held: usize,
    stopped: bool,
    submit: &'a mut Submit<'a>,
}

/// A block whose free ranges are not complete.
#[derive(Default)]
struct Pending {
    ranges: Vec<Range<u64>>,
    bytes: u64,
    /// How many bytes the volumes called free when they were counted.
    expected: u64,
}

impl Gathering<'_> {
    /// Adds a free range of the disk.
    fn add(&mut self, mut range: Range<u64>) -> Result<()> {
        while range.start < range.end && !self.stopped {
            let number = range.start / self.judge.block_size;
            let end = range.end.min((number + 1) * self.judge.block_size);
            if let Ok(block) = u32::try_from(number)
                && self.is_due(block)
            {
                self.add_to(block, range.start..end)?;
            }
            range.start = end;
        }
        Ok(())
    }

    fn add_to(&mut self, block: u32, range: Range<u64>) -> Result<()> {
        self.submit_below(block)?;
        if !self.pending.contains_key(&block) {
            let expected = self.free_in_volumes(block);
            self.pending.insert(block, Pending { expected, ..Pending::default() });
        }
        let Some(pending) = self.pending.get_mut(&block) else { return Ok(()) };
        pending.bytes += range.end - range.start;
        match pending.ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => {
                pending.ranges.push(range);
                self.held += 1;
            }
        }
        if pending.bytes >= pending.expected {
            self.submit_pending(block)?;
        } else if self.held > HELD
            && let Some(first) = self.pending.keys().next().copied()
        {
            // With what is known. Bytes that are free but not known to be are looked
            // at for zeros, so it may stay in vain, but never go in error.
            self.submit_pending(first)?;
        }
        Ok(())
    }

    fn is_due(&self, block: u32) -> bool {
        self.due.get(block as usize) == Some(&true)
    }

    /// What was counted as dropped in a block.
    fn dropped(&self, block: u32) -> Ranges {
        if self.dropping && self.judge.free_bytes(block) > 0 {
            self.judge.judged_outside(self.judge.block_range(block))
        } else {
            Ranges::new()
        }
    }

    /// How many bytes the volumes called free when they were counted.
    fn free_in_volumes(&self, block: u32) -> u64 {
        self.judge.free_bytes(block) - self.dropped(block).total()
    }

    fn submit_pending(&mut self, block: u32) -> Result<()> {
        let pending = self.pending.remove(&block).unwrap_or_default();
        self.held -= pending.ranges.len();
        self.submit_with(block, pending.ranges)
    }

    /// Submits the blocks below `end` that wait for nothing.
    fn submit_below(&mut self, end: u32) -> Result<()> {
        while self.next < end && !self.stopped {
            let block = self.next;
            self.next += 1;
            if self.is_due(block) && self.free_in_volumes(block) == 0 {
                self.submit_with(block, Vec::new())?;
            }
        }
        Ok(())
    }

    fn submit_with(&mut self, block: u32, mut free: Vec<Range<u64>>) -> Result<()> {
        let Some(due) = self.due.get_mut(block as usize) else { return Ok(()) };
        *due = false;
        // Volumes may share a block in any order.
        free.sort_unstable_by_key(|range| range.start);
        let mut free: Ranges = free.into_iter().collect();
        for range in self.dropped(block).iter() {
            free.insert(range);
        }
        let mut parts = Ranges::new();
        for held in self.judge.held(block)?.iter() {
            for gap in free.gaps(held).iter() {
                parts.insert(gap);
            }
        }
        let start = self.judge.block_range(block).start;
        let job = Job::new(block, start, &parts);
        self.stopped |= (self.submit)(job)?.is_break();
        Ok(())
    }
}
