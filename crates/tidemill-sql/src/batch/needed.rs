//! [`Needing`]: the filters of a scan, as what its source may leave out by statistics.
//!
//! The planner offers a copy of each filter above a scan, those that a guard evaluates row by row, too. Only one that
//! [cannot fail](is_safe) is taken. What it leaves out is not needed, but for rows that the gate refuses, warns of or drops: those
//! are told and counted whatever a statement wants.
//!
//! **Invariant:** leaving out what is not needed changes no result, no dead letter and no share of errors.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, Result as DfResult, ScalarValue};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::{conjunction, disjunction};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};
use tidemill_runtime::{ColumnBounds, Needed};

use crate::session::guarded::{can_fail, has_subquery};

/// Whether a filter over these columns fails on no row, so that whoever evaluates it, and in which order, loses no row's
/// error.
pub(super) fn is_safe(filter: &Expr, columns: &Schema) -> bool {
    let Ok(names) = DFSchema::try_from(columns.clone()) else { return false };
    plain(filter.clone()).is_ok_and(|filter| !can_fail(&filter, &names) && !has_subquery(&filter))
}

/// The same over columns without the name of their table.
fn plain(expr: Expr) -> DfResult<Expr> {
    let plain = expr.transform(|part| {
        Ok(match part {
            Expr::Column(column) => Transformed::yes(Expr::Column(Column::from_name(column.name))),
            other => Transformed::no(other),
        })
    });
    Ok(plain?.data)
}

/// Which rows of a dataset a scan with these filters needs, over the dataset's own columns: `None` for all of them.
/// `refusals` are those of the dataset's [`Reading`](super::reading::Reading).
fn needed_rows(filters: &[Expr], refusals: Option<&[Expr]>) -> DfResult<Option<Expr>> {
    let (Some(wanted), Some(refusals)) = (conjunction(filters.iter().cloned()), refusals) else { return Ok(None) };
    disjunction(std::iter::once(wanted).chain(refusals.iter().cloned())).map(plain).transpose()
}

/// Rows that are needed, told by bounds.
#[derive(Debug)]
pub(super) struct Needing {
    columns: SchemaRef,
    predicate: PruningPredicate,
}

impl Needing {
    /// What a scan with these filters needs of a dataset with such columns; `None` when statistics cannot rule anything out.
    pub(super) fn of(
        filters: &[Expr],
        (schema, refusals): (&Schema, Option<&[Expr]>),
        session: &dyn Session,
    ) -> DfResult<Option<Needing>> {
        let Some(needed) = needed_rows(filters, refusals)? else { return Ok(None) };
        let loose = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
        let schema = Arc::new(Schema::new(loose.collect::<Vec<_>>()));
        let names = Arc::new(DFSchema::try_from(Arc::clone(&schema))?);
        let context = SimplifyContext::builder().with_schema(Arc::clone(&names)).build();
        let simplifier = ExprSimplifier::new(context);
        let needed = simplifier.simplify(simplifier.coerce(needed, &names)?)?;
        let mut places: Vec<usize> =
            needed.column_refs().into_iter().map(|column| schema.index_of(&column.name)).collect::<Result<_, _>>()?;
        places.sort_unstable();
        let columns = Arc::new(schema.project(&places)?);
        let physical = session.create_physical_expr(needed, &names)?;
        let predicate = PruningPredicateBuilder::new().with_file_schema(schema).try_build(physical)?;
        Ok((!predicate.always_true()).then_some(Needing { columns, predicate }))
    }

    /// In words.
    pub(super) fn words(&self) -> String {
        self.predicate.orig_expr().to_string()
    }
}

impl Needed for Needing {
    fn columns(&self) -> &SchemaRef {
        &self.columns
    }

    fn may_be_in(&self, rows: &UInt64Array, bounds: &[ColumnBounds]) -> Vec<bool> {
        let containers = Containers { columns: &self.columns, rows, bounds };
        // Pruning saves work; where it cannot be computed everything is read.
        self.predicate.prune(&containers).unwrap_or_else(|_| vec![true; rows.len()])
    }
}

/// Bounds in the form that the predicate asks for them.
struct Containers<'a> {
    columns: &'a Schema,
    rows: &'a UInt64Array,
    bounds: &'a [ColumnBounds],
}

impl Containers<'_> {
    fn of(&self, column: &Column) -> Option<&ColumnBounds> {
        self.bounds.get(self.columns.index_of(&column.name).ok()?)
    }
}

impl PruningStatistics for Containers<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.of(column).map(|bounds| Arc::clone(&bounds.least))
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.of(column).map(|bounds| Arc::clone(&bounds.greatest))
    }

    fn num_containers(&self) -> usize {
        self.rows.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        self.of(column).map(|bounds| Arc::new(bounds.nulls.clone()) as ArrayRef)
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(self.rows.clone()))
    }

    fn contained(&self, _column: &Column, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Array, AsArray, BooleanArray, Date32Array, Decimal128Array, Int64Array, RecordBatch, StringArray,
        TimestampMicrosecondArray,
    };
    use arrow::compute::{SortOptions, sort_to_indices, take};
    use datafusion::prelude::SessionContext;

    use super::*;

    const FILTERS: &[&str] = &[
        "n = 3",
        "n > 4 AND s = 'b'",
        "n IN (1, 7)",
        "n NOT IN (1, 2)",
        "n <> 2",
        "NOT (n >= 3)",
        "n IS NULL",
        "n IS NOT NULL AND s IS NULL",
        "s LIKE 'b%'",
        "s NOT LIKE 'b%'",
        "s BETWEEN 'b' AND 'c'",
        "b",
        "NOT b",
        "b = false",
        "b IS NOT TRUE",
        "d < 1.5",
        "d >= -0.5 OR n < 2",
        "at >= TIMESTAMP '1970-01-01T00:00:00.000003'",
        "day = DATE '1970-01-03'",
        "n + 1 = 5",
        "coalesce(n, 0) = 0",
        "n > d",
    ];
    const REFUSALS: &[&[&str]] = &[
        &[],
        &["at IS NULL"],
        &["n IS NULL", "at IS NULL"],
        &["NOT (n > 1)"],
        &["NOT (d >= 0.0 AND n < 6)", "s IS NULL"],
    ];

    fn rows(random: &mut fastrand::Rng) -> RecordBatch {
        let count = random.usize(1..5);
        let (low, high) = (random.i64(0..6), random.i64(6..9));
        let nulls = random.u8(0..4);
        let values = |random: &mut fastrand::Rng| -> Vec<Option<i64>> {
            (0..count).map(|_| (random.u8(0..4) >= nulls).then(|| random.i64(low..high))).collect()
        };
        let (n, s, b) = (values(random), values(random), values(random));
        let (d, at, day) = (values(random), values(random), values(random));
        let text = |v: i64| ["a", "b", "ba", "c", "ca", "d", "e", "f", "g"][v as usize];
        let decimals = Decimal128Array::from_iter(d.iter().map(|v| v.map(|v| i128::from(v) * 5 - 10)));
        RecordBatch::try_from_iter_with_nullable([
            ("n", Arc::new(Int64Array::from(n)) as ArrayRef, true),
            ("s", Arc::new(s.iter().map(|v| v.map(text)).collect::<StringArray>()) as ArrayRef, true),
            ("b", Arc::new(b.iter().map(|v| v.map(|v| v > 5)).collect::<BooleanArray>()) as ArrayRef, true),
            ("d", Arc::new(decimals.with_precision_and_scale(9, 1).expect("fits")) as ArrayRef, true),
            ("at", Arc::new(TimestampMicrosecondArray::from(at)) as ArrayRef, true),
            ("day", Arc::new(day.iter().map(|v| v.map(|v| v as i32)).collect::<Date32Array>()) as ArrayRef, true),
        ])
        .expect("rows")
    }

    /// The bounds of a column in each container; now and then something is not known.
    fn bounds(containers: &[RecordBatch], column: &str, random: &mut fastrand::Rng) -> ColumnBounds {
        let of = |rows: &RecordBatch| Arc::clone(rows.column_by_name(column).expect("a column"));
        let mut end = |descending: bool| {
            let ends = containers.iter().map(|rows| {
                let values = of(rows);
                let order = SortOptions { descending, nulls_first: false };
                let first = sort_to_indices(&values, Some(order), Some(1)).expect("sorts");
                let unknown = random.u8(0..9) == 0;
                if unknown {
                    arrow::array::new_null_array(values.data_type(), 1)
                } else {
                    take(&values, &first, None).expect("takes")
                }
            });
            let ends: Vec<ArrayRef> = ends.collect();
            let ends: Vec<&dyn Array> = ends.iter().map(AsRef::as_ref).collect();
            arrow::compute::concat(&ends).expect("one type")
        };
        let (least, greatest) = (end(false), end(true));
        let nulls = containers.iter().map(|rows| (random.u8(0..9) > 0).then(|| of(rows).null_count() as u64));
        ColumnBounds { least, greatest, nulls: nulls.collect() }
    }

    #[test]
    fn no_container_with_a_needed_row_is_left_out() {
        let session = SessionContext::new();
        let state = session.state();
        let mut random = fastrand::Rng::with_seed(5);
        let mut left_out = std::collections::BTreeMap::new();
        for round in 0..400 {
            let containers: Vec<RecordBatch> = (0..8).map(|_| rows(&mut random)).collect();
            let schema = containers[0].schema();
            let names = DFSchema::try_from(schema.as_ref().clone()).expect("names");
            let parse = |text: &str| session.parse_sql_expr(text, &names).expect("an expression");
            let filter = FILTERS[round % FILTERS.len()];
            let refusals: Vec<Expr> =
                REFUSALS[random.usize(0..REFUSALS.len())].iter().map(|text| parse(text)).collect();
            let needing = Needing::of(&[parse(filter)], (&schema, Some(&refusals)), &state).expect("plans");
            let Some(needing) = needing else { continue };
            let lengths = UInt64Array::from_iter_values(containers.iter().map(|rows| rows.num_rows() as u64));
            let columns = needing.columns().fields().iter();
            let bounds: Vec<ColumnBounds> =
                columns.map(|field| bounds(&containers, field.name(), &mut random)).collect();
            let may = needing.may_be_in(&lengths, &bounds);
            for (rows, may) in containers.iter().zip(may) {
                let has = |expr: Expr| {
                    let physical = state.create_physical_expr(expr, &names).expect("plans");
                    let truth = physical.evaluate(rows).and_then(|v| v.into_array(rows.num_rows())).expect("evaluates");
                    truth.as_boolean().true_count() > 0
                };
                let needed = has(parse(filter)) || refusals.iter().cloned().any(has);
                assert!(may || !needed, "{filter} or {refusals:?} in {rows:?}");
                *left_out.entry(filter).or_insert(0) += u32::from(!may);
            }
        }
        for filter in &FILTERS[..6] {
            assert!(left_out.get(filter).is_some_and(|n| *n > 0), "{filter} leaves out nothing: {left_out:?}");
        }
    }

    #[test]
    fn without_filters_or_with_refusals_that_cannot_be_told_all_rows_are_needed() {
        let state = SessionContext::new().state();
        let schema = Schema::new(vec![arrow::datatypes::Field::new("n", arrow::datatypes::DataType::Int64, true)]);
        let filter = [datafusion::prelude::col("n").gt(datafusion::prelude::lit(1_i64))];
        let of =
            |filters: &[Expr], refusals| Needing::of(filters, (&schema, refusals), &state).expect("plans").is_some();
        assert!(of(&filter, Some(&[])));
        assert!(!of(&filter, None) && !of(&[], Some(&[])));
    }
}
