//! [`IntervalJoin`]: pairs of rows with equal keys whose times are at most so far apart.
//!
//! **Invariant:** a row waits until the watermark of the other side has passed its last possible partner; an outer row
//! without a partner goes out then. A row behind the watermark of its own side is late: part of its partners may be gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow::compute::{filter_record_batch, take_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::row::SortField;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use tidemill_model::{Epoch, Error, Place, Result, Watermark};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output, Share, StateChunk, StateMemory, bytes_of};

use super::keys::Keys;
use super::side::{Fresh, Side, SideSpec, restored, stored_times, time_chunk};
use crate::session::truths;
use crate::stream::late::LateHome;
use crate::stream::state::Ripe;
use crate::stream::transform::failed;

/// The least span of stored segments: ten seconds.
const LEAST_SPAN: i64 = 10_000_000;

/// What becomes of rows and pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::stream) enum Kind {
    /// Pairs; and the rows of a side that have no partner, with NULLs, where that side is outer.
    Pairs {
        /// Left and right.
        outer: [bool; 2],
    },
    /// The rows of this side that have a partner, once.
    Matched(usize),
    /// The rows of this side that have none.
    Alone(usize),
}

impl Kind {
    /// Whether it matters which rows of a side have had a partner.
    fn marks(self, side: usize) -> bool {
        match self {
            Kind::Pairs { outer } => outer[side],
            Kind::Matched(of) | Kind::Alone(of) => of == side,
        }
    }

    /// Whether rows of a side without a partner go out.
    fn gives_alone(self, side: usize) -> bool {
        match self {
            Kind::Pairs { outer } => outer[side],
            Kind::Matched(_) => false,
            Kind::Alone(of) => of == side,
        }
    }
}

/// Makes interval joins.
#[derive(Debug)]
pub(in crate::stream) struct IntervalJoinFactory(pub(in crate::stream) Arc<IntervalSpec>);

/// What the lanes of an interval join share.
#[derive(Debug)]
pub(in crate::stream) struct IntervalSpec {
    pub(in crate::stream) kind: Kind,
    /// Left and right.
    pub(in crate::stream) sides: [SideSpec; 2],
    /// How far the right time is after the left one, at least and at most, in microseconds.
    pub(in crate::stream) bounds: (i64, i64),
    /// Whether NULL keys are equal.
    pub(in crate::stream) null_equal: bool,
    /// What else a pair must meet, over its columns.
    pub(in crate::stream) residual: Option<Arc<dyn PhysicalExpr>>,
    /// The columns of a pair: the left ones, then the right ones.
    pub(in crate::stream) pair: SchemaRef,
    /// The columns of the result.
    pub(in crate::stream) schema: SchemaRef,
    pub(in crate::stream) late: LateHome,
    pub(in crate::stream) text: String,
    pub(in crate::stream) place: Place,
}

impl OperatorFactory for IntervalJoinFactory {
    fn create(&self, lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        let spec = &self.0;
        let fields = spec.sides[0].keys.iter().map(|key| {
            let field = spec.sides[0].schema.field(*key);
            SortField::new(field.data_type().clone())
        });
        let keys = Keys::new(fields.collect(), spec.null_equal).map_err(|error| failed(&error, &spec.place))?;
        let (least, most) = spec.bounds;
        let span = (most.saturating_sub(least) / 4).max(LEAST_SPAN);
        Ok(Box::new(IntervalJoin {
            spec: Arc::clone(spec),
            work: None,
            keys,
            sides: [Side::new(0, lane, span), Side::new(1, lane, span)],
            time: [i64::MIN; 2],
            time_unsaved: false,
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
        let spec = &self.0;
        let [left, right] = &spec.sides;
        let (left, right) = (left.fingerprint(), right.fingerprint());
        let residual = spec.residual.as_ref().map(ToString::to_string);
        let (least, most) = spec.bounds;
        let (kind, null_equal) = (spec.kind, spec.null_equal);
        format!("interval join v1 {kind:?} [{least}, {most}] {null_equal} {residual:?} left {left} right {right}")
    }
}

/// New rows of a side that are being paired.
struct Work {
    side: usize,
    fresh: Fresh,
    /// The row in hand, and how many of its partners are done.
    row: usize,
    done: usize,
}

struct IntervalJoin {
    spec: Arc<IntervalSpec>,
    /// Rows of which a part of the pairs is still to be given out.
    work: Option<Work>,
    keys: Keys,
    sides: [Side; 2],
    /// The watermark of each side.
    time: [i64; 2],
    time_unsaved: bool,
    lane: usize,
    late: u64,
    share: Share,
    ripe: Ripe,
}

/// Rows of a batch and rows that are kept of the other side, by number.
#[derive(Default)]
struct Pairs {
    fresh: Vec<u32>,
    kept: Vec<u64>,
}

impl IntervalJoin {
    /// Counts what is kept in memory, and parks rows when it is too much.
    fn relieve(&mut self) -> Result<()> {
        if !self.share.is_bounded() {
            return Ok(());
        }
        let mut taken = self.keys.bytes() + self.sides.iter().map(Side::bytes).sum::<usize>();
        self.share.set(taken);
        let share = &mut self.share;
        self.sides.iter_mut().try_for_each(|side| side.park(&mut taken, share))
    }

    /// The rows of a side before this time can have no further partner.
    fn limit(&self, side: usize) -> i64 {
        let (least, most) = self.spec.bounds;
        let other = self.time[1 - side];
        // The end of time is after every partner.
        if other == i64::MAX || other == i64::MIN {
            return other;
        }
        if side == 0 { other.saturating_sub(most) } else { other.saturating_add(least) }
    }

    /// The watermark of the result: the least time that either column may still have.
    fn result_time(&self) -> Watermark {
        let (least, most) = self.spec.bounds;
        let behind = |time: i64, by: i64| if time == i64::MAX { time } else { time.saturating_sub(by.max(0)) };
        let (left, right) = (behind(self.time[0], least.saturating_neg()), behind(self.time[1], most));
        Watermark(left.min(right))
    }

    /// The times of the other side that a row of this side at `at` can be paired with.
    fn partners(&self, side: usize, at: i64) -> (i64, i64) {
        let (least, most) = self.spec.bounds;
        if side == 0 {
            (at.saturating_add(least), at.saturating_add(most))
        } else {
            (at.saturating_sub(most), at.saturating_sub(least))
        }
    }

    /// The rows that are not late, with their times and keys, and the late ones.
    fn admit(
        &mut self,
        side: usize,
        rows: RecordBatch,
        watermark: i64,
    ) -> Result<(Fresh, Option<RecordBatch>), DataFusionError> {
        let marks = self.spec.kind.marks(side);
        Fresh::admit(rows, &self.spec.sides[side], watermark, &mut self.keys, marks)
    }

    fn take(&mut self, side: usize, rows: RecordBatch, out: &mut Output) -> Result<(), DataFusionError> {
        let time = self.time[side];
        let (fresh, late) = self.admit(side, rows, time)?;
        if let Some(late) = late {
            self.late += late.num_rows() as u64;
            out.late.extend(self.spec.late.keep_all(&late, self.spec.sides[side].time, Watermark(time))?);
        }
        self.pair(Work { side, fresh, row: 0, done: 0 }, out)
    }

    /// Gives out some pairs; a row may have more partners than fit into memory at once. With the last ones the rows are
    /// kept.
    fn pair(&mut self, mut work: Work, out: &mut Output) -> Result<(), DataFusionError> {
        let side = work.side;
        let mut pairs = Pairs::default();
        while work.row < work.fresh.times.len() && pairs.kept.len() < Output::ROWS {
            let bounds = self.partners(side, work.fresh.times[work.row]);
            let partners = self.keys.within(work.fresh.keys[work.row], 1 - side, bounds);
            let rest = partners.get(work.done..).unwrap_or_default();
            let some = rest.len().min(Output::ROWS - pairs.kept.len());
            pairs.fresh.extend(std::iter::repeat_n(work.row as u32, some));
            pairs.kept.extend(rest.iter().take(some).map(|(_, number)| *number));
            work.done += some;
            if work.done == partners.len() {
                (work.row, work.done) = (work.row + 1, 0);
            }
        }
        if !pairs.kept.is_empty() {
            give(&self.spec, &mut self.sides[1 - side], side, &mut work.fresh, pairs, out)?;
        }
        if work.row < work.fresh.times.len() {
            self.work = Some(work);
            return Ok(());
        }
        let mut fresh = work.fresh;
        // Without a key a row has no partner, and then it only matters if it goes out.
        if !self.spec.kind.gives_alone(side) {
            fresh = fresh.with_keys()?;
        }
        self.sides[side].keep(&mut self.keys, fresh.rows, fresh.times, fresh.keys, fresh.matched);
        self.pass(side, out)
    }

    /// Drops the rows of a side that can have no further partner; those that never had one go out, if they are wanted.
    fn pass(&mut self, side: usize, out: &mut Output) -> Result<(), DataFusionError> {
        let limit = self.limit(side);
        let alone = self.sides[side].drop_before(&mut self.keys, limit)?;
        if let Some(alone) = alone.filter(|_| self.spec.kind.gives_alone(side)) {
            let own = alone.columns()[..self.spec.sides[side].columns].to_vec();
            let rows = alone.num_rows();
            let columns = match self.spec.kind {
                Kind::Pairs { .. } => {
                    let other = &self.spec.sides[1 - side];
                    let fields = other.schema.fields()[..other.columns].iter();
                    let nulls = fields.map(|field| new_null_array(field.data_type(), rows)).collect();
                    if side == 0 { [own, nulls].concat() } else { [nulls, own].concat() }
                }
                Kind::Matched(_) | Kind::Alone(_) => own,
            };
            out.push_parts(Batch::inserts(batch(&self.spec.schema, columns, rows)?));
        }
        Ok(())
    }
}

/// Gives out pairs of new rows of `side` with rows that are kept of the other side.
fn give(
    spec: &IntervalSpec,
    kept: &mut Side,
    side: usize,
    fresh: &mut Fresh,
    pairs: Pairs,
    out: &mut Output,
) -> Result<(), DataFusionError> {
    let other = 1 - side;
    let Pairs { fresh: mut rows, kept: mut numbers } = pairs;
    let gives_pairs = matches!(spec.kind, Kind::Pairs { .. });
    let mut columns = Vec::new();
    if gives_pairs || spec.residual.is_some() {
        let of_fresh = take_record_batch(&fresh.rows, &UInt32Array::from(rows.clone()))?;
        let of_kept = kept.take(&numbers)?;
        let of_fresh = of_fresh.columns()[..spec.sides[side].columns].to_vec();
        let of_kept = of_kept.columns()[..spec.sides[other].columns].to_vec();
        columns = if side == 0 { [of_fresh, of_kept].concat() } else { [of_kept, of_fresh].concat() };
    }
    if let Some(residual) = &spec.residual {
        let pair = batch(&spec.pair, columns, rows.len())?;
        let truth = truths(residual, &pair)?;
        let keep: Vec<bool> = truth.iter().map(|truth| truth == Some(true)).collect();
        columns = filter_record_batch(&pair, &BooleanArray::from(keep.clone()))?.columns().to_vec();
        let mut at = keep.iter();
        rows.retain(|_| at.next() == Some(&true));
        let mut at = keep.iter();
        numbers.retain(|_| at.next() == Some(&true));
    }
    let first_of_kept = if spec.kind.marks(other) { kept.mark(&numbers) } else { Vec::new() };
    let mut first_of_fresh = Vec::new();
    if spec.kind.marks(side) {
        let mark = |row: &u32| !std::mem::replace(&mut fresh.matched[*row as usize], true);
        first_of_fresh = rows.iter().map(mark).collect();
    }
    let given = match spec.kind {
        Kind::Pairs { .. } => batch(&spec.schema, columns, rows.len())?,
        Kind::Matched(of) if of == side => {
            let firsts = rows.into_iter().zip(first_of_fresh).filter_map(|(row, first)| first.then_some(row));
            let firsts = take_record_batch(&fresh.rows, &firsts.collect::<UInt32Array>())?;
            batch(&spec.schema, firsts.columns()[..spec.sides[of].columns].to_vec(), firsts.num_rows())?
        }
        Kind::Matched(of) => {
            let firsts = numbers.into_iter().zip(first_of_kept).filter_map(|(number, first)| first.then_some(number));
            let firsts = kept.take(&firsts.collect::<Vec<u64>>())?;
            batch(&spec.schema, firsts.columns()[..spec.sides[of].columns].to_vec(), firsts.num_rows())?
        }
        Kind::Alone(_) => return Ok(()),
    };
    out.push(Batch::inserts(given));
    Ok(())
}

fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

impl Operator for IntervalJoin {
    fn bound(&mut self, memory: &StateMemory) {
        self.share = memory.share();
    }

    fn on_batch(&mut self, input: usize, batch: Batch, out: &mut Output) -> Result<()> {
        if batch.weights.is_some() {
            return Err(Error::internal("a join in time was planned over rows that are taken back"));
        }
        let bytes = if self.share.is_bounded() { bytes_of(&batch.rows) } else { 0 };
        self.take(input, batch.rows, out).map_err(|error| failed(&error, &self.spec.place))?;
        if self.share.is_bounded() && self.ripe.after(bytes, &self.share) {
            return self.relieve();
        }
        Ok(())
    }

    fn has_more(&self) -> bool {
        self.work.is_some()
    }

    fn go_on(&mut self, out: &mut Output) -> Result<()> {
        let Some(work) = self.work.take() else { return Ok(()) };
        self.pair(work, out).map_err(|error| failed(&error, &self.spec.place))
    }

    fn on_input_watermark(&mut self, input: usize, watermark: Watermark, out: &mut Output) -> Result<()> {
        if watermark.0 > self.time[input] {
            self.time[input] = watermark.0;
            self.time_unsaved = true;
            self.pass(1 - input, out).map_err(|error| failed(&error, &self.spec.place))?;
        }
        out.watermark = Some(self.result_time());
        Ok(())
    }

    fn on_watermark(&mut self, _watermark: Watermark, out: &mut Output) -> Result<()> {
        out.watermark = Some(self.result_time());
        Ok(())
    }

    fn snapshot(&mut self, _epoch: Epoch) -> Result<Vec<StateChunk>> {
        let unwritable = |error: ArrowError| Error::internal("the rows of a join do not make a chunk").because(error);
        let mut chunks = Vec::new();
        for side in &mut self.sides {
            chunks.extend(side.changed().map_err(|error| failed(&error, &self.spec.place))?);
        }
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
        // Every lane stood at the same times when the epoch ended.
        self.time = [0, 1].map(|side| times.values().map(|times| times[side]).min().unwrap_or(i64::MIN));
        self.time_unsaved = !times.is_empty();
        let lost = |error: DataFusionError| failed(&error, &spec.place);
        for side in [0, 1] {
            for stored in restored(&chunks, side, &spec.sides[side], (lane, lanes))? {
                // What was gone when the epoch ended is gone.
                let stored = stored.since(spec.sides[side].time, self.limit(side)).map_err(lost)?;
                let (fresh, _) = self.admit(side, stored.rows, i64::MIN).map_err(lost)?;
                let marks = if spec.kind.marks(side) { stored.marks } else { Vec::new() };
                self.sides[side].keep(&mut self.keys, fresh.rows, fresh.times, fresh.keys, marks);
            }
        }
        Ok(())
    }

    fn late_rows(&self) -> u64 {
        self.late
    }
}
