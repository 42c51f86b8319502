//! The command on VHDX: what reads writes nothing, what repairs is believed by qemu, and
//! what is killed or interrupted goes on.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::command::{Ran, image, run, slimdisk, under_wine};
use crate::killed::kill;
use crate::support::{Noise, Scratch, have, sh, sh_output};
use crate::vhdx_model::{FULL, LogEntry, MIB, Model, Pages, Shape, read_strictly};

/// Writes what is no hole.
fn write(file: &Pages, path: &Path) {
    let to = File::create(path).unwrap();
    to.set_len(file.len).unwrap();
    for page in file.held(0, file.len) {
        let len = (file.len - page).min(4096) as usize;
        to.write_all_at(&file.get(page, len), page).unwrap();
    }
}

fn model_of(path: &Path) -> Model {
    let file = Pages::from_bytes(&fs::read(path).unwrap());
    read_strictly(&file).unwrap_or_else(|what| panic!("{}: {what}", path.display()))
}

/// One line, however it was wrapped.
fn flat(ran: &Ran) -> String {
    format!("{} {}", ran.out, ran.err).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Twelve blocks, half of them zeros, and a log that gives one of them its place.
fn dirty() -> Pages {
    let order = [5, 2, 9, 0, 11, 3, 7].map(|block| (block, FULL, 0)).to_vec();
    let shape = Shape { blocks: 12, order, ..Shape::default() };
    let (mut file, places) = shape.build(&[5, 9, 3]);
    let table = file.get(places.bat, 4096);
    let entry = LogEntry { pages: vec![(places.bat, table)], ..LogEntry::default() };
    shape.with_log(&mut file, &places, 255 * 4096, &[entry]);
    file.write(places.bat, &[0; 64]);
    file
}

#[test]
fn a_log_in_use_is_replayed_in_memory_alone_and_that_is_said() {
    let scratch = Scratch::new("vhdx-dirty");
    let disk = scratch.path("disk.vhdx");
    write(&dirty(), &disk);
    sh(&format!(
        "touch -m -d '2020-02-02' {0}; touch -a -d '2019-01-01' {0}",
        disk.display()
    ));
    let state = || {
        let found = fs::metadata(&disk).unwrap();
        let times = (found.mtime(), found.mtime_nsec(), found.atime(), found.ctime());
        (times, found.ctime_nsec(), found.len(), found.blocks())
    };
    let before = state();
    for (args, tells) in [
        (&["info"][..], true),
        (&["info", "--json"], true),
        (&["plan"], true),
        (&["plan", "--json"], true),
        (&["plan", "--mode", "full"], true),
        (&["plan", "--mode", "prezeroed"], true),
        (&["compact", "--dry-run", "--verify"], true),
        (&["map"], false),
        (&["check"], true),
        (&["check", "--json"], true),
    ] {
        let ran = run(args, &[&disk]).ok();
        assert_eq!(state(), before, "{args:?}");
        let told = flat(&ran).contains("replayed in memory alone");
        assert!(told || !tells, "{args:?}: {}", flat(&ran));
    }
    let was = model_of(&disk);
    assert!(was.replayed);
    assert!(fs::read(&disk).unwrap() == dirty().bytes());
    assert_eq!(fs::read_dir(scratch.dir()).unwrap().count(), 1);

    // Compacting replays it for good.
    let report = run(&["compact", "--json", "--mode", "prezeroed"], &[&disk]).ok();
    assert_eq!(report.object()["blocks"]["released_zero"], 3);
    let now = model_of(&disk);
    assert!(!now.replayed && now.file.len == was.file.len - 3 * MIB);
    assert!((0..12).all(|block| now.same_block(&was, block)));
    let told = flat(&run(&["info"], &[&disk]).ok());
    assert!(!told.contains("replayed"), "{told}");
}

#[test]
fn one_damaged_copy_is_repaired_from_the_other() {
    let test = "one_damaged_copy_is_repaired_from_the_other";
    if !have(test, &["qemu-img"]) {
        return;
    }
    let scratch = Scratch::new("vhdx-repair");
    let [raw, sound, disk] =
        ["disk.raw", "sound.vhdx", "disk.vhdx"].map(|name| scratch.path(name));
    fs::write(&raw, Noise::new(3).bytes(5 << 20)).unwrap();
    let qemu_finds_it_clean = |disk: &Path| {
        let (disk, sound) = (disk.display(), sound.display());
        sh(&format!(
            "qemu-img check -f vhdx {disk} && qemu-img compare -f vhdx -F vhdx {disk} {sound}"
        ));
    };
    sh(&format!(
        "qemu-img convert -f raw -O vhdx -o block_size=1M {} {}",
        raw.display(),
        sound.display()
    ));
    let whole = fs::read(&sound).unwrap();
    for at in [64 << 10, 128 << 10, 192 << 10, 256 << 10] {
        for damage in [(4, 1), (10, 16), (0, 4096)] {
            let mut file = whole.clone();
            file[at + damage.0..][..damage.1].iter_mut().for_each(|b| *b ^= 0x5A);
            fs::write(&disk, &file).unwrap();
            let found = run(&["check"], &[&disk]);
            let what = format!("{at:#x}, {damage:?}: {}", flat(&found));
            assert!(flat(&found).contains("damaged"), "{what}");
            assert!(fs::read(&disk).unwrap() == file, "{what}");
            let mended = run(&["check", "--repair"], &[&disk]).ok();
            assert!(flat(&mended).contains("written anew"), "{what}: {}", flat(&mended));
            let left = run(&["check", "--json"], &[&disk]).ok().object();
            assert_eq!(left["findings"], serde_json::json!([]), "{what}");
            qemu_finds_it_clean(&disk);
            let now = fs::read(&disk).unwrap();
            assert!(now.len() == whole.len() && now[1 << 20..] == whole[1 << 20..]);
            assert!(now[192 << 10..320 << 10] == whole[192 << 10..320 << 10], "{what}");
            model_of(&disk);
        }
    }
    // Both copies: nothing is made up.
    for pair in [[64 << 10, 128 << 10], [192 << 10, 256 << 10]] {
        let mut file = whole.clone();
        for at in pair {
            file[at + 9] ^= 1;
        }
        fs::write(&disk, &file).unwrap();
        for args in [&["check"][..], &["check", "--repair"]] {
            assert_eq!(run(args, &[&disk]).code, 3, "{pair:?}");
        }
        assert!(fs::read(&disk).unwrap() == file);
    }
    // And a log that qemu does not open a file with.
    write(&dirty(), &disk);
    let was = model_of(&disk);
    let refused = format!("qemu-img compare {0} {0}", disk.display());
    assert!(!sh_output(&refused).status.success());
    let mended = run(&["check", "--repair"], &[&disk]).ok();
    assert!(flat(&mended).contains("the log was replayed"), "{}", flat(&mended));
    sh(&format!("qemu-img check -f vhdx {}", disk.display()));
    let now = model_of(&disk);
    assert!(!now.replayed && now.blocks == was.blocks);
}

/// A VHDX of 64 MiB with ext4 in it, of which 20 MiB are what a deleted file has left, and
/// an empty child of it.
fn family(test: &str, scratch: &Scratch, folder: &str) -> Option<[PathBuf; 2]> {
    let vhd = image(test, scratch)?;
    let dir = scratch.path(folder);
    fs::create_dir(&dir).unwrap();
    let paths = ["parent.vhdx", "child.vhdx"].map(|name| dir.join(name));
    sh(&format!(
        "qemu-img convert -f vpc -O vhdx -o block_size=1M {} {}",
        vhd.display(),
        paths[0].display()
    ));
    let parent = paths[0].to_str().unwrap();
    run(&["create", "-q", "--parent", parent], &[&paths[1]]).ok();
    Some(paths)
}

#[test]
fn children_are_orphaned_if_that_is_asked_for() {
    let test = "children_are_orphaned_if_that_is_asked_for";
    let scratch = Scratch::new(test);
    for json in [false, true] {
        let folder = if json { "json" } else { "text" };
        let Some([parent, child]) = family(test, &scratch, folder) else { return };
        let was = model_of(&parent);
        let opens = || run(&["plan"], &[&child]).code;
        let told = |ran: &Ran, key: &str| -> Vec<String> {
            let listed = ran.object()[key].clone();
            serde_json::from_value(listed).unwrap()
        };
        let child_name = child.to_str().unwrap().to_owned();
        assert_eq!(opens(), 0);

        // Zeros alone, and that is said.
        let mut args = vec!["compact"];
        args.extend(json.then_some("--json"));
        let ran = run(&args, &[&parent]).ok();
        let said = flat(&ran);
        assert!(
            said.contains("the disk is the parent of child.vhdx: only what"),
            "{said}"
        );
        assert!(said.contains("with --orphan-children all that is free goes"), "{said}");
        if json {
            assert_eq!(ran.object()["blocks"]["released_free"], 0);
            assert_eq!(told(&ran, "children"), std::slice::from_ref(&child_name));
            assert!(told(&ran, "orphaned").is_empty());
        }
        let now = model_of(&parent);
        assert_eq!(now.data_write, was.data_write);
        assert_eq!(opens(), 0);

        // What it would be, which leaves all as it is.
        let before = fs::read(&parent).unwrap();
        args[0] = "plan";
        args.push("--orphan-children");
        let ran = run(&args, &[&parent]).ok();
        let said = flat(&ran);
        assert!(said.contains("would no longer find their parent"), "{said}");
        assert!(said.contains("child.vhdx"), "{said}");
        if json {
            assert_eq!(told(&ran, "orphaned"), std::slice::from_ref(&child_name));
        }
        assert!(fs::read(&parent).unwrap() == before);
        assert_eq!(opens(), 0);

        args[0] = "compact";
        let ran = run(&args, &[&parent]).ok();
        let said = flat(&ran);
        assert!(said.contains("no longer find their parent: "), "{said}");
        assert!(said.contains("child.vhdx"), "{said}");
        if json {
            assert!(ran.object()["blocks"]["released_free"].as_u64().unwrap() >= 18);
            assert_eq!(told(&ran, "orphaned"), [child_name]);
        }
        let now = model_of(&parent);
        assert_ne!(now.data_write, was.data_write);
        assert!(now.file.len + 18 * MIB <= was.file.len, "{}", now.file.len);
        assert_eq!(opens(), 8);
        assert_eq!(run(&["info"], &[&child]).code, 0, "its own facts can still be told");
    }
}

#[test]
fn a_vhd_orphans_nobody() {
    let test = "a_vhd_orphans_nobody";
    let scratch = Scratch::new(test);
    let disk = scratch.path("disk.vhd");
    run(&["create", "-q", "--size", "8M"], &[&disk]).ok();
    let before = fs::read(&disk).unwrap();
    for command in ["compact", "plan"] {
        let ran = run(&[command, "--orphan-children"], &[&disk]);
        assert_eq!(ran.code, 4, "{command}: {}", flat(&ran));
        assert!(flat(&ran).contains("they cannot be orphaned"), "{}", flat(&ran));
        let ran = run(&[command, "--orphan-children", "--json"], &[&disk]);
        assert_eq!(ran.code, 4);
        assert_eq!(ran.object()["outcome"], "failed", "{}", ran.out);
    }
    assert!(fs::read(&disk).unwrap() == before);
}

const BLOCKS: u32 = 200;

/// Blocks in no order, two of five of them noise, the others zeros.
fn large() -> (Pages, Vec<u32>) {
    let mut noise = Noise::new(6);
    let mut order: Vec<(u32, u64, u64)> =
        (0..BLOCKS).map(|block| (block, FULL, 0)).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, noise.below(i as u64 + 1) as usize);
    }
    let live: Vec<u32> = (0..BLOCKS).filter(|_| noise.below(5) < 2).collect();
    let shape = Shape { blocks: BLOCKS, order, ..Shape::default() };
    let (file, _) = shape.build_with(|block| match live.contains(&block) {
        true => vec![(0, Noise::new(u64::from(block)).bytes(1 << 20))],
        false => Vec::new(),
    });
    (file, live)
}

#[test]
fn a_vhdx_killed_or_interrupted_at_random_moments_goes_on() {
    let scratch = Scratch::new("vhdx-killed");
    let (master, disk) = (scratch.path("master.vhdx"), scratch.path("disk.vhdx"));
    let (file, live) = large();
    write(&file, &master);
    let original = read_strictly(&file).unwrap();
    // All zeros are there, as on a medium that knows no holes.
    let copy =
        || sh(&format!("cp --sparse=never {} {}", master.display(), disk.display()));
    copy();
    let compact = ["compact", "-q", "--mode", "prezeroed"];
    let begun = Instant::now();
    run(&compact, &[&disk]).ok();
    let mut span = begun.elapsed().as_micros() as u64 * 5 / 4;
    let goal = fs::metadata(&disk).unwrap().len();
    assert_eq!(goal, file.len - (BLOCKS as u64 - live.len() as u64) * MIB);

    let judge = |round: u32| {
        let now = model_of(&disk);
        for block in 0..BLOCKS as usize {
            assert!(now.same_block(&original, block), "round {round}: block {block}");
            let lost = now.blocks[block].0 != FULL && live.contains(&(block as u32));
            assert!(!lost, "round {round}: block {block} is lost");
        }
        assert_eq!(now.data_write, original.data_write, "round {round}");
        now
    };
    let mut noise = Noise::new(std::process::id().into());
    let (mut killed, mut midway, mut in_use, mut stopped) = (0, 0, 0, 0);
    let rounds = if std::env::var_os("SLIMDISK_LONG").is_some() { 80 } else { 20 };
    let rounds = crate::command::rounds(rounds).max(5);
    for round in 0..100 {
        // On a busy machine the moments may need some luck.
        if round >= rounds && killed >= 4 && midway >= 2 {
            break;
        }
        copy();
        // Wine knows no SIGINT from outside.
        let kills = round % 4 != 0 || under_wine().is_some();
        if kills {
            killed += u32::from(kill(&compact, &[&disk], &mut noise, &mut span));
        } else {
            let mut child = slimdisk()
                .args(compact)
                .arg(&disk)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            sleep(Duration::from_micros(noise.below(span)));
            sh(&format!("kill -INT {} || true", child.id()));
            let ended = child.wait().unwrap();
            stopped += u32::from(ended.code() == Some(130));
            // Before its handler is set it dies of the signal, and has done nothing.
            let code = ended.code().unwrap_or(130);
            assert!(code == 0 || code == 130, "round {round}: {code}");
        }
        let now = judge(round);
        assert!(kills || !now.replayed, "round {round}: stopped with its log in use");
        in_use += u32::from(now.replayed);
        let len = fs::metadata(&disk).unwrap().len();
        midway += u32::from(now.file_write != original.file_write && len != goal);
        assert_eq!(run(&["check", "-q"], &[&disk]).code, 0, "round {round}");

        run(&compact, &[&disk]).ok();
        assert!(!judge(round).replayed, "round {round}");
        assert_eq!(fs::metadata(&disk).unwrap().len(), goal, "round {round}");
    }
    println!("{killed} killed, {midway} midway, {in_use} with a log, {stopped} stopped");
    assert!(killed >= 4 && midway >= 2, "{killed} killed, {midway} midway");
}
