//! Which lane a row belongs to.
//!
//! **Invariant:** a key has the same lane in every run and every version, as restored state is divided by it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};

use crate::Route;

impl Route {
    /// The lane of each row: a stable hash of the key columns modulo `lanes`. The same in every run and version, as
    /// restored state is divided by it.
    ///
    /// # Errors
    /// When a key column's type has no row format.
    pub fn lane_of(batch: &RecordBatch, columns: &[usize], lanes: usize) -> Result<Vec<usize>, ArrowError> {
        if columns.is_empty() || lanes == 1 {
            return Ok(vec![0; batch.num_rows()]);
        }
        let lane = |hash: u64| (hash % lanes as u64) as usize;
        let arrays: Vec<ArrayRef> = columns.iter().map(|&c| Arc::clone(batch.column(c))).collect();
        if let [one] = arrays.as_slice()
            && let Some(numbers) = one.as_primitive_opt::<Int64Type>().filter(|numbers| numbers.null_count() == 0)
        {
            return Ok(numbers.values().iter().map(|number| lane(hash_of_number(*number))).collect());
        }
        let fields = arrays.iter().map(|a| SortField::new(a.data_type().clone())).collect();
        let rows = RowConverter::new(fields)?.convert_columns(&arrays)?;
        Ok(rows.iter().map(|row| lane(stable_hash(row.as_ref()))).collect())
    }
}

/// FNV-1a with a final mix; part of the state format.
fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (hash >> 29)
}

/// The hash of a number that is a whole key, without its row being made: the row has a byte for a value that is there, and
/// the number in an order that bytes compare by.
fn hash_of_number(number: i64) -> u64 {
    let mut row = [1; 9];
    row[1..].copy_from_slice(&(number ^ i64::MIN).to_be_bytes());
    stable_hash(&row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;

    #[test]
    fn a_number_has_the_lane_of_its_row() {
        let mixed = |i: i64| i.wrapping_mul(-7_046_029_254_386_353_131) >> (i % 64);
        let mut numbers: Vec<i64> = (0..500).map(mixed).collect();
        numbers.extend([0, -1, i64::MIN, i64::MAX]);
        let whole = Int64Array::from(numbers);
        let with_null: Int64Array = whole.iter().chain([None]).collect();
        for lanes in [2, 3, 8] {
            let lanes_of = |column: &Int64Array| {
                let batch = RecordBatch::try_from_iter([("k", Arc::new(column.clone()) as ArrayRef)]).expect("a batch");
                Route::lane_of(&batch, &[0], lanes).expect("lanes")
            };
            assert_eq!(lanes_of(&whole), lanes_of(&with_null)[..whole.len()]);
        }
    }
}
