//! [`Held`]: rows that are kept, and the chunks that they are stored as.
//!
//! **Invariant:** a stored chunk never changes; new rows become a new one, and small ones are merged so that there are
//! few: each row is rewritten as often as the number of its doublings.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use tidemill_model::{Error, Kind};
use tidemill_runtime::{Parked, Route, Share, StateChunk};

use super::recipe::with_schema;
use crate::stream::state::lost;

/// Rows, in the order of no importance.
#[derive(Debug, Default)]
pub(in crate::stream) struct Held {
    /// As stored: name and rows, the larger ones first.
    stored: Vec<(String, Parked)>,
    fresh: Vec<Parked>,
    rows: usize,
}

impl Held {
    pub(in crate::stream) fn push(&mut self, rows: RecordBatch) {
        self.rows += rows.num_rows();
        self.fresh.push(rows.into());
    }

    pub(in crate::stream) fn len(&self) -> usize {
        self.rows
    }

    /// All rows.
    pub(in crate::stream) fn batches(&self) -> Result<Vec<RecordBatch>> {
        self.parts().map(|rows| rows.read().map_err(lost)).collect()
    }

    fn parts(&self) -> impl Iterator<Item = &Parked> {
        self.stored.iter().map(|(_, rows)| rows).chain(&self.fresh)
    }

    /// How many bytes of memory they take.
    pub(in crate::stream) fn bytes(&self) -> usize {
        self.parts().map(Parked::bytes).sum()
    }

    /// Moves them to the tier.
    pub(in crate::stream) fn park(&mut self, schema: &SchemaRef, share: &Share) -> Result<()> {
        if self.fresh.len() > 1 {
            let fresh = self.fresh.iter().map(|rows| rows.read().map_err(lost)).collect::<Result<Vec<_>>>()?;
            self.fresh = vec![concat_batches(schema, &fresh)?.into()];
        }
        let parts = self.stored.iter_mut().map(|(_, rows)| rows).chain(&mut self.fresh);
        parts.into_iter().try_for_each(|rows| rows.park(share).map_err(lost))
    }

    /// Puts other rows in the place of all; the names of the chunks that are gone go to `gone`.
    pub(in crate::stream) fn replace(&mut self, rows: Vec<RecordBatch>, gone: &mut Vec<String>) {
        gone.extend(self.stored.drain(..).map(|(name, _)| name));
        self.rows = rows.iter().map(RecordBatch::num_rows).sum();
        self.fresh = rows.into_iter().map(Parked::from).collect();
    }

    /// Keeps what `keep` says of each batch; all or nothing of a stored one.
    pub(in crate::stream) fn retain(
        &mut self,
        gone: &mut Vec<String>,
        keep: impl Fn(&RecordBatch) -> bool,
    ) -> Result<()> {
        for (name, rows) in std::mem::take(&mut self.stored) {
            if keep(&rows.read().map_err(lost)?) {
                self.stored.push((name, rows));
            } else {
                gone.push(name);
            }
        }
        for rows in std::mem::take(&mut self.fresh) {
            if keep(&rows.read().map_err(lost)?) {
                self.fresh.push(rows);
            }
        }
        self.rows = self.parts().map(Parked::num_rows).sum();
        Ok(())
    }

    /// The chunks to store for the rows that are new; `name` makes a name of a number that grows.
    pub(in crate::stream) fn save(
        &mut self,
        schema: &SchemaRef,
        number: &mut u64,
        name: impl Fn(u64) -> String,
        chunks: &mut Vec<StateChunk>,
    ) -> Result<()> {
        let mut rows: usize = self.fresh.iter().map(Parked::num_rows).sum();
        let fresh = std::mem::take(&mut self.fresh);
        let mut merged = fresh.iter().map(|rows| rows.read().map_err(lost)).collect::<Result<Vec<_>>>()?;
        if rows == 0 {
            return Ok(());
        }
        while self.stored.last().is_some_and(|(_, last)| last.num_rows() <= 2 * rows) {
            let Some((old, last)) = self.stored.pop() else { break };
            rows += last.num_rows();
            merged.push(last.read().map_err(lost)?);
            chunks.push(StateChunk { name: old, rows: None });
        }
        let one = concat_batches(schema, &merged)?;
        *number += 1;
        let name = name(*number);
        chunks.push(StateChunk { name: name.clone(), rows: Some(one.clone()) });
        self.stored.push((name, one.into()));
        Ok(())
    }

    /// The names of the chunks of rows that are no longer held.
    pub(in crate::stream) fn forget(self) -> impl Iterator<Item = String> {
        self.stored.into_iter().map(|(name, _)| name)
    }
}

/// Restored chunks by a part of their names: of each the rows of this lane.
pub(in crate::stream) fn restored<K: Ord>(
    chunks: Vec<(String, RecordBatch)>,
    key: impl Fn(&str) -> Option<(K, SchemaRef, Vec<usize>)>,
    lane: usize,
    lanes: usize,
) -> std::result::Result<BTreeMap<K, Held>, Error> {
    let corrupt = |name: &str, why: &str| {
        Error::new(Kind::Corrupt, "X031", format!("the stored rows `{name}` are not readable: {why}"))
            .fact("the state was written by another version; rebuild it by replaying the pipeline from its start")
    };
    let mut held: BTreeMap<K, Held> = BTreeMap::new();
    for (name, rows) in chunks {
        let (key, schema, route) = key(&name).ok_or_else(|| corrupt(&name, "its name says nothing"))?;
        if rows.columns().iter().map(|c| c.data_type()).ne(schema.fields().iter().map(|f| f.data_type())) {
            return Err(corrupt(&name, "it has other columns"));
        }
        let of =
            Route::lane_of(&rows, &route, lanes).map_err(|e| Error::internal("stored rows have no lane").because(e))?;
        let mine: BooleanArray = of.iter().map(|of| Some(*of == lane)).collect();
        let mine = filter_record_batch(&rows, &mine).map_err(|e| corrupt(&name, &e.to_string()))?;
        if mine.num_rows() > 0 {
            let mine = with_schema(&mine, &Arc::clone(&schema)).map_err(|e| corrupt(&name, &e.to_string()))?;
            held.entry(key).or_default().push(mine);
        }
    }
    Ok(held)
}
