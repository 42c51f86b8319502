//! Feature flags: which are understood, and the names of the others.
//!
//! Source: XFS Algorithms & Data Structures, Superblocks; the names are those of
//! `mkfs.xfs(8)` and of `xfs_db`'s `version`.

use super::on_disk::RawSuperblock;
use super::{REMOUNT, REPAIR};
use crate::error::{Error, Result};
use crate::volume::feature::{self, Feature};

/// Bits of `sb_versionnum` above the number itself.
mod version {
    pub const NUMBER: u16 = 0x000F;
    pub const SHARED: u16 = 0x0200;
    pub const LOG_V2: u16 = 0x0400;
    pub const DIRECTORY_V2: u16 = 0x2000;
    pub const MORE_BITS: u16 = 0x8000;
}

const LAZY_COUNTERS: u32 = 0x2;
/// `sb_features2` without version 5: lazy-count, attr2, projid32bit and ftype.
const KNOWN_FEATURES2: u32 = LAZY_COUNTERS | 0x8 | 0x80 | 0x200;

const FINOBT: u32 = 0x1;
const RMAPBT: u32 = 0x2;
const REFLINK: u32 = 0x4;
const META_UUID: u32 = 0x4;
const NEEDS_REPAIR: u32 = 0x10;

const RO_COMPAT: &[Feature<u32>] = &[
    (FINOBT, "finobt", true),
    (RMAPBT, "rmapbt", true),
    (REFLINK, "reflink", true),
    (0x8, "inobtcount", true),
];

/// Exchange-range changes what the log may hold, and a log that holds anything is
/// not trusted; parent pointers are extended attributes. Neither touches an
/// allocation group. With metadata directories (and zones, which need them) the
/// superblock has more fields and the disk may hold a realtime section.
const INCOMPAT: &[Feature<u32>] = &[
    (0x1, "ftype", true),
    (0x2, "sparse", true),
    (META_UUID, "metauuid", true),
    (0x8, "bigtime", true),
    (0x20, "nrext64", true),
    (0x40, "exchange", true),
    (0x80, "parent", true),
    (0x100, "metadir", false),
    (0x200, "zoned", false),
    (0x400, "zone gaps", false),
];

/// What the free map depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Features {
    /// Version 5: every structure names its file system, its place and its checksum.
    pub v5: bool,
    pub log_v2: bool,
    /// The superblock's counters are brought up to date by a clean unmount only.
    pub lazy_counters: bool,
    /// The structures bear `sb_meta_uuid` and not `sb_uuid`.
    pub meta_uuid: bool,
    pub finobt: bool,
    pub rmapbt: bool,
    pub reflink: bool,
}

impl Features {
    /// Checks all flags of a superblock.
    pub(super) fn of(raw: &RawSuperblock) -> Result<Self> {
        let flags = raw.version.get();
        match flags & version::NUMBER {
            4 => {}
            5 => return Self::of_v5(raw),
            number => {
                return Err(Error::invalid(format!(
                    "the file system is XFS version {number}, which is not supported"
                )));
            }
        }
        if flags & version::DIRECTORY_V2 == 0 {
            return feature::unsupported("version 1 directories");
        }
        if flags & version::SHARED != 0 {
            return feature::unsupported("shared");
        }
        // Some machines kept the flags four bytes further on; the kernel joins both.
        let more = flags & version::MORE_BITS != 0;
        let features2 =
            if more { raw.features2.get() | raw.bad_features2.get() } else { 0 };
        feature::check("features2", features2 & !KNOWN_FEATURES2, &[])?;
        Ok(Features {
            v5: false,
            log_v2: flags & version::LOG_V2 != 0,
            lazy_counters: features2 & LAZY_COUNTERS != 0,
            meta_uuid: false,
            finobt: false,
            rmapbt: false,
            reflink: false,
        })
    }

    fn of_v5(raw: &RawSuperblock) -> Result<Self> {
        if raw.version.get() & version::SHARED != 0 {
            return feature::unsupported("shared");
        }
        let (ro_compat, incompat) = (raw.ro_compat.get(), raw.incompat.get());
        if incompat & NEEDS_REPAIR != 0 {
            return Err(Error::invalid(format!(
                "the file system is marked as needing repair: {REPAIR}"
            )));
        }
        feature::check("incompat", incompat, INCOMPAT)?;
        feature::check("ro_compat", ro_compat, RO_COMPAT)?;
        feature::check("compat", raw.compat.get(), &[])?;
        // They say what the log holds, and a clean unmount clears them.
        let log = raw.log_incompat.get();
        if log != 0 {
            return Err(Error::invalid(format!(
                "the log may hold changes of an unknown kind (log_incompat {log:#x}): \
                 {REMOUNT}"
            )));
        }
        Ok(Features {
            v5: true,
            log_v2: true,
            lazy_counters: true,
            meta_uuid: incompat & META_UUID != 0,
            finobt: ro_compat & FINOBT != 0,
            rmapbt: ro_compat & RMAPBT != 0,
            reflink: ro_compat & REFLINK != 0,
        })
    }
}
