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

#[cfg(unix)]
mod ext;
mod layering;
mod support;
