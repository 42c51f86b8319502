//! Comparing the new image with its source, for `--verify`.

use super::copy::Fate;
use crate::compact::data_ahead::DataAhead;
use crate::compact::zeros::is_zero;
use crate::error::Result;
use crate::image::Image;
use crate::progress::{Hook, Phase, Progress};

const PIECE: usize = 1 << 20;

/// What came of it.
pub enum Compared {
    /// All that was kept is the same: the digest of the blocks that were written, their
    /// numbers with them.
    Same(blake3::Hash),
    Differs,
    /// The hook asked to stop.
    Stopped,
}

/// Holds each block of `target` against that of `source`, but for those that were left
/// out as free: of these there must be nothing.
pub fn compare(
    source: &dyn Image,
    target: &dyn Image,
    block_size: u64,
    fates: &[Fate],
    hook: &mut Hook<'_>,
) -> Result<Compared> {
    let total = source.len();
    let (mut buf, mut other) = (vec![0; PIECE], vec![0; PIECE]);
    let (mut ahead, mut written) = (DataAhead::new(source), DataAhead::new(target));
    let mut hasher = blake3::Hasher::new();
    let mut start = 0;
    for (number, fate) in (0u64..).zip(fates) {
        let end = (start + block_size).min(total);
        if *fate == Fate::Written {
            hasher.update(&number.to_le_bytes());
            let mut at = start;
            while at < end {
                let len = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
                let (a, _) = buf.split_at_mut(len);
                let (b, _) = other.split_at_mut(len);
                source.read_at(at, a)?;
                target.read_at(at, b)?;
                if a != b {
                    return Ok(Compared::Differs);
                }
                hasher.update(a);
                at += len as u64;
            }
        } else {
            let is_nothing =
                |disk: &dyn Image, data: &mut DataAhead<'_>, buf: &mut [u8]| {
                    let mut at = start;
                    while let Some(found) = data.at(at)?.filter(|f| f.start < end) {
                        let found = found.start..found.end.min(end);
                        let len = usize::try_from(found.end - found.start);
                        let (read, _) = buf.split_at_mut(len.unwrap_or(PIECE).min(PIECE));
                        disk.read_at(found.start, read)?;
                        if !is_zero(read) {
                            return Ok(false);
                        }
                        at = found.start + read.len() as u64;
                        if at >= end {
                            break;
                        }
                    }
                    Ok(true)
                };
            if !is_nothing(target, &mut written, &mut other)?
                || *fate == Fate::Zero && !is_nothing(source, &mut ahead, &mut buf)?
            {
                return Ok(Compared::Differs);
            }
        }
        if (*fate == Fate::Written || end == total)
            && hook(Progress { phase: Phase::VerifyAfter, done: end, total }).is_break()
        {
            return Ok(Compared::Stopped);
        }
        start = end;
    }
    Ok(Compared::Same(hasher.finalize()))
}
