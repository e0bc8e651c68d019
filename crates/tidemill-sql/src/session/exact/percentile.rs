//! [`Percentile`]: `approx_percentile_cont` and `approx_median` from a [`Sketch`]; DataFusion's t-digest depends on the
//! order in which it merges.
//!
//! **Invariant:** its state is the sketch's buckets in order, so equal multisets have equal states.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int32Type, UInt64Type};
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, Documentation, Signature};

use super::sketch::Sketch;

/// The function.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Percentile {
    inner: Arc<AggregateUDF>,
}

impl Percentile {
    pub(super) fn new(inner: Arc<AggregateUDF>) -> Percentile {
        Percentile { inner }
    }
}

impl AggregateUDFImpl for Percentile {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return plan_err!("{}(DISTINCT …) is not available", self.name());
        }
        let quantile = match args.exprs.get(1) {
            None => 0.5,
            Some(expr) => {
                let empty = arrow::record_batch::RecordBatch::new_empty(Arc::new(arrow::datatypes::Schema::empty()));
                match expr.evaluate(&empty)? {
                    ColumnarValue::Scalar(ScalarValue::Float64(Some(quantile))) if (0.0..=1.0).contains(&quantile) => {
                        quantile
                    }
                    _ => return plan_err!("{} needs a constant from 0 to 1, not {expr}", self.name()),
                }
            }
        };
        let descending = args.order_bys.first().is_some_and(|order| order.options.descending);
        let quantile = if descending { 1.0 - quantile } else { quantile };
        Ok(Box::new(Ranks { quantile, result: args.return_type().clone(), sketch: Sketch::default() }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let list = |name: &str, data_type: DataType| {
            let items = Field::new_list_field(data_type, true);
            Arc::new(Field::new_list(format_state_name(args.name, name), items, true))
        };
        Ok(vec![list("buckets", DataType::Int32), list("counts", DataType::UInt64)])
    }

    fn supports_within_group_clause(&self) -> bool {
        self.inner.inner().supports_within_group_clause()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// The values of one group.
#[derive(Debug)]
struct Ranks {
    quantile: f64,
    result: DataType,
    sketch: Sketch,
}

fn floats(values: &ArrayRef) -> Result<ArrayRef> {
    Ok(cast(values, &DataType::Float64)?)
}

impl Accumulator for Ranks {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = floats(&values[0])?;
        values.as_primitive::<Float64Type>().iter().flatten().for_each(|value| self.sketch.add(value));
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::Float64(self.sketch.quantile(self.quantile)).cast_to(&self.result)
    }

    fn size(&self) -> usize {
        // A node of the map holds eleven buckets; half of them are used after random insertion.
        std::mem::size_of::<Ranks>() + self.sketch.len() * 24
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let buckets = PrimitiveArray::<Int32Type>::from_iter_values(self.sketch.buckets().map(|(bucket, _)| bucket));
        let counts = PrimitiveArray::<UInt64Type>::from_iter_values(self.sketch.buckets().map(|(_, count)| count));
        let list = |values: ArrayRef| SingleRowListArrayBuilder::new(values).build_list_scalar();
        Ok(vec![list(Arc::new(buckets)), list(Arc::new(counts))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let (buckets, counts) = (states[0].as_list::<i32>(), states[1].as_list::<i32>());
        for (buckets, counts) in buckets.iter().flatten().zip(counts.iter().flatten()) {
            let (buckets, counts) = (buckets.as_primitive::<Int32Type>(), counts.as_primitive::<UInt64Type>());
            for (bucket, count) in buckets.values().iter().zip(counts.values()) {
                self.sketch.add_to(*bucket, *count);
            }
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = floats(&values[0])?;
        values.as_primitive::<Float64Type>().iter().flatten().for_each(|value| self.sketch.remove(value));
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }
}
