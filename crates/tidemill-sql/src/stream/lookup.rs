//! [`LookupFactory`]: joins a stream with rows that were read once, at the start of the run.
//!
//! **Invariant:** all lanes of a run see the same rows of the looked-up side; a NULL key matches nothing.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, filter, filter_record_batch, take, take_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::HashMap;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use tidemill_model::{Error, Place, Result};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output};

use super::transform::failed;
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

/// Makes lookup joins.
pub(super) struct LookupFactory {
    pub(super) keep: Keep,
    /// Pairs of equal expressions: over the stream, over the looked-up rows.
    pub(super) on: Vec<(Arc<dyn PhysicalExpr>, Arc<dyn PhysicalExpr>)>,
    /// What else a pair must meet, over the stream's columns followed by the looked-up ones.
    pub(super) residual: Option<Arc<dyn PhysicalExpr>>,
    /// Whether the looked-up columns come first in the result.
    pub(super) looked_up_first: bool,
    /// The columns of the looked-up side.
    pub(super) side: SchemaRef,
    /// The columns of a pair: the stream's, then the looked-up ones.
    pub(super) pair: SchemaRef,
    /// The columns of the result.
    pub(super) schema: SchemaRef,
    pub(super) load: Load,
    /// Read by the first lane that starts, for all of them.
    pub(super) table: Mutex<Option<Arc<Table>>>,
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
    fn create(&self, _lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let table = match &*table {
            Some(table) => Arc::clone(table),
            None => {
                let rows = (self.load)()?;
                let keys: Vec<Arc<dyn PhysicalExpr>> = self.on.iter().map(|(_, key)| Arc::clone(key)).collect();
                let read = Table::new(&self.side, &rows, &keys).map_err(|error| failed(&error, &self.place))?;
                Arc::clone(table.insert(Arc::new(read)))
            }
        };
        Ok(Box::new(Lookup {
            table,
            keep: self.keep,
            on: self.on.iter().map(|(key, _)| Arc::clone(key)).collect(),
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

    fn definition(&self) -> String {
        self.definition.clone()
    }
}

/// The looked-up rows by their key.
#[derive(Debug)]
pub(super) struct Table {
    rows: RecordBatch,
    converter: RowConverter,
    /// Key bytes to the numbers of the rows that have them.
    by_key: HashMap<Box<[u8]>, Vec<u32>>,
}

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
        let mut by_key: HashMap<Box<[u8]>, Vec<u32>> = HashMap::default();
        if keys.is_empty() {
            by_key.insert(Box::from([]), (0..rows.num_rows() as u32).collect());
        } else {
            let encoded = converter.convert_columns(&keys)?;
            for row in (0..rows.num_rows()).filter(|row| keys.iter().all(|key| key.is_valid(*row))) {
                by_key.entry(Box::from(encoded.row(row).as_ref())).or_default().push(row as u32);
            }
        }
        Ok(Table { rows, converter, by_key })
    }

    fn encode(&self, keys: &[ArrayRef]) -> Result<Rows, DataFusionError> {
        Ok(self.converter.convert_columns(keys)?)
    }
}

struct Lookup {
    table: Arc<Table>,
    keep: Keep,
    on: Vec<Arc<dyn PhysicalExpr>>,
    residual: Option<Arc<dyn PhysicalExpr>>,
    looked_up_first: bool,
    pair: SchemaRef,
    schema: SchemaRef,
    place: Place,
}

/// Rows of the stream and the looked-up rows that they match, by number, in the order of the stream.
struct Pairs {
    stream: Vec<u32>,
    side: Vec<u32>,
}

impl Lookup {
    fn pairs(&self, stream: &RecordBatch) -> Result<Pairs, DataFusionError> {
        let rows = stream.num_rows();
        let mut pairs = Pairs { stream: Vec::with_capacity(rows), side: Vec::with_capacity(rows) };
        let mut add = |row: u32, matches: &[u32]| {
            pairs.stream.extend(std::iter::repeat_n(row, matches.len()));
            pairs.side.extend_from_slice(matches);
        };
        if self.on.is_empty() {
            if let Some(matches) = self.table.by_key.get([].as_slice()) {
                (0..rows as u32).for_each(|row| add(row, matches));
            }
        } else {
            let keys = self.on.iter().map(|key| values(key, stream)).collect::<Result<Vec<_>, _>>()?;
            let encoded = self.table.encode(&keys)?;
            for (row, key) in (0_u32..).zip(encoded.iter()) {
                if keys.iter().all(|key| key.is_valid(row as usize))
                    && let Some(matches) = self.table.by_key.get(key.as_ref())
                {
                    add(row, matches);
                }
            }
        }
        let Some(residual) = &self.residual else { return Ok(pairs) };
        let (stream_rows, side_rows) = (UInt32Array::from(pairs.stream), UInt32Array::from(pairs.side));
        let mut columns = take_record_batch(stream, &stream_rows)?.columns().to_vec();
        columns.extend(take_record_batch(&self.table.rows, &side_rows)?.columns().iter().cloned());
        let options = RecordBatchOptions::new().with_row_count(Some(stream_rows.len()));
        let keep = truths(residual, &RecordBatch::try_new_with_options(Arc::clone(&self.pair), columns, &options)?)?;
        let kept = |numbers: &UInt32Array| -> Result<Vec<u32>, DataFusionError> {
            let kept = filter(numbers, &keep)?;
            Ok(arrow::array::AsArray::as_primitive::<arrow::datatypes::UInt32Type>(&kept).values().to_vec())
        };
        Ok(Pairs { stream: kept(&stream_rows)?, side: kept(&side_rows)? })
    }

    fn join(&self, batch: Batch) -> Result<Batch, DataFusionError> {
        let pairs = self.pairs(&batch.rows)?;
        if matches!(self.keep, Keep::IfMatched | Keep::IfUnmatched) {
            let mut matched = vec![false; batch.len()];
            pairs.stream.iter().for_each(|row| matched[*row as usize] = true);
            let wanted = self.keep == Keep::IfMatched;
            let keep: BooleanArray = matched.into_iter().map(|matched| Some(matched == wanted)).collect();
            let rows = filter_record_batch(&batch.rows, &keep)?;
            return Ok(Batch { rows, ..batch.filter(&keep)? });
        }
        let (stream, side) = match self.keep {
            Keep::MatchesOrNull => padded(&pairs, batch.len()),
            _ => (UInt32Array::from(pairs.stream), UInt32Array::from(pairs.side)),
        };
        // Every row has one match and keeps its place, as with a key: the stream's columns stay as they are.
        let in_place =
            stream.len() == batch.len() && stream.values().iter().enumerate().all(|(i, row)| i == *row as usize);
        let streamed = if in_place { batch.rows.clone() } else { take_record_batch(&batch.rows, &stream)? };
        let mut looked_up = Vec::with_capacity(self.table.rows.num_columns());
        for column in self.table.rows.columns() {
            looked_up.push(take(column, &side, None)?);
        }
        let (first, then) = (streamed.columns().to_vec(), looked_up);
        let columns = if self.looked_up_first { [then, first].concat() } else { [first, then].concat() };
        let options = RecordBatchOptions::new().with_row_count(Some(stream.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        let weights = match batch.weights {
            Some(weights) if !in_place => {
                let taken = take(&weights, &stream, None)?;
                Some(Int64Array::from(taken.to_data()))
            }
            weights => weights,
        };
        Ok(Batch { rows, weights })
    }
}

/// The pairs in the stream's order, with a NULL partner for each row that has none.
fn padded(pairs: &Pairs, rows: usize) -> (UInt32Array, UInt32Array) {
    let mut stream = Vec::with_capacity(pairs.stream.len().max(rows));
    let mut side: Vec<Option<u32>> = Vec::with_capacity(stream.capacity());
    let mut next = 0;
    for row in 0..rows as u32 {
        let before = next;
        while pairs.stream.get(next) == Some(&row) {
            stream.push(row);
            side.push(Some(pairs.side[next]));
            next += 1;
        }
        if next == before {
            stream.push(row);
            side.push(None);
        }
    }
    (UInt32Array::from(stream), UInt32Array::from(side))
}

impl Operator for Lookup {
    fn on_batch(&mut self, _input: usize, batch: Batch, out: &mut Output) -> Result<()> {
        let joined = self.join(batch).map_err(|error| failed(&error, &self.place))?;
        out.push(joined);
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
