//! F2FS: free blocks are the zeros of the segment information table.
//!
//! ```text
//! superblock x2 | checkpoints | SIT x2 | NAT x2 | SSA | main area
//!      |               |         |        |
//!      |               |         |        +-> root directory's node
//!      |               |         +-> a bitmap for each segment of 2 MiB
//!      |               +-> which copies count, the latest entries of SIT and NAT
//!      +-> where the areas lie
//! ```
//!
//! Only blocks of the main area are ever free. The map is that of the newest
//! checkpoint, and it is current if the file system was unmounted (`CP_UMOUNT_FLAG`)
//! and nothing was synced since. The flag alone is not enough: a mount does not write
//! a checkpoint, so after mounting, `fsync` and a crash the checkpoint still says that
//! it was unmounted, while the synced data lies in blocks that its map calls free. The
//! kernel finds such data by a chain of nodes that begins at the next free block of a
//! log and bears the checkpoint's version; so does [`node::check_nothing_follows`].
//! If that block is no such node, the kernel takes nothing over either, and all that
//! was written after the checkpoint is lost by the next mount anyway.
//!
//! Source: the kernel's `Documentation/filesystems/f2fs.rst`; for what makes a volume
//! sound, the checks of `fs/f2fs/super.c`, `checkpoint.c`, `segment.c` and
//! `recovery.c`, named where they are followed.

#![forbid(unsafe_code)]

mod checkpoint;
mod journal;
mod node;
mod on_disk;
mod sit;
mod superblock;

use self::checkpoint::Checkpoint;
use self::journal::Journals;
use self::superblock::Superblock;
use super::{Allowances, FileSystem, Findings, FreeSink, check_length};
use crate::error::Result;
use crate::storage::{ReadAt, read_struct};

/// What to do about damage.
const RUN_FSCK: &str = "run fsck.f2fs -f on it";
/// What to do about a file system that was merely left in use.
const UNMOUNT: &str = "mount it once in Linux and unmount it";

/// Bytes in a block.
const BLOCK: u64 = 4096;
/// Blocks in a segment.
const SEGMENT: u64 = 512;

/// The reader of F2FS.
pub(super) struct F2fs;

impl FileSystem for F2fs {
    fn name(&self) -> &'static str {
        "f2fs"
    }

    fn probe(&self, volume: &dyn ReadAt) -> Result<bool> {
        for offset in superblock::OFFSETS {
            if volume.len() < offset + 4 {
                break;
            }
            let magic: zerocopy::little_endian::U32 = read_struct(volume, offset)?;
            if magic.get() == superblock::MAGIC {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn read_free_map(
        &self,
        volume: &dyn ReadAt,
        _: &Allowances,
        findings: &mut Findings,
        free: &mut FreeSink<'_>,
    ) -> Result<()> {
        let fs = Superblock::read(volume)?;
        let length = Superblock::byte(fs.blocks);
        findings.unit = BLOCK;
        findings.length = length.min(volume.len());
        findings.label.clone_from(&fs.label);
        check_length(length, volume)?;
        fs.check_features()?;
        let checkpoint = Checkpoint::read(volume, &fs)?;
        let journals = Journals::read(volume, &fs, &checkpoint)?;
        node::check_nothing_follows(volume, &fs, &checkpoint)?;
        let root = node::root(volume, &fs, &checkpoint, &journals)?;
        let occupied = [("the root directory", root)];
        let reader = sit::Reader::new(&fs, &checkpoint, &journals, &occupied, free);
        findings.free_bytes = reader.read(volume)? * BLOCK;
        Ok(())
    }
}

/// CRC-32 without inversions, going on from `sum`; the kernel begins with the magic
/// number (`f2fs_crc32`).
fn crc32(sum: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!sum);
    hasher.update(bytes);
    !hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The catalogue's CRC-32/JAMCRC, and going on in the middle.
    #[test]
    fn check_value() {
        assert_eq!(crc32(!0, b"123456789"), 0x340B_C6D9);
        assert_eq!(crc32(crc32(7, b"1234"), b"56789"), crc32(7, b"123456789"));
    }
}
