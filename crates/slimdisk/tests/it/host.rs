//! The host object, its hard disks and its tasks.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use slimdisk::host::{Host, HostOptions};
use slimdisk::image::ImageType;
use slimdisk::task::{Task, TaskResult};
use slimdisk::{Kind, Result, compact, convert};

use crate::chain_model::{Child, id_in, random_bits, read_chain};
use crate::support::{Noise, Scratch, have, sh};
use crate::vhd_model::{Shape, read_strictly};

const BLOCK: usize = 2 << 20;

fn kind<T>(result: Result<T>) -> Option<Kind> {
    result.err().map(|error| error.kind())
}

/// Waits for a task that must end well.
#[track_caller]
fn done(task: &Task) {
    assert!(task.wait(Some(Duration::from_secs(120))), "{task:?}");
    assert_eq!(task.result(), Some(TaskResult::Success), "{:?}", task.error());
    assert_eq!(task.percent(), 100);
}

/// A dynamic disk with `blocks` of noise in it, some of zeros, in order.
fn dynamic(path: &Path, blocks: u32, zeros: &[u32], seed: u64) -> Vec<u8> {
    let mut shape = Shape::random(&mut Noise::new(seed));
    (shape.block_size, shape.blocks, shape.batmap) = (BLOCK, blocks, false);
    (shape.spare_entries, shape.creator, shape.aligned) = (0, *b"win ", true);
    shape.order = (0..blocks).map(|block| (block, 0)).collect();
    let file = shape.build(zeros);
    fs::write(path, &file).unwrap();
    file
}

/// A child of `parent` that holds some sectors of some blocks.
fn child(path: &Path, parent: &Path, blocks: u32, seed: u64) -> Vec<u8> {
    let mut noise = Noise::new(seed);
    let mut shape = Shape::random(&mut noise);
    (shape.block_size, shape.blocks, shape.batmap) = (BLOCK, blocks, false);
    (shape.spare_entries, shape.creator, shape.aligned) = (0, *b"win ", true);
    shape.order = (0..blocks).step_by(2).map(|block| (block, 0)).collect();
    let bits: Vec<_> =
        (0..blocks).map(|_| random_bits(&mut noise, BLOCK / 512)).collect();
    let id = id_in(&fs::read(parent).unwrap());
    let name = parent.file_name().unwrap().to_str().unwrap();
    let file = Child::new(shape.clone(), id, name)
        .build(|block| bits[block as usize].clone(), |block| shape.data(block));
    fs::write(path, &file).unwrap();
    file
}

#[test]
fn a_disk_is_made_opened_compacted_and_listed() {
    let scratch = Scratch::new("host-life");
    let host = Host::new();
    let path = scratch.path("new folder/a.vhd");
    assert_eq!(kind(host.open(&path)), Some(Kind::PathNotFound));
    let made = host.create_dynamic(&path, 64).unwrap();
    done(&made);
    assert_eq!(made.id(), 1);
    assert!(made.description().contains("a.vhd"), "{}", made.description());
    let disk = host.open(&path).unwrap();
    assert_eq!(disk.file(), path);
    assert_eq!(disk.image_type().unwrap(), ImageType::Dynamic);
    assert_eq!(disk.size_in_guest().unwrap(), 64 << 20);
    assert_eq!(disk.size_on_host().unwrap(), fs::metadata(&path).unwrap().len());
    assert!(disk.parent().unwrap().is_none() && disk.chain().unwrap().is_empty());
    assert!(disk.host_free_space().unwrap() > 0);

    let before = dynamic(&path, 20, &[1, 4, 7], 1);
    let task = disk.compact().unwrap();
    done(&task);
    assert_eq!(task.id(), 2);
    let after = fs::read(&path).unwrap();
    assert_eq!(before.len() - after.len(), 3 * (BLOCK + 4096));
    let report: serde_json::Value =
        serde_json::from_str(&task.report_json().unwrap()).unwrap();
    assert_eq!(report["outcome"], "compacted");
    assert_eq!(report["blocks"]["released_zero"], 3);
    let listed: Vec<u32> = host.tasks().iter().map(Task::id).collect();
    assert_eq!(listed, [1, 2]);
    assert_eq!(host.hard_disk_files(&[scratch.dir().to_owned()]).unwrap(), [path]);
}

#[test]
fn finished_tasks_are_forgotten_after_a_while() {
    let scratch = Scratch::new("host-forget");
    let mut options = HostOptions::default();
    options.keep_finished = Duration::from_millis(300);
    let host = Host::with_options(options);
    done(&host.create_dynamic(&scratch.path("a.vhd"), 3).unwrap());
    assert_eq!(host.tasks().len(), 1);
    std::thread::sleep(Duration::from_millis(350));
    assert!(host.tasks().is_empty());
}

#[test]
fn the_documented_rules_of_creating() {
    let scratch = Scratch::new("host-rules");
    let host = Host::new();
    let path = scratch.path("a.vhd");
    for (size, expected) in [
        (0, Kind::InvalidArgument),
        (-5, Kind::InvalidArgument),
        (2, Kind::DiskTooSmall),
        (2_088_961, Kind::DiskTooLarge),
    ] {
        assert_eq!(kind(host.create_dynamic(&path, size)), Some(expected), "{size}");
        assert_eq!(kind(host.create_fixed(&path, size)), Some(expected), "{size}");
    }
    for (bad, expected) in [
        ("", Kind::BadPath),
        ("a.vhd", Kind::BadPath),
        ("/tmp/a?.vhd", Kind::InvalidName),
        (&*format!("/tmp/{}", "x".repeat(260)), Kind::PathTooLong),
    ] {
        let bad = Path::new(bad);
        assert_eq!(kind(host.open(bad)), Some(expected), "{bad:?}");
        assert_eq!(kind(host.create_dynamic(bad, 3)), Some(expected), "{bad:?}");
        assert_eq!(kind(host.create_fixed(bad, 3)), Some(expected), "{bad:?}");
        let created = host.create_differencing(bad, Path::new("b.vhd"));
        assert_eq!(kind(created), Some(expected), "{bad:?}");
    }
    assert!(fs::read_dir(scratch.dir()).unwrap().next().is_none());
    // The largest and the smallest there are.
    done(&host.create_dynamic(&path, 2_088_960).unwrap());
    assert_eq!(host.open(&path).unwrap().size_in_guest().unwrap(), 2040 << 30);
    done(&host.create_fixed(&scratch.path("fixed.vhd"), 3).unwrap());
    let fixed = host.open(&scratch.path("fixed.vhd")).unwrap();
    assert_eq!(fixed.image_type().unwrap(), ImageType::Fixed);
    assert_eq!(kind(host.create_dynamic(&path, 3)), Some(Kind::AlreadyExists));
    assert_eq!(kind(host.create_fixed(&path, 3)), Some(Kind::AlreadyExists));
    // A parent that is named relative to its child, and the other way round.
    let missing = host.create_differencing(&scratch.path("c.vhd"), Path::new("no.vhd"));
    assert_eq!(kind(missing), Some(Kind::NotFound));
    done(&host.create_differencing(&scratch.path("c.vhd"), Path::new("a.vhd")).unwrap());
    done(&host.create_differencing(Path::new("sub/d.vhd"), &path).unwrap());
    let mut options = HostOptions::default();
    options.parents.dirs = vec![scratch.dir().to_owned()];
    let host = Host::with_options(options);
    for name in ["c.vhd", "sub/d.vhd"] {
        let disk = host.open(&scratch.path(name)).unwrap();
        assert_eq!(disk.image_type().unwrap(), ImageType::Differencing);
        let parent = disk.parent().unwrap().unwrap();
        assert_eq!(parent.file(), crate::support::real_path(&path).unwrap());
        assert_eq!(disk.size_in_guest().unwrap(), 2040 << 30);
    }
}

#[test]
fn the_method_compacts_dynamic_disks_alone() {
    let scratch = Scratch::new("host-strict");
    let host = Host::new();
    let (base, diff) = (scratch.path("base.vhd"), scratch.path("diff.vhd"));
    dynamic(&base, 6, &[], 3);
    child(&diff, &base, 6, 4);
    done(&host.create_fixed(&scratch.path("fixed.vhd"), 3).unwrap());
    fs::write(scratch.path("text.vhd"), "no image").unwrap();
    let fixed = crate::vhdx_model::Shape {
        blocks: 2,
        order: vec![(0, 6, 0), (1, 6, 0)],
        flags: 1,
        ..Default::default()
    };
    fs::write(scratch.path("fixed.vhdx"), fixed.build(&[1]).0.bytes()).unwrap();
    for (name, expected) in [
        ("diff.vhd", Kind::WrongImageType),
        ("fixed.vhd", Kind::WrongImageType),
        ("fixed.vhdx", Kind::WrongImageType),
        ("text.vhd", Kind::InvalidImage),
    ] {
        let disk = host.open(&scratch.path(name)).unwrap();
        assert_eq!(kind(disk.compact()), Some(expected), "{name}");
    }
    let disk = host.open(&diff).unwrap();
    let before = read_chain(&[&fs::read(&diff).unwrap(), &fs::read(&base).unwrap()]);
    let plan = disk.plan(&compact::Options::default()).unwrap();
    assert_eq!(plan.outcome, compact::Outcome::Planned);
    done(&disk.compact_with(&compact::Options::default()).unwrap());
    let after = read_chain(&[&fs::read(&diff).unwrap(), &fs::read(&base).unwrap()]);
    assert!(before == after);
    // Without its parent.
    fs::rename(&base, scratch.path("elsewhere")).unwrap();
    let lost = disk.compact_with(&compact::Options::default());
    assert_eq!(kind(lost), Some(Kind::ParentNotFound));
    assert_eq!(kind(disk.merge()), Some(Kind::ParentNotFound));
    let to = disk.merge_to(&scratch.path("new.vhd"), ImageType::Dynamic);
    assert_eq!(kind(to), Some(Kind::ParentNotFound));
    let none = host.open(&scratch.path("fixed.vhd")).unwrap();
    assert_eq!(kind(none.merge()), Some(Kind::WrongImageType));
    let to = none.merge_to(&scratch.path("new.vhd"), ImageType::Dynamic);
    assert_eq!(kind(to), Some(Kind::WrongImageType));
    assert!(!scratch.path("new.vhd").exists());
}

#[test]
fn a_chain_is_converted_merged_and_told_where_its_parent_is() {
    let scratch = Scratch::new("host-chain");
    let host = Host::new();
    let (base, diff) = (scratch.path("base.vhd"), scratch.path("diff.vhd"));
    dynamic(&base, 6, &[2], 5);
    child(&diff, &base, 6, 6);
    let shown = read_chain(&[&fs::read(&diff).unwrap(), &fs::read(&base).unwrap()]);
    let disk = host.open(&diff).unwrap();
    let same = |name: &str| {
        let file = fs::read(scratch.path(name)).unwrap();
        let found: Vec<u8> = if name.starts_with("fixed") {
            file[..file.len() - 512].to_vec()
        } else {
            read_chain(&[&file])
        };
        assert!(found == shown, "{name}");
    };
    done(&disk.merge_to(&scratch.path("whole.vhd"), ImageType::Dynamic).unwrap());
    same("whole.vhd");
    done(&disk.convert(&scratch.path("fixed.vhd"), ImageType::Fixed).unwrap());
    same("fixed.vhd");
    let (new, wrong) = (scratch.path("no.vhd"), ImageType::Differencing);
    assert_eq!(kind(disk.convert(&new, wrong)), Some(Kind::WrongImageType));
    assert_eq!(kind(disk.merge_to(&new, wrong)), Some(Kind::WrongImageType));
    let there = disk.convert(&scratch.path("whole.vhd"), ImageType::Dynamic);
    assert_eq!(kind(there), Some(Kind::AlreadyExists));
    let itself = disk.convert(&diff, ImageType::Dynamic);
    assert!(matches!(kind(itself), Some(Kind::AlreadyExists | Kind::InUse)));

    // The parent moves; another disk is no parent.
    fs::create_dir(scratch.path("moved")).unwrap();
    let moved = scratch.path("moved/p.vhd");
    fs::rename(&base, &moved).unwrap();
    assert_eq!(kind(disk.parent()), Some(Kind::ParentNotFound));
    let whole = host.open(&scratch.path("whole.vhd")).unwrap();
    assert_eq!(kind(disk.set_parent(&whole)), Some(Kind::ParentMismatch));
    assert_eq!(kind(whole.set_parent(&disk)), Some(Kind::WrongImageType));
    let parent = host.open(&moved).unwrap();
    disk.set_parent(&parent).unwrap();
    let found = disk.parent().unwrap().unwrap();
    assert_eq!(found.file(), crate::support::real_path(&moved).unwrap());

    done(&disk.merge().unwrap());
    assert!(read_chain(&[&fs::read(&moved).unwrap()]) == shown);
    read_strictly(&fs::read(&moved).unwrap()).unwrap();
}

/// A fixed disk of noise, large enough for a copy of it to take a while.
fn large(scratch: &Scratch, name: &str) -> PathBuf {
    let path = scratch.path(name);
    sh(&format!(
        "cd {}; head -c 192M /dev/urandom > raw
         qemu-img convert -f raw -O vpc -o subformat=fixed,force_size=on raw {name}; rm raw",
        scratch.dir().display()
    ));
    path
}

#[test]
fn tasks_run_side_by_side_but_one_at_a_time_on_a_file() {
    let test = "tasks_run_side_by_side_but_one_at_a_time_on_a_file";
    if !have(test, &["qemu-img"]) {
        return;
    }
    let scratch = Scratch::new("host-busy");
    let host = Host::new();
    let disk = host.open(&large(&scratch, "large.vhd")).unwrap();
    let first = disk.convert(&scratch.path("one.vhd"), ImageType::Dynamic).unwrap();
    assert_eq!((first.result(), first.error().is_none()), (None, true));
    // Reading it twice is no trouble; writing the same file is, and so is anything
    // with a file that is being made.
    let again = disk.convert(&scratch.path("one.vhd"), ImageType::Fixed);
    assert_eq!(kind(again), Some(Kind::InUse));
    let made = host.create_dynamic(&scratch.path("one.vhd"), 3);
    assert_eq!(kind(made), Some(Kind::InUse));
    assert_eq!(kind(disk.compact()), Some(Kind::InUse));
    let second = disk.convert(&scratch.path("two.vhd"), ImageType::Dynamic).unwrap();
    assert!(!first.is_complete(), "the disk is too small for this test");
    let mut last = 0;
    while !first.wait(Some(Duration::from_millis(1))) {
        let percent = first.percent();
        assert!((last..100).contains(&percent), "{last} then {percent}");
        last = percent;
    }
    assert!(last > 5, "no progress was seen: {last}");
    done(&first);
    done(&second);
    sh(&format!(
        "cd {}; qemu-img compare -f vpc -F vpc large.vhd one.vhd
         qemu-img compare -f vpc -F vpc large.vhd two.vhd",
        scratch.dir().display()
    ));
    // Free again.
    assert_eq!(kind(disk.compact()), Some(Kind::WrongImageType));
}

#[test]
fn a_cancelled_task_leaves_no_file() {
    let test = "a_cancelled_task_leaves_no_file";
    if !have(test, &["qemu-img"]) {
        return;
    }
    let scratch = Scratch::new("host-cancel");
    let host = Host::new();
    let disk = host.open(&large(&scratch, "large.vhd")).unwrap();
    let mut options = convert::Options::new(ImageType::Dynamic);
    options.verify = true;
    let task = disk.convert_with(&scratch.path("new.vhd"), &options).unwrap();
    assert!(task.is_cancelable());
    assert!(task.cancel());
    assert!(task.wait(Some(Duration::from_secs(60))));
    assert_eq!(task.result(), Some(TaskResult::Cancelled));
    assert!(task.error().is_none() && task.percent() < 100 && !task.cancel());
    let left: Vec<_> = fs::read_dir(scratch.dir()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn shutting_down_stops_all_tasks_and_takes_no_more() {
    let test = "shutting_down_stops_all_tasks_and_takes_no_more";
    if !have(test, &["qemu-img"]) {
        return;
    }
    let scratch = Scratch::new("host-shutdown");
    let host = Host::new();
    let path = large(&scratch, "large.vhd");
    let disk = host.open(&path).unwrap();
    let mut options = convert::Options::new(ImageType::Dynamic);
    options.verify = true;
    let tasks: Vec<_> = ["a.vhd", "b.vhd"]
        .map(|name| disk.convert_with(&scratch.path(name), &options).unwrap())
        .into();
    host.shut_down();
    assert!(host.is_shutting_down());
    for task in &tasks {
        // The call came back when they had ended.
        assert_eq!(task.result(), Some(TaskResult::Cancelled));
    }
    let (new, down) = (scratch.path("c.vhd"), Some(Kind::ShuttingDown));
    assert_eq!(kind(host.create_dynamic(&new, 3)), down);
    assert_eq!(kind(host.create_fixed(&new, 3)), down);
    assert_eq!(kind(host.create_differencing(&new, &path)), down);
    assert_eq!(kind(disk.compact()), down);
    assert_eq!(kind(disk.merge()), down);
    assert_eq!(kind(disk.convert(&new, ImageType::Dynamic)), down);
    assert_eq!(kind(disk.merge_to(&new, ImageType::Dynamic)), down);
    assert_eq!(kind(disk.set_parent(&disk)), down);
    assert_eq!(fs::read_dir(scratch.dir()).unwrap().count(), 1);
}

#[test]
fn a_disk_tells_of_itself_while_a_task_works_on_it() {
    let scratch = Scratch::new("host-asked");
    let host = Host::new();
    let path = scratch.path("a.vhd");
    dynamic(&path, 60, &[1, 4, 7], 13);
    let disk = host.open(&path).unwrap();
    let mut options = compact::Options::default();
    (options.mode, options.verify) = (compact::Mode::Full, true);
    let task = disk.compact_with(&options).unwrap();
    let mut asked = 0;
    while !task.wait(Some(Duration::from_millis(1))) {
        assert_eq!(disk.image_type().unwrap(), ImageType::Dynamic);
        assert_eq!(disk.size_in_guest().unwrap(), 60 * BLOCK as u64);
        assert!(disk.parent().unwrap().is_none());
        asked += 1;
    }
    done(&task);
    assert!(asked > 3, "{asked}");
}

#[test]
fn room_that_was_set_aside_goes_back_to_the_host() {
    let test = "room_that_was_set_aside_goes_back_to_the_host";
    if !have(test, &["fallocate", "stat"]) {
        return;
    }
    let scratch = Scratch::new("host-room");
    let path = scratch.path("a.vhd");
    let len = dynamic(&path, 4, &[], 14).len();
    let held = |path: &Path| -> u64 {
        let blocks = sh(&format!("stat -c %b {}", path.display()));
        blocks.trim().parse::<u64>().unwrap() * 512
    };
    sh(&format!("fallocate -n -o {len} -l 64M {}", path.display()));
    assert!(held(&path) > 64 << 20);
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let report = compact::compact(&path, &compact::Options::default(), &mut |_| {
        std::ops::ControlFlow::Continue(())
    });
    assert_eq!(report.outcome, compact::Outcome::NothingToDo);
    assert!(held(&path) < len as u64 + (1 << 20));
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), modified);
}

/// A child of the image `parent` whose blocks 0 and 1 hold what that one shows there, and
/// block 2 noise of its own.
fn echo(path: &Path, name: &str, parent: &[u8], disk: &[u8], seed: u64) -> Vec<u8> {
    let mut shape = Shape::random(&mut Noise::new(seed));
    (shape.block_size, shape.blocks, shape.batmap) = (BLOCK, 4, false);
    (shape.spare_entries, shape.creator, shape.aligned) = (0, *b"win ", true);
    shape.order = (0..3).map(|block| (block, 0)).collect();
    let file = Child::new(shape.clone(), id_in(parent), name).build(
        |_| vec![0xFF; BLOCK / 512 / 8],
        |block| match block {
            0 | 1 => disk[block as usize * BLOCK..][..BLOCK].to_vec(),
            _ => shape.data(block),
        },
    );
    fs::write(path, &file).unwrap();
    file
}

/// The blocks that have a place.
fn placed(path: &Path) -> Vec<usize> {
    let file = fs::read(path).unwrap();
    let blocks = read_strictly(&file).unwrap();
    (0..blocks.len()).filter(|block| blocks[*block].is_some()).collect()
}

#[test]
fn a_child_does_not_come_to_lean_on_a_parent_that_cannot_see_it() {
    let scratch = Scratch::new("host-lean");
    fs::create_dir(scratch.path("kids")).unwrap();
    let base = dynamic(&scratch.path("base.vhd"), 4, &[1], 8);
    let disk = read_chain(&[&base]);
    let (near, far) = (scratch.path("near.vhd"), scratch.path("kids/far.vhd"));
    for path in [&near, &far] {
        echo(path, "base.vhd", &base, &disk, 9);
    }
    let mut options = HostOptions::default();
    options.parents.dirs = vec![scratch.dir().to_owned()];
    let host = Host::with_options(options);
    let mut full = compact::Options::default();
    full.mode = compact::Mode::Full;
    for (path, left) in [(&near, vec![2]), (&far, vec![0, 2])] {
        let child = host.open(path).unwrap();
        let plan = child.plan(&full).unwrap();
        let told = plan.notes.iter().any(|note| note.contains("in another folder"));
        assert_eq!(told, path == &far, "{plan:?}");
        done(&child.compact_with(&full).unwrap());
        assert_eq!(placed(path), left, "{}", path.display());
    }
}

#[test]
fn a_merge_does_not_leave_out_what_only_the_grandparent_holds() {
    let scratch = Scratch::new("host-grandparent");
    let base = dynamic(&scratch.path("base.vhd"), 4, &[1], 10);
    let disk = read_chain(&[&base]);
    let (middle, top) = (scratch.path("middle.vhd"), scratch.path("top.vhd"));
    let mut shape = Shape::random(&mut Noise::new(11));
    (shape.block_size, shape.blocks, shape.batmap) = (BLOCK, 4, false);
    (shape.spare_entries, shape.creator, shape.aligned) = (0, *b"win ", true);
    shape.order = vec![(3, 0)];
    let between = Child::new(shape.clone(), id_in(&base), "base.vhd")
        .build(|_| vec![0xF0; BLOCK / 512 / 8], |block| shape.data(block));
    fs::write(&middle, &between).unwrap();
    let above = echo(&top, "middle.vhd", &between, &disk, 12);
    let shown = read_chain(&[&above, &between, &base]);
    let host = Host::new();
    done(&host.open(&top).unwrap().merge().unwrap());
    let merged = fs::read(&middle).unwrap();
    assert!(read_chain(&[&merged, &base]) == shown);
    // Zeros over zeros need no room.
    assert_eq!(placed(&middle), [0, 2, 3]);
    // Whatever becomes of the free space of the base.
    let mut other = base.clone();
    let place =
        u32::from_be_bytes(other[0x600..0x604].try_into().unwrap()) as usize * 512;
    other[place + 4096 - 512..place + BLOCK].fill(0xEE);
    assert!(read_chain(&[&merged, &other]) == shown);
}
