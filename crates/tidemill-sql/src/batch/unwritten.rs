//! [`Unwritten`]: datasets that a pipeline of the project writes and that nobody has written yet.
//!
//! **Invariant:** what no pipeline writes and is not there stays an error, unless whoever uses it first creates it.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::TableSource;
use tidemill_model::{Error, Result};

use crate::catalog::{Catalog, Presence, Side};
use crate::language::Dataset;
use crate::session::{Planner, SchemaOnly, Tables, accepted_schema, insert_columns, result_schema};

/// A table or view without rows, because nothing has written it yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwritten {
    /// Its name.
    pub name: String,
    /// The pipelines that would write it.
    pub pipelines: Vec<String>,
}

impl Unwritten {
    /// The error of reading it, with what would write it.
    pub(super) fn explain(&self, error: Error) -> Error {
        match self.pipelines[..] {
            [] => error,
            _ => error.fact(format!(
                "`{}` is written by the pipeline {}: run it first",
                self.name,
                self.pipelines.join(", ")
            )),
        }
    }
}

/// Whether a dataset is one that only waits to be written.
pub(super) fn unwritten(catalog: &Catalog, side: Side, name: &str) -> Result<Option<Unwritten>> {
    let pipelines = writers(catalog, side, name)?;
    Ok(match catalog.presence(name, side)? {
        Presence::There => None,
        Presence::Missing if pipelines.is_empty() => None,
        Presence::Missing | Presence::Unborn => Some(Unwritten { name: name.to_owned(), pipelines }),
    })
}

/// The pipelines that write this side of a dataset: never its HISTORY.
pub(super) fn writers(catalog: &Catalog, side: Side, name: &str) -> Result<Vec<String>> {
    if side == Side::History && catalog.dataset(name)?.history.is_some() {
        return Ok(Vec::new());
    }
    Ok(catalog.project().writers(name).iter().map(|pipeline| pipeline.name.clone()).collect())
}

/// The columns of a dataset's accepted rows. Those of a table that declares none and is not written yet are the
/// columns that will be written; `inside` are the tables of which this was asked on the way.
pub(super) fn accepted(
    catalog: &Catalog,
    state: &SessionState,
    side: Side,
    dataset: &Dataset,
    inside: &[String],
) -> Result<SchemaRef> {
    match catalog.spec(&dataset.name, side) {
        Ok(spec) => Ok(accepted_schema(dataset, &spec.schema)),
        Err(error) if !dataset.columns.is_empty() || inside.contains(&dataset.name) => Err(error),
        Err(error) => match unwritten(catalog, side, &dataset.name)? {
            Some(nothing) if !nothing.pipelines.is_empty() => {
                Ok(accepted_schema(dataset, &to_be_written(catalog, state, side, dataset, inside)?))
            }
            _ => Err(error),
        },
    }
}

/// The columns that the first INSERT INTO a table gives it.
fn to_be_written(
    catalog: &Catalog,
    state: &SessionState,
    side: Side,
    dataset: &Dataset,
    inside: &[String],
) -> Result<SchemaRef> {
    let project = catalog.project();
    let writers = project.writers(&dataset.name);
    let mut inserts = writers.iter().flat_map(|pipeline| &pipeline.inserts);
    let insert = inserts.find(|insert| insert.target == dataset.name).ok_or_else(|| {
        Error::internal(format!("`{}` is written by a pipeline without INSERT INTO it", dataset.name))
    })?;
    let inside: Vec<String> = inside.iter().chain([&dataset.name]).cloned().collect();
    let names = Read { catalog, state, side, inside };
    let plan = Planner::new(project, state, &names).query(&insert.query, &insert.place)?;
    Ok(result_schema(&insert_columns(plan, insert, dataset)?))
}

/// What an INSERT reads, by its columns.
struct Read<'a> {
    catalog: &'a Catalog,
    state: &'a SessionState,
    side: Side,
    inside: Vec<String>,
}

impl Tables for Read<'_> {
    fn dataset(&self, dataset: &Dataset) -> Result<Arc<dyn TableSource>> {
        Ok(Arc::new(SchemaOnly(accepted(self.catalog, self.state, self.side, dataset, &self.inside)?)))
    }
}
