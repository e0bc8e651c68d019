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

/// What a case's query answers over these rows.
pub(crate) fn answer(runtime: &Runtime, case: &Case, tables: &Tables) -> Vec<RecordBatch> {
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
        answered.await.unwrap_or_else(|e| panic!("{}: {query}: {e}", case.name))
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

/// The query with each `TUMBLE(table, column, INTERVAL '…')` written out.
fn plain(sql: &str) -> String {
    let Some((before, rest)) = sql.split_once("TUMBLE(") else { return sql.to_owned() };
    let (inside, after) = to_the_end(rest);
    let inside = plain(inside);
    let arguments = arguments(&inside);
    let [table, column, interval] = arguments.as_slice() else { panic!("TUMBLE({inside}) has three arguments here") };
    let length = interval.split('\'').nth(1).expect("a quoted interval");
    let start = match length.split_once(' ').expect("a number and a unit") {
        ("1", "month") => format!("date_trunc('month', {column})"),
        ("1", "week") => format!("date_bin({interval}, {column}, TIMESTAMP '1970-01-05T00:00:00')"),
        (_, "month" | "months" | "week" | "weeks") => panic!("the oracle does not know windows of {length}"),
        _ => format!("date_bin({interval}, {column}, TIMESTAMP '1970-01-01T00:00:00')"),
    };
    let micros = |time: &str| format!("arrow_cast({time}, 'Timestamp(Microsecond, None)')");
    let (start, end) = (micros(&start), micros(&format!("({start}) + {interval}")));
    let after = plain(after);
    format!("{before}(SELECT *, {start} AS window_start, {end} AS window_end FROM {table}) {after}")
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
