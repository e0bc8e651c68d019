//! Results of groups, and what changed in them.
//!
//! **Invariant:** taking the old results, adding the weighted rows and dropping zeros gives the results of the groups
//! that are there now.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::compute::{and, concat_batches, filter_record_batch, not, nullif, or};
use arrow::datatypes::Int64Type;
use datafusion::common::{Result, internal_datafusion_err};
use datafusion::error::DataFusionError;
use tidemill_model::{Error, Kind};
use tidemill_runtime::Batch;

use super::RunningSpec;
use crate::stream::aggregate::{Groups, changed_rows};

/// Groups by their states, and whether each is there.
pub(super) struct Standing {
    /// The columns of the result.
    pub(super) rows: RecordBatch,
    /// Which of them are there: a group whose rows were all taken back is not.
    pub(super) there: BooleanArray,
}

impl RunningSpec {
    /// The results of groups of these states, row by row.
    pub(super) fn results(&self, states: &RecordBatch) -> Result<Standing> {
        let spec = &self.groups;
        let count = states.num_rows();
        let (keys, columns) = states.columns().split_at(spec.leading());
        let mut results = Groups::results_of(columns, count, &spec.aggregates)?;
        let number = |at: usize| -> Result<Int64Array> {
            let column = results.get(at).and_then(|column| column.as_primitive_opt::<Int64Type>());
            column.cloned().ok_or_else(|| internal_datafusion_err!("a count is no integer"))
        };
        let there = match self.rows {
            Some(at) => {
                let rows = number(at)?;
                if rows.iter().flatten().any(|rows| rows < 0) {
                    return Err(DataFusionError::External(Box::new(taken_back())));
                }
                rows.iter().map(|rows| Some(self.is_global() || rows.unwrap_or(0) > 0)).collect()
            }
            None => BooleanArray::from(vec![true; count]),
        };
        let empty = self
            .sums
            .iter()
            .map(|(sum, counted)| {
                Ok((*sum, number(*counted)?.iter().map(|n| Some(n.unwrap_or(0) == 0)).collect::<BooleanArray>()))
            })
            .collect::<Result<Vec<_>>>()?;
        for (sum, none) in empty {
            results[sum] = nullif(&results[sum], &none)?;
        }
        let columns: Vec<ArrayRef> = spec.assemble(0, keys, &results, count);
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&spec.schema), columns, &options)?;
        Ok(Standing { rows, there })
    }
}

/// The error of rows that went and never came, which only a changelog without a key can say.
pub(super) fn taken_back() -> Error {
    Error::new(Kind::Data, "D160", "a row was taken back that never came")
        .fact("in a changelog without a PRIMARY KEY the `before` of each change has to be the row as it was, after the change that brought it")
        .fact("declare a PRIMARY KEY if a key tells its rows apart: then the last record of a key counts")
}

/// What changed. `old` are the results of the first groups of `new`, in the same order; the other groups are new.
pub(super) fn difference(old: Option<&RecordBatch>, new: &Standing) -> Result<Batch> {
    let known = old.map_or(0, RecordBatch::num_rows);
    let (before, there) = (new.rows.slice(0, known), new.there.slice(0, known));
    let added = filter_record_batch(
        &new.rows.slice(known, new.rows.num_rows() - known),
        &new.there.slice(known, new.there.len() - known),
    )?;
    let Some(old) = old else { return Ok(Batch::inserts(added)) };
    let changed = changed_rows(old, &before)?;
    let gone = filter_record_batch(old, &or(&changed, &not(&there)?)?)?;
    let come = filter_record_batch(&before, &and(&changed, &there)?)?;
    let rows = concat_batches(&new.rows.schema(), [&gone, &come, &added])?;
    if gone.num_rows() == 0 {
        return Ok(Batch::inserts(rows));
    }
    let inserted = rows.num_rows() - gone.num_rows();
    let weights = std::iter::repeat_n(-1_i64, gone.num_rows()).chain(std::iter::repeat_n(1, inserted));
    Ok(Batch { weights: Some(Int64Array::from_iter_values(weights)), rows })
}
