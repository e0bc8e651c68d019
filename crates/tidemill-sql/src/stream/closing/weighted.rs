//! Rows that are held with their weights, where they may be taken back before their window closes.
//!
//! **Invariant:** rows that came and went cancel each other out; what is left does not depend on their order.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use tidemill_runtime::{Batch, WEIGHT};

/// The columns of rows and their weight.
pub(super) fn with_weight(schema: &Schema) -> SchemaRef {
    let weight = Arc::new(Field::new(WEIGHT, DataType::Int64, false));
    Arc::new(Schema::new(schema.fields().iter().cloned().chain([weight]).collect::<Vec<_>>()))
}

/// Whether rows of these columns have a weight.
pub(super) fn is_weighted(schema: &Schema) -> bool {
    schema.fields().last().is_some_and(|field| field.name() == WEIGHT)
}

/// The rows of a batch with their weights as the last column.
pub(super) fn weighted(batch: Batch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let weights: ArrayRef = match batch.weights {
        Some(weights) => Arc::new(weights),
        None => Arc::new(Int64Array::from_value(1, batch.rows.num_rows())),
    };
    let columns = batch.rows.columns().iter().cloned().chain([weights]).collect();
    RecordBatch::try_new(Arc::clone(schema), columns)
}

/// Each row once with the sum of its weights, unless that is zero.
pub(super) fn net(parts: &[RecordBatch], schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let all = concat_batches(schema, parts)?;
    let (weights, rows) = all.columns().split_last().ok_or_else(|| ArrowError::SchemaError("no weights".to_owned()))?;
    let fields = rows.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    let keys = RowConverter::new(fields)?.convert_columns(rows)?;
    let mut sums: HashMap<&[u8], (u32, i64)> = HashMap::with_capacity(all.num_rows());
    for ((row, number), weight) in keys.iter().zip(0_u32..).zip(weights.as_primitive::<Int64Type>().values()) {
        sums.entry(row.data()).or_insert((number, 0)).1 += weight;
    }
    let mut left: Vec<(u32, i64)> = sums.into_values().filter(|(_, weight)| *weight != 0).collect();
    left.sort_unstable();
    let (numbers, weights): (Vec<u32>, Vec<i64>) = left.into_iter().unzip();
    let mut columns = take_record_batch(&all, &UInt32Array::from(numbers))?.columns().to_vec();
    columns.pop();
    columns.push(Arc::new(Int64Array::from(weights)));
    RecordBatch::try_new(Arc::clone(schema), columns)
}

/// The rows that stand, each as often as the sum of its weights, without the column of weights.
pub(super) fn standing(parts: &[RecordBatch], schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let net = net(parts, schema)?;
    let last = net.num_columns() - 1;
    let weights = net.column(last).as_primitive::<Int64Type>().values();
    let times = |weight: &i64| usize::try_from(*weight).unwrap_or(0);
    let repeated = (0_u32..).zip(weights).flat_map(|(row, weight)| std::iter::repeat_n(row, times(weight)));
    let rows = take_record_batch(&net, &UInt32Array::from_iter_values(repeated))?;
    let plain = Arc::new(Schema::new(schema.fields().iter().take(last).cloned().collect::<Vec<_>>()));
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(plain, rows.columns().iter().take(last).cloned().collect(), &options)
}
