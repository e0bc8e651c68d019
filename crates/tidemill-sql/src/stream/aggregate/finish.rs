//! [`FinalFactory`]: the second half of a GROUP BY over windows: merges partial groups by window and emits them.
//!
//! **Invariant:** with [`Emission::Once`] each window is emitted once, when the watermark passes its end; with
//! [`Emission::Changes`] what was emitted up to a barrier adds up to the results of all rows before it, with
//! [`Emission::Corrected`] to those of them whose window has closed. A window is kept until it is final: until the
//! watermark is as far beyond its end as late rows are waited for.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::TimestampMicrosecondType;
use datafusion::error::DataFusionError;
use tidemill_model::{Epoch, Error, Kind, Place, Result, Watermark};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output, Route, Share, StateChunk, StateMemory, bytes_of};

use super::changes::difference;
use super::spec::GroupSpec;
use super::windows::{Emitted, Window, relieve, results_of};
use crate::stream::state::{Ripe, lost, stored_time, time_chunk};
use crate::stream::transform::failed;

/// The name of the chunk that says up to where windows were given out, where they are corrected after that.
pub(super) const GIVEN: &str = "given";

/// When results go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::stream) enum Emission {
    /// Each window once, when it closes.
    Once,
    /// Each window when it has closed, and at each barrier after that what changed, until it is final.
    Corrected,
    /// At each barrier, what changed, until the window is final.
    Changes,
}

/// Makes the second halves of a GROUP BY.
#[derive(Debug)]
pub(in crate::stream) struct FinalFactory {
    pub(in crate::stream) spec: Arc<GroupSpec>,
    pub(in crate::stream) emission: Emission,
    pub(in crate::stream) text: String,
    pub(in crate::stream) place: Place,
}

impl OperatorFactory for FinalFactory {
    fn create(&self, _lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Final {
            spec: Arc::clone(&self.spec),
            emission: self.emission,
            place: self.place.clone(),
            earliest_open: i64::MIN,
            closed: i64::MIN,
            told_closed: i64::MIN,
            windows: BTreeMap::new(),
            gone: Vec::new(),
            share: Share::default(),
            ripe: Ripe::default(),
        }))
    }

    fn describe(&self) -> String {
        self.text.clone()
    }

    fn fingerprint(&self) -> String {
        format!("group v2 {:?} {}", self.emission, self.spec.fingerprint())
    }
}

struct Final {
    spec: Arc<GroupSpec>,
    emission: Emission,
    place: Place,
    /// Windows that start before this are final.
    earliest_open: i64,
    /// Windows that start before this are closed.
    closed: i64,
    /// That as it is stored, where it is.
    told_closed: i64,
    /// By start.
    windows: BTreeMap<i64, Window>,
    /// Closed since the last snapshot.
    gone: Vec<i64>,
    share: Share,
    ripe: Ripe,
}

impl Final {
    fn merge(&mut self, start: i64, partial: &RecordBatch) -> Result<(), DataFusionError> {
        let spec = Arc::clone(&self.spec);
        let window = match self.windows.entry(start) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(Window::new(&spec)?),
        };
        window.merge(&spec, partial)
    }

    fn take(&mut self, partial: &RecordBatch) -> Result<(), DataFusionError> {
        divided(partial)?.iter().try_for_each(|(start, rows)| self.merge(*start, rows))
    }

    /// What changed in a window since it was last looked at.
    fn changes(spec: &GroupSpec, start: i64, window: &mut Window) -> Result<Option<Batch>, DataFusionError> {
        if !window.changed {
            return Ok(None);
        }
        window.changed = false;
        let states = window.freeze(spec, start)?;
        let new = results_of(spec, start, &states)?;
        let old = match std::mem::replace(&mut window.emitted, Emitted::Nothing) {
            Emitted::Nothing => None,
            Emitted::Rows(rows) => Some(rows.read().map_err(lost)?),
            Emitted::Of(states) => Some(results_of(spec, start, &states.read().map_err(lost)?)?),
        };
        let batch = difference(old.as_ref(), &new)?;
        window.emitted = Emitted::Rows(new.into());
        Ok(Some(batch))
    }

    fn relieve(&mut self) -> Result<()> {
        let windows = self.windows.iter_mut().map(|(start, window)| (*start, window));
        relieve(windows, &self.spec, &mut self.share).map_err(|error| failed(&error, &self.place))
    }

    /// Emits and drops the windows that start before `self.earliest_open`.
    fn close(&mut self, out: &mut Output) -> Result<(), DataFusionError> {
        let open = self.windows.split_off(&self.earliest_open);
        let closed = std::mem::replace(&mut self.windows, open);
        let spec = Arc::clone(&self.spec);
        let mut finals = Vec::new();
        for (start, mut window) in closed {
            self.gone.push(start);
            match self.emission {
                Emission::Once => finals.push(window.finish(&spec, start)?),
                Emission::Corrected | Emission::Changes => {
                    if let Some(batch) = Final::changes(&spec, start, &mut window)? {
                        out.push(batch);
                    }
                }
            }
        }
        if !finals.is_empty() {
            out.push(Batch::inserts(concat_batches(&spec.schema, &finals)?));
        }
        Ok(())
    }
}

/// Partial groups divided by their first column; most batches are of one or few windows.
pub(super) fn divided(partial: &RecordBatch) -> Result<Vec<(i64, RecordBatch)>, DataFusionError> {
    let starts = partial.column(0).as_primitive::<TimestampMicrosecondType>().values().clone();
    let Some(&first) = starts.first() else { return Ok(Vec::new()) };
    if starts.iter().all(|start| *start == first) {
        return Ok(vec![(first, partial.clone())]);
    }
    let mut rows: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
    for (row, start) in (0_u32..).zip(starts.iter()) {
        rows.entry(*start).or_default().push(row);
    }
    let take = |(start, rows)| Ok((start, take_record_batch(partial, &UInt32Array::from(rows))?));
    rows.into_iter().map(take).collect()
}

impl Operator for Final {
    fn bound(&mut self, memory: &StateMemory) {
        self.share = memory.share();
    }

    fn on_batch(&mut self, _input: usize, batch: Batch, _out: &mut Output) -> Result<()> {
        self.take(&batch.rows).map_err(|error| failed(&error, &self.place))?;
        if self.share.is_bounded() && self.ripe.after(bytes_of(&batch.rows), &self.share) {
            self.relieve()?;
        }
        match self.windows.first_key_value() {
            Some((start, _)) if *start < self.earliest_open => {
                Err(Error::internal(format!("rows reached the window {start} after it was closed")))
            }
            _ => Ok(()),
        }
    }

    fn on_watermark(&mut self, watermark: Watermark, out: &mut Output) -> Result<()> {
        let Some(window) = &self.spec.window else { return Ok(()) };
        // The partial operator has brought the watermark to the time of the window's column already.
        self.closed = self.closed.max(window.size.earliest_open(watermark.0));
        let final_at = watermark.behind(self.spec.lateness);
        if self.spec.lateness > 0 {
            // What is said below of a window stands when it is final.
            out.watermark = Some(final_at);
        }
        let earliest_open = window.size.earliest_open(final_at.0);
        if earliest_open <= self.earliest_open {
            return Ok(());
        }
        self.earliest_open = earliest_open;
        self.close(out).map_err(|error| failed(&error, &self.place))
    }

    fn before_barrier(&mut self, out: &mut Output) -> Result<()> {
        let until = match self.emission {
            Emission::Once => return Ok(()),
            Emission::Corrected => self.closed,
            Emission::Changes => i64::MAX,
        };
        let spec = Arc::clone(&self.spec);
        let failed = |error: DataFusionError| failed(&error, &self.place);
        for (start, window) in self.windows.range_mut(..until) {
            if let Some(batch) = Final::changes(&spec, *start, window).map_err(failed)? {
                out.push(batch);
            }
        }
        Ok(())
    }

    fn snapshot(&mut self, _epoch: Epoch) -> Result<Vec<StateChunk>> {
        let mut chunks = Vec::new();
        for start in std::mem::take(&mut self.gone) {
            chunks.push(StateChunk { name: start.to_string(), rows: None });
        }
        let spec = Arc::clone(&self.spec);
        for (start, window) in self.windows.iter_mut().filter(|(_, window)| window.unsaved) {
            let rows = window.freeze(&spec, *start).map_err(|error| failed(&error, &self.place))?;
            window.unsaved = false;
            chunks.push(StateChunk { name: start.to_string(), rows: Some(rows) });
        }
        if self.emission == Emission::Corrected && self.told_closed != self.closed {
            self.told_closed = self.closed;
            chunks.push(time_chunk(GIVEN, self.closed)?);
        }
        self.relieve()?;
        Ok(chunks)
    }

    fn restore(&mut self, chunks: Vec<(String, RecordBatch)>, lane: usize, lanes: usize) -> Result<()> {
        let spec = Arc::clone(&self.spec);
        let corrupt = |name: &str, why: &str| {
            Error::new(Kind::Corrupt, "X030", format!("the stored window `{name}` is not readable: {why}"))
                .fact("the state was written by another version; rebuild it by replaying the pipeline from its start")
        };
        let mut windows: BTreeMap<i64, Vec<RecordBatch>> = BTreeMap::new();
        for (name, rows) in chunks {
            if name == GIVEN {
                let at = stored_time(&rows).ok_or_else(|| corrupt(&name, "it has other columns"))?;
                self.closed = self.closed.max(at);
                continue;
            }
            let start = name.parse::<i64>().map_err(|_| corrupt(&name, "its name is no time"))?;
            if rows.columns().iter().map(|c| c.data_type()).ne(spec.partial.fields().iter().map(|f| f.data_type())) {
                return Err(corrupt(&name, "it has other columns"));
            }
            let of = Route::lane_of(&rows, &spec.route(), lanes)
                .map_err(|e| Error::internal("stored groups have no lane").because(e))?;
            let mine: BooleanArray = of.iter().map(|of| Some(*of == lane)).collect();
            let mine = filter_record_batch(&rows, &mine).map_err(|e| corrupt(&name, &e.to_string()))?;
            if mine.num_rows() > 0 {
                windows.entry(start).or_default().push(mine);
            }
        }
        for (start, parts) in windows {
            let columns = concat_batches(&parts[0].schema(), &parts)
                .and_then(|rows| {
                    RecordBatch::try_new_with_options(
                        Arc::clone(&spec.partial),
                        rows.columns().to_vec(),
                        &arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.num_rows())),
                    )
                })
                .map_err(|e| corrupt(&start.to_string(), &e.to_string()))?;
            let mut window = Window::restored(columns);
            if self.emission == Emission::Corrected && start >= self.closed {
                window.withhold();
            }
            self.windows.insert(start, window);
        }
        Ok(())
    }
}
