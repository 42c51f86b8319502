//! Every layout that mkfs.xfs makes and a kernel mounts (version 4: that mkfs.xfs
//! fills): the free map is that of `xfs_db` and of partclone, and what is free may be
//! overwritten.

use std::fs;
use std::path::Path;
use std::thread;

use slimdisk::storage::{HostFile, Meter};

use super::{
    TOOLS, compare_script, distrusted, geometry, log_state, make, mkfs, mounted,
    noisy_copy, repair_finds_nothing, set_aside, survey, survey_file, total, tree,
    trusted, without, xfs_db, xfs_db_free,
};
use crate::free_map::{ddrescue_free, push};
use crate::support::{Scratch, have, sh};

/// A name, the size, and options for `mkfs.xfs`.
const OPTIONS: &[(&str, &str, &str)] = &[
    ("default", "64M", "-L label"),
    ("1k", "64M", "-b size=1024 -i maxpct=50"),
    ("2k", "64M", "-b size=2048 -d agcount=3"),
    ("8k", "100M", "-b size=8192"),
    ("64k", "320M", "-b size=65536"),
    ("sector-4k", "68M", "-s size=4096"),
    ("1k-inodes", "64M", "-i size=1024,nrext64=1 -n size=16384"),
    ("rmapbt", "64M", "-m rmapbt=1"),
    ("rmapbt-1k", "64M", "-b size=1024 -m rmapbt=1,reflink=0"),
    ("plain", "64M", "-m finobt=0,reflink=0,bigtime=0,inobtcount=0 -i sparse=0"),
    ("log-256k", "70003K", "-l su=256k,size=24m -d agcount=2"),
    ("log-4k", "70003K", "-l su=4096"),
    ("log-sector-4k", "70003K", "-s size=4096 -l su=16k"),
    ("stripe", "70003K", "-d su=64k,sw=2"),
    ("short-last", "70003K", "-d agcount=3"),
    ("one-group", "24M", "-d agcount=1"),
];

#[test]
fn every_layout_has_the_free_map_of_xfs_db_and_survives_noise() {
    let test = "every_xfs_has_the_free_map_of_xfs_db_and_survives_noise";
    if !have(test, TOOLS) || !have(test, &["losetup", "partclone.xfs"]) {
        return;
    }
    let scratch = Scratch::new("xfs-options");
    tree(&scratch);
    thread::scope(|scope| {
        for part in OPTIONS.chunks(OPTIONS.len().div_ceil(2)) {
            let scratch = &scratch;
            scope.spawn(move || part.iter().for_each(|row| check_layout(scratch, row)));
        }
    });
}

fn check_layout(scratch: &Scratch, row: &(&str, &str, &str)) {
    let (name, size, options) = *row;
    // The folder is the thread's own, for the expected files.
    let own = Scratch::new(&format!("xfs-options-{name}"));
    sh(&format!("cp -r {} {}/", tree(scratch).display(), own.dir().display()));
    let image = make(&own, name, size, options);
    assert_eq!(log_state(&image), "CLEAN", "{name}");
    let (found, free) = survey_file(&image);
    assert_eq!(found.untrusted, None, "{name}");
    assert_eq!(found.filesystem, "xfs");
    assert_eq!(found.label.as_deref(), (name == "default").then_some("label"));
    let geometry = geometry(&image);
    assert_eq!(found.unit, geometry.block, "{name}");
    assert_eq!(found.length, geometry.blocks * geometry.block, "{name}");
    assert_eq!(free, xfs_db_free(&image), "{name}");
    let groups = geometry.ag_count as usize;
    assert!(free.len() > groups + 2, "{name}: nothing was deleted: {free:?}");

    // The superblock's count, part by part.
    let aside = set_aside(&image, &geometry);
    let btrees: u64 = (0..geometry.ag_count)
        .flat_map(|group| xfs_db(&image, &[&format!("agf {group}"), "p btreeblks"]))
        .sum();
    let counted = xfs_db(&image, &["sb 0", "p fdblocks"])[0];
    let expected = total(&free) / geometry.block + aside.len() as u64 + btrees;
    assert_eq!(counted, expected, "{name}");

    let path = image.display();
    sh(&format!("partclone.xfs -D -q -s {path} -o {path}.map -L {path}.log 2>/dev/null"));
    let map = fs::read_to_string(format!("{path}.map")).unwrap();
    let mut partclone = Vec::new();
    for range in ddrescue_free(&map) {
        // What is behind the file system it calls free.
        push(&mut partclone, range.start..range.end.min(found.length));
    }
    partclone.retain(|range| range.start < range.end);
    assert_eq!(free, without(partclone, &aside, geometry.block), "{name}");

    let force = if groups == 1 { "-o force_geometry" } else { "" };
    let noisy = if groups == 1 {
        let copy = image.with_extension("noisy");
        fs::copy(&image, &copy).unwrap();
        crate::free_map::scribble_file(&copy, &free);
        sh(&format!("xfs_repair -n -f {force} {} 2>&1", copy.display()));
        copy
    } else {
        noisy_copy(&image, &free)
    };
    let compare = compare_script(&own);
    mounted(&noisy, ",ro", &compare);
    // The kernel finds its way in it, and its own writing into free space.
    mounted(
        &noisy,
        "",
        &format!(
            "{compare}; mkdir $m/more; for n in $(seq 40); do
                 head -c $((n * 3777)) $v >$m/more/f$n
             done; sync -f $m; rm $m/more/f1*"
        ),
    );
    if groups > 1 {
        repair_finds_nothing(&noisy);
    }
    assert_eq!(trusted(&noisy), xfs_db_free(&noisy), "{name}");
    mounted(
        &noisy,
        ",ro",
        &format!("mv $m/more /dev/null 2>&1 || true; {}", {
            compare.replace("diff -r", "diff -r -x more")
        }),
    );
}

/// What the kernel discards is free here, and the other way round but for what is
/// smaller than it discards.
#[test]
fn the_kernel_discards_the_same() {
    let test = "the_kernel_discards_the_same_in_an_xfs";
    if !have(test, TOOLS) || !have(test, &["losetup", "fstrim"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let image = make(&scratch, "v", "64M", "");
    let geometry = geometry(&image);
    let aside = set_aside(&image, &geometry);
    let free = trusted(&image);
    let copy = scratch.path("copy");
    sh(&format!("cp --sparse=never {} {}", image.display(), copy.display()));
    mounted(&copy, "", "fstrim $m");
    let volume = HostFile::open_read(&copy).unwrap();
    let mut holes = Vec::new();
    let (mut at, end) = (0, geometry.blocks * geometry.block);
    use slimdisk::storage::ReadAt;
    while at < end {
        let data = volume.next_data(at).unwrap().unwrap_or(end..end);
        if at < data.start.min(end) {
            push(&mut holes, at..data.start.min(end));
        }
        at = data.end;
    }
    let holes = without(holes, &aside, geometry.block);
    let more: Vec<_> = holes
        .iter()
        .filter(|hole| !free.iter().any(|f| f.start <= hole.start && hole.end <= f.end))
        .collect();
    assert!(more.is_empty(), "the kernel has more free: {more:?}");
    // The host's page is the grain of its holes.
    assert!(total(&free) - total(&holes) < 200_000, "{} {}", total(&free), total(&holes));
}

/// Version 4, which newer kernels do not mount: mkfs.xfs itself copies the files.
#[test]
fn version_4_has_the_free_map_of_xfs_db_and_survives_noise() {
    let test = "xfs_version_4_has_the_free_map_of_xfs_db_and_survives_noise";
    if !have(test, TOOLS) || !have(test, &["partclone.xfs"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let files = tree(&scratch).join("first/d");
    let mut prototype = "/dev/null\n0 0\nd--755 0 0\n".to_owned();
    for entry in fs::read_dir(&files).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            let (name, path) = (entry.file_name(), entry.path());
            let name = name.to_str().unwrap().replace(' ', "_");
            prototype += &format!("{name} ---644 0 0 {}\n", path.display());
        }
    }
    // Names in a prototype have no blanks, and neither have the files to be copied.
    let prototype = prototype.replace("new file ", "new_");
    for name in fs::read_dir(&files).unwrap().map(|entry| entry.unwrap().path()) {
        let plain = name.display().to_string().replace("new file ", "new_");
        fs::rename(&name, plain).unwrap();
    }
    fs::write(scratch.path("proto"), prototype + "$\n").unwrap();
    for (name, size, options) in [
        ("v4", "64M", "-m crc=0"),
        ("v4-log-1", "64M", "-m crc=0 -l version=1"),
        ("v4-512", "64M", "-m crc=0 -b size=512"),
        ("v4-1k", "70003K", "-m crc=0 -b size=1024 -i size=256"),
        ("v4-old", "64M", "-m crc=0 -l version=1,lazy-count=0 -i attr=1,projid32bit=0"),
        ("v4-sector", "70003K", "-m crc=0 -s size=4096"),
        ("v4-names", "64M", "-m crc=0 -n version=ci,ftype=1"),
    ] {
        let image = scratch.path(name);
        let proto = scratch.path("proto");
        mkfs(&image, size, &format!("{options} -p {}", proto.display()));
        assert_eq!(log_state(&image), "CLEAN", "{name}");
        let (found, free) = survey_file(&image);
        assert_eq!(found.untrusted, None, "{name}");
        assert_eq!(free, xfs_db_free(&image), "{name}");
        let used = found.length - found.free_bytes;
        assert!(used > 400_000, "{name}: nothing in it");
        let noisy = noisy_copy(&image, &free);
        fs::remove_file(noisy).unwrap();
        fs::remove_file(image).unwrap();
    }
}

/// Other ways to a clean volume than an unmount.
#[test]
fn tools_leave_a_volume_that_is_trusted() {
    let test = "tools_leave_an_xfs_that_is_trusted";
    if !have(test, TOOLS) || !have(test, &["losetup", "xfs_admin"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let image = make(&scratch, "v", "64M", "");
    let (before, path) = (trusted(&image), image.display());
    // The records of the log then bear another UUID than the other structures do.
    sh(&format!("{0} -U generate {path} >/dev/null; {0} -L other {path}", "xfs_admin"));
    let (found, free) = survey_file(&image);
    assert_eq!((found.untrusted, free), (None, before));
    assert_eq!(found.label.as_deref(), Some("other"));
    mounted(&image, "", &format!("{}; touch $m/x", compare_script(&scratch)));
    assert_eq!(trusted(&image), xfs_db_free(&image));
    // A repair that finds nothing, one that empties the log, and one that counts anew.
    for (spoil, repair) in [
        ("true", ""),
        ("true", "-L"),
        ("xfs_db -x -c 'sb 0' -c 'write fdblocks 1234' $v", ""),
        ("xfs_db -x -c 'agf 1' -c 'write bnoroot 3' $v", ""),
    ] {
        sh(&format!("v={path}; {spoil} >/dev/null; xfs_repair -f {repair} $v 2>&1"));
        assert_eq!(log_state(&image), "CLEAN", "{repair}");
        assert_eq!(trusted(&image), xfs_db_free(&image), "{spoil} {repair}");
    }
    // A larger one, which leaves the copies of the superblock behind.
    sh(&format!("truncate -s 131M {path}"));
    mounted(&image, "", "xfs_growfs $m >/dev/null; cp -r $m/late $m/again");
    let (found, free) = survey_file(&image);
    assert_eq!((found.untrusted, free), (None, xfs_db_free(&image)));
    assert!(found.length > 130 << 20);
}

#[test]
fn large_volume_is_read_in_few_bytes() {
    let test = "large_xfs_is_read_in_few_bytes";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let image = scratch.path("v");
    for (size, options) in [
        ("1T", "-l size=64m"),
        ("15T", "-l size=64m"),
        ("1T", "-l size=64m -d agcount=500"),
    ] {
        mkfs(&image, size, options);
        let volume = Meter::new(HostFile::open_read(&image).unwrap());
        let (found, free) = survey(&volume);
        assert_eq!(found.untrusted, None);
        assert_eq!(free, xfs_db_free(&image));
        // The log on both sides of its head; of each group its headers and two roots.
        let groups = geometry(&image).ag_count;
        let most = (4 << 20) + (64 << 10) + groups * (4 * 512 + 2 * 4096);
        let read = volume.counts().bytes_read;
        assert!(read <= most, "{size}: {read} bytes read");
        assert!(free.len() as u64 >= groups);
    }
}

#[test]
fn truncated_volume_is_not_trusted_and_a_longer_one_keeps_its_tail() {
    let test = "truncated_xfs_is_not_trusted";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let image: &Path = &scratch.path("v");
    mkfs(image, "64M", "");
    let free = trusted(image);
    sh(&format!("truncate -s 70M {}", image.display()));
    let (found, longer) = survey_file(image);
    assert_eq!((found.untrusted, found.length), (None, 64 << 20));
    assert_eq!(longer, free);
    sh(&format!("truncate -s $((64 * 1048576 - 512)) {}", image.display()));
    assert!(distrusted(image).contains("the volume was cut off"));
}
