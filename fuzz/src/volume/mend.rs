//! Enters the checksums that edits have broken, or nothing would get past them.

use super::{PIECE, Volume};

/// Mends the checksums of all structures in which there are edits.
pub fn checksums(family: &str, volume: &mut Volume<'_>) {
    let edited: Vec<u64> = volume.edits.iter().map(|(at, _)| *at).collect();
    match family {
        // The field holds the remainder itself, not its complement.
        "ext" => sum(volume, 1024, 1024, 1020, |bytes| !crc32c::crc32c(&bytes[..1020])),
        "exfat" => {
            let sector = 1 << volume.number(108, 1).min(12);
            let mut region = vec![0; 11 * sector];
            if volume.get(0, &mut region).is_ok() {
                let sum = region.iter().enumerate().fold(0u32, |sum, (at, byte)| match at {
                    106 | 107 | 112 => sum,
                    _ => sum.rotate_right(1).wrapping_add(u32::from(*byte)),
                });
                let sums = sum.to_le_bytes().repeat(sector / 4);
                volume.edits.push((region.len() as u64, sums));
            }
        }
        "xfs" => {
            let big = |volume: &Volume<'_>, at, len: usize| {
                volume.number(at, len).swap_bytes() >> (64 - 8 * len)
            };
            let (block, sector) = (big(volume, 4, 4), big(volume, 102, 2));
            if !(512..=65536).contains(&block) || !(512..=65536).contains(&sector) {
                return;
            }
            for at in edited {
                // The four headers of an allocation group, known by their signatures,
                // then the blocks of the free space trees.
                let header = at / sector * sector;
                let start = at / block * block;
                for (at, size, magic, field) in [
                    (header, sector, *b"XFSB", 224),
                    (header, sector, *b"XAGF", 216),
                    (header, sector, *b"XAGI", 312),
                    (header, sector, *b"XAFL", 32),
                    (start, block, *b"AB3B", 52),
                    (start, block, *b"AB3C", 52),
                ] {
                    if volume.number(at, 4) == u64::from(u32::from_le_bytes(magic)) {
                        sum(volume, at, size as usize, field, crc32c::crc32c);
                    }
                }
            }
        }
        "btrfs" => {
            let node = volume.number((64 << 10) + 148, 4);
            if !(4096..=65536).contains(&node) {
                return;
            }
            for at in edited {
                // Superblocks, and nodes, which lie at multiples of their size.
                let (at, size) = match at {
                    0x1_0000..0x1_1000 => (0x1_0000, PIECE as u64),
                    _ => (at / node * node, node),
                };
                sum(volume, at, size as usize, 0, |bytes| crc32c::crc32c(&bytes[32..]));
            }
        }
        _ => {}
    }
}

/// Enters the little-endian sum of `size` bytes from `start`, with the field itself zero.
fn sum(
    volume: &mut Volume<'_>,
    start: u64,
    size: usize,
    field: usize,
    of: impl Fn(&[u8]) -> u32,
) {
    let mut bytes = vec![0; size];
    if volume.get(start, &mut bytes).is_ok() {
        bytes[field..field + 4].fill(0);
        volume.edits.push((start + field as u64, of(&bytes).to_le_bytes().to_vec()));
    }
}
