//! [`Ahead`]: runs that begin at or after the watermark they came under, before anybody looks for their sessions.
//!
//! Such a run is not late and touches no final session, so nothing has to be known of it until time comes near: it lies in
//! a pile by its first time, a quarter of the gap each. Rows of one key in one pile are of one session whatever else
//! comes, so a pile is a plain GROUP BY. Only the sessions that are open at one time are ever told apart, however far
//! ahead of the watermark the rows are.
//!
//! **Invariant:** a pile is given out whole, the earliest first, before a session closes that a run of it could belong to.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Int64Type, Schema, TimestampMicrosecondType};
use datafusion::common::Result;
use tidemill_runtime::{Parked, Share, StateChunk};

use super::super::groups::Groups;
use super::super::spec::GroupSpec;
use super::finish::MANY_RUNS;
use super::runs::lasts;
use crate::stream::state::lost;

/// Runs by their first time.
pub(super) struct Ahead {
    /// The times of one pile.
    step: i64,
    piles: BTreeMap<i64, Pile>,
}

#[derive(Default)]
struct Pile {
    batches: Vec<Parked>,
    rows: usize,
    /// How many rows there were when it was last folded.
    folded: usize,
    unsaved: bool,
}

impl Ahead {
    pub(super) fn new(step: i64) -> Ahead {
        Ahead { step, piles: BTreeMap::new() }
    }

    /// A time that none of them begins before.
    pub(super) fn earliest(&self) -> Option<i64> {
        self.piles.first_key_value().map(|(number, _)| number.saturating_mul(self.step))
    }

    /// Adds runs.
    pub(super) fn push(&mut self, spec: &GroupSpec, rows: RecordBatch) -> Result<()> {
        let firsts = rows.column(0).as_primitive::<TimestampMicrosecondType>().values();
        let Some(one) = firsts.first().map(|first| first.div_euclid(self.step)) else { return Ok(()) };
        if firsts.iter().all(|first| first.div_euclid(self.step) == one) {
            return self.pile(spec, one, rows);
        }
        let mut of: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        for (row, first) in (0_u32..).zip(firsts) {
            of.entry(first.div_euclid(self.step)).or_default().push(row);
        }
        for (number, chosen) in of {
            let rows = take_record_batch(&rows, &UInt32Array::from(chosen))?;
            self.pile(spec, number, rows)?;
        }
        Ok(())
    }

    fn pile(&mut self, spec: &GroupSpec, number: i64, rows: RecordBatch) -> Result<()> {
        let pile = self.piles.entry(number).or_default();
        pile.rows += rows.num_rows();
        pile.batches.push(rows.into());
        pile.unsaved = true;
        if pile.rows > MANY_RUNS.max(2 * pile.folded) { pile.fold(spec) } else { Ok(()) }
    }

    /// Takes the earliest pile if it begins before a time: when that is, and one run for each key of it.
    pub(super) fn pop(&mut self, spec: &GroupSpec, before: i64) -> Result<Option<(i64, RecordBatch)>> {
        let step = self.step;
        let Some(entry) = self.piles.first_entry().filter(|entry| entry.key().saturating_mul(step) < before) else {
            return Ok(None);
        };
        let (number, mut pile) = entry.remove_entry();
        pile.fold(spec)?;
        Ok(Some((number, pile.batch(spec)?)))
    }

    /// What a pile is stored as.
    pub(super) fn name(number: i64) -> String {
        format!("a{number}")
    }

    /// Those that changed since they were last stored.
    pub(super) fn changed(&mut self, spec: &GroupSpec) -> Result<Vec<StateChunk>> {
        let mut chunks = Vec::new();
        for (number, pile) in self.piles.iter_mut().filter(|(_, pile)| pile.unsaved) {
            pile.unsaved = false;
            chunks.push(StateChunk { name: Ahead::name(*number), rows: Some(pile.batch(spec)?) });
        }
        Ok(chunks)
    }

    /// How many bytes of memory they take.
    pub(super) fn bytes(&self) -> usize {
        self.piles.values().map(Pile::bytes).sum()
    }

    /// Moves piles to the tier, the latest first, while there is too much; answers how many bytes that gave back.
    pub(super) fn park(&mut self, spec: &GroupSpec, share: &mut Share, mut taken: usize) -> Result<usize> {
        let before = taken;
        for pile in self.piles.values_mut().rev() {
            if share.excess() == 0 {
                break;
            }
            taken -= pile.bytes();
            if pile.batches.len() > 1 {
                pile.fold(spec)?;
            }
            pile.batches.iter_mut().try_for_each(|rows| rows.park(share).map_err(lost))?;
            taken += pile.bytes();
            share.set(taken);
        }
        Ok(before - taken)
    }
}

impl Pile {
    fn bytes(&self) -> usize {
        self.batches.iter().map(Parked::bytes).sum()
    }

    fn batch(&mut self, spec: &GroupSpec) -> Result<RecordBatch> {
        let batches = self.batches.iter().map(|rows| rows.read().map_err(lost)).collect::<Result<Vec<_>>>()?;
        if let [one] = batches.as_slice() {
            return Ok(one.clone());
        }
        let one = concat_batches(&spec.partial, &batches)?;
        self.batches = vec![one.clone().into()];
        Ok(one)
    }

    /// Makes one run of those of each key.
    fn fold(&mut self, spec: &GroupSpec) -> Result<()> {
        if self.rows == self.folded {
            return Ok(());
        }
        let leading = spec.leading();
        let fields = spec.partial.fields();
        let mut groups = Groups::new(&Arc::new(Schema::new(fields[1..leading].to_vec())), &spec.aggregates)?;
        let mut bounds: Vec<(i64, i64, i64)> = Vec::new();
        for rows in &self.batches {
            let rows = rows.read().map_err(lost)?;
            let (keys, states) = rows.columns().split_at(leading);
            groups.merge(&keys[1..], states, rows.num_rows(), &spec.aggregates)?;
            let firsts = rows.column(0).as_primitive::<TimestampMicrosecondType>().values();
            let counts = rows.column(rows.num_columns() - 1).as_primitive::<Int64Type>().values();
            for (((group, first), last), count) in
                groups.of_last().iter().zip(firsts).zip(&lasts(spec, &rows)).zip(counts)
            {
                match bounds.get_mut(*group) {
                    Some(run) => *run = (run.0.min(*first), run.1.max(*last), run.2 + count),
                    None => bounds.push((*first, *last, *count)),
                }
            }
        }
        let zone = match spec.partial.field(0).data_type() {
            DataType::Timestamp(_, zone) => zone.clone(),
            _ => None,
        };
        let firsts: TimestampMicrosecondArray = bounds.iter().map(|run| Some(run.0)).collect();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(firsts.with_timezone_opt(zone))];
        columns.extend(groups.take_states()?);
        columns.push(Arc::new(bounds.iter().map(|run| run.1).collect::<Int64Array>()));
        columns.push(Arc::new(bounds.iter().map(|run| run.2).collect::<Int64Array>()));
        let rows = RecordBatch::try_new(Arc::clone(&spec.partial), columns)?;
        (self.rows, self.folded) = (rows.num_rows(), rows.num_rows());
        self.batches = vec![rows.into()];
        Ok(())
    }
}
