//! Directory indexes: a B-tree of file names, its root in the directory's record
//! and its other nodes in `$INDEX_ALLOCATION`.
//!
//! Names are ordered by their UTF-16 units in upper case. Only names in ASCII are
//! looked for, and `$UpCase` maps nothing outside ASCII into it, so the table
//! itself is not needed.

use std::cmp::Ordering;

use super::file::{Content, File};
use super::fixups;
use super::layout::{
    ENTRY_HAS_CHILD, ENTRY_IS_LAST, FILE_NAME, FileName, I30, INDEX_ALLOCATION,
    INDEX_HAS_CHILDREN, INDEX_ROOT, IndexBlock, IndexEntry, IndexHeader, IndexRoot,
    parse,
};
use super::mft::Disk;
use crate::error::{Error, Result};

/// How many nodes one search may visit. A look-up needs as many as the tree is
/// deep; a search of a whole directory this large is given up.
const MAX_NODES: usize = 1024;

/// A directory entry: the file's reference and its name.
pub(super) struct Found {
    pub(super) file: u64,
    pub(super) name: String,
}

/// All entries of `directory` for which `order` is `Equal`; along the names it
/// must go from `Less` through `Equal` to `Greater`.
pub(super) fn search(
    disk: &Disk<'_>,
    directory: &File,
    order: &dyn Fn(&[u16]) -> Ordering,
) -> Result<Vec<Found>> {
    let damaged = |what: &str| {
        Error::invalid(format!(
            "the directory in file record {} of $MFT {what}",
            directory.number
        ))
    };
    let root = directory.stream(INDEX_ROOT, I30).map(|stream| &stream.content);
    let Some(Content::Resident(root)) = root else {
        return Err(damaged("has no index"));
    };
    let header: IndexRoot = parse(root, 0).ok_or_else(|| damaged("has no index"))?;
    let block_size = header.block_size.get() as usize;
    if header.kind.get() != FILE_NAME
        || !block_size.is_power_of_two()
        || !(512..=65536).contains(&block_size)
    {
        return Err(damaged("has an index of an unknown kind"));
    }
    // Index blocks smaller than a cluster are counted in 512 bytes.
    let cluster_size = disk.geometry.cluster_size;
    let unit = if cluster_size <= block_size as u64 { cluster_size } else { 512 };
    let blocks =
        directory.stream(INDEX_ALLOCATION, I30).and_then(|stream| stream.clusters());

    let mut found = Vec::new();
    let mut children = Vec::new();
    let node = root.get(size_of::<IndexRoot>() - size_of::<IndexHeader>()..);
    node.and_then(|node| visit(node, order, &mut found, &mut children))
        .ok_or_else(|| damaged("has a damaged index root"))?;
    let mut visited = 0;
    while let Some(vcn) = children.pop() {
        visited += 1;
        if visited > MAX_NODES {
            return Err(damaged("is too large or has a loop in its index"));
        }
        let blocks = blocks.ok_or_else(|| damaged("lacks its index blocks"))?;
        let mut block = vec![0; block_size];
        disk.read_value(blocks, vcn.saturating_mul(unit), &mut block)?;
        if block.get(..4) != Some(b"INDX") {
            return Err(damaged("has an index block without its signature"));
        }
        fixups::apply(&mut block)
            .map_err(|what| damaged(&format!("has an index block that {what}")))?;
        let header: IndexBlock =
            parse(&block, 0).ok_or_else(|| damaged("has a short index block"))?;
        if header.vcn.get() != vcn {
            return Err(damaged("has an index block at a wrong place"));
        }
        let node = block.get(size_of::<IndexBlock>() - size_of::<IndexHeader>()..);
        node.and_then(|node| visit(node, order, &mut found, &mut children))
            .ok_or_else(|| damaged("has a damaged index block"))?;
    }
    Ok(found)
}

/// Orders a name of a file against `wanted`, which is ASCII in upper case.
pub(super) fn compare(name: &[u16], wanted: &str) -> Ordering {
    let upper = |unit: &u16| match u8::try_from(*unit) {
        Ok(ascii) => u16::from(ascii.to_ascii_uppercase()),
        Err(_) => *unit,
    };
    name.iter().map(upper).cmp(wanted.encode_utf16())
}

/// Goes through the entries of one node; `None` if they are damaged.
fn visit(
    node: &[u8],
    order: &dyn Fn(&[u16]) -> Ordering,
    found: &mut Vec<Found>,
    children: &mut Vec<u64>,
) -> Option<()> {
    let header: IndexHeader = parse(node, 0)?;
    let has_children = header.flags & INDEX_HAS_CHILDREN != 0;
    let start = header.entries_offset.get() as usize;
    let mut rest = node.get(start..header.entries_end.get() as usize)?;
    let mut before = Ordering::Less;
    loop {
        let entry: IndexEntry = parse(rest, 0)?;
        let length = usize::from(entry.length.get());
        if length < size_of::<IndexEntry>() || !length.is_multiple_of(8) {
            return None;
        }
        let (bytes, after) = rest.split_at_checked(length)?;
        let flags = entry.flags.get();
        let last = flags & ENTRY_IS_LAST != 0;
        if (flags & ENTRY_HAS_CHILD != 0) != has_children {
            return None;
        }
        let name = if last { None } else { Some(name(bytes)?) };
        let here = name.as_ref().map_or(Ordering::Greater, |name| order(name));
        // A child's names lie between the entry before and this one.
        if has_children && before != Ordering::Greater && here != Ordering::Less {
            children.push(u64::from_le_bytes(*bytes.last_chunk()?));
        }
        if let Some(name) = name
            && here == Ordering::Equal
        {
            found.push(Found {
                file: entry.file.get(),
                name: String::from_utf16_lossy(&name),
            });
        }
        if last {
            return Some(());
        }
        before = here;
        rest = after;
    }
}

/// The name in an entry's key.
fn name(entry: &[u8]) -> Option<Vec<u16>> {
    let key = entry.get(size_of::<IndexEntry>()..)?;
    let header: FileName = parse(key, 0)?;
    let units = key
        .get(size_of::<FileName>()..)?
        .get(..2 * usize::from(header.name_length))?
        .chunks_exact(2)
        .filter_map(|unit| unit.first_chunk().map(|unit| u16::from_le_bytes(*unit)));
    Some(units.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(name: &str) -> Vec<u16> {
        name.encode_utf16().collect()
    }

    #[test]
    fn names_are_ordered_as_ntfs_orders_them() {
        let wanted = "HIBERFIL.SYS";
        for (name, order) in [
            ("hiberfil.sys", Ordering::Equal),
            ("HiberFil.Sys", Ordering::Equal),
            ("hiberfil.sy", Ordering::Less),
            ("hiberfil.sys2", Ordering::Greater),
            ("$MFT", Ordering::Less),
            ("_", Ordering::Greater),
            ("a", Ordering::Less),
            ("é", Ordering::Greater),
            ("hiberfıl.sys", Ordering::Greater),
        ] {
            assert_eq!(compare(&units(name), wanted), order, "{name}");
        }
    }
}
