//! The log of a VHDX: entries of any kind at any place of its ring, whole, torn, of
//! this session or another, with numbers and tails the input chooses.
//!
//! What must hold, whatever the bytes:
//!
//! - no panic; opening writes nothing and reads at most four times what the file holds;
//! - what opens is what a reader makes of the file that follows the seven steps of the
//!   specification (MS-VHDX 2.3.3) one by one and shares no code with the library: as
//!   long a file, the same entries of the block allocation table, the same bytes of the
//!   guest's disk;
//! - what opens can be replayed for good, is then the same, and needs no replay any more;
//! - what that reader refuses is refused.
#![no_main]

use std::sync::Arc;

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use slimdisk::image::Format;
use slimdisk::image::vhdx::Vhdx;
use slimdisk_fuzz::faults::MemFile;
use slimdisk_fuzz::vhdx_model::{FULL, LogEntry, MIB, PAGE, Pages, Shape, read_strictly};

const ID: [u8; 16] = [0x10; 16];

fn build(input: &mut Unstructured<'_>) -> arbitrary::Result<Pages> {
    let order = [(2, FULL, 0), (0, FULL, 0)].to_vec();
    let shape = Shape { blocks: 4, order, ..Shape::default() };
    let (mut file, places) = shape.build(&[]);
    let ring = MIB / PAGE;
    for _ in 0..input.int_in_range(0..=8)? {
        let at = u64::from(input.arbitrary::<u8>()?) % ring;
        let number = input.int_in_range(1..=12u64)?;
        let tail = match input.arbitrary::<u8>()? {
            0..128 => at,
            other => u64::from(other),
        };
        let mut entry = LogEntry::default();
        for _ in 0..input.int_in_range(0..=3)? {
            let target = match input.arbitrary::<u8>()? % 8 {
                0..4 => places.bat,
                4 => file.len - PAGE,
                5 => file.len + PAGE * u64::from(input.arbitrary::<u8>()?),
                6 => places.metadata + PAGE * u64::from(input.arbitrary::<u8>()? % 20),
                // The file is held in memory: 16 MiB of it.
                _ => PAGE * u64::from(input.arbitrary::<u16>()? % 4096),
            };
            if input.arbitrary()? {
                entry.zeros.push((target, PAGE * u64::from(input.arbitrary::<u8>()? % 5)));
            } else {
                let mut page = file.get(target, 4096);
                let block = usize::from(input.arbitrary::<u8>()? % 5);
                let state = u64::from(input.arbitrary::<u8>()? % 8);
                let place = u64::from(input.arbitrary::<u8>()? % 9) * MIB;
                page[block * 8..][..8].copy_from_slice(&(place | state).to_le_bytes());
                entry.pages.push((target, page));
            }
        }
        if input.arbitrary::<u8>()? < 32 {
            entry.last = Some(MIB * u64::from(input.arbitrary::<u8>()? % 32));
        }
        if input.arbitrary::<u8>()? < 16 {
            entry.flushed = Some(MIB * u64::from(input.arbitrary::<u8>()? % 32));
        }
        let id = if input.arbitrary::<u8>()? < 24 { [0x22; 16] } else { ID };
        let mut bytes = entry.bytes(number, (tail % ring * PAGE) as u32, id, file.len);
        if input.arbitrary::<u8>()? < 24 {
            let at = usize::from(input.arbitrary::<u16>()?) % bytes.len();
            bytes[at] ^= input.arbitrary::<u8>()?;
        }
        for (offset, page) in (0u64..).zip(bytes.chunks(4096)) {
            file.write(places.log + (at + offset) % ring * PAGE, page);
        }
    }
    for (at, number) in [(64 << 10, 9), (128 << 10, 10)] {
        file.write(at, &shape.header(&places, number, ID));
    }
    Ok(file)
}

fuzz_target!(|data: &[u8]| {
    let Ok(file) = build(&mut Unstructured::new(data)) else { return };
    let bytes = file.bytes();
    let storage = Arc::new(MemFile::new(bytes.clone()));
    let theirs = read_strictly(&file);
    let ours = Vhdx.open(storage.clone());
    assert!(storage.bytes() == bytes, "opening has written");
    let (model, image) = match (theirs, ours) {
        (Ok(model), Ok(image)) => (model, image),
        // The library refuses more: what touches the headers or the log, say.
        (_, Err(_)) => {
            assert!(Vhdx.repair(&*storage).is_err());
            return;
        }
        // And lets pass what costs nobody anything.
        (Err(what), Ok(_)) => {
            let harmless = ["whole MiB", "has a place", "ends behind", "reserved bits"];
            assert!(harmless.iter().any(|known| what.contains(known)), "{what}");
            return;
        }
    };
    assert_eq!(image.layout().expect("dynamic").file_len, model.file.len);
    let disk = |image: &dyn slimdisk::image::Image| {
        let mut bytes = vec![0; image.len() as usize];
        image.read_at(0, &mut bytes).expect("inside the disk");
        bytes
    };
    let shown = disk(&*image);
    assert_eq!(shown.len() as u64, model.disk_size);
    for (number, (state, place)) in model.blocks.iter().enumerate() {
        let at = number * model.block_len as usize;
        let part = &shown[at..shown.len().min(at + model.block_len as usize)];
        if *state == FULL {
            assert!(part == model.file.get(*place, part.len()), "block {number}");
        } else {
            assert!(part.iter().all(|byte| *byte == 0), "block {number}");
        }
    }
    Vhdx.repair(&*storage).expect("an image without errors");
    let after = Pages::from_bytes(&storage.bytes());
    let now = read_strictly(&after).expect("a sound image");
    assert!(!now.replayed && now.blocks == model.blocks && after.len == model.file.len);
    assert!(disk(&*Vhdx.open(storage).expect("a sound image")) == shown);
});
