//! The superblock: where the trees begin, and what the file system says of itself.
//!
//! The kernel mounts from the copy at 64 KiB alone. It writes that one first and the
//! mirrors after it, and only that one when a file is fsynced; so a mirror that is
//! older, damaged or missing is what a power cut leaves, and harmless. A mirror that
//! is *newer* tells that the first copy was put back to a state whose blocks may have
//! been used again since.
//!
//! Source: the Btrfs documentation, on-disk format, "Superblock"; the bounds are those
//! the kernel sets at mount (`fs/btrfs/disk-io.c`).

use std::ops::Range;

use zerocopy::IntoBytes;

use super::checksum::Checksum;
use super::features::{Features, incompat};
use super::node::MAX_LEVEL;
use super::on_disk::{RawDevItem, RawSuperblock};
use super::tree::{CHUNK_TREE, ROOT_TREE, Root};
use super::{MOUNT, RUN_CHECK};
use crate::error::{Error, Result};
use crate::storage::{ReadAt, read_struct};

/// Where the copies lie, the one that counts first.
pub(super) const PRIMARY: u64 = 64 << 10;
const COPIES: [u64; 3] = [PRIMARY, 64 << 20, 256 << 30];
pub(super) const SIZE: u64 = 4096;

pub(super) const MAGIC: &[u8; 8] = b"_BHRfS_M";
pub(super) const MAGIC_OFFSET: u64 = 0x1_0040;

/// Nothing is ever put there: boot loaders lie in it, and the first superblock.
const RESERVED: u64 = 1 << 20;
/// What is kept for a mirror: a whole stripe.
const MIRROR_STRIPE: u64 = 64 << 10;

/// A superblock whose numbers have been checked.
pub(super) struct Superblock {
    pub features: Features,
    pub checksum: Checksum,
    /// What the nodes bear as the UUID of their file system.
    pub metadata_uuid: [u8; 16],
    pub generation: u64,
    pub root: Root,
    pub chunk_root: Root,
    /// Bytes of all extents, each counted once whatever its copies.
    pub bytes_used: u64,
    pub sector_size: u32,
    pub node_size: u32,
    pub device: Device,
    pub sys_chunk_array: Vec<u8>,
    pub label: Option<String>,
    total_bytes: u64,
    num_devices: u64,
    fsid: [u8; 16],
    log_root: u64,
}

/// The one device, as the superblock and the chunk tree have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    pub id: u64,
    pub uuid: [u8; 16],
    pub fsid: [u8; 16],
    pub total_bytes: u64,
    pub bytes_used: u64,
}

impl Device {
    pub(super) fn of(raw: &RawDevItem) -> Self {
        Device {
            id: raw.id.get(),
            uuid: raw.uuid,
            fsid: raw.fsid,
            total_bytes: raw.total_bytes.get(),
            bytes_used: raw.bytes_used.get(),
        }
    }
}

impl Superblock {
    /// Reads and checks the copy that counts.
    pub(super) fn read(volume: &dyn ReadAt) -> Result<Self> {
        let [offset, ..] = COPIES;
        let raw: RawSuperblock = read_struct(volume, offset)?;
        Self::check(&raw, offset).map_err(|what| {
            Error::invalid(format!("the Btrfs superblock {what}")).at(offset)
        })
    }

    fn check(raw: &RawSuperblock, offset: u64) -> Result<Self, String> {
        let damaged = |what: &str| Err(format!("{what}: {RUN_CHECK}"));
        if raw.magic != *MAGIC || raw.bytenr.get() != offset {
            return damaged("lacks its signature or its own address");
        }
        let Some(checksum) = Checksum::of_type(raw.checksum_type.get()) else {
            return Err(format!(
                "names an unknown kind of checksum ({}): a newer version of this \
                 program may know it",
                raw.checksum_type
            ));
        };
        if !checksum.matches(raw.as_bytes()) {
            return damaged("does not match its checksum");
        }
        let (sector_size, node_size) = (raw.sector_size.get(), raw.node_size.get());
        if !sector_size.is_power_of_two() || !(4096..=65536).contains(&sector_size) {
            return damaged("gives a sector size other than 4 to 64 KiB");
        }
        if !node_size.is_power_of_two() || !(sector_size..=65536).contains(&node_size) {
            return damaged("gives a node size other than one sector to 64 KiB");
        }
        let generation = raw.generation.get();
        let chunk_generation = raw.chunk_root_generation.get();
        let root = |id, address: u64, generation, level| {
            let sound = address.is_multiple_of(sector_size.into()) && level < MAX_LEVEL;
            sound.then_some(Root { id, address, generation, level })
        };
        let (Some(root), Some(chunk_root)) = (
            root(ROOT_TREE, raw.root.get(), generation, raw.root_level),
            root(
                CHUNK_TREE,
                raw.chunk_root.get(),
                chunk_generation,
                raw.chunk_root_level,
            ),
        ) else {
            return damaged("gives an impossible place or height of a tree");
        };
        if chunk_generation > generation {
            return damaged("gives an impossible generation");
        }
        let array_size = usize::try_from(raw.sys_chunk_array_size.get()).ok();
        let Some(sys_chunk_array) =
            array_size.and_then(|size| raw.sys_chunk_array.get(..size))
        else {
            return damaged("gives an impossible size of the system chunk array");
        };
        let features = Features::of(raw);
        let metadata_uuid = if features.incompat(incompat::METADATA_UUID) {
            raw.metadata_uuid
        } else {
            raw.fsid
        };
        let device = Device::of(&raw.device);
        if device.fsid != metadata_uuid {
            return damaged("names a device of another file system");
        }
        // Offsets beyond are not only impossible to reach but to add up.
        if device.total_bytes > i64::MAX.unsigned_abs()
            || device.bytes_used > device.total_bytes
            || device.total_bytes > raw.total_bytes.get()
        {
            return damaged("gives an impossible size of the device");
        }
        let label = raw.label.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(Superblock {
            features,
            checksum,
            metadata_uuid,
            generation,
            root,
            chunk_root,
            bytes_used: raw.bytes_used.get(),
            sector_size,
            node_size,
            device,
            sys_chunk_array: sys_chunk_array.to_vec(),
            label: Some(String::from_utf8_lossy(label).into_owned())
                .filter(|label| !label.is_empty()),
            total_bytes: raw.total_bytes.get(),
            num_devices: raw.num_devices.get(),
            fsid: raw.fsid,
            log_root: raw.log_root.get(),
        })
    }

    /// Fails unless the trees are all there is to know, and on this volume alone.
    pub(super) fn check_state(&self) -> Result<()> {
        self.features.check()?;
        let reason = if self.num_devices != 1 {
            format!(
                "the file system lies on {} devices: only one that lies on a single \
                 device is supported",
                self.num_devices
            )
        } else if self.device.id == 0 {
            "the volume is the target of a replacement that was not finished: finish \
             it in Linux"
                .into()
        } else if self.total_bytes - self.device.total_bytes >= self.sector_size.into() {
            // Old kernels rounded one of the two to whole sectors.
            format!(
                "the file system has {} bytes but its only device {}: {RUN_CHECK}",
                self.total_bytes, self.device.total_bytes
            )
        } else if self.log_root != 0 {
            // What files were fsynced since the last commit lies in extents that
            // the extent tree does not know yet.
            format!("the volume has a log of fsynced files to be replayed: {MOUNT}")
        } else {
            return Ok(());
        };
        Err(Error::invalid(reason))
    }

    /// Fails if a mirror is newer than this copy, or of the same age and other trees.
    pub(super) fn check_mirrors(&self, volume: &dyn ReadAt) -> Result<()> {
        let [_, mirrors @ ..] = COPIES;
        for offset in mirrors {
            if offset + SIZE >= self.device.total_bytes {
                break;
            }
            let raw: RawSuperblock = read_struct(volume, offset)?;
            let Ok(mirror) = Self::check(&raw, offset) else { continue };
            if mirror.fsid != self.fsid || mirror.generation < self.generation {
                continue;
            }
            let reason = if mirror.generation > self.generation {
                format!(
                    "a mirror of the Btrfs superblock is newer than the superblock: \
                     {MOUNT}"
                )
            } else if mirror.root != self.root || mirror.chunk_root != self.chunk_root {
                format!("a mirror of the Btrfs superblock names other trees: {RUN_CHECK}")
            } else {
                continue;
            };
            return Err(Error::invalid(reason).at(offset));
        }
        Ok(())
    }

    /// What is never free, ascending, whatever the trees say.
    pub(super) fn reserved() -> [Range<u64>; 3] {
        let [_, second, third] = COPIES;
        let stripe = |offset| offset..offset + MIRROR_STRIPE;
        [0..RESERVED, stripe(second), stripe(third)]
    }
}
