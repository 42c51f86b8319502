//! A copy that is the same disk as its source, compacted: what `compact` would give up is
//! left out, and the blocks lie in the guest's order.

use std::path::Path;

use super::{Options, Source};
use crate::compact::{self, Mode, Verdict};
use crate::error::{Error, Kind, Result};
use crate::image::{
    Format, Image, ImageType, NewImage, format_named, format_of_name, wrong_type,
};

/// How a compacted copy is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacted {
    /// How far to look for blocks to leave out.
    pub mode: Mode,
    /// Leave out all that is free though others need the source as their parent; see
    /// [`compact::Options::orphan_children`].
    pub orphan_children: bool,
}

impl Options {
    /// A compacted copy in the source's format and type, of the same disk. Only what the
    /// source's children would notice is different: [`compact`] has the
    /// same options.
    #[must_use]
    pub fn compacted(options: &compact::Options) -> Self {
        Options {
            compacted: Some(Compacted {
                mode: options.mode,
                orphan_children: options.orphan_children,
            }),
            leave_out_free: true,
            allow: options.allow,
            drop_unpartitioned: options.drop_unpartitioned,
            parents: options.parents.clone(),
            verify: options.verify,
            ..Options::new(ImageType::Dynamic)
        }
    }
}

/// The format that a copy of `image` at `target` has: its own.
pub fn format(image: &dyn Image, target: &Path) -> Result<&'static dyn Format> {
    let facts = image.facts();
    let format = format_named(facts.format)
        .ok_or_else(|| Error::new(Kind::Unexpected, "an image of no known format"))?;
    match facts.image_type {
        ImageType::Dynamic => {}
        ImageType::Differencing => {
            return Err(wrong_type(
                "no compacted copy can be made of a differencing image: compact it in place, \
                 or have `merge --to NEW` make a disk of its own",
            ));
        }
        // It says why.
        ImageType::Fixed => image.compactable()?,
    }
    image.compactable()?;
    if let Some(named) = format_of_name(target)
        && named != format
    {
        let what = format!(
            "a compacted copy has the format of its source, which is a {}: give it a name \
             that ends in .{0}, or use `convert`",
            format.name()
        );
        return Err(Error::new(Kind::InvalidArgument, what).in_file(target));
    }
    Ok(format)
}

/// Gives the new image what makes it the same disk.
pub fn same_disk(new: &mut NewImage, image: &dyn Image) {
    let facts = image.facts();
    new.block_size = Some(facts.block_size);
    new.disk_id = image.disk_id();
    if let Some(id) = facts.unique_id {
        new.unique_id = id;
    }
}

/// Whether the guest reads other bytes of the copy than of the source: blocks are left out
/// that were free, and need not have been zero.
pub fn changes_content(image: &dyn Image, verdicts: &[Verdict]) -> bool {
    let size = image.facts().block_size;
    let starts = (0u64..).map(|number| number.saturating_mul(size));
    starts
        .zip(verdicts)
        .any(|(start, verdict)| *verdict == Verdict::Free && image.place(start).is_some())
}

/// The most bytes that the host must have room for: those of the structures, and of the
/// blocks that stay and are not `shared`, as far as the host holds them in the source.
pub fn room_needed(
    source: &Source,
    tables: u64,
    verdicts: &[Verdict],
    shared: impl Fn(std::ops::Range<u64>) -> bool,
) -> Result<u64> {
    let image = &*source.image;
    let size = image.facts().block_size;
    let (mut start, mut blocks) = (0, 0u64);
    for verdict in verdicts {
        let end = start + size;
        let stays = !matches!(verdict, Verdict::Free | Verdict::Zero);
        if stays && image.place(start).is_some() && !shared(start..end.min(image.len())) {
            blocks += 1;
        }
        start = end;
    }
    let data = blocks.saturating_mul(size);
    Ok(tables.saturating_add(data.min(source.file.inner().host_bytes()?)))
}
