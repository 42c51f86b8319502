//! Merges of files: what is told of them is what is in them.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use slimdisk::Kind;
use slimdisk::image::parent::ParentLookup;
use slimdisk::merge::run::ROUND;
use slimdisk::merge::{Options, Outcome};
use slimdisk::progress::Phase;

use super::crash::{Case, random_case, with_either_footer};
use super::{Files, long_ago, merge, plain_chain};
use crate::chain::slices;
use crate::chain_model::{Child, id_in, read_chain};
use crate::faults::MemFile;
use crate::support::{Noise, Scratch, have, sh_output, skip};
use crate::vhd_model::{Shape, read_strictly, set_checksum};

#[test]
fn a_run_does_what_its_plan_says() {
    let mut noise = Noise::new(17);
    let (mut added, mut kinds) = (0, [0; 5]);
    let go_on = &mut |_| ControlFlow::Continue(());
    for round in 0..60 {
        let chain = random_case(&mut noise);
        let sound = with_either_footer(&chain[1]).unwrap() == chain[1];
        if !sound {
            continue;
        }
        let files = Files::new(&format!("plan-{round}"), &chain);
        let parent = fs::metadata(&files.paths[1]).unwrap();
        let merging = files.prepare(&Options::default()).unwrap();
        assert_eq!(merging.parent(), files.paths[1].canonicalize().unwrap());
        let planned = merging.plan(go_on);
        assert_eq!(planned.outcome, Outcome::Planned, "{planned:?}");
        let now = fs::metadata(&files.paths[1]).unwrap();
        assert!(files.read() == chain);
        assert_eq!(
            (parent.ctime(), parent.ctime_nsec()),
            (now.ctime(), now.ctime_nsec())
        );

        let done = files.complete();
        let case = Case::of(chain.clone(), ROUND);
        let after = files.read();
        assert!(after[1] == case.after, "not as in memory");
        assert!(after[0] == chain[0] && after[2..] == chain[2..]);
        let child = fs::metadata(&files.paths[0]).unwrap();
        assert_eq!(child.modified().unwrap(), long_ago());
        for report in [&planned, &done] {
            assert_eq!(report.parent_file_size_before, chain[1].len() as u64);
            assert_eq!(report.parent_file_size_after, after[1].len() as u64);
            assert_eq!(report.virtual_size, files.disk.len() as u64);
            assert!(report.error.is_none() && report.cause.is_none());
        }
        let numbers =
            |r: &slimdisk::merge::Report| (r.bytes_merged, r.bytes_same, r.blocks_added);
        assert_eq!(numbers(&planned), numbers(&done));
        let is_fixed = chain[1][..8] != *b"conectix";
        if !is_fixed {
            let blocks =
                |file: &[u8]| read_strictly(file).unwrap().iter().flatten().count();
            let more = blocks(&after[1]) - blocks(&chain[1]);
            assert_eq!(done.blocks_added, more as u64);
            // As all programs in use make them: a new block of a dynamic disk has all
            // its bits.
            let is_dynamic = after[1][after[1].len() - 512 + 63] == 3;
            let before = read_strictly(&chain[1]).unwrap();
            for (now, before) in read_strictly(&after[1]).unwrap().iter().zip(&before) {
                if let (Some(now), None, true) = (now, before, is_dynamic) {
                    let bits = &now.bitmap[..now.data.len() / 512 / 8];
                    assert!(bits.iter().all(|byte| *byte == 0xFF));
                }
            }
            added += more;
        }
        kinds[chain[1][chain[1].len() - 512 + 63] as usize] += 1;
        // All that the child holds, nothing else.
        let mut own = 0;
        for (number, block) in read_strictly(&chain[0]).unwrap().iter().enumerate() {
            let Some(block) = block else { continue };
            for sector in 0..block.data.len() / 512 {
                let there = number * block.data.len() + sector * 512 < files.disk.len();
                let here = block.bitmap[sector / 8] & (0x80 >> (sector % 8)) != 0;
                own += usize::from(there && here) * 512;
            }
        }
        assert_eq!(done.bytes_merged + done.bytes_same, own as u64);
        assert!(done.notes.iter().any(|n| n.contains("child.vhd is redundant")));
        assert_eq!(planned.io.bytes_written, None);

        // A second run has nothing to do, and does nothing.
        let again = files.complete();
        assert_eq!((again.bytes_merged, again.blocks_added), (0, 0));
        assert_eq!(again.io.bytes_written, Some(0));
        assert!(files.read() == after);
    }
    assert!(added > 50 && kinds[2..].iter().all(|n| *n > 2), "{added} {kinds:?}");
}

#[test]
fn zeros_over_zeros_add_nothing() {
    let mut noise = Noise::new(18);
    let mut chain = plain_chain(&mut noise);
    let parent_blocks: Vec<bool> =
        read_strictly(&chain[1]).unwrap().iter().map(Option::is_some).collect();
    // Where the parent has nothing, the child has zeros, but for one sector.
    let places: Vec<Option<usize>> = read_strictly(&chain[0])
        .unwrap()
        .iter()
        .map(|block| block.as_ref().map(|block| block.place))
        .collect();
    let mut one = None;
    for (block, place) in places.iter().enumerate() {
        if let Some(place) = place
            && !parent_blocks[block]
        {
            chain[0][*place..place + 16].fill(0xFF);
            chain[0][place + 512..place + 512 + 65536].fill(0);
            one = Some(place + 512 + 40_000);
        }
    }
    chain[0][one.unwrap()] = 1;
    let files = Files::new("zeros", &chain);
    let report = files.complete();
    assert_eq!(report.blocks_added, 1);
    let grown = files.read()[1].len() - chain[1].len();
    assert!((65536..65536 + 8192).contains(&grown), "{grown}");
}

#[test]
fn a_request_to_stop_leaves_everything_as_it_was_shown() {
    let mut noise = Noise::new(19);
    let chain = plain_chain(&mut noise);
    let mut files = Files::new("stop", &chain);
    let mut phases = std::collections::BTreeSet::new();
    for nth in 0.. {
        files.write(&chain);
        let blocks = fs::metadata(&files.paths[1]).unwrap().blocks();
        let (mut calls, mut asked) = (0, None);
        let report = files.merge(&mut |at| {
            calls += 1;
            if calls - 1 != nth {
                return ControlFlow::Continue(());
            }
            asked = Some(at.phase);
            ControlFlow::Break(())
        });
        assert!(files.shown() == files.disk);
        let Some(phase) = asked else {
            assert_eq!(report.outcome, Outcome::Merged);
            break;
        };
        phases.insert(phase);
        assert_eq!(report.outcome, Outcome::Cancelled);
        assert_eq!(files.modified(), long_ago(), "{phase:?}");
        let metadata = fs::metadata(&files.paths[1]).unwrap();
        assert_eq!(metadata.len(), report.parent_file_size_after);
        if phase != Phase::VerifyAfter {
            // All is one round: nothing was written, and no room is kept.
            assert!(files.read() == chain);
            assert!(metadata.blocks() <= blocks, "{} {blocks}", metadata.blocks());
            assert_eq!(report.bytes_merged, 0);
        }
        files.complete();
    }
    let expected = [Phase::VerifyBefore, Phase::VerifyAfter, Phase::Merge];
    assert_eq!(phases, expected.into_iter().collect());
}

/// A program that opens one of the files for writing ends the run before anything more
/// is written.
#[test]
fn a_writer_that_comes_stops_it() {
    use std::os::unix::fs::OpenOptionsExt as _;
    /// Fails where it would wait for a lease.
    const O_NONBLOCK: i32 = 0o4000;
    let mut noise = Noise::new(20);
    let mut chain = plain_chain(&mut noise);
    // With a parent behind the parent.
    let bottom = chain[1].clone();
    let shape = Shape { seed: 77, ..shape_of(&bottom) };
    let middle = Child::new(shape.clone(), id_in(&bottom), "bottom.vhd");
    let middle = middle.build(|_| vec![0x0F; 16], |block| shape.data(block));
    let end = chain[0].len() - 512;
    chain[0][512 + 40..512 + 56].copy_from_slice(&id_in(&middle));
    set_checksum(&mut chain[0][512..1536], 36);
    assert!(end > 1536);
    let chain = vec![chain[0].clone(), middle, bottom];
    for index in 0..3 {
        let files = Files::new(&format!("writer-{index}"), &chain);
        let mut came = false;
        let report = files.merge(&mut |at| {
            if at.phase == Phase::Merge && !came {
                let mut writer = fs::File::options();
                writer.write(true).custom_flags(O_NONBLOCK);
                came = writer.open(&files.paths[index]).is_err();
            }
            ControlFlow::Continue(())
        });
        assert!(came, "nobody came, or was let in: {report:?}");
        assert_eq!(report.outcome, Outcome::Failed);
        assert_eq!(report.cause.unwrap().kind(), Kind::InUse, "{:?}", report.error);
        assert!(files.read() == chain);
        assert_eq!(files.modified(), long_ago());
        files.complete();
    }
}

/// Where there is nothing to write, what a newcomer may have appended is not cut off.
#[test]
fn a_writer_that_comes_late_is_not_cut_off() {
    use std::os::unix::fs::OpenOptionsExt as _;
    const O_NONBLOCK: i32 = 0o4000;
    let files = Files::new("late", &plain_chain(&mut Noise::new(27)));
    files.complete();
    let mut parent = files.read()[1].clone();
    let footer = parent.split_off(parent.len() - 512);
    parent.resize(parent.len() + 40_960, 0xAB);
    parent.extend(footer);
    fs::write(&files.paths[1], &parent).unwrap();
    let mut came = false;
    let report = files.merge(&mut |at| {
        if at.phase == Phase::Merge && !came {
            let mut writer = fs::File::options();
            writer.write(true).custom_flags(O_NONBLOCK);
            came = writer.open(&files.paths[1]).is_err();
        }
        ControlFlow::Continue(())
    });
    assert!(came);
    assert_eq!(report.cause.unwrap().kind(), Kind::InUse);
    assert!(files.read()[1] == parent);
    files.complete();
    assert!(files.read()[1].len() < parent.len());
}

/// The shape of a file that [`plain_chain`] made.
fn shape_of(file: &[u8]) -> Shape {
    let order = read_strictly(file).unwrap();
    Shape {
        block_size: 65536,
        blocks: 64,
        order: (0u32..).zip(order).filter_map(|(b, f)| f.map(|_| (b, 0))).collect(),
        aligned: true,
        spare_entries: 0,
        batmap: false,
        creator: *b"win ",
        seed: 0,
    }
}

/// While the file grows the copy of the footer may be all there is, so it must say the
/// same.
#[test]
fn a_copy_of_the_footer_that_differs_is_written_anew() {
    let mut chain = plain_chain(&mut Noise::new(26));
    chain[1][24] ^= 1;
    set_checksum(&mut chain[1][..512], 64);
    assert!(read_strictly(&chain[1]).is_err());
    let file = Arc::new(MemFile::new(chain[1].clone()));
    let storage: Arc<dyn slimdisk::storage::Storage> = file.clone();
    merge(&chain, &storage, 1 << 30).unwrap();
    let after = file.bytes();
    read_strictly(&after).unwrap();
    assert!(after[..512] == chain[1][chain[1].len() - 512..]);
}

/// Tapdisk reads no sector bitmap of a block that the batmap calls full. A claim to a
/// block that is not there (its owner's tools call that broken) is taken back before the
/// block comes, with some sectors only.
#[test]
fn a_false_claim_of_the_batmap_is_taken_back() {
    let mut noise = Noise::new(21);
    for _ in 0..20 {
        let bottom = Shape { batmap: false, ..batmap_shape(&mut noise, *b"win ") };
        let bottom = bottom.build(&[]);
        let shape = batmap_shape(&mut noise, *b"tap\0");
        let sectors = shape.block_size / 512;
        let full = Child::new(shape.clone(), id_in(&bottom), "bottom.vhd")
            .build(|_| vec![0xFF; sectors / 8], |b| shape.data(b));
        let mut parent = full.clone();
        let at = 0x600 + (shape.blocks as usize * 4).next_multiple_of(512);
        assert_eq!(parent[at..at + 8], *b"tdbatmap");
        parent[at + 512..at + 1024].fill(0xFF);
        let sum = parent[at + 512..at + 1024].iter().map(|b| u32::from(*b)).sum::<u32>();
        parent[at + 24..at + 28].copy_from_slice(&(!sum).to_be_bytes());
        let child = batmap_shape(&mut noise, *b"win ");
        let child = Shape { batmap: false, ..child };
        let bits = |block: u32| vec![0x55 << (block % 2); sectors / 8];
        let child = Child::new(child.clone(), id_in(&parent), "parent.vhd")
            .build(bits, |b| child.data(b));
        let disk = read_chain(&[&child, &full, &bottom]);
        let chain = vec![child, parent, bottom];
        let file = Arc::new(MemFile::new(chain[1].clone()));
        let storage: Arc<dyn slimdisk::storage::Storage> = file.clone();
        let done = merge(&chain, &storage, 1 << 30).unwrap();
        assert!(done.blocks_added > 0);
        let mut after = chain.clone();
        after[1] = file.bytes();
        let map = after[1][at + 512..at + 1024].to_vec();
        let sum = map.iter().map(|b| u32::from(*b)).sum::<u32>();
        assert_eq!(after[1][at + 24..at + 28], (!sum).to_be_bytes());
        let before: Vec<bool> =
            read_strictly(&full).unwrap().iter().map(Option::is_some).collect();
        for (block, found) in
            read_strictly_but_for_claims(&after[1]).into_iter().enumerate()
        {
            let claimed = map[block / 8] & (0x80 >> (block % 8)) != 0;
            if found && !before[block] {
                assert!(!claimed, "block {block} is claimed to be full");
            }
        }
        assert!(read_chain_without_batmap(&after, at) == disk);
    }
}

fn batmap_shape(noise: &mut Noise, creator: [u8; 4]) -> Shape {
    Shape {
        block_size: 8192,
        blocks: 24,
        order: (0..24).filter(|_| noise.below(2) == 0).map(|b| (b, 0)).collect(),
        aligned: false,
        spare_entries: 0,
        batmap: creator == *b"tap\0",
        creator,
        seed: noise.next(),
    }
}

fn read_strictly_but_for_claims(file: &[u8]) -> Vec<bool> {
    (0..24).map(|block| file[0x600 + block * 4..][..4] != [0xFF; 4]).collect()
}

/// The model refuses claims to blocks that are not there; nobody else minds.
fn read_chain_without_batmap(chain: &[Vec<u8>], at: usize) -> Vec<u8> {
    let mut chain = chain.to_vec();
    chain[1][at + 24] ^= 1;
    read_chain(&slices(&chain))
}

/// A file system of a few MiB.
struct Small(std::path::PathBuf);

impl Small {
    fn mounted(test: &str, scratch: &Scratch, size: &str) -> Option<Small> {
        if !have(test, &["mount", "umount"]) {
            return None;
        }
        let dir = scratch.path("small");
        fs::create_dir_all(&dir).unwrap();
        let mount = format!("mount -t tmpfs -o size={size} none {}", dir.display());
        if !sh_output(&mount).status.success() {
            skip(test, "the right to mount (root)");
            return None;
        }
        Some(Small(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        sh_output(&format!("umount {0} || umount -l {0}", self.0.display()));
    }
}

#[test]
fn a_full_disk_is_told_before_anything_changes() {
    let test = "a_full_disk_is_told_before_anything_changes";
    let mut noise = Noise::new(22);
    let chain = plain_chain(&mut noise);
    let mut files = Files::new(test, &chain);
    // The parent has 22 blocks, and gets about as many.
    let Some(small) = Small::mounted(test, &files.scratch, "2m") else { return };
    let elsewhere = small.0.join("parent.vhd");
    fs::remove_file(&files.paths[1]).unwrap();
    files.paths[1] = elsewhere;
    files.write(&chain);
    let mut options = Options::default();
    let mut lookup = ParentLookup::default();
    lookup.dirs = vec![small.0.clone()];
    options.parents = lookup;
    options.verify = true;
    let blocks = fs::metadata(&files.paths[1]).unwrap().blocks();
    for _ in 0..2 {
        let mut written = 0;
        let report = files.prepare(&options).unwrap().run(&mut |at| {
            written = at.done;
            ControlFlow::Continue(())
        });
        assert_eq!(report.outcome, Outcome::Failed);
        let error = report.cause.unwrap();
        assert_eq!(error.kind(), Kind::DiskFull, "{error:?}");
        assert!(error.what().contains("no room"), "{error:?}");
        assert_eq!(report.io.bytes_written, Some(0));
        assert!(files.read() == chain && files.shown() == files.disk);
        assert_eq!(files.modified(), long_ago());
        let metadata = fs::metadata(&files.paths[1]).unwrap();
        assert_eq!((metadata.len(), metadata.blocks()), (chain[1].len() as u64, blocks));
    }
    // With more room it is completed.
    sh_output(&format!("mount -o remount,size=8m {}", small.0.display()));
    let report = files.prepare(&options).unwrap().run(&mut |_| ControlFlow::Continue(()));
    assert_eq!(report.outcome, Outcome::Merged, "{report:?}");
    assert!(files.shown_by_parent() == files.disk);
}

/// Room for all blocks that the child has is not there, but not all of them are needed.
#[test]
fn room_is_asked_for_what_will_be_needed() {
    let test = "room_is_asked_for_what_will_be_needed";
    let mut noise = Noise::new(23);
    let mut chain = plain_chain(&mut noise);
    let absent: Vec<bool> =
        read_strictly(&chain[1]).unwrap().iter().map(Option::is_none).collect();
    let places: Vec<usize> = read_strictly(&chain[0])
        .unwrap()
        .iter()
        .zip(absent)
        .filter_map(|(block, absent)| block.as_ref().filter(|_| absent).map(|b| b.place))
        .collect();
    for place in &places[1..] {
        chain[0][place + 512..place + 512 + 65536].fill(0);
    }
    let mut files = Files::new(test, &chain);
    let Some(small) = Small::mounted(test, &files.scratch, "2m") else { return };
    fs::remove_file(&files.paths[1]).unwrap();
    files.paths[1] = small.0.join("parent.vhd");
    files.write(&chain);
    let mut options = Options::default();
    options.parents.dirs = vec![small.0.clone()];
    let report = files.prepare(&options).unwrap().run(&mut |_| ControlFlow::Continue(()));
    assert_eq!(report.outcome, Outcome::Merged, "{report:?}");
    assert!(report.blocks_added <= 1);
    assert!(files.shown_by_parent() == files.disk);
}

/// Sparse parents on a host that is full: a hole cannot be filled, and nothing is lost.
#[test]
fn a_disk_that_fills_up_midway_loses_nothing() {
    let test = "a_disk_that_fills_up_midway_loses_nothing";
    let mut noise = Noise::new(24);
    // A fixed parent of 4 MiB, all holes.
    let parent = crate::chain_model::fixed(&vec![0; 4 << 20], 5);
    let chain = plain_chain(&mut noise);
    let mut child = chain[0].clone();
    child[512 + 40..512 + 56].copy_from_slice(&id_in(&parent));
    set_checksum(&mut child[512..1536], 36);
    let chain = vec![child, parent];
    let mut files = Files::new(test, &chain);
    let Some(small) = Small::mounted(test, &files.scratch, "1m") else { return };
    let target = small.0.join("parent.vhd");
    fs::remove_file(&files.paths[1]).unwrap();
    let file = fs::File::create(&target).unwrap();
    file.set_len(chain[1].len() as u64).unwrap();
    crate::vhd_model::FileAt::write_all_at(&file, &chain[1][4 << 20..], 4 << 20).unwrap();
    file.set_modified(long_ago()).unwrap();
    drop(file);
    files.paths[1] = target;
    let mut options = Options::default();
    options.parents.dirs = vec![small.0.clone()];
    let report = files.prepare(&options).unwrap().run(&mut |_| ControlFlow::Continue(()));
    assert_eq!(report.cause.unwrap().kind(), Kind::DiskFull);
    assert!(files.shown() == files.disk && files.modified() == long_ago());
    sh_output(&format!("mount -o remount,size=8m {}", small.0.display()));
    let report = files.prepare(&options).unwrap().run(&mut |_| ControlFlow::Continue(()));
    assert_eq!(report.outcome, Outcome::Merged, "{report:?}");
    assert!(files.shown_by_parent() == files.disk);
}

#[test]
fn verifying_finds_a_changed_byte() {
    let test = "verifying_finds_a_changed_byte";
    if !have(test, &["python3"]) {
        return;
    }
    let mut noise = Noise::new(25);
    let chain = plain_chain(&mut noise);
    let files = Files::new("verified", &chain);
    let (mut done, mut may) = (false, false);
    let report = files.merge(&mut |at| {
        // The program itself has it open; only another one would be seen.
        if at.phase == Phase::VerifyAfter && !done {
            done = true;
            let file = &files.read()[1];
            let place = read_strictly(file).unwrap()[3].as_ref().unwrap().place;
            may = corrupt(&files.paths[1], place as u64 + 512 + 77);
        }
        ControlFlow::Continue(())
    });
    assert!(done);
    if !may {
        return skip(test, "the right to another process's descriptors (root)");
    }
    let error = report.cause.unwrap();
    assert!(error.what().contains("keep the child"), "{error:?}");
    assert_eq!(report.verified, None);
}

/// Changes a byte behind the back of this process, which has the file to itself: through
/// a descriptor of its own that another process is given.
fn corrupt(path: &Path, at: u64) -> bool {
    let real = path.canonicalize().unwrap();
    let mine = fs::read_dir("/proc/self/fd").unwrap().flatten().find(|fd| {
        fs::read_link(fd.path()).is_ok_and(|target| target == real)
            && fs::read_to_string(format!(
                "/proc/self/fdinfo/{}",
                fd.file_name().to_string_lossy()
            ))
            .is_ok_and(|info| {
                info.lines().any(|l| l.starts_with("flags:") && l.ends_with('2'))
            })
    });
    let fd = mine.expect("the parent is open for writing").file_name();
    let script = "import ctypes, os, sys
pid, fd, at = map(int, sys.argv[1:])
mine = ctypes.CDLL(None).syscall(438, os.pidfd_open(pid), fd, 0)
if mine < 0: sys.exit(9)
byte = os.pread(mine, 1, at)
os.pwrite(mine, bytes([byte[0] ^ 255]), at)";
    let done = Command::new("python3")
        .args(["-c", script, &std::process::id().to_string()])
        .arg(fd)
        .arg(at.to_string())
        .status()
        .unwrap();
    done.success()
}
