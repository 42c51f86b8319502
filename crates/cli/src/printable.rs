//! Text from images, made safe to print.
//!
//! Labels, creators and parent paths come from strangers: an escape sequence in
//! a label must not steer the reader's terminal, and a line break or a change of
//! writing direction must not forge a line of the report.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthStr;

/// `text` with every character that would steer a terminal written as an escape.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) {
            // Writing to a string cannot fail.
            let _ = write!(shown, "{}", c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

fn steers(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}'
                | '\u{FEFF}'
        )
}

/// How many columns `text` takes up.
pub fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

/// Breaks `text` between words into lines of at most `columns`, the second and
/// later ones behind `indent` spaces; the first line is taken to begin there
/// too. Without `columns` it stays one line.
pub fn wrap(text: &str, columns: Option<usize>, indent: usize) -> String {
    let Some(columns) = columns else { return text.to_owned() };
    let room = columns.saturating_sub(indent).max(20);
    let mut wrapped = String::with_capacity(text.len());
    let mut used = 0;
    for word in text.split(' ') {
        let len = width(word);
        if used > 0 && used + 1 + len > room {
            wrapped.push('\n');
            wrapped.extend(std::iter::repeat_n(' ', indent));
            used = 0;
        } else if used > 0 {
            wrapped.push(' ');
            used += 1;
        }
        wrapped.push_str(word);
        used += len;
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_gets_through() {
        assert_eq!(printable("Windows Müller 数据"), "Windows Müller 数据");
        assert_eq!(printable("\x1b[31mred\n"), r"\u{1b}[31mred\u{a}");
        assert_eq!(printable("a\u{202E}b\u{9b}c"), r"a\u{202e}b\u{9b}c");
    }

    #[test]
    fn lines_break_between_words() {
        let text = "one two three four five six seven";
        assert_eq!(wrap(text, None, 4), text);
        assert_eq!(wrap(text, Some(24), 4), "one two three four\n    five six seven");
        // A word that is too long stays whole.
        assert_eq!(wrap(&"x".repeat(90), Some(40), 2), "x".repeat(90));
    }
}
