//! Each reason not to trust a volume, on a volume that really has it, next to one
//! that is alike but for it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use slimdisk::volume::Allowances;

use super::image::*;
use crate::support::{Scratch, have, sh};

pub const DATA: u32 = 0x80;

/// A small volume with a few files, for a test to spoil.
pub struct Volume {
    pub scratch: Scratch,
    pub bytes: Vec<u8>,
    pub layout: Layout,
}

impl Volume {
    pub fn new(test: &str, tools: &[&str]) -> Option<Self> {
        if !have(test, &["mkntfs", "ntfs-3g", "ntfs-3g.probe"]) || !have(test, tools) {
            return None;
        }
        let scratch = Scratch::new(&test.replace(' ', "-"));
        let image = mkntfs(&scratch, "volume.img", 8 << 20, "-L Tést");
        {
            let mounted = mount(&image, "");
            fs::write(mounted.dir.join("the first file"), [7; 10_000]).unwrap();
            for number in 0..100 {
                fs::write(mounted.dir.join(format!("file {number}")), "something")
                    .unwrap();
            }
        }
        let bytes = fs::read(&image).unwrap();
        assert!(!trusted(&bytes).is_empty());
        let layout = Layout::of(&bytes);
        Some(Volume { scratch, bytes, layout })
    }

    /// The bytes after `spoil`.
    pub fn with(&self, spoil: impl FnOnce(&mut Vec<u8>, &Layout)) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        spoil(&mut bytes, &self.layout);
        bytes
    }

    /// The image after `change` of its files.
    pub fn changed(&self, change: impl FnOnce(&PathBuf)) -> Vec<u8> {
        let image = self.scratch.path("changed.img");
        fs::write(&image, &self.bytes).unwrap();
        {
            let mounted = mount(&image, "");
            change(&mounted.dir);
        }
        fs::read(&image).unwrap()
    }

    /// What ntfs-3g says to mounting it for writing: 0 yes, 14 hibernated, 15 the
    /// log is not clean (ntfs-3g.probe(8)).
    pub fn probe(&self, bytes: &[u8]) -> i32 {
        let image = self.scratch.path("probe.img");
        fs::write(&image, bytes).unwrap();
        let mut probe = Command::new("ntfs-3g.probe");
        probe.arg("--readwrite").arg(&image).output().unwrap().status.code().unwrap()
    }
}

pub fn assert_has(reason: &str, words: &str) {
    assert!(reason.contains(words), "{reason:?} lacks {words:?}");
}

#[test]
fn dirty_until_checked() {
    let test = "ntfs dirty_until_checked";
    let Some(volume) = Volume::new(test, &["ntfsresize", "ntfsfix"]) else { return };
    let image = volume.scratch.path("dirty.img");
    fs::write(&image, &volume.bytes).unwrap();
    sh(&format!("yes | ntfsresize -f -s 7M {} >/dev/null 2>&1 || true", image.display()));
    assert_has(&reason(&fs::read(&image).unwrap()), "marked dirty");
    sh(&format!("ntfsfix -d {}", image.display()));
    trusted(&fs::read(&image).unwrap());
}

#[test]
fn volume_flags() {
    let Some(volume) = Volume::new("ntfs volume_flags", &[]) else { return };
    let flags = |flags: u16| {
        volume.with(|bytes, layout| {
            for number in [layout.mft, layout.mirror] {
                let at = layout.value(bytes, 3, 0x70) - layout.mft + number + 10;
                bytes[at..at + 2].copy_from_slice(&flags.to_le_bytes());
            }
        })
    };
    for (bits, words) in [
        (0x0001, "chkdsk"),
        (0x0081, "chkdsk"),
        (0x0002, "start Windows"),
        (0x0004, "start Windows"),
        (0x0010, "start Windows"),
        (0x4000, "let chkdsk finish"),
        (0x0100, "unknown flags"),
    ] {
        assert_has(&reason(&flags(bits)), words);
    }
    for bits in [0, 0x0008, 0x0020, 0x0080, 0x8000] {
        trusted(&flags(bits));
    }
}

#[test]
fn versions() {
    let Some(volume) = Volume::new("ntfs versions", &[]) else { return };
    let version = |major, minor| {
        volume.with(|bytes, layout| {
            for number in [layout.mft, layout.mirror] {
                let at = layout.value(bytes, 3, 0x70) - layout.mft + number + 8;
                bytes[at..at + 2].copy_from_slice(&[major, minor]);
            }
        })
    };
    for (major, minor) in [(1, 2), (3, 0), (3, 1)] {
        let bytes = version(major, minor);
        trusted(&bytes);
        assert_eq!(survey(&bytes).0.label.as_deref(), Some("Tést"));
    }
    for (major, minor) in [(1, 1), (2, 0), (3, 2), (4, 0)] {
        assert_has(&reason(&version(major, minor)), &format!("{major}.{minor}"));
    }
}

#[test]
fn hibernated() {
    let Some(volume) = Volume::new("ntfs hibernated", &[]) else { return };
    let file = |name: &str, head: &[u8], length: usize| {
        let mut content = head.to_vec();
        content.resize(length, 0);
        volume.changed(|dir| fs::write(dir.join(name), content).unwrap())
    };
    for head in [b"hibr", b"HIBR", b"RSTR"] {
        let bytes = file("hiberfil.sys", head, 100_000);
        assert_has(&reason(&bytes), "hibernated: start Windows and shut it down fully");
        assert_eq!(volume.probe(&bytes), if head == b"RSTR" { 0 } else { 14 });
    }
    assert_has(&reason(&file("HiberFil.SYS", b"hibr", 4096)), "is hibernated");
    for length in [0, 100, 4095] {
        let bytes = file("hiberfil.sys", b"", length);
        assert_has(&reason(&bytes), "hibernated Windows");
        assert_eq!(volume.probe(&bytes), 14);
    }
    for head in [b"\0\0\0\0", b"wake", b"WAKE"] {
        let bytes = file("hiberfil.sys", head, 4096);
        trusted(&bytes);
        assert_eq!(volume.probe(&bytes), 0);
    }
    // Compressed, its first bytes say nothing.
    let mut compressed = file("hiberfil.sys", b"", 65536);
    let number = volume.layout.number(&compressed, "hiberfil.sys");
    let data = volume.layout.attribute(&compressed, number, DATA);
    compressed[data + 12] = 1;
    assert_has(&reason(&compressed), "compressed");
    // An entry whose record has been used again since.
    let mut stale = file("hiberfil.sys", b"", 65536);
    stale[volume.layout.record(number) + 16] += 1;
    assert_has(&reason(&stale), "another file by now");
    trusted(&file("hiberfil.sys.bak", b"hibr", 4096));
    trusted(&volume.changed(|dir| {
        fs::create_dir(dir.join("folder")).unwrap();
        fs::write(dir.join("folder/hiberfil.sys"), "hibr").unwrap();
    }));
}

#[test]
fn hibernated_in_a_large_root_directory() {
    let test = "ntfs hibernated_in_a_large_root_directory";
    if !have(test, &["mkntfs", "ntfs-3g"]) {
        return;
    }
    for (name, options) in [("4k", "-c 4096"), ("64k", "-c 65536"), ("512", "-c 512")] {
        let scratch = Scratch::new(&format!("ntfs-large-root-{name}"));
        let image = mkntfs(&scratch, "volume.img", 32 << 20, options);
        {
            let mounted = mount(&image, "");
            for number in 0..1500 {
                let name = match number % 3 {
                    0 => format!("Älter {number}"),
                    1 => format!("hiber {number} and more of a long name"),
                    _ => format!("zz {number}"),
                };
                fs::write(mounted.dir.join(name), "").unwrap();
            }
        }
        trusted(&fs::read(&image).unwrap());
        {
            let mounted = mount(&image, "");
            fs::write(mounted.dir.join("hiberfil.sys"), "hibr").unwrap();
        }
        assert_has(&reason(&fs::read(&image).unwrap()), "hibernated");
    }
}

#[test]
fn shadow_copies() {
    let Some(volume) = Volume::new("ntfs shadow_copies", &[]) else { return };
    let header = |identifier: [u8; 16], catalog: u64| {
        volume.with(|bytes, _| {
            bytes[0x1E00..0x1E10].copy_from_slice(&identifier);
            bytes[0x1E30..0x1E38].copy_from_slice(&catalog.to_le_bytes());
        })
    };
    let identifier = [
        0x6b, 0x87, 0x08, 0x38, 0x76, 0xc1, 0x48, 0x4e, 0xb7, 0xae, 0x04, 0x04, 0x6e,
        0x6c, 0xc7, 0x52,
    ];
    let present = header(identifier, 0x12_3400);
    assert_has(&reason(&present), "--discard-shadow-copies");
    let mut allow = Allowances::default();
    allow.discard_shadow_copies = true;
    assert_eq!(survey_with(&present, allow).0.untrusted, None);
    trusted(&header(identifier, 0));
    trusted(&header([0x6b; 16], 0x12_3400));

    let folder = "System Volume Information";
    let file = |name: &str| {
        volume.changed(|dir| {
            fs::create_dir(dir.join(folder)).unwrap();
            for number in 0..100 {
                fs::write(dir.join(folder).join(format!("other {number}")), "").unwrap();
            }
            fs::write(dir.join(folder).join(name), "x").unwrap();
        })
    };
    let guid = "{3808876b-c176-4e48-b7ae-04046e6cc752}";
    for name in [guid, &format!("{{8bd0a5c1-0000-0000-0000-000000000000}}{guid}")] {
        let bytes = file(name);
        assert_has(&reason(&bytes), "--discard-shadow-copies");
        assert_eq!(survey_with(&bytes, allow).0.untrusted, None);
    }
    trusted(&file("{3808876b-c176-4e48-b7ae-04046e6cc753}"));
}

#[test]
fn metadata_that_does_not_agree() {
    let Some(volume) = Volume::new("ntfs metadata_that_does_not_agree", &[]) else {
        return;
    };
    let spoilt = |words: &str, spoil: &dyn Fn(&mut Vec<u8>, &Layout)| {
        let found = reason(&volume.with(spoil));
        assert_has(&found, words);
        assert_has(&found, "chkdsk");
    };
    // Any of the four records of the mirror, but not what each write changes.
    for number in 0..4 {
        spoilt("$MFTMirr differs", &|bytes, layout| {
            // The time of creation in $STANDARD_INFORMATION.
            let at = layout.value(bytes, number, 0x10) - layout.mft + layout.mirror;
            bytes[at] ^= 1;
        });
        spoilt("$MFTMirr", &|bytes, layout| {
            bytes[layout.mirror + number * layout.record] = b'f';
        });
        trusted(&volume.with(|bytes, layout| {
            bytes[layout.mirror + number * layout.record + 8] ^= 1;
        }));
    }
    spoilt("$MFTMirr does not begin", &|bytes, _| bytes[56] ^= 1);
    // A record of another file, or torn.
    spoilt("record 6", &|bytes, layout| bytes[layout.record(6) + 510] ^= 1);
    spoilt("record 6", &|bytes, layout| bytes[layout.record(6) + 44] ^= 1);
    spoilt("record 6", &|bytes, layout| bytes[layout.record(6) + 22] ^= 1);

    spoilt("impossible sizes", &|bytes, layout| bytes[layout.record(6) + 29] ^= 8);
    // The mirror's copy of record 0 is as good as the first, but not the first.
    spoilt("$MFT does not begin", &|bytes, layout| {
        let cluster = (layout.mirror / layout.cluster) as u64;
        bytes[48..56].copy_from_slice(&cluster.to_le_bytes());
    });

    // Each of the volume's own files, and of the first others, must be in use in
    // $Bitmap.
    let first = volume.layout.number(&volume.bytes, "the first file");
    let first_name = format!("the file in record {first}");
    for (number, kind, name) in [
        (0, DATA, "$MFT"),
        (0, 0xB0, "$MFT"),
        (1, DATA, "$MFTMirr"),
        (2, DATA, "$LogFile"),
        (4, DATA, "$AttrDef"),
        (5, 0xA0, "root directory"),
        (6, DATA, "$Bitmap"),
        (7, DATA, "$Boot"),
        (10, DATA, "$UpCase"),
        (first, DATA, &*first_name),
    ] {
        spoilt(name, &|bytes, layout| {
            let cluster = layout.data(bytes, number, kind) / layout.cluster;
            let map = layout.data(bytes, 6, DATA);
            assert_ne!(bytes[map + cluster / 8] & 1 << (cluster % 8), 0);
            bytes[map + cluster / 8] &= !(1 << (cluster % 8));
        });
    }
    // Two files in one cluster.
    spoilt("share cluster", &|bytes, layout| {
        let lcn = layout.data(bytes, 4, DATA) / layout.cluster;
        let at = layout.attribute(bytes, 10, DATA);
        let runs = at + usize::from(u16(bytes, at + 32));
        assert_eq!(bytes[runs], 0x21, "the test knows this form only");
        bytes[runs + 2..runs + 4].copy_from_slice(&(lcn as u16).to_le_bytes());
    });
    // Damage does not hide that the volume is dirty.
    let no_index = |bytes: &mut Vec<u8>| {
        for block in bytes.chunks_mut(4096).filter(|block| block.starts_with(b"INDX")) {
            block[0] = 0;
        }
    };
    let dirty = volume.with(|bytes, layout| {
        let flags = layout.value(bytes, 3, 0x70) + 10;
        bytes[flags] |= 1;
        no_index(bytes);
    });
    assert_has(&reason(&dirty), "marked dirty");
    spoilt("directory", &|bytes, _| no_index(bytes));
    // Sizes and flags of $Bitmap's own attribute.
    let attribute = |bytes: &[u8], layout: &Layout| layout.attribute(bytes, 6, DATA);
    spoilt("too short", &|bytes, layout| {
        let at = attribute(bytes, layout);
        let short = (layout.clusters as u64).div_ceil(8) - 1;
        for field in [48, 56] {
            bytes[at + field..at + field + 8].copy_from_slice(&short.to_le_bytes());
        }
    });
    spoilt("longer than its clusters", &|bytes, layout| {
        let at = attribute(bytes, layout);
        bytes[at + 48..at + 56].copy_from_slice(&(1u64 << 40).to_le_bytes());
    });
    for (flag, words) in
        [(0x0001u16, "compressed"), (0x4000, "encrypted"), (0x8000, "holes")]
    {
        spoilt(words, &|bytes, layout| {
            let at = attribute(bytes, layout);
            bytes[at + 12..at + 14].copy_from_slice(&flag.to_le_bytes());
        });
    }
    spoilt("holes", &|bytes, layout| {
        let at = attribute(bytes, layout);
        let runs = at + usize::from(u16(bytes, at + 32));
        assert_eq!(bytes[runs], 0x21, "the test knows this form only");
        bytes[runs] = 0x01;
        bytes[runs + 2] = 0;
    });
}

#[test]
fn what_was_never_written_of_the_bitmap_is_in_use() {
    let Some(volume) = Volume::new("ntfs initialized_bitmap", &[]) else { return };
    let half = volume.layout.clusters / 16;
    let bytes = volume.with(|bytes, layout| {
        let at = layout.attribute(bytes, 6, DATA);
        bytes[at + 56..at + 64].copy_from_slice(&(half as u64).to_le_bytes());
    });
    let end = (half * 8 * volume.layout.cluster) as u64;
    let clipped: Vec<_> = trusted(&volume.bytes)
        .into_iter()
        .map(|range| range.start..range.end.min(end))
        .filter(|range| range.start < range.end)
        .collect();
    assert!(!clipped.is_empty());
    assert_eq!(trusted(&bytes), clipped);
}

#[test]
fn a_volume_larger_than_its_partition() {
    let Some(volume) = Volume::new("ntfs a_volume_larger", &[]) else { return };
    // The backup boot sector itself may be missing.
    let length = volume.bytes.len();
    let whole = trusted(&volume.bytes);
    assert_eq!(trusted(&volume.bytes[..length - 512].to_vec()), whole);
    let cut = volume.bytes[..length - 1024].to_vec();
    assert_has(&reason(&cut), "truncated");
    // What lies behind the volume is not free.
    let mut longer = volume.bytes.clone();
    longer.resize(length + (1 << 20), 0);
    assert_eq!(trusted(&longer), whole);
}
