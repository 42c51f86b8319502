//! Each code of `IVMHardDisk::Convert`, from the situation that it stands for.

use std::fs;

use crate::images;
use crate::situation::{Nbd, Operation, Volume, text};
use crate::support::Scratch;

/// The rules for the path of a new file; `operation` has it as its second argument, a disk
/// before it and a type behind it.
pub fn path_codes(operation: &Operation, name: &str, scratch: &Scratch, disk: &str) {
    let try_path = |code: &str, path: &str| {
        operation.answers(code, name, &[disk, path, "0"]);
    };
    let folder = scratch.dir().display();
    for character in ["*", "?", "<", ">", "|", "\"", ":", "\\"] {
        try_path("E_INVALID_NAME", &format!("{folder}/a{character}b.vhd"));
    }
    try_path("E_BAD_PATHNAME", "relative.vhd");
    try_path("E_BAD_PATHNAME", "./relative.vhd");
    let room = 259 - folder.to_string().len() - 1;
    try_path("E_BUFFER_OVERFLOW", &format!("{folder}/{}", "n".repeat(room + 1)));
    try_path("E_POINTER", "NULL");
    // A file where a folder should be.
    fs::write(scratch.path("file"), b"").unwrap();
    try_path("E_PATH_NOT_FOUND", &format!("{folder}/file/new.vhd"));
    try_path("E_ALREADY_EXISTS", disk);
    try_path("E_ALREADY_EXISTS", &format!("{folder}/file"));
    assert_eq!(fs::read(scratch.path("file")).unwrap(), b"");
}

#[test]
fn s_ok_and_the_codes_of_paths_and_types() {
    let test = "convert::s_ok_and_the_codes_of_paths_and_types";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-convert-paths");
    let disk = scratch.path("disk.vhd");
    images::dynamic(&disk, 3, &[1]);
    let before = fs::read(&disk).unwrap();
    path_codes(&operation, "convert", &scratch, text(&disk));
    operation.answers("E_BAD_PATHNAME", "convert", &[text(&disk), "", "0"]);
    let new = scratch.path("new.vhd");
    for number in ["2", "3", "4", "-1"] {
        let arguments = [text(&disk), text(&new), number];
        operation.answers("VM_E_WRONG_HD_IMAGE_TYPE", "convert", &arguments);
    }
    assert!(!new.exists());
    operation.answers("S_OK", "convert", &[text(&disk), text(&new), "1"]);
    assert_eq!(fs::metadata(&new).unwrap().len(), (6 << 20) + 512);
    let again = scratch.path("again.vhd");
    operation.answers("S_OK", "convert", &[text(&new), text(&again), "0"]);
    assert!(fs::read(&disk).unwrap() == before, "the source has changed");
}

#[test]
fn e_sharing_violation_while_qemu_has_the_image_or_its_parent() {
    let test = "convert::e_sharing_violation_while_qemu_has_the_image_or_its_parent";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-convert-sharing");
    let (parent, child) = images::chain(&scratch);
    let new = scratch.path("new.vhd");
    for held in [&parent, &child] {
        let Some(nbd) = Nbd::of(test, &scratch, held) else { return };
        let arguments = [text(&child), text(&new), "0"];
        operation.answers("E_SHARING_VIOLATION", "convert", &arguments);
        assert!(!new.exists());
        drop(nbd);
    }
    operation.answers("S_OK", "convert", &[text(&child), text(&new), "0"]);
}

#[test]
fn e_disk_full_on_a_small_volume() {
    let test = "convert::e_disk_full_on_a_small_volume";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-convert-full");
    let disk = scratch.path("disk.vhd");
    images::dynamic(&disk, 8, &[1]);
    let Some(volume) = Volume::tmpfs(test, &scratch, "4m") else { return };
    let new = volume.path("new.vhd");
    operation.answers("E_DISK_FULL", "convert", &[text(&disk), text(&new), "1"]);
    assert!(!new.exists());
    let names = fs::read_dir(volume.path(".")).unwrap().count();
    assert_eq!(names, 0, "something was left");
}

#[test]
fn vm_e_file_too_large_for_volume() {
    let test = "convert::vm_e_file_too_large_for_volume";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-convert-large");
    let disk = scratch.path("disk.vhd");
    operation.answers("S_OK", "dynamic", &[text(&disk), "17408"]);
    let Some(volume) = Volume::ext2(test, &scratch) else { return };
    let new = volume.path("new.vhd");
    let arguments = [text(&disk), text(&new), "1"];
    operation.answers("VM_E_FILE_TOO_LARGE_FOR_VOLUME", "convert", &arguments);
    assert!(!new.exists());
}

#[test]
fn vm_e_invalid_hd_file_and_what_is_wrong_with_parents() {
    let test = "convert::vm_e_invalid_hd_file_and_what_is_wrong_with_parents";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-convert-invalid");
    let (parent, child) = images::chain(&scratch);
    let (disk, new) = (scratch.path("text.vhd"), scratch.path("new.vhd"));
    images::text_file(&disk);
    let convert = |code: &str, from: &std::path::Path| {
        operation.answers(code, "convert", &[text(from), text(&new), "0"]);
        assert!(!new.exists());
    };
    convert("VM_E_INVALID_HD_FILE", &disk);
    fs::remove_file(&parent).unwrap();
    convert("VM_E_PARENT_PATH_NOT_FOUND", &child);
    images::fixed(&parent);
    convert("VM_E_PARENT_CHILD_ID_MISMATCH", &child);
    let arguments = [text(&child), text(&new), "0"];
    operation.answers("E_FILE_NOT_FOUND", "gone:convert", &arguments);
}

#[test]
fn disp_e_exception_if_a_medium_fails() {
    let test = "convert::disp_e_exception_if_a_medium_fails";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-convert-io");
    let disk = scratch.path("disk.vhd");
    images::dynamic(&disk, 3, &[1]);
    let Some(volume) = Volume::failing_to_read(test, &scratch, &[&disk]) else { return };
    let (bad, new) = (volume.path("disk.vhd"), scratch.path("new.vhd"));
    operation.answers("DISP_E_EXCEPTION", "convert", &[text(&bad), text(&new), "0"]);
    assert!(!new.exists());
    let Some(volume) = Volume::failing_to_write(test, &scratch) else { return };
    let new = volume.path("new.vhd");
    operation.answers(
        "task:DISP_E_EXCEPTION",
        "convert",
        &[text(&disk), text(&new), "0"],
    );
    assert!(!new.exists());
}
