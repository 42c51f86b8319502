//! Images for the situations: some made by other people's tools, chains by the tests' own
//! writer.

use std::fs;
use std::path::{Path, PathBuf};

use crate::chain_model::{Child, id_in};
use crate::support::{Noise, Scratch, have, sh};
use crate::vhd_model::{Shape, set_checksum};

const BLOCK: usize = 2 << 20;

/// A dynamic VHD of 64 MiB with ext4 on the bare disk, in which a file of 20 MiB was
/// deleted; `None`, said under the name `test`, if the tools are missing.
pub fn with_something_to_win(test: &str, scratch: &Scratch) -> Option<PathBuf> {
    if !have(test, &["qemu-img", "mke2fs", "debugfs", "e2fsck"]) {
        return None;
    }
    let tree = scratch.path("tree");
    fs::create_dir_all(&tree).unwrap();
    let mut noise = Noise::new(7);
    fs::write(tree.join("keep"), noise.bytes(6 << 20)).unwrap();
    fs::write(tree.join("gone"), noise.bytes(20 << 20)).unwrap();
    sh(&format!(
        "cd '{}'
         truncate -s 64M raw
         mke2fs -q -F -t ext4 -b 4096 -O ^metadata_csum -d tree raw
         # What debugfs deletes stays in its blocks; the counts are put right by e2fsck.
         debugfs -w -R 'rm gone' raw 2>/dev/null
         e2fsck -fy raw >/dev/null 2>&1 || [ $? -le 1 ]
         qemu-img convert -O vpc -o subformat=dynamic,force_size=on raw disk.vhd
         rm -r tree raw",
        scratch.dir().display()
    ));
    Some(scratch.path("disk.vhd"))
}

/// Whether the guest's file `keep` in `disk` is as it was, judged by e2fsck and debugfs.
pub fn kept(disk: &Path) -> bool {
    let dir = disk.parent().unwrap();
    sh(&format!(
        "cd '{}'; qemu-img convert -f vpc -O raw '{}' back.raw
         e2fsck -fn back.raw >/dev/null 2>&1
         debugfs -R 'dump keep keep.out' back.raw 2>/dev/null; rm back.raw",
        dir.display(),
        disk.display()
    ));
    fs::read(dir.join("keep.out")).unwrap() == Noise::new(7).bytes(6 << 20)
}

fn shape(blocks: u32, seed: u64) -> Shape {
    let mut shape = Shape::random(&mut Noise::new(seed));
    (shape.block_size, shape.blocks, shape.batmap) = (BLOCK, blocks, false);
    (shape.spare_entries, shape.creator, shape.aligned) = (0, *b"win ", true);
    shape.order = (0..blocks).map(|block| (block, 0)).collect();
    shape
}

/// A dynamic VHD of `blocks` times 2 MiB, all of them noise but those in `zero`.
pub fn dynamic(path: &Path, blocks: u32, zero: &[u32]) {
    fs::write(path, shape(blocks, 5).build(zero)).unwrap();
}

/// A child of `parent`, which lies beside it: every second block is its own.
pub fn child(path: &Path, parent: &Path, blocks: u32) {
    let mut shape = shape(blocks, 6);
    shape.order.retain(|(block, _)| block % 2 == 0);
    let id = id_in(&fs::read(parent).unwrap());
    let name = parent.file_name().unwrap().to_str().unwrap();
    let file = Child::new(shape.clone(), id, name)
        .build(|_| vec![0xFF; BLOCK / 512 / 8], |block| shape.data(block));
    fs::write(path, file).unwrap();
}

/// A parent and its child.
pub fn chain(scratch: &Scratch) -> (PathBuf, PathBuf) {
    let (parent, child) = (scratch.path("parent.vhd"), scratch.path("child.vhd"));
    dynamic(&parent, 6, &[1, 4]);
    self::child(&child, &parent, 6);
    (parent, child)
}

/// A fixed VHD of 4 MiB.
pub fn fixed(path: &Path) {
    let disk = Noise::new(9).bytes(4 << 20);
    fs::write(path, crate::chain_model::fixed(&disk, 9)).unwrap();
}

/// Says in both footers that a virtual machine sleeps with this disk.
pub fn set_saved_state(path: &Path) {
    let mut file = fs::read(path).unwrap();
    let last = file.len() - 512;
    for at in [0, last] {
        let footer = &mut file[at..at + 512];
        footer[84] = 1;
        set_checksum(footer, 64);
    }
    fs::write(path, file).unwrap();
}

/// Text under the name of an image.
pub fn text_file(path: &Path) {
    fs::write(path, "Dear diary, this is no virtual hard disk.\n".repeat(100)).unwrap();
}
