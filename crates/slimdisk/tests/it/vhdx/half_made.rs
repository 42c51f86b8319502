//! Power cuts while a VHDX is made: the file is whole, or no image at all.

use std::time::SystemTime;

use slimdisk::image::vhdx::Vhdx;
use slimdisk::image::{Format, ImageType, NewImage};

use crate::power_cut::{Growth, Op, Recorder, Tear, power_cut};
use crate::support::Noise;
use crate::vhdx_model::{FULL, MIB, Pages, read_strictly};

const SIZE: u64 = 9 * MIB + 4096;

/// The file comes to be by what is written to it.
const GROWING: (Tear, Growth) = (Tear::Changes, Growth::LengthFirst);

/// Parts of the disk that are not zeros.
fn parts() -> Vec<(u64, Vec<u8>)> {
    let mut noise = Noise::new(5);
    [(MIB, 4096), (4 * MIB + 512, 70_000), (9 * MIB, 4096)]
        .map(|(at, len)| (at, noise.bytes(len)))
        .to_vec()
}

/// The file before anything is written, and all that is done to it.
fn make(image_type: ImageType) -> (Pages, Vec<Op>) {
    let new = NewImage {
        image_type,
        size: SIZE,
        block_size: Some(MIB),
        sector_size: 512,
        physical_sector_size: None,
        geometry: None,
        parent: None,
        blank: false,
        unique_id: [9; 16],
        disk_id: None,
        time: SystemTime::now(),
    };
    let mut before = Pages::default();
    if image_type == ImageType::Fixed {
        before.set_len(Vhdx.max_len(&new));
    }
    let recorder = Recorder::new(before.clone());
    let mut writer = Vhdx.create(recorder.clone(), &new).unwrap();
    for (at, data) in parts() {
        writer.write(at, &data).unwrap();
    }
    writer.finish().unwrap();
    let ops = recorder.ops();
    (before, ops)
}

/// Whether it is an image. One that is must be whole.
fn judge(file: &Pages) -> Result<bool, String> {
    if file.len < 8 || file.get(0, 8) != b"vhdxfile" {
        return Ok(false);
    }
    let model = read_strictly(file)?;
    let mut disk = Pages::default();
    disk.set_len(SIZE);
    for (at, data) in parts() {
        disk.write(at, &data);
    }
    if (model.disk_size, model.block_len) != (SIZE, MIB) {
        return Err("another disk".to_owned());
    }
    for (start, (state, place)) in (0..).step_by(1 << 20).zip(&model.blocks) {
        let len = (SIZE - start).min(MIB);
        let same = match *state {
            FULL => file.same(*place, &disk, start, len),
            2 => disk.is_zero(start, len),
            _ => false,
        };
        if !same {
            return Err(format!("the block at {start:#x} is another"));
        }
    }
    Ok(true)
}

/// The first state that must not be.
fn fault(before: &Pages, ops: &[Op], noise: &mut Noise) -> Option<String> {
    for at in 0..=ops.len() {
        for _ in 0..8 {
            match judge(&power_cut(before, &ops[..at], GROWING, noise)) {
                Ok(false) if at == ops.len() => return Some("it was lost".to_owned()),
                Ok(_) => {}
                Err(what) => return Some(format!("after {at}: {what}")),
            }
        }
    }
    None
}

#[test]
fn a_new_image_is_whole_or_none() {
    let mut noise = Noise::new(77);
    for image_type in [ImageType::Dynamic, ImageType::Fixed] {
        let (before, ops) = make(image_type);
        for _ in 0..20 {
            assert_eq!(fault(&before, &ops, &mut noise), None, "{image_type:?}");
        }
        // With any of the flushes left out it is not, and not with the identifier first.
        let flushes: Vec<usize> =
            (0..ops.len()).filter(|at| matches!(ops[*at], Op::Flush)).collect();
        assert!(flushes.len() >= 2);
        for at in flushes {
            let mut without = ops.clone();
            without.remove(at);
            let caught = (0..50).any(|_| fault(&before, &without, &mut noise).is_some());
            assert!(caught, "{image_type:?}: the flush {at} of {} is idle", ops.len());
        }
        let identifier = |op: &Op| matches!(op, Op::Write { offset: 0, .. });
        let at = ops.iter().position(identifier).unwrap();
        let mut early = ops.clone();
        let identifier = early.remove(at);
        early.insert(0, identifier);
        let caught = (0..50).any(|_| fault(&before, &early, &mut noise).is_some());
        assert!(caught, "{image_type:?}: the identifier may come first");
    }
}
