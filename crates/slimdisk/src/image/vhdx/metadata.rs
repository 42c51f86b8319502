//! The metadata region: a table of items and the items, which say what disk it is.
//!
//! Source: [MS-VHDX] 2.6.

use std::ops::Range;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::raw::{
    FILE_PARAMETERS, FileParameters, Guid, HAS_PARENT, INCOMPLETE_FILE, ITEM_FLAGS,
    ITEM_IS_REQUIRED, ITEM_IS_USER, LEAVE_BLOCKS_ALLOCATED, LOGICAL_SECTOR_SIZE,
    METADATA_SIGNATURE, METADATA_TABLE_LEN, MIB, MOST_ENTRIES, MetadataEntry,
    MetadataTableHeader, PARENT_LOCATOR, PHYSICAL_SECTOR_SIZE, VIRTUAL_DISK_ID,
    VIRTUAL_DISK_SIZE, in_text_order,
};
use super::rules::{Findings, error, note};
use crate::error::Result;
use crate::image::parent::id_text;
use crate::ranges::Ranges;
use crate::storage::{ReadAt, read_struct};

/// The largest disk: 64 TiB.
pub const LARGEST_DISK: u64 = 64 << 40;

/// Items that users may add.
const MOST_USER_ITEMS: usize = 1024;

/// What is known of the disk.
pub struct Metadata {
    pub block_size: u64,
    pub leave_blocks_allocated: bool,
    pub has_parent: bool,
    pub disk_size: u64,
    pub disk_id: Guid,
    pub logical_sector: u32,
    pub physical_sector: u32,
    /// Where in the file the parent locator lies.
    pub locator: Option<Range<u64>>,
    /// Where the table has its entry.
    pub locator_entry: u64,
    /// What of the region is taken by the table and by other items, in the file.
    pub taken: Ranges,
}

/// An entry of the table.
#[derive(Clone, Copy)]
struct Item {
    id: Guid,
    is_user: bool,
    /// Where the entry lies, and where the item does, in the file.
    entry_at: u64,
    at: u64,
    len: u64,
}

impl Metadata {
    pub fn read(
        file: &dyn ReadAt,
        region: &Range<u64>,
        findings: &mut Findings,
    ) -> Result<Option<Self>> {
        let Some(items) = read_table(file, region, findings)? else { return Ok(None) };
        Reader { file, region, items, findings }.read()
    }
}

fn read_table(
    file: &dyn ReadAt,
    region: &Range<u64>,
    findings: &mut Findings,
) -> Result<Option<Vec<Item>>> {
    let at = region.start;
    let mut table = vec![0; 64 << 10];
    if region.end - at < METADATA_TABLE_LEN {
        error(findings, "metadata region", at, "room for its table", "none");
        return Ok(None);
    }
    file.read_at(at, &mut table)?;
    let Ok((header, rest)) = MetadataTableHeader::read_from_prefix(&table) else {
        return Ok(None);
    };
    if header.signature != METADATA_SIGNATURE {
        let actual = format!("\"{}\"", header.signature.escape_ascii());
        error(findings, "metadata table signature", at, "metadata", actual);
        return Ok(None);
    }
    let count = header.entry_count.get();
    if u32::from(count) > MOST_ENTRIES {
        let expected = format!("at most {MOST_ENTRIES}");
        error(
            findings,
            "metadata table entry count",
            at + 10,
            expected,
            count.to_string(),
        );
        return Ok(None);
    }
    if header.reserved.get() != 0 || header.reserved_2 != [0; 20] {
        note(findings, "metadata table reserved bytes", at + 8, "zeros", "other bytes");
    }
    let mut items: Vec<Item> = Vec::new();
    let mut sound = true;
    let (entries, _) = rest.as_chunks::<32>();
    for (index, bytes) in (0u64..).zip(entries.iter().take(usize::from(count))) {
        let Ok(entry) = MetadataEntry::read_from_bytes(bytes) else { continue };
        let entry_at = at + 32 + 32 * index;
        let flags = entry.flags.get();
        if flags & !ITEM_FLAGS != 0 || entry.reserved_2.get() != 0 {
            let (name, expected) = ("metadata entry reserved bits", "zeros");
            note(findings, name, entry_at + 24, expected, "others");
        }
        let (offset, len) =
            (u64::from(entry.offset.get()), u64::from(entry.length.get()));
        let placed = if len == 0 {
            offset == 0
        } else {
            len <= MIB && offset >= METADATA_TABLE_LEN && offset + len <= region.end - at
        };
        let name = id_text(&in_text_order(&entry.item_id));
        if !placed {
            error(
                findings,
                format!("metadata item {name}"),
                entry_at + 16,
                "at most 1 MiB behind the table and inside the region",
                format!("{len} bytes at {offset:#x} of it"),
            );
            sound = false;
            continue;
        }
        let item = Item {
            id: entry.item_id,
            is_user: flags & ITEM_IS_USER != 0,
            entry_at,
            at: at + offset,
            len,
        };
        if flags & ITEM_IS_REQUIRED != 0 && !item.is_known() {
            error(
                findings,
                "metadata entry",
                entry_at,
                "no required item but those of the specification",
                format!("the required item {name}, which this program does not know"),
            );
            sound = false;
        }
        if item.id == INCOMPLETE_FILE {
            error(
                findings,
                "metadata entry",
                entry_at,
                "a file that was made to its end",
                "the mark of one that was not (make it again)",
            );
            sound = false;
        }
        items.push(item);
    }
    Ok((check_items(&items, findings) && sound).then_some(items))
}

impl Item {
    fn is_known(&self) -> bool {
        !self.is_user
            && matches!(
                self.id,
                FILE_PARAMETERS
                    | VIRTUAL_DISK_SIZE
                    | VIRTUAL_DISK_ID
                    | LOGICAL_SECTOR_SIZE
                    | PHYSICAL_SECTOR_SIZE
                    | PARENT_LOCATOR
            )
    }
}

/// Each item once, none on another.
fn check_items(items: &[Item], findings: &mut Findings) -> bool {
    let before = findings.len();
    let mut by_name: Vec<&Item> = items.iter().collect();
    by_name.sort_by_key(|item| (item.id, item.is_user, item.entry_at));
    for (a, b) in by_name.iter().zip(by_name.iter().skip(1)) {
        if (a.id, a.is_user) == (b.id, b.is_user) {
            error(
                findings,
                "metadata entry",
                b.entry_at,
                "an item of its own",
                format!("{} a second time", id_text(&in_text_order(&b.id))),
            );
        }
    }
    let mut by_place: Vec<&Item> = items.iter().filter(|item| item.len > 0).collect();
    by_place.sort_by_key(|item| item.at);
    for (a, b) in by_place.iter().zip(by_place.iter().skip(1)) {
        if b.at < a.at + a.len {
            error(
                findings,
                format!("metadata item {}", id_text(&in_text_order(&b.id))),
                b.at,
                "items that do not overlap",
                format!("another from {:#x} to {:#x}", a.at, a.at + a.len),
            );
        }
    }
    let users = items.iter().filter(|item| item.is_user).count();
    if let Some(last) = items.last()
        && users > MOST_USER_ITEMS
    {
        let expected = format!("at most {MOST_USER_ITEMS} items of users");
        error(findings, "metadata table", last.entry_at, expected, users.to_string());
    }
    findings.len() == before
}

struct Reader<'a> {
    file: &'a dyn ReadAt,
    region: &'a Range<u64>,
    items: Vec<Item>,
    findings: &'a mut Findings,
}

impl Reader<'_> {
    fn read(mut self) -> Result<Option<Metadata>> {
        let parameters =
            self.item::<FileParameters>(&FILE_PARAMETERS, "file parameters")?;
        let size = self.item::<U64>(&VIRTUAL_DISK_SIZE, "virtual disk size")?;
        let disk_id = self.item::<Guid>(&VIRTUAL_DISK_ID, "virtual disk id")?;
        let logical = self.item::<U32>(&LOGICAL_SECTOR_SIZE, "logical sector size")?;
        let physical = self.item::<U32>(&PHYSICAL_SECTOR_SIZE, "physical sector size")?;
        let (
            Some((parameters, parameters_at)),
            Some((size, size_at)),
            Some((disk_id, _)),
            Some((logical, logical_at)),
            Some((physical, physical_at)),
        ) = (parameters, size, disk_id, logical, physical)
        else {
            return Ok(None);
        };
        let before = self.findings.len();
        let block_size = u64::from(parameters.block_size.get());
        if !block_size.is_power_of_two() || !(MIB..=256 * MIB).contains(&block_size) {
            error(
                self.findings,
                "file parameters block size",
                parameters_at,
                "a power of two from 1 to 256 MiB",
                block_size.to_string(),
            );
        }
        for (value, at, name) in [
            (logical.get(), logical_at, "logical sector size"),
            (physical.get(), physical_at, "physical sector size"),
        ] {
            if !matches!(value, 512 | 4096) {
                error(self.findings, name, at, "512 or 4096", value.to_string());
            }
        }
        let disk_size = size.get();
        if disk_size == 0
            || disk_size > LARGEST_DISK
            || !disk_size.is_multiple_of(u64::from(logical.get().max(1)))
        {
            error(
                self.findings,
                "virtual disk size",
                size_at,
                "whole logical sectors, one at least and at most 64 TiB",
                disk_size.to_string(),
            );
        }
        if self.findings.len() > before {
            return Ok(None);
        }
        let flags = parameters.flags.get();
        if flags & !(LEAVE_BLOCKS_ALLOCATED | HAS_PARENT) != 0 {
            note(
                self.findings,
                "file parameters reserved bits",
                parameters_at + 4,
                "zeros",
                format!("{flags:#x}"),
            );
        }
        let has_parent = flags & HAS_PARENT != 0;
        let locator = self.find(&PARENT_LOCATOR);
        match (has_parent, locator) {
            (true, None) => {
                let start = self.region.start;
                let expected = "a parent locator in a differencing image";
                error(self.findings, "metadata table", start, expected, "none");
                return Ok(None);
            }
            (false, Some(item)) => note(
                self.findings,
                "metadata entry",
                item.entry_at,
                "no parent locator in an image without a parent",
                "one",
            ),
            _ => {}
        }
        Ok(Some(Metadata {
            block_size,
            // Of no meaning in a differencing image.
            leave_blocks_allocated: flags & LEAVE_BLOCKS_ALLOCATED != 0 && !has_parent,
            has_parent,
            disk_size,
            disk_id,
            logical_sector: logical.get(),
            physical_sector: physical.get(),
            locator: locator
                .filter(|_| has_parent)
                .map(|item| item.at..item.at + item.len),
            locator_entry: locator.map_or(0, |item| item.entry_at),
            taken: self.taken(locator.map_or(0, |item| item.entry_at)),
        }))
    }

    /// The table and all items but the one whose entry is at `but`.
    fn taken(&self, but: u64) -> Ranges {
        let start = self.region.start;
        let mut taken = Ranges::new();
        taken.insert(start..start + METADATA_TABLE_LEN);
        for item in self.items.iter().filter(|item| item.entry_at != but) {
            taken.insert(item.at..item.at + item.len);
        }
        taken
    }

    fn find(&self, id: &Guid) -> Option<Item> {
        self.items.iter().find(|item| item.id == *id && !item.is_user).copied()
    }

    /// Reads an item of a fixed size; what it says and where it lies.
    fn item<T: FromBytes + IntoBytes>(
        &mut self,
        id: &Guid,
        name: &str,
    ) -> Result<Option<(T, u64)>> {
        let Some(item) = self.find(id) else {
            let start = self.region.start;
            let expected = format!("the item {name}");
            error(self.findings, "metadata table", start, expected, "none");
            return Ok(None);
        };
        if item.len != size_of::<T>() as u64 {
            error(
                self.findings,
                name,
                item.entry_at + 20,
                format!("{} bytes", size_of::<T>()),
                format!("{} bytes", item.len),
            );
            return Ok(None);
        }
        Ok(Some((read_struct(self.file, item.at)?, item.at)))
    }
}
