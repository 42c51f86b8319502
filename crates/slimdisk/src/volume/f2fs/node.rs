//! Nodes: that the root directory lies where the map has something, and that no
//! synced data waits behind the checkpoint.
//!
//! Source: `current_nat_addr` in the kernel's `fs/f2fs/node.h`, `find_fsync_dnodes` in
//! `fs/f2fs/recovery.c`, `is_recoverable_dnode`.

use super::checkpoint::{Checkpoint, FIRST_NODE_LOG};
use super::journal::Journals;
use super::on_disk::{RawNatEntry, RawNodeFooter};
use super::superblock::Superblock;
use super::{BLOCK, RUN_FSCK, SEGMENT, UNMOUNT};
use crate::error::{Error, Result};
use crate::storage::{ReadAt, read_struct};

/// How many entries a block of the node address table has.
const ENTRIES: u64 = BLOCK / size_of::<RawNatEntry>() as u64;

/// The block of the root directory's inode.
pub(super) fn root(
    volume: &dyn ReadAt,
    fs: &Superblock,
    checkpoint: &Checkpoint,
    journals: &Journals,
) -> Result<u64> {
    let root = fs.root_inode;
    let damaged = || {
        Error::invalid(format!(
            "the root directory is not where the node address table has it: {RUN_FSCK}"
        ))
    };
    let entry = match journals.nat(root) {
        Some(entry) => entry,
        None => {
            let block = u64::from(root) / ENTRIES;
            if block >= fs.nat_blocks {
                return Err(damaged());
            }
            // The copies of each segment of the table lie one after the other.
            let copy = if checkpoint.second_nat(block) { SEGMENT } else { 0 };
            let place = fs.nat + block / SEGMENT * SEGMENT * 2 + block % SEGMENT + copy;
            let within = u64::from(root) % ENTRIES * size_of::<RawNatEntry>() as u64;
            read_struct(volume, Superblock::byte(place) + within)?
        }
    };
    let block = u64::from(entry.block);
    if entry.inode.get() != root || !fs.in_main(block) {
        return Err(damaged());
    }
    let footer = footer(volume, block)?;
    if footer.node.get() != root || footer.inode.get() != root {
        return Err(damaged().at(Superblock::byte(block)));
    }
    Ok(block)
}

/// Fails if nodes were written after the checkpoint.
///
/// `fsync` writes no checkpoint but the file's nodes, marked with the checkpoint's
/// version, from the next free block of a node log on. A mount follows that chain
/// whether or not the file system was unmounted before, so the flag of the unmount
/// does not suffice. The kernel looks at the whole version in the log of warm nodes;
/// half of it in any of the logs is reason enough here.
pub(super) fn check_nothing_follows(
    volume: &dyn ReadAt,
    fs: &Superblock,
    checkpoint: &Checkpoint,
) -> Result<()> {
    for log in checkpoint.logs.iter().skip(FIRST_NODE_LOG) {
        let block = fs.segment(log.segment) + u64::from(log.offset);
        let version = footer(volume, block)?.checkpoint_version.get();
        if (version ^ checkpoint.version) << 32 == 0 {
            return Err(Error::invalid(format!(
                "files were synced after the last checkpoint, and their data lies where \
                 the map calls it free: {UNMOUNT}"
            ))
            .at(Superblock::byte(block)));
        }
    }
    Ok(())
}

fn footer(volume: &dyn ReadAt, block: u64) -> Result<RawNodeFooter> {
    let end = Superblock::byte(block + 1);
    read_struct(volume, end - size_of::<RawNodeFooter>() as u64)
}
