//! Tests of topics: a [`World`] with its own folder and clock, and a format that writes the one text column as it is.

mod commit;
mod damage;
mod kill;
mod read;
mod retention;
mod write;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_model::{Clock, Epoch, Error, Offset, Options, Result, SplitId, Timestamp};
use tidemill_runtime::{
    Batch, Committable, Connector, DatasetSpec, Decoder, Encoder, Environment, Format, Payload, Positions, Pull,
    ReadHints, Sink, SinkTarget, Source, Split, SplitReader, WriteMode,
};

use super::commit::LogCommitter;
use super::config::{LogConfig, OPTIONS};
use super::connector::LogConnector;
use super::topic::Topic;

/// A clock that tests move.
#[derive(Debug, Default)]
struct TestClock(AtomicI64);

impl TestClock {
    fn set(&self, at: i64) {
        self.0.store(at, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// Writes the column `text`; refuses the text `bad`.
#[derive(Debug)]
struct Plain;

struct PlainEncoder;

impl Format for Plain {
    fn decoder(&self, _schema: SchemaRef) -> Result<Box<dyn Decoder>> {
        Err(Error::internal("tests look at the bytes"))
    }

    fn encoder(&self, _schema: SchemaRef) -> Result<Box<dyn Encoder>> {
        Ok(Box::new(PlainEncoder))
    }
}

impl Encoder for PlainEncoder {
    fn encode(&mut self, batch: &RecordBatch, out: &mut Vec<u8>, ends: Option<&mut Vec<u32>>) -> Result<()> {
        let ends = ends.expect("topics ask for ends");
        for text in batch.column(1).as_string::<i32>().iter().flatten() {
            if text == "bad" {
                return Err(Error::internal("bad"));
            }
            out.extend_from_slice(text.as_bytes());
            ends.push(u32::try_from(out.len()).expect("small"));
        }
        Ok(())
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("text", DataType::Utf8, true)]))
}

/// Rows of ids and the texts `prefix` + id.
fn rows(prefix: &str, ids: std::ops::Range<i64>) -> Batch {
    let texts: Vec<String> = ids.clone().map(|id| format!("{prefix}{id}")).collect();
    let columns: Vec<Arc<dyn Array>> =
        vec![Arc::new(Int64Array::from_iter_values(ids)), Arc::new(StringArray::from(texts))];
    RecordBatch::try_new(schema(), columns).expect("fits").into()
}

struct World {
    root: PathBuf,
    /// Deletes the folder in the end, unless it is another's.
    _folder: Option<tempfile::TempDir>,
    clock: Arc<TestClock>,
    options: Vec<(&'static str, &'static str)>,
}

impl World {
    fn new(options: &[(&'static str, &'static str)]) -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let world = World::at(folder.path().to_owned(), options);
        World { _folder: Some(folder), ..world }
    }

    /// A world in a folder of somebody else.
    fn at(root: PathBuf, options: &[(&'static str, &'static str)]) -> World {
        let mut all = vec![("topic", "t")];
        all.extend_from_slice(options);
        let clock = Arc::new(TestClock::default());
        clock.set(1_000_000);
        World { root, _folder: None, clock, options: all }
    }

    fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    fn staging(&self, pipeline: &str) -> PathBuf {
        self.root.join("staging").join(pipeline)
    }

    fn env(&self) -> Environment {
        Environment {
            project: self.root.clone(),
            state: self.state(),
            clock: self.clock.clone(),
            stores: Default::default(),
        }
    }

    fn spec(&self) -> DatasetSpec {
        let settings = Options::of(self.options.iter().copied()).resolve("connector `log`", OPTIONS).expect("options");
        DatasetSpec {
            name: "topic".to_owned(),
            schema: schema(),
            event_time: None,
            settings,
            format: Some(Arc::new(Plain)),
        }
    }

    fn target(&self, pipeline: &str) -> SinkTarget {
        SinkTarget {
            pipeline: pipeline.to_owned(),
            sink: "out".to_owned(),
            schema: schema(),
            mode: WriteMode::Append,
            interval: None,
            staging: self.staging(pipeline),
        }
    }

    fn sink(&self, pipeline: &str) -> Arc<dyn Sink> {
        LogConnector.sink(&self.spec(), &self.target(pipeline), &self.env()).expect("a sink")
    }

    fn source(&self) -> Arc<dyn Source> {
        LogConnector.source(&self.spec(), &self.env()).expect("a source")
    }

    /// A committer whose death can be arranged.
    fn committer(&self, pipeline: &str) -> LogCommitter {
        let config = LogConfig::of(&self.spec().settings).expect("config");
        let topic = Topic::open_or_create(&self.state(), "t", config.partitions).expect("a topic");
        LogCommitter::new(topic, format!("{pipeline}/out"), self.staging(pipeline), &config, self.clock.clone())
    }

    /// Stages an epoch: each entry is what a lane writes.
    fn stage(&self, pipeline: &str, epoch: u64, lanes: &[Vec<Batch>]) -> Vec<Committable> {
        let sink = self.sink(pipeline);
        let stage = |(lane, batches): (usize, &Vec<Batch>)| {
            let mut writer = sink.writer(lane).expect("a writer");
            batches.iter().for_each(|batch| writer.write(batch).expect("written"));
            writer.prepare(Epoch(epoch)).expect("prepared")
        };
        lanes.iter().enumerate().filter_map(stage).collect()
    }

    /// Stages and commits.
    fn publish(&self, pipeline: &str, epoch: u64, lanes: &[Vec<Batch>]) {
        let staged = self.stage(pipeline, epoch, lanes);
        self.sink(pipeline).committer().expect("a committer").commit(Epoch(epoch), &staged).expect("committed");
    }

    fn open(&self, partition: usize, resume: Option<u64>) -> Result<Box<dyn SplitReader>> {
        let split = Split {
            id: SplitId::new(format!("t/{partition}")),
            finite: false,
            min_event_time: None,
            max_event_time: None,
            bytes: None,
            content: None,
        };
        self.source().open(&split, resume.map(Offset::number).as_ref(), &ReadHints::default())
    }

    /// What a new reader of a partition finds.
    fn read(&self, partition: usize, resume: Option<u64>) -> Vec<(u64, String)> {
        drain(&mut *self.open(partition, resume).expect("opens")).into_iter().flat_map(|(records, _)| records).collect()
    }

    /// The texts of all partitions, sorted.
    fn texts(&self) -> Vec<String> {
        let splits = self.source().list_splits().expect("splits").len();
        let mut texts: Vec<String> =
            (0..splits).flat_map(|partition| self.read(partition, None)).map(|(_, text)| text).collect();
        texts.sort();
        texts
    }

    fn segments(&self, partition: usize) -> Vec<PathBuf> {
        let folder = self.state().join("topics/t").join(partition.to_string());
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(folder).expect("lists").map(|entry| entry.expect("entry").path()).collect();
        paths.sort();
        paths
    }

    fn staged_files(&self, pipeline: &str) -> usize {
        std::fs::read_dir(self.staging(pipeline)).map_or(0, Iterator::count)
    }
}

/// All batches up to the end: the records with their offsets, and the offset after them.
fn drain(reader: &mut dyn SplitReader) -> Vec<(Vec<(u64, String)>, u64)> {
    let mut batches = Vec::new();
    while let Pull::Rows(batch) = reader.next().expect("reads") {
        let Payload::Records(records) = batch.payload else { unreachable!("records") };
        let Positions::Numbered(first) = records.positions else { unreachable!("numbered") };
        let mut begin = 0;
        let mut found = Vec::new();
        for (offset, end) in (first..).zip(records.ends.expect("ends")) {
            let text = std::str::from_utf8(&records.data[begin..end as usize]).expect("text").to_owned();
            found.push((offset, text));
            begin = end as usize;
        }
        assert!(!found.is_empty(), "a batch has a record");
        batches.push((found, batch.resume.as_number().expect("a number")));
    }
    batches
}

/// The texts that `rows` gives, sorted.
fn expect(parts: &[(&str, std::ops::Range<i64>)]) -> Vec<String> {
    let mut texts: Vec<String> =
        parts.iter().flat_map(|(prefix, ids)| ids.clone().map(move |id| format!("{prefix}{id}"))).collect();
    texts.sort();
    texts
}
