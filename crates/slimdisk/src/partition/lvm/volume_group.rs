//! A volume group as its text describes it, every word of it known.
//!
//! Source: what lvm2 2.03 writes (`lib/format_text/export.c`, `flags.c`, learnt from,
//! not copied), and lvm(8), vgexport(8), lvmlockd(8).

use std::collections::BTreeMap;

use super::logical_volume::Logical;
use super::metadata_text::{Document, Section, Value};
use crate::error::{Error, Result};

/// Numbers in the text are in sectors of this many bytes, whatever the disk's are.
pub(super) const SECTOR: u64 = 512;

/// One volume group.
#[derive(Debug)]
pub(super) struct Group {
    pub name: String,
    pub id: String,
    pub seqno: u64,
    /// The size of an extent in bytes.
    pub extent: u64,
    /// By the names that segments use.
    pub physical: BTreeMap<String, Physical>,
    pub logical: Vec<Logical>,
}

/// What a volume group says of one of its physical volumes.
#[derive(Debug)]
pub(super) struct Physical {
    /// As the label writes it.
    pub uuid: String,
    /// The device it was last seen as, for people.
    pub device: String,
    /// In bytes.
    pub device_size: u64,
    /// Where the first extent begins, in bytes.
    pub start: u64,
    pub extents: u64,
}

const GROUP_KEYS: &[&str] = &[
    "id",
    "seqno",
    "format",
    "status",
    "flags",
    "tags",
    "system_id",
    "lock_type",
    "extent_size",
    "max_lv",
    "max_pv",
    "allocation_policy",
    "profile",
    "metadata_copies",
    "physical_volumes",
    "logical_volumes",
    "historical_logical_volumes",
];

const PHYSICAL_KEYS: &[&str] = &[
    "id",
    "device",
    "device_id",
    "device_id_type",
    "status",
    "flags",
    "tags",
    "dev_size",
    "pe_start",
    "pe_count",
    "ba_start",
    "ba_size",
];

impl Group {
    pub fn read(document: Document) -> Result<Group> {
        let Document { name, group, .. } = document;
        let fields = Fields { of: format!("volume group {name}"), section: &group };
        fields.known_keys(GROUP_KEYS)?;
        if fields.optional_text("format")?.is_some_and(|format| format != "lvm2") {
            return Err(fields.broken("is of another format than lvm2"));
        }
        for flag in fields.words("status")?.iter().chain(&fields.words("flags")?) {
            match *flag {
                // With a system ID or a lock, old programs are kept from writing.
                "RESIZEABLE" | "READ" | "WRITE" | "WRITE_LOCKED" => {}
                "EXPORTED" => {
                    return Err(fields.broken("is exported: import it (vgimport)"));
                }
                "PARTIAL" => return Err(fields.broken("lacks a physical volume")),
                "PVMOVE" => return Err(fields.broken(MOVING)),
                "CLUSTERED" | "SHARED" => return Err(fields.broken(SHARED)),
                other => {
                    return Err(fields.broken(&format!("has the unknown flag {other}")));
                }
            }
        }
        if fields.optional_text("lock_type")?.is_some_and(|kind| kind != "none") {
            return Err(fields.broken(SHARED));
        }
        let extent = fields
            .number("extent_size")?
            .checked_mul(SECTOR)
            .filter(|extent| *extent > 0)
            .ok_or_else(|| fields.broken("has an impossible extent size"))?;
        let mut physical = BTreeMap::new();
        for (key, section) in fields.sections("physical_volumes")? {
            let of = format!("physical volume {key} of {}", fields.of);
            let found = Physical::read(&Fields { of, section }, extent)?;
            physical.insert(key.clone(), found);
        }
        let mut logical = Vec::new();
        for (key, section) in fields.sections("logical_volumes")? {
            let of = format!("logical volume {name}/{key}");
            let found = Logical::read(key, &Fields { of, section }, &physical, extent)?;
            logical.push(found);
        }
        let id = fields.uuid("id")?;
        let seqno = fields.number("seqno")?;
        let group = Group { id, seqno, extent, physical, logical, name };
        group.check_extents()?;
        Ok(group)
    }

    /// No extent of a physical volume may be in two segments.
    fn check_extents(&self) -> Result<()> {
        let mut taken: Vec<_> = self.logical.iter().flat_map(Logical::extents).collect();
        taken.sort_unstable();
        for pair in taken.windows(2) {
            if let [(volume, start, count), (next, at, _)] = pair
                && volume == next
                && *at < start + count
            {
                return Err(Error::invalid(format!(
                    "volume group {} has extent {at} of {volume} in two segments: repair it \
                     in the guest (vgck)",
                    self.name
                )));
            }
        }
        Ok(())
    }
}

pub(super) const MOVING: &str =
    "is being moved: let the move end (pvmove), or abort it (pvmove --abort)";
const SHARED: &str = "is shared with other machines, which may be using it";

impl Physical {
    fn read(fields: &Fields<'_>, extent: u64) -> Result<Physical> {
        fields.known_keys(PHYSICAL_KEYS)?;
        for flag in fields.words("status")?.iter().chain(&fields.words("flags")?) {
            match *flag {
                "ALLOCATABLE" => {}
                "MISSING" => {
                    return Err(fields.broken(
                        "is missing: bring it back (vgextend --restoremissing) or take it \
                         out (vgreduce --removemissing)",
                    ));
                }
                "EXPORTED" => {
                    return Err(fields.broken("is exported: import it (vgimport)"));
                }
                other => {
                    return Err(fields.broken(&format!("has the unknown flag {other}")));
                }
            }
        }
        let bytes = |key: &str| {
            let bytes = fields.number(key)?.checked_mul(SECTOR);
            bytes.ok_or_else(|| fields.broken("has an impossible size"))
        };
        let physical = Physical {
            uuid: fields.uuid("id")?,
            device: fields.optional_text("device")?.unwrap_or("unknown").to_owned(),
            device_size: bytes("dev_size")?,
            start: bytes("pe_start")?,
            extents: fields.number("pe_count")?,
        };
        let end = physical
            .extents
            .checked_mul(extent)
            .and_then(|len| len.checked_add(physical.start));
        if end.is_none_or(|end| end > physical.device_size) {
            return Err(fields.broken("has extents beyond its end"));
        }
        Ok(physical)
    }
}

/// A section, and what to call it in a sentence.
pub(super) struct Fields<'a> {
    pub of: String,
    pub section: &'a Section,
}

impl<'a> Fields<'a> {
    pub fn broken(&self, what: &str) -> Error {
        Error::invalid(format!("{} {what}", self.of))
    }

    fn missing(&self, key: &str) -> Error {
        self.broken(&format!("lacks a sound {key}"))
    }

    /// The first key that is not one of `known`.
    pub fn unknown_key(&self, known: &[&str]) -> Option<&'a str> {
        self.section.keys().map(String::as_str).find(|key| !known.contains(key))
    }

    fn known_keys(&self, known: &[&str]) -> Result<()> {
        match self.unknown_key(known) {
            Some(key) => Err(self.broken(&format!("has the unknown property {key}"))),
            None => Ok(()),
        }
    }

    pub fn number(&self, key: &str) -> Result<u64> {
        match self.section.get(key) {
            Some(Value::Number(number)) => Ok(*number),
            _ => Err(self.missing(key)),
        }
    }

    pub fn text(&self, key: &str) -> Result<&'a str> {
        self.optional_text(key)?.ok_or_else(|| self.missing(key))
    }

    fn optional_text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.section.get(key) {
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.missing(key)),
            None => Ok(None),
        }
    }

    /// A list of words; none at all if the key is not there.
    pub fn words(&self, key: &str) -> Result<Vec<&'a str>> {
        let list = match self.section.get(key) {
            Some(Value::List(list)) => list.as_slice(),
            // One alone may stand without brackets.
            Some(word @ Value::Text(_)) => std::slice::from_ref(word),
            Some(_) => return Err(self.missing(key)),
            None => return Ok(Vec::new()),
        };
        list.iter()
            .map(|word| match word {
                Value::Text(word) => Ok(word.as_str()),
                _ => Err(self.missing(key)),
            })
            .collect()
    }

    /// The sections in a section; none at all if the key is not there.
    fn sections(&self, key: &str) -> Result<Vec<(&'a String, &'a Section)>> {
        let sections = match self.section.get(key) {
            Some(Value::Section(sections)) => sections,
            Some(_) => return Err(self.missing(key)),
            None => return Ok(Vec::new()),
        };
        sections
            .iter()
            .map(|(name, value)| match value {
                Value::Section(section) => Ok((name, section)),
                _ => Err(self.missing(name)),
            })
            .collect()
    }

    /// A UUID without the hyphens that the text has and the label has not.
    fn uuid(&self, key: &str) -> Result<String> {
        let uuid: String = self.text(key)?.chars().filter(|c| *c != '-').collect();
        if uuid.len() == 32 && uuid.bytes().all(|b| b.is_ascii_alphanumeric()) {
            Ok(uuid)
        } else {
            Err(self.missing(key))
        }
    }
}
