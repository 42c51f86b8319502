//! Merging a differencing image into its parent, in place.
//!
//! ```text
//! child:   |  own  |       | own |          |own|
//!              v              v               v        child's sectors, at the
//! parent:  |#######|.......|#####|..........|###|       same offsets of the disk
//! ```
//!
//! What is written into the parent is exactly what the child's own sectors hide from
//! whoever reads through the child. So a parent that is half written, at any instant,
//! cannot be seen: the child shows what it showed, and running again completes the
//! merge. The child is not removed, and not changed but for the identity by which it
//! knows its parent, where that changes with the parent's content.
//!
//! [`Merging::prepare`] refuses whatever can be refused; [`Merging::plan`] tells what a
//! run would do, [`Merging::run`] does it.

#![forbid(unsafe_code)]

pub mod report;
pub mod run;
mod siblings;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

pub use self::report::{Outcome, Report};
use self::run::{Done, Holdings, ROUND, holdings};
use crate::error::{Error, Kind, Result};
use crate::image::parent::{Chain, ParentLookup, Target, open_target};
use crate::image::{self, Image, ImageType, part_of_saved_state, wrong_type};
use crate::progress::{Hook, Phase};
use crate::report::IoReport;
use crate::storage::{HostFile, Meter, ReadAt, Storage};

/// What the user wants of a merge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Where the parents may be looked for.
    pub parents: ParentLookup,
    /// Read the guest's disk through the child before and in the parent alone after,
    /// and compare.
    pub verify: bool,
}

/// A merge that nothing speaks against: the parent is held to the exclusion of everybody
/// else, and so is the child if it has to be told of the merge; the child and the
/// parent's parents are held off writers.
pub struct Merging {
    /// As it was given.
    child_path: PathBuf,
    child_file: Arc<Meter<HostFile>>,
    /// Reads through a view of the parent that is not written through. The view knows
    /// nothing of blocks that are added, nor does it need to: they hold nothing new but
    /// what the child's own sectors hide. Once writing has begun nothing is read through
    /// it but what the child holds itself.
    child: Box<dyn Image>,
    file: Arc<Meter<HostFile>>,
    parent: Box<dyn Image>,
    above: Option<Arc<dyn Image>>,
    chain: Chain,
    holdings: Holdings,
    verify: bool,
    report: Report,
}

impl Merging {
    /// Opens the child at `child`, its parent and all behind it, and refuses what cannot
    /// be merged. Writes nothing.
    ///
    /// # Errors
    ///
    /// [`Kind::WrongImageType`] for a child that is not a differencing image, is
    /// encrypted, or whose disk is not as large as its parent's; [`Kind::InUse`] if
    /// anybody has one of the files, if one is part of a saved state, and if another
    /// image names the same parent; [`Kind::ReadOnly`] for a parent, or a child that must
    /// be told, that may not be written to; [`Kind::ParentNotFound`] and [`Kind::ParentMismatch`];
    /// [`Kind::DiskTooLarge`] if the parent could outgrow its format.
    pub fn prepare(child: &Path, options: &Options) -> Result<Self> {
        let file = Arc::new(Meter::new(open_child(child)?));
        Self::prepare_file(child, file.clone(), options)
            .map_err(|error| in_file(error, file.inner(), child))
    }

    fn prepare_file(
        child_path: &Path,
        child_file: Arc<Meter<HostFile>>,
        options: &Options,
    ) -> Result<Self> {
        let mut report = Report::new(child_path);
        let mut child = image::open(child_file.clone())?;
        let facts = child.facts();
        if facts.image_type != ImageType::Differencing {
            return Err(wrong_type(
                "not a differencing image: it has no parent to be merged into",
            ));
        }
        if facts.saved_state {
            return Err(part_of_saved_state());
        }
        child.settled()?;
        let real = child_file.inner().path();
        let target = open_target(&*child, real, &options.parents)?;
        let Target { image: parent, file, above, chain } = target;
        let at_parent = |error: Error| in_file(error, file.inner(), file.inner().path());
        let parent_facts = parent.facts();
        if let Some(id) = &parent_facts.unique_id {
            siblings::refuse(real, file.inner().path(), id)?;
        }
        if parent_facts.format != facts.format {
            return Err(wrong_type(
                "an image of another format than its parent's; `merge --to NEW` makes a disk \
                 of its own of both",
            ));
        }
        if parent_facts.virtual_size != facts.virtual_size {
            return Err(wrong_type_of_size(
                facts.virtual_size,
                parent_facts.virtual_size,
            ));
        }
        parent.writable().map_err(at_parent)?;
        child.set_parent(view_of(file.clone(), above.clone())?)?;
        let holdings = holdings(&*child, &*parent)?;
        let Holdings { absent_blocks, absent_bitmaps, .. } = holdings;
        parent.file_len_with(absent_blocks, absent_bitmaps).map_err(at_parent)?;

        report.parent = file.inner().path().to_string_lossy().into_owned();
        report.format = Some(parent_facts.format);
        report.image_type = Some(parent_facts.image_type);
        report.virtual_size = facts.virtual_size;
        report.block_size = parent_facts.block_size;
        report.parent_file_size_before = file.len();
        report.parent_file_size_after = file.len();
        report.unguarded = file.inner().exclusion().missing().to_vec();
        report.notes.extend(facts.notes);
        report.notes.extend(chain.notes().iter().cloned());
        for parent in chain.parents() {
            let path = parent.path.display();
            let notes = parent.notes.iter();
            report.notes.extend(notes.map(|note| format!("parent {path}: {note}")));
        }
        Ok(Merging {
            child_path: child_path.to_owned(),
            child_file,
            child,
            file,
            parent,
            above,
            chain,
            holdings,
            verify: options.verify,
            report,
        })
    }

    /// The parent's file, links followed.
    #[must_use]
    pub fn parent(&self) -> &Path {
        self.file.inner().path()
    }

    /// What a run would do. Reads what the child holds and writes nothing, not even a
    /// timestamp; all numbers are exact.
    pub fn plan(mut self, hook: &mut Hook<'_>) -> Report {
        let started = Instant::now();
        let result = run::plan(&*self.child, &*self.parent, hook).and_then(|done| {
            self.enter(done);
            if done.stopped {
                return Ok(Outcome::Cancelled);
            }
            let after =
                self.parent.file_len_with(done.blocks_added, done.bitmaps_added)?;
            // Where there is nothing to write the file can only be cut.
            let most = if done.bytes_merged == 0 { self.file.len() } else { u64::MAX };
            self.report.parent_file_size_after = after.min(most);
            Ok(Outcome::Planned)
        });
        self.report.io = IoReport::of_plan(self.file.counts());
        self.finished(result, started)
    }

    /// Merges.
    ///
    /// The report says how it ended; whatever went wrong, the child shows what it showed
    /// before. The parent has a new modification time if the merge was completed, else
    /// the one it had, by which some programs know it as the child's.
    pub fn run(mut self, hook: &mut Hook<'_>) -> Report {
        let started = Instant::now();
        let file = self.file.clone();
        let result = file.inner().times().and_then(|times| {
            let mut done = Done::default();
            let result = self.merge(&mut done, hook);
            self.enter(done);
            let given_back = file.give_back();
            self.report.parent_file_size_after = file.len();
            let timed = match &result {
                Ok(Outcome::Merged) => file.inner().touch(),
                _ => file.inner().restore_times(times),
            };
            for error in [given_back, timed].into_iter().filter_map(Result::err) {
                self.report.notes.push(error.chain());
            }
            result
        });
        if matches!(result, Ok(Outcome::Merged)) {
            let child = self.child.facts().unique_id;
            let path = self.child_file.inner().path();
            self.report.notes.push(siblings::what_now(path, child.as_ref()));
        }
        self.report.io = IoReport::of_run(file.counts());
        self.finished(result, started)
    }

    fn merge(&mut self, done: &mut Done, hook: &mut Hook<'_>) -> Result<Outcome> {
        let mut before = None;
        if self.verify {
            before = verify::digest(&*self.child, Phase::VerifyBefore, hook)?;
            if before.is_none() {
                return Ok(Outcome::Cancelled);
            }
        }
        if !self.reserve(hook)? {
            return Ok(Outcome::Cancelled);
        }
        // An earlier run may have been killed before what it wrote, and was read here, was
        // durable.
        self.file.flush()?;
        if self.child_is_told() {
            self.child_file.flush()?;
        }
        run::run(&mut *self.child, &mut *self.parent, ROUND, done, hook)?;
        if done.stopped {
            return Ok(Outcome::Cancelled);
        }
        let Some(before) = before else { return Ok(Outcome::Merged) };
        // Through a fresh reading of the file: what the next program will see.
        let fresh = view_of(self.file.clone(), self.above.clone())?;
        match verify::digest(&*fresh, Phase::VerifyAfter, hook)? {
            None => Ok(Outcome::Cancelled),
            Some(after) if after == before => {
                self.report.verified = Some(after.to_hex().to_string());
                Ok(Outcome::Merged)
            }
            Some(_) => Err(Error::new(
                Kind::Unexpected,
                "the parent alone does not show what the child showed before: keep the \
                 child, and report this as a bug",
            )),
        }
    }

    /// Has the host set room aside before anything is written: for as many blocks as
    /// could be added, or, where there is not so much, as will be. `false` if the hook
    /// asked to stop.
    fn reserve(&self, hook: &mut Hook<'_>) -> Result<bool> {
        let room_for = |blocks, bitmaps| {
            let len = self.parent.file_len_with(blocks, bitmaps)?;
            self.file.reserve(self.file.len()..len)
        };
        match room_for(self.holdings.absent_blocks, self.holdings.absent_bitmaps) {
            Err(error) if matches!(error.kind(), Kind::DiskFull | Kind::FileTooLarge) => {
                self.file.give_back()?;
                let exact = run::plan(&*self.child, &*self.parent, hook)?;
                if exact.stopped {
                    return Ok(false);
                }
                room_for(exact.blocks_added, exact.bitmaps_added).map(|()| true)
            }
            other => other.map(|()| true),
        }
    }

    /// Whether the child is written to, too.
    fn child_is_told(&self) -> bool {
        self.child.identity_follows_content()
    }

    fn enter(&mut self, done: Done) {
        self.report.bytes_merged = done.bytes_merged;
        self.report.bytes_same = done.bytes_same;
        self.report.blocks_added = done.blocks_added;
    }

    fn finished(self, result: Result<Outcome>, started: Instant) -> Report {
        let Merging { mut report, child_path, child_file, .. } = self;
        let child = child_file.counts();
        report.io.bytes_read += child.bytes_read + self.chain.bytes_read();
        if let Some(bytes) = &mut report.io.bytes_written {
            *bytes += child.bytes_written;
        }
        let begun = report.io.bytes_written.is_some_and(|bytes| bytes > 0);
        if begun && !matches!(result, Ok(Outcome::Merged)) {
            report.notes.push(
                "keep the child and do not use the parent alone: only together do they show \
                 the disk, until the merge is completed by running it again"
                    .to_owned(),
            );
        }
        let result = result.map_err(|e| in_file(e, child_file.inner(), &child_path));
        report.finish(result, started);
        report
    }
}

/// Opens a child: for itself alone if it has to be told of the merge.
fn open_child(path: &Path) -> Result<HostFile> {
    let file = HostFile::open_steady(path)?;
    if !image::detect(&file).map_err(|e| e.in_file(path))?.identity_follows_content() {
        return Ok(file);
    }
    // A file that is open already cannot be had alone.
    drop(file);
    HostFile::open_exclusive(path)
}

/// The parent as a reader sees it, beside the image that is written to.
fn view_of(
    file: Arc<Meter<HostFile>>,
    above: Option<Arc<dyn Image>>,
) -> Result<Arc<dyn Image>> {
    let mut view = image::open(file)?;
    if let Some(above) = above {
        view.set_parent(above)?;
    }
    Ok(Arc::from(view))
}

/// The error with a file: as the child was given, unless it is about another one.
fn in_file(error: Error, file: &HostFile, path: &Path) -> Error {
    match error.path() {
        Some(other) if other != file.path() => error,
        _ => error.in_file(path),
    }
}

fn wrong_type_of_size(child: u64, parent: u64) -> Error {
    Error::new(
        Kind::WrongImageType,
        format!(
            "its disk has {child} bytes, its parent's has {parent}: what does not fit cannot \
             be merged; `merge --to NEW` makes a disk of its own of both"
        ),
    )
}
