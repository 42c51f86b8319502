//! XFS, versions 4 and 5: the free map is a B+tree for each allocation group.
//!
//! ```text
//! superblock -> log: was the last thing that happened an unmount?
//!     |
//!     +-> allocation groups -> AGF -> free space by block (what is free)
//!                               |  -> free space by size  (must agree)
//!                               +-> AGFL: blocks set aside, which count as used
//! ```
//!
//! A log that holds anything is not replayed: that is for the kernel. What speaks
//! for a map is that the log is clean, that nothing is newer than the log, that the
//! checksums hold, that both B+trees of a group hold the same extents, that they
//! come to the AGF's counts and all of them to the superblock's, and that what must
//! be in use is: the headers, the log, the B+trees' blocks, the system's inodes.
//!
//! What the free space B+trees do not hold is in use, whoever uses it: so the other
//! B+trees (of inodes, owners and shared extents) need not be read.
//!
//! Source: XFS Algorithms & Data Structures, 3rd edition.

#![forbid(unsafe_code)]

mod allocation_group;
mod btree;
mod checksum;
mod features;
mod free_space;
mod log;
mod on_disk;
mod superblock;

use self::allocation_group::{AllocationGroup, check_lsn};
use self::free_space::{FreeSpace, Totals};
use self::superblock::Superblock;
use super::{Allowances, FileSystem, Findings, FreeSink, check_length};
use crate::error::{Error, Result};
use crate::storage::ReadAt;

/// What to do about damage.
const REPAIR: &str = "run xfs_repair on it";
/// What to do about a file system that was merely left in use.
const REMOUNT: &str = "mount it once in Linux and unmount it";

/// The headers of how many allocation groups are read at once.
const AHEAD: u32 = 64;

/// The reader of XFS.
pub(super) struct Xfs;

impl FileSystem for Xfs {
    fn name(&self) -> &'static str {
        "xfs"
    }

    fn probe(&self, volume: &dyn ReadAt) -> Result<bool> {
        let mut magic = [0; 4];
        if volume.len() < 512 {
            return Ok(false);
        }
        volume.read_at(0, &mut magic)?;
        Ok(&magic == superblock::MAGIC)
    }

    fn read_free_map(
        &self,
        volume: &dyn ReadAt,
        _: &Allowances,
        findings: &mut Findings,
        free: &mut FreeSink<'_>,
    ) -> Result<()> {
        let raw = &superblock::read(volume)?;
        findings.label = superblock::label(raw);
        let fs = Superblock::new(raw, volume)?;
        findings.length = fs.blocks * u64::from(fs.block_size);
        findings.unit = fs.block_size.into();
        check_length(findings.length, volume)?;
        let newest_lsn = log::check_clean(volume, &fs)?;
        if !check_lsn(fs.lsn, newest_lsn) {
            return Err(Error::invalid(format!(
                "the superblock is newer than the log: {REPAIR}"
            )));
        }
        let mut free_space = FreeSpace::new(&fs, volume, newest_lsn, free);
        for number in 0..fs.ag_count {
            if number % AHEAD == 0 {
                // The first B+trees that a group was given lie behind its headers.
                let upto = fs.header_blocks() + 2;
                let groups = number..fs.ag_count.min(number.saturating_add(AHEAD));
                let heads = groups.map(|n| fs.byte(n, 0)..fs.byte(n, upto));
                volume.will_read(&heads.collect::<Vec<_>>());
            }
            let group = AllocationGroup::read(volume, &fs, number, newest_lsn)?;
            free_space.read(&group)?;
        }
        let totals = free_space.totals;
        check_total(&fs, &totals)?;
        findings.free_bytes = totals.free * u64::from(fs.block_size);
        Ok(())
    }
}

/// The superblock's number of free blocks includes those set aside and those of the
/// free space B+trees (and of that of the owners), as they come from the free space
/// and go back to it; the kernel counts them so at mount (`xfs_initialize_perag_data`).
fn check_total(fs: &Superblock, totals: &Totals) -> Result<()> {
    let set_aside = totals.free + totals.set_aside;
    let all = set_aside + totals.btrees;
    // Without lazy counters it is not known that all programs count the latter.
    let fits = fs.free_blocks == all
        || !fs.features.lazy_counters && fs.free_blocks == set_aside;
    if fits {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the allocation groups have {all} free blocks, the superblock {}: {REPAIR}",
        fs.free_blocks
    )))
}
