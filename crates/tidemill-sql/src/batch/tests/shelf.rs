//! [`Shelf`]: a connector whose tables lie in memory, with sinks that keep the laws and can be made to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::csv::ReaderBuilder;
use arrow::datatypes::{Schema, SchemaRef, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use tidemill_model::{
    Clock, Epoch, Error, Interval, Kind, Offset, OptionKind, OptionSpec, Result, Settings, SplitId, Timestamp,
};
use tidemill_runtime::{
    Batch, Boundedness, Committable, Connector, DatasetSpec, Environment, Format, Payload, Pull, ReadHints, Sink,
    SinkCommitter, SinkTarget, SinkWriter, Source, SourceBatch, Split, SplitReader, WriteMode,
};

use crate::catalog::{BatchTables, Catalog, Formats, Registry};
use crate::language::{Config, Project, Script, render};

/// Tables by path.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Lines of CSV, by path and split.
    splits: BTreeMap<String, Vec<String>>,
    /// Splits that are gone, by path and number.
    gone: BTreeSet<(String, usize)>,
    /// Published rows, by path: the event time to replace by, the key, the row as text.
    rows: BTreeMap<String, Vec<Row>>,
    staged: Vec<(String, Epoch, Vec<Row>)>,
    published: BTreeSet<(String, Option<Interval>, Epoch)>,
    /// The next commit dies before it does anything.
    dies: bool,
    /// The path whose writers fail.
    fails: Option<String>,
    opened: Vec<String>,
    /// The splits that were read, by path.
    read: Vec<(String, usize)>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    text: String,
    key: Vec<String>,
    time: Option<i64>,
}

impl Shelf {
    /// Puts rows of CSV without header there, one text for each split.
    pub(super) fn put(&self, path: &str, splits: &[&str]) {
        let splits = splits.iter().map(|split| (*split).to_owned()).collect();
        self.inner.lock().expect("locks").splits.insert(path.to_owned(), splits);
    }

    /// Takes splits away.
    pub(super) fn take_away(&self, path: &str, splits: impl IntoIterator<Item = usize>) {
        self.inner.lock().expect("locks").gone.extend(splits.into_iter().map(|split| (path.to_owned(), split)));
    }

    /// Puts back what was taken away.
    pub(super) fn put_back(&self) {
        self.inner.lock().expect("locks").gone.clear();
    }

    /// The rows of a split; nothing is NOT NULL before the gate.
    fn batches(&self, path: &str, split: usize, declared: &SchemaRef) -> (SchemaRef, Vec<RecordBatch>) {
        let text = {
            let inner = self.inner.lock().expect("locks");
            // A table that was written is read as it stands.
            let written = || inner.rows[path].iter().map(|row| format!("{}\n", row.text)).collect();
            inner.splits.get(path).map_or_else(written, |splits| splits[split].clone())
        };
        let loose = declared.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
        let schema = Arc::new(Schema::new(loose.collect::<Vec<_>>()));
        let reader = ReaderBuilder::new(Arc::clone(&schema)).with_batch_size(2).build(std::io::Cursor::new(text));
        (schema, reader.expect("CSV").map(|batch| batch.expect("CSV")).collect())
    }

    /// The published rows, sorted.
    pub(super) fn rows(&self, path: &str) -> Vec<String> {
        let inner = self.inner.lock().expect("locks");
        let mut rows: Vec<String> = inner.rows.get(path).into_iter().flatten().map(|row| row.text.clone()).collect();
        rows.sort();
        rows
    }

    pub(super) fn die_at_next_commit(&self) {
        self.inner.lock().expect("locks").dies = true;
    }

    /// From now on nothing can be written there, or everywhere again.
    pub(super) fn fail_writing(&self, path: Option<&str>) {
        self.inner.lock().expect("locks").fails = path.map(str::to_owned);
    }

    /// The paths that were read since the last call.
    pub(super) fn opened(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.lock().expect("locks").opened)
    }

    /// How often splits of a path were read since the last call, and how many bytes they have.
    pub(super) fn read(&self, path: &str) -> (u64, u64) {
        let mut inner = self.inner.lock().expect("locks");
        let read: Vec<usize> = inner.read.iter().filter(|(of, _)| of == path).map(|(_, split)| *split).collect();
        inner.read.retain(|(of, _)| of != path);
        let bytes = read.iter().map(|split| inner.splits[path][*split].len() as u64);
        (read.len() as u64, bytes.sum())
    }
}

/// The connector.
#[derive(Debug)]
struct ShelfConnector(Arc<Shelf>);

impl Connector for ShelfConnector {
    fn name(&self) -> &'static str {
        "shelf"
    }

    fn doc(&self) -> &'static str {
        "Tables in memory."
    }

    fn options(&self) -> &'static [OptionSpec] {
        const OPTIONS: &[OptionSpec] = &[OptionSpec::required("path", OptionKind::Text, "Where.")];
        OPTIONS
    }

    fn discover_schema(&self, _: &DatasetSpec, _: &Environment) -> Result<SchemaRef> {
        Err(Error::new(Kind::Config, "C999", "declare the columns"))
    }

    fn source(&self, spec: &DatasetSpec, _: &Environment) -> Result<Arc<dyn Source>> {
        let path = spec.settings.text("path").unwrap_or_default().to_owned();
        Ok(Arc::new(ShelfSource { shelf: Arc::clone(&self.0), path, schema: Arc::clone(&spec.schema) }))
    }

    fn sink(&self, spec: &DatasetSpec, target: &SinkTarget, _: &Environment) -> Result<Arc<dyn Sink>> {
        let path = spec.settings.text("path").unwrap_or_default().to_owned();
        Ok(Arc::new(ShelfSink { shelf: Arc::clone(&self.0), path, target: target.clone() }))
    }
}

/// The same tables as DataFusion reads them itself.
#[derive(Debug)]
struct Natives(Arc<Shelf>);

#[async_trait]
impl BatchTables for Natives {
    fn connector(&self) -> &'static str {
        "shelf"
    }

    async fn open(&self, spec: &DatasetSpec, _: &Environment) -> Result<Arc<dyn TableProvider>> {
        let path = spec.settings.text("path").unwrap_or_default();
        let splits = self.0.inner.lock().expect("locks").splits.get(path).map_or(0, Vec::len);
        let mut partitions = Vec::new();
        let mut schema = Arc::clone(&spec.schema);
        for split in 0..splits {
            let (loose, batches) = self.0.batches(path, split, &spec.schema);
            schema = loose;
            partitions.push(batches);
        }
        Ok(Arc::new(MemTable::try_new(schema, partitions).expect("a table")))
    }
}

#[derive(Debug)]
struct ShelfSource {
    shelf: Arc<Shelf>,
    path: String,
    schema: SchemaRef,
}

impl Source for ShelfSource {
    fn boundedness(&self) -> Boundedness {
        Boundedness::Bounded
    }

    fn list_splits(&self) -> Result<Vec<Split>> {
        let mut inner = self.shelf.inner.lock().expect("locks");
        inner.opened.push(self.path.clone());
        let written = usize::from(inner.rows.contains_key(&self.path));
        let splits = inner.splits.get(&self.path).map_or(written, Vec::len);
        let bytes = |n: usize| inner.splits.get(&self.path).map(|splits| splits[n].len() as u64);
        let split = |n: usize| Split {
            id: SplitId::new(n.to_string()),
            finite: true,
            min_event_time: None,
            max_event_time: None,
            bytes: bytes(n),
            content: None,
        };
        let is_there = |n: &usize| !inner.gone.contains(&(self.path.clone(), *n));
        Ok((0..splits).filter(is_there).map(split).collect())
    }

    fn open(&self, split: &Split, _: Option<&Offset>, hints: &ReadHints) -> Result<Box<dyn SplitReader>> {
        let n: usize = split.id.as_str().parse().expect("a number");
        self.shelf.inner.lock().expect("locks").read.push((self.path.clone(), n));
        let (schema, batches) = self.shelf.batches(&self.path, n, &self.schema);
        let wanted = hints.schema.as_ref().expect("a schema is given");
        let columns: Vec<usize> =
            wanted.fields().iter().map(|f| schema.index_of(f.name()).expect("is there")).collect();
        let batches: Vec<RecordBatch> = batches
            .into_iter()
            .map(|batch| batch.project(&columns).expect("projects"))
            .map(|batch| RecordBatch::try_new(Arc::clone(wanted), batch.columns().to_vec()).expect("fits"))
            .collect();
        Ok(Box::new(ShelfReader(batches.into_iter())))
    }
}

struct ShelfReader(std::vec::IntoIter<RecordBatch>);

impl SplitReader for ShelfReader {
    fn next(&mut self) -> Result<Pull> {
        Ok(self.0.next().map_or(Pull::Finished, |rows| {
            Pull::Rows(SourceBatch {
                payload: Payload::Columns(rows),
                resume: Offset::number(0),
                arrived: None,
                first: None,
            })
        }))
    }

    fn bound_to_present(&mut self) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug, Clone)]
struct ShelfSink {
    shelf: Arc<Shelf>,
    path: String,
    target: SinkTarget,
}

impl Sink for ShelfSink {
    fn writer(&self, _: usize) -> Result<Box<dyn SinkWriter>> {
        Ok(Box::new(ShelfWriter { sink: self.clone(), rows: Vec::new() }))
    }

    fn committer(&self) -> Result<Box<dyn SinkCommitter>> {
        Ok(Box::new(ShelfCommitter(self.clone())))
    }

    fn guarantee(&self) -> String {
        "exactly-once".to_owned()
    }
}

struct ShelfWriter {
    sink: ShelfSink,
    rows: Vec<Row>,
}

impl SinkWriter for ShelfWriter {
    fn write(&mut self, batch: &Batch) -> Result<()> {
        if self.sink.shelf.inner.lock().expect("locks").fails.as_ref() == Some(&self.sink.path) {
            return Err(Error::new(Kind::Unavailable, "U999", "no room"));
        }
        let rows = &batch.rows;
        let options = FormatOptions::default().with_null("NULL");
        let cell =
            |column: &dyn Array, row| ArrayFormatter::try_new(column, &options).expect("shows").value(row).to_string();
        let named = |name: &String| rows.column_by_name(name).expect("is there");
        for row in 0..rows.num_rows() {
            let text = rows.columns().iter().map(|column| cell(column, row)).collect::<Vec<_>>().join(",");
            let key = match &self.sink.target.mode {
                WriteMode::Upsert { key, .. } => key.iter().map(|name| cell(named(name), row)).collect(),
                _ => Vec::new(),
            };
            let time = match &self.sink.target.mode {
                WriteMode::Replace { column, .. } => {
                    Some(named(column).as_primitive::<TimestampMicrosecondType>().value(row))
                }
                _ => None,
            };
            self.rows.push(Row { text, key, time });
        }
        Ok(())
    }

    fn prepare(&mut self, epoch: Epoch) -> Result<Option<Committable>> {
        let mut inner = self.sink.shelf.inner.lock().expect("locks");
        inner.staged.push((self.sink.path.clone(), epoch, std::mem::take(&mut self.rows)));
        Ok(Some(Committable(serde_json::json!(inner.staged.len() - 1))))
    }
}

struct ShelfCommitter(ShelfSink);

impl SinkCommitter for ShelfCommitter {
    fn commit(&mut self, epoch: Epoch, committables: &[Committable]) -> Result<()> {
        let ShelfSink { shelf, path, target } = &self.0;
        let mut inner = shelf.inner.lock().expect("locks");
        if std::mem::take(&mut inner.dies) {
            return Err(Error::new(Kind::Unavailable, "U999", "died"));
        }
        if !inner.published.insert((path.clone(), target.interval, epoch)) {
            return Ok(());
        }
        let mut new = Vec::new();
        for committable in committables {
            let at = committable.0.as_u64().expect("a number") as usize;
            new.extend(inner.staged[at].2.clone());
        }
        let rows = inner.rows.entry(path.clone()).or_default();
        match (&target.mode, target.interval) {
            (WriteMode::Replace { .. }, Some(interval)) => {
                rows.retain(|row| row.time.is_none_or(|at| !interval.contains(Timestamp(at))));
            }
            (WriteMode::Overwrite { .. }, _) => rows.clear(),
            (WriteMode::Upsert { .. }, _) => rows.retain(|row| new.iter().all(|other| other.key != row.key)),
            _ => {}
        }
        rows.extend(new);
        Ok(())
    }

    fn abort_after(&mut self, epoch: Epoch) -> Result<()> {
        let mut inner = self.0.shelf.inner.lock().expect("locks");
        for staged in inner.staged.iter_mut().filter(|staged| staged.0 == self.0.path && staged.1 > epoch) {
            staged.2.clear();
        }
        Ok(())
    }
}

/// A clock that stands still.
#[derive(Debug)]
pub(super) struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp(1_000_000_000)
    }
}

/// The catalog of one script over a shelf; `native` when DataFusion reads its tables itself.
pub(super) fn catalog(shelf: &Arc<Shelf>, sql: &str, native: bool) -> Catalog {
    let root = std::env::temp_dir().join("tidemill-batch-tests");
    let config = Config::parse(&root, "", &|_| None).expect("a config");
    let project = Project::parse(root.clone(), config, &[Script::new("pipelines/t.sql", sql)]);
    let project = project.map_err(|e| render(&e, false)).expect("a project");
    let state = root.join(".tidemill");
    let env = Environment { state, project: root, clock: Arc::new(Still), stores: BTreeMap::new() };
    let no_format = |name: &str, _: &Settings, _: &SchemaRef| -> Result<Arc<dyn Format>> { Err(Error::internal(name)) };
    let formats = Formats { names: Vec::new(), columnar: Vec::new(), options: |_| Ok(&[]), make: no_format };
    let connectors: Vec<Arc<dyn Connector>> = vec![Arc::new(ShelfConnector(Arc::clone(shelf)))];
    let tables = native.then(|| Arc::new(Natives(Arc::clone(shelf))) as Arc<dyn BatchTables>);
    let registry = Registry { connectors, formats, tables: tables.into_iter().collect() };
    Catalog::new(project, registry, env).map_err(|e| render(&e, false)).expect("a catalog")
}
