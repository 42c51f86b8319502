//! Feature flags: what a file system's superblock says it needs to be understood.

use crate::error::{Error, Result};

/// One feature: its bit, its name as the file system's own tools print it, and whether
/// the free map of a file system that has it means what its reader takes it to mean.
pub(super) type Feature<B> = (B, &'static str, bool);

/// Fails with the name, or the number, of a bit of `set` that is not understood. Of a
/// file system with one set alone, that has no name.
pub(super) fn check<B: Copy + Into<u64>>(
    set: &str,
    bits: B,
    known: &[Feature<B>],
) -> Result<()> {
    for bit in bits_of(bits.into()) {
        match known.iter().find(|(known, ..)| (*known).into() == bit) {
            Some((_, _, true)) => {}
            Some((_, name, false)) => return unsupported(name),
            None => {
                let space = if set.is_empty() { "" } else { " " };
                return Err(Error::invalid(format!(
                    "the file system has an unknown feature ({set}{space}{bit:#x}): a newer \
                     version of this program may know it"
                )));
            }
        }
    }
    Ok(())
}

/// The error of a feature that is known, and known to change the map.
pub(super) fn unsupported<T>(name: &str) -> Result<T> {
    Err(Error::invalid(format!(
        "the file system has the feature {name}, which is not supported"
    )))
}

/// The bits that are set, from the lowest on.
pub(super) fn bits_of(bits: u64) -> impl Iterator<Item = u64> {
    (0..64).map(|shift| 1 << shift).filter(move |bit| bits & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_named_or_numbered() {
        const KNOWN: &[Feature<u32>] = &[(1, "one", true), (4, "four", false)];
        let said = |set, bits| check(set, bits, KNOWN).err().map(|e| e.what().to_owned());
        assert_eq!(said("compat", 0), None);
        assert_eq!(said("compat", 1), None);
        assert!(said("compat", 5).unwrap().contains("the feature four, which"));
        assert!(said("compat", 0x8000_0001).unwrap().contains("(compat 0x80000000)"));
        assert!(said("", 2).unwrap().contains("(0x2)"));
        assert!(check("incompat", 1u64 << 63, &[]).is_err());
    }
}
