//! Makes dynamically expanding virtual disks small again.

pub mod compact;
mod error;
pub mod image;
pub mod partition;
pub mod ranges;
pub mod storage;
pub mod volume;

pub use error::{Error, Kind, Result};
