//! exFAT: free clusters are the zeros of the allocation bitmap.
//!
//! ```text
//! boot region (12 sectors) | backup | FAT | clusters
//!       |                                     |
//!       +-> root directory -> allocation bitmap, up-case table
//! ```
//!
//! What speaks for a bitmap is that the volume was closed (`VolumeDirty`), that the
//! checksums of the boot region and of the up-case table hold, and that the bitmap
//! has in use what is: itself, the up-case table, the root directory, the files in it.
//! `PercentInUse` is rounded and need not be kept up to date, so it is not read.
//!
//! Source: Microsoft, exFAT file system specification 1.00.

#![forbid(unsafe_code)]

mod boot;
mod chain;
mod on_disk;
mod root_directory;

use self::boot::Volume;
use self::chain::Chain;
use self::root_directory::{Located, RootDirectory};
use super::cluster_heap::{FIRST, FreeClusters, Occupied};
use super::{Allowances, FileSystem, Findings, FreeSink, check_length};
use crate::error::{Error, Result};
use crate::storage::ReadAt;

/// What to do about damage and about volumes that were not closed; Linux does not
/// clear the mark of the latter by mounting it.
const RUN_CHKDSK: &str = "run chkdsk /f on the volume in Windows or fsck.exfat in Linux";

/// 65536 characters of 16 bits: no up-case table is larger (section 7.2.5).
const MAX_UP_CASE_TABLE: u64 = 65536 * 2;

/// The reader of exFAT.
pub(super) struct Exfat;

impl FileSystem for Exfat {
    fn name(&self) -> &'static str {
        "exfat"
    }

    fn probe(&self, volume: &dyn ReadAt) -> Result<bool> {
        let mut head = [0; 11];
        if volume.len() < 512 {
            return Ok(false);
        }
        volume.read_at(0, &mut head)?;
        Ok(head.ends_with(boot::NAME))
    }

    fn read_free_map(
        &self,
        volume: &dyn ReadAt,
        _: &Allowances,
        findings: &mut Findings,
        free: &mut FreeSink<'_>,
    ) -> Result<()> {
        let exfat = Volume::read(volume)?;
        findings.unit = exfat.heap.cluster_size;
        findings.length = exfat.length.min(volume.len());
        check_length(exfat.length, volume)?;
        exfat.check_flags()?;
        exfat.check_boot_region(volume)?;
        let root = RootDirectory::read(volume, &exfat)?;
        findings.label.clone_from(&root.label);
        let up_case_table = check_up_case_table(volume, &exfat, root.up_case_table)?;
        let bitmap = locate_bitmap(volume, &exfat, root.bitmap)?;
        let occupied = [
            ("the allocation bitmap", bitmap.bytes.clone()),
            ("the up-case table", up_case_table.bytes),
            ("the root directory", root.own),
            ("a file of the root directory", root.files),
        ];
        findings.free_bytes = free_clusters(volume, &exfat, &bitmap, &occupied, free)?;
        Ok(())
    }
}

/// That the table is what its entry says shows that the root directory is that of
/// this volume.
fn check_up_case_table(
    volume: &dyn ReadAt,
    exfat: &Volume,
    table: Located,
) -> Result<Chain> {
    let what = "the up-case table";
    if !(2..=MAX_UP_CASE_TABLE).contains(&table.length) {
        return Err(Error::invalid(format!(
            "{what} has an impossible length of {} bytes: {RUN_CHKDSK}",
            table.length
        )));
    }
    let chain = Chain::of_length(volume, exfat, what, table.first_cluster, table.length)?;
    let mut sum = 0u32;
    chain.stream(volume, table.length, &mut |bytes| {
        sum = bytes
            .iter()
            .fold(sum, |sum, byte| sum.rotate_right(1).wrapping_add((*byte).into()));
        Ok(())
    })?;
    if sum != table.checksum {
        return Err(Error::invalid(format!(
            "{what} does not match its checksum: {RUN_CHKDSK}"
        )));
    }
    Ok(chain)
}

fn locate_bitmap(volume: &dyn ReadAt, exfat: &Volume, bitmap: Located) -> Result<Chain> {
    let needed = u64::from(exfat.heap.clusters).div_ceil(8);
    // The rest of the last cluster may be counted too.
    if bitmap.length < needed
        || exfat.heap.needed(bitmap.length) > exfat.heap.needed(needed)
    {
        return Err(Error::invalid(format!(
            "the allocation bitmap has {} bytes where the volume needs {needed}: \
             {RUN_CHKDSK}",
            bitmap.length
        )));
    }
    let what = "the allocation bitmap";
    Chain::of_length(volume, exfat, what, bitmap.first_cluster, bitmap.length)
}

/// Sends all free clusters to `free`, as bytes of the volume, and gives their number
/// of bytes. The lowest bit of a byte comes first; 0 is a free cluster.
fn free_clusters(
    volume: &dyn ReadAt,
    exfat: &Volume,
    bitmap: &Chain,
    occupied: &[Occupied<'_>],
    free: &mut FreeSink<'_>,
) -> Result<u64> {
    let mut found = FreeClusters::new(exfat.heap, occupied, free);
    let clusters = exfat.heap.clusters;
    let mut next = 0u32;
    bitmap.stream(volume, u64::from(clusters).div_ceil(8), &mut |bytes| {
        for &byte in bytes {
            let count = (clusters - next).min(8);
            match byte {
                0x00 => found.free(next + FIRST),
                0xFF => found.used(next + FIRST)?,
                _ => {
                    for bit in 0..count {
                        let cluster = next + bit + FIRST;
                        if byte >> bit & 1 == 0 {
                            found.free(cluster);
                        } else {
                            found.used(cluster)?;
                        }
                    }
                }
            }
            next += count;
        }
        Ok(())
    })?;
    found.finish()
}
