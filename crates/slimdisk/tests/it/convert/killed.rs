//! A process killed with SIGKILL at random moments of a conversion: the target is whole or
//! not there, and nothing else is.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{MIB, attempt, disk, dynamic, to_fixed};
use crate::new_file::names;
use crate::support::{Noise, Scratch, sh_output};
use crate::vhd_model::{Shape, read_strictly};

/// This test binary, as a process that converts.
fn child(dir: &Path, fixed: bool) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "convert::killed::child_that_converts", "--ignored"])
        .env("SLIMDISK_CONVERT", dir)
        .env("SLIMDISK_FIXED", if fixed { "1" } else { "" })
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Run in a process of its own.
#[test]
#[ignore = "a process that other tests start and kill"]
fn child_that_converts() {
    let Some(dir) = std::env::var_os("SLIMDISK_CONVERT").map(PathBuf::from) else {
        return;
    };
    let fixed = std::env::var_os("SLIMDISK_FIXED").is_some_and(|v| !v.is_empty());
    let options = if fixed { to_fixed() } else { dynamic() };
    let report = attempt(&dir.join("source.vhd"), &dir.join("target.vhd"), &options);
    let kind = report.cause.map(|cause| format!("{:?}", cause.kind()));
    fs::write(dir.join("../ended"), kind.unwrap_or_default()).unwrap();
}

#[test]
fn sigkill_at_random_moments() {
    let scratch = Scratch::new("convert_sigkill");
    let dir = scratch.path("disks");
    fs::create_dir(&dir).unwrap();
    let disk = disk(&mut Noise::new(7), 48 * MIB);
    let (source, target) = (dir.join("source.vhd"), dir.join("target.vhd"));
    let before = Shape::of_disk(&disk, 2 * MIB, true, *b"win ");
    fs::write(&source, &before).unwrap();
    let started = Instant::now();
    assert!(child(&dir, false).status().unwrap().success());
    let mut span = started.elapsed().as_micros() as u64 * 5 / 4;
    fs::remove_file(&target).unwrap();
    let mut noise = Noise::new(std::process::id().into());
    let (mut killed, mut whole) = (0, 0);
    for round in 0..60 {
        let fixed = round % 2 == 1;
        let mut child = child(&dir, fixed).spawn().unwrap();
        sleep(Duration::from_micros(noise.below(span)));
        child.kill().unwrap();
        let struck = child.wait().unwrap().signal() == Some(9);
        killed += u32::from(struck);
        span = if struck { span * 21 / 20 } else { (span * 3 / 4).max(5000) };
        if target.symlink_metadata().is_ok() {
            whole += 1;
            let file = fs::read(&target).unwrap();
            if fixed {
                assert!(file[..file.len() - 512] == disk, "round {round}");
            } else {
                let blocks = read_strictly(&file).unwrap();
                for (block, data) in blocks.iter().zip(disk.chunks(2 * MIB)) {
                    let same = match block {
                        Some(block) => block.data == data,
                        None => data.iter().all(|byte| *byte == 0),
                    };
                    assert!(same, "round {round}");
                }
            }
            fs::remove_file(&target).unwrap();
        }
        assert_eq!(names(&dir), ["source.vhd"], "round {round}");
    }
    assert!(fs::read(&source).unwrap() == before, "the source was changed");
    println!("{killed} killed, {whole} whole");
    assert!(killed >= 20 && whole >= 1, "{killed} killed, {whole} whole");
}

#[test]
fn a_limit_on_file_sizes_is_told_and_ends_no_process() {
    let scratch = Scratch::new("convert_ulimit");
    let dir = scratch.path("disks");
    fs::create_dir(&dir).unwrap();
    let disk = Noise::new(8).bytes(8 * MIB);
    let source = Shape::of_disk(&disk, 2 * MIB, true, *b"win ");
    fs::write(dir.join("source.vhd"), source).unwrap();
    for (fixed, kind) in [("1", "FileTooLarge"), ("", "DiskFull")] {
        let output = sh_output(&format!(
            "ulimit -f 4096; SLIMDISK_FIXED={fixed} SLIMDISK_CONVERT={} {} --exact \
             convert::killed::child_that_converts --ignored",
            dir.display(),
            std::env::current_exe().unwrap().display()
        ));
        assert!(output.status.success(), "{output:?}");
        assert_eq!(fs::read_to_string(scratch.path("ended")).unwrap(), kind);
        assert_eq!(names(&dir), ["source.vhd"]);
    }
}
