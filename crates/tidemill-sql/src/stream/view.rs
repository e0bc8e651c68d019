//! [`ViewFactory`]: keeps the rows of a materialized view as they are now.
//!
//! **Invariant:** after each barrier the stored chunks hold exactly the rows whose weights add up to more than zero,
//! each as often as its weight. A row's lane is the hash of all its columns, so taking it back finds it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use tidemill_model::{Epoch, Error, Kind, Result, Watermark};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output, StateChunk, StateMemory, Stored, WEIGHT};

use super::state::{Give, KeyLog, Layout, log_of};
use crate::session::WindowSize;

/// The name of the chunk of rows that are in no window.
const ALL: &str = "all";

/// The column that says which window a row of the view is of.
#[derive(Debug, Clone, Copy)]
pub(super) struct ViewWindow {
    /// Where it lies.
    pub(super) column: usize,
    /// Whether it is the window's end.
    pub(super) is_end: bool,
    /// The window's length.
    pub(super) size: WindowSize,
}

/// Makes the operators that keep a view.
#[derive(Debug)]
pub(super) struct ViewFactory {
    pub(super) schema: SchemaRef,
    pub(super) window: Option<ViewWindow>,
    pub(super) retention: Option<Duration>,
    pub(super) text: String,
}

impl OperatorFactory for ViewFactory {
    fn create(&self, _lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        let layout = Arc::new(self.layout());
        KeyLog::new(Arc::clone(&layout), ALL)
            .map_err(|e| Error::new(Kind::Plan, "P135", "the view has a column that cannot be kept").because(e))?;
        Ok(Box::new(MaterializeView {
            layout,
            window: self.window,
            retention: self.retention,
            parts: BTreeMap::new(),
            gone: Vec::new(),
            owed: 0,
            memory: None,
        }))
    }

    fn describe(&self) -> String {
        self.text.clone()
    }

    fn fingerprint(&self) -> String {
        let names: Vec<&str> = self.schema.fields().iter().map(|field| field.name().as_str()).collect();
        format!("view v2 {names:?} {} {:?}", self.layout().fingerprint(), self.window)
    }
}

impl ViewFactory {
    /// A row is the key, how often it stands the value.
    fn layout(&self) -> Layout {
        let columns = self.schema.fields();
        Layout::new(columns, &[Arc::new(Field::new(WEIGHT, DataType::Int64, true))], columns.len())
    }
}

struct MaterializeView {
    layout: Arc<Layout>,
    window: Option<ViewWindow>,
    retention: Option<Duration>,
    /// By the start of the window; `None` holds what is in none.
    parts: BTreeMap<Option<i64>, KeyLog>,
    /// What to remove with the next snapshot.
    gone: Vec<StateChunk>,
    /// How many rows were taken back before they came: on other ways through the graph they may be slower.
    owed: i64,
    memory: Option<StateMemory>,
}

impl MaterializeView {
    /// An empty log of rows of a window.
    fn part(&self, start: Option<i64>) -> Result<KeyLog, ArrowError> {
        let mut part = KeyLog::new(Arc::clone(&self.layout), name_of(start))?;
        if let Some(memory) = &self.memory {
            part.bound(memory);
        }
        Ok(part)
    }

    /// The start of the window of each row.
    fn starts(&self, rows: &RecordBatch) -> Vec<Option<i64>> {
        let Some(window) = self.window else { return vec![None; rows.num_rows()] };
        let times = rows.column(window.column).as_primitive::<TimestampMicrosecondType>();
        let start = |at: i64| match window.is_end {
            false => Some(at),
            true => window.size.start_of(at),
        };
        times.iter().map(|at| at.and_then(start)).collect()
    }

    fn add(&mut self, batch: &RecordBatch, weights: &[i64]) -> Result<()> {
        let starts = self.starts(batch);
        // Every log has the same columns, so any of them makes the bytes for all.
        let rows = KeyLog::new(Arc::clone(&self.layout), ALL).map_err(defect)?;
        let keys = rows.encode_keys(batch.columns()).map_err(defect)?;
        let mut number = Number::new(&rows).map_err(defect)?;
        let mut of: BTreeMap<Option<i64>, Vec<usize>> = BTreeMap::new();
        (0..starts.len()).for_each(|row| of.entry(starts[row]).or_default().push(row));
        for (start, rows) in of {
            if !self.parts.contains_key(&start) {
                self.parts.insert(start, self.part(start).map_err(defect)?);
            }
            let Some(part) = self.parts.get_mut(&start) else { continue };
            part.call_up(rows.iter().map(|row| keys.row(*row)))?;
            for row in rows {
                let (key, weight) = (keys.row(row), weights[row]);
                let before = part.get(key).map_or(0, |value| number.of(value));
                self.owed += (before + weight).min(0).abs() - before.min(0).abs();
                match before + weight {
                    0 => part.remove(key),
                    weight => part.put(key, number.bytes(weight)),
                }
            }
            part.relieve()?;
        }
        Ok(())
    }
}

/// Weights as the bytes of a row of one integer.
pub(super) struct Number {
    zero: Vec<u8>,
}

impl Number {
    pub(super) fn new(log: &KeyLog) -> Result<Number, ArrowError> {
        let zero: ArrayRef = Arc::new(Int64Array::from(vec![0]));
        Ok(Number { zero: log.encode_values(&[zero])?.row(0).to_vec() })
    }

    /// A row of one integer is a byte that says that it is none of NULL, and its bits with the sign turned.
    pub(super) fn of(&self, value: &[u8]) -> i64 {
        let bits = value.get(1..9).and_then(|bits| bits.try_into().ok()).map_or(1 << 63, u64::from_be_bytes);
        (bits ^ (1 << 63)) as i64
    }

    pub(super) fn bytes(&mut self, weight: i64) -> &[u8] {
        if let Some(bits) = self.zero.get_mut(1..9) {
            bits.copy_from_slice(&(weight as u64 ^ (1 << 63)).to_be_bytes());
        }
        &self.zero
    }
}

fn name_of(start: Option<i64>) -> String {
    start.map_or_else(|| ALL.to_owned(), |start| start.to_string())
}

fn defect(error: ArrowError) -> Error {
    Error::internal("rows of a view have other columns than planned").because(error)
}

impl Operator for MaterializeView {
    fn bound(&mut self, memory: &StateMemory) {
        self.memory = Some(memory.clone());
    }

    fn on_batch(&mut self, _input: usize, batch: Batch, _out: &mut Output) -> Result<()> {
        match &batch.weights {
            None => self.add(&batch.rows, &vec![1; batch.len()]),
            Some(weights) => self.add(&batch.rows, weights.values()),
        }
    }

    fn on_watermark(&mut self, watermark: Watermark, _out: &mut Output) -> Result<()> {
        let (Some(retention), Some(window)) = (self.retention, self.window) else { return Ok(()) };
        // The end of a bounded input is no time: nothing grows old by it.
        let Some(instant) = watermark.instant() else { return Ok(()) };
        let retention = i64::try_from(retention.as_micros()).unwrap_or(i64::MAX);
        let oldest = instant.0.saturating_sub(retention);
        while let Some((&Some(start), _)) = self.parts.range(Some(i64::MIN)..).next() {
            if window.size.end_of(start) > oldest {
                break;
            }
            if let Some(part) = self.parts.remove(&Some(start)) {
                part.drop_all(&mut self.gone);
            }
        }
        Ok(())
    }

    fn snapshot_into(&mut self, _epoch: Epoch, give: Give<'_>) -> Result<()> {
        if self.owed > 0 {
            return Err(Error::new(Kind::Corrupt, "X031", "a row of a view was taken back that is not in it")
                .fact("the stored state does not belong to the input; replay the pipeline from its start"));
        }
        std::mem::take(&mut self.gone).into_iter().try_for_each(&mut *give)?;
        let mut empty = Vec::new();
        for (start, part) in &mut self.parts {
            part.snapshot(give)?;
            if part.len() == 0 {
                empty.push(*start);
            }
        }
        for start in empty {
            if let Some(part) = self.parts.remove(&start) {
                part.drop_all(&mut self.gone);
            }
        }
        std::mem::take(&mut self.gone).into_iter().try_for_each(give)
    }

    fn keeps_chunks(&self) -> bool {
        true
    }

    fn restore_from(&mut self, stored: &mut Stored<'_>) -> Result<()> {
        let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for name in stored.names() {
            names.entry(log_of(name)).or_default().push(name);
        }
        let mut starts = BTreeMap::new();
        for (log, names) in names {
            let start = start_of(log)?;
            let mut part = self.part(start).map_err(defect)?;
            part.prepare(&names, stored.kept);
            self.parts.insert(start, part);
            starts.insert(log, start);
        }
        let to = (stored.lane, stored.lanes, stored.kept);
        for chunk in stored.by_ref() {
            let (name, rows) = chunk?;
            let part = starts.get(log_of(&name)).and_then(|start| self.parts.get_mut(start));
            if let Some(part) = part {
                part.restore_chunk(name, rows, to)?;
            }
        }
        if !stored.kept {
            self.parts.retain(|_, part| part.len() > 0);
        }
        Ok(())
    }
}

/// The window whose rows a log of this name has.
fn start_of(log: &str) -> Result<Option<i64>> {
    match log {
        ALL => Ok(None),
        start => start.parse().map(Some).map_err(|_| {
            Error::new(Kind::Corrupt, "X032", format!("the stored rows `{log}` of the view have no window"))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_the_bytes_of_a_row_of_one_integer() {
        let value = Arc::new(Field::new(WEIGHT, DataType::Int64, true));
        let log = KeyLog::new(Arc::new(Layout::new(&[], &[value], 0)), ALL).expect("a log");
        let mut number = Number::new(&log).expect("numbers");
        for weight in [0, 1, -1, 7, i64::MAX, i64::MIN] {
            let column: ArrayRef = Arc::new(Int64Array::from(vec![weight]));
            let bytes = log.encode_values(&[column]).expect("bytes").row(0).to_vec();
            assert_eq!(number.of(&bytes), weight);
            assert_eq!(number.bytes(weight), bytes.as_slice());
        }
    }
}
