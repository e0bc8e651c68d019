//! [`check_aggregate`]: tries an aggregate as the engine uses it, in every way that rows may reach it.
//!
//! **Invariant:** a failure says the seed and the round, and the same seed fails in the same way.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Float64Array, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{cast, concat, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Accumulator, AggregateUDF, EmitTo, GroupsAccumulator};
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{GroupsAccumulatorAdapter, PhysicalExpr};
use tidemill_model::{Error, Kind, Result};
use tidemill_runtime::ipc;

/// How many ways are tried.
const ROUNDS: u64 = 200;
/// Floats may differ so much, of the greater one: their sums depend on order.
const FLOAT: f64 = 1e-9;

/// Tries an aggregate over these rows, a column for each argument: in random orders, cut into random parts that are
/// merged in random order, each part after a snapshot and its restore or without, none of them empty or some, by one
/// group and by many at a time. Every way must give what all rows in one piece give.
///
/// # Errors
/// Plan, with what differs; whatever the aggregate answers.
pub fn check_aggregate(function: &AggregateUDF, columns: &[ArrayRef], seed: u64) -> Result<()> {
    let aggregate = built(function, columns).map_err(|error| defect(function, "it cannot be called", error))?;
    let rows = columns.first().map_or(0, |column| column.len());
    let failed = |error| defect(function, "it fails", error);
    let expected = whole(&aggregate, columns).map_err(failed)?;
    let nothing: Vec<ArrayRef> = columns.iter().map(|column| column.slice(0, 0)).collect();
    whole(&aggregate, &nothing).map_err(|error| defect(function, "it fails over no rows", error))?;
    let mut random = Random(seed);
    for round in 0..ROUNDS {
        let order = random.order(rows);
        let shuffled = columns.iter().map(|column| take(column, &order, None).map_err(Into::into));
        let shuffled = shuffled.collect::<datafusion::common::Result<Vec<_>>>().map_err(failed)?;
        let parts = random.parts(rows);
        let ways: [(&str, Way); 2] = [("one group at a time", one_by_one), ("many groups at a time", together)];
        for (name, way) in ways {
            let found = way(&aggregate, &shuffled, &parts, &mut random).map_err(failed)?;
            if !equal(&expected, &found) {
                let message = format!("`{}` depends on how rows reach it", function.name());
                return Err(Error::new(Kind::Plan, "P243", message)
                    .label(format!("{found} instead of {expected}"))
                    .fact(format!("seed {seed}, round {round}: {rows} rows in {} parts, {name}", parts.len()))
                    .fact("merging must be associative and commutative, a state of no rows neutral, and the state all there is"));
            }
        }
    }
    Ok(())
}

type Way =
    fn(&AggregateFunctionExpr, &[ArrayRef], &[(usize, usize)], &mut Random) -> datafusion::common::Result<ScalarValue>;

fn defect(function: &AggregateUDF, what: &str, error: datafusion::error::DataFusionError) -> Error {
    Error::new(Kind::Plan, "P243", format!("the aggregate `{}` cannot be used: {what}", function.name())).because(error)
}

fn built(function: &AggregateUDF, columns: &[ArrayRef]) -> datafusion::common::Result<AggregateFunctionExpr> {
    let fields: Vec<Field> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| Field::new(format!("argument_{at}"), column.data_type().clone(), true))
        .collect();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let args = schema.fields().iter().map(|field| col(field.name(), &schema));
    let args = args.collect::<datafusion::common::Result<Vec<Arc<dyn PhysicalExpr>>>>()?;
    AggregateExprBuilder::new(Arc::new(function.clone()), args).schema(schema).alias("result").build()
}

fn whole(aggregate: &AggregateFunctionExpr, columns: &[ArrayRef]) -> datafusion::common::Result<ScalarValue> {
    let mut accumulator = aggregate.create_accumulator()?;
    accumulator.update_batch(columns)?;
    accumulator.evaluate()
}

/// Each part in an accumulator of its own, merged into one.
fn one_by_one(
    aggregate: &AggregateFunctionExpr,
    columns: &[ArrayRef],
    parts: &[(usize, usize)],
    random: &mut Random,
) -> datafusion::common::Result<ScalarValue> {
    let mut states = Vec::new();
    for (from, length) in parts {
        let mut accumulator: Box<dyn Accumulator> = aggregate.create_accumulator()?;
        // As rows come in batches, one part in two of them.
        let cut = random.below(length + 1);
        for (from, length) in [(*from, cut), (from + cut, length - cut)] {
            accumulator.update_batch(&columns.iter().map(|c| c.slice(from, length)).collect::<Vec<_>>())?;
        }
        let state =
            accumulator.state()?.iter().map(ScalarValue::to_array).collect::<datafusion::common::Result<_>>()?;
        states.push(random.restored(aggregate, state)?);
    }
    random.shuffle(&mut states);
    let mut last = aggregate.create_accumulator()?;
    for state in states {
        last.merge_batch(&state)?;
    }
    last.evaluate()
}

/// Each part as a group, whose states are then merged into one group among others.
fn together(
    aggregate: &AggregateFunctionExpr,
    columns: &[ArrayRef],
    parts: &[(usize, usize)],
    random: &mut Random,
) -> datafusion::common::Result<ScalarValue> {
    let rows = columns.first().map_or(0, |column| column.len());
    // A group comes with its first row: parts without rows are none.
    let parts: Vec<&(usize, usize)> = parts.iter().filter(|(_, length)| *length > 0).collect();
    let mut first = groups(aggregate)?;
    if parts.is_empty() {
        // A row that a filter leaves out: the group is there and has seen no value.
        let unseen: Vec<ArrayRef> = columns.iter().map(|column| new_null_array(column.data_type(), 1)).collect();
        first.update_batch(&unseen, &[0], Some(&BooleanArray::from(vec![false])), 1)?;
        return ScalarValue::try_from_array(&first.evaluate(EmitTo::All)?, 0);
    }
    let mut of: Vec<usize> = vec![0; rows];
    for (part, (from, length)) in parts.iter().enumerate() {
        of[*from..from + length].fill(part);
    }
    first.update_batch(columns, &of, None, parts.len())?;
    let state = random.restored(aggregate, first.state(EmitTo::All)?)?;
    // One row of state for each part, in another order for the group beside.
    let mut last = groups(aggregate)?;
    for group in [0, 1] {
        let order = random.order(parts.len());
        let state = state.iter().map(|column| take(column, &order, None).map_err(Into::into));
        let state = state.collect::<datafusion::common::Result<Vec<ArrayRef>>>()?;
        last.merge_batch(&state, &vec![group; parts.len()], group + 1)?;
    }
    ScalarValue::try_from_array(&last.evaluate(EmitTo::All)?, 1)
}

fn groups(aggregate: &AggregateFunctionExpr) -> datafusion::common::Result<Box<dyn GroupsAccumulator>> {
    if aggregate.groups_accumulator_supported() {
        return aggregate.create_groups_accumulator();
    }
    let aggregate = aggregate.clone();
    Ok(Box::new(GroupsAccumulatorAdapter::new(move || aggregate.create_accumulator())))
}

fn equal(expected: &ScalarValue, found: &ScalarValue) -> bool {
    let float = |value: &ScalarValue| {
        let column = value.to_array().ok().filter(|_| value.data_type().is_floating())?;
        let column = cast(&column, &DataType::Float64).ok()?;
        let column = column.as_any().downcast_ref::<Float64Array>()?;
        column.is_valid(0).then(|| column.value(0))
    };
    match (float(expected), float(found)) {
        (Some(a), Some(b)) => {
            a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= FLOAT * a.abs().max(b.abs()).max(1.0)
        }
        _ => expected == found,
    }
}

/// Numbers that look random and are a function of the seed (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    fn order(&mut self, rows: usize) -> UInt32Array {
        let mut order: Vec<u32> = (0..rows as u32).collect();
        self.shuffle(&mut order);
        UInt32Array::from(order)
    }

    /// Where parts begin and how long they are, some of them empty.
    fn parts(&mut self, rows: usize) -> Vec<(usize, usize)> {
        let mut parts = Vec::new();
        let mut from = 0;
        while from < rows || parts.is_empty() {
            let most = rows.div_ceil(3) + 1;
            let length = self.below(most + 1).min(rows - from);
            parts.push((from, length));
            from += length;
        }
        parts
    }

    /// A state as it comes back from a checkpoint, or as it is.
    fn restored(
        &mut self,
        aggregate: &AggregateFunctionExpr,
        state: Vec<ArrayRef>,
    ) -> datafusion::common::Result<Vec<ArrayRef>> {
        if self.below(2) == 0 {
            return Ok(state);
        }
        let fields = aggregate.state_fields()?.into_iter().enumerate();
        let fields =
            fields.map(|(at, field)| field.as_ref().clone().with_name(format!("state_{at}")).with_nullable(true));
        let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let external = |error: Error| datafusion::error::DataFusionError::External(Box::new(error));
        let rows = RecordBatch::try_new(Arc::clone(&schema), state)?;
        let bytes = ipc::encode_batch(&rows).map_err(external)?;
        let (_, read) = ipc::decode_batches(&bytes).map_err(external)?;
        (0..schema.fields().len())
            .map(|at| {
                let columns: Vec<&dyn Array> = read.iter().map(|batch| batch.column(at).as_ref()).collect();
                Ok(concat(&columns)?)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;
    use datafusion::functions_aggregate::{array_agg, average, count, sum};
    use datafusion::logical_expr::{Volatility, create_udaf};

    use super::*;

    fn rows() -> Vec<ArrayRef> {
        vec![Arc::new((0..50).map(|n| (n % 7 != 0).then_some(n * 3 % 11)).collect::<Int64Array>())]
    }

    #[test]
    fn aggregates_of_sql_keep_the_laws() {
        for function in [sum::sum_udaf(), count::count_udaf()] {
            check_aggregate(&function, &rows(), 7).unwrap_or_else(|e| panic!("{e} {:?}", e.facts()));
        }
        let floats = vec![cast(&rows()[0], &DataType::Float64).expect("casts")];
        check_aggregate(&average::avg_udaf(), &floats, 7).unwrap_or_else(|e| panic!("{e} {:?}", e.facts()));
        check_aggregate(&sum::sum_udaf(), &[rows()[0].slice(0, 0)], 7).expect("no rows");
    }

    #[test]
    fn one_that_goes_by_order_is_found() {
        let error = check_aggregate(&array_agg::array_agg_udaf(), &rows(), 7).expect_err("by order");
        assert!(error.code() == "P243" && error.facts()[0].contains("seed 7"), "{error} {:?}", error.facts());
    }

    /// Forgets a part of its state.
    #[derive(Debug, Default)]
    struct Forgetful {
        sum: i64,
        rows: i64,
    }

    impl Accumulator for Forgetful {
        fn update_batch(&mut self, values: &[ArrayRef]) -> datafusion::common::Result<()> {
            let values = values[0].as_primitive::<Int64Type>();
            self.sum += values.iter().flatten().sum::<i64>();
            self.rows += values.len() as i64;
            Ok(())
        }

        fn evaluate(&mut self) -> datafusion::common::Result<ScalarValue> {
            Ok(ScalarValue::from(self.sum * 1000 + self.rows))
        }

        fn size(&self) -> usize {
            size_of_val(self)
        }

        fn state(&mut self) -> datafusion::common::Result<Vec<ScalarValue>> {
            Ok(vec![ScalarValue::from(self.sum)])
        }

        fn merge_batch(&mut self, states: &[ArrayRef]) -> datafusion::common::Result<()> {
            self.sum += states[0].as_primitive::<Int64Type>().iter().flatten().sum::<i64>();
            Ok(())
        }
    }

    #[test]
    fn one_that_forgets_is_found() {
        let forgetful = create_udaf(
            "forgetful",
            vec![DataType::Int64],
            Arc::new(DataType::Int64),
            Volatility::Immutable,
            Arc::new(|_| Ok(Box::<Forgetful>::default())),
            Arc::new(vec![DataType::Int64]),
        );
        assert_eq!(check_aggregate(&forgetful, &rows(), 7).expect_err("forgets").code(), "P243");
    }
}
