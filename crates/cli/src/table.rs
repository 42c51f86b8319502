//! A text table: columns as wide as their widest cell.

use std::fmt::Write as _;

use crate::printable::width;

/// On which side a column's text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows under a heading.
pub struct Table {
    columns: Vec<(&'static str, Side)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new(columns: &[(&'static str, Side)]) -> Self {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with a cell for each column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The heading and the rows as lines without trailing spaces.
    pub fn lines(&self) -> Vec<String> {
        let heading = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let all: Vec<&Vec<String>> = [&heading].into_iter().chain(&self.rows).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|i| all.iter().filter_map(|r| r.get(i)).map(|c| width(c)).max())
            .map(Option::unwrap_or_default)
            .collect();
        all.iter().map(|row| self.line(row, &widths)).collect()
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, (_, side)), column) in row.iter().zip(&self.columns).zip(widths) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let pad = " ".repeat(column.saturating_sub(width(cell)));
            // Writing to a string cannot fail.
            let _ = match side {
                Side::Left => write!(line, "{cell}{pad}"),
                Side::Right => write!(line, "{pad}{cell}"),
            };
        }
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&[("label", Side::Left), ("size", Side::Right)]);
        table.row(["数据".into(), "2 MiB".into()]);
        table.row(["root filesystem".into(), "127 GiB".into()]);
        assert_eq!(
            table.lines(),
            [
                "label               size",
                "数据               2 MiB",
                "root filesystem  127 GiB"
            ]
        );
    }

    #[test]
    fn empty_last_cells_leave_no_spaces() {
        let mut table = Table::new(&[("a", Side::Left), ("b", Side::Left)]);
        table.row(["x".into(), String::new()]);
        assert_eq!(table.lines(), ["a  b", "x"]);
    }
}
