//! A process that merges is killed with SIGKILL at random moments.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use slimdisk::merge::{Merging, Options, Outcome};

use super::Files;
use crate::chain_model::{Child, id_in, random_bits};
use crate::support::{Noise, sh};
use crate::vhd_model::{Shape, read_strictly};

const CHILD: &str = "SLIMDISK_MERGE";

/// Not a test: what is killed.
#[test]
#[ignore = "a part of another test"]
fn as_a_process_of_its_own() {
    let Some(child) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let report = Merging::prepare(&child, &Options::default())
        .unwrap()
        .run(&mut |_| ControlFlow::Continue(()));
    assert_eq!(report.outcome, Outcome::Merged, "{report:?}");
}

/// Blocks of 2 MiB in the parent, of 512 KiB in the child: few bytes of the child make
/// the parent grow by three rounds.
fn chain() -> Vec<Vec<u8>> {
    let mut noise = Noise::new(51);
    let shape = |block_size: usize, seed, order: Vec<u32>| Shape {
        block_size,
        blocks: ((128 << 20) / block_size) as u32,
        order: order.into_iter().map(|block| (block, 0)).collect(),
        aligned: true,
        spare_entries: 0,
        batmap: false,
        creator: *b"win ",
        seed,
    };
    let parent = shape(2 << 20, 1, vec![9, 3]).build(&[]);
    let child = shape(512 << 10, 2, (0..256).filter(|b| b % 5 < 2).collect());
    let bits: Vec<Vec<u8>> = (0..256).map(|_| random_bits(&mut noise, 1024)).collect();
    let child = Child::new(child.clone(), id_in(&parent), "parent.vhd")
        .build(|b| bits[b as usize].clone(), |b| child.data(b));
    vec![child, parent]
}

#[test]
fn sigkill_at_random_moments_of_a_merge() {
    let chain = chain();
    let files = Files::new("killed", &chain);
    let master = files.scratch.path("master");
    fs::copy(&files.paths[1], &master).unwrap();
    let again = || {
        sh(&format!(
            "cp --sparse=always {} {}",
            master.display(),
            files.paths[1].display()
        ));
    };
    let start = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "merge::killed::as_a_process_of_its_own", "--ignored"])
            .env(CHILD, &files.paths[0])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let started = Instant::now();
    assert!(start().wait().unwrap().success());
    let whole = started.elapsed();
    assert!(files.shown_by_parent() == files.disk);
    let goal = fs::metadata(&files.paths[1]).unwrap().len();

    let rounds = if std::env::var_os("SLIMDISK_LONG").is_some() { 200 } else { 24 };
    let mut noise = Noise::new(std::process::id().into());
    // The machine may be busier or idler later on: follow it.
    let mut span = whole.as_micros() as u64;
    let (mut killed, mut midway) = (0, 0);
    for round in 0..rounds {
        again();
        let mut child = start();
        sleep(Duration::from_micros(noise.below(span)));
        child.kill().unwrap();
        let struck = child.wait().unwrap().signal() == Some(9);
        killed += u32::from(struck);
        span = if struck { span * 21 / 20 } else { (span * 3 / 4).max(5000) };
        let file = fs::read(&files.paths[1]).unwrap();
        midway += u32::from(struck && file != chain[1]);
        // Both footers stand: no power was cut.
        read_strictly(&file).unwrap_or_else(|what| panic!("round {round}: {what}"));
        assert!(files.shown() == files.disk, "round {round}");
        assert!(fs::read(&files.paths[0]).unwrap() == chain[0]);

        assert!(start().wait().unwrap().success(), "round {round}");
        assert!(files.shown_by_parent() == files.disk, "round {round}");
        assert_eq!(fs::metadata(&files.paths[1]).unwrap().len(), goal, "round {round}");
    }
    println!("{killed} killed, {midway} of them midway");
    assert!(killed >= rounds / 2 && midway >= rounds / 8, "{killed} {midway}");
}
