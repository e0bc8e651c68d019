//! Writing: the laws of sinks, with crashes at each step.

use tidemill_model::{Epoch, Interval, Kind, Timestamp};
use tidemill_runtime::{Batch, Committable, Rewrites, Sink, SinkTarget, TablePart, WriteMode};

use super::{Rig, ids, orders, read_all};

/// Writes orders `first..first + count` on a lane and prepares them.
fn stage(sink: &dyn Sink, lane: usize, epoch: u64, first: i64, count: i64) -> Option<Committable> {
    let mut writer = sink.writer(lane).expect("a writer");
    if count > 0 {
        writer.write(&Batch::inserts(orders(first, count))).expect("written");
    }
    let prepared = writer.prepare(Epoch(epoch)).expect("prepared");
    // Through the manifest and back, as another process gets it.
    prepared.map(|c| serde_json::from_str(&serde_json::to_string(&c).expect("JSON")).expect("JSON"))
}

fn commit(sink: &dyn Sink, epoch: u64, committables: &[Committable]) {
    sink.committer().expect("a committer").commit(Epoch(epoch), committables).expect("committed");
}

fn hour(n: i64) -> Interval {
    Interval { start: Timestamp(n * 3_600_000_000), end: Timestamp((n + 1) * 3_600_000_000) }
}

fn replacing(rig: &Rig, interval: Interval) -> SinkTarget {
    SinkTarget {
        interval: Some(interval),
        ..rig.target(WriteMode::Replace { column: "at".to_owned(), part: TablePart::default() })
    }
}

const FORMATS: [&str; 3] = ["json", "csv", "parquet"];

#[test]
fn rows_are_visible_with_their_commit_and_only_once() {
    for format in FORMATS {
        let rig = Rig::new();
        let options = [("path", "out"), ("format", format)];
        let sink = rig.sink(&options, &rig.target(WriteMode::Append)).expect("a sink");
        let mut first: Vec<Committable> =
            [stage(&*sink, 0, 1, 0, 10), stage(&*sink, 1, 1, 10, 10)].into_iter().flatten().collect();
        assert_eq!(stage(&*sink, 2, 1, 0, 0), None, "nothing written, nothing to commit");
        assert_eq!(rig.visible("out"), [""; 0], "nothing is visible before the commit");
        commit(&*sink, 1, &first);
        commit(&*sink, 1, &first);
        assert_eq!(ids(&read_all(&rig, &options)), (0..20).collect::<Vec<_>>(), "{format}");
        // Another process knows only the options and the manifest.
        let again = rig.sink(&options, &rig.target(WriteMode::Append)).expect("a sink");
        commit(&*again, 1, &first);
        again.committer().expect("a committer").abort_after(Epoch(1)).expect("aborted");
        first = stage(&*again, 0, 2, 20, 5).into_iter().collect();
        commit(&*again, 2, &first);
        assert_eq!(ids(&read_all(&rig, &options)), (0..25).collect::<Vec<_>>(), "{format}");
        let extension = if format == "json" { "jsonl" } else { format };
        let names = [(1, 0), (1, 1), (2, 0)]
            .map(|(epoch, lane)| format!("part-clean-orders~2dout-{epoch:010}-{lane}.{extension}"));
        assert_eq!(rig.visible("out"), names);
        assert_eq!(rig.files("out").len(), 3, "staged files are gone");
    }
}

#[test]
fn a_commit_broken_off_between_files_is_finished() {
    let rig = Rig::new();
    let sink = rig.sink(&[], &rig.target(WriteMode::Append)).expect("a sink");
    let staged: Vec<Committable> = (0..3).filter_map(|lane| stage(&*sink, lane, 1, lane as i64 * 10, 10)).collect();
    commit(&*sink, 1, &staged[..2]);
    let again = rig.sink(&[], &rig.target(WriteMode::Append)).expect("a sink");
    again.committer().expect("a committer").abort_after(Epoch(1)).expect("what was staged for epoch 1 stays");
    commit(&*again, 1, &staged);
    assert_eq!(ids(&read_all(&rig, &[("path", "out")])), (0..30).collect::<Vec<_>>());
}

#[test]
fn what_was_staged_and_not_committed_is_removed_and_written_again() {
    let rig = Rig::new();
    let sink = rig.sink(&[], &rig.target(WriteMode::Append)).expect("a sink");
    commit(&*sink, 1, &stage(&*sink, 0, 1, 0, 10).into_iter().collect::<Vec<_>>());
    // Killed after prepare of epoch 2 on one lane and in the midst of writing on another.
    let orphan = stage(&*sink, 0, 2, 10, 10);
    let mut writer = sink.writer(1).expect("a writer");
    writer.write(&Batch::inserts(orders(20, 10))).expect("written");
    std::mem::forget(writer);
    assert_eq!(rig.files("out/_staging").len(), 2);
    let again = rig.sink(&[], &rig.target(WriteMode::Append)).expect("a sink");
    again.committer().expect("a committer").abort_after(Epoch(1)).expect("aborted");
    assert_eq!(rig.files("out/_staging"), [""; 0]);
    commit(&*again, 2, &stage(&*again, 0, 2, 10, 7).into_iter().collect::<Vec<_>>());
    assert_eq!(ids(&read_all(&rig, &[("path", "out")])), (0..17).collect::<Vec<_>>());
    // The orphan's manifest never existed; if it did, its files would be missed.
    let lost = again.committer().expect("a committer").commit(Epoch(3), &[renumbered(orphan)]).expect_err("lost");
    assert_eq!((lost.kind(), lost.code()), (Kind::Corrupt, "X330"));
}

/// The same committable as if it were of epoch 3.
fn renumbered(committable: Option<Committable>) -> Committable {
    let text = serde_json::to_string(&committable.expect("staged")).expect("JSON").replace("0000000002", "0000000003");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn a_lost_state_folder_is_noticed_before_rows_are_doubled() {
    let rig = Rig::new();
    let sink = rig.sink(&[], &rig.target(WriteMode::Append)).expect("a sink");
    let first: Vec<Committable> = stage(&*sink, 0, 1, 0, 10).into_iter().collect();
    commit(&*sink, 1, &first);
    let fresh = sink.committer().expect("a committer").abort_after(Epoch::NONE).expect_err("epoch 1 is there");
    assert_eq!((fresh.kind(), fresh.code()), (Kind::Fenced, "F310"));
    let second: Vec<Committable> = stage(&*sink, 0, 1, 0, 11).into_iter().collect();
    let error = sink.committer().expect("a committer").commit(Epoch(1), &second).expect_err("another epoch 1");
    assert_eq!(error.code(), "F310");
    assert_eq!(ids(&read_all(&rig, &[("path", "out")])).len(), 10);
}

#[test]
fn partitions_are_folders_that_are_read_back() {
    for format in FORMATS {
        let rig = Rig::new();
        let options = [("path", "out"), ("format", format), ("partition_by", "region")];
        let sink = rig.sink(&options, &rig.target(WriteMode::Append)).expect("a sink");
        let mut writer = sink.writer(0).expect("a writer");
        for first in [0, 30] {
            writer.write(&Batch::inserts(orders(first, 30))).expect("written");
        }
        let staged: Vec<Committable> = writer.prepare(Epoch(1)).expect("prepared").into_iter().collect();
        commit(&*sink, 1, &staged);
        let folders: Vec<String> =
            rig.visible("out").iter().filter_map(|name| Some(name.split_once('/')?.0.to_owned())).collect();
        let expected = ["region=__HIVE_DEFAULT_PARTITION__", "region=ap%2Fx", "region=eu", "region=us"];
        assert_eq!(folders, expected, "{format}");
        let rows = read_all(&rig, &options);
        assert_eq!(ids(&rows), (0..60).collect::<Vec<_>>(), "{format}");
        let all = arrow::compute::concat_batches(&orders(0, 0).schema(), &rows).expect("rows");
        let by_id = arrow::compute::sort_to_indices(all.column(0), None, None).expect("sorts");
        assert_eq!(arrow::compute::take_record_batch(&all, &by_id).expect("rows"), orders(0, 60), "{format}");
    }
}

#[test]
fn a_value_that_no_folder_can_be_named_by_is_refused_before_anything_is_prepared() {
    let rig = Rig::new();
    let options = [("path", "out"), ("format", "json"), ("partition_by", "region")];
    let sink = rig.sink(&options, &rig.target(WriteMode::Append)).expect("a sink");
    let rows = orders(0, 1);
    let place = rows.schema().index_of("region").expect("regions");
    let mut columns = rows.columns().to_vec();
    columns[place] = std::sync::Arc::new(arrow::array::StringArray::from(vec!["x".repeat(300)]));
    let long = arrow::array::RecordBatch::try_new(rows.schema(), columns).expect("a batch");
    let mut writer = sink.writer(0).expect("a writer");
    let error = writer.write(&Batch::inserts(long)).expect_err("refused");
    assert_eq!((error.kind(), error.code()), (Kind::Data, "D311"));
    assert_eq!(writer.prepare(Epoch(1)).expect("prepared").map(|c| c.0["files"].clone()), None);
}

#[test]
fn many_partitions_are_written_with_few_open_files() {
    let rig = Rig::new();
    let options = [("path", "out"), ("format", "parquet"), ("partition_by", "id")];
    let sink = rig.sink(&options, &rig.target(WriteMode::Append)).expect("a sink");
    let mut writer = sink.writer(0).expect("a writer");
    for first in [0, 100] {
        writer.write(&Batch::inserts(orders(first, 200))).expect("written");
    }
    let staged: Vec<Committable> = writer.prepare(Epoch(1)).expect("prepared").into_iter().collect();
    commit(&*sink, 1, &staged);
    let mut expected: Vec<i64> = (0..200).chain(100..300).collect();
    expected.sort_unstable();
    assert_eq!(ids(&read_all(&rig, &options)), expected);
}

#[test]
fn an_interval_is_one_file_that_a_rerun_replaces() {
    for format in FORMATS {
        let rig = Rig::new();
        let options = [("path", "out"), ("format", format)];
        let sink = rig.sink(&options, &replacing(&rig, hour(0))).expect("a sink");
        let first: Vec<Committable> = (0..3).filter_map(|lane| stage(&*sink, lane, 1, lane as i64 * 10, 10)).collect();
        assert_eq!(rig.visible("out"), [""; 0]);
        commit(&*sink, 1, &first);
        commit(&*sink, 1, &first);
        assert_eq!(rig.visible("out").len(), 1);
        assert!(
            rig.visible("out")[0].starts_with("interval-1970-01-01T000000Z_1970-01-01T010000Z."),
            "{:?}",
            rig.visible("out")
        );
        assert_eq!(ids(&read_all(&rig, &options)), (0..30).collect::<Vec<_>>(), "{format}");
        // A neighbour, whose recovery commits the epoch of this one again: nothing of either is touched.
        let next = rig.sink(&options, &replacing(&rig, hour(1))).expect("a sink");
        commit(&*next, 1, &first);
        commit(&*next, 2, &[stage(&*next, 0, 2, 100, 5).expect("staged")]);
        // A rerun with fewer rows.
        let rerun: Vec<Committable> =
            [stage(&*sink, 0, 3, 0, 4), stage(&*sink, 1, 3, 0, 0)].into_iter().flatten().collect();
        assert_eq!(ids(&read_all(&rig, &options)).len(), 35, "the old rows stay until the new ones are there");
        commit(&*sink, 3, &rerun);
        assert_eq!(ids(&read_all(&rig, &options)), [0, 1, 2, 3, 100, 101, 102, 103, 104], "{format}");
        // A rerun without any row.
        let none: Vec<Committable> = stage(&*sink, 0, 4, 0, 0).into_iter().collect();
        commit(&*sink, 4, &none);
        assert_eq!(ids(&read_all(&rig, &options)), [100, 101, 102, 103, 104], "{format}");
        assert_eq!(rig.files("out").len(), 1, "nothing is left behind");
    }
}

#[test]
fn a_replacement_broken_off_after_publishing_is_finished() {
    let rig = Rig::new();
    let sink = rig.sink(&[], &replacing(&rig, hour(0))).expect("a sink");
    let staged: Vec<Committable> = (0..2).filter_map(|lane| stage(&*sink, lane, 1, lane as i64 * 10, 10)).collect();
    let second = rig.files("out/_staging").pop().expect("staged");
    let kept = std::fs::read(rig.path("out/_staging").join(&second)).expect("read");
    commit(&*sink, 1, &staged);
    // Killed after the first of two staged files was removed.
    rig.write(&format!("out/_staging/{second}"), kept);
    commit(&*sink, 1, &staged);
    assert_eq!(ids(&read_all(&rig, &[("path", "out")])), (0..20).collect::<Vec<_>>());
    assert_eq!(rig.files("out").len(), 1);
}

#[test]
fn an_appending_run_of_an_interval_replaces_only_its_own_rows() {
    let rig = Rig::new();
    rig.write("out/old.jsonl", "{\"id\":-1}\n");
    let target = SinkTarget { interval: Some(hour(0)), ..rig.target(WriteMode::Append) };
    let sink = rig.sink(&[], &target).expect("a sink");
    for count in [10, 7] {
        commit(&*sink, 1, &stage(&*sink, 0, 1, 0, count).into_iter().collect::<Vec<_>>());
    }
    assert_eq!(ids(&read_all(&rig, &[("path", "out")])), (-1..7).collect::<Vec<_>>());
}

#[test]
fn rows_that_cannot_be_replaced_are_not_doubled() {
    let rig = Rig::new();
    let sink = rig.sink(&[], &replacing(&rig, hour(1))).expect("a sink");
    commit(&*sink, 1, &stage(&*sink, 0, 1, 0, 5).into_iter().collect::<Vec<_>>());
    let day = Interval { start: hour(0).start, end: hour(23).end };
    let error = rig.sink(&[], &replacing(&rig, day)).expect("a sink").committer().err().expect("overlaps");
    assert_eq!((error.kind(), error.code()), (Kind::Config, "C336"));
    rig.sink(&[], &replacing(&rig, hour(2))).expect("a sink").committer().expect("a neighbour is no obstacle");
    rig.write("out/other.jsonl", "{\"id\":1}\n");
    assert!(rig.sink(&[], &replacing(&rig, hour(1))).expect("a sink").committer().is_err(), "rows of unknown time");
}

#[test]
fn a_table_that_is_overwritten_is_one_file() {
    for format in FORMATS {
        let rig = Rig::new();
        let options = [("path", "out"), ("format", format)];
        let whole = |n| SinkTarget {
            interval: Some(hour(n)),
            ..rig.target(WriteMode::Overwrite { part: TablePart::default() })
        };
        for (n, epoch, first, count) in [(1, 1, 0, 5), (2, 2, 3, 9), (1, 3, 100, 2), (3, 4, 0, 0)] {
            let sink = rig.sink(&options, &whole(n)).expect("a sink");
            let prepared: Vec<Committable> = stage(&*sink, 0, epoch, first, count).into_iter().collect();
            let seen = rig.visible("out");
            commit(&*sink, epoch, &prepared);
            commit(&*sink, epoch, &prepared);
            if count == 0 {
                assert_eq!(rig.visible("out"), [""; 0], "no rows, no file");
                continue;
            }
            assert_eq!(ids(&read_all(&rig, &options)), (first..first + count).collect::<Vec<_>>(), "{format}");
            assert!(rig.visible("out").len() == 1 && seen.len() <= 1, "{:?}", rig.visible("out"));
        }
        rig.write("out/other.jsonl", "{}\n");
        let error = rig.sink(&options, &whole(1)).expect("a sink").committer().err().expect("other rows");
        assert_eq!((error.kind(), error.code()), (Kind::Config, "C338"));
    }
}

#[test]
fn runs_write_the_files_of_their_own_intervals_anew_and_no_other() {
    for format in FORMATS {
        let rig = Rig::new();
        let options = [("path", "out"), ("format", format)];
        let replaced = |n: i64| rig.sink(&options, &replacing(&rig, hour(n))).expect("a sink");
        let appended = |n: i64| {
            let target = SinkTarget { interval: Some(hour(n)), ..rig.target(WriteMode::Append) };
            rig.sink(&[("path", "added"), ("format", format)], &target).expect("a sink")
        };
        let none = Some(Rewrites::default());
        assert_eq!(replaced(0).rewrites(&[hour(0)]).expect("looks"), none, "there is no folder yet");
        assert!(!rig.path("out").exists() && !rig.path("added").exists(), "and none is made");
        for n in 0..4 {
            for sink in [replaced(n), appended(n)] {
                commit(&*sink, 1, &stage(&*sink, 0, 1, 0, 10 * (n + 1)).into_iter().collect::<Vec<_>>());
            }
        }
        // The rows of another pipeline, and those of a stream.
        rig.write("added/part-other-t-interval-1970-01-01T000000Z_1970-01-01T010000Z.jsonl", "{\"id\":-1}\n");
        rig.write("added/part-clean-orders~2dout-0000000001-0.jsonl", "{\"id\":-2}\n");
        for (sink, folder) in [(replaced(9), "out"), (appended(9), "added")] {
            let size = |n: i64| {
                let name = super::super::sink::interval_name(hour(n));
                let file = rig.visible(folder).into_iter().find(|file| file.contains(&name) && !file.contains("other"));
                std::fs::metadata(rig.path(folder).join(file.expect("a file"))).expect("is there").len()
            };
            let rewrites = |intervals: &[Interval]| sink.rewrites(intervals).expect("looks").expect("is known");
            let two = Rewrites { files: 2, times: 2, bytes: size(1) + size(3), at_most: false };
            assert_eq!(rewrites(&[hour(3), hour(1), hour(7)]), two, "{format} {folder}");
            assert_eq!(Some(rewrites(&[hour(4)])), none);
            let day = Interval { start: hour(0).start, end: hour(23).end };
            assert_eq!(Some(rewrites(&[day])), none, "a file is replaced by its own interval only");
            let every: Vec<Interval> = (-50_000..50_000).map(hour).collect();
            assert_eq!(rewrites(&every).files, 4, "{format} {folder}");
        }
        assert_eq!(rig.visible("out").len(), 4, "nothing has changed");
    }
}

#[test]
fn what_files_cannot_do_is_refused_with_what_can() {
    let rig = Rig::new();
    rig.write("taken", "");
    let upsert = rig.target(WriteMode::Upsert { key: vec!["id".to_owned()], sequence: None });
    let append = rig.target(WriteMode::Append);
    let no_interval = rig.target(WriteMode::Replace { column: "at".to_owned(), part: TablePart::default() });
    let part = TablePart::default().only("region", [Some("eu".to_owned())]);
    let part = SinkTarget { interval: Some(hour(0)), ..rig.target(WriteMode::Overwrite { part }) };
    for (options, target, code) in [
        (vec![("path", "out")], &part, "C337"),
        (vec![("path", "out")], &upsert, "C330"),
        (vec![("path", "out")], &no_interval, "C331"),
        (vec![("partition_by", "region")], &replacing(&rig, hour(0)), "C332"),
        (vec![("partition_by", "id,region,at,amount"), ("format", "parquet")], &append, "C333"),
        (vec![("path", "out/*.jsonl")], &append, "C334"),
        (vec![("path", "out.parquet")], &append, "C334"),
        (vec![("path", "taken")], &append, "C334"),
        (vec![("partition_by", "regin")], &append, "C335"),
    ] {
        let error = rig.sink(&options, target).expect_err("refused");
        assert_eq!((error.kind(), error.code()), (Kind::Config, code), "{error}");
        assert!(!error.facts().is_empty() || !error.caret_label().is_empty(), "{error}");
    }
    let sink = rig.sink(&[], &append).expect("a sink");
    let retraction = Batch { rows: orders(0, 1), weights: Some(vec![-1].into()) };
    assert_eq!(sink.writer(0).expect("a writer").write(&retraction).expect_err("refused").kind(), Kind::Internal);
}

#[test]
fn a_full_disk_fails_the_epoch_and_says_so() {
    for format in FORMATS {
        let rig = Rig::new();
        let staging = rig.path("out/_staging/clean-orders~2dout");
        std::fs::create_dir_all(&staging).expect("folders");
        // Every write to this device fails as on a full disk.
        std::os::unix::fs::symlink("/dev/full", staging.join("open-0-0")).expect("a link");
        let sink = rig.sink(&[("format", format)], &rig.target(WriteMode::Append)).expect("a sink");
        let mut writer = sink.writer(0).expect("a writer");
        let written = writer.write(&Batch::inserts(orders(0, 100))).and_then(|()| writer.prepare(Epoch(1)));
        let error = written.expect_err("full");
        assert_eq!((error.kind(), error.code()), (Kind::Unavailable, "U010"), "{format}: {error}");
        assert_eq!(rig.visible("out"), [""; 0]);
    }
}
