//! Every rule that the specification has for a file that is stored: for each a file that
//! breaks it and nothing else, and what the check makes of that. What breaks a rule as
//! an error is refused by whoever opens it.
//!
//! Rules for those who write a file are held by the tests of what is written.

use slimdisk::image::Severity::{self, Damaged, Error, Note};

use super::chain::child_shape;
use super::{findings, open, shape, with, with_headers, with_regions};
use crate::vhdx_model::{
    FULL, Link, LogEntry, MIB, PAGE, PARENT_LOCATOR, PARTIAL, Pages, Places, Shape, guid,
    locator, read_strictly, seal,
};

/// The section, the rule's words in the finding, how bad it is, and the file.
type Row = (&'static str, &'static str, Severity, Pages);

const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const TABLES: [u64; 2] = [192 << 10, 256 << 10];

fn flipped(file: &Pages, at: u64) -> Pages {
    let byte = file.get(at, 1)[0];
    with(file, at, &[byte ^ 0xFF])
}

/// A rule that both copies of something have to break.
fn both(file: &Pages, at: [u64; 2], offset: u64) -> Pages {
    flipped(&flipped(file, at[0] + offset), at[1] + offset)
}

fn hold(rows: &[Row], whole: &[&Pages]) {
    for file in whole {
        assert_eq!(findings(file), [], "nothing is wrong with it");
    }
    for (section, words, severity, file) in rows {
        let rule = format!("{section}, {words}");
        let found = findings(file);
        let of_it: Vec<_> =
            found.iter().filter(|f| f.to_string().contains(words)).collect();
        assert!(!of_it.is_empty(), "{rule}: not among {found:#?}");
        assert!(of_it.iter().all(|f| f.severity == *severity), "{rule}: {found:#?}");
        let worst = found.iter().map(|f| f.severity).max();
        assert_eq!(worst, Some(*severity), "{rule}: {found:#?}");
        // One rule, one finding; but for damage to both copies, and for logs, which are
        // told of as such.
        let others = found.len() - of_it.len();
        let log = found.iter().filter(|f| f.structure == "log").count();
        assert!(others <= log, "{rule}: {found:#?}");
        assert_eq!(open(file).is_err(), *severity == Error, "{rule}");
    }
    let errors = rows.iter().filter(|(.., severity, _)| *severity == Error).count();
    println!("{} rules, {errors} of them refused", rows.len());
}

#[test]
fn rules_of_the_header_section() {
    let shape = shape();
    let (file, places) = shape.build(&[]);
    let unknown = Shape { unknown: Some(false), unknown_before: 6, ..shape.clone() };
    let (other, other_places) = unknown.build(&[]);
    let required = Shape { unknown: Some(true), ..shape.clone() }.build(&[]).0;
    let mut tiny = file.clone();
    tiny.set_len(MIB - 1);
    let u64s = |value: u64| value.to_le_bytes();
    let header = |at, bytes: &[u8]| with_headers(&file, at, bytes);
    let table = |at, bytes: &[u8]| with_regions(&file, at, bytes);
    // The rows of the region table: the block allocation table, the metadata, and in
    // `other` the unknown one.
    let region = |row: u64, field: u64, bytes: &[u8]| {
        with_regions(&other, 16 + 32 * row + field, bytes)
    };
    let in_use = {
        let mut file = file.clone();
        shape.with_log(&mut file, &places, 0, &[LogEntry::default()]);
        with_headers(&file, 64, &[1])
    };
    let tie = {
        let mut file = file.clone();
        let mut header = file.get(HEADERS[1], 4096);
        header[8] = 7;
        header[32] ^= 1;
        seal(&mut header);
        file.write(HEADERS[1], &header);
        file
    };
    let first_block =
        u64::from_le_bytes(other.get(other_places.bat + 7 * 8, 8).try_into().unwrap())
            & !7;
    let rows: &[Row] = &[
        ("2.2", "a header section of 1048576 bytes", Error, tiny),
        ("2.2", "which this program does not know", Error, required),
        ("2.2.1", "file identifier signature", Error, flipped(&file, 0)),
        ("2.2.2", "second header (", Damaged, flipped(&file, HEADERS[1])),
        ("2.2.2", "first header (", Damaged, flipped(&file, HEADERS[0] + 4)),
        ("2.2.2", "first header (", Damaged, flipped(&file, HEADERS[0] + 4095)),
        ("2.2.2", "a sound header", Error, both(&file, HEADERS, 40)),
        ("2.2.2", "header sequence numbers", Error, tie),
        ("2.2.2", "header sequence number (", Error, header(8, &u64s(u64::MAX - 1))),
        ("2.2.2", "header log version", Note, header(64, &[1])),
        ("2.2.2", "header log version", Error, in_use),
        ("2.2.2", "header version", Error, header(66, &[2])),
        ("2.2.2", "log offset and length", Error, header(69, &[8])),
        ("2.2.2", "log offset and length", Error, header(73, &[8])),
        ("2.2.2", "log offset and length", Error, header(72, &u64s(0))),
        ("2.2.2", "log offset and length", Error, header(72, &u64s(file.len))),
        ("2.2.2", "do not overlap", Error, header(72, &u64s(places.bat))),
        ("2.2.2", "in the log or a region", Error, header(72, &u64s(4 * MIB))),
        ("2.2.2", "header reserved bytes", Note, header(80, &[1])),
        ("2.2.2", "header reserved bytes", Note, header(4095, &[1])),
        ("2.2.3.1", "second region table", Damaged, flipped(&file, TABLES[1])),
        ("2.2.3.1", "first region table", Damaged, flipped(&file, TABLES[0] + 65_000)),
        ("2.2.3.1", "a sound table", Error, both(&file, TABLES, 4)),
        ("2.2.3.1", "region table entry count", Error, table(8, &[0, 8])),
        ("2.2.3.1", "region table reserved bytes", Note, table(12, &[1])),
        (
            "2.2.3.2",
            "an identifier of its own",
            Error,
            region(2, 0, &guid(crate::vhdx_model::BAT_REGION)),
        ),
        ("2.2.3.2", "whole MiB behind the first", Error, region(2, 17, &[8])),
        ("2.2.3.2", "whole MiB behind the first", Error, region(2, 16, &u64s(0))),
        ("2.2.3.2", "whole MiB behind the first", Error, region(2, 25, &[8])),
        ("2.2.3.2", "inside the file", Error, region(2, 16, &u64s(other.len))),
        ("2.2.3.2", "which this program does not know", Error, region(2, 28, &[1])),
        ("2.2.3.2", "required field", Note, region(2, 28, &[2])),
        ("2.2.3.2", "do not overlap", Error, region(2, 16, &u64s(other_places.log))),
        ("2.2.3.2", "do not overlap", Error, region(2, 16, &u64s(other_places.metadata))),
        ("2.2.3.2", "in the log or a region", Error, region(2, 16, &u64s(first_block))),
        ("2.2.3.2", "a region for the metadata", Error, table(8, &[1])),
        ("2.2.3.2", "which this program does not know", Error, table(16, &[0])),
    ];
    hold(rows, &[&file, &other]);
}

/// An image with one entry in its log, changed as told.
fn with_entry(entry: &LogEntry, seals: bool, change: &dyn Fn(&mut Vec<u8>)) -> Pages {
    let shape = shape();
    let (file, places) = shape.build(&[]);
    let mut bytes = entry.bytes(5, 0, [0x10; 16], file.len);
    change(&mut bytes);
    if seals {
        seal(&mut bytes);
    }
    let mut file = with_headers(&file, 48, &[0x10; 16]);
    file.write(places.log, &bytes);
    file
}

#[test]
fn rules_of_the_log() {
    let shape = shape();
    let (whole, places) = shape.build(&[]);
    let entry = LogEntry {
        pages: vec![(places.bat, whole.get(places.bat, 4096))],
        zeros: vec![(places.bat + PAGE, PAGE)],
        ..LogEntry::default()
    };
    let set = |at: usize, bytes: &'static [u8]| {
        with_entry(&entry, true, &|b| b[at..at + bytes.len()].copy_from_slice(bytes))
    };
    let sequence = |numbers: [u64; 2]| {
        let mut file = with_headers(&whole, 48, &[0x10; 16]);
        for (at, number) in [0, 2 * PAGE].into_iter().zip(numbers) {
            file.write(places.log + at, &entry.bytes(number, 0, [0x10; 16], whole.len));
        }
        // The second entry is the newest, and names the first as its tail.
        let mut first = file.get(places.log, 8192);
        first[12..16].copy_from_slice(&(8 * 4096u32).to_le_bytes());
        seal(&mut first);
        file.write(places.log, &first);
        file
    };
    let logged = |page: u64| {
        with_entry(
            &LogEntry { pages: vec![(page, vec![0; 4096])], ..LogEntry::default() },
            true,
            &|_| (),
        )
    };
    let damaged = "half-written or damaged";
    // Offsets in the entry: its header, a descriptor of zeros, one of data, the data.
    let (zeros, data, sector) = (64, 96, 4096);
    let cut = LogEntry { flushed: Some(whole.len + MIB), ..LogEntry::default() };
    let uneven = |flushed, last| {
        with_entry(&LogEntry { flushed, last, ..entry.clone() }, true, &|_| ())
    };
    let rows: &[Row] = &[
        ("2.3.1.1", "no entry at all", Error, set(0, b"L")),
        ("2.3.1.1", damaged, Error, with_entry(&entry, false, &|b| b[200] ^= 1)),
        ("2.3.1.1", damaged, Error, set(8, &[0, 33, 0, 0])),
        ("2.3.1.1", damaged, Error, set(12, &[1])),
        ("2.3.1.1", damaged, Error, set(16, &[0])),
        ("2.3.1.1", damaged, Error, set(24, &[3])),
        ("2.3.1.1", "log entry reserved", Note, set(28, &[1])),
        ("2.3.1.1", "earlier sessions", Error, set(32, &[1])),
        ("2.3.1.1", "has been cut short", Error, with_entry(&cut, true, &|_| ())),
        ("2.3.1.1", "flushed file offset", Note, uneven(Some(whole.len - 4096), None)),
        ("2.3.1.1", "last file offset", Note, uneven(None, Some(whole.len - 4096))),
        ("2.3.1.2", damaged, Error, set(zeros, b"Z")),
        ("2.3.1.2", "log entry reserved", Note, set(zeros + 4, &[1])),
        ("2.3.1.2", damaged, Error, set(zeros + 8, &[8])),
        ("2.3.1.2", damaged, Error, set(zeros + 16, &[8])),
        ("2.3.1.2", damaged, Error, set(zeros + 24, &[6])),
        ("2.3.1.3", damaged, Error, set(data, b"D")),
        ("2.3.1.3", damaged, Error, set(data + 16, &[8])),
        ("2.3.1.3", damaged, Error, set(data + 24, &[6])),
        ("2.3.1.4", damaged, Error, set(sector, b"D")),
        ("2.3.1.4", damaged, Error, set(sector + 4, &[1])),
        ("2.3.1.4", damaged, Error, set(sector + 4092, &[6])),
        ("2.3.2", "that belong before them", Error, sequence([40, 42])),
        ("2.3.3", "no entry at all", Error, with_headers(&whole, 48, &[0x10; 16])),
        ("2.2.1", "neither the headers nor the log", Error, logged(0)),
        ("2.2.2", "neither the headers nor the log", Error, logged(HEADERS[0])),
        ("2.3", "neither the headers nor the log", Error, logged(places.log + MIB / 2)),
    ];
    for sound in [with_entry(&entry, true, &|_| ()), sequence([40, 41])] {
        assert!(read_strictly(&sound).unwrap().replayed);
        let found = findings(&sound);
        assert!(found.len() == 1 && found[0].severity == Note, "{found:?}");
    }
    hold(rows, &[&whole]);
}

#[test]
fn rules_of_the_block_allocation_table() {
    let shape = shape();
    let (file, places) = shape.build(&[]);
    let entry =
        |block: u64, raw: u64| with(&file, places.bat + block * 8, &raw.to_le_bytes());
    let first = u64::from_le_bytes(file.get(places.bat + 7 * 8, 8).try_into().unwrap());
    let end = file.len;
    // A chunk of 16 blocks, so that there is an entry for a sector bitmap.
    let large = Shape {
        block_mib: 256,
        blocks: 17,
        order: vec![(16, FULL, 1), (3, FULL, 0)],
        ..shape.clone()
    };
    let (large_file, large_places) = large.build(&[]);
    let gap = large_file.len - 513 * MIB;
    let bitmap =
        |raw: u64| with(&large_file, large_places.bat + 16 * 8, &raw.to_le_bytes());
    let child = Shape { entries: Vec::new(), ..child_shape(512) };
    let (child_file, child_places) = child.build(&[]);
    let bitmap_at = child_places.bat + child.ratio() * 8;
    let bitmap_entry =
        u64::from_le_bytes(child_file.get(bitmap_at, 8).try_into().unwrap());
    let child_with = |raw: u64| with(&child_file, bitmap_at, &raw.to_le_bytes());
    let only_full =
        Shape { order: vec![(3, FULL, 1)], eighths: Vec::new(), ..child.clone() };
    let (full_file, full_places) = only_full.build(&[]);
    let full_with = |raw: u64| {
        with(&full_file, full_places.bat + only_full.ratio() * 8, &raw.to_le_bytes())
    };
    let disk = Shape { blocks: (1 << 17) + 1, ..shape.clone() }.build(&[]).0;
    let rows: &[Row] = &[
        (
            "2.5",
            "at least 1048840 bytes",
            Error,
            with_regions(&disk, 40, &[0, 0, 0x10, 0]),
        ),
        ("2.5.1", "zeros in bits 3 to 19", Note, entry(2, 8)),
        ("2.5.1", "zeros in bits 3 to 19", Note, entry(7, first | 1 << 19)),
        ("2.5.1", "neither in the header section", Error, entry(2, 6)),
        ("2.5.1", "nor in the log or a region", Error, entry(2, 6 | places.bat)),
        ("2.5.1", "nor in the log or a region", Error, entry(2, 6 | places.log)),
        ("2.5.1", "a place that does not overlap", Error, entry(2, first)),
        ("2.5.1", "a place that does not overlap", Error, entry(2, first & !7 | 3)),
        ("2.5.1", "a place inside the file", Error, entry(2, end | 6)),
        ("2.5.1", "no place for a block that has no data", Note, entry(2, first & !7)),
        ("2.5.1", "no place for a block that has no data", Note, entry(2, end | 2)),
        ("2.5.1.1", "a state that is not reserved", Error, entry(2, 4)),
        ("2.5.1.1", "a state that is not reserved", Error, entry(2, 5)),
        ("2.5.1.1", "no partially present block", Error, entry(7, first | 7)),
        ("2.5.1.1", "a sector bitmap for a partially", Error, child_with(0)),
        ("2.5.1.2", "no sector bitmap in an image without", Error, bitmap(gap | 6)),
        ("2.5.1.2", "a state that is not reserved", Error, bitmap(1)),
        ("2.5.1.2", "a state that is not reserved", Error, bitmap(7)),
        ("2.5.1.2", "no place for a sector bitmap", Note, bitmap(gap)),
        ("2.5.1.2", "a state that is not reserved", Error, full_with(5)),
        ("2.5.1.2", "a place inside the file", Error, full_with(full_file.len | 6)),
        ("2.5.1.2", "nor in the log or a region", Error, full_with(full_places.log | 6)),
    ];
    assert_eq!((bitmap_entry & 7, PARTIAL), (6, 7));
    hold(rows, &[&file, &large_file, &child_file, &full_file, &disk]);
}

/// However much there is to note, what is an error behind it is found: a block in a
/// state that nobody knows has no place that counts, and would be written over.
#[test]
fn many_notes_hide_no_error() {
    let order = vec![(38, FULL, 0), (0, FULL, 0)];
    let shape = Shape { blocks: 40, order, ..shape() };
    let (mut file, places) = shape.build(&[]);
    let end = file.len;
    for block in 1..36u64 {
        // The first ones tell of two things each.
        file.write(places.bat + block * 8, &(end | 2 | 0xF0000).to_le_bytes());
    }
    let found = findings(&file);
    assert!(found.len() >= 16 && found.iter().all(|f| f.severity == Note), "{found:?}");
    assert!(found.len() < 40, "the first few say enough");
    assert!(open(&file).is_ok());
    let at = places.bat + 38 * 8;
    let place = u64::from_le_bytes(file.get(at, 8).try_into().unwrap()) & !7;
    for (raw, words) in [
        (place | 5, "a state that is not reserved"),
        (place | 4, "a state that is not reserved"),
        (place | 7, "no partially present block"),
    ] {
        let damaged = with(&file, at, &raw.to_le_bytes());
        assert!(open(&damaged).is_err(), "{words}");
        let found = findings(&damaged);
        let told =
            found.iter().any(|f| f.severity == Error && f.to_string().contains(words));
        assert!(told, "{words}: {found:?}");
    }
}

#[test]
fn rules_of_the_metadata() {
    let shape = shape();
    let (file, places) = shape.build(&[]);
    let at = places.metadata;
    let items = at + (64 << 10);
    let item = |row: u64, field: u64, bytes: &[u8]| {
        with(&file, at + 32 + row * 32 + field, bytes)
    };
    // A sixth item that nobody knows.
    let (id, lone) = ([9; 16], 0x2_0000u32);
    let more = |offset: u32, len: u32, flags: u32| {
        let mut row = id.to_vec();
        for value in [offset, len, flags, 0] {
            row.extend(value.to_le_bytes());
        }
        with(&with(&file, at + 10, &[6]), at + 32 + 5 * 32, &row)
    };
    let users = |count: u16| {
        let mut file = with(&file, at + 10, &(5 + count).to_le_bytes());
        for number in 0..count {
            let mut row = vec![1; 14];
            row.extend(number.to_le_bytes());
            row.extend([0; 8]);
            row.extend([1, 0, 0, 0, 0, 0, 0, 0]);
            file.write(at + 32 + (5 + u64::from(number)) * 32, &row);
        }
        file
    };
    let size = |value: u64| with(&file, items + 8, &value.to_le_bytes());
    let word =
        |offset: u64, value: u32| with(&file, items + offset, &value.to_le_bytes());
    let inside = "at most 1 MiB behind the table and inside the region";
    let mut rows: Vec<Row> = vec![
        ("2.6.1.1", "metadata table signature", Error, flipped(&file, at)),
        ("2.6.1.1", "metadata table reserved bytes", Note, with(&file, at + 8, &[1])),
        ("2.6.1.1", "metadata table entry count", Error, with(&file, at + 10, &[0, 8])),
        ("2.6.1.1", "metadata table reserved bytes", Note, with(&file, at + 31, &[1])),
        (
            "2.6.1.2",
            "an item of its own",
            Error,
            with(&more(lone, 8, 0), at + 32 + 5 * 32, &file.get(at + 32, 16)),
        ),
        ("2.6.1.2", inside, Error, more(0xFFF8, 8, 0)),
        ("2.6.1.2", inside, Error, more(1 << 20, 8, 0)),
        ("2.6.1.2", inside, Error, more((1 << 20) - 4, 8, 0)),
        ("2.6.1.2", inside, Error, more(u32::MAX, u32::MAX, 0)),
        ("2.6.1.2", "items that do not overlap", Error, more((64 << 10) + 4, 8, 0)),
        ("2.6.1.2", inside, Error, more(lone, (1 << 20) + 1, 0)),
        ("2.6.1.2", inside, Error, more(lone, 0, 0)),
        ("2.6.1.2", "at most 1024 items of users", Error, users(1025)),
        ("2.6.1.2", "the required item", Error, more(lone, 8, 4)),
        ("2.6.1.2", "the required item", Error, more(lone, 8, 5)),
        ("2.6.1.2", "metadata entry reserved bits", Note, more(lone, 8, 8)),
        ("2.6.1.2", "metadata entry reserved bits", Note, item(3, 28, &[1])),
        ("2.6.2.1", "file parameters block size", Error, word(0, 1 << 19)),
        ("2.6.2.1", "file parameters block size", Error, word(0, 1 << 29)),
        ("2.6.2.1", "file parameters block size", Error, word(0, 3 << 20)),
        ("2.6.2.1", "file parameters reserved bits", Note, word(4, 4)),
        ("2.6.2.1", "a parent locator in a differencing image", Error, word(4, 2)),
        ("2.6.2.2", "virtual disk size", Error, size(10 * MIB - 100)),
        ("2.6.2.2", "virtual disk size", Error, size((64 << 40) + 512)),
        ("2.6.2.4", "logical sector size", Error, word(32, 1024)),
        ("2.6.2.5", "physical sector size", Error, word(36, 8192)),
    ];
    for (row, words) in (0..).zip([
        "the item file parameters",
        "the item virtual disk size",
        "the item virtual disk id",
        "the item logical sector size",
        "the item physical sector size",
    ]) {
        // Under a name that is nobody's, and not required.
        let gone = with(&item(row, 0, &id), at + 32 + row * 32 + 24, &[0]);
        rows.push(("2.6.2", words, Error, gone));
    }
    hold(&rows, &[&file, &more(lone, 8, 0), &more(0, 0, 2), &users(1024)]);
}

/// A child whose parent locator is made of these pairs, and where that lies.
fn child_of(pairs: &[(&str, &str)]) -> (Pages, Places, u64) {
    let pairs = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let shape = Shape { link: Some(Link { pairs }), ..child_shape(512) };
    let (file, places) = shape.build(&[]);
    let row = places.metadata + 32 + 5 * 32;
    assert_eq!(file.get(row, 16), guid(PARENT_LOCATOR));
    let offset = u32::from_le_bytes(file.get(row + 16, 4).try_into().unwrap());
    let at = places.metadata + u64::from(offset);
    (file, places, at)
}

#[test]
fn rules_of_the_parent_locator() {
    const LINK: (&str, &str) =
        ("parent_linkage", "{83ed0ec3-24c8-49a6-a959-5e4bf1288bfb}");
    const PATH: (&str, &str) = ("relative_path", "p.vhdx");
    let (file, _, at) = child_of(&[LINK, PATH]);
    let of = |pairs: &[(&str, &str)]| child_of(pairs).0;
    let sound = of(&[
        LINK,
        PATH,
        ("volume_path", r"\\?\Volume{26a21bda-a627-11d7-9931-806e6f6e6963}\p.vhdx"),
        ("absolute_win32_path", r"\\?\d:\p.vhdx"),
    ]);
    let outside = "a key and a value inside the item";
    let rows: &[Row] = &[
        ("2.6.2.6.1", "parent locator type", Error, flipped(&file, at)),
        ("2.6.2.6.1", "parent locator reserved bytes", Note, with(&file, at + 16, &[1])),
        ("2.6.2.6.1", "room for 255 pairs", Error, with(&file, at + 18, &[255])),
        ("2.6.2.6.2", outside, Error, with(&file, at + 20, &[0; 4])),
        ("2.6.2.6.2", outside, Error, with(&file, at + 24, &[0; 4])),
        ("2.6.2.6.2", outside, Error, with(&file, at + 28, &[0; 2])),
        ("2.6.2.6.2", outside, Error, with(&file, at + 30, &[0; 2])),
        ("2.6.2.6.2", outside, Error, with(&file, at + 30, &[0xFF; 2])),
        ("2.6.2.6.2", "without a NUL", Note, of(&[LINK, ("relative_path", "p.vhdx\0")])),
        ("2.6.2.6.2", "each key once", Error, of(&[LINK, PATH, PATH])),
        ("2.6.2.6.3", "a parent_linkage, found none", Error, of(&[PATH])),
        (
            "2.6.2.6.3",
            "identifiers in braces",
            Error,
            of(&[("parent_linkage", "83ed"), PATH]),
        ),
        ("2.6.2.6.3", "a path of the parent", Note, of(&[LINK])),
        // That absolute paths begin with \\?\ is a rule that Windows breaks itself.
    ];
    assert_eq!(locator(&[]).len(), 20);
    hold(rows, &[&file, &sound]);
}
