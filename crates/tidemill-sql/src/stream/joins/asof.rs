//! [`Asof`]: each row of the left side with the row of the right side that was the latest at its time.
//!
//! **Invariant:** a left row waits until the watermark of the right side has passed every row that it could be matched
//! with, and goes out once, with NULLs if there is none; so its match depends on the rows alone. While the right side is
//! idle its time is that of the left side: a right row that turns up behind it is late.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow::compute::{SortOptions, take};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use datafusion::common::HashMap;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::Operator as Compared;
use tidemill_model::{Epoch, Error, Place, Result, Watermark};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output, Share, StateChunk, StateMemory, bytes_of};

use super::keys::{Keys, NO_KEY};
use super::side::{Fresh, Side, SideSpec, restored, stored_times, time_chunk};
use super::versions::{RIGHT, Versions};
use crate::session::asof_candidates;
use crate::stream::late::LateHome;
use crate::stream::state::Ripe;
use crate::stream::transform::failed;

const LEFT: usize = 0;
/// How much time a stored segment of waiting rows may span: they do not wait for long.
const SPAN: i64 = 60_000_000;

/// Makes ASOF JOINs.
#[derive(Debug)]
pub(in crate::stream) struct AsofFactory(pub(in crate::stream) Arc<AsofSpec>);

/// What the lanes of an ASOF JOIN share.
#[derive(Debug)]
pub(in crate::stream) struct AsofSpec {
    pub(in crate::stream) sides: [SideSpec; 2],
    /// How times compare: `>=` or `>`.
    pub(in crate::stream) op: Compared,
    /// How far they may be apart, in microseconds.
    pub(in crate::stream) within: Option<i64>,
    /// The right columns that decide among rows of one time, the first first.
    pub(in crate::stream) rest: Vec<usize>,
    /// The columns of the result.
    pub(in crate::stream) schema: SchemaRef,
    pub(in crate::stream) late: LateHome,
    pub(in crate::stream) text: String,
    pub(in crate::stream) place: Place,
}

impl OperatorFactory for AsofFactory {
    fn create(&self, lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        let spec = &self.0;
        let right = &spec.sides[RIGHT];
        let field = |column: &usize| right.schema.field(*column).data_type().clone();
        let keys = right.keys.iter().map(|key| SortField::new(field(key))).collect();
        let greatest_last = SortOptions { descending: false, nulls_first: false };
        let rest = spec.rest.iter().map(|column| SortField::new_with_options(field(column), greatest_last)).collect();
        let lost = |error: DataFusionError| failed(&error, &spec.place);
        Ok(Box::new(Asof {
            keys: Keys::new(keys, false).map_err(lost)?,
            rest: RowConverter::new(rest).map_err(|e| lost(e.into()))?,
            waiting: Side::new(LEFT, lane, SPAN),
            versions: Versions::new(lane, spec.within),
            spec: Arc::clone(spec),
            time: [i64::MIN; 2],
            time_unsaved: false,
            idle: false,
            lane,
            late: 0,
            share: Share::default(),
            ripe: Ripe::default(),
        }))
    }

    fn describe(&self) -> String {
        self.0.text.clone()
    }

    fn fingerprint(&self) -> String {
        let AsofSpec { sides: [left, right], op, within, rest, .. } = self.0.as_ref();
        format!("asof join v1 {op} {within:?} {rest:?} left {} right {}", left.fingerprint(), right.fingerprint())
    }
}

struct Asof {
    spec: Arc<AsofSpec>,
    keys: Keys,
    rest: RowConverter,
    waiting: Side,
    versions: Versions,
    /// The watermark of each side.
    time: [i64; 2],
    time_unsaved: bool,
    /// Whether the right side is idle.
    idle: bool,
    lane: usize,
    late: u64,
    share: Share,
    ripe: Ripe,
}

impl Asof {
    /// Counts what is kept in memory, and parks rows that wait when it is too much.
    fn relieve(&mut self) -> Result<()> {
        if !self.share.is_bounded() {
            return Ok(());
        }
        let mut taken = self.keys.bytes() + self.versions.bytes() + self.waiting.bytes();
        self.share.set(taken);
        self.waiting.park(&mut taken, &mut self.share)
    }

    /// The left rows before this time have their match, if there is any.
    fn limit(&self) -> i64 {
        self.limit_at(self.time[RIGHT])
    }

    fn limit_at(&self, right: i64) -> i64 {
        if self.spec.op == Compared::Gt && right > i64::MIN { right.saturating_add(1) } else { right }
    }

    /// The least time that a left row may ask for.
    fn asked(&self) -> i64 {
        self.time[LEFT].min(self.limit())
    }

    /// Lets the left rows go out that have waited long enough, and drops versions that nobody will ask for.
    fn pass(&mut self, out: &mut Output) -> Result<(), DataFusionError> {
        let limit = self.limit();
        let mut ready = self.waiting.before(limit);
        if !ready.is_empty() {
            ready.sort_unstable();
            for some in ready.chunks(Output::ROWS) {
                out.push(Batch::inserts(self.matched(some)?));
            }
            self.waiting.drop_before(&mut self.keys, limit)?;
        }
        let asked = self.asked();
        Ok(self.versions.drop_before(&mut self.keys, asked)?)
    }

    /// Left rows with their matches.
    fn matched(&mut self, ready: &[(i64, u32, u64)]) -> Result<RecordBatch, DataFusionError> {
        let mut numbers = Vec::new();
        let mut places = Vec::with_capacity(ready.len());
        let mut chosen: HashMap<(u32, i64), u64> = HashMap::default();
        for (at, key, _) in ready {
            let place = match self.version(*key, *at, &mut chosen)? {
                None => None,
                Some(number) => {
                    if numbers.last() != Some(&number) {
                        numbers.push(number);
                    }
                    Some((numbers.len() - 1) as u32)
                }
            };
            places.push(place);
        }
        let left: Vec<u64> = ready.iter().map(|(_, _, number)| *number).collect();
        let own = |rows: &RecordBatch, side: usize| rows.columns()[..self.spec.sides[side].columns].to_vec();
        let mut columns = own(&self.waiting.take(&left)?, LEFT);
        if numbers.is_empty() {
            let right = &self.spec.sides[RIGHT];
            let fields = right.schema.fields()[..right.columns].iter();
            columns.extend(fields.map(|field| new_null_array(field.data_type(), ready.len())));
        } else {
            let places = UInt32Array::from(places);
            for column in own(&self.versions.take(&numbers)?, RIGHT) {
                columns.push(take(&column, &places, None)?);
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(ready.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.spec.schema), columns, &options)?)
    }

    /// The version of a key at a time; of several of one time the one with the greatest rest.
    fn version(
        &self,
        key: u32,
        at: i64,
        chosen: &mut HashMap<(u32, i64), u64>,
    ) -> Result<Option<u64>, DataFusionError> {
        if key == NO_KEY {
            return Ok(None);
        }
        let line = self.keys.within(key, RIGHT, asof_candidates(self.spec.op, self.spec.within, at));
        let Some((newest, last)) = line.last().copied() else { return Ok(None) };
        let ties = &line[line.partition_point(|(at, _)| *at < newest)..];
        if ties.len() == 1 {
            return Ok(Some(last));
        }
        if let Some(number) = chosen.get(&(key, newest)) {
            return Ok(Some(*number));
        }
        let numbers: Vec<u64> = ties.iter().map(|(_, number)| *number).collect();
        let rows = self.versions.take(&numbers)?;
        let rest: Vec<ArrayRef> = self.spec.rest.iter().map(|column| Arc::clone(rows.column(*column))).collect();
        let rest = self.rest.convert_columns(&rest)?;
        let best = (0..numbers.len()).max_by(|one, other| rest.row(*one).cmp(&rest.row(*other)));
        let number = best.map_or(last, |best| numbers[best]);
        chosen.insert((key, newest), number);
        Ok(Some(number))
    }

    fn take(&mut self, side: usize, rows: RecordBatch, out: &mut Output) -> Result<(), DataFusionError> {
        let time = self.time[side];
        if let Some(late) = self.keep(side, rows, time)? {
            self.late += late.num_rows() as u64;
            out.late.extend(self.spec.late.keep_all(&late, self.spec.sides[side].time, Watermark(time))?);
        }
        self.pass(out)
    }

    /// Keeps rows of a side, but for the late ones.
    fn keep(&mut self, side: usize, rows: RecordBatch, watermark: i64) -> Result<Option<RecordBatch>, DataFusionError> {
        let (fresh, late) = Fresh::admit(rows, &self.spec.sides[side], watermark, &mut self.keys, false)?;
        if side == LEFT {
            self.waiting.keep(&mut self.keys, fresh.rows, fresh.times, fresh.keys, fresh.matched);
        } else {
            let fresh = fresh.with_keys()?;
            self.versions.keep(&mut self.keys, fresh.rows, fresh.times, fresh.keys);
        }
        Ok(late)
    }

    /// A quiet right side holds nothing back.
    fn follow(&mut self) {
        if self.idle && self.time[LEFT] > self.time[RIGHT] {
            self.time[RIGHT] = self.time[LEFT];
            self.time_unsaved = true;
        }
    }

    fn result_time(&self) -> Watermark {
        Watermark(self.time[LEFT].min(self.time[RIGHT]))
    }
}

impl Operator for Asof {
    fn bound(&mut self, memory: &StateMemory) {
        self.share = memory.share();
    }

    fn on_batch(&mut self, input: usize, batch: Batch, out: &mut Output) -> Result<()> {
        if batch.weights.is_some() {
            return Err(Error::internal("an ASOF JOIN was planned over rows that are taken back"));
        }
        let bytes = if self.share.is_bounded() { bytes_of(&batch.rows) } else { 0 };
        self.take(input, batch.rows, out).map_err(|error| failed(&error, &self.spec.place))?;
        if self.share.is_bounded() && self.ripe.after(bytes, &self.share) {
            return self.relieve();
        }
        Ok(())
    }

    fn on_input_watermark(&mut self, input: usize, watermark: Watermark, out: &mut Output) -> Result<()> {
        if watermark.0 > self.time[input] {
            self.time[input] = watermark.0;
            self.time_unsaved = true;
            self.follow();
            self.pass(out).map_err(|error| failed(&error, &self.spec.place))?;
        }
        out.watermark = Some(self.result_time());
        Ok(())
    }

    fn on_input_idle(&mut self, input: usize, idle: bool, out: &mut Output) -> Result<()> {
        if input == RIGHT {
            self.idle = idle;
            self.follow();
            self.pass(out).map_err(|error| failed(&error, &self.spec.place))?;
            out.watermark = Some(self.result_time());
        }
        Ok(())
    }

    fn on_watermark(&mut self, _watermark: Watermark, out: &mut Output) -> Result<()> {
        out.watermark = Some(self.result_time());
        Ok(())
    }

    fn snapshot(&mut self, _epoch: Epoch) -> Result<Vec<StateChunk>> {
        let unwritable = |error: ArrowError| Error::internal("the rows of a join do not make a chunk").because(error);
        let mut chunks = self.waiting.changed().map_err(|error| failed(&error, &self.spec.place))?;
        chunks.extend(self.versions.changed());
        if std::mem::take(&mut self.time_unsaved) {
            chunks.push(time_chunk(self.time, self.lane).map_err(unwritable)?);
        }
        self.keys.settle();
        self.relieve()?;
        Ok(chunks)
    }

    fn restore(&mut self, chunks: Vec<(String, RecordBatch)>, lane: usize, lanes: usize) -> Result<()> {
        let chunks: BTreeMap<String, RecordBatch> = chunks.into_iter().collect();
        let spec = Arc::clone(&self.spec);
        let times = stored_times(&chunks);
        // The right side's time may differ while it is idle: a row that was late on any lane is late.
        let of = |side: usize| times.values().map(move |times| times[side]);
        self.time = [of(LEFT).min().unwrap_or(i64::MIN), of(RIGHT).max().unwrap_or(i64::MIN)];
        self.time_unsaved = !times.is_empty();
        let lost = |error: DataFusionError| failed(&error, &spec.place);
        for stored in restored(&chunks, LEFT, &spec.sides[LEFT], (lane, lanes))? {
            // What had gone out of its lane when the epoch ended has gone out.
            let right = times.get(&stored.lane).map_or(i64::MIN, |times| times[RIGHT]);
            let rows = stored.since(spec.sides[LEFT].time, self.limit_at(right)).map_err(lost)?;
            self.keep(LEFT, rows.rows, i64::MIN).map_err(lost)?;
        }
        for stored in restored(&chunks, RIGHT, &spec.sides[RIGHT], (lane, lanes))? {
            // Versions are only dropped when the rows that wait for them have gone out.
            self.keep(RIGHT, stored.rows, i64::MIN).map_err(lost)?;
        }
        Ok(())
    }

    fn late_rows(&self) -> u64 {
        self.late
    }
}
