//! What each mode and switch gives up, and what it never does.

use std::fs;
use std::path::PathBuf;

use slimdisk::compact::report::VolumeState;
use slimdisk::compact::{Mode, Options, Outcome};

use crate::end_to_end::{compact, plan, quick};
use crate::ext::dumpe2fs_free;
use crate::support::{Noise, Scratch, have, sh};
use crate::vhd_model::{Shape, read_strictly};

const BLOCK: usize = 64 << 10;
const MIB: usize = 1 << 20;

fn options(mode: Mode) -> Options {
    let mut options = quick();
    options.mode = mode;
    options
}

fn write_vhd(scratch: &Scratch, disk: &[u8]) -> PathBuf {
    let path = scratch.path("disk.vhd");
    fs::write(&path, Shape::of_disk(disk, BLOCK, false, *b"win ")).unwrap();
    path
}

/// An ext4 volume whose free space is noise, with a file of zeros in it whose
/// blocks are therefore used and zero.
fn make_volume(scratch: &Scratch) -> Vec<u8> {
    let pool = scratch.path("pool");
    fs::create_dir_all(&pool).unwrap();
    fs::write(pool.join("zeros"), vec![0; 2 * MIB]).unwrap();
    fs::write(pool.join("data"), Noise::new(1).bytes(MIB)).unwrap();
    let image = scratch.path("volume");
    sh(&format!("mke2fs -q -F -t ext4 -O ^has_journal {} 16m", image.display()));
    // `write` keeps no holes when told so: the zeros get blocks of their own.
    sh(&format!(
        "cd {} && debugfs -w -f - {} >/dev/null 2>&1 <<'END'\nwrite data data\nwrite zeros zeros\nfallocate zeros 0 511\nEND",
        pool.display(),
        image.display()
    ));
    let mut bytes = fs::read(&image).unwrap();
    let mut noise = Noise::new(2);
    for range in dumpe2fs_free(&image) {
        let (start, end) = (range.start as usize, range.end as usize);
        bytes[start..end].copy_from_slice(&noise.bytes(end - start));
    }
    bytes
}

#[test]
fn each_mode_gives_up_what_it_says() {
    let test = "each_mode_gives_up_what_it_says";
    if !have(test, &["mke2fs", "debugfs", "dumpe2fs"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let volume = make_volume(&scratch);
    let free = dumpe2fs_free(&scratch.path("volume"));
    // A VHD that has every block, the zero ones too.
    let all_there = |disk: &[u8]| {
        let path = scratch.path("disk.vhd");
        let mut seen = disk.to_vec();
        for block in seen.chunks_mut(BLOCK) {
            block[7] |= 1; // So that the writer sees no block as zero.
        }
        let mut file = Shape::of_disk(&seen, BLOCK, false, *b"win ");
        let places: Vec<usize> = {
            let blocks = read_strictly(&file).unwrap();
            blocks.iter().map(|b| b.as_ref().unwrap().place + 512).collect()
        };
        for (place, data) in places.iter().zip(disk.chunks(BLOCK)) {
            file[*place..place + data.len()].copy_from_slice(data);
        }
        fs::write(&path, file).unwrap();
        path
    };
    let covered = |start: usize, end: usize| {
        free.iter().any(|r| r.start as usize <= start && end <= r.end as usize)
    };
    let is_zero = |data: &[u8]| data.iter().all(|byte| *byte == 0);
    let (mut wholly_free, mut zero, mut free_or_zero) = (0, 0, 0);
    for (index, data) in volume.chunks(BLOCK).enumerate() {
        let start = index * BLOCK;
        wholly_free += u64::from(covered(start, start + BLOCK));
        zero += u64::from(is_zero(data));
        let sectors = data.chunks(1024).enumerate();
        free_or_zero += u64::from(sectors.into_iter().all(|(n, s)| {
            let at = start + n * 1024;
            is_zero(s) || covered(at, at + 1024)
        }));
    }
    assert!(zero > 10 && wholly_free > 50 && free_or_zero > wholly_free + 10);
    for (mode, gone) in
        [(Mode::Quick, wholly_free), (Mode::Prezeroed, zero), (Mode::Full, free_or_zero)]
    {
        let path = all_there(&volume);
        let planned = plan(&path, &options(mode));
        let report = compact(&path, &options(mode));
        assert_eq!(report.error, None, "{mode:?}");
        let blocks = report.blocks;
        assert_eq!(blocks.released_free + blocks.released_zero, gone, "{mode:?}");
        assert_eq!(planned.blocks, blocks, "{mode:?}");
        assert_eq!(report.file_size_after, planned.file_size_after, "{mode:?}");
    }
}

#[test]
fn bytes_outside_partitions_are_kept_unless_they_are_given_up() {
    let test = "bytes_outside_partitions_are_kept_unless_they_are_given_up";
    if !have(test, &["sfdisk", "mke2fs", "debugfs", "dumpe2fs"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let volume = make_volume(&scratch);
    // A primary partition, and a logical one whose boot record lies in a gap.
    let table = scratch.path("table");
    fs::write(&table, vec![0; 48 * MIB]).unwrap();
    sh(&format!(
        "printf '%s\\n' 2048,{},83 65536,28672,5 69632,4096,83 | sfdisk -q -X dos {}",
        volume.len() / 512,
        table.display()
    ));
    let mut disk = fs::read(&table).unwrap();
    let boot_record = disk[32 * MIB..32 * MIB + 512].to_vec();
    assert_eq!(boot_record[510..], [0x55, 0xAA]);
    let mut noise = Noise::new(6);
    for at in [64 << 10, 18 * MIB, 33 * MIB, 40 * MIB, 47 * MIB] {
        let len = 800 << 10;
        disk[at..at + len].copy_from_slice(&noise.bytes(len));
    }
    disk[MIB..MIB + volume.len()].copy_from_slice(&volume);

    let path = write_vhd(&scratch, &disk);
    let kept = compact(&path, &options(Mode::Quick));
    assert_eq!(kept.outcome, Outcome::Compacted);
    let file = fs::read(&path).unwrap();
    let there =
        |file: &[u8], at: usize| read_strictly(file).unwrap()[at / BLOCK].is_some();
    for at in [0, 64 << 10, 18 * MIB, 32 * MIB, 33 * MIB, 40 * MIB, 47 * MIB] {
        assert!(there(&file, at), "the block at {at:#x} is gone");
    }

    let mut dropping = options(Mode::Quick);
    dropping.drop_unpartitioned = true;
    let dropped = compact(&path, &dropping);
    assert_eq!(dropped.outcome, Outcome::Compacted, "{dropped:?}");
    let file = fs::read(&path).unwrap();
    // Gone: the gaps. Kept: the first and the last MiB, the boot record of the
    // logical partition, and what the unknown partition holds.
    assert!(!there(&file, 18 * MIB) && !there(&file, 40 * MIB));
    for at in [0, 64 << 10, 32 * MIB, 47 * MIB + (64 << 10)] {
        assert!(there(&file, at), "the block at {at:#x} is gone");
    }
    let blocks = read_strictly(&file).unwrap();
    let record = blocks[32 * MIB / BLOCK].as_ref().unwrap();
    assert_eq!(record.data[..512], boot_record);
    let states: Vec<_> = dropped.volumes.iter().map(|v| v.state).collect();
    assert_eq!(
        states,
        [VolumeState::Trusted, VolumeState::Unknown, VolumeState::Unknown]
            [..states.len()]
    );
}

/// A disk that no map speaks for, all of it there, most of it holes of the host. (Wine
/// shows none.)
#[cfg(unix)]
#[test]
fn holes_of_the_host_are_never_read() {
    let scratch = Scratch::new("holes_of_the_host_are_never_read");
    let (raw, vhd) = (scratch.path("disk.raw"), scratch.path("disk.vhd"));
    let file = fs::File::create(&raw).unwrap();
    file.set_len(1 << 30).unwrap();
    let noise = Noise::new(4).bytes(4096);
    for at in [5 << 20, 300 << 20, 301 << 20, (1 << 30) - 4096] {
        crate::vhd_model::FileAt::write_all_at(&file, &noise, at).unwrap();
    }
    drop(file);
    Shape::write_full(&vhd, &raw, 2 * MIB);
    for mode in [Mode::Quick, Mode::Full, Mode::Prezeroed] {
        let mut options = Options::default();
        options.mode = mode;
        let planned = plan(&vhd, &options);
        assert_eq!(planned.blocks.released_zero, 512 - 3, "{mode:?}");
        let read = planned.io.bytes_read;
        assert!(read < 1 << 20, "{mode:?} read {read} of 1 GiB");
    }
}
