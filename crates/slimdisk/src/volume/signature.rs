//! Signatures of what is named but never read: containers and other file systems.
//!
//! A file system's free map counts only if nothing else on the volume claims it:
//! an ext superblock beneath a LUKS header is a leftover, and one leg of a RAID
//! looks like a plain file system from the front. So every row here errs towards
//! matching: its mark is long enough not to turn up in random bytes (32 bits or
//! more, short ones with a further test), and nothing beyond that is asked, for a
//! damaged container is still somebody's data.
//!
//! Places and marks are facts learnt from these sources, named by the rows:
//!
//! - kernel: the headers and `Documentation/filesystems` of Linux 6;
//! - blkid: the probes of libblkid, util-linux 2.40 (read, not copied);
//! - luks: LUKS1 on-disk format 1.2.3, LUKS2 on-disk format 1.1.2;
//! - libbde, libfvde, libfsrefs: the format documents of the libyal projects;
//! - apple: Apple TN1150, Apple File System Reference;
//! - ms: Microsoft's specifications of FAT (1.03) and exFAT;
//! - zfs: ZFS On-Disk Specification, chapter 1, and `zio_checksum.h` of its successor.

use crate::error::Result;
use crate::storage::ReadAt;

/// One thing that can be named.
struct Row {
    name: &'static str,
    marks: &'static [Mark],
    /// What a structure must have beyond its mark.
    also: fn(&Structure<'_>) -> bool,
}

/// Bytes that tell.
struct Mark {
    /// Where the structure begins.
    base: Base,
    /// Where in the structure the bytes lie.
    at: usize,
    bytes: &'static [u8],
}

#[derive(Clone, Copy)]
enum Base {
    /// Bytes from the start of the volume.
    Start(u64),
    /// Bytes before the end, after rounding the end down to a multiple.
    End { multiple: u64, back: u64 },
}

/// The bytes of a structure from its base on; what is not there reads as zeros.
struct Structure<'a> {
    bytes: &'a [u8],
}

impl Structure<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let found = self.bytes.get(at..at + N).and_then(|bytes| bytes.try_into().ok());
        found.unwrap_or([0; N])
    }

    fn le16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }

    fn le32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }
}

const fn mark(base: u64, at: usize, bytes: &'static [u8]) -> Mark {
    Mark { base: Base::Start(base), at, bytes }
}

const fn tail(multiple: u64, back: u64, at: usize, bytes: &'static [u8]) -> Mark {
    Mark { base: Base::End { multiple, back }, at, bytes }
}

const fn row(name: &'static str, marks: &'static [Mark]) -> Row {
    Row { name, marks, also: |_| true }
}

const fn row_if(
    name: &'static str,
    marks: &'static [Mark],
    also: fn(&Structure<'_>) -> bool,
) -> Row {
    Row { name, marks, also }
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// All that is named but not read, except what [`boot_sector`] tells apart: `ReFS`
/// and BitLocker share one layout with NTFS, FAT and exFAT.
static ROWS: &[Row] = &[
    // luks: the header, and the second one of LUKS2 at its nine possible places.
    row(
        "LUKS",
        &[
            mark(0, 0, b"LUKS\xBA\xBE"),
            mark(0x4000, 0, b"SKUL\xBA\xBE"),
            mark(0x8000, 0, b"SKUL\xBA\xBE"),
            mark(0x1_0000, 0, b"SKUL\xBA\xBE"),
            mark(0x2_0000, 0, b"SKUL\xBA\xBE"),
            mark(0x4_0000, 0, b"SKUL\xBA\xBE"),
            mark(0x8_0000, 0, b"SKUL\xBA\xBE"),
            mark(0x10_0000, 0, b"SKUL\xBA\xBE"),
            mark(0x20_0000, 0, b"SKUL\xBA\xBE"),
            mark(0x40_0000, 0, b"SKUL\xBA\xBE"),
        ],
    ),
    // blkid lvm.c: a label in one of the first four sectors.
    row(
        "LVM2",
        &[
            mark(0, 0, b"LABELONE"),
            mark(512, 0, b"LABELONE"),
            mark(1024, 0, b"LABELONE"),
            mark(1536, 0, b"LABELONE"),
        ],
    ),
    // kernel md_p.h: 1.1, 1.2, 1.0, and 0.90 in either byte order.
    row(
        "Linux RAID",
        &[
            mark(0, 0, b"\xFC\x4E\x2B\xA9"),
            mark(4096, 0, b"\xFC\x4E\x2B\xA9"),
            tail(4096, 8192, 0, b"\xFC\x4E\x2B\xA9"),
            tail(65536, 65536, 0, b"\xFC\x4E\x2B\xA9"),
            tail(65536, 65536, 0, b"\xA9\x2B\x4E\xFC"),
        ],
    ),
    // blkid ddf_raid.c, isw_raid.c: firmware RAID, at the end of the disk.
    row(
        "DDF RAID",
        &[
            tail(512, 512, 0, b"\xDE\x11\xDE\x11"),
            tail(512, 512, 0, b"\x11\xDE\x11\xDE"),
            tail(512, 257 * 512, 0, b"\xDE\x11\xDE\x11"),
            tail(512, 257 * 512, 0, b"\x11\xDE\x11\xDE"),
        ],
    ),
    row("Intel RAID", &[tail(512, 1024, 0, b"Intel Raid ISM Cfg Sig. ")]),
    // blkid drbd.c: internal metadata of 8.x (also marked unclean) and 9.
    row(
        "DRBD",
        &[
            tail(1, 4096, 60, b"\x83\x74\x02\x6B"),
            tail(1, 4096, 60, b"\x83\x74\x02\x6C"),
            tail(1, 4096, 60, b"\x83\x74\x02\x6D"),
            tail(4096, 4096, 60, b"\x83\x74\x02\x6B"),
            tail(4096, 4096, 60, b"\x83\x74\x02\x6C"),
            tail(4096, 4096, 60, b"\x83\x74\x02\x6D"),
        ],
    ),
    // kernel bcache_ondisk.h; blkid bcache.c.
    row(
        "bcache",
        &[mark(
            4096,
            24,
            b"\xC6\x85\x73\xF6\x4E\x1A\x45\xCA\x82\x65\xF5\x7F\x48\xBA\x6D\x81",
        )],
    ),
    row(
        "bcachefs",
        &[mark(
            4096,
            24,
            b"\xC6\x85\x73\xF6\x66\xCE\x90\xA9\xD9\x6A\x60\xCF\x80\x3D\xF7\xEF",
        )],
    ),
    // blkid stratis.c, vdo.c, lvm.c (snapshot store, verity hashes), ocfs.c.
    row(
        "Stratis",
        &[
            mark(512, 4, b"!Stra0tis\x86\xFF\x02^\x41rh"),
            mark(4608, 4, b"!Stra0tis\x86\xFF\x02^\x41rh"),
        ],
    ),
    row("VDO", &[mark(0, 0, b"dmvdo001")]),
    row("device-mapper snapshot", &[mark(0, 0, b"SnAp")]),
    row("dm-verity", &[mark(0, 0, b"verity\0\0")]),
    row("Oracle ASM", &[mark(0, 32, b"ORCLDISK")]),
    row("Ceph BlueStore", &[mark(0, 0, b"bluestore block device")]),
    // zfs: the name-value list of the first label (encoding XDR, either byte order
    // of its writer, version 0, unique names), and the mark in the checksum at the
    // end of that list in each of the four labels.
    row(
        "ZFS",
        &[
            mark(16 * KIB, 0, b"\x01\x01\0\0\0\0\0\0\0\0\0\x01"),
            mark(16 * KIB, 0, b"\x01\0\0\0\0\0\0\0\0\0\0\x01"),
            mark(128 * KIB - 40, 0, b"\x11\x7A\x0C\xB1\x7A\xDA\x10\x02"),
            mark(128 * KIB - 40, 0, b"\x02\x10\xDA\x7A\xB1\x0C\x7A\x11"),
            mark(384 * KIB - 40, 0, b"\x11\x7A\x0C\xB1\x7A\xDA\x10\x02"),
            mark(384 * KIB - 40, 0, b"\x02\x10\xDA\x7A\xB1\x0C\x7A\x11"),
            // The oldest root blocks: transaction 4 is the first of a new pool.
            mark(132 * KIB, 0, b"\x0C\xB1\xBA\0\0\0\0\0"),
            mark(132 * KIB, 0, b"\0\0\0\0\0\xBA\xB1\x0C"),
            mark(144 * KIB, 0, b"\x0C\xB1\xBA\0\0\0\0\0"),
            mark(144 * KIB, 0, b"\0\0\0\0\0\xBA\xB1\x0C"),
        ],
    ),
    // Windows: storage pools (the first structure of a pool's partition) and dynamic
    // disks (kernel block/partitions/ldm.h: sector 6, and two copies in the last MiB).
    row("Windows storage pool", &[mark(0, 0, b"SPACEDB "), mark(4096, 0, b"SPACEDB ")]),
    row(
        "Windows dynamic disk",
        &[
            mark(6 * 512, 0, b"PRIVHEAD"),
            mark(1856 * 512, 0, b"PRIVHEAD"),
            mark(2047 * 512, 0, b"PRIVHEAD"),
            tail(512, 192 * 512, 0, b"PRIVHEAD"),
            tail(512, 512, 0, b"PRIVHEAD"),
        ],
    ),
    // libfvde: the physical volume header, version 1.
    row_if("Apple CoreStorage", &[mark(0, 88, b"CS")], |s| {
        s.le16(8) == 1 && s.le32(90) == 1
    }),
    // blkid vmfs.c.
    row("VMware VMFS volume", &[mark(MIB, 0, b"\x0D\xD0\x01\xC0")]),
    row("VMware VMFS", &[mark(2 * MIB, 0, b"\x5E\xF1\xAB\x2F")]),
    // kernel swap.h: at the end of the first page, of 4 to 64 KiB; also what
    // hibernation puts in its place (blkid swap.c).
    row("Linux swap", &SWAP[0]),
    row("Linux swap", &SWAP[1]),
    row("Linux hibernation image", &SWAP[2]),
    row("Linux hibernation image", &SWAP[3]),
    row("Linux hibernation image", &SWAP[4]),
    row("Linux hibernation image", &SWAP[5]),
    row("Linux hibernation image", &[mark(0, 0, b"\xED\xC3\x02\xE9\x98\x56\xE5\x0C")]),
    // File systems.
    row("XFS", &[mark(0, 0, b"XFSB")]),
    row("Btrfs", &[mark(64 * KIB, 64, b"_BHRfS_M")]),
    // apple: HFS has its drAlBlkSiz a multiple of 512, and may be a wrapper around HFS+.
    row_if("HFS", &[mark(1024, 0, b"BD")], |s| {
        let size = u32::from_be_bytes(s.bytes(20));
        size != 0 && size.is_multiple_of(512)
    }),
    row("APFS", &[mark(0, 32, b"NXSB")]),
    // blkid ufs.c: UFS1 (and its variants) and UFS2 in either byte order, at the four
    // places where boot code leaves room for it.
    row("UFS", &UFS[0]),
    row("UFS", &UFS[1]),
    row("UFS", &UFS[2]),
    row("UFS", &UFS[3]),
    row("JFS", &[mark(32 * KIB, 0, b"JFS1")]),
    row(
        "ReiserFS",
        &[
            mark(64 * KIB, 52, b"ReIsEr2Fs"),
            mark(64 * KIB, 52, b"ReIsEr3Fs"),
            mark(64 * KIB, 52, b"ReIsErFs"),
            mark(8 * KIB, 52, b"ReIsErFs"),
            mark(8 * KIB, 20, b"ReIsErFs"),
            mark(64 * KIB, 0, b"ReIsEr4"),
        ],
    ),
    // kernel nilfs2_ondisk.h: a mark of 16 bits, so with a revision (2.x) and a size
    // that exist; the second superblock lies near the end.
    row_if(
        "NILFS2",
        &[mark(1024, 6, b"\x34\x34"), tail(512, 4096, 6, b"\x34\x34")],
        |s| s.le32(0) == 2 && (64..=1024).contains(&s.le16(8)),
    ),
    row("OCFS2", &OCFS2),
    row("GFS2", &[mark(64 * KIB, 0, b"\x01\x16\x19\x70")]),
    row("EROFS", &[mark(1024, 0, b"\xE2\xE1\xF5\xE0")]),
    row("SquashFS", &[mark(0, 0, b"hsqs"), mark(0, 0, b"sqsh")]),
    row("cramfs", &[mark(0, 0, b"\x45\x3D\xCD\x28"), mark(0, 0, b"\x28\xCD\x3D\x45")]),
    row("romfs", &[mark(0, 0, b"-rom1fs-")]),
    // ECMA-119, 8.1.2; ECMA-167, 2/9.1 and 3/9.1: volume descriptors from sector 16.
    row("ISO 9660", &[mark(32 * KIB, 1, b"CD001")]),
    row(
        "UDF",
        &[
            mark(32 * KIB, 1, b"BEA01"),
            mark(32 * KIB, 1, b"NSR02"),
            mark(32 * KIB, 1, b"NSR03"),
            mark(34 * KIB, 1, b"NSR02"),
            mark(34 * KIB, 1, b"NSR03"),
            mark(36 * KIB, 1, b"NSR02"),
            mark(36 * KIB, 1, b"NSR03"),
        ],
    ),
    row("HPFS", &[mark(8 * KIB, 0, b"\x49\xE8\x95\xF9")]),
    row("BeFS", &[mark(512, 32, b"1SFB"), mark(0, 32, b"1SFB"), mark(0, 32, b"BFS1")]),
];

static SWAP: [[Mark; 5]; 6] = [
    at_page_end(b"SWAPSPACE2"),
    at_page_end(b"SWAP-SPACE"),
    at_page_end(b"S1SUSPEND"),
    at_page_end(b"S2SUSPEND"),
    at_page_end(b"ULSUSPEND"),
    at_page_end(b"LINHIB0001"),
];

const fn at_page_end(bytes: &'static [u8]) -> [Mark; 5] {
    [
        mark(4 * KIB - 10, 0, bytes),
        mark(8 * KIB - 10, 0, bytes),
        mark(16 * KIB - 10, 0, bytes),
        mark(32 * KIB - 10, 0, bytes),
        mark(64 * KIB - 10, 0, bytes),
    ]
}

static UFS: [[Mark; 12]; 4] =
    [ufs_at(0), ufs_at(8 * KIB), ufs_at(64 * KIB), ufs_at(256 * KIB)];

const fn ufs_at(base: u64) -> [Mark; 12] {
    [
        mark(base, 1372, b"\x54\x19\x01\0"),
        mark(base, 1372, b"\0\x01\x19\x54"),
        mark(base, 1372, b"\x19\x01\x54\x19"),
        mark(base, 1372, b"\x19\x54\x01\x19"),
        mark(base, 1372, b"\x12\x56\x19\0"),
        mark(base, 1372, b"\0\x19\x56\x12"),
        mark(base, 1372, b"\x14\x50\x09\0"),
        mark(base, 1372, b"\0\x09\x50\x14"),
        mark(base, 1372, b"\x95\x21\x61\0"),
        mark(base, 1372, b"\0\x61\x21\x95"),
        mark(base, 1372, b"\x94\x19\x23\x05"),
        mark(base, 1372, b"\x05\x23\x19\x94"),
    ]
}

static OCFS2: [Mark; 4] = [
    mark(KIB, 0, b"OCFSV2"),
    mark(2 * KIB, 0, b"OCFSV2"),
    mark(4 * KIB, 0, b"OCFSV2"),
    mark(8 * KIB, 0, b"OCFSV2"),
];

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

/// BitLocker's identifiers, in the boot sector of a volume that keeps the look of
/// FAT32 (To Go) or of its own (libbde, section 2): of encrypted volumes, and of
/// those whose used space alone is encrypted.
const BITLOCKER: [[u8; 16]; 2] = [
    *b"\x3B\xD6\x67\x49\x29\x2E\xD8\x4A\x83\x99\xF6\xA3\x39\xE3\xD0\x01",
    *b"\x3B\x4D\xA8\x92\x80\xDD\x0E\x4D\x9E\x4E\xB1\xE3\x28\x4E\xAE\xD8",
];

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
