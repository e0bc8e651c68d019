//! [`Runs`]: runs as partial groups, and what becomes of them: fewer runs, or results.
//!
//! **Invariant:** row `i` of the batch belongs to the session that `ids[i]` names.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray,
    UInt32Array,
};
use arrow::compute::{concat_batches, filter_record_batch, take};
use arrow::datatypes::{DataType, Field, Schema, TimestampMicrosecondType, UInt32Type};
use datafusion::common::Result;
use tidemill_runtime::{Parked, Share};

use super::super::groups::Groups;
use super::super::spec::{GroupSpec, OutputColumn, SessionBy};
use super::index::{Index, NONE};
use crate::stream::state::lost;

/// Runs and the sessions they belong to.
#[derive(Default)]
pub(super) struct Runs {
    batches: Vec<Parked>,
    pub(super) ids: Vec<u32>,
}

impl Runs {
    /// Adds runs.
    pub(super) fn push(&mut self, rows: RecordBatch, ids: Vec<u32>) {
        if rows.num_rows() > 0 {
            self.batches.push(rows.into());
            self.ids.extend(ids);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// All as one batch.
    pub(super) fn batch(&mut self, spec: &GroupSpec) -> Result<RecordBatch> {
        let batches = self.batches.iter().map(|rows| rows.read().map_err(lost)).collect::<Result<Vec<_>>>()?;
        if let [one] = batches.as_slice() {
            return Ok(one.clone());
        }
        let one = concat_batches(&spec.partial, &batches)?;
        self.batches = vec![one.clone().into()];
        Ok(one)
    }

    /// How many bytes of memory they take, with what names their sessions.
    pub(super) fn bytes(&self) -> usize {
        self.batches.iter().map(Parked::bytes).sum::<usize>() + self.ids.capacity() * size_of::<u32>()
    }

    /// Moves them to the tier.
    pub(super) fn park(&mut self, spec: &GroupSpec, share: &Share) -> Result<()> {
        if self.batches.len() > 1 {
            self.batch(spec)?;
        }
        self.batches.iter_mut().try_for_each(|rows| rows.park(share).map_err(lost))
    }

    /// Those that are chosen, and the others, all named by the session they belong to now.
    pub(super) fn divide(
        mut self,
        spec: &GroupSpec,
        index: &mut Index,
        chosen: impl Fn(&mut Index, u32) -> bool,
    ) -> Result<(Runs, Runs)> {
        let rows = self.batch(spec)?;
        let (mut ours, mut others, mut keep) = (Runs::default(), Runs::default(), Vec::with_capacity(self.len()));
        let (mut our_ids, mut other_ids) = (Vec::new(), Vec::new());
        for id in self.ids {
            let root = index.root(id);
            if root != id {
                index.name(root);
                index.unname(id);
            }
            let choose = chosen(index, root);
            if choose {
                our_ids.push(root)
            } else {
                other_ids.push(root)
            }
            keep.push(choose);
        }
        if our_ids.is_empty() {
            others.push(rows, other_ids);
        } else if other_ids.is_empty() {
            ours.push(rows, our_ids);
        } else {
            let keep = BooleanArray::from(keep);
            ours.push(filter_record_batch(&rows, &keep)?, our_ids);
            others.push(filter_record_batch(&rows, &arrow::compute::not(&keep)?)?, other_ids);
        }
        Ok((ours, others))
    }

    /// One run for each session and further key, with the session's bounds, or with those of the runs it is made of.
    pub(super) fn folded(mut self, spec: &GroupSpec, by: &SessionBy, index: &mut Index, whole: bool) -> Result<Runs> {
        let rows = self.batch(spec)?;
        let told = self.bounds(spec, index, &rows, whole);
        let columns = self.grouped(spec, by, index, &rows, Groups::take_states)?;
        let (ids, keys, states) = arranged(spec, by, index, &rows, columns)?;
        let zone = match spec.partial.field(0).data_type() {
            DataType::Timestamp(_, zone) => zone.clone(),
            _ => None,
        };
        let bound = |of: fn(&(i64, i64)) -> i64| ids.iter().map(|id| told.get(id).map_or(0, of)).collect::<Vec<i64>>();
        let first = TimestampMicrosecondArray::from(bound(|told| told.0)).with_timezone_opt(zone);
        let mut columns: Vec<ArrayRef> = vec![Arc::new(first)];
        columns.extend(keys);
        columns.extend(states);
        columns.push(Arc::new(Int64Array::from(bound(|told| told.1))));
        columns.push(Arc::new(Int64Array::from(vec![0; ids.len()])));
        for id in &ids {
            index.name(*id);
        }
        for id in &self.ids {
            index.unname(*id);
        }
        let mut folded = Runs::default();
        folded.push(RecordBatch::try_new(Arc::clone(&spec.partial), columns)?, ids);
        Ok(folded)
    }

    /// The results of the sessions, and which session each row is of.
    pub(super) fn results(
        &mut self,
        spec: &GroupSpec,
        by: &SessionBy,
        index: &mut Index,
    ) -> Result<(RecordBatch, Vec<u32>)> {
        let rows = self.batch(spec)?;
        let columns = self.grouped(spec, by, index, &rows, |groups| {
            let (mut columns, results) = groups.take_results()?;
            columns.extend(results);
            Ok(columns)
        })?;
        for (row, id) in (0_u32..).zip(&self.ids) {
            index.session(*id).row = row;
        }
        let (ids, keys, results) = arranged(spec, by, index, &rows, columns)?;
        let zone = |field: &Field| match field.data_type() {
            DataType::Timestamp(_, zone) => zone.clone(),
            _ => None,
        };
        let (mut starts, mut ends) = (Vec::with_capacity(ids.len()), Vec::with_capacity(ids.len()));
        for id in &ids {
            let session = index.session(*id);
            starts.push(session.first);
            ends.push(session.last.saturating_add(by.gap));
        }
        let columns = spec.outputs.iter().zip(spec.schema.fields()).map(|(output, field)| -> ArrayRef {
            let times = |of: &[i64]| {
                Arc::new(TimestampMicrosecondArray::from(of.to_vec()).with_timezone_opt(zone(field))) as ArrayRef
            };
            match *output {
                OutputColumn::Start => times(&starts),
                OutputColumn::End => times(&ends),
                OutputColumn::Key(key) => Arc::clone(&keys[key]),
                OutputColumn::Aggregate(at) => Arc::clone(&results[at]),
            }
        });
        let options = RecordBatchOptions::new().with_row_count(Some(ids.len()));
        let columns = columns.collect();
        Ok((RecordBatch::try_new_with_options(Arc::clone(&spec.schema), columns, &options)?, ids))
    }

    /// The groups of the runs: the columns that tell them, which begin with the session, and what `taken` takes of them.
    fn grouped(
        &self,
        spec: &GroupSpec,
        by: &SessionBy,
        index: &mut Index,
        rows: &RecordBatch,
        taken: impl FnOnce(&mut Groups) -> Result<Vec<ArrayRef>>,
    ) -> Result<Vec<ArrayRef>> {
        let (further, states) = (by.further(spec), &rows.columns()[spec.leading()..]);
        if !further.is_empty() {
            let mut keys: Vec<ArrayRef> = vec![Arc::new(UInt32Array::from(self.ids.clone()))];
            keys.extend(further.into_iter().map(|at| Arc::clone(rows.column(1 + at))));
            let mut groups = Groups::new(&by.group_schema(spec), &spec.aggregates)?;
            groups.merge(&keys, states, rows.num_rows(), &spec.aggregates)?;
            return taken(&mut groups);
        }
        // A session is a group, and knows its number while they are made.
        let mut ids: Vec<u32> = Vec::new();
        let mut of = Vec::with_capacity(self.ids.len());
        for id in &self.ids {
            let session = index.session(*id);
            if session.group == NONE {
                session.group = ids.len() as u32;
                ids.push(*id);
            }
            of.push(session.group as usize);
        }
        ids.iter().for_each(|id| index.session(*id).group = NONE);
        let mut groups = Groups::new(&Arc::new(Schema::empty()), &spec.aggregates)?;
        groups.merge_numbered(of, ids.len(), states, &spec.aggregates)?;
        let mut columns: Vec<ArrayRef> = vec![Arc::new(UInt32Array::from(ids))];
        columns.extend(taken(&mut groups)?);
        Ok(columns)
    }

    /// The bounds of each session, or of its runs here; each session also learns a row that has its keys.
    fn bounds(
        &self,
        spec: &GroupSpec,
        index: &mut Index,
        rows: &RecordBatch,
        whole: bool,
    ) -> datafusion::common::HashMap<u32, (i64, i64)> {
        let firsts = rows.column(0).as_primitive::<TimestampMicrosecondType>().values().clone();
        let lasts = lasts(spec, rows);
        let mut told = datafusion::common::HashMap::default();
        for (row, id) in (0_u32..).zip(&self.ids) {
            let session = index.session(*id);
            session.row = row;
            let (first, last) = match whole {
                true => (session.first, session.last),
                false => (firsts[row as usize], lasts[row as usize]),
            };
            let known = told.entry(*id).or_insert((first, last));
            *known = (known.0.min(first), known.1.max(last));
        }
        told
    }
}

/// The last time of each run.
pub(super) fn lasts(spec: &GroupSpec, rows: &RecordBatch) -> arrow::buffer::ScalarBuffer<i64> {
    rows.column(spec.partial.fields().len() - 2).as_primitive::<arrow::datatypes::Int64Type>().values().clone()
}

/// Columns that begin with the session and the further keys: the sessions, all keys in order, the rest.
fn arranged(
    spec: &GroupSpec,
    by: &SessionBy,
    index: &mut Index,
    rows: &RecordBatch,
    columns: Vec<ArrayRef>,
) -> Result<(Vec<u32>, Vec<ArrayRef>, Vec<ArrayRef>)> {
    let mut columns = columns.into_iter();
    let ids: Vec<u32> = match columns.next() {
        Some(ids) => ids.as_primitive::<UInt32Type>().values().to_vec(),
        None => return datafusion::common::internal_err!("groups of sessions name no session"),
    };
    let further = by.further(spec);
    let told: UInt32Array = ids.iter().map(|id| index.session(*id).row).collect();
    let mut keys = Vec::with_capacity(spec.keys.len());
    let mut of_further: Vec<Option<ArrayRef>> = vec![None; spec.keys.len()];
    for at in &further {
        of_further[*at] = columns.next();
    }
    for (at, column) in of_further.into_iter().enumerate() {
        keys.push(match column {
            Some(column) => column,
            None => take(rows.column(1 + at), &told, None)?,
        });
    }
    Ok((ids, keys, columns.collect()))
}
