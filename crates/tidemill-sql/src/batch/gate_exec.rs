//! [`GateExec`]: the gate of a dataset above a scan that DataFusion does itself.
//!
//! **Invariant:** it sees every row of its input in the dataset's own columns; nothing above it is pushed below it.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use datafusion::common::Result as DfResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::statistics::ChildStats;
use datafusion::physical_plan::{ExecutionPlan, PlanProperties};
use futures::StreamExt;
use tidemill_model::{Error, Result, SplitId};
use tidemill_runtime::{Intake, Payload};

use super::dataset_exec::Columns;
use super::reading::{Reading, external};
use crate::session::exec::{Exec, Execute, Inputs, as_below};

/// The gate above a scan whose columns are those of [`Columns::decoded`], by name.
pub(super) struct GateExec {
    reading: Reading,
    columns: Columns,
    scan: u64,
}

impl GateExec {
    pub(super) fn over(reading: Reading, input: Arc<dyn ExecutionPlan>, columns: Columns) -> Arc<dyn ExecutionPlan> {
        let scan = reading.gathered.new_scan();
        Exec::plan(GateExec { reading, columns, scan }, [input])
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

impl Execute<1> for GateExec {
    const NAME: &'static str = "GateExec";

    fn words(&self) -> String {
        let interval = self.reading.interval.map(|interval| format!(", interval={interval}"));
        format!("{}{}", self.reading.dataset, interval.unwrap_or_default())
    }

    fn output(&self, [input]: &Inputs<1>) -> PlanProperties {
        as_below(&self.columns.output, input)
    }

    fn asks(&self, partition: Option<usize>) -> ChildStats {
        ChildStats::At(partition)
    }

    fn execute(of: &Exec<Self, 1>, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let GateExec { reading, columns, scan } = of.own.as_ref();
        let gate = (reading.gate)(&columns.decoded, &columns.accepted).map_err(external)?;
        let intake = Intake::new(&reading.dataset, reading.event_time.as_deref(), None, gate);
        let split = SplitId::new(format!("scan {partition}"));
        let (reading, columns) = (reading.clone(), columns.clone());
        let mut judge = Judge { reading, columns, intake, scan: *scan, split, rows_before: 0 };
        let [input] = &of.inputs;
        let rows = input.execute(partition, context)?.map(move |rows| {
            judge.rows(&rows?).map_err(|e| external(e.context(format!("reading `{}`", judge.reading.dataset))))
        });
        Ok(of.rows(partition, rows))
    }
}
