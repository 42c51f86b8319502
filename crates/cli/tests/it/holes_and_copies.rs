//! `compact --punch` and `compact --output`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::command::{copy, image, kept_file, run, slimdisk};
use crate::support::Scratch;

fn on_the_host(path: &Path) -> u64 {
    // Until it is written out the host only estimates.
    fs::File::open(path).unwrap().sync_all().unwrap();
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn holes_are_planned_punched_and_told_of() {
    let test = "holes_are_planned_punched_and_told_of";
    let scratch = Scratch::new(test);
    let Some(disk) = image(test, &scratch) else { return };
    let before = fs::metadata(&disk).unwrap();
    let host = on_the_host(&disk);
    let planned = run(&["plan", "--punch"], &[&disk]).ok();
    assert!(planned.out.contains("could be punched"), "{}", planned.out);
    assert!(planned.out.contains("Hyper-V and WSL"), "{}", planned.out);
    let planned = run(&["compact", "-n", "--punch", "--json"], &[&disk]).ok().object();
    assert_eq!(planned["outcome"], "planned");
    let bytes = planned["punched_bytes"].as_u64().unwrap();
    assert!(bytes > 19 << 20, "{bytes}");
    assert_eq!(on_the_host(&disk), host);

    let report = run(&["compact", "--punch", "--verify", "--json"], &[&disk]).ok();
    let report = report.object();
    assert_eq!(report["outcome"], "punched");
    assert_eq!(report["punched_bytes"], bytes);
    assert_eq!(report["file_size_after"], before.len());
    assert_eq!(report["host_bytes_after"], on_the_host(&disk));
    assert!(report["verified"].is_string());
    assert!(on_the_host(&disk) + (19 << 20) < host);
    let after = fs::metadata(&disk).unwrap();
    assert_eq!(after.modified().unwrap(), before.modified().unwrap());
    kept_file(&disk);
    let again = run(&["compact", "--punch"], &[&disk]).ok();
    assert!(again.out.contains("nothing to punch"), "{}", again.out);

    // The blocks of zeros that nobody's free map speaks of are found by reading.
    // That files must be marked first is so on Windows alone.
    let full = ["compact", "--punch=only", "--make-sparse", "--mode", "full"];
    let full = run(&full, &[&disk]).ok();
    assert!(full.out.contains("became holes"), "{}", full.out);
    let also = run(&["compact", "--punch=also", "--verify"], &[&disk]).ok();
    assert!(also.out.contains("won "), "{}", also.out);
    assert!(fs::metadata(&disk).unwrap().len() < before.len() / 2);
    kept_file(&disk);
    let wrong = run(&["compact", "--punch=never"], &[&disk]);
    assert_eq!(wrong.code, 2, "{}", wrong.err);
    let wrong = run(&["compact", "--make-sparse"], &[&disk]);
    assert!(wrong.code == 2 && wrong.err.contains("--punch"), "{}", wrong.err);
}

#[test]
fn a_compacted_copy_leaves_the_image_alone() {
    let test = "a_compacted_copy_leaves_the_image_alone";
    let scratch = Scratch::new(test);
    let Some(disk) = image(test, &scratch) else { return };
    let before = (fs::read(&disk).unwrap(), fs::metadata(&disk).unwrap());
    let new = scratch.path("small.vhd");
    let path = new.to_str().unwrap();
    let planned = run(&["compact", "-n", "--json", "--output", path], &[&disk]);
    let planned = planned.ok().object();
    assert_eq!(planned["outcome"], "planned");
    assert!(!new.exists());
    let told = run(&["compact", "--verify", "-o", path], &[&disk]).ok();
    assert!(told.out.contains("copied into"), "{}", told.out);
    assert_eq!(planned["file_size"], fs::metadata(&new).unwrap().len());
    kept_file(&new);
    let after = fs::metadata(&disk).unwrap();
    assert!(fs::read(&disk).unwrap() == before.0, "the image changed");
    assert_eq!(after.modified().unwrap(), before.1.modified().unwrap());

    // In place it gets no smaller.
    let copied = copy(&disk, "copy.vhd");
    run(&["compact"], &[&copied]).ok();
    let (in_place, new_len) = (fs::metadata(&copied).unwrap(), fs::metadata(&new));
    assert!(new_len.unwrap().len() <= in_place.len() + 8192);

    assert_eq!(run(&["compact", "-o", path], &[&disk]).code, 2, "it exists");
    fs::remove_file(&new).unwrap();
    assert_eq!(run(&["compact", "-o", path], &[&disk, &copied]).code, 2);
    assert_eq!(run(&["compact", "--punch", "-o", path], &[&disk]).code, 2);
    assert!(!new.exists());
    let help = slimdisk().args(["compact", "--help"]).output().unwrap();
    // However its lines are broken.
    let help = String::from_utf8(help.stdout).unwrap();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for word in ["--output <NEW>", "--punch[=<WHAT>]", "Hyper-V and WSL"] {
        assert!(help.contains(word), "{word}:\n{help}");
    }
}
