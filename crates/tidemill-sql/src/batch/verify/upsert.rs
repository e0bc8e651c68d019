//! [`winners`]: of the versions of each key the one that an upsert keeps.
//!
//! **Invariant:** as every sink chooses: the greatest by `sequence`, then by the remaining columns in the order of their
//! names, NULL being the greatest. Neither arrival nor the order of runs matters.

use std::collections::HashMap;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{SortOptions, take_record_batch};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};

/// The rows that stand when all of these were upserted by a key.
pub(super) fn winners(rows: &RecordBatch, key: &[usize], sequence: Option<usize>) -> Result<RecordBatch, ArrowError> {
    let schema = rows.schema();
    let mut rest: Vec<usize> = (0..schema.fields().len())
        .filter(|at| !key.contains(at) && Some(*at) != sequence)
        .filter(|&at| RowConverter::supports_fields(&[SortField::new(schema.field(at).data_type().clone())]))
        .collect();
    rest.sort_by(|&a, &b| schema.field(a).name().cmp(schema.field(b).name()));
    let order: Vec<usize> = sequence.into_iter().chain(rest).collect();
    let (keys, order) = (sorted(rows, key)?, sorted(rows, &order)?);
    let mut standing: HashMap<&[u8], usize> = HashMap::new();
    for row in 0..rows.num_rows() {
        let key = keys.as_ref().map_or(&[][..], |keys| keys.row(row).data());
        let kept = standing.entry(key).or_insert(row);
        if order.as_ref().is_some_and(|order| order.row(row) > order.row(*kept)) {
            *kept = row;
        }
    }
    let mut kept: Vec<u32> = standing.into_values().filter_map(|row| u32::try_from(row).ok()).collect();
    kept.sort_unstable();
    take_record_batch(rows, &UInt32Array::from(kept))
}

fn sorted(rows: &RecordBatch, columns: &[usize]) -> Result<Option<Rows>, ArrowError> {
    if columns.is_empty() {
        return Ok(None);
    }
    let options = SortOptions { descending: false, nulls_first: false };
    let arrays: Vec<_> = columns.iter().map(|at| std::sync::Arc::clone(rows.column(*at))).collect();
    let fields = arrays.iter().map(|a| SortField::new_with_options(a.data_type().clone(), options)).collect();
    RowConverter::new(fields)?.convert_columns(&arrays).map(Some)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn the_greatest_version_of_a_key_stands() {
        let column = |values: &[Option<i64>]| Arc::new(Int64Array::from(values.to_vec())) as ArrayRef;
        let rows = RecordBatch::try_from_iter([
            ("id", column(&[Some(1), Some(1), Some(2), Some(2), Some(3)])),
            ("at", column(&[Some(20), Some(10), Some(5), Some(5), None])),
            ("v", column(&[Some(1), Some(9), Some(3), None, Some(4)])),
        ])
        .expect("rows");
        let kept = winners(&rows, &[0], Some(1)).expect("winners");
        let values: Vec<Option<i64>> = kept.column(2).as_primitive::<Int64Type>().iter().collect();
        assert_eq!(values, [Some(1), None, Some(4)]);
    }
}
