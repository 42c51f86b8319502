//! Which disk the image is, and which one its parent is.
//!
//! A child knows its parent by an identity that changes with the parent's content. So
//! before anything is written into a parent, its child is told of the identity that comes
//! next, beside the one that is; then the parent takes it on; then the content changes.
//! There is no moment at which the two do not know each other.
//!
//! The parent locator lies somewhere in the metadata region and is rewritten, together
//! with its entry in the table there, in one entry of the log: all of it or nothing.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use zerocopy::IntoBytes;

use super::VhdxDisk;
use crate::error::{Error, Kind, Result};
use crate::image::new::unique_id;
use crate::image::parent::{ParentNames, without_parent};
use crate::image::vhdx::log::writer::MOST_PAGES;
use crate::image::vhdx::metadata::Metadata;
use crate::image::vhdx::parent_locator::{
    LINKAGE, LINKAGE_2, Locator, Pair, encode, guid_text,
};
use crate::image::vhdx::raw::{MIB, MetadataEntry, PAGE, in_text_order};
use crate::image::vhdx::rules::{Findings, is_sound};
use crate::image::wrong_type;
use crate::storage::{ReadAt, read_struct};

/// Pages of the file by their place.
type Pages = BTreeMap<u64, Vec<u8>>;

impl VhdxDisk {
    /// Enters an identity that nobody else has as the one that the parent may have, too.
    ///
    /// The one that it has stands first then. What was first before may be an old one, if
    /// this child was being merged already: the parent has taken on the second then, and
    /// never goes back.
    pub(super) fn expect_another_parent(&mut self) -> Result<[u8; 16]> {
        let parent = self.parent.as_ref().ok_or_else(without_parent)?;
        let now = parent.facts().unique_id.ok_or_else(without_parent)?;
        let next = unique_id();
        let pairs = self.locator()?.with(&[
            (LINKAGE, Some(guid_text(&now))),
            (LINKAGE_2, Some(guid_text(&next))),
        ]);
        self.change_locator(&pairs).map(|()| next)
    }

    /// Takes on another identity.
    pub(super) fn become_another(&mut self, id: &[u8; 16]) -> Result<()> {
        self.begin()?;
        let id = in_text_order(id);
        let headers = &mut self.structures.headers;
        headers.update(&*self.file, |header| header.data_write_guid = id)?;
        self.content_changes = true;
        Ok(())
    }

    pub(super) fn rename_parent(&mut self, names: &ParentNames) -> Result<()> {
        let locator = self.locator()?;
        if names.windows_relative().is_none() && names.windows_absolute().is_none() {
            return Err(Error::new(
                Kind::InvalidName,
                "the path of the parent has a part that cannot be written into a VHDX (no \
                 Unicode, or a backslash): rename it",
            ));
        }
        let pairs = locator.renamed(names);
        self.change_locator(&pairs)
    }

    fn locator(&self) -> Result<&Locator> {
        let none = || wrong_type("only a differencing image has a parent");
        self.structures.locator.as_ref().ok_or_else(none)
    }

    /// Writes the parent locator anew. Durable when it returns; nothing is written if it
    /// cannot be done.
    fn change_locator(&mut self, pairs: &[Pair]) -> Result<()> {
        self.loggable()?;
        let item = encode(pairs).ok_or_else(|| too_long("with so long a path"))?;
        self.pages_with(&item)?;
        self.attempt(|image| {
            image.begin()?;
            // As they are now that the log has been replayed.
            let pages = image.pages_with(&item)?;
            let pages: Vec<(u64, Cow<'_, [u8]>)> =
                pages.iter().map(|(at, page)| (*at, page.into())).collect();
            image.write_logged(&pages)?;
            image.close_log()?;
            image.read_locator()
        })
    }

    /// The pages of the metadata region that change with the locator: in place if there
    /// is room, else where the region is free.
    fn pages_with(&self, item: &[u8]) -> Result<Pages> {
        let region = &self.structures.regions.metadata;
        let metadata = &self.structures.metadata;
        let old = metadata.locator.clone().unwrap_or_default();
        let len = item.len() as u64;
        let fits = |start: &u64| {
            let range = *start..start.saturating_add(len);
            len <= MIB && range.end <= region.end && !metadata.taken.intersects(&range)
        };
        let gaps = metadata.taken.gaps(region.clone());
        let start = std::iter::once(old.start)
            .chain(gaps.iter().map(|gap| gap.start))
            .find(fits)
            .ok_or_else(|| too_long("in the metadata region"))?;
        let entry_at = metadata.locator_entry;
        let mut entry: MetadataEntry = read_struct(&self.seen(), entry_at)?;
        // The region has at most 4 GiB.
        let within = u32::try_from(start - region.start).unwrap_or(u32::MAX);
        entry.offset.set(within);
        entry.length.set(u32::try_from(len).unwrap_or(u32::MAX));
        let mut pages = Pages::new();
        self.lay(&mut pages, start, item)?;
        self.lay(&mut pages, entry_at, entry.as_bytes())?;
        if pages.len() > MOST_PAGES {
            return Err(too_long("in one entry of the log"));
        }
        Ok(pages)
    }

    /// Lays bytes over the pages that they belong into.
    pub(super) fn lay(&self, pages: &mut Pages, at: u64, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        let mut at = at;
        while !rest.is_empty() {
            let start = at / PAGE * PAGE;
            let within = usize::try_from(at - start).unwrap_or(0);
            let room = usize::try_from(PAGE).unwrap_or(0) - within;
            let (part, after) = rest.split_at(room.min(rest.len()));
            let page = match pages.entry(start) {
                Entry::Occupied(page) => page.into_mut(),
                Entry::Vacant(vacant) => {
                    let mut page = vec![0; usize::try_from(PAGE).unwrap_or(0)];
                    self.seen().read_at(start, &mut page)?;
                    vacant.insert(page)
                }
            };
            if let Some(to) =
                page.get_mut(within..).and_then(|page| page.get_mut(..part.len()))
            {
                to.copy_from_slice(part);
            }
            at += part.len() as u64;
            rest = after;
        }
        Ok(())
    }

    /// Takes from the file what is known of the locator.
    fn read_locator(&mut self) -> Result<()> {
        let mut findings = Findings::new();
        let region = &self.structures.regions.metadata;
        let metadata = Metadata::read(&self.seen(), region, &mut findings)?;
        let mut locator = None;
        if let Some(item) = metadata.as_ref().and_then(|found| found.locator.as_ref()) {
            locator = Locator::read(&self.seen(), item, &mut findings)?;
        }
        match (metadata, locator) {
            (Some(metadata), Some(locator)) if is_sound(&findings) => {
                self.structures.metadata = metadata;
                self.structures.locator = Some(locator);
                Ok(())
            }
            _ => Err(Error::new(
                Kind::Unexpected,
                "the image is not sound after its parent locator was changed: report this \
                 as a bug",
            )),
        }
    }
}

fn too_long(what: &str) -> Error {
    Error::new(
        Kind::PathTooLong,
        format!(
            "the image has no room for its parent locator {what}; give the parent a \
             shorter path, or put it beside the image"
        ),
    )
}
