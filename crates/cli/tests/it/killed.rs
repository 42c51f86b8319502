//! The command killed with SIGKILL at random moments: the image stays sound, live
//! content equal, and a second run finishes the job.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::chain_model::{Child, id_in, random_bits, read_chain};
use crate::command::{clean, rounds, run, slimdisk, under_wine};
use crate::support::{Noise, Scratch, have, sh};
use crate::vhd_model::{Shape, read_strictly};
use crate::vhdx_judge::{read, shown};
use crate::vhdx_model::{FULL, Link, PARTIAL, Pages, Shape as VhdxShape, guid_text};
use crate::wine::{program_of_c, wine};

const BLOCK: usize = 2 << 20;
const BLOCKS: usize = 160;

/// A VHD of 320 MiB with every block in it, each of them marked, whose ext4 volume
/// calls about half of them free.
fn make(scratch: &Scratch) -> std::path::PathBuf {
    let (raw, pool) = (scratch.path("disk.raw"), scratch.path("pool"));
    fs::create_dir_all(&pool).unwrap();
    let (mut fill, mut delete) = (String::new(), String::new());
    let mut noise = Noise::new(5);
    for number in 0..42 {
        fs::write(pool.join(format!("f{number}")), "").unwrap();
        fill += &format!("fallocate f{number} 0 1791\n");
        if noise.below(2) == 0 {
            delete += &format!("rm f{number}\n");
        }
    }
    sh(&format!(
        "mke2fs -q -F -t ext4 -O ^has_journal -d {} {1} 320m
         debugfs -w -f - {1} >/dev/null 2>&1 <<'END'\n{fill}{delete}END",
        pool.display(),
        raw.display()
    ));
    let vhd = scratch.path("master.vhd");
    Shape::write_full(&vhd, &raw, BLOCK);
    // Marks in the blocks that hold no metadata.
    let file = File::options().read(true).write(true).open(&vhd).unwrap();
    let content = fs::read(&vhd).unwrap();
    for block in read_strictly(&content).unwrap().iter().flatten() {
        if block.data.iter().all(|byte| *byte == 0) {
            for at in [0, BLOCK / 2, BLOCK - 512] {
                let place = block.place + 512 + at;
                file.write_all_at(&noise.bytes(512), place as u64).unwrap();
            }
        }
    }
    vhd
}

/// Copies without filling the holes.
fn copy(from: &Path, to: &Path) {
    sh(&format!("cp --sparse=always {} {}", from.display(), to.display()));
}

/// Runs the command and kills it within `span` microseconds, which follows what the
/// machine is capable of; whether it was still running.
pub fn kill(args: &[&str], paths: &[&Path], noise: &mut Noise, span: &mut u64) -> bool {
    if under_wine().is_some() {
        return terminate(args, paths, noise, span);
    }
    let mut child = slimdisk()
        .args(args)
        .args(paths)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    sleep(Duration::from_micros(noise.below(*span)));
    child.kill().unwrap();
    let struck = child.wait().unwrap().signal() == Some(9);
    follow(span, struck);
    struck
}

fn follow(span: &mut u64, struck: bool) {
    *span = if struck { *span * 21 / 20 } else { (*span * 3 / 4).max(5000) };
}

/// The same under Wine, with `TerminateProcess`.
fn terminate(args: &[&str], paths: &[&Path], noise: &mut Noise, span: &mut u64) -> bool {
    let after = noise.below(*span) / 1000;
    let ended = clean(wine(&program_of_c("end.c")))
        .args(["kill", &after.to_string()])
        .arg(under_wine().unwrap())
        .args(args)
        .args(paths)
        .output()
        .unwrap();
    let code = ended.status.code();
    assert!(matches!(code, Some(0 | 137)), "{ended:?}");
    let struck = code == Some(137);
    follow(span, struck);
    struck
}

#[test]
fn sigkill_at_two_hundred_random_moments() {
    let test = "sigkill_at_two_hundred_random_moments";
    if !have(test, &["mke2fs", "debugfs"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let master = make(&scratch);
    let disk = scratch.path("disk.vhd");

    // What must stay, and how long a whole run takes.
    let before = fs::read(&master).unwrap();
    let original = read_strictly(&before).unwrap();
    copy(&master, &disk);
    let started = Instant::now();
    run(&["compact", "-q"], &[&disk]).ok();
    let whole = started.elapsed();
    let goal = fs::read(&disk).unwrap();
    let live: Vec<bool> =
        read_strictly(&goal).unwrap().iter().map(Option::is_some).collect();
    let kept = live.iter().filter(|live| **live).count();
    assert!((40..120).contains(&kept), "{kept} of {BLOCKS} blocks are live");

    let judge = |file: &[u8]| -> Result<usize, String> {
        let blocks = read_strictly(file)?;
        for (number, block) in blocks.iter().enumerate() {
            match (block, &original[number]) {
                (Some(now), Some(then)) if now.data != then.data => {
                    return Err(format!("block {number} changed"));
                }
                (None, _) if live[number] => {
                    return Err(format!("block {number} is lost"));
                }
                _ => {}
            }
        }
        Ok(blocks.iter().flatten().count())
    };
    let mut noise = Noise::new(std::process::id().into());
    // The machine may be busier or idler later on: follow it.
    let mut span = whole.as_micros() as u64 * 5 / 4;
    let (mut killed, mut midway) = (0, 0);
    for round in 0..rounds(200) {
        copy(&master, &disk);
        let struck = kill(&["compact", "-q"], &[&disk], &mut noise, &mut span);
        killed += u32::from(struck);
        let file = fs::read(&disk).unwrap();
        let there = judge(&file).unwrap_or_else(|what| panic!("round {round}: {what}"));
        midway += u32::from(there < BLOCKS && file.len() > goal.len());
        assert_eq!(run(&["check", "-q"], &[&disk]).code, 0, "round {round}");

        run(&["compact", "-q"], &[&disk]).ok();
        let file = fs::read(&disk).unwrap();
        assert_eq!(judge(&file), Ok(kept), "round {round}");
        assert_eq!(file.len(), goal.len(), "round {round}");
    }
    println!("{killed} killed, {midway} of them between the first release and the cut");
    assert!(
        killed >= rounds(100) && midway >= rounds(20),
        "{killed} killed, {midway} midway"
    );
}

/// A dynamic base and a child of it, with noise in most of their blocks.
fn make_chain(scratch: &Scratch) -> [std::path::PathBuf; 2] {
    let mut noise = Noise::new(11);
    let [base, child] = ["base.vhd", "child.vhd"].map(|name| scratch.path(name));
    let shape = |noise: &mut Noise, step: usize| {
        let mut shape = Shape::random(noise);
        (shape.block_size, shape.blocks, shape.batmap) = (BLOCK, 40, false);
        (shape.spare_entries, shape.creator) = (0, *b"win ");
        shape.order = (0..40).step_by(step).map(|block| (block, 0)).collect();
        shape
    };
    let below = shape(&mut noise, 3).build(&[]);
    let above = shape(&mut noise, 2);
    let bits: Vec<_> = (0..40).map(|_| random_bits(&mut noise, BLOCK / 512)).collect();
    let file = Child::new(above.clone(), id_in(&below), "base.vhd")
        .build(|block| bits[block as usize].clone(), |block| above.data(block));
    fs::write(&base, below).unwrap();
    fs::write(&child, file).unwrap();
    [base, child]
}

#[test]
fn compacting_a_child_killed_at_random_moments_goes_on() {
    let scratch = Scratch::new("killed-child");
    let [base, child] = make_chain(&scratch);
    let below = fs::read(&base).unwrap();
    // Half of what the child holds is what its parent shows.
    let shown = read_chain(&[&below]);
    let mut shape = Shape::random(&mut Noise::new(12));
    (shape.block_size, shape.blocks, shape.batmap) = (BLOCK, 40, false);
    (shape.spare_entries, shape.creator) = (0, *b"win ");
    shape.order = (0..40).map(|block| (block, 0)).collect();
    let above = Child::new(shape.clone(), id_in(&below), "base.vhd").build(
        |_| vec![0xFF; BLOCK / 512 / 8],
        |block| match block % 2 {
            0 => shown[block as usize * BLOCK..][..BLOCK].to_vec(),
            _ => shape.data(block),
        },
    );
    let compact = ["compact", "-q", "--mode", "full"];
    fs::write(&child, &above).unwrap();
    let shown = read_chain(&[&above, &below]);
    let started = Instant::now();
    run(&compact, &[&child]).ok();
    let mut span = started.elapsed().as_micros() as u64 * 5 / 4;
    let goal = fs::read(&child).unwrap();
    assert!(goal.len() < above.len() * 6 / 10, "{} of {}", goal.len(), above.len());
    let mut noise = Noise::new(std::process::id().into());
    let (mut killed, mut midway) = (0, 0);
    for round in 0..rounds(60) {
        fs::write(&child, &above).unwrap();
        killed += u32::from(kill(&compact, &[&child], &mut noise, &mut span));
        let now = fs::read(&child).unwrap();
        assert!(read_chain(&[&now, &below]) == shown, "round {round}");
        midway += u32::from(now != above && now.len() != goal.len());
        run(&compact, &[&child]).ok();
        let now = fs::read(&child).unwrap();
        assert!(read_chain(&[&now, &below]) == shown, "round {round}");
        assert_eq!(now.len(), goal.len(), "round {round}");
        assert!(fs::read(&base).unwrap() == below, "round {round}");
    }
    println!("{killed} killed, {midway} of them between the first release and the cut");
    assert!(
        killed >= rounds(20) && midway >= rounds(3),
        "{killed} killed, {midway} midway"
    );
}

#[test]
fn a_merge_killed_at_random_moments_goes_on() {
    let scratch = Scratch::new("killed-merge");
    let [base, child] = make_chain(&scratch);
    let (below, above) = (fs::read(&base).unwrap(), fs::read(&child).unwrap());
    let shown = read_chain(&[&above, &below]);
    let started = Instant::now();
    run(&["merge", "-q"], &[&child]).ok();
    let mut span = started.elapsed().as_micros() as u64 * 5 / 4;
    let goal = fs::metadata(&base).unwrap().len();
    let mut noise = Noise::new(std::process::id().into());
    let (mut killed, mut midway) = (0, 0);
    for round in 0..rounds(80) {
        fs::write(&base, &below).unwrap();
        killed += u32::from(kill(&["merge", "-q"], &[&child], &mut noise, &mut span));
        let now = fs::read(&base).unwrap();
        assert!(read_chain(&[&above, &now]) == shown, "round {round}");
        midway += u32::from(now != below && read_chain(&[&now]) != shown);
        run(&["merge", "-q"], &[&child]).ok();
        let now = fs::read(&base).unwrap();
        assert!(read_chain(&[&now]) == shown, "round {round}");
        assert_eq!(now.len() as u64, goal, "round {round}");
        assert!(fs::read(&child).unwrap() == above, "round {round}");
    }
    println!("{killed} killed, {midway} of them while the parent was written");
    assert!(
        killed >= rounds(30) && midway >= rounds(5),
        "{killed} killed, {midway} midway"
    );
}

/// A dynamic VHDX and a child of it, with noise in most of their blocks.
fn make_vhdx_chain(scratch: &Scratch) -> [std::path::PathBuf; 2] {
    let noise = |block: u32, seed: u64| {
        let mut noise = Noise::new(seed + u64::from(block));
        vec![(0, noise.bytes(1 << 20))]
    };
    let shape = VhdxShape { blocks: 60, ..VhdxShape::default() };
    let parent = VhdxShape {
        order: (0..60).step_by(3).map(|block| (block, FULL, 0)).collect(),
        seed: 1,
        ..shape.clone()
    };
    let linkage = format!("{{{}}}", guid_text(&parent.guids()[1]));
    let pairs = [("parent_linkage", linkage.as_str()), ("relative_path", r".\base.vhdx")];
    let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    let state = |block| if block % 4 == 0 { PARTIAL } else { FULL };
    let child = VhdxShape {
        order: (0..60).step_by(2).map(|block| (block, state(block), 0)).collect(),
        entries: vec![(3, 2), (9, 3)],
        eighths: (0..60).step_by(4).map(|block| (block, 0b0110_1101)).collect(),
        link: Some(Link { pairs }),
        seed: 2,
        ..shape
    };
    let paths = ["base.vhdx", "child.avhdx"].map(|name| scratch.path(name));
    let (below, above) =
        (parent.build_with(|b| noise(b, 7)), child.build_with(|b| noise(b, 99)));
    fs::write(&paths[0], below.0.bytes()).unwrap();
    fs::write(&paths[1], above.0.bytes()).unwrap();
    paths
}

/// The child is written to, too: it is told of its parent's next identity.
#[test]
fn a_merge_of_vhdx_killed_at_random_moments_goes_on() {
    let scratch = Scratch::new("killed-merge-vhdx");
    let [base, child] = make_vhdx_chain(&scratch);
    let (below, above) = (fs::read(&base).unwrap(), fs::read(&child).unwrap());
    let seen = |path: &Path| read(&Pages::from_bytes(&fs::read(path).unwrap())).unwrap();
    let disk = shown(&[&seen(&child), &seen(&base)]);
    let started = Instant::now();
    run(&["merge", "-q"], &[&child]).ok();
    let mut span = started.elapsed().as_micros() as u64 * 5 / 4;
    let goal = fs::metadata(&base).unwrap().len();
    assert!(shown(&[&seen(&base)]) == disk && goal > below.len() as u64);
    let mut noise = Noise::new(std::process::id().into());
    let (mut killed, mut told, mut midway) = (0, 0, 0);
    for round in 0..rounds(60) {
        fs::write(&base, &below).unwrap();
        fs::write(&child, &above).unwrap();
        killed += u32::from(kill(&["merge", "-q"], &[&child], &mut noise, &mut span));
        let now = [&child, &base].map(|path| seen(path));
        assert!(now[0].names(&now[1]), "round {round}: another parent");
        assert!(shown(&[&now[0], &now[1]]) == disk, "round {round}");
        let known = now[0].pair("parent_linkage2").is_some();
        let whole = shown(&[&now[1]]) == disk;
        told += u32::from(known && !whole);
        midway += u32::from(now[1].file.len > below.len() as u64 && !whole);
        run(&["merge", "-q"], &[&child]).ok();
        assert!(shown(&[&seen(&base)]) == disk, "round {round}");
        let now = [&child, &base].map(|path| seen(path));
        assert!(now[0].names(&now[1]) && shown(&[&now[0], &now[1]]) == disk);
        assert_eq!(fs::metadata(&base).unwrap().len(), goal, "round {round}");
    }
    println!("{killed} killed, {told} after the child was told, {midway} midway");
    assert!(
        killed >= rounds(20) && told >= rounds(3),
        "{killed} killed, {told} told, {midway} midway"
    );
}

#[test]
fn a_conversion_killed_at_random_moments_leaves_nothing_or_all() {
    let scratch = Scratch::new("killed-convert");
    let [base, child] = make_chain(&scratch);
    let shown = read_chain(&[&fs::read(&child).unwrap(), &fs::read(&base).unwrap()]);
    let new = scratch.path("new.vhd");
    let started = Instant::now();
    run(&["convert", "-q"], &[&child, &new]).ok();
    let mut span = started.elapsed().as_micros() as u64 * 5 / 4;
    let mut noise = Noise::new(std::process::id().into());
    let (mut killed, mut whole) = (0, 0);
    for round in 0..rounds(80) {
        fs::remove_file(&new).ok();
        killed +=
            u32::from(kill(&["convert", "-q"], &[&child, &new], &mut noise, &mut span));
        if new.exists() {
            assert!(read_chain(&[&fs::read(&new).unwrap()]) == shown, "round {round}");
            whole += 1;
        }
        // On Linux the new file had no name, and is gone with the process.
        let names = || fs::read_dir(scratch.dir()).unwrap().flatten();
        let left = names().filter(|entry| {
            let temporary = entry.file_name().to_string_lossy().ends_with(".tmp");
            !(temporary
                && under_wine().is_some()
                && fs::remove_file(entry.path()).is_ok())
        });
        assert_eq!(left.count(), 2 + usize::from(new.exists()), "round {round}");
    }
    println!("{killed} killed, {whole} whole");
    assert!(killed >= rounds(30) && whole >= rounds(3), "{killed} killed, {whole} whole");
}
