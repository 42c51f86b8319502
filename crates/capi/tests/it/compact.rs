//! Each code of `IVMHardDisk::Compact`, from the situation that it stands for.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::images;
use crate::situation::{Nbd, Operation, Volume, text};
use crate::support::{Scratch, sh};

#[test]
fn s_ok() {
    let Some(operation) = Operation::new("compact::s_ok") else { return };
    let scratch = Scratch::new("capi-compact-ok");
    let disk = scratch.path("disk.vhd");
    images::dynamic(&disk, 4, &[0, 2]);
    let before = fs::metadata(&disk).unwrap().len();
    operation.answers("S_OK", "compact", &[text(&disk)]);
    let after = fs::metadata(&disk).unwrap().len();
    assert!(before - after >= 4 << 20, "{before} {after}");
}

#[test]
fn vm_e_invalid_hd_file_for_text() {
    let test = "compact::vm_e_invalid_hd_file_for_text";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-compact-invalid");
    let disk = scratch.path("text.vhd");
    images::text_file(&disk);
    operation.answers("VM_E_INVALID_HD_FILE", "compact", &[text(&disk)]);
    fs::write(&disk, b"").unwrap();
    operation.answers("VM_E_INVALID_HD_FILE", "compact", &[text(&disk)]);
}

#[test]
fn e_sharing_violation_while_qemu_has_the_image() {
    let test = "compact::e_sharing_violation_while_qemu_has_the_image";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-compact-sharing");
    let disk = scratch.path("disk.vhd");
    images::dynamic(&disk, 3, &[1]);
    let Some(nbd) = Nbd::of(test, &scratch, &disk) else { return };
    let said = operation.answers("E_SHARING_VIOLATION", "compact", &[text(&disk)]);
    assert!(said.contains("qemu-nbd"), "{said}");
    drop(nbd);
    operation.answers("S_OK", "compact", &[text(&disk)]);
}

#[test]
fn vm_e_wrong_hd_image_type_unless_dynamic() {
    let test = "compact::vm_e_wrong_hd_image_type_unless_dynamic";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-compact-type");
    let fixed = scratch.path("fixed.vhd");
    images::fixed(&fixed);
    let (_, child) = images::chain(&scratch);
    operation.answers("VM_E_WRONG_HD_IMAGE_TYPE", "compact", &[text(&fixed)]);
    operation.answers("VM_E_WRONG_HD_IMAGE_TYPE", "compact", &[text(&child)]);
    // The extended call does differencing disks.
    operation.answers("VM_E_WRONG_HD_IMAGE_TYPE", "compact-any", &[text(&fixed)]);
    operation.answers("S_OK", "compact-any", &[text(&child)]);
}

/// A VHDX with free space in it and a child beside it: the child is spared unless the flag
/// gives it up. A VHD has no identity that would tell its children.
#[test]
fn children_are_orphaned_by_a_flag_alone() {
    let test = "compact::children_are_orphaned_by_a_flag_alone";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-compact-orphan");
    let Some(vhd) = images::with_something_to_win(test, &scratch) else { return };
    let (disk, child) = (scratch.path("parent.vhdx"), scratch.path("child.vhdx"));
    sh(&format!(
        "qemu-img convert -f vpc -O vhdx -o block_size=1M '{}' '{}'",
        vhd.display(),
        disk.display()
    ));
    operation.answers("S_OK", "differencing", &[text(&child), text(&disk)]);
    operation.answers("S_OK", "parent", &[text(&child)]);
    let len = || fs::metadata(&disk).unwrap().len();
    let before = len();
    operation.answers("S_OK", "compact-any", &[text(&disk)]);
    // A little of it is zeros.
    assert!(len() > before - (8 << 20), "free space has gone: {before} {}", len());
    operation.answers("S_OK", "parent", &[text(&child)]);

    let said = operation.answers("S_OK", "plan-orphan", &[text(&disk)]);
    let listed = said.split_once("\"orphaned\":[").unwrap().1;
    assert!(listed.split_once(']').unwrap().0.contains("/child.vhdx\""), "{said}");
    operation.answers("S_OK", "parent", &[text(&child)]);
    operation.answers("S_OK", "compact-orphan", &[text(&disk)]);
    assert!(before - len() > 18 << 20, "{before} {}", len());
    operation.answers("VM_E_PARENT_CHILD_ID_MISMATCH", "parent", &[text(&child)]);

    let before = fs::read(&vhd).unwrap();
    for what in ["compact-orphan", "plan-orphan"] {
        operation.answers("VM_E_WRONG_HD_IMAGE_TYPE", what, &[text(&vhd)]);
    }
    assert!(fs::read(&vhd).unwrap() == before);
}

#[test]
fn vm_e_file_read_only() {
    let Some(operation) = Operation::new("compact::vm_e_file_read_only") else { return };
    let scratch = Scratch::new("capi-compact-read-only");
    let disk = scratch.path("disk.vhd");
    images::dynamic(&disk, 3, &[1]);
    fs::set_permissions(&disk, fs::Permissions::from_mode(0o444)).unwrap();
    operation.answers("VM_E_FILE_READ_ONLY", "compact", &[text(&disk)]);
}

#[test]
fn e_disk_full_by_the_task_where_a_hole_must_be_filled() {
    let test = "compact::e_disk_full_by_the_task_where_a_hole_must_be_filled";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-compact-full");
    let disk = scratch.path("disk.vhd");
    images::dynamic(&disk, 6, &[0, 1, 2]);
    let Some(volume) = Volume::tmpfs(test, &scratch, "16m") else { return };
    let sparse = volume.path("disk.vhd");
    // The blocks of zeros become holes of the file; the others must go there.
    sh(&format!("cp --sparse=always '{}' '{}'", disk.display(), sparse.display()));
    volume.fill();
    let before = fs::read(&sparse).unwrap();
    operation.answers("task:E_DISK_FULL", "compact", &[text(&sparse)]);
    // It is sound, and with room again the rest is done.
    let blocks = |file: &[u8]| {
        let found = crate::vhd_model::read_strictly(file).unwrap();
        found[3..].iter().map(|b| b.as_ref().unwrap().data.to_vec()).collect::<Vec<_>>()
    };
    assert!(blocks(&fs::read(&sparse).unwrap()) == blocks(&before));
    fs::remove_file(volume.path("filler")).unwrap();
    operation.answers("S_OK", "compact", &[text(&sparse)]);
    let after = fs::read(&sparse).unwrap();
    assert!(blocks(&after) == blocks(&before) && after.len() < before.len());
}

#[test]
fn e_file_not_found_if_it_has_gone_meanwhile() {
    let test = "compact::e_file_not_found_if_it_has_gone_meanwhile";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-compact-gone");
    let disk = scratch.path("disk.vhd");
    images::dynamic(&disk, 1, &[]);
    operation.answers("E_FILE_NOT_FOUND", "gone:compact", &[text(&disk)]);
}

#[test]
fn disp_e_exception_if_the_medium_cannot_be_read() {
    let test = "compact::disp_e_exception_if_the_medium_cannot_be_read";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-compact-io");
    let disk = scratch.path("disk.vhd");
    images::dynamic(&disk, 3, &[1]);
    let Some(volume) = Volume::failing_to_read(test, &scratch, &[&disk]) else { return };
    let disk = volume.path("disk.vhd");
    operation.answers("DISP_E_EXCEPTION", "compact", &[text(&disk)]);
    operation.answers("DISP_E_EXCEPTION", "compact-any", &[text(&disk)]);
}
