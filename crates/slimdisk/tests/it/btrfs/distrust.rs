//! Every reason not to trust: an image that gives it, and its sound twin; and
//! bytes at random, which may give any reason but a panic or a long wait.

use std::fs;

use super::image::{
    CHUNK_ROOT, GENERATION, HEADER, Image, Key, MIRROR, ROOT, SUPER, SYS_CHUNKS,
    contents, convert_to_block_group_tree, edit_item, edit_root, get_super, le,
    node_size, places, put_key, put_le, refill, seal, set_mirror, set_super,
};
use super::{TOOLS, case, free_of, make, mounted, survey, survey_file};
use crate::free_map::{Damage, Spoil, assert_noise_is_nothing, assert_reasons, put};
use crate::support::{Scratch, have, sh};

const ROOTS: u64 = 1;
const EXTENTS: u64 = 2;
const CHUNKS: u64 = 3;
const DEVICES: u64 = 4;
const FREE_SPACE: u64 = 10;
const GROUPS: u64 = 11;

/// Places in the superblock.
const FLAGS: usize = 56;
const LOG_ROOT: usize = 96;
const TOTAL: usize = 112;
const USED: usize = 120;
const COMPAT: usize = 172;
const COMPAT_RO: usize = 180;
const INCOMPAT: usize = 188;
const DEVICE: usize = 201;
/// The first chunk in it, after its key.
const SYS_CHUNK: usize = SYS_CHUNKS + 17;

fn add_super(bytes: &mut [u8], at: usize, value: u64) {
    let sum = get_super(bytes, at, 8).wrapping_add(value);
    set_super(bytes, at, 8, sum);
}

fn flag_super(bytes: &mut [u8], at: usize, value: u64) {
    let flags = get_super(bytes, at, 8) | value;
    set_super(bytes, at, 8, flags);
}

/// Lets a tree begin elsewhere, for the mirror too.
fn set_tree(bytes: &mut [u8], at: usize, address: u64) {
    set_super(bytes, at, 8, address);
    set_mirror(bytes, at, 8, address);
}

/// Lets nobody believe the free space tree.
fn without_witness(bytes: &mut [u8]) {
    set_super(bytes, COMPAT_RO, 8, 1);
}

/// Changes `n` bytes of the root of a tree.
fn set_root(bytes: &mut [u8], tree: u64, at: usize, n: usize, value: u64) {
    edit_root(bytes, tree, |node| put_le(node, at, n, value));
}

/// Changes `n` bytes in the data of the first item of a kind.
fn set_item(bytes: &mut [u8], tree: u64, kind: u8, at: usize, n: usize, value: u64) {
    edit_item(
        bytes,
        tree,
        |key| key.1 == kind,
        |leaf, _, data| {
            put_le(leaf, data + at, n, value);
        },
    );
}

type Items = Vec<(Key, Vec<u8>)>;

/// Changes the items of a tree that is a leaf.
fn change(bytes: &mut [u8], tree: u64, how: impl Fn(&mut Items)) {
    let mut items = contents(bytes, tree);
    how(&mut items);
    items.sort();
    refill(bytes, tree, &items);
}

fn remove(bytes: &mut [u8], tree: u64, which: impl Fn(Key) -> bool) {
    change(bytes, tree, |items| {
        let found = items.iter().position(|(key, _)| which(*key)).unwrap();
        items.remove(found);
    });
}

fn add(bytes: &mut [u8], tree: u64, key: Key, data: &[u8]) {
    change(bytes, tree, |items| items.push((key, data.to_vec())));
}

/// Gives the first item of a kind another key.
fn rekey(bytes: &mut [u8], tree: u64, kind: u8, how: impl Fn(&mut Key)) {
    change(bytes, tree, |items| {
        how(&mut items.iter_mut().find(|(key, _)| key.1 == kind).unwrap().0);
    });
}

/// Cuts the data of the first item of a kind, or lets it grow.
fn resize(bytes: &mut [u8], tree: u64, kind: u8, by: isize) {
    change(bytes, tree, |items| {
        let item = items.iter_mut().find(|(key, _)| key.1 == kind).unwrap();
        let size = item.1.len().checked_add_signed(by).unwrap();
        item.1.resize(size, 0);
    });
}

/// The first chunk of this type, whatever its profile.
fn chunk_of_type(bytes: &[u8], kind: u64) -> (Key, Vec<u8>) {
    let mut items = contents(bytes, CHUNKS).into_iter();
    items.find(|(key, data)| key.1 == 228 && le(data, 24, 8) & !0x20 == kind).unwrap()
}

/// A data extent in the middle of things.
fn data_extent(bytes: &[u8]) -> Key {
    let items = contents(bytes, EXTENTS);
    let data: Vec<_> =
        items.iter().filter(|(k, data)| k.1 == 168 && data[16] == 1).collect();
    data[data.len() / 2].0
}

/// Takes an extent out of the tree and out of all counts.
fn forget_extent(bytes: &mut [u8], key: Key, size: u64) {
    without_witness(bytes);
    change(bytes, EXTENTS, |items| {
        items.retain(|(other, _)| *other != key && !(other.0 == key.0 && other.1 < 192));
        let (_, group) =
            items.iter_mut().rfind(|(k, _)| k.1 == 192 && k.0 <= key.0).unwrap();
        let used = le(group, 0, 8) - size;
        put_le(group, 0, 8, used);
    });
    add_super(bytes, USED, size.wrapping_neg());
}

fn forget_node(bytes: &mut [u8], tree: u64) {
    let (address, level) = Image::of(bytes).tree(bytes, tree).nodes[0];
    let size = node_size(bytes) as u64;
    forget_extent(bytes, (address, 169, level.into()), size);
}

const SUPERBLOCK: &[(Spoil, &str)] = &[
    (|b| b[SUPER + 64] = 0, "lacks its signature"),
    (|b| set_super(b, 48, 8, 0), "lacks its signature or its own address"),
    (|b| set_super(b, 196, 2, 4), "an unknown kind of checksum (4)"),
    (|b| set_super(b, 196, 2, 1), "does not match its checksum"),
    (|b| b[SUPER + 2000] ^= 1, "does not match its checksum"),
    (|b| set_super(b, 144, 4, 2048), "a sector size other than"),
    (|b| set_super(b, 144, 4, 5000), "a sector size other than"),
    (|b| set_super(b, 144, 4, 1 << 17), "a sector size other than"),
    (|b| set_super(b, 148, 4, 2048), "a node size other than"),
    (|b| set_super(b, 148, 4, 16384 + 4096), "a node size other than"),
    (|b| set_super(b, 148, 4, 1 << 17), "a node size other than"),
    (|b| add_super(b, ROOT, 1), "impossible place or height of a tree"),
    (|b| add_super(b, CHUNK_ROOT, 512), "impossible place or height of a tree"),
    (|b| set_super(b, 198, 1, 8), "impossible place or height of a tree"),
    (|b| set_super(b, 199, 1, 8), "impossible place or height of a tree"),
    (|b| set_super(b, GENERATION, 8, 0), "an impossible generation"),
    (|b| set_super(b, 164, 8, 1 << 40), "an impossible generation"),
    (|b| set_super(b, 160, 4, 2049), "impossible size of the system chunk array"),
    (|b| set_super(b, DEVICE + 82, 1, 0x55), "names a device of another file system"),
    (|b| set_super(b, DEVICE + 8, 8, 1 << 63), "an impossible size of the device"),
    (|b| set_super(b, DEVICE + 8, 8, 4096), "an impossible size of the device"),
    (|b| set_super(b, DEVICE + 16, 8, 1 << 40), "an impossible size of the device"),
    (|b| add_super(b, DEVICE + 8, 4096), "an impossible size of the device"),
    // State.
    (|b| set_super(b, 136, 8, 2), "the file system lies on 2 devices"),
    (|b| set_super(b, DEVICE, 8, 0), "the target of a replacement"),
    (|b| add_super(b, TOTAL, 4096), "bytes but its only device"),
    (|b| set_super(b, LOG_ROOT, 8, 4096), "a log of fsynced files to be replayed"),
    (|b| flag_super(b, FLAGS, 1 << 2), "has recorded errors: run btrfs check"),
    (|b| flag_super(b, FLAGS, 1 << 32), "is a seed of others"),
    (|b| flag_super(b, FLAGS, 1 << 33), "an image of metadata alone"),
    (|b| flag_super(b, FLAGS, 1 << 34), "an image of metadata alone"),
    (|b| flag_super(b, FLAGS, 1 << 35), "a change of the file system's UUID"),
    (|b| flag_super(b, FLAGS, 1 << 36), "a change of the file system's UUID"),
    (|b| flag_super(b, FLAGS, 1 << 38), "a conversion to or from the block group tree"),
    (|b| flag_super(b, FLAGS, 1 << 39), "a change of the data checksums"),
    (|b| flag_super(b, FLAGS, 1 << 40), "a change of the metadata checksums"),
    (|b| flag_super(b, FLAGS, 1 << 50), "an unknown flag (0x4000000000000)"),
    (|b| flag_super(b, INCOMPAT, 1 << 7), "the feature raid56, which"),
    (|b| flag_super(b, INCOMPAT, 1 << 11), "the feature raid1c34, which"),
    (|b| flag_super(b, INCOMPAT, 1 << 12), "the feature zoned, which"),
    (|b| flag_super(b, INCOMPAT, 1 << 13), "the feature extent-tree-v2, which"),
    (|b| flag_super(b, INCOMPAT, 1 << 14), "the feature raid-stripe-tree, which"),
    (|b| flag_super(b, INCOMPAT, 1 << 15), "the feature encrypt, which"),
    (|b| flag_super(b, INCOMPAT, 1 << 17), "the feature remap-tree, which"),
    (|b| flag_super(b, INCOMPAT, 1 << 18), "an unknown feature (incompat 0x40000)"),
    (|b| flag_super(b, INCOMPAT, 1 << 63), "an unknown feature (incompat 0x8000"),
    (|b| flag_super(b, COMPAT_RO, 1 << 4), "an unknown feature (compat_ro 0x10)"),
    (|b| flag_super(b, COMPAT, 1), "an unknown feature (compat 0x1)"),
    (
        |b| {
            let end = b.len() - 4096;
            b.truncate(end);
        },
        "the volume was cut off",
    ),
    (
        |b| {
            let newer = get_super(b, GENERATION, 8) + 1;
            set_mirror(b, GENERATION, 8, newer);
        },
        "a mirror of the Btrfs superblock is newer than the superblock: mount it",
    ),
    (
        |b| {
            let other = get_super(b, ROOT, 8) + 4096;
            set_mirror(b, ROOT, 8, other);
        },
        "a mirror of the Btrfs superblock names other trees",
    ),
    (
        |b| {
            let other = get_super(b, CHUNK_ROOT, 8) + 4096;
            set_mirror(b, CHUNK_ROOT, 8, other);
        },
        "a mirror of the Btrfs superblock names other trees",
    ),
    // Its chunks.
    (|b| set_super(b, SYS_CHUNKS + 8, 1, 229), "superblock has the key (256 229"),
    (|b| set_super(b, SYS_CHUNKS, 8, 257), "superblock has the key (257 228"),
    (|b| set_super(b, SYS_CHUNK, 8, 0), "an impossible place or length"),
    (|b| set_super(b, SYS_CHUNK, 8, 8 << 20 | 512), "an impossible place or length"),
    (|b| set_super(b, SYS_CHUNK, 8, 8 << 40), "an impossible place or length"),
    (|b| set_super(b, SYS_CHUNKS + 9, 8, 512), "an impossible place or length"),
    (|b| set_super(b, SYS_CHUNK + 16, 8, 4096), "stripes that its profile does not"),
    (|b| set_super(b, SYS_CHUNK + 44, 2, 1), "stripes that its profile does not"),
    (|b| set_super(b, SYS_CHUNK + 24, 8, 2), "stripes that its profile does not"),
    (|b| set_super(b, SYS_CHUNK + 24, 8, 2 | 8), "has the profile RAID0: only single"),
    (|b| set_super(b, SYS_CHUNK + 24, 8, 2 | 0x10), "has the profile RAID1: only"),
    (|b| set_super(b, SYS_CHUNK + 24, 8, 0x20), "is of the unknown type 0x20"),
    (|b| set_super(b, SYS_CHUNK + 24, 8, 0x25), "is of the unknown type 0x25"),
    (|b| set_super(b, SYS_CHUNK + 24, 8, 0x1022), "is of the unknown type 0x1022"),
    (|b| set_super(b, SYS_CHUNK + 48, 8, 2), "lies on another device"),
    (|b| set_super(b, SYS_CHUNK + 64, 1, 0x55), "lies on another device"),
    (|b| set_super(b, SYS_CHUNK + 56, 8, 512), "leaves the device"),
    (|b| set_super(b, SYS_CHUNK + 56, 8, 1 << 40), "leaves the device"),
    (
        |b| {
            let end = get_super(b, TOTAL, 8) - (8 << 20) + 4096;
            set_super(b, SYS_CHUNK + 56, 8, end);
        },
        "leaves the device",
    ),
    (|b| set_super(b, 160, 4, 100), "a chunk in the Btrfs superblock is cut off"),
    (|b| set_super(b, 160, 4, 0), "a node of the chunk tree (address 22"),
    (
        |b| {
            let (at, size) = (SUPER + SYS_CHUNKS, get_super(b, 160, 4) as usize);
            b.copy_within(at..at + size, at + size);
            set_super(b, 160, 4, size as u64 * 2);
        },
        "superblock overlaps another",
    ),
    (
        |b| {
            let (first, second) =
                (get_super(b, SYS_CHUNK + 56, 8), get_super(b, SYS_CHUNK + 88, 8));
            set_super(b, SYS_CHUNK + 56, 8, second);
            set_super(b, SYS_CHUNK + 88, 8, first);
        },
        "the superblock and the chunk tree describe different chunks",
    ),
];

const NODES: &[(Spoil, &str)] = &[
    (
        |b| {
            let image = Image::of(b);
            let address = get_super(b, CHUNK_ROOT, 8);
            for at in places(&image.chunks, address) {
                b[at + 200] ^= 1;
            }
        },
        "does not match its checksum",
    ),
    (
        |b| {
            let image = Image::of(b);
            let (address, _) = image.tree(b, EXTENTS).nodes[0];
            for at in places(&image.chunks, address) {
                b[at + 15000] ^= 1;
            }
        },
        "does not match its checksum",
    ),
    (|b| set_root(b, EXTENTS, 32, 8, 5), "is that of another file system"),
    (|b| set_root(b, EXTENTS, 48, 8, 4096), "is that of another address"),
    (|b| set_root(b, EXTENTS, 56, 8, 0), "was never written"),
    (|b| set_root(b, EXTENTS, 80, 8, 3), "is that of another generation"),
    (|b| set_root(b, EXTENTS, 88, 8, 5), "is that of another tree"),
    (|b| set_root(b, DEVICES, 100, 1, 1), "is that of another level"),
    (|b| set_root(b, DEVICES, 96, 4, 700), "claims more items than"),
    (|b| set_root(b, DEVICES, 96, 4, u64::MAX), "claims more items than"),
    (
        |b| {
            edit_root(b, DEVICES, |leaf| {
                leaf.copy_within(HEADER..HEADER + 17, HEADER + 25);
            });
        },
        "has keys out of order",
    ),
    (
        |b| {
            edit_root(b, DEVICES, |leaf| {
                let at = HEADER + 25 + 17;
                let offset = le(leaf, at, 4);
                put_le(leaf, at, 4, offset - 1);
            });
        },
        "has items with gaps between them",
    ),
    (|b| set_root(b, DEVICES, HEADER + 17, 4, 1 << 20), "has an item that leaves it"),
    (|b| set_root(b, DEVICES, HEADER + 21, 4, u64::MAX), "has an item that leaves it"),
    (
        |b| {
            edit_root(b, DEVICES, |leaf| {
                let last = HEADER + 25 * (le(leaf, 96, 4) as usize - 1);
                let end = le(leaf, last + 17, 4) + le(leaf, last + 21, 4);
                put_le(leaf, last + 17, 4, 20);
                put_le(leaf, last + 21, 4, end - 20);
            });
        },
        "has items that overlap their table",
    ),
    (|b| set_tree(b, ROOT, 1 << 50), "lies in no chunk"),
    (
        |b| {
            let (key, data) = chunk_of_type(b, 4);
            set_tree(b, ROOT, key.2 + le(&data, 0, 8) - 4096);
        },
        "lies in no chunk",
    ),
    (
        |b| {
            let address = chunk_of_type(b, 1).0.2;
            set_tree(b, ROOT, address);
        },
        "lies in a chunk for other things",
    ),
    (
        // The chunk tree lies in system chunks alone.
        |b| {
            let (key, data) = chunk_of_type(b, 4);
            let at = get_super(b, 160, 4) as usize;
            put_key(b, SUPER + SYS_CHUNKS + at, key);
            put(b, SUPER + SYS_CHUNK + at, &data);
            set_super(b, 160, 4, (at + 17 + data.len()) as u64);
            set_tree(b, CHUNK_ROOT, key.2);
        },
        "lies in a chunk for other things",
    ),
];

const TREES: &[(Spoil, &str)] = &[
    // The chunk tree.
    (|b| remove(b, CHUNKS, |k| k.1 == 216), "does not describe the device"),
    (|b| set_item(b, CHUNKS, 216, 8, 8, 1 << 24), "describe different devices"),
    (|b| set_item(b, CHUNKS, 216, 16, 8, 1 << 24), "describe different devices"),
    (|b| rekey(b, CHUNKS, 216, |k| k.2 = 2), "describe different devices"),
    (|b| rekey(b, CHUNKS, 216, |k| k.1 = 217), "chunk tree has an item of an unknown"),
    (|b| rekey(b, CHUNKS, 216, |k| k.0 = 2), "chunk tree has an item of an unknown"),
    (|b| resize(b, CHUNKS, 216, -1), "the item of the device is cut off"),
    (|b| resize(b, CHUNKS, 228, -1), "a chunk is cut off"),
    (|b| resize(b, CHUNKS, 228, 1), "a chunk is too long"),
    (|b| set_item(b, CHUNKS, 228, 24, 8, 1 | 0x100), "a chunk has the profile RAID6"),
    (|b| set_item(b, CHUNKS, 228, 0, 8, 16 << 20), "a chunk overlaps another"),
    (|b| set_item(b, CHUNKS, 228, 56, 8, 1 << 50), "a chunk leaves the device"),
    (
        |b| {
            let start = chunk_of_type(b, 2).0.2;
            remove(b, CHUNKS, |k| k.2 == start);
        },
        "the superblock and the chunk tree describe different chunks",
    ),
    (
        |b| {
            let at = le(&chunk_of_type(b, 4).1, 56, 8);
            let key = chunk_of_type(b, 1).0;
            edit_item(
                b,
                CHUNKS,
                |k| k == key,
                |leaf, _, data| {
                    put_le(leaf, data + 56, 8, at);
                },
            );
        },
        "two chunks lie on the same bytes",
    ),
    (
        |b| {
            add_super(b, DEVICE + 16, 4096);
            let used = get_super(b, DEVICE + 16, 8);
            set_item(b, CHUNKS, 216, 16, 8, used);
        },
        "bytes of the device, which counts",
    ),
    // The device tree.
    (|b| remove(b, DEVICES, |k| k.1 == 204), "give the device to different chunks"),
    (
        |b| {
            change(b, DEVICES, |items| {
                items.pop();
            });
        },
        "give the device to different chunks",
    ),
    (
        |b| {
            let data = contents(b, DEVICES).pop().unwrap().1;
            add(b, DEVICES, (1, 204, 1 << 40), &data);
        },
        "give the device to different chunks",
    ),
    (|b| set_item(b, DEVICES, 204, 0, 8, 4), "give the device to different chunks"),
    (|b| set_item(b, DEVICES, 204, 8, 8, 4), "give the device to different chunks"),
    (|b| set_item(b, DEVICES, 204, 16, 8, 4096), "give the device to different chunks"),
    (|b| set_item(b, DEVICES, 204, 24, 8, 4096), "give the device to different chunks"),
    (|b| rekey(b, DEVICES, 204, |k| k.2 += 4096), "give the device to different chunks"),
    (|b| rekey(b, DEVICES, 204, |k| k.0 = 0), "give the device to different chunks"),
    (|b| resize(b, DEVICES, 204, -1), "give the device to different chunks"),
    (|b| rekey(b, DEVICES, 249, |k| k.1 = 248), "device tree has an item of an unknown"),
    (|b| set_root(b, DEVICES, 96, 4, 0), "give the device to different chunks"),
    (|b| replacement(b, 1), "the device of the volume is being replaced"),
    (|b| replacement(b, 4), "the device of the volume is being replaced"),
    (|b| replacement(b, 9), "the device of the volume is being replaced"),
    // The root tree.
    (|b| remove(b, ROOTS, |k| k == (2, 132, 0)), "the extent tree is missing"),
    (|b| remove(b, ROOTS, |k| k == (4, 132, 0)), "the device tree is missing"),
    (|b| remove(b, ROOTS, |k| k == (10, 132, 0)), "the free space tree is missing"),
    (|b| flag_super(b, COMPAT_RO, 8), "the block group tree is missing"),
    (|b| resize(b, ROOTS, 132, -300), "the root item of the extent tree is cut off"),
    (|b| set_item(b, ROOTS, 132, 176, 8, 512), "an impossible place, height or gen"),
    (|b| set_item(b, ROOTS, 132, 238, 1, 8), "an impossible place, height or gen"),
    (|b| set_item(b, ROOTS, 132, 160, 8, 1 << 50), "an impossible place, height or gen"),
    (|b| rekey(b, ROOTS, 132, |k| k.2 = 1), "there are several of the extent tree"),
    (
        |b| {
            let data = contents(b, ROOTS)[0].1.clone();
            add(b, ROOTS, (2, 132, 1), &data);
        },
        "there are several of the extent tree",
    ),
    (
        |b| {
            edit_item(
                b,
                ROOTS,
                |k| k == (5, 132, 0),
                |leaf, _, data| {
                    put_le(leaf, data + 176, 8, 4096);
                },
            );
        },
        "calls a node free that is in use (address 4096)",
    ),
    (
        |b| {
            edit_item(
                b,
                ROOTS,
                |k| k == (5, 132, 0),
                |leaf, _, data| {
                    put_le(leaf, data + 238, 1, 7);
                },
            );
        },
        "calls a node free that is in use",
    ),
];

fn replacement(bytes: &mut [u8], state: u64) {
    let mut data = [0; 72];
    put_le(&mut data, 32, 8, state);
    change(bytes, DEVICES, |items| items.retain(|(key, _)| key.1 != 250));
    add(bytes, DEVICES, (0, 250, 0), &data);
}

const MAPS: &[(Spoil, &str)] = &[
    // The extent tree.
    (
        |b| {
            let key = data_extent(b);
            remove(b, EXTENTS, |k| k == key);
        },
        "the extent tree and the free space tree disagree",
    ),
    (
        |b| {
            without_witness(b);
            let key = data_extent(b);
            change(b, EXTENTS, |items| items.retain(|(k, _)| *k != key));
        },
        "but its block group counts",
    ),
    (
        |b| {
            let key = data_extent(b);
            forget_extent(b, key, key.2);
            add_super(b, USED, key.2);
        },
        "but the superblock counts",
    ),
    (|b| forget_node(b, ROOTS), "calls a node free that is in use"),
    (|b| forget_node(b, EXTENTS), "calls a node free that is in use"),
    (|b| forget_node(b, CHUNKS), "calls a node free that is in use"),
    (|b| forget_node(b, DEVICES), "calls a node free that is in use"),
    (|b| forget_node(b, 5), "calls a node free that is in use"),
    (|b| forget_node(b, 7), "calls a node free that is in use"),
    (|b| forget_node(b, 256), "calls a node free that is in use"),
    (
        // Its place is allocated, but as something else.
        |b| {
            let (address, _) = Image::of(b).tree(b, DEVICES).nodes[0];
            change(b, EXTENTS, |items| {
                items.iter_mut().find(|(k, _)| k.0 == address).unwrap().0.2 = 7;
            });
        },
        "calls a node free that is in use",
    ),
    (
        |b| {
            let key = data_extent(b);
            change(b, EXTENTS, |items| {
                items.iter_mut().find(|(k, _)| *k == key).unwrap().0.2 += 512;
            });
        },
        "an impossible place or length",
    ),
    (|b| rekey(b, EXTENTS, 168, |k| k.2 = 0), "an impossible place or length"),
    (|b| rekey(b, EXTENTS, 168, |k| k.2 = 1 << 40), "an impossible place or length"),
    (|b| rekey(b, EXTENTS, 168, |k| k.2 = !4095), "an impossible place or length"),
    (|b| rekey(b, EXTENTS, 168, |k| k.0 += 512), "an impossible place or length"),
    (|b| rekey(b, EXTENTS, 168, |k| k.2 = 4 << 20), "overlaps the extent before it"),
    (
        |b| {
            change(b, EXTENTS, |items| {
                let found = items.iter_mut().find(|(key, _)| key.1 == 168);
                found.unwrap().1.truncate(23);
            });
        },
        "is cut off",
    ),
    (|b| set_item(b, EXTENTS, 168, 0, 8, 0), "no references or an impossible gen"),
    (|b| set_item(b, EXTENTS, 168, 8, 8, 1 << 50), "no references or an impossible gen"),
    (|b| set_item(b, EXTENTS, 168, 16, 8, 2), "flags that do not fit it or its chunk"),
    (|b| set_item(b, EXTENTS, 168, 16, 8, 3), "flags that do not fit it or its chunk"),
    (|b| set_item(b, EXTENTS, 168, 16, 8, 0), "flags that do not fit it or its chunk"),
    (|b| set_item(b, EXTENTS, 168, 16, 8, 0x101), "flags that do not fit it or its"),
    (|b| set_item(b, EXTENTS, 169, 16, 8, 1), "flags that do not fit it or its chunk"),
    (|b| set_item(b, EXTENTS, 169, 16, 8, 6), "flags that do not fit it or its chunk"),
    (
        // A node in a chunk for data.
        |b| {
            let key = data_extent(b);
            change(b, EXTENTS, |items| {
                let item = items.iter_mut().find(|(k, _)| *k == key).unwrap();
                item.0 = (key.0, 169, 0);
                put_le(&mut item.1, 16, 8, 2);
            });
        },
        "flags that do not fit it or its chunk",
    ),
    (
        // A file in a chunk for nodes.
        |b| {
            let (address, _) = Image::of(b).tree(b, ROOTS).nodes[0];
            change(b, EXTENTS, |items| {
                let item = items.iter_mut().find(|(k, _)| k.0 == address).unwrap();
                item.0 = (address, 168, 16384);
                put_le(&mut item.1, 16, 8, 1);
            });
        },
        "flags that do not fit it or its chunk",
    ),
    (
        // A node that is shorter than nodes are.
        |b| {
            rekey(b, EXTENTS, 169, |k| {
                k.1 = 168;
                k.2 = 4096;
            });
        },
        "flags that do not fit it or its chunk",
    ),
    (|b| rekey(b, EXTENTS, 169, |k| k.2 = 8), "is none that this file system may have"),
    (
        |b| {
            let incompat = get_super(b, INCOMPAT, 8) & !0x100;
            set_super(b, INCOMPAT, 8, incompat);
        },
        "is none that this file system may have",
    ),
    (|b| add(b, EXTENTS, (4096, 168, 4096), &[1; 53]), "belongs to no chunk"),
    (|b| add(b, EXTENTS, (1 << 50, 168, 4096), &[1; 53]), "belongs to no chunk"),
    (|b| add(b, EXTENTS, (1 << 50, 192, 4096), &[1; 24]), "belongs to no chunk"),
    (
        |b| {
            let key = data_extent(b);
            add(b, EXTENTS, (key.0 + 1, 178, 7), &[0; 28]);
        },
        "in the extent tree has no extent",
    ),
    (
        |b| {
            let key = data_extent(b);
            add(b, EXTENTS, (key.0, 180, 7), &[0; 28]);
        },
        "the extent tree has an item of an unknown kind",
    ),
    (|b| remove(b, EXTENTS, |k| k.1 == 192), "has no block group that matches"),
    (|b| rekey(b, EXTENTS, 192, |k| k.2 += 4096), "has no block group that matches"),
    (|b| rekey(b, EXTENTS, 192, |k| k.0 += 4096), "has no block group that matches"),
    (|b| resize(b, EXTENTS, 192, -1), "has no block group that matches"),
    (|b| set_item(b, EXTENTS, 192, 8, 8, 255), "has no block group that matches"),
    (|b| set_item(b, EXTENTS, 192, 16, 8, 4), "has no block group that matches"),
    (|b| set_item(b, EXTENTS, 192, 0, 8, 4096), "but its block group counts 4096"),
    (
        |b| {
            let (key, data) =
                contents(b, EXTENTS).into_iter().find(|(key, _)| key.1 == 192).unwrap();
            add(b, EXTENTS, (key.0, 192, key.2 - 4096), &data);
        },
        "has no block group that matches",
    ),
    // The free space tree.
    (
        |b| {
            let start = chunk_of_type(b, 4).0.2;
            remove(b, FREE_SPACE, |k| k.0 == start && k.1 == 198);
        },
        "does not know the block group at address",
    ),
    (|b| info(b, |key, _| key.2 += 4096), "does not know the block group at address"),
    (|b| info(b, |_, data| data.truncate(7)), "does not know the block group at"),
    (|b| info(b, |_, data| data[0] += 1), "ranges in the block group at address"),
    (|b| info(b, |_, data| data[4] = 2), "free space tree has an item of an unknown"),
    (|b| info(b, |_, data| data[4] ^= 1), "free space tree has an item of an unknown"),
    (|b| range(b, |key| key.2 -= 4096), "the free space tree disagree"),
    (
        |b| {
            range(b, |key| {
                key.0 += 4096;
                key.2 -= 4096;
            });
        },
        "the free space tree disagree",
    ),
    (|b| range(b, |key| key.2 = 0), "of the free space tree is impossible"),
    (|b| range(b, |key| key.2 -= 512), "of the free space tree is impossible"),
    (
        |b| {
            range(b, |key| {
                key.0 += 512;
                key.2 -= 4096;
            });
        },
        "of the free space tree is impossible",
    ),
    (|b| range(b, |key| key.2 = 1 << 40), "of the free space tree is impossible"),
    (|b| range(b, |key| key.2 = !4095), "of the free space tree is impossible"),
    (
        |b| {
            let key = free_range(b);
            remove(b, FREE_SPACE, |k| k == key);
        },
        "the free space tree disagree",
    ),
    (
        |b| {
            let key = free_range(b);
            add(b, FREE_SPACE, (key.0 + 4096, 199, 4096), &[]);
        },
        "of the free space tree is impossible",
    ),
    (|b| bitmap(b, |_, data| data[3] ^= 4), "the free space tree disagree"),
    (|b| bitmap(b, |_, data| data.push(0)), "of the free space tree is impossible"),
    (
        |b| bitmap(b, |_, data| data.truncate(data.len() - 1)),
        "of the free space tree is impossible",
    ),
    (|b| bitmap(b, |key, _| key.2 -= 4096 * 8), "of the free space tree is impossible"),
];

/// Changes the info of the first block group.
fn info(bytes: &mut [u8], how: impl Fn(&mut Key, &mut Vec<u8>)) {
    let first = chunk_of_type(bytes, 1).0.2;
    change(bytes, FREE_SPACE, |items| {
        let found = items.iter_mut().find(|(k, _)| k.0 == first && k.1 == 198);
        let (key, data) = found.unwrap();
        how(key, data);
    });
}

/// A free range of some size in a block group that exists.
fn free_range(bytes: &[u8]) -> Key {
    let chunks = Image::of(bytes).chunks;
    let exists = |key: Key| chunks.iter().any(|c| (c.0..c.0 + c.1).contains(&key.0));
    let mut items = contents(bytes, FREE_SPACE).into_iter().map(|(key, _)| key);
    items.rfind(|key| key.1 == 199 && key.2 >= 16384 && exists(*key)).unwrap()
}

fn range(bytes: &mut [u8], how: impl Fn(&mut Key)) {
    let key = free_range(bytes);
    change(bytes, FREE_SPACE, |items| {
        how(&mut items.iter_mut().find(|(k, _)| *k == key).unwrap().0);
    });
}

fn bitmap(bytes: &mut [u8], how: impl Fn(&mut Key, &mut Vec<u8>)) {
    change(bytes, FREE_SPACE, |items| {
        let (key, data) = items.iter_mut().find(|(key, _)| key.1 == 200).unwrap();
        how(key, data);
    });
}

const BLOCK_GROUPS: &[(Spoil, &str)] = &[
    (|b| remove(b, GROUPS, |k| k.1 == 192), "has no block group that matches"),
    (
        |b| {
            change(b, GROUPS, |items| {
                items.pop();
            });
        },
        "has no block group that matches",
    ),
    (|b| add(b, GROUPS, (1 << 50, 192, 4096), &[0; 24]), "has no chunk"),
    (|b| rekey(b, GROUPS, 192, |k| k.1 = 193), "block group tree has an item of an"),
    (|b| set_item(b, GROUPS, 192, 0, 8, 4096), "but its block group counts 4096"),
    (
        |b| {
            let (key, data) = contents(b, GROUPS).remove(0);
            add(b, EXTENTS, key, &data);
        },
        "has no block group that matches",
    ),
];

/// Of nodes above the leaves.
const LEVELS: &[(Spoil, &str)] = &[
    (
        // A file where a node is.
        |b| {
            let (address, level) = Image::of(b).tree(b, DEVICES).nodes[0];
            let key = (address, 169, level.into());
            edit_item(
                b,
                EXTENTS,
                |k| k == key,
                |leaf, entry, data| {
                    put_key(leaf, entry, (address, 168, 4096));
                    put_le(leaf, data + 16, 8, 1);
                },
            );
        },
        "calls a node free that is in use",
    ),
    (|b| set_root(b, EXTENTS, 96, 4, 0), "has no children or claims more"),
    (|b| set_root(b, EXTENTS, 96, 4, 200), "has no children or claims more"),
    (|b| pointer(b, 1, 17, 512), "has an impossible child"),
    (|b| pointer(b, 1, 25, 0), "has an impossible child"),
    (|b| pointer(b, 1, 25, 1 << 50), "has an impossible child"),
    (|b| pointer(b, 1, 25, 1), "is that of another generation"),
    (|b| pointer(b, 1, 9, 1), "does not begin with the key its parent names"),
    (|b| pointer(b, 1, 0, 1), "has keys out of order"),
    (
        |b| {
            edit_root(b, EXTENTS, |node| {
                let first = HEADER + 33;
                let low = le(node, HEADER, 8) + 1;
                put_le(node, first, 8, low);
            });
        },
        "has keys that belong to its neighbour",
    ),
    (
        |b| {
            edit_root(b, EXTENTS, |node| {
                let at = HEADER + 17;
                node.copy_within(at..at + 16, at + 33);
            });
        },
        "does not begin with the key its parent names",
    ),
    (
        |b| {
            let image = Image::of(b);
            let leaf = image.tree(b, EXTENTS).items.last().unwrap().leaf;
            image.edit(b, leaf, |leaf| put_le(leaf, 96, 4, 0));
        },
        "is empty",
    ),
    (
        |b| {
            edit_root(b, EXTENTS, |node| {
                let count = le(node, 96, 4);
                put_le(node, 96, 4, count - 1);
            });
        },
        "disagree",
    ),
];

fn pointer(bytes: &mut [u8], slot: usize, at: usize, value: u64) {
    set_root(bytes, EXTENTS, HEADER + 33 * slot + at, 8, value);
}

#[test]
fn every_reason_has_its_image() {
    let test = "every_reason_not_to_trust_a_btrfs_has_its_image";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let single = make(&scratch, &case("single", "66M", "-m single", "", ""));
    let sound = fs::read(&single).unwrap();
    assert_reasons("btrfs", &sound, [NODES, TREES, MAPS].concat());

    let path = make(&scratch, &case("dup", "110M", "", "", ""));
    let before = free_of(&path);
    let sound = fs::read(&path).unwrap();
    assert_reasons("btrfs", &sound, SUPERBLOCK.iter().copied());

    let mut converted = sound.clone();
    convert_to_block_group_tree(&mut converted);
    assert_reasons("btrfs", &converted, BLOCK_GROUPS.iter().copied());

    for (number, harmless) in HARMLESS.iter().enumerate() {
        let mut bytes = sound.clone();
        harmless(&mut bytes);
        assert!(bytes != sound, "{number} changes nothing");
        let (found, free) = survey(&bytes);
        assert_eq!(found.untrusted, None, "{number}");
        assert_eq!(free, before, "{number}");
    }
}

/// What is no reason.
const HARMLESS: &[Spoil] = &[
    // What a power cut may leave of the mirror, and somebody else's.
    |b| {
        let older = get_super(b, GENERATION, 8) - 1;
        set_mirror(b, GENERATION, 8, older);
    },
    |b| b[MIRROR + 1000] ^= 1,
    |b| b[MIRROR..MIRROR + 4096].fill(0),
    |b| {
        set_mirror(b, GENERATION, 8, 1 << 40);
        set_mirror(b, 32, 8, 5);
        set_mirror(b, DEVICE + 82, 8, 5);
    },
    // The first copy, or the second, of all nodes.
    |b| spoil_copies(b, 0),
    |b| spoil_copies(b, 1),
    // A free range in two pieces, as it is where two bitmaps meet.
    |b| {
        let key = free_range(b);
        range(b, |key| key.2 = 4096);
        add(b, FREE_SPACE, (key.0 + 4096, 199, key.2 - 4096), &[]);
    },
    // A free space tree that the file system itself does not believe.
    |b| {
        without_witness(b);
        set_root(b, FREE_SPACE, 96, 4, 0);
    },
    |b| {
        set_super(b, COMPAT_RO, 8, 2);
        remove(b, ROOTS, |key| key == (10, 132, 0));
    },
    |b| set_super(b, COMPAT_RO, 8, 3 | 4),
    |b| replacement(b, 2),
    |b| b.resize(b.len() + 99_999, 0),
    |b| flag_super(b, INCOMPAT, 1 << 16),
    // Old trees of the backup roots.
    |b| set_super(b, 811 + 2048, 8, 5),
];

fn spoil_copies(bytes: &mut [u8], copy: usize) {
    let image = Image::of(bytes);
    for tree in [ROOTS, EXTENTS, CHUNKS, DEVICES, FREE_SPACE] {
        for (address, _) in image.tree(bytes, tree).nodes {
            let at = places(&image.chunks, address)[copy];
            bytes[at + 300] ^= 1;
        }
    }
}

/// A volume of small nodes, so of trees with several levels, each node in one place.
fn small(scratch: &Scratch) -> Vec<u8> {
    fs::read(make(scratch, &case("small", "20M", "--mixed", "", ""))).unwrap()
}

#[test]
fn nodes_above_the_leaves_are_checked() {
    let test = "nodes_above_the_leaves_of_a_btrfs_are_checked";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let sound = small(&scratch);
    assert!(Image::of(&sound).tree(&sound, EXTENTS).nodes[0].1 > 0);
    assert_reasons("btrfs", &sound, LEVELS.iter().copied());
}

#[test]
fn damage_frees_nothing() {
    let test = "damage_of_a_btrfs_frees_nothing";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let sound = small(&scratch);
    let before = survey(&sound).1;
    let trees = [ROOTS, EXTENTS, CHUNKS, DEVICES, FREE_SPACE];
    let size = node_size(&sound);
    let nodes = Image::of(&sound).all_nodes(&sound, &trees);
    let mut areas = vec![SUPER..SUPER + 1100];
    for at in &nodes {
        areas.extend([*at..at + 300, *at..at + size]);
    }
    let damage = |rounds, mend: &dyn Fn(&mut Vec<u8>)| {
        let damage =
            Damage { name: "btrfs", areas: &areas, rounds, seed: 77, readings: 2, mend };
        damage.run(&sound, |area, free| {
            assert!(free == before, "area {area}: {free:?}");
        })
    };
    let refused = damage(150, &|_| {});
    assert!(refused > 110, "only {refused} were refused");
    // With checksums that hold, what is left is that all must agree.
    let refused = damage(600, &|bytes| {
        seal(bytes, SUPER, 4096);
        for at in &nodes {
            seal(bytes, *at, size);
        }
    });
    assert!(refused > 250, "only {refused} were refused");
}

/// What the tools themselves make that is more than a plain volume.
#[test]
fn what_is_not_a_plain_volume() {
    let test = "what_is_not_a_plain_btrfs";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let (one, two) = (scratch.path("one"), scratch.path("two"));
    let reason = || survey_file(&one).0.untrusted.unwrap();
    sh(&format!(
        "truncate -s 300M {0} {1}; mkfs.btrfs -q {0} {1} >/dev/null 2>&1",
        one.display(),
        two.display()
    ));
    assert!(reason().contains("lies on 2 devices"), "{}", reason());
    sh(&format!(
        "mkfs.btrfs -f -q {0} >/dev/null 2>&1; btrfstune -S 1 {0}",
        one.display()
    ));
    assert!(reason().contains("is a seed of others"), "{}", reason());
    sh(&format!("mkfs.btrfs -f -q {0} >/dev/null 2>&1", one.display()));
    free_of(&one);
    mounted(&one, "", "btrfs -q balance start -f -dconvert=raid0 $m >/dev/null");
    assert!(reason().contains("has the profile RAID0"), "{}", reason());
}

#[test]
fn any_bytes_at_all() {
    assert_noise_is_nothing("btrfs", |bytes| {
        if bytes.len() >= SUPER + 4096 {
            put(bytes, SUPER + 64, b"_BHRfS_M");
            set_super(bytes, 48, 8, SUPER as u64);
            set_super(bytes, 196, 2, 0);
        }
    });
}
