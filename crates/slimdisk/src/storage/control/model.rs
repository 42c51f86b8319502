//! A file on a model of NTFS or ReFS: it does what their documents say of the control
//! calls, and refuses what they refuse.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use super::{
    Calls, Code, Result, SUPPORTS_BLOCK_REFCOUNTING, SUPPORTS_SPARSE_FILES, Standing,
    Volume, attribute,
};

const DISK_FULL: Code = Code(112);
const ACCESS_DENIED: Code = Code(5);

/// A file; what it stores is one byte a cluster.
pub struct File {
    pub volume: Volume,
    /// `None` is a hole; what lies behind the end is room set aside.
    pub clusters: RefCell<Vec<Option<u8>>>,
    pub end: Cell<u64>,
    pub attributes: Cell<u32>,
    /// Clusters that the volume has free.
    pub room: Cell<usize>,
    /// References that one cluster may get.
    pub references: Cell<u32>,
    /// The call that a system carries out only in words, as Wine does.
    pub deaf: bool,
    pub read_only: bool,
    /// What it holds is kept by something else, which does not answer for its ranges.
    pub kept_elsewhere: bool,
    /// A range that it answers with, right or wrong.
    pub answer: Option<Range<u64>>,
    /// The integrity streams of ReFS.
    pub integrity: bool,
    /// Every call that changed anything.
    pub log: RefCell<Vec<String>>,
}

impl File {
    /// A file of whole clusters, with their numbers in them.
    pub fn new(cluster: u64, flags: u32, clusters: u8) -> Self {
        File {
            volume: Volume { cluster, flags, longest: u64::MAX },
            clusters: RefCell::new((0..clusters).map(Some).collect()),
            end: Cell::new(u64::from(clusters) * cluster),
            attributes: Cell::new(0x20),
            room: Cell::new(1000),
            references: Cell::new(u32::MAX),
            deaf: false,
            read_only: false,
            kept_elsewhere: false,
            answer: None,
            integrity: false,
            log: RefCell::default(),
        }
    }

    pub fn refs(clusters: u8) -> Self {
        let flags = SUPPORTS_SPARSE_FILES | SUPPORTS_BLOCK_REFCOUNTING;
        File::new(4096, flags, clusters)
    }

    pub fn ntfs(clusters: u8) -> Self {
        File::new(4096, SUPPORTS_SPARSE_FILES, clusters)
    }

    pub fn sparse(self) -> Self {
        self.attributes.set(self.attributes.get() | attribute::SPARSE);
        self
    }

    fn is_sparse(&self) -> bool {
        self.attributes.get() & attribute::SPARSE != 0
    }

    fn note(&self, call: String) {
        self.log.borrow_mut().push(call);
    }

    fn cluster_range(&self, range: Range<u64>) -> Range<usize> {
        let unit = self.volume.cluster;
        let index = |at: u64| usize::try_from(at).unwrap();
        index(range.start / unit)..index(range.end.div_ceil(unit))
    }
}

impl Calls for File {
    fn volume(&self) -> Result<Volume> {
        Ok(self.volume)
    }

    fn standing(&self) -> Result<Standing> {
        let stored = self.clusters.borrow().iter().flatten().count() as u64;
        Ok(Standing {
            end: self.end.get(),
            allocated: stored * self.volume.cluster,
            attributes: self.attributes.get(),
        })
    }

    fn duplicate_extents(
        &self,
        source: &Self,
        from: u64,
        to: u64,
        len: u64,
    ) -> Result<()> {
        if self.volume.flags & SUPPORTS_BLOCK_REFCOUNTING == 0 {
            return Err(Code::INVALID_FUNCTION);
        }
        let unit = self.volume.cluster;
        let aligned = [from, to, len].iter().all(|n| n.is_multiple_of(unit));
        let whole_end = |file: &File| file.end.get().next_multiple_of(unit);
        if !aligned
            || len >= 4 << 30
            || from + len > whole_end(source)
            || to + len > whole_end(self)
        {
            return Err(Code::INVALID_PARAMETER);
        }
        let same = std::ptr::eq(self, source);
        if same && from < to + len && to < from + len
            || source.is_sparse() && !self.is_sparse()
            || source.integrity != self.integrity
        {
            return Err(Code::NOT_SUPPORTED);
        }
        if self.references.get() == 0 {
            return Err(Code::TOO_MANY_REFERENCES);
        }
        self.references.set(self.references.get() - 1);
        self.note(format!("share {from} {to} {len}"));
        // A model of whole files of 4 GiB would be slow; only their start is stored.
        let (from, to) = (source.cluster_range(from..from + len), to / unit);
        let to = usize::try_from(to).unwrap();
        let shared: Vec<_> =
            source.clusters.borrow().iter().copied().skip(from.start).collect();
        let shared = shared.into_iter().take(from.len());
        let mut clusters = self.clusters.borrow_mut();
        for (at, cluster) in shared.enumerate() {
            if let Some(place) = clusters.get_mut(to + at) {
                *place = cluster;
            }
        }
        Ok(())
    }

    fn allocated_range(&self, asked: Range<u64>) -> (Option<Range<u64>>, Result<()>) {
        if self.volume.flags & SUPPORTS_SPARSE_FILES == 0 {
            return (None, Err(Code::INVALID_FUNCTION));
        }
        if asked.start > asked.end || i64::try_from(asked.end).is_err() {
            return (None, Err(Code::INVALID_PARAMETER));
        }
        if self.kept_elsewhere {
            return (None, Ok(()));
        }
        if self.answer.is_some() {
            return (self.answer.clone(), Ok(()));
        }
        let unit = self.volume.cluster;
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (number, cluster) in self.clusters.borrow().iter().enumerate() {
            let start = number as u64 * unit;
            let stored = cluster.is_some() && start < self.end.get().min(asked.end);
            if !stored || start + unit <= asked.start {
                continue;
            }
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end += unit,
                _ => ranges.push(start..start + unit),
            }
        }
        let more = if ranges.len() > 1 { Err(Code::MORE_DATA) } else { Ok(()) };
        (ranges.into_iter().next(), more)
    }

    fn zero_data(&self, range: Range<u64>) -> Result<()> {
        if self.read_only {
            return Err(ACCESS_DENIED);
        }
        if range.start > range.end {
            return Err(Code::INVALID_PARAMETER);
        }
        self.note(format!("zero {} {}", range.start, range.end));
        let unit = if self.is_sparse() { self.volume.hole_unit() } else { u64::MAX };
        let whole = range.start.next_multiple_of(unit.min(1 << 40))
            ..range.end / unit.min(1 << 40) * unit.min(1 << 40);
        let mut clusters = self.clusters.borrow_mut();
        let holes = self.cluster_range(whole);
        // What is a byte here is zeroed if all of its cluster is.
        let inner = range.start.next_multiple_of(self.volume.cluster)
            ..range.end / self.volume.cluster * self.volume.cluster;
        for number in self.cluster_range(inner) {
            if let Some(cluster) = clusters.get_mut(number) {
                let hole = self.is_sparse() && holes.contains(&number);
                *cluster = if hole { None } else { Some(0) };
            }
        }
        Ok(())
    }

    fn set_sparse(&self) -> Result<()> {
        if self.volume.flags & SUPPORTS_SPARSE_FILES == 0 {
            return Err(Code::INVALID_FUNCTION);
        }
        if self.read_only {
            return Err(ACCESS_DENIED);
        }
        if !self.deaf {
            self.note("mark".to_owned());
            self.attributes.set(self.attributes.get() | attribute::SPARSE);
        }
        Ok(())
    }

    fn set_allocation(&self, bytes: u64) -> Result<()> {
        self.note(format!("allocate {bytes}"));
        let mut clusters = self.clusters.borrow_mut();
        let wanted = self.cluster_range(0..bytes).end;
        let more = wanted.saturating_sub(clusters.len());
        if more > self.room.get() {
            return Err(DISK_FULL);
        }
        self.room.set(self.room.get() - more);
        clusters.resize(wanted, Some(0));
        self.end.set(self.end.get().min(bytes));
        Ok(())
    }
}
