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
use crate::vhdx_model::{
    FULL, Pages, Shape as VhdxShape, read_strictly as read_vhdx_strictly,
};

/// What is made of what: the names of both, and whether the target is fixed.
type Form = (&'static str, &'static str, bool);

/// The formats as source and as target, dynamic and fixed.
const FORMS: [Form; 6] = [
    ("source.vhd", "target.vhd", false),
    ("source.vhd", "target.vhd", true),
    ("source.vhd", "target.vhdx", false),
    ("source.vhdx", "target.vhdx", true),
    ("source.vhdx", "target.vhd", false),
    ("source.vhdx", "target.vhdx", false),
];

/// This test binary, as a process that converts.
fn child(dir: &Path, (source, target, fixed): Form) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "convert::killed::child_that_converts", "--ignored"])
        .env("SLIMDISK_CONVERT", dir)
        .env("SLIMDISK_SOURCE", source)
        .env("SLIMDISK_TARGET", target)
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
    let name = |key: &str, usual: &str| {
        dir.join(std::env::var(key).unwrap_or_else(|_| usual.to_owned()))
    };
    let source = name("SLIMDISK_SOURCE", "source.vhd");
    let target = name("SLIMDISK_TARGET", "target.vhd");
    let fixed = std::env::var_os("SLIMDISK_FIXED").is_some_and(|v| !v.is_empty());
    let mut options = if fixed { to_fixed() } else { dynamic() };
    options.block_size = (!fixed).then_some(2 << 20);
    let report = attempt(&source, &target, &options);
    let kind = report.cause.map(|cause| format!("{:?}", cause.kind()));
    fs::write(dir.join("../ended"), kind.unwrap_or_default()).unwrap();
}

/// Whether a whole image has this disk in it, judged by a reader of the tests' own.
fn holds(path: &Path, fixed: bool, disk: &[u8]) -> bool {
    let file = fs::read(path).unwrap();
    let is_zero = |data: &[u8]| data.iter().all(|byte| *byte == 0);
    let mut blocks = disk.chunks(2 * MIB);
    if path.extension().unwrap() == "vhdx" {
        let model = read_vhdx_strictly(&Pages::from_bytes(&file)).unwrap();
        assert_eq!((model.block_len, model.disk_size), (2 << 20, disk.len() as u64));
        return model.blocks.iter().zip(blocks).all(|((state, place), data)| {
            assert!(*state == FULL || *state == 2 && !fixed);
            match *state {
                FULL => model.file.get(*place, data.len()) == data,
                _ => is_zero(data),
            }
        });
    }
    if fixed {
        return file[..file.len() - 512] == *disk;
    }
    let found = read_strictly(&file).unwrap();
    found.iter().all(|block| {
        let data = blocks.next().unwrap();
        block.as_ref().map_or_else(|| is_zero(data), |block| block.data == data)
    })
}

#[test]
fn sigkill_at_random_moments() {
    let scratch = Scratch::new("convert_sigkill");
    let dir = scratch.path("disks");
    fs::create_dir(&dir).unwrap();
    let disk = disk(&mut Noise::new(7), 48 * MIB);
    let before = [
        ("source.vhd", Shape::of_disk(&disk, 2 * MIB, true, *b"win ")),
        ("source.vhdx", VhdxShape::of_disk(&disk, 1).1.bytes()),
    ];
    for (name, file) in &before {
        fs::write(dir.join(name), file).unwrap();
    }
    let mut spans = FORMS.map(|form| {
        let target = dir.join(form.1);
        let started = Instant::now();
        assert!(child(&dir, form).status().unwrap().success());
        let span = started.elapsed().as_micros() as u64 * 5 / 4;
        assert!(holds(&target, form.2, &disk), "{form:?}");
        fs::remove_file(&target).unwrap();
        span
    });
    let mut noise = Noise::new(std::process::id().into());
    let (mut killed, mut whole) = ([0; FORMS.len()], 0);
    for round in 0..72 {
        let number = round % FORMS.len();
        let (form, span) = (FORMS[number], &mut spans[number]);
        let target = dir.join(form.1);
        let mut child = child(&dir, form).spawn().unwrap();
        sleep(Duration::from_micros(noise.below(*span)));
        child.kill().unwrap();
        let struck = child.wait().unwrap().signal() == Some(9);
        killed[number] += u32::from(struck);
        *span = if struck { *span * 21 / 20 } else { (*span * 3 / 4).max(5000) };
        if target.symlink_metadata().is_ok() {
            whole += 1;
            assert!(holds(&target, form.2, &disk), "round {round}: {form:?}");
            fs::remove_file(&target).unwrap();
        }
        assert_eq!(names(&dir), ["source.vhd", "source.vhdx"], "round {round}: {form:?}");
    }
    for (name, file) in &before {
        assert!(fs::read(dir.join(name)).unwrap() == *file, "{name} was changed");
    }
    println!("{killed:?} killed, {whole} whole");
    let enough = killed.iter().all(|killed| *killed >= 3);
    assert!(enough && whole >= 1, "{killed:?} killed, {whole} whole");
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
