//! What tables are not written to: those of other columns, and those whose log is damaged.

use super::*;

#[test]
fn a_table_with_other_columns_is_refused_before_anything_is_written() {
    let world = world(WriteMode::Append);
    world.write(1, &[("a", "eu", Some(1), 1)]);
    let mut fields: Vec<_> = columns().fields().iter().cloned().collect();
    fields[3] = Arc::new(Field::new("amount", DataType::Utf8, true));
    let error = world.sink_of(Arc::new(Schema::new(fields.clone()))).expect_err("refused");
    assert_eq!(error.kind(), Kind::Config);
    assert_eq!(error.message(), "column `amount` is Utf8 in the query and Int64 in the Delta table out/orders");
    fields[3] = Arc::new(Field::new("Amount", DataType::Int64, true));
    let error = world.sink_of(Arc::new(Schema::new(fields.clone()))).expect_err("refused");
    assert_eq!(error.caret_label(), "did you mean `amount`?");
    fields[3] = Arc::new(Field::new("amount", DataType::Int16, true));
    assert!(world.sink_of(Arc::new(Schema::new(fields))).is_ok(), "a narrower type fits");
    let mut partitioned = world;
    partitioned.options.push(("partition_by", "Region".to_owned()));
    assert_eq!(partitioned.sink_of(columns()).expect_err("refused").code(), "C222");
    assert_eq!(partitioned.version(), 1);
}

#[test]
fn a_table_whose_log_is_damaged_is_one_clear_error() {
    let world = world(WriteMode::Append);
    world.write(1, &[("a", "eu", Some(1), 1)]);
    let log = world.folder.path().join("out/orders/_delta_log");
    let damage = |name: &str, text: &str| std::fs::write(log.join(name), text).expect("writes");
    damage("00000000000000000001.json", "{\"add\":{\"path\":");
    check_damaged(&world);
    std::fs::remove_file(log.join("00000000000000000000.json")).expect("removes");
    check_damaged(&world);
    damage("00000000000000000000.json", "");
    check_damaged(&world);
}

fn check_damaged(world: &World) {
    let error = world.sink_of(columns()).expect_err("refused");
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(error.message().contains("out/orders"), "{error}");
    let error = DeltaConnector.discover_schema(&world.spec(), &world.env()).expect_err("refused");
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
}
