//! [`TopOfChangesFactory`]: the first rows of each key, where rows are taken back: all rows are kept, in order.
//!
//! **Invariant:** the cost of an epoch follows the rows that changed in it, and the first rows of their keys.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use arrow::error::ArrowError;
use datafusion::common::internal_err;
use datafusion::error::DataFusionError;
use tidemill_model::{Epoch, Result};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output, StateChunk};

use super::TopSpec;
use super::coder::{Chosen, Coder, difference};
use crate::stream::state::{KeyLog, Layout};
use crate::stream::transform::failed;

/// The name of the log of rows.
const ROWS: &str = "rows";

/// Makes the operators.
#[derive(Debug)]
pub(in crate::stream) struct TopOfChangesFactory(pub(in crate::stream) Arc<TopSpec>);

impl TopOfChangesFactory {
    /// A row, to how often it is there.
    fn layout(&self) -> Layout {
        let weight: FieldRef = Arc::new(Field::new("weight", DataType::Int64, true));
        let orders = vec![SortOptions::default(); self.0.keys].into_iter().chain(self.0.orders()).collect();
        Layout::new(self.0.schema.fields(), &[weight], self.0.keys).ordered(orders)
    }
}

impl OperatorFactory for TopOfChangesFactory {
    fn create(&self, _lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        let lost = |error: ArrowError| failed(&error.into(), &self.0.place);
        Ok(Box::new(TopOfChanges {
            coder: Coder::new(&self.0).map_err(lost)?,
            rows: KeyLog::new(Arc::new(self.layout()), ROWS).map_err(lost)?,
            members: BTreeSet::new(),
            pending: BTreeMap::new(),
            spec: Arc::clone(&self.0),
        }))
    }

    fn describe(&self) -> String {
        format!("{}, changes at each epoch, all rows kept", self.0.words)
    }

    fn fingerprint(&self) -> String {
        format!("top of changes v1 {}", self.0.fingerprint())
    }
}

/// How often more, or less, each rest is there.
type Deltas = BTreeMap<Box<[u8]>, i64>;

struct TopOfChanges {
    spec: Arc<TopSpec>,
    coder: Coder,
    /// How often each row is there.
    rows: KeyLog,
    /// The same rows in order: those of a key lie together, the first first.
    members: BTreeSet<Box<[u8]>>,
    /// What came since the last barrier: by key, how often each rest.
    pending: BTreeMap<Box<[u8]>, Deltas>,
}

impl TopOfChanges {
    fn take(&mut self, batch: &Batch) -> Result<(), ArrowError> {
        let (keys, rests) = self.coder.encode(&batch.rows)?;
        for row in 0..batch.len() {
            let weight = batch.weights.as_ref().map_or(1, |weights| weights.value(row));
            if !self.pending.contains_key(keys.row(row)) {
                self.pending.insert(keys.row(row).into(), BTreeMap::new());
            }
            if let Some(of_key) = self.pending.get_mut(keys.row(row)) {
                *of_key.entry(rests.row(row).into()).or_default() += weight;
            }
        }
        Ok(())
    }

    fn weight_of(&self, row: &[u8]) -> Result<i64, ArrowError> {
        let Some(value) = self.rows.get(row) else { return Ok(0) };
        Ok(self.rows.decode_values([value])?[0].as_primitive::<Int64Type>().value(0))
    }

    /// The rests of the first rows of a key as they are now.
    fn first(&self, key: &[u8]) -> Result<Vec<Box<[u8]>>, ArrowError> {
        let mut first: Vec<Box<[u8]>> = Vec::new();
        let of_key = self.members.range::<[u8], _>((Bound::Included(key), Bound::Unbounded));
        let of_key = of_key.take_while(|row| row.starts_with(key));
        for row in of_key {
            let times = usize::try_from(self.weight_of(row)?).unwrap_or(0).min(self.spec.most - first.len());
            first.extend(std::iter::repeat_n(Box::from(row.get(key.len()..).unwrap_or_default()), times));
            if first.len() == self.spec.most {
                break;
            }
        }
        Ok(first)
    }

    fn apply(&mut self, key: &[u8], deltas: &Deltas) -> Result<(), DataFusionError> {
        for (rest, delta) in deltas.iter().filter(|(_, delta)| **delta != 0) {
            let row: Box<[u8]> = [key, rest].concat().into();
            match self.weight_of(&row)? + delta {
                0 => {
                    self.rows.remove(&row);
                    self.members.remove(&row);
                }
                less if less < 0 => return internal_err!("a row was taken back that is not there"),
                weight => {
                    let weight: ArrayRef = Arc::new(Int64Array::from(vec![weight]));
                    let weight = self.rows.encode_values(&[weight])?;
                    self.rows.put(&row, weight.row(0));
                    self.members.insert(row);
                }
            }
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<Vec<Batch>, DataFusionError> {
        let mut sides = Vec::with_capacity(self.pending.len());
        for (key, deltas) in std::mem::take(&mut self.pending) {
            let before = self.first(&key)?;
            self.apply(&key, &deltas)?;
            let after = self.first(&key)?;
            sides.push((key, before, after));
        }
        let numbered = self.spec.numbered;
        let (mut gone, mut come): (Vec<Chosen<'_>>, Vec<Chosen<'_>>) = (Vec::new(), Vec::new());
        for (key, before, after) in &sides {
            let (less, more) = difference(before, after, numbered);
            gone.extend(less.into_iter().map(|at| (key.as_ref(), before[at].as_ref(), at)));
            come.extend(more.into_iter().map(|at| (key.as_ref(), after[at].as_ref(), at)));
        }
        Ok(self.coder.changes(&gone, &come)?)
    }
}

impl Operator for TopOfChanges {
    fn on_batch(&mut self, _input: usize, batch: Batch, _out: &mut Output) -> Result<()> {
        self.take(&batch).map_err(|error| failed(&error.into(), &self.spec.place))
    }

    fn before_barrier(&mut self, out: &mut Output) -> Result<()> {
        let changes = self.settle().map_err(|error| failed(&error, &self.spec.place))?;
        changes.into_iter().for_each(|batch| out.push(batch));
        Ok(())
    }

    fn snapshot(&mut self, _epoch: Epoch) -> Result<Vec<StateChunk>> {
        let mut chunks = Vec::new();
        self.rows.snapshot(&mut |chunk| {
            chunks.push(chunk);
            Ok(())
        })?;
        Ok(chunks)
    }

    fn restore(&mut self, chunks: Vec<(String, RecordBatch)>, lane: usize, lanes: usize) -> Result<()> {
        self.rows.restore(chunks, lane, lanes)?;
        self.members = self.rows.iter().map(|(row, _)| row.into()).collect();
        Ok(())
    }
}
