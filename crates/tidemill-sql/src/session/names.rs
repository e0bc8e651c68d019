//! [`Names`]: what the names in a query stand for: datasets, views, functions and types of one project.
//!
//! **Invariant:** a view is its query, planned where it is used; it can never see itself.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{Result, TableReference};
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner, RelationPlanner, TypePlanner};
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, WindowUDF};
use tidemill_model::{Error, Kind, nearest};

use crate::language::{Dataset, Project};

use super::planner::{lift, plan_with};
use super::types::Types;

/// Where the tables of a query come from; each executor has its own.
pub trait Tables {
    /// An external dataset.
    ///
    /// # Errors
    /// Whatever the connector says.
    fn dataset(&self, dataset: &Dataset) -> tidemill_model::Result<Arc<dyn TableSource>>;

    /// Any other name: materialized views, tables of dead letters. `None` when there is no such table.
    /// Conservative default: there are none.
    ///
    /// # Errors
    /// When the name is known and cannot be read here.
    fn other(&self, name: &TableReference) -> tidemill_model::Result<Option<Arc<dyn TableSource>>> {
        let _ = name;
        Ok(None)
    }
}

/// Names of one project, resolved while one query is planned.
pub(super) struct Names<'a> {
    pub(super) project: &'a Project,
    pub(super) state: &'a SessionState,
    pub(super) tables: &'a dyn Tables,
    /// The views that are being planned, outermost first.
    inside: RefCell<Vec<String>>,
}

impl<'a> Names<'a> {
    pub(super) fn new(project: &'a Project, state: &'a SessionState, tables: &'a dyn Tables) -> Names<'a> {
        Names { project, state, tables, inside: RefCell::new(Vec::new()) }
    }

    fn resolve(&self, name: &TableReference) -> tidemill_model::Result<Arc<dyn TableSource>> {
        if let TableReference::Bare { table } = name {
            if let Some(dataset) = self.project.datasets.get(table.as_ref()) {
                return self.tables.dataset(dataset);
            }
            if self.project.views.contains_key(table.as_ref()) {
                return self.view(table);
            }
        }
        if let Some(table) = self.tables.other(name)? {
            return Ok(table);
        }
        let known = self.project.datasets.keys().chain(self.project.views.keys());
        let known: Vec<&str> = known.chain(self.project.materialized.keys()).map(String::as_str).collect();
        let mut error = Error::new(Kind::Plan, "P105", format!("no table or view `{name}`"));
        if let Some(meant) = nearest(name.table(), known.iter().copied()) {
            error = error.label(format!("did you mean `{meant}`?"));
        }
        Err(if known.is_empty() { error } else { error.fact(format!("names: {}", known.join(", "))) })
    }

    fn view(&self, name: &str) -> tidemill_model::Result<Arc<dyn TableSource>> {
        let Some(view) = self.project.views.get(name) else {
            return Err(Error::internal(format!("the view `{name}` is gone")));
        };
        if self.inside.borrow().iter().any(|outer| outer == name) {
            return Err(Error::new(Kind::Plan, "P106", format!("the view `{name}` reads itself")).at(&view.place));
        }
        self.inside.borrow_mut().push(name.to_owned());
        let plan = plan_with(self, &view.query).map_err(|error| lift(&error, &view.place));
        self.inside.borrow_mut().pop();
        let plan = plan?;
        Ok(Arc::new(Inlined { schema: Arc::clone(plan.schema().inner()), plan }))
    }
}

/// A view: DataFusion puts its plan in the place of its name.
#[derive(Debug)]
struct Inlined {
    plan: LogicalPlan,
    schema: SchemaRef,
}

impl TableSource for Inlined {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        Some(Cow::Borrowed(&self.plan))
    }
}

impl ContextProvider for Names<'_> {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        self.resolve(&name).map_err(|error| DataFusionError::External(Box::new(error)))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.state.expr_planners()
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        self.state.relation_planners()
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(Types))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.state.scalar_functions().get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.state.higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.state.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.state.window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _variable_names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.state.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        self.state.scalar_functions().keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.state.higher_order_functions().keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.state.aggregate_functions().keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.state.window_functions().keys().cloned().collect()
    }
}
