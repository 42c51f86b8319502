//! Whole runs on real guests: every container layout, every partition scheme,
//! every kind of volume, made and judged by other people's tools.

use std::collections::BTreeSet;
use std::fs;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

use slimdisk::compact::{self, Options, Outcome, Report};
use slimdisk::ranges::Ranges;

use crate::ext::dumpe2fs_free;
use crate::ntfs::image::{digests, mkntfs, mount};
use crate::support::{Noise, Scratch, have, sh};
use crate::vhd_model::{Shape, read_strictly};

const MIB: usize = 1 << 20;
const VOLUME: u64 = 56 << 20;

pub fn quick() -> Options {
    let mut options = Options::default();
    options.verify = true;
    options
}

pub fn compact(path: &Path, options: &Options) -> Report {
    compact::compact(path, options, &mut |_| ControlFlow::Continue(()))
}

pub fn plan(path: &Path, options: &Options) -> Report {
    compact::plan_disk(path, options, &mut |_| ControlFlow::Continue(()))
}

/// The bytes of a bare disk after it was compacted as a VHD, which won something.
pub fn compacted_bare(scratch: &Scratch, disk: &[u8]) -> Vec<u8> {
    let (path, raw) = (scratch.path("bare.vhd"), scratch.path("bare.raw"));
    fs::write(&path, Shape::of_disk(disk, 2 * MIB, true, *b"win ")).unwrap();
    let report = compact(&path, &quick());
    assert_eq!(report.error, None);
    assert_eq!(report.outcome, Outcome::Compacted, "{report:?}");
    sh(&format!("qemu-img convert -f vpc -O raw {} {}", path.display(), raw.display()));
    let mut bytes = fs::read(raw).unwrap();
    bytes.truncate(disk.len());
    assert!(bytes != disk, "nothing of it was free");
    bytes
}

/// Files of all sizes in a few folders.
fn make_files(dir: &Path) -> Vec<String> {
    let mut noise = Noise::new(17);
    let mut names = Vec::new();
    let mut written = 0;
    while written < 30 << 20 {
        let number = names.len();
        let folder = format!("folder{}", number % 5);
        fs::create_dir_all(dir.join(&folder)).unwrap();
        let len = match number % 4 {
            0 => noise.below(3000),
            1 => noise.below(100_000),
            _ => noise.below(1_500_000),
        };
        let name = format!("{folder}/file{number}");
        fs::write(dir.join(&name), noise.bytes(len as usize)).unwrap();
        names.push(name);
        written += len;
    }
    names
}

/// A volume filled and half emptied by its own tools.
pub struct Volume {
    /// `mke2fs` or `mkntfs` options.
    kind: Kind,
    pub bytes: Vec<u8>,
    /// Bytes that its own tools call free.
    pub free: Ranges,
    /// What is still there, as `sha256sum` prints it.
    files: BTreeSet<String>,
}

#[derive(Clone, Copy)]
pub enum Kind {
    Ext(&'static str),
    Ntfs(&'static str),
}

impl Volume {
    pub fn make(scratch: &Scratch, kind: Kind) -> Volume {
        let pool = scratch.path("pool");
        let names = make_files(&pool);
        // A long stretch of them, and scattered ones around it.
        let (first, last) = (names.len() / 4, names.len() * 3 / 4);
        let goes = |n: usize| (first..last).contains(&n) || n.is_multiple_of(5);
        let numbered = names.iter().enumerate();
        let deleted: Vec<_> =
            numbered.filter(|(n, _)| goes(*n)).map(|(_, name)| name).collect();
        let image = match kind {
            Kind::Ext(options) => {
                let image = scratch.path("volume");
                sh(&format!(
                    "mke2fs -q -F {options} -d {} {} {}k",
                    pool.display(),
                    image.display(),
                    VOLUME / 1024
                ));
                let rm: Vec<_> =
                    deleted.iter().map(|name| format!("rm {name}")).collect();
                sh(&format!(
                    "debugfs -w -f - {} >/dev/null 2>&1 <<'END'\n{}\nEND",
                    image.display(),
                    rm.join("\n")
                ));
                image
            }
            Kind::Ntfs(options) => {
                let image = mkntfs(scratch, "volume", VOLUME, options);
                let mounted = mount(&image, "");
                sh(&format!("cp -r {}/. {}", pool.display(), mounted.dir.display()));
                for name in &deleted {
                    fs::remove_file(mounted.dir.join(name)).unwrap();
                }
                image
            }
        };
        let free: Ranges = match kind {
            Kind::Ext(_) => dumpe2fs_free(&image).into_iter().collect(),
            Kind::Ntfs(_) => ntfscat_free(&image),
        };
        for name in deleted {
            fs::remove_file(pool.join(name)).unwrap();
        }
        let files = sums(&pool);
        assert!(free.total() > 20 << 20 && files.len() > 20);
        Volume { kind, bytes: fs::read(&image).unwrap(), free, files }
    }

    /// Has the volume's own tools check it, and compares every file.
    pub fn judge(&self, scratch: &Scratch, bytes: &[u8]) {
        let image = scratch.path("judged");
        fs::write(&image, bytes).unwrap();
        let files = match self.kind {
            Kind::Ext(_) => {
                sh(&format!("e2fsck -fn {} 2>&1", image.display()));
                let out = scratch.path("dumped");
                let _ = fs::remove_dir_all(&out);
                fs::create_dir_all(&out).unwrap();
                let (from, to) = (image.display(), out.display());
                sh(&format!("debugfs -R 'rdump / {to}' {from} >/dev/null 2>&1"));
                let _ = fs::remove_dir_all(out.join("lost+found"));
                sums(&out)
            }
            Kind::Ntfs(_) => {
                sh(&format!("ntfsfix -n {}", image.display()));
                sums(&mount(&image, ",ro").dir)
            }
        };
        assert!(files == self.files, "the files are not the same");
    }
}

fn sums(dir: &Path) -> BTreeSet<String> {
    digests(dir)
        .into_iter()
        .map(|(path, sum)| format!("{sum} {}", path.display()))
        .collect()
}

/// The free clusters of `$Bitmap` as `ntfscat` gives it.
pub fn ntfscat_free(image: &Path) -> Ranges {
    let bitmap = image.with_extension("bitmap");
    sh(&format!("ntfscat -i 6 {} > {}", image.display(), bitmap.display()));
    let bitmap = fs::read(bitmap).unwrap();
    let boot = &fs::read(image).unwrap()[..512];
    let sector = u64::from(u16::from_le_bytes([boot[11], boot[12]]));
    let per_cluster = match boot[13] {
        count @ ..=0x80 => u64::from(count),
        shift => 1 << (256 - u64::from(shift)),
    };
    let sectors = u64::from_le_bytes(boot[40..48].try_into().unwrap());
    let cluster = sector * per_cluster;
    (0..sectors / per_cluster)
        .filter(|c| bitmap[(c / 8) as usize] & (1 << (c % 8)) == 0)
        .map(|c| c * cluster..(c + 1) * cluster)
        .collect()
}

/// How a disk is divided.
pub const SCHEMES: [&str; 3] = ["bare", "mbr", "gpt"];

/// A disk with the volume in it, and noise where boot loaders live.
pub fn make_disk(
    scratch: &Scratch,
    volume: &Volume,
    scheme: &str,
) -> (Vec<u8>, Range<usize>) {
    let len = volume.bytes.len();
    if scheme == "bare" {
        return (volume.bytes.clone(), 0..len);
    }
    let mut disk = vec![0; len + 3 * MIB];
    let path = scratch.path("table");
    fs::write(&path, &disk).unwrap();
    let (label, kind) = match (scheme, volume.kind) {
        ("mbr", Kind::Ext(_)) => ("dos", "83"),
        ("mbr", Kind::Ntfs(_)) => ("dos", "7"),
        (_, Kind::Ext(_)) => ("gpt", "linux"),
        (_, Kind::Ntfs(_)) => ("gpt", "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"),
    };
    sh(&format!(
        "echo '2048,{},{kind}' | sfdisk -q -X {label} {}",
        len / 512,
        path.display()
    ));
    disk.copy_from_slice(&fs::read(&path).unwrap());
    let volume_at = MIB..MIB + len;
    disk[volume_at.clone()].copy_from_slice(&volume.bytes);
    // A boot loader behind the tables.
    disk[64 * 1024..200 * 1024].copy_from_slice(&Noise::new(9).bytes(136 * 1024));
    (disk, volume_at)
}

/// The three ways in which real programs lay a VHD out.
const CONTAINERS: [&str; 3] = ["qemu", "windows", "old"];

pub fn make_vhd(scratch: &Scratch, disk: &[u8], container: &str) -> (PathBuf, usize) {
    let path = scratch.path("disk.vhd");
    let _ = fs::remove_file(&path);
    let block_size = match container {
        "qemu" => {
            let raw = scratch.path("disk.raw");
            fs::write(&raw, disk).unwrap();
            sh(&format!(
                "qemu-img convert -f raw -O vpc -o force_size=on {} {}",
                raw.display(),
                path.display()
            ));
            2 * MIB
        }
        "windows" => {
            fs::write(&path, Shape::of_disk(disk, 2 * MIB, true, *b"win ")).unwrap();
            2 * MIB
        }
        _ => {
            fs::write(&path, Shape::of_disk(disk, MIB / 2, false, *b"vpc ")).unwrap();
            MIB / 2
        }
    };
    (path, block_size)
}

/// The blocks that must stay: those that hold a used cluster, and those that hold
/// anything outside the volume, as far as they are there at all.
pub fn blocks_to_stay(
    disk: &[u8],
    volume: &Volume,
    at: &Range<usize>,
    block_size: usize,
) -> usize {
    let needed = |block: usize, data: &[u8]| {
        let start = block * block_size;
        (0..data.len()).step_by(512).any(|offset| {
            let byte = start + offset;
            if at.contains(&byte) {
                let sector = (byte - at.start) as u64;
                !volume.free.covers(&(sector..sector + 512))
            } else {
                data[offset..(offset + 512).min(data.len())].iter().any(|b| *b != 0)
            }
        })
    };
    disk.chunks(block_size)
        .enumerate()
        .filter(|(block, data)| data.iter().any(|b| *b != 0) && needed(*block, data))
        .count()
}

fn every_container_and_scheme(test: &str, kind: Kind) {
    let tools = ["mke2fs", "debugfs", "e2fsck", "dumpe2fs", "qemu-img", "sfdisk"];
    let ntfs_tools = ["mkntfs", "ntfs-3g", "ntfsfix", "ntfscat"];
    if !have(test, &tools) || matches!(kind, Kind::Ntfs(_)) && !have(test, &ntfs_tools) {
        return;
    }
    let scratch = Scratch::new(test);
    let volume = Volume::make(&scratch, kind);
    for scheme in SCHEMES {
        let (disk, at) = make_disk(&scratch, &volume, scheme);
        for container in CONTAINERS {
            let cell = format!("{test}, {scheme}, {container}");
            let (path, block_size) = make_vhd(&scratch, &disk, container);
            let before = fs::metadata(&path).unwrap();
            let planned = plan(&path, &quick());
            let report = compact(&path, &quick());
            assert_eq!(report.error, None, "{cell}");
            assert_eq!(report.outcome, Outcome::Compacted, "{cell}: {report:?}");
            let after = fs::metadata(&path).unwrap();
            assert_eq!(after.len(), report.file_size_after, "{cell}");
            assert_eq!(planned.file_size_after, report.file_size_after, "{cell}");
            assert_eq!(planned.blocks, report.blocks, "{cell}");
            assert_eq!(after.modified().unwrap(), before.modified().unwrap(), "{cell}");
            assert!(report.verified.is_some(), "{cell}");

            let stay = blocks_to_stay(&disk, &volume, &at, block_size);
            assert_eq!(report.blocks.allocated_after, stay as u64, "{cell}");
            let file = fs::read(&path).unwrap();
            let blocks = read_strictly(&file).unwrap_or_else(|e| panic!("{cell}: {e}"));
            assert_eq!(blocks.iter().flatten().count(), stay, "{cell}");

            // Outside the volume not a byte differs; inside, its tools judge.
            let raw = scratch.path("after.raw");
            sh(&format!(
                "qemu-img convert -f vpc -O raw {} {}",
                path.display(),
                raw.display()
            ));
            let back = fs::read(&raw).unwrap();
            assert!(
                back[..at.start] == disk[..at.start],
                "{cell}: bytes before the volume"
            );
            assert!(
                back[at.end..disk.len()] == disk[at.end..],
                "{cell}: bytes behind it"
            );
            volume.judge(&scratch, &back[at.clone()]);

            let again = compact(&path, &quick());
            assert_eq!(again.outcome, Outcome::NothingToDo, "{cell}");
            assert_eq!(again.io.bytes_written, Some(0), "{cell}");
        }
    }
}

#[test]
fn ntfs_512() {
    every_container_and_scheme("ntfs_512", Kind::Ntfs("-c 512"));
}

#[test]
fn ntfs_4k() {
    every_container_and_scheme("ntfs_4k", Kind::Ntfs("-c 4096"));
}

#[test]
fn ntfs_64k() {
    every_container_and_scheme("ntfs_64k", Kind::Ntfs("-c 65536"));
}

#[test]
fn ext2() {
    every_container_and_scheme("ext2", Kind::Ext("-t ext2"));
}

#[test]
fn ext3() {
    every_container_and_scheme("ext3", Kind::Ext("-t ext3 -J size=4"));
}

#[test]
fn ext4_1k() {
    every_container_and_scheme("ext4_1k", Kind::Ext("-t ext4 -b 1024 -J size=4"));
}

#[test]
fn ext4_4k() {
    every_container_and_scheme("ext4_4k", Kind::Ext("-t ext4 -b 4096 -J size=4"));
}

#[test]
fn ext4_bigalloc() {
    every_container_and_scheme(
        "ext4_bigalloc",
        Kind::Ext("-t ext4 -O bigalloc -C 16384 -J size=4"),
    );
}
