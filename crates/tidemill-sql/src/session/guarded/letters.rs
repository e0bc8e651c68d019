//! [`Failing`]: what a statement wants to become of rows that fail, and [`OnItsWay`]: what their dead letters say.
//!
//! **Invariant:** a row that is taken back leaves no letter: its other half left one.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use bytes::Bytes;
use tidemill_model::Place;
use tidemill_runtime::{Batch, DeadLetter, STATEMENT, row_as_json};

use super::chain::Chain;
use super::words::Fault;
use crate::language::OnError;

/// Where rows were going when they failed.
#[derive(Debug, Clone)]
pub struct OnItsWay {
    /// The table or view.
    dataset: String,
    /// The statement's file and line.
    split: String,
    line: u64,
}

impl OnItsWay {
    /// To a table or view, by the statement at this place.
    #[must_use]
    pub fn to(dataset: &str, place: &Place) -> OnItsWay {
        let line = place.line_column().0 as u64;
        OnItsWay { dataset: dataset.to_owned(), split: format!("{STATEMENT}{}", place.file), line }
    }
}

/// What becomes of rows that fail in one chain.
#[derive(Debug, Clone)]
pub struct Failing {
    pub(super) on_error: OnError,
    way: OnItsWay,
    /// The columns of the input that a letter holds.
    shown: Vec<usize>,
    /// The column with the event time.
    time: Option<usize>,
}

impl Failing {
    /// For the rows of a chain; `time` is the column of its input that tells the event time.
    #[must_use]
    pub fn of(chain: &Chain, on_error: OnError, way: OnItsWay, time: Option<usize>) -> Failing {
        Failing { on_error, way, shown: chain.shown(), time }
    }

    /// The letter of the one row of a batch.
    pub(super) fn letter(&self, row: &Batch, fault: Fault) -> Option<DeadLetter> {
        if row.weights.as_ref().is_some_and(|weights| weights.value(0) < 0) {
            return None;
        }
        let shown = row.rows.project(&self.shown).unwrap_or_else(|_| row.rows.clone());
        Some(DeadLetter {
            dataset: self.way.dataset.clone(),
            reason: fault.reason,
            detail: fault.detail,
            split: self.way.split.clone(),
            position: self.way.line,
            event_time: self.time.and_then(|column| time_of(&row.rows, column)),
            raw: Bytes::from(row_as_json(&shown, 0)),
        })
    }
}

fn time_of(row: &RecordBatch, column: usize) -> Option<i64> {
    let times = cast(row.columns().get(column)?, &DataType::Timestamp(TimeUnit::Microsecond, None)).ok()?;
    let times = times.as_primitive_opt::<TimestampMicrosecondType>()?;
    times.is_valid(0).then(|| times.value(0))
}
