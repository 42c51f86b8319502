//! The host file and those who have it: real processes, QEMU, loop devices.

mod copying;
pub mod opening;

use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use slimdisk::compact::{Mode, Options, Phase, compact};
use slimdisk::storage::{Guard, HostFile, Storage};
use slimdisk::{Error, Kind};

use super::io_faults::shape as shape_of_faults;
use super::support::{Scratch, have, sh, sh_output, skip};

/// A process that has a file and goes away with this value.
struct Holder(Child);

impl Holder {
    /// Starts `command`, tells it `says` and waits until it answers `ready`.
    fn start(command: &mut Command, says: &str, ready: &str) -> Self {
        Self::start_and_hear(command, says, ready, &mut String::new())
    }

    fn start_and_hear(
        command: &mut Command,
        says: &str,
        ready: &str,
        heard: &mut String,
    ) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        child.stdin.as_mut().unwrap().write_all(says.as_bytes()).unwrap();
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while !String::from_utf8_lossy(&answer).contains(ready) {
            let n = child.stdout.as_mut().unwrap().read(&mut byte).unwrap();
            assert!(n == 1, "ended early: {}", String::from_utf8_lossy(&answer));
            answer.push(byte[0]);
        }
        *heard = String::from_utf8_lossy(&answer).into_owned();
        Holder(child)
    }

    /// Python that has run `code` with the path as `p`.
    fn python(path: &Path, code: &str) -> Self {
        let script = format!(
            "import os,sys,fcntl,mmap\np=sys.argv[1]\n{code}\nprint('ready',flush=True)\n\
             sys.stdin.read()"
        );
        Self::start(Command::new("python3").args(["-c", &script]).arg(path), "", "ready")
    }

    fn qemu_io(path: &Path, options: &[&str]) -> Self {
        let mut command = Command::new("qemu-io");
        Self::start(command.args(options).arg(path), "length\n", "iB")
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn file(scratch: &Scratch, len: usize) -> PathBuf {
    let path = scratch.path("disk.img");
    std::fs::write(&path, vec![7; len]).unwrap();
    path
}

fn refusal(opened: Result<HostFile, Error>) -> Error {
    opened.err().expect("it should not have been opened")
}

#[track_caller]
fn in_use_by(opened: Result<HostFile, Error>, who: &str) {
    let error = refusal(opened);
    assert_eq!(error.kind(), Kind::InUse, "{}", error.chain());
    assert!(error.what().contains(who), "{} should name {who}", error.chain());
}

#[test]
fn a_file_of_ones_own_is_guarded_three_ways() {
    let scratch = Scratch::new("guards");
    let path = file(&scratch, 4096);
    let host = HostFile::open_exclusive(&path).unwrap();
    for guard in [Guard::Lease, Guard::Flock, Guard::QemuLocks] {
        assert!(host.exclusion().holds(guard), "{:?}", host.exclusion());
    }
    assert!(host.exclusion().missing().is_empty(), "{:?}", host.exclusion());
    host.still_exclusive().unwrap();
    // A second run is refused, and looking does not disturb the first.
    let start = Instant::now();
    in_use_by(HostFile::open_exclusive(&path), "this process itself");
    in_use_by(HostFile::open_read(&path), "this process itself");
    assert!(start.elapsed() < Duration::from_secs(10), "it waited for the lease");
    host.still_exclusive().unwrap();
    drop(host);
    let reader = HostFile::open_read(&path).unwrap();
    assert!(reader.exclusion().guards().is_empty());
    HostFile::open_read(&path).unwrap();
    in_use_by(HostFile::open_exclusive(&path), "this process itself");
}

#[test]
fn whoever_has_the_file_open_is_seen_and_named() {
    if !have("whoever_has_the_file_open_is_seen_and_named", &["python3"]) {
        return;
    }
    let scratch = Scratch::new("openers");
    let path = file(&scratch, 4096);
    let link = scratch.path("hard.img");
    std::fs::hard_link(&path, &link).unwrap();
    // What locks nothing: a reader, a writer, a mapping without a descriptor.
    for code in [
        "f=open(p,'rb')",
        "f=open(p,'r+b')",
        "f=os.open(p,os.O_RDWR|os.O_APPEND)",
        "f=open(p,'r+b')\nfcntl.flock(f,fcntl.LOCK_EX)",
    ] {
        let holder = Holder::python(&path, code);
        let pid = holder.0.id().to_string();
        in_use_by(HostFile::open_exclusive(&path), &pid);
        in_use_by(HostFile::open_exclusive(&link), &pid);
        drop(holder);
        HostFile::open_exclusive(&path).unwrap();
    }
    let code = "f=os.open(p,os.O_RDWR)\nm=mmap.mmap(f,4096)\nos.close(f)";
    let holder = Holder::python(&path, code);
    in_use_by(HostFile::open_exclusive(&path), "in use by");
    drop(holder);
    // To read beside a reader is fine; beside one who locked it is not.
    let holder = Holder::python(&path, "f=open(p,'rb')");
    HostFile::open_read(&path).unwrap();
    drop(holder);
    let holder = Holder::python(&path, "f=open(p,'rb')\nfcntl.flock(f,fcntl.LOCK_EX)");
    in_use_by(HostFile::open_read(&path), &holder.0.id().to_string());
}

#[test]
fn a_glance_at_the_file_is_waited_for() {
    if !have("a_glance_at_the_file_is_waited_for", &["python3"]) {
        return;
    }
    let scratch = Scratch::new("glance");
    let path = file(&scratch, 4096);
    let reader = std::fs::File::open(&path).unwrap();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(80));
        drop(reader);
    });
    HostFile::open_exclusive(&path).unwrap();
    thread.join().unwrap();
}

/// Waits until `done`, up to ten seconds.
#[track_caller]
fn wait_until(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited in vain");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A process that opens `path` and waits for that until it may.
fn newcomer(path: &Path, mode: &str) -> Child {
    Command::new("python3")
        .args(["-c", "import sys; open(sys.argv[1], sys.argv[2])"])
        .arg(path)
        .arg(mode)
        .spawn()
        .unwrap()
}

/// Whether anybody waits for a lease on the file to end (`/proc/locks`).
fn breaking(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let inode = format!(":{} ", std::fs::metadata(path).unwrap().ino());
    std::fs::read_to_string("/proc/locks")
        .unwrap()
        .lines()
        .any(|l| l.contains("LEASE") && l.contains("BREAKING") && l.contains(&inode))
}

#[test]
fn a_waiting_reader_lets_us_go_on_and_a_waiting_writer_stops_us() {
    let name = "a_waiting_reader_lets_us_go_on_and_a_waiting_writer_stops_us";
    if !have(name, &["python3"]) {
        return;
    }
    let scratch = Scratch::new("newcomers");
    let path = file(&scratch, 4096);
    let host = HostFile::open_exclusive(&path).unwrap();
    let mut reader = newcomer(&path, "rb");
    // The signal that tells of it has come by now, and this process lives.
    wait_until(|| breaking(&path));
    host.still_exclusive().unwrap();
    assert!(reader.try_wait().unwrap().is_none(), "the reader should wait");

    let mut writer = newcomer(&path, "r+b");
    wait_until(|| host.still_exclusive().is_err());
    let error = host.still_exclusive().unwrap_err();
    assert_eq!(error.kind(), Kind::InUse);
    assert!(error.what().contains("stopped at a sound point"), "{}", error.chain());
    // It has not got in: what is being written may be finished.
    assert!(writer.try_wait().unwrap().is_none(), "the writer should wait");
    host.write_at(0, b"finished").unwrap();
    drop(host);
    assert!(reader.wait().unwrap().success());
    assert!(writer.wait().unwrap().success());
}

/// Nothing is cut that a newcomer may have appended, and the file's time is given
/// back however a run ends.
#[test]
fn a_newcomer_ends_a_run_before_anything_is_cut() {
    let scratch = Scratch::new("newcomer_ends_a_run");
    let path = scratch.path("disk.vhd");
    let (shape, zero, _) = shape_of_faults();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let mut options = Options::default();
    options.mode = Mode::Prezeroed;
    for phase in [Phase::Release, Phase::Relocate, Phase::Truncate] {
        let before = shape.build(&zero);
        std::fs::write(&path, &before).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(time).unwrap();
        drop(file);
        if !HostFile::open_exclusive(&path).unwrap().exclusion().holds(Guard::Lease) {
            return skip("a_newcomer_ends_a_run_before_anything_is_cut", "leases");
        }
        let report = compact(&path, &options, &mut |progress| {
            if progress.phase == phase {
                // Asks, and does not wait for the answer.
                let mut newcomer = std::fs::File::options();
                let newcomer = newcomer.write(true).custom_flags(libc::O_NONBLOCK);
                assert!(newcomer.open(&path).is_err());
            }
            ControlFlow::Continue(())
        });
        let error = report.error.as_ref().unwrap();
        assert_eq!(error.kind, "InUse", "{phase:?}: {report:?}");
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), before.len() as u64, "{phase:?}");
        assert_eq!(report.file_size_after, before.len() as u64);
        assert_eq!(metadata.modified().unwrap(), time, "{phase:?}");
        let left = if phase == Phase::Release { 9 } else { 4 };
        assert_eq!(report.blocks.allocated_after, left, "{phase:?}");
    }
}

#[test]
fn qemu_is_seen() {
    let name = "qemu_is_seen";
    if !have(name, &["qemu-io", "qemu-img", "qemu-nbd"]) {
        return;
    }
    let scratch = Scratch::new("qemu");
    let path = scratch.path("disk.vhd");
    sh(&format!("qemu-img create -q -f vpc {} 16M", path.display()));
    for format in ["vpc", "raw"] {
        let qemu = Holder::qemu_io(&path, &["-f", format]);
        in_use_by(HostFile::open_exclusive(&path), "qemu-io");
        in_use_by(HostFile::open_read(&path), "qemu-io");
        drop(qemu);
        let qemu = Holder::qemu_io(&path, &["-r", "-f", format]);
        in_use_by(HostFile::open_exclusive(&path), "qemu-io");
        HostFile::open_read(&path).unwrap();
        drop(qemu);
    }
    let socket = scratch.path("nbd");
    let pid = scratch.path("nbd.pid");
    sh(&format!(
        "qemu-nbd --fork --persistent -f vpc -k {} --pid-file={} {}",
        socket.display(),
        pid.display(),
        path.display()
    ));
    in_use_by(HostFile::open_exclusive(&path), "qemu-nbd");
    in_use_by(HostFile::open_read(&path), "qemu-nbd");
    sh(&format!("kill $(cat {})", pid.display()));
}

/// Not a test: opens `SLIMDISK_HOLD` exclusively, says what holds and what does
/// not, and keeps it. Run by others in a process of its own.
#[test]
#[ignore = "a part of other tests"]
fn hold() {
    let Some(path) = std::env::var_os("SLIMDISK_HOLD") else { return };
    match HostFile::open_exclusive(Path::new(&path)) {
        Ok(host) => {
            println!("{:?} ready", host.exclusion());
            let _ = std::io::stdin().read(&mut [0]);
        }
        Err(error) => println!("{error:?} ready"),
    }
}

/// The file held by this library without a lease, in a process that has no right
/// to one; `None` if that cannot be arranged here.
fn hold_without_lease(test: &str, path: &Path) -> Option<(Holder, String)> {
    if !have(test, &["setpriv"]) {
        return None;
    }
    if std::os::unix::fs::chown(path, Some(4242), None).is_err()
        || !sh_output("setpriv --bounding-set=-lease true").status.success()
    {
        skip(test, "the right to give up rights (root)");
        return None;
    }
    let mut command = Command::new("setpriv");
    command.arg("--bounding-set=-lease").arg(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "storage::hold", "--nocapture"]);
    command.env("SLIMDISK_HOLD", path);
    let mut said = String::new();
    let holder = Holder::start_and_hear(&mut command, "", " ready", &mut said);
    Some((holder, said))
}

#[test]
fn without_a_lease_the_locks_still_exclude() {
    let name = "without_a_lease_the_locks_still_exclude";
    if !have(name, &["qemu-io", "qemu-img", "flock", "python3", "losetup"]) {
        return;
    }
    let scratch = Scratch::new("no-lease");
    let path = scratch.path("disk.vhd");
    let disk = path.display();
    sh(&format!("qemu-img create -q -f vpc {disk} 16M"));
    let Some((us, said)) = hold_without_lease(name, &path) else { return };
    assert!(said.contains("[Flock, QemuLocks]"), "{said}");
    assert!(said.contains("no write lease could be had"), "{said}");
    // Whoever wants to write, or to read what is sound.
    for options in ["-f vpc", "-f raw", "-r -f vpc"] {
        let output = sh_output(&format!("qemu-io {options} -c length {disk} 2>&1"));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("Failed to get") && text.contains("lock"), "{text}");
        assert!(!output.status.success());
    }
    assert!(!sh_output(&format!("flock -n {disk} true")).status.success());
    in_use_by(HostFile::open_exclusive(&path), &us.0.id().to_string());
    in_use_by(HostFile::open_read(&path), &us.0.id().to_string());
    drop(us);
    sh(&format!("qemu-io -f vpc -c length {disk}"));

    // And it sees those who lock nothing, as far as they can be looked at.
    let python = Holder::python(&path, "f=open(p,'rb')");
    let (_, said) = hold_without_lease(name, &path).unwrap();
    assert!(
        said.contains("InUse") && said.contains(&python.0.id().to_string()),
        "{said}"
    );
    drop(python);
    let output = sh_output(&format!("losetup -f --show {disk}"));
    if output.status.success() {
        let device = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let (_, said) = hold_without_lease(name, &path).unwrap();
        sh(&format!("losetup -d {device}"));
        assert!(said.contains("InUse") && said.contains(&device), "{said}");
    }
}

#[test]
fn a_loop_device_is_seen_and_named() {
    let name = "a_loop_device_is_seen_and_named";
    if !have(name, &["losetup"]) {
        return;
    }
    let scratch = Scratch::new("loop");
    let path = file(&scratch, 1 << 20);
    for options in ["", "-r"] {
        let output =
            sh_output(&format!("losetup {options} -f --show {}", path.display()));
        if !output.status.success() {
            return skip(name, "the right to make loop devices");
        }
        let device = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        // By whatever name: the file may have been moved since.
        let moved = scratch.path("moved.img");
        std::fs::rename(&path, &moved).unwrap();
        let opened = HostFile::open_exclusive(&moved);
        std::fs::rename(&moved, &path).unwrap();
        sh(&format!("losetup -d {device}"));
        in_use_by(opened, &device);
    }
    wait_until(|| HostFile::open_exclusive(&path).is_ok());
}
