//! The boot sector: which FAT it is and where everything lies.

use zerocopy::FromBytes;

use super::RUN_CHKDSK;
use super::on_disk::{BootSector, Extended16, Extended32};
use crate::error::{Error, Result};
use crate::storage::{ReadAt, read_struct};
use crate::volume::cluster_heap::ClusterHeap;
use crate::volume::signature;

/// Bits of the state byte. Source: the kernel's `msdos_fs.h` for the first;
/// Windows NT asks for a test of the surface with the second.
const STATE_DIRTY: u8 = 1;
const STATE_TEST: u8 = 2;

/// `BPB_ExtFlags`: only one FAT is kept up to date, and which.
const NOT_MIRRORED: u16 = 0x80;
const ACTIVE_FAT: u16 = 0x0F;

/// How wide the entries of the table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    Fat12,
    Fat16,
    Fat32,
}

impl Width {
    pub(super) fn name(self) -> &'static str {
        match self {
            Width::Fat12 => "fat12",
            Width::Fat16 => "fat16",
            Width::Fat32 => "fat32",
        }
    }

    /// How many bits an entry takes.
    pub(super) fn bits(self) -> u64 {
        match self {
            Width::Fat12 => 12,
            Width::Fat16 => 16,
            Width::Fat32 => 32,
        }
    }
}

/// Where the root directory lies.
#[derive(Debug, Clone, Copy)]
pub(super) enum Root {
    /// Before the clusters, of a fixed size in bytes.
    Fixed { start: u64, size: u64 },
    /// In a chain of clusters that begins with this one.
    Chain(u32),
}

/// The checked boot sector.
#[derive(Debug, Clone)]
pub(super) struct Volume {
    pub(super) width: Width,
    pub(super) heap: ClusterHeap,
    /// All sectors, in bytes.
    pub(super) length: u64,
    /// The first copy's offset in bytes.
    pub(super) fat_start: u64,
    /// The size of one copy in bytes.
    pub(super) fat_size: u64,
    /// How many copies there are, 1 to 4.
    pub(super) fats: u8,
    /// The copy that is up to date, if only one is.
    pub(super) active: Option<u8>,
    pub(super) root: Root,
    pub(super) media: u8,
    pub(super) label: Option<String>,
    state: u8,
}

/// Whether the boot sector is that of a FAT: the others that share its layout
/// prescribe a name at byte 3, FAT prescribes none, so there the parameters decide.
/// Errs towards yes, for a FAT that is not seen could leave a leftover of another
/// file system to be believed.
pub(super) fn looks_like_fat(volume: &dyn ReadAt) -> Result<bool> {
    if volume.len() < size_of::<BootSector>() as u64 {
        return Ok(false);
    }
    let mut sector = [0; size_of::<BootSector>()];
    volume.read_at(0, &mut sector)?;
    let (Ok(boot), false) = (
        BootSector::read_from_bytes(sector.as_slice()),
        signature::names_another_than_fat(&sector),
    ) else {
        return Ok(false);
    };
    let sector_size = boot.bytes_per_sector.get();
    let kinds = [extended_16(&boot).kind, extended_32(&boot).kind];
    Ok((512..=4096).contains(&sector_size)
        && sector_size.is_power_of_two()
        && boot.sectors_per_cluster.is_power_of_two()
        && boot.reserved_sectors.get() > 0
        && (1..=4).contains(&boot.fats)
        && (boot.media == 0xF0 || boot.media >= 0xF8)
        && (boot.signature == [0x55, 0xAA]
            || kinds.iter().any(|kind| kind.starts_with(b"FAT"))))
}

fn extended_16(boot: &BootSector) -> Extended16 {
    Extended16::read_from_prefix(&boot.extended)
        .map_or_else(|_| zerocopy::FromZeros::new_zeroed(), |(extended, _)| extended)
}

fn extended_32(boot: &BootSector) -> Extended32 {
    Extended32::read_from_prefix(&boot.extended)
        .map_or_else(|_| zerocopy::FromZeros::new_zeroed(), |(extended, _)| extended)
}

impl Volume {
    /// Reads and checks the boot sector.
    pub(super) fn read(volume: &dyn ReadAt) -> Result<Self> {
        let boot: BootSector = read_struct(volume, 0)?;
        Self::check(&boot)
            .map_err(|what| Error::invalid(format!("the FAT boot sector {what}")).at(0))
    }

    fn check(boot: &BootSector) -> Result<Self, String> {
        let damaged = |what: &str| Err(format!("{what}: {RUN_CHKDSK}"));
        if boot.signature != [0x55, 0xAA] || !matches!(boot.jump[0], 0xEB | 0xE9) {
            return damaged("lacks the jump it begins with or the 55 AA it ends with");
        }
        let sector_size = u64::from(boot.bytes_per_sector.get());
        if !sector_size.is_power_of_two() || !(512..=4096).contains(&sector_size) {
            return damaged("gives a sector size other than 512 to 4096 bytes");
        }
        if !boot.sectors_per_cluster.is_power_of_two() {
            return damaged("gives a cluster size that is no power of two");
        }
        if boot.reserved_sectors.get() == 0 || !(1..=4).contains(&boot.fats) {
            return damaged("gives an impossible number of reserved sectors or of FATs");
        }
        let (old, new) = (extended_16(boot), extended_32(boot));
        let long = boot.sectors_per_fat_16.get() == 0;
        let fat_sectors = match boot.sectors_per_fat_16.get() {
            0 => u64::from(new.sectors_per_fat.get()),
            sectors => u64::from(sectors),
        };
        let sectors = match (boot.sectors_16.get(), boot.sectors_32.get()) {
            (0, sectors) => sectors,
            (short, sectors) if sectors == 0 || sectors == u32::from(short) => {
                short.into()
            }
            _ => return damaged("gives two different numbers of sectors"),
        };
        let root_size = u64::from(boot.root_entries.get()) * 32;
        if (root_size == 0) != long || !root_size.is_multiple_of(sector_size) {
            return damaged("gives an impossible size of the root directory");
        }
        // At most 2^16 + 4 * 2^32 + 2^12 sectors.
        let fat_first = u64::from(boot.reserved_sectors.get());
        let root_first = fat_first + u64::from(boot.fats) * fat_sectors;
        let data_first = root_first + root_size / sector_size;
        let Some(data_sectors) =
            u64::from(sectors).checked_sub(data_first).filter(|sectors| *sectors > 0)
        else {
            return damaged("leaves no room for clusters");
        };
        let clusters = data_sectors / u64::from(boot.sectors_per_cluster);
        let (width, clusters) = width(clusters, long)?;
        let fat_size = fat_sectors * sector_size;
        if fat_size * 8 < (u64::from(clusters) + 2) * width.bits() {
            return damaged("gives a FAT too small for the volume");
        }
        let cluster_size = u64::from(boot.sectors_per_cluster) * sector_size;
        let heap =
            ClusterHeap { start: data_first * sector_size, cluster_size, clusters };
        let active = if long { active(&new, boot.fats)? } else { None };
        let root = if long {
            Root::Chain(new.root_cluster.get())
        } else {
            Root::Fixed { start: root_first * sector_size, size: root_size }
        };
        let (state, mark, label) = if long {
            (new.state, new.extended_signature, new.label)
        } else {
            (old.state, old.extended_signature, old.label)
        };
        Ok(Volume {
            width,
            heap,
            length: u64::from(sectors) * sector_size,
            fat_start: fat_first * sector_size,
            fat_size,
            fats: boot.fats,
            active,
            root,
            media: boot.media,
            label: (mark == 0x29 && label != *b"NO NAME    ")
                .then_some(label)
                .and_then(text),
            state,
        })
    }

    /// FAT32 has no checksums, but a second boot sector: what it says of where things
    /// lie must be the same. One that was never written contradicts nothing.
    pub(super) fn compare_backup(&self, volume: &dyn ReadAt) -> Result<()> {
        if self.width != Width::Fat32 {
            return Ok(());
        }
        let boot: BootSector = read_struct(volume, 0)?;
        let sector = extended_32(&boot).backup_sector.get();
        if sector == 0 || sector >= boot.reserved_sectors.get() {
            return Ok(());
        }
        let offset = u64::from(sector) * u64::from(boot.bytes_per_sector.get());
        let backup: BootSector = read_struct(volume, offset)?;
        if backup.signature == [0x55, 0xAA] && measures(&backup) != measures(&boot) {
            return Err(Error::invalid(format!(
                "the boot sector and its backup do not agree: {RUN_CHKDSK}"
            ))
            .at(offset));
        }
        Ok(())
    }

    /// Fails if the state byte says that the volume was not closed.
    pub(super) fn check_state(&self) -> Result<()> {
        if self.state & STATE_DIRTY != 0 {
            return Err(Error::invalid(format!(
                "the volume is marked dirty in its boot sector: {RUN_CHKDSK}"
            )));
        }
        if self.state & STATE_TEST != 0 {
            return Err(Error::invalid(
                "the volume is to be tested for bad clusters: run chkdsk /r on it in Windows",
            ));
        }
        if self.state != 0 {
            return Err(Error::invalid(format!(
                "the boot sector has unknown state bits ({:#04x}): {RUN_CHKDSK}",
                self.state
            )));
        }
        Ok(())
    }
}

/// The width by the number of clusters alone, if everybody sees it that way.
///
/// Programs that go by the layout (no 16-bit size of the FAT: FAT32) disagree with
/// the count on small FAT32 volumes, and Windows draws the line between FAT12 and
/// FAT16 two clusters above the specification.
fn width(clusters: u64, long: bool) -> Result<(Width, u32), String> {
    let narrow = u32::try_from(clusters).ok().filter(|n| *n <= 0x0FFF_FFF5);
    let Some(clusters) = narrow else {
        return Err(format!("gives an impossible number of clusters: {RUN_CHKDSK}"));
    };
    let width = match clusters {
        0..4085 => Width::Fat12,
        4085..4087 => {
            return Err(format!(
                "gives {clusters} clusters, which some take for FAT12 and others for \
                 FAT16: copy the files to a volume of another size"
            ));
        }
        4087..65525 => Width::Fat16,
        _ => Width::Fat32,
    };
    if (width == Width::Fat32) != long {
        return Err(format!(
            "gives {clusters} clusters, {}: not all programs agree on what that is; \
             format the volume anew with another cluster size",
            if long {
                "too few for its layout of a FAT32"
            } else {
                "too many for a FAT16"
            }
        ));
    }
    Ok((width, clusters))
}

/// The only FAT that is up to date; `None` if all are.
fn active(extended: &Extended32, fats: u8) -> Result<Option<u8>, String> {
    let (flags, version) = (extended.flags.get(), extended.version.get());
    if version != 0 {
        return Err(format!(
            "gives the unknown version {version:#06x} of FAT32: only the zeros of the \
             volume can be given up"
        ));
    }
    if flags & !(NOT_MIRRORED | ACTIVE_FAT) != 0 {
        return Err(format!("has unknown flags ({flags:#06x}): {RUN_CHKDSK}"));
    }
    if flags & NOT_MIRRORED == 0 {
        return Ok(None);
    }
    u8::try_from(flags & ACTIVE_FAT)
        .ok()
        .filter(|active| *active < fats)
        .map(Some)
        .ok_or_else(|| format!("makes a FAT active that does not exist: {RUN_CHKDSK}"))
}

/// Everything in a boot sector that says where things lie in a FAT32.
fn measures(boot: &BootSector) -> [u32; 10] {
    let extended = extended_32(boot);
    [
        boot.bytes_per_sector.get().into(),
        boot.sectors_per_cluster.into(),
        boot.reserved_sectors.get().into(),
        boot.fats.into(),
        boot.root_entries.get().into(),
        boot.sectors_16.get().into(),
        boot.sectors_per_fat_16.get().into(),
        boot.sectors_32.get(),
        extended.sectors_per_fat.get(),
        extended.root_cluster.get(),
    ]
}

/// A label of eleven characters, padded with spaces; `None` if it is empty.
pub(super) fn text(label: [u8; 11]) -> Option<String> {
    let text = String::from_utf8_lossy(&label).trim_end_matches([' ', '\0']).to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_clusters_decides_where_nobody_disagrees() {
        let name = |clusters, long| width(clusters, long).ok().map(|(w, _)| w.name());
        assert_eq!(name(1, false), Some("fat12"));
        assert_eq!(name(4084, false), Some("fat12"));
        assert_eq!(name(4085, false), None);
        assert_eq!(name(4086, false), None);
        assert_eq!(name(4087, false), Some("fat16"));
        assert_eq!(name(65524, false), Some("fat16"));
        assert_eq!(name(65525, false), None);
        assert_eq!(name(65524, true), None);
        assert_eq!(name(65525, true), Some("fat32"));
        assert_eq!(name(0x0FFF_FFF5, true), Some("fat32"));
        assert_eq!(name(0x0FFF_FFF6, true), None);
    }
}
