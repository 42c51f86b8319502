//! Everything that needs more than one module, or other people's tools.
//!
//! One binary, one module a subject; `support` finds tools and makes images.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a test that meets a surprise should panic, and skips are printed"
)]
#![cfg_attr(
    windows,
    allow(dead_code, unused_imports, reason = "tests of Unix alone use some of it")
)]

mod btrfs;
mod chain;
mod chain_model;
#[cfg(target_os = "linux")]
mod convert;
mod counts;
mod crash;
#[cfg(target_os = "linux")]
mod create;
mod end_to_end;
mod exfat;
mod ext;
mod f2fs;
mod fat;
mod faults;
mod free_map;
mod guests;
mod hfsplus;
mod host;
mod io_faults;
mod layering;
mod lvm;
mod merge;
mod modes;
#[cfg(target_os = "linux")]
mod new_file;
mod noise;
mod ntfs;
mod partition;
mod planner;
mod power_cut;
#[cfg(target_os = "linux")]
mod punch;
mod relink;
mod samples;
mod shared;
mod signature;
#[cfg(target_os = "linux")]
mod storage;
mod support;
mod swap;
mod verdicts;
mod vhd;
mod vhd_model;
mod vhdx;
mod vhdx_model;
mod xfs;
