//! [`RangeFactory`]: `OVER (… ORDER BY time RANGE BETWEEN p PRECEDING AND …)`: a row goes out once, when time has passed
//! it and what its frame looks ahead.
//!
//! **Invariant:** rows that a later frame may look back at are kept, others are gone; what a run costs is paid by rows
//! that came since the one before, but for one run at each barrier.

use std::fmt;
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType};
use datafusion::common::internal_err;
use datafusion::error::DataFusionError;
use tidemill_model::{Epoch, Error, Place, Result, Watermark};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output, StateChunk};

use super::held::{Held, restored};
use super::recipe::{Compiled, Recipe, with_schema};
use crate::stream::late::LateHome;
use crate::stream::transform::failed;

/// Between barriers a run is made when this many times the rows that came since the last one are as many as it reads.
const ROWS_A_ROW: usize = 2;

/// Makes operators for frames of time.
pub(in crate::stream) struct RangeFactory {
    /// The columns of the rows.
    pub(in crate::stream) schema: SchemaRef,
    /// The columns of the rows with their results.
    pub(in crate::stream) result: SchemaRef,
    /// The column with the event time.
    pub(in crate::stream) time: usize,
    /// How far frames reach back and ahead, in microseconds.
    pub(in crate::stream) reach: (i64, i64),
    pub(in crate::stream) route: Vec<usize>,
    /// Over the rows and whether they were given out; gives these columns and the results.
    pub(in crate::stream) recipe: Recipe,
    pub(in crate::stream) late: LateHome,
    pub(in crate::stream) text: String,
    pub(in crate::stream) place: Place,
}

impl RangeFactory {
    /// The name of the column that says whether a row was given out.
    pub(in crate::stream) const GIVEN: &'static str = "__given";
}

impl fmt::Debug for RangeFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RangeFactory").field("text", &self.text).finish_non_exhaustive()
    }
}

impl OperatorFactory for RangeFactory {
    fn create(&self, _lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        let compiled = self.recipe.compile().map_err(|error| failed(&error, &self.place))?;
        let mut fields = self.schema.fields().to_vec();
        fields.push(Arc::new(Field::new(RangeFactory::GIVEN, DataType::Boolean, false)));
        Ok(Box::new(Ranges {
            schema: Arc::clone(&self.schema),
            marked: Arc::new(Schema::new(fields)),
            result: Arc::clone(&self.result),
            time: self.time,
            reach: self.reach,
            route: self.route.clone(),
            compiled,
            place: self.place.clone(),
            watermark: i64::MIN,
            given_below: i64::MIN,
            kept: Held::default(),
            due: Held::default(),
            arrived: 0,
            gone: Vec::new(),
            chunk: 0,
            late: 0,
            home: self.late.clone(),
        }))
    }

    fn describe(&self) -> String {
        self.text.clone()
    }

    fn fingerprint(&self) -> String {
        format!("range v1 {} {:?} {:?} {}", self.time, self.reach, self.route, self.recipe.text())
    }
}

struct Ranges {
    schema: SchemaRef,
    marked: SchemaRef,
    result: SchemaRef,
    time: usize,
    reach: (i64, i64),
    route: Vec<usize>,
    compiled: Compiled,
    place: Place,
    watermark: i64,
    /// Rows below this time are given out.
    given_below: i64,
    /// Rows that were given out and may be looked back at.
    kept: Held,
    /// Rows that were not given out.
    due: Held,
    /// Rows that came since the last run.
    arrived: usize,
    gone: Vec<String>,
    chunk: u64,
    late: u64,
    home: LateHome,
}

impl Ranges {
    /// The rows whose time meets a condition.
    fn some(&self, rows: &RecordBatch, keep: impl Fn(i64) -> bool) -> Result<RecordBatch, DataFusionError> {
        let times = rows.column(self.time).as_primitive::<TimestampMicrosecondType>();
        let keep: BooleanArray = times.iter().map(|at| Some(at.is_some_and(&keep))).collect();
        if keep.true_count() == rows.num_rows() {
            return Ok(rows.clone());
        }
        Ok(filter_record_batch(rows, &keep)?)
    }

    fn marked(&self, rows: &RecordBatch, given: bool) -> Result<RecordBatch, DataFusionError> {
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(BooleanArray::from(vec![given; rows.num_rows()])));
        Ok(RecordBatch::try_new(Arc::clone(&self.marked), columns)?)
    }

    fn take(&mut self, rows: &RecordBatch, out: &mut Output) -> Result<(), DataFusionError> {
        let watermark = self.watermark;
        let due = self.some(rows, |at| at >= watermark)?;
        if due.num_rows() < rows.num_rows() {
            let late = self.some(rows, |at| at < watermark)?;
            self.late += late.num_rows() as u64;
            out.late.extend(self.home.keep_all(&late, self.time, Watermark(watermark))?);
        }
        if due.num_rows() > 0 {
            self.arrived += due.num_rows();
            self.due.push(due);
        }
        Ok(())
    }

    /// Gives out every row that time has passed.
    fn run(&mut self, out: &mut Output) -> Result<(), DataFusionError> {
        let (before, after) = self.reach;
        // Rows below this have all that their frame looks at.
        let ready = if self.watermark == i64::MAX { i64::MAX } else { self.watermark.saturating_sub(after) };
        self.given_below = ready;
        self.arrived = 0;
        let is_ready = |at: i64| at < ready || ready == i64::MAX;
        let mut now = Vec::new();
        let mut waiting = Vec::new();
        for rows in self.due.batches()? {
            let part = self.some(&rows, is_ready)?;
            if part.num_rows() == rows.num_rows() {
                now.push(part);
                continue;
            }
            waiting.push(self.some(&rows, |at| !is_ready(at))?);
            if part.num_rows() > 0 {
                now.push(part);
            }
        }
        if now.is_empty() {
            return Ok(());
        }
        let mut earliest = i64::MAX;
        for rows in &now {
            let times = rows.column(self.time).as_primitive::<TimestampMicrosecondType>();
            earliest = earliest.min(arrow::compute::min(times).unwrap_or(i64::MAX));
        }
        let from = earliest.saturating_sub(before);
        let mut input = Vec::new();
        for rows in self.kept.batches()? {
            let seen = self.some(&rows, |at| at >= from)?;
            if seen.num_rows() > 0 {
                input.push(self.marked(&seen, true)?);
            }
        }
        for rows in &now {
            input.push(self.marked(rows, false)?);
        }
        if after > 0 {
            for rows in &waiting {
                // They are looked at, and given out later.
                input.push(self.marked(rows, true)?);
            }
        }
        let answer = self.compiled.run(vec![input])?;
        let given = self.schema.fields().len();
        let Some(marks) = answer.columns().get(given) else { return internal_err!("the mark of rows is gone") };
        let wanted: BooleanArray = marks.as_boolean().iter().map(|given| Some(given == Some(false))).collect();
        let answer = filter_record_batch(&answer, &wanted)?;
        let columns: Vec<usize> = (0..answer.num_columns()).filter(|at| *at != given).collect();
        out.push(Batch::inserts(with_schema(&answer.project(&columns)?, &self.result)?));

        self.due.replace(waiting, &mut self.gone);
        now.into_iter().for_each(|rows| self.kept.push(rows));
        Ok(())
    }

    /// Drops the rows that no frame will look at.
    fn trim(&mut self) -> Result<()> {
        let horizon = self.watermark.saturating_sub(self.reach.0).saturating_sub(self.reach.1);
        let time = self.time;
        let latest = |rows: &RecordBatch| {
            arrow::compute::max(rows.column(time).as_primitive::<TimestampMicrosecondType>()).unwrap_or(i64::MIN)
        };
        let ended = self.watermark == i64::MAX;
        let kept = self.kept.retain(&mut self.gone, |rows| !ended && latest(rows) >= horizon);
        kept.map_err(|error| failed(&error, &self.place))
    }
}

impl Operator for Ranges {
    fn on_batch(&mut self, _input: usize, batch: Batch, out: &mut Output) -> Result<()> {
        if batch.weights.is_some() {
            return Err(Error::internal("frames of time were planned over rows that are taken back"));
        }
        self.take(&batch.rows, out).map_err(|error| failed(&error, &self.place))
    }

    fn on_watermark(&mut self, watermark: Watermark, out: &mut Output) -> Result<()> {
        self.watermark = watermark.0;
        let paid = self.arrived.saturating_mul(ROWS_A_ROW) >= self.kept.len() + self.due.len();
        if paid || watermark.0 == i64::MAX {
            self.run(out).map_err(|error| failed(&error, &self.place))?;
            self.trim()?;
        }
        if self.given_below < watermark.0 {
            out.watermark = Some(Watermark(self.given_below));
        }
        Ok(())
    }

    fn before_barrier(&mut self, out: &mut Output) -> Result<()> {
        if self.given_below < self.watermark.saturating_sub(self.reach.1) {
            self.run(out).map_err(|error| failed(&error, &self.place))?;
            out.watermark = Some(Watermark(self.given_below));
        }
        self.trim()
    }

    fn snapshot(&mut self, _epoch: Epoch) -> Result<Vec<StateChunk>> {
        let mut chunks: Vec<StateChunk> =
            std::mem::take(&mut self.gone).into_iter().map(|name| StateChunk { name, rows: None }).collect();
        let schema = Arc::clone(&self.schema);
        for (held, kind) in [(&mut self.kept, "kept"), (&mut self.due, "due")] {
            let saved = held.save(&schema, &mut self.chunk, |chunk| format!("{kind}.{chunk}"), &mut chunks);
            saved.map_err(|error| failed(&error, &self.place))?;
        }
        Ok(chunks)
    }

    fn restore(&mut self, chunks: Vec<(String, RecordBatch)>, lane: usize, lanes: usize) -> Result<()> {
        let key = |name: &str| {
            let kind = name.split('.').next().filter(|kind| ["kept", "due"].contains(kind))?;
            Some((kind == "kept", Arc::clone(&self.schema), self.route.clone()))
        };
        for (is_kept, held) in restored(chunks, key, lane, lanes)? {
            if is_kept {
                self.kept = held;
            } else {
                self.due = held;
            }
        }
        Ok(())
    }

    fn late_rows(&self) -> u64 {
        self.late
    }
}
