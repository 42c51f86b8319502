//! `convert`, and `merge --to`: a disk into a new image.

use std::path::Path;

use slimdisk::convert::{Conversion, Options, Outcome, Report};

use super::{End, Watch, fail, tell_end};
use crate::console::{BOLD, Console, View};
use crate::exit_code::ExitCode;
use crate::printable::printable;
use crate::report::{Text, volume_table};
use crate::size::{self, Size, count};

/// Copies one disk.
pub fn run(
    disk: &Path,
    new: &Path,
    options: &Options,
    dry_run: bool,
    console: &mut Console,
    watch: &Watch,
) -> ExitCode {
    let conversion = match Conversion::prepare(disk, new, options) {
        Ok(conversion) => conversion,
        Err(error) => return fail(console, disk, &error, None, true),
    };
    let mut reporter = watch.reporter(disk);
    let mut hook = |progress| reporter.step(progress);
    let report =
        if dry_run { conversion.plan(&mut hook) } else { conversion.run(&mut hook) };
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
    let (image, new) = (printable(&report.image), printable(&report.target));
    let headline = match report.outcome {
        Outcome::Cancelled => {
            format!("{BOLD}{image}{BOLD:#}: stopped; no new image was made")
        }
        outcome => {
            let did =
                if outcome == Outcome::Planned { "would be copied" } else { "copied" };
            format!(
                "{BOLD}{image}{BOLD:#}: {did} into {BOLD}{new}{BOLD:#}: {} disk of {}, file \
                 {} (the source: {})",
                report.image_type.map_or("", super::type_name),
                exact(report.virtual_size),
                exact(report.file_size),
                exact(report.source_file_size)
            )
        }
    };
    let mut text = Text::new(&headline, view);
    if report.outcome != Outcome::Cancelled {
        let blocks = &report.blocks;
        let mut lines = vec![format!(
            "{} of {} hold data",
            size::grouped(blocks.written),
            count(blocks.total, "block")
        )];
        let left_out =
            [(blocks.left_out_zero, "zeros"), (blocks.left_out_free, "free space")];
        for (number, why) in left_out.into_iter().filter(|(number, _)| *number > 0) {
            lines.push(format!("{} left out: {why}", count(number, "block")));
        }
        text.section("Blocks", lines);
        text.section("Volumes", volume_table(&report.volumes, view));
    }
    text.effort("", &report.io, report.elapsed_seconds);
    text.verified(
        report.verified.as_deref(),
        "both images read the same, but for what was left out",
    );
    text.notes(report.notes.iter());
    text.finish()
}
