//! The volume's own files: what must be sound, and in use, for `$Bitmap` to be
//! believed.
//!
//! NTFS keeps no count of its free clusters, so `$Bitmap` is held against what is
//! known to be in use: the clusters of the first file records, which are those
//! of the volume itself and of the first files made on it.

use std::ops::Range;

use super::file::{File, MAX_RUNS};
use super::mft::Mft;
use super::page_file::PageFiles;
use super::record::FileRecord;
use crate::error::{Error, Result};

pub(super) const MFT_MIRROR: u64 = 1;
pub(super) const LOG_FILE: u64 = 2;
pub(super) const VOLUME: u64 = 3;
pub(super) const ROOT: u64 = 5;
pub(super) const BITMAP: u64 = 6;
const BOOT: u64 = 7;
const UP_CASE: u64 = 10;

/// The system files, by number, for the user to recognise.
const NAMES: [&str; 12] = [
    "$MFT",
    "$MFTMirr",
    "$LogFile",
    "$Volume",
    "$AttrDef",
    "the root directory",
    "$Bitmap",
    "$Boot",
    "$BadClus",
    "$Secure",
    "$UpCase",
    "$Extend",
];

/// Stands for the number of a page file's record.
const PAGE_FILE: u64 = u64::MAX;

/// How many records `$MFTMirr` repeats.
const MIRRORED: u64 = 4;

/// How many records from the first on are held against `$Bitmap`; files of users
/// begin at number 24 on Windows and 64 on ntfs-3g.
const WITNESSES: u64 = 128;

/// The files of the first records, put together.
pub(super) struct SystemFiles {
    files: Vec<File>,
    bases: Vec<FileRecord>,
}

impl SystemFiles {
    /// Reads the system files and the first files after them.
    pub(super) fn read(mft: &Mft<'_>) -> Result<Self> {
        let record_size = mft.disk.geometry.record_size as usize;
        let count = mft.count().min(WITNESSES);
        if count < NAMES.len() as u64 {
            return Err(Error::invalid("$MFT is too short for the system files"));
        }
        let bytes = mft.read(0, count)?;
        let mut found = SystemFiles { files: Vec::new(), bases: Vec::new() };
        for (number, bytes) in (0..).zip(bytes.chunks_exact(record_size)) {
            // Records never used may not even be formatted.
            if number >= NAMES.len() as u64 && bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            let record = FileRecord::parse(number, bytes.to_vec())?;
            let required = number <= UP_CASE && number != 9;
            if required || (record.in_use && record.base == 0) {
                found.files.push(mft.assemble(&record)?);
                if number < MIRRORED {
                    found.bases.push(record);
                }
            }
        }
        Ok(found)
    }

    /// System file `number`.
    pub(super) fn get(&self, number: u64) -> Result<&File> {
        self.files
            .iter()
            .find(|file| file.number == number)
            .ok_or_else(|| Error::invalid(format!("{} is missing", name(number))))
    }

    /// Fails unless `$MFTMirr` lies where the boot sector says and repeats the
    /// first records.
    pub(super) fn compare_mirror(&self, mft: &Mft<'_>) -> Result<()> {
        let differs = |what: &str| Error::invalid(format!("$MFTMirr {what}"));
        let geometry = &mft.disk.geometry;
        let size = u64::from(geometry.record_size);
        let mirror = self.get(MFT_MIRROR)?.stream(super::layout::DATA, b"");
        let clusters = mirror
            .and_then(|mirror| mirror.clusters())
            .filter(|clusters| clusters.initialized >= MIRRORED * size)
            .ok_or_else(|| differs("has no data"))?;
        if clusters.runs.find(0).and_then(|run| run.lcn) != Some(geometry.mirror_cluster)
        {
            return Err(differs("does not begin where the boot sector says it does"));
        }
        let mut copies = vec![0; usize::try_from(MIRRORED * size).unwrap_or(usize::MAX)];
        mft.disk.read_value(clusters, 0, &mut copies)?;
        let copies = copies.chunks_exact(geometry.record_size as usize);
        for (record, bytes) in self.bases.iter().zip(copies) {
            let copy = FileRecord::parse(record.number, bytes.to_vec())
                .map_err(|error| differs(&format!("is damaged: {}", error.what())))?;
            if !record.same_as(&copy) {
                return Err(differs(&format!(
                    "differs from $MFT in record {} ({})",
                    record.number,
                    name(record.number)
                )));
            }
        }
        Ok(())
    }

    /// The clusters of all these files and of `page_files`. Fails if two of them share
    /// one, or if the boot sector is not in `$Boot`.
    pub(super) fn clusters(&self, page_files: &PageFiles) -> Result<Occupied> {
        let mut runs: Vec<_> =
            page_files.clusters.iter().map(|range| (range.clone(), PAGE_FILE)).collect();
        for file in &self.files {
            if page_files.files.contains(&file.number) {
                continue;
            }
            for stream in &file.streams {
                for run in
                    stream.clusters().iter().flat_map(|clusters| clusters.runs.iter())
                {
                    if let Some(lcn) = run.lcn {
                        runs.push((lcn..lcn + run.length, file.number));
                    }
                }
            }
            if runs.len() > 2 * MAX_RUNS {
                return Err(Error::invalid("the system files are in too many pieces"));
            }
        }
        runs.sort_unstable_by_key(|(range, _)| range.start);
        for (one, next) in runs.iter().zip(runs.iter().skip(1)) {
            if next.0.start < one.0.end {
                return Err(Error::invalid(format!(
                    "{} and {} share cluster {}",
                    name(one.1),
                    name(next.1),
                    next.0.start
                )));
            }
        }
        if !runs.first().is_some_and(|(range, file)| range.start == 0 && *file == BOOT) {
            return Err(Error::invalid("$Boot does not hold the boot sector"));
        }
        Ok(Occupied(runs))
    }
}

/// Clusters known to be in use and the number of the file that uses them, sorted
/// and without overlaps.
pub(super) struct Occupied(Vec<(Range<u64>, u64)>);

impl Occupied {
    /// The first cluster of `free` that is in use, and the file that uses it.
    pub(super) fn conflict(&self, free: &Range<u64>) -> Option<(u64, String)> {
        let (range, file) =
            self.0.get(self.0.partition_point(|(range, _)| range.end <= free.start))?;
        (range.start < free.end).then(|| (range.start.max(free.start), name(*file)))
    }
}

fn name(number: u64) -> String {
    if number == PAGE_FILE {
        return "a page file".into();
    }
    usize::try_from(number)
        .ok()
        .and_then(|number| NAMES.get(number))
        .map_or_else(|| format!("the file in record {number}"), |name| (*name).into())
}
