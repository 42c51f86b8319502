//! The boot region: where everything lies, and whether the volume was closed.

use super::RUN_CHKDSK;
use super::on_disk::BootSector;
use crate::error::{Error, Result};
use crate::storage::{ReadAt, read_struct};
use crate::volume::cluster_heap::ClusterHeap;

/// The file system's signature at byte 3 of the volume.
pub(super) const NAME: &[u8; 8] = b"EXFAT   ";

const REVISION: u16 = 0x0100;

/// `VolumeFlags` (section 3.1.13).
const ACTIVE_FAT: u16 = 0x1;
const DIRTY: u16 = 0x2;
const MEDIA_FAILURE: u16 = 0x4;
/// `ClearToZero` says nothing, in either state.
const CLEAR_TO_ZERO: u16 = 0x8;

/// The largest cluster, 32 MiB, as a shift.
const MAX_CLUSTER_SHIFT: u32 = 25;
const MAX_CLUSTERS: u32 = 0xFFFF_FFF5;

/// The first two entries of the FAT, which belong to no cluster (section 4.1).
const FAT_HEAD: [u8; 8] = *b"\xF8\xFF\xFF\xFF\xFF\xFF\xFF\xFF";

/// The checked boot sector.
#[derive(Debug, Clone, Copy)]
pub(super) struct Volume {
    pub(super) heap: ClusterHeap,
    /// All sectors, in bytes.
    pub(super) length: u64,
    /// The offset of the FAT in bytes.
    pub(super) fat: u64,
    pub(super) root_cluster: u32,
    sector_size: u64,
    flags: u16,
}

impl Volume {
    /// Reads and checks the boot sector alone.
    pub(super) fn read(volume: &dyn ReadAt) -> Result<Self> {
        let boot: BootSector = read_struct(volume, 0)?;
        Self::check(&boot)
            .map_err(|what| Error::invalid(format!("the exFAT boot sector {what}")).at(0))
    }

    fn check(boot: &BootSector) -> Result<Self, String> {
        let damaged = |what: &str| Err(format!("{what}: {RUN_CHKDSK}"));
        if boot.jump != [0xEB, 0x76, 0x90]
            || boot.name != *NAME
            || boot.signature != [0x55, 0xAA]
        {
            return damaged("lacks its signatures");
        }
        // They keep a FAT driver from taking the volume for its own.
        if boot.must_be_zero.iter().any(|byte| *byte != 0) {
            return damaged("has values in fields that exFAT keeps zero");
        }
        if boot.revision.get() != REVISION {
            return Err(format!(
                "gives the unknown revision {:#06x} of exFAT: only the zeros of the \
                 volume can be given up",
                boot.revision
            ));
        }
        if boot.fats == 2 {
            return Err(
                "is that of a TexFAT, which keeps two states of the volume: only \
                        its zeros can be given up"
                    .into(),
            );
        }
        if boot.fats != 1 {
            return damaged("gives an impossible number of FATs");
        }
        let (sector_shift, cluster_shift) =
            (u32::from(boot.sector_shift), u32::from(boot.cluster_shift));
        if !(9..=12).contains(&sector_shift) {
            return damaged("gives a sector size other than 512 to 4096 bytes");
        }
        if sector_shift + cluster_shift > MAX_CLUSTER_SHIFT {
            return damaged("gives a cluster size of more than 32 MiB");
        }
        let sector_size = 1u64 << sector_shift;
        let Some(length) = boot
            .volume_length
            .get()
            .checked_mul(sector_size)
            .filter(|length| *length <= i64::MAX.unsigned_abs())
        else {
            return damaged("gives an impossible number of sectors");
        };
        let bytes = |sectors: u32| u64::from(sectors) * sector_size;
        let clusters = boot.cluster_count.get();
        let fat_size = bytes(boot.fat_length.get());
        if clusters == 0
            || clusters > MAX_CLUSTERS
            || fat_size < (u64::from(clusters) + 2) * 4
        {
            return damaged("gives an impossible number of clusters");
        }
        let heap = ClusterHeap {
            start: bytes(boot.cluster_heap_offset.get()),
            cluster_size: sector_size << cluster_shift,
            clusters,
        };
        let fat = bytes(boot.fat_offset.get());
        // Both boot regions, of twelve sectors each, lie before the FAT.
        if fat < 24 * sector_size
            || fat + fat_size > heap.start
            || heap.start + u64::from(clusters) * heap.cluster_size > length
        {
            return damaged("lets its regions overlap or leave the volume");
        }
        Ok(Volume {
            heap,
            length,
            fat,
            root_cluster: boot.root_cluster.get(),
            sector_size,
            flags: boot.flags.get(),
        })
    }

    /// Checks the sum of the boot region and the head of the FAT. Bounded: 48 KiB.
    pub(super) fn check_boot_region(&self, volume: &dyn ReadAt) -> Result<()> {
        let sector = usize::try_from(self.sector_size).unwrap_or(0);
        let mut region = vec![0; sector * 12];
        volume.read_at(0, &mut region)?;
        let (covered, sums) = region.split_at(sector * 11);
        let sum = boot_checksum(covered).to_le_bytes();
        if sums.chunks_exact(4).any(|copy| copy != sum) {
            return Err(Error::invalid(format!(
                "the exFAT boot region does not match its checksum: {RUN_CHKDSK}"
            ))
            .at(self.sector_size * 11));
        }
        let mut head = [0; 8];
        volume.read_at(self.fat, &mut head)?;
        if head != FAT_HEAD {
            return Err(Error::invalid(format!(
                "the FAT does not begin as every FAT does: {RUN_CHKDSK}"
            ))
            .at(self.fat));
        }
        Ok(())
    }

    /// Fails if the flags forbid to trust the volume.
    pub(super) fn check_flags(&self) -> Result<()> {
        let flags = self.flags;
        let reason = if flags & DIRTY != 0 {
            format!("the volume is marked dirty: {RUN_CHKDSK}")
        } else if flags & MEDIA_FAILURE != 0 {
            "the disk of the volume had errors: run chkdsk /r on it in Windows".into()
        } else if flags & ACTIVE_FAT != 0 {
            format!("the second FAT is active, which does not exist: {RUN_CHKDSK}")
        } else if flags & !CLEAR_TO_ZERO != 0 {
            format!("the volume has unknown flags ({flags:#06x}): {RUN_CHKDSK}")
        } else {
            return Ok(());
        };
        Err(Error::invalid(reason))
    }
}

/// Section 3.4: over eleven sectors, without `VolumeFlags` and `PercentInUse`.
fn boot_checksum(sectors: &[u8]) -> u32 {
    sectors
        .iter()
        .enumerate()
        .filter(|(at, _)| !matches!(at, 106 | 107 | 112))
        .fold(0u32, |sum, (_, byte)| sum.rotate_right(1).wrapping_add((*byte).into()))
}
