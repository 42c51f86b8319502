//! Which blocks go, held sector by sector against what the volumes' own tools
//! call free: several volumes on one disk, none of them where a block begins.

use std::fs;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;

use slimdisk::Result;
use slimdisk::compact::report::{KeptBytes, Report};
use slimdisk::compact::survey::{Survey, survey};
use slimdisk::compact::{Mode, Options, Outcome, Verdict, compact_storage};
use slimdisk::image;
use slimdisk::storage::{Copied, ReadAt, Storage};

use crate::ext::dumpe2fs_free;
use crate::faults::MemFile;
use crate::support::{Noise, Scratch, have, sh};
use crate::vhd_model::{SECTOR, Shape, read_strictly, set_checksum};

/// A file in memory that knows some of its holes, as a host's file system does.
struct Holey {
    file: Vec<u8>,
    /// For each page, whether it is there.
    held: Vec<bool>,
}

const PAGE: usize = 4096;

impl Holey {
    fn new(file: Vec<u8>) -> Self {
        // Every third page is there even if it is zero.
        let pages = file.chunks(PAGE).enumerate();
        let held = pages
            .map(|(page, bytes)| page % 3 == 0 || bytes.iter().any(|b| *b != 0))
            .collect();
        Holey { file, held }
    }
}

impl ReadAt for Holey {
    fn len(&self) -> u64 {
        ReadAt::len(&self.file)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.file.read_at(offset, buf)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        let pages = self.held.len();
        let first = (offset as usize / PAGE..pages).find(|page| self.held[*page]);
        let Some(first) = first else { return Ok(None) };
        let end = (first..pages).find(|page| !self.held[*page]).unwrap_or(pages);
        let range = (first * PAGE) as u64..((end * PAGE) as u64).min(self.len());
        Ok(Some(range.start.max(offset)..range.end).filter(|r| r.start < r.end))
    }
}

/// It is only looked at.
impl Storage for Holey {
    fn write_at(&self, _: u64, _: &[u8]) -> Result<()> {
        unreachable!()
    }

    fn flush(&self) -> Result<()> {
        unreachable!()
    }

    fn set_len(&self, _: u64) -> Result<()> {
        unreachable!()
    }

    fn copy_within(&self, _: u64, _: u64, _: u64) -> Result<Copied> {
        unreachable!()
    }
}

/// A volume, and what its own tools say of each of its sectors.
struct Volume {
    bytes: Vec<u8>,
    /// Sectors that are free.
    free: Vec<bool>,
}

impl Volume {
    fn make(scratch: &Scratch, number: usize, options: &str, kib: usize) -> Volume {
        let image = scratch.path(&format!("volume{number}"));
        let pool = scratch.path(&format!("pool{number}"));
        let mut noise = Noise::new(number as u64 + 50);
        fs::create_dir_all(&pool).unwrap();
        let mut gone = String::new();
        for file in 0..kib / 40 {
            let len = noise.below(60 << 10) as usize;
            let bytes = if noise.below(3) == 0 { vec![0; len] } else { noise.bytes(len) };
            fs::write(pool.join(format!("f{file}")), bytes).unwrap();
            if noise.below(3) == 0 {
                gone += &format!("rm f{file}\n");
            }
        }
        let (from, to) = (pool.display(), image.display());
        sh(&format!(
            "mke2fs -q -F {options} -d {from} {to} {kib}k
             debugfs -w -f - {to} >/dev/null 2>&1 <<'END'\n{gone}\nEND"
        ));
        let mut bytes = fs::read(&image).unwrap();
        let mut free = vec![false; bytes.len() / SECTOR];
        for range in dumpe2fs_free(&image) {
            let (start, end) = (range.start as usize, range.end as usize);
            free[start / SECTOR..end / SECTOR].fill(true);
            scribble(&mut bytes[start..end], &mut noise);
        }
        Volume { bytes, free }
    }

    /// The same left in use: nothing in it may be believed.
    fn in_use(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[1024 + 0x3A] = 0;
        bytes
    }
}

/// Fills bytes with stretches of noise and of zeros.
fn scribble(bytes: &mut [u8], noise: &mut Noise) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let len = (SECTOR * (1 + noise.below(200) as usize)).min(rest.len());
        let (part, after) = rest.split_at_mut(len);
        let fill = if noise.below(2) == 0 { vec![0; len] } else { noise.bytes(len) };
        part.copy_from_slice(&fill);
        rest = after;
    }
}

/// What is known of a sector of the disk.
#[derive(Clone, Copy, PartialEq)]
enum Known {
    Free,
    Used,
    /// In a volume whose map is not believed.
    Unjudged,
    /// In no volume.
    Outside,
}

/// A disk as its image holds it, down to the end of the last block with a place.
struct Disk {
    shape: Shape,
    file: Vec<u8>,
    content: Vec<u8>,
    known: Vec<Known>,
    /// Bytes that the guest sees.
    size: usize,
}

impl Disk {
    fn random(volumes: &[Volume], noise: &mut Noise) -> Disk {
        let block_size = [64 << 10, 128 << 10, 512 << 10][noise.below(3) as usize];
        let mut content = vec![0; SECTOR];
        let mut known = vec![Known::Outside];
        let count = 1 + noise.below(4) as usize;
        for slot in 0..count {
            let gap = match noise.below(4) {
                0 => 0,
                1 => 1 + noise.below(70),
                _ => noise.below(3000),
            } as usize;
            let at = content.len();
            content.resize(at + gap * SECTOR, 0);
            scribble(&mut content[at..], noise);
            known.resize(known.len() + gap, Known::Outside);

            let volume = &volumes[noise.below(volumes.len() as u64) as usize];
            let in_use = noise.below(4) == 0;
            let start = content.len() / SECTOR;
            content.extend(if in_use { volume.in_use() } else { volume.bytes.clone() });
            known.extend(volume.free.iter().map(|free| match (in_use, free) {
                (true, _) => Known::Unjudged,
                (false, true) => Known::Free,
                (false, false) => Known::Used,
            }));
            // What the partition has beyond its file system.
            let more = (noise.below(2) * noise.below(300)) as usize;
            let at = content.len();
            content.resize(at + more * SECTOR, 0);
            scribble(&mut content[at..], noise);
            known.resize(known.len() + more, Known::Unjudged);
            let entry = &mut content[446 + slot * 16..][..16];
            entry[4] = 0x83;
            entry[8..12].copy_from_slice(&(start as u32).to_le_bytes());
            let sectors = (known.len() - start) as u32;
            entry[12..16].copy_from_slice(&sectors.to_le_bytes());
        }
        content[510..512].copy_from_slice(&[0x55, 0xAA]);
        let at = content.len();
        content.resize(at + SECTOR * noise.below(4000) as usize, 0);
        scribble(&mut content[at..], noise);
        let size = content.len();
        let blocks = size.div_ceil(block_size);

        // Behind the end of the disk: the rest of its last block, and blocks that
        // the table has to spare.
        let spare = noise.below(3) as usize;
        content.resize((blocks + spare) * block_size, 0);
        if noise.below(2) == 0 {
            scribble(&mut content[size..], noise);
        }
        known.resize(content.len() / SECTOR, Known::Outside);

        let mut order = Vec::new();
        for (block, data) in content.chunks_mut(block_size).enumerate() {
            let sectors = block * block_size / SECTOR..;
            let may_miss =
                known[sectors].iter().zip(data.chunks(SECTOR)).all(|(known, data)| {
                    *known == Known::Free || data.iter().all(|b| *b == 0)
                });
            if may_miss && noise.below(4) == 0 {
                data.fill(0);
            } else {
                order.push((block as u32, noise.below(3) as usize));
            }
        }
        for i in (1..order.len()).rev() {
            order.swap(i, noise.below(i as u64 + 1) as usize);
        }
        let shape = Shape {
            block_size,
            blocks: blocks as u32,
            order,
            aligned: false,
            spare_entries: spare as u32,
            batmap: false,
            creator: *b"win ",
            seed: 1,
        };
        let file = shape.build_with(|block| {
            content[block as usize * block_size..][..block_size].to_vec()
        });
        let file = with_size(file, size, noise.below(2) == 0);
        Disk { shape, file, content, known, size }
    }

    /// What `--drop-unpartitioned` adds.
    fn known(&self, dropping: bool) -> Vec<Known> {
        const EDGE: usize = 1 << 20;
        let mut known = self.known.clone();
        if dropping && self.size >= 4 * EDGE {
            for (sector, known) in known.iter_mut().enumerate() {
                let at = sector * SECTOR;
                if *known == Known::Outside && at >= EDGE && at < self.size - 3 * EDGE {
                    *known = Known::Free;
                }
            }
        }
        known
    }

    fn expected(&self, options: &Options) -> (Vec<Verdict>, KeptBytes) {
        let known = match options.mode {
            Mode::Prezeroed => vec![Known::Outside; self.known.len()],
            _ => self.known(options.drop_unpartitioned),
        };
        let mut kept = KeptBytes::default();
        let per_block = self.shape.block_size / SECTOR;
        let blocks =
            self.content.chunks(self.shape.block_size).zip(known.chunks(per_block));
        let verdicts = (0..).zip(blocks).map(|(number, (data, known))| {
            if !self.shape.order.iter().any(|(block, _)| *block == number) {
                return Verdict::Absent;
            }
            let goes = known.iter().zip(data.chunks(SECTOR)).all(|(known, data)| {
                let zero = data.iter().all(|b| *b == 0);
                match known {
                    Known::Free => true,
                    Known::Used => zero && options.mode == Mode::Full,
                    Known::Unjudged | Known::Outside => zero,
                }
            });
            if goes {
                return match known.contains(&Known::Free) {
                    true => Verdict::Free,
                    false => Verdict::Zero,
                };
            }
            for known in known {
                *match known {
                    Known::Free => &mut kept.pinned,
                    Known::Used => &mut kept.used,
                    Known::Unjudged => &mut kept.unjudged,
                    Known::Outside => &mut kept.outside,
                } += SECTOR as u64;
            }
            Verdict::Live
        });
        (verdicts.collect(), kept)
    }
}

/// Enters the size of the disk, by the geometry or as the current size.
fn with_size(mut file: Vec<u8>, size: usize, by_geometry: bool) -> Vec<u8> {
    let mut footer = file[..512].to_vec();
    let sectors = size / SECTOR;
    if by_geometry && sectors < 65535 {
        // Virtual PC goes by the geometry, others by a smaller current size.
        footer[28..32].copy_from_slice(b"vpc ");
        file[..512].copy_from_slice(&footer);
        return with_geometry(file, size - 4096, sectors as u16);
    }
    footer[48..56].copy_from_slice(&(size as u64).to_be_bytes());
    set_checksum(&mut footer, 64);
    file[..512].copy_from_slice(&footer);
    let end = file.len() - 512;
    file[end..].copy_from_slice(&footer);
    file
}

fn go_on(_: slimdisk::compact::Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn judge(file: &[u8], options: &Options) -> Survey {
    let storage = Arc::new(Holey::new(file.to_vec()));
    let image = image::open(storage).unwrap();
    survey(&*image, options, true, &mut go_on).unwrap().unwrap()
}

#[test]
fn verdicts_are_those_of_the_volumes_own_tools() {
    let test = "verdicts_are_those_of_the_volumes_own_tools";
    if !have(test, &["mke2fs", "debugfs", "dumpe2fs"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let volumes = [
        Volume::make(&scratch, 0, "-t ext2 -b 1024", 700),
        Volume::make(&scratch, 1, "-t ext2 -b 1024 -g 256", 2100),
        Volume::make(&scratch, 2, "-t ext2 -b 2048", 1500),
        Volume::make(&scratch, 3, "-t ext2 -b 4096", 2404),
    ];
    let mut noise = Noise::new(77);
    let mut seen = [0; 4];
    for case in 0..60 {
        let disk = Disk::random(&volumes, &mut noise);
        for mode in [Mode::Quick, Mode::Full, Mode::Prezeroed] {
            for dropping in [false, true] {
                let mut options = Options::default();
                options.mode = mode;
                options.drop_unpartitioned = dropping;
                options.verify = true;
                let cell = format!("case {case}, {mode:?}, dropping {dropping}");
                let (verdicts, kept) = disk.expected(&options);
                let found = judge(&disk.file, &options);
                if let Some(block) =
                    (0..verdicts.len()).find(|b| verdicts[*b] != found.verdicts[*b])
                {
                    panic!(
                        "{cell}: block {block} of {} bytes is {:?}, found {:?}; {:#?}",
                        disk.shape.block_size,
                        verdicts[block],
                        found.verdicts[block],
                        found.volumes
                    );
                }
                assert_eq!(found.kept, kept, "{cell}");
                for verdict in &verdicts {
                    seen[*verdict as usize] += 1;
                }
                if case % 6 == 0 {
                    carried_out(&disk, &options, &verdicts, kept, &cell);
                }
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 300), "{seen:?}");
}

#[test]
fn a_request_to_stop_while_volumes_are_read_is_heeded() {
    let test = "a_request_to_stop_while_volumes_are_read_is_heeded";
    if !have(test, &["mke2fs", "debugfs", "dumpe2fs"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let volumes = [Volume::make(&scratch, 0, "-t ext2 -b 1024", 700)];
    let disk = Disk::random(&volumes, &mut Noise::new(5));
    for mode in [Mode::Quick, Mode::Full] {
        let mut options = Options::default();
        options.mode = mode;
        for nth in 0.. {
            let mut calls = 0;
            // Asked but once.
            let mut hook = |_| {
                calls += 1;
                match calls - 1 == nth {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            };
            let image = image::open(Arc::new(Holey::new(disk.file.clone()))).unwrap();
            let found = survey(&*image, &options, true, &mut hook).unwrap();
            if calls <= nth {
                assert!(found.is_some() && nth > 3, "{mode:?}: {nth} calls");
                break;
            }
            assert!(found.is_none(), "{mode:?}: call {nth} was not heeded");
        }
    }
}

/// The database of a Windows dynamic disk ends the disk: where its guest sees the
/// end, and that goes by the geometry in a machine of Virtual PC.
#[test]
fn what_ends_the_disk_stays_whichever_size_the_guest_sees() {
    const MIB: usize = 1 << 20;
    let (current, by_geometry) = (32 * MIB, 30 * MIB + 40 * SECTOR);
    let block_size = 64 << 10;
    let mut content = vec![0; current];
    content[446 + 4] = 0x42;
    content[446 + 8..446 + 12].copy_from_slice(&63u32.to_le_bytes());
    content[446 + 12..446 + 16].copy_from_slice(&2000u32.to_le_bytes());
    content[510..512].copy_from_slice(&[0x55, 0xAA]);
    let database = by_geometry - MIB..by_geometry;
    content[database.clone()].copy_from_slice(&Noise::new(3).bytes(MIB));
    content[8 * MIB..9 * MIB].copy_from_slice(&Noise::new(4).bytes(MIB));
    let file = Shape::of_disk(&content, block_size, false, *b"vpc ");
    let file = with_geometry(file, current, (by_geometry / SECTOR) as u16);
    let mut options = Options::default();
    options.drop_unpartitioned = true;
    let found = judge(&file, &options);
    assert_eq!(found.verdicts[8 * MIB / block_size], Verdict::Free);
    for at in database.step_by(block_size) {
        assert_eq!(found.verdicts[at / block_size], Verdict::Live, "{at:#x}");
    }
}

fn with_geometry(mut file: Vec<u8>, current: usize, sectors: u16) -> Vec<u8> {
    let mut footer = file[..512].to_vec();
    footer[48..56].copy_from_slice(&(current as u64).to_be_bytes());
    footer[56..58].copy_from_slice(&sectors.to_be_bytes());
    footer[58..60].copy_from_slice(&[1, 1]);
    set_checksum(&mut footer, 64);
    file[..512].copy_from_slice(&footer);
    let end = file.len() - 512;
    file[end..].copy_from_slice(&footer);
    file
}

/// After a run exactly the blocks that stay are there, each as it was.
fn carried_out(
    disk: &Disk,
    options: &Options,
    verdicts: &[Verdict],
    kept: KeptBytes,
    cell: &str,
) {
    let storage = Arc::new(MemFile::new(disk.file.clone()));
    let mut report = Report::new(Path::new("memory"), options.mode);
    let outcome =
        compact_storage(storage.clone(), options, &mut report, &mut go_on).unwrap();
    assert!(matches!(outcome, Outcome::Compacted | Outcome::NothingToDo), "{cell}");
    let after = storage.bytes();
    let blocks = read_strictly(&after).unwrap();
    for ((block, verdict), content) in
        blocks.iter().zip(verdicts).zip(disk.content.chunks(disk.shape.block_size))
    {
        assert_eq!(block.is_some(), *verdict == Verdict::Live, "{cell}");
        assert!(block.as_ref().is_none_or(|block| block.data == content), "{cell}");
    }
    let counts = report.blocks;
    let live = blocks.iter().flatten().count() as u64;
    assert_eq!(counts.allocated_after, live, "{cell}");
    assert_eq!(
        counts.allocated_before - live,
        counts.released_free + counts.released_zero,
        "{cell}"
    );
    assert_eq!(
        kept.used + kept.pinned + kept.unjudged + kept.outside,
        live * disk.shape.block_size as u64,
        "{cell}"
    );
    assert_eq!(report.file_size_after, after.len() as u64, "{cell}");
}
