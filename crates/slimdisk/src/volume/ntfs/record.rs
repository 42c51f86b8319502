//! File records: a header and the attributes that fit in it.

use super::fixups;
use super::layout::{
    AttributeHeader, END_OF_ATTRIBUTES, NonResidentHeader, RECORD_IN_USE,
    REFERENCE_NUMBER, RecordHeader, ResidentHeader, parse,
};
use crate::error::{Error, Result};

/// A file record with its fixups applied and its header checked.
pub(super) struct FileRecord {
    /// Its number in `$MFT`.
    pub(super) number: u64,
    /// How often the record has been used for a new file.
    pub(super) sequence: u16,
    /// Whether it holds a file, or a part of one, at all.
    pub(super) in_use: bool,
    /// The reference of the base record; 0 in a base record.
    pub(super) base: u64,
    header: RecordHeader,
    attributes_start: usize,
    bytes: Vec<u8>,
}

/// An attribute, or one of its extents, as a record holds it.
pub(super) struct Attribute<'a> {
    pub(super) kind: u32,
    /// In UTF-16LE.
    pub(super) name: &'a [u8],
    pub(super) flags: u16,
    pub(super) instance: u16,
    pub(super) value: Value<'a>,
}

/// Where an attribute's value is.
pub(super) enum Value<'a> {
    /// In the record.
    Resident(&'a [u8]),
    /// In clusters of its own.
    NonResident(Extent<'a>),
}

/// A non-resident attribute's part in this record.
pub(super) struct Extent<'a> {
    pub(super) first_vcn: u64,
    /// The VCN after the last one.
    pub(super) end_vcn: u64,
    /// The value's length in bytes, valid in the first extent.
    pub(super) size: u64,
    /// How much of it has been written; the rest reads as zeros.
    pub(super) initialized: u64,
    pub(super) runs: &'a [u8],
}

impl FileRecord {
    /// Checks the record `number` as it was read from the volume.
    pub(super) fn parse(number: u64, mut bytes: Vec<u8>) -> Result<Self> {
        let wrong =
            |what: &str| Error::invalid(format!("file record {number} of $MFT {what}"));
        if bytes.get(..4) != Some(b"FILE") {
            return Err(wrong("does not begin with FILE"));
        }
        fixups::apply(&mut bytes).map_err(wrong)?;
        let header: RecordHeader = parse(&bytes, 0).ok_or_else(|| wrong("is short"))?;
        let start = usize::from(header.attributes_offset.get());
        let end = header.bytes_in_use.get() as usize;
        if !start.is_multiple_of(8)
            || start < 0x28
            || end < start
            || end > bytes.len()
            || header.bytes_allocated.get() as usize != bytes.len()
        {
            return Err(wrong("has impossible sizes"));
        }
        let in_use = header.flags.get() & RECORD_IN_USE != 0;
        // The field came with NTFS 3.1; older records keep their update sequence
        // there, and mkntfs numbers unused records wrongly.
        if in_use
            && usize::from(header.header.sequence_offset.get())
                >= size_of::<RecordHeader>()
            && u64::from(header.record_number.get()) != number & 0xFFFF_FFFF
        {
            return Err(wrong("says it is another one"));
        }
        bytes.truncate(end);
        Ok(FileRecord {
            number,
            sequence: header.sequence_number.get(),
            in_use,
            base: header.base_record.get(),
            header,
            attributes_start: start,
            bytes,
        })
    }

    /// Whether `reference` (a number and the sequence it was made with) means
    /// this record; sequence 0 stands for any.
    pub(super) fn is(&self, reference: u64) -> bool {
        let sequence = reference >> 48;
        reference & REFERENCE_NUMBER == self.number
            && (sequence == 0 || sequence == u64::from(self.sequence))
    }

    /// Whether both copies say the same of the file. The log sequence number and
    /// the update sequence change with each write of one copy.
    pub(super) fn same_as(&self, copy: &FileRecord) -> bool {
        self.sequence == copy.sequence
            && self.base == copy.base
            && self.header.flags == copy.header.flags
            && self.header.link_count == copy.header.link_count
            && self.attributes_start == copy.attributes_start
            && self.bytes.get(self.attributes_start..)
                == copy.bytes.get(copy.attributes_start..)
    }

    /// The attributes in the order they lie in.
    pub(super) fn attributes(&self) -> Result<Vec<Attribute<'_>>> {
        let mut found = Vec::new();
        let mut rest =
            self.bytes.get(self.attributes_start..).ok_or_else(|| self.damaged())?;
        loop {
            let kind = rest.first_chunk().ok_or_else(|| self.damaged())?;
            if u32::from_le_bytes(*kind) == END_OF_ATTRIBUTES {
                return Ok(found);
            }
            let header: AttributeHeader = parse(rest, 0).ok_or_else(|| self.damaged())?;
            let length = header.length.get() as usize;
            if !length.is_multiple_of(8) || length < size_of::<AttributeHeader>() {
                return Err(self.damaged());
            }
            let (bytes, after) =
                rest.split_at_checked(length).ok_or_else(|| self.damaged())?;
            found.push(attribute(&header, bytes).ok_or_else(|| self.damaged())?);
            rest = after;
        }
    }

    fn damaged(&self) -> Error {
        Error::invalid(format!(
            "the attributes of file record {} of $MFT are damaged",
            self.number
        ))
    }
}

fn attribute<'a>(header: &AttributeHeader, bytes: &'a [u8]) -> Option<Attribute<'a>> {
    let name_start = usize::from(header.name_offset.get());
    let name = match usize::from(header.name_length) {
        0 => &[],
        length => bytes.get(name_start..name_start + 2 * length)?,
    };
    let value = match header.non_resident {
        0 => {
            let resident: ResidentHeader = parse(bytes, size_of::<AttributeHeader>())?;
            let start = usize::from(resident.value_offset.get());
            let length = resident.value_length.get() as usize;
            Value::Resident(bytes.get(start..)?.get(..length)?)
        }
        1 => Value::NonResident(extent(bytes)?),
        _ => return None,
    };
    Some(Attribute {
        kind: header.kind.get(),
        name,
        flags: header.flags.get(),
        instance: header.instance.get(),
        value,
    })
}

fn extent(bytes: &[u8]) -> Option<Extent<'_>> {
    let header: NonResidentHeader = parse(bytes, size_of::<AttributeHeader>())?;
    let first_vcn = u64::try_from(header.lowest_vcn.get()).ok()?;
    // -1 for an attribute without clusters.
    let end_vcn = u64::try_from(header.highest_vcn.get().checked_add(1)?).ok()?;
    let size = u64::try_from(header.data_size.get()).ok()?;
    let initialized = u64::try_from(header.initialized_size.get()).ok()?;
    Some(Extent {
        first_vcn,
        end_vcn,
        size,
        initialized,
        runs: bytes.get(usize::from(header.runs_offset.get())..)?,
    })
}
