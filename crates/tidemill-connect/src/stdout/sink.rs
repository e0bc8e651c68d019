//! [`StdoutSink`] and its writers: rows of an epoch wait as lines in a file until they are printed.
//!
//! **Invariant:** a staged file holds exactly the bytes that will be printed.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_model::{Epoch, Error, Interval, Kind, Result, Settings};
use tidemill_runtime::{
    Batch, Committable, DatasetSpec, Encoder, Format, Rewrites, Sink, SinkCommitter, SinkTarget, SinkWriter, WriteMode,
};

use super::Stream;
use super::commit::StdoutCommitter;
use crate::format::format;

/// Lines are written in blocks of about this size.
const BLOCK: usize = 1 << 20;
/// The column that says what a printed change is.
const CHANGE: &str = "_change";

/// The standard output, opened for one run.
#[derive(Debug)]
pub(super) struct StdoutSink {
    format: Arc<dyn Format>,
    /// The columns of printed lines.
    schema: SchemaRef,
    /// Whether rows can be taken back, so that each line says whether it adds or removes.
    changes: bool,
    staging: PathBuf,
    stream: Stream,
}

impl StdoutSink {
    pub(super) fn open(spec: &DatasetSpec, target: &SinkTarget, stream: Stream) -> Result<StdoutSink> {
        let changes = match &target.mode {
            WriteMode::Append | WriteMode::Changelog { .. } => false,
            WriteMode::Upsert { .. } => true,
            WriteMode::Replace { .. } | WriteMode::Overwrite { .. } => {
                let message = format!("`{}` is the standard output, where nothing can be replaced", spec.name);
                return Err(Error::new(Kind::Config, "C344", message).fact("use write = 'append'"));
            }
        };
        let mut fields = target.schema.fields().to_vec();
        if changes {
            fields.push(Arc::new(Field::new(CHANGE, DataType::Utf8, false)));
        }
        let schema = Arc::new(Schema::new(fields));
        let format = match &spec.format {
            Some(format) => Arc::clone(format),
            None => format("json", &Settings::default(), &schema)?,
        };
        // What cannot be printed is said now, not with the first row.
        format.encoder(Arc::clone(&schema))?;
        Ok(StdoutSink { format, schema, changes, staging: target.staging.clone(), stream })
    }
}

impl Sink for StdoutSink {
    fn writer(&self, lane: usize) -> Result<Box<dyn SinkWriter>> {
        Ok(Box::new(StdoutWriter {
            encoder: self.format.encoder(Arc::clone(&self.schema))?,
            schema: Arc::clone(&self.schema),
            changes: self.changes,
            staging: self.staging.clone(),
            lane,
            open: None,
            buffer: Vec::new(),
            rows: 0,
        }))
    }

    fn committer(&self) -> Result<Box<dyn SinkCommitter>> {
        Ok(Box::new(StdoutCommitter::new(self.staging.clone(), self.stream.clone())))
    }

    fn rewrites(&self, _intervals: &[Interval]) -> Result<Option<Rewrites>> {
        Ok(Some(Rewrites::default()))
    }

    fn guarantee(&self) -> String {
        "at-least-once on the terminal: lines are printed again when the process is killed between printing and \
         recording that"
            .to_owned()
    }
}

struct StdoutWriter {
    encoder: Box<dyn Encoder>,
    schema: SchemaRef,
    changes: bool,
    staging: PathBuf,
    lane: usize,
    open: Option<File>,
    buffer: Vec<u8>,
    rows: u64,
}

impl StdoutWriter {
    fn path(&self) -> PathBuf {
        self.staging.join(format!("open-{}", self.lane))
    }

    fn flush(&mut self) -> Result<()> {
        let path = self.path();
        let file = match &mut self.open {
            Some(file) => file,
            none => {
                fs::create_dir_all(&self.staging).map_err(|e| Error::io("create", self.staging.display(), e))?;
                none.insert(File::create(&path).map_err(|e| Error::io("create", path.display(), e))?)
            }
        };
        file.write_all(&self.buffer).map_err(|e| Error::io("write", path.display(), e))?;
        self.buffer.clear();
        Ok(())
    }

    /// The rows with the column that says what each one does.
    fn with_change(&self, batch: &Batch) -> Result<RecordBatch> {
        let word = |weight: i64| if weight < 0 { "delete" } else { "insert" };
        let words: StringArray = match &batch.weights {
            Some(weights) => weights.values().iter().map(|weight| Some(word(*weight))).collect(),
            None => vec![word(1); batch.len()].into(),
        };
        let mut columns = batch.rows.columns().to_vec();
        columns.push(Arc::new(words) as ArrayRef);
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(|e| Error::internal("rows to print are not of the declared columns").because(e))
    }
}

impl SinkWriter for StdoutWriter {
    fn write(&mut self, batch: &Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.changes {
            let rows = self.with_change(batch)?;
            self.encoder.encode(&rows, &mut self.buffer, None)?;
        } else if batch.weights.as_ref().is_some_and(|weights| weights.values().iter().any(|weight| *weight != 1)) {
            return Err(Error::internal("a retraction reached the standard output, which is only appended to"));
        } else {
            self.encoder.encode(&batch.rows, &mut self.buffer, None)?;
        }
        self.rows += batch.len() as u64;
        if self.buffer.len() >= BLOCK { self.flush() } else { Ok(()) }
    }

    fn prepare(&mut self, epoch: Epoch) -> Result<Option<Committable>> {
        if self.rows == 0 {
            return Ok(None);
        }
        self.flush()?;
        let (open, name) = (self.path(), format!("{:010}-{}", epoch.0, self.lane));
        let path = self.staging.join(&name);
        if let Some(file) = self.open.take() {
            file.sync_all().map_err(|e| Error::io("write", open.display(), e))?;
        }
        fs::rename(&open, &path).map_err(|e| Error::io("rename to", path.display(), e))?;
        crate::files::sync_folder(&self.staging)?;
        let rows = std::mem::take(&mut self.rows);
        Ok(Some(Committable(serde_json::json!({ "staged": name, "rows": rows }))))
    }
}
