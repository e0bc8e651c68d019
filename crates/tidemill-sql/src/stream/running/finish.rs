//! [`RunningFactory`]: the second half of a GROUP BY without a window: the states of all groups, and what changed.
//!
//! Groups lie in a [`KeyLog`] as bytes. Partial states gather in small tables; at the barrier the stored states of those
//! groups alone are read, merged and written back, so that neither time nor what is stored depends on the other groups.
//!
//! **Invariant:** a group is stored if and only if it stands downstream (the one group of an aggregate over everything
//! stands from the first epoch on).

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::take_arrays;
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use tidemill_model::{Epoch, Place, Result};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output, StateMemory, Stored};

use super::Spec;
use super::results::difference;
use super::signed::negative;
use crate::stream::aggregate::Groups;
use crate::stream::state::{Give, KeyLog, Layout, hash_of, lost, sort_by_key};
use crate::stream::transform::failed;

/// The name of the log of groups.
const GROUPS: &str = "groups";

/// Makes the second halves.
#[derive(Debug)]
pub(in crate::stream) struct RunningFactory {
    pub(in crate::stream) spec: Spec,
    pub(in crate::stream) text: String,
    pub(in crate::stream) place: Place,
}

impl RunningFactory {
    fn layout(&self) -> Layout {
        let spec = &self.spec.groups;
        let (keys, states) = spec.partial.fields().split_at(spec.leading());
        Layout::new(keys, states, keys.len())
    }
}

impl OperatorFactory for RunningFactory {
    fn create(&self, lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        let spec = &self.spec.groups;
        let pending =
            || Groups::new(&spec.key_schema(0), &spec.aggregates).map_err(|error| failed(&error, &self.place));
        let groups =
            KeyLog::new(Arc::new(self.layout()), GROUPS).map_err(|e| failed(&DataFusionError::from(e), &self.place))?;
        Ok(Box::new(Running {
            pending: [pending()?, pending()?],
            groups,
            spec: Arc::clone(&self.spec),
            place: self.place.clone(),
            lane,
        }))
    }

    fn describe(&self) -> String {
        self.text.clone()
    }

    fn fingerprint(&self) -> String {
        format!("running v1 {} {}", self.layout().fingerprint(), self.spec.fingerprint())
    }
}

struct Running {
    spec: Spec,
    place: Place,
    lane: usize,
    /// What came since the last barrier: of inserted rows, and of retracted ones.
    pending: [Groups; 2],
    groups: KeyLog,
}

/// Groups by their keys.
type Columns = (Vec<ArrayRef>, Vec<ArrayRef>);

impl Running {
    fn take(&mut self, batch: &Batch) -> Result<(), DataFusionError> {
        let spec = &self.spec.groups;
        // A partial operator sends batches of one sign; an exchange divides them without mixing.
        let taken_back = batch.weights.as_ref().is_some_and(|weights| weights.values().iter().any(|w| *w < 0));
        let (keys, states) = batch.rows.columns().split_at(spec.leading());
        self.pending[usize::from(taken_back)].merge(keys, states, batch.len(), &spec.aggregates)
    }

    /// The pending states, those of retracted rows negated.
    fn pending(&mut self) -> Result<Vec<Columns>, DataFusionError> {
        let leading = self.spec.groups.leading();
        let mut all = Vec::new();
        for (number, groups) in self.pending.iter_mut().enumerate() {
            if groups.len() == 0 {
                continue;
            }
            let mut keys = groups.take_states()?;
            let states = keys.split_off(leading);
            all.push((keys, if number == 0 { states } else { negative(&states)? }));
        }
        Ok(all)
    }

    /// Merges what is pending into the stored groups and gives out what changed: all at once, or where stored groups lie in
    /// the tier so many at a time that those which are called up take little of the memory that there is.
    fn settle(&mut self, out: &mut Output) -> Result<(), DataFusionError> {
        let spec = Arc::clone(&self.spec);
        let groups = &spec.groups;
        let global = spec.is_global() && self.lane == 0;
        if global && self.groups.len() == 0 && self.pending[0].len() == 0 {
            // SQL's GROUP BY over everything has one row even when there are none.
            self.pending[0].touch(&groups.aggregates)?;
        }
        let bytes = self.pending.iter().map(Groups::bytes).sum();
        let pending = self.pending()?;
        let parts = self.groups.parts_of(bytes);
        if parts == 1 {
            self.settle_part(pending)?.into_iter().for_each(|change| out.push(change));
            return Ok(());
        }
        let mut of = Vec::with_capacity(pending.len());
        for (keys, states) in &pending {
            let encoded = self.groups.encode_keys(keys)?;
            let part = |row: usize| ((u128::from(hash_of(encoded.row(row))) * parts as u128) >> 64) as usize;
            of.push((0..rows_of(keys, states)).map(part).collect::<Vec<_>>());
        }
        for part in 0..parts {
            let mut chosen = Vec::new();
            for ((keys, states), of) in pending.iter().zip(&of) {
                let rows: UInt32Array = (0_u32..).zip(of).filter(|(_, of)| **of == part).map(|(row, _)| row).collect();
                if !rows.is_empty() {
                    chosen.push((take_arrays(keys, &rows, None)?, take_arrays(states, &rows, None)?));
                }
            }
            self.settle_part(chosen)?.into_iter().for_each(|change| out.push(change));
            self.groups.relieve().map_err(lost)?;
        }
        Ok(())
    }

    /// Merges these and answers what changed.
    fn settle_part(&mut self, pending: Vec<Columns>) -> Result<Option<Batch>, DataFusionError> {
        let spec = Arc::clone(&self.spec);
        let groups = &spec.groups;
        if pending.is_empty() {
            return Ok(None);
        }
        let old = self.stored(&pending)?;
        let new = match pending.as_slice() {
            // Nothing to merge with, as while groups are new.
            [(keys, states)] if old.is_none() => self.batch(keys, states)?,
            _ => {
                let mut merged = Groups::new(&groups.key_schema(0), &groups.aggregates)?;
                if let Some(old) = &old {
                    let (keys, states) = old.columns().split_at(groups.leading());
                    merged.merge(keys, states, old.num_rows(), &groups.aggregates)?;
                }
                for (keys, states) in &pending {
                    merged.merge(keys, states, rows_of(keys, states), &groups.aggregates)?;
                }
                let mut keys = merged.take_states()?;
                let states = keys.split_off(groups.leading());
                self.batch(&keys, &states)?
            }
        };
        drop(pending);
        let standing = spec.results(&new)?;
        let before = old.map(|old| spec.results(&old)).transpose()?;
        let change = difference(before.as_ref().map(|before| &before.rows), &standing)?;
        self.store(&new, &standing.there)?;
        Ok(Some(change))
    }

    /// The stored states of those pending groups that are stored, in order of their keys' bytes; `None` when none is.
    fn stored(&mut self, pending: &[Columns]) -> Result<Option<RecordBatch>, DataFusionError> {
        let encoded = pending.iter().map(|(keys, states)| Ok((self.groups.encode_keys(keys)?, rows_of(keys, states))));
        let encoded = encoded.collect::<Result<Vec<_>, ArrowError>>()?;
        let keys = || encoded.iter().flat_map(|(keys, rows)| (0..*rows).map(|row| keys.row(row)));
        self.groups.call_up(keys()).map_err(lost)?;
        let mut known: Vec<(&[u8], &[u8])> = keys().filter_map(|key| Some((key, self.groups.get(key)?))).collect();
        if known.is_empty() {
            return Ok(None);
        }
        sort_by_key(&mut known);
        known.dedup();
        let keys = self.groups.decode_keys(known.iter().map(|(key, _)| *key))?;
        let values = self.groups.decode_values(known.iter().map(|(_, value)| *value))?;
        let options = RecordBatchOptions::new().with_row_count(Some(known.len()));
        let columns = keys.into_iter().chain(values).collect();
        Ok(Some(RecordBatch::try_new_with_options(Arc::clone(&self.spec.groups.partial), columns, &options)?))
    }

    /// Keys and states as the columns of one batch.
    fn batch(&self, keys: &[ArrayRef], states: &[ArrayRef]) -> Result<RecordBatch, ArrowError> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows_of(keys, states)));
        let columns = [keys, states].concat();
        RecordBatch::try_new_with_options(Arc::clone(&self.spec.groups.partial), columns, &options)
    }

    fn store(&mut self, new: &RecordBatch, there: &BooleanArray) -> Result<(), ArrowError> {
        let (keys, states) = new.columns().split_at(self.spec.groups.leading());
        let (keys, states) = (self.groups.encode_keys(keys)?, self.groups.encode_values(states)?);
        for row in 0..new.num_rows() {
            if there.value(row) {
                self.groups.put(keys.row(row), states.row(row));
            } else {
                self.groups.remove(keys.row(row));
            }
        }
        Ok(())
    }
}

/// How many groups these columns are of; without any column it is the one group.
fn rows_of(keys: &[ArrayRef], states: &[ArrayRef]) -> usize {
    keys.first().or(states.first()).map_or(1, |column| column.len())
}

impl Operator for Running {
    fn bound(&mut self, memory: &StateMemory) {
        self.groups.bound(memory);
    }

    fn on_batch(&mut self, _input: usize, batch: Batch, _out: &mut Output) -> Result<()> {
        self.take(&batch).map_err(|error| failed(&error, &self.place))
    }

    fn before_barrier(&mut self, out: &mut Output) -> Result<()> {
        self.settle(out).map_err(|error| failed(&error, &self.place))
    }

    fn snapshot_into(&mut self, _epoch: Epoch, give: Give<'_>) -> Result<()> {
        self.groups.snapshot(give)
    }

    fn keeps_chunks(&self) -> bool {
        true
    }

    fn restore_from(&mut self, stored: &mut Stored<'_>) -> Result<()> {
        self.groups.restore_from(stored)
    }
}
