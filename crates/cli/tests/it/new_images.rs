//! `create`, `convert` and `merge`: new images, and a child into its parent.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::{Ran, image, run, slimdisk};
use crate::support::{Noise, Scratch, have, sh};

/// Runs the command in `dir`.
fn run_in(dir: &Path, command: &str) -> Ran {
    let words = command.split_whitespace();
    slimdisk().current_dir(dir).args(words).output().unwrap().into()
}

/// The names in a folder.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_disk_is_made_as_asked_for() {
    let test = "a_disk_is_made_as_asked_for";
    if !have(test, &["qemu-img"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let dir = scratch.dir();
    let planned = run_in(dir, "create -n a.vhd --size 40G").ok();
    assert!(planned.out.contains("would be made"), "{}", planned.out);
    assert!(names(dir).is_empty());
    let made = run_in(dir, "create a.vhd --size 40G").ok();
    assert!(
        made.out.contains(
            "a.vhd: made: dynamically expanding disk of 40 GiB in blocks of 2 MiB, file"
        ),
        "{}",
        made.out
    );
    let fixed = run_in(dir, "create b.vhd --size 8M --fixed --json").ok().object();
    assert_eq!(fixed["outcome"], "created");
    assert_eq!(fixed["type"], "fixed");
    assert_eq!(fixed["virtual_size"], 8 << 20);
    assert_eq!(fixed["file_size"], (8 << 20) + 512);
    run_in(dir, "create c.vhd --size 64M --block-size 512K").ok();
    let child = run_in(dir, "create sub/child.vhd --parent a.vhd --json").ok().object();
    assert_eq!(child["type"], "differencing");
    assert_eq!(child["virtual_size"], 40_u64 << 30);
    for (name, size) in [("a.vhd", 40_u64 << 30), ("b.vhd", 8 << 20), ("c.vhd", 64 << 20)]
    {
        let info = sh(&format!(
            "cd {}; qemu-img info -f vpc --output=json {name}",
            dir.display()
        ));
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        assert_eq!(info["virtual-size"], size, "{name}");
        run(&["check", "-q"], &[&dir.join(name)]).ok();
    }
    let info = run_in(dir, "info sub/child.vhd --parent-dir .").ok();
    assert!(info.out.contains("a.vhd"), "{}", info.out);
    // Nothing is replaced, and nothing is made of nonsense.
    let before = fs::read(dir.join("a.vhd")).unwrap();
    for (command, code) in [
        ("create a.vhd --size 3M", 2),
        ("create d.vhd", 2),
        ("create d.vhd --size 1K", 2),
        ("create d.vhd --size 3T", 2),
        ("create d.vhd --size 3M --parent a.vhd", 2),
        ("create d.vhd --parent a.vhd --fixed", 2),
        ("create d.vhd --size 64M --block-size 3M", 2),
        ("create d.vhd --parent none.vhd", 5),
    ] {
        let ran = run_in(dir, command);
        assert_eq!(ran.code, code, "{command}: {}", ran.err);
        assert!(ran.err.starts_with("error: "), "{command}: {}", ran.err);
    }
    assert!(fs::read(dir.join("a.vhd")).unwrap() == before);
    assert_eq!(names(dir), ["a.vhd", "b.vhd", "c.vhd", "sub"]);
    assert_eq!(names(&dir.join("sub")), ["child.vhd"]);
}

#[test]
fn a_disk_is_copied_with_or_without_its_free_space() {
    let test = "a_disk_is_copied_with_or_without_its_free_space";
    let scratch = Scratch::new(test);
    let Some(disk) = image(test, &scratch) else { return };
    let dir = scratch.dir();
    let before = fs::read(&disk).unwrap();
    let kept = crate::command::kept_file(&disk);
    for (number, options) in
        ["", "--type fixed", "--leave-out-free", "--leave-out-free --type fixed"]
            .into_iter()
            .enumerate()
    {
        let new = format!("new{number}.vhd");
        let command = format!("convert disk.vhd {new} --json {options}");
        let plan = run_in(dir, &format!("{command} --dry-run")).ok().object();
        assert_eq!(plan["outcome"], "planned");
        assert!(!dir.join(&new).exists());
        let report = run_in(dir, &format!("{command} --verify")).ok().object();
        assert_eq!(report["outcome"], "converted");
        assert!(report["verified"].is_string(), "{report:#}");
        assert_eq!(report["file_size"], plan["file_size"], "{options}");
        assert_eq!(report["blocks"], plan["blocks"], "{options}");
        let len = fs::metadata(dir.join(&new)).unwrap().len();
        assert_eq!(report["file_size"], len);
        run(&["check", "-q"], &[&dir.join(&new)]).ok();
        let same = sh(&format!(
            "cd {}; qemu-img compare -f vpc -F vpc disk.vhd {new} || true",
            dir.display()
        ));
        assert_eq!(same.contains("identical"), !options.contains("leave"), "{same}");
        assert!(crate::command::kept_file(&dir.join(&new)) == kept, "{options}");
    }
    let len = |name: &str| fs::metadata(dir.join(name)).unwrap().len();
    assert!(len("new2.vhd") + (15 << 20) < len("new0.vhd"));
    assert!(len("new0.vhd") < len("disk.vhd"), "zeros were written");
    assert!(fs::read(&disk).unwrap() == before);
    let text = run_in(dir, "convert disk.vhd again.vhd --leave-out-free").ok().out;
    for part in
        ["copied into again.vhd", "left out: free space", "left out: zeros", "ext4"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    for (command, code) in [
        ("convert disk.vhd new0.vhd", 2),
        ("convert disk.vhd disk.vhd", 2),
        ("convert none.vhd new.vhd", 5),
        ("convert disk.vhd no/such/new.vhd", 5),
        ("convert disk.vhd new.vhd --drop-swap", 2),
    ] {
        let ran = run_in(dir, command);
        assert_eq!(ran.code, code, "{command}: {}", ran.err);
    }
    assert!(!dir.join("new.vhd").exists());
}

/// A dynamic base with noise and a child of it that holds other noise.
fn chain(scratch: &Scratch) -> PathBuf {
    let dir = scratch.dir();
    let mut noise = Noise::new(9);
    let base = noise.bytes(24 << 20);
    fs::write(scratch.path("raw"), &base).unwrap();
    sh(&format!(
        "cd {}; qemu-img convert -O vpc -o subformat=dynamic,force_size=on raw base.vhd",
        dir.display()
    ));
    run_in(dir, "create child.vhd --parent base.vhd").ok();
    fill(&scratch.path("child.vhd"), &mut noise);
    scratch.path("child.vhd")
}

/// Gives an empty child something to hold: written by a tool of the tests'.
pub fn fill(child: &Path, noise: &mut Noise) {
    let mut file = fs::read(child).unwrap();
    let footer = file.split_off(file.len() - 512);
    let table = u64::from_be_bytes(file[528..536].try_into().unwrap()) as usize;
    for block in [1_usize, 4, 9] {
        let place = file.len();
        file[table + 4 * block..][..4]
            .copy_from_slice(&u32::try_from(place / 512).unwrap().to_be_bytes());
        let mut bitmap = [0_u8; 512];
        bitmap[..100].fill(0xA5);
        file.extend(bitmap);
        file.extend(noise.bytes(2 << 20));
    }
    file.extend(footer);
    fs::write(child, file).unwrap();
}

#[test]
fn a_child_is_merged_into_its_parent_or_into_a_new_disk() {
    let test = "a_child_is_merged_into_its_parent_or_into_a_new_disk";
    if !have(test, &["qemu-img"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let child = chain(&scratch);
    let dir = scratch.dir();
    run(&["check", "-q"], &[&child]).ok();
    let (base, own) =
        (fs::read(dir.join("base.vhd")).unwrap(), fs::read(&child).unwrap());
    let whole =
        run_in(dir, "merge child.vhd --to whole.vhd --json --verify").ok().object();
    assert_eq!(whole["outcome"], "converted");
    assert!(fs::read(dir.join("base.vhd")).unwrap() == base);
    let plan = run_in(dir, "merge child.vhd --dry-run --json").ok().object();
    assert_eq!(plan["outcome"], "planned");
    assert!(fs::read(dir.join("base.vhd")).unwrap() == base);
    // A sibling would show what is merged.
    run_in(dir, "create sibling.vhd --parent base.vhd").ok();
    let refused = run_in(dir, "merge child.vhd");
    assert_eq!(refused.code, 75, "{}", refused.err);
    assert!(refused.err.contains("sibling.vhd"), "{}", refused.err);
    let info = run_in(dir, "info base.vhd").ok().out;
    assert!(info.contains("sibling.vhd") && info.contains("child.vhd"), "{info}");
    fs::remove_file(dir.join("sibling.vhd")).unwrap();
    assert!(fs::read(dir.join("base.vhd")).unwrap() == base);

    let merged = run_in(dir, "merge child.vhd --verify").ok();
    for part in ["merged into", "base.vhd", "written into the parent", "Verified"] {
        assert!(merged.out.contains(part), "{part}: {}", merged.out);
    }
    sh(&format!(
        "cd {}; qemu-img compare -f vpc -F vpc base.vhd whole.vhd",
        dir.display()
    ));
    assert!(fs::read(&child).unwrap() == own);
    assert!(fs::read(dir.join("base.vhd")).unwrap() != base);
    // Once more finds nothing to do.
    let again = run_in(dir, "merge child.vhd --json").ok().object();
    assert_eq!(
        (&again["bytes_merged"], &again["outcome"]),
        (&0.into(), &"merged".into())
    );
    for (command, code) in [
        ("merge base.vhd", 4),
        ("merge base.vhd --to new.vhd", 4),
        ("merge none.vhd", 5),
        ("merge child.vhd --type fixed", 2),
    ] {
        assert_eq!(run_in(dir, command).code, code, "{command}");
    }
    fs::rename(dir.join("base.vhd"), dir.join("b")).unwrap();
    assert_eq!(run_in(dir, "merge child.vhd").code, 8);
    assert_eq!(run_in(dir, "merge child.vhd --to new.vhd").code, 8);
    assert!(!dir.join("new.vhd").exists());
}

/// What qemu says of an image, which it must find nothing wrong with.
fn vhdx_info(dir: &Path, name: &str) -> serde_json::Value {
    let info = sh(&format!(
        "cd {}; qemu-img check -q -f vhdx {name}
         qemu-img info -f vhdx --output=json {name}",
        dir.display()
    ));
    serde_json::from_str(&info).unwrap()
}

#[test]
fn the_name_of_a_new_image_chooses_its_format() {
    let test = "the_name_of_a_new_image_chooses_its_format";
    if !have(test, &["qemu-img"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let dir = scratch.dir();
    let made = run_in(dir, "create a.vhdx --size 40G").ok();
    assert!(
        made.out.contains("dynamically expanding disk of 40 GiB in blocks of 32 MiB"),
        "{}",
        made.out
    );
    for (command, format) in [
        ("create b.vhdx --size 3T --block-size 1M", "vhdx"),
        ("create c.vhdx --size 8M --fixed", "vhdx"),
        ("create d.img --size 8M --format vhdx", "vhdx"),
        ("create e.vhdx --size 8M --format vhd", "vhd"),
        ("create f --size 8M", "vhd"),
        ("create child.avhdx --parent a.vhdx", "vhdx"),
        ("create grandchild --parent child.avhdx", "vhdx"),
    ] {
        let report = run_in(dir, &format!("{command} --json")).ok().object();
        assert_eq!(report["format"], format, "{command}");
        let name = command.split(' ').nth(1).unwrap();
        run(&["check", "-q"], &[&dir.join(name)]).ok();
        let has_parent = command.contains("--parent");
        if format == "vhdx" && !has_parent {
            assert_eq!(vhdx_info(dir, name)["virtual-size"], report["virtual_size"]);
        }
    }
    let info = run_in(dir, "info grandchild").ok().out;
    assert!(info.contains("child.avhdx") && info.contains("a.vhdx"), "{info}");
    let before = names(dir);
    for command in [
        "create z.vhdx --size 65T",
        "create z.vhdx --size 64M --block-size 512K",
        "create z.vhdx --size 64M --block-size 512M",
        "create z.vhd --parent a.vhdx",
        "create z.vhdx --size 8M --format qcow2",
    ] {
        let ran = run_in(dir, command);
        assert!(matches!(ran.code, 2 | 4), "{command}: {} {}", ran.code, ran.err);
        assert_eq!(names(dir), before);
    }
}

/// A plan tells what smaller blocks would win, and the command that it names does it.
#[test]
fn smaller_blocks_win_what_a_plan_says() {
    let test = "smaller_blocks_win_what_a_plan_says";
    let scratch = Scratch::new(test);
    let Some(disk) = image(test, &scratch) else { return };
    let dir = scratch.dir();
    let kept = crate::command::kept_file(&disk);
    // Into blocks that pin nearly all of it, and into a VHD again.
    run_in(dir, "convert disk.vhd large.vhdx --verify").ok();
    assert_eq!(vhdx_info(dir, "large.vhdx")["cluster-size"], 32 << 20);
    let plan = run_in(dir, "plan large.vhdx --json").ok().object();
    let smaller = plan["smaller_blocks"].as_array().unwrap();
    assert_eq!(smaller.len(), 2, "{plan:#}");
    assert!(plan["pinned_bytes"].as_u64().unwrap() > 0);
    let text = run_in(dir, "plan large.vhdx").ok().out;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let command = "slimdisk convert OLD NEW --block-size 1M --leave-out-free";
    assert!(text.contains(command), "{text}");
    for (size, row) in [("1M", &smaller[0]), ("2M", &smaller[1])] {
        let command = format!(
            "convert large.vhdx s{size}.vhdx --block-size {size} --leave-out-free --json \
             --verify"
        );
        let report = run_in(dir, &command).ok().object();
        assert_eq!(report["block_size"], row["block_size"]);
        let (written, size_of) = (&report["blocks"]["written"], &row["block_size"]);
        let held = written.as_u64().unwrap() * size_of.as_u64().unwrap();
        assert!(held <= row["bytes"].as_u64().unwrap(), "{held} {row}");
        vhdx_info(dir, &format!("s{size}.vhdx"));
        run_in(dir, &format!("convert s{size}.vhdx s{size}.vhd --type fixed")).ok();
        assert!(crate::command::kept_file(&dir.join(format!("s{size}.vhd"))) == kept);
    }
    // Where nothing is pinned, or no smaller blocks are had, there is nothing to say.
    let plan = run_in(dir, "plan s1M.vhdx --json").ok().object();
    assert_eq!(plan["smaller_blocks"].as_array().unwrap().len(), 0);
    let plan = run_in(dir, "plan disk.vhd --json").ok().object();
    assert_eq!(plan["smaller_blocks"][0]["block_size"], 512 << 10);
    let text = run_in(dir, "merge disk.vhd --to new.vhdx --format vhdx");
    assert_eq!(text.code, 4, "{}", text.err);
}

#[test]
fn a_chain_is_merged_into_a_vhdx() {
    let test = "a_chain_is_merged_into_a_vhdx";
    if !have(test, &["qemu-img"]) {
        return;
    }
    let scratch = Scratch::new(test);
    chain(&scratch);
    let dir = scratch.dir();
    run_in(dir, "merge child.vhd --to whole.vhd --verify").ok();
    let report =
        run_in(dir, "merge child.vhd --to whole.vhdx --verify --json").ok().object();
    assert_eq!(report["format"], "vhdx");
    vhdx_info(dir, "whole.vhdx");
    sh(&format!(
        "cd {}; qemu-img compare -q -f vpc -F vhdx whole.vhd whole.vhdx",
        dir.display()
    ));
}
