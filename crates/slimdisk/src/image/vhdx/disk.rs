//! An open VHDX of any type.

mod holes;
mod linkage;
mod logged;
mod through;
mod verbs;
mod write;

use std::ops::Range;
use std::sync::Arc;

use super::bat::State;
use super::inspect::Structures;
use super::log::overlay::Replayed;
use super::log::writer::LogWriter;
use super::parent_locator::Locator;
use super::raw::{MIB, in_text_order};
use crate::error::{Error, Kind, Result};
use crate::image::parent::{ParentLink, ParentNames, id_text, without_parent};
use crate::image::sector_bitmap::SectorBitmaps;
use crate::image::{
    Facts, GuestWrite, Image, ImageType, Layout, Move, Release, check_writes, wrong_type,
};
use crate::ranges::Ranges;
use crate::storage::{ReadAt, Storage, past_the_end};

const FIXED: &str = "a fixed VHDX: only an expanding image can be compacted";

pub struct VhdxDisk {
    file: Arc<dyn Storage>,
    structures: Structures,
    notes: Vec<String>,
    /// Of a differencing image, once it was found.
    parent: Option<Arc<dyn Image>>,
    bitmaps: SectorBitmaps,
    /// Whether the headers tell of this session.
    begun: bool,
    /// Whether they are to tell that the guest's bytes are others.
    content_changes: bool,
    /// Whether the headers tell of holes that were punched before that, and then whether
    /// of other bytes.
    holes_told: Option<bool>,
    /// Once anything was logged.
    log: Option<LogWriter>,
    /// How far into the file anything has reached that the table named since the session
    /// began, for the log.
    reached: u64,
    /// A write failed: what is known here of the file may no longer be true.
    failed: bool,
}

impl VhdxDisk {
    /// An image of which everything has been checked.
    pub fn new(
        file: Arc<dyn Storage>,
        structures: Structures,
        mut notes: Vec<String>,
    ) -> Self {
        notes.extend(structures.notes.iter().cloned());
        VhdxDisk {
            file,
            structures,
            notes,
            parent: None,
            bitmaps: SectorBitmaps::default(),
            begun: false,
            content_changes: false,
            holes_told: None,
            log: None,
            reached: 0,
            failed: false,
        }
    }

    /// The file as it is once its log has been replayed.
    fn seen(&self) -> Replayed<'_> {
        Replayed { file: &self.file, overlay: &self.structures.overlay }
    }

    fn block_size(&self) -> u64 {
        self.structures.metadata.block_size
    }

    fn blocks(&self) -> u32 {
        self.structures.bat.blocks
    }

    fn is_differencing(&self) -> bool {
        self.structures.metadata.has_parent
    }

    fn is_fixed(&self) -> bool {
        self.structures.metadata.leave_blocks_allocated
    }

    /// The first range of the file from `at` on, and before `end`, that may hold
    /// anything but zeros; counted from `at`.
    fn next_data_in_file(&self, at: u64, end: u64) -> Result<Option<Range<u64>>> {
        let seen = self.seen();
        let end = end.min(seen.len());
        if at >= end {
            return Ok(None);
        }
        let found = seen.next_data(at)?.filter(|found| found.start < end);
        Ok(found.map(|found| found.start.max(at) - at..found.end.min(end) - at))
    }

    fn image_type(&self) -> ImageType {
        if self.is_differencing() {
            ImageType::Differencing
        } else if self.is_fixed() {
            ImageType::Fixed
        } else {
            ImageType::Dynamic
        }
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let Structures { headers, metadata, regions, .. } = &self.structures;
        let header = &headers.current;
        let sector = |size: u32| format!("{size} bytes");
        let mut details = vec![
            ("creator", self.structures.creator.clone()),
            ("unique id", id_text(&in_text_order(&header.data_write_guid))),
            ("virtual disk id", id_text(&in_text_order(&metadata.disk_id))),
            ("logical sectors", sector(metadata.logical_sector)),
            ("physical sectors", sector(metadata.physical_sector)),
        ];
        if let Some(locator) = &self.structures.locator {
            details.push(("parent unique id", id_text(&locator.linkage)));
        }
        for (id, range) in &regions.unknown {
            let (len, at) = (range.end - range.start, range.start);
            let id = id_text(&in_text_order(id));
            details.push(("unknown region", format!("{id}, {len} bytes at {at:#x}")));
        }
        details
    }
}

impl ReadAt for VhdxDisk {
    fn len(&self) -> u64 {
        self.structures.metadata.disk_size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let len = buf.len() as u64;
        if offset.checked_add(len).is_none_or(|end| end > self.len()) {
            return Err(past_the_end(offset, len, self.len()));
        }
        self.read_through(offset, buf)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>> {
        self.next_data_through(offset)
    }

    fn will_read(&self, ranges: &[Range<u64>]) {
        self.will_read_here(ranges);
    }
}

impl Image for VhdxDisk {
    fn facts(&self) -> Facts {
        let Structures { headers, locator, bat, .. } = &self.structures;
        let has_blocks = !self.is_fixed();
        let allocated = if has_blocks { bat.placed().count() } else { 0 };
        Facts {
            format: "vhdx",
            image_type: self.image_type(),
            virtual_size: self.len(),
            unique_id: Some(in_text_order(&headers.current.data_write_guid)),
            block_size: if has_blocks { self.block_size() } else { 0 },
            blocks_total: if has_blocks { self.blocks() } else { 0 },
            blocks_allocated: u32::try_from(allocated).unwrap_or(u32::MAX),
            details: self.details(),
            notes: self.notes.clone(),
            parent: locator
                .as_ref()
                .map(|l| l.names.last().map(|n| n.text.clone()).unwrap_or_default()),
            saved_state: false,
            geometry: None,
        }
    }

    fn settled(&self) -> Result<()> {
        Ok(())
    }

    fn compactable(&self) -> Result<()> {
        if self.is_fixed() {
            return Err(wrong_type(FIXED));
        }
        if self.is_differencing() && self.parent.is_none() {
            return Err(without_parent());
        }
        self.changeable()
    }

    fn parent_link(&self) -> Result<Option<ParentLink>> {
        Ok(self.structures.locator.as_ref().map(Locator::link))
    }

    fn set_parent(&mut self, parent: Arc<dyn Image>) -> Result<()> {
        let Some(locator) = &self.structures.locator else {
            return Err(wrong_type("only a differencing image has a parent"));
        };
        let mismatch = |what: String| Err(Error::new(Kind::ParentMismatch, what));
        if !locator.link().leads_to(parent.facts().unique_id) {
            return mismatch(format!(
                "the parent is not the disk {} that the image was made from",
                id_text(&locator.linkage)
            ));
        }
        let theirs = parent.facts().format;
        if theirs != "vhdx" {
            return mismatch(format!(
                "the parent of a VHDX must be a VHDX, and this one is a {theirs}: convert it \
                 and make the child anew"
            ));
        }
        let sector = self.structures.metadata.logical_sector;
        let theirs = parent.sector_size().unwrap_or(512);
        if theirs != sector {
            return mismatch(format!(
                "the parent's disk has sectors of {theirs} bytes, the image's of {sector}"
            ));
        }
        self.parent = Some(parent);
        Ok(())
    }

    fn parent(&self) -> Option<&Arc<dyn Image>> {
        self.parent.as_ref()
    }

    fn sector_size(&self) -> Option<u32> {
        Some(self.structures.metadata.logical_sector)
    }

    fn physical_sector_size(&self) -> Option<u32> {
        Some(self.structures.metadata.physical_sector)
    }

    fn disk_id(&self) -> Option<[u8; 16]> {
        Some(in_text_order(&self.structures.metadata.disk_id))
    }

    fn own_bytes(&self, block: u32) -> Result<Option<Ranges>> {
        match self.structures.bat.entry(block).state() {
            Some(State::Partially) => Ok(Some(self.bitmap(block)?.own_bytes())),
            _ => Ok(None),
        }
    }

    fn reads_as_zeros(&self, block: u32) -> bool {
        let state = self.structures.bat.entry(block).state();
        block < self.blocks()
            && matches!(state, Some(State::Zero | State::Unmapped | State::Undefined))
    }

    fn layout(&self) -> Option<Layout> {
        if self.is_fixed() {
            return None;
        }
        let bat = &self.structures.bat;
        Some(Layout {
            extents: bat.extents(),
            extent_len: self.block_size(),
            bitmap_len: MIB,
            chunk_blocks: bat.chunk_ratio(),
            partial: bat.partial(),
            modulus: MIB,
            remainder: 0,
            reserved: self.structures.reserved.clone(),
            trailer_len: 0,
            end_modulus: MIB,
            file_len: self.seen().len(),
        })
    }

    fn is_allocated(&self, block: u32) -> bool {
        self.structures.bat.entry(block).has_place()
    }

    fn read_block(&self, block: u32, offset: u64, buf: &mut [u8]) -> Result<()> {
        let size = self.block_size();
        let end = offset.checked_add(buf.len() as u64);
        if block >= self.blocks() || end.is_none_or(|end| end > size) {
            return Err(past_the_end(offset, buf.len() as u64, size));
        }
        self.read_through(u64::from(block) * size + offset, buf)
    }

    fn next_data_in_block(&self, block: u32, offset: u64) -> Result<Option<Range<u64>>> {
        let size = self.block_size();
        if offset >= size {
            return Ok(None);
        }
        let entry = self.structures.bat.entry(block);
        if self.is_differencing() && !self.reads_as_zeros(block) {
            // What is a hole here may be the parent's data.
            return Ok(Some(offset..size));
        }
        if !entry.has_data() {
            return Ok(None);
        }
        let place = entry.place();
        let found = self.next_data_in_file(place + offset, place + size)?;
        Ok(found.map(|found| offset + found.start..offset + found.end))
    }

    fn expect_parent(&mut self) -> Result<Option<[u8; 16]>> {
        self.expect_another_parent().map(Some)
    }

    fn become_disk(&mut self, id: &[u8; 16]) -> Result<()> {
        self.loggable()?;
        self.attempt(|image| image.become_another(id))
    }

    fn name_parent(&mut self, names: &ParentNames) -> Result<()> {
        self.rename_parent(names)
    }

    fn disputed_bytes(&self, block: u32) -> Result<Ranges> {
        // A place that was kept still has what the guest gave up.
        let given_up = self.reads_as_zeros(block) && self.is_allocated(block);
        Ok(given_up.then_some(0..self.block_size()).into_iter().collect())
    }

    fn punchable(&self) -> Result<()> {
        self.may_be_punched()
    }

    fn place(&self, at: u64) -> Option<Range<u64>> {
        self.place_of_byte(at)
    }

    fn is_settled_in_file(&self) -> bool {
        self.structures.overlay.is_empty()
    }

    fn punch(&mut self, ranges: &[Range<u64>]) -> Result<()> {
        self.punch_ranges(ranges)
    }

    fn writable(&self) -> Result<()> {
        self.may_be_written()
    }

    fn missing_bitmap(&self, block: u32) -> Option<u32> {
        self.bitmap_to_add(block)
    }

    fn file_len_with(&self, blocks: u64, bitmaps: u64) -> Result<u64> {
        self.may_be_written()?;
        self.len_with(blocks, bitmaps)
    }

    fn write(&mut self, writes: &[GuestWrite]) -> Result<()> {
        self.may_be_written()?;
        check_writes(writes, self.len())?;
        if writes.is_empty() {
            return Ok(());
        }
        self.tell_of_new_content()?;
        self.attempt(|image| image.write_sectors(writes))
    }

    fn replay(&mut self) -> Result<bool> {
        if !self.structures.headers.has_log() || self.begun {
            return Ok(false);
        }
        self.loggable()?;
        self.attempt(|image| {
            image.structures.put_in_order(&*image.file, false).map(|()| true)
        })
    }

    fn content_will_change(&mut self) -> Result<()> {
        self.tell_of_new_content()
    }

    fn zeros_hide_parent(&self) -> bool {
        true
    }

    fn release(&mut self, pieces: &[Release]) -> Result<()> {
        if pieces.is_empty() {
            return Ok(());
        }
        self.check_bitmaps_idle(pieces)?;
        self.bitmaps.forget();
        self.act(|image| image.release_pieces(pieces))
    }

    fn will_relocate(&self, moves: &[Move]) {
        if let Ok(changes) = self.changes_of(moves) {
            let transfers: Vec<_> =
                changes.into_iter().map(|(_, transfer)| transfer).collect();
            self.file.will_copy(&transfers);
        }
    }

    fn relocate(&mut self, moves: &[Move]) -> Result<()> {
        self.bitmaps.forget();
        self.act(|image| image.relocate_pieces(moves))
    }

    fn truncate(&mut self) -> Result<()> {
        if self.is_fixed() {
            return Err(wrong_type(FIXED));
        }
        self.loggable()?;
        self.attempt(Self::cut)
    }

    fn still_exclusive(&self) -> Result<()> {
        self.file.still_exclusive()?;
        self.parent.as_ref().map_or(Ok(()), |parent| parent.still_exclusive())
    }
}
