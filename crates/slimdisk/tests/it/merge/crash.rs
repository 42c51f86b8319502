//! Power cuts at every instant of a merge.
//!
//! As in `crate::crash`, but that a file may grow. The file that is written to is the
//! parent; judged is what the child shows, and that each sector of the parent alone is
//! as it was or as it will be.

use std::sync::Arc;

use slimdisk::image;
use slimdisk::storage::Storage;

use super::merge;
use crate::chain::slices;
use crate::chain_model::{Child, fixed, id_in, random_bits, read_chain};
use crate::faults::MemFile;
use crate::power_cut::{Growth, Op, Recorder, Tear, apply, power_cut};
use crate::support::Noise;
use crate::vhd_model::{SECTOR, Shape, read_strictly, set_checksum};

/// A state that the disk may be in if power fails after `ops[..at]`.
fn state_after(
    before: &Vec<u8>,
    ops: &[Op],
    at: usize,
    growth: Growth,
    noise: &mut Noise,
) -> Vec<u8> {
    power_cut(before, &ops[..at], (Tear::Words, growth), noise)
}

/// How a program that is given a dynamic disk takes a clear sector bit.
#[derive(Debug, Clone, Copy)]
enum Bits {
    Ignored,
    Zeros,
}

/// What a parent shows without its child; `file` reads strictly.
fn read_alone(file: &[u8], above: &[&[u8]], bits: Bits) -> Vec<u8> {
    let mut chain = vec![file];
    chain.extend(above);
    let mut disk = read_chain(&chain);
    if let (Bits::Zeros, 3) = (bits, file[file.len() - 512 + 63]) {
        let blocks = read_strictly(file).unwrap();
        for (number, block) in blocks.iter().enumerate() {
            let Some(block) = block else { continue };
            for sector in 0..block.data.len() / SECTOR {
                let at = number * block.data.len() + sector * SECTOR;
                if block.bitmap[sector / 8] & (0x80 >> (sector % 8)) == 0
                    && at + SECTOR <= disk.len()
                {
                    disk[at..at + SECTOR].fill(0);
                }
            }
        }
    }
    disk
}

/// Whether programs disagree on what a chain shows: its first file holds data that its
/// bits say was never written.
pub fn is_disputed(chain: &[Vec<u8>]) -> bool {
    let (file, above) = (&chain[0], &slices(chain)[1..]);
    read_alone(file, above, Bits::Ignored) != read_alone(file, above, Bits::Zeros)
}

fn is_footer(sector: &[u8]) -> bool {
    let mut copy = sector.to_vec();
    set_checksum(&mut copy, 64);
    &sector[..8] == b"conectix" && copy == sector
}

/// The file as it reads to a program that goes by the copy of the footer where the
/// trailing one is lost, or the other way round.
pub fn with_either_footer(file: &[u8]) -> Result<Vec<u8>, String> {
    let at = file.len() - 512;
    if file[at + 60..at + 64] == [0, 0, 0, 2] && is_footer(&file[at..]) {
        return Ok(file.to_vec());
    }
    let mut file = file.to_vec();
    match (is_footer(&file[..512]), is_footer(&file[at..])) {
        (true, true) => {}
        (true, false) => {
            file.resize(file.len().next_multiple_of(512), 0);
            file.extend_from_within(..512);
        }
        (false, true) => file.copy_within(at.., 0),
        (false, false) => return Err("no sound footer".to_owned()),
    }
    Ok(file)
}

/// A chain whose child is merged, and the record of it.
pub struct Case {
    /// The child, its parent as it was before, the parent's parents.
    pub chain: Vec<Vec<u8>>,
    /// What the child shows.
    pub disk: Vec<u8>,
    pub ops: Vec<Op>,
    pub after: Vec<u8>,
    pub round: u64,
    /// What each sort of program sees of the parent alone, before and after.
    alone: Vec<(Bits, Vec<u8>, Vec<u8>)>,
}

/// A random chain of which the first two images are to be merged: parents of every kind,
/// and a child in which some is the parent's, some zero and some new.
pub fn random_case(noise: &mut Noise) -> Vec<Vec<u8>> {
    let size = (2 + noise.below(3)) as usize * 65536;
    let sizes = [4096, 8192, 65536];
    let shape = |noise: &mut Noise, fullness: u64| {
        let mut shape = Shape::random(noise);
        shape.block_size = sizes[noise.below(3) as usize];
        shape.blocks = (size / shape.block_size) as u32;
        shape.order = (0..shape.blocks)
            .filter_map(|block| {
                let gap = if shape.aligned { 0 } else { noise.below(3) as usize };
                (noise.below(8) < fullness).then_some((block, gap))
            })
            .collect();
        for i in (1..shape.order.len()).rev() {
            shape.order.swap(i, noise.below(i as u64 + 1) as usize);
        }
        shape
    };
    let plain = |mut shape: Shape| {
        (shape.batmap, shape.spare_entries, shape.creator) = (false, 0, *b"win ");
        shape
    };
    let differencing =
        |noise: &mut Noise, fullness: u64, above: &[Vec<u8>], name: &str| {
            let shape = plain(shape(noise, fullness));
            let below = read_chain(&slices(above));
            let bits: Vec<Vec<u8>> = (0..shape.blocks)
                .map(|_| random_bits(noise, shape.block_size / 512))
                .collect();
            let data: Vec<Vec<u8>> = (0..shape.blocks as usize)
                .map(|block| match noise.below(4) {
                    0 => below[block * shape.block_size..][..shape.block_size].to_vec(),
                    1 => vec![0; shape.block_size],
                    _ => noise.bytes(shape.block_size),
                })
                .collect();
            Child::new(shape, id_in(&above[0]), name)
                .build(|b| bits[b as usize].clone(), |b| data[b as usize].clone())
        };
    let fullness = noise.below(9);
    let mut chain = match noise.below(8) {
        0 => vec![fixed(&noise.bytes(size), noise.next())],
        1..5 => {
            let shape = shape(noise, fullness);
            let mut file = shape.build(&[]);
            // What was never written, in programs' different views, though never where a
            // batmap says that all was.
            if !shape.batmap && noise.below(2) == 0 {
                let table = read_strictly(&file).unwrap();
                let places: Vec<usize> =
                    table.iter().flatten().map(|b| b.place).collect();
                for place in places {
                    let bits = random_bits(noise, shape.block_size / 512);
                    for (byte, bits) in bits.iter().enumerate() {
                        file[place + byte] = *bits;
                        for bit in (0..8).filter(|bit| bits & (0x80 >> bit) == 0) {
                            let at = place + 512 + (byte * 8 + bit) * 512;
                            if noise.below(4) > 0 {
                                file[at..at + 512].fill(0);
                            }
                        }
                    }
                }
            }
            vec![file]
        }
        _ => {
            let bottom = plain(shape(noise, 5)).build(&[]);
            let parent = differencing(
                noise,
                fullness,
                std::slice::from_ref(&bottom),
                "bottom.vhd",
            );
            vec![parent, bottom]
        }
    };
    let child_fullness = 1 + noise.below(8);
    let child = differencing(noise, child_fullness, &chain, "parent.vhd");
    chain.insert(0, child);
    // A disk may end in the middle of a block.
    if chain.iter().all(|file| file[..8] == *b"conectix") && noise.below(3) == 0 {
        let size = size as u64 - 512 * (1 + noise.below(20));
        for file in &mut chain {
            for at in [0, file.len() - 512] {
                let footer = &mut file[at..at + 512];
                footer[48..56].copy_from_slice(&size.to_be_bytes());
                set_checksum(footer, 64);
            }
        }
    }
    let parent = &mut chain[1];
    if parent[..8] == *b"conectix" {
        match noise.below(6) {
            // The leading footer is damaged, or the trailing one.
            0 => parent[100] ^= 0xFF,
            1 => {
                let at = parent.len() - 512 + 100;
                parent[at] ^= 0xFF;
            }
            // An earlier run has been interrupted: the file is longer than it need be.
            2 => {
                let footer = parent.split_off(parent.len() - 512);
                let more = noise.below(20) as usize * 4096;
                let junk = noise.bytes(more);
                parent.extend(junk);
                parent.extend(footer);
            }
            _ => {}
        }
    }
    chain
}

impl Case {
    pub fn of(chain: Vec<Vec<u8>>, round: u64) -> Case {
        let [recorder] = Recorder::of_merge([chain[1].clone()]);
        let storage: Arc<dyn Storage> = recorder.clone();
        merge(&chain, &storage, round).unwrap();
        let (after, ops) = (recorder.content(), recorder.ops());
        let before = with_either_footer(&chain[1]).unwrap();
        let mut readable = chain.clone();
        readable[1].clone_from(&before);
        let disk = read_chain(&slices(&readable));
        let above = &slices(&chain)[2..];
        let alone = [Bits::Ignored, Bits::Zeros]
            .map(|bits| {
                let now = with_either_footer(&after).unwrap();
                (bits, read_alone(&before, above, bits), read_alone(&now, above, bits))
            })
            .to_vec();
        Case { chain, disk, ops, after, round, alone }
    }

    pub fn random(noise: &mut Noise) -> Case {
        let round = [1, 20_000, 100_000, 1 << 30][noise.below(4) as usize];
        Case::of(random_case(noise), round)
    }

    /// What must hold at any instant.
    pub fn judge(&self, file: &[u8], growth: Growth) -> Result<(), String> {
        image::open(Arc::new(MemFile::new(file.to_vec())))
            .map_err(|error| format!("it cannot be opened: {error:?}"))?;
        let is_fixed =
            self.chain[1][..8] != *b"conectix" && is_footer(&file[file.len() - 512..]);
        let file = with_either_footer(file).and_then(|either| {
            // Where files grow in order, nobody ever needs the copy, unless one of the
            // two was damaged before.
            let whole = with_either_footer(&self.chain[1])? == self.chain[1];
            let strict = growth == Growth::Ordered && whole && !is_fixed;
            if strict && either != file {
                return Err("one footer is lost".to_owned());
            }
            Ok(either)
        })?;
        if !is_fixed {
            read_strictly(&file)?;
        }
        let mut chain = slices(&self.chain);
        chain[1] = &file;
        if read_chain(&chain) != self.disk {
            return Err("the child shows something else".to_owned());
        }
        for (bits, before, after) in &self.alone {
            let now = read_alone(&file, &chain[2..], *bits);
            let words = now.chunks(4).zip(before.chunks(4).zip(after.chunks(4)));
            for (word, (now, (before, after))) in words.enumerate() {
                if now != before && now != after {
                    let at = word * 4;
                    return Err(format!(
                        "byte {at} of the parent is neither old nor new ({bits:?})"
                    ));
                }
            }
        }
        Ok(())
    }

    /// A merge that is through: the parent alone shows the disk to everybody.
    pub fn judge_whole(&self, file: &[u8]) -> Result<(), String> {
        self.judge(file, Growth::LengthFirst)?;
        let file = with_either_footer(file)?;
        let above = &slices(&self.chain)[2..];
        let dynamic = file[file.len() - 512 + 63] == 3;
        if read_alone(&file, above, Bits::Ignored) != self.disk {
            return Err("the parent alone does not show the child's disk".to_owned());
        }
        // What was disputed before, and is not the child's, may be disputed still.
        let (_, before, _) = &self.alone[0];
        let (_, zeros_before, _) = &self.alone[1];
        let now = read_alone(&file, above, Bits::Zeros);
        for at in 0..now.len() {
            if dynamic && now[at] != self.disk[at] && before[at] == zeros_before[at] {
                return Err(format!("byte {at} shows to some programs only"));
            }
        }
        self.owned_by_child(&now)
    }

    /// What the child holds is in the parent for every program.
    fn owned_by_child(&self, now: &[u8]) -> Result<(), String> {
        let blocks = read_strictly(&self.chain[0]).unwrap();
        for (number, block) in blocks.iter().enumerate() {
            let Some(block) = block else { continue };
            for sector in 0..block.data.len() / SECTOR {
                let at = number * block.data.len() + sector * SECTOR;
                let own = block.bitmap[sector / 8] & (0x80 >> (sector % 8)) != 0;
                // Behind the disk's end.
                let own = own && at + SECTOR <= now.len();
                if own && now[at..at + SECTOR] != self.disk[at..at + SECTOR] {
                    return Err(format!("sector at {at} shows to some programs only"));
                }
            }
        }
        Ok(())
    }

    fn state(&self, ops: &[Op], at: usize, growth: Growth, noise: &mut Noise) -> Vec<u8> {
        state_after(&self.chain[1], ops, at, growth, noise)
    }
}

/// How many states the quick run draws, and how many of them the long one.
fn states_wanted() -> usize {
    if std::env::var_os("SLIMDISK_LONG").is_some() { 200_000 } else { 12_000 }
}

#[test]
fn no_power_cut_changes_what_the_child_shows() {
    let mut noise = Noise::new(2006);
    let (mut states, mut resumed, mut added, mut cuts, mut grown) = (0, 0, 0, 0, 0);
    while states < states_wanted() {
        let case = Case::random(&mut noise);
        case.judge(&case.chain[1], Growth::Ordered).unwrap();
        case.judge_whole(&case.after).unwrap();
        added += usize::from(case.after.len() > case.chain[1].len());
        cuts += case.ops.iter().filter(|op| matches!(op, Op::SetLen(_))).count();
        for at in 0..=case.ops.len() {
            for growth in [Growth::LengthFirst, Growth::Ordered] {
                let file = case.state(&case.ops, at, growth, &mut noise);
                states += 1;
                grown += usize::from(file.len() > case.chain[1].len());
                let through = at == case.ops.len();
                let judged = case.judge(&file, growth).and_then(|()| {
                    if through { case.judge_whole(&file) } else { Ok(()) }
                });
                if let Err(what) = judged {
                    panic!("after {at} of {} operations: {what}", case.ops.len());
                }
                if noise.below(16) == 0 {
                    resumed += 1;
                    resume(&case, file, growth, &mut noise);
                }
            }
        }
    }
    assert!(
        added > 20 && resumed > 200 && cuts > 10 && grown > 1000,
        "{added} grew, {resumed} resumed, {cuts} cuts, {grown} states of grown files"
    );
    println!("{states} crash states, {resumed} resumed, {added} grew, {cuts} cuts");
}

/// The merge runs again from a state that a crash left, and may crash again.
fn resume(case: &Case, file: Vec<u8>, growth: Growth, noise: &mut Noise) {
    let mut chain = case.chain.clone();
    chain[1] = file;
    let again = Case::of(chain, case.round);
    case.judge_whole(&again.after).unwrap();
    // A parent that was sound becomes so again, with a footer at each end.
    let old = &case.chain[1];
    if with_either_footer(old).unwrap() == *old && old[..8] == *b"conectix" {
        read_strictly(&again.after).unwrap();
    }
    // Blocks that are left may happen to lie aligned, and stay so.
    let slack = 4096 * case.disk.len() / 4096;
    assert!(again.after.len() <= case.after.len() + slack, "a second run ends longer");
    for _ in 0..4 {
        let at = noise.below(again.ops.len() as u64 + 1) as usize;
        let file = state_after(&again.chain[1], &again.ops, at, growth, noise);
        // That a footer may be lost has been said of the first crash already.
        case.judge(&file, Growth::LengthFirst).unwrap();
    }
    // A third time there is nothing to do.
    let mut chain = case.chain.clone();
    chain[1].clone_from(&again.after);
    let third = Case::of(chain, case.round);
    assert!(third.after == again.after);
    assert!(third.ops.iter().all(|op| matches!(op, Op::Flush)), "{:?}", third.ops.len());
}

/// The places where a flush stands between soundness and loss.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// Behind a leading footer that is mended.
    AfterLeading,
    /// Between the footer at the file's new end and what overwrites the old one.
    AfterGrowth,
    /// Between data and the bits and table entries that name it.
    BeforeTable,
    /// Behind bits and table.
    AfterTable,
    /// Between the new footer and the cut.
    BeforeCut,
}

/// Leaves out the flushes of one kind.
fn without(case: &Case, fault: Fault) -> Vec<Op> {
    let mut kept = Vec::new();
    let mut file = case.chain[1].clone();
    let mut kind = Fault::BeforeTable;
    for (index, op) in case.ops.iter().enumerate() {
        match op {
            Op::Write { offset: 0, data } if data.len() == 512 => {
                kind = Fault::AfterLeading;
            }
            Op::Write { data, .. } if is_footer_of(data, case) => {
                kind = Fault::AfterGrowth;
            }
            Op::Write { .. } | Op::Share { .. } | Op::Punch(_) => {}
            Op::SetLen(_) => kind = Fault::AfterTable,
            Op::Flush => {
                if matches!(case.ops.get(index + 1), Some(Op::SetLen(_))) {
                    kind = Fault::BeforeCut;
                }
                let found = kind;
                kind = match found {
                    Fault::BeforeTable => Fault::AfterTable,
                    _ => Fault::BeforeTable,
                };
                if found == fault {
                    continue;
                }
            }
        }
        apply(&mut file, op);
        kept.push(op.clone());
    }
    kept
}

fn is_footer_of(data: &[u8], case: &Case) -> bool {
    data.len() == 512 && is_footer(data) && case.chain[1].len() > 512
}

#[test]
fn a_flush_left_out_of_a_merge_is_caught() {
    for fault in [
        Fault::AfterLeading,
        Fault::AfterGrowth,
        Fault::BeforeTable,
        Fault::AfterTable,
        Fault::BeforeCut,
    ] {
        let mut noise = Noise::new(71);
        let mut caught = None;
        let mut states = 0;
        'cases: for _ in 0..400 {
            let case = Case::random(&mut noise);
            let ops = without(&case, fault);
            if ops.len() == case.ops.len() {
                continue;
            }
            for at in 0..=ops.len() {
                for growth in [Growth::LengthFirst, Growth::Ordered] {
                    states += 1;
                    let file = case.state(&ops, at, growth, &mut noise);
                    let mut judged = case.judge(&file, growth);
                    if at == ops.len() && judged.is_ok() {
                        judged = case.judge_whole(&file);
                    }
                    if let Err(what) = judged {
                        caught = Some(what);
                        break 'cases;
                    }
                }
            }
        }
        let what =
            caught.unwrap_or_else(|| panic!("{fault:?}: not caught in {states} states"));
        println!("{fault:?}: caught after {states} states: {what}");
    }
}
