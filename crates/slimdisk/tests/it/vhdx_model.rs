//! A VHDX writer and a strict VHDX reader that share no code with the library, after
//! the specification alone; and a file that is held page by page, for the smallest
//! block has a MiB.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses its own part of this"
)]

// Named, for others take this file by its path.
#[path = "vhdx_model/strict.rs"]
mod strict;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use crate::support::Noise;

pub use self::strict::{Model, read_strictly, replay, sector_of, shown};

pub const MIB: u64 = 1 << 20;
pub const PAGE: u64 = 4096;

/// A file of which only the pages that are not zeros are held; cheap to copy.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pages {
    pub len: u64,
    pages: BTreeMap<u64, Arc<[u8; 4096]>>,
}

impl Pages {
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut file = Pages { len: bytes.len() as u64, ..Pages::default() };
        for (at, chunk) in (0..).step_by(4096).zip(bytes.chunks(4096)) {
            if chunk.iter().any(|byte| *byte != 0) {
                file.write(at, chunk);
            }
        }
        file
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.get(0, self.len as usize)
    }

    pub fn get(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.read(offset, &mut out);
        out
    }

    /// Reads what is there; zeros behind the end.
    pub fn read(&self, offset: u64, out: &mut [u8]) {
        out.fill(0);
        let end = offset + out.len() as u64;
        for (number, page) in self.pages.range(offset / PAGE..end.div_ceil(PAGE)) {
            let start = number * PAGE;
            let (from, to) = (start.max(offset), (start + PAGE).min(end));
            out[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&page[(from - start) as usize..(to - start) as usize]);
        }
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        self.len = self.len.max(offset + data.len() as u64);
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let within = (at % PAGE) as usize;
            let (part, more) = rest.split_at(rest.len().min(4096 - within));
            let page = self.pages.entry(at / PAGE).or_insert_with(|| Arc::new([0; 4096]));
            Arc::make_mut(page)[within..within + part.len()].copy_from_slice(part);
            at += part.len() as u64;
            rest = more;
        }
    }

    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.retain(|number, _| *number < len.div_ceil(PAGE));
            if let Some(page) = self.pages.get_mut(&(len / PAGE)) {
                Arc::make_mut(page)[(len % PAGE) as usize..].fill(0);
            }
        }
        self.len = len;
    }

    /// The pages of a range that are held: where they lie.
    pub fn held(&self, start: u64, end: u64) -> impl Iterator<Item = u64> + '_ {
        self.pages
            .range(start / PAGE..end.div_ceil(PAGE))
            .map(|(number, _)| number * PAGE)
    }

    /// Whether two ranges hold the same.
    pub fn same(&self, at: u64, other: &Pages, other_at: u64, len: u64) -> bool {
        let mine = self.held(at, at + len).map(|page| page - at);
        let theirs = other.held(other_at, other_at + len).map(|page| page - other_at);
        mine.chain(theirs)
            .all(|page| self.get(at + page, 4096) == other.get(other_at + page, 4096))
    }

    pub fn is_zero(&self, at: u64, len: u64) -> bool {
        self.held(at, at + len).all(|page| self.get(page, 4096).iter().all(|b| *b == 0))
    }

    pub fn u32(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.get(at, 4).try_into().unwrap())
    }

    fn u64(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.get(at, 8).try_into().unwrap())
    }
}

pub fn crc(bytes: &[u8]) -> u32 {
    static TABLE: LazyLock<[u32; 256]> = LazyLock::new(|| {
        let mut table = [0u32; 256];
        for (index, slot) in (0u32..).zip(&mut table) {
            *slot = (0..8).fold(index, |crc, _| {
                if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 }
            });
        }
        table
    });
    let table = &*TABLE;
    !bytes.iter().fold(!0u32, |crc, byte| {
        table[((crc ^ u32::from(*byte)) & 0xFF) as usize] ^ crc >> 8
    })
}

/// Enters the checksum of a structure that has it in bytes 4 to 7.
pub fn seal(bytes: &mut [u8]) {
    bytes[4..8].fill(0);
    let sum = crc(bytes);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
}

pub fn sealed(bytes: &[u8]) -> bool {
    thread_local! {
        /// The large ones that were found to be, for a crash test asks ten thousand times.
        static KNOWN: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    }
    if KNOWN.with_borrow(|known| known.iter().any(|known| known == bytes)) {
        return true;
    }
    let mut copy = bytes.to_vec();
    seal(&mut copy);
    let sealed = copy == bytes;
    if sealed && bytes.len() > 4096 {
        KNOWN.with_borrow_mut(|known| {
            known.truncate(4);
            known.insert(0, copy);
        });
    }
    sealed
}

/// An identifier as it lies in the file.
pub fn guid(text: &str) -> [u8; 16] {
    let digits: Vec<u8> = text
        .replace('-', "")
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    let d: [u8; 16] = digits.try_into().unwrap();
    [
        d[3], d[2], d[1], d[0], d[5], d[4], d[7], d[6], d[8], d[9], d[10], d[11], d[12],
        d[13], d[14], d[15],
    ]
}

/// The text of an identifier as it lies in the file.
pub fn guid_text(id: &[u8; 16]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::new();
    for (index, from) in order.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text += &format!("{:02x}", id[from]);
    }
    text
}

pub const BAT_REGION: &str = "2DC27766-F623-4200-9D64-115E9BFD4A08";
pub const METADATA_REGION: &str = "8B7CA206-4790-4B9A-B8FE-575F050F886E";
pub const FILE_PARAMETERS: &str = "CAA16737-FA36-4D43-B3B6-33F0AA44E76B";
pub const VIRTUAL_DISK_SIZE: &str = "2FA54224-CD1B-4876-B211-5DBED83BF4B8";
pub const VIRTUAL_DISK_ID: &str = "BECA12AB-B2E6-4523-93EF-C309E000C746";
pub const LOGICAL_SECTOR: &str = "8141BF1D-A96F-4709-BA47-F233A8FAAB5F";
pub const PHYSICAL_SECTOR: &str = "CDA348C7-445D-4471-9CC9-E9885251C556";
pub const PARENT_LOCATOR: &str = "A8D35F2D-B30B-454D-ABF7-D3D84834AB0C";
pub const VHDX_LOCATOR: &str = "B04AEFB7-D19E-4A81-B789-25B8E9445913";

/// The parent of a differencing image.
#[derive(Clone, Debug)]
pub struct Link {
    pub pairs: Vec<(String, String)>,
}

/// How a test image is laid out.
#[derive(Clone, Debug)]
pub struct Shape {
    pub block_mib: u64,
    pub blocks: u32,
    /// How much shorter the disk is than its blocks, in bytes.
    pub short: u64,
    pub logical: u32,
    pub physical: u32,
    /// For each block with a place, in the order of the file: its number, its state, and
    /// how many unused MiB lie before it.
    pub order: Vec<(u32, u64, u64)>,
    /// Raw entries of others.
    pub entries: Vec<(u32, u64)>,
    pub log_mib: u64,
    /// Which of log, table and metadata comes first, second and last.
    pub regions: [u8; 3],
    /// A region that nobody knows, and whether it is required.
    pub unknown: Option<bool>,
    /// Which of the blocks in `order` it lies before.
    pub unknown_before: usize,
    /// Bit 0 and bit 1 of the file parameters.
    pub flags: u32,
    pub link: Option<Link>,
    /// Of each partially present block which eighth of its sectors, one bit each, it has.
    pub eighths: Vec<(u32, u8)>,
    pub seed: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            block_mib: 1,
            blocks: 10,
            short: 0,
            logical: 512,
            physical: 4096,
            order: Vec::new(),
            entries: Vec::new(),
            log_mib: 1,
            regions: [0, 2, 1],
            unknown: None,
            unknown_before: 0,
            flags: 0,
            link: None,
            eighths: Vec::new(),
            seed: 11,
        }
    }
}

/// Where the parts of a file that was built lie.
#[derive(Clone, Debug, Default)]
pub struct Places {
    pub log: u64,
    pub bat: u64,
    pub metadata: u64,
    pub unknown: Option<u64>,
}

pub const FULL: u64 = 6;
pub const PARTIAL: u64 = 7;
pub const UNMAPPED: u64 = 3;

impl Shape {
    /// Blocks of 1 to 4 MiB in random order with random gaps, the disk small or so large
    /// that its table has many pages.
    pub fn random(noise: &mut Noise) -> Shape {
        let large = noise.below(3) == 0;
        let blocks = if large { 5000 } else { 4 + noise.below(20) as u32 };
        let mut order: Vec<(u32, u64, u64)> = Vec::new();
        let mut entries = Vec::new();
        for _ in 0..4 + noise.below(12) {
            let block = noise.below(u64::from(blocks)) as u32;
            if order.iter().any(|(b, ..)| *b == block) {
                continue;
            }
            let state = if noise.below(8) == 0 { UNMAPPED } else { FULL };
            let gap = if noise.below(4) == 0 { noise.below(4) } else { 0 };
            order.push((block, state, gap));
        }
        for _ in 0..noise.below(4) {
            let block = noise.below(u64::from(blocks)) as u32;
            if order.iter().all(|(b, ..)| *b != block) {
                entries.push((block, noise.below(4)));
            }
        }
        let unknown = (noise.below(4) == 0).then_some(false);
        let mut regions = [0, 1, 2];
        for i in (1..3).rev() {
            regions.swap(i, noise.below(i as u64 + 1) as usize);
        }
        Shape {
            block_mib: [1, 1, 2, 4][noise.below(4) as usize],
            blocks,
            short: noise.below(2) * 512 * 77,
            logical: [512, 512, 4096][noise.below(3) as usize],
            unknown_before: noise.below(order.len() as u64 + 1) as usize,
            order,
            entries,
            regions,
            unknown,
            seed: noise.next(),
            ..Shape::default()
        }
        .whole_sectors()
    }

    fn whole_sectors(mut self) -> Self {
        self.short -= self.short % u64::from(self.logical);
        self
    }

    pub fn block_len(&self) -> u64 {
        self.block_mib * MIB
    }

    pub fn disk_size(&self) -> u64 {
        u64::from(self.blocks) * self.block_len() - self.short
    }

    pub fn ratio(&self) -> u64 {
        (u64::from(self.logical) << 23) / self.block_len()
    }

    pub fn index(&self, block: u32) -> u64 {
        u64::from(block) + u64::from(block) / self.ratio()
    }

    /// The pages of a block that hold anything: first, last and one in between.
    pub fn data(&self, block: u32) -> Vec<(u64, Vec<u8>)> {
        let mut noise = Noise::new(self.seed ^ u64::from(block));
        let pages = self.block_len() / PAGE;
        let between = 1 + noise.below(pages - 2);
        [0, between, pages - 1].map(|page| (page * PAGE, noise.bytes(4096))).to_vec()
    }

    pub fn guids(&self) -> [[u8; 16]; 3] {
        let mut noise = Noise::new(self.seed ^ 0xABCD);
        [0; 3].map(|_| noise.bytes(16).try_into().unwrap())
    }

    pub fn header(&self, places: &Places, number: u64, log: [u8; 16]) -> Vec<u8> {
        let [file_write, data_write, _] = self.guids();
        let mut h = vec![0u8; 4096];
        h[..4].copy_from_slice(b"head");
        h[8..16].copy_from_slice(&number.to_le_bytes());
        h[16..32].copy_from_slice(&file_write);
        h[32..48].copy_from_slice(&data_write);
        h[48..64].copy_from_slice(&log);
        h[66..68].copy_from_slice(&1u16.to_le_bytes());
        h[68..72].copy_from_slice(&((self.log_mib * MIB) as u32).to_le_bytes());
        h[72..80].copy_from_slice(&places.log.to_le_bytes());
        seal(&mut h);
        h
    }

    fn region_table(&self, places: &Places, bat_len: u64) -> Vec<u8> {
        let mut table = vec![0u8; 64 << 10];
        table[..4].copy_from_slice(b"regi");
        let mut rows = vec![
            (guid(BAT_REGION), places.bat, bat_len, 1u32),
            (guid(METADATA_REGION), places.metadata, MIB, 1),
        ];
        if let (Some(required), Some(at)) = (self.unknown, places.unknown) {
            rows.push(([7; 16], at, MIB, u32::from(required)));
        }
        table[8..12].copy_from_slice(&(rows.len() as u32).to_le_bytes());
        for (index, (id, at, len, required)) in rows.into_iter().enumerate() {
            let row = &mut table[16 + index * 32..][..32];
            row[..16].copy_from_slice(&id);
            row[16..24].copy_from_slice(&at.to_le_bytes());
            row[24..28].copy_from_slice(&(len as u32).to_le_bytes());
            row[28..32].copy_from_slice(&required.to_le_bytes());
        }
        seal(&mut table);
        table
    }

    fn metadata(&self) -> Vec<u8> {
        let mut parameters = ((self.block_len()) as u32).to_le_bytes().to_vec();
        let has_parent = u32::from(self.link.is_some()) << 1;
        parameters.extend((self.flags | has_parent).to_le_bytes());
        let [.., disk_id] = self.guids();
        let mut items = vec![
            (guid(FILE_PARAMETERS), parameters, 4u32),
            (guid(VIRTUAL_DISK_SIZE), self.disk_size().to_le_bytes().to_vec(), 6),
            (guid(VIRTUAL_DISK_ID), disk_id.to_vec(), 6),
            (guid(LOGICAL_SECTOR), self.logical.to_le_bytes().to_vec(), 6),
            (guid(PHYSICAL_SECTOR), self.physical.to_le_bytes().to_vec(), 6),
        ];
        if let Some(link) = &self.link {
            items.push((guid(PARENT_LOCATOR), locator(&link.pairs), 4));
        }
        let mut region = vec![0u8; 64 << 10];
        region[..8].copy_from_slice(b"metadata");
        region[10..12].copy_from_slice(&(items.len() as u16).to_le_bytes());
        for (index, (id, item, flags)) in items.into_iter().enumerate() {
            let at = region.len() as u32;
            let row = &mut region[32 + index * 32..][..32];
            row[..16].copy_from_slice(&id);
            row[16..20].copy_from_slice(&at.to_le_bytes());
            row[20..24].copy_from_slice(&(item.len() as u32).to_le_bytes());
            row[24..28].copy_from_slice(&flags.to_le_bytes());
            region.extend(item);
        }
        region
    }

    /// The file; blocks in `zero` hold zeros.
    pub fn build(&self, zero: &[u32]) -> (Pages, Places) {
        self.build_with(
            |block| {
                if zero.contains(&block) { Vec::new() } else { self.data(block) }
            },
        )
    }

    /// A file that holds `disk`: its blocks that are not zeros, in random order.
    pub fn of_disk(disk: &[u8], block_mib: u64) -> (Shape, Pages) {
        let size = (block_mib * MIB) as usize;
        let mut order: Vec<(u32, u64, u64)> = (0..)
            .zip(disk.chunks(size))
            .filter(|(_, data)| data.iter().any(|byte| *byte != 0))
            .map(|(block, _)| (block, FULL, 0))
            .collect();
        let mut noise = Noise::new(order.len() as u64);
        for i in (1..order.len()).rev() {
            order.swap(i, noise.below(i as u64 + 1) as usize);
        }
        let blocks = disk.len().div_ceil(size);
        let shape = Shape {
            block_mib,
            blocks: blocks as u32,
            short: (blocks * size - disk.len()) as u64,
            order,
            ..Shape::default()
        };
        let (file, _) = shape.build_with(|block| {
            let at = block as usize * size;
            vec![(0, disk[at..disk.len().min(at + size)].to_vec())]
        });
        (shape, file)
    }

    pub fn build_with(
        &self,
        data: impl Fn(u32) -> Vec<(u64, Vec<u8>)>,
    ) -> (Pages, Places) {
        let mut file = Pages::default();
        let differencing = self.link.is_some();
        let chunks = u64::from(self.blocks).div_ceil(self.ratio());
        let entries = if differencing {
            chunks * (self.ratio() + 1)
        } else {
            self.index(self.blocks - 1) + 1
        };
        let bat_len = (entries * 8).next_multiple_of(MIB);
        let mut places = Places::default();
        let mut at = MIB;
        for region in self.regions {
            let (place, len) = match region {
                0 => (&mut places.log, self.log_mib * MIB),
                1 => (&mut places.bat, bat_len),
                _ => (&mut places.metadata, MIB),
            };
            *place = at;
            at += len;
        }
        let mut table = vec![0u64; entries as usize];
        let mut chunk_seen = Vec::new();
        for (number, (block, state, gap)) in self.order.iter().enumerate() {
            if self.unknown.is_some() && number == self.unknown_before {
                places.unknown = Some(at);
                file.write(at + 5000, b"nobody knows what this is");
                at += MIB;
            }
            let chunk = u64::from(*block) / self.ratio();
            if *state == PARTIAL && !chunk_seen.contains(&chunk) {
                chunk_seen.push(chunk);
                table[(chunk * (self.ratio() + 1) + self.ratio()) as usize] = at | 6;
                self.write_bitmap(&mut file, at, chunk);
                at += MIB;
            }
            for garbage in 0..*gap {
                file.write(at + garbage * MIB + 12_288, &[0xEE; 100]);
            }
            at += gap * MIB;
            table[self.index(*block) as usize] = at | state;
            for (offset, bytes) in data(*block) {
                file.write(at + offset, &bytes);
            }
            at += self.block_len();
        }
        if self.unknown.is_some() && places.unknown.is_none() {
            places.unknown = Some(at);
            file.write(at + 5000, b"nobody knows what this is");
            at += MIB;
        }
        for (block, entry) in &self.entries {
            table[self.index(*block) as usize] = *entry;
        }
        file.set_len(at);
        file.write(0, b"vhdxfile");
        let creator: Vec<u8> =
            "slimdisk's tests".encode_utf16().flat_map(u16::to_le_bytes).collect();
        file.write(8, &creator);
        file.write(64 << 10, &self.header(&places, 7, [0; 16]));
        file.write(128 << 10, &self.header(&places, 8, [0; 16]));
        let regions = self.region_table(&places, bat_len);
        file.write(192 << 10, &regions);
        file.write(256 << 10, &regions);
        file.write(places.metadata, &self.metadata());
        for (index, entry) in (0u64..).zip(&table) {
            if *entry != 0 {
                file.write(places.bat + index * 8, &entry.to_le_bytes());
            }
        }
        (file, places)
    }

    fn write_bitmap(&self, file: &mut Pages, at: u64, chunk: u64) {
        let per_block = self.block_len() / u64::from(self.logical) / 8;
        for (block, eighths) in &self.eighths {
            if u64::from(*block) / self.ratio() == chunk {
                let within = u64::from(*block) % self.ratio() * per_block;
                let bits: Vec<u8> = (0..8u8)
                    .flat_map(|eighth| {
                        let byte = if eighths & 1 << eighth != 0 { 0xFF } else { 0 };
                        vec![byte; per_block as usize / 8]
                    })
                    .collect();
                file.write(at + within, &bits);
            }
        }
    }

    /// Puts entries into the log, each a set of pages, from a place in the ring on, and
    /// names the log in the headers.
    pub fn with_log(
        &self,
        file: &mut Pages,
        places: &Places,
        first_at: u64,
        entries: &[LogEntry],
    ) -> [u8; 16] {
        let id = [0x10; 16];
        self.write_log(file, places, first_at, entries, id);
        file.write(64 << 10, &self.header(places, 9, id));
        file.write(128 << 10, &self.header(places, 10, id));
        id
    }

    pub fn write_log(
        &self,
        file: &mut Pages,
        places: &Places,
        first_at: u64,
        entries: &[LogEntry],
        id: [u8; 16],
    ) {
        let ring = self.log_mib * MIB;
        let mut at = first_at;
        for (number, entry) in (40u64..).zip(entries) {
            let tail = entry.tail.unwrap_or(first_at);
            let bytes = entry.bytes(number, tail as u32, id, file.len);
            for (offset, page) in (0u64..).step_by(4096).zip(bytes.chunks(4096)) {
                file.write(places.log + (at + offset) % ring, page);
            }
            at = (at + bytes.len() as u64) % ring;
        }
    }
}

/// What an entry of the log changes.
#[derive(Clone, Debug, Default)]
pub struct LogEntry {
    pub pages: Vec<(u64, Vec<u8>)>,
    pub zeros: Vec<(u64, u64)>,
    /// Where its sequence begins, if not with the first one.
    pub tail: Option<u64>,
    pub flushed: Option<u64>,
    pub last: Option<u64>,
}

impl LogEntry {
    pub fn bytes(&self, number: u64, tail: u32, id: [u8; 16], file_len: u64) -> Vec<u8> {
        let count = self.pages.len() + self.zeros.len();
        let mut entry = vec![0u8; 64];
        entry[..4].copy_from_slice(b"loge");
        entry[12..16].copy_from_slice(&tail.to_le_bytes());
        entry[16..24].copy_from_slice(&number.to_le_bytes());
        entry[24..28].copy_from_slice(&(count as u32).to_le_bytes());
        entry[32..48].copy_from_slice(&id);
        let len = file_len / MIB * MIB;
        entry[48..56].copy_from_slice(&self.flushed.unwrap_or(len).to_le_bytes());
        entry[56..64].copy_from_slice(&self.last.unwrap_or(len).to_le_bytes());
        for (at, len) in &self.zeros {
            entry.extend(b"zero\0\0\0\0");
            entry.extend(len.to_le_bytes());
            entry.extend(at.to_le_bytes());
            entry.extend(number.to_le_bytes());
        }
        for (at, page) in &self.pages {
            entry.extend(b"desc");
            entry.extend(&page[4092..]);
            entry.extend(&page[..8]);
            entry.extend(at.to_le_bytes());
            entry.extend(number.to_le_bytes());
        }
        entry.resize(entry.len().next_multiple_of(4096), 0);
        for (_, page) in &self.pages {
            entry.extend(b"data");
            entry.extend(&number.to_le_bytes()[4..]);
            entry.extend(&page[8..4092]);
            entry.extend(&number.to_le_bytes()[..4]);
        }
        let len = entry.len() as u32;
        entry[8..12].copy_from_slice(&len.to_le_bytes());
        seal(&mut entry);
        entry
    }
}

pub fn locator(pairs: &[(String, String)]) -> Vec<u8> {
    let mut item = guid(VHDX_LOCATOR).to_vec();
    item.extend([0, 0]);
    item.extend((pairs.len() as u16).to_le_bytes());
    let texts_at = 20 + 12 * pairs.len();
    let mut texts = Vec::new();
    for (key, value) in pairs {
        let [key, value] = [key, value].map(|text| {
            text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()
        });
        let at = (texts_at + texts.len()) as u32;
        item.extend(at.to_le_bytes());
        item.extend((at + key.len() as u32).to_le_bytes());
        item.extend((key.len() as u16).to_le_bytes());
        item.extend((value.len() as u16).to_le_bytes());
        texts.extend(key);
        texts.extend(value);
    }
    item.extend(texts);
    item
}
