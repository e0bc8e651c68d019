//! [`syntax_error`]: what sqlparser says, as an error of ours with a caret and, where it can be guessed, the word meant.
//!
//! **Invariant:** never fails; an unknown shape of message is shown whole.

use std::ops::Range;

use datafusion::sql::sqlparser::parser::ParserError;
use tidemill_model::{Error, Kind, Place, nearest};

use super::script::Script;

/// Words that begin the clauses of a query: what an unexpected word is most often a misspelling of.
const CLAUSES: &[&str] = &[
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP BY",
    "HAVING",
    "ORDER BY",
    "LIMIT",
    "JOIN",
    "UNION",
    "WITH",
    "VALUES",
    "DISTINCT",
    "BETWEEN",
    "INTERVAL",
    "PARTITION",
];

/// The error of a parser at its place; `statement` is the bytes parsed, whose end is meant when the text ended early.
pub(crate) fn syntax_error(error: &ParserError, script: &Script, statement: Range<usize>) -> Error {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.as_str(),
        ParserError::RecursionLimitExceeded => {
            return Error::new(Kind::Plan, "P100", "this query is nested too deeply").at(&script.bytes(statement));
        }
    };
    let (text, location) = locate(text);
    let (expected, found) = match text.strip_prefix("Expected: ").and_then(|rest| rest.rsplit_once(", found: ")) {
        Some((expected, found)) => (Some(expected), found),
        None => (None, ""),
    };
    let start = match location {
        Some((line, column)) => script.offset(line, column),
        None => end_of_text(script, &statement),
    };
    let word = word_at(script, start);
    let end = start + word.len().max(1);
    let place = script.bytes(start..end.min(script.text().len()).max(start));
    let Some(expected) = expected else {
        return Error::new(Kind::Plan, "P100", lower_first(text)).at(&place);
    };
    unexpected(script, &statement, place, (found != "EOF").then_some(found), Some(expected))
}

/// The error of the text at `place`, where something else was `expected`; `found` is `None` at the end of the
/// statement.
pub(crate) fn unexpected(
    script: &Script,
    statement: &Range<usize>,
    place: Place,
    found: Option<&str>,
    expected: Option<&str>,
) -> Error {
    let message = match found {
        None => "the statement ends too early".to_owned(),
        Some(found) => format!("`{found}` is not expected here"),
    };
    let error = Error::new(Kind::Plan, "P100", message).at(&place);
    let Some(expected) = expected else { return error };
    let error = error.label(format!("expected {expected}"));
    match misspelt(script, statement.start, place.span.start, script.slice(place.span.clone())) {
        Some((wrong, meant)) => error.fact(format!("did you mean {meant} instead of {wrong}?")),
        None => error,
    }
}

/// A message that begins in lower case, as ours do.
fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// Takes ` at Line: 3, Column: 8` off the end: sqlparser keeps places nowhere else.
fn locate(text: &str) -> (&str, Option<(u64, u64)>) {
    let Some((message, place)) = text.rsplit_once(" at Line: ") else { return (text, None) };
    match place.split_once(", Column: ").map(|(line, column)| (line.parse(), column.parse())) {
        Some((Ok(line), Ok(column))) => (message, (line > 0).then_some((line, column))),
        _ => (text, None),
    }
}

/// The end of what was written, before trailing white space.
fn end_of_text(script: &Script, statement: &Range<usize>) -> usize {
    statement.start + script.slice(statement.clone()).trim_end().len()
}

/// The word that begins at this byte, or the empty text.
fn word_at(script: &Script, start: usize) -> &str {
    let rest = script.text().get(start..).unwrap_or("");
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    rest.get(..end).unwrap_or("")
}

/// The unexpected word or the one before it, if one looks like a misspelt keyword: `SELECT a FORM t` is reported at
/// `t`, because `FORM` could be a name for `a`.
fn misspelt<'a>(script: &'a Script, from: usize, at: usize, word: &'a str) -> Option<(&'a str, &'static str)> {
    let before = script.text().get(from..at).unwrap_or("");
    let previous = before.split(|c: char| !c.is_alphanumeric() && c != '_').rfind(|word| !word.is_empty());
    let first = |clause: &'static str| clause.split(' ').next().unwrap_or(clause);
    [Some(word), previous].into_iter().flatten().filter(|word| word.len() > 2).find_map(|word| {
        if CLAUSES.iter().any(|clause| first(clause).eq_ignore_ascii_case(word)) {
            return None;
        }
        let meant = nearest(word, CLAUSES.iter().map(|clause| first(clause)))?;
        CLAUSES.iter().find(|clause| first(clause) == meant).map(|clause| (word, *clause))
    })
}
