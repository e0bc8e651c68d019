//! [`append`] and [`replace`]: staged rows into the table in one commit, as streams.
//!
//! **Invariant:** rows go from the staged files to the writer batch by batch; memory does not follow the epoch's size.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::{Column, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::utils::{conjunction, disjunction};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use deltalake_core::kernel::transaction::CommitProperties;
use deltalake_core::operations::optimize::OptimizeType;
use deltalake_core::operations::write::WriteBuilder;
use deltalake_core::protocol::SaveMode;
use deltalake_core::{DeltaTable, DeltaTableError};
use futures::stream;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use tidemill_model::{Error, Interval, Kind};
use tidemill_runtime::{TablePart, WriteMode};

use crate::commit::Failed;
use crate::sink::Target;
use crate::stage::Staged;
use crate::table::columns;

/// Rows given to the Parquet encoder at once, between two looks at the size of the file.
pub(crate) const ROWS_AT_ONCE: usize = 16_384;

/// How data files are written: as the format's defaults say, but without dictionaries for columns whose values hardly
/// repeat, where building one is a quarter of the work and the file grows no smaller.
pub(crate) fn file_properties(schema: &Schema, mode: &WriteMode) -> WriterProperties {
    let key: &[String] = match mode {
        WriteMode::Upsert { key, .. } => key,
        _ => &[],
    };
    let properties = WriterProperties::builder()
        .set_created_by(concat!("tidemill ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::SNAPPY);
    let varied = schema.fields().iter().filter(|field| {
        let whole = matches!(key, [name] if name == field.name());
        whole || field.data_type().is_floating() || matches!(field.data_type(), DataType::Timestamp(_, _))
    });
    varied
        .fold(properties, |properties, field| {
            properties.set_column_dictionary_enabled(ColumnPath::from(field.name().as_str()), false)
        })
        .build()
}

/// Adds the rows.
pub(crate) async fn append(
    target: &Target,
    table: &DeltaTable,
    staged: &[Staged],
    properties: CommitProperties,
) -> Result<DeltaTable, Failed> {
    let fault = Fault::default();
    let plan = rows(target, staged, &fault)?;
    let written = writer(target, table, plan, properties)?.with_save_mode(SaveMode::Append).await;
    written.map_err(|error| fault.or(error))
}

/// Puts the rows in the place of all rows of a part, of those whose `column` lies in the interval when one is given.
pub(crate) async fn replace(
    target: &Target,
    table: &DeltaTable,
    staged: &[Staged],
    (time, part): (Option<(&str, Interval)>, &TablePart),
    properties: CommitProperties,
) -> Result<DeltaTable, Failed> {
    let stored = columns(table)?;
    let type_of = |column: &str| {
        stored.field_with_name(column).map(Field::data_type).map_err(|error| Error::internal(error.to_string()))
    };
    let mut conditions = Vec::new();
    if let Some((column, interval)) = time {
        conditions.push(within(column, type_of(column)?, interval)?);
    }
    for (column, values) in part.columns() {
        conditions.push(one_of(column, type_of(column)?, values)?);
    }
    let fault = Fault::default();
    let plan = rows(target, staged, &fault)?;
    let writer = writer(target, table, plan, properties)?.with_save_mode(SaveMode::Overwrite);
    // Without a condition every file goes as it is; with one that is always true the library would read them all.
    let written = match conjunction(conditions) {
        Some(condition) => writer.with_replace_where(condition).await,
        None => writer.await,
    };
    written.map_err(|error| fault.or(error))
}

/// `column` is one of these values, or NULL where that is one of them, in the column's own type.
fn one_of(column: &str, data_type: &DataType, values: &BTreeSet<Option<String>>) -> Result<Expr, Error> {
    let name = || Expr::Column(Column::from_name(column));
    let mut any = Vec::new();
    for value in values {
        any.push(match value {
            None => name().is_null(),
            Some(text) => {
                let value = ScalarValue::try_from_string(text.clone(), data_type).map_err(|error| {
                    Error::new(
                        Kind::Config,
                        "C229",
                        format!("`{text}` is no value of the column `{column}`, which is {data_type}"),
                    )
                    .fact("correct REPLACE WHERE")
                    .because(error)
                })?;
                name().eq(lit(value))
            }
        });
    }
    Ok(disjunction(any).unwrap_or_else(|| lit(false)))
}

/// Joins small files. The table's rows stay the same, so a failure is no reason to fail anything: the next time will do.
pub(crate) async fn compact(target: &Target, table: DeltaTable) -> DeltaTable {
    let compacted = table
        .clone()
        .optimize()
        .with_type(OptimizeType::Compact)
        .with_target_size(target.file_size)
        .with_writer_properties(file_properties(&target.stored, &target.mode))
        .await;
    compacted.map_or(table, |(compacted, _)| compacted)
}

fn writer(
    target: &Target,
    table: &DeltaTable,
    plan: LogicalPlan,
    properties: CommitProperties,
) -> Result<WriteBuilder, Failed> {
    let snapshot = table.snapshot()?.snapshot().clone();
    Ok(WriteBuilder::new(table.log_store(), Some(snapshot))
        .with_input_plan(plan)
        .with_target_file_size(Some(target.file_size))
        .with_write_batch_size(ROWS_AT_ONCE)
        .with_writer_properties(file_properties(&target.stored, &target.mode))
        .with_commit_properties(properties))
}

/// `column >= start AND column < end`, in the column's own type so that file statistics apply.
fn within(column: &str, data_type: &DataType, interval: Interval) -> Result<Expr, Error> {
    const DAY: i64 = 86_400_000_000;
    let bound = |micros: i64| match data_type {
        DataType::Timestamp(_, zone) => Ok(ScalarValue::TimestampMicrosecond(Some(micros), zone.clone())),
        // A date is the instant at which its day begins, so a bound within a day begins with the next one.
        DataType::Date32 => {
            let day = micros.div_euclid(DAY) + i64::from(micros.rem_euclid(DAY) != 0);
            i32::try_from(day)
                .map(|day| ScalarValue::Date32(Some(day)))
                .map_err(|_| Error::internal("a day out of range"))
        }
        other => Err(Error::internal(format!("an interval over a column of type {other}"))),
    };
    let column = || Expr::Column(Column::from_name(column));
    Ok(column().gt_eq(lit(bound(interval.start.0)?)).and(column().lt(lit(bound(interval.end.0)?))))
}

/// The error of a stream of ours, kept beside the plan because the library keeps only its text.
#[derive(Debug, Clone, Default)]
struct Fault(Arc<Mutex<Option<Error>>>);

impl Fault {
    fn set(&self, error: Error) -> DataFusionError {
        let text = error.to_string();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        DataFusionError::Execution(text)
    }

    /// Our error if there is one, else the library's.
    fn or(&self, error: DeltaTableError) -> Failed {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(ours) => Failed::Ours(ours),
            None => Failed::Theirs(error),
        }
    }
}

/// A plan that reads the staged rows.
fn rows(target: &Target, staged: &[Staged], fault: &Fault) -> Result<LogicalPlan, Failed> {
    let partitions = staged
        .iter()
        .map(|file| {
            Arc::new(StagedPartition {
                staged: file.clone(),
                folder: target.staging.clone(),
                schema: Arc::clone(&target.staged),
                fault: fault.clone(),
            }) as Arc<dyn PartitionStream>
        })
        .collect::<Vec<_>>();
    let partitions =
        if partitions.is_empty() { vec![Arc::new(NoRows(Arc::clone(&target.staged))) as _] } else { partitions };
    let source = StreamingTable::try_new(Arc::clone(&target.staged), partitions)?;
    Ok(LogicalPlanBuilder::scan("staged", provider_as_source(Arc::new(source)), None)?.build()?)
}

/// One staged file as a partition of a plan.
#[derive(Debug)]
struct StagedPartition {
    staged: Staged,
    folder: PathBuf,
    schema: SchemaRef,
    fault: Fault,
}

impl PartitionStream for StagedPartition {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let fault = self.fault.clone();
        let batches: Box<dyn Iterator<Item = _> + Send> = match self.staged.open(&self.folder) {
            Ok(rows) => Box::new(rows.map(move |batch| batch.map_err(|error| fault.set(error)))),
            Err(error) => Box::new(std::iter::once(Err(fault.set(error)))),
        };
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream::iter(batches)))
    }
}

/// The partition of a run without rows.
#[derive(Debug)]
struct NoRows(SchemaRef);

impl PartitionStream for NoRows {
    fn schema(&self) -> &SchemaRef {
        &self.0
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.0), stream::empty()))
    }
}
