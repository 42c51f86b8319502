//! Storages that fail on request: a file in memory, and one call that goes wrong.

#![allow(dead_code, reason = "used by the tests of other modules")]

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard};

use slimdisk::storage::{Copied, ReadAt, Storage};
use slimdisk::{Error, Kind, Result};

/// A file in memory.
#[derive(Default)]
pub struct MemFile(Mutex<Vec<u8>>);

impl MemFile {
    pub fn new(bytes: Vec<u8>) -> Self {
        MemFile(Mutex::new(bytes))
    }

    /// What it holds now.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap()
    }
}

impl ReadAt for MemFile {
    fn len(&self) -> u64 {
        self.lock().len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.lock().read_at(offset, buf)
    }
}

impl Storage for MemFile {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let start = usize::try_from(offset).unwrap();
        let end = start.checked_add(data.len()).unwrap();
        let mut bytes = self.lock();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(data);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.lock().resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn hole_size(&self) -> Result<u64> {
        Ok(4096)
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        let len = usize::try_from(range.end - range.start).unwrap();
        assert!(range.end <= self.len(), "a hole beyond the end");
        self.write_at(range.start, &vec![0; len])
    }

    fn copy_within(&self, from: u64, to: u64, len: u64) -> Result<Copied> {
        assert!(from + len <= to || to + len <= from, "a copy that overlaps itself");
        let mut data = vec![0; usize::try_from(len).unwrap()];
        self.read_at(from, &mut data)?;
        self.write_at(to, &data)?;
        Ok(Copied::default())
    }
}

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Read,
    Write,
    Flush,
    SetLen,
    Copy,
    StillExclusive,
}

impl Call {
    pub const ALL: [Call; 6] = [
        Call::Read,
        Call::Write,
        Call::Flush,
        Call::SetLen,
        Call::Copy,
        Call::StillExclusive,
    ];
}

/// Which call fails, and how.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub call: Call,
    /// Which call of this sort, from 0 on.
    pub nth: u64,
    pub error: io::ErrorKind,
    /// Whether every later call of this sort fails, too, as on a disk that stays
    /// full; else the fault passes.
    pub lasting: bool,
    /// How many bytes of a write or copy reach the storage before it fails.
    pub partial: u64,
}

impl Fault {
    /// The `nth` call of a sort fails once and does nothing.
    pub fn once(call: Call, nth: u64, error: io::ErrorKind) -> Self {
        Fault { call, nth, error, lasting: false, partial: 0 }
    }
}

/// A storage whose nth call of a sort fails.
///
/// Run it without a fault first: [`Faulty::calls`] then says how many there are
/// to choose from.
pub struct Faulty<S> {
    inner: S,
    fault: Option<Fault>,
    calls: [AtomicU64; Call::ALL.len()],
    struck: AtomicBool,
}

impl<S> Faulty<S> {
    pub fn new(inner: S, fault: Option<Fault>) -> Self {
        Faulty { inner, fault, calls: Default::default(), struck: AtomicBool::new(false) }
    }

    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// How many calls of a sort there have been, the failed ones included.
    pub fn calls(&self, call: Call) -> u64 {
        self.calls[call as usize].load(SeqCst)
    }

    /// Whether the fault has happened.
    pub fn struck(&self) -> bool {
        self.struck.load(SeqCst)
    }

    /// Counts a call; `partly` does the part of it that happens before a fault.
    fn count(&self, call: Call, partly: impl FnOnce(u64) -> Result<()>) -> Result<()> {
        let n = self.calls[call as usize].fetch_add(1, SeqCst);
        match self.fault {
            Some(fault)
                if fault.call == call
                    && (n == fault.nth || n > fault.nth && fault.lasting) =>
            {
                self.struck.store(true, SeqCst);
                partly(fault.partial)?;
                Err(match call {
                    Call::StillExclusive => Error::new(Kind::InUse, "a writer came"),
                    _ => Error::io(format!("{call:?} {n} fails"), fault.error.into()),
                })
            }
            _ => Ok(()),
        }
    }
}

impl<S: ReadAt> ReadAt for Faulty<S> {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.count(Call::Read, |_| Ok(()))?;
        self.inner.read_at(offset, buf)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        self.inner.next_data(offset)
    }
}

impl<S: Storage> Storage for Faulty<S> {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.count(Call::Write, |partial| match data.len().min(partial as usize) {
            0 => Ok(()),
            n => self.inner.write_at(offset, &data[..n]),
        })?;
        self.inner.write_at(offset, data)
    }

    fn flush(&self) -> Result<()> {
        self.count(Call::Flush, |_| Ok(()))?;
        self.inner.flush()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.count(Call::SetLen, |_| Ok(()))?;
        self.inner.set_len(len)
    }

    fn copy_within(&self, from: u64, to: u64, len: u64) -> Result<Copied> {
        self.count(Call::Copy, |partial| match len.min(partial) {
            0 => Ok(()),
            n => self.inner.copy_within(from, to, n).map(|_| ()),
        })?;
        self.inner.copy_within(from, to, len)
    }

    fn hole_size(&self) -> Result<u64> {
        self.inner.hole_size()
    }

    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.count(Call::Write, |_| Ok(()))?;
        self.inner.punch(range)
    }

    fn still_exclusive(&self) -> Result<()> {
        self.count(Call::StillExclusive, |_| Ok(()))?;
        self.inner.still_exclusive()
    }
}

#[test]
fn a_file_in_memory_is_a_file() {
    let file = MemFile::new(vec![1; 10]);
    file.write_at(20, &[2; 5]).unwrap();
    assert_eq!(file.len(), 25);
    assert_eq!(file.next_data(3).unwrap(), Some(3..25));
    file.copy_within(8, 22, 6).unwrap();
    file.set_len(27).unwrap();
    let mut read = [9; 8];
    file.read_at(19, &mut read).unwrap();
    assert_eq!(read, [0, 2, 2, 1, 1, 0, 0, 0]);
    assert_eq!(file.read_at(20, &mut read).unwrap_err().kind(), Kind::InvalidImage);
    file.set_len(2).unwrap();
    assert_eq!(file.bytes(), [1, 1]);
}

#[test]
fn each_call_fails_when_it_is_told_to() {
    let all = |file: &dyn Storage| {
        [
            file.read_at(0, &mut [0; 4]).map(|()| 0),
            file.write_at(0, &[5; 8]).map(|()| 0),
            file.flush().map(|()| 0),
            file.set_len(100).map(|()| 0),
            file.copy_within(0, 50, 8).map(|copied| copied.cloned),
            file.still_exclusive().map(|()| 0),
        ]
    };
    for call in Call::ALL {
        for lasting in [false, true] {
            let fault = Fault {
                lasting,
                partial: 3,
                ..Fault::once(call, 1, io::ErrorKind::StorageFull)
            };
            let file = Faulty::new(MemFile::new(vec![1; 100]), Some(fault));
            for round in 0..3 {
                for (other, result) in Call::ALL.into_iter().zip(all(&file)) {
                    let fails = other == call && (round == 1 || round == 2 && lasting);
                    assert_eq!(result.is_err(), fails, "{call:?} {other:?} {round}");
                    if let Err(error) = result {
                        let full = call != Call::StillExclusive;
                        let kind = if full { Kind::DiskFull } else { Kind::InUse };
                        assert_eq!(error.kind(), kind);
                    }
                }
                assert_eq!(file.struck(), round >= 1);
            }
            assert!(Call::ALL.iter().all(|call| file.calls(*call) == 3));
        }
    }
    // A torn write is what its first bytes are.
    let torn = Fault { partial: 3, ..Fault::once(Call::Write, 0, io::ErrorKind::Other) };
    let file = Faulty::new(MemFile::new(vec![1; 6]), Some(torn));
    assert_eq!(file.write_at(1, &[7; 4]).unwrap_err().kind(), Kind::Io);
    assert_eq!(file.inner().bytes(), [1, 7, 7, 7, 1, 1]);
}
