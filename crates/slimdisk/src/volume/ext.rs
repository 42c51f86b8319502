//! ext2, ext3 and ext4: the free map is a bitmap for each block group.
//!
//! ```text
//! superblock -> group descriptors -> block bitmaps
//!     |
//!     +-> journal inode -> journal -> overlay (if the file system was in use)
//! ```
//!
//! What is read is only what the free map needs: the superblock, the group
//! descriptors, the block bitmaps and, where the journal has to be replayed, the
//! part of the journal in use. The replay happens in memory: from then on every
//! block is read from where its newest content lies.

mod block_bitmap;
mod checksum;
mod features;
mod group_descriptor;
mod inode;
mod journal;
mod metadata;
mod on_disk;
mod overlay;
mod superblock;

use self::block_bitmap::Bitmaps;
use self::features::{Features, compat};
use self::journal::Journal;
use self::on_disk::{RawMmp, RawSuperblock};
use self::overlay::Overlay;
use self::superblock::Superblock;
use super::{Allowances, FileSystem, Findings, FreeSink, check_length};
use crate::error::{Error, Result};
use crate::ranges::Ranges;
use crate::storage::{ReadAt, read_struct};

/// What to do about damage.
const RUN_FSCK: &str = "run e2fsck -f on it";
/// What to do about a file system that was merely left in use.
const UNMOUNT: &str = "mount it once in Linux and unmount it cleanly";

/// `mmp_magic`, and the sequence number of a clean unmount.
const MMP_MAGIC: u32 = 0x004D_4D50;
const MMP_CLEAN: u32 = 0xFF4D_4D50;

/// The reader of ext2, ext3 and ext4.
pub(super) struct Ext;

impl FileSystem for Ext {
    fn name(&self) -> &'static str {
        "ext"
    }

    fn probe(&self, volume: &dyn ReadAt) -> Result<bool> {
        if volume.len() < superblock::OFFSET + size_of::<RawSuperblock>() as u64 {
            return Ok(false);
        }
        let magic: zerocopy::little_endian::U16 =
            read_struct(volume, superblock::MAGIC_OFFSET)?;
        Ok(magic.get() == superblock::MAGIC)
    }

    fn read_free_map(
        &self,
        volume: &dyn ReadAt,
        _: &Allowances,
        findings: &mut Findings,
        free: &mut FreeSink<'_>,
    ) -> Result<()> {
        let raw = &RawSuperblock::read(volume)?;
        findings.filesystem = Features::of(raw).generation().to_owned();
        findings.label = raw.label();
        let fs = Superblock::new(raw)?;
        describe(&fs, findings);
        fs.check_state()?;
        check_length(fs.byte(fs.blocks), volume)?;

        let mut journal_blocks = Ranges::new();
        let mut overlay = Overlay::new(volume, &fs, Vec::new());
        if fs.features.compat(compat::HAS_JOURNAL) {
            let journal = Journal::open(&fs, volume)?;
            journal_blocks = journal.blocks();
            if fs.needs_recovery() {
                findings.at_rest = Some(false);
                overlay = Overlay::new(volume, &fs, journal.replay(volume)?);
            } else if !journal.is_empty() {
                return Err(Error::invalid(format!(
                    "the journal holds changes that the superblock does not know of: {RUN_FSCK}"
                )));
            }
        }
        let fs = if fs.needs_recovery() {
            let replayed = after_replay(&fs, &overlay)?;
            check_length(replayed.byte(replayed.blocks), volume)?;
            describe(&replayed, findings);
            replayed
        } else {
            fs
        };
        check_not_mounted_elsewhere(&fs, volume)?;

        let mut metadata = metadata::Collector::new();
        group_descriptor::for_each(&fs, &overlay, &mut |group, descriptor| {
            metadata.add(&fs, group, &descriptor)
        })?;
        let metadata = metadata.finish()?;
        let totals =
            Bitmaps::new(&fs, &overlay, &metadata, &journal_blocks, free).read_all()?;
        findings.free_bytes = fs.byte(totals.free_blocks);

        // The superblock's count is brought up to date by a clean unmount only.
        let counted = totals.free_clusters * u64::from(fs.cluster_ratio);
        if !fs.needs_recovery() && counted != fs.free_blocks {
            return Err(Error::invalid(format!(
                "the block bitmaps have {counted} free blocks, the superblock {}: {RUN_FSCK}",
                fs.free_blocks
            )));
        }
        Ok(())
    }
}

fn describe(fs: &Superblock, findings: &mut Findings) {
    findings.length = fs.byte(fs.blocks);
    findings.unit = u64::from(fs.block_size) * u64::from(fs.cluster_ratio);
}

/// The superblock as the replay leaves it.
fn after_replay(before: &Superblock, overlay: &Overlay<'_>) -> Result<Superblock> {
    let after = Superblock::new(&RawSuperblock::read(overlay)?)?;
    after.check_state()?;
    if after.block_size != before.block_size
        || after.uuid != before.uuid
        || after.journal_inode != before.journal_inode
    {
        return Err(Error::invalid(format!(
            "the journal belongs to another file system: {RUN_FSCK}"
        )));
    }
    Ok(after)
}

/// Multi-mount protection: its block says whether some machine has the file
/// system mounted. Source: the kernel's `Documentation/filesystems/ext4/mmp.rst`.
fn check_not_mounted_elsewhere(fs: &Superblock, volume: &dyn ReadAt) -> Result<()> {
    let Some(block) = fs.mmp_block() else { return Ok(()) };
    let sound = fs.contains(&(block..block.saturating_add(1)));
    let mmp: Option<RawMmp> =
        sound.then(|| read_struct(volume, fs.byte(block))).transpose()?;
    match mmp.filter(|mmp| mmp.magic.get() == MMP_MAGIC) {
        None => Err(Error::invalid(format!(
            "the block of the multi-mount protection is damaged: {RUN_FSCK}"
        ))),
        Some(mmp) if mmp.seq.get() != MMP_CLEAN => Err(Error::invalid(format!(
            "the multi-mount protection says that a machine is using the file system: \
             {UNMOUNT}"
        ))),
        Some(_) => Ok(()),
    }
}
