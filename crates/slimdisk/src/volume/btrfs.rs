//! Btrfs on a single device: free is what no extent of the last commit lies on.
//!
//! ```text
//! superblock -> system chunks -> chunk tree: logical address -> device
//!      |
//!      +-----> root tree -+-> device tree         must agree with the chunks
//!                         +-> extent tree         what is allocated
//!                         +-> block group tree    the counts, if not with the extents
//!                         +-> free space tree     must agree with the extents
//! ```
//!
//! Nothing is ever changed in place but by a new superblock, so what it leads to is
//! whole at every instant, mounted or not, and no "clean" mark is needed. The one
//! exception is the log of fsynced files: its blocks and theirs are not in the extent
//! tree yet, and a volume that has one is not trusted.
//!
//! Every node is checked: checksum, file system, address, generation, tree, level, the
//! order of its keys. Extents, free ranges, block groups, chunks, device extents and
//! the counts of each must agree, and every node that was met must be allocated. The
//! cache of free space in files (v1) is never read.
//!
//! What is lost besides: the trees of earlier commits, which `usebackuproot` looks for
//! in free space.
//!
//! Source: the on-disk format of the Btrfs documentation; the kernel's
//! `include/uapi/linux/btrfs_tree.h`.

#![forbid(unsafe_code)]

mod block_group_tree;
mod checksum;
mod chunk;
mod device_tree;
mod extent_tree;
mod features;
mod free_space_tree;
mod node;
mod on_disk;
mod root_tree;
mod superblock;
mod tree;

use std::ops::Range;

use self::block_group_tree::read_block_group_tree;
use self::chunk::{Chunk, ChunkMap, read_chunk_tree};
use self::device_tree::{Stripe, read_device_tree};
use self::extent_tree::ExtentTree;
use self::features::compat_ro;
use self::free_space_tree::FreeSpaceTree;
use self::root_tree::read_root_tree;
use self::superblock::Superblock;
use self::tree::{BLOCK_GROUP_TREE, FREE_SPACE_TREE, Nodes, Root, name_of};
use super::{Allowances, FileSystem, Findings, FreeSink, check_length};
use crate::error::{Error, Result};
use crate::storage::ReadAt;

/// What to do about damage.
const RUN_CHECK: &str = "run btrfs check on the volume in Linux";
/// What to do about a state that a mount ends.
const MOUNT: &str = "mount it once in Linux and unmount it";

/// The reader of Btrfs.
pub(super) struct Btrfs;

impl FileSystem for Btrfs {
    fn name(&self) -> &'static str {
        "btrfs"
    }

    fn probe(&self, volume: &dyn ReadAt) -> Result<bool> {
        let mut magic = [0; 8];
        if volume.len() < superblock::MAGIC_OFFSET + magic.len() as u64 {
            return Ok(false);
        }
        volume.read_at(superblock::MAGIC_OFFSET, &mut magic)?;
        Ok(magic == *superblock::MAGIC)
    }

    fn read_free_map(
        &self,
        volume: &dyn ReadAt,
        _: &Allowances,
        findings: &mut Findings,
        free: &mut FreeSink<'_>,
    ) -> Result<()> {
        // Whether it was unmounted, a Btrfs does not say.
        findings.at_rest = None;
        let superblock = Superblock::read(volume)?;
        findings.unit = superblock.sector_size.into();
        findings.length = superblock.device.total_bytes.min(volume.len());
        findings.label.clone_from(&superblock.label);
        superblock.check_state()?;
        check_length(superblock.device.total_bytes, volume)?;
        superblock.check_mirrors(volume)?;

        let system_chunks = ChunkMap::of_superblock(&superblock)?;
        let mut nodes = Nodes::new(volume, &superblock, system_chunks);
        read_chunk_tree(&mut nodes)?;
        let roots = read_root_tree(&mut nodes)?;
        let stripes = read_device_tree(&mut nodes, roots.devices)?;

        let features = superblock.features;
        let wanted = |tree, root: Option<Root>| {
            root.ok_or_else(|| broken(format!("{} is missing", name_of(tree))))
        };
        let block_groups = if features.compat_ro(compat_ro::BLOCK_GROUP_TREE) {
            let root = wanted(BLOCK_GROUP_TREE, roots.block_groups)?;
            Some(read_block_group_tree(&mut nodes, root)?)
        } else {
            None
        };
        let witness = if features.valid_free_space_tree() {
            let root = wanted(FREE_SPACE_TREE, roots.free_space)?;
            Some(FreeSpaceTree::new(&mut nodes, root)?)
        } else {
            None
        };
        let mut maps = Maps {
            extents: ExtentTree::new(&mut nodes, roots.extents, block_groups)?,
            witness,
        };
        let mut free = FreeBytes::new(free);
        let used = maps.read(&mut nodes, &stripes, &mut free)?;
        if used != superblock.bytes_used {
            return Err(broken(format!(
                "the extents have {used} bytes but the superblock counts {}",
                superblock.bytes_used
            )));
        }
        maps.check_nodes(&mut nodes)?;
        findings.free_bytes = free.finish();
        Ok(())
    }
}

/// The error of structures that contradict themselves or each other.
fn broken(what: impl Into<String>) -> Error {
    let what = what.into();
    Error::invalid(format!("{what}: {RUN_CHECK}"))
}

/// The two trees that tell what is free, side by side.
struct Maps {
    extents: ExtentTree,
    witness: Option<FreeSpaceTree>,
}

impl Maps {
    /// Sends all that is free on the device, in its order, and gives how many bytes
    /// all extents have, each counted once.
    fn read(
        &mut self,
        nodes: &mut Nodes<'_>,
        stripes: &[Stripe],
        free: &mut FreeBytes<'_, '_>,
    ) -> Result<u64> {
        let (mut used, mut end) = (0, 0);
        for stripe in stripes {
            let Some(chunk) = nodes.chunks.chunks().get(stripe.chunk).cloned() else {
                continue;
            };
            free.add(end..stripe.device.start);
            end = stripe.device.end;
            self.extents.enter(nodes, stripe.chunk)?;
            if let Some(witness) = &mut self.witness {
                witness.enter(nodes, stripe.chunk)?;
            }
            while let Some(range) = self.next_free(nodes, &chunk)? {
                let device =
                    |address| stripe.device.start + (address - chunk.logical.start);
                free.add(device(range.start)..device(range.end));
            }
            let allocated = self.extents.leave()?;
            if stripe.is_first {
                used += allocated;
            }
            if let Some(witness) = &mut self.witness {
                witness.leave()?;
            }
        }
        let superblock = nodes.superblock;
        let total = superblock.device.total_bytes;
        free.add(end..total - total % u64::from(superblock.sector_size));
        Ok(used)
    }

    /// The next free range of the chunk, on which both trees agree.
    fn next_free(
        &mut self,
        nodes: &mut Nodes<'_>,
        chunk: &Chunk,
    ) -> Result<Option<Range<u64>>> {
        let range = self.extents.next_free(nodes)?;
        if let Some(witness) = &mut self.witness
            && witness.next_free(nodes)? != range
        {
            return Err(broken(format!(
                "the extent tree and the free space tree disagree about the block \
                 group at address {}",
                chunk.logical.start
            )));
        }
        Ok(range)
    }

    /// Checks that all nodes that were met are allocated.
    fn check_nodes(&mut self, nodes: &mut Nodes<'_>) -> Result<()> {
        for (address, level) in nodes.take_met() {
            if !self.extents.has_node(nodes, address, level)? {
                return Err(broken(format!(
                    "the extent tree calls a node free that is in use (address \
                     {address})"
                )));
            }
        }
        Ok(())
    }
}

/// Takes ascending free ranges of the device and passes them on: joined where they
/// touch, and without what is reserved.
struct FreeBytes<'a, 's> {
    sink: &'a mut FreeSink<'s>,
    pending: Option<Range<u64>>,
    total: u64,
}

impl<'a, 's> FreeBytes<'a, 's> {
    fn new(sink: &'a mut FreeSink<'s>) -> Self {
        FreeBytes { sink, pending: None, total: 0 }
    }

    fn add(&mut self, mut range: Range<u64>) {
        for reserved in Superblock::reserved() {
            if reserved.end <= range.start {
                continue;
            }
            self.join(range.start..range.end.min(reserved.start));
            range.start = reserved.end;
        }
        self.join(range);
    }

    fn join(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        match &mut self.pending {
            Some(pending) if pending.end == range.start => pending.end = range.end,
            _ => {
                self.send();
                self.pending = Some(range);
            }
        }
    }

    fn send(&mut self) {
        if let Some(range) = self.pending.take() {
            self.total += range.end - range.start;
            (self.sink)(range);
        }
    }

    fn finish(mut self) -> u64 {
        self.send();
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_never_passed_on() {
        let sent = |ranges: &[Range<u64>]| {
            let mut sent = Vec::new();
            let mut sink = |range| sent.push(range);
            let mut free = FreeBytes::new(&mut sink);
            ranges.iter().for_each(|range| free.add(range.clone()));
            let total = free.finish();
            assert_eq!(total, sent.iter().map(|r| r.end - r.start).sum::<u64>());
            sent
        };
        let (kib, mib, gib) = (1 << 10, 1 << 20, 1 << 30);
        assert_eq!(sent(&[0..mib]), []);
        assert_eq!(sent(&[0..4 * kib, 64 * kib..2 * mib]), [mib..2 * mib]);
        assert_eq!(
            sent(&[mib..3 * mib, 3 * mib..3 * mib, 3 * mib..300 * gib]),
            [
                mib..64 * mib,
                64 * mib + 64 * kib..256 * gib,
                256 * gib + 64 * kib..300 * gib
            ]
        );
        assert_eq!(sent(&[64 * mib + 4096..64 * mib + 8192]), []);
        assert_eq!(
            sent(&[64 * mib + 4096..65 * mib, 66 * mib..67 * mib]),
            [64 * mib + 64 * kib..65 * mib, 66 * mib..67 * mib]
        );
    }
}
