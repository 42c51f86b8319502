//! Every variant of VHDX there is, and every one that is refused by name.

pub mod chain;
mod child;
mod child_crash;
mod child_rules;
#[cfg(target_os = "linux")]
mod cloned;
mod compacted;
#[cfg(target_os = "linux")]
mod converted;
pub mod crash;
#[cfg(target_os = "linux")]
mod created;
mod half_made;
mod hostile;
mod judged;
mod log;
mod logged;
mod merge;
mod read;
mod rules;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use slimdisk::Kind;
use slimdisk::image::{self, Finding, Format, Image, ImageType, Severity};
use slimdisk::storage::{Copied, ReadAt, Storage};

use crate::support::Noise;
use crate::vhdx_model::{
    FULL, MIB, PAGE, Pages, Places, Shape, UNMAPPED, guid_text, read_strictly, seal,
};

/// A file in memory, held page by page; it tells of its holes.
#[derive(Default)]
pub struct PageFile(Mutex<Pages>);

impl PageFile {
    pub fn new(pages: Pages) -> Arc<Self> {
        Arc::new(PageFile(Mutex::new(pages)))
    }

    pub fn pages(&self) -> Pages {
        self.0.lock().unwrap().clone()
    }
}

impl ReadAt for PageFile {
    fn len(&self) -> u64 {
        self.0.lock().unwrap().len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> slimdisk::Result<()> {
        let pages = self.0.lock().unwrap();
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > pages.len) {
            return Err(slimdisk::Error::invalid("beyond the end").at(offset));
        }
        pages.read(offset, buf);
        Ok(())
    }

    fn next_data(&self, offset: u64) -> slimdisk::Result<Option<Range<u64>>> {
        let pages = self.0.lock().unwrap();
        let found = pages.held(offset, pages.len).next();
        Ok(found
            .map(|page| page.max(offset)..(page + PAGE).min(pages.len))
            .filter(|range| range.start < range.end))
    }
}

impl Storage for PageFile {
    fn write_at(&self, offset: u64, data: &[u8]) -> slimdisk::Result<()> {
        self.0.lock().unwrap().write(offset, data);
        Ok(())
    }

    fn flush(&self) -> slimdisk::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> slimdisk::Result<()> {
        self.0.lock().unwrap().set_len(len);
        Ok(())
    }

    fn copy_within(&self, from: u64, to: u64, len: u64) -> slimdisk::Result<Copied> {
        assert!(from + len <= to || to + len <= from, "a copy that overlaps itself");
        assert!(from + len <= self.len(), "a copy of what is not there");
        let mut pages = self.0.lock().unwrap();
        for (at, data) in copied(&pages, from, to, len) {
            pages.write(at, &data);
        }
        Ok(Copied::default())
    }
}

/// What a copy writes: the pages of either place that hold anything.
pub fn copied(pages: &Pages, from: u64, to: u64, len: u64) -> Vec<(u64, Vec<u8>)> {
    let mut offsets: BTreeSet<u64> =
        pages.held(from, from + len).map(|page| page - from).collect();
    offsets.extend(pages.held(to, to + len).map(|page| page - to));
    let read = |offset: u64| (to + offset, pages.get(from + offset, 4096));
    offsets.into_iter().map(read).collect()
}

/// Ten blocks of 1 MiB, six of them there, in the order of the file.
pub fn shape() -> Shape {
    let order = [7, 0, 3, 9, 1, 4].map(|block| (block, FULL, 0)).to_vec();
    Shape { order, ..Shape::default() }
}

pub fn open(file: &Pages) -> slimdisk::Result<Box<dyn Image>> {
    image::open(PageFile::new(file.clone()))
}

pub fn open_error(file: &Pages) -> slimdisk::Error {
    match open(file) {
        Ok(_) => panic!("an unsound image was opened"),
        Err(error) => error,
    }
}

pub fn findings(file: &Pages) -> Vec<Finding> {
    image::vhdx::Vhdx.check(&PageFile::new(file.clone())).unwrap()
}

pub fn has(findings: &[Finding], severity: Severity, words: &str) -> bool {
    findings.iter().any(|f| f.severity == severity && f.to_string().contains(words))
}

fn repair(file: &Pages) -> slimdisk::Result<(Vec<String>, Pages)> {
    let storage = PageFile::new(file.clone());
    let mended = image::vhdx::Vhdx.repair(&*storage)?;
    Ok((mended, storage.pages()))
}

/// The guest's bytes at the start of a block, or wherever.
fn guest(image: &dyn Image, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![9; len];
    image.read_at(at, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_sound_image_has_no_findings_and_says_what_it_is() {
    let shape = shape();
    let (file, _) = shape.build(&[]);
    read_strictly(&file).unwrap();
    assert_eq!(findings(&file), []);
    let image = open(&file).unwrap();
    let facts = image.facts();
    assert_eq!((facts.format, facts.image_type), ("vhdx", ImageType::Dynamic));
    assert_eq!((facts.block_size, facts.blocks_total), (MIB, 10));
    assert_eq!((facts.blocks_allocated, facts.virtual_size), (6, 10 * MIB));
    assert_eq!(facts.notes, Vec::<String>::new());
    assert_eq!(image.sector_size(), Some(512));
    let [_, data_write, disk_id] = shape.guids();
    let of = |name: &str| {
        facts.details.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone()).unwrap()
    };
    assert_eq!(of("creator"), "slimdisk's tests");
    assert_eq!(of("unique id"), guid_text(&data_write));
    assert_eq!(of("virtual disk id"), guid_text(&disk_id));
    for (block, ..) in &shape.order {
        let data = shape.data(*block);
        for (offset, bytes) in &data {
            let at = u64::from(*block) * MIB + offset;
            assert!(guest(&*image, at, 4096) == *bytes, "block {block}");
        }
    }
    assert_eq!(guest(&*image, 2 * MIB, 4096), [0; 4096]);
    assert!(image.read_at(10 * MIB - 1, &mut [0; 2]).is_err());
}

#[test]
fn every_shape_is_read_as_its_maker_meant_it() {
    let mut noise = Noise::new(1);
    for _ in 0..400 {
        let shape = Shape::random(&mut noise);
        let (file, _) = shape.build(&[]);
        let model = read_strictly(&file).unwrap();
        let image = open(&file).unwrap_or_else(|e| panic!("{shape:?}: {e}"));
        assert_eq!(findings(&file), [], "{shape:?}");
        assert_eq!(image.len(), model.disk_size);
        let layout = image.layout().unwrap();
        let placed = model.blocks.iter().filter(|(_, place)| *place != 0).count();
        assert_eq!(layout.extents.len(), placed);
        for (number, (state, place)) in (0u32..).zip(&model.blocks) {
            let at = u64::from(number) * shape.block_len();
            assert_eq!(image.is_allocated(number), *place != 0);
            for page in [0, shape.block_len() - PAGE] {
                let len = image.len().saturating_sub(at + page).min(PAGE) as usize;
                if len == 0 {
                    continue;
                }
                let shown = guest(&*image, at + page, len);
                let there = if *state == FULL {
                    file.get(place + page, len)
                } else {
                    vec![0; len]
                };
                assert!(shown == there, "block {number} of {shape:?}");
            }
        }
        // What is skipped as known to be zeros is zeros.
        let mut at = 0;
        while let Some(data) = image.next_data(at).unwrap() {
            assert!(data.start >= at && data.end <= image.len());
            at = data.end;
        }
    }
}

#[test]
fn sizes_to_64_tib_and_blocks_to_256_mib() {
    for shift in 0..=8 {
        for logical in [512, 4096] {
            let shape = Shape {
                block_mib: 1 << shift,
                logical,
                order: vec![(9, FULL, 0), (2, FULL, 1)],
                short: 4096 * 5,
                ..shape()
            };
            let (file, _) = shape.build(&[]);
            let image = open(&file).unwrap();
            assert_eq!(image.len(), shape.disk_size());
            assert_eq!(image.facts().block_size, MIB << shift);
            let (at, bytes) = &shape.data(2)[1];
            assert!(guest(&*image, 2 * shape.block_len() + at, 4096) == *bytes);
        }
    }
    for block_mib in [1, 32, 256] {
        let blocks = (64 << 20) / block_mib as u32;
        let order = vec![(blocks - 1, FULL, 0), (blocks / 2, FULL, 0)];
        let shape = Shape { block_mib, blocks, order, ..shape() };
        let (file, _) = shape.build(&[]);
        let image = open(&file).unwrap();
        assert_eq!(image.len(), 64 << 40);
        let (at, bytes) = &shape.data(blocks - 1)[0];
        let start = u64::from(blocks - 1) * shape.block_len();
        assert!(guest(&*image, start + at, 4096) == *bytes);
        let data = image.next_data(start - (1 << 40)).unwrap().unwrap();
        assert_eq!(data.start, start);
    }
}

/// Changes a field of both headers, with new checksums.
fn with_headers(file: &Pages, at: u64, bytes: &[u8]) -> Pages {
    let mut file = file.clone();
    for header_at in [64 << 10, 128 << 10] {
        let mut header = file.get(header_at, 4096);
        header[at as usize..][..bytes.len()].copy_from_slice(bytes);
        seal(&mut header);
        file.write(header_at, &header);
    }
    file
}

/// Changes a field of both region tables, with new checksums.
fn with_regions(file: &Pages, at: u64, bytes: &[u8]) -> Pages {
    let mut file = file.clone();
    for table_at in [192 << 10, 256 << 10] {
        let mut table = file.get(table_at, 64 << 10);
        table[at as usize..][..bytes.len()].copy_from_slice(bytes);
        seal(&mut table);
        file.write(table_at, &table);
    }
    file
}

fn with(file: &Pages, at: u64, bytes: &[u8]) -> Pages {
    let mut file = file.clone();
    file.write(at, bytes);
    file
}

#[test]
fn either_header_and_either_region_table_serves_when_the_other_is_damaged() {
    let (whole, _) = shape().build(&[]);
    for (at, name) in [
        ((64 << 10) + 20, "first header"),
        ((128 << 10) + 20, "second header"),
        ((64 << 10) + 1, "first header"),
        ((192 << 10) + 20, "first region table"),
        ((256 << 10) + 60_000, "second region table"),
    ] {
        let mut byte = whole.get(at, 1);
        byte[0] ^= 0xFF;
        let file = with(&whole, at, &byte);
        let found = findings(&file);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(has(&found, Severity::Damaged, name), "{found:?}");
        let image = open(&file).unwrap();
        assert_eq!((image.facts().blocks_allocated, image.facts().notes.len()), (6, 1));

        let (mended, after) = repair(&file).unwrap();
        assert_eq!(mended.len(), 1);
        assert_eq!(findings(&after), []);
        let (before, after) =
            (read_strictly(&whole).unwrap(), read_strictly(&after).unwrap());
        assert_eq!(before.blocks, after.blocks);
        assert_eq!(before.data_write, after.data_write);
        assert_ne!(before.file_write, after.file_write);
    }
    // Nothing to mend: nothing is written.
    let (mended, after) = repair(&whole).unwrap();
    assert!(mended.is_empty() && after == whole);
    for pair in [[64 << 10, 128 << 10], [192 << 10, 256 << 10]] {
        let file = with(&with(&whole, pair[0] + 9, &[1]), pair[1] + 9, &[1]);
        assert_eq!(open_error(&file).kind(), Kind::InvalidImage);
        let error = repair(&file).err().unwrap();
        assert!(error.to_string().contains("no copy can mend"), "{error}");
    }
}

#[test]
fn the_header_with_the_greater_number_counts() {
    let shape = shape();
    let (file, places) = shape.build(&[]);
    let of = |first: (u64, u8), second: (u64, u8)| {
        let mut file = file.clone();
        for (at, (number, mark)) in [(64 << 10, first), (128 << 10, second)] {
            let mut header = shape.header(&places, number, [0; 16]);
            header[32..48].fill(mark);
            seal(&mut header);
            file.write(at, &header);
        }
        file
    };
    let id = |file: &Pages| open(file).unwrap().facts().unique_id.unwrap()[0];
    assert_eq!(id(&of((8, 1), (9, 2))), 2);
    assert_eq!(id(&of((10, 1), (9, 2))), 1);
    assert_eq!(id(&of((0, 1), (u64::MAX - (1 << 32), 2))), 2);
    // disk2vhd: both the same, the number as well.
    assert_eq!(id(&of((1, 3), (1, 3))), 3);
    assert_eq!(findings(&of((1, 3), (1, 3))), []);
    let tie = open_error(&of((1, 3), (1, 4)));
    assert!(tie.to_string().contains("sequence numbers"), "{tie}");
}

#[test]
fn unsound_images_are_refused_by_name() {
    let shape = shape();
    let (file, places) = shape.build(&[]);
    let entry =
        |block: u64, raw: u64| with(&file, places.bat + block * 8, &raw.to_le_bytes());
    let item = |row: u64, field: u64, bytes: &[u8]| {
        with(&file, places.metadata + 32 + row * 32 + field, bytes)
    };
    // The items' own places, in the order of the table.
    let items = places.metadata + (64 << 10);
    let first = u64::from_le_bytes(file.get(places.bat + 7 * 8, 8).try_into().unwrap());
    let end = file.len;
    let required = Shape { unknown: Some(true), ..shape.clone() }.build(&[]).0;
    let mut short = file.clone();
    short.set_len(end - MIB - 1);
    let mut tiny = file.clone();
    tiny.set_len(300_000);
    let u64s = |value: u64| value.to_le_bytes();
    let cases: &[(&str, Pages)] = &[
        ("header section", tiny),
        ("header version", with_headers(&file, 66, &[2])),
        ("log offset and length", with_headers(&file, 72, &u64s(MIB + 4096))),
        ("log offset and length", with_headers(&file, 72, &u64s(0))),
        ("log offset and length", with_headers(&file, 72, &u64s(1 << 50))),
        ("log offset and length", with_headers(&file, 72, &u64s(u64::MAX - MIB + 1))),
        ("log offset and length", with_headers(&file, 68, &[0, 8, 0, 0])),
        ("do not overlap", with_headers(&file, 72, &u64s(places.bat))),
        ("entry count", with_regions(&file, 8, &2048u32.to_le_bytes())),
        ("region for", with_regions(&file, 8, &1u32.to_le_bytes())),
        ("which this program does not know", with_regions(&file, 16, &[9])),
        (
            "an identifier of its own",
            with_regions(&file, 16, &file.get((192 << 10) + 48, 16)),
        ),
        ("region 2dc27766", with_regions(&file, 32, &u64s(MIB - 4096))),
        ("region 2dc27766", with_regions(&file, 32, &u64s(0))),
        ("region 2dc27766", with_regions(&file, 32, &u64s(1 << 62))),
        ("region 2dc27766", with_regions(&file, 40, &[1])),
        ("too short", with_regions(&file, 40, &[0, 0, 0, 0])),
        ("do not overlap", with_regions(&file, 32, &u64s(places.metadata))),
        ("which this program does not know", required),
        ("two sound tables that differ", {
            let mut table = file.get(192 << 10, 64 << 10);
            table[32..40].copy_from_slice(&u64s(4 * MIB));
            seal(&mut table);
            with(&file, 192 << 10, &table)
        }),
        ("metadata table signature", with(&file, places.metadata, b"metadatb")),
        ("entry count", with(&file, places.metadata + 10, &2048u16.to_le_bytes())),
        ("inside the region", item(0, 16, &(1u32 << 20).to_le_bytes())),
        ("inside the region", item(0, 16, &65_535u32.to_le_bytes())),
        ("inside the region", item(0, 20, &0u32.to_le_bytes())),
        ("inside the region", item(0, 20, &u32::MAX.to_le_bytes())),
        ("items that do not overlap", item(1, 16, &(65_536u32 + 4).to_le_bytes())),
        ("a second time", item(2, 0, &file.get(places.metadata + 32, 16))),
        ("the required item", item(4, 0, &[3])),
        ("the required item", item(4, 24, &[7])),
        ("the item physical sector size", item(4, 24, &[3])),
        ("8 bytes, found 4", item(1, 20, &[4])),
        ("made to its end", {
            let id = crate::vhdx_model::guid("71CC85F0-1B69-4E28-9558-C3BF83AE75D3");
            with(&item(4, 24, &[0]), places.metadata + 32 + 4 * 32, &id)
        }),
        ("block size", with(&file, items, &(3u32 << 20).to_le_bytes())),
        ("block size", with(&file, items, &(1u32 << 19).to_le_bytes())),
        ("block size", with(&file, items, &(1u32 << 29).to_le_bytes())),
        ("parent locator", with(&file, items + 4, &[2])),
        ("virtual disk size", with(&file, items + 8, &u64s(0))),
        ("virtual disk size", with(&file, items + 8, &u64s(MIB + 100))),
        ("virtual disk size", with(&file, items + 8, &u64s((64 << 40) + 512))),
        ("for 1048831 entries", with(&file, items + 8, &u64s(1 << 40))),
        ("logical sector size", with(&file, items + 32, &1024u32.to_le_bytes())),
        ("physical sector size", with(&file, items + 36, &0u32.to_le_bytes())),
        ("state that is not reserved", entry(5, 4 | (end - MIB))),
        ("state that is not reserved", entry(5, 5)),
        ("partially present", entry(5, 7 | (end - MIB))),
        ("inside the file", entry(5, 6 | end)),
        ("inside the file", entry(5, 6 | 0xFFF_FFFF_FFFF << 20)),
        ("inside the file", short),
        ("header section", entry(5, 6)),
        ("in the log or a region", entry(5, 6 | places.log)),
        ("in the log or a region", entry(5, 6 | places.metadata)),
        ("does not overlap block", entry(5, first)),
        ("does not overlap block", entry(5, first - 3)),
    ];
    for (words, file) in cases {
        let error = open_error(file);
        assert_eq!(error.kind(), Kind::InvalidImage, "{words}");
        // A table of no length is too short for its entries; elsewhere words are exact.
        let told = if *words == "too short" { "at least" } else { words };
        assert!(error.to_string().contains(told), "{words}: {error}");
        assert!(error.offset().is_some(), "{words}: {error}");
        assert!(findings(file).iter().any(|f| f.severity == Severity::Error), "{words}");
        assert!(repair(file).is_err(), "{words}");
    }
}

#[test]
fn a_bitmap_in_an_image_without_a_parent_is_refused() {
    let shape = Shape {
        block_mib: 256,
        blocks: 40,
        order: vec![(20, FULL, 0), (3, FULL, 1)],
        ..shape()
    };
    let (file, places) = shape.build(&[]);
    assert_eq!(findings(&file), []);
    assert_eq!(shape.ratio(), 16);
    let bitmap = places.bat + 16 * 8;
    let gap = file.len - 257 * MIB;
    for (raw, words) in
        [(6 | gap, "no sector bitmap"), (1 | gap, "not reserved"), (7, "not reserved")]
    {
        let error = open_error(&with(&file, bitmap, &u64::to_le_bytes(raw)));
        assert!(error.to_string().contains(words), "{error}");
    }
    let odd = findings(&with(&file, bitmap, &u64::to_le_bytes(gap)));
    assert!(has(&odd, Severity::Note, "not there"), "{odd:?}");
}

#[test]
fn what_costs_nobody_anything_is_a_note() {
    let (file, places) = shape().build(&[]);
    let block_5 = places.bat + 5 * 8;
    for (words, file) in [
        ("header reserved", with_headers(&file, 100, &[1])),
        ("header log version", with_headers(&file, 64, &[1])),
        ("region table reserved", with_regions(&file, 12, &[1])),
        ("required field", with_regions(&file, 16 + 28, &[2])),
        ("metadata table reserved", with(&file, places.metadata + 20, &[1])),
        ("metadata entry reserved", with(&file, places.metadata + 32 + 25, &[1])),
        ("reserved bits", with(&file, places.metadata + 65_536 + 4, &[4])),
        ("bits 3 to 19", with(&file, block_5 + 1, &[1])),
        ("no place for a block", with(&file, block_5, &u64::to_le_bytes(2 | (7 * MIB)))),
        ("ends before the file does", {
            let mut file = file.clone();
            file.set_len(file.len - 5000);
            file
        }),
    ] {
        let found = findings(&file);
        assert!(has(&found, Severity::Note, words), "{words}: {found:?}");
        assert!(found.iter().all(|f| f.severity == Severity::Note), "{words}: {found:?}");
        assert_eq!(open(&file).unwrap().facts().blocks_allocated, 6, "{words}");
    }
}

#[test]
fn a_block_that_the_file_cuts_short_ends_in_zeros() {
    let shape = shape();
    let (mut file, _) = shape.build(&[]);
    let whole = open(&file).unwrap();
    // Block 4 is the last one of the file.
    file.set_len(file.len - 4096 - 100);
    let cut = open(&file).unwrap();
    let at = 5 * MIB - 8192;
    assert_eq!(guest(&*cut, at - MIB / 2, 4096), guest(&*whole, at - MIB / 2, 4096));
    let (a, b) = (guest(&*cut, at, 8192), guest(&*whole, at, 8192));
    assert_eq!(a[..4096 - 100], b[..4096 - 100]);
    assert!(a[4096 - 100..].iter().all(|byte| *byte == 0) && b[4097..] != a[4097..]);
    assert_eq!(
        cut.layout().unwrap().end_of_data(),
        whole.layout().unwrap().end_of_data()
    );
}

#[test]
fn blocks_that_were_given_up_read_as_zeros_wherever_they_lie() {
    let states = [1, 2, UNMAPPED];
    let mut shape = shape();
    shape.order = vec![(0, 1, 0), (1, UNMAPPED, 0), (2, FULL, 0)];
    shape.entries = vec![(3, 0), (4, 1), (5, 2), (6, UNMAPPED)];
    let (file, _) = shape.build(&[]);
    let image = open(&file).unwrap();
    for (block, allocated, zeros) in [
        (0, true, true),
        (1, true, true),
        (2, true, false),
        (3, false, false),
        (4, false, true),
        (5, false, true),
        (6, false, true),
        (10, false, false),
    ] {
        assert_eq!(image.is_allocated(block), allocated, "{block}");
        assert_eq!(image.reads_as_zeros(block), zeros, "{block}");
        if block != 2 && block < 10 {
            let mut data = vec![9; MIB as usize];
            image.read_block(block, 0, &mut data).unwrap();
            assert!(data.iter().all(|byte| *byte == 0), "{block} {states:?}");
            assert_eq!(image.next_data_in_block(block, 0).unwrap(), None);
        }
    }
    assert_eq!(image.facts().blocks_allocated, 3);
}

#[test]
fn a_fixed_image_is_of_the_wrong_type() {
    let (file, _) = Shape { flags: 1, ..shape() }.build(&[]);
    let image = open(&file).unwrap();
    assert_eq!(image.facts().image_type, ImageType::Fixed);
    assert!(image.layout().is_none());
    let error = image.compactable().unwrap_err();
    assert_eq!(error.kind(), Kind::WrongImageType);
    assert!(error.what().contains("only an expanding image"));
    assert_eq!(guest(&*image, 7 * MIB, 4096), shape().data(7)[0].1);
}

#[test]
fn an_unknown_region_is_named_and_kept() {
    let shape = Shape { unknown: Some(false), unknown_before: 3, ..shape() };
    let (file, places) = shape.build(&[]);
    assert_eq!(findings(&file), []);
    let image = open(&file).unwrap();
    assert!(image.facts().details.iter().any(|(name, _)| *name == "unknown region"));
    let at = places.unknown.unwrap();
    assert!(image.layout().unwrap().reserved.covers(&(at..at + MIB)));
}

/// Random damage in all that is no block, with checksums that hold again half the time.
#[test]
fn no_bytes_make_it_panic_or_hang() {
    let mut noise = Noise::new(3);
    let mut shapes = [shape(), chain::child_shape(512), chain::child_shape(4096)];
    shapes[0].unknown = Some(false);
    let built: Vec<(Pages, Places)> = shapes.iter().map(|s| s.build(&[])).collect();
    let (mut opened, mut refused) = (0, 0);
    for round in 0..6000 {
        let (whole, places) = &built[round % 3];
        let mut file = whole.clone();
        for _ in 0..=noise.below(3) {
            let (at, len) = match noise.below(6) {
                0 => (64 << 10, 80),
                1 => (192 << 10, 128),
                2 => (places.metadata, 256),
                3 => (places.metadata + (64 << 10), 600),
                _ => (places.bat, 100),
            };
            let at = at + noise.below(len);
            let byte = noise.next() as u8;
            file.write(at, &[if noise.below(2) == 0 { byte } else { byte & 7 }]);
        }
        if noise.below(8) > 0 {
            file = with_regions(&with_headers(&file, 0, b"head"), 0, b"regi");
        }
        if noise.below(4) == 0 {
            file.set_len(file.len - noise.below(3) * noise.below(MIB));
        }
        let sound = findings(&file).iter().all(|f| f.severity != Severity::Error);
        match open(&file) {
            Ok(image) => {
                assert!(sound);
                opened += 1;
                let mut buf = vec![0; image.len().min(9000) as usize];
                let _ = image.read_at(0, &mut buf);
                let _ = image.next_data(0);
                let _ = image.parent_link().unwrap();
                if let Some(layout) = image.layout() {
                    assert!(
                        layout.extents.windows(2).all(|pair| {
                            layout.range_of(&pair[0]).end <= pair[1].place
                        })
                    );
                }
                let (_, after) = repair(&file).unwrap();
                let left = findings(&after);
                assert!(left.iter().all(|f| f.severity == Severity::Note), "{left:?}");
            }
            Err(error) => {
                assert!(!sound && error.kind() == Kind::InvalidImage, "{error}");
                refused += 1;
            }
        }
    }
    assert!(opened > 500 && refused > 500, "{opened} opened, {refused} refused");
}
