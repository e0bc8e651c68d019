//! The contract of an operator: synchronous, CPU only, hence testable by hand and by simulation.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use tidemill_model::{Epoch, Result, Timestamp, Watermark};

use crate::{Batch, DeadLetter, LateRow, LookedUp, Rows, StateMemory, Stored};

/// One step of a dataflow on one lane.
///
/// The engine calls, on one thread: `bound` once, `look_up_in` if there is a table, `restore_from` at most once, then `on_batch`, `on_input_watermark`
/// and `on_watermark` as input comes, and at each barrier `on_epoch_end`, `before_barrier`, then `snapshot`. What an operator emits before a barrier belongs to that epoch.
pub trait Operator: Send {
    /// The memory that its state shares with others. Conservative default: all of it stays in memory and is not counted.
    fn bound(&mut self, memory: &StateMemory) {
        let _ = memory;
    }

    /// Rows on one of the operator's inputs. A row that an expression fails on is a dead letter, not an error.
    ///
    /// # Errors
    /// Data or Internal; the epoch fails and nothing of it is committed.
    fn on_batch(&mut self, input: usize, batch: Batch, out: &mut Output) -> Result<()>;

    /// Whether `on_batch`, or `go_on` after it, gave out only a part of what a batch becomes, as where a row has a million
    /// partners. The engine then calls `go_on` when there is room for more, and nothing else before this is `false`.
    /// Conservative default: everything was given out.
    fn has_more(&self) -> bool {
        false
    }

    /// Gives out the next part of what a batch becomes, about [`Output::ROWS`] rows at most.
    ///
    /// # Errors
    /// As `on_batch`.
    fn go_on(&mut self, out: &mut Output) -> Result<()> {
        let _ = out;
        Ok(())
    }

    /// The rows of the table that it looks up in, from the next row on; the first ones come before `restore`, others
    /// between a barrier and the first row behind it, the same on every lane. What was there before is not needed any
    /// more. Conservative default: there is no such table.
    ///
    /// # Errors
    /// Internal, when the rows are not of its kind.
    fn look_up_in(&mut self, rows: &Rows) -> Result<()> {
        let _ = rows;
        Ok(())
    }

    /// The watermark of one input rose; called before `on_watermark`, for operators that judge the rows of each input by
    /// their own time. The engine forwards `out.watermark` afterwards if it was set, and else nothing. Conservative
    /// default: only the merged watermark matters.
    ///
    /// # Errors
    /// As `on_batch`.
    fn on_input_watermark(&mut self, input: usize, watermark: Watermark, out: &mut Output) -> Result<()> {
        let _ = (input, watermark, out);
        Ok(())
    }

    /// An input has become idle, so that its watermark will not rise for now though nothing is withheld, or is no longer.
    /// The engine forwards `out.watermark` afterwards if it was set. Conservative default: time waits for every input.
    ///
    /// # Errors
    /// As `on_batch`.
    fn on_input_idle(&mut self, input: usize, idle: bool, out: &mut Output) -> Result<()> {
        let _ = (input, idle, out);
        Ok(())
    }

    /// The merged watermark of all inputs rose. The engine forwards `out.watermark` afterwards, which is this one
    /// unless the operator lowers it. Conservative default: nothing depends on time.
    ///
    /// # Errors
    /// As `on_batch`.
    fn on_watermark(&mut self, watermark: Watermark, out: &mut Output) -> Result<()> {
        let _ = (watermark, out);
        Ok(())
    }

    /// The epoch ends, as its barrier says; called before `before_barrier`, for operators that hold rows back for a while.
    /// Conservative default: nothing depends on when epochs end.
    fn on_epoch_end(&mut self, end: EpochEnd) {
        let _ = end;
    }

    /// When an epoch shall end, though nothing be read until then, so that what is held back goes out; asked when the
    /// barrier has passed. Conservative default: nothing is held back.
    fn due(&self) -> Option<Timestamp> {
        None
    }

    /// A barrier has arrived on every input: emit what belongs to the epoch (buffered partials, changes).
    ///
    /// # Errors
    /// As `on_batch`.
    fn before_barrier(&mut self, out: &mut Output) -> Result<()> {
        let _ = out;
        Ok(())
    }

    /// The state that changed since the last snapshot, chunk by chunk. Must leave the live state as it was.
    /// Conservative default: the operator has no state. Overriding it without `restore` loses rows.
    ///
    /// # Errors
    /// Internal.
    fn snapshot(&mut self, epoch: Epoch) -> Result<Vec<StateChunk>> {
        let _ = epoch;
        Ok(Vec::new())
    }

    /// As `snapshot`, which it calls unless it is overridden; each chunk is given as soon as it is made, so that those of a
    /// large state are never in memory together.
    ///
    /// # Errors
    /// As `snapshot`; whatever `give` answers.
    fn snapshot_into(&mut self, epoch: Epoch, give: &mut dyn FnMut(StateChunk) -> Result<()>) -> Result<()> {
        self.snapshot(epoch)?.into_iter().try_for_each(give)
    }

    /// Takes back every chunk of *all* lanes' snapshots of this operator; an operator behind an exchange keeps the
    /// rows whose key belongs to `lane` of `lanes` (see [`crate::Route::lane_of`]), so the number of lanes may
    /// change between runs. Called once, before any input.
    ///
    /// # Errors
    /// Corrupt, when a chunk does not have the schema that this operator writes.
    fn restore(&mut self, chunks: Vec<(String, RecordBatch)>, lane: usize, lanes: usize) -> Result<()> {
        let _ = (chunks, lane, lanes);
        Ok(())
    }

    /// Whether the stored chunks may stay when they are restored onto as many lanes as stored them. Conservative default:
    /// the first snapshot after a start stores everything, and nothing else counts.
    fn keeps_chunks(&self) -> bool {
        false
    }

    /// Takes back what was stored, chunk by chunk. Where chunks are kept, they are those of its own lane, and the next
    /// snapshot tells what changed since they were stored. Conservative default: they are gathered for `restore`.
    ///
    /// # Errors
    /// As `restore`; whatever reading answers.
    fn restore_from(&mut self, stored: &mut Stored<'_>) -> Result<()> {
        let chunks = stored.by_ref().collect::<Result<Vec<_>>>()?;
        self.restore(chunks, stored.lane, stored.lanes)
    }

    /// Late rows dropped since the start, for reports.
    fn late_rows(&self) -> u64 {
        0
    }
}

/// The end of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEnd {
    /// When it was decided that it ends; the same on all lanes.
    pub at: Timestamp,
    /// Whether the run ends with it.
    pub last: bool,
}

/// What an operator emits while it is called.
#[derive(Debug, Default)]
pub struct Output {
    /// Batches in order.
    pub batches: Vec<Batch>,
    /// Rows that an expression failed on; they are kept with the epoch in hand.
    pub dead: Vec<DeadLetter>,
    /// Rows that came late, where they are kept; they are counted by [`Operator::late_rows`] in any case.
    pub late: Vec<LateRow>,
    /// Set by an operator in `on_watermark` to hold time back for what is downstream, and in `on_input_watermark` and
    /// `before_barrier` to let it go on when it has caught up with what it held back.
    pub watermark: Option<Watermark>,
}

impl Output {
    /// How many rows an operator gives out at once, where one row can become many.
    pub const ROWS: usize = 8_192;

    /// Emits a batch of any length in parts of [`Output::ROWS`].
    pub fn push_parts(&mut self, batch: Batch) {
        for from in (0..batch.len()).step_by(Output::ROWS) {
            let length = Output::ROWS.min(batch.len() - from);
            let weights = batch.weights.as_ref().map(|weights| weights.slice(from, length));
            self.batches.push(Batch { rows: batch.rows.slice(from, length), weights });
        }
    }

    /// Emits a batch; empty ones are left out.
    pub fn push(&mut self, batch: Batch) {
        if !batch.is_empty() {
            self.batches.push(batch);
        }
    }
}

/// A named piece of an operator's state on one lane, such as one window.
#[derive(Debug, Clone)]
pub struct StateChunk {
    /// Its name, unique within the operator and lane.
    pub name: String,
    /// Its rows, or `None` when the piece is gone.
    pub rows: Option<RecordBatch>,
}

/// What a dead letter of an operator must hold, so that its row can be given to the operator's first input again.
#[derive(Debug, Clone)]
pub struct Reentrance {
    /// The columns of that input.
    pub schema: SchemaRef,
    /// Those that the operator reads; the others may be NULL.
    pub read: Vec<usize>,
}

/// Makes an operator for each lane.
pub trait OperatorFactory: Send + Sync + fmt::Debug {
    /// The operator for `lane` of `lanes`.
    ///
    /// # Errors
    /// Plan or Internal.
    fn create(&self, lane: usize, lanes: usize) -> Result<Box<dyn Operator>>;

    /// One line for `plan`: what the operator does.
    fn describe(&self) -> String;

    /// The table that its operators look rows up in. Conservative default: none.
    fn table(&self) -> Option<Arc<dyn LookedUp>> {
        None
    }

    /// Whatever must be equal for a snapshot to be readable: operator kind, schemas, functions. Empty when stateless.
    fn fingerprint(&self) -> String {
        String::new()
    }

    /// Whatever decides which rows come out for which rows come in; empty when all of them do, unchanged. State further
    /// down depends on it. It must not depend on what other statements of the pipeline read. Conservative default: the
    /// fingerprint, of stateless ones the description.
    fn definition(&self) -> String {
        let fingerprint = self.fingerprint();
        if fingerprint.is_empty() { self.describe() } else { fingerprint }
    }

    /// What a row must have that enters here again after an expression failed on it. Conservative default: none can,
    /// since its dead letters do not hold whole rows of its first input.
    fn reentrance(&self) -> Option<Reentrance> {
        None
    }
}

impl OperatorFactory for Arc<dyn OperatorFactory> {
    fn create(&self, lane: usize, lanes: usize) -> Result<Box<dyn Operator>> {
        self.as_ref().create(lane, lanes)
    }

    fn describe(&self) -> String {
        self.as_ref().describe()
    }

    fn table(&self) -> Option<Arc<dyn LookedUp>> {
        self.as_ref().table()
    }

    fn fingerprint(&self) -> String {
        self.as_ref().fingerprint()
    }

    fn definition(&self) -> String {
        self.as_ref().definition()
    }

    fn reentrance(&self) -> Option<Reentrance> {
        self.as_ref().reentrance()
    }
}
