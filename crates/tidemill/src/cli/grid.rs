//! [`Grid`]: a table for people.
//!
//! **Invariant:** a row is one line. In a terminal that is too narrow, columns of text are cut, the widest first;
//! nothing is ever wrapped, and without a terminal nothing is cut.

use comfy_table::{Cell, CellAlignment, Table, presets};
use tidemill_sql::language::columns;

/// A column of text is not cut below this many columns of the terminal.
const LEAST: usize = 12;
/// What stands between two columns.
const GAP: usize = 2;

/// A table under construction.
#[derive(Debug, Default)]
pub(crate) struct Grid {
    header: Vec<String>,
    kinds: Vec<Kind>,
    rows: Vec<Vec<String>>,
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Text, of which the beginning says most.
    Text,
    /// Times and such, of which every part counts.
    Whole,
    /// Numbers, aligned to the right.
    Number,
}

impl Grid {
    /// A table with these columns.
    pub(crate) fn new<T: Into<String>>(header: impl IntoIterator<Item = T>) -> Grid {
        let header: Vec<String> = header.into_iter().map(Into::into).collect();
        Grid { kinds: vec![Kind::Text; header.len()], header, rows: Vec::new() }
    }

    /// Says that these columns hold numbers.
    pub(crate) fn numbers(self, columns: impl IntoIterator<Item = usize>) -> Grid {
        self.of(columns, Kind::Number)
    }

    /// Says that these columns hold what is of no use when it is cut.
    pub(crate) fn whole(self, columns: impl IntoIterator<Item = usize>) -> Grid {
        self.of(columns, Kind::Whole)
    }

    fn of(mut self, columns: impl IntoIterator<Item = usize>, kind: Kind) -> Grid {
        for column in columns {
            if let Some(of) = self.kinds.get_mut(column) {
                *of = kind;
            }
        }
        self
    }

    fn kind(&self, column: usize) -> Kind {
        self.kinds.get(column).copied().unwrap_or(Kind::Text)
    }

    /// Whether it has no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds a row.
    pub(crate) fn row<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(|cell| in_one_line(cell.as_ref())).collect());
    }

    /// The table as text, and whether anything was cut to fit it into so many columns.
    pub(crate) fn text(&self, limit: Option<usize>) -> (String, bool) {
        let widths = limit.map(|limit| self.fitting(limit));
        let mut was_cut = false;
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(&self.header);
        for row in &self.rows {
            table.add_row(row.iter().enumerate().map(|(at, cell)| {
                let width = widths.as_ref().and_then(|widths| widths.get(at)).copied().unwrap_or(usize::MAX);
                let text = cut(cell, width);
                was_cut |= text.len() != cell.len();
                let number = self.kind(at) == Kind::Number;
                Cell::new(text).set_alignment(if number { CellAlignment::Right } else { CellAlignment::Left })
            }));
        }
        (table.trim_fmt(), was_cut)
    }

    /// How wide each column may be.
    fn fitting(&self, limit: usize) -> Vec<usize> {
        let widest = |at: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(at));
            cells.chain(self.header.get(at)).map(|cell| columns(cell)).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..self.header.len()).map(widest).collect();
        loop {
            let over = widths.iter().map(|width| width + GAP).sum::<usize>().saturating_sub(limit);
            let least = |at: usize| self.header.get(at).map_or(0, |name| columns(name)).max(LEAST);
            let text = widths.iter().copied().enumerate();
            let text = text.filter(|(at, width)| self.kind(*at) == Kind::Text && *width > least(*at));
            let Some((at, width)) = text.max_by_key(|(_, width)| *width).filter(|_| over > 0) else { return widths };
            // Down to the next widest only, so that two long columns share the loss.
            let next = widths.iter().copied().filter(|other| *other < width).max().unwrap_or(0);
            widths[at] = width.saturating_sub(over).max(least(at)).max(next.min(width - 1));
        }
    }
}

/// The text with its line breaks and other control characters written out.
fn in_one_line(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// The text in at most so many columns, ending in … where it was longer.
fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut left = width.saturating_sub(1);
    for c in text.chars() {
        let takes = columns(c.encode_utf8(&mut [0; 4]));
        if takes > left {
            break;
        }
        left -= takes;
        out.push(c);
    }
    out.push('…');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let mut grid = Grid::new(["NAME", "WHY", "ROWS", "AT"]).numbers([2]).whole([3]);
        grid.row(["orders", "a long reason that says much\nand more", "1,204", "2026-01-01 00:00"]);
        grid.row(["日本日本日本日本日本", "short", "7", "2026-01-01 00:01"]);
        grid
    }

    #[test]
    fn without_a_terminal_nothing_is_cut() {
        let (text, was_cut) = grid().text(None);
        assert!(!was_cut);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("a long reason that says much\\nand more"), "{text}");
    }

    #[test]
    fn in_a_narrow_one_the_widest_text_is_cut() {
        let (text, was_cut) = grid().text(Some(68));
        assert!(was_cut && text.lines().all(|line| columns(line) <= 68), "{text}");
        assert!(text.contains("日本日本日本日本日本") && text.contains("1,204"), "{text}");
        let (text, _) = grid().text(Some(58));
        assert!(text.lines().all(|line| columns(line) <= 58), "{text}");
        assert!(text.contains("日本") && text.matches('…').count() == 2, "{text}");
        let (text, was_cut) = grid().text(Some(200));
        assert!(!was_cut, "{text}");
        let (text, _) = grid().text(Some(5));
        assert!(
            text.contains("1,204") && text.contains("00:01") && text.contains("a long reas…"),
            "numbers and times stay, text keeps a beginning: {text}"
        );
    }
}
