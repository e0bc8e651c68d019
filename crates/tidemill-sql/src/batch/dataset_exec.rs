//! [`DatasetExec`]: the physical scan of a dataset through its source contract.
//!
//! **Invariant:** the partitions of one scan together give every accepted row of every listed split once, whatever
//! their number.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DfResult, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use tidemill_model::{Error, Result};
use tidemill_runtime::{Intake, Needed, ReadHints, Source, Split};

use super::estimate;
use super::needed::Needing;
use super::readers::{Block, Readers};
use super::reading::{Reading, external};

/// Decoded batches that wait for whoever consumes a partition: enough to keep both busy, and bounded.
const WAITING_BATCHES: usize = 3;

/// The scan of a dataset.
pub(super) struct DatasetExec {
    reading: Reading,
    source: Arc<dyn Source>,
    splits: Vec<Split>,
    columns: Columns,
    needed: Option<Arc<Needing>>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
    /// The readers of each round: the first execution of each partition belongs to round 0, the second to round 1.
    rounds: Mutex<Rounds>,
}

#[derive(Default)]
struct Rounds {
    executed: Vec<usize>,
    readers: Vec<(u64, Arc<Readers>)>,
}

/// The columns of a scan at its stages.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    /// Decoded: what is wanted and what the gate judges by.
    pub(super) decoded: SchemaRef,
    /// After the gate: what is wanted, and the event time while the interval needs it.
    pub(super) accepted: SchemaRef,
    /// Given out.
    pub(super) output: SchemaRef,
}

impl Columns {
    /// The stages of a scan that gives out `output`.
    pub(super) fn new(reading: &Reading, output: SchemaRef) -> DfResult<Columns> {
        let with = |names: &[&str]| -> DfResult<SchemaRef> {
            let mut fields = output.fields().to_vec();
            for name in names.iter().filter(|name| output.index_of(name).is_err()) {
                if fields.iter().all(|field| field.name() != name) {
                    fields.push(Arc::new(reading.schema.field_with_name(name)?.clone()));
                }
            }
            Ok(Arc::new(Schema::new(fields)))
        };
        let time = reading.event_time.as_deref().filter(|_| reading.interval.is_some());
        let key = reading.changes.iter().flat_map(|changes| &changes.key).map(String::as_str);
        let mut kept: Vec<&str> = time.into_iter().chain(key).collect();
        let mut judged: Vec<&str> = reading.judged.iter().map(String::as_str).collect();
        judged.extend(reading.event_time.as_deref().filter(|time| !reading.judged.iter().any(|name| name == time)));
        // A decoder needs a column to know rows by.
        if output.fields().is_empty() && judged.is_empty() {
            judged.extend(reading.schema.fields().first().map(|field| field.name().as_str()));
        }
        if output.fields().is_empty() && reading.changes.is_some() {
            kept.extend(judged.first());
        }
        // Refusing NULL is the gate's business.
        let decoded = nullable(with(&judged)?.as_ref());
        let accepted = with(&kept)?;
        // A record that says that its key is gone has nothing else to say.
        let accepted = if kept.is_empty() || reading.changes.is_none() { accepted } else { nullable(&accepted) };
        Ok(Columns { decoded, accepted, output })
    }

    /// The accepted rows with the columns given out.
    pub(super) fn output(&self, rows: RecordBatch) -> Result<RecordBatch> {
        let wanted = self.output.fields().len();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let columns = rows.columns().iter().take(wanted).cloned().collect();
        RecordBatch::try_new_with_options(Arc::clone(&self.output), columns, &options)
            .map_err(|e| Error::internal("the gate let other columns through than were asked for").because(e))
    }
}

/// The same columns, each of which may be NULL.
fn nullable(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

impl DatasetExec {
    pub(super) fn new(
        reading: Reading,
        source: Arc<dyn Source>,
        splits: Vec<Split>,
        (columns, needed): (Columns, Option<Needing>),
        partitions: usize,
    ) -> DatasetExec {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&columns.output)),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let rounds = Rounds { executed: vec![0; partitions], readers: Vec::new() };
        DatasetExec {
            reading,
            source,
            splits,
            columns,
            needed: needed.map(Arc::new),
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
            rounds: Mutex::new(rounds),
        }
    }

    fn readers(&self, partition: usize) -> Option<(u64, Arc<Readers>)> {
        let mut rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        let round = *rounds.executed.get(partition)?;
        rounds.executed[partition] += 1;
        if rounds.readers.len() == round {
            let hints = ReadHints {
                schema: Some(Arc::clone(&self.columns.decoded)),
                interval: self.reading.interval,
                event_time: self.reading.event_time.clone(),
                needed: self.needed.clone().map(|needed| needed as Arc<dyn Needed>),
            };
            let readers = Readers::new(Arc::clone(&self.source), hints, self.splits.clone());
            rounds.readers.push((self.reading.gathered.new_scan(), Arc::new(readers)));
        }
        rounds.readers.get(round).cloned()
    }

    fn worker(&self, scan: u64) -> Result<Worker> {
        let reading = self.reading.clone();
        let decoder = reading.decoder.as_ref().map(|make| make(Arc::clone(&self.columns.decoded))).transpose()?;
        let gate = (reading.gate)(&self.columns.decoded, &self.columns.accepted)?;
        let intake = Intake::new(&reading.dataset, reading.event_time.as_deref(), decoder, gate);
        Ok(Worker { reading, intake, columns: self.columns.clone(), scan })
    }
}

/// What makes rows of blocks, for one partition.
struct Worker {
    reading: Reading,
    intake: Intake,
    columns: Columns,
    scan: u64,
}

impl Worker {
    fn rows(&mut self, block: Block) -> Result<RecordBatch> {
        self.reading.gathered.go_on()?;
        let taken = self.intake.take(&block.split, block.rows_before, block.payload)?;
        self.reading.gathered.add(self.scan, &self.reading, taken.counters, taken.dead);
        self.columns.output(self.reading.within(taken.rows.rows)?)
    }
}

impl ExecutionPlan for DatasetExec {
    fn name(&self) -> &'static str {
        "DatasetExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, _context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let missing = || external(Error::internal(format!("a scan has no partition {partition}")));
        let (scan, readers) = self.readers(partition).ok_or_else(missing)?;
        let mut worker = self.worker(scan).map_err(external)?;
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let context = format!("reading `{}`", self.reading.dataset);
        let mut stream = RecordBatchReceiverStreamBuilder::new(Arc::clone(&self.columns.output), WAITING_BATCHES);
        let sender = stream.tx();
        stream.spawn_blocking(move || {
            let failed = |e: Error| external(e.context(&context));
            while let Some(block) = readers.next().map_err(failed)? {
                let rows = worker.rows(block).map_err(failed)?;
                metrics.record_output(rows.num_rows());
                // Sending fails only when nobody wants more.
                if rows.num_rows() > 0 && sender.blocking_send(Ok(rows)).is_err() {
                    break;
                }
            }
            worker.reading.gathered.pass_over(readers.take_passed_over());
            Ok(())
        });
        Ok(stream.build())
    }

    fn statistics_from_inputs(&self, _inputs: &[Arc<Statistics>], args: &StatisticsArgs) -> DfResult<Arc<Statistics>> {
        let parts = args.partition().map_or(1, |_| self.properties.partitioning.partition_count());
        Ok(estimate::of_splits(&self.splits, &self.reading.schema, &self.columns.output, parts))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

impl DisplayAs for DatasetExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.columns.output.fields().iter().map(|field| field.name().as_str()).collect();
        write!(
            f,
            "DatasetExec: {}, columns=[{}], splits={}",
            self.reading.dataset,
            names.join(", "),
            self.splits.len()
        )?;
        if let Some(interval) = self.reading.interval {
            write!(f, ", interval={interval}")?;
        }
        match &self.needed {
            Some(needed) => write!(f, ", needed={}", needed.words()),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for DatasetExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatasetExec")
            .field("reading", &self.reading)
            .field("splits", &self.splits.len())
            .finish_non_exhaustive()
    }
}
