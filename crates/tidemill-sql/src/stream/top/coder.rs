//! [`Coder`]: rows as two strings of bytes, key and rest, whose order is that of the rows.
//!
//! **Invariant:** the bytes of a row are those of its columns after each other, so a key and a rest make a row.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::compute::cast;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, RowParser, Rows, SortField};
use tidemill_runtime::Batch;

use super::TopSpec;

/// Changes are given out in batches of about so many rows.
const ROWS: usize = 8_192;

/// See the module.
pub(super) struct Coder {
    spec: Arc<TopSpec>,
    keys: RowConverter,
    rests: RowConverter,
    key_parser: RowParser,
    rest_parser: RowParser,
}

/// Rows as bytes; there may be no column.
pub(super) struct Bytes(Option<Rows>);

impl Bytes {
    pub(super) fn row(&self, row: usize) -> &[u8] {
        self.0.as_ref().map_or(&[], |rows| rows.row(row).data())
    }
}

/// A row that is given out: its key, its rest, and its number in the key, from 0.
pub(super) type Chosen<'a> = (&'a [u8], &'a [u8], usize);

impl Coder {
    pub(super) fn new(spec: &Arc<TopSpec>) -> Result<Coder, ArrowError> {
        let (of_keys, of_rest) = spec.schema.fields().split_at(spec.keys);
        let keys = of_keys.iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let rests = of_rest.iter().zip(spec.orders());
        let rests = rests.map(|(field, order)| SortField::new_with_options(field.data_type().clone(), order)).collect();
        let (keys, rests) = (RowConverter::new(keys)?, RowConverter::new(rests)?);
        let (key_parser, rest_parser) = (keys.parser(), rests.parser());
        Ok(Coder { spec: Arc::clone(spec), keys, rests, key_parser, rest_parser })
    }

    /// The keys and the rests of rows.
    pub(super) fn encode(&self, rows: &RecordBatch) -> Result<(Bytes, Bytes), ArrowError> {
        let (keys, rests) = rows.columns().split_at(self.spec.keys);
        let encode = |converter: &RowConverter, columns: &[ArrayRef]| match columns {
            [] => Ok(Bytes(None)),
            columns => converter.convert_columns(columns).map(|rows| Bytes(Some(rows))),
        };
        Ok((encode(&self.keys, keys)?, encode(&self.rests, rests)?))
    }

    /// What changed, as batches: rows that go, then rows that come.
    pub(super) fn changes(&self, gone: &[Chosen<'_>], come: &[Chosen<'_>]) -> Result<Vec<Batch>, ArrowError> {
        let mut batches = Vec::new();
        for (rows, weight) in [(gone, -1), (come, 1)] {
            for some in rows.chunks(ROWS) {
                let weights = Some(Int64Array::from_value(weight, some.len()));
                batches.push(Batch { rows: self.result(some)?, weights });
            }
        }
        Ok(batches)
    }

    fn result(&self, rows: &[Chosen<'_>]) -> Result<RecordBatch, ArrowError> {
        let spec = &self.spec;
        let mut columns = match spec.keys {
            0 => Vec::new(),
            _ => self.keys.convert_rows(rows.iter().map(|(key, ..)| self.key_parser.parse(key)))?,
        };
        if spec.schema.fields().len() > spec.keys {
            columns.extend(self.rests.convert_rows(rows.iter().map(|(_, rest, _)| self.rest_parser.parse(rest)))?);
        }
        let outputs = spec.outputs.iter().zip(spec.result.fields()).map(|(output, field)| match output {
            Some(at) => cast(&columns[*at], field.data_type()),
            None => {
                let numbers = UInt64Array::from_iter_values(rows.iter().map(|(.., number)| *number as u64 + 1));
                cast(&numbers, field.data_type())
            }
        });
        let outputs = outputs.collect::<Result<Vec<_>, ArrowError>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        RecordBatch::try_new_with_options(Arc::clone(&spec.result), outputs, &options)
    }
}

/// The numbers of the rows that go and of those that come, when these rests, both in order, are the first of a key before
/// and after. `numbered` is true where a row with another number is another row.
pub(super) fn difference<T: AsRef<[u8]>, U: AsRef<[u8]>>(
    before: &[T],
    after: &[U],
    numbered: bool,
) -> (Vec<usize>, Vec<usize>) {
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (0, 0);
    loop {
        let ordering = match (before.get(old), after.get(new)) {
            (None, None) => return (gone, come),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => one.as_ref().cmp(other.as_ref()),
        };
        match ordering {
            Ordering::Less => {
                gone.push(old);
                old += 1;
            }
            Ordering::Greater => {
                come.push(new);
                new += 1;
            }
            Ordering::Equal => {
                if numbered && old != new {
                    gone.push(old);
                    come.push(new);
                }
                old += 1;
                new += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_another_row_is_a_change() {
        type Case = (&'static [&'static str], &'static [&'static str], bool, &'static [usize], &'static [usize]);
        let cases: [Case; 6] = [
            (&[], &["b"], false, &[], &[0]),
            (&["b"], &["a"], false, &[0], &[0]),
            (&["b", "c"], &["a", "b"], false, &[1], &[0]),
            (&["b", "c"], &["a", "b"], true, &[0, 1], &[0, 1]),
            (&["a", "a"], &["a"], false, &[1], &[]),
            (&["a", "b"], &["a", "b"], true, &[], &[]),
        ];
        for (before, after, numbered, gone, come) in cases {
            let found = difference(before, after, numbered);
            assert_eq!((found.0.as_slice(), found.1.as_slice()), (gone, come), "{before:?} to {after:?}");
        }
    }
}
