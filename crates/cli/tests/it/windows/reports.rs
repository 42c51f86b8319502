//! The same images give the same reports and the same files as on Linux.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Windows;
use crate::command::{image, kept_file, run};
use crate::support::{Noise, Scratch, have, sh, sh_output, skip};

/// A report without what two systems may say differently.
fn plain(mut report: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for name in [
                    "image",
                    "target",
                    "parent",
                    "path",
                    "elapsed_seconds",
                    "host_bytes_before",
                    "host_bytes_after",
                    "source_host_bytes",
                ] {
                    fields.remove(name);
                }
                fields.values_mut().for_each(strip);
            }
            Value::Array(values) => values.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut report);
    report
}

/// A copy for each of the two, without holes: Wine shows none.
fn two(disk: &Path) -> [PathBuf; 2] {
    let name = disk.file_name().unwrap().to_str().unwrap();
    ["linux", "windows"].map(|system| {
        let folder = disk.with_file_name(system);
        fs::create_dir_all(&folder).unwrap();
        let copy = folder.join(name);
        sh(&format!("cp --sparse=never {} {}", disk.display(), copy.display()));
        copy
    })
}

fn name_ends(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

/// Every command that takes one disk does the same on both; the compacted file.
fn compacted(windows: &Windows, disk: &Path) -> PathBuf {
    let [here, there] = two(disk);
    for args in [
        &["info", "--json"][..],
        &["check", "--json"],
        &["plan", "--json"],
        &["plan", "--json", "--mode", "full"],
        &["map", "--json"],
        &["compact", "--json", "--verify"],
        &["compact", "--json", "--mode", "full"],
        &["check", "--json"],
    ] {
        let (one, other) = (run(args, &[&here]), windows.run(args, &[&there]));
        assert_eq!((one.code, &one.err), (other.code, &other.err), "{args:?}");
        assert_eq!(plain(one.object()), plain(other.object()), "{args:?}");
        if args.contains(&"--verify") {
            assert_eq!(other.object()["outcome"], "compacted");
        }
    }
    assert!(fs::metadata(&there).unwrap().len() < fs::metadata(disk).unwrap().len());
    if name_ends(disk, "vhdx") {
        // New identities are drawn for each run.
        let (here, there) = (here.display(), there.display());
        sh(&format!("qemu-img compare -q -f vhdx -F vhdx {here} {there}"));
    } else {
        assert!(fs::read(&here).unwrap() == fs::read(&there).unwrap());
    }
    there
}

#[test]
fn ext4_in_both_formats_is_compacted_and_converted_as_on_linux() {
    let test = "ext4_in_both_formats_is_compacted_and_converted_as_on_linux";
    let Some(windows) = Windows::command(test) else { return };
    let scratch = Scratch::new("windows-ext4");
    let Some(vhd) = image(test, &scratch) else { return };
    let dir = scratch.dir();
    sh(&format!(
        "cd {}; qemu-img convert -f vpc -O vhdx -o block_size=1M disk.vhd disk.vhdx",
        dir.display()
    ));
    let compact = compacted(&windows, &vhd);
    kept_file(&compact);
    let compact = compacted(&windows, &scratch.path("disk.vhdx"));
    sh(&format!("qemu-img check -q -f vhdx {}", compact.display()));
    // From one format to the other and back, judged by qemu-img at each step.
    let new = ["a.vhdx", "b.vhd", "c.vhd"].map(|name| scratch.path(name));
    for (from, to, options) in [
        (&vhd, &new[0], &[][..]),
        (&new[0], &new[1], &["--type", "fixed"]),
        (&new[1], &new[2], &[]),
    ] {
        let mut args = vec!["convert", "--json", "--verify"];
        args.extend(options);
        let report = windows.run(&args, &[from, to]).ok().object();
        assert_eq!(report["outcome"], "converted");
        assert_eq!(report["file_size"], fs::metadata(to).unwrap().len());
        let format = |path| if name_ends(path, "vhdx") { "vhdx" } else { "vpc" };
        sh(&format!(
            "qemu-img compare -q -f {} -F {} {} {}",
            format(from),
            format(to),
            from.display(),
            to.display()
        ));
        assert_eq!(run(&["check", "-q"], &[to]).code, 0);
    }
    kept_file(&new[2]);
    let left = fs::read_dir(dir).unwrap().flatten();
    assert!(!left.map(|entry| entry.path()).any(|path| path.ends_with(".tmp")));
}

#[test]
fn ntfs_is_compacted_as_on_linux() {
    let test = "ntfs_is_compacted_as_on_linux";
    let Some(windows) = Windows::command(test) else { return };
    if !have(test, &["mkntfs", "ntfs-3g", "ntfsfix", "ntfscat", "qemu-img"]) {
        return;
    }
    let scratch = Scratch::new("windows-ntfs");
    let mut noise = Noise::new(21);
    let kept = noise.bytes(9 << 20);
    fs::write(scratch.path("keep"), &kept).unwrap();
    fs::write(scratch.path("gone"), noise.bytes(30 << 20)).unwrap();
    let made = sh_output(&format!(
        "cd {}; truncate -s 96M raw; mkntfs -q -F raw; mkdir m
         again ntfs-3g raw m || exit 9
         trap 'umount m' EXIT
         cp gone m; cp keep m; sync; rm m/gone",
        scratch.dir().display()
    ));
    if made.status.code() == Some(9) {
        return skip(test, "the right to mount (root)");
    }
    assert!(made.status.success(), "{made:?}");
    for (format, option, name) in [
        ("vpc", "subformat=dynamic,force_size=on", "disk.vhd"),
        ("vhdx", "block_size=1M", "disk.vhdx"),
    ] {
        sh(&format!(
            "cd {}; qemu-img convert -O {format} -o {option} raw {name}",
            scratch.dir().display()
        ));
        let compact = compacted(&windows, &scratch.path(name));
        let won = fs::metadata(scratch.path(name)).unwrap().len()
            - fs::metadata(&compact).unwrap().len();
        assert!(won > 25 << 20, "{name}: {won}");
        sh(&format!(
            "cd {}; qemu-img convert -f {format} -O raw {} back
             ntfsfix -n back >/dev/null; ntfscat back keep > kept",
            scratch.dir().display(),
            compact.display()
        ));
        assert!(fs::read(scratch.path("kept")).unwrap() == kept, "{name}");
    }
}

#[test]
fn a_child_is_merged_as_on_linux() {
    let test = "a_child_is_merged_as_on_linux";
    let Some(windows) = Windows::command(test) else { return };
    let scratch = Scratch::new("windows-merge");
    let Some(vhd) = image(test, &scratch) else { return };
    for (base, child) in [("base.vhd", "child.vhd"), ("base.vhdx", "child.avhdx")] {
        let [made, folders @ ..] = ["made", "linux", "windows"].map(|name| {
            let folder = scratch.path(&format!("{name}-{base}"));
            fs::create_dir(&folder).unwrap();
            folder
        });
        run(&["convert", "-q"], &[&vhd, &made.join(base)]).ok();
        let parent = made.join(base);
        let create = ["create", "-q", "--parent", parent.to_str().unwrap()];
        windows.run(&create, &[&made.join(child)]).ok();
        if base == "base.vhd" {
            crate::new_images::fill(&made.join(child), &mut Noise::new(2));
        }
        let shown = windows.run(&["info", "--json"], &[&made.join(child)]).ok().object();
        assert_eq!(shown["type"], "differencing", "{shown:#}");
        for folder in &folders {
            sh(&format!("cp --sparse=never {}/* {}", made.display(), folder.display()));
        }
        let info = windows.run(&["info"], &[&folders[1].join(child)]).ok();
        assert!(info.out.contains(base), "{}", info.out);
        let ran = |args: &[&str]| {
            let one = run(args, &[&folders[0].join(child)]);
            let other = windows.run(args, &[&folders[1].join(child)]);
            assert_eq!((one.code, &one.err), (other.code, &other.err), "{args:?}");
            (one, other)
        };
        for args in [&["plan", "--json"][..], &["merge", "--json", "--verify"]] {
            let (one, other) = ran(args);
            assert_eq!(plain(one.object()), plain(other.object()), "{args:?}");
        }
        for name in [base, child] {
            run(&["check", "-q"], &[&folders[1].join(name)]).ok();
        }
    }
}

#[test]
fn spaces_and_other_alphabets_are_no_trouble() {
    let test = "spaces_and_other_alphabets_are_no_trouble";
    let Some(windows) = Windows::command(test) else { return };
    let scratch = Scratch::new("windows-names");
    let Some(disk) = image(test, &scratch) else { return };
    let mut folder = scratch.path("Größe 日本");
    // Wine 8 cannot tell the real path of a file beyond 260 units (error 234).
    while folder.as_os_str().len() < 160 {
        folder.push("a folder with a name of forty characters");
    }
    fs::create_dir_all(&folder).unwrap();
    let far = folder.join("Ελλάδα.vhd");
    fs::rename(&disk, &far).unwrap();
    for args in [&["info"][..], &["plan"], &["compact", "--verify"]] {
        let ran = windows.run(args, &[&far]).ok();
        assert!(ran.out.contains("Ελλάδα.vhd"), "{}", ran.out);
    }
    let copy = folder.join("копия.vhdx");
    windows.run(&["convert", "-q"], &[&far, &copy]).ok();
    run(&["check", "-q"], &[&copy]).ok();
    fs::rename(&far, scratch.path("disk.vhd")).unwrap();
    kept_file(&scratch.path("disk.vhd"));
}
