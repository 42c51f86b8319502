//! What is known of a volume without the library: bytes that are in use in any volume
//! of a family, read in the plainest way, and whether checksums guard its map.

use std::ops::Range;

use slimdisk::volume::Findings;

use super::Volume;

/// Bytes that are in use in any volume of the family.
pub fn used(family: &str, findings: &Findings, volume: &Volume<'_>) -> Vec<Range<u64>> {
    let number = |at, len| volume.number(at, len);
    let big = |at, len: usize| number(at, len).swap_bytes() >> (64 - 8 * len);
    let mut used = Vec::new();
    match family {
        "ext" => {
            used.push(1024..2048);
            let at = |field: u64| 1024 + field;
            let incompat = number(at(0x60), 4);
            // A replay may move the descriptors' content, and meta groups lie elsewhere.
            if incompat & (0x4 | 0x10) != 0 {
                return used;
            }
            let block_size = 1024 << number(at(0x18), 4).min(6);
            let first = number(at(0x14), 4);
            let wide = incompat & 0x80 != 0;
            let high =
                |at, width| if wide { number(at, width) << (8 * width) } else { 0 };
            let blocks = number(at(0x04), 4) | high(at(0x150), 4);
            let group_len = number(at(0x20), 4).max(1);
            let size = if wide { number(at(0xFE), 2).max(32) } else { 32 };
            let inodes = number(at(0x28), 4) * number(at(0x58), 2).max(128);
            let table = (first + 1) * block_size;
            for group in 0..blocks.saturating_sub(first).div_ceil(group_len).min(1 << 10)
            {
                // Flag sparse_super: few groups have a copy of the superblock.
                let power_of = |n: u64| (0..8).any(|exponent| n.pow(exponent) == group);
                let sparse = number(at(0x64), 4) & 1 != 0;
                if group == 0 || !sparse || [3, 5, 7].into_iter().any(power_of) {
                    let copy = (first + group * group_len) * block_size;
                    used.push(copy..copy + block_size);
                }
                let descriptor = table + group * size;
                used.push(descriptor..descriptor + size);
                for (field, len) in [(0, block_size), (4, block_size), (8, inodes)] {
                    let high =
                        if size >= 64 { number(descriptor + 0x20 + field, 4) } else { 0 };
                    let block = number(descriptor + field, 4) | high << 32;
                    let start = block.saturating_mul(block_size);
                    used.push(start..start.saturating_add(len));
                }
            }
        }
        "ntfs" => {
            used.push(0..512);
            let sector = number(11, 2);
            // Above 0x80 it is the negated power of two.
            let cluster = match number(13, 1) {
                sectors @ ..=0x80 => sectors * sector,
                power => sector << (256 - power).min(20),
            };
            for field in [0x30, 0x38] {
                let start = number(field, 8).saturating_mul(cluster);
                used.push(start..start.saturating_add(1024));
            }
        }
        "fat" => used.push(0..number(11, 2) * number(14, 2)),
        // Both boot regions.
        "exfat" => used.push(0..24 << number(108, 1).min(12)),
        "xfs" => {
            let (block, sector) = (big(4, 4), big(102, 2));
            let (blocks, count) = (big(84, 4), big(88, 4));
            for group in 0..count.min(1 << 10) {
                let start = group.saturating_mul(blocks).saturating_mul(block);
                used.push(start..start.saturating_add(4 * sector));
            }
        }
        "btrfs" => {
            used.push(0..1 << 20);
            used.push(64 << 20..(64 << 20) + (64 << 10));
        }
        "hfsplus" => {
            used.push(0..1536);
            used.push(findings.length.saturating_sub(1024)..findings.length);
        }
        // Superblocks, and all up to the main area.
        "f2fs" => used.push(0..number(1024 + 92, 4) << 12),
        "swap" => used.push(0..findings.unit),
        other => panic!("nothing is known of {other}"),
    }
    used
}

/// Whether every byte that the map depends on is guarded by a checksum of 32 bits.
pub fn checksummed(family: &str, volume: &Volume<'_>) -> bool {
    match family {
        // `metadata_csum`
        "ext" => volume.number(1024 + 0x64, 4) & 0x400 != 0,
        // Version 5.
        "xfs" => volume.number(100, 2).swap_bytes() >> 48 & 15 == 5,
        "btrfs" => true,
        _ => false,
    }
}
