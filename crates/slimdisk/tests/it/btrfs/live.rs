//! Volumes taken away from a running kernel, large ones, and ones with deep trees.

use std::fs;

use slimdisk::storage::{HostFile, Meter};

use super::{
    TOOLS, assert_sound, assert_survives_noise, case, free_of, listing, make, mirror_at,
    mounted, survey, survey_file,
};
use crate::free_map::scribble_file;
use crate::support::{Scratch, have, sh};

/// No commit comes by itself.
const NO_COMMIT: &str = "-o commit=3000";

#[test]
fn fsynced_files_are_not_lost() {
    let test = "fsynced_files_of_a_btrfs_are_not_lost";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let image = make(&scratch, &case("v", "128M", "", "", ""));
    let copy = scratch.path("copy");
    let take = format!("cp --sparse=never $v {}", copy.display());
    // Files fsynced since the last commit lie in the log alone.
    mounted(
        &image,
        NO_COMMIT,
        &format!(
            "head -c 2000000 /dev/urandom > $m/new; cp $m/new $v.new
             xfs_io -c fsync $m/new; {take}"
        ),
    );
    let reason = survey_file(&copy).0.untrusted.unwrap();
    assert!(
        reason.contains("a log of fsynced files to be replayed: mount it"),
        "{reason}"
    );
    // Doing as told: the file is there, and the volume trusted.
    let new = format!("cmp $m/new {}.new", image.display());
    mounted(&copy, "", &new);
    let free = free_of(&copy);
    assert_eq!(free, listing(&copy).free);
    scribble_file(&copy, &free);
    assert_sound(&copy);
    mounted(&copy, "-o ro", &new);
}

#[test]
fn whatever_was_committed_last_is_whole() {
    let test = "whatever_a_btrfs_committed_last_is_whole";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let image = make(&scratch, &case("v", "160M", "", "", ""));
    let copy = scratch.path("copy");
    // A subvolume whose deletion has only begun, a deleted file that is still open,
    // and after the commit writes, deletions and nodes that no commit knows of.
    mounted(
        &image,
        NO_COMMIT,
        &format!(
            "btrfs -q subvolume snapshot $m/sub $m/again; rm -r $m/sub/first/d
             for i in $(seq 300); do head -c 5000 $m/large > $m/again/$i; done
             exec 9<$m/compressed; rm $m/compressed
             btrfs -q subvolume delete -c $m/again; sync -f $m
             head -c 9000000 /dev/urandom > $m/new; rm $m/large
             for i in $(seq 99); do echo $i > $m/small$i; done
             cp --sparse=never $v {0}; exec 9<&-",
            copy.display()
        ),
    );
    // A slow machine may have committed some of that too: what is in the copy counts.
    mounted(&copy, "-o ro", "test -e $m/snap/first/d/e/old2; cp -r $m $v.files");
    let free = free_of(&copy);
    assert_eq!(free, listing(&copy).free);
    assert_survives_noise(&copy, &free);
}

#[test]
fn a_tree_of_many_levels_is_streamed() {
    let test = "a_btrfs_tree_of_many_levels_is_streamed";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let image = scratch.path("v");
    sh(&format!(
        "truncate -s 256M {0}; mkfs.btrfs -q -n 4096 -d single -m dup {0} >/dev/null 2>&1",
        image.display()
    ));
    // Prealloc extents of 4 KiB with gaps of 4 KiB between them.
    mounted(
        &image,
        "",
        "python3 -c \"
import os, sys
for i in range(10000):
    f = os.open(sys.argv[1] + '/%d' % i, os.O_CREAT | os.O_WRONLY)
    os.posix_fallocate(f, 0, 4096); os.close(f)\" $m
         sync -f $m; (cd $m; rm -f *[13579]); sync -f $m; mkdir $v.files; cp -r $m/. $v.files/",
    );
    let volume = Meter::new(HostFile::open_read(&image).unwrap());
    let (found, free) = survey(&volume);
    assert_eq!(found.untrusted, None);
    let listing = listing(&image);
    assert_eq!(free, listing.free);
    assert!(
        listing.levels >= 2 && free.len() > 2000,
        "{} {}",
        listing.levels,
        free.len()
    );
    let read = volume.counts().bytes_read;
    assert!(read < 8 << 20, "{read} bytes read");
    assert_survives_noise(&image, &free);
}

/// 1 TiB with a mirror at 256 GiB, and chunks of 1 GiB.
#[test]
fn large_volume_is_streamed() {
    let test = "large_btrfs_volume_is_streamed";
    if !have(test, TOOLS) {
        return;
    }
    let scratch = Scratch::new(test);
    let image = scratch.path("v");
    sh(&format!(
        "truncate -s 1T {0}; mkfs.btrfs -q {0} >/dev/null 2>&1",
        image.display()
    ));
    // Space for 300 GiB, of which nothing is written.
    mounted(
        &image,
        "",
        "for i in $(seq 30); do xfs_io -f -c 'falloc 0 10g' $m/$i; done; sync -f $m
         rm $m/*3; echo hello > $m/hello; sync -f $m",
    );
    let volume = Meter::new(HostFile::open_read(&image).unwrap());
    let (found, free) = survey(&volume);
    assert_eq!(found.untrusted, None);
    assert_eq!(free, listing(&image).free);
    let mirror = mirror_at(256 << 30);
    assert!(free.iter().all(|r| r.end <= mirror.start || mirror.end <= r.start));
    let near = |at: u64| free.iter().any(|r| r.start <= at && at <= r.end);
    assert!(near(mirror.start) && near(mirror.end), "nothing is free at the mirror");
    assert!(volume.counts().bytes_read < 8 << 20, "{:?}", volume.counts());
    fs::remove_file(image).unwrap();
}
