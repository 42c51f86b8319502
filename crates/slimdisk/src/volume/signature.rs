//! Signatures of what is named but never read: containers and other file systems.
//!
//! A file system's free map counts only if nothing else on the volume claims it:
//! an ext superblock beneath a LUKS header is a leftover, and one leg of a RAID
//! looks like a plain file system from the front. So every row here errs towards
//! matching: its mark is long enough not to turn up in random bytes (32 bits or
//! more, short ones with a further test), and nothing beyond that is asked, for a
//! damaged container is still somebody's data.

mod rows;

pub use self::rows::HIBERNATION;
use self::rows::{BITLOCKER, Base, Mark, ROWS, Row, Structure};
use crate::error::Result;
use crate::storage::ReadAt;

const KIB: u64 = 1024;

/// Names everything of which `volume` bears a signature, each name once.
///
/// Reads less than 128 KiB, most of it at the start, and never a structure that
/// would pass the end.
pub fn names(volume: &dyn ReadAt) -> Result<Vec<&'static str>> {
    let mut view = View::new(volume)?;
    let mut found = Vec::new();
    if let Some(name) = boot_sector(&view) {
        found.push(name);
    }
    for row in ROWS {
        if found.contains(&row.name) {
            continue;
        }
        for mark in row.marks {
            if view.bears(row, mark)? {
                found.push(row.name);
                break;
            }
        }
    }
    Ok(found)
}

/// What a *whole* disk is a member of, whatever its partition table says: of a RAID
/// that keeps its metadata near the end, or of a replicated pair. The table one sees
/// is then the array's, and what it says holds for the array alone.
///
/// Errs towards finding one: the end of the last partition may be in the same place
/// as the end of the disk.
pub fn disk_membership(disk: &dyn ReadAt) -> Result<Option<&'static str>> {
    const AT_THE_END: [&str; 4] = ["Linux RAID", "DDF RAID", "Intel RAID", "DRBD"];
    Ok(names(disk)?.into_iter().find(|name| AT_THE_END.contains(name)))
}

/// What is said of a volume whose start is [noise](is_noise).
pub const NOISE: &str = "random bytes (encrypted?)";

/// Whether a volume begins with what looks drawn at random, as one does that
/// `VeraCrypt` or plain dm-crypt made: they leave no mark.
///
/// The first 64 KiB are held against a uniform distribution of byte values (a
/// chi-squared test with 255 degrees of freedom, six standard deviations to either
/// side). Compressed data may pass as well; the name says no more than is seen.
pub fn is_noise(volume: &dyn ReadAt) -> Result<bool> {
    const SAMPLE: usize = 64 << 10;
    if volume.len() < SAMPLE as u64 {
        return Ok(false);
    }
    let view = View::new(volume)?;
    let mut counts = [0u64; 256];
    for byte in view.head.iter().take(SAMPLE) {
        if let Some(count) = counts.get_mut(usize::from(*byte)) {
            *count += 1;
        }
    }
    let expected = SAMPLE as u64 / 256;
    let squares: u64 = counts.iter().map(|count| count.abs_diff(expected).pow(2)).sum();
    Ok((120..390).contains(&(squares / expected)))
}

/// How much of the start and of the end is read at once.
const HEAD: u64 = 68 * KIB;
const TAIL: u64 = 16 * KIB;

/// What of a structure is looked at.
const STRUCTURE: usize = 256;

/// A volume with its start and end in memory and the last small read elsewhere.
struct View<'a> {
    volume: &'a dyn ReadAt,
    head: Vec<u8>,
    tail: Vec<u8>,
    tail_at: u64,
    piece: Vec<u8>,
    piece_at: u64,
}

impl<'a> View<'a> {
    fn new(volume: &'a dyn ReadAt) -> Result<Self> {
        let len = volume.len();
        let read = |at: u64, size: u64| {
            let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
            volume.read_at(at, &mut bytes).map(|()| bytes)
        };
        let head = read(0, len.min(HEAD))?;
        let tail_at = len.saturating_sub(TAIL).max(len.min(HEAD));
        let tail = read(tail_at, len - tail_at)?;
        Ok(View { volume, head, tail, tail_at, piece: Vec::new(), piece_at: 0 })
    }

    /// Up to `size` bytes from `at` on: fewer at the end, none beyond it.
    fn bytes(&mut self, at: u64, size: usize) -> Result<&[u8]> {
        let size = self.volume.len().saturating_sub(at).min(size as u64);
        let size = usize::try_from(size).unwrap_or(0);
        if size == 0 {
            return Ok(&[]);
        }
        let within = |bytes: &[u8], start: u64| {
            let from = usize::try_from(at.checked_sub(start)?).ok()?;
            let to = from.checked_add(size).filter(|to| *to <= bytes.len())?;
            Some(from..to)
        };
        if let Some(range) = within(&self.head, 0) {
            return Ok(self.head.get(range).unwrap_or_default());
        }
        if let Some(range) = within(&self.tail, self.tail_at) {
            return Ok(self.tail.get(range).unwrap_or_default());
        }
        if within(&self.piece, self.piece_at).is_none() {
            self.piece.resize(size, 0);
            self.piece_at = at;
            self.volume.read_at(at, &mut self.piece)?;
        }
        let range = within(&self.piece, self.piece_at).unwrap_or_default();
        Ok(self.piece.get(range).unwrap_or_default())
    }

    fn bears(&mut self, row: &Row, mark: &Mark) -> Result<bool> {
        let base = match mark.base {
            Base::Start(base) => base,
            Base::End { multiple, back } => {
                let end = self.volume.len();
                let Some(base) = (end - end % multiple).checked_sub(back) else {
                    return Ok(false);
                };
                base
            }
        };
        let size = STRUCTURE.max(mark.at + mark.bytes.len());
        let bytes = self.bytes(base, size)?;
        let marked = bytes.get(mark.at..).is_some_and(|b| b.starts_with(mark.bytes));
        Ok(marked && (row.also)(&Structure { bytes }))
    }
}

/// What is not read but has the layout of FAT's boot sector: a jump, a name of eight
/// bytes, parameters. The name at byte 3 decides (libbde; libfsrefs).
fn boot_sector(view: &View<'_>) -> Option<&'static str> {
    let sector = view.head.get(..512)?;
    let s = Structure { bytes: sector };
    if [160, 424].iter().any(|at| BITLOCKER.contains(&s.bytes(*at))) {
        return Some("BitLocker");
    }
    match &s.bytes::<8>(3) {
        b"-FVE-FS-" => Some("BitLocker"),
        b"ReFS\0\0\0\0" => Some("ReFS"),
        _ => None,
    }
}

/// Whether a boot sector that looks like FAT's names something else: one of those
/// with a name of their own at byte 3, an encrypted volume, or JFS and HPFS of OS/2,
/// which come with a make-believe FAT boot sector (ms FAT, section 3.1; ms exFAT,
/// section 3.1; libbde, section 2; libfsrefs).
pub(super) fn names_another_than_fat(sector: &[u8; 512]) -> bool {
    let s = Structure { bytes: sector };
    [160, 424].iter().any(|at| BITLOCKER.contains(&s.bytes(*at)))
        || [*b"-FVE-FS-", *b"NTFS    ", *b"EXFAT   ", *b"ReFS\0\0\0\0"]
            .contains(&s.bytes(3))
        || [*b"JFS     ", *b"HPFS    "].contains(&s.bytes(54))
}
