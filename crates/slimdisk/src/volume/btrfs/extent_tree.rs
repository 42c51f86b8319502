//! The extent tree: every allocated extent of the logical address space.
//!
//! ```text
//! (address, EXTENT_ITEM, length)     data, or a node of an older file system
//! (address, METADATA_ITEM, level)    a node
//! (address, ..._REF, ...)            more about the extent of that address
//! (address, BLOCK_GROUP_ITEM, length)  how much of a chunk is used
//! ```
//!
//! What no extent lies on is free. It is read chunk by chunk, in the order in which
//! the chunks lie on the device; what belongs to no chunk shows on the way.
//!
//! Source: the kernel's `btrfs_tree.h`; the checks are those of
//! `fs/btrfs/tree-checker.c`.

use std::ops::Range;

use zerocopy::FromBytes;

use super::block_group_tree::{BLOCK_GROUP_ITEM, used_bytes, wrong};
use super::broken;
use super::chunk::{Chunk, unknown_item};
use super::features::incompat;
use super::node::{Key, MAX_LEVEL};
use super::on_disk::RawExtentItem;
use super::superblock::Superblock;
use super::tree::{Cursor, EXTENT_TREE, Nodes, Root};
use crate::error::Result;

const EXTENT_ITEM: u8 = 168;
const METADATA_ITEM: u8 = 169;
/// References that have items of their own.
const TREE_BLOCK_REF: u8 = 176;
const EXTENT_DATA_REF: u8 = 178;
const SHARED_BLOCK_REF: u8 = 182;
const SHARED_DATA_REF: u8 = 184;

const IS_DATA: u64 = 1;
const IS_NODE: u64 = 2;
const FULL_BACKREF: u64 = 0x100;

/// The part of the address space that a chunk answers for: from the end of the chunk
/// before it, and for the last one to the very end. So no item goes unseen.
pub(super) struct Region {
    pub chunk: Chunk,
    pub before: u64,
    pub last: u64,
}

impl Region {
    pub(super) fn of(nodes: &Nodes<'_>, number: usize) -> Option<Self> {
        let chunks = nodes.chunks.chunks();
        let chunk = chunks.get(number)?.clone();
        let before = number.checked_sub(1).and_then(|number| chunks.get(number));
        let is_last = number + 1 == chunks.len();
        Some(Region {
            before: before.map_or(0, |chunk| chunk.logical.end),
            last: if is_last { u64::MAX } else { chunk.logical.end - 1 },
            chunk,
        })
    }
}

pub(super) struct ExtentTree {
    cursor: Cursor,
    /// The used bytes of all chunks, if they are not among the extents.
    block_groups: Option<Vec<u64>>,
    current: Option<Current>,
}

/// The chunk being read.
struct Current {
    region: Region,
    /// Where the last extent ends.
    end: u64,
    /// Where the last extent begins.
    extent: Option<u64>,
    allocated: u64,
    /// What the block group counts.
    used: Option<u64>,
}

impl ExtentTree {
    pub(super) fn new(
        nodes: &mut Nodes<'_>,
        root: Root,
        block_groups: Option<Vec<u64>>,
    ) -> Result<Self> {
        let cursor = Cursor::new(nodes, root)?;
        Ok(ExtentTree { cursor, block_groups, current: None })
    }

    /// Goes to the start of a chunk.
    pub(super) fn enter(&mut self, nodes: &mut Nodes<'_>, number: usize) -> Result<()> {
        let Some(region) = Region::of(nodes, number) else { return Ok(()) };
        self.cursor.seek(nodes, Key::first_of(region.before))?;
        let used =
            self.block_groups.as_ref().and_then(|groups| groups.get(number).copied());
        self.current = Some(Current {
            end: region.chunk.logical.start,
            region,
            extent: None,
            allocated: 0,
            used,
        });
        Ok(())
    }

    /// The next free range of the chunk, as logical addresses; they never touch.
    pub(super) fn next_free(
        &mut self,
        nodes: &mut Nodes<'_>,
    ) -> Result<Option<Range<u64>>> {
        let Some(current) = &mut self.current else { return Ok(None) };
        let (superblock, last) = (nodes.superblock, current.region.last);
        while let Some((key, data)) = self.cursor.next_up_to(nodes, last)? {
            let logical = &current.region.chunk.logical;
            if !logical.contains(&key.objectid) {
                return Err(broken(format!(
                    "the item {key} of the extent tree belongs to no chunk"
                )));
            }
            match key.kind {
                EXTENT_ITEM | METADATA_ITEM => {
                    let free = current.end..key.objectid;
                    current.add(key, data, superblock)?;
                    if !free.is_empty() {
                        return Ok(Some(free));
                    }
                }
                TREE_BLOCK_REF | EXTENT_DATA_REF | SHARED_BLOCK_REF | SHARED_DATA_REF => {
                    if current.extent != Some(key.objectid) {
                        return Err(broken(format!(
                            "the reference {key} in the extent tree has no extent"
                        )));
                    }
                }
                BLOCK_GROUP_ITEM => {
                    let used = used_bytes(key, data, &current.region.chunk)?;
                    if current.used.replace(used).is_some() {
                        return Err(wrong(&current.region.chunk));
                    }
                }
                _ => return Err(unknown_item(EXTENT_TREE, key)),
            }
        }
        let logical = &current.region.chunk.logical;
        let free = current.end..logical.end;
        current.end = logical.end;
        Ok(Some(free).filter(|free| !free.is_empty()))
    }

    /// Leaves a chunk that was read to its end, and gives how many bytes of it are
    /// allocated: as many as its block group counts.
    pub(super) fn leave(&mut self) -> Result<u64> {
        let Some(current) = self.current.take() else { return Ok(0) };
        let chunk = &current.region.chunk;
        let used = current.used.ok_or_else(|| wrong(chunk))?;
        if used != current.allocated {
            return Err(broken(format!(
                "the extents of the chunk at address {} have {} bytes but its block \
                 group counts {used}",
                chunk.logical.start, current.allocated
            )));
        }
        Ok(used)
    }

    /// Whether a node of this level is allocated at this address; all extents have
    /// been checked before.
    pub(super) fn has_node(
        &mut self,
        nodes: &mut Nodes<'_>,
        address: u64,
        level: u8,
    ) -> Result<bool> {
        let first = Key { objectid: address, kind: EXTENT_ITEM, offset: 0 };
        self.cursor.seek(nodes, first)?;
        let Some((key, data)) = self.cursor.next_up_to(nodes, address)? else {
            return Ok(false);
        };
        let is_node = RawExtentItem::ref_from_prefix(data)
            .is_ok_and(|(raw, _)| raw.flags.get() & IS_NODE != 0);
        Ok(is_node
            && match key.kind {
                EXTENT_ITEM => true,
                METADATA_ITEM => key.offset == u64::from(level),
                _ => false,
            })
    }
}

impl Current {
    /// Adds an extent, which must lie in the chunk, behind the last one.
    fn add(&mut self, key: Key, data: &[u8], superblock: &Superblock) -> Result<()> {
        let broken =
            |what: &str| Err(broken(format!("the item {key} of the extent tree {what}")));
        let Ok((raw, _)) = RawExtentItem::ref_from_prefix(data) else {
            return broken("is cut off");
        };
        let (chunk, flags) = (&self.region.chunk, raw.flags.get());
        let node_size = u64::from(superblock.node_size);
        let sector_size = u64::from(superblock.sector_size);
        let length = if key.kind == METADATA_ITEM {
            let skinny = superblock.features.incompat(incompat::SKINNY_METADATA);
            if !skinny || key.offset >= u64::from(MAX_LEVEL) {
                return broken("is none that this file system may have");
            }
            node_size
        } else {
            key.offset
        };
        let sound = match flags & !FULL_BACKREF {
            IS_NODE => length == node_size && chunk.is_for_nodes(false),
            IS_DATA => key.kind == EXTENT_ITEM && flags == IS_DATA && chunk.is_for_data(),
            _ => false,
        };
        if !sound {
            return broken("has flags that do not fit it or its chunk");
        }
        if raw.refs.get() == 0 || raw.generation.get() > superblock.generation {
            return broken("has no references or an impossible generation");
        }
        let end = key.objectid.checked_add(length).filter(|end| {
            length > 0
                && key.objectid.is_multiple_of(sector_size)
                && length.is_multiple_of(sector_size)
                && *end <= chunk.logical.end
        });
        let Some(end) = end else {
            return broken("has an impossible place or length");
        };
        if key.objectid < self.end {
            return broken("overlaps the extent before it");
        }
        self.end = end;
        self.extent = Some(key.objectid);
        self.allocated += length;
        Ok(())
    }
}
