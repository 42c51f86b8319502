//! Differencing images: read through their parents, who must be the right ones.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use slimdisk::Kind;
use slimdisk::image::parent::{ParentLookup, children_of, open_parents};
use slimdisk::image::{self, Extent, Format, Image, ImageType, Piece, Severity};
use slimdisk::storage::HostFile;

use super::{PageFile, findings, guest, has, open, open_error, shape, with};
use crate::chain::judge::{digest_of, python, vhdi_digest};
use crate::support::{Noise, Scratch, have, samples, sh, skip};
use crate::vhdx_model::{FULL, Link, MIB, PARTIAL, Pages, Shape, UNMAPPED, guid_text};

fn pair(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

/// A link to the disk of a shape.
pub fn link_to(parent: &Shape, path: &str) -> Link {
    let id = guid_text(&parent.guids()[1]);
    let pairs = vec![
        pair("parent_linkage", &format!("{{{id}}}")),
        pair("absolute_win32_path", &format!(r"\\?\C:\disks\{path}")),
        pair("relative_path", &format!(r".\{path}")),
    ];
    Link { pairs }
}

/// A child of [`super::shape`] with blocks in every state there is.
pub fn child_shape(logical: u32) -> Shape {
    Shape {
        order: vec![
            (3, PARTIAL, 0),
            (7, FULL, 1),
            (4, PARTIAL, 0),
            (9, PARTIAL, 0),
            (1, UNMAPPED, 0),
        ],
        entries: vec![(0, 2), (8, 3)],
        eighths: vec![(3, 0b0101_0001), (4, 0), (9, 0xFF)],
        link: Some(link_to(&parent_shape(logical), "parent.vhdx")),
        logical,
        seed: 5,
        ..shape()
    }
}

fn parent_shape(logical: u32) -> Shape {
    Shape { logical, ..shape() }
}

/// The guest's disk by the specification alone.
fn disk_of(child: &Shape, parent: &[u8]) -> Vec<u8> {
    let mut disk = vec![0; child.disk_size() as usize];
    let shown = disk.len().min(parent.len());
    disk[..shown].copy_from_slice(&parent[..shown]);
    let len = child.block_len() as usize;
    let end = disk.len();
    let range = |block: u32| block as usize * len..((block as usize + 1) * len).min(end);
    for (block, entry) in &child.entries {
        if entry & 7 != 0 {
            disk[range(*block)].fill(0);
        }
    }
    for (block, state, _) in &child.order {
        let mut own = vec![0; len];
        for (at, bytes) in child.data(*block) {
            own[at as usize..][..4096].copy_from_slice(&bytes);
        }
        let eighths = match *state {
            FULL => 0xFF,
            PARTIAL => {
                child.eighths.iter().find(|(b, _)| b == block).map_or(0, |(_, e)| *e)
            }
            _ => {
                disk[range(*block)].fill(0);
                continue;
            }
        };
        let to = &mut disk[range(*block)];
        for eighth in 0..8 {
            let part = eighth * len / 8..((eighth + 1) * len / 8).min(to.len());
            if eighths & 1 << eighth != 0 && part.start < part.end {
                to[part.clone()].copy_from_slice(&own[part]);
            }
        }
    }
    disk
}

fn content(image: &dyn Image) -> Vec<u8> {
    guest(image, 0, image.len() as usize)
}

fn boxed(file: &Pages) -> Box<dyn Image> {
    open(file).unwrap()
}

#[test]
fn each_sector_comes_from_where_the_bitmap_says() {
    for logical in [512, 4096] {
        let (parent, _) = parent_shape(logical).build(&[]);
        let parent: Arc<dyn Image> = Arc::from(boxed(&parent));
        let shape = child_shape(logical);
        let (file, _) = shape.build(&[]);
        assert_eq!(findings(&file), []);
        let mut child = boxed(&file);
        assert_eq!(child.facts().image_type, ImageType::Differencing);
        assert_eq!(child.compactable().unwrap_err().kind(), Kind::ParentNotFound);
        assert_eq!(
            child.read_at(2 * MIB, &mut [0; 512]).unwrap_err().kind(),
            Kind::ParentNotFound
        );
        child.set_parent(parent.clone()).unwrap();
        let disk = disk_of(&shape, &content(&*parent));
        assert!(content(&*child) == disk);
        for block in 0..10 {
            let mut data = vec![9; MIB as usize];
            child.read_block(block, 0, &mut data).unwrap();
            assert!(data == disk[block as usize * MIB as usize..][..MIB as usize]);
        }
        let own = |block| child.own_bytes(block).unwrap().map(|own| own.total());
        assert_eq!(own(3), Some(3 * MIB / 8));
        assert_eq!((own(4), own(9), own(7)), (Some(0), Some(MIB), None));
        let mut at = 0;
        while let Some(data) = child.next_data(at).unwrap() {
            assert!(disk[at as usize..data.start as usize].iter().all(|byte| *byte == 0));
            at = data.end;
        }
        assert!(disk[at as usize..].iter().all(|byte| *byte == 0));
        // Odd pieces.
        let mut noise = Noise::new(4);
        for _ in 0..300 {
            let at = noise.below(10 * MIB - 1);
            let len = (1 + noise.below(3 * MIB)).min(10 * MIB - at);
            assert!(
                guest(&*child, at, len as usize) == disk[at as usize..][..len as usize]
            );
        }
    }
}

#[test]
fn a_parent_of_another_size_ends_in_zeros() {
    for blocks in [5, 20] {
        let parent_shape = Shape {
            order: vec![(4, FULL, 0), (2, FULL, 0)],
            blocks,
            ..parent_shape(512)
        };
        let mut shape = child_shape(512);
        shape.link = Some(link_to(&parent_shape, "p.vhdx"));
        let parent: Arc<dyn Image> = Arc::from(boxed(&parent_shape.build(&[]).0));
        let mut child = boxed(&shape.build(&[]).0);
        child.set_parent(parent.clone()).unwrap();
        assert!(content(&*child) == disk_of(&shape, &content(&*parent)));
    }
}

#[test]
fn the_parent_must_be_the_one_that_was_meant() {
    let (parent, _) = parent_shape(512).build(&[]);
    let other = Shape { seed: 77, ..parent_shape(512) };
    let mut child = boxed(&child_shape(512).build(&[]).0);
    let error = child.set_parent(Arc::from(boxed(&other.build(&[]).0))).unwrap_err();
    assert_eq!(error.kind(), Kind::ParentMismatch);

    // The same identity with other sectors.
    let mut child = boxed(&child_shape(512).build(&[]).0);
    let wide = parent_shape(4096).build(&[]).0;
    let error = child.set_parent(Arc::from(boxed(&wide))).unwrap_err();
    assert_eq!(error.kind(), Kind::ParentMismatch);
    assert!(error.to_string().contains("4096 bytes"), "{error}");

    // The second linkage will do.
    let mut shape = child_shape(512);
    let mut link = link_to(&other, "parent.vhdx");
    link.pairs[0].0 = "parent_linkage2".to_owned();
    link.pairs.push(pair("parent_linkage", "{00000001-0002-0003-0004-000000000005}"));
    shape.link = Some(link);
    for (file, right) in [(other.build(&[]).0, true), (parent.clone(), false)] {
        let mut child = boxed(&shape.build(&[]).0);
        let set = child.set_parent(Arc::from(boxed(&file)));
        assert_eq!(set.is_ok(), right);
        let link = child.parent_link().unwrap().unwrap();
        assert_eq!(link.leads_to(boxed(&file).facts().unique_id), right);
    }
    let mut whole = boxed(&parent);
    assert_eq!(
        whole.set_parent(Arc::from(boxed(&parent))).unwrap_err().kind(),
        Kind::WrongImageType
    );
}

#[test]
fn parents_are_found_by_their_names_and_children_by_theirs() {
    let scratch = Scratch::new("vhdx-chain-found");
    let write = |name: &str, file: &Pages| {
        let path = scratch.path(name);
        fs::write(&path, file.bytes()).unwrap();
        path
    };
    let parent = write("parent.vhdx", &parent_shape(512).build(&[]).0);
    let child = write("child.avhdx", &child_shape(512).build(&[]).0);
    let mut second = child_shape(512);
    let mut link = link_to(&parent_shape(512), "parent.vhdx");
    link.pairs[0].0 = "parent_linkage2".to_owned();
    link.pairs.push(pair("parent_linkage", "{00000001-0002-0003-0004-000000000005}"));
    second.link = Some(link);
    let second = write("second.vhdx", &second.build(&[]).0);
    write("stranger.vhdx", &Shape { seed: 99, ..shape() }.build(&[]).0);
    for path in [&child, &second] {
        let mut image =
            image::open(Arc::new(HostFile::open_read(path).unwrap())).unwrap();
        let chain = open_parents(&mut *image, path, &ParentLookup::default()).unwrap();
        assert_eq!(chain.parents().len(), 1);
        assert_eq!(chain.parents()[0].path, crate::support::real_path(&parent).unwrap());
        assert_eq!(chain.parents()[0].found_by, "relative path (relative_path)");
        assert!(chain.notes().is_empty());
    }
    let image = image::open(Arc::new(HostFile::open_read(&parent).unwrap())).unwrap();
    let id = image.facts().unique_id.unwrap();
    assert_eq!(children_of(&parent, &id).paths, [child.clone(), second]);

    fs::remove_file(&parent).unwrap();
    let mut image = image::open(Arc::new(HostFile::open_read(&child).unwrap())).unwrap();
    let error =
        open_parents(&mut *image, &child, &ParentLookup::default()).err().unwrap();
    assert_eq!(error.kind(), Kind::ParentNotFound);
    assert!(error.to_string().contains(r"C:\disks\parent.vhdx"), "{error}");
}

#[test]
fn unsound_children_are_refused_by_name() {
    let shape = child_shape(512);
    let (file, places) = shape.build(&[]);
    let ratio = shape.ratio();
    let bitmap = places.bat + ratio * 8;
    assert_eq!(file.get(bitmap, 1), [6]);
    let place = u64::from_le_bytes(file.get(bitmap, 8).try_into().unwrap());
    for (words, file) in [
        ("a sector bitmap for a partially present", with(&file, bitmap, &[0; 8])),
        ("for a partially present", with(&file, bitmap, &[7])),
        ("does not overlap", with(&file, bitmap, &(place + MIB).to_le_bytes())),
        ("inside the file", with(&file, bitmap, &(file.len | 6).to_le_bytes())),
        ("in the log or a region", with(&file, bitmap, &(places.log | 6).to_le_bytes())),
    ] {
        let error = open_error(&file);
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert!(has(&findings(&file), Severity::Error, words));
    }
    let layout = boxed(&file).layout().unwrap();
    let bitmap = Extent { place: place - 6, piece: Piece::Bitmap(0) };
    assert!(layout.extents.contains(&bitmap));
    assert_eq!((layout.partial, layout.chunk_blocks), (vec![3, 4, 9], 4096));
    // One that the table need not reach is not asked for.
    assert_eq!(image::vhdx::Vhdx.parent_ids(&PageFile::new(file)), {
        let parent = boxed(&parent_shape(512).build(&[]).0);
        [parent.facts().unique_id.unwrap()]
    });
}

fn unpack(scratch: &Scratch, dir: &std::path::Path, name: &str) -> PathBuf {
    let path = scratch.path(name);
    let to = path.display();
    sh(&format!("zstd -q -d {}/{name}.zst -o {to} && chmod 644 {to}", dir.display()));
    path
}

/// Chains that Windows made, read as libvhdi reads them.
#[test]
fn chains_made_by_windows_are_read_as_libvhdi_reads_them() {
    let test = "chains_made_by_windows_are_read_as_libvhdi_reads_them";
    let Some(dir) = samples() else {
        skip(test, "the folder of sample images");
        return;
    };
    if !have(test, &["zstd", "sha256sum"]) {
        return;
    }
    let Some(python) = python(test) else { return };
    let scratch = Scratch::new(test);
    for kind in ["ntfs", "fat"] {
        let parent = unpack(&scratch, &dir, &format!("{kind}-parent.vhdx"));
        let child = unpack(&scratch, &dir, &format!("{kind}-differential.vhdx"));
        let mut image =
            image::open(Arc::new(HostFile::open_read(&child).unwrap())).unwrap();
        let chain = open_parents(&mut *image, &child, &ParentLookup::default()).unwrap();
        assert_eq!(chain.parents().len(), 1);
        let link = image.parent_link().unwrap().unwrap();
        assert!(link.names.iter().any(|name| name.text.contains("parent.vhdx")));
        let theirs = vhdi_digest(&python, &[child.clone(), parent.clone()]);
        assert_eq!(digest_of(&content(&*image)), theirs, "{kind}");
        let alone = open_parents(
            &mut *image::open(Arc::new(HostFile::open_read(&parent).unwrap())).unwrap(),
            &parent,
            &ParentLookup::default(),
        );
        assert!(alone.unwrap().parents().is_empty());
        let (_, found) = image::check_file(&child).unwrap();
        assert!(found.is_empty(), "{found:?}");
    }
}

/// Random chains, read as libvhdi and 7-Zip read them.
#[test]
fn random_chains_are_read_as_others_read_them() {
    let test = "vhdx_random_chains_are_read_as_others_read_them";
    if !have(test, &["sha256sum", "7zz"]) {
        return;
    }
    let Some(python) = python(test) else { return };
    let scratch = Scratch::new(test);
    let mut noise = Noise::new(8);
    for round in 0..6 {
        let parent_shape = Shape { seed: noise.next(), ..parent_shape(512) };
        let mut shape = child_shape(512);
        shape.seed = noise.next();
        shape.link = Some(link_to(&parent_shape, "p.vhdx"));
        // What the judges know of: a block that was given up is the parent's for them.
        (shape.entries, shape.order) = (Vec::new(), Vec::new());
        for block in 0..10 {
            match noise.below(3) {
                0 => shape.order.push((block, FULL, noise.below(2))),
                1 => shape.order.push((block, PARTIAL, 0)),
                _ => {}
            }
        }
        let bits = |(block, ..): &(u32, u64, u64)| (*block, noise.next() as u8);
        shape.eighths = shape.order.iter().filter(|o| o.1 == PARTIAL).map(bits).collect();
        let paths = ["c.vhdx", "p.vhdx"].map(|name| scratch.path(name));
        fs::write(&paths[0], shape.build(&[]).0.bytes()).unwrap();
        fs::write(&paths[1], parent_shape.build(&[]).0.bytes()).unwrap();
        let parent: Arc<dyn Image> = Arc::from(boxed(&parent_shape.build(&[]).0));
        let mut child = boxed(&shape.build(&[]).0);
        child.set_parent(parent.clone()).unwrap();
        let ours = content(&*child);
        assert!(ours == disk_of(&shape, &content(&*parent)), "{round}: {shape:?}");
        let ours = digest_of(&ours);
        assert_eq!(ours, vhdi_digest(&python, &paths), "{round}: {shape:?}");
        let theirs = sh(&format!(
            "7zz e -tvhdx -so {} 2>/dev/null | sha256sum",
            paths[0].display()
        ));
        assert_eq!(ours, theirs.split(' ').next().unwrap(), "{round}: {shape:?}");
    }
}
