//! What people read: the reports name what matters, and nothing steers the
//! terminal.

use crate::command::{image, run, slimdisk};
use crate::support::{Scratch, have, sh};

#[test]
fn plan_and_compact_say_what_is_won_and_where_the_rest_is() {
    let test = "plan_and_compact_say_what_is_won_and_where_the_rest_is";
    let scratch = Scratch::new("human-report");
    let Some(disk) = image(test, &scratch) else { return };
    let report = run(&["plan", "--json"], &[&disk]).ok().object();
    let before = report["file_size_before"].as_u64().unwrap();
    let after = report["file_size_after"].as_u64().unwrap();

    let plan = run(&["plan"], &[&disk]).ok();
    let name = disk.display().to_string();
    assert!(plan.out.starts_with(&format!("{name}: compact would win ")), "{}", plan.out);
    assert_eq!(plan.err, "", "a short run says nothing on stderr");
    for word in [
        "now ",
        "then ",
        "to win ",
        "in use by the volumes",
        "headers and tables of the image",
        "whole disk  ext4        slim   64 MiB",
        " trusted",
        "It took ",
    ] {
        assert!(plan.out.contains(word), "{word:?} is missing:\n{}", plan.out);
    }
    let exact = run(&["plan", "-v"], &[&disk]).ok().out;
    for bytes in [before, after] {
        let grouped = format!(
            "{},{:03},{:03} bytes",
            bytes / 1_000_000,
            bytes / 1000 % 1000,
            bytes % 1000
        );
        assert!(exact.contains(&grouped), "{grouped} is missing:\n{exact}");
    }

    let compact = run(&["compact", "--verify"], &[&disk]).ok();
    for word in [": won ", "before ", "after ", "Verified: ", "flushes"] {
        assert!(compact.out.contains(word), "{word:?} is missing:\n{}", compact.out);
    }
    let again = run(&["compact"], &[&disk]).ok();
    assert!(again.out.contains(": nothing to win: all "), "{}", again.out);
    assert!(again.out.contains("in use by the volumes"), "{}", again.out);

    let quiet = run(&["compact", "-q"], &[&disk]).ok();
    assert_eq!((quiet.out.as_str(), quiet.err.as_str()), ("", ""));
}

#[test]
fn an_untrusted_volume_is_named_with_its_reason() {
    let test = "an_untrusted_volume_is_named_with_its_reason";
    let scratch = Scratch::new("human-untrusted");
    let Some(disk) = image(test, &scratch) else { return };
    // A feature that nobody knows.
    sh(&format!(
        "cd {}; debugfs -w -R 'feature FEATURE_I31' raw >/dev/null 2>&1 || true
         qemu-img convert -O vpc -o subformat=dynamic,force_size=on raw dirty.vhd",
        scratch.dir().display()
    ));
    let dirty = disk.with_file_name("dirty.vhd");
    let report = run(&["plan", "--json"], &[&dirty]).ok().object();
    assert_eq!(report["volumes"][0]["state"], "untrusted", "{report:#}");
    let reason = report["volumes"][0]["reason"].as_str().unwrap();
    let text = run(&["plan"], &[&dirty]).ok().out.replace("\n ", " ");
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words(&text).contains(&words(reason)), "{reason} is missing:\n{text}");
    assert!(text.contains("not trusted"), "{text}");
    assert!(text.contains("To win more"), "{text}");
}

#[test]
fn logical_volumes_are_shown_by_name() {
    let test = "logical_volumes_are_shown_by_name";
    if !have(test, &["pvcreate", "losetup", "mke2fs", "qemu-img"]) {
        return;
    }
    let scratch = Scratch::new("human-lvm");
    sh(&format!(
        "cd {}; truncate -s 48M raw; mkdir etc
         disk=$(losetup -f --show raw)
         trap 'losetup -d $disk' EXIT
         export LVM_SYSTEM_DIR=$PWD/etc
         echo \"devices {{ use_devicesfile=0 scan=[\\\"/dev\\\"] hints=\\\"none\\\"
           filter=[\\\"a|^$disk\\$|\\\", \\\"r|.*|\\\"]
           global_filter=[\\\"a|^$disk\\$|\\\", \\\"r|.*|\\\"] }}
           global {{ locking_dir=\\\"$PWD/etc\\\" }} activation {{ udev_sync=0 udev_rules=0 }}
           backup {{ backup=0 archive=0 }}\" > etc/lvm.conf
         {{ lvm pvcreate --driverloaded n $disk
            lvm vgcreate --driverloaded n vg0 $disk
            for lv in root empty; do
                lvm lvcreate --driverloaded n -an -Zn -Wn -y -n $lv -L 16M vg0
            done
         }} >/dev/null 2>&1
         mke2fs -q -F -t ext4 -L slim root 16m
         sync
         dd if=root of=raw bs=1M seek=1 conv=notrunc status=none
         qemu-img convert -O vpc -o subformat=dynamic,force_size=on raw disk.vhd",
        scratch.dir().display()
    ));
    let disk = scratch.path("disk.vhd");
    let info = run(&["info"], &[&disk]).ok().out;
    for line in [
        "partition  logical volume  filesystem  label    size",
        "  whole disk                  LVM2        vg0    48 MiB",
        "  whole disk  vg0/root        ext4        slim   16 MiB",
        "  whole disk  vg0/empty       -           -      16 MiB",
        "  vg0/empty: no file system was recognised",
    ] {
        assert!(info.contains(line), "{line:?} is missing:\n{info}");
    }
    let volumes = run(&["info", "--json"], &[&disk]).ok().object()["volumes"].take();
    let names: Vec<_> = (0..3).map(|n| volumes[n]["logical_volume"].as_str()).collect();
    assert_eq!(names, [None, Some("vg0/root"), Some("vg0/empty")]);
}

#[test]
fn info_tells_what_it_is() {
    let test = "info_tells_what_it_is";
    let scratch = Scratch::new("human-info");
    let Some(disk) = image(test, &scratch) else { return };
    let info = run(&["info"], &[&disk]).ok().out;
    for word in [
        "vhd, dynamically expanding",
        "virtual size  64 MiB",
        "block size    2 MiB",
        " of 32 allocated (",
        "creator",
        "ext4",
    ] {
        assert!(info.contains(word), "{word:?} is missing:\n{info}");
    }
}

#[test]
fn a_differencing_image_needs_its_parent() {
    let test = "a_differencing_image_needs_its_parent";
    let Some(samples) = crate::support::samples() else {
        crate::support::skip(test, "the folder of samples");
        return;
    };
    if !have(test, &["zstd"]) {
        return;
    }
    let scratch = Scratch::new("human-differencing");
    let sample = samples.join("ntfs-differential.vhd.zst");
    let disk = scratch.path("child.vhd");
    sh(&format!("zstd -dqf {0} -o {1}; chmod u+w {1}", sample.display(), disk.display()));
    let info = run(&["info"], &[&disk]).ok().out;
    assert!(info.contains("differencing"), "{info}");
    assert!(info.contains("cannot be read without its"), "{info}");
    let json = run(&["info", "--json"], &[&disk]).ok().object();
    assert!(json["not_surveyed"].is_string() && json["volumes"].is_null(), "{json:#}");
    for command in ["plan", "map", "compact"] {
        let ran = run(&[command], &[&disk]);
        assert_eq!(ran.code, 8, "{command}");
        assert!(ran.err.contains("--parent-dir"), "{}", ran.err);
    }
    // Its parent's folder is named.
    let sample = samples.join("ntfs-parent.vhd.zst");
    let dir = scratch.path("parents");
    std::fs::create_dir(&dir).unwrap();
    let parent = dir.join("ntfs-parent.vhd");
    sh(&format!("zstd -dqf {} -o {}", sample.display(), parent.display()));
    let dir = format!("--parent-dir={}", dir.display());
    let info = run(&["info", &dir], &[&disk]).ok().out;
    for word in ["Parents", "ntfs-parent.vhd", "locator W2ru", "TestVolume", "trusted"] {
        assert!(info.contains(word), "{word:?} is missing:\n{info}");
    }
    let json = run(&["info", "--json", &dir], &[&disk]).ok().object();
    assert_eq!(json["parents"][0]["type"], "fixed", "{json:#}");
    assert!(json["not_surveyed"].is_null() && json["volumes"].is_array(), "{json:#}");
    let json = run(&["map", "--json", &dir], &[&disk]).ok().object();
    assert_eq!(json["blocks"]["used"], 2, "{json:#}");
    assert_eq!(json["blocks"]["parent"], 0, "{json:#}");
    let json = run(&["plan", "--json", &dir], &[&disk]).ok().object();
    assert!(json["kept"]["inherited"].as_u64().unwrap() > 3 << 20, "{json:#}");
    assert!(json["parents"][0]["path"].as_str().unwrap().ends_with("ntfs-parent.vhd"));
    run(&["compact", "--verify", &dir], &[&disk]).ok();
    // And the parent knows its child.
    std::fs::rename(&parent, scratch.path("ntfs-parent.vhd")).unwrap();
    let info = run(&["info"], &[&scratch.path("ntfs-parent.vhd")]).ok().out;
    assert!(info.contains("child ") && info.contains("child.vhd"), "{info}");
    let json =
        run(&["info", "--json"], &[&scratch.path("ntfs-parent.vhd")]).ok().object();
    assert_eq!(json["children"].as_array().unwrap().len(), 1, "{json:#}");
}

#[test]
fn pipes_and_no_color_get_no_escape_codes() {
    let test = "pipes_and_no_color_get_no_escape_codes";
    let scratch = Scratch::new("human-color");
    let Some(disk) = image(test, &scratch) else { return };
    let missing = scratch.path("missing.vhd");
    for command in ["info", "plan", "map", "check"] {
        let ran = run(&[command], &[&disk]).ok();
        assert!(!ran.out.contains('\x1b') && !ran.err.contains('\x1b'), "{command}");
        let ran = run(&["--color", "always", command], &[&disk]).ok();
        assert!(ran.out.contains("\x1b["), "{command} has no colours at all");
        assert!(!run(&[command], &[&missing]).err.contains('\x1b'));
    }
    if !have(test, &["script"]) {
        return;
    }
    // On a terminal: colours, but for NO_COLOR.
    let on_terminal = |no_color: &str| {
        let line = format!("{} check {}", env!("CARGO_BIN_EXE_slimdisk"), disk.display());
        let output = std::process::Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env("TERM", "xterm")
            .env("NO_COLOR", no_color)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(on_terminal("").contains("\x1b[1m"), "{}", on_terminal(""));
    assert!(!on_terminal("1").contains('\x1b'));
}

#[test]
fn a_hostile_label_does_not_steer_the_terminal() {
    let test = "a_hostile_label_does_not_steer_the_terminal";
    let scratch = Scratch::new("human-label");
    let Some(disk) = image(test, &scratch) else { return };
    sh(&format!(
        "cd {}; tune2fs -L $'\\e[31mx\\ny' raw >/dev/null
         qemu-img convert -O vpc -o subformat=dynamic,force_size=on raw label.vhd",
        scratch.dir().display()
    ));
    let disk = disk.with_file_name("label.vhd");
    for command in ["info", "plan"] {
        let out = slimdisk().arg(command).arg(&disk).output().unwrap().stdout;
        let out = String::from_utf8(out).unwrap();
        assert!(!out.contains('\x1b'), "{out}");
        assert!(out.contains(r"\u{1b}[31mx\u{a}y"), "{out}");
    }
}
