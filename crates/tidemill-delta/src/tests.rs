//! What tables look like after commits, crashes and races. Tables are read back by DataFusion, not by the sink.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::prelude::SessionContext;
use tempfile::TempDir;
use tidemill_model::{Clock, Epoch, Interval, Kind, Offset, Options, Result, Timestamp};
use tidemill_runtime::{
    Batch, Committable, Connector, DatasetSpec, Environment, Payload, Pull, ReadHints, Sink, SinkTarget, SourceBatch,
    TablePart, WriteMode,
};

use crate::blocking::block_on;
use crate::config::OPTIONS;
use crate::{DeltaConnector, table_provider};

mod reading;
mod refused;
mod rewrites;

#[derive(Debug)]
struct Noon;

impl Clock for Noon {
    fn now(&self) -> Timestamp {
        Timestamp(1_800_000_000_000_000)
    }
}

/// A project folder with one target.
struct World {
    folder: TempDir,
    options: Vec<(&'static str, String)>,
    mode: WriteMode,
    interval: Option<Interval>,
    name: &'static str,
}

/// `(order, region, second, amount)`; seconds are counted from a fixed day.
type Row = (&'static str, &'static str, Option<i64>, i64);

const DAY: i64 = 1_767_225_600_000_000;

fn world(mode: WriteMode) -> World {
    let folder = tempfile::tempdir().expect("a folder");
    World { folder, options: vec![("path", "out/orders".to_owned())], mode, interval: None, name: "orders" }
}

fn upsert() -> WriteMode {
    WriteMode::Upsert { key: vec!["id".to_owned()], sequence: Some("at".to_owned()) }
}

fn columns() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, true),
        Field::new("Region", DataType::Utf8View, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("amount", DataType::Int64, true),
    ]))
}

fn rows(rows: &[Row]) -> RecordBatch {
    let columns_of: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter(rows.iter().map(|row| (!row.0.is_empty()).then_some(row.0)))),
        Arc::new(arrow::array::StringViewArray::from_iter_values(rows.iter().map(|row| row.1))),
        Arc::new(TimestampMicrosecondArray::from_iter(rows.iter().map(|row| row.2.map(|s| DAY + s * 1_000_000)))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.3))),
    ];
    RecordBatch::try_new(columns(), columns_of).expect("rows")
}

fn seconds(start: i64, end: i64) -> Interval {
    Interval { start: Timestamp(DAY + start * 1_000_000), end: Timestamp(DAY + end * 1_000_000) }
}

impl World {
    fn env(&self) -> Environment {
        Environment {
            project: self.folder.path().to_owned(),
            state: self.folder.path().join(".tidemill"),
            clock: Arc::new(Noon),
            stores: BTreeMap::new(),
        }
    }

    fn spec(&self) -> DatasetSpec {
        let given = Options::of(self.options.iter().map(|(name, value)| (*name, value.as_str())));
        DatasetSpec {
            name: "orders".to_owned(),
            schema: Arc::new(Schema::empty()),
            event_time: Some("at".to_owned()),
            settings: given.resolve("connector `delta`", OPTIONS).expect("options"),
            format: None,
        }
    }

    fn sink_of(&self, schema: SchemaRef) -> Result<Arc<dyn Sink>> {
        let target = SinkTarget {
            pipeline: "p".to_owned(),
            sink: self.name.to_owned(),
            schema,
            mode: self.mode.clone(),
            interval: self.interval,
            staging: self.folder.path().join(".tidemill/staging").join(self.name),
        };
        DeltaConnector.sink(&self.spec(), &target, &self.env())
    }

    fn sink(&self) -> Arc<dyn Sink> {
        self.sink_of(columns()).expect("a sink")
    }

    /// Stages rows on two lanes.
    fn stage(&self, epoch: u64, batches: &[Batch]) -> Vec<Committable> {
        let sink = self.sink();
        let mut staged = Vec::new();
        for lane in 0..2 {
            let mut writer = sink.writer(lane).expect("a writer");
            for batch in batches.iter().skip(lane).step_by(2) {
                writer.write(batch).expect("writes");
            }
            staged.extend(writer.prepare(Epoch(epoch)).expect("prepares"));
        }
        staged
    }

    fn commit(&self, epoch: u64, staged: &[Committable]) -> Result<()> {
        self.sink().committer()?.commit(Epoch(epoch), staged)
    }

    /// One epoch, each row its own batch.
    fn write(&self, epoch: u64, given: &[Row]) {
        let batches: Vec<Batch> = given.iter().map(|row| rows(&[*row]).into()).collect();
        self.commit(epoch, &self.stage(epoch, &batches)).expect("commits");
    }

    fn staged_files(&self) -> usize {
        std::fs::read_dir(self.folder.path().join(".tidemill/staging").join(self.name)).map_or(0, Iterator::count)
    }

    fn query(&self, sql: &str) -> Vec<String> {
        let (spec, env, sql) = (self.spec(), self.env(), sql.to_owned());
        block_on(async move {
            let context = SessionContext::new();
            context.register_table("orders", table_provider(&spec, &env).await?).expect("registers");
            let batches = context.sql(&sql).await.expect("plans").collect().await.expect("runs");
            Ok(batches.iter().flat_map(lines).collect())
        })
        .expect("reads")
    }

    /// All rows as text, sorted.
    fn table(&self) -> Vec<String> {
        let mut all = self.query(r#"SELECT id, "Region", at, amount FROM orders"#);
        all.sort();
        all
    }

    fn version(&self) -> usize {
        let log = std::fs::read_dir(self.folder.path().join("out/orders/_delta_log")).expect("a log");
        log.flatten().filter(|entry| entry.path().extension().is_some_and(|kind| kind == "json")).count() - 1
    }
}

fn lines(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("-");
    let columns: Vec<ArrayFormatter<'_>> =
        batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).expect("formats")).collect();
    (0..batch.num_rows())
        .map(|row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(" "))
        .collect()
}

fn text(given: &[Row]) -> Vec<String> {
    let mut all = lines(&rows(given));
    for line in &mut all {
        // Stored times are instants in UTC.
        if let Some((head, tail)) = line.rsplit_once(' ') {
            *line = if head.ends_with(" -") { line.clone() } else { format!("{head}Z {tail}") };
        }
    }
    all.sort();
    all
}

#[test]
fn an_epoch_is_in_the_table_once_however_often_it_is_committed() {
    let world = world(WriteMode::Append);
    let given = [("a", "eu", Some(1), 1), ("b", "us", Some(2), 2), ("c", "eu", None, 3)];
    let staged = world.stage(1, &given.iter().map(|row| rows(&[*row]).into()).collect::<Vec<_>>());
    assert_eq!(staged.len(), 2);
    assert!(!world.folder.path().join("out").exists(), "nothing is visible before the commit");
    let sink = world.sink();
    let mut committer = sink.committer().expect("a committer");
    for _ in 0..2 {
        committer.commit(Epoch(1), &staged).expect("commits");
    }
    // Another process, after a crash that lost the answer.
    world.commit(1, &staged).expect("commits");
    assert_eq!(world.table(), text(&given));
    assert_eq!((world.version(), world.staged_files()), (1, 0));
    world.write(2, &[("d", "eu", Some(4), 4)]);
    assert_eq!(world.table().len(), 4);
    committer.commit(Epoch(3), &[]).expect("an epoch without rows");
    assert_eq!(world.version(), 2, "it made no version");
}

#[test]
fn a_table_that_is_ahead_of_the_state_is_not_taken_for_progress() {
    let world = world(WriteMode::Append);
    world.write(1, &[("a", "eu", Some(1), 1)]);
    world.write(2, &[("b", "eu", Some(2), 2)]);
    // The state was lost: the pipeline begins again, and its first epoch is not the one in the table.
    let sink = world.sink();
    let error = sink.committer().expect("a committer").abort_after(Epoch::NONE).expect_err("refused");
    assert_eq!(error.kind(), Kind::Fenced, "{error}");
    let staged = world.stage(1, &[rows(&[("c", "eu", Some(3), 3)]).into()]);
    assert_eq!(world.commit(1, &staged).expect_err("refused").kind(), Kind::Fenced);
    assert_eq!(world.table().len(), 2);
    sink.committer().expect("a committer").abort_after(Epoch(2)).expect("the state is as new as the table");
}

#[test]
fn what_was_staged_for_later_epochs_is_swept_and_the_last_one_can_still_be_committed() {
    let world = world(WriteMode::Append);
    let kept = world.stage(7, &[rows(&[("a", "eu", Some(1), 1)]).into()]);
    let _ = world.stage(8, &[rows(&[("b", "eu", Some(2), 2)]).into()]);
    let sink = world.sink();
    let mut unfinished = sink.writer(5).expect("a writer");
    unfinished.write(&rows(&[("c", "eu", Some(3), 3)]).into()).expect("writes");
    drop(unfinished);
    assert_eq!(world.staged_files(), 3);
    sink.committer().expect("a committer").abort_after(Epoch(7)).expect("sweeps");
    assert_eq!(world.staged_files(), 1);
    world.commit(7, &kept).expect("commits");
    assert_eq!(world.table(), text(&[("a", "eu", Some(1), 1)]));
}

#[test]
fn damaged_or_missing_staged_rows_never_reach_the_table() {
    let world = world(WriteMode::Append);
    let staged = world.stage(1, &[rows(&[("a", "eu", Some(1), 1)]).into()]);
    let file = world.folder.path().join(".tidemill/staging/orders").join(staged[0].0["file"].as_str().expect("a name"));
    let mut bytes = std::fs::read(&file).expect("reads");
    let middle = bytes.len() - 20;
    bytes[middle] ^= 0xff;
    std::fs::write(&file, &bytes).expect("writes");
    assert_eq!(world.commit(1, &staged).expect_err("refused").kind(), Kind::Corrupt);
    std::fs::remove_file(&file).expect("removes");
    assert_eq!(world.commit(1, &staged).expect_err("refused").kind(), Kind::Corrupt);
    assert_eq!(world.table(), Vec::<String>::new());
}

/// A table whose constraint makes the library's MERGE take over from the copying of files.
fn constrained(world: &World) {
    let location = crate::config::DeltaConfig::of(&world.spec(), &world.env()).expect("options").location;
    let stored = crate::types::stored_schema(&columns()).expect("types");
    block_on(async move {
        use deltalake_core::kernel::StructType;
        use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel;
        let fields: StructType = stored.as_ref().try_into_kernel().expect("types");
        let table = deltalake_core::operations::create::CreateBuilder::new()
            .with_log_store(location.log_store()?)
            .with_columns(fields.fields().cloned())
            .await
            .expect("creates");
        table.add_constraint().with_constraint("known", "id <> 'never'").await.expect("constrains");
        Ok(())
    })
    .expect("a table");
}

#[test]
fn the_greatest_row_of_a_key_remains_whatever_the_order() {
    for library in [false, true] {
        let world = world(upsert());
        if library {
            constrained(&world);
        }
        world.write(
            1,
            &[("a", "eu", Some(5), 1), ("b", "eu", Some(5), 1), ("a", "eu", Some(3), 9), ("a", "eu", Some(5), 2)],
        );
        assert_eq!(world.table(), text(&[("a", "eu", Some(5), 2), ("b", "eu", Some(5), 1)]), "duplicates in one epoch");
        // Older, equal, tied and newer than what is stored; and a new key.
        world.write(2, &[("a", "eu", Some(4), 7), ("b", "eu", Some(5), 0), ("c", "us", Some(1), 1)]);
        let unchanged = [("a", "eu", Some(5), 2), ("b", "eu", Some(5), 1), ("c", "us", Some(1), 1)];
        assert_eq!(world.table(), text(&unchanged));
        world.write(3, &[("a", "eu", Some(6), 0), ("b", "eu", Some(5), 3), ("c", "us", Some(1), 1)]);
        assert_eq!(world.table(), text(&[("a", "eu", Some(6), 0), ("b", "eu", Some(5), 3), ("c", "us", Some(1), 1)]));
        let staged = world.stage(4, &[rows(&[("a", "us", Some(9), 4)]).into()]);
        world.commit(4, &staged).expect("commits");
        let version = world.version();
        world.commit(4, &staged).expect("commits again");
        assert_eq!(world.version(), version);
        assert_eq!(world.table()[0], text(&[("a", "us", Some(9), 4)])[0]);
    }
}

#[test]
fn retractions_update_and_delete() {
    for library in [false, true] {
        let mut world = world(WriteMode::Upsert { key: vec!["id".to_owned()], sequence: None });
        world.options.push(("partition_by", "Region".to_owned()));
        if library {
            world.options.pop();
            constrained(&world);
        }
        world.write(1, &[("a", "eu", Some(1), 5), ("b", "us", Some(1), 5), ("c", "us", Some(1), 1)]);
        // a falls in value, b moves to another partition, c goes.
        let changes = rows(&[
            ("a", "eu", Some(1), 5),
            ("a", "eu", Some(1), 2),
            ("b", "us", Some(1), 5),
            ("b", "eu", Some(1), 4),
            ("c", "us", Some(1), 1),
        ]);
        let changes = Batch { rows: changes, weights: Some(Int64Array::from(vec![-1, 1, -1, 1, -1])) };
        world.commit(2, &world.stage(2, &[changes])).expect("commits");
        assert_eq!(world.table(), text(&[("a", "eu", Some(1), 2), ("b", "eu", Some(1), 4)]));
    }
}

/// A small generator, so that failures repeat.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn both_ways_of_merging_agree_with_a_map() {
    const IDS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    for seed in 0..3 {
        let worlds = [world(upsert()), world(upsert())];
        constrained(&worlds[1]);
        let mut dice = Dice(seed);
        let mut expected: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
        for epoch in 1..=20 {
            let given: Vec<Row> = (0..1 + dice.below(6))
                .map(|_| {
                    let id = IDS[dice.below(12) as usize];
                    (id, "eu", Some(dice.below(5) as i64), dice.below(5) as i64)
                })
                .collect();
            for row in &given {
                let version = (row.2.expect("a time"), row.3);
                let stored = expected.entry(row.0).or_insert(version);
                *stored = (*stored).max(version);
            }
            for world in &worlds {
                world.write(epoch, &given);
            }
        }
        let expected: Vec<Row> = expected.iter().map(|(id, (at, amount))| (*id, "eu", Some(*at), *amount)).collect();
        for (way, world) in worlds.iter().enumerate() {
            assert_eq!(world.table(), text(&expected), "seed {seed}, way {way}");
        }
    }
}

#[test]
fn a_null_in_the_key_is_refused_by_name() {
    let world = world(upsert());
    let sink = world.sink();
    let mut writer = sink.writer(0).expect("a writer");
    let error = writer.write(&rows(&[("", "eu", Some(1), 1)]).into()).expect_err("refused");
    assert_eq!(error.kind(), Kind::Data);
    assert!(error.message().contains("`id`"), "{error}");
}

#[test]
fn replacing_an_interval_touches_nothing_else_and_can_be_repeated() {
    let mut world = world(WriteMode::Append);
    world.write(
        1,
        &[
            ("a", "eu", Some(0), 1),
            ("b", "eu", Some(10), 2),
            ("c", "eu", Some(19), 3),
            ("d", "eu", Some(20), 4),
            ("e", "eu", None, 5),
        ],
    );
    world.mode = WriteMode::Replace { column: "at".to_owned(), part: TablePart::default() };
    world.interval = Some(seconds(10, 20));
    for epoch in 2..=3 {
        world.write(epoch, &[("x", "eu", Some(10), 7), ("y", "eu", Some(15), 8)]);
        let expected = [
            ("a", "eu", Some(0), 1),
            ("d", "eu", Some(20), 4),
            ("e", "eu", None, 5),
            ("x", "eu", Some(10), 7),
            ("y", "eu", Some(15), 8),
        ];
        assert_eq!(world.table(), text(&expected), "epoch {epoch}");
    }
    world.interval = Some(seconds(20, 30));
    world.write(4, &[("z", "eu", Some(25), 9)]);
    world.interval = Some(seconds(10, 20));
    world.commit(5, &[]).expect("a run without rows");
    assert_eq!(world.table(), text(&[("a", "eu", Some(0), 1), ("e", "eu", None, 5), ("z", "eu", Some(25), 9)]));
    let version = world.version();
    world.commit(5, &[]).expect("again");
    assert_eq!(world.version(), version);
    // A row outside its interval is a defect of the plan; it must not be written silently.
    let staged = world.stage(6, &[rows(&[("q", "eu", Some(99), 1)]).into()]);
    assert!(world.commit(6, &staged).is_err());
    assert_eq!(world.table().len(), 3);
}

#[test]
fn a_part_is_replaced_and_the_rest_stays_whatever_it_is_partitioned_by() {
    for partitioned in [false, true] {
        let mut world = world(WriteMode::Append);
        if partitioned {
            world.options.push(("partition_by", "Region".to_owned()));
        }
        world.write(
            1,
            &[("a", "eu", Some(0), 1), ("b", "us", Some(1), 2), ("c", "eu", Some(15), 3), ("d", "ap", None, 4)],
        );
        let eu = TablePart::default().only("Region", [Some("eu".to_owned())]);
        world.mode = WriteMode::Overwrite { part: eu.clone() };
        world.interval = Some(seconds(0, 10));
        for epoch in 2..=3 {
            world.write(epoch, &[("x", "eu", Some(99), 7)]);
            let expected = [("b", "us", Some(1), 2), ("d", "ap", None, 4), ("x", "eu", Some(99), 7)];
            assert_eq!(world.table(), text(&expected), "epoch {epoch}");
        }
        world.mode = WriteMode::Replace { column: "at".to_owned(), part: eu };
        world.write(4, &[("y", "eu", Some(5), 8)]);
        world.mode = WriteMode::Overwrite {
            part: TablePart::default().only("amount", [Some("2".to_owned()), Some("4".to_owned())]),
        };
        world.commit(5, &[]).expect("a run without rows");
        assert_eq!(world.table(), text(&[("x", "eu", Some(99), 7), ("y", "eu", Some(5), 8)]));
        world.mode = WriteMode::Overwrite { part: TablePart::default() };
        world.write(6, &[("z", "us", None, 9)]);
        assert_eq!(world.table(), text(&[("z", "us", None, 9)]));
        world.commit(7, &[]).expect("a run without rows");
        assert_eq!(world.table(), Vec::<String>::new());
        let version = world.version();
        world.commit(7, &[]).expect("again");
        assert_eq!(world.version(), version);
    }
}

#[test]
fn a_first_run_without_rows_makes_an_empty_table() {
    let mut world = world(WriteMode::Replace { column: "at".to_owned(), part: TablePart::default() });
    world.interval = Some(seconds(0, 10));
    world.commit(1, &[]).expect("commits");
    assert_eq!(world.table(), Vec::<String>::new());
}

/// The same table under another name, so that this process's own queueing does not hide conflicts.
#[cfg(unix)]
fn alias(world: &World, name: &'static str, mode: WriteMode) -> World {
    let other = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(world.folder.path().join("out")).expect("a folder");
    std::os::unix::fs::symlink(world.folder.path().join("out"), other.path().join("out")).expect("links");
    World { folder: other, options: world.options.clone(), mode, interval: None, name }
}

#[cfg(unix)]
#[test]
fn writers_that_race_lose_nothing() {
    let first = world(WriteMode::Append);
    let writers = [
        alias(&first, "one", WriteMode::Append),
        alias(&first, "two", WriteMode::Append),
        alias(&first, "keyed", upsert()),
    ];
    std::thread::scope(|scope| {
        for (at, writer) in writers.iter().enumerate() {
            scope.spawn(move || {
                for epoch in 1..=8 {
                    let row = match at {
                        0 => ("one", "eu", Some(epoch), epoch),
                        1 => ("two", "us", Some(epoch), epoch),
                        _ => ("keyed", "eu", Some(epoch), epoch),
                    };
                    let staged = writer.stage(epoch as u64, &[rows(&[row]).into()]);
                    // An engine that is told "unavailable" tries again.
                    while let Err(error) = writer.commit(epoch as u64, &staged) {
                        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
                    }
                }
            });
        }
    });
    let counts = first.query("SELECT id, count(*), sum(amount) FROM orders GROUP BY id ORDER BY id");
    assert_eq!(counts, ["keyed 1 8", "one 8 36", "two 8 36"]);
    let created = std::fs::read_dir(first.folder.path().join("out/orders/_delta_log")).expect("a log").flatten();
    let metadata = created
        .filter(|entry| entry.path().extension().is_some_and(|kind| kind == "json"))
        .filter(|entry| std::fs::read_to_string(entry.path()).expect("reads").contains("\"metaData\""));
    assert_eq!(metadata.count(), 1, "the table was created once");
}
