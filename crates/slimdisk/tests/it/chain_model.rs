//! Chains of differencing VHDs: a writer and a reader that share no code with the
//! library, after the specification alone.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use crate::support::Noise;
use crate::vhd_model::{SECTOR, Shape, read_strictly, set_checksum};

/// A name of the parent as it lies in a child.
#[derive(Clone, Debug)]
pub struct Locator {
    pub code: [u8; 4],
    pub data: Vec<u8>,
    /// The specification counts the room in sectors, Windows in bytes.
    pub in_sectors: bool,
}

impl Locator {
    pub fn utf16(code: &[u8; 4], path: &str) -> Locator {
        let data = path.encode_utf16().flat_map(u16::to_le_bytes).collect();
        Locator { code: *code, data, in_sectors: false }
    }

    pub fn bytes(code: &[u8; 4], path: &[u8]) -> Locator {
        Locator { code: *code, data: path.to_vec(), in_sectors: true }
    }
}

/// What makes a child of a dynamic image.
#[derive(Clone, Debug)]
pub struct Child {
    /// Its blocks and its own identity (from the seed).
    pub shape: Shape,
    pub parent_id: [u8; 16],
    /// Seconds since 2000.
    pub parent_time: u32,
    pub parent_name: String,
    pub locators: Vec<Locator>,
}

/// The identity of an image that was made from a shape.
pub fn id_of(shape: &Shape) -> [u8; 16] {
    id_in(&shape.footer())
}

/// The identity in a file (its last 512 bytes are the footer).
pub fn id_in(file: &[u8]) -> [u8; 16] {
    let footer = &file[file.len() - 512..];
    footer[68..84].try_into().unwrap()
}

impl Child {
    /// A child named after nothing but its header's parent name.
    pub fn new(shape: Shape, parent_id: [u8; 16], parent_name: &str) -> Child {
        Child {
            shape,
            parent_id,
            parent_time: 0,
            parent_name: parent_name.to_owned(),
            locators: Vec::new(),
        }
    }

    /// The file; `bitmap` gives the sector bits of a block, padding left out.
    pub fn build(
        &self,
        bitmap: impl Fn(u32) -> Vec<u8>,
        data: impl Fn(u32) -> Vec<u8>,
    ) -> Vec<u8> {
        let mut file = self.shape.build_with(data);
        for (block, _) in &self.shape.order {
            let place = entry(&file, *block) as usize * SECTOR;
            let bits = bitmap(*block);
            file[place..place + bits.len()].copy_from_slice(&bits);
        }
        // Room for the names before the first block, the rest moves up.
        let room: usize =
            self.locators.iter().map(|l| l.data.len().next_multiple_of(SECTOR)).sum();
        let room = room.next_multiple_of(4096);
        let at = match self.shape.order.iter().map(|(b, _)| entry(&file, *b)).min() {
            Some(first) => first as usize * SECTOR,
            None => file.len() - 512,
        };
        let tail = file.split_off(at);
        file.resize(at + room, 0);
        file.extend(tail);
        for (block, _) in &self.shape.order {
            let moved = entry(&file, *block) + (room / SECTOR) as u32;
            file[0x600 + *block as usize * 4..][..4]
                .copy_from_slice(&moved.to_be_bytes());
        }
        let mut next = at;
        for (index, locator) in self.locators.iter().enumerate() {
            let len = locator.data.len();
            file[next..next + len].copy_from_slice(&locator.data);
            let room = len.next_multiple_of(SECTOR);
            let space = if locator.in_sectors { room / SECTOR } else { room };
            let entry = &mut file[512 + 576 + index * 24..][..24];
            entry[..4].copy_from_slice(&locator.code);
            entry[4..8].copy_from_slice(&(space as u32).to_be_bytes());
            entry[8..12].copy_from_slice(&(len as u32).to_be_bytes());
            entry[16..24].copy_from_slice(&(next as u64).to_be_bytes());
            next += room;
        }
        let header = &mut file[512..1536];
        header[40..56].copy_from_slice(&self.parent_id);
        header[56..60].copy_from_slice(&self.parent_time.to_be_bytes());
        let name: Vec<u8> =
            self.parent_name.encode_utf16().flat_map(u16::to_be_bytes).collect();
        header[64..64 + name.len()].copy_from_slice(&name);
        set_checksum(header, 36);
        let footer_at = file.len() - 512;
        for at in [0, footer_at] {
            let footer = &mut file[at..at + 512];
            footer[60..64].copy_from_slice(&4u32.to_be_bytes());
            set_checksum(footer, 64);
        }
        file
    }
}

fn entry(file: &[u8], block: u32) -> u32 {
    u32::from_be_bytes(file[0x600 + block as usize * 4..][..4].try_into().unwrap())
}

/// A fixed image of `disk` with an identity from `seed`.
pub fn fixed(disk: &[u8], seed: u64) -> Vec<u8> {
    let shape = Shape {
        block_size: 512,
        blocks: (disk.len() / 512) as u32,
        order: Vec::new(),
        aligned: false,
        spare_entries: 0,
        batmap: false,
        creator: *b"win ",
        seed,
    };
    let mut footer = shape.footer();
    footer[16..24].fill(0xFF);
    footer[60..64].copy_from_slice(&2u32.to_be_bytes());
    set_checksum(&mut footer, 64);
    [disk, &footer].concat()
}

/// Random bits in runs; sometimes all alike.
pub fn random_bits(noise: &mut Noise, sectors: usize) -> Vec<u8> {
    match noise.below(6) {
        0 => return vec![0; sectors / 8],
        1 => return vec![0xFF; sectors / 8],
        _ => {}
    }
    let mut bits = vec![0; sectors / 8];
    let mut at = 0;
    while at < sectors {
        let longest = if noise.below(2) == 0 { 4 } else { 40 };
        let run = 1 + noise.below(longest) as usize;
        let set = noise.below(2) == 0;
        for sector in at..(at + run).min(sectors) {
            if set {
                bits[sector / 8] |= 0x80 >> (sector % 8);
            }
        }
        at += run;
    }
    bits
}

/// What a guest reads: `chain` from the child to its last parent, as files.
pub fn read_chain(chain: &[&[u8]]) -> Vec<u8> {
    let (file, parents) = chain.split_first().unwrap();
    let footer = &file[file.len() - 512..];
    let size = u64::from_be_bytes(footer[48..56].try_into().unwrap()) as usize;
    let kind = u32::from_be_bytes(footer[60..64].try_into().unwrap());
    if kind == 2 {
        return file[..size].to_vec();
    }
    let mut disk = if kind == 4 { read_chain(parents) } else { Vec::new() };
    disk.resize(size, 0);
    let blocks = read_strictly(file).unwrap();
    for (number, block) in blocks.iter().enumerate() {
        let Some(block) = block else { continue };
        let start = number * block.data.len();
        for sector in 0..block.data.len() / SECTOR {
            let at = start + sector * SECTOR;
            let here =
                kind != 4 || block.bitmap[sector / 8] & (0x80 >> (sector % 8)) != 0;
            if here && at < size {
                let data = &block.data[sector * SECTOR..][..SECTOR.min(size - at)];
                disk[at..at + data.len()].copy_from_slice(data);
            }
        }
    }
    disk
}
