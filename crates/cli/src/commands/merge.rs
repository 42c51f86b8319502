//! `merge`: a differencing image into its parent.

use std::path::Path;

use slimdisk::image::ImageType;
use slimdisk::merge::{Merging, Options, Outcome, Report};

use super::{End, Watch, fail, tell_end};
use crate::console::{BOLD, Console, View};
use crate::exit_code::ExitCode;
use crate::printable::printable;
use crate::report::Text;
use crate::size::{Size, count};

/// Merges one image.
pub fn run(
    disk: &Path,
    options: &Options,
    dry_run: bool,
    console: &mut Console,
    watch: &Watch,
) -> ExitCode {
    let merging = match Merging::prepare(disk, options) {
        Ok(merging) => merging,
        Err(error) => return fail(console, disk, &error, None, true),
    };
    let mut reporter = watch.reporter(disk);
    let mut hook = |progress| reporter.step(progress);
    let report = if dry_run { merging.plan(&mut hook) } else { merging.run(&mut hook) };
    drop(reporter);
    let end = End {
        cancelled: report.outcome == Outcome::Cancelled,
        cause: report.cause.as_deref(),
        image_type: Some(ImageType::Differencing),
        notes: &report.notes,
        text: render(&report, console.view()),
    };
    tell_end(disk, &report, &end, console, watch)
}

fn render(report: &Report, view: View) -> String {
    let exact = |bytes: u64| Size(bytes).maybe_exact(view.exact);
    let did = match report.outcome {
        Outcome::Planned => "would be merged",
        Outcome::Cancelled => "stopped; run again to complete the merge",
        _ => "merged",
    };
    let headline = format!(
        "{BOLD}{}{BOLD:#}: {did} into {BOLD}{}{BOLD:#}",
        printable(&report.image),
        printable(&report.parent)
    );
    let mut text = Text::new(&headline, view);
    let mut lines =
        vec![format!("{} written into the parent", exact(report.bytes_merged))];
    if report.bytes_same > 0 {
        lines.push(format!("{} were the same there", exact(report.bytes_same)));
    }
    if report.blocks_added > 0 {
        lines.push(format!(
            "{} added; its file grows from {} to {}",
            count(report.blocks_added, "block"),
            exact(report.parent_file_size_before),
            exact(report.parent_file_size_after)
        ));
    }
    text.section("Bytes", lines);
    text.effort("", &report.io, report.elapsed_seconds);
    text.verified(report.verified.as_deref(), "the parent reads as the image did");
    text.notes(report.notes.iter());
    text.finish()
}
