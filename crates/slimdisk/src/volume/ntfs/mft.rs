//! `$MFT`: the table of file records, and reading what its attributes name.

use std::cell::Cell;
use std::ops::Range;

use super::boot::Geometry;
use super::file::{Clusters, File, Records, Stream};
use super::layout::{DATA, REFERENCE_NUMBER};
use super::record::{FileRecord, Value};
use super::runs::RunList;
use crate::error::{Error, Result};
use crate::storage::ReadAt;

/// All metadata but `$Bitmap` may take this many bytes to read. A sound volume
/// needs less than one MiB; a hostile one must not keep us for hours.
const METADATA_BUDGET: u64 = 64 << 20;

/// The volume's bytes, by cluster.
pub(super) struct Disk<'a> {
    bytes: &'a dyn ReadAt,
    pub(super) geometry: Geometry,
    budget: Cell<u64>,
}

impl<'a> Disk<'a> {
    pub(super) fn new(bytes: &'a dyn ReadAt, geometry: Geometry) -> Self {
        Disk { bytes, geometry, budget: Cell::new(METADATA_BUDGET) }
    }

    /// Reads metadata at a byte of the volume.
    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match self.budget.get().checked_sub(buf.len() as u64) {
            Some(left) => self.budget.set(left),
            None => {
                return Err(Error::invalid(format!(
                    "the metadata outside $Bitmap is more than {METADATA_BUDGET} bytes"
                )));
            }
        }
        self.bytes.read_at(offset, buf)
    }

    /// Reads metadata at a byte of an attribute's value.
    pub(super) fn read_value(
        &self,
        clusters: &Clusters,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        self.each_piece(clusters, offset, buf, |at, piece| self.read(at, piece))
    }

    /// The same for `$Bitmap`, whose length the volume's own size bounds.
    pub(super) fn read_map(
        &self,
        clusters: &Clusters,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        self.each_piece(clusters, offset, buf, |at, piece| self.bytes.read_at(at, piece))
    }

    /// Says that a part of `$Bitmap` will be read soon.
    pub(super) fn will_read_map(&self, clusters: &Clusters, range: Range<u64>) {
        let size = self.geometry.cluster_size;
        let mut pieces = Vec::new();
        for run in clusters.runs.from(range.start / size) {
            let start = run.vcn * size;
            if start >= range.end {
                break;
            }
            if let Some(lcn) = run.lcn {
                let skipped = range.start.saturating_sub(start);
                let end = (run.length * size).min(range.end - start);
                pieces.push(lcn * size + skipped..lcn * size + end);
            }
        }
        self.bytes.will_read(&pieces);
    }

    fn each_piece(
        &self,
        clusters: &Clusters,
        offset: u64,
        mut buf: &mut [u8],
        mut read: impl FnMut(u64, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let size = self.geometry.cluster_size;
        let outside =
            || Error::invalid("a structure lies beyond the end of its attribute");
        let end = offset.checked_add(buf.len() as u64).ok_or_else(outside)?;
        if end > clusters.size {
            return Err(outside());
        }
        let mut at = offset;
        while !buf.is_empty() {
            let run = clusters.runs.find(at / size).ok_or_else(outside)?;
            let into = at - run.vcn * size;
            let here = (run.length * size - into).min(buf.len() as u64);
            let here = usize::try_from(here).unwrap_or(buf.len());
            let (piece, rest) = std::mem::take(&mut buf)
                .split_at_mut_checked(here)
                .ok_or_else(outside)?;
            // What was never written reads as zeros, with clusters or without.
            let written = clusters.initialized.saturating_sub(at).min(here as u64);
            let written = usize::try_from(written).unwrap_or(here);
            let (written, unwritten) =
                piece.split_at_mut_checked(written).ok_or_else(outside)?;
            unwritten.fill(0);
            match run.lcn {
                Some(_) if written.is_empty() => {}
                Some(lcn) => read(lcn * size + into, written)?,
                None => written.fill(0),
            }
            buf = rest;
            at += here as u64;
        }
        Ok(())
    }
}

/// The table of file records.
pub(super) struct Mft<'a> {
    pub(super) disk: &'a Disk<'a>,
    pub(super) clusters: Clusters,
}

impl<'a> Mft<'a> {
    /// Finds all of `$MFT` through its own record 0.
    pub(super) fn open(disk: &'a Disk<'a>) -> Result<Self> {
        let geometry = &disk.geometry;
        let mut bytes = vec![0; geometry.record_size as usize];
        let start = geometry.mft_cluster * geometry.cluster_size;
        disk.read(start, &mut bytes)?;
        let base = FileRecord::parse(0, bytes).map_err(|error| error.at(start))?;
        let records = MftRecords { disk, first: first_extent(&base, geometry)? };
        let file = File::assemble(&base, &records)?;
        file.check_sizes(geometry)?;
        let clusters = data(&file.streams)
            .filter(|clusters| !clusters.runs.has_holes())
            .ok_or_else(|| Error::invalid("$MFT has no data"))?;
        if clusters.runs.find(0).and_then(|run| run.lcn) != Some(geometry.mft_cluster) {
            return Err(Error::invalid(
                "$MFT does not begin where the boot sector says it does",
            ));
        }
        Ok(Mft { disk, clusters: clusters.clone() })
    }

    /// How many records have ever been written.
    pub(super) fn count(&self) -> u64 {
        self.clusters.initialized / u64::from(self.disk.geometry.record_size)
    }

    /// Reads `count` records from `first` on in one go, unchecked.
    pub(super) fn read(&self, first: u64, count: u64) -> Result<Vec<u8>> {
        let size = u64::from(self.disk.geometry.record_size);
        if first >= self.count() || count > self.count() - first {
            return Err(Error::invalid(format!(
                "$MFT has no file record {first}, only {}",
                self.count()
            )));
        }
        let length = usize::try_from(count * size)
            .map_err(|_| Error::invalid("$MFT is larger than memory"))?;
        let mut bytes = vec![0; length];
        self.disk.read_value(&self.clusters, first * size, &mut bytes)?;
        Ok(bytes)
    }

    /// The file a reference means.
    pub(super) fn file(&self, reference: u64) -> Result<File> {
        let number = reference & REFERENCE_NUMBER;
        let record = FileRecord::parse(number, self.read(number, 1)?)?;
        if !record.is(reference) {
            return Err(Error::invalid(format!(
                "a directory entry names file record {number}, which holds another \
                 file by now"
            )));
        }
        self.assemble(&record)
    }

    /// The file of a base record.
    pub(super) fn assemble(&self, base: &FileRecord) -> Result<File> {
        let file = File::assemble(base, self)?;
        file.check_sizes(&self.disk.geometry)?;
        Ok(file)
    }
}

impl Records for Mft<'_> {
    fn geometry(&self) -> &Geometry {
        &self.disk.geometry
    }

    fn extension(&self, number: u64, _: &[Stream]) -> Result<FileRecord> {
        FileRecord::parse(number, self.read(number, 1)?)
    }

    fn read_all(&self, clusters: &Clusters) -> Result<Vec<u8>> {
        read_all(self.disk, clusters)
    }
}

/// Puts `$MFT` itself together: an extension record lies in the part of `$MFT`
/// that the records before it have named, the first of them in what record 0
/// names itself.
struct MftRecords<'a> {
    disk: &'a Disk<'a>,
    first: Clusters,
}

impl Records for MftRecords<'_> {
    fn geometry(&self) -> &Geometry {
        &self.disk.geometry
    }

    fn extension(&self, number: u64, streams: &[Stream]) -> Result<FileRecord> {
        let size = self.disk.geometry.record_size;
        let known = data(streams).unwrap_or(&self.first);
        let mut bytes = vec![0; size as usize];
        self.disk.read_value(known, number.saturating_mul(size.into()), &mut bytes)?;
        FileRecord::parse(number, bytes)
    }

    fn read_all(&self, clusters: &Clusters) -> Result<Vec<u8>> {
        read_all(self.disk, clusters)
    }
}

/// The part of `$MFT` that its record 0 names without its attribute list.
fn first_extent(base: &FileRecord, geometry: &Geometry) -> Result<Clusters> {
    for attribute in base.attributes()? {
        if let Value::NonResident(extent) = attribute.value
            && attribute.kind == DATA
            && attribute.name.is_empty()
            && extent.first_vcn == 0
        {
            let mut runs = RunList::default();
            runs.append(extent.runs, extent.end_vcn, geometry)?;
            let (size, initialized) = (extent.size, extent.initialized);
            return Ok(Clusters { runs, size, initialized });
        }
    }
    Err(Error::invalid("file record 0 of $MFT does not say where $MFT begins"))
}

/// Only for attributes whose size has been bounded.
fn read_all(disk: &Disk<'_>, clusters: &Clusters) -> Result<Vec<u8>> {
    let size = usize::try_from(clusters.size)
        .map_err(|_| Error::invalid("an attribute is larger than memory"))?;
    let mut bytes = vec![0; size];
    disk.read_value(clusters, 0, &mut bytes)?;
    Ok(bytes)
}

/// The unnamed data among `streams`, if it has clusters.
fn data(streams: &[Stream]) -> Option<&Clusters> {
    streams
        .iter()
        .find(|stream| stream.kind == DATA && stream.name.is_empty())
        .and_then(Stream::clusters)
}
