//! `pagefile.sys` and `swapfile.sys`: memory that Windows put aside, of no use to
//! anybody once it has been shut down.
//!
//! The clusters stay the files' own; only what is in them may go. Not so if the file
//! begins like a crash dump, which the next start of Windows is to save from there.
//!
//! Source: Windows Internals, 7th edition, chapter 5 ("Page files") and chapter 15 of
//! its 6th edition ("Crash dump generation").

use std::ops::Range;

use super::file::{Content, File, MAX_RUNS};
use super::index;
use super::layout::{
    ATTRIBUTE_COMPRESSED, ATTRIBUTE_ENCRYPTED, ATTRIBUTE_SPARSE, DATA, FILE_NAME,
};
use super::mft::Mft;
use crate::error::{Error, Result};

const NAMES: [&str; 2] = ["PAGEFILE.SYS", "SWAPFILE.SYS"];

/// What a dump in the page file begins with ("PAGEDUMP", "PAGEDU64").
const DUMP: &[u8; 6] = b"PAGEDU";

/// `$REPARSE_POINT`.
const REPARSE_POINT: u32 = 0xC0;

/// The clusters of the page files.
#[derive(Default)]
pub(super) struct PageFiles {
    /// Sorted, without overlaps.
    pub(super) clusters: Vec<Range<u64>>,
    /// The numbers of their file records.
    pub(super) files: Vec<u64>,
}

impl PageFiles {
    /// Finds the page files in the root directory. A file of that name that Windows
    /// would not have written is an ordinary one.
    pub(super) fn find(mft: &Mft<'_>, root: &File) -> Result<Self> {
        let mut found = PageFiles::default();
        for wanted in NAMES {
            let entries =
                index::search(mft.disk, root, &|name| index::compare(name, wanted))?;
            // Names that differ in case alone are none that Windows wrote.
            if let [entry] = entries.as_slice() {
                let file = mft.file(entry.file)?;
                found.add(mft, &file)?;
            }
        }
        found.clusters.sort_unstable_by_key(|range| range.start);
        let pairs = found.clusters.iter().zip(found.clusters.iter().skip(1));
        for (one, next) in pairs {
            if next.start < one.end {
                return Err(Error::invalid(format!(
                    "the page files use cluster {} twice",
                    next.start
                )));
            }
        }
        Ok(found)
    }

    fn add(&mut self, mft: &Mft<'_>, file: &File) -> Result<()> {
        const ODD: u16 = ATTRIBUTE_COMPRESSED | ATTRIBUTE_ENCRYPTED | ATTRIBUTE_SPARSE;
        // With another name it may be anything.
        let names = file.streams.iter().filter(|stream| stream.kind == FILE_NAME).count();
        let odd = file.streams.iter().any(|stream| stream.kind == REPARSE_POINT);
        if names != 1 || odd || self.files.contains(&file.number) {
            return Ok(());
        }
        let Some(data) = file.stream(DATA, b"").filter(|data| data.flags & ODD == 0)
        else {
            return Ok(());
        };
        let Content::NonResident(clusters) = &data.content else { return Ok(()) };
        if clusters.runs.has_holes() || clusters.size < DUMP.len() as u64 {
            return Ok(());
        }
        let mut head = [0; DUMP.len()];
        mft.disk.read_value(clusters, 0, &mut head)?;
        if head == *DUMP {
            return Ok(());
        }
        if self.clusters.len() + clusters.runs.count() > MAX_RUNS {
            return Err(Error::invalid("the page files are in too many pieces"));
        }
        self.files.push(file.number);
        let lcns = clusters.runs.iter().filter_map(|run| Some((run.lcn?, run.length)));
        self.clusters.extend(lcns.map(|(lcn, length)| lcn..lcn + length));
        Ok(())
    }

    /// How many clusters there are.
    pub(super) fn count(&self) -> u64 {
        self.clusters.iter().map(|range| range.end - range.start).sum()
    }
}

/// Merges the page files' clusters into the free ranges of `$Bitmap`, which come in
/// ascending order; what touches is joined.
pub(super) struct Merged<'a, F> {
    more: std::iter::Peekable<std::slice::Iter<'a, Range<u64>>>,
    pending: Option<Range<u64>>,
    send: F,
}

impl<'a, F: FnMut(Range<u64>)> Merged<'a, F> {
    pub(super) fn new(more: &'a [Range<u64>], send: F) -> Self {
        Merged { more: more.iter().peekable(), pending: None, send }
    }

    /// Takes the next free range of `$Bitmap`, which must share no cluster with a page
    /// file.
    pub(super) fn push(&mut self, range: Range<u64>) -> Result<()> {
        while let Some(page_file) = self.more.next_if(|r| r.start < range.end) {
            if page_file.end > range.start {
                return Err(Error::invalid(format!(
                    "$Bitmap calls cluster {} free, which a page file uses",
                    page_file.start.max(range.start)
                )));
            }
            self.join(page_file.clone());
        }
        self.join(range);
        Ok(())
    }

    pub(super) fn finish(mut self) {
        while let Some(range) = self.more.next() {
            self.join(range.clone());
        }
        if let Some(last) = self.pending.take() {
            (self.send)(last);
        }
    }

    fn join(&mut self, range: Range<u64>) {
        match &mut self.pending {
            Some(last) if last.end == range.start => last.end = range.end,
            pending => {
                if let Some(done) = pending.replace(range) {
                    (self.send)(done);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(free: &[Range<u64>], more: &[Range<u64>]) -> Option<Vec<Range<u64>>> {
        let mut sent = Vec::new();
        let mut merged = Merged::new(more, |range| sent.push(range));
        for range in free {
            merged.push(range.clone()).ok()?;
        }
        merged.finish();
        Some(sent)
    }

    #[test]
    fn what_touches_is_joined_and_what_overlaps_is_refused() {
        let free = [10..20, 30..40];
        assert_eq!(merged(&free, &[]).unwrap(), free);
        assert_eq!(merged(&[], &free).unwrap(), free);
        assert_eq!(merged(&free, &[20..30, 50..60]).unwrap(), [10..40, 50..60]);
        assert_eq!(
            merged(&free, &[0..5, 22..24]).unwrap(),
            [0..5, 10..20, 22..24, 30..40]
        );
        assert_eq!(merged(&free, &[0..10, 40..41]).unwrap(), [0..20, 30..41]);
        for overlap in [9..11, 19..21, 12..13, 0..100, 10..20, 39..40] {
            assert_eq!(merged(&free, &[overlap]), None);
        }
    }
}
