//! [`ServedView`]: what the server knows of a view beside its rows, and the envelope of an answer.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::{Map, Number, Value, json};
use tidemill_model::{Error, Result, Timestamp, Watermark};
use tidemill_runtime::exec::ViewRows;

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

/// The body of an answer: rows in their envelope. `lag_seconds` is the age of the newest row that is in the view;
/// `stream_through` is the event time before which nothing more is expected.
pub(crate) fn envelope(view: &ServedView, rows: &ViewRows, kept: &[RecordBatch], now: Timestamp) -> Result<Value> {
    let complete_to = rows.state.complete_to.unwrap_or(Watermark::MIN);
    let mut objects = Vec::new();
    let mut any_provisional = false;
    for batch in kept {
        objects_of(view, batch, complete_to, &mut objects, &mut any_provisional)?;
    }
    let lag = rows.state.newest_arrival.map(|at| now.since(at).as_micros() as f64 / 1e6);
    Ok(json!({
        "view": view.name,
        "pipeline": view.pipeline,
        "epoch": rows.epoch.0,
        "stream_through": through(complete_to),
        "lag_seconds": lag,
        "provisional": any_provisional,
        "rows": objects,
    }))
}

fn through(complete_to: Watermark) -> Value {
    match complete_to {
        Watermark::MAX => json!("end"),
        other => other.instant().map_or(Value::Null, |at| json!(at.to_string())),
    }
}

/// Decimals and times are text, so that no digit is lost; other numbers are numbers.
fn objects_of(
    view: &ServedView,
    batch: &RecordBatch,
    complete_to: Watermark,
    objects: &mut Vec<Value>,
    any_provisional: &mut bool,
) -> Result<()> {
    let options = FormatOptions::default().with_timestamp_format(Some("%Y-%m-%dT%H:%M:%S%.fZ"));
    let formatters = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|e| Error::internal("a row cannot be shown").because(e))?;
    let windows = view.window.as_ref().and_then(|window| {
        let times = batch.column_by_name(&window.column)?.as_primitive_opt::<TimestampMicrosecondType>()?.clone();
        Some((window, times))
    });
    for row in 0..batch.num_rows() {
        let mut object = Map::new();
        for ((field, column), formatter) in batch.schema().fields().iter().zip(batch.columns()).zip(&formatters) {
            let value = if column.is_null(row) {
                Value::Null
            } else {
                as_value(column.data_type(), formatter.value(row).to_string())
            };
            object.insert(field.name().clone(), value);
        }
        if let Some((window, times)) = windows.as_ref().filter(|(_, times)| times.is_valid(row)) {
            let provisional = (window.end)(times.value(row)) > complete_to.0;
            *any_provisional |= provisional;
            object.insert("provisional".to_owned(), Value::Bool(provisional));
        }
        objects.push(Value::Object(object));
    }
    Ok(())
}

fn as_value(data_type: &DataType, text: String) -> Value {
    match data_type {
        DataType::Boolean => Value::Bool(text == "true"),
        _ if data_type.is_integer() || data_type.is_floating() => {
            text.parse::<Number>().map_or(Value::String(text), Value::Number)
        }
        _ => Value::String(text),
    }
}
