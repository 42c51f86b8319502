//! Every reason not to believe metadata, each put into metadata of lvm2 whose
//! checksums then hold again, beside its sound twin; and volumes that lvm2 itself
//! made more of than their segments.

use std::fs;
use std::ops::Range;

use slimdisk::compact::report::VolumeState;
use slimdisk::compact::survey::Survey;
use slimdisk::compact::{Mode, Verdict};
use slimdisk::partition::lvm;
use slimdisk::ranges::Ranges;

use super::image::{Disk, MIB, Recipe, TOOLS, with_lvm};
use super::{judge, options, read};
use crate::free_map::put;
use crate::support::{Noise, Scratch, have};

/// The checksum of lvm2, bit by bit.
pub fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut sum = 0xF597_A6CFu32;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0xEDB8_8320 & (sum & 1).wrapping_neg());
        }
    }
    sum.to_le_bytes()
}

fn le(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

/// A disk whose metadata is changed.
#[derive(Clone)]
pub struct Bench {
    pub bytes: Vec<u8>,
    pub places: Vec<Range<u64>>,
}

impl Bench {
    pub fn of(disk: &Disk) -> Bench {
        Bench { bytes: disk.bytes.clone(), places: disk.partitions.clone() }
    }

    fn start(&self, place: usize) -> usize {
        self.places[place].start as usize
    }

    /// Where the label of a physical volume is.
    pub fn label(&self, place: usize) -> usize {
        let start = self.start(place);
        (0..4)
            .map(|sector| start + sector * 512)
            .find(|at| self.bytes[*at..].starts_with(b"LABELONE"))
            .unwrap()
    }

    /// Where its metadata areas begin.
    pub fn areas(&self, place: usize) -> Vec<usize> {
        let mut at = self.label(place) + 32 + 40;
        while le(&self.bytes, at) != 0 {
            at += 16;
        }
        at += 16;
        let mut areas = Vec::new();
        while le(&self.bytes, at) != 0 {
            areas.push(self.start(place) + le(&self.bytes, at));
            at += 16;
        }
        areas
    }

    fn flip(&mut self, at: usize) {
        self.bytes[at] ^= 1;
    }

    /// Changes the label's sector.
    fn relabel(&mut self, place: usize, at: usize, with: &[u8]) {
        let label = self.label(place);
        put(&mut self.bytes, label + at, with);
        self.mend_label(place);
    }

    pub fn mend_label(&mut self, place: usize) {
        let label = self.label(place);
        let sum = checksum(&self.bytes[label + 20..label + 512]);
        put(&mut self.bytes, label + 16, &sum);
    }

    /// Changes the header of a metadata area.
    fn rehead(&mut self, place: usize, area: usize, at: usize, with: &[u8]) {
        let area = self.areas(place)[area];
        put(&mut self.bytes, area + at, with);
        self.mend_header(area);
    }

    pub fn mend_header(&mut self, area: usize) {
        let sum = checksum(&self.bytes[area + 4..area + 512]);
        put(&mut self.bytes, area, &sum);
    }

    pub fn text(&self, area: usize) -> String {
        let (offset, size) = (le(&self.bytes, area + 40), le(&self.bytes, area + 48));
        String::from_utf8(self.bytes[area + offset..][..size].to_vec()).unwrap()
    }

    /// Writes a text, at the same place.
    fn set_text(&mut self, area: usize, text: &str) {
        let offset = le(&self.bytes, area + 40);
        put(&mut self.bytes, area + offset, text.as_bytes());
        put(&mut self.bytes, area + 48, &(text.len() as u64).to_le_bytes());
        put(&mut self.bytes, area + 56, &checksum(text.as_bytes()));
        self.mend_header(area);
    }

    /// Changes one copy of the text.
    fn edit_one(&mut self, place: usize, area: usize, from: &str, to: &str) {
        let area = self.areas(place)[area];
        let text = self.text(area);
        assert!(text.contains(from), "{from} is not in {text}");
        self.set_text(area, &text.replacen(from, to, 1));
    }

    /// Changes all copies of the text.
    fn edit(&mut self, from: &str, to: &str) {
        for place in 0..self.places.len() {
            for area in 0..self.areas(place).len() {
                self.edit_one(place, area, from, to);
            }
        }
    }

    /// What is said against each physical volume.
    fn reasons(&self) -> Vec<Option<String>> {
        let found = lvm::read(&self.bytes, &self.places).unwrap();
        found.physical.into_iter().map(|volume| volume.untrusted).collect()
    }
}

/// Two physical volumes, the first with two copies of the metadata.
const BASE: Recipe = Recipe {
    name: "base",
    label: "gpt",
    size: 24,
    partitions: &[(1, 9), (10, 10)],
    script: "l pvcreate --pvmetadatacopies 2 $p1; l pvcreate $p2; vg -s 512k vg0 $p1 $p2
             lv -n a -l 5 vg0 $p1; lv -n b -l 4 vg0 $p2; l lvextend -l +3 vg0/a $p2
             lv -n st -i2 -I64k -l 4 vg0",
    volumes: &[],
};

type Edit = fn(&mut Bench);

/// Changes, and what is then said against the first physical volume.
const REASONS: &[(Edit, &str)] = &[
    // The label.
    (|b| b.flip(b.label(0) + 16), "checksum that does not hold"),
    (|b| b.flip(b.label(0) + 400), "checksum that does not hold"),
    (|b| b.relabel(0, 8, &[2]), "is not where it says it is"),
    (|b| b.relabel(0, 20, &[40]), "is not where it says it is"),
    (|b| b.relabel(0, 24, b"LVM2 002"), "of an unknown kind"),
    (|b| b.relabel(0, 32, b"-"), "a UUID that is none"),
    (
        |b| {
            let at = b.label(0);
            b.bytes[at] = 0
        },
        "it has no label",
    ),
    (
        |b| {
            let at = b.label(0);
            b.bytes.copy_within(at..at + 512, at + 512);
        },
        "it has several labels",
    ),
    (|b| b.relabel(0, 64, &(9 * MIB + 512).to_le_bytes()), "but the partition only"),
    (|b| b.places[0].end -= 512, "but the partition only"),
    // Its lists: data, 0, metadata, metadata, 0, extension.
    (|b| b.relabel(0, 72, &[0; 8]), "more or less than one area of data"),
    (|b| b.relabel(0, 88, &[1]), "more or less than one area of data"),
    (|b| b.relabel(0, 80, &[0xFF; 8]), "an area beyond the end"),
    (|b| b.relabel(0, 112, &[0xFF; 8]), "an area beyond the end"),
    (|b| b.relabel(0, 112, &[0xFF, 0xFF, 0x7F]), "names areas that overlap"),
    (|b| b.relabel(0, 104, &512u64.to_le_bytes()), "names areas that overlap"),
    (
        |b| {
            let third = [[0, 0, 3, 0, 0, 0, 0, 0], [0, 2, 0, 0, 0, 0, 0, 0]].concat();
            let first = [[0, 0, 1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0]].concat();
            let second = [[0, 0, 2, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0]].concat();
            b.relabel(0, 104, &[first, second, third, vec![0; 16]].concat());
        },
        "more than two areas of metadata",
    ),
    (|b| b.relabel(0, 72, &[1; 440]), "is cut off"),
    (|b| b.relabel(0, 88, &[1; 424]), "is cut off"),
    (|b| b.relabel(0, 104, &[1; 408]), "is cut off"),
    (|b| b.relabel(0, 160, &[1; 352]), "is cut off"),
    (|b| b.relabel(0, 152, &[3]), "an extension of version 3"),
    (|b| b.relabel(0, 156, &[3]), "unknown flags (0x3)"),
    (|b| b.relabel(0, 152, &[0]), "an extension of version 0"),
    (|b| b.relabel(0, 156, &[0]), "says that it belongs to no group"),
    (|b| b.relabel(1, 140, &[0]), "says that it belongs to no group"),
    // Boot loaders among the extents.
    (
        |b| b.relabel(0, 160, &[MIB.to_le_bytes(), MIB.to_le_bytes()].concat()),
        "its metadata among its extents",
    ),
    // The metadata areas.
    (
        |b| {
            let at = b.areas(0)[0];
            b.bytes[at + 500] = 1
        },
        "header whose checksum",
    ),
    (
        |b| {
            let at = b.areas(0)[1];
            b.bytes[at] ^= 1
        },
        "header whose checksum",
    ),
    (
        |b| {
            let at = b.areas(1)[0];
            b.bytes[at] ^= 1
        },
        "header whose checksum",
    ),
    (|b| b.rehead(0, 0, 4, b"?"), "is of an unknown kind"),
    (|b| b.rehead(0, 1, 20, &[2]), "is of an unknown kind"),
    (|b| b.rehead(0, 0, 25, &[0x20]), "is not where it says it is"),
    (|b| b.rehead(0, 0, 33, &[0]), "is not where it says it is"),
    (|b| b.rehead(0, 0, 64, &[1]), "a change that was not completed"),
    (|b| b.rehead(0, 0, 511, &[1]), "a change that was not completed"),
    (|b| b.rehead(0, 0, 60, &[2]), "has unknown flags"),
    (|b| b.rehead(0, 0, 40, &[0xFF, 1, 0, 0]), "a text outside itself"),
    (|b| b.rehead(0, 0, 40, &[0xFF; 8]), "a text outside itself"),
    (|b| b.rehead(0, 0, 48, &[0xFF; 8]), "a text outside itself"),
    (|b| b.rehead(0, 0, 48, &[0; 8]), "a text outside itself"),
    (|b| b.rehead(0, 0, 56, &[0; 4]), "a text whose checksum does not hold"),
    (
        |b| {
            let at = b.areas(0)[1];
            let text = at + le(&b.bytes, at + 40);
            b.bytes[text + 40] ^= 1;
        },
        "a text whose checksum does not hold",
    ),
    (|b| b.rehead(0, 0, 40, &[0; 24]), "one of its metadata areas is empty"),
    (|b| b.rehead(1, 0, 40, &[0; 24]), "a metadata area that is empty"),
    // Copies that differ.
    (|b| b.edit_one(0, 0, "seqno = 7", "seqno = 6"), "differ (versions 6 and 7)"),
    (|b| b.edit_one(0, 1, "seqno = 7", "seqno = 6"), "differ (versions 7 and 6)"),
    (|b| b.edit_one(1, 0, "seqno = 7", "seqno = 8"), "differ (versions 7 and 8)"),
    (|b| b.edit_one(1, 0, "max_lv = 0", "max_lv = 1"), "differ (versions 7 and 7)"),
    // The physical volumes of a group.
    (|b| drop(b.places.pop()), "is not on this disk"),
    (
        |b| {
            let at = b.label(1);
            b.bytes[at] = 0
        },
        "is not on this disk",
    ),
    (
        |b| {
            let second = b.bytes[10 << 20..20 << 20].to_vec();
            b.bytes.extend(second);
            b.places.push(24 * MIB..34 * MIB);
        },
        "is on this disk 2 times",
    ),
    (|b| b.edit("pe_start = 2048", "pe_start = 2047"), "do not agree on its size"),
    (|b| b.edit("dev_size = 18432", "dev_size = 18431"), "do not agree on its size"),
    (|b| b.edit("pe_count = 14", "pe_count = 15"), "its metadata among its extents"),
    (|b| b.edit("pe_count = 14", "pe_count = 999"), "has extents beyond its end"),
    (
        |b| b.edit("[\"ALLOCATABLE\"]\nflags = []", "[]\nflags = [\"MISSING\"]"),
        "is missing",
    ),
    (|b| b.edit("[\"ALLOCATABLE\"]", "[\"ODD\"]"), "the unknown flag ODD"),
    (|b| b.edit("[\"ALLOCATABLE\"]", "[\"EXPORTED\"]"), "is exported"),
    (|b| b.edit("dev_size", "odd = 1 dev_size"), "the unknown property odd"),
    (|b| b.edit("dev_size = 18432", ""), "lacks a sound dev_size"),
    // The group.
    (|b| b.edit("[\"RESIZEABLE\"", "[\"EXPORTED\""), "is exported: import it"),
    (|b| b.edit("[\"RESIZEABLE\"", "[\"PARTIAL\""), "lacks a physical volume"),
    (|b| b.edit("[\"RESIZEABLE\"", "[\"PVMOVE\""), "is being moved"),
    (|b| b.edit("[\"RESIZEABLE\"", "[\"CLUSTERED\""), "is shared with other machines"),
    (|b| b.edit("[\"RESIZEABLE\"", "[\"SHARED\""), "is shared with other machines"),
    (
        |b| b.edit("max_lv = 0", "lock_type = \"sanlock\""),
        "is shared with other machines",
    ),
    (|b| b.edit("flags = []", "flags = [\"ODD\"]"), "the unknown flag ODD"),
    (|b| b.edit("max_lv = 0", "odd = 0"), "the unknown property odd"),
    (|b| b.edit("\"lvm2\"", "\"lvm1\""), "of another format"),
    (|b| b.edit("extent_size = 1024", "extent_size = 0"), "an impossible extent size"),
    (
        |b| b.edit("extent_size = 1024", "extent_size = \"x\""),
        "lacks a sound extent_size",
    ),
    (|b| b.edit("seqno = 7", "seqno = 7 seqno = 7"), "a key that comes twice"),
    (|b| b.edit("Text Format", "Other Format"), "of an unknown format"),
    (|b| b.edit("seqno = 7", ""), "lacks a sound seqno"),
    // The segments: a is pv0 0-4 and pv1 4-6, b is pv1 0-3, st is pv0 5-6, pv1 7-8.
    (|b| b.edit("\"pv0\", 5", "\"pv0\", 4"), "has extent 4 of pv0 in two segments"),
    (|b| b.edit("\"pv1\", 4", "\"pv1\", 6"), "has extent 7 of pv1 in two segments"),
    (|b| b.edit("\"pv1\", 7", "\"pv0\", 5"), "has extent 5 of pv0 in two segments"),
    (|b| b.edit("\"pv0\", 5", "\"pv0\", 13"), "beyond the end of their volume"),
    (
        |b| b.edit("\"pv0\", 5", "\"pv0\", 18446744073709551615"),
        "beyond the end of their volume",
    ),
    (
        |b| b.edit("start_extent = 5", "start_extent = 6"),
        "does not follow the one before",
    ),
    (
        |b| b.edit("start_extent = 5", "start_extent = 4"),
        "does not follow the one before",
    ),
    (
        |b| b.edit("extent_count = 5", "extent_count = 0"),
        "does not follow the one before",
    ),
    (|b| b.edit("segment_count = 2", "segment_count = 1"), "more or fewer segments"),
    (|b| b.edit("segment_count = 2", "segment_count = 3"), "more or fewer segments"),
    (|b| b.edit("stripe_count = 2", "stripe_count = 0"), "impossible number of stripes"),
    (|b| b.edit("stripe_count = 2", "stripe_count = 3"), "impossible number of stripes"),
    (|b| b.edit("stripe_count = 2", "stripe_count = 4"), "more or fewer stripes"),
    (|b| b.edit("stripe_size = 128", "stripe_size = 100"), "an impossible stripe size"),
    (|b| b.edit("stripe_size = 128", "stripe_size = 4"), "an impossible stripe size"),
    (|b| b.edit("stripe_size = 128", ""), "lacks a sound stripe_size"),
    (|b| b.edit("\"pv0\", 5", "5, \"pv0\""), "a stripe that is none"),
    (|b| b.edit("\"VISIBLE\"", "\"LOCKED\""), "is being moved"),
    (|b| b.edit("\"VISIBLE\"", "\"PVMOVE\""), "is being moved"),
];

#[test]
fn doubtful_metadata_is_not_believed() {
    let test = "doubtful_metadata_is_not_believed";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let disk = Disk::make(&scratch, &BASE);
    let sound = Bench::of(&disk);
    assert_eq!(sound.areas(0).len(), 2);
    assert_eq!(sound.reasons(), [None, None], "{}", sound.text(sound.areas(0)[0]));
    assert_eq!(read(&disk).logical.len(), 3);
    let mut missed = Vec::new();
    for (number, (edit, expected)) in REASONS.iter().enumerate() {
        let mut bench = sound.clone();
        edit(&mut bench);
        let found = lvm::read(&bench.bytes, &bench.places).unwrap();
        // Nothing of the group may be left, whichever volume shows it.
        let all = found.physical.iter().all(|volume| volume.untrusted.is_some());
        let said = found.physical[0].untrusted.as_deref().unwrap_or("nothing");
        if !said.contains(expected) || !all || !found.logical.is_empty() {
            missed.push(format!("{number}: {:?}, not {expected}", found.physical));
        }
        assert!(found.physical.iter().all(|volume| volume.unallocated.is_empty()));
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));

    // What does not matter.
    let harmless: &[Edit] = &[
        |b| {
            b.edit(
                "max_lv = 0",
                "max_lv = 9 profile = \"some\" allocation_policy = \"cling\"",
            )
        },
        |b| b.edit("\"ALLOCATABLE\"", ""),
        |b| {
            b.edit(
                "\"READ\", \"WRITE\", \"VISIBLE\"",
                "\"READ\", \"VISIBLE\", \"FIXED_MINOR\"",
            )
        },
        |b| b.edit("creation_time = ", "# "),
        // A copy that the group was told not to use, whatever is in it.
        |b| {
            b.rehead(0, 1, 40, &[0; 20]);
            b.rehead(0, 1, 60, &[1]);
        },
        |b| b.rehead(1, 0, 60, &[1]),
        // Written by an older program.
        |b| b.relabel(0, 152, &[1, 0, 0, 0, 0]),
        |b| b.relabel(0, 152, &[0, 0, 0, 0, 0]),
    ];
    for (number, edit) in harmless.iter().enumerate() {
        let mut bench = sound.clone();
        edit(&mut bench);
        let found = lvm::read(&bench.bytes, &bench.places).unwrap();
        assert_eq!(bench.reasons(), [None, None], "{number}");
        assert_eq!(found.logical, read(&disk).logical, "{number}");
    }
}

/// A text that reaches the end of its area goes on behind the header.
#[test]
fn a_text_may_wrap() {
    let test = "a_text_may_wrap";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let disk = Disk::make(&scratch, &BASE);
    let mut bench = Bench::of(&disk);
    for place in 0..2 {
        for area in bench.areas(place) {
            let text = bench.text(area);
            let size = le(&bench.bytes, area + 32);
            let (head, tail) = text.split_at(1024);
            put(&mut bench.bytes, area + size - 1024, head.as_bytes());
            put(&mut bench.bytes, area + 512, tail.as_bytes());
            put(&mut bench.bytes, area + 40, &(size as u64 - 1024).to_le_bytes());
            bench.mend_header(area);
        }
    }
    // lvm2 reads it so, too.
    let raw = scratch.path("wrapped");
    fs::write(&raw, &bench.bytes).unwrap();
    let said = with_lvm(&raw, &bench.places, "l vgck vg0");
    assert!(said.contains("lv|vg0|st|striped|0|4|"), "{said}");
    let found = lvm::read(&bench.bytes, &bench.places).unwrap();
    assert_eq!(found, read(&disk));
    assert_eq!(found.logical.len(), 3);
}

#[test]
fn groups_that_contradict_each_other_are_not_believed() {
    let test = "groups_that_contradict_each_other_are_not_believed";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let recipe = Recipe {
        name: "three",
        script: "l pvcreate --pvmetadatacopies 2 $p1; l pvcreate $p2
                 vg one $p1; vg two $p2; lv -n x -l 1 one; lv -n x -l 1 two",
        ..BASE
    };
    let sound = Bench::of(&Disk::make(&scratch, &recipe));
    assert_eq!(sound.reasons(), [None, None]);
    let id = |bench: &Bench, place: usize| {
        let text = bench.text(bench.areas(place)[0]);
        let after = text.split("pv0 {\nid = \"").nth(1).unwrap();
        after[..38].to_owned()
    };
    // Each claims the other's volume, and the second one's own is nowhere.
    let mut bench = sound.clone();
    let (own, other) = (id(&bench, 1), id(&bench, 0));
    bench.edit_one(1, 0, &own, &other);
    for reason in bench.reasons() {
        let reason = reason.unwrap();
        assert!(
            reason.contains("claim the same") || reason.contains("does not name it"),
            "{reason}"
        );
    }
    // A copy of the second one's metadata where the first one's should be.
    let mut bench = sound.clone();
    let text = bench.text(bench.areas(1)[0]);
    let area = bench.areas(0)[1];
    bench.set_text(area, &text);
    let reasons = bench.reasons();
    assert!(reasons[0].as_ref().unwrap().contains("of two volume groups"), "{reasons:?}");
    assert!(reasons[1].is_some(), "{reasons:?}");
    // Both there: the whole of the first one's is the second one's.
    let area = bench.areas(0)[0];
    bench.set_text(area, &text);
    let reasons = bench.reasons();
    assert!(reasons[0].as_ref().unwrap().contains("does not name it"), "{reasons:?}");
    assert!(reasons[1].as_ref().unwrap().contains("is elsewhere"), "{reasons:?}");
}

#[test]
fn exported_groups_and_lone_physical_volumes_are_not_read() {
    let test = "exported_groups_and_lone_physical_volumes_are_not_read";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    for (script, expected) in [
        (
            "l pvcreate $p1; vg vg0 $p1; lv -n x -l 1 vg0; l vgexport vg0",
            ["exported", "it has no label"],
        ),
        (
            "l pvcreate $p1 $p2",
            ["belongs to no volume group", "belongs to no volume group"],
        ),
        (
            "l pvcreate --pvmetadatacopies 0 $p1; l pvcreate $p2; vg vg0 $p1 $p2
             lv -n x -l 1 vg0; dd if=/dev/zero of=$p2 bs=1M count=1 conv=notrunc",
            ["whose metadata is not on this disk", "it has no label"],
        ),
        (
            // The second one is gone, and the group was told so.
            "l pvcreate $p1 $p2; vg vg0 $p1 $p2; lv -n x -l 1 vg0 $p1
             dd if=/dev/zero of=$p2 bs=1M count=1 conv=notrunc
             l vgreduce --removemissing vg0; l vgck vg0",
            ["", "it has no label"],
        ),
    ] {
        let disk = Disk::make(&scratch, &Recipe { name: "lone", script, ..BASE });
        let reasons = Bench::of(&disk).reasons();
        for (reason, expected) in reasons.iter().zip(expected) {
            let reason = reason.as_deref().unwrap_or_default();
            assert!(reason.contains(expected), "{script}: {reasons:?}");
            assert_eq!(reason.is_empty(), expected.is_empty(), "{script}: {reasons:?}");
        }
    }
}

/// A logical volume in the text.
fn section(number: usize, name: &str, status: &str, count: u64, segment: &str) -> String {
    format!(
        "{name} {{ id = \"{number:06}-AAAA-AAAA-AAAA-AAAA-AAAA-000000\"
         status = [{status}] flags = [] creation_time = 1 creation_host = \"x\"
         segment_count = 1 segment1 {{ start_extent = 0 extent_count = {count} {segment} }} }}\n"
    )
}

const SEEN: &str = "\"READ\", \"WRITE\", \"VISIBLE\"";
const HIDDEN: &str = "\"READ\", \"WRITE\"";

/// Volumes of all sorts, as lvm2 writes them: made of linear ones by way of its own
/// backup of the metadata, which it checks when it restores it.
fn all_sorts(scratch: &Scratch) -> Disk {
    let parts = [
        "plain",
        "data",
        "snap",
        "r_rmeta_0",
        "r_rimage_0",
        "r_rmeta_1",
        "r_rimage_1",
        "pool_tmeta",
        "pool_tdata",
        "cp_cdata",
        "cp_cmeta",
        "cached_corig",
        "m_mimage_0",
        "m_mimage_1",
        "ext",
    ];
    let raw = scratch.path("sorts");
    let text = scratch.path("sorts.txt");
    fs::File::create(&raw).unwrap().set_len(64 * MIB).unwrap();
    let places = [0..64 * MIB];
    // lvm2 keeps those names for itself.
    let create = parts.iter().fold(String::new(), |script, name| {
        format!("{script}lv -n q{} -l 3 vg0\n", name.replace('_', "Z"))
    });
    let script = format!(
        "l pvcreate $p1; vg -s 512k vg0 $p1\n{create}
         l vgcfgbackup -f {} vg0",
        text.display()
    );
    with_lvm(&raw, &places, &script);
    let mut said = fs::read_to_string(&text).unwrap();
    for name in parts {
        let quoted = format!("\t\tq{} {{", name.replace('_', "Z"));
        assert!(said.contains(&quoted), "{said}");
        said = said.replace(&quoted, &format!("\t\t{name} {{"));
        if name.contains('_') {
            let at = said.find(&format!("\t\t{name} {{")).unwrap();
            let visible = at + said[at..].find(", \"VISIBLE\"").unwrap();
            said.replace_range(visible..visible + 11, "");
        }
    }
    let sections = [
        ("snapshot0", SEEN, 3, "type=\"snapshot\" chunk_size=8 origin=\"data\" cow_store=\"snap\""),
        (
            "r",
            SEEN,
            3,
            "type=\"raid1\" device_count=2 region_size=1024
             raids=[\"r_rmeta_0\",\"r_rimage_0\",\"r_rmeta_1\",\"r_rimage_1\"]",
        ),
        (
            "pool",
            SEEN,
            3,
            "type=\"thin-pool\" metadata=\"pool_tmeta\" pool=\"pool_tdata\" transaction_id=2
             chunk_size=128 discards=\"passdown\" zero_new_blocks=1",
        ),
        ("thin", SEEN, 20, "type=\"thin\" thin_pool=\"pool\" transaction_id=0 device_id=1"),
        (
            "thin2",
            SEEN,
            3,
            "type=\"thin\" thin_pool=\"pool\" transaction_id=1 device_id=2
             external_origin=\"ext\"",
        ),
        (
            "cp",
            HIDDEN,
            3,
            "type=\"cache-pool\" data=\"cp_cdata\" metadata=\"cp_cmeta\" chunk_size=128
             cache_mode=\"writeback\" policy=\"smq\" metadata_format=2",
        ),
        ("cached", SEEN, 3, "type=\"cache\" cache_pool=\"cp\" origin=\"cached_corig\""),
        (
            "m",
            SEEN,
            3,
            "type=\"mirror\" mirror_count=2 region_size=1024
             mirrors=[\"m_mimage_0\",0,\"m_mimage_1\",0]",
        ),
        ("none", SEEN, 3, "type=\"zero\""),
        ("bad", SEEN, 3, "type=\"error\""),
    ];
    let added: String = sections
        .iter()
        .enumerate()
        .map(|(n, (name, status, count, segment))| {
            section(n, name, status, *count, segment)
        })
        .collect();
    said = said.replacen("logical_volumes {", &format!("logical_volumes {{\n{added}"), 1);
    fs::write(&text, said).unwrap();
    // It also writes what it read once more in its own words.
    let script = format!(
        "l vgcfgrestore --force -f {} vg0; l vgck vg0; l lvchange --addtag x vg0/plain",
        text.display()
    );
    let said = with_lvm(&raw, &places, &script);
    let mut disk = Disk {
        bytes: fs::read(&raw).unwrap(),
        partitions: places.to_vec(),
        bare: true,
        volumes: Default::default(),
        unallocated: Ranges::new(),
        segments: String::new(),
    };
    disk.judge(&said);
    disk
}

fn state_of<'a>(found: &'a Survey, name: &str) -> (VolumeState, &'a str) {
    let name = Some(name.to_owned());
    let report = found.volumes.iter().find(|v| v.logical_volume == name);
    let report = report.unwrap_or_else(|| panic!("{name:?} of {:?}", found.volumes));
    (report.state, report.reason.as_deref().unwrap_or_default())
}

#[test]
fn volumes_that_are_more_than_their_segments_are_opaque() {
    let test = "volumes_that_are_more_than_their_segments_are_opaque";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let mut disk = all_sorts(&scratch);
    for kind in ["raid1", "thin-pool", "thin ", "cache ", "cache-pool", "mirror", "zero"]
    {
        assert!(disk.segments.contains(kind), "{}", disk.segments);
    }
    // A file system in every piece, one like the other, noise where it is free.
    let image = scratch.path("volume");
    let tree = scratch.path("tree");
    fs::create_dir_all(&tree).unwrap();
    fs::write(tree.join("file"), Noise::new(1).bytes(200_000)).unwrap();
    crate::support::sh(&format!(
        "mke2fs -q -F -t ext2 -b 1024 -d {} {} 1536k",
        tree.display(),
        image.display()
    ));
    let mut volume = fs::read(&image).unwrap();
    let free: Ranges = crate::ext::dumpe2fs_free(&image).into_iter().collect();
    let ranges: Vec<_> = free.iter().collect();
    crate::free_map::scribble(&mut volume, &ranges);
    let names: Vec<String> = disk.volumes.keys().cloned().collect();
    for name in &names {
        if !disk.volumes[name].pieces.is_empty() {
            disk.place(name, &volume);
        }
    }
    for range in disk.unallocated.clone().iter() {
        disk.scribble(range, &mut Noise::new(9));
    }
    for mode in [Mode::Quick, Mode::Full] {
        let found = judge(&disk.bytes, 16 << 10, &options(mode, false));
        let free = disk.places_of("vg0/plain", &free);
        for (block, verdict) in found.verdicts.iter().enumerate() {
            let at = (block as u64) << 14;
            let gone = free.covers(&(at..at + (16 << 10)));
            let expected = if gone { Verdict::Free } else { Verdict::Live };
            if *verdict != Verdict::Absent {
                assert_eq!(*verdict, expected, "{mode:?}, {at:#x}");
            }
        }
        assert_eq!(state_of(&found, "vg0/plain").0, VolumeState::Trusted);
        for (name, reason) in [
            ("data", "a volume of type snapshot is built upon it"),
            ("snap", "a volume of type snapshot is built upon it"),
            ("r", "it is of type raid1"),
            ("r_rimage_0", "a volume of type raid1 is built upon it"),
            ("pool", "a volume of type thin is built upon it"),
            ("pool_tdata", "a volume of type thin-pool is built upon it"),
            ("thin", "it is of type thin"),
            ("ext", "a volume of type thin is built upon it"),
            ("cp", "a volume of type cache is built upon it"),
            ("cached", "it is of type cache"),
            ("cached_corig", "a volume of type cache is built upon it"),
            ("m", "it is of type mirror"),
            ("m_mimage_1", "a volume of type mirror is built upon it"),
            ("none", "it is of type zero"),
            ("bad", "it is of type error"),
        ] {
            let (state, said) = state_of(&found, &format!("vg0/{name}"));
            assert_eq!(state, VolumeState::Unknown, "{name}");
            assert!(said.starts_with(reason), "{name}: {said}");
        }
    }
    // Beside all of them, what is in no segment is known.
    let found = read(&disk);
    assert_eq!(found.physical[0].unallocated, disk.unallocated);
    assert!(disk.unallocated.total() > MIB);

    let bench = Bench::of(&disk);
    let plain = |edit: Edit| {
        let mut bench = bench.clone();
        edit(&mut bench);
        let mut found = lvm::read(&bench.bytes, &bench.places).unwrap();
        assert_eq!(found.physical[0].untrusted, None);
        let at = found.logical.iter().position(|v| v.name == "vg0/plain").unwrap();
        let reason = found.logical.swap_remove(at).opaque.unwrap_or_default();
        (reason, found.physical[0].unallocated.is_empty())
    };
    for (edit, reason, nothing_unallocated) in [
        (
            (|b| b.edit("flags = []\ntags = [\"x\"]", "flags = [\"ODD\"]")) as Edit,
            "it has the flag ODD",
            false,
        ),
        (
            |b| b.edit("tags = [\"x\"]", "odd = 1"),
            "it has the unknown property odd",
            false,
        ),
        (
            |b| b.edit("tags = [\"x\"]", "odd { x = 1 }"),
            "it has the unknown property odd",
            false,
        ),
        (
            |b| {
                let text = b.text(b.areas(0)[0]);
                let at = text.find("plain {").unwrap();
                let new = text[at..].replacen(
                    "stripe_count = 1\n",
                    "stripe_count = 1 odd = 1\n",
                    1,
                );
                b.edit(&text[at..], &new);
            },
            "its segments have the unknown property odd",
            false,
        ),
        (
            |b| {
                let text = b.text(b.areas(0)[0]);
                let at = text.find("plain {").unwrap();
                let new = text[at..].replacen("\"VISIBLE\"", "", 1);
                b.edit(&text[at..], &new);
            },
            "it is a hidden part of other volumes",
            false,
        ),
        // Nobody knows which extents these take.
        (|b| b.edit("type = \"zero\"", "type = \"odd\""), "", true),
        (|b| b.edit("type = \"zero\"", "type = \"error\" x = \"pv0\""), "", true),
        (
            |b| {
                b.edit(
                    "type = \"zero\"",
                    "type = \"striped\" stripe_count = 1 stripes = [\"plain\", 0]",
                )
            },
            "a volume of type striped is built upon it",
            true,
        ),
        (
            |b| b.edit("type = \"zero\"", "type = \"raid5_ls\" raids = [\"plain\"]"),
            "a volume of type raid5_ls is built upon it",
            false,
        ),
    ] {
        assert_eq!(plain(edit), (reason.to_owned(), nothing_unallocated));
    }
}

/// What lies in a logical volume may be a disk, or a physical volume, or encrypted.
#[test]
fn what_a_volume_holds_beside_a_file_system_is_seen() {
    let test = "what_a_volume_holds_beside_a_file_system_is_seen";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let recipe = &super::RECIPES[0];
    let disk = Disk::make(&scratch, recipe);
    let root = disk.volumes["vg0/root"].pieces[0].start as usize;
    let sound = judge(&disk.bytes, 64 << 10, &options(Mode::Quick, false));
    assert_eq!(state_of(&sound, "vg0/root"), (VolumeState::Trusted, ""));
    let entry = [0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0];
    let edits: [(&dyn Fn(&mut [u8]), VolumeState, &str); 4] = [
        (
            &|b| {
                put(b, root + 446, &entry);
                put(b, root + 510, &[0x55, 0xAA]);
            },
            VolumeState::Unknown,
            "a disk with a partition table of its own",
        ),
        (&|b| put(b, root + 512, b"EFI PART"), VolumeState::Unknown, "a partition table"),
        (&|b| put(b, root + 512, b"LABELONE"), VolumeState::Untrusted, "ext and LVM2"),
        (&|b| put(b, root, b"LUKS\xBA\xBE"), VolumeState::Untrusted, "ext and LUKS"),
    ];
    for (edit, state, reason) in edits {
        let mut bytes = disk.bytes.clone();
        edit(&mut bytes);
        let found = judge(&bytes, 64 << 10, &options(Mode::Quick, false));
        let (found_state, said) = state_of(&found, "vg0/root");
        assert_eq!(found_state, state, "{said}");
        assert!(said.contains(reason), "{said}");
        // Not a block of it goes, and the other volume's still do.
        let blocks = root >> 16..(root + (16 << 20)) >> 16;
        assert!(!found.verdicts[blocks.clone()].contains(&Verdict::Free));
        assert!(sound.verdicts[blocks].contains(&Verdict::Free));
        assert!(found.verdicts.contains(&Verdict::Free));
        assert_eq!(state_of(&found, "vg0/data").0, VolumeState::Trusted);
    }
}

#[test]
fn physical_volumes_that_may_be_leftovers_are_not_read() {
    let test = "physical_volumes_that_may_be_leftovers_are_not_read";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let disk = Disk::make(&scratch, &super::RECIPES[0]);
    let none_free = |bytes: &[u8], reason: &str, dropping: bool| {
        let found = judge(bytes, 64 << 10, &options(Mode::Quick, dropping));
        let said = found.volumes[0].reason.clone().unwrap();
        assert!(said.contains(reason), "{said}");
        assert_eq!(found.volumes.len(), 1);
        let partition = &disk.partitions[0];
        let blocks = (partition.start >> 16) as usize..(partition.end >> 16) as usize;
        assert!(!found.verdicts[blocks].contains(&Verdict::Free));
        found
    };
    let start = disk.partitions[0].start as usize;
    // An old superblock of ext before the extents.
    let mut bytes = disk.bytes.clone();
    put(&mut bytes, start + 1024 + 0x38, &[0x53, 0xEF]);
    none_free(&bytes, "signatures of ext and LVM2", true);
    // The metadata is damaged: what is unallocated stays.
    let mut bytes = disk.bytes.clone();
    bytes[start + 4096] ^= 1;
    let found = none_free(&bytes, "a metadata area has a header", true);
    assert_eq!(found.volumes[0].state, VolumeState::Untrusted);
    assert_eq!(found.volumes[0].filesystem.as_deref(), Some("LVM2"));
    // The whole disk was a physical volume before it was partitioned.
    let recipe = Recipe { label: "dos", name: "mbr", ..super::RECIPES[0] };
    let mut disk = Disk::make(&scratch, &recipe);
    put(&mut disk.bytes, 512, b"LABELONE");
    let found = judge(&disk.bytes, 64 << 10, &options(Mode::Quick, true));
    assert!(!found.verdicts.contains(&Verdict::Free));
    let said = found.table.unwrap().untrusted.unwrap();
    assert!(
        said.contains("label of an LVM2 physical volume beside its partition"),
        "{said}"
    );
}
