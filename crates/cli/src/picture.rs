//! A picture of an image's blocks: runs of places in one state, scaled to the
//! cells there is room for. What draws it is in [`terminal`] and [`svg`].

pub mod svg;
pub mod terminal;

use std::ops::Range;

use serde::Serialize;
use slimdisk::compact::Verdict;
use slimdisk::image::{Layout, Piece};

/// What a place holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// A block that must stay.
    Used,
    /// A block whose every byte is free.
    Free,
    /// A block of zeros.
    Zero,
    /// A block that is the same in the parent.
    Parent,
    /// A block without a place in the file.
    Absent,
    /// Headers and tables of the image.
    Table,
    /// Bytes of the file that nothing names.
    Unused,
}

/// Every state, in the order of legends.
pub const STATES: [State; 7] = [
    State::Used,
    State::Free,
    State::Zero,
    State::Parent,
    State::Absent,
    State::Table,
    State::Unused,
];

impl State {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            State::Used => "used",
            State::Free => "free",
            State::Zero => "zero",
            State::Parent => "parent",
            State::Absent => "absent",
            State::Table => "tables",
            State::Unused => "unused",
        }
    }

    /// What it means.
    pub fn meaning(self) -> &'static str {
        match self {
            State::Used => "blocks that must stay",
            State::Free => "blocks of free space: compact gives them up",
            State::Zero => "blocks of zeros: compact gives them up",
            State::Parent => {
                "blocks that the parent shows the same: compact gives them up"
            }
            State::Absent => "blocks that take no room in the file",
            State::Table => "headers and tables of the image",
            State::Unused => "bytes of the file that no table names",
        }
    }
}

impl From<Verdict> for State {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Absent => State::Absent,
            Verdict::Live => State::Used,
            Verdict::Free | Verdict::Blank => State::Free,
            Verdict::Zero => State::Zero,
            Verdict::Parent => State::Parent,
        }
    }
}

/// Neighbours in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Their state.
    pub state: State,
    /// How many places they fill in the picture: blocks, or what is drawn as one.
    pub places: u64,
    /// Their bytes, of the disk or of the file.
    pub bytes: u64,
}

/// Runs in an order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    runs: Vec<Run>,
}

impl Picture {
    /// Adds places at the end.
    pub fn push(&mut self, state: State, places: u64, bytes: u64) {
        match self.runs.last_mut() {
            Some(last) if last.state == state => {
                last.places += places;
                last.bytes += bytes;
            }
            _ => self.runs.push(Run { state, places, bytes }),
        }
    }

    /// The runs in order; neighbours differ in state.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// All places.
    pub fn places(&self) -> u64 {
        self.runs.iter().map(|run| run.places).sum()
    }

    /// The places in one state.
    pub fn places_in(&self, state: State) -> u64 {
        self.runs.iter().filter(|run| run.state == state).map(|run| run.places).sum()
    }

    /// The bytes in one state.
    pub fn bytes(&self, state: State) -> u64 {
        self.runs.iter().filter(|run| run.state == state).map(|run| run.bytes).sum()
    }

    /// The picture in at most `room` cells, each of (almost) as many places as
    /// any other. With room enough, each place has its own cell.
    pub fn cells(&self, room: usize) -> Vec<Cell> {
        let places = u128::from(self.places());
        let cells = places.min(room as u128);
        let mut runs = self.runs.iter().copied();
        let mut run = runs.next();
        let mut all = Vec::new();
        let mut at = 0;
        for cell in 1..=cells {
            // The cells' ends share the rounding out evenly.
            let end = places * cell / cells;
            let mut wanted = u64::try_from(end - at).unwrap_or(u64::MAX);
            at = end;
            let mut filled = Cell::default();
            while wanted > 0
                && let Some(current) = run.as_mut()
            {
                let taken = wanted.min(current.places);
                filled.add(current.state, taken);
                wanted -= taken;
                current.places -= taken;
                if current.places == 0 {
                    run = runs.next();
                }
            }
            all.push(filled);
        }
        all
    }
}

/// How many places of each state a cell stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cell([u64; STATES.len()]);

impl Cell {
    fn add(&mut self, state: State, places: u64) {
        for (count, of) in self.0.iter_mut().zip(STATES) {
            if of == state {
                *count += places;
            }
        }
    }

    /// How many places of each state, those with any.
    pub fn shares(&self) -> impl Iterator<Item = (State, u64)> {
        STATES.into_iter().zip(self.0).filter(|(_, places)| *places > 0)
    }

    /// The state of at least three quarters of the cell; `None` if it is mixed.
    pub fn state(&self) -> Option<State> {
        let all: u64 = self.0.iter().sum();
        self.shares()
            .find(|(_, places)| u128::from(*places) * 4 >= u128::from(all) * 3)
            .map(|(state, _)| state)
    }
}

/// The blocks in the order of the guest's disk.
pub fn of_guest(verdicts: &[Verdict], block_size: u64, virtual_size: u64) -> Picture {
    let mut picture = Picture::default();
    let mut left = virtual_size;
    for verdict in verdicts {
        // The last block may reach past the end of the disk.
        let bytes = block_size.min(left);
        left -= bytes;
        picture.push(State::from(*verdict), 1, bytes);
    }
    picture
}

/// Blocks, tables and what lies between in the order of the file.
///
/// A block and a table fill one place each, so that the small ones show; a gap
/// fills as many as the blocks it has room for, at least one.
pub fn of_file(layout: &Layout, verdicts: &[Verdict]) -> Picture {
    let mut parts: Vec<(Range<u64>, State)> = Vec::new();
    for extent in &layout.extents {
        let state = match extent.piece {
            Piece::Block(block) => {
                let verdict = verdicts.get(block as usize).copied();
                verdict.map_or(State::Used, State::from)
            }
            Piece::Bitmap(_) => State::Table,
        };
        let end = extent.place.saturating_add(layout.len_of(extent.piece));
        parts.push((extent.place..end, state));
    }
    parts.extend(layout.reserved.iter().map(|range| (range, State::Table)));
    let trailer = layout.file_len.saturating_sub(layout.trailer_len);
    if layout.trailer_len > 0 {
        parts.push((trailer..layout.file_len, State::Table));
    }
    parts.sort_by_key(|(range, _)| (range.start, range.end));
    let mut picture = Picture::default();
    let mut at = 0;
    for (range, state) in parts {
        gap(&mut picture, at..range.start, layout.extent_len);
        let start = range.start.max(at);
        let end = range.end.min(layout.file_len).max(start);
        if start < end {
            picture.push(state, 1, end - start);
        }
        at = at.max(end);
    }
    gap(&mut picture, at..layout.file_len, layout.extent_len);
    picture
}

/// What legends tell: each state with its blocks (of the guest's disk) or `None`
/// for what is not a block, and its bytes. States that do not occur are left out.
pub fn totals(guest: &Picture, file: &Picture) -> Vec<(State, Option<u64>, u64)> {
    STATES
        .into_iter()
        .map(|state| match state {
            State::Table | State::Unused => (state, None, file.bytes(state)),
            _ => (state, Some(guest.places_in(state)), guest.bytes(state)),
        })
        .filter(|(_, blocks, bytes)| blocks.unwrap_or(*bytes) > 0)
        .collect()
}

fn gap(picture: &mut Picture, range: Range<u64>, extent_len: u64) {
    if range.start < range.end {
        let bytes = range.end - range.start;
        picture.push(State::Unused, bytes.div_ceil(extent_len.max(1)), bytes);
    }
}

#[cfg(test)]
mod tests;
