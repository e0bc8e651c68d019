//! What writers accept, where rows go, and what stays hidden.

use std::sync::Arc;

use arrow::array::Int64Array;
use tidemill_model::{Epoch, Kind};
use tidemill_runtime::{Batch, Connector, TablePart, WriteMode};

use super::{LogConnector, World, expect, rows};

#[test]
fn rows_are_seen_when_their_epoch_is_committed_and_not_before() {
    let world = World::new(&[("partitions", "3")]);
    let staged = world.stage("p", 1, &[vec![rows("a", 0..50)], vec![rows("b", 0..50), rows("c", 0..7)]]);
    assert_eq!(staged.len(), 2);
    assert_eq!(world.texts(), Vec::<String>::new());
    let mut committer = world.sink("p").committer().expect("a committer");
    committer.commit(Epoch(1), &staged).expect("committed");
    assert_eq!(world.texts(), expect(&[("a", 0..50), ("b", 0..50), ("c", 0..7)]));
    assert_eq!(world.staged_files("p"), 0);
    committer.commit(Epoch(1), &staged).expect("again");
    world.sink("p").committer().expect("another").commit(Epoch(1), &staged).expect("and again");
    assert_eq!(world.texts(), expect(&[("a", 0..50), ("b", 0..50), ("c", 0..7)]));
}

#[test]
fn an_epoch_without_rows_prepares_nothing() {
    let world = World::new(&[]);
    let sink = world.sink("p");
    let mut writer = sink.writer(0).expect("a writer");
    writer.write(&rows("a", 0..0)).expect("nothing");
    assert_eq!(writer.prepare(Epoch(1)).expect("prepares"), None);
    sink.committer().expect("a committer").commit(Epoch(1), &[]).expect("nothing");
    assert_eq!(world.source().list_splits().expect("splits").len(), 8, "the default");
}

#[test]
fn a_key_keeps_its_partition_and_its_order() {
    let world = World::new(&[("partitions", "4"), ("key", "id")]);
    for epoch in 1..=3 {
        world.publish("p", epoch, &[vec![rows(&format!("e{epoch}-"), 0..200)]]);
    }
    let mut seen = 0;
    for partition in 0..4 {
        let found = world.read(partition, None);
        let offsets: Vec<u64> = found.iter().map(|(offset, _)| *offset).collect();
        assert_eq!(offsets, (0..found.len() as u64).collect::<Vec<_>>());
        for (_, text) in &found {
            let (_, id) = text.split_once('-').expect("an id");
            let expected = (super::super::partitioner::murmur2(id.as_bytes()) & 0x7fff_ffff) % 4;
            assert_eq!(expected as usize, partition, "{text}");
        }
        let epochs: Vec<&str> = found.iter().map(|(_, text)| text.split('-').next().expect("epoch")).collect();
        assert!(epochs.is_sorted(), "epochs in order");
        seen += found.len();
    }
    assert_eq!(seen, 600);
}

#[test]
fn without_a_key_batches_go_round() {
    let world = World::new(&[("partitions", "4")]);
    world.publish("p", 1, &[(0..8).map(|batch| rows("a", batch * 10..batch * 10 + 10)).collect()]);
    for partition in 0..4 {
        assert_eq!(world.read(partition, None).len(), 20, "partition {partition}");
    }
}

#[test]
fn large_epochs_spill_and_come_back_whole() {
    let world = World::new(&[("partitions", "2")]);
    let long = "x".repeat(2000);
    let batches: Vec<Batch> = (0..30).map(|batch| rows(&long, batch * 100..batch * 100 + 100)).collect();
    let sink = world.sink("p");
    let mut writer = sink.writer(0).expect("a writer");
    for batch in &batches {
        writer.write(batch).expect("written");
    }
    assert_eq!(world.staged_files("p"), 1, "6 MB are more than the buffers hold");
    let staged = writer.prepare(Epoch(1)).expect("prepared").expect("something");
    sink.committer().expect("a committer").commit(Epoch(1), &[staged]).expect("committed");
    assert_eq!(world.texts(), expect(&[(&long, 0..3000)]));
}

#[test]
fn a_writer_that_fails_leaves_nothing() {
    let world = World::new(&[]);
    let sink = world.sink("p");
    let mut writer = sink.writer(0).expect("a writer");
    writer.write(&rows("a", 0..10)).expect("written");
    let text: Arc<dyn arrow::array::Array> = Arc::new(arrow::array::StringArray::from(vec!["good", "bad"]));
    let ids: Arc<dyn arrow::array::Array> = Arc::new(Int64Array::from(vec![1, 2]));
    let bad = arrow::array::RecordBatch::try_new(super::schema(), vec![ids, text]).expect("fits");
    assert!(writer.write(&bad.into()).is_err());
    drop(writer);
    assert_eq!(world.texts(), Vec::<String>::new());
    assert_eq!(world.staged_files("p"), 0);
}

#[test]
fn what_a_topic_cannot_be_is_refused() {
    let world = World::new(&[("partitions", "2")]);
    world.publish("p", 1, &[vec![rows("a", 0..1)]]);
    let mut other = World::at(world.root.clone(), &[("partitions", "3")]);
    let error = other.source().list_splits().expect_err("two, not three");
    assert_eq!((error.kind(), error.code()), (Kind::Config, "C093"));
    other.options = vec![("topic", "t")];
    assert_eq!(other.source().list_splits().expect("whatever there is").len(), 2);

    let modes = [
        WriteMode::Upsert { key: vec!["id".to_owned()], sequence: None },
        WriteMode::Replace { column: "id".to_owned(), part: TablePart::default() },
    ];
    for mode in modes {
        let mut target = other.target("p");
        target.mode = mode;
        let error = LogConnector.sink(&other.spec(), &target, &other.env()).expect_err("refused");
        assert_eq!(error.code(), "C095");
    }
    other.options.push(("key", "idd"));
    let error = LogConnector.sink(&other.spec(), &other.target("p"), &other.env()).expect_err("no such column");
    assert_eq!((error.code(), error.caret_label()), ("C096", "did you mean `id`?"));

    let retraction = Batch { weights: Some(Int64Array::from(vec![-1])), ..rows("a", 0..1) };
    other.options = vec![("topic", "t")];
    assert!(other.sink("p").writer(0).expect("a writer").write(&retraction).is_err());
}
