//! [`Planner`]: a query or an expression of the project to DataFusion's logical form.
//!
//! **Invariant:** errors come out with their place in the user's file.

use datafusion::common::{DFSchema, Result as DfResult};
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::sql::planner::{PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::ast;
use tidemill_model::{Error, Place, Result};

use crate::language::{Project, from_datafusion};

use super::asof::{with_asof, without_asof};
use super::names::{Names, Tables};
use super::ties::complete;

/// Plans the queries of one project over the tables of one executor.
pub struct Planner<'a> {
    project: &'a Project,
    state: &'a SessionState,
    tables: &'a dyn Tables,
}

impl<'a> Planner<'a> {
    /// A planner with functions and settings of `state` (see [`super::session_state`]).
    pub fn new(project: &'a Project, state: &'a SessionState, tables: &'a dyn Tables) -> Planner<'a> {
        Planner { project, state, tables }
    }

    /// The plan of a query, neither analysed nor optimised; ordered choices have a whole order. `place` is where the query belongs, for errors.
    ///
    /// # Errors
    /// Plan, with the place of the word that is wrong.
    pub fn query(&self, query: &ast::Query, place: &Place) -> Result<LogicalPlan> {
        let names = Names::new(self.project, self.state, self.tables);
        let time = |name: &str| Some(self.project.datasets.get(name)?.watermark.as_ref()?.column.clone());
        let plan = plan_with(&names, query).and_then(|plan| complete(plan, self.state, &time));
        plan.map_err(|error| lift(&error, place))
    }

    /// An expression over columns, with types made to fit.
    ///
    /// # Errors
    /// Plan, with the place of the word that is wrong.
    pub fn expression(&self, expr: &ast::Expr, schema: &DFSchema, place: &Place) -> Result<Expr> {
        let names = Names::new(self.project, self.state, self.tables);
        let planned = SqlToRel::new(&names).sql_to_expr(expr.clone(), schema, &mut PlannerContext::new());
        planned.map_err(|error| lift(&error, place))
    }
}

/// The plan of a query over these names.
pub(super) fn plan_with(names: &Names<'_>, query: &ast::Query) -> DfResult<LogicalPlan> {
    let mut query = query.clone();
    without_asof(&mut query)?;
    with_asof(SqlToRel::new(names).sql_statement_to_plan(ast::Statement::Query(Box::new(query)))?)
}

/// DataFusion's error as ours, at its place.
#[must_use]
pub fn lift(error: &DataFusionError, place: &Place) -> Error {
    from_datafusion(error, place)
}
