//! The real command on images made by other people's tools.

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

#[cfg(unix)]
#[path = "../../../slimdisk/tests/it/chain_model.rs"]
mod chain_model;
mod command;
mod documents;
mod drawing;
mod exit_codes;
#[cfg(target_os = "linux")]
mod holes_and_copies;
mod human;
mod interrupt;
mod json;
#[cfg(target_os = "linux")]
mod killed;
#[cfg(unix)]
mod memory;
mod new_images;
#[path = "../../../slimdisk/tests/it/noise.rs"]
mod noise;
mod read_only;
#[path = "../../../slimdisk/tests/it/support.rs"]
mod support;
#[cfg(unix)]
#[path = "../../../slimdisk/tests/it/vhd_model.rs"]
mod vhd_model;
#[cfg(target_os = "linux")]
mod vhdx;
#[cfg(unix)]
#[path = "../../../slimdisk/tests/it/vhdx/merge/judge.rs"]
mod vhdx_judge;
#[cfg(unix)]
#[path = "../../../slimdisk/tests/it/vhdx_model.rs"]
mod vhdx_model;
#[cfg(target_os = "linux")]
mod windows;
#[cfg(target_os = "linux")]
#[path = "../../../slimdisk/tests/it/wine.rs"]
mod wine;
