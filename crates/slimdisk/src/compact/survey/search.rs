//! Which blocks to read for zeros, and which bytes of them.

use std::ops::Range;

use super::Verdict;
use super::judge::Judge;
use super::order::Order;
use crate::compact::zeros::{self, Job};
use crate::compact::{Hook, Options};
use crate::error::{Error, Kind, Result};
use crate::ranges::Ranges;
use crate::storage::{ReadAt, Section};
use crate::volume::FileSystem;

impl Judge<'_> {
    /// Reads, of blocks that are free as far as any map speaks, the bytes that no
    /// map speaks for.
    pub fn search_unknown(
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
    pub fn search_all(
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
                    return Err(Error::new(
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
        failed: &mut Option<Error>,
    ) {
        while range.start < range.end && failed.is_none() {
            let end =
                range.end.min((range.start / self.block_size + 1) * self.block_size);
            free.insert(range.start..end);
            range.start = end;
            *failed = advance(end, free).err();
        }
    }
}
