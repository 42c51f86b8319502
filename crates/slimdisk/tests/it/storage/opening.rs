//! What can be opened, what is said of what cannot, and what is left behind.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use slimdisk::storage::{Guard, HostFile, ReadAt, Storage};
use slimdisk::{Error, Kind};

use super::super::support::{Noise, Scratch, have, sh, sh_output, skip};
use super::{Holder, file, in_use_by, refusal};

fn kinds(path: &Path) -> [Kind; 2] {
    [
        refusal(HostFile::open_read(path)).kind(),
        refusal(HostFile::open_exclusive(path)).kind(),
    ]
}

#[test]
fn missing_files_and_folders_are_told_apart() {
    let scratch = Scratch::new("missing");
    let there = file(&scratch, 1);
    assert_eq!(kinds(&scratch.path("none.vhd")), [Kind::NotFound; 2]);
    assert_eq!(kinds(Path::new("no-such-file-here.vhd")), [Kind::NotFound; 2]);
    assert_eq!(kinds(&scratch.path("none/disk.vhd")), [Kind::PathNotFound; 2]);
    assert_eq!(kinds(&there.join("disk.vhd")), [Kind::PathNotFound; 2]);
    let link = scratch.path("link.vhd");
    symlink("none.vhd", &link).unwrap();
    assert_eq!(kinds(&link), [Kind::NotFound; 2]);
}

#[test]
fn links_lead_to_the_file_that_is_named() {
    let scratch = Scratch::new("links");
    let path = file(&scratch, 4096).canonicalize().unwrap();
    let link = scratch.path("link.img");
    symlink(&path, &link).unwrap();
    let host = HostFile::open_exclusive(&link).unwrap();
    assert_eq!(host.path(), path);
    let error = host.read_at(4000, &mut [0; 200]).unwrap_err();
    assert_eq!((error.kind(), error.path()), (Kind::InvalidImage, Some(&*path)));
    let error = refusal(HostFile::open_read(&link));
    assert_eq!((error.kind(), error.path()), (Kind::InUse, Some(&*path)));
}

#[test]
fn special_files_are_refused_by_name() {
    let name = "special_files_are_refused_by_name";
    if !have(name, &["mkfifo"]) {
        return;
    }
    let scratch = Scratch::new("special");
    let (fifo, socket) = (scratch.path("fifo"), scratch.path("socket"));
    sh(&format!("mkfifo {}", fifo.display()));
    let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for (path, what) in [
        (scratch.dir(), "a folder"),
        (&fifo, "a named pipe"),
        (&socket, "a socket"),
        (Path::new("/dev/zero"), "a character device"),
        (Path::new("/dev/loop0"), "a block device"),
    ] {
        if path.starts_with("/dev") && !path.exists() {
            skip(name, &path.display().to_string());
            continue;
        }
        for opened in [HostFile::open_read(path), HostFile::open_exclusive(path)] {
            let error: Error = refusal(opened);
            assert_eq!(error.kind(), Kind::InvalidArgument, "{}", error.chain());
            assert!(error.what().contains(what), "{}", error.chain());
        }
    }
}

#[test]
fn a_file_without_write_bits_is_read_only_even_for_root() {
    let scratch = Scratch::new("read-only");
    let path = file(&scratch, 4096);
    for (mode, read_only) in [(0o444, true), (0o400, true), (0o644, false)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        HostFile::open_read(&path).unwrap();
        match HostFile::open_exclusive(&path) {
            Ok(_) => assert!(!read_only, "{mode:o}"),
            Err(error) => {
                assert!(read_only && error.kind() == Kind::ReadOnly, "{error:?}");
            }
        }
    }
}

#[test]
fn an_immutable_file_is_read_only() {
    let name = "an_immutable_file_is_read_only";
    if !have(name, &["chattr"]) {
        return;
    }
    let scratch = Scratch::new("immutable");
    let path = file(&scratch, 4096);
    for flag in ["i", "a"] {
        if !sh_output(&format!("chattr +{flag} {}", path.display())).status.success() {
            return skip(name, "the right to make files immutable");
        }
        let (read, write) = (HostFile::open_read(&path), HostFile::open_exclusive(&path));
        sh(&format!("chattr -{flag} {}", path.display()));
        assert_eq!(read.unwrap().len(), 4096);
        let error = refusal(write);
        assert_eq!(error.kind(), Kind::ReadOnly, "{}", error.chain());
    }
}

#[test]
fn a_read_only_mount_is_read_only() {
    let name = "a_read_only_mount_is_read_only";
    if !have(name, &["mount", "umount"]) {
        return;
    }
    let scratch = Scratch::new("ro-mount");
    let mount = Mount::new(name, &scratch, "mount -t tmpfs -o size=1m none");
    let Some(mount) = mount else { return };
    let path = mount.0.join("disk.img");
    std::fs::write(&path, [1; 4096]).unwrap();
    sh(&format!("mount -o remount,ro {}", mount.0.display()));
    HostFile::open_read(&path).unwrap();
    let error = refusal(HostFile::open_exclusive(&path));
    assert_eq!(error.kind(), Kind::ReadOnly, "{}", error.chain());
}

/// Not a test: what opening does for a user who may not everything.
#[test]
#[ignore = "a part of other tests"]
fn as_nobody() {
    let Some(dir) = std::env::var_os("SLIMDISK_AS_NOBODY") else { return };
    let dir = Path::new(&dir);
    assert_eq!(kinds(&dir.join("private.img")), [Kind::AccessDenied; 2]);
    assert_eq!(kinds(&dir.join("locked/disk.img")), [Kind::AccessDenied; 2]);
    let public = dir.join("public.img");
    HostFile::open_read(&public).unwrap();
    assert_eq!(refusal(HostFile::open_exclusive(&public)).kind(), Kind::ReadOnly);
    // Whose descriptors may not be looked at is still seen by the locks.
    let pid = std::env::var("SLIMDISK_HOLDER").unwrap();
    for (name, held_by, may_read) in [
        ("free.img", None, true),
        ("reads.img", Some(&*pid), true),
        ("writes.img", Some(&*pid), false),
        ("denies.img", Some("another program"), false),
        ("flock.img", Some("another program"), true),
    ] {
        let path = dir.join(name);
        assert_eq!(HostFile::open_read(&path).is_ok(), may_read, "{name}");
        match (HostFile::open_exclusive(&path), held_by) {
            (Ok(host), None) => {
                assert_eq!(host.exclusion().guards(), [Guard::Flock, Guard::QemuLocks]);
                assert_eq!(host.exclusion().missing().len(), 1);
            }
            (opened, Some(who)) => in_use_by(opened, who),
            (Err(error), None) => panic!("{name}: {error:?}"),
        }
    }
    println!("seen as nobody");
}

#[test]
fn what_a_user_may_not_do_is_told_apart() {
    let name = "what_a_user_may_not_do_is_told_apart";
    if !have(name, &["setpriv", "python3"]) {
        return;
    }
    // Where nobody can go: the folder of the build may be a private one.
    let dir =
        std::env::temp_dir().join(format!("slimdisk-nobody-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("locked")).unwrap();
    let set = |name: &str, mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(dir.join(name), mode).unwrap();
    };
    for (name, mode) in [
        ("private.img", 0o600),
        ("public.img", 0o644),
        ("locked/disk.img", 0o644),
        ("free.img", 0o666),
        ("reads.img", 0o666),
        ("writes.img", 0o666),
        ("denies.img", 0o666),
        ("flock.img", 0o666),
    ] {
        std::fs::write(dir.join(name), [1; 512]).unwrap();
        set(name, mode);
    }
    set("", 0o755);
    set("locked", 0o700);
    std::fs::copy(std::env::current_exe().unwrap(), dir.join("it")).unwrap();
    // As QEMU does it, with and without locks that say whose they are.
    let holder = Holder::python(
        &dir,
        "import struct\no=lambda n: open(p+'/'+n,'r+b')\n\
         a=o('reads.img'); fcntl.lockf(a,fcntl.LOCK_SH,1,100)\n\
         b=o('writes.img'); fcntl.lockf(b,fcntl.LOCK_SH,1,101)\n\
         c=o('denies.img'); fcntl.fcntl(c,37,struct.pack('hhqqi',0,0,200,1,0))\n\
         d=o('flock.img'); fcntl.flock(d,fcntl.LOCK_SH)",
    );
    let output = sh_output(&format!(
        "export SLIMDISK_HOLDER='(process {1})'
         cd / && SLIMDISK_AS_NOBODY={0} setpriv --reuid 65534 --regid 65534 --clear-groups \
         {0}/it --ignored --exact storage::opening::as_nobody --nocapture 2>&1",
        dir.display(),
        holder.0.id()
    ));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    std::fs::remove_dir_all(&dir).unwrap();
    if text.contains("setpriv: ") {
        return skip(name, "the right to become nobody (root)");
    }
    assert!(output.status.success() && text.contains("seen as nobody"), "{text}");
}

#[test]
fn reading_leaves_no_trace_and_times_come_back() {
    let scratch = Scratch::new("times");
    let path = file(&scratch, 4096);
    // An access time older than the last change is one that reading would renew.
    let long_ago = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    let times = std::fs::FileTimes::new().set_accessed(long_ago).set_modified(long_ago);
    std::fs::File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
    let before = std::fs::metadata(&path).unwrap();

    let reader = HostFile::open_read(&path).unwrap();
    reader.read_at(0, &mut [0; 4096]).unwrap();
    drop(reader);
    let after = std::fs::metadata(&path).unwrap();
    assert_eq!(
        (before.atime(), before.atime_nsec()),
        (after.atime(), after.atime_nsec())
    );
    assert_eq!(
        (before.ctime(), before.ctime_nsec()),
        (after.ctime(), after.ctime_nsec())
    );

    let host = HostFile::open_exclusive(&path).unwrap();
    let times = host.times().unwrap();
    host.write_at(100, b"changed").unwrap();
    host.set_len(2048).unwrap();
    host.flush().unwrap();
    assert_ne!(std::fs::metadata(&path).unwrap().modified().unwrap(), long_ago);
    host.restore_times(times).unwrap();
    host.flush().unwrap();
    drop(host);
    let after = std::fs::metadata(&path).unwrap();
    assert_eq!(after.modified().unwrap(), long_ago);
    assert_eq!(after.accessed().unwrap(), long_ago);
    assert_eq!((after.mode(), after.uid()), (before.mode(), before.uid()));
}

#[test]
fn writes_lengths_and_reads_agree() {
    let scratch = Scratch::new("lengths");
    let path = file(&scratch, 0);
    let host = HostFile::open_exclusive(&path).unwrap();
    assert_eq!(host.len(), 0);
    assert_eq!(host.next_data(0).unwrap(), None);
    let data = Noise::new(5).bytes(10_000);
    host.write_at(5_000, &data).unwrap();
    assert_eq!(host.len(), 15_000);
    host.set_len(20_000).unwrap();
    host.set_len(12_345).unwrap();
    host.flush().unwrap();
    assert_eq!(host.len(), 12_345);
    let mut read = vec![1; 12_345];
    host.read_at(0, &mut read).unwrap();
    assert_eq!(host.read_at(12_345, &mut [0]).unwrap_err().kind(), Kind::InvalidImage);
    assert_eq!(
        host.read_at(u64::MAX, &mut [0; 2]).unwrap_err().kind(),
        Kind::InvalidImage
    );
    assert_eq!(host.write_at(u64::MAX, &[0; 2]).unwrap_err().kind(), Kind::DiskFull);
    drop(host);
    assert_eq!(std::fs::read(&path).unwrap(), read);
    assert_eq!(read[..5_000], [0; 5_000]);
    assert_eq!(read[5_000..], data[..7_345]);
}

/// A file system that is unmounted with this value.
pub struct Mount(pub std::path::PathBuf);

impl Mount {
    /// A file system of so many bytes (as `truncate` has them) that `mkfs` makes.
    pub fn made_by(
        mkfs: &str,
        size: &str,
        test: &str,
        scratch: &Scratch,
    ) -> Option<Self> {
        let image = scratch.path("host.img");
        let image = image.display();
        sh(&format!("truncate -s {size} {image} && {mkfs} {image}"));
        Self::new(test, scratch, &format!("again mount -o loop {image}"))
    }

    /// Runs `mount` with the mount point appended.
    pub fn new(test: &str, scratch: &Scratch, mount: &str) -> Option<Self> {
        let dir = scratch.path("mnt");
        std::fs::create_dir_all(&dir).unwrap();
        if sh_output(&format!("{mount} {}", dir.display())).status.success() {
            return Some(Mount(dir));
        }
        skip(test, "the right to mount (root)");
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        sh_output(&format!("umount {0} || umount -l {0}", self.0.display()));
    }
}
