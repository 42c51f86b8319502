//! `create`: a new image.

use std::path::Path;

use slimdisk::create::{Creation, Options, Outcome, Report};

use super::{End, Watch, fail, tell_end};
use crate::console::{BOLD, Console, View};
use crate::exit_code::ExitCode;
use crate::printable::printable;
use crate::report::Text;
use crate::size::Size;

/// Makes one image.
pub fn run(
    disk: &Path,
    options: &Options,
    dry_run: bool,
    console: &mut Console,
    watch: &Watch,
) -> ExitCode {
    let creation = match Creation::prepare(disk, options) {
        Ok(creation) => creation,
        Err(error) => return fail(console, disk, &error, None, true),
    };
    let mut reporter = watch.reporter(disk);
    let report = if dry_run {
        creation.plan()
    } else {
        creation.run(&mut |progress| reporter.step(progress))
    };
    drop(reporter);
    let end = End {
        cancelled: report.outcome == Outcome::Cancelled,
        cause: report.cause.as_deref(),
        image_type: None,
        notes: &report.notes,
        text: render(&report, console.view()),
    };
    tell_end(disk, &report, &end, console, watch)
}

fn render(report: &Report, view: View) -> String {
    let exact = |bytes: u64| Size(bytes).maybe_exact(view.exact);
    let did = match report.outcome {
        Outcome::Planned => "would be made",
        Outcome::Cancelled => "stopped; nothing was made",
        _ => "made",
    };
    let blocks = match report.block_size {
        0 => String::new(),
        size => format!(" in blocks of {}", Size(size)),
    };
    let headline = format!(
        "{BOLD}{}{BOLD:#}: {did}: {} disk of {}{blocks}, file {}",
        printable(&report.image),
        report.image_type.map_or("", super::type_name),
        exact(report.virtual_size),
        exact(report.file_size)
    );
    let mut text = Text::new(&headline, view);
    if let Some(parent) = &report.parent {
        text.section("Parent", vec![printable(parent)]);
    }
    text.notes(report.notes.iter());
    text.finish()
}
