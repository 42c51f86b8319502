//! A strict VHDX reader: what a file shows, its log replayed, or what is wrong with it.

use std::collections::BTreeMap;

use super::{
    BAT_REGION, FILE_PARAMETERS, FULL, LOGICAL_SECTOR, METADATA_REGION, MIB, PAGE,
    PARTIAL, Pages, VIRTUAL_DISK_SIZE, guid, sealed,
};

/// What a strict reader makes of a file.
#[derive(Clone)]
pub struct Model {
    /// The file after its log was replayed.
    pub file: Pages,
    /// Whether it had to be.
    pub replayed: bool,
    pub file_write: [u8; 16],
    pub data_write: [u8; 16],
    pub block_len: u64,
    pub disk_size: u64,
    /// The state and place of each block.
    pub blocks: Vec<(u64, u64)>,
    /// Bytes in a logical sector.
    pub logical: u64,
    pub has_parent: bool,
    /// The place of the sector bitmap of each chunk; 0 where there is none.
    pub bitmaps: Vec<u64>,
}

impl Model {
    /// Whether two files show the same in a block.
    pub fn same_block(&self, other: &Model, block: usize) -> bool {
        let (a, b) = (self.blocks[block], other.blocks[block]);
        let len = self.block_len;
        match (a.0 == FULL, b.0 == FULL) {
            (true, true) => self.file.same(a.1, &other.file, b.1, len),
            (true, false) => self.file.is_zero(a.1, len),
            (false, true) => other.file.is_zero(b.1, len),
            (false, false) => true,
        }
    }
}

/// The sector at `at` of the disk that the first of `chain` shows with the others, its
/// parents, behind it.
pub fn sector_of(chain: &[&Model], at: u64) -> [u8; 512] {
    let Some((own, parents)) = chain.split_first() else { return [0; 512] };
    if at >= own.disk_size {
        return [0; 512];
    }
    let (block, within) = ((at / own.block_len) as usize, at % own.block_len);
    let (state, place) = own.blocks[block];
    let is_here = match state {
        FULL => true,
        PARTIAL => {
            let ratio = (own.logical << 23) / own.block_len;
            let bits = own.bitmaps[block / ratio as usize];
            let sector = at / own.logical % (1 << 23);
            own.file.get(bits + sector / 8, 1)[0] & 1 << (sector % 8) != 0
        }
        0 => false,
        _ => return [0; 512],
    };
    match is_here {
        true => own.file.get(place + within, 512).try_into().unwrap(),
        false => sector_of(parents, at),
    }
}

/// The pages of a range of the disk that are not zeros, as a chain shows it.
pub fn shown(chain: &[&Model], range: std::ops::Range<u64>) -> BTreeMap<u64, Vec<u8>> {
    let mut pages = std::collections::BTreeSet::new();
    for model in chain {
        let last = range.end.min(model.disk_size).div_ceil(model.block_len);
        for block in range.start / model.block_len..last {
            let place = model.blocks[block as usize].1;
            if place != 0 {
                let held = model.file.held(place, place + model.block_len);
                pages.extend(held.map(|page| block * model.block_len + page - place));
            }
        }
    }
    let page = |at: u64| {
        let sectors = (at..at + PAGE).step_by(512);
        let bytes: Vec<u8> = sectors.flat_map(|at| sector_of(chain, at)).collect();
        bytes.iter().any(|byte| *byte != 0).then_some((at, bytes))
    };
    pages.into_iter().filter(|at| range.contains(at)).filter_map(page).collect()
}

struct Header {
    number: u64,
    bytes: Vec<u8>,
}

/// Reads a dynamic or differencing file the way the strictest of readers would. `Err` says what is
/// wrong.
pub fn read_strictly(before: &Pages) -> Result<Model, String> {
    let err = |what: &str| Err(what.to_owned());
    if before.len < MIB || before.get(0, 8) != b"vhdxfile" {
        return err("no VHDX");
    }
    let headers: Vec<Header> = [64 << 10, 128 << 10]
        .into_iter()
        .map(|at| before.get(at, 4096))
        .filter(|bytes| &bytes[..4] == b"head" && sealed(bytes))
        .map(|bytes| Header {
            number: u64::from_le_bytes(bytes[8..16].try_into().unwrap()),
            bytes,
        })
        .collect();
    let header = match headers.as_slice() {
        [] => return err("no header"),
        [only] => only,
        [a, b] if a.number == b.number => return err("two current headers"),
        [a, b] => {
            if a.number > b.number {
                a
            } else {
                b
            }
        }
        _ => unreachable!(),
    };
    let h = &header.bytes;
    let field = |at: usize| -> [u8; 16] { h[at..at + 16].try_into().unwrap() };
    let (file_write, data_write, log_guid) = (field(16), field(32), field(48));
    if h[64..68] != [0, 0, 1, 0] {
        return err("an unknown version");
    }
    let log_len = u64::from(u32::from_le_bytes(h[68..72].try_into().unwrap()));
    let log_at = u64::from_le_bytes(h[72..80].try_into().unwrap());
    let mut taken = vec![(0, MIB, "header section"), (log_at, log_at + log_len, "log")];
    if log_at % MIB != 0 || log_len % MIB != 0 || log_at + log_len > before.len {
        return err("the log lies nowhere");
    }
    let mut file = before.clone();
    let replayed = log_guid != [0; 16];
    if replayed {
        replay(&mut file, log_at, log_len, &log_guid)?;
    }
    let tables = [192 << 10, 256 << 10].map(|at| file.get(at, 64 << 10));
    for table in &tables {
        if &table[..4] != b"regi" || !sealed(table) {
            return err("a region table is damaged");
        }
    }
    if tables[0] != tables[1] {
        return err("the region tables differ");
    }
    let (mut bat, mut metadata) = (None, None);
    for row in 0..u64::from(file.u32((192 << 10) + 8)) {
        let at = (192 << 10) + 16 + row * 32;
        let id: [u8; 16] = file.get(at, 16).try_into().unwrap();
        let (start, len) = (file.u64(at + 16), u64::from(file.u32(at + 24)));
        if start % MIB != 0 || len % MIB != 0 || start + len > file.len {
            return err("a region lies nowhere");
        }
        taken.push((start, start + len, "region"));
        if id == guid(BAT_REGION) {
            bat = Some((start, len));
        } else if id == guid(METADATA_REGION) {
            metadata = Some(start);
        } else if file.u32(at + 28) != 0 {
            return err("an unknown required region");
        }
    }
    let (Some((bat, bat_len)), Some(metadata)) = (bat, metadata) else {
        return err("a region is missing");
    };
    if file.get(metadata, 8) != b"metadata" {
        return err("no metadata");
    }
    let item = |name: &str| {
        let count = u16::from_le_bytes(file.get(metadata + 10, 2).try_into().unwrap());
        (0..u64::from(count))
            .map(|row| metadata + 32 + row * 32)
            .find(|row| file.get(*row, 16) == guid(name))
            .map(|row| metadata + u64::from(file.u32(row + 16)))
            .ok_or_else(|| format!("no item {name}"))
    };
    let block_len = u64::from(file.u32(item(FILE_PARAMETERS)?));
    let disk_size = file.u64(item(VIRTUAL_DISK_SIZE)?);
    let logical = u64::from(file.u32(item(LOGICAL_SECTOR)?));
    let ratio = (logical << 23) / block_len;
    let count = disk_size.div_ceil(block_len);
    let has_parent = file.u32(item(FILE_PARAMETERS)? + 4) & 2 != 0;
    let chunks = count.div_ceil(ratio);
    let entries =
        if has_parent { chunks * (ratio + 1) } else { count + (count - 1) / ratio };
    if entries * 8 > bat_len {
        return err("the block allocation table is too short");
    }
    let mut blocks = vec![(0, 0); count as usize];
    let mut bitmaps = vec![0; chunks as usize];
    let pages: Vec<u64> = file.held(bat, bat + entries * 8).collect();
    for page in pages {
        for index in (page - bat) / 8..((page - bat) / 8 + 512).min(entries) {
            let entry = file.u64(bat + index * 8);
            let (chunk, within) = (index / (ratio + 1), index % (ratio + 1));
            if within == ratio {
                if entry == 0 {
                    continue;
                }
                if !has_parent {
                    return err("a sector bitmap in a dynamic image");
                }
                let place = entry >> 20 << 20;
                if entry != place | 6 || place == 0 {
                    return Err(format!("the entry of bitmap {chunk} is {entry:#x}"));
                }
                if place + MIB > file.len {
                    return Err(format!("bitmap {chunk} ends behind the file"));
                }
                taken.push((place, place + MIB, "bitmap"));
                bitmaps[chunk as usize] = place;
                continue;
            }
            let block = chunk * ratio + within;
            if block >= count {
                if entry != 0 {
                    return err("an entry behind the last block");
                }
                continue;
            }
            let (state, place) = (entry & 7, entry >> 20 << 20);
            if entry & 0xF_FFF8 != 0 {
                return Err(format!("reserved bits in the entry of block {block}"));
            }
            if !(matches!(state, 0..=3 | 6) || state == PARTIAL && has_parent) {
                return Err(format!("block {block} is in state {state}"));
            }
            if matches!(state, 0 | 2) && place != 0 {
                return Err(format!("block {block} in state {state} has a place"));
            }
            if matches!(state, FULL | PARTIAL) || place != 0 {
                if place + block_len > file.len {
                    return Err(format!("block {block} ends behind the file"));
                }
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
    for (block, (state, _)) in (0..).zip(&blocks) {
        if *state == PARTIAL && bitmaps[(block / ratio) as usize] == 0 {
            return Err(format!("block {block} has no sector bitmap"));
        }
    }
    Ok(Model {
        file,
        replayed,
        file_write,
        data_write,
        block_len,
        disk_size,
        blocks,
        logical,
        has_parent,
        bitmaps,
    })
}

/// An entry that a strict reader finds valid.
struct Valid {
    len: u64,
    tail: u64,
    number: u64,
    bytes: Vec<u8>,
}

/// The steps of section 2.3.3, one after the other.
pub fn replay(
    file: &mut Pages,
    log: u64,
    ring: u64,
    id: &[u8; 16],
) -> Result<(), String> {
    let mut candidate: Vec<(u64, Valid)> = Vec::new();
    let (mut tail, mut old_tail) = (0, 0);
    loop {
        let mut current: Vec<(u64, Valid)> = Vec::new();
        let mut head = tail;
        while let Some(entry) = valid(file, log, ring, id, head) {
            let follows =
                current.last().is_none_or(|(_, l)| entry.number == l.number + 1);
            if !follows || current.iter().any(|(at, _)| *at == head) {
                break;
            }
            let next = (head + entry.len) % ring;
            current.push((head, entry));
            head = next;
        }
        let sound = current
            .last()
            .is_some_and(|(_, last)| current.iter().any(|(at, _)| *at == last.tail));
        if sound {
            let number = |s: &[(u64, Valid)]| s.last().map_or(0, |(_, e)| e.number);
            if number(&current) > number(&candidate) {
                candidate = current;
            }
            tail = head;
        } else {
            tail = (tail + PAGE) % ring;
        }
        if tail <= old_tail {
            break;
        }
        old_tail = tail;
    }
    let Some((_, last)) = candidate.last() else {
        return Err("the log has no valid sequence".to_owned());
    };
    let flushed = u64::from_le_bytes(last.bytes[48..56].try_into().unwrap());
    let last_offset = u64::from_le_bytes(last.bytes[56..64].try_into().unwrap());
    if flushed % MIB != 0 || last_offset % MIB != 0 {
        return Err("a file offset in the log that is not whole MiB".to_owned());
    }
    if file.len < flushed {
        return Err("the file is shorter than the log knows".to_owned());
    }
    let last_tail = last.tail;
    for (_, entry) in candidate.iter().skip_while(|(at, _)| *at != last_tail) {
        let bytes = &entry.bytes;
        let count = u32::from_le_bytes(bytes[24..28].try_into().unwrap()) as usize;
        let mut data = ((count + 2).div_ceil(128)) * 4096;
        for d in bytes[64..].chunks(32).take(count) {
            let at = u64::from_le_bytes(d[16..24].try_into().unwrap());
            if &d[..4] == b"zero" {
                let len = u64::from_le_bytes(d[8..16].try_into().unwrap());
                if len > 0 {
                    file.write(at, &vec![0; len as usize]);
                }
            } else {
                let mut page = bytes[data..data + 4096].to_vec();
                page[..8].copy_from_slice(&d[8..16]);
                page[4092..].copy_from_slice(&d[4..8]);
                file.write(at, &page);
                data += 4096;
            }
        }
    }
    if file.len < last_offset {
        file.set_len(last_offset);
    }
    Ok(())
}

fn valid(file: &Pages, log: u64, ring: u64, id: &[u8; 16], at: u64) -> Option<Valid> {
    let header = file.get(log + at, 64);
    let len = u64::from(u32::from_le_bytes(header[8..12].try_into().unwrap()));
    let tail = u64::from(u32::from_le_bytes(header[12..16].try_into().unwrap()));
    let number = u64::from_le_bytes(header[16..24].try_into().unwrap());
    let sound = &header[..4] == b"loge"
        && header[32..48] == *id
        && len % PAGE == 0
        && len > 0
        && len <= ring
        && tail % PAGE == 0
        && tail < ring
        && number > 0;
    if !sound {
        return None;
    }
    let mut bytes = Vec::new();
    for offset in (0..len).step_by(4096) {
        bytes.extend(file.get(log + (at + offset) % ring, 4096));
    }
    if !sealed(&bytes) {
        return None;
    }
    let count = u32::from_le_bytes(header[24..28].try_into().unwrap()) as usize;
    let descriptors = (count + 2).div_ceil(128) * 4096;
    let mut data = 0;
    for d in bytes[64..].chunks(32).take(count) {
        let numbered = d[24..32] == number.to_le_bytes();
        let aligned = u64::from_le_bytes(d[16..24].try_into().unwrap()) % PAGE == 0;
        match &d[..4] {
            b"desc" => data += 4096,
            b"zero" => {}
            _ => return None,
        }
        if !numbered || !aligned {
            return None;
        }
    }
    let whole = bytes.len() == descriptors + data;
    let sectors = bytes.get(descriptors..)?.chunks(4096).all(|sector| {
        &sector[..4] == b"data"
            && sector[4..8] == number.to_le_bytes()[4..]
            && sector[4092..] == number.to_le_bytes()[..4]
    });
    (whole && sectors).then_some(Valid { len, tail, number, bytes })
}
