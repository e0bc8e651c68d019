//! Aggregates with an inverse: states of rows that are taken back are subtracted by adding their negatives.
//!
//! **Invariant:** only totals and counts that are exact are subtracted; floating-point sums never are, since they would
//! not come back to what they were.

use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::kernels::numeric::neg_wrapping;
use arrow::compute::take_record_batch;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use datafusion::common::Result;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use tidemill_runtime::Batch;

/// Whether the state of an aggregate can be subtracted.
pub(in crate::stream) fn is_linear(function: &AggregateFunctionExpr) -> Result<bool> {
    if function.is_distinct() {
        return Ok(false);
    }
    let exact = matches!(function.fun().name(), "count" | "sum" | "avg");
    let negatable = |data_type: &DataType| {
        matches!(data_type, DataType::Int64 | DataType::Decimal128(_, _) | DataType::Decimal256(_, _))
    };
    Ok(exact && function.state_fields()?.iter().all(|field| negatable(field.data_type())))
}

/// The states of rows that are taken back, to be added.
pub(in crate::stream) fn negative(states: &[ArrayRef]) -> Result<Vec<ArrayRef>, ArrowError> {
    states.iter().map(|state| neg_wrapping(state)).collect()
}

/// The inserted and the retracted rows of a batch, each as often as its weight says.
pub(in crate::stream) fn by_sign(batch: Batch) -> Result<[Option<RecordBatch>; 2], ArrowError> {
    let Some(weights) = &batch.weights else { return Ok([Some(batch.rows), None]) };
    if weights.values().iter().all(|weight| *weight == 1) {
        return Ok([Some(batch.rows), None]);
    }
    let part = |sign: i64| -> Result<_, ArrowError> {
        let taken = repeated(weights, sign);
        if taken.is_empty() { Ok(None) } else { take_record_batch(&batch.rows, &UInt32Array::from(taken)).map(Some) }
    };
    Ok([part(1)?, part(-1)?])
}

/// The rows of one sign, each as often as its weight.
fn repeated(weights: &Int64Array, sign: i64) -> Vec<u32> {
    let times = |weight: &i64| usize::try_from(weight * sign).unwrap_or(0);
    let rows = (0_u32..).zip(weights.values());
    rows.flat_map(|(row, weight)| std::iter::repeat_n(row, times(weight))).collect()
}

/// Weights of so many rows.
pub(super) fn weights(weight: i64, rows: usize) -> Option<Int64Array> {
    (weight != 1).then(|| Int64Array::from_value(weight, rows))
}
