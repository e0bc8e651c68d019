//! [`Side`]: the rows of one side of a join that may still have partners.
//!
//! **Invariant:** what is stored are the segments, each once, and their marks when they change; a segment is removed when
//! its last row is gone. Segments grow geometrically, so a row is written few times, and do not span much time, so little
//! is stored that is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::compute::{filter, filter_record_batch, interleave_record_batch, not};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use tidemill_model::{Error, Kind, Result};
use tidemill_runtime::{Route, Share, StateChunk};

use super::keys::{Keys, NO_KEY};
use super::segment::Segment;
use crate::stream::state::lost;

/// Segments of an epoch in hand are put together up to so many rows.
const FRESH_ROWS: usize = 32_768;
/// Stored segments are put together up to so many rows.
const STORED_ROWS: usize = 1_000_000;
/// The end of the name of a chunk with marks.
const MARKS: &str = ".marks";
/// The name of the chunk with both watermarks.
const TIME: &str = "time";

/// The columns of one side.
#[derive(Debug, Clone)]
pub(in crate::stream) struct SideSpec {
    /// What arrives: the side's columns, then computed keys.
    pub(in crate::stream) schema: SchemaRef,
    /// How many of them are the side's own.
    pub(in crate::stream) columns: usize,
    /// The columns with the keys.
    pub(in crate::stream) keys: Vec<usize>,
    /// The column with the event time.
    pub(in crate::stream) time: usize,
}

impl SideSpec {
    /// Whatever must be equal for stored rows to be readable.
    pub(super) fn fingerprint(&self) -> String {
        let fields = self.schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type()));
        let fields: Vec<String> = fields.collect();
        format!("{fields:?} keys {:?} time {}", self.keys, self.time)
    }
}

/// The rows of one side.
pub(super) struct Side {
    /// Which side, 0 or 1.
    pub(super) side: usize,
    lane: usize,
    segments: Vec<Segment>,
    next: u64,
    /// The rows before this time are gone.
    limit: i64,
    /// How much time a stored segment may span when it is put together with another.
    span: i64,
    /// Names of stored chunks that are no longer there.
    gone: Vec<String>,
}

impl Side {
    pub(super) fn new(side: usize, lane: usize, span: i64) -> Side {
        Side { side, lane, segments: Vec::new(), next: 0, limit: i64::MIN, span, gone: Vec::new() }
    }

    /// Keeps rows, of which those that are gone already must be dropped afterwards. `matched` is empty where nobody asks
    /// for marks.
    pub(super) fn keep(
        &mut self,
        keys: &mut Keys,
        rows: RecordBatch,
        times: Vec<i64>,
        numbers: Vec<u32>,
        matched: Vec<bool>,
    ) {
        if rows.num_rows() == 0 {
            return;
        }
        keys.insert(self.side, &numbers, &times, self.next);
        let segment = Segment::new(self.next, rows, times, numbers, matched);
        self.next += segment.len() as u64;
        self.segments.push(segment);
    }

    /// Puts the last two segments together.
    fn join_last(&mut self) -> Result<(), DataFusionError> {
        if let (Some(last), Some(before)) = (self.segments.pop(), self.segments.pop()) {
            for segment in [&before, &last] {
                self.discard(segment);
            }
            self.segments.push(before.joined(last, self.limit)?);
        }
        Ok(())
    }

    /// What is stored of a segment is no longer needed.
    fn discard(&mut self, segment: &Segment) {
        let name = self.name(segment);
        if segment.marks_saved {
            self.gone.push(format!("{name}{MARKS}"));
        }
        if segment.saved {
            self.gone.push(name);
        }
    }

    /// Where a row is.
    fn find(&self, number: u64) -> (usize, usize) {
        let segment = self.segments.partition_point(|segment| segment.base <= number) - 1;
        (segment, (number - self.segments[segment].base) as usize)
    }

    /// Rows by number, in this order.
    pub(super) fn take(&mut self, numbers: &[u64]) -> Result<RecordBatch, DataFusionError> {
        let places: Vec<(usize, usize)> = numbers.iter().map(|number| self.find(*number)).collect();
        self.gather(&places)
    }

    /// Rows by segment and place. What is parked of the segments is called up, and parked again when memory is short.
    fn gather(&mut self, places: &[(usize, usize)]) -> Result<RecordBatch, DataFusionError> {
        let mut asked: Vec<usize> = places.iter().map(|(segment, _)| *segment).collect();
        asked.sort_unstable();
        asked.dedup();
        if asked.is_empty() {
            asked.extend(0..self.segments.len().min(1));
        }
        let mut batches = Vec::with_capacity(asked.len());
        for segment in &asked {
            batches.push(self.segments[*segment].rows.recall().map_err(lost)?.clone());
        }
        let place = |(segment, row): &(usize, usize)| (asked.partition_point(|other| other < segment), *row);
        let places: Vec<(usize, usize)> = places.iter().map(place).collect();
        Ok(interleave_record_batch(&batches.iter().collect::<Vec<_>>(), &places)?)
    }

    /// How many bytes of memory it takes, with what lies beside its rows.
    pub(super) fn bytes(&self) -> usize {
        self.segments.iter().map(|segment| segment.fixed() + segment.rows.bytes()).sum()
    }

    /// Parks rows until no more memory is taken than may be: the earliest first, which go soonest and are asked for least.
    pub(super) fn park(&mut self, taken: &mut usize, share: &mut Share) -> Result<()> {
        for segment in &mut self.segments {
            if share.excess() == 0 {
                break;
            }
            if segment.rows.bytes() > 0 {
                *taken -= segment.rows.bytes();
                segment.rows.park(share)?;
                share.set(*taken);
            }
        }
        Ok(())
    }

    /// Time, key and number of each row before a time.
    pub(super) fn before(&self, limit: i64) -> Vec<(i64, u32, u64)> {
        let rows = self.segments.iter().flat_map(|segment| {
            segment.left_before(limit).map(|row| (segment.times[row], segment.keys[row], segment.base + row as u64))
        });
        rows.collect()
    }

    /// Marks rows as matched; answers which of them were not before.
    pub(super) fn mark(&mut self, numbers: &[u64]) -> Vec<bool> {
        let mut first = Vec::with_capacity(numbers.len());
        for number in numbers {
            let (segment, row) = self.find(*number);
            let segment = &mut self.segments[segment];
            let before = segment.matched.get_mut(row).map(|mark| std::mem::replace(mark, true));
            segment.marks_unsaved |= before == Some(false);
            first.push(before == Some(false));
        }
        first
    }

    /// Drops the rows before a time; answers those that never had a partner, where marks are kept.
    pub(super) fn drop_before(&mut self, keys: &mut Keys, limit: i64) -> Result<Option<RecordBatch>, DataFusionError> {
        self.limit = self.limit.max(limit);
        let limit = self.limit;
        let mut alone = Vec::new();
        let mut spent = false;
        for (number, segment) in self.segments.iter_mut().enumerate() {
            while let Some(row) = segment.next_before(limit) {
                keys.drop_before(self.side, segment.keys[row], limit);
                if segment.matched.get(row) == Some(&false) {
                    alone.push((number, row));
                }
            }
            spent |= segment.is_spent();
        }
        let alone = if alone.is_empty() { None } else { Some(self.gather(&alone)?) };
        if spent {
            let (spent, left) = std::mem::take(&mut self.segments).into_iter().partition(Segment::is_spent);
            self.segments = left;
            let spent: Vec<Segment> = spent;
            spent.iter().for_each(|segment| self.discard(segment));
        }
        while let [.., one, other] = self.segments.as_slice()
            && !one.saved
            && one.meets(other)
            && one.len() <= 2 * other.len()
            && one.len() + other.len() <= FRESH_ROWS
        {
            self.join_last()?;
        }
        Ok(alone)
    }

    fn name(&self, segment: &Segment) -> String {
        format!("{}.{}.{}", self.side, self.lane, segment.base)
    }

    /// What changed since it was last asked.
    pub(super) fn changed(&mut self) -> Result<Vec<StateChunk>, DataFusionError> {
        while let [.., one, other] = self.segments.as_slice()
            && !other.saved
            && one.meets(other)
            && one.len() <= 2 * other.len()
            && one.len() + other.len() <= STORED_ROWS
            && (!one.saved || self.is_short(one, other))
        {
            self.join_last()?;
        }
        let mut chunks: Vec<StateChunk> =
            std::mem::take(&mut self.gone).into_iter().map(|name| StateChunk { name, rows: None }).collect();
        for at in 0..self.segments.len() {
            let name = self.name(&self.segments[at]);
            let segment = &mut self.segments[at];
            if !std::mem::replace(&mut segment.saved, true) {
                let rows = segment.rows.read().map_err(lost)?;
                chunks.push(StateChunk { name: name.clone(), rows: Some(rows) });
            }
            if std::mem::replace(&mut segment.marks_unsaved, false) {
                segment.marks_saved = true;
                chunks.push(StateChunk { name: format!("{name}{MARKS}"), rows: Some(marks(&segment.matched)?) });
            }
        }
        Ok(chunks)
    }

    fn is_short(&self, one: &Segment, other: &Segment) -> bool {
        match (one.span(), other.span()) {
            (Some((a, b)), Some((c, d))) => b.max(d).saturating_sub(a.min(c)) <= self.span,
            _ => true,
        }
    }
}

fn marks(matched: &[bool]) -> Result<RecordBatch, ArrowError> {
    let marks: ArrayRef = Arc::new(BooleanArray::from(matched.to_vec()));
    let schema = Schema::new(vec![Field::new("matched", DataType::Boolean, false)]);
    RecordBatch::try_new(Arc::new(schema), vec![marks])
}

/// Stored rows of one chunk, each with its mark.
pub(super) struct Stored {
    /// The lane that stored them.
    pub(super) lane: String,
    pub(super) rows: RecordBatch,
    pub(super) marks: Vec<bool>,
}

impl Stored {
    /// The rows that are not before a time.
    pub(super) fn since(self, time: usize, limit: i64) -> Result<Stored, DataFusionError> {
        let times = times_of(&self.rows, time)?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let keep: Vec<bool> = times.iter().map(|at| at.unwrap_or(i64::MIN) >= limit).collect();
        let marks = self.marks.into_iter().zip(&keep).filter_map(|(mark, keep)| keep.then_some(mark)).collect();
        let rows = filter_record_batch(&self.rows, &BooleanArray::from(keep))?;
        Ok(Stored { rows, marks, ..self })
    }
}

/// The rows of a side that belong to a lane, as they were stored on all of them.
pub(super) fn restored(
    chunks: &BTreeMap<String, RecordBatch>,
    side: usize,
    spec: &SideSpec,
    (lane, lanes): (usize, usize),
) -> Result<Vec<Stored>> {
    let mut found = Vec::new();
    let prefix = format!("{side}.");
    for (name, rows) in chunks.iter().filter(|(name, _)| name.starts_with(&prefix) && !name.ends_with(MARKS)) {
        let corrupt = |why: &str| {
            Error::new(Kind::Corrupt, "X033", format!("the stored rows `{name}` of a join are not readable: {why}"))
                .fact("the state was written by another version; rebuild it by replaying the pipeline from its start")
        };
        let broken = |error: ArrowError| corrupt(&error.to_string());
        let types = |schema: &Schema| schema.fields().iter().map(|f| f.data_type().clone()).collect::<Vec<_>>();
        if types(&rows.schema()) != types(&spec.schema) {
            return Err(corrupt("they have other columns"));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&spec.schema), rows.columns().to_vec(), &options)
            .map_err(broken)?;
        let marks = match chunks.get(&format!("{name}{MARKS}")) {
            None => BooleanArray::from(vec![false; rows.num_rows()]),
            Some(marks) => marks
                .columns()
                .first()
                .and_then(|marks| marks.as_boolean_opt())
                .filter(|marks| marks.len() == rows.num_rows())
                .ok_or_else(|| corrupt("its marks are not of its rows"))?
                .clone(),
        };
        let of = Route::lane_of(&rows, &spec.keys, lanes)
            .map_err(|e| Error::internal("stored rows have no lane").because(e))?;
        let mine: BooleanArray = of.iter().map(|of| Some(*of == lane)).collect();
        let rows = filter_record_batch(&rows, &mine).map_err(broken)?;
        let marks = filter(&marks, &mine).map_err(broken)?;
        let lane = name.split('.').nth(1).unwrap_or_default().to_owned();
        let marks = marks.as_boolean().iter().map(|mark| mark == Some(true)).collect();
        found.push(Stored { lane, rows, marks });
    }
    Ok(found)
}

/// New rows of a side and what is known of them.
pub(super) struct Fresh {
    pub(super) rows: RecordBatch,
    /// Of rows without a time the earliest there is.
    pub(super) times: Vec<i64>,
    /// The number of each row's key; [`NO_KEY`] where it can have no partner.
    pub(super) keys: Vec<u32>,
    pub(super) matched: Vec<bool>,
}

impl Fresh {
    /// The rows that are not behind the watermark of their side, and those that are, as far as the side has columns.
    pub(super) fn admit(
        mut rows: RecordBatch,
        spec: &SideSpec,
        watermark: i64,
        keys: &mut Keys,
        marks: bool,
    ) -> Result<(Fresh, Option<RecordBatch>), DataFusionError> {
        let mut times = times_of(&rows, spec.time)?;
        let in_time: BooleanArray = {
            let times = times.as_primitive::<TimestampMicrosecondType>();
            times.iter().map(|at| Some(at.is_none_or(|at| at >= watermark))).collect()
        };
        let mut late = None;
        if in_time.true_count() < rows.num_rows() {
            let own: Vec<usize> = (0..spec.columns).collect();
            late = Some(filter_record_batch(&rows.project(&own)?, &not(&in_time)?)?);
            rows = filter_record_batch(&rows, &in_time)?;
            times = times_of(&rows, spec.time)?;
        }
        let numbers = keys.number(&rows, &spec.keys, &times)?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let times: Vec<i64> = times.iter().map(|at| at.unwrap_or(i64::MIN)).collect();
        let matched = if marks { vec![false; times.len()] } else { Vec::new() };
        Ok((Fresh { rows, times, keys: numbers, matched }, late))
    }

    /// The rows that have a key.
    pub(super) fn with_keys(self) -> Result<Fresh, ArrowError> {
        if !self.keys.contains(&NO_KEY) {
            return Ok(self);
        }
        fn kept<T>(values: Vec<T>, keep: &[bool]) -> Vec<T> {
            values.into_iter().zip(keep).filter_map(|(value, keep)| keep.then_some(value)).collect()
        }
        let keep: Vec<bool> = self.keys.iter().map(|key| *key != NO_KEY).collect();
        let rows = filter_record_batch(&self.rows, &BooleanArray::from(keep.clone()))?;
        let (times, keys) = (kept(self.times, &keep), kept(self.keys, &keep));
        Ok(Fresh { rows, times, keys, matched: kept(self.matched, &keep) })
    }
}

/// Both watermarks as a chunk of a lane.
pub(super) fn time_chunk(times: [i64; 2], lane: usize) -> Result<StateChunk, ArrowError> {
    let field = |name| Field::new(name, DataType::Int64, false);
    let column = |at: i64| -> ArrayRef { Arc::new(Int64Array::from_value(at, 1)) };
    let schema = Schema::new(vec![field("left"), field("right")]);
    let rows = RecordBatch::try_new(Arc::new(schema), times.map(column).to_vec())?;
    Ok(StateChunk { name: format!("{TIME}.{lane}"), rows: Some(rows) })
}

/// The watermarks that each lane stood at when the epoch ended.
pub(super) fn stored_times(chunks: &BTreeMap<String, RecordBatch>) -> BTreeMap<String, [i64; 2]> {
    let of = |rows: &RecordBatch, at: usize| rows.columns().get(at)?.as_primitive_opt::<Int64Type>()?.iter().next()?;
    let of_lane = |(name, rows): (&String, &RecordBatch)| {
        let (_, lane) = name.split_once('.').filter(|(word, _)| *word == TIME)?;
        Some((lane.to_owned(), [of(rows, 0)?, of(rows, 1)?]))
    };
    chunks.iter().filter_map(of_lane).collect()
}

/// The event times of a batch; `None` where there is none.
pub(super) fn times_of(rows: &RecordBatch, column: usize) -> Result<ArrayRef, DataFusionError> {
    let micros = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None);
    Ok(arrow::compute::cast(rows.column(column), &micros)?)
}
