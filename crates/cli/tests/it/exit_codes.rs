//! An exit code for each class of trouble that can be provoked.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::command::{allocate_zeros, copy, image, kept_file, run, slimdisk};
use crate::support::{Scratch, have, sh};

#[test]
fn usage_is_2() {
    for args in [
        &["compact"][..],
        &["frobnicate"],
        &["compact", "--mode", "none", "x"],
        &["plan", "-q", "-v", "x"],
        &["map", "--force", "x"],
    ] {
        let ran = run(args, &[]);
        assert_eq!(ran.code, 2, "{args:?}");
        assert_eq!(ran.out, "", "{args:?}");
        assert!(ran.err.contains("error: "), "{}", ran.err);
    }
    let ran = run(&[], &[]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("Usage: slimdisk"), "help without an argument: {}", ran.err);
}

#[test]
fn garbage_is_3_and_a_missing_file_5() {
    let scratch = Scratch::new("exit-garbage");
    let garbage = scratch.path("garbage.vhd");
    std::fs::write(&garbage, vec![0x5A; 100_000]).unwrap();
    let empty = scratch.path("empty.vhd");
    std::fs::write(&empty, b"").unwrap();
    let missing = scratch.path("missing.vhd");
    let nowhere = scratch.path("no/folder.vhd");
    for command in ["info", "plan", "map", "compact", "check"] {
        for (path, code) in [(&garbage, 3), (&empty, 3), (&missing, 5), (&nowhere, 5)] {
            let ran = run(&[command], &[path]);
            assert_eq!(ran.code, code, "{command} {}: {}", path.display(), ran.err);
            assert_eq!(ran.out, "", "{command} {}", path.display());
            let name = path.to_str().unwrap();
            assert!(ran.err.starts_with(&format!("error: {name}")), "{}", ran.err);
        }
    }
    assert_eq!(std::fs::read(&garbage).unwrap(), vec![0x5A; 100_000]);
}

#[test]
fn a_fixed_image_is_4_and_info_still_tells_about_it() {
    let test = "a_fixed_image_is_4_and_info_still_tells_about_it";
    if !have(test, &["qemu-img"]) {
        return;
    }
    let scratch = Scratch::new("exit-fixed");
    let disk = scratch.path("fixed.vhd");
    sh(&format!(
        "qemu-img create -q -f vpc -o subformat=fixed,force_size=on {} 4M",
        disk.display()
    ));
    let before = std::fs::read(&disk).unwrap();
    for command in ["plan", "compact", "map"] {
        let ran = run(&[command], &[&disk]);
        assert_eq!(ran.code, 4, "{command}: {}", ran.err);
        assert!(ran.err.contains("hint: to make an expanding image"), "{}", ran.err);
    }
    let ran = run(&["info"], &[&disk]).ok();
    assert!(ran.out.contains("vhd, fixed"), "{}", ran.out);
    assert!(run(&["check"], &[&disk]).ok().out.contains("sound"));
    assert!(std::fs::read(&disk).unwrap() == before);
}

#[cfg(target_os = "linux")]
#[test]
fn a_large_fixed_image_is_surveyed_in_little_memory() {
    let test = "a_large_fixed_image_is_surveyed_in_little_memory";
    if !have(test, &["qemu-img", "mke2fs"]) {
        return;
    }
    let scratch = Scratch::new("exit-large-fixed");
    sh(&format!(
        "cd {}
         truncate -s 4G raw
         mke2fs -q -F -t ext4 -L large raw
         qemu-img convert -O vpc -o subformat=fixed,force_size=on raw fixed.vhd
         ulimit -v 1000000
         {1} info fixed.vhd | grep -q '  ext4  *large  *4 GiB .* trusted'
         for mode in quick full prezeroed; do
             {1} map --drop-unpartitioned --mode $mode fixed.vhd || [ $? = 4 ]
         done",
        scratch.dir().display(),
        env!("CARGO_BIN_EXE_slimdisk")
    ));
}

#[cfg(unix)]
#[test]
fn a_read_only_file_is_6_for_compact_alone() {
    use std::os::unix::fs::PermissionsExt;
    let test = "a_read_only_file_is_6_for_compact_alone";
    let scratch = Scratch::new("exit-read-only");
    let Some(disk) = image(test, &scratch) else { return };
    std::fs::set_permissions(&disk, PermissionsExt::from_mode(0o444)).unwrap();
    let before = std::fs::read(&disk).unwrap();
    for command in ["info", "plan", "map", "check"] {
        run(&[command], &[&disk]).ok();
    }
    let ran = run(&["compact"], &[&disk]);
    assert_eq!(ran.code, 6, "{}", ran.err);
    assert!(ran.err.contains("hint: "), "{}", ran.err);
    assert!(std::fs::read(&disk).unwrap() == before);
}

#[test]
fn an_image_in_use_is_75_and_left_alone() {
    let test = "an_image_in_use_is_75_and_left_alone";
    let scratch = Scratch::new("exit-in-use");
    let Some(disk) = image(test, &scratch) else { return };
    if !have(test, &["python3"]) {
        return;
    }
    let before = std::fs::read(&disk).unwrap();
    let script = "import fcntl, sys\n\
                  f = open(sys.argv[1], 'r+b')\n\
                  fcntl.flock(f, fcntl.LOCK_EX)\n\
                  print('held', flush=True)\n\
                  sys.stdin.read()";
    let mut holder = Command::new("python3")
        .args(["-c", script])
        .arg(&disk)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    let ran = run(&["compact"], &[&disk]);
    assert_eq!(ran.code, 75, "{}", ran.err);
    assert!(ran.err.contains("hint: shut the virtual machine down"), "{}", ran.err);
    let ran = run(&["compact", "--json"], &[&disk]);
    assert_eq!(ran.object()["error"]["kind"], "InUse");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert!(std::fs::read(&disk).unwrap() == before);
    run(&["compact"], &[&disk]).ok();
    kept_file(&disk);
}

#[test]
fn first_failure_counts_and_the_others_are_done() {
    let test = "first_failure_counts_and_the_others_are_done";
    let scratch = Scratch::new("exit-several");
    let Some(disk) = image(test, &scratch) else { return };
    let other = copy(&disk, "other.vhd");
    let garbage = scratch.path("garbage.vhd");
    std::fs::write(&garbage, vec![1; 4096]).unwrap();
    let missing = scratch.path("missing.vhd");
    let ran = run(&["compact"], &[&disk, &garbage, &missing, &other]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert_eq!(ran.err.matches("error: ").count(), 2, "{}", ran.err);
    for done in [&disk, &other] {
        assert!(ran.out.contains(&format!("{}: won ", done.display())), "{}", ran.out);
        kept_file(done);
    }
    let ran = run(&["compact"], &[&missing, &garbage]);
    assert_eq!(ran.code, 5);
}

#[test]
fn a_damaged_copy_is_3_until_it_is_repaired() {
    let test = "a_damaged_copy_is_3_until_it_is_repaired";
    let scratch = Scratch::new("exit-repair");
    let Some(disk) = image(test, &scratch) else { return };
    let sound = std::fs::read(&disk).unwrap();
    let mut damaged = sound.clone();
    // The copy of the footer at the file's start: a reserved byte and so its
    // checksum.
    damaged[200] ^= 0xFF;
    std::fs::write(&disk, &damaged).unwrap();
    let ran = run(&["check"], &[&disk]);
    assert_eq!(ran.code, 3, "{}", ran.out);
    assert!(ran.out.contains("damaged"), "{}", ran.out);
    assert!(ran.err.contains("hint: --repair mends"), "{}", ran.err);
    let ran = run(&["check", "--json"], &[&disk]);
    assert_eq!(ran.code, 3);
    let check = ran.object();
    assert_eq!(check["sound"], false);
    let finding = &check["findings"][0];
    for field in ["severity", "structure", "expected", "actual"] {
        assert!(finding[field].is_string(), "{field}: {check:#}");
    }
    assert!(finding["offset"].is_u64());
    assert!(std::fs::read(&disk).unwrap() == damaged, "check without --repair writes");

    let ran = run(&["check", "--repair"], &[&disk]).ok();
    assert!(ran.out.contains("repaired: "), "{}", ran.out);
    assert!(std::fs::read(&disk).unwrap() == sound);
    let ran = run(&["check", "--repair"], &[&disk]).ok();
    assert!(ran.out.contains("nothing that can be repaired"), "{}", ran.out);
}

#[test]
fn an_unsound_image_is_3_and_stays_as_it_is() {
    let test = "an_unsound_image_is_3_and_stays_as_it_is";
    let scratch = Scratch::new("exit-unsound");
    let Some(disk) = image(test, &scratch) else { return };
    allocate_zeros(&disk, 1);
    let mut bytes = std::fs::read(&disk).unwrap();
    let table =
        u64::from_be_bytes(bytes[512 + 16..512 + 24].try_into().unwrap()) as usize;
    // Two blocks in one place.
    let first: [u8; 4] = bytes[table..table + 4].try_into().unwrap();
    assert_ne!(first, [0xFF; 4]);
    bytes[table + 4..table + 8].copy_from_slice(&first);
    std::fs::write(&disk, &bytes).unwrap();
    let ran = run(&["check"], &[&disk]);
    assert_eq!(ran.code, 3);
    assert!(ran.out.contains("not sound"), "{}", ran.out);
    let ran = run(&["compact"], &[&disk]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains("slimdisk check"), "{}", ran.err);
    assert!(std::fs::read(&disk).unwrap() == bytes);
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let test = "a_reader_that_goes_away_is_no_panic";
    let scratch = Scratch::new("exit-pipe");
    let Some(disk) = image(test, &scratch) else { return };
    let path = disk.as_os_str();
    for args in [
        vec!["plan".as_ref(), path, path, path],
        vec!["map".as_ref(), path],
        vec!["completions".as_ref(), "bash".as_ref()],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = slimdisk().args(&args).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(!err.contains("panicked"), "{err}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_report_that_cannot_be_written_is_a_failure() {
    let test = "a_report_that_cannot_be_written_is_a_failure";
    let scratch = Scratch::new("exit-full");
    let Some(disk) = image(test, &scratch) else { return };
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = slimdisk().arg("plan").arg(&disk).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.contains("cannot write to standard output"), "{err}");
}
