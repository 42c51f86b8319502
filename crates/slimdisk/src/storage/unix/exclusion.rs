//! Linux: the lease, and the locks that QEMU takes.

use std::fs::File;
use std::io::Error;
use std::os::fd::AsRawFd;

use super::super::exclusion::{Exclusion, Guard, Held};
use super::{Result, holder};

/// The first of the bytes that stand for what a QEMU program does with an image.
///
/// Source: QEMU, `block/file-posix.c` (`RAW_LOCK_PERM_BASE`,
/// `RAW_LOCK_SHARED_BASE`), and the permissions' bits in its block layer: 0 reads
/// consistent data, 1 writes, 2 writes what is there already, 3 resizes. A
/// program that does X holds a read lock on byte `DOES + X`, and one on byte
/// `DENIES + X` if nobody else may.
const DOES: i64 = 100;
/// The first of the bytes that stand for what others may not do.
const DENIES: i64 = 200;
/// How many permissions there are.
const PERMISSIONS: i64 = 4;
const READ: i64 = 0;
const WRITE: i64 = 1;

/// Not in `libc`. Source: Linux, `include/uapi/asm-generic/fcntl.h`.
const F_SETSIG: i32 = 10;

/// Takes all that can be had; the file is open for writing by `file` alone or
/// it is held.
pub fn exclude(file: &File) -> Result<Exclusion, Held> {
    let mut exclusion = Exclusion::default();
    match take_lease(file, libc::F_WRLCK) {
        Ok(()) => exclusion.add(Guard::Lease),
        // On a network the answer is the client's: a lease is refused in these
        // words, too, when the server has delegated nothing.
        Err(e) if e.raw_os_error() == Some(libc::EAGAIN) && !on_network(file) => {
            return Err(Held::default());
        }
        Err(e) => {
            exclusion.lack(format!(
                "no write lease could be had ({e}): programs that lock nothing are seen \
                 only if they had the file open at the start, on this machine, and this \
                 user may look at them"
            ));
            holder::look_for_others(file)?;
        }
    }
    super::flock_exclusive(file, &mut exclusion)?;
    match deny_qemu(file) {
        Ok(()) => exclusion.add(Guard::QemuLocks),
        Err(Obstacle::Held(held)) => return Err(held),
        Err(Obstacle::Unsupported(e)) => exclusion.lack(format!(
            "no byte-range locks could be had ({e}): a QEMU program does not see that \
             the file is being changed, nor is it seen"
        )),
    }
    Ok(exclusion)
}

/// Keeps writers away from a file that is open for reading, as far as that can be had.
pub fn hold_off_writers(file: &File) -> Result<Exclusion, Held> {
    let mut exclusion = Exclusion::default();
    match take_lease(file, libc::F_RDLCK) {
        Ok(()) => exclusion.add(Guard::ReadLease),
        Err(e) if e.raw_os_error() == Some(libc::EAGAIN) && !on_network(file) => {
            return Err(Held::default());
        }
        // Somebody else's file, or a file system without leases.
        Err(_) => {}
    }
    Ok(exclusion)
}

/// Whether no writer has come, or waits to come, since the lease was taken.
pub fn still_exclusive(file: &File) -> Result<bool> {
    // SAFETY: F_GETLEASE takes no argument and touches no memory.
    let lease = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) };
    match lease {
        -1 => Err(Error::last_os_error()),
        // What the lease is about to become. A newcomer that only reads turns
        // it into F_RDLCK; a writer ends it.
        lease => Ok(lease != libc::F_UNLCK),
    }
}

/// Whether a QEMU program writes to the file or wants it not to be read.
pub fn writing_qemu(file: &File) -> Result<(), Held> {
    let writes = find_lock(file, DOES + WRITE, PERMISSIONS - WRITE);
    let denies = find_lock(file, DENIES + READ, 1);
    // Where locks are not supported there is nothing to be seen.
    match writes.ok().flatten().or(denies.ok().flatten()) {
        Some(held) => Err(held),
        None => Ok(()),
    }
}

fn take_lease(file: &File, kind: i32) -> Result<()> {
    let fd = file.as_raw_fd();
    // The signal that tells of a newcomer would end the process (SIGIO); this one
    // is ignored unless somebody asks for it. We look by F_GETLEASE instead.
    // SAFETY: F_SETSIG takes an int and touches no memory.
    if unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGURG) } == -1 {
        return Err(Error::last_os_error());
    }
    // SAFETY: F_SETLEASE takes an int and touches no memory.
    match unsafe { libc::fcntl(fd, libc::F_SETLEASE, kind) } {
        -1 => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Whether the file lies on a file system that asks a server for leases.
fn on_network(file: &File) -> bool {
    // SAFETY: all zeros is a valid value of this plain struct of integers.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and `stat` is writable for the call.
    if unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut stat) } != 0 {
        return false;
    }
    // NFS, CIFS, SMB2, SMB, AFS, Ceph; the field's type differs by architecture,
    // the numbers are 32 bits.
    let kind = format!("{:08x}", stat.f_type);
    ["00006969", "ff534d42", "fe534d42", "0000517b", "5346414f", "00c36400"]
        .iter()
        .any(|known| kind.ends_with(known))
}

enum Obstacle {
    Held(Held),
    Unsupported(Error),
}

/// Tells QEMU programs that the file is read, written and resized here and that
/// they may do none of it; finds those that were first.
fn deny_qemu(file: &File) -> Result<(), Obstacle> {
    for first in [DOES, DENIES] {
        let mut lock = byte_lock(libc::F_RDLCK, first, PERMISSIONS);
        // SAFETY: `lock` is a valid flock structure for the whole call.
        let done =
            unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut lock) };
        if done == -1 {
            let error = Error::last_os_error();
            return Err(match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EACCES) => Obstacle::Held(Held::default()),
                _ => Obstacle::Unsupported(error),
            });
        }
    }
    // Only now look for others, as QEMU does: of two that start at once, at
    // least one then sees the other.
    for first in [DOES, DENIES] {
        match find_lock(file, first, PERMISSIONS) {
            Ok(None) => {}
            Ok(Some(held)) => return Err(Obstacle::Held(held)),
            Err(error) => return Err(Obstacle::Unsupported(error)),
        }
    }
    Ok(())
}

/// Any lock of others on `len` bytes from `start` on.
fn find_lock(file: &File, start: i64, len: i64) -> Result<Option<Held>> {
    let mut lock = byte_lock(libc::F_WRLCK, start, len);
    // SAFETY: `lock` is a valid flock structure, writable for the whole call.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    if done == -1 {
        return Err(Error::last_os_error());
    }
    if i32::from(lock.l_type) == libc::F_UNLCK {
        return Ok(None);
    }
    // An open file description has no owner: such locks say -1.
    Ok(Some(Held { pid: u32::try_from(lock.l_pid).ok().filter(|pid| *pid != 0) }))
}

fn byte_lock(kind: i32, start: i64, len: i64) -> libc::flock {
    // SAFETY: all zeros is a valid value of this plain struct of integers, and
    // the process id must be 0 for locks of open file descriptions.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    // The constants are 0, 1 and 2; their type is wider than the field's.
    lock.l_type = i16::try_from(kind).unwrap_or_default();
    lock.l_whence = i16::try_from(libc::SEEK_SET).unwrap_or_default();
    lock.l_start = start;
    lock.l_len = len;
    lock
}
