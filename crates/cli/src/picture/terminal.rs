//! The picture in characters, one for each state, so that it reads without
//! colours too.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

use super::{Picture, State};
use crate::console::{BOLD, DIM};
use crate::size::{Size, grouped};

/// Rows that a picture may fill at most.
const ROWS: usize = 16;
/// The width to draw for when nobody says.
const COLUMNS: usize = 80;
/// Spaces before each row.
const MARGIN: usize = 2;

/// Which characters to draw with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Characters {
    /// Shades and dots.
    Unicode,
    /// What every terminal has.
    Ascii,
}

impl Characters {
    /// What the locale allows.
    pub fn of_locale() -> Self {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .iter()
            .filter_map(|name| std::env::var(name).ok())
            .find(|value| !value.is_empty())
            .map(|value| value.to_ascii_lowercase());
        let unicode = match locale {
            Some(locale) => locale.contains("utf-8") || locale.contains("utf8"),
            None => cfg!(windows),
        };
        if unicode { Characters::Unicode } else { Characters::Ascii }
    }

    fn of(self, state: Option<State>) -> char {
        let (unicode, ascii) = match state {
            Some(State::Used) => ('█', '#'),
            Some(State::Free) => ('░', '-'),
            Some(State::Zero) => ('0', '0'),
            Some(State::Parent) => ('p', 'p'),
            Some(State::Absent) => ('·', '.'),
            Some(State::Table) => ('T', 'T'),
            Some(State::Unused) => ('_', '_'),
            None => ('▒', '%'),
        };
        match self {
            Characters::Unicode => unicode,
            Characters::Ascii => ascii,
        }
    }
}

fn style(state: Option<State>) -> Style {
    let color = match state {
        Some(State::Used) => AnsiColor::Blue,
        Some(State::Free) => AnsiColor::Green,
        Some(State::Zero) => AnsiColor::Cyan,
        Some(State::Parent) => AnsiColor::Yellow,
        Some(State::Absent | State::Unused) => return DIM,
        Some(State::Table) => AnsiColor::Magenta,
        None => AnsiColor::Yellow,
    };
    color.on_default()
}

/// One picture under its title.
pub fn draw(
    title: &str,
    picture: &Picture,
    columns: Option<usize>,
    characters: Characters,
) -> String {
    let columns = columns.unwrap_or(COLUMNS).saturating_sub(MARGIN).max(10);
    let cells = picture.cells(columns * ROWS);
    let mut text = format!("{BOLD}{title}{BOLD:#}");
    let (places, drawn) = (picture.places(), cells.len() as u64);
    if places > drawn && drawn > 0 {
        let about = if places.is_multiple_of(drawn) { "" } else { "about " };
        // Writing to a string cannot fail.
        let _ = write!(text, ", a cell is {about}{} places", tenths(places, drawn));
    }
    text.push('\n');
    for row in cells.chunks(columns) {
        text.push_str("  ");
        let states: Vec<_> = row.iter().map(super::Cell::state).collect();
        for run in states.chunk_by(|a, b| a == b) {
            let Some(state) = run.first() else { continue };
            let style = style(*state);
            let drawn: String = run.iter().map(|s| characters.of(*s)).collect();
            let _ = write!(text, "{style}{drawn}{style:#}");
        }
        text.push('\n');
    }
    text
}

/// `places / cells` with one decimal if it is not whole.
fn tenths(places: u64, cells: u64) -> String {
    let tenths = u128::from(places) * 10 / u128::from(cells);
    match tenths % 10 {
        0 => (tenths / 10).to_string(),
        part => format!("{}.{part}", tenths / 10),
    }
}

/// What the characters mean, with the count of blocks and the bytes of each
/// state.
pub fn legend(
    guest: &Picture,
    file: &Picture,
    exact: bool,
    characters: Characters,
) -> String {
    let mut text = String::new();
    for (state, blocks, bytes) in super::totals(guest, file) {
        let style = style(Some(state));
        let mark = characters.of(Some(state));
        let blocks = blocks.map_or_else(String::new, grouped);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "  {style}{mark}{style:#} {:<6}  {blocks:>9}  {:>10}  {}",
            state.name(),
            Size(bytes).maybe_exact(exact),
            state.meaning()
        );
    }
    let mixed = style(None);
    let mark = characters.of(None);
    let _ = writeln!(
        text,
        "  {mixed}{mark}{mixed:#} {:<6}  {:>9}  {:>10}  several of these in one cell",
        "mixed", "", ""
    );
    text
}

/// Every state that the legend tells of.
#[cfg(test)]
pub fn all_characters(characters: Characters) -> Vec<char> {
    super::STATES
        .iter()
        .map(|s| Some(*s))
        .chain([None])
        .map(|s| characters.of(s))
        .collect()
}
