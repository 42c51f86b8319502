//! The root directory: where the allocation bitmap and the up-case table lie, the
//! label, and clusters that must be in use.

use std::ops::Range;

use zerocopy::{FromBytes, IntoBytes};

use super::RUN_CHKDSK;
use super::boot::Volume;
use super::chain::Chain;
use super::on_disk::DirectoryEntry;
use crate::error::{Error, Result};
use crate::ranges::Ranges;
use crate::storage::ReadAt;

/// No directory is larger (section 7.4).
const MAX_SIZE: u64 = 256 << 20;

/// How many files are remembered; later ones are not held against the bitmap.
const MAX_FILES: usize = 1 << 16;

/// `EntryType` (section 6.2): kinds, and bits of all kinds.
const END: u8 = 0;
const BITMAP: u8 = 0x81;
const UP_CASE_TABLE: u8 = 0x82;
const LABEL: u8 = 0x83;
const FILE: u8 = 0x85;
const IN_USE: u8 = 0x80;
const SECONDARY: u8 = 0x40;
const BENIGN: u8 = 0x20;

/// `GeneralSecondaryFlags` (section 6.4.2).
const ALLOCATION_POSSIBLE: u8 = 1;
const NO_FAT_CHAIN: u8 = 2;

/// A structure that an entry of its own locates.
#[derive(Debug, Clone, Copy)]
pub(super) struct Located {
    pub(super) first_cluster: u32,
    pub(super) length: u64,
    pub(super) checksum: u32,
}

/// What the root directory tells.
#[derive(Debug)]
pub(super) struct RootDirectory {
    pub(super) label: Option<String>,
    pub(super) bitmap: Located,
    pub(super) up_case_table: Located,
    /// The directory's own clusters.
    pub(super) own: Ranges,
    /// Of the files in it, what is known without the FAT: all of those that are in
    /// one piece, the first cluster of the others.
    pub(super) files: Ranges,
}

#[derive(Default)]
struct Reader {
    label: Option<String>,
    bitmap: Option<Located>,
    up_case_table: Option<Located>,
    files: Vec<Range<u64>>,
    end: bool,
}

impl RootDirectory {
    pub(super) fn read(volume: &dyn ReadAt, exfat: &Volume) -> Result<Self> {
        let most = exfat.heap.needed(MAX_SIZE);
        let what = "the root directory";
        let chain = Chain::follow(volume, exfat, what, exfat.root_cluster, most)?;
        let mut reader = Reader::default();
        'pieces: for piece in &chain.pieces {
            let mut at = piece.start;
            while at < piece.end {
                let mut buf = [0; 4096];
                let size =
                    usize::try_from(piece.end - at).unwrap_or(usize::MAX).min(4096);
                let Some(chunk) = buf.get_mut(..size) else { break };
                volume.read_at(at, chunk)?;
                for (entry, offset) in chunk.chunks_exact(32).zip((at..).step_by(32)) {
                    let Ok(entry) = DirectoryEntry::read_from_bytes(entry) else { break };
                    reader.entry(exfat, &entry).map_err(|error| error.at(offset))?;
                    if reader.end {
                        break 'pieces;
                    }
                }
                at += size as u64;
            }
        }
        let missing = |name: &str| {
            Error::invalid(format!("the root directory has no {name}: {RUN_CHKDSK}"))
        };
        reader.files.sort_unstable_by_key(|range| range.start);
        Ok(RootDirectory {
            label: reader.label,
            bitmap: reader.bitmap.ok_or_else(|| missing("allocation bitmap"))?,
            up_case_table: reader
                .up_case_table
                .ok_or_else(|| missing("up-case table"))?,
            own: chain.bytes,
            files: reader.files.into_iter().collect(),
        })
    }
}

impl Reader {
    fn entry(&mut self, exfat: &Volume, entry: &DirectoryEntry) -> Result<()> {
        let located = Located {
            first_cluster: entry.first_cluster.get(),
            length: entry.length.get(),
            checksum: entry.checksum.get(),
        };
        let twice = |name: &str| {
            Err(Error::invalid(format!(
                "the root directory has a second {name}: {RUN_CHKDSK}"
            )))
        };
        match entry.kind {
            END => self.end = true,
            BITMAP if entry.flags != 0 => return twice("allocation bitmap"),
            BITMAP => {
                if self.bitmap.replace(located).is_some() {
                    return twice("allocation bitmap");
                }
            }
            UP_CASE_TABLE => {
                if self.up_case_table.replace(located).is_some() {
                    return twice("up-case table");
                }
            }
            LABEL => self.label = label(entry),
            kind if kind & IN_USE == 0 => {}
            kind if kind & SECONDARY != 0 => return self.secondary(exfat, entry),
            kind if kind == FILE || kind & BENIGN != 0 => {}
            kind => {
                return Err(Error::invalid(format!(
                    "the root directory has an entry of the unknown kind {kind:#04x}: \
                     {RUN_CHKDSK}"
                )));
            }
        }
        Ok(())
    }

    /// Remembers the clusters of a secondary entry that has some.
    fn secondary(&mut self, exfat: &Volume, entry: &DirectoryEntry) -> Result<()> {
        let first = entry.first_cluster.get();
        if entry.flags & ALLOCATION_POSSIBLE == 0 || first == 0 {
            return Ok(());
        }
        let heap = &exfat.heap;
        let clusters = if entry.flags & NO_FAT_CHAIN == 0 {
            1
        } else {
            heap.needed(entry.length.get()).max(1)
        };
        let last = u64::from(first) + (clusters - 1);
        if !heap.contains(first) || !u32::try_from(last).is_ok_and(|c| heap.contains(c)) {
            return Err(Error::invalid(format!(
                "the root directory has a file in cluster {first} that leaves the volume: \
                 {RUN_CHKDSK}"
            )));
        }
        if self.files.len() < MAX_FILES {
            self.files.push(heap.bytes(first, clusters));
        }
        Ok(())
    }
}

/// A label of up to eleven UTF-16 units, the number of which is the entry's flags.
fn label(entry: &DirectoryEntry) -> Option<String> {
    let units: Vec<u16> = entry
        .as_bytes()
        .get(2..)?
        .chunks_exact(2)
        .take(usize::from(entry.flags).min(11))
        .filter_map(|unit| unit.first_chunk().map(|unit| u16::from_le_bytes(*unit)))
        .collect();
    (!units.is_empty()).then(|| String::from_utf16_lossy(&units))
}
