//! The free space of an allocation group: both B+trees must tell the same, and what
//! is in use for certain must not be in it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::ops::Range;

use super::REPAIR;
use super::allocation_group::AllocationGroup;
use super::btree::{Extent, Order, Tree};
use super::superblock::Superblock;
use crate::error::{Error, Result};
use crate::storage::ReadAt;
use crate::volume::FreeSink;

/// Of how many blocks of B+trees of one group it is checked that they are not free;
/// a volume has more only if its free space lies in tens of millions of pieces.
const MAX_TREE_BLOCKS: usize = 1 << 18;

/// Blocks of a group that must be in use.
struct Occupied {
    start: u32,
    end: u32,
    what: &'static str,
}

/// What a B+tree holds, in few words.
///
/// The two trees hold their extents in different orders, and neither fits into
/// memory. Each record is hashed (`SipHash`, with a key drawn for this reading) and the
/// hashes are added up. Records of one tree all differ, as they ascend. So two trees
/// that differ in anything have different sums but for one chance in 2^64, which no
/// maker of a volume can better without knowing the key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    records: u64,
    blocks: u64,
    longest: u32,
    digest: u64,
}

impl Tally {
    fn add(&mut self, extent: Extent, key: &RandomState) {
        self.records += 1;
        self.blocks += u64::from(extent.length);
        self.longest = self.longest.max(extent.length);
        let hash = key.hash_one((extent.start, extent.length));
        self.digest = self.digest.wrapping_add(hash);
    }
}

/// Reads the free space of one group after another.
pub(super) struct FreeSpace<'a, 'b> {
    fs: &'a Superblock,
    volume: &'a dyn ReadAt,
    newest_lsn: u64,
    key: RandomState,
    free: &'a mut FreeSink<'b>,
    pub totals: Totals,
}

/// What all groups have together, in blocks.
#[derive(Default)]
pub(super) struct Totals {
    pub free: u64,
    pub set_aside: u64,
    /// Of the B+trees, as the AGFs count them.
    pub btrees: u64,
}

impl<'a, 'b> FreeSpace<'a, 'b> {
    pub(super) fn new(
        fs: &'a Superblock,
        volume: &'a dyn ReadAt,
        newest_lsn: u64,
        free: &'a mut FreeSink<'b>,
    ) -> Self {
        let (key, totals) = (RandomState::new(), Totals::default());
        FreeSpace { fs, volume, newest_lsn, key, free, totals }
    }

    /// Sends the free extents of a group.
    pub(super) fn read(&mut self, group: &AllocationGroup) -> Result<()> {
        let mut tree_blocks = TreeBlocks::default();
        let by_size = self.read_by_size(group, &mut tree_blocks)?;
        let tree = self.tree(group, Order::ByBlock);
        // Where the leaves lie has to be known before the first extent is taken for
        // free. If there is but one level, the root is the leaf.
        let mut by_block_blocks = TreeBlocks::default();
        if tree.levels > 1 {
            tree.for_each_block(&mut |block| by_block_blocks.add(block))?;
        } else {
            by_block_blocks.add(tree.root);
        }
        tree_blocks.join(by_block_blocks);

        let occupied = self.occupied(group, &tree_blocks);
        let mut tripwire = occupied.iter().peekable();
        let mut tally = Tally::default();
        let mut pending: Option<Range<u64>> = None;
        let (fs, key, free) = (self.fs, &self.key, &mut *self.free);
        let number = group.number;
        tree.for_each_record(&mut |_| (), &mut |extent| {
            tally.add(extent, key);
            let end = extent.start + extent.length;
            // What begins before this extent's end can meet this extent only: those
            // before it ended earlier, those after it begin later.
            while let Some(used) = tripwire.next_if(|used| used.start < end) {
                if used.end > extent.start {
                    return Err(Error::invalid(format!(
                        "{} of allocation group {number} is called free: {REPAIR}",
                        used.what
                    ))
                    .at(fs.byte(number, used.start)));
                }
            }
            let bytes = fs.byte(number, extent.start)..fs.byte(number, end);
            match &mut pending {
                Some(last) if last.end == bytes.start => last.end = bytes.end,
                _ => {
                    if let Some(last) = pending.replace(bytes) {
                        free(last);
                    }
                }
            }
            Ok(())
        })?;
        if let Some(last) = pending {
            free(last);
        }
        self.compare(group, tally, by_size, tree_blocks.count)
    }

    fn read_by_size(
        &self,
        group: &AllocationGroup,
        blocks: &mut TreeBlocks,
    ) -> Result<Tally> {
        let mut tally = Tally::default();
        self.tree(group, Order::BySize).for_each_record(
            &mut |block| blocks.add(block),
            &mut |extent| {
                tally.add(extent, &self.key);
                Ok(())
            },
        )?;
        Ok(tally)
    }

    fn tree(&self, group: &AllocationGroup, order: Order) -> Tree<'a> {
        let (root, levels) = match order {
            Order::ByBlock => group.by_block,
            Order::BySize => group.by_size,
        };
        Tree {
            fs: self.fs,
            volume: self.volume,
            order,
            group: group.number,
            root,
            levels,
            newest_lsn: self.newest_lsn,
        }
    }

    /// What must be in use, in ascending order of its start. (That no extent reaches
    /// into the headers is checked with its bounds.)
    fn occupied(&self, group: &AllocationGroup, trees: &TreeBlocks) -> Vec<Occupied> {
        let one = |start: &u32, what| Occupied { start: *start, end: *start + 1, what };
        let mut occupied = Vec::new();
        occupied.extend(trees.blocks.iter().map(|b| one(b, "a block of a B+tree")));
        occupied.extend(group.set_aside.iter().map(|b| one(b, "a block set aside")));
        occupied.extend(group.other_roots.iter().map(|b| one(b, "the root of a B+tree")));
        let inodes = self.fs.inode_blocks.iter().filter(|at| at.group == group.number);
        occupied.extend(inodes.map(|at| one(&at.block, "a system inode")));
        let log = self.fs.log_start;
        if log.group == group.number {
            let end = log.block + self.fs.log_blocks;
            occupied.push(Occupied { start: log.block, end, what: "the log" });
        }
        occupied.sort_unstable_by_key(|used| used.start);
        occupied
    }

    fn compare(
        &mut self,
        group: &AllocationGroup,
        by_block: Tally,
        by_size: Tally,
        tree_blocks: u64,
    ) -> Result<()> {
        let differ = |what: &str| {
            Err(Error::invalid(format!(
                "{what} of allocation group {}: {REPAIR}",
                group.number
            ))
            .at(self.fs.byte(group.number, 0)))
        };
        if by_block != by_size {
            return differ("the two B+trees do not agree on the free space");
        }
        if by_block.blocks != u64::from(group.free_blocks)
            || by_block.longest != group.longest
        {
            return differ("the AGF does not agree with the B+trees on the free space");
        }
        // Without lazy counters older programs do not keep this number.
        let mut btrees = u64::from(group.btree_blocks);
        let counted = group.expected_btree_blocks(tree_blocks);
        if !self.fs.features.lazy_counters {
            btrees = counted;
        } else if btrees != counted {
            return differ("the AGF does not agree on the number of blocks of B+trees");
        }
        self.totals.free += by_block.blocks;
        self.totals.set_aside += group.set_aside.len() as u64;
        self.totals.btrees += btrees;
        Ok(())
    }
}

/// The numbers of blocks of B+trees, as many as are remembered.
#[derive(Default)]
struct TreeBlocks {
    blocks: Vec<u32>,
    count: u64,
}

impl TreeBlocks {
    fn add(&mut self, block: u32) {
        self.count += 1;
        if self.blocks.len() < MAX_TREE_BLOCKS {
            self.blocks.push(block);
        }
    }

    fn join(&mut self, other: TreeBlocks) {
        self.count += other.count;
        let room = MAX_TREE_BLOCKS.saturating_sub(self.blocks.len());
        self.blocks.extend(other.blocks.into_iter().take(room));
    }
}
