//! [`Totals`]: exact totals for groups of rows.
//!
//! **Invariant:** no total overflows while it grows. 2^63 values of 64 bits fit into the 128 bits that they are added up
//! in; totals of decimals count how often they went around those 128 bits.

use std::mem::size_of;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Decimal256Array, Float64Array, Int64Array, PrimitiveArray,
    UInt64Array,
};
use arrow::datatypes::{
    ArrowPrimitiveType, DECIMAL256_MAX_PRECISION, DataType, Decimal128Type, Decimal256Type, DecimalType, Int64Type,
    UInt64Type, i256,
};
use datafusion::common::{Result, exec_datafusion_err, internal_err};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

use super::total::{Measure, total_type};

/// Totals of groups.
#[derive(Debug)]
pub(super) struct Totals {
    measure: Measure,
    pub(super) argument: DataType,
    result: DataType,
    /// The totals modulo 2^128.
    low: Vec<i128>,
    /// How many times 2^128 is to be added to each; empty as long as that is nowhere needed.
    around: Vec<i64>,
    /// How many values; a total of none is NULL.
    counts: Vec<i64>,
}

impl Totals {
    pub(super) fn new(measure: Measure, argument: DataType, result: DataType) -> Totals {
        Totals { measure, argument, result, low: Vec::new(), around: Vec::new(), counts: Vec::new() }
    }

    pub(super) fn resize(&mut self, groups: usize) {
        self.low.resize(groups, 0);
        self.counts.resize(groups, 0);
        if !self.around.is_empty() {
            self.around.resize(groups, 0);
        }
    }

    /// Adds values `sign` times each.
    fn add<T: ArrowPrimitiveType>(
        &mut self,
        values: &PrimitiveArray<T>,
        groups: &[usize],
        filter: Option<&BooleanArray>,
        sign: i64,
    ) where
        T::Native: Into<i128>,
    {
        if filter.is_none() && values.null_count() == 0 {
            for (group, value) in groups.iter().zip(values.values()) {
                self.add_one(*group, (*value).into(), sign);
            }
            return;
        }
        for (row, group) in groups.iter().enumerate() {
            let wanted = filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
            if wanted && values.is_valid(row) {
                self.add_one(*group, values.value(row).into(), sign);
            }
        }
    }

    #[inline]
    pub(super) fn add_one(&mut self, group: usize, value: i128, sign: i64) {
        // No value of 38 digits is at the edge of 128 bits, so its negative exists.
        self.add_low(group, value * i128::from(sign));
        self.counts[group] += sign;
    }

    #[inline]
    fn add_low(&mut self, group: usize, value: i128) {
        let (low, wrapped) = self.low[group].overflowing_add(value);
        self.low[group] = low;
        if wrapped {
            self.go_around(group, if value > 0 { 1 } else { -1 });
        }
    }

    #[cold]
    fn go_around(&mut self, group: usize, times: i64) {
        if self.around.is_empty() {
            self.around = vec![0; self.low.len()];
        }
        self.around[group] += times;
    }

    fn add_values(
        &mut self,
        values: &ArrayRef,
        groups: &[usize],
        filter: Option<&BooleanArray>,
        sign: i64,
    ) -> Result<()> {
        match values.data_type() {
            DataType::Int64 => self.add(values.as_primitive::<Int64Type>(), groups, filter, sign),
            DataType::UInt64 => self.add(values.as_primitive::<UInt64Type>(), groups, filter, sign),
            DataType::Decimal128(_, _) => self.add(values.as_primitive::<Decimal128Type>(), groups, filter, sign),
            other => return internal_err!("a total of {other} was not planned"),
        }
        Ok(())
    }

    /// Adds all values to the first group.
    pub(super) fn add_all(&mut self, values: &ArrayRef, sign: i64) -> Result<()> {
        let groups = match values.data_type() {
            DataType::Int64 if values.null_count() == 0 => {
                // A batch of 64-bit values cannot go around 128 bits.
                let sum: i128 =
                    values.as_primitive::<Int64Type>().values().iter().map(|value| i128::from(*value)).sum();
                self.add_low(0, sum * i128::from(sign));
                self.counts[0] += sign * values.len() as i64;
                return Ok(());
            }
            _ => vec![0; values.len()],
        };
        self.add_values(values, &groups, None, sign)
    }

    /// Adds totals that were added up elsewhere.
    pub(super) fn add_states(&mut self, states: &[ArrayRef], groups: &[usize]) {
        let (totals, counts) = (&states[0], states.get(1).map(|counts| counts.as_primitive::<Int64Type>()));
        let known = groups.iter().enumerate().filter(|(row, _)| totals.is_valid(*row));
        match totals.as_primitive_opt::<Decimal256Type>() {
            Some(totals) => {
                for (row, group) in known {
                    let (low, high) = totals.value(row).to_parts();
                    let low = low as i128;
                    self.add_low(*group, low);
                    // A negative low part was read as 2^128 less than it stands for.
                    let around = high as i64 + i64::from(low < 0);
                    if around != 0 {
                        self.go_around(*group, around);
                    }
                    self.counts[*group] += counts.map_or(1, |counts| counts.value(row));
                }
            }
            None => {
                let totals = totals.as_primitive::<Decimal128Type>();
                for (row, group) in known {
                    self.add_low(*group, totals.value(row));
                    self.counts[*group] += counts.map_or(1, |counts| counts.value(row));
                }
            }
        }
    }

    fn take(&mut self, emit_to: EmitTo) -> Taken {
        let low = emit_to.take_needed(&mut self.low);
        let around = if self.around.is_empty() { Vec::new() } else { emit_to.take_needed(&mut self.around) };
        Taken { low, around, counts: emit_to.take_needed(&mut self.counts) }
    }

    pub(super) fn copied(&self) -> Taken {
        Taken { low: self.low.clone(), around: self.around.clone(), counts: self.counts.clone() }
    }

    pub(super) fn results(&self, taken: &Taken) -> Result<ArrayRef> {
        if self.measure == Measure::Mean {
            let means = taken.narrow().zip(&taken.counts).map(|(total, count)| match total {
                Narrow::Total(total) => Some(total as f64 / *count as f64),
                // Only decimals go around, and their means are not ours.
                Narrow::None | Narrow::Beyond => None,
            });
            return Ok(Arc::new(means.collect::<Float64Array>()));
        }
        match &self.result {
            DataType::Int64 => {
                let sums: Int64Array = taken.fitting(|total| i64::try_from(total).ok(), "BIGINT")?;
                Ok(Arc::new(sums))
            }
            DataType::UInt64 => {
                let sums: UInt64Array = taken.fitting(|total| u64::try_from(total).ok(), "BIGINT UNSIGNED")?;
                Ok(Arc::new(sums))
            }
            DataType::Decimal128(precision, scale) => {
                let fits = |total: i128| {
                    Decimal128Type::validate_decimal_precision(total, *precision, *scale).ok().map(|()| total)
                };
                let sums: Decimal128Array = taken.fitting(fits, &format!("DECIMAL({precision}, {scale})"))?;
                Ok(Arc::new(sums.with_precision_and_scale(*precision, *scale)?))
            }
            other => internal_err!("a sum cannot be a {other}"),
        }
    }

    pub(super) fn states(&self, taken: Taken) -> Result<Vec<ArrayRef>> {
        let total: ArrayRef = match total_type(&self.argument) {
            DataType::Decimal256(_, scale) => {
                let wide = taken.wide().collect::<Decimal256Array>();
                Arc::new(wide.with_precision_and_scale(DECIMAL256_MAX_PRECISION, scale)?)
            }
            DataType::Decimal128(precision, scale) => {
                let known = taken.low.iter().zip(&taken.counts).map(|(total, count)| (*count > 0).then_some(*total));
                Arc::new(known.collect::<Decimal128Array>().with_precision_and_scale(precision, scale)?)
            }
            other => return internal_err!("a total cannot be a {other}"),
        };
        Ok(match self.measure {
            Measure::Sum => vec![total],
            Measure::Mean => vec![total, Arc::new(Int64Array::from(taken.counts))],
        })
    }
}

/// Totals of groups that are done.
pub(super) struct Taken {
    low: Vec<i128>,
    around: Vec<i64>,
    counts: Vec<i64>,
}

/// A total as 128 bits.
enum Narrow {
    /// There were no values.
    None,
    Total(i128),
    /// It has more bits.
    Beyond,
}

impl Taken {
    fn narrow(&self) -> impl Iterator<Item = Narrow> + '_ {
        self.low.iter().zip(&self.counts).enumerate().map(|(group, (low, count))| {
            match (*count > 0, self.around.get(group).copied().unwrap_or(0)) {
                (false, _) => Narrow::None,
                (true, 0) => Narrow::Total(*low),
                (true, _) => Narrow::Beyond,
            }
        })
    }

    fn wide(&self) -> impl Iterator<Item = Option<i256>> + '_ {
        self.low.iter().zip(&self.counts).enumerate().map(|(group, (low, count))| {
            let around = i128::from(self.around.get(group).copied().unwrap_or(0)) - i128::from(*low < 0);
            (*count > 0).then(|| i256::from_parts(*low as u128, around))
        })
    }

    /// The totals that have a place in the type `name`; one that has none is an error.
    fn fitting<V, A: FromIterator<Option<V>>>(&self, fits: impl Fn(i128) -> Option<V>, name: &str) -> Result<A> {
        self.narrow()
            .map(|total| match total {
                Narrow::None => Ok(None),
                Narrow::Total(total) => fits(total).map(Some).ok_or(()),
                Narrow::Beyond => Err(()),
            })
            .map(|fitting| {
                fitting.map_err(|()| {
                    let wider =
                        if name.starts_with("DECIMAL") { "" } else { "; sum(CAST(… AS DECIMAL(38, 0))) has room" };
                    exec_datafusion_err!("a sum is out of range of {name}{wider}")
                })
            })
            .collect()
    }
}

impl GroupsAccumulator for Totals {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.resize(total_num_groups);
        self.add_values(&values[0], group_indices, opt_filter, 1)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let taken = self.take(emit_to);
        self.results(&taken)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let taken = self.take(emit_to);
        self.states(taken)
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.resize(total_num_groups);
        self.add_states(values, group_indices);
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let mut each = Totals::new(self.measure, self.argument.clone(), self.result.clone());
        let rows = values[0].len();
        each.update_batch(values, &(0..rows).collect::<Vec<usize>>(), opt_filter, rows)?;
        each.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        self.low.capacity() * size_of::<i128>() + (self.counts.capacity() + self.around.capacity()) * size_of::<i64>()
    }
}
