//! [`TopFactory`]: the first rows of each key, where rows only come: no other rows are kept.
//!
//! **Invariant:** what is stored of a key is what stands of it downstream.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use datafusion::common::HashMap;
use datafusion::error::DataFusionError;
use tidemill_model::{Epoch, Error, Result};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output, StateMemory, Stored};

use super::TopSpec;
use super::coder::{Chosen, Coder, difference};
use crate::stream::state::{Give, KeyLog, Layout, lost};
use crate::stream::transform::failed;

/// The name of the log of rows.
const FIRST: &str = "first";

/// Makes the operators.
#[derive(Debug)]
pub(in crate::stream) struct TopFactory(pub(in crate::stream) Arc<TopSpec>);

impl TopFactory {
    /// Key and place in it, to the rest of the row.
    fn layout(&self) -> Layout {
        let (keys, rests) = self.0.schema.fields().split_at(self.0.keys);
        let place: FieldRef = Arc::new(Field::new("place", DataType::UInt32, false));
        let keys: Vec<FieldRef> = keys.iter().cloned().chain([place]).collect();
        let orders = vec![SortOptions::default(); keys.len()].into_iter().chain(self.0.orders()).collect();
        Layout::new(&keys, rests, self.0.keys).ordered(orders)
    }
}

impl OperatorFactory for TopFactory {
    fn create(&self, _lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        let lost = |error: ArrowError| failed(&error.into(), &self.0.place);
        let most = u32::try_from(self.0.most).unwrap_or(u32::MAX);
        let places = RowConverter::new(vec![SortField::new(DataType::UInt32)]).map_err(lost)?;
        let numbers: ArrayRef = Arc::new(UInt32Array::from_iter_values(0..most));
        let places = places.convert_columns(&[numbers]).map_err(lost)?;
        Ok(Box::new(Top {
            coder: Coder::new(&self.0).map_err(lost)?,
            first: KeyLog::new(Arc::new(self.layout()), FIRST).map_err(lost)?,
            places: places.iter().map(|place| place.data().into()).collect(),
            fresh: HashMap::default(),
            spec: Arc::clone(&self.0),
        }))
    }

    fn describe(&self) -> String {
        format!("{}, changes at each epoch", self.0.words)
    }

    fn fingerprint(&self) -> String {
        format!("top v1 {}", self.0.fingerprint())
    }
}

struct Top {
    spec: Arc<TopSpec>,
    coder: Coder,
    first: KeyLog,
    /// The bytes of each place.
    places: Vec<Box<[u8]>>,
    /// The first rows of each key among those that came since the last barrier, as far as they may be the first of all.
    fresh: HashMap<Box<[u8]>, Vec<Vec<u8>>>,
}

impl Top {
    fn take(&mut self, rows: &RecordBatch) -> Result<(), ArrowError> {
        let (keys, rests) = self.coder.encode(rows)?;
        let mut stored = Vec::new();
        for row in 0..rows.num_rows() {
            let (key, rest) = (keys.row(row), rests.row(row));
            let Some(fresh) = self.fresh.get_mut(key) else {
                // When there are enough that come before it, a row changes nothing.
                let last = self.places.last().map(Box::as_ref).unwrap_or_default();
                stored.clear();
                stored.extend_from_slice(key);
                stored.extend_from_slice(last);
                if self.first.get(&stored).is_none_or(|last| rest < last) {
                    self.fresh.insert(key.into(), vec![rest.to_vec()]);
                }
                continue;
            };
            let full = fresh.len() == self.spec.most;
            if full && fresh.last().is_some_and(|last| last.as_slice() <= rest) {
                continue;
            }
            let mut room = if full { fresh.pop().unwrap_or_default() } else { Vec::new() };
            room.clear();
            room.extend_from_slice(rest);
            let at = fresh.partition_point(|other| other.as_slice() <= rest);
            fresh.insert(at, room);
        }
        Ok(())
    }

    /// The first rows of a key as they are stored.
    fn stored(&self, key: &[u8]) -> Vec<Vec<u8>> {
        let mut at = key.to_vec();
        let rows = self.places.iter().map_while(|place| {
            at.truncate(key.len());
            at.extend_from_slice(place);
            self.first.get(&at).map(<[u8]>::to_vec)
        });
        rows.collect()
    }

    /// Puts what came into what is stored, and answers what changed.
    fn settle(&mut self) -> Result<Vec<Batch>, DataFusionError> {
        let mut fresh: Vec<_> = std::mem::take(&mut self.fresh).into_iter().collect();
        if !self.first.is_warm() {
            let stored = |key: &[u8]| self.places.iter().map(|place| [key, place].concat()).collect::<Vec<_>>();
            let stored: Vec<Vec<u8>> = fresh.iter().flat_map(|(key, _)| stored(key)).collect();
            self.first.call_up(stored.iter().map(Vec::as_slice)).map_err(lost)?;
        }
        // The same rows are the same batches, whatever order the table has them in.
        fresh.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let mut sides = Vec::with_capacity(fresh.len());
        for (key, rows) in fresh {
            let before = self.stored(&key);
            let mut after = merged(&before, rows);
            after.truncate(self.spec.most);
            sides.push((key, before, after));
        }
        let numbered = self.spec.numbered;
        let (mut gone, mut come): (Vec<Chosen<'_>>, Vec<Chosen<'_>>) = (Vec::new(), Vec::new());
        for (key, before, after) in &sides {
            let (less, more) = difference(before, after, numbered);
            gone.extend(less.into_iter().map(|at| (key.as_ref(), before[at].as_slice(), at)));
            come.extend(more.into_iter().map(|at| (key.as_ref(), after[at].as_slice(), at)));
        }
        let changes = self.coder.changes(&gone, &come)?;
        let mut at = Vec::new();
        for (key, before, after) in &sides {
            for (number, (rest, place)) in after.iter().zip(&self.places).enumerate() {
                if before.get(number) == Some(rest) {
                    continue;
                }
                at.clear();
                at.extend_from_slice(key);
                at.extend_from_slice(place);
                self.first.put(&at, rest);
            }
        }
        Ok(changes)
    }
}

/// Two lists in order as one.
fn merged(one: &[Vec<u8>], other: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut all = one.to_vec();
    all.extend(other);
    all.sort();
    all
}

impl Operator for Top {
    fn bound(&mut self, memory: &StateMemory) {
        self.first.bound(memory);
    }

    fn on_batch(&mut self, _input: usize, batch: Batch, _out: &mut Output) -> Result<()> {
        if batch.weights.is_some() {
            return Err(Error::internal("the first rows were planned to be kept of rows that are taken back"));
        }
        self.take(&batch.rows).map_err(|error| failed(&error.into(), &self.spec.place))
    }

    fn before_barrier(&mut self, out: &mut Output) -> Result<()> {
        let changes = self.settle().map_err(|error| failed(&error, &self.spec.place))?;
        changes.into_iter().for_each(|batch| out.push(batch));
        Ok(())
    }

    fn snapshot_into(&mut self, _epoch: Epoch, give: Give<'_>) -> Result<()> {
        self.first.snapshot(give)
    }

    fn keeps_chunks(&self) -> bool {
        true
    }

    fn restore_from(&mut self, stored: &mut Stored<'_>) -> Result<()> {
        self.first.restore_from(stored)
    }
}
