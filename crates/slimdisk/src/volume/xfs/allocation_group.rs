//! An allocation group: a part of the volume with free space of its own.
//!
//! ```text
//! sector 0     1     2     3
//! superblock | AGF | AGI | AGFL | B+trees, inodes, data ...
//!               |
//!               +-> free space by block, free space by size
//! ```
//!
//! Source: XFS Algorithms & Data Structures, Allocation Groups.

use zerocopy::FromBytes;
use zerocopy::big_endian::U32;

use super::on_disk::{RawAgf, RawAgfl, RawAgi};
use super::superblock::Superblock;
use super::{REPAIR, checksum};
use crate::error::{Error, Result};
use crate::storage::ReadAt;

/// `agf_versionnum` and `agi_versionnum`.
const VERSION: u32 = 1;
/// Where the checksums lie.
const AGF_CHECKSUM: usize = 216;
const AGI_CHECKSUM: usize = 312;
const AGFL_CHECKSUM: usize = 32;

/// What the headers of a group tell of its free space.
#[derive(Debug)]
pub(super) struct AllocationGroup {
    pub number: u32,
    /// Roots and numbers of levels of the two B+trees.
    pub by_block: (u32, u32),
    pub by_size: (u32, u32),
    pub free_blocks: u32,
    /// The longest free extent.
    pub longest: u32,
    /// Blocks of the two B+trees and of that of the owners, but for the roots.
    pub btree_blocks: u32,
    /// Blocks of the B+tree of the owners, with its root.
    pub rmap_blocks: u32,
    /// Blocks set aside for the B+trees: neither free nor used by a file.
    pub set_aside: Vec<u32>,
    /// Roots of the B+trees of other things.
    pub other_roots: Vec<u32>,
}

/// What all headers of version 5 bear.
struct Bears {
    uuid: [u8; 16],
    lsn: u64,
    checksum: usize,
}

/// The headers of one group, being read.
struct Headers<'a> {
    fs: &'a Superblock,
    group: u32,
    newest_lsn: u64,
    sectors: Vec<u8>,
}

impl AllocationGroup {
    /// Reads the headers of group `number` and checks them.
    pub(super) fn read(
        volume: &dyn ReadAt,
        fs: &Superblock,
        number: u32,
        newest_lsn: u64,
    ) -> Result<Self> {
        let mut sectors = vec![0; fs.sector_size as usize * 4];
        volume.read_at(fs.byte(number, 0), &mut sectors)?;
        let headers = Headers { fs, group: number, newest_lsn, sectors };
        if number > 0 {
            fs.check_copy(headers.sector(0), number)?;
        }
        let agf = headers.agf()?;
        let mut group = AllocationGroup {
            number,
            by_block: (agf.by_block_root.get(), agf.by_block_levels.get()),
            by_size: (agf.by_size_root.get(), agf.by_size_levels.get()),
            free_blocks: agf.free_blocks.get(),
            longest: agf.longest.get(),
            btree_blocks: agf.btree_blocks.get(),
            rmap_blocks: if fs.features.rmapbt { agf.rmap_blocks.get() } else { 0 },
            set_aside: headers.set_aside(agf)?,
            other_roots: Vec::new(),
        };
        let agi = headers.agi()?;
        group.other_roots.push(agi.root.get());
        for (present, root) in [
            (fs.features.finobt, agi.free_root),
            (fs.features.rmapbt, agf.rmap_root),
            (fs.features.reflink, agf.refcount_root),
        ] {
            if present {
                group.other_roots.push(root.get());
            }
        }
        let inside = fs.header_blocks()..fs.group_length(number);
        let mut roots = [group.by_block.0, group.by_size.0].into_iter();
        if !roots.all(|root| inside.contains(&root))
            || !group.other_roots.iter().all(|root| inside.contains(root))
        {
            return Err(headers.broken(1, "or its AGI has a B+tree outside the group"));
        }
        Ok(group)
    }

    /// How many blocks all B+trees that the AGF counts have, but for the roots, if
    /// the two of the free space have `free_space`, roots included.
    pub(super) fn expected_btree_blocks(&self, free_space: u64) -> u64 {
        let rmap = u64::from(self.rmap_blocks.saturating_sub(1));
        (free_space + rmap).saturating_sub(2)
    }
}

impl Headers<'_> {
    fn sector(&self, number: usize) -> &[u8] {
        let size = self.fs.sector_size as usize;
        self.sectors.chunks_exact(size).nth(number).unwrap_or_default()
    }

    fn agf(&self) -> Result<&RawAgf> {
        let (agf, _) = RawAgf::ref_from_prefix(self.sector(1))
            .map_err(|_| self.broken(1, "is too short"))?;
        let place = (agf.version.get(), agf.group.get(), agf.length.get());
        self.check_place(1, agf.magic == *b"XAGF", place)?;
        let lsn = agf.lsn.get();
        self.check_v5(1, &Bears { uuid: agf.uuid, lsn, checksum: AGF_CHECKSUM })?;
        Ok(agf)
    }

    fn agi(&self) -> Result<&RawAgi> {
        let (agi, _) = RawAgi::ref_from_prefix(self.sector(2))
            .map_err(|_| self.broken(2, "is too short"))?;
        let place = (agi.version.get(), agi.group.get(), agi.length.get());
        self.check_place(2, agi.magic == *b"XAGI", place)?;
        let lsn = agi.lsn.get();
        self.check_v5(2, &Bears { uuid: agi.uuid, lsn, checksum: AGI_CHECKSUM })?;
        Ok(agi)
    }

    /// The blocks in use of the ring that the AGFL is.
    fn set_aside(&self, agf: &RawAgf) -> Result<Vec<u32>> {
        let mut list = self.sector(3);
        if self.fs.features.v5 {
            let (agfl, rest) = RawAgfl::ref_from_prefix(list)
                .map_err(|_| self.broken(3, "is too short"))?;
            if agfl.magic != *b"XAFL" || agfl.group.get() != self.group {
                return Err(self.broken(3, "lacks its signature"));
            }
            let lsn = agfl.lsn.get();
            self.check_v5(3, &Bears { uuid: agfl.uuid, lsn, checksum: AGFL_CHECKSUM })?;
            list = rest;
        }
        let Ok((list, _)) = <[U32]>::ref_from_prefix_with_elems(list, list.len() / 4)
        else {
            return Err(self.broken(3, "is too short"));
        };
        let (first, last) = (agf.list_first.get() as usize, agf.list_last.get() as usize);
        let count = agf.list_count.get() as usize;
        let span = if count == 0 {
            0
        } else if first <= last {
            last - first + 1
        } else {
            (list.len() + last + 1).saturating_sub(first)
        };
        if first >= list.len() || last >= list.len() || span != count {
            return Err(self.broken(1, "does not fit the list of blocks set aside"));
        }
        let inside = self.fs.header_blocks()..self.fs.group_length(self.group);
        let blocks: Vec<u32> = list
            .iter()
            .cycle()
            .skip(first)
            .take(count)
            .map(|block| block.get())
            .collect();
        if !blocks.iter().all(|block| inside.contains(block)) {
            return Err(self.broken(3, "names a block outside its group"));
        }
        Ok(blocks)
    }

    fn check_place(
        &self,
        sector: usize,
        signature: bool,
        (version, group, length): (u32, u32, u32),
    ) -> Result<()> {
        if !signature || version != VERSION {
            return Err(self.broken(sector, "lacks its signature"));
        }
        if group != self.group || length != self.fs.group_length(self.group) {
            return Err(self.broken(sector, "is not that of its group"));
        }
        Ok(())
    }

    fn check_v5(&self, sector: usize, bears: &Bears) -> Result<()> {
        if !self.fs.features.v5 {
            return Ok(());
        }
        if !checksum::fits(self.sector(sector), bears.checksum) {
            return Err(self.broken(sector, "does not match its checksum"));
        }
        if bears.uuid != self.fs.uuid {
            return Err(self.broken(sector, "belongs to another file system"));
        }
        check_lsn(bears.lsn, self.newest_lsn)
            .then_some(())
            .ok_or_else(|| self.broken(sector, "is newer than the log"))
    }

    fn broken(&self, sector: usize, how: &str) -> Error {
        let name = ["superblock", "AGF", "AGI", "AGFL"].get(sector).unwrap_or(&"header");
        let at =
            self.fs.byte(self.group, 0) + (self.fs.sector_size as usize * sector) as u64;
        let group = self.group;
        Error::invalid(format!("the {name} of allocation group {group} {how}: {REPAIR}"))
            .at(at)
    }
}

/// Whether a structure was written before the log's newest record, as it must be: a
/// copy of a volume in use, made piece by piece, may hold an old log that looks clean.
pub(super) fn check_lsn(lsn: u64, newest: u64) -> bool {
    /// `NULLCOMMITLSN`: written without the log.
    const WITHOUT_LOG: u64 = u64::MAX;
    lsn <= newest || lsn == WITHOUT_LOG
}
