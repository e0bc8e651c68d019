//! [`Multiset`]: rows without their order, compared exactly but for floating-point numbers.
//!
//! **Invariant:** equal means: the same rows the same number of times; floats within their relative tolerance.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemill_model::{Error, Result};

/// How far floats may differ, relatively; sums of floats depend on their order.
const FLOATS: f64 = 1e-9;

/// Column to how far its values may differ, relatively, for columns that are only approximate.
pub type Tolerances = BTreeMap<String, f64>;

#[derive(Debug, Clone, PartialEq)]
enum Cell {
    Null,
    Exact(String),
    Number(f64, f64),
}

/// Rows in an order of their own.
#[derive(Debug, Clone)]
pub struct Multiset {
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Multiset {
    /// The rows of these batches; `approximate` columns count as numbers of their tolerance.
    ///
    /// # Errors
    /// Internal, when a column cannot be shown.
    pub fn of(batches: &[RecordBatch], approximate: &Tolerances) -> Result<Multiset> {
        let mut columns = Vec::new();
        let mut rows = Vec::new();
        for batch in batches {
            columns = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
            let first = rows.len();
            rows.resize_with(first + batch.num_rows(), Vec::new);
            for (name, column) in columns.iter().zip(batch.columns()) {
                let cells = cells(column, approximate.get(name).copied())?;
                for (row, cell) in rows[first..].iter_mut().zip(cells) {
                    row.push(cell);
                }
            }
        }
        rows.sort_by(|a, b| order(a, b));
        Ok(Multiset { columns, rows })
    }

    /// How many rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What makes these rows others than the expected ones, in words; `None` when they are equal.
    #[must_use]
    pub fn difference(&self, expected: &Multiset) -> Option<String> {
        if !expected.is_empty() && !self.is_empty() && self.columns != expected.columns {
            return Some(format!("columns {:?} instead of {:?}", self.columns, expected.columns));
        }
        let (mut missing, mut extra) = (Vec::new(), Vec::new());
        let (mut mine, mut theirs) = (self.rows.iter().peekable(), expected.rows.iter().peekable());
        loop {
            match (mine.peek(), theirs.peek()) {
                (None, None) => break,
                (Some(a), Some(b)) if same(a, b) => {
                    mine.next();
                    theirs.next();
                }
                (Some(a), Some(b)) if order(a, b) == Ordering::Less => extra.extend(mine.next()),
                (Some(_), None) => extra.extend(mine.next()),
                _ => missing.extend(theirs.next()),
            }
        }
        if missing.is_empty() && extra.is_empty() {
            return None;
        }
        let some =
            |rows: &[&Vec<Cell>]| rows.iter().take(5).map(|row| format!("\n    {}", show(row))).collect::<String>();
        Some(format!(
            "{} rows instead of {}\n  {} missing:{}\n  {} too many:{}",
            self.len(),
            expected.len(),
            missing.len(),
            some(&missing),
            extra.len(),
            some(&extra),
        ))
    }
}

fn cells(column: &ArrayRef, tolerance: Option<f64>) -> Result<Vec<Cell>> {
    let shown = |e: arrow::error::ArrowError| Error::internal("a column cannot be shown").because(e);
    if column.data_type().is_floating() || tolerance.is_some() {
        let numbers = cast(column, &DataType::Float64).map_err(shown)?;
        let numbers = numbers.as_primitive::<Float64Type>();
        let tolerance = tolerance.unwrap_or(FLOATS);
        return Ok(numbers.iter().map(|n| n.map_or(Cell::Null, |n| Cell::Number(n, tolerance))).collect());
    }
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(column, &options).map_err(shown)?;
    let decimal = matches!(column.data_type(), DataType::Decimal128(..) | DataType::Decimal256(..));
    let cell = |row: usize| match column.is_null(row) {
        true => Cell::Null,
        false if decimal => Cell::Exact(without_zeros(&formatter.value(row).to_string())),
        false => Cell::Exact(formatter.value(row).to_string()),
    };
    Ok((0..column.len()).map(cell).collect())
}

/// Two scales of one number are one number.
fn without_zeros(text: &str) -> String {
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    }
}

/// By the exact cells first, so that rows that differ in the last digit of a float only stand side by side.
fn order(a: &[Cell], b: &[Cell]) -> Ordering {
    let exact = |row: &[Cell]| -> Vec<Option<String>> {
        let kept = row.iter().filter(|cell| !matches!(cell, Cell::Number(..)));
        kept.map(|cell| if let Cell::Exact(text) = cell { Some(text.clone()) } else { None }).collect()
    };
    let numbers = || {
        let pairs = a.iter().zip(b).map(|(a, b)| match (a, b) {
            (Cell::Number(a, _), Cell::Number(b, _)) => a.total_cmp(b),
            _ => Ordering::Equal,
        });
        pairs.fold(Ordering::Equal, Ordering::then)
    };
    exact(a).cmp(&exact(b)).then_with(numbers)
}

fn same(a: &[Cell], b: &[Cell]) -> bool {
    let equal = |(a, b): (&Cell, &Cell)| match (a, b) {
        (Cell::Number(a, tolerance), Cell::Number(b, _)) => {
            a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * a.abs().max(b.abs())
        }
        (a, b) => a == b,
    };
    a.len() == b.len() && a.iter().zip(b).all(equal)
}

fn show(row: &[Cell]) -> String {
    let cells = row.iter().map(|cell| match cell {
        Cell::Null => "NULL".to_owned(),
        Cell::Exact(text) => text.clone(),
        Cell::Number(number, _) => number.to_string(),
    });
    cells.collect::<Vec<_>>().join(" | ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Decimal128Array, Float64Array, Int64Array};

    use super::{ArrayRef, Multiset, RecordBatch, Tolerances};

    fn rows(ids: &[i64], values: &[f64], cents: &[i128], scale: i8) -> Multiset {
        let decimals = Decimal128Array::from(cents.to_vec()).with_precision_and_scale(20, scale).expect("decimals");
        let columns: [(&str, ArrayRef); 3] = [
            ("id", Arc::new(Int64Array::from(ids.to_vec()))),
            ("value", Arc::new(Float64Array::from(values.to_vec()))),
            ("amount", Arc::new(decimals)),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("a batch");
        Multiset::of(&[batch], &Tolerances::new()).expect("rows")
    }

    #[test]
    fn order_and_scale_do_not_matter_and_every_row_counts() {
        let expected = rows(&[1, 2, 2], &[0.5, 1.0, 2.0], &[100, 250, 300], 2);
        assert_eq!(rows(&[2, 2, 1], &[2.0, 1.0 + 1e-12, 0.5], &[30, 25, 10], 1).difference(&expected), None);
        for other in [
            rows(&[1, 2], &[0.5, 1.0], &[100, 250], 2),
            rows(&[1, 2, 2, 2], &[0.5, 1.0, 2.0, 2.0], &[100, 250, 300, 300], 2),
            rows(&[1, 2, 3], &[0.5, 1.0, 2.0], &[100, 250, 300], 2),
            rows(&[1, 2, 2], &[0.5, 1.0, 2.0], &[100, 250, 301], 2),
            rows(&[1, 2, 2], &[0.5, 1.0, 2.000_01], &[100, 250, 300], 2),
        ] {
            assert!(other.difference(&expected).is_some(), "{other:?}");
        }
    }
}
