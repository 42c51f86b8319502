//! Every reason not to trust: an image that gives it, and its sound twin; and
//! bytes at random, which may give any reason but a panic or a long wait.

use std::fs;

use super::{Layout, TOOLS, make, plain_free, survey};
use crate::free_map::{Damage, Spoil, assert_noise_is_nothing, assert_reasons, put};
use crate::support::{Scratch, have};

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Fat12,
    Fat16,
    Fat32,
}
use Kind::{Fat12, Fat16, Fat32};

/// Writes to both boot sectors of a FAT32.
fn put_32(bytes: &mut [u8], at: usize, with: &[u8]) {
    put(bytes, at, with);
    put(bytes, 6 * 512 + at, with);
}

/// Where an entry of the root directory lies, which is one piece in all images.
fn root_entry(bytes: &[u8], name: &[u8]) -> usize {
    let layout = Layout::of(bytes);
    let start = if layout.bits == 32 { layout.data } else { layout.data - 512 * 32 };
    let entries = bytes[start..start + 512 * 32].chunks_exact(32);
    start + 32 * entries.into_iter().position(|e| e.starts_with(name)).unwrap()
}

fn file_cluster(bytes: &[u8], name: &[u8]) -> usize {
    let at = root_entry(bytes, name);
    usize::from(u16::from_le_bytes(bytes[at + 26..at + 28].try_into().unwrap()))
}

fn set_all(bytes: &mut [u8], cluster: usize, value: u32) {
    Layout::of(bytes).set_all(bytes, cluster, value);
}

/// Adds a `hiberfil.sys` that begins with `head`.
fn hibernate(bytes: &mut [u8], size: u32, head: &[u8]) {
    let cluster = file_cluster(bytes, b"NEWFIL~1");
    let at = root_entry(bytes, b"NEWFIL~1");
    put(bytes, at, b"HIBERFILSYS");
    put(bytes, at + 28, &size.to_le_bytes());
    let data = Layout::of(bytes).range(cluster).start as usize;
    put(bytes, data, head);
}

const REASONS: &[(Kind, Spoil, &str)] = &[
    // State.
    (Fat12, |b| b[0x25] |= 1, "marked dirty in its boot sector: run chkdsk /f"),
    (Fat16, |b| b[0x25] |= 1, "marked dirty"),
    (Fat32, |b| b[0x41] |= 1, "marked dirty"),
    (Fat16, |b| b[0x25] |= 2, "to be tested for bad clusters: run chkdsk /r"),
    (Fat32, |b| b[0x41] |= 4, "unknown state bits (0x04)"),
    (Fat16, |b| set_all(b, 1, 0x7FFF), "the volume was not unmounted: run chkdsk"),
    (Fat32, |b| set_all(b, 1, 0x07FF_FFFF), "the volume was not unmounted"),
    (Fat16, |b| set_all(b, 1, 0xBFFF), "the disk had errors: run chkdsk /r"),
    (Fat32, |b| set_all(b, 1, 0x0BFF_FFFF), "the disk had errors"),
    (Fat16, |b| hibernate(b, 4096, b"HIBR"), "hibernated Windows"),
    (Fat32, |b| hibernate(b, 100_000, b"hibr"), "hibernated Windows"),
    (Fat32, |b| hibernate(b, 100, b"wake"), "hibernated Windows"),
    // The table.
    (Fat12, |b| set_all(b, 0, 0xFF9), "does not begin with the media byte"),
    (Fat16, |b| set_all(b, 0, 0x0FF8), "does not begin with the media byte"),
    (Fat32, |b| set_all(b, 0, 0), "does not begin with the media byte"),
    (Fat12, |b| set_all(b, 1, 0), "impossible second entry"),
    (Fat32, |b| set_all(b, 1, 5), "impossible second entry"),
    (Fat12, |b| copies(b, 0), "the copies of the FAT are not the same"),
    (Fat16, |b| copies(b, 1), "the copies of the FAT are not the same"),
    (Fat32, |b| copies(b, 1), "the copies of the FAT are not the same"),
    (Fat12, |b| set_all(b, 5, 0xFF0), "cluster 4080, which does not exist"),
    (Fat16, |b| set_all(b, 5, 1), "cluster 1, which does not exist"),
    (Fat32, |b| set_all(b, 5, 0x0FFF_FFF6), "which does not exist"),
    // The root directory.
    (Fat12, |b| free_folder(b), "a file of the root directory uses"),
    (Fat16, |b| free_folder(b), "a file of the root directory uses"),
    (Fat32, |b| free_folder(b), "a file of the root directory uses"),
    (Fat16, |b| entry(b, 26, &[0xFF, 0xFF]), "begins in cluster 65535, which does not"),
    (Fat32, |b| entry(b, 20, &[9, 0]), "which does not exist"),
    (Fat16, |b| entry(b, 26, &[9, 0]), "no folder begins in cluster 9"),
    (Fat16, |b| entry(b, 26, &[0, 0]), "no folder begins in cluster 0"),
    (Fat16, |b| misname_folder(b), "no folder begins in cluster"),
    (Fat32, |b| misname_folder(b), "no folder begins in cluster"),
    (Fat16, |b| entry(b, 11, &[0x50]), "impossible entry"),
    (Fat12, |b| entry(b, 0, &[1]), "impossible entry"),
    (Fat32, |b| set_all(b, 2, 2), "the root directory has no end"),
    (Fat32, |b| set_all(b, 2, 0), "the root directory lies in free clusters"),
    (Fat32, |b| set_all(b, 2, 0x0FFF_FFF7), "lies in a bad cluster"),
    (Fat32, |b| set_all(b, 2, 0x00FF_FFFF), "the root directory leaves the volume"),
    (Fat32, |b| put_32(b, 44, &[0, 0, 0, 0]), "the root directory begins outside"),
    (Fat32, |b| put_32(b, 44, &[0xFF; 4]), "the root directory begins outside"),
    // The boot sector.
    (Fat16, |b| b[0] = 0, "lacks the jump"),
    (Fat16, |b| b[510] = 0, "lacks the jump"),
    (Fat16, |b| put(b, 11, &[0, 3]), "a sector size other than 512 to 4096"),
    (Fat16, |b| b[13] = 3, "no power of two"),
    (Fat16, |b| put(b, 14, &[0, 0]), "impossible number of reserved sectors"),
    (Fat16, |b| b[16] = 0, "impossible number of reserved sectors or of FATs"),
    (Fat16, |b| b[16] = 5, "impossible number of reserved sectors or of FATs"),
    (Fat16, |b| put(b, 17, &[0, 0]), "impossible size of the root directory"),
    (Fat16, |b| put(b, 17, &[1, 2]), "impossible size of the root directory"),
    (Fat32, |b| put_32(b, 17, &[16, 0]), "impossible size of the root directory"),
    (Fat16, |b| put(b, 32, &[1, 0, 1, 0]), "two different numbers of sectors"),
    (Fat16, |b| put(b, 19, &[100, 0]), "leaves no room for clusters"),
    (Fat16, |b| put(b, 22, &[20, 0]), "a FAT too small"),
    (Fat16, |b| b[13] = 1, "a FAT too small"),
    (Fat16, |b| borderline(b), "which some take for FAT12"),
    (Fat32, |b| put_32(b, 13, &[2]), "too few for its layout of a FAT32"),
    (Fat32, |b| put(b, 6 * 512 + 13, &[2]), "boot sector and its backup do not agree"),
    (Fat32, |b| put_32(b, 42, &[0, 1]), "unknown version 0x0100"),
    (Fat32, |b| put_32(b, 40, &[0x10, 0]), "unknown flags (0x0010)"),
    (Fat32, |b| put_32(b, 40, &[0x82, 0]), "makes a FAT active that does not exist"),
    (Fat16, |b| b.truncate(b.len() - 512), "the volume was cut off"),
    (Fat32, |b| b.truncate(b.len() - 512), "the volume was cut off"),
];

fn free_folder(bytes: &mut [u8]) {
    let cluster = file_cluster(bytes, b"D  ");
    set_all(bytes, cluster, 0);
}

/// Cuts the volume to 4085 clusters.
fn borderline(bytes: &mut [u8]) {
    let layout = Layout::of(bytes);
    let sectors = ((layout.data + 4085 * layout.cluster) / 512) as u16;
    put(bytes, 19, &sectors.to_le_bytes());
}

/// Lets the folder's own entry name another cluster.
fn misname_folder(bytes: &mut [u8]) {
    let data = Layout::of(bytes).range(file_cluster(bytes, b"D  ")).start as usize;
    bytes[data + 26] ^= 1;
}

fn copies(bytes: &mut [u8], copy: usize) {
    let layout = Layout::of(bytes);
    let last = layout.clusters + 1;
    layout.set(bytes, copy, last, 0x0FFF_FFFF);
}

fn entry(bytes: &mut [u8], at: usize, with: &[u8]) {
    let entry = root_entry(bytes, b"D  ");
    put(bytes, entry + at, with);
}

fn images(scratch: &Scratch) -> [(Kind, Vec<u8>); 3] {
    [
        (Fat12, "2M", "-F 12 -s 4 -r 512"),
        (Fat16, "16M", "-F 16 -s 4 -r 512"),
        (Fat32, "40M", "-F 32 -s 1"),
    ]
    .map(|(kind, size, options)| {
        (kind, fs::read(make(scratch, "v", size, options)).unwrap())
    })
}

#[test]
fn every_reason_has_its_image() {
    let test = "every_reason_not_to_trust_a_fat_has_its_image";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let images = images(&scratch);
    for (kind, bytes) in &images {
        let own = REASONS.iter().filter(|(of, ..)| of == kind);
        assert_reasons("fat", bytes, own.map(|(_, spoil, expected)| (*spoil, *expected)));
    }
}

#[test]
fn harmless_oddities_are_trusted() {
    let test = "harmless_oddities_of_a_fat_are_trusted";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let [(_, _), (_, fat16), (_, fat32)] = images(&scratch);
    // Both numbers of sectors, a Windows that has resumed, a longer volume.
    let mut odd = fat16.clone();
    let sectors: [u8; 2] = odd[19..21].try_into().unwrap();
    if sectors != [0, 0] {
        put(&mut odd, 32, &sectors);
    }
    hibernate(&mut odd, 5000, b"wake");
    odd.resize(odd.len() + 9999, 0);
    let (found, free) = survey(&odd);
    assert_eq!(found.untrusted, None);
    assert_eq!(found.length, survey(&fat16).0.length);
    assert_eq!(free, plain_free(&fat16));

    // Only the second FAT is up to date: what the first one says is no reason, but a
    // cluster that either of them uses is in use.
    let layout = Layout::of(&fat32);
    let mut odd = fat32.clone();
    let last = layout.find_free(&odd);
    put_32(&mut odd, 40, &[0x81, 0]);
    layout.set(&mut odd, 0, 1, 0);
    layout.set(&mut odd, 0, last - 2, 5);
    layout.set(&mut odd, 1, last, 0x0FFF_FFFF);
    let (found, free) = survey(&odd);
    assert_eq!(found.untrusted, None);
    let mut expected = fat32.clone();
    layout.set(&mut expected, 0, last - 2, 5);
    layout.set(&mut expected, 0, last, 5);
    assert_eq!(free, plain_free(&expected));
    layout.set(&mut odd, 1, 1, 0x07FF_FFFF);
    assert!(survey(&odd).0.untrusted.unwrap().contains("was not unmounted"));
    // The four upper bits of an entry are not its own.
    let mut odd = fat32.clone();
    for copy in 0..2 {
        odd[layout.bit(copy, last) / 8 + 3] |= 0xF0;
    }
    assert_eq!(survey(&odd).1, plain_free(&fat32));
    // A backup that was never written, a free count that is wrong.
    let mut odd = fat32.clone();
    odd[6 * 512..7 * 512].fill(0);
    put(&mut odd, 512 + 488, &[7, 0, 0, 0]);
    assert_eq!(survey(&odd), survey(&fat32));
}

#[test]
fn damage_frees_nothing() {
    let test = "damage_of_a_fat_frees_nothing";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    for (number, (_, bytes)) in (0..).zip(images(&scratch)) {
        let before = plain_free(&bytes);
        let layout = Layout::of(&bytes);
        let root = root_entry(&bytes, b"D  ") & !511;
        let areas =
            [0..64, layout.fat..layout.fat + 600, layout.fat..root, root..root + 512];
        let damage = Damage {
            name: "fat",
            areas: &areas,
            rounds: 600,
            seed: number + 40,
            readings: 4,
            mend: &|_| (),
        };
        let refused = damage.run(&bytes, |area, free| {
            // A boot sector that was changed soundly is another volume.
            assert!(area == 0 || free == before, "area {area}: {free:?}");
        });
        assert!(refused > 150, "only {refused} were refused");
    }
}

#[test]
fn any_bytes_at_all() {
    assert_noise_is_nothing("fat", |bytes| {
        if bytes.len() >= 512 {
            put(bytes, 0, b"\xEB\x3C\x90MSDOS5.0\0\x02\x04\x01\0\x02\0\x02");
            put(bytes, 21, &[0xF8]);
            put(bytes, 510, &[0x55, 0xAA]);
        }
    });
}
