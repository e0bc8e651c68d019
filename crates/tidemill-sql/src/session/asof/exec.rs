//! [`AsofExec`]: an ASOF JOIN over both sides in the order of keys and time, which DataFusion sorts and spills.
//!
//! **Invariant:** each side is read once, and of the right one only those batches are held that rows of the batch in hand
//! are matched with.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow::compute::{SortOptions, interleave_record_batch, take};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use arrow::row::{OwnedRow, RowConverter, Rows, SortField};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::Result as DfResult;
use datafusion::error::DataFusionError;
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, Operator, UserDefinedLogicalNode};
use datafusion::physical_expr::{LexOrdering, OrderingRequirements, PhysicalSortExpr};
use datafusion::physical_plan::{
    Distribution, ExecutionPlan, ExecutionPlanProperties, InputDistributionRequirements, PlanProperties,
};
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};
use futures::TryStreamExt;
use tidemill_model::Error;

use super::{AsofNode, asof_candidates};
use crate::session::dedup::DedupPlanner;
use crate::session::exec::{Exec, Execute, Inputs, as_below, column_of};
use crate::session::guarded::arrow_schema;

/// Makes the physical operators of [`AsofNode`]s.
#[derive(Debug)]
pub struct AsofPlanner;

#[async_trait]
impl ExtensionPlanner for AsofPlanner {
    async fn plan_extension(
        &self,
        _planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        _session: &dyn Session,
        _context: &PhysicalPlanningContext,
    ) -> DfResult<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<AsofNode>() else { return Ok(None) };
        let [left, right] = physical_inputs else {
            return Err(internal("an ASOF JOIN has two inputs"));
        };
        let schema = arrow_schema(datafusion::logical_expr::UserDefinedLogicalNodeCore::schema(node));
        let join = AsofExec {
            on: node.on.clone(),
            times: node.times,
            op: node.op,
            within: node.within,
            rest: AsofNode::rest(&right.schema()),
            schema,
            words: node.words(),
        };
        Ok(Some(Exec::plan(join, [Arc::clone(left), Arc::clone(right)])))
    }
}

/// DataFusion's planner of queries that have an ASOF JOIN or DEDUP.
#[derive(Debug)]
pub(in crate::session) struct Queries;

#[async_trait]
impl QueryPlanner for Queries {
    async fn create_physical_plan(&self, plan: &LogicalPlan, state: &dyn Session) -> DfResult<Arc<dyn ExecutionPlan>> {
        let planner =
            DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(AsofPlanner), Arc::new(DedupPlanner)]);
        planner.create_physical_plan(plan, state).await
    }
}

fn internal(message: &str) -> DataFusionError {
    DataFusionError::External(Box::new(Error::internal(message)))
}

/// What is joined how.
struct AsofExec {
    on: Vec<(usize, usize)>,
    times: (usize, usize),
    op: Operator,
    within: Option<i64>,
    /// The right columns that decide among rows of one time, the first first.
    rest: Vec<usize>,
    schema: SchemaRef,
    words: String,
}

const KEYS: SortOptions = SortOptions { descending: false, nulls_first: true };

impl AsofExec {
    /// Away from the row that is matched: the last one before it is the one.
    fn backwards(&self) -> bool {
        matches!(self.op, Operator::LtEq | Operator::Lt)
    }

    fn ordering_of(&self, side: &Arc<dyn ExecutionPlan>, right: bool) -> Option<OrderingRequirements> {
        let by = |column: usize, options: SortOptions| PhysicalSortExpr { expr: column_of(side, column), options };
        let keys = self.on.iter().map(|(l, r)| by(if right { *r } else { *l }, KEYS));
        let descending = self.backwards();
        let time = by(if right { self.times.1 } else { self.times.0 }, SortOptions { descending, nulls_first: true });
        // NULL is the greatest.
        let rest = SortOptions { descending, nulls_first: descending };
        let rest = self.rest.iter().filter(|_| right).map(|column| by(*column, rest));
        LexOrdering::new(keys.chain([time]).chain(rest)).map(OrderingRequirements::from)
    }
}

impl Execute<2> for AsofExec {
    const NAME: &'static str = "AsofExec";

    fn words(&self) -> String {
        self.words.clone()
    }

    fn output(&self, [left, _]: &Inputs<2>) -> PlanProperties {
        as_below(&self.schema, left)
    }

    fn distribution(&self, [left, right]: &Inputs<2>) -> InputDistributionRequirements {
        if self.on.is_empty() {
            return InputDistributionRequirements::new(vec![Distribution::SinglePartition; 2]);
        }
        let (left, right) = self.on.iter().map(|(l, r)| (column_of(left, *l), column_of(right, *r))).unzip();
        InputDistributionRequirements::co_partitioned(vec![
            Distribution::KeyPartitioned(left),
            Distribution::KeyPartitioned(right),
        ])
    }

    fn ordering(&self, [left, right]: &Inputs<2>) -> Vec<Option<OrderingRequirements>> {
        vec![self.ordering_of(left, false), self.ordering_of(right, true)]
    }

    fn execute(of: &Exec<Self, 2>, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let [left, right] = &of.inputs;
        let partitions = |plan: &Arc<dyn ExecutionPlan>| plan.output_partitioning().partition_count();
        if partitions(left) != partitions(right) {
            return Err(internal("the sides of an ASOF JOIN are divided differently"));
        }
        let fields = of.own.on.iter().map(|(key, _)| {
            let data_type = left.schema().field(*key).data_type().clone();
            SortField::new_with_options(data_type, KEYS)
        });
        let merge = Merge {
            left: left.execute(partition, Arc::clone(&context))?,
            right: right.execute(partition, context)?,
            converter: RowConverter::new(fields.collect())?,
            right_schema: right.schema(),
            join: Arc::clone(&of.own),
            current: None,
            row: 0,
            batches: 0,
            best: None,
        };
        Ok(of.rows(partition, futures::stream::try_unfold(merge, Merge::next)))
    }
}

/// A batch of a side, with its keys and times.
struct Side {
    batch: RecordBatch,
    number: usize,
    keys: Rows,
    /// Rows that have a NULL among their keys, or no time, match nothing.
    times: Vec<Option<i64>>,
}

/// The last row of the right side that came before the one in hand.
struct Best {
    batch: RecordBatch,
    number: usize,
    row: usize,
    /// `None` when all rows have the same key.
    key: Option<OwnedRow>,
    at: i64,
}

struct Merge {
    left: SendableRecordBatchStream,
    right: SendableRecordBatchStream,
    converter: RowConverter,
    right_schema: SchemaRef,
    join: Arc<AsofExec>,
    current: Option<Side>,
    /// The next row of it.
    row: usize,
    /// How many batches of the right side have come.
    batches: usize,
    best: Option<Best>,
}

/// The rows that a batch is matched with.
#[derive(Default)]
struct Matches {
    batches: Vec<RecordBatch>,
    /// The number of the last of them.
    last: Option<usize>,
    rows: Vec<(usize, usize)>,
    places: Vec<Option<u32>>,
}

impl Matches {
    fn add(&mut self, best: Option<&Best>) {
        let place = best.map(|best| {
            if self.last != Some(best.number) {
                self.batches.push(best.batch.clone());
                self.last = Some(best.number);
            }
            let row = (self.batches.len() - 1, best.row);
            if self.rows.last() != Some(&row) {
                self.rows.push(row);
            }
            (self.rows.len() - 1) as u32
        });
        self.places.push(place);
    }
}

impl Merge {
    fn side(&self, batch: RecordBatch, number: usize, right: bool) -> DfResult<Side> {
        let key = |(l, r): &(usize, usize)| Arc::clone(batch.column(if right { *r } else { *l }));
        let columns: Vec<ArrayRef> = self.join.on.iter().map(key).collect();
        let time = if right { self.join.times.1 } else { self.join.times.0 };
        let times = batch.column(time).as_primitive::<TimestampMicrosecondType>();
        let times =
            times.iter().enumerate().map(|(row, at)| at.filter(|_| columns.iter().all(|key| key.is_valid(row))));
        let times = times.collect();
        let keys = match columns.is_empty() {
            true => self.converter.empty_rows(0, 0),
            false => self.converter.convert_columns(&columns)?,
        };
        Ok(Side { number, keys, times, batch })
    }

    /// Makes sure that there is a row of the right side in hand; `false` at its end.
    async fn has_right(&mut self) -> DfResult<bool> {
        loop {
            if self.current.as_ref().is_some_and(|side| self.row < side.times.len()) {
                return Ok(true);
            }
            let Some(batch) = self.right.try_next().await? else {
                self.current = None;
                return Ok(false);
            };
            self.batches += 1;
            self.current = Some(self.side(batch, self.batches, true)?);
            self.row = 0;
        }
    }

    async fn next(mut self) -> DfResult<Option<(RecordBatch, Merge)>> {
        let Some(batch) = self.left.try_next().await? else { return Ok(None) };
        let left = self.side(batch, 0, false)?;
        let keyed = !self.join.on.is_empty();
        let mut matches = Matches::default();
        for (row, at) in left.times.iter().enumerate() {
            let Some(at) = *at else {
                matches.add(None);
                continue;
            };
            let (first, last) = asof_candidates(self.join.op, self.join.within, at);
            let backwards = self.join.backwards();
            while self.has_right().await? {
                let Some(right) = &self.current else { break };
                let ordering = if keyed { right.keys.row(self.row).cmp(&left.keys.row(row)) } else { Ordering::Equal };
                // Without a time a row is passed over.
                let passed = right.times[self.row].is_none_or(|at| if backwards { at >= first } else { at <= last });
                match ordering {
                    Ordering::Greater => break,
                    Ordering::Equal if !passed => break,
                    Ordering::Equal => {
                        if let Some(at) = right.times[self.row] {
                            let key = keyed.then(|| right.keys.row(self.row).owned());
                            let (batch, number) = (right.batch.clone(), right.number);
                            self.best = Some(Best { batch, number, row: self.row, key, at });
                        }
                    }
                    Ordering::Less => {}
                }
                self.row += 1;
            }
            let is_match = |best: &&Best| {
                (first..=last).contains(&best.at) && best.key.as_ref().is_none_or(|key| key.row() == left.keys.row(row))
            };
            matches.add(self.best.as_ref().filter(is_match));
        }
        let rows = self.together(&left.batch, matches)?;
        Ok(Some((rows, self)))
    }

    fn together(&self, left: &RecordBatch, matches: Matches) -> DfResult<RecordBatch> {
        let mut columns = left.columns().to_vec();
        if matches.rows.is_empty() {
            let fields = self.right_schema.fields().iter();
            columns.extend(fields.map(|field| new_null_array(field.data_type(), left.num_rows())));
        } else {
            let batches: Vec<&RecordBatch> = matches.batches.iter().collect();
            let right = interleave_record_batch(&batches, &matches.rows)?;
            let places = UInt32Array::from(matches.places);
            for column in right.columns() {
                columns.push(take(column, &places, None)?);
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(left.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.join.schema), columns, &options)?)
    }
}
