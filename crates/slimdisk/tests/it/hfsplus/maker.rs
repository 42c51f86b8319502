//! Makes HFS Plus volumes, for nothing in Debian does: written from TN1150, sharing
//! nothing with the library.
//!
//! Files lie in pieces with gaps of old data between them; the special files can lie
//! in so many pieces that their extents overflow.

use std::collections::BTreeMap;

use crate::support::Noise;

/// Bytes, all numbers big-endian.
#[derive(Default, Clone)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    pub fn n(mut self, size: usize, value: u64) -> Self {
        self.0.extend(&value.to_be_bytes()[8 - size..]);
        self
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

#[derive(Clone)]
pub struct Recipe {
    pub signature: &'static [u8; 2],
    pub block: usize,
    pub blocks: usize,
    /// Bytes after the last block; the header's copy lies before their end.
    pub tail: usize,
    /// The byte order of a journal's header: `b` or `l`; with `i` it is yet to be
    /// initialised.
    pub journal: Option<char>,
    /// Node sizes of the extents overflow file and of the catalog.
    pub nodes: [usize; 2],
    /// Whether the allocation file and the catalog lie in single blocks.
    pub scattered: bool,
}

pub const PLAIN: Recipe = Recipe {
    signature: b"H+",
    block: 4096,
    blocks: 2500,
    tail: 0,
    journal: None,
    nodes: [4096, 4096],
    scattered: false,
};

type Extents = Vec<(usize, usize)>;

/// A volume, with where things lie in it in bytes.
pub struct Made {
    pub bytes: Vec<u8>,
    pub files: BTreeMap<String, Vec<u8>>,
    pub free: Vec<bool>,
    pub block: usize,
    /// First pieces.
    pub allocation: Vec<usize>,
    pub catalog: Vec<usize>,
    pub extents: usize,
    pub journal: usize,
    pub journal_info: usize,
}

const NAME: &str = "Müll & Söhne";

struct Maker {
    recipe: Recipe,
    bytes: Vec<u8>,
    used: Vec<bool>,
    cursor: usize,
    /// Records of the extents overflow file.
    overflow: BTreeMap<(u32, u32), Vec<u8>>,
}

fn utf16(name: &str) -> Bytes {
    let units: Vec<u16> = name.encode_utf16().collect();
    units
        .iter()
        .fold(Bytes::default().n(2, units.len() as u64), |b, u| b.n(2, (*u).into()))
}

fn extents8(extents: &[(usize, usize)]) -> Bytes {
    (0..8).fold(Bytes::default(), |bytes, index| {
        let (start, count) = extents.get(index).copied().unwrap_or_default();
        bytes.n(4, start as u64).n(4, count as u64)
    })
}

impl Maker {
    fn take(&mut self, count: usize) -> (usize, usize) {
        let start = (self.cursor..)
            .find(|start| self.used[*start..start + count].iter().all(|used| !used))
            .unwrap();
        self.used[start..start + count].fill(true);
        self.cursor = start + count;
        (start, count)
    }

    /// Blocks for a file, in pieces of `piece` blocks with gaps of `gap`.
    fn pieces(&mut self, blocks: usize, piece: usize, gap: usize) -> Extents {
        let mut rest = blocks;
        let mut extents = Vec::new();
        while rest > 0 {
            let count = rest.min(piece);
            extents.push(self.take(count));
            self.cursor += gap;
            rest -= count;
        }
        extents
    }

    fn write(&mut self, extents: &Extents, bytes: &[u8]) {
        let mut rest = bytes;
        for (start, count) in extents {
            let here = rest.len().min(count * self.recipe.block);
            let at = start * self.recipe.block;
            self.bytes[at..at + here].copy_from_slice(&rest[..here]);
            rest = &rest[here..];
        }
        assert!(rest.is_empty());
    }

    /// A fork's description; what has no room in it goes to the overflow file.
    fn fork(&mut self, file: u32, size: usize, extents: &Extents) -> Bytes {
        let total: usize = extents.iter().map(|(_, count)| count).sum();
        let inline = if file == 5 { 0 } else { extents.len().min(8) };
        let mut first: usize = extents[..inline].iter().map(|(_, count)| count).sum();
        for record in extents[inline..].chunks(8) {
            self.overflow.insert((file, first as u32), extents8(record).0);
            first += record.iter().map(|(_, count)| count).sum::<usize>();
        }
        Bytes::default()
            .n(8, size as u64)
            .n(4, self.recipe.block as u64)
            .n(4, total as u64)
            .raw(&extents8(&extents[..inline]).0)
    }
}

fn node(
    size: usize,
    kind: u8,
    height: u8,
    next: usize,
    previous: usize,
    records: &[Vec<u8>],
) -> Vec<u8> {
    let head = Bytes::default()
        .n(4, next as u64)
        .n(4, previous as u64)
        .n(1, kind.into())
        .n(1, height.into())
        .n(2, records.len() as u64)
        .n(2, 0);
    let mut node = head.0;
    let mut offsets = Vec::new();
    for record in records {
        offsets.push(node.len());
        node.extend(record);
        assert!(node.len().is_multiple_of(2));
    }
    offsets.push(node.len());
    assert!(node.len() + offsets.len() * 2 <= size);
    node.resize(size, 0);
    for (index, offset) in offsets.iter().enumerate() {
        let at = size - 2 * (index + 1);
        node[at..at + 2].copy_from_slice(&(*offset as u16).to_be_bytes());
    }
    node
}

/// A B-tree of records (key, value) in their order.
fn tree(
    size: usize,
    max_key: u64,
    compare: u64,
    records: &[(Vec<u8>, Vec<u8>)],
) -> Vec<u8> {
    let group = |items: &[Vec<u8>]| {
        let mut groups: Vec<Vec<Vec<u8>>> = Vec::new();
        let mut room = 0;
        for item in items {
            if item.len() + 2 > room {
                groups.push(Vec::new());
                room = size - 14 - 2;
            }
            room -= item.len() + 2;
            groups.last_mut().unwrap().push(item.clone());
        }
        groups
    };
    // Levels from the leaves up; each node with the key of its first record.
    let mut nodes: Vec<Vec<u8>> = vec![Vec::new()];
    let mut items: Vec<(Vec<u8>, Vec<u8>)> = records.to_vec();
    let mut depth = 0u8;
    let mut last_leaf = 0;
    let mut root = 0;
    while !items.is_empty() {
        depth += 1;
        let joined: Vec<Vec<u8>> =
            items.iter().map(|(key, value)| [&key[..], &value[..]].concat()).collect();
        let groups = group(&joined);
        let (first, count) = (nodes.len(), groups.len());
        let mut keys = items.iter().map(|(key, _)| key.clone());
        let mut above = Vec::new();
        for (index, records) in groups.iter().enumerate() {
            let number = first + index;
            let next = if index + 1 < count { number + 1 } else { 0 };
            let previous = if index > 0 { number - 1 } else { 0 };
            let kind = if depth == 1 { 0xFF } else { 0 };
            nodes.push(node(size, kind, depth, next, previous, records));
            let key = keys.next().unwrap();
            keys.by_ref().take(records.len() - 1).for_each(drop);
            above.push((key, (number as u32).to_be_bytes().to_vec()));
        }
        if depth == 1 {
            last_leaf = nodes.len() - 1;
        }
        root = first;
        items = if count > 1 { above } else { Vec::new() };
    }
    let used = nodes.len();
    let total = used + 3;
    let header = Bytes::default()
        .n(2, depth.into())
        .n(4, root as u64)
        .n(4, records.len() as u64)
        .n(4, u64::from(last_leaf > 0))
        .n(4, last_leaf as u64)
        .n(2, size as u64)
        .n(2, max_key)
        .n(4, total as u64)
        .n(4, (total - used) as u64)
        .n(2, 0)
        .n(4, size as u64)
        .n(1, 0)
        .n(1, compare)
        .n(4, if max_key == 10 { 2 } else { 6 })
        .raw(&[0; 64]);
    let mut map = vec![0; size - 248 - 8];
    for number in 0..used {
        map[number / 8] |= 0x80 >> (number % 8);
    }
    nodes[0] = node(size, 1, 0, 0, 0, &[header.0, vec![0; 128], map]);
    let mut bytes = nodes.concat();
    bytes.resize(total * size, 0);
    bytes
}

fn catalog_key(parent: u32, name: &str) -> Vec<u8> {
    let name = utf16(name).0;
    Bytes::default().n(2, 4 + name.len() as u64).n(4, parent.into()).raw(&name).0
}

fn thread(kind: u64, parent: u32, name: &str) -> Vec<u8> {
    Bytes::default().n(2, kind).n(2, 0).n(4, parent.into()).raw(&utf16(name).0).0
}

/// Dates, owner and rights, Finder's data, encoding: what folders and files share.
fn common(mode: u64) -> Bytes {
    let dates = (0..5).fold(Bytes::default(), |bytes, _| bytes.n(4, 3_600_000_000));
    dates.n(4, 501).n(4, 20).n(2, 0).n(2, mode).n(4, 1).raw(&[0; 40])
}

/// The journal's sum of its header.
pub fn journal_sum(header: &[u8]) -> u32 {
    let mut sum = 0u32;
    for byte in header {
        sum = (sum << 8) ^ sum.wrapping_add((*byte).into());
    }
    !sum
}

/// A journal's header; `from` and `to` are where its transactions begin and end.
pub fn journal_header(order: char, from: u64, to: u64, size: u64) -> Vec<u8> {
    let make = |sum: u32| {
        let mut bytes = Vec::new();
        let mut put = |value: u64, size: usize| {
            if order == 'b' {
                bytes.extend(&value.to_be_bytes()[8 - size..]);
            } else {
                bytes.extend(&value.to_le_bytes()[..size]);
            }
        };
        put(0x4A4E_4C78, 4);
        put(0x1234_5678, 4);
        for value in [from, to, size] {
            put(value, 8);
        }
        put(4096, 4);
        put(sum.into(), 4);
        put(512, 4);
        bytes
    };
    make(journal_sum(&make(0)))
}

impl Recipe {
    pub fn make(&self) -> Made {
        let (block, blocks) = (self.block, self.blocks);
        let size = block * blocks + self.tail;
        let mut maker = Maker {
            recipe: self.clone(),
            // Old data everywhere.
            bytes: Noise::new(blocks as u64).bytes(size),
            used: vec![false; blocks],
            cursor: 0,
            overflow: BTreeMap::new(),
        };
        maker.used[..1536usize.div_ceil(block)].fill(true);
        let copy = size - 1024;
        maker.used[(copy / block).min(blocks)..].fill(true);

        let map_size = blocks.div_ceil(8);
        let (piece, gap) = if self.scattered { (1, 2) } else { (usize::MAX, 0) };
        let allocation = maker.pieces(map_size.div_ceil(block), piece, gap);
        let (mut info, mut journal) = (0, 0);

        if let Some(order) = self.journal {
            info = maker.take(1).0;
            let length = 32_768usize.div_ceil(block);
            journal = maker.take(length).0;
            let (at, length) = ((journal * block) as u64, (length * block) as u64);
            let flags = if order == 'i' { 5 } else { 1 };
            let mut info_bytes =
                Bytes::default().n(4, flags).raw(&[0; 32]).n(8, at).n(8, length).0;
            info_bytes.resize(180, 0);
            if order != 'i' {
                let header = journal_header(order, 1024, 1024, length);
                maker.bytes[journal * block..][..header.len()].copy_from_slice(&header);
            }
            maker.bytes[info * block..][..180].copy_from_slice(&info_bytes);
        }
        // Bad blocks: a file without a record in the catalog.
        let bad = if self.scattered { maker.pieces(80, 1, 1) } else { Vec::new() };
        maker.fork(5, 0, &bad);

        let mut noise = Noise::new(1);
        let mut files = BTreeMap::new();
        let mut records = BTreeMap::new();
        let folder = 16u32;
        for number in 0..60u32 {
            let id = folder + 1 + number;
            let length =
                [0, 100, block, 3 * block + 1, 30_000, 17 * block][number as usize % 6];
            let content = noise.bytes(length);
            let piece = [1, 2, 50][number as usize % 3];
            let extents =
                maker.pieces(length.div_ceil(block), piece, number as usize % 4);
            maker.write(&extents, &content);
            let data = maker.fork(id, length, &extents);
            let parent = if number % 2 == 0 { 2 } else { folder };
            let name = format!("file{number:02}");
            let record = Bytes::default()
                .n(2, 2)
                .n(2, 2)
                .n(4, 0)
                .n(4, id.into())
                .raw(&common(0o100_644).0)
                .raw(&data.0)
                .raw(&[0; 80]);
            records.insert((parent, name.clone()), record.0);
            records.insert((id, String::new()), thread(4, parent, &name));
            files.insert(name, content);
        }
        let folder_record = |id: u32, valence: u64| {
            Bytes::default()
                .n(2, 1)
                .n(2, 0)
                .n(4, valence)
                .n(4, id.into())
                .raw(&common(0o40_755).0)
                .0
        };
        records.insert((1, NAME.into()), folder_record(2, 31));
        records.insert((2, String::new()), thread(3, 1, NAME));
        records.insert((2, "folder".into()), folder_record(folder, 30));
        records.insert((folder, String::new()), thread(3, 2, "folder"));
        let records: Vec<_> = records
            .iter()
            .map(|((parent, name), value)| (catalog_key(*parent, name), value.clone()))
            .collect();
        let compare = if self.signature == b"HX" { 0xBC } else { 0 };
        let catalog_bytes = tree(self.nodes[1], 516, compare, &records);
        let catalog = maker.pieces(catalog_bytes.len().div_ceil(block), piece, gap);
        maker.write(&catalog, &catalog_bytes);
        let catalog_fork = maker.fork(4, catalog_bytes.len(), &catalog);
        let allocation_fork =
            maker.fork(6, map_size.div_ceil(block) * block, &allocation);
        let records: Vec<_> = maker
            .overflow
            .iter()
            .map(|((file, first), value)| {
                let key = Bytes::default().n(2, 10).n(2, 0).n(4, (*file).into());
                (key.n(4, (*first).into()).0, value.clone())
            })
            .collect();
        let extents_bytes = tree(self.nodes[0], 10, 0, &records);
        let extents = maker.pieces(extents_bytes.len().div_ceil(block), usize::MAX, 0);
        maker.write(&extents, &extents_bytes);
        let extents_fork = maker.fork(3, extents_bytes.len(), &extents);

        let mut map = vec![0; allocation.len() * block * 1000];
        map.truncate(map_size.div_ceil(block) * block);
        for (number, used) in maker.used.iter().enumerate() {
            if *used {
                map[number / 8] |= 0x80 >> (number % 8);
            }
        }
        maker.write(&allocation, &map);

        let free = maker.used.iter().filter(|used| !**used).count();
        let journaled = self.journal.is_some();
        let header = Bytes::default()
            .raw(self.signature)
            .n(2, if self.signature == b"H+" { 4 } else { 5 })
            .n(4, 0x8000_0100 | if journaled { 0x2000 } else { 0 })
            .raw(if journaled { b"HFSJ" } else { b"10.0" })
            .n(4, info as u64)
            .n(4, 3_600_000_000)
            .n(4, 3_600_000_001)
            .n(4, 0)
            .n(4, 3_600_000_000)
            .n(4, 60)
            .n(4, 1)
            .n(4, block as u64)
            .n(4, blocks as u64)
            .n(4, free as u64)
            .n(4, maker.cursor as u64)
            .n(4, 65_536)
            .n(4, 65_536)
            .n(4, 100)
            .n(4, 7)
            .n(8, 1)
            .raw(&[0; 32])
            .raw(&allocation_fork.0)
            .raw(&extents_fork.0)
            .raw(&catalog_fork.0)
            .raw(&[0; 160]);
        assert_eq!(header.0.len(), 512);
        let mut bytes = maker.bytes;
        bytes[..1024].fill(0);
        bytes[1024..1536].copy_from_slice(&header.0);
        bytes[copy..copy + 512].copy_from_slice(&header.0);
        bytes[copy + 512..].fill(0);
        let starts = |extents: &Extents| {
            extents.iter().map(|(start, _)| start * block).collect::<Vec<_>>()
        };
        Made {
            bytes,
            files,
            free: maker.used.iter().map(|used| !used).collect(),
            block,
            allocation: starts(&allocation),
            catalog: starts(&catalog),
            extents: extents[0].0 * block,
            journal: journal * block,
            journal_info: info * block,
        }
    }
}

pub fn label() -> &'static str {
    NAME
}
