//! Copying inside the host file, and sharing bytes with it.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use super::{HostFile, is_refusal, platform};
use crate::error::{Error, Kind, Result};
use crate::storage::{Copied, ReadAt, Storage, Transfer, past_the_end};

/// The most memory a copy through it takes, in bytes.
const COPY_BUFFER: u64 = 1 << 20;

/// Copies under way at once: one reads while another writes.
const COPIERS: usize = 2;

/// What is copied in smaller parts is left to the flush.
const WRITE_OUT_FROM: u64 = 64 << 10;

/// The host's memory caches files in pages of so many bytes, or more.
const PAGE: u64 = 4096;

/// How much of a hole is read at once.
const HOLE_PIECE: usize = 256 << 10;

impl HostFile {
    /// Shares `len` bytes with another place, if the file system can; all three
    /// in whole blocks.
    fn clone_range(&self, from: u64, to: u64, len: u64) -> Result<bool> {
        let clone = || platform::clone_range(&self.file, from, to, len);
        match self.clone_up_to(to + len, clone) {
            Ok(()) => Ok(true),
            Err(e) if is_refusal(&e) => {
                self.cloning_refused.store(true, Relaxed);
                Ok(false)
            }
            // To overwrite can still be possible where the file system has no
            // room to note what is shared.
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::StorageFull | ErrorKind::QuotaExceeded
                ) =>
            {
                Ok(false)
            }
            Err(e) => Err(self.error("cannot clone", e).at(from)),
        }
    }

    /// The unit in which bytes of `source` can be shared with this file, in bytes, which is
    /// empty and stays so; `None` if they cannot.
    pub(crate) fn sharing_unit(&self, source: &HostFile) -> Result<Option<u64>> {
        let unit = self.block_size.max(source.block_size);
        if unit == 0 || source.len() < unit || self.len() > 0 {
            return Ok(None);
        }
        let shares = self.share(source, 0, 0, unit)?;
        if shares {
            self.set_len(0)?;
        }
        Ok(shares.then_some(unit))
    }

    /// Shares `len` bytes at `from` of `source` with `to` of this file; all three in whole
    /// units. `false`, and nothing is changed, where the file system will not.
    pub(crate) fn share(
        &self,
        source: &HostFile,
        from: u64,
        to: u64,
        len: u64,
    ) -> Result<bool> {
        let end = self.end_of_write(to, len)?;
        let clone = || platform::clone_between(&source.file, from, &self.file, to, len);
        // What goes wrong here goes wrong, or not, when it is copied.
        Ok(self.clone_up_to(end, clone).is_ok())
    }

    /// Has `clone` share bytes with a place that ends at `end`; after a failure the file
    /// is as long as before.
    fn clone_up_to(
        &self,
        end: u64,
        clone: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        if platform::CLONES_EXTEND || end <= self.len() {
            clone()?;
            self.written_up_to(end);
            return Ok(());
        }
        // Where the file must be longer first, nobody else may make it longer meanwhile:
        // to set a length that has been passed cuts.
        let _alone = self.end.write();
        let before = self.len();
        if end > before {
            self.file.set_len(end)?;
        }
        let cloned = clone();
        match &cloned {
            Ok(()) => self.written_up_to(end),
            Err(_) if end > before => self.file.set_len(before)?,
            Err(_) => {}
        }
        cloned
    }

    /// Copies without cloning, inside the file; what is a hole and reads as zeros in
    /// its new place too is not written, or a sparse file would grow on its medium.
    /// Returns the bytes of that.
    ///
    /// That there is a hole is only a hint here: what it reads as decides.
    fn copy_leaving_holes(
        &self,
        from: u64,
        to: u64,
        len: u64,
        buf: &mut Vec<u8>,
    ) -> Result<u64> {
        let end = from + len;
        let mut at = from;
        let mut holes = 0;
        let mut bufs = None;
        while at < end {
            let data = self.next_data(at)?.filter(|data| data.start < end);
            let data = data.map_or(end..end, |data| data.start..data.end.min(end));
            while at < data.start {
                let (source, target) = bufs
                    .get_or_insert_with(|| (vec![0; HOLE_PIECE], vec![0; HOLE_PIECE]));
                let n = usize::try_from(data.start - at)
                    .unwrap_or(HOLE_PIECE)
                    .min(HOLE_PIECE);
                let (source, _) = source.split_at_mut(n);
                let (target, _) = target.split_at_mut(n);
                let place = to + (at - from);
                self.read_at(at, source)?;
                self.read_at(place, target)?;
                if source == target {
                    holes += n as u64;
                } else {
                    self.write_at(place, source)?;
                }
                at += n as u64;
            }
            self.copy_bytes(at, to + (at - from), data.end - at, buf)?;
            at = data.end;
        }
        Ok(holes)
    }

    /// Copies without cloning, through `buf`.
    fn copy_bytes(&self, from: u64, to: u64, len: u64, buf: &mut Vec<u8>) -> Result<()> {
        let size = usize::try_from(len.min(COPY_BUFFER)).unwrap_or(0);
        if buf.len() < size {
            buf.resize(size, 0);
        }
        let mut done = 0;
        while done < len {
            let place = to + done;
            // Up to the end of a page, or both pieces would write a part of it.
            let n = (len - done).min(COPY_BUFFER - place % PAGE);
            let (part, _) = buf.split_at_mut(usize::try_from(n).unwrap_or(0));
            self.read_at(from + done, part)?;
            self.write_at(place, part)?;
            // The next flush then finds little left to do.
            if n >= WRITE_OUT_FROM
                && let Err(e) = platform::write_out(&self.file, place, n)
                && !is_refusal(&e)
            {
                return Err(self.error("cannot write", e).at(place));
            }
            done += n;
        }
        Ok(())
    }

    /// Which bytes of a transfer, counted from its start, could be shared: where both
    /// places lie alike in the file system's blocks, the whole blocks among them.
    fn shareable(&self, transfer: Transfer) -> Range<u64> {
        let Transfer { from, to, len } = transfer;
        let block = self.block_size.max(1);
        let head = (block - from % block) % block;
        let middle = len.saturating_sub(head) / block * block;
        if from % block == to % block && middle > 0 { head..head + middle } else { 0..0 }
    }

    /// Makes one copy, through `buf` if it has to be.
    pub(super) fn copy(&self, transfer: Transfer, buf: &mut Vec<u8>) -> Result<Copied> {
        let Transfer { from, to, len } = transfer;
        let end = from
            .checked_add(len)
            .filter(|end| *end <= self.len())
            .ok_or_else(|| past_the_end(from, len, self.len()).in_file(&self.path))?;
        let end_of_target = self.end_of_write(to, len)?;
        if from < end_of_target && to < end {
            return Err(Error::new(
                Kind::InvalidArgument,
                "a copy would overlap what it copies",
            )
            .at(from)
            .in_file(&self.path));
        }
        let Range { start, end } = self.shareable(transfer);
        if start < end
            && !self.cloning_refused.load(Relaxed)
            && self.clone_range(from + start, to + start, end - start)?
        {
            self.copy_bytes(from, to, start, buf)?;
            self.copy_bytes(from + end, to + end, len - end, buf)?;
            return Ok(Copied { cloned: end - start, holes: 0 });
        }
        let holes = if end_of_target <= self.len() {
            self.copy_leaving_holes(from, to, len, buf)?
        } else {
            self.copy_bytes(from, to, len, buf)?;
            0
        };
        Ok(Copied { cloned: 0, holes })
    }

    /// As [`Storage::copy_all`].
    pub(super) fn copy_together(&self, transfers: &[Transfer]) -> Result<Copied> {
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let copier = || {
            let (mut all, mut buf) = (Copied::default(), Vec::new());
            while !failed.load(Relaxed) {
                let Some(transfer) = transfers.get(next.fetch_add(1, Relaxed)) else {
                    break;
                };
                match self.copy(*transfer, &mut buf) {
                    Ok(copied) => all += copied,
                    Err(error) => {
                        failed.store(true, Relaxed);
                        return Err(error);
                    }
                }
            }
            Ok(all)
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..COPIERS.min(transfers.len()))
                // Without another thread this one makes all copies.
                .filter_map(|_| {
                    std::thread::Builder::new().spawn_scoped(scope, copier).ok()
                })
                .collect();
            let mut results = vec![copier()];
            results.extend(others.into_iter().map(|other| {
                other.join().unwrap_or_else(|_| {
                    Err(Error::new(Kind::Unexpected, "a copy ended before it was made"))
                })
            }));
            results.into_iter().try_fold(Copied::default(), |mut all, copied| {
                all += copied?;
                Ok(all)
            })
        })
    }

    /// As [`Storage::will_copy`].
    pub(super) fn ask_for(&self, transfers: &[Transfer]) {
        let can_clone = self.unit_of_clones().is_some();
        let mut ranges = Vec::with_capacity(transfers.len());
        for transfer in transfers {
            let Transfer { from, len, .. } = *transfer;
            let shared = if can_clone { self.shareable(*transfer) } else { 0..0 };
            for part in [0..shared.start, shared.end..len] {
                ranges
                    .push(from.saturating_add(part.start)..from.saturating_add(part.end));
            }
        }
        // Of a page that is written in part, the rest is read.
        for Transfer { to, len, .. } in transfers {
            for edge in [*to, to.saturating_add(*len)] {
                if !edge.is_multiple_of(PAGE) {
                    ranges.push(edge..edge.saturating_add(1));
                }
            }
        }
        self.will_read(&ranges);
    }

    /// As [`Storage::clone_unit`].
    pub(super) fn unit_of_clones(&self) -> Option<u64> {
        if self.cloning_refused.load(Relaxed) {
            return None;
        }
        let unit = self.block_size.max(1);
        match platform::may_clone(&self.file, unit) {
            Ok(true) => return Some(unit),
            // It is asked for every round, and before every copy.
            Ok(false) => self.cloning_refused.store(true, Relaxed),
            Err(e) if is_refusal(&e) => self.cloning_refused.store(true, Relaxed),
            Err(_) => {}
        }
        None
    }
}
