//! [`LookupFactory`]: joins a stream with the rows of a table, each epoch with one version of it.
//!
//! Rows that are taken back must be taken back as they were given: where they may be, the first version is kept with the
//! state of the operator, for good.
//!
//! **Invariant:** all lanes see the same rows of the looked-up side in an epoch; a NULL key matches nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take, take_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use datafusion::common::HashMap;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use tidemill_model::{Epoch, Error, Kind, Place, Result};
use tidemill_runtime::{Batch, LookedUp, Operator, OperatorFactory, Output, StateChunk, Version, Versions};

use super::OpenTable;
use super::transform::failed;
use crate::language::Dataset;
use crate::session::{truths, values};

/// What becomes of a stream's row by its matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// One row for each match.
    Matches,
    /// The same, and the row with NULLs when there is none.
    MatchesOrNull,
    /// The row once, if there is a match.
    IfMatched,
    /// The row once, if there is none.
    IfUnmatched,
}

/// Reads the looked-up side.
pub(super) type Load = Arc<dyn Fn() -> Result<Vec<RecordBatch>> + Send + Sync>;

/// The name of the chunk with a version that is kept.
const KEPT: &str = "table";
/// How often a table is read that changes each time while that goes on.
const TRIES: usize = 3;

/// The looked-up side of a join.
pub(super) struct LookupTable {
    pub(super) datasets: Vec<Dataset>,
    pub(super) tables: OpenTable,
    pub(super) load: Load,
    /// The columns of the looked-up side.
    pub(super) side: SchemaRef,
    /// What rows are looked up by, over these columns.
    pub(super) keys: Vec<Arc<dyn PhysicalExpr>>,
    /// Whether the first version is kept with the state of the operator.
    pub(super) kept: bool,
    pub(super) place: Place,
}

impl fmt::Debug for LookupTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LookupTable").field("datasets", &self.datasets()).finish_non_exhaustive()
    }
}

impl LookupTable {
    fn versions(&self) -> Result<BTreeMap<String, Version>> {
        let mut versions = BTreeMap::new();
        for dataset in &self.datasets {
            if let Some(version) = self.tables.version(dataset)? {
                versions.insert(dataset.name.clone(), version);
            }
        }
        Ok(versions)
    }

    fn index(&self, rows: &[RecordBatch]) -> Result<Table> {
        Table::new(&self.side, rows, &self.keys).map_err(|error| failed(&error, &self.place))
    }
}

impl LookedUp for LookupTable {
    fn datasets(&self) -> Vec<String> {
        self.datasets.iter().map(|dataset| dataset.name.clone()).collect()
    }

    fn refresh(&self) -> Option<Duration> {
        if self.kept {
            return None;
        }
        self.datasets.iter().filter_map(|dataset| self.tables.refresh(dataset)).min()
    }

    fn is_kept(&self) -> bool {
        self.kept
    }

    fn read(&self, known: Option<&Versions>) -> Result<Option<(Versions, tidemill_runtime::Rows)>> {
        let mut before = self.versions()?;
        let tokens = |versions: &BTreeMap<String, Version>| -> Versions {
            versions.iter().map(|(name, version)| (name.clone(), version.token.clone())).collect()
        };
        if known.is_some_and(|known| *known == tokens(&before)) {
            return Ok(None);
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let rows = self.index(&(self.load)()?)?;
            let after = self.versions()?;
            let torn = |(name, version): &(&String, &Version)| !version.grows && before.get(*name) != Some(version);
            let torn = after.iter().find(torn).map(|(name, _)| name.clone());
            match torn {
                // A run that begins has no other version. What it records is out of date, so it is soon read again.
                Some(_) if known.is_none() && tries == TRIES => {}
                Some(name) if tries == TRIES => {
                    return Err(Error::new(
                        Kind::Unavailable,
                        "U040",
                        format!("`{name}` changed while it was read, {TRIES} times in a row"),
                    )
                    .fact("replace a file as a whole: write it under a name that begins with `_` and rename it"));
                }
                Some(_) => {
                    before = after;
                    continue;
                }
                None => {}
            }
            return Ok(Some((tokens(&before), Arc::new(rows))));
        }
    }
}

/// Makes lookup joins.
pub(super) struct LookupFactory {
    pub(super) keep: Keep,
    pub(super) table: Arc<LookupTable>,
    /// What the stream's rows are looked up by.
    pub(super) on: Vec<Arc<dyn PhysicalExpr>>,
    /// What else a pair must meet, over the stream's columns followed by the looked-up ones.
    pub(super) residual: Option<Arc<dyn PhysicalExpr>>,
    /// Whether the looked-up columns come first in the result.
    pub(super) looked_up_first: bool,
    /// The columns of a pair: the stream's, then the looked-up ones.
    pub(super) pair: SchemaRef,
    /// The columns of the result.
    pub(super) schema: SchemaRef,
    pub(super) text: String,
    /// See [`OperatorFactory::definition`].
    pub(super) definition: String,
    pub(super) place: Place,
}

impl fmt::Debug for LookupFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LookupFactory").field("text", &self.text).finish_non_exhaustive()
    }
}

impl OperatorFactory for LookupFactory {
    fn create(&self, lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Lookup {
            rows: None,
            work: None,
            stored: !self.table.kept || lane > 0,
            side: Arc::clone(&self.table),
            keep: self.keep,
            on: self.on.clone(),
            residual: self.residual.clone(),
            looked_up_first: self.looked_up_first,
            pair: Arc::clone(&self.pair),
            schema: Arc::clone(&self.schema),
            place: self.place.clone(),
        }))
    }

    fn describe(&self) -> String {
        self.text.clone()
    }

    fn table(&self) -> Option<Arc<dyn LookedUp>> {
        Some(Arc::clone(&self.table) as Arc<dyn LookedUp>)
    }

    fn fingerprint(&self) -> String {
        if self.table.kept { format!("kept lookup v1 {}", self.definition) } else { String::new() }
    }

    fn definition(&self) -> String {
        self.definition.clone()
    }
}

/// The looked-up rows by their key.
#[derive(Debug)]
pub(super) struct Table {
    rows: RecordBatch,
    converter: RowConverter,
    /// Key bytes to the place of the rows that have them.
    by_key: HashMap<Box<[u8]>, u32>,
    /// The numbers of the rows of each key.
    groups: Vec<Vec<u32>>,
}

/// The place of a key that no row has.
const NO_ROWS: u32 = u32::MAX;

impl Table {
    fn new(
        schema: &SchemaRef,
        batches: &[RecordBatch],
        on: &[Arc<dyn PhysicalExpr>],
    ) -> Result<Table, DataFusionError> {
        let mut aligned = Vec::with_capacity(batches.len());
        for batch in batches {
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            aligned.push(RecordBatch::try_new_with_options(Arc::clone(schema), batch.columns().to_vec(), &options)?);
        }
        let rows = concat_batches(schema, &aligned)?;
        let keys = on.iter().map(|key| values(key, &rows)).collect::<Result<Vec<ArrayRef>, _>>()?;
        let fields = keys.iter().map(|key| SortField::new(key.data_type().clone())).collect();
        let converter = RowConverter::new(fields)?;
        let mut by_key: HashMap<Box<[u8]>, u32> = HashMap::default();
        let mut groups: Vec<Vec<u32>> = Vec::new();
        if keys.is_empty() {
            groups.push((0..rows.num_rows() as u32).collect());
        } else {
            let encoded = converter.convert_columns(&keys)?;
            for row in (0..rows.num_rows()).filter(|row| keys.iter().all(|key| key.is_valid(*row))) {
                let place = *by_key.entry(Box::from(encoded.row(row).as_ref())).or_insert(groups.len() as u32);
                if place as usize == groups.len() {
                    groups.push(Vec::new());
                }
                groups[place as usize].push(row as u32);
            }
        }
        Ok(Table { rows, converter, by_key, groups })
    }

    /// For each row of a stream the place of the rows that have its keys; without keys all rows do.
    fn places(&self, keys: &[ArrayRef], rows: usize) -> Result<Vec<u32>, DataFusionError> {
        if keys.is_empty() {
            return Ok(vec![0; rows]);
        }
        let encoded = self.converter.convert_columns(keys)?;
        let place = |(row, key): (usize, arrow::row::Row<'_>)| match keys.iter().all(|of| of.is_valid(row)) {
            true => self.by_key.get(key.as_ref()).copied().unwrap_or(NO_ROWS),
            false => NO_ROWS,
        };
        Ok(encoded.iter().enumerate().map(place).collect())
    }

    fn matches(&self, place: u32) -> &[u32] {
        self.groups.get(place as usize).map_or(&[], Vec::as_slice)
    }
}

struct Lookup {
    /// The version that the next row meets.
    rows: Option<Arc<Table>>,
    /// A batch of which a part of the result is still to be given out.
    work: Option<Work>,
    /// Whether there is nothing to store: what is kept is stored once, for all lanes.
    stored: bool,
    side: Arc<LookupTable>,
    keep: Keep,
    on: Vec<Arc<dyn PhysicalExpr>>,
    residual: Option<Arc<dyn PhysicalExpr>>,
    looked_up_first: bool,
    pair: SchemaRef,
    schema: SchemaRef,
    place: Place,
}

/// A batch on its way through a lookup.
struct Work {
    batch: Batch,
    /// For each row the place of its matches.
    places: Vec<u32>,
    /// How many pairs are made at once.
    most: usize,
    /// The row in hand, and how many of its matches are done.
    row: usize,
    done: usize,
    /// For each row whether it had a match that meets all conditions.
    matched: Vec<bool>,
}

/// Rows of the stream and the looked-up rows that they match, by number, in the order of the stream. A row without a match
/// stands there with none, where it is wanted.
#[derive(Default)]
struct Pairs {
    stream: Vec<u32>,
    side: Vec<Option<u32>>,
}

impl Lookup {
    fn begin(&self, table: &Table, batch: Batch) -> Result<Work, DataFusionError> {
        let rows = batch.len();
        let keys = self.on.iter().map(|key| values(key, &batch.rows)).collect::<Result<Vec<_>, _>>()?;
        let places = table.places(&keys, rows)?;
        // A batch whose rows have one match each stays as it is.
        let most = rows.max(Output::ROWS);
        Ok(Work { batch, places, most, row: 0, done: 0, matched: vec![false; rows] })
    }

    /// The next part of the result.
    fn part(&self, table: &Table, work: &mut Work) -> Result<Option<Batch>, DataFusionError> {
        let gives_pairs = matches!(self.keep, Keep::Matches | Keep::MatchesOrNull);
        if !gives_pairs && self.residual.is_none() {
            for (place, matched) in work.places.iter().zip(&mut work.matched) {
                *matched = !table.matches(*place).is_empty();
            }
            work.row = work.places.len();
        }
        let first = work.row;
        let mut candidates = Pairs::default();
        while work.row < work.places.len() && candidates.stream.len() < work.most {
            let matches = table.matches(work.places[work.row]);
            let rest = matches.get(work.done..).unwrap_or_default();
            let some = rest.len().min(work.most - candidates.stream.len());
            candidates.stream.extend(std::iter::repeat_n(work.row as u32, some));
            candidates.side.extend(rest.iter().take(some).copied().map(Some));
            work.done += some;
            if work.done == matches.len() {
                (work.row, work.done) = (work.row + 1, 0);
            }
        }
        let pairs = self.meeting(table, &work.batch.rows, candidates)?;
        let known = work.matched.get(first).copied().unwrap_or(false);
        pairs.stream.iter().for_each(|row| work.matched[*row as usize] = true);
        if !gives_pairs {
            return if work.row < work.places.len() { Ok(None) } else { self.asked(work).map(Some) };
        }
        let pairs = match self.keep {
            Keep::MatchesOrNull => padded(&pairs, (first, work.row), known),
            _ => pairs,
        };
        self.joined(table, &work.batch, pairs).map(Some)
    }

    /// The pairs that meet the other conditions.
    fn meeting(&self, table: &Table, stream: &RecordBatch, pairs: Pairs) -> Result<Pairs, DataFusionError> {
        let Some(residual) = self.residual.as_ref().filter(|_| !pairs.stream.is_empty()) else { return Ok(pairs) };
        let (of_stream, of_side) = (UInt32Array::from(pairs.stream.clone()), UInt32Array::from(pairs.side.clone()));
        let mut columns = take_record_batch(stream, &of_stream)?.columns().to_vec();
        columns.extend(take_record_batch(&table.rows, &of_side)?.columns().iter().cloned());
        let options = RecordBatchOptions::new().with_row_count(Some(of_stream.len()));
        let truth = truths(residual, &RecordBatch::try_new_with_options(Arc::clone(&self.pair), columns, &options)?)?;
        let kept = pairs.stream.into_iter().zip(pairs.side).zip(truth.iter());
        let (stream, side) = kept.filter(|(_, truth)| *truth == Some(true)).map(|(pair, _)| pair).unzip();
        Ok(Pairs { stream, side })
    }

    /// The rows that have a match, or have none.
    fn asked(&self, work: &Work) -> Result<Batch, DataFusionError> {
        let wanted = self.keep == Keep::IfMatched;
        let keep: BooleanArray = work.matched.iter().map(|matched| Some(*matched == wanted)).collect();
        let rows = filter_record_batch(&work.batch.rows, &keep)?;
        Ok(Batch { rows, ..work.batch.filter(&keep)? })
    }

    fn joined(&self, table: &Table, batch: &Batch, pairs: Pairs) -> Result<Batch, DataFusionError> {
        let (stream, side) = (UInt32Array::from(pairs.stream), UInt32Array::from(pairs.side));
        // Every row has one match and keeps its place, as with a key: the stream's columns stay as they are.
        let in_place =
            stream.len() == batch.len() && stream.values().iter().enumerate().all(|(i, row)| i == *row as usize);
        let streamed = if in_place { batch.rows.clone() } else { take_record_batch(&batch.rows, &stream)? };
        let mut looked_up = Vec::with_capacity(table.rows.num_columns());
        for column in table.rows.columns() {
            looked_up.push(take(column, &side, None)?);
        }
        let (first, then) = (streamed.columns().to_vec(), looked_up);
        let columns = if self.looked_up_first { [then, first].concat() } else { [first, then].concat() };
        let options = RecordBatchOptions::new().with_row_count(Some(stream.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        let weights = match &batch.weights {
            Some(weights) if !in_place => {
                let taken = take(weights, &stream, None)?;
                Some(Int64Array::from(taken.to_data()))
            }
            weights => weights.clone(),
        };
        Ok(Batch { rows, weights })
    }

    fn work_on(&mut self, mut work: Work, out: &mut Output) -> Result<()> {
        let Some(table) = &self.rows else { return Err(Error::internal("a lookup has no table to look up in")) };
        let part = self.part(table, &mut work).map_err(|error| failed(&error, &self.place))?;
        if let Some(part) = part {
            out.push(part);
        }
        self.work = (work.row < work.places.len()).then_some(work);
        Ok(())
    }
}

/// The pairs of rows `from..to` in the stream's order, with a NULL partner for each row that has none. `known` says that
/// the first row had one before.
fn padded(pairs: &Pairs, (from, to): (usize, usize), known: bool) -> Pairs {
    let mut all = Pairs { stream: Vec::with_capacity(pairs.stream.len()), side: Vec::with_capacity(pairs.side.len()) };
    let mut next = 0;
    for row in from as u32..to as u32 {
        let before = next;
        while pairs.stream.get(next) == Some(&row) {
            all.stream.push(row);
            all.side.push(pairs.side[next]);
            next += 1;
        }
        if next == before && !(known && row as usize == from) {
            all.stream.push(row);
            all.side.push(None);
        }
    }
    // Those of a row that is not done.
    all.stream.extend_from_slice(&pairs.stream[next..]);
    all.side.extend_from_slice(&pairs.side[next..]);
    all
}

impl Operator for Lookup {
    fn look_up_in(&mut self, rows: &tidemill_runtime::Rows) -> Result<()> {
        let table = Arc::clone(rows).downcast::<Table>();
        self.rows = Some(table.map_err(|_| Error::internal("a lookup was given rows of another kind"))?);
        Ok(())
    }

    fn on_batch(&mut self, _input: usize, batch: Batch, out: &mut Output) -> Result<()> {
        let Some(table) = &self.rows else { return Err(Error::internal("a lookup has no table to look up in")) };
        let work = self.begin(table, batch).map_err(|error| failed(&error, &self.place))?;
        self.work_on(work, out)
    }

    fn has_more(&self) -> bool {
        self.work.is_some()
    }

    fn go_on(&mut self, out: &mut Output) -> Result<()> {
        match self.work.take() {
            Some(work) => self.work_on(work, out),
            None => Ok(()),
        }
    }

    fn snapshot(&mut self, _epoch: Epoch) -> Result<Vec<StateChunk>> {
        let Some(table) = self.rows.as_ref().filter(|_| !std::mem::replace(&mut self.stored, true)) else {
            return Ok(Vec::new());
        };
        Ok(vec![StateChunk { name: KEPT.to_owned(), rows: Some(table.rows.clone()) }])
    }

    fn restore(&mut self, chunks: Vec<(String, RecordBatch)>, lane: usize, _lanes: usize) -> Result<()> {
        let Some((_, rows)) = chunks.into_iter().find(|(name, _)| name == KEPT) else { return Ok(()) };
        self.rows = Some(Arc::new(self.side.index(&[rows])?));
        // The first epoch of a process names all state there is.
        self.stored = lane > 0;
        Ok(())
    }
}

/// Reads a plan's rows on a thread of its own: planning and lanes are not asynchronous.
pub(super) fn read_all(
    state: datafusion::execution::session_state::SessionState,
    plan: datafusion::logical_expr::LogicalPlan,
    place: &Place,
) -> Result<Vec<RecordBatch>> {
    let reading = std::thread::Builder::new().name("tidemill-lookup".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.block_on(async {
            let context = datafusion::prelude::SessionContext::new_with_state(state);
            context.execute_logical_plan(plan).await?.collect().await
        })
    });
    let reading = reading.map_err(|e| Error::io("start", "a thread", e))?;
    match reading.join() {
        Ok(rows) => rows.map_err(|error: DataFusionError| crate::session::lift(&error, place)),
        Err(_) => Err(Error::internal("reading a table to look up in ended by a panic")),
    }
}
