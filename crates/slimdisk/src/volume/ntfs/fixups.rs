//! Update sequence fixups: how a torn write of a structure shows.
//!
//! The last two bytes of each 512 bytes are replaced by a number that changes
//! with each write; the bytes that belong there are kept in the structure's head.
//! Source: ntfs-3g `mst.c`; the stride is 512 whatever the sector size.

use super::layout::{MultiSectorHeader, parse};

const STRIDE: usize = 512;

/// Puts the true bytes back into `block`, whose length is a multiple of 512; the
/// error says what is wrong, to follow the structure's name in a sentence.
pub(super) fn apply(block: &mut [u8]) -> Result<(), &'static str> {
    let header: MultiSectorHeader = parse(block, 0).ok_or("is too short")?;
    let offset = usize::from(header.sequence_offset.get());
    let count = usize::from(header.sequence_count.get());
    if block.is_empty()
        || !block.len().is_multiple_of(STRIDE)
        || count != block.len() / STRIDE + 1
        || offset < size_of::<MultiSectorHeader>()
        || offset % 2 != 0
        // The words must not lie where they are themselves to be applied.
        || offset + 2 * count > STRIDE - 2
    {
        return Err("has an impossible update sequence");
    }
    let words = block.get(offset..offset + 2 * count).ok_or("is too short")?.to_vec();
    let (number, originals) = words.split_at_checked(2).ok_or("is too short")?;
    for (sector, original) in block.chunks_exact_mut(STRIDE).zip(originals.chunks(2)) {
        let tail = sector.get_mut(STRIDE - 2..).ok_or("is too short")?;
        if tail != number {
            return Err("was not written completely: its update sequence differs");
        }
        tail.copy_from_slice(original);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> Vec<u8> {
        let mut block = vec![0xAB; 1024];
        block[..8].copy_from_slice(&[b'F', b'I', b'L', b'E', 0x30, 0, 3, 0]);
        block[0x30..0x36].copy_from_slice(&[7, 0, 1, 2, 3, 4]);
        block[510..512].copy_from_slice(&[7, 0]);
        block[1022..].copy_from_slice(&[7, 0]);
        block
    }

    #[test]
    fn puts_the_true_bytes_back() {
        let mut block = block();
        apply(&mut block).unwrap();
        assert_eq!(block[510..512], [1, 2]);
        assert_eq!(block[1022..], [3, 4]);
    }

    #[test]
    fn torn_and_impossible_ones_are_refused() {
        for (at, value) in
            [(1022, 8), (510, 8), (4, 2), (4, 0x31), (5, 2), (6, 2), (6, 4)]
        {
            let mut block = block();
            block[at] = value;
            assert!(apply(&mut block).is_err(), "byte {at} = {value}");
        }
        assert!(apply(&mut block()[..1000]).is_err());
        assert!(apply(&mut []).is_err());
    }
}
