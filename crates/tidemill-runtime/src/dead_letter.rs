//! [`DeadLetter`]: a record that could not be read or broke an expectation, kept as a row of a table.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use tidemill_model::{Error, Result};

/// A row that is kept beside the results instead of being lost.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// The dataset it was read from.
    pub dataset: String,
    /// The class of the fault: `unreadable JSON`, `amount not positive` (the constraint's name in words), `no event time`.
    pub reason: String,
    /// What exactly was wrong.
    pub detail: String,
    /// The split it was read from.
    pub split: String,
    /// Its position in the split.
    pub position: u64,
    /// Its event time, where one could be read, in microseconds.
    pub event_time: Option<i64>,
    /// The record's bytes as read, or the row as JSON when the source gives columns.
    pub raw: Bytes,
}

/// The schema of every `NAME.dead_letters` table.
#[must_use]
pub fn dead_letter_schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    Arc::new(Schema::new(vec![
        Field::new("pipeline", DataType::Utf8, false),
        Field::new("dataset", DataType::Utf8, false),
        Field::new("reason", DataType::Utf8, false),
        Field::new("detail", DataType::Utf8, false),
        Field::new("split", DataType::Utf8, false),
        Field::new("position", DataType::Int64, false),
        Field::new("event_time", time.clone(), true),
        Field::new("raw", DataType::Binary, false),
        Field::new("epoch", DataType::Int64, false),
        Field::new("recorded_at", time, false),
    ]))
}

/// Dead letters of one epoch as rows of [`dead_letter_schema`].
///
/// # Errors
/// Internal, when the columns do not make a batch.
pub fn dead_letter_batch(letters: &[DeadLetter], pipeline: &str, epoch: u64, recorded_at: i64) -> Result<RecordBatch> {
    let text =
        |of: fn(&DeadLetter) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(letters.iter().map(of))) };
    let n = letters.len();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(pipeline, n))),
        text(|l| &l.dataset),
        text(|l| &l.reason),
        text(|l| &l.detail),
        text(|l| &l.split),
        Arc::new(Int64Array::from_iter_values(letters.iter().map(|l| i64::try_from(l.position).unwrap_or(i64::MAX)))),
        Arc::new(TimestampMicrosecondArray::from_iter(letters.iter().map(|l| l.event_time))),
        Arc::new(BinaryArray::from_iter_values(letters.iter().map(|l| l.raw.as_ref()))),
        Arc::new(Int64Array::from_iter_values(std::iter::repeat_n(i64::try_from(epoch).unwrap_or(i64::MAX), n))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(std::iter::repeat_n(recorded_at, n))),
    ];
    RecordBatch::try_new(dead_letter_schema(), columns)
        .map_err(|e| Error::internal("dead letters do not make a batch").because(e))
}
