//! Power cuts at every instant of a merge, over the child and its parent at once.
//!
//! Power goes for both at once, and each of the two files loses by itself what it loses.
//! Whatever is left, the child must know its parent and show through it what it showed,
//! and a second run must complete the first.

use std::ops::Range;
use std::sync::Arc;

use slimdisk::image;
use slimdisk::storage::Storage;

use super::judge::{Seen, read, shown};
use super::{Files, Kind, merge, random_chain, random_kind};
use crate::power_cut::{Growth, Op, Recorder, State, Tear, power_cut};
use crate::support::Noise;
use crate::vhdx_model::{MIB, Pages};

/// The files of a child and of its parent, by number.
pub const CHILD: usize = 0;
pub const PARENT: usize = 1;

/// The child of `files` and its parent, which remember together what was done to them.
pub fn recorders(files: &Files) -> [Arc<Recorder<Pages>>; 2] {
    Recorder::of_merge([CHILD, PARENT].map(|which| files.0[which].clone()))
}

/// A file that the disk may be left with after `ops[..at]`, of which `which` is one.
pub fn state_after(
    before: &Pages,
    ops: &[(usize, Op)],
    which: usize,
    at: usize,
    noise: &mut Noise,
) -> Pages {
    let done = ops[..at].iter().filter(|(file, _)| *file == which).map(|(_, op)| op);
    power_cut(before, done, (Tear::Words, Growth::BySetLen), noise)
}

/// A chain whose child is merged, and the record of it.
pub struct Case {
    pub files: Files,
    /// What the child shows.
    pub disk: Pages,
    before: Vec<Seen>,
    /// What the parent shows alone.
    alone: Pages,
    pub ops: Vec<(usize, Op)>,
    pub after: [Pages; 2],
    pub round: u64,
    pub merged: u64,
}

impl Case {
    pub fn of(files: Files, round: u64) -> Case {
        let [child, parent] = recorders(&files);
        let storage: Arc<dyn Storage> = parent.clone();
        let done = merge(&files, child, &storage, round).unwrap();
        let State { files: after, ops } = parent.state();
        let after = after.try_into().ok().expect("a child and its parent");
        let (disk, alone) = (files.shown(0), files.shown(1));
        let before = files.seen();
        Case { files, disk, before, alone, ops, after, round, merged: done.bytes_merged }
    }

    pub fn random(noise: &mut Noise) -> Case {
        let round = [1, 3 * MIB, 1 << 30][noise.below(3) as usize];
        let kind = random_kind(noise);
        Case::of(random_chain(noise, kind), round)
    }

    fn read_all(&self, now: &[Pages; 2]) -> Result<Vec<Seen>, String> {
        let mut seen = Vec::new();
        for (name, file) in ["child", "parent"].into_iter().zip(now) {
            seen.push(read(file).map_err(|what| format!("the {name}: {what}"))?);
        }
        seen.extend(self.before[2..].iter().cloned());
        Ok(seen)
    }

    /// What must hold at any instant.
    pub fn judge(&self, now: &[Pages; 2]) -> Result<Vec<Seen>, String> {
        let seen = self.read_all(now)?;
        let opened = || {
            let [child, parent] =
                [0, 1].map(|which| super::super::PageFile::new(now[which].clone()));
            let mut child = image::open(child)?;
            child.set_parent(Arc::from(image::open(parent)?))
        };
        opened().map_err(|error| format!("they cannot be opened: {error:?}"))?;
        if !seen[CHILD].names(&seen[PARENT]) {
            return Err("the child does not know its parent".to_owned());
        }
        // Who looks at the first identity alone must find the parent that is still the old
        // one by it.
        let first = |child: &Seen, parent: &Seen| {
            let first = child.pair("parent_linkage").unwrap_or_default();
            first.trim_matches(['{', '}']).eq_ignore_ascii_case(&parent.id)
        };
        let (child, parent) = (&self.before[CHILD], &self.before[PARENT]);
        if first(child, parent)
            && seen[PARENT].id == parent.id
            && !first(&seen[CHILD], parent)
        {
            return Err("the child names its parent in the second place".to_owned());
        }
        let all: Vec<&Seen> = seen.iter().collect();
        if shown(&all) != self.disk {
            return Err("the child shows something else".to_owned());
        }
        let (was, is) = (&self.before[CHILD], &seen[CHILD]);
        if (&was.blocks, &was.bitmaps, &was.id) != (&is.blocks, &is.bitmaps, &is.id) {
            return Err("the child itself changed".to_owned());
        }
        let others = |seen: &Seen| -> Vec<_> {
            let mut pairs = seen.pairs.clone();
            pairs.retain(|(key, _)| !key.starts_with("parent_linkage"));
            pairs
        };
        if others(was) != others(is) {
            return Err("the child names its parent by other paths".to_owned());
        }
        let alone = shown(&all[1..]);
        if alone != self.alone && seen[PARENT].id == self.before[PARENT].id {
            return Err("other content under the same identity".to_owned());
        }
        self.judge_words(&alone)?;
        for which in [CHILD, PARENT] {
            let (was, is) = (&self.before[which], &seen[which]);
            let other = was.id != is.id
                || was.blocks != is.blocks
                || was.pairs != is.pairs
                || was.file.len != is.file.len;
            if other && was.file_write == is.file_write {
                return Err(format!("file {which} is another under the same identity"));
            }
        }
        Ok(seen)
    }

    /// Each word of the parent is as it was or as it will be.
    fn judge_words(&self, alone: &Pages) -> Result<(), String> {
        for at in alone.held(0, alone.len).chain(self.alone.held(0, alone.len)) {
            let [now, old, new] =
                [alone, &self.alone, &self.disk].map(|disk| disk.get(at, 4096));
            let words = now.chunks(4).zip(old.chunks(4).zip(new.chunks(4)));
            for (now, (old, new)) in words {
                if now != old && now != new {
                    return Err(format!("the parent at {at:#x} is neither old nor new"));
                }
            }
        }
        Ok(())
    }

    /// A merge that is through: the parent alone shows the disk.
    pub fn judge_whole(&self, now: &[Pages; 2]) -> Result<(), String> {
        let seen = self.judge(now)?;
        let all: Vec<&Seen> = seen.iter().collect();
        if shown(&all[1..]) != self.disk {
            return Err("the parent alone does not show the child's disk".to_owned());
        }
        Ok(())
    }

    /// The files as a run leaves them; the child's only if there was something to write.
    pub fn judge_closed(&self, now: &[Pages; 2]) -> Result<(), String> {
        self.judge_whole(now)?;
        let replayed = |file: &Pages| read(file).map(|seen| seen.replayed);
        if replayed(&now[PARENT])? || self.merged > 0 && replayed(&now[CHILD])? {
            return Err("a log was left in use".to_owned());
        }
        Ok(())
    }

    pub fn state(&self, ops: &[(usize, Op)], at: usize, noise: &mut Noise) -> [Pages; 2] {
        [CHILD, PARENT]
            .map(|which| state_after(&self.files.0[which], ops, which, at, noise))
    }
}

/// How many states the quick run draws, and how many of them the long one.
fn states_wanted() -> usize {
    if std::env::var_os("SLIMDISK_LONG").is_some() { 40_000 } else { 6000 }
}

#[test]
fn no_power_cut_changes_what_a_vhdx_child_shows() {
    let mut noise = Noise::new(2026);
    let (mut states, mut resumed, mut grown, mut replayed, mut between) = (0, 0, 0, 0, 0);
    let mut kinds = [0; 3];
    while states < states_wanted() {
        let case = Case::random(&mut noise);
        let before = [case.files.0[CHILD].clone(), case.files.0[PARENT].clone()];
        case.judge(&before).unwrap();
        case.judge_closed(&case.after).unwrap();
        if case.merged > 0 {
            let kind = match case.before[PARENT].differencing {
                true => Kind::Differencing,
                false if case.before[PARENT].fixed => Kind::Fixed,
                false => Kind::Dynamic,
            };
            kinds[kind as usize] += 1;
        }
        grown += usize::from(case.after[PARENT].len > before[PARENT].len);
        for at in 0..=case.ops.len() {
            for _ in 0..2 {
                let now = case.state(&case.ops, at, &mut noise);
                states += 1;
                let judged = case.judge(&now).and_then(|seen| {
                    replayed += usize::from(seen[PARENT].replayed);
                    // The child knows both, and the parent is still the old one.
                    between += usize::from(
                        seen[CHILD].pairs != case.before[CHILD].pairs
                            && seen[PARENT].id == case.before[PARENT].id,
                    );
                    if at == case.ops.len() { case.judge_whole(&now) } else { Ok(()) }
                });
                if let Err(what) = judged {
                    panic!("after {at} of {} operations: {what}", case.ops.len());
                }
                if noise.below(24) == 0 {
                    resumed += 1;
                    resume(&case, now, &mut noise);
                }
            }
        }
    }
    assert!(kinds.iter().all(|kind| *kind > 2), "{kinds:?}");
    assert!(grown > 10 && resumed > 100 && replayed > 300 && between > 100);
    println!(
        "{states} crash states, {resumed} resumed, {replayed} replayed, {between} between \
         two identities, {grown} grew, {kinds:?}"
    );
}

/// The merge runs again from a state that a crash left, and may crash again.
fn resume(case: &Case, now: [Pages; 2], noise: &mut Noise) {
    let [child, parent] = now;
    let mut files = case.files.clone();
    (files.0[CHILD], files.0[PARENT]) = (child, parent);
    let again = Case::of(files, case.round);
    again.judge_closed(&again.after).unwrap();
    case.judge_whole(&again.after).unwrap();
    assert!(
        again.after[PARENT].len <= case.after[PARENT].len,
        "a second run ends longer"
    );
    for _ in 0..4 {
        let at = noise.below(again.ops.len() as u64 + 1) as usize;
        let now = again.state(&again.ops, at, noise);
        case.judge(&now).unwrap();
    }
    // A third time there is nothing to do.
    let mut files = again.files.clone();
    (files.0[CHILD], files.0[PARENT]) =
        (again.after[CHILD].clone(), again.after[PARENT].clone());
    let third = Case::of(files, case.round);
    assert!(third.ops.is_empty() && third.merged == 0, "{}", third.ops.len());
}

/// The flushes, by what they make durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// An entry of the child's log, before the header names it.
    ChildLog,
    /// What it holds in its place, before the log is called empty.
    ChildLocator,
    /// The child's headers.
    ChildHeader,
    /// The parent's data, before the log names it.
    Data,
    ParentLog,
    /// Table and sector bitmaps, before the log goes on or is called empty.
    ParentTable,
    ParentHeader,
}

/// Leaves out the flushes of one kind.
fn without(case: &Case, fault: Fault) -> Vec<(usize, Op)> {
    let mut kept = Vec::new();
    let mut since: [Vec<Op>; 2] = [Vec::new(), Vec::new()];
    for (which, op) in &case.ops {
        let seen = &case.before[*which];
        if matches!(op, Op::Flush) {
            let wrote = |range: Range<u64>| {
                since[*which].iter().any(
                    |op| matches!(op, Op::Write { offset, .. } if range.contains(offset)),
                )
            };
            let in_log = wrote(seen.log.0..seen.log.0 + seen.log.1);
            let in_header = wrote(64 << 10..192 << 10);
            let tables = [seen.bat, seen.metadata]
                .into_iter()
                .chain(seen.bitmaps.iter().copied().filter(|place| *place != 0));
            let in_tables = tables.into_iter().any(|at| wrote(at..at + MIB));
            let kind = match (*which, in_log, in_header, in_tables) {
                (CHILD, true, ..) => Some(Fault::ChildLog),
                (CHILD, _, true, _) => Some(Fault::ChildHeader),
                (CHILD, _, _, true) => Some(Fault::ChildLocator),
                (_, true, ..) => Some(Fault::ParentLog),
                (_, _, true, _) => Some(Fault::ParentHeader),
                (_, _, _, true) => Some(Fault::ParentTable),
                _ => Some(Fault::Data),
            };
            since[*which].clear();
            if kind == Some(fault) {
                continue;
            }
        } else {
            since[*which].push(op.clone());
        }
        kept.push((*which, op.clone()));
    }
    kept
}

#[test]
fn a_flush_left_out_of_a_vhdx_merge_is_caught() {
    for fault in [
        Fault::ChildLog,
        Fault::ChildLocator,
        Fault::ChildHeader,
        Fault::Data,
        Fault::ParentLog,
        Fault::ParentTable,
        Fault::ParentHeader,
    ] {
        let mut noise = Noise::new(72);
        let mut caught = None;
        let mut states = 0;
        'cases: for _ in 0..200 {
            let case = Case::random(&mut noise);
            let ops = without(&case, fault);
            if ops.len() == case.ops.len() {
                continue;
            }
            for at in 0..=ops.len() {
                for _ in 0..3 {
                    states += 1;
                    let now = case.state(&ops, at, &mut noise);
                    let mut judged = case.judge(&now).map(drop);
                    if at == ops.len() && judged.is_ok() {
                        judged = case.judge_whole(&now);
                    }
                    if let Err(what) = judged {
                        caught = Some(what);
                        break 'cases;
                    }
                }
            }
        }
        let what =
            caught.unwrap_or_else(|| panic!("{fault:?}: not caught in {states} states"));
        println!("{fault:?}: caught after {states} states: {what}");
    }
}
