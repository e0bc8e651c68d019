//! [`FilesSink`]: a folder opened for writing, and [`Prepared`], what its writers tell its committer.
//!
//! **Invariant:** a published name is a function of the pipeline, the dataset, the epoch and the lane, or of the interval;
//! whatever cannot be written exactly once is refused when the sink is opened.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use serde::{Deserialize, Serialize};
use tidemill_model::{Error, Interval, Kind, Result, nearest};
use tidemill_runtime::{DatasetSpec, Environment, Rewrites, Sink, SinkCommitter, SinkTarget, SinkWriter, WriteMode};

use super::commit::FilesCommitter;
use super::config::{Encoding, partition_columns};
use super::location::{Location, Place, names_below};
use super::rewrites::rewrites;
use super::writer::FilesWriter;

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
    /// The interval whose rows are written, in a run of one.
    pub(super) interval: Option<Interval>,
    pub(super) replaces: Replaces,
    pub(super) encoding: Encoding,
    /// The columns in the files.
    pub(super) schema: SchemaRef,
    /// The places of the columns in the files, when some columns are only in folders' names.
    pub(super) kept: Option<Vec<usize>>,
    /// The places and names of the partition columns.
    pub(super) partitions: Vec<(usize, String)>,
}

/// What the file of a run takes the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replaces {
    /// The rows that this pipeline wrote for the interval.
    Own,
    /// All rows of the interval.
    Interval,
    /// All rows.
    Everything,
}

/// The name, without its extension, of the file that has all rows.
pub(super) const EVERYTHING: &str = "everything";

/// What one lane prepared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Prepared {
    /// The finished files.
    pub(super) files: Vec<PreparedFile>,
    /// The name under which all files of all lanes are published together, when they are the rows of an interval.
    /// There may be no file: then what has the name is to be removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) whole: Option<String>,
}

/// A staged file and the name it is published under.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct PreparedFile {
    /// Its name in the staging folder.
    pub(super) staged: String,
    /// Its name in the target folder.
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

impl Target {
    /// The name of the one file that a run of an interval writes.
    pub(super) fn whole(&self) -> Option<String> {
        self.interval.map(|interval| self.whole_of(interval))
    }

    /// The name of the file of a table that is overwritten.
    pub(super) fn everything(&self) -> String {
        format!("{EVERYTHING}.{}", self.encoding.extension())
    }

    /// The same as [`Target::whole`] for any interval.
    pub(super) fn whole_of(&self, interval: Interval) -> String {
        let stem = match self.replaces {
            Replaces::Everything => EVERYTHING.to_owned(),
            Replaces::Interval => interval_name(interval),
            // Appended rows stand beside those of other pipelines.
            Replaces::Own => format!("part-{}-{}", self.identity, interval_name(interval)),
        };
        format!("{stem}.{}", self.encoding.extension())
    }
}

impl FilesSink {
    pub(super) fn open(spec: &DatasetSpec, target: &SinkTarget, env: &Environment) -> Result<FilesSink> {
        FilesSink::at(Location::parse(spec.settings.text("path").unwrap_or_default(), env)?, spec, target)
    }

    pub(super) fn at(location: Location, spec: &DatasetSpec, target: &SinkTarget) -> Result<FilesSink> {
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
            WriteMode::Overwrite { .. } if target.interval.is_none() => {
                let message = format!("`{}` is overwritten run by run, and this run has no interval", spec.name);
                return Err(Error::new(Kind::Config, "C331", message)
                    .fact("give the pipeline a scheduled trigger, or run it with --interval"));
            }
            // The files of an appending run of an interval are those of that interval: a rerun replaces its own.
            WriteMode::Replace { .. }
            | WriteMode::Overwrite { .. }
            | WriteMode::Append
            | WriteMode::Changelog { .. } => target.interval,
        };
        if let Some(part) = target.mode.part() {
            let message = format!("`{}` is written whole, and only rows with {part} are to be replaced", spec.name);
            return Err(Error::new(Kind::Config, "C337", message)
                .fact("use connector = 'delta', which replaces rows by a condition, or a folder for each part"));
        }
        let encoding = Encoding::of(spec)?;
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
        let replaces = match target.mode {
            WriteMode::Replace { .. } => Replaces::Interval,
            WriteMode::Overwrite { .. } => Replaces::Everything,
            _ => Replaces::Own,
        };
        let target =
            Target { folder, shown, staging, identity, interval, replaces, encoding, schema, kept, partitions };
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

    fn replaces_interval(&self) -> bool {
        // An appending run of an interval has files of its own, which a rerun replaces.
        self.target.interval.is_some()
    }

    fn is_unwritten(&self) -> Result<bool> {
        Ok(names_below(&self.target.folder)?.is_empty())
    }

    fn rewrites(&self, intervals: &[Interval]) -> Result<Option<Rewrites>> {
        rewrites(&self.target, intervals).map(Some)
    }

    fn guarantee(&self) -> String {
        match self.target.interval {
            Some(_) if self.target.replaces == Replaces::Everything => {
                "exactly-once: one file, replaced at once".to_owned()
            }
            Some(_) => "exactly-once: one file for an interval, replaced at once".to_owned(),
            None => "exactly-once: files are staged, then published under a name of the epoch".to_owned(),
        }
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
