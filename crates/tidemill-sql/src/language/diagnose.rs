//! [`from_datafusion`]: what DataFusion says of a query, as an error of ours at its place in the user's file.
//!
//! **Invariant:** an error of ours that travelled through DataFusion comes out as it went in; nothing of a message is
//! lost, only prefixes that speak of DataFusion's own insides.

use std::error::Error as StdError;

use arrow::error::ArrowError;
use datafusion::common::{Column, Diagnostic, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::tokenizer::{Location, Span};
use tidemill_model::{Error, Kind, Place, nearest};

use super::clash::{clash, sql_words};
use super::script::Script;
use super::syntax::syntax_error;

/// A place of DataFusion's as the parser has it.
pub(super) fn location(of: datafusion::common::Location) -> Location {
    Location { line: of.line, column: of.column }
}

/// The error at its place. `place` is where the query, or the name of the view or target that it belongs to, stands;
/// a narrower place is taken from the error's span, or found by looking for its word from there to the next `;`.
#[must_use]
pub fn from_datafusion(error: &DataFusionError, place: &Place) -> Error {
    let script = Script::of(place);
    if let DataFusionError::Collection(all) = root(error) {
        let errors = all.iter().map(|one| single(one, &script, place)).collect();
        if let Some(error) = Error::all(errors) {
            return error;
        }
    }
    single(error, &script, place)
}

fn single(error: &DataFusionError, script: &Script, place: &Place) -> Error {
    let diagnostic = error.diagnostic();
    let spanned = diagnostic
        .and_then(|diagnostic| diagnostic.span)
        .and_then(|span| script.place(Span { start: location(span.start), end: location(span.end) }));
    if let Some(own) = embedded(error) {
        return copy(own).at(spanned.as_ref().unwrap_or(place));
    }
    let or_word = |word: &str| spanned.clone().or_else(|| find_word(script, place, word));
    let root = root(error);
    if let DataFusionError::Plan(text) | DataFusionError::Internal(text) = root
        && let Some(found) = clash(without_trace(text), diagnostic, script)
    {
        let at = spanned.or_else(|| find_word(script, place, found.word.as_deref()?));
        return found.error.at(at.as_ref().unwrap_or(place));
    }
    let (error, at) = match root {
        DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => {
                (no_column(field, valid_fields), or_word(&field.name))
            }
            SchemaError::AmbiguousReference { field } => {
                let message = format!("`{}` is a column of more than one of the tables here", field.name);
                let fact = format!("write the table before it: t.{}", field.name);
                (Error::new(Kind::Plan, "P108", message).fact(fact), or_word(&field.name))
            }
            other => (plan(&other.to_string(), None), spanned),
        },
        DataFusionError::SQL(parser, _) => return syntax_error(parser, script, place.span.clone()),
        DataFusionError::Plan(text) => {
            let error = plan(without_trace(text), diagnostic);
            let at = spanned.or_else(|| quoted(error.message()).and_then(|word| find_word(script, place, word)));
            (error, at)
        }
        DataFusionError::NotImplemented(text) => {
            (Error::new(Kind::Plan, "P109", format!("not supported: {}", sentence(text))), spanned)
        }
        DataFusionError::Configuration(text) => (Error::new(Kind::Config, "C017", sentence(text)), spanned),
        DataFusionError::Execution(text) => (Error::new(Kind::Data, "D100", sentence(text)), spanned),
        DataFusionError::ArrowError(arrow, _) => {
            let (said, value) = computed(arrow);
            let at = spanned.or_else(|| find_text(script, place, value.as_deref()?));
            (Error::new(Kind::Data, "D101", said), at)
        }
        DataFusionError::ResourcesExhausted(text) => {
            let error = Error::new(Kind::Unavailable, "U020", format!("not enough memory: {}", sentence(text)))
                .fact("allow more with memory = '…' under [engine] in tidemill.toml, or read a shorter interval");
            (error, spanned)
        }
        DataFusionError::IoError(io) => {
            return Error::io("read or write", "data", std::io::Error::new(io.kind(), io.to_string()));
        }
        DataFusionError::ObjectStore(store) => {
            (Error::new(Kind::Unavailable, "U021", format!("the object store failed: {store}")), spanned)
        }
        DataFusionError::ParquetError(parquet) => {
            (Error::new(Kind::Corrupt, "X020", format!("cannot read Parquet: {parquet}")), spanned)
        }
        other => {
            let text = match other {
                // Without the address of the library's own tracker.
                DataFusionError::Internal(text) => text.clone(),
                other => other.to_string(),
            };
            let message = format!("the query engine failed: {}", without_trace(&text).trim_end_matches('.'));
            let error = Error::new(Kind::Internal, "I002", message).fact("this is a defect; report it with the query");
            (error, spanned)
        }
    };
    error.at(at.as_ref().unwrap_or(place))
}

/// The error below the wrappers that only carry it.
fn root(error: &DataFusionError) -> &DataFusionError {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => root(inner),
        DataFusionError::Shared(inner) => root(inner),
        other => other,
    }
}

/// An error of ours inside: a connector's or a planner's, on its way through DataFusion.
fn embedded(error: &DataFusionError) -> Option<&Error> {
    let mut current: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = current {
        if let Some(own) = error.downcast_ref::<Error>() {
            return Some(own);
        }
        current = error.source();
    }
    None
}

fn copy(error: &Error) -> Error {
    let mut copied = Error::new(error.kind(), error.code(), error.message()).label(error.caret_label());
    if let Some(place) = error.place() {
        copied = copied.at(place);
    }
    copied = error.facts().iter().fold(copied, Error::fact);
    if let Some(source) = error.source() {
        copied = copied.because(source.to_string());
    }
    copied.and(error.more().iter().map(copy).collect())
}

fn no_column(field: &Column, valid: &[Column]) -> Error {
    let mut tables: Vec<String> = valid.iter().filter_map(|c| c.relation.as_ref().map(ToString::to_string)).collect();
    tables.dedup();
    let table = match (&field.relation, tables.as_slice()) {
        (Some(relation), _) => Some(relation.to_string()),
        (None, [only]) if valid.iter().all(|c| c.relation.is_some()) => Some(only.clone()),
        _ => None,
    };
    let mut names: Vec<&str> = Vec::new();
    for column in valid {
        if !names.contains(&column.name.as_str()) {
            names.push(&column.name);
        }
    }
    let message = match table {
        Some(table) => format!("no column `{}` in `{table}`", field.name),
        None => format!("no column `{}`", field.name),
    };
    let mut error = Error::new(Kind::Plan, "P104", message);
    if let Some(meant) = nearest(&field.name, names.iter().copied()) {
        // Unquoted names are read as lower case, so another case has to be quoted.
        let quoted = if meant.chars().any(char::is_uppercase) { format!("\"{meant}\"") } else { meant.to_owned() };
        error = error.label(format!("did you mean `{quoted}`?"));
    }
    if names.is_empty() { error } else { error.fact(format!("columns: {}", names.join(", "))) }
}

/// A planning error told in prose. A diagnostic is meant for users and says it better; of the text, a suggestion goes to
/// the caret and every line after the first is a fact.
fn plan(text: &str, diagnostic: Option<&Diagnostic>) -> Error {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("this query cannot be planned");
    let message = diagnostic.map_or(first, |diagnostic| &diagnostic.message);
    let mut error = Error::new(Kind::Plan, "P107", sentence(message.trim_end_matches('.')));
    for line in lines {
        match line.strip_prefix("Did you mean '").and_then(|rest| rest.strip_suffix("'?")) {
            Some(meant) => error = error.label(format!("did you mean `{meant}`?")),
            None => error = error.fact(sql_words(line)),
        }
    }
    let notes = diagnostic.iter().flat_map(|diagnostic| &diagnostic.notes).map(|note| &note.message);
    let helps = diagnostic.iter().flat_map(|diagnostic| &diagnostic.helps).map(|help| &help.message);
    let told = |text: &String| match text.strip_prefix("this side has ").and_then(|rest| rest.strip_suffix(" fields")) {
        Some(columns) => format!("one side gives {columns} columns"),
        None => sentence(text),
    };
    notes.chain(helps).fold(error, |error, text| error.fact(told(text)))
}

/// What went wrong with a value, and the value as a query has it, when the message names one.
fn computed(error: &ArrowError) -> (String, Option<String>) {
    let text = match error {
        ArrowError::CastError(text) | ArrowError::ParseError(text) | ArrowError::ComputeError(text) => text.as_str(),
        ArrowError::InvalidArgumentError(text) | ArrowError::ArithmeticOverflow(text) => text.as_str(),
        ArrowError::DivideByZero => return ("division by zero".to_owned(), None),
        other => return (sentence(&other.to_string()), None),
    };
    let cast = text.strip_prefix("Cannot cast string ").and_then(|rest| {
        let (value, of) = rest.rsplit_once(" to value of ")?;
        // Arrow names the widest decimal, whatever the CAST says.
        let of = if of.starts_with("Decimal") { "DECIMAL".to_owned() } else { sql_words(of.trim_end_matches(" type")) };
        Some((value, of))
    });
    let time = text.strip_prefix("Error parsing timestamp from ").and_then(|rest| {
        let (value, _) = rest.rsplit_once(": ")?;
        Some((value, "TIMESTAMP".to_owned()))
    });
    match cast.or(time) {
        Some((value, of)) => (format!("{value} is no {of}"), Some(value.to_owned())),
        None => (sentence(text), None),
    }
}

/// The last part of the first name that a message puts in quotes: what it is most likely about.
fn quoted(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once('\'')?;
    let (name, _) = rest.split_once('\'')?;
    name.rsplit('.').next().filter(|name| !name.is_empty())
}

/// The text before the trace that a debugging environment adds to it.
fn without_trace(text: &str) -> &str {
    text.split_once(DataFusionError::BACK_TRACE_SEP).map_or(text, |(text, _)| text)
}

/// A message that begins in lower case, as ours do, unless its first word is a name or a keyword; types in SQL's words.
pub(super) fn sentence(text: &str) -> String {
    let text = sql_words(without_trace(text));
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text,
    }
}

/// The first text like this from the place on, within its statement.
fn find_text(script: &Script, place: &Place, wanted: &str) -> Option<Place> {
    let statement = script.text().get(place.span.start..)?.split(';').next()?;
    let start = place.span.start + statement.find(wanted)?;
    Some(script.bytes(start..start + wanted.len()))
}

/// The first whole word like this from the place on, within its statement.
fn find_word(script: &Script, place: &Place, word: &str) -> Option<Place> {
    let rest = script.text().get(place.span.start..)?;
    let statement = rest.split(';').next().unwrap_or(rest).to_ascii_lowercase();
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let (at, found) = statement.match_indices(&word.to_ascii_lowercase()).find(|(at, found)| {
        let before = statement.get(..*at).and_then(|text| text.chars().next_back());
        let after = statement.get(at + found.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(part) && !after.is_some_and(part)
    })?;
    let start = place.span.start + at;
    Some(script.bytes(start..start + found.len()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::datasource::empty::EmptyTable;
    use datafusion::prelude::SessionContext;

    use super::super::render;
    use super::*;

    /// The error of planning this query over `raw_orders (order_id, amount, region)`, as shown.
    fn shown(sql: &str) -> String {
        // As the planner does, which keeps the places of columns.
        let context = SessionContext::new_with_state(crate::session::session_state());
        let schema = Arc::new(Schema::new(vec![
            Field::new("order_id", DataType::Int64, true),
            Field::new("amount", DataType::Float64, true),
            Field::new("Region", DataType::Utf8, true),
        ]));
        context.register_table("raw_orders", Arc::new(EmptyTable::new(schema))).expect("registers");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let state = context.state();
        let planned = runtime.block_on(state.create_logical_plan(sql)).and_then(|plan| state.optimize(&plan));
        let error = planned.expect_err("refused");
        let place = Script::new("pipelines/revenue.sql", sql).bytes(0..0);
        render(&from_datafusion(&error, &place), false)
    }

    #[test]
    fn unknown_columns_are_shown_at_their_place() {
        let expected = "\
error[P104]: no column `amout` in `raw_orders`
  --> pipelines/revenue.sql:2:5
   |
 2 | sum(amout) AS revenue FROM raw_orders
   |     ^^^^^ did you mean `amount`?
   = columns: order_id, amount, Region
";
        assert_eq!(shown("SELECT order_id,\nsum(amout) AS revenue FROM raw_orders GROUP BY order_id"), {
            expected.replace("FROM raw_orders\n", "FROM raw_orders GROUP BY order_id\n")
        });
        let upper = shown("SELECT region FROM raw_orders");
        assert!(upper.contains("^^^^^^ did you mean `\"Region\"`?"), "{upper}");
    }

    #[test]
    fn functions_groups_and_types() {
        let function = shown("SELECT roundd(amount) FROM raw_orders");
        assert!(function.contains("did you mean `round`?"), "{function}");
        let group = shown("SELECT order_id, sum(amount) FROM raw_orders");
        assert!(group.contains("GROUP BY") && group.contains(":1:8\n"), "{group}");
        assert!(!group.contains("wildcard"), "{group}");
    }

    #[test]
    fn clashes_name_both_types_and_the_cast() {
        let expected = "\
error[P107]: `+` does not go with BIGINT and BOOLEAN
  --> pipelines/revenue.sql:1:8
   |
 1 | SELECT order_id + true FROM raw_orders
   |        ^^^^^^^^
   = `order_id` is BIGINT
   = if that is meant, write CAST(… AS BIGINT) around the BOOLEAN
";
        assert_eq!(shown("SELECT order_id + true FROM raw_orders"), expected);
        for (sql, words) in [
            (
                "SELECT amount - \"Region\" FROM raw_orders",
                &["`-` does not go with DOUBLE and VARCHAR", "CAST(\"Region\" AS DOUBLE)"][..],
            ),
            (
                "SELECT order_id FROM raw_orders WHERE order_id AND true",
                &["`AND` does not go with BIGINT and BOOLEAN", "a comparison"],
            ),
            ("SELECT sum(\"Region\") FROM raw_orders", &["sum() does not take VARCHAR", "1:8\n", "CAST(… AS …)"]),
            (
                "SELECT CASE WHEN true THEN amount ELSE make_array(1) END FROM raw_orders",
                &["P107", "DOUBLE", "BIGINT[]"],
            ),
        ] {
            let shown = shown(sql);
            assert!(words.iter().all(|word| shown.contains(word)), "{sql}\n{shown}");
            let library = ["Int64", "Utf8", "Float64", "oerc", "infer", "common argument"];
            assert!(!library.iter().any(|word| shown.contains(word)), "{sql}\n{shown}");
        }
    }

    #[test]
    fn our_own_errors_pass_through() {
        let own = Error::new(Kind::Fenced, "F001", "another run").fact("stop");
        let place = Script::new("a.sql", "SELECT 1").bytes(0..6);
        let wrapped = DataFusionError::External(Box::new(own)).context("while planning");
        let error = from_datafusion(&wrapped, &place);
        assert_eq!((error.kind(), error.code(), error.message()), (Kind::Fenced, "F001", "another run"));
        assert_eq!(error.facts(), ["stop"]);
    }
}
