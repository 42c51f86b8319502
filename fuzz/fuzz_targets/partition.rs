//! Partition tables and signatures of hostile disks.
//!
//! What must hold, whatever the bytes:
//!
//! - no panic, no endless loop;
//! - the partitions of a *trusted* table ascend, do not overlap, are not empty, lie
//!   within the disk and leave its first sector alone;
//! - reading a table takes at most 8 MiB and naming what a volume is at most
//!   128 KiB, however large the disk;
//! - reading twice gives the same answer;
//! - taken for a physical volume of LVM2, the disk gives logical volumes whose pieces
//!   lie within it.
//!
//! The input is a few bytes of choice, then the disk's start and end; zeros lie
//! between. Checksums are mended if the input says so, or the fuzzer would never get
//! past them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slimdisk::partition::{PartitionTable, lvm, read_table_with_sectors};
use slimdisk::storage::Meter;
use slimdisk::volume::signature;
use slimdisk_fuzz::Gapped;

/// Makes the checksums of the header at `at` right, its entries being where
/// `entries` says.
fn mend(bytes: &mut [u8], at: usize, entries: impl Fn(u64) -> Option<usize>) {
    let Some(header) = bytes.get(at..at + 92) else { return };
    let lba = u64::from_le_bytes(header[72..80].try_into().unwrap());
    let count = u32::from_le_bytes(header[80..84].try_into().unwrap()) as usize;
    let size = u32::from_le_bytes(header[84..88].try_into().unwrap()) as usize;
    if let Some(from) = entries(lba)
        && let Some(len) = count.checked_mul(size)
        && let Some(to) = from.checked_add(len)
        && let Some(entries) = bytes.get(from..to)
    {
        let crc = crc32fast::hash(entries);
        bytes[at + 88..at + 92].copy_from_slice(&crc.to_le_bytes());
    }
    bytes[at + 12..at + 20].copy_from_slice(&[92, 0, 0, 0, 0, 0, 0, 0]);
    let crc = crc32fast::hash(&bytes[at..at + 92]);
    bytes[at + 16..at + 20].copy_from_slice(&crc.to_le_bytes());
}

fn check(table: &PartitionTable, len: u64) {
    if table.untrusted.is_some() {
        return;
    }
    let mut reached = 512;
    for partition in &table.partitions {
        let range = &partition.range;
        assert!(reached <= range.start, "{table:?}");
        assert!(range.start < range.end && range.end <= len, "{table:?}");
        reached = range.end;
    }
}

/// The checksum of LVM2.
fn lvm_checksum(bytes: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new_with_initial(!0xF597_A6CF);
    hasher.update(bytes);
    (!hasher.finalize()).to_le_bytes()
}

/// Makes the checksums of a label in sector 1, and of the first metadata area and
/// its text, right.
fn mend_lvm(bytes: &mut [u8]) {
    let area = 4096;
    let Some(header) = bytes.get(area..area + 512) else { return };
    let number = |at: usize| {
        usize::try_from(u64::from_le_bytes(header[at..at + 8].try_into().unwrap())).ok()
    };
    if let (Some(from), Some(len)) = (number(40), number(48))
        && let Some(from) = from.checked_add(area)
        && let Some(text) = from.checked_add(len).and_then(|to| bytes.get(from..to))
    {
        let sum = lvm_checksum(text);
        bytes[area + 56..area + 60].copy_from_slice(&sum);
    }
    for (at, covered) in [(area, area + 4..area + 512), (528, 532..1024)] {
        let sum = lvm_checksum(&bytes[covered]);
        bytes[at..at + 4].copy_from_slice(&sum);
    }
}

fn check_lvm(disk: &Meter<Gapped>, len: u64) {
    let found = lvm::read(disk, &[0..len]).expect("reads within the disk");
    for volume in &found.logical {
        let mut total = 0;
        volume.mapping.pieces(0..volume.mapping.len(), &mut |piece| {
            assert!(piece.start < piece.end && piece.end <= len, "{volume:?}");
            total += piece.end - piece.start;
        });
        assert_eq!(total, volume.mapping.len());
    }
    for range in found.physical.iter().flat_map(|volume| volume.unallocated.iter()) {
        assert!(range.end <= len && range.start >= 2048);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_at_checked(8) else { return };
    let sector_size: usize = if choice[0] & 1 == 0 { 512 } else { 4096 };
    let declared = [None, None, Some(512), Some(4096)][usize::from(choice[0] >> 1 & 3)];
    let split = usize::from(u16::from_le_bytes([choice[1], choice[2]])).min(rest.len());
    let (front, tail) = rest.split_at(split);
    let (mut front, mut tail) = (front.to_vec(), tail.to_vec());
    let extra = u64::from(u32::from_le_bytes([choice[3], choice[4], choice[5], 0]));
    let len = (front.len() + tail.len()) as u64 + extra * u64::from(choice[6]);
    let sector = sector_size as u64;
    if choice[0] & 8 != 0 {
        mend(&mut front, sector_size, |lba| {
            usize::try_from(lba.checked_mul(sector)?).ok()
        });
    }
    if choice[0] & 16 != 0 {
        let tail_at = len - tail.len() as u64;
        let last = (len / sector).saturating_sub(1) * sector;
        if let Some(at) = last.checked_sub(tail_at) {
            mend(&mut tail, at as usize, |lba| {
                usize::try_from(lba.checked_mul(sector)?.checked_sub(tail_at)?).ok()
            });
        }
    }
    if choice[0] & 32 != 0 {
        mend_lvm(&mut front);
    }
    let disk = Meter::new(Gapped { len, front, tail });
    let table = read_table_with_sectors(&disk, declared).expect("reads within the disk");
    let read = disk.counts().bytes_read;
    assert!(read <= 8 << 20, "{read} bytes read");
    check(&table, len);
    let again = read_table_with_sectors(&disk, declared).expect("reads within the disk");
    assert_eq!(table, again);
    let before = disk.counts().bytes_read;
    signature::names(&disk).expect("reads within the disk");
    assert!(disk.counts().bytes_read - before <= 128 << 10);
    check_lvm(&disk, len);
});
