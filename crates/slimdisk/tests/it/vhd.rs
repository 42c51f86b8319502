//! Every variant of VHD there is, and every one that is refused by name.

use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;

use slimdisk::Kind;
use slimdisk::compact::Verdict;
use slimdisk::compact::plan::plan;
use slimdisk::compact::run::run;
use slimdisk::image::{self, Finding, Format, ImageType, Severity};
use slimdisk::storage::HostFile;

use crate::faults::MemFile;
use crate::support::{Noise, Scratch, have, sh};
use crate::vhd_model::{Shape, read_strictly, set_checksum};

/// Ten blocks of 8 KiB, six of them there, in the order of the file.
fn shape() -> Shape {
    Shape {
        block_size: 8192,
        blocks: 10,
        order: [7, 0, 3, 9, 1, 4].map(|block| (block, 0)).to_vec(),
        aligned: false,
        spare_entries: 0,
        batmap: false,
        creator: *b"qemu",
        seed: 11,
    }
}

/// Compacts with the given blocks free and returns the file.
fn compact(file: Vec<u8>, free: &[u32]) -> Vec<u8> {
    let storage = Arc::new(MemFile::new(file));
    let mut image = image::open(storage.clone()).unwrap();
    let verdicts: Vec<Verdict> = (0..image.facts().blocks_total)
        .map(|block| match (image.is_allocated(block), free.contains(&block)) {
            (false, _) => Verdict::Absent,
            (true, true) => Verdict::Free,
            (true, false) => Verdict::Live,
        })
        .collect();
    let plan = plan(&image.layout().unwrap(), &verdicts);
    run(&mut *image, &plan, 1 << 20, &mut |_| ControlFlow::Continue(())).unwrap();
    storage.bytes()
}

fn open_error(file: Vec<u8>) -> slimdisk::Error {
    match image::open(Arc::new(MemFile::new(file))) {
        Ok(_) => panic!("an unsound image was opened"),
        Err(error) => error,
    }
}

fn findings(file: &[u8]) -> Vec<Finding> {
    image::vhd::Vhd.check(&file.to_vec()).unwrap()
}

fn has(findings: &[Finding], severity: Severity, words: &str) -> bool {
    findings.iter().any(|f| f.severity == severity && f.to_string().contains(words))
}

#[test]
fn a_sound_image_has_no_findings_and_compacts_to_what_its_blocks_need() {
    let shape = shape();
    let file = shape.build(&[]);
    assert_eq!(findings(&file), []);
    let after = compact(file.clone(), &[0, 9]);
    assert_eq!(after.len(), file.len() - 2 * (8192 + 512));
    let blocks = read_strictly(&after).unwrap();
    for block in [7, 3, 1, 4] {
        let found = blocks[block as usize].as_ref().unwrap();
        assert_eq!(
            (found.data, found.bitmap),
            (&*shape.data(block), &*shape.bitmap(block))
        );
    }
    assert!(blocks[0].is_none() && blocks[9].is_none());
    assert_eq!(findings(&after), []);
    // Identity, times, geometry and creator are as they were.
    assert_eq!(after[..512], file[..512]);
    assert_eq!(after[512..1536], file[512..1536]);
}

#[test]
fn alignment_is_preserved_where_the_image_had_it() {
    let shape = Shape { aligned: true, creator: *b"win ", ..shape() };
    let file = shape.build(&[]);
    assert_eq!(file.len() % 4096, 0);
    let after = compact(file, &[7, 3]);
    assert_eq!(after.len() % 4096, 0);
    for block in read_strictly(&after).unwrap().into_iter().flatten() {
        assert_eq!((block.place + 512) % 4096, 0);
    }
    // The first bitmap ends the headers' page, the footer ends a page of its own.
    assert_eq!(after.len(), 4 * (8192 + 4096) + 4096);
}

#[test]
fn everything_free_leaves_the_headers() {
    let after = compact(shape().build(&[]), &[7, 0, 3, 9, 1, 4]);
    assert_eq!(after.len(), 512 + 1024 + 512 + 512);
    assert!(read_strictly(&after).unwrap().iter().all(Option::is_none));
}

#[test]
fn either_footer_serves_when_the_other_is_damaged() {
    let shape = shape();
    let whole = shape.build(&[]);
    for at in [whole.len() - 500, 12] {
        let mut file = whole.clone();
        file[at] ^= 0xFF;
        let found = findings(&file);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].severity, Severity::Damaged);

        let image = image::open(Arc::new(MemFile::new(file.clone()))).unwrap();
        assert_eq!(image.facts().blocks_allocated, 6);
        assert_eq!(image.facts().notes.len(), 1);

        // Compacting leaves both sound.
        let after = compact(file.clone(), &[4]);
        read_strictly(&after).unwrap();

        // Repairing brings back the very same file.
        let storage = MemFile::new(file);
        let mended = image::vhd::Vhd.repair(&storage).unwrap();
        assert_eq!(mended.len(), 1);
        assert_eq!(storage.bytes(), whole);
    }
    let mut both = whole.clone();
    both[12] ^= 0xFF;
    let end = both.len() - 500;
    both[end] ^= 0xFF;
    assert!(has(&findings(&both), Severity::Error, "footer checksum"));
    assert_eq!(open_error(both.clone()).kind(), Kind::InvalidImage);
    assert!(image::vhd::Vhd.repair(&MemFile::new(both)).is_err());
}

#[test]
fn a_footer_that_was_cut_off_is_put_back_behind_the_data() {
    let whole = shape().build(&[]);
    let cut = whole[..whole.len() - 512].to_vec();
    assert!(has(&findings(&cut), Severity::Damaged, "footer at the end"));
    let storage = MemFile::new(cut);
    image::vhd::Vhd.repair(&storage).unwrap();
    read_strictly(&storage.bytes()).unwrap();
    let blocks = storage.bytes();
    assert!(blocks.len() >= whole.len() - 512);
}

#[test]
fn the_short_footer_of_old_images_is_read() {
    let whole = shape().build(&[]);
    let short = whole[..whole.len() - 1].to_vec();
    let found = findings(&short);
    assert!(has(&found, Severity::Note, "511 bytes"), "{found:?}");
    assert!(found.iter().all(|f| f.severity == Severity::Note));
    let after = compact(short, &[1]);
    read_strictly(&after).unwrap();
    assert_eq!(after.len(), whole.len() - 8192 - 512);
}

#[test]
fn a_larger_table_keeps_its_spare_entries() {
    let shape = Shape { spare_entries: 300, ..shape() };
    let file = shape.build(&[]);
    let found = findings(&file);
    assert!(has(&found, Severity::Note, "310 for 10 blocks"), "{found:?}");
    let after = compact(file.clone(), &[0]);
    assert_eq!(read_strictly(&after).unwrap().len(), 310);
    assert_eq!(after.len(), file.len() - 8192 - 512);
}

#[test]
fn a_batmap_loses_the_bits_of_released_blocks() {
    let shape = Shape { batmap: true, creator: *b"tap\0", ..shape() };
    let file = shape.build(&[]);
    let after = compact(file.clone(), &[0, 4]);
    // The strict reader believes the map only if its checksum holds.
    read_strictly(&after).unwrap();
    let map = |file: &[u8]| file[0x600 + 512 + 512..][..2].to_vec();
    assert_eq!(map(&file), [0b1101_1001, 0b0100_0000]);
    assert_eq!(map(&after), [0b0101_0001, 0b0100_0000]);
    assert_eq!(findings(&after), []);

    // A map that nobody believes is not made believable.
    let mut damaged = file.clone();
    damaged[0x600 + 512 + 24] ^= 1;
    damaged[0x600 + 512 + 512 + 1] |= 1;
    let after = compact(damaged, &[0]);
    read_strictly(&after).unwrap();
    assert_eq!(map(&after), [0, 0]);
    assert_eq!(findings(&after), []);

    for (at, byte) in [(21, 2), (12, 0xF0), (19, 0)] {
        let mut unknown = file.clone();
        unknown[0x600 + 512 + at] = byte;
        let error = open_error(unknown);
        assert!(error.to_string().contains("batmap header"), "{error}");
    }

    let mut encrypted = file;
    encrypted[0x600 + 512 + 29] = 1;
    let image = image::open(Arc::new(MemFile::new(encrypted))).unwrap();
    let error = image.compactable().unwrap_err();
    assert_eq!(error.kind(), Kind::WrongImageType);
    assert!(error.what().contains("encrypted"));
}

#[test]
fn block_sizes_from_4_kib_to_256_mib() {
    for shift in 12..=28 {
        let block_size = 1usize << shift;
        let shape = Shape { block_size, order: vec![], ..shape() };
        let image = image::open(Arc::new(MemFile::new(shape.build(&[])))).unwrap();
        assert_eq!(image.facts().block_size, block_size as u64);
        assert_eq!(image.len(), 10 * block_size as u64);
    }
    // 2 MiB with real data, both ways.
    let shape =
        Shape { block_size: 2 << 20, blocks: 3, order: vec![(2, 0), (0, 5)], ..shape() };
    let after = compact(shape.build(&[]), &[2]);
    let blocks = read_strictly(&after).unwrap();
    assert_eq!(blocks[0].as_ref().unwrap().data, &*shape.data(0));
}

/// Changes one footer field in both copies, with a new checksum.
fn with_footer(mut file: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut footer = file[..512].to_vec();
    footer[at..at + bytes.len()].copy_from_slice(bytes);
    set_checksum(&mut footer, 64);
    file[..512].copy_from_slice(&footer);
    let end = file.len() - 512;
    file[end..].copy_from_slice(&footer);
    file
}

fn with_header(mut file: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    file[512 + at..512 + at + bytes.len()].copy_from_slice(bytes);
    set_checksum(&mut file[512..1536], 36);
    file
}

/// Enters where a parent locator's data lies.
fn with_locator(file: Vec<u8>, space: u32, offset: u64) -> Vec<u8> {
    let mut locator = b"W2ru".to_vec();
    locator.extend(space.to_be_bytes());
    locator.extend([0; 8]);
    locator.extend(offset.to_be_bytes());
    with_header(file, 576, &locator)
}

fn with_entry(mut file: Vec<u8>, block: usize, sector: u32) -> Vec<u8> {
    file[0x600 + block * 4..][..4].copy_from_slice(&sector.to_be_bytes());
    file
}

/// A batmap whose map is the file's last sector, that is the footer.
fn with_batmap_on_footer() -> Vec<u8> {
    let shape = Shape { batmap: true, creator: *b"tap\0", ..shape() };
    let mut file = shape.build(&[]);
    let last = file.len() as u64 - 512;
    file[0x600 + 512 + 8..][..8].copy_from_slice(&last.to_be_bytes());
    file
}

#[test]
fn unsound_images_are_refused_by_name() {
    let file = || shape().build(&[]);
    let first = u32::from_be_bytes(file()[0x600 + 28..][..4].try_into().unwrap());
    let poison = {
        let mut file = file();
        file[..8].copy_from_slice(b"v_poison");
        let end = file.len() - 512;
        file[end..end + 8].copy_from_slice(b"v_poison");
        file
    };
    let end_sector = (file().len() / 512) as u32;
    let half = file()[..file().len() / 2].to_vec();
    let cases: &[(&str, Vec<u8>)] = &[
        ("v_poison", poison),
        ("too small", with_header(file(), 28, &9u32.to_be_bytes())),
        ("does not overlap block 7", with_entry(file(), 5, first + 1)),
        // By its last sector alone: a block takes 17.
        ("does not overlap block 7", with_entry(file(), 5, first + 16)),
        ("does not overlap block 5", with_entry(file(), 5, first)),
        ("end of the file's data", with_entry(file(), 5, end_sector - 2)),
        ("end of the file's data", with_entry(file(), 5, 0x7FFF_FFFF)),
        ("first part of a split image", half),
        ("no header or table", with_entry(file(), 5, 0)),
        ("no header or table", with_entry(file(), 5, 3)),
        (
            "structures that do not overlap",
            with_header(file(), 16, &1024u64.to_be_bytes()),
        ),
        ("end of the file's data", with_batmap_on_footer()),
        ("table offset", with_header(file(), 16, &(1u64 << 40).to_be_bytes())),
        ("table offset", with_header(file(), 16, &0x601u64.to_be_bytes())),
        ("block size", with_header(file(), 32, &(3u32 << 12).to_be_bytes())),
        ("block size", with_header(file(), 32, &0u32.to_be_bytes())),
        ("block size", with_header(file(), 32, &(1u32 << 29).to_be_bytes())),
        ("parent locator", with_locator(file(), 512, u64::MAX - 700)),
        ("parent locator", with_locator(file(), 1, u64::from(end_sector) * 512)),
        ("parent locator", with_locator(file(), u32::MAX, 0x1000)),
        (
            "no header or table",
            with_locator(file(), 512, u64::from(end_sector - 3) * 512),
        ),
        ("max table entries", with_header(file(), 28, &u32::MAX.to_be_bytes())),
        ("header version", with_header(file(), 24, &[0, 2, 0, 0])),
        ("header cookie", with_header(file(), 0, b"cxsparsf")),
        ("data offset", with_footer(file(), 16, &u64::MAX.to_be_bytes())),
        ("disk type", with_footer(file(), 60, &9u32.to_be_bytes())),
        ("header checksum", {
            let mut file = file();
            file[512 + 40] ^= 1;
            file
        }),
        ("two sound footers that differ", {
            let mut other = with_footer(file(), 68, &[1; 16]);
            other.truncate(other.len() - 512);
            other.extend(shape().footer());
            other
        }),
    ];
    for (words, file) in cases {
        let error = open_error(file.clone());
        assert_eq!(error.kind(), Kind::InvalidImage, "{words}");
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert!(error.offset().is_some(), "{words}: {error}");
        assert!(findings(file).iter().any(|f| f.severity == Severity::Error), "{words}");
    }
}

#[test]
fn sound_images_of_the_wrong_type_say_so() {
    let saved = with_footer(shape().build(&[]), 84, &[1]);
    let image = image::open(Arc::new(MemFile::new(saved))).unwrap();
    let error = image.compactable().unwrap_err();
    assert_eq!(error.kind(), Kind::WrongImageType);
    assert!(error.what().contains("saved state"));

    let child = with_footer(shape().build(&[]), 60, &4u32.to_be_bytes());
    let name: Vec<u8> =
        "C:\\disks\\base.vhd".encode_utf16().flat_map(u16::to_be_bytes).collect();
    let child = with_header(child, 64, &name);
    let mut image = image::open(Arc::new(MemFile::new(child.clone()))).unwrap();
    assert_eq!(image.facts().image_type, ImageType::Differencing);
    assert_eq!(image.facts().parent.as_deref(), Some("C:\\disks\\base.vhd"));
    assert_eq!(image.compactable().unwrap_err().kind(), Kind::ParentNotFound);
    assert!(image.read_at(0, &mut [0; 512]).is_err());
    assert!(findings(&child).iter().all(|f| f.severity == Severity::Note));

    let mut fixed = vec![0x5A; 8192];
    let mut footer = shape().footer();
    footer[48..56].copy_from_slice(&8192u64.to_be_bytes());
    footer[16..24].fill(0xFF);
    footer[60..64].copy_from_slice(&2u32.to_be_bytes());
    set_checksum(&mut footer, 64);
    fixed.extend(&footer);
    image = image::open(Arc::new(MemFile::new(fixed))).unwrap();
    assert_eq!((image.facts().image_type, image.len()), (ImageType::Fixed, 8192));
    let error = image.compactable().unwrap_err();
    assert_eq!(error.kind(), Kind::WrongImageType);
    assert!(error.what().contains("only an expanding image"));
}

#[test]
fn data_under_a_clear_bit_is_kept_and_told() {
    let mut file = shape().build(&[]);
    // Block 7 is the first in the file, its bitmap right behind the table.
    file[0x800] = 0b0111_1111;
    let found = findings(&file);
    assert!(has(&found, Severity::Note, "sector 0 of block 7"), "{found:?}");
    let image = image::open(Arc::new(MemFile::new(file))).unwrap();
    let mut sector = [0; 512];
    image.read_at(7 * 8192, &mut sector).unwrap();
    assert_eq!(sector, shape().data(7)[..512]);
}

/// Compacts an image of any kind with random blocks free; each block that is live
/// reads as before. Whether anything was done.
fn keeps_what_is_live(storage: Arc<MemFile>, noise: &mut Noise) -> bool {
    let mut image = image::open(storage.clone()).unwrap();
    let size = image.facts().block_size as usize;
    let read = |image: &dyn image::Image, block| {
        let mut data = vec![0; size];
        image.read_block(block, 0, &mut data).unwrap();
        data
    };
    let blocks = image.facts().blocks_total;
    let mut live = Vec::new();
    let verdicts: Vec<Verdict> = (0..blocks)
        .map(|block| match (image.is_allocated(block), noise.below(2)) {
            (false, _) => Verdict::Absent,
            (true, 0) => Verdict::Free,
            (true, _) => {
                live.push((block, read(&*image, block)));
                Verdict::Live
            }
        })
        .collect();
    let plan = plan(&image.layout().unwrap(), &verdicts);
    run(&mut *image, &plan, 1, &mut |_| ControlFlow::Continue(())).unwrap();
    let after = image::open(storage).unwrap();
    assert_eq!(after.facts().blocks_allocated as usize, live.len());
    for (block, data) in live {
        assert!(read(&*after, block) == data, "block {block} changed");
    }
    !plan.is_empty()
}

#[test]
fn no_bytes_make_it_panic_or_hang() {
    let shape = Shape { batmap: true, creator: *b"tap\0", ..shape() };
    let whole = shape.build(&[]);
    let mut noise = Noise::new(3);
    let (mut opened, mut compacted) = (0, 0);
    for _ in 0..20_000 {
        let mut file = whole.clone();
        for _ in 0..=noise.below(3) {
            let at = noise.below(0x800 + 1024) as usize;
            file[at] = noise.next() as u8;
        }
        if noise.below(2) == 0 {
            set_checksum(&mut file[512..1536], 36);
            set_checksum(&mut file[..512], 64);
        }
        file.truncate(file.len() - (noise.below(4) * noise.below(4000)) as usize);
        let _ = findings(&file);
        let storage = Arc::new(MemFile::new(file));
        if let Ok(image) = image::open(storage.clone()) {
            opened += 1;
            let mut buf = vec![0; image.len().min(4096) as usize];
            let _ = image.read_at(0, &mut buf);
            if image.compactable().is_ok() {
                compacted += u32::from(keeps_what_is_live(storage, &mut noise));
            }
        }
    }
    assert!(compacted > 1000, "only {compacted} variants were compacted");
    assert!(opened > 1000, "only {opened} variants were opened");
}

/// Conformance: the guest's bytes are those that qemu reads.
#[test]
fn reads_what_qemu_reads() {
    let test = "reads_what_qemu_reads";
    if !have(test, &["qemu-img"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let (raw, vhd) = (scratch.path("disk.raw"), scratch.path("disk.vhd"));
    let mut noise = Noise::new(5);
    let mut disk = vec![0u8; 40 << 20];
    for _ in 0..30 {
        let at = noise.below(39 << 20) as usize;
        let len = 1 + noise.below(100_000) as usize;
        let bytes = noise.bytes(len);
        disk[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    fs::write(&raw, &disk).unwrap();
    for option in ["", "-o force_size=on"] {
        sh(&format!(
            "qemu-img convert -f raw -O vpc {option} {} {}",
            raw.display(),
            vhd.display()
        ));
        let image = image::open(Arc::new(HostFile::open_read(&vhd).unwrap())).unwrap();
        let back = scratch.path("back.raw");
        sh(&format!(
            "qemu-img convert -f vpc -O raw {} {}",
            vhd.display(),
            back.display()
        ));
        let theirs = fs::read(&back).unwrap();
        assert_eq!(image.len(), theirs.len() as u64, "{option}");
        let mut ours = vec![0; theirs.len()];
        image.read_at(0, &mut ours).unwrap();
        assert!(ours == theirs, "{option}: the guest's bytes differ");
        // Holes are told truly: what next_data skips is zero.
        let mut at = 0;
        while let Some(data) = image.next_data(at).unwrap() {
            assert!(theirs[at as usize..data.start as usize].iter().all(|b| *b == 0));
            at = data.end;
        }
        assert!(theirs[at as usize..].iter().all(|b| *b == 0));
    }
}
