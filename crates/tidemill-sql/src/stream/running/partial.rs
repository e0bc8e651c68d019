//! [`CountPartialFactory`]: the first half of a GROUP BY without a window, on the lane where rows arrive.
//!
//! **Invariant:** at a barrier it is empty, so it has no state to store. States of inserted rows go on with weight 1,
//! those of retracted rows with weight -1.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::error::DataFusionError;
use tidemill_model::{Error, Place, Result};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output};

use super::Spec;
use super::signed::{by_sign, weights};
use crate::session::values;
use crate::stream::aggregate::Groups;
use crate::stream::transform::failed;

/// How many groups are held before they are sent on: beyond it the table leaves the processor's caches.
const MOST_GROUPS: usize = 32_768;
/// How many bytes are held before they are sent on: sets of distinct values and sketches grow within few groups.
const MOST_BYTES: usize = 32 << 20;
/// Measuring the bytes costs, so it is done every so many batches.
const MEASURE_EVERY: u32 = 16;

/// Makes the first halves.
#[derive(Debug)]
pub(in crate::stream) struct CountPartialFactory {
    pub(in crate::stream) spec: Spec,
    pub(in crate::stream) text: String,
    pub(in crate::stream) place: Place,
}

impl OperatorFactory for CountPartialFactory {
    fn create(&self, _lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        let spec = &self.spec.groups;
        let groups = || Groups::new(&spec.key_schema(0), &spec.aggregates).map_err(|error| failed(&error, &self.place));
        Ok(Box::new(CountPartial {
            spec: Arc::clone(&self.spec),
            place: self.place.clone(),
            groups: [groups()?, groups()?],
            batches: 0,
        }))
    }

    fn describe(&self) -> String {
        self.text.clone()
    }

    fn definition(&self) -> String {
        self.spec.fingerprint()
    }
}

struct CountPartial {
    spec: Spec,
    place: Place,
    /// Of inserted rows, and of retracted ones.
    groups: [Groups; 2],
    batches: u32,
}

impl CountPartial {
    fn take(&mut self, batch: Batch) -> Result<(), DataFusionError> {
        let spec = &self.spec.groups;
        for (groups, rows) in self.groups.iter_mut().zip(by_sign(batch)?) {
            let Some(rows) = rows else { continue };
            let keys = spec.keys.iter().map(|key| values(key, &rows)).collect::<Result<Vec<ArrayRef>, _>>()?;
            groups.update(&keys, &rows, &spec.aggregates)?;
        }
        Ok(())
    }

    fn send(&mut self, out: &mut Output) -> Result<()> {
        for (groups, weight) in self.groups.iter_mut().zip([1, -1]) {
            let count = groups.len();
            if count == 0 {
                continue;
            }
            let columns = groups.take_states().map_err(|error| failed(&error, &self.place))?;
            let options = RecordBatchOptions::new().with_row_count(Some(count));
            let rows = RecordBatch::try_new_with_options(Arc::clone(&self.spec.groups.partial), columns, &options)
                .map_err(|e| Error::internal("partial groups do not make a batch").because(e))?;
            out.push(Batch { rows, weights: weights(weight, count) });
        }
        Ok(())
    }
}

impl Operator for CountPartial {
    fn on_batch(&mut self, _input: usize, batch: Batch, out: &mut Output) -> Result<()> {
        self.take(batch).map_err(|error| failed(&error, &self.place))?;
        self.batches = self.batches.wrapping_add(1);
        let many = self.groups.iter().any(|groups| groups.len() > MOST_GROUPS);
        let large = self.batches.is_multiple_of(MEASURE_EVERY)
            && self.groups.iter().map(Groups::bytes).sum::<usize>() > MOST_BYTES;
        if many || large { self.send(out) } else { Ok(()) }
    }

    fn before_barrier(&mut self, out: &mut Output) -> Result<()> {
        self.send(out)
    }
}
