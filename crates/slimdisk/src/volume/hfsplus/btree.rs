//! B-trees: the extents overflow file, and the first record of the catalog.
//!
//! ```text
//! header node -> root -> index nodes -> leaf -> leaf -> ...
//! node: descriptor | records ... free ... | offsets of the records, last first
//! ```

use zerocopy::FromBytes;
use zerocopy::big_endian::{U16, U32};

use super::REPAIR;
use super::fork::Fork;
use super::on_disk::{
    RawCatalogKey, RawExtent, RawExtentKey, RawNodeDescriptor, RawTreeHeader,
};
use crate::error::{Error, Result};
use crate::storage::ReadAt;

const LEAF: i8 = -1;
const INDEX: i8 = 0;
const HEADER: i8 = 1;

/// More levels than a tree of 2^32 records can need.
const MAX_DEPTH: u16 = 16;

/// `kHFSRootParentID`, the parent of the root folder.
const ROOT_PARENT: u32 = 1;
/// Characters of 16 bits in a name.
const MAX_NAME: usize = 255;

/// File, fork and first block, in the order of the extents overflow file.
type ExtentKey = (u32, u8, u32);

/// A B-tree's header, checked.
struct Tree<'a> {
    volume: &'a dyn ReadAt,
    fork: &'a Fork,
    node_size: u16,
    nodes: u32,
    depth: u16,
    root: u32,
    first_leaf: u32,
}

/// A node with the places of its records, checked.
struct Node {
    bytes: Vec<u8>,
    descriptor: RawNodeDescriptor,
}

impl<'a> Tree<'a> {
    fn open(volume: &'a dyn ReadAt, fork: &'a Fork) -> Result<Self> {
        let raw: RawTreeHeader = fork.read_struct(volume, 0)?;
        let tree = Tree {
            volume,
            fork,
            node_size: raw.node_size.get(),
            nodes: raw.total_nodes.get(),
            depth: raw.depth.get(),
            root: raw.root.get(),
            first_leaf: raw.first_leaf.get(),
        };
        if raw.descriptor.kind != HEADER
            || !tree.node_size.is_power_of_two()
            || tree.node_size < 512
            || u64::from(tree.nodes) * u64::from(tree.node_size) > fork.size
            || tree.depth > MAX_DEPTH
        {
            return Err(tree.damaged());
        }
        Ok(tree)
    }

    fn node(&self, number: u32, kind: i8, height: u16) -> Result<Node> {
        if number >= self.nodes {
            return Err(self.damaged());
        }
        let mut bytes = vec![0; usize::from(self.node_size)];
        self.fork.read(
            self.volume,
            u64::from(number) * u64::from(self.node_size),
            &mut bytes,
        )?;
        let (descriptor, _) =
            RawNodeDescriptor::read_from_prefix(&bytes).map_err(|_| self.damaged())?;
        if descriptor.kind != kind
            || u16::from(descriptor.height) != height
            || descriptor.records.get() == 0
            || descriptor.records.get() > self.node_size / 4
        {
            return Err(self.damaged());
        }
        Ok(Node { bytes, descriptor })
    }

    /// The bytes of a node from a record on, up to the offsets of the records.
    fn record<'n>(&self, node: &'n Node, index: u16) -> Result<&'n [u8]> {
        let offsets =
            usize::from(self.node_size - 2 * (node.descriptor.records.get() + 1));
        let at = usize::from(self.node_size - 2 * (index + 1));
        let offset =
            node.bytes.get(at..at + 2).and_then(|b| U16::read_from_bytes(b).ok());
        let offset = offset.map(|offset| usize::from(offset.get()));
        offset
            .filter(|offset| *offset >= size_of::<RawNodeDescriptor>())
            .and_then(|offset| node.bytes.get(offset..offsets))
            .ok_or_else(|| self.damaged())
    }

    fn damaged(&self) -> Error {
        Error::invalid(format!("the B-tree of {} is damaged: {REPAIR}", self.fork.name))
    }
}

/// The extents overflow file: where the ninth and later extents of forks lie.
pub(super) struct ExtentsTree<'a>(Tree<'a>);

impl<'a> ExtentsTree<'a> {
    pub(super) fn open(volume: &'a dyn ReadAt, fork: &'a Fork) -> Result<Self> {
        Tree::open(volume, fork).map(ExtentsTree)
    }

    /// Calls `each` for the records of a file's data fork, in their order: the first
    /// block of the fork that a record speaks of, and its extents.
    pub(super) fn each(
        &self,
        file: u32,
        each: &mut dyn FnMut(u32, &[RawExtent; 8]) -> Result<()>,
    ) -> Result<()> {
        let tree = &self.0;
        let wanted = (file, 0, 0);
        let mut number = tree.root;
        for height in (2..=tree.depth).rev() {
            let node = tree.node(number, INDEX, height)?;
            // The last child that begins before what is wanted, or the first of all.
            let mut child = None;
            for index in 0..node.descriptor.records.get() {
                let (key, value) = self.key(&node, index)?;
                if child.is_some() && key > wanted {
                    break;
                }
                let (next, _) =
                    U32::read_from_prefix(value).map_err(|_| tree.damaged())?;
                child = Some(next.get());
            }
            number = child.ok_or_else(|| tree.damaged())?;
        }
        if tree.depth == 0 {
            return Ok(());
        }
        // Keys ascend from leaf to leaf, so no leaf is visited twice; and what lies
        // before the wanted ones is all in the first leaf.
        let mut last = None;
        loop {
            let first_leaf = last.is_none();
            let node = tree.node(number, LEAF, 1)?;
            for index in 0..node.descriptor.records.get() {
                let (key, value) = self.key(&node, index)?;
                let before = key < wanted && !first_leaf;
                if before || last.is_some_and(|last| key <= last) {
                    return Err(tree.damaged());
                }
                last = Some(key);
                let (found, fork, block) = key;
                if (found, fork) > (file, 0) {
                    return Ok(());
                }
                if (found, fork) == (file, 0) {
                    let (extents, _) = <[RawExtent; 8]>::read_from_prefix(value)
                        .map_err(|_| tree.damaged())?;
                    each(block, &extents)?;
                }
            }
            number = node.descriptor.next.get();
            if number == 0 {
                return Ok(());
            }
        }
    }

    /// A record's key, in the order of the tree (file, fork, block), and its value.
    fn key<'n>(&self, node: &'n Node, index: u16) -> Result<(ExtentKey, &'n [u8])> {
        let record = self.0.record(node, index)?;
        let (key, value) =
            RawExtentKey::read_from_prefix(record).map_err(|_| self.0.damaged())?;
        if usize::from(key.length.get()) + 2 != size_of::<RawExtentKey>() {
            return Err(self.0.damaged());
        }
        Ok(((key.file.get(), key.fork, key.block.get()), value))
    }
}

/// The volume's name: the catalog begins with the record of the root folder, whose key
/// it is.
pub(super) fn root_folder_name(volume: &dyn ReadAt, catalog: &Fork) -> Result<String> {
    let tree = Tree::open(volume, catalog)?;
    let node = tree.node(tree.first_leaf, LEAF, 1)?;
    let record = tree.record(&node, 0)?;
    let key = RawCatalogKey::read_from_prefix(record).ok();
    let name =
        key.filter(|(key, _)| key.parent.get() == ROOT_PARENT).and_then(|(key, rest)| {
            let length = usize::from(key.name_length.get());
            rest.get(..length * 2).filter(|_| length <= MAX_NAME)
        });
    let name = name.ok_or_else(|| {
        Error::invalid(format!(
            "the catalog does not begin with the root folder: {REPAIR}"
        ))
    })?;
    let units = name
        .chunks_exact(2)
        .map(|unit| u16::from_be_bytes(unit.try_into().unwrap_or_default()));
    Ok(char::decode_utf16(units)
        .map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect())
}
