//! The oracle: plain DataFusion over all rows at once, which knows nothing of our planner, formats and windows.
//!
//! **Invariant:** rows reach it as they were made, never encoded.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use tokio::runtime::Runtime;

use super::case::Case;

/// Tables with all their rows.
pub(crate) type Tables = BTreeMap<String, RecordBatch>;

/// What a case's query answers over these rows, or what is wrong with it.
pub(crate) fn answer(runtime: &Runtime, case: &Case, tables: &Tables) -> Result<Vec<RecordBatch>, String> {
    runtime.block_on(async {
        let context = context(case, tables).await;
        for statement in case.declarations.split(';').map(without_comments) {
            if statement.starts_with("CREATE VIEW") {
                let planned = context.sql(&plain(&statement)).await;
                planned.unwrap_or_else(|e| panic!("{}: {statement}: {e}", case.name));
            }
        }
        let query = plain(case.oracle.as_ref().unwrap_or(&case.query));
        let answered = async { context.sql(&query).await?.collect().await };
        answered.await.map_err(|e| format!("{query}: {e}"))
    })
}

/// How many rows of a table, refused ones too, meet a condition.
pub(crate) fn count(runtime: &Runtime, case: &Case, tables: &Tables, table: &str, condition: &str) -> u64 {
    let sql = format!("SELECT count(*) FROM {table}__all WHERE {condition}");
    runtime.block_on(async {
        let context = context(case, tables).await;
        let counted = async { context.sql(&sql).await?.collect().await };
        let batches = counted.await.unwrap_or_else(|e| panic!("{}: {sql}: {e}", case.name));
        u64::try_from(batches[0].column(0).as_primitive::<Int64Type>().value(0)).expect("a count")
    })
}

async fn context(case: &Case, tables: &Tables) -> SessionContext {
    let context = SessionContext::new();
    for (name, rows) in tables {
        let table = MemTable::try_new(rows.schema(), vec![vec![rows.clone()]]).expect("a table");
        context.register_table(format!("{name}__all"), Arc::new(table)).expect("a new table");
        let accepted = case.accept.get(name).map_or("true", String::as_str);
        let view = format!("CREATE VIEW {name} AS SELECT * FROM {name}__all WHERE {accepted}");
        context.sql(&view).await.unwrap_or_else(|e| panic!("{}: {view}: {e}", case.name));
    }
    context
}

fn without_comments(sql: &str) -> String {
    let lines = sql.lines().filter(|line| !line.trim_start().starts_with("--"));
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// The query with each window relation written out.
fn plain(sql: &str) -> String {
    let words = ["TUMBLE(", "HOP(", "SESSION("];
    let found = words.iter().filter_map(|word| Some((sql.find(word)?, *word))).min();
    let Some((at, word)) = found else { return sql.to_owned() };
    let (before, rest) = (&sql[..at], &sql[at + word.len()..]);
    let (inside, after) = to_the_end(rest);
    let inside = plain(inside);
    let arguments = arguments(&inside);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let relation = match (word, arguments.as_slice()) {
        ("TUMBLE(", [table, column, interval, offset @ ..]) => {
            let start = bin(interval, column, offset);
            with_bounds(table, &start, &format!("({start}) + {interval}"))
        }
        ("HOP(", [table, column, slide, size, offset @ ..]) => hop(table, column, slide, size, offset),
        ("SESSION(", [table, column, gap, keys @ ..]) => session(table, column, gap, keys),
        _ => panic!("the oracle does not know {word}{inside})"),
    };
    format!("{before}{relation} {}", plain(after))
}

/// The start of the last window of a length that begins no later than a time; `offset` is what follows the lengths, if anything.
fn bin(interval: &str, column: &str, offset: &[&str]) -> String {
    let offset = offset.first().map_or(0, |offset| seconds(offset));
    let length = interval.split('\'').nth(1).expect("a quoted interval");
    match length.split_once(' ').expect("a number and a unit") {
        ("1", "month") => format!("date_trunc('month', {column})"),
        ("1", "week") => format!("date_bin({interval}, {column}, TIMESTAMP '1970-01-05T00:00:00')"),
        (_, "month" | "months" | "week" | "weeks") => panic!("the oracle does not know windows of {length}"),
        _ => format!("date_bin({interval}, {column}, TIMESTAMP '1970-01-01T00:00:{offset:02}')"),
    }
}

fn with_bounds(table: &str, start: &str, end: &str) -> String {
    let micros = |time: &str| format!("arrow_cast({time}, 'Timestamp(Microsecond, None)')");
    format!("(SELECT *, {} AS window_start, {} AS window_end FROM {table})", micros(start), micros(end))
}

/// The last window and those before it, as far as they still hold the time.
fn hop(table: &str, column: &str, slide: &str, size: &str, offset: &[&str]) -> String {
    let last = bin(slide, column, offset);
    let (step, length) = (seconds(slide), seconds(size));
    let back: Vec<String> = (0..=length / step).map(|n| format!("(INTERVAL '{} seconds')", n * step)).collect();
    let back = format!("(VALUES {}) AS s(back)", back.join(", "));
    let rows = format!("(SELECT t.*, s.back, {last} AS last FROM {table} AS t CROSS JOIN {back})");
    let start = "(last - back)";
    let rows = format!("{rows} WHERE {column} < {start} + {size}");
    format!("(SELECT * EXCEPT (back, last) FROM {})", with_bounds(&rows, start, &format!("{start} + {size}")))
}

fn seconds(interval: &str) -> u64 {
    let length = interval.split('\'').nth(1).expect("a quoted interval");
    let (number, unit) = length.split_once(' ').expect("a number and a unit");
    let number: u64 = number.parse().expect("a number");
    match unit {
        "second" | "seconds" => number,
        "minute" | "minutes" => number * 60,
        other => panic!("the oracle does not know hops in {other}"),
    }
}

/// Rows that come a gap after their predecessor begin sessions, which are numbered by counting those.
fn session(table: &str, column: &str, gap: &str, keys: &[&str]) -> String {
    let keys: Vec<&str> = keys.iter().map(|key| key.trim_start_matches("PARTITION BY ")).collect();
    let by = |more: &str| {
        let all: Vec<&str> = keys.iter().copied().chain((!more.is_empty()).then_some(more)).collect();
        if all.is_empty() { String::new() } else { format!("PARTITION BY {}", all.join(", ")) }
    };
    let before = format!("lag({column}) OVER ({} ORDER BY {column})", by(""));
    let begins = format!(
        "(SELECT *, CASE WHEN {column} < {before} + {gap} THEN 0 ELSE 1 END AS begins FROM {table} WHERE {column} IS NOT NULL)"
    );
    let sum = format!("sum(begins) OVER ({} ORDER BY {column} ROWS UNBOUNDED PRECEDING)", by(""));
    let numbered = format!("(SELECT *, {sum} AS session FROM {begins})");
    let over = by("session");
    let (first, last) = (format!("min({column}) OVER ({over})"), format!("max({column}) OVER ({over}) + {gap}"));
    format!("(SELECT * EXCEPT (begins, session) FROM {})", with_bounds(&numbered, &first, &last))
}

/// The text inside a parenthesis that is open, and the text after it.
fn to_the_end(text: &str) -> (&str, &str) {
    let mut depth = 1;
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return (&text[..at], &text[at + 1..]);
        }
    }
    panic!("`{text}` has no end")
}

fn arguments(text: &str) -> Vec<String> {
    let mut depth = 0;
    let mut arguments = vec![String::new()];
    for character in text.chars() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        arguments.last_mut().expect("one at least").push(character);
    }
    arguments.into_iter().map(|argument| argument.trim().to_owned()).collect()
}
