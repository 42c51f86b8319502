//! Volumes that Windows made.

use std::fs;

use slimdisk::storage::{ReadAt, Section};

use super::image::*;
use crate::support::{Noise, Scratch, have, samples, sh, skip};

/// The volume in a sample with an MBR and one partition.
fn volume(test: &str, sample: &str, prepare: &str) -> Option<(Scratch, Vec<u8>)> {
    let Some(samples) = samples() else {
        skip(test, "the folder of samples");
        return None;
    };
    if !have(test, &["zstd", "qemu-img", "ntfscat"]) {
        return None;
    }
    let scratch = Scratch::new(&format!("ntfs-{sample}"));
    sh(&format!(
        "cd {}; zstd -dqf {}/{sample}.zst -o disk; {prepare}",
        scratch.dir().display(),
        samples.display()
    ));
    let disk = fs::read(scratch.path("disk")).unwrap();
    let start = u64::from(u32(&disk, 446 + 8)) * 512;
    let length = u64::from(u32(&disk, 446 + 12)) * 512;
    let section = Section::new(&disk, start..start + length);
    let mut volume = vec![0; length as usize];
    section.read_at(0, &mut volume).unwrap();
    Some((scratch, volume))
}

fn agrees_with_ntfscat(scratch: &Scratch, volume: &Vec<u8>) {
    let image = scratch.path("volume.img");
    fs::write(&image, volume).unwrap();
    sh(&format!("cd {}; ntfscat -i 6 volume.img > bits", scratch.dir().display()));
    let bits = fs::read(scratch.path("bits")).unwrap();
    let layout = Layout::of(volume);
    let free = trusted(volume);
    assert!(!free.is_empty());
    for cluster in 0..layout.clusters {
        let at = (cluster * layout.cluster) as u64;
        assert_eq!(
            free.iter().any(|range| range.contains(&at)),
            bits[cluster / 8] >> (cluster % 8) & 1 == 0,
            "cluster {cluster}"
        );
    }
}

/// Overwrites all that is free; no file of the volume may notice.
fn survives_noise(scratch: &Scratch, volume: &[u8]) {
    if !have("ntfs windows survives_noise", &["ntfs-3g", "ntfsfix"]) {
        return;
    }
    let image = scratch.path("noise.img");
    fs::write(&image, volume).unwrap();
    let before = digests(&mount(&image, ",ro").dir);
    assert!(!before.is_empty());
    let mut bytes = volume.to_vec();
    for range in trusted(&bytes) {
        let (start, end) = (range.start as usize, range.end as usize);
        bytes[start..end].copy_from_slice(&Noise::new(range.start).bytes(end - start));
    }
    fs::write(&image, &bytes).unwrap();
    sh(&format!("ntfsfix -n {}", image.display()));
    assert!(digests(&mount(&image, ",ro").dir) == before, "a file has changed");
}

#[test]
fn fixed() {
    let Some((scratch, bytes)) = volume("ntfs windows fixed", "ntfs-fixed.vhd", "")
    else {
        return;
    };
    agrees_with_ntfscat(&scratch, &bytes);
    survives_noise(&scratch, &bytes);
    // Windows left its log in use and clean; without that flag it was unplugged.
    let layout = Layout::of(&bytes);
    let log = layout.data(&bytes, 2, 0x80);
    assert_eq!(&bytes[log..log + 4], b"RSTR");
    let mut unclean = bytes.clone();
    for page in [log, log + 4096] {
        let area = page + usize::from(u16(&bytes, page + 24));
        assert_eq!(u16(&bytes, area + 14) & 2, 2);
        unclean[area + 14] &= !2;
    }
    assert!(reason(&unclean).contains("not closed cleanly"));
}

#[test]
fn parent() {
    if let Some((scratch, bytes)) = volume("ntfs windows parent", "ntfs-parent.vhd", "") {
        agrees_with_ntfscat(&scratch, &bytes);
        survives_noise(&scratch, &bytes);
    }
}

#[test]
fn dynamic() {
    let convert = "mv disk disk.vhd; qemu-img convert -f vpc -O raw disk.vhd disk";
    if let Some((scratch, bytes)) =
        volume("ntfs windows dynamic", "ntfs-dynamic.vhd", convert)
    {
        agrees_with_ntfscat(&scratch, &bytes);
        survives_noise(&scratch, &bytes);
    }
}
