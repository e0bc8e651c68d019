//! [`standing_rows`]: the rows of a materialized view from the chunks that its operator stored.
//!
//! A chunk has the view's columns, then [`WEIGHT`], how often the row stands, then [`GONE`]. Chunks are named
//! `lane/log.parts.group.sequence`; in each log the last chunk that tells of a row is right.
//!
//! **Invariant:** a row is told of by one log only, as its lane and group follow from its columns.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{OwnedRow, RowConverter, SortField};
use tidemill_model::{Error, Kind, Result};

/// The column of a view's chunk that says how often a row stands.
pub const WEIGHT: &str = "__weight";
/// The column of a chunk that says that its row is gone.
pub const GONE: &str = "__gone";

/// The rows that stand, each as often as its weight.
///
/// # Errors
/// Corrupt, when a chunk is none of a view.
pub fn standing_rows<'a>(chunks: impl IntoIterator<Item = (&'a str, &'a RecordBatch)>) -> Result<Vec<RecordBatch>> {
    let mut logs: BTreeMap<&str, Vec<(&str, &RecordBatch)>> = BTreeMap::new();
    for (name, rows) in chunks {
        let (log, sequence) = name.rsplit_once('.').unwrap_or((name, ""));
        logs.entry(log).or_default().push((sequence, rows));
    }
    let mut standing = Vec::with_capacity(logs.len());
    for (log, mut chunks) in logs {
        chunks.sort_by_key(|(sequence, _)| *sequence);
        let rows: Vec<&RecordBatch> = chunks.into_iter().map(|(_, rows)| rows).collect();
        let read = match rows.as_slice() {
            [whole] => every(whole).map(|rows| vec![rows]),
            several => newest(several),
        };
        standing.extend(read.map_err(|e| {
            Error::new(Kind::Corrupt, "X036", format!("the stored rows `{log}` of a view are not readable: {e}"))
                .fact("they were written by another version; rebuild the view by replaying the pipeline from its start")
        })?);
    }
    Ok(standing)
}

/// The columns of a view out of those of its chunks.
fn plain(schema: &Schema) -> Result<SchemaRef, ArrowError> {
    match schema.fields().as_ref() {
        [columns @ .., weight, gone] if weight.name() == WEIGHT && gone.name() == GONE => {
            Ok(Arc::new(Schema::new(columns.to_vec())))
        }
        _ => Err(ArrowError::SchemaError("it has other columns".to_owned())),
    }
}

/// How often each row stands.
fn weights(rows: &RecordBatch) -> impl Iterator<Item = usize> {
    let columns = rows.columns();
    let weight = columns[columns.len() - 2].as_primitive::<Int64Type>();
    let gone = columns[columns.len() - 1].as_boolean();
    (0..rows.num_rows()).map(move |row| match gone.value(row) || weight.is_null(row) {
        true => 0,
        false => usize::try_from(weight.value(row)).unwrap_or(0),
    })
}

fn view_columns(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = rows.columns()[..schema.fields().len()].to_vec();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

fn some(rows: &RecordBatch, wanted: &[(u32, usize)]) -> Result<RecordBatch, ArrowError> {
    if wanted.len() == rows.num_rows() && wanted.iter().all(|(_, times)| *times == 1) {
        return Ok(rows.clone());
    }
    let taken = wanted.iter().flat_map(|(row, times)| std::iter::repeat_n(*row, *times));
    take_record_batch(rows, &UInt32Array::from_iter_values(taken))
}

/// The rows of a log that is one chunk.
fn every(chunk: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let rows = view_columns(chunk, &plain(&chunk.schema())?)?;
    let wanted: Vec<(u32, usize)> = (0_u32..).zip(weights(chunk)).collect();
    some(&rows, &wanted)
}

/// The rows of a log of several chunks, in the order in which they were stored.
fn newest(chunks: &[&RecordBatch]) -> Result<Vec<RecordBatch>, ArrowError> {
    let schema = plain(&chunks[0].schema())?;
    let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
    let converter = RowConverter::new(fields)?;
    let mut last: HashMap<OwnedRow, usize> = HashMap::new();
    let mut wanted: Vec<Vec<(u32, usize)>> = vec![Vec::new(); chunks.len()];
    // From the newest on: what a row is told first of is right.
    for (number, chunk) in chunks.iter().enumerate().rev() {
        if plain(&chunk.schema())?.fields() != schema.fields() {
            return Err(ArrowError::SchemaError("its chunks have other columns than each other".to_owned()));
        }
        let rows = converter.convert_columns(&chunk.columns()[..schema.fields().len()])?;
        for ((row, at), times) in rows.iter().zip(0_u32..).zip(weights(chunk)) {
            if last.insert(row.owned(), number).is_none() && times > 0 {
                wanted[number].push((at, times));
            }
        }
    }
    let parts = chunks.iter().zip(wanted).filter(|(_, wanted)| !wanted.is_empty());
    parts.map(|(chunk, wanted)| some(&view_columns(chunk, &schema)?, &wanted)).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, BooleanArray, Int64Array};

    use super::*;

    fn chunk(rows: &[(i64, i64)]) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)));
        let weights: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)));
        let gone: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.1 == 0)).collect::<BooleanArray>());
        RecordBatch::try_from_iter([("n", numbers), (WEIGHT, weights), (GONE, gone)]).expect("a chunk")
    }

    fn standing(chunks: &[(&str, &[(i64, i64)])]) -> Vec<i64> {
        let chunks: Vec<(String, RecordBatch)> =
            chunks.iter().map(|(name, rows)| ((*name).to_owned(), chunk(rows))).collect();
        let rows = standing_rows(chunks.iter().map(|(name, rows)| (name.as_str(), rows))).expect("rows");
        let mut numbers: Vec<i64> =
            rows.iter().flat_map(|rows| rows.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        numbers.sort_unstable();
        numbers
    }

    #[test]
    fn the_last_chunk_that_tells_of_a_row_is_right() {
        assert_eq!(standing(&[("0/all.1.0.1", &[(1, 1), (2, 2)])]), [1, 2, 2]);
        let first = ("0/all.1.0.09", [(1, 1), (2, 1), (3, 1)].as_slice());
        let second = ("0/all.1.0.10", [(2, 0), (3, 3), (4, 1)].as_slice());
        assert_eq!(standing(&[second, first]), [1, 3, 3, 3, 4]);
        assert_eq!(standing(&[first, second, ("1/all.1.0.01", &[(9, 1)])]), [1, 3, 3, 3, 4, 9]);
    }

    #[test]
    fn a_chunk_of_something_else_is_told() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let rows = RecordBatch::try_from_iter([("n", numbers)]).expect("rows");
        let error = standing_rows([("0/all.1.0.1", &rows)]).expect_err("no view");
        assert!(error.to_string().contains("other columns"), "{error}");
    }
}
