//! What a read leaves out of Parquet by statistics: never a row that it needs.

use std::fs::File;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, TimestampNanosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use tidemill_model::{Interval, Offset, Timestamp};
use tidemill_runtime::{ColumnBounds, Needed, Payload, Pull, ReadHints, Source};

use super::{Rig, drain};

const PARQUET: [(&str, &str); 2] = [("path", "in"), ("format", "parquet")];

/// Rows whose number in a column is one, or that have none there.
#[derive(Debug)]
struct Equals {
    columns: SchemaRef,
    value: i64,
    or_null: bool,
}

impl Equals {
    fn of(column: &str, value: i64, or_null: bool) -> Arc<dyn Needed> {
        let columns = Arc::new(Schema::new(vec![Field::new(column, DataType::Int64, true)]));
        Arc::new(Equals { columns, value, or_null })
    }
}

impl Needed for Equals {
    fn columns(&self) -> &SchemaRef {
        &self.columns
    }

    fn may_be_in(&self, rows: &UInt64Array, bounds: &[ColumnBounds]) -> Vec<bool> {
        let bounds = &bounds[0];
        let (least, greatest) = (bounds.least.as_primitive::<Int64Type>(), bounds.greatest.as_primitive::<Int64Type>());
        assert_eq!((least.len(), greatest.len(), bounds.nulls.len()), (rows.len(), rows.len(), rows.len()));
        let judge = |n: usize| {
            let nulls = bounds.nulls.is_valid(n).then(|| bounds.nulls.value(n));
            assert!(nulls.is_none_or(|nulls| nulls <= rows.value(n)), "{nulls:?} of {}", rows.value(n));
            let outside = (least.is_valid(n) && least.value(n) > self.value)
                || (greatest.is_valid(n) && greatest.value(n) < self.value)
                || nulls == Some(rows.value(n));
            !outside || (self.or_null && nulls != Some(0))
        };
        (0..rows.len()).map(judge).collect()
    }
}

fn write(rig: &Rig, name: &str, batch: &RecordBatch, group: usize, page: usize) {
    let path = rig.path(name);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(group))
        .set_data_page_row_count_limit(page)
        .set_data_page_size_limit(16 << 10)
        .set_write_batch_size(64)
        .build();
    let mut writer =
        ArrowWriter::try_new(File::create(path).expect("a file"), batch.schema(), Some(properties)).expect("a writer");
    writer.write(batch).expect("written");
    writer.close().expect("closed");
}

/// What came: the numbers in column `id`, where each stands in its split as the reader says, and how many were passed over.
fn read(source: &dyn Source, hints: &ReadHints) -> (Vec<i64>, Vec<u64>, u64) {
    let (mut ids, mut places, mut passed_over) = (Vec::new(), Vec::new(), 0);
    for split in source.list_splits().expect("lists") {
        let mut reader = source.open(&split, None, hints).expect("opens");
        while let Pull::Rows(batch) = reader.next().expect("reads") {
            let Payload::Columns(rows) = &batch.payload else { panic!("Parquet gives columns") };
            ids.extend(rows.column_by_name("id").expect("ids").as_primitive::<Int64Type>().values().iter());
            let first = batch.first.expect("a number");
            places.extend(first..first + rows.num_rows() as u64);
        }
        passed_over += reader.passed_over();
    }
    (ids, places, passed_over)
}

fn hints_of(schema: &SchemaRef, needed: Arc<dyn Needed>) -> ReadHints {
    ReadHints { schema: Some(Arc::clone(schema)), needed: Some(needed), ..ReadHints::default() }
}

/// Rows 0, 1, … with a number that grows in steps of a thousand rows, times a second apart, and text of growing length, so
/// that pages of the columns begin at different rows.
fn steps(count: i64) -> RecordBatch {
    let ids: Vec<i64> = (0..count).collect();
    let text: StringArray = ids.iter().map(|n| Some("x".repeat((n % 97) as usize))).collect();
    let step: Int64Array = ids.iter().map(|n| Some(n / 1_000)).collect();
    let at: TimestampMicrosecondArray = ids.iter().map(|n| Some(n * 1_000_000)).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(Int64Array::from(ids)) as ArrayRef, true),
        ("step", Arc::new(step) as ArrayRef, true),
        ("text", Arc::new(text) as ArrayRef, true),
        ("at", Arc::new(at) as ArrayRef, true),
    ])
    .expect("steps")
}

#[test]
fn groups_and_pages_without_a_needed_row_are_not_read() {
    let rig = Rig::new();
    let rows = steps(200_000);
    write(&rig, "in/a.parquet", &rows, 100_000, 2_500);
    let source = rig.source(&PARQUET).expect("a source");
    let hints = hints_of(&rows.schema(), Equals::of("step", 142, false));
    let (ids, places, passed_over) = read(&*source, &hints);
    assert!((142_000..143_000).all(|n| ids.contains(&n)), "{} rows from {:?}", ids.len(), ids.first());
    assert!(ids.len() <= 5_000, "two pages at most, not {}", ids.len());
    assert_eq!(
        places,
        ids.iter().map(|n| *n as u64).collect::<Vec<_>>(),
        "rows are known by their number in the split"
    );
    assert_eq!(passed_over + ids.len() as u64, 200_000);

    // An interval leaves out pages, too, and rows outside of it are nobody's to need.
    let interval = Interval { start: Timestamp(50_000_000_000), end: Timestamp(60_000_000_000) };
    let hints = ReadHints { interval: Some(interval), event_time: Some("at".to_owned()), needed: None, ..hints };
    let (ids, _, passed_over) = read(&*source, &hints);
    assert!((50_000..60_000).all(|n| ids.contains(&n)) && ids.len() <= 15_000, "{}", ids.len());
    assert_eq!(passed_over, 0);
    let both = ReadHints { needed: Some(Equals::of("step", 142, false)), ..hints };
    assert_eq!(read(&*source, &both).0, [0_i64; 0], "no row of the interval is needed");
}

#[test]
fn a_row_without_a_time_is_outside_of_no_interval() {
    let rig = Rig::new();
    let rows = steps(60_000);
    let at: TimestampMicrosecondArray = (0..60_000).map(|n: i64| (n != 21_000).then_some(n * 1_000_000)).collect();
    let mut columns = rows.columns().to_vec();
    columns[3] = Arc::new(at);
    let rows = RecordBatch::try_new(rows.schema(), columns).expect("rows");
    write(&rig, "in/a.parquet", &rows, 30_000, 1_000);
    let source = rig.source(&PARQUET).expect("a source");
    let interval = Interval { start: Timestamp(2_000_000_000), end: Timestamp(3_000_000_000) };
    let hints = ReadHints {
        schema: Some(rows.schema()),
        interval: Some(interval),
        event_time: Some("at".to_owned()),
        ..ReadHints::default()
    };
    let (ids, _, _) = read(&*source, &hints);
    assert!(ids.contains(&21_000) && (2_000..3_000).all(|n| ids.contains(&n)), "{}", ids.len());
    assert!(ids.len() < 12_000 && !ids.contains(&50_000), "the pages with either, not {} rows", ids.len());
}

#[test]
fn offsets_mean_the_same_rows_whatever_is_left_out() {
    let rig = Rig::new();
    let rows = steps(60_000);
    write(&rig, "in/a.parquet", &rows, 30_000, 1_000);
    let source = rig.source(&PARQUET).expect("a source");
    let split = source.list_splits().expect("lists").remove(0);
    let hints = hints_of(&rows.schema(), Equals::of("step", 41, false));
    let batches = drain(&mut *source.open(&split, None, &hints).expect("opens"));
    let last = batches.last().expect("rows").resume.clone();
    assert_eq!(last, Offset("1:12000".to_owned()));
    let all = ReadHints { needed: None, ..hints.clone() };
    let rest = drain(&mut *source.open(&split, Some(&last), &all).expect("resumes"));
    assert_eq!(rest.first().and_then(|batch| batch.first), Some(42_000));
    let mut reader = source.open(&split, None, &hints).expect("opens");
    reader.stop_at(&Offset("1:11500".to_owned())).expect("stops");
    let stopped = drain(&mut *reader);
    assert_eq!(stopped.last().expect("rows").resume, Offset("1:11500".to_owned()));
    assert!(drain(&mut *source.open(&split, Some(&last), &hints).expect("resumes")).is_empty());
}

#[test]
fn folders_rule_out_files_that_are_then_not_opened() {
    let rig = Rig::new();
    let part = |from: i64| {
        RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![from, from + 1])) as ArrayRef)])
            .expect("rows")
    };
    for k in ["1", "2", "__HIVE_DEFAULT_PARTITION__"] {
        write(&rig, &format!("in/k={k}/a.parquet"), &part(k.parse().unwrap_or(9) * 10), 10, 10);
    }
    // This file says something else than its folder, and the file is right.
    let both = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from(vec![77])) as ArrayRef),
        ("k", Arc::new(Int64Array::from(vec![2])) as ArrayRef),
    ]);
    write(&rig, "in/k=3/a.parquet", &both.expect("rows"), 10, 10);
    let schema: SchemaRef =
        Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("k", DataType::Int64, true)]));
    let source = rig.source(&PARQUET).expect("a source");
    assert_eq!(source.list_splits().expect("lists").len(), 4);
    let read = |needed| {
        let (mut ids, _, passed_over) = read(&*source, &hints_of(&schema, needed));
        ids.sort_unstable();
        (ids, passed_over)
    };
    assert_eq!(read(Equals::of("k", 2, false)), (vec![20, 21, 77], 4));
    assert_eq!(read(Equals::of("k", 2, true)), (vec![20, 21, 77, 90, 91], 2), "and those without a k");
    let spoiled = rig.path("in/k=1/a.parquet");
    let size = std::fs::metadata(&spoiled).expect("a file").len();
    std::fs::write(&spoiled, vec![0; size as usize]).expect("written");
    assert_eq!(read(Equals::of("k", 2, false)), (vec![20, 21, 77], 4));
}

#[test]
fn what_is_not_known_for_sure_leaves_out_nothing() {
    let rig = Rig::new();
    let float = Float64Array::from(vec![1.0, f64::NAN, 2.0]);
    let nulls = Int32Array::from(vec![None, Some(5), None]);
    let text = StringArray::from(vec!["1", "2", "3"]);
    let ns = TimestampNanosecondArray::from(vec![1_999, 2_000, 7_001]);
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(Int64Array::from(vec![0, 1, 2])) as ArrayRef, true),
        ("float", Arc::new(float) as ArrayRef, true),
        ("nulls", Arc::new(nulls) as ArrayRef, true),
        ("text", Arc::new(text) as ArrayRef, true),
        ("ns", Arc::new(ns) as ArrayRef, true),
    ])
    .expect("rows");
    write(&rig, "in/a.parquet", &batch, 10, 10);
    let source = rig.source(&PARQUET).expect("a source");
    let id: SchemaRef = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
    let rows =
        |column: &str, value, or_null| read(&*source, &hints_of(&id, Equals::of(column, value, or_null))).0.len();
    assert_eq!((rows("nulls", 5, false), rows("nulls", 6, false), rows("nulls", 6, true)), (3, 0, 3));
    assert_eq!(rows("text", 9, false), 3, "text says nothing about numbers");
    assert_eq!((rows("gone", 1, false), rows("gone", 1, true)), (0, 3), "a column that the file lacks is NULL");

    /// Keeps what it is told.
    #[derive(Debug)]
    struct Told(SchemaRef, std::sync::Mutex<Vec<ColumnBounds>>);
    impl Needed for Told {
        fn columns(&self) -> &SchemaRef {
            &self.0
        }
        fn may_be_in(&self, rows: &UInt64Array, bounds: &[ColumnBounds]) -> Vec<bool> {
            self.1.lock().expect("locks").extend_from_slice(bounds);
            vec![true; rows.len()]
        }
    }
    let told = |field: Field| {
        let told = Arc::new(Told(Arc::new(Schema::new(vec![field])), std::sync::Mutex::default()));
        read(&*source, &hints_of(&id, Arc::clone(&told) as Arc<dyn Needed>));
        let bounds = told.1.lock().expect("locks");
        bounds[0].clone()
    };
    assert!(told(Field::new("float", DataType::Float64, true)).greatest.is_null(0), "NaN is in no statistics");
    let micros = told(Field::new("ns", DataType::Timestamp(TimeUnit::Microsecond, None), true));
    assert_eq!(micros.least.as_ref(), &TimestampMicrosecondArray::from(vec![1]) as &dyn Array);
    assert_eq!(micros.greatest.as_ref(), &TimestampMicrosecondArray::from(vec![7]) as &dyn Array);
}

/// Whatever the layout of pages and groups, all rows that are needed come, with their numbers.
#[test]
fn random_files_give_every_needed_row() {
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let rig = Rig::new();
        let count = random.i64(1..60_000);
        let (run, values) = (random.i64(1..9_000), random.i64(1..30));
        let mut numbers = Vec::new();
        while (numbers.len() as i64) < count {
            let value = (random.u8(0..6) > 0).then(|| random.i64(0..values));
            numbers.extend(std::iter::repeat_n(value, random.i64(1..=run) as usize));
        }
        numbers.truncate(count as usize);
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("id", Arc::new(Int64Array::from_iter_values(0..count)) as ArrayRef, true),
            ("n", Arc::new(Int64Array::from(numbers.clone())) as ArrayRef, true),
        ])
        .expect("rows");
        write(&rig, "in/a.parquet", &batch, random.usize(1_000..40_000), random.usize(64..9_000));
        let source = rig.source(&PARQUET).expect("a source");
        let (value, or_null) = (random.i64(0..values), random.bool());
        let (ids, places, passed_over) = read(&*source, &hints_of(&batch.schema(), Equals::of("n", value, or_null)));
        assert_eq!(places, ids.iter().map(|id| *id as u64).collect::<Vec<_>>(), "seed {seed}");
        assert_eq!(ids.len() as u64 + passed_over, count as u64, "seed {seed}");
        let came: std::collections::HashSet<i64> = ids.into_iter().collect();
        for (id, number) in numbers.iter().enumerate() {
            let needed = number.map_or(or_null, |number| number == value);
            assert!(!needed || came.contains(&(id as i64)), "seed {seed}: row {id} is missing");
        }
    }
}

#[test]
fn a_read_that_needs_all_rows_says_where_they_are() {
    let rig = Rig::new();
    write(&rig, "in/a.parquet", &steps(5_000), 1_500, 500);
    let source = rig.source(&PARQUET).expect("a source");
    let split = source.list_splits().expect("lists").remove(0);
    let hints = ReadHints { schema: Some(steps(0).schema()), ..ReadHints::default() };
    let batches = drain(&mut *source.open(&split, None, &hints).expect("opens"));
    assert_eq!(batches.iter().map(|batch| batch.first.expect("a number")).filter(|n| n % 1_500 == 0).count(), 4);
}
