//! Copying a disk, block after block in the guest's order, zeros left out.

use std::ops::Range;

use crate::compact::Verdict;
use crate::compact::data_ahead::DataAhead;
use crate::compact::zeros::is_zero;
use crate::error::Result;
use crate::image::Image;
use crate::progress::{Hook, Phase, Progress};

/// What becomes of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Written,
    /// Left out, for trusted volumes call it free.
    Free,
    /// Left out, for all of it is zero.
    Zero,
}

/// How much is read at once.
const PIECE: u64 = 1 << 20;

/// A block that is not zero mostly shows it at once.
const FIRST_PIECE: u64 = 64 << 10;

/// Zeros are left out in whole units of this: the block size of most file systems would
/// do, but many small holes in a file help nobody.
const GRAIN: usize = 64 << 10;

/// How much of the disk may pass between two calls of the hook.
const STEP: u64 = 1 << 30;

/// Where the bytes go.
pub trait Sink {
    /// Takes the next bytes of the disk.
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()>;

    /// Takes a whole block that can be [shared](Sharing::place).
    fn share(&mut self, block: Range<u64>) -> Result<()>;
}

/// Which blocks the host can share between the source's file and the new one.
#[derive(Debug, Clone, Copy)]
pub struct Sharing {
    /// The unit of what can be shared, in bytes.
    pub unit: u64,
    /// The size of the source's blocks, in bytes.
    pub block_size: u64,
}

impl Sharing {
    /// All new images have their blocks' data on multiples of this.
    const ALIGNMENT: u64 = 4096;

    /// Where a block of the disk lies in the source's file, if that is in one piece and in
    /// whole units that those of the new file can match.
    pub fn place(self, disk: &dyn Image, block: &Range<u64>) -> Option<u64> {
        let len = block.end - block.start;
        let number = block.start.checked_div(self.block_size)?;
        // What lies there is not what the guest reads.
        if disk.reads_as_zeros(u32::try_from(number).ok()?) {
            return None;
        }
        let place = disk.place(block.start)?;
        let whole = place.end.saturating_sub(place.start) >= len;
        let in_units = Self::ALIGNMENT.is_multiple_of(self.unit)
            && place.start.is_multiple_of(self.unit)
            && len.is_multiple_of(self.unit);
        (whole && in_units).then_some(place.start)
    }
}

/// Sends to `sink` all of `disk` but zeros and the blocks whose verdict is free, and
/// says what became of each block; without a sink only that. `None` if the hook asked to
/// stop. Blocks that can be shared are, and are not read; of those zeros are left out only
/// by their verdict.
pub fn copy(
    disk: &dyn Image,
    block_size: u64,
    verdicts: &[Verdict],
    sharing: Option<Sharing>,
    mut sink: Option<&mut (dyn Sink + '_)>,
    hook: &mut Hook<'_>,
) -> Result<Option<Vec<Fate>>> {
    let total = disk.len();
    let count = usize::try_from(total.div_ceil(block_size)).unwrap_or(usize::MAX);
    let mut fates = Vec::with_capacity(count);
    let mut data = DataAhead::new(disk);
    let mut buf = vec![0; usize::try_from(PIECE).unwrap_or(0)];
    let mut start = 0;
    let mut told = 0;
    while start < total {
        let end = (start + block_size).min(total);
        let block = start..end;
        let can_be_shared =
            || sharing.is_some_and(|sharing| sharing.place(disk, &block).is_some());
        let fate = match left_out(verdicts.get(fates.len())) {
            Some(fate) => fate,
            None if can_be_shared() => {
                if let Some(sink) = &mut sink {
                    sink.share(block)?;
                }
                Fate::Written
            }
            None => copy_block(disk, block, &mut data, &mut buf, sink.as_deref_mut())?,
        };
        fates.push(fate);
        if fate == Fate::Written || end - told >= STEP || end == total {
            told = end;
            if hook(Progress { phase: Phase::Copy, done: end, total }).is_break() {
                return Ok(None);
            }
            disk.still_exclusive()?;
        }
        start = end;
    }
    Ok(Some(fates))
}

/// What becomes of a block that is not even looked at.
fn left_out(verdict: Option<&Verdict>) -> Option<Fate> {
    match verdict? {
        Verdict::Free => Some(Fate::Free),
        Verdict::Zero => Some(Fate::Zero),
        _ => None,
    }
}

fn copy_block(
    disk: &dyn Image,
    block: Range<u64>,
    data: &mut DataAhead<'_>,
    buf: &mut [u8],
    mut sink: Option<&mut (dyn Sink + '_)>,
) -> Result<Fate> {
    let mut fate = Fate::Zero;
    let mut at = block.start;
    // Who only looks reads little first.
    let mut piece = if sink.is_some() { PIECE } else { FIRST_PIECE };
    while at < block.end {
        let Some(found) = data.at(at)?.filter(|found| found.start < block.end) else {
            break;
        };
        at = found.start;
        // Up to the next multiple of the piece, so that reads are aligned.
        let end = ((at / piece + 1) * piece).min(found.end).min(block.end);
        let len = usize::try_from(end - at).unwrap_or(0);
        let Some(read) = buf.get_mut(..len) else { break };
        disk.read_at(at, read)?;
        match &mut sink {
            Some(sink) => {
                for (offset, bytes) in stretches(read) {
                    sink.write(at + offset, bytes)?;
                    fate = Fate::Written;
                }
            }
            None if is_zero(read) => {}
            None => return Ok(Fate::Written),
        }
        at = end;
        piece = PIECE;
    }
    Ok(fate)
}

/// The stretches that are not zero, each with its offset.
fn stretches(bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(at..)?;
        let zeros: usize =
            rest.chunks(GRAIN).take_while(|grain| is_zero(grain)).map(<[u8]>::len).sum();
        let rest = rest.get(zeros..)?;
        let len: usize =
            rest.chunks(GRAIN).take_while(|grain| !is_zero(grain)).map(<[u8]>::len).sum();
        let start = at + zeros;
        at = start + len;
        rest.get(..len)
            .filter(|found| !found.is_empty())
            .map(|found| (start as u64, found))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_all_that_is_not_zero() {
        for (grains, more, set, expected) in [
            (3, 0, vec![], vec![]),
            (3, 0, vec![GRAIN], vec![(1, GRAIN)]),
            (3, 9, vec![3 * GRAIN + 8], vec![(3, 9)]),
            (4, 0, vec![0, GRAIN + 5], vec![(0, 2 * GRAIN)]),
            (5, 0, vec![0, 3 * GRAIN], vec![(0, GRAIN), (3, GRAIN)]),
            (0, 0, vec![], vec![]),
        ] {
            let mut bytes = vec![0; grains * GRAIN + more];
            set.iter().for_each(|at| bytes[*at] = 1);
            let found: Vec<_> = stretches(&bytes)
                .map(|(at, found)| (at / GRAIN as u64, found.len()))
                .collect();
            assert_eq!(found, expected);
        }
    }
}
