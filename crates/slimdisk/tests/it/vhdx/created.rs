//! New VHDX disks: judged by qemu, libvhdi, what Windows makes and a strict reader of the
//! tests' own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use slimdisk::Kind;
use slimdisk::create::{Content, Options};
use slimdisk::host::Host;
use slimdisk::image::parent::ParentLookup;
use slimdisk::image::vhdx::Vhdx;
use slimdisk::image::{self, Format, ImageType, NewImage, Writer};

use super::{PageFile, findings, open, shape};
use slimdisk::task::{Task, TaskResult};

use crate::chain::judge::digest_of;
use crate::chain::{content, open as open_chain};
use crate::create::{made, refused};
use crate::support::{Noise, Scratch, have, samples, sh, skip};
use crate::vhdx_model::{FULL, MIB, Pages, Shape, read_strictly};

fn dynamic(size: u64, block_mib: u64) -> Options {
    let mut options = Options::new(Content::Dynamic { size });
    options.block_size = Some(block_mib * MIB);
    options
}

fn child_of(parent: &Path) -> Options {
    Options::new(Content::Differencing { parent: parent.to_owned() })
}

/// What qemu says of an image, which it must find nothing wrong with.
fn qemu_info(path: &Path) -> serde_json::Value {
    let path = path.display();
    sh(&format!("qemu-img check -q -f vhdx {path}"));
    let info = sh(&format!("qemu-img info --output=json -f vhdx {path}"));
    serde_json::from_str(&info).unwrap()
}

/// A file as the strict reader wants it.
pub fn pages_of(path: &Path) -> Pages {
    Pages::from_bytes(&fs::read(path).unwrap())
}

#[test]
fn dynamic_disks_are_sound_for_everybody() {
    let test = "dynamic_vhdx_are_sound_for_everybody";
    if !have(test, &["qemu-img", "qemu-io"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let (path, raw) = (scratch.path("disk.vhdx"), scratch.path("raw"));
    for block_mib in [1, 2, 8, 32, 256] {
        for size in [3 * MIB, 5 * MIB + 1536, 300 * MIB, 40 << 30, 2 << 40] {
            let report = made(&path, &dynamic(size, block_mib));
            assert_eq!(report.virtual_size, size);
            assert_eq!(report.block_size, block_mib * MIB);
            assert_eq!(report.format, Some("vhdx"));
            assert_eq!(report.file_size % MIB, 0);
            let model = read_strictly(&pages_of(&path)).unwrap();
            assert!(!model.replayed);
            assert_eq!((model.disk_size, model.block_len), (size, block_mib * MIB));
            assert!(model.blocks.iter().all(|block| *block == (0, 0)));
            let info = qemu_info(&path);
            assert_eq!(info["virtual-size"], size);
            assert_eq!(info["cluster-size"], block_mib * MIB);
            if size <= 300 * MIB {
                // What qemu writes is found there, and the disk stays sound.
                let end = size - 512;
                sh(&format!(
                    "truncate -s {size} {1}
                     qemu-img compare -q -f vhdx -F raw {0} {1}
                     qemu-io -f vhdx -c 'write -P 7 1M 1000k' -c 'write -P 3 {end} 512' {0}
                     qemu-img check -q -f vhdx {0}",
                    path.display(),
                    raw.display()
                ));
                fs::remove_file(&raw).unwrap();
                let file = pages_of(&path);
                assert_eq!(findings(&file), []);
                let image = open(&file).unwrap();
                let disk = content(&*image);
                assert_eq!((disk[0], disk[1 << 20], disk[2 << 20]), (0, 7, 0));
                assert_eq!(disk[size as usize - 512..], [3; 512]);
            }
            fs::remove_file(&path).unwrap();
        }
    }
    // Blocks of 32 MiB unless others are wished for.
    let report = made(&path, &Options::new(Content::Dynamic { size: 40 << 30 }));
    assert_eq!((report.block_size, report.file_size), (32 * MIB, 4 * MIB));
}

#[test]
fn fixed_disks_are_set_aside_and_read_as_zeros() {
    let test = "fixed_vhdx_are_set_aside";
    if !have(test, &["qemu-img", "qemu-io"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let path = scratch.path("fixed.VHDX");
    let named = scratch.path("fixed.vhdx");
    for block_mib in [None, Some(1), Some(32), Some(256)] {
        for size in [3 * MIB, 5 * MIB + 1536, 40 * MIB] {
            let mut options = Options::new(Content::Fixed { size });
            options.block_size = block_mib.map(|mib| mib * MIB);
            let report = made(&named, &options);
            let block_len = block_mib.unwrap_or(2) * MIB;
            let blocks = size.div_ceil(block_len);
            assert_eq!(report.block_size, 0);
            assert_eq!(report.file_size, 4 * MIB + blocks * block_len);
            assert!(fs::metadata(&named).unwrap().blocks() * 512 >= size, "no room");
            let model = read_strictly(&pages_of(&named)).unwrap();
            let places: Vec<_> =
                (0..blocks).map(|n| (FULL, 4 * MIB + n * block_len)).collect();
            assert_eq!(model.blocks, places);
            assert_eq!(qemu_info(&named)["virtual-size"], size);
            let image = open(&pages_of(&named)).unwrap();
            assert_eq!(image.facts().image_type, ImageType::Fixed);
            assert!(content(&*image).iter().all(|byte| *byte == 0));
            sh(&format!("qemu-io -f vhdx -c 'write -P 7 1M 1000k' {}", named.display()));
            assert_eq!(findings(&pages_of(&named)), []);
            fs::remove_file(&named).unwrap();
        }
    }
    // The name's case does not matter.
    let options = Options::new(Content::Fixed { size: 3 * MIB });
    let report = slimdisk::create::plan(&path, &options);
    assert_eq!(report.format, Some("vhdx"));
}

/// The largest disk in the smallest blocks has 64 million entries, and most of a new
/// table is a hole.
#[test]
fn the_largest_disks_are_quick_and_small() {
    let started = Instant::now();
    for (block_mib, image_type, blank) in [
        (1, ImageType::Dynamic, true),
        (32, ImageType::Dynamic, true),
        (32, ImageType::Dynamic, false),
    ] {
        let new = NewImage {
            image_type,
            size: 64 << 40,
            block_size: Some(block_mib * MIB),
            sector_size: 512,
            physical_sector_size: None,
            geometry: None,
            parent: None,
            blank,
            unique_id: [5; 16],
            disk_id: None,
            time: SystemTime::now(),
        };
        Vhdx.check_new(&new).unwrap();
        let file = PageFile::new(Pages::default());
        let mut writer = Vhdx.create(file.clone(), &new).unwrap();
        writer.write(0, &[1; 512]).unwrap();
        writer.write((64 << 40) - 512, &[2; 512]).unwrap();
        Writer::finish(writer).unwrap();
        let pages = file.pages();
        assert_eq!(pages.len, Vhdx.file_len(&new, 2));
        let held = pages.held(0, pages.len).count() as u64 * 4096;
        let table = if blank { 0 } else { (64 << 20) / block_mib * 8 };
        assert!(held < table + MIB, "{held} bytes");
        let image = image::open(file).unwrap();
        let mut sector = [0; 512];
        image.read_at((64 << 40) - 512, &mut sector).unwrap();
        assert_eq!(sector, [2; 512]);
        let last = image.facts().blocks_total - 1;
        assert!(image.is_allocated(0) && image.is_allocated(last));
        // Nobody may show anything but zeros where zeros were copied.
        assert_eq!(image.reads_as_zeros(1), !blank);
        assert_eq!(image.facts().blocks_allocated, 2);
        // And the largest table is read by us alone in this time.
        drop(image);
        if block_mib == 32 {
            let model = read_strictly(&pages).unwrap();
            let other = if blank { 0 } else { 2 };
            assert!(model.blocks[1..last as usize].iter().all(|b| *b == (other, 0)));
        }
    }
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

#[test]
fn what_cannot_be_made_is_refused() {
    let scratch = Scratch::new("vhdx_refused");
    let path = scratch.path("new.vhdx");
    for (options, kind) in [
        (dynamic(3 * MIB - 512, 2), Kind::DiskTooSmall),
        (dynamic(3 * MIB + 1, 2), Kind::InvalidArgument),
        (dynamic((64 << 40) + 512, 2), Kind::DiskTooLarge),
        (dynamic(4 * MIB, 0), Kind::InvalidArgument),
        (dynamic(4 * MIB, 3), Kind::InvalidArgument),
        (dynamic(4 * MIB, 512), Kind::InvalidArgument),
        (Options::new(Content::Fixed { size: u64::MAX - 511 }), Kind::DiskTooLarge),
    ] {
        assert_eq!(refused(&path, &options).kind(), kind, "{options:?}");
        assert!(crate::new_file::names(scratch.dir()).is_empty());
    }
    // By its options it may be one whatever its name; by its name it is.
    let mut options = dynamic(4 * MIB, 2);
    for (name, format, is) in [
        ("a.vhdx", None, "vhdx"),
        ("a.avhdx", None, "vhdx"),
        ("a.vhd", None, "vhd"),
        ("a", None, "vhd"),
        ("a.img", Some("vhdx"), "vhdx"),
        ("a.vhdx", Some("vhd"), "vhd"),
    ] {
        options.format = format.and_then(image::format_named);
        let report = slimdisk::create::plan(&scratch.path(name), &options);
        assert_eq!(report.format, Some(is), "{name}");
    }
}

/// A part of a file, and how it is called.
type Part = (String, Vec<u8>);

/// All fields of a file that do not depend on when and by whom it was made.
fn fields(file: &Pages) -> Vec<Part> {
    let mut parts = Vec::new();
    for at in [64 << 10, 128 << 10] {
        let mut header = file.get(at, 4096);
        // Checksum, number, and whose file and content it is.
        header[4..48].fill(0);
        parts.push((format!("header at {at}"), header));
    }
    for at in [192 << 10, 256 << 10] {
        parts.push((format!("region table at {at}"), file.get(at, 64 << 10)));
    }
    let table = 2 * MIB;
    let count = u64::from(file.u32(table + 8) >> 16);
    parts.push(("metadata table".to_owned(), file.get(table, 32)));
    for row in 0..count {
        let at = table + 32 + 32 * row;
        let mut entry = file.get(at, 32);
        let (offset, len) = (file.u32(at + 16), file.u32(at + 20));
        let mut item = file.get(table + u64::from(offset), len as usize);
        if entry[..4] == [0xAB, 0x12, 0xCA, 0xBE] {
            item.fill(0);
        }
        if entry[..4] == [0x2D, 0x5F, 0xD3, 0xA8] {
            // Of the locator, whose paths have another length, what comes before.
            entry[20..24].fill(0);
            item.truncate(18);
        }
        parts.push((format!("metadata entry {row}"), entry));
        parts.push((format!("metadata item {row}"), item));
    }
    parts
}

/// The pairs of a locator.
fn pairs(file: &Pages) -> Vec<(String, String)> {
    let table = 2 * MIB;
    let row = table + 32 + 32 * 5;
    let at = table + u64::from(file.u32(row + 16));
    let item = file.get(at, file.u32(row + 20) as usize);
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([item[at], item[at + 1]]));
    let text = |offset: usize, len: usize| {
        let units: Vec<u16> = item[offset..offset + len]
            .chunks(2)
            .map(|u| u16::from_le_bytes([u[0], u[1]]))
            .collect();
        String::from_utf16(&units).unwrap()
    };
    (0..u16_at(18))
        .map(|n| 20 + 12 * n)
        .map(|at| {
            (text(u16_at(at), u16_at(at + 8)), text(u16_at(at + 4), u16_at(at + 10)))
        })
        .collect()
}

fn unpack(scratch: &Scratch, dir: &Path, name: &str) -> PathBuf {
    let path = scratch.path(name);
    sh(&format!(
        "zstd -dqf {}/{name}.zst -o {1}; chmod 644 {1}",
        dir.display(),
        path.display()
    ));
    path
}

/// Every field that can be the same is the same as in the disks that Windows made.
#[test]
fn disks_are_what_windows_makes() {
    let test = "vhdx_are_what_windows_makes";
    let Some(dir) = samples() else { return skip(test, "the folder of sample images") };
    if !have(test, &["zstd"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let new = scratch.path("new.vhdx");
    let size = 4 * MIB;
    let parent = unpack(&scratch, &dir, "ntfs-parent.vhdx");
    for (name, options) in [
        ("ntfs-dynamic.vhdx", Options::new(Content::Dynamic { size })),
        ("ntfs-fixed.vhdx", Options::new(Content::Fixed { size })),
        ("ntfs-differential.vhdx", child_of(&parent)),
        ("iotest-dynamic-1G.vhdx", Options::new(Content::Dynamic { size: 1 << 30 })),
    ] {
        let theirs = pages_of(&unpack(&scratch, &dir, name));
        let _ = fs::remove_file(&new);
        let report = made(&new, &options);
        let ours = pages_of(&new);
        for (a, b) in fields(&ours).iter().zip(fields(&theirs)) {
            assert_eq!(a.0, b.0);
            assert!(a.1 == b.1, "{name}: {}: {:x?}\n{:x?}", a.0, a.1, b.1);
        }
        assert_eq!(fields(&ours).len(), fields(&theirs).len());
        if report.image_type == Some(ImageType::Fixed) {
            assert_eq!(
                ours.get(3 * MIB, MIB as usize),
                theirs.get(3 * MIB, MIB as usize)
            );
            assert_eq!(ours.len, theirs.len);
        }
        if report.image_type == Some(ImageType::Differencing) {
            let (a, b) = (pairs(&ours), pairs(&theirs));
            let without_volume = b.iter().filter(|(key, _)| key != "volume_path");
            assert_eq!(a.len(), 4);
            for (a, b) in a.iter().zip(without_volume) {
                assert_eq!(a.0, b.0);
                assert!(a.1 == b.1 || a.0 == "absolute_win32_path", "{a:?} {b:?}");
            }
            // The same disk to its guest.
            let id = |file: &Pages| file.get(2 * MIB + (64 << 10) + 24, 16);
            assert_eq!(id(&ours), id(&theirs));
            // And what the parent shows.
            let lookup = ParentLookup::default();
            let (child, parent_disk) = (
                open_chain(&new, &lookup).unwrap(),
                open_chain(&parent, &lookup).unwrap(),
            );
            assert!(content(&*child) == content(&*parent_disk));
        }
    }
}

#[test]
fn children_show_what_their_parents_show() {
    let test = "vhdx_children_show_what_their_parents_show";
    let scratch = Scratch::new(test);
    let at = |name: &str| scratch.path(name);
    fs::create_dir(at("x")).unwrap();
    for logical in [512, 4096] {
        let shape = Shape { logical, physical: 4096, ..shape() };
        let (file, _) = shape.build(&[]);
        let disk = content(&*open(&file).unwrap());
        fs::write(at("base.vhdx"), file.bytes()).unwrap();
        let before = fs::read(at("base.vhdx")).unwrap();
        // A child, one of it, and one elsewhere.
        let child = made(&at("child.vhdx"), &child_of(&at("base.vhdx")));
        assert_eq!((child.virtual_size, child.block_size), (disk.len() as u64, 2 * MIB));
        assert_eq!(child.file_size, 4 * MIB);
        made(&at("grandchild.vhdx"), &child_of(&at("child.vhdx")));
        let far = fs::canonicalize(scratch.dir()).unwrap().join("x/far.vhdx");
        made(&far, &child_of(&at("base.vhdx")));
        let mut follow = ParentLookup::default();
        follow.follow = true;
        for (path, lookup) in [
            (at("child.vhdx"), ParentLookup::default()),
            (at("grandchild.vhdx"), ParentLookup::default()),
            (far.clone(), follow),
        ] {
            let image = open_chain(&path, &lookup).unwrap();
            assert!(content(&*image) == disk);
            assert_eq!(image.sector_size(), Some(logical));
            assert_eq!(image.physical_sector_size(), Some(4096));
            assert_eq!(image.disk_id(), open(&file).unwrap().disk_id());
        }
        let read = pages_of(&far);
        let named = pairs(&read);
        let relative = named.iter().find(|(key, _)| key == "relative_path").unwrap();
        assert_eq!(relative.1, r"..\base.vhdx");
        // Found by its bare name in a folder that the user named, too.
        fs::rename(&far, at("x/moved.vhdx")).unwrap();
        let mut lookup = ParentLookup::default();
        lookup.dirs.push(scratch.dir().to_owned());
        assert!(content(&*open_chain(&at("x/moved.vhdx"), &lookup).unwrap()) == disk);
        fs::remove_file(at("x/moved.vhdx")).unwrap();
        // 7-Zip finds the parents by their names. (libvhdi takes the start of the file for
        // the sector bitmap of a child that has none yet.)
        if logical == 512 && have(test, &["7zz"]) {
            let child = at("grandchild.vhdx");
            let read = sh(&format!(
                "7zz e -tvhdx -so {} 2>/dev/null | sha256sum",
                child.display()
            ));
            assert_eq!(read.split(' ').next().unwrap(), digest_of(&disk));
        }
        let error = refused(&at("other.vhd"), &child_of(&at("base.vhdx")));
        assert_eq!(error.kind(), Kind::WrongImageType, "{error}");
        assert!(error.what().contains(".vhdx"), "{error}");
        assert!(fs::read(at("base.vhdx")).unwrap() == before);
        // Without a name that says otherwise, the parent's format.
        let plan = slimdisk::create::plan(&at("other"), &child_of(&at("base.vhdx")));
        assert_eq!((plan.format, plan.error), (Some("vhdx"), None));
        for name in ["child.vhdx", "grandchild.vhdx", "base.vhdx"] {
            fs::remove_file(at(name)).unwrap();
        }
    }
    // A VHDX upon a VHD there is not.
    made(&at("base.vhd"), &Options::new(Content::Dynamic { size: 4 * MIB }));
    let error = refused(&at("child.vhdx"), &child_of(&at("base.vhd")));
    assert_eq!(error.kind(), Kind::WrongImageType, "{error}");
}

/// The last bytes of a VHDX are the guest's, and so are the first of a fixed VHD: an
/// image in the image must not be taken for the image.
#[test]
fn what_a_guest_stores_is_not_taken_for_the_format() {
    let mut noise = Noise::new(6);
    let mut nested = vec![0; 4 << 20];
    let end = nested.len() - 512;
    // The footer of an expanding VHD, and that of a fixed one of another size.
    for (kind, at) in [(3_u8, 512_u64), (2, u64::MAX)] {
        let mut footer = noise.bytes(512);
        footer[..8].copy_from_slice(b"conectix");
        footer[12..16].copy_from_slice(&0x1_0000_u32.to_be_bytes());
        footer[16..24].copy_from_slice(&at.to_be_bytes());
        footer[40..48].copy_from_slice(&(8_u64 << 30).to_be_bytes());
        footer[48..56].copy_from_slice(&(8_u64 << 30).to_be_bytes());
        footer[60..64].copy_from_slice(&[0, 0, 0, kind]);
        footer[84] = 0;
        crate::vhd_model::set_checksum(&mut footer, 64);
        nested[end..].copy_from_slice(&footer);
        let (_, file) = Shape::of_disk(&nested, 1);
        assert_eq!(file.get(file.len - 512, 8), b"conectix");
        let storage = PageFile::new(file.clone());
        assert_eq!(image::detect(&storage).unwrap().name(), "vhdx");
        assert!(content(&*open(&file).unwrap()) == nested);
    }
    // One that is sound either way is nobody's.
    let (_, mut file) = Shape::of_disk(&nested, 1);
    let mut footer = file.get(file.len - 512, 512);
    let len = file.len - 512;
    footer[40..48].copy_from_slice(&len.to_be_bytes());
    footer[48..56].copy_from_slice(&len.to_be_bytes());
    crate::vhd_model::set_checksum(&mut footer, 64);
    file.write(len, &footer);
    let error = image::detect(&PageFile::new(file)).unwrap_err();
    assert!(error.what().contains("several formats (vhd, vhdx)"), "{error}");
}

#[test]
fn the_host_makes_what_the_name_says() {
    let scratch = Scratch::new("vhdx_host");
    let dir = fs::canonicalize(scratch.dir()).unwrap();
    let host = Host::new();
    let (disk, child) = (dir.join("disk.vhdx"), dir.join("child.vhdx"));
    let done = |task: slimdisk::Result<Task>| {
        let task = task.unwrap();
        task.wait(None);
        assert_eq!(task.result(), Some(TaskResult::Success), "{}", task.description());
    };
    done(host.create_dynamic(&disk, 100));
    done(host.create_differencing(&child, &disk));
    done(host.create_dynamic(&dir.join("old.vhd"), 100));
    done(host.open(&disk).unwrap().convert(&dir.join("copy.vhd"), ImageType::Dynamic));
    done(host.open(&disk).unwrap().convert(&dir.join("copy.vhdx"), ImageType::Fixed));
    for name in ["disk.vhdx", "child.vhdx", "old.vhd", "copy.vhd", "copy.vhdx"] {
        let (format, findings) = image::check_file(&dir.join(name)).unwrap();
        assert!(name.ends_with(&format!(".{format}")), "{name}: {format}");
        assert!(findings.is_empty(), "{findings:?}");
    }
    host.shut_down();
}
