//! Finding what can be punched: whole pieces of the host's size whose every byte is the
//! image's own and free, or zero as it was just read.

use std::ops::Range;

use super::super::data_ahead::DataAhead;
use super::super::zeros::is_zero;
use super::super::{Hook, Mode, Phase, Progress, Survey, Verdict};
use crate::error::Result;
use crate::image::Image;
use crate::ranges::Ranges;
use crate::storage::ReadAt;

/// How many free ranges are held at most, 16 bytes each; of more the shortest are left.
const MOST: usize = 2 << 20;

/// How much is read at once.
const PIECE: u64 = 1 << 20;

/// What a fixed image is gone through in; the blocks of every format are multiples of it
/// or smaller.
const STEP_OF_FIXED: u64 = 1 << 20;

/// What can be punched.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Holes {
    /// Ranges of the disk; each lies in the file in whole pieces that can be punched.
    pub ranges: Ranges,
    /// Whether any of it may read otherwise before than after: it is free, not zero.
    pub changes_content: bool,
    /// Whether there were too many free ranges to look at the shortest of them.
    pub left_short_ones: bool,
}

/// What is looked for.
pub struct Wanted<'a> {
    pub survey: &'a Survey,
    pub mode: Mode,
    /// The size of the pieces in which the host gives room back, in bytes.
    pub unit: u64,
    /// Whether blocks that a compaction gives up are passed over.
    pub compacting: bool,
}

/// Bytes of the disk that lie in the file in one piece and are the image's own.
struct Stretch {
    disk: Range<u64>,
    /// Where in the file they begin.
    file: u64,
}

impl Stretch {
    /// What of `range` lies in whole pieces of `unit` bytes of the file.
    fn whole(&self, range: &Range<u64>, unit: u64) -> Range<u64> {
        let start = self.file + (range.start - self.disk.start);
        let end = self.file + (range.end - self.disk.start);
        let skip = start.next_multiple_of(unit) - start;
        range.start + skip..range.end.saturating_sub(end % unit)
    }
}

/// Finds it; `None` if the hook asked to stop.
pub fn find(
    image: &dyn Image,
    wanted: &Wanted<'_>,
    hook: &mut Hook<'_>,
) -> Result<Option<Holes>> {
    let (free, left_short_ones) = free_ranges(image, wanted)?;
    let mut finder = Finder {
        image,
        wanted,
        free,
        is_child: image.parent().is_some(),
        ahead: DataAhead::new(image),
        buf: Vec::new(),
        holes: Holes { left_short_ones, ..Holes::default() },
    };
    let reads = matches!(wanted.mode, Mode::Full | Mode::Prezeroed);
    let block_size = image.facts().block_size;
    let step = if block_size == 0 { STEP_OF_FIXED } else { block_size };
    let total = image.len();
    let (mut at, mut told) = (0, 0);
    while at < total {
        let end = at.saturating_add(step).min(total);
        let number = at.checked_div(block_size).and_then(|n| u32::try_from(n).ok());
        let read = finder.block(at..end, number)?;
        if reads && read || end - told >= 1 << 30 || end == total {
            told = end;
            // Without reading this is the end of what the maps are read for.
            let (phase, done) =
                if reads { (Phase::Search, end) } else { (Phase::Map, total) };
            if hook(Progress { phase, done, total }).is_break() {
                return Ok(None);
            }
            image.still_exclusive()?;
        }
        at = end;
    }
    Ok(Some(finder.holes))
}

/// What is free of the disk, and whether the shortest ranges were left out.
fn free_ranges(image: &dyn Image, wanted: &Wanted<'_>) -> Result<(Ranges, bool)> {
    let space = &wanted.survey.free_space;
    // What is shorter than a piece is no use by itself, but may be with zeros beside it.
    let mut least = match wanted.mode {
        Mode::Quick => wanted.unit,
        Mode::Full | Mode::Prezeroed => 1,
    };
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut left = false;
    let mut add = |range: Range<u64>| {
        match ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => {
                // Now that the one before is complete.
                if ranges.last().is_some_and(|last| last.end - last.start < least) {
                    ranges.pop();
                }
                ranges.push(range);
            }
        }
        while ranges.len() > MOST {
            least = least.max(wanted.unit) * 2;
            left = true;
            ranges.retain(|range| range.end - range.start >= least);
        }
    };
    space.each(image, &mut |range| {
        add(range);
        Ok(())
    })?;
    for range in space.dropped.iter() {
        add(range);
    }
    ranges.sort_unstable_by_key(|range| range.start);
    Ok((ranges.into_iter().collect(), left))
}

struct Finder<'a> {
    image: &'a dyn Image,
    wanted: &'a Wanted<'a>,
    free: Ranges,
    is_child: bool,
    ahead: DataAhead<'a>,
    buf: Vec<u8>,
    holes: Holes,
}

impl Finder<'_> {
    /// Looks at a block, which has a number, or at a step of a fixed image; whether it was
    /// read.
    fn block(&mut self, block: Range<u64>, number: Option<u32>) -> Result<bool> {
        let unit = self.wanted.unit;
        let verdicts = &self.wanted.survey.verdicts;
        let verdict = number.and_then(|n| verdicts.get(n as usize)).copied();
        let goes = match verdict {
            Some(Verdict::Absent) => return Ok(false),
            Some(Verdict::Zero) => Some(false),
            Some(Verdict::Blank) => Some(true),
            // In a differencing image it may hold what the parent shows the same, too.
            Some(Verdict::Free) if !self.is_child => Some(true),
            Some(Verdict::Live | Verdict::Parent | Verdict::Free) | None => None,
        };
        let stays = matches!(verdict, Some(Verdict::Live) | None);
        if self.wanted.compacting && !stays {
            return Ok(false);
        }
        let mut read = false;
        for stretch in self.stretches(&block, number)? {
            let part = stretch.whole(&stretch.disk, unit);
            if part.start >= part.end {
                continue;
            }
            if let Some(changes) = goes {
                self.holes.changes_content |= changes;
                self.holes.ranges.insert(part);
                continue;
            }
            if self.wanted.mode == Mode::Quick {
                let free: Vec<_> = self.free.within(stretch.disk.clone()).collect();
                for range in free {
                    let whole = stretch.whole(&range, unit);
                    self.holes.changes_content |= whole.start < whole.end;
                    self.holes.ranges.insert(whole);
                }
            } else {
                read = true;
                self.read(part)?;
            }
        }
        Ok(read)
    }

    /// What of a block lies in the file and is the image's own.
    fn stretches(&self, block: &Range<u64>, number: Option<u32>) -> Result<Vec<Stretch>> {
        let mut stretches = Vec::new();
        let mut at = block.start;
        while at < block.end {
            let Some(place) = self.image.place(at) else { break };
            let len = place.end.saturating_sub(place.start).min(block.end - at);
            if len == 0 {
                break;
            }
            stretches.push(Stretch { disk: at..at + len, file: place.start });
            at += len;
        }
        let own = match number {
            Some(number) => self.image.own_bytes(number)?,
            None => None,
        };
        let Some(own) = own else { return Ok(stretches) };
        let mut of_own = Vec::new();
        for Stretch { disk, file } in stretches {
            for own in own.within(disk.start - block.start..disk.end - block.start) {
                let own = block.start + own.start..block.start + own.end;
                let file = file + (own.start - disk.start);
                of_own.push(Stretch { disk: own, file });
            }
        }
        Ok(of_own)
    }

    /// Reads a part of the disk that lies in whole pieces, for those of which every byte
    /// is free or zero.
    fn read(&mut self, part: Range<u64>) -> Result<()> {
        let unit = self.wanted.unit;
        let most = (PIECE / unit).max(1) * unit;
        let mut at = part.start;
        while at < part.end {
            let end = at.saturating_add(most).min(part.end);
            let data = self.ahead.at(at)?.filter(|data| data.start < end);
            if data.is_none() {
                self.holes.ranges.insert(at..end);
                at = end;
                continue;
            }
            let len = usize::try_from(end - at).unwrap_or(0);
            self.buf.resize(len, 0);
            self.image.read_at(at, &mut self.buf)?;
            let size = usize::try_from(unit).unwrap_or(len).max(1);
            for (start, bytes) in (at..).step_by(size).zip(self.buf.chunks_mut(size)) {
                let piece = start..start + bytes.len() as u64;
                if is_zero(bytes) {
                    self.holes.ranges.insert(piece);
                    continue;
                }
                // It is not zero, but what of it is not free may be.
                for free in self.free.within(piece.clone()) {
                    let within = |at: u64| usize::try_from(at - start).unwrap_or(0);
                    if let Some(free) =
                        bytes.get_mut(within(free.start)..within(free.end))
                    {
                        free.fill(0);
                    }
                }
                if is_zero(bytes) {
                    self.holes.changes_content = true;
                    self.holes.ranges.insert(piece);
                }
            }
            at = end;
        }
        Ok(())
    }
}

/// How many bytes the host holds where `ranges` of the disk lie.
pub fn stored(image: &dyn Image, file: &dyn ReadAt, ranges: &Ranges) -> Result<u64> {
    let mut bytes = 0;
    for range in ranges.iter() {
        let mut at = range.start;
        while at < range.end {
            let Some(place) = image.place(at) else { break };
            let len = place.end.saturating_sub(place.start).min(range.end - at);
            if len == 0 {
                break;
            }
            bytes += stored_in(file, place.start..place.start + len)?;
            at += len;
        }
    }
    Ok(bytes)
}

/// How many bytes of a range of the file are no hole.
pub fn stored_in(file: &dyn ReadAt, range: Range<u64>) -> Result<u64> {
    let (mut at, mut bytes) = (range.start, 0);
    while at < range.end
        && let Some(data) = file.next_data(at)?
        && data.start < range.end
    {
        let end = data.end.min(range.end);
        bytes += end - data.start.max(at);
        at = end;
    }
    Ok(bytes)
}
