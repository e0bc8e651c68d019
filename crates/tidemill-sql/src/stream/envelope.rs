//! [`EnvelopeFactory`]: weighted rows as changes of keys, for targets that keep a changelog.
//!
//! **Invariant:** one change of a key an epoch, made of what stood before the epoch and what stands after it; a key that
//! stands as it stood gives none.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{concat, concat_batches, take_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use tidemill_model::{Error, Kind, Place, Result};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output, changelog_schema};

/// Makes the operators.
#[derive(Debug)]
pub(super) struct EnvelopeFactory {
    /// The columns of the rows that change.
    pub(super) rows: SchemaRef,
    /// The columns that tell rows apart.
    pub(super) key: Vec<usize>,
    /// Whether rows are taken back; without that each row is a change of its own, passed on as it comes.
    pub(super) changing: bool,
    pub(super) text: String,
    pub(super) place: Place,
}

impl OperatorFactory for EnvelopeFactory {
    fn create(&self, _lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        let converter = |columns: &[usize]| {
            let fields = columns.iter().map(|at| SortField::new(self.rows.field(*at).data_type().clone())).collect();
            RowConverter::new(fields).map_err(|e| {
                let message = "a column of a changelog cannot be compared";
                Error::new(Kind::Plan, "P148", message).at(&self.place).because(e)
            })
        };
        let all: Vec<usize> = (0..self.rows.fields().len()).collect();
        Ok(Box::new(Envelope {
            keys: converter(&self.key)?,
            whole: converter(&all)?,
            rows: Arc::clone(&self.rows),
            changes: changelog_schema(&self.rows),
            key: self.key.clone(),
            changing: self.changing,
            pending: Vec::new(),
        }))
    }

    fn describe(&self) -> String {
        self.text.clone()
    }
}

struct Envelope {
    rows: SchemaRef,
    changes: SchemaRef,
    key: Vec<usize>,
    keys: RowConverter,
    whole: RowConverter,
    changing: bool,
    /// What came since the last barrier.
    pending: Vec<Batch>,
}

/// What became of a key: the row that went and the row that came.
#[derive(Default)]
struct Change {
    before: Option<u32>,
    after: Option<u32>,
}

impl Envelope {
    /// Rows that only come: each is a change of its own.
    fn inserted(&self, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        self.assemble(rows, rows, vec!["c"; rows.num_rows()])
    }

    fn assemble(&self, after: &RecordBatch, before: &RecordBatch, ops: Vec<&str>) -> Result<RecordBatch, ArrowError> {
        let mut columns = after.columns().to_vec();
        columns.extend(before.columns().iter().cloned());
        columns.push(Arc::new(StringArray::from(ops)));
        RecordBatch::try_new(Arc::clone(&self.changes), columns)
    }

    /// The net change of each key.
    fn settle(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Ok(None);
        }
        let weights: Vec<ArrayRef> = pending
            .iter()
            .map(|batch| -> ArrayRef {
                match &batch.weights {
                    Some(weights) => Arc::new(weights.clone()),
                    None => Arc::new(Int64Array::from_value(1, batch.len())),
                }
            })
            .collect();
        let weights = concat(&weights.iter().map(AsRef::as_ref).collect::<Vec<&dyn Array>>())?;
        let rows = concat_batches(&self.rows, pending.iter().map(|batch| &batch.rows))?;
        let whole = self.whole.convert_columns(rows.columns())?;
        let mut net: BTreeMap<&[u8], (u32, i64)> = BTreeMap::new();
        let weights = weights.as_any().downcast_ref::<Int64Array>().map_or([].as_slice(), |w| w.values());
        for ((row, at), weight) in whole.iter().zip(0_u32..).zip(weights) {
            net.entry(row.data()).or_insert((at, 0)).1 += weight;
        }
        let keys: Vec<ArrayRef> = self.key.iter().map(|at| Arc::clone(rows.column(*at))).collect();
        let keys = self.keys.convert_columns(&keys)?;
        let mut changes: BTreeMap<&[u8], Change> = BTreeMap::new();
        for (row, weight) in net.into_values().filter(|(_, weight)| *weight != 0) {
            let change = changes.entry(keys.row(row as usize).data()).or_default();
            let side = if weight < 0 { &mut change.before } else { &mut change.after };
            *side = Some(row);
        }
        let (mut after, mut before, mut ops) = (Vec::new(), Vec::new(), Vec::new());
        for change in changes.into_values() {
            let (new, old, op) = match (change.before, change.after) {
                (Some(old), Some(new)) => (new, old, "u"),
                (None, Some(new)) => (new, new, "c"),
                (Some(old), None) => (old, old, "d"),
                (None, None) => continue,
            };
            after.push(new);
            before.push(old);
            ops.push(op);
        }
        let some = |wanted: Vec<u32>| take_record_batch(&rows, &UInt32Array::from(wanted));
        self.assemble(&some(after)?, &some(before)?, ops).map(Some)
    }
}

impl Operator for Envelope {
    fn on_batch(&mut self, _input: usize, batch: Batch, out: &mut Output) -> Result<()> {
        if self.changing {
            self.pending.push(batch);
        } else {
            out.push(Batch::inserts(self.inserted(&batch.rows).map_err(defect)?));
        }
        Ok(())
    }

    fn before_barrier(&mut self, out: &mut Output) -> Result<()> {
        if let Some(changes) = self.settle().map_err(defect)? {
            out.push(Batch::inserts(changes));
        }
        Ok(())
    }
}

fn defect(error: ArrowError) -> Error {
    Error::internal("changes do not make a batch").because(error)
}
