//! An area of metadata: a header that names a text in the ring behind it.
//!
//! ```text
//! header (512) | ... older texts ... | the text | ... older texts ...
//! ```
//!
//! A text that reaches the end of the area goes on behind the header. A change
//! writes a new text beside the old one and then the header, so that one sector
//! decides which of them holds.

use std::ops::Range;

use zerocopy::IntoBytes;

use super::checksum;
use super::on_disk::MetadataHeader;
use crate::error::{Error, Result};
use crate::storage::{ReadAt, read_struct};

const HEADER: u64 = 512;
const IGNORED: u32 = 1;

/// The longest text that is read. lvm2 gives an area 1 MiB unless told otherwise,
/// which is enough for texts of half that.
const TEXT_LIMIT: u64 = 4 << 20;

/// What an area holds.
pub(super) enum Copy {
    /// The volume group was told not to use it.
    Ignored,
    /// Nothing was ever written.
    Empty,
    /// The description of a volume group, its checksum right.
    Text(Vec<u8>),
}

pub(super) fn read(volume: &dyn ReadAt, area: &Range<u64>) -> Result<Copy> {
    let broken = |what: &str| {
        Error::invalid(format!("a metadata area {what}: repair it in the guest (vgck)"))
            .at(area.start)
    };
    let size = area.end - area.start;
    if size <= HEADER {
        return Err(broken("is too small"));
    }
    let header: MetadataHeader = read_struct(volume, area.start)?;
    let covered = header.as_bytes().get(4..).unwrap_or_default();
    if checksum::of(covered) != header.checksum.get() {
        return Err(broken("has a header whose checksum does not hold"));
    }
    if header.mark != *b" LVM2 x[5A%r0N*>" || header.version.get() != 1 {
        return Err(broken("is of an unknown kind"));
    }
    if header.start.get() != area.start || header.size.get() != size {
        return Err(broken("is not where it says it is"));
    }
    let [current, next] = &header.texts;
    let after = next.as_bytes().iter().chain(&header.rest);
    if after.into_iter().any(|byte| *byte != 0) {
        return Err(broken("shows a change that was not completed"));
    }
    match current.flags.get() {
        0 => {}
        IGNORED => return Ok(Copy::Ignored),
        _ => return Err(broken("has unknown flags")),
    }
    let (offset, len) = (current.offset.get(), current.size.get());
    if offset == 0 {
        return Ok(Copy::Empty);
    }
    if offset < HEADER || offset >= size || len == 0 || len > size - HEADER {
        return Err(broken("names a text outside itself"));
    }
    if len > TEXT_LIMIT {
        return Err(Error::invalid(format!(
            "its metadata has {len} bytes; more than {TEXT_LIMIT} are not read"
        )));
    }
    let mut text = vec![0; usize::try_from(len).unwrap_or(0)];
    let before_end = usize::try_from(len.min(size - offset)).unwrap_or(0);
    let (head, tail) = text.split_at_mut(before_end);
    volume.read_at(area.start + offset, head)?;
    volume.read_at(area.start + HEADER, tail)?;
    if checksum::of(&text) != current.checksum.get() {
        return Err(broken("has a text whose checksum does not hold"));
    }
    Ok(Copy::Text(text))
}
