//! [`clash`]: types that do not go together, told with both of them and with the cast that would join them.
//!
//! **Invariant:** types are named as SQL names them; Arrow's own names do not reach the reader.

use arrow::datatypes::DataType;
use datafusion::common::Diagnostic;
use tidemill_model::{Error, Kind};

use super::script::Script;
use super::types::sql_type;

/// More ways to call a function than these help nobody.
const MOST_CALLS: usize = 4;
/// How DataFusion begins to say that a value is of another type than the place needs.
const CONVERTED: &str = "Cannot automatically convert ";

/// A clash of types and the word that it is about, for when nothing else says where it stands.
pub(super) struct Clash {
    pub(super) error: Error,
    pub(super) word: Option<String>,
}

/// What DataFusion says about types; `None` when it speaks of something else.
pub(super) fn clash(text: &str, diagnostic: Option<&Diagnostic>, script: &Script) -> Option<Clash> {
    if let Some(error) = diagnostic.and_then(|diagnostic| operands(text, diagnostic, script)) {
        return Some(Clash { error, word: None });
    }
    call(text).or_else(|| if diagnostic.is_none() { common(text) } else { None })
}

fn refused(message: String) -> Error {
    Error::new(Kind::Plan, "P107", message)
}

/// The two sides of an operator.
fn operands(text: &str, diagnostic: &Diagnostic, script: &Script) -> Option<Error> {
    let [left, right] = diagnostic.notes.as_slice() else { return None };
    let (of_left, of_right) = (left.message.strip_prefix("has type ")?, right.message.strip_prefix("has type ")?);
    let (_, rest) = text.split_once(&format!("{of_left} "))?;
    let operator = rest.split(' ').next().filter(|operator| !operator.is_empty())?;
    let (left_type, right_type) = (sql_words(of_left), sql_words(of_right));
    let name = |span: Option<datafusion::common::Span>| {
        let span = datafusion::sql::sqlparser::tokenizer::Span {
            start: super::diagnose::location(span?.start),
            end: super::diagnose::location(span?.end),
        };
        let place = script.place(span)?;
        Some(script.slice(place.span).to_owned()).filter(|name| !name.is_empty())
    };
    let (left, right) = (name(left.span), name(right.span));
    let mut error = refused(format!("`{operator}` does not go with {left_type} and {right_type}"));
    for (name, of) in [(&left, &left_type), (&right, &right_type)] {
        if let Some(name) = name {
            error = error.fact(format!("`{name}` is {of}"));
        }
    }
    Some(error.fact(way_out(operator, (left, left_type), (right, right_type))))
}

/// What to write instead; the sides are their names, where they are columns, and their types.
fn way_out(operator: &str, left: (Option<String>, String), right: (Option<String>, String)) -> String {
    let is_time = |of: &str| of.starts_with("TIMESTAMP") || of == "DATE";
    let is_text = |of: &str| of == "VARCHAR" || of == "BOOLEAN";
    if matches!(operator, "AND" | "OR") {
        return format!("{operator} joins conditions: write a comparison, such as amount > 0");
    }
    if matches!(operator, "+" | "-") && is_time(&left.1) && !is_time(&right.1) {
        return format!("add a length of time: {} {operator} INTERVAL '5 minutes'", left.0.as_deref().unwrap_or("…"));
    }
    // Text becomes what it is compared or computed with; among others the right side does.
    let (cast, to) = if is_text(&left.1) && !is_text(&right.1) { (left, right.1) } else { (right, left.1) };
    match cast.0 {
        Some(name) => format!("if that is meant, write CAST({name} AS {to})"),
        None => format!("if that is meant, write CAST(… AS {to}) around the {}", cast.1),
    }
}

/// A function that does not take what it is given.
fn call(text: &str) -> Option<Clash> {
    let (_, rest) = text.split_once("No function matches the given name and argument types '")?;
    let (call, rest) = rest.split_once("'.")?;
    let (name, arguments) = call.split_once('(')?;
    let arguments = sql_words(arguments.strip_suffix(')').unwrap_or(arguments));
    let message = match arguments.as_str() {
        "" => format!("{name}() needs an argument"),
        arguments => format!("{name}() does not take {arguments}"),
    };
    let known = rest.lines().skip_while(|line| !line.contains("Candidate functions")).skip(1);
    let known: Vec<String> = known
        .map(|line| kinds(&sql_words(line.trim())))
        .filter(|line| !line.is_empty() && !line.contains("UserDefined"))
        .collect();
    let mut error = refused(message);
    if !known.is_empty() {
        error = error
            .fact(format!("it is called as {}", known.iter().take(MOST_CALLS).cloned().collect::<Vec<_>>().join(", ")));
    }
    let error = error.fact("write CAST(… AS …) around an argument of another type");
    Some(Clash { error, word: Some(name.to_owned()) })
}

/// DataFusion's names for kinds of types, as SQL has them.
fn kinds(call: &str) -> String {
    let words = [
        ("Decimal", "DECIMAL"),
        ("Integer", "BIGINT"),
        ("Numeric", "DOUBLE"),
        ("Float", "DOUBLE"),
        ("String", "VARCHAR"),
        ("Timestamp", "TIMESTAMP"),
        ("Time", "TIME"),
        ("Date", "DATE"),
        ("Interval", "INTERVAL"),
    ];
    words.iter().fold(call.to_owned(), |call, (from, to)| call.replace(from, to))
}

/// Values that must have one type and have several.
fn common(text: &str) -> Option<Clash> {
    let (words, types) = translated(text.lines().next()?);
    if types == 0 {
        return None;
    }
    let between = |start: &str, middle: &str, end: &str| {
        let (left, rest) = words.strip_prefix(start)?.split_once(middle)?;
        let (right, rest) = rest.split_once(end)?;
        Some((left.to_owned(), right.to_owned(), rest.trim_end_matches(" expression").to_owned()))
    };
    let one_type = "make them one type: CAST(… AS …)";
    let condition = "a condition is a comparison, such as amount > 0";
    let (message, advice, word) =
        if let Some((a, b, word)) = between("There isn't a common type to coerce ", " and ", " in ") {
            (format!("{word} does not go with {a} and {b}"), one_type, Some(word))
        } else if let Some((a, b, _)) = between("Failed to coerce types ", " and ", " in ") {
            (format!("BETWEEN does not go with {a} and {b}"), one_type, Some("BETWEEN".to_owned()))
        } else if let Some((a, b, _)) = between("Failed to coerce then (", ") and else (", ")") {
            (format!("the branches of CASE have no common type: {a} and {b}"), one_type, Some("CASE".to_owned()))
        } else if let Some((a, b, _)) = between("Failed to coerce case (", ") and when (", ")") {
            (format!("CASE cannot compare {a} with {b}"), one_type, Some("CASE".to_owned()))
        } else if let Some((name, of)) = predicate(&words) {
            (format!("`{name}` is {of} and no condition"), condition, Some(name.to_owned()))
        } else if let Some(of) = words.strip_prefix(CONVERTED).and_then(|rest| rest.strip_suffix(" to BOOLEAN")) {
            (format!("{of} is no condition"), condition, None)
        } else {
            (super::diagnose::sentence(words.trim_end_matches('.')), one_type, None)
        };
    Some(Clash { error: refused(message).fact(advice), word })
}

/// The column in the place of a condition, and its type.
fn predicate(words: &str) -> Option<(&str, &str)> {
    let rest = words.strip_prefix("Cannot create filter with non-boolean predicate '")?;
    let (name, of) = rest.split_once("' returning ")?;
    Some((name.rsplit('.').next().unwrap_or(name), of))
}

/// The text with the names of Arrow's types as SQL has them, and literals as they are written.
pub(crate) fn sql_words(text: &str) -> String {
    translated(text).0
}

/// The same, and how many types were named.
fn translated(text: &str) -> (String, usize) {
    let mut out = String::with_capacity(text.len());
    let mut types = 0;
    let mut rest = text;
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    while let Some(first) = rest.chars().next() {
        let length = if part(first) { rest.find(|c| !part(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
        let (word, after) = rest.split_at(length);
        let (arguments, later) = after.split_at(balanced(after));
        rest = later;
        if let Some(name) = type_named(&format!("{word}{arguments}")) {
            types += 1;
            out.push_str(&name);
        } else if let (Some(_), Some(literal)) = (type_named(word), inner(arguments)) {
            out.push_str(&literal.replace('"', "'"));
        } else {
            out.push_str(word);
            rest = after;
        }
    }
    (out, types)
}

fn inner(parenthesised: &str) -> Option<&str> {
    parenthesised.strip_prefix('(')?.strip_suffix(')')
}

/// The SQL name of a type that Arrow writes like this.
fn type_named(word: &str) -> Option<String> {
    // These are words of sentences, too.
    if !word.starts_with(|c: char| c.is_ascii_uppercase()) || matches!(word, "Binary" | "Interval" | "List" | "Map") {
        return None;
    }
    word.parse::<DataType>().ok().map(|of| sql_type(&of))
}

/// How long the text in parentheses is that begins here; 0 when none does or they are not closed.
fn balanced(text: &str) -> usize {
    if !text.starts_with('(') {
        return 0;
    }
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth <= 1 => return at + 1,
            ')' => depth -= 1,
            _ => {}
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::sql_words;

    #[test]
    fn types_are_named_as_sql_names_them() {
        let cases = [
            ("Int64 + Utf8View", "BIGINT + VARCHAR"),
            ("from Timestamp(µs) to Timestamp(µs, \"UTC\")", "from TIMESTAMP to TIMESTAMPTZ"),
            ("sum(Decimal128(12, 2), Boolean)", "sum(DECIMAL(12, 2), BOOLEAN)"),
            ("Binary operator on List(Int32) and Interval(MonthDayNano)", "Binary operator on INT[] and INTERVAL"),
            ("é Interval of Float64(", "é Interval of DOUBLE("),
            ("x > Int64(5) AND y = Utf8(\"eu\")", "x > 5 AND y = 'eu'"),
        ];
        for (text, expected) in cases {
            assert_eq!(sql_words(text), expected);
        }
    }
}
