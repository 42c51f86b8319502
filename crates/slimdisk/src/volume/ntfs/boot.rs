//! The boot sector: how large everything is and where `$MFT` begins.

use super::layout::BootSector;
use crate::error::{Error, Result};
use crate::storage::{ReadAt, read_struct};

/// The file system's signature at byte 3 of the volume.
pub(super) const OEM_ID: &[u8; 8] = b"NTFS    ";

/// Windows formats up to this size since Windows 10.
const MAX_CLUSTER_SIZE: u64 = 2 << 20;

/// The volume's checked measures.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    /// In bytes; a power of two of 512 to 2 MiB.
    pub(super) cluster_size: u64,
    /// Whole clusters in the counted sectors.
    pub(super) clusters: u64,
    /// The counted sectors in bytes; the backup boot sector lies just past them.
    pub(super) sectors_end: u64,
    /// The first cluster of `$MFT`, inside the volume.
    pub(super) mft_cluster: u64,
    /// The first cluster of `$MFTMirr`, inside the volume.
    pub(super) mirror_cluster: u64,
    /// In bytes; a power of two of 512 to 4096.
    pub(super) record_size: u32,
}

impl Geometry {
    /// Reads and checks the boot sector.
    pub(super) fn read(volume: &dyn ReadAt) -> Result<Self> {
        let boot: BootSector = read_struct(volume, 0)?;
        Self::check(&boot)
            .map_err(|what| Error::invalid(format!("the NTFS boot sector {what}")).at(0))
    }

    fn check(boot: &BootSector) -> Result<Self, &'static str> {
        if boot.oem_id != *OEM_ID || boot.signature != [0x55, 0xAA] {
            return Err("lacks its signatures");
        }
        // ntfs.sys insists on these zeros too; they tell NTFS from a FAT volume.
        if boot.reserved_sectors.get() != 0
            || boot.fats != 0
            || boot.root_entries.get() != 0
            || boot.sectors_16.get() != 0
            || boot.sectors_per_fat.get() != 0
            || boot.sectors_32.get() != 0
        {
            return Err("has values in fields that NTFS keeps zero");
        }
        let sector_size = u64::from(boot.bytes_per_sector.get());
        if !sector_size.is_power_of_two() || !(512..=4096).contains(&sector_size) {
            return Err("gives a sector size other than 512 to 4096 bytes");
        }
        let cluster_size = cluster_size(sector_size, boot.sectors_per_cluster)
            .ok_or("gives a cluster size other than 512 bytes to 2 MiB")?;
        let sectors_end = boot
            .sectors
            .get()
            .checked_mul(sector_size)
            .filter(|end| *end <= i64::MAX.unsigned_abs())
            .ok_or("gives an impossible number of sectors")?;
        let clusters = sectors_end / cluster_size;
        let (mft_cluster, mirror_cluster) =
            (boot.mft_cluster.get(), boot.mft_mirror_cluster.get());
        if mft_cluster >= clusters || mirror_cluster >= clusters {
            return Err("puts $MFT or $MFTMirr outside the volume");
        }
        let record_size = record_size(cluster_size, boot.clusters_per_record)
            .ok_or("gives a file record size other than 512 to 4096 bytes")?;
        Ok(Geometry {
            cluster_size,
            clusters,
            sectors_end,
            mft_cluster,
            mirror_cluster,
            record_size,
        })
    }

    /// The bytes of the whole clusters: what the file system's map speaks of.
    pub(super) fn length(&self) -> u64 {
        self.clusters * self.cluster_size
    }
}

/// Up to 128 the field is a number of sectors; from 0xF4 on it is the negative
/// exponent of one, which is how Windows 10 writes clusters above 64 KiB.
fn cluster_size(sector_size: u64, field: u8) -> Option<u64> {
    let sectors = match field {
        1..=0x80 => u64::from(field),
        0xF4..=0xFF => 1 << (256 - u32::from(field)),
        _ => return None,
    };
    Some(sectors * sector_size)
        .filter(|size| size.is_power_of_two() && *size <= MAX_CLUSTER_SIZE)
}

/// Above zero the field is a number of clusters, below it the negative exponent
/// of a number of bytes. Windows makes records of 1024 and 4096 bytes.
fn record_size(cluster_size: u64, field: i8) -> Option<u32> {
    let size = match field {
        1.. => u64::from(field.unsigned_abs()) * cluster_size,
        -31..=-1 => 1 << field.unsigned_abs(),
        _ => return None,
    };
    u32::try_from(size)
        .ok()
        .filter(|size| size.is_power_of_two() && (512..=4096).contains(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_sizes_are_literal_or_exponents() {
        assert_eq!(cluster_size(512, 1), Some(512));
        assert_eq!(cluster_size(512, 0x80), Some(65536));
        assert_eq!(cluster_size(512, 0xF4), Some(2 << 20));
        assert_eq!(cluster_size(4096, 0xF7), Some(2 << 20));
        assert_eq!(cluster_size(4096, 0xF4), None);
        for field in [0, 3, 0x81, 0xF3] {
            assert_eq!(cluster_size(512, field), None, "{field:#x}");
        }
    }

    #[test]
    fn record_sizes_are_clusters_or_exponents() {
        assert_eq!(record_size(4096, -10), Some(1024));
        assert_eq!(record_size(512, 2), Some(1024));
        assert_eq!(record_size(4096, 1), Some(4096));
        for (cluster, field) in
            [(4096, 0), (4096, 3), (4096, -8), (4096, -128), (2 << 20, 1)]
        {
            assert_eq!(record_size(cluster, field), None, "{cluster} {field}");
        }
    }
}
