//! Punching: giving room back to the host inside the file, moving nothing.
//!
//! A piece of the file becomes a hole if all of it is guest data that lies there and is
//! free, or zero. So no table, bitmap, header or log is ever touched, a hole reads as the
//! zeros that free space may as well be, and it does not matter which holes a power cut
//! lets through.

mod find;

use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Serialize;

pub use self::find::Holes;
use self::find::{Wanted, find, stored, stored_in};
use super::{
    Hook, Options, Outcome, Phase, Progress, Report, SET_ASIDE, Survey, open_anew,
    tell_of_orphans,
};
use crate::error::{Error, Kind, Result};
use crate::image::Image;
use crate::ranges::Ranges;
use crate::storage::{ReadAt, Storage};

/// How many ranges are punched between two flushes, and two calls of the hook.
const BATCH: usize = 512;

/// How much is read at once to be compared.
const PIECE: u64 = 1 << 20;

/// What is to be done with free space inside the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Punch {
    /// It becomes holes. Nothing is moved, and the file is as long as before.
    Only,
    /// The image is compacted, and what free space is left in its blocks becomes holes.
    Also,
}

/// Finds out what [`punch`] would do, and enters it; `None` if the hook asked to stop.
/// `compacting` leaves out the blocks that a compaction before it gives up.
pub(super) fn plan(
    image: &dyn Image,
    storage: &Arc<dyn Storage>,
    survey: &Survey,
    compacting: bool,
    options: &Options,
    report: &mut Report,
    hook: &mut Hook<'_>,
) -> Result<Option<Holes>> {
    image.punchable()?;
    let unit = storage.hole_size()?;
    let wanted = Wanted { survey, mode: options.mode, unit, compacting };
    let Some(mut holes) = find(image, &wanted, hook)? else { return Ok(None) };
    let bytes = stored(image, storage, &holes.ranges)?;
    holes.changes_content &= bytes > 0;
    report.punched_bytes = Some(bytes);
    if holes.left_short_ones {
        report.notes.push(
            "there are so many free ranges that the shortest of them were left as they are"
                .to_owned(),
        );
    }
    if bytes > 0 {
        let how = if cfg!(windows) { "copy" } else { "cp --sparse=never" };
        report.notes.push(format!(
            "a file with holes is refused by Hyper-V and WSL: before they use it again, \
             make a copy without them ({how})"
        ));
    }
    if holes.changes_content && report.orphaned.is_empty() {
        report.orphaned.clone_from(&report.children);
    }
    Ok(Some(holes))
}

/// Punches what `survey` tells of and what is zero, and says how it ended.
pub(super) fn punch(
    image: &mut dyn Image,
    storage: &Arc<dyn Storage>,
    survey: &Survey,
    options: &Options,
    report: &mut Report,
    hook: &mut Hook<'_>,
) -> Result<Outcome> {
    let told = report.orphaned.clone();
    let planned = plan(image, storage, survey, false, options, report, hook);
    let orphaned = std::mem::replace(&mut report.orphaned, told);
    let before = report.punched_bytes.replace(0).unwrap_or(0);
    let Some(holes) = planned? else { return Ok(Outcome::Cancelled) };
    if before == 0 && !has_room_set_aside(storage, report)? {
        return Ok(Outcome::NothingToDo);
    }
    let mut digest_before = None;
    if options.verify {
        digest_before = digest(image, &holes.ranges, Phase::VerifyBefore, hook)?;
        if digest_before.is_none() {
            return Ok(Outcome::Cancelled);
        }
    }
    let identity = image.facts().unique_id;
    // Before the disk gets another identity: not every system does this.
    storage.begin_punching()?;
    let done = run(image, &holes, hook);
    // How far it came, the file itself knows best.
    let left = stored(image, storage, &holes.ranges).unwrap_or(before);
    report.punched_bytes = Some(before.saturating_sub(left));
    if report.orphaned.is_empty() {
        tell_of_orphans(storage, identity, orphaned, report);
    }
    if done?.is_break() {
        return Ok(Outcome::Cancelled);
    }
    let Some(digest_before) = digest_before else { return Ok(Outcome::Punched) };
    // Through a fresh reading of the file: what the next program will see.
    let fresh = open_anew(storage, image)?;
    match digest(&*fresh, &Ranges::new(), Phase::VerifyAfter, hook)? {
        None => Ok(Outcome::Cancelled),
        Some(after) if after == digest_before => {
            report.verified = Some(after.to_hex().to_string());
            Ok(Outcome::Punched)
        }
        Some(_) => Err(Error::new(
            Kind::Unexpected,
            "the live guest bytes are not the same after punching: restore the image from \
             its backup and report this as a bug",
        )),
    }
}

/// Whether the host holds more of the file than its data: room that a fixed image got
/// when it was made, say.
fn has_room_set_aside(storage: &Arc<dyn Storage>, report: &Report) -> Result<bool> {
    let data = stored_in(storage, 0..storage.len())?;
    Ok(report.host_bytes_before.saturating_sub(data) >= SET_ASIDE)
}

/// Punches `holes`, a batch at a time; whether the hook asked to stop.
pub fn run(
    image: &mut dyn Image,
    holes: &Holes,
    hook: &mut Hook<'_>,
) -> Result<ControlFlow<()>> {
    image.still_exclusive()?;
    if holes.changes_content {
        image.content_will_change()?;
    }
    let ranges: Vec<_> = holes.ranges.iter().collect();
    let total = holes.ranges.total();
    let mut done = 0;
    for batch in ranges.chunks(BATCH) {
        if hook(Progress { phase: Phase::Punch, done, total }).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        image.still_exclusive()?;
        image.punch(batch)?;
        done += batch.iter().map(|range| range.end - range.start).sum::<u64>();
    }
    Ok(ControlFlow::Continue(()))
}

/// Hashes the guest's disk with zeros in `holes`: of what is to be punched as it will be,
/// of all else as it is. `None` if the hook asked to stop.
fn digest(
    image: &dyn Image,
    holes: &Ranges,
    phase: Phase,
    hook: &mut Hook<'_>,
) -> Result<Option<blake3::Hash>> {
    let total = image.len();
    let mut hasher = blake3::Hasher::new();
    let mut buf = vec![0; usize::try_from(PIECE).unwrap_or(0)];
    let mut at = 0;
    while at < total {
        let end = (at + PIECE).min(total);
        if hook(Progress { phase, done: at, total }).is_break() {
            return Ok(None);
        }
        let (piece, _) = buf.split_at_mut(usize::try_from(end - at).unwrap_or(0));
        image.read_at(at, piece)?;
        for hole in holes.within(at..end) {
            let within = |to: u64| usize::try_from(to - at).unwrap_or(0);
            if let Some(hole) = piece.get_mut(within(hole.start)..within(hole.end)) {
                hole.fill(0);
            }
        }
        hasher.update(piece);
        at = end;
    }
    Ok(Some(hasher.finalize()))
}
