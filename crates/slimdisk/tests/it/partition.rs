//! Partition tables made by sfdisk, sgdisk and mkfs.fat, read by us and by them.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use slimdisk::partition::{PartitionTable, Scheme, read_table, read_table_with_sectors};
use slimdisk::storage::{Meter, ReadAt};

use crate::support::{Noise, Scratch, have, samples, sh, skip};

const MIB: usize = 1 << 20;

/// Makes a disk of `mib` MiB with a script that finds it as `$disk`.
fn disk(scratch: &Scratch, mib: u32, script: &str) -> Vec<u8> {
    let path = scratch.path("disk");
    sh(&format!(
        "disk={}; rm -f $disk; truncate -s {mib}M $disk; {script}",
        path.display()
    ));
    std::fs::read(path).unwrap()
}

fn table(disk: &Vec<u8>) -> PartitionTable {
    let table = read_table(disk).unwrap();
    check(&table, ReadAt::len(disk));
    table
}

/// What holds for every trusted table.
fn check(table: &PartitionTable, len: u64) {
    if table.untrusted.is_none() {
        let mut reached = 1;
        for partition in &table.partitions {
            let range = &partition.range;
            assert!(
                reached <= range.start && range.start < range.end && range.end <= len
            );
            reached = range.end;
        }
    }
}

fn trusted(disk: &Vec<u8>) -> PartitionTable {
    let table = table(disk);
    assert_eq!(table.untrusted, None);
    table
}

fn reason(disk: &Vec<u8>) -> String {
    table(disk).untrusted.expect("the table should not be trusted")
}

/// Numbers and byte ranges as sfdisk sees them, extended partitions left out.
fn sfdisk(path: &Path) -> Vec<(u32, Range<u64>)> {
    let json = sh(&format!("sfdisk -J {}", path.display()));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let json = &json["partitiontable"];
    let mut found: Vec<_> = json["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| !["5", "f", "85"].contains(&p["type"].as_str().unwrap()))
        .map(|p| {
            let node = p["node"].as_str().unwrap();
            let start = p["start"].as_u64().unwrap() * 512;
            let number = node.strip_prefix(path.to_str().unwrap()).unwrap();
            let size = p["size"].as_u64().unwrap() * 512;
            (number.parse().unwrap(), start..start + size)
        })
        .collect();
    found.sort_by_key(|(_, range)| range.start);
    found
}

fn ours(table: &PartitionTable) -> Vec<(u32, Range<u64>)> {
    table.partitions.iter().map(|p| (p.number, p.range.clone())).collect()
}

const MBR: &str = "sfdisk -q $disk <<END
label: dos
size=4M, type=7, bootable
size=8M, type=83
size=20M, type=f
size=3M, type=42
size=2M, type=83
size=3M, type=82
size=1M, type=b
END";

const GPT: &str = "sgdisk -n 1:0:+4M -t 1:EF00 -c 1:boot -n 2:0:+8M -t 2:0700 \
    -c 2:'Größe ☃' -n 5:0:+3M -t 5:4200 -n 3:50M:0 -t 3:8300 $disk >/dev/null";

#[test]
fn mbr_with_logical_partitions() {
    if !have("mbr_with_logical_partitions", &["sfdisk"]) {
        return;
    }
    let scratch = Scratch::new("mbr_with_logical_partitions");
    let disk = disk(&scratch, 64, MBR);
    let table = trusted(&disk);
    assert_eq!((table.scheme, table.sector_size), (Scheme::Mbr, 512));
    assert_eq!(ours(&table), sfdisk(&scratch.path("disk")));
    assert_eq!(table.partitions.len(), 6);
    let kind = |number| {
        let found = table.partitions.iter().find(|p| p.number == number).unwrap();
        (found.kind.as_str(), found.opaque.is_some())
    };
    assert_eq!(kind(1), ("NTFS/exFAT/HPFS", false));
    assert_eq!(kind(4), ("Windows dynamic disk (LDM)", true));
    assert_eq!(kind(6), ("Linux swap/Solaris", false));
}

/// Tables written by Windows, and disks that have none.
#[test]
fn disks_of_other_programs() {
    let test = "disks_of_other_programs";
    let Some(samples) = samples() else {
        return skip(test, "the folder of sample images");
    };
    if !have(test, &["zstd", "qemu-img", "sfdisk"]) {
        return;
    }
    let scratch = Scratch::new(test);
    for (sample, tabled) in [
        ("ntfs-dynamic.vhd", true),
        ("fat-parent.vhd", true),
        ("ntfs-parent.vhdx", true),
        ("ext2.vhd", false),
    ] {
        let (image, path) = (scratch.path(sample), scratch.path("disk"));
        sh(&format!(
            "zstd -qdf {}/{sample}.zst -o {1}; qemu-img convert -O raw {1} {2}",
            samples.display(),
            image.display(),
            path.display()
        ));
        let table = trusted(&std::fs::read(&path).unwrap());
        if tabled {
            assert_eq!(table.scheme, Scheme::Mbr, "{sample}");
            assert_eq!(ours(&table), sfdisk(&path), "{sample}");
        } else {
            assert_eq!(
                (table.scheme, table.partitions),
                (Scheme::Bare, vec![]),
                "{sample}"
            );
        }
    }
}

#[test]
fn mbr_chain_damage_is_not_trusted() {
    if !have("mbr_chain_damage_is_not_trusted", &["sfdisk"]) {
        return;
    }
    let scratch = Scratch::new("mbr_chain_damage_is_not_trusted");
    let good = disk(&scratch, 64, MBR);
    let word = |disk: &[u8], at: usize| {
        u32::from_le_bytes(disk[at..at + 4].try_into().unwrap()) as usize
    };
    let set = |disk: &mut [u8], at: usize, value: usize| {
        disk[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
    };
    let entry = |sector: usize, slot: usize| sector * 512 + 446 + 16 * slot;
    let first = word(&good, entry(0, 2) + 8);
    let second = first + word(&good, entry(first, 1) + 8);
    let third = first + word(&good, entry(second, 1) + 8);
    type Damage<'a> = &'a dyn Fn(&mut Vec<u8>);
    let cases: &[(&str, Damage<'_>)] = &[
        ("reached twice", &|d| {
            set(d, entry(third, 1) + 4, 5);
            set(d, entry(third, 1) + 8, second - first);
            set(d, entry(third, 1) + 12, 2048);
        }),
        ("no signature", &|d| d[second * 512 + 510] = 0),
        ("makes no sense", &|d| d[entry(second, 0)] = 1),
        ("outside the extended", &|d| set(d, entry(second, 1) + 8, 1 << 20)),
        ("partition outside", &|d| set(d, entry(second, 0) + 12, 1 << 16)),
        ("where none belongs", &|d| {
            let logical = d[entry(first, 0)..][..16].to_vec();
            d[entry(first, 2)..][..16].copy_from_slice(&logical);
        }),
        // Logical 6 grows by a sector into the record of logical 7.
        ("of the partition table itself", &|d| {
            let size = third - second - word(d, entry(second, 0) + 8) + 1;
            set(d, entry(second, 0) + 12, size);
        }),
        ("Partitions 1 and 2 overlap", &|d| {
            let start = word(d, entry(0, 1) + 8);
            set(d, entry(0, 1) + 8, start - 1);
        }),
        ("extended partition overlaps", &|d| {
            let size = word(d, entry(0, 1) + 12);
            set(d, entry(0, 1) + 12, size + 1);
        }),
        ("partition table itself", &|d| set(d, entry(0, 0) + 8, 0)),
        ("passes the end", &|d| set(d, entry(0, 3) + 12, 1 << 20)),
        ("Entry 1", &|d| d[entry(0, 0)] = 0x41),
        ("Entry 1", &|d| d[entry(0, 0) + 4] = 0),
        ("more than one extended", &|d| d[entry(0, 1) + 4] = 5),
    ];
    for (expected, damage) in cases {
        let mut disk = good.clone();
        damage(&mut disk);
        let reason = reason(&disk);
        assert!(reason.contains(expected), "{expected}: {reason}");
    }
    // A link without a size is no link.
    let mut hollow = good.clone();
    hollow[entry(third, 1) + 4] = 5;
    trusted(&hollow);
    let mut cut = good;
    cut.truncate(35 * MIB);
    assert!(reason(&cut).contains("passes the end"));
}

/// A chain of records without end, each naming the next.
#[test]
fn long_chains_end() {
    let mut disk = vec![0; 4 * MIB];
    let mut record = |sector: usize, slot: usize, kind: u8, start: u32, size: u32| {
        let at = sector * 512 + 446 + 16 * slot;
        disk[at + 4] = kind;
        disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&size.to_le_bytes());
        disk[sector * 512 + 510..][..2].copy_from_slice(&[0x55, 0xAA]);
    };
    record(0, 0, 5, 1, 8000);
    for i in 1..4000 {
        record(i, 1, 5, i as u32, 1);
    }
    assert!(reason(&disk).contains("257th"));
}

#[test]
fn gpt_with_names() {
    if !have("gpt_with_names", &["sgdisk", "sfdisk"]) {
        return;
    }
    let scratch = Scratch::new("gpt_with_names");
    let disk = disk(&scratch, 64, GPT);
    let table = trusted(&disk);
    assert_eq!((table.scheme, table.sector_size), (Scheme::Gpt, 512));
    assert_eq!(table.notes, Vec::<String>::new());
    assert_eq!(ours(&table), sfdisk(&scratch.path("disk")));
    let described: Vec<_> = table
        .partitions
        .iter()
        .map(|p| (p.number, p.kind.as_str(), p.name.as_deref(), p.opaque.is_some()))
        .collect();
    assert_eq!(
        described,
        [
            (1, "EFI system", Some("boot"), false),
            (2, "basic data", Some("Größe ☃"), false),
            (5, "Windows dynamic disk (LDM)", None, true),
            (3, "Linux", None, false),
        ]
    );
}

#[test]
fn gpt_with_4096_byte_sectors() {
    if !have("gpt_with_4096_byte_sectors", &["fdisk"]) {
        return;
    }
    let scratch = Scratch::new("gpt_with_4096_byte_sectors");
    let script = "printf 'g\\nn\\n\\n\\n+8M\\nn\\n\\n\\n+4M\\nw\\n' \\
        | fdisk -b 4096 $disk >/dev/null 2>&1";
    let disk = disk(&scratch, 64, script);
    let listed = sh(&format!(
        "fdisk -b 4096 -l -o start,sectors {} | sed '1,/^ *Start/d'",
        scratch.path("disk").display()
    ));
    let mut numbers = listed.split_whitespace().map(|n| n.parse::<u64>().unwrap() * 4096);
    let mut expected = Vec::new();
    while let (Some(start), Some(size)) = (numbers.next(), numbers.next()) {
        expected.push((expected.len() as u32 + 1, start..start + size));
    }
    assert_eq!(expected.len(), 2);
    let table = trusted(&disk);
    assert_eq!((table.scheme, table.sector_size), (Scheme::Gpt, 4096));
    assert_eq!(ours(&table), expected);
    let declared = read_table_with_sectors(&disk, Some(4096)).unwrap();
    assert_eq!(declared, table);
    let mut both = disk.clone();
    both[512..520].copy_from_slice(b"EFI PART");
    assert!(reason(&both).contains("another for 4096 byte sectors"));
    let wrong = read_table_with_sectors(&disk, Some(512)).unwrap();
    assert!(wrong.untrusted.is_some());
    assert!(read_table_with_sectors(&disk, Some(520)).unwrap().untrusted.is_some());
}

#[test]
fn gpt_damage() {
    if !have("gpt_damage", &["sgdisk"]) {
        return;
    }
    let scratch = Scratch::new("gpt_damage");
    let good = disk(&scratch, 64, GPT);
    let expected = trusted(&good).partitions;
    let last = good.len() - 512;
    // Header, entries, and the backup's, each with a byte changed.
    for (at, word) in [
        (512 + 30, "primary header has a wrong checksum"),
        (1024 + 40, "primary header has entries with a wrong checksum"),
        (last + 30, "backup header has a wrong checksum"),
        (last - 33 * 512 + 512 + 40, "backup header has entries with a wrong checksum"),
        (512, "primary header is missing"),
    ] {
        let mut disk = good.clone();
        disk[at] ^= 1;
        let table = trusted(&disk);
        assert_eq!(table.partitions, expected);
        assert!(table.notes[0].contains(word), "{:?}", table.notes);
    }
    let mut both = good.clone();
    both[512 + 30] ^= 1;
    both[last + 30] ^= 1;
    assert!(reason(&both).contains("says that there is a GPT"));
    assert_eq!(table(&both).partitions, []);

    let mut unprotected = good.clone();
    unprotected[..512].fill(0);
    assert!(reason(&unprotected).contains("protective MBR is missing"));
    assert_eq!(table(&unprotected).scheme, Scheme::Bare);

    // The type EE entry turned into an ordinary one.
    let mut ordinary = good.clone();
    ordinary[446 + 4] = 0x83;
    ordinary[446 + 12..446 + 16].copy_from_slice(&2048u32.to_le_bytes());
    assert!(reason(&ordinary).contains("both an ordinary MBR and a GPT"));
    ordinary[512..1024].fill(0);
    let table = trusted(&ordinary);
    assert_eq!((table.scheme, table.partitions.len()), (Scheme::Mbr, 1));
    assert!(table.notes[0].contains("earlier GPT"));

    let mut moved = good.clone();
    moved[446 + 8] = 2;
    assert!(reason(&moved).contains("sector 1"));

    // Extended: the backup stays where it was. Cut: all numbers are wrong.
    let mut longer = good.clone();
    longer.resize(65 * MIB, 0);
    let found = trusted(&longer);
    assert_eq!(found.partitions, expected);
    assert!(found.notes[0].contains("has been extended"), "{:?}", found.notes);
    // The header in the middle of the disk and its entries are the table's own.
    let backup = 64 * MIB as u64 - 33 * 512..64 * MIB as u64;
    assert!(found.reserved.covers(&backup), "{:?}", found.reserved);
    let mut shorter = good;
    shorter.truncate(60 * MIB);
    assert!(reason(&shorter).contains("pass the end of the disk"));
}

#[test]
fn gpt_copies_that_differ() {
    if !have("gpt_copies_that_differ", &["sgdisk"]) {
        return;
    }
    let scratch = Scratch::new("gpt_copies_that_differ");
    let old = disk(&scratch, 64, GPT);
    sh(&format!("sgdisk -d 2 {} >/dev/null", scratch.path("disk").display()));
    let mut new = std::fs::read(scratch.path("disk")).unwrap();
    trusted(&new);
    let tail = new.len() - 33 * 512;
    new[tail..].copy_from_slice(&old[tail..]);
    assert!(reason(&new).contains("both valid but differ"));
}

#[test]
fn gpt_with_wrong_numbers() {
    if !have("gpt_with_wrong_numbers", &["sgdisk"]) {
        return;
    }
    let scratch = Scratch::new("gpt_with_wrong_numbers");
    let good = disk(&scratch, 64, GPT);
    // Header and entries changed, checksums mended, backup gone.
    let with = |change: &dyn Fn(&mut [u8], &mut [u8])| {
        let mut disk = good.clone();
        let (front, entries) = disk.split_at_mut(1024);
        let (header, entries) = (&mut front[512..604], &mut entries[..128 * 128]);
        change(header, entries);
        header[88..92].copy_from_slice(&crc32(entries).to_le_bytes());
        header[16..20].fill(0);
        let crc = crc32(header);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        let end = disk.len();
        disk[end - 512..].fill(0);
        disk
    };
    let put = |bytes: &mut [u8], at: usize, value: u64| {
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    trusted(&with(&|_, _| ()));
    let first_of_2 = 2048 + (4 << 11);
    let overlapping = with(&|_, entries| put(entries, 40, first_of_2));
    assert!(reason(&overlapping).contains("Partitions 1 and 2 overlap"));
    for (first, last) in [(33, 2048), (34, 1 << 40), (u64::MAX, u64::MAX), (5000, 4000)] {
        let wild = with(&|_, entries| {
            put(entries, 32, first);
            put(entries, 40, last);
        });
        assert!(reason(&wild).contains("usable sectors"));
    }
    let sectors = good.len() as u64 / 512;
    for (at, value, expected) in [
        (24, 2, "lies elsewhere"),
        (40, 1, "usable sectors"),
        (48, sectors, "usable sectors"),
        (48, 20, "usable sectors"),
        (72, 1, "impossible place"),
        (72, 40, "impossible place"),
        (72, sectors - 20, "impossible place"),
        (72, u64::MAX, "impossible place"),
        (80, u64::MAX, "number or size of entries"),
        (80, 96 << 32 | 128, "number or size of entries"),
        (80, 192 << 32 | 128, "number or size of entries"),
        (80, 128 << 32 | 8193, "number or size of entries"),
    ] {
        let reason = reason(&with(&|header, _| put(header, at, value)));
        assert!(reason.contains(expected), "{at} {value}: {reason}");
    }
}

/// CRC32 (IEEE), bit by bit: not the code under test.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 }
        })
    })
}

#[test]
fn hybrid_mbr() {
    if !have("hybrid_mbr", &["sgdisk"]) {
        return;
    }
    let scratch = Scratch::new("hybrid_mbr");
    let mut disk = disk(&scratch, 64, &format!("{GPT}; sgdisk -h 1:2 $disk >/dev/null"));
    assert_eq!(disk[446 + 4], 0xEE);
    assert_eq!(disk[446 + 16 + 4], 0xEF);
    let found = trusted(&disk);
    assert_eq!((found.scheme, found.partitions.len()), (Scheme::Gpt, 4));
    disk[446 + 16 + 12] ^= 1;
    assert!(reason(&disk).contains("Entry 2 of the hybrid MBR"));
}

#[test]
fn bare_volumes_are_no_partition_tables() {
    let test = "bare_volumes_are_no_partition_tables";
    if !have(test, &["mkfs.vfat", "mkfs.ntfs", "mkfs.exfat", "mke2fs", "sfdisk"]) {
        return;
    }
    let scratch = Scratch::new(test);
    for script in [
        "mkfs.vfat -F 12 $disk >/dev/null",
        "mkfs.vfat -F 16 $disk >/dev/null",
        "mkfs.vfat -F 32 $disk >/dev/null 2>&1",
        // With a table whose one entry is the whole disk, from sector 0 on.
        "mkfs.vfat -F 32 --mbr=y $disk >/dev/null 2>&1",
        "mkfs.ntfs -F -q -s 512 -p 0 -H 255 -S 63 $disk >/dev/null 2>&1",
        "mkfs.exfat $disk >/dev/null",
        "mke2fs -q $disk",
        "true",
    ] {
        let disk = disk(&scratch, 64, script);
        let table = trusted(&disk);
        assert_eq!((table.scheme, table.partitions.len()), (Scheme::Bare, 0), "{script}");
    }
    // Code and an empty table over a bare volume.
    let mut empty = disk(&scratch, 64, "mke2fs -q $disk");
    empty[..440].fill(0xFA);
    empty[510..512].copy_from_slice(&[0x55, 0xAA]);
    assert_eq!(trusted(&empty).scheme, Scheme::Bare);
    // Both at once: nobody can tell.
    let mut both = disk(&scratch, 64, "mkfs.vfat -F 32 $disk >/dev/null 2>&1");
    let table = disk(&scratch, 64, "echo 'size=8M, type=7' | sfdisk -q $disk");
    both[446..510].copy_from_slice(&table[446..510]);
    assert!(reason(&both).contains("both a FAT boot sector and a partition table"));
    // A bare volume over an earlier GPT.
    if have(test, &["sgdisk"]) {
        let mut stale = disk(&scratch, 64, GPT);
        stale[..34 * 512].fill(0);
        assert!(reason(&stale).contains("protective MBR is missing"));
    }
    for len in [0, 1, 511, 512, 513, 1024, 1536, 4096, 12288] {
        trusted(&vec![0; len]);
    }
}

/// Bytes changed at random where tables lie: no panic, few reads, and what is
/// trusted is sound.
#[test]
fn random_damage_never_breaks_the_rules() {
    let test = "random_damage_never_breaks_the_rules";
    if !have(test, &["sfdisk", "sgdisk"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let seeds = [
        disk(
            &scratch,
            4,
            "sfdisk -q $disk <<END
label: dos
start=2048, size=1024, type=7
start=4096, size=4096, type=5
start=4100, size=1000, type=7
start=6000, size=1000, type=83
END",
        ),
        disk(&scratch, 4, "sgdisk -n 1:0:+1M -n 2:0:+512K $disk >/dev/null"),
    ];
    let mut noise = Noise::new(5);
    let mut trusted = [0; 2];
    let seeds = seeds.map(Arc::new);
    for round in 0..20_000 {
        let which = round % 2;
        let disk = Arc::clone(&seeds[which]);
        let end = ReadAt::len(&disk);
        let mut patches = Vec::new();
        for _ in 0..noise.below(4) + 1 {
            let at = match (which, noise.below(4)) {
                (0, 0) => 2 * MIB as u64 + 446 + noise.below(66),
                (0, _) => 446 + noise.below(66),
                (_, 0) => 446 + noise.below(66),
                (_, 1) => 512 + noise.below(92),
                (_, 2) => 1024 + noise.below(256),
                _ => end - 512 + noise.below(92),
            };
            let random = noise.next() as u8;
            let values = [0, 1, 5, 0x0F, 0x80, 0xEE, 0xFF, random];
            patches.push((at, values[noise.below(8) as usize]));
        }
        let meter = Meter::new(Patched { disk, patches });
        let table = read_table(&meter).unwrap();
        check(&table, end);
        trusted[which] += u32::from(table.untrusted.is_none());
        assert!(meter.counts().bytes_read < 256 << 10, "{}", meter.counts().bytes_read);
    }
    // Neither everything nor nothing: the test looked at both.
    assert!(trusted.iter().all(|n| (500..9_500).contains(n)), "{trusted:?}");
}

/// A disk with single bytes changed.
struct Patched {
    disk: Arc<Vec<u8>>,
    patches: Vec<(u64, u8)>,
}

impl ReadAt for Patched {
    fn len(&self) -> u64 {
        ReadAt::len(&self.disk)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> slimdisk::Result<()> {
        self.disk.read_at(offset, buf)?;
        for (at, value) in &self.patches {
            let here = at.checked_sub(offset).and_then(|i| buf.get_mut(i as usize));
            if let Some(byte) = here {
                *byte = *value;
            }
        }
        Ok(())
    }
}
