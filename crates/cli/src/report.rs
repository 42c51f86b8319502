//! The report of `compact` and `plan` for people: what was won, where the rest
//! is, what it took, and what would win more.

mod hints;
mod remainder;
mod volumes;

use slimdisk::compact::report::IoReport;
use slimdisk::compact::{Options, Outcome, Punch, Report};

pub use self::hints::error_hint;
pub use self::volumes::{volume_name, volume_table};
use crate::console::{BOLD, DIM, GOOD, MIND, View};
use crate::printable::{printable, wrap};
use crate::size::{self, Size, count, percent};
use crate::table::{Side, Table};

/// The report in lines, each with its line break.
pub fn render(report: &Report, options: &Options, view: View) -> String {
    let headline = match report.punched_bytes {
        Some(punched) => headline_of_holes(report, options, punched),
        None => headline(report),
    };
    let mut text = Text::new(&headline, view);
    if report.block_size == 0 && report.punched_bytes.is_none() {
        return text.text;
    }
    text.sizes(report);
    let punched_only = options.punch == Some(Punch::Only);
    // Of a run that did not end, only the plan knows where the rest would be.
    if !matches!(report.outcome, Outcome::Cancelled | Outcome::Failed) && !punched_only {
        text.section("Where the rest is", remainder::lines(report, view));
    }
    text.section("Volumes", volume_table(&report.volumes, view));
    let moved = report.blocks.moved;
    let mut effort = String::new();
    if moved > 0 {
        let will = if report.outcome == Outcome::Planned { "to move" } else { "moved" };
        let bytes = moved.saturating_mul(report.block_size);
        effort = format!("{} {will} ({})", count(moved, "block"), Size(bytes));
    }
    text.effort(&effort, &report.io, report.elapsed_seconds);
    let what = "the live guest bytes are the same before and after";
    text.verified(report.verified.as_deref(), what);
    let unguarded = report.unguarded.iter().filter(|_| view.exact);
    text.notes(report.notes.iter().chain(unguarded));
    if !punched_only {
        text.hints(&hints::to_win_more(report, options));
    }
    text.text
}

/// What happened, in one line.
fn headline(report: &Report) -> String {
    let image = printable(&report.image);
    let (before, after) = (report.file_size_before, report.file_size_after);
    let won = before.saturating_sub(after);
    let gain = format!("{GOOD}{}{GOOD:#} ({})", Size(won), percent(won, before));
    let what = match report.outcome {
        Outcome::Planned | Outcome::NothingToDo if won == 0 => {
            format!("nothing to win: {}", remainder::reason(report))
        }
        Outcome::Planned => format!("compact would win {gain}"),
        Outcome::Compacted | Outcome::Punched | Outcome::NothingToDo => {
            format!("won {gain}")
        }
        Outcome::Cancelled if won > 0 => {
            format!("stopped; won {gain} so far, run again to continue")
        }
        Outcome::Cancelled => "stopped; nothing won yet".to_owned(),
        Outcome::Failed if won > 0 => format!("failed, having won {gain}"),
        Outcome::Failed => "failed".to_owned(),
    };
    format!("{BOLD}{image}{BOLD:#}: {what}")
}

/// What happened, in one line, where holes were punched.
fn headline_of_holes(report: &Report, options: &Options, punched: u64) -> String {
    let holes = format!("{GOOD}{}{GOOD:#}", Size(punched));
    if options.punch == Some(Punch::Also) {
        let will = if report.outcome == Outcome::Planned { "would be" } else { "became" };
        return match punched {
            0 => headline(report),
            _ => format!("{}; {holes} in it {will} holes", headline(report)),
        };
    }
    let what = match report.outcome {
        Outcome::NothingToDo => "nothing to punch".to_owned(),
        Outcome::Planned if punched == 0 => "nothing to punch".to_owned(),
        Outcome::Planned => format!("{holes} could be punched"),
        Outcome::Cancelled => {
            format!("stopped; {holes} became holes, run again to continue")
        }
        Outcome::Failed => format!("failed, when {holes} had become holes"),
        Outcome::Punched | Outcome::Compacted => {
            format!("{holes} became holes, the file is as long as before")
        }
    };
    format!("{BOLD}{}{BOLD:#}: {what}", printable(&report.image))
}

/// A report that grows line by line.
pub struct Text {
    text: String,
    view: View,
}

impl Text {
    /// Begins with a headline.
    pub fn new(headline: &str, view: View) -> Self {
        let mut text = Text { text: String::new(), view };
        text.line(headline);
        text
    }

    /// All of it.
    pub fn finish(self) -> String {
        self.text
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn blank(&mut self) {
        self.text.push('\n');
    }

    /// A heading with indented lines; nothing if there are none.
    pub fn section(&mut self, heading: &str, lines: Vec<String>) {
        if lines.is_empty() {
            return;
        }
        self.blank();
        self.line(&format!("{BOLD}{heading}{BOLD:#}"));
        for line in lines {
            self.line(&format!("  {line}"));
        }
    }

    /// `text` behind `lead`, wrapped; `indent` is the lead's width.
    fn item(&mut self, lead: &str, indent: usize, text: &str) {
        let wrapped = wrap(text, self.view.columns, indent);
        self.line(&format!("{lead}{wrapped}"));
    }

    /// What to mind, each in a paragraph.
    pub fn notes<'a>(&mut self, notes: impl Iterator<Item = &'a String>) {
        for note in notes {
            self.blank();
            self.item(&format!("{MIND}note{MIND:#}: "), 6, &printable(note));
        }
    }

    /// Before, after, won: the file, its blocks and what the host gave for it.
    fn sizes(&mut self, report: &Report) {
        let exact = self.view.exact;
        let size = |bytes: u64| Size(bytes).maybe_exact(exact);
        let blocks = &report.blocks;
        let released = blocks.allocated_before.saturating_sub(blocks.allocated_after);
        let planned = report.outcome == Outcome::Planned;
        let mut table = Table::new(&[
            ("", Side::Left),
            ("file", Side::Right),
            ("on the host", Side::Right),
            ("blocks", Side::Right),
            ("", Side::Left),
        ]);
        let host = |bytes: Option<u64>| bytes.map_or_else(String::new, size);
        let of = format!(
            "of {} ({} disk in blocks of {})",
            size::grouped(blocks.total),
            Size(report.virtual_size),
            Size(report.block_size)
        );
        let (before, after) = (report.file_size_before, report.file_size_after);
        let names =
            if planned { ["now", "then", "to win"] } else { ["before", "after", "won"] };
        let [first, second, third] = names.map(str::to_owned);
        table.row([
            first,
            size(before),
            size(report.host_bytes_before),
            size::grouped(blocks.allocated_before),
            of,
        ]);
        table.row([
            second,
            size(after),
            host(report.host_bytes_after),
            size::grouped(blocks.allocated_after),
            String::new(),
        ]);
        table.row([
            third,
            size(before.saturating_sub(after)),
            host(
                report
                    .host_bytes_after
                    .map(|after| report.host_bytes_before.saturating_sub(after)),
            ),
            size::grouped(released),
            released_why(report),
        ]);
        self.blank();
        for (i, line) in table.lines().into_iter().enumerate() {
            match i {
                0 => self.line(&format!("  {DIM}{line}{DIM:#}")),
                _ => self.line(&format!("  {line}")),
            }
        }
    }

    /// What it took.
    /// What it took. `moved` leads the list, if it is not empty.
    pub fn effort(&mut self, moved: &str, io: &IoReport, seconds: f64) {
        let mut parts = Vec::new();
        if !moved.is_empty() {
            parts.push(moved.to_owned());
        }
        parts.push(format!("{} read", Size(io.bytes_read)));
        if let Some(written) = io.bytes_written {
            parts.push(format!("{} written", Size(written)));
        }
        if let Some(cloned) = io.bytes_cloned.filter(|cloned| *cloned > 0) {
            parts.push(format!("{} shared instead of written", Size(cloned)));
        }
        if let Some(flushes) = io.flushes {
            let noun = if flushes == 1 { "flush" } else { "flushes" };
            parts.push(format!("{flushes} {noun}"));
        }
        let all = io.bytes_read.saturating_add(io.bytes_written.unwrap_or_default());
        // Of less than a second it would tell of the host's cache.
        if seconds >= 1.0
            && let Some(rate) = size::rate(all, seconds)
        {
            parts.push(format!("{}/s", Size(rate)));
        }
        let time = size::duration(seconds);
        self.blank();
        self.item("", 0, &format!("It took {time}: {}.", parts.join(", ")));
    }

    /// That a comparison was made, and of what.
    pub fn verified(&mut self, digest: Option<&str>, what: &str) {
        if let Some(digest) = digest {
            self.item("", 0, &format!("Verified: {what} (BLAKE3 {digest})."));
        }
    }

    fn hints(&mut self, hints: &[String]) {
        if hints.is_empty() {
            return;
        }
        self.blank();
        self.line(&format!("{BOLD}To win more{BOLD:#}"));
        for hint in hints {
            self.item("  - ", 4, hint);
        }
    }
}

/// Why the released blocks could go.
fn released_why(report: &Report) -> String {
    let blocks = &report.blocks;
    let parts: Vec<String> = [
        (blocks.released_free, "free"),
        (blocks.released_zero, "zero"),
        (blocks.released_parent, "same as in the parent"),
    ]
    .into_iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, why)| format!("{} {why}", size::grouped(number)))
    .collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests;
