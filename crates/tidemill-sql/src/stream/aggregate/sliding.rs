//! [`SlidingFactory`]: the second half of a GROUP BY over hopping windows: merges partial groups by pane, and panes into
//! windows.
//!
//! A row is in one pane, whatever number of windows that is in, so the work for a row does not depend on how windows
//! overlap. A window costs the groups of its parts (see [`Tiers`]). What is stored are panes.
//!
//! **Invariant:** as for [`super::FinalFactory`]. A pane is kept until the last window that has it is final; what it takes
//! after the first of them is final is in the others alone, for a final window is never looked at again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{concat_batches, filter_record_batch};
use datafusion::error::DataFusionError;
use tidemill_model::{Epoch, Error, Kind, Place, Result, Watermark};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output, Route, Share, StateChunk, StateMemory, bytes_of};

use super::changes::difference;
use super::finish::{Emission, GIVEN, divided};
use super::groups::Groups;
use super::panes::{Pane, Panes};
use super::spec::GroupSpec;
use super::tiers::Tiers;
use super::windows::{Window, merge, relieve};
use crate::session::WindowSize;
use crate::stream::state::{Ripe, stored_time, time_chunk};
use crate::stream::transform::failed;

/// The name of the chunk that says which windows have closed.
const OPEN: &str = "open";
/// Closed windows go out together up to so many rows.
const TOGETHER: usize = 8_192;

/// Makes the second halves of a GROUP BY over hopping windows.
#[derive(Debug)]
pub(in crate::stream) struct SlidingFactory {
    pub(in crate::stream) spec: Arc<GroupSpec>,
    pub(in crate::stream) emission: Emission,
    pub(in crate::stream) text: String,
    pub(in crate::stream) place: Place,
}

impl OperatorFactory for SlidingFactory {
    fn create(&self, _lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        let Some(window) = &self.spec.window else {
            return Err(Error::internal("panes were planned without a window"));
        };
        Ok(Box::new(Sliding {
            spec: Arc::clone(&self.spec),
            size: window.size,
            emission: self.emission,
            place: self.place.clone(),
            earliest_open: i64::MIN,
            told_open: i64::MIN,
            closed: i64::MIN,
            given: i64::MIN,
            told_given: i64::MIN,
            panes: Panes::default(),
            tiers: Tiers::default(),
            shown: BTreeMap::new(),
            gone: Vec::new(),
            share: Share::default(),
            ripe: Ripe::default(),
        }))
    }

    fn describe(&self) -> String {
        self.text.clone()
    }

    fn fingerprint(&self) -> String {
        format!("panes v1 {:?} {}", self.emission, self.spec.fingerprint())
    }
}

struct Sliding {
    spec: Arc<GroupSpec>,
    size: WindowSize,
    emission: Emission,
    place: Place,
    /// Windows that start before this are final.
    earliest_open: i64,
    /// That as it is stored.
    told_open: i64,
    /// Windows that start before this are closed.
    closed: i64,
    /// Windows that start before this were closed when windows were given out last, where only closed ones are.
    given: i64,
    /// That as it is stored.
    told_given: i64,
    panes: Panes,
    tiers: Tiers,
    /// By the start of a window that is not final what stands downstream, where changes are emitted.
    shown: BTreeMap<i64, Shown>,
    /// The starts of panes dropped since the last snapshot.
    gone: Vec<i64>,
    share: Share,
    ripe: Ripe,
}

/// The results of a window, and the keys of the groups they are of.
struct Shown {
    keys: Vec<ArrayRef>,
    rows: RecordBatch,
}

impl Sliding {
    fn number(&self, at: i64) -> Result<i64, DataFusionError> {
        match self.size.pane_number(at) {
            Some(number) => Ok(number),
            None => datafusion::common::internal_err!("the pane of {at} lies outside of time"),
        }
    }

    fn take(&mut self, partial: &RecordBatch) -> Result<(), DataFusionError> {
        let spec = Arc::clone(&self.spec);
        for (start, rows) in divided(partial)? {
            if self.size.last_start(start).is_none_or(|last| last < self.earliest_open) {
                return datafusion::common::internal_err!(
                    "rows reached the pane {start} after its windows were closed"
                );
            }
            let number = self.number(start)?;
            self.tiers.changed(number);
            self.panes.merge(&spec, number, start, &rows)?;
        }
        Ok(())
    }

    fn relieve(&mut self) -> Result<()> {
        let panes = self.panes.by_number.values_mut().map(|pane| (pane.start, &mut pane.groups));
        relieve(panes, &self.spec, &mut self.share).map_err(|error| failed(&error, &self.place))
    }

    /// The results of a window. Groups that are known come first, in their order.
    fn results(&mut self, start: i64, known: Option<&Shown>) -> Result<Shown, DataFusionError> {
        let spec = Arc::clone(&self.spec);
        let mut groups = Groups::new(&spec.key_schema(1), &spec.aggregates)?;
        if let Some(known) = known {
            groups.know(&known.keys, known.rows.num_rows(), &spec.aggregates)?;
        }
        let first = self.number(start)?;
        for part in self.tiers.parts(&mut self.panes, &spec, first, self.size.panes())? {
            merge(&mut groups, &spec, &part)?;
        }
        let count = groups.len();
        let (keys, results) = groups.take_results()?;
        let columns = spec.assemble(start, &keys, &results, count);
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&spec.schema), columns, &options)?;
        Ok(Shown { keys, rows })
    }

    /// The windows that are not final and have a pane which `of` says.
    fn windows(&self, of: impl Fn(&Pane) -> bool) -> BTreeSet<i64> {
        let panes = self.panes.by_number.values().filter(|pane| of(pane));
        let starts = panes.flat_map(|pane| self.size.starts_at(pane.start));
        starts.filter(|start| *start >= self.earliest_open).collect()
    }

    /// Emits what changed since the last time in the windows that are not final; where they are corrected, in the closed
    /// ones of these, of which those that closed since are new.
    fn change(&mut self, out: &mut Output) -> Result<(), DataFusionError> {
        let mut changed = self.windows(|pane| pane.groups.changed);
        if self.emission == Emission::Corrected {
            if self.closed > self.given {
                changed.extend(self.windows(|_| true).range(self.given..));
                self.given = self.closed;
            }
            changed.split_off(&self.closed);
        }
        for start in changed {
            let old = self.shown.remove(&start);
            let new = self.results(start, old.as_ref())?;
            out.push(difference(old.as_ref().map(|old| &old.rows), &new.rows)?);
            self.shown.insert(start, new);
        }
        for pane in self.panes.by_number.values_mut() {
            pane.groups.changed = false;
        }
        Ok(())
    }

    /// Emits the windows that start before `open` and were not closed yet, and drops the panes that no other has.
    fn close(&mut self, open: i64, out: &mut Output) -> Result<(), DataFusionError> {
        match self.emission {
            Emission::Once => self.finish(open, out)?,
            Emission::Corrected | Emission::Changes => {
                self.change(out)?;
                self.shown = self.shown.split_off(&open);
            }
        }
        self.earliest_open = open;
        while let Some(entry) = self.panes.by_number.first_entry() {
            if self.size.last_start(entry.get().start).is_some_and(|last| last >= open) {
                break;
            }
            self.gone.push(entry.remove().start);
        }
        let first = self.panes.next(i64::MIN).map_or(i64::MAX, |(number, _)| number);
        self.tiers.drop_before(first);
        Ok(())
    }

    fn finish(&mut self, open: i64, out: &mut Output) -> Result<(), DataFusionError> {
        let spec = Arc::clone(&self.spec);
        let (mut finals, mut rows) = (Vec::new(), 0);
        let mut next = self.panes.next(i64::MIN).map(|(_, at)| self.size.earliest_open(at).max(self.earliest_open));
        while let Some(start) = next.filter(|start| *start < open) {
            let first = self.number(start)?;
            next = match self.panes.next(first) {
                // The first window that has the next pane there is.
                Some((number, at)) if number - first >= self.size.panes() => Some(self.size.earliest_open(at)),
                Some(_) => {
                    let results = self.results(start, None)?.rows;
                    rows += results.num_rows();
                    finals.push(results);
                    self.size.next_start(start)
                }
                None => None,
            };
            if rows > TOGETHER {
                out.push(Batch::inserts(concat_batches(&spec.schema, &finals)?));
                (finals, rows) = (Vec::new(), 0);
            }
        }
        if !finals.is_empty() {
            out.push(Batch::inserts(concat_batches(&spec.schema, &finals)?));
        }
        Ok(())
    }
}

impl Operator for Sliding {
    fn bound(&mut self, memory: &StateMemory) {
        self.share = memory.share();
    }

    fn on_batch(&mut self, _input: usize, batch: Batch, _out: &mut Output) -> Result<()> {
        self.take(&batch.rows).map_err(|error| failed(&error, &self.place))?;
        if self.share.is_bounded() && self.ripe.after(bytes_of(&batch.rows), &self.share) {
            return self.relieve();
        }
        Ok(())
    }

    fn on_watermark(&mut self, watermark: Watermark, out: &mut Output) -> Result<()> {
        self.closed = self.closed.max(self.size.earliest_open(watermark.0));
        let final_at = watermark.behind(self.spec.lateness);
        if self.spec.lateness > 0 {
            // What is said below of a window stands when it is final.
            out.watermark = Some(final_at);
        }
        let open = self.size.earliest_open(final_at.0);
        if open <= self.earliest_open {
            return Ok(());
        }
        self.close(open, out).map_err(|error| failed(&error, &self.place))
    }

    fn before_barrier(&mut self, out: &mut Output) -> Result<()> {
        match self.emission {
            Emission::Once => Ok(()),
            Emission::Corrected | Emission::Changes => self.change(out).map_err(|error| failed(&error, &self.place)),
        }
    }

    fn snapshot(&mut self, _epoch: Epoch) -> Result<Vec<StateChunk>> {
        let spec = Arc::clone(&self.spec);
        let gone = std::mem::take(&mut self.gone);
        let mut chunks: Vec<StateChunk> =
            gone.into_iter().map(|start| StateChunk { name: start.to_string(), rows: None }).collect();
        for pane in self.panes.by_number.values_mut().filter(|pane| pane.groups.unsaved) {
            let rows = pane.groups.freeze(&spec, pane.start).map_err(|error| failed(&error, &self.place))?;
            pane.groups.unsaved = false;
            chunks.push(StateChunk { name: pane.start.to_string(), rows: Some(rows) });
        }
        if self.told_open != self.earliest_open {
            self.told_open = self.earliest_open;
            chunks.push(time_chunk(OPEN, self.earliest_open)?);
        }
        if self.emission == Emission::Corrected && self.told_given != self.given {
            self.told_given = self.given;
            chunks.push(time_chunk(GIVEN, self.given)?);
        }
        self.relieve()?;
        Ok(chunks)
    }

    fn restore(&mut self, chunks: Vec<(String, RecordBatch)>, lane: usize, lanes: usize) -> Result<()> {
        let spec = Arc::clone(&self.spec);
        let corrupt = |name: &str, why: &str| {
            Error::new(Kind::Corrupt, "X033", format!("the stored pane `{name}` is not readable: {why}"))
                .fact("the state was written by another version; rebuild it by replaying the pipeline from its start")
        };
        let mut panes: BTreeMap<i64, Vec<RecordBatch>> = BTreeMap::new();
        for (name, rows) in chunks {
            if name == OPEN || name == GIVEN {
                let at = stored_time(&rows).ok_or_else(|| corrupt(&name, "it has other columns"))?;
                let of = if name == OPEN { &mut self.earliest_open } else { &mut self.given };
                *of = (*of).max(at);
                self.closed = self.given;
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
                panes.entry(start).or_default().push(mine);
            }
        }
        let place = self.place.clone();
        let failed = |error: DataFusionError| failed(&error, &place);
        for (start, parts) in panes {
            let rows = concat_batches(&parts[0].schema(), &parts)
                .and_then(|rows| RecordBatch::try_new(Arc::clone(&spec.partial), rows.columns().to_vec()))
                .map_err(|e| corrupt(&start.to_string(), &e.to_string()))?;
            let number = self.number(start).map_err(failed)?;
            self.panes.by_number.insert(number, Pane { start, groups: Window::restored(rows) });
        }
        if self.emission != Emission::Once {
            let mut shown = self.windows(|_| true);
            if self.emission == Emission::Corrected {
                shown.split_off(&self.given);
            }
            for start in shown {
                let shown = self.results(start, None).map_err(failed)?;
                self.shown.insert(start, shown);
            }
        }
        Ok(())
    }
}
