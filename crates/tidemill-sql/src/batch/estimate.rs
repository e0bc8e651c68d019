//! What is known of a scan's size before it is read, for the planner's choice of which side of a join is held in memory.
//!
//! **Invariant:** nothing here is exact, so that no answer is ever taken from it.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion::common::Statistics;
use datafusion::common::stats::Precision;
use tidemill_runtime::Split;

/// About how many bytes a value of a type without fixed width has.
const OF_TEXT: usize = 16;

/// About how many rows the splits of a dataset with these columns have, and how large the wanted ones of them are, for
/// one of `parts` equal parts. Nothing is known when a split does not say its size.
pub(super) fn of_splits(splits: &[Split], stored: &Schema, wanted: &Schema, parts: usize) -> Arc<Statistics> {
    let mut about = Statistics::new_unknown(wanted);
    let bytes = splits.iter().map(|split| split.bytes).sum::<Option<u64>>();
    if let Some(bytes) = bytes.and_then(|bytes| usize::try_from(bytes).ok()) {
        let rows = bytes / width(stored).max(1) / parts.max(1);
        about.num_rows = Precision::Inexact(rows);
        about.total_byte_size = Precision::Inexact(rows.saturating_mul(width(wanted)));
    }
    Arc::new(about)
}

/// What is known of the rows of an input of which some are left out, in other columns.
pub(super) fn of_some(input: &Statistics, columns: &Schema) -> Arc<Statistics> {
    let mut about = Statistics::new_unknown(columns);
    about.num_rows = input.num_rows.to_inexact();
    about.total_byte_size = input.total_byte_size.to_inexact();
    Arc::new(about)
}

fn width(columns: &Schema) -> usize {
    let of = |data_type: &DataType| data_type.primitive_width().unwrap_or(OF_TEXT);
    columns.fields().iter().map(|field| of(field.data_type())).sum()
}
