//! The operators of simulated dataflows: [`Map`] without state, [`Totals`] by key, [`Windows`] closed by the watermark, and
//! [`Hold`], which lets rows go when epochs end.
//!
//! **Invariant:** they meet the contract of operators and nothing more; what they hold is written down chunk by chunk,
//! only what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use bytes::Bytes;
use tidemill_model::{Epoch, Error, Result, Timestamp, Watermark};
use tidemill_runtime::{
    Accepted, Batch, DeadLetter, EpochEnd, GONE, Gate, Operator, OperatorFactory, Output, Route, StateChunk, WEIGHT,
};

/// Refuses rows without an event time.
#[derive(Debug)]
pub(super) struct TimeGate;

impl Gate for TimeGate {
    fn accept(&mut self, batch: Batch) -> Result<Accepted> {
        let times = batch.rows.column(2).as_primitive::<TimestampMicrosecondType>();
        let without = (0..batch.len()).filter(|row| times.is_null(*row));
        let dead = without.map(|row| (row as u32, "no event time".to_owned(), String::new())).collect();
        let newest = times.iter().flatten().max();
        let keep: BooleanArray = (0..batch.len()).map(|row| Some(times.is_valid(row))).collect();
        let batch = batch.filter(&keep).map_err(broken)?;
        Ok(Accepted { batch, dead, newest, dropped: 0, warned: 0, before_start: 0 })
    }

    fn set_horizon(&mut self, _: Option<(Timestamp, Timestamp)>) {}
}

/// Whether [`Map`] fails on a row.
#[must_use]
pub(super) fn fails(id: i64) -> bool {
    id % 31 == 7
}

/// Whether [`Map`] leaves a row out.
#[must_use]
pub(super) fn is_left_out(key: i64) -> bool {
    key == 3
}

/// Leaves some rows out and fails on some.
#[derive(Debug)]
pub(super) struct Map;

impl OperatorFactory for Map {
    fn create(&self, _: usize, _: usize) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Map))
    }

    fn describe(&self) -> String {
        "leaves some rows out".to_owned()
    }
}

impl Operator for Map {
    fn on_batch(&mut self, _: usize, batch: Batch, out: &mut Output) -> Result<()> {
        let (ids, keys) = (numbers(&batch.rows, 0), numbers(&batch.rows, 1));
        for id in ids.iter().filter(|id| fails(**id)) {
            out.dead.push(DeadLetter {
                dataset: "rows".to_owned(),
                reason: "an expression failed".to_owned(),
                detail: String::new(),
                split: "statement in pipelines/p.sql".to_owned(),
                position: 1,
                event_time: None,
                raw: Bytes::from(format!("{{\"id\":\"{id}\"}}")),
            });
        }
        let keep: BooleanArray =
            ids.iter().zip(&keys).map(|(id, key)| Some(!fails(*id) && !is_left_out(*key))).collect();
        out.push(batch.filter(&keep).map_err(broken)?);
        Ok(())
    }
}

/// How many chunks the state of [`Totals`] has on a lane.
const BUCKETS: i64 = 5;

/// Count and sum of ids by key: a view.
#[derive(Debug)]
pub(super) struct TotalsFactory;

#[derive(Debug)]
struct Totals {
    by_key: BTreeMap<i64, (i64, i64)>,
    dirty: BTreeSet<i64>,
}

impl OperatorFactory for TotalsFactory {
    fn create(&self, _: usize, _: usize) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Totals { by_key: BTreeMap::new(), dirty: BTreeSet::new() }))
    }

    fn describe(&self) -> String {
        "totals by key".to_owned()
    }

    fn fingerprint(&self) -> String {
        "totals 1".to_owned()
    }
}

impl Operator for Totals {
    fn on_batch(&mut self, _: usize, batch: Batch, _: &mut Output) -> Result<()> {
        for (id, key) in numbers(&batch.rows, 0).into_iter().zip(numbers(&batch.rows, 1)) {
            let total = self.by_key.entry(key).or_default();
            *total = (total.0 + 1, total.1 + id);
            self.dirty.insert(key.rem_euclid(BUCKETS));
        }
        Ok(())
    }

    fn snapshot(&mut self, _: Epoch) -> Result<Vec<StateChunk>> {
        let dirty = std::mem::take(&mut self.dirty);
        let chunk = |bucket: i64| {
            let rows: Vec<[i64; 3]> = self
                .by_key
                .iter()
                .filter(|(key, _)| key.rem_euclid(BUCKETS) == bucket)
                .map(|(key, (count, sum))| [*key, *count, *sum])
                .collect();
            let rows = standing(&three(["key", "rows", "ids"], &rows)?)?;
            Ok(StateChunk { name: format!("bucket-{bucket}"), rows: Some(rows) })
        };
        dirty.into_iter().map(chunk).collect()
    }

    fn restore(&mut self, chunks: Vec<(String, RecordBatch)>, lane: usize, lanes: usize) -> Result<()> {
        for (name, rows) in chunks {
            let owner = Route::lane_of(&rows, &[0], lanes).map_err(broken)?;
            let (keys, counts, sums) = (numbers(&rows, 0), numbers(&rows, 1), numbers(&rows, 2));
            for (row, key) in keys.into_iter().enumerate().filter(|(row, _)| owner[*row] == lane) {
                if self.by_key.insert(key, (counts[row], sums[row])).is_some() {
                    return Err(Error::internal(format!("key {key} is in `{name}` and elsewhere")));
                }
                // The first snapshot after a start is all there is.
                self.dirty.insert(key.rem_euclid(BUCKETS));
            }
        }
        Ok(())
    }
}

/// Counts by key and window, given out once, when the watermark reaches the window's end.
#[derive(Debug)]
pub(super) struct WindowsFactory {
    /// The length of a window, in microseconds.
    pub(super) size: i64,
}

#[derive(Debug)]
struct Windows {
    size: i64,
    open: BTreeMap<i64, BTreeMap<i64, i64>>,
    changed: BTreeSet<i64>,
    closed: BTreeSet<i64>,
    watermark: Watermark,
    late: u64,
}

impl OperatorFactory for WindowsFactory {
    fn create(&self, _: usize, _: usize) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Windows {
            size: self.size,
            open: BTreeMap::new(),
            changed: BTreeSet::new(),
            closed: BTreeSet::new(),
            watermark: Watermark::MIN,
            late: 0,
        }))
    }

    fn describe(&self) -> String {
        "counts by key and window".to_owned()
    }

    fn fingerprint(&self) -> String {
        format!("windows of {}", self.size)
    }
}

impl Operator for Windows {
    fn on_batch(&mut self, _: usize, batch: Batch, _: &mut Output) -> Result<()> {
        let times = batch.rows.column(2).as_primitive::<TimestampMicrosecondType>().values();
        for (at, key) in times.iter().zip(numbers(&batch.rows, 1)) {
            let start = at.div_euclid(self.size) * self.size;
            if self.watermark.0 >= start + self.size {
                self.late += 1;
                continue;
            }
            *self.open.entry(start).or_default().entry(key).or_default() += 1;
            self.changed.insert(start);
        }
        Ok(())
    }

    fn on_watermark(&mut self, watermark: Watermark, out: &mut Output) -> Result<()> {
        if watermark < self.watermark {
            return Err(Error::internal(format!("time went back from {} to {watermark}", self.watermark)));
        }
        self.watermark = watermark;
        while let Some((start, by_key)) = self.open.pop_first() {
            if watermark.0 < start.saturating_add(self.size) {
                self.open.insert(start, by_key);
                break;
            }
            let rows: Vec<[i64; 3]> = by_key.into_iter().map(|(key, count)| [key, start, count]).collect();
            out.push(Batch::inserts(three(["key", "window", "rows"], &rows)?));
            self.changed.remove(&start);
            self.closed.insert(start);
        }
        Ok(())
    }

    fn snapshot(&mut self, _: Epoch) -> Result<Vec<StateChunk>> {
        let mut chunks = Vec::new();
        for start in std::mem::take(&mut self.closed) {
            chunks.push(StateChunk { name: format!("w{start}"), rows: None });
        }
        for start in std::mem::take(&mut self.changed) {
            let by_key = self.open.get(&start).into_iter().flatten();
            let rows: Vec<[i64; 3]> = by_key.map(|(key, count)| [*key, start, *count]).collect();
            let rows = Some(three(["key", "window", "rows"], &rows)?);
            chunks.push(StateChunk { name: format!("w{start}"), rows });
        }
        Ok(chunks)
    }

    fn restore(&mut self, chunks: Vec<(String, RecordBatch)>, lane: usize, lanes: usize) -> Result<()> {
        for (name, rows) in chunks {
            let owner = Route::lane_of(&rows, &[0], lanes).map_err(broken)?;
            let (keys, starts, counts) = (numbers(&rows, 0), numbers(&rows, 1), numbers(&rows, 2));
            for (row, key) in keys.into_iter().enumerate().filter(|(row, _)| owner[*row] == lane) {
                let window = self.open.entry(starts[row]).or_default();
                if window.insert(key, counts[row]).is_some() {
                    return Err(Error::internal(format!("key {key} is in `{name}` and elsewhere")));
                }
                self.changed.insert(starts[row]);
            }
        }
        Ok(())
    }

    fn late_rows(&self) -> u64 {
        self.late
    }
}

/// Holds rows back and lets them go together, at most once in so much time.
#[derive(Debug)]
pub(super) struct HoldFactory {
    /// In how much time.
    pub(super) every: Duration,
}

#[derive(Debug)]
struct Hold {
    every: Duration,
    held: Vec<RecordBatch>,
    let_go: Option<Timestamp>,
    end: Option<EpochEnd>,
}

impl OperatorFactory for HoldFactory {
    fn create(&self, _: usize, _: usize) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Hold { every: self.every, held: Vec::new(), let_go: None, end: None }))
    }

    fn describe(&self) -> String {
        "holds rows back".to_owned()
    }

    fn fingerprint(&self) -> String {
        "hold 1".to_owned()
    }
}

impl Operator for Hold {
    fn on_batch(&mut self, _: usize, batch: Batch, _: &mut Output) -> Result<()> {
        self.held.push(batch.rows);
        Ok(())
    }

    fn on_epoch_end(&mut self, end: EpochEnd) {
        self.end = Some(end);
    }

    fn before_barrier(&mut self, out: &mut Output) -> Result<()> {
        let Some(end) = self.end else { return Err(Error::internal("a barrier came before the epoch's end was told")) };
        let due = self.let_go.is_none_or(|since| end.at >= since.plus(self.every));
        if end.last || due {
            self.held.drain(..).for_each(|rows| out.push(Batch::inserts(rows)));
            self.let_go = Some(end.at);
        }
        Ok(())
    }

    fn due(&self) -> Option<Timestamp> {
        self.let_go.filter(|_| !self.held.is_empty()).map(|since| since.plus(self.every))
    }

    fn snapshot(&mut self, _: Epoch) -> Result<Vec<StateChunk>> {
        let rows = if self.held.is_empty() {
            None
        } else {
            Some(concat_batches(&gated_schema(), &self.held).map_err(broken)?)
        };
        self.held = rows.iter().cloned().collect();
        Ok(vec![StateChunk { name: "held".to_owned(), rows }])
    }

    fn restore(&mut self, chunks: Vec<(String, RecordBatch)>, lane: usize, lanes: usize) -> Result<()> {
        for (_, rows) in chunks {
            let owner = Route::lane_of(&rows, &[1], lanes).map_err(broken)?;
            let mine: BooleanArray = owner.iter().map(|owner| Some(*owner == lane)).collect();
            let mine = filter_record_batch(&rows, &mine).map_err(broken)?;
            self.held.extend((mine.num_rows() > 0).then_some(mine));
        }
        Ok(())
    }
}

/// A column of numbers.
#[must_use]
pub(super) fn numbers(rows: &RecordBatch, column: usize) -> Vec<i64> {
    rows.column(column).as_primitive::<Int64Type>().values().to_vec()
}

/// Three columns of numbers.
pub(super) fn three(names: [&str; 3], rows: &[[i64; 3]]) -> Result<RecordBatch> {
    let columns: Vec<ArrayRef> =
        (0..3).map(|at| Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row[at]))) as ArrayRef).collect();
    let fields = names.map(|name| Field::new(name, DataType::Int64, false));
    RecordBatch::try_new(Arc::new(Schema::new(fields.to_vec())), columns).map_err(broken)
}

/// Rows with the columns by which a view's chunk says that each stands once.
fn standing(rows: &RecordBatch) -> Result<RecordBatch> {
    let mut fields: Vec<_> = rows.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(WEIGHT, DataType::Int64, false)));
    fields.push(Arc::new(Field::new(GONE, DataType::Boolean, false)));
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(Int64Array::from_value(1, rows.num_rows())));
    columns.push(Arc::new(BooleanArray::from(vec![false; rows.num_rows()])));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(broken)
}

/// The columns after the gate.
#[must_use]
pub(super) fn gated_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("key", DataType::Int64, false),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true),
    ]))
}

fn broken(error: arrow::error::ArrowError) -> Error {
    Error::internal("a simulated operator is wrong").because(error)
}
