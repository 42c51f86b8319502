//! Changes in an image that the input chooses: in those fields, and with those numbers,
//! that something depends upon.

use arbitrary::Unstructured;

use crate::vhd_model::{Shape, set_checksum};

pub const HEADER_AT: usize = 512;
pub const TABLE_AT: usize = 1536;

/// The input as an endless row of numbers, zeros behind its end.
pub struct Choices<'a>(pub Unstructured<'a>);

impl Choices<'_> {
    pub fn byte(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or(0)
    }

    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.0.arbitrary::<u16>().unwrap_or(0)) % n.max(1)
    }

    /// A number near something that matters in a file of `len` bytes.
    pub fn number(&mut self, len: u64) -> u64 {
        let base = match self.byte() % 12 {
            0 => 0,
            1 => u64::MAX,
            2 => len,
            3 => len - len % 512,
            4 => 1 << 31,
            5 => 1 << 32,
            6 => i64::MAX as u64,
            7 => 512 * u64::from(self.byte()),
            8 => len / 512,
            9 => 1 << (self.byte() % 64),
            10 => self.0.arbitrary().unwrap_or(0),
            _ => u64::from(self.byte()),
        };
        match self.byte() {
            delta @ 0..16 => base.wrapping_add(u64::from(delta)).wrapping_sub(8),
            delta @ 16..32 => base.wrapping_sub(512 * u64::from(delta - 16)),
            _ => base,
        }
    }
}

/// Overwrites what of `bytes` falls into the file.
pub fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in file.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

pub fn edit(file: &mut Vec<u8>, shape: &Shape, input: &mut Choices<'_>) {
    let len = file.len() as u64;
    let last = file.len().saturating_sub(512);
    let table_end = TABLE_AT
        + ((shape.blocks + shape.spare_entries) as usize).next_multiple_of(128) * 4;
    let kind = input.byte();
    match kind % 16 {
        // A field of the footer: in both copies, in the first, in the last.
        field @ 0..4 => {
            let (at, size) = [
                (8, 4),
                (12, 4),
                (16, 8),
                (28, 4),
                (32, 4),
                (40, 8),
                (48, 8),
                (56, 4),
                (60, 4),
                (64, 4),
                (68, 8),
                (84, 1),
                (85, 1),
                (86, 1),
                (0, 8),
                (200, 8),
            ][input.below(16)];
            let value = match (at, input.byte() % 4) {
                (28, 0) => u64::from_be_bytes(*b"\0\0\0\0tap\0"),
                (60, 0) => 4,
                (60, 1) => 2,
                (0, 0) => u64::from_be_bytes(*b"v_poison"),
                _ => input.number(len),
            };
            let bytes = value.to_be_bytes();
            if field != 1 {
                put(file, at, &bytes[8 - size..]);
            }
            if field != 2 {
                put(file, last + at, &bytes[8 - size..]);
            }
        }
        4 => {
            let (at, size) =
                [(0, 8), (8, 8), (16, 8), (24, 4), (28, 4), (32, 4), (36, 4), (40, 8)]
                    [input.below(8)];
            let bytes = input.number(len).to_be_bytes();
            put(file, HEADER_AT + at, &bytes[8 - size..]);
        }
        5 => {
            let locator = HEADER_AT + 576 + 24 * input.below(8);
            put(file, locator, b"W2ku");
            put(file, locator + 4, &(input.number(len) as u32).to_be_bytes());
            put(file, locator + 8, &(input.number(len) as u32).to_be_bytes());
            put(file, locator + 16, &input.number(len).to_be_bytes());
        }
        6..9 => {
            let entry = TABLE_AT + 4 * input.below(shape.blocks as usize);
            let sector = match kind / 16 % 4 {
                0 => u32::MAX,
                1 => (input.number(len) / 512) as u32,
                2 => input.below(file.len() / 512 + 2) as u32,
                _ => input.number(len) as u32,
            };
            put(file, entry, &sector.to_be_bytes());
        }
        9 => {
            let (at, size) =
                [(0, 8), (8, 8), (16, 4), (20, 4), (24, 4), (28, 2), (512, 8)]
                    [input.below(7)];
            let bytes = match (at, input.byte() % 2) {
                (0, 0) => *b"tdbatmap",
                (20, 0) => 0x0001_0001u64.to_be_bytes(),
                _ => input.number(len).to_be_bytes(),
            };
            put(file, table_end + at, &bytes[8 - size..]);
        }
        10 => {
            // A sector bitmap.
            let (_, gap) = shape
                .order
                .get(input.below(shape.order.len()))
                .copied()
                .unwrap_or_default();
            let entry = TABLE_AT + 4 * input.below(shape.blocks as usize);
            let sector = u32::from_be_bytes(file[entry..entry + 4].try_into().unwrap());
            let bytes = [input.byte(), input.byte()];
            put(
                file,
                (sector as usize).saturating_mul(512).saturating_add(gap % 4),
                &bytes,
            );
        }
        11 => {
            let cut = 1 + input.below(if kind & 16 == 0 { 8 } else { 4096 });
            file.truncate(file.len().saturating_sub(cut).max(TABLE_AT + 512));
        }
        12 => {
            // Room before the footer at the end.
            let more =
                input.below(8) * 512 + usize::from(kind & 16 != 0) * input.below(512);
            let at = file.len().saturating_sub(512);
            file.splice(at..at, std::iter::repeat_n(input.byte(), more));
        }
        13 => {
            let more = input.below(1024);
            file.resize(file.len() + more, input.byte());
        }
        _ => {
            let at = (input.below(1 << 16) << 8 | usize::from(input.byte())) % file.len();
            let bytes = [input.byte(), input.byte(), input.byte(), input.byte()];
            put(file, at, &bytes[..1 + usize::from(kind >> 4) % 4]);
        }
    }
}

/// Makes right those checksums that `choice` names, cuts the footer by a byte,
/// damages a copy.
pub fn mend(file: &mut Vec<u8>, choice: u8) {
    let last = file.len().saturating_sub(512);
    let number = |file: &[u8], at: usize, len: usize| {
        let bytes = file.get(at..at.checked_add(len)?)?;
        let number = bytes.iter().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        usize::try_from(number).ok()
    };
    if choice & 3 != 3 {
        for at in [0, last] {
            let Some(header) = number(file, at + 16, 8) else { continue };
            if let Some(entries) = number(file, header.saturating_add(28), 4)
                && let Some(table) = number(file, header.saturating_add(16), 8)
                && let Some(batmap) = table.checked_add(entries.next_multiple_of(128) * 4)
                && let Some(map) = number(file, batmap.saturating_add(8), 8)
                && let Some(sectors) = number(file, batmap.saturating_add(16), 4)
                && let Some(map) = file.get(map..map.saturating_add(sectors * 512))
                && choice & 4 != 0
            {
                let sum = map.iter().fold(0u32, |sum, b| sum.wrapping_add(u32::from(*b)));
                put(file, batmap + 24, &(!sum).to_be_bytes());
            }
            if let Some(header) =
                header.checked_add(1024).and_then(|end| file.get_mut(header..end))
            {
                set_checksum(header, 36);
            }
        }
        for at in [0, last] {
            if let Some(footer) = file.get_mut(at..at + 512) {
                set_checksum(footer, 64);
            }
        }
    }
    match choice >> 3 {
        0..3 => put(file, 70, &[0xAA]),
        3..6 => put(file, last + 70, &[0xAA]),
        6..9 => drop(file.pop()),
        9 => {
            put(file, 70, &[0xAA]);
            file.pop();
        }
        _ => {}
    }
}
