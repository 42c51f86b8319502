//! New differencing disks: found by our own reader and by others, at whatever place the
//! parent lies.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use slimdisk::Kind;
use slimdisk::create::{self, Content, Options, Outcome, Report};
use slimdisk::image::ImageType;
use slimdisk::image::parent::ParentLookup;
use slimdisk::storage::HostFile;

use super::{MIB, made, refused};
use crate::chain::{content, judge, open};
use crate::chain_model::{fixed, read_chain};
use crate::convert::disk;
use crate::convert::faults::writer_comes;
use crate::new_file::names;
use crate::support::{Noise, Scratch, have};
use crate::vhd_model::{Shape, set_checksum};

pub fn child_of(parent: &Path) -> Options {
    Options::new(Content::Differencing { parent: parent.to_owned() })
}

fn follow() -> ParentLookup {
    let mut lookup = ParentLookup::default();
    lookup.follow = true;
    lookup
}

/// The bytes of a locator, by its code.
fn locator(file: &[u8], code: &[u8; 4]) -> Vec<u8> {
    let be = |at: usize, len: usize| {
        file[at..at + len].iter().fold(0, |n, byte| n << 8 | usize::from(*byte))
    };
    let found = (0..8).map(|n| 512 + 576 + n * 24).find(|at| file[*at..at + 4] == *code);
    let at = found.unwrap_or_else(|| panic!("no {}", code.escape_ascii()));
    let (space, len, offset) = (be(at + 4, 4), be(at + 8, 4), be(at + 16, 8));
    assert!(space >= 4096 && space % 4096 == 0 && len <= space, "{space} {len}");
    // Room up to the next structure, all of it zeros.
    assert!(file[offset + len..offset + space].iter().all(|byte| *byte == 0));
    file[offset..offset + len].to_vec()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[test]
fn children_find_their_parents_wherever_they_lie() {
    let scratch = Scratch::new("children_find_their_parents");
    let real = fs::canonicalize(scratch.dir()).unwrap();
    let at = |name: &str| real.join(name);
    let data = disk(&mut Noise::new(51), 5 * MIB as usize + 512);
    for folder in ["d", "d/Fol der", "x"] {
        fs::create_dir_all(at(folder)).unwrap();
    }
    for (number, (parent, child, relative, beside)) in [
        ("d/base.vhd", "d/c.vhd", r".\base.vhd", true),
        ("d/Fol der/b\u{e4}se %.vhd", "d/c.vhd", ".\\Fol der\\b\u{e4}se %.vhd", true),
        ("d/base.vhd", "x/c.vhd", r"..\d\base.vhd", false),
        ("d/base.vhd", "x/new/c.vhd", r"..\..\d\base.vhd", false),
    ]
    .into_iter()
    .enumerate()
    {
        let (parent, path) = (at(parent), at(child));
        fs::write(&parent, fixed(&data, 51 + number as u64)).unwrap();
        let report: Report = made(&path, &child_of(&parent));
        assert_eq!(report.image_type, Some(ImageType::Differencing));
        assert_eq!(report.virtual_size, data.len() as u64);
        assert_eq!(report.parent.as_deref(), parent.to_str());
        let file = fs::read(&path).unwrap();
        assert_eq!(locator(&file, b"W2ru"), utf16(relative));
        let backslashes = parent.to_str().unwrap().replace('/', "\\");
        assert_eq!(locator(&file, b"W2ku"), utf16(&backslashes));
        let url = parent.to_str().unwrap().replace('%', "%25").replace(' ', "%20");
        let url = format!("file://{}", url.replace('\u{e4}', "%C3%A4"));
        assert_eq!(locator(&file, b"MacX"), url.as_bytes());
        let name = parent.file_name().unwrap().to_str().unwrap();
        let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(file[512 + 64..][..units.len() + 2], [&units[..], &[0, 0]].concat());
        // The parent's time, and its geometry.
        let modified = fs::metadata(&parent).unwrap().modified().unwrap();
        let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let noted = u32::from_be_bytes(file[512 + 56..][..4].try_into().unwrap());
        assert_eq!(u64::from(noted), since - 946_684_800);
        let base = fs::read(&parent).unwrap();
        assert_eq!(file[56..60], base[base.len() - 456..][..4]);
        // It shows what its parent shows.
        assert!(read_chain(&[&file, &base]) == data);
        let lookup = if beside { ParentLookup::default() } else { follow() };
        assert!(content(&*open(&path, &lookup).unwrap()) == data);
        assert!(content(&*open(&path, &follow()).unwrap()) == data);
        if !beside {
            let error = open(&path, &ParentLookup::default()).err().unwrap();
            assert_eq!(error.kind(), Kind::ParentNotFound);
            // Moved beside its parent, it finds it by its bare name; moved away with
            // nothing but its absolute path, by that.
            let moved = at("d/moved.vhd");
            fs::rename(&path, &moved).unwrap();
            open(&moved, &ParentLookup::default()).unwrap();
            let deep = at("x/deep/er/still");
            fs::create_dir_all(&deep).unwrap();
            fs::rename(&moved, deep.join("c.vhd")).unwrap();
            let image = open(&deep.join("c.vhd"), &follow()).unwrap();
            assert_eq!(image.len(), data.len() as u64);
            fs::remove_file(deep.join("c.vhd")).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        fs::remove_file(&parent).unwrap();
    }
}

#[test]
fn other_programs_read_children() {
    let test = "other_programs_read_children";
    let Some(python) = judge::python(test) else { return };
    if !have(test, &["7zz"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let data = disk(&mut Noise::new(53), 6 * MIB as usize);
    let mut chain: Vec<PathBuf> = vec![scratch.path("0.vhd")];
    fs::write(&chain[0], Shape::of_disk(&data, 2 * MIB as usize, true, *b"win "))
        .unwrap();
    let expected = judge::digest_of(&data);
    for (level, block_size) in
        [None, Some(512 << 10), Some(4 * MIB)].into_iter().enumerate()
    {
        let path = scratch.path(&format!("{}.vhd", level + 1));
        let mut options = child_of(&chain[0]);
        options.block_size = block_size;
        made(&path, &options);
        chain.insert(0, path);
        assert_eq!(judge::seven_zip_digest(&chain[0]), expected);
        assert_eq!(judge::vhdi_digest(&python, &chain), expected);
        assert!(content(&*open(&chain[0], &ParentLookup::default()).unwrap()) == data);
    }
}

#[test]
fn chains_end_at_64_images() {
    let scratch = Scratch::new("chains_end_at_64_images");
    let base = scratch.path("1.vhd");
    fs::write(&base, fixed(&vec![1; MIB as usize], 1)).unwrap();
    let mut last = base;
    for level in 2..=64 {
        let path = scratch.path(&format!("{level}.vhd"));
        let report = super::create(&path, &child_of(&last));
        assert_eq!(report.error, None, "{level}");
        last = path;
    }
    let image = open(&last, &ParentLookup::default()).unwrap();
    assert!(content(&*image).iter().all(|byte| *byte == 1));
    let error = refused(&scratch.path("65.vhd"), &child_of(&last));
    assert_eq!(error.kind(), Kind::InvalidImage);
    assert!(error.what().contains("64"), "{error}");
    assert_eq!(names(scratch.dir()).len(), 64);
}

#[test]
fn parents_that_cannot_be_are_refused() {
    let scratch = Scratch::new("parents_that_cannot_be");
    let at = |name: &str| scratch.path(name);
    let sound = fixed(&vec![1; MIB as usize], 1);
    let footer = |change: &dyn Fn(&mut [u8])| {
        let mut file = sound.clone();
        let at = file.len() - 512;
        change(&mut file[at..]);
        set_checksum(&mut file[at..], 64);
        file
    };
    fs::write(at("base.vhd"), &sound).unwrap();
    fs::write(at("saved.vhd"), footer(&|f| f[84] = 1)).unwrap();
    fs::write(at("no-id.vhd"), footer(&|f| f[68..84].fill(0))).unwrap();
    fs::write(at("junk.vhd"), vec![1; 4096]).unwrap();
    fs::write(at(r"back\slash.vhd"), &sound).unwrap();
    // A child whose own parent is gone, and one whose parent is another now.
    for (name, parent) in [("orphan.vhd", "gone.vhd"), ("stranger.vhd", "other.vhd")] {
        fs::write(at(parent), &sound).unwrap();
        made(&at(name), &child_of(&at(parent)));
        fs::write(at(parent), fixed(&vec![1; MIB as usize], 2)).unwrap();
    }
    fs::remove_file(at("gone.vhd")).unwrap();
    let before = names(scratch.dir());
    for (parent, kind) in [
        ("none.vhd", Kind::NotFound),
        ("no/none.vhd", Kind::PathNotFound),
        ("junk.vhd", Kind::InvalidImage),
        ("saved.vhd", Kind::WrongImageType),
        ("no-id.vhd", Kind::InvalidImage),
        (r"back\slash.vhd", Kind::InvalidName),
        ("orphan.vhd", Kind::ParentNotFound),
        ("stranger.vhd", Kind::ParentMismatch),
    ] {
        let error = refused(&at("new.vhd"), &child_of(&at(parent)));
        assert_eq!(error.kind(), kind, "{parent}: {error:?}");
        assert_eq!(names(scratch.dir()), before);
    }
    let held = HostFile::open_exclusive(&at("base.vhd")).unwrap();
    let error = refused(&at("new.vhd"), &child_of(&at("base.vhd")));
    assert_eq!(error.kind(), Kind::InUse);
    drop(held);
    made(&at("new.vhd"), &child_of(&at("base.vhd")));
}

#[test]
fn a_parent_that_is_written_to_gets_no_child() {
    let scratch = Scratch::new("a_parent_that_is_written_to");
    let base = scratch.path("base.vhd");
    fs::write(&base, fixed(&vec![1; MIB as usize], 1)).unwrap();
    let mut writer = None;
    let options = child_of(&base);
    let report = create::create(&scratch.path("new.vhd"), &options, &mut |_| {
        if writer.is_none() {
            writer = Some(writer_comes(&base));
        }
        ControlFlow::Continue(())
    });
    drop(writer.unwrap().join().unwrap());
    assert_eq!(report.outcome, Outcome::Failed);
    assert_eq!(report.cause.unwrap().kind(), Kind::InUse);
    assert_eq!(names(scratch.dir()), ["base.vhd"]);
}
