//! The subcommands, one file each, and the border where clap's types end.

mod check;
mod compact;
mod completions;
mod convert;
mod create;
mod info;
mod man;
mod map;
mod merge;

use std::path::Path;

use serde::Serialize;
use slimdisk::Error;
use slimdisk::compact::Options;
use slimdisk::compact::report::ErrorReport;
use slimdisk::image::ImageType;

use crate::cli::{Cli, Command, OutputArgs, ParentArgs, SearchArgs};
use crate::console::{Console, Form, Verbosity};
use crate::exit_code::ExitCode;
use crate::interrupt::Interrupt;
use crate::printable::printable;
use crate::progress::{Reporter, Style};
use crate::report::error_hint;

/// Does what the command line asks for.
pub fn run(cli: Cli) -> ExitCode {
    anstream::ColorChoice::from(cli.color).write_global();
    match cli.command {
        Command::Info(args) => {
            let style = args.progress.progress.style(args.output.quiet);
            with_watch(&args.output, style, |console, watch| {
                info::run(&args.disk, &(&args.parents).into(), console, watch)
            })
        }
        Command::Plan(args) => {
            let style = args.progress.progress.style(args.output.quiet);
            let mut options = options(&args.search, &args.parents);
            args.punch.enter(&mut options);
            let task = compact::Task { options, dry_run: true };
            with_watch(&args.output, style, |console, watch| {
                compact::run(&args.disks, &task, console, watch)
            })
        }
        Command::Compact(args) => {
            let style = args.progress.progress.style(args.output.quiet);
            let mut options = options(&args.search, &args.parents);
            options.verify = args.verify;
            options.touch = args.touch;
            args.punch.enter(&mut options);
            let task = compact::Task { options, dry_run: args.dry_run };
            with_watch(&args.output, style, |console, watch| match &args.new {
                Some(new) => compact::copy(&args.disks, new, &task, console, watch),
                None => compact::run(&args.disks, &task, console, watch),
            })
        }
        Command::Map(args) => {
            let style = args.progress.progress.style(args.output.quiet);
            let options = options(&args.search, &args.parents);
            let svg = args.svg.map(|path| map::SvgFile { path, replace: args.force });
            with_watch(&args.output, style, |console, watch| {
                map::run(&args.disk, &options, svg.as_ref(), console, watch)
            })
        }
        Command::Create(args) => {
            let style = args.progress.progress.style(args.output.quiet);
            with_watch(&args.output, style, |console, watch| {
                create::run(&args.disk, &(&args).into(), args.dry_run, console, watch)
            })
        }
        Command::Convert(args) => {
            let style = args.progress.progress.style(args.output.quiet);
            with_watch(&args.output, style, |console, watch| {
                let options = (&args).into();
                convert::run(
                    &args.disk,
                    &args.new,
                    &options,
                    args.dry_run,
                    console,
                    watch,
                )
            })
        }
        Command::Merge(args) => {
            let style = args.progress.progress.style(args.output.quiet);
            with_watch(&args.output, style, |console, watch| match &args.to {
                Some(new) => {
                    let options = (&args).into();
                    convert::run(&args.disk, new, &options, args.dry_run, console, watch)
                }
                None => {
                    merge::run(&args.disk, &(&args).into(), args.dry_run, console, watch)
                }
            })
        }
        Command::Check(args) => {
            let mut console = Console::new(form(&args.output, Style::None));
            let code = check::run(&args.disk, args.repair, &mut console);
            console.finish(code)
        }
        Command::Completions { shell } => completions::run(shell),
        Command::Man { dir } => man::run(&dir),
    }
}

fn options(search: &SearchArgs, parents: &ParentArgs) -> Options {
    let mut options = Options::from(search);
    options.parents = parents.into();
    options
}

fn form(output: &OutputArgs, style: Style) -> Form {
    Form {
        json: output.json,
        json_messages: style == Style::Json,
        verbosity: match (output.quiet, output.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        },
    }
}

/// Runs `work` with a console and with signals caught.
fn with_watch(
    output: &OutputArgs,
    style: Style,
    work: impl FnOnce(&mut Console, &Watch) -> ExitCode,
) -> ExitCode {
    let mut console = Console::new(form(output, style));
    let code = match Interrupt::catch() {
        Ok(interrupt) => work(&mut console, &Watch { style, interrupt }),
        Err(cause) => {
            console.error(&Error::io("cannot catch signals", cause));
            ExitCode::Failed
        }
    };
    console.finish(code)
}

/// What watches over a command: how it shows progress, and who can stop it.
struct Watch {
    style: Style,
    interrupt: Interrupt,
}

impl Watch {
    /// The progress on one image.
    fn reporter(&self, image: &Path) -> Reporter {
        Reporter::new(self.style, image, &self.interrupt)
    }
}

/// What `--json` prints for an image that a command could do nothing with.
#[derive(Serialize)]
struct Failure {
    image: String,
    error: ErrorReport,
}

/// Tells of an error that ended the work on `image`.
fn fail(
    console: &mut Console,
    image: &Path,
    error: &Error,
    image_type: Option<ImageType>,
    known_format: bool,
) -> ExitCode {
    let image = image.to_string_lossy().into_owned();
    let failure = Failure { image, error: ErrorReport::from(error) };
    console.object(&failure);
    tell_error(console, &failure.image, error, image_type, known_format);
    error.kind().into()
}

/// What a report has to say of how the work ended, whatever the work was.
struct End<'a> {
    cancelled: bool,
    cause: Option<&'a Error>,
    image_type: Option<ImageType>,
    notes: &'a [String],
    text: String,
}

/// Tells of the end of work on `image` that has a report.
fn tell_end(
    image: &Path,
    report: &impl Serialize,
    end: &End<'_>,
    console: &mut Console,
    watch: &Watch,
) -> ExitCode {
    console.object(report);
    let Some(error) = end.cause else {
        console.report(&end.text);
        return if end.cancelled { watch.interrupt.exit_code() } else { ExitCode::Done };
    };
    tell_error(console, &image.to_string_lossy(), error, end.image_type, true);
    for note in end.notes {
        console.note(&printable(note));
    }
    error.kind().into()
}

/// Tells of an error and of what can be done.
fn tell_error(
    console: &Console,
    image: &str,
    error: &Error,
    image_type: Option<ImageType>,
    known_format: bool,
) {
    if error.path().is_some() {
        console.error(error);
    } else {
        console.error_in(image, error);
    }
    if let Some(hint) = error_hint(error, image_type, known_format) {
        console.hint(hint);
    }
}

/// A type in a word.
fn type_name(image_type: ImageType) -> &'static str {
    match image_type {
        ImageType::Fixed => "fixed",
        ImageType::Dynamic => "dynamically expanding",
        ImageType::Differencing => "differencing",
    }
}

/// Tells of an error outside every image.
fn print_error(what: &str, cause: std::io::Error) -> ExitCode {
    let error = Error::io(what.to_owned(), cause);
    let form = Form { json: false, json_messages: false, verbosity: Verbosity::Normal };
    Console::new(form).error(&error);
    error.kind().into()
}

/// Tells of a stop before there was anything to report.
fn stopped(console: &Console, watch: &Watch) -> ExitCode {
    console.note("stopped");
    watch.interrupt.exit_code()
}
