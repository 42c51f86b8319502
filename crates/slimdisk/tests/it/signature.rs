//! Containers and file systems made by their own tools, named by blkid and by us.

use std::path::Path;

use slimdisk::storage::{HostFile, Meter, ReadAt};
use slimdisk::volume::identify;
use slimdisk::volume::signature::{disk_membership, names};

use crate::support::{Noise, Scratch, have, sh, sh_output};

/// Our name, blkid's TYPE, the size in MiB, the tool and how it makes one in `$v`
/// (`$d` is a folder with a file in it).
const MADE: &[(&str, &str, u32, &str, &str)] = &[
    ("xfs", "xfs", 310, "mkfs.xfs", "mkfs.xfs -q $v"),
    ("btrfs", "btrfs", 128, "mkfs.btrfs", "mkfs.btrfs -q $v"),
    ("swap", "swap", 64, "mkswap", "mkswap $v"),
    ("swap", "swap", 64, "mkswap", "mkswap -p 16384 $v"),
    ("swap", "swap", 64, "mkswap", "mkswap -p 65536 $v"),
    ("LUKS", "crypto_LUKS", 20, "cryptsetup", "luks luks1"),
    ("LUKS", "crypto_LUKS", 20, "cryptsetup", "luks luks2"),
    // Its second header alone: a wiped start does not make the rest free.
    (
        "LUKS",
        "crypto_LUKS",
        20,
        "cryptsetup",
        "luks luks2; dd if=/dev/zero of=$v bs=4096 count=1 conv=notrunc",
    ),
    ("f2fs", "f2fs", 64, "mkfs.f2fs", "mkfs.f2fs -q $v"),
    ("ReiserFS", "reiserfs", 64, "mkfs.reiserfs", "mkfs.reiserfs -q -ff $v"),
    ("JFS", "jfs", 16, "mkfs.jfs", "mkfs.jfs -q $v"),
    ("NILFS2", "nilfs2", 160, "mkfs.nilfs2", "mkfs.nilfs2 -q $v"),
    ("SquashFS", "squashfs", 0, "mksquashfs", "mksquashfs $d $v -noappend -quiet"),
    ("EROFS", "erofs", 0, "mkfs.erofs", "mkfs.erofs $v $d"),
    ("cramfs", "cramfs", 0, "mkfs.cramfs", "mkfs.cramfs $d $v"),
    ("ISO 9660", "iso9660", 0, "genisoimage", "genisoimage -quiet -o $v $d"),
    ("bcache", "bcache", 16, "make-bcache", "make-bcache -B $v"),
];

const LUKS: &str = "luks() { printf key >$d/key; cryptsetup -q luksFormat --type $1 \
    --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $v $d/key; }";

fn open(path: &Path) -> Meter<HostFile> {
    Meter::new(HostFile::open_read(path).unwrap())
}

fn blkid(path: &Path) -> String {
    let output = sh_output(&format!("blkid -p -o value -s TYPE {}", path.display()));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn what_others_make_is_named() {
    let test = "what_others_make_is_named";
    if !have(test, &["blkid"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let volume = scratch.path("v");
    for (name, blkid_name, mib, tool, script) in MADE {
        if !have(&format!("{test} ({name})"), &[tool]) {
            continue;
        }
        sh(&format!(
            "v={} d={}; {LUKS}; mkdir -p $d; echo hello >$d/file; rm -f $v; \
             truncate -s {mib}M $v; {{ {script}; }} >/dev/null 2>&1",
            volume.display(),
            scratch.path("d").display()
        ));
        let bytes = open(&volume);
        assert_eq!(identify(&bytes).unwrap().names(), [*name], "{script}");
        assert!(bytes.counts().bytes_read < 128 << 10, "{}", bytes.counts().bytes_read);
        assert_eq!(blkid(&volume), *blkid_name, "{script}");
    }
}

#[test]
fn lvm_physical_volumes_are_named() {
    let test = "lvm_physical_volumes_are_named";
    if !have(test, &["pvcreate", "losetup"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let volume = scratch.path("v");
    for sector in 0..4 {
        let made = sh_output(&format!(
            "v={}; rm -f $v; truncate -s 16M $v; loop=$(losetup -f --show $v); \
             trap 'losetup -d $loop' EXIT; pvcreate -q --driverloaded n --labelsector {sector} \
             --config 'devices{{use_devicesfile=0}} activation{{udev_sync=0}}' $loop",
            volume.display()
        ));
        if !made.status.success() {
            return crate::support::skip(test, "a loop device that pvcreate accepts");
        }
        assert_eq!(names(&open(&volume)).unwrap(), ["LVM2"]);
        assert_eq!(blkid(&volume), "LVM2_member");
    }
}

/// File systems that are read, not named: no signature of another may turn up.
#[test]
fn what_is_read_bears_no_foreign_signature() {
    let test = "what_is_read_bears_no_foreign_signature";
    if !have(
        test,
        &["mkfs.ntfs", "mke2fs", "mkfs.vfat", "mkfs.exfat", "mkfs.btrfs", "mkfs.f2fs"],
    ) {
        return;
    }
    let scratch = Scratch::new(test);
    let volume = scratch.path("v");
    for script in [
        "mkfs.ntfs -F -q -s 512 -p 0 -H 255 -S 63 $v",
        "mkfs.ntfs -F -q -c 65536 -L label -s 512 -p 2048 -H 255 -S 63 $v",
        "mke2fs -q -t ext2 -b 1024 $v",
        "mke2fs -q -t ext4 -b 4096 -d /usr/share/doc/util-linux $v",
        "mke2fs -q -t ext4 -b 1024 -O 64bit,metadata_csum,^resize_inode,meta_bg $v",
        "mkfs.vfat -F 12 -s 32 $v",
        "mkfs.exfat $v",
        "mkfs.btrfs -q --mixed $v",
        "truncate -s 64M $v; mkfs.f2fs -q $v",
        "truncate -s 128M $v; mkfs.btrfs -q $v",
        "mkfs.vfat -F 16 $v",
        "mkfs.vfat -F 32 -s 1 -n X $v",
        "mkfs.vfat -F 32 -S 2048 -s 1 $v",
    ] {
        sh(&format!(
            "v={}; rm -f $v; truncate -s 32M $v; {script} >/dev/null 2>&1",
            volume.display()
        ));
        assert_eq!(names(&open(&volume)).unwrap(), [""; 0], "{script}");
    }
}

type Patches<'a> = &'a [(i64, &'a [u8])];

/// What no tool here can make, put together so that blkid believes it.
#[test]
fn what_blkid_believes_is_named() {
    let test = "what_blkid_believes_is_named";
    if !have(test, &["blkid"]) {
        return;
    }
    let md1 = |at: u64| {
        let mut block = vec![0; 256];
        block[..8].copy_from_slice(b"\xFC\x4E\x2B\xA9\x01\0\0\0");
        block[144..152].copy_from_slice(&(at / 512).to_le_bytes());
        block
    };
    let (size, odd) = (64u64 << 20, (64u64 << 20) - 3 * 512);
    let end_1_0 = (odd & !4095) - 8192;
    let root_block = b"\x0C\xB1\xBA\0\0\0\0\0\x88\x13\0\0\0\0\0\0";
    let cases: &[(&str, &str, u64, Patches<'_>)] = &[
        ("Linux RAID", "linux_raid_member", size, &[(0, &md1(0))]),
        ("Linux RAID", "linux_raid_member", size, &[(4096, &md1(4096))]),
        (
            "Linux RAID",
            "linux_raid_member",
            odd,
            &[(end_1_0.cast_signed(), &md1(end_1_0))],
        ),
        (
            "Linux RAID",
            "linux_raid_member",
            odd,
            &[(
                ((odd & !65535) - 65536).cast_signed(),
                b"\xFC\x4E\x2B\xA9\0\0\0\0\x5A\0\0\0",
            )],
        ),
        ("DRBD", "drbd", size, &[(-4096 + 60, b"\x83\x74\x02\x6B")]),
        ("DRBD", "drbd", size, &[(-4096 + 60, b"\x83\x74\x02\x6D")]),
        (
            "Intel RAID",
            "isw_raid_member",
            size,
            &[(-1024, b"Intel Raid ISM Cfg Sig. 1.3.00")],
        ),
        ("DDF RAID", "ddf_raid_member", size, &[(-512, b"\xDE\x11\xDE\x11")]),
        ("BitLocker", "BitLocker", size, &[(0, b"\xEB\x52\x90-FVE-FS-")]),
        ("ReFS", "ReFS", size, &[(3, b"ReFS\0")]),
        ("UFS", "ufs", size, &[(8192 + 1372, b"\x54\x19\x01\0")]),
        ("UFS", "ufs", size, &[(65536 + 1372, b"\x19\x54\x01\x19")]),
        ("UFS", "ufs", size, &[(262_144 + 1372, b"\x19\x01\x54\x19")]),
        ("HFS", "hfs", size, &[(1024, b"BD"), (1024 + 20, b"\0\0\x10\0")]),
        (
            "VMware VMFS volume",
            "VMFS_volume_member",
            size,
            &[(1 << 20, b"\x0D\xD0\x01\xC0")],
        ),
        ("VMware VMFS", "VMFS", size, &[(2 << 20, b"\x5E\xF1\xAB\x2F")]),
        ("OCFS2", "ocfs2", size, &[(4096, b"OCFSV2")]),
        (
            "GFS2",
            "gfs2",
            size,
            &[(65536, b"\x01\x16\x19\x70"), (65536 + 24, b"\0\0\x07\x09\0\0\x07\x6C")],
        ),
        ("VDO", "vdo", size, &[(0, b"dmvdo001")]),
        ("device-mapper snapshot", "DM_snapshot_cow", size, &[(0, b"SnAp")]),
        ("Oracle ASM", "oracleasm", size, &[(32, b"ORCLDISK")]),
        ("ReiserFS", "reiser4", size, &[(65536, b"ReIsEr4")]),
        ("romfs", "romfs", size, &[(0, b"-rom1fs-")]),
        ("UDF", "", size, &[(32768, b"\0BEA01\x01"), (34816, b"\0NSR02\x01")]),
        (
            "HPFS",
            "hpfs",
            size,
            &[
                (8192, b"\x49\xE8\x95\xF9\xC5\xE9\x53\xFA\x02"),
                (8704, b"\x49\x18\x91\xF9\xC5\x29\x52\xFA"),
            ],
        ),
        ("Linux hibernation image", "swsuspend", size, &[(4086, b"S1SUSPEND")]),
        (
            "ZFS",
            "zfs_member",
            size,
            &[
                (132 << 10, root_block),
                (133 << 10, root_block),
                (134 << 10, root_block),
                (135 << 10, root_block),
            ],
        ),
        // Not known to blkid, or only whole.
        ("ZFS", "", size, &[(16384, b"\x01\x01\0\0\0\0\0\0\0\0\0\x01")]),
        ("APFS", "", size, &[(32, b"NXSB")]),
        ("Windows storage pool", "", size, &[(0, b"SPACEDB ")]),
        ("Windows dynamic disk", "", size, &[(3072, b"PRIVHEAD")]),
        ("Windows dynamic disk", "", size, &[(-512, b"PRIVHEAD")]),
    ];
    let scratch = Scratch::new(test);
    for (name, blkid_name, len, patches) in cases {
        let mut bytes = vec![0; *len as usize];
        for (at, patch) in *patches {
            let base = if *at < 0 { *len } else { 0 };
            let at = base.checked_add_signed(*at).unwrap() as usize;
            bytes[at..at + patch.len()].copy_from_slice(patch);
        }
        assert_eq!(names(&bytes).unwrap(), [*name], "{patches:?}");
        let path = scratch.path("v");
        std::fs::write(&path, &bytes).unwrap();
        let found = blkid(&path);
        assert_eq!(found, *blkid_name, "{name}");
    }
}

#[test]
fn a_boot_sector_is_of_one_file_system() {
    let test = "a_boot_sector_is_of_one_file_system";
    if !have(test, &["mkfs.vfat"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let path = scratch.path("v");
    sh(&format!(
        "v={}; truncate -s 64M $v; mkfs.vfat -F 32 $v >/dev/null",
        path.display()
    ));
    let bytes = std::fs::read(&path).unwrap();
    let named = |changes: &[(usize, &[u8])]| {
        let mut changed = bytes.clone();
        for (at, with) in changes {
            changed[*at..at + with.len()].copy_from_slice(with);
        }
        format!("{:?}", identify(&changed).unwrap())
    };
    let to_go = b"\x3B\xD6\x67\x49\x29\x2E\xD8\x4A\x83\x99\xF6\xA3\x39\xE3\xD0\x01";
    assert_eq!(named(&[]), r#"Known("fat")"#);
    assert_eq!(named(&[(510, &[0, 0])]), r#"Known("fat")"#);
    assert_eq!(named(&[(510, &[0, 0]), (82, b"TAF")]), "Nothing");
    assert_eq!(named(&[(3, b"NTFS    ")]), r#"Known("ntfs")"#);
    assert_eq!(named(&[(3, b"EXFAT   ")]), r#"Known("exfat")"#);
    assert_eq!(named(&[(3, b"ReFS\0\0\0\0")]), r#"Foreign("ReFS")"#);
    assert_eq!(named(&[(3, b"-FVE-FS-")]), r#"Foreign("BitLocker")"#);
    assert_eq!(named(&[(424, to_go)]), r#"Foreign("BitLocker")"#);
    assert_eq!(named(&[(54, b"JFS     ")]), "Nothing");
    assert_eq!(named(&[(1080, &[0x53, 0xEF])]), r#"Ambiguous(["ext", "fat"])"#);
}

#[test]
fn random_and_short_bytes_are_nothing() {
    let mut noise = Noise::new(9);
    for round in 0..500 {
        let bytes = noise.bytes(300_000 + round);
        assert_eq!(names(&bytes).unwrap(), [""; 0]);
    }
    for len in (0..3000).chain((1..300).map(|n| n * 997)) {
        assert_eq!(names(&vec![0; len]).unwrap(), [""; 0]);
    }
}

#[test]
fn a_partitioned_disk_can_be_a_member_of_a_raid() {
    let test = "a_partitioned_disk_can_be_a_member_of_a_raid";
    if !have(test, &["sfdisk"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let path = scratch.path("v");
    sh(&format!("truncate -s 8M {0}; echo ,4M | sfdisk -q {0}", path.display()));
    let mut disk = std::fs::read(path).unwrap();
    assert_eq!(disk_membership(&disk).unwrap(), None);
    let at = disk.len() - 8192;
    disk[at..at + 4].copy_from_slice(b"\xFC\x4E\x2B\xA9");
    assert_eq!(disk_membership(&disk).unwrap(), Some("Linux RAID"));
}

/// A disk of many TiB costs no more than a small one.
#[test]
fn huge_volumes_cost_little() {
    struct Zeros(u64);
    impl ReadAt for Zeros {
        fn len(&self) -> u64 {
            self.0
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> slimdisk::Result<()> {
            assert!(offset + buf.len() as u64 <= self.0);
            buf.fill(0);
            Ok(())
        }
    }
    for len in [64 << 40, u64::MAX - 1, 70 << 10, (84 << 10) + 1] {
        let volume = Meter::new(Zeros(len));
        assert_eq!(names(&volume).unwrap(), [""; 0]);
        assert!(volume.counts().bytes_read < 128 << 10, "{}", volume.counts().bytes_read);
    }
}
