//! Children compacted in place: what goes is free or the parent's, and nothing else.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use slimdisk::Kind;
use slimdisk::compact::survey::survey;
use slimdisk::compact::{Mode, Options, Outcome, Report, Verdict};
use slimdisk::image::parent::ParentLookup;
use slimdisk::ranges::Ranges;
use slimdisk::storage::HostFile;

use super::judge::{digest_of, seven_zip_digest};
use super::{attach, content, open, windows_chains};
use crate::chain_model::{Child, id_in, random_bits, read_chain};
use crate::end_to_end::{compact, plan};
use crate::ext::dumpe2fs_free;
use crate::support::{Noise, Scratch, have, sh};
use crate::vhd_model::{Shape, read_strictly};

fn options(mode: Mode) -> Options {
    let mut options = Options::default();
    (options.mode, options.verify) = (mode, true);
    options
}

fn holds(bits: &[u8], sector: usize) -> bool {
    bits[sector / 8] & (0x80 >> (sector % 8)) != 0
}

/// A child of `parent` with blocks of every kind, and which of them may go.
pub fn child_of_kinds(noise: &mut Noise, parent: &[u8]) -> (Vec<u8>, Vec<bool>) {
    let block_size = [4096, 8192, 16384][noise.below(3) as usize];
    let below = read_chain(&[parent]);
    let blocks = below.len().div_ceil(block_size) as u32 + noise.below(2) as u32;
    let mut disk = below.clone();
    disk.resize(blocks as usize * block_size, 0);
    let mut bits = Vec::new();
    let mut goes = Vec::new();
    for block in disk.chunks_mut(block_size) {
        let mut own = random_bits(noise, block_size / 512);
        let at = noise.below(block_size as u64) as usize;
        match noise.below(5) {
            // Zeros, which may hide the parent's data.
            0 => block.fill(0),
            1 => block.copy_from_slice(&noise.bytes(block_size)),
            // One byte differs, perhaps in a sector that is not here.
            2 => block[at] ^= 0x40,
            3 => {
                own.fill(0xFF);
                block[at] ^= 1;
            }
            _ => {}
        }
        let start = bits.len() * block_size;
        goes.push((0..block_size / 512).all(|sector| {
            let range = sector * 512..(sector + 1) * 512;
            let shown = below.get(start + range.start..start + range.end);
            !holds(&own, sector) || block[range] == *shown.unwrap_or(&[0; 512])
        }));
        bits.push(own);
    }
    let mut shape = Shape::random(noise);
    shape.block_size = block_size;
    shape.blocks = blocks;
    (shape.batmap, shape.spare_entries, shape.creator) = (false, 0, *b"win ");
    shape.order = (0..blocks).filter(|_| noise.below(5) > 0).map(|b| (b, 0)).collect();
    let child = Child::new(shape, id_in(parent), "b.vhd");
    let data = |block: u32| disk[block as usize * block_size..][..block_size].to_vec();
    (child.build(|block| bits[block as usize].clone(), data), goes)
}

#[test]
fn only_what_the_parent_shows_goes_where_no_map_speaks() {
    let mut noise = Noise::new(7);
    let (mut gone, mut hidden) = (0, 0);
    for _ in 0..300 {
        let mut shape = Shape::random(&mut noise);
        (shape.batmap, shape.spare_entries, shape.creator) = (false, 0, *b"win ");
        let (parent, shape) = (shape.build(&[]), shape);
        let (child, goes) = child_of_kinds(&mut noise, &parent);
        let files = [child, parent];
        let image = attach(&files);
        for mode in [Mode::Quick, Mode::Full, Mode::Prezeroed] {
            let hook = &mut |_| ControlFlow::Continue(());
            let found = survey(&*image, &options(mode), true, hook).unwrap().unwrap();
            for (block, verdict) in (0u32..).zip(&found.verdicts) {
                let expected = match (image.is_allocated(block), goes[block as usize]) {
                    (false, _) => Verdict::Absent,
                    (true, true) => Verdict::Parent,
                    (true, false) => Verdict::Live,
                };
                assert_eq!(*verdict, expected, "block {block} ({mode:?}, {shape:?})");
                gone += usize::from(expected == Verdict::Parent);
                let mut data = vec![0; image.facts().block_size as usize];
                image.read_block(block, 0, &mut data).unwrap();
                let zero = data.iter().all(|byte| *byte == 0);
                hidden += usize::from(zero && expected == Verdict::Live);
            }
            let live = found.verdicts.iter().filter(|v| **v == Verdict::Live).count();
            let kept = found.kept;
            let sum = kept.used + kept.pinned + kept.unjudged + kept.outside;
            let all = live as u64 * image.facts().block_size;
            assert_eq!(sum + kept.inherited, all);
        }
    }
    assert!(gone > 1000 && hidden > 100, "{gone} go, {hidden} zeros hide something");
}

#[test]
fn a_compacted_child_reads_the_same() {
    let test = "a_compacted_child_reads_the_same";
    let scratch = Scratch::new(test);
    let judged = have(test, &["7zz"]);
    let mut noise = Noise::new(8);
    let (mut compacted, mut released) = (0, 0);
    for round in 0..40 {
        let paths = [scratch.path("child.vhd"), scratch.path("b.vhd")];
        let mut shape = Shape::random(&mut noise);
        (shape.batmap, shape.spare_entries, shape.creator) = (false, 0, *b"win ");
        let parent = shape.build(&[]);
        let (child, _) = child_of_kinds(&mut noise, &parent);
        fs::write(&paths[0], &child).unwrap();
        fs::write(&paths[1], &parent).unwrap();
        let time = |path: &PathBuf| fs::metadata(path).unwrap().modified().unwrap();
        let times = [time(&paths[0]), time(&paths[1])];
        let before = read_chain(&[&child, &parent]);

        let planned = plan(&paths[0], &options(Mode::Quick));
        assert_eq!(planned.outcome, Outcome::Planned, "{planned:?}");
        assert!(fs::read(&paths[0]).unwrap() == child);
        let report = compact(&paths[0], &options(Mode::Quick));
        assert!(report.error.is_none(), "{report:?}");
        assert!(report.verified.is_some());
        let after = fs::read(&paths[0]).unwrap();
        assert_eq!(planned.file_size_after, after.len() as u64);
        assert_eq!(planned.blocks, report.blocks);
        assert_eq!(report.parents.len(), 1);
        assert_eq!(report.blocks.released_free + report.blocks.released_zero, 0);
        compacted += usize::from(report.outcome == Outcome::Compacted);
        released += report.blocks.released_parent;

        // The parent is as it was, the child reads as it did, to everybody.
        assert!(fs::read(&paths[1]).unwrap() == parent);
        assert_eq!([time(&paths[0]), time(&paths[1])], times);
        assert!(read_chain(&[&after, &parent]) == before);
        let image = open(&paths[0], &ParentLookup::default()).unwrap();
        assert!(content(&*image) == before);
        drop(image);
        if judged && round < 10 && read_chain(&[&parent]).len() == before.len() {
            assert_eq!(seven_zip_digest(&paths[0]), digest_of(&before));
        }
        let again = compact(&paths[0], &options(Mode::Full));
        assert_eq!(again.outcome, Outcome::NothingToDo, "{again:?}");
    }
    assert!(compacted > 20 && released > 100, "{compacted} compacted, {released} gone");
}

/// A guest with ext4 in a child: its files, and what its own tools call free.
struct Guest {
    scratch: Scratch,
    /// The child and the parent.
    paths: [PathBuf; 2],
    block_size: usize,
    /// For each block, its sector bits.
    bits: Vec<Vec<u8>>,
    /// A block that is there without a sector.
    clear: usize,
    before: Vec<u8>,
    free: Ranges,
}

/// Files are made in the parent; the child deletes some, makes others, and deletes
/// some of these again.
fn guest(test: &str) -> Option<Guest> {
    if !have(test, &["mke2fs", "debugfs", "dumpe2fs", "e2fsck"]) {
        return None;
    }
    let scratch = Scratch::new(test);
    let mut noise = Noise::new(12);
    let pool = scratch.path("pool");
    fs::create_dir_all(&pool).unwrap();
    for number in 0..24 {
        let bytes = noise.bytes(200_000 + 10_000 * number);
        fs::write(pool.join(format!("old{number}")), bytes).unwrap();
    }
    let raw = scratch.path("raw");
    sh(&format!("mke2fs -q -F -t ext4 -d {} {} 24M", pool.display(), raw.display()));
    let base = fs::read(&raw).unwrap();
    let debugfs = |lines: Vec<String>| {
        let lines = lines.join("\n");
        sh(&format!(
            "debugfs -w -f - {} >/dev/null 2>&1 <<'END'\n{lines}\nEND",
            raw.display()
        ));
        fs::read(&raw).unwrap()
    };
    let mut steps = vec![base.clone()];
    steps.push(debugfs((0..10).map(|n| format!("rm old{n}")).collect()));
    let new = |n: u64| scratch.path(&format!("new{n}"));
    let lines = (0..16).map(|n| {
        fs::write(new(n), Noise::new(100 + n).bytes(300_000 + 7_000 * n as usize))
            .unwrap();
        format!("write {} new{n}", new(n).display())
    });
    steps.push(debugfs(lines.collect()));
    steps.push(debugfs(
        (0..16).filter(|n| n % 4 != 1).map(|n| format!("rm new{n}")).collect(),
    ));
    let disk = steps.last().unwrap().clone();
    // A sector is the child's if any step wrote to it.
    let block_size = 65536;
    let blocks = disk.len() / block_size;
    let mut bits = vec![vec![0u8; block_size / 512 / 8]; blocks];
    for pair in steps.windows(2) {
        for sector in 0..disk.len() / 512 {
            let range = sector * 512..(sector + 1) * 512;
            if pair[0][range.clone()] != pair[1][range] {
                let within = sector % (block_size / 512);
                bits[sector * 512 / block_size][within / 8] |= 0x80 >> (within % 8);
            }
        }
    }
    // And where a block is free for the most part, what is in use of it, so that there
    // is more free than the child holds.
    let free: Ranges = dumpe2fs_free(&raw).into_iter().collect();
    let mut mixed = 0;
    for (block, own) in bits.iter_mut().enumerate() {
        let start = block * block_size;
        let used: Vec<usize> = (0..block_size / 512)
            .filter(|sector| {
                let at = (start + sector * 512) as u64;
                !free.intersects(&(at..at + 512))
            })
            .collect();
        let some = !used.is_empty() && used.len() < block_size / 512 / 2;
        if some && own.iter().all(|byte| *byte == 0) && mixed < 3 {
            used.iter().for_each(|sector| own[sector / 8] |= 0x80 >> (sector % 8));
            mixed += 1;
        }
    }
    assert!(mixed > 0, "no block is in use in part");
    let parent = Shape::of_disk(&base, 1 << 20, true, *b"win ");
    let none = vec![0; block_size / 512 / 8];
    let clear = bits.iter().position(|own| *own == none).unwrap();
    let order = (0..blocks as u32)
        .rev()
        .filter(|b| *b == clear as u32 || bits[*b as usize] != none);
    let shape = Shape {
        block_size,
        blocks: blocks as u32,
        order: order.map(|block| (block, 0)).collect(),
        aligned: true,
        spare_entries: 0,
        batmap: false,
        creator: *b"win ",
        seed: 3,
    };
    // What is not the child's is junk there: nobody may ever see it.
    let data = |block: u32| {
        let mut data = Noise::new(u64::from(block)).bytes(block_size);
        for sector in (0..block_size / 512).filter(|s| holds(&bits[block as usize], *s)) {
            let from = block as usize * block_size + sector * 512;
            data[sector * 512..][..512].copy_from_slice(&disk[from..from + 512]);
        }
        data
    };
    let child = Child::new(shape, id_in(&parent), "base.vhd")
        .build(|block| bits[block as usize].clone(), data);
    let paths = [scratch.path("child.vhd"), scratch.path("base.vhd")];
    let before = read_chain(&[&child, &parent]);
    assert!(before == disk);
    fs::write(&paths[0], child).unwrap();
    fs::write(&paths[1], parent).unwrap();
    fs::write(&raw, &before).unwrap();
    Some(Guest { scratch, paths, block_size, bits, clear, before, free })
}

impl Guest {
    fn read(&self, path: &Path) -> Vec<u8> {
        let files = [fs::read(path).unwrap(), fs::read(&self.paths[1]).unwrap()];
        read_chain(&[&files[0], &files[1]])
    }

    /// Whether all that the child holds of a block is free.
    fn is_free(&self, block: usize) -> bool {
        (0..self.block_size / 512).all(|sector| {
            let at = (block * self.block_size + sector * 512) as u64;
            !holds(&self.bits[block], sector) || self.free.covers(&(at..at + 512))
        })
    }

    /// Nothing but free bytes has changed, and the guest's own tools are content.
    fn judge(&self, report: &Report) {
        assert_eq!(report.outcome, Outcome::Compacted, "{report:?}");
        assert!(report.verified.is_some());
        let after = self.read(&self.paths[0]);
        let changed = (0..after.len()).filter(|at| after[*at] != self.before[*at]);
        let mut bytes = 0;
        for at in changed {
            bytes += 1;
            let byte = at as u64..at as u64 + 1;
            assert!(self.free.covers(&byte), "byte {at} changed and is not free");
        }
        assert!(bytes > 0, "nothing changed, so nothing was proven");
        let raw = self.scratch.path("judged");
        fs::write(&raw, &after).unwrap();
        sh(&format!("e2fsck -fn {} 2>&1", raw.display()));
        for name in (10..24)
            .map(|n| format!("old{n}"))
            .chain([1, 5, 9, 13].map(|n| format!("new{n}")))
        {
            let dumped = self.scratch.path("dumped");
            sh(&format!(
                "debugfs -R 'dump {name} {}' {} 2>/dev/null",
                dumped.display(),
                raw.display()
            ));
            let original =
                [self.scratch.path("pool").join(&name), self.scratch.path(&name)];
            let original = original.iter().find(|path| path.exists()).unwrap();
            assert!(fs::read(dumped).unwrap() == fs::read(original).unwrap(), "{name}");
        }
    }
}

#[test]
fn free_space_of_a_guest_in_a_child_goes() {
    let test = "free_space_of_a_guest_in_a_child_goes";
    let Some(guest) = guest(test) else { return };
    let child = &guest.paths[0];
    let whole = fs::read(child).unwrap();
    let there = read_strictly(&whole).unwrap();
    let expected: Vec<usize> = (0..there.len())
        .filter(|block| there[*block].is_some() && guest.is_free(*block))
        .collect();
    assert!(expected.len() > 20 && expected.contains(&guest.clear), "{expected:?}");
    let report = compact(child, &options(Mode::Quick));
    let after = fs::read(child).unwrap();
    let left = read_strictly(&after).unwrap();
    let gone: Vec<usize> = (0..there.len())
        .filter(|block| there[*block].is_some() && left[*block].is_none())
        .collect();
    assert_eq!(gone, expected);
    assert_eq!(report.blocks.released_parent, 1);
    assert_eq!(report.blocks.released_free as usize, expected.len() - 1);
    guest.judge(&report);
    if have(test, &["7zz"]) {
        let ours = open(child, &ParentLookup::default()).unwrap();
        assert_eq!(seven_zip_digest(child), digest_of(&content(&*ours)));
    }
}

#[test]
fn full_mode_finds_what_the_guest_wrote_back() {
    let test = "full_mode_finds_what_the_guest_wrote_back";
    let Some(guest) = guest(test) else { return };
    let child = &guest.paths[0];
    // Blocks in use, held as a whole, with the parent's bytes.
    let file = fs::read(child).unwrap();
    let parent = read_chain(&[&fs::read(&guest.paths[1]).unwrap()]);
    let size = guest.block_size;
    let absent: Vec<u32> = (0u32..)
        .zip(read_strictly(&file).unwrap())
        .filter(|(block, found)| {
            let at = *block as usize * size;
            let used = !guest.free.intersects(&(at as u64..(at + size) as u64));
            found.is_none() && used && parent[at..at + size].iter().any(|b| *b != 0)
        })
        .map(|(block, _)| block)
        .collect();
    let [same, other, ..] = absent[..] else { panic!("{absent:?}") };
    let mut image = file.clone();
    let end = image.len() - 512;
    let footer = image.split_off(end);
    for block in [same, other] {
        let data = image.len() + 512;
        let place = data.next_multiple_of(4096) - 512;
        image.resize(place, 0);
        image[0x600 + block as usize * 4..][..4]
            .copy_from_slice(&((place / 512) as u32).to_be_bytes());
        image.extend(vec![0xFF; 512]);
        image.extend(&parent[block as usize * size..][..size]);
    }
    // The last byte of a file in it differs, in the other.
    let last = image.len() - 1;
    image[last] ^= 1;
    let end = (image.len() + 512).next_multiple_of(4096) - 512;
    image.resize(end, 0);
    image.extend(footer);
    fs::write(child, &image).unwrap();
    let before = guest.read(child);
    let quick = plan(child, &options(Mode::Quick));
    assert_eq!(quick.blocks.released_parent, 1, "{quick:?}");
    let full = compact(child, &options(Mode::Full));
    assert_eq!(full.outcome, Outcome::Compacted, "{full:?}");
    assert!(full.verified.is_some());
    assert!(full.blocks.released_parent >= 2, "{full:?}");
    let after = fs::read(child).unwrap();
    let left = read_strictly(&after).unwrap();
    assert!(left[same as usize].is_none() && left[other as usize].is_some());
    let after = guest.read(child);
    for at in (0..after.len()).filter(|at| after[*at] != before[*at]) {
        assert!(guest.free.covers(&(at as u64..at as u64 + 1)), "byte {at} changed");
    }
}

/// A child may read what its parent's own volumes call free.
#[test]
fn a_parent_keeps_what_its_children_may_read() {
    let test = "a_parent_keeps_what_its_children_may_read";
    let Some(guest) = guest(test) else { return };
    let parent = &guest.paths[1];
    // Give the parent free blocks that are not zero, and some that are.
    let mut disk = read_chain(&[&fs::read(parent).unwrap()]);
    let raw = guest.scratch.path("parent.raw");
    fs::write(&raw, &disk).unwrap();
    let free: Ranges = dumpe2fs_free(&raw).into_iter().collect();
    let mut noise = Noise::new(1);
    for (index, range) in free.iter().enumerate() {
        let range = range.start as usize..range.end as usize;
        let junk = noise.bytes(range.len());
        disk[range.clone()].copy_from_slice(&junk);
        if index == 0 {
            disk[range].fill(0);
        }
    }
    let mut file = Shape::of_disk(&disk, 32 << 10, true, *b"win ");
    let id = id_in(&fs::read(parent).unwrap());
    let end = file.len() - 512;
    for at in [0, end] {
        file[at + 68..at + 84].copy_from_slice(&id);
        crate::vhd_model::set_checksum(&mut file[at..at + 512], 64);
    }
    fs::write(parent, &file).unwrap();
    let before = guest.read(&guest.paths[0]);
    let planned = plan(parent, &options(Mode::Quick));
    assert_eq!(planned.children, [guest.paths[0].to_string_lossy()]);
    assert_eq!(planned.blocks.released_free, 0, "{planned:?}");
    assert!(planned.notes.iter().any(|n| n.contains("is the parent of child.vhd")));
    for mode in [Mode::Quick, Mode::Full] {
        let report = compact(parent, &options(mode));
        assert!(report.error.is_none(), "{report:?}");
        assert!(guest.read(&guest.paths[0]) == before, "{mode:?}");
    }
    // Whatever its name, and through a link.
    fs::create_dir(guest.scratch.path("elsewhere")).unwrap();
    let (far, undo) = (guest.scratch.path("elsewhere/c"), guest.scratch.path("undo"));
    fs::rename(&guest.paths[0], &undo).unwrap();
    assert_eq!(plan(parent, &options(Mode::Quick)).blocks.released_free, 0);
    fs::rename(&undo, &far).unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&far, &undo).unwrap();
        assert_eq!(plan(parent, &options(Mode::Quick)).blocks.released_free, 0);
        fs::remove_file(&undo).unwrap();
    }
    // Without children its free blocks go.
    let planned = plan(parent, &options(Mode::Quick));
    assert!(planned.blocks.released_free > 20, "{planned:?}");
    assert_eq!(planned.children, [""; 0]);
}

#[test]
fn a_parent_that_somebody_writes_to_stops_it() {
    let test = "a_parent_that_somebody_writes_to_stops_it";
    let scratch = Scratch::new(test);
    let mut noise = Noise::new(5);
    let mut shape = Shape::random(&mut noise);
    (shape.batmap, shape.spare_entries, shape.creator) = (false, 0, *b"win ");
    let parent = shape.build(&[]);
    let (child, _) = child_of_kinds(&mut noise, &parent);
    let paths = [scratch.path("child.vhd"), scratch.path("b.vhd")];
    fs::write(&paths[0], &child).unwrap();
    fs::write(&paths[1], &parent).unwrap();
    let holder = HostFile::open_exclusive(&paths[1]).unwrap();
    let report = compact(&paths[0], &options(Mode::Quick));
    assert_eq!(report.cause.unwrap().kind(), Kind::InUse);
    drop(holder);
    // A program that locks nothing.
    let writer = fs::File::options().write(true).open(&paths[1]).unwrap();
    let report = compact(&paths[0], &options(Mode::Quick));
    assert_eq!(report.cause.unwrap().kind(), Kind::InUse);
    assert!(fs::read(&paths[0]).unwrap() == child);
    drop(writer);
    let report = compact(&paths[0], &options(Mode::Quick));
    assert!(report.error.is_none(), "{report:?}");
}

/// The children that Windows made, laid out in small blocks, all of them there.
#[test]
fn children_made_by_windows_are_compacted() {
    let test = "children_made_by_windows_are_compacted";
    let scratch = Scratch::new(test);
    let Some(chains) = windows_chains(test, &scratch) else { return };
    let judged = have(test, &["7zz"]);
    for paths in &chains {
        let files = [fs::read(&paths[0]).unwrap(), fs::read(&paths[1]).unwrap()];
        let before = read_chain(&[&files[0], &files[1]]);
        let report = compact(&paths[0], &options(Mode::Full));
        assert_eq!(report.outcome, Outcome::NothingToDo, "{report:?}");
        assert!(fs::read(&paths[0]).unwrap() == files[0]);

        let block_size = 16 << 10;
        let large = read_strictly(&files[0]).unwrap();
        let bits = |block: u32| {
            let sector = block as usize * block_size / 512;
            match &large[sector / 4096] {
                None => vec![0; 4],
                Some(found) => found.bitmap[sector % 4096 / 8..][..4].to_vec(),
            }
        };
        let blocks = (before.len() / block_size) as u32;
        let shape = Shape {
            block_size,
            blocks,
            order: (0..blocks).map(|block| (block, 0)).collect(),
            aligned: true,
            spare_entries: 0,
            batmap: false,
            creator: *b"win ",
            seed: 9,
        };
        let name = paths[1].file_name().unwrap().to_str().unwrap();
        let child = Child::new(shape, id_in(&files[1]), name).build(bits, |block| {
            before[block as usize * block_size..][..block_size].to_vec()
        });
        assert!(read_chain(&[&child, &files[1]]) == before);
        fs::write(&paths[0], &child).unwrap();
        let report = compact(&paths[0], &options(Mode::Quick));
        assert_eq!(report.outcome, Outcome::Compacted, "{report:?}");
        assert!(report.verified.is_some() && report.blocks.released_parent > 100);
        let image = open(&paths[0], &ParentLookup::default()).unwrap();
        let ours = content(&*image);
        if report.blocks.released_free == 0 {
            assert!(ours == before);
        }
        if judged {
            assert_eq!(seven_zip_digest(&paths[0]), digest_of(&ours));
        }
    }
}

/// A program that opens the parent for writing in the middle of a run ends it before
/// anything more is given up.
#[cfg(unix)]
#[test]
fn a_writer_that_comes_to_the_parent_stops_it() {
    use std::os::unix::fs::OpenOptionsExt as _;
    /// Fails where it would wait for a lease.
    const O_NONBLOCK: i32 = 0o4000;
    let test = "a_writer_that_comes_to_the_parent_stops_it";
    let scratch = Scratch::new(test);
    let mut noise = Noise::new(6);
    let mut shape = Shape::random(&mut noise);
    (shape.batmap, shape.spare_entries, shape.creator) = (false, 0, *b"win ");
    let parent = shape.build(&[]);
    let (child, _) = child_of_kinds(&mut noise, &parent);
    let paths = [scratch.path("child.vhd"), scratch.path("b.vhd")];
    fs::write(&paths[0], &child).unwrap();
    fs::write(&paths[1], &parent).unwrap();
    let mut came = false;
    let report =
        slimdisk::compact::compact(&paths[0], &options(Mode::Quick), &mut |at| {
            if at.phase == slimdisk::compact::Phase::Release {
                let mut writer = fs::File::options();
                writer.write(true).custom_flags(O_NONBLOCK);
                came |= writer.open(&paths[1]).is_err();
            }
            ControlFlow::Continue(())
        });
    assert!(came, "nobody came, or was let in: {report:?}");
    assert_eq!(report.cause.unwrap().kind(), Kind::InUse);
    assert!(fs::read(&paths[0]).unwrap() == child);
}
