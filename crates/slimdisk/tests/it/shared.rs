//! Moves that share bytes instead of copying them, on hosts that can.
//!
//! What the host shares it shares in whole blocks of its own, and what lies before and
//! behind them is copied. So the crash states are others than those of plain copies: of
//! what was shared and not flushed, whole blocks are there or not.

use slimdisk::compact::Verdict;

use crate::crash::Case;
use crate::power_cut::{Op, Recorder};
use crate::support::Noise;
use crate::vhd_model::Shape;

/// A random image, some of whose blocks go, compacted on a host that can share blocks.
fn random(noise: &mut Noise) -> Case {
    let shape = Shape::random(noise);
    let mut verdicts = vec![Verdict::Absent; shape.blocks as usize];
    let live_of_8 = 2 + noise.below(5);
    for (block, _) in &shape.order {
        let live = noise.below(8) < live_of_8;
        verdicts[*block as usize] = if live { Verdict::Live } else { Verdict::Free };
    }
    let before = shape.build(&[]);
    let recorder = Recorder::sharing(before.clone());
    Case::of(shape, verdicts, before, &recorder, noise)
}

/// Bytes that were shared, and those of them and of all other writes together.
fn shared_of(case: &Case) -> (usize, usize) {
    case.ops.iter().fold((0, 0), |(shared, all), op| match op {
        Op::Share { data, .. } => (shared + data.len(), all + data.len()),
        Op::Write { data, .. } => (shared, all + data.len()),
        _ => (shared, all),
    })
}

/// Judges states of `ops`, the case's own or others like them.
fn judge_states(case: &Case, ops: &[Op], noise: &mut Noise) -> Result<usize, String> {
    for at in 0..=ops.len() {
        for _ in 0..4 {
            case.judge(&case.state_after(ops, at, noise))
                .map_err(|what| format!("after {at} of {}: {what}", ops.len()))?;
        }
    }
    Ok((ops.len() + 1) * 4)
}

#[test]
fn no_power_cut_loses_a_live_byte_where_bytes_are_shared() {
    let mut noise = Noise::new(1958);
    let (mut states, mut shared, mut all) = (0, 0, 0);
    while states < crate::crash::states_wanted() / 3 {
        let case = random(&mut noise);
        case.judge(&case.after).unwrap();
        states += judge_states(&case, &case.ops, &mut noise)
            .unwrap_or_else(|what| panic!("{:?}: {what}", case.shape));
        let (s, a) = shared_of(&case);
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
    let of_table = |op: &Op| matches!(op, Op::Write { offset, .. } if table.contains(&(*offset as usize)));
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
            let case = random(&mut noise);
            judge_states(&case, &without(&case, before_table), &mut noise).is_err()
        });
        assert!(caught, "not caught: {before_table}");
    }
}

#[cfg(target_os = "linux")]
mod mounted {
    use crate::vhd_model::FileAt as _;
    use std::fs::File;

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
        let mount = Mount::made_by(mkfs, "8G", test, &scratch)?;
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
