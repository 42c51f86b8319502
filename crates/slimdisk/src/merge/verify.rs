//! The digest of a whole disk, for `--verify`.

use crate::error::Result;
use crate::progress::{Hook, Phase, Progress};
use crate::storage::ReadAt;

const PIECE: u64 = 1 << 20;

/// Hashes all that the guest reads. `None` if the hook asked to stop.
pub fn digest(
    disk: &dyn ReadAt,
    phase: Phase,
    hook: &mut Hook<'_>,
) -> Result<Option<blake3::Hash>> {
    let total = disk.len();
    let mut hasher = blake3::Hasher::new();
    let mut buf = vec![0; usize::try_from(total.min(PIECE)).unwrap_or(0)];
    let mut done = 0;
    while done < total {
        if hook(Progress { phase, done, total }).is_break() {
            return Ok(None);
        }
        let len = usize::try_from((total - done).min(PIECE)).unwrap_or(0);
        let (piece, _) = buf.split_at_mut(len);
        disk.read_at(done, piece)?;
        hasher.update(piece);
        done += len as u64;
    }
    Ok(Some(hasher.finalize()))
}
