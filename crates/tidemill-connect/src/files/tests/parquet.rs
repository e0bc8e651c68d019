//! Reading Parquet.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
    TimestampNanosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit, TimestampMicrosecondType};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use tidemill_model::{Interval, Kind, Offset, Timestamp};
use tidemill_runtime::{Connector, Payload, ReadHints};

use super::super::Files;
use super::{Rig, drain, hints, ids, orders, read_all, resumes_everywhere, spec, stops_at};

const PARQUET: [(&str, &str); 2] = [("path", "in"), ("format", "parquet")];

/// Writes batches as a file with row groups of `group` rows.
fn write(rig: &Rig, name: &str, batches: &[RecordBatch], group: usize) {
    let path = rig.path(name);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
    write_file(&path, batches, group);
}

fn write_file(path: &Path, batches: &[RecordBatch], group: usize) {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(group))
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .build();
    let mut writer = ArrowWriter::try_new(File::create(path).expect("a file"), batches[0].schema(), Some(properties))
        .expect("a writer");
    for batch in batches {
        writer.write(batch).expect("written");
    }
    writer.close().expect("closed");
}

fn one(name: &str, array: ArrayRef) -> RecordBatch {
    RecordBatch::try_from_iter([(name, array)]).expect("a column")
}

#[test]
fn row_groups_resume_after_every_batch() {
    let rig = Rig::new();
    write(&rig, "in/a.parquet", &[orders(0, 50_000)], 20_000);
    let source = rig.source(&PARQUET).expect("a source");
    let splits = source.list_splits().expect("lists");
    assert_eq!((splits.len(), splits[0].id.as_str(), splits[0].min_event_time), (1, "a.parquet", Some(0)));
    let batches = resumes_everywhere(&*source, &splits[0], &spec(&PARQUET));
    assert!(batches >= 3, "{batches} batches");
    for (stop, rows) in [("0:1", 1), ("0:19999", 19_999), ("1:0", 20_000), ("1:7", 20_007), ("2:10000", 50_000)] {
        stops_at(&*source, &splits[0], &spec(&PARQUET), (&Offset(stop.to_owned()), &orders(0, rows)));
    }
    assert_eq!(read_all(&rig, &PARQUET)[0].slice(0, 10), orders(0, 10));
    assert_eq!(ids(&read_all(&rig, &PARQUET)), (0..50_000).collect::<Vec<_>>());
}

#[test]
fn a_large_file_is_divided_by_row_groups() {
    let rig = Rig::new();
    write(&rig, "in/a.parquet", &[orders(0, 3_500_000)], 500_000);
    let source = rig.source(&PARQUET).expect("a source");
    let splits = source.list_splits().expect("lists");
    let names: Vec<&str> = splits.iter().map(|split| split.id.as_str()).collect();
    assert_eq!(names, ["a.parquet@g0-5", "a.parquet@g5-7"], "row groups of some 15 MB, splits of 64 MiB");
    assert_eq!(splits[1].min_event_time, Some(2_500_000_000_000));
    let rows: Vec<usize> = splits
        .iter()
        .map(|split| {
            let batches = drain(&mut *source.open(split, None, &hints()).expect("opens"));
            batches.iter().map(|batch| super::decoded(&batch.payload, &spec(&PARQUET)).num_rows()).sum()
        })
        .collect();
    assert_eq!(rows, [2_500_000, 1_000_000]);
}

#[test]
fn columns_come_as_asked_widened_filled_and_from_the_path() {
    let rig = Rig::new();
    let batch = RecordBatch::try_from_iter([
        ("small", Arc::new(Int32Array::from(vec![1, 2])) as ArrayRef),
        ("other", Arc::new(StringArray::from(vec!["x", "y"])) as ArrayRef),
        ("ms", Arc::new(TimestampMillisecondArray::from(vec![1, -1])) as ArrayRef),
        ("ns", Arc::new(TimestampNanosecondArray::from(vec![1_999, -1]).with_timezone("Europe/Paris")) as ArrayRef),
        ("day", Arc::new(Date32Array::from(vec![1, -1])) as ArrayRef),
    ])
    .expect("a batch");
    write(&rig, "in/year=2026/region=e%2Fu/a.parquet", &[batch], 10);
    let micros = || DataType::Timestamp(TimeUnit::Microsecond, None);
    let wanted = Arc::new(Schema::new(vec![
        Field::new("ns", micros(), true),
        Field::new("region", DataType::Utf8, true),
        Field::new("small", DataType::Int64, true),
        Field::new("gone", DataType::Float64, true),
        Field::new("year", DataType::Int32, true),
        Field::new("ms", micros(), true),
        Field::new("day", micros(), true),
    ]));
    let source = rig.source(&PARQUET).expect("a source");
    let splits = source.list_splits().expect("lists");
    let hints = ReadHints { schema: Some(Arc::clone(&wanted)), ..ReadHints::default() };
    let batches = drain(&mut *source.open(&splits[0], None, &hints).expect("opens"));
    let Payload::Columns(batch) = &batches[0].payload else { panic!("Parquet gives columns") };
    assert_eq!(batch.schema(), wanted);
    let instants = |name: &str| {
        batch.column_by_name(name).expect(name).as_primitive::<TimestampMicrosecondType>().values().to_vec()
    };
    assert_eq!(
        (instants("ns"), instants("ms"), instants("day")),
        (vec![1, -1], vec![1_000, -1_000], vec![86_400_000_000, -86_400_000_000])
    );
    let expected: [(&str, ArrayRef); 3] = [
        ("region", Arc::new(StringArray::from(vec!["e/u", "e/u"]))),
        ("small", Arc::new(Int64Array::from(vec![1, 2]))),
        ("year", Arc::new(Int32Array::from(vec![2026, 2026]))),
    ];
    for (name, column) in expected {
        assert_eq!(batch.column_by_name(name), Some(&column), "{name}");
    }
    assert_eq!(batch.column_by_name("gone").map(|column| column.null_count()), Some(2));
}

#[test]
fn only_columns_of_the_path_still_have_as_many_rows() {
    let rig = Rig::new();
    write(&rig, "in/k=7/a.parquet", &[orders(0, 10)], 4);
    let wanted = Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, true)]));
    let source = rig.source(&PARQUET).expect("a source");
    let splits = source.list_splits().expect("lists");
    let hints = ReadHints { schema: Some(wanted), ..ReadHints::default() };
    let batches = drain(&mut *source.open(&splits[0], None, &hints).expect("opens"));
    let rows = |payload: &Payload| match payload {
        Payload::Columns(batch) => batch.num_rows(),
        Payload::Records(_) => 0,
    };
    assert_eq!(batches.iter().map(|batch| rows(&batch.payload)).sum::<usize>(), 10);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let rig = Rig::new();
    let text = || Arc::new(StringArray::from(vec!["x"])) as ArrayRef;
    for (file, batch, code, words) in [
        ("clash", one("id", text()), "C319", vec!["`id`", "clash.parquet", "VARCHAR", "BIGINT"]),
        ("narrow", one("region", Arc::new(Int64Array::from(vec![1]))), "C319", vec!["`region`", "BIGINT", "VARCHAR"]),
        ("case", one("Region", text()), "C320", vec!["`region`", "`Region`"]),
    ] {
        write(&rig, &format!("{file}.parquet"), &[batch], 10);
        let path = format!("{file}.parquet");
        let source = rig.source(&[("path", &path), ("format", "parquet")]).expect("a source");
        let splits = source.list_splits().expect("lists");
        let error = source.open(&splits[0], None, &hints()).err().expect("refused");
        assert_eq!((error.kind(), error.code()), (Kind::Config, code), "{error}");
        for word in words {
            assert!(error.message().contains(word), "{word} in {error}");
        }
    }
    let strict = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
    let source = rig.source(&[("path", "case.parquet"), ("format", "parquet")]).expect("a source");
    let splits = source.list_splits().expect("lists");
    let hints = ReadHints { schema: Some(strict), ..ReadHints::default() };
    assert_eq!(source.open(&splits[0], None, &hints).err().expect("NOT NULL").code(), "C320");
    rig.write("bad.parquet", "this is no Parquet");
    let bad = rig.source(&[("path", "bad.parquet"), ("format", "parquet")]).expect("a source").list_splits();
    assert_eq!(bad.expect_err("unreadable").kind(), Kind::Corrupt);
}

#[test]
fn an_interval_leaves_out_row_groups_and_keeps_offsets() {
    let rig = Rig::new();
    write(&rig, "in/a.parquet", &[orders(0, 1_000)], 100);
    let source = rig.source(&PARQUET).expect("a source");
    let splits = source.list_splits().expect("lists");
    let interval = Interval { start: Timestamp(350_000_000), end: Timestamp(500_000_000) };
    let hints = ReadHints { interval: Some(interval), ..hints() };
    let batches = drain(&mut *source.open(&splits[0], None, &hints).expect("opens"));
    let rows: Vec<RecordBatch> = batches.iter().map(|batch| super::decoded(&batch.payload, &spec(&PARQUET))).collect();
    assert_eq!(ids(&rows), (300..500).collect::<Vec<_>>(), "the row groups 3 and 4");
    assert_eq!(batches.iter().map(|batch| batch.resume.0.as_str()).collect::<Vec<_>>(), ["3:100", "4:100"]);
    let rest = drain(&mut *source.open(&splits[0], Some(&batches[0].resume), &hints).expect("resumes"));
    assert_eq!(rest.len(), 1);
}

#[test]
fn a_replaced_file_is_noticed_by_its_offset() {
    let rig = Rig::new();
    write(&rig, "in/a.parquet", &[orders(0, 300)], 100);
    let source = rig.source(&PARQUET).expect("a source");
    let splits = source.list_splits().expect("lists");
    let last = drain(&mut *source.open(&splits[0], None, &hints()).expect("opens")).pop().expect("rows").resume;
    write(&rig, "in/a.parquet", &[orders(0, 50)], 100);
    let error = source.open(&splits[0], Some(&last), &hints()).err().expect("replaced");
    assert_eq!((error.kind(), error.code()), (Kind::Corrupt, "X310"));
}

#[test]
fn columns_are_discovered_in_plain_types() {
    let rig = Rig::new();
    let batch = RecordBatch::try_from_iter([
        ("at", Arc::new(TimestampNanosecondArray::from(vec![1]).with_timezone("Europe/Paris")) as ArrayRef),
        ("name", Arc::new(arrow::array::StringViewArray::from(vec!["x"])) as ArrayRef),
    ])
    .expect("a batch");
    write(&rig, "in/day=1/a.parquet", &[batch], 10);
    let found = Files::default().discover_schema(&spec(&PARQUET), &rig.env()).expect("discovered");
    let names: Vec<(&str, &DataType)> = found.fields().iter().map(|f| (f.name().as_str(), f.data_type())).collect();
    let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    assert_eq!(names, [("at", &instant), ("name", &DataType::Utf8), ("day", &DataType::Utf8)]);
}
