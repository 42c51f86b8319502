//! A plain reader and editor of Btrfs images with CRC-32C: finds an item, changes it in
//! all copies of its node and puts the checksums right.

use std::collections::BTreeSet;
use std::sync::OnceLock;

pub const SUPER: usize = 0x1_0000;
pub const MIRROR: usize = 0x400_0000;
/// Places in the superblock.
pub const GENERATION: usize = 72;
pub const ROOT: usize = 80;
pub const CHUNK_ROOT: usize = 88;
pub const SYS_CHUNKS: usize = 811;

pub const HEADER: usize = 101;

pub fn le(bytes: &[u8], at: usize, n: usize) -> u64 {
    bytes[at..at + n].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

pub fn put_le(bytes: &mut [u8], at: usize, n: usize, value: u64) {
    bytes[at..at + n].copy_from_slice(&value.to_le_bytes()[..n]);
}

fn crc32c(bytes: &[u8]) -> u32 {
    static TABLE: OnceLock<[u32; 256]> = OnceLock::new();
    let shift = |s: u32, _| (s >> 1) ^ (0x82F6_3B78 * (s & 1));
    let of_byte = |byte| (0..8).fold(byte as u32, shift);
    let table = TABLE.get_or_init(|| std::array::from_fn(of_byte));
    let add = |sum: u32, byte: &u8| table[(sum as u8 ^ byte) as usize] ^ (sum >> 8);
    !bytes.iter().fold(!0, add)
}

/// Puts the checksum of the structure at `at` right.
pub fn seal(bytes: &mut [u8], at: usize, size: usize) {
    let sum = u64::from(crc32c(&bytes[at + 32..at + size]));
    put_le(bytes, at, 4, sum);
}

/// Changes `n` bytes of the superblock.
pub fn set_super(bytes: &mut [u8], at: usize, n: usize, value: u64) {
    put_le(bytes, SUPER + at, n, value);
    seal(bytes, SUPER, 4096);
}

pub fn get_super(bytes: &[u8], at: usize, n: usize) -> u64 {
    le(bytes, SUPER + at, n)
}

/// Changes the mirror at 64 MiB in the same way.
pub fn set_mirror(bytes: &mut [u8], at: usize, n: usize, value: u64) {
    put_le(bytes, MIRROR + at, n, value);
    seal(bytes, MIRROR, 4096);
}

pub fn node_size(bytes: &[u8]) -> usize {
    get_super(bytes, 148, 4) as usize
}

pub type Key = (u64, u8, u64);

pub fn key(bytes: &[u8], at: usize) -> Key {
    (le(bytes, at, 8), bytes[at + 8], le(bytes, at + 9, 8))
}

pub fn put_key(bytes: &mut [u8], at: usize, (objectid, kind, offset): Key) {
    put_le(bytes, at, 8, objectid);
    bytes[at + 8] = kind;
    put_le(bytes, at + 9, 8, offset);
}

/// Logical start, length, and where the copies lie.
pub type Chunk = (u64, u64, Vec<u64>);

fn chunk(key: Key, bytes: &[u8], at: usize) -> (Chunk, usize) {
    let stripes = le(bytes, at + 44, 2) as usize;
    let copies = (0..stripes).map(|n| le(bytes, at + 48 + 32 * n + 8, 8)).collect();
    ((key.2, le(bytes, at, 8), copies), 48 + 32 * stripes)
}

fn system_chunks(bytes: &[u8]) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut at = SUPER + SYS_CHUNKS;
    let end = at + get_super(bytes, 160, 4) as usize;
    while at < end {
        let (chunk, size) = chunk(key(bytes, at), bytes, at + 17);
        chunks.push(chunk);
        at += 17 + size;
    }
    chunks
}

/// Where the copies of a logical address lie.
pub fn places(chunks: &[Chunk], address: u64) -> Vec<usize> {
    let (start, _, copies) =
        chunks.iter().find(|c| (c.0..c.0 + c.1).contains(&address)).unwrap();
    copies.iter().map(|copy| (copy + address - start) as usize).collect()
}

pub struct Item {
    pub key: Key,
    /// The logical address of its leaf, and its number in it.
    pub leaf: u64,
    pub index: usize,
    /// Where its data lies in the leaf, and how long it is.
    pub data: usize,
    pub size: usize,
}

/// A tree: all its nodes by address and level, and its items.
pub struct Tree {
    pub nodes: Vec<(u64, u8)>,
    pub items: Vec<Item>,
}

/// The whole of an image's trees, as a plain reader sees them.
pub struct Image {
    pub chunks: Vec<Chunk>,
    node_size: usize,
}

impl Image {
    pub fn of(bytes: &[u8]) -> Self {
        let mut image =
            Image { chunks: system_chunks(bytes), node_size: node_size(bytes) };
        let tree = image.walk(bytes, get_super(bytes, CHUNK_ROOT, 8));
        let mut chunks = Vec::new();
        for item in tree.items.iter().filter(|item| item.key.1 == 228) {
            let at = image.at(item.leaf) + item.data;
            chunks.push(chunk(item.key, bytes, at).0);
        }
        image.chunks = chunks;
        image
    }

    /// Where the first copy of an address lies.
    pub fn at(&self, address: u64) -> usize {
        places(&self.chunks, address)[0]
    }

    fn walk(&self, bytes: &[u8], root: u64) -> Tree {
        let mut tree = Tree { nodes: Vec::new(), items: Vec::new() };
        self.visit(bytes, root, &mut tree);
        tree
    }

    fn visit(&self, bytes: &[u8], address: u64, tree: &mut Tree) {
        let at = self.at(address);
        let (count, level) = (le(bytes, at + 96, 4) as usize, bytes[at + 100]);
        tree.nodes.push((address, level));
        for index in 0..count {
            if level > 0 {
                let child = at + HEADER + 33 * index + 17;
                self.visit(bytes, le(bytes, child, 8), tree);
                continue;
            }
            let item = at + HEADER + 25 * index;
            tree.items.push(Item {
                key: key(bytes, item),
                leaf: address,
                index,
                data: HEADER + le(bytes, item + 17, 4) as usize,
                size: le(bytes, item + 21, 4) as usize,
            });
        }
    }

    /// The tree of this number.
    pub fn tree(&self, bytes: &[u8], number: u64) -> Tree {
        let root = match number {
            1 => get_super(bytes, ROOT, 8),
            3 => get_super(bytes, CHUNK_ROOT, 8),
            _ => {
                let roots = self.tree(bytes, 1);
                let found =
                    roots.items.iter().find(|i| i.key.0 == number && i.key.1 == 132);
                let item = found.unwrap();
                le(bytes, self.at(item.leaf) + item.data + 176, 8)
            }
        };
        self.walk(bytes, root)
    }

    /// Changes a node in all its copies and puts their checksums right.
    pub fn edit(&self, bytes: &mut [u8], address: u64, change: impl Fn(&mut [u8])) {
        for at in places(&self.chunks, address) {
            change(&mut bytes[at..at + self.node_size]);
            seal(bytes, at, self.node_size);
        }
    }

    /// Where all copies of all nodes of the trees that are read lie.
    pub fn all_nodes(&self, bytes: &[u8], trees: &[u64]) -> BTreeSet<usize> {
        let trees = trees.iter().map(|number| self.tree(bytes, *number));
        let nodes = trees.flat_map(|tree| tree.nodes);
        nodes.flat_map(|(address, _)| places(&self.chunks, address)).collect()
    }
}

/// Changes the root node of a tree.
pub fn edit_root(bytes: &mut [u8], tree: u64, change: impl Fn(&mut [u8])) {
    let image = Image::of(bytes);
    let (address, _) = image.tree(bytes, tree).nodes[0];
    image.edit(bytes, address, change);
}

/// Changes the leaf with the first item for which `which` holds; `change` is handed
/// the leaf, the place of the item in its table and that of its data.
pub fn edit_item(
    bytes: &mut [u8],
    tree: u64,
    which: impl Fn(Key) -> bool,
    change: impl Fn(&mut [u8], usize, usize),
) {
    let image = Image::of(bytes);
    let tree = image.tree(bytes, tree);
    let item = tree.items.iter().find(|item| which(item.key)).unwrap();
    let entry = HEADER + 25 * item.index;
    image.edit(bytes, item.leaf, |leaf| change(leaf, entry, item.data));
}

/// Takes items out of the leaves of a tree, or puts items into a leaf: what is to be
/// in the leaf afterwards, in order.
pub fn fill_leaf(leaf: &mut [u8], items: &[(Key, Vec<u8>)]) {
    leaf[HEADER..].fill(0);
    put_le(leaf, 96, 4, items.len() as u64);
    let mut end = leaf.len();
    for (index, (key, data)) in items.iter().enumerate() {
        end -= data.len();
        let entry = HEADER + 25 * index;
        put_key(leaf, entry, *key);
        put_le(leaf, entry + 17, 4, (end - HEADER) as u64);
        put_le(leaf, entry + 21, 4, data.len() as u64);
        leaf[end..end + data.len()].copy_from_slice(data);
    }
}

/// The items of a tree with their data.
pub fn contents(bytes: &[u8], tree: u64) -> Vec<(Key, Vec<u8>)> {
    let image = Image::of(bytes);
    let items = image.tree(bytes, tree).items;
    let content = |item: &Item| {
        let at = image.at(item.leaf) + item.data;
        (item.key, bytes[at..at + item.size].to_vec())
    };
    items.iter().map(content).collect()
}

/// Replaces the items of a tree that is a single leaf.
pub fn refill(bytes: &mut [u8], tree: u64, items: &[(Key, Vec<u8>)]) {
    edit_root(bytes, tree, |leaf| {
        assert_eq!(leaf[100], 0, "tree {tree} is more than a leaf");
        fill_leaf(leaf, items);
    });
}

/// Moves the block groups into a tree of their own, as `btrfstune` of newer versions
/// does: the leaf of the UUID tree becomes its root. The kernel makes a new UUID tree.
pub fn convert_to_block_group_tree(bytes: &mut [u8]) {
    let image = Image::of(bytes);
    let (leaf, level) = image.tree(bytes, 9).nodes[0];
    assert_eq!(level, 0);
    let extents = contents(bytes, 2);
    let (mut groups, mut rest): (Vec<_>, Vec<_>) =
        extents.into_iter().partition(|(key, _)| key.1 == 192);
    groups.sort();
    // The node's only reference names its tree.
    let own = rest.iter_mut().find(|(key, _)| key.0 == leaf).unwrap();
    assert_eq!((own.0.1, own.1[24], le(&own.1, 25, 8)), (169, 176, 9));
    put_le(&mut own.1, 25, 8, 11);
    refill(bytes, 2, &rest);
    image.edit(bytes, leaf, |leaf| {
        put_le(leaf, 88, 8, 11);
        fill_leaf(leaf, &groups);
    });
    // (9 ROOT_ITEM 0) goes, (11 ROOT_ITEM 0) comes after (10 ROOT_ITEM 0).
    let mut roots = contents(bytes, 1);
    for (key, _) in &mut roots {
        if *key == (9, 132, 0) {
            key.0 = 11;
        }
    }
    roots.sort();
    refill(bytes, 1, &roots);
    let compat_ro = get_super(bytes, 180, 8) | 8;
    set_super(bytes, 180, 8, compat_ro);
}
