//! LVM2: volumes that are put together from pieces of partitions.
//!
//! ```text
//! partition = physical volume:
//!   label | metadata area | extent 0 | extent 1 | ... | extent n | maybe a second area
//! logical volume = segments, each a run of extents on one or more physical volumes
//! ```
//!
//! The metadata is a text, and each physical volume has up to two copies of it. lvm2
//! believes the newest one and mends the rest when it next writes. Here nothing is
//! believed that is not beyond doubt:
//!
//! 1. A **physical volume** has one label, whose checksum holds, whose areas do not
//!    overlap, and which is not larger than its partition. Each of its metadata areas
//!    that is in use holds a text whose checksum holds. Anything else makes it, and
//!    the volume group that names it, untrusted.
//! 2. A **volume group** is trusted if all copies of its metadata on the disk are the
//!    same; if every physical volume of it is on the disk, once, and agrees in its
//!    size and in where its data begins; if no other group claims one of them; and if
//!    every key and flag is known. Groups that are exported, clustered, shared or in
//!    the middle of a `pvmove` are not. A system ID only says who may use the group,
//!    so it does not matter.
//! 3. A **logical volume** is read if it consists of linear and striped segments
//!    alone, is visible, has no unknown flag, and no other volume is built upon it.
//!    (Beneath a snapshot, what its file system calls free is what the snapshot
//!    shows; a leg of a mirror or a cached volume is not what the guest sees.) All
//!    others are opaque.
//! 4. **Extents in no segment** are unallocated, if all segments of the group are of
//!    known types. The label, the metadata and what is left behind the last extent
//!    never are.
//!
//! Source: the headers of lvm2 2.03 and its manual pages, learnt from and held against
//! metadata that lvm2 wrote. No text of lvm2 is used.

mod checksum;
mod label;
mod logical_volume;
mod metadata_area;
mod metadata_text;
mod on_disk;
mod volume_group;

use std::collections::BTreeMap;
use std::ops::Range;

use self::label::Header;
use self::logical_volume::Logical;
use self::metadata_area::Copy;
use self::volume_group::Group;
use crate::error::{Kind, Result};
use crate::ranges::Ranges;
use crate::storage::{Mapping, ReadAt, Section};

/// What the signatures of volumes call a physical volume.
pub const SIGNATURE: &str = "LVM2";

/// How many values of metadata are held: of all groups of a disk together.
const VALUES: usize = 1 << 19;

/// The physical volumes of a disk and what they are put together to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lvm {
    /// In the order in which they were asked for.
    pub physical: Vec<PhysicalVolume>,
    /// Those of trusted volume groups, in the order of where they begin on the disk.
    pub logical: Vec<LogicalVolume>,
}

/// One physical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PhysicalVolume {
    /// Its bytes on the disk.
    pub range: Range<u64>,
    /// The volume group it belongs to, as far as that can be told.
    pub group: Option<String>,
    /// Bytes of the disk that are in no logical volume.
    pub unallocated: Ranges,
    /// Why nothing in it is read, in one sentence.
    pub untrusted: Option<String>,
}

/// One logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogicalVolume {
    /// Volume group and name: `vg0/root`.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Where on the disk it begins; if it has no bytes of its own there, where the
    /// first physical volume of its group does.
    pub offset: u64,
    /// Where its bytes lie; nothing if it is opaque.
    pub mapping: Mapping,
    /// Why its bytes must not be read as one volume.
    pub opaque: Option<String>,
}

/// Whether `volume` bears the label of a physical volume, be it damaged.
pub fn has_label(volume: &dyn ReadAt) -> Result<bool> {
    Ok(!label::marked_sectors(volume)?.is_empty())
}

/// Reads the physical volumes that lie at `places` of `disk`, which are all there
/// are. Damage is told in the volumes; an error means that the disk could not be read.
pub fn read(disk: &dyn ReadAt, places: &[Range<u64>]) -> Result<Lvm> {
    let mut found = Found::default();
    for place in places {
        found.add(disk, place)?;
    }
    found.check_groups();
    Ok(found.conclude())
}

/// A physical volume under examination.
struct Member {
    range: Range<u64>,
    header: Option<Header>,
    /// The ID of the group that its own metadata describes.
    group: Option<String>,
    /// Whether it has room for metadata that should be written, but is not.
    blank: bool,
    fault: Option<String>,
}

impl Member {
    fn is_at_fault(&mut self, reason: impl Into<String>) {
        self.fault.get_or_insert_with(|| reason.into());
    }
}

/// A volume group under examination.
struct Candidate {
    group: Group,
    /// Of the text that describes it.
    digest: blake3::Hash,
    /// The members that are its physical volumes, by the names segments use.
    members: BTreeMap<String, usize>,
    fault: Option<String>,
}

impl Candidate {
    fn is_at_fault(&mut self, reason: impl Into<String>) {
        self.fault.get_or_insert_with(|| reason.into());
    }
}

#[derive(Default)]
struct Found {
    members: Vec<Member>,
    /// By ID.
    groups: BTreeMap<String, Candidate>,
    values: usize,
}

impl Found {
    fn add(&mut self, disk: &dyn ReadAt, place: &Range<u64>) -> Result<()> {
        let volume = Section::new(disk, place.clone());
        let mut member = Member {
            range: place.clone(),
            header: None,
            group: None,
            blank: false,
            fault: None,
        };
        match label::read(&volume) {
            Ok(header) => {
                for area in &header.metadata {
                    self.add_copy(&volume, area, &mut member)?;
                }
                if member.blank && member.group.is_some() {
                    member.is_at_fault("one of its metadata areas is empty");
                }
                member.header = Some(header);
            }
            Err(error) if error.kind() == Kind::InvalidImage => {
                member.is_at_fault(error.to_string());
            }
            Err(error) => return Err(error),
        }
        self.members.push(member);
        Ok(())
    }

    /// Reads one copy of the metadata.
    fn add_copy(
        &mut self,
        volume: &dyn ReadAt,
        area: &Range<u64>,
        member: &mut Member,
    ) -> Result<()> {
        let read = metadata_area::read(volume, area).and_then(|copy| match copy {
            Copy::Ignored => Ok(None),
            Copy::Empty => {
                member.blank = true;
                Ok(None)
            }
            Copy::Text(text) => {
                let document = metadata_text::parse(&text)?;
                let own = text.get(..document.group_end).unwrap_or_default();
                let digest = blake3::hash(own);
                let values = document.values;
                Ok(Some((Group::read(document)?, digest, values)))
            }
        });
        let (group, digest, values) = match read {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == Kind::InvalidImage => {
                member.is_at_fault(error.to_string());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if member.group.as_ref().is_some_and(|id| *id != group.id) {
            member.is_at_fault("its two copies of the metadata are of two volume groups");
        }
        member.group = Some(group.id.clone());
        if let Some(known) = self.groups.get_mut(&group.id) {
            if known.digest != digest {
                let (name, first, second) = (&group.name, known.group.seqno, group.seqno);
                known.is_at_fault(format!(
                    "the copies of the metadata of volume group {name} differ (versions \
                     {first} and {second}): let lvm2 mend them in the guest (vgck \
                     --updatemetadata)"
                ));
            }
            return Ok(());
        }
        self.values += values;
        if self.values > VALUES {
            member.is_at_fault("the disk has more LVM2 metadata than is read");
            return Ok(());
        }
        let (members, fault) = (BTreeMap::new(), None);
        let id = group.id.clone();
        self.groups.insert(id, Candidate { group, digest, members, fault });
        Ok(())
    }

    /// Rule 2: finds the members of each group, and what speaks against it.
    fn check_groups(&mut self) {
        let mut by_uuid: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, member) in self.members.iter().enumerate() {
            if let Some(header) = &member.header {
                by_uuid.entry(&header.uuid).or_default().push(index);
            }
        }
        let mut claims: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (id, candidate) in &mut self.groups {
            let name = candidate.group.name.clone();
            let mut faults = Vec::new();
            for (key, physical) in &candidate.group.physical {
                let found = by_uuid.get(physical.uuid.as_str());
                let found = found.map_or(&[][..], Vec::as_slice);
                for index in found {
                    claims.entry(*index).or_default().push(id.clone());
                }
                let [index] = *found else {
                    let (device, count) = (&physical.device, found.len());
                    faults.push(match count {
                        0 => format!(
                            "a physical volume of volume group {name}, last seen as \
                             {device}, is not on this disk"
                        ),
                        _ => format!(
                            "a physical volume of volume group {name}, last seen as \
                             {device}, is on this disk {count} times"
                        ),
                    });
                    continue;
                };
                let Some(member) = self.members.get(index) else { continue };
                faults.extend(member.contradicts(
                    id,
                    &name,
                    physical,
                    candidate.group.extent,
                ));
                candidate.members.insert(key.clone(), index);
            }
            for fault in faults {
                candidate.is_at_fault(fault);
            }
        }
        for (index, ids) in claims {
            if ids.len() > 1 {
                for id in ids {
                    if let Some(candidate) = self.groups.get_mut(&id) {
                        candidate.is_at_fault(
                            "two volume groups claim the same physical volume",
                        );
                    }
                }
            } else if let (Some(member), [id]) = (self.members.get_mut(index), &*ids) {
                member.group.get_or_insert_with(|| id.clone());
            }
        }
        for (index, member) in self.members.iter_mut().enumerate() {
            let Some(candidate) =
                member.group.as_ref().and_then(|id| self.groups.get_mut(id))
            else {
                continue;
            };
            if !candidate.members.values().any(|listed| *listed == index) {
                member.is_at_fault("the metadata on it does not name it");
                let name = &candidate.group.name;
                let fault =
                    format!("a copy of the metadata of volume group {name} is elsewhere");
                candidate.is_at_fault(fault);
            }
        }
    }

    fn conclude(self) -> Lvm {
        let mut lvm = Lvm::default();
        for member in &self.members {
            let candidate = member.group.as_ref().and_then(|id| self.groups.get(id));
            let untrusted = member.fault.clone().or_else(|| match candidate {
                Some(candidate) => candidate.fault.clone(),
                None => Some(orphan(member)),
            });
            lvm.physical.push(PhysicalVolume {
                range: member.range.clone(),
                group: candidate.map(|candidate| candidate.group.name.clone()),
                unallocated: Ranges::new(),
                untrusted,
            });
        }
        for candidate in self.groups.values() {
            if candidate.fault.is_none() {
                candidate.put_together(&self.members, &mut lvm);
            }
        }
        lvm.logical.sort_by(|a, b| (a.offset, &a.name).cmp(&(b.offset, &b.name)));
        lvm
    }
}

/// Why a physical volume without a known group is not read.
fn orphan(member: &Member) -> String {
    let in_use = member.header.as_ref().and_then(|header| header.in_use);
    if in_use == Some(true) {
        "it belongs to a volume group whose metadata is not on this disk".to_owned()
    } else {
        "it belongs to no volume group: if it is not needed, remove its label (pvremove)"
            .to_owned()
    }
}

impl Member {
    /// What speaks against this being `physical` of the group `id`.
    fn contradicts(
        &self,
        id: &str,
        name: &str,
        physical: &volume_group::Physical,
        extent: u64,
    ) -> Option<String> {
        let header = self.header.as_ref()?;
        // Within the device: the group's text was checked for it.
        let extents = physical.start..physical.start + physical.extents * extent;
        let device = &physical.device;
        let of =
            format!("the physical volume of volume group {name} last seen as {device}");
        if let Some(fault) = &self.fault {
            return Some(format!("{of} is unsound: {fault}"));
        }
        if self.group.as_ref().is_some_and(|own| own != id) {
            return Some("two volume groups claim the same physical volume".into());
        }
        if self.blank {
            return Some(format!("{of} has a metadata area that is empty"));
        }
        if header.in_use == Some(false) {
            return Some(format!("{of} says that it belongs to no group"));
        }
        if header.device_size != physical.device_size || header.data != physical.start {
            return Some(format!(
                "{of} and its group do not agree on its size: let lvm2 mend it in the guest \
                 (pvresize, vgck --updatemetadata)"
            ));
        }
        if header.reserved().any(|r| r.start < extents.end && extents.start < r.end) {
            return Some(format!("{of} has its metadata among its extents"));
        }
        None
    }
}

impl Candidate {
    /// Adds the volumes of a trusted group.
    fn put_together(&self, members: &[Member], lvm: &mut Lvm) {
        let group = &self.group;
        // Where the extents of each physical volume begin on the disk.
        let mut starts = BTreeMap::new();
        for (key, index) in &self.members {
            if let (Some(member), Some(physical)) =
                (members.get(*index), group.physical.get(key))
            {
                starts.insert(key.as_str(), member.range.start + physical.start);
            }
        }
        let place = |volume: &str, extent: u64| {
            starts.get(volume).map(|start| start + extent * group.extent)
        };
        if group.logical.iter().all(|volume| volume.extents_known) {
            self.find_unallocated(&place, lvm);
        }
        let mut beneath: BTreeMap<&str, &str> = BTreeMap::new();
        for volume in &group.logical {
            let names = volume.names.iter();
            beneath.extend(names.map(|(name, kind)| (name.as_str(), kind.as_str())));
        }
        let first = self.members.values().filter_map(|index| members.get(*index));
        let first = first.map(|member| member.range.start).min().unwrap_or(0);
        for volume in &group.logical {
            let opaque = match beneath.get(volume.name.as_str()) {
                Some(kind) => Some(format!("a volume of type {kind} is built upon it")),
                None => volume.opaque.clone(),
            };
            let mapping = map(volume, &place);
            lvm.logical.push(LogicalVolume {
                name: format!("{}/{}", group.name, volume.name),
                size: volume.size,
                offset: mapping.start().unwrap_or(first),
                mapping: if opaque.is_none() { mapping } else { Mapping::default() },
                opaque,
            });
        }
    }

    /// Rule 4.
    fn find_unallocated(&self, place: &impl Fn(&str, u64) -> Option<u64>, lvm: &mut Lvm) {
        let group = &self.group;
        let mut taken: BTreeMap<&str, Ranges> = BTreeMap::new();
        let mut extents: Vec<_> =
            group.logical.iter().flat_map(Logical::extents).collect();
        extents.sort_unstable();
        for (volume, start, count) in extents {
            taken.entry(volume).or_default().insert(start..start + count);
        }
        for (key, index) in &self.members {
            let (Some(physical), Some(found)) =
                (group.physical.get(key), lvm.physical.get_mut(*index))
            else {
                continue;
            };
            let taken = taken.remove(key.as_str()).unwrap_or_default();
            for gap in taken.gaps(0..physical.extents).iter() {
                if let (Some(start), Some(end)) =
                    (place(key, gap.start), place(key, gap.end))
                {
                    found.unallocated.insert(start..end);
                }
            }
        }
    }
}

/// Where the bytes of the striped segments of a volume lie.
fn map(volume: &Logical, place: &impl Fn(&str, u64) -> Option<u64>) -> Mapping {
    let mut mapping = Mapping::default();
    for segment in &volume.segments {
        let areas = segment.areas.iter();
        let stripes = areas.filter_map(|(volume, start)| place(volume, *start)).collect();
        mapping.push(stripes, segment.chunk, segment.len);
    }
    mapping
}
