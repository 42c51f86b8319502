//! Help, completions and manual pages, all made from the same definitions.

use std::process::Command;

use crate::command::{run, slimdisk};
use crate::support::{Scratch, have, sh};

const SUBCOMMANDS: [&str; 10] = [
    "info",
    "plan",
    "map",
    "compact",
    "create",
    "convert",
    "merge",
    "check",
    "completions",
    "man",
];

#[test]
fn version_and_help_go_to_stdout() {
    let ran = run(&["--version"], &[]).ok();
    assert_eq!(ran.out, format!("slimdisk {}\n", env!("CARGO_PKG_VERSION")));
    let help = run(&["--help"], &[]).ok().out;
    for name in SUBCOMMANDS {
        assert!(help.contains(&format!("\n  {name} ")), "{name} is missing:\n{help}");
        let own = run(&[name, "--help"], &[]).ok().out;
        assert!(own.contains("Examples:\n  slimdisk "), "{own}");
        assert!(!own.contains('\x1b'));
    }
    assert!(help.contains("  75  the image is in use"), "{help}");
}

#[test]
fn completions_are_made_for_every_shell_and_load() {
    let test = "completions_are_made_for_every_shell_and_load";
    let scratch = Scratch::new("documents-completions");
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = run(&["completions", shell], &[]).ok().out;
        for word in ["compact", "drop-unpartitioned"] {
            assert!(script.contains(word), "{shell}: {word} is missing");
        }
        std::fs::write(scratch.path(shell), script).unwrap();
        let checks = match shell {
            "bash" | "zsh" | "fish" => format!("{shell} -n {shell}"),
            _ => continue,
        };
        if have(test, &[shell]) {
            sh(&format!("cd {}; {checks}", scratch.dir().display()));
        }
    }
    // What bash would offer for `slimdisk compact --mode <Tab>`.
    if have(test, &["bash"]) {
        let offered = sh(&format!(
            "set +u; source {}
             COMP_WORDS=(slimdisk compact --mode '') COMP_CWORD=3
             _slimdisk slimdisk '' --mode
             echo ${{COMPREPLY[@]}}",
            scratch.path("bash").display()
        ));
        assert_eq!(offered, "quick full prezeroed\n");
    }
}

#[test]
fn manual_pages_are_made_and_man_accepts_them() {
    let test = "manual_pages_are_made_and_man_accepts_them";
    let scratch = Scratch::new("documents-man");
    let ran = slimdisk().arg("man").arg(scratch.dir()).output().unwrap();
    assert!(ran.status.success());
    let mut pages = vec!["slimdisk.1".to_owned()];
    pages.extend(SUBCOMMANDS.iter().map(|name| format!("slimdisk-{name}.1")));
    let mut found: Vec<String> = std::fs::read_dir(scratch.dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    pages.sort();
    assert_eq!(found, pages);
    for page in &pages {
        let text = std::fs::read_to_string(scratch.path(page)).unwrap();
        assert!(text.contains(".SH EXAMPLES"), "{page}");
    }
    if have(test, &["man"]) {
        for page in &pages {
            let output = Command::new("man")
                .args(["--warnings", "-l"])
                .arg(scratch.path(page))
                .env("MANPAGER", "cat")
                .env("MANWIDTH", "80")
                .output()
                .unwrap();
            let err = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && err.is_empty(), "{page}: {err}");
        }
    }
    if have(test, &["mandoc"]) {
        for page in &pages {
            sh(&format!("mandoc -T lint -W error {}", scratch.path(page).display()));
        }
    }
    let nowhere = scratch.path("nowhere");
    let ran = run(&["man"], &[&nowhere]);
    assert_eq!(ran.code, 5, "{}", ran.err);
}
