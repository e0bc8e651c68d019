//! [`LateHome`]: where the rows go that came too late for an operator.
//!
//! **Invariant:** whether they are kept or not, the operator counts them; a row that is kept is kept once, however many
//! windows it came too late for.

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;
use tidemill_model::Watermark;
use tidemill_runtime::{LateRow, rows_as_json};

use crate::language::Pipeline;

/// Where late rows on their way to one table or view go.
#[derive(Debug, Clone)]
pub(in crate::stream) struct LateHome {
    /// The table or view; `None` when late rows are dropped.
    dataset: Option<String>,
}

/// What an operator knows of a late row.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::stream) struct CameLate {
    /// The row's event time.
    pub(in crate::stream) event_time: Option<i64>,
    /// The earliest window that has closed: start and end.
    pub(in crate::stream) window: Option<(i64, i64)>,
    /// How many of its windows have closed.
    pub(in crate::stream) pairs: u64,
}

impl LateHome {
    /// For the operators of a statement that writes this table or view.
    pub(in crate::stream) fn of(pipeline: &Pipeline, dataset: &str) -> LateHome {
        LateHome { dataset: pipeline.keeps_late.then(|| dataset.to_owned()) }
    }

    /// The rows of a batch of which something is told, as late rows; `told` has an entry for each row.
    pub(in crate::stream) fn keep(
        &self,
        rows: &RecordBatch,
        told: &[Option<CameLate>],
        watermark: Watermark,
    ) -> Result<Vec<LateRow>, ArrowError> {
        if !self.keeps() {
            return Ok(Vec::new());
        }
        let late: BooleanArray = told.iter().map(|told| Some(told.is_some())).collect();
        let rows = rows_as_json(&filter_record_batch(rows, &late)?);
        let kept = rows.into_iter().zip(told.iter().flatten());
        Ok(kept.filter_map(|(row, told)| self.row(row, *told, watermark)).collect())
    }

    /// These rows, all of them late, where `time` is the column with their event time.
    pub(in crate::stream) fn keep_all(
        &self,
        rows: &RecordBatch,
        time: usize,
        watermark: Watermark,
    ) -> Result<Vec<LateRow>, ArrowError> {
        let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
        let times = cast(rows.column(time), &micros)?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let told = |event_time| Some(CameLate { event_time, window: None, pairs: 1 });
        self.keep(rows, &times.iter().map(told).collect::<Vec<_>>(), watermark)
    }

    /// Whether rows are kept, rather than only counted.
    pub(in crate::stream) fn keeps(&self) -> bool {
        self.dataset.is_some()
    }

    /// A row that is JSON already.
    pub(in crate::stream) fn row(&self, row: String, told: CameLate, watermark: Watermark) -> Option<LateRow> {
        let CameLate { event_time, window, pairs } = told;
        let dataset = self.dataset.clone()?;
        Some(LateRow { dataset, row, event_time, window, pairs: pairs.max(1), watermark })
    }
}
