//! One hard disk: an image by its path, and what can be done with it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::busy::{Claim, Use, in_use};
use super::{Host, ended, files, path};
use crate::compact::{self, Mode, Options as CompactOptions, Outcome};
use crate::convert::{Conversion, Options as ConvertOptions, Outcome as ConvertOutcome};
use crate::error::{Error, Kind, Result};
use crate::image::parent::{self, Parent, ParentLookup, relink};
use crate::image::{self, Facts, Image, ImageType};
use crate::merge::{Merging, Options as MergeOptions, Outcome as MergeOutcome};
use crate::progress::Phase;
use crate::storage::{HostFile, free_space};
use crate::task::{Share, Task};

/// The phases of a compaction and about how much of the time each takes.
const COMPACT: &[Share] = &[
    (Phase::Map, 5),
    (Phase::Search, 30),
    (Phase::Release, 1),
    (Phase::Relocate, 62),
    (Phase::Truncate, 1),
];
const COMPACT_VERIFIED: &[Share] = &[
    (Phase::Map, 3),
    (Phase::Search, 17),
    (Phase::VerifyBefore, 22),
    (Phase::Release, 1),
    (Phase::Relocate, 33),
    (Phase::Truncate, 1),
    (Phase::VerifyAfter, 22),
];
const CONVERT: &[Share] = &[
    (Phase::Map, 5),
    (Phase::Copy, 60),
    (Phase::VerifyBefore, 0),
    (Phase::VerifyAfter, 34),
];
const MERGE: &[Share] =
    &[(Phase::VerifyBefore, 20), (Phase::Merge, 60), (Phase::VerifyAfter, 19)];

/// An image file as a hard disk of a [`Host`].
///
/// A cheap handle: it holds a path, and the file is opened for each thing that is
/// asked of it, so that nobody is kept from it meanwhile.
#[derive(Clone)]
pub struct HardDisk {
    host: Host,
    path: Arc<PathBuf>,
}

impl HardDisk {
    pub(super) fn new(host: Host, path: PathBuf) -> Self {
        HardDisk { host, path: Arc::new(path) }
    }

    /// The file's full path.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.path
    }

    /// How the image stores the disk.
    ///
    /// # Errors
    ///
    /// Those of [`HostFile::open_read`], and [`Kind::InvalidImage`].
    pub fn image_type(&self) -> Result<ImageType> {
        Ok(self.facts()?.image_type)
    }

    /// The size of the guest's disk in bytes.
    ///
    /// # Errors
    ///
    /// As [`image_type`](HardDisk::image_type).
    pub fn size_in_guest(&self) -> Result<u64> {
        Ok(self.facts()?.virtual_size)
    }

    /// The length of the file in bytes.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] and the like.
    pub fn size_on_host(&self) -> Result<u64> {
        files::must_exist(&self.path)?;
        let metadata = std::fs::metadata(&*self.path).map_err(|e| {
            Error::io("cannot ask for the file's length", e).in_file(&*self.path)
        })?;
        Ok(metadata.len())
    }

    /// Bytes that this user may still write to the volume the file lies on.
    ///
    /// # Errors
    ///
    /// [`Kind::PathNotFound`] and the like.
    pub fn host_free_space(&self) -> Result<u64> {
        free_space(&self.path)
    }

    /// What the image says of itself.
    ///
    /// # Errors
    ///
    /// As [`image_type`](HardDisk::image_type).
    pub fn facts(&self) -> Result<Facts> {
        // A look at the file would break the lease of whoever works on it.
        match self.host.0.busy.facts(&self.path) {
            Some(known) => known,
            None => Ok(self.opened()?.1.facts()),
        }
    }

    fn opened(&self) -> Result<(Arc<HostFile>, Box<dyn Image>)> {
        let file = Arc::new(HostFile::open_read(&self.path)?);
        let image = image::open(file.clone()).map_err(|e| e.in_file(&*self.path))?;
        Ok((file, image))
    }

    /// The parent of a differencing disk; `None` for another one.
    ///
    /// # Errors
    ///
    /// [`Kind::ParentNotFound`], [`Kind::ParentMismatch`], and those of
    /// [`image_type`](HardDisk::image_type).
    pub fn parent(&self) -> Result<Option<HardDisk>> {
        let chain = self.chain()?;
        Ok(chain.into_iter().next().map(|own| HardDisk::new(self.host.clone(), own.path)))
    }

    /// All parents, the disk's own first.
    ///
    /// # Errors
    ///
    /// As [`parent`](HardDisk::parent).
    pub fn chain(&self) -> Result<Vec<Parent>> {
        self.chain_by(self.lookup())
    }

    fn chain_by(&self, lookup: &ParentLookup) -> Result<Vec<Parent>> {
        if let Some(known) = self.host.0.busy.facts(&self.path) {
            return match known?.image_type {
                ImageType::Differencing => Err(in_use(&self.path)),
                _ => Ok(Vec::new()),
            };
        }
        let (file, mut image) = self.opened()?;
        let chain = parent::open_parents(&mut *image, file.path(), lookup)?;
        Ok(chain.parents().to_vec())
    }

    fn lookup(&self) -> &ParentLookup {
        &self.host.0.parents
    }

    /// Has the differencing disk name `parent` as its parent from now on: the same disk
    /// in another place.
    ///
    /// # Errors
    ///
    /// [`Kind::ParentMismatch`] if it is another disk, [`Kind::WrongImageType`] unless
    /// this is a differencing one, [`Kind::InUse`] and [`Kind::ShuttingDown`].
    pub fn set_parent(&self, parent: &HardDisk) -> Result<()> {
        let _claim =
            self.host.claim(vec![Use::alone(&self.path), Use::shared(&parent.path)])?;
        relink(&self.path, &parent.path)
    }

    /// Compacts the disk as the Virtual Server method does, which knows dynamic disks
    /// alone. All that can be found is given up: free space, and zeros anywhere.
    ///
    /// # Errors
    ///
    /// [`Kind::WrongImageType`] for a fixed or differencing disk, and those of
    /// [`compact_with`](HardDisk::compact_with).
    pub fn compact(&self) -> Result<Task> {
        let options = CompactOptions { mode: Mode::Full, ..CompactOptions::default() };
        self.start_compacting(options, true)
    }

    /// Compacts the disk, a differencing one too, as `options` say. Where parents may be
    /// looked for, the host knows as well.
    ///
    /// # Errors
    ///
    /// What can be told at once: [`Kind::InvalidImage`], [`Kind::WrongImageType`],
    /// [`Kind::InUse`], [`Kind::ReadOnly`], [`Kind::ShuttingDown`], and those of
    /// [`HostFile::open_exclusive`]. What comes later, the task tells.
    pub fn compact_with(&self, options: &CompactOptions) -> Result<Task> {
        let mut options = options.clone();
        self.add_lookup(&mut options.parents);
        self.start_compacting(options, false)
    }

    fn start_compacting(&self, options: CompactOptions, strict: bool) -> Result<Task> {
        let claim = self.host.claim(vec![Use::alone(&self.path)])?;
        let file = Arc::new(HostFile::open_exclusive(&self.path)?);
        let in_file = |e: Error| e.in_file(&*self.path);
        let mut image = image::open(file.clone()).map_err(in_file)?;
        compact::can_orphan(&*image, &options).map_err(in_file)?;
        if image.facts().image_type == ImageType::Differencing {
            if strict {
                let what = "a differencing disk; only a dynamic one can be compacted";
                return Err(in_file(Error::new(Kind::WrongImageType, what)));
            }
            image.settled().map_err(in_file)?;
            claim_parents(&claim, &mut *image, file.path(), &options.parents)?;
        }
        image.compactable().map_err(in_file)?;
        claim.tell(&self.path, &image.facts());
        drop((image, file));
        let shares = if options.verify { COMPACT_VERIFIED } else { COMPACT };
        let path = self.path.clone();
        self.host.start(self.describe("Compact"), shares, claim, move |hook| {
            let report = compact::compact(&path, &options, hook);
            let cancelled = report.outcome == Outcome::Cancelled;
            ended(cancelled, report.cause.clone(), &report)
        })
    }

    /// What [`compact_with`](HardDisk::compact_with) would do. Writes nothing.
    ///
    /// # Errors
    ///
    /// [`Kind::ShuttingDown`], [`Kind::InUse`] while a task of the host works on the
    /// image; what else goes wrong, the report says.
    pub fn plan(&self, options: &CompactOptions) -> Result<compact::Report> {
        let mut options = options.clone();
        self.add_lookup(&mut options.parents);
        let _claim = self.host.claim(vec![Use::shared(&self.path)])?;
        let on = &mut |_| std::ops::ControlFlow::Continue(());
        Ok(compact::plan_disk(&self.path, &options, on))
    }

    /// Copies the guest's disk, through all parents, into a new dynamic or fixed image.
    /// The source is left as it is.
    ///
    /// # Errors
    ///
    /// [`Kind::WrongImageType`] for another type; those of [`Host::open`] for the new
    /// path; [`Kind::AlreadyExists`], [`Kind::DiskFull`] where that can be known, and
    /// what keeps the source or a parent from being read.
    pub fn convert(&self, target: &Path, image_type: ImageType) -> Result<Task> {
        self.convert_with(target, &ConvertOptions::new(image_type))
    }

    /// The same as `options` say.
    ///
    /// # Errors
    ///
    /// As [`convert`](HardDisk::convert).
    pub fn convert_with(&self, target: &Path, options: &ConvertOptions) -> Result<Task> {
        path::check(target)?;
        let mut options = options.clone();
        self.add_lookup(&mut options.parents);
        let claim = self.host.claim(vec![Use::shared(&self.path), Use::alone(target)])?;
        self.claim_all_parents(&claim, &options.parents)?;
        let conversion = Conversion::prepare(&self.path, target, &options)?;
        let verb = if options.whole_chain { "Merge" } else { "Convert" };
        let description = format!("{} to {}", self.describe(verb), target.display());
        self.host.start(description, CONVERT, claim, move |hook| {
            let report = conversion.run(hook);
            ended(
                report.outcome == ConvertOutcome::Cancelled,
                report.cause.clone(),
                &report,
            )
        })
    }

    /// Merges a whole chain into a new dynamic or fixed image: [`convert`](HardDisk::convert)
    /// for a differencing disk alone.
    ///
    /// # Errors
    ///
    /// [`Kind::WrongImageType`] unless the disk is a differencing one, and those of
    /// [`convert`](HardDisk::convert).
    pub fn merge_to(&self, target: &Path, image_type: ImageType) -> Result<Task> {
        let mut options = ConvertOptions::new(image_type);
        options.whole_chain = true;
        self.convert_with(target, &options)
    }

    /// Merges a differencing disk into its parent. The disk itself stays as it is, and
    /// reads the same at every instant.
    ///
    /// # Errors
    ///
    /// [`Kind::WrongImageType`] unless the disk is a differencing one; [`Kind::InUse`] if
    /// it or its parent is in use, in a saved state, or the parent has other children
    /// beside it; [`Kind::ReadOnly`], [`Kind::ParentNotFound`],
    /// [`Kind::ParentMismatch`], [`Kind::DiskFull`], [`Kind::ShuttingDown`].
    pub fn merge(&self) -> Result<Task> {
        self.merge_with(&MergeOptions::default())
    }

    /// The same as `options` say.
    ///
    /// # Errors
    ///
    /// As [`merge`](HardDisk::merge).
    pub fn merge_with(&self, options: &MergeOptions) -> Result<Task> {
        let mut options = options.clone();
        self.add_lookup(&mut options.parents);
        let claim = self.host.claim(vec![Use::shared(&self.path)])?;
        let (parents, trouble) = match self.chain_by(&options.parents) {
            Ok(parents) => (parents, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        let uses = parents.iter().enumerate().map(|(number, parent)| match number {
            0 => Use::alone(&parent.path),
            _ => Use::shared(&parent.path),
        });
        claim.extend(uses.collect())?;
        // It knows better what is in the way of a merge.
        let merging = Merging::prepare(&self.path, &options)?;
        if let Some(trouble) = trouble {
            return Err(trouble);
        }
        let into = merging.parent().display().to_string();
        let description = format!("{} into {into}", self.describe("Merge"));
        self.host.start(description, MERGE, claim, move |hook| {
            let report = merging.run(hook);
            ended(
                report.outcome == MergeOutcome::Cancelled,
                report.cause.clone(),
                &report,
            )
        })
    }

    fn describe(&self, verb: &str) -> String {
        format!("{verb} {}", self.path.display())
    }

    fn add_lookup(&self, lookup: &mut ParentLookup) {
        lookup.dirs.extend(self.lookup().dirs.iter().cloned());
        lookup.follow |= self.lookup().follow;
    }

    fn claim_all_parents(&self, claim: &Claim, lookup: &ParentLookup) -> Result<()> {
        let (file, mut image) = self.opened()?;
        claim_parents(claim, &mut *image, file.path(), lookup)
    }
}

/// Claims the parents of the image at `path` for reading.
fn claim_parents(
    claim: &Claim,
    image: &mut dyn Image,
    path: &Path,
    lookup: &ParentLookup,
) -> Result<()> {
    let chain = parent::open_parents(image, path, lookup)?;
    claim.extend(chain.parents().iter().map(|p| Use::shared(&p.path)).collect())
}

impl fmt::Debug for HardDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HardDisk").field(&self.path).finish()
    }
}
