//! [`ServedView`]: what the server knows of a view beside its rows, and the envelope of an answer.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use serde_json::{Value, json};
use tidemill_model::{Result, Timestamp, Watermark};
use tidemill_runtime::exec::ViewRows;

use crate::json::JsonRows;

/// A view that can be asked for.
#[derive(Debug, Clone)]
pub struct ServedView {
    /// Its name.
    pub name: String,
    /// The pipeline that keeps it.
    pub pipeline: String,
    /// Its columns.
    pub schema: SchemaRef,
    /// Which column says which window a row is of; rows without a window are never provisional.
    pub window: Option<Window>,
}

/// How the end of a row's window follows from a column.
#[derive(Clone)]
pub struct Window {
    /// The column.
    pub column: String,
    /// The end of the window, in microseconds, from the column's value.
    pub end: Arc<dyn Fn(i64) -> i64 + Send + Sync>,
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Window({})", self.column)
    }
}

/// The body of an answer: rows in their envelope, as JSON text. `lag_seconds` is the age of the newest row that is in
/// the view; `stream_through` is the event time before which nothing more is expected.
pub(crate) fn envelope(view: &ServedView, rows: &ViewRows, kept: &[RecordBatch], now: Timestamp) -> Result<String> {
    let complete_to = rows.state.complete_to.unwrap_or(Watermark::MIN);
    let (objects, provisional) = objects(view, kept, complete_to)?;
    let lag = rows.state.newest_arrival.map(|at| now.since(at).as_micros() as f64 / 1e6);
    let head = json!({
        "view": view.name,
        "pipeline": view.pipeline,
        "epoch": rows.epoch.0,
        "stream_through": through(complete_to),
        "lag_seconds": lag,
        "provisional": provisional,
    })
    .to_string();
    // Rows are written digit by digit, which no JSON value of numbers in memory can carry.
    let head = head.strip_suffix('}').unwrap_or(&head);
    Ok(format!("{head},\"rows\":[{objects}]}}"))
}

fn through(complete_to: Watermark) -> Value {
    match complete_to {
        Watermark::MAX => json!("end"),
        other => other.instant().map_or(Value::Null, |at| json!(at.to_string())),
    }
}

/// The rows as objects with commas between them, and whether any of them is provisional.
fn objects(view: &ServedView, batches: &[RecordBatch], complete_to: Watermark) -> Result<(String, bool)> {
    let mut out = String::new();
    let mut any = false;
    for batch in batches {
        let rows = JsonRows::of(batch)?;
        let windows = view.window.as_ref().and_then(|window| {
            let times = batch.column_by_name(&window.column)?.as_primitive_opt::<TimestampMicrosecondType>()?.clone();
            Some((window, times))
        });
        for row in 0..rows.len() {
            let windowed = windows.as_ref().filter(|(_, times)| times.is_valid(row));
            let provisional = windowed.map(|(window, times)| (window.end)(times.value(row)) > complete_to.0);
            any |= provisional == Some(true);
            let more = provisional.map(|provisional| ("provisional", if provisional { "true" } else { "false" }));
            if !out.is_empty() {
                out.push(',');
            }
            rows.put(row, more.as_slice(), &mut out)?;
        }
    }
    Ok((out, any))
}
