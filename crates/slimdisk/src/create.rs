//! Making new, empty disks: dynamic, fixed, or differencing ones upon a parent.
//!
//! [`Creation::prepare`] holds all against the rules and has room set aside;
//! [`Creation::run`] writes. The file is there whole or not at all.

#![forbid(unsafe_code)]

mod folders;
mod parent;
mod report;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use self::folders::Folders;
use self::parent::Above;
pub use self::report::{Outcome, Report};
use crate::error::{Error, Kind, Result};
use crate::image::new::{SECTOR, unique_id};
use crate::image::parent::{ParentLookup, id_text};
use crate::image::{self, Format, ImageType, NewImage, Writer, vhd::Vhd, wrong_type};
use crate::progress::{Hook, Phase, Progress};
use crate::report::IoReport;
use crate::storage::{self, Meter, NewFile};

/// What a new disk is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Blocks are added when the guest writes to them.
    Dynamic {
        /// The size of the guest's disk in bytes.
        size: u64,
    },
    /// All of the disk is set aside at once.
    Fixed {
        /// The size of the guest's disk in bytes.
        size: u64,
    },
    /// What differs from another disk: nothing, to begin with.
    Differencing {
        /// The image of that disk.
        parent: PathBuf,
    },
}

/// What the user wants of a new disk.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// What it is to be.
    pub content: Content,
    /// The format it is to have; if `None`, the one that the file's name or else the
    /// parent calls for.
    pub format: Option<&'static dyn Format>,
    /// The size of a block's data in bytes; the format's usual one if `None`.
    pub block_size: Option<u64>,
    /// Where the parents of the parent may be looked for.
    pub parents: ParentLookup,
}

impl Options {
    /// A disk as the format usually makes them.
    #[must_use]
    pub fn new(content: Content) -> Self {
        Options {
            content,
            format: None,
            block_size: None,
            parents: ParentLookup::default(),
        }
    }
}

/// The format that a new disk at `path` has: the one that was asked for, else the one
/// that its name says, else `usual`, else VHD.
pub(crate) fn format_for(
    path: &Path,
    wanted: Option<&'static dyn Format>,
    usual: Option<&'static dyn Format>,
) -> &'static dyn Format {
    wanted.or_else(|| image::format_of_name(path)).or(usual).unwrap_or(&Vhd)
}

/// A disk of which all is known but that it is there.
pub struct Creation {
    folder: PathBuf,
    target: PathBuf,
    format: &'static dyn Format,
    new: NewImage,
    /// `None` while its folder is missing.
    file: Option<NewFile>,
    above: Option<Above>,
    report: Report,
    started: Instant,
}

/// Makes a new disk at `path`, in a folder that is made if it is missing.
pub fn create(path: &Path, options: &Options, hook: &mut Hook<'_>) -> Report {
    Creation::prepare(path, options)
        .map_or_else(|error| Report::failed(path, error), |creation| creation.run(hook))
}

/// What [`create`] would make. Leaves nothing behind.
pub fn plan(path: &Path, options: &Options) -> Report {
    Creation::prepare(path, options)
        .map_or_else(|error| Report::failed(path, error), Creation::plan)
}

impl Creation {
    /// Holds all against the rules, opens the parents, and has room set aside where the
    /// folder is there.
    ///
    /// # Errors
    ///
    /// [`Kind::AlreadyExists`], [`Kind::DiskTooSmall`], [`Kind::DiskTooLarge`],
    /// [`Kind::InvalidArgument`] for a block size that cannot be had,
    /// [`Kind::DiskFull`], [`Kind::FileTooLarge`], the errors of [`NewFile::create`],
    /// and for a parent those of [`open_parents`](crate::image::parent::open_parents).
    pub fn prepare(path: &Path, options: &Options) -> Result<Self> {
        let started = Instant::now();
        let (folder, name) = storage::split(path)?;
        let folder = folders::resolve(&folder).map_err(|e| e.in_file(path))?;
        let target = folder.join(name);
        storage::must_not_exist(&target).map_err(|e| e.in_file(path))?;
        let mut above = None;
        let (image_type, size) = match &options.content {
            Content::Dynamic { size } => (ImageType::Dynamic, *size),
            Content::Fixed { size } => (ImageType::Fixed, *size),
            Content::Differencing { parent } => {
                let opened = Above::open(parent, &options.parents)?;
                let size = opened.image.len();
                above = Some(opened);
                (ImageType::Differencing, size)
            }
        };
        let parents_format = above.as_ref().map(|above| above.format);
        let format = format_for(path, options.format, parents_format);
        if let Some(theirs) = parents_format
            && theirs != format
        {
            let what = format!(
                "a child has the format of its parent, which is a {}: give it a name that \
                 ends in .{0}",
                theirs.name()
            );
            return Err(wrong_type(what).in_file(path));
        }
        let least = *format.limits().start();
        if above.is_none() && size < least {
            let what = format!("a new disk has at least {least} bytes, not {size}");
            return Err(Error::new(Kind::DiskTooSmall, what).in_file(path));
        }
        let parent = above.as_ref().map(|above| &above.image);
        let new = NewImage {
            image_type,
            size,
            block_size: options.block_size,
            sector_size: parent.and_then(|p| p.sector_size()).unwrap_or(SECTOR),
            physical_sector_size: parent.and_then(|p| p.physical_sector_size()),
            geometry: parent.and_then(|parent| parent.facts().geometry),
            blank: true,
            parent: above.as_ref().map(|above| above.named_from(&folder)),
            unique_id: unique_id(),
            disk_id: None,
            time: SystemTime::now(),
        };
        format.check_new(&new).map_err(|e| match e.path() {
            Some(_) => e,
            None => e.in_file(path),
        })?;
        let mut report = Report::new(path);
        report.format = Some(format.name());
        report.image_type = Some(image_type);
        report.virtual_size = size;
        report.block_size = format.block_size(&new);
        report.file_size = format.file_len(&new, 0);
        if let Some(above) = &above {
            report.parent = Some(above.path.to_string_lossy().into_owned());
            report.notes.clone_from(&above.notes);
        }
        let mut creation =
            Creation { folder, target, format, new, file: None, above, report, started };
        if creation.folder.is_dir() {
            creation.file = Some(creation.begin()?);
        } else {
            let near = storage::nearest_folder(&creation.target);
            storage::require(&near, creation.report.file_size)
                .map_err(|e| e.in_file(path))?;
        }
        Ok(creation)
    }

    /// The file, with room for what is certain.
    fn begin(&self) -> Result<NewFile> {
        let file = NewFile::create(&self.target)?;
        match self.new.image_type {
            ImageType::Fixed => file.reserve(self.report.file_size)?,
            _ => {
                file.require(self.report.file_size)?;
                // It is to hold all that the guest may write one day.
                file.allow(self.format.max_len(&self.new))?;
            }
        }
        Ok(file)
    }

    /// What [`run`](Creation::run) would make. Leaves nothing behind.
    #[must_use]
    pub fn plan(mut self) -> Report {
        self.report.finish(Ok(Outcome::Planned), self.started);
        self.report
    }

    /// Makes the disk. If that fails, or the hook asks to stop, there is nothing of it,
    /// nor of the folders that were made for it.
    pub fn run(mut self, hook: &mut Hook<'_>) -> Report {
        let mut folders = Folders::default();
        let result = self.write(&mut folders, hook);
        match result {
            Ok(Outcome::Created) => {
                self.report.unique_id = Some(id_text(&self.new.unique_id));
            }
            _ => folders.remove(),
        }
        self.report.finish(result, self.started);
        self.report
    }

    fn write(&mut self, folders: &mut Folders, hook: &mut Hook<'_>) -> Result<Outcome> {
        let total = self.report.file_size;
        let mut stops =
            |done| hook(Progress { phase: Phase::Copy, done, total }).is_break();
        if stops(0) {
            return Ok(Outcome::Cancelled);
        }
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                folders.make(&self.folder)?;
                self.begin()?
            }
        };
        let storage = Arc::new(Meter::new(file.file().clone()));
        let written = self
            .format
            .create(storage.clone(), &self.new)
            .and_then(Writer::finish)
            .and_then(|()| self.read_back(storage.clone()));
        self.report.io = IoReport::of_run(storage.counts());
        written.map_err(|e| match e.path() {
            Some(_) => e,
            None => e.in_file(&self.target),
        })?;
        if stops(total) {
            return Ok(Outcome::Cancelled);
        }
        drop(storage);
        file.keep()?;
        Ok(Outcome::Created)
    }

    /// Opens what was written the way everybody will.
    fn read_back(&self, storage: Arc<dyn storage::Storage>) -> Result<()> {
        let mut image = self.format.open(storage)?;
        if let Some(above) = &self.above {
            above.image.still_exclusive()?;
            image.set_parent(above.image.clone())?;
        }
        let facts = image.facts();
        if facts.image_type != self.new.image_type
            || facts.virtual_size != self.new.size
            || facts.unique_id != Some(self.new.unique_id)
        {
            let what = "the new image does not read as what was written";
            return Err(Error::new(Kind::Unexpected, what));
        }
        Ok(())
    }
}
