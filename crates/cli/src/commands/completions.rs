//! `completions`: a script for a shell, made from the definitions of the
//! command line.

use std::io::{self, ErrorKind, Write};

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::exit_code::ExitCode;

/// Prints the script.
pub fn run(shell: Shell) -> ExitCode {
    // clap_complete panics if it cannot write: a string never fails.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "slimdisk", &mut script);
    let mut out = io::stdout().lock();
    match out.write_all(&script).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::Done,
        Err(cause) if cause.kind() == ErrorKind::BrokenPipe => ExitCode::Done,
        Err(cause) => {
            drop(out);
            super::print_error("cannot write the script", cause)
        }
    }
}
