//! [`split_by_lane`]: the rows of a batch by the lane that their key belongs to.

use arrow::array::{AsArray, Int64Array, UInt32Array};
use arrow::compute::{take, take_record_batch};
use arrow::datatypes::Int64Type;
use arrow::error::ArrowError;
use tidemill_model::{Error, Result};

use crate::{Batch, Route};

/// The rows of each lane, in order; lanes without rows are left out.
pub(super) fn split_by_lane(batch: &Batch, route: &Route, lanes: usize) -> Result<Vec<(usize, Batch)>> {
    let Route::Hash(columns) = route else { return Ok(vec![(0, batch.clone())]) };
    let broken = |e: ArrowError| Error::internal("rows cannot be divided among lanes").because(e);
    if lanes == 1 || columns.is_empty() {
        return Ok(vec![(0, batch.clone())]);
    }
    let lane_of = Route::lane_of(&batch.rows, columns, lanes).map_err(broken)?;
    let mut parts = Vec::with_capacity(lanes);
    for lane in 0..lanes {
        let rows: UInt32Array =
            lane_of.iter().enumerate().filter(|(_, l)| **l == lane).map(|(i, _)| i as u32).collect();
        if rows.is_empty() {
            continue;
        }
        let taken = take_record_batch(&batch.rows, &rows).map_err(broken)?;
        let weights = match &batch.weights {
            None => None,
            Some(weights) => Some(weights_at(weights, &rows).map_err(broken)?),
        };
        parts.push((lane, Batch { rows: taken, weights }));
    }
    Ok(parts)
}

fn weights_at(weights: &Int64Array, rows: &UInt32Array) -> Result<Int64Array, ArrowError> {
    let taken = take(weights, rows, None)?;
    Ok(taken.as_primitive::<Int64Type>().clone())
}
