//! [`FoldExec`]: the scan of a changelog: its records from first to last, and then the rows that stand.
//!
//! **Invariant:** what it gives is what a stream's changes add up to after the same records; the records of a split are
//! read in their order.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use datafusion::common::Result as DfResult;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::execution_plan::EmissionType;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{ExecutionPlan, PlanProperties};
use tidemill_model::{Error, Kind, Result};
use tidemill_runtime::{Batch, Intake, ReadHints, Source, Split};

use super::dataset_exec::Columns;
use super::readers::Readers;
use super::reading::{Reading, external};
use crate::catalog::Changes;
use crate::session::exec::{Exec, Execute, Inputs, scanned};

/// How many rows are given out at a time.
const ROWS: usize = 8192;
/// What a row that is kept costs beside its bytes.
const OVERHEAD: usize = 96;

/// The scan.
pub(super) struct FoldExec {
    reading: Reading,
    changes: Changes,
    source: Arc<dyn Source>,
    splits: Vec<Split>,
    columns: Columns,
}

impl FoldExec {
    pub(super) fn over(
        (reading, changes): (Reading, Changes),
        source: Arc<dyn Source>,
        splits: Vec<Split>,
        columns: Columns,
    ) -> Arc<dyn ExecutionPlan> {
        Exec::plan(FoldExec { reading, changes, source, splits, columns }, [])
    }

    fn worker(&self, memory: MemoryReservation) -> Result<Worker> {
        let (reading, columns) = (self.reading.clone(), self.columns.clone());
        let decoder = reading.decoder.as_ref().map(|make| make(Arc::clone(&columns.decoded))).transpose()?;
        let gate = (reading.gate)(&columns.decoded, &columns.accepted)?;
        let intake = Intake::new(&reading.dataset, reading.event_time.as_deref(), decoder, gate);
        // Any record may be the last of a row of the interval.
        let hints = ReadHints {
            schema: Some(Arc::clone(&columns.decoded)),
            interval: None,
            event_time: reading.event_time.clone(),
            needed: None,
        };
        let readers = Readers::new(Arc::clone(&self.source), hints, self.splits.clone());
        let folded = Folded::new(&columns.accepted, &self.changes).map_err(|e| unkept(&reading, e))?;
        let scan = reading.gathered.new_scan();
        Ok(Worker { reading, columns, intake, readers, folded, memory, scan })
    }
}

fn unkept(reading: &Reading, error: ArrowError) -> Error {
    Error::internal(format!("rows of `{}` cannot be kept", reading.dataset)).because(error)
}

struct Worker {
    reading: Reading,
    columns: Columns,
    intake: Intake,
    readers: Readers,
    folded: Folded,
    memory: MemoryReservation,
    scan: u64,
}

impl Worker {
    /// Reads every record.
    fn fold(&mut self) -> DfResult<()> {
        let context = format!("reading `{}`", self.reading.dataset);
        let failed = |e: Error| external(e.context(&context));
        while let Some(block) = self.readers.next().map_err(failed)? {
            self.reading.gathered.go_on().map_err(failed)?;
            let taken = self.intake.take(&block.split, block.rows_before, block.payload).map_err(failed)?;
            self.reading.gathered.add(self.scan, &self.reading, taken.counters, taken.dead);
            self.folded.follow(&taken.rows).map_err(|e| failed(unkept(&self.reading, e)))?;
            self.memory.try_resize(self.folded.bytes)?;
        }
        self.folded.is_whole(&self.reading.dataset).map_err(failed)
    }

    /// The rows that stand, some at a time.
    fn rows(&self) -> impl Iterator<Item = Result<RecordBatch>> {
        let parts = self.folded.parts().map(|rows| rows.map_err(|e| unkept(&self.reading, e)));
        parts.map(|rows| self.columns.output(self.reading.within(rows?)?))
    }
}

/// A row, where a key stands for it, and how often it is there.
type Standing = (Box<[u8]>, i64);

/// Rows that stand.
struct Folded {
    schema: SchemaRef,
    /// The columns of the key; none when rows are told apart as wholes.
    key: Vec<usize>,
    keys: RowConverter,
    wholes: RowConverter,
    /// By key, or by the row as a whole.
    rows: BTreeMap<Box<[u8]>, Standing>,
    bytes: usize,
}

impl Folded {
    fn new(schema: &SchemaRef, changes: &Changes) -> Result<Folded, ArrowError> {
        let key = changes.key.iter().map(|name| schema.index_of(name)).collect::<Result<Vec<usize>, _>>()?;
        let converter = |columns: &mut dyn Iterator<Item = usize>| {
            RowConverter::new(columns.map(|at| SortField::new(schema.field(at).data_type().clone())).collect())
        };
        let (keys, wholes) = (converter(&mut key.iter().copied())?, converter(&mut (0..schema.fields().len()))?);
        Ok(Folded { schema: Arc::clone(schema), key, keys, wholes, rows: BTreeMap::new(), bytes: 0 })
    }

    fn follow(&mut self, batch: &Batch) -> Result<(), ArrowError> {
        let wholes = self.wholes.convert_columns(batch.rows.columns())?;
        let keys: Vec<ArrayRef> = self.key.iter().map(|at| Arc::clone(batch.rows.column(*at))).collect();
        let keys = if keys.is_empty() { None } else { Some(self.keys.convert_columns(&keys)?) };
        for row in 0..batch.len() {
            let weight = batch.weights.as_ref().map_or(1, |weights| weights.value(row));
            let whole = wholes.row(row);
            match &keys {
                Some(keys) => {
                    let key: Box<[u8]> = keys.row(row).data().into();
                    let more = key.len() + whole.data().len() + OVERHEAD;
                    let length = key.len();
                    let before = match weight > 0 {
                        true => {
                            self.bytes += more;
                            self.rows.insert(key, (whole.data().into(), 1))
                        }
                        false => self.rows.remove(&key),
                    };
                    self.bytes -= before.map_or(0, |(row, _)| length + row.len() + OVERHEAD);
                }
                None => {
                    let standing = self.rows.entry(whole.data().into()).or_insert_with(|| {
                        self.bytes += whole.data().len() + OVERHEAD;
                        (Box::default(), 0)
                    });
                    standing.1 += weight;
                    if standing.1 == 0 {
                        self.rows.remove(whole.data());
                        self.bytes -= whole.data().len() + OVERHEAD;
                    }
                }
            }
        }
        Ok(())
    }

    /// Refuses rows that were taken back more often than they came.
    fn is_whole(&self, dataset: &str) -> Result<()> {
        if self.rows.values().all(|(_, times)| *times > 0) {
            return Ok(());
        }
        Err(taken_back(dataset))
    }

    fn parts(&self) -> impl Iterator<Item = Result<RecordBatch, ArrowError>> {
        let parser = self.wholes.parser();
        let mut all = self.rows.iter().flat_map(|(key, (row, times))| {
            let whole = if self.key.is_empty() { key } else { row };
            std::iter::repeat_n(whole, usize::try_from(*times).unwrap_or(0))
        });
        std::iter::from_fn(move || {
            let part: Vec<_> = all.by_ref().take(ROWS).map(|row| parser.parse(row)).collect();
            if part.is_empty() {
                return None;
            }
            let columns = self.wholes.convert_rows(part);
            Some(columns.and_then(|columns| RecordBatch::try_new(Arc::clone(&self.schema), columns)))
        })
    }
}

/// The error of rows that go and never came.
fn taken_back(dataset: &str) -> Error {
    Error::new(Kind::Data, "D160", format!("a change of `{dataset}` takes back a row that never came"))
        .fact("without a PRIMARY KEY the `before` of each change has to be the row as it was, and the first change its insert")
        .fact("declare a PRIMARY KEY if a key tells its rows apart: then the last record of a key counts")
}

impl Execute<0> for FoldExec {
    const NAME: &'static str = "FoldExec";

    fn words(&self) -> String {
        format!("{}, splits={}", self.reading.dataset, self.splits.len())
    }

    fn output(&self, _inputs: &Inputs<0>) -> PlanProperties {
        scanned(&self.columns.output, 1, EmissionType::Final)
    }

    fn execute(of: &Exec<Self, 0>, _: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let own = &of.own;
        let name = format!("the rows of `{}` that stand", own.reading.dataset);
        let memory = MemoryConsumer::new(name).register(context.memory_pool());
        let mut worker = own.worker(memory).map_err(external)?;
        let mut stream = RecordBatchReceiverStreamBuilder::new(Arc::clone(&own.columns.output), 2);
        let sender = stream.tx();
        stream.spawn_blocking(move || {
            worker.fold()?;
            for rows in worker.rows() {
                let rows = rows.map_err(external)?;
                // Sending fails only when nobody wants more.
                if rows.num_rows() > 0 && sender.blocking_send(Ok(rows)).is_err() {
                    break;
                }
            }
            Ok(())
        });
        Ok(stream.build())
    }
}
