//! [`DedupFactory`]: DEDUP: of each key the first row, and then none until the ttl has passed since.
//!
//! A row waits until time has passed it, since an earlier one may still come; one that is less than the ttl after a row
//! that stays is gone at once. Of a key nothing is kept but the time of its last row that stays, until the ttl has passed.
//!
//! **Invariant:** what has been given out is the answer over all rows before the watermark, and never taken back.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{SortOptions, concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, SchemaRef, TimestampMicrosecondType};
use arrow::row::{RowConverter, SortField};
use datafusion::error::DataFusionError;
use tidemill_model::{Epoch, Place, Result, Watermark};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output, StateChunk};

use super::closing::{Held, restored};
use super::late::{CameLate, LateHome};
use super::state::{KeyLog, Layout, log_of};
use super::transform::failed;

/// The name of the log of keys with the time of their last row that stays.
const LIVES: &str = "lives";
/// What the names of chunks with rows that wait begin with.
const DUE: &str = "due";
/// Rows are given out in batches of at most so many.
const ROWS: usize = 8_192;
/// Between barriers rows are given out when this many times those that came since are as many as wait.
const ROWS_A_ROW: usize = 2;

/// Makes the operators.
#[derive(Clone)]
pub(super) struct DedupFactory {
    pub(super) schema: SchemaRef,
    /// The columns of the key.
    pub(super) keys: Vec<usize>,
    /// The column with the event time.
    pub(super) time: usize,
    /// In microseconds.
    pub(super) ttl: i64,
    /// What decides among rows of one key and time, the first first.
    pub(super) rest: Vec<usize>,
    pub(super) late: LateHome,
    pub(super) text: String,
    pub(super) place: Place,
}

impl fmt::Debug for DedupFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DedupFactory").field("text", &self.text).finish_non_exhaustive()
    }
}

impl DedupFactory {
    fn layout(&self) -> Layout {
        let keys: Vec<FieldRef> = self.keys.iter().map(|key| Arc::clone(&self.schema.fields()[*key])).collect();
        let since: FieldRef = Arc::new(Field::new("since", DataType::Int64, true));
        Layout::new(&keys, &[since], keys.len())
    }
}

impl OperatorFactory for DedupFactory {
    fn create(&self, _lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        let lost = |error| failed(&DataFusionError::from(error), &self.place);
        let last = SortOptions { descending: false, nulls_first: false };
        let order = [self.time].into_iter().chain(self.rest.iter().copied());
        let order = order
            .map(|column| SortField::new_with_options(self.schema.field(column).data_type().clone(), last))
            .collect();
        Ok(Box::new(Dedup {
            lives: KeyLog::new(Arc::new(self.layout()), LIVES).map_err(lost)?,
            order: RowConverter::new(order).map_err(lost)?,
            spec: self.clone(),
            due: Held::default(),
            arrived: 0,
            watermark: i64::MIN,
            given_below: i64::MIN,
            swept_at: i64::MIN,
            gone: Vec::new(),
            chunk: 0,
            late: 0,
        }))
    }

    fn describe(&self) -> String {
        self.text.clone()
    }

    fn fingerprint(&self) -> String {
        let fields: Vec<String> =
            self.schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
        let (keys, time, ttl, rest) = (&self.keys, self.time, self.ttl, &self.rest);
        format!("dedup v1 {fields:?} by {keys:?} at {time} for {ttl} then {rest:?}")
    }
}

struct Dedup {
    spec: DedupFactory,
    /// Key to the time of its last row that stays, as long as rows may come that it keeps away.
    lives: KeyLog,
    order: RowConverter,
    /// Rows that time has not passed.
    due: Held,
    /// Rows that came since rows were given out.
    arrived: usize,
    watermark: i64,
    /// Rows below this time are given out.
    given_below: i64,
    /// How far time was when keys were dropped.
    swept_at: i64,
    gone: Vec<String>,
    chunk: u64,
    late: u64,
}

impl Dedup {
    fn keys_of(&self, rows: &RecordBatch) -> Vec<ArrayRef> {
        self.spec.keys.iter().map(|key| Arc::clone(rows.column(*key))).collect()
    }

    /// For each row since when its key lives, if it does.
    fn since(&self, rows: &RecordBatch) -> Result<Vec<Option<i64>>, DataFusionError> {
        let keys = self.lives.encode_keys(&self.keys_of(rows))?;
        let mut since = vec![None; rows.num_rows()];
        let found: Vec<(usize, &[u8])> =
            (0..rows.num_rows()).filter_map(|row| Some((row, self.lives.get(keys.row(row))?))).collect();
        if found.is_empty() {
            return Ok(since);
        }
        let times = self.lives.decode_values(found.iter().map(|(_, value)| *value))?;
        for ((row, _), at) in found.iter().zip(times[0].as_primitive::<Int64Type>().values()) {
            since[*row] = Some(*at);
        }
        Ok(since)
    }

    fn take(&mut self, rows: RecordBatch, out: &mut Output) -> Result<(), DataFusionError> {
        let since = self.since(&rows)?;
        let times = rows.column(self.spec.time).as_primitive::<TimestampMicrosecondType>();
        let mut wait = Vec::with_capacity(rows.num_rows());
        let mut told: Vec<Option<CameLate>> = vec![None; rows.num_rows()];
        let mut late = 0;
        for (row, since) in since.into_iter().enumerate() {
            let at = times.value(row);
            let known = times.is_valid(row);
            let duplicate = since.is_some_and(|since| since <= at && at < since.saturating_add(self.spec.ttl));
            if known && !duplicate && at < self.watermark {
                late += 1;
                told[row] = Some(CameLate { event_time: Some(at), window: None, pairs: 1 });
            }
            wait.push(known && !duplicate && at >= self.watermark);
        }
        if late > 0 {
            self.late += late;
            out.late.extend(self.spec.late.keep(&rows, &told, Watermark(self.watermark))?);
        }
        let waiting = wait.iter().filter(|wait| **wait).count();
        if waiting > 0 {
            self.arrived += waiting;
            let all = waiting == rows.num_rows();
            self.due.push(if all { rows } else { filter_record_batch(&rows, &BooleanArray::from(wait))? });
        }
        Ok(())
    }

    /// Gives out the rows that stay of those that time has passed.
    fn run(&mut self, out: &mut Output) -> Result<(), DataFusionError> {
        self.given_below = self.watermark;
        self.arrived = 0;
        let (mut ready, mut waiting) = (Vec::new(), Vec::new());
        for rows in self.due.batches()? {
            let times = rows.column(self.spec.time).as_primitive::<TimestampMicrosecondType>();
            let ended = self.watermark == i64::MAX;
            let passed: BooleanArray = times.iter().map(|at| Some(ended || at < Some(self.watermark))).collect();
            match passed.true_count() {
                0 => waiting.push(rows),
                all if all == rows.num_rows() => ready.push(rows),
                _ => {
                    waiting.push(filter_record_batch(&rows, &arrow::compute::not(&passed)?)?);
                    ready.push(filter_record_batch(&rows, &passed)?);
                }
            }
        }
        if ready.is_empty() {
            return Ok(());
        }
        self.due.replace(waiting, &mut self.gone);
        let rows = concat_batches(&self.spec.schema, &ready)?;
        drop(ready);
        let stays = self.stays(&rows)?;
        for some in stays.chunks(ROWS) {
            out.push(Batch::inserts(take_record_batch(&rows, &UInt32Array::from(some.to_vec()))?));
        }
        Ok(())
    }

    /// Which rows stay; their keys live from then on.
    fn stays(&mut self, rows: &RecordBatch) -> Result<Vec<u32>, DataFusionError> {
        let keys = self.lives.encode_keys(&self.keys_of(rows))?;
        let order = [self.spec.time].into_iter().chain(self.spec.rest.iter().copied());
        let order: Vec<ArrayRef> = order.map(|column| Arc::clone(rows.column(column))).collect();
        let order = self.order.convert_columns(&order)?;
        let mut sorted: Vec<u32> = (0..rows.num_rows() as u32).collect();
        sorted.sort_unstable_by(|one, other| {
            let (one, other) = (*one as usize, *other as usize);
            keys.row(one).cmp(keys.row(other)).then_with(|| order.row(one).cmp(&order.row(other)))
        });
        let before = self.since(rows)?;
        let times = rows.column(self.spec.time).as_primitive::<TimestampMicrosecondType>();
        let mut stays = Vec::new();
        // The last row of each key that stays.
        let mut last: Vec<u32> = Vec::new();
        for of_key in sorted.chunk_by(|one, other| keys.row(*one as usize) == keys.row(*other as usize)) {
            let mut since = of_key.first().and_then(|row| before[*row as usize]);
            let mut newest = None;
            for row in of_key {
                let at = times.value(*row as usize);
                if since.is_none_or(|since| at >= since.saturating_add(self.spec.ttl)) {
                    (since, newest) = (Some(at), Some(*row));
                    stays.push(*row);
                }
            }
            last.extend(newest);
        }
        let since: ArrayRef = Arc::new(Int64Array::from_iter_values(last.iter().map(|row| times.value(*row as usize))));
        let since = self.lives.encode_values(&[since])?;
        for (number, row) in last.iter().enumerate() {
            self.lives.put(keys.row(*row as usize), since.row(number));
        }
        Ok(stays)
    }

    /// Forgets the keys whose ttl has passed. All are looked at, so it is done a few times in a ttl.
    fn sweep(&mut self) -> Result<(), DataFusionError> {
        let ended = self.watermark == i64::MAX;
        if !ended && self.watermark < self.swept_at.saturating_add((self.spec.ttl / 4).max(1)) {
            return Ok(());
        }
        self.swept_at = self.watermark;
        let mut over: Vec<Box<[u8]>> = Vec::new();
        let all: Vec<(&[u8], &[u8])> = self.lives.iter().collect();
        let since = self.lives.decode_values(all.iter().map(|(_, value)| *value))?;
        for ((key, _), since) in all.iter().zip(since[0].as_primitive::<Int64Type>().values()) {
            if ended || since.saturating_add(self.spec.ttl) <= self.watermark {
                over.push(Box::from(*key));
            }
        }
        drop(all);
        over.iter().for_each(|key| self.lives.remove(key));
        Ok(())
    }
}

impl Operator for Dedup {
    fn on_batch(&mut self, _input: usize, batch: Batch, out: &mut Output) -> Result<()> {
        if batch.weights.is_some() {
            return Err(tidemill_model::Error::internal("DEDUP was planned over rows that are taken back"));
        }
        self.take(batch.rows, out).map_err(|error| failed(&error, &self.spec.place))
    }

    fn on_watermark(&mut self, watermark: Watermark, out: &mut Output) -> Result<()> {
        self.watermark = watermark.0;
        if self.arrived.saturating_mul(ROWS_A_ROW) >= self.due.len() || watermark == Watermark::MAX {
            self.run(out).map_err(|error| failed(&error, &self.spec.place))?;
        }
        if self.given_below < watermark.0 {
            out.watermark = Some(Watermark(self.given_below));
        }
        Ok(())
    }

    fn before_barrier(&mut self, out: &mut Output) -> Result<()> {
        let place = self.spec.place.clone();
        if self.given_below < self.watermark {
            self.run(out).map_err(|error| failed(&error, &place))?;
            out.watermark = Some(Watermark(self.given_below));
        }
        self.sweep().map_err(|error| failed(&error, &place))
    }

    fn snapshot(&mut self, _epoch: Epoch) -> Result<Vec<StateChunk>> {
        let mut chunks: Vec<StateChunk> =
            std::mem::take(&mut self.gone).into_iter().map(|name| StateChunk { name, rows: None }).collect();
        let schema = Arc::clone(&self.spec.schema);
        let saved = self.due.save(&schema, &mut self.chunk, |chunk| format!("{DUE}.{chunk}"), &mut chunks);
        saved.map_err(|error| failed(&error, &self.spec.place))?;
        self.lives.snapshot(&mut |chunk| {
            chunks.push(chunk);
            Ok(())
        })?;
        Ok(chunks)
    }

    fn restore(&mut self, chunks: Vec<(String, RecordBatch)>, lane: usize, lanes: usize) -> Result<()> {
        let (lives, due) = chunks.into_iter().partition(|(name, _)| log_of(name) == LIVES);
        self.lives.restore(lives, lane, lanes)?;
        let (schema, keys) = (Arc::clone(&self.spec.schema), self.spec.keys.clone());
        let key = |name: &str| name.starts_with(DUE).then(|| ((), Arc::clone(&schema), keys.clone()));
        self.due = restored(due, key, lane, lanes)?.remove(&()).unwrap_or_default();
        Ok(())
    }

    fn late_rows(&self) -> u64 {
        self.late
    }
}
