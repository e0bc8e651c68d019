//! Tables as they are read, declared and kept in shape.

use super::*;

#[test]
fn an_absent_table_is_named_when_it_is_read() {
    let world = world(WriteMode::Append);
    let error = DeltaConnector.source(&world.spec(), &world.env()).expect_err("refused");
    assert_eq!((error.kind(), error.message()), (Kind::Config, "there is no Delta table at out/orders"));
}

#[test]
fn the_contracts_can_be_called_from_inside_another_runtime() {
    let world = world(WriteMode::Append);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        world.write(1, &[("a", "eu", Some(1), 1)]);
        let provider = table_provider(&world.spec(), &world.env()).await.expect("opens");
        assert_eq!(provider.schema().field(2).data_type(), &crate::types::instant());
        let context = SessionContext::new();
        context.register_table("orders", provider).expect("registers");
        let found = context.sql("SELECT id FROM orders WHERE amount = 1").await.expect("plans").collect().await;
        assert_eq!(found.expect("runs").iter().flat_map(lines).collect::<Vec<_>>(), ["a"]);
    });
}

#[test]
fn declared_types_are_presented_and_filters_still_skip_files() {
    let mut world = world(WriteMode::Append);
    world.options.push(("partition_by", "Region".to_owned()));
    world.write(1, &[("a", "eu", Some(1), 1), ("b", "us", Some(2), 2)]);
    world.write(2, &[("c", "eu", Some(100), 3)]);
    let mut spec = world.spec();
    spec.schema = Arc::new(Schema::new(vec![
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("Region", DataType::Utf8, true),
        Field::new("amount", DataType::Int64, true),
    ]));
    let env = world.env();
    let (found, plan) = block_on(async move {
        let provider = table_provider(&spec, &env).await?;
        assert_eq!(provider.schema(), spec.schema);
        let context = SessionContext::new();
        context.register_table("orders", provider).expect("registers");
        let sql = r#"SELECT "Region", amount, arrow_typeof(at) FROM orders
                     WHERE at >= TIMESTAMP '2026-01-01T00:01:00' AND at < TIMESTAMP '2026-01-02T00:00:00'"#;
        let found = context.sql(sql).await.expect("plans").collect().await.expect("runs");
        let plan = context.sql(&format!("EXPLAIN ANALYZE {sql}")).await.expect("plans").collect().await.expect("runs");
        Ok((found.iter().flat_map(lines).collect::<Vec<_>>(), plan.iter().flat_map(lines).collect::<String>()))
    })
    .expect("reads");
    assert_eq!(found, ["eu 3 Timestamp(µs)"]);
    assert!(plan.contains("count_files_scanned=1"), "{plan}");
}

#[test]
fn a_growing_table_is_read_file_by_file_and_resumed_inside_one() {
    let mut world = world(WriteMode::Append);
    world.options.push(("partition_by", "Region".to_owned()));
    world.write(1, &[("a", "eu", Some(7), 1), ("b", "us", Some(3), 2), ("c", "eu", Some(5), 3)]);
    let source = DeltaConnector.source(&world.spec(), &world.env()).expect("a source");
    let splits = source.list_splits().expect("lists");
    let least: Vec<Option<i64>> =
        splits.iter().map(|split| split.min_event_time.map(|at| (at - DAY) / 1_000_000)).collect();
    assert_eq!(least, [Some(5), Some(3)], "one file for each partition, in order of their names");
    let schema: SchemaRef = Arc::new(columns().project(&[3, 1, 2]).expect("projects"));
    let hints = ReadHints { schema: Some(Arc::clone(&schema)), ..ReadHints::default() };
    let read = |resume: Option<&Offset>| {
        let mut reader = source.open(&splits[0], resume, &hints).expect("opens");
        let (mut found, mut resume) = (Vec::new(), None);
        loop {
            match reader.next().expect("reads") {
                Pull::Rows(batch) => {
                    let Payload::Columns(rows) = batch.payload else { panic!("columns") };
                    assert_eq!(rows.schema(), schema);
                    found.extend(rows.column(0).as_primitive::<Int64Type>().values().iter().copied());
                    resume = Some(batch.resume);
                }
                Pull::Finished => return (found, resume),
                Pull::AtEnd => panic!("a file has an end"),
            }
        }
    };
    let (whole, resume) = read(None);
    assert_eq!((whole.len(), resume.as_ref()), (2, Some(&Offset::number(2))));
    assert_eq!(read(Some(&Offset::number(1))).0, whole[1..]);
    assert_eq!(read(resume.as_ref()).0, Vec::<i64>::new());
    let mut reader = source.open(&splits[0], None, &hints).expect("opens");
    reader.stop_at(&Offset::number(1)).expect("a position");
    let Ok(Pull::Rows(SourceBatch { payload: Payload::Columns(rows), .. })) = reader.next() else { panic!("rows") };
    assert_eq!(rows.num_rows(), 1);
    assert!(matches!(reader.next(), Ok(Pull::Finished)));
    world.write(2, &[("d", "eu", Some(9), 4)]);
    assert_eq!(source.list_splits().expect("lists").len(), 3);
    world.mode = WriteMode::Replace { column: "at".to_owned(), part: tidemill_runtime::TablePart::default() };
    world.interval = Some(seconds(0, 100));
    world.write(3, &[("e", "eu", Some(9), 4)]);
    let error = source.list_splits().expect_err("refused");
    assert_eq!((error.kind(), error.code()), (Kind::Config, "C228"));
    let again = DeltaConnector.source(&world.spec(), &world.env()).expect("a source");
    assert_eq!(again.list_splits().expect_err("refused").code(), "C228");
}

#[test]
fn the_folder_may_be_given_in_several_ways() {
    let mut world = world(WriteMode::Append);
    world.write(1, &[("a", "eu", Some(1), 1)]);
    let folder = world.folder.path().join("out/orders");
    let absolute = folder.to_str().expect("a name").to_owned();
    for path in [absolute.clone(), format!("file://{absolute}"), "./out/../out/orders/".to_owned()] {
        world.options = vec![("path", path)];
        assert_eq!(world.table().len(), 1);
    }
    for (path, code) in [("gs://bucket/x", "C210"), ("s3:///x", "C210"), (" ", "C210")] {
        world.options = vec![("path", path.to_owned())];
        let error = DeltaConnector.discover_schema(&world.spec(), &world.env()).expect_err("refused");
        assert_eq!((error.kind(), error.code()), (Kind::Config, code), "{path}");
    }
    assert!(Path::new(&absolute).exists());
}

#[test]
fn settings_of_the_s3_store_are_checked() {
    let mut world = world(WriteMode::Append);
    world.options = vec![("path", "s3://bucket/orders".to_owned())];
    let mut env = world.env();
    let keys = [("region", "eu-west-1"), ("access_key_id", "k"), ("secret_access_key", "s")];
    env.stores.insert("s3".to_owned(), keys.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec());
    let location = |env: &Environment| crate::config::DeltaConfig::of(&world.spec(), env).expect("options").location;
    let log = location(&env).log_store().expect("a store");
    assert_eq!((log.root_url().as_str(), log.name().as_str()), ("s3://bucket/orders/", "DefaultLogStore"));
    env.stores.insert("s3".to_owned(), vec![("regoin".to_owned(), "x".to_owned())]);
    let Err(error) = location(&env).log_store() else { panic!("refused") };
    assert_eq!(error.caret_label(), "did you mean `region`?");
}

#[test]
fn a_column_of_the_table_that_the_query_lacks_becomes_null() {
    for library in [false, true] {
        let world = world(upsert());
        if library {
            constrained(&world);
        }
        world.write(1, &[("a", "eu", Some(1), 1)]);
        let narrow: SchemaRef = Arc::new(columns().project(&[2, 0]).expect("projects"));
        let sink = world.sink_of(narrow).expect("a sink");
        let mut writer = sink.writer(0).expect("a writer");
        let given = rows(&[("a", "", Some(2), 0), ("b", "", Some(2), 0)]).project(&[2, 0]).expect("projects");
        writer.write(&given.into()).expect("writes");
        let staged = writer.prepare(Epoch(2)).expect("prepares").expect("rows");
        sink.committer().expect("a committer").commit(Epoch(2), &[staged]).expect("commits");
        assert_eq!(world.table(), ["a - 2026-01-01T00:00:02Z -", "b - 2026-01-01T00:00:02Z -"]);
    }
}

#[test]
fn compaction_changes_the_files_and_not_the_rows() {
    let mut world = world(WriteMode::Append);
    world.options.push(("compact_every", "3".to_owned()));
    for epoch in 1..=2 {
        world.write(epoch, &[("a", "eu", Some(epoch as i64), 1)]);
    }
    let files = |world: &World| {
        let (spec, env) = (world.spec(), world.env());
        let location = crate::config::DeltaConfig::of(&spec, &env).expect("options").location;
        block_on(async move { Ok(location.existing().await?.snapshot().expect("loaded").log_data().num_files()) })
            .expect("reads")
    };
    assert_eq!(files(&world), 2);
    let staged = world.stage(3, &[rows(&[("a", "eu", Some(3), 1)]).into()]);
    world.commit(3, &staged).expect("commits");
    assert_eq!(files(&world), 1);
    world.commit(3, &staged).expect("commits again");
    assert_eq!(world.table(), text(&[("a", "eu", Some(1), 1), ("a", "eu", Some(2), 1), ("a", "eu", Some(3), 1)]));
}

#[test]
fn merging_gathers_small_files() {
    const IDS: [&str; 18] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r"];
    let world = world(upsert());
    for (at, id) in IDS.iter().enumerate() {
        world.write(at as u64 + 1, &[(id, "eu", Some(1), at as i64)]);
    }
    let location = crate::config::DeltaConfig::of(&world.spec(), &world.env()).expect("options").location;
    let files =
        block_on(async move { Ok(location.existing().await?.snapshot().expect("loaded").log_data().num_files()) });
    assert_eq!(files.expect("reads"), 2, "sixteen were gathered with the seventeenth, then one came");
    assert_eq!(world.table().len(), IDS.len());
}

#[test]
fn rows_computed_anew_win_over_whatever_is_stored() {
    let world = world(upsert());
    assert!(world.sink().is_unwritten().expect("looks"));
    world.write(1, &[("a", "eu", Some(9), 9), ("b", "eu", Some(9), 9)]);
    assert!(!world.sink().is_unwritten().expect("looks"));
    assert!(world.sink().overwrites());
    world.write(2, &[("a", "eu", Some(9), 1)]);
    let all = "SELECT id, amount FROM orders ORDER BY id";
    let before = world.query(all);
    assert!(before[0].contains('9'), "a smaller row does not win: {before:?}");
    let mut writer = world.sink().writer(0).expect("a writer");
    for row in [("a", "eu", Some(9), 1), ("c", "eu", Some(1), 3), ("c", "eu", Some(2), 4)] {
        writer.write(&rows(&[row]).into()).expect("writes");
    }
    let staged: Vec<Committable> = writer.prepare_anew(Epoch(3)).expect("prepares").into_iter().collect();
    for _ in 0..2 {
        world.commit(3, &staged).expect("commits, and again does nothing");
    }
    let after = world.query(all);
    assert_eq!(after.len(), 3);
    assert!(after[0].contains('1') && after[1].contains('9') && after[2].contains('4'), "{after:?}");
}
