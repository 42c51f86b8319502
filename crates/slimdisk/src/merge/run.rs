//! Writing what the child holds into its parent, in rounds.
//!
//! A round reads what the child holds and what the parent shows there, and hands what
//! differs to [`Image::write`]. Stopping is stopping between rounds. A plan is the same
//! walk without the writing, and so finds the same numbers.

use std::ops::{ControlFlow, Range};

use crate::error::Result;
use crate::image::{GuestWrite, Image};
use crate::progress::{Hook, Phase, Progress};
use crate::ranges::Ranges;

/// Bytes that are written before they are made durable: enough that three flushes a
/// round do not count, little enough to stop soon.
pub const ROUND: u64 = 64 << 20;

/// What is the same or not as a whole: small enough that the parent gets little that it
/// shows already, large enough to be read and written at ease.
const PIECE: u64 = 64 << 10;

/// How much is read at once; the largest write, too.
const READ: u64 = 1 << 20;

/// How far a run, or the planning of one, has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Bytes of the child that are in the parent now, or would be.
    pub bytes_merged: u64,
    /// Bytes that the parent showed already.
    pub bytes_same: u64,
    /// Blocks that got a place in the parent, or would.
    pub blocks_added: u64,
    /// Sector bitmaps that were added for them, where blocks do not have their own.
    pub bitmaps_added: u64,
    /// Whether it was stopped before the end.
    pub stopped: bool,
}

/// How much a child holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Bytes of the guest's disk that are in the child.
    pub bytes: u64,
    /// Blocks of the parent that these bytes are in and that have no place yet: the most
    /// that can be added.
    pub absent_blocks: u64,
    /// [Sector bitmaps](Image::missing_bitmap) that would come with them.
    pub absent_bitmaps: u64,
}

/// Counts what `child` holds; reads nothing but its sector bitmaps.
pub fn holdings(child: &dyn Image, parent: &dyn Image) -> Result<Holdings> {
    let mut holdings = Holdings::default();
    let mut absent = Absent::of(parent);
    let own = Own::of(child);
    for block in 0..own.blocks {
        // Zeros need no place where nothing is behind them.
        let nothing = child.reads_as_zeros(block) && parent.parent().is_none();
        for range in own.ranges(block)? {
            holdings.bytes += range.end - range.start;
            if !nothing {
                let added = absent.count(parent, &range);
                holdings.absent_blocks += added.blocks;
                holdings.absent_bitmaps += added.bitmaps;
            }
        }
    }
    Ok(holdings)
}

/// What a run would do. Writes nothing; for `parent` as it is now.
pub fn plan(child: &dyn Image, parent: &dyn Image, hook: &mut Hook<'_>) -> Result<Done> {
    let mut done = Done::default();
    walk(&mut Pair::Looked { child, parent }, ROUND, &mut done, hook)?;
    Ok(done)
}

/// Writes what `child` holds into `parent`, about `round` bytes at a time, and cuts the
/// parent's file behind its last block; `done` is right after a failure, too.
///
/// `child` reads the same at any moment, if it is read through `parent`: nothing is
/// written but what its own sectors hide. Before anything is, the child is told if the
/// parent gets another identity by it.
pub fn run(
    child: &mut dyn Image,
    parent: &mut dyn Image,
    round: u64,
    done: &mut Done,
    hook: &mut Hook<'_>,
) -> Result<()> {
    parent.writable()?;
    parent.still_exclusive()?;
    // Maybe there is nothing to write, and nothing else that would do it.
    parent.replay()?;
    let mut pair = Pair::Written { child, parent, announced: false };
    walk(&mut pair, round, done, hook)?;
    // What a newcomer appended must not be cut off.
    parent.still_exclusive()?;
    // A fixed image has nothing to be cut.
    if parent.facts().block_size > 0 { parent.truncate() } else { Ok(()) }
}

/// The child and the parent, in a plan or in a run.
enum Pair<'a> {
    Looked {
        child: &'a dyn Image,
        parent: &'a dyn Image,
    },
    Written {
        child: &'a mut dyn Image,
        parent: &'a mut dyn Image,
        /// Whether the two know that the parent's content changes.
        announced: bool,
    },
}

impl Pair<'_> {
    fn child(&self) -> &dyn Image {
        match self {
            Pair::Looked { child, .. } => *child,
            Pair::Written { child, .. } => &**child,
        }
    }

    fn parent(&self) -> &dyn Image {
        match self {
            Pair::Looked { parent, .. } => *parent,
            Pair::Written { parent, .. } => &**parent,
        }
    }

    /// Writes into the parent, in a run.
    fn write(&mut self, writes: &[GuestWrite]) -> Result<()> {
        let Pair::Written { child, parent, announced } = self else { return Ok(()) };
        if writes.is_empty() {
            return Ok(());
        }
        child.still_exclusive()?;
        parent.still_exclusive()?;
        if !*announced {
            // First the child, who knows both disks then, the old one and the new one.
            if let Some(id) = child.expect_parent()? {
                parent.become_disk(&id)?;
            }
            *announced = true;
        }
        parent.write(writes)
    }
}

/// What is to be written in one round.
#[derive(Default)]
struct Round {
    writes: Vec<GuestWrite>,
    bytes: u64,
    added: Added,
}

fn walk(
    pair: &mut Pair<'_>,
    most: u64,
    done: &mut Done,
    hook: &mut Hook<'_>,
) -> Result<()> {
    let total = holdings(pair.child(), pair.parent())?.bytes;
    let blocks = Own::of(pair.child()).blocks;
    let mut comparison = Comparison::of(pair.parent());
    let len = usize::try_from(READ).unwrap_or(0);
    let (mut ours, mut theirs) = (vec![0; len], vec![0; len]);
    let mut round = Round::default();
    for block in 0..blocks {
        let zeros = pair.child().reads_as_zeros(block);
        for range in Own::of(pair.child()).ranges(block)? {
            let mut at = range.start;
            while at < range.end {
                if asked_to_stop(done, total, hook) {
                    return Ok(());
                }
                if zeros && comparison.shows_zeros(pair.parent(), at..range.end)? {
                    done.bytes_same += range.end - at;
                    break;
                }
                let end = ((at / READ + 1) * READ).min(range.end);
                let len = usize::try_from(end - at).unwrap_or(0);
                let (ours, theirs) =
                    (ours.split_at_mut(len).0, theirs.split_at_mut(len).0);
                pair.child().read_at(at, ours)?;
                pair.parent().read_at(at, theirs)?;
                let differing = comparison.differing(pair.parent(), at, ours, theirs)?;
                for (at, bytes) in &differing {
                    round.add(*at, bytes);
                    let range = *at..at + bytes.len() as u64;
                    let added = comparison.absent.count(pair.parent(), &range);
                    round.added.blocks += added.blocks;
                    round.added.bitmaps += added.bitmaps;
                }
                let differ: u64 = differing.iter().map(|(_, b)| b.len() as u64).sum();
                done.bytes_same += end - at - differ;
                at = end;
                if round.cost(comparison.block_size) < most {
                    continue;
                }
                if asked_to_stop(done, total, hook) {
                    return Ok(());
                }
                finish(&mut round, pair, done)?;
            }
        }
    }
    if !asked_to_stop(done, total, hook) {
        finish(&mut round, pair, done)?;
    }
    Ok(())
}

fn asked_to_stop(done: &mut Done, total: u64, hook: &mut Hook<'_>) -> bool {
    let reached = done.bytes_merged + done.bytes_same;
    let progress = Progress { phase: Phase::Merge, done: reached, total };
    done.stopped |= hook(progress) == ControlFlow::Break(());
    done.stopped
}

/// Writes a round, and counts it.
fn finish(round: &mut Round, pair: &mut Pair<'_>, done: &mut Done) -> Result<()> {
    let round = std::mem::take(round);
    pair.write(&round.writes)?;
    done.bytes_merged += round.bytes;
    done.blocks_added += round.added.blocks;
    done.bitmaps_added += round.added.bitmaps;
    Ok(())
}

impl Round {
    fn add(&mut self, at: u64, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        match self.writes.last_mut() {
            Some(last) if last.end() == at && (last.data.len() as u64) < READ => {
                last.data.extend_from_slice(bytes);
            }
            _ => self.writes.push(GuestWrite { offset: at, data: bytes.to_vec() }),
        }
    }

    /// Bytes that it writes to the file and holds in memory, about: each new block is
    /// written whole, each write has its sector bits.
    fn cost(&self, block_size: u64) -> u64 {
        let bits = self.writes.len() as u64 * 512;
        self.bytes + bits + self.added.blocks * block_size
    }
}

/// What a differencing image itself holds.
struct Own<'a> {
    image: &'a dyn Image,
    block_size: u64,
    blocks: u32,
}

impl<'a> Own<'a> {
    fn of(image: &'a dyn Image) -> Self {
        let facts = image.facts();
        Own { image, block_size: facts.block_size, blocks: facts.blocks_total }
    }

    /// What it holds of a block, as ranges of the guest's disk.
    fn ranges(&self, block: u32) -> Result<Vec<Range<u64>>> {
        // A block that reads as zeros hides the parent's, with a place or without one.
        if !self.image.is_allocated(block) && !self.image.reads_as_zeros(block) {
            return Ok(Vec::new());
        }
        let start = u64::from(block) * self.block_size;
        // What lies behind the disk's end is nobody's.
        let there = self.image.len().saturating_sub(start).min(self.block_size);
        let own = self.image.own_bytes(block)?;
        let own = own.unwrap_or_else(|| std::iter::once(0..self.block_size).collect());
        Ok(own.within(0..there).map(|own| start + own.start..start + own.end).collect())
    }
}

/// What a parent gets that it did not have.
#[derive(Debug, Clone, Copy, Default)]
struct Added {
    blocks: u64,
    bitmaps: u64,
}

/// Counts blocks that have no place, each once; for ranges that ascend.
struct Absent {
    block_size: u64,
    /// The block behind the last that was looked at.
    next: u64,
    /// The number behind the last bitmap that was counted.
    next_bitmap: u32,
}

impl Absent {
    fn of(parent: &dyn Image) -> Self {
        Absent { block_size: parent.facts().block_size, next: 0, next_bitmap: 0 }
    }

    fn count(&mut self, parent: &dyn Image, range: &Range<u64>) -> Added {
        let mut added = Added::default();
        if self.block_size == 0 {
            return added;
        }
        let first = (range.start / self.block_size).max(self.next);
        let end = range.end.div_ceil(self.block_size);
        self.next = self.next.max(end);
        for block in (first..end).filter_map(|block| u32::try_from(block).ok()) {
            added.blocks += u64::from(!parent.is_allocated(block));
            let bitmap = parent.missing_bitmap(block);
            if let Some(bitmap) = bitmap.filter(|bitmap| *bitmap >= self.next_bitmap) {
                added.bitmaps += 1;
                self.next_bitmap = bitmap + 1;
            }
        }
        added
    }
}

/// Holds what the child holds against what the parent shows.
struct Comparison {
    /// What is compared as a whole: a part of one block of the parent.
    piece: u64,
    block_size: u64,
    absent: Absent,
    /// The block of the parent that was asked about last.
    known: Option<Known>,
    /// The same, and what [`is_vague`](Comparison::is_vague) said of it.
    vague: Option<(u64, bool)>,
}

impl Comparison {
    fn of(parent: &dyn Image) -> Self {
        let block_size = parent.facts().block_size;
        let piece = if block_size == 0 { PIECE } else { PIECE.min(block_size) };
        Comparison {
            piece,
            block_size,
            absent: Absent::of(parent),
            known: None,
            vague: None,
        }
    }

    /// The pieces of `ours`, which is the child's from `at` on, that the parent does not
    /// show, or not to all programs.
    fn differing<'a>(
        &mut self,
        parent: &dyn Image,
        mut at: u64,
        mut ours: &'a [u8],
        mut theirs: &[u8],
    ) -> Result<Vec<(u64, &'a [u8])>> {
        let mut differing = Vec::new();
        while !ours.is_empty() {
            let len = usize::try_from(self.piece - at % self.piece).unwrap_or(usize::MAX);
            let len = len.min(ours.len());
            let (our, their);
            (our, ours) = ours.split_at(len);
            (their, theirs) = theirs.split_at(len);
            let end = at + len as u64;
            let zero = || our.iter().all(|byte| *byte == 0);
            let vague = self.is_vague(parent, at)?;
            if our != their || vague || !zero() && !self.is_its_own(parent, at..end)? {
                differing.push((at, our));
            }
            at = end;
        }
        Ok(differing)
    }

    /// Whether the parent shows zeros alone in `range`, and to everybody.
    fn shows_zeros(&mut self, parent: &dyn Image, range: Range<u64>) -> Result<bool> {
        let found = parent.next_data(range.start)?;
        if found.is_some_and(|found| found.start < range.end) {
            return Ok(false);
        }
        let mut at = range.start;
        while self.block_size > 0 && at < range.end {
            if self.is_vague(parent, at)? {
                return Ok(false);
            }
            at = (at / self.block_size + 1) * self.block_size;
        }
        Ok(true)
    }

    /// Whether the parent's block at `at` reads as zeros, though not to all programs.
    ///
    /// As it was when it was first asked about: a part of it may have been written since.
    fn is_vague(&mut self, parent: &dyn Image, at: u64) -> Result<bool> {
        let Some(block) = at.checked_div(self.block_size) else { return Ok(false) };
        if let Some((known, vague)) = self.vague
            && known == block
        {
            return Ok(vague);
        }
        let number = u32::try_from(block).unwrap_or(u32::MAX);
        let vague =
            parent.reads_as_zeros(number) && !parent.disputed_bytes(number)?.is_empty();
        self.vague = Some((block, vague));
        Ok(vague)
    }

    /// Whether the parent itself holds all of `piece`, and all programs agree on it.
    ///
    /// What a differencing parent only shows is its own parent's: maybe free space there,
    /// which nobody knows to be needed when that one is compacted.
    fn is_its_own(&mut self, parent: &dyn Image, piece: Range<u64>) -> Result<bool> {
        let Some(block) = piece.start.checked_div(self.block_size) else {
            return Ok(true);
        };
        let start = block * self.block_size;
        let block = u32::try_from(block).unwrap_or(u32::MAX);
        let piece = piece.start - start..piece.end - start;
        let known = self.known.as_ref().filter(|known| known.block == block);
        if known.is_none() {
            let inherits = parent.parent().is_some();
            let own = match parent.is_allocated(block) {
                true => parent.own_bytes(block)?,
                false if inherits => Some(Ranges::new()),
                false => None,
            };
            let disputed = parent.disputed_bytes(block)?;
            self.known = Some(Known { block, own, disputed });
        }
        Ok(self.known.as_ref().is_some_and(|known| {
            let held = known.own.as_ref().is_none_or(|own| own.covers(&piece));
            held && !known.disputed.intersects(&piece)
        }))
    }
}

/// What was asked of one block of the parent.
struct Known {
    block: u32,
    /// What it holds itself; `None` if all.
    own: Option<Ranges>,
    /// On what programs disagree.
    disputed: Ranges,
}
