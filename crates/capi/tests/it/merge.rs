//! Each code of `IVMHardDisk::Merge`, from the situation that it stands for.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::chain_model::read_chain;
use crate::images;
use crate::situation::{Nbd, Operation, Volume, text};
use crate::support::Scratch;

#[test]
fn s_ok() {
    let Some(operation) = Operation::new("merge::s_ok") else { return };
    let scratch = Scratch::new("capi-merge-ok");
    let (parent, child) = images::chain(&scratch);
    let read = |path| fs::read(path).unwrap();
    let disk = read_chain(&[&read(&child), &read(&parent)]);
    operation.answers("S_OK", "merge", &[text(&child)]);
    assert!(read_chain(&[&read(&parent)]) == disk);
}

#[test]
fn e_sharing_violation_in_use_in_a_saved_state_or_with_siblings() {
    let test = "merge::e_sharing_violation_in_use_in_a_saved_state_or_with_siblings";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-merge-sharing");
    let (parent, child) = images::chain(&scratch);
    let before = (fs::read(&parent).unwrap(), fs::read(&child).unwrap());
    for held in [&parent, &child] {
        let Some(nbd) = Nbd::of(test, &scratch, held) else { return };
        operation.answers("E_SHARING_VIOLATION", "merge", &[text(&child)]);
        drop(nbd);
    }
    for asleep in [&parent, &child] {
        let awake = fs::read(asleep).unwrap();
        images::set_saved_state(asleep);
        operation.answers("E_SHARING_VIOLATION", "merge", &[text(&child)]);
        fs::write(asleep, awake).unwrap();
    }
    let sibling = scratch.path("sibling.vhd");
    images::child(&sibling, &parent, 6);
    operation.answers("E_SHARING_VIOLATION", "merge", &[text(&child)]);
    fs::remove_file(&sibling).unwrap();
    assert!(before == (fs::read(&parent).unwrap(), fs::read(&child).unwrap()));
    operation.answers("S_OK", "merge", &[text(&child)]);
}

#[test]
fn vm_e_wrong_hd_image_type_unless_differencing() {
    let test = "merge::vm_e_wrong_hd_image_type_unless_differencing";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-merge-type");
    let (parent, _) = images::chain(&scratch);
    let fixed = scratch.path("fixed.vhd");
    images::fixed(&fixed);
    for disk in [&parent, &fixed] {
        operation.answers("VM_E_WRONG_HD_IMAGE_TYPE", "merge", &[text(disk)]);
    }
}

#[test]
fn vm_e_file_read_only_for_the_parent() {
    let test = "merge::vm_e_file_read_only_for_the_parent";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-merge-read-only");
    let (parent, child) = images::chain(&scratch);
    fs::set_permissions(&parent, fs::Permissions::from_mode(0o444)).unwrap();
    operation.answers("VM_E_FILE_READ_ONLY", "merge", &[text(&child)]);
}

#[test]
fn what_is_wrong_with_parents_and_files() {
    let test = "merge::what_is_wrong_with_parents_and_files";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-merge-parents");
    let (parent, child) = images::chain(&scratch);
    fs::remove_file(&parent).unwrap();
    operation.answers("VM_E_PARENT_PATH_NOT_FOUND", "merge", &[text(&child)]);
    images::fixed(&parent);
    operation.answers("VM_E_PARENT_CHILD_ID_MISMATCH", "merge", &[text(&child)]);
    operation.answers("E_FILE_NOT_FOUND", "gone:merge", &[text(&child)]);
    images::text_file(&child);
    operation.answers("VM_E_INVALID_HD_FILE", "merge", &[text(&child)]);
}

#[test]
fn e_disk_full_if_the_parent_cannot_grow() {
    let test = "merge::e_disk_full_if_the_parent_cannot_grow";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-merge-full");
    let Some(volume) = Volume::tmpfs(test, &scratch, "24m") else { return };
    let (parent, child) = (volume.path("parent.vhd"), volume.path("child.vhd"));
    operation.answers("S_OK", "dynamic", &[text(&parent), "12"]);
    images::child(&child, &parent, 6);
    volume.fill();
    operation.answers("task:E_DISK_FULL", "merge", &[text(&child)]);
}

#[test]
fn disp_e_exception_if_the_medium_cannot_be_read() {
    let test = "merge::disp_e_exception_if_the_medium_cannot_be_read";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-merge-io");
    let (parent, child) = images::chain(&scratch);
    let Some(volume) = Volume::failing_to_read(test, &scratch, &[&child]) else { return };
    fs::copy(&parent, volume.path("parent.vhd")).unwrap();
    operation.answers("DISP_E_EXCEPTION", "merge", &[text(&volume.path("child.vhd"))]);
}
