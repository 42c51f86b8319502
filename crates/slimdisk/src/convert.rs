//! The guest's disk, through all parents, written into a new image of its own.
//!
//! ```text
//! source (+ parents) -> guest bytes -+-> survey: what is free (if wished for)
//!                                    +-> blocks that are not zero -> new image -> its name
//! ```
//!
//! The source stays as it is, and nobody writes to it meanwhile. The new image is there
//! whole or not at all.

#![forbid(unsafe_code)]

mod compacted;
mod copy;
mod flat;
mod report;
mod target;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

pub use self::compacted::Compacted;
use self::copy::{Fate, Sharing, copy};
use self::flat::Flat;
pub use self::report::{BlockCounts, Outcome, Report};
use self::target::Target;
use crate::compact::{self, Verdict, survey};
use crate::create::format_for;
use crate::error::{Error, Kind, Result};
use crate::image::new::{SECTOR, unique_id};
use crate::image::parent::{self, Chain, ParentLookup};
use crate::image::{self, Format, Image, ImageType, NewImage, Writer, wrong_type};
use crate::progress::{Hook, Phase, Progress};
use crate::report::IoReport;
use crate::storage::{HostFile, IoCounts, Meter, NewFile, ReadAt};
use crate::volume::Allowances;

/// What a fixed image, which has no blocks, is counted in.
const PIECE_OF_FIXED: u64 = 2 << 20;

/// What the user wants of a conversion.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// How the new image is to store the disk: dynamic or fixed.
    pub image_type: ImageType,
    /// The format of the new image; if `None`, the one that its name calls for, or else
    /// VHD.
    pub format: Option<&'static dyn Format>,
    /// The size of a block's data in bytes; the format's usual one if `None`.
    pub block_size: Option<u64>,
    /// Leave out blocks that trusted volumes call free; they read as zeros then.
    pub leave_out_free: bool,
    /// What is allowed beyond the safe default when volumes are judged.
    pub allow: Allowances,
    /// With [`leave_out_free`](Options::leave_out_free): leave out what lies outside
    /// every partition, too, as
    /// [`compact::Options::drop_unpartitioned`] says.
    pub drop_unpartitioned: bool,
    /// Where the parents of a differencing image may be looked for.
    pub parents: ParentLookup,
    /// Insist on a differencing image: that is to merge a chain into a new image.
    pub whole_chain: bool,
    /// Make the same disk once more, compacted: an image of the source's format, type,
    /// block size and identity, which is to take its place. The identity is another one
    /// only where [`compact`] would change it. What is said here of the
    /// type, format and block size does not count then.
    pub compacted: Option<Compacted>,
    /// Read what was written, and compare, before the new image gets its name.
    pub verify: bool,
}

impl Options {
    /// All of the disk into an image of this type.
    #[must_use]
    pub fn new(image_type: ImageType) -> Self {
        Options {
            image_type,
            format: None,
            block_size: None,
            leave_out_free: false,
            allow: Allowances::default(),
            drop_unpartitioned: false,
            parents: ParentLookup::default(),
            whole_chain: false,
            compacted: None,
            verify: false,
        }
    }
}

/// A conversion that has passed all checks that need no reading of the disk.
pub struct Conversion {
    source: Source,
    file: NewFile,
    format: &'static dyn Format,
    new: NewImage,
    options: Options,
    /// Only what reads the same is left out, for others need the source as it is.
    preserve: bool,
    /// What of the source's file can be shared.
    sharing: Option<Sharing>,
    /// How many bytes of it were.
    shared: u64,
    report: Report,
    started: Instant,
}

/// The open source.
struct Source {
    /// Its path as it was given.
    path: PathBuf,
    file: Arc<Meter<HostFile>>,
    image: Box<dyn Image>,
    chain: Chain,
}

/// Writes the disk of the image at `source` into a new image at `target`.
pub fn convert(
    source: &Path,
    target: &Path,
    options: &Options,
    hook: &mut Hook<'_>,
) -> Report {
    match Conversion::prepare(source, target, options) {
        Ok(conversion) => conversion.run(hook),
        Err(error) => Report::failed(source, target, error),
    }
}

/// What [`convert`] would make. Leaves nothing behind; [`Report::file_size`] is exact.
pub fn plan(
    source: &Path,
    target: &Path,
    options: &Options,
    hook: &mut Hook<'_>,
) -> Report {
    match Conversion::prepare(source, target, options) {
        Ok(conversion) => conversion.plan(hook),
        Err(error) => Report::failed(source, target, error),
    }
}

impl Conversion {
    /// Opens the source with its parents, holds all against the rules, and has room set
    /// aside for a fixed image.
    ///
    /// # Errors
    ///
    /// [`Kind::WrongImageType`] for a target that is to be differencing, a source in a
    /// saved state, and with [`Options::whole_chain`] a source that is not differencing;
    /// [`Kind::InUse`], [`Kind::AlreadyExists`], [`Kind::DiskFull`],
    /// [`Kind::FileTooLarge`], the errors of [`NewFile::create`], of
    /// [`HostFile::open_read`], and of
    /// [`open_parents`](crate::image::parent::open_parents).
    pub fn prepare(source: &Path, target: &Path, options: &Options) -> Result<Self> {
        let started = Instant::now();
        if options.image_type == ImageType::Differencing {
            let what = "a disk can be converted to a dynamic or a fixed image alone";
            return Err(wrong_type(what).in_file(target));
        }
        let source = Source::open(source, options)?;
        let facts = source.image.facts();
        let format = match options.compacted {
            Some(_) => compacted::format(&*source.image, target)
                .map_err(|e| source.in_file(e))?,
            None => format_for(target, options.format, None),
        };
        let sector_size = source.image.sector_size().unwrap_or(SECTOR);
        let mut new = NewImage {
            image_type: options.image_type,
            size: source.image.len().next_multiple_of(u64::from(sector_size)),
            block_size: options.block_size,
            sector_size,
            // The guest is told the same of its disk as before.
            physical_sector_size: source.image.physical_sector_size().or(Some(SECTOR)),
            // Fields that somebody left empty say nothing.
            geometry: facts.geometry.filter(|geometry| {
                geometry.cylinders != 0
                    && geometry.heads != 0
                    && geometry.sectors_per_track != 0
            }),
            parent: None,
            blank: false,
            unique_id: unique_id(),
            disk_id: None,
            time: SystemTime::now(),
        };
        let mut children_notes = None;
        let mut preserve = false;
        if let Some(compacted) = options.compacted {
            compacted::same_disk(&mut new, &*source.image);
            (preserve, children_notes) =
                source.children(compacted).map_err(|e| source.in_file(e))?;
        }
        format.check_new(&new).map_err(|e| e.in_file(target))?;
        let file = NewFile::create(target)?;
        let sharing = match options.compacted {
            Some(_) if source.image.is_settled_in_file() => {
                file.file().sharing_unit(source.file.inner())?
            }
            _ => None,
        };
        let block_size = facts.block_size;
        let sharing = sharing.map(|unit| Sharing { unit, block_size });
        match options.image_type {
            ImageType::Fixed => file.reserve(format.max_len(&new))?,
            _ => file.require(format.file_len(&new, 0))?,
        }
        let mut report = Report::new(&source.path, target);
        report.format = Some(format.name());
        report.image_type = Some(options.image_type);
        report.virtual_size = new.size;
        report.block_size = format.block_size(&new);
        report.source_file_size = source.file.len();
        report.parents = source.chain.parents().to_vec();
        report.notes = facts.notes;
        report.notes.extend(children_notes);
        report.notes.extend(compact::chain_notes(&source.chain));
        let options = options.clone();
        Ok(Conversion {
            source,
            file,
            format,
            new,
            options,
            preserve,
            sharing,
            shared: 0,
            report,
            started,
        })
    }

    /// What [`run`](Conversion::run) would make. Leaves nothing behind; reads the free
    /// maps, and of each block as much as tells whether it is zero.
    pub fn plan(mut self, hook: &mut Hook<'_>) -> Report {
        let result = self.judge(hook).and_then(|free| {
            let Some(free) = free else { return Ok(Outcome::Cancelled) };
            self.require_room(&free)?;
            let (disk, unit) = (&*self.source.image, self.unit());
            let fates = copy(disk, unit, &free, self.sharing, None, hook)?;
            let Some(fates) = fates else { return Ok(Outcome::Cancelled) };
            count(&mut self.report, self.format, &self.new, &fates);
            Ok(Outcome::Planned)
        });
        let result = result.map_err(|e| self.source.in_file(e));
        let bytes_read = self.source.bytes_read();
        self.report.io =
            IoReport::of_plan(IoCounts { bytes_read, ..IoCounts::default() });
        self.report.finish(result, self.started);
        self.report
    }

    /// Makes the new image. If that fails, or the hook asks to stop, there is nothing of
    /// it.
    pub fn run(mut self, hook: &mut Hook<'_>) -> Report {
        let storage = Arc::new(Meter::new(self.file.file().clone()));
        let written = self.write(&storage, hook).map_err(|e| self.source.in_file(e));
        let mut counts = storage.counts();
        counts.bytes_read += self.source.bytes_read();
        counts.bytes_cloned += self.shared;
        self.report.io = IoReport::of_run(counts);
        drop(storage);
        let result = match written {
            Ok(Outcome::Converted) => self.file.keep().map(|()| Outcome::Converted),
            other => other,
        };
        self.report.finish(result, self.started);
        self.report
    }

    fn write(
        &mut self,
        storage: &Arc<Meter<Arc<HostFile>>>,
        hook: &mut Hook<'_>,
    ) -> Result<Outcome> {
        let Some(free) = self.judge(hook)? else { return Ok(Outcome::Cancelled) };
        self.require_room(&free)?;
        let source = &*self.source.image;
        if self.options.compacted.is_some()
            && source.identity_follows_content()
            && compacted::changes_content(source, &free)
        {
            self.new.unique_id = unique_id();
        }
        let at_target = |e: Error| match e.path() {
            Some(_) => e,
            None => e.in_file(self.file.path()),
        };
        let mut target = Target {
            writer: self.format.create(storage.clone(), &self.new).map_err(at_target)?,
            storage: storage.clone(),
            source: self.source.file.inner(),
            disk: source,
            sharing: self.sharing,
            shared: 0,
        };
        let unit = self.unit();
        let fates = copy(source, unit, &free, self.sharing, Some(&mut target), hook)?;
        self.shared = target.shared;
        let Some(fates) = fates else { return Ok(Outcome::Cancelled) };
        Writer::finish(target.writer).map_err(at_target)?;
        count(&mut self.report, self.format, &self.new, &fates);
        let path = self.file.path().to_owned();
        let unexpected =
            |what: &'static str| Err(Error::new(Kind::Unexpected, what).in_file(&path));
        if storage.len() != self.report.file_size {
            return unexpected("the new image has not the length that was planned");
        }
        // Through a fresh reading of the file: what the next program will see.
        let fresh = image::open(storage.clone()).map_err(|e| e.in_file(&path))?;
        if fresh.len() != self.new.size || fresh.facts().format != self.format.name() {
            return unexpected(
                "the new image has not the size of its source, or not its format",
            );
        }
        if self.options.verify {
            let unit = self.unit();
            match verify::compare(source, &*fresh, unit, &fates, hook)? {
                verify::Compared::Stopped => return Ok(Outcome::Cancelled),
                verify::Compared::Differs => {
                    return unexpected(
                        "the new image does not read as its source: it was removed; report \
                         this as a bug",
                    );
                }
                verify::Compared::Same(digest) => {
                    self.report.verified = Some(digest.to_hex().to_string());
                }
            }
        }
        source.still_exclusive()?;
        Ok(Outcome::Converted)
    }

    /// Fails with [`Kind::DiskFull`] if there is no room for what a compacted copy takes.
    fn require_room(&self, verdicts: &[Verdict]) -> Result<()> {
        if self.options.compacted.is_none() {
            return Ok(());
        }
        let disk = &*self.source.image;
        let shared = |block: std::ops::Range<u64>| {
            self.sharing.is_some_and(|sharing| sharing.place(disk, &block).is_some())
        };
        let tables = self.format.file_len(&self.new, 0);
        let needed = compacted::room_needed(&self.source, tables, verdicts, shared)?;
        self.file.require(needed)
    }

    /// The size of the pieces that are left out or written.
    fn unit(&self) -> u64 {
        match self.report.block_size {
            0 => PIECE_OF_FIXED,
            size => size,
        }
    }

    /// Which blocks trusted volumes call free; `None` if the hook asked to stop.
    fn judge(&mut self, hook: &mut Hook<'_>) -> Result<Option<Vec<Verdict>>> {
        if !self.options.leave_out_free {
            let start = Progress { phase: Phase::Copy, done: 0, total: self.new.size };
            return Ok(hook(start).is_continue().then(Vec::new));
        }
        let mut options = compact::Options::default();
        options.allow = self.options.allow;
        options.drop_unpartitioned = self.options.drop_unpartitioned;
        options.preserve = self.preserve;
        if let Some(compacted) = self.options.compacted {
            options.mode = compacted.mode;
        }
        let flat = Flat::new(&*self.source.image, self.unit());
        let Some(survey) = survey::survey(&flat, &options, true, hook)? else {
            return Ok(None);
        };
        self.report.volumes.clone_from(&survey.volumes);
        self.report.notes.extend(survey.notes);
        if let Some(table) = &survey.table {
            self.report.notes.extend(table.notes.iter().cloned());
        }
        Ok(Some(survey.verdicts))
    }
}

/// Enters what became of the blocks, and the length that comes of it.
fn count(report: &mut Report, format: &dyn Format, new: &NewImage, fates: &[Fate]) {
    let count = |fate| fates.iter().filter(|f| **f == fate).count() as u64;
    report.blocks = BlockCounts {
        total: fates.len() as u64,
        written: count(Fate::Written),
        left_out_free: count(Fate::Free),
        left_out_zero: count(Fate::Zero),
    };
    report.file_size = format.file_len(new, report.blocks.written);
}

impl Source {
    fn open(path: &Path, options: &Options) -> Result<Self> {
        let file = Arc::new(Meter::new(HostFile::open_steady(path)?));
        let lookup = ParentLookup { steady: true, ..options.parents.clone() };
        let open = || {
            let mut image = image::open(file.clone())?;
            if options.whole_chain && image.facts().image_type != ImageType::Differencing
            {
                return Err(wrong_type(
                    "not a differencing image: there is no chain to be merged",
                ));
            }
            image.settled()?;
            let chain = parent::open_parents(&mut *image, file.inner().path(), &lookup)?;
            Ok((image, chain))
        };
        match open() {
            Ok((image, chain)) => {
                Ok(Source { path: path.to_owned(), file: file.clone(), image, chain })
            }
            Err(error) => Err(in_source(error, &file, path)),
        }
    }

    /// Whether only what reads the same may be left out of a compacted copy, because of
    /// images that need this one as their parent; and what is to be said of them.
    fn children(&self, compacted: Compacted) -> Result<(bool, Option<String>)> {
        let options = compact::Options {
            orphan_children: compacted.orphan_children,
            ..compact::Options::default()
        };
        compact::can_orphan(&*self.image, &options)?;
        let children = compact::children(self.file.inner().path(), &self.image.facts());
        let note = compact::children_notes(&children, &*self.image, &options);
        Ok((compact::for_children(&options, &children).preserve, note))
    }

    /// The error with the source's path as it was given, unless it is about another
    /// file.
    fn in_file(&self, error: Error) -> Error {
        in_source(error, &self.file, &self.path)
    }

    fn bytes_read(&self) -> u64 {
        self.file.counts().bytes_read + self.chain.bytes_read()
    }
}

fn in_source(error: Error, file: &Meter<HostFile>, path: &Path) -> Error {
    match error.path() {
        Some(other) if other != file.inner().path() => error,
        _ => error.in_file(path),
    }
}
