//! [`ClosingFactory`]: holds rows by window and computes each window once, when it closes.
//!
//! **Invariant:** a window's rows are together on one lane as far as its recipe relates them; a window that closed is
//! given out in the same step and its rows are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Int64Type, SchemaRef, TimestampMicrosecondType};
use datafusion::error::DataFusionError;
use tidemill_model::{Epoch, Error, Place, Result, Watermark};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output, Share, StateChunk, StateMemory, bytes_of};

use super::held::{Held, restored};
use super::recipe::{Compiled, Recipe};
use super::weighted::{is_weighted, net, standing, weighted, with_weight};
use crate::session::{Told, WindowSize};
use crate::stream::late::{CameLate, LateHome};
use crate::stream::state::Ripe;
use crate::stream::transform::failed;

/// Windows that close together are computed together up to about so many rows.
const ROWS_A_RUN: usize = 65_536;
/// A window is pruned when it has so many rows more than twice what was left the last time.
const PRUNE_AFTER: usize = 16_384;

/// One input: its columns, what tells their window, and how rows find their lane.
#[derive(Debug, Clone)]
pub(in crate::stream) struct ClosingInput {
    pub(in crate::stream) schema: SchemaRef,
    pub(in crate::stream) told: Told,
    pub(in crate::stream) route: Vec<usize>,
}

impl ClosingInput {
    /// An input of these columns. Where rows are taken back they are held with their weights.
    pub(in crate::stream) fn new(schema: SchemaRef, told: Told, route: Vec<usize>, changes: bool) -> ClosingInput {
        ClosingInput { schema: if changes { with_weight(&schema) } else { schema }, told, route }
    }
}

/// Leaves of a window's rows those that can still be in the answer: a recipe over the only input, giving its columns.
pub(in crate::stream) struct Prune(pub(in crate::stream) Recipe);

/// Makes operators that compute windows when they close.
pub(in crate::stream) struct ClosingFactory {
    pub(in crate::stream) inputs: Vec<ClosingInput>,
    pub(in crate::stream) recipe: Recipe,
    pub(in crate::stream) prune: Option<Prune>,
    pub(in crate::stream) late: LateHome,
    pub(in crate::stream) text: String,
    pub(in crate::stream) place: Place,
}

impl fmt::Debug for ClosingFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClosingFactory").field("text", &self.text).finish_non_exhaustive()
    }
}

impl OperatorFactory for ClosingFactory {
    fn create(&self, _lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        let failed = |error: DataFusionError| failed(&error, &self.place);
        let compiled = self.recipe.compile().map_err(failed)?;
        let prune = self.prune.as_ref().map(|prune| prune.0.compile()).transpose().map_err(failed)?;
        Ok(Box::new(Closing {
            inputs: self.inputs.clone(),
            compiled,
            prune,
            place: self.place.clone(),
            windows: self.inputs.iter().map(|_| BTreeMap::new()).collect(),
            earliest_open: i64::MIN,
            gone: Vec::new(),
            chunk: 0,
            late: 0,
            share: Share::default(),
            ripe: Ripe::default(),
            home: self.late.clone(),
            watermark: Watermark::MIN,
        }))
    }

    fn describe(&self) -> String {
        self.text.clone()
    }

    fn fingerprint(&self) -> String {
        format!("closing v1 {:?} {}", self.inputs, self.recipe.text())
    }
}

#[derive(Default)]
struct Window {
    held: Held,
    /// How many rows the last pruning left.
    left: usize,
}

struct Closing {
    inputs: Vec<ClosingInput>,
    compiled: Compiled,
    prune: Option<Compiled>,
    place: Place,
    /// For each input its windows by start.
    windows: Vec<BTreeMap<i64, Window>>,
    /// Windows that start before this are closed.
    earliest_open: i64,
    /// Chunks that are gone since the last snapshot.
    gone: Vec<String>,
    chunk: u64,
    late: u64,
    share: Share,
    ripe: Ripe,
    home: LateHome,
    watermark: Watermark,
}

impl Closing {
    /// Counts what is held in memory, and parks it when it is too much: the rows first whose windows close last.
    fn relieve(&mut self) -> Result<(), DataFusionError> {
        if !self.share.is_bounded() {
            return Ok(());
        }
        let mut all: Vec<(i64, usize, &mut Window)> = Vec::new();
        for (number, windows) in self.windows.iter_mut().enumerate() {
            all.extend(windows.iter_mut().map(|(start, window)| (*start, number, window)));
        }
        let mut taken: usize = all.iter().map(|(_, _, window)| window.held.bytes()).sum();
        self.share.set(taken);
        all.sort_by_key(|(start, _, _)| std::cmp::Reverse(*start));
        for (_, number, window) in all {
            if self.share.excess() == 0 {
                break;
            }
            taken -= window.held.bytes();
            window.held.park(&self.inputs[number].schema, &self.share)?;
            self.share.set(taken);
        }
        Ok(())
    }

    fn take(&mut self, input: usize, rows: &RecordBatch, out: &mut Output) -> Result<(), DataFusionError> {
        let told = &self.inputs[input].told;
        let column = rows.column(told.column).as_primitive::<TimestampMicrosecondType>();
        let mut by_window: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        let mut last = (i64::MAX, i64::MAX);
        let mut late = Vec::new();
        for row in 0..rows.num_rows() {
            // Rows in no window are in no result.
            if column.is_null(row) {
                continue;
            }
            let at = column.value(row);
            if at != last.0 {
                let start = if told.is_end { told.size.window_of(at.saturating_sub(1)).map(|w| w.0) } else { Some(at) };
                let Some(start) = start else { continue };
                last = (at, start);
            }
            if last.1 < self.earliest_open {
                late.push((row, last.1));
                continue;
            }
            by_window.entry(last.1).or_default().push(row as u32);
        }
        if !late.is_empty() {
            self.late += late.len() as u64;
            let mut of = told_late(&late, told, rows.num_rows());
            let shown = if is_weighted(&self.inputs[input].schema) {
                // A row that is taken back came in time once; only the one that comes in its place is late.
                let last = rows.num_columns() - 1;
                let weights = rows.column(last).as_primitive::<Int64Type>().values();
                of.iter_mut().zip(weights).filter(|(_, weight)| **weight < 0).for_each(|(of, _)| *of = None);
                rows.project(&(0..last).collect::<Vec<_>>())?
            } else {
                rows.clone()
            };
            out.late.extend(self.home.keep(&shown, &of, self.watermark)?);
        }
        for (start, numbers) in by_window {
            let part = match numbers.len() == rows.num_rows() {
                true => rows.clone(),
                false => take_record_batch(rows, &UInt32Array::from(numbers))?,
            };
            let window = self.windows[input].entry(start).or_default();
            window.held.push(part);
            let schema = &self.inputs[input].schema;
            let weighs = is_weighted(schema);
            if (self.prune.is_some() || weighs) && window.held.len() > 2 * window.left + PRUNE_AFTER {
                let left = match &mut self.prune {
                    Some(prune) if !weighs => prune.run(vec![window.held.batches()?])?,
                    _ => net(&window.held.batches()?, schema)?,
                };
                window.left = left.num_rows();
                window.held.replace(vec![left], &mut self.gone);
            }
        }
        Ok(())
    }

    /// Gives out and drops the windows that start before `self.earliest_open`.
    fn close(&mut self, out: &mut Output) -> Result<(), DataFusionError> {
        let mut closed = Vec::with_capacity(self.windows.len());
        for windows in &mut self.windows {
            let open = windows.split_off(&self.earliest_open);
            closed.push(std::mem::replace(windows, open));
        }
        let starts: BTreeSet<i64> = closed.iter().flat_map(BTreeMap::keys).copied().collect();
        let mut inputs: Vec<Vec<RecordBatch>> = vec![Vec::new(); closed.len()];
        let mut rows = 0;
        for start in starts {
            for ((windows, batches), input) in closed.iter_mut().zip(&mut inputs).zip(&self.inputs) {
                let Some(window) = windows.remove(&start) else { continue };
                rows += window.held.len();
                let held = window.held.batches()?;
                match is_weighted(&input.schema) {
                    true => batches.push(standing(&held, &input.schema)?),
                    false => batches.extend(held),
                }
                self.gone.extend(window.held.forget());
            }
            if rows >= ROWS_A_RUN {
                let given = std::mem::replace(&mut inputs, vec![Vec::new(); closed.len()]);
                out.push_parts(Batch::inserts(self.compiled.run(given)?));
                rows = 0;
            }
        }
        if rows > 0 {
            out.push_parts(Batch::inserts(self.compiled.run(inputs)?));
        }
        Ok(())
    }
}

/// What there is to tell of rows that came after their window had closed, given the window's start.
fn told_late(late: &[(usize, i64)], told: &Told, rows: usize) -> Vec<Option<CameLate>> {
    let mut of = vec![None; rows];
    for (row, start) in late {
        // When a session ends, its start does not say.
        let known = !matches!(told.size, WindowSize::Session { .. });
        let window = known.then(|| (*start, told.size.end_of(*start)));
        of[*row] = Some(CameLate { event_time: None, window, pairs: 1 });
    }
    of
}

impl Operator for Closing {
    fn bound(&mut self, memory: &StateMemory) {
        self.share = memory.share();
    }

    fn on_batch(&mut self, input: usize, batch: Batch, out: &mut Output) -> Result<()> {
        let schema = &self.inputs[input].schema;
        let rows = match (is_weighted(schema), &batch.weights) {
            (true, _) => weighted(batch, schema).map_err(|e| Error::internal("rows have no weights").because(e))?,
            (false, None) => batch.rows,
            (false, Some(_)) => {
                return Err(Error::internal("windows were planned to be held of rows that are not taken back"));
            }
        };
        let bytes = if self.share.is_bounded() { bytes_of(&rows) } else { 0 };
        self.take(input, &rows, out).map_err(|error| failed(&error, &self.place))?;
        if self.share.is_bounded() && self.ripe.after(bytes, &self.share) {
            return self.relieve().map_err(|error| failed(&error, &self.place));
        }
        Ok(())
    }

    fn on_watermark(&mut self, watermark: Watermark, out: &mut Output) -> Result<()> {
        self.watermark = watermark;
        let time = self.inputs.iter().map(|input| input.told.time_at(watermark.0)).min().unwrap_or(watermark.0);
        if time != watermark.0 {
            out.watermark = Some(Watermark(time));
        }
        let Some(input) = self.inputs.first() else { return Ok(()) };
        let earliest_open = input.told.size.earliest_open(time);
        if earliest_open <= self.earliest_open {
            return Ok(());
        }
        self.earliest_open = earliest_open;
        self.close(out).map_err(|error| failed(&error, &self.place))
    }

    fn snapshot(&mut self, _epoch: Epoch) -> Result<Vec<StateChunk>> {
        let mut chunks: Vec<StateChunk> =
            std::mem::take(&mut self.gone).into_iter().map(|name| StateChunk { name, rows: None }).collect();
        for (number, (input, windows)) in self.inputs.iter().zip(&mut self.windows).enumerate() {
            for (start, window) in windows {
                let name = |chunk: u64| format!("{number}.{start}.{chunk}");
                let saved = window.held.save(&input.schema, &mut self.chunk, name, &mut chunks);
                saved.map_err(|error| failed(&error, &self.place))?;
            }
        }
        self.relieve().map_err(|error| failed(&error, &self.place))?;
        Ok(chunks)
    }

    fn restore(&mut self, chunks: Vec<(String, RecordBatch)>, lane: usize, lanes: usize) -> Result<()> {
        let key = |name: &str| {
            let mut parts = name.split('.');
            let number: usize = parts.next()?.parse().ok()?;
            let start: i64 = parts.next()?.parse().ok()?;
            let input = self.inputs.get(number)?;
            Some(((number, start), Arc::clone(&input.schema), input.route.clone()))
        };
        for ((number, start), held) in restored(chunks, key, lane, lanes)? {
            self.windows[number].insert(start, Window { held, left: 0 });
        }
        Ok(())
    }

    fn late_rows(&self) -> u64 {
        self.late
    }
}
