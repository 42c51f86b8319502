//! VHD: the format of Virtual PC, Virtual Server and early Hyper-V.
//!
//! ```text
//! copy of the footer | dynamic header | block allocation table | (batmap)
//! bitmap + block | bitmap + block | ... | footer
//! ```
//!
//! Source: Virtual Hard Disk Image Format Specification 1.0 (Microsoft, October
//! 2006), and what real writers do differently: places are taken from the table
//! alone, for Windows lays blocks 4104 sectors apart, qemu 4097, and old files
//! have gaps.

mod batmap;
mod fixed;
mod inspect;
mod new;
mod new_locators;
mod parent_locator;
mod raw;
mod rules;
mod sector_bitmap;
mod sparse;
mod table;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use zerocopy::IntoBytes;

use self::fixed::FixedVhd;
use self::inspect::{Sparse, Structures, inspect, read_trailing};
use self::raw::{
    DISK_TYPE_DIFFERENCING, DynamicHeader, FOOTER_COOKIE, FOOTER_LEN, Footer,
    HEADER_COOKIE, POISON_COOKIE, SECTOR,
};
use self::sparse::SparseVhd;
use super::parent::id_text;
use super::{
    Facts, Finding, Format, Geometry, Image, ImageType, NewImage, Severity, Writer,
    wrong_type,
};
use crate::error::{Error, Result};
use crate::storage::{ReadAt, Storage, read_struct};

/// The VHD format.
pub struct Vhd;

/// Windows 8 and later, and xen, keep data and the end of the file on multiples
/// of this.
const ALIGNMENT: u64 = 4096;

/// When the clock of a VHD began: 1 January 2000, 0:00 UTC.
const EPOCH: Duration = Duration::from_secs(946_684_800);

impl Format for Vhd {
    fn name(&self) -> &'static str {
        "vhd"
    }

    fn detect(&self, file: &dyn ReadAt) -> Result<bool> {
        let len = file.len();
        for offset in [Some(0), len.checked_sub(512), len.checked_sub(511)] {
            let mut cookie = [0; 8];
            if let Some(offset) = offset
                && len >= 512
            {
                file.read_at(offset, &mut cookie)?;
                if cookie == FOOTER_COOKIE || cookie == POISON_COOKIE {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn open(&self, file: Arc<dyn Storage>) -> Result<Box<dyn Image>> {
        let mut findings = Vec::new();
        let found = inspect(&file, &mut findings)?;
        if let Some(finding) = findings.iter().find(|f| f.severity == Severity::Error) {
            let Finding { structure, expected, actual, offset, .. } = finding;
            return Err(Error::invalid(format!(
                "not a sound VHD: {structure}: expected {expected}, found {actual}"
            ))
            .at(*offset));
        }
        let mut structures = found.ok_or_else(|| Error::invalid("not a sound VHD"))?;
        let notes = findings.iter().map(ToString::to_string).collect();
        let footer = structures.footer;
        Ok(match structures.sparse.take() {
            None => {
                let size = footer.current_size.get();
                Box::new(FixedVhd { file, footer, size, notes })
            }
            Some(sparse) => Box::new(SparseVhd::new(file, &structures, sparse, notes)),
        })
    }

    fn check(&self, file: &dyn ReadAt) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        let found = inspect(file, &mut findings)?;
        if findings.iter().all(|f| f.severity != Severity::Error)
            && let Some(Structures { sparse: Some(sparse), footer, .. }) = found
            && footer.disk_type.get() != DISK_TYPE_DIFFERENCING
        {
            sector_bitmap::check(file, &sparse, &mut findings)?;
        }
        Ok(findings)
    }

    fn repair(&self, file: &dyn Storage) -> Result<Vec<String>> {
        let mut findings = Vec::new();
        let found = inspect(file, &mut findings)?;
        if findings.iter().any(|f| f.severity == Severity::Error) {
            return Err(Error::invalid(
                "the image has damage that no copy can mend; nothing was repaired \
                 (a damaged footer or its damaged copy is all that can be)",
            ));
        }
        let Some(Structures { footer, trailing, leading, sparse: Some(sparse), .. }) =
            found
        else {
            return Ok(Vec::new());
        };
        let mut mended = Vec::new();
        if !leading {
            file.write_at(0, footer.as_bytes())?;
            file.flush()?;
            mended.push("the copy of the footer at the start was written anew from the one at the end".into());
        }
        if trailing.is_none() {
            let at = place_for_footer(&sparse, file.len());
            file.write_at(at, footer.as_bytes())?;
            file.flush()?;
            file.set_len(at + FOOTER_LEN)?;
            file.flush()?;
            mended.push(
                "the footer at the end was written anew from its copy at the start"
                    .into(),
            );
        }
        Ok(mended)
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["vhd", "avhd", "vud"]
    }

    fn parent_ids(&self, file: &dyn ReadAt) -> Vec<[u8; 16]> {
        let leading = read_struct::<Footer>(file, 0).ok();
        let trailing = read_trailing(file).ok().flatten().map(|(footer, _)| footer);
        let id = |footer: Footer| {
            if footer.disk_type.get() != DISK_TYPE_DIFFERENCING {
                return None;
            }
            let at = footer.data_offset.get();
            let header: DynamicHeader = read_struct(file, at).ok()?;
            (header.cookie == HEADER_COOKIE).then_some(header.parent_unique_id)
        };
        // Either may be the one that somebody goes by.
        let footers = [leading, trailing].into_iter().flatten().filter(Footer::is_sound);
        footers.filter_map(id).take(1).collect()
    }

    fn limits(&self) -> RangeInclusive<u64> {
        new::SIZES
    }

    fn check_new(&self, new: &NewImage) -> Result<()> {
        new::check(new)
    }

    fn block_size(&self, new: &NewImage) -> u64 {
        new::block_size(new)
    }

    fn smaller_blocks(&self) -> &'static [u64] {
        &[512 << 10]
    }

    fn file_len(&self, new: &NewImage, blocks: u64) -> u64 {
        new::file_len(new, blocks)
    }

    fn max_len(&self, new: &NewImage) -> u64 {
        new::max_len(new)
    }

    fn create(&self, file: Arc<dyn Storage>, new: &NewImage) -> Result<Box<dyn Writer>> {
        new::create(file, new)
    }
}

/// Where a lost trailing footer belongs: in the last whole sector if that is
/// behind all blocks, else behind it.
fn place_for_footer(sparse: &Sparse, len: u64) -> u64 {
    let last = sparse.table.allocated().map(|(_, place)| place).max();
    let data_end = last.map_or(0, |place| place + sparse.bitmap_len + sparse.block_size);
    let tables_end = sparse.named.iter().next_back().map_or(0, |range| range.end);
    let last_sector = len.next_multiple_of(SECTOR).saturating_sub(SECTOR);
    last_sector.max(data_end).max(tables_end)
}

/// The facts that both kinds share.
fn facts(
    footer: &Footer,
    image_type: ImageType,
    virtual_size: u64,
    notes: &[String],
) -> Facts {
    let version = footer.creator_version.get();
    let mut details = vec![
        (
            "creator",
            format!(
                "{} {}.{} on {}",
                footer.creator_application.escape_ascii(),
                version >> 16,
                version & 0xFFFF,
                footer.creator_host_os.escape_ascii()
            ),
        ),
        ("unique id", id_text(&footer.unique_id)),
        ("current size", format!("{} bytes", footer.current_size.get())),
        (
            "geometry",
            format!(
                "{} cylinders, {} heads, {} sectors per track",
                footer.cylinders.get(),
                footer.heads,
                footer.sectors_per_track
            ),
        ),
    ];
    if footer.saved_state != 0 {
        details.push(("saved state", "yes".into()));
    }
    Facts {
        format: "vhd",
        image_type,
        virtual_size,
        unique_id: Some(footer.unique_id),
        block_size: 0,
        blocks_total: 0,
        blocks_allocated: 0,
        details,
        notes: notes.to_vec(),
        parent: None,
        saved_state: footer.saved_state != 0,
        geometry: Some(Geometry {
            cylinders: footer.cylinders.get(),
            heads: footer.heads,
            sectors_per_track: footer.sectors_per_track,
        }),
    }
}

/// Fails for a disk that belongs to a machine in a saved state.
fn not_saved(footer: &Footer) -> Result<()> {
    if footer.saved_state != 0 {
        return Err(wrong_type(
            "the disk belongs to a virtual machine in a saved state: \
             restore the machine and shut it down, or discard the saved state",
        ));
    }
    Ok(())
}
