//! Metadata that was written to harm: no panic, no long wait, little memory, and
//! nothing free that was not before.

use std::time::{Duration, Instant};

use slimdisk::compact::Mode;
use slimdisk::partition::lvm;
use slimdisk::storage::{Meter, Section};

use super::distrust::Bench;
use super::image::{Disk, TOOLS};
use super::{RECIPES, judge, options, read};
use crate::support::{Noise, Scratch, have};

/// Bytes of labels, headers and texts change at random, with checksums put right or
/// left wrong.
#[test]
fn random_damage_frees_nothing() {
    let test = "random_damage_frees_nothing";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let mut noise = Noise::new(21);
    for recipe in [&RECIPES[1], &RECIPES[2], &RECIPES[4]] {
        let disk = Disk::make(&scratch, recipe);
        let sound = read(&disk);
        let base = Bench::of(&disk);
        let (mut refused, mut same, mut changed) = (0, 0, 0);
        let mut slowest = Duration::ZERO;
        let mut bench = base.clone();
        // All that is ever changed.
        let mut metadata = Vec::new();
        for place in 0..base.places.len() {
            metadata.push((base.label(place), 512));
            metadata.extend(base.areas(place).into_iter().map(|at| (at, 40 << 10)));
        }
        for round in 0..1500 {
            for (at, len) in &metadata {
                bench.bytes[*at..at + len].copy_from_slice(&base.bytes[*at..at + len]);
            }
            let place = noise.below(bench.places.len() as u64) as usize;
            let area = {
                let areas = bench.areas(place);
                areas[noise.below(areas.len() as u64) as usize]
            };
            let label = bench.label(place);
            let text_at = area + {
                let at = &bench.bytes[area + 40..area + 48];
                u64::from_le_bytes(at.try_into().unwrap()) as usize
            };
            let text_len = bench.text(area).len();
            let what = noise.below(4);
            let mending = noise.below(3) > 0;
            for _ in 0..=noise.below(2) {
                let at = match what {
                    0 => label + noise.below(200) as usize,
                    1 => area + noise.below(90) as usize,
                    _ => text_at + noise.below(text_len as u64) as usize,
                };
                bench.bytes[at] = match noise.below(5) {
                    0 => 0,
                    1 => 0xFF,
                    2 => bench.bytes[at] ^ 1 << noise.below(8),
                    3 => b"0123456789"[noise.below(10) as usize],
                    _ => noise.next() as u8,
                };
            }
            let labelled = bench.bytes[label..].starts_with(b"LABELONE");
            if mending && what == 0 && labelled {
                bench.mend_label(place);
            }
            if mending && what == 1 {
                bench.mend_header(area);
            }
            if mending && what > 1 {
                // In all copies, or they differ.
                let text = bench.bytes[text_at..text_at + text_len].to_vec();
                for place in 0..bench.places.len() {
                    for area in bench.areas(place) {
                        let at = area
                            + u64::from_le_bytes(
                                bench.bytes[area + 40..area + 48].try_into().unwrap(),
                            ) as usize;
                        bench.bytes[at..at + text_len].copy_from_slice(&text);
                        let sum = super::distrust::checksum(&text);
                        bench.bytes[area + 56..area + 60].copy_from_slice(&sum);
                        bench.mend_header(area);
                    }
                }
            }
            let volume =
                Meter::new(Section::new(&bench.bytes, 0..bench.bytes.len() as u64));
            let start = Instant::now();
            let found = lvm::read(&volume, &bench.places).unwrap();
            slowest = slowest.max(start.elapsed());
            assert!(volume.counts().bytes_read < 1 << 20, "round {round}");
            if found.physical.iter().any(|v| v.untrusted.is_some()) {
                refused += 1;
                assert!(found.logical.is_empty(), "round {round}");
            } else if found == sound {
                same += 1;
            } else {
                // Only a text with its checksum put right says something else.
                assert!(mending && what > 1, "round {round}");
                changed += 1;
            }
        }
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");
        assert!(refused > 700 && same > 50 && changed > 10, "{refused} {same} {changed}");
    }
}

/// Many small segments, in the worst order there is.
#[test]
fn many_segments_cost_little() {
    let test = "many_segments_cost_little";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let mut disk = Disk::make(&scratch, &RECIPES[0]);
    // Extents of one sector, each with a segment of its own; two volumes that share
    // every block, each from the back to the front.
    let extents: u64 = 16_000;
    let bench = Bench::of(&disk);
    let area = bench.areas(0)[0];
    let text = bench.text(area);
    let group_end = text.find("logical_volumes {").unwrap();
    let tail = &text[text.find("# Generated by LVM2").unwrap()..];
    let count = (disk.partitions[0].end - disk.partitions[0].start - (2 << 20)) / 512;
    let old = text.split("pe_count = ").nth(1).unwrap().split('\n').next().unwrap();
    let mut new = text[..group_end]
        .replace("extent_size = 8192", "extent_size = 1")
        .replace(&format!("pe_count = {old}"), &format!("pe_count = {count}"));
    new += "logical_volumes {\n";
    for (name, odd) in [("x", 0), ("y", 1)] {
        let volume = if odd == 0 { "root" } else { "data" };
        new += &format!(
            "{name} {{ id=\"{volume}\" status=[\"READ\",\"VISIBLE\"] segment_count={} ",
            extents / 2
        );
        for n in 0..extents / 2 {
            let at = extents - 2 + odd - 2 * n;
            new += &format!(
                "segment{n} {{start_extent={n} extent_count=1 type=\"striped\" \
                 stripe_count=1 stripes=[\"pv0\",{at}]}}"
            );
        }
        new += "}\n";
    }
    new += "}\n}\n";
    new += tail;
    assert!(new.len() < 4 << 20);
    // A larger area than it has room for; the extents begin behind it.
    let start = disk.partitions[0].start as usize;
    let size = (4 << 20) + 4096u64;
    let data = 4096 + size.next_multiple_of(4096);
    let new = new.replace("pe_start = 2048", &format!("pe_start = {}", data / 512));
    let new = new.replace(
        &format!("pe_count = {count}"),
        &format!("pe_count = {}", count - (data >> 9) + 4096 - 2048),
    );
    let label = bench.label(0);
    let mut bench = bench;
    let numbers = |numbers: &[u64]| -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
    };
    let put = crate::free_map::put;
    put(&mut bench.bytes, label + 72, &numbers(&[data, 0, 0, 0, 4096, size]));
    bench.mend_label(0);
    put(&mut bench.bytes, start + 4096 + 32, &numbers(&[size, 512, new.len() as u64]));
    put(&mut bench.bytes, start + 4096 + 512, new.as_bytes());
    put(&mut bench.bytes, start + 4096 + 56, &super::distrust::checksum(new.as_bytes()));
    bench.mend_header(start + 4096);
    disk.bytes = bench.bytes;

    let begun = Instant::now();
    let found = read(&disk);
    assert_eq!(found.physical[0].untrusted, None);
    assert_eq!(found.logical.len(), 2);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());

    // A file system in each: no sector of a block is where the one before it is.
    for volume in &found.logical {
        let image = scratch.path("small");
        crate::support::sh(&format!(
            "rm -f {0}; mke2fs -q -F -t ext2 -b 1024 {0} {1}k",
            image.display(),
            volume.size / 1024
        ));
        let bytes = std::fs::read(&image).unwrap();
        let mut at = 0;
        let disk = &mut disk.bytes;
        while at < bytes.len() {
            volume.mapping.pieces(at as u64..at as u64 + 512, &mut |piece| {
                put(disk, piece.start as usize, &bytes[at..at + 512]);
            });
            at += 512;
        }
    }
    let begun = Instant::now();
    for mode in [Mode::Quick, Mode::Full] {
        let found = judge(&disk.bytes, 512 << 10, &options(mode, true));
        let trusted = found.volumes.iter().filter(|v| v.free_bytes.is_some()).count();
        assert_eq!(trusted, 2, "{:?}", found.volumes);
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

/// More than is read: refused before it is held.
#[test]
fn texts_beyond_the_limit_are_refused() {
    let test = "texts_beyond_the_limit_are_refused";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let recipe = super::Recipe {
        name: "large",
        script: "l pvcreate --metadatasize 8M $p1; vg vg0 $p1; lv -n x -l 1 vg0",
        volumes: &[],
        ..RECIPES[0]
    };
    let disk = Disk::make(&scratch, &recipe);
    let mut bench = Bench::of(&disk);
    assert_eq!(read(&disk).physical[0].untrusted, None);
    let area = bench.areas(0)[0];
    let at = area + 48;
    crate::free_map::put(&mut bench.bytes, at, &((4u64 << 20) + 1).to_le_bytes());
    bench.mend_header(area);
    let volume = Meter::new(Section::new(&bench.bytes, 0..bench.bytes.len() as u64));
    let found = lvm::read(&volume, &bench.places).unwrap();
    let said = found.physical[0].untrusted.as_deref().unwrap();
    assert!(said.contains("more than 4194304 are not read"), "{said}");
    assert!(volume.counts().bytes_read < 1 << 20);
}
