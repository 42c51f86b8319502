//! Whole runs on VHDX: made by qemu in every block size, judged by qemu and by the
//! tools of the volumes in them; the layout of WSL 2; every call that may fail.

use crate::vhd_model::FileAt as _;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use slimdisk::Kind;
use slimdisk::compact::{Mode, Options, Outcome, Report, Verdict, compact_storage};
use slimdisk::image::{self, Severity};
use slimdisk::storage::{HostFile, ReadAt, Storage};

use super::{PageFile, findings, open, shape};
use crate::end_to_end::{self, SCHEMES, Volume, blocks_to_stay, make_disk, plan, quick};
use crate::faults::{Call, Fault, Faulty};
use crate::support::{Noise, Scratch, have, sh};
use crate::vhdx_model::{FULL, Pages, Shape, UNMAPPED, read_strictly};

/// The pages of a file, for the strict reader; holes stay holes.
pub fn pages_of(path: &Path) -> Pages {
    let file = HostFile::open_read(path).unwrap();
    let mut pages = Pages::default();
    let mut at = 0;
    while let Some(data) = file.next_data(at).unwrap() {
        at = data.start;
        while at < data.end {
            let len = (data.end - at).min(1 << 20);
            let mut piece = vec![0; len as usize];
            file.read_at(at, &mut piece).unwrap();
            for (page, bytes) in (at..).step_by(4096).zip(piece.chunks(4096)) {
                if bytes.iter().any(|byte| *byte != 0) {
                    pages.write(page, bytes);
                }
            }
            at += len;
        }
    }
    pages.set_len(file.len());
    pages
}

fn identity(path: &Path) -> Option<[u8; 16]> {
    image::open(Arc::new(HostFile::open_read(path).unwrap())).unwrap().facts().unique_id
}

fn every_block_size_and_scheme(test: &str, kind: end_to_end::Kind, blocks_mib: &[u64]) {
    let tools = ["mke2fs", "debugfs", "e2fsck", "dumpe2fs", "qemu-img", "sfdisk"];
    let ntfs_tools = ["mkntfs", "ntfs-3g", "ntfsfix", "ntfscat"];
    let ntfs = matches!(kind, end_to_end::Kind::Ntfs(_));
    if !have(test, &tools) || ntfs && !have(test, &ntfs_tools) {
        return;
    }
    let scratch = Scratch::new(test);
    let volume = Volume::make(&scratch, kind);
    let mut won = 0;
    for scheme in SCHEMES {
        let (disk, at) = make_disk(&scratch, &volume, scheme);
        let raw = scratch.path("disk.raw");
        fs::write(&raw, &disk).unwrap();
        for block_mib in blocks_mib {
            let cell = format!("{test}, {scheme}, {block_mib} MiB");
            let path = scratch.path("disk.vhdx");
            let (from, to) = (raw.display(), path.display());
            sh(&format!(
                "qemu-img convert -f raw -O vhdx -o block_size={block_mib}M {from} {to}"
            ));
            let id = identity(&path);
            let planned = plan(&path, &quick());
            let report = end_to_end::compact(&path, &quick());
            assert_eq!(report.error, None, "{cell}");
            assert_eq!(planned.file_size_after, report.file_size_after, "{cell}");
            assert_eq!(planned.blocks, report.blocks, "{cell}");
            assert_eq!(fs::metadata(&path).unwrap().len(), report.file_size_after);
            assert!(report.verified.is_some(), "{cell}");
            let block = (block_mib << 20) as usize;
            let stay = blocks_to_stay(&disk, &volume, &at, block);
            assert_eq!(report.blocks.allocated_after, stay as u64, "{cell}");
            if report.outcome == Outcome::Compacted {
                won += 1;
                assert_ne!(identity(&path), id, "{cell}");
                let model = read_strictly(&pages_of(&path)).unwrap();
                assert!(!model.replayed);
                let there = model.blocks.iter().filter(|(state, _)| *state == FULL);
                assert_eq!(there.count(), stay, "{cell}");
            }
            let (_, found) = image::check_file(&path).unwrap();
            assert_eq!(found, [], "{cell}");
            sh(&format!("qemu-img check -f vhdx {}", path.display()));

            // Only in free ranges does a byte differ.
            let after = scratch.path("after.raw");
            let (from, to) = (path.display(), after.display());
            sh(&format!("qemu-img convert -f vhdx -O raw {from} {to}"));
            let back = fs::read(&after).unwrap();
            assert!(back[disk.len()..].iter().all(|byte| *byte == 0), "{cell}");
            for (number, (was, is)) in (0..).zip(disk.chunks(512).zip(back.chunks(512))) {
                let sector = number * 512..(number + 1) * 512;
                let free = sector.start >= at.start as u64
                    && sector.end <= at.end as u64
                    && volume.free.covers(
                        &(sector.start - at.start as u64..sector.end - at.start as u64),
                    );
                assert!(was == is || free, "{cell}: the sector {sector:?}");
            }
            volume.judge(&scratch, &back[at.clone()]);
            let again = end_to_end::compact(&path, &quick());
            assert_eq!(again.outcome, Outcome::NothingToDo, "{cell}");
            assert_eq!(again.io.bytes_written, Some(0), "{cell}");
        }
    }
    assert!(won >= 6, "only {won} images could be made smaller");
}

#[test]
fn vhdx_with_ext4() {
    let kind = end_to_end::Kind::Ext("-t ext4 -b 4096 -J size=4");
    every_block_size_and_scheme("vhdx_with_ext4", kind, &[1, 2, 8, 32, 256]);
}

#[test]
fn vhdx_with_ntfs() {
    let kind = end_to_end::Kind::Ntfs("-c 4096");
    every_block_size_and_scheme("vhdx_with_ntfs", kind, &[1, 2, 8, 32, 256]);
}

/// WSL 2: blocks of 1 MiB, ext4 on the bare disk, 1 TiB of it, and what the guest
/// discarded is unmapped, some of it still in its place.
#[test]
fn the_layout_of_wsl() {
    let test = "the_layout_of_wsl";
    if !have(test, &["mke2fs", "debugfs", "e2fsck", "qemu-img"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let (raw, pool) = (scratch.path("disk.raw"), scratch.path("pool"));
    let path = scratch.path("ext4.vhdx");
    fs::create_dir_all(&pool).unwrap();
    let mut noise = Noise::new(12);
    let mut rm = String::new();
    for number in 0..24 {
        let len = 1 << (18 + noise.below(5));
        fs::write(pool.join(format!("f{number}")), noise.bytes(len)).unwrap();
        if number % 3 != 0 {
            rm += &format!("rm f{number}\n");
        }
    }
    sh(&format!(
        "mke2fs -q -F -t ext4 -N 65536 -E nodiscard,lazy_itable_init=1 -J size=4 -d {} {1} 1t
         debugfs -w -f - {1} >/dev/null 2>&1 <<'END'\n{rm}END
         qemu-img convert -f raw -O vhdx -o block_size=1M {1} {2}",
        pool.display(),
        raw.display(),
        path.display()
    ));
    let before = pages_of(&path);
    let model = read_strictly(&before).unwrap();
    assert_eq!((model.disk_size, model.block_len), (1 << 40, 1 << 20));
    let report = plan(&path, &quick());
    assert!(report.blocks.released_free > 5, "{report:?}");

    // Blocks that are free: half of them unmapped in place, and most that have no place.
    let image = image::open(Arc::new(HostFile::open_read(&path).unwrap())).unwrap();
    let goes: BTreeSet<u32> = {
        let mut hook = |_| ControlFlow::Continue(());
        let found = slimdisk::compact::survey::survey(&*image, &quick(), true, &mut hook)
            .unwrap()
            .unwrap();
        (0..)
            .zip(found.verdicts)
            .filter(|(_, v)| *v == Verdict::Free)
            .map(|(b, _)| b)
            .collect()
    };
    drop(image);
    let bat = 3 << 20;
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let (mut kept, mut gone) = (0, 0);
    for (block, (state, place)) in (0u64..).zip(&model.blocks) {
        let index = block + block / 4096;
        let entry = match *state {
            FULL if goes.contains(&(block as u32)) && noise.below(2) == 0 => {
                kept += 1;
                place | UNMAPPED
            }
            2 if block < 5000 && noise.below(4) > 0 => {
                gone += 1;
                UNMAPPED
            }
            _ => continue,
        };
        let at = [2u64 << 20, bat]
            .into_iter()
            .find(|at| before.get(at + index * 8, 8) == (place | state).to_le_bytes())
            .unwrap();
        file.write_all_at(&u64::to_le_bytes(entry), at + index * 8).unwrap();
    }
    drop(file);
    assert!(kept > 2 && gone > 1000, "{kept} kept, {gone} gone");
    sh(&format!("qemu-img check -f vhdx {}", path.display()));

    let report = end_to_end::compact(&path, &quick());
    assert_eq!(report.error, None);
    assert_eq!(report.outcome, Outcome::Compacted);
    assert_eq!(report.blocks.released_zero, kept);
    assert_eq!(report.blocks.released_free + kept, goes.len() as u64);
    let after = read_strictly(&pages_of(&path)).unwrap();
    for (block, (was, is)) in (0u32..).zip(model.blocks.iter().zip(&after.blocks)) {
        match (was.0, is.0) {
            (FULL, 2 | UNMAPPED) => assert!(goes.contains(&block) && is.1 == 0),
            (FULL, FULL) => assert!(after.same_block(&model, block as usize)),
            (a, b) => assert!(a == b || b == UNMAPPED && is.1 == 0, "{a} {b}"),
        }
    }
    let (vhdx, back) = (path.display(), scratch.path("back.raw"));
    sh(&format!(
        "qemu-img check -f vhdx {vhdx}; qemu-img convert -f vhdx -O raw {vhdx} {0}
         e2fsck -fn {0} 2>&1
         mkdir {1} && debugfs -R 'rdump / {1}' {0} >/dev/null 2>&1
         rm -rf {1}/lost+found",
        back.display(),
        scratch.path("out").display()
    ));
    for number in (0..24).step_by(3) {
        let name = format!("f{number}");
        let (a, b) = (pool.join(&name), scratch.path("out").join(&name));
        assert!(fs::read(a).unwrap() == fs::read(b).unwrap(), "{name}");
    }
    assert_eq!(end_to_end::compact(&path, &quick()).outcome, Outcome::NothingToDo);
}

/// Twelve blocks, some of them zeros, in no order, and a log to replay.
fn faulty() -> (Shape, Pages, Vec<u32>) {
    let order = [5, 2, 9, 0, 11, 3, 7, 1, 10].map(|block| (block, FULL, 0)).to_vec();
    let shape = Shape { blocks: 12, order, seed: 4, ..shape() };
    let zero = vec![5, 9, 3, 0, 10];
    let (mut file, places) = shape.build(&zero);
    let page = file.get(places.bat, 4096);
    let entry = crate::vhdx_model::LogEntry {
        pages: vec![(places.bat, page)],
        ..crate::vhdx_model::LogEntry::default()
    };
    shape.with_log(&mut file, &places, 0, &[entry]);
    file.write(places.bat, &[0xEE; 100]);
    (shape, file, zero)
}

fn run(storage: Arc<dyn Storage>) -> (slimdisk::Result<Outcome>, Report) {
    let mut options = Options::default();
    options.mode = Mode::Prezeroed;
    options.verify = true;
    let mut report = Report::new(Path::new("memory"), options.mode);
    let hook = &mut |_| ControlFlow::Continue(());
    let outcome = compact_storage(storage, &options, &mut report, hook);
    (outcome, report)
}

#[test]
fn every_call_on_a_vhdx_may_fail() {
    let (shape, before, zero) = faulty();
    let original = read_strictly(&before).unwrap();
    let judge = |file: &Pages, what: &str| {
        let now = read_strictly(file).unwrap_or_else(|e| panic!("{what}: {e}"));
        for block in 0..12 {
            let gone = now.blocks[block].1 == 0 && original.blocks[block].1 != 0;
            assert!(!gone || zero.contains(&(block as u32)), "{what}: {block}");
            assert!(now.same_block(&original, block), "{what}: {block}");
        }
        assert_eq!(now.data_write, original.data_write, "{what}");
        now
    };
    let whole = Arc::new(Faulty::new(PageFile::new(before.clone()), None));
    assert_eq!(run(whole.clone()).0.unwrap(), Outcome::Compacted);
    let goal = whole.inner().pages();
    assert!(!judge(&goal, "whole").replayed);
    assert_eq!(goal.len, before.len - 5 * shape.block_len());
    let mut tried = 0;
    for call in Call::ALL {
        let calls = whole.calls(call);
        assert!(calls > 0, "{call:?} does not occur in this run");
        for nth in 0..calls {
            for (error, lasting, partial) in [
                (ErrorKind::Other, false, 0),
                (ErrorKind::StorageFull, true, 700),
                (ErrorKind::StorageFull, false, 4),
            ] {
                let fault = Fault { lasting, partial, ..Fault::once(call, nth, error) };
                let storage =
                    Arc::new(Faulty::new(PageFile::new(before.clone()), Some(fault)));
                let (failed, report) = run(storage.clone());
                let what = format!("{fault:?}");
                assert!(storage.struck(), "{what} did not happen");
                let kind = failed.expect_err("a fault was swallowed").kind();
                let expected = match (call, error) {
                    (Call::StillExclusive, _) => Kind::InUse,
                    (_, ErrorKind::Other) => Kind::Io,
                    _ => Kind::DiskFull,
                };
                assert_eq!(kind, expected, "{what}");
                let file = storage.inner().pages();
                let now = judge(&file, &what);
                if report.blocks.total > 0 && !(call == Call::Read && lasting) {
                    let there = now.blocks.iter().filter(|(_, place)| *place > 0).count();
                    assert_eq!(report.blocks.allocated_after, there as u64, "{what}");
                }
                let again = PageFile::new(file);
                run(again.clone()).0.unwrap();
                let done = again.pages();
                assert!(!judge(&done, &what).replayed || done.len > goal.len, "{what}");
                assert_eq!(done.len, goal.len, "{what}");
                tried += 1;
            }
        }
    }
    assert!(tried > 100, "only {tried} faults");
}

#[test]
fn zeros_keep_the_identity_and_free_bytes_change_it() {
    let shape = shape();
    let (file, places) = shape.build(&[0, 9]);
    let compact = |file: &Pages, verdict: Verdict| {
        let storage = PageFile::new(file.clone());
        let mut image = image::open(storage.clone()).unwrap();
        let verdicts: Vec<Verdict> = (0..10)
            .map(|block| match block {
                0 | 9 => verdict,
                _ if image.is_allocated(block) => Verdict::Live,
                _ => Verdict::Absent,
            })
            .collect();
        let plan = slimdisk::compact::plan::plan(&image.layout().unwrap(), &verdicts);
        let go = &mut |_| ControlFlow::Continue(());
        slimdisk::compact::run::run(&mut *image, &plan, 1, go).unwrap();
        storage.pages()
    };
    let before = read_strictly(&file).unwrap();
    for (verdict, changes) in [(Verdict::Zero, false), (Verdict::Free, true)] {
        let after = compact(&file, verdict);
        assert_eq!(after.len, file.len - 2 * shape.block_len());
        let now = read_strictly(&after).unwrap();
        assert_eq!(now.data_write != before.data_write, changes);
        assert_ne!(now.file_write, before.file_write);
        assert_eq!((now.blocks[0], now.blocks[9]), ((2, 0), (2, 0)));
        assert_eq!(findings(&after), []);
    }
    // Both headers and both tables are sound afterwards, whatever was damaged before.
    for at in [64 << 10, 128 << 10, 192 << 10, 256 << 10] {
        let mut damaged = file.clone();
        damaged.write(at + 30, &[0xEE; 4]);
        assert!(findings(&damaged).iter().any(|f| f.severity == Severity::Damaged));
        assert_eq!(findings(&compact(&damaged, Verdict::Zero)), []);
    }
    // An idle place is taken out, so that no other block gets the same.
    let mut idle = file.clone();
    idle.write(places.bat + 5 * 8, &(2 | (4u64 << 20)).to_le_bytes());
    let after = read_strictly(&compact(&idle, Verdict::Zero)).unwrap();
    assert_eq!(after.blocks[5], (2, 0));
    // A block that the file cut short is whole when it has moved.
    let mut cut = file.clone();
    cut.set_len(cut.len - 5000);
    let was = open(&cut).unwrap();
    let after = compact(&cut, Verdict::Zero);
    let is = open(&after).unwrap();
    let read = |image: &dyn image::Image| super::guest(image, 4 << 20, 1 << 20);
    assert!(read(&*was) == read(&*is));
    read_strictly(&after).unwrap();
}

/// More pages of the table than an entry of the log holds, and a log that goes round.
#[test]
fn a_table_of_many_pages_goes_through_the_log_in_parts() {
    let mut noise = Noise::new(9);
    let order: Vec<(u32, u64, u64)> =
        (0..600).map(|n| (n * 511 + noise.below(500) as u32, FULL, 0)).collect();
    let shape = Shape { blocks: 320_000, order, ..shape() };
    let all: Vec<u32> = shape.order.iter().map(|(block, ..)| *block).collect();
    let zero: Vec<u32> = all.iter().copied().filter(|block| block % 3 != 0).collect();
    let (file, _) = shape.build(&zero);
    let storage = PageFile::new(file.clone());
    let (outcome, report) = run(storage.clone());
    assert_eq!(outcome.unwrap(), Outcome::Compacted);
    assert_eq!(report.blocks.released_zero, zero.len() as u64);
    let after = storage.pages();
    assert_eq!(after.len, file.len - zero.len() as u64 * shape.block_len());
    let (was, is) = (read_strictly(&file).unwrap(), read_strictly(&after).unwrap());
    for block in all {
        assert!(was.same_block(&is, block as usize), "{block}");
    }
    assert_eq!(
        is.blocks.iter().filter(|(_, place)| *place != 0).count(),
        600 - zero.len()
    );
}
