//! HFS Plus and HFSX: free blocks are the zeros of the allocation file.
//!
//! ```text
//! boot blocks | volume header | ... | copy of the header | reserved sector
//!                 |  |  |  |
//!                 |  |  |  +-> journal info block -> journal
//!                 |  |  +-> catalog, attributes, startup file
//!                 |  +-> extents overflow file: further extents of any file
//!                 +-> allocation file: a bit a block
//! ```
//!
//! What speaks for the map is that the volume was unmounted (`kHFSVolumeUnmountedBit`)
//! with nothing left in its journal, that the header's copy speaks of the same volume,
//! that the count of free blocks is that of the header, and that all special files are
//! in use in the map and share no block. Nothing in HFS Plus but the journal's header
//! has a checksum.
//!
//! A volume inside an HFS wrapper is not found here: from the front it is HFS, which
//! is named and never read.
//!
//! Source: Apple, Technical Note TN1150, HFS Plus Volume Format.

#![forbid(unsafe_code)]

mod allocation;
mod btree;
mod fork;
mod journal;
mod on_disk;
mod volume_header;

use self::allocation::{Occupied, free_blocks};
use self::btree::{ExtentsTree, root_folder_name};
use self::fork::Fork;
use self::on_disk::RawVolumeHeader;
use self::volume_header::{OFFSET, VolumeHeader};
use super::{Allowances, FileSystem, Findings, FreeSink, check_length};
use crate::error::{Error, Result};
use crate::storage::{ReadAt, read_struct};

/// What to do about damage.
const REPAIR: &str = "repair the volume with Disk Utility or fsck_hfs in macOS";
/// What to do about a volume that was merely left in use.
const UNMOUNT: &str = "mount it once in macOS and eject it";

/// File numbers of the special files, as the extents overflow file knows them.
const CATALOG_FILE: u32 = 4;
const ALLOCATION_FILE: u32 = 6;
const STARTUP_FILE: u32 = 7;
const ATTRIBUTES_FILE: u32 = 8;

/// The reader of HFS Plus.
pub(super) struct HfsPlus;

impl FileSystem for HfsPlus {
    fn name(&self) -> &'static str {
        "hfsplus"
    }

    fn probe(&self, volume: &dyn ReadAt) -> Result<bool> {
        if volume.len() < OFFSET + size_of::<RawVolumeHeader>() as u64 {
            return Ok(false);
        }
        let mut head = [0; 4];
        volume.read_at(OFFSET, &mut head)?;
        // A mark of two bytes, so with one of the versions that exist.
        Ok(matches!(&head, [b'H', b'+' | b'X', 0, 4 | 5]))
    }

    fn read_free_map(
        &self,
        volume: &dyn ReadAt,
        _: &Allowances,
        findings: &mut Findings,
        free: &mut FreeSink<'_>,
    ) -> Result<()> {
        let signature: [u8; 2] = read_struct(volume, OFFSET)?;
        if signature == *b"HX" {
            findings.filesystem = "hfsx".into();
        }
        let header = VolumeHeader::read(volume, OFFSET)?;
        findings.unit = header.block_size;
        findings.length = header.length().min(volume.len());
        check_length(header.length(), volume)?;
        header.check_state()?;
        let copy = header.check_copy(volume)?;

        let mut occupied = Occupied::default();
        occupied.add("the volume header", [header.head()])?;
        occupied.add("the copy of the volume header", [header.blocks_of(&copy)])?;
        if let Some(block) = header.journal_info_block {
            let [info, journal] = journal::check_empty(volume, &header, block)?;
            occupied.add("the journal info block", [header.blocks_of(&info)])?;
            occupied.add("the journal", [header.blocks_of(&journal)])?;
        }
        let overflow =
            Fork::open("the extents overflow file", &header.extents, &header, None)?;
        let tree = ExtentsTree::open(volume, &overflow)?;
        let open = |name, raw, file| Fork::open(name, raw, &header, Some((&tree, file)));
        let allocation =
            open("the allocation file", &header.allocation, ALLOCATION_FILE)?;
        let catalog = open("the catalog", &header.catalog, CATALOG_FILE)?;
        let attributes =
            open("the attributes file", &header.attributes_file, ATTRIBUTES_FILE)?;
        let startup = open("the startup file", &header.startup, STARTUP_FILE)?;
        for fork in [&overflow, &allocation, &catalog, &attributes, &startup] {
            let blocks = fork.extents.iter().map(|(start, count)| *start..start + count);
            occupied.add(fork.name, blocks)?;
        }
        findings.label = Some(root_folder_name(volume, &catalog)?);

        if allocation.size < u64::from(header.blocks).div_ceil(8) {
            return Err(Error::invalid(format!(
                "the allocation file is too short for the volume: {REPAIR}"
            )));
        }
        let counted = free_blocks(volume, &header, &allocation, &occupied, free)?;
        if counted != header.free_blocks {
            return Err(Error::invalid(format!(
                "the allocation file has {counted} free blocks, the volume header {}: {REPAIR}",
                header.free_blocks
            )));
        }
        findings.free_bytes = header.byte(counted);
        Ok(())
    }
}
