//! [`compare`]: two answers to one query as multisets, with what differs told by key.
//!
//! **Invariant:** a row is counted once: as equal, as differing from a row of the same key, or as there on one side only.
//! Exact values are compared exactly, floats to a billionth, approximations to two hundredths.

use std::cmp::Ordering;
use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::classes::Class;

/// How far floats may differ, relatively: sums of floats depend on their order.
const ROUNDED: f64 = 1e-9;
/// How far approximations may differ, relatively.
const APPROXIMATE: f64 = 0.02;
/// How many differences are shown.
pub(super) const SHOWN: usize = 20;

/// Two sets of rows with the same columns.
pub(super) struct Sides<'a> {
    /// What is stored.
    pub(super) stored: &'a RecordBatch,
    /// What was computed anew.
    pub(super) recomputed: &'a RecordBatch,
    /// The columns that tell rows apart; none when all rows have one key.
    pub(super) key: &'a [usize],
    /// What each column is worth.
    pub(super) classes: &'a [Class],
}

/// What came of a comparison, in rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Differences {
    /// Rows that both sides have.
    pub equal: u64,
    /// Rows that both sides have under one key with other values.
    pub differ: u64,
    /// Rows that only the stream has.
    pub only_stream: u64,
    /// Rows that only the recomputation has.
    pub only_recomputed: u64,
    /// The first of them, in the order of their keys.
    pub shown: Vec<Difference>,
}

impl Differences {
    /// How many rows are not equal.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.differ + self.only_stream + self.only_recomputed
    }
}

/// Which side has a row that is not equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Both, with other values.
    Both,
    /// The stream's alone.
    Stream,
    /// The recomputation's alone.
    Recomputed,
}

/// One row that is not equal on both sides.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Which side has it.
    pub side: Side,
    /// The columns that tell it apart, with their values as text; `None` is NULL.
    pub key: Vec<(String, Option<String>)>,
    /// Other columns, those that differ when both sides have the row: name, the stream's value, the recomputed one.
    pub values: Vec<(String, Option<String>, Option<String>)>,
}

/// The rows with these columns: the same values in the types that the other side has.
pub(super) fn fitted(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let options = CastOptions { safe: false, format_options: FormatOptions::default() };
    let columns = rows.columns().iter().zip(schema.fields()).map(|(column, field)| {
        if column.data_type() == field.data_type() {
            return Ok(std::sync::Arc::clone(column));
        }
        cast_with_options(column, field.data_type(), &options)
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(std::sync::Arc::clone(schema), columns, &options)
}

/// Compares the sides; both have the same columns.
pub(super) fn compare(sides: &Sides<'_>) -> Result<Differences, ArrowError> {
    let schema = sides.recomputed.schema();
    let is_number = |at: usize| {
        let data_type = schema.field(at).data_type();
        data_type.is_floating() || sides.classes[at] > Class::Exact && data_type.is_numeric()
    };
    let others: Vec<usize> = (0..schema.fields().len())
        .filter(|at| !sides.key.contains(at) && sides.classes[*at] != Class::Volatile)
        .collect();
    let (numbers, exact): (Vec<usize>, Vec<usize>) = others.iter().copied().partition(|at| is_number(*at));
    let tolerances: Vec<f64> =
        numbers.iter().map(|at| if sides.classes[*at] == Class::Approximate { APPROXIMATE } else { ROUNDED }).collect();
    let stored = Table::of(sides.stored, sides.key, &exact, &numbers)?;
    let recomputed = Table::of(sides.recomputed, sides.key, &exact, &numbers)?;

    let mut groups: HashMap<&[u8], (Vec<usize>, Vec<usize>)> = HashMap::new();
    for row in 0..sides.stored.num_rows() {
        groups.entry(stored.keys.row(row)).or_default().0.push(row);
    }
    for row in 0..sides.recomputed.num_rows() {
        groups.entry(recomputed.keys.row(row)).or_default().1.push(row);
    }
    let mut found = Differences::default();
    let mut unequal = Vec::new();
    for (key, (mut mine, mut theirs)) in groups {
        found.equal += matched(&mut mine, &mut theirs, &stored, &recomputed, &tolerances);
        if !mine.is_empty() || !theirs.is_empty() {
            unequal.push((key, mine, theirs));
        }
    }
    unequal.sort_by(|a, b| a.0.cmp(b.0));
    let shower = Shower { sides, others: &others, tolerances: (&numbers, &tolerances) };
    for (_, mine, theirs) in unequal {
        let both = mine.len().min(theirs.len());
        found.differ += both as u64;
        found.only_stream += (mine.len() - both) as u64;
        found.only_recomputed += (theirs.len() - both) as u64;
        for at in 0..mine.len().max(theirs.len()) {
            if found.shown.len() < SHOWN {
                found.shown.push(shower.show(mine.get(at).copied(), theirs.get(at).copied())?);
            }
        }
    }
    Ok(found)
}

/// Takes the rows that are equal out of both lists and answers how many pairs there were.
fn matched(
    mine: &mut Vec<usize>,
    theirs: &mut Vec<usize>,
    stored: &Table,
    recomputed: &Table,
    tolerances: &[f64],
) -> u64 {
    mine.sort_by(|a, b| stored.order(*a, stored, *b));
    theirs.sort_by(|a, b| recomputed.order(*a, recomputed, *b));
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let (mut m, mut t) = (mine.iter().copied().peekable(), theirs.iter().copied().peekable());
    let mut equal = 0;
    loop {
        match (m.peek(), t.peek()) {
            (None, None) => break,
            (Some(&a), Some(&b)) if stored.same(a, recomputed, b, tolerances) => {
                equal += 1;
                m.next();
                t.next();
            }
            (Some(&a), Some(&b)) if stored.order(a, recomputed, b) == Ordering::Less => left.extend(m.next()),
            (Some(_), None) => left.extend(m.next()),
            _ => right.extend(t.next()),
        }
    }
    (*mine, *theirs) = (left, right);
    equal
}

/// One side, ready to be compared.
struct Table {
    keys: Bytes,
    exact: Bytes,
    numbers: Vec<Float64Array>,
}

impl Table {
    fn of(rows: &RecordBatch, key: &[usize], exact: &[usize], numbers: &[usize]) -> Result<Table, ArrowError> {
        let number = |at: &usize| {
            let column = arrow::compute::cast(rows.column(*at), &DataType::Float64)?;
            Ok(column.as_primitive::<Float64Type>().clone())
        };
        Ok(Table {
            keys: Bytes::of(rows, key)?,
            exact: Bytes::of(rows, exact)?,
            numbers: numbers.iter().map(number).collect::<Result<_, ArrowError>>()?,
        })
    }

    fn order(&self, row: usize, other: &Table, of_other: usize) -> Ordering {
        let exact = self.exact.row(row).cmp(other.exact.row(of_other));
        self.numbers.iter().zip(&other.numbers).fold(exact, |so_far, (a, b)| {
            so_far.then_with(|| {
                let value = |column: &Float64Array, row: usize| {
                    if column.is_null(row) { None } else { Some(column.value(row)) }
                };
                match (value(a, row), value(b, of_other)) {
                    (Some(a), Some(b)) => a.total_cmp(&b),
                    (a, b) => a.is_some().cmp(&b.is_some()),
                }
            })
        })
    }

    fn same(&self, row: usize, other: &Table, of_other: usize, tolerances: &[f64]) -> bool {
        self.exact.row(row) == other.exact.row(of_other)
            && self.numbers.iter().zip(&other.numbers).zip(tolerances).all(|((a, b), tolerance)| {
                match (a.is_null(row), b.is_null(of_other)) {
                    (false, false) => close(a.value(row), b.value(of_other), *tolerance),
                    (a, b) => a == b,
                }
            })
    }
}

/// Whether two numbers are equal within a relative tolerance.
fn close(a: f64, b: f64, tolerance: f64) -> bool {
    a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= tolerance * a.abs().max(b.abs())
}

/// Some columns of each row as bytes that are equal when the values are, and ordered as they are.
enum Bytes {
    /// Of no columns.
    None,
    Rows(arrow::row::Rows),
}

impl Bytes {
    fn of(rows: &RecordBatch, columns: &[usize]) -> Result<Bytes, ArrowError> {
        if columns.is_empty() {
            return Ok(Bytes::None);
        }
        let arrays = columns.iter().map(|at| sortable(rows.column(*at))).collect::<Result<Vec<_>, _>>()?;
        let fields = arrays.iter().map(|array| SortField::new(array.data_type().clone())).collect();
        Ok(Bytes::Rows(RowConverter::new(fields)?.convert_columns(&arrays)?))
    }

    fn row(&self, row: usize) -> &[u8] {
        match self {
            Bytes::None => &[],
            Bytes::Rows(rows) => rows.row(row).data(),
        }
    }
}

/// The column, as text when its type has no order.
fn sortable(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if RowConverter::supports_fields(&[SortField::new(column.data_type().clone())]) {
        return Ok(std::sync::Arc::clone(column));
    }
    let formatter = ArrayFormatter::try_new(column, &FormatOptions::default())?;
    let text = |row| if column.is_null(row) { None } else { Some(formatter.value(row).to_string()) };
    Ok(std::sync::Arc::new((0..column.len()).map(text).collect::<StringArray>()))
}

/// Makes text of rows that are not equal.
struct Shower<'a> {
    sides: &'a Sides<'a>,
    others: &'a [usize],
    tolerances: (&'a [usize], &'a [f64]),
}

impl Shower<'_> {
    fn show(&self, stored: Option<usize>, recomputed: Option<usize>) -> Result<Difference, ArrowError> {
        let schema = self.sides.recomputed.schema();
        let name = |at: usize| schema.field(at).name().clone();
        let of_stored = |at| stored.map(|row| shown(self.sides.stored.column(at), row)).transpose();
        let of_recomputed = |at| recomputed.map(|row| shown(self.sides.recomputed.column(at), row)).transpose();
        let mut key = Vec::new();
        for &at in self.sides.key {
            key.push((name(at), of_stored(at)?.or(of_recomputed(at)?).flatten()));
        }
        let side = match (stored, recomputed) {
            (Some(_), Some(_)) => Side::Both,
            (Some(_), None) => Side::Stream,
            _ => Side::Recomputed,
        };
        let mut values = Vec::new();
        for &at in self.others {
            let (mine, theirs) = (of_stored(at)?.flatten(), of_recomputed(at)?.flatten());
            if side != Side::Both || mine != theirs && !self.close(at, mine.as_deref(), theirs.as_deref()) {
                values.push((name(at), mine, theirs));
            }
        }
        Ok(Difference { side, key, values })
    }

    /// Whether two values are numbers that count as equal.
    fn close(&self, at: usize, a: Option<&str>, b: Option<&str>) -> bool {
        let (numbers, tolerances) = self.tolerances;
        let Some(tolerance) = numbers.iter().position(|number| *number == at).and_then(|n| tolerances.get(n)) else {
            return false;
        };
        match (a.and_then(|a| a.parse().ok()), b.and_then(|b| b.parse().ok())) {
            (Some(a), Some(b)) => close(a, b, *tolerance),
            _ => false,
        }
    }
}

fn shown(column: &ArrayRef, row: usize) -> Result<Option<String>, ArrowError> {
    if column.is_null(row) {
        return Ok(None);
    }
    let options = FormatOptions::default().with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"));
    let formatter = ArrayFormatter::try_new(column, &options)?;
    Ok(Some(formatter.value(row).to_string()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;

    use super::*;

    fn rows(keys: &[&str], sums: &[f64], counts: &[i64]) -> RecordBatch {
        let columns: [(&str, ArrayRef); 3] = [
            ("region", Arc::new(StringArray::from(keys.to_vec()))),
            ("sum", Arc::new(Float64Array::from(sums.to_vec()))),
            ("n", Arc::new(Int64Array::from(counts.to_vec()))),
        ];
        RecordBatch::try_from_iter(columns).expect("rows")
    }

    fn compared(stored: &RecordBatch, recomputed: &RecordBatch, key: &[usize], classes: [Class; 3]) -> Differences {
        compare(&Sides { stored, recomputed, key, classes: &classes }).expect("compares")
    }

    const EXACT: [Class; 3] = [Class::Exact; 3];

    #[test]
    fn differences_are_told_by_key() {
        let stored = rows(&["eu", "us", "jp"], &[1.0, 2.0, 3.0], &[1, 2, 3]);
        let recomputed = rows(&["us", "eu", "cn"], &[2.0 + 1e-12, 1.5, 4.0], &[2, 1, 9]);
        let found = compared(&stored, &recomputed, &[0], EXACT);
        assert_eq!((found.equal, found.differ, found.only_stream, found.only_recomputed), (1, 1, 1, 1));
        let told: Vec<_> = found.shown.iter().map(|d| (d.side, d.key[0].1.as_deref(), d.values.len())).collect();
        assert_eq!(
            told,
            [(Side::Recomputed, Some("cn"), 2), (Side::Both, Some("eu"), 1), (Side::Stream, Some("jp"), 2)]
        );
        let changed = ("sum".to_owned(), Some("1.0".to_owned()), Some("1.5".to_owned()));
        assert_eq!(found.shown[1].values, [changed]);
        assert_eq!(found.total(), 3);
    }

    #[test]
    fn rows_count_as_often_as_they_are_there() {
        let twice = rows(&["eu", "eu", "us"], &[1.0, 1.0, 0.0], &[1, 1, 1]);
        let once = rows(&["eu", "us"], &[1.0, 0.0], &[1, 1]);
        for key in [&[0][..], &[0, 2], &[]] {
            let found = compared(&twice, &once, key, EXACT);
            assert_eq!((found.equal, found.differ, found.only_stream, found.only_recomputed), (2, 0, 1, 0), "{key:?}");
        }
        assert_eq!(compared(&twice, &twice, &[], EXACT).total(), 0);
    }

    #[test]
    fn a_column_is_compared_as_its_class_says() {
        let stored = rows(&["eu"], &[100.0], &[100]);
        let recomputed = rows(&["eu"], &[101.0], &[101]);
        let total = |classes| compared(&stored, &recomputed, &[0], classes).total();
        assert_eq!(total(EXACT), 1);
        assert_eq!(total([Class::Exact, Class::Approximate, Class::Approximate]), 0);
        assert_eq!(total([Class::Exact, Class::Approximate, Class::Exact]), 1);
        assert_eq!(total([Class::Exact, Class::Volatile, Class::Volatile]), 0);
        let none = rows(&[], &[], &[]);
        assert_eq!(compared(&none, &recomputed, &[0], EXACT).only_recomputed, 1);
    }

    #[test]
    fn only_so_many_are_shown_and_all_are_counted() {
        let keys: Vec<String> = (0..50).map(|n| format!("k{n:02}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let found = compared(&rows(&keys, &[0.0; 50], &[0; 50]), &rows(&[], &[], &[]), &[0], EXACT);
        assert_eq!((found.only_stream, found.shown.len()), (50, SHOWN));
    }
}
