//! The block group tree: the counts of used bytes, where they do not lie among the
//! extents.
//!
//! Source: the kernel's `btrfs.h` (`COMPAT_RO_BLOCK_GROUP_TREE`) and `btrfs_tree.h`.

use zerocopy::FromBytes;

use super::broken;
use super::chunk::{Chunk, FIRST_CHUNK_OBJECTID, unknown_item};
use super::node::Key;
use super::on_disk::RawBlockGroup;
use super::tree::{BLOCK_GROUP_TREE, Cursor, Nodes, Root};
use crate::error::{Error, Result};

pub(super) const BLOCK_GROUP_ITEM: u8 = 192;

/// The used bytes of the block group of `chunk`, which must be its own.
pub(super) fn used_bytes(key: Key, data: &[u8], chunk: &Chunk) -> Result<u64> {
    let raw = RawBlockGroup::ref_from_bytes(data).map_err(|_| wrong(chunk))?;
    if key.objectid != chunk.logical.start
        || key.offset != chunk.length()
        || raw.flags.get() != chunk.kind
        || raw.chunk_objectid.get() != FIRST_CHUNK_OBJECTID
    {
        return Err(wrong(chunk));
    }
    Ok(raw.used.get())
}

/// The error of a chunk and a block group that do not belong together.
pub(super) fn wrong(chunk: &Chunk) -> Error {
    broken(format!(
        "the chunk at address {} has no block group that matches it",
        chunk.logical.start
    ))
}

/// Reads the whole tree: the used bytes of all chunks in their order.
pub(super) fn read_block_group_tree(
    nodes: &mut Nodes<'_>,
    root: Root,
) -> Result<Vec<u64>> {
    let mut cursor = Cursor::new(nodes, root)?;
    let mut used = Vec::new();
    while let Some((key, data)) = cursor.next_up_to(nodes, u64::MAX)? {
        if key.kind != BLOCK_GROUP_ITEM {
            return Err(unknown_item(BLOCK_GROUP_TREE, key));
        }
        let Some(chunk) = nodes.chunks.chunks().get(used.len()) else {
            return Err(broken(format!(
                "the block group at address {} has no chunk",
                key.objectid
            )));
        };
        used.push(used_bytes(key, data, chunk)?);
    }
    match nodes.chunks.chunks().get(used.len()) {
        Some(chunk) => Err(wrong(chunk)),
        None => Ok(used),
    }
}
