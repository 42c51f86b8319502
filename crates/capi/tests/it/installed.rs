//! The library installed by its recipe into a folder of the tests, and programs in C that
//! were built against it as the documentation says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::support::{have, sh};

/// Where the package would be used.
const PREFIX: &str = "/opt/slimdisk";

/// The flags of every program: no warning is let pass.
const STRICT: &str = "-std=c99 -Wall -Wextra -Werror -pedantic -g";

/// The folder in which the package lies as it will on a system (`DESTDIR`).
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi-installed");
        let _ = fs::remove_dir_all(&root);
        // The libraries that were built with these tests lie beside them.
        let tests = std::env::current_exe().unwrap();
        let output = Command::new(recipe())
            .env("BUILT", tests.parent().unwrap())
            .env("PREFIX", PREFIX)
            .env("DESTDIR", &root)
            .env_remove("LIBDIR")
            .env_remove("INCLUDEDIR")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        root
    })
}

pub fn recipe() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("install")
}

/// The folder of the libraries.
pub fn lib() -> PathBuf {
    root().join(&PREFIX[1..]).join("lib")
}

/// The folder of the header.
pub fn include() -> PathBuf {
    root().join(&PREFIX[1..]).join("include")
}

/// How a program gets the library.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Link {
    Shared,
    Static,
}

/// What `pkg-config` and the compiler are told, with the package in its folder.
pub fn flags(link: Link) -> String {
    let pkg_config = format!(
        "PKG_CONFIG_LIBDIR='{0}/pkgconfig' PKG_CONFIG_SYSROOT_DIR='{1}' pkg-config",
        lib().display(),
        root().display()
    );
    let ask = |what: &str| sh(&format!("{pkg_config} {what} slimdisk")).trim().to_owned();
    match link {
        // As the documentation says, and where to find it while it is not installed.
        Link::Shared => {
            format!("{} -Wl,-rpath,'{}'", ask("--cflags --libs"), lib().display())
        }
        Link::Static => format!(
            "{} '{}/libslimdisk.a' {}",
            ask("--cflags"),
            lib().display(),
            ask("--variable=system_libs")
        ),
    }
}

/// The program `tests/c/NAME.c`, built; `None`, said under the name `test`, if a tool is
/// missing.
pub fn program(test: &str, name: &str, compiler: &str, link: Link) -> Option<PathBuf> {
    if !have(test, &[compiler, "pkg-config"]) {
        return None;
    }
    // One at a time: several tests want the same.
    static BUILDING: Mutex<()> = Mutex::new(());
    let _one = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = root().join("programs");
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join(format!("{name}-{compiler}-{link:?}"));
    if !program.exists() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c");
        sh(&format!(
            "{compiler} {STRICT} '{0}/{name}.c' -o '{1}.new' {2} -pthread
             mv '{1}.new' '{1}'",
            source.display(),
            program.display(),
            flags(link)
        ));
    }
    Some(program)
}

/// What a program printed, which must end well.
#[track_caller]
pub fn run(program: &Path, arguments: &[&str]) -> String {
    finish(Command::new(program).args(arguments), arguments)
}

/// The same under valgrind: no error, and nothing left that was the program's or the
/// library's to give back.
#[track_caller]
pub fn run_in_valgrind(program: &Path, arguments: &[&str]) -> String {
    finish(valgrind(&[]).arg(program).args(arguments), arguments)
}

/// The same without a look at values that were never set. In safe code the compiler proves
/// that none is used, but reads such bytes where it does not matter, and valgrind cannot
/// tell.
#[track_caller]
pub fn run_in_valgrind_for_memory(program: &Path, arguments: &[&str]) -> String {
    let mut command = valgrind(&["--undef-value-errors=no"]);
    finish(command.arg(program).args(arguments), arguments)
}

fn valgrind(options: &[&str]) -> Command {
    let mut command = Command::new("valgrind");
    command
        .args(["-q", "--error-exitcode=99", "--leak-check=full"])
        .args(["--show-leak-kinds=definite,indirect,possible"])
        .args(["--errors-for-leak-kinds=definite,indirect,possible"])
        .args(options);
    command
}

#[track_caller]
fn finish(command: &mut Command, arguments: &[&str]) -> String {
    let output = command.output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{arguments:?} ended with {}\n{out}\n{err}",
        output.status
    );
    out
}

#[test]
fn a_program_is_built_as_the_documentation_says_shared_and_static() {
    let test = "a_program_is_built_as_the_documentation_says_shared_and_static";
    let version = env!("CARGO_PKG_VERSION");
    if !have(test, &["readelf"]) {
        return;
    }
    for link in [Link::Shared, Link::Static] {
        for compiler in ["gcc", "clang"] {
            let Some(program) = program(test, "version", compiler, link) else { return };
            assert_eq!(run(&program, &[]).trim(), version, "{compiler} {link:?}");
            let needs = sh(&format!("readelf -d '{}'", program.display()));
            // By the number of the ABI, whatever version is installed.
            assert_eq!(
                needs.contains("[libslimdisk.so.0]"),
                link == Link::Shared,
                "{needs}"
            );
            assert!(!needs.contains("slimdisk_capi"), "{needs}");
        }
    }
}

#[test]
fn the_package_has_its_files_and_no_others() {
    let test = "the_package_has_its_files_and_no_others";
    if !have(test, &["pkg-config", "readelf"]) {
        return;
    }
    let version = env!("CARGO_PKG_VERSION");
    let mut expected = vec![
        "include/slimdisk.h".to_owned(),
        "lib/libslimdisk.a".to_owned(),
        "lib/libslimdisk.so -> libslimdisk.so.0".to_owned(),
        format!("lib/libslimdisk.so.0 -> libslimdisk.so.0.{version}"),
        format!("lib/libslimdisk.so.0.{version}"),
        "lib/pkgconfig/slimdisk.pc".to_owned(),
    ];
    expected.sort();
    let found = sh(&format!(
        "cd '{}{PREFIX}'; find . -type l -printf '%P -> %l\\n' -o -type f -printf '%P\\n'",
        root().display()
    ));
    let mut found: Vec<_> = found.lines().collect();
    found.sort_unstable();
    assert_eq!(found, expected);
    let named = sh(&format!("readelf -d '{}/libslimdisk.so'", lib().display()));
    assert!(named.contains("soname: [libslimdisk.so.0]"), "{named}");
    let file = fs::read_to_string(lib().join("pkgconfig/slimdisk.pc")).unwrap();
    assert!(!file.contains('@'), "{file}");
    assert!(!file.contains(root().to_str().unwrap()), "DESTDIR is in it: {file}");
    let told = sh(&format!(
        "export PKG_CONFIG_LIBDIR='{}/pkgconfig'
         pkg-config --validate slimdisk
         pkg-config --modversion slimdisk
         pkg-config --cflags --libs slimdisk",
        lib().display()
    ));
    assert!(told.contains(version), "{told}");
    assert!(told.contains("-I/opt/slimdisk/include"), "{told}");
    assert!(told.contains("-L/opt/slimdisk/lib -lslimdisk"), "{told}");
}

#[test]
fn the_recipe_takes_folders_of_ones_own_and_refuses_relative_ones() {
    let scratch = crate::support::Scratch::new("capi-recipe");
    let tests = std::env::current_exe().unwrap();
    let recipe = |prefix: &str, libdir: &str| {
        Command::new(recipe())
            .env("BUILT", tests.parent().unwrap())
            .env("DESTDIR", scratch.dir())
            .envs([("PREFIX", prefix), ("LIBDIR", libdir)])
            .env("INCLUDEDIR", "/usr/include/slimdisk-0")
            .output()
            .unwrap()
    };
    assert!(!recipe("usr", "/usr/lib").status.success());
    assert!(!recipe("/usr", "lib").status.success());
    assert_eq!(fs::read_dir(scratch.dir()).unwrap().count(), 0);
    assert!(recipe("/usr", "/usr/lib/x86_64-linux-gnu").status.success());
    for file in ["lib/x86_64-linux-gnu/libslimdisk.a", "include/slimdisk-0/slimdisk.h"] {
        assert!(scratch.path("usr").join(file).exists(), "{file}");
    }
    let file = scratch.path("usr/lib/x86_64-linux-gnu/pkgconfig/slimdisk.pc");
    let file = fs::read_to_string(file).unwrap();
    assert!(file.contains("libdir=/usr/lib/x86_64-linux-gnu\n"), "{file}");
    assert!(file.contains("includedir=/usr/include/slimdisk-0\n"), "{file}");
}
