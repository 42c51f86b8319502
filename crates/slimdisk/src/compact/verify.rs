//! The digest of the live guest bytes, for `--verify`.

use super::survey::Verdict;
use super::{Hook, Phase, Progress};
use crate::error::Result;
use crate::image::Image;

const PIECE: usize = 1 << 20;

/// Hashes the number and the data of every live block, and of those whose parent shows
/// the same, in the guest's order, so that it is the same wherever the blocks lie.
/// `None` if the hook asked to stop.
///
/// A block that is live but has no place any more reads as zeros here and so
/// changes the digest, unless zeros is what it held.
pub fn digest(
    image: &dyn Image,
    verdicts: &[Verdict],
    phase: Phase,
    hook: &mut Hook<'_>,
) -> Result<Option<blake3::Hash>> {
    let block_size = image.facts().block_size;
    let must_stay = |verdict| matches!(verdict, Verdict::Live | Verdict::Parent);
    let live = || (0u32..).zip(verdicts).filter(|(_, v)| must_stay(**v)).map(|(b, _)| b);
    let total = live().count() as u64 * block_size;
    let mut hasher = blake3::Hasher::new();
    let mut buf = vec![0; PIECE];
    let mut done = 0;
    for block in live() {
        hasher.update(&block.to_le_bytes());
        let mut at = 0;
        while at < block_size {
            let len = usize::try_from(block_size - at).unwrap_or(PIECE).min(PIECE);
            let (piece, _) = buf.split_at_mut(len);
            if image.is_allocated(block) || image.parent().is_some() {
                image.read_block(block, at, piece)?;
            } else {
                piece.fill(0);
            }
            hasher.update(piece);
            at += len as u64;
        }
        done += block_size;
        if hook(Progress { phase, done, total }).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(hasher.finalize()))
}
