//! Logs that must be replayed, and logs that cannot be.

use slimdisk::Kind;
use slimdisk::image::Severity;

use super::{findings, guest, has, open, open_error, repair, shape, with_headers};
use crate::support::Noise;
use crate::vhdx_model::{LogEntry, MIB, PAGE, Pages, Places, Shape, read_strictly, seal};

/// A page of the table in which block 5 has a place of its own, at the end of the file.
fn table_page(file: &Pages, places: &Places) -> Vec<u8> {
    let mut page = file.get(places.bat, 4096);
    page[5 * 8..6 * 8].copy_from_slice(&(file.len | 6).to_le_bytes());
    page
}

/// An image whose log gives block 5 a place behind the end of the file.
fn dirty(first_at: u64) -> (Shape, Pages, Places) {
    let shape = shape();
    let (mut file, places) = shape.build(&[]);
    let entry = LogEntry {
        pages: vec![(places.bat, table_page(&file, &places))],
        last: Some(file.len + MIB),
        ..LogEntry::default()
    };
    let older = LogEntry {
        pages: vec![(places.bat, vec![0; 4096])],
        zeros: vec![(places.bat + PAGE, 2 * PAGE)],
        ..LogEntry::default()
    };
    shape.with_log(&mut file, &places, first_at, &[older, entry]);
    (shape, file, places)
}

fn note_of(file: &Pages) -> String {
    let notes = open(file).unwrap().facts().notes;
    assert_eq!(notes.len(), 1, "{notes:?}");
    notes[0].clone()
}

#[test]
fn a_log_is_replayed_in_memory_and_told_of() {
    let (_, file, _) = dirty(8 * PAGE);
    let model = read_strictly(&file).unwrap();
    assert!(model.replayed);
    let image = open(&file).unwrap();
    assert_eq!(image.facts().blocks_allocated, 7);
    assert_eq!(image.layout().unwrap().file_len, file.len + MIB);
    assert_eq!(guest(&*image, 5 * MIB, 5000), [0; 5000]);
    assert_eq!(guest(&*image, 7 * MIB, 4096), shape().data(7)[0].1);
    assert!(note_of(&file).contains("2 entries with 3 changes"), "{}", note_of(&file));
    let found = findings(&file);
    assert!(has(&found, Severity::Note, "has not been replayed"), "{found:?}");
    assert!(found.iter().all(|f| f.severity == Severity::Note));

    // Replayed for good, it is what it was read as.
    let (mended, after) = repair(&file).unwrap();
    assert_eq!(mended, ["the log was replayed"]);
    let now = read_strictly(&after).unwrap();
    assert!(!now.replayed && now.blocks == model.blocks && after.len == model.file.len);
    assert_eq!(now.data_write, model.data_write);
    assert_ne!(now.file_write, model.file_write);
    assert!(after.same(2 * MIB, &model.file, 2 * MIB, after.len - 2 * MIB));
    assert_eq!(findings(&after), []);
}

#[test]
fn a_log_goes_round_its_end() {
    let ring = MIB / PAGE;
    for at in ring - 5..ring {
        let (_, file, _) = dirty(at * PAGE);
        read_strictly(&file).unwrap();
        assert_eq!(open(&file).unwrap().facts().blocks_allocated, 7, "{at}");
        // Two entries of two pages.
        let wraps = at + 4 > ring;
        assert_eq!(note_of(&file).contains("around the end"), wraps, "{at}");
    }
}

#[test]
fn what_is_half_written_behind_the_head_does_not_count() {
    let (shape, mut file, places) = dirty(0);
    // A third entry that would take everything away, its last page torn.
    let third =
        LogEntry { pages: vec![(places.bat, vec![0; 4096])], ..LogEntry::default() };
    let mut bytes = third.bytes(42, 0, [0x10; 16], file.len);
    let end = bytes.len();
    bytes[end - 700..].fill(0xAA);
    file.write(places.log + 4 * PAGE, &bytes);
    assert_eq!(open(&file).unwrap().facts().blocks_allocated, 7);
    assert!(note_of(&file).contains("1 that are half-written"), "{}", note_of(&file));
    read_strictly(&file).unwrap();

    // Whole, it counts.
    file.write(places.log + 4 * PAGE, &third.bytes(42, 0, [0x10; 16], file.len));
    assert_eq!(open(&file).unwrap().facts().blocks_allocated, 0);
    // But not with a number that does not follow.
    file.write(places.log + 4 * PAGE, &third.bytes(43, 0, [0x10; 16], file.len));
    assert_eq!(open(&file).unwrap().facts().blocks_allocated, 7);
    // A newer sequence of its own does, wherever it lies.
    let own = third.bytes(50, 90 * PAGE as u32, [0x10; 16], file.len);
    file.write(places.log + 90 * PAGE, &own);
    assert_eq!(open(&file).unwrap().facts().blocks_allocated, 0);
    assert!(note_of(&file).contains("1 entries with 1 changes"));
    let _ = shape;
}

/// What an entry before the tail changed has reached its place, and may have been
/// changed there since.
#[test]
fn entries_before_the_tail_are_not_replayed() {
    let shape = shape();
    let (mut file, places) = shape.build(&[]);
    let page = table_page(&file, &places);
    let old =
        LogEntry { pages: vec![(8 * MIB, vec![0x77; 4096])], ..LogEntry::default() };
    let new = LogEntry {
        pages: vec![(places.bat, page)],
        tail: Some(2 * PAGE),
        last: Some(file.len + MIB),
        ..LogEntry::default()
    };
    shape.with_log(&mut file, &places, 0, &[old, new]);
    let model = read_strictly(&file).unwrap();
    assert!(model.file.same(8 * MIB, &file, 8 * MIB, PAGE));
    let (_, after) = repair(&file).unwrap();
    assert!(after.same(8 * MIB, &file, 8 * MIB, PAGE));
    assert!(note_of(&file).contains("1 entries"));
}

#[test]
fn logs_that_cannot_be_replayed_are_told_apart() {
    let (shape, file, places) = dirty(0);
    let plain = shape.build(&[]).0;
    let id = [0x10; 16];
    let empty = with_headers(&plain, 48, &id);
    let mut stale = plain.clone();
    shape.write_log(&mut stale, &places, 0, &[LogEntry::default()], [0x33; 16]);
    let stale = with_headers(&stale, 48, &id);
    let mut broken = file.clone();
    for page in [1, 3] {
        let mut data = broken.get(places.log + page * PAGE, 4096);
        data[100] ^= 1;
        broken.write(places.log + page * PAGE, &data);
    }
    // The tail of the one that is left is the one that is damaged.
    let mut headless = file.clone();
    headless.write(places.log + PAGE + 9, &[0xEE]);
    let with_entry = |entry: LogEntry| {
        let mut file = plain.clone();
        shape.with_log(&mut file, &places, 0, &[entry]);
        file
    };
    let page =
        |at: u64| LogEntry { pages: vec![(at, vec![1; 4096])], ..LogEntry::default() };
    let zeros =
        |at: u64, len: u64| LogEntry { zeros: vec![(at, len)], ..LogEntry::default() };
    let cut = LogEntry { flushed: Some(plain.len + MIB), ..LogEntry::default() };
    let far = LogEntry { last: Some(1 << 50), ..LogEntry::default() };
    let version = with_headers(&file, 64, &[1]);
    let without = with_headers(&file, 68, &[0; 4]);
    for (words, file) in [
        ("no entry at all", empty),
        ("entries of earlier sessions alone", stale),
        ("half-written or damaged, and no other", broken),
        ("without the ones that belong before them", headless),
        ("has been cut short", with_entry(cut)),
        ("at most 128 TiB", with_entry(far)),
        ("neither the headers nor the log", with_entry(page(64 << 10))),
        ("neither the headers nor the log", with_entry(page(0))),
        ("neither the headers nor the log", with_entry(page(320 << 10))),
        ("neither the headers nor the log", with_entry(page(places.log + PAGE))),
        ("neither the headers nor the log", with_entry(zeros(0, 64 * MIB))),
        ("file offset", with_entry(page(1 << 60))),
        ("file offset", with_entry(zeros(u64::MAX - PAGE + 1, PAGE))),
        ("log version", version),
        ("log offset and length", without),
    ] {
        let error = open_error(&file);
        assert_eq!(error.kind(), Kind::InvalidImage, "{words}");
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert!(has(&findings(&file), Severity::Error, words), "{words}");
        assert!(repair(&file).is_err(), "{words}");
    }
    // A region table may be logged; no log is no trouble.
    let tables = [192 << 10, 256 << 10];
    let mut entry = LogEntry::default();
    for table in tables {
        for offset in (0..65_536).step_by(4096) {
            entry.pages.push((table + offset, plain.get(table + offset, 4096)));
        }
    }
    let mut torn = with_entry(entry);
    for table in tables {
        torn.write(table + 100, &[1; 5000]);
    }
    assert_eq!(open(&torn).unwrap().facts().blocks_allocated, 6);
    let (_, after) = repair(&torn).unwrap();
    read_strictly(&after).unwrap();
    let nothing = with_entry(LogEntry::default());
    assert_eq!(open(&nothing).unwrap().facts().blocks_allocated, 6);
}

/// Entries whose every field but one is sound do not count.
#[test]
fn each_field_of_an_entry_must_hold() {
    let shape = shape();
    let (plain, places) = shape.build(&[]);
    let entry = LogEntry {
        pages: vec![(places.bat, vec![0; 4096]), (places.bat + PAGE, vec![0; 4096])],
        zeros: vec![(places.bat + 2 * PAGE, PAGE)],
        ..LogEntry::default()
    };
    let sound = entry.bytes(5, 0, [0x10; 16], plain.len);
    let try_with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sound.clone();
        change(&mut bytes);
        seal(&mut bytes);
        let mut file = with_headers(&plain, 48, &[0x10; 16]);
        file.write(places.log, &bytes);
        let theirs = read_strictly(&file);
        let ours = open(&file);
        assert_eq!(theirs.is_ok(), ours.is_ok());
        ours.map(|image| image.facts().blocks_allocated).ok()
    };
    assert_eq!(try_with(&|_| {}), Some(0));
    type Change = dyn Fn(&mut Vec<u8>);
    let changes: [&Change; 14] = [
        &|b| b[0] = b'L',
        &|b| b[8..12].copy_from_slice(&(2 * 4096u32).to_le_bytes()),
        &|b| b[8..12].copy_from_slice(&(3 * 4096u32 + 512).to_le_bytes()),
        &|b| b[8..12].copy_from_slice(&0u32.to_le_bytes()),
        &|b| b[12..16].copy_from_slice(&4097u32.to_le_bytes()),
        &|b| b[12..16].copy_from_slice(&(1u32 << 20).to_le_bytes()),
        &|b| b[16..24].fill(0),
        &|b| b[24] = 2,
        &|b| b[32] = 9,
        &|b| b[64] = b'Z',
        &|b| b[64 + 24] = 9,
        &|b| b[96 + 17] = 1,
        &|b| b[4096] = b'D',
        &|b| b[3 * 4096 - 4] = 9,
    ];
    for (number, change) in changes.iter().enumerate() {
        assert_eq!(try_with(change), None, "change {number}");
    }
    // And the checksum.
    let mut file = with_headers(&plain, 48, &[0x10; 16]);
    let mut bytes = sound;
    bytes[4096 + 200] ^= 1;
    file.write(places.log, &bytes);
    assert!(open(&file).is_err());
}

/// Random logs: what is read is what a strict reader makes of the file, and what a
/// replay for good leaves; a cut in the middle of that changes nothing.
#[test]
fn random_logs_are_replayed_as_the_specification_says() {
    let mut noise = Noise::new(23);
    let (mut replayed, mut refused) = (0, 0);
    for _ in 0..1500 {
        let shape = Shape { log_mib: 1 + noise.below(2), ..shape() };
        let (mut file, places) = shape.build(&[]);
        let ring = shape.log_mib * MIB;
        let id = [0x10; 16];
        for _ in 0..1 + noise.below(3) {
            let at = noise.below(ring / PAGE) * PAGE;
            let count = 1 + noise.below(5) as usize;
            let tail = noise.below(4);
            let entries: Vec<LogEntry> =
                (0..count).map(|_| random_entry(&mut noise, &file, &places)).collect();
            let id = if noise.below(4) == 0 { [0x22; 16] } else { id };
            let mut entries = entries;
            if tail == 0
                && let Some(last) = entries.last_mut()
            {
                last.tail = Some(noise.below(ring / PAGE) * PAGE);
            }
            shape.write_log(&mut file, &places, at, &entries, id);
        }
        for _ in 0..noise.below(3) {
            file.write(places.log + noise.below(ring), &noise.bytes(3));
        }
        let file = with_headers(&file, 48, &id);
        match (read_strictly(&file), open(&file)) {
            (Ok(model), Ok(image)) => {
                replayed += 1;
                let layout = image.layout().unwrap();
                assert_eq!(layout.file_len, model.file.len);
                let (_, after) = repair(&file).unwrap();
                let now = read_strictly(&after).unwrap();
                assert!(now.blocks == model.blocks && !now.replayed);
                assert_eq!(after.len, model.file.len);
                let (from, len) = (2 * MIB, after.len - 2 * MIB);
                let log_moved = places.log == MIB && shape.log_mib == 1;
                if log_moved {
                    assert!(after.same(from, &model.file, from, len));
                }
                for block in 0..10 {
                    let at = block * MIB;
                    let place = model.blocks[block as usize];
                    let there = if place.0 == 6 {
                        model.file.get(place.1, 9000)
                    } else {
                        vec![0; 9000]
                    };
                    assert!(guest(&*image, at, 9000) == there, "block {block}");
                }
            }
            (Err(_), Err(_)) => refused += 1,
            (Ok(_), Err(error)) => {
                // Only what no file needs.
                assert!(error.to_string().contains("does not overlap"), "{error}");
            }
            (Err(what), Ok(_)) => panic!("opened in spite of {what}"),
        }
    }
    assert!(replayed > 300 && refused > 100, "{replayed} replayed, {refused} refused");
}

fn random_entry(noise: &mut Noise, file: &Pages, places: &Places) -> LogEntry {
    let mut entry = LogEntry::default();
    for _ in 0..noise.below(4) {
        match noise.below(4) {
            0 => {
                let mut page = file.get(places.bat, 4096);
                let block = noise.below(10) as usize;
                page[block * 8..][..8].copy_from_slice(&2u64.to_le_bytes());
                entry.pages.push((places.bat, page));
            }
            1 => {
                let at = file.len - (1 + noise.below(200)) * PAGE;
                entry.zeros.push((at, noise.below(9) * PAGE));
            }
            2 => {
                let at = file.len - (1 + noise.below(200)) * PAGE;
                entry.pages.push((at, noise.bytes(4096)));
            }
            _ => entry.last = Some(file.len + noise.below(3) * MIB),
        }
    }
    entry
}
