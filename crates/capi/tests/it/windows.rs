//! The library for Windows, under Wine: the same programs in C, built by MinGW.

use std::fs;
use std::path::{Path, PathBuf};

use crate::images;
use crate::support::{Scratch, have, sh};
use crate::vhd_model::read_strictly;
use crate::wine::{built, compiled, wine};

/// A program in C beside the library that it was built against; `None`, said under the
/// name `test`, if it cannot be built or run here.
fn program(test: &str, name: &str, flags: &str) -> Option<PathBuf> {
    let library = built(test, "slimdisk_capi.dll")?;
    let import = built(test, "libslimdisk_capi.dll.a")?;
    let crates = Path::new(env!("CARGO_MANIFEST_DIR"));
    let flags = format!(
        "-std=c99 -pedantic -I'{}' '{}' -static {flags}",
        crates.join("include").display(),
        import.display()
    );
    let program = compiled(&crates.join("tests/c").join(name), &flags);
    let beside = program.with_file_name("slimdisk_capi.dll");
    let part = program.with_extension("dll.new");
    fs::copy(library, &part).unwrap();
    fs::rename(part, beside).unwrap();
    Some(program)
}

/// What a program printed, which must end well.
#[track_caller]
fn run(program: &Path, arguments: &[&Path]) -> String {
    // The library wants full paths, and these are none there without Wine's drive.
    let arguments: Vec<_> = arguments
        .iter()
        .map(|path| format!("Z:{}", path.to_str().unwrap()).replace('/', r"\"))
        .collect();
    let output =
        wine(program).env("LC_ALL", "C.UTF-8").args(&arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().replace('\r', "")
}

#[test]
fn the_programs_in_c_do_the_same_on_windows() {
    let test = "the_programs_in_c_do_the_same_on_windows";
    let Some(version) = program(test, "version.c", "") else { return };
    assert_eq!(run(&version, &[]).trim(), env!("CARGO_PKG_VERSION"));
    let scratch = Scratch::new("capi-windows");

    let disk = scratch.path("disk.vhd");
    images::dynamic(&disk, 3, &[1]);
    run(&program(test, "pointers.c", "").unwrap(), &[&disk]);

    let folder = scratch.path("members");
    fs::create_dir(&folder).unwrap();
    run(&program(test, "members.c", "").unwrap(), &[&folder]);
    for name in ["moved.vhd", "converted.vhd", "merged.vhd", "converted small.vhd"] {
        read_strictly(&fs::read(folder.join(name)).unwrap()).unwrap();
    }
    if have(test, &["qemu-img"]) {
        sh(&format!(
            "cd '{}'
             for image in fixed.vhd converted.vhd 'converted small.vhd'; do
                 qemu-img compare -q -f vpc -F vpc fixed.vhd \"$image\"
             done
             for image in 'converted fixed.vhd' merged.vhd 'merged fixed.vhd' again.vhd; do
                 qemu-img compare -q -f vpc -F vpc moved.vhd \"$image\"
             done",
            folder.display()
        ));
    }
}

#[test]
fn a_shutdown_on_windows_refuses_and_stops() {
    let test = "a_shutdown_on_windows_refuses_and_stops";
    let Some(shutdown) = program(test, "shutdown.c", "-pthread") else { return };
    let scratch = Scratch::new("capi-windows-shutdown");
    let (_, child) = images::chain(&scratch);
    let disk = scratch.path("large.vhd");
    images::dynamic(&disk, 100, &[3, 50]);
    run(&shutdown, &[&disk, &child, &scratch.path("new-")]);
    read_strictly(&fs::read(&disk).unwrap()).unwrap();
    assert_eq!(fs::read_dir(scratch.dir()).unwrap().count(), 3);
}

/// Paths as Windows has them, and as UTF-8; a file that another program holds.
#[test]
fn paths_of_any_alphabet_go_in_and_come_out() {
    let test = "paths_of_any_alphabet_go_in_and_come_out";
    let Some(wide) = program(test, "wide.c", "-municode") else { return };
    let scratch = Scratch::new("capi-windows-wide");
    run(&wide, &[scratch.dir()]);
    let made = scratch.path("Größe Ελλάδα 日本 \u{1F4BE}.vhd");
    read_strictly(&fs::read(&made).unwrap()).unwrap();
    assert_eq!(fs::read_dir(scratch.dir()).unwrap().count(), 1);
}
