//! Children whose parent has another place or another name: judged by the tests' own
//! reader, 7-Zip, libvhdi and qemu-img.

use std::fs::{self, File, create_dir_all};
#[cfg(unix)]
use std::os::unix::ffi::OsStringExt as _;
#[cfg(unix)]
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use slimdisk::image::parent::{ParentLookup, relink};
use slimdisk::storage::HostFile;
use slimdisk::{Error, Kind, image};

use super::judge::{self, digest_of, seven_zip_digest, vhdi_digest};
use super::{content, open, windows_chains};
use crate::chain_model::{Child, Locator, fixed, id_in, read_chain};
use crate::relink::{Names, header_at};
use crate::support::{Scratch, have, sh};
use crate::vhd_model::{Shape, read_strictly, set_checksum};

const EPOCH: u64 = 946_684_800;

fn shape(seed: u64, aligned: bool) -> Shape {
    Shape {
        block_size: 8192,
        blocks: 6,
        order: vec![(4, 0), (1, 0), (2, 0)],
        aligned,
        spare_entries: 0,
        batmap: false,
        creator: *b"win ",
        seed,
    }
}

fn child_of(parent: &[u8], aligned: bool, locators: &[Locator]) -> Vec<u8> {
    let shape = shape(2, aligned);
    let mut child = Child::new(shape.clone(), id_in(parent), r"C:\old\b.vhd");
    child.locators = locators.to_vec();
    child.build(|_| vec![0xF0, 0x0F], |block| shape.data(block))
}

fn two() -> [Locator; 2] {
    [Locator::utf16(b"W2ku", r"C:\old\b.vhd"), Locator::utf16(b"W2ru", r".\b.vhd")]
}

/// A folder `vm` with a child, and its parent wherever a test wants it.
struct Tree {
    scratch: Scratch,
    child: PathBuf,
    parent: Vec<u8>,
}

impl Tree {
    fn new(test: &str, locators: &[Locator]) -> Tree {
        let scratch = Scratch::new(test);
        let parent = shape(1, false).build(&[]);
        let child = scratch.path("vm/child.vhd");
        let tree = Tree { scratch, child, parent };
        tree.reset(locators, false);
        tree
    }

    fn reset(&self, locators: &[Locator], aligned: bool) {
        self.put("vm/child.vhd", &child_of(&self.parent, aligned, locators));
    }

    fn put(&self, name: &str, file: &[u8]) -> PathBuf {
        let path = self.scratch.path(name);
        create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, file).unwrap();
        path
    }

    fn put_parent(&self, name: &str) -> PathBuf {
        self.put(name, &self.parent)
    }

    fn child(&self) -> Vec<u8> {
        fs::read(&self.child).unwrap()
    }

    fn lookup(&self, follow: bool) -> ParentLookup {
        let mut lookup = ParentLookup::default();
        lookup.follow = follow;
        lookup
    }

    /// The file that is found as the parent, and by which name.
    fn found(&self, follow: bool) -> Result<(PathBuf, String), Error> {
        let file = std::sync::Arc::new(HostFile::open_read(&self.child)?);
        let mut image = image::open(file)?;
        let lookup = self.lookup(follow);
        let chain = image::parent::open_parents(&mut *image, &self.child, &lookup)?;
        assert!(content(&*image) == read_chain(&[&self.child(), &self.parent]));
        assert_eq!(chain.parents()[0].notes, [""; 0]);
        Ok((chain.parents()[0].path.clone(), chain.parents()[0].found_by.clone()))
    }

    /// Nothing is written, and the error says what it should.
    fn refused(&self, parent: &Path, kind: Kind, words: &str) {
        let before = self.child();
        let time = modified(&self.child);
        let error = relink(&self.child, parent).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.chain().contains(words), "{words}: {error}");
        assert!(error.path().is_some(), "{error}");
        assert!(self.child() == before && modified(&self.child) == time);
    }
}

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

fn set_modified(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn children_made_by_windows_find_a_parent_that_moved() {
    let test = "children_made_by_windows_find_a_parent_that_moved";
    let scratch = Scratch::new(test);
    let Some(chains) = windows_chains(test, &scratch) else { return };
    let Some(python) = judge::python(test) else { return };
    if !have(test, &["7zz", "qemu-img"]) {
        return;
    }
    for [child, parent] in &chains {
        let before = fs::read(child).unwrap();
        let ours = digest_of(&content(&*open(child, &ParentLookup::default()).unwrap()));
        let size =
            |path: &Path| sh(&format!("qemu-img info {} | grep virtual", path.display()));
        let size_before = size(child);
        for name in
            ["renamed.vhd", "New b\u{e4}se.vhd", "B\u{e4}se of all/new parent.vhd"]
        {
            let moved = scratch.path(name);
            create_dir_all(moved.parent().unwrap()).unwrap();
            fs::rename(parent, &moved).unwrap();
            assert!(open(child, &ParentLookup::default()).is_err());
            set_modified(&moved, EPOCH + 800_000_001);
            set_modified(child, EPOCH + 5);

            relink(child, &moved).unwrap();
            let after = fs::read(child).unwrap();
            let names = Names::of(&after);
            let moved = crate::support::real(&moved);
            // Of a path of Unix as from a root without a drive.
            let native = moved.to_str().unwrap().replace('/', "\\");
            let windows = format!(r".\{}", name.replace('/', r"\"));
            assert_eq!(names.locator(b"W2ru"), Some(windows));
            assert_eq!(names.locator(b"W2ku").as_ref(), Some(&native));
            assert_eq!(names.locators.len(), 2);
            assert_eq!((&names.name, names.time), (&native, 800_000_001));
            assert_eq!(
                modified(child),
                SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH + 5)
            );

            // All but the header and the names is as it was.
            assert_eq!(after.len(), before.len());
            let differs = (0..after.len()).filter(|at| after[*at] != before[*at]);
            let rooms = [0x200..0x600, 0x1000..0x2000, 0x3000..0x13000];
            for at in differs {
                assert!(rooms.iter().any(|room| room.contains(&at)), "{at:#x} changed");
            }
            assert!(!after.windows(6).any(|text| text == b"d\0f\0v\0"));
            read_strictly(&after).unwrap();

            let found = open(child, &ParentLookup::default()).unwrap();
            assert_eq!(digest_of(&content(&*found)), ours);
            drop(found);
            // 7-Zip takes backslashes for parts of a name where they are none.
            if !name.contains('/') {
                assert_eq!(seven_zip_digest(child), ours, "{name}");
            }
            if child.ends_with("ntfs-differential.vhd") {
                assert_eq!(vhdi_digest(&python, &[child.clone(), moved.clone()]), ours);
            }
            assert_eq!(size(child), size_before);
            fs::rename(&moved, parent).unwrap();
        }
        // Where it was, with its first name.
        relink(child, parent).unwrap();
        assert_eq!(
            digest_of(&content(&*open(child, &ParentLookup::default()).unwrap())),
            ours
        );
    }
}

#[test]
fn the_new_name_is_the_one_that_counts() {
    let tree = Tree::new("relink-new", &two());
    let old = tree.put_parent("vm/b.vhd");
    assert!(tree.found(false).unwrap().0.ends_with("vm/b.vhd"));
    for aligned in [false, true] {
        for name in
            ["vm/a/b2.vhd", "vm/c.vhd", "other/deep er/\u{e4}\u{1F4BE}.vhd", "x.vhd"]
        {
            tree.reset(&two(), aligned);
            let new = tree.put_parent(name);
            set_modified(&new, EPOCH + 77);
            let len = tree.child().len();
            relink(&tree.child, &new).unwrap();
            assert_eq!(tree.child().len(), len);
            assert!(old.exists());
            let outside = !name.starts_with("vm");
            let (path, by) = tree.found(outside).unwrap();
            assert_eq!(path, crate::support::real(&new), "{name}");
            assert_eq!(by, "relative path (locator W2ru)");
            if outside {
                assert_eq!(tree.found(false).unwrap_err().kind(), Kind::ParentNotFound);
            }
            let names = Names::of(&tree.child());
            assert_eq!(names.time, 77);
            // The first one leads there alone, too.
            let mut named = Child::new(shape(2, false), id_in(&tree.parent), &names.name);
            named.parent_time = 77;
            let alone = named.build(|_| vec![0xF0, 0x0F], |b| shape(2, false).data(b));
            let whole = tree.child();
            fs::write(&tree.child, alone).unwrap();
            assert_eq!(tree.found(true).unwrap().0, crate::support::real(&new));
            fs::write(&tree.child, whole).unwrap();
        }
    }
}

/// Both sides may be given by links; what is named is what they lead to.
#[cfg(unix)]
#[test]
fn links_and_winding_paths_are_followed() {
    let tree = Tree::new("relink-links", &two());
    let real = tree.put_parent("disks/base.vhd");
    symlink(tree.scratch.path("disks"), tree.scratch.path("vm/way")).unwrap();
    symlink(&real, tree.scratch.path("vm/link.vhd")).unwrap();
    symlink(&tree.child, tree.scratch.path("child-link.vhd")).unwrap();
    for parent in ["vm/way/base.vhd", "vm/link.vhd", "vm/../vm/./way/../disks/base.vhd"] {
        tree.reset(&two(), false);
        relink(&tree.scratch.path("child-link.vhd"), &tree.scratch.path(parent)).unwrap();
        let names = Names::of(&tree.child());
        assert_eq!(names.locator(b"W2ru").as_deref(), Some(r"..\disks\base.vhd"));
        let (path, by) = tree.found(true).unwrap();
        assert_eq!(path, crate::support::real(&real));
        assert_eq!(by, "relative path (locator W2ru)");
    }
}

#[test]
fn what_is_not_the_parent_is_refused() {
    let tree = Tree::new("relink-refused", &two());
    let parent = tree.put_parent("vm/b.vhd");
    let other = tree.put("vm/other.vhd", &shape(9, false).build(&[]));
    tree.refused(&other, Kind::ParentMismatch, "its unique id is");
    tree.refused(&tree.child, Kind::ParentMismatch, "its own parent");
    tree.refused(&tree.scratch.path("vm/none.vhd"), Kind::NotFound, "cannot find");
    tree.refused(&tree.scratch.path("none/b.vhd"), Kind::PathNotFound, "folder");
    let junk = tree.put("vm/junk.vhd", b"no disk");
    tree.refused(&junk, Kind::InvalidImage, "not a disk image");
    let writer = HostFile::open_exclusive(&parent).unwrap();
    tree.refused(&parent, Kind::InUse, "in use");
    drop(writer);
    let reader = HostFile::open_read(&tree.child).unwrap();
    tree.refused(&parent, Kind::InUse, "in use");
    drop(reader);

    let mut saved = tree.child();
    let end = saved.len() - 512;
    for at in [0, end] {
        saved[at + 84] = 1;
        set_checksum(&mut saved[at..at + 512], 64);
    }
    let whole = tree.child();
    fs::write(&tree.child, saved).unwrap();
    tree.refused(&parent, Kind::WrongImageType, "saved state");
    let mut unsound = whole.clone();
    unsound[600] ^= 1;
    fs::write(&tree.child, unsound).unwrap();
    tree.refused(&parent, Kind::InvalidImage, "dynamic header checksum");
    for disk in [shape(3, false).build(&[]), fixed(&[7; 4096], 4)] {
        fs::write(&tree.child, disk).unwrap();
        tree.refused(&parent, Kind::WrongImageType, "differencing");
    }
    let nameless = Child::new(shape(2, false), [0; 16], "b.vhd");
    let file = nameless.build(|_| vec![0xF0, 0x0F], |b| shape(2, false).data(b));
    fs::write(&tree.child, file).unwrap();
    tree.refused(&parent, Kind::InvalidImage, "does not say which disk");
    // Any image may be a parent.
    let disk = fixed(&[7; 6 * 8192], 5);
    let parent = tree.put("vm/fixed.vhd", &disk);
    fs::write(&tree.child, child_of(&disk, false, &two())).unwrap();
    relink(&tree.child, &parent).unwrap();
    assert_eq!(
        Names::of(&tree.child()).locator(b"W2ru").as_deref(),
        Some(r".\fixed.vhd")
    );
}

/// A locator with room for this many bytes.
fn room(code: &[u8; 4], bytes: usize) -> Locator {
    Locator { code: *code, data: vec![b'x'; bytes], in_sectors: false }
}

// It counts the bytes of Unix' paths.
#[cfg(unix)]
#[test]
fn names_go_where_there_is_room() {
    let tree = Tree::new("relink-rooms", &[]);
    let near = tree.put_parent("vm/b.vhd");
    let codes = |names: &Names| -> Vec<String> {
        let codes = names.locators.iter();
        codes.map(|(code, _)| String::from_utf8_lossy(code).into_owned()).collect()
    };
    // What is there is reused, what is not asked for is gone.
    for (locators, expected) in [
        (vec![], vec![]),
        (vec![room(b"W2ru", 20)], vec!["W2ru"]),
        (vec![room(b"W2ku", 20)], vec!["W2ku"]),
        (vec![room(b"Mac ", 20)], vec!["W2ru"]),
        (vec![room(b"Wi2k", 20), room(b"Zz9a", 5000)], vec!["W2ku", "W2ru"]),
        (vec![room(b"MacX", 20)], vec!["MacX"]),
        (vec![room(b"Wi2r", 20), room(b"MacX", 20)], vec!["MacX", "W2ru"]),
        (vec![room(b"W2ru", 20), room(b"W2ru", 20)], vec!["W2ku", "W2ru"]),
        (
            vec![room(b"Wi2k", 9), room(b"W2ku", 9), room(b"W2ru", 9)],
            vec!["W2ku", "W2ru"],
        ),
    ] {
        tree.reset(&locators, false);
        relink(&tree.child, &near).unwrap();
        let names = Names::of(&tree.child());
        assert_eq!(codes(&names), expected, "{locators:?}");
        let alone = !expected.contains(&"W2ru");
        assert_eq!(names.name == r".\b.vhd", alone, "{names:?}");
        assert_eq!(tree.found(false).unwrap().0, crate::support::real(&near));
        assert!(!tree.child()[0x600..0x2000].windows(4).any(|text| text == b"xxxx"));
        read_strictly(&tree.child()).unwrap();
    }
    // URLs keep their manner.
    for (url, relative) in
        [(&b"file://./b.vhd"[..], true), (b"file:///b.vhd", false), (b"?", false)]
    {
        let spaced = tree.put_parent("vm/n \u{e4}.vhd");
        tree.reset(&[Locator::bytes(b"MacX", url)], false);
        relink(&tree.child, &spaced).unwrap();
        let (_, data) = Names::of(&tree.child()).locators.remove(0);
        let text = String::from_utf8(data).unwrap();
        assert!(text.ends_with("/n%20%C3%A4.vhd"), "{text}");
        assert_eq!(text == "file://./n%20%C3%A4.vhd", relative, "{text}");
        assert_eq!(tree.found(false).unwrap().0, crate::support::real(&spaced));
    }
}

// Wine has no paths beyond 260 units.
#[cfg(unix)]
#[test]
fn names_that_are_too_long_are_left_out_or_refused() {
    let tree = Tree::new("relink-long", &two());
    let folder = "l\u{f6}ng ".repeat(16) + "x";
    // Beside the child it is the absolute path that is too long for 512 bytes.
    let deep = format!("vm/{folder}/{folder}/{folder}/{folder}");
    let child = tree.put(&format!("{deep}/child.vhd"), &tree.child());
    let near = tree.put_parent(&format!("{deep}/b.vhd"));
    relink(&child, &near).unwrap();
    let names = Names::of(&fs::read(&child).unwrap());
    assert_eq!(names.locators.len(), 1);
    assert_eq!(names.locator(b"W2ru").as_deref(), Some(r".\b.vhd"));
    assert_eq!(names.name, r".\b.vhd");
    open(&child, &ParentLookup::default()).unwrap();
    // From above, both are.
    tree.refused(&near, Kind::PathTooLong, "no room");
    // 255 characters of the header may do.
    let mut part = near.clone();
    part.set_file_name("y");
    let own = crate::support::real(tree.child.parent().unwrap());
    let target = crate::support::real(part.parent().unwrap());
    let way = target.strip_prefix(&own).unwrap().to_str().unwrap().chars().count();
    for (units, fits) in [(255, true), (256, false)] {
        // `.\`, the way, `\`, the name; in 512 bytes of a locator go 256.
        let name = "n".repeat(units.min(180));
        let folder = units - 3 - name.len();
        if folder > way {
            continue;
        }
        let short: String = "s".repeat(folder);
        let path = tree.put_parent(&format!("vm/{short}/{name}"));
        tree.reset(&[], false);
        if fits {
            relink(&tree.child, &path).unwrap();
            assert_eq!(Names::of(&tree.child()).name.chars().count(), units);
            tree.found(false).unwrap();
        } else {
            tree.refused(&path, Kind::PathTooLong, "no room");
            tree.reset(&[room(b"W2ru", 512)], false);
            relink(&tree.child, &path).unwrap();
            assert_eq!(Names::of(&tree.child()).name, "");
            tree.found(false).unwrap();
        }
    }
    // With Windows' room for them all fit.
    tree.reset(&[room(b"W2ku", 4096), room(b"W2ru", 65536)], true);
    relink(&tree.child, &near).unwrap();
    let names = Names::of(&tree.child());
    assert_eq!(names.locators.len(), 2);
    assert_eq!(tree.found(false).unwrap().0, crate::support::real(&near));
}

#[cfg(unix)]
#[test]
fn paths_that_cannot_be_written_are_refused() {
    let tree = Tree::new("relink-odd", &two());
    for name in [b"not\xFFunicode.vhd".to_vec(), b"back\\slash.vhd".to_vec()] {
        let path = tree.scratch.path("vm").join(std::ffi::OsString::from_vec(name));
        fs::write(&path, &tree.parent).unwrap();
        tree.refused(&path, Kind::InvalidName, "cannot be written");
    }
    // Nor is anything mended that need not be.
    let path = tree.scratch.path("vm").join("back\\slash.vhd");
    let mut damaged = tree.child();
    damaged[100] = 1;
    fs::write(&tree.child, damaged).unwrap();
    tree.refused(&path, Kind::InvalidName, "cannot be written");
    // A URL can say it.
    tree.reset(&[room(b"W2ru", 100), room(b"MacX", 100)], false);
    relink(&tree.child, &path).unwrap();
    assert_eq!(tree.found(false).unwrap().0, crate::support::real(&path));
    assert_eq!(Names::of(&tree.child()).locators.len(), 1);
}

#[test]
fn damaged_and_short_footers_are_mended_or_kept() {
    let tree = Tree::new("relink-footers", &[]);
    let parent = tree.put_parent("vm/new.vhd");
    for aligned in [false, true] {
        for damage in [0, 1, 2] {
            tree.reset(&two(), aligned);
            let mut file = tree.child();
            match damage {
                0 => file[100] = 1,
                1 => {
                    let at = file.len() - 400;
                    file[at] = 1;
                }
                // Before Virtual PC 2004 the last byte was not written.
                _ => drop(file.pop()),
            }
            fs::write(&tree.child, &file).unwrap();
            relink(&tree.child, &parent).unwrap();
            let found = open(&tree.child, &ParentLookup::default()).unwrap();
            assert_eq!(found.facts().notes.len(), usize::from(damage == 2));
            let mut after = tree.child();
            if damage == 2 {
                assert_eq!(after.len(), file.len());
                after.push(0);
            }
            read_strictly(&after).unwrap();
            assert!(content(&*found) == read_chain(&[&after, &tree.parent]));
            assert_eq!(header_at(&after), 512);
        }
    }
}
