//! Nodes: the blocks that all trees are made of, and the checks that each has to pass.
//!
//! ```text
//! leaf:  header | item 0 | item 1 | ...  free  ... | data 1 | data 0 |
//! above: header | pointer 0 | pointer 1 | ...
//! ```
//!
//! A pointer holds the first key, the address and the generation of its child. As a
//! node is never changed in place, that says exactly which block is meant: a lost
//! write, or a block that was used again, shows.
//!
//! Source: the Btrfs documentation, on-disk format; the checks are those of the
//! kernel (`fs/btrfs/tree-checker.c`) as far as the order of things goes.

use std::fmt;

use zerocopy::FromBytes;

use super::on_disk::{RawHeader, RawItem, RawKey, RawPointer};
use super::superblock::Superblock;

/// No tree is higher: levels are 0 to 7.
pub(super) const MAX_LEVEL: u8 = 8;

const HEADER: usize = size_of::<RawHeader>();

/// `BTRFS_HEADER_FLAG_WRITTEN`.
const WRITTEN: u64 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub objectid: u64,
    pub kind: u8,
    pub offset: u64,
}

impl Key {
    /// The first of all keys of an object.
    pub(super) fn first_of(objectid: u64) -> Self {
        Key { objectid, kind: 0, offset: 0 }
    }
}

impl From<&RawKey> for Key {
    fn from(raw: &RawKey) -> Self {
        Key { objectid: raw.objectid.get(), kind: raw.kind, offset: raw.offset.get() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} {} {})", self.objectid, self.kind, self.offset)
    }
}

/// Which node it must be that lies at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    pub address: u64,
    pub generation: u64,
    pub level: u8,
    /// The number of its tree.
    pub owner: u64,
    /// `None` for a root.
    pub first: Option<Key>,
    /// The key that all in it come before, if there is one.
    pub before: Option<Key>,
}

/// A node that is the expected one.
pub(super) struct Node {
    bytes: Vec<u8>,
    pub count: usize,
    pub level: u8,
}

impl Node {
    /// Checks the whole node, or says what is wrong with it.
    pub(super) fn check(
        bytes: Vec<u8>,
        expected: &Expected,
        superblock: &Superblock,
    ) -> Result<Self, &'static str> {
        let Ok((header, rest)) = RawHeader::ref_from_prefix(&bytes) else {
            return Err("is too short");
        };
        if !superblock.checksum.matches(&bytes) {
            return Err("does not match its checksum");
        }
        if header.fsid != superblock.metadata_uuid {
            return Err("is that of another file system");
        }
        if header.bytenr.get() != expected.address {
            return Err("is that of another address");
        }
        if header.owner.get() != expected.owner {
            return Err("is that of another tree");
        }
        if header.level != expected.level {
            return Err("is that of another level");
        }
        if header.generation.get() != expected.generation {
            return Err("is that of another generation");
        }
        if header.flags.get() & WRITTEN == 0 {
            return Err("was never written");
        }
        let count = usize::try_from(header.items.get()).unwrap_or(usize::MAX);
        let level = header.level;
        if level == 0 {
            check_leaf(rest, count, expected)?;
        } else {
            check_pointers(rest, count, expected, superblock)?;
        }
        Ok(Node { bytes, count, level })
    }

    fn body(&self) -> &[u8] {
        self.bytes.get(HEADER..).unwrap_or_default()
    }

    /// An item of a leaf: its key and its data.
    pub(super) fn item(&self, index: usize) -> Option<(Key, &[u8])> {
        let item = items(self.body(), self.count)?.get(index)?;
        Some(((&item.key).into(), data(self.body(), item)?))
    }

    /// What a node above the leaves says of a child; its key is the child's first.
    pub(super) fn child(&self, index: usize) -> Option<(Key, &RawPointer)> {
        let pointer = pointers(self.body(), self.count)?.get(index)?;
        Some(((&pointer.key).into(), pointer))
    }

    /// How many of the keys in it come before `key`.
    pub(super) fn count_before(&self, key: Key) -> usize {
        if self.level == 0 {
            let items = items(self.body(), self.count).unwrap_or_default();
            items.partition_point(|item| Key::from(&item.key) < key)
        } else {
            let pointers = pointers(self.body(), self.count).unwrap_or_default();
            pointers.partition_point(|pointer| Key::from(&pointer.key) < key)
        }
    }

    /// The first key from `index` on.
    pub(super) fn key(&self, index: usize) -> Option<Key> {
        if self.level == 0 {
            self.item(index).map(|(key, _)| key)
        } else {
            self.child(index).map(|(key, _)| key)
        }
    }
}

fn items(body: &[u8], count: usize) -> Option<&[RawItem]> {
    Some(<[RawItem]>::ref_from_prefix_with_elems(body, count).ok()?.0)
}

fn pointers(body: &[u8], count: usize) -> Option<&[RawPointer]> {
    Some(<[RawPointer]>::ref_from_prefix_with_elems(body, count).ok()?.0)
}

fn data<'a>(body: &'a [u8], item: &RawItem) -> Option<&'a [u8]> {
    let start = usize::try_from(item.offset.get()).ok()?;
    let size = usize::try_from(item.size.get()).ok()?;
    body.get(start..start.checked_add(size)?)
}

fn check_leaf(
    body: &[u8],
    count: usize,
    expected: &Expected,
) -> Result<(), &'static str> {
    // Only a tree with nothing in it is an empty leaf.
    if count == 0 {
        let alone = expected.first.is_none();
        return if alone { Ok(()) } else { Err("is empty") };
    }
    let Some(items) = items(body, count) else {
        return Err("claims more items than it has room for");
    };
    check_keys(items.iter().map(|item| (&item.key).into()), expected)?;
    // The data of the items lies without gaps from the end towards the front.
    let mut end = body.len();
    for item in items {
        let data = data(body, item).ok_or("has an item that leaves it")?;
        let start = usize::try_from(item.offset.get()).unwrap_or(usize::MAX);
        if data.len().checked_add(start) != Some(end) {
            return Err("has items with gaps between them");
        }
        end = start;
    }
    if end < size_of_val(items) {
        return Err("has items that overlap their table");
    }
    Ok(())
}

fn check_pointers(
    body: &[u8],
    count: usize,
    expected: &Expected,
    superblock: &Superblock,
) -> Result<(), &'static str> {
    let pointers = pointers(body, count)
        .filter(|pointers| !pointers.is_empty())
        .ok_or("has no children or claims more than it has room for")?;
    check_keys(pointers.iter().map(|pointer| (&pointer.key).into()), expected)?;
    let sound = |pointer: &RawPointer| {
        pointer.address.get().is_multiple_of(superblock.sector_size.into())
            && (1..=expected.generation).contains(&pointer.generation.get())
    };
    if pointers.iter().all(sound) { Ok(()) } else { Err("has an impossible child") }
}

fn check_keys(
    mut keys: impl Iterator<Item = Key>,
    expected: &Expected,
) -> Result<(), &'static str> {
    let Some(first) = keys.next() else { return Ok(()) };
    if expected.first.is_some_and(|expected| expected != first) {
        return Err("does not begin with the key its parent names");
    }
    let mut last = first;
    for key in keys {
        if key <= last {
            return Err("has keys out of order");
        }
        last = key;
    }
    if expected.before.is_some_and(|bound| last >= bound) {
        return Err("has keys that belong to its neighbour");
    }
    Ok(())
}
