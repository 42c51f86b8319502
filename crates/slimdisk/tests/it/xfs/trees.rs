//! Free space in so many pieces that the B+trees grow.

use crate::vhd_model::FileAt as _;
use std::fs;

use slimdisk::storage::{HostFile, Meter};

use super::{
    TOOLS, geometry, mkfs, mounted, noisy_copy, repair_finds_nothing, survey, trusted,
    xfs_db, xfs_db_free,
};
use crate::support::{Noise, Scratch, have, sh};

/// Fills a file of `blocks` blocks of 1 KiB and gives the odd ones back, so that no
/// free block lies beside another.
pub fn comb(
    scratch: &Scratch,
    size: &str,
    options: &str,
    blocks: usize,
) -> std::path::PathBuf {
    let image = scratch.path("v");
    mkfs(&image, size, options);
    let content = Noise::new(23).bytes(blocks << 10);
    fs::write(scratch.path("content"), &content).unwrap();
    mounted(
        &image,
        "",
        &format!(
            "cp {0}/content $m/comb; sync -f $m
             for n in $(seq 1 2 $(({blocks} - 1))); do
                 echo fpunch $((n * 1024)) 1024
             done >{0}/commands
             xfs_io $m/comb <{0}/commands >/dev/null; sync -f $m",
            scratch.dir().display()
        ),
    );
    // What is in the file now.
    let expected = fs::File::options().write(true).open(scratch.path("content")).unwrap();
    for block in (1..blocks).step_by(2) {
        expected.write_all_at(&[0; 1024], (block << 10) as u64).unwrap();
    }
    image
}

#[test]
fn tall_trees_are_read_and_survive_noise() {
    let test = "tall_xfs_trees_are_read_and_survive_noise";
    if !have(test, TOOLS) || !have(test, &["losetup"]) {
        return;
    }
    let scratch = Scratch::new(test);
    for (options, blocks, levels) in [
        ("-b size=1024", 2000, 2),
        ("-b size=1024 -m rmapbt=1", 2000, 2),
        ("-b size=1024 -d agcount=2", 24_000, 3),
    ] {
        let image = comb(&scratch, "70003K", options, blocks);
        let groups = geometry(&image).ag_count;
        let tallest = (0..groups)
            .map(|group| {
                let agf = format!("agf {group}");
                xfs_db(&image, &[&agf, "p bnolevel", "p cntlevel"])
            })
            .max()
            .unwrap();
        assert_eq!(tallest, [levels, levels], "{options}");
        let volume = Meter::new(HostFile::open_read(&image).unwrap());
        let (found, free) = survey(&volume);
        assert_eq!(found.untrusted, None, "{options}");
        assert_eq!(free, xfs_db_free(&image), "{options}");
        // How many neighbours have merged is up to the kernel.
        assert!(free.len() > blocks / 3, "{options}: {}", free.len());

        let noisy = noisy_copy(&image, &free);
        let compare = format!("cmp {}/content $m/comb", scratch.dir().display());
        mounted(&noisy, ",ro", &compare);
        let fill = "head -c 6000000 /dev/zero >$m/more; sync -f $m";
        mounted(&noisy, "", &format!("{compare}; {fill}; {compare}"));
        repair_finds_nothing(&noisy);
        assert_eq!(trusted(&noisy), xfs_db_free(&noisy), "{options}");
        sh(&format!("rm {}", noisy.display()));
    }
}
