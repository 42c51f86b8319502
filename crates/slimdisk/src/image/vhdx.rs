//! VHDX: the format of Hyper-V, WSL 2 and Docker Desktop.
//!
//! ```text
//! identifier | header | header | region table | region table      the first MiB
//! log | metadata | block allocation table | block | block | ...   whole MiB, any order
//! ```
//!
//! Source: [MS-VHDX] v20240423, and what real writers do differently: disk2vhd writes
//! two headers with the same number and files that are not whole MiB, old qemu cuts the
//! last block short.

mod bat;
mod disk;
mod header;
mod inspect;
mod log;
mod metadata;
mod new;
mod new_bat;
mod new_locator;
mod new_structures;
mod parent_locator;
mod raw;
mod region;
mod rules;

use std::ops::RangeInclusive;
use std::sync::Arc;

use self::disk::VhdxDisk;
use self::header::Headers;
use self::inspect::inspect;
use self::parent_locator::Locator;
use self::raw::{FILE_SIGNATURE, NO_GUID};
use self::rules::{Findings, is_sound, note};
use super::new::unique_id;
use super::{Finding, Format, Image, NewImage, Severity, Writer};
use crate::error::{Error, Result};
use crate::storage::{ReadAt, Storage};

/// The VHDX format.
pub struct Vhdx;

impl Format for Vhdx {
    fn name(&self) -> &'static str {
        "vhdx"
    }

    fn detect(&self, file: &dyn ReadAt) -> Result<bool> {
        let mut signature = [0; 8];
        if file.len() < 8 {
            return Ok(false);
        }
        file.read_at(0, &mut signature)?;
        Ok(signature == FILE_SIGNATURE)
    }

    fn open(&self, file: Arc<dyn Storage>) -> Result<Box<dyn Image>> {
        let mut findings = Findings::new();
        let found = inspect(&file, &mut findings)?;
        if let Some(finding) = findings.iter().find(|f| f.severity == Severity::Error) {
            let Finding { structure, expected, actual, offset, .. } = finding;
            return Err(Error::invalid(format!(
                "not a sound VHDX: {structure}: expected {expected}, found {actual}"
            ))
            .at(*offset));
        }
        let structures = found.ok_or_else(|| Error::invalid("not a sound VHDX"))?;
        let notes = findings.iter().map(ToString::to_string).collect();
        Ok(Box::new(VhdxDisk::new(file, structures, notes)))
    }

    fn check(&self, file: &dyn ReadAt) -> Result<Vec<Finding>> {
        let mut findings = Findings::new();
        if let Some(structures) = inspect(file, &mut findings)? {
            for found in structures.notes {
                let at = structures.ring.offset;
                note(&mut findings, "log", at, "a file that was closed in order", found);
            }
        }
        Ok(findings)
    }

    fn repair(&self, file: &dyn Storage) -> Result<Vec<String>> {
        let mut findings = Findings::new();
        let structures = inspect(file, &mut findings)?.filter(|_| is_sound(&findings));
        let Some(mut structures) = structures else {
            return Err(Error::invalid(
                "the image has damage that no copy can mend; nothing was repaired (a \
                 damaged header or region table is all that can be, and a log that was \
                 not replayed)",
            ));
        };
        let header = findings
            .iter()
            .find(|f| f.severity == Severity::Damaged && f.structure.contains("header"));
        let mut mended = Vec::new();
        if let Some(header) = header {
            mended.push(format!("the {} was written anew", header.structure));
        }
        if structures.headers.has_log() {
            mended.push("the log was replayed".to_owned());
        }
        let table = structures.regions.to_mend.is_some();
        if table {
            mended.push("a region table was written anew from its copy".to_owned());
        }
        if !mended.is_empty() {
            structures.put_in_order(file, false)?;
        }
        Ok(mended)
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["vhdx", "avhdx"]
    }

    fn limits(&self) -> RangeInclusive<u64> {
        new::SIZES
    }

    fn check_new(&self, image: &NewImage) -> Result<()> {
        new::check(image)
    }

    fn block_size(&self, image: &NewImage) -> u64 {
        new::block_size(image)
    }

    fn smaller_blocks(&self) -> &'static [u64] {
        &[1 << 20, 2 << 20]
    }

    fn file_len(&self, image: &NewImage, blocks: u64) -> u64 {
        new::file_len(image, blocks)
    }

    fn max_len(&self, image: &NewImage) -> u64 {
        new::max_len(image)
    }

    fn create(
        &self,
        file: Arc<dyn Storage>,
        image: &NewImage,
    ) -> Result<Box<dyn Writer>> {
        new::create(file, image)
    }

    fn identity_follows_content(&self) -> bool {
        true
    }

    fn parent_ids(&self, file: &dyn ReadAt) -> Vec<[u8; 16]> {
        locator(file).map_or(Vec::new(), |locator| locator.link().ids().collect())
    }
}

/// The parent locator, if the file is a differencing image that is sound as far as the
/// way to it leads.
fn locator(file: &dyn ReadAt) -> Option<Locator> {
    let mut findings = Findings::new();
    if !Vhdx.detect(file).ok()? {
        return None;
    }
    let headers = Headers::read(file, &mut findings).ok()??;
    let mut overlay = log::overlay::Overlay::default();
    if headers.has_log() {
        let ring = inspect::ring(file, &headers, &mut findings)?;
        let guid = &headers.current.log_guid;
        overlay = log::replay(file, ring, guid, &mut findings).ok()??.overlay;
    }
    let seen = log::overlay::Replayed { file, overlay: &overlay };
    let regions = region::Regions::read(&seen, &mut findings).ok()??;
    let metadata =
        metadata::Metadata::read(&seen, &regions.metadata, &mut findings).ok()??;
    let item = metadata.locator?;
    Locator::read(&seen, &item, &mut findings).ok()?
}

impl inspect::Structures {
    /// What comes before the first change of anything else: the headers say that the
    /// file is another one now (and, with `content`, the disk as well), what the log has
    /// is written to where it belongs, and the log is called empty. Durable when it
    /// returns.
    fn put_in_order(&mut self, file: &dyn Storage, content: bool) -> Result<()> {
        let id = new_guid();
        self.headers.update(file, |header| {
            header.file_write_guid = id;
            if content {
                header.data_write_guid = new_guid();
            }
        })?;
        if self.headers.has_log() {
            // Until this is flushed the log stays what it was: it can be replayed again.
            self.overlay.write(file)?;
            self.headers.update(file, |header| header.log_guid = NO_GUID)?;
            self.overlay = log::overlay::Overlay::default();
        }
        self.regions.mend(file)?;
        Ok(())
    }
}

/// An identifier that nobody else has, as it lies in the file.
fn new_guid() -> raw::Guid {
    raw::in_text_order(&unique_id())
}
