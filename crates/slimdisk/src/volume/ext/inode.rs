//! The journal's inode: which blocks the journal lies in.
//!
//! Source: the kernel's `Documentation/filesystems/ext4/inodes.rst` and
//! `ifork.rst` (Direct/Indirect Block Addressing, Extent Tree).

use std::ops::Range;

use zerocopy::FromBytes;

use super::RUN_FSCK;
use super::checksum::crc32c;
use super::features::ro_compat;
use super::group_descriptor;
use super::on_disk::{RawExtent, RawExtentHeader, RawExtentIndex, RawInode};
use super::superblock::Superblock;
use crate::error::{Error, Result};
use crate::storage::ReadAt;

/// `i_mode`: the type, and that of a regular file.
const TYPE: u16 = 0xF000;
const REGULAR: u16 = 0x8000;
/// `i_flags`: mapped by extents, and content within the inode.
const EXTENTS: u32 = 0x8_0000;
const INLINE_DATA: u32 = 0x1000_0000;
const EXTENT_MAGIC: u16 = 0xF30A;
/// The deepest extent tree the kernel reads.
const MAX_DEPTH: u16 = 5;
/// An extent's longest initialised length; above, it was never written.
const MAX_EXTENT: u16 = 0x8000;
/// Blocks of the largest journal that is read; `mke2fs` makes none over 10240000.
const MAX_JOURNAL_BLOCKS: u64 = 1 << 24;
/// Separate pieces of a journal that are read.
const MAX_PIECES: usize = 1 << 17;
/// Bytes of a journal's mapping that are read.
const MAX_TREE: u64 = 64 << 20;

/// Where a file's blocks lie, from its first on and without holes.
pub(super) struct BlockMap {
    pieces: Vec<Piece>,
    /// Blocks of the file that are mapped.
    len: u64,
    /// Blocks that the mapping itself takes.
    tree: Vec<u64>,
}

/// File blocks `logical..logical + len` lie at `physical`.
struct Piece {
    logical: u64,
    physical: u64,
    len: u64,
}

impl BlockMap {
    /// Reads the mapping of the journal's inode.
    pub(super) fn of_journal(fs: &Superblock, volume: &dyn ReadAt) -> Result<Self> {
        let number = fs.journal_inode;
        if !(1..=fs.inodes).contains(&number) {
            return Err(broken("does not exist"));
        }
        let group = u64::from((number - 1) / fs.inodes_per_group);
        let index = u64::from((number - 1) % fs.inodes_per_group);
        let table = group_descriptor::read_one(fs, volume, group)?.inode_table;
        let mut bytes = vec![0; usize::from(fs.inode_size)];
        let offset = fs.byte(table) + index * u64::from(fs.inode_size);
        volume.read_at(offset, &mut bytes)?;
        let (raw, _) =
            RawInode::ref_from_prefix(&bytes).map_err(|_| broken("is too short"))?;

        let seed = crc32c(fs.checksum_seed, &number.to_le_bytes());
        let seed = crc32c(seed, &raw.generation.get().to_le_bytes());
        if fs.features.ro_compat(ro_compat::METADATA_CSUM) && !checksum_fits(seed, &bytes)
        {
            return Err(broken("does not match its checksum").at(offset));
        }
        if raw.mode.get() & TYPE != REGULAR
            || raw.links_count.get() == 0
            || raw.flags.get() & INLINE_DATA != 0
        {
            return Err(broken("is not an ordinary file").at(offset));
        }
        let size = u64::from(raw.size_lo.get()) | u64::from(raw.size_hi.get()) << 32;
        let mut walk = Walk {
            fs,
            volume,
            seed,
            map: BlockMap { pieces: Vec::new(), len: 0, tree: Vec::new() },
            wanted: size / u64::from(fs.block_size),
        };
        if walk.wanted > MAX_JOURNAL_BLOCKS {
            return Err(Error::invalid(
                "the file system's journal is larger than is supported",
            ));
        }
        if raw.flags.get() & EXTENTS != 0 {
            walk.extents(&raw.block, None)?;
        } else {
            walk.indirect(&raw.block)?;
        }
        if walk.map.len < walk.wanted {
            return Err(broken("has holes"));
        }
        Ok(walk.map)
    }

    /// Blocks of the file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The blocks that hold the file's blocks from `logical` on, as far as they
    /// are adjacent.
    pub(super) fn find(&self, logical: u64) -> Option<Range<u64>> {
        let at = self.pieces.partition_point(|piece| piece.logical <= logical);
        let piece = self.pieces.get(at.checked_sub(1)?)?;
        let skip = logical - piece.logical;
        (skip < piece.len).then(|| piece.physical + skip..piece.physical + piece.len)
    }

    /// Every block of the file and of its mapping.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let data = self.pieces.iter().map(|p| p.physical..p.physical + p.len);
        data.chain(self.tree.iter().map(|block| *block..*block + 1))
    }

    /// Adds the file's next blocks.
    fn push(&mut self, physical: u64, len: u64) -> Result<()> {
        if let Some(last) = self.pieces.last_mut()
            && last.physical + last.len == physical
        {
            last.len += len;
        } else if self.pieces.len() < MAX_PIECES {
            self.pieces.push(Piece { logical: self.len, physical, len });
        } else {
            return Err(Error::invalid(
                "the file system's journal is in more pieces than are supported",
            ));
        }
        self.len += len;
        Ok(())
    }
}

fn broken(what: &str) -> Error {
    Error::invalid(format!("the journal's inode {what}: {RUN_FSCK}"))
}

/// Whether an inode bears the right checksum; its high half is there only if
/// the inode has room for it.
fn checksum_fits(seed: u32, inode: &[u8]) -> bool {
    let word = |at: usize| {
        let bytes = inode.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map(|bytes| u16::from_le_bytes(*bytes))
    };
    let (Some(low), extra) = (word(0x7C), word(0x80).unwrap_or_default()) else {
        return false;
    };
    let high = if extra >= 4 { word(0x82) } else { None };
    let mut zeroed = inode.to_vec();
    for (at, byte) in zeroed.iter_mut().enumerate() {
        if (0x7C..0x7E).contains(&at) || (high.is_some() && (0x82..0x84).contains(&at)) {
            *byte = 0;
        }
    }
    let sum = crc32c(seed, &zeroed);
    match high {
        Some(high) => sum == u32::from(low) | u32::from(high) << 16,
        None => sum & 0xFFFF == u32::from(low),
    }
}

struct Walk<'a> {
    fs: &'a Superblock,
    volume: &'a dyn ReadAt,
    /// The starting sum of the inode's checksums.
    seed: u32,
    map: BlockMap,
    /// Blocks that the inode's size asks for.
    wanted: u64,
}

impl Walk<'_> {
    fn block(&mut self, number: u64) -> Result<Vec<u8>> {
        if !self.fs.contains(&(number..number.saturating_add(1)))
            || self.fs.byte(self.map.tree.len() as u64) >= MAX_TREE
        {
            return Err(broken("has an unsound block map"));
        }
        self.map.tree.push(number);
        let mut bytes = vec![0; self.fs.block_size as usize];
        self.volume.read_at(self.fs.byte(number), &mut bytes)?;
        Ok(bytes)
    }

    fn push(&mut self, physical: u64, len: u64) -> Result<()> {
        if !self.fs.contains(&(physical..physical.saturating_add(len)))
            || self.map.len + len > MAX_JOURNAL_BLOCKS
        {
            return Err(broken("has an unsound block map"));
        }
        self.map.push(physical, len)
    }

    /// A node of the extent tree: the root in the inode, or one that should be
    /// of `depth`.
    fn extents(&mut self, node: &[u8], depth: Option<u16>) -> Result<()> {
        let unsound = || broken("has an unsound extent tree");
        let (header, rest) =
            RawExtentHeader::ref_from_prefix(node).map_err(|_| unsound())?;
        let (entries, max) = (usize::from(header.entries.get()), header.max.get());
        let own_depth = header.depth.get();
        if header.magic.get() != EXTENT_MAGIC
            || entries > usize::from(max)
            || usize::from(max) * size_of::<RawExtent>() > rest.len()
            || depth.map_or(own_depth > MAX_DEPTH, |depth| own_depth != depth)
            || (depth.is_some() && entries == 0)
        {
            return Err(unsound());
        }
        if depth.is_some() && self.fs.features.ro_compat(ro_compat::METADATA_CSUM) {
            let (summed, tail) = node
                .split_at_checked(
                    size_of::<RawExtentHeader>()
                        + usize::from(max) * size_of::<RawExtent>(),
                )
                .ok_or_else(unsound)?;
            let found = tail.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
            if found != Some(crc32c(self.seed, summed)) {
                return Err(broken("has an extent block that fails its checksum"));
            }
        }
        if let Some(below) = own_depth.checked_sub(1) {
            let (indexes, _) =
                <[RawExtentIndex]>::ref_from_prefix_with_elems(rest, entries)
                    .map_err(|_| unsound())?;
            for index in indexes {
                let leaf =
                    u64::from(index.leaf_lo.get()) | u64::from(index.leaf_hi.get()) << 32;
                if u64::from(index.block.get()) != self.map.len {
                    return Err(broken("has holes"));
                }
                let bytes = self.block(leaf)?;
                self.extents(&bytes, Some(below))?;
            }
        } else {
            let (extents, _) = <[RawExtent]>::ref_from_prefix_with_elems(rest, entries)
                .map_err(|_| unsound())?;
            for extent in extents {
                let (len, start) = (extent.len.get(), extent.start_lo.get());
                if len == 0 || len > MAX_EXTENT {
                    return Err(broken("has extents that were never written"));
                }
                if u64::from(extent.block.get()) != self.map.len {
                    return Err(broken("has holes"));
                }
                let start = u64::from(start) | u64::from(extent.start_hi.get()) << 32;
                self.push(start, u64::from(len))?;
            }
        }
        Ok(())
    }

    /// The block map of ext2 and ext3: twelve blocks, then trees of one, two and
    /// three levels.
    fn indirect(&mut self, pointers: &[u8]) -> Result<()> {
        let (pointers, _) = pointers.as_chunks();
        for (at, pointer) in pointers.iter().enumerate() {
            let levels = u8::try_from(at).unwrap_or(u8::MAX).saturating_sub(11);
            self.pointer(u32::from_le_bytes(*pointer), levels)?;
        }
        Ok(())
    }

    fn pointer(&mut self, block: u32, levels: u8) -> Result<()> {
        if self.map.len >= self.wanted {
            return Ok(());
        }
        let Some(below) = levels.checked_sub(1) else {
            return self.push(u64::from(block), 1);
        };
        let bytes = self.block(u64::from(block))?;
        let (pointers, _) = bytes.as_chunks();
        for pointer in pointers {
            self.pointer(u32::from_le_bytes(*pointer), below)?;
        }
        Ok(())
    }
}
