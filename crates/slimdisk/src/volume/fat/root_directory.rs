//! The root directory: the label, and clusters that must be in use.
//!
//! FAT has neither checksums nor a count of free clusters to be believed, so the
//! table and the boot sector are held against the root directory instead: where it
//! says a file begins, no cluster is free; and where it says a folder begins, one
//! begins, with an entry that names its own cluster.

use zerocopy::FromBytes;

use super::RUN_CHKDSK;
use super::allocation_table::Entry;
use super::boot::{Root, Volume, text};
use super::on_disk::DirectoryEntry;
use crate::error::{Error, Result};
use crate::ranges::Ranges;
use crate::storage::{ReadAt, read_struct};

/// No directory has more entries (FAT specification, "FAT Directory Structure").
const MAX_SIZE: u64 = 65536 * 32;

/// How many folders are looked into.
const MAX_FOLDERS: usize = 256;

const LABEL: u8 = 0x08;
const FOLDER: u8 = 0x10;
/// The two bits that no attribute has.
const RESERVED: u8 = 0xC0;
/// A piece of a long name.
const LONG_NAME: u8 = 0x0F;

/// The part of `hiberfil.sys` that Windows itself needs; less means that it
/// belongs to a system on another volume.
const HIBERFIL_HEADER: u32 = 4096;

/// What the root directory tells.
#[derive(Debug, Default)]
pub(super) struct RootDirectory {
    pub(super) label: Option<String>,
    /// The directory's own clusters, if it has some.
    pub(super) own: Ranges,
    /// The first cluster of everything in it.
    pub(super) first_clusters: Ranges,
    /// A sleeping Windows will go on with the volume (`hiberfil.sys`).
    pub(super) hibernated: bool,
}

impl RootDirectory {
    pub(super) fn read(volume: &dyn ReadAt, fat: &Volume) -> Result<Self> {
        let mut root = Reader {
            volume,
            fat,
            found: Self::default(),
            first_clusters: Vec::new(),
            folders: 0,
            end: false,
        };
        match fat.root {
            Root::Fixed { start, size } => root.read(start..start + size)?,
            Root::Chain(first) => root.read_chain(first)?,
        }
        // Sorted first: adding to the end of a set is quick.
        root.first_clusters.sort_unstable();
        root.found.first_clusters =
            root.first_clusters.iter().map(|c| fat.heap.bytes(*c, 1)).collect();
        Ok(root.found)
    }
}

struct Reader<'a> {
    volume: &'a dyn ReadAt,
    fat: &'a Volume,
    found: RootDirectory,
    first_clusters: Vec<u32>,
    folders: usize,
    /// The entry that ends the directory was met.
    end: bool,
}

impl Reader<'_> {
    fn read_chain(&mut self, first: u32) -> Result<()> {
        let damaged = |what: &str, cluster: u32| {
            Err(Error::invalid(format!(
                "the root directory {what} (cluster {cluster}): {RUN_CHKDSK}"
            )))
        };
        let heap = &self.fat.heap;
        let mut cluster = first;
        for _ in 0..heap.needed(MAX_SIZE).min(heap.clusters.into()) {
            if !heap.contains(cluster) {
                return damaged("begins outside the volume", cluster);
            }
            let bytes = heap.bytes(cluster, 1);
            self.found.own.insert(bytes.clone());
            self.read(bytes)?;
            match self.fat.entry(self.volume, cluster)? {
                Entry::Next(next) => cluster = next,
                Entry::Last => return Ok(()),
                Entry::Free => return damaged("lies in free clusters", cluster),
                Entry::Bad => return damaged("lies in a bad cluster", cluster),
                Entry::Impossible(_) => return damaged("leaves the volume", cluster),
            }
        }
        damaged("has no end", first)
    }

    fn read(&mut self, range: std::ops::Range<u64>) -> Result<()> {
        let mut at = range.start;
        let mut buf = vec![0; 4096];
        while at < range.end && !self.end {
            let length = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(4096);
            let Some(piece) = buf.get_mut(..length) else { break };
            self.volume.read_at(at, piece)?;
            for (entry, offset) in
                piece.chunks_exact(size_of::<DirectoryEntry>()).zip((at..).step_by(32))
            {
                let Ok(entry) = DirectoryEntry::read_from_bytes(entry) else { break };
                self.entry(&entry).map_err(|error| error.at(offset))?;
                if self.end {
                    break;
                }
            }
            at += length as u64;
        }
        Ok(())
    }

    fn entry(&mut self, entry: &DirectoryEntry) -> Result<()> {
        match entry.name[0] {
            0 => {
                self.end = true;
                return Ok(());
            }
            // Deleted.
            0xE5 => return Ok(()),
            _ => {}
        }
        if entry.attributes & 0x3F == LONG_NAME {
            return Ok(());
        }
        // 05 stands for E5 in names.
        if entry.attributes & RESERVED != 0
            || (entry.name[0] < 0x20 && entry.name[0] != 5)
        {
            return Err(Error::invalid(format!(
                "the root directory has an impossible entry: {RUN_CHKDSK}"
            )));
        }
        if entry.attributes & LABEL != 0 {
            if self.found.label.is_none() {
                self.found.label = text(entry.name);
            }
            return Ok(());
        }
        let heap = &self.fat.heap;
        let cluster = self.first_cluster(entry);
        if cluster != 0 {
            if !heap.contains(cluster) {
                return Err(Error::invalid(format!(
                    "the root directory has a file that begins in cluster {cluster}, which \
                     does not exist: {RUN_CHKDSK}"
                )));
            }
            self.first_clusters.push(cluster);
        }
        if entry.attributes & FOLDER != 0 && self.folders < MAX_FOLDERS {
            self.folders += 1;
            self.check_folder(cluster)?;
        }
        if entry.name == *b"HIBERFILSYS" {
            self.found.hibernated = self.is_asleep(entry.size.get(), cluster)?;
        }
        Ok(())
    }

    fn first_cluster(&self, entry: &DirectoryEntry) -> u32 {
        let high = match self.fat.root {
            Root::Chain(_) => u32::from(entry.cluster_high.get()),
            // OS/2 keeps something else there.
            Root::Fixed { .. } => 0,
        };
        high << 16 | u32::from(entry.cluster_low.get())
    }

    /// A folder begins with an entry of its own, named ".".
    fn check_folder(&self, cluster: u32) -> Result<()> {
        if self.fat.heap.contains(cluster) {
            let at = self.fat.heap.bytes(cluster, 1).start;
            let own: DirectoryEntry = read_struct(self.volume, at)?;
            if own.name == *b".          "
                && own.attributes & FOLDER != 0
                && self.first_cluster(&own) == cluster
            {
                return Ok(());
            }
        }
        Err(Error::invalid(format!(
            "no folder begins in cluster {cluster}, where the root directory has one: \
             {RUN_CHKDSK}"
        )))
    }

    /// Whether a sleeping Windows holds a newer state, as on NTFS.
    fn is_asleep(&self, size: u32, cluster: u32) -> Result<bool> {
        let mut head = [0; 4];
        if size < HIBERFIL_HEADER || !self.fat.heap.contains(cluster) {
            return Ok(true);
        }
        self.volume.read_at(self.fat.heap.bytes(cluster, 1).start, &mut head)?;
        head.make_ascii_lowercase();
        Ok(matches!(&head, b"hibr" | b"rstr" | b"link"))
    }
}
