//! The free space tree: the free ranges of each block group, in their own words.
//!
//! ```text
//! (start, FREE_SPACE_INFO, length)     of a block group: how many ranges follow
//! (start, FREE_SPACE_EXTENT, length)   a free range, or else, all of them as
//! (start, FREE_SPACE_BITMAP, length)   a bit a sector, 1 is free
//! ```
//!
//! It is no source of free space here but a witness: it must give exactly the ranges
//! that the extent tree leaves over. Block groups that do not exist are passed over:
//! `mkfs.btrfs` leaves those of its first, temporary chunks behind.
//!
//! Source: the kernel's `btrfs_tree.h` (`btrfs_free_space_info`) and
//! `fs/btrfs/free-space-tree.h`.

use std::collections::VecDeque;
use std::ops::Range;

use zerocopy::FromBytes;

use super::broken;
use super::chunk::{Chunk, unknown_item};
use super::node::Key;
use super::on_disk::RawFreeSpaceInfo;
use super::tree::{Cursor, FREE_SPACE_TREE, Nodes, Root};
use crate::error::{Error, Result};

const FREE_SPACE_INFO: u8 = 198;
const FREE_SPACE_EXTENT: u8 = 199;
const FREE_SPACE_BITMAP: u8 = 200;

const USING_BITMAPS: u32 = 1;

/// No bitmap has more bytes.
const MAX_BITMAP: usize = 256;

pub(super) struct FreeSpaceTree {
    cursor: Cursor,
    current: Option<Current>,
}

/// The block group being read.
struct Current {
    chunk: Chunk,
    /// Which kind of items it has.
    kind: u8,
    /// Ranges still to come of what has been read; they may touch.
    pieces: VecDeque<Range<u64>>,
    /// Where the last item ends.
    end: u64,
    ranges: u64,
    /// How many ranges the block group counts.
    counted: u32,
}

impl FreeSpaceTree {
    pub(super) fn new(nodes: &mut Nodes<'_>, root: Root) -> Result<Self> {
        Ok(FreeSpaceTree { cursor: Cursor::new(nodes, root)?, current: None })
    }

    /// Goes to the start of a chunk's block group.
    pub(super) fn enter(&mut self, nodes: &mut Nodes<'_>, number: usize) -> Result<()> {
        let Some(chunk) = nodes.chunks.chunks().get(number).cloned() else {
            return Ok(());
        };
        let (start, last) = (chunk.logical.start, chunk.logical.end - 1);
        let missing = || {
            broken(format!(
                "the free space tree does not know the block group at address {start}"
            ))
        };
        self.cursor.seek(nodes, Key::first_of(start))?;
        let (key, data) = self.cursor.next_up_to(nodes, last)?.ok_or_else(missing)?;
        let expected =
            Key { objectid: start, kind: FREE_SPACE_INFO, offset: chunk.length() };
        let Ok(raw) = RawFreeSpaceInfo::ref_from_bytes(data) else {
            return Err(missing());
        };
        if key != expected {
            return Err(missing());
        }
        let kind = match raw.flags.get() {
            0 => FREE_SPACE_EXTENT,
            USING_BITMAPS => FREE_SPACE_BITMAP,
            _ => return Err(unknown_item(FREE_SPACE_TREE, key)),
        };
        self.current = Some(Current {
            chunk,
            kind,
            pieces: VecDeque::new(),
            end: start,
            ranges: 0,
            counted: raw.extents.get(),
        });
        Ok(())
    }

    /// The next free range of the block group, as logical addresses; they never
    /// touch.
    pub(super) fn next_free(
        &mut self,
        nodes: &mut Nodes<'_>,
    ) -> Result<Option<Range<u64>>> {
        let Some(current) = &mut self.current else { return Ok(None) };
        let sector_size = nodes.superblock.sector_size;
        let mut range: Option<Range<u64>> = None;
        'range: loop {
            while let Some(piece) = current.pieces.pop_front() {
                match &mut range {
                    Some(range) if range.end != piece.start => {
                        current.pieces.push_front(piece);
                        break 'range;
                    }
                    Some(range) => range.end = piece.end,
                    None => range = Some(piece),
                }
            }
            let last = current.chunk.logical.end - 1;
            match self.cursor.next_up_to(nodes, last)? {
                Some((key, data)) => current.add(key, data, sector_size)?,
                None => break,
            }
        }
        current.ranges += u64::from(range.is_some());
        Ok(range)
    }

    /// Leaves a block group that was read to its end.
    pub(super) fn leave(&mut self) -> Result<()> {
        match self.current.take() {
            Some(current) if current.ranges != u64::from(current.counted) => {
                Err(broken(format!(
                    "the free space tree has {} ranges in the block group at address {} \
                 but counts {}",
                    current.ranges, current.chunk.logical.start, current.counted
                )))
            }
            _ => Ok(()),
        }
    }
}

impl Current {
    /// Adds the ranges of one item, which must lie in the block group, behind the
    /// last one.
    fn add(&mut self, key: Key, data: &[u8], sector_size: u32) -> Result<()> {
        if key.kind != self.kind {
            return Err(unknown_item(FREE_SPACE_TREE, key));
        }
        let end = key.objectid.checked_add(key.offset).filter(|end| {
            let size = u64::from(sector_size);
            key.objectid >= self.end
                && key.offset > 0
                && key.objectid.is_multiple_of(size)
                && key.offset.is_multiple_of(size)
                && *end <= self.chunk.logical.end
        });
        let Some(end) = end else { return Err(impossible(key)) };
        self.end = end;
        if key.kind == FREE_SPACE_EXTENT {
            self.pieces.push_back(key.objectid..end);
            return Ok(());
        }
        let bits = key.offset / u64::from(sector_size);
        if data.len() > MAX_BITMAP || bits.div_ceil(8) != data.len() as u64 {
            return Err(impossible(key));
        }
        for (bit, at) in (key.objectid..end).step_by(sector_size as usize).enumerate() {
            if data.get(bit / 8).is_none_or(|byte| byte >> (bit % 8) & 1 == 0) {
                continue;
            }
            let end = at + u64::from(sector_size);
            match self.pieces.back_mut() {
                Some(last) if last.end == at => last.end = end,
                _ => self.pieces.push_back(at..end),
            }
        }
        Ok(())
    }
}

fn impossible(key: Key) -> Error {
    broken(format!("the item {key} of the free space tree is impossible"))
}
