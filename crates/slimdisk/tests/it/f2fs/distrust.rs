//! Every reason not to trust: an image that gives it, and its sound twin; and bytes
//! at random, which may give any reason but a panic or a long wait.

use std::fs;

use super::{BLOCK, TOOLS, le, make_sound, survey};
use crate::free_map::{Damage, Spoil, assert_noise_is_nothing, assert_reasons, put};
use crate::support::{Scratch, have, sh};

/// CRC-32, bit by bit, from F2FS's magic number on.
fn crc(bytes: &[&[u8]]) -> u32 {
    bytes.concat().iter().fold(0xF2F5_2010, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            sum >> 1 ^ if sum & 1 == 1 { 0xEDB8_8320 } else { 0 }
        })
    })
}

/// Changes both superblocks and puts their checksums right.
fn sb(bytes: &mut [u8], at: usize, with: &[u8]) {
    for start in [1024, 1024 + BLOCK] {
        put(bytes, start + at, with);
        let sum = crc(&[&bytes[start..start + 3068]]);
        put(bytes, start + 3068, &sum.to_le_bytes());
    }
}

/// The first block of the newer pack.
fn newest(bytes: &[u8]) -> usize {
    let first = le(bytes, 1024 + 76, 4) * BLOCK;
    let second = first + 512 * BLOCK;
    if le(bytes, second, 8) > le(bytes, first, 8) { second } else { first }
}

/// Puts the checksum of a checkpoint's block right.
fn sum_checkpoint(bytes: &mut [u8], start: usize) {
    let at = start + le(bytes, start + 164, 4);
    let sum = crc(&[&bytes[start..at], &bytes[at + 4..start + BLOCK]]);
    put(bytes, at, &sum.to_le_bytes());
}

/// Changes both blocks of the newer pack.
fn cp(bytes: &mut [u8], at: usize, with: &[u8]) {
    let start = newest(bytes);
    let end = start + (le(bytes, start + 136, 4) - 1) * BLOCK;
    for start in [start, end] {
        put(bytes, start + at, with);
        sum_checkpoint(bytes, start);
    }
}

fn flags(bytes: &mut [u8], set: u32, clear: u32) {
    let old = le(bytes, newest(bytes) + 132, 4) as u32;
    cp(bytes, 132, &((old | set) & !clear).to_le_bytes());
}

/// Adds to a number of the newer pack.
fn add(bytes: &mut [u8], at: usize, size: usize, plus: usize) {
    let old = le(bytes, newest(bytes) + at, size);
    cp(bytes, at, &old.wrapping_add(plus).to_le_bytes()[..size]);
}

/// Where the journal of NAT entries lies, then that of SIT entries.
fn journals(bytes: &[u8]) -> [usize; 2] {
    let start = newest(bytes);
    if le(bytes, start + 132, 4) & 4 != 0 {
        let at = start + le(bytes, start + 140, 4) * BLOCK;
        [at, at + 507]
    } else {
        let at = start + (le(bytes, start + 136, 4) - 7) * BLOCK + 3584;
        [at, at + 2 * BLOCK]
    }
}

/// The entry of a segment: in the journal or in the copy of the table that counts.
fn sit(bytes: &[u8], segment: usize) -> usize {
    let journal = journals(bytes)[1];
    for number in 0..le(bytes, journal, 2) {
        let at = journal + 2 + number * 78;
        if le(bytes, at, 4) == segment {
            return at + 4;
        }
    }
    sit_in_table(bytes, segment)
}

fn sit_in_table(bytes: &[u8], segment: usize) -> usize {
    let (number, start) = (segment / 55, newest(bytes));
    let second = bytes[start + 192 + number / 8] >> (7 - number % 8) & 1;
    let copy = le(bytes, 1024 + 56, 4) / 2 * 512 * usize::from(second);
    (le(bytes, 1024 + 80, 4) + copy + number) * BLOCK + segment % 55 * 74
}

/// The segment of a log: 0 to 2 of data, 3 to 5 of nodes.
fn log(bytes: &[u8], number: usize) -> (usize, usize) {
    let start = newest(bytes);
    if number < 3 {
        (le(bytes, start + 84 + number * 4, 4), le(bytes, start + 116 + number * 2, 2))
    } else {
        let number = number - 3;
        (le(bytes, start + 36 + number * 4, 4), le(bytes, start + 68 + number * 2, 2))
    }
}

/// Where the next block of a log lies.
fn next_of_log(bytes: &[u8], number: usize) -> usize {
    let (segment, offset) = log(bytes, number);
    (le(bytes, 1024 + 92, 4) + segment * 512 + offset) * BLOCK
}

/// Frees one block in the map and puts the segment's own count right; gives the
/// block's number in the main area.
fn free_first(bytes: &mut [u8], segment: usize) {
    let at = sit(bytes, segment);
    let byte = (at + 2..at + 66).find(|at| bytes[*at] != 0).unwrap();
    bytes[byte] &= bytes[byte] - 1;
    let count = le(bytes, at, 2) - 1;
    put(bytes, at, &(count as u16).to_le_bytes());
}

/// The entry of the root directory in the node address table or its journal.
fn root_entry(bytes: &[u8]) -> usize {
    let journal = journals(bytes)[0];
    for number in 0..le(bytes, journal, 2) {
        let at = journal + 2 + number * 13;
        if le(bytes, at, 4) == 3 {
            return at + 4;
        }
    }
    let start = newest(bytes);
    let bitmap = start + 192 + le(bytes, start + 156, 4);
    let copy = usize::from(bytes[bitmap] >> 7) * 512;
    (le(bytes, 1024 + 84, 4) + copy) * BLOCK + 3 * 9
}

fn version(bytes: &[u8]) -> [u8; 8] {
    le(bytes, newest(bytes), 8).to_le_bytes()
}

/// A sound volume whose journal has entries: two of the table's, which count from then
/// on instead of those.
fn make_journalled(scratch: &Scratch) -> Vec<u8> {
    let mut bytes = make_sound(scratch);
    let journal = journals(&bytes)[1];
    for number in 0..2 {
        let (segment, _) = log(&bytes, number);
        let table = sit_in_table(&bytes, segment);
        let entry = bytes[table..table + 74].to_vec();
        let at = journal + 2 + number * 78;
        put(&mut bytes, at, &(segment as u32).to_le_bytes());
        put(&mut bytes, at + 4, &entry);
    }
    put(&mut bytes, journal, &[2, 0]);
    bytes
}

const REASONS: &[(Spoil, &str)] = &[
    // The superblocks.
    (|b| b[1024] = 0, "the superblock lacks its signature"),
    (|b| b[BLOCK + 1024] = 0, "the superblock lacks its signature"),
    (|b| b[1024 + 1700] ^= 1, "the superblock does not match its checksum"),
    (|b| b[BLOCK + 1024 + 3068] ^= 1, "the superblock does not match its checksum"),
    (|b| sb(b, 32, &[0; 4]), "the superblock does not match its checksum"),
    (
        |b| {
            let copy = b[1024..1024 + BLOCK].to_vec();
            sb(b, 124, b"x\0");
            put(b, 1024, &copy[..3072]);
        },
        "the two superblocks do not agree",
    ),
    (|b| sb(b, 16, &[14]), "a block size other than 4 KiB"),
    (|b| sb(b, 20, &[10]), "impossible size of sectors"),
    (|b| sb(b, 8, &[13]), "impossible size of sectors"),
    (|b| sb(b, 12, &[2]), "impossible size of sectors"),
    (|b| sb(b, 36, &[0xFF; 8]), "impossible number of blocks"),
    (|b| sb(b, 76, &[0xFF; 4]), "lets its areas overlap"),
    (|b| sb(b, 80, &[0; 4]), "lets its areas overlap"),
    (|b| sb(b, 84, &[0; 4]), "lets its areas overlap"),
    (|b| sb(b, 88, &[0; 4]), "lets its areas overlap"),
    (|b| sb(b, 92, &[0; 4]), "lets its areas overlap"),
    (|b| sb(b, 68, &[0xFF, 0, 0, 0]), "lets its areas leave the volume"),
    (|b| sb(b, 48, &[0xFF, 0, 0, 0]), "lets its areas leave the volume"),
    (|b| sb(b, 36, &[0, 8, 0, 0, 0, 0, 0, 0]), "lets its areas leave the volume"),
    (|b| sb(b, 1664, &[0xF8, 1]), "gives checkpoints an impossible size"),
    (
        |b| {
            let n = b.len() - 4096;
            b.truncate(n);
        },
        "the volume was cut off",
    ),
    (|b| sb(b, 2180, &[0x2A]), "the feature blkzoned, which is not supported"),
    (|b| sb(b, 2181, &[0x48]), "the feature ro, which is not supported"),
    (|b| sb(b, 2181, &[0x88]), "the feature device_alias, which is not supported"),
    (|b| sb(b, 2182, &[1]), "the feature packed_ssa, which is not supported"),
    (|b| sb(b, 2182, &[2]), "an unknown feature (0x20000)"),
    (|b| sb(b, 2183, &[0x80]), "an unknown feature (0x80000000)"),
    (|b| sb(b, 2201, b"/dev/sdb"), "lies on several devices"),
    (|b| sb(b, 2201 + 68 + 64, &[1]), "lies on several devices"),
    (|b| sb(b, 2794, &[4]), "says that the kernel found damage"),
    // The state.
    (|b| flags(b, 0, 1), "was not unmounted: mount it once in Linux"),
    (|b| flags(b, 0x20, 1), "was not unmounted"),
    (|b| flags(b, 8, 0), "asks for a check of the file system: run fsck.f2fs"),
    (|b| flags(b, 0x10, 0), "asks for a check of the file system"),
    (|b| flags(b, 0x800, 0), "asks for a check of the file system"),
    (|b| flags(b, 0x1000, 0), "checkpoints were disabled"),
    (|b| flags(b, 0x2000, 0), "checkpoints were disabled"),
    (|b| flags(b, 0x4000, 0), "change of the file system's size was interrupted"),
    (|b| flags(b, 0x8000, 0), "unknown flags (0x8000)"),
    (|b| flags(b, 0x8000_0000, 0), "unknown flags (0x80000000)"),
    // What was synced: with the whole version, and with its lower half.
    (
        |b| {
            let (at, version) = (next_of_log(b, 4), version(b));
            put(b, at + BLOCK - 12, &version);
        },
        "files were synced after the last checkpoint",
    ),
    (
        |b| {
            let (at, version) = (next_of_log(b, 3), version(b));
            put(b, at + BLOCK - 12, &version);
            put(b, at + BLOCK - 8, &[7; 4]);
        },
        "files were synced after the last checkpoint",
    ),
    (
        |b| {
            let (at, version) = (next_of_log(b, 5), version(b));
            put(b, at + BLOCK - 12, &version);
        },
        "files were synced after the last checkpoint",
    ),
    // Checkpoints.
    (
        |b| {
            let at = newest(b);
            b[at + 20] ^= 1;
        },
        "a checkpoint does not match its checksum",
    ),
    (
        |b| {
            let at = newest(b);
            b[at + 4095] ^= 1;
        },
        "a checkpoint does not match its checksum",
    ),
    (
        |b| {
            let first = le(b, 1024 + 76, 4) * BLOCK;
            let older = first + 512 * BLOCK + first - newest(b);
            b[older + 20] ^= 1;
        },
        "a checkpoint does not match its checksum",
    ),
    (
        |b| {
            let start = newest(b);
            let end = start + (le(b, start + 136, 4) - 1) * BLOCK;
            b[end] ^= 1;
            sum_checkpoint(b, end);
        },
        "was not completely written",
    ),
    (
        |b| {
            let start = newest(b);
            put(b, start + 136, &[2, 0]);
            sum_checkpoint(b, start);
        },
        "gives itself an impossible size",
    ),
    (
        |b| {
            let start = newest(b);
            put(b, start + 136, &[1, 2]);
            sum_checkpoint(b, start);
        },
        "gives itself an impossible size",
    ),
    (|b| cp(b, 36, &[0xFF; 4]), "lets a log leave the main area"),
    (|b| cp(b, 88, &[0xFF; 4]), "lets a log leave the main area"),
    (|b| cp(b, 120, &[0, 2]), "lets a log leave the main area"),
    (
        |b| {
            let hot = (log(b, 0).0 as u32).to_le_bytes();
            cp(b, 44, &hot);
        },
        "lets two logs use one segment",
    ),
    (|b| add(b, 140, 4, 3), "gives its summaries an impossible place"),
    (|b| sb(b, 1664, &[100]), "gives its summaries an impossible place"),
    (|b| cp(b, 156, &[65]), "version bitmaps of an impossible size"),
    (|b| cp(b, 160, &[65]), "version bitmaps of an impossible size"),
    // The layout of large NAT bitmaps before Linux 5.2.
    (|b| flags(b, 0x400, 0), "has its checksum in another place"),
    // Journals.
    (
        |b| {
            let at = journals(b)[1];
            put(b, at, &[7, 0]);
        },
        "a journal of the checkpoint is damaged",
    ),
    (
        |b| {
            let at = journals(b)[0];
            put(b, at, &[39, 0]);
        },
        "a journal of the checkpoint is damaged",
    ),
    (
        |b| {
            let at = journals(b)[1];
            let count = le(b, at, 2);
            assert!(count > 0);
            put(b, at + 2, &[0xFF; 4]);
        },
        "a journal of the checkpoint is damaged",
    ),
    (
        |b| {
            let at = journals(b)[1];
            let first = b[at + 2..at + 2 + 78].to_vec();
            put(b, at, &[2]);
            put(b, at + 2 + 78, &first);
        },
        "a journal of the checkpoint is damaged",
    ),
    // The table.
    (
        |b| {
            let at = sit(b, 5);
            b[at + 2 + 63] ^= 1;
        },
        "blocks in use where its count says",
    ),
    (
        |b| {
            let at = sit(b, 5);
            b[at] ^= 1;
        },
        "segment 5 has",
    ),
    (
        |b| {
            let at = sit(b, 5);
            b[at + 1] |= 0x18;
        },
        "is of the unknown type",
    ),
    (
        |b| {
            let (segment, offset) = log(b, 1);
            let at = sit(b, segment);
            b[at + 2 + offset / 8] |= 0x80 >> (offset % 8);
            let count = le(b, at, 2) + 1;
            put(b, at, &(count as u16).to_le_bytes());
        },
        "has blocks in use that are yet to be written",
    ),
    (
        |b| {
            // A log that only appends.
            cp(b, 177, &[0]);
            let (segment, _) = log(b, 1);
            let at = sit(b, segment);
            b[at + 2 + 63] |= 1;
            let count = le(b, at, 2) + 1;
            put(b, at, &(count as u16).to_le_bytes());
        },
        "has blocks in use that are yet to be written",
    ),
    (
        |b| {
            let mut node_logs = [4, 5, 3].into_iter().map(|number| log(b, number).0);
            let segment = node_logs.find(|segment| le(b, sit(b, *segment), 2) % 1024 > 1);
            free_first(b, segment.unwrap());
        },
        "node blocks in use, the checkpoint",
    ),
    (|b| add(b, 32, 4, 1), "empty segments, the checkpoint"),
    (|b| add(b, 144, 4, 1), "node blocks in use, the checkpoint"),
    (|b| cp(b, 16, &[1, 0, 0, 0]), "blocks in use, the checkpoint"),
    // The root directory.
    (
        |b| {
            let at = root_entry(b);
            b[at + 1] = 9;
        },
        "the root directory is not where",
    ),
    (
        |b| {
            let at = root_entry(b);
            put(b, at + 5, &[0; 4]);
        },
        "the root directory is not where",
    ),
    (
        |b| {
            let at = root_entry(b);
            b[at + 5] ^= 1;
        },
        "the root directory is not where",
    ),
    (|b| sb(b, 96, &[0xA0, 0x0F]), "the root directory is not where"),
    (|b| sb(b, 96, &[0xFF; 4]), "the root directory is not where"),
    (
        |b| {
            let at = root_entry(b);
            let block = le(b, at + 5, 4);
            let index = block - le(b, 1024 + 92, 4);
            let entry = sit(b, index / 512);
            b[entry + 2 + index % 512 / 8] &= !(0x80 >> (index % 8));
            let count = le(b, entry, 2) - 1;
            put(b, entry, &(count as u16).to_le_bytes());
        },
        "calls the block of the root directory free",
    ),
];

#[test]
fn every_reason_has_its_image() {
    let test = "every_reason_not_to_trust_an_f2fs_has_its_image";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let sound = make_journalled(&scratch);
    let before = survey(&sound);
    assert_reasons("f2fs", &sound, REASONS.iter().copied());
    // What is no reason: orphans, a stop that is long past, reserved blocks that are
    // more; the older pack's state; a volume that is longer.
    let mut odd = sound.clone();
    flags(&mut odd, 2, 0);
    sb(&mut odd, 2762, &[3]);
    add(&mut odd, 16, 4, 500);
    odd.resize(odd.len() + 9999, 0);
    assert_eq!(survey(&odd), before);
    // A log that fills gaps may have blocks in use behind its next one.
    let mut odd = sound;
    let (segment, _) = log(&odd, 0);
    let at = sit(&odd, segment);
    odd[at + 2 + 63] |= 1;
    let count = le(&odd, at, 2) + 1;
    put(&mut odd, at, &(count as u16).to_le_bytes());
    add(&mut odd, 16, 4, 1);
    cp(&mut odd, 176, &[0]);
    assert!(survey(&odd).0.untrusted.is_some());
    cp(&mut odd, 176, &[1]);
    let (found, free) = survey(&odd);
    assert_eq!(found.untrusted, None);
    assert_eq!(free.iter().map(|r| r.end - r.start).sum::<u64>() + 4096, {
        before.0.free_bytes
    });
}

#[test]
fn the_newer_checkpoint_counts_and_the_table_that_it_names() {
    let test = "the_newer_f2fs_checkpoint_counts";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let sound = make_journalled(&scratch);
    let first = le(&sound, 1024 + 76, 4) * BLOCK;
    let newer = newest(&sound);
    let older = first + 512 * BLOCK + first - newer;
    let end = older + (le(&sound, older + 136, 4) - 1) * BLOCK;
    let mut bytes = sound.clone();
    let mut both = |at: usize, with: &[u8]| {
        for start in [older, end] {
            put(&mut bytes, start + at, with);
            sum_checkpoint(&mut bytes, start);
        }
        survey(&bytes)
    };
    // An older one of a mounted file system is not read; a newer one is. Versions
    // wrap around.
    assert_eq!(both(132, &[0x84]), survey(&sound));
    let version = le(&sound, newer, 8) as u64;
    for (other, newer) in [
        (version + 1, true),
        (version - 1, false),
        (version + (1 << 63) - 1, true),
        (version + (1 << 63) + 1, false),
    ] {
        let reason = both(0, &other.to_le_bytes()).0.untrusted;
        let said = reason.is_some_and(|reason| reason.contains("was not unmounted"));
        assert_eq!(said, newer, "{version} {other}");
    }
    // Of the two copies of the table only that counts which the checkpoint names.
    let mut bytes = sound.clone();
    let counts = sit_in_table(&sound, 0);
    cp(&mut bytes, 192, &[sound[newer + 192] ^ 0x80]);
    let other = sit_in_table(&bytes, 0);
    assert_ne!(counts, other);
    let mut bytes = sound.clone();
    bytes[other..other + BLOCK].fill(0x5A);
    assert_eq!(survey(&bytes), survey(&sound));
    cp(&mut bytes, 192, &[sound[newer + 192] ^ 0x80]);
    assert!(survey(&bytes).0.untrusted.is_some());
    bytes.copy_within(counts..counts + BLOCK, other);
    bytes[counts..counts + BLOCK].fill(0x5A);
    assert_eq!(survey(&bytes), survey(&sound));
    // A journal entry counts instead of the table's.
    let journal = journals(&sound)[1];
    assert!(le(&sound, journal, 2) > 0);
    let mut bytes = sound.clone();
    let segment = le(&sound, journal + 2, 4);
    let table = sit_in_table(&sound, segment);
    bytes[table..table + 66].fill(0x5A);
    assert_eq!(survey(&bytes), survey(&sound));
}

#[test]
fn several_devices_are_refused() {
    let test = "several_devices_of_an_f2fs_are_refused";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    sh(&format!(
        "cd {}; truncate -s 112M a b; mkfs.f2fs -q -c b a",
        scratch.dir().display()
    ));
    let mut bytes = fs::read(scratch.path("a")).unwrap();
    // It is larger than its first device, which alone would do.
    let reason = survey(&bytes).0.untrusted.unwrap();
    assert!(reason.contains("the volume was cut off"), "{reason}");
    bytes.resize(bytes.len() * 2, 0);
    let reason = survey(&bytes).0.untrusted.unwrap();
    assert!(reason.contains("lies on several devices"), "{reason}");
}

#[test]
fn damage_frees_nothing() {
    let test = "damage_of_an_f2fs_frees_nothing";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let image = scratch.path("v");
    sh(&format!(
        "truncate -s 64M {0}; mkfs.f2fs -q {0}; mkdir {0}.d; seq 1 200000 > {0}.d/file
         sload.f2fs -f {0}.d {0}",
        image.display()
    ));
    let bytes = fs::read(&image).unwrap();
    let (found, before) = survey(&bytes);
    assert_eq!(found.untrusted, None);
    let start = newest(&bytes);
    let sit = sit_in_table(&bytes, 0);
    let [nat_journal, sit_journal] = journals(&bytes);
    let areas = [
        sit..sit + 15 * 74,
        nat_journal..nat_journal + 60,
        sit_journal..sit_journal + 200,
        1024..1024 + 108,
        start..start + 300,
        1024 + 1664..1024 + 1668,
    ];
    let damage = Damage {
        name: "f2fs",
        areas: &areas,
        rounds: 200,
        seed: 42,
        readings: 1,
        mend: &|bytes| {
            let first: Vec<u8> = bytes[1024..1024 + 3072].to_vec();
            put(bytes, 1024 + BLOCK, &first);
            let copy = bytes[start..start + BLOCK].to_vec();
            let blocks = le(bytes, start + 136, 4);
            if (2..512).contains(&blocks) && le(bytes, start + 164, 4) <= 4092 {
                put(bytes, start + (blocks - 1) * BLOCK, &copy);
                sum_checkpoint(bytes, start);
                sum_checkpoint(bytes, start + (blocks - 1) * BLOCK);
            }
        },
    };
    let mut trusted = [0; 6];
    let refused = damage.run(&bytes, |area, free| {
        trusted[area] += 1;
        // Nothing guards the numbers of a checkpoint whose checksum holds.
        assert!(area >= 3 || free == before, "area {area}: {free:?}");
    });
    assert!(refused > 60, "only {refused} were refused; {trusted:?}");
}

#[test]
fn any_bytes_at_all() {
    assert_noise_is_nothing("f2fs", |bytes| {
        for at in [1024, 1024 + BLOCK] {
            if bytes.len() > at + 4 {
                put(bytes, at, b"\x10\x20\xF5\xF2");
            }
        }
    });
}
