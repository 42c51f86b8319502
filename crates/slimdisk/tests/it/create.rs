//! New disks: judged by qemu, libvhdi, 7-Zip and a strict reader of the tests' own.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use slimdisk::create::{self, Content, Options, Outcome, Report};

use crate::support::{Scratch, have, sh};
use crate::vhd_model::read_strictly;

const MIB: u64 = 1 << 20;

/// Makes a disk, whatever comes of it.
pub fn create(path: &Path, options: &Options) -> Report {
    create::create(path, options, &mut |_| ControlFlow::Continue(()))
}

/// Makes a disk that comes out as it was planned.
pub fn made(path: &Path, options: &Options) -> Report {
    let planned = create::plan(path, options);
    assert_eq!(planned.error, None);
    assert_eq!(planned.outcome, Outcome::Planned);
    assert!(path.symlink_metadata().is_err(), "a plan made {}", path.display());
    let report = create(path, options);
    assert_eq!(report.error, None);
    assert_eq!(report.outcome, Outcome::Created);
    assert_eq!(fs::metadata(path).unwrap().len(), report.file_size);
    assert_eq!(planned.file_size, report.file_size);
    report
}

#[test]
fn dynamic_disks_are_what_windows_and_qemu_make() {
    let test = "dynamic_disks_are_what_windows_and_qemu_make";
    if !have(test, &["qemu-img"]) {
        return;
    }
    let scratch = Scratch::new(test);
    for size in [3 * MIB, 3 * MIB + 512, 5 * MIB + 1536, 127 << 30, 2040 << 30] {
        for block_size in [None, Some(512 << 10), Some(64 * MIB)] {
            if size == 2040 << 30 && block_size == Some(512 << 10) {
                continue;
            }
            let path = scratch.path(&format!("{size}.vhd"));
            let mut options = Options::new(Content::Dynamic { size });
            options.block_size = block_size;
            let report = made(&path, &options);
            assert_eq!(report.virtual_size, size);
            assert_eq!(report.file_size % 4096, 0);
            let file = fs::read(&path).unwrap();
            let blocks = read_strictly(&file).unwrap();
            let block_size = block_size.unwrap_or(2 * MIB);
            assert_eq!(blocks.len() as u64, size.div_ceil(block_size));
            assert!(blocks.iter().all(Option::is_none));
            let info =
                sh(&format!("qemu-img info --output=json -f vpc {}", path.display()));
            assert!(info.contains(&format!("\"virtual-size\": {size}")), "{info}");
            fs::remove_file(&path).unwrap();
        }
    }
}
