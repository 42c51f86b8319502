//! Other names for a child's parent, and power cuts while they are written.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use slimdisk::Kind;
use slimdisk::image;
use slimdisk::image::parent::{ParentLookup, ParentNames, open_parents, relink};
use slimdisk::storage::HostFile;

use super::super::PageFile;
use super::crash::{CHILD, recorders, state_after};
use super::judge::{Seen, read};
use super::{random_chain, random_kind};
use crate::power_cut::Op;
use crate::support::{Noise, Scratch, on_this_system};
use crate::vhdx_model::{MIB, Pages};

fn names(parent: &str) -> ParentNames {
    let child = on_this_system("/vm/child.avhdx");
    ParentNames::new(Path::new(&child), Path::new(&on_this_system(parent)), None)
}

/// What may never change.
fn same(was: &Seen, is: &Seen) -> Result<(), String> {
    let linkage = |seen: &Seen| {
        ["parent_linkage", "parent_linkage2"].map(|k| seen.pair(k).map(str::to_owned))
    };
    if linkage(was) != linkage(is) {
        return Err("it has another parent".to_owned());
    }
    if (&was.blocks, &was.bitmaps, &was.id) != (&is.blocks, &is.bitmaps, &is.id) {
        return Err("its disk changed".to_owned());
    }
    for (_, place) in was.blocks.iter().filter(|(_, place)| *place != 0) {
        if !was.file.same(*place, &is.file, *place, was.block_len) {
            return Err("a block changed".to_owned());
        }
    }
    Ok(())
}

fn paths(seen: &Seen) -> [Option<&str>; 3] {
    ["relative_path", "absolute_win32_path", "volume_path"].map(|key| seen.pair(key))
}

/// Names that fit into the place of the old ones, and names that need another.
fn path_of(noise: &mut Noise) -> String {
    let long = [1, 20, 3000][noise.below(3) as usize];
    format!("/vm/{}/p{}.vhdx", "d".repeat(long), noise.below(100))
}

/// Puts an item of a user right behind the locator, so that it cannot grow in place.
fn crowd(file: &mut Pages, seen: &Seen) {
    let rows = file.get(seen.metadata + 10, 2);
    let count = u64::from(u16::from_le_bytes([rows[0], rows[1]]));
    let last = seen.metadata + 32 + (count - 1) * 32;
    let row = file.get(last, 32);
    let end = [&row[16..20], &row[20..24]]
        .map(|field| u32::from_le_bytes(field.try_into().unwrap()))
        .iter()
        .sum::<u32>();
    let mut item = [0; 32];
    item[..16].copy_from_slice(&[0x55; 16]);
    item[16..20].copy_from_slice(&end.to_le_bytes());
    item[20..24].copy_from_slice(&5000u32.to_le_bytes());
    item[24] = 1;
    file.write(last + 32, &item);
    file.write(seen.metadata + u64::from(end), &[0x44; 5000]);
    file.write(seen.metadata + 10, &(count as u16 + 1).to_le_bytes());
}

#[test]
fn no_power_cut_loses_a_vhdx_childs_parent_while_it_is_renamed() {
    let mut noise = Noise::new(1789);
    let (mut states, mut moved, mut old, mut new) = (0, 0, 0, 0);
    while states < 3000 {
        let kind = random_kind(&mut noise);
        let mut files = random_chain(&mut noise, kind);
        let seen = files.seen().remove(CHILD);
        let crowded = !seen.replayed && noise.below(2) == 0;
        if crowded {
            crowd(&mut files.0[CHILD], &seen);
        }
        let user = |seen: &Seen| {
            let end = seen.metadata + MIB;
            seen.file.held(seen.metadata + (64 << 10), end).any(|at| {
                seen.file.get(at, 4096).windows(32).any(|bytes| bytes == [0x44; 32])
            })
        };
        let before = read(&files.0[CHILD]).unwrap();
        let [recorder, _] = recorders(&files);
        let mut image = image::open(recorder.clone()).unwrap();
        let path = path_of(&mut noise);
        image.name_parent(&names(&path)).unwrap();
        let (ops, after) = {
            let state = recorder.state();
            (state.ops, read(&state.files[CHILD]).unwrap())
        };
        assert!(!after.replayed && user(&after) == crowded);
        assert!(after.file_write != before.file_write);
        let relative = path.replacen("/vm/", "./", 1).replace('/', "\\");
        let absolute = on_this_system(&path).replace('/', "\\");
        assert_eq!(paths(&after), [Some(relative.as_str()), Some(&absolute), None]);
        same(&before, &after).unwrap();
        // The same image goes on with what it has written.
        let link = image.parent_link().unwrap().unwrap();
        assert_eq!(link.names[0].text, relative);
        image.name_parent(&names("/vm/q.vhdx")).unwrap();
        let row = |seen: &Seen| seen.file.get(seen.metadata + 32 + 5 * 32 + 16, 4);
        moved += usize::from(row(&before) != row(&after));
        for at in 0..=ops.len() {
            for _ in 0..4 {
                states += 1;
                let file = state_after(&files.0[CHILD], &ops, CHILD, at, &mut noise);
                let now = read(&file).unwrap_or_else(|what| panic!("{at}: {what}"));
                same(&before, &now).unwrap_or_else(|what| panic!("{at}: {what}"));
                match paths(&now) {
                    names if names == paths(&before) => old += 1,
                    names if names == paths(&after) => new += 1,
                    names => panic!("{at}: {names:?}"),
                }
                assert!(at < ops.len() || paths(&now) == paths(&after));
                image::open(PageFile::new(file.clone())).unwrap();
                if noise.below(16) == 0 {
                    let again = PageFile::new(file);
                    let mut image = image::open(again.clone()).unwrap();
                    image.name_parent(&names(&path)).unwrap();
                    let now = read(&again.pages()).unwrap();
                    assert_eq!(paths(&now), paths(&after));
                    same(&before, &now).unwrap();
                }
            }
        }
    }
    assert!(moved > 5 && old > 500 && new > 500, "{moved} moved, {old} old, {new} new");
    println!("{states} states, {moved} locators moved, {old} old names, {new} new ones");
}

#[test]
fn a_flush_left_out_of_renaming_is_caught() {
    // Behind the log, behind the locator in its place.
    for in_log in [true, false] {
        let mut noise = Noise::new(5);
        let mut caught = None;
        'cases: for _ in 0..300 {
            let kind = random_kind(&mut noise);
            let files = random_chain(&mut noise, kind);
            let before = read(&files.0[CHILD]).unwrap();
            let [recorder, _] = recorders(&files);
            let mut image = image::open(recorder.clone()).unwrap();
            image.name_parent(&names(&path_of(&mut noise))).unwrap();
            let ops = recorder.state().ops;
            let range = match in_log {
                true => before.log.0..before.log.0 + before.log.1,
                false => before.metadata..before.metadata + MIB,
            };
            let mut kept: Vec<(usize, Op)> = Vec::new();
            for op in ops {
                let last = kept.last().map(|(_, op)| op);
                let after = matches!(
                    last, Some(Op::Write { offset, .. }) if range.contains(offset)
                );
                if !(after && matches!(op.1, Op::Flush)) {
                    kept.push(op);
                }
            }
            for at in 0..=kept.len() {
                let file = state_after(&files.0[CHILD], &kept, CHILD, at, &mut noise);
                let now = read(&file).and_then(|now| same(&before, &now));
                if let Err(what) = now {
                    caught = Some(what);
                    break 'cases;
                }
            }
        }
        println!("{}", caught.unwrap_or_else(|| panic!("{in_log}: not caught")));
    }
}

#[test]
fn names_that_cannot_be_written_are_refused_and_nothing_is_written() {
    let mut noise = Noise::new(12);
    let kind = random_kind(&mut noise);
    let files = random_chain(&mut noise, kind);
    let [recorder, parent] = recorders(&files);
    let mut image = image::open(recorder.clone()).unwrap();
    let mut refused = |path: &str, kind| {
        assert_eq!(image.name_parent(&names(path)).unwrap_err().kind(), kind);
    };
    refused(&format!("/vm/{}.vhdx", "x".repeat(40_000)), Kind::PathTooLong);
    if cfg!(unix) {
        refused(r"/vm/a\b.vhdx", Kind::InvalidName);
    }
    let mut image = image::open(parent).unwrap();
    if image.parent_link().unwrap().is_none() {
        let error = image.name_parent(&names("/vm/p.vhdx")).unwrap_err();
        assert_eq!(error.kind(), Kind::WrongImageType);
    }
    assert!(recorder.state().ops.is_empty());
}

#[test]
fn a_vhdx_parent_that_has_moved_is_found_again() {
    let scratch = Scratch::new("vhdx-relinked");
    let mut noise = Noise::new(30);
    let files = random_chain(&mut noise, super::Kind::Dynamic);
    fs::create_dir_all(scratch.path("vm/bases")).unwrap();
    let child = scratch.path("vm/child.avhdx");
    let parent = scratch.path("vm/bases/moved.vhdx");
    fs::write(&child, files.0[0].bytes()).unwrap();
    fs::write(&parent, files.0[1].bytes()).unwrap();
    let find = || {
        let mut image =
            image::open(Arc::new(HostFile::open_read(&child).unwrap())).unwrap();
        let found = open_parents(&mut *image, &child, &ParentLookup::default());
        found.map(|chain| chain.parents()[0].path.clone())
    };
    assert_eq!(find().unwrap_err().kind(), Kind::ParentNotFound);
    let stranger = scratch.path("vm/stranger.vhdx");
    let other = random_chain(&mut noise, super::Kind::Dynamic);
    fs::write(&stranger, other.0[1].bytes()).unwrap();
    let before = fs::read(&child).unwrap();
    assert_eq!(relink(&child, &stranger).unwrap_err().kind(), Kind::ParentMismatch);
    assert!(fs::read(&child).unwrap() == before);
    relink(&child, &parent).unwrap();
    assert_eq!(find().unwrap(), crate::support::real_path(&parent).unwrap());
    let seen = read(&Pages::from_bytes(&fs::read(&child).unwrap())).unwrap();
    assert_eq!(seen.pair("relative_path"), Some(r".\bases\moved.vhdx"));
    assert!(seen.pair("volume_path").is_none());
}
