//! Makes dynamically expanding virtual disks small again.

mod error;
pub mod partition;
pub mod ranges;
pub mod storage;
pub mod volume;

pub use error::{Error, Kind, Result};
