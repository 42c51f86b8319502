//! `$LogFile`: whether Windows wrote everything out before it let the volume go.
//!
//! The log begins with two restart pages, one system page apart, which are alike
//! after a clean dismount. Source: ntfs-3g `logfile.c` and `logfile.h`.

use super::file::{Clusters, Stream};
use super::fixups;
use super::layout::{RestartArea, RestartPage, parse};
use super::mft::Disk;
use crate::error::{Error, Result};

/// Covers both restart pages for every page size in use (4 KiB; 8 KiB on
/// Itanium).
const HEAD: u64 = 64 << 10;

/// In `clients_in_use`: the log is closed.
const NO_CLIENT: u16 = 0xFFFF;

/// In the restart area's flags; Windows since XP leaves its log open and sets
/// this when it dismounts the volume.
const VOLUME_IS_CLEAN: u16 = 0x0002;

/// Why `$Bitmap` cannot be trusted after a look at the log; `None` if it can.
pub(super) fn unclean(disk: &Disk<'_>, log: &Stream) -> Result<Option<String>> {
    let clusters = log
        .clusters()
        .filter(|clusters| clusters.size >= HEAD && !clusters.runs.has_holes())
        .ok_or_else(|| Error::invalid("$LogFile is too small or has holes"))?;
    let mut head = vec![0; usize::try_from(HEAD).unwrap_or(0)];
    disk.read_value(clusters, 0, &mut head)?;
    if head.iter().all(|byte| *byte == 0xFF) {
        let whole = emptied(disk, clusters)?;
        return Ok((!whole)
            .then(|| format!("NTFS $LogFile is emptied only in part: {BOOT_WINDOWS}")));
    }
    let damaged =
        |what: &str| format!("NTFS $LogFile: the restart page {what}: {BOOT_WINDOWS}");
    let first = match Restart::read(&head, 0) {
        Ok(page) => page,
        Err(what) => return Ok(Some(damaged(what))),
    };
    let second = match Restart::read(&head, first.page_size) {
        Ok(page) => page,
        Err(what) => return Ok(Some(damaged(what))),
    };
    let newest = first.lsn.max(second.lsn);
    for page in [first, second] {
        if page.lsn != newest {
            continue;
        }
        match page.version {
            (1, 1) => {}
            (2, 0) => {
                return Ok(Some(
                    "NTFS volume is in Windows' cache (fast startup, or unplugged \
                     without ejecting): start Windows and shut it down fully (shutdown \
                     /s /t 0)"
                        .into(),
                ));
            }
            (major, minor) => {
                return Ok(Some(format!(
                    "NTFS $LogFile has the unknown version {major}.{minor}: \
                     {BOOT_WINDOWS}"
                )));
            }
        }
        if !page.clean {
            return Ok(Some(format!(
                "NTFS $LogFile was not closed cleanly: {BOOT_WINDOWS}"
            )));
        }
    }
    Ok(None)
}

const BOOT_WINDOWS: &str = "start Windows and shut it down fully";

/// Whether a log that begins empty is so at each power of two as well, which is
/// where ntfs-3g looks.
fn emptied(disk: &Disk<'_>, clusters: &Clusters) -> Result<bool> {
    let mut at = HEAD;
    while at + 512 <= clusters.size {
        let mut sector = [0; 512];
        disk.read_value(clusters, at, &mut sector)?;
        if sector.iter().any(|byte| *byte != 0xFF) {
            return Ok(false);
        }
        at *= 2;
    }
    Ok(true)
}

/// A restart page, checked.
struct Restart {
    page_size: usize,
    version: (u16, u16),
    lsn: u64,
    clean: bool,
}

impl Restart {
    /// The page at `offset` of the log's head.
    fn read(head: &[u8], offset: usize) -> Result<Self, &'static str> {
        let header: RestartPage = parse(head, offset).ok_or("is missing")?;
        let by_chkdsk = match &header.header.magic {
            b"RSTR" => false,
            b"CHKD" => true,
            _ => return Err("has no signature"),
        };
        let page_size = header.system_page_size.get() as usize;
        if !page_size.is_power_of_two()
            || page_size < 512
            || (offset != 0 && offset != page_size)
        {
            return Err("gives an impossible page size");
        }
        let mut page = head
            .get(offset..)
            .and_then(|page| page.get(..page_size))
            .ok_or("gives an impossible page size")?
            .to_vec();
        // chkdsk may leave its pages without an update sequence.
        if !by_chkdsk || header.header.sequence_count.get() != 0 {
            fixups::apply(&mut page)?;
        }
        let area: RestartArea =
            parse(&page, usize::from(header.restart_area_offset.get()))
                .ok_or("has its restart area outside")?;
        let clients = area.log_clients.get();
        let in_use = area.clients_in_use.get();
        if in_use != NO_CLIENT && in_use >= clients {
            return Err("has an impossible list of clients");
        }
        Ok(Restart {
            page_size,
            version: (header.major_version.get(), header.minor_version.get()),
            lsn: if by_chkdsk { header.chkdsk_lsn.get() } else { area.current_lsn.get() },
            clean: in_use == NO_CLIENT || area.flags.get() & VOLUME_IS_CLEAN != 0,
        })
    }
}
