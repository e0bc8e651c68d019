//! [`Count`]: `count`, where distinct whole numbers are counted by sorting the values of each group.
//!
//! DataFusion keeps one table of pairs of group and value, which no processor's cache holds. Here a value goes to the end
//! of its group's list, and a list that has doubled is sorted and loses what it has twice.
//!
//! **Invariant:** a list takes at most twice what its distinct values do; states are those of DataFusion.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, Int64Array, ListArray, PrimitiveArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{
    DataType, Field, FieldRef, Int16Type, Int32Type, Int64Type, UInt16Type, UInt32Type, UInt64Type,
};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, ReversedUDAF,
    SetMonotonicity, Signature, StatisticsArgs,
};

/// The function.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Count {
    inner: Arc<AggregateUDF>,
}

impl Count {
    pub(super) fn new(inner: Arc<AggregateUDF>) -> Count {
        Count { inner }
    }
}

impl AggregateUDFImpl for Count {
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

    fn is_nullable(&self) -> bool {
        self.inner.is_nullable()
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        if !args.is_distinct {
            return self.inner.create_groups_accumulator(args);
        }
        Ok(match args.expr_fields[0].data_type() {
            DataType::Int16 => Box::new(Distinct::<Int16Type>::default()),
            DataType::Int32 => Box::new(Distinct::<Int32Type>::default()),
            DataType::Int64 => Box::new(Distinct::<Int64Type>::default()),
            DataType::UInt16 => Box::new(Distinct::<UInt16Type>::default()),
            DataType::UInt32 => Box::new(Distinct::<UInt32Type>::default()),
            DataType::UInt64 => Box::new(Distinct::<UInt64Type>::default()),
            _ => return self.inner.create_groups_accumulator(args),
        })
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.create_sliding_accumulator(args)
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.inner.default_value(data_type)
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

/// A list is not sorted before it has so many values.
const FEW: usize = 32;

/// The values of one group, of which the first `distinct` ones differ.
#[derive(Debug, Clone)]
struct Values<V> {
    values: Vec<V>,
    distinct: usize,
}

impl<V> Default for Values<V> {
    fn default() -> Values<V> {
        Values { values: Vec::new(), distinct: 0 }
    }
}

impl<V: Ord> Values<V> {
    /// Makes sure that no value is there twice.
    fn settle(&mut self) {
        if self.values.len() > self.distinct {
            // The first part is sorted already, which this sort makes use of.
            self.values.sort();
            self.values.dedup();
            self.distinct = self.values.len();
        }
    }

    #[inline]
    fn settle_doubled(&mut self) {
        if self.values.len() >= FEW.max(2 * self.distinct) {
            self.settle();
        }
    }
}

/// The distinct values of each group.
#[derive(Debug)]
struct Distinct<T: ArrowPrimitiveType> {
    groups: Vec<Values<T::Native>>,
    /// How many values there is room for, in all lists.
    room: usize,
}

impl<T: ArrowPrimitiveType> Default for Distinct<T> {
    fn default() -> Distinct<T> {
        Distinct { groups: Vec::new(), room: 0 }
    }
}

impl<T: ArrowPrimitiveType> Distinct<T>
where
    T::Native: Ord,
{
    #[inline]
    fn add(&mut self, group: usize, value: T::Native) {
        let of = &mut self.groups[group];
        if of.values.len() < of.values.capacity() {
            of.values.push(value);
            return;
        }
        // Before it grows it is worth a look whether it must.
        of.settle_doubled();
        let before = of.values.capacity();
        of.values.push(value);
        self.room += of.values.capacity() - before;
    }

    /// The lists of these groups, settled.
    fn take(&mut self, emit_to: EmitTo) -> Vec<Values<T::Native>> {
        let mut taken = emit_to.take_needed(&mut self.groups);
        for of in &mut taken {
            self.room = self.room.saturating_sub(of.values.capacity());
            of.settle();
        }
        taken
    }
}

impl<T: ArrowPrimitiveType + std::fmt::Debug> GroupsAccumulator for Distinct<T>
where
    T::Native: Ord,
{
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.groups.resize(total_num_groups, Values::default());
        let values = values[0].as_primitive::<T>();
        if opt_filter.is_none() && values.null_count() == 0 {
            for (group, value) in group_indices.iter().zip(values.values()) {
                self.add(*group, *value);
            }
            return Ok(());
        }
        for (row, group) in group_indices.iter().enumerate() {
            let wanted = opt_filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
            if wanted && values.is_valid(row) {
                self.add(*group, values.value(row));
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.groups.resize(total_num_groups, Values::default());
        let lists = states[0].as_list::<i32>();
        let values = lists.values().as_primitive::<T>().values();
        for (group, ends) in group_indices.iter().zip(lists.offsets().windows(2)) {
            let of = &mut self.groups[*group];
            let before = of.values.capacity();
            of.values.extend_from_slice(&values[ends[0] as usize..ends[1] as usize]);
            self.room += of.values.capacity() - before;
            of.settle_doubled();
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let counts = self.take(emit_to).into_iter().map(|of| of.distinct as i64);
        Ok(Arc::new(Int64Array::from_iter_values(counts)))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let taken = self.take(emit_to);
        let mut values = Vec::with_capacity(taken.iter().map(|of| of.distinct).sum());
        let mut lengths = Vec::with_capacity(taken.len());
        for of in taken {
            lengths.push(of.distinct);
            values.extend(of.values);
        }
        list::<T>(values, lengths)
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let values = values[0].as_primitive::<T>();
        let wanted = |row: &usize| {
            values.is_valid(*row) && opt_filter.is_none_or(|filter| filter.is_valid(*row) && filter.value(*row))
        };
        let given = (0..values.len()).filter(wanted).map(|row| values.value(row)).collect();
        list::<T>(given, (0..values.len()).map(|row| usize::from(wanted(&row))).collect())
    }

    fn size(&self) -> usize {
        self.room * size_of::<T::Native>() + self.groups.capacity() * size_of::<Values<T::Native>>()
    }
}

fn list<T: ArrowPrimitiveType>(values: Vec<T::Native>, lengths: Vec<usize>) -> Result<Vec<ArrayRef>> {
    let field = Arc::new(Field::new_list_field(T::DATA_TYPE, true));
    let values: ArrayRef = Arc::new(PrimitiveArray::<T>::new(values.into(), None));
    Ok(vec![Arc::new(ListArray::try_new(field, OffsetBuffer::from_lengths(lengths), values, None)?)])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_value_of_a_group_counts_once_whatever_way_it_came() {
        let mut random = fastrand::Rng::with_seed(7);
        for range in [3, 50, 5_000] {
            let mut parts: Vec<Distinct<Int64Type>> = (0..3).map(|_| Distinct::default()).collect();
            let mut oracle: Vec<BTreeSet<i64>> = vec![BTreeSet::new(); 5];
            for step in 0..60 {
                let rows = random.usize(0..200);
                let groups: Vec<usize> = (0..rows).map(|_| random.usize(0..5)).collect();
                let of: Int64Array = (0..rows).map(|_| (random.u8(..) > 9).then(|| random.i64(0..range))).collect();
                let filter = (step % 3 == 0)
                    .then(|| (0..rows).map(|_| (random.u8(..) > 9).then(|| random.bool())).collect::<BooleanArray>());
                for (row, group) in groups.iter().enumerate() {
                    let wanted = filter.as_ref().is_none_or(|filter| filter.is_valid(row) && filter.value(row));
                    if wanted && of.is_valid(row) {
                        oracle[*group].insert(of.value(row));
                    }
                }
                let of: ArrayRef = Arc::new(of);
                let part = &mut parts[step % 3];
                if step % 5 == 0 {
                    let states = part.convert_to_state(&[of], filter.as_ref()).expect("states");
                    part.merge_batch(&states, &groups, 5).expect("merges");
                } else {
                    part.update_batch(&[of], &groups, filter.as_ref(), 5).expect("adds");
                }
            }
            let mut all = Distinct::<Int64Type>::default();
            for part in &mut parts {
                let some = part.state(EmitTo::First(2)).expect("states");
                all.merge_batch(&some, &[0, 1], 5).expect("merges");
                let others = part.state(EmitTo::All).expect("states");
                all.merge_batch(&others, &[2, 3, 4], 5).expect("merges");
                assert_eq!((part.groups.len(), part.room), (0, 0));
            }
            let first = all.evaluate(EmitTo::First(1)).expect("counts");
            let rest = all.evaluate(EmitTo::All).expect("counts");
            let counts: Vec<i64> =
                [first, rest].iter().flat_map(|counts| counts.as_primitive::<Int64Type>().values().to_vec()).collect();
            assert_eq!(counts, oracle.iter().map(|set| set.len() as i64).collect::<Vec<_>>());
        }
    }
}
