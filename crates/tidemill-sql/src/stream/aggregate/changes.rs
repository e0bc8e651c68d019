//! [`difference`]: what changed between two results of the same groups, as rows with weights.
//!
//! **Invariant:** taking the old results, adding the weighted rows and dropping zeros gives the new results.

use std::sync::Arc;

use arrow::array::{BooleanArray, Int64Array, RecordBatch};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{concat_batches, filter_record_batch, or};
use arrow::error::ArrowError;
use tidemill_runtime::Batch;

/// `old` are the results of the first groups of `new`, in the same order; the other groups are new.
pub(super) fn difference(old: Option<&RecordBatch>, new: &RecordBatch) -> Result<Batch, ArrowError> {
    let Some(old) = old else { return Ok(Batch::inserts(new.clone())) };
    let known = new.slice(0, old.num_rows());
    let changed = changed_rows(old, &known)?;
    let gone = filter_record_batch(old, &changed)?;
    let come = filter_record_batch(&known, &changed)?;
    let added = new.slice(old.num_rows(), new.num_rows() - old.num_rows());
    let rows = concat_batches(&new.schema(), [&gone, &come, &added])?;
    let inserted = rows.num_rows() - gone.num_rows();
    let weights = std::iter::repeat_n(-1_i64, gone.num_rows()).chain(std::iter::repeat_n(1, inserted));
    Ok(Batch { weights: Some(Int64Array::from_iter_values(weights)), rows })
}

/// Which rows differ in any column.
pub(in crate::stream) fn changed_rows(old: &RecordBatch, new: &RecordBatch) -> Result<BooleanArray, ArrowError> {
    let mut changed: Option<BooleanArray> = None;
    for (before, after) in old.columns().iter().zip(new.columns()) {
        // Lists and structs have no kernel: their rows count as changed, which is right, only more than needed.
        let differs = distinct(&Arc::clone(before), &Arc::clone(after))
            .unwrap_or_else(|_| BooleanArray::from(vec![true; old.num_rows()]));
        changed = Some(match changed {
            None => differs,
            Some(changed) => or(&changed, &differs)?,
        });
    }
    Ok(changed.unwrap_or_else(|| BooleanArray::from(vec![false; old.num_rows()])))
}
