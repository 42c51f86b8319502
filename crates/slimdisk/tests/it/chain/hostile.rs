//! Damaged children: an error or some bytes, never a panic or a hang.

use std::sync::Arc;

use slimdisk::image;
use slimdisk::image::parent::{ParentLookup, open_parents};

use crate::chain_model::{Child, Locator, id_in};
use crate::faults::MemFile;
use crate::support::{Noise, Scratch};
use crate::vhd_model::{Shape, set_checksum};

#[test]
fn no_bytes_of_a_child_make_it_panic() {
    let scratch = Scratch::new("chain-hostile");
    let mut noise = Noise::new(99);
    let mut shape = Shape::random(&mut noise);
    (shape.block_size, shape.blocks, shape.aligned) = (8192, 8, false);
    shape.order = vec![(3, 0), (0, 0), (7, 0)];
    (shape.batmap, shape.creator) = (false, *b"win ");
    let parent = shape.build(&[]);
    std::fs::write(scratch.path("b.vhd"), &parent).unwrap();
    shape.seed += 1;
    let mut child = Child::new(shape.clone(), id_in(&parent), "b.vhd");
    child.locators = vec![
        Locator::utf16(b"W2ru", r".\x\..\b.vhd"),
        Locator::bytes(b"MacX", b"file://./b.vhd"),
    ];
    let whole = child.build(|_| vec![0x3C, 0xC3], |block| shape.data(block));
    let path = scratch.path("child.vhd");
    std::fs::write(&path, &whole).unwrap();
    let (mut read, mut refused) = (0, 0);
    for _ in 0..6000 {
        let mut file = whole.clone();
        for _ in 0..=noise.below(3) {
            // Headers, table, locators, bitmaps.
            let at = match noise.below(3) {
                0 => 512 + 40 + noise.below(16) as usize,
                1 => 0x800 + noise.below(1100) as usize,
                _ => noise.below(0x800 + 4096 + 8192) as usize,
            };
            file[at] = noise.next() as u8;
        }
        set_checksum(&mut file[512..1536], 36);
        set_checksum(&mut file[..512], 64);
        let Ok(mut image) = image::open(Arc::new(MemFile::new(file))) else { continue };
        if open_parents(&mut *image, &path, &ParentLookup::default()).is_err() {
            refused += 1;
            continue;
        }
        let mut disk = vec![0; image.len().min(1 << 20) as usize];
        let _ = image.read_at(0, &mut disk);
        let _ = image.next_data(noise.below(disk.len() as u64));
        for block in 0..image.facts().blocks_total {
            let _ = image.own_bytes(block);
        }
        read += 1;
    }
    assert!(read > 1000 && refused > 50, "{read} read, {refused} refused");
}

/// Tapdisk reads no sector bitmap of a block that its batmap calls full.
#[test]
fn a_batmap_that_contradicts_a_bitmap_is_refused() {
    let shape = Shape {
        block_size: 8192,
        blocks: 4,
        order: vec![(2, 0)],
        aligned: false,
        spare_entries: 0,
        batmap: true,
        creator: *b"tap\0",
        seed: 5,
    };
    let parent = Shape { batmap: false, creator: *b"win ", seed: 6, ..shape.clone() };
    let parent = parent.build(&[]);
    let child = Child::new(shape.clone(), id_in(&parent), "b.vhd");
    let open = |file: Vec<u8>| image::open(Arc::new(MemFile::new(file))).unwrap();
    let attach = |file| {
        let mut image = open(file);
        image.set_parent(Arc::from(open(parent.clone()))).unwrap();
        image
    };
    let sound = child.build(|_| vec![0xFF, 0xFF], |block| shape.data(block));
    let mut data = vec![0; 8192];
    attach(sound).read_block(2, 0, &mut data).unwrap();
    assert!(data == shape.data(2));
    let odd = child.build(|_| vec![0xFF, 0xFE], |block| shape.data(block));
    let error = attach(odd.clone()).read_block(2, 0, &mut data).unwrap_err();
    assert!(error.to_string().contains("batmap says that all sectors"), "{error}");
    // A batmap that nobody believes contradicts nothing.
    let mut unsound = odd;
    unsound[0x600 + 512 + 24] ^= 1;
    attach(unsound).read_block(2, 0, &mut data).unwrap();
    assert!(data[..7680] == shape.data(2)[..7680]);

    // Tapdisk 0.1 had its bits in another order.
    let mut early = child.build(|_| vec![0xFF, 0xFF], |block| shape.data(block));
    let end = early.len() - 512;
    for at in [0, end] {
        early[at + 32..at + 36].copy_from_slice(&1u32.to_be_bytes());
        set_checksum(&mut early[at..at + 512], 64);
    }
    let error = open(early).set_parent(Arc::from(open(parent.clone()))).unwrap_err();
    assert!(error.to_string().contains("tapdisk 0.1"), "{error}");
}

/// Nothing lies on the batmap's header, wherever its map is.
#[test]
fn a_block_on_the_batmaps_header_is_refused() {
    let shape = Shape {
        block_size: 4096,
        blocks: 4,
        order: vec![(2, 20)],
        aligned: false,
        spare_entries: 0,
        batmap: true,
        creator: *b"tap\0",
        seed: 5,
    };
    let mut file = shape.build(&[]);
    let batmap = 0x800;
    assert_eq!(&file[batmap..batmap + 8], b"tdbatmap");
    let end = file.len() - 512;
    let map = file[batmap + 512..batmap + 1024].to_vec();
    file.splice(end..end, map);
    file[batmap + 8..batmap + 16].copy_from_slice(&(end as u64).to_be_bytes());
    image::open(Arc::new(MemFile::new(file.clone()))).unwrap();
    file[0x600..0x604].copy_from_slice(&((batmap / 512) as u32).to_be_bytes());
    let error = image::open(Arc::new(MemFile::new(file.clone()))).map(drop).unwrap_err();
    assert!(error.to_string().contains("lies on no header or table"), "{error}");
    file[0x600..0x604].copy_from_slice(&((batmap / 512 + 1) as u32).to_be_bytes());
    image::open(Arc::new(MemFile::new(file))).unwrap();
}

/// A hole of the child's file, in a block of which no sector is here, hides nothing.
#[test]
fn a_hole_under_clear_bits_shows_the_parent() {
    use crate::vhd_model::FileAt as _;
    let scratch = Scratch::new("chain-holes");
    let mut shape = Shape {
        block_size: 65536,
        blocks: 3,
        order: vec![(0, 0), (1, 0), (2, 0)],
        aligned: true,
        spare_entries: 0,
        batmap: false,
        creator: *b"win ",
        seed: 8,
    };
    let parent = shape.build(&[0, 2]);
    shape.seed = 9;
    let child = Child::new(shape, id_in(&parent), "b.vhd");
    let bytes = child.build(|_| vec![0; 16], |_| vec![0; 65536]);
    std::fs::write(scratch.path("b.vhd"), &parent).unwrap();
    let path = scratch.path("child.vhd");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (index, piece) in bytes.chunks(4096).enumerate() {
        if piece.iter().any(|byte| *byte != 0) {
            file.write_all_at(piece, index as u64 * 4096).unwrap();
        }
    }
    drop(file);
    let image = super::open(&path, &ParentLookup::default()).unwrap();
    let mut at = 0;
    let mut covered = 0;
    while let Some(data) = image.next_data(at).unwrap() {
        covered += data.end.min(131_072).saturating_sub(data.start.max(65536));
        at = data.end;
    }
    assert_eq!(covered, 65536, "the parent's block");
}
