//! NTFS: free clusters from `$Bitmap`, and everything that makes it untrue.
//!
//! A clean NTFS volume's `$Bitmap` is current. It is not on a volume that was not
//! dismounted ([`logfile`], the flags in `$Volume`), that a sleeping Windows will
//! go on with ([`hibernation`]), or whose shadow copies live in free space
//! ([`shadow`]). NTFS has neither checksums nor a count of free clusters, so the
//! structures are held against each other instead ([`system`]).
//!
//! The backup boot sector lies past the last whole cluster (and may be missing);
//! what lies there is outside [`Findings::length`].
//!
//! Sources: the Linux-NTFS documentation, ntfs-3g's structure definitions, and
//! volumes made by Windows.

#![forbid(unsafe_code)]

mod bitmap;
mod boot;
mod file;
mod fixups;
mod hibernation;
mod index;
mod layout;
mod logfile;
mod mft;
mod page_file;
mod record;
mod runs;
mod shadow;
mod system;

use self::boot::Geometry;
use self::file::{Content, File};
use self::layout::{DATA, VOLUME_INFORMATION, VOLUME_NAME, VolumeInformation};
use self::mft::{Disk, Mft};
use self::page_file::PageFiles;
use self::system::SystemFiles;
use super::{Allowances, FileSystem, Findings, FreeSink};
use crate::error::{Error, Kind, Result};
use crate::storage::ReadAt;

/// The reader of NTFS volumes.
pub struct Ntfs;

/// The versions of NT 4, 2000 and XP to today.
const VERSIONS: [(u8, u8); 3] = [(1, 2), (3, 0), (3, 1)];

const DIRTY: u16 = 0x0001;
const CHKDSK_UNDERWAY: u16 = 0x4000;
/// Jobs that Windows does at the next mount: resize `$LogFile`, upgrade the
/// volume, delete the change journal.
const WORK_TO_DO: u16 = 0x0002 | 0x0004 | 0x0010;
/// Seen by an old Windows, object identifiers to be repaired, 0x80 of which no
/// more is known than that clean volumes of Windows 10 have it, and modified by
/// chkdsk: none of them concerns `$Bitmap`.
const HARMLESS: u16 = 0x0008 | 0x0020 | 0x0080 | 0x8000;

impl FileSystem for Ntfs {
    fn name(&self) -> &'static str {
        "ntfs"
    }

    fn probe(&self, volume: &dyn ReadAt) -> Result<bool> {
        let mut head = [0; 11];
        if volume.len() < 512 {
            return Ok(false);
        }
        volume.read_at(0, &mut head)?;
        Ok(head.ends_with(boot::OEM_ID))
    }

    fn read_free_map(
        &self,
        volume: &dyn ReadAt,
        allow: &Allowances,
        findings: &mut Findings,
        free: &mut FreeSink<'_>,
    ) -> Result<()> {
        // Until hiberfil.sys has been looked for.
        findings.hibernated = true;
        findings.untrusted = match examine(volume, *allow, free, findings) {
            Ok(reason) => reason,
            Err(error) if error.kind() == Kind::InvalidImage => Some(format!(
                "NTFS volume is damaged or of an unknown kind: {error}; run chkdsk on it \
                 in Windows"
            )),
            Err(error) => return Err(error),
        };
        Ok(())
    }
}

/// Fills in `findings` as far as it gets; gives the reason not to trust the
/// volume, if there is one.
fn examine(
    volume: &dyn ReadAt,
    allow: Allowances,
    free: &mut FreeSink<'_>,
    findings: &mut Findings,
) -> Result<Option<String>> {
    let geometry = Geometry::read(volume)?;
    findings.unit = geometry.cluster_size;
    findings.length = geometry.length().min(volume.len());
    if geometry.sectors_end > volume.len() {
        return Ok(Some(format!(
            "NTFS volume is truncated: it says it has {} bytes, but its partition has {}",
            geometry.sectors_end,
            volume.len()
        )));
    }
    let disk = Disk::new(volume, geometry);
    let mft = Mft::open(&disk)?;
    let state = State::read(&mft.file(system::VOLUME)?)?;
    findings.label.clone_from(&state.label);
    if let Some(reason) = state.unknown_version() {
        return Ok(Some(reason));
    }
    // A volume in use may well be damaged too: the state is the better advice.
    match unfit(&mft, &state, allow, &mut findings.hibernated) {
        Ok(None) => {}
        Ok(reason) => return Ok(reason),
        Err(error) if error.kind() == Kind::InvalidImage => {
            return state.dirty().map(Some).ok_or(error);
        }
        Err(error) => return Err(error),
    }
    let files = SystemFiles::read(&mft)?;
    files.compare_mirror(&mft)?;
    let page_files = PageFiles::find(&mft, files.get(system::ROOT)?)?;
    let occupied = files.clusters(&page_files)?;
    findings.swap_bytes = page_files.count() * findings.unit;
    let dropped = if allow.drop_swap { &*page_files.clusters } else { &[] };
    let bitmap = files
        .get(system::BITMAP)?
        .stream(DATA, b"")
        .ok_or_else(|| Error::invalid("$Bitmap has no data"))?;
    findings.free_bytes = bitmap::free_ranges(&disk, bitmap, &occupied, dropped, free)?;
    Ok(None)
}

/// Why the volume, sound or not, cannot be trusted; the most telling reason first.
fn unfit(
    mft: &Mft<'_>,
    state: &State,
    allow: Allowances,
    hibernated: &mut bool,
) -> Result<Option<String>> {
    let log = mft.file(system::LOG_FILE)?;
    let log =
        log.stream(DATA, b"").ok_or_else(|| Error::invalid("$LogFile has no data"))?;
    let open = state.dirty().or(logfile::unclean(mft.disk, log)?);
    let root = mft.file(system::ROOT).and_then(|root| {
        let sleeping = hibernation::sleeping(mft, &root)?;
        Ok((root, sleeping))
    });
    let root = match root {
        Ok((_, Some(sleeping))) => return Ok(Some(sleeping)),
        Ok((root, None)) => {
            *hibernated = false;
            root
        }
        // What was not closed may well look damaged: closing it comes first.
        Err(error) if error.kind() == Kind::InvalidImage && open.is_some() => {
            return Ok(open);
        }
        Err(error) => return Err(error),
    };
    if open.is_some() || allow.discard_shadow_copies {
        return Ok(open);
    }
    shadow::present(mft, &root)
}

/// What `$Volume` says of the volume.
struct State {
    label: Option<String>,
    version: (u8, u8),
    flags: u16,
}

impl State {
    fn read(volume: &File) -> Result<Self> {
        let value = |kind| match volume.stream(kind, b"").map(|stream| &stream.content) {
            Some(Content::Resident(value)) => Some(value),
            _ => None,
        };
        let information: VolumeInformation = value(VOLUME_INFORMATION)
            .and_then(|value| layout::parse(value, 0))
            .ok_or_else(|| Error::invalid("$Volume has no volume information"))?;
        let label = value(VOLUME_NAME).map(|name| {
            let units = name
                .chunks_exact(2)
                .filter_map(|unit| unit.first_chunk().map(|u| u16::from_le_bytes(*u)));
            String::from_utf16_lossy(&units.collect::<Vec<_>>())
        });
        Ok(State {
            label: label.filter(|label| !label.is_empty()),
            version: (information.major_version, information.minor_version),
            flags: information.flags.get(),
        })
    }

    fn unknown_version(&self) -> Option<String> {
        let (major, minor) = self.version;
        (!VERSIONS.contains(&self.version)).then(|| {
            format!(
                "NTFS version {major}.{minor} is unknown (known: 1.2, 3.0, 3.1): only its \
                 zeros can be given up"
            )
        })
    }

    /// Why the flags forbid to trust the volume.
    fn dirty(&self) -> Option<String> {
        let flags = self.flags;
        if flags & DIRTY != 0 {
            Some("NTFS volume is marked dirty: run chkdsk /f on it in Windows".into())
        } else if flags & CHKDSK_UNDERWAY != 0 {
            Some("NTFS volume is being checked: let chkdsk finish in Windows".into())
        } else if flags & WORK_TO_DO != 0 {
            Some(format!(
                "NTFS volume has work left for Windows (flags {flags:#06x}): start \
                 Windows and shut it down fully"
            ))
        } else if flags & !HARMLESS != 0 {
            Some(format!(
                "NTFS volume has unknown flags ({flags:#06x}): run chkdsk /f on it in \
                 Windows"
            ))
        } else {
            None
        }
    }
}
