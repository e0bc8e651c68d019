//! [`Total`]: `sum` and `avg`. Integers, and sums of decimals, are added up exactly; the rest is DataFusion's.
//!
//! **Invariant:** range is checked once, on the result: whether a sum fails does not depend on the order of rows.

use std::sync::Arc;

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, ReversedUDAF, SetMonotonicity,
    Signature, StatisticsArgs, Volatility,
};

use super::one::OneTotal;
use super::totals::Totals;

/// What is made of a total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Measure {
    /// The total itself.
    Sum,
    /// The total by the number of values.
    Mean,
}

/// The function.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Total {
    measure: Measure,
    inner: Arc<AggregateUDF>,
    signature: Signature,
}

impl Total {
    pub(super) fn new(measure: Measure, inner: Arc<AggregateUDF>) -> Total {
        Total { measure, inner, signature: Signature::user_defined(Volatility::Immutable) }
    }

    /// Whether totals of such values are ours.
    fn is_ours(&self, argument: &DataType) -> bool {
        match argument {
            DataType::Int64 | DataType::UInt64 => true,
            // The mean of decimals is added up in a wider type by DataFusion already.
            DataType::Decimal128(_, _) => self.measure == Measure::Sum,
            _ => false,
        }
    }

    fn totals(&self, args: &AccumulatorArgs<'_>) -> Totals {
        Totals::new(self.measure, args.expr_fields[0].data_type().clone(), args.return_type().clone())
    }
}

/// The state of a total: what it is added up in.
pub(super) fn total_type(argument: &DataType) -> DataType {
    match argument {
        DataType::Decimal128(_, scale) => DataType::Decimal256(DECIMAL256_MAX_PRECISION, *scale),
        _ => DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0),
    }
}

impl AggregateUDFImpl for Total {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let [argument] = arg_types else {
            return plan_err!("{} takes one argument, not {}", self.name(), arg_types.len());
        };
        let argument = if let DataType::Dictionary(_, value) = argument { value } else { argument };
        Ok(vec![match argument {
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 | DataType::Null => DataType::Int64,
            DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => DataType::UInt64,
            DataType::Float16 | DataType::Float32 | DataType::Float64 => DataType::Float64,
            DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
                DataType::Decimal128(*precision, *scale)
            }
            DataType::Decimal128(_, _) | DataType::Decimal256(_, _) | DataType::Duration(_) => argument.clone(),
            DataType::Interval(_) if self.measure == Measure::Sum => argument.clone(),
            other => return plan_err!("{} needs numbers, not {other}", self.name()),
        }])
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match (self.measure, arg_types) {
            (Measure::Mean, [DataType::Int64 | DataType::UInt64]) => Ok(DataType::Float64),
            _ => self.inner.return_type(arg_types),
        }
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let argument = args.expr_fields[0].data_type();
        match (self.is_ours(argument), args.is_distinct) {
            (true, false) => Ok(Box::new(OneTotal::new(self.totals(&args)))),
            (true, true) => Ok(Box::new(OneTotal::distinct(self.totals(&args)))),
            (false, _) => self.inner.accumulator(args),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let argument = args.input_fields[0].data_type();
        if !self.is_ours(argument) {
            return self.inner.state_fields(args);
        }
        if args.is_distinct {
            let values = Field::new_list_field(argument.clone(), true);
            return Ok(vec![Arc::new(Field::new_list(format_state_name(args.name, "values"), values, true))]);
        }
        let total = Field::new(format_state_name(args.name, "total"), total_type(argument), true);
        let count = Field::new(format_state_name(args.name, "count"), DataType::Int64, true);
        Ok(match self.measure {
            Measure::Sum => vec![Arc::new(total)],
            Measure::Mean => vec![Arc::new(total), Arc::new(count)],
        })
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        if self.is_ours(args.expr_fields[0].data_type()) {
            return !args.is_distinct;
        }
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        if self.is_ours(args.expr_fields[0].data_type()) {
            return Ok(Box::new(self.totals(&args)));
        }
        self.inner.create_groups_accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if self.is_ours(args.expr_fields[0].data_type()) {
            return self.accumulator(args);
        }
        self.inner.create_sliding_accumulator(args)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(data_type)
    }

    fn value_from_stats(&self, statistics_args: &StatisticsArgs) -> Option<ScalarValue> {
        self.inner.value_from_stats(statistics_args)
    }
}
