//! The two B+trees of an allocation group's free space.
//!
//! ```text
//! AGF -> root:   header | keys ..... | pointers ...      level 2
//!                            |             |
//!              header | keys | pointers    ...           level 1
//!                          |
//!              header | (start, length) (start, length)  level 0
//! ```
//!
//! Both hold the same extents: one by their start, one by their length. A key is the
//! first record beneath its pointer. Every block names its neighbours on its level,
//! and the walk goes by the pointers of the level above and holds the names against
//! it: so no block comes twice, for the first one that did would have two neighbours
//! to its left.
//!
//! Source: XFS Algorithms & Data Structures, AG Free Space B+trees, Short Format
//! B+trees.

use zerocopy::FromBytes;
use zerocopy::big_endian::U32;

use super::allocation_group::check_lsn;
use super::on_disk::{RawBtreeBlock, RawBtreeBlockV5, RawFreeExtent};
use super::superblock::Superblock;
use super::{REPAIR, checksum};
use crate::error::{Error, Result};
use crate::storage::ReadAt;

/// `NULLAGBLOCK`: no such block.
const NONE: u32 = u32::MAX;
/// `XFS_BTREE_MAXLEVELS`.
const MAX_LEVELS: u32 = 9;
/// Where `bb_crc` lies.
const CHECKSUM: usize = 52;
/// At most this much is read at a time where blocks lie beside each other.
const READ_AHEAD: usize = 256 << 10;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    ByBlock,
    BySize,
}

impl Order {
    fn magic(self, v5: bool) -> &'static [u8; 4] {
        match (self, v5) {
            (Order::ByBlock, false) => b"ABTB",
            (Order::ByBlock, true) => b"AB3B",
            (Order::BySize, false) => b"ABTC",
            (Order::BySize, true) => b"AB3C",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Order::ByBlock => "free space by block",
            Order::BySize => "free space by size",
        }
    }
}

/// Free blocks of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub start: u32,
    pub length: u32,
}

impl Extent {
    fn of(raw: &RawFreeExtent) -> Self {
        Extent { start: raw.start.get(), length: raw.length.get() }
    }
}

/// How deep a walk goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// To the pointers of level 1.
    Pointers,
    Records,
}

/// One of the two B+trees of one group.
pub(super) struct Tree<'a> {
    pub fs: &'a Superblock,
    pub volume: &'a dyn ReadAt,
    pub order: Order,
    pub group: u32,
    pub root: u32,
    pub levels: u32,
    /// The newest place in the log: nothing has been written after it.
    pub newest_lsn: u64,
}

/// A node whose children are being walked.
struct Node {
    /// The blocks, each with the first record that it must have.
    children: Vec<(u32, Option<Extent>)>,
    next: usize,
    /// Blocks read ahead; the first of them is child `read_from`.
    read: Vec<u8>,
    read_from: usize,
}

/// What has been seen of a level.
#[derive(Clone, Copy)]
struct Level {
    /// The block visited last, and the neighbour it names.
    last: u32,
    right: u32,
}

impl Tree<'_> {
    /// Calls `block` with the number of every block of the tree, reading all of them
    /// but the leaves.
    pub(super) fn for_each_block(&self, block: &mut dyn FnMut(u32)) -> Result<()> {
        self.walk(Depth::Pointers, block, &mut |_| Ok(()))
    }

    /// Calls `record` with every record, in ascending order, and `block` with the
    /// number of every block.
    pub(super) fn for_each_record(
        &self,
        block: &mut dyn FnMut(u32),
        record: &mut dyn FnMut(Extent) -> Result<()>,
    ) -> Result<()> {
        let mut last = None;
        let inside = self.fs.header_blocks()..=self.fs.group_length(self.group);
        self.walk(Depth::Records, block, &mut |extent| {
            let end = extent.start.checked_add(extent.length);
            let sound = extent.length > 0
                && inside.contains(&extent.start)
                && end.is_some_and(|end| inside.contains(&end));
            if !sound {
                return Err(self.broken("has an extent outside its group"));
            }
            if last.is_some_and(|last| !self.ascending(last, extent)) {
                return Err(self.broken("is not in order"));
            }
            last = Some(extent);
            record(extent)
        })
    }

    fn ascending(&self, a: Extent, b: Extent) -> bool {
        match self.order {
            // `a` lies inside the group, so its end is a number.
            Order::ByBlock => a.start + a.length <= b.start,
            Order::BySize => (a.length, a.start) < (b.length, b.start),
        }
    }

    fn walk(
        &self,
        depth: Depth,
        visit: &mut dyn FnMut(u32),
        record: &mut dyn FnMut(Extent) -> Result<()>,
    ) -> Result<()> {
        if !(1..=MAX_LEVELS).contains(&self.levels) {
            return Err(self.broken("has an impossible number of levels"));
        }
        let mut levels = vec![Level { last: NONE, right: NONE }; self.levels as usize];
        // Above the root stands what the AGF knows of it.
        let mut path = vec![self.node(vec![(self.root, None)], visit)?];
        // There is never more on the path than one node a level.
        loop {
            let steps = u32::try_from(path.len()).unwrap_or(u32::MAX);
            let Some(node) = path.last_mut() else { break };
            let Some(((number, first), bytes)) = node.next(self)? else {
                path.pop();
                continue;
            };
            let level = self.levels - steps;
            let block = self.check(number, level, bytes)?;
            if let Some(seen) = levels.get_mut(level as usize) {
                let expected = if seen.last == NONE { number } else { seen.right };
                if block.left != seen.last || expected != number {
                    return Err(self.broken_at(number, "has other neighbours"));
                }
                *seen = Level { last: number, right: block.right };
            }
            if let Some(first) = first
                && block.entries.first().map(Extent::of) != Some(first)
            {
                return Err(self.broken_at(number, "does not begin as its key says"));
            }
            if level == 0 {
                for entry in block.entries {
                    record(Extent::of(entry))?;
                }
                continue;
            }
            let keys = block.entries.iter().map(|key| Some(Extent::of(key)));
            let children = block.pointers.iter().map(|p| p.get()).zip(keys).collect();
            let children = self.node(children, visit)?;
            if level > 1 || depth == Depth::Records {
                path.push(children);
            }
        }
        if levels.iter().any(|level| level.right != NONE) {
            return Err(self.broken("goes on after its end"));
        }
        Ok(())
    }

    fn node(
        &self,
        children: Vec<(u32, Option<Extent>)>,
        visit: &mut dyn FnMut(u32),
    ) -> Result<Node> {
        let inside = self.fs.header_blocks()..self.fs.group_length(self.group);
        for (number, _) in &children {
            if !inside.contains(number) {
                return Err(self.broken("leaves its group"));
            }
            visit(*number);
        }
        if children.len() > 1 {
            let place = |(number, _): &(u32, _)| self.fs.byte(self.group, *number);
            let size = u64::from(self.fs.block_size);
            let places = children.iter().map(place).map(|at| at..at + size);
            self.volume.will_read(&places.collect::<Vec<_>>());
        }
        Ok(Node { children, next: 0, read: Vec::new(), read_from: 0 })
    }

    /// Checks all that a block says of itself.
    fn check<'b>(&self, number: u32, level: u32, bytes: &'b [u8]) -> Result<Block<'b>> {
        let broken = |how| Err(self.broken_at(number, how));
        let v5 = self.fs.features.v5;
        let Ok((head, rest)) = RawBtreeBlock::ref_from_prefix(bytes) else {
            return broken("is too short");
        };
        if &head.magic != self.order.magic(v5) {
            return broken("lacks its signature");
        }
        let mut body = rest;
        if v5 {
            let Ok((own, rest)) = RawBtreeBlockV5::ref_from_prefix(rest) else {
                return broken("is too short");
            };
            body = rest;
            if !checksum::fits(bytes, CHECKSUM) {
                return broken("does not match its checksum");
            }
            let place = self.fs.byte(self.group, number) / 512;
            if own.uuid != self.fs.uuid
                || own.basic_block.get() != place
                || own.owner.get() != self.group
            {
                return broken("belongs elsewhere");
            }
            if !check_lsn(own.lsn.get(), self.newest_lsn) {
                return broken("is newer than the log");
            }
        }
        if u32::from(head.level.get()) != level {
            return broken("is of another level");
        }
        let records = usize::from(head.records.get());
        let entry = size_of::<RawFreeExtent>();
        let most = body.len() / if level == 0 { entry } else { entry + 4 };
        // All but the root are kept at least half full, which bounds how much there
        // is to be read; here a quarter is enough.
        let is_root = level + 1 == self.levels;
        let least = if is_root { usize::from(level > 0) } else { most / 4 };
        if !(least..=most).contains(&records) {
            return broken("has an impossible number of records");
        }
        let found = <[RawFreeExtent]>::ref_from_prefix_with_elems(body, records);
        let Ok((entries, _)) = found else { return broken("is too short") };
        // Pointers come after the room for all keys.
        let pointers =
            if level == 0 { &[] } else { body.get(most * entry..).unwrap_or(&[]) };
        let count = if level == 0 { 0 } else { records };
        let Ok((pointers, _)) = <[U32]>::ref_from_prefix_with_elems(pointers, count)
        else {
            return broken("is too short");
        };
        Ok(Block { left: head.left.get(), right: head.right.get(), entries, pointers })
    }

    fn broken(&self, how: &str) -> Error {
        let (name, group) = (self.order.name(), self.group);
        Error::invalid(format!(
            "the B+tree of {name} of allocation group {group} {how}: {REPAIR}"
        ))
    }

    fn broken_at(&self, block: u32, how: &str) -> Error {
        let (name, group) = (self.order.name(), self.group);
        Error::invalid(format!(
            "a block of the B+tree of {name} of allocation group {group} {how}: {REPAIR}"
        ))
        .at(self.fs.byte(group, block))
    }
}

/// A checked block.
struct Block<'a> {
    left: u32,
    right: u32,
    /// Records or keys, which look the same.
    entries: &'a [RawFreeExtent],
    pointers: &'a [U32],
}

/// A child and its bytes.
type Child<'a> = ((u32, Option<Extent>), &'a [u8]);

impl Node {
    /// The next child, with those that lie behind it read in one go.
    fn next(&mut self, tree: &Tree<'_>) -> Result<Option<Child<'_>>> {
        let size = tree.fs.block_size as usize;
        let Some(&child) = self.children.get(self.next) else { return Ok(None) };
        let mut at = (self.next - self.read_from) * size;
        if at >= self.read.len() {
            let run = self
                .children
                .iter()
                .skip(self.next)
                .zip(child.0..)
                .take_while(|((number, _), expected)| number == expected)
                .count()
                .min((READ_AHEAD / size).max(1));
            self.read.resize(run * size, 0);
            tree.volume.read_at(tree.fs.byte(tree.group, child.0), &mut self.read)?;
            self.read_from = self.next;
            at = 0;
        }
        self.next += 1;
        let bytes = self.read.get(at..at + size).unwrap_or_default();
        Ok(Some((child, bytes)))
    }
}
