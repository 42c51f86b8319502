//! Chunks: how the logical addresses of the trees map to bytes of the device.
//!
//! ```text
//! superblock: system chunks --> chunk tree: all chunks
//!
//! logical   |  chunk A  |    chunk B    |
//! device    ... B, copy 1 ... A ... B, copy 2 ...
//! ```
//!
//! The superblock holds those chunks in which the chunk tree itself lies.
//!
//! Source: the kernel's `btrfs_tree.h` (`btrfs_chunk`, `btrfs_stripe`); the checks
//! are those of `fs/btrfs/tree-checker.c`.

use std::ops::Range;

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::features::incompat;
use super::node::Key;
use super::on_disk::{RawChunk, RawDevItem, RawKey, RawStripe};
use super::superblock::{Device, Superblock};
use super::tree::{CHUNK_TREE, Cursor, Nodes, name_of};
use super::{RUN_CHECK, broken};
use crate::error::{Error, Result};

const DEV_ITEM: u8 = 216;
const CHUNK_ITEM: u8 = 228;
const DEV_ITEMS_OBJECTID: u64 = 1;
pub(super) const FIRST_CHUNK_OBJECTID: u64 = 256;

/// What is in a chunk.
const DATA: u64 = 1;
const SYSTEM: u64 = 2;
const METADATA: u64 = 4;
const DUP: u64 = 0x20;

/// The profiles that are not read, by bit.
const OTHER_PROFILES: [(u64, &str); 8] = [
    (0x8, "RAID0"),
    (0x10, "RAID1"),
    (0x40, "RAID10"),
    (0x80, "RAID5"),
    (0x100, "RAID6"),
    (0x200, "RAID1C3"),
    (0x400, "RAID1C4"),
    (0x800, "remapped"),
];

const STRIPE_LENGTH: u64 = 64 << 10;

/// All chunks are held in memory, as the kernel does. They have 1 GiB on all but
/// small volumes; this is enough for 256 TiB.
const MAX_CHUNKS: usize = 1 << 18;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunk {
    pub logical: Range<u64>,
    pub kind: u64,
    /// Where the copies begin on the device.
    pub first: u64,
    pub second: Option<u64>,
}

impl Chunk {
    pub(super) fn length(&self) -> u64 {
        self.logical.end - self.logical.start
    }

    /// Where the copies of a logical address in it lie on the device.
    pub(super) fn places(&self, address: u64) -> impl Iterator<Item = u64> {
        let offset = address - self.logical.start;
        [Some(self.first), self.second].into_iter().flatten().map(move |at| at + offset)
    }

    pub(super) fn is_for_data(&self) -> bool {
        self.kind & DATA != 0
    }

    /// Whether it is for nodes; those of the chunk tree have chunks of their own.
    pub(super) fn is_for_nodes(&self, of_chunk_tree: bool) -> bool {
        self.kind & if of_chunk_tree { SYSTEM } else { SYSTEM | METADATA } != 0
    }

    /// Takes a chunk from the front of `bytes`, which continue after it.
    fn take(
        key: Key,
        bytes: &mut &[u8],
        superblock: &Superblock,
    ) -> Result<Self, String> {
        let raw = take::<RawChunk>(bytes)?;
        let damaged = |what: &str| Err(format!("{what}: {RUN_CHECK}"));
        let kind = raw.kind.get();
        for (profile, name) in OTHER_PROFILES {
            if kind & profile != 0 {
                return Err(format!(
                    "has the profile {name}: only single and DUP are supported"
                ));
            }
        }
        let mixed = superblock.features.incompat(incompat::MIXED_GROUPS);
        let known = match kind & !DUP {
            DATA | SYSTEM | METADATA => true,
            both => both == DATA | METADATA && mixed,
        };
        if !known {
            return Err(format!(
                "is of the unknown type {kind:#x}: a newer version of this program \
                 may know it"
            ));
        }
        let copies = if kind & DUP == 0 { 1 } else { 2 };
        if raw.stripes.get() != copies || raw.stripe_length.get() != STRIPE_LENGTH {
            return damaged("has stripes that its profile does not have");
        }
        let (length, start) = (raw.length.get(), key.offset);
        let sector_size = u64::from(superblock.sector_size);
        let device = &superblock.device;
        let end = start.checked_add(length).filter(|_| {
            length > 0
                && length <= device.total_bytes
                && [start, length].iter().all(|n| n.is_multiple_of(sector_size))
        });
        let Some(end) = end else {
            return damaged("has an impossible place or length");
        };
        let stripe = |bytes: &mut &[u8]| {
            let raw = take::<RawStripe>(bytes)?;
            if raw.device.get() != device.id || raw.device_uuid != device.uuid {
                return Err(format!("lies on another device: {RUN_CHECK}"));
            }
            let at = raw.offset.get();
            if !at.is_multiple_of(sector_size)
                || at.checked_add(length).is_none_or(|end| end > device.total_bytes)
            {
                return Err(format!("leaves the device: {RUN_CHECK}"));
            }
            Ok(at)
        };
        let first = stripe(bytes)?;
        let second = if copies == 2 { Some(stripe(bytes)?) } else { None };
        Ok(Chunk { logical: start..end, kind, first, second })
    }
}

fn take<'a, T>(bytes: &mut &'a [u8]) -> Result<&'a T, String>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    let (raw, rest) =
        T::ref_from_prefix(bytes).map_err(|_| format!("is cut off: {RUN_CHECK}"))?;
    *bytes = rest;
    Ok(raw)
}

/// Chunks in ascending order of their logical addresses, none over another.
pub(super) struct ChunkMap(Vec<Chunk>);

impl ChunkMap {
    /// The system chunks that the superblock holds.
    pub(super) fn of_superblock(superblock: &Superblock) -> Result<Self> {
        let of = |what| wrong("a chunk in the Btrfs superblock", what);
        let mut chunks = Vec::new();
        let mut rest = superblock.sys_chunk_array.as_slice();
        while !rest.is_empty() {
            let key = Key::from(take::<RawKey>(&mut rest).map_err(of)?);
            if key.objectid != FIRST_CHUNK_OBJECTID || key.kind != CHUNK_ITEM {
                return Err(of(format!("has the key {key}: {RUN_CHECK}")));
            }
            chunks.push(Chunk::take(key, &mut rest, superblock).map_err(of)?);
        }
        chunks.sort_unstable_by_key(|chunk| chunk.logical.start);
        let mut map = ChunkMap(Vec::new());
        for chunk in chunks {
            map.push(chunk).map_err(of)?;
        }
        Ok(map)
    }

    fn push(&mut self, chunk: Chunk) -> Result<(), String> {
        if self.0.last().is_some_and(|last| last.logical.end > chunk.logical.start) {
            return Err(format!("overlaps another: {RUN_CHECK}"));
        }
        if self.0.len() == MAX_CHUNKS {
            return Err(format!(
                "is one of more than {MAX_CHUNKS}: balance the file system in Linux"
            ));
        }
        self.0.push(chunk);
        Ok(())
    }

    pub(super) fn chunks(&self) -> &[Chunk] {
        &self.0
    }

    /// The chunk that holds all of `length` bytes from `address` on.
    pub(super) fn holding(&self, address: u64, length: u64) -> Option<&Chunk> {
        let after = self.0.partition_point(|chunk| chunk.logical.start <= address);
        let chunk = self.0.get(after.checked_sub(1)?)?;
        (address.checked_add(length)? <= chunk.logical.end).then_some(chunk)
    }
}

/// Reads the chunk tree: all chunks, and the device as it is described there.
pub(super) fn read_chunk_tree(nodes: &mut Nodes<'_>) -> Result<()> {
    let superblock = nodes.superblock;
    let of = |what| wrong("a chunk", what);
    let mut cursor = Cursor::new(nodes, superblock.chunk_root)?;
    let mut map = ChunkMap(Vec::new());
    let mut devices = 0;
    while let Some((key, mut data)) = cursor.next_up_to(nodes, u64::MAX)? {
        match (key.objectid, key.kind) {
            (FIRST_CHUNK_OBJECTID, CHUNK_ITEM) => {
                let chunk = Chunk::take(key, &mut data, superblock).map_err(of)?;
                if !data.is_empty() {
                    return Err(of(format!("is too long: {RUN_CHECK}")));
                }
                map.push(chunk).map_err(of)?;
            }
            (DEV_ITEMS_OBJECTID, DEV_ITEM) => {
                let raw = take::<RawDevItem>(&mut data)
                    .map_err(|what| wrong("the item of the device", what))?;
                if Device::of(raw) != superblock.device || key.offset != raw.id.get() {
                    return Err(broken(
                        "the superblock and the chunk tree describe different devices",
                    ));
                }
                devices += 1;
            }
            _ => return Err(unknown_item(CHUNK_TREE, key)),
        }
    }
    if devices != 1 {
        return Err(broken("the chunk tree does not describe the device"));
    }
    // A system chunk that the superblock lacks holds no node of the chunk tree, for
    // all of them have been read.
    let known = |chunk: &Chunk| {
        map.holding(chunk.logical.start, chunk.length()).is_some_and(|c| c == chunk)
    };
    if !nodes.chunks.chunks().iter().all(known) {
        return Err(broken(
            "the superblock and the chunk tree describe different chunks",
        ));
    }
    nodes.chunks = map;
    Ok(())
}

fn wrong(subject: &str, what: impl Into<String>) -> Error {
    let what = what.into();
    Error::invalid(format!("{subject} {what}"))
}

/// The error of an item that no tree of this kind is known to have.
pub(super) fn unknown_item(tree: u64, key: Key) -> Error {
    Error::invalid(format!(
        "{} has an item of an unknown kind {key}: a newer version of this program may \
         know it",
        name_of(tree)
    ))
}
