//! Where the volumes of a disk lie: partitions, the bare disk, and what LVM2 puts
//! together from them.

use std::ops::Range;

use super::judge::unknown;
use crate::compact::report::{VolumeReport, VolumeState};
use crate::error::Result;
use crate::partition::lvm::{self, LogicalVolume, PhysicalVolume};
use crate::partition::{self, PartitionTable, Scheme};
use crate::ranges::Ranges;
use crate::storage::{Mapped, Mapping, ReadAt};
use crate::volume::{self, Identity};

/// Where a volume may lie.
pub struct Place {
    /// What is known of it before its file system is read: above all where it is.
    pub report: VolumeReport,
    /// Where its bytes lie.
    pub mapping: Mapping,
    /// Bytes of the disk that are not outside of every volume because of it.
    pub space: Ranges,
    pub content: Content,
}

/// What is to be done with a place.
pub enum Content {
    /// Nothing: the report says all.
    Opaque,
    /// It is to be judged as what it is.
    Volume(Identity),
    /// It is to be looked at first.
    LogicalVolume,
}

/// The partitions, or all of a disk without a partition table. Physical volumes of
/// LVM2 are each followed by the logical volumes that begin in them.
pub fn places(disk: &dyn ReadAt, table: &PartitionTable) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    let mut physical = Vec::new();
    for (partition, range, opaque) in partitions(disk, table) {
        let mut place = Place::new(partition, range.clone());
        match opaque {
            Some(reason) => place.report.reason = Some(reason),
            None => {
                let volume = Mapped::new(disk, &place.mapping);
                let identity = volume::identify(&volume)?;
                if matches!(identity, Identity::Foreign(lvm::SIGNATURE)) {
                    physical.push(range);
                }
                place.content = Content::Volume(identity);
            }
        }
        places.push(place);
    }
    if physical.is_empty() {
        return Ok(places);
    }
    let found = lvm::read(disk, &physical)?;
    let mut logical = found.logical.into_iter().peekable();
    let mut physical = found.physical.into_iter().peekable();
    let mut all = Vec::new();
    for mut place in places {
        let own = place.space.clone();
        let within = |at: u64| own.covers(&(at..at + 1));
        let partition = place.report.partition;
        if let Some(volume) = physical.next_if(|volume| within(volume.range.start)) {
            place.hold(&volume);
        }
        all.push(place);
        while let Some(volume) = logical.next_if(|volume| within(volume.offset)) {
            all.push(Place::of_logical(partition, volume));
        }
    }
    Ok(all)
}

/// Number and range of each partition, and why it is not read, if it is not.
fn partitions(
    disk: &dyn ReadAt,
    table: &PartitionTable,
) -> Vec<(Option<u32>, Range<u64>, Option<String>)> {
    let distrust = &table.untrusted;
    match table.scheme {
        Scheme::Bare => vec![(None, 0..disk.len(), distrust.clone())],
        _ => table
            .partitions
            .iter()
            .map(|partition| {
                let opaque = distrust.clone().or(partition.opaque.map(str::to_owned));
                (Some(partition.number), partition.range.clone(), opaque)
            })
            .collect(),
    }
}

/// What a logical volume is; an error in words if it must not be read. It may hold
/// a disk of its own, and what is left of a file system beneath that disk's table
/// would be taken for a living one.
pub fn identify_logical(volume: &dyn ReadAt) -> Result<Result<Identity, String>> {
    let table = partition::read_table(volume)?;
    if table.scheme == Scheme::Bare && table.untrusted.is_none() {
        return volume::identify(volume).map(Ok);
    }
    Ok(Err("it holds a disk with a partition table of its own, which is not read; judged by \
            zeros alone"
        .to_owned()))
}

impl Place {
    fn new(partition: Option<u32>, range: Range<u64>) -> Place {
        Place {
            report: VolumeReport {
                partition,
                offset: range.start,
                length: range.end.saturating_sub(range.start),
                ..unknown(None)
            },
            mapping: Mapping::contiguous(range.clone()),
            space: std::iter::once(range).collect(),
            content: Content::Opaque,
        }
    }

    fn of_logical(partition: Option<u32>, volume: LogicalVolume) -> Place {
        Place {
            content: match volume.opaque {
                Some(_) => Content::Opaque,
                None => Content::LogicalVolume,
            },
            report: VolumeReport {
                partition,
                logical_volume: Some(volume.name),
                offset: volume.offset,
                length: volume.size,
                ..unknown(volume.opaque.map(|reason| {
                    format!("{reason}, so it is not read; judged by zeros alone")
                }))
            },
            mapping: volume.mapping,
            // Its physical volumes' space.
            space: Ranges::new(),
        }
    }

    /// Makes it the place of a physical volume.
    fn hold(&mut self, volume: &PhysicalVolume) {
        self.content = Content::Opaque;
        self.report.filesystem = Some(lvm::SIGNATURE.into());
        self.report.label.clone_from(&volume.group);
        self.report.reason.clone_from(&volume.untrusted);
        self.report.state = VolumeState::Untrusted;
        if volume.untrusted.is_none() {
            self.report.state = VolumeState::Trusted;
            self.space = volume.unallocated.gaps(volume.range.clone());
        }
    }
}
