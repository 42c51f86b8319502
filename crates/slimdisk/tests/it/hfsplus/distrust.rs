//! Every reason not to trust: an image that gives it, and its sound twin; and bytes
//! at random, which may give any reason but a panic or a long wait.

use super::maker::{Made, PLAIN, Recipe, journal_header, journal_sum};
use super::{made_free, survey};
use crate::free_map::{Damage, Spoil, assert_noise_is_nothing, assert_reasons, put};

fn be(bytes: &[u8], at: usize, n: usize) -> usize {
    bytes[at..at + n].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

/// Changes the volume header and its copy.
fn both(bytes: &mut [u8], at: usize, with: &[u8]) {
    put(bytes, 1024 + at, with);
    let copy = bytes.len() - 1024;
    put(bytes, copy + at, with);
}

fn attributes(bytes: &mut [u8], set: u32, clear: u32) {
    let old = be(bytes, 1024 + 4, 4) as u32;
    put(bytes, 1028, &((old | set) & !clear).to_be_bytes());
}

/// Where a special file begins: 112 allocation, 192 extents, 272 catalog.
fn file(bytes: &[u8], fork: usize) -> usize {
    be(bytes, 1024 + fork + 16, 4) * be(bytes, 1024 + 40, 4)
}

/// Calls a block free in the map, and counts it.
fn free(bytes: &mut [u8], block: usize) {
    let size = be(bytes, 1024 + 40, 4);
    // The allocation file may lie in pieces, of which those in the header suffice.
    let (mut at, mut piece) = (block / 8, 0);
    while at >= be(bytes, 1024 + 112 + 20 + piece * 8, 4) * size {
        at -= be(bytes, 1024 + 112 + 20 + piece * 8, 4) * size;
        piece += 1;
    }
    let at = be(bytes, 1024 + 112 + 16 + piece * 8, 4) * size + at;
    assert!(bytes[at] & 0x80 >> (block % 8) != 0, "{block} is free already");
    bytes[at] &= !(0x80 >> (block % 8));
    let count = be(bytes, 1024 + 48, 4) as u32 + 1;
    both(bytes, 48, &count.to_be_bytes());
}

/// Calls the first block of a special file free.
fn free_file(bytes: &mut [u8], fork: usize) {
    let block = be(bytes, 1024 + fork + 16, 4);
    free(bytes, block);
}

fn info(bytes: &[u8]) -> usize {
    be(bytes, 1024 + 12, 4) * be(bytes, 1024 + 40, 4)
}

fn journal(bytes: &[u8]) -> usize {
    be(bytes, info(bytes) + 36, 8)
}

/// Changes the journal's header, little-endian, and puts its checksum right.
fn journal_field(bytes: &mut [u8], at: usize, with: &[u8]) {
    let start = journal(bytes);
    put(bytes, start + at, with);
    put(bytes, start + 36, &[0; 4]);
    let sum = journal_sum(&bytes[start..start + 44]);
    put(bytes, start + 36, &sum.to_le_bytes());
}

const REASONS: &[(Spoil, &str)] = &[
    // The state.
    (|b| attributes(b, 0, 0x100), "was not unmounted: mount it once in macOS"),
    (|b| attributes(b, 0x800, 0), "was not unmounted"),
    (|b| attributes(b, 0x4000, 0), "is marked as damaged"),
    (|b| attributes(b, 1, 0), "unknown attributes (0x1)"),
    (|b| attributes(b, 1 << 16, 0), "unknown attributes (0x10000)"),
    (|b| attributes(b, 1 << 28, 0), "unknown attributes (0x10000000)"),
    (|b| put(b, 1032, b"FSK!"), "its journal could not be replayed"),
    // The volume header.
    (|b| b[1027] = 4, "a signature and a version that do not belong together"),
    (|b| b[1025] = b'+', "a signature and a version that do not belong together"),
    (|b| both(b, 40, &[0, 0, 0x10, 1]), "an impossible block size"),
    (|b| both(b, 40, &[0, 0, 1, 0]), "an impossible block size"),
    (|b| both(b, 40, &[0, 0x20, 0, 0]), "an impossible block size"),
    (|b| both(b, 44, &[0, 0, 0, 0]), "an impossible number of blocks"),
    (|b| both(b, 44, &[0xFF; 4]), "the volume was cut off"),
    (
        |b| {
            let n = b.len() - 512;
            b.truncate(n);
        },
        "the volume was cut off",
    ),
    // Its copy.
    (
        |b| {
            let at = b.len() - 1024;
            b[at] = 0;
        },
        "the copy of the volume header near the end does not agree",
    ),
    (|b| put(b, 1024 + 16, &[1]), "the copy of the volume header near the end"),
    (
        |b| {
            let blocks = be(b, 1024 + 44, 4) - 1;
            put(b, 1024 + 44, &(blocks as u32).to_be_bytes());
        },
        "the copy of the volume header near the end",
    ),
    (
        |b| {
            let at = b.len() - 1024 + 112 + 16 + 3;
            b[at] ^= 1;
        },
        "the copy of the volume header near the end",
    ),
    (
        |b| {
            let at = b.len() - 1024 + 112 + 15;
            b[at] ^= 1;
        },
        "the copy of the volume header near the end",
    ),
    // The journal.
    (|b| both(b, 12, &[0; 4]), "info block lies outside the volume"),
    (|b| both(b, 12, &[0xFF; 4]), "info block lies outside the volume"),
    (
        |b| {
            let at = info(b);
            b[at + 3] = 2;
        },
        "the journal lies on another device",
    ),
    (
        |b| {
            let at = info(b);
            b[at + 3] = 0;
        },
        "the journal has unknown flags (0x0)",
    ),
    (
        |b| {
            let at = info(b);
            b[at + 3] = 9;
        },
        "the journal has unknown flags (0x9)",
    ),
    (
        |b| {
            let at = info(b);
            b[at + 36] = 0xFF;
        },
        "the journal lies outside the volume",
    ),
    (
        |b| {
            let at = info(b);
            b[at + 46] = 0xFF;
            b[at + 45] = 0xFF;
        },
        "the journal lies outside the volume",
    ),
    (
        |b| {
            let at = info(b);
            put(b, at + 44, &[0; 8]);
        },
        "the journal lies outside the volume",
    ),
    (|b| journal_field(b, 0, &[0]), "the journal lacks its signature"),
    (|b| journal_field(b, 4, &[0]), "the journal lacks its signature"),
    (
        |b| {
            let at = journal(b);
            b[at + 40] ^= 1;
        },
        "the journal does not match its checksum",
    ),
    (|b| journal_field(b, 24, &[1]), "the journal has an impossible size"),
    (|b| journal_field(b, 8, &[1, 0]), "the journal has an impossible size"),
    (|b| journal_field(b, 21, &[1]), "the journal has an impossible size"),
    // A transaction between start and end; also one that wraps around.
    (
        |b| {
            let (at, size) = (journal(b), be(b, info(b) + 44, 8) as u64);
            put(b, at, &journal_header('l', 1024, 1024 + 4608, size));
        },
        "the journal holds changes that are not in the volume yet: mount it once",
    ),
    (
        |b| {
            let (at, size) = (journal(b), be(b, info(b) + 44, 8) as u64);
            put(b, at, &journal_header('b', 9216, 512, size));
        },
        "the journal holds changes that are not in the volume yet",
    ),
    (
        |b| {
            let at = info(b);
            let here = (at as u64).to_be_bytes();
            put(b, at + 36, &here);
            put(b, at, &[0, 0, 0, 5]);
        },
        "use the same block",
    ),
    // Special files.
    (|b| both(b, 112, &[0; 8]), "the allocation file is too short"),
    (|b| both(b, 112 + 2, &[1]), "the extents of the allocation file are damaged"),
    (|b| both(b, 112 + 16, &[0xFF; 4]), "the extents of the allocation file are damaged"),
    (|b| both(b, 192 + 20, &[0; 4]), "the extents of the extents overflow file"),
    (|b| both(b, 272 + 12, &[0xFF; 4]), "the extents of the catalog are damaged"),
    (
        |b| {
            let extents = b[1024 + 192 + 16..1024 + 192 + 20].to_vec();
            both(b, 272 + 16, &extents);
        },
        "use the same block",
    ),
    (
        |b| both(b, 352 + 12, &[0, 0, 0, 1]),
        "the extents of the attributes file are damaged",
    ),
    (
        |b| {
            both(b, 432 + 12, &[0, 0, 0, 1]);
            both(b, 432 + 16, &[0, 0, 0, 0, 0, 0, 0, 1]);
        },
        "the startup file and the volume header use the same block",
    ),
    (
        |b| {
            let at = file(b, 192);
            b[at + 8] = 0;
        },
        "the B-tree of the extents overflow file is damaged",
    ),
    (
        |b| {
            let at = file(b, 192);
            put(b, at + 32, &[3, 1]);
        },
        "the B-tree of the extents overflow file is damaged",
    ),
    (
        |b| {
            let at = file(b, 192);
            put(b, at + 36, &[1]);
        },
        "the B-tree of the extents overflow file is damaged",
    ),
    (
        |b| {
            let at = file(b, 192);
            put(b, at + 14, &[1]);
        },
        "the B-tree of the extents overflow file is damaged",
    ),
    (
        |b| {
            let at = file(b, 272);
            put(b, at + 24, &[0xFF; 4]);
        },
        "the B-tree of the catalog is damaged",
    ),
    (
        |b| {
            let at = file(b, 272) + 4096;
            b[at + 8] = 0;
        },
        "the B-tree of the catalog is damaged",
    ),
    (
        |b| {
            let at = file(b, 272) + 4096;
            b[at + 14 + 5] = 2;
        },
        "does not begin with the root folder",
    ),
    // The map.
    (|b| free(b, 0), "calls a block of the volume header free"),
    (
        |b| {
            let last = be(b, 1024 + 44, 4) - 1;
            let last = last.min((b.len() - 1024) / be(b, 1024 + 40, 4));
            free(b, last);
        },
        "calls a block of the copy of the volume header free",
    ),
    (|b| free_file(b, 112), "calls a block of the allocation file free"),
    (|b| free_file(b, 192), "calls a block of the extents overflow file free"),
    (|b| free_file(b, 272), "calls a block of the catalog free"),
    (
        |b| {
            let block = be(b, 1024 + 12, 4);
            free(b, block);
        },
        "calls a block of the journal info block free",
    ),
    (
        |b| {
            let block = journal(b) / be(b, 1024 + 40, 4) + 1;
            free(b, block);
        },
        "calls a block of the journal free",
    ),
    (|b| b[1024 + 51] ^= 1, "free blocks, the volume header"),
    (
        |b| {
            let at = file(b, 112);
            b[at + 40] ^= 0xFF;
        },
        "free blocks, the volume header",
    ),
];

/// What needs files that overflow.
const SCATTERED: &[(Spoil, &str)] = &[
    (
        |b| {
            // The records of the allocation file are those of another file.
            for at in overflow_records(b, 6) {
                put(b, at + 4, &[0, 0, 0, 9]);
            }
        },
        "the extents of the allocation file are damaged",
    ),
    (
        |b| {
            let at = overflow_records(b, 6)[0];
            b[at + 11] += 1;
        },
        "the extents of the allocation file are damaged",
    ),
    (
        |b| {
            let at = overflow_records(b, 6)[0];
            b[at + 1] = 9;
        },
        "the B-tree of the extents overflow file is damaged",
    ),
    (
        |b| {
            let at = overflow_records(b, 4)[1];
            let before = overflow_records(b, 4)[0];
            let key = b[before..before + 12].to_vec();
            put(b, at, &key);
        },
        "the B-tree of the extents overflow file is damaged",
    ),
    (
        |b| {
            // A child of the root that does not exist, and the root itself.
            let tree = file(b, 192);
            let root = tree + be(b, tree + 16, 4) * 512;
            put(b, root + 14 + 12, &[0xFF; 4]);
        },
        "the B-tree of the extents overflow file is damaged",
    ),
    (
        |b| {
            let tree = file(b, 192);
            let number = be(b, tree + 16, 4);
            put(b, tree + number * 512 + 14 + 12, &(number as u32).to_be_bytes());
        },
        "the B-tree of the extents overflow file is damaged",
    ),
    (
        |b| {
            // The leaves of file 4 follow each other in a circle.
            let tree = file(b, 192);
            let at = overflow_records(b, 4)[0];
            let number = (at - tree) / 512;
            put(b, tree + number * 512, &(number as u32).to_be_bytes());
        },
        "the B-tree of the extents overflow file is damaged",
    ),
    (
        |b| {
            let tree = file(b, 192);
            let at = overflow_records(b, 6)[0];
            let node = tree + (at - tree) / 512 * 512;
            put(b, node + 10, &[0x7F, 0]);
        },
        "the B-tree of the extents overflow file is damaged",
    ),
    (
        |b| {
            let at = overflow_records(b, 6)[0];
            put(b, at + 12, &[0xFF; 8]);
        },
        "the extents of the allocation file are damaged",
    ),
];

/// Where the records of a file lie in the extents overflow file of small nodes.
fn overflow_records(bytes: &[u8], wanted: usize) -> Vec<usize> {
    let tree = file(bytes, 192);
    let nodes = be(bytes, tree + 36, 4);
    let mut found = Vec::new();
    for node in (1..nodes).map(|number| tree + number * 512) {
        if bytes[node + 8] != 0xFF {
            continue;
        }
        for record in 0..be(bytes, node + 10, 2) {
            let at = node + be(bytes, node + 510 - 2 * record, 2);
            if be(bytes, at + 4, 4) == wanted {
                found.push(at);
            }
        }
    }
    assert!(!found.is_empty());
    found
}

fn sound() -> Made {
    Recipe { signature: b"HX", journal: Some('l'), blocks: 1201, ..PLAIN }.make()
}

fn scattered() -> Made {
    let recipe = Recipe {
        block: 512,
        blocks: 50_001,
        nodes: [512, 4096],
        scattered: true,
        journal: Some('l'),
        ..PLAIN
    };
    recipe.make()
}

#[test]
fn every_reason_has_its_image() {
    let made = sound();
    assert_reasons("hfsplus", &made.bytes, REASONS.iter().copied());
    let before = survey(&made.bytes);
    // What is no reason: locks, bad blocks, reused numbers; whoever mounted it last; an
    // alternate header that is older; where the next block is looked for.
    let mut odd = made.bytes.clone();
    attributes(&mut odd, 0x6000_9680, 0x8000_0000);
    put(&mut odd, 1032, b"10.0");
    put(&mut odd, 1024 + 52, &[1; 4]);
    let copy = odd.len() - 1024;
    put(&mut odd, copy + 48, &[0; 4]);
    put(&mut odd, copy + 272 + 12, &[9; 4]);
    assert_eq!(survey(&odd), before);
    // A partition that grew, and bits after the last block.
    odd.extend([7; 99_999]);
    let last = made.allocation[0] + 1201 / 8;
    assert_eq!(1201 % 8, 1);
    odd[last] ^= 0x7F;
    assert_eq!(survey(&odd), before);
}

#[test]
fn every_reason_of_files_in_many_pieces_has_its_image() {
    let made = scattered();
    assert!(made.allocation.len() > 8 && made.catalog.len() > 8);
    // The first leaf is that of other files: finding those of file 6 takes the index.
    let records = overflow_records(&made.bytes, 6);
    assert!(records[0] > made.extents + 2 * 512, "{records:?}");
    assert_reasons("hfsplus", &made.bytes, SCATTERED.iter().copied());
    // A piece that is only known from the extents overflow file.
    let mut bytes = made.bytes.clone();
    let last = made.catalog.last().unwrap() / 512;
    free(&mut bytes, last);
    let reason = survey(&bytes).0.untrusted.unwrap();
    assert!(reason.contains("calls a block of the catalog free"), "{reason}");
}

#[test]
fn damage_frees_nothing() {
    for (made, rounds, least) in [(sound(), 1500, 500), (scattered(), 500, 100)] {
        let before = made_free(&made);
        let tree = made.extents;
        let mut areas = vec![
            1024..1536,
            made.catalog[0]..made.catalog[0] + 200,
            made.journal_info..made.journal_info + 180,
            made.journal..made.journal + 44,
            tree..tree + 120,
            made.allocation[0]..made.allocation[0] + 150,
        ];
        if made.allocation.len() > 8 {
            areas.push(tree + 512..tree + 20 * 512);
        }
        let damage = Damage {
            name: "hfsplus",
            areas: &areas,
            rounds,
            seed: 4,
            readings: 1,
            mend: &|bytes| {
                let header = bytes[1024..1536].to_vec();
                let copy = bytes.len() - 1024;
                put(bytes, copy, &header);
            },
        };
        let refused = damage.run(&made.bytes, |area, free| {
            // The header's copy speaks with it; two bits of the map may change places.
            let sum = |free: &[std::ops::Range<u64>]| {
                free.iter().map(|range| range.end - range.start).sum::<u64>()
            };
            assert!(area == 0 || sum(&free) == sum(&before), "area {area}");
            assert!(matches!(area, 0 | 5) || free == before, "area {area}: {free:?}");
        });
        assert!(refused > least, "only {refused} were refused");
    }
}

#[test]
fn any_bytes_at_all() {
    assert_noise_is_nothing("hfsplus", |bytes| {
        if bytes.len() >= 1536 {
            put(bytes, 1024, b"H+\0\x04");
        }
    });
}

#[test]
fn a_journal_is_looked_at_in_either_order() {
    for order in ['l', 'b', 'i'] {
        let made = Recipe { journal: Some(order), ..PLAIN }.make();
        assert_eq!(survey(&made.bytes).0.untrusted, None, "{order}");
        let mut dirty = made.bytes.clone();
        let (at, size) = (made.journal, 32_768);
        put(&mut dirty, at, &journal_header(order, 1024, 2048, size));
        let reason = survey(&dirty).0.untrusted;
        // One that is yet to be initialised holds nothing.
        assert_eq!(reason.is_some(), order != 'i', "{order}: {reason:?}");
    }
}
