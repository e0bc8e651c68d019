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

fn width(columns: &Schema) -> usize {
    let of = |data_type: &DataType| data_type.primitive_width().unwrap_or(OF_TEXT);
    columns.fields().iter().map(|field| of(field.data_type())).sum()
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;
    use tidemill_model::SplitId;

    use super::*;

    #[test]
    fn a_scan_is_as_large_as_its_files_and_nothing_is_known_of_one_that_does_not_say() {
        let field = |name: &str, data_type| Field::new(name, data_type, true);
        let stored = Schema::new(vec![field("id", DataType::Int64), field("name", DataType::Utf8)]);
        let wanted = Schema::new(vec![field("id", DataType::Int64)]);
        let split = |bytes| Split {
            id: SplitId::new("s"),
            finite: true,
            min_event_time: None,
            max_event_time: None,
            bytes,
            content: None,
        };
        let of = |bytes: &[Option<u64>], parts| {
            let splits: Vec<Split> = bytes.iter().map(|bytes| split(*bytes)).collect();
            let about = of_splits(&splits, &stored, &wanted, parts);
            (about.num_rows, about.total_byte_size)
        };
        let about = |rows, bytes| (Precision::Inexact(rows), Precision::Inexact(bytes));
        assert_eq!(of(&[Some(2_400), Some(2_400)], 1), about(200, 1_600));
        assert_eq!(of(&[Some(2_400), Some(2_400)], 2), about(100, 800));
        assert_eq!(of(&[Some(2_400), None], 1), (Precision::Absent, Precision::Absent));
        assert_eq!(of(&[], 1), about(0, 0));
    }
}
