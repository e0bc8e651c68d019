//! [`Changes`]: the staged rows of an epoch reduced to one change for each key.
//!
//! **Invariant:** the result is a function of the multiset of staged rows; neither lanes, nor batch cuts, nor order of
//! arrival can be seen in it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Int64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use tidemill_model::{Error, Result};

use crate::sink::WEIGHT;

/// What a change does to the row of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The row is written unless the stored one is as great or greater.
    Greatest,
    /// The row is written whatever is stored.
    Always,
    /// The stored row is taken away.
    Delete,
}

/// One change for each key.
#[derive(Debug)]
pub(crate) struct Changes {
    /// A row for each change, without the weight.
    pub(crate) rows: RecordBatch,
    /// What is done with it.
    pub(crate) kinds: Vec<Change>,
}

/// Order of rows as bytes: ascending, NULLS LAST, so that greater bytes are greater rows and NULL is the greatest.
pub(crate) fn converter(schema: &Schema, columns: &[usize]) -> Result<RowConverter> {
    let options = arrow::compute::SortOptions { descending: false, nulls_first: false };
    let fields =
        columns.iter().map(|&at| SortField::new_with_options(schema.field(at).data_type().clone(), options)).collect();
    RowConverter::new(fields).map_err(internal)
}

/// The selected columns as comparable rows.
pub(crate) fn comparable(converter: &RowConverter, columns: &[ArrayRef], select: &[usize]) -> Result<Rows> {
    let selected: Vec<ArrayRef> = select.iter().filter_map(|&at| columns.get(at)).map(Arc::clone).collect();
    converter.convert_columns(&selected).map_err(internal)
}

/// The positions that rows of one key are ordered by: the sequence, then the remaining columns in name order.
/// Columns of types that have no order (maps) do not take part.
pub(crate) fn order_of(schema: &Schema, key: &[usize], sequence: Option<usize>) -> Vec<usize> {
    let mut rest: Vec<usize> = (0..schema.fields().len())
        .filter(|at| !key.contains(at) && Some(*at) != sequence && schema.field(*at).name() != WEIGHT)
        .filter(|&at| RowConverter::supports_fields(&[SortField::new(schema.field(at).data_type().clone())]))
        .collect();
    rest.sort_by(|&a, &b| schema.field(a).name().cmp(schema.field(b).name()));
    sequence.into_iter().chain(rest).collect()
}

/// Reduces staged rows (with their weights as last column) to one change for each key.
///
/// # Errors
/// Internal: the rows do not have the staged columns.
pub(crate) fn latest(
    staged: &SchemaRef,
    batches: &[RecordBatch],
    key: &[usize],
    sequence: Option<usize>,
) -> Result<Changes> {
    let all = concat_batches(staged, batches).map_err(internal)?;
    let last = all.num_columns().saturating_sub(1);
    let weights = all
        .column(last)
        .as_primitive_opt::<Int64Type>()
        .ok_or_else(|| Error::internal("staged changes without weights"))?
        .values()
        .clone();
    let keys = comparable(&converter(staged, key)?, all.columns(), key)?;

    let mut groups: HashMap<&[u8], usize> = HashMap::with_capacity(all.num_rows());
    let mut first: Vec<u32> = Vec::with_capacity(all.num_rows());
    let mut others: HashMap<usize, Vec<u32>> = HashMap::new();
    for (row, bytes) in keys.iter().enumerate() {
        let row = row as u32;
        match groups.entry(bytes.data()) {
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(first.len());
                first.push(row);
            }
            std::collections::hash_map::Entry::Occupied(slot) => others.entry(*slot.get()).or_default().push(row),
        }
    }

    let usual = if sequence.is_some() { Change::Greatest } else { Change::Always };
    let order = order_of(staged, key, sequence);
    let order =
        if others.is_empty() { None } else { Some(comparable(&converter(staged, &order)?, all.columns(), &order)?) };
    let mut kept = Vec::with_capacity(first.len());
    let mut kinds = Vec::with_capacity(first.len());
    for (group, &row) in first.iter().enumerate() {
        let decided = match (others.get(&group), &order) {
            (Some(more), Some(order)) => {
                let mut rows = more.clone();
                rows.push(row);
                decide(rows, order, &weights, usual)
            }
            _ => match weights.get(row as usize).copied().unwrap_or_default() {
                0 => None,
                weight if weight > 0 => Some((row, usual)),
                _ => Some((row, Change::Delete)),
            },
        };
        if let Some((row, kind)) = decided {
            kept.push(row);
            kinds.push(kind);
        }
    }
    let columns: Vec<usize> = (0..last).collect();
    let rows = all.project(&columns).and_then(|rows| take_record_batch(&rows, &UInt32Array::from(kept)));
    Ok(Changes { rows: rows.map_err(internal)?, kinds })
}

/// The change that rows of one key amount to. A retraction tells what was stored, so what comes with it does not
/// compete with the stored row.
fn decide(mut rows: Vec<u32>, order: &Rows, weights: &[i64], usual: Change) -> Option<(u32, Change)> {
    rows.sort_unstable_by(|&a, &b| order.row(b as usize).cmp(&order.row(a as usize)));
    let (mut added, mut taken) = (None, None);
    for equal in rows.chunk_by(|&a, &b| order.row(a as usize) == order.row(b as usize)) {
        let sum: i64 = equal.iter().filter_map(|&row| weights.get(row as usize)).sum();
        let row = equal.first().copied();
        match sum {
            0 => {}
            sum if sum > 0 => added = added.or(row),
            _ => taken = taken.or(row),
        }
    }
    match (added, taken) {
        (Some(row), None) => Some((row, usual)),
        (Some(row), Some(_)) => Some((row, Change::Always)),
        (None, Some(row)) => Some((row, Change::Delete)),
        (None, None) => None,
    }
}

pub(crate) fn internal(error: arrow::error::ArrowError) -> Error {
    Error::internal(format!("rows of a commit: {error}")).because(error)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field};

    use super::*;

    /// Rows of (key, sequence, text, weight) and what remains of them, sorted.
    fn check(rows: &[(i64, Option<i64>, &str, i64)], sequence: bool, expected: &[(i64, &str, Change)]) {
        let schema: SchemaRef = Arc::new(Schema::new(vec![
            Field::new("k", DataType::Int64, false),
            Field::new("s", DataType::Int64, true),
            Field::new("t", DataType::Utf8, true),
            Field::new(WEIGHT, DataType::Int64, false),
        ]));
        for reversed in [false, true] {
            let mut rows = rows.to_vec();
            if reversed {
                rows.reverse();
            }
            let batches: Vec<RecordBatch> = rows
                .iter()
                .map(|&(k, s, t, w)| {
                    RecordBatch::try_new(
                        Arc::clone(&schema),
                        vec![
                            Arc::new(Int64Array::from(vec![k])),
                            Arc::new(Int64Array::from(vec![s])),
                            Arc::new(StringArray::from(vec![t])),
                            Arc::new(Int64Array::from(vec![w])),
                        ],
                    )
                    .expect("a batch")
                })
                .collect();
            let changes = latest(&schema, &batches, &[0], sequence.then_some(1)).expect("reduces");
            let mut found: Vec<(i64, String, Change)> = (0..changes.rows.num_rows())
                .map(|row| {
                    (
                        changes.rows.column(0).as_primitive::<Int64Type>().value(row),
                        changes.rows.column(2).as_string::<i32>().value(row).to_owned(),
                        changes.kinds[row],
                    )
                })
                .collect();
            found.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
            let expected: Vec<_> = expected.iter().map(|&(k, t, c)| (k, t.to_owned(), c)).collect();
            assert_eq!(found, expected, "reversed: {reversed}");
        }
    }

    #[test]
    fn the_greatest_by_sequence_then_by_the_rest_remains() {
        check(
            &[(1, Some(5), "a", 1), (1, Some(7), "b", 1), (1, Some(7), "c", 1), (2, Some(1), "z", 1)],
            true,
            &[(1, "c", Change::Greatest), (2, "z", Change::Greatest)],
        );
    }

    #[test]
    fn a_missing_sequence_is_the_greatest() {
        check(&[(1, None, "a", 1), (1, Some(7), "b", 1)], true, &[(1, "a", Change::Greatest)]);
    }

    #[test]
    fn retractions_cancel_delete_and_update() {
        check(&[(1, Some(1), "old", -1), (1, Some(1), "new", 1)], false, &[(1, "new", Change::Always)]);
        check(&[(1, Some(1), "z-old", -1), (1, Some(1), "new", 1)], true, &[(1, "new", Change::Always)]);
        check(&[(1, Some(1), "gone", -1)], false, &[(1, "gone", Change::Delete)]);
        check(&[(1, Some(1), "same", -1), (1, Some(1), "same", 1)], false, &[]);
    }
}
