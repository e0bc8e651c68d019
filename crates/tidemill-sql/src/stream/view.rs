//! [`ViewFactory`]: keeps the rows of a materialized view as they are now.
//!
//! **Invariant:** after each barrier the stored chunks hold exactly the rows whose weights add up to more than zero,
//! each as often as its weight. A row's lane is the hash of all its columns, so taking it back finds it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use arrow::row::{OwnedRow, RowConverter, SortField};
use tidemill_model::{Epoch, Error, Kind, Result, Watermark};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output, Route, StateChunk};

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
        let fields = self.schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let rows = RowConverter::new(fields)
            .map_err(|e| Error::new(Kind::Plan, "P135", "the view has a column that cannot be kept").because(e))?;
        Ok(Box::new(MaterializeView {
            schema: Arc::clone(&self.schema),
            window: self.window,
            retention: self.retention,
            rows,
            parts: BTreeMap::new(),
            gone: Vec::new(),
        }))
    }

    fn describe(&self) -> String {
        self.text.clone()
    }

    fn fingerprint(&self) -> String {
        let fields: Vec<String> =
            self.schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
        format!("view v1 {fields:?} {:?}", self.window)
    }
}

struct MaterializeView {
    schema: SchemaRef,
    window: Option<ViewWindow>,
    retention: Option<Duration>,
    rows: RowConverter,
    /// By the start of the window; `None` holds what is in none.
    parts: BTreeMap<Option<i64>, Part>,
    gone: Vec<Option<i64>>,
}

/// The rows of one window.
#[derive(Default)]
struct Part {
    weights: HashMap<OwnedRow, i64>,
    unsaved: bool,
}

impl MaterializeView {
    /// The start of the window of each row.
    fn starts(&self, rows: &RecordBatch) -> Vec<Option<i64>> {
        let Some(window) = self.window else { return vec![None; rows.num_rows()] };
        let times = rows.column(window.column).as_primitive::<TimestampMicrosecondType>();
        let start = |at: i64| match window.is_end {
            false => Some(at),
            true => window.size.window_of(at.saturating_sub(1)).map(|(start, _)| start),
        };
        times.iter().map(|at| at.and_then(start)).collect()
    }

    fn add(&mut self, batch: &RecordBatch, weights: impl Iterator<Item = i64>) -> Result<()> {
        let starts = self.starts(batch);
        let rows = self
            .rows
            .convert_columns(batch.columns())
            .map_err(|e| Error::internal("rows of a view have other columns than planned").because(e))?;
        for ((row, start), weight) in rows.iter().zip(starts).zip(weights) {
            let part = self.parts.entry(start).or_default();
            part.unsaved = true;
            let entry = part.weights.entry(row.owned()).or_insert(0);
            *entry += weight;
            if *entry == 0 {
                part.weights.remove(&row.owned());
            }
        }
        Ok(())
    }

    fn chunk(&self, part: &Part) -> Result<RecordBatch> {
        let defect = |e| Error::internal("rows of a view do not make a batch").because(e);
        let mut repeated = Vec::with_capacity(part.weights.len());
        for (row, weight) in &part.weights {
            let times = usize::try_from(*weight)
                .map_err(|_| Error::new(Kind::Corrupt, "X031", "a row of a view was taken back that is not in it"))?;
            repeated.extend(std::iter::repeat_n(row.row(), times));
        }
        // The same rows are the same bytes, whatever order the hash table has them in.
        repeated.sort_unstable();
        let count = repeated.len();
        let columns = self.rows.convert_rows(repeated).map_err(defect)?;
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).map_err(defect)
    }
}

fn name_of(start: Option<i64>) -> String {
    start.map_or_else(|| ALL.to_owned(), |start| start.to_string())
}

impl Operator for MaterializeView {
    fn on_batch(&mut self, _input: usize, batch: Batch, _out: &mut Output) -> Result<()> {
        match &batch.weights {
            None => self.add(&batch.rows, std::iter::repeat(1)),
            Some(weights) => self.add(&batch.rows, weights.values().iter().copied()),
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
            self.parts.remove(&Some(start));
            self.gone.push(Some(start));
        }
        Ok(())
    }

    fn snapshot(&mut self, _epoch: Epoch) -> Result<Vec<StateChunk>> {
        let mut chunks: Vec<StateChunk> = std::mem::take(&mut self.gone)
            .into_iter()
            .map(|start| StateChunk { name: name_of(start), rows: None })
            .collect();
        let unsaved: Vec<Option<i64>> =
            self.parts.iter().filter(|(_, part)| part.unsaved).map(|(start, _)| *start).collect();
        for start in unsaved {
            let Some(part) = self.parts.get(&start) else { continue };
            let rows = if part.weights.is_empty() { None } else { Some(self.chunk(part)?) };
            if rows.is_none() {
                self.parts.remove(&start);
            } else if let Some(part) = self.parts.get_mut(&start) {
                part.unsaved = false;
            }
            chunks.push(StateChunk { name: name_of(start), rows });
        }
        Ok(chunks)
    }

    fn restore(&mut self, chunks: Vec<(String, RecordBatch)>, lane: usize, lanes: usize) -> Result<()> {
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        for (name, rows) in chunks {
            let corrupt = |why: String| {
                Error::new(
                    Kind::Corrupt,
                    "X032",
                    format!("the stored rows `{name}` of the view are not readable: {why}"),
                )
            };
            let types = rows.columns().iter().map(|column| column.data_type().clone());
            if types.ne(self.schema.fields().iter().map(|field| field.data_type().clone())) {
                return Err(corrupt("they have other columns".to_owned()));
            }
            let of = Route::lane_of(&rows, &all, lanes).map_err(|e| corrupt(e.to_string()))?;
            let mine = of.iter().map(|of| Some(*of == lane)).collect();
            let rows = arrow::compute::filter_record_batch(&rows, &mine).map_err(|e| corrupt(e.to_string()))?;
            self.add(&rows, std::iter::repeat(1))?;
        }
        Ok(())
    }
}
