//! The free map is the one that others see, and nothing in it is alive.

use std::fs;
use std::ops::Range;
use std::path::Path;

use slimdisk::storage::{HostFile, Meter, ReadAt};

use super::image::*;
use crate::free_map::{ddrescue_free, push};
use crate::support::{Noise, Scratch, have, sh};

/// The free clusters as `ntfscat` prints `$Bitmap`.
fn by_ntfscat(image: &Path, layout: &Layout) -> Vec<Range<u64>> {
    let bits = image.with_extension("bits");
    sh(&format!("ntfscat -i 6 {} > {}", image.display(), bits.display()));
    let bits = fs::read(bits).unwrap();
    let mut free: Vec<Range<u64>> = Vec::new();
    for cluster in 0..layout.clusters {
        if bits[cluster / 8] >> (cluster % 8) & 1 == 0 {
            let start = (cluster * layout.cluster) as u64;
            let end = start + layout.cluster as u64;
            push(&mut free, start..end);
        }
    }
    free
}

/// The free ranges of partclone's map.
fn by_partclone(image: &Path) -> Vec<Range<u64>> {
    let map = image.with_extension("map");
    sh(&format!(
        "partclone.ntfs -D -q -s {} -o {map} -L {map}.log >/dev/null 2>&1",
        image.display(),
        map = map.display()
    ));
    ddrescue_free(&fs::read_to_string(map).unwrap())
}

fn check(name: &str, size: u64, options: &str) {
    let scratch = Scratch::new(name);
    let image = mkntfs(&scratch, "volume.img", size, options);
    let cluster = Layout::of(&fs::read(&image).unwrap()).cluster as u64;
    let before = {
        let mounted = mount(&image, "");
        churn(&mounted.dir, size * 6 / 10, cluster);
        digests(&mounted.dir)
    };
    assert!(before.len() > 15, "{}", before.len());

    let mut bytes = fs::read(&image).unwrap();
    let layout = Layout::of(&bytes);
    let free = trusted(&bytes);
    assert_eq!(free, by_ntfscat(&image, &layout));
    assert_eq!(free, by_partclone(&image));

    let mut noise = Noise::new(7);
    let mut old_data = 0;
    for range in &free {
        let range = range.start as usize..range.end as usize;
        old_data += bytes[range.clone()].iter().filter(|byte| **byte != 0).count() as u64;
        let length = range.len();
        bytes[range].copy_from_slice(&noise.bytes(length));
    }
    assert!(old_data > size / 10, "only {old_data} bytes of deleted files");
    fs::write(&image, &bytes).unwrap();
    sh(&format!("ntfsfix -n {} && ntfsresize -i -f {0}", image.display()));
    let mounted = mount(&image, ",ro");
    assert!(digests(&mounted.dir) == before, "a file has changed");
}

const TOOLS: &[&str] =
    &["mkntfs", "ntfs-3g", "ntfscat", "ntfsfix", "ntfsresize", "partclone.ntfs"];

#[test]
fn clusters_of_512() {
    if have("ntfs clusters_of_512", TOOLS) {
        check("ntfs-512", 16 << 20, "-c 512");
    }
}

#[test]
fn clusters_of_4096() {
    if have("ntfs clusters_of_4096", TOOLS) {
        check("ntfs-4096", 32 << 20, "-c 4096");
    }
}

/// Clusters smaller than two file records, and files that are compressed.
#[test]
fn compressed_clusters_of_1024() {
    if have("ntfs compressed_clusters_of_1024", TOOLS) {
        check("ntfs-compressed", 24 << 20, "-C -c 1024");
    }
}

#[test]
fn clusters_of_16k_not_indexed() {
    if have("ntfs clusters_of_16k_not_indexed", TOOLS) {
        check("ntfs-16k", 32 << 20, "-I -c 16384 -z 4");
    }
}

#[test]
fn clusters_of_64k() {
    if have("ntfs clusters_of_64k", TOOLS) {
        check("ntfs-64k", 64 << 20, "-c 65536");
    }
}

#[test]
fn clusters_of_2m() {
    if have("ntfs clusters_of_2m", TOOLS) {
        check("ntfs-2m", 200 << 20, "-c 2097152");
    }
}

#[test]
fn sectors_of_4096() {
    if have("ntfs sectors_of_4096", TOOLS) {
        check("ntfs-4kn", 32 << 20, "-s 4096");
    }
}

#[test]
fn a_large_volume_costs_little_more_than_its_bitmap() {
    if !have("ntfs a_large_volume", &["mkntfs"]) {
        return;
    }
    let scratch = Scratch::new("ntfs-large");
    let image = mkntfs(&scratch, "volume.img", 4 << 30, "-L Large");
    let volume = Meter::new(HostFile::open_read(&image).unwrap());
    let (findings, free) = survey(&volume);
    assert_eq!(findings.untrusted, None);
    assert_eq!(findings.filesystem, "ntfs");
    assert_eq!(findings.label.as_deref(), Some("Large"));
    assert_eq!(findings.unit, 4096);
    // mkntfs leaves the last sector to the backup boot sector.
    assert_eq!(findings.length, (volume.len() - 512) / 4096 * 4096);
    assert!(free.len() < 10 && findings.free_bytes > 3 << 30);
    let bitmap = findings.length / 4096 / 8;
    let read = volume.counts().bytes_read;
    assert!(read < bitmap + (256 << 10), "{read} bytes for a bitmap of {bitmap}");
}
