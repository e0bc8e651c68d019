//! [`DedupExec`]: DEDUP over rows in the order of key, time and rest, which DataFusion sorts and spills.
//!
//! **Invariant:** one pass; of what came before it knows the key in hand and the time of its last row that stays.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{SortOptions, filter_record_batch};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::row::{OwnedRow, RowConverter, SortField};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{
    EquivalenceProperties, LexOrdering, OrderingRequirements, PhysicalExpr, PhysicalSortExpr,
};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties, InputDistributionRequirements,
    Partitioning, PlanProperties,
};
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};
use futures::TryStreamExt;

use super::DedupNode;

/// Makes the physical operators of [`DedupNode`]s.
#[derive(Debug)]
pub struct DedupPlanner;

#[async_trait]
impl ExtensionPlanner for DedupPlanner {
    async fn plan_extension(
        &self,
        _planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        _session: &dyn Session,
        _context: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<DedupNode>() else { return Ok(None) };
        let [input] = physical_inputs else { return internal_err!("DEDUP has one input") };
        let rest = DedupNode::rest(&input.schema(), &node.keys, node.time);
        let (time, ttl, keys) = (node.time, node.ttl, node.keys.clone());
        let lives = Lives { time, ttl, keys, rest, words: node.words() };
        Ok(Some(Arc::new(DedupExec::new(Arc::clone(input), Arc::new(lives)))))
    }
}

/// Which rows stay.
struct Lives {
    time: usize,
    ttl: i64,
    keys: Vec<usize>,
    rest: Vec<usize>,
    words: String,
}

struct DedupExec {
    input: Arc<dyn ExecutionPlan>,
    lives: Arc<Lives>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl DedupExec {
    fn new(input: Arc<dyn ExecutionPlan>, lives: Arc<Lives>) -> DedupExec {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        DedupExec { input, lives, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() }
    }

    fn column(&self, at: usize) -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(self.input.schema().field(at).name(), at))
    }
}

impl ExecutionPlan for DedupExec {
    fn name(&self) -> &'static str {
        "DedupExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        self.input_distribution_requirements().into_per_child()
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        let keys = self.lives.keys.iter().map(|key| self.column(*key)).collect();
        InputDistributionRequirements::new(vec![Distribution::KeyPartitioned(keys)])
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        let last = SortOptions { descending: false, nulls_first: false };
        let columns = self.lives.keys.iter().chain([&self.lives.time]).chain(&self.lives.rest);
        let by = columns.map(|column| PhysicalSortExpr { expr: self.column(*column), options: last });
        vec![LexOrdering::new(by).map(OrderingRequirements::from)]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(input) = children.pop() else { return internal_err!("DEDUP has one input") };
        Ok(Arc::new(DedupExec::new(input, Arc::clone(&self.lives))))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let schema = self.input.schema();
        let fields = self.lives.keys.iter().map(|key| SortField::new(schema.field(*key).data_type().clone()));
        let pass = Pass {
            input: self.input.execute(partition, context)?,
            converter: RowConverter::new(fields.collect())?,
            lives: Arc::clone(&self.lives),
            last: None,
            metrics: BaselineMetrics::new(&self.metrics, partition),
        };
        let rows = futures::stream::try_unfold(pass, |mut pass| async move {
            let rows = pass.next().await?;
            Ok(rows.map(|rows| (rows, pass)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

struct Pass {
    input: SendableRecordBatchStream,
    converter: RowConverter,
    lives: Arc<Lives>,
    /// The key of the last row that stays, and its time.
    last: Option<(OwnedRow, i64)>,
    metrics: BaselineMetrics,
}

impl Pass {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let Some(batch) = self.input.try_next().await? else { return Ok(None) };
        let keys: Vec<ArrayRef> = self.lives.keys.iter().map(|key| Arc::clone(batch.column(*key))).collect();
        let keys = self.converter.convert_columns(&keys)?;
        let times = batch.column(self.lives.time).as_primitive::<TimestampMicrosecondType>();
        let mut stays = Vec::with_capacity(batch.num_rows());
        for (row, key) in keys.iter().enumerate() {
            let at = times.value(row);
            let lives = |(of, since): &(OwnedRow, i64)| of.row() == key && at < since.saturating_add(self.lives.ttl);
            let new = times.is_valid(row) && !self.last.as_ref().is_some_and(lives);
            if new {
                self.last = Some((key.owned(), at));
            }
            stays.push(new);
        }
        let rows = filter_record_batch(&batch, &BooleanArray::from(stays))?;
        self.metrics.record_output(rows.num_rows());
        Ok(Some(rows))
    }
}

impl DisplayAs for DedupExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DedupExec: {}", self.lives.words)
    }
}

impl fmt::Debug for DedupExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DedupExec").field("words", &self.lives.words).finish_non_exhaustive()
    }
}
