//! What is told of a table without reading it: its files with their times, and which of them runs write anew.

use tidemill_runtime::{Rewrites, Split};

use super::*;
use crate::table_files;

impl World {
    fn files(&self) -> Vec<Split> {
        table_files(&self.spec(), &self.env()).expect("lists")
    }

    fn rewrites(&self, intervals: &[Interval]) -> Rewrites {
        self.sink().rewrites(intervals).expect("looks").expect("is known")
    }

    /// How many files the newest version took out, and their bytes.
    fn taken_out(&self) -> (u64, u64) {
        let log = self.folder.path().join(format!("out/orders/_delta_log/{:020}.json", self.version()));
        let text = std::fs::read_to_string(log).expect("a version");
        let removed = text.lines().filter_map(|line| {
            let action: serde_json::Value = serde_json::from_str(line).expect("JSON");
            action["remove"]["size"].as_u64()
        });
        removed.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size))
    }
}

/// Files of ten seconds each, one over all of them, and one of a row without a time.
fn appended() -> World {
    let world = world(WriteMode::Append);
    world.write(1, &[("a", "eu", Some(0), 1), ("b", "eu", Some(9), 2)]);
    world.write(2, &[("c", "eu", Some(10), 3), ("d", "eu", Some(19), 4)]);
    world.write(3, &[("e", "eu", Some(20), 5), ("f", "eu", Some(29), 6)]);
    world.write(4, &[("g", "eu", Some(5), 7), ("h", "us", Some(25), 8)]);
    world.write(5, &[("i", "us", None, 9)]);
    world
}

fn tens() -> [Interval; 3] {
    [seconds(0, 10), seconds(10, 20), seconds(20, 30)]
}

#[test]
fn files_are_told_with_their_sizes_and_the_times_of_all_their_rows() {
    let mut world = appended();
    let times = |file: &Split| file.min_event_time.zip(file.max_event_time);
    let told = |world: &World| {
        let files = world.files();
        let stored = |file: &Split| std::fs::metadata(world.folder.path().join("out/orders").join(file.id.as_str()));
        assert!(files.iter().all(|file| file.bytes == Some(stored(file).expect("is there").len())), "{files:?}");
        let mut told: Vec<_> = files
            .iter()
            .map(|file| times(file).map(|(first, last)| ((first - DAY) / 1_000_000, (last - DAY) / 1_000_000)))
            .collect();
        told.sort();
        told
    };
    let all = [None, Some((0, 9)), Some((5, 25)), Some((10, 19)), Some((20, 29))];
    assert_eq!(told(&world), all, "who asks for a time reads the rows without one, too");
    let micros =
        world.files().iter().filter_map(|file| file.max_event_time).map(|last| last % 1_000).collect::<Vec<_>>();
    assert_eq!(micros, [999; 4], "the statistics may have been cut to milliseconds");
    // As many are read by whoever asks for ten seconds, and for rows without a time, as a run does.
    let plan = world.query(
        "EXPLAIN ANALYZE SELECT id FROM orders WHERE
            (at >= TIMESTAMP '2026-01-01T00:00:10Z' AND at < TIMESTAMP '2026-01-01T00:00:20Z') OR at IS NULL",
    );
    assert!(plan.concat().contains("count_files_scanned=3"), "{plan:?}");
    // Also of a table that was rewritten, which cannot be read as a stream any more.
    world.mode = WriteMode::Replace { column: "at".to_owned(), part: tidemill_runtime::TablePart::default() };
    world.interval = Some(seconds(10, 20));
    world.write(6, &[("x", "eu", Some(15), 1)]);
    assert_eq!(told(&world), [None, Some((0, 9)), Some((5, 25)), Some((15, 15)), Some((20, 29))]);
    world.options[0].1 = "nowhere".to_owned();
    assert_eq!(table_files(&world.spec(), &world.env()).expect_err("is absent").code(), "C214");
}

#[test]
fn a_replaced_interval_writes_no_file_anew_whose_times_lie_elsewhere() {
    let mut world = appended();
    world.mode = WriteMode::Replace { column: "at".to_owned(), part: tidemill_runtime::TablePart::default() };
    world.interval = Some(seconds(0, 10));
    let bytes: Vec<u64> = world.files().iter().filter_map(|file| file.bytes).collect();
    assert_eq!(bytes.len(), 5);
    let of = |world: &World, intervals: &[Interval]| {
        let found = world.rewrites(intervals);
        assert!(found.at_most);
        (found.files, found.times)
    };
    assert_eq!([0, 1, 2].map(|n| of(&world, &tens()[n..=n])), [(3, 3), (3, 3), (3, 3)]);
    assert_eq!(of(&world, &tens()), (5, 9), "the file over all of them is copied by each");
    assert_eq!(of(&world, &[seconds(30, 40), seconds(-10, 0)]), (1, 2), "of one file the times are not known");
    // What a commit takes out is among what was foretold of it.
    for (epoch, interval) in (6..).zip([seconds(0, 10), seconds(12, 14), seconds(20, 21), seconds(40, 50)]) {
        world.interval = Some(interval);
        let (foretold, version) = (world.rewrites(&[interval]), world.version());
        world.commit(epoch, &[]).expect("commits");
        assert!(world.version() > version);
        let (files, bytes) = world.taken_out();
        assert!(files <= foretold.files && bytes <= foretold.bytes, "{interval}: {files} {bytes} {foretold:?}");
        assert!(files > 0 || interval != seconds(0, 10), "{foretold:?}");
    }
    let many: Vec<Interval> = (0..100_000).map(|n| seconds(n, n + 1)).collect();
    assert!(of(&world, &many).1 >= 10);
}

#[test]
fn a_merge_may_write_any_file_anew_and_an_append_none() {
    let mut world = appended();
    let all: u64 = world.files().iter().filter_map(|file| file.bytes).sum();
    assert_eq!(world.rewrites(&tens()), Rewrites::default());
    world.mode = upsert();
    world.interval = Some(seconds(0, 10));
    let merged = |runs: u64| Rewrites { files: 5, times: 5 * runs, bytes: all * runs, at_most: true };
    assert_eq!(world.rewrites(&tens()[..1]), merged(1));
    assert_eq!(world.rewrites(&tens()), merged(3));
    world.mode = WriteMode::Append;
    world.options.push(("compact_every", "10".to_owned()));
    assert_eq!(world.rewrites(&tens()), merged(3), "whoever joins small files may take any");
}

#[test]
fn a_table_that_is_not_there_has_nothing_to_write_anew_and_stays_away() {
    for mode in [
        WriteMode::Append,
        upsert(),
        WriteMode::Replace { column: "at".to_owned(), part: tidemill_runtime::TablePart::default() },
    ] {
        let mut world = world(mode);
        world.interval = Some(seconds(0, 10));
        assert_eq!(world.rewrites(&tens()), Rewrites::default());
        assert!(!world.folder.path().join("out").exists());
    }
}
