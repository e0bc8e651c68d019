//! [`DedupExec`]: DEDUP over rows in the order of key, time and rest, which DataFusion sorts and spills.
//!
//! **Invariant:** one pass; of what came before it knows the key in hand and the time of its last row that stays.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{SortOptions, filter_record_batch};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::row::{OwnedRow, RowConverter, SortField};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_expr::{LexOrdering, OrderingRequirements, PhysicalSortExpr};
use datafusion::physical_plan::{Distribution, ExecutionPlan, InputDistributionRequirements, PlanProperties};
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};
use futures::TryStreamExt;

use super::DedupNode;
use crate::session::exec::{Exec, Execute, Inputs, as_below, column_of};

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
        let dedup = DedupExec { time, ttl, keys, rest, words: node.words() };
        Ok(Some(Exec::plan(dedup, [Arc::clone(input)])))
    }
}

/// Which rows stay.
struct DedupExec {
    time: usize,
    ttl: i64,
    keys: Vec<usize>,
    rest: Vec<usize>,
    words: String,
}

impl Execute<1> for DedupExec {
    const NAME: &'static str = "DedupExec";
    const KEEPS_ORDER: bool = true;

    fn words(&self) -> String {
        self.words.clone()
    }

    fn output(&self, [input]: &Inputs<1>) -> PlanProperties {
        as_below(&input.schema(), input)
    }

    fn distribution(&self, [input]: &Inputs<1>) -> InputDistributionRequirements {
        let keys = self.keys.iter().map(|key| column_of(input, *key)).collect();
        InputDistributionRequirements::new(vec![Distribution::KeyPartitioned(keys)])
    }

    fn ordering(&self, [input]: &Inputs<1>) -> Vec<Option<OrderingRequirements>> {
        let last = SortOptions { descending: false, nulls_first: false };
        let columns = self.keys.iter().chain([&self.time]).chain(&self.rest);
        let by = columns.map(|column| PhysicalSortExpr { expr: column_of(input, *column), options: last });
        vec![LexOrdering::new(by).map(OrderingRequirements::from)]
    }

    fn execute(of: &Exec<Self, 1>, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let [input] = &of.inputs;
        let schema = input.schema();
        let fields = of.own.keys.iter().map(|key| SortField::new(schema.field(*key).data_type().clone()));
        let pass = Pass {
            input: input.execute(partition, context)?,
            converter: RowConverter::new(fields.collect())?,
            of: Arc::clone(&of.own),
            last: None,
        };
        Ok(of.rows(partition, futures::stream::try_unfold(pass, Pass::next)))
    }
}

struct Pass {
    input: SendableRecordBatchStream,
    converter: RowConverter,
    of: Arc<DedupExec>,
    /// The key of the last row that stays, and its time.
    last: Option<(OwnedRow, i64)>,
}

impl Pass {
    async fn next(mut self) -> Result<Option<(RecordBatch, Pass)>> {
        let Some(batch) = self.input.try_next().await? else { return Ok(None) };
        let keys: Vec<ArrayRef> = self.of.keys.iter().map(|key| Arc::clone(batch.column(*key))).collect();
        let keys = self.converter.convert_columns(&keys)?;
        let times = batch.column(self.of.time).as_primitive::<TimestampMicrosecondType>();
        let mut stays = Vec::with_capacity(batch.num_rows());
        for (row, key) in keys.iter().enumerate() {
            let at = times.value(row);
            let lives = |(of, since): &(OwnedRow, i64)| of.row() == key && at < since.saturating_add(self.of.ttl);
            let new = times.is_valid(row) && !self.last.as_ref().is_some_and(lives);
            if new {
                self.last = Some((key.owned(), at));
            }
            stays.push(new);
        }
        let rows = filter_record_batch(&batch, &BooleanArray::from(stays))?;
        Ok(Some((rows, self)))
    }
}
