//! Every reason not to trust: an image that gives it, and its sound twin; and
//! bytes at random, which may give any reason but a panic or a long wait.

use std::fs;

use super::{Layout, TOOLS, le, make, plain_free, survey};
use crate::free_map::{Damage, Spoil, assert_noise_is_nothing, assert_reasons, put};
use crate::support::{Scratch, have};

/// Changes the boot sector and puts the checksum right.
fn boot(bytes: &mut [u8], at: usize, with: &[u8]) {
    let sector = 512;
    put(bytes, at, with);
    let mut sum = 0u32;
    for (at, byte) in bytes[..11 * sector].iter().enumerate() {
        if ![106, 107, 112].contains(&at) {
            sum = sum.rotate_right(1).wrapping_add(u32::from(*byte));
        }
    }
    for copy in bytes[11 * sector..12 * sector].chunks_exact_mut(4) {
        copy.copy_from_slice(&sum.to_le_bytes());
    }
}

/// Changes the entry of `kind` in the root directory.
fn entry(bytes: &mut [u8], kind: u8, at: usize, with: &[u8]) {
    let entry = Layout::of(bytes).entry(bytes, kind);
    put(bytes, entry + at, with);
}

/// Lets the clusters of an entry be followed by `next` in the FAT.
fn chain(bytes: &mut [u8], kind: u8, next: u32) {
    let layout = Layout::of(bytes);
    let first = match kind {
        0 => le(bytes, 96, 4),
        _ => le(bytes, layout.entry(bytes, kind) + 20, 4),
    };
    put(bytes, layout.fat + first * 4, &next.to_le_bytes());
}

/// Calls a cluster free in the bitmap.
fn free(bytes: &mut [u8], cluster: usize) {
    let bitmap = Layout::of(bytes).bitmap(bytes);
    bytes[bitmap + (cluster - 2) / 8] &= !(1 << ((cluster - 2) % 8));
}

/// Calls the first cluster of an entry free.
fn free_first(bytes: &mut [u8], kind: u8) {
    let cluster = le(bytes, Layout::of(bytes).entry(bytes, kind) + 20, 4);
    free(bytes, cluster);
}

/// Calls the last cluster of a file in one piece free.
fn free_last_of_file(bytes: &mut [u8]) {
    let layout = Layout::of(bytes);
    let whole = |e: &[u8]| e[0] == 0xC0 && e[1] & 2 != 0 && le(e, 24, 8) > layout.cluster;
    let found = bytes[layout.root..].chunks_exact(32).find(|e| whole(e)).unwrap();
    let last = le(found, 20, 4) + le(found, 24, 8).div_ceil(layout.cluster) - 1;
    free(bytes, last);
}

const REASONS: &[(Spoil, &str)] = &[
    // State.
    (|b| b[106] |= 2, "marked dirty: run chkdsk /f"),
    (|b| b[106] |= 4, "the disk of the volume had errors: run chkdsk /r"),
    (|b| b[106] |= 1, "the second FAT is active, which does not exist"),
    (|b| b[106] |= 0x10, "unknown flags (0x0010)"),
    (|b| b[107] |= 0x80, "unknown flags (0x8000)"),
    // The boot region.
    (|b| b[0] = 0xE9, "lacks its signatures"),
    (|b| b[510] = 0, "lacks its signatures"),
    (|b| boot(b, 40, &[1]), "fields that exFAT keeps zero"),
    (|b| boot(b, 104, &[1, 1]), "unknown revision 0x0101"),
    (|b| boot(b, 110, &[2]), "a TexFAT, which keeps two states"),
    (|b| boot(b, 110, &[0]), "impossible number of FATs"),
    (|b| boot(b, 108, &[13]), "a sector size other than"),
    (|b| boot(b, 109, &[17]), "a cluster size of more than 32 MiB"),
    (|b| boot(b, 72, &[0xFF; 8]), "impossible number of sectors"),
    (|b| boot(b, 92, &[0; 4]), "impossible number of clusters"),
    (|b| boot(b, 92, &[0xFF; 4]), "impossible number of clusters"),
    (|b| boot(b, 84, &[9, 0, 0, 0]), "impossible number of clusters"),
    (|b| boot(b, 80, &[23, 0, 0, 0]), "overlap or leave the volume"),
    (|b| boot(b, 88, &[25, 0, 0, 0]), "overlap or leave the volume"),
    (|b| boot(b, 109, &[4]), "overlap or leave the volume"),
    (|b| b[100] ^= 1, "does not match its checksum"),
    (|b| b[3 * 512 + 9] ^= 1, "does not match its checksum"),
    (|b| b[12 * 512 - 1] ^= 1, "does not match its checksum"),
    (
        |b| {
            let n = b.len() - 512;
            b.truncate(n);
        },
        "the volume was cut off",
    ),
    (
        |b| {
            let at = Layout::of(b).fat;
            b[at] = 0xF0;
        },
        "does not begin as every FAT does",
    ),
    (
        |b| {
            let at = Layout::of(b).fat;
            b[at + 4] = 0;
        },
        "does not begin as every FAT does",
    ),
    // The root directory.
    (|b| boot(b, 96, &[1, 0, 0, 0]), "the root directory leaves the volume"),
    (|b| chain(b, 0, 0), "the root directory leaves the volume (cluster 0)"),
    (|b| chain(b, 0, 0xFFFF_FFF7), "the root directory leaves the volume"),
    (
        |b| {
            let next = Layout::of(b).clusters as u32 + 2;
            chain(b, 0, next);
        },
        "the root directory leaves",
    ),
    (
        |b| {
            let root = le(b, 96, 4) as u32;
            chain(b, 0, root);
        },
        "lies in too many pieces",
    ),
    (|b| entry(b, 0x81, 0, &[1]), "has no allocation bitmap"),
    (|b| entry(b, 0x82, 0, &[2]), "has no up-case table"),
    (|b| entry(b, 0x82, 0, &[0x81]), "a second allocation bitmap"),
    (|b| entry(b, 0x81, 1, &[1]), "a second allocation bitmap"),
    (|b| entry(b, 0x81, 0, &[0x82]), "a second up-case table"),
    (|b| entry(b, 0x85, 0, &[0x84]), "the unknown kind 0x84"),
    (|b| entry(b, 0xC0, 20, &[0xFF; 4]), "that leaves the volume"),
    (
        |b| {
            entry(b, 0xC0, 1, &[3]);
            entry(b, 0xC0, 24, &[0xFF; 8]);
        },
        "that leaves the volume",
    ),
    // The up-case table.
    (|b| entry(b, 0x82, 24, &[0; 8]), "impossible length of 0 bytes"),
    (|b| entry(b, 0x82, 24, &[1, 0, 2]), "impossible length of 131073 bytes"),
    (|b| entry(b, 0x82, 4, &[0; 4]), "the up-case table does not match its checksum"),
    (|b| entry(b, 0x82, 20, &[0; 4]), "the up-case table leaves the volume"),
    // The bitmap.
    (|b| entry(b, 0x81, 24, &[0; 8]), "has 0 bytes where the volume needs"),
    (|b| entry(b, 0x81, 24, &[0, 0, 1]), "has 65536 bytes where the volume needs"),
    (|b| entry(b, 0x81, 20, &[0xFF; 4]), "the allocation bitmap leaves the volume"),
    (|b| chain(b, 0x81, 0xFFFF_FFFF), "fewer clusters than its"),
    (|b| chain(b, 0x81, 2), "the allocation bitmap has no end where it should"),
    (|b| free_first(b, 0x81), "free that the allocation bitmap uses"),
    (|b| free_first(b, 0x82), "free that the up-case table uses"),
    (
        |b| {
            let root = le(b, 96, 4);
            free(b, root);
        },
        "free that the root directory uses",
    ),
    (|b| free_first(b, 0xC0), "free that a file of the root directory uses"),
    (|b| free_last_of_file(b), "free that a file of the root directory uses"),
];

fn image(scratch: &Scratch) -> Vec<u8> {
    fs::read(make(scratch, "v", "40003K", "-c 1K")).unwrap()
}

#[test]
fn every_reason_has_its_image() {
    let test = "every_reason_not_to_trust_an_exfat_has_its_image";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let sound = image(&scratch);
    assert_eq!(Layout::of(&sound).sector, 512);
    let before = survey(&sound);
    assert_reasons("exfat", &sound, REASONS.iter().copied());
    // What is no reason: `ClearToZero`, `PercentInUse`, a changed boot code with its
    // checksum, a volume that is longer.
    let mut odd = sound.clone();
    odd[106] |= 8;
    odd[112] = 77;
    boot(&mut odd, 200, &[7]);
    odd.resize(odd.len() + 9999, 0);
    assert_eq!(survey(&odd), before);
    // Bits after the last cluster say nothing.
    let layout = Layout::of(&sound);
    let mut odd = sound;
    assert!(!layout.clusters.is_multiple_of(8));
    let at = layout.bitmap(&odd) + layout.clusters / 8;
    odd[at] = (1 << (layout.clusters % 8)) - 1;
    let (found, free) = survey(&odd);
    assert_eq!(found.untrusted, None);
    assert_eq!(free, plain_free(&odd));
}

#[test]
fn damage_frees_nothing() {
    let test = "damage_of_an_exfat_frees_nothing";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let bytes = image(&scratch);
    let before = plain_free(&bytes);
    let layout = Layout::of(&bytes);
    let areas = [
        0..122,
        layout.fat..layout.fat + 100,
        layout.root..layout.root + 0x60,
        layout.root..layout.root + layout.cluster,
    ];
    let damage = Damage {
        name: "exfat",
        areas: &areas,
        rounds: 2000,
        seed: 77,
        readings: 2,
        mend: &|bytes| boot(bytes, 0, &[0xEB]),
    };
    let refused = damage.run(&bytes, |area, free| {
        // A boot region whose checksum holds is that of another volume.
        assert!(area == 0 || free == before, "area {area}: {free:?}");
    });
    assert!(refused > 500, "only {refused} were refused");
}

#[test]
fn any_bytes_at_all() {
    assert_noise_is_nothing("exfat", |bytes| {
        if bytes.len() >= 512 {
            put(bytes, 3, b"EXFAT   ");
        }
    });
}
