//! Volumes that were really left in use, and what would be lost if their maps were
//! believed.

use std::fs;
use std::path::Path;

use super::{
    TOOLS, compare_script, distrusted, log_state, make, mounted, noisy_copy, survey_file,
    trusted, xfs_db_free,
};
use crate::support::{Scratch, have, sh};

const NOT_UNMOUNTED: &str = "the file system was not unmounted, its log holds changes";

/// Not trusted, and the log is the reason; after a mount and an unmount it is.
fn refused_until_mounted(image: &Path) {
    assert_eq!(log_state(image), "DIRTY");
    let reason = distrusted(image);
    assert!(reason.starts_with(NOT_UNMOUNTED), "{reason}");
    assert!(reason.contains("mount it once in Linux and unmount it"), "{reason}");
    mounted(image, "", "true");
    assert_eq!(log_state(image), "CLEAN");
    assert_eq!(trusted(image), xfs_db_free(image));
}

#[test]
fn a_volume_in_use_is_refused() {
    let test = "an_xfs_in_use_is_refused";
    if !have(test, TOOLS) || !have(test, &["losetup", "xfs_freeze"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let sound = make(&scratch, "sound", "64M", "");
    let copy = |name: &str| {
        let image = scratch.path(name);
        fs::copy(&sound, &image).unwrap();
        image
    };
    let late = scratch.path("tree/late/late1");
    let write = format!("cp {} $m/durable; xfs_io -c fsync $m/durable", late.display());

    // Power lost: the log has been written, the map has not.
    let image = copy("shutdown");
    mounted(&image, "", &format!("{write}; xfs_io -x -c 'shutdown -f' $m"));
    let stale = xfs_db_free(&image);
    refused_until_mounted(&image);
    let fresh = trusted(&image);
    assert_ne!(stale, fresh, "the map was current after all");
    // Without flushing the log there is nothing in it, and nothing to lose either.
    let image = copy("nothing");
    mounted(&image, "", "touch $m/x; xfs_io -x -c shutdown $m");
    assert_eq!(survey_file(&image), survey_file(&sound));

    // A copy of the image while the guest runs. The kernel that would replay its log
    // is the judge that the file lies in what the map calls free.
    let (image, live) = (copy("live"), scratch.path("live.copy"));
    mounted(&image, "", &format!("{write}; cp $v {}", live.display()));
    let spoilt = scratch.path("spoilt");
    fs::copy(&live, &spoilt).unwrap();
    crate::free_map::scribble_file(&spoilt, &xfs_db_free(&spoilt));
    mounted(&spoilt, "", &format!("! cmp {} $m/durable 2>/dev/null", late.display()));
    refused_until_mounted(&live);
    mounted(&live, ",ro", &format!("cmp {} $m/durable", late.display()));

    // Frozen for a snapshot.
    let (image, frozen) = (copy("frozen"), scratch.path("frozen.copy"));
    mounted(
        &image,
        "",
        &format!(
            "{write}; xfs_freeze -f $m; cp $v {}; xfs_freeze -u $m",
            frozen.display()
        ),
    );
    refused_until_mounted(&frozen);
}

#[test]
fn a_volume_mounted_read_only_is_trusted() {
    let test = "an_xfs_mounted_read_only_is_trusted";
    if !have(test, TOOLS) || !have(test, &["losetup"]) {
        return;
    }
    let scratch = Scratch::new(test);
    let image = make(&scratch, "v", "64M", "");
    let before = survey_file(&image);
    let copy = scratch.path("copy");
    let take = format!("cp $v {}", copy.display());
    // Read-only from the start, and without recovery.
    for options in [",ro", ",ro,norecovery"] {
        mounted(&image, options, &format!("ls $m >/dev/null; {take}"));
        assert_eq!(survey_file(&copy), before);
    }
    // Remounted read-only with a file deleted that is still open: its blocks are in
    // use, on disk too, until somebody mounts the volume.
    mounted(
        &image,
        "",
        &format!(
            "head -c 3000000 $v >$m/gone; sync -f $m
             exec 3<$m/gone; rm $m/gone
             mount -o remount,ro $m 2>/dev/null || true
             {take}; exec 3<&-"
        ),
    );
    let (found, free) = survey_file(&copy);
    if found.untrusted.is_none() {
        assert_eq!(log_state(&copy), "CLEAN");
        assert_eq!(free, xfs_db_free(&copy));
        let noisy = noisy_copy(&copy, &free);
        mounted(&noisy, ",ro", &compare_script(&scratch));
    } else {
        assert_eq!(log_state(&copy), "DIRTY");
    }
    // The same without an open file.
    mounted(
        &image,
        "",
        &format!("cp $m/late/late1 $m/more; mount -o remount,ro $m; {take}"),
    );
    assert_eq!(log_state(&copy), "CLEAN");
    assert_eq!(trusted(&copy), xfs_db_free(&copy));
    sh(&format!("rm {}", copy.display()));
}
