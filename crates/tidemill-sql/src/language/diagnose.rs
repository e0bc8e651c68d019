//! [`from_datafusion`]: what DataFusion says of a query, as an error of ours at its place in the user's file.
//!
//! **Invariant:** an error of ours that travelled through DataFusion comes out as it went in; nothing of a message is
//! lost, only prefixes that speak of DataFusion's own insides.

use std::error::Error as StdError;

use datafusion::common::{Column, Diagnostic, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::tokenizer::{Location, Span};
use tidemill_model::{Error, Kind, Place, nearest};

use super::script::Script;
use super::syntax::syntax_error;

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
    let spanned = diagnostic.and_then(|diagnostic| diagnostic.span).and_then(|span| {
        let location = |l: datafusion::common::Location| Location { line: l.line, column: l.column };
        script.place(Span { start: location(span.start), end: location(span.end) })
    });
    if let Some(own) = embedded(error) {
        return copy(own).at(spanned.as_ref().unwrap_or(place));
    }
    let or_word = |word: &str| spanned.clone().or_else(|| find_word(script, place, word));
    let root = root(error);
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
            let error = plan(text, diagnostic);
            let at = spanned.or_else(|| quoted(error.message()).and_then(|word| find_word(script, place, word)));
            (error, at)
        }
        DataFusionError::NotImplemented(text) => {
            (Error::new(Kind::Plan, "P109", format!("not supported: {}", sentence(text))), spanned)
        }
        DataFusionError::Configuration(text) => (Error::new(Kind::Config, "C017", sentence(text)), spanned),
        DataFusionError::Execution(text) => (Error::new(Kind::Data, "D100", sentence(text)), spanned),
        DataFusionError::ArrowError(arrow, _) => {
            (Error::new(Kind::Data, "D101", sentence(&arrow.to_string())), spanned)
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
            let error = Error::new(Kind::Internal, "I002", format!("the query engine failed: {other}"))
                .fact("this is a defect; report it with the query");
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
            None => error = error.fact(line),
        }
    }
    let helps = diagnostic.iter().flat_map(|diagnostic| &diagnostic.helps);
    helps.fold(error, |error, help| error.fact(sentence(&help.message)))
}

/// The last part of the first name that a message puts in quotes: what it is most likely about.
fn quoted(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once('\'')?;
    let (name, _) = rest.split_once('\'')?;
    name.rsplit('.').next().filter(|name| !name.is_empty())
}

/// A message that begins in lower case, as ours do, unless its first word is a name or a keyword.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text.to_owned(),
    }
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
        let context = SessionContext::new();
        let schema = Arc::new(Schema::new(vec![
            Field::new("order_id", DataType::Int64, true),
            Field::new("amount", DataType::Float64, true),
            Field::new("Region", DataType::Utf8, true),
        ]));
        context.register_table("raw_orders", Arc::new(EmptyTable::new(schema))).expect("registers");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let error = runtime.block_on(context.state().create_logical_plan(sql)).expect_err("refused");
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
        let types = shown("SELECT order_id + true FROM raw_orders");
        assert!(types.starts_with("error[P107]"), "{types}");
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
