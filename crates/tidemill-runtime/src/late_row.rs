//! [`LateRow`]: a row that came after the results that it belongs to had been given out, kept as a row of a table.
//!
//! **Invariant:** it is written with the epoch that left it out, so that it is there exactly once, and only when the count of
//! late rows has it.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use tidemill_model::{Error, Result, Watermark};

/// What an operator left out because it came late.
#[derive(Debug, Clone, PartialEq)]
pub struct LateRow {
    /// The table or view that the row was on its way to.
    pub dataset: String,
    /// The row as JSON: the columns that the operator had of it.
    pub row: String,
    /// Its event time, where the operator knew it.
    pub event_time: Option<i64>,
    /// The earliest window that it came too late for: start and end.
    pub window: Option<(i64, i64)>,
    /// For how many windows it came too late; 1 where there are none.
    pub pairs: u64,
    /// The time that the operator stood at.
    pub watermark: Watermark,
}

impl LateRow {
    /// How many bytes it holds in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.row.len() + self.dataset.len() + size_of::<LateRow>()
    }
}

/// The schema of every `NAME.late` table.
#[must_use]
pub fn late_schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    Arc::new(Schema::new(vec![
        Field::new("pipeline", DataType::Utf8, false),
        Field::new("dataset", DataType::Utf8, false),
        Field::new("step", DataType::Utf8, false),
        Field::new("event_time", time.clone(), true),
        Field::new("window_start", time.clone(), true),
        Field::new("window_end", time.clone(), true),
        Field::new("windows", DataType::Int64, false),
        Field::new("watermark", time.clone(), true),
        Field::new("row", DataType::Utf8, false),
        Field::new("epoch", DataType::Int64, false),
        Field::new("recorded_at", time, false),
    ]))
}

/// Late rows of one epoch, each with the step that left it out, as rows of [`late_schema`].
///
/// # Errors
/// Internal, when the columns do not make a batch.
pub fn late_batch(rows: &[(String, LateRow)], pipeline: &str, epoch: u64, recorded_at: i64) -> Result<RecordBatch> {
    let n = rows.len();
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let text = |of: fn(&(String, LateRow)) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(of)))
    };
    let time = |of: fn(&LateRow) -> Option<i64>| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from_iter(rows.iter().map(|(_, row)| of(row))))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(pipeline, n))),
        text(|(_, row)| &row.dataset),
        text(|(step, _)| step),
        time(|row| row.event_time),
        time(|row| row.window.map(|window| window.0)),
        time(|row| row.window.map(|window| window.1)),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, row)| number(row.pairs)))),
        time(|row| row.watermark.instant().map(|at| at.0)),
        text(|(_, row)| &row.row),
        Arc::new(Int64Array::from_iter_values(std::iter::repeat_n(number(epoch), n))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(std::iter::repeat_n(recorded_at, n))),
    ];
    RecordBatch::try_new(late_schema(), columns)
        .map_err(|e| Error::internal("late rows do not make a batch").because(e))
}
