//! Linux: who has a file open, as far as this user may see.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::super::exclusion::Held;
use super::Result;

/// A file's device and inode, which all its names have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(metadata: &fs::Metadata) -> Self {
        Identity { device: metadata.dev(), inode: metadata.ino() }
    }

    fn of_path(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|metadata| Identity::of(&metadata))
    }
}

/// Who has the file at `path`: the loop device or up to three processes, or
/// `None` if that cannot be told.
pub fn name(path: &Path, held: Held) -> Option<String> {
    let identity = Identity::of_path(path)?;
    if let Some(device) = loop_devices().find(|device| backs(device, identity)) {
        return Some(format!(
            "the loop device {}",
            Path::new("/dev").join(device).display()
        ));
    }
    let mut pids: Vec<u32> = processes(identity).take(3).collect();
    if let (true, Some(pid)) = (pids.is_empty(), held.pid) {
        pids.push(pid);
    }
    let names: Vec<String> = pids.into_iter().map(process_name).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// Fails if a loop device or another process has the file open: what can be done
/// where there are no leases.
pub fn look_for_others(file: &File) -> Result<(), Held> {
    let Ok(metadata) = file.metadata() else { return Ok(()) };
    let identity = Identity::of(&metadata);
    if loop_devices().any(|device| backs(&device, identity)) {
        return Err(Held::default());
    }
    match processes(identity).find(|pid| *pid != std::process::id()) {
        Some(pid) => Err(Held { pid: Some(pid) }),
        None => Ok(()),
    }
}

fn process_name(pid: u32) -> String {
    if pid == std::process::id() {
        return "this process itself".to_owned();
    }
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("{} (process {pid})", name.trim_end()),
        Err(_) => format!("process {pid}"),
    }
}

/// The processes that have a file open, of those that may be looked at.
fn processes(identity: Identity) -> impl Iterator<Item = u32> {
    names_in("/proc")
        .filter_map(|name| name.to_str()?.parse().ok())
        .filter(move |pid| has_open(*pid, identity))
}

fn has_open(pid: u32, identity: Identity) -> bool {
    names_in(&format!("/proc/{pid}/fdinfo")).any(|fd| {
        let Some(fd) = fd.to_str() else { return false };
        // The number alone first (Linux 5.14): it asks no file system, so a dead
        // network mount of somebody else cannot hold us up.
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}"));
        let inode = info.ok().and_then(|info| {
            info.lines().find_map(|line| line.strip_prefix("ino:")?.trim().parse().ok())
        });
        inode.is_none_or(|inode: u64| inode == identity.inode)
            && Identity::of_path(Path::new(&format!("/proc/{pid}/fd/{fd}")))
                == Some(identity)
    })
}

fn loop_devices() -> impl Iterator<Item = PathBuf> {
    names_in("/sys/block")
        .filter(|name| name.to_str().is_some_and(|name| name.starts_with("loop")))
        .map(PathBuf::from)
}

/// Whether a loop device (`loop0`) is backed by a file.
fn backs(device: &Path, identity: Identity) -> bool {
    let name = Path::new("/sys/block").join(device).join("loop/backing_file");
    // Without this file the device is backed by nothing.
    let Ok(name) = fs::read_to_string(name) else { return false };
    // A name can be stale, or belong to another mount namespace; the device
    // itself knows better, if it may be asked.
    backing_file(&Path::new("/dev").join(device))
        .ok()
        .or_else(|| Identity::of_path(Path::new(name.trim_end_matches('\n'))))
        == Some(identity)
}

/// `LOOP_GET_STATUS64` and what it fills in.
///
/// Source: Linux, `include/uapi/linux/loop.h`.
const LOOP_GET_STATUS64: libc::Ioctl = 0x4C05;

#[repr(C)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    /// `lo_rdevice` to `lo_init`, of no interest here.
    rest: [u8; 216],
}

const _: () = assert!(size_of::<LoopInfo64>() == 232);

fn backing_file(device: &Path) -> Result<Identity> {
    let device =
        fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(device)?;
    let mut info = LoopInfo64 { device: 0, inode: 0, rest: [0; 216] };
    // SAFETY: the request fills in a `loop_info64`, which `info` has the size of,
    // and any bytes are a valid value of it.
    let done =
        unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) };
    match done {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(Identity { device: info.device, inode: info.inode }),
    }
}

fn names_in(dir: &str) -> impl Iterator<Item = std::ffi::OsString> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.file_name()))
}
