//! Each code of the properties of a disk, from the situation that it stands for.

use std::fs;

use crate::images;
use crate::situation::{Nbd, Operation, Volume, text};
use crate::support::Scratch;

const OF_THE_IMAGE: [&str; 4] = ["type", "guest", "drive", "parent"];

#[test]
fn s_ok_and_s_false() {
    let Some(operation) = Operation::new("property::s_ok_and_s_false") else { return };
    let scratch = Scratch::new("capi-property-ok");
    let (parent, child) = images::chain(&scratch);
    for property in ["type", "guest", "size", "free", "chain"] {
        operation.answers("S_OK", property, &[text(&parent)]);
        operation.answers("S_OK", property, &[text(&child)]);
    }
    operation.answers("S_FALSE", "drive", &[text(&child)]);
    operation.answers("S_FALSE", "parent", &[text(&parent)]);
    operation.answers("S_OK", "parent", &[text(&child)]);
}

#[test]
fn an_image_that_cannot_be_asked() {
    let test = "property::an_image_that_cannot_be_asked";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-property-image");
    let (parent, child) = images::chain(&scratch);
    let wrong = scratch.path("text.vhd");
    images::text_file(&wrong);
    for property in OF_THE_IMAGE {
        operation.answers("VM_E_HD_IMAGE_OPEN_FAIL", property, &[text(&wrong)]);
    }
    operation.answers("VM_E_INVALID_HD_FILE", "chain", &[text(&wrong)]);
    // The file can be asked all the same.
    operation.answers("S_OK", "size", &[text(&wrong)]);
    if let Some(nbd) = Nbd::of(test, &scratch, &child) {
        for property in OF_THE_IMAGE {
            operation.answers("VM_E_HD_IMAGE_OPEN_FAIL", property, &[text(&child)]);
        }
        operation.answers("S_OK", "size", &[text(&child)]);
        operation.answers("E_SHARING_VIOLATION", "chain", &[text(&child)]);
        drop(nbd);
    }
    if let Some(volume) = Volume::failing_to_read(test, &scratch, &[&child]) {
        let bad = volume.path("child.vhd");
        for property in OF_THE_IMAGE {
            operation.answers("VM_E_HD_IMAGE_ACCESS", property, &[text(&bad)]);
        }
    }
    for property in ["type", "guest", "drive", "parent", "size"] {
        let copy = scratch.path("copy.vhd");
        fs::copy(&parent, &copy).unwrap();
        operation.answers(
            "E_FILE_NOT_FOUND",
            &format!("gone:{property}"),
            &[text(&copy)],
        );
    }
}

#[test]
fn parents_that_are_not_there_or_not_the_right_ones() {
    let test = "property::parents_that_are_not_there_or_not_the_right_ones";
    let Some(operation) = Operation::new(test) else { return };
    let scratch = Scratch::new("capi-property-parent");
    let (parent, child) = images::chain(&scratch);
    let set = |code: &str, to: &std::path::Path| {
        operation.answers(code, "setparent", &[text(&child), text(to)]);
    };
    let moved = scratch.path("moved.vhd");
    fs::rename(&parent, &moved).unwrap();
    operation.answers("E_FILE_NOT_FOUND", "parent", &[text(&child)]);
    operation.answers("VM_E_PARENT_PATH_NOT_FOUND", "chain", &[text(&child)]);
    let other = scratch.path("other.vhd");
    images::fixed(&other);
    set("VM_E_PARENT_CHILD_ID_MISMATCH", &other);
    let arguments = [text(&moved), text(&other)];
    operation.answers("VM_E_WRONG_HD_IMAGE_TYPE", "setparent", &arguments);
    if let Some(nbd) = Nbd::of(test, &scratch, &child) {
        set("VM_E_HD_IMAGE_OPEN_FAIL", &moved);
        drop(nbd);
    }
    operation.answers("E_FILE_NOT_FOUND", "parent", &[text(&child)]);
    set("S_OK", &moved);
    operation.answers("S_OK", "parent", &[text(&child)]);
    // Another disk under the parent's name.
    fs::rename(&other, &moved).unwrap();
    operation.answers("VM_E_PARENT_CHILD_ID_MISMATCH", "parent", &[text(&child)]);
}
