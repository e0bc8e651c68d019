//! [`guard`]: a plan whose filters and projections that can fail are evaluated row by row where they fail, as in a stream;
//! [`GuardExec`] does it.
//!
//! Chains of filters and projections become nodes of our own before DataFusion optimises and plans the rest, so that
//! nothing is moved past them. The table that a stream would look up in is left to DataFusion: what fails there fails the
//! run, in every mode.
//!
//! **Invariant:** the chains are those of a stream: both executors take them from the same rewritten plan.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchemaRef, Result as DfResult, Statistics};
use datafusion::execution::session_state::SessionState;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    Expr, Extension, Filter, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore,
};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};
use futures::StreamExt;
use futures::future::ready;
use tidemill_model::Error;
use tidemill_runtime::Batch;

use super::estimate;
use super::locality::times;
use super::reading::{Gathered, external};
use crate::language::{OnError, Project};
use crate::session::Meaning;
use crate::session::guarded::{Chain, Failing, Guarded, OnItsWay, arrow_schema, looked_up, rewritten};

/// What guards the rows of one statement.
#[derive(Clone)]
pub(super) struct Guarding<'a> {
    pub(super) project: &'a Project,
    pub(super) on_error: OnError,
    pub(super) way: OnItsWay,
    pub(super) gathered: Arc<Gathered>,
}

/// The plan, which is neither analysed nor optimised, rewritten as a stream's and with its chains guarded.
pub(super) fn guard(plan: LogicalPlan, state: &SessionState, guarding: &Guarding<'_>) -> DfResult<LogicalPlan> {
    guarding.plan(rewritten(plan, state)?)
}

impl Guarding<'_> {
    fn plan(&self, plan: LogicalPlan) -> DfResult<LogicalPlan> {
        if let Some(chained) = self.chain(&plan)? {
            return Ok(chained);
        }
        if let LogicalPlan::Join(join) = &plan
            && let Some(left_is_side) = looked_up(join, self.project)
        {
            let mut is_left = true;
            let guarded = plan.map_children(|child| {
                let is_side = std::mem::replace(&mut is_left, false) == left_is_side;
                if is_side { Ok(Transformed::no(child)) } else { Ok(Transformed::yes(self.plan(child)?)) }
            })?;
            return Ok(guarded.data);
        }
        Ok(plan.map_children(|child| Ok(Transformed::yes(self.plan(child)?)))?.data)
    }

    /// The plan with the chain at its top guarded; `None` when there is none or it cannot fail.
    fn chain(&self, plan: &LogicalPlan) -> DfResult<Option<LogicalPlan>> {
        let mut links = Vec::new();
        let mut base = plan;
        loop {
            let below = match base {
                LogicalPlan::Projection(node) => &node.input,
                LogicalPlan::Filter(node) => &node.input,
                LogicalPlan::SubqueryAlias(node) => &node.input,
                _ => break,
            };
            links.push(base);
            base = below.as_ref();
        }
        // A name at the very bottom belongs to what it names.
        while matches!(links.last(), Some(LogicalPlan::SubqueryAlias(_))) {
            base = links.pop().unwrap_or(base);
        }
        let mut chain = Chain::over(Arc::clone(base.schema()));
        for link in links.into_iter().rev() {
            match link {
                LogicalPlan::Projection(node) => chain.project(node.expr.clone(), Arc::clone(&node.schema)),
                LogicalPlan::Filter(node) => chain.filter(node.predicate.clone()),
                other => chain.rename(Arc::clone(other.schema())),
            }
        }
        if !chain.can_fail() || !chain.is_row_by_row() {
            return Ok(None);
        }
        let time = times(base, self.project).iter().position(|meaning| matches!(meaning, Meaning::Time { .. }));
        let failing = Failing::of(&chain, self.on_error, self.way.clone(), time);
        let mut input = self.plan(base.clone())?;
        if let Some(safe) = chain.take_safe_conditions() {
            input = LogicalPlan::Filter(Filter::try_new(safe, Arc::new(input))?);
        }
        let node = GuardNode { input, chain, failing, gathered: Arc::clone(&self.gathered) };
        Ok(Some(LogicalPlan::Extension(Extension { node: Arc::new(node) })))
    }
}

/// A chain in a logical plan. Its expressions are not shown to the optimiser.
#[derive(Clone)]
struct GuardNode {
    input: LogicalPlan,
    chain: Chain,
    failing: Failing,
    gathered: Arc<Gathered>,
}

impl UserDefinedLogicalNodeCore for GuardNode {
    fn name(&self) -> &str {
        "Guard"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.chain.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.chain.compiled() {
            Ok((_, words)) => write!(f, "Guard: {words}"),
            Err(_) => f.write_str("Guard"),
        }
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> DfResult<GuardNode> {
        let input = inputs.pop().ok_or_else(|| external(Error::internal("a guard needs an input")))?;
        Ok(GuardNode { input, ..self.clone() })
    }
}

impl fmt::Debug for GuardNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardNode").field("chain", &self.chain).field("input", &self.input).finish_non_exhaustive()
    }
}

impl PartialEq for GuardNode {
    fn eq(&self, other: &GuardNode) -> bool {
        self.chain == other.chain && self.input == other.input
    }
}

impl Eq for GuardNode {}

impl PartialOrd for GuardNode {
    fn partial_cmp(&self, other: &GuardNode) -> Option<Ordering> {
        self.input.partial_cmp(&other.input)
    }
}

impl Hash for GuardNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
    }
}

/// Makes [`GuardExec`]s of [`GuardNode`]s.
pub(super) struct GuardPlanner;

#[async_trait]
impl ExtensionPlanner for GuardPlanner {
    async fn plan_extension(
        &self,
        _planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        _session: &dyn Session,
        _context: &PhysicalPlanningContext,
    ) -> DfResult<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<GuardNode>() else { return Ok(None) };
        let [input] = physical_inputs else { return Err(external(Error::internal("a guard needs an input"))) };
        let names = |schema: &SchemaRef| schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
        if names(&input.schema()) != names(&arrow_schema(node.chain.input())) {
            return Err(external(Error::internal("the columns below a guard were changed")));
        }
        let (steps, words) = node.chain.compiled()?;
        let schema = if node.chain.has_projection() { arrow_schema(node.chain.schema()) } else { input.schema() };
        let steps = Arc::new(Guarded::new(steps, node.failing.clone()));
        let gathered = Arc::clone(&node.gathered);
        Ok(Some(Arc::new(GuardExec::new(Arc::clone(input), schema, steps, words, gathered))))
    }
}

/// A chain over the batches of its input.
struct GuardExec {
    input: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    steps: Arc<Guarded>,
    words: String,
    gathered: Arc<Gathered>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl GuardExec {
    fn new(
        input: Arc<dyn ExecutionPlan>,
        schema: SchemaRef,
        steps: Arc<Guarded>,
        words: String,
        gathered: Arc<Gathered>,
    ) -> GuardExec {
        let below = input.properties();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(below.partitioning.partition_count()),
            below.emission_type,
            below.boundedness,
        );
        let metrics = ExecutionPlanMetricsSet::new();
        GuardExec { input, schema, steps, words, gathered, properties: Arc::new(properties), metrics }
    }
}

impl ExecutionPlan for GuardExec {
    fn name(&self) -> &'static str {
        "GuardExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let input = children.pop().ok_or_else(|| external(Error::internal("a guard needs an input")))?;
        let (schema, steps) = (Arc::clone(&self.schema), Arc::clone(&self.steps));
        let (words, gathered) = (self.words.clone(), Arc::clone(&self.gathered));
        Ok(Arc::new(GuardExec::new(input, schema, steps, words, gathered)))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let (steps, gathered) = (Arc::clone(&self.steps), Arc::clone(&self.gathered));
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let evaluate = move |rows: DfResult<RecordBatch>| -> DfResult<Option<RecordBatch>> {
            let rows = rows?;
            let before = rows.num_rows();
            let evaluated = steps.run(Batch::inserts(rows))?;
            gathered.evaluated(before, evaluated.dead);
            let rows = evaluated.rows.map(|batch| batch.rows);
            metrics.record_output(rows.as_ref().map_or(0, RecordBatch::num_rows));
            Ok(rows)
        };
        let rows = self.input.execute(partition, context)?.filter_map(move |rows| ready(evaluate(rows).transpose()));
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows)))
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _args: &StatisticsArgs) -> DfResult<Arc<Statistics>> {
        let unknown = || Arc::new(Statistics::new_unknown(&self.schema));
        Ok(inputs.first().map_or_else(unknown, |input| estimate::of_some(input, &self.schema)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

impl DisplayAs for GuardExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuardExec: {}", self.words)
    }
}

impl fmt::Debug for GuardExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardExec").field("words", &self.words).finish_non_exhaustive()
    }
}
