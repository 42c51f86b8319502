//! Carrying a plan out. Decides nothing.
//!
//! First what a log in the file still asks for, then all releases (table, flush), then
//! rounds of (copy a batch, flush, table, flush), then the trailing structure, flush,
//! cut. Between any two of these the file is a sound image; stopping is stopping between
//! rounds and cutting what has been reached.

use std::ops::ControlFlow;

use super::plan::Plan;
use super::{Hook, Phase, Progress};
use crate::error::Result;
use crate::image::Image;

/// Bytes copied before the table is written: enough that two flushes a round do
/// not count, little enough to stop soon.
pub const ROUND: u64 = 64 << 20;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Blocks released.
    pub released: usize,
    /// Blocks moved.
    pub moved: usize,
    /// Whether a log was replayed.
    pub replayed: bool,
    /// Whether it was stopped before the plan's end.
    pub stopped: bool,
}

/// Runs `plan` on `image`, moving about `round` bytes at a time.
pub fn run(
    image: &mut dyn Image,
    plan: &Plan,
    round: u64,
    hook: &mut Hook<'_>,
) -> Result<Done> {
    let mut done = Done { released: 0, moved: 0, replayed: false, stopped: false };
    if plan.is_empty() {
        image.still_exclusive()?;
        done.replayed = image.replay()?;
        return Ok(done);
    }
    if let Some(layout) = image.layout() {
        plan.verify(&layout)?;
    }
    let total = plan.blocks_released() as u64 * plan.extent_len;
    if hook(Progress { phase: Phase::Release, done: 0, total }).is_break() {
        return Ok(Done { stopped: true, ..done });
    }
    image.still_exclusive()?;
    done.replayed = image.replay()?;
    if plan.changes_content {
        image.content_will_change()?;
    }
    image.release(&plan.release)?;
    done.released = plan.blocks_released();

    let total = plan.bytes_to_move();
    let batch = usize::try_from(round / plan.extent_len).unwrap_or(usize::MAX).max(1);
    let mut reached = 0;
    // The blocks at the very end first: wherever this stops, the file can be cut.
    let mut batches = plan.moves.rchunks(batch).peekable();
    if let Some(first) = batches.peek() {
        image.will_relocate(first);
    }
    while let Some(moves) = batches.next() {
        let asked = hook(Progress { phase: Phase::Relocate, done: reached, total });
        if asked == ControlFlow::Break(()) {
            done.stopped = true;
            break;
        }
        image.still_exclusive()?;
        // The next batch is read while this one is written and flushed.
        if let Some(next) = batches.peek() {
            image.will_relocate(next);
        }
        image.relocate(moves)?;
        done.moved += moves.iter().filter(|m| m.piece.block().is_some()).count();
        reached += plan.bytes_of(moves);
    }
    if !done.stopped {
        let total = plan.file_len_before - plan.file_len_after;
        // Cutting is quick and only gains; a request to stop changes nothing now.
        let _ = hook(Progress { phase: Phase::Truncate, done: 0, total });
    }
    // What a newcomer appended must not be cut off.
    image.still_exclusive()?;
    image.truncate()?;
    Ok(done)
}
