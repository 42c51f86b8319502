//! The four checksums that a Btrfs may be made with.
//!
//! Each covers a structure from byte 32 on, after the field that holds it; a sum of
//! fewer than 32 bytes fills the front of that field.
//!
//! Source: the Btrfs documentation, "Checksumming"; `enum btrfs_csum_type` of the
//! kernel's `btrfs_tree.h`.

use sha2::{Digest, Sha256};
use twox_hash::XxHash64;

/// The bytes of the field.
const FIELD: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    Crc32c,
    XxHash64,
    Sha256,
    Blake2b256,
}

impl Checksum {
    pub(super) fn of_type(kind: u16) -> Option<Self> {
        Some(match kind {
            0 => Checksum::Crc32c,
            1 => Checksum::XxHash64,
            2 => Checksum::Sha256,
            3 => Checksum::Blake2b256,
            _ => return None,
        })
    }

    /// Whether a whole structure matches the sum in front of it.
    pub(super) fn matches(self, structure: &[u8]) -> bool {
        let Some((field, covered)) = structure.split_at_checked(FIELD) else {
            return false;
        };
        match self {
            Checksum::Crc32c => field.starts_with(&crc32c::crc32c(covered).to_le_bytes()),
            Checksum::XxHash64 => {
                field.starts_with(&XxHash64::oneshot(0, covered).to_le_bytes())
            }
            Checksum::Sha256 => field == Sha256::digest(covered).as_slice(),
            Checksum::Blake2b256 => {
                let sum = blake2b_simd::Params::new().hash_length(FIELD).hash(covered);
                field == sum.as_bytes()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published check values: of the digits 1 to 9 (CRC-32/ISCSI), of nothing
    /// (xxHash, BLAKE2b-256), of "abc" (FIPS 180-2).
    #[test]
    fn check_values() {
        let cases: &[(u16, &[u8], &str)] = &[
            (0, b"123456789", "839206e3"),
            (1, b"", "99e9d85137db46ef"),
            (
                2,
                b"abc",
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (3, b"", "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8"),
        ];
        for (kind, covered, sum) in cases {
            let mut bytes: Vec<u8> = (0..sum.len() / 2)
                .map(|i| u8::from_str_radix(&sum[2 * i..2 * i + 2], 16).unwrap())
                .collect();
            bytes.resize(FIELD, 0);
            bytes.extend_from_slice(covered);
            let checksum = Checksum::of_type(*kind).unwrap();
            assert!(checksum.matches(&bytes), "{checksum:?}");
            bytes[0] ^= 1;
            assert!(!checksum.matches(&bytes), "{checksum:?}");
        }
        assert_eq!(Checksum::of_type(4), None);
        assert!(!Checksum::Crc32c.matches(&[0; 31]));
    }
}
