//! [`DeltaSink`]: lanes stage rows on this machine, one committer puts an epoch into the table.
//!
//! **Invariant:** a lane writes only to the staging folder; the table is touched by the committer alone.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_model::{Clock, Epoch, Error, Interval, Kind, Result};
use tidemill_runtime::{
    Batch, Committable, DatasetSpec, Environment, Rewrites, Sink, SinkCommitter, SinkTarget, SinkWriter, TablePart,
    WriteMode,
};

use crate::blocking::block_on;
use crate::commit::{DeltaCommitter, progress};
use crate::config::DeltaConfig;
use crate::rewrites::rewrites;
use crate::stage::{StageFile, Staged};
use crate::table::{columns, same_partitions};
use crate::types::{fits, store, stored_schema};

/// The column of staged changes that says how often a row is added (or, negative, taken away).
pub(crate) const WEIGHT: &str = "__tidemill_weight";

/// The size of data files where rows are only added.
const FILE: u64 = 128 << 20;
/// The size where rows are merged: smaller, because one row that goes makes its whole file be copied.
const MERGED_FILE: u64 = 32 << 20;

/// What is written where, fixed when the sink opens.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) config: DeltaConfig,
    pub(crate) name: String,
    /// The identity of the progress kept in the table.
    pub(crate) app_id: String,
    /// The columns of the query, as they come.
    pub(crate) columns: SchemaRef,
    /// The same columns as they are staged.
    pub(crate) stored: SchemaRef,
    /// `stored`, with the weight for changes.
    pub(crate) staged: SchemaRef,
    pub(crate) mode: WriteMode,
    pub(crate) interval: Option<Interval>,
    pub(crate) staging: PathBuf,
    pub(crate) clock: Arc<dyn Clock>,
    /// About how large a data file becomes.
    pub(crate) file_size: NonZeroU64,
    /// Positions of the key columns, for changes.
    key: Vec<usize>,
}

/// A Delta table as a target.
#[derive(Debug)]
pub(crate) struct DeltaSink {
    target: Arc<Target>,
}

impl DeltaSink {
    /// Checks the target against the table, if there is one; writes nothing.
    ///
    /// # Errors
    /// Config: the columns, the partitions or the write mode do not fit; Corrupt: the table cannot be read.
    pub(crate) fn open(spec: &DatasetSpec, target: &SinkTarget, env: &Environment) -> Result<DeltaSink> {
        let config = DeltaConfig::of(spec, env)?;
        let location = config.location.clone();
        let table = block_on(async move { location.load().await })?;
        let stored = match &table {
            Some(table) => {
                same_partitions(&config, table)?;
                fits(&config.location.shown, &target.schema, columns(table)?.as_ref())?
            }
            None => stored_schema(&target.schema)?,
        };
        if let Some(missing) = config.partition_by.iter().find(|name| stored.field_with_name(name).is_err()) {
            return Err(Error::new(
                Kind::Config,
                "C223",
                format!("`partition_by` names `{missing}`, which is no column"),
            )
            .fact(format!("columns: {}", names(&stored))));
        }
        let key = match &target.mode {
            // A table has no format of records, so a changelog is never planned into one.
            WriteMode::Append | WriteMode::Changelog { .. } => Vec::new(),
            WriteMode::Upsert { key, sequence } => {
                if let Some(sequence) = sequence {
                    position(&stored, sequence, "sequence")?;
                }
                key.iter().map(|name| position(&stored, name, "PRIMARY KEY")).collect::<Result<_>>()?
            }
            WriteMode::Replace { column, .. } => {
                let at = position(&stored, column, "event time")?;
                replaceable(column, stored.field(at).data_type())?;
                if target.interval.is_none() {
                    return Err(Error::new(
                        Kind::Config,
                        "C224",
                        "write = 'replace' replaces an interval, and this run has none",
                    )
                    .fact("give the pipeline a scheduled trigger, or use write = 'append' or 'upsert'"));
                }
                Vec::new()
            }
            WriteMode::Overwrite { .. } => {
                if target.interval.is_none() {
                    return Err(Error::new(
                        Kind::Config,
                        "C224",
                        "write = 'overwrite' replaces rows run by run, and this run has no interval",
                    )
                    .fact("give the pipeline a scheduled trigger, or use write = 'upsert'"));
                }
                Vec::new()
            }
        };
        for (column, _) in target.mode.part().into_iter().flat_map(TablePart::columns) {
            position(&stored, column, "REPLACE WHERE")?;
        }
        let staged = match target.mode {
            WriteMode::Upsert { .. } => with_weight(&stored),
            _ => Arc::clone(&stored),
        };
        let usual = if matches!(target.mode, WriteMode::Upsert { .. }) { MERGED_FILE } else { FILE };
        let file_size = config.target_file_size.or(NonZeroU64::new(usual)).unwrap_or(NonZeroU64::MIN);
        Ok(DeltaSink {
            target: Arc::new(Target {
                config,
                name: spec.name.clone(),
                app_id: format!("tidemill/{}/{}", target.pipeline, target.sink),
                columns: Arc::clone(&target.schema),
                stored,
                staged,
                mode: target.mode.clone(),
                interval: target.interval,
                staging: target.staging.clone(),
                clock: Arc::clone(&env.clock),
                file_size,
                key,
            }),
        })
    }
}

impl Sink for DeltaSink {
    fn writer(&self, lane: usize) -> Result<Box<dyn SinkWriter>> {
        Ok(Box::new(DeltaWriter { target: Arc::clone(&self.target), lane, file: None }))
    }

    fn committer(&self) -> Result<Box<dyn SinkCommitter>> {
        Ok(Box::new(DeltaCommitter::new(Arc::clone(&self.target))))
    }

    fn overwrites(&self) -> bool {
        matches!(self.target.mode, WriteMode::Upsert { .. })
    }

    fn is_unwritten(&self) -> Result<bool> {
        let target = Arc::clone(&self.target);
        block_on(async move {
            let Some(table) = target.config.location.load().await? else { return Ok(true) };
            Ok(progress(&target, &table).await?.is_none())
        })
    }

    fn rewrites(&self, intervals: &[Interval]) -> Result<Option<Rewrites>> {
        rewrites(&self.target, intervals).map(Some)
    }

    fn guarantee(&self) -> String {
        match self.target.mode {
            WriteMode::Append | WriteMode::Changelog { .. } => {
                "exactly-once: each epoch is one commit of the table, marked with its number"
            }
            WriteMode::Upsert { .. } => {
                "exactly-once: each epoch is merged by key in one commit, marked with its number"
            }
            WriteMode::Overwrite { .. } => {
                "exactly-once: a run replaces the rows in one commit, however often it is run"
            }
            WriteMode::Replace { .. } => {
                "exactly-once: a run replaces its interval in one commit, however often it is run"
            }
        }
        .to_owned()
    }
}

fn names(schema: &Schema) -> String {
    schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ")
}

fn position(schema: &Schema, name: &str, role: &str) -> Result<usize> {
    schema.index_of(name).map_err(|_| {
        Error::new(Kind::Config, "C225", format!("the {role} column `{name}` is not among the columns written"))
            .fact(format!("columns: {}", names(schema)))
    })
}

fn replaceable(column: &str, data_type: &DataType) -> Result<()> {
    match data_type {
        DataType::Timestamp(_, _) | DataType::Date32 => Ok(()),
        other => Err(Error::new(
            Kind::Config,
            "C226",
            format!("write = 'replace' needs a time in column `{column}`, which is {other}"),
        )
        .fact("cast it to TIMESTAMP, or use write = 'upsert'")),
    }
}

fn with_weight(stored: &SchemaRef) -> SchemaRef {
    let mut fields: Vec<_> = stored.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(WEIGHT, DataType::Int64, false)));
    Arc::new(Schema::new(fields))
}

/// Stages the rows of one lane.
struct DeltaWriter {
    target: Arc<Target>,
    lane: usize,
    file: Option<StageFile>,
}

impl SinkWriter for DeltaWriter {
    fn write(&mut self, batch: &Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let target = &self.target;
        let rows = store(&batch.rows, &target.stored)?;
        let rows = if let WriteMode::Upsert { key, .. } = &target.mode {
            for (&at, name) in target.key.iter().zip(key) {
                if rows.column(at).logical_null_count() > 0 {
                    return Err(Error::new(Kind::Data, "D222", format!("a row has NULL in its key column `{name}`"))
                        .fact("rows that are merged by key need the whole key: filter such rows out in the query"));
                }
            }
            weighted(&rows, batch.weights.as_ref(), &target.staged)?
        } else {
            match &batch.weights {
                None => rows,
                Some(weights) => repeated(&rows, weights)?,
            }
        };
        if self.file.is_none() {
            self.file = Some(StageFile::create(&target.staging, self.lane, &target.staged)?);
        }
        self.file.as_mut().map_or(Ok(()), |file| file.write(&rows))
    }

    fn prepare(&mut self, epoch: Epoch) -> Result<Option<Committable>> {
        match self.file.take() {
            None => Ok(None),
            Some(file) => file.finish(epoch, self.lane)?.committable().map(Some),
        }
    }

    fn prepare_anew(&mut self, epoch: Epoch) -> Result<Option<Committable>> {
        let finished = self.file.take().map(|file| file.finish(epoch, self.lane)).transpose()?;
        finished.map(|staged| Staged { anew: true, ..staged }.committable()).transpose()
    }
}

/// The rows with their weights as a last column.
fn weighted(rows: &RecordBatch, weights: Option<&Int64Array>, staged: &SchemaRef) -> Result<RecordBatch> {
    let weights: ArrayRef = match weights {
        Some(weights) => Arc::new(weights.clone()),
        None => Arc::new(Int64Array::from_value(1, rows.num_rows())),
    };
    let mut columns = rows.columns().to_vec();
    columns.push(weights);
    RecordBatch::try_new(Arc::clone(staged), columns)
        .map_err(|error| Error::internal(format!("weights do not belong to their rows: {error}")))
}

/// Each row as often as its weight says; a target that only grows takes no retractions.
fn repeated(rows: &RecordBatch, weights: &Int64Array) -> Result<RecordBatch> {
    if weights.values().iter().all(|&weight| weight == 1) {
        return Ok(rows.clone());
    }
    let mut taken = Vec::with_capacity(rows.num_rows());
    for (row, &weight) in weights.values().iter().enumerate() {
        let copies = usize::try_from(weight).map_err(|_| {
            Error::new(Kind::Plan, "P210", "the query takes back rows that it gave out, and this target only adds rows")
                .fact("declare a PRIMARY KEY and use write = 'upsert'")
        })?;
        taken.extend(std::iter::repeat_n(row as u32, copies));
    }
    take_record_batch(rows, &UInt32Array::from(taken)).map_err(|error| Error::internal(error.to_string()))
}
