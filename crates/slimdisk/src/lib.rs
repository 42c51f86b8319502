//! Makes dynamically expanding virtual disks small again: in place, without
//! temporary space, with a sound image at every instant.
//!
//! The library reads the guest's own file systems out of the image to know what
//! is free, gives those blocks up, moves the remaining ones together and cuts the
//! file. Nothing is mounted, and nothing needs root.
//!
//! # Compacting a disk
//!
//! [`compact::compact`] does all of it for a file and tells what it did in a
//! [`Report`](compact::Report); [`compact::plan_disk`] tells what it would do and
//! writes nothing. Both call a hook between steps, which sees the progress and
//! may ask to stop:
//!
//! ```
//! use std::ops::ControlFlow;
//! use std::path::Path;
//!
//! use slimdisk::Kind;
//! use slimdisk::compact::{self, Options, Outcome};
//!
//! let report = compact::compact(Path::new("no-such-disk.vhd"), &Options::default(), &mut |at| {
//!     eprintln!("{:?}: {} of {} bytes", at.phase, at.done, at.total);
//!     ControlFlow::Continue(())
//! });
//! match report.outcome {
//!     Outcome::Compacted => {
//!         println!("{} bytes won", report.file_size_before - report.file_size_after);
//!     }
//!     Outcome::Failed => {
//!         let error = report.cause.as_deref().expect("a failure has a cause");
//!         assert_eq!(error.kind(), Kind::NotFound);
//!     }
//!     _ => println!("nothing to win, or stopped on request"),
//! }
//! ```
//!
//! Whatever happens (a crash, a kill, a full disk, a request to stop), the image
//! stays sound, and running again continues.
//!
//! # Looking without touching
//!
//! [`compact::examine`] gives what an image is, its partitions and volumes, and
//! the verdict on each block. [`image::check_file`] holds the file against the
//! rules of its format; [`image::repair_file`] mends what has a sound twin.
//!
//! # The parts
//!
//! Data goes one way: [`storage`] (bytes by offset) → [`image`] (the guest's disk
//! in blocks) → [`partition`] → [`volume`] (free maps, and whether to believe
//! them) → [`compact`] (survey, plan, run). Each part uses only what comes before
//! it, so each can be used alone: a volume reader judges any bytes that implement
//! [`ReadAt`](storage::ReadAt), a raw device among them; the planner is a pure
//! function; an image can be compacted in any [`Storage`](storage::Storage).
//!
//! # Errors
//!
//! There is one [`Error`]; its [`Kind`] is the short list that a caller acts on.
//! A broken structure is named with its offset.

mod error;

pub mod compact;
pub mod convert;
pub mod create;
pub mod host;
pub mod image;
pub mod merge;
pub mod partition;
pub mod progress;
pub mod ranges;
pub mod report;
pub mod storage;
pub mod task;
pub mod volume;

pub use error::{Error, Kind, Result};
