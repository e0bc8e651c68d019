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
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchemaRef, Result as DfResult};
use datafusion::execution::session_state::SessionState;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    Expr, Extension, Filter, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore,
};
use datafusion::physical_plan::statistics::ChildStats;
use datafusion::physical_plan::{ExecutionPlan, PlanProperties};
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};
use futures::StreamExt;
use futures::future::ready;
use tidemill_model::Error;
use tidemill_runtime::Batch;

use super::locality::times;
use super::reading::{Gathered, external};
use crate::language::{OnError, Project};
use crate::session::Meaning;
use crate::session::exec::{Exec, Execute, Inputs, as_below};
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
        let steps = Guarded::new(steps, node.failing.clone());
        let gathered = Arc::clone(&node.gathered);
        Ok(Some(Exec::plan(GuardExec { schema, steps, words, gathered }, [Arc::clone(input)])))
    }
}

/// A chain over the batches of its input.
struct GuardExec {
    schema: SchemaRef,
    steps: Guarded,
    words: String,
    gathered: Arc<Gathered>,
}

impl Execute<1> for GuardExec {
    const NAME: &'static str = "GuardExec";

    fn words(&self) -> String {
        self.words.clone()
    }

    fn output(&self, [input]: &Inputs<1>) -> PlanProperties {
        as_below(&self.schema, input)
    }

    fn asks(&self, partition: Option<usize>) -> ChildStats {
        ChildStats::At(partition)
    }

    fn execute(of: &Exec<Self, 1>, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let own = Arc::clone(&of.own);
        let evaluate = move |rows: DfResult<RecordBatch>| -> DfResult<Option<RecordBatch>> {
            let rows = rows?;
            let before = rows.num_rows();
            let evaluated = own.steps.run(Batch::inserts(rows))?;
            own.gathered.evaluated(before, evaluated.dead);
            Ok(evaluated.rows.map(|batch| batch.rows))
        };
        let [input] = &of.inputs;
        let rows = input.execute(partition, context)?.filter_map(move |rows| ready(evaluate(rows).transpose()));
        Ok(of.rows(partition, rows))
    }
}
