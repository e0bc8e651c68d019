//! [`Batch`]: the unit that flows, Arrow columns plus a weight for each row.

use arrow::array::{Array, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::filter_record_batch;

/// Rows of a changelog. `weights` is +1 for an insert and −1 for a retraction; append-only batches carry none.
///
/// **Invariant:** `weights`, when present, has one non-null entry for each row.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The columns.
    pub rows: RecordBatch,
    /// One weight for each row; `None` means that every row is an insert.
    pub weights: Option<Int64Array>,
}

impl Batch {
    /// A batch of inserts.
    #[must_use]
    pub fn inserts(rows: RecordBatch) -> Batch {
        Batch { rows, weights: None }
    }

    /// The same weights over other columns of as many rows.
    #[must_use]
    pub fn with_rows(&self, rows: RecordBatch) -> Batch {
        Batch { rows, weights: self.weights.clone() }
    }

    /// The rows where `keep` is true.
    ///
    /// # Errors
    /// When `keep` has another length than the batch.
    pub fn filter(&self, keep: &BooleanArray) -> Result<Batch, arrow::error::ArrowError> {
        let rows = filter_record_batch(&self.rows, keep)?;
        let weights = match &self.weights {
            None => None,
            Some(weights) => {
                let kept = arrow::compute::filter(weights, keep)?;
                Some(kept.as_any().downcast_ref::<Int64Array>().cloned().unwrap_or_else(|| weights.slice(0, 0)))
            }
        };
        Ok(Batch { rows, weights })
    }

    /// How many rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
