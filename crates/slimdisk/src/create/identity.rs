//! Identities of new disks.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::SystemTime;

/// A random identity that no other disk has (a UUID of version 4).
///
/// The hash maps of the standard library are seeded by the system's own random numbers;
/// that they are not secret is no matter here.
pub fn unique_id() -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for _ in 0..4 {
        hasher.update(&RandomState::new().build_hasher().finish().to_le_bytes());
    }
    hasher.update(&std::process::id().to_le_bytes());
    if let Ok(since) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        hasher.update(&since.as_nanos().to_le_bytes());
    }
    let mut id = [0; 16];
    hasher.finalize_xof().fill(&mut id);
    let [.., version, _, variant, _, _, _, _, _, _, _] = &mut id;
    *version = *version & 0x0F | 0x40;
    *variant = *variant & 0x3F | 0x80;
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_uuids_and_differ() {
        let ids: std::collections::BTreeSet<_> = (0..1000).map(|_| unique_id()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id[6] >> 4 == 4 && id[8] >> 6 == 2));
    }
}
