//! [`Script`]: the text of one of the user's files, and the way from lines and columns to bytes and back.
//!
//! **Invariant:** every [`Place`] it makes lies inside the text, on character boundaries.

use std::ops::Range;
use std::sync::Arc;

use datafusion::sql::sqlparser::tokenizer::{Location, Span};
use tidemill_model::Place;

/// A file's name and text, with the beginnings of its lines.
#[derive(Debug, Clone)]
pub struct Script {
    file: Arc<str>,
    text: Arc<str>,
    lines: Vec<usize>,
}

impl Script {
    /// The script of a file; `file` is its name as the user knows it.
    pub fn new(file: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> Script {
        let text = text.into();
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Script { file: file.into(), text, lines }
    }

    /// The script that a place lies in.
    #[must_use]
    pub fn of(place: &Place) -> Script {
        Script::new(Arc::clone(&place.file), Arc::clone(&place.text))
    }

    /// The file's name.
    #[must_use]
    pub fn file(&self) -> &Arc<str> {
        &self.file
    }

    /// The whole text.
    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// The byte at a line and a column, both from 1, columns in characters; the end of the line when the column lies
    /// past it.
    #[must_use]
    pub fn offset(&self, line: u64, column: u64) -> usize {
        let line = usize::try_from(line.max(1) - 1).unwrap_or(usize::MAX);
        let Some(&start) = self.lines.get(line) else { return self.text.len() };
        let end = self.lines.get(line + 1).map_or(self.text.len(), |next| next - 1);
        let skip = usize::try_from(column.max(1) - 1).unwrap_or(usize::MAX);
        let row = self.text.get(start..end).unwrap_or("");
        row.char_indices().nth(skip).map_or(end, |(at, _)| start + at)
    }

    /// The place of these bytes.
    #[must_use]
    pub fn bytes(&self, span: Range<usize>) -> Place {
        let mut start = span.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let mut end = span.end.clamp(start, self.text.len());
        while !self.text.is_char_boundary(end) {
            end += 1;
        }
        Place { file: Arc::clone(&self.file), text: Arc::clone(&self.text), span: start..end }
    }

    /// The bytes of a span of tokens, unless the span is the empty one that made-up nodes carry.
    #[must_use]
    pub fn range(&self, span: Span) -> Option<Range<usize>> {
        (span.start.line > 0).then(|| {
            let start = self.at(span.start);
            start..self.at(span.end).max(start)
        })
    }

    /// The place of a span of tokens.
    #[must_use]
    pub fn place(&self, span: Span) -> Option<Place> {
        self.range(span).map(|range| self.bytes(range))
    }

    /// The text of these bytes.
    #[must_use]
    pub fn slice(&self, span: Range<usize>) -> &str {
        self.text.get(span).unwrap_or("")
    }

    fn at(&self, location: Location) -> usize {
        self.offset(location.line, location.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_columns_in_characters() {
        let script = Script::new("a.sql", "é x\nlonger line");
        assert_eq!(script.offset(1, 3), 3);
        assert_eq!(script.offset(2, 1), 5);
        assert_eq!(script.offset(1, 99), 4, "the end of that line");
        assert_eq!(script.offset(9, 1), script.text().len());
        assert_eq!(script.bytes(1..1).span, 0..2, "widened to whole characters");
    }
}
