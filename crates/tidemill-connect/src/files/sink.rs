//! [`FilesSink`] and its writers: rows of an epoch become staged files, one for each lane and partition.
//!
//! **Invariant:** staged files lie where no reader looks and are durable before `prepare` names them; only the
//! committer gives them the names by which readers find them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::row::{OwnedRow, RowConverter, SortField};
use serde::{Deserialize, Serialize};
use tidemill_model::{Epoch, Error, Interval, Kind, Result, nearest};
use tidemill_runtime::{
    Batch, Committable, DatasetSpec, Environment, Sink, SinkCommitter, SinkTarget, SinkWriter, WriteMode,
};

use super::commit::FilesCommitter;
use super::config::{Encoding, partition_columns};
use super::encode::{Finished, StagedFile};
use super::hive;
use super::location::{Location, Place};

/// More partitions of a lane and epoch than this are not kept open; the files so far are finished and others begun.
const OPEN_FILES: usize = 128;
/// When the open files of a lane hold more than this in memory, they are finished.
const WAITING: usize = 256 << 20;

/// A folder of files, opened for one run.
#[derive(Debug, Clone)]
pub(super) struct FilesSink {
    target: Arc<Target>,
}

/// What writers and the committer share.
#[derive(Debug)]
pub(super) struct Target {
    /// The folder that readers look into.
    pub(super) folder: Place,
    /// As the user wrote it.
    pub(super) shown: String,
    /// Where this sink's staged files lie, on this machine; on the folder's own file system when that is local, so
    /// that a rename publishes.
    pub(super) staging: PathBuf,
    /// The pipeline and dataset as part of file names.
    pub(super) identity: String,
    /// The interval whose rows are written, when rows are replaced.
    pub(super) interval: Option<Interval>,
    pub(super) encoding: Encoding,
    /// The columns in the files.
    schema: SchemaRef,
    /// The places of the columns in the files, when some columns are only in folders' names.
    kept: Option<Vec<usize>>,
    /// The places and names of the partition columns.
    partitions: Vec<(usize, String)>,
}

/// What one lane prepared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Prepared {
    /// The finished files.
    pub(super) files: Vec<PreparedFile>,
    /// The interval that the files are all rows of. There may be no file: then its rows are to be removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) interval: Option<Interval>,
}

/// A staged file and the name it is published under.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct PreparedFile {
    /// Its name in the staging folder.
    pub(super) staged: String,
    /// Its name in the target folder; of an interval's files, the name of all of them together.
    pub(super) name: String,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    /// How many bytes at its beginning are a header.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) header: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl FilesSink {
    pub(super) fn open(spec: &DatasetSpec, target: &SinkTarget, env: &Environment) -> Result<FilesSink> {
        let interval = match &target.mode {
            WriteMode::Upsert { .. } => {
                let message = format!("files cannot be upserted, and `{}` is written by key", spec.name);
                return Err(Error::new(Kind::Config, "C330", message)
                    .fact("use connector = 'delta' with write = 'upsert', or append to the files"));
            }
            WriteMode::Replace { .. } if target.interval.is_none() => {
                let message = format!("`{}` is replaced by interval, and this run has none", spec.name);
                return Err(Error::new(Kind::Config, "C331", message)
                    .fact("run the pipeline with --interval, or write = 'append'"));
            }
            // The files of an appending run of an interval are those of that interval: a rerun replaces its own.
            WriteMode::Replace { .. } | WriteMode::Append => target.interval,
        };
        let encoding = Encoding::of(spec)?;
        let location = Location::parse(spec.settings.text("path").unwrap_or_default(), env)?;
        let identity = format!("{}-{}", plain(&target.pipeline), plain(&target.sink));
        refuse_file(&location)?;
        let staging = match &location.root {
            Place::Local(folder) => folder.join("_staging").join(&identity),
            Place::Remote(_) => target.staging.clone(),
        };
        let columns = partition_columns(spec);
        if interval.is_some() && !columns.is_empty() {
            let message = format!("`{}` is written by interval, which needs one file for each", spec.name);
            return Err(Error::new(Kind::Config, "C332", message)
                .fact("leave out partition_by, or use connector = 'delta', which replaces many files at once"));
        }
        let partitions = partition_places(&columns, &target.schema)?;
        // Parquet readers take these columns from the path; lines carry them, as nothing tells their decoder.
        let kept = match encoding {
            Encoding::Parquet(_) if !partitions.is_empty() => {
                let inside = |n: &usize| partitions.iter().all(|(place, _)| place != n);
                Some((0..target.schema.fields().len()).filter(inside).collect::<Vec<_>>())
            }
            _ => None,
        };
        let schema = match &kept {
            Some(kept) => {
                Arc::new(target.schema.project(kept).map_err(|e| Error::internal("no projection").because(e))?)
            }
            None => SchemaRef::clone(&target.schema),
        };
        if schema.fields().is_empty() {
            return Err(Error::new(
                Kind::Config,
                "C333",
                format!("partition_by of `{}` leaves no column for the files", spec.name),
            )
            .fact("leave one column out of partition_by"));
        }
        // What the format cannot write is said now, not with the first row.
        if let Encoding::Lines { format, .. } = &encoding {
            format.encoder(SchemaRef::clone(&schema))?;
        }
        let (folder, shown) = (location.root, location.shown);
        let target = Target { folder, shown, staging, identity, interval, encoding, schema, kept, partitions };
        Ok(FilesSink { target: Arc::new(target) })
    }
}

/// A written dataset is a folder.
fn refuse_file(location: &Location) -> Result<()> {
    let name = location.shown.rsplit('/').next().unwrap_or_default();
    let file_like = matches!(name.rsplit_once('.'), Some((_, "json" | "jsonl" | "ndjson" | "csv" | "parquet")));
    let is_file = matches!(&location.root, Place::Local(path) if path.is_file());
    if location.is_pattern() || file_like || is_file {
        return Err(Error::new(
            Kind::Config,
            "C334",
            format!("`{}` is not a folder that can be written to", location.shown),
        )
        .fact("every epoch adds files: let `path` name a folder, such as 'out/orders/'"));
    }
    Ok(())
}

fn partition_places(columns: &[String], schema: &Schema) -> Result<Vec<(usize, String)>> {
    columns
        .iter()
        .map(|name| match schema.index_of(name) {
            Ok(place) if !name.starts_with(['_', '.']) => Ok((place, name.clone())),
            Ok(_) => Err(Error::new(Kind::Config, "C335", format!("folders of `{name}` would not be read"))
                .fact("names that begin with `_` or `.` are hidden: rename the column")),
            Err(_) => {
                let names = schema.fields().iter().map(|field| field.name().as_str());
                let error = Error::new(Kind::Config, "C335", format!("partition_by names no column: `{name}`"));
                Err(match nearest(name, names.clone()) {
                    Some(meant) => error.label(format!("did you mean `{meant}`?")),
                    None => error.fact(format!("columns: {}", names.collect::<Vec<_>>().join(", "))),
                })
            }
        })
        .collect()
}

/// A name in a form that needs no quoting anywhere and stays different from every other name's.
fn plain(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => out.push(char::from(byte)),
            other => out.push_str(&format!("~{other:02x}")),
        }
    }
    out
}

impl Sink for FilesSink {
    fn writer(&self, lane: usize) -> Result<Box<dyn SinkWriter>> {
        Ok(Box::new(FilesWriter::new(Arc::clone(&self.target), lane)))
    }

    fn committer(&self) -> Result<Box<dyn SinkCommitter>> {
        let committer = FilesCommitter::new(Arc::clone(&self.target));
        committer.check()?;
        Ok(Box::new(committer))
    }

    fn guarantee(&self) -> String {
        match self.target.interval {
            Some(_) => "exactly-once: one file for an interval, replaced at once".to_owned(),
            None => "exactly-once: files are staged, then published under a name of the epoch".to_owned(),
        }
    }
}

/// Stages the rows of one lane.
struct FilesWriter {
    target: Arc<Target>,
    lane: usize,
    rows: Option<RowConverter>,
    /// The open files by the values of their partition columns.
    open: HashMap<OwnedRow, (String, StagedFile)>,
    /// The open file when there are no partitions.
    single: Option<StagedFile>,
    /// Finished files of this epoch with their partition's folder.
    finished: Vec<(String, Finished)>,
    /// How many files this epoch has begun.
    begun: usize,
}

impl FilesWriter {
    fn new(target: Arc<Target>, lane: usize) -> FilesWriter {
        FilesWriter { target, lane, rows: None, open: HashMap::new(), single: None, finished: Vec::new(), begun: 0 }
    }

    fn staging(&self) -> PathBuf {
        match self.target.interval {
            Some(interval) => self.target.staging.join(interval_name(interval)),
            None => self.target.staging.clone(),
        }
    }

    fn begin(&mut self) -> Result<StagedFile> {
        let staging = self.staging();
        create_folder(&staging)?;
        let path = staging.join(format!("open-{}-{}", self.lane, self.begun));
        self.begun += 1;
        StagedFile::create(path, &self.target.encoding, &self.target.schema)
    }

    fn write_partitions(&mut self, rows: &RecordBatch) -> Result<()> {
        let internal = |e: arrow::error::ArrowError| Error::internal("cannot part rows by partition").because(e);
        let target = Arc::clone(&self.target);
        let keys: Vec<_> = target.partitions.iter().map(|(place, _)| Arc::clone(rows.column(*place))).collect();
        let converter = match &mut self.rows {
            Some(converter) => converter,
            none => none.insert(
                RowConverter::new(keys.iter().map(|key| SortField::new(key.data_type().clone())).collect())
                    .map_err(internal)?,
            ),
        };
        let key_rows = converter.convert_columns(&keys).map_err(internal)?;
        let mut members: HashMap<OwnedRow, Vec<u32>> = HashMap::new();
        let mut order: Vec<OwnedRow> = Vec::new();
        for (n, key) in (0_u32..).zip(key_rows.iter()) {
            match members.entry(key.owned()) {
                Entry::Occupied(mut some) => some.get_mut().push(n),
                Entry::Vacant(none) => {
                    order.push(none.key().clone());
                    none.insert(vec![n]);
                }
            }
        }
        let inside = match &target.kept {
            Some(kept) => rows.project(kept).map_err(internal)?,
            None => rows.clone(),
        };
        for key in order {
            let Some(numbers) = members.remove(&key) else { continue };
            let first = numbers.first().copied().unwrap_or_default() as usize;
            let part = if numbers.len() == rows.num_rows() {
                inside.clone()
            } else {
                take_record_batch(&inside, &UInt32Array::from(numbers)).map_err(internal)?
            };
            self.write_partition(key, rows, first, &part)?;
        }
        Ok(())
    }

    fn write_partition(&mut self, key: OwnedRow, rows: &RecordBatch, first: usize, part: &RecordBatch) -> Result<()> {
        if let Some((_, file)) = self.open.get_mut(&key) {
            return file.write(part);
        }
        let waiting: usize = self.open.values().map(|(_, file)| file.waiting()).sum();
        if self.open.len() >= OPEN_FILES || waiting > WAITING {
            self.finish_open()?;
        }
        let mut file = self.begin()?;
        file.write(part)?;
        self.open.insert(key, (folder_of(&self.target.partitions, rows, first)?, file));
        Ok(())
    }

    fn finish_open(&mut self) -> Result<()> {
        let mut files: Vec<(String, StagedFile)> = self.open.drain().map(|(_, file)| file).collect();
        // The map's order differs from run to run; names must not.
        files.sort_by(|a, b| a.0.cmp(&b.0));
        for (folder, file) in files {
            self.finished.push((folder, file.finish()?));
        }
        if let Some(file) = self.single.take() {
            self.finished.push((String::new(), file.finish()?));
        }
        Ok(())
    }
}

/// The folder of the partition that a row lies in, with a `/` at its end.
fn folder_of(partitions: &[(usize, String)], rows: &RecordBatch, row: usize) -> Result<String> {
    let mut folder = String::new();
    for (place, name) in partitions {
        let one = rows.column(*place).slice(row, 1);
        let text = cast(&one, &DataType::Utf8).map_err(|e| {
            let message = format!("`{name}` cannot name folders: {} has no text", one.data_type());
            Error::new(Kind::Config, "C335", message).fact("partition by text, numbers or dates").because(e)
        })?;
        let text = text.as_any().downcast_ref::<StringArray>();
        let value = text.filter(|text| text.is_valid(0)).map(|text| text.value(0));
        folder.push_str(&hive::segment(name, value));
        folder.push('/');
    }
    Ok(folder)
}

impl SinkWriter for FilesWriter {
    fn write(&mut self, batch: &Batch) -> Result<()> {
        if batch.weights.as_ref().is_some_and(|weights| weights.values().iter().any(|weight| *weight != 1)) {
            return Err(Error::internal("a retraction reached files, which are only appended to"));
        }
        if batch.is_empty() {
            return Ok(());
        }
        if !self.target.partitions.is_empty() {
            return self.write_partitions(&batch.rows);
        }
        let mut file = match self.single.take() {
            Some(file) => file,
            None => self.begin()?,
        };
        file.write(&batch.rows)?;
        self.single = Some(file);
        Ok(())
    }

    fn prepare(&mut self, epoch: Epoch) -> Result<Option<Committable>> {
        self.finish_open()?;
        self.begun = 0;
        let staging = self.staging();
        let extension = self.target.encoding.extension();
        let mut files = Vec::with_capacity(self.finished.len());
        for (n, (folder, file)) in self.finished.drain(..).enumerate() {
            let staged = format!("{:010}-{}-{n}.{extension}", epoch.0, self.lane);
            let path = staging.join(&staged);
            fs::rename(&file.path, &path).map_err(|e| Error::io("rename to", path.display(), e))?;
            let (staged, name) = match self.target.interval {
                Some(interval) => {
                    let name = interval_name(interval);
                    (format!("{name}/{staged}"), format!("{name}.{extension}"))
                }
                None => {
                    let more = if n == 0 { String::new() } else { format!("-{n}") };
                    let name = format!(
                        "{folder}part-{}-{:010}-{}{more}.{extension}",
                        self.target.identity, epoch.0, self.lane
                    );
                    (staged, name)
                }
            };
            files.push(PreparedFile { staged, name, rows: file.rows, bytes: file.bytes, header: file.header });
        }
        if files.is_empty() && self.target.interval.is_none() {
            return Ok(None);
        }
        if !files.is_empty() {
            sync_folder(&staging)?;
        }
        let prepared = Prepared { files, interval: self.target.interval };
        let value =
            serde_json::to_value(prepared).map_err(|e| Error::internal("a committable is no JSON").because(e))?;
        Ok(Some(Committable(value)))
    }
}

/// The name of an interval's file, without its extension: `interval-2026-01-01T000000Z_2026-01-01T010000Z`.
pub(super) fn interval_name(interval: Interval) -> String {
    let short = |at: tidemill_model::Timestamp| at.to_string().replace([':', ' '], "");
    format!("interval-{}_{}", short(interval.start), short(interval.end))
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|e| Error::io("make durable", folder.display(), e))
}

/// Creates a folder and those it lies in, durably.
pub(super) fn create_folder(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_folder(parent)?;
    }
    match fs::create_dir(folder) {
        // Another lane was faster.
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::io("create", folder.display(), e)),
        _ => parent.map_or(Ok(()), sync_folder),
    }
}
