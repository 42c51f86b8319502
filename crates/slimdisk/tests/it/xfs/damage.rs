//! Tall B+trees spoilt on purpose, and bytes spoilt at random, which may give any reason
//! but a panic or a long wait.

use std::fs;

use super::distrust::{BY_BLOCK, BY_SIZE, block, root, sum};
use super::log::Place;
use super::trees::comb;
use super::{TOOLS, be, survey};
use crate::free_map::{Damage, Spoil, assert_noise_is_nothing, assert_reasons, put};
use crate::support::{Scratch, have};

/// Reasons that only B+trees of more than one level can give.
const TALL: &[(Spoil, &str)] = &[
    (|b| child(b, 0, 4, &[1]), "is of another level"),
    (|b| child(b, 1, 8, &[0, 0, 0, 0]), "has other neighbours"),
    (|b| child(b, 1, 12, &[0, 0, 0, 0]), "has other neighbours"),
    (|b| child(b, usize::MAX, 12, &[0, 0, 0, 9]), "goes on after its end"),
    (|b| child(b, 0, 8, &[0, 0, 0, 9]), "has other neighbours"),
    (|b| child(b, 1, 6, &[0, 3]), "an impossible number of records"),
    (|b| child(b, 1, 6, &[0, 0]), "an impossible number of records"),
    (
        |b| {
            let root = root(b, 0, BY_BLOCK);
            let key = be(b, root + 64, 4) as u32 - 1;
            block(b, root, 64, &key.to_be_bytes());
        },
        "does not begin as its key says",
    ),
    (
        |b| {
            let root = root(b, 0, BY_BLOCK);
            let first = b[pointer(root, 0)..][..4].to_vec();
            block(b, root, pointer(0, 1), &first);
        },
        "has other neighbours",
    ),
    (
        |b| {
            let root = root(b, 0, BY_BLOCK);
            block(b, root, pointer(0, 1), &[0xFF; 4]);
        },
        "leaves its group",
    ),
    (
        |b| {
            let root = root(b, 0, BY_BLOCK);
            block(b, root, 6, &[0, 0]);
        },
        "an impossible number of records",
    ),
    // A leaf that is called free: the first extent of another leaf is moved onto it.
    (
        |b| free_leaf(b, BY_BLOCK),
        "a block of a B+tree of allocation group 0 is called free",
    ),
    (
        |b| free_leaf(b, BY_SIZE),
        "a block of a B+tree of allocation group 0 is called free",
    ),
];

/// Where the pointers of an inner block of 1 KiB lie.
fn pointer(root: usize, number: usize) -> usize {
    root + 56 + (1024 - 56) / 12 * 8 + number * 4
}

/// Changes a child of the root of the tree by block; the last one for `usize::MAX`.
fn child(bytes: &mut [u8], number: usize, at: usize, with: &[u8]) {
    let leaf = leaf(bytes, BY_BLOCK, number);
    block(bytes, leaf, at, with);
}

fn leaf(bytes: &[u8], field: usize, number: usize) -> usize {
    let root = root(bytes, 0, field);
    let number = number.min(be(bytes, root + 6, 2) as usize - 1);
    be(bytes, pointer(root, number), 4) as usize * 1024
}

/// Lets the long extent at the end of the tree by block begin with a leaf, which is
/// copied there, and be free all the same.
fn free_leaf(bytes: &mut [u8], field: usize) {
    let last = leaf(bytes, BY_BLOCK, usize::MAX);
    let records = be(bytes, last + 6, 2) as usize;
    let extent = be(bytes, last + 56 + (records - 1) * 8, 4) as usize;
    let number = 2;
    let from = leaf(bytes, field, number);
    let copy = bytes[from..from + 1024].to_vec();
    put(bytes, extent * 1024, &copy);
    block(bytes, extent * 1024, 16, &(extent as u64 * 2).to_be_bytes());
    let place = (extent as u32).to_be_bytes();
    let root = root(bytes, 0, field);
    block(bytes, root, pointer(0, number), &place);
    let (left, right) = (leaf(bytes, field, number - 1), leaf(bytes, field, number + 1));
    block(bytes, left, 12, &place);
    block(bytes, right, 8, &place);
}

#[test]
fn every_reason_of_tall_trees_has_its_image_and_damage_frees_nothing() {
    let test = "every_reason_of_tall_xfs_trees_has_its_image";
    if !have(test, TOOLS) || !have(test, &["losetup"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let image = comb(&scratch, "17M", "-b size=1024 -d agcount=1", 1500);
    let sound = fs::read(image).unwrap();
    assert_eq!(be(&sound, 512 + 28, 4), 2);
    assert_reasons("xfs", &sound, TALL.iter().copied());

    let before = survey(&sound);
    let (_, head) = Place::of(&sound).last_record(&sound);
    let by_block = root(&sound, 0, BY_BLOCK);
    let by_size = root(&sound, 0, BY_SIZE);
    let leaves = [leaf(&sound, BY_BLOCK, 1), leaf(&sound, BY_SIZE, 1)];
    let areas = [
        0..264,
        512..512 + 224,
        1024..1024 + 344,
        1536..2048,
        by_block..by_block + 200,
        by_size..by_size + 200,
        leaves[0]..leaves[0] + 1024,
        leaves[1]..leaves[1] + 1024,
        head - 1024..head + 1024,
    ];
    // What a checksum covers is put right, so that the bytes get past it.
    let mend = |bytes: &mut Vec<u8>| {
        sum(bytes, 0, 512, 224);
        sum(bytes, 512, 512, 216);
        sum(bytes, 1024, 512, 312);
        sum(bytes, 1536, 512, 32);
        for block in [by_block, by_size, leaves[0], leaves[1]] {
            sum(bytes, block, 1024, 52);
        }
    };
    for (mend, seed) in
        [(&mend as &dyn Fn(&mut Vec<u8>), 71), (&|_: &mut Vec<u8>| {}, 72)]
    {
        let damage =
            Damage { name: "xfs", areas: &areas, rounds: 700, seed, readings: 2, mend };
        let refused = damage.run(&sound, |area, free| {
            assert_eq!(free, before.1, "area {area}");
        });
        assert!(refused > 300, "only {refused} were refused");
    }
}

/// Without checksums the other checks stand alone.
#[test]
fn damage_of_version_4_frees_nothing() {
    let test = "damage_of_an_xfs_of_version_4_frees_nothing";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let image = scratch.path("v");
    super::mkfs(&image, "17M", "-m crc=0 -d agcount=1 -b size=1024");
    let sound = fs::read(image).unwrap();
    let before = survey(&sound);
    assert_eq!(before.0.untrusted, None);
    assert!(!before.1.is_empty());
    let (by_block, by_size) = (root(&sound, 0, BY_BLOCK), root(&sound, 0, BY_SIZE));
    let areas = [
        0..208,
        512..576,
        1024..1072,
        1536..1600,
        by_block..by_block + 60,
        by_size..by_size + 60,
    ];
    let mend = |_: &mut Vec<u8>| {};
    let damage = Damage {
        name: "xfs",
        areas: &areas,
        rounds: 1000,
        seed: 73,
        readings: 2,
        mend: &mend,
    };
    let refused = damage.run(&sound, |area, free| {
        assert_eq!(free, before.1, "area {area}");
    });
    assert!(refused > 300, "only {refused} were refused");
    let flags: &[(Spoil, &str)] = &[
        (|b| put(b, 100, &[0x94]), "version 1 directories"),
        (|b| b[100] |= 2, "the feature shared"),
        (|b| b[202] |= 4, "an unknown feature (features2 0x400)"),
        (|b| b[207] |= 0x10, "an unknown feature (features2 0x10)"),
    ];
    assert_reasons("xfs", &sound, flags.iter().copied());
}

#[test]
fn any_bytes_at_all() {
    assert_noise_is_nothing("xfs", |bytes| {
        if bytes.len() >= 512 {
            put(bytes, 0, b"XFSB");
        }
    });
}
