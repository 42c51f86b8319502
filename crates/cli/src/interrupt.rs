//! Ctrl-C and SIGTERM, on Windows Ctrl-C and Ctrl-Break: the first asks to stop at the
//! next sound point, the second ends the process at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use crate::exit_code::ExitCode;

/// Whether somebody asked the process to stop.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    asked: Arc<AtomicBool>,
    code: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Starts to catch what asks a process to stop.
    pub fn catch() -> io::Result<Self> {
        let this = Self::default();
        this.register()?;
        Ok(this)
    }

    #[cfg(unix)]
    fn register(&self) -> io::Result<()> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        use signal_hook::flag;
        for (signal, code) in
            [(SIGINT, ExitCode::Interrupted), (SIGTERM, ExitCode::Terminated)]
        {
            // The order matters: the first signal finds `asked` unset and sets
            // it, the second finds it set.
            let status = i32::from(code as u8);
            flag::register_conditional_shutdown(signal, status, Arc::clone(&self.asked))?;
            flag::register_usize(signal, Arc::clone(&self.code), code as usize)?;
            flag::register(signal, Arc::clone(&self.asked))?;
        }
        Ok(())
    }

    /// The system calls a handler in a thread of its own. After a closed window or a
    /// log-off it ends the process as soon as the handler is done with it, which is
    /// sound at any instant.
    #[cfg(windows)]
    fn register(&self) -> io::Result<()> {
        let asked = Arc::clone(&self.asked);
        let handler = move || {
            if asked.swap(true, SeqCst) {
                std::process::exit(i32::from(ExitCode::Interrupted as u8));
            }
        };
        ctrlc::set_handler(handler).map_err(io::Error::other)
    }

    /// Whether somebody has.
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
