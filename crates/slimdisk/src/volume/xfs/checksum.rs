//! The checksum of version 5: CRC-32C, little-endian, of a structure whose own
//! checksum field counts as zeros.

/// Whether the checksum at `at` is that of `bytes`.
pub(super) fn fits(bytes: &[u8], at: usize) -> bool {
    let Some((before, rest)) = bytes.split_at_checked(at) else { return false };
    let Some((stored, after)) = rest.split_first_chunk() else { return false };
    let sum = [before, &[0; 4], after].into_iter().fold(0, crc32c::crc32c_append);
    u32::from_le_bytes(*stored) == sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_value() {
        // The sum of the digits 1 to 9 stands in the catalogue; four zeros appended.
        let sum = crc32c::crc32c(b"123456789\0\0\0\0");
        let mut bytes = b"123456789xxxx".to_vec();
        bytes[9..].copy_from_slice(&sum.to_le_bytes());
        assert!(fits(&bytes, 9));
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert!(!fits(&bytes, 9), "{at}");
            bytes[at] ^= 1;
        }
        assert!(!fits(&bytes, 10) && !fits(&bytes, 99));
    }
}
