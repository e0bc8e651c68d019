//! [`PartialFactory`]: the first half of a GROUP BY, on the lane where rows arrive.
//!
//! **Invariant:** at a barrier it is empty, so it has no state to store; before a watermark that makes a window
//! final passes, everything that it holds has been sent on.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::filter_record_batch;
use datafusion::error::DataFusionError;
use tidemill_model::{Error, Place, Result, Watermark};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output};

use super::groups::{Groups, mask};
use super::spec::{GroupSpec, WindowBy};
use crate::session::values;
use crate::stream::late::{CameLate, LateHome};
use crate::stream::running::{by_sign, negative};
use crate::stream::transform::failed;

/// How many groups are held before they are sent on: beyond it the table leaves the processor's caches.
const MOST_GROUPS: usize = 32_768;
/// How many bytes are held before they are sent on: sets of distinct values and sketches grow within few groups.
const MOST_BYTES: usize = 32 << 20;
/// Measuring the bytes costs, so it is done every so many batches.
const MEASURE_EVERY: u32 = 16;

/// Makes the first halves of a GROUP BY.
#[derive(Debug)]
pub(in crate::stream) struct PartialFactory {
    pub(in crate::stream) spec: Arc<GroupSpec>,
    pub(in crate::stream) late: LateHome,
    /// Whether rows are taken back; the states of these are sent on negated, so that merging them subtracts.
    pub(in crate::stream) retracts: bool,
    pub(in crate::stream) text: String,
    pub(in crate::stream) place: Place,
}

impl OperatorFactory for PartialFactory {
    fn create(&self, _lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        let groups = || {
            Groups::new(&self.spec.key_schema(0), &self.spec.aggregates).map_err(|error| failed(&error, &self.place))
        };
        let taken_back = if self.retracts { Some(groups()?) } else { None };
        Ok(Box::new(Partial {
            spec: Arc::clone(&self.spec),
            place: self.place.clone(),
            groups: groups()?,
            taken_back,
            earliest_open: i64::MIN,
            earliest_held: i64::MAX,
            batches: 0,
            late: 0,
            home: self.late.clone(),
            watermark: Watermark::MIN,
        }))
    }

    fn describe(&self) -> String {
        self.text.clone()
    }

    fn definition(&self) -> String {
        self.spec.fingerprint()
    }
}

struct Partial {
    spec: Arc<GroupSpec>,
    place: Place,
    groups: Groups,
    /// Of rows that are taken back.
    taken_back: Option<Groups>,
    /// Windows that start before this are final: closed, and no late row is waited for any more.
    earliest_open: i64,
    /// The earliest window that groups are held of.
    earliest_held: i64,
    batches: u32,
    late: u64,
    home: LateHome,
    watermark: Watermark,
}

impl Partial {
    /// The inserted rows of a batch and those that are taken back, each by itself.
    fn take_signed(&mut self, batch: Batch, out: &mut Output) -> Result<(), DataFusionError> {
        let [come, go] = by_sign(batch)?;
        for (rows, taken_back) in [(come, false), (go, true)] {
            if let Some(rows) = rows {
                self.take(rows, taken_back, out)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, rows: RecordBatch, taken_back: bool, out: &mut Output) -> Result<(), DataFusionError> {
        let spec = Arc::clone(&self.spec);
        let mut rows = rows;
        let mut keys: Vec<ArrayRef> = Vec::with_capacity(spec.keys.len() + 1);
        if let Some(window) = &spec.window {
            let mut starts = window.starts(&values(&window.column, &rows)?);
            let least = arrow::compute::min(&starts).unwrap_or(i64::MAX);
            if starts.null_count() > 0 || window.first_window(least) < self.earliest_open {
                (rows, starts) = self.without_late(&rows, window, &starts, (taken_back, out))?;
            }
            self.earliest_held = self.earliest_held.min(arrow::compute::min(&starts).unwrap_or(i64::MAX));
            keys.push(Arc::new(starts));
        }
        if rows.num_rows() == 0 {
            return Ok(());
        }
        for key in &spec.keys {
            keys.push(values(key, &rows)?);
        }
        let groups = match &mut self.taken_back {
            Some(groups) if taken_back => groups,
            _ => &mut self.groups,
        };
        groups.update(&keys, &rows, &spec.aggregates)
    }

    /// The rows of which some window is open, and what tells their windows. For each other window that has closed the row
    /// is late. Rows in no window are in no group.
    fn without_late(
        &mut self,
        rows: &RecordBatch,
        window: &WindowBy,
        starts: &TimestampMicrosecondArray,
        (taken_back, out): (bool, &mut Output),
    ) -> Result<(RecordBatch, TimestampMicrosecondArray), DataFusionError> {
        let open = self.earliest_open;
        let told = starts.iter().map(|start| start.and_then(|start| window.came_late(start, open)));
        let told: Vec<Option<CameLate>> = told.collect();
        self.late += told.iter().flatten().map(|late| late.pairs).sum::<u64>();
        // A row that is taken back came in time once; only the one that comes in its place is late.
        if !taken_back {
            out.late.extend(self.home.keep(rows, &told, self.watermark)?);
        }
        let keep = mask(starts.iter().map(|start| start.is_some_and(|start| window.last_window(start) >= open)));
        let rows = filter_record_batch(rows, &keep)?;
        let starts = window.starts(&values(&window.column, &rows)?);
        Ok((rows, starts))
    }

    /// How many groups are held.
    fn len(&self) -> usize {
        self.groups.len() + self.taken_back.as_ref().map_or(0, Groups::len)
    }

    fn send(&mut self, out: &mut Output) -> Result<()> {
        self.earliest_held = i64::MAX;
        let leading = self.spec.leading();
        for (number, groups) in std::iter::once(&mut self.groups).chain(&mut self.taken_back).enumerate() {
            if groups.len() == 0 {
                continue;
            }
            let failed = |error: DataFusionError| failed(&error, &self.place);
            let mut columns = groups.take_states().map_err(failed)?;
            if number > 0 {
                let states = negative(&columns.split_off(leading)).map_err(|e| failed(e.into()))?;
                columns.extend(states);
            }
            let rows = RecordBatch::try_new(Arc::clone(&self.spec.partial), columns)
                .map_err(|e| Error::internal("partial groups do not make a batch").because(e))?;
            out.push(Batch::inserts(rows));
        }
        Ok(())
    }
}

impl Operator for Partial {
    fn on_batch(&mut self, _input: usize, batch: Batch, out: &mut Output) -> Result<()> {
        let taken = match (&batch.weights, &self.taken_back) {
            (None, _) => self.take(batch.rows, false, out),
            (Some(_), Some(_)) => self.take_signed(batch, out),
            (Some(_), None) => return Err(Error::internal("a GROUP BY was planned over rows that are taken back")),
        };
        taken.map_err(|error| failed(&error, &self.place))?;
        self.batches = self.batches.wrapping_add(1);
        let full =
            self.len() > MOST_GROUPS || self.batches.is_multiple_of(MEASURE_EVERY) && self.groups.bytes() > MOST_BYTES;
        if full { self.send(out) } else { Ok(()) }
    }

    fn on_watermark(&mut self, watermark: Watermark, out: &mut Output) -> Result<()> {
        let spec = Arc::clone(&self.spec);
        let Some(window) = &spec.window else { return Ok(()) };
        let time = window.time_at(watermark.0);
        self.watermark = watermark;
        if !window.behind.is_empty() {
            out.watermark = Some(Watermark(time));
        }
        let final_at = Watermark(time).behind(spec.lateness).0;
        self.earliest_open = self.earliest_open.max(window.size.earliest_open(final_at));
        if window.first_window(self.earliest_held) < self.earliest_open { self.send(out) } else { Ok(()) }
    }

    fn before_barrier(&mut self, out: &mut Output) -> Result<()> {
        self.send(out)
    }

    fn late_rows(&self) -> u64 {
        self.late
    }
}
