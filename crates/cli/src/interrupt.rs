//! Ctrl-C and SIGTERM: the first asks to stop at the next sound point, the
//! second ends the process at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::exit_code::ExitCode;

/// Whether somebody asked the process to stop.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    asked: Arc<AtomicBool>,
    code: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Starts to catch SIGINT and SIGTERM.
    pub fn catch() -> io::Result<Self> {
        let this = Self::default();
        for (signal, code) in
            [(SIGINT, ExitCode::Interrupted), (SIGTERM, ExitCode::Terminated)]
        {
            // The order matters: the first signal finds `asked` unset and sets
            // it, the second finds it set.
            let status = i32::from(code as u8);
            flag::register_conditional_shutdown(signal, status, Arc::clone(&this.asked))?;
            flag::register_usize(signal, Arc::clone(&this.code), code as usize)?;
            flag::register(signal, Arc::clone(&this.asked))?;
        }
        Ok(this)
    }

    /// Whether a signal has come.
    pub fn asked(&self) -> bool {
        self.asked.load(SeqCst)
    }

    /// The exit code that tells which signal came.
    pub fn exit_code(&self) -> ExitCode {
        if self.code.load(SeqCst) == ExitCode::Terminated as usize {
            ExitCode::Terminated
        } else {
            ExitCode::Interrupted
        }
    }
}
