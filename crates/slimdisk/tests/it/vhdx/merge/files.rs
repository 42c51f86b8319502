//! Merges of files, as the command does them: judged by qemu-img and by this crate's own
//! checks; what is refused, and what the report says.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use slimdisk::image::{self, GuestWrite, ImageType, Severity};
use slimdisk::merge::run::holdings;
use slimdisk::merge::{Merging, Options, Outcome, Report};
use slimdisk::storage::Storage;

use super::super::PageFile;
use super::super::chain::link_to;
use super::judge::{Seen, read, shown};
use super::{Files, Kind, merge, open_chain, random_chain, random_kind};
use crate::chain::judge::digest_of;
use crate::support::{Noise, Scratch, have, samples, sh, skip};
use crate::vhdx_model::{FULL, MIB, Pages, Shape, UNMAPPED};

/// A chain in files: `child.avhdx`, `parent.vhdx`, and `bottom.vhdx` where there is one.
struct OnDisk {
    scratch: Scratch,
    paths: Vec<PathBuf>,
    disk: Pages,
    before: Vec<Pages>,
}

impl OnDisk {
    fn new(test: &str, files: &Files) -> OnDisk {
        let scratch = Scratch::new(test);
        let names = ["child.avhdx", "parent.vhdx", "bottom.vhdx"];
        let paths: Vec<_> = names.iter().map(|name| scratch.path(name)).collect();
        let paths = paths[..files.0.len()].to_vec();
        for (path, file) in paths.iter().zip(&files.0) {
            write_sparsely(path, file);
        }
        let before = paths
            .iter()
            .map(|path| Pages::from_bytes(&fs::read(path).unwrap()))
            .collect();
        OnDisk { scratch, paths, disk: files.shown(0), before }
    }

    fn read(&self) -> Vec<Pages> {
        self.paths
            .iter()
            .map(|path| Pages::from_bytes(&fs::read(path).unwrap()))
            .collect()
    }

    fn prepare(&self) -> slimdisk::Result<Merging> {
        let mut options = Options::default();
        options.verify = true;
        Merging::prepare(&self.paths[0], &options)
    }

    fn merge(&self) -> Report {
        self.prepare().unwrap().run(&mut |_| ControlFlow::Continue(()))
    }

    fn refusal(&self) -> slimdisk::Error {
        match self.prepare() {
            Ok(_) => panic!("it was not refused"),
            Err(error) => error,
        }
    }
}

fn write_sparsely(path: &std::path::Path, pages: &Pages) {
    use crate::vhd_model::FileAt as _;
    let file = fs::File::create(path).unwrap();
    file.set_len(pages.len).unwrap();
    for at in pages.held(0, pages.len) {
        let len = (pages.len - at).min(4096) as usize;
        file.write_all_at(&pages.get(at, len), at).unwrap();
    }
}

/// Not so large that reading it whole takes long.
fn small_chain(noise: &mut Noise, kind: Kind) -> Files {
    loop {
        let files = random_chain(noise, kind);
        if files.seen()[0].disk_size < 64 * MIB {
            return files;
        }
    }
}

#[test]
fn a_plan_is_what_a_run_does_and_others_read_the_parent() {
    let test = "vhdx_a_plan_is_what_a_run_does_and_others_read_the_parent";
    if !have(test, &["qemu-img"]) {
        return;
    }
    let mut noise = Noise::new(33);
    let (mut judged, mut added) = (0, 0);
    for round in 0..24 {
        let kind = random_kind(&mut noise);
        let files = small_chain(&mut noise, kind);
        let on_disk = OnDisk::new(&format!("vhdx-merge-{round}"), &files);
        let dry = on_disk.prepare().unwrap().plan(&mut |_| ControlFlow::Continue(()));
        assert_eq!(dry.outcome, Outcome::Planned, "{dry:?}");
        assert!(on_disk.read() == on_disk.before, "a plan wrote something");
        let done = on_disk.merge();
        assert_eq!(done.outcome, Outcome::Merged, "{done:?}");
        assert!(done.verified.is_some());
        let numbers = |r: &Report| {
            (r.bytes_merged, r.bytes_same, r.blocks_added, r.parent_file_size_after)
        };
        assert_eq!(numbers(&dry), numbers(&done));
        let now = on_disk.read();
        assert_eq!(done.parent_file_size_after, now[1].len);
        let seen: Vec<Seen> = now.iter().map(|file| read(file).unwrap()).collect();
        assert!(shown(&seen.iter().collect::<Vec<_>>()) == on_disk.disk);
        assert!(shown(&seen[1..].iter().collect::<Vec<_>>()) == on_disk.disk);
        let before = files.seen();
        let placed = |seen: &Seen| seen.blocks.iter().filter(|b| b.1 != 0).count();
        let more = placed(&seen[1]) - placed(&before[1]);
        assert_eq!(done.blocks_added, more as u64);
        added += more;
        if done.bytes_merged > 0 {
            assert!(seen[1].id != before[1].id && seen[0].names(&seen[1]));
            assert!(done.io.bytes_written.unwrap() > done.bytes_merged);
        }
        for path in &on_disk.paths {
            let (_, found) = image::check_file(path).unwrap();
            let worst = found.iter().all(|f| f.severity == Severity::Note);
            assert!(worst, "{found:?}");
        }
        // With nothing left to do nothing is done.
        let again = on_disk.merge();
        assert_eq!((again.bytes_merged, again.io.bytes_written), (0, Some(0)));
        assert!(on_disk.read() == now);
        // qemu knows no sectors of 4096 bytes.
        if kind != Kind::Differencing && seen[1].sector == 512 {
            let (path, raw) = (&on_disk.paths[1], on_disk.scratch.path("raw"));
            sh(&format!(
                "qemu-img check -q -f vhdx {0}; qemu-img convert -f vhdx -O raw {0} {1}",
                path.display(),
                raw.display()
            ));
            let raw = fs::read(raw).unwrap();
            let disk = on_disk.disk.get(0, on_disk.disk.len as usize);
            assert!(raw == disk, "{round}: qemu reads something else");
            judged += 1;
        }
    }
    assert!(judged > 4 && added > 20, "{judged} {added}");
}

#[test]
fn vhdx_chains_made_by_windows_are_merged() {
    let test = "vhdx_chains_made_by_windows_are_merged";
    let Some(dir) = samples() else {
        skip(test, "the folder of sample images");
        return;
    };
    if !have(test, &["zstd", "qemu-img"]) {
        return;
    }
    let scratch = Scratch::new(test);
    for kind in ["ntfs", "fat"] {
        let paths = ["differential", "parent"].map(|which| {
            let name = format!("{kind}-{which}.vhdx");
            let path = scratch.path(&name);
            let to = path.display();
            sh(&format!(
                "zstd -q -d {}/{name}.zst -o {to} && chmod 644 {to}",
                dir.display()
            ));
            path
        });
        let [child, parent] = &paths;
        let seen = || {
            paths
                .each_ref()
                .map(|path| read(&Pages::from_bytes(&fs::read(path).unwrap())).unwrap())
        };
        let before = seen();
        let disk = shown(&[&before[0], &before[1]]);
        let mut options = Options::default();
        options.verify = true;
        let report = Merging::prepare(child, &options)
            .unwrap()
            .run(&mut |_| ControlFlow::Continue(()));
        assert_eq!(report.outcome, Outcome::Merged, "{report:?}");
        assert!(report.bytes_merged > 0);
        let now = seen();
        assert!(shown(&[&now[0], &now[1]]) == disk && shown(&[&now[1]]) == disk);
        let raw = scratch.path("raw");
        sh(&format!(
            "qemu-img check -q -f vhdx {0}; qemu-img convert -f vhdx -O raw {0} {1}",
            parent.display(),
            raw.display()
        ));
        let disk = disk.get(0, disk.len as usize);
        assert_eq!(digest_of(&fs::read(raw).unwrap()), digest_of(&disk));
        for key in ["relative_path", "volume_path", "absolute_win32_path"] {
            assert_eq!(now[0].pair(key), before[0].pair(key), "{key}");
        }
    }
}

fn two_blocks(entries: Vec<(u32, u64)>, order: Vec<(u32, u64, u64)>) -> Shape {
    Shape { blocks: 10, entries, order, ..Shape::default() }
}

/// A block that reads as zeros in the child hides its parent's, whatever it is called.
#[test]
fn zeros_of_a_child_are_merged() {
    let parent =
        Shape { seed: 3, ..two_blocks(vec![], (0..8).map(|b| (b, FULL, 0)).collect()) };
    let link = Some(link_to(&parent, "parent.vhdx"));
    let order = vec![(3, UNMAPPED, 0), (4, 1, 0), (8, FULL, 0)];
    let child = Shape {
        link,
        seed: 4,
        ..two_blocks(vec![(0, 2), (1, 3), (2, 1), (9, 2)], order)
    };
    let files = Files(vec![child.build(&[]).0, parent.build(&[]).0]);
    let on_disk = OnDisk::new("vhdx-merge-zeros", &files);
    assert_eq!(on_disk.disk.held(0, 5 * MIB).count(), 0);
    let report = on_disk.merge();
    assert_eq!(report.outcome, Outcome::Merged, "{report:?}");
    assert_eq!((report.blocks_added, report.bytes_same > 0), (1, true));
    let now = on_disk.read();
    assert!(shown(&[&read(&now[1]).unwrap()]) == on_disk.disk);
}

/// Where the parent gave a block up and kept its place, some programs show what lies
/// there: the child's zeros are written, though the parent seems to have them already.
/// Zeros that hide what a distant parent has need a place in the parent that shows it:
/// room for it is set aside.
#[test]
fn room_is_set_aside_for_zeros_that_hide_something() {
    let bottom = two_blocks(vec![], vec![(0, FULL, 0), (1, FULL, 0)]);
    let parent = Shape {
        link: Some(link_to(&bottom, "bottom.vhdx")),
        seed: 2,
        ..two_blocks(vec![], vec![(1, FULL, 0)])
    };
    let child = Shape {
        link: Some(link_to(&parent, "parent.vhdx")),
        seed: 3,
        ..two_blocks(vec![(0, 2)], vec![])
    };
    let files = Files([child, parent, bottom].map(|shape| shape.build(&[]).0).to_vec());
    let [child, parent] = [0, 1].map(|n| PageFile::new(files.0[n].clone()));
    let storage: Arc<dyn Storage> = parent.clone();
    let (above, below) = open_chain(&files, child.clone(), &storage).unwrap();
    let most = holdings(&*above, &*below).unwrap();
    drop((above, below));
    let done = merge(&files, child, &storage, 1 << 30).unwrap();
    assert_eq!((done.blocks_added, done.bitmaps_added), (1, 1));
    assert_eq!((most.absent_blocks, most.absent_bitmaps), (1, 1));
}

/// A new sector bitmap lies where an interrupted run may have left anything: of it nothing
/// stays, in bits of other blocks neither, though these mean nothing yet.
#[test]
fn a_new_bitmap_has_no_bits_but_what_was_written() {
    let bottom = two_blocks(vec![], vec![(0, FULL, 0)]);
    let link = Some(link_to(&bottom, "bottom.vhdx"));
    let parent = Shape { link, seed: 2, ..two_blocks(vec![], vec![(1, FULL, 0)]) };
    let (mut file, end) = (parent.build(&[]).0, parent.build(&[]).0.len);
    for at in (0..4 * MIB).step_by(4096) {
        file.write(end + at, &[0xFF; 4096]);
    }
    let storage = PageFile::new(file);
    let mut image = image::open(storage.clone()).unwrap();
    let below = image::open(PageFile::new(bottom.build(&[]).0)).unwrap();
    image.set_parent(Arc::from(below)).unwrap();
    image.write(&[GuestWrite { offset: 4096, data: vec![7; 1024] }]).unwrap();
    image.truncate().unwrap();
    let after = storage.pages();
    let seen = read(&after).unwrap();
    assert_eq!(seen.bitmaps, [end]);
    assert_eq!(after.get(end, 3), [0, 3, 0]);
    assert!(after.is_zero(end + 4096, MIB - 4096));
    assert_eq!(after.get(end + 2, 4094), [0; 4094]);
    let place = seen.blocks[0].1;
    assert_eq!(after.get(place + 4096, 1025)[1024], 0);
    assert_eq!(after.get(place, 4096), [0; 4096]);
}

#[test]
fn zeros_over_what_was_given_up_are_written() {
    let order = vec![(0, UNMAPPED, 0), (1, 1, 0), (2, UNMAPPED, 0), (3, UNMAPPED, 0)];
    let parent = Shape { seed: 3, ..two_blocks(vec![(5, 3)], order) };
    let link = Some(link_to(&parent, "parent.vhdx"));
    let entries = vec![(0, 2), (1, 3), (5, 2)];
    let child = Shape { link, seed: 4, ..two_blocks(entries, vec![(2, FULL, 0)]) };
    let files = Files(vec![child.build(&[2]).0, parent.build(&[]).0]);
    let on_disk = OnDisk::new("vhdx-merge-given-up", &files);
    let before = files.seen().remove(1);
    let report = on_disk.merge();
    assert_eq!(report.outcome, Outcome::Merged, "{report:?}");
    assert_eq!((report.bytes_merged, report.blocks_added), (3 * MIB, 0));
    let now = read(&on_disk.read()[1]).unwrap();
    for block in 0..3 {
        let place = before.blocks[block].1;
        assert_eq!(now.blocks[block], (FULL, place), "a place that was kept is used");
        assert!(now.file.is_zero(place, MIB));
    }
    assert_eq!(now.blocks[3..], before.blocks[3..]);
}

/// The last block of a file may be cut short, and what it lacks is zeros.
#[test]
fn a_parent_that_ends_in_the_middle_of_a_block_is_merged_into() {
    for (name, order) in [("added", vec![(3, FULL, 0)]), ("none", vec![(1, FULL, 0)])] {
        let places = vec![(0, FULL, 0), (1, FULL, 0)];
        let parent = Shape { seed: 3, ..two_blocks(vec![], places) };
        let link = Some(link_to(&parent, "parent.vhdx"));
        let child = Shape { link, seed: 4, ..two_blocks(vec![], order) };
        // Nothing is written to where the file ends: the run makes it whole all the same.
        let (child, _) = child.build_with(|block| child.data(block)[..1].to_vec());
        let (whole, _) = parent.build(&[]);
        let mut cut = whole.clone();
        cut.set_len(whole.len - 300 * 1024);
        let mut filled = cut.clone();
        filled.set_len(whole.len);
        let disk = Files(vec![child.clone(), filled]).shown(0);
        let on_disk =
            OnDisk::new(&format!("vhdx-merge-cut-{name}"), &Files(vec![child, whole]));
        write_sparsely(&on_disk.paths[1], &cut);
        let dry = on_disk.prepare().unwrap().plan(&mut |_| ControlFlow::Continue(()));
        let done = on_disk.merge();
        assert_eq!(done.outcome, Outcome::Merged, "{done:?}");
        let now = on_disk.read();
        assert_eq!(now[1].len, dry.parent_file_size_after);
        assert!(shown(&[&read(&now[1]).unwrap()]) == disk);
    }
}

#[test]
fn what_cannot_be_merged_is_refused_and_stays() {
    let parent = Shape { seed: 3, ..two_blocks(vec![], vec![(0, FULL, 0)]) };
    let link = Some(link_to(&parent, "parent.vhdx"));
    let child = Shape { link, seed: 4, ..two_blocks(vec![], vec![(1, FULL, 0)]) };
    let files = Files(vec![child.build(&[]).0, parent.build(&[]).0]);
    let on_disk = OnDisk::new("vhdx-merge-refused", &files);

    // A sibling, by its first parent or by its second.
    let sibling = on_disk.scratch.path("sibling.vhdx");
    for key in ["parent_linkage", "parent_linkage2"] {
        let mut other = Shape { seed: 5, ..child.clone() };
        let pairs = &mut other.link.as_mut().unwrap().pairs;
        pairs[0].0 = key.to_owned();
        if key == "parent_linkage2" {
            let id = "{00000001-0002-0003-0004-000000000005}".to_owned();
            pairs.push(("parent_linkage".to_owned(), id));
        }
        write_sparsely(&sibling, &other.build(&[]).0);
        let error = on_disk.refusal();
        assert_eq!(error.kind(), slimdisk::Kind::InUse);
        assert!(error.to_string().contains("sibling.vhdx"), "{error}");
    }
    fs::remove_file(sibling).unwrap();

    // A disk of another size.
    let short = Shape { blocks: 9, ..child.clone() };
    write_sparsely(&on_disk.paths[0], &short.build(&[]).0);
    assert!(on_disk.refusal().to_string().contains("what does not fit"));

    // A parent without a log, or of blocks that a fixed image lacks.
    write_sparsely(&on_disk.paths[0], &files.0[0]);
    for (words, shape) in [
        ("no room for a log", Shape { log_mib: 0, ..parent.clone() }),
        ("hold no data", Shape { flags: 1, ..parent.clone() }),
        (
            "hold no data",
            Shape {
                flags: 1,
                order: (0..10)
                    .map(|b| (b, if b == 4 { UNMAPPED } else { FULL }, 0))
                    .collect(),
                ..parent.clone()
            },
        ),
    ] {
        write_sparsely(&on_disk.paths[1], &shape.build(&[]).0);
        let error = on_disk.refusal();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.kind(), slimdisk::Kind::WrongImageType);
    }

    // A child that may not be written to, for it has to be told.
    write_sparsely(&on_disk.paths[1], &files.0[1]);
    let mut mode = fs::metadata(&on_disk.paths[0]).unwrap().permissions();
    mode.set_readonly(true);
    fs::set_permissions(&on_disk.paths[0], mode).unwrap();
    assert_eq!(on_disk.refusal().kind(), slimdisk::Kind::ReadOnly);
    assert!(on_disk.read() == on_disk.before);

    // What has no parent.
    let error = match Merging::prepare(&on_disk.paths[1], &Options::default()) {
        Ok(_) => panic!("a dynamic image was merged"),
        Err(error) => error,
    };
    assert_eq!(error.kind(), slimdisk::Kind::WrongImageType);
}

/// The parent of a VHDX that bears the right identity is a VHD all the same.
#[test]
fn a_vhd_is_no_parent_of_a_vhdx() {
    let mut noise = Noise::new(8);
    let mut below = crate::vhd_model::Shape::random(&mut noise);
    (below.batmap, below.spare_entries, below.creator) = (false, 0, *b"win ");
    let below = below.build(&[]);
    let id = crate::chain_model::id_in(&below);
    let text = slimdisk_id(&id);
    let mut shape = two_blocks(vec![], vec![(1, FULL, 0)]);
    shape.link = Some(link_to(&shape, "parent.vhd"));
    shape.link.as_mut().unwrap().pairs[0].1 = format!("{{{text}}}");
    let mut child = super::super::open(&shape.build(&[]).0).unwrap();
    let parent: Arc<dyn image::Image> =
        Arc::from(image::open(Arc::new(crate::faults::MemFile::new(below))).unwrap());
    assert_eq!(parent.facts().image_type, ImageType::Dynamic);
    let error = child.set_parent(parent).unwrap_err();
    assert_eq!(error.kind(), slimdisk::Kind::ParentMismatch);
    assert!(error.to_string().contains("this one is a vhd"), "{error}");
}

/// The usual form of an identifier in the order of its text.
fn slimdisk_id(id: &[u8]) -> String {
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| &hex[range]);
    parts.join("-")
}
