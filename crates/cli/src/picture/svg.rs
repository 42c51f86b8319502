//! The picture as a self-contained SVG file.
//!
//! A cell that stands for several states is filled with each in proportion, so
//! nothing has to be called mixed here.

use std::fmt::Write as _;

use super::{Cell, Picture, State};
use crate::printable::printable;
use crate::size::{Size, grouped};

/// Cells in a row, and rows at most.
const COLUMNS: usize = 96;
const ROWS: usize = 48;
/// A cell's side, and the distance from one to the next, in user units.
const SIDE: u64 = 9;
const STEP: u64 = 10;
const MARGIN: u64 = 20;
const LINE: u64 = 22;

/// Colours that people with any kind of colour blindness can tell apart (after
/// Okabe and Ito).
fn color(state: State) -> &'static str {
    match state {
        State::Used => "#0072b2",
        State::Free => "#009e73",
        State::Zero => "#56b4e9",
        State::Parent => "#e69f00",
        State::Absent => "#e8e8e8",
        State::Table => "#cc79a7",
        State::Unused => "#f0e442",
    }
}

/// Draws both orders with a legend. `subtitle` says how large what is.
pub fn draw(image: &str, subtitle: &str, guest: &Picture, file: &Picture) -> String {
    let mut body = String::new();
    let mut y = MARGIN + LINE;
    text(&mut body, MARGIN, y, "title", &format!("Blocks of {image}"));
    y += LINE;
    text(&mut body, MARGIN, y, "", subtitle);
    for (title, picture) in
        [("In the order of the guest's disk", guest), ("In the order of the file", file)]
    {
        y += 2 * LINE;
        text(&mut body, MARGIN, y, "heading", title);
        y += LINE / 2;
        y += cells(&mut body, y, &picture.cells(COLUMNS * ROWS));
    }
    y += LINE;
    let mut said = String::new();
    for (state, blocks, bytes) in super::totals(guest, file) {
        y += LINE;
        rect(&mut body, MARGIN, y - 12, 14, 14, state);
        let count = match blocks {
            Some(1) => "1 block, ".to_owned(),
            Some(n) => format!("{} blocks, ", grouped(n)),
            None => String::new(),
        };
        let line =
            format!("{}: {count}{} ({})", state.name(), Size(bytes), state.meaning());
        text(&mut body, MARGIN + 24, y, "", &line);
        let _ = write!(said, " {line}.");
    }
    let width = 2 * MARGIN + COLUMNS as u64 * STEP;
    let height = y + MARGIN;
    let title = escape(&format!("Blocks of {image}"));
    let desc = escape(&format!("{subtitle}.{said}"));
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\" aria-labelledby=\"title desc\">\n\
         <title id=\"title\">{title}</title>\n\
         <desc id=\"desc\">{desc}</desc>\n\
         <style>text{{font:13px sans-serif;fill:#222}}.title{{font-size:18px;\
         font-weight:bold}}.heading{{font-weight:bold}}</style>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n\
         {body}</svg>\n"
    )
}

/// Draws the cells from `top` on and returns how high they are.
fn cells(body: &mut String, top: u64, cells: &[Cell]) -> u64 {
    let mut y = top;
    for row in cells.chunks(COLUMNS) {
        let mut x = MARGIN;
        for run in row.chunk_by(|a, b| only(a).is_some() && only(a) == only(b)) {
            let wide = run.len() as u64 * STEP;
            match run.first().map(|cell| (only(cell), cell)) {
                Some((Some(state), _)) => {
                    rect(body, x, y, wide - (STEP - SIDE), SIDE, state);
                }
                Some((None, cell)) => shares(body, x, y, cell),
                None => {}
            }
            x += wide;
        }
        y += STEP;
    }
    y - top
}

/// The one state of a cell that has no other.
fn only(cell: &Cell) -> Option<State> {
    let mut shares = cell.shares();
    match (shares.next(), shares.next()) {
        (Some((state, _)), None) => Some(state),
        _ => None,
    }
}

/// A cell of several states, stacked in proportion.
fn shares(body: &mut String, x: u64, y: u64, cell: &Cell) {
    let all: u64 = cell.shares().map(|(_, places)| places).sum();
    let mut below = 0;
    for (state, places) in cell.shares() {
        let part = |places: u64| {
            u64::try_from(
                u128::from(places) * u128::from(SIDE) * 100 / u128::from(all.max(1)),
            )
            .unwrap_or_default()
        };
        let (from, to) = (part(below), part(below + places));
        below += places;
        // Writing to a string cannot fail.
        let _ = writeln!(
            body,
            "<rect x=\"{x}\" y=\"{}\" width=\"{SIDE}\" height=\"{}\" fill=\"{}\"/>",
            hundredths(y * 100 + from),
            hundredths(to - from),
            color(state)
        );
    }
}

fn hundredths(n: u64) -> String {
    format!("{}.{:02}", n / 100, n % 100)
}

fn rect(body: &mut String, x: u64, y: u64, width: u64, height: u64, state: State) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        body,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{}\"/>",
        color(state)
    );
}

fn text(body: &mut String, x: u64, y: u64, class: &str, text: &str) {
    let class =
        if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    // Writing to a string cannot fail.
    let _ = writeln!(body, "<text x=\"{x}\" y=\"{y}\"{class}>{}</text>", escape(text));
}

/// Text as XML text; what XML cannot hold is written as an escape first.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in printable(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{FFFE}' | '\u{FFFF}' => escaped.push('\u{FFFD}'),
            c => escaped.push(c),
        }
    }
    escaped
}
