//! [`DeltaSource`]: a Delta table read as a stream, one finite split for each of its data files.
//!
//! **Invariant:** a row is read once. That holds while the table is only appended to; as soon as its log says that a
//! file was taken out (an update, a deletion, a compaction), the same row may lie in another file, and reading refuses
//! to go on.

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::prelude::SessionConfig;
use deltalake_core::DeltaTable;
use deltalake_core::delta_datafusion::{DeltaScanNext, DeltaSessionConfig, FileSelection};
use futures::{StreamExt, TryStreamExt};
use tidemill_model::{Error, Kind, Offset, Result, SplitId};
use tidemill_runtime::{
    Boundedness, DatasetSpec, Environment, Payload, Pull, ReadHints, Source, SourceBatch, Split, SplitReader,
};

use crate::blocking::{block_on, handle};
use crate::config::{DeltaConfig, Location};
use crate::problem::problem;
use crate::table::columns;
use crate::types::convert;

/// Rows in one batch.
const ROWS_AT_ONCE: usize = 8192;

/// A table that grows.
#[derive(Debug)]
pub(crate) struct DeltaSource {
    location: Location,
    event_time: Option<String>,
    seen: Mutex<Seen>,
}

/// What was found at the last listing.
#[derive(Debug, Default)]
struct Seen {
    table: Option<DeltaTable>,
    files: HashSet<String>,
    splits: Option<Vec<Split>>,
}

impl DeltaSource {
    /// Checks that the table exists.
    ///
    /// # Errors
    /// Config when it does not; Corrupt when it cannot be read.
    pub(crate) fn open(spec: &DatasetSpec, env: &Environment) -> Result<DeltaSource> {
        let location = DeltaConfig::of(spec, env)?.location;
        let at = location.clone();
        let table = block_on(async move { at.existing().await })?;
        let stored = columns(&table)?;
        for field in spec.schema.fields() {
            if stored.field_with_name(field.name()).is_err() {
                return Err(absent(&location, field.name()));
            }
        }
        let seen = Seen { table: Some(table), ..Seen::default() };
        Ok(DeltaSource { location, event_time: spec.event_time.clone(), seen: Mutex::new(seen) })
    }

    fn table(&self) -> Option<DeltaTable> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).table.clone()
    }
}

fn absent(location: &Location, name: &str) -> Error {
    Error::new(Kind::Config, "C227", format!("the Delta table {} has no column `{name}`", location.shown))
        .fact("declare only columns that the table has")
}

fn rewritten(location: &Location, file: &str) -> Error {
    Error::new(
        Kind::Config,
        "C228",
        format!(
            "the Delta table {} was rewritten (the file {file} was taken out), so it cannot be read as a stream",
            location.shown
        ),
    )
    .fact("a stream reads tables that are only appended to: read this one on a schedule, from its latest version")
}

impl Source for DeltaSource {
    fn boundedness(&self) -> Boundedness {
        Boundedness::Unbounded
    }

    fn list_splits(&self) -> Result<Vec<Split>> {
        let (known, listed) = {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            (seen.table.clone(), seen.splits.clone())
        };
        let (location, event_time) = (self.location.clone(), self.event_time.clone());
        let (table, splits) = block_on(async move {
            let mut table = match known {
                Some(table) => table,
                None => location.existing().await?,
            };
            let before = table.version();
            table.update_state().await.map_err(|error| problem(&location, "read", error))?;
            if let Some(listed) = listed.filter(|_| table.version() == before) {
                return Ok((table, listed));
            }
            only_appended(&location, &table).await?;
            let splits = splits(&table, event_time.as_deref()).map_err(|error| problem(&location, "read", error))?;
            Ok((table, splits))
        })?;
        let files: HashSet<String> = splits.iter().map(|split| split.id.as_str().to_owned()).collect();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gone) = seen.files.difference(&files).next() {
            return Err(rewritten(&self.location, gone));
        }
        *seen = Seen { table: Some(table), files, splits: Some(splits.clone()) };
        Ok(splits)
    }

    fn open(&self, split: &Split, resume: Option<&Offset>, hints: &ReadHints) -> Result<Box<dyn SplitReader>> {
        let read = match resume {
            None => 0,
            Some(offset) => offset.as_number().ok_or_else(|| {
                Error::new(
                    Kind::Corrupt,
                    "X215",
                    format!("`{offset}` is no position in a file of the Delta table {}", self.location.shown),
                )
            })?,
        };
        let table = self.table().ok_or_else(|| Error::internal("a split was opened before any was listed"))?;
        let schema = match &hints.schema {
            Some(schema) => Arc::clone(schema),
            None => columns(&table)?,
        };
        let batches = stream(&self.location, table, split.id.clone(), Arc::clone(&schema))?;
        Ok(Box::new(DeltaReader { batches, schema, skip: read, read, stop: u64::MAX }))
    }
}

/// Refuses a table whose log remembers a file that was taken out.
async fn only_appended(location: &Location, table: &DeltaTable) -> Result<()> {
    let state = table.snapshot().map_err(|error| problem(location, "read", error))?;
    let log = table.log_store();
    let gone = state.all_tombstones(log.as_ref()).try_next().await;
    match gone.map_err(|error| problem(location, "read the log of", error))? {
        Some(gone) => Err(rewritten(location, &gone.path())),
        None => Ok(()),
    }
}

/// The files of the table as splits.
fn splits(
    table: &DeltaTable,
    event_time: Option<&str>,
) -> std::result::Result<Vec<Split>, deltalake_core::DeltaTableError> {
    use datafusion::physical_optimizer::pruning::PruningStatistics;
    let log = table.snapshot()?.snapshot().log_data();
    let least = event_time.and_then(|name| log.min_values(&datafusion::common::Column::from_name(name)));
    let least = least.and_then(|times| convert(&times, &crate::types::instant()).ok());
    let mut splits = Vec::with_capacity(log.num_files());
    for (at, file) in log.iter().enumerate() {
        splits.push(Split {
            id: SplitId::new(file.path()),
            finite: true,
            min_event_time: least.as_ref().and_then(|times| micros(times, at)),
            max_event_time: None,
            bytes: u64::try_from(file.size()).ok(),
            content: None,
        });
    }
    splits.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(splits)
}

fn micros(times: &ArrayRef, at: usize) -> Option<i64> {
    use arrow::array::AsArray;
    use arrow::datatypes::TimestampMicrosecondType;
    let times = times.as_primitive_opt::<TimestampMicrosecondType>()?;
    (at < times.len() && times.is_valid(at)).then(|| times.value(at))
}

/// Reads one file on this crate's threads, two batches ahead; `None` is its end. A channel that closes without one has lost
/// its task, not reached the end.
fn stream(
    location: &Location,
    table: DeltaTable,
    file: SplitId,
    schema: SchemaRef,
) -> Result<Receiver<Result<Option<RecordBatch>>>> {
    let (send, receive) = sync_channel(2);
    let location = location.clone();
    handle()?.spawn(async move {
        let failed = match file_batches(&location, &table, &file, &schema).await {
            Err(error) => Err(error),
            Ok(mut batches) => loop {
                match batches.next().await {
                    None => break Ok(()),
                    Some(Err(error)) => break Err(problem(&location, "read", error.into())),
                    // Waiting for the reader must not keep a thread of the runtime from others.
                    Some(Ok(batch)) => {
                        let sent = tokio::task::block_in_place(|| send.send(selected(&batch, &schema).map(Some)));
                        if sent.is_err() {
                            break Ok(());
                        }
                    }
                }
            },
        };
        // A reader that is gone needs neither the end nor an error.
        let _ = tokio::task::block_in_place(|| send.send(failed.map(|()| None)));
    });
    Ok(receive)
}

async fn file_batches(
    location: &Location,
    table: &DeltaTable,
    file: &SplitId,
    schema: &Schema,
) -> Result<datafusion::execution::SendableRecordBatchStream> {
    let snapshot = table.snapshot().map_err(|error| problem(location, "read", error))?.snapshot().clone();
    // One partition, so that the rows come in the order of the file and a count of rows is a position.
    let config =
        SessionConfig::from(DeltaSessionConfig::default()).with_target_partitions(1).with_batch_size(ROWS_AT_ONCE);
    let session = datafusion::prelude::SessionContext::new_with_config(config).state();
    let read = |error: datafusion::error::DataFusionError| problem(location, "read", error.into());
    let provider = DeltaScanNext::builder()
        .with_eager_snapshot(snapshot)
        .with_log_store(table.log_store())
        .with_file_selection(FileSelection::from_file_paths([file.as_str()]))
        .await
        .map_err(read)?;
    let stored = provider.schema();
    let mut projection = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        projection.push(stored.index_of(field.name()).map_err(|_| absent(location, field.name()))?);
    }
    let plan = provider.scan(&session, Some(&projection), &[], None).await.map_err(read)?;
    datafusion::physical_plan::execute_stream(plan, session.task_ctx()).map_err(read)
}

/// The columns with the types that were asked for.
fn selected(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (column, field) in batch.columns().iter().zip(schema.fields()) {
        columns.push(convert(column, field.data_type()).map_err(|error| {
            Error::new(
                Kind::Data,
                "D223",
                format!("a value of column `{}` is no {}: {error}", field.name(), field.data_type()),
            )
        })?);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|error| Error::new(Kind::Data, "D224", format!("rows do not fit the declared columns: {error}")))
}

/// One file being read.
struct DeltaReader {
    batches: Receiver<Result<Option<RecordBatch>>>,
    schema: SchemaRef,
    /// Rows to leave out, read before.
    skip: u64,
    /// Rows given out, ever.
    read: u64,
    /// Rows to give out at most.
    stop: u64,
}

impl SplitReader for DeltaReader {
    fn next(&mut self) -> Result<Pull> {
        loop {
            if self.read >= self.stop {
                return Ok(Pull::Finished);
            }
            let lost = |_| Error::internal("the reading of a data file ended without its end");
            let Some(batch) = self.batches.recv().map_err(lost)?? else { return Ok(Pull::Finished) };
            let rows = batch.num_rows() as u64;
            if self.skip >= rows {
                self.skip -= rows;
                continue;
            }
            let skip = usize::try_from(self.skip).unwrap_or_default();
            let most = usize::try_from(self.stop - self.read).unwrap_or(usize::MAX);
            let batch = batch.slice(skip, (batch.num_rows() - skip).min(most));
            self.skip = 0;
            self.read += batch.num_rows() as u64;
            debug_assert_eq!(batch.schema_ref(), &self.schema);
            return Ok(Pull::Rows(SourceBatch {
                payload: Payload::Columns(batch),
                resume: Offset::number(self.read),
                arrived: None,
                first: None,
            }));
        }
    }

    fn bound_to_present(&mut self) -> Result<()> {
        Ok(())
    }

    fn stop_at(&mut self, offset: &Offset) -> Result<()> {
        self.stop = offset.as_number().ok_or_else(|| {
            Error::new(Kind::Corrupt, "X216", format!("`{offset}` is no position in a data file of a Delta table"))
                .fact("the table read from another connector when the position was recorded")
        })?;
        Ok(())
    }
}
