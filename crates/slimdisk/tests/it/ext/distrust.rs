//! Every reason not to trust: an image that gives it, and its sound twin; and
//! bytes at random, which may give any reason but a panic or a long wait.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{
    TOOLS, debugfs, distrusted, flip, make_tree, read_bytes, survey, trusted, write_bytes,
};
use crate::support::{Noise, Scratch, have, sh};

/// Makes a file system with files in it.
fn make(scratch: &Scratch, name: &str, options: &str) -> PathBuf {
    let image = scratch.path(name);
    if !scratch.path("tree").exists() {
        make_tree(&scratch.path("tree"));
    }
    sh(&format!(
        "truncate -s 40M {0}; mke2fs -q -F -d {1} {options} {0} 2>&1",
        image.display(),
        scratch.path("tree").display()
    ));
    trusted(&image);
    image
}

fn crc32c(sum: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!sum, bytes)
}

/// Changes bytes of the superblock and puts its checksum right.
fn patch_superblock(image: &Path, at: usize, bytes: &[u8]) {
    let mut superblock = read_bytes(image, 1024, 1024);
    superblock[at..at + bytes.len()].copy_from_slice(bytes);
    let sum = crc32c(!0, &superblock[..0x3FC]);
    superblock[0x3FC..].copy_from_slice(&sum.to_le_bytes());
    write_bytes(image, 1024, &superblock);
}

/// Sets bits in one of the superblock's feature words.
fn add_features(image: &Path, at: usize, bits: u32) {
    let old = read_bytes(image, 1024 + at as u64, 4);
    let old = u32::from_le_bytes(old.try_into().unwrap());
    patch_superblock(image, at, &(old | bits).to_le_bytes());
}

/// A number that `dumpe2fs` prints after `text`, first counted from `from`.
fn dumped(image: &Path, from: &str, text: &str) -> u64 {
    let dump = sh(&format!("dumpe2fs {} 2>/dev/null", image.display()));
    let rest = dump.split_once(from).unwrap().1.split_once(text).unwrap().1.trim_start();
    rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// The byte at which the journal's superblock starts.
fn journal_superblock(image: &Path, block_size: u64) -> u64 {
    let blocks = sh(&format!("debugfs -R 'blocks <8>' {} 2>/dev/null", image.display()));
    blocks.split_whitespace().next().unwrap().parse::<u64>().unwrap() * block_size
}

const COMPAT: usize = 0x5C;
const INCOMPAT: usize = 0x60;
const RO_COMPAT: usize = 0x64;

/// How an image is spoilt.
type Spoil = fn(&Path);

const EXT4: &str = "-t ext4 -b 1024";
const PLAIN: &str = "-t ext4 -b 1024 -O ^metadata_csum";
const GDT_CSUM: &str = "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg";
const EXT2: &str = "-t ext2 -b 1024";

/// Options of `mke2fs`, how the image is spoilt, and what the reason says.
const REASONS: &[(&str, Spoil, &str)] = &[
    // State.
    (EXT4, |i| debugfs(i, "ssv state 3"), "recorded errors: run e2fsck -f"),
    (EXT4, |i| debugfs(i, "ssv error_count 1"), "recorded errors"),
    (EXT2, |i| debugfs(i, "ssv state 0"), "not unmounted cleanly: run e2fsck -f"),
    (EXT4, |i| debugfs(i, "ssv state 5"), "not unmounted cleanly"),
    (EXT2, |i| patch_plain(i, INCOMPAT, 0x6), "a journal it does not have"),
    (EXT4, |i| add_features(i, RO_COMPAT, 0x1_0000), "orphaned files to clean up"),
    // Features.
    (EXT4, |i| add_features(i, INCOMPAT, 0x1), "the feature compression,"),
    (EXT4, |i| add_features(i, INCOMPAT, 0x8), "the feature journal_dev,"),
    (EXT4, |i| add_features(i, INCOMPAT, 0x1000), "the feature dirdata,"),
    (EXT4, |i| add_features(i, INCOMPAT, 1 << 30), "(incompat 0x40000000)"),
    (EXT4, |i| add_features(i, RO_COMPAT, 0x80), "the feature has_snapshot,"),
    (EXT4, |i| add_features(i, RO_COMPAT, 0x4000), "the feature shared_blocks,"),
    (EXT4, |i| add_features(i, RO_COMPAT, 0x2_0000), "(ro_compat 0x20000)"),
    (EXT4, |i| add_features(i, COMPAT, 0x2000), "(compat 0x2000)"),
    (EXT4, |i| add_features(i, RO_COMPAT, 0x10), "both metadata_csum and uninit_bg"),
    // Superblock.
    (EXT4, |i| flip(i, 1024 + 0x80), "the superblock does not match its checksum"),
    (EXT4, |i| patch_superblock(i, 0x175, &[2]), "unknown checksum type"),
    (EXT2, |i| patch_plain(i, 0x4C, 2), "unknown revision"),
    (EXT2, |i| patch_plain(i, 0x4C, 0), "features that its revision forbids"),
    (EXT2, |i| patch_plain(i, 0x18, 7), "impossible block size"),
    (EXT2, |i| patch_plain(i, 0x1C, 1), "impossible cluster size"),
    (EXT2, |i| patch_plain(i, 0x20, 8184), "impossible number of blocks in a group"),
    (EXT2, |i| patch_plain(i, 0x14, 0), "impossible first block"),
    (EXT2, |i| patch_plain(i, 0x28, 8), "inodes that its groups do not have"),
    (EXT2, |i| patch_plain(i, 0x150, 1), "more blocks than it can number"),
    (EXT2, |i| write_bytes(i, 1024 + 0x58, &[100, 0]), "impossible inode size"),
    (EXT4, |i| patch_superblock(i, 0xFE, &[72, 0]), "impossible group descriptor size"),
    (EXT2, |i| debugfs(i, "ssv free_blocks_count 5"), "the superblock 5:"),
    // Group descriptors.
    (EXT4, |i| flip(i, 2048 + 64 + 4), "of group 1 does not match its checksum"),
    (GDT_CSUM, |i| flip(i, 2048 + 64 + 4), "of group 1 does not match its checksum"),
    (PLAIN, |i| write_bytes(i, 2048 + 64, &[0; 4]), "points outside"),
    (PLAIN, |i| write_bytes(i, 2048 + 64 + 3, &[9]), "points outside"),
    (
        EXT2,
        |i| copy(i, 2048, 2048 + 32, 4),
        "points outside the file system or its group",
    ),
    (PLAIN, |i| copy(i, 2048, 2048 + 64, 4), "overlap"),
    (PLAIN, |i| debugfs(i, "set_bg 1 flags 2"), "uninitialised, which cannot be"),
    (EXT4, |i| debugfs(i, "set_bg 0 flags 2\nset_bg 0 checksum calc"), "cannot be"),
    (EXT4, uninitialise_group_with_files, "free clusters, its group descriptor"),
    (EXT2, |i| debugfs(i, "set_bg 1 free_blocks_count 7"), "its group descriptor 7:"),
    // Block bitmaps.
    (EXT4, |i| flip_bitmap(i, 100), "bitmap of group 0 does not match its checksum"),
    (EXT4, |i| flip_bitmap(i, 1023), "bitmap of group 0 does not match its checksum"),
    (PLAIN, |i| flip_bitmap(i, 100), "free clusters, its group descriptor"),
    (PLAIN, clear_padding, "of group 4 has clear bits past its end"),
    (PLAIN, |i| free_block(i, dumped(i, "Group 1:", "Inode table at ")), "metadata free"),
    (
        PLAIN,
        |i| free_block(i, dumped(i, "Group 1:", "Inode bitmap at ")),
        "metadata free",
    ),
    (PLAIN, |i| free_block(i, dumped(i, "Group 1:", "descriptors at ")), "metadata free"),
    (PLAIN, |i| free_block(i, dumped(i, "Group 1:", "GDT blocks at ")), "metadata free"),
    (PLAIN, |i| free_block(i, 1), "metadata free"),
    (
        PLAIN,
        |i| free_block(i, journal_superblock(i, 1024) / 1024 + 9),
        "the journal free",
    ),
    // The journal.
    (EXT4, |i| patch_superblock(i, 0xE0, &[0; 4]), "journal is missing"),
    (EXT4, |i| patch_superblock(i, 0xE0, &[0, 0, 0, 0, 1]), "on another device"),
    (
        EXT4,
        |i| patch_superblock(i, 0xE0, &[0, 0, 1, 0]),
        "journal's inode does not exist",
    ),
    (EXT4, |i| patch_superblock(i, 0xE0, &[2]), "is not an ordinary file"),
    (
        EXT4,
        |i| flip(i, inode(i, 8) + 0x30),
        "journal's inode does not match its checksum",
    ),
    (PLAIN, |i| flip(i, inode(i, 8) + 0x28), "unsound extent tree"),
    (PLAIN, |i| flip(i, inode(i, 8) + 0x28 + 12), "has holes"),
    (PLAIN, |i| flip(i, inode(i, 8) + 0x28 + 12 + 7), "unsound block map"),
    (PLAIN, |i| flip(i, inode(i, 8) + 6), "has holes"),
    (PLAIN, |i| flip(i, inode(i, 8) + 0x6C), "larger than is supported"),
    (
        "-t ext3 -b 1024",
        |i| write_bytes(i, inode(i, 8) + 0x28 + 48, &[0; 4]),
        "block map",
    ),
    (PLAIN, |i| patch_journal(i, 0, 0), "has lost its signature"),
    (PLAIN, |i| patch_journal(i, 4, 9), "is of an unknown type"),
    (PLAIN, |i| patch_journal(i, 12, 2048), "wrong block size"),
    (PLAIN, |i| patch_journal(i, 16, 1 << 20), "impossible bounds"),
    (PLAIN, |i| patch_journal(i, 0x1C, 1 << 20), "points outside the journal"),
    (PLAIN, |i| patch_journal(i, 0x1C, 1), "that the superblock does not know of"),
    (PLAIN, |i| patch_journal(i, 0x20, 5), "given up after an error"),
    (PLAIN, |i| patch_journal(i, 0x28, 0x40), "journal has an unknown feature (0x40)"),
    (PLAIN, |i| patch_journal(i, 0x28, 0x18), "several kinds of checksum"),
    (PLAIN, |i| patch_journal(i, 0x28, 0x10), "journal's superblock names an unknown ch"),
    (PLAIN, |i| patch_journal(i, 0x40, 2), "names several users"),
    // Multi-mount protection.
    ("-t ext4 -b 1024 -O mmp", |i| write_mmp(i, 4, &[1, 0, 0, 0]), "a machine is using"),
    (
        "-t ext4 -b 1024 -O mmp",
        |i| write_mmp(i, 0, &[1]),
        "multi-mount protection is dam",
    ),
];

fn patch_plain(image: &Path, at: usize, value: u32) {
    write_bytes(image, 1024 + at as u64, &value.to_le_bytes());
}

fn copy(image: &Path, from: u64, to: u64, len: usize) {
    write_bytes(image, to, &read_bytes(image, from, len));
}

fn flip_bitmap(image: &Path, byte: u64) {
    flip(image, dumped(image, "Group 0:", "Block bitmap at ") * 1024 + byte);
}

fn clear_padding(image: &Path) {
    let bitmap = dumped(image, "Group 4:", "Block bitmap at ");
    // The last block of 40 MiB has bit 8190, so one bit is past the end.
    write_bytes(
        image,
        bitmap * 1024 + 1023,
        &[0x7F & read_bytes(image, bitmap * 1024 + 1023, 1)[0]],
    );
}

/// Clears a block's bit and makes all counts agree.
fn free_block(image: &Path, block: u64) {
    let group = (block - 1) / 8192;
    let dump = sh(&format!("dumpe2fs {} 2>/dev/null", image.display()));
    let text = dump.split_once(&format!("Group {group}:")).unwrap().1;
    let line = text.lines().find(|line| line.contains(" free blocks, ")).unwrap();
    let free: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
    let total = dumped(image, "Filesystem", "\nFree blocks:");
    debugfs(
        image,
        &format!(
            "freeb {block}\nset_bg {group} free_blocks_count {}\nset_bg {group} checksum \
             calc\nssv free_blocks_count {}",
            free + 1,
            total + 1
        ),
    );
}

fn uninitialise_group_with_files(image: &Path) {
    debugfs(image, "set_bg 1 flags 2\nset_bg 1 checksum calc");
}

/// The byte at which an inode of the first group starts.
fn inode(image: &Path, number: u64) -> u64 {
    let table = dumped(image, "Group 0:", "Inode table at ");
    table * 1024 + (number - 1) * dumped(image, "Filesystem", "\nInode size:")
}

fn patch_journal(image: &Path, at: u64, value: u32) {
    write_bytes(image, journal_superblock(image, 1024) + at, &value.to_be_bytes());
}

fn write_mmp(image: &Path, at: u64, bytes: &[u8]) {
    let block = dumped(image, "Filesystem", "MMP block number:");
    write_bytes(image, block * 1024 + at, bytes);
}

#[test]
fn every_reason() {
    if !have("ext reasons", TOOLS) {
        return;
    }
    let scratch = Scratch::new("ext-reasons");
    let mut twins: Vec<(&str, PathBuf)> = Vec::new();
    for (number, (options, spoil, expected)) in REASONS.iter().enumerate() {
        if !twins.iter().any(|(made, _)| made == options) {
            twins.push((options, make(&scratch, &format!("twin{number}"), options)));
        }
        let (_, twin) = twins.iter().find(|(made, _)| made == options).unwrap();
        let image = scratch.path("spoilt");
        fs::copy(twin, &image).unwrap();
        spoil(&image);
        let reason = distrusted(&image);
        assert!(reason.contains(expected), "row {number}: {reason:?}, not {expected:?}");
    }
}

#[test]
fn random_bytes_do_no_harm() {
    if !have("ext random bytes", TOOLS) {
        return;
    }
    let scratch = Scratch::new("ext-random-bytes");
    let image = scratch.path("tiny");
    let path = image.display();
    let mut noise = Noise::new(5);
    let mut trusted_ones = 0;
    let start = Instant::now();
    for (options, open) in [
        // Without checksums, so that the bytes get past them.
        ("-t ext4 -b 1024 -g 1024 -O ^metadata_csum,^resize_inode", "jo"),
        ("-t ext3 -b 1024 -O ^resize_inode", "jo"),
        ("-t ext4 -b 1024 -O ^resize_inode", "jo -c -v 3"),
    ] {
        sh(&format!(
            "rm -f {path}; truncate -s 3M {path}; mke2fs -q -F -J size=1 {options} {path}
             head -c 2048 /dev/zero >{path}.blocks"
        ));
        let free = trusted(&image).last().unwrap().start / 1024;
        let (next, revoked) = (free + 1, free + 2);
        let transaction = format!("jw -b {free},{next} {path}.blocks\njw -r {revoked}\n");
        debugfs(&image, &format!("{open}\n{}jc", transaction.repeat(10)));
        trusted(&image);
        let sound = fs::read(&image).unwrap();
        // The superblock and what follows it, the journal's inode and the journal.
        let journal = journal_superblock(&image, 1024);
        let places =
            [(1024, 1024), (2048, 1024), (inode(&image, 8), 128), (journal, 8192)];
        for _ in 0..1500 {
            let mut bytes = sound.clone();
            for _ in 0..=noise.below(3) {
                let (from, len) = places[noise.below(4) as usize];
                let at = (from + noise.below(len)) as usize;
                let value = [0, 1, 0x7F, 0x80, 0xFF, noise.next() as u8];
                bytes[at] = value[noise.below(6) as usize];
            }
            let (found, _) = survey(&bytes);
            trusted_ones += u32::from(found.untrusted.is_none());
        }
    }
    assert!(trusted_ones > 0, "nothing got through to the bitmaps");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}
