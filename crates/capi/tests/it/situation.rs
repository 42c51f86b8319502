//! Real situations: an image in use, a volume that is full, one that fails.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::installed::{Link, program, run};
use crate::support::{Scratch, have, sh, sh_output, skip};

/// What every test here asks with; `None`, said under its name, if a tool is missing.
pub struct Operation(PathBuf);

impl Operation {
    pub fn new(test: &str) -> Option<Self> {
        program(test, "operation", "gcc", Link::Shared).map(Operation)
    }

    /// The operation answers exactly `code`, or its task does (`task:CODE`).
    #[track_caller]
    pub fn answers(&self, code: &str, operation: &str, arguments: &[&str]) -> String {
        let mut all = vec![code, operation];
        all.extend(arguments);
        run(&self.0, &all)
    }
}

/// The path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A running qemu-nbd that has an image.
pub struct Nbd {
    pid: PathBuf,
    socket: PathBuf,
}

impl Nbd {
    pub fn of(test: &str, scratch: &Scratch, image: &Path) -> Option<Nbd> {
        if !have(test, &["qemu-nbd"]) {
            return None;
        }
        let (pid, socket) = (scratch.path("nbd.pid"), scratch.path("nbd"));
        sh(&format!(
            "qemu-nbd --fork --persistent -f raw -k '{}' --pid-file='{}' '{}'",
            socket.display(),
            pid.display(),
            image.display()
        ));
        Some(Nbd { pid, socket })
    }
}

impl Drop for Nbd {
    fn drop(&mut self) {
        sh(&format!(
            "pid=$(cat '{}'); kill $pid
             for i in $(seq 100); do kill -0 $pid 2>/dev/null || break; sleep 0.1; done
             rm -f '{0}' '{}'",
            self.pid.display(),
            self.socket.display()
        ));
    }
}

/// A volume that is mounted.
pub struct Volume {
    place: PathBuf,
}

impl Volume {
    fn mount(test: &str, scratch: &Scratch, name: &str, how: &str) -> Option<Volume> {
        let place = scratch.path(name);
        fs::create_dir_all(&place).unwrap();
        let output = sh_output(&format!("again mount {how} '{}'", place.display()));
        if !output.status.success() {
            skip(test, "the right to mount (root)");
            return None;
        }
        Some(Volume { place })
    }

    /// A tmpfs of some size.
    pub fn tmpfs(test: &str, scratch: &Scratch, size: &str) -> Option<Volume> {
        Self::mount(test, scratch, "small", &format!("-t tmpfs -o size={size} none"))
    }

    /// An ext2 with blocks of 1 KiB, whose files end at 16 GiB.
    pub fn ext2(test: &str, scratch: &Scratch) -> Option<Volume> {
        if !have(test, &["mke2fs"]) {
            return None;
        }
        // Sparse: it takes next to nothing here.
        let image = scratch.path("ext2");
        sh(&format!(
            "truncate -s 40G '{0}'; mke2fs -q -F -t ext2 -b 1024 -N 100 '{0}'",
            image.display()
        ));
        Self::mount(test, scratch, "volume", &format!("-o loop '{}'", image.display()))
    }

    /// An ext4 whose medium has become shorter than it knows: what is written to the rest
    /// of it never arrives.
    pub fn failing_to_write(test: &str, scratch: &Scratch) -> Option<Volume> {
        if !have(test, &["mke2fs", "losetup"]) {
            return None;
        }
        let image = scratch.path("ext4");
        sh(&format!(
            "truncate -s 64M '{0}'
             mke2fs -q -F -t ext4 -b 4096 -N 1024 -O ^has_journal '{0}'",
            image.display()
        ));
        let how = format!("-o loop '{}'", image.display());
        let volume = Self::mount(test, scratch, "failing", &how)?;
        // What is small goes where room is at the start, and all else behind it.
        for number in 0..500 {
            fs::write(volume.path(&format!("first {number}")), [1; 4096]).unwrap();
        }
        sh(&format!(
            "sync -f '{0}'; truncate -s 1M '{1}'
             losetup -c $(findmnt -n -o SOURCE '{0}')",
            volume.place.display(),
            image.display()
        ));
        Some(volume)
    }

    /// A Btrfs with copies of `images`, the first page of each not readable any more: the
    /// medium gives other bytes than were written, and the file system sees it.
    pub fn failing_to_read(
        test: &str,
        scratch: &Scratch,
        images: &[&Path],
    ) -> Option<Volume> {
        if !have(test, &["mkfs.btrfs"]) {
            return None;
        }
        let image = scratch.path("btrfs");
        sh(&format!("truncate -s 256M '{0}'; mkfs.btrfs -q '{0}'", image.display()));
        let how = format!("-o loop,noatime '{}'", image.display());
        let volume = Self::mount(test, scratch, "unreadable", &how)?;
        for image in images {
            fs::copy(image, volume.path(image.file_name().unwrap().to_str().unwrap()))
                .unwrap();
        }
        drop(volume);
        let file = fs::File::options().read(true).write(true).open(&image).unwrap();
        let mut page = vec![0; 4096];
        let mut broken = 0;
        for at in (0..file.metadata().unwrap().len()).step_by(page.len()) {
            file.read_exact_at(&mut page, at).unwrap();
            // The header of a VHD with a table, behind the copy of its footer.
            if page.starts_with(b"conectix") && page[512..].starts_with(b"cxsparse") {
                page[300] ^= 0xFF;
                file.write_all_at(&page, at).unwrap();
                broken += 1;
            }
        }
        assert_eq!(broken, images.len(), "the images were not found on the medium");
        drop(file);
        Self::mount(test, scratch, "unreadable", &how)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.join(name)
    }

    /// Takes all room that is left.
    pub fn fill(&self) {
        let full = sh_output(&format!(
            "dd if=/dev/zero of='{}' bs=4096 oflag=append conv=notrunc",
            self.path("filler").display()
        ));
        assert!(!full.status.success(), "the volume has no end");
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        sh_output(&format!(
            "again umount '{0}' || umount -l '{0}'",
            self.place.display()
        ));
    }
}
