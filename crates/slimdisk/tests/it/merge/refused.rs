//! What is not merged, why, and that nothing is touched by being refused.

use std::fs;
use std::ops::ControlFlow;
#[cfg(unix)]
use std::os::unix::fs::PermissionsExt;

use slimdisk::merge::{Merging, Options, Outcome, Report};
use slimdisk::storage::HostFile;
use slimdisk::{Error, Kind};

use super::{Files, plain_chain};
use crate::chain_model::{Child, fixed, id_in};
use crate::support::{Noise, have, sh, skip};
use crate::vhd_model::{Shape, set_checksum};

fn files(test: &str) -> (Files, Vec<Vec<u8>>) {
    let chain = plain_chain(&mut Noise::new(31));
    (Files::new(test, &chain), chain)
}

/// The reason why a merge is not even begun.
#[track_caller]
fn refusal(files: &Files, kind: Kind, what: &str) -> Error {
    refusal_with(files, &Options::default(), kind, what)
}

#[track_caller]
fn refusal_with(files: &Files, options: &Options, kind: Kind, what: &str) -> Error {
    let before: Vec<_> = files.paths.iter().map(|path| fs::read(path).ok()).collect();
    let error = files.prepare(options).err().expect("it should have been refused");
    assert_eq!(error.kind(), kind, "{}", error.chain());
    assert!(error.chain().contains(what), "\"{}\" lacks \"{what}\"", error.chain());
    assert!(error.path().is_some(), "{}", error.chain());
    let after: Vec<_> = files.paths.iter().map(|path| fs::read(path).ok()).collect();
    assert!(after == before);
    error
}

/// Changes both footers of an expanding image, or the one of a fixed one.
fn change_footer(file: &mut [u8], change: impl Fn(&mut [u8])) {
    let at = file.len() - 512;
    let copies = if file[..8] == *b"conectix" { vec![0, at] } else { vec![at] };
    for at in copies {
        let footer = &mut file[at..at + 512];
        change(footer);
        set_checksum(footer, 64);
    }
}

#[test]
fn only_a_differencing_image_is_merged() {
    let (mut files, _) = files("only-differencing");
    files.paths.swap(0, 1);
    let error = refusal(&files, Kind::WrongImageType, "not a differencing image");
    let report = Report::refused(&files.paths[0], error);
    assert_eq!(report.outcome, Outcome::Failed);
    assert_eq!(report.error.unwrap().hresult, "0xA004067B");
    fs::write(&files.paths[0], fixed(&[1; 8192], 4)).unwrap();
    refusal(&files, Kind::WrongImageType, "not a differencing image");
    fs::write(&files.paths[0], [0; 4096]).unwrap();
    refusal(&files, Kind::InvalidImage, "not a disk image");
    fs::remove_file(&files.paths[0]).unwrap();
    refusal(&files, Kind::NotFound, "");
}

#[test]
fn a_saved_state_is_in_use() {
    for index in 0..2 {
        let (files, mut chain) = files(&format!("saved-{index}"));
        change_footer(&mut chain[index], |footer| footer[84] = 1);
        fs::write(&files.paths[index], &chain[index]).unwrap();
        let error = refusal(&files, Kind::InUse, "saved state");
        let named = error.path().unwrap().file_name().unwrap();
        assert_eq!(named, files.paths[index].file_name().unwrap());
    }
}

#[test]
fn what_tapdisk_encrypts_or_numbers_otherwise_is_not_written_to() {
    let (files, chain) = files("tapdisk");
    let shape = Shape {
        block_size: 65536,
        blocks: 64,
        order: vec![(1, 0)],
        aligned: false,
        spare_entries: 0,
        batmap: true,
        creator: *b"tap\0",
        seed: 9,
    };
    let mut parent = shape.build(&[]);
    let id = id_in(&chain[1]);
    change_footer(&mut parent, |footer| footer[68..84].copy_from_slice(&id));
    fs::write(&files.paths[1], &parent).unwrap();
    files.prepare(&Options::default()).unwrap();
    let mut encrypted = parent.clone();
    assert_eq!(encrypted[0x800..0x808], *b"tdbatmap");
    encrypted[0x800 + 29] = 1;
    fs::write(&files.paths[1], &encrypted).unwrap();
    refusal(&files, Kind::WrongImageType, "encrypted");
    change_footer(&mut parent, |f| f[32..36].copy_from_slice(&1u32.to_be_bytes()));
    fs::write(&files.paths[1], &parent).unwrap();
    refusal(&files, Kind::WrongImageType, "tapdisk 0.1");
}

#[test]
fn an_encrypted_child_is_not_merged() {
    let (files, chain) = files("encrypted");
    let shape = Shape {
        block_size: 65536,
        blocks: 64,
        order: vec![(1, 0)],
        aligned: false,
        spare_entries: 0,
        batmap: true,
        creator: *b"tap\0",
        seed: 9,
    };
    let mut child = Child::new(shape.clone(), id_in(&chain[1]), "parent.vhd")
        .build(|_| vec![0xFF; 16], |block| shape.data(block));
    fs::write(&files.paths[0], &child).unwrap();
    files.prepare(&Options::default()).unwrap();
    child[0x800 + 29] = 1;
    fs::write(&files.paths[0], &child).unwrap();
    refusal(&files, Kind::WrongImageType, "encrypted");
}

#[cfg(unix)]
#[test]
fn a_parent_that_may_not_be_written_to_is_read_only() {
    let (files, _) = files("read-only");
    let mode = |mode| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(&files.paths[1], permissions).unwrap();
    };
    mode(0o444);
    let error = refusal(&files, Kind::ReadOnly, "read-only");
    assert!(error.path().unwrap().ends_with("parent.vhd"));
    mode(0o644);
    // The child is not written to.
    fs::set_permissions(&files.paths[0], fs::Permissions::from_mode(0o444)).unwrap();
    files.complete();
}

#[test]
fn a_parent_must_be_there_and_the_right_one() {
    let (files, mut chain) = files("parent");
    let away = files.scratch.path("elsewhere");
    fs::rename(&files.paths[1], &away).unwrap();
    refusal(&files, Kind::ParentNotFound, "parent.vhd");
    change_footer(&mut chain[1], |footer| footer[70] ^= 1);
    fs::write(&files.paths[1], &chain[1]).unwrap();
    refusal(&files, Kind::ParentMismatch, "not the parent");
    fs::write(&files.paths[1], &chain[1][..3000]).unwrap();
    refusal(&files, Kind::InvalidImage, "");
    fs::rename(&away, &files.paths[1]).unwrap();
    files.complete();
}

#[test]
fn disks_of_different_sizes_do_not_merge() {
    let (files, mut chain) = files("sizes");
    for less in [512, 65536] {
        let mut child = chain[0].clone();
        let size = u64::from_be_bytes(child[48..56].try_into().unwrap()) - less;
        change_footer(&mut child, |f| f[48..56].copy_from_slice(&size.to_be_bytes()));
        fs::write(&files.paths[0], &child).unwrap();
        refusal(&files, Kind::WrongImageType, "merge --to NEW");
    }
    fs::write(&files.paths[0], &chain[0]).unwrap();
    let id = id_in(&chain[1]);
    chain[1] = fixed(&vec![9; files.disk.len() - 65536], 4);
    change_footer(&mut chain[1], |footer| footer[68..84].copy_from_slice(&id));
    fs::write(&files.paths[1], &chain[1]).unwrap();
    refusal(&files, Kind::WrongImageType, "bytes");
}

/// What would show something else afterwards, in the folder of either.
#[test]
fn a_sibling_forbids_it() {
    let (files, mut chain) = files("siblings");
    change_footer(&mut chain[0], |footer| footer[70] ^= 1);
    let sibling = files.scratch.path("sibling.avhd");
    fs::write(&sibling, &chain[0]).unwrap();
    refusal(&files, Kind::InUse, "sibling.avhd");
    fs::remove_file(&sibling).unwrap();

    // The parent in a folder of its own, with a sibling beside it or beside the child.
    let folder = files.scratch.path("parents");
    fs::create_dir(&folder).unwrap();
    let parent = folder.join("parent.vhd");
    fs::rename(&files.paths[1], &parent).unwrap();
    let mut options = Options::default();
    options.parents.dirs = vec![folder.clone()];
    let files = Files { paths: vec![files.paths[0].clone(), parent], ..files };
    for sibling in [folder.join("other.vhd"), files.scratch.path("other.vhd")] {
        fs::write(&sibling, &chain[0]).unwrap();
        refusal_with(&files, &options, Kind::InUse, "other.vhd");
        fs::remove_file(&sibling).unwrap();
    }
    // A child of the child is none, but is told of.
    let mut grandchild = chain[0].clone();
    let id = id_in(&fs::read(&files.paths[0]).unwrap());
    grandchild[512 + 40..512 + 56].copy_from_slice(&id);
    set_checksum(&mut grandchild[512..1536], 36);
    fs::write(files.scratch.path("grandchild.vhd"), grandchild).unwrap();
    let merged = Merging::prepare(&files.paths[0], &options)
        .unwrap()
        .run(&mut |_| ControlFlow::Continue(()));
    assert_eq!(merged.outcome, Outcome::Merged, "{merged:?}");
    let told = merged.notes.iter().any(|note| note.contains("grandchild.vhd names it"));
    assert!(told, "{:?}", merged.notes);
}

/// A file that nobody can look at may be a sibling.
#[test]
fn what_cannot_be_looked_at_forbids_it() {
    let (files, chain) = files("unseen");
    let other = files.scratch.path("other.vhd");
    fs::write(&other, &chain[1]).unwrap();
    let held = HostFile::open_exclusive(&other).unwrap();
    refusal(&files, Kind::InUse, "could be looked at");
    drop(held);
    files.complete();
}

/// A process that has a file and goes away with this value.
struct Holder(std::process::Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Holder {
    fn python(path: &std::path::Path, code: &str) -> Holder {
        use std::io::Read as _;
        use std::process::{Command, Stdio};
        let script = format!(
            "import os,sys,fcntl\np=sys.argv[1]\n{code}\nprint('ready',flush=True)\n\
             sys.stdin.read()"
        );
        let mut child = Command::new("python3")
            .args(["-c", &script])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut answer = [0; 5];
        child.stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
        Holder(child)
    }
}

#[test]
fn an_image_that_somebody_has_is_in_use() {
    let test = "an_image_that_somebody_has_is_in_use";
    if !have(test, &["python3"]) {
        return;
    }
    let (files, _) = files("held");
    let (child, parent) = (&files.paths[0], &files.paths[1]);
    for (path, code) in [
        // Whoever reads the parent would see it change.
        (parent, "f=open(p,'rb')"),
        (parent, "f=open(p,'r+b')"),
        (parent, "f=open(p,'rb'); fcntl.flock(f, fcntl.LOCK_SH)"),
        (child, "f=open(p,'r+b')"),
        (child, "f=open(p,'rb'); fcntl.flock(f, fcntl.LOCK_EX)"),
    ] {
        let holder = Holder::python(path, code);
        let error = refusal(&files, Kind::InUse, "in use");
        let named = error.path().unwrap().file_name().unwrap();
        assert_eq!(named, path.file_name().unwrap(), "{code}");
        drop(holder);
    }
    // The child may be read by others meanwhile.
    let _reader = Holder::python(child, "f=open(p,'rb')");
    files.complete();
}

#[test]
fn a_parent_that_qemu_has_is_in_use() {
    let test = "a_parent_that_qemu_has_is_in_use";
    if !have(test, &["qemu-nbd"]) {
        return;
    }
    let (files, _) = files("qemu");
    let pid = files.scratch.path("pid");
    for options in ["", "-r"] {
        sh(&format!(
            "qemu-nbd --fork {options} -f vpc -t -k {0}/socket --pid-file={1} {2}",
            files.scratch.dir().display(),
            pid.display(),
            files.paths[1].display()
        ));
        let error = refusal(&files, Kind::InUse, "in use");
        assert!(error.path().unwrap().ends_with("parent.vhd"));
        sh(&format!(
            "pid=$(cat {0}); kill $pid; while kill -0 $pid 2>/dev/null; do sleep 0.05; done",
            pid.display()
        ));
        let _ = fs::remove_file(&pid);
    }
    files.complete();
}

/// An empty parent whose table could name no further places: its only block lies just
/// below 2 TiB, in a hole.
#[test]
fn a_parent_at_the_end_of_what_a_vhd_can_name() {
    let test = "a_parent_at_the_end_of_what_a_vhd_can_name";
    let (files, chain) = files("far");
    let file = fs::File::options().read(true).write(true).open(&files.paths[1]).unwrap();
    let far: u32 = 0xFFFF_FF00;
    let place = u64::from(far) * 512;
    if file.set_len(place + (1 << 20)).is_err() {
        return skip(test, "a file system with files of 2 TiB");
    }
    use crate::vhd_model::FileAt as _;
    let from = u64::from(u32::from_be_bytes(chain[1][0x600..0x604].try_into().unwrap()));
    let block = &chain[1][from as usize * 512..][..512 + 65536];
    file.write_all_at(block, place).unwrap();
    file.write_all_at(&far.to_be_bytes(), 0x600).unwrap();
    let footer = &chain[1][chain[1].len() - 512..];
    file.set_len(place + 512 + 65536 + 512).unwrap();
    file.write_all_at(footer, place + 512 + 65536).unwrap();
    drop(file);
    let error = files.prepare(&Options::default()).err().unwrap();
    assert_eq!(error.kind(), Kind::DiskTooLarge, "{}", error.chain());
    assert!(error.path().unwrap().ends_with("parent.vhd"));
}
