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
            if !base.is(reference)
                && !extension.as_ref().is_some_and(|record| record.is(reference))
            {
                let record =
                    records.extension(reference & REFERENCE_NUMBER, &file.streams)?;
                if !record.in_use || !record.is(reference) || !base.is(record.base) {
                    return Err(file.damaged("names a foreign extension record"));
                }
                extension = Some(record);
            }
            let record =
                extension.as_ref().filter(|record| record.is(reference)).unwrap_or(base);
            let attributes = record.attributes()?;
            let attribute = entry.find(&attributes).ok_or_else(|| {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Records 5 (the base) and 6 (its extension) of a file.
    struct Two {
        geometry: Geometry,
        extension: Vec<u8>,
    }

    impl Records for Two {
        fn geometry(&self) -> &Geometry {
            &self.geometry
        }

        fn extension(&self, number: u64, _: &[Stream]) -> Result<FileRecord> {
            FileRecord::parse(number, self.extension.clone())
        }

        fn read_all(&self, _: &Clusters) -> Result<Vec<u8>> {
            Err(Error::invalid("the list is resident"))
        }
    }

    /// A record of 1 KiB with sequence number 9.
    fn record(number: u8, base: u64, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut record = vec![0; 1024];
        let mut put = |at: usize, bytes: &[u8]| {
            record[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(0, b"FILE");
        put(4, &[0x30, 0, 3, 0]);
        put(16, &[9, 0]);
        put(20, &[0x38, 0, 1, 0]);
        put(28, &1024u32.to_le_bytes());
        put(32, &base.to_le_bytes());
        put(44, &[number]);
        let mut at = 0x38;
        for attribute in attributes {
            put(at, attribute);
            at += attribute.len();
        }
        put(at, &[0xFF; 4]);
        put(24, &u32::try_from(at + 8).unwrap().to_le_bytes());
        record
    }

    fn resident(kind: u32, value: &[u8]) -> Vec<u8> {
        let length = (24 + value.len()).next_multiple_of(8);
        let mut bytes = vec![0; length];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
        bytes[16..20].copy_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
        bytes[20] = 24;
        bytes[24..24 + value.len()].copy_from_slice(value);
        bytes
    }

    /// Two clusters of unnamed data from VCN `first` on at cluster `lcn`.
    fn extent(instance: u8, first: u8, lcn: u8) -> Vec<u8> {
        let mut bytes = vec![0; 72];
        bytes[..4].copy_from_slice(&0x80u32.to_le_bytes());
        bytes[4] = 72;
        bytes[8] = 1;
        bytes[14] = instance;
        bytes[16] = first;
        bytes[24] = first + 1;
        bytes[32] = 64;
        bytes[48..58].copy_from_slice(&[0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x10]);
        bytes[64..68].copy_from_slice(&[0x11, 2, lcn, 0]);
        bytes
    }

    fn entry(first: u8, reference: u64, instance: u8) -> Vec<u8> {
        let mut bytes = vec![0; 32];
        bytes[..4].copy_from_slice(&0x80u32.to_le_bytes());
        bytes[4] = 32;
        bytes[8] = first;
        bytes[16..24].copy_from_slice(&reference.to_le_bytes());
        bytes[24] = instance;
        bytes
    }

    const BASE: u64 = 9 << 48 | 5;
    const EXTENSION: u64 = 9 << 48 | 6;

    fn assemble(list: &[Vec<u8>], extension: Vec<u8>) -> Result<File> {
        let geometry = Geometry {
            cluster_size: 4096,
            clusters: 100,
            sectors_end: 409_600,
            mft_cluster: 4,
            mirror_cluster: 2,
            record_size: 1024,
        };
        let attributes = [resident(ATTRIBUTE_LIST, &list.concat()), extent(1, 0, 50)];
        let base = FileRecord::parse(5, record(5, 0, &attributes)).unwrap();
        File::assemble(&base, &Two { geometry, extension })
    }

    #[test]
    fn extents_join_along_the_list() {
        let list = [entry(0, BASE, 1), entry(2, EXTENSION, 7), entry(4, EXTENSION, 8)];
        let extension = record(6, BASE, &[extent(7, 2, 60), extent(8, 4, 20)]);
        let file = assemble(&list, extension).unwrap();
        let runs: Vec<_> = file
            .stream(0x80, b"")
            .and_then(Stream::clusters)
            .unwrap()
            .runs
            .iter()
            .map(|run| (run.vcn, run.lcn, run.length))
            .collect();
        assert_eq!(runs, [(0, Some(50), 2), (2, Some(60), 2), (4, Some(20), 2)]);
    }

    #[test]
    fn lists_that_do_not_fit_the_records_are_refused() {
        let refused = |what: &str, list: &[Vec<u8>], extension: Vec<u8>| {
            let error = assemble(list, extension).err().expect(what);
            assert!(error.what().contains(what), "{error} is not: {what}");
        };
        let good = || record(6, BASE, &[extent(7, 2, 60)]);
        let list = [entry(0, BASE, 1), entry(2, EXTENSION, 7)];
        assert!(assemble(&list, good()).is_ok());
        refused("foreign", &list, record(6, BASE + 1, &[extent(7, 2, 60)]));
        refused("foreign", &list, record(6, BASE + (1 << 48), &[extent(7, 2, 60)]));
        refused("foreign", &list, record(6, 0, &[extent(7, 2, 60)]));
        let stale = [entry(0, BASE, 1), entry(2, EXTENSION + (1 << 48), 7)];
        refused("foreign", &stale, good());
        refused("not in its record", &[entry(0, BASE, 2)], good());
        refused("not in its record", &[entry(2, BASE, 1)], good());
        let gap = [entry(0, BASE, 1), entry(3, EXTENSION, 7)];
        refused("a part missing", &gap, record(6, BASE, &[extent(7, 3, 60)]));
        let overlap = [entry(0, BASE, 1), entry(1, EXTENSION, 7)];
        refused("a part missing", &overlap, record(6, BASE, &[extent(7, 1, 60)]));
        refused("a part missing", &[entry(2, EXTENSION, 7)], good());
        refused("twice", &[entry(0, BASE, 1), entry(0, BASE, 1)], good());
        let mut cut = list.to_vec();
        cut[1].truncate(25);
        refused("damaged attribute list", &cut, good());
        let mut short = list.to_vec();
        short[1][4] = 0;
        refused("damaged attribute list", &short, good());
    }
}
