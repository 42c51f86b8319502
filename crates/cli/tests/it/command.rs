//! Running the command, and images to run it on.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{Noise, Scratch, have, sh};

/// The tools that [`image`] needs.
pub const TOOLS: &[&str] = &["qemu-img", "mke2fs", "debugfs"];

/// The command in a clean environment: no colours asked for, no terminal, an
/// ASCII locale of eighty columns.
pub fn slimdisk() -> Command {
    #[cfg(target_os = "linux")]
    if let Some(exe) = under_wine() {
        return clean(crate::wine::wine(&exe));
    }
    clean(Command::new(env!("CARGO_BIN_EXE_slimdisk")))
}

/// With `SLIMDISK_UNDER_WINE` the tests are of the Windows command, under Wine.
#[cfg(target_os = "linux")]
pub fn under_wine() -> Option<PathBuf> {
    std::env::var_os("SLIMDISK_UNDER_WINE")?;
    crate::wine::built("the command under Wine", "slimdisk.exe")
}

/// How often to do something random: less often under Wine, where a start takes its time.
#[cfg(target_os = "linux")]
pub fn rounds(count: u32) -> u32 {
    if under_wine().is_some() { count.div_ceil(8) } else { count }
}

pub fn clean(mut command: Command) -> Command {
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "LC_CTYPE", "LANG"] {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C").env("COLUMNS", "80").stdin(Stdio::null());
    command
}

/// What a run did.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            err: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
        }
    }
}

impl Ran {
    /// The JSON objects on stdout, one a line.
    pub fn objects(&self) -> Vec<Value> {
        objects(&self.out)
    }

    /// The one JSON object on stdout.
    pub fn object(&self) -> Value {
        let mut all = self.objects();
        assert_eq!(all.len(), 1, "one object expected: {}", self.out);
        all.remove(0)
    }

    /// The same, after a run that must have gone well.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }
}

/// Every line as a JSON object.
pub fn objects(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| {
            let value: Value = serde_json::from_str(line)
                .unwrap_or_else(|e| panic!("not JSON ({e}): {line}"));
            assert!(value.is_object(), "not an object: {line}");
            value
        })
        .collect()
}

/// Runs `slimdisk ARGS PATHS`.
pub fn run(args: &[&str], paths: &[&Path]) -> Ran {
    slimdisk().args(args).args(paths).output().unwrap().into()
}

/// A dynamic VHD of 64 MiB with ext4 on the bare disk: `keep` of about 6 MiB, the
/// noise of a deleted file of 20 MiB that the free map calls free, and 8 MiB of
/// allocated zeros.
///
/// `None`, said under the name `test`, if the tools are missing.
pub fn image(test: &str, scratch: &Scratch) -> Option<PathBuf> {
    if !have(test, TOOLS) {
        return None;
    }
    let dir = scratch.dir().display();
    let tree = scratch.path("tree");
    std::fs::create_dir_all(&tree).unwrap();
    let mut noise = Noise::new(7);
    std::fs::write(tree.join("keep"), noise.bytes(6 << 20)).unwrap();
    std::fs::write(tree.join("gone"), noise.bytes(20 << 20)).unwrap();
    sh(&format!(
        "cd {dir}
         truncate -s 64M raw
         mke2fs -q -F -t ext4 -b 4096 -O ^metadata_csum -L slim -d tree raw
         # What debugfs deletes stays in its blocks; the counts in the superblock
         # and the groups are put right by e2fsck.
         debugfs -w -R 'rm gone' raw 2>/dev/null
         e2fsck -fy raw >/dev/null 2>&1 || [ $? -le 1 ]
         qemu-img convert -O vpc -o subformat=dynamic,force_size=on raw disk.vhd
         rm -r tree"
    ));
    let disk = scratch.path("disk.vhd");
    allocate_zeros(&disk, 4);
    Some(disk)
}

/// Gives `count` absent blocks of a dynamic VHD places full of zeros, at the end
/// of the file.
pub fn allocate_zeros(disk: &Path, count: usize) {
    let mut file = std::fs::read(disk).unwrap();
    let footer = file.split_off(file.len() - 512);
    let be32 = |at: usize, file: &[u8]| {
        u32::from_be_bytes(file[at..at + 4].try_into().unwrap()) as usize
    };
    // The dynamic header follows the copy of the footer: offset of the table
    // (low half), its entries, the block size.
    let (table, entries, block) =
        (be32(512 + 20, &file), be32(512 + 28, &file), be32(512 + 32, &file));
    let mut left = count;
    for at in (0..entries).map(|i| table + 4 * i) {
        if left > 0 && be32(at, &file) == 0xFFFF_FFFF {
            let sector = u32::try_from(file.len() / 512).unwrap();
            file[at..at + 4].copy_from_slice(&sector.to_be_bytes());
            file.extend(std::iter::repeat_n(0xFF, 512));
            file.resize(file.len() + block, 0);
            left -= 1;
        }
    }
    assert_eq!(left, 0, "too few absent blocks");
    file.extend(footer);
    std::fs::write(disk, file).unwrap();
}

/// A copy of `disk` under another name.
pub fn copy(disk: &Path, name: &str) -> PathBuf {
    let path = disk.with_file_name(name);
    std::fs::copy(disk, &path).unwrap();
    path
}

/// The guest's file `keep`, read by other people's tools: the proof that a
/// compacted image still holds what it should.
pub fn kept_file(disk: &Path) -> Vec<u8> {
    let dir = disk.parent().unwrap();
    sh(&format!(
        "cd {}; qemu-img convert -f vpc -O raw {} back.raw
         e2fsck -fn back.raw >/dev/null 2>&1
         debugfs -R 'dump keep keep.out' back.raw 2>/dev/null",
        dir.display(),
        disk.display()
    ));
    let kept = std::fs::read(dir.join("keep.out")).unwrap();
    assert!(kept == Noise::new(7).bytes(6 << 20), "the guest's file has changed");
    kept
}
