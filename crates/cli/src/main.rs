//! The `slimdisk` command: a face of the library, with nothing of its own but
//! words and pictures.

#![forbid(unsafe_code)]

mod cli;
mod commands;
mod console;
mod exit_code;
mod interrupt;
mod new_file;
mod picture;
mod printable;
mod progress;
mod report;
mod size;
mod table;

use clap::Parser;

fn main() -> std::process::ExitCode {
    commands::run(cli::Cli::parse()).into()
}
