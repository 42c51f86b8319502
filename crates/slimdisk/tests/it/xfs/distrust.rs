//! Every reason not to trust: an image that gives it, and its sound twin.

use std::fs;

use super::log::Place;
use super::{TOOLS, be, make, survey};
use crate::free_map::{Spoil, assert_reasons, put};
use crate::support::{Scratch, have};

/// Groups of a volume with sectors of 512 bytes.
fn group(bytes: &[u8], number: u64) -> usize {
    (number * be(bytes, 84, 4) * be(bytes, 4, 4)) as usize
}

pub fn sum(bytes: &mut [u8], at: usize, length: usize, field: usize) {
    put(bytes, at + field, &[0; 4]);
    let sum = crc32c(&bytes[at..at + length]);
    put(bytes, at + field, &sum.to_le_bytes());
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum: u32, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0x82F6_3B78 & (sum & 1).wrapping_neg())
        })
    })
}

/// Puts the checksums of the superblock and of the headers right.
fn seal(bytes: &mut [u8]) {
    sum(bytes, 0, 512, 224);
    for number in 0..be(bytes, 88, 4).min(4) {
        let at = group(bytes, number);
        if at + 2048 <= bytes.len() {
            sum(bytes, at + 512, 512, 216);
            sum(bytes, at + 1024, 512, 312);
            sum(bytes, at + 1536, 512, 32);
        }
    }
}

fn sb(bytes: &mut [u8], at: usize, with: &[u8]) {
    put(bytes, at, with);
    sum(bytes, 0, 512, 224);
}

/// Changes the AGF (1), the AGI (2) or the AGFL (3) of group 1.
fn header(bytes: &mut [u8], sector: usize, at: usize, with: &[u8]) {
    let start = group(bytes, 1) + sector * 512;
    put(bytes, start + at, with);
    seal(bytes);
}

/// Lets the list of blocks set aside have four blocks.
fn set_aside(bytes: &mut [u8], first: u8, last: u8) {
    header(bytes, 1, 40, &[0, 0, 0, first, 0, 0, 0, last, 0, 0, 0, 4]);
}

/// The root of a B+tree of group 0 or 1, by the AGF's field.
pub fn root(bytes: &[u8], number: u64, field: usize) -> usize {
    let at = group(bytes, number);
    at + (be(bytes, at + 512 + field, 4) * be(bytes, 4, 4)) as usize
}

pub const BY_BLOCK: usize = 16;
pub const BY_SIZE: usize = 20;

/// Changes a block of a B+tree.
pub fn block(bytes: &mut [u8], start: usize, at: usize, with: &[u8]) {
    put(bytes, start + at, with);
    let size = be(bytes, 4, 4) as usize;
    sum(bytes, start, size, 52);
}

/// Changes the root of a B+tree of group 1.
fn node(bytes: &mut [u8], field: usize, at: usize, with: &[u8]) {
    let root = root(bytes, 1, field);
    block(bytes, root, at, with);
}

/// Rewrites both B+trees of a group, which have no more than their roots, and all the
/// counts, so that `change` is the free space.
fn change_free(bytes: &mut [u8], number: u64, change: impl FnOnce(&mut Vec<(u32, u32)>)) {
    let (by_block, by_size) =
        (root(bytes, number, BY_BLOCK), root(bytes, number, BY_SIZE));
    let count = be(bytes, by_block + 6, 2) as usize;
    let record = |at: usize| (be(bytes, at, 4) as u32, be(bytes, at + 4, 4) as u32);
    let mut extents: Vec<_> = (0..count).map(|n| record(by_block + 56 + n * 8)).collect();
    let before: u64 = extents.iter().map(|e| u64::from(e.1)).sum();
    change(&mut extents);
    let after: u64 = extents.iter().map(|e| u64::from(e.1)).sum();
    let mut sorted = extents.clone();
    sorted.sort_by_key(|(start, length)| (*length, *start));
    for (at, extents) in [(by_block, &extents), (by_size, &sorted)] {
        put(bytes, at + 6, &(extents.len() as u16).to_be_bytes());
        for (number, (start, length)) in extents.iter().enumerate() {
            put(bytes, at + 56 + number * 8, &start.to_be_bytes());
            put(bytes, at + 60 + number * 8, &length.to_be_bytes());
        }
        block(bytes, at, 0, &[]);
    }
    let agf = group(bytes, number) + 512;
    put(bytes, agf + 52, &(after as u32).to_be_bytes());
    put(bytes, agf + 56, &sorted.last().unwrap().1.to_be_bytes());
    let total = be(bytes, 144, 8) + after - before;
    put(bytes, 144, &total.to_be_bytes());
    seal(bytes);
}

/// The first block that a group has set aside.
fn first_set_aside(bytes: &[u8], group: usize) -> u64 {
    be(bytes, group + 1536 + 36 + 4 * be(bytes, group + 552, 4) as usize, 4)
}

/// Calls a block free, which is found by what a group's headers say.
fn add_block(bytes: &mut [u8], number: u64, find: fn(&[u8], usize) -> u64) {
    let block = find(bytes, group(bytes, number)) as u32;
    change_free(bytes, number, |extents| {
        extents.push((block, 1));
        extents.sort_unstable();
    });
}

/// Where the operation of the unmount record lies, and the block behind it.
fn unmount(bytes: &[u8]) -> (usize, usize) {
    let (header, head) = Place::of(bytes).last_record(bytes);
    assert_eq!(head - header, 1024);
    (header, head)
}

fn log(bytes: &mut [u8], at: usize, with: &[u8]) {
    let (header, _) = unmount(bytes);
    put(bytes, header + at, with);
}

/// The same in a record without a checksum.
fn unsummed(bytes: &mut [u8], at: usize, with: &[u8]) {
    log(bytes, at, with);
    log(bytes, 32, &[0; 4]);
}

const REASONS: &[(Spoil, &str)] = &[
    // The superblock.
    (|b| b[0] = b'Y', "has lost its signature"),
    (|b| b[200] ^= 1, "the superblock does not match its checksum"),
    (|b| b[511] ^= 1, "the superblock does not match its checksum"),
    (|b| sb(b, 100, &[0xB4, 0xA3]), "XFS version 3, which is not supported"),
    (|b| sb(b, 100, &[0xB6, 0xA5]), "the feature shared, which is not supported"),
    (|b| sb(b, 102, &[3, 0]), "an impossible sector size"),
    (
        |b| {
            b[121] = 8;
            sb(b, 102, &[1, 0]);
        },
        "an impossible sector size",
    ),
    (|b| sb(b, 4, &[0, 0, 0x20, 0]), "an impossible block size"),
    (
        |b| {
            b[120] = 17;
            sb(b, 4, &[0, 2, 0, 0]);
        },
        "an impossible block size",
    ),
    (
        |b| {
            put(b, 120, &[9, 10]);
            put(b, 102, &[4, 0]);
            sb(b, 4, &[0, 0, 2, 0]);
        },
        "an impossible block size",
    ),
    (
        |b| {
            b[124] = 6;
            sb(b, 84, &[0, 0, 0, 63]);
        },
        "an impossible size of its allocation groups",
    ),
    (
        |b| {
            b[124] = 32;
            sb(b, 84, &[0xFF; 4]);
        },
        "an impossible size of its allocation groups",
    ),
    (
        |b| {
            put(b, 8, &1000u64.to_be_bytes());
            sb(b, 88, &[0; 4]);
        },
        "does not fit its blocks",
    ),
    (
        |b| {
            b[124] = 28;
            put(b, 8, &(0xFFFF_FFFFu64 << 28).to_be_bytes());
            sb(b, 84, &[0x10, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
        },
        "does not fit its blocks",
    ),
    (
        |b| {
            put(b, 122, &[12, 0]);
            sb(b, 104, &[0x10, 0]);
        },
        "an impossible inode size",
    ),
    (|b| sb(b, 84, &[0, 0, 0, 63]), "an impossible size of its allocation groups"),
    (|b| sb(b, 124, &[30]), "an impossible size of its allocation groups"),
    (|b| sb(b, 84, &[0xFF; 4]), "an impossible size of its allocation groups"),
    (|b| sb(b, 88, &[0; 4]), "does not fit its blocks"),
    (|b| sb(b, 88, &[0, 0, 0, 3]), "does not fit its blocks"),
    (|b| sb(b, 88, &[0, 0, 0, 1]), "does not fit its blocks"),
    (|b| sb(b, 8, &[0xFF; 8]), "does not fit its blocks"),
    (|b| sb(b, 104, &[1, 0]), "an impossible inode size"),
    (|b| sb(b, 123, &[4]), "an impossible inode size"),
    (|b| sb(b, 126, &[1]), "was not made to the end"),
    (|b| sb(b, 178, &[2]), "has unknown flags"),
    (|b| sb(b, 179, &[1]), "has unknown flags"),
    (|b| sb(b, 31, &[1]), "a realtime section on another device"),
    (|b| sb(b, 23, &[1]), "a realtime section on another device"),
    (|b| sb(b, 48, &[0; 8]), "the log lies on another device"),
    (|b| sb(b, 48, &[1; 8]), "an impossible place or size of the log"),
    (|b| sb(b, 96, &[0; 4]), "an impossible place or size of the log"),
    (|b| sb(b, 96, &[0, 0, 0x20, 0]), "an impossible place or size of the log"),
    (|b| sb(b, 56, &[0; 8]), "has no root directory"),
    (|b| sb(b, 56, &[0xFF; 8]), "has no root directory"),
    (|b| sb(b, 56, &[0x7F; 8]), "names an inode that lies outside the volume"),
    (|b| sb(b, 160, &[0x7F; 8]), "names an inode that lies outside the volume"),
    (|b| sb(b, 219, &[0x1B]), "marked as needing repair: run xfs_repair"),
    (|b| sb(b, 218, &[1]), "the feature metadir, which is not supported"),
    (|b| sb(b, 218, &[2]), "the feature zoned, which is not supported"),
    (|b| sb(b, 218, &[8]), "an unknown feature (incompat 0x800)"),
    (|b| sb(b, 214, &[1]), "an unknown feature (ro_compat 0x100)"),
    (|b| sb(b, 211, &[4]), "an unknown feature (compat 0x4)"),
    (|b| sb(b, 223, &[1]), "may hold changes of an unknown kind (log_incompat 0x1)"),
    (|b| sb(b, 240, &[0x7F; 8]), "the superblock is newer than the log"),
    (
        |b| {
            let wrong = be(b, 144, 8) + 1;
            sb(b, 144, &wrong.to_be_bytes());
        },
        "free blocks, the superblock",
    ),
    (|b| sb(b, 32, &[7; 16]), "the log belongs to another file system"),
    // The structures bear `sb_meta_uuid`, which is another one.
    (|b| sb(b, 219, &[0x0F]), "the AGF of allocation group 0 belongs to another file"),
    (
        |b| {
            let n = b.len() - 4096;
            b.truncate(n);
        },
        "the volume was cut off",
    ),
    (|b| b.truncate(300), "lie beyond the end"),
    // The headers.
    (
        |b| {
            let at = group(b, 1);
            b[at] = 0;
        },
        "the superblock's copy in allocation group 1 is damaged",
    ),
    (
        |b| {
            let at = group(b, 1);
            b[at + 87] ^= 1;
        },
        "the superblock's copy in allocation group 1 is damaged",
    ),
    (
        |b| {
            let at = group(b, 1);
            b[at + 512 + 120] ^= 1;
        },
        "the AGF of allocation group 1 does not match its checksum",
    ),
    (|b| header(b, 1, 3, b"X"), "the AGF of allocation group 1 lacks its signature"),
    (|b| header(b, 1, 7, &[2]), "the AGF of allocation group 1 lacks its signature"),
    (|b| header(b, 1, 11, &[0]), "the AGF of allocation group 1 is not that of its"),
    (|b| header(b, 1, 15, &[1]), "the AGF of allocation group 1 is not that of its"),
    (|b| header(b, 1, 64, &[1; 16]), "the AGF of allocation group 1 belongs to another"),
    (|b| header(b, 1, 208, &[0x7F; 8]), "the AGF of allocation group 1 is newer than"),
    (|b| header(b, 1, 40, &[0xFF; 4]), "does not fit the list of blocks set aside"),
    (|b| header(b, 1, 44, &[0xFF; 4]), "does not fit the list of blocks set aside"),
    (|b| header(b, 1, 51, &[99]), "does not fit the list of blocks set aside"),
    (|b| set_aside(b, 119, 3), "does not fit the list of blocks set aside"),
    (|b| set_aside(b, 117, 120), "does not fit the list of blocks set aside"),
    (|b| header(b, 1, 16, &[0xFF; 4]), "has a B+tree outside the group"),
    (|b| header(b, 1, 16, &[0; 4]), "has a B+tree outside the group"),
    (|b| header(b, 1, 20, &[0xFF; 4]), "has a B+tree outside the group"),
    (|b| header(b, 1, 31, &[0]), "an impossible number of levels"),
    (|b| header(b, 1, 31, &[10]), "an impossible number of levels"),
    (|b| header(b, 1, 31, &[2]), "is of another level"),
    (|b| header(b, 1, 55, &[1]), "the AGF does not agree with the B+trees"),
    (|b| header(b, 1, 59, &[1]), "the AGF does not agree with the B+trees"),
    (|b| header(b, 1, 63, &[1]), "the number of blocks of B+trees"),
    (
        |b| {
            let at = group(b, 1);
            b[at + 1024 + 200] ^= 1;
        },
        "the AGI of allocation group 1 does not match its checksum",
    ),
    (|b| header(b, 2, 3, b"X"), "the AGI of allocation group 1 lacks its signature"),
    (|b| header(b, 2, 11, &[0]), "the AGI of allocation group 1 is not that of its"),
    (|b| header(b, 2, 296, &[1; 16]), "the AGI of allocation group 1 belongs to another"),
    (|b| header(b, 2, 320, &[0x7F; 8]), "the AGI of allocation group 1 is newer than"),
    (|b| header(b, 2, 20, &[0xFF; 4]), "has a B+tree outside the group"),
    (|b| header(b, 2, 328, &[0; 4]), "has a B+tree outside the group"),
    (|b| header(b, 1, 88, &[0; 4]), "has a B+tree outside the group"),
    (
        |b| {
            let at = group(b, 1);
            b[at + 1536 + 200] ^= 1;
        },
        "the AGFL of allocation group 1 does not match its checksum",
    ),
    (|b| header(b, 3, 3, b"X"), "the AGFL of allocation group 1 lacks its signature"),
    (|b| header(b, 3, 7, &[0]), "the AGFL of allocation group 1 lacks its signature"),
    (|b| header(b, 3, 8, &[1; 16]), "the AGFL of allocation group 1 belongs to another"),
    (|b| header(b, 3, 24, &[0x7F; 8]), "the AGFL of allocation group 1 is newer than"),
    (
        |b| {
            let first = be(b, group(b, 1) + 512 + 40, 4) as usize;
            header(b, 3, 36 + first * 4, &[0x7F]);
        },
        "names a block outside its group",
    ),
    // What is in use called free.
    (
        |b| add_block(b, 1, first_set_aside),
        "a block set aside of allocation group 1 is called free",
    ),
    (|b| add_block(b, 1, |b, g| be(b, g + 512 + 16, 4)), "a block of a B+tree of"),
    (|b| add_block(b, 1, |b, g| be(b, g + 512 + 20, 4)), "a block of a B+tree of"),
    (|b| add_block(b, 1, |b, g| be(b, g + 512 + 88, 4)), "the root of a B+tree of"),
    (|b| add_block(b, 1, |b, g| be(b, g + 1024 + 20, 4)), "the root of a B+tree of"),
    (|b| add_block(b, 1, |b, g| be(b, g + 1024 + 328, 4)), "the root of a B+tree of"),
    (|b| add_block(b, 0, |b, _| be(b, 56, 8) >> b[123]), "a system inode of"),
    (
        |b| {
            // Its last block.
            add_block(b, 1, |b, _| {
                let mask = (1 << b[124]) - 1;
                (be(b, 48, 8) & mask) + be(b, 96, 4) - 1
            });
        },
        "the log of allocation group 1 is called free",
    ),
    // The B+trees.
    (|b| change_free(b, 1, |e| e.insert(0, (0, 1))), "an extent outside its group"),
    (|b| change_free(b, 1, |e| e.last_mut().unwrap().1 += 1), "an extent outside its"),
    (|b| change_free(b, 1, |e| e.push((u32::MAX, 9))), "an extent outside its group"),
    (|b| change_free(b, 1, |e| e[0].1 = 0), "an extent outside its group"),
    (|b| change_free(b, 1, |e| e.swap(0, 1)), "by block of allocation group 1 is not in"),
    (
        |b| change_free(b, 1, |e| e[0].1 = e[1].0 - e[0].0 + 1),
        "by block of allocation group 1 is not in order",
    ),
    (
        |b| {
            // Two records of the other tree trade their places.
            let at = root(b, 1, BY_SIZE);
            let first = b[at + 56..at + 64].to_vec();
            let second = b[at + 64..at + 72].to_vec();
            block(b, at, 56, &[second, first].concat());
        },
        "by size of allocation group 1 is not in order",
    ),
    (
        |b| {
            // The same counts, and the longest one too, but another place.
            let at = root(b, 1, BY_SIZE);
            let start = be(b, at + 56, 4) as u32 - 1;
            block(b, at, 56, &start.to_be_bytes());
        },
        "the two B+trees do not agree on the free space of allocation group 1",
    ),
    (
        |b| {
            let at = root(b, 1, BY_SIZE);
            let records = be(b, at + 6, 2) as u16 - 1;
            block(b, at, 6, &records.to_be_bytes());
        },
        "the two B+trees do not agree on the free space of allocation group 1",
    ),
    (
        |b| {
            let at = root(b, 1, BY_BLOCK);
            b[at + 100] ^= 1;
        },
        "a block of the B+tree of free space by block of allocation group 1 does not",
    ),
    (
        |b| {
            let at = root(b, 1, BY_SIZE);
            b[at + 4000] ^= 1;
        },
        "a block of the B+tree of free space by size of allocation group 1 does not",
    ),
    (|b| node(b, BY_BLOCK, 0, b"AB3C"), "lacks its signature"),
    (|b| node(b, BY_SIZE, 0, b"AB3B"), "lacks its signature"),
    (|b| node(b, BY_BLOCK, 5, &[1]), "is of another level"),
    (|b| node(b, BY_BLOCK, 6, &[2, 0]), "an impossible number of records"),
    (|b| node(b, BY_BLOCK, 8, &[0; 4]), "has other neighbours"),
    (|b| node(b, BY_BLOCK, 12, &[0; 4]), "goes on after its end"),
    (|b| node(b, BY_BLOCK, 23, &[0xFF]), "belongs elsewhere"),
    (|b| node(b, BY_BLOCK, 24, &[0x7F; 8]), "is newer than the log"),
    (|b| node(b, BY_BLOCK, 32, &[1; 16]), "belongs elsewhere"),
    (|b| node(b, BY_BLOCK, 51, &[0]), "belongs elsewhere"),
    // The log.
    (|b| log(b, 512 + 9, &[0x10]), "was not unmounted, its log holds changes"),
    (|b| log(b, 512 + 8, &[0x69]), "was not unmounted, its log holds changes"),
    (|b| log(b, 43, &[2]), "was not unmounted, its log holds changes"),
    (|b| log(b, 14, &[4]), "was not unmounted, its log holds changes"),
    (|b| log(b, 321, &[1]), "was not unmounted, its log holds changes"),
    (|b| log(b, 0, &[0, 0, 0, 1]), "log"),
    (|b| log(b, 7, &[9]), "the log was not written to the end"),
    (|b| unsummed(b, 11, &[1]), "the log has a damaged record at its end"),
    (|b| unsummed(b, 23, &[0x77]), "the log has a damaged record at its end"),
    (|b| unsummed(b, 19, &[0x77]), "the log has a damaged record at its end"),
    (|b| log(b, 100, &[1]), "the log has a damaged record at its end"),
    (|b| log(b, 512 + 100, &[1]), "the log has a damaged record at its end"),
    (|b| log(b, 305, &[1, 2, 3]), "the log belongs to another file system"),
    (
        |b| {
            let (header, head) = unmount(b);
            let cycle = b[header + 4..header + 8].to_vec();
            put(b, head + 3 * 512, &cycle);
        },
        "the log was not written to the end",
    ),
    (
        |b| {
            let (header, _) = unmount(b);
            put(b, header - 512, &[0; 4]);
        },
        "log",
    ),
    (
        |b| {
            let place = Place::of(b);
            b[place.start..][..place.blocks * 512].fill(0);
        },
        "the log is empty",
    ),
    (
        |b| {
            let place = Place::of(b);
            put(b, place.start + place.blocks * 512 - 512, &[0, 0, 0, 9]);
        },
        "the log does not end as it should",
    ),
    (
        |b| {
            let place = Place::of(b);
            put(b, place.start + (place.blocks - 1) / 2 * 512, &[0, 0, 0, 9]);
        },
        "the log was not written to the end",
    ),
];

#[test]
fn every_reason_has_its_image() {
    let test = "every_reason_not_to_trust_an_xfs_has_its_image";
    if !have(test, TOOLS) || !have(test, &["losetup"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let image = make(&scratch, "v", "34M", "-d agcount=2");
    let sound = fs::read(image).unwrap();
    assert_eq!(be(&sound, 4, 4), 4096);
    assert_eq!(be(&sound, 48, 8) >> sound[124], 1, "the log lies in group 1");
    let before = survey(&sound);
    assert_reasons("xfs", &sound, REASONS.iter().copied());

    // What is no reason: features that change nothing here, a record without a
    // checksum, other counts, what follows the file system.
    let mut odd = sound.clone();
    odd[219] |= 0xE0;
    put(&mut odd, 178, &[1]);
    put(&mut odd, 128, &[0; 16]);
    seal(&mut odd);
    log(&mut odd, 32, &[0; 4]);
    odd.resize(odd.len() + 9999, 7);
    assert_eq!(survey(&odd), before);
    // Nor a structure that was written without the log.
    header(&mut odd, 1, 208, &[0xFF; 8]);
    assert_eq!(survey(&odd), before);
    // Extents that touch are one range.
    let mut odd = sound.clone();
    change_free(&mut odd, 1, |extents| {
        let last = extents.last_mut().unwrap();
        last.1 -= 5;
        let next = (last.0 + last.1, 5);
        extents.push(next);
    });
    assert_eq!(survey(&odd), before);
    // A group without any free space.
    let mut odd = sound.clone();
    change_free(&mut odd, 1, |extents| extents.truncate(1));
    let (found, free) = survey(&odd);
    assert_eq!(found.untrusted, None);
    assert!(free.len() > 2 && free.len() < before.1.len());
}
