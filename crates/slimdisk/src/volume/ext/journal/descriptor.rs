//! What descriptor and revoke blocks list.
//!
//! Source: the kernel's `Documentation/filesystems/ext4/journal.rst`
//! (Descriptor Block, Revocation Block); `journal_tag_bytes` and `count_tags` in
//! `fs/jbd2`, where the two disagree.

use super::Checksums;

/// Bytes of the common header.
const HEADER: usize = 12;
/// Bytes of a block's checksum at its end.
const TAIL: usize = 4;
/// Bytes of a UUID after a tag.
const UUID: usize = 16;

/// `t_flags`.
const ESCAPE: u16 = 1;
const SAME_UUID: u16 = 2;
const LAST_TAG: u16 = 8;

/// How a journal's block tags are laid out.
#[derive(Clone, Copy)]
pub(super) struct TagFormat {
    checksums: Checksums,
    is_64bit: bool,
}

/// One data block of the log.
pub(super) struct Tag {
    /// The block of the file system it is for.
    pub block: u64,
    /// Whether it began with the journal's magic number.
    pub escaped: bool,
    checksum: TagChecksum,
}

enum TagChecksum {
    None,
    Low(u16),
    Full(u32),
}

impl Tag {
    /// Whether a data block of this sum is the one the tag was written for.
    pub(super) fn fits(&self, sum: u32) -> bool {
        match self.checksum {
            TagChecksum::None => true,
            TagChecksum::Low(low) => sum & 0xFFFF == u32::from(low),
            TagChecksum::Full(full) => sum == full,
        }
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

impl TagFormat {
    pub(super) fn new(checksums: Checksums, is_64bit: bool) -> Self {
        TagFormat { checksums, is_64bit }
    }

    /// Bytes of a tag without its UUID. Tags of v2 are two bytes longer than
    /// their fields: the kernel's definition once was, and the disks stayed.
    fn size(self) -> usize {
        match (self.checksums, self.is_64bit) {
            (Checksums::V3, _) => 16,
            (Checksums::V2, true) => 14,
            (Checksums::V2, false) => 10,
            (_, true) => 12,
            (_, false) => 8,
        }
    }

    /// The tags of a descriptor block.
    pub(super) fn tags(self, block: &[u8]) -> impl Iterator<Item = Tag> + '_ {
        let has_tail = matches!(self.checksums, Checksums::V2 | Checksums::V3);
        let end = block.len() - if has_tail { TAIL } else { 0 };
        let block = block.get(..end).unwrap_or_default();
        let mut at = Some(HEADER);
        std::iter::from_fn(move || {
            let start = at.take()?;
            let tag = block.get(start..start + self.size())?;
            let flags = be16(tag, 6)?;
            if flags & LAST_TAG == 0 {
                let uuid = if flags & SAME_UUID == 0 { UUID } else { 0 };
                at = Some(start + self.size() + uuid);
            }
            let high = if self.is_64bit { be32(tag, 8)? } else { 0 };
            Some(Tag {
                block: u64::from(be32(tag, 0)?) | u64::from(high) << 32,
                escaped: flags & ESCAPE != 0,
                checksum: match self.checksums {
                    Checksums::V3 => TagChecksum::Full(be32(tag, 12)?),
                    Checksums::V2 => TagChecksum::Low(be16(tag, 4)?),
                    Checksums::None | Checksums::V1 => TagChecksum::None,
                },
            })
        })
    }
}

/// The blocks that a revoke block lists, or `None` if its length cannot be.
pub(super) fn revoked(
    block: &[u8],
    is_64bit: bool,
    has_tail: bool,
) -> Option<impl Iterator<Item = u64> + '_> {
    let used = be32(block, HEADER)? as usize;
    let most = block.len() - if has_tail { TAIL } else { 0 };
    let records = block.get(HEADER + 4..used.max(HEADER + 4)).filter(|_| used <= most)?;
    let size = if is_64bit { 8 } else { 4 };
    Some(
        records.chunks_exact(size).map(|record| {
            record.iter().fold(0, |block, byte| block << 8 | u64::from(*byte))
        }),
    )
}
