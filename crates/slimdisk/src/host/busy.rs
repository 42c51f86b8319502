//! Which files the tasks of a host work on, and how.
//!
//! The files' own locks keep other programs out; among the tasks of one host this
//! answers at once, and without the lock of one being broken by the look of another.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Kind, Result};
use crate::image::Facts;
use crate::storage::real_path;

/// A file and how it is used.
pub struct Use {
    path: PathBuf,
    alone: bool,
}

impl Use {
    /// It is written, or made.
    pub fn alone(path: &Path) -> Self {
        Use { path: identity(path), alone: true }
    }

    /// It is only read.
    pub fn shared(path: &Path) -> Self {
        Use { path: identity(path), alone: false }
    }
}

/// The file itself, links followed; of one that is not there yet, its place in the
/// nearest folder that is.
fn identity(path: &Path) -> PathBuf {
    if let Ok(real) = real_path(path) {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => identity(parent).join(name),
        _ => path.to_owned(),
    }
}

/// The files in use.
#[derive(Clone, Default)]
pub struct Busy(Arc<Shared>);

#[derive(Default)]
struct Shared {
    entries: Mutex<Entries>,
    given_back: Condvar,
}

#[derive(Default)]
struct Entries {
    /// The number of the last claim; none is used twice.
    last: u64,
    list: Vec<Entry>,
}

struct Entry {
    claim: u64,
    path: PathBuf,
    alone: bool,
    /// What the image said of itself before, for whoever asks meanwhile.
    facts: Option<Facts>,
}

/// The right to use some files; given back when it is dropped.
pub struct Claim {
    busy: Busy,
    number: u64,
}

impl Busy {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims all of `uses` or none.
    pub fn claim(&self, uses: Vec<Use>) -> Result<Claim> {
        let mut entries = self.entries();
        entries.last += 1;
        let number = entries.last;
        entries.add(number, uses)?;
        Ok(Claim { busy: self.clone(), number })
    }

    /// What is known of a file that somebody has to himself; `None` if nobody has.
    pub fn facts(&self, path: &Path) -> Option<Result<Facts>> {
        let path = identity(path);
        let entries = self.entries();
        let held = entries.list.iter().find(|e| e.alone && e.path == path)?;
        Some(held.facts.clone().ok_or_else(|| in_use(&path)))
    }

    /// Returns when all claims have been given back.
    pub fn wait_until_idle(&self) {
        let mut entries = self.entries();
        while !entries.list.is_empty() {
            let woken = self.0.given_back.wait(entries);
            entries = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Entries {
    fn add(&mut self, claim: u64, uses: Vec<Use>) -> Result<()> {
        for wanted in &uses {
            if self
                .list
                .iter()
                .any(|e| e.path == wanted.path && (e.alone || wanted.alone))
            {
                return Err(in_use(&wanted.path));
            }
        }
        let new = |Use { path, alone }| Entry { claim, path, alone, facts: None };
        self.list.extend(uses.into_iter().map(new));
        Ok(())
    }
}

/// The error of a file that another task has.
pub fn in_use(path: &Path) -> Error {
    Error::new(Kind::InUse, "another task of this host is working on the file")
        .in_file(path)
}

impl Claim {
    /// Claims further files, all or none.
    pub fn extend(&self, uses: Vec<Use>) -> Result<()> {
        self.busy.entries().add(self.number, uses)
    }

    /// Tells what is known of a claimed file.
    pub fn tell(&self, path: &Path, facts: &Facts) {
        let path = identity(path);
        let mut entries = self.busy.entries();
        let own = entries.list.iter_mut().filter(|e| e.claim == self.number);
        for entry in own.filter(|entry| entry.path == path) {
            entry.facts = Some(facts.clone());
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.busy.entries().list.retain(|entry| entry.claim != self.number);
        self.busy.0.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_used_by_many_readers_or_one_writer() {
        let busy = Busy::default();
        let (a, b) = (Path::new("/no/such/a"), Path::new("/no/such/b"));
        let kind = |uses| busy.claim(uses).err().map(|error: Error| error.kind());
        let reading = busy.claim(vec![Use::shared(a)]).unwrap();
        let also = busy.claim(vec![Use::shared(a), Use::alone(b)]).unwrap();
        assert_eq!(kind(vec![Use::alone(a)]), Some(Kind::InUse));
        assert_eq!(kind(vec![Use::shared(b)]), Some(Kind::InUse));
        drop(also);
        // A refused claim left nothing behind.
        assert_eq!(kind(vec![Use::alone(b)]), None);
        assert_eq!(kind(vec![Use::alone(b), Use::alone(a)]), Some(Kind::InUse));
        assert_eq!(kind(vec![Use::alone(b)]), None);
        reading.extend(vec![Use::alone(b)]).unwrap();
        assert_eq!(kind(vec![Use::shared(b)]), Some(Kind::InUse));
        assert!(reading.extend(vec![Use::alone(b)]).is_err());
        assert_eq!(kind(vec![Use::shared(b)]), Some(Kind::InUse));
        drop(reading);
        assert_eq!(kind(vec![Use::alone(a), Use::alone(b)]), None);
        assert!(busy.entries().list.is_empty());
        busy.wait_until_idle();
    }

    #[test]
    fn claims_without_files_do_not_share_their_numbers() {
        let busy = Busy::default();
        let file = Path::new("/no/such/file");
        let first = busy.claim(Vec::new()).unwrap();
        let second = busy.claim(vec![Use::alone(file)]).unwrap();
        drop(first);
        assert!(busy.claim(vec![Use::shared(file)]).is_err());
        assert!(busy.facts(file).unwrap().is_err());
        drop(second);
        assert!(busy.facts(file).is_none());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_the_file_it_leads_to() {
        let dir =
            std::env::temp_dir().join(format!("slimdisk-busy-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        std::fs::write(dir.join("disk"), b"").unwrap();
        std::os::unix::fs::symlink("disk", dir.join("link")).unwrap();
        std::os::unix::fs::symlink("sub", dir.join("way")).unwrap();
        let busy = Busy::default();
        let held = busy
            .claim(vec![Use::alone(&dir.join("link")), Use::alone(&dir.join("way/new"))])
            .unwrap();
        for name in ["disk", "sub/../disk", "sub/new"] {
            assert!(busy.claim(vec![Use::shared(&dir.join(name))]).is_err(), "{name}");
        }
        drop(held);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
