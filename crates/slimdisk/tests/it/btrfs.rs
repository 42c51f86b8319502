//! Btrfs against btrfs-progs' own listing of its trees, and the kernel: what fstrim
//! releases, and what it makes of a volume whose free space is noise.

mod distrust;
mod image;
mod live;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use slimdisk::ranges::Ranges;
use slimdisk::storage::{HostFile, Meter, ReadAt};
use slimdisk::volume::Findings;

use self::image::convert_to_block_group_tree;
use crate::free_map::{make_tree, scribble_file, survey_as};
use crate::support::{Scratch, have, sh};

const TOOLS: &[&str] = &["mkfs.btrfs", "btrfs", "btrfstune", "losetup", "xfs_io"];

fn survey(volume: &dyn ReadAt) -> (Findings, Vec<Range<u64>>) {
    survey_as("btrfs", volume)
}

fn survey_file(image: &Path) -> (Findings, Vec<Range<u64>>) {
    survey(&HostFile::open_read(image).unwrap())
}

fn free_of(image: &Path) -> Vec<Range<u64>> {
    let (found, free) = survey_file(image);
    assert_eq!(found.untrusted, None, "{}", image.display());
    free
}

/// Runs `script` with the volume mounted at `$m`; the kernel is to know no other
/// volume of the same UUID.
fn mounted(image: &Path, options: &str, script: &str) -> String {
    sh(&format!(
        "v={v}; m=$v.mnt; mkdir -p $m
         loop=$(again losetup -f --show $v)
         trap 'set +e; mountpoint -q $m && again umount $m; again losetup -d $loop
               btrfs device scan --forget >/dev/null 2>&1 || true' EXIT
         btrfs device scan --forget >/dev/null 2>&1 || true
         mount {options} $loop $m
         {script}",
        v = image.display()
    ))
}

fn assert_sound(image: &Path) {
    sh(&format!(
        "btrfs check --readonly --check-data-csum {} >/dev/null",
        image.display()
    ));
}

/// What is done to a volume of the matrix: a tree, half of it deleted again but for a
/// snapshot, shared and compressed extents, a hole, and free space in many pieces.
const FILL: &str = "
    btrfs -q subvolume create $m/sub
    cp -r $t/first $m/sub/; sync -f $m
    btrfs -q subvolume snapshot -r $m/sub $m/snap; btrfs -q subvolume snapshot $m/sub $m/gone
    cp --reflink=always $m/sub/first/d/e/old2 $m/shared
    head -c 900000 <(yes compressible) > $m/compressed
    xfs_io -f -c 'falloc 0 700k' $m/preallocated
    xfs_io -f -c 'pwrite -q 0 8k' -c 'pwrite -q 900k 8k' $m/holes
    head -c 3000000 /dev/urandom > $m/large
    for i in $(seq 60); do head -c 9000 /dev/urandom > $m/piece$i; done
    sync -f $m
    find $m/sub -name 'old*' -delete; rm $m/piece*[02468]
    btrfs -q subvolume delete -c $m/gone; btrfs subvolume sync $m >/dev/null
    sync -f $m
    cp -r $t/late $m/";

/// Makes a volume and fills it; what is in it afterwards is copied to `NAME.files`.
fn make(scratch: &Scratch, case: &Case) -> PathBuf {
    let Case { name, size, mkfs, mount, then } = case;
    let (image, tree) = (scratch.path(name), scratch.path("tree"));
    if !tree.exists() {
        make_tree(&tree);
    }
    sh(&format!(
        "v={v}; rm -f $v; truncate -s {size} $v; mkfs.btrfs -q {mkfs} $v >/dev/null 2>&1",
        v = image.display()
    ));
    let script = format!(
        "t={}; {FILL}; {then}
         sync -f $m; cp -r $m $v.files",
        tree.display()
    );
    mounted(&image, mount, &script);
    image
}

/// A row of the matrix.
struct Case {
    name: &'static str,
    size: &'static str,
    /// Options for `mkfs.btrfs`.
    mkfs: &'static str,
    /// Options for `mount`.
    mount: &'static str,
    /// What is done at the end, mounted at `$m`.
    then: &'static str,
}

const fn case(
    name: &'static str,
    size: &'static str,
    mkfs: &'static str,
    mount: &'static str,
    then: &'static str,
) -> Case {
    Case { name, size, mkfs, mount, then }
}

const CASES: &[Case] = &[
    case("default", "160M", "-L Straße", "-o compress=zstd", ""),
    case("4k-single-xxhash", "128M", "-n 4096 -m single --csum xxhash", "", ""),
    case("32k-dup-sha256", "300M", "-n 32768 -s 4096 -d dup --csum sha256", "", ""),
    case("64k-blake2-holes", "256M", "-n 65536 --csum blake2 -O ^no-holes", "", ""),
    case("mixed", "60M", "--mixed", "-o compress=lzo", ""),
    case("mixed-dup", "200M", "--mixed -d dup -m dup", "", ""),
    case("v1-cache", "128M", "-R ^free-space-tree", "-o space_cache=v1", ""),
    case(
        "old",
        "128M",
        "-n 4096 -O ^skinny-metadata,^extref,^no-holes -R ^free-space-tree",
        "-o nospace_cache",
        "",
    ),
    case("quota", "128M", "-R quota", "-o autodefrag", ""),
    case(
        "converted",
        "350M",
        "",
        "",
        "btrfs -q balance start -f -dconvert=dup,limit=1 -mconvert=single $m >/dev/null",
    ),
    case(
        "balanced",
        "160M",
        "-n 8192",
        "-o nodatacow",
        "btrfs -q balance start --full-balance $m >/dev/null",
    ),
    case(
        "shrunk",
        "330M",
        "",
        "-o discard=sync",
        "btrfs -q filesystem resize -50M $m >/dev/null",
    ),
    case("short", "150M", "-b 130023424", "", ""),
];

/// What the trees leave over, taken from what `btrfs inspect-internal dump-tree` prints:
/// the device without the extents in all copies and without what is reserved.
struct Listing {
    free: Vec<Range<u64>>,
    chunks: Vec<image::Chunk>,
    levels: u8,
}

/// The stripe that is kept for a mirror of the superblock.
fn mirror_at(start: u64) -> Range<u64> {
    start..start + (64 << 10)
}

fn field(line: &str, name: &str) -> Option<u64> {
    let mut words = line.split([' ', '\t', '(', ')']);
    words.find(|word| *word == name)?;
    words.next()?.parse().ok()
}

/// The key of a line that begins an item.
fn listed_key<'a>(line: &'a str, kind: &str) -> Option<(&'a str, u64)> {
    let (_, key) = line.trim().strip_prefix("item ")?.split_once(" key (")?;
    let words: Vec<_> = key.split(')').next()?.split(' ').collect();
    (words[1] == kind).then(|| (words[0], words[2].parse().unwrap()))
}

fn listing(image: &Path) -> Listing {
    let dump = |tree: &str| {
        sh(&format!("btrfs inspect-internal dump-tree -t {tree} {}", image.display()))
    };
    let header = sh(&format!("btrfs inspect-internal dump-super {}", image.display()));
    let from_header = |name| {
        header
            .lines()
            .find_map(|line| {
                field(line, name).or_else(|| {
                    let (first, rest) = line.split_once('\t')?;
                    (first == name).then(|| rest.trim().parse().unwrap())
                })
            })
            .unwrap()
    };
    let (size, node_size): (u64, u64) =
        (from_header("dev_item.total_bytes"), from_header("nodesize"));
    let mut chunks: Vec<image::Chunk> = Vec::new();
    for line in dump("chunk").lines() {
        if let Some((_, start)) = listed_key(line, "CHUNK_ITEM") {
            chunks.push((start, 0, Vec::new()));
        } else if line.trim().starts_with("length ") && line.contains(" owner ") {
            chunks.last_mut().unwrap().1 = field(line, "length").unwrap();
        } else if line.trim().starts_with("stripe ") && line.contains(" devid ") {
            chunks.last_mut().unwrap().2.push(field(line, "offset").unwrap());
        }
    }
    let mut used: Ranges =
        [0..1 << 20, mirror_at(64 << 20), mirror_at(256 << 30)].into_iter().collect();
    let (extents, mut count) = (dump("extent"), 0);
    for line in extents.lines() {
        let (start, length) = match listed_key(line, "EXTENT_ITEM") {
            Some((start, length)) => (start, length),
            None => match listed_key(line, "METADATA_ITEM") {
                Some((start, _)) => (start, node_size),
                None => continue,
            },
        };
        count += 1;
        for at in image::places(&chunks, start.parse().unwrap()) {
            used.insert(at as u64..at as u64 + length);
        }
    }
    assert!(count > 50, "hardly any extents");
    let node = extents.lines().find(|line| line.contains(" owner EXTENT_TREE")).unwrap();
    let levels = field(node, "level").unwrap_or(0) as u8;
    Listing { free: used.gaps(0..size).iter().collect(), chunks, levels }
}

/// Where the kernel's fstrim makes holes in a copy that had none.
fn trimmed(image: &Path) -> Ranges {
    let copy = image.with_extension("trim");
    sh(&format!("cp --sparse=never {} {}", image.display(), copy.display()));
    let mut holes = Ranges::new();
    // Now and then it passes over a block group that it has not read yet.
    for _ in 0..2 {
        mounted(&copy, "-o nodiscard", "fstrim $m; sync -f $m");
        let file = HostFile::open_read(&copy).unwrap();
        let mut data = Ranges::new();
        let mut at = 0;
        while let Some(range) = file.next_data(at).unwrap() {
            at = range.end;
            data.insert(range);
        }
        data.gaps(0..file.len()).iter().for_each(|hole| holes.insert(hole));
    }
    fs::remove_file(copy).unwrap();
    holes
}

fn minus(a: &[Range<u64>], b: &Ranges) -> Ranges {
    a.iter().flat_map(|range| b.gaps(range.clone()).iter().collect::<Vec<_>>()).collect()
}

/// Compares with what fstrim releases. The kernel keeps the stripe of a mirror from
/// both copies of a chunk, so its twin is free for us alone; of what no chunk has, it
/// releases all but the mirror itself. Besides, mounting writes some nodes anew.
fn assert_like_fstrim(image: &Path, free: &[Range<u64>], chunks: &[image::Chunk]) {
    let holes = trimmed(image);
    let mirror = mirror_at(64 << 20);
    let mut known: Ranges = [mirror.clone()].into_iter().collect();
    for (_, length, copies) in chunks {
        for copy in copies {
            if (*copy..copy + length).contains(&mirror.start) {
                for twin in copies {
                    let start = twin + mirror.start - copy;
                    known.insert(start..start + (64 << 10));
                }
            }
        }
    }
    let ours: Ranges = free.iter().cloned().collect();
    let all_holes: Vec<_> = holes.iter().collect();
    let only_ours: Vec<_> = minus(free, &holes).iter().collect();
    let only_theirs: Vec<_> = minus(&all_holes, &ours).iter().collect();
    let moved =
        minus(&only_ours, &known).total().max(minus(&only_theirs, &known).total());
    assert!(moved <= 2 << 20, "{}: {only_ours:?}, {only_theirs:?}", image.display());
    assert!(holes.total() > 30 << 20);
}

/// Overwrites what is free: the volume is sound, all files are there, and the kernel
/// goes on writing to it.
fn assert_survives_noise(image: &Path, free: &[Range<u64>]) {
    scribble_file(image, free);
    assert_sound(image);
    let files = format!("{}.files", image.display());
    mounted(
        image,
        "-o ro",
        &format!("diff -r {files} $m; btrfs scrub start -BrR $m >/dev/null"),
    );
    mounted(
        image,
        "",
        "head -c 5000000 /dev/urandom > $m/more; rm -f $m/large; sync -f $m
         cp $m/more $m/again; btrfs -q subvolume snapshot $m $m/again.snap",
    );
    assert_sound(image);
    assert!(!free_of(image).is_empty());
    fs::remove_dir_all(files).unwrap();
}

fn assert_maps(scratch: &Scratch, cases: &[Case]) -> (bool, u8) {
    let (mut bitmaps, mut levels) = (false, 0);
    for case in cases {
        let image = make(scratch, case);
        let volume = Meter::new(HostFile::open_read(&image).unwrap());
        let (found, free) = survey(&volume);
        assert_eq!(found.untrusted, None, "{}", case.name);
        assert_eq!(
            found.label.is_some(),
            case.mkfs.contains("-L Straße"),
            "{}",
            case.name
        );
        let listing = listing(&image);
        assert_eq!(free, listing.free, "{}", case.name);
        assert!(free.len() > 10, "{}: nothing was deleted: {free:?}", case.name);
        let shorter = ["shrunk", "short"].contains(&case.name);
        assert_eq!(found.length < volume.len(), shorter, "{}", case.name);
        let read = volume.counts().bytes_read;
        assert!(read < 4 << 20, "{}: {read} bytes read", case.name);
        let dump = sh(&format!(
            "btrfs inspect-internal dump-tree -t 10 {} 2>/dev/null || true",
            image.display()
        ));
        bitmaps |= dump.contains("FREE_SPACE_BITMAP");
        levels = levels.max(listing.levels);
        if volume.len() <= 200 << 20 {
            assert_like_fstrim(&image, &free, &listing.chunks);
        }
        assert_survives_noise(&image, &free);
        fs::remove_file(&image).unwrap();
    }
    (bitmaps, levels)
}

#[test]
fn every_layout_has_the_free_map_of_its_trees_and_survives_noise() {
    let test = "every_btrfs_has_the_free_map_of_its_trees_and_survives_noise";
    if !have(test, TOOLS) || !have(test, &["fstrim"]) {
        return;
    }
    // Two at a time.
    let (first, second) = CASES.split_at(CASES.len() / 2);
    let of = |name, cases| {
        let scratch = Scratch::new(name);
        assert_maps(&scratch, cases)
    };
    let (first, second) = std::thread::scope(|scope| {
        let other = scope.spawn(|| of("btrfs-maps-1", first));
        (of("btrfs-maps-2", second), other.join().unwrap())
    });
    assert!(first.0 || second.0, "no free space tree had a bitmap");
    assert!(first.1.max(second.1) > 0, "no extent tree had more than a leaf");
}

/// Of a volume with a UUID of its own in the nodes, and of one with a tree of block
/// groups, which the tools here cannot make but the kernel reads and writes.
#[test]
fn what_only_newer_tools_make() {
    let test = "btrfs_what_only_newer_tools_make";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let image = make(&scratch, &case("uuid", "128M", "", "", ""));
    let before = free_of(&image);
    sh(&format!("btrfstune -m {} >/dev/null", image.display()));
    let free = free_of(&image);
    assert_ne!(free, before);
    assert_eq!(free, listing(&image).free);
    assert_survives_noise(&image, &free);

    let image = make(
        &scratch,
        &case("groups", "128M", "", "", "btrfs -q quota disable $m || true"),
    );
    let before = free_of(&image);
    let mut bytes = fs::read(&image).unwrap();
    convert_to_block_group_tree(&mut bytes);
    fs::write(&image, &bytes).unwrap();
    assert_eq!(free_of(&image), before);
    scribble_file(&image, &before);
    let files = format!("{}.files", image.display());
    mounted(
        &image,
        "-o ro",
        &format!("diff -r {files} $m; btrfs scrub start -BrR $m >/dev/null"),
    );
    mounted(
        &image,
        "",
        "head -c 9000000 /dev/urandom > $m/more; rm $m/large; sync -f $m",
    );
    let free = free_of(&image);
    assert_ne!(free, before);
    assert_eq!(free, listing(&image).free);
    scribble_file(&image, &free);
    mounted(&image, "", "rm $m/more; btrfs scrub start -BR $m >/dev/null");
    free_of(&image);
}
