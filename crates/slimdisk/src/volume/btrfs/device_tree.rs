//! The device tree: which bytes of the device belong to which chunk.
//!
//! It says the same as the chunks do of their stripes, from the other side; both must
//! agree to the byte before any room is taken for unallocated.
//!
//! Source: the kernel's `btrfs_tree.h` (`btrfs_dev_extent`, `btrfs_dev_replace_item`).

use std::ops::Range;

use zerocopy::FromBytes;

use super::broken;
use super::chunk::{FIRST_CHUNK_OBJECTID, unknown_item};
use super::on_disk::{RawDevExtent, RawDevReplace};
use super::tree::{CHUNK_TREE, Cursor, DEVICE_TREE, Nodes, Root};
use crate::error::{Error, Result};

const DEV_EXTENT: u8 = 204;
const PERSISTENT_ITEM: u8 = 249;
const DEV_REPLACE: u8 = 250;

/// States of a replacement that is not under way: never started, finished, cancelled.
const REPLACE_AT_REST: [u64; 3] = [0, 2, 3];

/// One copy of a chunk.
pub(super) struct Stripe {
    pub device: Range<u64>,
    /// The chunk's number in the map.
    pub chunk: usize,
    pub is_first: bool,
}

/// All stripes in ascending order of their place on the device.
pub(super) fn read_device_tree(nodes: &mut Nodes<'_>, root: Root) -> Result<Vec<Stripe>> {
    let stripes = stripes(nodes)?;
    let device = &nodes.superblock.device;
    let mut expected = stripes.iter();
    let disagree = || {
        broken("the device tree and the chunk tree give the device to different chunks")
    };
    let mut cursor = Cursor::new(nodes, root)?;
    while let Some((key, data)) = cursor.next_up_to(nodes, u64::MAX)? {
        match key.kind {
            DEV_EXTENT => {
                let Ok(raw) = RawDevExtent::ref_from_bytes(data) else {
                    return Err(disagree());
                };
                let stripe = expected.next().ok_or_else(disagree)?;
                let chunk =
                    nodes.chunks.chunks().get(stripe.chunk).ok_or_else(disagree)?;
                if key.objectid != device.id
                    || key.offset != stripe.device.start
                    || raw.length.get() != chunk.length()
                    || raw.chunk_offset.get() != chunk.logical.start
                    || raw.chunk_tree.get() != CHUNK_TREE
                    || raw.chunk_objectid.get() != FIRST_CHUNK_OBJECTID
                {
                    return Err(disagree());
                }
            }
            DEV_REPLACE => {
                let at_rest = RawDevReplace::ref_from_prefix(data)
                    .is_ok_and(|(raw, _)| REPLACE_AT_REST.contains(&raw.state.get()));
                if !at_rest {
                    return Err(Error::invalid(
                        "the device of the volume is being replaced: finish or cancel \
                         that in Linux",
                    ));
                }
            }
            PERSISTENT_ITEM => {}
            _ => return Err(unknown_item(DEVICE_TREE, key)),
        }
    }
    if expected.next().is_some() {
        return Err(disagree());
    }
    Ok(stripes)
}

/// The stripes of all chunks, none over another, as many bytes as the device says.
fn stripes(nodes: &Nodes<'_>) -> Result<Vec<Stripe>> {
    let mut stripes = Vec::new();
    for (number, chunk) in nodes.chunks.chunks().iter().enumerate() {
        let mut add = |start, is_first| {
            let device = start..start + chunk.length();
            stripes.push(Stripe { device, chunk: number, is_first });
        };
        add(chunk.first, true);
        if let Some(second) = chunk.second {
            add(second, false);
        }
    }
    stripes.sort_unstable_by_key(|stripe| stripe.device.start);
    let mut end = 0;
    let mut total = 0;
    for stripe in &stripes {
        if stripe.device.start < end {
            return Err(broken("two chunks lie on the same bytes of the device"));
        }
        end = stripe.device.end;
        total += stripe.device.end - stripe.device.start;
    }
    if total != nodes.superblock.device.bytes_used {
        return Err(broken(format!(
            "the chunks have {total} bytes of the device, which counts {}",
            nodes.superblock.device.bytes_used
        )));
    }
    Ok(stripes)
}
