//! How fast the generator and the log are: orders made and truth told on one thread; then staged, committed and read
//! back through a topic of 8 partitions; then many small epochs. `cargo bench -p tidemill-connect --bench topics`

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::disallowed_methods, reason = "a benchmark measures time")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_connect::generator::{GeneratorConnector, OrdersModel, Truth};
use tidemill_connect::log::LogConnector;
use tidemill_model::{Clock, Epoch, Error, Options, Result, Timestamp};
use tidemill_runtime::{
    Batch, Connector, DatasetSpec, Decoder, Encoder, Environment, Format, Payload, Pull, ReadHints, SinkTarget, Source,
    WriteMode,
};

const ROWS: u64 = 2_000_000;

#[derive(Debug)]
struct System;

impl Clock for System {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_micros()).unwrap_or(0))
    }
}

/// Copies the column `record`, so that the log is measured and not a format.
#[derive(Debug)]
struct Copied;

struct CopyingEncoder;

impl Format for Copied {
    fn decoder(&self, _schema: SchemaRef) -> Result<Box<dyn Decoder>> {
        Err(Error::internal("nothing is decoded here"))
    }

    fn encoder(&self, _schema: SchemaRef) -> Result<Box<dyn Encoder>> {
        Ok(Box::new(CopyingEncoder))
    }
}

impl Encoder for CopyingEncoder {
    fn encode(&mut self, batch: &RecordBatch, out: &mut Vec<u8>, ends: Option<&mut Vec<u32>>) -> Result<()> {
        let ends = ends.ok_or_else(|| Error::internal("topics ask for ends"))?;
        for record in batch.column(1).as_string::<i32>().iter().flatten() {
            out.extend_from_slice(record.as_bytes());
            ends.push(u32::try_from(out.len()).unwrap_or(0));
        }
        Ok(())
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("record", DataType::Utf8, true)]))
}

fn spec(connector: &dyn Connector, options: &[(&str, &str)]) -> Result<DatasetSpec> {
    let settings = Options::of(options.iter().copied()).resolve("connector", connector.options())?;
    let format: Option<Arc<dyn Format>> = Some(Arc::new(Copied));
    Ok(DatasetSpec { name: "topic".to_owned(), schema: schema(), event_time: None, settings, format })
}

fn rate(what: &str, rows: u64, bytes: u64, took: Duration) {
    let seconds = took.as_secs_f64();
    println!(
        "{what:<44}{:>10.2} M rows/s{:>10.0} MB/s{:>10.1} ms",
        rows as f64 / 1e6 / seconds,
        bytes as f64 / 1e6 / seconds,
        seconds * 1e3
    );
}

/// Reads everything; answers rows and bytes.
fn read(source: &dyn Source, mut each: impl FnMut(tidemill_runtime::Records)) -> Result<(u64, u64)> {
    let (mut rows, mut bytes) = (0, 0);
    for split in source.list_splits()? {
        let mut reader = source.open(&split, None, &ReadHints::default())?;
        while let Pull::Rows(batch) = reader.next()? {
            if let Payload::Records(records) = batch.payload {
                rows += records.ends.as_ref().map_or(0, Vec::len) as u64;
                bytes += records.data.len() as u64;
                each(records);
            }
        }
    }
    Ok((rows, bytes))
}

/// The records as batches of a row each.
fn batches(records: &tidemill_runtime::Records, first: i64) -> Option<Batch> {
    let ends = records.ends.as_ref()?;
    let mut begin = 0;
    let texts: StringArray = ends
        .iter()
        .map(|end| {
            let text = std::str::from_utf8(records.data.get(begin..*end as usize)?).ok();
            begin = *end as usize;
            text
        })
        .collect();
    let ids = Int64Array::from_iter_values(first..first + i64::try_from(ends.len()).ok()?);
    let columns: Vec<Arc<dyn Array>> = vec![Arc::new(ids), Arc::new(texts)];
    RecordBatch::try_new(schema(), columns).ok().map(Batch::from)
}

fn main() -> Result<()> {
    let folder = tempfile::tempdir_in(".").map_err(|error| Error::io("create", "a folder", error))?;
    let env = Environment {
        project: folder.path().to_owned(),
        state: folder.path().join("state"),
        clock: Arc::new(System),
        stores: Default::default(),
    };
    let rows = ROWS.to_string();
    let faults = [
        ("rows", rows.as_str()),
        ("null_share", "0.001"),
        ("duplicate_share", "0.01"),
        ("invalid_share", "0.005"),
        ("malformed_share", "0.001"),
        ("disorder", "10 seconds"),
        ("late_share", "0.001"),
    ];
    let orders = spec(&GeneratorConnector, &faults)?;
    let source = GeneratorConnector.source(&orders, &env)?;
    let begin = Instant::now();
    let (count, bytes) = read(&*source, |records| drop(black_box(records)))?;
    rate("generator: JSON records, 1 thread", count, bytes, begin.elapsed());
    let model = OrdersModel::of(&orders.settings)?;
    let begin = Instant::now();
    black_box(Truth::of(&model, ROWS));
    rate("generator: truth, 1 thread", ROWS, 0, begin.elapsed());

    let mut made = Vec::new();
    let mut first = 0_i64;
    read(&*source, |records| {
        made.extend(batches(&records, first));
        first += 1 << 20;
    })?;
    for (what, topic, key) in [("by batch", "plain", None), ("by key", "keyed", Some(("key", "id")))] {
        let mut options = vec![("topic", topic)];
        options.extend(key);
        let dataset = spec(&LogConnector, &options)?;
        let target = SinkTarget {
            pipeline: "bench".to_owned(),
            sink: topic.to_owned(),
            schema: schema(),
            mode: WriteMode::Append,
            interval: None,
            staging: folder.path().join("staging").join(topic),
        };
        let sink = LogConnector.sink(&dataset, &target, &env)?;
        let mut committer = sink.committer()?;
        let mut writer = sink.writer(0)?;
        let begin = Instant::now();
        for batch in &made {
            writer.write(batch)?;
        }
        rate(&format!("log {what}: write, 1 lane"), count, bytes, begin.elapsed());
        let begin = Instant::now();
        let staged: Vec<_> = writer.prepare(Epoch(1))?.into_iter().collect();
        rate(&format!("log {what}: prepare (sync)"), count, bytes, begin.elapsed());
        let begin = Instant::now();
        committer.commit(Epoch(1), &staged)?;
        rate(&format!("log {what}: commit (append, sync)"), count, bytes, begin.elapsed());
        let begin = Instant::now();
        let topic = LogConnector.source(&dataset, &env)?;
        let (read_rows, read_bytes) = read(&*topic, |records| drop(black_box(records)))?;
        rate(&format!("log {what}: read, 1 thread"), read_rows, read_bytes, begin.elapsed());

        let (mut preparing, mut committing) = (Vec::new(), Vec::new());
        let small = made.first().map(|batch| Batch::inserts(batch.rows.slice(0, 1000.min(batch.len()))));
        for epoch in 2..102 {
            for _ in 0..8 {
                small.iter().try_for_each(|batch| writer.write(batch))?;
            }
            let begin = Instant::now();
            let staged: Vec<_> = writer.prepare(Epoch(epoch))?.into_iter().collect();
            preparing.push(begin.elapsed());
            let begin = Instant::now();
            committer.commit(Epoch(epoch), &staged)?;
            committing.push(begin.elapsed());
        }
        for (step, mut took) in [("prepare", preparing), ("commit", committing)] {
            took.sort();
            println!("log {what}: {step} of 8000 rows: median {:?}, most {:?}", took[50], took[99]);
        }
        let split = topic.list_splits()?.remove(0);
        let mut reader = topic.open(&split, None, &ReadHints::default())?;
        while let Pull::Rows(_) = reader.next()? {}
        let begin = Instant::now();
        for _ in 0..100_000 {
            black_box(reader.next()?);
        }
        println!("log {what}: an idle poll: {:?}", begin.elapsed() / 100_000);
    }
    Ok(())
}
