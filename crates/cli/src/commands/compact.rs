//! `compact` and `plan`: one report for each disk.

use std::path::{Path, PathBuf};

use slimdisk::compact::{self, Options, Outcome, Report};
use slimdisk::{Error, Kind, convert};

use super::{Watch, tell_error};
use crate::console::Console;
use crate::exit_code::ExitCode;
use crate::report;

/// What to do with each disk.
pub struct Task {
    /// How.
    pub options: Options,
    /// Only plan it.
    pub dry_run: bool,
}

/// Does each disk in turn. The first failure is the exit code; the others are
/// still done.
pub fn run(
    disks: &[PathBuf],
    task: &Task,
    console: &mut Console,
    watch: &Watch,
) -> ExitCode {
    let mut code = ExitCode::Done;
    for (number, disk) in disks.iter().enumerate() {
        let mut reporter = watch.reporter(disk);
        let work = if task.dry_run { compact::plan_disk } else { compact::compact };
        let report = work(disk, &task.options, &mut |progress| reporter.step(progress));
        // Ends the bar before anything is printed.
        drop(reporter);
        tell(&report, &task.options, console);
        match report.outcome {
            Outcome::Cancelled => {
                tell_of_rest(disks.get(number + 1..).unwrap_or_default(), console);
                return watch.interrupt.exit_code();
            }
            Outcome::Failed => code = code.or(code_of(&report)),
            _ => {}
        }
    }
    code
}

/// Makes a compacted copy of one disk.
pub fn copy(
    disks: &[PathBuf],
    new: &Path,
    task: &Task,
    console: &mut Console,
    watch: &Watch,
) -> ExitCode {
    let [disk] = disks else {
        let what = "--output names one new image, so one disk can be given with it";
        console.error(&Error::new(Kind::InvalidArgument, what));
        return Kind::InvalidArgument.into();
    };
    let options = convert::Options::compacted(&task.options);
    super::convert::run(disk, new, &options, task.dry_run, console, watch)
}

fn tell(report: &Report, options: &Options, console: &mut Console) {
    console.object(report);
    let changed = report.io.bytes_written.is_some_and(|bytes| bytes > 0);
    if report.outcome != Outcome::Failed || changed {
        let text = report::render(report, options, console.view());
        console.report_apart(text);
    }
    if let Some(error) = &report.cause {
        let known = report.format.is_some();
        tell_error(console, &report.image, error, report.image_type, known);
    }
}

fn tell_of_rest(rest: &[PathBuf], console: &Console) {
    for disk in rest {
        console.note(&format!("{}: not begun", disk.display()));
    }
}

fn code_of(report: &Report) -> ExitCode {
    report.cause.as_ref().map_or(ExitCode::Failed, |error| error.kind().into())
}
