//! A strict reader of chains: every structure of each image, who its parent is, and
//! what the disk shows, sector by sector.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

use crate::vhdx_model::{
    BAT_REGION, FILE_PARAMETERS, FULL, LOGICAL_SECTOR, METADATA_REGION, MIB, PAGE,
    PARENT_LOCATOR, PARTIAL, Pages, VHDX_LOCATOR, VIRTUAL_DISK_SIZE, guid, guid_text,
    replay, sealed,
};

/// One image, its log replayed.
#[derive(Clone)]
pub struct Seen {
    pub file: Pages,
    /// Whether there was a log to replay.
    pub replayed: bool,
    pub file_write: [u8; 16],
    /// The disk's identity, as text.
    pub id: String,
    pub sector: u64,
    pub block_len: u64,
    pub disk_size: u64,
    pub differencing: bool,
    /// Whether its blocks are to keep their places.
    pub fixed: bool,
    /// The pairs of the parent locator.
    pub pairs: Vec<(String, String)>,
    /// State and place of each block that says anything.
    pub blocks: Vec<(u64, u64)>,
    /// Places of the sector bitmaps, by chunk; 0 where there is none.
    pub bitmaps: Vec<u64>,
    pub metadata: u64,
    pub bat: u64,
    pub log: (u64, u64),
}

fn number(bytes: &[u8]) -> u64 {
    let mut all = [0; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(all)
}

fn text(bytes: &[u8]) -> Result<String, String> {
    let units: Vec<u16> = bytes.chunks(2).map(|pair| number(pair) as u16).collect();
    String::from_utf16(&units).map_err(|_| "no UTF-16".to_owned())
}

fn pairs_of(item: &[u8]) -> Result<Vec<(String, String)>, String> {
    if item.len() < 20 || item[..16] != guid(VHDX_LOCATOR) || item[16..18] != [0, 0] {
        return Err("no parent locator of a VHDX".to_owned());
    }
    let count = number(&item[18..20]) as usize;
    let mut taken = vec![0..20 + 12 * count];
    let mut pairs = Vec::new();
    for entry in item[20..].chunks(12).take(count) {
        let mut part = |at: &[u8], len: &[u8]| {
            let (at, len) = (number(at) as usize, number(len) as usize);
            if at == 0 || len == 0 || at + len > item.len() {
                return Err(format!("{len} bytes at {at} of the parent locator"));
            }
            taken.push(at..at + len);
            text(&item[at..at + len])
        };
        pairs
            .push((part(&entry[..4], &entry[8..10])?, part(&entry[4..8], &entry[10..])?));
    }
    taken.sort_by_key(|range| range.start);
    if taken.windows(2).any(|pair| pair[1].start < pair[0].end) {
        return Err("texts of the parent locator overlap".to_owned());
    }
    let mut keys: Vec<_> = pairs.iter().map(|(key, _)| key).collect();
    keys.sort();
    keys.dedup();
    if keys.len() != pairs.len() {
        return Err("a key of the parent locator twice".to_owned());
    }
    Ok(pairs)
}

/// Reads an image as the strictest of readers would, but that one of two headers may be
/// lost, being written.
pub fn read(before: &Pages) -> Result<Seen, String> {
    let err = |what: &str| Err(what.to_owned());
    let headers: Vec<Vec<u8>> = [64 << 10, 128 << 10]
        .into_iter()
        .map(|at| before.get(at, 4096))
        .filter(|bytes| &bytes[..4] == b"head" && sealed(bytes))
        .collect();
    let newest = headers.iter().max_by_key(|header| number(&header[8..16]));
    let Some(header) = newest else { return err("no header") };
    if headers.len() == 2 && headers[0][8..16] == headers[1][8..16] {
        return err("two headers of one number");
    }
    let log = (number(&header[72..80]), number(&header[68..72]));
    let mut file = before.clone();
    let log_guid: [u8; 16] = header[48..64].try_into().unwrap();
    let replayed = log_guid != [0; 16];
    if replayed {
        replay(&mut file, log.0, log.1, &log_guid)?;
    }
    let mut taken = vec![(0, MIB, "header"), (log.0, log.0 + log.1, "log")];
    let table = file.get(192 << 10, 64 << 10);
    if !sealed(&table) || table != file.get(256 << 10, 64 << 10) {
        return err("the region tables are damaged");
    }
    let (mut bat, mut metadata) = ((0, 0), (0, 0));
    for row in table[16..].chunks(32).take(number(&table[8..12]) as usize) {
        let (at, len) = (number(&row[16..24]), number(&row[24..28]));
        taken.push((at, at + len, "region"));
        match &row[..16] {
            id if *id == guid(BAT_REGION) => bat = (at, len),
            id if *id == guid(METADATA_REGION) => metadata = (at, len),
            _ => {}
        }
    }
    let rows = file.get(metadata.0, 64 << 10);
    if &rows[..8] != b"metadata" {
        return err("no metadata");
    }
    let mut items = vec![(0, 64 << 10)];
    let mut item_of = |name: &str| {
        let count = number(&rows[10..12]) as usize;
        let row =
            rows[32..].chunks(32).take(count).find(|row| row[..16] == guid(name))?;
        let (at, len) = (number(&row[16..20]), number(&row[20..24]));
        items.push((at, at + len));
        Some(file.get(metadata.0 + at, len as usize))
    };
    let parameters = item_of(FILE_PARAMETERS).ok_or("no file parameters")?;
    let disk_size = number(&item_of(VIRTUAL_DISK_SIZE).ok_or("no size")?);
    let sector = number(&item_of(LOGICAL_SECTOR).ok_or("no sector size")?);
    let differencing = parameters[4] & 2 != 0;
    let locator = item_of(PARENT_LOCATOR);
    items.sort_unstable();
    if items.windows(2).any(|pair| pair[1].0 < pair[0].1)
        || items.iter().any(|(_, end)| *end > metadata.1)
    {
        return err("metadata items overlap");
    }
    let pairs = match locator {
        Some(item) if differencing => pairs_of(&item)?,
        _ if differencing => return err("no parent locator"),
        _ => Vec::new(),
    };
    let block_len = number(&parameters[..4]);
    if !matches!(block_len / MIB, 1 | 2 | 4 | 8 | 16 | 32)
        || !matches!(sector, 512 | 4096)
        || disk_size > 1 << 40
    {
        return err("block, sector or disk of a size that no test makes");
    }
    let ratio = (sector << 23) / block_len;
    let count = disk_size.div_ceil(block_len);
    let chunks = count.div_ceil(ratio);
    let mut blocks = vec![(0, 0); count as usize];
    let mut bitmaps = vec![0; chunks as usize];
    let entries = match differencing {
        true => chunks * (ratio + 1),
        false => count + (count - 1) / ratio,
    };
    for page in file.held(bat.0, bat.0 + entries * 8).collect::<Vec<_>>() {
        for (index, entry) in
            ((page - bat.0) / 8..entries).zip(file.get(page, 4096).chunks(8))
        {
            let entry = number(entry);
            let (chunk, within) = (index / (ratio + 1), index % (ratio + 1));
            let (state, place) = (entry & 7, entry >> 20 << 20);
            if entry & 0xF_FFF8 != 0 {
                return Err(format!("reserved bits in entry {index}"));
            }
            if within == ratio {
                if entry != 0 {
                    if state != 6 || !differencing {
                        return Err(format!("sector bitmap {chunk} in state {state}"));
                    }
                    taken.push((place, place + MIB, "bitmap"));
                    bitmaps[chunk as usize] = place;
                }
                continue;
            }
            let block = chunk * ratio + within;
            if block >= count {
                if entry != 0 {
                    return Err(format!("an entry behind the last block: {index}"));
                }
                continue;
            }
            if matches!(state, 4 | 5) || state == PARTIAL && !differencing {
                return Err(format!("block {block} is in state {state}"));
            }
            if matches!(state, 0 | 2) && place != 0 {
                return Err(format!("block {block} in state {state} has a place"));
            }
            if state >= FULL || place != 0 {
                taken.push((place, place + block_len, "block"));
            }
            blocks[block as usize] = (state, place);
        }
    }
    taken.sort_unstable();
    for pair in taken.windows(2) {
        if pair[1].0 < pair[0].1 {
            return Err(format!("{:x?} and {:x?} overlap", pair[0], pair[1]));
        }
    }
    if taken.last().is_some_and(|(_, end, _)| *end > file.len) {
        return err("something ends behind the file");
    }
    for (block, (state, _)) in (0u64..).zip(&blocks) {
        if *state == PARTIAL && bitmaps[(block / ratio) as usize] == 0 {
            return Err(format!("block {block} is partially present without a bitmap"));
        }
    }
    Ok(Seen {
        file,
        replayed,
        file_write: header[16..32].try_into().unwrap(),
        id: guid_text(&header[32..48].try_into().unwrap()),
        sector,
        block_len,
        disk_size,
        differencing,
        fixed: parameters[4] & 1 != 0,
        pairs,
        blocks,
        bitmaps,
        metadata: metadata.0,
        bat: bat.0,
        log,
    })
}

impl Seen {
    pub fn pair(&self, key: &str) -> Option<&str> {
        let found = self.pairs.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether it names the image as its parent.
    pub fn names(&self, parent: &Seen) -> bool {
        let id = format!("{{{}}}", parent.id);
        [self.pair("parent_linkage"), self.pair("parent_linkage2")].contains(&Some(&id))
    }

    pub fn ratio(&self) -> u64 {
        (self.sector << 23) / self.block_len
    }

    /// Where the bits of a block lie in the file.
    pub fn bits_at(&self, block: u64) -> (u64, u64) {
        let len = self.block_len / self.sector / 8;
        let bitmap = self.bitmaps[(block / self.ratio()) as usize];
        (bitmap + block % self.ratio() * len, len)
    }

    /// What the disk shows where `below` is what its parent shows; zeros are no pages.
    pub fn show(&self, below: &Pages) -> Pages {
        let mut disk = Pages::default();
        disk.set_len(self.disk_size);
        let mut put = |at: u64, page: &[u8]| {
            let left = usize::try_from(self.disk_size.saturating_sub(at)).unwrap();
            let page = &page[..page.len().min(left)];
            if page.iter().any(|byte| *byte != 0) {
                disk.write(at, page);
            }
        };
        for (block, (state, place)) in (0u64..).zip(&self.blocks) {
            let start = block * self.block_len;
            let end = start + self.block_len;
            let parents = below.held(start, end.min(below.len.max(start)));
            match *state {
                0 if self.differencing => {
                    parents.for_each(|at| put(at, &below.get(at, 4096)));
                }
                FULL => {
                    for at in self.file.held(*place, place + self.block_len) {
                        put(at - place + start, &self.file.get(at, 4096));
                    }
                }
                PARTIAL => {
                    let own = self.file.held(*place, place + self.block_len);
                    let mut pages: Vec<u64> =
                        parents.chain(own.map(|at| at - place + start)).collect();
                    pages.sort_unstable();
                    pages.dedup();
                    let (bits_at, len) = self.bits_at(block);
                    let bits = self.file.get(bits_at, len as usize);
                    for at in pages {
                        let mut page = below.get(at, 4096);
                        let own = self.file.get(at - start + place, 4096);
                        for within in (0..PAGE).step_by(self.sector as usize) {
                            let sector = (at - start + within) / self.sector;
                            if bits[sector as usize / 8] & 1 << (sector % 8) != 0 {
                                let range =
                                    within as usize..(within + self.sector) as usize;
                                page[range.clone()].copy_from_slice(&own[range]);
                            }
                        }
                        put(at, &page);
                    }
                }
                _ => {}
            }
        }
        disk
    }
}

/// What the first of a chain shows.
pub fn shown(chain: &[&Seen]) -> Pages {
    let nothing = Pages::default();
    chain.iter().rev().fold(nothing, |below, image| image.show(&below))
}
