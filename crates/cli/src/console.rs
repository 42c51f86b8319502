//! Where words go: data to stdout, everything else to stderr.

use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, StdoutLock, Write};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use serde::Serialize;
use slimdisk::Error;

use crate::exit_code::ExitCode;
use crate::printable::printable;

/// For what a reader should see first.
pub const BOLD: Style = Style::new().bold();
/// For headings and what is of less weight.
pub const DIM: Style = Style::new().dimmed();
/// For what was won.
pub const GOOD: Style = AnsiColor::Green.on_default().bold();
/// For what went wrong.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// For what to mind.
pub const MIND: Style = AnsiColor::Yellow.on_default().bold();

/// How much to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors, and data that was asked for.
    Quiet,
    /// What most people want to know.
    Normal,
    /// Exact bytes and more detail.
    Verbose,
}

/// In which form.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// Data as JSON.
    pub json: bool,
    /// Messages as JSON, because progress is.
    pub json_messages: bool,
    /// How much.
    pub verbosity: Verbosity,
}

/// How a human report is laid out.
#[derive(Debug, Clone, Copy, Default)]
pub struct View {
    /// Exact bytes beside rounded sizes, and more detail.
    pub exact: bool,
    /// The columns to wrap text at; `None`: leave lines whole.
    pub columns: Option<usize>,
}

/// The kinds of messages on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Message {
    Error,
    Hint,
    Note,
}

/// Both streams.
pub struct Console {
    out: AutoStream<StdoutLock<'static>>,
    form: Form,
    lost: Option<io::Error>,
    reported: bool,
}

impl Console {
    /// Takes hold of stdout.
    pub fn new(form: Form) -> Self {
        Console { out: anstream::stdout().lock(), form, lost: None, reported: false }
    }

    /// How to lay a human report out.
    pub fn view(&self) -> View {
        View { exact: self.form.verbosity == Verbosity::Verbose, columns: columns() }
    }

    /// Writes a human report, unless it is JSON or nothing that was asked for.
    pub fn report(&mut self, text: impl fmt::Display) {
        if !self.form.json && self.form.verbosity > Verbosity::Quiet {
            self.write(|out| write!(out, "{text}"));
        }
    }

    /// The same, with an empty line before every report but the first.
    pub fn report_apart(&mut self, text: impl fmt::Display) {
        if std::mem::replace(&mut self.reported, true) {
            self.report("\n");
        }
        self.report(text);
    }

    /// Writes one JSON object as a line, if JSON was asked for.
    pub fn object(&mut self, object: &impl Serialize) {
        if self.form.json {
            self.write(|out| {
                serde_json::to_writer(&mut *out, object)?;
                out.write_all(b"\n")
            });
        }
    }

    /// Once a write has failed there is no reader, or no room, for the next.
    fn write(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
        if self.lost.is_none() {
            let written = write(&mut self.out).and_then(|()| self.out.flush());
            self.lost = written.err();
        }
    }

    /// Tells of an error: one sentence with its causes.
    pub fn error(&self, error: &Error) {
        self.message(Message::Error, &printable(&error.chain()));
    }

    /// The same for an error that does not name its file itself.
    pub fn error_in(&self, image: &str, error: &Error) {
        let text = printable(&format!("{image}: {}", error.chain()));
        self.message(Message::Error, &text);
    }

    /// Tells what the user can do.
    pub fn hint(&self, hint: &str) {
        if self.form.verbosity > Verbosity::Quiet {
            self.message(Message::Hint, hint);
        }
    }

    /// Tells what the user should know.
    pub fn note(&self, note: &str) {
        if self.form.verbosity > Verbosity::Quiet {
            self.message(Message::Note, note);
        }
    }

    fn message(&self, kind: Message, text: &str) {
        let mut err = anstream::stderr().lock();
        // There is nobody left to tell if stderr is gone.
        let _ = if self.form.json_messages {
            let line = serde_json::json!({ "event": kind, "message": text });
            writeln!(err, "{line}")
        } else {
            let (style, name) = match kind {
                Message::Error => (BAD, "error"),
                Message::Hint => (GOOD, "hint"),
                Message::Note => (MIND, "note"),
            };
            writeln!(err, "{style}{name}{style:#}: {text}")
        };
    }

    /// The exit code, given that of the work: a report that could not be written
    /// is a failure too, unless the reader went away by intent.
    pub fn finish(self, code: ExitCode) -> ExitCode {
        match &self.lost {
            Some(lost) if lost.kind() != ErrorKind::BrokenPipe => {
                let text = format!("cannot write to standard output: {lost}");
                self.message(Message::Error, &text);
                code.or(ExitCode::Failed)
            }
            _ => code,
        }
    }
}

/// The width to wrap and draw for: `COLUMNS`, or the terminal's.
pub fn columns() -> Option<usize> {
    let asked = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
    asked.filter(|&columns| columns > 0).or_else(|| {
        let out = io::stdout();
        let size = out.is_terminal().then(|| terminal_size::terminal_size_of(out))??;
        Some(usize::from(size.0.0))
    })
}
