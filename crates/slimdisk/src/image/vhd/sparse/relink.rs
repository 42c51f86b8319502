//! Changing the names of the parent in place.
//!
//! ```text
//!    copy of the footer | header, names | table | blocks | header, names | footer
//! 1                                                         the new ones
//! 2          `-------------------------------------------------^---------------'
//! 3                       the new ones
//! 4          `-----------------^-----------------------------------------------'
//! ```
//!
//! The header has a checksum and no twin, and is two sectors long: written in place it
//! could be torn, and the image lost. So a second header is made behind the blocks, the
//! two footers, which are a sector each, are pointed to it one after the other, and the
//! first header, which nobody names any more, is written anew. Then back. After each step
//! there is a flush; between any two writes every footer that holds names a header that
//! holds, and all of them mean the same disk, table and blocks.
//!
//! A run that was cut short is finished by the next one: two footers that name two headers
//! are mended first ([`inspect`] takes them for one damaged), and where both name the
//! header behind the blocks, the place of the first is free and is written at once. For
//! that the second header remembers the rooms of the names: as locators without a code.

use std::ops::Range;
use std::time::SystemTime;

use zerocopy::IntoBytes;
use zerocopy::big_endian::U16;

use super::{EPOCH, SparseVhd, is_aligned};
use crate::error::{Error, Kind, Result};
use crate::image::parent::ParentNames;
use crate::image::vhd::inspect::inspect;
use crate::image::vhd::parent_locator::{self, Locatable};
use crate::image::vhd::place_for_footer;
use crate::image::vhd::raw::{
    DynamicHeader, FOOTER_LEN, HEADER_LEN, ParentLocator, SECTOR,
};
use crate::image::{Image, Severity, wrong_type};
use crate::storage::{ReadAt, Storage};

/// Where the header lies in every image that was made by the specification.
const USUAL_PLACE: u64 = FOOTER_LEN;

/// A header with the data of its locators, all to be written.
struct Written {
    at: u64,
    header: DynamicHeader,
    data: Vec<(u64, Vec<u8>)>,
}

/// A header as it is to be: what it says, and where its names go.
struct Planned {
    /// Without locators.
    header: DynamicHeader,
    /// The rooms there are, each with the name that it gets.
    rooms: Vec<(ParentLocator, Option<Locatable>)>,
}

impl SparseVhd {
    pub(super) fn change_names(&mut self, names: &ParentNames) -> Result<()> {
        self.file.still_exclusive()?;
        let two_headers = self.two_headers;
        let lost = self.trailing.is_none() && !two_headers;
        self.restore_leading()?;
        self.restore_trailing()?;
        self.refresh()?;
        if lost {
            // The length that the file had without it says nothing of how it should end.
            self.aligned = is_aligned(&self.sparse);
        }
        if lost || two_headers {
            // What an interrupted change has left behind the blocks.
            self.cut()?;
            self.refresh()?;
        }
        let home = self.home();
        let planned = self.planned(home, names)?;
        if self.footer.data_offset.get() == home {
            self.change_in_place(&planned)?;
        } else {
            self.write_header(&planned.at_home(home))?;
            self.point_leading(home)?;
            self.point_trailing()?;
            self.refresh()?;
            self.file.still_exclusive()?;
            self.cut()?;
        }
        self.refresh()
    }

    /// The names as they would be written, or why they cannot be; writes nothing.
    pub(super) fn planned_names(&self, names: &ParentNames) -> Result<()> {
        self.planned(self.home(), names).map(drop)
    }

    /// By way of a second header behind the blocks.
    fn change_in_place(&mut self, planned: &Planned) -> Result<()> {
        let (Some(layout), Some(trailing)) = (self.layout(), self.trailing) else {
            return Err(wrong_type("only an expanding image has a header"));
        };
        let home = self.footer.data_offset.get();
        let before = self.file.len();
        let mut second = planned.elsewhere(layout.end_of_data().next_multiple_of(SECTOR));
        let grows = second.end() > trailing;
        if grows {
            second = planned.elsewhere(before.next_multiple_of(SECTOR));
            let len = layout.file_len_after(second.end());
            self.append(&second, len).inspect_err(|_| {
                // The old footer is to end the file again. If that fails, too, there is
                // still its copy.
                let _ = self.file.set_len(before);
            })?;
            self.trailing = Some(len - FOOTER_LEN);
        } else {
            self.write_header(&second)?;
        }
        self.point_leading(second.at)?;
        self.point_trailing()?;

        self.file.still_exclusive()?;
        self.write_header(&planned.at_home(home))?;

        self.point_leading(home)?;
        if grows {
            // The footer that ends the file then has named that header all the time.
            self.file.still_exclusive()?;
            self.file.set_len(before)?;
            self.trailing = Some(trailing);
        } else {
            self.point_trailing()?;
            let len = usize::try_from(second.end() - second.at).unwrap_or(0);
            self.file.write_at(second.at, &vec![0; len])?;
        }
        self.file.flush()
    }

    /// Writes a header behind the file's end, and the footer so that it ends at `len`.
    fn append(&self, second: &Written, len: u64) -> Result<()> {
        let mut tail =
            vec![0; usize::try_from(len - FOOTER_LEN - second.at).unwrap_or(0)];
        for (at, bytes) in second.parts() {
            let start = usize::try_from(at - second.at).unwrap_or(usize::MAX);
            if let Some(part) = tail.get_mut(start..start.saturating_add(bytes.len())) {
                part.copy_from_slice(bytes);
            }
        }
        tail.extend_from_slice(self.footer.as_bytes());
        self.file.write_at(second.at, &tail)?;
        self.file.flush()
    }

    fn write_header(&self, header: &Written) -> Result<()> {
        for (at, bytes) in header.parts() {
            self.file.write_at(at, bytes)?;
        }
        self.file.flush()
    }

    /// Has the copy of the footer name the header at `at`; the footer follows.
    fn point_leading(&mut self, at: u64) -> Result<()> {
        self.footer.data_offset.set(at);
        self.footer.checksum.set(self.footer.computed_checksum());
        self.file.write_at(0, self.footer.as_bytes())?;
        self.file.flush()
    }

    fn point_trailing(&self) -> Result<()> {
        let Some(at) = self.trailing else { return Ok(()) };
        // Old footers lack the last byte, a reserved one.
        let there = usize::try_from(self.file.len().saturating_sub(at));
        let footer = self.footer.as_bytes();
        let footer = there.ok().and_then(|len| footer.get(..len)).unwrap_or(footer);
        self.file.write_at(at, footer)?;
        self.file.flush()
    }

    /// A lost footer at the end is written anew.
    fn restore_trailing(&mut self) -> Result<()> {
        if self.trailing.is_none() {
            let at = place_for_footer(&self.sparse, self.file.len());
            self.file.write_at(at, self.footer.as_bytes())?;
            self.file.flush()?;
            self.file.set_len(at + FOOTER_LEN)?;
            self.file.flush()?;
            self.trailing = Some(at);
        }
        Ok(())
    }

    /// Takes from the file what is known of it.
    fn refresh(&mut self) -> Result<()> {
        let mut findings = Vec::new();
        let found = inspect(&self.file, &mut findings)?;
        let broken = findings.iter().find(|f| f.severity == Severity::Error);
        let sparse = found.and_then(|mut found| found.sparse.take().map(|s| (found, s)));
        let (Some((structures, sparse)), None) = (sparse, broken) else {
            return Err(Error::new(
                Kind::Unexpected,
                "the image is not sound after its parent's names were changed: report \
                 this as a bug",
            ));
        };
        self.footer = structures.footer;
        self.leading_sound = structures.leading;
        self.two_headers = structures.other.is_some();
        self.trailing = structures.trailing;
        self.sparse = sparse;
        self.notes = findings.iter().map(ToString::to_string).collect();
        Ok(())
    }

    /// Where the header belongs: where it is, unless an interrupted change has left it
    /// behind the table and its usual place is still free.
    fn home(&self) -> u64 {
        let at = self.footer.data_offset.get();
        let usual = USUAL_PLACE..USUAL_PLACE + HEADER_LEN;
        if at >= self.sparse.table.end() && self.is_free(&usual) {
            USUAL_PLACE
        } else {
            at
        }
    }

    /// The rooms for names that go with a header at `home`: those that the header names
    /// now or, if it is to move there, those that it remembers and nobody has taken.
    fn rooms(&self, home: u64) -> Vec<ParentLocator> {
        let at = self.footer.data_offset.get();
        let locators = &self.sparse.header.parent_locators;
        let (named, nameless): (Vec<&ParentLocator>, Vec<_>) =
            locators.iter().partition(|locator| locator.platform_code != [0; 4]);
        if home == at {
            return named.into_iter().filter(|room| room.room() > 0).copied().collect();
        }
        // The first ones are those of the names that it has.
        let codes = named.iter().map(|locator| locator.platform_code);
        let mut rooms: Vec<ParentLocator> = Vec::new();
        for (room, platform_code) in
            nameless.into_iter().zip(codes.chain(std::iter::repeat([0; 4])))
        {
            let range = room_of(room);
            let apart =
                |other: Range<u64>| range.end <= other.start || other.end <= range.start;
            if room.room() > 0
                && range.end <= at
                && self.is_free(&range)
                && apart(home..home + HEADER_LEN)
                && rooms.iter().map(room_of).all(apart)
            {
                rooms.push(ParentLocator { platform_code, ..*room });
            }
        }
        rooms
    }

    /// Whether neither a structure nor a block lies in `range`.
    fn is_free(&self, range: &Range<u64>) -> bool {
        let extent_len = self.sparse.bitmap_len + self.sparse.block_size;
        let mut places = self.sparse.table.allocated().map(|(_, place)| place);
        !self.sparse.named.intersects(range)
            && places.all(|at| range.end <= at || at + extent_len <= range.start)
    }

    /// The header with the new names, as many as fit into the rooms.
    fn planned(&self, home: u64, names: &ParentNames) -> Result<Planned> {
        let mut header = self.sparse.header;
        let locatable = parent_locator::encode(&self.file, &header, names)?;
        header.parent_locators = Default::default();
        header.parent_time_stamp.set(seconds(names.modified));
        let rooms = placed(locatable, self.rooms(home));
        let mut codes = rooms.iter().filter_map(|(_, name)| Some(name.as_ref()?.code));
        // Windows has the whole path here. Where no locator holds the relative one, that
        // is worth more.
        let relative = codes.clone().any(|code| code == *b"W2ru");
        let mut texts = [names.windows_absolute(), names.windows_relative()];
        if !relative {
            texts.reverse();
        }
        let mut units = [U16::ZERO; 256];
        let fits = |text: &String| text.encode_utf16().count() < units.len();
        let text = texts.into_iter().flatten().find(fits);
        if text.is_none() && codes.next().is_none() {
            return Err(no_name(names));
        }
        let text = text.unwrap_or_default();
        for (slot, unit) in units.iter_mut().zip(text.encode_utf16()) {
            slot.set(unit);
        }
        header.parent_unicode_name = units;
        Ok(Planned { header, rooms })
    }
}

impl Planned {
    /// In its own place, the names in their rooms.
    fn at_home(&self, at: u64) -> Written {
        let mut header = self.header;
        let mut data = Vec::new();
        for (entry, (room, name)) in header.parent_locators.iter_mut().zip(&self.rooms) {
            let mut bytes = Vec::new();
            if let Some(name) = name {
                *entry = *room;
                entry.platform_code = name.code;
                entry.platform_data_length.set(name.len());
                bytes.clone_from(&name.data);
            }
            // The old name may have been longer.
            let old = u64::from(room.platform_data_length.get()).min(room.room());
            bytes.resize(bytes.len().max(usize::try_from(old).unwrap_or(0)), 0);
            data.push((room.platform_data_offset.get(), bytes));
        }
        header.checksum.set(header.computed_checksum());
        Written { at, header, data }
    }

    /// At `at`, with the names right behind it. The rooms are remembered, those in use
    /// first.
    fn elsewhere(&self, at: u64) -> Written {
        let mut header = self.header;
        let mut data = Vec::new();
        let mut next = at + HEADER_LEN;
        let mut entries = Vec::new();
        for name in self.rooms.iter().filter_map(|(_, name)| name.as_ref()) {
            let mut bytes = name.data.clone();
            bytes.resize(bytes.len().next_multiple_of(512), 0);
            let mut entry =
                ParentLocator { platform_code: name.code, ..Default::default() };
            // In bytes, as nearly everybody writes it.
            entry.platform_data_space.set(u32::try_from(bytes.len()).unwrap_or(0));
            entry.platform_data_length.set(name.len());
            entry.platform_data_offset.set(next);
            entries.push(entry);
            data.push((next, bytes));
            next += u64::from(entry.platform_data_space.get());
        }
        let (used, spare): (Vec<_>, Vec<_>) =
            self.rooms.iter().partition(|(_, name)| name.is_some());
        entries.extend(
            used.iter()
                .chain(&spare)
                .map(|(room, _)| ParentLocator { platform_code: [0; 4], ..*room }),
        );
        for (slot, entry) in header.parent_locators.iter_mut().zip(entries) {
            *slot = entry;
        }
        header.checksum.set(header.computed_checksum());
        Written { at, header, data }
    }
}

impl Written {
    fn parts(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let data = self.data.iter().map(|(at, bytes)| (*at, bytes.as_slice()));
        data.chain([(self.at, self.header.as_bytes())])
    }

    /// Where the last of it ends.
    fn end(&self) -> u64 {
        self.parts().map(|(at, bytes)| at + bytes.len() as u64).max().unwrap_or(self.at)
    }
}

/// Gives each name a room: the one that had such a name, else any into which it fits.
fn placed(
    names: Vec<Locatable>,
    rooms: Vec<ParentLocator>,
) -> Vec<(ParentLocator, Option<Locatable>)> {
    let mut rooms: Vec<_> = rooms.into_iter().map(|room| (room, None)).collect();
    let mut left = names;
    for own in [true, false] {
        left.retain(|name| {
            let mut rooms = rooms.iter_mut().filter(|(_, taken)| taken.is_none());
            let room = rooms.find(|(room, _)| {
                u64::from(name.len()) <= room.room()
                    && (!own || room.platform_code == name.code)
            });
            match room {
                Some((_, slot)) => {
                    *slot = Some(name.clone());
                    false
                }
                None => true,
            }
        });
    }
    rooms
}

/// The bytes of a locator's data, to whole sectors.
fn room_of(locator: &ParentLocator) -> Range<u64> {
    let start = locator.platform_data_offset.get();
    start..start.saturating_add(locator.room().next_multiple_of(SECTOR))
}

/// A time as the header has it; 0 where it is not known or cannot be written.
fn seconds(time: Option<SystemTime>) -> u32 {
    let since = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    since
        .and_then(|since| since.checked_sub(EPOCH))
        .and_then(|since| u32::try_from(since.as_secs()).ok())
        .unwrap_or(0)
}

fn no_name(names: &ParentNames) -> Error {
    if names.windows_relative().is_none() && names.windows_absolute().is_none() {
        return Error::new(
            Kind::InvalidName,
            "the path of the parent has a part that cannot be written into a VHD (no \
             Unicode, or a backslash): rename it",
        );
    }
    Error::new(
        Kind::PathTooLong,
        "the image has no room for the path of its parent: 255 characters in its header, \
         and what its parent locators have; give the parent a shorter path, or put it \
         beside the image",
    )
}
