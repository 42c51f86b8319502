//! The host object: hard disks opened and made by it, and the tasks that work on them.
//!
//! It is the disk part of the Virtual Server 2005 reference's `IVMVirtualServer`, with
//! `IVMHardDisk` as [`HardDisk`] and `IVMTask` as [`Task`]: the same members under
//! Rust's names, the same rules for paths and sizes, and errors whose
//! [`hresult`](crate::Kind::hresult) is the documented one.
//!
//! ```
//! use std::time::Duration;
//!
//! use slimdisk::host::Host;
//! use slimdisk::task::TaskResult;
//!
//! # fn main() -> slimdisk::Result<()> {
//! # let dir = std::env::temp_dir().join(format!("slimdisk-doc-{}", std::process::id()));
//! let host = Host::new();
//! let path = dir.join("new.vhd");
//! let task = host.create_dynamic(&path, 100)?;
//! task.wait(None);
//! assert_eq!(task.result(), Some(TaskResult::Success));
//!
//! let disk = host.open(&path)?;
//! assert_eq!(disk.size_in_guest()?, 100 << 20);
//! let task = disk.compact()?;
//! while !task.wait(Some(Duration::from_secs(1))) {
//!     println!("{}: {} %", task.description(), task.percent());
//! }
//! host.shut_down();
//! # std::fs::remove_dir_all(dir).unwrap();
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod busy;
mod files;
mod hard_disk;
mod path;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use self::busy::{Busy, Claim, Use};
pub use self::hard_disk::HardDisk;
use crate::create::{
    Content, Creation, Options as CreateOptions, Outcome as CreateOutcome,
};
use crate::error::{Error, Kind, Result};
use crate::image::parent::ParentLookup;
use crate::progress::Phase;
use crate::storage::free_space;
use crate::task::{Ended, Share, Task};

/// How long a task stays listed after it has ended, unless
/// [`HostOptions::keep_finished`] says otherwise.
pub const KEEP_FINISHED: Duration = Duration::from_secs(10 * 60);

/// What must be free beside a new dynamic disk, in bytes.
///
/// Source: the Virtual Server 2005 reference,
/// `IVMVirtualServer::CreateDynamicVirtualHardDisk`.
const ROOM_FOR_DYNAMIC: u64 = 8 << 20;

/// How a [`Host`] is to behave.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HostOptions {
    /// Where the parents of differencing images may be looked for.
    pub parents: ParentLookup,
    /// How long a task stays listed after it has ended.
    pub keep_finished: Duration,
    /// The folders in which [`Host::hard_disk_files`] looks; absolute.
    pub search_paths: Vec<PathBuf>,
}

impl Default for HostOptions {
    fn default() -> Self {
        HostOptions {
            parents: ParentLookup::default(),
            keep_finished: KEEP_FINISHED,
            search_paths: Vec::new(),
        }
    }
}

/// Opens and makes hard disks and keeps the list of tasks.
///
/// A cheap handle: clones are the same host. Any thread may call it at any time.
#[derive(Clone)]
pub struct Host(Arc<Shared>);

struct Shared {
    parents: ParentLookup,
    keep_finished: Duration,
    state: Mutex<State>,
    busy: Busy,
}

struct State {
    search_paths: Vec<PathBuf>,
    shutting_down: bool,
    next_id: u32,
    tasks: Vec<Task>,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// A host with the usual options.
    #[must_use]
    pub fn new() -> Self {
        Self::with_options(HostOptions::default())
    }

    /// A host that behaves as `options` say.
    #[must_use]
    pub fn with_options(options: HostOptions) -> Self {
        let HostOptions { parents, keep_finished, search_paths } = options;
        Host(Arc::new(Shared {
            parents,
            keep_finished,
            state: Mutex::new(State {
                search_paths,
                shutting_down: false,
                next_id: 1,
                tasks: Vec::new(),
            }),
            busy: Busy::default(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is changed under the lock is whole at every moment.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image at `path` as a hard disk. What is in the file is not looked at yet: a
    /// file that is no image shows when something is asked of it.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`], [`Kind::PathNotFound`]; [`Kind::BadPath`],
    /// [`Kind::PathTooLong`] and [`Kind::InvalidName`] for a path that breaks the
    /// documented rules.
    pub fn open(&self, path: &Path) -> Result<HardDisk> {
        path::check(path)?;
        files::must_exist(path)?;
        Ok(HardDisk::new(self.clone(), path.to_owned()))
    }

    /// The folders in which [`hard_disk_files`](Host::hard_disk_files) looks.
    #[must_use]
    pub fn search_paths(&self) -> Vec<PathBuf> {
        self.state().search_paths.clone()
    }

    /// Replaces them.
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidArgument`] unless all are absolute.
    pub fn set_search_paths(&self, paths: Vec<PathBuf>) -> Result<()> {
        files::must_be_absolute(&paths)?;
        self.state().search_paths = paths;
        Ok(())
    }

    /// The files under the search paths, and under `additional` ones, that have the
    /// name of a disk image: sorted, each once. Links to folders are not followed, and
    /// folders that cannot be read are passed over.
    ///
    /// # Errors
    ///
    /// [`Kind::InvalidArgument`] if one of `additional` is not absolute.
    pub fn hard_disk_files(&self, additional: &[PathBuf]) -> Result<Vec<PathBuf>> {
        files::must_be_absolute(additional)?;
        let paths = self.search_paths();
        Ok(files::under(paths.iter().chain(additional)))
    }

    /// Makes a dynamic disk of `size` MiB at `path`; a folder that is missing is made. It
    /// is a VHD, unless its name ends in that of another format, as with all new disks.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Host::open) for paths; [`Kind::InvalidArgument`],
    /// [`Kind::DiskTooSmall`] and [`Kind::DiskTooLarge`] for sizes outside 3 to
    /// 2,088,960; [`Kind::AlreadyExists`]; [`Kind::DiskFull`] if less than 8 MiB are
    /// free; [`Kind::InUse`] if another task is making the same file; and
    /// [`Kind::ShuttingDown`].
    pub fn create_dynamic(&self, path: &Path, size: i64) -> Result<Task> {
        path::check(path)?;
        let size = path::disk_size(size)?;
        require_room(path)?;
        self.create(path, Content::Dynamic { size })
    }

    /// Makes a fixed disk of `size` MiB at `path`, all of its room taken from the start.
    ///
    /// # Errors
    ///
    /// Those of [`create_dynamic`](Host::create_dynamic), [`Kind::DiskFull`] if there is
    /// no room for all of it, and [`Kind::FileTooLarge`] if the file system cannot hold
    /// such a file.
    pub fn create_fixed(&self, path: &Path, size: i64) -> Result<Task> {
        path::check(path)?;
        let size = path::disk_size(size)?;
        self.create(path, Content::Fixed { size })
    }

    /// Makes a differencing disk at `path` whose parent is the image at `parent`. One of
    /// the two paths may be relative to the other's folder.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Host::open) for the parent; those of
    /// [`create_dynamic`](Host::create_dynamic) for the new file; and what keeps the
    /// parent from being opened.
    pub fn create_differencing(&self, path: &Path, parent: &Path) -> Result<Task> {
        let (path, parent) = path::join(path, parent)?;
        files::must_exist(&parent)?;
        require_room(&path)?;
        self.create(&path, Content::Differencing { parent })
    }

    fn create(&self, path: &Path, content: Content) -> Result<Task> {
        let mut uses = vec![Use::alone(path)];
        if let Content::Differencing { parent } = &content {
            uses.push(Use::shared(parent));
        }
        let claim = self.claim(uses)?;
        let mut options = CreateOptions::new(content);
        options.parents.clone_from(&self.0.parents);
        let creation = Creation::prepare(path, &options)?;
        let description = format!("Create {}", path.display());
        self.start(description, &[(Phase::Copy, 100)], claim, move |hook| {
            let report = creation.run(hook);
            ended(
                report.outcome == CreateOutcome::Cancelled,
                report.cause.clone(),
                &report,
            )
        })
    }

    /// The tasks that run, and those that ended a short while ago, the oldest first.
    #[must_use]
    pub fn tasks(&self) -> Vec<Task> {
        let mut state = self.state();
        state.forget_old(self.0.keep_finished);
        state.tasks.clone()
    }

    /// Shuts down: from now on every operation answers [`Kind::ShuttingDown`], running
    /// tasks stop at their next sound point, and the call returns when all have.
    pub fn shut_down(&self) {
        let tasks = {
            let mut state = self.state();
            state.shutting_down = true;
            state.tasks.clone()
        };
        for task in &tasks {
            task.cancel();
        }
        for task in &tasks {
            task.wait(None);
        }
        // What runs without a task, too.
        self.0.busy.wait_until_idle();
    }

    /// Whether [`shut_down`](Host::shut_down) was called.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.state().shutting_down
    }

    fn refuse_when_shutting_down(&self) -> Result<()> {
        if self.is_shutting_down() {
            let what = "the host is shutting down and takes no new operations";
            return Err(Error::new(Kind::ShuttingDown, what));
        }
        Ok(())
    }

    /// Claims files for an operation.
    fn claim(&self, uses: Vec<Use>) -> Result<Claim> {
        self.refuse_when_shutting_down()?;
        let claim = self.0.busy.claim(uses)?;
        // A shutdown that did not see the claim must not be outlived by it.
        self.refuse_when_shutting_down()?;
        Ok(claim)
    }

    /// Starts a task that gives its claim back before it is complete.
    fn start(
        &self,
        description: String,
        shares: &'static [Share],
        claim: Claim,
        work: impl FnOnce(&mut crate::progress::Hook<'_>) -> Ended + Send + 'static,
    ) -> Result<Task> {
        // Under one lock with the question: a shutdown sees every task there is.
        let mut state = self.state();
        if state.shutting_down {
            drop(state);
            return Err(self
                .refuse_when_shutting_down()
                .err()
                .unwrap_or_else(|| Error::new(Kind::ShuttingDown, "shutting down")));
        }
        state.forget_old(self.0.keep_finished);
        let id = state.next_id;
        state.next_id = id.checked_add(1).unwrap_or(1);
        let task = Task::spawn(id, description, shares, move |hook| {
            let done = work(hook);
            drop(claim);
            done
        })?;
        state.tasks.push(task.clone());
        Ok(task)
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("tasks", &self.tasks()).finish_non_exhaustive()
    }
}

impl State {
    fn forget_old(&mut self, keep: Duration) {
        self.tasks.retain(|task| task.ended_ago().is_none_or(|ago| ago <= keep));
    }
}

/// Fails unless there is room for a disk that grows to begin with.
fn require_room(path: &Path) -> Result<()> {
    let room = free_space(path).map_err(|e| e.in_file(path))?;
    if room < ROOM_FOR_DYNAMIC {
        let what = format!(
            "{room} bytes are free there; a new disk that grows needs {ROOM_FOR_DYNAMIC}"
        );
        return Err(Error::new(Kind::DiskFull, what).in_file(path));
    }
    Ok(())
}

/// What a task says at its end.
fn ended(cancelled: bool, error: Option<Arc<Error>>, report: &impl Serialize) -> Ended {
    Ended { cancelled, error, report: serde_json::to_string(report).ok() }
}
