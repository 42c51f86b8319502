//! LVM2 against lvm2 itself: where the bytes of logical volumes lie is what its own
//! list of segments says, and what is free in them what the file systems' tools say.

mod compacted;
mod distrust;
mod hostile;
mod image;

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use slimdisk::compact::report::{KeptBytes, VolumeReport, VolumeState};
use slimdisk::compact::survey::{Survey, survey};
use slimdisk::compact::{Mode, Options, Verdict};
use slimdisk::image as images;
use slimdisk::partition::lvm::{self, Lvm};
use slimdisk::ranges::Ranges;
use slimdisk::storage::Mapped;
use slimdisk::volume::{Allowances, Identity, identify};

use self::image::{Disk, MIB, Recipe, TOOLS};
use crate::faults::MemFile;
use crate::free_map::scribble;
use crate::support::{Scratch, have};
use crate::vhd_model::Shape;

/// The ways in which volume groups are laid out.
pub const RECIPES: &[Recipe] = &[
    Recipe {
        name: "linear",
        label: "gpt",
        size: 48,
        partitions: &[(1, 40)],
        script: "l pvcreate $p1; vg vg0 $p1
                 lv -n root -L 16M vg0; lv -n data -L 12M vg0",
        volumes: &[
            ("vg0/root", "ext", "-t ext4 -b 1024"),
            ("vg0/data", "ext", "-t ext4 -b 4096 -O ^has_journal"),
        ],
    },
    Recipe {
        name: "fragmented",
        label: "dos",
        size: 48,
        partitions: &[(2, 43)],
        script: "l pvcreate $p1; vg -s 1M vg-0.x $p1
                 lv -n root -l 3 vg-0.x $p1:20-22
                 lv -n data -l 5 vg-0.x $p1:3-7
                 lv -n gap -l 1 vg-0.x $p1:8
                 l lvextend -l +4 vg-0.x/root $p1:0-2:12
                 l lvextend -l +5 vg-0.x/data $p1:30-34
                 l lvextend -l +4 vg-0.x/root $p1:13-15:36
                 l lvremove -y vg-0.x/gap
                 lv -n small -l 2 vg-0.x $p1:9:19
                 l lvextend -l +1 vg-0.x/data $p1:8",
        volumes: &[
            ("vg-0.x/root", "ext", "-t ext4 -b 1024 -J size=1"),
            ("vg-0.x/data", "ext", "-t ext2 -b 4096"),
            ("vg-0.x/small", "ext", "-t ext2 -b 2048"),
        ],
    },
    Recipe {
        name: "striped",
        label: "gpt",
        size: 64,
        partitions: &[(1, 25), (27, 33)],
        script: "l pvcreate --pvmetadatacopies 2 $p1 $p2; vg -s 512k vg0 $p1 $p2
                 lv -n plain -l 17 vg0 $p2
                 lv -n st -i2 -I64k -l 32 vg0
                 l lvextend -l +6 vg0/plain $p1
                 l lvextend -i2 -I4k -l +6 vg0/st",
        volumes: &[
            ("vg0/st", "ext", "-t ext4 -b 1024 -J size=1"),
            ("vg0/plain", "ext", "-t ext4 -b 4096 -O ^has_journal"),
        ],
    },
    Recipe {
        name: "concatenated",
        label: "dos",
        size: 56,
        partitions: &[(1, 20), (23, 30)],
        // Only the second one has metadata, twice, and its own comes first in the volume.
        script: "l pvcreate --pvmetadatacopies 0 $p1; l pvcreate --pvmetadatacopies 2 $p2
                 vg -s 2M vg0 $p1 $p2
                 lv -n big -l 12 vg0 $p2
                 l lvextend -l +8 vg0/big $p1
                 l lvchange --addtag some --setactivationskip y vg0/big",
        volumes: &[("vg0/big", "ntfs", "-c 4096")],
    },
    Recipe {
        name: "bare",
        label: "",
        size: 40,
        partitions: &[],
        script:
            "l pvcreate --bootloaderareasize 64k --dataalignment 192k --labelsector 3 $p1
                 vg -s 384k --addtag some vg0 $p1
                 lv -n a -l 20 vg0; lv -n b -l 21 vg0; l lvextend -l +12 vg0/a",
        volumes: &[
            ("vg0/a", "ntfs", "-c 1024"),
            ("vg0/b", "ext", "-t ext3 -b 1024 -J size=1"),
        ],
    },
    Recipe {
        name: "two-groups",
        label: "gpt",
        size: 64,
        partitions: &[(1, 16), (17, 17), (35, 20)],
        // One with a system ID, and metadata on but one of its two volumes.
        script: "l pvcreate --pvmetadatacopies 1 $p1 $p2 $p3
                 vg -s 128k one $p1
                 l vgcreate -s 4M --metadatacopies 1 two $p2 $p3
                 lv -n x -l 70 one; lv -n y -l 4 one; l lvextend -l +30 one/x
                 lv -n x -i2 -I128k -l 6 two",
        volumes: &[
            ("one/x", "ext", "-t ext4 -b 1024 -J size=1"),
            ("two/x", "ext", "-t ext4 -b 4096 -O ^has_journal"),
        ],
    },
];

/// What our reader makes of a disk.
fn read(disk: &Disk) -> Lvm {
    lvm::read(&disk.bytes, &disk.partitions).unwrap()
}

/// What is free on the disk by our own reading: in volumes, and unallocated.
fn our_free(disk: &Disk, found: &Lvm) -> (Ranges, Ranges) {
    let mut free = Ranges::new();
    for volume in &found.logical {
        let mapped = Mapped::new(&disk.bytes, &volume.mapping);
        if let Identity::Known(system) = identify(&mapped).unwrap() {
            let findings = system
                .survey(&mapped, &Allowances::default(), &mut |range| {
                    volume.mapping.pieces(range, &mut |piece| free.insert(piece));
                })
                .unwrap();
            assert_eq!(findings.untrusted, None, "{}", volume.name);
        }
    }
    let unallocated = found.physical.iter().flat_map(|v| v.unallocated.iter());
    (free, unallocated.collect())
}

#[test]
fn every_layout_is_mapped_as_lvm2_does_and_survives_noise() {
    let test = "every_layout_is_mapped_as_lvm2_does_and_survives_noise";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    for recipe in RECIPES {
        let mut disk = Disk::make(&scratch, recipe);
        let name = recipe.name;
        let found = read(&disk);
        for volume in &found.physical {
            assert_eq!(volume.untrusted, None, "{name}");
        }
        let names: Vec<_> = found.logical.iter().map(|v| v.name.as_str()).collect();
        let mut expected = names.clone();
        expected.sort_by_key(|name| disk.volumes[*name].pieces[0].start);
        assert_eq!((names.len(), &names), (disk.volumes.len(), &expected), "{name}");
        let (free, unallocated) = our_free(&disk, &found);
        let mut all = Ranges::new();
        for volume in &found.logical {
            let judged = &disk.volumes[&volume.name];
            assert_eq!(volume.opaque, None, "{name}");
            let mut ours = Vec::new();
            let mut at = 0;
            for piece in &judged.pieces {
                let end = at + piece.end - piece.start;
                volume.mapping.pieces(at..end, &mut |piece| ours.push(piece));
                at = end;
            }
            assert_eq!(ours, judged.pieces, "{name}: {}", volume.name);
            assert_eq!(volume.mapping.len(), volume.size);
            assert_eq!((volume.size, volume.offset), (at, judged.pieces[0].start));
            if let Some(content) = &judged.content {
                for range in disk.places_of(&volume.name, &content.free).iter() {
                    all.insert(range);
                }
            }
        }
        assert_eq!(free, all, "{name}");
        assert_eq!(unallocated, disk.unallocated, "{name}");
        assert!(free.total() > MIB * 4 && unallocated.total() > MIB, "{name}");

        let mut bytes = std::mem::take(&mut disk.bytes);
        for ranges in [free, unallocated] {
            scribble(&mut bytes, &ranges.iter().collect::<Vec<_>>());
        }
        disk.judge_contents(&scratch, &bytes);
        // lvm2 itself sees what it saw before.
        let raw = scratch.path(name);
        std::fs::write(&raw, &bytes).unwrap();
        let mut again = Disk { segments: String::new(), bytes, ..disk };
        let before = std::mem::take(&mut again.volumes);
        let said = image::with_lvm(&raw, &again.partitions, "l vgck");
        again.judge(&said);
        for (name, volume) in before {
            assert_eq!(volume.pieces, again.volumes[&name].pieces, "{name}");
        }
    }
}

/// What is known of a sector of the disk.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Known {
    Free,
    Used,
    Unjudged,
    Outside,
}

const SECTOR: u64 = 512;

fn known(disk: &Disk, options: &Options) -> Vec<Known> {
    let len = disk.bytes.len() as u64;
    let mut known = vec![Known::Outside; disk.bytes.len() / 512];
    if options.mode == Mode::Prezeroed {
        return known;
    }
    let mut set = |range: Range<u64>, what: Known| {
        known[(range.start / SECTOR) as usize..range.end.div_ceil(SECTOR) as usize]
            .fill(what);
    };
    // Until the first MiB and in the last three everything stays.
    let gaps: Ranges = disk.partitions.iter().cloned().collect();
    let edges = MIB..len - 3 * MIB;
    let dropped = |ranges: &Ranges| -> Vec<_> { ranges.within(edges.clone()).collect() };
    for range in &disk.partitions {
        set(range.clone(), Known::Unjudged);
    }
    for range in disk.unallocated.iter() {
        set(range, Known::Outside);
    }
    if options.drop_unpartitioned {
        for range in dropped(&disk.unallocated) {
            set(range, Known::Free);
        }
        if !disk.bare {
            // But for the backup of the table, which lies within the edge.
            for range in dropped(&gaps.gaps(0..len)) {
                set(range, Known::Free);
            }
        }
    }
    for (name, volume) in &disk.volumes {
        if let Some(content) = &volume.content {
            let covered = std::iter::once(0..content.length).collect();
            for range in disk.places_of(name, &covered).iter() {
                set(range, Known::Used);
            }
            for range in disk.places_of(name, &content.free).iter() {
                set(range, Known::Free);
            }
        }
    }
    known
}

/// The verdict on each block, and where the bytes of the live ones belong to.
fn expected(disk: &Disk, options: &Options, block: usize) -> (Vec<Verdict>, KeptBytes) {
    let known = known(disk, options);
    let mut kept = KeptBytes::default();
    let blocks = disk.bytes.chunks(block).zip(known.chunks(block / 512));
    let verdicts = blocks.map(|(data, known)| {
        let zero = |data: &[u8]| data.iter().all(|byte| *byte == 0);
        if zero(data) {
            return Verdict::Absent;
        }
        let goes = known.iter().zip(data.chunks(512)).all(|(known, data)| match known {
            Known::Free => true,
            Known::Used => zero(data) && options.mode == Mode::Full,
            Known::Unjudged | Known::Outside => zero(data),
        });
        if goes {
            return Verdict::Free;
        }
        for known in known {
            *match known {
                Known::Free => &mut kept.pinned,
                Known::Used => &mut kept.used,
                Known::Unjudged => &mut kept.unjudged,
                Known::Outside => &mut kept.outside,
            } += SECTOR;
        }
        Verdict::Live
    });
    (verdicts.collect(), kept)
}

fn judge(bytes: &[u8], block: usize, options: &Options) -> Survey {
    let file = Shape::of_disk(bytes, block, false, *b"win ");
    let image = images::open(Arc::new(MemFile::new(file))).unwrap();
    let hook = &mut |_| ControlFlow::Continue(());
    survey(&*image, options, true, hook).unwrap().unwrap()
}

fn options(mode: Mode, dropping: bool) -> Options {
    let mut options = Options::default();
    options.mode = mode;
    options.drop_unpartitioned = dropping;
    options
}

#[test]
fn every_mode_gives_up_the_blocks_that_are_free_by_lvm2_and_the_tools() {
    let test = "every_mode_gives_up_the_blocks_that_are_free_by_lvm2_and_the_tools";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let mut won = [0; 4];
    for recipe in RECIPES {
        let disk = Disk::make(&scratch, recipe);
        // Stripes of 64 KiB and extents of 384 KiB end in the middle of these.
        for block in [16 << 10, 256 << 10, 2 << 20] {
            for mode in [Mode::Quick, Mode::Full, Mode::Prezeroed] {
                for dropping in [false, true] {
                    let options = options(mode, dropping);
                    let cell = format!("{}, {block}, {mode:?}, {dropping}", recipe.name);
                    let (verdicts, kept) = expected(&disk, &options, block);
                    let found = judge(&disk.bytes, block, &options);
                    if let Some(block) =
                        (0..verdicts.len()).find(|b| verdicts[*b] != found.verdicts[*b])
                    {
                        panic!(
                            "{cell}: block {block} is {:?}, found {:?}",
                            verdicts[block], found.verdicts[block]
                        );
                    }
                    assert_eq!(found.kept, kept, "{cell}");
                    let free = verdicts.iter().filter(|v| **v == Verdict::Free).count();
                    won[usize::from(dropping) + 2 * usize::from(mode == Mode::Full)] +=
                        free;
                }
            }
        }
        reported(&disk, &judge(&disk.bytes, 64 << 10, &Options::default()).volumes);
    }
    assert!(won[0] > 1000 && won[1] > won[0] + 500, "{won:?}");
    assert!(won[2] > won[0] && won[3] > won[1], "{won:?}");
}

/// Physical volumes, each followed by the logical volumes that begin in it.
fn reported(disk: &Disk, volumes: &[VolumeReport]) {
    let mut at = 0;
    for (number, range) in (1..).zip(&disk.partitions) {
        let report = &volumes[at];
        let partition = (!disk.bare).then_some(number);
        assert_eq!((report.partition, &report.logical_volume), (partition, &None));
        assert_eq!(
            (report.offset, report.length),
            (range.start, range.end - range.start)
        );
        assert_eq!(report.filesystem.as_deref(), Some("LVM2"));
        assert!(report.label.is_some());
        assert_eq!((report.state, &report.reason), (VolumeState::Trusted, &None));
        assert_eq!((report.used_bytes, report.free_bytes), (None, None));
        at += 1;
        while let Some(report) = volumes.get(at)
            && let Some(name) = &report.logical_volume
        {
            let judged = &disk.volumes[name];
            let size: u64 = judged.pieces.iter().map(|p| p.end - p.start).sum();
            assert_eq!((report.offset, report.length), (judged.pieces[0].start, size));
            assert!(range.contains(&report.offset) && report.partition == partition);
            if let Some(content) = &judged.content {
                assert_eq!(report.state, VolumeState::Trusted);
                assert_eq!(report.free_bytes, Some(content.free.total()), "{name}");
            } else {
                assert_eq!(report.state, VolumeState::Unknown);
            }
            at += 1;
        }
    }
    assert_eq!(at, volumes.len());
}
