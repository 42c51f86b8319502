//! The three checksums of ext4 and jbd2.
//!
//! Each takes the sum so far, as the kernel's functions do, so that structures
//! with a checksum field inside can be summed piece by piece.

/// CRC-32C without the final inversion: the sum of `metadata_csum` and of jbd2's
/// checksums v2 and v3.
pub(super) fn crc32c(sum: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!sum, bytes)
}

/// CRC-16 (reflected 0x8005): the sum of `gdt_csum`.
pub(super) fn crc16(sum: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(sum, |sum, byte| {
        (0..8).fold(sum ^ u16::from(*byte), |sum, _| {
            if sum & 1 == 0 { sum >> 1 } else { (sum >> 1) ^ 0xA001 }
        })
    })
}

/// CRC-32, most significant bit first and without inversions (`crc32_be`): the
/// sum of jbd2's checksum v1.
pub(super) fn crc32_be(sum: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(sum, |sum, byte| {
        let index = (sum >> 24) as usize ^ usize::from(*byte);
        (sum << 8) ^ CRC32_BE.get(index).copied().unwrap_or_default()
    })
}

/// What each leading byte adds to [`crc32_be`].
static CRC32_BE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut rest: &mut [u32] = &mut table;
    let mut byte = 0u32;
    while let [entry, tail @ ..] = rest {
        let mut sum = byte << 24;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum >> 31 == 0 { sum << 1 } else { (sum << 1) ^ 0x04C1_1DB7 };
            bit += 1;
        }
        *entry = sum;
        byte += 1;
        rest = tail;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// The catalogue's check values: the sum of the digits 1 to 9.
    #[test]
    fn check_values() {
        let digits = b"123456789";
        assert_eq!(!crc32c(!0, digits), 0xE306_9283, "CRC-32/ISCSI");
        assert_eq!(crc16(0, digits), 0xBB3D, "CRC-16/ARC");
        assert_eq!(crc32_be(!0, digits), 0x0376_E6E7, "CRC-32/MPEG-2");
        let parts = crc32c(crc32c(!0, b"12345"), b"6789");
        assert_eq!(parts, crc32c(!0, digits));
    }
}
