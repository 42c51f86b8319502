//! Files in memory that remember what is done to them, and what a power cut may leave of
//! them.
//!
//! Everything flushed is there; of what was not flushed any subset of sectors may be lost
//! and one may be torn. What else differs from disk to disk is said by each test.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use slimdisk::Result;
use slimdisk::storage::{Copied, ReadAt, Storage};

use crate::support::Noise;
use crate::vhdx::copied;
use crate::vhdx_model::{PAGE, Pages};

const SECTOR: usize = 512;

/// The pieces in which holes come to be.
pub const HOLE: u64 = PAGE;

/// The blocks that can be shared, small as the guest's blocks are in the tests.
pub const UNIT: u64 = 1024;

#[derive(Clone, Debug)]
pub enum Op {
    Write {
        offset: u64,
        data: Arc<[u8]>,
    },
    /// Whole blocks of the host that are another place's, too.
    Share {
        offset: u64,
        data: Arc<[u8]>,
    },
    SetLen(u64),
    Punch(Range<u64>),
    Flush,
}

/// What a file holds.
pub trait Content: Clone + Send + 'static {
    fn len(&self) -> u64;

    /// `len` bytes; zeros behind the end.
    fn get(&self, offset: u64, len: usize) -> Vec<u8>;

    /// As [`ReadAt::read_at`].
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Grows where that passes the end.
    fn write(&mut self, offset: u64, data: &[u8]);

    fn set_len(&mut self, len: u64);

    /// As [`ReadAt::next_data`].
    fn next_data(&self, offset: u64) -> Option<Range<u64>>;

    /// What a copy inside of it writes.
    fn copied(&self, from: u64, to: u64, len: u64) -> Vec<(u64, Vec<u8>)>;
}

impl Content for Vec<u8> {
    fn len(&self) -> u64 {
        ReadAt::len(self)
    }

    fn get(&self, offset: u64, len: usize) -> Vec<u8> {
        let from = (offset as usize).min(Vec::len(self));
        let to = (from + len).min(Vec::len(self));
        let mut found = self[from..to].to_vec();
        found.resize(len, 0);
        found
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        ReadAt::read_at(self, offset, buf)
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let range = offset as usize..offset as usize + data.len();
        if Vec::len(self) < range.end {
            self.resize(range.end, 0);
        }
        self[range].copy_from_slice(data);
    }

    fn set_len(&mut self, len: u64) {
        self.resize(len as usize, 0);
    }

    fn next_data(&self, offset: u64) -> Option<Range<u64>> {
        Some(offset..Content::len(self)).filter(|range| range.start < range.end)
    }

    fn copied(&self, from: u64, to: u64, len: u64) -> Vec<(u64, Vec<u8>)> {
        vec![(to, self.get(from, len as usize))]
    }
}

impl Content for Pages {
    fn len(&self) -> u64 {
        self.len
    }

    fn get(&self, offset: u64, len: usize) -> Vec<u8> {
        Pages::get(self, offset, len)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        assert!(offset + buf.len() as u64 <= self.len, "a read behind the end");
        self.read(offset, buf);
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        Pages::write(self, offset, data);
    }

    fn set_len(&mut self, len: u64) {
        Pages::set_len(self, len);
    }

    fn next_data(&self, offset: u64) -> Option<Range<u64>> {
        let found = self.held(offset, self.len).next();
        found.map(|page| page.max(offset)..(page + PAGE).min(self.len))
    }

    fn copied(&self, from: u64, to: u64, len: u64) -> Vec<(u64, Vec<u8>)> {
        copied(self, from, to, len)
    }
}

pub fn apply<F: Content>(file: &mut F, op: &Op) {
    match op {
        Op::Write { offset, data } | Op::Share { offset, data } => {
            file.write(*offset, data);
        }
        Op::SetLen(len) => file.set_len(*len),
        Op::Punch(range) => {
            file.write(range.start, &vec![0; (range.end - range.start) as usize]);
        }
        Op::Flush => {}
    }
}

/// Files, and what was done to which of them.
#[derive(Clone)]
pub struct State<F> {
    pub files: Vec<F>,
    pub ops: Vec<(usize, Op)>,
}

/// A file in memory that remembers everything that was done to it, maybe together with
/// others.
pub struct Recorder<F> {
    state: Arc<Mutex<State<F>>>,
    which: usize,
    copies: Copies,
}

/// How bytes are copied inside a file.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Copies {
    Never,
    Written,
    /// Whole blocks of [`UNIT`] are shared where both places lie alike.
    Shared,
}

impl<F: Content> Recorder<F> {
    pub fn new(file: F) -> Arc<Self> {
        Self::of(file, Copies::Written)
    }

    /// A file on a host that can share bytes between two places of it.
    pub fn sharing(file: F) -> Arc<Self> {
        Self::of(file, Copies::Shared)
    }

    fn of(file: F, copies: Copies) -> Arc<Self> {
        let state = Arc::new(Mutex::new(State { files: vec![file], ops: Vec::new() }));
        Arc::new(Recorder { state, which: 0, copies })
    }

    /// The files of a merge, which copies nothing, in one record.
    pub fn of_merge<const N: usize>(files: [F; N]) -> [Arc<Self>; N] {
        let state = State { files: Vec::from(files), ops: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        std::array::from_fn(|which| {
            Arc::new(Recorder { state: state.clone(), which, copies: Copies::Never })
        })
    }

    /// All files of the record.
    pub fn state(&self) -> State<F> {
        self.state.lock().unwrap().clone()
    }

    /// What was done to this file.
    pub fn ops(&self) -> Vec<Op> {
        let state = self.state.lock().unwrap();
        let own = state.ops.iter().filter(|(which, _)| *which == self.which);
        own.map(|(_, op)| op.clone()).collect()
    }

    pub fn content(&self) -> F {
        self.with(F::clone)
    }

    fn with<T>(&self, look: impl FnOnce(&F) -> T) -> T {
        look(&self.state.lock().unwrap().files[self.which])
    }

    fn record(&self, op: Op) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        apply(&mut state.files[self.which], &op);
        state.ops.push((self.which, op));
        Ok(())
    }
}

impl<F: Content> ReadAt for Recorder<F> {
    fn len(&self) -> u64 {
        self.with(F::len)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.with(|file| file.read_at(offset, buf))
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        Ok(self.with(|file| file.next_data(offset)))
    }
}

impl<F: Content> Storage for Recorder<F> {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.record(Op::Write { offset, data: data.into() })
    }

    fn flush(&self) -> Result<()> {
        self.record(Op::Flush)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.record(Op::SetLen(len))
    }

    fn hole_size(&self) -> Result<u64> {
        Ok(HOLE)
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        assert!(range.end <= self.len(), "a hole behind the end");
        self.record(Op::Punch(range))
    }

    fn copy_within(&self, from: u64, to: u64, len: u64) -> Result<Copied> {
        assert!(self.copies != Copies::Never, "a merge copies nothing");
        assert!(from + len <= to || to + len <= from, "a copy that overlaps itself");
        assert!(from + len <= self.len() && to + len <= self.len());
        let head = from.next_multiple_of(UNIT) - from;
        if self.copies == Copies::Shared && from % UNIT == to % UNIT && len >= head + UNIT
        {
            let data = self.with(|file| file.get(from, len as usize));
            let (head, rest) = data.split_at(head as usize);
            let (middle, tail) = rest.split_at(rest.len() - rest.len() % UNIT as usize);
            let offset = to + head.len() as u64;
            let end = offset + middle.len() as u64;
            self.record(Op::Share { offset, data: middle.into() })?;
            for (at, part) in [(to, head), (end, tail)] {
                if !part.is_empty() {
                    self.write_at(at, part)?;
                }
            }
            return Ok(Copied { cloned: middle.len() as u64, holes: 0 });
        }
        for (at, data) in self.with(|file| file.copied(from, to, len)) {
            self.write_at(at, &data)?;
        }
        Ok(Copied::default())
    }

    fn clone_unit(&self) -> Option<u64> {
        (self.copies == Copies::Shared).then_some(UNIT)
    }
}

/// Where the one sector is torn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tear {
    Nowhere,
    /// Behind any four bytes.
    Words,
    /// Anywhere, mostly right behind a byte that changes.
    Changes,
}

/// What a file system does with a file that grows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Growth {
    /// Its length may be there before its bytes, which read as zeros then.
    LengthFirst,
    /// Its length is there with its bytes.
    Ordered,
    /// It grows by a set length alone. One that is lost, or a cut that was done already,
    /// takes what is written behind it along.
    BySetLen,
}

/// What may be left of a file to which all of `done` was done when power went.
pub fn power_cut<'a, F: Content>(
    before: &F,
    done: impl IntoIterator<Item = &'a Op>,
    (tear, growth): (Tear, Growth),
    noise: &mut Noise,
) -> F {
    let done: Vec<&Op> = done.into_iter().collect();
    let flushed =
        done.iter().rposition(|op| matches!(op, Op::Flush)).map_or(0, |i| i + 1);
    let mut file = before.clone();
    for op in &done[..flushed] {
        apply(&mut file, op);
    }
    // Lose nearly all, nearly nothing, or half of what is pending.
    let keep_of_8 = noise.below(9);
    let mut torn = tear != Tear::Nowhere && noise.below(2) == 0;
    let durable = file.len();
    for op in &done[flushed..] {
        match op {
            Op::Write { offset, data } => {
                for (index, sector) in data.chunks(SECTOR).enumerate() {
                    let offset = offset + (index * SECTOR) as u64;
                    let end = offset + sector.len() as u64;
                    let grows = end > file.len();
                    if noise.below(8) >= keep_of_8 {
                        if grows && growth == Growth::LengthFirst && noise.below(2) == 0 {
                            file.set_len(end);
                        }
                        continue;
                    }
                    let mut part = sector;
                    let may_tear = torn && !(grows && growth != Growth::BySetLen);
                    if may_tear && noise.below(4) == 0 {
                        torn = false;
                        part = &sector[..torn_at(tear, &file, offset, sector, noise)];
                    }
                    let inside = offset + part.len() as u64 <= file.len();
                    if inside || growth != Growth::BySetLen || offset < durable {
                        file.write(offset, part);
                    }
                }
            }
            Op::Share { offset, data } => {
                for (at, block) in
                    (*offset..).step_by(UNIT as usize).zip(data.chunks(UNIT as usize))
                {
                    if noise.below(8) < keep_of_8
                        && (at + UNIT <= file.len() || at < durable)
                    {
                        file.write(at, block);
                    }
                }
            }
            Op::Punch(range) => {
                let mut at = range.start;
                while at < range.end {
                    let upto = ((at / HOLE + 1) * HOLE).min(range.end);
                    if noise.below(8) < keep_of_8 {
                        apply(&mut file, &Op::Punch(at..upto));
                    }
                    at = upto;
                }
            }
            Op::SetLen(_) if noise.below(8) >= keep_of_8 => {}
            Op::SetLen(_) | Op::Flush => apply(&mut file, op),
        }
    }
    file
}

/// How much of a sector is written.
fn torn_at<F: Content>(
    tear: Tear,
    file: &F,
    offset: u64,
    sector: &[u8],
    noise: &mut Noise,
) -> usize {
    let len = sector.len() as u64;
    if tear == Tear::Words {
        return noise.below(len / 4 + 1) as usize * 4;
    }
    let there = file.get(offset, sector.len());
    let changes: Vec<usize> =
        (0..sector.len()).filter(|at| there[*at] != sector[*at]).collect();
    match changes.len() as u64 {
        0 => noise.below(len + 1) as usize,
        _ if noise.below(4) == 0 => noise.below(len + 1) as usize,
        count => changes[noise.below(count) as usize] + 1,
    }
}
