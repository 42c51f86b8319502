//! The table of what is named: where each mark lies and what it is.
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

/// One thing that can be named.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) marks: &'static [Mark],
    /// What a structure must have beyond its mark.
    pub(super) also: fn(&Structure<'_>) -> bool,
}

/// Bytes that tell.
pub(super) struct Mark {
    /// Where the structure begins.
    pub(super) base: Base,
    /// Where in the structure the bytes lie.
    pub(super) at: usize,
    pub(super) bytes: &'static [u8],
}

#[derive(Clone, Copy)]
pub(super) enum Base {
    /// Bytes from the start of the volume.
    Start(u64),
    /// Bytes before the end, after rounding the end down to a multiple.
    End { multiple: u64, back: u64 },
}

/// The bytes of a structure from its base on; what is not there reads as zeros.
pub(super) struct Structure<'a> {
    pub(super) bytes: &'a [u8],
}

impl Structure<'_> {
    pub(super) fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
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

/// A sleeping Linux, which will go on with the volumes of the disk.
pub const HIBERNATION: &str = "Linux hibernation image";

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// All that is named but not read, except what `boot_sector` tells apart: `ReFS`
/// and BitLocker share one layout with NTFS, FAT and exFAT.
pub(super) static ROWS: &[Row] = &[
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
    // blkid bsd.c, sun.c (of x86, where the label is in sector 1), kernel
    // `affs_hardblocks.h`: disks within a partition.
    row(
        "BSD disklabel",
        &[mark(512, 0, b"\x57\x45\x56\x82"), mark(0, 64, b"\x57\x45\x56\x82")],
    ),
    row("Solaris disk label", &[mark(512, 12, b"\xEE\xDE\x0D\x60")]),
    row(
        "Amiga disk",
        &[mark(0, 0, b"RDSK"), mark(512, 0, b"RDSK"), mark(1024, 0, b"RDSK")],
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
    row("Linux swap of an old kind", &SWAP[0]),
    row(HIBERNATION, &SWAP[1]),
    row(HIBERNATION, &SWAP[2]),
    row(HIBERNATION, &SWAP[3]),
    row(HIBERNATION, &SWAP[4]),
    row(HIBERNATION, &[mark(0, 0, b"\xED\xC3\x02\xE9\x98\x56\xE5\x0C")]),
    // File systems.
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

static SWAP: [[Mark; 5]; 5] = [
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

/// BitLocker's identifiers, in the boot sector of a volume that keeps the look of
/// FAT32 (To Go) or of its own (libbde, section 2): of encrypted volumes, and of
/// those whose used space alone is encrypted.
pub(super) const BITLOCKER: [[u8; 16]; 2] = [
    *b"\x3B\xD6\x67\x49\x29\x2E\xD8\x4A\x83\x99\xF6\xA3\x39\xE3\xD0\x01",
    *b"\x3B\x4D\xA8\x92\x80\xDD\x0E\x4D\x9E\x4E\xB1\xE3\x28\x4E\xAE\xD8",
];
