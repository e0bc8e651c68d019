//! The state of sessions at rest: runs that lie ahead (`a…`), runs of open sessions by pile (`r…`), final sessions by pile (`c…`), and how far closed ones were given out.
//!
//! **Invariant:** a pile is stored anew when it changed, and a session that is taken back has the results that it had.

use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::Int64Type;
use datafusion::error::DataFusionError;
use tidemill_model::{Error, Kind, Result};
use tidemill_runtime::{Route, StateChunk};

use super::super::super::finish::GIVEN;
use super::super::index::Index;
use super::Sessions;
use crate::stream::state::{stored_time, time_chunk};
use crate::stream::transform::failed;

impl Sessions {
    /// What changed since the last snapshot.
    pub(super) fn changed_chunks(&mut self) -> Result<Vec<StateChunk>> {
        let gone = std::mem::take(&mut self.gone);
        let mut chunks: Vec<StateChunk> = gone.into_iter().map(|name| StateChunk { name, rows: None }).collect();
        for (number, pile) in self.piles.iter_mut().filter(|(_, pile)| pile.unsaved) {
            pile.unsaved = false;
            let rows = match pile.runs.len() {
                0 => None,
                _ => Some(pile.runs.batch(&self.spec).map_err(|error| failed(&error, &self.place))?),
            };
            chunks.push(StateChunk { name: format!("r{number}"), rows });
        }
        chunks.extend(self.ahead.changed(&self.spec).map_err(|error| failed(&error, &self.place))?);
        self.piles.retain(|_, pile| pile.runs.len() > 0);
        for (number, closed) in self.closed.iter_mut().filter(|(_, closed)| closed.unsaved) {
            closed.unsaved = false;
            let rows = concat_batches(&self.closed_schema, &closed.rows)
                .map_err(|e| Error::internal("final sessions do not make a batch").because(e))?;
            closed.rows = vec![rows.clone()];
            chunks.push(StateChunk { name: format!("c{number}"), rows: Some(rows) });
        }
        if let Some(closes_by) = self.closes_by.filter(|closes_by| *closes_by != self.told_closed) {
            self.told_closed = closes_by;
            chunks.push(time_chunk(GIVEN, closes_by)?);
        }
        Ok(chunks)
    }

    /// See [`tidemill_runtime::Operator::restore`].
    pub(super) fn take_back(&mut self, chunks: Vec<(String, RecordBatch)>, lane: usize, lanes: usize) -> Result<()> {
        let spec = Arc::clone(&self.spec);
        let place = self.place.clone();
        let failed = |error: DataFusionError| failed(&error, &place);
        for (name, rows) in chunks {
            let corrupt = |why: &str| {
                Error::new(Kind::Corrupt, "X034", format!("the stored sessions `{name}` are not readable: {why}")).fact(
                    "the state was written by another version; rebuild it by replaying the pipeline from its start",
                )
            };
            if name == GIVEN {
                let at = stored_time(&rows).ok_or_else(|| corrupt("they have other columns"))?;
                self.closes_by = self.closes_by.map(|closes_by| closes_by.max(at));
                continue;
            }
            let is_closed = name.starts_with('c');
            let schema = if is_closed { &self.closed_schema } else { &spec.partial };
            if rows.columns().iter().map(|c| c.data_type()).ne(schema.fields().iter().map(|f| f.data_type())) {
                return Err(corrupt("they have other columns"));
            }
            let rows = RecordBatch::try_new(Arc::clone(schema), rows.columns().to_vec())
                .map_err(|e| corrupt(&e.to_string()))?;
            let route = if is_closed { (2..rows.num_columns()).collect() } else { spec.route() };
            let of = Route::lane_of(&rows, &route, lanes)
                .map_err(|e| Error::internal("stored sessions have no lane").because(e))?;
            let mine: BooleanArray = of.iter().map(|of| Some(*of == lane)).collect();
            let mine = filter_record_batch(&rows, &mine).map_err(|e| corrupt(&e.to_string()))?;
            if mine.num_rows() == 0 {
                continue;
            }
            if name.starts_with('a') {
                self.ahead.push(&spec, mine).map_err(failed)?;
                continue;
            }
            if !is_closed {
                self.admit(&mine, None, i64::MIN, &mut Vec::new()).map_err(failed)?;
                continue;
            }
            let number =
                name.get(1..).unwrap_or_default().parse::<i64>().map_err(|_| corrupt("their name is no time"))?;
            let keys = self.key_rows(&mine.columns()[2..]).map_err(failed)?;
            let [firsts, lasts] = [0, 1].map(|at| mine.column(at).as_primitive::<Int64Type>().values().clone());
            let of = self.closed.entry(number).or_default();
            for row in 0..mine.num_rows() {
                let key = keys.as_ref().map_or(&[][..], |keys| keys.row(row).data());
                of.ids.push(self.index.add_closed(key, (firsts[row], lasts[row])));
            }
            of.rows.push(mine);
            of.unsaved = true;
        }
        let by = Sessions::by(&spec).map_err(failed)?;
        let (gap, closes_by) = (self.gap, self.closes_by.unwrap_or(i64::MAX));
        if let Some(standing) = &mut self.standing {
            for pile in self.piles.values_mut() {
                let runs = std::mem::take(&mut pile.runs);
                let given = |index: &mut Index, id: u32| index.session(id).last.saturating_add(gap) <= closes_by;
                let (mut given, rest) = runs.divide(&spec, &mut self.index, given).map_err(failed)?;
                pile.runs = rest;
                if given.len() > 0 {
                    let (rows, ids) = given.results(&spec, by, &mut self.index).map_err(failed)?;
                    standing.change(&rows, &ids).map_err(failed)?;
                    ids.iter().for_each(|id| self.index.session(*id).dirty = false);
                    let rows = given.batch(&spec).map_err(failed)?;
                    pile.runs.push(rows, given.ids);
                }
            }
        }
        Ok(())
    }
}
