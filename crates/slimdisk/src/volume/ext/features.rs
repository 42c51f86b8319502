//! Feature flags: which are understood, and the names of the others.
//!
//! Source: the kernel's `Documentation/filesystems/ext4/super.rst` and the
//! feature names of `ext4(5)`.

use super::on_disk::RawSuperblock;
use crate::error::Result;
use crate::volume::feature::{self, Feature};

/// Compatible features.
pub(super) mod compat {
    pub const HAS_JOURNAL: u32 = 0x4;
    pub const SPARSE_SUPER2: u32 = 0x200;
}

/// Incompatible features.
pub(super) mod incompat {
    pub const FILETYPE: u32 = 0x2;
    pub const RECOVER: u32 = 0x4;
    pub const META_BG: u32 = 0x10;
    pub const BIT64: u32 = 0x80;
    pub const MMP: u32 = 0x100;
    pub const FLEX_BG: u32 = 0x200;
    pub const CSUM_SEED: u32 = 0x2000;
}

/// Features that an old kernel may read but not write.
pub(super) mod ro_compat {
    pub const SPARSE_SUPER: u32 = 0x1;
    pub const LARGE_FILE: u32 = 0x2;
    pub const BTREE_DIR: u32 = 0x4;
    pub const GDT_CSUM: u32 = 0x10;
    pub const BIGALLOC: u32 = 0x200;
    pub const METADATA_CSUM: u32 = 0x400;
    pub const ORPHAN_PRESENT: u32 = 0x1_0000;
}

const COMPAT: &[Feature<u32>] = &[
    (0x1, "dir_prealloc", true),
    (0x2, "imagic_inodes", true),
    (0x4, "has_journal", true),
    (0x8, "ext_attr", true),
    (0x10, "resize_inode", true),
    (0x20, "dir_index", true),
    (0x40, "lazy_bg", false),
    (0x80, "snapshot_inode", false),
    (0x100, "snapshot_bitmap", false),
    (0x200, "sparse_super2", true),
    (0x400, "fast_commit", true),
    (0x800, "stable_inodes", true),
    (0x1000, "orphan_file", true),
];

const INCOMPAT: &[Feature<u32>] = &[
    (0x1, "compression", false),
    (0x2, "filetype", true),
    (0x4, "needs_recovery", true),
    (0x8, "journal_dev", false),
    (0x10, "meta_bg", true),
    (0x40, "extent", true),
    (0x80, "64bit", true),
    (0x100, "mmp", true),
    (0x200, "flex_bg", true),
    (0x400, "ea_inode", true),
    (0x1000, "dirdata", false),
    (0x2000, "metadata_csum_seed", true),
    (0x4000, "large_dir", true),
    (0x8000, "inline_data", true),
    (0x1_0000, "encrypt", true),
    (0x2_0000, "casefold", true),
];

const RO_COMPAT: &[Feature<u32>] = &[
    (0x1, "sparse_super", true),
    (0x2, "large_file", true),
    (0x4, "btree_dir", true),
    (0x8, "huge_file", true),
    (0x10, "uninit_bg", true),
    (0x20, "dir_nlink", true),
    (0x40, "extra_isize", true),
    (0x80, "has_snapshot", false),
    (0x100, "quota", true),
    (0x200, "bigalloc", true),
    (0x400, "metadata_csum", true),
    (0x800, "replica", false),
    (0x1000, "read-only", true),
    (0x2000, "project", true),
    (0x4000, "shared_blocks", false),
    (0x8000, "verity", true),
    (0x1_0000, "orphan_present", true),
];

/// The three sets of a superblock.
#[derive(Clone, Copy)]
pub(super) struct Features {
    compat: u32,
    incompat: u32,
    ro_compat: u32,
}

impl Features {
    pub(super) fn of(raw: &RawSuperblock) -> Self {
        Features {
            compat: raw.feature_compat.get(),
            incompat: raw.feature_incompat.get(),
            ro_compat: raw.feature_ro_compat.get(),
        }
    }

    pub(super) fn compat(self, bits: u32) -> bool {
        self.compat & bits != 0
    }

    pub(super) fn incompat(self, bits: u32) -> bool {
        self.incompat & bits != 0
    }

    pub(super) fn ro_compat(self, bits: u32) -> bool {
        self.ro_compat & bits != 0
    }

    /// Whether there is no feature at all, as revision 0 demands.
    pub(super) fn none(self) -> bool {
        self.compat | self.incompat | self.ro_compat == 0
    }

    /// The name a user knows the file system by: ext3 is ext2 with a journal,
    /// ext4 is whatever the ext3 driver could not have written.
    pub(super) fn generation(self) -> &'static str {
        let ext3_incompat = incompat::FILETYPE | incompat::RECOVER | incompat::META_BG;
        let ext3_ro_compat =
            ro_compat::SPARSE_SUPER | ro_compat::LARGE_FILE | ro_compat::BTREE_DIR;
        if self.incompat & !ext3_incompat != 0 || self.ro_compat & !ext3_ro_compat != 0 {
            "ext4"
        } else if self.compat(compat::HAS_JOURNAL) {
            "ext3"
        } else {
            "ext2"
        }
    }

    /// Fails with the name, or the number, of a feature that is not understood.
    pub(super) fn check(self) -> Result<()> {
        feature::check("incompat", self.incompat, INCOMPAT)?;
        feature::check("ro_compat", self.ro_compat, RO_COMPAT)?;
        feature::check("compat", self.compat, COMPAT)
    }
}
