//! [`ThinFactory`]: holds changes back on their way to a sink, so that a key changes there at most once in so much time.
//!
//! What is held is the sum of the changes since some went out last: the rows that went and those that came, each with its
//! weight. Changes that take each other back leave nothing.
//!
//! **Invariant:** what has gone out and what is held add up to what came. The last epoch of a run holds nothing back.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use arrow::error::ArrowError;
use tidemill_checkpoint::Manifest;
use tidemill_model::{Epoch, Error, Kind, Place, Result, Span, Timestamp};
use tidemill_runtime::{Batch, EpochEnd, Operator, OperatorFactory, Output, StateChunk, WEIGHT};

use super::state::{KeyLog, Layout, stored_time, time_chunk};
use super::view::Number;

/// The name of the log of what is held.
const HELD: &str = "held";
/// The name of the chunk that says when changes went out last.
const LET_GO: &str = "let go";

/// The node that holds back what is on its way to a table.
pub(super) const NODE: &str = "thin";

/// Whether an epoch holds back changes of a table.
pub(crate) fn holds_back(epoch: &Manifest, table: &str) -> bool {
    let state = epoch.state.get(&format!("{table}.{NODE}"));
    let held = format!("/{HELD}.");
    state.is_some_and(|state| state.chunks.keys().any(|chunk| chunk.contains(&held)))
}

/// Makes the operators.
pub(super) struct ThinFactory {
    /// The columns of the rows that change.
    pub(super) rows: SchemaRef,
    /// The columns that tell rows apart in the sink.
    pub(super) key: Vec<usize>,
    /// In how much time a key changes at most once, in microseconds.
    pub(super) every: i64,
    pub(super) place: Place,
}

impl fmt::Debug for ThinFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThinFactory").field("key", &self.key).field("every", &self.every).finish_non_exhaustive()
    }
}

impl ThinFactory {
    /// The columns as they are held: the key first, so that rows find their lane by it.
    fn order(&self) -> Vec<usize> {
        let rest = (0..self.rows.fields().len()).filter(|at| !self.key.contains(at));
        self.key.iter().copied().chain(rest).collect()
    }

    /// A row is the key, its weight the value.
    fn layout(&self) -> Layout {
        let columns: Vec<FieldRef> =
            self.order().into_iter().filter_map(|at| self.rows.fields().get(at).cloned()).collect();
        Layout::new(&columns, &[Arc::new(Field::new(WEIGHT, DataType::Int64, true))], self.key.len())
    }
}

impl OperatorFactory for ThinFactory {
    fn create(&self, _lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        let layout = Arc::new(self.layout());
        let log = KeyLog::new(Arc::clone(&layout), HELD).map_err(|e| {
            Error::new(Kind::Plan, "P161", "changes with such a column cannot be held back")
                .at(&self.place)
                .because(e)
                .fact("leave emit_every out")
        })?;
        Ok(Box::new(Thin {
            rows: Arc::clone(&self.rows),
            layout,
            order: self.order(),
            every: self.every,
            log,
            let_go: None,
            unsaved: false,
            end: None,
        }))
    }

    fn describe(&self) -> String {
        let every = Span(std::time::Duration::from_micros(self.every.unsigned_abs()));
        format!("at most one change of a key in {every}")
    }

    fn fingerprint(&self) -> String {
        // How often is no matter of what is held.
        format!("thin v1 {:?} {}", self.key, self.layout().fingerprint())
    }
}

struct Thin {
    rows: SchemaRef,
    layout: Arc<Layout>,
    /// Where each column of the log lies in a row.
    order: Vec<usize>,
    every: i64,
    log: KeyLog,
    /// When changes went out last.
    let_go: Option<i64>,
    unsaved: bool,
    /// The end of the epoch in hand.
    end: Option<EpochEnd>,
}

impl Thin {
    fn add(&mut self, batch: &Batch) -> Result<(), ArrowError> {
        let columns: Vec<ArrayRef> = self.order.iter().map(|at| Arc::clone(batch.rows.column(*at))).collect();
        let rows = self.log.encode_keys(&columns)?;
        let mut number = Number::new(&self.log)?;
        for row in 0..batch.len() {
            let weight = batch.weights.as_ref().map_or(1, |weights| weights.value(row));
            let key = rows.row(row);
            match self.log.get(key).map_or(0, |value| number.of(value)) + weight {
                0 => self.log.remove(key),
                weight => self.log.put(key, number.bytes(weight)),
            }
        }
        Ok(())
    }

    /// All that is held: what is taken back first.
    fn held(&self) -> Result<(Batch, Vec<Vec<u8>>), ArrowError> {
        let number = Number::new(&self.log)?;
        let mut held: Vec<(i64, &[u8])> = self.log.iter().map(|(key, value)| (number.of(value), key)).collect();
        held.sort_unstable_by_key(|(weight, key)| (*weight > 0, *key));
        let columns = self.log.decode_keys(held.iter().map(|(_, key)| *key))?;
        let mut of_rows: Vec<(usize, ArrayRef)> = self.order.iter().copied().zip(columns).collect();
        of_rows.sort_unstable_by_key(|(at, _)| *at);
        let rows =
            RecordBatch::try_new(Arc::clone(&self.rows), of_rows.into_iter().map(|(_, column)| column).collect())?;
        let weights = Int64Array::from_iter_values(held.iter().map(|(weight, _)| *weight));
        let keys = held.iter().map(|(_, key)| key.to_vec()).collect();
        Ok((Batch { rows, weights: Some(weights) }, keys))
    }

    fn is_due(&self) -> bool {
        let Some(end) = self.end else { return true };
        // A clock that was set back must not hold changes for long.
        let waited = |since: i64| end.at.0 < since || end.at.0 >= since.saturating_add(self.every);
        end.last || self.let_go.is_none_or(waited)
    }
}

impl Operator for Thin {
    fn on_batch(&mut self, _input: usize, batch: Batch, _out: &mut Output) -> Result<()> {
        self.add(&batch).map_err(defect)
    }

    fn on_epoch_end(&mut self, end: EpochEnd) {
        self.end = Some(end);
    }

    fn before_barrier(&mut self, out: &mut Output) -> Result<()> {
        if self.log.len() == 0 || !self.is_due() {
            return Ok(());
        }
        let (batch, keys) = self.held().map_err(defect)?;
        keys.iter().for_each(|key| self.log.remove(key));
        out.push(batch);
        self.let_go = self.end.map(|end| end.at.0);
        self.unsaved = true;
        Ok(())
    }

    fn due(&self) -> Option<Timestamp> {
        let since = self.let_go.filter(|_| self.log.len() > 0)?;
        Some(Timestamp(since.saturating_add(self.every)))
    }

    fn snapshot(&mut self, _epoch: Epoch) -> Result<Vec<StateChunk>> {
        let mut chunks = Vec::new();
        if self.log.len() == 0 {
            // Nothing is stored of nothing, so that what is stored says whether something is held.
            let empty = KeyLog::new(Arc::clone(&self.layout), HELD).map_err(defect)?;
            std::mem::replace(&mut self.log, empty).drop_all(&mut chunks);
        } else {
            self.log.snapshot(&mut |chunk| {
                chunks.push(chunk);
                Ok(())
            })?;
        }
        if let Some(at) = self.let_go.filter(|_| std::mem::take(&mut self.unsaved)) {
            chunks.push(time_chunk(LET_GO, at)?);
        }
        Ok(chunks)
    }

    fn restore(&mut self, chunks: Vec<(String, RecordBatch)>, lane: usize, lanes: usize) -> Result<()> {
        let (times, held): (Vec<_>, Vec<_>) = chunks.into_iter().partition(|(name, _)| name == LET_GO);
        self.let_go = times.iter().filter_map(|(_, rows)| stored_time(rows)).max();
        self.unsaved = true;
        self.log.restore(held, lane, lanes)
    }
}

fn defect(error: ArrowError) -> Error {
    Error::internal("changes have other columns than planned").because(error)
}
