//! [`Recipe`]: a piece of a query over rows that are held, and [`Compiled`], which runs it to its end on the calling
//! thread.
//!
//! **Invariant:** a run starts no thread and no task: with one partition every operator is driven by whoever asks for
//! rows. Each operator on each lane compiles its own.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, Result, TableReference, internal_err};
use datafusion::datasource::provider_as_source;
use datafusion::execution::TaskContext;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Projection};
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};

use super::slot::Slot;
use crate::session::checked_plan;
use crate::session::guarded::arrow_schema;

/// The name of the table that stands for an input.
fn name(input: usize) -> String {
    format!("__held_{input}")
}

/// What stands for an input in the plan of a recipe: its columns under their names.
///
/// # Errors
/// Internal.
pub(in crate::stream) fn input_of(number: usize, schema: &DFSchema) -> Result<LogicalPlan> {
    let held = held_schema(schema);
    let table = TableReference::bare(name(number));
    let scan = LogicalPlanBuilder::scan(table.clone(), provider_as_source(Arc::new(Slot::new(held))), None)?.build()?;
    let exprs = schema.iter().enumerate().map(|(at, (qualifier, field))| {
        let column = Column::new(Some(table.clone()), format!("c{at}"));
        Expr::Column(column).alias_qualified(qualifier.cloned(), field.name().as_str())
    });
    let exprs = exprs.collect();
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(scan))?))
}

/// The columns of an input, named by their number: a join's may have the same name twice.
fn held_schema(schema: &DFSchema) -> SchemaRef {
    let fields = schema.fields().iter().enumerate();
    let fields: Vec<Field> = fields.map(|(at, field)| field.as_ref().clone().with_name(format!("c{at}"))).collect();
    Arc::new(Schema::new(fields))
}

/// A plan over inputs that [`input_of`] made; analysed and optimised.
pub(in crate::stream) struct Recipe {
    plan: LogicalPlan,
    inputs: usize,
    state: SessionState,
}

impl Recipe {
    pub(in crate::stream) fn new(plan: LogicalPlan, inputs: usize, state: &SessionState) -> Recipe {
        let mut config = state.config().clone().with_target_partitions(1);
        // A filter that one run found must not meet the rows of the next.
        config.options_mut().optimizer.enable_dynamic_filter_pushdown = false;
        let state = SessionStateBuilder::new_from_existing(state.clone()).with_config(config).build();
        Recipe { plan, inputs, state }
    }

    /// Whatever must be equal for two recipes to mean the same.
    pub(in crate::stream) fn text(&self) -> String {
        self.plan.display_indent_schema().to_string()
    }

    /// The plan, ready to run.
    ///
    /// # Errors
    /// Plan, for what has no physical form, such as an aggregate that cannot slide.
    pub(in crate::stream) fn compile(&self) -> Result<Compiled> {
        let mut slots: Vec<Option<Slot>> = vec![None; self.inputs];
        let plan = self.plan.clone().transform_up(|node| {
            let LogicalPlan::TableScan(mut scan) = node else { return Ok(Transformed::no(node)) };
            let Some(number) = (0..self.inputs).find(|number| scan.table_name.table() == name(*number)) else {
                return internal_err!("a recipe reads {}", scan.table_name);
            };
            let slot = slots[number].get_or_insert_with(|| Slot::new(scan.source.schema())).clone();
            scan.source = provider_as_source(Arc::new(slot));
            Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
        })?;
        let planner = DefaultPhysicalPlanner::default();
        // Planning over slots waits for nothing.
        let planned = futures::executor::block_on(planner.create_physical_plan(&plan.data, &self.state))?;
        let Some(slots) = slots.into_iter().collect::<Option<Vec<Slot>>>() else {
            return internal_err!("a recipe leaves out an input");
        };
        let task = Arc::new(TaskContext::from(&self.state));
        Ok(Compiled { plan: checked_plan(planned)?, slots, schema: arrow_schema(self.plan.schema()), task })
    }
}

/// A recipe of one operator on one lane.
pub(in crate::stream) struct Compiled {
    plan: Arc<dyn ExecutionPlan>,
    slots: Vec<Slot>,
    schema: SchemaRef,
    task: Arc<TaskContext>,
}

impl Compiled {
    /// The rows of the plan over these rows, one batch.
    pub(super) fn run(&mut self, inputs: Vec<Vec<RecordBatch>>) -> Result<RecordBatch> {
        for (slot, rows) in self.slots.iter().zip(inputs) {
            let held = datafusion::datasource::TableProvider::schema(slot);
            slot.put(rows.into_iter().map(|rows| with_schema(&rows, &held)).collect::<Result<_>>()?);
        }
        // A join remembers the side that it has built.
        self.plan = reset_plan_states(Arc::clone(&self.plan))?;
        let batches = futures::executor::block_on(collect(Arc::clone(&self.plan), Arc::clone(&self.task)));
        self.slots.iter().for_each(|slot| slot.put(Vec::new()));
        let batches = batches?;
        let rows = concat_batches(&self.plan.schema(), &batches)?;
        with_schema(&rows, &self.schema)
    }
}

/// The same columns under other names.
pub(super) fn with_schema(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), rows.columns().to_vec(), &options)?)
}
