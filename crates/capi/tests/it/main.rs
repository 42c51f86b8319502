//! The library as C sees it: installed, compiled against, and asked.

#![cfg(target_os = "linux")]
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

#[path = "../../../slimdisk/tests/it/chain_model.rs"]
mod chain_model;
mod compact;
mod convert;
mod create;
mod header;
mod images;
mod installed;
mod members;
mod merge;
mod merge_to;
#[path = "../../../slimdisk/tests/it/noise.rs"]
mod noise;
mod property;
mod sample;
mod situation;
#[path = "../../../slimdisk/tests/it/support.rs"]
mod support;
#[path = "../../../slimdisk/tests/it/vhd_model.rs"]
mod vhd_model;
mod windows;
#[path = "../../../slimdisk/tests/it/wine.rs"]
mod wine;
