//! Each code of `IVMHardDisk::MergeTo`, from the situation that it stands for.

use std::fs;

use crate::chain_model::read_chain;
use crate::convert::path_codes;
use crate::images;
use crate::situation::{Nbd, Operation, Volume, text};
use crate::support::Scratch;

#[test]
fn s_ok_and_the_codes_of_paths_and_types() {
    let test = "merge_to::s_ok_and_the_codes_of_paths_and_types";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-merge-to-paths");
    let (parent, child) = images::chain(&scratch);
    path_codes(&operation, "mergeto", &scratch, text(&child));
    // Here an empty path has a code of its own.
    operation.answers("E_INVALIDARG", "mergeto", &[text(&child), "", "0"]);
    let new = scratch.path("new.vhd");
    for number in ["2", "3", "4", "-1"] {
        let arguments = [text(&child), text(&new), number];
        operation.answers("VM_E_WRONG_HD_IMAGE_TYPE", "mergeto", &arguments);
    }
    // Not a differencing disk.
    let arguments = [text(&parent), text(&new), "0"];
    operation.answers("VM_E_WRONG_HD_IMAGE_TYPE", "mergeto", &arguments);
    assert!(!new.exists());
    let read = |path| fs::read(path).unwrap();
    let before = (read(&parent), read(&child));
    let disk = read_chain(&[&before.1, &before.0]);
    operation.answers("S_OK", "mergeto", &[text(&child), text(&new), "1"]);
    assert!(read_chain(&[&read(&new)]) == disk);
    assert!((read(&parent), read(&child)) == before, "the chain has changed");
}

#[test]
fn e_sharing_violation_while_qemu_has_the_image_or_its_parent() {
    let test = "merge_to::e_sharing_violation_while_qemu_has_the_image_or_its_parent";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-merge-to-sharing");
    let (parent, child) = images::chain(&scratch);
    let new = scratch.path("new.vhd");
    for held in [&parent, &child] {
        let Some(nbd) = Nbd::of(test, &scratch, held) else { return };
        let arguments = [text(&child), text(&new), "0"];
        operation.answers("E_SHARING_VIOLATION", "mergeto", &arguments);
        drop(nbd);
    }
}

#[test]
fn e_disk_full_on_a_small_volume() {
    let test = "merge_to::e_disk_full_on_a_small_volume";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-merge-to-full");
    let (_, child) = images::chain(&scratch);
    let Some(volume) = Volume::tmpfs(test, &scratch, "4m") else { return };
    let new = volume.path("new.vhd");
    operation.answers("E_DISK_FULL", "mergeto", &[text(&child), text(&new), "1"]);
    assert_eq!(fs::read_dir(volume.path(".")).unwrap().count(), 0, "something was left");
}

#[test]
fn what_is_wrong_with_parents_and_files() {
    let test = "merge_to::what_is_wrong_with_parents_and_files";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-merge-to-parents");
    let (parent, child) = images::chain(&scratch);
    let new = scratch.path("new.vhd");
    let merge = |code: &str, how: &str| {
        operation.answers(code, how, &[text(&child), text(&new), "0"]);
        assert!(!new.exists());
    };
    fs::remove_file(&parent).unwrap();
    merge("VM_E_PARENT_PATH_NOT_FOUND", "mergeto");
    images::fixed(&parent);
    merge("VM_E_PARENT_CHILD_ID_MISMATCH", "mergeto");
    merge("E_FILE_NOT_FOUND", "gone:mergeto");
    images::text_file(&child);
    merge("VM_E_INVALID_HD_FILE", "mergeto");
}

#[test]
fn disp_e_exception_if_the_medium_cannot_be_read() {
    let test = "merge_to::disp_e_exception_if_the_medium_cannot_be_read";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-merge-to-io");
    let (parent, child) = images::chain(&scratch);
    let Some(volume) = Volume::failing_to_read(test, &scratch, &[&child]) else { return };
    fs::copy(&parent, volume.path("parent.vhd")).unwrap();
    let (bad, new) = (volume.path("child.vhd"), scratch.path("new.vhd"));
    operation.answers("DISP_E_EXCEPTION", "mergeto", &[text(&bad), text(&new), "0"]);
    assert!(!new.exists());
}
