//! Moves that share bytes instead of copying them, on hosts that can.
//!
//! What the host shares it shares in whole blocks of its own, and what lies before and
//! behind them is copied. So the crash states are others than those of plain copies: of
//! what was shared and not flushed, whole blocks are there or not.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use slimdisk::compact::Verdict;
use slimdisk::compact::plan::plan_to_clone;
use slimdisk::compact::run::run;
use slimdisk::image;
use slimdisk::storage::{Copied, ReadAt, Storage};

use crate::crash::judge;
use crate::support::Noise;
use crate::vhd_model::{SECTOR, Shape};

/// The host's block, small as the guest's blocks here are.
const UNIT: usize = 1024;

#[derive(Clone)]
enum Op {
    Write(usize, Vec<u8>),
    /// Whole blocks that are another place's, too.
    Share(usize, Vec<u8>),
    SetLen(usize),
    Flush,
}

/// A file in memory that can share blocks and remembers everything that was done to it.
struct Sharing(Mutex<(Vec<u8>, Vec<Op>)>);

impl Sharing {
    fn record(&self, op: Op) -> slimdisk::Result<()> {
        let mut state = self.0.lock().unwrap();
        apply(&mut state.0, &op);
        state.1.push(op);
        Ok(())
    }
}

fn put(file: &mut Vec<u8>, at: usize, data: &[u8]) {
    if file.len() < at + data.len() {
        file.resize(at + data.len(), 0);
    }
    file[at..at + data.len()].copy_from_slice(data);
}

fn apply(file: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write(at, data) | Op::Share(at, data) => put(file, *at, data),
        Op::SetLen(len) => file.resize(*len, 0),
        Op::Flush => {}
    }
}

impl ReadAt for Sharing {
    fn len(&self) -> u64 {
        self.0.lock().unwrap().0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> slimdisk::Result<()> {
        self.0.lock().unwrap().0.read_at(offset, buf)
    }
}

impl Storage for Sharing {
    fn write_at(&self, offset: u64, data: &[u8]) -> slimdisk::Result<()> {
        self.record(Op::Write(offset as usize, data.to_vec()))
    }

    fn flush(&self) -> slimdisk::Result<()> {
        self.record(Op::Flush)
    }

    fn set_len(&self, len: u64) -> slimdisk::Result<()> {
        self.record(Op::SetLen(len as usize))
    }

    fn copy_within(&self, from: u64, to: u64, len: u64) -> slimdisk::Result<Copied> {
        let mut data = vec![0; len as usize];
        self.read_at(from, &mut data)?;
        let (from, to) = (from as usize, to as usize);
        let head = from.next_multiple_of(UNIT) - from;
        if from % UNIT != to % UNIT || data.len() < head + UNIT {
            self.record(Op::Write(to, data))?;
            return Ok(Copied::default());
        }
        let (head, rest) = data.split_at(head);
        let (middle, tail) = rest.split_at(rest.len() / UNIT * UNIT);
        let at = to + head.len();
        self.record(Op::Share(at, middle.to_vec()))?;
        for (at, part) in [(to, head), (at + middle.len(), tail)] {
            if !part.is_empty() {
                self.record(Op::Write(at, part.to_vec()))?;
            }
        }
        Ok(Copied { cloned: middle.len() as u64, holes: 0 })
    }

    fn clone_unit(&self) -> Option<u64> {
        Some(UNIT as u64)
    }
}

/// A state that the disk may be in if power fails after `ops[..at]`.
fn state_after(before: &[u8], ops: &[Op], at: usize, noise: &mut Noise) -> Vec<u8> {
    let done = &ops[..at];
    let flushed =
        done.iter().rposition(|op| matches!(op, Op::Flush)).map_or(0, |i| i + 1);
    let mut file = before.to_vec();
    for op in &done[..flushed] {
        apply(&mut file, op);
    }
    let keep_of_8 = noise.below(9);
    let mut torn = noise.below(2) == 0;
    for op in &done[flushed..] {
        let (at, data, unit) = match op {
            Op::Write(at, data) => (*at, data, SECTOR),
            Op::Share(at, data) => (*at, data, UNIT),
            Op::SetLen(len) => {
                if noise.below(8) < keep_of_8 {
                    file.resize(*len, 0);
                }
                continue;
            }
            Op::Flush => continue,
        };
        for (index, part) in data.chunks(unit).enumerate() {
            if noise.below(8) >= keep_of_8 {
                continue;
            }
            let mut part = part;
            if unit == SECTOR && torn && noise.below(4) == 0 {
                torn = false;
                part = &part[..noise.below(129) as usize * 4];
            }
            let at = at + index * unit;
            // A cut that was done already takes writes behind it along.
            if at + part.len() <= file.len() || at < before.len() {
                put(&mut file, at, part);
            }
        }
    }
    file
}

/// One image, what is to be done with it, and the record of doing it.
struct Case {
    shape: Shape,
    verdicts: Vec<Verdict>,
    before: Vec<u8>,
    ops: Vec<Op>,
    after: Vec<u8>,
}

impl Case {
    fn random(noise: &mut Noise) -> Case {
        let shape = Shape::random(noise);
        let mut verdicts = vec![Verdict::Absent; shape.blocks as usize];
        let live_of_8 = 2 + noise.below(5);
        for (block, _) in &shape.order {
            let live = noise.below(8) < live_of_8;
            verdicts[*block as usize] = if live { Verdict::Live } else { Verdict::Free };
        }
        let before = shape.build(&[]);
        let storage = Arc::new(Sharing(Mutex::new((before.clone(), Vec::new()))));
        let mut image = image::open(storage.clone()).unwrap();
        let layout = image.layout().unwrap();
        let plan = plan_to_clone(&layout, &verdicts, storage.clone_unit());
        let round = (noise.below(3) + 1) * plan.extent_len;
        run(&mut *image, &plan, round, &mut |_| ControlFlow::Continue(())).unwrap();
        drop(image);
        let (after, ops) = Arc::into_inner(storage).unwrap().0.into_inner().unwrap();
        Case { shape, verdicts, before, ops, after }
    }

    /// Bytes that were shared, and those of them and of all other writes together.
    fn shared(&self) -> (usize, usize) {
        self.ops.iter().fold((0, 0), |(shared, all), op| match op {
            Op::Share(_, data) => (shared + data.len(), all + data.len()),
            Op::Write(_, data) => (shared, all + data.len()),
            _ => (shared, all),
        })
    }

    /// Judges states of `ops`, the case's own or others like them.
    fn judge(&self, ops: &[Op], noise: &mut Noise) -> Result<usize, String> {
        for at in 0..=ops.len() {
            for _ in 0..4 {
                let file = state_after(&self.before, ops, at, noise);
                judge(&self.shape, &self.verdicts, &file)
                    .map_err(|what| format!("after {at} of {}: {what}", ops.len()))?;
            }
        }
        Ok((ops.len() + 1) * 4)
    }
}

#[test]
fn no_power_cut_loses_a_live_byte_where_bytes_are_shared() {
    let mut noise = Noise::new(1958);
    let (mut states, mut shared, mut all) = (0, 0, 0);
    while states < crate::crash::states_wanted() / 3 {
        let case = Case::random(&mut noise);
        judge(&case.shape, &case.verdicts, &case.after).unwrap();
        states += case
            .judge(&case.ops, &mut noise)
            .unwrap_or_else(|what| panic!("{:?}: {what}", case.shape));
        let (s, a) = case.shared();
        shared += s;
        all += a;
    }
    assert!(shared * 2 > all, "{shared} of {all} bytes were shared");
    println!("{states} crash states, {shared} of {all} bytes shared");
}

/// Leaves out the flushes before the table names what was moved, or those after it has
/// lost what goes.
fn without(case: &Case, before_table: bool) -> Vec<Op> {
    let entries = case.shape.blocks as usize + case.shape.spare_entries as usize;
    let table = 0x600..0x600 + entries * 4;
    let of_table = |op: &Op| matches!(op, Op::Write(at, _) if table.contains(at));
    let leave_out = |index: usize, op: &Op| {
        matches!(op, Op::Flush)
            && if before_table {
                case.ops.get(index + 1).is_some_and(of_table)
            } else {
                case.ops.get(index.wrapping_sub(1)).is_some_and(of_table)
            }
    };
    let kept = case.ops.iter().enumerate().filter(|(index, op)| !leave_out(*index, op));
    kept.map(|(_, op)| op.clone()).collect()
}

#[test]
fn a_flush_left_out_is_caught_where_bytes_are_shared() {
    for before_table in [true, false] {
        let mut noise = Noise::new(7);
        let caught = (0..400).any(|_| {
            let case = Case::random(&mut noise);
            case.judge(&without(&case, before_table), &mut noise).is_err()
        });
        assert!(caught, "not caught: {before_table}");
    }
}

#[cfg(target_os = "linux")]
mod mounted {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use slimdisk::compact::{Outcome, Report};

    use crate::counts::{BLOCK, ext4_half_deleted};
    use crate::end_to_end::{compact, quick};
    use crate::storage::opening::Mount;
    use crate::support::{Noise, Scratch, have, sh};
    use crate::vhd_model::Shape;

    /// Compacts an ext4 of 4 GiB, half of it deleted, in blocks 4097 sectors apart, on a
    /// file system made by `mkfs`.
    fn compacted_on(test: &str, tools: &[&str], mkfs: &str) -> Option<Report> {
        if !have(test, &["mke2fs", "debugfs", "e2fsck", "qemu-img", "mount", "umount"])
            || !have(test, tools)
        {
            return None;
        }
        let scratch = Scratch::new(test);
        let image = scratch.path("host.img");
        sh(&format!("truncate -s 8G {0} && {mkfs} {0}", image.display()));
        let mount = format!("again mount -o loop {}", image.display());
        let mount = Mount::new(test, &scratch, &mount)?;
        let raw = ext4_half_deleted(&scratch, 4);
        // A little of each block, so that a wrong one is seen; but not where the guest's
        // own structures lie.
        let file = File::options().write(true).open(&raw).unwrap();
        let mut noise = Noise::new(5);
        for block in (40..2048).filter(|block| (block * 2) % 2048 > 80) {
            file.write_all_at(&noise.bytes(4096), block * BLOCK + (1 << 20)).unwrap();
        }
        drop(file);
        sh(&format!("e2fsck -fn {} 2>&1", raw.display()));
        let vhd = mount.0.join("disk.vhd");
        Shape::write_full(&vhd, &raw, BLOCK as usize);
        sh(&format!("sync -f {}", vhd.display()));
        let report = compact(&vhd, &quick());
        assert_eq!(report.outcome, Outcome::Compacted, "{report:?}");
        assert!(report.verified.is_some());
        let after = scratch.path("after.raw");
        sh(&format!(
            "qemu-img convert -f vpc -O raw {} {1} && truncate -s 4G {1} && e2fsck -fn {1} 2>&1",
            vhd.display(),
            after.display()
        ));
        Some(report)
    }

    fn costs_little(report: &Report) {
        let moved = report.blocks.moved * (BLOCK + 512);
        assert!(report.blocks.moved > 100, "{:?}", report.blocks);
        let written = report.io.bytes_written.unwrap();
        let cloned = report.io.bytes_cloned.unwrap();
        println!("moved {moved}, written {written}, cloned {cloned}");
        assert!(written * 20 < moved, "{written} of {moved} bytes were written");
        assert!(cloned * 20 > moved * 19, "{cloned} of {moved} bytes were shared");
    }

    #[test]
    fn a_vhd_on_xfs_moves_without_writing() {
        let test = "a_vhd_on_xfs_moves_without_writing";
        if let Some(report) =
            compacted_on(test, &["mkfs.xfs"], "mkfs.xfs -q -m reflink=1")
        {
            costs_little(&report);
        }
    }

    #[test]
    fn a_vhd_on_btrfs_moves_without_writing() {
        let test = "a_vhd_on_btrfs_moves_without_writing";
        if let Some(report) = compacted_on(test, &["mkfs.btrfs"], "mkfs.btrfs -q") {
            costs_little(&report);
        }
    }
}
