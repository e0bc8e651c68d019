//! [`DatasetExec`]: the physical scan of a dataset through its source contract.
//!
//! **Invariant:** the partitions of one scan together give every accepted row of every listed split once, whatever
//! their number.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{Result as DfResult, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::execution_plan::EmissionType;
use datafusion::physical_plan::metrics::BaselineMetrics;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{ExecutionPlan, PlanProperties};
use tidemill_model::{Error, Result};
use tidemill_runtime::{Intake, Needed, ReadHints, Source, Split};

use super::estimate;
use super::needed::Needing;
use super::readers::{Block, Readers};
use super::reading::{Reading, external};
use crate::session::exec::{Exec, Execute, Inputs, Rounds, scanned};

/// Decoded batches that wait for whoever consumes a partition: enough to keep both busy, and bounded.
const WAITING_BATCHES: usize = 3;

/// The scan of a dataset.
pub(super) struct DatasetExec {
    reading: Reading,
    source: Arc<dyn Source>,
    splits: Vec<Split>,
    columns: Columns,
    needed: Option<Arc<Needing>>,
    partitions: usize,
    /// The readers that all partitions take from, and the number of their scan.
    readers: Rounds<(u64, Arc<Readers>)>,
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
    pub(super) fn over(
        reading: Reading,
        source: Arc<dyn Source>,
        splits: Vec<Split>,
        (columns, needed): (Columns, Option<Needing>),
        partitions: usize,
    ) -> Arc<dyn ExecutionPlan> {
        let (needed, readers) = (needed.map(Arc::new), Rounds::default());
        Exec::plan(DatasetExec { reading, source, splits, columns, needed, partitions, readers }, [])
    }

    fn readers(&self) -> (u64, Arc<Readers>) {
        let hints = ReadHints {
            schema: Some(Arc::clone(&self.columns.decoded)),
            interval: self.reading.interval,
            event_time: self.reading.event_time.clone(),
            needed: self.needed.clone().map(|needed| needed as Arc<dyn Needed>),
        };
        let readers = Readers::new(Arc::clone(&self.source), hints, self.splits.clone());
        (self.reading.gathered.new_scan(), Arc::new(readers))
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

impl Execute<0> for DatasetExec {
    const NAME: &'static str = "DatasetExec";

    fn words(&self) -> String {
        let names: Vec<&str> = self.columns.output.fields().iter().map(|field| field.name().as_str()).collect();
        let (dataset, columns, splits) = (&self.reading.dataset, names.join(", "), self.splits.len());
        let interval = self.reading.interval.map(|interval| format!(", interval={interval}")).unwrap_or_default();
        let needed = self.needed.as_ref().map(|needed| format!(", needed={}", needed.words())).unwrap_or_default();
        format!("{dataset}, columns=[{columns}], splits={splits}{interval}{needed}")
    }

    fn output(&self, _inputs: &Inputs<0>) -> PlanProperties {
        scanned(&self.columns.output, self.partitions, EmissionType::Incremental)
    }

    fn about(&self, _inputs: &[Arc<Statistics>], partition: Option<usize>) -> Option<Arc<Statistics>> {
        let parts = partition.map_or(1, |_| self.partitions);
        Some(estimate::of_splits(&self.splits, &self.reading.schema, &self.columns.output, parts))
    }

    fn execute(of: &Exec<Self, 0>, partition: usize, _: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let own = &of.own;
        let (scan, readers) = own.readers.next(partition, own.partitions, || Ok(own.readers()))?;
        let mut worker = own.worker(scan).map_err(external)?;
        let metrics = BaselineMetrics::new(&of.metrics, partition);
        let context = format!("reading `{}`", own.reading.dataset);
        let mut stream = RecordBatchReceiverStreamBuilder::new(Arc::clone(&own.columns.output), WAITING_BATCHES);
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
            let Worker { reading, scan, .. } = &worker;
            reading.gathered.pass_over(*scan, reading, readers.take_passed_over());
            Ok(())
        });
        Ok(stream.build())
    }
}
