//! `map`: what is drawn, exactly, and the SVG file.

use std::path::{Path, PathBuf};

use crate::command::{image, run, slimdisk};
use crate::support::{Scratch, have, sh};

/// A dynamic VHD of 16 blocks made with qemu-io: data, zeros, gaps.
fn small(test: &str, scratch: &Scratch) -> Option<PathBuf> {
    if !have(test, &["qemu-img", "qemu-io"]) {
        return None;
    }
    let disk = scratch.path("small.vhd");
    sh(&format!(
        "qemu-img create -q -f vpc -o subformat=dynamic,force_size=on {0} 32M
         qemu-io -f vpc {0} -c 'write -q -P 7 10M 6M' -c 'write -q -P 7 0 64k' \
            -c 'write -q -P 0 2M 4M' -c 'write -q -P 9 30M 2M' >/dev/null",
        disk.display()
    ));
    Some(disk)
}

#[test]
fn a_small_image_is_drawn_exactly() {
    let test = "a_small_image_is_drawn_exactly";
    let scratch = Scratch::new("drawing-small");
    let Some(disk) = small(test, &scratch) else { return };
    let drawn = run(&["map"], &[&disk]).ok().out;
    let expected = format!(
        "\
{}: 16 blocks of 2 MiB, 7 of them in the file; disk 32 MiB, file 14.0 MiB

Guest's disk
  #00..###.......#

File
  T####00#T

  # used            5      10 MiB  blocks that must stay
  0 zero            2       4 MiB  blocks of zeros: compact gives them up
  . absent          9      18 MiB  blocks that take no room in the file
  T tables               2.50 KiB  headers and tables of the image
  % mixed                          several of these in one cell
",
        disk.display()
    );
    assert_eq!(drawn, expected);
    let unicode = slimdisk().env("LC_ALL", "C.UTF-8").arg("map").arg(&disk).output();
    let unicode = String::from_utf8(unicode.unwrap().stdout).unwrap();
    assert!(unicode.contains("\n  █00··███·······█\n"), "{unicode}");
}

#[test]
fn a_drawing_fits_the_width() {
    let test = "a_drawing_fits_the_width";
    if !have(test, &["qemu-img"]) {
        return;
    }
    let scratch = Scratch::new("drawing-width");
    let disk = scratch.path("wide.vhd");
    sh(&format!(
        "qemu-img create -q -f vpc -o subformat=dynamic,force_size=on {} 100G",
        disk.display()
    ));
    let output = slimdisk().env("COLUMNS", "50").arg("map").arg(&disk).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("  ..")).collect();
    assert_eq!(rows.len(), 16, "{text}");
    assert!(rows.iter().all(|row| row.len() == 50), "{text}");
    assert!(text.contains("a cell is about 66.6 places"), "{text}");
}

#[test]
fn svg_is_sound_xml_with_title_and_counts() {
    let test = "svg_is_sound_xml_with_title_and_counts";
    let scratch = Scratch::new("drawing-svg");
    let Some(disk) = image(test, &scratch) else { return };
    let odd = disk.with_file_name("a&<b>.vhd");
    std::fs::rename(&disk, &odd).unwrap();
    let svg = scratch.path("map.svg");
    let draw = |force: &[&str]| {
        let output = slimdisk()
            .args(["map", "--svg"])
            .arg(&svg)
            .args(force)
            .arg(&odd)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(draw(&[]).0, Some(0));
    let map = run(&["map", "--json"], &[&odd]).ok().object();
    let text = std::fs::read_to_string(&svg).unwrap();
    for state in ["used", "free", "absent"] {
        let blocks = map["blocks"][state].as_u64().unwrap();
        assert!(blocks > 1, "{state}: {map:#}");
        assert!(text.contains(&format!(">{state}: {blocks} blocks, ")), "{state}");
    }
    if have(test, &["python3"]) {
        let said = sh(&format!(
            "python3 - {} <<'END'
import sys, xml.etree.ElementTree as tree
root = tree.parse(sys.argv[1]).getroot()
space = '{{http://www.w3.org/2000/svg}}'
assert root.tag == space + 'svg', root.tag
assert root.get('role') == 'img'
names = [root.find(space + tag).get('id') for tag in ('title', 'desc')]
assert root.get('aria-labelledby').split() == names, names
width, height = int(root.get('width')), int(root.get('height'))
for rect in root.iter(space + 'rect'):
    x, y = float(rect.get('x') or 0), float(rect.get('y') or 0)
    assert 0 <= x and x + float(rect.get('width')) <= width
    assert 0 <= y and y + float(rect.get('height')) <= height
assert not list(root.iter(space + 'image')), 'not self-contained'
print(root.find(space + 'title').text)
END",
            svg.display()
        ));
        assert_eq!(said, "Blocks of a&<b>.vhd\n");
    }

    // An existing file is replaced only by --force, the image never.
    std::fs::write(&svg, "mine").unwrap();
    let (code, err) = draw(&[]);
    assert_eq!(code, Some(2));
    assert!(err.contains("--force"), "{err}");
    assert_eq!(std::fs::read(&svg).unwrap(), b"mine");
    assert_eq!(draw(&["--force"]).0, Some(0));
    assert_eq!(std::fs::read_to_string(&svg).unwrap(), text);
    let before = std::fs::read(&odd).unwrap();
    for target in &names_of(&odd, &scratch) {
        let output =
            slimdisk().args(["map", "--force", "--svg"]).arg(target).arg(&odd).output();
        assert_eq!(output.unwrap().status.code(), Some(2));
        assert!(std::fs::read(&odd).unwrap() == before);
    }
    let left = std::fs::read_dir(scratch.dir()).unwrap().filter(|entry| {
        entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".tmp")
    });
    assert_eq!(left.count(), 0);
}

/// The image's own name, and another one where links are for everybody.
fn names_of(disk: &Path, scratch: &Scratch) -> Vec<PathBuf> {
    let link = scratch.path("link.svg");
    #[cfg(unix)]
    std::os::unix::fs::symlink(disk, &link).unwrap();
    [disk.to_owned(), link].into_iter().filter(|name| name.exists()).collect()
}
