//! Copies inside a file: what arrives, what is shared, and what a full disk does.

use std::os::unix::fs::FileExt;
use std::path::Path;

use slimdisk::Kind;
use slimdisk::storage::{Copied, HostFile, Meter, ReadAt, Storage};

use super::super::support::{Noise, Scratch, have, sh, sh_output, skip};
use super::opening::Mount;

const MIB: u64 = 1 << 20;

/// Copies ranges of every alignment, in the file and in memory; gives the latter
/// and how many bytes were shared.
///
/// Source and target hold data and holes both, so that a hole that is skipped
/// leaves old bytes behind.
fn copy_about(host: &HostFile, seed: u64) -> (Vec<u8>, u64) {
    let mut noise = Noise::new(seed);
    let size = 4 * MIB;
    let mut model = vec![0; size as usize];
    host.set_len(0).unwrap();
    host.set_len(size).unwrap();
    for at in [0, MIB / 2, 2 * MIB + 300_000, 3 * MIB] {
        let data = noise.bytes(300_000);
        host.write_at(at, &data).unwrap();
        model[at as usize..][..data.len()].copy_from_slice(&data);
    }
    let half = size / 2;
    let mut cloned = 0;
    let fixed =
        [(0, half, MIB), (0, half + 512, MIB), (half, 1, MIB + 7), (4096, half, 4096)];
    let chosen = (0..40).map(|_| {
        let (from, to) = (noise.below(half), half + noise.below(half));
        let len = noise.below(half).min(half - from).min(size - to);
        match noise.below(3) {
            0 => (from, to, len),
            1 => (to & !4095, from & !4095, len & !4095),
            _ => (from, (to & !4095) + from % 4096, len / 2),
        }
    });
    for (from, to, len) in fixed.into_iter().chain(chosen) {
        let len = len.min(size - from.max(to));
        if from < to + len && to < from + len {
            continue;
        }
        cloned += host.copy_within(from, to, len).unwrap().cloned;
        let (from, to, len) = (from as usize, to as usize, len as usize);
        model.copy_within(from..from + len, to);
    }
    // Past the end, as the last copy of a file that grows.
    cloned += host.copy_within(MIB, size + 4096, 12_345).unwrap().cloned;
    model.resize(model.len() + 4096, 0);
    model.extend_from_within(MIB as usize..MIB as usize + 12_345);
    host.flush().unwrap();
    assert_eq!(host.len(), model.len() as u64);
    (model, cloned)
}

/// The same in a new file under `dir`, seen by std once it is closed.
fn copies_arrive_in(dir: &Path, seed: u64) -> u64 {
    let path = dir.join("copies.img");
    std::fs::write(&path, []).unwrap();
    let host = HostFile::open_exclusive(&path).unwrap();
    let (model, cloned) = copy_about(&host, seed);
    drop(host);
    let found = std::fs::read(&path).unwrap();
    assert!(found == model, "the file differs from what was copied");
    cloned
}

#[test]
fn copies_arrive_whole_and_holes_as_zeros() {
    let scratch = Scratch::new("copies");
    for seed in 1..4 {
        copies_arrive_in(scratch.dir(), seed);
    }
}

#[test]
fn copies_are_shared_where_the_file_system_can() {
    let name = "copies_are_shared_where_the_file_system_can";
    if !have(name, &["mkfs.xfs", "mount", "umount"]) {
        return;
    }
    let scratch = Scratch::new("xfs");
    let Some(mount) = Mount::made_by("mkfs.xfs -q -m reflink=1", "320M", name, &scratch)
    else {
        return;
    };
    for seed in 1..4 {
        assert!(copies_arrive_in(&mount.0, seed) > 0, "nothing was shared");
    }

    let path = mount.0.join("count.img");
    std::fs::write(&path, Noise::new(9).bytes(4 << 20)).unwrap();
    sh(&format!("sync -f {}", path.display()));
    let host = Meter::new(HostFile::open_exclusive(&path).unwrap());
    let before = host.inner().host_bytes().unwrap();
    // From 100 bytes before a block to 100 bytes after one.
    let copied = host.copy_within(MIB - 100, 3 * MIB - 100, MIB / 2 + 200).unwrap();
    assert_eq!(copied, Copied { cloned: MIB / 2, holes: 0 });
    let counts = host.counts();
    assert_eq!((counts.bytes_cloned, counts.bytes_written), (MIB / 2, 200));
    // Places that do not agree within a block are copied.
    assert_eq!(host.copy_within(0, 2 * MIB + 512, 8192).unwrap().cloned, 0);
    // Which does not mean that nothing can be shared from now on, nor is the end
    // of the file one for what is.
    assert_eq!(host.copy_within(0, 4 * MIB, 8192).unwrap().cloned, 8192);
    assert_eq!(host.len(), 4 * MIB + 8192);
    host.flush().unwrap();
    assert!(host.inner().host_bytes().unwrap() >= before);
    drop(host);
    let shared = sh(&format!("filefrag -v {} || true", path.display()));
    assert!(shared.contains("shared"), "{shared}");
}

#[test]
fn holes_are_found() {
    let scratch = Scratch::new("holes");
    let path = scratch.path("holes.img");
    std::fs::write(&path, []).unwrap();
    let host = HostFile::open_exclusive(&path).unwrap();
    host.set_len(8 * MIB).unwrap();
    host.write_at(2 * MIB, &[1; 65536]).unwrap();
    host.write_at(5 * MIB + 100, &[1; 10]).unwrap();
    if host.next_data(0).unwrap() == Some(0..8 * MIB) {
        return skip("holes_are_found", "a file system that knows its holes");
    }
    assert_eq!(host.next_data(0).unwrap(), Some(2 * MIB..2 * MIB + 65536));
    let inside = host.next_data(2 * MIB + 10).unwrap();
    assert_eq!(inside, Some(2 * MIB + 10..2 * MIB + 65536));
    let block = host.next_data(2 * MIB + 65536).unwrap().unwrap();
    assert!(block.start <= 5 * MIB + 100 && block.start > 4 * MIB, "{block:?}");
    assert!(block.end >= 5 * MIB + 110 && block.end < 6 * MIB, "{block:?}");
    assert_eq!(host.next_data(block.end).unwrap(), None);
    assert_eq!(host.next_data(9 * MIB).unwrap(), None);
    assert!(host.host_bytes().unwrap() < MIB);
    // Data that reaches to the end of the file, clipped there.
    host.set_len(2 * MIB + 1000).unwrap();
    assert_eq!(host.next_data(0).unwrap(), Some(2 * MIB..2 * MIB + 1000));
}

#[test]
fn senseless_copies_are_refused() {
    let scratch = Scratch::new("senseless");
    let path = scratch.path("copies.img");
    std::fs::write(&path, [1; 8192]).unwrap();
    let host = HostFile::open_exclusive(&path).unwrap();
    let kind = |from, to, len| host.copy_within(from, to, len).unwrap_err().kind();
    assert_eq!(kind(0, 100, 200), Kind::InvalidArgument);
    assert_eq!(kind(100, 0, 200), Kind::InvalidArgument);
    assert_eq!(kind(8000, 0, 200), Kind::InvalidImage);
    assert_eq!(kind(u64::MAX, 0, 200), Kind::InvalidImage);
    assert_eq!(kind(0, u64::MAX, 200), Kind::DiskFull);
    host.copy_within(0, 4096, 4096).unwrap();
    host.copy_within(0, 8192, 0).unwrap();
    assert_eq!(host.len(), 8192);
}

#[test]
fn a_full_disk_in_the_middle_of_a_copy_is_disk_full() {
    let name = "a_full_disk_in_the_middle_of_a_copy_is_disk_full";
    if !have(name, &["mke2fs", "mount", "umount"]) {
        return;
    }
    let scratch = Scratch::new("full");
    let image = scratch.path("ext4.img");
    let ext4 = format!(
        "truncate -s 16M {0} && mke2fs -q -F -t ext4 -O ^has_journal {0} && again mount -o loop {0}",
        image.display()
    );
    for mount in ["mount -t tmpfs -o size=6m none", &ext4] {
        let Some(mount) = Mount::new(name, &scratch, mount) else { return };
        let path = mount.0.join("disk.img");
        let data = Noise::new(4).bytes(4 << 20);
        std::fs::write(&path, &data).unwrap();
        let host = HostFile::open_exclusive(&path).unwrap();
        let mut at = 4 * MIB;
        let error = loop {
            match host.copy_within(0, at, 4 * MIB) {
                Ok(_) => at += 4 * MIB,
                Err(error) => break error,
            }
            host.flush().unwrap();
            assert!(at < 64 * MIB, "the disk never fills up");
        };
        assert_eq!(error.kind(), Kind::DiskFull, "{}", error.chain());
        // What was there is untouched, and the length is the file's own.
        assert_eq!(host.len(), std::fs::metadata(&path).unwrap().len());
        assert!(host.len() > at, "some of it should have arrived");
        host.set_len(4 * MIB).unwrap();
        host.flush().unwrap();
        drop(host);
        assert!(std::fs::read(&path).unwrap() == data);
    }
}

/// Not a test: fills a file under a limit on its size.
#[test]
#[ignore = "a part of other tests"]
fn limited() {
    let Some(path) = std::env::var_os("SLIMDISK_LIMITED") else { return };
    let host = HostFile::open_exclusive(Path::new(&path)).unwrap();
    host.write_at(MIB - 4096, &[1; 4096]).unwrap();
    let kinds = [
        host.write_at(MIB - 100, &[1; 200]).unwrap_err().kind(),
        host.copy_within(0, MIB, 4096).unwrap_err().kind(),
        host.set_len(MIB + 1).unwrap_err().kind(),
    ];
    host.set_len(4096).unwrap();
    println!("{kinds:?} and alive");
}

#[test]
fn a_file_size_limit_is_disk_full_and_not_the_end() {
    let scratch = Scratch::new("limit");
    let path = scratch.path("disk.img");
    std::fs::write(&path, [1; 8192]).unwrap();
    let output = sh_output(&format!(
        "ulimit -f 1024; SLIMDISK_LIMITED={} {} --ignored --exact \
         storage::copying::limited --nocapture 2>&1",
        path.display(),
        std::env::current_exe().unwrap().display()
    ));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("[DiskFull, DiskFull, DiskFull] and alive"), "{text}");
    assert!(output.status.success(), "{text}");
}

#[test]
fn holes_stay_holes_and_old_bytes_do_not_shine_through() {
    let scratch = Scratch::new("holes_stay_holes");
    let path = scratch.path("sparse");
    let len = 40 * MIB;
    let noise = Noise::new(8).bytes(MIB as usize);
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(len).unwrap();
    // The source: a hole with one MiB of data in it. The target: old data here and
    // there.
    file.write_all_at(&noise, 23 * MIB + 700).unwrap();
    file.write_all_at(&noise, MIB + 300).unwrap();
    file.write_all_at(&noise, 3 * MIB).unwrap();
    file.write_all_at(&noise, 9 * MIB + 5).unwrap();
    drop(file);
    let mut expected = std::fs::read(&path).unwrap();
    let (from, to, size) = (20 * MIB + 512, 512, 10 * MIB);
    let (first, second) = expected.split_at_mut(from as usize);
    first[to as usize..(to + size) as usize].copy_from_slice(&second[..size as usize]);

    let host = HostFile::open_exclusive(&path).unwrap();
    let before = host.host_bytes().unwrap();
    let copied = host.copy_within(from, to, size).unwrap();
    host.flush().unwrap();
    let after = host.host_bytes().unwrap();
    drop(host);
    assert!(std::fs::read(&path).unwrap() == expected, "the copy differs");
    if before < len / 2 && copied.cloned == 0 {
        assert!(copied.holes >= 6 * MIB, "{copied:?}");
        assert!(after < before + 2 * MIB, "{before} bytes became {after}");
    }
}
