//! [`Statement`]: an INSERT or a materialized view of a pipeline, planned and optimised.
//!
//! **Invariant:** the top of its plan gives the columns of its target, in their order.

use std::sync::Arc;

use datafusion::common::TableReference;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{LogicalPlan, TableSource};
use tidemill_model::{Error, Kind, Place, Result};

use super::refuse::refuse_calls;
use crate::catalog::{Catalog, Side};
use crate::language::{Dataset, Insert, MaterializedView, Pipeline};
use crate::session::guarded::optimize;
use crate::session::{Planner, SchemaOnly, Tables, accepted_schema, insert_columns, lift};

/// One statement of a pipeline.
#[derive(Debug)]
pub(super) struct Statement {
    /// The dataset or view, which its nodes' names begin with; a pipeline writes each in one statement.
    pub(super) name: String,
    /// Where its results go.
    pub(super) target: Target,
    /// Its plan.
    pub(super) plan: LogicalPlan,
    /// Where it stands.
    pub(super) place: Place,
    /// What a user should know.
    pub(super) notes: Vec<String>,
    /// The functions that a program has added and it calls, with their versions.
    pub(super) functions: String,
}

/// Where results go.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// Into a dataset.
    Sink(Box<Insert>),
    /// Into a view.
    View(Box<MaterializedView>),
}

/// Datasets by their columns; reading a materialized view is refused.
struct Streams<'a> {
    catalog: &'a Catalog,
    side: Side,
}

impl Tables for Streams<'_> {
    fn dataset(&self, dataset: &Dataset) -> Result<Arc<dyn TableSource>> {
        let spec = self.catalog.spec(&dataset.name, self.side)?;
        Ok(Arc::new(SchemaOnly(accepted_schema(dataset, &spec.schema))))
    }

    fn other(&self, name: &TableReference) -> Result<Option<Arc<dyn TableSource>>> {
        if !self.catalog.project().materialized.contains_key(name.table()) {
            return Ok(None);
        }
        Err(Error::new(Kind::Plan, "P134", format!("a pipeline cannot read the materialized view `{name}` yet"))
            .fact("put its query into a CREATE VIEW and use that in both places"))
    }
}

impl Statement {
    /// All statements of a pipeline, in the order of its file: INSERTs, then views.
    pub(super) fn of_pipeline(
        catalog: &Catalog,
        pipeline: &Pipeline,
        side: Side,
        state: &SessionState,
    ) -> Result<Vec<Statement>> {
        let project = catalog.project();
        let tables = Streams { catalog, side };
        let planner = Planner::new(project, state, &tables);
        let mut statements: Vec<Statement> = Vec::new();
        let mut errors = Vec::new();
        let views = pipeline.materialized.iter().filter_map(|name| project.materialized.get(name));
        let targets = pipeline.inserts.iter().map(|insert| Target::Sink(Box::new(insert.clone())));
        for target in targets.chain(views.map(|view| Target::View(Box::new(view.clone())))) {
            let name = target.name().to_owned();
            match Statement::new(&planner, catalog, state, target, name) {
                Ok(statement) => statements.push(statement),
                Err(error) => errors.push(error),
            }
        }
        match Error::all(errors) {
            Some(error) => Err(error),
            None => Ok(statements),
        }
    }

    fn new(
        planner: &Planner<'_>,
        catalog: &Catalog,
        state: &SessionState,
        target: Target,
        name: String,
    ) -> Result<Statement> {
        let (query, place) = match &target {
            Target::Sink(insert) => (&insert.query, &insert.place),
            Target::View(view) => (&view.query, &view.place),
        };
        let place = place.clone();
        let mut notes = Vec::new();
        let mut plan = planner.query(query, &place)?;
        refuse_calls(&plan, &place, catalog.functions())?;
        while let LogicalPlan::Sort(sort) = plan {
            if sort.fetch.is_some() {
                return Err(Error::new(Kind::Plan, "P136", "LIMIT is not available in a stream").at(&place));
            }
            notes.push(format!("{name}: ORDER BY has no effect, rows of a table have no order"));
            plan = sort.input.as_ref().clone();
        }
        if let Target::Sink(insert) = &target {
            plan = insert_columns(plan, insert, catalog.dataset(&insert.target)?)?;
        }
        let plan = optimize(plan, state).map_err(|error| lift(&error, &place))?;
        let functions = catalog.functions().called_in(&plan).map_err(|error| lift(&error, &place))?;
        Ok(Statement { name, target, plan, place, notes, functions })
    }
}

impl Target {
    /// The name of the dataset or view.
    pub(super) fn name(&self) -> &str {
        match self {
            Target::Sink(insert) => &insert.target,
            Target::View(view) => &view.name,
        }
    }
}
