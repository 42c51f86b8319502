//! Walking a tree: one path from the root to a leaf in memory, and never a second.
//!
//! Keys ascend strictly over the whole tree, for each node is held to the bounds that
//! its parents set, and each step down lowers the level: there is no way to walk in
//! a circle. What hostile trees could do is to be read in an order that shares no
//! path; so all reading is bounded by the size of the volume.

use super::chunk::ChunkMap;
use super::node::{Expected, Key, Node};
use super::superblock::Superblock;
use super::{RUN_CHECK, broken};
use crate::error::{Error, Result};
use crate::storage::ReadAt;

/// The trees by number.
pub(super) const ROOT_TREE: u64 = 1;
pub(super) const EXTENT_TREE: u64 = 2;
pub(super) const CHUNK_TREE: u64 = 3;
pub(super) const DEVICE_TREE: u64 = 4;
pub(super) const FREE_SPACE_TREE: u64 = 10;
pub(super) const BLOCK_GROUP_TREE: u64 = 11;

/// Of so many nodes it is remembered that they must be in use (16 MiB). Volumes of
/// some ten TiB have more; there the remaining ones are not asked for.
const MAX_REMEMBERED: usize = 1 << 20;

/// The name of a tree for a sentence.
pub(super) fn name_of(tree: u64) -> &'static str {
    match tree {
        ROOT_TREE => "the root tree",
        EXTENT_TREE => "the extent tree",
        CHUNK_TREE => "the chunk tree",
        DEVICE_TREE => "the device tree",
        FREE_SPACE_TREE => "the free space tree",
        BLOCK_GROUP_TREE => "the block group tree",
        _ => "a tree",
    }
}

/// Where a tree begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Root {
    pub id: u64,
    pub address: u64,
    pub generation: u64,
    pub level: u8,
}

/// The nodes of all trees of one volume.
pub(super) struct Nodes<'a> {
    volume: &'a dyn ReadAt,
    pub superblock: &'a Superblock,
    pub chunks: ChunkMap,
    /// Bytes that may still be read.
    budget: u64,
    met: Met,
}

impl<'a> Nodes<'a> {
    pub(super) fn new(
        volume: &'a dyn ReadAt,
        superblock: &'a Superblock,
        chunks: ChunkMap,
    ) -> Self {
        let budget = volume.len();
        Nodes { volume, superblock, chunks, budget, met: Met::new() }
    }

    /// Notes that a node of this level must be in use at this address.
    pub(super) fn must_be_in_use(&mut self, address: u64, level: u8) {
        self.met.note(address, level);
    }

    /// All nodes that were read or noted, ascending.
    pub(super) fn take_met(&mut self) -> Vec<(u64, u8)> {
        self.met.take()
    }

    /// Reads a node; if the first copy is not the expected node, the second one may
    /// be, as it may for the kernel.
    fn read(&mut self, expected: &Expected) -> Result<Node> {
        let (address, size) = (expected.address, self.superblock.node_size);
        let tree = name_of(expected.owner);
        let Some(chunk) = self.chunks.holding(address, size.into()) else {
            return Err(broken(format!(
                "a node of {tree} (address {address}) lies in no chunk"
            )));
        };
        if !chunk.is_for_nodes(expected.owner == CHUNK_TREE) {
            return Err(broken(format!(
                "a node of {tree} (address {address}) lies in a chunk for other things"
            )));
        }
        let places: Vec<u64> = chunk.places(address).collect();
        let mut wrong = ("does not exist", 0);
        for place in places {
            self.budget = self
                .budget
                .checked_sub(size.into())
                .ok_or_else(|| broken("the trees are larger than the volume"))?;
            let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
            self.volume.read_at(place, &mut bytes)?;
            match Node::check(bytes, expected, self.superblock) {
                Ok(node) => {
                    self.met.note(address, expected.level);
                    return Ok(node);
                }
                Err(what) => wrong = (what, place),
            }
        }
        let (what, place) = wrong;
        Err(Error::invalid(format!(
            "a node of {tree} (address {address}) {what}: {RUN_CHECK}"
        ))
        .at(place))
    }
}

/// Nodes that must be in use, each once.
struct Met {
    nodes: Vec<(u64, u8)>,
    full: bool,
}

impl Met {
    fn new() -> Self {
        Met { nodes: Vec::new(), full: false }
    }

    fn note(&mut self, address: u64, level: u8) {
        if self.full || self.nodes.last() == Some(&(address, level)) {
            return;
        }
        if self.nodes.len() >= MAX_REMEMBERED {
            self.nodes.sort_unstable();
            self.nodes.dedup();
            // To sort again for every new one would take for ever.
            self.full = self.nodes.len() > MAX_REMEMBERED / 2;
        }
        self.nodes.push((address, level));
    }

    fn take(&mut self) -> Vec<(u64, u8)> {
        let mut nodes = std::mem::take(&mut self.nodes);
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

/// A place in a tree.
pub(super) struct Cursor {
    pub root: Root,
    /// From the root down; the last is a leaf once something was looked for.
    path: Vec<Step>,
}

struct Step {
    expected: Expected,
    node: Node,
    /// Of a leaf the next item; above, the child that the next step is in.
    slot: usize,
}

impl Cursor {
    /// At the start of the tree.
    pub(super) fn new(nodes: &mut Nodes<'_>, root: Root) -> Result<Self> {
        let mut cursor = Cursor { root, path: Vec::new() };
        cursor.seek(nodes, Key::first_of(0))?;
        Ok(cursor)
    }

    /// Goes to the first item that does not come before `key`. Nodes that are on the
    /// path already are not read again.
    pub(super) fn seek(&mut self, nodes: &mut Nodes<'_>, key: Key) -> Result<()> {
        let root = self.root;
        let mut expected = Expected {
            address: root.address,
            generation: root.generation,
            level: root.level,
            owner: root.id,
            first: None,
            before: None,
        };
        for depth in 0..=usize::from(root.level) {
            let step = self.enter(nodes, depth, expected)?;
            let before = step.node.count_before(key);
            if step.node.level == 0 {
                step.slot = before;
                break;
            }
            // The child that begins with the key, or else the last before it.
            let exact = step.node.key(before) == Some(key);
            step.slot = if exact { before } else { before.saturating_sub(1) };
            expected = step.child(root.id)?;
        }
        Ok(())
    }

    /// Makes the expected node that of this depth.
    fn enter(
        &mut self,
        nodes: &mut Nodes<'_>,
        depth: usize,
        expected: Expected,
    ) -> Result<&mut Step> {
        if self.path.get(depth).is_none_or(|step| step.expected != expected) {
            self.path.truncate(depth);
            let node = nodes.read(&expected)?;
            self.path.push(Step { expected, node, slot: 0 });
        }
        self.path.get_mut(depth).ok_or_else(|| lost(self.root.id))
    }

    /// The next item, unless its object comes after `last`; then it stays the next.
    pub(super) fn next_up_to(
        &mut self,
        nodes: &mut Nodes<'_>,
        last: u64,
    ) -> Result<Option<(Key, &[u8])>> {
        while !self.at_item()? {
            if !self.next_leaf(nodes)? {
                return Ok(None);
            }
        }
        let id = self.root.id;
        let leaf = self.path.last_mut().ok_or_else(|| lost(id))?;
        let item = leaf.node.item(leaf.slot).ok_or_else(|| lost(id))?;
        if item.0.objectid > last {
            return Ok(None);
        }
        leaf.slot += 1;
        Ok(Some(item))
    }

    fn at_item(&self) -> Result<bool> {
        let leaf = self.path.last().ok_or_else(|| lost(self.root.id))?;
        Ok(leaf.slot < leaf.node.count)
    }

    /// Goes to the start of the leaf after this one, if there is one.
    fn next_leaf(&mut self, nodes: &mut Nodes<'_>) -> Result<bool> {
        let id = self.root.id;
        let above = self.path.len().saturating_sub(1);
        let more = |step: &Step| step.slot + 1 < step.node.count;
        let Some(turn) = self.path.iter().take(above).rposition(more) else {
            return Ok(false);
        };
        let step = self.path.get_mut(turn).ok_or_else(|| lost(id))?;
        step.slot += 1;
        let mut expected = step.child(id)?;
        for depth in turn + 1..=usize::from(self.root.level) {
            let step = self.enter(nodes, depth, expected)?;
            step.slot = 0;
            if step.node.level == 0 {
                break;
            }
            expected = step.child(id)?;
        }
        Ok(true)
    }
}

impl Step {
    /// What must be at the child that the path goes through.
    fn child(&self, tree: u64) -> Result<Expected> {
        let (first, pointer) = self.node.child(self.slot).ok_or_else(|| lost(tree))?;
        Ok(Expected {
            address: pointer.address.get(),
            generation: pointer.generation.get(),
            level: self.node.level.saturating_sub(1),
            owner: tree,
            first: Some(first),
            before: self.node.key(self.slot + 1).or(self.expected.before),
        })
    }
}

fn lost(tree: u64) -> Error {
    broken(format!("{} has no sound shape", name_of(tree)))
}
