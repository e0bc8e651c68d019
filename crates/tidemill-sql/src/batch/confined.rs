//! [`Confined`]: a sink that replaces a part of its table, given rows of that part alone.
//!
//! **Invariant:** what a run prepared is committed for the part that it was prepared for, or not at all: a statement whose
//! REPLACE WHERE was changed in between never takes away rows of the part that it names now.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::utils::{conjunction, disjunction};
use datafusion::logical_expr::{Expr, lit};
use datafusion::physical_expr::PhysicalExpr;
use serde_json::{Value, json};
use tidemill_model::{Epoch, Error, Kind, Place, Result};
use tidemill_runtime::{Batch, Committable, Sink, SinkCommitter, SinkWriter, TablePart};

/// A sink of a statement that replaces.
#[derive(Debug)]
pub(super) struct Confined {
    inner: Arc<dyn Sink>,
    table: String,
    part: TablePart,
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
        (part, place): (TablePart, &Place),
        columns: &Schema,
    ) -> Result<Confined> {
        let broken = |e| Error::internal(format!("the part of `{table}` cannot be told")).because(e);
        let is_of_part = condition(&part, columns).and_then(|condition| {
            let names = DFSchema::try_from(columns.clone())?;
            condition.map(|condition| SessionContext::new().create_physical_expr(condition, &names)).transpose()
        });
        let (table, place) = (table.to_owned(), place.clone());
        Ok(Confined { inner, table, part, place, is_of_part: is_of_part.map_err(broken)? })
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
        let (table, said, place) = (self.table.clone(), self.part.to_string(), self.place.clone());
        let (inner, is_of_part) = (self.inner.writer(lane)?, self.is_of_part.clone());
        Ok(Box::new(ConfinedWriter { inner, table, said, place, is_of_part }))
    }

    fn committer(&self) -> Result<Box<dyn SinkCommitter>> {
        let said = self.part.to_string();
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

    fn is_unwritten(&self) -> Result<bool> {
        self.inner.is_unwritten()
    }
}

struct ConfinedWriter {
    inner: Box<dyn SinkWriter>,
    table: String,
    /// The part in words; empty for the whole table.
    said: String,
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
        Err(Error::new(Kind::Data, "D113", message)
            .at(&self.place)
            .label("rows of this part alone")
            .fact(format!("the row: {}", shown))
            .fact(format!("add WHERE {} to the query, or correct REPLACE WHERE; nothing was published", self.said)))
    }

    fn marked(&self, prepared: Option<Committable>) -> Option<Committable> {
        // Marked where nothing was prepared, too: to take rows away is something to commit.
        let of = prepared.map_or(Value::Null, |committable| committable.0);
        Some(Committable(json!({ "part": self.said, "of": of })))
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

struct ConfinedCommitter {
    inner: Box<dyn SinkCommitter>,
    table: String,
    said: String,
}

impl ConfinedCommitter {
    /// What the table itself prepared, if it was for this part.
    fn unmarked(&self, committable: &Committable) -> Result<Option<Committable>> {
        let (part, of) = match (committable.0.get("part").and_then(Value::as_str), committable.0.get("of")) {
            (Some(part), Some(of)) => (part, of.clone()),
            _ => ("", committable.0.clone()),
        };
        if part == self.said {
            return Ok((!of.is_null()).then_some(Committable(of)));
        }
        let was = if part.is_empty() { "no REPLACE WHERE".to_owned() } else { format!("REPLACE WHERE {part}") };
        let message = format!(
            "a run has prepared rows of `{}` with {was}, and the statement says something else now",
            self.table
        );
        Err(Error::new(Kind::Config, "C109", message)
            .fact("put the statement back and run the pipeline once, so that they are published; then change it"))
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
