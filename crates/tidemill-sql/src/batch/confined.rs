//! [`Confined`]: a sink that replaces a part of its table, given rows of that part alone.
//!
//! **Invariant:** what a run prepared is committed as it was prepared, or not at all: a statement whose REPLACE WHERE, or a table
//! whose `write`, was changed in between never takes away rows that it names only now.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::utils::{conjunction, disjunction};
use datafusion::logical_expr::{Expr, lit};
use datafusion::physical_expr::PhysicalExpr;
use serde_json::{Value, json};
use tidemill_model::{Epoch, Error, Interval, Kind, Place, Result};
use tidemill_runtime::{Batch, Committable, Rewrites, Sink, SinkCommitter, SinkWriter, TablePart, WriteMode};

/// A sink of a statement that replaces.
#[derive(Debug)]
pub(super) struct Confined {
    inner: Arc<dyn Sink>,
    table: String,
    /// Which rows it replaces, in words.
    said: String,
    /// The part in words; empty for the whole table.
    part: String,
    /// Where the statement says so.
    place: Place,
    /// True for rows of the part; `None` when every row is.
    is_of_part: Option<Arc<dyn PhysicalExpr>>,
}

impl Confined {
    /// The sink of a table that takes rows of these columns.
    pub(super) fn new(
        inner: Arc<dyn Sink>,
        table: &str,
        (mode, place): (&WriteMode, &Place),
        columns: &Schema,
    ) -> Result<Confined> {
        let part = mode.part().cloned().unwrap_or_default();
        let only = if part.is_whole() { String::new() } else { format!(" REPLACE WHERE {part}") };
        let word = if matches!(mode, WriteMode::Overwrite { .. }) { "overwrite" } else { "replace" };
        let said = format!("write = '{word}'{only}");
        let broken = |e| Error::internal(format!("the part of `{table}` cannot be told")).because(e);
        let is_of_part = condition(&part, columns).and_then(|condition| {
            let names = DFSchema::try_from(columns.clone())?;
            condition.map(|condition| SessionContext::new().create_physical_expr(condition, &names)).transpose()
        });
        let (table, place) = (table.to_owned(), place.clone());
        Ok(Confined { inner, table, said, part: part.to_string(), place, is_of_part: is_of_part.map_err(broken)? })
    }
}

/// A part as a condition over these columns; `None` for the whole table.
fn condition(part: &TablePart, columns: &Schema) -> datafusion::common::Result<Option<Expr>> {
    let mut conditions = Vec::new();
    for (name, values) in part.columns() {
        let data_type = columns.field_with_name(name)?.data_type();
        let column = || Expr::Column(Column::from_name(name));
        let mut any = Vec::new();
        for value in values {
            any.push(match value {
                None => column().is_null(),
                Some(text) => column().eq(lit(ScalarValue::try_from_string(text.clone(), data_type)?)),
            });
        }
        conditions.push(disjunction(any).unwrap_or_else(|| lit(false)));
    }
    Ok(conjunction(conditions))
}

impl Sink for Confined {
    fn writer(&self, lane: usize) -> Result<Box<dyn SinkWriter>> {
        let (table, said, part) = (self.table.clone(), self.said.clone(), self.part.clone());
        let (inner, place, is_of_part) = (self.inner.writer(lane)?, self.place.clone(), self.is_of_part.clone());
        Ok(Box::new(ConfinedWriter { inner, table, said, part, place, is_of_part }))
    }

    fn committer(&self) -> Result<Box<dyn SinkCommitter>> {
        let said = self.said.clone();
        Ok(Box::new(ConfinedCommitter { inner: self.inner.committer()?, table: self.table.clone(), said }))
    }

    fn guarantee(&self) -> String {
        self.inner.guarantee()
    }

    fn replaces_interval(&self) -> bool {
        self.inner.replaces_interval()
    }

    fn overwrites(&self) -> bool {
        self.inner.overwrites()
    }

    fn rewrites(&self, intervals: &[Interval]) -> Result<Option<Rewrites>> {
        self.inner.rewrites(intervals)
    }

    fn is_unwritten(&self) -> Result<bool> {
        self.inner.is_unwritten()
    }
}

struct ConfinedWriter {
    inner: Box<dyn SinkWriter>,
    table: String,
    said: String,
    part: String,
    place: Place,
    is_of_part: Option<Arc<dyn PhysicalExpr>>,
}

impl ConfinedWriter {
    fn check(&self, batch: &Batch) -> Result<()> {
        let Some(is_of_part) = &self.is_of_part else { return Ok(()) };
        let broken = |e| Error::internal(format!("rows of `{}` cannot be told apart", self.table)).because(e);
        let truths = is_of_part.evaluate(&batch.rows).and_then(|truths| truths.into_array(batch.rows.num_rows()));
        let truths = datafusion::common::cast::as_boolean_array(&truths.map_err(broken)?).map_err(broken)?.clone();
        let Some(row) = truths.iter().position(|truth| truth != Some(true)) else { return Ok(()) };
        let message = format!("a row on its way to `{}` is not of the part that is replaced", self.table);
        let shown = tidemill_runtime::row_as_json(&batch.rows, row);
        Err(Error::new(Kind::Data, "D114", message)
            .at(&self.place)
            .label("rows of this part alone")
            .fact(format!("the row: {}", shown))
            .fact(format!("add WHERE {} to the query, or correct REPLACE WHERE; nothing was published", self.part)))
    }

    fn marked(&self, prepared: Option<Committable>) -> Option<Committable> {
        // Marked where nothing was prepared, too: to take rows away is something to commit.
        let of = prepared.map_or(Value::Null, |committable| committable.0);
        Some(Committable(json!({ PREPARED_FOR: self.said, "of": of })))
    }
}

impl SinkWriter for ConfinedWriter {
    fn write(&mut self, batch: &Batch) -> Result<()> {
        self.check(batch)?;
        self.inner.write(batch)
    }

    fn prepare(&mut self, epoch: Epoch) -> Result<Option<Committable>> {
        let prepared = self.inner.prepare(epoch)?;
        Ok(self.marked(prepared))
    }

    fn prepare_anew(&mut self, epoch: Epoch) -> Result<Option<Committable>> {
        let prepared = self.inner.prepare_anew(epoch)?;
        Ok(self.marked(prepared))
    }
}

/// The key of what rows were prepared for.
const PREPARED_FOR: &str = "prepared for";

/// What rows were prepared for, if they are to replace others.
pub(super) fn prepared_for(committable: &Committable) -> Option<&str> {
    committable.0.get(PREPARED_FOR).and_then(Value::as_str)
}

/// The error of rows that were prepared for something else than what is said now.
pub(super) fn changed(table: &str, said: &str) -> Error {
    let message = format!("a run has prepared rows of `{table}` with {said}, and the pipeline says something else now");
    Error::new(Kind::Config, "C109", message)
        .fact("put it back and run the pipeline once, so that they are published; then change it")
}

struct ConfinedCommitter {
    inner: Box<dyn SinkCommitter>,
    table: String,
    said: String,
}

impl ConfinedCommitter {
    /// What the table itself prepared, if it was for this part.
    fn unmarked(&self, committable: &Committable) -> Result<Option<Committable>> {
        match prepared_for(committable) {
            Some(said) if said != self.said => Err(changed(&self.table, said)),
            Some(_) => {
                let of = committable.0.get("of").cloned().unwrap_or_default();
                Ok((!of.is_null()).then_some(Committable(of)))
            }
            None => Ok(Some(committable.clone())),
        }
    }
}

impl SinkCommitter for ConfinedCommitter {
    fn commit(&mut self, epoch: Epoch, committables: &[Committable]) -> Result<()> {
        let own = committables.iter().map(|one| self.unmarked(one)).collect::<Result<Vec<_>>>()?;
        self.inner.commit(epoch, &own.into_iter().flatten().collect::<Vec<_>>())
    }

    fn abort_after(&mut self, epoch: Epoch) -> Result<()> {
        self.inner.abort_after(epoch)
    }
}
