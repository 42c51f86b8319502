//! Disks with LVM2 on them, made by lvm2 itself without device-mapper, and what lvm2
//! and the file systems' own tools say of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::Path;

use slimdisk::ranges::Ranges;

use crate::end_to_end::ntfscat_free;
use crate::ext::dumpe2fs_free;
use crate::free_map::make_tree;
use crate::ntfs::image::{digests, mkntfs, mount};
use crate::support::{Noise, Scratch, sh};

pub const MIB: u64 = 1 << 20;

pub const TOOLS: &[&str] = &[
    "pvcreate", "losetup", "sfdisk", "mke2fs", "debugfs", "dumpe2fs", "e2fsck", "mkntfs",
    "ntfs-3g", "ntfsfix", "ntfscat", "qemu-img",
];

/// How a disk is made.
pub struct Recipe {
    pub name: &'static str,
    /// `dos`, `gpt`, or nothing for the bare disk.
    pub label: &'static str,
    /// In MiB.
    pub size: u64,
    /// Start and size of each partition in MiB.
    pub partitions: &'static [(u64, u64)],
    /// Runs with each partition (or the disk) as `$p1`, `$p2`, ...; `l` is lvm,
    /// `vg` creates a volume group without a system ID and `lv` a logical volume.
    pub script: &'static str,
    /// What goes where: a logical volume, `ext` or `ntfs`, and options for mkfs.
    pub volumes: &'static [(&'static str, &'static str, &'static str)],
}

/// What lvm2 says of a logical volume.
pub struct Judged {
    /// Its bytes on the disk, in the order of the volume.
    pub pieces: Vec<Range<u64>>,
    /// What its own tools call free in it, and what the files in it are.
    pub content: Option<Content>,
}

pub struct Content {
    pub kind: &'static str,
    /// Bytes from the start that the file system covers.
    pub length: u64,
    pub free: Ranges,
    pub files: BTreeMap<String, String>,
}

pub struct Disk {
    pub bytes: Vec<u8>,
    /// Each partition, or the bare disk.
    pub partitions: Vec<Range<u64>>,
    pub bare: bool,
    /// By `group/name`.
    pub volumes: BTreeMap<String, Judged>,
    /// Extents in no volume.
    pub unallocated: Ranges,
    /// The list of segments, as lvm2 prints it.
    pub segments: String,
}

const PRELUDE: &str = r#"
l() { lvm "$@" --driverloaded n; }
vg() { l vgcreate -y --systemid '' "$@"; }
lv() { l lvcreate -q -an -Zn -Wn -y "$@"; }
"#;

/// Runs `script` on the disk in `raw` with its partitions as loop devices.
pub fn with_lvm(raw: &Path, partitions: &[Range<u64>], script: &str) -> String {
    let dir = raw.with_extension("etc");
    fs::create_dir_all(dir.join("lock")).unwrap();
    let mut loops = String::new();
    for (number, range) in partitions.iter().enumerate() {
        let (start, size) = (range.start, range.end - range.start);
        writeln!(
            loops,
            "p{n}=$(losetup -f --show -o {start} --sizelimit {size} {raw})
             all=\"$all $p{n}\"; filter=\"$filter\\\"a|^$p{n}\\$|\\\",\"",
            n = number + 1,
            raw = raw.display()
        )
        .unwrap();
    }
    sh(&format!(
        r#"all= filter=
trap 'for d in $all; do losetup -d $d; done' EXIT
{loops}
export LVM_SYSTEM_DIR={dir} LVM_SUPPRESS_FD_WARNINGS=1
cat > $LVM_SYSTEM_DIR/lvm.conf <<END
devices {{ use_devicesfile=0 scan=["/dev"] filter=[$filter"r|.*|"]
  global_filter=[$filter"r|.*|"] obtain_device_list_from_udev=0 hints="none"
  md_component_detection=0 }}
global {{ use_lvmpolld=0 locking_dir="{dir}/lock" event_activation=0
  system_id_source="lvmlocal" }}
local {{ system_id="guest" }}
backup {{ backup=0 archive=0 }}
activation {{ udev_sync=0 udev_rules=0 monitoring=0 }}
END
{PRELUDE}
{{ {script}
}} 2>$LVM_SYSTEM_DIR/log >$LVM_SYSTEM_DIR/out || {{ cat $LVM_SYSTEM_DIR/log; exit 1; }}
sync
echo "loops|$all"
l pvs --noheadings --nosuffix --units b --separator '|' \
  -o pv_name,pe_start,vg_extent_size,pv_pe_count 2>/dev/null | sed 's/^ */pv|/'
l lvs -a --segments --noheadings --nosuffix --units b --separator '|' \
  -o vg_name,lv_name,segtype,seg_start_pe,seg_size_pe,seg_pe_ranges,stripes,stripe_size \
  2>/dev/null | sed 's/^ */lv|/'
"#,
        dir = dir.display()
    ))
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

impl Disk {
    /// A disk whose volumes are filled and half emptied, with noise in all that is
    /// free or unallocated.
    pub fn make(scratch: &Scratch, recipe: &Recipe) -> Disk {
        let raw = scratch.path(recipe.name);
        let len = recipe.size * MIB;
        fs::File::create(&raw).unwrap().set_len(len).unwrap();
        let mut partitions: Vec<_> = recipe
            .partitions
            .iter()
            .map(|(start, size)| start * MIB..(start + size) * MIB)
            .collect();
        if partitions.is_empty() {
            partitions.push(0..len);
        } else {
            let lines = partitions.iter().fold(String::new(), |lines, range| {
                let size = (range.end - range.start) / 512;
                format!("{lines}{},{size}\\n", range.start / 512)
            });
            let path = raw.display();
            sh(&format!("printf '{lines}' | sfdisk -q -X {} {path}", recipe.label));
        }
        let said = with_lvm(&raw, &partitions, recipe.script);
        let mut disk = Disk {
            bytes: fs::read(&raw).unwrap(),
            bare: recipe.partitions.is_empty(),
            volumes: BTreeMap::new(),
            unallocated: Ranges::new(),
            partitions,
            segments: String::new(),
        };
        disk.judge(&said);
        let mut noise = Noise::new(recipe.size);
        for range in disk.unallocated.clone().iter() {
            disk.scribble(range, &mut noise);
        }
        for (name, kind, options) in recipe.volumes {
            disk.fill(scratch, name, kind, options, &mut noise);
        }
        disk
    }

    /// Takes in what lvm2 said of the disk.
    pub fn judge(&mut self, said: &str) {
        let mut devices = BTreeMap::new();
        let mut free = Vec::new();
        let mut starts: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for line in said.lines() {
            let fields: Vec<&str> = line.split('|').collect();
            match fields[..] {
                ["loops", all] => {
                    for (range, device) in
                        self.partitions.iter().zip(all.split(' ').skip(1))
                    {
                        devices.insert(device.to_owned(), range.start);
                    }
                }
                ["pv", device, start, extent, count] => {
                    let start = devices[device] + number(start);
                    let extent = number(extent);
                    starts.insert(device.to_owned(), (start, extent));
                    free.push(start..start + number(count) * extent);
                }
                ["lv", group, name, kind, _, count, ranges, stripes, chunk] => {
                    self.segments += &format!("{group}/{name} {kind} {ranges}\n");
                    let name = format!("{group}/{}", name.trim_matches(['[', ']']));
                    let volume = self
                        .volumes
                        .entry(name)
                        .or_insert(Judged { pieces: Vec::new(), content: None });
                    if !["linear", "striped"].contains(&kind) {
                        volume.pieces.clear();
                        continue;
                    }
                    let (mut areas, mut size) = (Vec::new(), 0);
                    for range in ranges.split(' ') {
                        let (device, extents) = range.rsplit_once(':').unwrap();
                        let (first, last) = extents.split_once('-').unwrap();
                        let (start, extent) = starts[device];
                        let at = |extents: u64| start + extents * extent;
                        areas.push(at(number(first))..at(number(last) + 1));
                        size = extent;
                    }
                    assert_eq!(areas.len() as u64, number(stripes));
                    let all: u64 = areas.iter().map(|r| r.end - r.start).sum();
                    assert_eq!(all, number(count) * size);
                    if let [area] = &areas[..] {
                        volume.pieces.push(area.clone());
                        continue;
                    }
                    let chunk = number(chunk);
                    for row in 0..(areas[0].end - areas[0].start) / chunk {
                        for area in &areas {
                            let at = area.start + row * chunk;
                            volume.pieces.push(at..at + chunk);
                        }
                    }
                }
                _ => panic!("{line}"),
            }
        }
        let mut taken = Ranges::new();
        let mut total = 0;
        for piece in self.volumes.values().flat_map(|volume| &volume.pieces) {
            total += piece.end - piece.start;
            taken.insert(piece.clone());
        }
        assert_eq!(taken.total(), total);
        for range in free {
            for gap in taken.gaps(range).iter() {
                self.unallocated.insert(gap);
            }
        }
    }

    pub fn scribble(&mut self, range: Range<u64>, noise: &mut Noise) {
        let bytes = &mut self.bytes[range.start as usize..range.end as usize];
        let len = bytes.len();
        bytes.copy_from_slice(&noise.bytes(len));
    }

    /// Makes a file system in a volume.
    fn fill(
        &mut self,
        scratch: &Scratch,
        name: &str,
        kind: &'static str,
        options: &str,
        noise: &mut Noise,
    ) {
        let size: u64 = self.volumes[name].pieces.iter().map(|r| r.end - r.start).sum();
        let tree = scratch.path("tree");
        if !tree.exists() {
            make_tree(&tree);
        }
        let image;
        let free: Ranges = match kind {
            "ext" => {
                image = scratch.path("volume");
                let _ = fs::remove_file(&image);
                sh(&format!(
                    "mke2fs -q -F {options} -d {tree}/first {image} {kib}k
                     (cd {tree}/first; find . -name 'old*' | sed 's/^/rm /') |
                     debugfs -w -f - {image} >/dev/null 2>&1",
                    tree = tree.display(),
                    image = image.display(),
                    kib = size / 1024
                ));
                dumpe2fs_free(&image).into_iter().collect()
            }
            _ => {
                image = mkntfs(scratch, "volume", size, options);
                let mounted = mount(&image, "");
                let (from, to) = (tree.display(), mounted.dir.display());
                sh(&format!(
                    "cp -r {from}/first/. {to}; find {to} -name 'old*' -delete
                     cp -r {from}/late {to}"
                ));
                drop(mounted);
                ntfscat_free(&image)
            }
        };
        assert!(free.total() > size / 4);
        let bytes = fs::read(&image).unwrap();
        let files = files(scratch, kind, &bytes);
        assert!(files.len() > 10, "{files:?}");
        self.place(name, &bytes);
        for range in self.places_of(name, &free).iter() {
            self.scribble(range, noise);
        }
        // NTFS leaves the sector of its second boot sector, and what else is no whole
        // cluster, at the end.
        let length = match kind {
            "ext" => size,
            _ => {
                let sectors = u64::from_le_bytes(bytes[40..48].try_into().unwrap());
                let cluster = 512 * u64::from(bytes[13]);
                sectors * 512 / cluster * cluster
            }
        };
        let content = Some(Content { kind, length, free, files });
        self.volumes.get_mut(name).unwrap().content = content;
    }

    /// Puts the bytes of a volume where lvm2 says.
    pub fn place(&mut self, name: &str, bytes: &[u8]) {
        let mut at = 0;
        for piece in &self.volumes[name].pieces {
            let len = (piece.end - piece.start) as usize;
            self.bytes[piece.start as usize..][..len]
                .copy_from_slice(&bytes[at..at + len]);
            at += len;
        }
        assert_eq!(at, bytes.len());
    }

    /// The bytes of a volume, out of a disk laid out like this one.
    pub fn extract(&self, name: &str, disk: &[u8]) -> Vec<u8> {
        let pieces = self.volumes[name].pieces.iter();
        pieces.flat_map(|r| &disk[r.start as usize..r.end as usize]).copied().collect()
    }

    /// Where ranges of a volume lie on the disk.
    pub fn places_of(&self, name: &str, ranges: &Ranges) -> Ranges {
        let mut places = Ranges::new();
        let mut at = 0;
        for piece in &self.volumes[name].pieces {
            let end = at + piece.end - piece.start;
            for range in ranges.within(at..end) {
                places
                    .insert(piece.start + range.start - at..piece.start + range.end - at);
            }
            at = end;
        }
        places
    }

    /// Checks each volume with its own tools and compares its files.
    pub fn judge_contents(&self, scratch: &Scratch, disk: &[u8]) {
        for (name, volume) in &self.volumes {
            if let Some(content) = &volume.content {
                let found = files(scratch, content.kind, &self.extract(name, disk));
                assert!(found == content.files, "{name}: the files are not the same");
            }
        }
    }
}

/// The digests of the files in a volume that its own tools find sound.
fn files(scratch: &Scratch, kind: &str, bytes: &[u8]) -> BTreeMap<String, String> {
    let image = scratch.path("judged");
    fs::write(&image, bytes).unwrap();
    let dir = match kind {
        "ext" => {
            let out = scratch.path("dumped");
            let _ = fs::remove_dir_all(&out);
            fs::create_dir_all(&out).unwrap();
            let (from, to) = (image.display(), out.display());
            sh(&format!(
                "e2fsck -fn {from} >/dev/null 2>&1
                 debugfs -R 'rdump / {to}' {from} >/dev/null 2>&1; rm -rf {to}/lost+found"
            ));
            digests(&out)
        }
        _ => {
            sh(&format!("ntfsfix -n {}", image.display()));
            digests(&mount(&image, ",ro").dir)
        }
    };
    dir.into_iter().map(|(path, sum)| (path.display().to_string(), sum)).collect()
}
