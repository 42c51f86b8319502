//! The log against `xfs_logprint`, which finds its end as the kernel does: logs that the
//! kernel wrote around their end, and logs laid out here, record by record.

use crate::vhd_model::FileAt as _;
use std::fs;
use std::path::Path;

use super::{TOOLS, be, log_state, make, mkfs, mounted, survey, trusted, xfs_db_free};
use crate::support::{Scratch, have};

/// Where the log lies in a volume.
pub struct Place {
    pub start: usize,
    pub blocks: usize,
}

impl Place {
    pub fn of(bytes: &[u8]) -> Self {
        let block = be(bytes, 4, 4) as usize;
        let (number, shift) = (be(bytes, 48, 8), bytes[124]);
        let group = (number >> shift) * be(bytes, 84, 4);
        let start = (group + (number & ((1 << shift) - 1))) as usize * block;
        Place { start, blocks: be(bytes, 96, 4) as usize * block / 512 }
    }

    fn cycle(&self, bytes: &[u8], number: usize) -> u64 {
        let at = self.start + number % self.blocks * 512;
        match be(bytes, at, 4) {
            0xFEED_BABE => be(bytes, at + 4, 4),
            cycle => cycle,
        }
    }

    /// The header of the last record, and the block after it, in a log that is clean
    /// and has its head behind its beginning.
    pub fn last_record(&self, bytes: &[u8]) -> (usize, usize) {
        let first = self.cycle(bytes, 0);
        let head = (1..self.blocks).find(|n| self.cycle(bytes, *n) != first).unwrap();
        let is_header = |n: &usize| be(bytes, self.start + n * 512, 4) == 0xFEED_BABE;
        let header = (0..head).rev().find(is_header).unwrap();
        (self.start + header * 512, self.start + head * 512)
    }
}

/// A log laid out here.
struct Layout {
    /// Where its last record begins, and what it looks like.
    record: usize,
    cycle: u32,
    version: u32,
    size: u32,
    length: u32,
    operations: u32,
    flags: u8,
}

impl Layout {
    fn header_blocks(&self) -> usize {
        if self.version == 2 { self.size.div_ceil(32 << 10).max(1) as usize } else { 1 }
    }

    /// Writes the log: this record, blocks of the same cycle before it and of the
    /// cycle before that after it. The record bears the next cycle behind the end.
    fn write(&self, bytes: &mut [u8]) {
        let place = Place::of(bytes);
        let uuid = bytes[32..48].to_vec();
        let (n, cycle) = (place.blocks, self.cycle);
        let blocks = self.header_blocks() + self.length.div_ceil(512) as usize;
        let end = self.record + blocks;
        let log = &mut bytes[place.start..][..n * 512];
        log.fill(0);
        for (number, block) in log.chunks_exact_mut(512).enumerate() {
            let current = if end > n {
                cycle + u32::from(number < end - n)
            } else {
                cycle - u32::from(number >= end)
            };
            block[..4].copy_from_slice(&current.to_be_bytes());
            // An older record, which must not be taken for the last one.
            if number == (end + 30) % n {
                block[..4].copy_from_slice(&0xFEED_BABE_u32.to_be_bytes());
                block[4..8].copy_from_slice(&current.to_be_bytes());
            }
        }
        let header = &mut log[self.record * 512..][..512];
        let words = [0xFEED_BABE, cycle, self.version, self.length, cycle];
        for (word, at) in words.into_iter().zip((0..).step_by(4)) {
            header[at..at + 4].copy_from_slice(&u32::to_be_bytes(word));
        }
        header[20..24].copy_from_slice(&(self.record as u32).to_be_bytes());
        header[24..28].copy_from_slice(&cycle.to_be_bytes());
        header[28..32].copy_from_slice(&(self.record as u32).to_be_bytes());
        header[40..44].copy_from_slice(&self.operations.to_be_bytes());
        header[303] = 1;
        header[304..320].copy_from_slice(&uuid);
        header[320..324].copy_from_slice(&self.size.to_be_bytes());
        let data = (self.record + self.header_blocks()) % n * 512;
        log[data + 4..data + 10].copy_from_slice(&[0, 0, 0, 8, 0xAA, self.flags]);
    }
}

/// Where the last record can lie in a log of `n` blocks, before and across its end.
fn places(n: usize, blocks: usize) -> Vec<usize> {
    let mut places = vec![0, 1, 77, 3000, n / 2, n - blocks - 1, n - blocks];
    places.extend((n - blocks + 1..n).step_by(blocks.div_ceil(8)));
    places.push(n - 1);
    places
}

#[test]
fn a_clean_log_is_found_wherever_it_ends() {
    let test = "a_clean_xfs_log_is_found_wherever_it_ends";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let image = scratch.path("v");
    for (options, version, size, length) in [
        ("-d agcount=1", 2, 32 << 10, 512),
        ("-d agcount=1", 2, 256 << 10, 512),
        ("-d agcount=1", 2, 64 << 10, 4096 - 1024),
        ("-d agcount=1 -m crc=0 -l version=1", 1, 0, 512),
        ("-d agcount=1 -m crc=0 -l version=1", 1, 256 << 10, 20),
    ] {
        mkfs(&image, "20M", options);
        let sound = fs::read(&image).unwrap();
        let place = Place::of(&sound);
        let n = place.blocks;
        assert!(n > 2000, "{n}");
        let (unmount, one) = (0x20, 1);
        let layout = |record, cycle, operations, flags| Layout {
            record,
            cycle,
            version,
            size,
            length,
            operations,
            flags,
        };
        let blocks = layout(0, 1, 1, 0).header_blocks() + length.div_ceil(512) as usize;
        let (clean, dirty) = ((one, unmount), [(2, unmount), (one, 1), (5, 0)]);
        for (round, record) in places(n, blocks).into_iter().enumerate() {
            for (operations, flags) in [clean, dirty[round % 3]] {
                let mut bytes = sound.clone();
                let cycle = [7, 1][round % 2];
                layout(record, cycle, operations, flags).write(&mut bytes);
                let log = &bytes[place.start..][..n * 512];
                let file = fs::File::options().write(true).open(&image).unwrap();
                file.write_all_at(log, place.start as u64).unwrap();
                let is_clean = (operations, flags) == clean;
                let what = format!("{options} {size} {length} {record} {cycle}");
                let state = if is_clean { "CLEAN" } else { "DIRTY" };
                assert_eq!(log_state(&image), state, "{what} {operations} {flags}");
                let (found, free) = survey(&bytes);
                if is_clean {
                    assert_eq!(found.untrusted, None, "{what}");
                    assert!(!free.is_empty());
                } else {
                    let reason = found.untrusted.unwrap();
                    assert!(reason.contains("was not unmounted"), "{what}: {reason}");
                }
            }
        }
    }
}

/// A record that was begun after the unmount, in whole or in part.
#[test]
fn a_torn_log_is_refused() {
    let test = "a_torn_xfs_log_is_refused";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let image = scratch.path("v");
    mkfs(&image, "20M", "-d agcount=1");
    let sound = fs::read(&image).unwrap();
    let place = Place::of(&sound);
    let n = place.blocks;
    for record in [0, 1, 600, n - 2, n - 1] {
        let layout = Layout {
            record,
            cycle: 7,
            version: 2,
            size: 32 << 10,
            length: 512,
            operations: 1,
            flags: 0x20,
        };
        let mut clean = sound.clone();
        layout.write(&mut clean);
        assert_eq!(survey(&clean).0.untrusted, None);
        let head = record + 2;
        for (at, cycles) in [
            // Of the next record: its first block, some of it, all but that.
            (head, [7, 7]),
            (head + 1, [7, 7]),
            (head + 1, [9, 9]),
            (head + 40, [7, 6]),
            (head + 2000, [7, 6]),
            (head + 4000, [5, 6]),
            // Of the one before.
            (n + head - 3, [6, 6]),
            (n + head - 2000, [6, 6]),
            (n + head - 2000, [0, 0]),
        ] {
            let mut bytes = clean.clone();
            for (number, cycle) in [(at, cycles[0]), (at + 1, cycles[1])] {
                // Behind the end the next cycle begins.
                let around = number % n < head % n.max(head) && head > n;
                let cycle: u32 = cycle + u32::from(around);
                let place = place.start + number % n * 512;
                bytes[place..place + 4].copy_from_slice(&cycle.to_be_bytes());
            }
            if bytes == clean {
                continue;
            }
            let reason = survey(&bytes).0.untrusted;
            let reason = reason.unwrap_or_else(|| panic!("{record} {at} {cycles:?}"));
            assert!(reason.contains("the log") || reason.contains("its log"), "{reason}");
        }
    }
}

fn wrap(image: &Path, options: &str) {
    let script = "mkdir $m/wrap; touch $(seq -f $m/wrap/%g 2500); sync -f $m
        rm -r $m/wrap; sync -f $m";
    mounted(image, options, script);
}

/// Whether the log has been written around its end; then whether it is believed.
#[test]
fn a_log_that_the_kernel_wrote_around_its_end_is_clean() {
    let test = "an_xfs_log_that_the_kernel_wrote_around_its_end_is_clean";
    if !have(test, TOOLS) || !have(test, &["losetup"]) {
        return;
    }
    let scratch = Scratch::new(test);
    for (name, options, mount) in [
        ("32k", "", ",logbsize=32768"),
        ("256k", "", ",logbsize=262144"),
        ("sector", "-s size=4096 -l su=16k", ""),
    ] {
        let image = make(&scratch, name, "20M", &format!("-d agcount=1 {options}"));
        let cycle = |image: &Path| {
            let bytes = fs::read(image).unwrap();
            Place::of(&bytes).cycle(&bytes, 0)
        };
        let mut rounds = 0;
        while cycle(&image) < 2 {
            wrap(&image, mount);
            assert_eq!(log_state(&image), "CLEAN", "{name}");
            assert_eq!(trusted(&image), xfs_db_free(&image), "{name}");
            rounds += 1;
            assert!(rounds < 12, "{name}: the log does not fill");
        }
        // And on from there.
        for options in ["", mount] {
            mounted(&image, options, "touch $m/x");
            assert_eq!(log_state(&image), "CLEAN", "{name}");
            assert_eq!(trusted(&image), xfs_db_free(&image), "{name}");
        }
        mounted(&image, mount, "touch $m/y; xfs_io -x -c 'shutdown -f' $m");
        assert_eq!(log_state(&image), "DIRTY", "{name}");
        assert!(super::distrusted(&image).contains("was not unmounted"), "{name}");
    }
}
