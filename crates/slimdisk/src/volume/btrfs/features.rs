//! Feature and state flags: which are understood, and the names of the others.
//!
//! Source: the kernel's `include/uapi/linux/btrfs.h` and `btrfs_tree.h`; names as
//! btrfs-progs prints them.

use super::RUN_CHECK;
use super::on_disk::RawSuperblock;
use crate::error::{Error, Result};
use crate::volume::feature::{self, Feature};

/// Incompatible features.
pub(super) mod incompat {
    pub const MIXED_GROUPS: u64 = 0x4;
    pub const SKINNY_METADATA: u64 = 0x100;
    pub const METADATA_UUID: u64 = 0x400;
}

/// Features that an old kernel may read but not write.
pub(super) mod compat_ro {
    pub const FREE_SPACE_TREE: u64 = 0x1;
    pub const FREE_SPACE_TREE_VALID: u64 = 0x2;
    pub const BLOCK_GROUP_TREE: u64 = 0x8;
}

/// Superblock flags that say nothing: that it was written, and a bit of relocation
/// that only nodes use.
const HARMLESS: u64 = 0x3;

const INCOMPAT: &[Feature<u64>] = &[
    (0x1, "mixed-backref", true),
    (0x2, "default-subvol", true),
    (0x4, "mixed-bg", true),
    (0x8, "compress-lzo", true),
    (0x10, "compress-zstd", true),
    (0x20, "big-metadata", true),
    (0x40, "extref", true),
    (0x80, "raid56", false),
    (0x100, "skinny-metadata", true),
    (0x200, "no-holes", true),
    (0x400, "metadata-uuid", true),
    (0x800, "raid1c34", false),
    (0x1000, "zoned", false),
    (0x2000, "extent-tree-v2", false),
    (0x4000, "raid-stripe-tree", false),
    (0x8000, "encrypt", false),
    (0x1_0000, "simple-quota", true),
    (0x2_0000, "remap-tree", false),
];

const COMPAT_RO: &[Feature<u64>] = &[
    (0x1, "free-space-tree", true),
    (0x2, "free-space-tree-valid", true),
    (0x4, "verity", true),
    (0x8, "block-group-tree", true),
];

/// What the flags of the superblock say, and what to do about it.
const FLAGS: &[(u64, &str, &str)] = &[
    (1 << 2, "the file system has recorded errors", RUN_CHECK),
    (1 << 32, "the file system is a seed of others", ONLY_ZEROS),
    (1 << 33, "the volume is an image of metadata alone", ONLY_ZEROS),
    (1 << 34, "the volume is an image of metadata alone", ONLY_ZEROS),
    (1 << 35, "a change of the file system's UUID was not finished", FINISH),
    (1 << 36, "a change of the file system's UUID was not finished", FINISH),
    (1 << 38, "a conversion to or from the block group tree was not finished", FINISH),
    (1 << 39, "a change of the data checksums was not finished", FINISH),
    (1 << 40, "a change of the metadata checksums was not finished", FINISH),
];

const ONLY_ZEROS: &str = "only its zeros can be given up";
const FINISH: &str = "finish it with btrfstune in Linux";

#[derive(Debug, Clone, Copy)]
pub(super) struct Features {
    compat: u64,
    compat_ro: u64,
    incompat: u64,
    flags: u64,
}

impl Features {
    pub(super) fn of(raw: &RawSuperblock) -> Self {
        Features {
            compat: raw.compat.get(),
            compat_ro: raw.compat_ro.get(),
            incompat: raw.incompat.get(),
            flags: raw.flags.get(),
        }
    }

    pub(super) fn incompat(self, bit: u64) -> bool {
        self.incompat & bit != 0
    }

    pub(super) fn compat_ro(self, bit: u64) -> bool {
        self.compat_ro & bit != 0
    }

    /// Whether there is a free space tree that speaks for itself: without the second
    /// bit the kernel does not believe it either, and makes it anew.
    pub(super) fn valid_free_space_tree(self) -> bool {
        self.compat_ro(compat_ro::FREE_SPACE_TREE)
            && self.compat_ro(compat_ro::FREE_SPACE_TREE_VALID)
    }

    /// Fails with the name, or the number, of a feature that is not understood, and
    /// with the state that a flag tells of.
    pub(super) fn check(self) -> Result<()> {
        feature::check("incompat", self.incompat, INCOMPAT)?;
        feature::check("compat_ro", self.compat_ro, COMPAT_RO)?;
        feature::check("compat", self.compat, &[])?;
        if let Some(bit) = feature::bits_of(self.flags & !HARMLESS).next() {
            return Err(Error::invalid(
                match FLAGS.iter().find(|(known, ..)| *known == bit) {
                    Some((_, what, remedy)) => format!("{what}: {remedy}"),
                    None => format!(
                        "the file system has an unknown flag ({bit:#x}): a newer \
                         version of this program may know it"
                    ),
                },
            ));
        }
        Ok(())
    }
}
