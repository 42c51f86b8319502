//! On a host that can share blocks between files, moving costs no data.

use std::fs;
use std::path::Path;

use slimdisk::compact::{Mode, Outcome};
use slimdisk::storage::{HostFile, ReadAt};

use super::compacted::pages_of;
use super::shape;
use crate::end_to_end::{compact, quick};
use crate::storage::opening::Mount;
use crate::support::{Noise, Scratch, have, sh};
use crate::vhdx_model::{FULL, MIB, Shape, read_strictly};

/// Forty blocks full of noise and as many of zeros, in no order.
fn make(path: &Path, block_mib: u64) -> (Shape, u64) {
    let mut noise = Noise::new(block_mib);
    let mut order: Vec<(u32, u64, u64)> = (0..80).map(|block| (block, FULL, 0)).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, noise.below(i as u64 + 1) as usize);
    }
    let shape = Shape { block_mib, blocks: 80, order, ..shape() };
    let (file, _) = shape.build_with(|block| match block % 2 {
        0 => Vec::new(),
        _ => vec![(0, noise_of(block, block_mib))],
    });
    fs::write(path, file.bytes()).unwrap();
    sh(&format!("sync -f {}", path.display()));
    (shape, file.len)
}

fn noise_of(block: u32, block_mib: u64) -> Vec<u8> {
    Noise::new(u64::from(block) + 1).bytes((block_mib * MIB) as usize)
}

#[test]
fn moving_costs_no_data_where_blocks_can_be_shared() {
    let test = "moving_costs_no_data_where_blocks_can_be_shared";
    if !have(test, &["mkfs.xfs", "mount", "umount"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let Some(mount) = Mount::made_by("mkfs.xfs -q -m reflink=1", "600M", test, &scratch)
    else {
        return;
    };
    for block_mib in [1, 4] {
        let path = mount.0.join("disk.vhdx");
        let (shape, len) = make(&path, block_mib);
        let mut options = quick();
        options.mode = Mode::Prezeroed;
        let report = compact(&path, &options);
        assert_eq!(report.outcome, Outcome::Compacted, "{report:?}");
        assert_eq!(report.blocks.released_zero, 40);
        assert_eq!(report.file_size_after, len - 40 * shape.block_len());
        let moved = report.blocks.moved;
        assert!(moved > 5, "{moved}");
        assert_eq!(report.io.bytes_cloned, Some(moved * shape.block_len()));
        // Headers, entries of the log, pages of the table.
        let written = report.io.bytes_written.unwrap();
        assert!(written > 0 && written < 128 << 10, "{written} bytes were written");
        println!("{block_mib} MiB: {moved} moved, {written} bytes written");

        let file = HostFile::open_read(&path).unwrap();
        assert_eq!(file.len(), report.file_size_after);
        let model = read_strictly(&pages_of(&path)).unwrap();
        for (block, (state, place)) in (0u32..).zip(&model.blocks) {
            assert_eq!(*state == FULL, block % 2 == 1, "block {block}");
            if *state == FULL {
                let there = model.file.get(*place, shape.block_len() as usize);
                assert!(there == noise_of(block, block_mib), "block {block}");
            }
        }
    }
}
