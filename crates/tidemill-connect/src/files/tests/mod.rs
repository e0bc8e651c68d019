//! The laws of sources and sinks, tried on files: [`Rig`] is a project folder with a dataset in it.

mod lines;
mod parquet;
mod pruning;
mod remote;
mod writing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Int64Type, SchemaRef};
use tempfile::TempDir;
use tidemill_model::{Clock, Offset, OptionKind, OptionSpec, Options, Result, Settings, Timestamp};
use tidemill_runtime::{
    Connector, DatasetSpec, Environment, Payload, Pull, ReadHints, Sink, SinkTarget, Source, SourceBatch, Split,
    SplitReader, WriteMode,
};

use super::Files;
use crate::format::{FORMATS, format};

/// A clock that stands still.
#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
}

/// A project folder.
pub(super) struct Rig {
    pub(super) folder: TempDir,
}

impl Rig {
    pub(super) fn new() -> Rig {
        Rig { folder: TempDir::new().expect("a folder") }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        std::fs::write(path, text).expect("written");
    }

    pub(super) fn env(&self) -> Environment {
        Environment {
            project: self.folder.path().to_owned(),
            state: self.path(".tidemill"),
            clock: Arc::new(Still),
            stores: BTreeMap::new(),
        }
    }

    pub(super) fn source(&self, options: &[(&str, &str)]) -> Result<Arc<dyn Source>> {
        Files::default().source(&spec(options), &self.env())
    }

    pub(super) fn target(&self, mode: WriteMode) -> SinkTarget {
        SinkTarget {
            pipeline: "clean".to_owned(),
            sink: "orders-out".to_owned(),
            schema: schema(),
            mode,
            interval: None,
            staging: self.path(".tidemill/staging"),
        }
    }

    pub(super) fn sink(&self, options: &[(&str, &str)], target: &SinkTarget) -> Result<Arc<dyn Sink>> {
        Files::default().sink(&spec(options), target, &self.env())
    }

    /// The names of all files below a folder, hidden ones too.
    pub(super) fn files(&self, folder: &str) -> Vec<String> {
        fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) {
            for item in std::fs::read_dir(folder).into_iter().flatten() {
                let path = item.expect("an entry").path();
                match path.is_dir() {
                    true => walk(root, &path, found),
                    false => found.push(path.strip_prefix(root).expect("below").to_string_lossy().into_owned()),
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.path(folder), &self.path(folder), &mut found);
        found.sort();
        found
    }

    /// The files that readers can see.
    pub(super) fn visible(&self, folder: &str) -> Vec<String> {
        self.files(folder).into_iter().filter(|name| !name.split('/').any(|part| part.starts_with('_'))).collect()
    }
}

/// A dataset of orders with these options; `format` is json unless given.
pub(super) fn spec(options: &[(&str, &str)]) -> DatasetSpec {
    let mut specs: Vec<OptionSpec> = super::config::OPTIONS.to_vec();
    specs.push(OptionSpec::optional("format", OptionKind::Text, Some("json"), "The format."));
    let mut options = options.to_vec();
    if options.iter().all(|(name, _)| *name != "path") {
        options.push(("path", "out"));
    }
    let name = options.iter().find(|(name, _)| *name == "format").map_or("json", |(_, format)| *format);
    specs.extend(FORMATS.iter().filter(|format| format.name == name).flat_map(|format| format.options));
    let settings: Settings =
        Options::of(options.iter().copied()).resolve("connector `files`", &specs).expect("options");
    let schema = schema();
    let format = (name != "parquet").then(|| format(name, &settings, &schema).expect("a format"));
    DatasetSpec { name: "orders".to_owned(), schema, event_time: Some("at".to_owned()), settings, format }
}

/// Orders numbered from `first`, a second apart.
pub(super) fn orders(first: i64, count: i64) -> RecordBatch {
    let ids: Vec<i64> = (first..first + count).collect();
    let region: StringArray =
        ids.iter().map(|n| (n % 5 != 4).then(|| ["eu", "us", "ap/x"][(n % 3) as usize])).collect();
    let at: TimestampMicrosecondArray = ids.iter().map(|n| Some(n * 1_000_000)).collect();
    let amount: Float64Array = ids.iter().map(|n| *n as f64 / 4.0).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(Int64Array::from(ids)) as ArrayRef, true),
        ("region", Arc::new(region) as ArrayRef, true),
        ("at", Arc::new(at) as ArrayRef, true),
        ("amount", Arc::new(amount) as ArrayRef, true),
    ])
    .expect("orders")
}

pub(super) fn schema() -> SchemaRef {
    orders(0, 0).schema()
}

pub(super) fn hints() -> ReadHints {
    ReadHints { schema: Some(schema()), event_time: Some("at".to_owned()), ..ReadHints::default() }
}

/// Every batch of a reader.
pub(super) fn drain(reader: &mut dyn SplitReader) -> Vec<SourceBatch> {
    let mut batches = Vec::new();
    loop {
        match reader.next().expect("readable") {
            Pull::Rows(batch) => batches.push(batch),
            Pull::AtEnd => panic!("a file has an end of its own"),
            Pull::Finished => return batches,
        }
    }
}

/// The rows of a payload.
pub(super) fn decoded(payload: &Payload, spec: &DatasetSpec) -> RecordBatch {
    match payload {
        Payload::Columns(batch) => batch.clone(),
        Payload::Records(records) => {
            let format = spec.format.as_ref().expect("a format");
            let decoded = format.decoder(schema()).expect("a decoder").decode(records).expect("decodes");
            assert!(decoded.bad.is_empty(), "{:?}", decoded.bad);
            decoded.batch
        }
    }
}

/// All rows of a dataset, in the order of splits.
pub(super) fn read_all(rig: &Rig, options: &[(&str, &str)]) -> Vec<RecordBatch> {
    rows_of(&*rig.source(options).expect("a source"), &spec(options))
}

pub(super) fn rows_of(source: &dyn Source, spec: &DatasetSpec) -> Vec<RecordBatch> {
    let splits = source.list_splits().expect("lists");
    let batches = splits.iter().flat_map(|split| drain(&mut *source.open(split, None, &hints()).expect("opens")));
    batches.map(|batch| decoded(&batch.payload, spec)).collect()
}

/// The numbers of the orders in some batches, sorted.
pub(super) fn ids(batches: &[RecordBatch]) -> Vec<i64> {
    let mut ids: Vec<i64> = batches
        .iter()
        .flat_map(|batch| batch.column_by_name("id").expect("ids").as_primitive::<Int64Type>().values().to_vec())
        .collect();
    ids.sort_unstable();
    ids
}

/// Read anew up to an offset, a split gives exactly the rows before it.
pub(super) fn stops_at(
    source: &dyn Source,
    split: &Split,
    spec: &DatasetSpec,
    (stop, expected): (&Offset, &RecordBatch),
) {
    let mut reader = source.open(split, None, &hints()).expect("opens");
    reader.stop_at(stop).expect("an offset of the split");
    let read: Vec<RecordBatch> = drain(&mut *reader).iter().map(|batch| decoded(&batch.payload, spec)).collect();
    assert_eq!(&arrow::compute::concat_batches(&schema(), &read).expect("rows"), expected, "before {stop}");
}

/// Law 1 of sources: opened at any offset that a batch carried, a split gives exactly the rows after that batch.
pub(super) fn resumes_everywhere(source: &dyn Source, split: &Split, spec: &DatasetSpec) -> usize {
    let whole = drain(&mut *source.open(split, None, &hints()).expect("opens"));
    let rows: Vec<RecordBatch> = whole.iter().map(|batch| decoded(&batch.payload, spec)).collect();
    let all = arrow::compute::concat_batches(&schema(), &rows).expect("rows");
    let mut before = 0;
    for (batch, decoded_rows) in whole.iter().zip(&rows) {
        before += decoded_rows.num_rows();
        let rest = drain(&mut *source.open(split, Some(&batch.resume), &hints()).expect("resumes"));
        let rest: Vec<RecordBatch> = rest.iter().map(|batch| decoded(&batch.payload, spec)).collect();
        let rest = arrow::compute::concat_batches(&schema(), &rest).expect("rows");
        assert_eq!(rest, all.slice(before, all.num_rows() - before), "after {}", batch.resume);
        stops_at(source, split, spec, (&batch.resume, &all.slice(0, before)));
    }
    whole.len()
}
