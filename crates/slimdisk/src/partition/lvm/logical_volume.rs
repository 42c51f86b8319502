//! A logical volume and its segments.
//!
//! A segment of type `striped` deals its extents out to one area ("linear") or
//! several areas of physical volumes. Every other type is built upon further
//! logical volumes: snapshots, thin pools, caches, mirrors, RAID.

use std::collections::BTreeMap;

use super::metadata_text::{Section, Value};
use super::volume_group::{Fields, MOVING, Physical, SECTOR};
use crate::error::Result;

/// A logical volume as the text describes it.
#[derive(Debug)]
pub(super) struct Logical {
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// Its striped segments on physical volumes, in the order of the volume.
    pub segments: Vec<Striped>,
    /// Why it is more than those segments, if it is.
    pub opaque: Option<String>,
    /// What its other segments name (maybe other logical volumes), and the type of
    /// segment that does.
    pub names: BTreeMap<String, String>,
    /// Whether all extents that it takes are in `segments`.
    pub extents_known: bool,
}

/// A segment on physical volumes.
#[derive(Debug)]
pub(super) struct Striped {
    /// How many bytes it has.
    pub len: u64,
    /// How many bytes go to one area before it is the next one's turn.
    pub chunk: u64,
    /// Each area's physical volume and first extent.
    pub areas: Vec<(String, u64)>,
    /// How many extents each area has.
    pub extents: u64,
}

const LOGICAL_KEYS: &[&str] = &[
    "id",
    "status",
    "flags",
    "tags",
    "creation_time",
    "creation_host",
    "allocation_policy",
    "profile",
    "read_ahead",
    "major",
    "minor",
    "segment_count",
];

const STRIPED_KEYS: &[&str] = &[
    "start_extent",
    "extent_count",
    "type",
    "tags",
    "stripe_count",
    "stripe_size",
    "stripes",
];

/// The types whose segments take no extents themselves, unless they name a physical
/// volume.
const STACKED: &[&str] = &[
    "error",
    "zero",
    "snapshot",
    "thin",
    "thin-pool",
    "cache",
    "cache-pool",
    "writecache",
    "integrity",
    "vdo",
    "vdo-pool",
    "mirror",
    "raid0",
    "raid0_meta",
    "raid1",
    "raid10",
    "raid4",
    "raid5",
    "raid6",
];

/// As many as device-mapper takes.
const MAX_STRIPES: u64 = 128;

/// The smallest chunk in bytes; lvm2 makes none smaller than a page.
const MIN_CHUNK: u64 = 4096;

impl Logical {
    pub fn read(
        name: &str,
        fields: &Fields<'_>,
        physical: &BTreeMap<String, Physical>,
        extent: u64,
    ) -> Result<Logical> {
        let mut volume = Logical {
            name: name.to_owned(),
            size: 0,
            segments: Vec::new(),
            opaque: None,
            names: BTreeMap::new(),
            extents_known: true,
        };
        let mut sections = Vec::new();
        for (key, value) in fields.section {
            match value {
                Value::Section(section) if key.starts_with("segment") => {
                    let of = format!("{key} of {}", fields.of);
                    let segment = Fields { of, section };
                    sections.push((segment.number("start_extent")?, segment));
                }
                _ if LOGICAL_KEYS.contains(&key.as_str()) => {}
                _ => volume.is_opaque(&format!("it has the unknown property {key}")),
            }
        }
        volume.read_status(fields)?;
        if fields.number("segment_count")? != sections.len() as u64 {
            return Err(fields.broken("has more or fewer segments than it says"));
        }
        sections.sort_by_key(|(start, _)| *start);
        let mut extents = 0u64;
        for (start, segment) in &sections {
            let count = segment.number("extent_count")?;
            let end = start.checked_add(count).filter(|_| count > 0);
            match end {
                Some(end) if *start == extents => extents = end,
                _ => return Err(segment.broken("does not follow the one before it")),
            }
            volume.read_segment(segment, count, physical, extent)?;
        }
        match extents.checked_mul(extent) {
            Some(size) if size > 0 => volume.size = size,
            _ => return Err(fields.broken("has an impossible size")),
        }
        Ok(volume)
    }

    /// Makes the volume opaque; the first reason stays.
    fn is_opaque(&mut self, reason: &str) {
        self.opaque.get_or_insert_with(|| reason.to_owned());
    }

    fn read_status(&mut self, fields: &Fields<'_>) -> Result<()> {
        let status = fields.words("status")?;
        for flag in status.iter().chain(&fields.words("flags")?) {
            match *flag {
                "READ" | "WRITE" | "WRITE_LOCKED" | "VISIBLE" | "FIXED_MINOR"
                | "ACTIVATION_SKIP" => {}
                "PVMOVE" | "LOCKED" => return Err(fields.broken(MOVING)),
                other => self.is_opaque(&format!("it has the flag {other}")),
            }
        }
        if !status.contains(&"VISIBLE") {
            self.is_opaque("it is a hidden part of other volumes");
        }
        Ok(())
    }

    fn read_segment(
        &mut self,
        segment: &Fields<'_>,
        count: u64,
        physical: &BTreeMap<String, Physical>,
        extent: u64,
    ) -> Result<()> {
        let kind = segment.text("type")?;
        if kind != "striped" {
            self.is_opaque(&format!("it is of type {kind}"));
            return self.name_all(kind, segment.section, physical);
        }
        if let Some(key) = segment.unknown_key(STRIPED_KEYS) {
            self.is_opaque(&format!("its segments have the unknown property {key}"));
        }
        let stripes = segment.number("stripe_count")?;
        if stripes == 0 || stripes > MAX_STRIPES || !count.is_multiple_of(stripes) {
            return Err(segment.broken("has an impossible number of stripes"));
        }
        let extents = count / stripes;
        let Some(Value::List(list)) = segment.section.get("stripes") else {
            return Err(segment.broken("lacks its stripes"));
        };
        let mut areas = Vec::new();
        for pair in list.chunks(2) {
            let [Value::Text(name), Value::Number(start)] = pair else {
                return Err(segment.broken("has a stripe that is none"));
            };
            let Some(volume) = physical.get(name) else {
                self.is_opaque("it is built upon other logical volumes");
                self.extents_known = false;
                return self.name_all(kind, segment.section, physical);
            };
            let end = start.checked_add(extents);
            if end.is_none_or(|end| end > volume.extents) {
                return Err(segment.broken("has extents beyond the end of their volume"));
            }
            areas.push((name.clone(), *start));
        }
        if areas.len() as u64 != stripes {
            return Err(segment.broken("has more or fewer stripes than it says"));
        }
        // The extents lie within their volumes, so this is less than their size times
        // the number of stripes.
        let area_len = extents
            .checked_mul(extent)
            .ok_or_else(|| segment.broken("has an impossible size"))?;
        let len = area_len
            .checked_mul(stripes)
            .ok_or_else(|| segment.broken("has an impossible size"))?;
        let mut chunk = area_len;
        if stripes > 1 {
            chunk = segment.number("stripe_size")?.saturating_mul(SECTOR);
            if chunk < MIN_CHUNK || !area_len.is_multiple_of(chunk) {
                return Err(segment.broken("has an impossible stripe size"));
            }
        }
        self.segments.push(Striped { len, chunk, areas, extents });
        Ok(())
    }

    /// Notes everything that a segment names.
    fn name_all(
        &mut self,
        kind: &str,
        section: &Section,
        physical: &BTreeMap<String, Physical>,
    ) -> Result<()> {
        // "raid5_ls" and its like are layouts of "raid5".
        let family = kind.split('_').next().unwrap_or(kind);
        self.extents_known &= STACKED.contains(&kind) || STACKED.contains(&family);
        let mut rest: Vec<&Value> = section.values().collect();
        while let Some(value) = rest.pop() {
            match value {
                Value::Number(_) => {}
                Value::Text(name) => {
                    self.extents_known &= !physical.contains_key(name);
                    self.names.insert(name.clone(), kind.to_owned());
                }
                Value::List(list) => rest.extend(list),
                Value::Section(section) => rest.extend(section.values()),
            }
        }
        Ok(())
    }

    /// The extents of its striped segments: physical volume, first, count.
    pub fn extents(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        self.segments.iter().flat_map(|segment| {
            let areas = segment.areas.iter();
            areas.map(|(volume, start)| (volume.as_str(), *start, segment.extents))
        })
    }
}
