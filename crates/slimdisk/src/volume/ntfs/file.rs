//! A file: all attributes of its base record and its extension records, put
//! together along `$ATTRIBUTE_LIST`.

use super::boot::Geometry;
use super::layout::{ATTRIBUTE_LIST, AttributeListEntry, REFERENCE_NUMBER, parse};
use super::record::{Attribute, FileRecord, Value};
use super::runs::RunList;
use crate::error::{Error, Result};

/// Windows allows an attribute list no more (ntfs-3g `layout.h`).
const MAX_LIST: u64 = 256 << 10;

/// No file that Windows can write comes near this many: its attribute list would
/// be full before.
pub(super) const MAX_RUNS: usize = 1 << 20;

/// A file's attributes, each whole.
pub(super) struct File {
    /// The base record's number.
    pub(super) number: u64,
    pub(super) streams: Vec<Stream>,
    runs: usize,
}

/// One attribute, whole.
pub(super) struct Stream {
    pub(super) kind: u32,
    /// In UTF-16LE.
    pub(super) name: Vec<u8>,
    pub(super) flags: u16,
    pub(super) content: Content,
}

/// An attribute's value.
pub(super) enum Content {
    Resident(Vec<u8>),
    NonResident(Clusters),
}

/// The clusters of a non-resident attribute's value.
#[derive(Debug, Clone, Default)]
pub(super) struct Clusters {
    pub(super) runs: RunList,
    /// In bytes, not more than the runs hold.
    pub(super) size: u64,
    /// In bytes, not more than `size`; what follows reads as zeros.
    pub(super) initialized: u64,
}

/// What is needed of the volume to put a file together.
pub(super) trait Records {
    fn geometry(&self) -> &Geometry;

    /// Extension record `number` of the file whose attributes up to here are
    /// `streams` (`$MFT` finds its own extension records in that way).
    fn extension(&self, number: u64, streams: &[Stream]) -> Result<FileRecord>;

    /// The bytes of `clusters`.
    fn read_all(&self, clusters: &Clusters) -> Result<Vec<u8>>;
}

impl File {
    /// The attribute of this type and name.
    pub(super) fn stream(&self, kind: u32, name: &[u8]) -> Option<&Stream> {
        self.streams.iter().find(|stream| stream.kind == kind && stream.name == name)
    }

    /// Puts the file of `base` together.
    pub(super) fn assemble(base: &FileRecord, records: &dyn Records) -> Result<File> {
        let number = base.number;
        if !base.in_use || base.base != 0 {
            return Err(Error::invalid(format!(
                "file record {number} of $MFT should hold a file, but does not"
            )));
        }
        let geometry = records.geometry();
        let attributes = base.attributes()?;
        let mut file = File { number, streams: Vec::new(), runs: 0 };
        let list = attributes.iter().find(|attribute| attribute.kind == ATTRIBUTE_LIST);
        let Some(list) = list else {
            for attribute in &attributes {
                file.add(attribute, geometry)?;
            }
            return Ok(file);
        };
        file.add(list, geometry)?;
        let list = match file.streams.first().map(|stream| &stream.content) {
            Some(Content::NonResident(clusters)) if clusters.size <= MAX_LIST => {
                records.read_all(clusters)?
            }
            Some(Content::Resident(value)) => value.clone(),
            _ => return Err(file.damaged("has an attribute list of impossible size")),
        };
        // An attribute's extents often follow each other in one record.
        let mut extension: Option<FileRecord> = None;
        for entry in Entries(&list) {
            let entry =
                entry.ok_or_else(|| file.damaged("has a damaged attribute list"))?;
            if entry.header.kind.get() == ATTRIBUTE_LIST {
                continue;
            }
            let reference = entry.header.record.get();
            let attribute = if base.is(reference) {
                entry.find(&attributes)
            } else {
                if !extension.as_ref().is_some_and(|record| record.is(reference)) {
                    let wanted = reference & REFERENCE_NUMBER;
                    let record = records.extension(wanted, &file.streams)?;
                    if !record.in_use || !record.is(reference) || !base.is(record.base) {
                        return Err(file.damaged("names a foreign extension record"));
                    }
                    extension = Some(record);
                }
                match &extension {
                    Some(record) => {
                        let attributes = record.attributes()?;
                        if let Some(attribute) = entry.find(&attributes) {
                            file.add(attribute, geometry)?;
                            continue;
                        }
                        None
                    }
                    None => None,
                }
            };
            let attribute = attribute.ok_or_else(|| {
                file.damaged("lists an attribute that is not in its record")
            })?;
            file.add(attribute, geometry)?;
        }
        Ok(file)
    }

    /// Adds an attribute, or the next extent of one that is there already.
    fn add(&mut self, attribute: &Attribute<'_>, geometry: &Geometry) -> Result<()> {
        let extent = match &attribute.value {
            Value::Resident(value) => {
                self.streams.push(Stream {
                    kind: attribute.kind,
                    name: attribute.name.to_vec(),
                    flags: attribute.flags,
                    content: Content::Resident(value.to_vec()),
                });
                return Ok(());
            }
            Value::NonResident(extent) => extent,
        };
        if extent.initialized > extent.size {
            return Err(self.damaged("has an attribute of impossible size"));
        }
        let at = self.streams.iter().position(|stream| {
            stream.kind == attribute.kind
                && stream.name == attribute.name
                && stream.clusters().is_some()
        });
        if at.is_none() {
            self.streams.push(Stream {
                kind: attribute.kind,
                name: attribute.name.to_vec(),
                flags: attribute.flags,
                content: Content::NonResident(Clusters {
                    runs: RunList::default(),
                    size: extent.size,
                    initialized: extent.initialized,
                }),
            });
        } else if extent.first_vcn == 0 {
            return Err(self.damaged("has an attribute twice"));
        }
        let at = at.unwrap_or(self.streams.len() - 1);
        let Some(Content::NonResident(clusters)) =
            self.streams.get_mut(at).map(|stream| &mut stream.content)
        else {
            return Ok(());
        };
        if clusters.runs.end() != extent.first_vcn {
            return Err(self.damaged("has an attribute with a part missing"));
        }
        let before = clusters.runs.count();
        clusters.runs.append(extent.runs, extent.end_vcn, geometry).map_err(|error| {
            Error::invalid(format!(
                "file record {} of $MFT: {}",
                self.number,
                error.what()
            ))
        })?;
        self.runs += clusters.runs.count() - before;
        if self.runs > MAX_RUNS {
            return Err(self.damaged("is in more pieces than Windows can write"));
        }
        Ok(())
    }

    /// Fails if an attribute says it is longer than its clusters.
    pub(super) fn check_sizes(&self, geometry: &Geometry) -> Result<()> {
        for stream in &self.streams {
            if let Content::NonResident(clusters) = &stream.content
                && clusters.size > clusters.runs.end() * geometry.cluster_size
            {
                return Err(self.damaged("has an attribute longer than its clusters"));
            }
        }
        Ok(())
    }

    fn damaged(&self, what: &str) -> Error {
        Error::invalid(format!("file record {} of $MFT {what}", self.number))
    }
}

impl Stream {
    /// The clusters of a non-resident value.
    pub(super) fn clusters(&self) -> Option<&Clusters> {
        match &self.content {
            Content::NonResident(clusters) => Some(clusters),
            Content::Resident(_) => None,
        }
    }
}

/// The entries of an attribute list; `None` for one that is damaged.
struct Entries<'a>(&'a [u8]);

struct Entry<'a> {
    header: AttributeListEntry,
    name: &'a [u8],
}

impl<'a> Entries<'a> {
    fn split(&mut self) -> Option<Entry<'a>> {
        let header: AttributeListEntry = parse(self.0, 0)?;
        let length = usize::from(header.length.get());
        if length < size_of::<AttributeListEntry>() {
            return None;
        }
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        let start = usize::from(header.name_offset);
        let name = match usize::from(header.name_length) {
            0 => &[],
            length => bytes.get(start..start + 2 * length)?,
        };
        Some(Entry { header, name })
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Option<Entry<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let entry = self.split();
        if entry.is_none() {
            self.0 = &[];
        }
        Some(entry)
    }
}

impl Entry<'_> {
    fn find<'r, 'b>(&self, attributes: &'r [Attribute<'b>]) -> Option<&'r Attribute<'b>> {
        attributes.iter().find(|attribute| {
            attribute.kind == self.header.kind.get()
                && attribute.instance == self.header.instance.get()
                && attribute.name == self.name
                && match &attribute.value {
                    Value::Resident(_) => self.header.lowest_vcn.get() == 0,
                    Value::NonResident(extent) => {
                        extent.first_vcn == self.header.lowest_vcn.get()
                    }
                }
        })
    }
}
