//! Page files: given up only when asked for, and nothing else with them.

use std::fs;
use std::ops::Range;
use std::path::Path;

use slimdisk::ranges::Ranges;
use slimdisk::volume::Allowances;

use super::image::*;
use super::untrusted::assert_has;
use crate::free_map::{scribble, survey_allowing};
use crate::support::{Noise, Scratch, have, sh};

fn dropping() -> Allowances {
    let mut allow = Allowances::default();
    allow.drop_swap = true;
    allow
}

/// The clusters of a file, as bytes, as `ntfscluster` lists them.
fn by_ntfscluster(image: &Path, name: &str, cluster: usize) -> Vec<Range<u64>> {
    let list = sh(&format!("ntfscluster -F {name} {}", image.display()));
    let numbers = |line: &str| {
        line.split_whitespace().map(|n| n.parse::<u64>().ok()).collect::<Option<Vec<_>>>()
    };
    let mut ranges = Vec::new();
    for line in list.lines().filter_map(numbers) {
        if let [_, start, length] = line[..] {
            let unit = cluster as u64;
            ranges.push(start * unit..(start + length) * unit);
        }
    }
    assert!(!ranges.is_empty(), "{list}");
    ranges
}

/// A volume whose page files lie in pieces between other files.
fn make(scratch: &Scratch) -> std::path::PathBuf {
    let image = mkntfs(scratch, "volume.img", 32 << 20, "-c 4096");
    let mounted = mount(&image, "");
    let mut noise = Noise::new(9);
    let mut write = |name: &str, len: usize| {
        fs::write(mounted.dir.join(name), noise.bytes(len)).unwrap();
    };
    let sizes = [40_000, 90_000, 200_000];
    for number in 0..90 {
        write(&format!("file {number}"), sizes[number % 3]);
    }
    for number in (0..90).step_by(2) {
        fs::remove_file(mounted.dir.join(format!("file {number}"))).unwrap();
    }
    // No room is left but that of small files here and there.
    let filler = vec![5; 100_000];
    let mut fillers = 0;
    while fs::write(mounted.dir.join(format!("filler {fillers}")), &filler).is_ok() {
        fillers += 1;
    }
    for number in (1..30).step_by(2) {
        fs::remove_file(mounted.dir.join(format!("file {number}"))).unwrap();
    }
    write("pagefile.sys", 700_000);
    write("SwapFile.sys", 300_000);
    drop(mounted);
    image
}

#[test]
fn go_only_when_asked_for() {
    let test = "ntfs page_files";
    if !have(test, &["mkntfs", "ntfs-3g", "ntfscluster", "ntfsfix", "ntfs-3g.probe"]) {
        return;
    }
    let scratch = Scratch::new("ntfs-page-files");
    let image = make(&scratch);
    let mut bytes = fs::read(&image).unwrap();
    let layout = Layout::of(&bytes);
    let pieces = |name| by_ntfscluster(&image, name, layout.cluster);
    let page_files: Ranges =
        pieces("pagefile.sys").into_iter().chain(pieces("SwapFile.sys")).collect();
    assert!(page_files.count() > 3, "in too few pieces: {page_files:?}");

    let kept = trusted(&bytes);
    let (found, free) = survey_allowing("ntfs", &bytes, &dropping());
    assert_eq!(found.untrusted, None);
    assert_eq!(found.swap_bytes, page_files.total());
    assert_eq!(survey(&bytes).0.swap_bytes, page_files.total());
    let mut expected: Ranges = kept.iter().cloned().collect();
    for range in page_files.iter() {
        assert!(!expected.intersects(&range));
        expected.insert(range);
    }
    assert_eq!(free.iter().cloned().collect::<Ranges>(), expected);

    let before = {
        let mounted = mount(&image, "");
        digests(&mounted.dir)
    };
    scribble(&mut bytes, &free);
    fs::write(&image, &bytes).unwrap();
    sh(&format!("ntfsfix -n {0} && ntfs-3g.probe --readwrite {0}", image.display()));
    let mounted = mount(&image, "");
    let mut after = digests(&mounted.dir);
    for name in ["./pagefile.sys", "./SwapFile.sys"] {
        let lost = after.insert(name.into(), before[Path::new(name)].clone());
        assert_ne!(lost.as_ref(), before.get(Path::new(name)), "it kept its content");
    }
    assert_eq!(after, before);
}

#[test]
fn what_only_looks_like_one_stays() {
    let test = "ntfs what_only_looks_like_a_page_file_stays";
    let Some(volume) = super::untrusted::Volume::new(test, &[]) else { return };
    let file = |name: &str, head: &[u8]| {
        let mut content = head.to_vec();
        content.resize(100_000, 5);
        volume.changed(|dir| fs::write(dir.join(name), content).unwrap())
    };
    let swap = |bytes: &Vec<u8>| {
        let (found, free) = survey_allowing("ntfs", bytes, &dropping());
        assert_eq!(found.untrusted, None);
        if found.swap_bytes == 0 {
            assert_eq!(free, trusted(bytes));
        }
        found.swap_bytes
    };
    let sound = file("pagefile.sys", b"");
    assert!(swap(&sound) >= 100_000);
    // A crash dump that is still to be saved.
    assert_eq!(swap(&file("pagefile.sys", b"PAGEDU64")), 0);
    assert_eq!(swap(&file("pagefile.sys", b"PAGEDUMP")), 0);
    assert_eq!(swap(&file("pagefile.sys.bak", b"")), 0);
    assert_eq!(swap(&file("folder pagefile.sys", b"")), 0);
    assert_eq!(
        swap(&volume.changed(|dir| fs::write(dir.join("pagefile.sys"), "x").unwrap())),
        0
    );
    assert_eq!(
        swap(&volume.changed(|dir| fs::create_dir(dir.join("pagefile.sys")).unwrap())),
        0
    );
    // Another name for what is somebody's.
    let linked = volume.changed(|dir| {
        fs::write(dir.join("important"), [5; 100_000]).unwrap();
        fs::hard_link(dir.join("important"), dir.join("pagefile.sys")).unwrap();
    });
    assert_eq!(swap(&linked), 0);
    let number = volume.layout.number(&sound, "pagefile.sys");
    let data = volume.layout.attribute(&sound, number, super::untrusted::DATA);
    for (at, flags) in [(12, 1), (13, 0x40), (13, 0x80)] {
        let mut odd = sound.clone();
        odd[data + at] |= flags;
        assert_eq!(swap(&odd), 0, "{flags:#x}");
    }
    // One cluster of it is called free.
    let mut damaged = sound.clone();
    let first = volume.layout.data(&sound, number, super::untrusted::DATA)
        / volume.layout.cluster;
    let bitmap = volume.layout.data(&sound, 6, super::untrusted::DATA);
    damaged[bitmap + first / 8] &= !(1 << (first % 8));
    assert_has(&reason(&damaged), "free, which a page file uses");
    // Two of them share their clusters.
    let mut shared = volume.changed(|dir| {
        fs::write(dir.join("pagefile.sys"), [7; 100_000]).unwrap();
        fs::write(dir.join("swapfile.sys"), [7; 100_000]).unwrap();
    });
    let runs = |bytes: &[u8], name| {
        let at = volume.layout.attribute(
            bytes,
            volume.layout.number(bytes, name),
            super::untrusted::DATA,
        );
        at + usize::from(u16(bytes, at + 32))
    };
    let (one, two) = (runs(&shared, "pagefile.sys"), runs(&shared, "swapfile.sys"));
    let run = shared[one..one + 5].to_vec();
    shared[two..two + 5].copy_from_slice(&run);
    assert_has(&reason(&shared), "twice");
}
