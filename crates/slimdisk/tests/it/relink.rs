//! Changing the names of a parent: every instant of it, every failing call.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use slimdisk::compact::Verdict;
use slimdisk::image::parent::ParentNames;
use slimdisk::image::{self, FORMATS, Image, Severity};
use slimdisk::storage::Storage;
use slimdisk::{Kind, Result};

use crate::chain::content;
use crate::chain_model::{Child, Locator, id_in, random_bits, read_chain};
use crate::crash::{compact_image, states_wanted};
use crate::faults::{Call, Fault, Faulty, MemFile};
use crate::power_cut::{Op, Recorder, apply};
use crate::support::{Noise, on_this_system};
use crate::vhd_model::{SECTOR, Shape, read_strictly, set_checksum};

/// What a header says of the parent: its locators' codes and data, its name, the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    pub locators: Vec<([u8; 4], Vec<u8>)>,
    pub name: String,
    pub time: u32,
}

impl Names {
    /// Through the copy of the footer at the start.
    pub fn of(file: &[u8]) -> Names {
        let number = |at: usize, len: usize| {
            file[at..at + len].iter().fold(0, |n, b| n << 8 | usize::from(*b))
        };
        let at = number(16, 8);
        let mut locators = Vec::new();
        for entry in (at + 576..at + 768).step_by(24) {
            let code: [u8; 4] = file[entry..entry + 4].try_into().unwrap();
            if code != [0; 4] {
                let (len, at) = (number(entry + 8, 4), number(entry + 16, 8));
                // Old names end where they did, so nothing but zeros is behind them.
                locators.push((code, file[at..at + len].to_vec()));
            }
        }
        locators.sort();
        let units: Vec<u16> = (at + 64..at + 576)
            .step_by(2)
            .map(|at| number(at, 2) as u16)
            .take_while(|unit| *unit != 0)
            .collect();
        let name = String::from_utf16(&units).unwrap();
        Names { locators, name, time: number(at + 56, 4) as u32 }
    }

    pub fn locator(&self, code: &[u8; 4]) -> Option<String> {
        let (_, data) = self.locators.iter().find(|(found, _)| found == code)?;
        let units: Vec<u16> =
            data.chunks(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
        Some(String::from_utf16(&units).unwrap())
    }
}

pub fn header_at(file: &[u8]) -> u64 {
    u64::from_be_bytes(file[16..24].try_into().unwrap())
}

fn is_sound(footer: &[u8]) -> bool {
    let mut copy = footer.to_vec();
    set_checksum(&mut copy, 64);
    footer.starts_with(b"conectix") && copy == footer
}

pub fn new_names() -> ParentNames {
    let time = Duration::from_secs(946_684_800 + 700_000_123);
    ParentNames::new(
        Path::new(&on_this_system("/disks/vm/child.vhd")),
        Path::new(&on_this_system("/disks/B\u{e4}se/new parent.vhd")),
        Some(SystemTime::UNIX_EPOCH + time),
    )
}

fn rename(storage: Arc<dyn Storage>, names: &ParentNames) -> Result<()> {
    image::open(storage)?.name_parent(names)
}

/// A child whose parent gets other names, and the record of it.
struct Case {
    child: Vec<u8>,
    parent: Vec<u8>,
    disk: Vec<u8>,
    old: Names,
    ops: Vec<Op>,
    after: Vec<u8>,
    new: Names,
}

fn locators(noise: &mut Noise) -> Vec<Locator> {
    let mut all = vec![
        Locator::utf16(b"W2ru", r".\old.vhd"),
        Locator::utf16(b"W2ku", r"C:\old\old.vhd"),
        Locator::bytes(b"MacX", b"file:///old/old.vhd"),
        Locator::bytes(b"MacX", b"file://./old.vhd"),
        Locator::bytes(b"Wi2k", b"C:\\old.vhd"),
        Locator::bytes(b"Wi2r", b".\\old.vhd"),
    ];
    all.retain(|_| noise.below(3) > 0);
    for i in (1..all.len()).rev() {
        all.swap(i, noise.below(i as u64 + 1) as usize);
    }
    all
}

impl Case {
    fn random(noise: &mut Noise) -> Case {
        let mut shape = Shape::random(noise);
        let mut parent = shape.clone();
        (parent.batmap, parent.spare_entries, parent.creator) = (false, 0, *b"win ");
        let parent = parent.build(&[]);
        if noise.below(8) == 0 {
            shape.order.clear();
        }
        shape.seed += 1;
        let mut child = Child::new(shape.clone(), id_in(&parent), "old.vhd");
        child.locators = locators(noise);
        child.parent_time = noise.below(1 << 31) as u32;
        let bits: Vec<_> = (0..shape.blocks)
            .map(|_| match shape.batmap {
                true => vec![0xFF; shape.block_size / 512 / 8],
                false => random_bits(noise, shape.block_size / 512),
            })
            .collect();
        let data = |block: u32| shape.data(block);
        Case::new(child.build(|block| bits[block as usize].clone(), data), parent)
    }

    fn new(child: Vec<u8>, parent: Vec<u8>) -> Case {
        let recorder = Recorder::new(child.clone());
        rename(recorder.clone(), &new_names()).unwrap();
        let (ops, after) = (recorder.ops(), recorder.content());
        let disk = match read_strictly(&child) {
            Ok(_) => read_chain(&[&child, &parent]),
            Err(_) => read_chain(&[&after, &parent]),
        };
        let (old, new) = (Names::of(&child), Names::of(&after));
        Case { child, parent, disk, old, ops, after, new }
    }

    /// As every sound footer shows the file, it is a sound image with the same blocks and
    /// with all of the old names or all of the new ones.
    fn judge(&self, file: &[u8]) -> std::result::Result<Vec<bool>, String> {
        let blocks = read_strictly(&self.after)?;
        let last = file.len() - 512;
        let sound = [0, last].map(|at| is_sound(&file[at..at + 512]));
        let mut new = Vec::new();
        for (at, _) in [0, last].into_iter().zip(sound).filter(|(_, sound)| *sound) {
            let footer = file[at..at + 512].to_vec();
            let mut copy = file.to_vec();
            copy[..512].copy_from_slice(&footer);
            if sound[1] {
                copy[last..].copy_from_slice(&footer);
            } else {
                copy.resize(file.len().next_multiple_of(512), 0);
                copy.extend(&footer);
            }
            let found = read_strictly(&copy)?;
            if found != blocks {
                return Err("blocks have changed".into());
            }
            let names = Names::of(&copy);
            if names != self.old && names != self.new {
                return Err(format!("neither the old names nor the new: {names:?}"));
            }
            new.push(names == self.new);
        }
        if new.is_empty() { Err("no sound footer".into()) } else { Ok(new) }
    }

    /// What the library makes of a state in which [`judge`](Case::judge) finds no fault.
    fn judge_library(&self, file: &[u8], noise: &mut Noise) {
        let storage = Arc::new(MemFile::new(file.to_vec()));
        let findings = FORMATS[0].check(&storage).unwrap();
        assert!(findings.iter().all(|f| f.severity < Severity::Error), "{findings:?}");
        let mut image = image::open(storage.clone()).unwrap();
        let link = image.parent_link().unwrap().unwrap();
        let is_new = link.names.iter().any(|name| name.text.contains("new parent.vhd"));
        let is_old = link.names.iter().any(|name| name.text.contains("old"));
        assert!(is_new != is_old, "{link:?}");
        let parent = image::open(Arc::new(MemFile::new(self.parent.clone()))).unwrap();
        image.set_parent(Arc::from(parent)).unwrap();
        assert!(content(&*image) == self.disk);
        match noise.below(3) {
            0 => {
                // Doing it again finishes it.
                rename(storage.clone(), &new_names()).unwrap();
                let done = storage.bytes();
                assert_eq!(self.judge(&done).unwrap(), [true, true]);
                read_strictly(&done).unwrap();
                assert_eq!(header_at(&done), header_at(&self.after));
                // Without a block nobody can tell what lies behind the tables.
                let empty = read_strictly(&done).unwrap().iter().all(Option::is_none);
                if !empty && findings.iter().any(|f| f.actual.contains("two headers")) {
                    // Where blocks happen to lie aligned, so does the end.
                    let whole = self.child.len().max(self.after.len());
                    assert!(
                        done.len() <= whole || done.len().is_multiple_of(4096),
                        "{} of {whole}",
                        done.len()
                    );
                }
                let longest = file.len().max(self.after.len()).next_multiple_of(512);
                assert!(
                    done.len() <= longest,
                    "{} before, {} then, {} if whole, {} now",
                    self.child.len(),
                    file.len(),
                    self.after.len(),
                    done.len()
                );
            }
            1 => {
                FORMATS[0].repair(&storage).unwrap();
                let done = storage.bytes();
                let new = self.judge(&done).unwrap();
                // Of two headers the one in front stays.
                if findings.iter().any(|f| f.actual.contains("two headers")) {
                    assert_eq!(header_at(&done), 512);
                }
                assert!(new.len() == 2 && new[0] == new[1]);
                read_strictly(&done).unwrap();
            }
            _ => self.compact(image, &storage, noise),
        }
    }

    /// Compacting such a state keeps its blocks and its names.
    fn compact(&self, mut image: Box<dyn Image>, storage: &MemFile, noise: &mut Noise) {
        let verdicts: Vec<_> = (0..image.facts().blocks_total)
            .map(|block| match (image.is_allocated(block), noise.below(3)) {
                (false, _) => Verdict::Absent,
                (true, 0) => Verdict::Free,
                (true, _) => Verdict::Live,
            })
            .collect();
        let before = image.facts();
        compact_image(&mut *image, &verdicts, None, 2);
        drop(image);
        let done = storage.bytes();
        let image = image::open(Arc::new(MemFile::new(done.clone()))).unwrap();
        assert_eq!(image.facts().parent, before.parent);
        let start = self.judge_released(&done, &verdicts);
        assert!(start.is_ok(), "{start:?}");
    }

    fn judge_released(
        &self,
        file: &[u8],
        verdicts: &[Verdict],
    ) -> std::result::Result<(), String> {
        let storage = Arc::new(MemFile::new(file.to_vec()));
        FORMATS[0].repair(&storage).map_err(|e| e.to_string())?;
        let file = storage.bytes();
        let (now, was) = (read_strictly(&file)?, read_strictly(&self.after)?);
        for ((now, was), verdict) in now.iter().zip(&was).zip(verdicts) {
            let same = match (now, was) {
                (Some(now), Some(was)) => {
                    (now.bitmap, now.data) == (was.bitmap, was.data)
                }
                (None, Some(_)) => *verdict == Verdict::Free,
                (now, None) => now.is_none(),
            };
            if !same {
                return Err("a block has changed".into());
            }
        }
        let names = Names::of(&file);
        if names != self.old && names != self.new {
            return Err(format!("neither the old names nor the new: {names:?}"));
        }
        Ok(())
    }
}

/// A state after `ops[..at]`, with any number of torn sectors, and with a length that may
/// have come before the data.
fn state_after(before: &[u8], ops: &[Op], at: usize, noise: &mut Noise) -> Vec<u8> {
    let done = &ops[..at];
    let flushed =
        done.iter().rposition(|op| matches!(op, Op::Flush)).map_or(0, |i| i + 1);
    let mut file = before.to_vec();
    for op in &done[..flushed] {
        apply(&mut file, op);
    }
    let keep_of_8 = noise.below(9);
    let tears = noise.below(2) == 0;
    for op in &done[flushed..] {
        match op {
            Op::Write { offset, data } => {
                let long = noise.below(4) == 0;
                let end = *offset as usize + data.len();
                if long && end > file.len() {
                    file.resize(end, 0);
                }
                for (index, sector) in data.chunks(SECTOR).enumerate() {
                    if noise.below(8) >= keep_of_8 {
                        continue;
                    }
                    let mut part = sector;
                    if tears && noise.below(2) == 0 {
                        // What changes in a footer lies in its first 68 bytes.
                        let words = if noise.below(2) == 0 { 18 } else { 129 };
                        let len = noise.below(words) as usize * 4;
                        part = &part[..len.min(part.len())];
                    }
                    let offset = offset + (index * SECTOR) as u64;
                    apply(&mut file, &Op::Write { offset, data: part.into() });
                }
            }
            Op::SetLen(_) if noise.below(8) >= keep_of_8 => {}
            Op::SetLen(_) | Op::Share { .. } | Op::Punch(_) | Op::Flush => {
                apply(&mut file, op);
            }
        }
    }
    file
}

#[test]
fn no_power_cut_parts_a_child_from_its_parent() {
    let mut noise = Noise::new(2026);
    let (mut states, mut grown, mut two) = (0, 0, 0);
    while states < states_wanted() / 3 {
        let mut case = Case::random(&mut noise);
        match noise.below(6) {
            // A leading footer that is damaged, or the one at the end.
            0 => {
                let mut child = case.child.clone();
                child[70] ^= 1;
                case = Case { old: case.old.clone(), ..Case::new(child, case.parent) };
            }
            1 => {
                let mut child = case.child.clone();
                let at = child.len() - 442;
                child[at] ^= 1;
                case = Case::new(child, case.parent);
            }
            _ => assert_eq!(case.after.len(), case.child.len()),
        }
        read_strictly(&case.after).unwrap();
        assert_ne!(case.old, case.new);
        assert_eq!(header_at(&case.after), header_at(&case.child));
        grown += usize::from(case.ops.iter().any(|op| matches!(op, Op::SetLen(_))));
        for at in 0..=case.ops.len() {
            for _ in 0..4 {
                let file = state_after(&case.child, &case.ops, at, &mut noise);
                states += 1;
                match case.judge(&file) {
                    Ok(new) => {
                        let last = &file[file.len() - 512..];
                        two +=
                            usize::from(new.len() == 2 && last[16..24] != file[16..24]);
                    }
                    Err(what) => {
                        panic!("after {at} of {} operations: {what}", case.ops.len());
                    }
                }
                if noise.below(4) == 0 {
                    case.judge_library(&file, &mut noise);
                }
            }
        }
        // It is done when it says so.
        let at = case.ops.len();
        assert!(state_after(&case.child, &case.ops, at, &mut noise) == case.after);
    }
    assert!(grown > 20 && two > 200, "{grown} grown, {two} with two headers");
    println!("{states} states, {grown} grown, {two} with two headers");
}

/// Every flush of a change matters, whether it needs room behind the file's end or not.
#[test]
fn a_flush_left_out_of_a_change_of_names_is_caught() {
    let mut noise = Noise::new(11);
    for grows in [false, true] {
        let mut cases = Vec::new();
        while cases.len() < 30 {
            let case = Case::random(&mut noise);
            if case.ops.iter().any(|op| matches!(op, Op::SetLen(_))) == grows {
                cases.push(case);
            }
        }
        let flushes = |case: &Case| -> Vec<usize> {
            let ops = case.ops.iter().enumerate();
            ops.filter(|(_, op)| matches!(op, Op::Flush)).map(|(i, _)| i).collect()
        };
        let count = flushes(&cases[0]).len();
        assert_eq!(count, if grows { 6 } else { 7 });
        for nth in 0..count {
            let caught = cases.iter().any(|case| {
                let mut ops = case.ops.clone();
                let flush = flushes(case)[nth];
                ops.remove(flush);
                (0..200).any(|_| {
                    let at = ops.len().min(flush + noise.below(4) as usize);
                    let file = state_after(&case.child, &ops, at, &mut noise);
                    let unsound = case.judge(&file).is_err();
                    unsound || at == ops.len() && file != case.after
                })
            });
            assert!(caught, "flush {nth} of {count} is not missed (grows: {grows})");
        }
    }
}

#[test]
fn every_call_may_fail() {
    let mut noise = Noise::new(3);
    let mut tried = 0;
    for round in 0..6 {
        let case = Case::random(&mut noise);
        let names = new_names();
        let whole = Arc::new(Faulty::new(MemFile::new(case.child.clone()), None));
        rename(whole.clone(), &names).unwrap();
        // At first, and before what nobody names is written over.
        assert!(whole.calls(Call::StillExclusive) >= 3);
        for call in Call::ALL {
            let calls = whole.calls(call);
            assert!(calls > 0 || matches!(call, Call::Copy | Call::SetLen), "{call:?}");
            for nth in 0..calls {
                for (error, lasting, partial) in [
                    (ErrorKind::Other, false, 0),
                    (ErrorKind::StorageFull, true, 700),
                    (ErrorKind::StorageFull, false, 4),
                ] {
                    let fault =
                        Fault { lasting, partial, ..Fault::once(call, nth, error) };
                    let file = MemFile::new(case.child.clone());
                    let storage = Arc::new(Faulty::new(file, Some(fault)));
                    let failed = rename(storage.clone(), &names);
                    assert!(storage.struck(), "{fault:?} did not happen");
                    let kind = failed.expect_err("a fault was swallowed").kind();
                    let expected = match (call, error) {
                        (Call::StillExclusive, _) => Kind::InUse,
                        (_, ErrorKind::Other) => Kind::Io,
                        _ => Kind::DiskFull,
                    };
                    assert_eq!(kind, expected, "{fault:?}");
                    let file = storage.inner().bytes();
                    case.judge(&file)
                        .unwrap_or_else(|what| panic!("{round} {fault:?}: {what}"));
                    let again = Arc::new(MemFile::new(file.clone()));
                    rename(again.clone(), &names).unwrap();
                    let done = again.bytes();
                    assert_eq!(case.judge(&done).unwrap(), [true, true]);
                    assert_eq!(header_at(&done), 512);
                    let longest = file.len().max(case.after.len());
                    assert!(done.len() <= longest.next_multiple_of(512));
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 300, "only {tried} faults");
}

/// A file that could not grow is as it was.
#[test]
fn a_full_disk_changes_nothing() {
    let mut noise = Noise::new(4);
    let mut grown = 0;
    for _ in 0..40 {
        let case = Case::random(&mut noise);
        let fault = Fault {
            lasting: true,
            partial: 700,
            ..Fault::once(Call::Write, 0, ErrorKind::StorageFull)
        };
        if case.ops.iter().any(|op| matches!(op, Op::SetLen(_))) {
            let file = MemFile::new(case.child.clone());
            let storage = Arc::new(Faulty::new(file, Some(fault)));
            let error = rename(storage.clone(), &new_names()).unwrap_err();
            assert_eq!(error.kind(), Kind::DiskFull);
            assert!(storage.inner().bytes() == case.child);
            grown += 1;
        }
    }
    assert!(grown > 10, "{grown}");
}

/// What is not a change of the parent's names is an error as before.
#[test]
fn two_headers_that_differ_in_more_are_refused() {
    let mut noise = Noise::new(5);
    let mut tried = 0;
    while tried < 20 {
        let case = Case::random(&mut noise);
        // Between the two footers both headers are there.
        let second =
            case.ops.iter().enumerate().filter(|(_, op)| matches!(op, Op::Flush));
        let Some((at, _)) = second.clone().nth(1) else { continue };
        let mut file = case.child.clone();
        case.ops[..=at].iter().for_each(|op| apply(&mut file, op));
        let other = header_at(&file) as usize;
        assert_ne!(other, 512);
        let open = |file: Vec<u8>| image::open(Arc::new(MemFile::new(file)));
        let findings = FORMATS[0].check(&file.clone()).unwrap();
        assert!(findings.iter().any(|f| f.severity == Severity::Damaged), "{findings:?}");
        // Until one of them is named no more, both are out of bounds.
        let reserved = open(file.clone()).unwrap().layout().unwrap().reserved;
        for header in [512, other as u64] {
            assert!(reserved.covers(&(header..header + 1024)), "{reserved:?}");
        }
        for field in [16 + 6, 27, 28 + 3, 40, 55, 60, 768, 1023] {
            for header in [512, other] {
                let mut odd = file.clone();
                odd[header + field] ^= 2;
                assert!(open(odd.clone()).is_err(), "a checksum that does not hold");
                set_checksum(&mut odd[header..header + 1024], 36);
                let error = open(odd).map(|_| field).unwrap_err();
                assert_eq!(error.kind(), Kind::InvalidImage);
            }
        }
        // A footer that differs in more.
        for field in [24, 28, 36, 47, 55, 56, 68, 84, 100] {
            let mut odd = file.clone();
            odd[field] ^= 1;
            set_checksum(&mut odd[..512], 64);
            assert!(open(odd).is_err(), "footer field {field}");
        }
        tried += 1;
    }
}

/// Rooms that a header behind the blocks remembers are nobody's: a block may have been put
/// there since.
#[test]
fn a_block_in_a_remembered_room_stays() {
    let mut noise = Noise::new(6);
    let mut tried = 0;
    while tried < 10 {
        let mut shape = Shape::random(&mut noise);
        (shape.block_size, shape.aligned, shape.batmap) = (4096, false, false);
        shape.creator = *b"win ";
        if shape.order.is_empty() {
            continue;
        }
        let parent = shape.build(&[]);
        shape.seed += 1;
        let mut child = Child::new(shape.clone(), id_in(&parent), "old.vhd");
        let room = Locator { code: *b"W2ru", data: vec![b'x'; 4608], in_sectors: false };
        child.locators = vec![Locator::utf16(b"W2ku", r"C:\old\old.vhd"), room];
        let case =
            Case::new(child.build(|_| vec![0xF0], |block| shape.data(block)), parent);
        // Both footers name the second header.
        let flushes = case.ops.iter().enumerate();
        let third = flushes.filter(|(_, op)| matches!(op, Op::Flush)).nth(2).unwrap().0;
        let mut file = case.child.clone();
        case.ops[..=third].iter().for_each(|op| apply(&mut file, op));
        assert_ne!(header_at(&file), 512);
        let (block, _) = shape.order[0];
        let entry = 0x600 + block as usize * 4;
        let place =
            u32::from_be_bytes(file[entry..entry + 4].try_into().unwrap()) as usize * 512;
        let room = 512 + 576 + 24 + 16;
        let to =
            u64::from_be_bytes(case.child[room..room + 8].try_into().unwrap()) as usize;
        file.copy_within(place..place + 4608, to);
        file[entry..entry + 4].copy_from_slice(&((to / 512) as u32).to_be_bytes());
        let storage = Arc::new(MemFile::new(file));
        rename(storage.clone(), &new_names()).unwrap();
        let done = storage.bytes();
        assert_eq!(header_at(&done), 512);
        assert!(read_chain(&[&done, &case.parent]) == case.disk);
        let codes: Vec<_> = Names::of(&done).locators.iter().map(|l| l.0).collect();
        // The other room is left, and its own name goes there.
        assert_eq!(codes, [*b"W2ku"]);
        tried += 1;
    }
}
