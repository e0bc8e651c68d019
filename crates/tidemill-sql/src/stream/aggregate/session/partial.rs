//! [`SessionPartialFactory`]: the first half of a GROUP BY over sessions: the rows of a lane as runs, each with its bounds
//! and the states of its groups.
//!
//! **Invariant:** rows of a run are of one key and less than the gap apart, and none is behind the watermark, unless it is
//! a run of its own: so a run is never in part late. Before a watermark passes that a held row is behind, the row has
//! been sent on.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{concat_batches, filter_record_batch, is_not_null, take, take_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, TimestampMicrosecondType, UInt32Type};
use datafusion::error::DataFusionError;
use datafusion::physical_plan::aggregates::group_values::new_group_values;
use datafusion::physical_plan::aggregates::order::GroupOrdering;
use tidemill_model::{Error, Place, Result, Watermark};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output, rows_as_json};

use super::super::groups::Groups;
use super::super::spec::{GroupSpec, SessionBy, WindowBy};
use crate::session::values;
use crate::stream::transform::failed;

/// How many rows are held before they are sent on as runs.
const MOST_ROWS: usize = 32_768;

/// Rows are sent on as runs of their own while fewer than this part of them would meet, in percent.
const WORTH: usize = 25;
/// After so many times it is seen anew whether they meet.
const ALONE: u32 = 15;

/// Makes the first halves of a GROUP BY over sessions.
#[derive(Debug)]
pub(in crate::stream) struct SessionPartialFactory {
    pub(in crate::stream) spec: Arc<GroupSpec>,
    /// Whether rows that may turn out to be late are sent on as they are too.
    pub(in crate::stream) keeps_late: bool,
    pub(in crate::stream) text: String,
    pub(in crate::stream) place: Place,
}

impl OperatorFactory for SessionPartialFactory {
    fn create(&self, _lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Partial {
            spec: Arc::clone(&self.spec),
            place: self.place.clone(),
            keeps_late: self.keeps_late,
            held: Vec::new(),
            rows: 0,
            earliest: i64::MAX,
            watermark: i64::MIN,
            alone: 0,
        }))
    }

    fn describe(&self) -> String {
        self.text.clone()
    }
}

struct Partial {
    spec: Arc<GroupSpec>,
    place: Place,
    keeps_late: bool,
    held: Vec<RecordBatch>,
    rows: usize,
    /// The earliest time that is held.
    earliest: i64,
    /// Sessions that end by this time are final.
    watermark: i64,
    /// How many more times rows are sent on as they are: each was nearly alone when they were last looked at.
    alone: u32,
}

impl Partial {
    fn hold(&mut self, window: &WindowBy, rows: RecordBatch) -> Result<(), DataFusionError> {
        let times = values(&window.column, &rows)?;
        let rows = if times.null_count() > 0 { filter_record_batch(&rows, &is_not_null(&times)?)? } else { rows };
        let least = arrow::compute::min(times.as_primitive::<TimestampMicrosecondType>());
        self.earliest = self.earliest.min(least.unwrap_or(i64::MAX));
        self.rows += rows.num_rows();
        self.held.push(rows);
        Ok(())
    }

    fn send(&mut self, out: &mut Output) -> Result<()> {
        let spec = Arc::clone(&self.spec);
        let (Some(window), Some(by)) = (&spec.window, &spec.session) else { return Ok(()) };
        let held = std::mem::take(&mut self.held);
        let as_json = self.keeps_late && self.earliest < self.watermark;
        (self.rows, self.earliest) = (0, i64::MAX);
        let Some(first) = held.first() else { return Ok(()) };
        let rows = concat_batches(&first.schema(), &held).map_err(|error| failed(&error.into(), &self.place))?;
        if rows.num_rows() == 0 {
            return Ok(());
        }
        // Each row that is behind the watermark is a run of its own anyway, but has to be told apart.
        let alone = self.alone > 0 && !as_json;
        let runs = match alone {
            true => singles(&spec, window, &rows),
            false => runs(&spec, window, by, &rows, (self.watermark, as_json)),
        };
        let runs = runs.map_err(|error| failed(&error, &self.place))?;
        let met = rows.num_rows() - runs.num_rows();
        self.alone = match alone {
            true => self.alone - 1,
            false if met * 100 < rows.num_rows() * WORTH => ALONE,
            false => 0,
        };
        out.push(Batch::inserts(runs));
        Ok(())
    }
}

/// Rows as runs of one each.
fn singles(spec: &GroupSpec, window: &WindowBy, rows: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
    let times = values(&window.column, rows)?;
    let lasts = Int64Array::new(times.as_primitive::<TimestampMicrosecondType>().values().clone(), None);
    let mut columns = vec![times];
    for key in &spec.keys {
        columns.push(values(key, rows)?);
    }
    columns.extend(Groups::states_of(rows, &spec.aggregates)?);
    columns.push(Arc::new(lasts));
    columns.push(Arc::new(Int64Array::from_value(1, rows.num_rows())));
    Ok(RecordBatch::try_new(Arc::clone(&spec.partial), columns)?)
}

/// The runs of some rows: one partial group for each run and further key. With `as_json` a last column has the rows that
/// are behind the watermark, each a run of its own, for these alone may be late.
fn runs(
    spec: &GroupSpec,
    window: &WindowBy,
    by: &SessionBy,
    rows: &RecordBatch,
    (watermark, as_json): (i64, bool),
) -> Result<RecordBatch, DataFusionError> {
    let times = values(&window.column, rows)?;
    let times = times.as_primitive::<TimestampMicrosecondType>().values();
    let keys = spec.keys.iter().map(|key| values(key, rows)).collect::<Result<Vec<_>, _>>()?;
    let mut of_key = vec![0; rows.num_rows()];
    if !by.partition.is_empty() {
        let columns: Vec<ArrayRef> = by.partition.iter().map(|at| Arc::clone(&keys[*at])).collect();
        let fields = columns.iter().map(|column| Field::new("", column.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        new_group_values(schema, &GroupOrdering::None)?.intern(&columns, &mut of_key)?;
    }
    let mut order: Vec<(u32, i64, u32)> =
        (0_u32..).zip(&of_key).zip(times.iter()).map(|((row, key), at)| (*key as u32, *at, row)).collect();
    order.sort_unstable();

    let mut run_of = vec![0_u32; rows.num_rows()];
    // The bounds of each run, its number of rows and one of them.
    let mut bounds: Vec<(i64, i64, i64, u32)> = Vec::new();
    let mut before: Option<(u32, i64)> = None;
    for (key, at, row) in order {
        let goes_on =
            before.is_some_and(|(of, last)| of == key && last >= watermark && at.saturating_sub(last) < by.gap);
        match bounds.last_mut().filter(|_| goes_on) {
            Some(run) => (run.1, run.2) = (at, run.2 + 1),
            None => bounds.push((at, at, 1, row)),
        }
        run_of[row as usize] = (bounds.len() - 1) as u32;
        before = Some((key, at));
    }

    let further = by.further(spec);
    let mut grouped: Vec<ArrayRef> = vec![Arc::new(UInt32Array::from(run_of))];
    grouped.extend(further.iter().map(|at| Arc::clone(&keys[*at])));
    let mut groups = Groups::new(&by.group_schema(spec), &spec.aggregates)?;
    groups.update(&grouped, rows, &spec.aggregates)?;
    let mut columns = groups.take_states()?.into_iter();
    let Some(run) = columns.next() else { return datafusion::common::internal_err!("runs have no numbers") };
    let run = run.as_primitive::<UInt32Type>().values().clone();
    let mut keyed: Vec<Option<ArrayRef>> = vec![None; keys.len()];
    for at in &further {
        keyed[*at] = columns.next();
    }
    let of_run: UInt32Array = run.iter().map(|run| bounds[*run as usize].3).collect();
    let (firsts, lasts): (Vec<i64>, Vec<i64>) =
        run.iter().map(|run| &bounds[*run as usize]).map(|(first, last, ..)| (*first, *last)).unzip();
    // The rows of a run are counted with its first group.
    let mut counts = Vec::with_capacity(run.len());
    let mut counted = vec![false; bounds.len()];
    for run in &run {
        let was = std::mem::replace(&mut counted[*run as usize], true);
        counts.push(if was { 0 } else { bounds[*run as usize].2 });
    }
    let zone = match spec.partial.field(0).data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    let mut all: Vec<ArrayRef> = vec![Arc::new(TimestampMicrosecondArray::from(firsts).with_timezone_opt(zone))];
    for (column, key) in keyed.into_iter().zip(&keys) {
        all.push(match column {
            Some(column) => column,
            None => take(key, &of_run, None)?,
        });
    }
    all.extend(columns);
    all.push(Arc::new(Int64Array::from(lasts)));
    all.push(Arc::new(Int64Array::from(counts)));
    if !as_json {
        return Ok(RecordBatch::try_new(Arc::clone(&spec.partial), all)?);
    }
    let behind: Vec<Option<u32>> = run
        .iter()
        .map(|run| &bounds[*run as usize])
        .map(|(_, last, _, row)| (*last < watermark).then_some(*row))
        .collect();
    let chosen: UInt32Array = behind.iter().flatten().map(|row| Some(*row)).collect();
    let mut texts = rows_as_json(&take_record_batch(rows, &chosen)?).into_iter();
    let texts: StringArray = behind.iter().map(|row| row.and_then(|_| texts.next())).collect();
    all.push(Arc::new(texts));
    let text = Arc::new(Field::new("row", DataType::Utf8, true));
    let fields: Vec<FieldRef> = spec.partial.fields().iter().cloned().chain([text]).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), all)?)
}

impl Operator for Partial {
    fn on_batch(&mut self, _input: usize, batch: Batch, out: &mut Output) -> Result<()> {
        if batch.weights.is_some() {
            return Err(Error::internal("a GROUP BY was planned over rows that are taken back"));
        }
        let spec = Arc::clone(&self.spec);
        let Some(window) = &spec.window else { return Err(Error::internal("sessions were planned without a time")) };
        self.hold(window, batch.rows).map_err(|error| failed(&error, &self.place))?;
        if self.rows >= MOST_ROWS { self.send(out) } else { Ok(()) }
    }

    fn on_watermark(&mut self, watermark: Watermark, out: &mut Output) -> Result<()> {
        let spec = Arc::clone(&self.spec);
        let Some(window) = &spec.window else { return Ok(()) };
        let time = Watermark(window.time_at(watermark.0));
        if !window.behind.is_empty() {
            out.watermark = Some(time);
        }
        let final_at = time.behind(spec.lateness).0;
        if self.earliest < final_at {
            self.send(out)?;
        }
        self.watermark = self.watermark.max(final_at);
        Ok(())
    }

    fn before_barrier(&mut self, out: &mut Output) -> Result<()> {
        self.send(out)
    }
}
