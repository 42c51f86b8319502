//! What keeps others out of a file opened for writing.

#![forbid(unsafe_code)]

/// One mechanism that keeps others out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Guard {
    /// A write lease (`F_SETLEASE`): granted only if nobody else has the file
    /// open, in any way; a newcomer's open waits until it is given back or
    /// `/proc/sys/fs/lease-break-time` has passed.
    Lease,
    /// A read lease, on a file that is only read: granted only if nobody has the file
    /// open for writing; the open of a newcomer who wants to write waits likewise.
    ReadLease,
    /// An exclusive `flock`.
    Flock,
    /// The byte-range locks by which QEMU's programs see each other.
    QemuLocks,
    /// Windows' share mode 0: no other handle can exist.
    ShareMode,
}

/// What keeps others out of a file opened for writing, and what does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exclusion {
    guards: Vec<Guard>,
    missing: Vec<String>,
}

impl Exclusion {
    pub(super) fn add(&mut self, guard: Guard) {
        self.guards.push(guard);
    }

    #[cfg_attr(windows, expect(dead_code, reason = "Windows offers all it has"))]
    pub(super) fn lack(&mut self, sentence: String) {
        self.missing.push(sentence);
    }

    /// Whether `guard` holds.
    #[must_use]
    pub fn holds(&self, guard: Guard) -> bool {
        self.guards.contains(&guard)
    }

    /// All that holds; empty for a file opened for reading only.
    #[must_use]
    pub fn guards(&self) -> &[Guard] {
        &self.guards
    }

    /// One sentence for each mechanism that this system or file system does not
    /// offer, saying what then goes unseen.
    #[must_use]
    pub fn missing(&self) -> &[String] {
        &self.missing
    }
}

/// Somebody else has the file.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Held {
    /// The process that holds the lock which was met, where the system tells.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "told by Linux"))]
    pub pid: Option<u32>,
}
