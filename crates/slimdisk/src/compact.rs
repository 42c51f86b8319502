//! Compaction: what can be given up, where the rest goes, and doing it.
//!
//! [`survey`] judges every block (free maps, zeros), [`plan`](plan::plan) turns
//! that into releases and moves without any I/O, [`run`] carries a plan out and
//! decides nothing. [`compact`] and [`plan_disk`] do all of it for a file and
//! report.

#![forbid(unsafe_code)]

pub(crate) mod data_ahead;
pub(crate) mod finer;
pub mod plan;
pub mod punch;
pub mod report;
pub mod run;
pub mod survey;
mod verify;
pub(crate) mod zeros;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use self::plan::Plan;
pub use self::punch::Punch;
use self::report::{BlockCounts, IoReport};
pub use self::report::{Mode, Outcome, Report};
pub use self::survey::{Survey, Verdict};
use crate::error::{Error, Kind, Result};
use crate::image::parent::{self, Chain, Children, Parent, ParentLookup};
use crate::image::{self, Facts, Image, Layout};
pub use crate::progress::{Hook, Phase, Progress};
use crate::storage::{HostFile, Meter, Storage};
use crate::volume::Allowances;

/// What the host holds of a file beyond its length, in bytes, is room that an
/// interrupted merge had set aside, if it is at least this; less is how file systems
/// round.
const SET_ASIDE: u64 = 1 << 20;

/// What the user wants of a compaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// How far to look for blocks to give up.
    pub mode: Mode,
    /// Read the live guest bytes before and after, and compare.
    pub verify: bool,
    /// Leave the file's modification time at the end of the run, instead of
    /// setting it back to what it was.
    pub touch: bool,
    /// Give up what lies outside every partition, and what of a volume group is in no
    /// logical volume, but for the partition tables, the first MiB and the last three
    /// of the disk.
    pub drop_unpartitioned: bool,
    /// What is allowed beyond the safe default when volumes are judged.
    pub allow: Allowances,
    /// Where the parents of a differencing image may be looked for.
    pub parents: ParentLookup,
    /// Give up only what reads the same afterwards: zeros and, in a differencing image,
    /// what its parent shows. Always so for an image that others in its folder name as
    /// their parent, for they may read what its own volumes call free.
    pub preserve: bool,
    /// Give up all that is free of an image that others in its folder name as their
    /// parent, too. The disk gets another identity, by which they no longer find it.
    /// Refused for a format whose disks keep theirs.
    pub orphan_children: bool,
    /// Punch holes in the file where its free space lies, instead of compacting it or
    /// behind that. For hosts that take files with holes. With [`Mode::Quick`] that is what
    /// trusted volumes call free, and whole blocks of zeros; the other modes read all that
    /// stays, for zeros.
    pub punch: Option<Punch>,
    /// To punch, mark the file sparse if it is not: without that no file has holes on
    /// Windows. Hyper-V and WSL refuse it then. Changes nothing on other systems.
    pub make_sparse: bool,
    /// Count what smaller blocks would hold.
    pub(crate) smaller_blocks: bool,
    /// A parent lies in another folder, where nobody would see that this image depends
    /// on it.
    pub(crate) distant_parent: bool,
}

/// What [`examine`] found: all that `info` and `map` show.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Examination {
    /// What the image says of itself.
    pub facts: Facts,
    /// How it lies in its file; `None` for an image that is not dynamic.
    pub layout: Option<Layout>,
    /// The guest's partitions and volumes and the verdict on each block; `None`
    /// for a differencing image whose parents are not there.
    pub survey: Option<Survey>,
    /// The parents of a differencing image, its own first.
    pub parents: Vec<Parent>,
    /// Why they are not there.
    pub parents_error: Option<Arc<Error>>,
    /// The images in the same folder that name this one as their parent.
    pub children: Children,
    /// The file's length in bytes.
    pub file_size: u64,
    /// Bytes the host has allocated to it.
    pub host_bytes: u64,
}

/// Opens the image at `path` for reading and judges its blocks; `None` if the
/// hook asked to stop. Without `search` no zeros are looked for, which reads
/// little more than the volumes' free maps.
pub fn examine(
    path: &Path,
    options: &Options,
    search: bool,
    hook: &mut Hook<'_>,
) -> Result<Option<Examination>> {
    let named = |error: Error| error.in_file(path);
    let file = Arc::new(HostFile::open_read(path)?);
    let mut image = image::open(file.clone()).map_err(named)?;
    let mut facts = image.facts();
    let layout = image.layout();
    can_orphan(&*image, options).map_err(named)?;
    let children = children(file.path(), &facts);
    let options = &for_children(options, &children);
    let (mut parents, mut parents_error, mut survey) = (Vec::new(), None, None);
    match parent::open_parents(&mut *image, file.path(), &options.parents) {
        Ok(chain) => {
            let options = &for_parents(options, &chain, file.path());
            survey = survey::survey(&*image, options, search, hook).map_err(named)?;
            if survey.is_none() {
                return Ok(None);
            }
            facts.notes.extend(chain_notes(&chain));
            facts.notes.extend(distance_note(options));
            parents = chain.parents().to_vec();
        }
        Err(error) => parents_error = Some(Arc::new(in_file(error, &file, path))),
    }
    facts.notes.extend(children_notes(&children, &*image, options));
    facts.notes.extend(tracking_note(file.path()));
    facts.notes.extend_from_slice(file.notes());
    let file_size = crate::storage::ReadAt::len(&*file);
    Ok(Some(Examination {
        facts,
        layout,
        survey,
        parents,
        parents_error,
        children,
        file_size,
        host_bytes: file.host_bytes()?,
    }))
}

/// What compacting the image at `path` would do. Writes nothing, not even a
/// timestamp; [`Report::file_size_after`] is exact.
pub fn plan_disk(path: &Path, options: &Options, hook: &mut Hook<'_>) -> Report {
    let mut report = Report::new(path, options.mode);
    let started = Instant::now();
    let result = HostFile::open_read(path).and_then(|file| {
        let file = Arc::new(Meter::new(file));
        tell_of_host(file.inner(), options, &mut report)?;
        let real = Some(file.inner().path());
        let planned = prepare(file.clone(), real, options, &mut report, hook)
            .and_then(|prepared| plan_holes(prepared, &file, options, &mut report, hook));
        let mut counts = file.counts();
        if let Ok(Some(prepared)) = &planned {
            counts.bytes_read += prepared.chain.bytes_read();
        }
        report.io = IoReport::of_plan(counts);
        Ok(match planned.map_err(|e| in_file(e, file.inner(), path))? {
            Some(_) => {
                let names = report.orphaned.join(", ");
                if !names.is_empty() {
                    report
                        .notes
                        .push(format!("would no longer find their parent: {names}"));
                }
                Outcome::Planned
            }
            None => Outcome::Cancelled,
        })
    });
    report.finish(result, started);
    report
}

/// Compacts the image at `path` in place, to the exclusion of everybody else.
///
/// The report says how it ended; whatever went wrong, the image is sound. The
/// file keeps its owner and permissions, and gets its modification time back
/// unless [`Options::touch`] is set.
pub fn compact(path: &Path, options: &Options, hook: &mut Hook<'_>) -> Report {
    let mut report = Report::new(path, options.mode);
    let started = Instant::now();
    let result = HostFile::open_exclusive(path).and_then(|file| {
        let times = file.times()?;
        // There have been file systems that told of holes where data had not been
        // written out yet, and a hole counts as zeros.
        file.flush()?;
        let file = Arc::new(Meter::new(file));
        tell_of_host(file.inner(), options, &mut report)?;
        report.unguarded = file.inner().exclusion().missing().to_vec();
        let real = Some(file.inner().path());
        let mut options = options.clone();
        options.parents.steady = true;
        let mut chain = Chain::default();
        let done = run_on(file.clone(), real, &options, &mut report, &mut chain, hook);
        let mut counts = file.counts();
        counts.bytes_read += chain.bytes_read();
        report.io = IoReport::of_run(counts);
        let set_aside = report.host_bytes_before.saturating_sub(report.file_size_before);
        let give_back = set_aside >= SET_ASIDE;
        if give_back && let Err(error) = file.give_back() {
            report.notes.push(error.chain());
        }
        report.host_bytes_after = file.inner().host_bytes().ok();
        // After a failure, too: the guest's disk is the same.
        if !options.touch
            && (report.io.bytes_written != Some(0)
                || give_back
                || report.host_bytes_after != Some(report.host_bytes_before))
            && let Err(error) = file.inner().restore_times(times)
        {
            report.notes.push(error.chain());
        }
        done.map_err(|e| in_file(e, file.inner(), path))
    });
    report.finish(result, started);
    report
}

/// Enters how the host stores the file, and lets it be marked as far as that is wished.
fn tell_of_host(file: &HostFile, options: &Options, report: &mut Report) -> Result<()> {
    report.host_bytes_before = file.host_bytes()?;
    report.notes.extend_from_slice(file.notes());
    if options.punch.is_some() && options.make_sparse {
        file.allow_mark();
    }
    Ok(())
}

/// Compacts the image in any storage; [`compact`] without the host file about it, and so
/// not for a differencing image, whose parents could not be found.
pub fn compact_storage(
    storage: Arc<dyn Storage>,
    options: &Options,
    report: &mut Report,
    hook: &mut Hook<'_>,
) -> Result<Outcome> {
    run_on(storage, None, options, report, &mut Chain::default(), hook)
}

/// Compacts the image in `storage`, which is the file at `path` if that is known, and
/// hands out what parents it has.
fn run_on(
    storage: Arc<dyn Storage>,
    path: Option<&Path>,
    options: &Options,
    report: &mut Report,
    chain: &mut Chain,
    hook: &mut Hook<'_>,
) -> Result<Outcome> {
    if options.punch.is_some() {
        // What cannot be done is said before anything else is.
        storage.hole_size()?;
    }
    let Some(prepared) = prepare(storage.clone(), path, options, report, hook)? else {
        return Ok(Outcome::Cancelled);
    };
    let Prepared { mut image, survey, plan, .. } = prepared;
    *chain = prepared.chain;
    if options.punch == Some(Punch::Only) {
        return punch::punch(&mut *image, &storage, &survey, options, report, hook);
    }
    // Until something is written, nothing has changed.
    let before = report.blocks.allocated_before;
    let unchanged = BlockCounts {
        total: report.blocks.total,
        allocated_before: before,
        allocated_after: before,
        ..BlockCounts::default()
    };
    let planned = std::mem::replace(&mut report.blocks, unchanged);
    let orphaned = std::mem::take(&mut report.orphaned);
    let identity = image.facts().unique_id;
    report.file_size_after = report.file_size_before;
    let verdicts = &survey.verdicts;
    let mut before = None;
    if options.verify {
        before = verify::digest(&*image, verdicts, Phase::VerifyBefore, hook)?;
        if before.is_none() {
            return Ok(Outcome::Cancelled);
        }
    }
    let done = run::run(&mut *image, &plan, run::ROUND, hook);
    report.file_size_after = storage.len();
    tell_of_orphans(&storage, identity, orphaned, report);
    let done = match done {
        Ok(done) => done,
        Err(error) => {
            // How far it came, the file itself knows best.
            if let Ok(reached) = image::open(storage) {
                let after = u64::from(reached.facts().blocks_allocated);
                if after == planned.allocated_after {
                    report.blocks = BlockCounts { moved: 0, ..planned };
                }
                report.blocks.allocated_after = after;
            }
            return Err(error);
        }
    };
    if done.released > 0 {
        report.blocks = planned;
    }
    report.blocks.moved = done.moved as u64;
    if done.replayed {
        report.notes.push("the log was replayed for good".to_owned());
    }
    if done.stopped {
        return Ok(Outcome::Cancelled);
    }
    if let Some(before) = before {
        // Through a fresh reading of the file: what the next program will see.
        let fresh = open_anew(&storage, &*image)?;
        match verify::digest(&*fresh, verdicts, Phase::VerifyAfter, hook)? {
            None => return Ok(Outcome::Cancelled),
            Some(after) if after == before => {
                report.verified = Some(after.to_hex().to_string());
            }
            Some(_) => {
                return Err(Error::new(
                    Kind::Unexpected,
                    "the live guest bytes are not the same after compacting: restore the image \
                     from its backup and report this as a bug",
                ));
            }
        }
    }
    let outcome = if plan.is_empty() { Outcome::NothingToDo } else { Outcome::Compacted };
    if options.punch == Some(Punch::Also) {
        let mut fresh = open_anew(&storage, &*image)?;
        let punched =
            punch::punch(&mut *fresh, &storage, &survey, options, report, hook)?;
        return Ok(match punched {
            Outcome::Punched if outcome == Outcome::Compacted => outcome,
            Outcome::NothingToDo => outcome,
            punched => punched,
        });
    }
    Ok(outcome)
}

/// The image as the next program will see it, with the same parent.
fn open_anew(storage: &Arc<dyn Storage>, image: &dyn Image) -> Result<Box<dyn Image>> {
    let mut fresh = image::open(storage.clone())?;
    if let Some(parent) = image.parent() {
        fresh.set_parent(parent.clone())?;
    }
    Ok(fresh)
}

/// Enters that `orphaned` no longer find their parent, if the disk in the file is not the
/// one that it was. How far a run came that failed, the file itself knows best.
fn tell_of_orphans(
    storage: &Arc<dyn Storage>,
    identity: Option<[u8; 16]>,
    orphaned: Vec<String>,
    report: &mut Report,
) {
    if !orphaned.is_empty()
        && let Ok(reached) = image::open(storage.clone())
        && reached.facts().unique_id != identity
    {
        let names = orphaned.join(", ");
        report.notes.push(format!("no longer find their parent: {names}"));
        report.orphaned = orphaned;
    }
}

/// Adds to what was prepared what punching would do, if that is wished for; `None` if the
/// hook asked to stop.
fn plan_holes(
    prepared: Option<Prepared>,
    file: &Arc<Meter<HostFile>>,
    options: &Options,
    report: &mut Report,
    hook: &mut Hook<'_>,
) -> Result<Option<Prepared>> {
    let Some(prepared) = prepared else { return Ok(None) };
    let Some(punch) = options.punch else { return Ok(Some(prepared)) };
    let storage: Arc<dyn Storage> = file.clone();
    let Prepared { image, survey, .. } = &prepared;
    let also = punch == Punch::Also;
    let planned = punch::plan(&**image, &storage, survey, also, options, report, hook)?;
    Ok(planned.map(|_| prepared))
}

/// All that a run needs.
struct Prepared {
    image: Box<dyn Image>,
    chain: Chain,
    survey: Survey,
    plan: Plan,
}

/// Opens, judges and plans, filling in the report with what a run would reach;
/// `None` if the hook asked to stop.
fn prepare(
    storage: Arc<dyn Storage>,
    path: Option<&Path>,
    options: &Options,
    report: &mut Report,
    hook: &mut Hook<'_>,
) -> Result<Option<Prepared>> {
    report.file_size_before = storage.len();
    report.file_size_after = storage.len();
    let format = image::detect(&storage)?;
    report.format = Some(format.name());
    let clone_unit = storage.clone_unit();
    let mut image = format.open(storage)?;
    let facts = image.facts();
    report.image_type = Some(facts.image_type);
    report.virtual_size = facts.virtual_size;
    report.block_size = facts.block_size;
    report.blocks.total = u64::from(facts.blocks_total);
    report.blocks.allocated_before = u64::from(facts.blocks_allocated);
    report.blocks.allocated_after = report.blocks.allocated_before;
    report.notes.extend(facts.notes.iter().cloned());
    can_orphan(&*image, options)?;
    let mut chain = Chain::default();
    let mut options = options.clone();
    if let Some(path) = path {
        let children = children(path, &facts);
        report.notes.extend(children_notes(&children, &*image, &options));
        report.notes.extend(tracking_note(path));
        options = for_children(&options, &children);
        let names =
            children.paths.iter().map(|child| child.to_string_lossy().into_owned());
        report.children = names.collect();
        // What the image itself forbids is said before its parents are looked for.
        image.settled()?;
        chain = parent::open_parents(&mut *image, path, &options.parents)?;
        options = for_parents(&options, &chain, path);
        report.notes.extend(chain_notes(&chain));
        report.notes.extend(distance_note(&options));
        report.parents = chain.parents().to_vec();
    }
    let stays = options.punch == Some(Punch::Only);
    if stays {
        image.punchable()?;
    } else {
        image.compactable()?;
    }
    options.smaller_blocks = !stays;
    // Who punches only reads all that stays anyway, for zeros in a part of a block.
    let search = !stays || options.mode == Mode::Quick;
    let Some(survey) = survey::survey(&*image, &options, search, hook)? else {
        return Ok(None);
    };
    let plan = match image.layout() {
        _ if stays => Plan::of_nothing(report.file_size_before),
        Some(layout) => plan::plan_to_clone(&layout, &survey.verdicts, clone_unit),
        None => return Ok(None),
    };
    if !stays {
        let count =
            |verdict| survey.verdicts.iter().filter(|v| **v == verdict).count() as u64;
        report.blocks.released_free = count(Verdict::Free) + count(Verdict::Blank);
        report.blocks.released_zero = count(Verdict::Zero);
        report.blocks.released_parent = count(Verdict::Parent);
    }
    report.blocks.allocated_after -= plan.blocks_released() as u64;
    report.blocks.moved = plan.blocks_moved() as u64;
    if plan.changes_content {
        report.orphaned.clone_from(&report.children);
    }
    report.file_size_after = plan.file_len_after;
    report.kept = survey.kept;
    report.pinned_bytes = survey.kept.pinned;
    report.smaller_blocks.clone_from(&survey.smaller_blocks);
    report.volumes.clone_from(&survey.volumes);
    report.notes.extend(survey.notes.iter().cloned());
    if let Some(table) = &survey.table {
        report.notes.extend(table.notes.iter().cloned());
    }
    Ok(Some(Prepared { image, chain, survey, plan }))
}

/// The error with the image's file as it was given, unless it is about another one: a
/// parent, say.
fn in_file(error: Error, file: &HostFile, path: &Path) -> Error {
    match error.path() {
        Some(other) if other != file.path() => error,
        _ => error.in_file(path),
    }
}

pub(crate) fn children(path: &Path, facts: &Facts) -> Children {
    facts.unique_id.map(|id| parent::children_of(path, &id)).unwrap_or_default()
}

/// What is wanted of an image that has these children, or may have.
pub(crate) fn for_children(options: &Options, children: &Children) -> Options {
    let children = !children.paths.is_empty() || children.unreadable;
    let preserve = options.preserve || children && !options.orphan_children;
    Options { preserve, ..options.clone() }
}

/// Fails if children are to be orphaned that would not notice.
pub(crate) fn can_orphan(image: &dyn Image, options: &Options) -> Result<()> {
    if options.orphan_children && !image.identity_follows_content() {
        return Err(Error::new(
            Kind::WrongImageType,
            "a disk of this format keeps its identity whatever it holds, so its children \
             would take it for what it was and read wrong data: they cannot be orphaned; \
             merge or remove them first",
        ));
    }
    Ok(())
}

/// What Hyper-V notes beside a disk of what the guest changed since the last backup.
const TRACKING: [&str; 2] = ["rct", "mrt"];

/// That there are such notes beside the disk at `path`, which will not hold.
fn tracking_note(path: &Path) -> Option<String> {
    let name = path.file_name()?;
    let beside = |extension: &&str| {
        let mut name = name.to_owned();
        name.push(".");
        name.push(extension);
        path.with_file_name(&name).is_file().then(|| name.to_string_lossy().into_owned())
    };
    let names: Vec<String> = TRACKING.iter().filter_map(beside).collect();
    (!names.is_empty()).then(|| {
        format!(
            "{}: here Hyper-V notes what changed since the last backup, and compacting is \
             not seen by it: let the next backup after a compaction be a full one",
            names.join(", ")
        )
    })
}

/// What is wanted of the image at `path` that has these parents.
fn for_parents(options: &Options, chain: &Chain, path: &Path) -> Options {
    let distant = |parent: &Parent| parent.path.parent() != path.parent();
    let distant_parent = chain.parents().iter().any(distant);
    Options { distant_parent, ..options.clone() }
}

fn distance_note(options: &Options) -> Option<String> {
    options.distant_parent.then(|| {
        "a parent lies in another folder, where nobody sees that this image depends on it \
         when that parent is compacted: of what the parents show the same, only zeros are \
         given up"
            .to_owned()
    })
}

pub(crate) fn children_notes(
    children: &Children,
    image: &dyn Image,
    options: &Options,
) -> Option<String> {
    let names: Vec<_> = children
        .paths
        .iter()
        .map(|path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy())
        .collect();
    let who = match names.as_slice() {
        [] if children.unreadable => {
            "an image in the same folder may not be read, so it may be a child of this one"
                .to_owned()
        }
        [] => return None,
        names => format!("the disk is the parent of {}", names.join(", ")),
    };
    if options.orphan_children && !options.preserve {
        return Some(format!(
            "{who}: when free space goes that is not zeros, the disk gets another \
             identity, and nobody can use those children any more"
        ));
    }
    let why = if names.is_empty() {
        ""
    } else {
        ", for its children may read what its own volumes call free"
    };
    let instead = if image.identity_follows_content() {
        "; with --orphan-children all that is free goes, and with it the use of the children"
    } else {
        ""
    };
    Some(format!(
        "{who}: only what reads the same afterwards can be given up{why}{instead}"
    ))
}

/// What is odd about the parents, each named.
pub(crate) fn chain_notes(chain: &Chain) -> impl Iterator<Item = String> + '_ {
    let parents = chain.parents().iter().flat_map(|parent| {
        let path = parent.path.display();
        parent.notes.iter().map(move |note| format!("parent {path}: {note}"))
    });
    chain.notes().iter().cloned().chain(parents)
}
