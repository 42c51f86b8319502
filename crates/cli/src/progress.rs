//! Progress on stderr: a bar, lines or JSON, all fed by the one hook.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use slimdisk::compact::{Phase, Progress};

use crate::interrupt::Interrupt;
use crate::size::{self, Size};

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A bar.
    Bar,
    /// A line at the start of each phase and every few seconds.
    Lines,
    /// The same, but nothing at all from a short run: for logs.
    LongRunLines,
    /// A JSON object a line.
    Json,
    /// Nothing.
    None,
}

const LINES_EVERY: Duration = Duration::from_secs(5);
/// A bar that comes and goes at once only flickers.
const BAR_AFTER: Duration = Duration::from_millis(300);
const OBJECTS_EVERY: Duration = Duration::from_millis(500);

impl Style {
    /// The style that fits what stderr is.
    pub fn for_stderr() -> Self {
        if can_draw() { Style::Bar } else { Style::LongRunLines }
    }
}

fn can_draw() -> bool {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stderr().is_terminal() && !dumb
}

/// Shows the progress on one image.
pub struct Reporter {
    image: String,
    style: Style,
    bar: Option<ProgressBar>,
    interrupt: Interrupt,
    told_of_stop: bool,
    started: Instant,
    phase: Option<Phase>,
    phase_started: Instant,
    last: Instant,
    finished_phase: bool,
}

/// One line of `--progress json`.
#[derive(Serialize)]
struct Event<'a> {
    event: &'static str,
    image: &'a str,
    phase: Phase,
    done: u64,
    total: u64,
    elapsed_seconds: f64,
    bytes_per_second: Option<u64>,
    seconds_left: Option<f64>,
}

impl Reporter {
    /// Shows progress on `image` until `interrupt` is asked for.
    pub fn new(style: Style, image: &Path, interrupt: &Interrupt) -> Self {
        let style = match style {
            Style::Bar if !can_draw() => Style::Lines,
            style => style,
        };
        let now = Instant::now();
        Reporter {
            image: crate::printable::printable(&image.to_string_lossy()),
            style,
            bar: None,
            interrupt: interrupt.clone(),
            told_of_stop: false,
            started: now,
            phase: None,
            phase_started: now,
            last: now,
            finished_phase: false,
        }
    }

    /// To be called between steps: shows `progress` and says whether to go on.
    pub fn step(&mut self, progress: Progress) -> ControlFlow<()> {
        let new_phase = self.phase != Some(progress.phase);
        if new_phase {
            self.phase = Some(progress.phase);
            self.phase_started = Instant::now();
            self.finished_phase = false;
        }
        self.show(progress, new_phase);
        if self.interrupt.asked() {
            self.tell_of_stop();
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn show(&mut self, progress: Progress, new_phase: bool) {
        match self.style {
            Style::Bar => self.draw(progress, new_phase),
            Style::Lines => {
                if new_phase || self.due(LINES_EVERY) {
                    self.line(progress);
                }
            }
            Style::LongRunLines => {
                if self.due(LINES_EVERY) {
                    self.line(progress);
                }
            }
            Style::Json => {
                let ends = progress.done >= progress.total && !self.finished_phase;
                self.finished_phase |= ends;
                if new_phase || ends || self.due(OBJECTS_EVERY) {
                    self.object(progress);
                }
            }
            Style::None => {}
        }
    }

    fn due(&mut self, every: Duration) -> bool {
        let due = self.last.elapsed() >= every;
        if due {
            self.last = Instant::now();
        }
        due
    }

    fn draw(&mut self, progress: Progress, new_phase: bool) {
        if self.bar.is_none() && self.started.elapsed() < BAR_AFTER {
            return;
        }
        if new_phase && let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let bar = self.bar.get_or_insert_with(|| {
            let target = ProgressDrawTarget::stderr();
            let bar = ProgressBar::with_draw_target(Some(progress.total), target);
            let style = ProgressStyle::with_template(
                "{msg:17} [{wide_bar}] {binary_bytes}/{binary_total_bytes} \
                 {binary_bytes_per_sec}, {eta} left",
            );
            bar.set_style(style.map_or_else(
                |_| ProgressStyle::default_bar(),
                |style| style.progress_chars("=> "),
            ));
            bar.set_message(words(progress.phase));
            bar
        });
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    }

    fn line(&self, progress: Progress) {
        let Progress { phase, done, total, .. } = progress;
        let mut line = format!(
            "{}: {}: {} of {} ({})",
            self.image,
            words(phase),
            Size(done),
            Size(total),
            size::percent(done.min(total), total)
        );
        let (rate, left) = self.rate(progress);
        if let (Some(rate), Some(left)) = (rate, left) {
            line += &format!(", {}/s, {} left", Size(rate), size::duration(left));
        }
        tell(&line);
    }

    fn object(&self, progress: Progress) {
        let (bytes_per_second, seconds_left) = self.rate(progress);
        let event = Event {
            event: "progress",
            image: &self.image,
            phase: progress.phase,
            done: progress.done,
            total: progress.total,
            elapsed_seconds: self.started.elapsed().as_secs_f64(),
            bytes_per_second,
            seconds_left,
        };
        if let Ok(line) = serde_json::to_string(&event) {
            tell(&line);
        }
    }

    /// Bytes per second in this phase, and the seconds it has left at that.
    fn rate(&self, progress: Progress) -> (Option<u64>, Option<f64>) {
        let elapsed = self.phase_started.elapsed().as_secs_f64();
        let rate = size::rate(progress.done, elapsed);
        let left = progress.total.saturating_sub(progress.done);
        (rate, rate.and_then(|rate| size::seconds_for(left, rate)))
    }

    fn tell_of_stop(&mut self) {
        if self.told_of_stop || self.style == Style::None {
            return;
        }
        self.told_of_stop = true;
        let text = "stopping at the next sound point; once more ends at once";
        match (&self.bar, self.style) {
            (Some(bar), _) => bar.suspend(|| tell(text)),
            (None, Style::Json) => {
                let line = serde_json::json!({ "event": "note", "message": text });
                tell(&line.to_string());
            }
            (None, _) => tell(text),
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Writes a line to stderr; if nobody is there to read it, that is no matter.
fn tell(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A phase in words.
fn words(phase: Phase) -> &'static str {
    match phase {
        Phase::Map => "reading free maps",
        Phase::Search => "looking for zeros",
        Phase::VerifyBefore => "reading to verify",
        Phase::Release => "giving blocks up",
        Phase::Relocate => "moving blocks",
        Phase::Truncate => "cutting the file",
        Phase::Punch => "punching holes",
        Phase::VerifyAfter => "verifying",
        Phase::Copy => "writing the new image",
        Phase::Merge => "merging into the parent",
        _ => "working",
    }
}
