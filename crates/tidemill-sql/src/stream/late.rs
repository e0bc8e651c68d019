//! [`LateHome`]: where the rows go that came too late for an operator.
//!
//! **Invariant:** whether they are kept or not, the operator counts them; a row that is kept is kept once, however many
//! windows it came too late for.

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
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
        let Some(dataset) = &self.dataset else { return Ok(Vec::new()) };
        let late: BooleanArray = told.iter().map(|told| Some(told.is_some())).collect();
        let rows = rows_as_json(&filter_record_batch(rows, &late)?);
        let kept = rows.into_iter().zip(told.iter().flatten()).map(|(row, told)| LateRow {
            dataset: dataset.clone(),
            row,
            event_time: told.event_time,
            window: told.window,
            pairs: told.pairs.max(1),
            watermark,
        });
        Ok(kept.collect())
    }
}
