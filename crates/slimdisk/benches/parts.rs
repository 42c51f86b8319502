//! How fast the parts are that do the work between reading and copying:
//! `cargo bench -p slimdisk`. Whole runs are measured by `benches/compare`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a measurement that meets a surprise should panic"
)]

#[path = "../tests/it/noise.rs"]
mod noise;
#[path = "../tests/it/vhd_model.rs"]
mod vhd_model;

/// What the model of a VHD takes its noise from.
mod support {
    pub use crate::noise::Noise;
}

use std::fs::File;
use std::hint::black_box;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use slimdisk::compact::plan::plan_to_clone;
use slimdisk::compact::{Mode, Options, Verdict, plan_disk};
use slimdisk::image::{Extent, Layout, Piece};
use slimdisk::ranges::Ranges;
use slimdisk::storage::HostFile;
use slimdisk::volume::{Allowances, Identity, identify};

use crate::vhd_model::Shape;

/// The largest VHD: 2040 GiB in blocks of 2 MiB, every third one free, the last first.
fn largest() -> (Layout, Vec<Verdict>) {
    let blocks = 2040 * 512;
    let len = (2 << 20) + 512;
    let start = 0x600 + u64::from(blocks) * 4;
    let place = |slot: u32| start + u64::from(slot) * len;
    let extents = (0..blocks)
        .map(|slot| Extent { place: place(slot), piece: Piece::Block(blocks - 1 - slot) })
        .collect();
    let verdict = |block| if block % 3 == 0 { Verdict::Free } else { Verdict::Live };
    let layout = Layout {
        extents,
        extent_len: len,
        bitmap_len: 0,
        chunk_blocks: 0,
        partial: Vec::new(),
        modulus: 512,
        remainder: 0,
        reserved: std::iter::once(0..start).collect::<Ranges>(),
        trailer_len: 512,
        end_modulus: 512,
        file_len: place(blocks) + 512,
    };
    (layout, (0..blocks).map(verdict).collect())
}

fn plan(c: &mut Criterion) {
    let (layout, verdicts) = largest();
    let mut group = c.benchmark_group("plan of 2040 GiB");
    group.sample_size(10);
    for (name, unit) in [("copying", None), ("cloning", Some(4096))] {
        group.bench_function(name, |b| {
            b.iter(|| black_box(plan_to_clone(&layout, &verdicts, unit)));
        });
    }
    group.finish();
}

fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("parts");
    std::fs::create_dir_all(&dir).unwrap();
    dir.join(name)
}

/// Makes a volume of 64 GiB in a sparse file, if its tool is there.
fn volume(name: &str, tool: &str, options: &[&str]) -> Option<PathBuf> {
    let path = scratch(name);
    File::create(&path).unwrap().set_len(64 << 30).unwrap();
    let path_var =
        format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let made = Command::new(tool).args(options).arg(&path).env("PATH", path_var).output();
    if made.is_ok_and(|made| made.status.success()) {
        return Some(path);
    }
    println!("{tool} is missing: the free map of {name} is left out");
    None
}

fn free_maps(c: &mut Criterion) {
    let mut group = c.benchmark_group("free map of 64 GiB");
    group.sample_size(10);
    let volumes = [
        ("ext4", "mkfs.ext4", &["-q", "-F", "-O", "^uninit_bg,^metadata_csum"][..]),
        ("ntfs", "mkfs.ntfs", &["-Q", "-F", "-q"][..]),
        ("xfs", "mkfs.xfs", &["-q", "-f"][..]),
    ];
    for (name, tool, options) in volumes {
        let Some(path) = volume(name, tool, options) else { continue };
        let file = HostFile::open_read(&path).unwrap();
        let Ok(Identity::Known(system)) = identify(&file) else {
            panic!("{name} is not known")
        };
        group.throughput(Throughput::Bytes(64 << 30));
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut pieces = 0;
                let found =
                    system.survey(&file, &Allowances::default(), &mut |_| pieces += 1);
                assert_eq!(found.unwrap().untrusted, None);
                black_box(pieces)
            });
        });
        let _ = std::fs::remove_file(&path);
    }
    group.finish();
}

/// Blocks that hold zeros and nothing else, read from the host's memory.
fn zero_search(c: &mut Criterion) {
    const BLOCKS: u32 = 64;
    let shape = Shape {
        block_size: 2 << 20,
        blocks: BLOCKS,
        order: (0..BLOCKS).map(|block| (block, 0)).collect(),
        aligned: false,
        spare_entries: 0,
        batmap: false,
        creator: *b"win ",
        seed: 1,
    };
    let path = scratch("zeros.vhd");
    std::fs::write(&path, shape.build(&(0..BLOCKS).collect::<Vec<_>>())).unwrap();
    let mut options = Options::default();
    options.mode = Mode::Prezeroed;
    let mut group = c.benchmark_group("zero search");
    group.throughput(Throughput::Bytes(u64::from(BLOCKS) << 21));
    group.sample_size(10);
    group.bench_function("128 MiB of zeros", |b| {
        b.iter(|| {
            let report = plan_disk(&path, &options, &mut |_| ControlFlow::Continue(()));
            assert_eq!(report.blocks.released_zero, u64::from(BLOCKS));
        });
    });
    group.finish();
    let _ = std::fs::remove_file(&path);
}

criterion_group!(parts, plan, free_maps, zero_search);
criterion_main!(parts);
