//! [`OneTotal`]: the total of one group, of all values or of the distinct ones.
//!
//! **Invariant:** it answers what [`Totals`] of one group answers, and its state is the same.

use std::collections::HashSet;
use std::mem::size_of;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Decimal128Array, Int64Array, UInt64Array};
use arrow::datatypes::{DataType, Decimal128Type, Int64Type, UInt64Type};
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::{Accumulator, GroupsAccumulator};

use super::totals::Totals;

/// One total, of all values or of the distinct ones.
#[derive(Debug)]
pub(super) struct OneTotal {
    totals: Totals,
    /// The values that were counted, where each counts once.
    distinct: Option<HashSet<i128>>,
}

impl OneTotal {
    pub(super) fn new(mut totals: Totals) -> OneTotal {
        totals.resize(1);
        OneTotal { totals, distinct: None }
    }

    pub(super) fn distinct(totals: Totals) -> OneTotal {
        OneTotal { distinct: Some(HashSet::new()), ..OneTotal::new(totals) }
    }

    fn collect(&mut self, values: &ArrayRef) -> Result<()> {
        let Some(distinct) = &mut self.distinct else {
            return self.totals.add_all(values, 1);
        };
        let mut fresh: Vec<i128> = Vec::new();
        let mut see = |value: i128| {
            if distinct.insert(value) {
                fresh.push(value);
            }
        };
        match values.data_type() {
            DataType::Int64 => values.as_primitive::<Int64Type>().iter().flatten().for_each(|v| see(v.into())),
            DataType::UInt64 => values.as_primitive::<UInt64Type>().iter().flatten().for_each(|v| see(v.into())),
            DataType::Decimal128(_, _) => values.as_primitive::<Decimal128Type>().iter().flatten().for_each(see),
            other => return internal_err!("distinct totals of {other} were not planned"),
        }
        fresh.into_iter().for_each(|value| self.totals.add_one(0, value, 1));
        Ok(())
    }
}

impl Accumulator for OneTotal {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.collect(&values[0])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let result = self.totals.results(&self.totals.copied())?;
        ScalarValue::try_from_array(&result, 0)
    }

    fn size(&self) -> usize {
        size_of::<OneTotal>() + self.totals.size() + self.distinct.as_ref().map_or(0, |set| set.capacity() * 24)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let Some(distinct) = &self.distinct else {
            let states = self.totals.states(self.totals.copied())?;
            return states.iter().map(|state| ScalarValue::try_from_array(state, 0)).collect();
        };
        let mut values: Vec<i128> = distinct.iter().copied().collect();
        values.sort_unstable();
        // Values go out in the type that they came in.
        let array: ArrayRef = match &self.totals.argument {
            DataType::Decimal128(precision, scale) => {
                let decimals = Decimal128Array::from_iter_values(values);
                Arc::new(decimals.with_precision_and_scale(*precision, *scale)?)
            }
            DataType::UInt64 => Arc::new(UInt64Array::from_iter_values(values.iter().map(|value| *value as u64))),
            _ => Arc::new(Int64Array::from_iter_values(values.iter().map(|value| *value as i64))),
        };
        Ok(vec![SingleRowListArrayBuilder::new(array).build_list_scalar()])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        if self.distinct.is_none() {
            return self.totals.merge_batch(states, &vec![0; states[0].len()], 1);
        }
        for values in states[0].as_list::<i32>().iter().flatten() {
            self.collect(&values)?;
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        if self.distinct.is_some() {
            return internal_err!("distinct totals do not take rows back");
        }
        self.totals.add_all(&values[0], -1)
    }

    fn supports_retract_batch(&self) -> bool {
        self.distinct.is_none()
    }
}
