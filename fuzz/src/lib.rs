//! What the targets share: bytes with a hole in them, and the models and
//! properties that the library's own tests are written with.

use slimdisk::storage::ReadAt;
use slimdisk::{Error, Result};

#[path = "../../crates/slimdisk/tests/it/chain_model.rs"]
pub mod chain_model;
pub mod edits;
#[path = "../../crates/slimdisk/tests/it/faults.rs"]
pub mod faults;
#[allow(dead_code)]
#[path = "../../crates/slimdisk/tests/it/hfsplus/maker.rs"]
mod hfsplus_maker;
#[path = "../../crates/slimdisk/tests/it/noise.rs"]
mod noise;
#[path = "../../crates/slimdisk/tests/it/planner/properties.rs"]
pub mod planner;
#[path = "../../crates/slimdisk/tests/it/vhd_model.rs"]
pub mod vhd_model;
#[path = "../../crates/slimdisk/tests/it/vhdx_model.rs"]
pub mod vhdx_model;
pub mod volume;

/// Where the models look for noise.
pub mod support {
    pub use crate::noise::Noise;
}

/// Bytes that begin with `front`, end with `tail`, and are zeros between.
pub struct Gapped {
    pub len: u64,
    pub front: Vec<u8>,
    pub tail: Vec<u8>,
}

impl ReadAt for Gapped {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(Error::invalid("beyond the end").at(offset));
        }
        buf.fill(0);
        lay(buf, offset, &self.tail, self.len - self.tail.len() as u64);
        lay(buf, offset, &self.front, 0);
        Ok(())
    }
}

/// Copies what of `piece`, lying at `at`, falls into `buf`, read from `offset`.
pub fn lay(buf: &mut [u8], offset: u64, piece: &[u8], at: u64) {
    let start = offset.max(at);
    let end = (offset + buf.len() as u64).min(at + piece.len() as u64);
    if start < end {
        let from = &piece[(start - at) as usize..(end - at) as usize];
        buf[(start - offset) as usize..(end - offset) as usize].copy_from_slice(from);
    }
}
