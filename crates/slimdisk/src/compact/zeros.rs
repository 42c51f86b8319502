//! Looking for zeros: reading once, in large pieces, several at a time, while the
//! pieces before are judged. Holes of the host file are never read. In a differencing
//! image, where zeros may hide the parent's data, what the parent shows is read beside
//! them.

use std::ops::{ControlFlow, Range};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Hook, Phase, Progress};
use crate::error::{Error, Kind, Result};
use crate::image::{Image, read_padded};
use crate::ranges::Ranges;

/// One block and the parts of it that must be zero, or the parent's, relative to its
/// start.
pub struct Job {
    block: u32,
    parts: Vec<Range<u64>>,
}

impl Job {
    /// `parts` are guest offsets inside the block that begins at `start`.
    pub fn new(block: u32, start: u64, parts: &Ranges) -> Self {
        Job {
            block,
            parts: parts.iter().map(|r| r.start - start..r.end - start).collect(),
        }
    }

    fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.end - part.start).sum()
    }
}

/// Blocks under way at once. Two keep a device busy while one is judged; four
/// also hide the latency of a network.
const WORKERS: usize = 4;

/// A block that is not zero mostly shows it at once.
const FIRST_PIECE: u64 = 64 << 10;
const PIECE: u64 = 1 << 20;

/// What a differencing image need not hold because its parent shows the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alike {
    /// Whatever it is.
    Any,
    /// Zeros alone: the parent goes on showing them whatever it is itself compacted to.
    Zeros,
}

/// What the parts of a block are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shown {
    /// All of them are zeros, and so is the rest of a block that is to become zeros in
    /// front of a parent.
    Zeros,
    /// The parent shows the same.
    Parents,
}

/// Runs `produce`, which submits jobs, and returns the blocks whose parts are all
/// zero (or the parent's), ascending; `None` if the hook asked to stop. `total` is the sum of the
/// jobs' bytes, for the progress.
pub fn search(
    image: &dyn Image,
    alike: Alike,
    total: u64,
    hook: &mut Hook<'_>,
    produce: impl FnOnce(&mut dyn FnMut(Job) -> Result<ControlFlow<()>>) -> Result<()>,
) -> Result<Option<Vec<(u32, Shown)>>> {
    let (to_workers, jobs) = sync_channel::<Job>(WORKERS * 2);
    let (to_us, answers) = std::sync::mpsc::channel();
    // The workers' alone: were they all to panic, sending must fail, not wait.
    let jobs = Arc::new(Mutex::new(jobs));
    let parent = image.parent().map(|parent| (parent, image.facts().block_size));
    let mut tally = Tally { found: Vec::new(), done: 0, total, stopped: false, hook };
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            let (jobs, to_us) = (Arc::clone(&jobs), to_us.clone());
            scope.spawn(move || {
                let mut buf = vec![0; usize::try_from(PIECE).unwrap_or(0)];
                let mut shown = parent.map(|_| buf.clone()).unwrap_or_default();
                while let Some(job) = next(&jobs) {
                    let answer = match parent {
                        None => is_zero_job(image, &job, &mut buf)
                            .map(|zero| zero.then_some(Shown::Zeros)),
                        Some((parent, block_size)) => {
                            let child = Child { image, parent, block_size, alike };
                            child.judge(&job, &mut buf, &mut shown)
                        }
                    };
                    if to_us.send((job.block, job.bytes(), answer)).is_err() {
                        return;
                    }
                }
            });
        }
        drop((jobs, to_us));
        let produced = produce(&mut |job| {
            if tally.stopped {
                return Ok(ControlFlow::Break(()));
            }
            if to_workers.send(job).is_err() {
                return Err(Error::new(Kind::Unexpected, "the zero search ended early"));
            }
            while let Ok(answer) = answers.try_recv() {
                tally.take(answer)?;
            }
            Ok(if tally.stopped {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        });
        drop(to_workers);
        produced?;
        loop {
            use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
            match answers.recv_timeout(Duration::from_millis(200)) {
                Ok(answer) => tally.take(answer)?,
                Err(Timeout) => tally.tell(),
                Err(Disconnected) => return Ok(()),
            }
        }
    })?;
    let Tally { mut found, stopped, .. } = tally;
    found.sort_unstable();
    Ok((!stopped).then_some(found))
}

fn next(jobs: &Mutex<Receiver<Job>>) -> Option<Job> {
    jobs.lock().ok()?.recv().ok()
}

struct Tally<'a, 'h> {
    found: Vec<(u32, Shown)>,
    done: u64,
    total: u64,
    stopped: bool,
    hook: &'a mut Hook<'h>,
}

impl Tally<'_, '_> {
    fn take(
        &mut self,
        (block, bytes, answer): (u32, u64, Result<Option<Shown>>),
    ) -> Result<()> {
        if let Some(shown) = answer? {
            self.found.push((block, shown));
        }
        self.done += bytes;
        self.tell();
        Ok(())
    }

    fn tell(&mut self) {
        let (done, total) = (self.done, self.total);
        let asked = (self.hook)(Progress { phase: Phase::Search, done, total });
        self.stopped |= asked.is_break();
    }
}

fn is_zero_job(image: &dyn Image, job: &Job, buf: &mut [u8]) -> Result<bool> {
    let mut piece = FIRST_PIECE;
    for part in &job.parts {
        let mut at = part.start;
        while at < part.end {
            // Skip what the host file does not even hold.
            let Some(data) = image.next_data_in_block(job.block, at)? else { break };
            at = data.start.max(at);
            let end = data.end.min(part.end);
            while at < end {
                // Up to the next multiple of the piece, so that reads are aligned.
                let upto = ((at / piece + 1) * piece).min(end);
                let len = usize::try_from(upto - at).unwrap_or(0);
                let Some(read) = buf.get_mut(..len) else { break };
                image.read_block(job.block, at, read)?;
                if !is_zero(read) {
                    return Ok(false);
                }
                at = upto;
                piece = PIECE;
            }
        }
    }
    Ok(true)
}

/// A differencing image whose blocks are judged.
struct Child<'a> {
    image: &'a dyn Image,
    parent: &'a Arc<dyn Image>,
    block_size: u64,
    alike: Alike,
}

impl Child<'_> {
    /// What a block may become without its parts reading otherwise. Zeros come first,
    /// which need no parent, but not if that would hide what the parent has in the rest
    /// of the block.
    fn judge(
        &self,
        job: &Job,
        buf: &mut [u8],
        parents: &mut [u8],
    ) -> Result<Option<Shown>> {
        let start = u64::from(job.block) * self.block_size;
        let can_be_zeros = self.image.zeros_hide_parent();
        let (mut zero, mut same) = (true, true);
        let mut piece = FIRST_PIECE;
        for part in &job.parts {
            let mut at = part.start;
            while at < part.end {
                let upto = ((at / piece + 1) * piece).min(part.end);
                let len = usize::try_from(upto - at).unwrap_or(0);
                let (Some(read), Some(shown)) =
                    (buf.get_mut(..len), parents.get_mut(..len))
                else {
                    return Ok(None);
                };
                self.image.read_block(job.block, at, read)?;
                zero = zero && is_zero(read);
                same = same && (zero || self.alike == Alike::Any);
                if same {
                    read_padded(self.parent, start + at, shown)?;
                    same = read == shown;
                }
                if !(same || zero && can_be_zeros) {
                    return Ok(None);
                }
                at = upto;
                piece = PIECE;
            }
        }
        if zero && can_be_zeros {
            let own = self.image.own_bytes(job.block)?;
            // Of a block that is here as a whole there is no rest.
            let rest = own.as_ref().map(|own| own.gaps(0..self.block_size));
            // What the parent shows the same need not be looked for beyond the parts.
            let is_zero = match &rest {
                None => true,
                Some(_) if same => false,
                Some(rest) => self.is_zero(job.block, rest, buf)?,
            };
            if is_zero {
                return Ok(Some(Shown::Zeros));
            }
        }
        Ok(same.then_some(Shown::Parents))
    }

    fn is_zero(&self, block: u32, ranges: &Ranges, buf: &mut [u8]) -> Result<bool> {
        for range in ranges.iter() {
            let mut at = range.start;
            while at < range.end {
                let upto = ((at / PIECE + 1) * PIECE).min(range.end);
                let len = usize::try_from(upto - at).unwrap_or(0);
                let Some(read) = buf.get_mut(..len) else { return Ok(false) };
                self.image.read_block(block, at, read)?;
                if !is_zero(read) {
                    return Ok(false);
                }
                at = upto;
            }
        }
        Ok(true)
    }
}

/// Whether all bytes are zero: the first one is, and each equals the next, which
/// the machine compares at the speed of memory.
pub fn is_zero(bytes: &[u8]) -> bool {
    match bytes.split_last() {
        None => true,
        Some((last, rest)) => {
            *last == 0 && bytes.get(1..).is_some_and(|shifted| rest == shifted)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Facts, Layout, Move, Release};
    use crate::storage::ReadAt;

    /// An image whose every read is a bug.
    struct Broken;

    impl ReadAt for Broken {
        fn len(&self) -> u64 {
            1 << 30
        }

        fn read_at(&self, _: u64, _: &mut [u8]) -> Result<()> {
            unreachable!()
        }
    }

    impl Image for Broken {
        fn facts(&self) -> Facts {
            unreachable!()
        }

        fn settled(&self) -> Result<()> {
            Ok(())
        }

        fn compactable(&self) -> Result<()> {
            Ok(())
        }

        fn layout(&self) -> Option<Layout> {
            None
        }

        fn is_allocated(&self, _: u32) -> bool {
            true
        }

        fn read_block(&self, _: u32, _: u64, _: &mut [u8]) -> Result<()> {
            unreachable!("a bug")
        }

        fn next_data_in_block(&self, _: u32, at: u64) -> Result<Option<Range<u64>>> {
            Ok(Some(at..1 << 20))
        }

        fn release(&mut self, _: &[Release]) -> Result<()> {
            unreachable!()
        }

        fn relocate(&mut self, _: &[Move]) -> Result<()> {
            unreachable!()
        }

        fn truncate(&mut self) -> Result<()> {
            unreachable!()
        }

        fn still_exclusive(&self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn workers_that_all_panic_hang_nobody() {
        let (told, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let searched = std::panic::catch_unwind(|| {
                let mut hook = |_: Progress| ControlFlow::Continue(());
                search(&Broken, Alike::Any, 100, &mut hook, |submit| {
                    for block in 0..100 {
                        let all = std::iter::once(0..1 << 20).collect();
                        let _ = submit(Job::new(block, 0, &all))?;
                    }
                    Ok(())
                })
            });
            told.send(searched.is_err()).unwrap();
        });
        assert!(ended.recv_timeout(Duration::from_secs(20)).unwrap());
    }

    #[test]
    fn one_byte_anywhere_is_seen() {
        for len in [0, 1, 2, 7, 512, 4097] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in 0..len {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{at} of {len}");
                bytes[at] = 0;
            }
        }
    }
}
