//! The checksum of labels, metadata headers and texts: the polynomial of CRC-32
//! with a start of its own, and not inverted at the end.

const START: u32 = 0xF597_A6CF;

pub(super) fn of(bytes: &[u8]) -> u32 {
    // The crate inverts what goes in and what comes out.
    let mut hasher = crc32fast::Hasher::new_with_initial(!START);
    hasher.update(bytes);
    !hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn a_label_written_by_lvm2_has_its_checksum() {
        // pvcreate of lvm2 2.03.16: what follows the checksum in the label's sector.
        let mut sector = vec![0; 492];
        sector[..12].copy_from_slice(b"\x20\0\0\0LVM2 001");
        sector[12..44].copy_from_slice(b"O6GS2a8P2cESnnG0PIDeJ2YswapEjMlp");
        for (at, byte) in [(47, 0x04), (54, 0x10), (85, 0x10), (93, 0xF0), (94, 0x0F)] {
            sector[at] = byte;
        }
        for (at, byte) in [(116, 2), (120, 1)] {
            sector[at] = byte;
        }
        assert_eq!(of(&sector), 0x369D_EC7D);
        assert_eq!(of(b""), super::START);
    }
}
