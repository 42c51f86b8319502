//! Each code of `GetHardDisk` and of the creates, from the situation that it stands for.

use std::fs;
use std::path::Path;

use crate::images;
use crate::situation::{Nbd, Operation, Volume, text};
use crate::support::Scratch;

/// The rules for a path, as the first argument of `name`; `rest` comes behind it.
fn path_codes(operation: &Operation, name: &str, scratch: &Scratch, rest: &[&str]) {
    let try_path = |code: &str, path: &str| {
        let mut arguments = vec![path];
        arguments.extend(rest);
        operation.answers(code, name, &arguments);
    };
    let folder = scratch.dir().display().to_string();
    for character in ["*", "?", "<", ">", "|", "\"", ":", "\\"] {
        try_path("E_INVALID_NAME", &format!("{folder}/a{character}b.vhd"));
        try_path("E_INVALID_NAME", &format!("{folder}/a{character}b/c.vhd"));
    }
    let room = 259 - folder.len() - 1;
    try_path("E_BUFFER_OVERFLOW", &format!("{folder}/{}", "n".repeat(room + 1)));
    try_path("E_POINTER", "NULL");
    if name != "differencing" {
        try_path("E_BAD_PATHNAME", "relative.vhd");
    }
    try_path("E_BAD_PATHNAME", "");
    let file = scratch.path("file");
    fs::write(&file, b"here").unwrap();
    if name != "open" {
        try_path("E_ALREADY_EXISTS", text(&file));
    }
    if name != "hostdrive" {
        try_path("E_PATH_NOT_FOUND", &format!("{folder}/file/deeper/new.vhd"));
    }
    assert_eq!(fs::read(&file).unwrap(), b"here");
}

#[test]
fn get_hard_disk() {
    let Some(operation) = Operation::new("create::get_hard_disk") else { return };
    let scratch = Scratch::new("capi-open");
    path_codes(&operation, "open", &scratch, &[]);
    let disk = scratch.path("text.vhd");
    let nowhere = scratch.path("no/disk.vhd");
    operation.answers("E_FILE_NOT_FOUND", "open", &[text(&disk)]);
    operation.answers("E_PATH_NOT_FOUND", "open", &[text(&nowhere)]);
    operation.answers("E_FILE_NOT_FOUND", "open", &[text(scratch.dir())]);
    // What is in it is not looked at.
    images::text_file(&disk);
    operation.answers("S_OK", "open", &[text(&disk)]);
}

fn sized(name: &str) {
    let test = &format!("create::{name}");
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new(&format!("capi-create-{name}"));
    path_codes(&operation, name, &scratch, &["8"]);
    let new = scratch.path("made/too/new.vhd");
    let size = |code: &str, size: &str| {
        operation.answers(code, name, &[text(&new), size]);
    };
    for none in ["0", "-1", "-2147483648"] {
        size("E_INVALIDARG", none);
    }
    for small in ["1", "2"] {
        size("VM_E_IMAGE_SIZE_TOO_SMALL", small);
    }
    for large in ["2088961", "2147483647"] {
        size("VM_E_IMAGE_SIZE_TOO_LARGE", large);
    }
    assert!(!new.exists());
    // The folders are made.
    size("S_OK", "3");
    assert!(new.exists());
    size("E_ALREADY_EXISTS", "3");
}

#[test]
fn dynamic() {
    sized("dynamic");
}

#[test]
fn fixed() {
    sized("fixed");
}

#[test]
fn differencing() {
    let test = "create::differencing";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-create-differencing");
    let parent = scratch.path("parent.vhd");
    images::dynamic(&parent, 3, &[1]);
    path_codes(&operation, "differencing", &scratch, &[text(&parent)]);
    let new = scratch.path("new.vhd");
    let create = |code: &str, path: &str, parent: &str| {
        operation.answers(code, "differencing", &[path, parent]);
    };
    create("E_BAD_PATHNAME", "new.vhd", "parent.vhd");
    create("E_BAD_PATHNAME", text(&new), "");
    create("E_POINTER", text(&new), "NULL");
    create("E_INVALID_NAME", text(&new), &format!("{}/a?b.vhd", scratch.dir().display()));
    create("E_FILE_NOT_FOUND", text(&new), text(&scratch.path("none.vhd")));
    create("E_PATH_NOT_FOUND", text(&new), text(&scratch.path("no/none.vhd")));
    let wrong = scratch.path("text.vhd");
    images::text_file(&wrong);
    create("VM_E_INVALID_HD_FILE", text(&new), text(&wrong));
    if let Some(nbd) = Nbd::of(test, &scratch, &parent) {
        create("E_SHARING_VIOLATION", text(&new), text(&parent));
        drop(nbd);
    }
    assert!(!new.exists());
    create("S_OK", "new.vhd", text(&parent));
    let second = scratch.path("second.vhd");
    create("S_OK", text(&second), "new.vhd");
    assert!(new.exists() && second.exists());
}

#[test]
fn host_drive() {
    let Some(operation) = Operation::new("create::host_drive") else { return };
    let scratch = Scratch::new("capi-create-drive");
    path_codes(&operation, "hostdrive", &scratch, &["C:"]);
    let new = scratch.path("new.vhd");
    operation.answers("E_POINTER", "hostdrive", &[text(&new), "NULL"]);
    operation.answers("E_NOTIMPL", "hostdrive", &[text(&new), "C:"]);
    assert!(!new.exists());
}

#[test]
fn floppy() {
    let Some(operation) = Operation::new("create::floppy") else { return };
    let scratch = Scratch::new("capi-create-floppy");
    path_codes(&operation, "floppy", &scratch, &["1"]);
    for number in ["0", "3", "4", "5", "6", "-1"] {
        let new = scratch.path("new.vfd");
        operation.answers("E_INVALIDARG", "floppy", &[text(&new), number]);
        assert!(!new.exists());
    }
    for (number, length) in [("1", 720 << 10), ("2", 1440 << 10)] {
        let new = scratch.path(&format!("made/{number}.vfd"));
        operation.answers("S_OK", "floppy", &[text(&new), number]);
        assert!(fs::read(&new).unwrap() == vec![0; length]);
    }
}

#[test]
fn e_disk_full_on_a_small_volume() {
    let test = "create::e_disk_full_on_a_small_volume";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-create-full");
    let parent = scratch.path("parent.vhd");
    images::dynamic(&parent, 3, &[1]);
    let Some(volume) = Volume::tmpfs(test, &scratch, "10m") else { return };
    let new = volume.path("new.vhd");
    operation.answers("E_DISK_FULL", "fixed", &[text(&new), "64"]);
    // With 8 MB free, a dynamic one can be made.
    operation.answers("S_OK", "dynamic", &[text(&volume.path("dynamic.vhd")), "64"]);
    fs::write(volume.path("some"), vec![1; 3 << 20]).unwrap();
    operation.answers("E_DISK_FULL", "dynamic", &[text(&new), "64"]);
    operation.answers("E_DISK_FULL", "differencing", &[text(&new), text(&parent)]);
    volume.fill();
    operation.answers("E_DISK_FULL", "floppy", &[text(&new), "2"]);
    assert!(!new.exists());
    assert_eq!(fs::read_dir(volume.path(".")).unwrap().count(), 3, "something was left");
}

#[test]
fn vm_e_file_too_large_for_volume() {
    let test = "create::vm_e_file_too_large_for_volume";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-create-large");
    let Some(volume) = Volume::ext2(test, &scratch) else { return };
    let new = volume.path("new.vhd");
    for name in ["fixed", "dynamic"] {
        let arguments = [text(&new), "17408"];
        operation.answers("VM_E_FILE_TOO_LARGE_FOR_VOLUME", name, &arguments);
        assert!(!new.exists());
    }
    operation.answers("S_OK", "dynamic", &[text(&new), "100"]);
}

/// But not of a floppy disk: it is all zeros, which need not be written.
#[test]
fn disp_e_exception_if_the_medium_cannot_be_written() {
    let test = "create::disp_e_exception_if_the_medium_cannot_be_written";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-create-io");
    let parent = scratch.path("parent.vhd");
    images::dynamic(&parent, 3, &[1]);
    let Some(volume) = Volume::failing_to_write(test, &scratch) else { return };
    let gone = |path: &Path| assert!(!path.exists(), "{}", path.display());
    for name in ["fixed", "dynamic"] {
        let new = volume.path(name);
        operation.answers("task:DISP_E_EXCEPTION", name, &[text(&new), "16"]);
        gone(&new);
    }
    let new = volume.path("child");
    let arguments = [text(&new), text(&parent)];
    operation.answers("task:DISP_E_EXCEPTION", "differencing", &arguments);
    gone(&new);
}
