//! What a volume's file system says is free, and whether to believe it.
//!
//! A volume starts out all in use; ranges are proven free. A file system is
//! *trusted* only if its own state says that its map on disk is current, every
//! feature flag is known, its checksums hold and the count of free units agrees
//! with the volume's own count. Otherwise nothing in it is free and one sentence
//! says why.
//!
//! Adding a file system is one file beside the others and a row in
//! [`FILE_SYSTEMS`].

#![forbid(unsafe_code)]

mod btrfs;
mod cluster_heap;
mod exfat;
mod ext;
mod f2fs;
mod fat;
mod feature;
mod hfsplus;
mod ntfs;
pub mod signature;
mod swap;
mod xfs;

use std::fmt;
use std::ops::Range;

use crate::error::{Error, Kind, Result};
use crate::storage::ReadAt;

/// The file systems whose free maps are read.
pub static FILE_SYSTEMS: &[&dyn FileSystem] = &[
    &ntfs::Ntfs,
    &ext::Ext,
    &xfs::Xfs,
    &btrfs::Btrfs,
    &fat::Fat,
    &exfat::Exfat,
    &hfsplus::HfsPlus,
    &f2fs::F2fs,
    &swap::Swap,
];

/// What a volume is, by every signature it bears.
#[derive(Clone)]
pub enum Identity {
    /// One of [`FILE_SYSTEMS`] and nothing else.
    Known(&'static dyn FileSystem),
    /// Something that is named but not read: nothing in it is free.
    Foreign(&'static str),
    /// It bears the signatures of several things, and nobody can tell by looking which
    /// of them is the living one.
    Ambiguous {
        /// Those of [`FILE_SYSTEMS`].
        known: Vec<&'static dyn FileSystem>,
        /// The names of others.
        foreign: Vec<&'static str>,
    },
    /// No signature at all.
    Nothing,
}

impl Identity {
    /// The names of all it was taken for.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        match self {
            Identity::Known(system) => vec![system.name()],
            Identity::Foreign(name) => vec![name],
            Identity::Ambiguous { known, foreign } => {
                known.iter().map(|s| s.name()).chain(foreign.iter().copied()).collect()
            }
            Identity::Nothing => Vec::new(),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Known(system) => {
                f.debug_tuple("Known").field(&system.name()).finish()
            }
            Identity::Foreign(name) => f.debug_tuple("Foreign").field(name).finish(),
            Identity::Ambiguous { .. } => {
                f.debug_tuple("Ambiguous").field(&self.names()).finish()
            }
            Identity::Nothing => f.write_str("Nothing"),
        }
    }
}

/// Asks all of [`FILE_SYSTEMS`] and all [`signature`]s what `volume` is.
pub fn identify(volume: &dyn ReadAt) -> Result<Identity> {
    identify_among(FILE_SYSTEMS, volume)
}

fn identify_among(
    systems: &[&'static dyn FileSystem],
    volume: &dyn ReadAt,
) -> Result<Identity> {
    let mut known = Vec::new();
    for system in systems {
        if system.probe(volume)? {
            known.push(*system);
        }
    }
    let foreign = signature::names(volume)?;
    Ok(match (known.as_slice(), foreign.as_slice()) {
        ([], []) if signature::is_noise(volume)? => Identity::Foreign(signature::NOISE),
        ([], []) => Identity::Nothing,
        ([system], []) => Identity::Known(*system),
        ([], [name]) => Identity::Foreign(name),
        _ => Identity::Ambiguous { known, foreign },
    })
}

/// What the user allows beyond the safe default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Allowances {
    /// Volume Shadow Copies of an NTFS volume may be damaged: their old data lies
    /// in clusters that the volume calls free.
    pub discard_shadow_copies: bool,
    /// What is in swap areas and page files is given up, as if it were free: no system
    /// that goes on with it is asleep. Whoever sets this has seen that every volume of
    /// the disk is trusted.
    pub drop_swap: bool,
}

/// Receives free ranges, in bytes from the start of the volume.
///
/// The ranges come in ascending order and do not overlap; whoever receives them
/// checks that and takes a breach as a reason not to trust the volume.
pub type FreeSink<'a> = dyn FnMut(Range<u64>) + 'a;

/// A reader of one family of file systems.
pub trait FileSystem: Sync {
    /// The family's name: "ntfs", "ext".
    fn name(&self) -> &'static str;

    /// Whether the volume bears this family's signature. Cheap; says nothing of
    /// soundness.
    fn probe(&self, volume: &dyn ReadAt) -> Result<bool>;

    /// Reads the volume's state and its free map, once, by streaming, and fills in
    /// `findings` as far as it gets.
    ///
    /// Free ranges go to `free` as they are found; they count only if the volume turns
    /// out to be trusted. An unsound or unknown structure is a reason in
    /// [`Findings::untrusted`] or an error of [`Kind::InvalidImage`], which becomes such
    /// a reason; any other error ends the survey of the whole disk.
    fn read_free_map(
        &self,
        volume: &dyn ReadAt,
        allow: &Allowances,
        findings: &mut Findings,
        free: &mut FreeSink<'_>,
    ) -> Result<()>;

    /// What is to be known of the volume, its free ranges sent to `free`.
    fn survey(
        &self,
        volume: &dyn ReadAt,
        allow: &Allowances,
        free: &mut FreeSink<'_>,
    ) -> Result<Findings> {
        let mut findings = Findings {
            filesystem: self.name().into(),
            // Most are trusted only then.
            at_rest: Some(true),
            ..Findings::default()
        };
        match self.read_free_map(volume, allow, &mut findings, free) {
            Err(error) if error.kind() == Kind::InvalidImage => {
                findings.untrusted = Some(error.to_string());
            }
            other => other?,
        }
        if findings.untrusted.is_some() {
            findings.free_bytes = 0;
            findings.at_rest = None;
        }
        Ok(findings)
    }
}

/// What [`FileSystem::survey`] learnt of one volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// The exact name: "ntfs", "ext2", "ext4".
    pub filesystem: String,
    /// The volume label, if it has one.
    pub label: Option<String>,
    /// Bytes from the start of the volume that the file system covers; what
    /// follows is not its own and never free.
    pub length: u64,
    /// The size of one unit of the free map in bytes; 0 if unknown.
    pub unit: u64,
    /// Bytes sent to the sink.
    pub free_bytes: u64,
    /// Bytes of swap areas and page files: what [`Allowances::drop_swap`] adds to the
    /// free ones.
    pub swap_bytes: u64,
    /// Whether a sleeping system will go on with this volume, and maybe with others of
    /// the disk, or whether that could not be seen where it should show: then none of
    /// them is to be believed.
    pub hibernated: bool,
    /// Of a trusted volume, whether it was unmounted; `None` where nothing on it tells.
    pub at_rest: Option<bool>,
    /// Why nothing here is free, in one sentence with what to do; `None` when the
    /// volume is trusted.
    pub untrusted: Option<String>,
}

/// Checks that a file system of `length` bytes lies inside its volume.
fn check_length(length: u64, volume: &dyn ReadAt) -> Result<()> {
    if length <= volume.len() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the file system has {length} bytes but its volume only {}: the volume was cut off, \
         or the partition table is wrong",
        volume.len()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Knows its volume by one byte.
    struct Fake(&'static str, u64, u8);

    impl FileSystem for Fake {
        fn name(&self) -> &'static str {
            self.0
        }

        fn probe(&self, volume: &dyn ReadAt) -> Result<bool> {
            let mut byte = [0];
            volume.read_at(self.1, &mut byte)?;
            Ok(byte[0] == self.2)
        }

        fn read_free_map(
            &self,
            _: &dyn ReadAt,
            _: &Allowances,
            _: &mut Findings,
            _: &mut FreeSink<'_>,
        ) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn only_a_lone_signature_is_believed() {
        let systems: &[&'static dyn FileSystem] =
            &[&Fake("a", 2000, 1), &Fake("b", 2001, 1)];
        let identity = |changes: &[(usize, &[u8])]| {
            let mut volume = vec![0; 1 << 20];
            for (at, bytes) in changes {
                volume[*at..][..bytes.len()].copy_from_slice(bytes);
            }
            format!("{:?}", identify_among(systems, &volume).unwrap())
        };
        let (a, b, luks, swap): (_, _, (_, &[u8]), (_, &[u8])) = (
            (2000, &[1u8][..]),
            (2001, &[1u8][..]),
            (0, b"LUKS\xBA\xBE"),
            (4086, b"SWAP-SPACE"),
        );
        assert_eq!(identity(&[]), "Nothing");
        let mut random = 1u64;
        let mut noise = vec![0; 64 << 10];
        noise.fill_with(|| {
            random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
            random.to_be_bytes()[0]
        });
        assert_eq!(identity(&[(0, &noise)]), r#"Foreign("random bytes (encrypted?)")"#);
        // As even as can be, and no noise; and noise that is only almost even.
        let even: Vec<u8> = (0..=255).cycle().take(64 << 10).collect();
        assert_eq!(identity(&[(0, &even)]), "Nothing");
        noise[..3000].fill(7);
        assert_eq!(identity(&[(0, &noise)]), "Nothing");
        assert_eq!(identity(&[a]), r#"Known("a")"#);
        assert_eq!(identity(&[b]), r#"Known("b")"#);
        assert_eq!(identity(&[a, b]), r#"Ambiguous(["a", "b"])"#);
        assert_eq!(identity(&[luks]), r#"Foreign("LUKS")"#);
        assert_eq!(identity(&[a, luks]), r#"Ambiguous(["a", "LUKS"])"#);
        assert_eq!(
            identity(&[swap, luks]),
            r#"Ambiguous(["LUKS", "Linux swap of an old kind"])"#
        );
    }
}
