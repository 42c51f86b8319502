//! Linux swap: pages that nobody needs once the system has been shut down.
//!
//! ```text
//! | first page: boot block (1 KiB), header, bad pages ... "SWAPSPACE2" | pages |
//! ```
//!
//! Nothing on disk says whether a page is in use; a system that is down has no use
//! for any, and one that sleeps has put another mark in place of this one
//! ([`signature`](super::signature) knows those). So the pages are free only where
//! the user allows it, and only while every volume of the disk was left in a clean
//! state, which is for the caller to see. The first page always stays.
//!
//! Source: Linux, `include/linux/swap.h` (`union swap_header`), `mm/swapfile.c`;
//! mkswap(8).

#![forbid(unsafe_code)]

use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Allowances, FileSystem, Findings, FreeSink, check_length};
use crate::error::{Error, Result};
use crate::storage::{ReadAt, read_struct};

/// The page sizes of all machines that Linux runs on. The mark lies at the end of the
/// first page.
const PAGE_SIZES: [u64; 5] = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10];

const MARK: &[u8; 10] = b"SWAPSPACE2";

/// Where the header begins; before it is room for a boot block.
const HEADER: u64 = 1024;

/// The header; a big-endian machine writes the numbers the other way round.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    version: U32,
    /// The number of the last page, counted from the first one, which is number 0.
    last_page: U32,
    bad_pages: U32,
    uuid: [u8; 16],
    label: [u8; 16],
}
const _: () = assert!(size_of::<Header>() == 44);

/// The reader of swap areas.
pub(super) struct Swap;

impl FileSystem for Swap {
    fn name(&self) -> &'static str {
        "swap"
    }

    fn probe(&self, volume: &dyn ReadAt) -> Result<bool> {
        Ok(!page_sizes(volume)?.is_empty())
    }

    fn read_free_map(
        &self,
        volume: &dyn ReadAt,
        allow: &Allowances,
        findings: &mut Findings,
        free: &mut FreeSink<'_>,
    ) -> Result<()> {
        findings.at_rest = None;
        read_pages(volume, findings)?;
        if allow.drop_swap {
            free(findings.unit..findings.length);
            findings.free_bytes = findings.swap_bytes;
        }
        Ok(())
    }
}

/// The page sizes for which the mark is in its place.
fn page_sizes(volume: &dyn ReadAt) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    for size in PAGE_SIZES.into_iter().filter(|size| *size <= volume.len()) {
        let mut mark = [0; MARK.len()];
        volume.read_at(size - MARK.len() as u64, &mut mark)?;
        if mark == *MARK {
            found.push(size);
        }
    }
    Ok(found)
}

fn read_pages(volume: &dyn ReadAt, findings: &mut Findings) -> Result<()> {
    let page = match page_sizes(volume)?[..] {
        [page] => page,
        [] => return Err(Error::invalid("the swap area has no mark")),
        _ => {
            return Err(Error::invalid(
                "the swap area has marks for several page sizes: make it anew with mkswap",
            ));
        }
    };
    findings.unit = page;
    let header: Header = read_struct(volume, HEADER)?;
    let (version, last_page, bad_pages) =
        (header.version.get(), header.last_page.get(), header.bad_pages.get());
    let (last_page, bad_pages) = match version {
        1 => (last_page, bad_pages),
        0x0100_0000 => (last_page.swap_bytes(), bad_pages.swap_bytes()),
        _ => {
            return Err(Error::invalid(format!(
                "the swap area has the unknown version {version}"
            ))
            .at(HEADER));
        }
    };
    let label = header.label.split(|byte| *byte == 0).next().unwrap_or_default();
    findings.label = Some(String::from_utf8_lossy(label).into_owned())
        .filter(|label| !label.is_empty());
    // The list of bad pages ends before the mark.
    let room = page - HEADER - 512 - MARK.len() as u64;
    if last_page == 0 || u64::from(bad_pages) > room / 4 || bad_pages >= last_page {
        return Err(Error::invalid(format!(
            "the swap area has an impossible header (last page {last_page}, {bad_pages} \
             bad pages): make it anew with mkswap"
        ))
        .at(HEADER));
    }
    let length = (u64::from(last_page) + 1) * page;
    findings.length = length.min(volume.len());
    check_length(length, volume)?;
    findings.swap_bytes = length - page;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A swap area of `pages` pages with this version, in either byte order.
    fn area(page: usize, pages: u32, big: bool) -> Vec<u8> {
        let mut bytes = vec![0; page * pages as usize + 100];
        let mut put = |at: usize, value: u32| {
            let value = if big { value.to_be_bytes() } else { value.to_le_bytes() };
            bytes[at..at + 4].copy_from_slice(&value);
        };
        put(1024, 1);
        put(1028, pages - 1);
        bytes[1052..1056].copy_from_slice(b"swap");
        bytes[page - 10..page].copy_from_slice(MARK);
        bytes
    }

    fn survey(bytes: &Vec<u8>, drop_swap: bool) -> (Findings, Vec<(u64, u64)>) {
        let mut free = Vec::new();
        let allow = Allowances { drop_swap, ..Allowances::default() };
        let found = Swap.survey(bytes, &allow, &mut |r| free.push((r.start, r.end)));
        (found.unwrap(), free)
    }

    #[test]
    fn all_but_the_first_page_goes_if_allowed() {
        for (page, big) in [(4096, false), (8192, true), (65536, false)] {
            let bytes = area(page, 10, big);
            assert!(Swap.probe(&bytes).unwrap());
            let (found, free) = survey(&bytes, false);
            assert_eq!((found.untrusted, found.free_bytes), (None, 0));
            assert_eq!(found.swap_bytes, 9 * page as u64);
            assert!(free.is_empty());
            let (found, free) = survey(&bytes, true);
            assert_eq!(found.label.as_deref(), Some("swap"));
            assert_eq!(found.length, 10 * page as u64);
            assert_eq!(found.free_bytes, found.swap_bytes);
            assert_eq!(free, [(page as u64, 10 * page as u64)]);
        }
    }

    #[test]
    fn a_header_that_cannot_be_frees_nothing() {
        let sound = area(4096, 10, false);
        let refused = |at: usize, with: &[u8], expected: &str| {
            let mut bytes = sound.clone();
            bytes[at..at + with.len()].copy_from_slice(with);
            let (found, free) = survey(&bytes, true);
            let reason = found.untrusted.unwrap();
            assert!(reason.contains(expected), "{reason}");
            assert!(free.is_empty());
        };
        refused(1024, &[2], "unknown version 2");
        refused(1028, &[0], "impossible header");
        refused(1028, &[10], "the volume was cut off");
        refused(1028, &[0xFF; 4], "the volume was cut off");
        refused(1032, &[9], "impossible header");
        refused(1033, &[9], "impossible header");
        refused(8182, MARK, "several page sizes");
        refused(4090, b"space", "has no mark");
        assert!(!Swap.probe(&vec![0; 4000]).unwrap());
    }
}
