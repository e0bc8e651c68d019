//! [`SessionFactory`]: the second half of a GROUP BY over sessions: joins runs to sessions and emits them.
//!
//! A run whose time is far waits in [`Ahead`]. Runs of open sessions lie in piles by their last time, a quarter of the gap
//! each. A run is looked at when it comes there, when its pile
//! is folded, and when the watermark leaves its pile behind: then its session is final, or goes on and is carried as one
//! run to the pile of its last time. So the work for a run does not grow with the sessions that are open, and what is
//! stored anew in an epoch are the piles that changed.
//!
//! **Invariant:** as for [`super::super::FinalFactory`]. The bounds of a final session are known for one more gap, so that
//! a row which touches it is late and makes no session of its own.

mod admit;
mod stored;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{take, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::error::DataFusionError;
use tidemill_model::{Epoch, Error, Kind, Place, Result, Watermark};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output, Share, StateChunk, StateMemory, bytes_of};

use super::super::finish::Emission;
use super::super::spec::{GroupSpec, SessionBy};
use super::ahead::Ahead;
use super::index::Index;
use super::runs::{Runs, lasts};
use super::standing::Standing;
use crate::stream::late::LateHome;
use crate::stream::state::Ripe;
use crate::stream::transform::failed;

/// A pile is folded when it has doubled since, and has more runs than this.
pub(super) const MANY_RUNS: usize = 32_768;

/// Makes the second halves of a GROUP BY over sessions.
#[derive(Debug)]
pub(in crate::stream) struct SessionFactory {
    pub(in crate::stream) spec: Arc<GroupSpec>,
    pub(in crate::stream) emission: Emission,
    pub(in crate::stream) late: LateHome,
    pub(in crate::stream) text: String,
    pub(in crate::stream) place: Place,
}

impl OperatorFactory for SessionFactory {
    fn create(&self, _lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        let Some(by) = &self.spec.session else { return Err(Error::internal("sessions were planned without a gap")) };
        let fields: Vec<Field> = by.partition.iter().map(|at| self.spec.partial.field(1 + at).clone()).collect();
        let sorted = fields.iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let keys = RowConverter::new(sorted)
            .map_err(|e| Error::new(Kind::Plan, "P145", "sessions cannot be told apart by such a column").because(e))?;
        let bounds = ["first", "last"].map(|name| Field::new(name, DataType::Int64, false));
        let closed_schema = Arc::new(Schema::new(bounds.into_iter().chain(fields).collect::<Vec<_>>()));
        let standing = match self.emission {
            Emission::Once => None,
            Emission::Corrected | Emission::Changes => Some(Standing::new(&self.spec.schema)?),
        };
        Ok(Box::new(Sessions {
            gap: by.gap,
            step: (by.gap / 4).max(1),
            index: Index::new(by.gap),
            spec: Arc::clone(&self.spec),
            place: self.place.clone(),
            now: Watermark::MIN,
            closes_by: (self.emission == Emission::Corrected).then_some(i64::MIN),
            told_closed: i64::MIN,
            watermark: i64::MIN,
            settled: i64::MIN,
            told: i64::MIN,
            keys,
            closed_schema,
            ahead: Ahead::new((by.gap / 4).max(1)),
            piles: BTreeMap::new(),
            closed: BTreeMap::new(),
            standing,
            late: 0,
            home: self.late.clone(),
            gone: Vec::new(),
            share: Share::default(),
            ripe: Ripe::default(),
        }))
    }

    fn describe(&self) -> String {
        self.text.clone()
    }

    fn fingerprint(&self) -> String {
        format!("sessions v1 {:?} {}", self.emission, self.spec.fingerprint())
    }
}

struct Sessions {
    spec: Arc<GroupSpec>,
    place: Place,
    gap: i64,
    /// The times of one pile.
    step: i64,
    /// Where time is.
    now: Watermark,
    /// Where only closed sessions are given out, that those are closed which end by this time.
    closes_by: Option<i64>,
    /// That as it is stored.
    told_closed: i64,
    /// Sessions that end by this time are final: time, less what late rows are waited for.
    watermark: i64,
    /// The watermark that piles were last settled at.
    settled: i64,
    /// The watermark that was passed on.
    told: i64,
    keys: RowConverter,
    closed_schema: SchemaRef,
    index: Index,
    /// Runs that time has not come near to.
    ahead: Ahead,
    /// The runs of open sessions, by their last time.
    piles: BTreeMap<i64, Pile>,
    /// Final sessions, by their last time.
    closed: BTreeMap<i64, Closed>,
    /// What stands downstream, where changes are emitted.
    standing: Option<Standing>,
    late: u64,
    home: LateHome,
    gone: Vec<String>,
    share: Share,
    ripe: Ripe,
}

#[derive(Default)]
struct Pile {
    runs: Runs,
    unsaved: bool,
    /// How many runs were left when it was folded.
    folded: usize,
}

/// Final sessions: their bounds and keys, and what the index calls them.
#[derive(Default)]
struct Closed {
    rows: Vec<RecordBatch>,
    ids: Vec<u32>,
    unsaved: bool,
}

type Done = std::result::Result<(), DataFusionError>;

impl Sessions {
    fn by(spec: &GroupSpec) -> std::result::Result<&SessionBy, DataFusionError> {
        match &spec.session {
            Some(by) => Ok(by),
            None => datafusion::common::internal_err!("sessions were planned without a gap"),
        }
    }

    /// The keys of rows, `None` when there are none and all rows are of one session.
    fn key_rows(&self, columns: &[ArrayRef]) -> std::result::Result<Option<Rows>, DataFusionError> {
        if columns.is_empty() { Ok(None) } else { Ok(Some(self.keys.convert_columns(columns)?)) }
    }

    fn key_columns(&self, rows: &RecordBatch) -> std::result::Result<Vec<ArrayRef>, DataFusionError> {
        Ok(Sessions::by(&self.spec)?.partition.iter().map(|at| Arc::clone(rows.column(1 + at))).collect())
    }

    /// Puts runs on the piles of their last times.
    fn pile(&mut self, rows: RecordBatch, ids: Vec<u32>) -> Done {
        let lasts = lasts(&self.spec, &rows);
        let step = self.step;
        let mut of: Vec<(i64, Vec<u32>, Vec<u32>)> = Vec::new();
        let mut place_of: BTreeMap<i64, usize> = BTreeMap::new();
        // Most runs are of the pile of the one before.
        let mut at = usize::MAX;
        for ((row, last), id) in (0_u32..).zip(lasts.iter()).zip(&ids) {
            let number = last.div_euclid(step);
            if of.get(at).is_none_or(|(other, ..)| *other != number) {
                at = *place_of.entry(number).or_insert(of.len());
                if at == of.len() {
                    of.push((number, Vec::new(), Vec::new()));
                }
            }
            of[at].1.push(row);
            of[at].2.push(*id);
        }
        let alone = of.len() == 1;
        for (number, chosen, ids) in of {
            let rows = if alone { rows.clone() } else { take_record_batch(&rows, &UInt32Array::from(chosen))? };
            let pile = self.piles.entry(number).or_default();
            pile.runs.push(rows, ids);
            pile.unsaved = true;
            if pile.runs.len() > MANY_RUNS.max(2 * pile.folded) {
                let runs = std::mem::take(&mut pile.runs);
                let (runs, _) = runs.divide(&self.spec, &mut self.index, |_, _| true)?;
                pile.runs = runs.folded(&self.spec, Sessions::by(&self.spec)?, &mut self.index, false)?;
                pile.folded = pile.runs.len();
            }
        }
        Ok(())
    }

    /// Gives out the sessions that the watermark has passed. What lies ahead comes in pile by pile, and what is over when one
    /// comes goes before it, so that there are never more sessions than are open at one time.
    fn settle(&mut self, out: &mut Output) -> Done {
        let watermark = self.watermark;
        while let Some(start) = self.ahead.earliest().filter(|start| *start < watermark) {
            if start > self.settled {
                self.close(start, true, out)?;
            }
            self.admit_ahead(start.saturating_add(1))?;
        }
        self.close(watermark, false, out)
    }

    /// Gives out the sessions that end by `watermark`, carries those on that go on, and forgets old bounds; with `whole` only
    /// of piles that it has passed to their end.
    fn close(&mut self, watermark: i64, whole_only: bool, out: &mut Output) -> Done {
        self.settled = watermark;
        let spec = Arc::clone(&self.spec);
        let gap = self.gap;
        let passed = |last: i64| last.saturating_add(gap) <= watermark;
        while let Some(entry) = self.piles.first_entry().filter(|entry| passed(entry.key().saturating_mul(self.step))) {
            let number = *entry.key();
            let whole = passed((number + 1).saturating_mul(self.step) - 1);
            if whole_only && !whole {
                break;
            }
            let Pile { runs, unsaved, folded } = entry.remove();
            // The runs of a session that ends later have to meet first.
            let step = self.step;
            let (closing, rest) = runs.divide(&spec, &mut self.index, |index, id| {
                let last = index.session(id).last;
                passed(last) && last.div_euclid(step) <= number
            })?;
            let changed = unsaved || closing.len() > 0;
            self.give(number, closing, out)?;
            if whole || rest.len() == 0 {
                self.gone.push(format!("r{number}"));
            }
            if whole && rest.len() > 0 {
                let mut carried = rest.folded(&spec, Sessions::by(&spec)?, &mut self.index, true)?;
                let (rows, ids) = (carried.batch(&spec)?, carried.ids);
                self.pile(rows, ids)?;
            } else if rest.len() > 0 {
                self.piles.insert(number, Pile { runs: rest, unsaved: changed, folded });
            }
            if !whole {
                break;
            }
        }
        self.forget(watermark)
    }

    /// Emits sessions whose runs are all here, for good.
    fn give(&mut self, number: i64, mut runs: Runs, out: &mut Output) -> Done {
        if runs.len() == 0 {
            return Ok(());
        }
        let spec = Arc::clone(&self.spec);
        let (rows, ids) = runs.results(&spec, Sessions::by(&spec)?, &mut self.index)?;
        match &mut self.standing {
            None => out.push(Batch::inserts(rows)),
            Some(standing) => {
                if let Some(batch) = standing.change(&rows, &ids)? {
                    out.push(batch);
                }
                ids.iter().for_each(|id| standing.forget(*id));
            }
        }
        let (mut firsts, mut lasts, mut told, mut closed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for id in &runs.ids {
            self.index.unname(*id);
            let session = self.index.session(*id);
            if !session.closed {
                let (first, last, row) = (session.first, session.last, session.row);
                self.index.close(*id);
                firsts.push(first);
                lasts.push(last);
                told.push(row);
                closed.push(*id);
            }
        }
        if self.watermark == i64::MAX {
            // No row comes any more that could touch them.
            closed.into_iter().for_each(|id| self.index.remove(id));
            return Ok(());
        }
        let told = UInt32Array::from(told);
        let columns = self.key_columns(&runs.batch(&spec)?)?;
        let columns =
            columns.iter().map(|column| take(column, &told, None)).collect::<std::result::Result<Vec<_>, _>>()?;
        let bounds = [firsts, lasts].map(|bound| Arc::new(Int64Array::from(bound)) as ArrayRef);
        let rows = RecordBatch::try_new(Arc::clone(&self.closed_schema), bounds.into_iter().chain(columns).collect())?;
        let of = self.closed.entry(number).or_default();
        of.rows.push(rows);
        of.ids.extend(closed);
        of.unsaved = true;
        Ok(())
    }

    /// Forgets final sessions that no row can touch any more.
    fn forget(&mut self, watermark: i64) -> Done {
        if watermark == i64::MAX {
            // No row comes any more.
            self.gone.extend(std::mem::take(&mut self.closed).into_keys().map(|number| format!("c{number}")));
            self.index = Index::new(self.gap);
            return Ok(());
        }
        while let Some(entry) = self.closed.first_entry() {
            let last = (entry.key() + 1).saturating_mul(self.step);
            if last.saturating_add(self.gap).saturating_add(self.gap) > watermark {
                break;
            }
            self.gone.push(format!("c{}", entry.key()));
            let Closed { ids, .. } = entry.remove();
            ids.into_iter().for_each(|id| self.index.remove(id));
        }
        Ok(())
    }

    /// Emits what changed of the sessions that are not final, where only closed ones are given out of these. Each of them is
    /// one run afterwards, so that what is stored gives the same results to the bit.
    fn change(&mut self, out: &mut Output) -> Done {
        let spec = Arc::clone(&self.spec);
        let by = Sessions::by(&spec)?;
        let mut dirty = Runs::default();
        let closed = self.closes_by.is_some_and(|closes_by| closes_by > self.told_closed);
        if !closed && !self.piles.values().any(|pile| pile.unsaved) {
            return Ok(());
        }
        let (gap, closes_by) = (self.gap, self.closes_by.unwrap_or(i64::MAX));
        let shown = |index: &mut Index, id: u32| {
            let session = index.session(id);
            session.dirty && session.last.saturating_add(gap) <= closes_by
        };
        for pile in self.piles.values_mut() {
            let runs = std::mem::take(&mut pile.runs);
            let (mut chosen, rest) = runs.divide(&spec, &mut self.index, shown)?;
            pile.runs = rest;
            pile.unsaved |= chosen.len() > 0;
            dirty.push(chosen.batch(&spec)?, chosen.ids);
        }
        if dirty.len() > 0 {
            let mut folded = dirty.folded(&spec, by, &mut self.index, true)?;
            let (rows, ids) = folded.results(&spec, by, &mut self.index)?;
            ids.iter().for_each(|id| self.index.session(*id).dirty = false);
            if let Some(batch) =
                self.standing.as_mut().map(|standing| standing.change(&rows, &ids)).transpose()?.flatten()
            {
                out.push(batch);
            }
            let (rows, ids) = (folded.batch(&spec)?, folded.ids);
            self.pile(rows, ids)?;
        } else if let Some(batch) = self.standing.as_mut().map(Standing::withdraw).transpose()?.flatten() {
            out.push(batch);
        }
        Ok(())
    }

    /// Counts what is kept in memory, and parks runs when it is too much: those first that are looked at last.
    fn relieve(&mut self) -> Done {
        if !self.share.is_bounded() {
            return Ok(());
        }
        let standing = self.standing.as_ref().map_or(0, Standing::bytes);
        let mut taken: usize = self.piles.values().map(|pile| pile.runs.bytes()).sum();
        taken += self.index.bytes() + self.ahead.bytes() + standing;
        self.share.set(taken);
        taken -= self.ahead.park(&self.spec, &mut self.share, taken)?;
        for pile in self.piles.values_mut().rev() {
            if self.share.excess() == 0 {
                break;
            }
            taken -= pile.runs.bytes();
            pile.runs.park(&self.spec, &self.share)?;
            taken += pile.runs.bytes();
            self.share.set(taken);
        }
        Ok(())
    }

    /// How far behind the watermark the starts of later results may be.
    fn held_back(&mut self) -> i64 {
        let begin = [self.index.earliest_open(), self.ahead.earliest()];
        let open = begin.into_iter().flatten().min().unwrap_or(i64::MAX);
        let behind = if self.watermark == i64::MAX { i64::MAX } else { self.watermark.saturating_sub(self.gap) };
        self.told = self.told.max(open.min(behind));
        self.told
    }
}

impl Operator for Sessions {
    fn bound(&mut self, memory: &StateMemory) {
        self.share = memory.share();
    }

    fn on_batch(&mut self, _input: usize, batch: Batch, out: &mut Output) -> Result<()> {
        self.take(&batch.rows, &mut out.late).map_err(|error| failed(&error, &self.place))?;
        if self.share.is_bounded() && self.ripe.after(bytes_of(&batch.rows), &self.share) {
            return self.relieve().map_err(|error| failed(&error, &self.place));
        }
        Ok(())
    }

    fn on_watermark(&mut self, watermark: Watermark, out: &mut Output) -> Result<()> {
        self.now = watermark;
        if let Some(closes_by) = &mut self.closes_by {
            *closes_by = (*closes_by).max(watermark.0);
        }
        self.watermark = self.watermark.max(watermark.behind(self.spec.lateness).0);
        if self.watermark == i64::MAX || self.watermark.saturating_sub(self.settled) >= self.step {
            self.settle(out).map_err(|error| failed(&error, &self.place))?;
        }
        out.watermark = Some(Watermark(self.held_back()));
        Ok(())
    }

    fn before_barrier(&mut self, out: &mut Output) -> Result<()> {
        self.settle(out).map_err(|error| failed(&error, &self.place))?;
        if self.standing.is_none() {
            return Ok(());
        }
        self.admit_ahead(i64::MAX).and_then(|()| self.change(out)).map_err(|error| failed(&error, &self.place))
    }

    fn snapshot(&mut self, _epoch: Epoch) -> Result<Vec<StateChunk>> {
        let chunks = self.changed_chunks()?;
        self.index.settle();
        self.relieve().map_err(|error| failed(&error, &self.place))?;
        Ok(chunks)
    }

    fn restore(&mut self, chunks: Vec<(String, RecordBatch)>, lane: usize, lanes: usize) -> Result<()> {
        self.take_back(chunks, lane, lanes)
    }

    fn late_rows(&self) -> u64 {
        self.late
    }
}
