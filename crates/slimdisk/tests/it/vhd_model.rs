//! A VHD writer and a strict VHD reader that share no code with the library,
//! after the specification alone.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::fs::File;
use std::path::Path;

use slimdisk::storage::{HostFile, ReadAt};

use crate::support::Noise;

pub const SECTOR: usize = 512;

/// How a test image is laid out.
#[derive(Clone, Debug)]
pub struct Shape {
    pub block_size: usize,
    pub blocks: u32,
    /// For each allocated block, in the order of the file: its number, and how
    /// many unused sectors lie before it.
    pub order: Vec<(u32, usize)>,
    /// Windows' layout: data and the end of the file on multiples of 4 KiB.
    pub aligned: bool,
    /// Table entries beyond the disk's blocks.
    pub spare_entries: u32,
    pub batmap: bool,
    pub creator: [u8; 4],
    pub seed: u64,
}

impl Shape {
    /// Blocks of 4 KiB in random order with random gaps.
    pub fn random(noise: &mut Noise) -> Shape {
        let block_size = [4096, 4096, 8192, 65536][noise.below(4) as usize];
        let aligned = noise.below(3) == 0;
        let blocks = 4 + noise.below(if block_size > 8192 { 8 } else { 40 }) as u32;
        let mut order: Vec<(u32, usize)> = Vec::new();
        for block in 0..blocks {
            if noise.below(4) != 0 {
                let gap = match noise.below(6) {
                    0 => noise.below(30) as usize,
                    1 => block_size / SECTOR + 1,
                    _ => 0,
                };
                order.push((block, if aligned { 0 } else { gap }));
            }
        }
        for i in (1..order.len()).rev() {
            order.swap(i, noise.below(i as u64 + 1) as usize);
        }
        let batmap = noise.below(4) == 0;
        Shape {
            block_size,
            blocks,
            order,
            aligned,
            spare_entries: if noise.below(4) == 0 { 200 } else { 0 },
            batmap,
            creator: if batmap { *b"tap\0" } else { *b"win " },
            seed: noise.next(),
        }
    }

    pub fn bitmap_len(&self) -> usize {
        (self.block_size / SECTOR / 8).next_multiple_of(SECTOR)
    }

    /// The data of a block, full of bytes that are not zero.
    pub fn data(&self, block: u32) -> Vec<u8> {
        Noise::new(self.seed ^ u64::from(block)).bytes(self.block_size)
    }

    /// The sector bitmap of a block, marked in its padding to see that it moves
    /// along.
    pub fn bitmap(&self, block: u32) -> Vec<u8> {
        let mut bitmap = vec![0xFF; self.bitmap_len()];
        if self.block_size < 2 << 20 {
            bitmap[511] = block as u8;
        }
        bitmap
    }

    /// The whole file; blocks in `zero` hold zeros.
    pub fn build(&self, zero: &[u32]) -> Vec<u8> {
        let zeros = vec![0; self.block_size];
        self.build_with(|block| {
            if zero.contains(&block) { zeros.clone() } else { self.data(block) }
        })
    }

    /// A file that holds `disk`: its blocks that are not zero, in random order.
    pub fn of_disk(
        disk: &[u8],
        block_size: usize,
        aligned: bool,
        creator: [u8; 4],
    ) -> Vec<u8> {
        let mut order: Vec<(u32, usize)> = disk
            .chunks(block_size)
            .enumerate()
            .filter(|(_, data)| data.iter().any(|byte| *byte != 0))
            .map(|(block, _)| (block as u32, 0))
            .collect();
        let mut noise = Noise::new(order.len() as u64);
        for i in (1..order.len()).rev() {
            order.swap(i, noise.below(i as u64 + 1) as usize);
        }
        let shape = Shape {
            block_size,
            blocks: disk.len().div_ceil(block_size) as u32,
            order,
            aligned,
            spare_entries: 0,
            batmap: false,
            creator,
            seed: 1,
        };
        shape.build_with(|block| {
            let at = block as usize * block_size;
            let mut data = disk[at..disk.len().min(at + block_size)].to_vec();
            data.resize(block_size, 0);
            data
        })
    }

    /// Writes a VHD of any size in which every block has a place, in the order of
    /// the disk; blocks that are holes in `raw` are holes in the file. Sector
    /// bitmaps are left clear, for nobody reads them in a dynamic disk.
    pub fn write_full(path: &Path, raw: &Path, block_size: usize) {
        let raw = HostFile::open_read(raw).unwrap();
        let blocks = raw.len().div_ceil(block_size as u64) as u32;
        let shape = Shape {
            block_size,
            blocks,
            order: Vec::new(),
            aligned: false,
            spare_entries: 0,
            batmap: false,
            creator: *b"win ",
            seed: 1,
        };
        let headers = shape.build(&[]);
        let data_at = headers.len() as u64 - 512;
        let stride = (shape.bitmap_len() + block_size) as u64;
        let table: Vec<u8> = (0..u64::from(blocks))
            .flat_map(|block| (((data_at + block * stride) / 512) as u32).to_be_bytes())
            .collect();
        let file = File::create(path).unwrap();
        file.write_all_at(&headers[..data_at as usize], 0).unwrap();
        file.write_all_at(&table, 0x600).unwrap();
        let mut piece = vec![0; 1 << 20];
        let mut at = 0;
        while let Some(data) = raw.next_data(at).unwrap() {
            at = data.start;
            while at < data.end {
                let end = (at + 1).next_multiple_of(piece.len() as u64).min(data.end);
                let bytes = &mut piece[..(end - at) as usize];
                raw.read_at(at, bytes).unwrap();
                let block = at / block_size as u64;
                let to = data_at + block * stride + shape.bitmap_len() as u64;
                file.write_all_at(bytes, to + at % block_size as u64).unwrap();
                at = end;
            }
        }
        let end = data_at + u64::from(blocks) * stride;
        file.write_all_at(&shape.footer(), end).unwrap();
    }

    pub fn build_with(&self, data: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
        let entries = self.blocks + self.spare_entries;
        let table_at = 0x600;
        let mut table = vec![0xFFFF_FFFFu32; (entries as usize).next_multiple_of(128)];
        let mut file = vec![0; table_at + table.len() * 4];
        let batmap_at = file.len();
        let mut claims =
            vec![0u8; (entries as usize).div_ceil(8).next_multiple_of(SECTOR)];
        if self.batmap {
            file.resize(batmap_at + SECTOR + claims.len(), 0);
        }
        for (block, gap) in &self.order {
            file.resize(file.len() + gap * SECTOR, 0xEE);
            if self.aligned {
                let data = (file.len() + self.bitmap_len()).next_multiple_of(4096);
                file.resize(data - self.bitmap_len(), 0);
            }
            table[*block as usize] = (file.len() / SECTOR) as u32;
            claims[*block as usize / 8] |= 0x80 >> (block % 8);
            file.extend(self.bitmap(*block));
            file.extend(data(*block));
        }
        for (index, entry) in table.iter().enumerate() {
            file[table_at + index * 4..][..4].copy_from_slice(&entry.to_be_bytes());
        }
        if self.batmap {
            let sum = claims.iter().fold(0u32, |s, b| s.wrapping_add(u32::from(*b)));
            let header = &mut file[batmap_at..];
            header[..8].copy_from_slice(b"tdbatmap");
            header[8..16].copy_from_slice(&(batmap_at as u64 + 512).to_be_bytes());
            header[16..20]
                .copy_from_slice(&((claims.len() / SECTOR) as u32).to_be_bytes());
            header[20..24].copy_from_slice(&0x0001_0002u32.to_be_bytes());
            header[24..28].copy_from_slice(&(!sum).to_be_bytes());
            file[batmap_at + SECTOR..][..claims.len()].copy_from_slice(&claims);
        }
        let footer = self.footer();
        file[..512].copy_from_slice(&footer);
        let header = self.header(table_at as u64, entries);
        file[512..1536].copy_from_slice(&header);
        if self.aligned {
            let end = (file.len() + 512).next_multiple_of(4096);
            file.resize(end - 512, 0);
        }
        file.extend(footer);
        file
    }

    pub fn footer(&self) -> Vec<u8> {
        let mut f = vec![0u8; 512];
        let size = u64::from(self.blocks) * self.block_size as u64;
        f[..8].copy_from_slice(b"conectix");
        f[8..12].copy_from_slice(&2u32.to_be_bytes());
        f[12..16].copy_from_slice(&0x0001_0000u32.to_be_bytes());
        f[16..24].copy_from_slice(&512u64.to_be_bytes());
        f[24..28].copy_from_slice(&0x2A2A_2A2Au32.to_be_bytes());
        f[28..32].copy_from_slice(&self.creator);
        f[32..36].copy_from_slice(&0x0001_0003u32.to_be_bytes());
        f[36..40].copy_from_slice(b"Wi2k");
        f[40..48].copy_from_slice(&size.to_be_bytes());
        f[48..56].copy_from_slice(&size.to_be_bytes());
        f[56..60].copy_from_slice(&[0xFF, 0xFF, 16, 255]);
        f[60..64].copy_from_slice(&3u32.to_be_bytes());
        f[68..84].copy_from_slice(&Noise::new(self.seed).bytes(16));
        set_checksum(&mut f, 64);
        f
    }

    fn header(&self, table_at: u64, entries: u32) -> Vec<u8> {
        let mut h = vec![0u8; 1024];
        h[..8].copy_from_slice(b"cxsparse");
        h[8..16].copy_from_slice(&u64::MAX.to_be_bytes());
        h[16..24].copy_from_slice(&table_at.to_be_bytes());
        h[24..28].copy_from_slice(&0x0001_0000u32.to_be_bytes());
        h[28..32].copy_from_slice(&entries.to_be_bytes());
        h[32..36].copy_from_slice(&(self.block_size as u32).to_be_bytes());
        set_checksum(&mut h, 36);
        h
    }
}

/// Enters the one's complement checksum of a footer or header.
pub fn set_checksum(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let sum = bytes.iter().fold(0u32, |s, b| s.wrapping_add(u32::from(*b)));
    bytes[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
}

fn checksum_holds(bytes: &[u8], at: usize) -> bool {
    let mut copy = bytes.to_vec();
    set_checksum(&mut copy, at);
    copy == bytes
}

fn be32(file: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(file[at..at + 4].try_into().unwrap())
}

fn be64(file: &[u8], at: usize) -> usize {
    u64::from_be_bytes(file[at..at + 8].try_into().unwrap()) as usize
}

/// One block as a strict reader finds it.
#[derive(Debug, PartialEq, Eq)]
pub struct Block<'a> {
    pub place: usize,
    pub bitmap: &'a [u8],
    pub data: &'a [u8],
}

/// Reads a file the way the strictest of readers would: both footers sound and
/// alike, every block inside the file and on nothing else, no place used twice,
/// the batmap claiming nothing that is not there. `Err` says what is wrong.
pub fn read_strictly(file: &[u8]) -> Result<Vec<Option<Block<'_>>>, String> {
    let err = |what: &str| Err(what.to_owned());
    if file.len() < 2048 {
        return err("file too short");
    }
    let trailing_at = file.len() - 512;
    let (leading, trailing) = (&file[..512], &file[trailing_at..]);
    if &leading[..8] != b"conectix" || !checksum_holds(leading, 64) {
        return err("leading footer damaged");
    }
    if &trailing[..8] != b"conectix" || !checksum_holds(trailing, 64) {
        return err("trailing footer damaged");
    }
    if leading != trailing {
        return err("footers differ");
    }
    let header_at = be64(leading, 16);
    let Some(header) = file.get(header_at..header_at.saturating_add(1024)) else {
        return err("header outside the file");
    };
    if &header[..8] != b"cxsparse" || !checksum_holds(header, 36) {
        return err("header damaged");
    }
    let table_at = be64(header, 16);
    let entries = be32(header, 28) as usize;
    let block_size = be32(header, 32) as usize;
    let table_end = table_at + (entries * 4).next_multiple_of(512);
    let bitmap_len = (block_size / 512 / 8).next_multiple_of(512);
    let mut taken = vec![(0, 512), (header_at, header_at + 1024), (table_at, table_end)];
    for locator in header[576..768].chunks(24).filter(|l| l[..4] != [0; 4]) {
        let (len, at) = (be32(locator, 8) as usize, be64(locator, 16));
        taken.push((at, at + len.next_multiple_of(512)));
    }
    let mut claims: Option<&[u8]> = None;
    if file.get(table_end..table_end + 8) == Some(b"tdbatmap") {
        let at = be64(file, table_end + 8);
        let len = be32(file, table_end + 16) as usize * 512;
        let Some(map) = at.checked_add(len).and_then(|end| file.get(at..end)) else {
            return err("batmap lies outside the file");
        };
        if len < entries.div_ceil(8) {
            return err("batmap is too short");
        }
        taken.push((table_end, table_end + 512));
        taken.push((at, at + len));
        let sum = map.iter().fold(0u32, |s, b| s.wrapping_add(u32::from(*b)));
        // A checksum that does not hold says that nobody may believe the map.
        claims = (!sum == be32(file, table_end + 24)).then_some(map);
    }
    let mut blocks = Vec::with_capacity(entries);
    for block in 0..entries {
        let entry = be32(file, table_at + block * 4);
        if entry == u32::MAX {
            if claims.is_some_and(|map| map[block / 8] & (0x80 >> (block % 8)) != 0) {
                return Err(format!("batmap claims block {block}, which is not there"));
            }
            blocks.push(None);
            continue;
        }
        let place = entry as usize * 512;
        let data = place + bitmap_len;
        if data + block_size > trailing_at {
            return Err(format!("block {block} at {place:#x} ends beyond the data"));
        }
        taken.push((place, data + block_size));
        blocks.push(Some(Block {
            place,
            bitmap: &file[place..data],
            data: &file[data..data + block_size],
        }));
    }
    taken.sort_unstable();
    for pair in taken.windows(2) {
        if pair[1].0 < pair[0].1 {
            return Err(format!("{:#x?} and {:#x?} overlap", pair[0], pair[1]));
        }
    }
    Ok(blocks)
}

/// Reading and writing by offset, by the names that Unix has for it.
#[cfg(unix)]
pub use std::os::unix::fs::FileExt as FileAt;

/// Reading and writing by offset, by the names that Unix has for it.
#[cfg(windows)]
pub trait FileAt {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()>;
    fn write_all_at(&self, data: &[u8], offset: u64) -> std::io::Result<()>;
}

#[cfg(windows)]
impl FileAt for File {
    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> std::io::Result<()> {
        while !buf.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(self, buf, offset)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                n => (buf, offset) = (&mut buf[n..], offset + n as u64),
            }
        }
        Ok(())
    }

    fn write_all_at(&self, mut data: &[u8], mut offset: u64) -> std::io::Result<()> {
        while !data.is_empty() {
            let n = std::os::windows::fs::FileExt::seek_write(self, data, offset)?;
            (data, offset) = (&data[n..], offset + n as u64);
        }
        Ok(())
    }
}
