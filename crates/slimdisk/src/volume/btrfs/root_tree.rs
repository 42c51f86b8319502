//! The root tree: where all other trees begin.
//!
//! Source: the kernel's `btrfs_tree.h` (`btrfs_root_item`).

use zerocopy::FromBytes;

use super::broken;
use super::node::MAX_LEVEL;
use super::on_disk::RawRootItem;
use super::tree::{
    BLOCK_GROUP_TREE, Cursor, DEVICE_TREE, EXTENT_TREE, FREE_SPACE_TREE, Nodes, Root,
    name_of,
};
use crate::error::Result;

const ROOT_ITEM: u8 = 132;
/// The first of the numbers that stand for things that come and go, among them the
/// trees of a relocation.
const FIRST_TRANSIENT: u64 = u64::MAX - 255;

/// The trees that tell of free space.
pub(super) struct Roots {
    pub extents: Root,
    pub devices: Root,
    pub free_space: Option<Root>,
    pub block_groups: Option<Root>,
}

/// Reads the whole root tree. The root of each tree in it, subvolumes included, must
/// be in use.
pub(super) fn read_root_tree(nodes: &mut Nodes<'_>) -> Result<Roots> {
    let superblock = nodes.superblock;
    let mut cursor = Cursor::new(nodes, superblock.root)?;
    let [mut extents, mut devices, mut free_space, mut block_groups] = [None; 4];
    while let Some((key, data)) = cursor.next_up_to(nodes, u64::MAX)? {
        if key.kind != ROOT_ITEM {
            continue;
        }
        let name = name_of(key.objectid);
        let Ok((raw, _)) = RawRootItem::ref_from_prefix(data) else {
            return Err(broken(format!("the root item of {name} is cut off")));
        };
        let root = Root {
            id: key.objectid,
            address: raw.address.get(),
            generation: raw.generation.get(),
            level: raw.level,
        };
        if !root.address.is_multiple_of(superblock.sector_size.into())
            || root.generation > superblock.generation
            || root.level >= MAX_LEVEL
        {
            return Err(broken(format!(
                "the root item of {name} gives an impossible place, height or generation"
            )));
        }
        // One without references is being deleted.
        if raw.refs.get() > 0 && key.objectid < FIRST_TRANSIENT {
            nodes.must_be_in_use(root.address, root.level);
        }
        let place = match key.objectid {
            EXTENT_TREE => &mut extents,
            DEVICE_TREE => &mut devices,
            FREE_SPACE_TREE => &mut free_space,
            BLOCK_GROUP_TREE => &mut block_groups,
            _ => continue,
        };
        if key.offset != 0 || place.replace(root).is_some() {
            return Err(broken(format!("there are several of {name}")));
        }
    }
    let missing = |tree| broken(format!("{} is missing", name_of(tree)));
    Ok(Roots {
        extents: extents.ok_or_else(|| missing(EXTENT_TREE))?,
        devices: devices.ok_or_else(|| missing(DEVICE_TREE))?,
        free_space,
        block_groups,
    })
}
