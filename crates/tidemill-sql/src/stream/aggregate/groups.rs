//! [`Groups`]: a hash table of groups with their accumulators.
//!
//! **Invariant:** group `i` is the `i`-th distinct key that was seen; taking states or results empties the table.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, new_null_array};
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::GroupsAccumulatorAdapter;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use super::spec::Aggregate;
use crate::session::{truths, values};

/// Groups and what was accumulated for each.
pub(in crate::stream) struct Groups {
    /// `None` when there are no key columns: everything is one group.
    keys: Option<Box<dyn GroupValues>>,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
    len: usize,
    indices: Vec<usize>,
}

impl Groups {
    /// An empty table.
    pub(in crate::stream) fn new(keys: &SchemaRef, aggregates: &[Aggregate]) -> Result<Groups> {
        let keys = match keys.fields().is_empty() {
            true => None,
            false => Some(new_group_values(Arc::clone(keys), &GroupOrdering::None)?),
        };
        let accumulators = aggregates.iter().map(accumulator).collect::<Result<Vec<_>>>()?;
        Ok(Groups { keys, accumulators, len: 0, indices: Vec::new() })
    }

    /// How many groups.
    pub(in crate::stream) fn len(&self) -> usize {
        self.len
    }

    /// About how many bytes. Not cheap: for now and then.
    pub(in crate::stream) fn bytes(&self) -> usize {
        let keys = self.keys.as_ref().map_or(0, |keys| keys.size());
        keys + self.accumulators.iter().map(|accumulator| accumulator.size()).sum::<usize>()
    }

    /// Adds input rows with these keys.
    pub(in crate::stream) fn update(
        &mut self,
        keys: &[ArrayRef],
        input: &RecordBatch,
        aggregates: &[Aggregate],
    ) -> Result<()> {
        self.intern(keys, input.num_rows())?;
        for (aggregate, accumulator) in aggregates.iter().zip(&mut self.accumulators) {
            accumulate(aggregate, accumulator.as_mut(), input, (&self.indices, self.len))?;
        }
        Ok(())
    }

    /// Adds states, as [`Groups::take_states`] gave them.
    pub(in crate::stream) fn merge(
        &mut self,
        keys: &[ArrayRef],
        states: &[ArrayRef],
        rows: usize,
        aggregates: &[Aggregate],
    ) -> Result<()> {
        self.intern(keys, rows)?;
        self.merge_interned(states, aggregates)
    }

    /// Adds states to the groups of these numbers, of so many, where no keys tell groups apart.
    pub(super) fn merge_numbered(
        &mut self,
        of: Vec<usize>,
        groups: usize,
        states: &[ArrayRef],
        aggregates: &[Aggregate],
    ) -> Result<()> {
        (self.indices, self.len) = (of, groups);
        self.merge_interned(states, aggregates)
    }

    fn merge_interned(&mut self, states: &[ArrayRef], aggregates: &[Aggregate]) -> Result<()> {
        let mut from = 0;
        for (aggregate, accumulator) in aggregates.iter().zip(&mut self.accumulators) {
            let states = &states[from..from + aggregate.states];
            from += aggregate.states;
            accumulator.merge_batch(states, &self.indices, self.len)?;
        }
        Ok(())
    }

    /// Which group each of the rows is of that were added last.
    pub(in crate::stream) fn of_last(&self) -> &[usize] {
        &self.indices
    }

    /// The states of input rows: each row is a group of its own.
    pub(in crate::stream) fn states_of(input: &RecordBatch, aggregates: &[Aggregate]) -> Result<Vec<ArrayRef>> {
        let rows = input.num_rows();
        let indices: Vec<usize> = (0..rows).collect();
        let mut states = Vec::new();
        for aggregate in aggregates {
            let mut accumulator = accumulator(aggregate)?;
            accumulate(aggregate, accumulator.as_mut(), input, (&indices, rows))?;
            states.extend(accumulator.state(EmitTo::All)?);
        }
        Ok(states)
    }

    /// The results of states, row by row: each row is a group of its own.
    pub(in crate::stream) fn results_of(
        states: &[ArrayRef],
        rows: usize,
        aggregates: &[Aggregate],
    ) -> Result<Vec<ArrayRef>> {
        let indices: Vec<usize> = (0..rows).collect();
        let mut from = 0;
        let result = |aggregate: &Aggregate| {
            let states = &states[from..from + aggregate.states];
            from += aggregate.states;
            let mut accumulator = accumulator(aggregate)?;
            accumulator.merge_batch(states, &indices, rows)?;
            accumulator.evaluate(EmitTo::All)
        };
        aggregates.iter().map(result).collect()
    }

    /// Makes sure that there are groups with these keys, first of all, which have seen no value yet.
    pub(super) fn know(&mut self, keys: &[ArrayRef], rows: usize, aggregates: &[Aggregate]) -> Result<()> {
        self.intern(keys, rows)?;
        self.see_nothing(aggregates)
    }

    /// Makes sure that the one group without keys exists, though no row did.
    pub(in crate::stream) fn touch(&mut self, aggregates: &[Aggregate]) -> Result<()> {
        if self.keys.is_some() || self.len > 0 {
            return Ok(());
        }
        self.len = 1;
        self.indices.clear();
        self.indices.push(0);
        self.see_nothing(aggregates)
    }

    /// Shows the accumulators rows of the interned groups that a filter leaves out: the groups are there and have seen no
    /// value. Accumulators take it for granted that every group comes with its first value; one that they were not told
    /// of would count as having seen one as soon as others do.
    fn see_nothing(&mut self, aggregates: &[Aggregate]) -> Result<()> {
        let rows = self.indices.len();
        let none = BooleanArray::from(vec![false; rows]);
        for (aggregate, accumulator) in aggregates.iter().zip(&mut self.accumulators) {
            let args: Vec<ArrayRef> = aggregate.types.iter().map(|of| new_null_array(of, rows)).collect();
            accumulator.update_batch(&args, &self.indices, Some(&none), self.len)?;
        }
        Ok(())
    }

    /// The keys and states of all groups, in the order of the groups.
    pub(in crate::stream) fn take_states(&mut self) -> Result<Vec<ArrayRef>> {
        let mut columns = self.take_keys()?;
        for accumulator in &mut self.accumulators {
            columns.extend(accumulator.state(EmitTo::All)?);
        }
        Ok(columns)
    }

    /// The keys and the results of all groups, in the order of the groups.
    pub(in crate::stream) fn take_results(&mut self) -> Result<(Vec<ArrayRef>, Vec<ArrayRef>)> {
        let keys = self.take_keys()?;
        let results =
            self.accumulators.iter_mut().map(|accumulator| accumulator.evaluate(EmitTo::All)).collect::<Result<_>>()?;
        Ok((keys, results))
    }

    fn take_keys(&mut self) -> Result<Vec<ArrayRef>> {
        self.len = 0;
        let Some(keys) = &mut self.keys else { return Ok(Vec::new()) };
        let taken = keys.emit(EmitTo::All)?;
        keys.clear_shrink(0);
        Ok(taken)
    }

    fn intern(&mut self, keys: &[ArrayRef], rows: usize) -> Result<()> {
        match &mut self.keys {
            Some(values) => {
                values.intern(keys, &mut self.indices)?;
                self.len = values.len();
            }
            None => {
                self.indices.clear();
                self.indices.resize(rows, 0);
                self.len = self.len.max(usize::from(rows > 0));
            }
        }
        Ok(())
    }
}

/// Adds the values of input rows to the groups that they are of.
fn accumulate(
    aggregate: &Aggregate,
    accumulator: &mut dyn GroupsAccumulator,
    input: &RecordBatch,
    (groups, total): (&[usize], usize),
) -> Result<()> {
    let args = aggregate.args.iter().map(|arg| values(arg, input)).collect::<Result<Vec<_>>>()?;
    let filter = match &aggregate.filter {
        None => None,
        Some(filter) => Some(truths(filter, input)?),
    };
    accumulator.update_batch(&args, groups, filter.as_ref(), total)
}

fn accumulator(aggregate: &Aggregate) -> Result<Box<dyn GroupsAccumulator>> {
    let function = Arc::clone(&aggregate.function);
    if function.groups_accumulator_supported() {
        return function.create_groups_accumulator();
    }
    Ok(Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator())))
}

/// Rows of a mask, for `filter`.
pub(super) fn mask(keep: impl Iterator<Item = bool>) -> BooleanArray {
    keep.map(Some).collect()
}
