//! The same through an object store, which here lies in memory.

use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path;
use tidemill_model::{Epoch, Interval, Kind, Timestamp};
use tidemill_runtime::{Batch, Committable, DatasetSpec, Sink, SinkTarget, Source, TablePart, WriteMode};

use super::super::location::{Location, Place};
use super::super::remote::Remote;
use super::super::sink::FilesSink;
use super::super::source::FilesSource;
use super::{Rig, ids, orders, resumes_everywhere, rows_of, spec};

/// A bucket in memory.
fn bucket() -> Remote {
    Remote {
        store: Arc::new(InMemory::new()),
        path: Path::from("lake/orders"),
        url: Arc::from("s3://bucket/lake/orders"),
    }
}

fn location(bucket: &Remote, pattern: Option<&str>) -> Location {
    Location::new("s3://bucket/lake/orders/", Place::Remote(bucket.clone()), pattern.map(str::to_owned), true)
        .expect("a location")
}

fn put(rig: &Rig, bucket: &Remote, name: &str, text: &str) {
    rig.write("upload", text);
    bucket.below(name).expect("a name").upload(&rig.path("upload")).expect("stored");
}

fn source(bucket: &Remote, pattern: Option<&str>, spec: &DatasetSpec) -> FilesSource {
    FilesSource::at(location(bucket, pattern), spec).expect("a source")
}

fn stage(sink: &FilesSink, lane: usize, epoch: u64, first: i64, count: i64) -> Vec<Committable> {
    let mut writer = sink.writer(lane).expect("a writer");
    if count > 0 {
        writer.write(&Batch::inserts(orders(first, count))).expect("written");
    }
    writer.prepare(Epoch(epoch)).expect("prepared").into_iter().collect()
}

fn commit(sink: &FilesSink, epoch: u64, committables: &[Committable]) {
    sink.committer().expect("a committer").commit(Epoch(epoch), committables).expect("committed");
}

#[test]
fn lines_are_read_over_several_requests_and_resumed() {
    let (rig, bucket) = (Rig::new(), bucket());
    let rows: String = (0..200_000).map(|n| format!("{{\"id\":{n},\"region\":\"{}\"}}\n", "x".repeat(80))).collect();
    assert!(rows.len() > 17 << 20, "three requests");
    put(&rig, &bucket, "a.jsonl", &rows);
    put(&rig, &bucket, "_staging/b.jsonl", "{\"id\":-1}\n");
    let spec = spec(&[]);
    let source = source(&bucket, None, &spec);
    let splits = source.list_splits().expect("lists");
    assert_eq!(splits.iter().map(|split| split.id.as_str()).collect::<Vec<_>>(), ["a.jsonl"]);
    assert_eq!(ids(&rows_of(&source, &spec)), (0..200_000).collect::<Vec<_>>());
    let middle = tidemill_model::Offset::number((rows.len() / 2) as u64 / 10 * 10);
    assert!(source.open(&splits[0], Some(&middle), &super::hints()).is_ok());
}

#[test]
fn globs_work_and_missing_objects_are_named() {
    let (rig, bucket) = (Rig::new(), bucket());
    put(&rig, &bucket, "x/a.jsonl", "{\"id\":1}\n");
    put(&rig, &bucket, "x/a.txt", "no\n");
    let dataset = spec(&[]);
    assert_eq!(ids(&rows_of(&source(&bucket, Some("**/*.jsonl"), &dataset), &dataset)), [1]);
    let bounded = spec(&[("bounded", "true")]);
    let error = source(&bucket, Some("*.csv"), &bounded).list_splits().expect_err("nothing there");
    assert_eq!((error.kind(), error.code()), (Kind::Config, "C315"));
    // A literal object: its name is the split's.
    let object = bucket.below("x/a.jsonl").expect("a name");
    let literal = Location::new("s3://bucket/x/a.jsonl", Place::Remote(object), None, false).expect("a location");
    assert_eq!(ids(&rows_of(&FilesSource::at(literal, &dataset).expect("a source"), &dataset)), [1]);
}

#[test]
fn epochs_are_uploaded_once_and_read_back() {
    for format in ["json", "parquet"] {
        let (rig, bucket) = (Rig::new(), bucket());
        let spec = spec(&[("format", format), ("partition_by", "region")]);
        let sink = FilesSink::at(location(&bucket, None), &spec, &rig.target(WriteMode::Append)).expect("a sink");
        let staged = [stage(&sink, 0, 1, 0, 30_000), stage(&sink, 1, 1, 30_000, 10)].concat();
        assert!(bucket.list().expect("lists").is_empty(), "nothing is visible before the commit");
        commit(&sink, 1, &staged[..1]);
        commit(&sink, 1, &staged);
        commit(&sink, 1, &staged);
        let source = source(&bucket, None, &spec);
        assert_eq!(ids(&rows_of(&source, &spec)), (0..30_010).collect::<Vec<_>>(), "{format}");
        assert_eq!(rig.files(".tidemill/staging"), [""; 0], "staged files are gone");
        let split = &source.list_splits().expect("lists")[0];
        resumes_everywhere(&source, split, &spec);
        let fresh = sink.committer().expect("a committer").abort_after(Epoch::NONE).expect_err("epoch 1 is there");
        assert_eq!(fresh.kind(), Kind::Fenced);
    }
}

#[test]
fn an_interval_is_replaced_by_one_put() {
    let (rig, bucket) = (Rig::new(), bucket());
    let interval = Some(Interval { start: Timestamp(0), end: Timestamp(3_600_000_000) });
    let target = SinkTarget {
        interval,
        ..rig.target(WriteMode::Replace { column: "at".to_owned(), part: TablePart::default() })
    };
    let spec = spec(&[("format", "parquet")]);
    let sink = FilesSink::at(location(&bucket, None), &spec, &target).expect("a sink");
    for (epoch, counts) in [(1, [10, 10]), (2, [3, 0]), (3, [0, 0])] {
        let staged = [stage(&sink, 0, epoch, 0, counts[0]), stage(&sink, 1, epoch, 100, counts[1])].concat();
        commit(&sink, epoch, &staged);
        commit(&sink, epoch, &staged);
        let expected: Vec<i64> = (0..counts[0]).chain(100..100 + counts[1]).collect();
        let found = bucket.list().expect("lists");
        assert_eq!(found.len(), usize::from(!expected.is_empty()), "{found:?}");
        if !expected.is_empty() {
            assert_eq!(ids(&rows_of(&source(&bucket, None, &spec), &spec)), expected);
        }
    }
}

#[test]
fn settings_of_a_store_are_checked() {
    let rig = Rig::new();
    let mut env = rig.env();
    env.stores.insert("s3".to_owned(), vec![("no_such_setting_of_s3".to_owned(), "x".to_owned())]);
    for path in ["s3://bucket/a/", "ftp://host/a/", "s3://"] {
        let error = Location::parse(path, &env).expect_err("refused");
        assert_eq!((error.kind(), error.code()), (Kind::Config, "C311"), "{path}");
    }
    let known = ["endpoint", "region", "access_key_id", "secret_access_key", "allow_http"];
    env.stores.insert("s3".to_owned(), known.map(|name| (name.to_owned(), "true".to_owned())).to_vec());
    Location::parse("s3://bucket/a/*.json", &env).expect("known settings");
}
