//! [`DeadLetter`]: a record that could not be read or broke an expectation, or a row that an expression of a statement
//! failed on, kept as a row of a table.
//!
//! **Invariant:** `reason` is a class of faults, few of which there are; what differs from row to row is in `detail`.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use tidemill_model::{Error, Kind, Result};

/// A row that is kept beside the results instead of being lost.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// The dataset it was read from; of a row that an expression failed on, the table or view it was on its way to.
    pub dataset: String,
    /// The class of the fault: `unreadable JSON`, `amount not positive` (the constraint's name in words), `no event time`.
    pub reason: String,
    /// What exactly was wrong.
    pub detail: String,
    /// The split it was read from; or [`STATEMENT`] and the file of the statement that failed.
    pub split: String,
    /// Its position in the split; or the line of the statement.
    pub position: u64,
    /// Its event time, where one could be read, in microseconds.
    pub event_time: Option<i64>,
    /// The record's bytes as read, or the row as JSON when the source gives columns.
    pub raw: Bytes,
}

/// What `split` begins with when the letter is no record of a source but a row that an expression failed on.
pub const STATEMENT: &str = "statement in ";

impl DeadLetter {
    /// Whether it is a row that an expression failed on.
    #[must_use]
    pub fn is_of_statement(&self) -> bool {
        self.split.starts_with(STATEMENT)
    }

    /// How many bytes it holds in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.raw.len() + self.detail.len()
    }
}

/// A row of columns as a JSON object, for people to read; values are written as text.
#[must_use]
pub fn row_as_json(rows: &RecordBatch, row: usize) -> String {
    let options = FormatOptions::default();
    let schema = rows.schema();
    let values = schema.fields().iter().zip(rows.columns()).map(|(field, column)| {
        let formatter = if column.is_null(row) { None } else { ArrayFormatter::try_new(column, &options).ok() };
        let value = formatter.map_or(serde_json::Value::Null, |f| serde_json::Value::String(f.value(row).to_string()));
        (field.name().clone(), value)
    });
    serde_json::Value::Object(values.collect()).to_string()
}

/// Each row of a batch as [`row_as_json`] writes it.
#[must_use]
pub fn rows_as_json(rows: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default();
    let schema = rows.schema();
    let columns: Vec<_> = rows.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).ok()).collect();
    let one = |row: usize| {
        let values = schema.fields().iter().zip(rows.columns()).zip(&columns).map(|((field, column), formatter)| {
            let formatter = formatter.as_ref().filter(|_| column.is_valid(row));
            let text = formatter.map(|f| serde_json::Value::String(f.value(row).to_string()));
            (field.name().clone(), text.unwrap_or(serde_json::Value::Null))
        });
        serde_json::Value::Object(values.collect()).to_string()
    };
    (0..rows.num_rows()).map(one).collect()
}

/// A dead letter as it is put away.
#[derive(Debug, Clone, PartialEq)]
pub struct Filed {
    /// The letter.
    pub letter: DeadLetter,
    /// The step of the dataflow whose expression failed; `None` of a record of a source, and of interval runs.
    pub step: Option<String>,
    /// How often it has entered again, in vain.
    pub attempts: u64,
}

impl From<DeadLetter> for Filed {
    fn from(letter: DeadLetter) -> Filed {
        Filed { letter, step: None, attempts: 0 }
    }
}

/// The columns of a file of dead letters.
fn filed_fields() -> Vec<Field> {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    vec![
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
        Field::new("step", DataType::Utf8, true),
        Field::new("attempts", DataType::Int64, true),
    ]
}

/// The schema of every `NAME.dead_letters` table: what the files have, and what became of each letter since.
#[must_use]
pub fn dead_letter_schema() -> SchemaRef {
    let mut fields = filed_fields();
    fields.push(Field::new("letter", DataType::Utf8, true));
    fields.push(Field::new("replayed_epoch", DataType::Int64, true));
    Arc::new(Schema::new(fields))
}

/// Rows of a file of dead letters as rows of [`dead_letter_schema`]. `name` names the letter of each row, if it has a
/// name, and tells in which epoch it entered again.
///
/// # Errors
/// Corrupt, when the file has other columns than it should.
pub fn letters_as_table(
    filed: &RecordBatch,
    mut name: impl FnMut(usize) -> Option<(String, Option<u64>)>,
) -> Result<RecordBatch> {
    let rows = filed.num_rows();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for field in filed_fields() {
        columns.push(match filed.column_by_name(field.name()) {
            Some(column) => Arc::clone(column),
            // A file of a version that did not know the column.
            None => new_null_array(field.data_type(), rows),
        });
    }
    let named: Vec<_> = (0..rows).map(&mut name).collect();
    let letters = named.iter().map(|named| named.as_ref().map(|(letter, _)| letter.as_str()));
    columns.push(Arc::new(StringArray::from_iter(letters)));
    let epochs = named.iter().map(|named| named.as_ref().and_then(|(_, epoch)| *epoch).map(|epoch| epoch as i64));
    columns.push(Arc::new(Int64Array::from_iter(epochs)));
    RecordBatch::try_new(dead_letter_schema(), columns).map_err(|e| {
        Error::new(Kind::Corrupt, "X081", "a file of dead letters has other columns than it should")
            .fact("it was written by another version; run that one, or remove the file")
            .because(e)
    })
}

/// Dead letters of one epoch as a batch for a file.
///
/// # Errors
/// Internal, when the columns do not make a batch.
pub fn dead_letter_batch(filed: &[Filed], pipeline: &str, epoch: u64, recorded_at: i64) -> Result<RecordBatch> {
    let text = |of: fn(&DeadLetter) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(filed.iter().map(|filed| of(&filed.letter))))
    };
    let n = filed.len();
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(pipeline, n))),
        text(|l| &l.dataset),
        text(|l| &l.reason),
        text(|l| &l.detail),
        text(|l| &l.split),
        Arc::new(Int64Array::from_iter_values(filed.iter().map(|filed| number(filed.letter.position)))),
        Arc::new(TimestampMicrosecondArray::from_iter(filed.iter().map(|filed| filed.letter.event_time))),
        Arc::new(BinaryArray::from_iter_values(filed.iter().map(|filed| filed.letter.raw.as_ref()))),
        Arc::new(Int64Array::from_iter_values(std::iter::repeat_n(number(epoch), n))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(std::iter::repeat_n(recorded_at, n))),
        Arc::new(StringArray::from_iter(filed.iter().map(|filed| filed.step.as_deref()))),
        Arc::new(Int64Array::from_iter_values(filed.iter().map(|filed| number(filed.attempts)))),
    ];
    RecordBatch::try_new(Arc::new(Schema::new(filed_fields())), columns)
        .map_err(|e| Error::internal("dead letters do not make a batch").because(e))
}
