//! [`GateExec`]: the gate of a dataset above a scan that DataFusion does itself.
//!
//! **Invariant:** it sees every row of its input in the dataset's own columns; nothing above it is pushed below it.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DfResult, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::StreamExt;
use tidemill_model::{Error, Result, SplitId};
use tidemill_runtime::{Intake, Payload};

use super::dataset_exec::Columns;
use super::estimate;
use super::reading::{Reading, external};

/// The gate above a scan whose columns are those of [`Columns::decoded`], by name.
pub(super) struct GateExec {
    reading: Reading,
    input: Arc<dyn ExecutionPlan>,
    columns: Columns,
    scan: u64,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl GateExec {
    pub(super) fn new(reading: Reading, input: Arc<dyn ExecutionPlan>, columns: Columns) -> GateExec {
        let scan = reading.gathered.new_scan();
        GateExec::with_scan(reading, input, columns, scan)
    }

    fn with_scan(reading: Reading, input: Arc<dyn ExecutionPlan>, columns: Columns, scan: u64) -> GateExec {
        let below = input.properties();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&columns.output)),
            Partitioning::UnknownPartitioning(below.partitioning.partition_count()),
            below.emission_type,
            below.boundedness,
        );
        let metrics = ExecutionPlanMetricsSet::new();
        GateExec { reading, input, columns, scan, properties: Arc::new(properties), metrics }
    }
}

/// What judges the rows of one partition.
struct Judge {
    reading: Reading,
    columns: Columns,
    intake: Intake,
    scan: u64,
    split: SplitId,
    rows_before: u64,
}

impl Judge {
    fn rows(&mut self, rows: &RecordBatch) -> Result<RecordBatch> {
        self.reading.gathered.go_on()?;
        let rows = self.as_declared(rows)?;
        let rows_before = self.rows_before;
        self.rows_before += rows.num_rows() as u64;
        let taken = self.intake.take(&self.split, rows_before, Payload::Columns(rows))?;
        self.reading.gathered.add(self.scan, &self.reading, taken.counters, taken.dead);
        self.columns.output(self.reading.within(taken.rows.rows)?)
    }

    /// The rows in the columns that the dataset declares: a table may store text or time in another layout.
    fn as_declared(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let broken = |e: arrow::error::ArrowError| {
            Error::internal(format!("stored rows of {} do not have its columns", self.reading.dataset)).because(e)
        };
        let decoded = &self.columns.decoded;
        let columns = decoded.fields().iter().map(|field| {
            let stored = rows.column(rows.schema().index_of(field.name())?);
            if stored.data_type() == field.data_type() {
                Ok(Arc::clone(stored))
            } else {
                cast(stored, field.data_type())
            }
        });
        let columns = columns.collect::<Result<Vec<_>, _>>().map_err(broken)?;
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(decoded), columns, &options).map_err(broken)
    }
}

impl ExecutionPlan for GateExec {
    fn name(&self) -> &'static str {
        "GateExec"
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
        let Some(input) = children.pop() else {
            return Err(external(Error::internal("a gate needs an input")));
        };
        Ok(Arc::new(GateExec::with_scan(self.reading.clone(), input, self.columns.clone(), self.scan)))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let reading = self.reading.clone();
        let columns = self.columns.clone();
        let gate = (reading.gate)(&columns.decoded, &columns.accepted).map_err(external)?;
        let intake = Intake::new(&reading.dataset, reading.event_time.as_deref(), None, gate);
        let split = SplitId::new(format!("scan {partition}"));
        let output = Arc::clone(&columns.output);
        let mut judge = Judge { reading, columns, intake, scan: self.scan, split, rows_before: 0 };
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let rows = self.input.execute(partition, context)?.map(move |rows| {
            let judged =
                judge.rows(&rows?).map_err(|e| external(e.context(format!("reading `{}`", judge.reading.dataset))))?;
            metrics.record_output(judged.num_rows());
            Ok(judged)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(output, rows)))
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _args: &StatisticsArgs) -> DfResult<Arc<Statistics>> {
        let unknown = || Arc::new(Statistics::new_unknown(&self.columns.output));
        Ok(inputs.first().map_or_else(unknown, |input| estimate::of_some(input, &self.columns.output)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

impl DisplayAs for GateExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GateExec: {}", self.reading.dataset)?;
        match self.reading.interval {
            Some(interval) => write!(f, ", interval={interval}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for GateExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GateExec").field("reading", &self.reading).finish_non_exhaustive()
    }
}
